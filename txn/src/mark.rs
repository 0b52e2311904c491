//! The read mark that a transaction holds.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;

use crate::core::Handle;
use crate::marks::Place;

/// What a transaction may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Mode {
    /// It only reads. It holds the low-water mark, and costs nothing else.
    ReadOnly,
    /// It may commit. The writes of others are remembered while it is open.
    ReadWrite,
}

/// The right to read at a version, from begin to drop.
///
/// While it lives, no version that it needs is dropped. A clone is a further mark at the same
/// version. It borrows nothing: it may outlive the handle it came from, and move between threads.
pub struct ReadMark {
    handle: Handle,
    place: Place,
    mode: Mode,
    version: u64,
    /// Commits above this one may have been missed; not above `version`, and what the slot holds.
    base: u64,
}

impl ReadMark {
    pub(crate) fn new(handle: Handle, place: Place, mode: Mode, version: u64, base: u64) -> Self {
        ReadMark { handle, place, mode, version, base }
    }

    /// The version it reads at.
    #[inline]
    pub fn version(&self) -> u64 {
        self.version
    }

    /// Whether it is that of a read-only or a read-write transaction.
    #[inline]
    pub fn mode(&self) -> Mode {
        self.mode
    }

    pub(crate) fn base(&self) -> u64 {
        self.base
    }

    /// Moves the mark up.
    pub(crate) fn rebase(&mut self, base: u64) {
        self.handle.marks(self.mode).raise(self.place, self.base, base);
        self.base = base;
    }
}

impl Clone for ReadMark {
    fn clone(&self) -> Self {
        let place = self.handle.marks(self.mode).set(self.base);
        // A scan may have passed the new place already and then not find this mark in its old
        // one any more. Once no scan is under way, every later one finds the new one.
        if self.handle.floor.load(SeqCst) > self.base {
            drop(self.handle.discarded.lock());
        }
        ReadMark::new(Arc::clone(&self.handle), place, self.mode, self.version, self.base)
    }
}

impl Drop for ReadMark {
    fn drop(&mut self) {
        self.handle.marks(self.mode).clear(self.place, self.base);
        if self.mode == Mode::ReadWrite && self.base < self.handle.front.load(SeqCst) {
            self.handle.forget();
        }
    }
}

impl fmt::Debug for ReadMark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReadMark")
            .field("version", &self.version)
            .field("mode", &self.mode)
            .finish_non_exhaustive()
    }
}
