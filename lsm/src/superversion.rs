//! [`Superversion`]: everything a read needs, at one moment; and how it is swapped.

use std::ops::{Bound, Deref};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use crossbeam_epoch::{self as epoch, Atomic, Guard, Owned};
use kvdb_manifest::store::StoreChange;
use kvdb_sstable::{Hit, key_head};

use crate::admission::Memtables;
use crate::cursor::{Input, TreeCursor};
use crate::error::Result;
use crate::found::Found;
use crate::graveyard::{Graveyard, Remains};
use crate::memtable::Memtable;
use crate::range_delete::RangeDeletes;
use crate::stats::ReadCounters;
use crate::table::{Reader, TableFile};
use crate::version::{Level, Version};

/// Memtables, tables, the companion's view and the range deletes that belong together, and the
/// discard watermark that the tables were built with. Immutable but for what is inserted into the
/// active memtable.
///
/// A reader at a timestamp loads the timestamp first and the superversion afterwards; if
/// [`watermark`](Self::watermark) is above the timestamp, a version it should see may be gone, and
/// it starts over (or reports an error, if the timestamp was given to it).
pub struct Superversion<V> {
    /// Newest first; the first is the active one.
    memtables: Vec<Arc<Memtable>>,
    version: Arc<Version>,
    view: Arc<V>,
    range_deletes: Arc<RangeDeletes>,
    watermark: u64,
    counters: Arc<ReadCounters>,
}

/// Which part of the tree a [`TreeCursor`] is needed for.
#[derive(Debug, Clone)]
pub struct CursorOptions {
    /// Tables that hold no version newer than this are left out. 0: none are.
    pub since: u64,
    /// Tables that lie wholly below are left out.
    pub lower: Bound<Vec<u8>>,
    /// Tables that lie wholly above are left out.
    pub upper: Bound<Vec<u8>>,
}

impl Default for CursorOptions {
    fn default() -> Self {
        CursorOptions { since: 0, lower: Bound::Unbounded, upper: Bound::Unbounded }
    }
}

impl<V> Superversion<V> {
    pub(crate) fn new(
        memtables: &Memtables,
        version: Arc<Version>,
        view: Arc<V>,
        range_deletes: Arc<RangeDeletes>,
        watermark: u64,
        counters: Arc<ReadCounters>,
    ) -> Self {
        let memtables = memtables.newest_first().cloned().collect();
        Superversion { memtables, version, view, range_deletes, watermark, counters }
    }

    /// The same with other memtables.
    pub(crate) fn with_memtables(&self, memtables: &Memtables) -> Self {
        Superversion::new(
            memtables,
            self.version.clone(),
            self.view.clone(),
            self.range_deletes.clone(),
            self.watermark,
            self.counters.clone(),
        )
    }

    /// The same with the range deletes of a change.
    pub(crate) fn with_range_deletes(&self, memtables: &Memtables, change: &StoreChange) -> Self {
        let range_deletes = crate::version::apply_range_deletes(&self.range_deletes, change);
        Superversion { range_deletes, ..self.with_memtables(memtables) }
    }

    pub(crate) fn version(&self) -> &Arc<Version> {
        &self.version
    }

    /// The largest discard watermark any of its tables was built with: reading below it may miss
    /// versions.
    #[inline]
    pub fn watermark(&self) -> u64 {
        self.watermark
    }

    /// The companion's view that belongs to these tables.
    #[inline]
    pub fn view(&self) -> &Arc<V> {
        &self.view
    }

    /// The range deletes that readers have to consult.
    #[inline]
    pub fn range_deletes(&self) -> &Arc<RangeDeletes> {
        &self.range_deletes
    }

    /// Number of tables on each level.
    pub fn table_counts(&self) -> Vec<usize> {
        self.version.levels().iter().map(|l| l.tables().len()).collect()
    }

    /// One line: number and size of the tables of each level that has any.
    pub fn shape(&self) -> String {
        self.version.shape()
    }

    /// The newest version of `key` at or below `at_most`: of whatever kind, tombstones and expired
    /// entries included. `None`: there is none, or a range delete hides it. `hash` is
    /// [`key_hash`](kvdb_sstable::key_hash) of the key.
    ///
    /// It looks into the memtables, newest first, the tables of level 0, newest first, and at one
    /// table of each deeper level, and stops at the first hit: versions only grow, so nothing below
    /// a hit is newer. On a merge operand the reader goes on with [`get_older`](Self::get_older).
    ///
    /// # Errors
    /// Damage or I/O errors of the tables that were looked at.
    #[inline]
    pub fn get(&self, key: &[u8], at_most: u64, hash: u64) -> Result<Option<Found<'_>>> {
        let found = self.find(key, at_most, hash)?;
        Ok(found.filter(|f| !self.range_deletes.hides(key, f.version(), at_most)))
    }

    /// As [`get`](Self::get), but only versions older than `than`: what a reader at `at_most` that has
    /// met a merge operand of version `than` goes on to. (A `get` at `than - 1` would not consult
    /// the range deletes that this reader sees.)
    ///
    /// # Errors
    /// As `get`.
    pub fn get_older(
        &self,
        key: &[u8],
        than: u64,
        at_most: u64,
        hash: u64,
    ) -> Result<Option<Found<'_>>> {
        let Some(below) = than.checked_sub(1) else { return Ok(None) };
        let found = self.find(key, below.min(at_most), hash)?;
        Ok(found.filter(|f| !self.range_deletes.hides(key, f.version(), at_most)))
    }

    /// Asks the processor for what [`get`](Self::get) will look at first in each table that may hold
    /// the key: the words of its filter, if the table is open. Worth it before many reads.
    pub fn prefetch(&self, key: &[u8], hash: u64) {
        for table in Candidates::new(self.version.levels(), key, u64::MAX) {
            if let Some(reader) = table.opened() {
                reader.prefetch_filter(hash);
            }
        }
    }

    #[inline]
    fn find(&self, key: &[u8], at_most: u64, hash: u64) -> Result<Option<Found<'_>>> {
        for memtable in &self.memtables {
            if let Some(entry) = memtable.get(key, at_most, hash) {
                return Found::in_memtable(memtable.list(), entry).map(Some);
            }
        }
        // The filters of all tables that may have the key are asked for before any is tested, so that
        // their misses overlap.
        let mut candidates = Candidates::new(self.version.levels(), key, at_most);
        let mut ahead: [Option<&TableFile>; AHEAD] = [None; AHEAD];
        let mut count = 0;
        while count < AHEAD
            && let Some(table) = candidates.next()
        {
            if let Some(reader) = table.opened() {
                reader.prefetch_filter(hash);
            }
            ahead[count] = Some(table);
            count += 1;
        }
        for table in ahead.into_iter().flatten() {
            if let Some(found) = self.find_in(table, key, at_most, hash)? {
                return Ok(Some(found));
            }
        }
        // More than that only where compaction is far behind; no more than that: all have been seen.
        for table in candidates {
            if let Some(found) = self.find_in(table, key, at_most, hash)? {
                return Ok(Some(found));
            }
        }
        Ok(None)
    }

    #[inline]
    fn find_in<'a>(
        &self,
        table: &'a TableFile,
        key: &[u8],
        at_most: u64,
        hash: u64,
    ) -> Result<Option<Found<'a>>> {
        match table.reader_if_open() {
            Some(reader) => {
                self.find_with(reader, key, at_most, hash)?.map(Found::in_table).transpose()
            }
            None => self.find_in_closed(table, key, at_most, hash),
        }
    }

    #[cold]
    fn find_in_closed<'a>(
        &self,
        table: &'a TableFile,
        key: &[u8],
        at_most: u64,
        hash: u64,
    ) -> Result<Option<Found<'a>>> {
        if let Some(reader) = table.open_if_permitted()? {
            return self.find_with(reader, key, at_most, hash)?.map(Found::in_table).transpose();
        }
        let reader = table.reader_for_walk(false)?;
        let hit = self.find_with(&reader, key, at_most, hash)?;
        hit.map(|hit| Found::in_region(hit.version(), hit.to_region())).transpose()
    }

    #[inline]
    fn find_with<'r>(
        &self,
        reader: &'r Reader,
        key: &[u8],
        at_most: u64,
        hash: u64,
    ) -> Result<Option<Hit<'r>>> {
        if !reader.may_contain(hash)? {
            self.counters.filter_hit();
            return Ok(None);
        }
        let hit = reader.get_unfiltered(key, at_most)?;
        self.counters.filter_passed(hit.is_some());
        Ok(hit)
    }

    /// A cursor over all versions of all keys. It keeps what it reads from alive.
    pub fn cursor(&self) -> TreeCursor {
        self.cursor_with(&CursorOptions::default())
    }

    /// A cursor that leaves out tables which the options rule out. What it does show is not
    /// filtered otherwise; see [`Visible`](crate::Visible).
    pub fn cursor_with(&self, options: &CursorOptions) -> TreeCursor {
        let wanted = |t: &TableFile| {
            t.record.largest_version > options.since
                && match &options.lower {
                    Bound::Unbounded => true,
                    Bound::Included(key) => t.largest() >= key.as_slice(),
                    Bound::Excluded(key) => t.largest() > key.as_slice(),
                }
                && match &options.upper {
                    Bound::Unbounded => true,
                    Bound::Included(key) => t.smallest() <= key.as_slice(),
                    Bound::Excluded(key) => t.smallest() < key.as_slice(),
                }
        };
        let mut inputs = Vec::with_capacity(self.memtables.len() + 8);
        inputs.extend(self.memtables.iter().filter(|m| !m.list().is_empty()).map(Input::memtable));
        for (depth, level) in self.version.levels().iter().enumerate() {
            if depth == 0 {
                inputs.extend(level.tables().iter().filter(|t| wanted(t)).map(Input::table));
                continue;
            }
            let count = level.tables().iter().filter(|t| wanted(t)).count();
            if count == level.tables().len() && count > 0 {
                inputs.push(Input::level(level));
            } else if count > 0 {
                let tables = level.tables().iter().filter(|t| wanted(t));
                inputs.push(Input::tables(tables.cloned().collect()));
            }
        }
        TreeCursor::new(inputs)
    }

    /// How many entries are in memtables, all versions and kinds counted.
    pub fn unflushed_entries(&self) -> u64 {
        self.memtables.iter().map(|memtable| memtable.list().len() as u64).sum()
    }

    /// The records of its tables.
    pub fn table_records(&self) -> impl Iterator<Item = &kvdb_manifest::store::TableRecord> {
        self.version.tables().map(|table| &table.record)
    }

    /// A cursor over all versions of all keys in the memtables and in the tables whose records
    /// `wanted` accepts, to be read from front to back once.
    pub fn cursor_over(
        &self,
        wanted: impl Fn(&kvdb_manifest::store::TableRecord) -> bool,
    ) -> TreeCursor {
        let filled = self.memtables.iter().filter(|m| !m.list().is_empty());
        let mut inputs: Vec<Input> = filled.map(Input::memtable).collect();
        for (depth, level) in self.version.levels().iter().enumerate() {
            let tables = level.tables().iter().filter(|t| wanted(&t.record));
            match depth {
                0 => inputs.extend(tables.map(Input::table_scan)),
                _ => {
                    let tables: Vec<_> = tables.cloned().collect();
                    if !tables.is_empty() {
                        inputs.push(Input::tables_scan(tables));
                    }
                }
            }
        }
        TreeCursor::new(inputs)
    }
}

/// So many tables are looked at ahead of a point read. More only where compaction is far behind.
const AHEAD: usize = 12;

/// The tables that may hold a version of a key, in the order in which a read asks them.
struct Candidates<'a, 'k> {
    levels: &'a [Arc<Level>],
    depth: usize,
    /// Number of the next table of level 0.
    at: usize,
    key: &'k [u8],
    head: u64,
    at_most: u64,
}

impl<'a, 'k> Candidates<'a, 'k> {
    #[inline]
    fn new(levels: &'a [Arc<Level>], key: &'k [u8], at_most: u64) -> Self {
        Candidates { levels, depth: 0, at: 0, key, head: key_head(key), at_most }
    }
}

impl<'a> Iterator for Candidates<'a, '_> {
    type Item = &'a TableFile;

    #[inline]
    fn next(&mut self) -> Option<&'a TableFile> {
        loop {
            let level = self.levels.get(self.depth)?;
            let table = if self.depth == 0
                && let Some((i, table)) = level.covering(self.at, self.key, self.head)
            {
                self.at = i + 1;
                table
            } else {
                self.depth += 1;
                match self.levels.get(self.depth)?.candidate(self.key, self.head) {
                    Some(table) => table,
                    None => continue,
                }
            };
            if table.record.smallest_version <= self.at_most {
                return Some(table);
            }
        }
    }
}

impl<V> std::fmt::Debug for Superversion<V> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Superversion({} memtables, {})", self.memtables.len(), self.shape())
    }
}

/// The current superversion, read under a pin and without a shared counter.
pub(crate) struct Current<V: Send + Sync + 'static> {
    cell: Atomic<Arc<Superversion<V>>>,
    graveyard: Arc<Graveyard>,
}

/// A pin on the superversion that was current when it was taken. Keep it short: as long as any
/// thread holds one, no replaced superversion is freed.
pub struct Pinned<'t, V: Send + Sync + 'static> {
    /// Points to what `guard` protects.
    superversion: *const Arc<Superversion<V>>,
    _guard: Guard,
    _tree: std::marker::PhantomData<&'t Superversion<V>>,
}

impl<V: Send + Sync + 'static> Pinned<'_, V> {
    /// An owned handle, for longer than a moment.
    pub fn to_arc(&self) -> Arc<Superversion<V>> {
        // SAFETY: as for `deref`.
        unsafe { &*self.superversion }.clone()
    }
}

impl<V: Send + Sync + 'static> Deref for Pinned<'_, V> {
    type Target = Superversion<V>;

    #[inline]
    fn deref(&self) -> &Superversion<V> {
        // SAFETY: the pointer was loaded under the guard that lives as long as `self`. Whoever
        // replaces the superversion frees the old one only after every guard of that time is gone,
        // and the cell itself outlives `'t`.
        unsafe { &*self.superversion }
    }
}

impl<V: Send + Sync + 'static> Current<V> {
    pub(crate) fn new(superversion: Superversion<V>, graveyard: Arc<Graveyard>) -> Self {
        Current { cell: Atomic::new(Arc::new(superversion)), graveyard }
    }

    #[inline]
    pub(crate) fn pin(&self) -> Pinned<'_, V> {
        let guard = epoch::pin();
        let superversion = self.cell.load(Ordering::Acquire, &guard).as_raw();
        Pinned { superversion, _guard: guard, _tree: std::marker::PhantomData }
    }

    /// Makes `next` the current one. The former one goes to the graveyard when no reader can hold
    /// it any more. Callers hold the admission lock, so that no two replace at once.
    pub(crate) fn replace(&self, next: Superversion<V>) {
        let guard = epoch::pin();
        let former = self.cell.swap(Owned::new(Arc::new(next)), Ordering::AcqRel, &guard);
        let graveyard = self.graveyard.clone();
        graveyard.expect_deferred();
        // SAFETY: `former` came out of the cell and is in it no more, so nobody finds it who is
        // not pinned now, and only this closure owns it. Everything in it is `Send`, since the
        // closure may run on any thread.
        unsafe {
            guard.defer_unchecked(move || {
                graveyard.push_deferred(Remains::Object(Box::new(former.into_owned())));
            });
        }
        // Into the global queue, so that it does not wait for this thread's next deferral.
        guard.flush();
    }
}

impl<V: Send + Sync + 'static> Drop for Current<V> {
    fn drop(&mut self) {
        let cell = std::mem::replace(&mut self.cell, Atomic::null());
        // SAFETY: the cell is never null before this, and `&mut self` means that no pin borrows it.
        drop(unsafe { cell.into_owned() });
    }
}

/// Tries to move the epoch on and runs what has become due. A few rounds are needed.
pub(crate) fn drive_epoch() {
    for _ in 0..4 {
        epoch::pin().flush();
    }
}
