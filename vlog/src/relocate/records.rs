//! Record files: writing one from front to back, and opening it for reading.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use kvdb_vfs::{Advice, Fs, OpenMode, Salt};
use zerocopy::little_endian::U32;
use zerocopy::{FromBytes, IntoBytes};

use super::table::TableFile;
use super::{FileEntry, Identity, Output, RECORDS_MAGIC, record_file_path};
use crate::file::LogFile;
use crate::format::{
    FIRST_FRAME, FLAG_VERSION, FORMAT_VERSION, MAX_SEGMENT_SIZE, RecordHeader, SegmentHeader,
    VERSION_TRAILER,
};
use crate::{Error, LogView, Options, Pointer, Result};

/// Bytes that are gathered before they are written: few enough that the processor has them at hand
/// still when the system copies them.
const CHUNK: usize = 256 << 10;
/// Bytes after which the system is asked to start writing back: no commit's sync should find all of a
/// file in its way.
const WRITE_BACK: u64 = 1 << 20;

/// Files that are open, by number, while tables are opened: several tables name the same record files,
/// and may be in one file themselves.
#[derive(Debug, Default)]
pub struct RecordFiles {
    records: HashMap<u64, Arc<LogFile>>,
    pub(super) shared: HashMap<u64, Arc<TableFile>>,
}

impl RecordFiles {
    pub(super) fn get(
        &mut self,
        fs: &dyn Fs,
        dir: &Path,
        database: u128,
        entry: &FileEntry,
        options: &Options,
    ) -> Result<Arc<LogFile>> {
        if let Some(file) = self.records.get(&entry.file.get()) {
            return Ok(file.clone());
        }
        let file = Arc::new(open_record_file(fs, dir, database, entry, options)?);
        self.records.insert(entry.file.get(), file.clone());
        Ok(file)
    }
}

fn open_record_file(
    fs: &dyn Fs,
    dir: &Path,
    database: u128,
    entry: &FileEntry,
    options: &Options,
) -> Result<LogFile> {
    let path = record_file_path(dir, entry.file.get());
    let file = fs.open(&path, OpenMode::Read)?;
    let mut bytes = [0; SegmentHeader::LEN];
    let n = file.read_at(&mut bytes, 0)?;
    let (expected, found) = (entry.length.get(), file.len()?);
    if n < bytes.len() || found < expected || expected > u64::from(u32::MAX) {
        return Err(Error::Truncated { path, expected, found });
    }
    let Ok(header) = SegmentHeader::read_from_bytes(&bytes) else {
        return Err(Error::NotASegment { path });
    };
    let identity = Identity {
        path: &path,
        magic: header.magic == RECORDS_MAGIC,
        format: header.format.get(),
        verifies: header.verifies(),
        database: (database, header.database.get()),
        fields: &[
            ("file id", entry.file.get(), header.file.get()),
            ("nonce", entry.nonce.get(), header.nonce.get()),
        ],
    };
    identity.check()?;
    let len = expected as u32;
    Ok(LogFile::new(path, file, header.salt(), len, len, options.maps))
}

/// A record to be moved: where it is, and the key and version it was written with.
#[derive(Debug, Clone, Copy)]
pub struct LiveRecord<'k> {
    /// Where it is.
    pub pointer: Pointer,
    /// Its key.
    pub key: &'k [u8],
    /// Its version.
    pub version: u64,
}

/// Writes one record file, from front to back, in chunks. Dropped before it is finished, it takes
/// its file along.
#[derive(Debug)]
pub struct RecordWriter {
    output: Output,
    salt: Salt,
    /// What is not written yet is the first `filled` bytes of it, and goes to `at`.
    buffer: Vec<u8>,
    filled: usize,
    at: u64,
}

impl RecordWriter {
    /// Creates the file with this number in `dir`; its header is written with the first records.
    ///
    /// # Errors
    /// Whatever the file system reports. A file that exists is not replaced.
    pub fn create(
        fs: &Arc<dyn Fs>,
        dir: &Path,
        database: u128,
        file: u64,
        nonce: u64,
    ) -> Result<Self> {
        let output = Output::create(fs, record_file_path(dir, file), file, nonce)?;
        let mut header = SegmentHeader {
            magic: RECORDS_MAGIC,
            format: FORMAT_VERSION.into(),
            method: 0.into(),
            database: database.into(),
            file: file.into(),
            nonce: nonce.into(),
            segment: 0.into(),
            capacity: 0.into(),
            reserved: 0.into(),
            crc: 0.into(),
        };
        header.seal();
        let mut buffer = vec![0; FIRST_FRAME as usize];
        buffer[..SegmentHeader::LEN].copy_from_slice(header.as_bytes());
        let filled = buffer.len();
        Ok(RecordWriter { output, salt: header.salt(), buffer, filled, at: 0 })
    }

    /// Bytes of the file so far, its header page included.
    #[allow(clippy::len_without_is_empty)] // it has a header
    pub fn len(&self) -> u64 {
        self.at + self.filled as u64
    }

    /// Bytes that a record of these lengths takes in the file.
    pub fn stored_len(key: usize, tag: usize, value: usize) -> u64 {
        (crate::record_len(key, tag, value) + VERSION_TRAILER) as u64
    }

    /// Adds a record, which the caller has verified where it comes from. Returns its offset.
    ///
    /// # Errors
    /// [`Error::RecordTooLarge`] if a length is beyond the format's or the file would exceed
    /// 2 GiB; [`Error::Io`].
    pub fn push(&mut self, key: &[u8], tag: &[u8], value: &[u8], version: u64) -> Result<u32> {
        let offset = self.len();
        let size = offset + Self::stored_len(key.len(), tag.len(), value.len());
        let limit = u64::from(MAX_SEGMENT_SIZE);
        let lengths = (u16::try_from(key.len()), u8::try_from(tag.len()));
        let (true, (Ok(key_len), Ok(tag_len))) = (size <= limit, lengths) else {
            return Err(Error::RecordTooLarge { what: "relocated record", size, limit });
        };
        let header = RecordHeader {
            crc: 0.into(),
            value_len: (value.len() as u32).into(),
            key_len: key_len.into(),
            tag_len,
            flags: FLAG_VERSION,
        };
        let start = self.filled;
        self.fill_to((size - self.at) as usize);
        let mut at = start;
        for part in [header.as_bytes(), key, tag, value] {
            self.buffer[at..at + part.len()].copy_from_slice(part);
            at += part.len();
        }
        seal(&mut self.buffer[start..self.filled], self.salt, offset as u32, version);
        self.write_ready()?;
        Ok(offset as u32)
    }

    /// Adds records that lie elsewhere, one behind the other, as far as the file stays within
    /// `most` bytes; the first record of a file is always taken. Returns how many it took;
    /// `offsets` gets the new offset of each. Writes nothing to the file: call
    /// [`write_ready`](RecordWriter::write_ready) after it. Some 256 KiB at a time are best: they are
    /// in the processor's cache when they are written.
    ///
    /// Each record is copied once, verified where it then lies, and sealed for its new place.
    ///
    /// # Errors
    /// With the index of the record: of it and of where it comes from, as of [`LogView::read`];
    /// [`Error::RecordTooLarge`] if it would take the file beyond 2 GiB. The file is as it was.
    pub fn copy(
        &mut self,
        view: &LogView,
        records: &[LiveRecord<'_>],
        most: u64,
        offsets: &mut Vec<u32>,
    ) -> std::result::Result<usize, (usize, Error)> {
        let (filled, known) = (self.filled, offsets.len());
        let copied = self.copy_all(view, records, most, offsets);
        if copied.is_err() {
            offsets.truncate(known);
            self.filled = filled;
        }
        copied
    }

    fn copy_all(
        &mut self,
        view: &LogView,
        records: &[LiveRecord<'_>],
        most: u64,
        offsets: &mut Vec<u32>,
    ) -> std::result::Result<usize, (usize, Error)> {
        let mut end = self.len();
        let mut parts = Vec::with_capacity(records.len());
        for (i, record) in records.iter().enumerate() {
            let size = end + u64::from(record.pointer.len()) + VERSION_TRAILER as u64;
            if size > most && end > u64::from(FIRST_FRAME) {
                break;
            }
            let limit = u64::from(MAX_SEGMENT_SIZE);
            if size > limit {
                return Err((i, Error::RecordTooLarge { what: "relocated record", size, limit }));
            }
            let (file, from) = view.locate(record.pointer).map_err(|error| (i, error))?;
            parts.push(Part { file, from, to: end as u32, record: *record });
            offsets.push(end as u32);
            end = size;
        }
        self.fill_to((end - self.at) as usize);
        for (i, part) in parts.iter().enumerate() {
            self.copy_part(part).map_err(|error| (i, error))?;
        }
        Ok(parts.len())
    }

    /// Copies a record to where it is to be written, verifies it there, and seals it for its place.
    fn copy_part(&mut self, part: &Part<'_>) -> Result<()> {
        let Part { file, from, to, record: LiveRecord { pointer, key, version } } = *part;
        let start = (u64::from(to) - self.at) as usize;
        let end = start + pointer.len() as usize;
        let bytes = &mut self.buffer[start..end];
        file.copy(from, pointer, bytes)?;
        if file.verify_read(bytes, from, pointer, version, true)?.key != key {
            return Err(Error::KeyMismatch { pointer });
        }
        if let Ok((header, _)) = RecordHeader::mut_from_prefix(bytes) {
            header.flags = FLAG_VERSION;
        }
        seal(&mut self.buffer[start..end + VERSION_TRAILER], self.salt, to, version);
        Ok(())
    }

    /// The buffer holds so many bytes to be written; the new ones may be anything.
    fn fill_to(&mut self, filled: usize) {
        if self.buffer.len() < filled {
            self.buffer.resize(filled, 0);
        }
        self.filled = filled;
    }

    /// Writes what has gathered, as far as it is whole chunks: at such places and in such lengths
    /// the system keeps a file in large pieces, and has to read no page.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn write_ready(&mut self) -> Result<()> {
        match self.filled / CHUNK * CHUNK {
            0 => Ok(()),
            ready => self.write_out(ready),
        }
    }

    fn write_out(&mut self, len: usize) -> Result<()> {
        self.output.handle.write_all_at(&self.buffer[..len], self.at)?;
        let end = self.at + len as u64;
        let [from, to] = [self.at, end].map(|at| at / WRITE_BACK * WRITE_BACK);
        if from < to {
            self.output.handle.advise(from..to, Advice::WriteBack);
        }
        self.at = end;
        self.buffer.copy_within(len..self.filled, 0);
        self.filled -= len;
        Ok(())
    }

    /// Writes what is left. The file is not durable yet: see [`Output::sync`].
    ///
    /// # Errors
    /// [`Error::Io`]; the file is removed then.
    pub fn finish(mut self) -> Result<Output> {
        self.write_out(self.filled)?;
        self.output.length = self.at;
        Ok(self.output)
    }
}

/// One record on its way: file and offset that it comes from, and offset that it goes to.
struct Part<'a> {
    file: &'a LogFile,
    from: u32,
    to: u32,
    record: LiveRecord<'a>,
}

/// Gives a record with room for its trailer its version, and its checksum for `offset`.
fn seal(bytes: &mut [u8], salt: Salt, offset: u32, version: u64) {
    let end = bytes.len() - VERSION_TRAILER;
    let raw = crc32fast::hash(&bytes[4..end]);
    let sealed = U32::new(salt.seal(raw, offset.into(), version));
    bytes[..4].copy_from_slice(sealed.as_bytes());
    bytes[end..].copy_from_slice(&version.to_le_bytes());
}

#[cfg(test)]
mod tests {
    use kvdb_vfs::MemFs;

    use super::*;

    #[test]
    fn no_record_lies_beyond_two_gibibytes() {
        let fs: Arc<dyn Fs> = Arc::new(MemFs::new());
        let dir = Path::new("/log");
        fs.create_dir_all(dir).unwrap();
        let room = RecordWriter::stored_len(3, 0, 5);
        for (short, fits) in [(1, false), (0, true)] {
            let mut writer = RecordWriter::create(&fs, dir, 1, 1, 1).unwrap();
            // As if all of that had been written.
            writer.write_out(writer.filled).unwrap();
            writer.at = u64::from(MAX_SEGMENT_SIZE) - room + short;
            let len = (room - VERSION_TRAILER as u64) as u32;
            let pointer = Pointer::new(1, FIRST_FRAME, len);
            let record = LiveRecord { pointer, key: b"key", version: 1 };
            let copied = writer.copy(&LogView::default(), &[record], u64::MAX, &mut Vec::new());
            let pushed = writer.push(b"key", b"", b"value", 1);
            let refused = |e: &Error| matches!(e, Error::RecordTooLarge { .. });
            // What fits is looked for, and there is no such segment.
            assert!(matches!(&copied, Err((0, e)) if refused(e) != fits), "{copied:?}");
            assert_eq!(pushed.is_ok(), fits, "{pushed:?}");
            assert!(pushed.is_ok() || pushed.is_err_and(|e| refused(&e)));
        }
    }
}
