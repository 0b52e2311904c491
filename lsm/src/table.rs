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
    /// How many bytes of [`sections`](Use::sections) there may be before tables are closed again.
    pub(crate) sections_limit: u64,
    /// How many tables may be open before some are closed: as many as the options say, or fewer for a
    /// while after the system refused to open another file.
    open_limit: AtomicUsize,
    most_open: usize,
    /// It did so since tables were closed last.
    refused: AtomicBool,
    /// Tables that are open in some superversion.
    open: Use,
    /// Those of them that are open in the current one.
    current: Use,
    /// Those that only older ones had when nothing waited to be freed. What somebody holds comes on top
    /// of the limits: closing tables of the current superversion does not help against that.
    kept: Use,
}

/// What open tables take. It grows in one total order with the janitor's registration: see
/// [`Graveyard::register`].
#[derive(Debug, Default)]
struct Use {
    tables: AtomicUsize,
    /// Bytes of their indexes and filters, where they are not mapped.
    sections: AtomicU64,
}

impl Use {
    fn add(&self, reader: &Reader) {
        self.tables.fetch_add(1, Ordering::SeqCst);
        self.sections.fetch_add(held(reader), Ordering::SeqCst);
    }

    fn remove(&self, reader: &Reader) {
        self.tables.fetch_sub(1, Ordering::Relaxed);
        self.sections.fetch_sub(held(reader), Ordering::Relaxed);
    }

    fn get(&self) -> (usize, u64) {
        (self.tables.load(Ordering::SeqCst), self.sections.load(Ordering::SeqCst))
    }
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
            sections_limit: options.sections_limit(),
            open_limit: AtomicUsize::new(options.open_limit()),
            most_open: options.open_limit(),
            refused: AtomicBool::new(false),
            open: Use::default(),
            current: Use::default(),
            kept: Use::default(),
        }
    }

    /// Tables that are open in some superversion.
    pub(crate) fn open_tables(&self) -> usize {
        self.open.get().0
    }

    pub(crate) fn open_limit(&self) -> usize {
        self.open_limit.load(Ordering::Relaxed)
    }

    /// If something failed because the system has no descriptor left, there are to be fewer tables open
    /// than now.
    pub(crate) fn note_refusal(&self, error: &Error) {
        if !error.is_out_of_descriptors() {
            return;
        }
        self.refused.store(true, Ordering::Relaxed);
        let fewer = (self.current.get().0 / 4 * 3).max(LEAST_OPEN);
        if self.open_limit.fetch_min(fewer, Ordering::Relaxed) > fewer {
            tracing::warn!(limit = fewer, "no descriptor left: fewer tables are kept open");
        }
        self.graveyard.wake();
    }

    /// After tables were closed because of the limit: if as many as it allows could be opened since the
    /// last time, an eighth more may be tried.
    pub(crate) fn relax_open_limit(&self) {
        let limit = self.open_limit();
        if !self.refused.swap(false, Ordering::Relaxed) && limit < self.most_open {
            let more = (limit + limit / 8).min(self.most_open);
            // Unless it was just lowered again.
            let _ =
                self.open_limit.compare_exchange(limit, more, Ordering::Relaxed, Ordering::Relaxed);
        }
    }

    /// Bytes of indexes and filters in memory, in open tables that are not mapped.
    pub(crate) fn sections(&self) -> u64 {
        self.open.get().1
    }

    fn reaches(&self, (tables, sections): (usize, u64)) -> bool {
        tables >= self.open_limit() || sections >= self.sections_limit
    }

    /// Whether tables of the current superversion have to be closed.
    pub(crate) fn has_excess(&self) -> bool {
        self.reaches(self.current.get())
    }

    /// Whether open tables take as much memory, or are as many, as they may. What a superversion has
    /// that only waits to be freed counts, since nobody holds it: otherwise as much again could be
    /// opened, and so on.
    pub(crate) fn is_short(&self) -> bool {
        let (open, current, kept) = (self.open.get(), self.current.get(), self.kept.get());
        let tables = open.0 - kept.0.min(open.0.saturating_sub(current.0));
        let sections = open.1 - kept.1.min(open.1.saturating_sub(current.1));
        self.reaches(current) || self.reaches((tables, sections)) && !self.graveyard.is_empty()
    }

    /// Takes note of what older superversions have, if somebody holds all of them.
    pub(crate) fn note_kept(&self) {
        if !self.graveyard.is_empty() {
            return;
        }
        let (open, current) = (self.open.get(), self.current.get());
        self.kept.tables.store(open.0.saturating_sub(current.0), Ordering::Relaxed);
        self.kept.sections.store(open.1.saturating_sub(current.1), Ordering::Relaxed);
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
    /// The call of `compact_range` that had it rewritten in place; 0: none.
    pub(crate) call: u64,
    /// Bytes of its index and filter; 0 if unknown.
    pub(crate) sections: u64,
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
    /// That of walks which are under way while the table is not open: the parts of a job have the index in
    /// memory once.
    walker: Weak<Reader>,
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
        self.leave(&self.replaced);
        TableFile::with_life(
            self.record.clone(),
            self.built,
            self.context.clone(),
            self.life.clone(),
        )
    }

    /// Whether the current superversion has this handle. Changes under the lock that counting takes.
    fn is_current(&self) -> bool {
        !self.replaced.load(Ordering::Relaxed) && !self.life.obsolete.load(Ordering::Relaxed)
    }

    /// The current superversion does without this handle from now on, for this reason.
    fn leave(&self, reason: &AtomicBool) {
        let _opened = self.life.opened.lock();
        if self.is_current()
            && let Some(reader) = self.slot.reader.get()
        {
            self.context.current.remove(reader);
        }
        reason.store(true, Ordering::Release);
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
        let context = &self.context;
        context.is_short()
            || self.replaced.load(Ordering::Relaxed)
            || !self.is_current() && context.reaches(context.open.get())
    }

    /// A reader for a walk through the table. `once`: for one that is not coming back, a job's. If
    /// the table is not open and not mapped, that reader goes with the walk; so it does for everybody
    /// while open tables take more memory, or are more, than they may.
    pub(crate) fn reader_for_walk(&self, once: bool) -> Result<Arc<Reader>> {
        if let Some(reader) = self.reader_if_open() {
            return Ok(reader.clone());
        }
        if (once && !self.context.mapped) || self.must_stay_closed() {
            let mut opened = self.life.opened.lock();
            if let Some(reader) = opened.reader.upgrade().or_else(|| opened.walker.upgrade()) {
                return Ok(reader);
            }
            let reader = Arc::new(self.open_reader()?);
            opened.walker = Arc::downgrade(&reader);
            return Ok(reader);
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
        // Before it is counted: whoever looks for what to close because of this one finds it.
        let reader = self.slot.reader.get_or_init(|| reader);
        if opened.handles == 0 {
            opened.reader = Arc::downgrade(reader);
            context.open.add(reader);
        }
        opened.handles += 1;
        if self.is_current() {
            context.current.add(reader);
            if context.has_excess() {
                context.graveyard.wake();
            }
        }
        Ok(reader)
    }

    fn open_reader(&self) -> Result<Reader> {
        self.try_open_reader().map_err(|error| {
            if error.is_not_found() && self.context.graveyard.is_closed() {
                return Error::Closed;
            }
            self.context.note_refusal(&error);
            error
        })
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
        self.leave(&self.life.obsolete);
    }
}

impl Drop for TableFile {
    fn drop(&mut self) {
        if let Some(reader) = self.slot.reader.take() {
            let mut opened = self.life.opened.lock();
            if self.is_current() {
                self.context.current.remove(&reader);
            }
            opened.handles -= 1;
            if opened.handles == 0 {
                opened.reader = Weak::new();
                self.context.open.remove(&reader);
            }
            drop(opened);
            self.context.graveyard.push(Remains::Object(Box::new(reader)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::entry::Entry;
    use crate::testing::{flush, tree_with};
    use crate::{Background, NoCompanion};

    #[test]
    fn walks_at_the_same_time_share_a_reader_that_goes_with_the_last_of_them() {
        let reads = Reads::Positioned { block_cache_bytes: 1 << 20 };
        let options = Options {
            reads,
            background: Background::Manual,
            paranoid: false,
            ..Options::default()
        };
        let tree = tree_with(options, NoCompanion::default());
        flush(&tree, &[("a", 1, Entry::value(b"v"))]);
        let superversion = tree.superversion();
        let table = superversion.version().tables().next().unwrap();
        let [one, two] = [(); 2].map(|()| table.reader_for_walk(true).unwrap());
        assert!(Arc::ptr_eq(&one, &two));
        assert_eq!(Arc::strong_count(&one), 2);
        let gone = Arc::downgrade(&one);
        drop((one, two));
        assert!(gone.upgrade().is_none() && table.opened().is_none());
        table.reader_for_walk(true).unwrap();
        // One that is open is shared with walks too.
        let open = table.open_if_permitted().unwrap().unwrap();
        assert!(Arc::ptr_eq(open, &table.reader_for_walk(true).unwrap()));
    }
}
