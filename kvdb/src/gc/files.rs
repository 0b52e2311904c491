//! What the files of the log hold: [`LogFileStats`].

use std::collections::BTreeMap;

use kvdb_manifest::store::StoreState;
use serde::{Deserialize, Serialize};

use super::units::{Unit, all};

/// One file of the value log, relocation tables counted to the record files they lead to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct LogFileStats {
    /// Its number.
    pub file: u64,
    /// The segments that have records in it, or in files it is collected together with.
    pub segments: Vec<u32>,
    /// Whether garbage collection made it.
    pub relocated: bool,
    /// Its bytes on disk.
    pub bytes: u64,
    /// Bytes of records that tables refer to. Exact for a file by itself; where several files hold
    /// the same segments' records, exact for these together and divided by the files' sizes.
    pub live_bytes: u64,
    /// The rest. Of a segment that is being written, or that is not flushed to tables yet, this
    /// says nothing: what memtables refer to is not counted as live.
    pub garbage_bytes: u64,
    /// Bytes that collecting it now would set free: 0 for a file that cannot be collected, or not yet.
    pub reclaimable_bytes: u64,
    /// The damage that keeps it from being collected until the database is opened anew: in this file,
    /// or in what it is collected together with.
    #[serde(default)]
    pub damaged: Option<String>,
}

/// A line for each file.
pub(crate) fn file_stats(state: &StoreState, damage: &BTreeMap<u32, String>) -> Vec<LogFileStats> {
    let mut files = Vec::new();
    for (unit, collectable) in all(state, &state.live_bytes()) {
        let sizes = sizes(state, &unit);
        let total: u64 = sizes.iter().sum();
        // Divided so that the parts add up.
        let part = |of: u64, before: u64, size: u64| {
            let up_to =
                |at: u64| (u128::from(of) * u128::from(at) / u128::from(total.max(1))) as u64;
            up_to(before + size) - up_to(before)
        };
        let damaged = unit.segments.iter().find_map(|segment| damage.get(segment)).cloned();
        let can = collectable && damaged.is_none() && unit.garbage;
        let reclaimable = if can { unit.gain() } else { 0 };
        let mut before = 0;
        for (&file, &size) in unit.files.iter().zip(&sizes) {
            let live = part(unit.live.bytes, before, size);
            files.push(LogFileStats {
                file,
                segments: unit.segments.clone(),
                relocated: unit.relocated,
                bytes: size,
                live_bytes: live,
                garbage_bytes: size.saturating_sub(live),
                reclaimable_bytes: part(reclaimable, before, size),
                damaged: damaged.clone(),
            });
            before += size;
        }
    }
    files
}

/// The size of each file of a unit, the tables' bytes added to those of the first.
fn sizes(state: &StoreState, unit: &Unit) -> Vec<u64> {
    if !unit.relocated {
        return vec![unit.size];
    }
    let length = |file: &u64| state.log_files().get(file).map_or(0, |f| f.length);
    let mut sizes: Vec<u64> = unit.files.iter().map(length).collect();
    if let Some(first) = sizes.first_mut() {
        *first += unit.tables.iter().map(length).sum::<u64>();
    }
    sizes
}

#[cfg(test)]
mod tests {
    use super::super::stores::Store;
    use super::*;

    const MIB: u64 = 1 << 20;

    #[test]
    fn bytes_of_files_that_hold_records_together_are_divided_so_that_they_add_up() {
        let state = Store::default()
            .file(10, 3 * MIB)
            .file(11, 4 * MIB)
            .file(20, 1000)
            .file(21, 24)
            .moved(1, 1 << 20, 20, &[10, 11])
            .moved(2, 1 << 20, 21, &[11])
            .table(1, 0, &[(1, 3, MIB), (2, 4, 2 * MIB + 1)])
            .segment(9, 1 << 20, None)
            .head(9, 0)
            .state();
        let files: Vec<_> =
            file_stats(&state, &BTreeMap::new()).into_iter().filter(|f| f.relocated).collect();
        let first = &files[0];
        assert_eq!((first.file, first.bytes), (10, 3 * MIB + 1024), "with the tables");
        assert_eq!((files[1].file, files[1].bytes), (11, 4 * MIB));
        assert!(files.iter().all(|f| f.relocated && f.segments == [1, 2]), "{files:?}");
        let sum = |of: fn(&LogFileStats) -> u64| files.iter().map(of).sum::<u64>();
        assert_eq!(sum(|f| f.live_bytes), 3 * MIB + 1);
        assert_eq!(sum(|f| f.garbage_bytes), 4 * MIB + 1024 - 1);
        let share = (3 * MIB + 1) * (3 * MIB + 1024) / (7 * MIB + 1024);
        assert_eq!(first.live_bytes, share);
        let gain = super::super::overview::Overview::new(&state).units[0].gain();
        assert!(gain > 3 * MIB && sum(|f| f.reclaimable_bytes) == gain, "{gain} {files:?}");
    }

    #[test]
    fn nothing_is_reclaimable_of_what_cannot_be_collected_yet() {
        let state = Store::default()
            .segment(1, 1 << 20, Some(1 << 20))
            .segment(2, 1 << 20, Some(1 << 20))
            .table(1, 0, &[(1, 1, 1000), (2, 1, 1000)])
            .head(2, 0)
            .state();
        let files = file_stats(&state, &BTreeMap::new());
        let of = |f: &LogFileStats| (f.file, f.live_bytes, f.garbage_bytes);
        assert_eq!(
            files.iter().map(of).collect::<Vec<_>>(),
            [(101, 1000, MIB - 1000), (102, 1000, MIB - 1000)]
        );
        assert!(files[0].reclaimable_bytes > MIB / 2 && files[1].reclaimable_bytes == 0);
    }
}
