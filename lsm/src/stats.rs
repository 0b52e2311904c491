//! What a tree has done so far: [`Stats`].

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use serde::{Deserialize, Serialize};

use crate::stall::StallStats;

/// Counts since the tree was opened, and its shape now.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Stats {
    /// One line: number and size of the tables of each level that has any.
    pub shape: String,
    /// Per level, 0 first.
    pub levels: Vec<LevelStats>,
    /// The level that level 0 is compacted into.
    pub base_level: usize,
    /// Memtables waiting for their flush.
    pub sealed_memtables: usize,
    /// Bytes of all memtables in use, with their indexes.
    pub memtable_bytes: u64,
    /// Log bytes that the pointers of all tables refer to.
    pub pointer_bytes: u64,
    /// Flushed memtables.
    pub flushes: u64,
    /// Bytes of the tables that flushes wrote.
    pub flushed_bytes: u64,
    /// Compactions that read and wrote.
    pub compactions: u64,
    /// Tables that changed their level without being read.
    pub moves: u64,
    /// Bytes of compactions' inputs.
    pub compacted_read_bytes: u64,
    /// Bytes of compactions' outputs.
    pub compacted_write_bytes: u64,
    /// Entries that compactions dropped.
    pub dropped_entries: u64,
    /// Background jobs that failed or were given up.
    pub failed_jobs: u64,
    /// Compactions running now.
    pub running: usize,
    /// Bytes above the levels' targets.
    pub debt_bytes: u64,
    /// Stops: writers that waited, by reason.
    pub stalls: Vec<StallStats>,
    /// Writes that were slowed down.
    pub slowdowns: u64,
    /// For how long in all, in nanoseconds.
    pub slowdown_nanos: u64,
    /// Table lookups that a filter answered with no.
    pub filter_hits: u64,
    /// Table lookups that a filter let pass in vain.
    pub filter_misses: u64,
    /// Table lookups that found their key.
    pub table_hits: u64,
    /// Bytes in the block cache.
    pub cache_bytes: u64,
    /// Bytes of the indexes and filters of open tables, where tables are not mapped.
    pub index_bytes: u64,
    /// Tables that are kept open: those of older superversions that readers hold included.
    pub open_tables: usize,
}

/// One level.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[non_exhaustive]
pub struct LevelStats {
    /// Tables.
    pub tables: usize,
    /// Bytes of their files.
    pub bytes: u64,
    /// Bytes the level should have at most; 0 for level 0 and levels above the base.
    pub target_bytes: u64,
    /// From 1 on the level is worth compacting.
    pub score: f64,
    /// Bytes that compactions into this level read.
    pub read_bytes: u64,
    /// Bytes that flushes and compactions wrote into this level.
    pub write_bytes: u64,
    /// Bytes of the tables moved into this level.
    pub moved_bytes: u64,
}

/// What background work counts.
#[derive(Debug, Default)]
pub(crate) struct WorkCounters {
    pub(crate) flushes: AtomicU64,
    pub(crate) flushed_bytes: AtomicU64,
    pub(crate) compactions: AtomicU64,
    pub(crate) moves: AtomicU64,
    pub(crate) dropped_entries: AtomicU64,
    pub(crate) failed_jobs: AtomicU64,
    levels: [LevelCounters; MAX_LEVELS],
}

/// As many as `Options::max_levels` allows, and one more for what lies deeper after a reopening
/// with fewer.
const MAX_LEVELS: usize = 17;

#[derive(Debug, Default)]
pub(crate) struct LevelCounters {
    pub(crate) read: AtomicU64,
    pub(crate) written: AtomicU64,
    pub(crate) moved: AtomicU64,
}

impl WorkCounters {
    pub(crate) fn level(&self, depth: usize) -> &LevelCounters {
        &self.levels[depth.min(MAX_LEVELS - 1)]
    }

    pub(crate) fn sum(&self, of: impl Fn(&LevelCounters) -> &AtomicU64) -> u64 {
        self.levels.iter().map(|l| of(l).load(Ordering::Relaxed)).sum()
    }
}

pub(crate) fn add(counter: &AtomicU64, n: u64) {
    counter.fetch_add(n, Ordering::Relaxed);
}

pub(crate) fn get(counter: &AtomicU64) -> u64 {
    counter.load(Ordering::Relaxed)
}

const STRIPES: usize = 16;

/// What reads count: in stripes, so that readers on different cores share no cache line.
#[derive(Debug, Default)]
pub(crate) struct ReadCounters {
    stripes: [Stripe; STRIPES],
}

#[derive(Debug, Default)]
#[repr(align(128))]
struct Stripe {
    filter_hits: AtomicU64,
    filter_misses: AtomicU64,
    table_hits: AtomicU64,
}

impl ReadCounters {
    #[inline]
    fn stripe(&self) -> &Stripe {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        thread_local! {
            static MINE: usize = NEXT.fetch_add(1, Ordering::Relaxed) % STRIPES;
        }
        // A thread that is being torn down counts on the first stripe.
        &self.stripes[MINE.try_with(|i| *i).unwrap_or(0)]
    }

    #[inline]
    pub(crate) fn filter_hit(&self) {
        add(&self.stripe().filter_hits, 1);
    }

    #[inline]
    pub(crate) fn filter_passed(&self, found: bool) {
        let stripe = self.stripe();
        add(if found { &stripe.table_hits } else { &stripe.filter_misses }, 1);
    }

    /// Filter hits, filter misses, table hits.
    pub(crate) fn sums(&self) -> (u64, u64, u64) {
        let sum = |of: fn(&Stripe) -> &AtomicU64| self.stripes.iter().map(|s| get(of(s))).sum();
        (sum(|s| &s.filter_hits), sum(|s| &s.filter_misses), sum(|s| &s.table_hits))
    }
}
