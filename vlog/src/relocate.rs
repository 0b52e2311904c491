//! Relocated segments: where garbage collection moved the records that were still in use.
//!
//! A collected segment's own file is gone; its number now leads to a *relocation table*
//! (`{file:06}.vrel`), which says for the offset of each surviving record in which *record file*
//! (`{file:06}.vrec`) it is now, and where. Pointers do not change. One record file may take the
//! records of many segments, in key order.
//!
//! Records in a record file all carry their version, follow each other unpadded behind a header
//! page, and are sealed with that file's salt. There are no frames.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use kvdb_vfs::{Fs, OpenMode, Region, Salt, SyncSite};
use zerocopy::little_endian::{U32, U64, U128};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::file::LogFile;
use crate::format::{
    FIRST_FRAME, FLAG_VERSION, FORMAT_VERSION, RECORD_HEADER, RecordHeader, SegmentHeader,
};
use crate::position::numbered;
use crate::{Error, Options, Relocated, Result};

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

#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
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
    body_crc: U32,
    crc: U32,
}

/// A record file as a table names it.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct FileEntry {
    file: U64,
    nonce: U64,
    length: U64,
}

#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct Entry {
    old_offset: U32,
    file_ordinal: U32,
    new_offset: U32,
}

/// The table of one relocated segment, open for lookups.
#[derive(Debug)]
pub(crate) struct Relocation {
    body: Region,
    files: Vec<Arc<LogFile>>,
    entries: std::ops::Range<usize>,
}

impl Relocation {
    /// Reads and verifies a table and opens the record files it names.
    pub(crate) fn open(
        fs: &dyn Fs,
        dir: &Path,
        database: u128,
        segment: u32,
        relocated: &Relocated,
        options: &Options,
        opened: &mut Vec<(u64, Arc<LogFile>)>,
    ) -> Result<Self> {
        let path = relocation_table_path(dir, relocated.table);
        let file = fs.open(&path, OpenMode::Read)?;
        let found = file.len()?;
        const LEN: usize = size_of::<TableHeader>();
        let expected = LEN as u64;
        if found < expected {
            return Err(Error::Truncated { path, expected, found });
        }
        let mut header = [0; LEN];
        file.read_exact_at(&mut header, 0)?;
        let crc = crc32fast::hash(&header[..LEN - 4]);
        let Ok(header) = TableHeader::read_from_bytes(&header) else {
            return Err(Error::NotASegment { path });
        };
        check_identity(
            &path,
            header.magic == TABLE_MAGIC,
            header.format.get(),
            Salt::derive(header.database.get(), header.file.get(), header.nonce.get()).matches(
                header.crc.get(),
                crc,
                0,
                0,
            ),
            (database, header.database.get()),
            &[
                ("file id", relocated.table, header.file.get()),
                ("nonce", relocated.table_nonce, header.nonce.get()),
                ("segment", segment.into(), header.segment.get().into()),
            ],
        )?;
        let files_len = header.files.get() as usize * size_of::<FileEntry>();
        let body_len = files_len + header.entries.get() as usize * size_of::<Entry>();
        let expected = (LEN + body_len) as u64;
        if found < expected {
            return Err(Error::Truncated { path, expected, found });
        }
        let mut body = vec![0; body_len];
        file.read_exact_at(&mut body, LEN as u64)?;
        if crc32fast::hash(&body) != header.body_crc.get() {
            return Err(Error::damaged(&path, LEN as u64, "a relocation table"));
        }
        let mut files = Vec::new();
        for entry in body[..files_len].chunks_exact(size_of::<FileEntry>()) {
            let Ok(entry) = FileEntry::ref_from_bytes(entry) else { continue };
            let known = opened.iter().find(|(id, _)| *id == entry.file.get());
            let file = match known {
                Some((_, file)) => file.clone(),
                None => {
                    let file = Arc::new(open_record_file(fs, dir, database, entry, options)?);
                    opened.push((entry.file.get(), file.clone()));
                    file
                }
            };
            files.push(file);
        }
        Ok(Relocation { body: Region::from_vec(body), files, entries: files_len..body_len })
    }

    fn entries(&self) -> &[Entry] {
        let bytes = self.body.get(self.entries.clone()).unwrap_or_default();
        <[Entry]>::ref_from_bytes(bytes).unwrap_or_default()
    }

    /// Where the records are now.
    pub(crate) fn records(&self) -> impl Iterator<Item = (&LogFile, u32)> {
        self.entries().iter().filter_map(|entry| {
            let file = self.files.get(entry.file_ordinal.get() as usize)?;
            Some((&**file, entry.new_offset.get()))
        })
    }

    /// Where the record that was at `old_offset` is now; `None` if it was not kept. O(log n).
    pub(crate) fn find(&self, old_offset: u32) -> Option<(&Arc<LogFile>, u32)> {
        let entries = self.entries();
        let at = entries.binary_search_by_key(&old_offset, |e| e.old_offset.get()).ok()?;
        let entry = entries.get(at)?;
        let file = self.files.get(entry.file_ordinal.get() as usize)?;
        Some((file, entry.new_offset.get()))
    }
}

fn check_identity(
    path: &Path,
    magic: bool,
    format: u32,
    verifies: bool,
    database: (u128, u128),
    fields: &[(&'static str, u64, u64)],
) -> Result<()> {
    let path = || path.to_owned();
    if !magic {
        return Err(Error::NotASegment { path: path() });
    }
    if format > FORMAT_VERSION {
        let (found, supported) = (format, FORMAT_VERSION);
        return Err(Error::UnsupportedVersion { path: path(), found, supported });
    }
    if !verifies {
        return Err(Error::damaged(&path(), 0, "a file header"));
    }
    if database.0 != database.1 {
        let (expected, found) = database;
        return Err(Error::WrongDatabase { path: path(), expected, found });
    }
    for (what, expected, found) in fields {
        if expected != found {
            let (expected, found) = (*expected, *found);
            return Err(Error::WrongFile { path: path(), what, expected, found });
        }
    }
    Ok(())
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
    check_identity(
        &path,
        header.magic == RECORDS_MAGIC,
        header.format.get(),
        header.verifies(),
        (database, header.database.get()),
        &[
            ("file id", entry.file.get(), header.file.get()),
            ("nonce", entry.nonce.get(), header.nonce.get()),
        ],
    )?;
    let len = expected as u32;
    Ok(LogFile::new(path, file, header.salt(), len, len, options.maps))
}

/// Writes one record file and remembers where each record came from and went.
///
/// The minimum that the reader needs: collection itself, with its choice of victims and its
/// pacing, is the caller's.
#[derive(Debug)]
pub struct RelocationWriter {
    file: u64,
    nonce: u64,
    database: u128,
    bytes: Vec<u8>,
    /// `(segment, old offset, new offset)`.
    moved: Vec<(u32, u32, u32)>,
}

impl RelocationWriter {
    /// A writer for the record file with this number.
    pub fn new(database: u128, file: u64, nonce: u64) -> Self {
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
        let mut bytes = header.as_bytes().to_vec();
        bytes.resize(FIRST_FRAME as usize, 0);
        RelocationWriter { file, nonce, database, bytes, moved: Vec::new() }
    }

    /// Adds a record that was at `old` before. The caller has verified it.
    ///
    /// # Errors
    /// [`Error::RecordTooLarge`] if the file would exceed 2 GiB or the lengths are not the
    /// pointer's.
    pub fn push(
        &mut self,
        old: crate::Pointer,
        key: &[u8],
        tag: &[u8],
        value: &[u8],
        version: u64,
    ) -> Result<()> {
        let len = crate::record_len(key.len(), tag.len(), value.len());
        let size = self.bytes.len() + len + 8;
        if len != old.len() as usize || size > crate::format::MAX_SEGMENT_SIZE as usize {
            let (size, limit) = (size as u64, crate::format::MAX_SEGMENT_SIZE.into());
            return Err(Error::RecordTooLarge { what: "relocated record", size, limit });
        }
        let at = self.bytes.len();
        let header = RecordHeader {
            crc: 0.into(),
            value_len: (value.len() as u32).into(),
            key_len: (key.len() as u16).into(),
            tag_len: tag.len() as u8,
            flags: FLAG_VERSION,
        };
        self.bytes.extend_from_slice(header.as_bytes());
        self.bytes.extend_from_slice(key);
        self.bytes.extend_from_slice(tag);
        self.bytes.extend_from_slice(value);
        debug_assert_eq!(self.bytes.len() - at, RECORD_HEADER + len - RECORD_HEADER);
        let raw = crc32fast::hash(&self.bytes[at + 4..]);
        let salt = Salt::derive(self.database, self.file, self.nonce);
        let sealed = U32::new(salt.seal(raw, at as u64, version));
        self.bytes[at..at + 4].copy_from_slice(sealed.as_bytes());
        self.bytes.extend_from_slice(&version.to_le_bytes());
        self.moved.push((old.segment(), old.offset(), at as u32));
        Ok(())
    }

    /// Writes the record file and, for each of `tables` (`segment, file number, nonce`), the
    /// relocation table of that segment; syncs all of them and the directory.
    ///
    /// # Errors
    /// Whatever the file system reports; nothing that exists is replaced.
    pub fn finish(mut self, fs: &dyn Fs, dir: &Path, tables: &[(u32, u64, u64)]) -> Result<()> {
        let file = fs.open(&record_file_path(dir, self.file), OpenMode::CreateNew)?;
        file.write_all_at(&self.bytes, 0)?;
        file.sync_data(SyncSite::LogRelocate)?;
        self.moved.sort_unstable();
        for (segment, table, nonce) in tables {
            let mut body = Vec::new();
            let entry = FileEntry {
                file: self.file.into(),
                nonce: self.nonce.into(),
                length: (self.bytes.len() as u64).into(),
            };
            body.extend_from_slice(entry.as_bytes());
            let mut entries = 0u32;
            for (_, old, new) in self.moved.iter().filter(|(s, _, _)| s == segment) {
                let entry = Entry {
                    old_offset: (*old).into(),
                    file_ordinal: 0.into(),
                    new_offset: (*new).into(),
                };
                body.extend_from_slice(entry.as_bytes());
                entries += 1;
            }
            let mut header = TableHeader {
                magic: TABLE_MAGIC,
                format: FORMAT_VERSION.into(),
                segment: (*segment).into(),
                database: self.database.into(),
                file: (*table).into(),
                nonce: (*nonce).into(),
                files: 1.into(),
                entries: entries.into(),
                body_crc: crc32fast::hash(&body).into(),
                crc: 0.into(),
            };
            let raw = crc32fast::hash(&header.as_bytes()[..size_of::<TableHeader>() - 4]);
            header.crc = Salt::derive(self.database, *table, *nonce).seal(raw, 0, 0).into();
            let file = fs.open(&relocation_table_path(dir, *table), OpenMode::CreateNew)?;
            file.write_all_at(header.as_bytes(), 0)?;
            file.write_all_at(&body, size_of::<TableHeader>() as u64)?;
            file.sync_data(SyncSite::LogRelocate)?;
        }
        Ok(fs.sync_dir(dir, SyncSite::LogRelocateDir)?)
    }
}
