//! [`Tree`]: the handle.

use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use kvdb_manifest::Manifest;
use kvdb_manifest::store::{StoreChange, StoreState};
use kvdb_sstable::{Cursor, key_hash};
use kvdb_vfs::Fs;
use parking_lot::Mutex;

use crate::admission::{Admission, Reservation};
use crate::compaction::job::Range;
use crate::compaction::pick::Picker;
use crate::companion::Companion;
use crate::entry::Entry;
use crate::error::{Error, Result};
use crate::file_ids::{FileIds, leading_file_id, parse_table_file_name};
use crate::install::{InstallState, Installation};
use crate::memtable::entry_bound;
use crate::options::{Background, Options};
use crate::range_delete::RangeDeletes;
use crate::shared::{Scheduler, Shared};
use crate::stall::Pressure;
use crate::stats::{ReadCounters, Stats, WorkCounters};
use crate::superversion::{Current, Pinned, Superversion};
use crate::table::{Built, TableContext};
use crate::table_writer::check_compression;
use crate::version::Version;
use crate::workers::Workers;

/// A leveled LSM tree of `(key, version) → entry`. See the [crate's documentation](crate).
///
/// Used as `Arc<Tree<C>>` by as many threads as one likes. Dropping the last handle closes it; what
/// is only in memtables is then lost, unless a log has it.
pub struct Tree<C: Companion> {
    shared: Arc<Shared<C>>,
    workers: Mutex<Workers>,
}

/// A unit of background work, for [`Tree::step`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Job {
    /// Flush one sealed memtable.
    Flush,
    /// Run one compaction, those for garbage included.
    Compact,
    /// Free what nobody reads any more, files included.
    Reclaim,
}

impl<C: Companion> Tree<C> {
    /// Opens the tree whose tables `manifest` names, in the directory `dir`.
    ///
    /// Checks that every table is there with the right length; opens none of them. Costs one `stat`
    /// per table and a listing of the directory. Orphans stay until
    /// [`remove_orphans`](Self::remove_orphans). No thread runs before [`start`](Self::start).
    ///
    /// # Errors
    /// An option out of range; a table that is missing or has another length, naming it; tables of
    /// a level that overlap; those of the file system.
    pub fn open(
        fs: Arc<dyn Fs>,
        dir: &Path,
        manifest: Arc<Manifest<StoreState>>,
        options: Options,
        companion: Arc<C>,
        read_only: bool,
    ) -> Result<Arc<Tree<C>>> {
        options.validate()?;
        check_compression(options.compression)?;
        let tables = TableContext::new(fs.clone(), dir, manifest.database(), &options);
        let tables = Arc::new(tables);
        let ids = FileIds::new(manifest.read(StoreState::next_file));
        for entry in fs.list(dir)? {
            if let Some(id) = leading_file_id(&entry.name) {
                ids.skip(id);
            }
        }
        // Of tables from earlier runs it is not known what they were filtered with. Tables that keep
        // several versions would be rewritten in vain again and again.
        let (watermark, clock) = manifest.read(|s| (s.watermark(), s.clock()));
        let built = match options.versions_to_keep {
            1 => Built::default(),
            _ => Built { floor: watermark, clock, patience: 0 },
        };
        let (version, ranges) = manifest.read(|state| {
            let version = Version::from_state(state, options.max_levels, built, &tables);
            (version, RangeDeletes::new(state.range_deletes().cloned().collect()))
        });
        for table in version.tables() {
            table.check_file()?;
        }
        version.check()?;
        let admission = Admission::new(&options, ids.nonce())?;
        let reads = Arc::new(ReadCounters::default());
        let superversion = Superversion::new(
            &admission.lock(),
            Arc::new(version),
            companion.view(),
            Arc::new(ranges),
            watermark,
            reads.clone(),
        );
        let current = Current::new(superversion, tables.graveyard.clone());
        let shared = Arc::new(Shared {
            fs,
            dir: dir.to_owned(),
            manifest,
            companion,
            read_only,
            ids,
            tables,
            admission,
            current,
            install: Mutex::new(InstallState::default()),
            flushing: Mutex::new(()),
            scheduler: Scheduler::default(),
            closing: AtomicBool::new(false),
            started: AtomicBool::new(false),
            work: WorkCounters::default(),
            reads,
            pool: OnceLock::new(),
            opened: Instant::now(),
            last_flush: AtomicU64::new(0),
            options,
        });
        shared.update_pressure();
        Ok(Arc::new(Tree { shared, workers: Mutex::default() }))
    }

    /// Recovery is done: starts the background threads (none with [`Background::Manual`]). A second
    /// call does nothing.
    ///
    /// # Errors
    /// [`Error::Thread`], and the tree is closed then.
    pub fn start(&self) -> Result<()> {
        let shared = &self.shared;
        let mut workers = self.workers.lock();
        if shared.has_threads() || shared.is_closing() {
            return Ok(());
        }
        let newest = shared.admission.lock().active.sequence();
        shared.install.lock().first_barrier = Some(newest);
        if shared.options.background == Background::Threads {
            *workers = Workers::start(shared)?;
            shared.started.store(true, Ordering::Release);
        }
        Ok(())
    }

    /// Stops background work, within a second, and waits for it. What is only in memtables stays
    /// there: [`flush`](Self::flush) first if it is to be on disk. Reads go on to work. A second
    /// call does nothing.
    pub fn close(&self) {
        self.shared.request_close();
        self.workers.lock().join();
        self.shared.reclaim();
    }

    /// The options it was opened with.
    pub fn options(&self) -> &Options {
        &self.shared.options
    }

    /// The companion.
    pub fn companion(&self) -> &Arc<C> {
        &self.shared.companion
    }

    /// The allocator of file ids and nonces, above everything that the manifest and the directory
    /// know. Whoever else creates files in the directory draws from it.
    pub fn file_ids(&self) -> &FileIds {
        &self.shared.ids
    }

    /// Removes table files that the manifest does not name: outputs of jobs that did not come to
    /// their end. For after everything that is named has been found, and never together with running
    /// jobs. Returns the names of what it removed.
    ///
    /// # Errors
    /// Those of the file system; [`Error::ReadOnly`].
    pub fn remove_orphans(&self) -> Result<Vec<std::path::PathBuf>> {
        let shared = &self.shared;
        if shared.read_only {
            return Err(Error::ReadOnly);
        }
        let _no_flush = shared.flushing.lock();
        let current = shared.superversion();
        let mut removed = Vec::new();
        for entry in shared.fs.list(&shared.dir)? {
            let unfinished = entry.name.to_str().and_then(|n| n.strip_suffix(".tmp"));
            let name = unfinished.map_or(entry.name.as_path(), Path::new);
            let Some(id) = parse_table_file_name(name) else { continue };
            if unfinished.is_none() && current.version().tables().any(|t| t.id() == id) {
                continue;
            }
            shared.fs.remove(&shared.dir.join(&entry.name))?;
            tracing::info!(name = %entry.name.display(), "removed an orphaned table");
            removed.push(entry.name);
        }
        Ok(removed)
    }

    // ---- writing ----

    /// The most memtable bytes that an entry can take. A frame's reservation is the sum over its
    /// entries.
    pub fn entry_bound(key_len: usize, entry: &Entry<'_>) -> usize {
        entry_bound(key_len, entry.encoded_len())
    }

    /// Reserves memtable room for a frame, before the frame has a version. Waits for room if need
    /// be; a backlog of flushes or compactions slows it down, then stops it.
    ///
    /// # Errors
    /// [`Error::Closed`], [`Error::ReadOnly`], [`Error::Background`] if an earlier background job
    /// failed, [`Error::Memtable`] if there is no memory for a frame of this size. All of these also
    /// end a wait.
    pub fn admit(&self, bytes: usize) -> Result<Reservation> {
        if self.shared.read_only {
            return Err(Error::ReadOnly);
        }
        self.shared.admission.admit(bytes, true)
    }

    /// As [`admit`](Self::admit), for recovery: never waits, and works on a read-only tree too.
    /// Sealed memtables pile up until [`flush_recovered`](Self::flush_recovered).
    ///
    /// # Errors
    /// As for `admit`, but `ReadOnly`.
    pub fn admit_replay(&self, bytes: usize) -> Result<Reservation> {
        self.shared.admission.admit(bytes, false)
    }

    /// Binds a reservation to the memtable that takes its frame: called by the log's leader, once
    /// per reservation, in the order of the frames in the log. `start` and `end` are the packed
    /// positions (`segment << 32 | offset`) of the frame in the log. Never fails and never waits.
    pub fn route(&self, reservation: &mut Reservation, start: u64, end: u64) {
        let current = &self.shared.current;
        self.shared.admission.route(reservation, start, end, |memtables| {
            current.replace(current.pin().with_memtables(memtables));
        });
    }

    /// Puts an entry of a routed frame into its memtable. From any thread, in any order within the
    /// frame. Readers at `version` or above see it at once. An entry that is there already is
    /// replaced.
    ///
    /// # Errors
    /// [`Error::Memtable`] if the frame was not routed, or takes more than it reserved.
    pub fn insert(
        &self,
        reservation: &Reservation,
        key: &[u8],
        version: u64,
        entry: Entry<'_>,
    ) -> Result<()> {
        match &reservation.routed {
            Some(memtable) => memtable.insert(key, version, entry),
            None => Err(Error::Memtable(Arc::from(crate::error::BoxError::from(
                "the frame was not routed to a memtable",
            )))),
        }
    }

    /// All of the above for one frame, for a tree without a log: the entries are visible when this
    /// returns, and durable after the next [`flush`](Self::flush).
    ///
    /// Versions only grow: `version` must be greater than that of every earlier call that returned,
    /// and callers that run at the same time see to the order themselves.
    ///
    /// # Errors
    /// As [`admit`](Self::admit) and [`insert`](Self::insert).
    pub fn write(&self, version: u64, entries: &[(&[u8], Entry<'_>)]) -> Result<()> {
        let bytes = entries.iter().map(|(key, e)| Self::entry_bound(key.len(), e)).sum();
        let mut reservation = self.admit(bytes)?;
        self.route(&mut reservation, 0, 0);
        for (key, entry) in entries {
            self.insert(&reservation, key, version, *entry)?;
        }
        Ok(())
    }

    // ---- reading ----

    /// Pins the current superversion for a moment: no lock, no shared counter.
    #[inline]
    pub fn pin(&self) -> Pinned<'_, C::View> {
        self.shared.current.pin()
    }

    /// The current superversion, to be held as long as one likes.
    pub fn superversion(&self) -> Arc<Superversion<C::View>> {
        self.shared.superversion()
    }

    /// Copies the value that a reader at `at_most` with this `clock` sees, following no pointers:
    /// the payload of the newest entry, unless it is a tombstone or has expired. For trees that
    /// stand alone; others use [`pin`](Self::pin).
    ///
    /// # Errors
    /// As [`Superversion::get`].
    pub fn get(&self, key: &[u8], at_most: u64, clock: u64) -> Result<Option<Vec<u8>>> {
        let pinned = self.pin();
        let found = pinned.get(key, at_most, key_hash(key))?;
        Ok(found.and_then(|f| {
            let entry = f.entry();
            (!entry.is_absent(clock)).then(|| entry.payload.to_vec())
        }))
    }

    // ---- maintenance ----

    /// Installs a change set of the caller's: durable in the manifest, then part of the current
    /// superversion, under the same lock as flushes and compactions.
    ///
    /// Numbers that only grow may be stale in `change`; they are raised to the manifest's. With
    /// `reset`, memtables are emptied as well; no reservation may be outstanding then.
    ///
    /// # Errors
    /// [`Error::Manifest`], [`Error::ReadOnly`], [`Error::Inconsistent`].
    pub fn install(&self, change: StoreChange) -> Result<()> {
        self.shared.install_change(change, Installation::default()).map(drop)
    }

    /// Seals the active memtable, unless it is empty, and wakes the flush thread.
    ///
    /// # Errors
    /// [`Error::Memtable`] if there is no memory for another one.
    pub fn rotate(&self) -> Result<()> {
        self.seal().map(drop)
    }

    fn seal(&self) -> Result<Option<u64>> {
        let current = &self.shared.current;
        self.shared.admission.rotate(|memtables| {
            current.replace(current.pin().with_memtables(memtables));
        })
    }

    /// Seals the active memtable and waits until everything sealed is in durable tables.
    ///
    /// # Errors
    /// The failure of the flush; [`Error::Closed`]; [`Error::ReadOnly`].
    pub fn flush(&self) -> Result<()> {
        let shared = &self.shared;
        if shared.read_only {
            return Err(Error::ReadOnly);
        }
        let Some(newest) = self.seal()? else { return Ok(()) };
        loop {
            let mut state = shared.admission.lock();
            if state.sealed.first().is_none_or(|m| m.sequence() > newest) {
                return Ok(());
            }
            if let Some(failure) = state.failure() {
                return Err(failure.clone());
            }
            if state.is_closed() {
                return Err(Error::Closed);
            }
            if shared.has_threads() || state.flushable().is_none() {
                shared.admission.wait_work(&mut state, None);
                continue;
            }
            drop(state);
            shared.flush_one()?;
        }
    }

    /// The end of recovery: writes all memtables to level-0 tables and installs them in one change
    /// set together with `change`. Without a replay head in `change`, replay will start where the
    /// replayed frames end. Installs `change` also if nothing was replayed.
    ///
    /// # Errors
    /// As [`flush`](Self::flush); nothing is installed then.
    pub fn flush_recovered(&self, change: StoreChange) -> Result<()> {
        let shared = &self.shared;
        if shared.read_only {
            return Err(Error::ReadOnly);
        }
        self.seal()?;
        let _one_at_a_time = shared.flushing.lock();
        let sealed = shared.admission.lock().sealed.clone();
        shared.flush_memtables(&sealed, change).map(drop)
    }

    /// Compacts everything from `start` to `end` (both inclusive; `None`: no bound) down to the
    /// last level that has tables, and rewrites what is there if something in it can go. Flushes
    /// first. Runs on the calling thread, beside background compactions.
    ///
    /// # Errors
    /// That of a job; [`Error::Closed`]; [`Error::ReadOnly`].
    pub fn compact_range(&self, start: Option<&[u8]>, end: Option<&[u8]>) -> Result<()> {
        self.flush()?;
        let shared = &self.shared;
        let current = shared.superversion();
        let largest = current.version().tables().map(|t| t.largest()).max();
        let Some(largest) = end.or(largest) else { return Ok(()) };
        let range =
            Range { smallest: start.unwrap_or_default().to_vec(), largest: largest.to_vec() };
        let levels = current.version().levels();
        let last = (1..levels.len()).rev().find(|&l| !levels[l].is_empty()).unwrap_or(1);
        drop(current);
        for level in 0..last {
            while self.run_manual(|picker| picker.manual(level, &range))? && level > 0 {}
        }
        // New since: level 0 may have gone to a base level below `last`.
        let rewritten_with = shared.companion.floor();
        loop {
            let more = self.run_manual(|picker| {
                let levels = picker.version.levels();
                let Some(last) = (1..levels.len()).rev().find(|&l| !levels[l].is_empty()) else {
                    return Ok(None);
                };
                let overlapping = levels[last].overlapping(&range.smallest, &range.largest);
                let worth = overlapping.iter().find(|t| {
                    let r = &t.record;
                    let old = t.built.floor < rewritten_with.discard.min(r.largest_version)
                        || t.built.clock < rewritten_with.clock;
                    r.tombstones + r.stale + r.expiring > 0 && old
                });
                worth.map(|t| picker.rewrite(last, t)).transpose()
            })?;
            if !more {
                return Ok(());
            }
        }
    }

    /// Runs the job that `pick` finds on this thread, after waiting for those in its way. False: it
    /// found none.
    fn run_manual(
        &self,
        pick: impl Fn(
            &Picker<'_>,
        )
            -> Result<Option<crate::compaction::job::Job>, crate::compaction::pick::Busy>,
    ) -> Result<bool> {
        let shared = &self.shared;
        let mut schedule = shared.scheduler.lock();
        loop {
            shared.check_cancelled()?;
            let current = shared.superversion();
            let picker = Picker {
                version: current.version(),
                running: &schedule.running,
                options: &shared.options,
            };
            match pick(&picker) {
                Ok(None) => return Ok(false),
                Ok(Some(job)) => {
                    drop(current);
                    shared.run_reserved(&job, schedule)?;
                    return Ok(true);
                }
                Err(_busy) => {
                    drop(current);
                    shared.scheduler.wait(&mut schedule, Some(Duration::from_millis(100)));
                }
            }
        }
    }

    /// [`compact_range`](Self::compact_range) over everything.
    ///
    /// # Errors
    /// As `compact_range`.
    pub fn major_compact(&self) -> Result<()> {
        self.compact_range(None, None)
    }

    /// Waits until background work has nothing left to do: no memtable to flush, no level to
    /// compact, no tombstone, expired entry or log garbage to look for, no file to remove. Does
    /// the work itself with [`Background::Manual`]. What is pinned by readers is not waited for.
    ///
    /// # Errors
    /// [`Error::Background`], [`Error::Closed`].
    pub fn wait_idle(&self) -> Result<()> {
        let shared = &self.shared;
        if !shared.has_threads() {
            loop {
                let flushed = !shared.read_only && self.step(Job::Flush)?;
                let compacted = !shared.read_only && self.step(Job::Compact)?;
                if !flushed && !compacted && !self.step(Job::Reclaim)? {
                    return Ok(());
                }
            }
        }
        let mut schedule = shared.scheduler.lock();
        schedule.awaited += 1;
        let result = loop {
            if shared.is_closing() {
                break Err(Error::Closed);
            }
            if let Some(failure) = self.health() {
                break Err(failure);
            }
            if shared.read_only || shared.is_settled(&schedule) {
                break Ok(());
            }
            drop(schedule);
            shared.scheduler.wake();
            schedule = shared.scheduler.lock();
            shared.scheduler.wait(&mut schedule, Some(Duration::from_millis(10)));
        };
        schedule.awaited -= 1;
        result
    }

    /// Does one unit of background work on the calling thread. False: there was nothing to do.
    ///
    /// # Errors
    /// That of the job, whose inputs are untouched then.
    pub fn step(&self, job: Job) -> Result<bool> {
        let shared = &self.shared;
        match job {
            Job::Flush => {
                let result = shared.flush_one();
                self.note("flush", result)
            }
            Job::Compact => {
                if shared.read_only {
                    return Err(Error::ReadOnly);
                }
                if let Some(failure) = shared.fatal_failure() {
                    return Err(failure);
                }
                let schedule = shared.scheduler.lock();
                let Some(job) = shared.next_job(&schedule, true) else { return Ok(false) };
                let result = shared.run_reserved(&job, schedule);
                self.note("compaction", result.map(|_| true))
            }
            Job::Reclaim => Ok(shared.reclaim()),
        }
    }

    fn note(&self, job: &'static str, result: Result<bool>) -> Result<bool> {
        match &result {
            Ok(_) => self.shared.admission.clear_transient_failure(),
            Err(error) => self.shared.note_failure(job, error),
        }
        result
    }

    /// The failure of a background job, if there was one. A failure for want of space or descriptors
    /// is forgotten when a later job succeeds; every other one stays until the tree is opened anew.
    pub fn health(&self) -> Option<Error> {
        self.shared.admission.lock().failure().cloned()
    }

    /// Counts, sizes and scores. Costs a walk over the tables' records.
    pub fn stats(&self) -> Stats {
        self.shared.stats()
    }

    /// Reads every table from end to end: checksums, order, records against contents, and that for
    /// every key nothing newer lies below something older.
    ///
    /// # Errors
    /// The first damage or inconsistency found.
    pub fn verify(&self) -> Result<()> {
        let current = self.superversion();
        current.version().check()?;
        for table in current.version().tables() {
            table.verify()?;
        }
        // A merge that prefers upper levels: of one key, whoever comes first must be newer.
        let mut cursor = current.cursor();
        let (mut key, mut source, mut last) = (Vec::new(), 0, u64::MAX);
        let mut valid = cursor.first()?;
        while valid {
            let at = cursor.source().unwrap_or(0);
            if cursor.key() == key && (at < source || cursor.version() >= last) {
                let what = format!("a version below {last} lies above it, key {key:02x?}");
                return Err(Error::Inconsistent(what));
            }
            Entry::decode(cursor.value())?;
            key.clear();
            key.extend_from_slice(cursor.key());
            (source, last) = (at, cursor.version());
            valid = cursor.next()?;
        }
        Ok(())
    }
}

impl<C: Companion> Shared<C> {
    /// Tells writers how large the backlog is.
    fn update_pressure(&self) {
        let current = self.superversion();
        let version = current.version();
        let l0 = version.level(0).tables().len();
        let pressure = Pressure::new(&self.options, l0, self.debt(version));
        self.admission.set_pressure(&mut self.admission.lock(), pressure);
    }
}

impl<C: Companion> Drop for Tree<C> {
    fn drop(&mut self) {
        self.close();
    }
}

impl<C: Companion> std::fmt::Debug for Tree<C> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Tree({}, {:?})", self.shared.dir.display(), &*self.pin())
    }
}
