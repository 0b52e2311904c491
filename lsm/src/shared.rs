//! What the handle of a tree and its threads share.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use kvdb_manifest::Manifest;
use kvdb_manifest::store::StoreState;
use kvdb_vfs::Fs;
use parking_lot::{Condvar, Mutex, MutexGuard};

use crate::admission::Admission;
use crate::compaction::job::{Job, Reason, Running};
use crate::compaction::pick::Picker;
use crate::compaction::scores::Scores;
use crate::companion::Companion;
use crate::error::{Error, Result};
use crate::file_ids::FileIds;
use crate::install::InstallState;
use crate::installer::Installer;
use crate::options::{Background, Options};
use crate::pacer::Pacer;
use crate::pool::Pool;
use crate::stats::{LevelStats, ReadCounters, Stats, WorkCounters, get};
use crate::superversion::{Current, Superversion, drive_epoch};
use crate::table::{Built, TableContext, TableFile};
use crate::table_writer::{Finished, WriterContext};
use crate::version::Version;

pub(crate) struct Shared<C: Companion> {
    pub(crate) fs: Arc<dyn Fs>,
    pub(crate) dir: PathBuf,
    pub(crate) manifest: Arc<Manifest<StoreState>>,
    pub(crate) options: Options,
    pub(crate) companion: Arc<C>,
    pub(crate) read_only: bool,
    pub(crate) ids: FileIds,
    pub(crate) tables: Arc<TableContext>,
    pub(crate) admission: Arc<Admission>,
    pub(crate) current: Current<C::View>,
    /// The install lock. Taken before the admission lock, never while holding it.
    pub(crate) install: Mutex<InstallState>,
    pub(crate) installer: Installer,
    /// One flush at a time, so that level-0 tables come in order of age.
    pub(crate) flushing: Mutex<()>,
    pub(crate) scheduler: Scheduler,
    /// Jobs stop at the next look.
    pub(crate) closing: AtomicBool,
    /// Whether threads do the background work.
    pub(crate) started: AtomicBool,
    pub(crate) pacer: Pacer,
    pub(crate) work: WorkCounters,
    pub(crate) reads: Arc<ReadCounters>,
    /// Shares the parts of a compaction; gone after close.
    pub(crate) pool: Mutex<Option<Arc<Pool>>>,
    pub(crate) opened: Instant,
    /// When the last flush ended, in milliseconds since `opened`.
    pub(crate) last_flush: AtomicU64,
}

/// Which compactions run, and who waits for that to change.
#[derive(Debug, Default)]
pub(crate) struct Scheduler {
    state: Mutex<Schedule>,
    changed: Condvar,
}

#[derive(Debug, Default)]
pub(crate) struct Schedule {
    pub(crate) running: Running,
    /// Callers of `wait_idle`: as long as there are any, the tree counts as idle.
    pub(crate) awaited: usize,
    /// Nobody may begin a job because of an earlier failure, until then.
    pub(crate) pause_until: Option<Instant>,
    /// Calls of `compact_range` so far.
    pub(crate) calls: u64,
}

impl Scheduler {
    pub(crate) fn lock(&self) -> MutexGuard<'_, Schedule> {
        self.state.lock()
    }

    pub(crate) fn wake(&self) {
        drop(self.state.lock());
        self.changed.notify_all();
    }

    pub(crate) fn wait(&self, state: &mut MutexGuard<'_, Schedule>, at_most: Option<Duration>) {
        match at_most {
            Some(time) => drop(self.changed.wait_for(state, time)),
            None => self.changed.wait(state),
        }
    }
}

impl<C: Companion> Shared<C> {
    pub(crate) fn superversion(&self) -> Arc<Superversion<C::View>> {
        self.current.pin().to_arc()
    }

    /// The table that was just written.
    pub(crate) fn table(&self, finished: &Finished, built: Built) -> Arc<TableFile> {
        let built = Built { sections: finished.sections, ..built };
        Arc::new(TableFile::new(finished.record.clone(), built, self.tables.clone()))
    }

    pub(crate) fn writer_context(&self) -> WriterContext<'_, C> {
        WriterContext {
            fs: &self.fs,
            dir: &self.dir,
            database: self.manifest.database(),
            ids: &self.ids,
            options: &self.options,
            companion: &self.companion,
        }
    }

    pub(crate) fn pool(&self) -> Option<Arc<Pool>> {
        self.pool.lock().clone()
    }

    pub(crate) fn is_closing(&self) -> bool {
        self.closing.load(Ordering::Relaxed)
    }

    pub(crate) fn is_manual(&self) -> bool {
        self.options.background == Background::Manual
    }

    pub(crate) fn has_threads(&self) -> bool {
        self.started.load(Ordering::Acquire)
    }

    /// Bytes above the levels' targets.
    pub(crate) fn debt(&self, version: &Version) -> u64 {
        Scores::new(version, &self.options, |_| (0, 0)).debt
    }

    /// Whether no flush was needed for a while.
    pub(crate) fn is_idle(&self, schedule: &Schedule) -> bool {
        let now = self.opened.elapsed().as_millis() as u64;
        let since = now.saturating_sub(self.last_flush.load(Ordering::Relaxed));
        self.is_manual() || schedule.awaited > 0 || since >= self.options.idle_after_ms
    }

    pub(crate) fn note_flush(&self) {
        self.last_flush.store(self.opened.elapsed().as_millis() as u64, Ordering::Relaxed);
    }

    /// The next job to run, if any. The caller holds the schedule and reserves the job's ranges.
    pub(crate) fn next_job(&self, schedule: &Schedule, top_first: bool) -> Option<Job> {
        let current = self.superversion();
        let picker = Picker {
            version: current.version(),
            running: &schedule.running,
            options: &self.options,
        };
        if let Some(job) = picker.by_score(top_first) {
            return Some(job);
        }
        let version = current.version();
        let idle = self.is_idle(schedule);
        if current.range_deletes().is_empty() && !(idle && Self::may_hold_garbage(version)) {
            return None;
        }
        let floor = self.companion.floor();
        picker
            .range_delete(current.range_deletes(), floor)
            .or_else(|| picker.garbage(floor).filter(|_| idle))
            .or_else(|| picker.log_garbage().filter(|_| idle))
    }

    /// Whether it is worth asking for the floor and looking for garbage.
    pub(crate) fn may_hold_garbage(version: &Version) -> bool {
        version.tables().any(|t| {
            let r = &t.record;
            r.tombstones + r.stale + r.expiring > 0 || !r.pointers.is_empty()
        })
    }

    /// Runs a job that was just picked: reserves its ranges, runs it, and frees them, after it has let
    /// go of its inputs.
    pub(crate) fn run_reserved(
        &self,
        job: Job,
        mut schedule: MutexGuard<'_, Schedule>,
    ) -> Result<bool> {
        struct Ticket<'a>(&'a Scheduler, u64);
        impl Drop for Ticket<'_> {
            fn drop(&mut self) {
                self.0.lock().running.remove(self.1);
                self.0.changed.notify_all();
            }
        }
        let _ticket = Ticket(&self.scheduler, schedule.running.add(&job));
        drop(schedule);
        let result = self.run_job(&job);
        // Before the ranges are free. Whoever has the job next and succeeds has to be the last to tell, or
        // this failure would stay. And after a panic the manifest may have the change already: whoever ran
        // the job once more would be told that its inputs are not there.
        let told_alone = job.reason == Reason::Manual
            && result.as_ref().is_err_and(|error| !matches!(error, Error::Panic(_)));
        if !told_alone {
            self.note_outcome("compaction", &result);
        }
        // Before the ticket: whoever waits for the tree to settle waits for the files too.
        drop(job);
        result
    }

    /// Takes note of how a piece of background work has ended.
    pub(crate) fn note_outcome(&self, job: &'static str, result: &Result<bool>) {
        match result {
            Ok(_) => self.admission.clear_transient_failure(),
            Err(error) => self.note_failure(job, error),
        }
    }

    /// Keeps a failure of background work for those who ask and those who wait.
    pub(crate) fn note_failure(&self, job: &'static str, error: &Error) {
        if matches!(error, Error::Closed) {
            return;
        }
        tracing::error!(job, %error, "background work failed");
        self.admission.fail(Error::Background { job, source: Arc::new(error.clone()) });
        self.scheduler.wake();
    }

    /// The earlier failure, if it forbids going on.
    pub(crate) fn fatal_failure(&self) -> Option<Error> {
        if !self.admission.has_failure() {
            return None;
        }
        self.admission.lock().failure().filter(|f| !f.is_transient()).cloned()
    }

    /// For a tree that is closing: waits until nobody flushes or compacts. Nobody begins any more.
    pub(crate) fn wait_for_jobs(&self) {
        let mut schedule = self.scheduler.lock();
        while schedule.running.len() > 0 {
            self.scheduler.wait(&mut schedule, None);
        }
        drop(schedule);
        drop(self.flushing.lock());
    }

    /// The last reclaim. What a reader holds, or the epoch, goes without help from here.
    pub(crate) fn bury_all(&self) {
        let graveyard = &self.tables.graveyard;
        for _ in 0..16 {
            self.reclaim();
            if graveyard.is_empty() {
                break;
            }
        }
        graveyard.close();
        self.reclaim();
    }

    /// Frees what nobody reads any more. True if there was anything.
    pub(crate) fn reclaim(&self) -> bool {
        let graveyard = &self.tables.graveyard;
        if graveyard.awaits_epoch() {
            drive_epoch();
        }
        let closed = self.close_idle_tables();
        let buried = graveyard.bury(&*self.fs) > 0;
        self.tables.note_kept();
        buried || closed
    }
}

impl<C: Companion> Drop for Shared<C> {
    fn drop(&mut self) {
        // Where the last handle went within a job, nobody has done it.
        if !self.tables.graveyard.is_closed() {
            self.bury_all();
        }
    }
}

impl<C: Companion> Shared<C> {
    /// Counts, sizes and scores.
    pub(crate) fn stats(&self) -> Stats {
        let current = self.superversion();
        let version = current.version();
        let running = self.scheduler.lock().running.len();
        let scores = Scores::new(version, &self.options, |_| (0, 0));
        let levels = version.levels().iter().enumerate().map(|(depth, level)| {
            let counters = self.work.level(depth);
            LevelStats {
                tables: level.tables().len(),
                bytes: level.bytes(),
                target_bytes: scores.targets[depth],
                score: scores.scores[depth],
                read_bytes: get(&counters.read),
                write_bytes: get(&counters.written),
                moved_bytes: get(&counters.moved),
            }
        });
        let (sealed_memtables, memtable_bytes) = {
            let memtables = self.admission.lock();
            (memtables.sealed.len(), memtables.bytes() as u64)
        };
        let (slowdowns, slowdown_nanos) = self.admission.stalls.slowdowns();
        let (filter_hits, filter_misses, table_hits) = self.reads.sums();
        let cache = self.tables.cache.as_ref();
        let flushed_bytes = get(&self.work.flushed_bytes);
        Stats {
            shape: version.shape(),
            levels: levels.collect(),
            base_level: scores.base,
            sealed_memtables,
            memtable_bytes,
            pointer_bytes: version.tables().map(|t| t.pointer_bytes()).sum(),
            flushes: get(&self.work.flushes),
            flushed_bytes,
            compactions: get(&self.work.compactions),
            moves: get(&self.work.moves),
            compacted_read_bytes: self.work.sum(|l| &l.read),
            compacted_write_bytes: self.work.sum(|l| &l.written) - flushed_bytes,
            dropped_entries: get(&self.work.dropped_entries),
            failed_jobs: get(&self.work.failed_jobs),
            running,
            debt_bytes: scores.debt,
            stalls: self.admission.stalls.stops(),
            slowdowns,
            slowdown_nanos,
            filter_hits,
            filter_misses,
            table_hits,
            cache_bytes: cache.map_or(0, |c| c.weight()),
            index_bytes: self.tables.sections(),
            open_tables: self.tables.open_tables(),
        }
    }
}
