//! Read marks: which versions are being read.
//!
//! A table of slots, each on a cache line of its own, holds one mark each; a slot is claimed by
//! one compare-and-swap and given back by one store. When all are taken, marks go to a map under
//! a lock, so there is no limit, and no wait for another transaction.
//!
//! # The protocol
//!
//! Whoever wants to drop versions (or forget writes) that no one needs
//!
//! 1. publishes in `floor` the version up to which it would like to go, then
//! 2. scans the marks, and goes no further than the lowest of them.
//!
//! Whoever begins
//!
//! 1. stores its mark, then
//! 2. reads `floor`, and if that is above its mark, moves the mark up and reads `floor` again.
//!
//! All four accesses are `SeqCst`, so they have one order that all threads agree on. If the scan
//! misses the mark, the scan's read of the slot comes before the store of the mark; then the store
//! of `floor`, which comes before the scan, comes before the reader's load of `floor`, which comes
//! after the store of the mark. So the reader sees that floor (or a higher one): either its mark
//! is at or above it, and is not concerned, or it moves up. In both cases no mark that a scan has
//! missed is below that scan's floor. A mark only ever moves up, so a scan that reads an outdated
//! value goes less far than it might, never further.
//!
//! The table scans only the slots that were ever used. A slot enters that range before its first
//! mark is stored, so the same argument covers it.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;

use crossbeam_utils::CachePadded;

use crate::sync::{AtomicU64, AtomicUsize, Mutex, order_write_before_read};

/// A slot without a mark; a mark of version `v` is stored as `v + 1`.
const FREE: u64 = 0;
/// The first version that does not fit, see `FREE`.
pub(crate) const TOO_LARGE: u64 = u64::MAX;

/// Where a mark is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    Slot(usize),
    Overflow,
}

/// See the module's description.
pub(crate) struct Marks {
    slots: Box<[CachePadded<AtomicU64>]>,
    /// Slots from here on were never used.
    used: CachePadded<AtomicUsize>,
    /// How many marks there are of each version, of those that found no slot.
    overflow: Mutex<BTreeMap<u64, usize>>,
}

impl Marks {
    pub(crate) fn new(slots: usize) -> Self {
        Marks {
            slots: (0..slots).map(|_| CachePadded::new(AtomicU64::new(FREE))).collect(),
            used: CachePadded::new(AtomicUsize::new(0)),
            overflow: Mutex::new(BTreeMap::new()),
        }
    }

    /// Stores a mark. The caller has to read the floor next.
    pub(crate) fn set(&self, version: u64) -> Place {
        let n = self.slots.len();
        let hint = hint::get();
        for i in 0..n {
            let i = hint.wrapping_add(i) % n;
            if self.slots[i].load(Ordering::Relaxed) != FREE {
                continue;
            }
            if self.used.load(Ordering::Relaxed) <= i {
                self.used.fetch_max(i + 1, Ordering::SeqCst);
            }
            let claimed = self.slots[i].compare_exchange(
                FREE,
                version + 1,
                Ordering::SeqCst,
                Ordering::Relaxed,
            );
            if claimed.is_ok() {
                hint::set(i + 1);
                order_write_before_read();
                return Place::Slot(i);
            }
        }
        *self.overflow.lock().entry(version).or_insert(0) += 1;
        order_write_before_read();
        Place::Overflow
    }

    /// Moves a mark up. The caller has to read the floor next.
    pub(crate) fn raise(&self, place: Place, from: u64, to: u64) {
        match place {
            Place::Slot(i) => self.slots[i].store(to + 1, Ordering::SeqCst),
            Place::Overflow => {
                let mut overflow = self.overflow.lock();
                remove(&mut overflow, from);
                *overflow.entry(to).or_insert(0) += 1;
            }
        }
        order_write_before_read();
    }

    /// Removes a mark.
    pub(crate) fn clear(&self, place: Place, version: u64) {
        match place {
            Place::Slot(i) => {
                self.slots[i].store(FREE, Ordering::SeqCst);
                hint::set(i);
            }
            Place::Overflow => remove(&mut self.overflow.lock(), version),
        }
        order_write_before_read();
    }

    /// The lowest mark that is at least `from`. The caller has published its floor before.
    pub(crate) fn lowest(&self, from: u64) -> Option<u64> {
        order_write_before_read();
        let used = self.used.load(Ordering::SeqCst).min(self.slots.len());
        let slots = self.slots[..used].iter().map(|slot| slot.load(Ordering::SeqCst));
        let lowest = slots.filter(|&mark| mark > from).min().map(|mark| mark - 1);
        let overflow = self.overflow.lock().range(from..).next().map(|(&version, _)| version);
        match (lowest, overflow) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        }
    }

    /// The number of marks. Not exact while there are changes.
    pub(crate) fn count(&self) -> usize {
        let slots = self.slots.iter().filter(|slot| slot.load(Ordering::Relaxed) != FREE).count();
        slots + self.overflow.lock().values().sum::<usize>()
    }
}

fn remove(overflow: &mut BTreeMap<u64, usize>, version: u64) {
    if let Some(count) = overflow.get_mut(&version) {
        *count -= 1;
        if *count == 0 {
            overflow.remove(&version);
        }
    }
}

/// Where a thread looks first: the slot it gave back last, so that it meets no one there.
#[cfg(not(loom))]
mod hint {
    use std::cell::Cell;

    use super::{AtomicUsize, Ordering};

    static THREADS: AtomicUsize = AtomicUsize::new(0);

    thread_local! {
        static NEXT: Cell<Option<usize>> = const { Cell::new(None) };
    }

    pub(super) fn get() -> usize {
        // During a thread's end there is no place to look it up; any slot will do then.
        let next = NEXT
            .try_with(|next| next.get().unwrap_or_else(|| THREADS.fetch_add(1, Ordering::Relaxed)));
        next.unwrap_or(0)
    }

    pub(super) fn set(slot: usize) {
        let _ = NEXT.try_with(|next| next.set(Some(slot)));
    }
}

#[cfg(loom)]
mod hint {
    pub(super) fn get() -> usize {
        0
    }

    pub(super) fn set(_: usize) {}
}
