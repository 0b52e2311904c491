//! Writing relocation tables.

use std::path::Path;
use std::sync::Arc;

use kvdb_vfs::{Advice, Fs};
use zerocopy::IntoBytes;
use zerocopy::little_endian::U32;

use super::{
    Entry, FEW_ENTRIES, FileEntry, MOST_SHARED, MOST_SHIFT, Output, TABLE_MAGIC, TableHeader,
    relocation_table_path, table_salt,
};
use crate::format::FORMAT_VERSION;
use crate::{Error, Result};

/// So many entries a bucket should have on average, at most: one or two cache lines.
const BUCKET_ENTRIES: u64 = 8;

/// Gathers where the records of one segment went, and writes its table. Twelve bytes of memory a
/// record.
#[derive(Debug)]
pub struct TableWriter {
    segment: u32,
    /// Index, in the collection's list of record files, of each file that took records.
    files: Vec<usize>,
    moved: Vec<(u32, u16, u32)>,
}

impl TableWriter {
    /// For the table of this segment.
    pub fn new(segment: u32) -> Self {
        TableWriter { segment, files: Vec::new(), moved: Vec::new() }
    }

    /// The segment.
    pub fn segment(&self) -> u32 {
        self.segment
    }

    /// Whether no record of it was moved.
    pub fn is_empty(&self) -> bool {
        self.moved.is_empty()
    }

    /// The record files that took records of the segment, as they were given to
    /// [`add`](TableWriter::add), in the order that the table will name them in.
    pub fn files(&self) -> &[usize] {
        &self.files
    }

    /// The record that was first written at `old_offset` of the segment is now at `new_offset` of
    /// the record file with this index. Amortized O(1): files are filled one after the other.
    ///
    /// # Errors
    /// [`Error::Misuse`] with more than 65,536 files.
    pub fn add(&mut self, old_offset: u32, file: usize, new_offset: u32) -> Result<()> {
        let known = self.files.iter().rposition(|f| *f == file);
        let ordinal = known.unwrap_or_else(|| {
            self.files.push(file);
            self.files.len() - 1
        });
        let Ok(ordinal) = u16::try_from(ordinal) else {
            return Err(Error::Misuse("a segment's records in more than 65,536 files"));
        };
        self.moved.push((old_offset, ordinal, new_offset));
        Ok(())
    }

    /// Writes the table into the file with this number. `outputs` are the collection's record files,
    /// those that the indices given to [`add`](TableWriter::add) stand for.
    ///
    /// # Errors
    /// [`Error::Misuse`] if an index is none, or an offset was added twice; [`Error::Io`].
    pub fn finish(
        self,
        fs: &Arc<dyn Fs>,
        dir: &Path,
        database: u128,
        name: (u64, u64),
        outputs: &[Output],
    ) -> Result<Output> {
        let mut file = TableFile { name, bytes: Vec::new() };
        file.push(&self.encode(outputs)?, database);
        file.write(fs, dir)
    }

    /// Writes several tables, those of few records together in one file: with a file for each there would be one
    /// for every segment that something is left of. `next_name` gives each file its number and nonce.
    /// Returns the files, and for each table the index of its file.
    ///
    /// # Errors
    /// As of [`finish`](TableWriter::finish). Nothing is left on the disk then.
    pub fn finish_together(
        tables: Vec<TableWriter>,
        fs: &Arc<dyn Fs>,
        dir: &Path,
        database: u128,
        outputs: &[Output],
        mut next_name: impl FnMut() -> (u64, u64),
    ) -> Result<(Vec<Output>, Vec<usize>)> {
        let (mut files, mut places) = (Vec::new(), Vec::new());
        let mut shared: Option<(usize, TableFile)> = None;
        for table in tables {
            let alone = table.moved.len() > FEW_ENTRIES;
            let table = table.encode(outputs)?;
            let full = |file: &TableFile| (file.bytes.len() + table.len()) as u64 > MOST_SHARED;
            if let Some((at, file)) = shared.take_if(|(_, file)| !alone && full(file)) {
                files[at] = Some(file.write(fs, dir)?);
            }
            let (at, mut file) = match shared.take_if(|_| !alone) {
                Some(shared) => shared,
                None => {
                    files.push(None);
                    (files.len() - 1, TableFile { name: next_name(), bytes: Vec::new() })
                }
            };
            file.push(&table, database);
            places.push(at);
            match alone {
                true => files[at] = Some(file.write(fs, dir)?),
                false => shared = Some((at, file)),
            }
        }
        if let Some((at, file)) = shared {
            files[at] = Some(file.write(fs, dir)?);
        }
        Ok((files.into_iter().flatten().collect(), places))
    }

    fn encode(mut self, outputs: &[Output]) -> Result<Encoded> {
        self.moved.sort_unstable();
        if self.moved.windows(2).any(|two| two[0].0 == two[1].0) {
            return Err(Error::Misuse("a record was relocated twice"));
        }
        let mut body = Vec::new();
        for &index in &self.files {
            let Some(output) = outputs.get(index) else {
                return Err(Error::Misuse("a record file that is not there"));
            };
            let entry = FileEntry {
                file: output.file.into(),
                nonce: output.nonce.into(),
                length: output.length.into(),
            };
            body.extend_from_slice(entry.as_bytes());
        }
        let span = self.moved.last().map_or(0, |(old, ..)| u64::from(*old) + 1);
        let shift = shift_for(span, self.moved.len() as u64);
        let buckets = span.div_ceil(1 << shift) as u32;
        let mut next = 0;
        for bucket in 0..=buckets {
            let end = u64::from(bucket) << shift;
            while self.moved.get(next).is_some_and(|(old, ..)| u64::from(*old) < end) {
                next += 1;
            }
            body.extend_from_slice(U32::new(next as u32).as_bytes());
        }
        for &(old, ordinal, new_offset) in &self.moved {
            let low = old & ((1 << shift) - 1);
            let entry = Entry {
                old_low: (low as u16).into(),
                file_ordinal: ordinal.into(),
                new_offset: new_offset.into(),
            };
            body.extend_from_slice(entry.as_bytes());
        }
        let header = TableHeader {
            magic: TABLE_MAGIC,
            format: FORMAT_VERSION.into(),
            segment: self.segment.into(),
            database: 0.into(),
            file: 0.into(),
            nonce: 0.into(),
            files: (self.files.len() as u32).into(),
            entries: (self.moved.len() as u32).into(),
            buckets: buckets.into(),
            shift: shift.into(),
            body_crc: crc32fast::hash(&body).into(),
            crc: 0.into(),
        };
        Ok(Encoded { header, body })
    }
}

/// A table that does not know yet which file it will be in, and where.
struct Encoded {
    header: TableHeader,
    body: Vec<u8>,
}

impl Encoded {
    fn len(&self) -> usize {
        TableHeader::LEN + self.body.len()
    }
}

/// A file of tables, in memory.
struct TableFile {
    /// Number and nonce.
    name: (u64, u64),
    bytes: Vec<u8>,
}

impl TableFile {
    fn push(&mut self, table: &Encoded, database: u128) {
        let (file, nonce) = self.name;
        let mut header = table.header;
        header.database = database.into();
        header.file = file.into();
        header.nonce = nonce.into();
        let at = self.bytes.len() as u64;
        header.crc = table_salt(database, file, nonce).seal(header.raw_crc(), at, 0).into();
        self.bytes.extend_from_slice(header.as_bytes());
        self.bytes.extend_from_slice(&table.body);
    }

    fn write(self, fs: &Arc<dyn Fs>, dir: &Path) -> Result<Output> {
        let (file, nonce) = self.name;
        let mut output = Output::create(fs, relocation_table_path(dir, file), file, nonce)?;
        output.length = self.bytes.len() as u64;
        output.handle.write_all_at(&self.bytes, 0)?;
        output.handle.advise(0..output.length, Advice::WriteBack);
        Ok(output)
    }
}

/// How many bytes of old offsets a bucket spans, as a power of two.
fn shift_for(span: u64, entries: u64) -> u32 {
    let mut shift = MOST_SHIFT;
    while shift > 0 && entries << shift > span * BUCKET_ENTRIES {
        shift -= 1;
    }
    shift
}
