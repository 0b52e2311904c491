//! Who owns which bytes: a counter.

use super::OVERHEAD;
use crate::sync::{AtomicU64, Ordering};

/// Too few bytes left; nothing was taken.
#[derive(Debug)]
pub(crate) struct Full {
    pub(crate) needed: usize,
    pub(crate) remaining: usize,
}

/// What writers change and everybody's reads must not suffer from: on cache lines of its own.
#[repr(align(128))]
pub(super) struct Apart<T>(pub(super) T);

/// Bytes taken and nodes made. One word, so that an insert changes one contended cache line once.
pub(crate) struct Taken {
    /// Bytes in the lower [`NODE_SHIFT`] bits, nodes above: a node has 32 bytes or more, so
    /// neither can overflow.
    word: Apart<AtomicU64>,
    capacity: usize,
}

const NODE_SHIFT: u32 = 34;

fn bytes(word: u64) -> usize {
    (word & ((1 << NODE_SHIFT) - 1)) as usize
}

impl Taken {
    pub(super) fn new(capacity: usize) -> Taken {
        Taken { word: Apart(AtomicU64::new(OVERHEAD as u64)), capacity }
    }

    pub(crate) fn capacity(&self) -> usize {
        self.capacity
    }

    pub(crate) fn bytes(&self) -> usize {
        bytes(self.word.0.load(Ordering::Relaxed))
    }

    /// Nodes made and not disowned.
    pub(crate) fn nodes(&self) -> usize {
        (self.word.0.load(Ordering::Relaxed) >> NODE_SHIFT) as usize
    }

    /// A node that was made lost the race for its place: its bytes are gone, but it does not
    /// count.
    pub(crate) fn disown(&self) {
        self.word.0.fetch_sub(1 << NODE_SHIFT, Ordering::Relaxed);
    }

    /// Calls `fill` for a node that was just taken, and disowns the node if that panics.
    #[inline]
    pub(super) fn fill(&self, fill: impl FnOnce()) {
        struct OnUnwind<'a>(&'a Taken);
        impl Drop for OnUnwind<'_> {
            fn drop(&mut self) {
                self.0.disown();
            }
        }
        let on_unwind = OnUnwind(self);
        fill();
        std::mem::forget(on_unwind);
    }

    /// Takes `needed` bytes, a multiple of 8, for `nodes` nodes (0 or 1); returns where they
    /// start. A loop rather than a `fetch_add`, so that a request that does not fit leaves no
    /// trace that could make another one fail.
    pub(super) fn take(&self, needed: usize, nodes: u64) -> Result<usize, Full> {
        let mut word = self.word.0.load(Ordering::Relaxed);
        loop {
            let start = bytes(word);
            let remaining = self.capacity - start;
            if needed > remaining {
                return Err(Full { needed, remaining });
            }
            // Relaxed: this hands out disjoint ranges, it publishes nothing.
            match self.word.0.compare_exchange_weak(
                word,
                word + needed as u64 + (nodes << NODE_SHIFT),
                Ordering::Relaxed,
                Ordering::Relaxed,
            ) {
                Ok(_) => return Ok(start),
                Err(now) => word = now,
            }
        }
    }
}
