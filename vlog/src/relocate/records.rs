//! Record files: writing one from front to back, and opening it for reading.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use kvdb_vfs::{Advice, File, Fs, OpenMode, Salt, SyncSite};
use zerocopy::little_endian::U32;
use zerocopy::{FromBytes, IntoBytes};

use super::{FileEntry, Identity, Output, RECORDS_MAGIC, record_file_path};
use crate::file::LogFile;
use crate::format::{
    FIRST_FRAME, FLAG_VERSION, FORMAT_VERSION, MAX_SEGMENT_SIZE, RecordHeader, SegmentHeader,
    VERSION_TRAILER,
};
use crate::{Error, Options, Result};

/// Bytes that are gathered before they are written, and after which the system is asked to start
/// writing back: no commit's sync should find all of a file in its way.
const CHUNK: usize = 1 << 20;

/// Record files that are open, by number: several tables name the same ones.
#[derive(Debug, Default)]
pub struct RecordFiles(HashMap<u64, Arc<LogFile>>);

impl RecordFiles {
    pub(super) fn get(
        &mut self,
        fs: &dyn Fs,
        dir: &Path,
        database: u128,
        entry: &FileEntry,
        options: &Options,
    ) -> Result<Arc<LogFile>> {
        if let Some(file) = self.0.get(&entry.file.get()) {
            return Ok(file.clone());
        }
        let file = Arc::new(open_record_file(fs, dir, database, entry, options)?);
        self.0.insert(entry.file.get(), file.clone());
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

/// Writes one record file, from front to back, in chunks. Dropped before it is finished, it takes
/// its file along.
#[derive(Debug)]
pub struct RecordWriter {
    output: Output,
    file: Arc<dyn File>,
    salt: Salt,
    /// What is not written yet, and where it goes.
    buffer: Vec<u8>,
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
        let path = record_file_path(dir, file);
        let handle = fs.open(&path, OpenMode::CreateNew)?;
        let output = Output::new(fs, path, file, nonce);
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
        let mut buffer = Vec::with_capacity(CHUNK + CHUNK / 4);
        buffer.extend_from_slice(header.as_bytes());
        buffer.resize(FIRST_FRAME as usize, 0);
        Ok(RecordWriter { output, file: handle, salt: header.salt(), buffer, at: 0 })
    }

    /// Bytes of the file so far, its header page included.
    #[allow(clippy::len_without_is_empty)] // it has a header
    pub fn len(&self) -> u64 {
        self.at + self.buffer.len() as u64
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
        let at = self.buffer.len();
        for part in [header.as_bytes(), key, tag, value] {
            self.buffer.extend_from_slice(part);
        }
        let raw = crc32fast::hash(&self.buffer[at + 4..]);
        let sealed = U32::new(self.salt.seal(raw, offset, version));
        self.buffer[at..at + 4].copy_from_slice(sealed.as_bytes());
        self.buffer.extend_from_slice(&version.to_le_bytes());
        if self.buffer.len() >= CHUNK {
            self.write_out()?;
        }
        Ok(offset as u32)
    }

    fn write_out(&mut self) -> Result<()> {
        self.file.write_all_at(&self.buffer, self.at)?;
        let end = self.len();
        self.file.advise(self.at..end, Advice::WriteBack);
        self.at = end;
        self.buffer.clear();
        Ok(())
    }

    /// Writes what is left and syncs the file; not the directory.
    ///
    /// # Errors
    /// [`Error::Io`]; the file is removed then.
    pub fn finish(mut self) -> Result<Output> {
        self.write_out()?;
        self.file.sync_data(SyncSite::LogRelocate)?;
        self.output.length = self.at;
        Ok(self.output)
    }
}
