//! `info`: what the database consists of.

use comfy_table::presets::NOTHING;
use comfy_table::{CellAlignment, Table};
use kvdb::{Durability, Stats};
use serde::Serialize;

use crate::args::InfoArgs;
use crate::failure::{Failure, Outcome};
use crate::output::Output;
use crate::store::{self, Access};

/// What `--json` prints: the statistics of the store as the library gives them.
#[derive(Serialize)]
struct Report<'a> {
    path: String,
    stats: &'a Stats,
}

pub(crate) fn run(args: &InfoArgs) -> Result<Outcome, Failure> {
    let db = store::open(&args.store, Access::Read, Durability::Sync)?;
    let stats = db.stats();
    let path = args.store.db.display().to_string();
    let mut text = if args.json {
        serde_json::to_string_pretty(&Report { path, stats: &stats }).map_err(|error| {
            Failure::usage(format!("the statistics cannot be written as JSON: {error}"))
        })?
    } else {
        describe(&path, &stats)
    };
    text.push('\n');
    let mut output = Output::new();
    output.raw(text.as_bytes())?;
    output.finish()?;
    Ok(Outcome::Done)
}

fn describe(path: &str, stats: &Stats) -> String {
    let mut overview = table(&[]);
    overview.add_row(["database", path]);
    overview.add_row(["version", &stats.version.to_string()]);
    overview.add_row(["shape", &stats.shape]);
    overview.add_row(["memtables", &size(stats.memtable_bytes)]);
    overview.add_row(["tree", &size(stats.tree_bytes)]);
    overview.add_row(["log", &size(stats.log_bytes)]);

    let mut levels = table(&["level", "tables", "entries", "tombstones", "size"]);
    for level in &stats.levels {
        levels.add_row([
            level.level.to_string(),
            level.tables.to_string(),
            level.entries.to_string(),
            level.tombstones.to_string(),
            size(level.bytes),
        ]);
    }
    align(&mut levels, &[0, 1, 2, 3, 4]);

    let mut segments = table(&["segment", "size", "live values", "live", "garbage"]);
    for segment in &stats.segments {
        segments.add_row([
            segment.segment.to_string(),
            segment.sealed_bytes.map_or_else(|| "active".to_owned(), size),
            segment.live_values.to_string(),
            size(segment.live_bytes),
            // Not known before all that the segment holds has been flushed.
            segment.garbage_bytes.map_or_else(|| "-".to_owned(), size),
        ]);
    }
    align(&mut segments, &[0, 1, 2, 3, 4]);
    [overview, levels, segments].map(|table| trimmed(&table)).join("\n\n")
}

pub(crate) fn table(header: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_preset(NOTHING);
    if !header.is_empty() {
        table.set_header(header);
    }
    table
}

fn align(table: &mut Table, columns: &[usize]) {
    for &column in columns {
        if let Some(column) = table.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
}

/// The table as text, without the padding at its sides.
pub(crate) fn trimmed(table: &Table) -> String {
    table
        .to_string()
        .lines()
        .map(|line| line.strip_prefix(' ').unwrap_or(line).trim_end())
        .collect::<Vec<_>>()
        .join("\n")
}

/// A size for people: three digits and a binary unit.
pub(crate) fn size(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let mut value = bytes as f64 / 1024.0;
    let mut unit = 0;
    while value >= 1023.95 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    format!("{value:.1} {}", UNITS[unit])
}

#[cfg(test)]
mod tests {
    use super::size;

    #[test]
    fn sizes_change_their_unit_before_they_show_four_digits() {
        assert_eq!(size(0), "0 B");
        assert_eq!(size(1023), "1023 B");
        assert_eq!(size(1024), "1.0 KiB");
        assert_eq!(size((1 << 20) - 1), "1.0 MiB");
        assert_eq!(size(3 << 29), "1.5 GiB");
        assert_eq!(size(u64::MAX), "16.0 EiB");
    }
}
