//! Relocation tables: looking up where a record is.

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use kvdb_vfs::{File, Fs, OpenMode, Region};
use parking_lot::Mutex;
use zerocopy::FromBytes;
use zerocopy::little_endian::U32;

use super::{
    Entry, FileEntry, Identity, MOST_SHIFT, RecordFiles, TABLE_MAGIC, TableHeader,
    relocation_table_path,
};
use crate::file::LogFile;
use crate::{Error, Options, Relocated, Result};

/// Tables up to so long are read when they are opened and take no descriptor: there may be one for
/// every segment that something is left of, however little that is.
const READ_AT_ONCE: u64 = 16 << 10;

/// The new place of a collected segment, open and ready for [`Log::relocate`](crate::Log::relocate).
#[derive(Debug)]
pub struct RelocatedSegment {
    pub(crate) segment: u32,
    pub(crate) table: Arc<Relocation>,
}

/// The table of one relocated segment, open for lookups.
///
/// Its header is verified when it is opened, the rest when it is first looked into, so that
/// opening a log takes no longer for having many tables. A short one is read at once and holds no
/// descriptor; a long one, of thousands of records, holds one by itself or by its map.
#[derive(Debug)]
pub(crate) struct Relocation {
    path: PathBuf,
    unread: Mutex<Unread>,
    /// Of the whole file.
    len: u64,
    body_crc: u32,
    maps: bool,
    files: Vec<Arc<LogFile>>,
    shift: u32,
    /// Where in the file the directory of buckets and the entries are.
    directory: Range<usize>,
    entries: Range<usize>,
    /// The file's bytes, once they are verified.
    bytes: OnceLock<Region>,
}

/// Where the bytes come from that are verified when they are first needed.
#[derive(Debug)]
enum Unread {
    Bytes(Region),
    File(Arc<dyn File>),
}

impl Relocation {
    /// Reads and verifies a table's header and opens the record files it names.
    pub(crate) fn open(
        fs: &dyn Fs,
        dir: &Path,
        database: u128,
        segment: u32,
        relocated: &Relocated,
        options: &Options,
        opened: &mut RecordFiles,
    ) -> Result<Self> {
        let path = relocation_table_path(dir, relocated.table);
        let file = fs.open(&path, OpenMode::Read)?;
        let found = file.len()?;
        let expected = TableHeader::LEN as u64;
        if found < expected {
            return Err(Error::Truncated { path, expected, found });
        }
        let at_once = found <= READ_AT_ONCE;
        let mut begin = vec![0; if at_once { found as usize } else { TableHeader::LEN }];
        file.read_exact_at(&mut begin, 0)?;
        let Ok((header, _)) = TableHeader::read_from_prefix(&begin) else {
            return Err(Error::NotASegment { path });
        };
        let identity = Identity {
            path: &path,
            magic: header.magic == TABLE_MAGIC,
            format: header.format.get(),
            verifies: header.verifies(),
            database: (database, header.database.get()),
            fields: &[
                ("file id", relocated.table, header.file.get()),
                ("nonce", relocated.table_nonce, header.nonce.get()),
                ("segment", segment.into(), header.segment.get().into()),
            ],
        };
        identity.check()?;
        // The header verifies, so these are what was written.
        let files_len = header.files.get() as usize * size_of::<FileEntry>();
        let directory_at = TableHeader::LEN + files_len;
        let entries_at = directory_at + (header.buckets.get() as usize + 1) * size_of::<U32>();
        let end = entries_at + header.entries.get() as usize * size_of::<Entry>();
        let expected = end as u64;
        if found < expected || header.shift.get() > MOST_SHIFT {
            return Err(Error::Truncated { path, expected, found });
        }
        let (unread, named) = if at_once {
            let named = begin[TableHeader::LEN..directory_at].to_vec();
            begin.truncate(end);
            (Unread::Bytes(Region::from_vec(begin)), named)
        } else {
            let mut named = vec![0; files_len];
            file.read_exact_at(&mut named, TableHeader::LEN as u64)?;
            (Unread::File(file), named)
        };
        let mut files = Vec::with_capacity(header.files.get() as usize);
        for entry in named.chunks_exact(size_of::<FileEntry>()) {
            let Ok(entry) = FileEntry::ref_from_bytes(entry) else { continue };
            files.push(opened.get(fs, dir, database, entry, options)?);
        }
        Ok(Relocation {
            path,
            unread: Mutex::new(unread),
            len: expected,
            body_crc: header.body_crc.get(),
            maps: options.maps,
            files,
            shift: header.shift.get(),
            directory: directory_at..entries_at,
            entries: entries_at..end,
            bytes: OnceLock::new(),
        })
    }

    /// The record files that it leads to.
    pub(crate) fn files(&self) -> impl Iterator<Item = &LogFile> {
        self.files.iter().map(|file| &**file)
    }

    /// The bytes of the file, verified.
    #[inline]
    fn bytes(&self) -> Result<&Region> {
        match self.bytes.get() {
            Some(bytes) => Ok(bytes),
            None => self.load(),
        }
    }

    #[cold]
    fn load(&self) -> Result<&Region> {
        let mut unread = self.unread.lock();
        let bytes = match &*unread {
            Unread::Bytes(bytes) => bytes.clone(),
            Unread::File(file) => {
                let mapped =
                    if self.maps { file.map(0..self.len).unwrap_or_default() } else { None };
                match mapped {
                    Some(map) => map,
                    None => {
                        let mut bytes = vec![0; self.len as usize];
                        file.read_exact_at(&mut bytes, 0)?;
                        Region::from_vec(bytes)
                    }
                }
            }
        };
        let body = bytes.get(TableHeader::LEN..).unwrap_or_default();
        if crc32fast::hash(body) != self.body_crc {
            return Err(Error::damaged(&self.path, TableHeader::LEN as u64, "a relocation table"));
        }
        *unread = Unread::Bytes(bytes.clone());
        Ok(self.bytes.get_or_init(|| bytes))
    }

    #[inline]
    fn parts(&self) -> Result<(&[U32], &[Entry])> {
        let bytes = self.bytes()?;
        let directory = bytes.get(self.directory.clone()).unwrap_or_default();
        let entries = bytes.get(self.entries.clone()).unwrap_or_default();
        Ok((
            <[U32]>::ref_from_bytes(directory).unwrap_or_default(),
            <[Entry]>::ref_from_bytes(entries).unwrap_or_default(),
        ))
    }

    /// Where the record that was at `old_offset` is now; `None` if it was not kept. O(1) where
    /// records are of like sizes: a bucket goes by the high bits and has eight entries on average.
    #[inline]
    pub(crate) fn find(&self, old_offset: u32) -> Result<Option<(&Arc<LogFile>, u32)>> {
        let (directory, entries) = self.parts()?;
        let bucket = (old_offset >> self.shift) as usize;
        let Some([from, to]) = directory.get(bucket..bucket + 2) else { return Ok(None) };
        let bucket = entries.get(from.get() as usize..to.get() as usize).unwrap_or_default();
        let low = (old_offset & ((1 << self.shift) - 1)) as u16;
        let Ok(at) = bucket.binary_search_by_key(&low, |e| e.old_low.get()) else {
            return Ok(None);
        };
        let file = self.files.get(usize::from(bucket[at].file_ordinal.get()));
        Ok(file.map(|file| (file, bucket[at].new_offset.get())))
    }

    /// Old offset, file and new offset of each record.
    ///
    /// # Errors
    /// Damage of the table.
    pub(crate) fn moved(&self) -> Result<impl Iterator<Item = (u32, &LogFile, u32)>> {
        let (directory, entries) = self.parts()?;
        let buckets = directory.windows(2).enumerate();
        Ok(buckets.flat_map(move |(bucket, ends)| {
            let range = ends[0].get() as usize..ends[1].get() as usize;
            let base = (bucket as u32) << self.shift;
            entries.get(range).unwrap_or_default().iter().filter_map(move |entry| {
                let file = self.files.get(usize::from(entry.file_ordinal.get()))?;
                Some((base | u32::from(entry.old_low.get()), &**file, entry.new_offset.get()))
            })
        }))
    }

    /// Where the records are now.
    ///
    /// # Errors
    /// Damage of the table.
    pub(crate) fn records(&self) -> Result<impl Iterator<Item = (&LogFile, u32)>> {
        Ok(self.parts()?.1.iter().filter_map(|entry| {
            let file = self.files.get(usize::from(entry.file_ordinal.get()))?;
            Some((&**file, entry.new_offset.get()))
        }))
    }
}
