//! Relocation tables: looking up where a record is.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use kvdb_vfs::{File, Fs, OpenMode, Region};
use parking_lot::Mutex;
use zerocopy::FromBytes;
use zerocopy::little_endian::U32;

use super::{
    Entry, FEW_ENTRIES, FileEntry, Identity, MOST_SHARED, MOST_SHIFT, READ_AT_ONCE, RecordFiles,
    TABLE_MAGIC, TableHeader, relocation_table_path,
};
use crate::file::LogFile;
use crate::format::FORMAT_VERSION;
use crate::{Error, Options, Relocated, Result};

/// The new place of a collected segment, open and ready for [`Log::relocate`](crate::Log::relocate).
#[derive(Debug)]
pub struct RelocatedSegment {
    pub(crate) segment: u32,
    pub(crate) table: Arc<Relocation>,
}

/// The table of one relocated segment, open for lookups.
///
/// Its header is verified when it is opened, the rest when it is first looked into, so that
/// opening a log takes no longer for having many tables. One of few records, which may share its file
/// with others, is read at once and holds no descriptor; a long one, of thousands of records, holds one
/// by itself or by its map.
#[derive(Debug)]
pub(crate) struct Relocation {
    path: PathBuf,
    unread: Mutex<Unread>,
    /// Where in the file it is, which for one that is not read at once is its beginning, and its length.
    at: u64,
    len: u64,
    body_crc: u32,
    maps: bool,
    files: Vec<Arc<LogFile>>,
    shift: u32,
    /// Where in the table the directory of buckets and the entries are.
    directory: Range<usize>,
    entries: Range<usize>,
    /// The table's bytes, once they are verified.
    bytes: OnceLock<Region>,
}

/// Where the bytes come from that are verified when they are first needed.
#[derive(Debug)]
enum Unread {
    Bytes(Region),
    File(Arc<dyn File>),
}

/// A file of tables, as it is when tables of it are being opened.
#[derive(Debug)]
pub(super) struct TableFile {
    path: PathBuf,
    source: Source,
    /// The tables that it holds, by segment: place and header.
    tables: BTreeMap<u32, (usize, TableHeader)>,
    /// Where something is that is no table's header.
    damaged: Option<u64>,
}

/// Where the tables of a file are read from.
#[derive(Debug)]
enum Source {
    /// All of it: the file is not open any more.
    Bytes(Region),
    /// The file, of one long table.
    File(Arc<dyn File>),
}

impl TableFile {
    fn open(
        fs: &dyn Fs,
        dir: &Path,
        database: u128,
        relocated: &Relocated,
        opened: &mut RecordFiles,
    ) -> Result<Arc<Self>> {
        let path = relocation_table_path(dir, relocated.table);
        let file = fs.open(&path, OpenMode::Read)?;
        let found = file.len()?;
        let expected = TableHeader::LEN as u64;
        if found < expected {
            return Err(Error::Truncated { path, expected, found });
        }
        let at_once = found <= READ_AT_ONCE;
        let mut bytes = vec![0; if at_once { found as usize } else { TableHeader::LEN }];
        file.read_exact_at(&mut bytes, 0)?;
        let Ok((first, _)) = TableHeader::read_from_prefix(&bytes) else {
            return Err(Error::NotASegment { path });
        };
        let identity = Identity {
            path: &path,
            magic: first.magic == TABLE_MAGIC,
            format: first.format.get(),
            verifies: first.verifies(0),
            database: (database, first.database.get()),
            fields: &[
                ("file id", relocated.table, first.file.get()),
                ("nonce", relocated.table_nonce, first.nonce.get()),
            ],
        };
        let [.., end] = first.parts();
        let expected = end as u64;
        let damage = match identity.check() {
            Ok(()) if found < expected || first.shift.get() > MOST_SHIFT => {
                Some(Error::Truncated { path: path.clone(), expected, found })
            }
            checked => checked.err(),
        };
        let alone = damage.is_none()
            && (expected == found && first.entries.get() as usize > FEW_ENTRIES && !at_once);
        if alone || found > MOST_SHARED {
            if let Some(error) = damage {
                return Err(error);
            }
            let tables = BTreeMap::from([(first.segment.get(), (0, first))]);
            let source = Source::File(file);
            return Ok(Arc::new(TableFile { path, source, tables, damaged: None }));
        }
        if !at_once {
            bytes = vec![0; found as usize];
            file.read_exact_at(&mut bytes, 0)?;
        }
        let (tables, damaged) = tables_in(&bytes, database, relocated);
        // Of several tables the first may be damaged; of one it says what is wrong.
        if let Some(error) = damage.filter(|_| tables.is_empty()) {
            return Err(error);
        }
        if let Some(at) = damaged {
            tracing::warn!(path = %path.display(), at, "damage among relocation tables");
        }
        let shared = damaged.is_some() || tables.len() > 1;
        let source = Source::Bytes(Region::from_vec(bytes));
        let this = Arc::new(TableFile { path, source, tables, damaged });
        if shared {
            opened.shared.insert(relocated.table, this.clone());
        }
        Ok(this)
    }

    /// Where the table of this segment is, and its header.
    fn find(&self, segment: u32) -> Result<(usize, TableHeader)> {
        if let Some(found) = self.tables.get(&segment) {
            return Ok(*found);
        }
        Err(match (self.damaged, self.tables.first_key_value()) {
            (None, Some((found, _))) => Error::WrongFile {
                path: self.path.clone(),
                what: "segment",
                expected: segment.into(),
                found: (*found).into(),
            },
            (at, _) => Error::damaged(&self.path, at.unwrap_or(0), "a file header"),
        })
    }
}

/// The tables in a file, by segment, and where it is damaged. Each header says how long its table is;
/// behind damage, which may be in a table that nobody needs any more, the next one is looked for: what
/// verifies at its place is one.
fn tables_in(
    bytes: &[u8],
    database: u128,
    relocated: &Relocated,
) -> (BTreeMap<u32, (usize, TableHeader)>, Option<u64>) {
    let (mut tables, mut damaged) = (BTreeMap::new(), None);
    let mut at = 0;
    while let Some(left) = bytes.get(at..).filter(|left| !left.is_empty()) {
        let header = TableHeader::read_from_prefix(left).map(|(header, _)| header);
        let ours = |h: &TableHeader| {
            h.magic == TABLE_MAGIC
                && h.format.get() == FORMAT_VERSION
                && h.database.get() == database
                && (h.file.get(), h.nonce.get()) == (relocated.table, relocated.table_nonce)
                && h.verifies(at as u64)
                && h.parts()[3] <= left.len()
                && h.shift.get() <= MOST_SHIFT
        };
        match header.ok().filter(ours) {
            Some(header) => {
                tables.insert(header.segment.get(), (at, header));
                at += header.parts()[3];
            }
            None => {
                damaged = damaged.or(Some(at as u64));
                let magic = |bytes: &[u8]| bytes == TABLE_MAGIC;
                let next = left[1..].windows(TABLE_MAGIC.len()).position(magic);
                at = next.map_or(bytes.len(), |next| at + 1 + next);
            }
        }
    }
    (tables, damaged)
}

impl Relocation {
    /// Reads and verifies a table's header, and those of others in the same file, and opens the record
    /// files it names.
    pub(crate) fn open(
        fs: &dyn Fs,
        dir: &Path,
        database: u128,
        segment: u32,
        relocated: &Relocated,
        options: &Options,
        opened: &mut RecordFiles,
    ) -> Result<Self> {
        let file = match opened.shared.get(&relocated.table) {
            Some(shared) => shared.clone(),
            None => TableFile::open(fs, dir, database, relocated, opened)?,
        };
        let path = file.path.clone();
        let (at, header) = file.find(segment)?;
        // The header verifies, so these are what was written.
        let [files_at, directory_at, entries_at, end] = header.parts();
        let (unread, named) = match &file.source {
            Source::Bytes(bytes) => {
                let Some(table) = bytes.subregion(at..at + end) else {
                    let (expected, found) = ((at + end) as u64, bytes.len() as u64);
                    return Err(Error::Truncated { path, expected, found });
                };
                let named = table.get(files_at..directory_at).unwrap_or_default().to_vec();
                (Unread::Bytes(table), named)
            }
            Source::File(file) => {
                let mut named = vec![0; directory_at - files_at];
                file.read_exact_at(&mut named, files_at as u64)?;
                (Unread::File(file.clone()), named)
            }
        };
        let mut files = Vec::with_capacity(header.files.get() as usize);
        for entry in named.chunks_exact(size_of::<FileEntry>()) {
            let Ok(entry) = FileEntry::ref_from_bytes(entry) else { continue };
            files.push(opened.get(fs, dir, database, entry, options)?);
        }
        Ok(Relocation {
            path,
            unread: Mutex::new(unread),
            at: at as u64,
            len: end as u64,
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

    /// The bytes of the table, verified.
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
            let at = self.at + TableHeader::LEN as u64;
            return Err(Error::damaged(&self.path, at, "a relocation table"));
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
