//! What all handles of one open database share.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use kvdb_lsm::{PENDING, Superversion, Tree};
use kvdb_manifest::Manifest;
use kvdb_manifest::store::{StoreChange, StoreState};
use kvdb_txn::{Mode, Oracle, ReadMark};
use kvdb_vfs::{Fs, LockGuard};
use kvdb_vlog::{Log, LogView};
use parking_lot::Mutex;

use crate::clock::EngineClock;
use crate::closing::Closing;
use crate::commit::Request;
use crate::committer::Committer;
use crate::companion::ValueLog;
use crate::error::{Error, Result};
use crate::gate::{Gate, Work};
use crate::gc::{Collector, Worker};
use crate::housekeeper::Housekeeper;
use crate::item::{Found, Looked, resolve};
use crate::limits::Limits;
use crate::options::Options;
use crate::pipeline::Route;
use crate::sequence::Sequences;

/// The engine behind every handle, snapshot, transaction and iterator of a database.
#[derive(Debug)]
pub(crate) struct Core {
    pub(crate) path: PathBuf,
    pub(crate) fs: Arc<dyn Fs>,
    pub(crate) options: Options,
    pub(crate) limits: Limits,
    pub(crate) clock: Arc<EngineClock>,
    pub(crate) manifest: Arc<Manifest<StoreState>>,
    pub(crate) tree: Arc<Tree<ValueLog>>,
    pub(crate) oracle: Arc<Oracle>,
    /// None in a read-only database.
    pub(crate) log: Option<Arc<Log<Route>>>,
    /// Where replay ended.
    pub(crate) recovered_end: kvdb_vlog::Position,
    pub(crate) housekeeper: Arc<Housekeeper>,
    pub(crate) collector: Collector,
    pub(crate) gc: Worker,
    /// The sequences in use.
    pub(crate) sequences: Sequences,
    /// Commits in flight: close lets them end.
    pub(crate) commits: Arc<Gate>,
    /// Leads the commits that nobody waits for.
    pub(crate) committer: Committer,
    /// Flushes, compactions and syncs on callers' threads: close cuts them short.
    pub(crate) work: Work,
    /// The close under way or done, and those who wait for it.
    pub(crate) closing: Closing,
    /// Let go when the database is closed.
    pub(crate) locks: Mutex<Vec<LockGuard>>,
}

impl Core {
    pub(crate) fn log(&self) -> Result<&Arc<Log<Route>>> {
        self.log.as_ref().ok_or(Error::ReadOnly)
    }

    /// The directory of the log.
    pub(crate) fn log_dir(&self) -> &Path {
        self.tree.companion().dir()
    }

    pub(crate) fn check_open(&self) -> Result<()> {
        if self.commits.is_closed() { Err(Error::Closed) } else { Ok(()) }
    }

    /// In managed mode the caller says at which version anything is written.
    pub(crate) fn check_unmanaged(&self) -> Result<()> {
        if self.options.managed { Err(Error::Managed) } else { Ok(()) }
    }

    /// Looks a key up as of a version that is held by a read mark, or as of now.
    ///
    /// `found` runs under an epoch pin: no lock, no shared counter, and it should be short.
    pub(crate) fn lookup<R>(
        &self,
        key: &[u8],
        at: At,
        found: impl FnOnce(Found<'_>, &Arc<LogView>) -> Result<R>,
    ) -> Result<Option<R>> {
        let hash = kvdb_sstable::key_hash(key);
        loop {
            let version = at.version(self);
            let pinned = self.tree.pin();
            // The tables may have been built after the version was chosen, without what it needs.
            if pinned.watermark() > version {
                if let At::Version { version, .. } = at {
                    return Err(Error::BelowWatermark { version, watermark: pinned.watermark() });
                }
                continue;
            }
            let Some(hit) = pinned.get(key, version, hash)? else { return Ok(None) };
            let place = Looked { core: self, superversion: &pinned, at, version };
            let visible = resolve(&hit, key, place)?;
            return match visible {
                Some(entry) => found(entry, pinned.view()).map(Some),
                None => Ok(None),
            };
        }
    }

    /// Commits a set of writes. The version it was given is returned.
    pub(crate) fn commit(&self, request: Request<'_>) -> Result<u64> {
        let _inside = self.commits.enter()?;
        let log = self.log()?;
        let admitted = self.admit_request(&request)?;
        let durability = request.durability;
        let enqueue = |version| (version, admitted.enqueue(log, version, durability));
        let queued = self.order(&request, enqueue)?;
        self.finish(queued)
    }

    /// A read mark at a chosen version, if what it needs is still there.
    pub(crate) fn begin_mark(&self, version: u64, mode: Mode) -> Result<ReadMark> {
        let mark = self.oracle.begin_at(version, mode)?;
        let watermark = self.superversion().watermark();
        if version < watermark {
            return Err(Error::BelowWatermark { version, watermark });
        }
        Ok(mark)
    }

    /// Managed mode: what was visible below `version` is given up.
    pub(crate) fn set_discard_watermark(&self, version: u64) -> Result<()> {
        let _inside = self.work.enter()?;
        if !self.options.managed {
            return Err(Error::NotManaged);
        }
        self.log()?;
        let newest = self.oracle.read_version();
        if version > newest {
            return Err(Error::FutureVersion { version, newest });
        }
        self.oracle.set_discard_watermark(version).map_err(|_| Error::NotManaged)?;
        // The tree's own watermark goes no further than what open snapshots need.
        self.keep_watermark(self.oracle.raise_floor())
    }

    /// Writes into the manifest that nothing is read below a version any more.
    fn keep_watermark(&self, watermark: u64) -> Result<()> {
        if self.manifest.read(StoreState::watermark) < watermark {
            let change = StoreChange { watermark: Some(watermark), ..StoreChange::default() };
            self.tree.install(change)?;
        }
        Ok(())
    }

    pub(crate) fn sync(&self) -> Result<()> {
        let _inside = self.work.enter()?;
        self.log()?.sync()?;
        Ok(())
    }

    pub(crate) fn superversion(&self) -> Arc<Superversion<LogView>> {
        self.tree.superversion()
    }

    /// Ends everything: waits for commits in flight, makes the log durable with a footer, stops
    /// the threads, unlocks. Reading goes on through snapshots' iterators and values only.
    pub(crate) fn close(&self) -> Result<()> {
        if self.work.holds_this_thread() {
            return Err(Error::Reentrant);
        }
        let first = self.closing.begin();
        self.commits.shut();
        self.committer.closing(self);
        self.commits.close();
        match first {
            Some(first) => {
                let outcome = self.close_first();
                first.end(&outcome);
                outcome
            }
            // A callback or a waker: the first close waits for it.
            None if self.committer.is_this_thread() => self.closing.outcome_so_far(),
            None => self.closing.outcome(),
        }
    }

    fn close_first(&self) -> Result<()> {
        let mut outcome = Ok(());
        if self.log.is_some() && self.options.flush_on_close {
            outcome = self.tree.flush().map_err(Error::from);
        }
        if self.log.is_some() && self.options.managed && !self.manifest.is_poisoned() {
            // Whatever snapshots are still open, nobody reads through them any more.
            outcome = outcome.and(self.keep_watermark(self.oracle.discard_watermark()));
        }
        // Every commit has its outcome; what is left are callbacks that have to be told.
        self.committer.stop();
        // Ends background work, and what callers are waiting for, within a second; then nobody is
        // left who writes to the directory.
        self.collector.stop();
        self.tree.close();
        self.work.close();
        self.housekeeper.stop();
        self.gc.stop();
        if let Some(log) = &self.log {
            outcome = outcome.and(log.close().map_err(Error::from));
            if !self.manifest.is_poisoned() {
                outcome = outcome.and(self.manifest.settle().map_err(Error::from));
            }
        }
        self.locks.lock().clear();
        tracing::info!(path = %self.path.display(), "closed");
        outcome
    }
}

/// As of when a key is looked up.
#[derive(Debug, Clone, Copy)]
pub(crate) enum At {
    /// The newest commit there is.
    Now,
    /// A version and a clock, as a transaction or snapshot holds them.
    Version { version: u64, clock: u64 },
}

impl At {
    pub(crate) fn version(self, core: &Core) -> u64 {
        match self {
            At::Now => core.oracle.read_version(),
            At::Version { version, .. } => version,
        }
    }

    pub(crate) fn clock(self, core: &Core) -> u64 {
        match self {
            At::Now => core.clock.now(),
            At::Version { clock, .. } => clock,
        }
    }
}

// A reader's timestamp is a commit timestamp, never the mark of uncommitted writes.
const _: () = assert!(PENDING == u64::MAX);
