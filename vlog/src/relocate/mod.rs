//! Relocated segments: where garbage collection moved the records that were still in use.
//!
//! A collected segment's own file is gone; its number now leads to a *relocation table* (in
//! `{file:06}.vrel`), which says for the offset of each surviving record in which *record file*
//! (`{file:06}.vrec`) it is now, and where. A file of tables holds one, or several short ones, each
//! behind the other with a header of its own: what is left of many segments may be little, and does
//! not take a file for each of them. Pointers do not change. One record file may take the
//! records of many segments, in key order, and one segment's records may be in many files. A
//! segment that is collected again gets another table, from the same old offsets: there is never
//! a second step to take.
//!
//! Records in a record file all carry their version, follow each other unpadded behind a header
//! page, and are sealed with that file's salt. There are no frames.

mod records;
mod table;
mod write_table;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use kvdb_vfs::{File, Fs, OpenMode, Salt, SyncSite};
use zerocopy::little_endian::{U32, U64, U128};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::format::{FORMAT_VERSION, SegmentHeader};
use crate::position::numbered;
use crate::{Error, Result};

pub use records::{LiveRecord, RecordFiles, RecordWriter};
pub use table::RelocatedSegment;
pub(crate) use table::Relocation;
pub use write_table::TableWriter;

const TABLE_MAGIC: [u8; 8] = *b"KVDBVREL";
const RECORDS_MAGIC: [u8; 8] = *b"KVDBVREC";

/// The path of a relocation table.
pub fn relocation_table_path(dir: &Path, file: u64) -> PathBuf {
    dir.join(format!("{file:06}.vrel"))
}

/// The path of a file of relocated records.
pub fn record_file_path(dir: &Path, file: u64) -> PathBuf {
    dir.join(format!("{file:06}.vrec"))
}

/// The file number of a name made by [`relocation_table_path`] or [`record_file_path`]; `None`
/// for any other name.
pub fn parse_relocation_path(name: &Path) -> Option<u64> {
    numbered(name, "vrel").or_else(|| numbered(name, "vrec"))
}

/// The id of the database that the relocation table or record file at `path` says it belongs to;
/// `None` if it does not begin with a header of its kind that verifies, as after a crash while it
/// was being made. The kind goes by the name.
///
/// # Errors
/// [`Error::Io`]; [`Error::UnsupportedVersion`].
pub fn relocation_database(fs: &dyn Fs, path: &Path) -> Result<Option<u128>> {
    let file = fs.open(path, OpenMode::Read)?;
    let mut bytes = [0; TableHeader::LEN];
    let n = file.read_at(&mut bytes, 0)?;
    let bytes = bytes.get(..n).unwrap_or_default();
    let (is_one, format, verifies, database) = if numbered(path, "vrec").is_some() {
        let Ok((h, _)) = SegmentHeader::read_from_prefix(bytes) else { return Ok(None) };
        (h.magic == RECORDS_MAGIC, h.format.get(), h.verifies(), h.database.get())
    } else {
        let Ok((h, _)) = TableHeader::read_from_prefix(bytes) else { return Ok(None) };
        (h.magic == TABLE_MAGIC, h.format.get(), h.verifies(0), h.database.get())
    };
    if is_one && format != FORMAT_VERSION {
        let path = path.to_owned();
        return Err(Error::UnsupportedVersion { path, found: format, supported: FORMAT_VERSION });
    }
    Ok((is_one && verifies).then_some(database))
}

#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct TableHeader {
    magic: [u8; 8],
    format: U32,
    segment: U32,
    database: U128,
    file: U64,
    nonce: U64,
    files: U32,
    entries: U32,
    buckets: U32,
    shift: U32,
    body_crc: U32,
    crc: U32,
}

impl TableHeader {
    const LEN: usize = size_of::<TableHeader>();

    fn raw_crc(&self) -> u32 {
        crc32fast::hash(&self.as_bytes()[..Self::LEN - 4])
    }

    /// Whether it is what was written at this place of its file.
    fn verifies(&self, at: u64) -> bool {
        let salt = table_salt(self.database.get(), self.file.get(), self.nonce.get());
        salt.matches(self.crc.get(), self.raw_crc(), at, 0)
    }

    /// Where its parts are, counted from its own place: the names of record files, the directory of
    /// buckets, the entries, and the end.
    fn parts(&self) -> [usize; 4] {
        let directory = Self::LEN + self.files.get() as usize * size_of::<FileEntry>();
        let entries = directory + (self.buckets.get() as usize + 1) * size_of::<U32>();
        let end = entries + self.entries.get() as usize * size_of::<Entry>();
        [Self::LEN, directory, entries, end]
    }
}

/// A record file as a table names it.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct FileEntry {
    file: U64,
    nonce: U64,
    length: U64,
}

/// Where one record is now. The high bits of its old offset are the bucket it is in.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct Entry {
    old_low: zerocopy::little_endian::U16,
    file_ordinal: zerocopy::little_endian::U16,
    new_offset: U32,
}

/// A bucket spans at most so many bytes (as a power of two), so that what is left of an offset
/// takes two bytes.
const MOST_SHIFT: u32 = 16;

/// Tables up to so long are read when they are opened and take no descriptor; so are those of so few
/// entries, which share files: there may be one for every segment that something is left of, however little
/// that is. (Of a segment of 2 GiB a table of one entry has 128 KiB: its directory.)
const READ_AT_ONCE: u64 = 16 << 10;
const FEW_ENTRIES: usize = 2048;
/// A file that several tables share is no longer than that.
const MOST_SHARED: u64 = 1 << 20;

/// A file made by garbage collection that is complete and that no manifest names yet. It is durable
/// after [`sync`](Output::sync), its name when the directory is synced as well. Dropped without
/// [`keep`](Output::keep), it is removed.
#[derive(Debug)]
#[must_use]
pub struct Output {
    fs: Arc<dyn Fs>,
    handle: Arc<dyn File>,
    path: PathBuf,
    file: u64,
    nonce: u64,
    length: u64,
    keep: bool,
}

impl Output {
    fn create(fs: &Arc<dyn Fs>, path: PathBuf, file: u64, nonce: u64) -> Result<Self> {
        let handle = fs.open(&path, OpenMode::CreateNew)?;
        Ok(Output { fs: fs.clone(), handle, path, file, nonce, length: 0, keep: false })
    }

    /// Makes the file durable. The system was asked to write it back while it was made, so that a
    /// collection syncs all of its files at its end, when most is done.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn sync(&self) -> Result<()> {
        Ok(self.handle.sync_data(SyncSite::LogRelocate)?)
    }

    /// Its number.
    pub fn file(&self) -> u64 {
        self.file
    }

    /// The random number in its salt.
    pub fn nonce(&self) -> u64 {
        self.nonce
    }

    /// Its length in bytes.
    #[allow(clippy::len_without_is_empty)] // it has a header
    pub fn len(&self) -> u64 {
        self.length
    }

    /// A manifest names it, or may do so: leave the file alone.
    pub fn keep(mut self) {
        self.keep = true;
    }
}

impl Drop for Output {
    fn drop(&mut self) {
        if !self.keep
            && let Err(error) = self.fs.remove(&self.path)
        {
            tracing::warn!(path = %self.path.display(), %error, "an unused file is not removed");
        }
    }
}

/// What a header must say, and what it says.
struct Identity<'a> {
    path: &'a Path,
    magic: bool,
    format: u32,
    verifies: bool,
    database: (u128, u128),
    fields: &'a [(&'static str, u64, u64)],
}

impl Identity<'_> {
    fn check(&self) -> Result<()> {
        let path = || self.path.to_owned();
        if !self.magic {
            return Err(Error::NotASegment { path: path() });
        }
        if self.format != FORMAT_VERSION {
            let (found, supported) = (self.format, FORMAT_VERSION);
            return Err(Error::UnsupportedVersion { path: path(), found, supported });
        }
        if !self.verifies {
            return Err(Error::damaged(&path(), 0, "a file header"));
        }
        if self.database.0 != self.database.1 {
            let (expected, found) = self.database;
            return Err(Error::WrongDatabase { path: path(), expected, found });
        }
        match self.fields.iter().find(|(_, expected, found)| expected != found) {
            Some(&(what, expected, found)) => {
                Err(Error::WrongFile { path: path(), what, expected, found })
            }
            None => Ok(()),
        }
    }
}

fn table_salt(database: u128, file: u64, nonce: u64) -> Salt {
    Salt::derive(database, file, nonce)
}
