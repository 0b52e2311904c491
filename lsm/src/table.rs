//! A table of the tree: its record in the manifest, and its reader once somebody needs it.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock, Weak};

use kvdb_manifest::store::TableRecord;
use kvdb_sstable::{AnySource, BlockCache, Identity, ReaderOptions, Table};
use kvdb_vfs::{Advice, Fs, OpenMode};
use parking_lot::Mutex;

use crate::error::{Error, Result};
use crate::file_ids::table_path;
use crate::graveyard::{Graveyard, Remains};
use crate::options::{Options, Reads};

pub(crate) type Reader = Table<AnySource>;

/// What all tables of a tree have in common.
#[derive(Debug)]
pub(crate) struct TableContext {
    pub(crate) fs: Arc<dyn Fs>,
    pub(crate) dir: PathBuf,
    pub(crate) database: u128,
    pub(crate) mapped: bool,
    pub(crate) cache: Option<BlockCache>,
    pub(crate) graveyard: Arc<Graveyard>,
    /// Bytes of the indexes and filters of open tables that are not mapped.
    sections: AtomicU64,
    /// How many of them there may be before tables are closed again.
    pub(crate) sections_limit: u64,
    /// Tables that are open in some superversion.
    open: AtomicUsize,
    /// How many of them there may be before some are closed. Lowered when the system refuses to open
    /// another file.
    open_limit: AtomicUsize,
    /// Of both, what only older superversions had at the last look. It comes on top of the limits:
    /// closing tables of the current one does not help against that.
    elsewhere: AtomicUsize,
    sections_elsewhere: AtomicU64,
}

/// However few descriptors there are, so many tables may be open.
pub(crate) const LEAST_OPEN: usize = 16;

impl TableContext {
    pub(crate) fn new(fs: Arc<dyn Fs>, dir: &Path, database: u128, options: &Options) -> Self {
        let (mapped, cache) = match options.reads {
            Reads::Mapped => (true, None),
            Reads::Positioned { block_cache_bytes } => {
                (false, Some(BlockCache::new(block_cache_bytes)))
            }
        };
        // Compressed blocks are worth keeping decompressed, also where the file is mapped.
        let cache = cache.or_else(|| Some(BlockCache::new(options.mapped_cache_bytes)));
        let graveyard = Graveyard::new();
        TableContext {
            fs,
            dir: dir.to_owned(),
            database,
            mapped,
            cache,
            graveyard,
            sections: AtomicU64::new(0),
            sections_limit: options.sections_limit(),
            open: AtomicUsize::new(0),
            open_limit: AtomicUsize::new(options.open_limit()),
            elsewhere: AtomicUsize::new(0),
            sections_elsewhere: AtomicU64::new(0),
        }
    }

    /// Tables that are open in some superversion.
    pub(crate) fn open_tables(&self) -> usize {
        self.open.load(Ordering::Relaxed)
    }

    pub(crate) fn open_limit(&self) -> usize {
        self.open_limit.load(Ordering::Relaxed)
    }

    /// The system has no descriptor left: from now on there are to be fewer tables open than now.
    fn lower_open_limit(&self) {
        let fewer = (self.open_tables() / 4 * 3).max(LEAST_OPEN);
        if self.open_limit.fetch_min(fewer, Ordering::Relaxed) > fewer {
            tracing::warn!(limit = fewer, "no descriptor left: fewer tables are kept open");
        }
        self.graveyard.wake();
    }

    /// Bytes of indexes and filters in memory, in open tables that are not mapped.
    pub(crate) fn sections(&self) -> u64 {
        self.sections.load(Ordering::Relaxed)
    }

    /// Whether open tables take as much memory, or are as many, as they may.
    pub(crate) fn is_short(&self) -> bool {
        let elsewhere = self.elsewhere.load(Ordering::Relaxed);
        let sections = self.sections_elsewhere.load(Ordering::Relaxed);
        self.sections() >= self.sections_limit.saturating_add(sections)
            || self.open_tables() >= self.open_limit().saturating_add(elsewhere)
    }

    /// Takes note of how many tables are open in the current superversion, and what they hold. What
    /// superversions have that only wait to be freed does not count as somebody's: it would permit as
    /// much again, and so on.
    pub(crate) fn note_current(&self, open: usize, sections: u64) {
        let mut most = (usize::MAX, u64::MAX);
        if !self.graveyard.is_empty() {
            most.0 = self.elsewhere.load(Ordering::Relaxed);
            most.1 = self.sections_elsewhere.load(Ordering::Relaxed);
        }
        let elsewhere = self.open_tables().saturating_sub(open).min(most.0);
        self.elsewhere.store(elsewhere, Ordering::Relaxed);
        let elsewhere = self.sections().saturating_sub(sections).min(most.1);
        self.sections_elsewhere.store(elsewhere, Ordering::Relaxed);
    }

    /// Whether tables were open at the last look that only older superversions had.
    pub(crate) fn had_elsewhere(&self) -> bool {
        self.elsewhere.load(Ordering::Relaxed) > 0
    }
}

/// What was droppable when a table was written: it is no use to look again before that has changed.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Built {
    /// Discard floor its entries were filtered with; 0 if unknown.
    pub(crate) floor: u64,
    /// Clock its entries were filtered with; 0 if unknown.
    pub(crate) clock: u64,
    /// Wait so many seconds beyond `clock` before looking for expired entries again.
    pub(crate) patience: u64,
}

/// One table, shared by all versions of the tree that have it. When the last of them goes and the
/// table is no longer part of the tree, its file is queued for removal.
///
/// A table that nobody reads any more is closed by putting another handle of it, which is not open,
/// into the next superversion: nobody has to ask whether it is open still. All handles of a table
/// share one reader, so a table is open once however many superversions have it.
#[derive(Debug)]
pub(crate) struct TableFile {
    pub(crate) record: TableRecord,
    pub(crate) built: Built,
    context: Arc<TableContext>,
    slot: Slot,
    /// The current superversion has another handle: this one is not opened any more, since nobody would
    /// close it.
    replaced: AtomicBool,
    /// Behind the reader, so that it goes first.
    life: Arc<Life>,
}

/// What every read of a table looks at first, next to each other.
#[derive(Debug, Default)]
struct Slot {
    reader: OnceLock<Arc<Reader>>,
    /// Whether it was read since this was last asked.
    used: AtomicBool,
}

/// The file of a table, shared by all handles of it.
#[derive(Debug)]
struct Life {
    path: PathBuf,
    graveyard: Arc<Graveyard>,
    obsolete: AtomicBool,
    opened: Mutex<Opened>,
}

/// The reader that all handles of a table share which are open.
#[derive(Debug, Default)]
struct Opened {
    reader: Weak<Reader>,
    handles: usize,
}

impl Drop for Life {
    fn drop(&mut self) {
        if self.obsolete.load(Ordering::Acquire) {
            self.graveyard.push(Remains::File(std::mem::take(&mut self.path)));
        }
    }
}

/// Bytes of a reader's index and filter, if they are in memory of ours.
fn held(reader: &Reader) -> u64 {
    match reader.source() {
        AnySource::File(_) => {
            let p = reader.properties();
            p.file_len.saturating_sub(p.stored_bytes)
        }
        _ => 0,
    }
}

impl TableFile {
    pub(crate) fn new(record: TableRecord, built: Built, context: Arc<TableContext>) -> Self {
        let life = Arc::new(Life {
            path: table_path(&context.dir, record.id),
            graveyard: context.graveyard.clone(),
            obsolete: AtomicBool::new(false),
            opened: Mutex::default(),
        });
        TableFile::with_life(record, built, context, life)
    }

    fn with_life(
        record: TableRecord,
        built: Built,
        context: Arc<TableContext>,
        life: Arc<Life>,
    ) -> Self {
        TableFile {
            record,
            built,
            context,
            slot: Slot::default(),
            replaced: AtomicBool::new(false),
            life,
        }
    }

    /// Another handle of the same table, which is not open and takes this one's place.
    pub(crate) fn closed(&self) -> TableFile {
        self.replaced.store(true, Ordering::Relaxed);
        TableFile::with_life(
            self.record.clone(),
            self.built,
            self.context.clone(),
            self.life.clone(),
        )
    }

    /// Bytes that closing the table would set free; 0 if it is not open, or mapped.
    pub(crate) fn held(&self) -> u64 {
        self.slot.reader.get().map_or(0, |reader| held(reader))
    }

    /// Whether it was read since this was last asked.
    pub(crate) fn take_used(&self) -> bool {
        self.slot.used.swap(false, Ordering::Relaxed)
    }

    pub(crate) fn id(&self) -> u64 {
        self.record.id
    }

    pub(crate) fn size(&self) -> u64 {
        self.record.size
    }

    pub(crate) fn smallest(&self) -> &[u8] {
        &self.record.smallest_key
    }

    pub(crate) fn largest(&self) -> &[u8] {
        &self.record.largest_key
    }

    #[inline]
    pub(crate) fn covers(&self, key: &[u8]) -> bool {
        self.smallest() <= key && key <= self.largest()
    }

    pub(crate) fn overlaps(&self, smallest: &[u8], largest: &[u8]) -> bool {
        self.smallest() <= largest && smallest <= self.largest()
    }

    /// Log bytes that the table's pointers refer to.
    pub(crate) fn pointer_bytes(&self) -> u64 {
        self.record.pointers.iter().map(|p| p.bytes).fold(0, u64::saturating_add)
    }

    pub(crate) fn path(&self) -> PathBuf {
        table_path(&self.context.dir, self.id())
    }

    /// Checks that the file is there with the length it should have.
    pub(crate) fn check_file(&self) -> Result<()> {
        let path = self.path();
        match self.context.fs.metadata(&path) {
            Ok(meta) if meta.len == self.size() => Ok(()),
            Ok(meta) => Err(Error::TableSize { path, expected: self.size(), found: meta.len }),
            Err(e) if e.kind() == kvdb_vfs::ErrorKind::NotFound => {
                Err(Error::MissingTable { path })
            }
            Err(e) => Err(e.into()),
        }
    }

    /// The reader, for a read: if the file is open already.
    #[inline]
    pub(crate) fn reader_if_open(&self) -> Option<&Arc<Reader>> {
        let slot = &self.slot;
        if !slot.used.load(Ordering::Relaxed) {
            slot.used.store(true, Ordering::Relaxed);
        }
        slot.reader.get()
    }

    /// The reader; opens the file if this is the first use. `None`: it must not stay open, since as many
    /// tables are open as may be; [`reader_for_walk`](Self::reader_for_walk) gives a reader that does not.
    #[cold]
    pub(crate) fn open_if_permitted(&self) -> Result<Option<&Arc<Reader>>> {
        if self.slot.reader.get().is_none() && self.must_stay_closed() {
            return Ok(None);
        }
        self.open().map(Some)
    }

    fn must_stay_closed(&self) -> bool {
        self.context.is_short() || self.replaced.load(Ordering::Relaxed)
    }

    /// A reader for a walk through the table. `once`: for one that is not coming back, a job's. If
    /// the table is not open and not mapped, that reader goes with the walk; so it does for everybody
    /// while open tables take more memory, or are more, than they may.
    pub(crate) fn reader_for_walk(&self, once: bool) -> Result<Arc<Reader>> {
        if let Some(reader) = self.reader_if_open() {
            return Ok(reader.clone());
        }
        if (once && !self.context.mapped) || self.must_stay_closed() {
            let shared = self.life.opened.lock().reader.upgrade();
            return shared.map_or_else(|| self.open_reader().map(Arc::new), Ok);
        }
        self.open().cloned()
    }

    /// The reader, if the file is open already.
    #[inline]
    pub(crate) fn opened(&self) -> Option<&Arc<Reader>> {
        self.slot.reader.get()
    }

    #[cold]
    fn open(&self) -> Result<&Arc<Reader>> {
        let mut opened = self.life.opened.lock();
        if let Some(reader) = self.slot.reader.get() {
            return Ok(reader);
        }
        let reader = match opened.reader.upgrade() {
            Some(reader) => reader,
            None => Arc::new(self.open_reader()?),
        };
        let context = &self.context;
        if opened.handles == 0 {
            opened.reader = Arc::downgrade(&reader);
            context.open.fetch_add(1, Ordering::Relaxed);
            context.sections.fetch_add(held(&reader), Ordering::Relaxed);
            if context.is_short() {
                context.graveyard.wake();
            }
        }
        opened.handles += 1;
        Ok(self.slot.reader.get_or_init(|| reader))
    }

    fn open_reader(&self) -> Result<Reader> {
        let reader = self.try_open_reader();
        if reader.as_ref().is_err_and(Error::is_out_of_descriptors) {
            self.context.lower_open_limit();
        }
        reader
    }

    fn try_open_reader(&self) -> Result<Reader> {
        let context = &self.context;
        let path = self.path();
        let file = context.fs.open(&path, OpenMode::Read)?;
        let len = file.len()?;
        if len != self.size() {
            return Err(Error::TableSize { path, expected: self.size(), found: len });
        }
        file.advise(0..len, Advice::Random);
        let source = AnySource::open(file, context.mapped)?;
        let mut options = ReaderOptions::default();
        options.identity = Some(Identity { database: context.database, table: self.id() });
        options.path = Some(path);
        options.cache = context.cache.clone();
        Ok(Table::open(source, options)?)
    }

    /// Has the system read the whole file: it is about to be, from front to back. Without this a
    /// map that is advised for random access would be read page by page.
    pub(crate) fn read_ahead(&self, reader: &Reader) {
        if let AnySource::Mapped(_, Some(file)) | AnySource::File(file) = reader.source() {
            file.advise(0..self.size(), Advice::WillNeed);
        }
    }

    /// Reads the table from end to end and compares it with its record.
    pub(crate) fn verify(&self) -> Result<()> {
        let reader = self.reader_for_walk(true)?;
        reader.verify()?;
        let (p, r) = (reader.properties(), &self.record);
        let same = p.entries == r.entries
            && p.smallest_key == r.smallest_key
            && p.largest_key == r.largest_key
            && (p.smallest_version, p.largest_version) == (r.smallest_version, r.largest_version);
        if !same {
            let what = format!("{} is not what the manifest says", self.path().display());
            return Err(Error::Inconsistent(what));
        }
        Ok(())
    }

    /// The table has left the tree; its file goes when its last holder does.
    pub(crate) fn mark_obsolete(&self) {
        self.life.obsolete.store(true, Ordering::Release);
    }
}

impl Drop for TableFile {
    fn drop(&mut self) {
        if let Some(reader) = self.slot.reader.take() {
            let mut opened = self.life.opened.lock();
            opened.handles -= 1;
            if opened.handles == 0 {
                opened.reader = Weak::new();
                self.context.open.fetch_sub(1, Ordering::Relaxed);
                self.context.sections.fetch_sub(held(&reader), Ordering::Relaxed);
            }
            drop(opened);
            self.context.graveyard.push(Remains::Object(Box::new(reader)));
        }
    }
}
