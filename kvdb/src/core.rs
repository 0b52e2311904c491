//! What all handles of one open database share.

use std::path::PathBuf;
use std::sync::Arc;

use kvdb_lsm::{PENDING, Superversion, Tree};
use kvdb_manifest::Manifest;
use kvdb_manifest::store::StoreState;
use kvdb_txn::{Oracle, ReadSet};
use kvdb_vfs::{Fs, LockGuard};
use kvdb_vlog::{Log, LogView};
use parking_lot::Mutex;

use crate::clock::EngineClock;
use crate::companion::ValueLog;
use crate::error::{Error, Result};
use crate::gate::Gate;
use crate::housekeeper::Housekeeper;
use crate::item::{Found, resolve};
use crate::limits::Limits;
use crate::options::{Durability, Options};
use crate::pipeline::{Route, memtable_bound};
use crate::write_set::WriteSet;

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
    /// Commits in flight: close lets them end.
    pub(crate) commits: Gate,
    /// Flushes, compactions and syncs on callers' threads: close cuts them short.
    pub(crate) work: Gate,
    /// Let go when the database is closed.
    pub(crate) locks: Mutex<Vec<LockGuard>>,
}

impl Core {
    pub(crate) fn log(&self) -> Result<&Arc<Log<Route>>> {
        self.log.as_ref().ok_or(Error::ReadOnly)
    }

    pub(crate) fn check_open(&self) -> Result<()> {
        if self.commits.is_closed() { Err(Error::Closed) } else { Ok(()) }
    }

    /// Looks a key up as of a version that is held by a read mark, or as of now.
    ///
    /// `found` runs under an epoch pin: no lock, no shared counter, and it should be short.
    pub(crate) fn lookup<R>(
        &self,
        key: &[u8],
        at: At<'_>,
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
            let visible = resolve(&hit, key, || at.clock(self))?;
            return match visible {
                Some(entry) => found(entry, pinned.view()).map(Some),
                None => Ok(None),
            };
        }
    }

    /// Commits a set of writes. The version it was given is returned.
    pub(crate) fn commit(
        &self,
        writes: &WriteSet,
        reads: Option<(&kvdb_txn::ReadMark, &ReadSet)>,
        durability: Durability,
    ) -> Result<u64> {
        let _inside = self.commits.enter()?;
        let log = self.log()?;
        let threshold = self.options.value_threshold;
        let memtable_bytes = writes
            .iter()
            .map(|(key, pending)| memtable_bound(threshold, key.len(), &pending.entry()))
            .sum();
        let admitted = self.admit(writes.to_frame()?, memtable_bytes, writes.only_deletes())?;
        let enqueue = |version| (version, admitted.enqueue(log, version, durability));
        let keys = writes.keys();
        let queued = match reads {
            Some((mark, reads)) => self.oracle.commit(mark, reads, keys, enqueue)?,
            None => self.oracle.commit_blind(keys, enqueue)?,
        };
        self.finish(queued)
    }

    pub(crate) fn superversion(&self) -> Arc<Superversion<LogView>> {
        self.tree.superversion()
    }

    /// Ends everything: waits for commits in flight, makes the log durable with a footer, stops
    /// the threads, unlocks. Reading goes on through snapshots' iterators and values only.
    pub(crate) fn close(&self) -> Result<()> {
        if !self.commits.close() {
            return Ok(());
        }
        let mut outcome = Ok(());
        if self.log.is_some() && self.options.flush_on_close {
            outcome = self.tree.flush().map_err(Error::from);
        }
        // Ends background work, and what callers are waiting for, within a second; then nobody is
        // left who writes to the directory.
        self.tree.close();
        self.work.close();
        self.housekeeper.stop();
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
pub(crate) enum At<'a> {
    /// The newest commit there is.
    Now,
    /// A version and a clock held by a transaction or snapshot.
    Version { version: u64, clock: &'a crate::clock::ClockMark },
}

impl At<'_> {
    fn version(&self, core: &Core) -> u64 {
        match self {
            At::Now => core.oracle.read_version(),
            At::Version { version, .. } => *version,
        }
    }

    fn clock(&self, core: &Core) -> u64 {
        match self {
            At::Now => core.clock.now(),
            At::Version { clock, .. } => clock.now(),
        }
    }
}

// A reader's timestamp is a commit timestamp, never the mark of uncommitted writes.
const _: () = assert!(PENDING == u64::MAX);
