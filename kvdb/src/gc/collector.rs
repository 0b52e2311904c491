//! What collections share: who is at work on what, what is damaged, what was done so far.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use parking_lot::{Mutex, MutexGuard};
use serde::{Deserialize, Serialize};

use super::overview::Latest;
use super::units::Unit;

/// How long small files are not merged after there was no room for it.
const NO_ROOM_PAUSE: Duration = Duration::from_secs(600);

/// What all collections of this opening have done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[non_exhaustive]
pub struct GcTotals {
    /// Collections that moved records.
    pub collections: u64,
    /// Bytes read of files that were collected.
    pub bytes_read: u64,
    /// Bytes written, tables counted.
    pub bytes_written: u64,
    /// Bytes of the files that went, all-garbage ones included.
    pub bytes_removed: u64,
    /// Collections that failed, or met damage.
    pub failed: u64,
}

/// The state of garbage collection. None of its locks is taken by a reader or a commit.
#[derive(Debug, Default)]
pub(crate) struct Collector {
    /// What there is to collect. Taken while the manifest's state is read.
    pub(crate) overview: Latest,
    /// One collection at a time.
    working: Mutex<()>,
    /// How many are to be done at once.
    wanted: AtomicUsize,
    /// Held by whoever chooses segments, to free or to collect, until it has said so.
    choosing: Mutex<()>,
    /// Segments being collected: nobody frees them meanwhile.
    busy: Mutex<BTreeSet<u32>>,
    /// Segments that cannot be collected, and why.
    damaged: Mutex<BTreeMap<u32, String>>,
    /// Files that no manifest names any more, to be removed.
    doomed: Mutex<Vec<PathBuf>>,
    totals: Mutex<GcTotals>,
    /// Until then small files are not merged: there was no room.
    merge_again: Mutex<Option<Instant>>,
    /// How to find what is in use, if not by what is cheaper: for tests.
    look_up: Mutex<Option<bool>>,
    stopped: AtomicBool,
}

impl Collector {
    /// Waits until nobody else collects.
    pub(crate) fn work(&self) -> MutexGuard<'_, ()> {
        self.working.lock()
    }

    /// As long as this is held, collections in the background do not pause.
    pub(crate) fn hurry(&self) -> Hurry<'_> {
        self.wanted.fetch_add(1, Ordering::Relaxed);
        Hurry(&self.wanted)
    }

    pub(crate) fn is_wanted(&self) -> bool {
        self.wanted.load(Ordering::Relaxed) > 0
    }

    pub(crate) fn choosing(&self) -> MutexGuard<'_, ()> {
        self.choosing.lock()
    }

    /// Whether a segment is being collected.
    pub(crate) fn is_busy(&self, segment: u32) -> bool {
        self.busy.lock().contains(&segment)
    }

    /// Takes these units for one collection; until the claim is dropped.
    pub(crate) fn claim(&self, units: Vec<Unit>) -> Claim<'_> {
        let segments: BTreeSet<u32> = units.iter().flat_map(|u| u.segments.clone()).collect();
        self.busy.lock().extend(&segments);
        Claim { collector: self, units, segments }
    }

    /// Whether any of a unit's segments is known to be damaged.
    pub(crate) fn is_damaged(&self, unit: &Unit) -> bool {
        let damaged = self.damaged.lock();
        !damaged.is_empty() && unit.segments.iter().any(|s| damaged.contains_key(s))
    }

    pub(crate) fn note_damage(&self, segment: u32, what: String) {
        self.damaged.lock().insert(segment, what);
    }

    /// These segments are gone, and their damage with them.
    pub(crate) fn forget_damage(&self, segments: &[u32]) {
        let mut damaged = self.damaged.lock();
        segments.iter().for_each(|segment| _ = damaged.remove(segment));
    }

    /// The segments that were found damaged, and how.
    pub(crate) fn damage(&self) -> BTreeMap<u32, String> {
        self.damaged.lock().clone()
    }

    pub(crate) fn doom(&self, files: impl IntoIterator<Item = PathBuf>) {
        self.doomed.lock().extend(files);
    }

    pub(crate) fn look_up(&self) -> Option<bool> {
        *self.look_up.lock()
    }

    pub(crate) fn set_look_up(&self, look_up: Option<bool>) {
        *self.look_up.lock() = look_up;
    }

    pub(crate) fn take_doomed(&self) -> Vec<PathBuf> {
        std::mem::take(&mut *self.doomed.lock())
    }

    /// Whether there may be room again to merge small files.
    pub(crate) fn may_merge(&self) -> bool {
        let mut again = self.merge_again.lock();
        again.take_if(|again| Instant::now() >= *again);
        again.is_none()
    }

    /// Whether there was no room, and it is time to try again.
    pub(crate) fn merge_is_due(&self) -> bool {
        self.merge_again.lock().is_some_and(|again| Instant::now() >= again)
    }

    pub(crate) fn merge_later(&self) {
        *self.merge_again.lock() = Some(Instant::now() + NO_ROOM_PAUSE);
    }

    /// As when that time has passed.
    #[cfg(test)]
    pub(crate) fn merge_now(&self) {
        *self.merge_again.lock() = Some(Instant::now());
    }

    pub(crate) fn count(&self, add: impl FnOnce(&mut GcTotals)) {
        add(&mut self.totals.lock());
    }

    pub(crate) fn totals(&self) -> GcTotals {
        *self.totals.lock()
    }

    /// Collections end at their next look.
    pub(crate) fn stop(&self) {
        self.stopped.store(true, Ordering::Release);
    }

    pub(crate) fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::Acquire)
    }
}

/// Somebody waits for a collection.
pub(crate) struct Hurry<'a>(&'a AtomicUsize);

impl Drop for Hurry<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Units that one collection is at work on.
pub(crate) struct Claim<'a> {
    collector: &'a Collector,
    pub(crate) units: Vec<Unit>,
    segments: BTreeSet<u32>,
}

impl Claim<'_> {
    pub(crate) fn contains(&self, segment: u32) -> bool {
        self.segments.contains(&segment)
    }

    pub(crate) fn segments(&self) -> &BTreeSet<u32> {
        &self.segments
    }
}

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        let mut busy = self.collector.busy.lock();
        busy.retain(|s| !self.segments.contains(s));
    }
}
