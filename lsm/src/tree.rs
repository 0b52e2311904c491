//! [`Tree`]: the handle.

use std::collections::HashSet;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;

use kvdb_manifest::Manifest;
use kvdb_manifest::store::StoreState;
use kvdb_sstable::key_hash;
use kvdb_vfs::Fs;
use parking_lot::Mutex;

use crate::admission::{Admission, Reservation};
use crate::at_work::AtWork;
use crate::companion::Companion;
use crate::entry::Entry;
use crate::error::{Error, Result};
use crate::file_ids::{FileIds, leading_file_id, parse_table_file_name};
use crate::install::InstallState;
use crate::installer::Installer;
use crate::memtable::entry_bound;
use crate::options::{Background, Options};
use crate::pacer::Pacer;
use crate::range_delete::RangeDeletes;
use crate::shared::{Scheduler, Shared};
use crate::stall::Pressure;
use crate::stats::{ReadCounters, WorkCounters};
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
    pub(crate) shared: Arc<Shared<C>>,
    workers: Mutex<Workers>,
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
        let watermark = manifest.read(StoreState::watermark);
        let (version, ranges) = manifest.read(|state| {
            // What tables from earlier runs were filtered with is not known: the watermark tells of
            // some of them only.
            let version = Version::from_state(state, options.max_levels, Built::default(), &tables);
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
            installer: Installer::default(),
            flushing: Mutex::new(()),
            scheduler: Scheduler::default(),
            closing: AtomicBool::new(false),
            started: AtomicBool::new(false),
            pacer: Pacer::new(options.compaction_rate),
            work: WorkCounters::default(),
            reads,
            pool: Mutex::new(None),
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
        let newest = shared.admission.lock().active.newest_written();
        shared.install.lock().first_barrier = Some(newest);
        if shared.options.background == Background::Threads {
            *workers = Workers::start(shared)?;
            shared.started.store(true, Ordering::Release);
        }
        Ok(())
    }

    /// Stops flushes and compactions at their next block, on background threads and on those of
    /// callers, and waits for them: that takes less than a second. What is only in memtables stays
    /// there: [`flush`](Self::flush) first if it is to be on disk. Reads go on to work. A second call
    /// does nothing.
    ///
    /// When it returns, nothing changes the store any more, and the directory has no file of an
    /// unfinished job: it may be opened anew. Callers whose jobs were stopped get [`Error::Closed`].
    ///
    /// A thread that is in a job of this tree, which has called its companion, cannot wait for the job:
    /// there it only asks everybody to stop and returns. A later call on another thread waits. So
    /// does dropping the last handle, but in such a job: threads end by themselves then.
    pub fn close(&self) {
        self.shared.request_close();
        if AtWork::is_begun(&self.shared) {
            return;
        }
        // Who is installing just now comes to the end of it; nobody begins any more.
        drop(self.shared.install.lock());
        self.shared.wait_for_jobs();
        self.workers.lock().join();
        let pool = self.shared.pool.lock().take();
        drop(pool);
        self.shared.bury_all();
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
    /// Those of the file system; [`Error::ReadOnly`]; [`Error::Closed`].
    pub fn remove_orphans(&self) -> Result<Vec<std::path::PathBuf>> {
        let shared = &self.shared;
        if shared.read_only {
            return Err(Error::ReadOnly);
        }
        let _no_flush = shared.flushing.lock();
        let current = shared.superversion();
        let named: HashSet<u64> = current.version().tables().map(|t| t.id()).collect();
        let mut removed = Vec::new();
        for entry in shared.fs.list(&shared.dir)? {
            // Whoever closes the tree waits for this.
            shared.check_cancelled()?;
            let unfinished = entry.name.to_str().and_then(|n| n.strip_suffix(".tmp"));
            let name = unfinished.map_or(entry.name.as_path(), Path::new);
            let Some(id) = parse_table_file_name(name) else { continue };
            if unfinished.is_none() && named.contains(&id) {
                continue;
            }
            match shared.fs.remove(&shared.dir.join(&entry.name)) {
                // A tree that was just closed may have been about to remove it.
                Err(e) if e.kind() == kvdb_vfs::ErrorKind::NotFound => continue,
                outcome => outcome?,
            }
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
        match reservation.routed() {
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
    /// As [`Superversion::get`]; [`Error::BelowWatermark`] where versions may be missing that a reader
    /// at `at_most` would see. (A superversion does not ask: whoever has one compares with its
    /// [watermark](Superversion::watermark) once.)
    pub fn get(&self, key: &[u8], at_most: u64, clock: u64) -> Result<Option<Vec<u8>>> {
        match self.try_get(key, at_most, clock) {
            Err(error) if self.free_descriptors(&error) => self.try_get(key, at_most, clock),
            outcome => outcome,
        }
    }

    /// For a read that failed and has let go of its pin: if the system had no descriptor left, closes
    /// tables that were not read lately; the read is to be tried once more then. `false` for any other
    /// error. Waits for what it has closed, 50 ms at most.
    ///
    /// What a superversion has open that somebody holds stays open. So who walks should go over to the
    /// current one: [`Visible::exchange`](crate::Visible::exchange), this once more for what only the
    /// former one had, and [`Visible::resume`](crate::Visible::resume).
    pub fn free_descriptors(&self, error: &Error) -> bool {
        self.shared.free_descriptors(error)
    }

    fn try_get(&self, key: &[u8], at_most: u64, clock: u64) -> Result<Option<Vec<u8>>> {
        let pinned = self.pin();
        let watermark = pinned.watermark();
        if at_most < watermark {
            return Err(Error::BelowWatermark { version: at_most, watermark });
        }
        let found = pinned.get(key, at_most, key_hash(key))?;
        Ok(found.and_then(|f| {
            let entry = f.entry();
            (!entry.is_absent(clock)).then(|| entry.payload.to_vec())
        }))
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
