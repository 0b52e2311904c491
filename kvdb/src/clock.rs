//! The one clock for expiry times.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use kvdb_vfs::Clock;
use parking_lot::Mutex;

/// The larger of the wall clock and the largest clock that was ever used to drop an expired
/// entry, so that a wall clock going backwards never revives anything.
///
/// A transaction takes its clock at begin; compaction drops by the least clock of the open ones
/// ([`EngineClock::drop_clock`]), so an entry that a transaction may still see stays.
#[derive(Debug)]
pub(crate) struct EngineClock {
    wall: Arc<dyn Clock>,
    dropped: AtomicU64,
    open: Arc<Mutex<BTreeMap<u64, usize>>>,
}

impl EngineClock {
    /// `dropped` is the largest clock ever used for a drop, from the manifest.
    pub(crate) fn new(wall: Arc<dyn Clock>, dropped: u64) -> Self {
        EngineClock { wall, dropped: AtomicU64::new(dropped), open: Arc::default() }
    }

    /// Seconds since 1970, never less than what a drop was decided by.
    pub(crate) fn now(&self) -> u64 {
        self.wall.now().max(self.dropped.load(Ordering::SeqCst))
    }

    /// The largest clock a drop was decided by.
    pub(crate) fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::SeqCst)
    }

    /// The clock of a transaction that begins now, held until dropped.
    pub(crate) fn begin(&self) -> ClockMark {
        let mut open = self.open.lock();
        let now = self.now();
        *open.entry(now).or_default() += 1;
        ClockMark { now, open: self.open.clone() }
    }

    /// The clock to drop expired entries by: no open transaction has an earlier one, and none that
    /// begins later gets an earlier one.
    pub(crate) fn drop_clock(&self) -> u64 {
        let open = self.open.lock();
        let now = self.now();
        let clock = open.keys().next().map_or(now, |&least| least.min(now));
        self.dropped.fetch_max(clock, Ordering::SeqCst);
        clock
    }
}

/// A transaction's clock.
#[derive(Debug)]
pub(crate) struct ClockMark {
    now: u64,
    open: Arc<Mutex<BTreeMap<u64, usize>>>,
}

impl ClockMark {
    pub(crate) fn now(&self) -> u64 {
        self.now
    }
}

impl Drop for ClockMark {
    fn drop(&mut self) {
        let mut open = self.open.lock();
        if let Some(count) = open.get_mut(&self.now) {
            *count -= 1;
            if *count == 0 {
                open.remove(&self.now);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kvdb_vfs::ManualClock;

    #[test]
    fn an_open_transaction_holds_the_drop_clock_down() {
        let wall = Arc::new(ManualClock::new(100));
        let clock = EngineClock::new(wall.clone(), 0);
        let mark = clock.begin();
        wall.set(200);
        assert_eq!(clock.drop_clock(), 100);
        drop(mark);
        assert_eq!(clock.drop_clock(), 200);
    }

    #[test]
    fn a_wall_clock_going_backwards_does_not_take_the_engine_clock_along() {
        let wall = Arc::new(ManualClock::new(100));
        let clock = EngineClock::new(wall.clone(), 0);
        assert_eq!(clock.drop_clock(), 100);
        wall.set(50);
        assert_eq!(clock.now(), 100);
        assert_eq!(clock.begin().now(), 100);
    }
}
