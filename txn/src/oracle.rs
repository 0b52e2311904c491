//! The oracle itself: versions, begin, commit, publication.

use std::fmt;
use std::num::NonZeroU64;
use std::sync::Arc;
use std::sync::atomic::Ordering::{Relaxed, SeqCst};

use crossbeam_utils::CachePadded;

use crate::core::{Core, Handle, State};
use crate::error::{BeginError, CommitError, NotManaged};
use crate::mark::{Mode, ReadMark};
use crate::marks::{Place, TOO_LARGE};
use crate::read_set::ReadSet;
use crate::sync::lock_busy;
use crate::window::{Batch, Plan, Window, Write};

/// So many remembered writes may be checked under the lock.
const CHECKED_AT_ONCE: usize = 64;
/// After so many checks without the lock, the rest is checked under it, however much it is.
const ROUNDS: usize = 8;

/// How an oracle works.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// Whether commits are checked for conflicts. If not, the last commit wins, and neither reads
    /// nor writes are remembered. Default: true.
    pub detect_conflicts: bool,
    /// The most bytes of memory that the writes remembered for conflict checks may take. When it
    /// is reached, the oldest are forgotten, and the commit of a transaction that would have to
    /// be checked against them fails with [`CommitError::TooOld`]. Below about 64 KiB that hits
    /// transactions that are hardly old. Default: 64 MiB.
    pub max_tracked_bytes: usize,
    /// Whether the caller chooses the versions: see [`Oracle::commit_at`] and
    /// [`Oracle::begin_at`]. Default: false.
    pub managed: bool,
}

impl Default for Options {
    fn default() -> Self {
        Options { detect_conflicts: true, max_tracked_bytes: 64 << 20, managed: false }
    }
}

/// Hands out versions, tells conflicts, and knows which versions are being read.
///
/// See the [crate's documentation](crate) for how it works. All methods may be called from any
/// thread at any time, except from within the closure that is passed to a commit.
pub struct Oracle {
    core: Arc<Core>,
    /// For each slot a reference count of its own on the core: to begin and end a transaction
    /// writes to no memory that other transactions write to.
    handles: Box<[Handle]>,
}

impl Oracle {
    /// An oracle for a store whose largest version ever used is `last_version` (0: none) and from
    /// which versions below `discarded` may be gone.
    ///
    /// Readers start at `last_version`, the next commit gets the version after it. `discarded` is
    /// what [`Oracle::raise_floor`] returned last before the store was closed, 0 if it never did.
    pub fn new(options: Options, last_version: u64, discarded: u64) -> Self {
        let core = Arc::new(Core::new(options, last_version, discarded));
        let handles = core.slots();
        let handles = (0..handles).map(|_| Arc::new(CachePadded::new(Arc::clone(&core)))).collect();
        Oracle { core, handles }
    }

    /// The options it was made with.
    pub fn options(&self) -> Options {
        self.core.options
    }

    /// Begins a transaction at the newest readable version.
    ///
    /// It sees every commit published before the call, waits for no other transaction, and holds
    /// the low-water mark down until the mark is dropped. In managed mode, too, this reads at
    /// the newest version.
    pub fn begin(&self, mode: Mode) -> ReadMark {
        let core = &*self.core;
        let marks = core.marks(mode);
        let mut version = core.published.load(SeqCst);
        let place = marks.set(version);
        // A floor never is above the published version it was taken from, so that one round more
        // is enough, unless yet another floor is published within it.
        while core.floor.load(SeqCst) > version {
            let newer = core.published.load(SeqCst);
            marks.raise(place, version, newer);
            version = newer;
        }
        ReadMark::new(self.handle(place), place, mode, version, version)
    }

    /// Begins a transaction at a given version.
    ///
    /// In managed mode the version may lie above the newest readable one; what is committed
    /// between them later is then seen by later reads, and a conflict for whoever read it.
    ///
    /// Outside of managed mode, what was committed between an older version and now may be
    /// forgotten already: a read-write transaction then is too old when it commits.
    ///
    /// # Errors
    /// [`BeginError::BelowFloor`] if versions that this reader needs may be gone already, or are
    /// below the watermark set by [`Oracle::set_discard_watermark`]; [`BeginError::NotYet`] if the
    /// version is above the newest readable one, outside of managed mode.
    pub fn begin_at(&self, version: u64, mode: Mode) -> Result<ReadMark, BeginError> {
        let core = &*self.core;
        let newest = core.published.load(SeqCst);
        if version > newest && !core.options.managed {
            return Err(BeginError::NotYet { version, newest });
        }
        let base = version.min(newest);
        let place = core.marks(mode).set(base);
        let mut mark = ReadMark::new(self.handle(place), place, mode, version, base);
        core.admit(&mut mark)?;
        Ok(mark)
    }

    /// The newest version of which the writes are no longer remembered. A transaction that begins
    /// below it and reads something is [too old](CommitError::TooOld) from the start.
    pub fn remembered_after(&self) -> u64 {
        self.core.remembered_after()
    }

    fn handle(&self, place: Place) -> Handle {
        let i = match place {
            Place::Slot(i) => i,
            Place::Overflow => 0,
        };
        Arc::clone(&self.handles[i])
    }

    /// Commits a transaction that began with `mark` and read `reads`.
    ///
    /// If nothing in `reads` was written by a commit of a version above the mark's, the commit gets
    /// the next version, and `enqueue(version)` is called under the oracle's lock, so that the
    /// order of the calls is the order of versions; its result is returned. `enqueue` should be
    /// short, and cannot refuse. It must neither call the oracle nor drop a mark: that would be a
    /// deadlock. If it panics, the oracle is poisoned. Once it was called, [`Oracle::published`] or
    /// [`Oracle::failed`] has to be called for the version.
    ///
    /// An empty read set never conflicts (blind writes). Without writes there is nothing to commit:
    /// that never fails, uses no version, does not call `enqueue` and returns `None`.
    ///
    /// The keys are hashed and copied before the lock is taken, and remembered writes are checked
    /// without it, but for the last few.
    ///
    /// # Errors
    /// Every kind of [`CommitError`] but those of managed mode.
    pub fn commit<'k, W, T>(
        &self,
        mark: &ReadMark,
        reads: &ReadSet,
        writes: impl IntoIterator<Item = W>,
        enqueue: impl FnOnce(u64) -> T,
    ) -> Result<Option<T>, CommitError>
    where
        W: Into<Write<'k>>,
    {
        self.commit_version(None, Some((mark, reads)), writes, enqueue)
    }

    /// Commits writes of a transaction that has read nothing, and needs no mark for it. It never
    /// conflicts. Else like [`Oracle::commit`].
    ///
    /// # Errors
    /// [`CommitError::Poisoned`], [`CommitError::Managed`], [`CommitError::Exhausted`].
    pub fn commit_blind<'k, W, T>(
        &self,
        writes: impl IntoIterator<Item = W>,
        enqueue: impl FnOnce(u64) -> T,
    ) -> Result<Option<T>, CommitError>
    where
        W: Into<Write<'k>>,
    {
        self.commit_version(None, None, writes, enqueue)
    }

    /// Managed mode: commits at a version that the caller chose, which must be above every earlier
    /// one. `transaction` is `None` for blind writes. Else like [`Oracle::commit`].
    ///
    /// ```
    /// use kvdb_txn::{CommitError, Mode, Options, Oracle, ReadSet};
    /// let mut options = Options::default();
    /// options.managed = true;
    /// let oracle = Oracle::new(options, 0, 0);
    /// let mark = oracle.begin_at(5, Mode::ReadWrite).unwrap();
    /// let mut reads = ReadSet::new();
    /// reads.add_point(b"k");
    /// oracle.commit_at(10, None, [b"k"], drop).unwrap();
    /// oracle.published(10);
    /// let refused = oracle.commit_at(10, None, [b"l"], drop);
    /// assert!(matches!(refused, Err(CommitError::VersionNotAbove { last: 10, .. })));
    /// let overtaken = oracle.commit_at(11, Some((&mark, &reads)), [b"l"], drop);
    /// assert_eq!(overtaken, Err(CommitError::Conflict));
    /// ```
    ///
    /// # Errors
    /// Every kind of [`CommitError`] but [`CommitError::Managed`].
    pub fn commit_at<'k, W, T>(
        &self,
        version: u64,
        transaction: Option<(&ReadMark, &ReadSet)>,
        writes: impl IntoIterator<Item = W>,
        enqueue: impl FnOnce(u64) -> T,
    ) -> Result<Option<T>, CommitError>
    where
        W: Into<Write<'k>>,
    {
        self.commit_version(Some(version), transaction, writes, enqueue)
    }

    fn commit_version<'k, W, T>(
        &self,
        version: Option<u64>,
        transaction: Option<(&ReadMark, &ReadSet)>,
        writes: impl IntoIterator<Item = W>,
        enqueue: impl FnOnce(u64) -> T,
    ) -> Result<Option<T>, CommitError>
    where
        W: Into<Write<'k>>,
    {
        let core = &*self.core;
        match (core.options.managed, version) {
            (true, None) => return Err(CommitError::Managed),
            (false, Some(_)) => return Err(CommitError::NotManaged),
            _ => {}
        }
        let detect = core.options.detect_conflicts;
        let mut batch = if detect {
            let batch = Batch::new(writes);
            if batch.is_empty() {
                return Ok(None);
            }
            batch
        } else if writes.into_iter().next().is_none() {
            return Ok(None);
        } else {
            Batch::default()
        };
        if transaction.is_some_and(|(mark, _)| mark.mode() == Mode::ReadOnly) {
            return Err(CommitError::ReadOnly);
        }

        let mut dropped = Vec::new();
        let mut state = lock_busy(&core.state);
        if let Some((mark, reads)) = transaction.filter(|(_, reads)| detect && !reads.is_empty()) {
            let mut after = mark.base();
            for round in 0.. {
                state.admits(version)?;
                let window = &mut state.window;
                if after < window.forgotten() {
                    return Err(CommitError::TooOld {
                        read_version: after,
                        remembered_after: window.forgotten(),
                    });
                }
                let at_once = if round < ROUNDS { CHECKED_AT_ONCE } else { usize::MAX };
                match window.plan(after, reads, at_once) {
                    Plan::Checked(false) => break,
                    Plan::Checked(true) => return Err(CommitError::Conflict),
                    Plan::Blocks(blocks, up_to) => {
                        core.update_front(&state);
                        drop(state);
                        if blocks.iter().any(|block| block.conflicts(after, reads)) {
                            return Err(CommitError::Conflict);
                        }
                        after = up_to;
                        state = lock_busy(&core.state);
                    }
                }
            }
        }

        let version = state.admits(version)?;
        state.last = version;
        let mut sealed = false;
        if detect {
            sealed = state.window.append(version, &mut batch);
            let limit = core.options.max_tracked_bytes;
            if state.window.bytes() > limit {
                let unneeded = core.unneeded();
                state.window.forget(unneeded, &mut dropped);
                state.window.shrink(limit, &mut dropped);
                core.update_front(&state);
            } else if sealed {
                core.update_front(&state);
            }
        }
        // Stays so if `enqueue` panics: then no one knows whether this version is in the queue.
        state.failed = NonZeroU64::new(version);
        let enqueued = enqueue(version);
        state.failed = None;
        drop(state);
        drop(dropped);
        if sealed {
            core.forget();
        }
        Ok(Some(enqueued))
    }

    /// Makes every version up to `version` readable.
    ///
    /// To be called when these commits can be read, in version order, once for each or once for
    /// several, and only for versions that were handed out. A version that failed, and those above
    /// it, do not become readable.
    pub fn published(&self, version: u64) {
        self.core.publish(version);
    }

    /// Says that the commit of `version` could not be completed.
    ///
    /// It never becomes readable, nor does any version above it: readers stay below. From now on
    /// every commit fails with [`CommitError::Poisoned`].
    pub fn failed(&self, version: u64) {
        self.core.fail(version);
    }

    /// The newest readable version: what a transaction that begins now will read.
    pub fn read_version(&self) -> u64 {
        self.core.published.load(SeqCst)
    }

    /// The largest version handed out, or found at open.
    pub fn last_version(&self) -> u64 {
        self.core.state.lock().last
    }

    /// The smallest version that failed, if one did.
    pub fn failed_version(&self) -> Option<u64> {
        self.core.state.lock().failed.map(NonZeroU64::get)
    }

    /// The lowest version being read, or the newest readable one if that is lower.
    ///
    /// A transaction that begins at this moment may go unnoticed, so this is for statistics:
    /// to drop versions, use [`Oracle::raise_floor`].
    pub fn low_water(&self) -> u64 {
        self.core.low_water(self.core.published.load(SeqCst))
    }

    /// Raises the discard floor as far as open transactions allow, and returns it.
    ///
    /// No transaction reads below the floor `f`, now or later: every open mark, and every one that
    /// will be handed out, is at `f` or above. So of each key **the newest version ≤ `f` has to
    /// stay, those older than it may go**. The floor never falls. It does not pass the newest
    /// readable version, nor in managed mode the watermark set by the caller.
    pub fn raise_floor(&self) -> u64 {
        self.core.raise_floor()
    }

    /// What [`Oracle::raise_floor`] returned last.
    pub fn floor(&self) -> u64 {
        *self.core.discarded.lock()
    }

    /// Managed mode: allows versions that are shadowed at `version` to be dropped, and refuses
    /// readers below it from now on. The watermark starts at 0 (or at what was discarded before
    /// the store was opened) and never falls; a lower one than before is ignored.
    ///
    /// Since a transaction may begin at any version from the watermark on, writes above it are
    /// remembered, up to [`Options::max_tracked_bytes`], even if no transaction is open.
    ///
    /// # Errors
    /// If the oracle is not in managed mode.
    pub fn set_discard_watermark(&self, version: u64) -> Result<(), NotManaged> {
        if !self.core.options.managed {
            return Err(NotManaged);
        }
        self.core.watermark.fetch_max(version, SeqCst);
        self.core.forget();
        Ok(())
    }

    /// What was passed to [`Oracle::set_discard_watermark`], or was discarded before the store was
    /// opened.
    pub fn discard_watermark(&self) -> u64 {
        self.core.watermark.load(SeqCst)
    }

    /// Bytes of memory that the remembered writes take which an open read-write transaction, or
    /// one that begins now, may have to be checked against. Zero when no read-write transaction
    /// is open and every commit is published (and, in managed mode, the watermark has reached them).
    pub fn tracked_bytes(&self) -> usize {
        self.core.forget();
        self.core.state.lock().window.bytes()
    }

    /// What is remembered at this moment, without looking whether it has to be.
    #[cfg(loom)]
    pub fn retained_bytes(&self) -> usize {
        self.core.state.lock().window.bytes()
    }

    /// The number of open transactions: read-only, read-write. Not exact while they begin and end.
    pub fn open_transactions(&self) -> (usize, usize) {
        (self.core.marks(Mode::ReadOnly).count(), self.core.marks(Mode::ReadWrite).count())
    }
}

impl fmt::Debug for Oracle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Oracle")
            .field("options", &self.core.options)
            .field("read_version", &self.core.published.load(Relaxed))
            .finish_non_exhaustive()
    }
}

impl State {
    pub(crate) fn new(last: u64) -> Self {
        State { last, failed: None, window: Window::new(last) }
    }

    /// The version that the next commit gets, `wanted` in managed mode.
    fn admits(&self, wanted: Option<u64>) -> Result<u64, CommitError> {
        if let Some(failed) = self.failed {
            return Err(CommitError::Poisoned { failed_version: failed.get() });
        }
        let last = self.last;
        match wanted {
            Some(version) if version <= last => Err(CommitError::VersionNotAbove { version, last }),
            Some(TOO_LARGE) => Err(CommitError::Exhausted),
            Some(version) => Ok(version),
            None if last + 1 == TOO_LARGE => Err(CommitError::Exhausted),
            None => Ok(last + 1),
        }
    }
}
