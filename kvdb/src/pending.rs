//! [`PendingCommit`]: the outcome of an asynchronous commit, before it is known.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use kvdb_vlog::{Log, Position};
use parking_lot::{Condvar, Mutex};

use crate::core::Core;
use crate::error::{Error, Result};
use crate::pipeline::Route;

/// A commit on its way: see [`Transaction::commit_async`](crate::Transaction::commit_async).
///
/// It is done when the chosen durability holds and every transaction that begins sees it, or when
/// it has failed. Wait for it with [`PendingCommit::wait`], look with [`PendingCommit::try_wait`],
/// or `.await` it in any runtime: it is a [`Future`] and needs none in particular.
///
/// Dropping it changes nothing: the commit goes on.
///
/// ```
/// # fn main() -> kvdb::Result<()> {
/// # let db = kvdb::Options::default().open_in(std::sync::Arc::new(kvdb::vfs::MemFs::new()), "/db")?;
/// let mut batch = db.batch();
/// batch.put("k", "v")?;
/// let pending = batch.commit_async()?;
/// let version = pending.version(); // its place in the order is known at once
/// let version_when_done = match pending.try_wait() {
///     Ok(outcome) => outcome?,
///     Err(pending) => pending.wait()?, // still under way
/// };
/// assert_eq!(version_when_done, version);
/// # db.close()
/// # }
/// ```
#[must_use = "a commit whose outcome nobody looks at may have failed"]
pub struct PendingCommit {
    /// None in a read-only database.
    log: Option<Arc<Log<Route>>>,
    version: u64,
    slot: Arc<Slot>,
}

/// A commit that has succeeded.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Done {
    pub(crate) version: u64,
    /// Where its frame begins, if it has one.
    pub(crate) position: Option<Position>,
}

/// Where the outcome is put, and who waits for it.
#[derive(Debug, Default)]
pub(crate) struct Slot {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    outcome: Option<Result<Done>>,
    waker: Option<Waker>,
}

impl Slot {
    /// Sets the outcome and wakes the threads that wait. Who polled is to be woken by the caller.
    pub(crate) fn complete(&self, outcome: Result<Done>) -> Option<Waker> {
        let mut state = self.state.lock();
        state.outcome = Some(outcome);
        let waker = state.waker.take();
        drop(state);
        self.changed.notify_all();
        waker
    }
}

impl PendingCommit {
    pub(crate) fn new(core: &Core) -> Self {
        PendingCommit { log: core.log.clone(), version: 0, slot: Arc::default() }
    }

    /// One without writes.
    pub(crate) fn done(core: &Core, version: u64) -> Self {
        let pending = PendingCommit::new(core).with_version(version);
        pending.slot.state.lock().outcome = Some(Ok(Done { version, position: None }));
        pending
    }

    pub(crate) fn with_version(self, version: u64) -> Self {
        PendingCommit { version, ..self }
    }

    pub(crate) fn slot(&self) -> Arc<Slot> {
        self.slot.clone()
    }

    /// The commit timestamp it has been given; that of the snapshot it read if it writes nothing.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// Whether the outcome is known, so that waiting returns at once.
    pub fn is_done(&self) -> bool {
        self.slot.state.lock().outcome.is_some()
    }

    /// Waits for the outcome. Returns the commit timestamp.
    ///
    /// # Errors
    /// [`Error::OutcomeUnknown`] if the log failed on the way, [`Error::Poisoned`] if it failed
    /// before anything of this commit was written.
    pub fn wait(self) -> Result<u64> {
        Ok(self.wait_done()?.version)
    }

    fn wait_done(&self) -> Result<Done> {
        let mut state = self.slot.state.lock();
        loop {
            if let Some(outcome) = state.outcome.take() {
                return outcome;
            }
            self.slot.changed.wait(&mut state);
        }
    }

    /// The outcome if it is known, else the handle again.
    ///
    /// # Errors
    /// The handle, if the commit is still under way.
    pub fn try_wait(self) -> std::result::Result<Result<u64>, PendingCommit> {
        let outcome = self.slot.state.lock().outcome.take();
        outcome.map(|outcome| outcome.map(|done| done.version)).ok_or(self)
    }

    /// As [`PendingCommit::wait`], no longer than `timeout`; then the handle is given back.
    ///
    /// # Errors
    /// The handle, if the commit is still under way.
    pub fn wait_timeout(
        self,
        timeout: Duration,
    ) -> std::result::Result<Result<u64>, PendingCommit> {
        let deadline = Instant::now().checked_add(timeout);
        let mut state = self.slot.state.lock();
        while state.outcome.is_none() {
            let timed_out = match deadline {
                Some(deadline) => self.slot.changed.wait_until(&mut state, deadline).timed_out(),
                None => {
                    self.slot.changed.wait(&mut state);
                    false
                }
            };
            if timed_out {
                break;
            }
        }
        drop(state);
        self.try_wait()
    }

    /// Waits until the commit is durable, whatever durability it was made with: a buffered one
    /// that no sync has covered yet is synced now, with everything before it.
    ///
    /// ```
    /// # fn main() -> kvdb::Result<()> {
    /// # let db = kvdb::Options::default().open_in(std::sync::Arc::new(kvdb::vfs::MemFs::new()), "/db")?;
    /// use kvdb::Durability;
    /// let mut batch = db.batch();
    /// batch.put("k", "v")?;
    /// let pending = batch.commit_async_with(Durability::Buffered)?;
    /// pending.wait_durable()?;
    /// # db.close()
    /// # }
    /// ```
    ///
    /// # Errors
    /// As [`PendingCommit::wait`]; those of the sync, which poison the database.
    pub fn wait_durable(self) -> Result<u64> {
        let Done { version, position } = self.wait_done()?;
        if let (Some(log), Some(Position { segment, offset })) = (&self.log, position) {
            // What is durable ends where a frame ends, so one byte stands for all of it.
            log.sync_through(Position { segment, offset: offset + 1 })?;
        }
        Ok(version)
    }
}

impl Future for PendingCommit {
    type Output = Result<u64>;

    /// Once it has given an error, polling again gives [`Error::OutcomeUnknown`].
    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<u64>> {
        let mut state = self.slot.state.lock();
        match state.outcome.take() {
            Some(Ok(done)) => {
                state.outcome = Some(Ok(done));
                Poll::Ready(Ok(done.version))
            }
            Some(Err(error)) => {
                let again = Error::OutcomeUnknown("the error was given before".to_owned());
                state.outcome = Some(Err(again));
                Poll::Ready(Err(error))
            }
            None => {
                // The one before may hold the last handle of the database: not under this lock.
                let before = state.waker.replace(context.waker().clone());
                drop(state);
                drop(before);
                Poll::Pending
            }
        }
    }
}

impl fmt::Debug for PendingCommit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PendingCommit")
            .field("version", &self.version)
            .field("done", &self.is_done())
            .finish_non_exhaustive()
    }
}
