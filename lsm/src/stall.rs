//! Why writers wait, and how often they did.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::options::Options;

/// What a writer waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[non_exhaustive]
pub enum StallReason {
    /// Every memtable is full.
    Memtables,
    /// Too many tables on level 0.
    Level0,
    /// Too many bytes wait for compaction.
    Debt,
}

/// The backlog that holds writers back.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Pressure {
    /// How far level 0 is from the slow-down trigger (0) to the stop trigger (1).
    l0: f64,
    /// The same for the bytes waiting for compaction.
    debt: f64,
}

impl Pressure {
    pub(crate) fn new(options: &Options, l0_tables: usize, debt_bytes: u64) -> Pressure {
        let between = |value: f64, from: f64, to: f64| (value - from) / (to - from);
        let (slow, stop) = (options.l0_slowdown_trigger as f64, options.l0_stop_trigger as f64);
        let debt = options.debt_slowdown_bytes as f64;
        Pressure {
            l0: between(l0_tables as f64, slow - 1.0, stop),
            debt: between(debt_bytes as f64, debt, debt * 4.0),
        }
    }

    /// Whether writers have to wait.
    pub(crate) fn stops(&self) -> bool {
        self.l0.max(self.debt) >= 1.0
    }

    /// Whether writers are to be slowed down, and how much: 0 to 1.
    pub(crate) fn slows(&self) -> Option<f64> {
        let most = self.l0.max(self.debt);
        (most > 0.0).then_some(most.min(1.0))
    }

    pub(crate) fn reason(&self) -> StallReason {
        if self.l0 >= self.debt { StallReason::Level0 } else { StallReason::Debt }
    }
}

/// Counts of what writers waited for.
#[derive(Debug, Default)]
pub(crate) struct Stalls {
    counts: [AtomicU64; 3],
    nanos: [AtomicU64; 3],
    slowdowns: AtomicU64,
    slowdown_nanos: AtomicU64,
    waiting: AtomicUsize,
}

/// How often and how long writers waited for one reason.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct StallStats {
    /// What for.
    pub reason: StallReason,
    /// How many times a writer had to wait.
    pub count: u64,
    /// For how long in all, in nanoseconds.
    pub nanos: u64,
}

const REASONS: [StallReason; 3] = [StallReason::Memtables, StallReason::Level0, StallReason::Debt];

impl Stalls {
    pub(crate) fn begin_wait(&self) {
        self.waiting.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn note_stop(&self, reason: StallReason, time: Duration) {
        self.waiting.fetch_sub(1, Ordering::Relaxed);
        let i = reason as usize;
        self.counts[i].fetch_add(1, Ordering::Relaxed);
        self.nanos[i].fetch_add(time.as_nanos() as u64, Ordering::Relaxed);
        tracing::debug!(?reason, ?time, "a writer waited");
    }

    pub(crate) fn note_slowdown(&self, time: Duration) {
        self.slowdowns.fetch_add(1, Ordering::Relaxed);
        self.slowdown_nanos.fetch_add(time.as_nanos() as u64, Ordering::Relaxed);
    }

    /// Whether a writer waits for room. Exact under the admission lock.
    pub(crate) fn any_waiting(&self) -> bool {
        self.waiting.load(Ordering::Relaxed) > 0
    }

    pub(crate) fn stops(&self) -> Vec<StallStats> {
        let stats = |reason: StallReason| StallStats {
            reason,
            count: self.counts[reason as usize].load(Ordering::Relaxed),
            nanos: self.nanos[reason as usize].load(Ordering::Relaxed),
        };
        REASONS.map(stats).into()
    }

    /// Count and nanoseconds of slow-downs.
    pub(crate) fn slowdowns(&self) -> (u64, u64) {
        (self.slowdowns.load(Ordering::Relaxed), self.slowdown_nanos.load(Ordering::Relaxed))
    }
}

#[cfg(test)]
mod tests;
