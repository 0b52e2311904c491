//! `sst`: what a table file holds, without its database.
//!
//! The file is read by position, not mapped: one that is cut short meanwhile is an error and not a
//! signal. Nothing but the file is looked at, so values that are in the log are shown as pointers.

use std::sync::Arc;

use kvdb_lsm::{Entry, Kind};
use kvdb_sstable::{
    BlockInfo, Cursor, Error, ErrorKind, FORMAT_VERSION, ReaderOptions, Result, Table,
};
use kvdb_vfs::{File, Fs, OpenMode, OsFs};
use kvdb_vlog::Pointer;

use crate::args::SstArgs;
use crate::failure::{Failure, Outcome};
use crate::info;
use crate::output::Output;
use crate::summary::count;

/// Read at once when all entries are walked.
const READ_AHEAD: usize = 256 << 10;

type FileTable = Table<Arc<dyn File>>;

pub(crate) fn run(args: &SstArgs) -> std::result::Result<Outcome, Failure> {
    let table = open(args).map_err(|error| failure(&error))?;
    let mut printer = Printer { output: Output::new(), raw: args.raw };
    printer.properties(&table)?;
    let damaged = if args.blocks { printer.blocks(&table)? } else { 0 };
    if args.entries {
        printer.entries(&table)?;
    }
    printer.output.finish()?;
    match damaged {
        0 => Ok(Outcome::Done),
        n => {
            Err(Failure::usage(format!("{}: damage in {}", args.file.display(), count(n, "block")))
                .with_advice(COPY_FIRST))
        }
    }
}

const COPY_FIRST: &str = "copy the file before you try anything with it";

fn open(args: &SstArgs) -> Result<FileTable> {
    let file = OsFs::new().open(&args.file, OpenMode::Read)?;
    Table::open(file, ReaderOptions::default())
}

fn failure(error: &Error) -> Failure {
    let failure = Failure::usage(error.to_string());
    match error.kind() {
        ErrorKind::NotATable => {
            failure.with_advice("the tables of a database are its files NNNNNN.sst")
        }
        ErrorKind::UnsupportedVersion { .. }
        | ErrorKind::UnsupportedFeature(_)
        | ErrorKind::UnknownCodec(_) => failure.with_advice("another build of kvdb may read it"),
        _ if error.is_corruption() => failure.with_advice(COPY_FIRST),
        _ => failure,
    }
}

struct Printer {
    output: Output,
    raw: bool,
}

impl Printer {
    fn properties(&mut self, table: &FileTable) -> std::result::Result<(), Failure> {
        let (identity, said) = (table.identity(), table.properties());
        let mut rows = info::table(&[]);
        let escaped = |bytes: &[u8]| {
            let mut text = Vec::new();
            crate::bytes::escape(bytes, &mut text);
            String::from_utf8_lossy(&text).into_owned()
        };
        let bytes = |bytes: u64| format!("{bytes} ({})", info::size(bytes));
        rows.add_row(["database", &format!("{:032x}", identity.database)]);
        rows.add_row(["table", &identity.table.to_string()]);
        rows.add_row(["format", &FORMAT_VERSION.to_string()]);
        rows.add_row(["codec", &table.codec().to_string()]);
        rows.add_row(["file", &bytes(said.file_len)]);
        rows.add_row(["blocks", &said.blocks.to_string()]);
        rows.add_row(["blocks, stored", &bytes(said.stored_bytes)]);
        rows.add_row(["blocks, decoded", &bytes(said.block_bytes)]);
        rows.add_row(["entries", &said.entries.to_string()]);
        rows.add_row(["distinct keys", &said.distinct_keys.to_string()]);
        rows.add_row(["keys", &bytes(said.key_bytes)]);
        rows.add_row(["values", &bytes(said.value_bytes)]);
        rows.add_row([
            "versions",
            &format!("{}..={}", said.smallest_version, said.largest_version),
        ]);
        rows.add_row(["smallest key", &escaped(&said.smallest_key)]);
        rows.add_row(["largest key", &escaped(&said.largest_key)]);
        for (name, value) in &said.user {
            rows.add_row([format!("property {}", escaped(name.as_bytes())), escaped(value)]);
        }
        self.output.raw(info::trimmed(&rows).as_bytes())?;
        self.output.raw(b"\n")
    }

    /// Lists the blocks, those that are damaged too, and gives the number of these.
    fn blocks(&mut self, table: &FileTable) -> std::result::Result<u64, Failure> {
        self.output
            .raw(b"\nblock\toffset\tstored\tdecoded\tentries\tcodec\tfirst key\tversion\n")?;
        let mut damaged = 0;
        for (number, block) in table.blocks().map_err(|e| failure(&e))?.enumerate() {
            match block {
                Ok(BlockInfo {
                    range,
                    codec,
                    decoded_len,
                    entries,
                    first_key,
                    first_version,
                    ..
                }) => {
                    let (offset, stored) = (range.start, range.end - range.start);
                    let row = format!(
                        "{number}\t{offset}\t{stored}\t{decoded_len}\t{entries}\t{codec}\t"
                    );
                    self.output.raw(row.as_bytes())?;
                    self.output.escaped(&first_key)?;
                    self.output.raw(format!("\t{first_version}\n").as_bytes())?;
                }
                Err(error) if error.is_corruption() => {
                    damaged += 1;
                    let offset = error.offset().map_or_else(|| "-".to_owned(), |o| o.to_string());
                    self.output
                        .raw(format!("{number}\t{offset}\t{}\n", error.kind()).as_bytes())?;
                }
                Err(error) => return Err(failure(&error)),
            }
        }
        Ok(damaged)
    }

    fn entries(&mut self, table: &FileTable) -> std::result::Result<(), Failure> {
        self.output.raw(b"\nkey\tversion\tkind\tmeta\texpires\tvalue\n")?;
        let mut cursor = table.cursor().read_ahead(READ_AHEAD);
        let mut on = cursor.first().map_err(|e| failure(&e))?;
        while on {
            self.output.escaped(cursor.key())?;
            self.output.raw(format!("\t{}\t", cursor.version()).as_bytes())?;
            self.entry(cursor.value())?;
            self.output.raw(b"\n")?;
            on = cursor.next().map_err(|e| failure(&e))?;
        }
        Ok(())
    }

    /// The columns from the kind on.
    fn entry(&mut self, stored: &[u8]) -> std::result::Result<(), Failure> {
        let entry = if self.raw { None } else { Entry::decode(stored).ok() };
        let Some((entry, kind)) = entry.and_then(|entry| Some((entry, name(entry.kind)?))) else {
            self.output.raw(b"raw\t-\t-\t")?;
            return self.output.escaped(stored);
        };
        let expires = match entry.expires_at {
            0 => "-".to_owned(),
            seconds => seconds.to_string(),
        };
        self.output.raw(format!("{kind}\t{}\t{expires}\t", entry.user_meta).as_bytes())?;
        match Pointer::from_stored(entry.payload) {
            Some(pointer) if entry.kind.is_pointer() => {
                self.output.raw(pointer.to_string().as_bytes())
            }
            _ => self.output.escaped(entry.payload),
        }
    }
}

fn name(kind: Kind) -> Option<&'static str> {
    Some(match kind {
        Kind::Value => "value",
        Kind::Pointer => "pointer",
        Kind::Tombstone => "tombstone",
        Kind::Merge => "merge",
        Kind::MergePointer => "merge-pointer",
        _ => return None,
    })
}
