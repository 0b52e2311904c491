//! What a database hangs on to its tree: [`Companion`].

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use kvdb_manifest::store::StoreChange;

use crate::error::BoxError;

/// The log beside the tree, as far as the tree has to know it.
///
/// The tree has no log of its own. A database that has one implements this; a stand-alone tree uses
/// [`NoCompanion`].
pub trait Companion: Send + Sync + 'static {
    /// What a reader needs beside the tables to follow a pointer. Part of the superversion, so
    /// tables and view always belong together.
    type View: Send + Sync + 'static;

    /// Which log segment a pointer's payload refers to, and how many of its bytes. `None`: not a
    /// pointer that this companion knows; it is not counted.
    ///
    /// The sums per segment go into the record of each table, so that the live bytes of a segment
    /// are at any time the sum over the tables of the current version.
    fn pointer(&self, payload: &[u8]) -> Option<(u32, u32)>;

    /// Called before a flushed table is synced and installed. On return every byte of the log up
    /// to `log_end` (packed position `segment << 32 | offset`, end of the last frame whose entries
    /// the table holds) must be durable. May add to the change set.
    ///
    /// # Errors
    /// Refuses the flush, for example because the log is poisoned.
    fn before_install(&self, change: &mut StoreChange, log_end: u64) -> Result<(), BoxError>;

    /// Called with every change set once it is durable in the manifest and before
    /// [`view`](Self::view) is asked, under the install lock: the moment to bring the view up to date.
    /// Must not call back into [`Tree::install`](crate::Tree::install), nor flush.
    /// [`Tree::close`](crate::Tree::close) may be called, and does not wait here.
    fn installed(&self, change: &StoreChange) {
        let _ = change;
    }

    /// Whether [`fold`](Self::fold) does anything. Asked once per flush and compaction.
    fn folds(&self) -> bool {
        false
    }

    /// Folds the payload of a merge operand onto an older operand or value of the same key, by an
    /// associative function. `None`: it cannot be, both stay.
    fn fold(&self, key: &[u8], older: &[u8], newer: &[u8]) -> Option<Vec<u8>> {
        let _ = (key, older, newer);
        None
    }

    /// The view that belongs to the current state of the manifest. Called under the install lock.
    fn view(&self) -> Arc<Self::View>;

    /// Publishes a new discard floor, then scans the read marks, and says what compaction could use
    /// now. The version never shrinks. May be called under the tree's scheduling lock: must not wait
    /// for the tree, nor close it.
    fn floor(&self) -> Floor;

    /// As [`floor`](Self::floor), for a job that drops by it: until it is
    /// [released](Self::release_floor), no reader gets a clock below this one. From then on none may
    /// get one below the latest expiry that was dropped by, which the job's change set says.
    fn hold_floor(&self) -> Floor {
        self.floor()
    }

    /// The job that holds this floor has installed what it did, or has failed.
    fn release_floor(&self, floor: Floor) {
        let _ = floor;
    }
}

/// What no reader can see any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Floor {
    /// Every read, now and in future, is at this version or a later one.
    pub discard: u64,
    /// No reader's clock (seconds since 1970) is below this one, now or in future.
    pub clock: u64,
}

/// A floor that a job drops by.
pub(crate) struct HeldFloor<'a, C: Companion> {
    companion: &'a C,
    pub(crate) floor: Floor,
}

impl<'a, C: Companion> HeldFloor<'a, C> {
    pub(crate) fn new(companion: &'a C) -> Self {
        HeldFloor { companion, floor: companion.hold_floor() }
    }
}

impl<C: Companion> Drop for HeldFloor<'_, C> {
    fn drop(&mut self) {
        self.companion.release_floor(self.floor);
    }
}

/// No log at all: for a tree that stands alone.
///
/// The floor is what was set last; at first it is 0, and then every version is kept.
#[derive(Debug, Default)]
pub struct NoCompanion {
    discard: AtomicU64,
    clock: AtomicU64,
    view: Arc<()>,
}

impl NoCompanion {
    /// Promises that nobody reads below the floor any more. It only rises.
    pub fn raise_floor(&self, floor: Floor) {
        self.discard.fetch_max(floor.discard, Ordering::SeqCst);
        self.clock.fetch_max(floor.clock, Ordering::SeqCst);
    }
}

impl Companion for NoCompanion {
    type View = ();

    fn pointer(&self, _payload: &[u8]) -> Option<(u32, u32)> {
        None
    }

    fn before_install(&self, _change: &mut StoreChange, _log_end: u64) -> Result<(), BoxError> {
        Ok(())
    }

    fn view(&self) -> Arc<()> {
        self.view.clone()
    }

    fn floor(&self) -> Floor {
        Floor {
            discard: self.discard.load(Ordering::SeqCst),
            clock: self.clock.load(Ordering::SeqCst),
        }
    }
}
