//! The one clock for expiry times.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use kvdb_vfs::Clock;
use parking_lot::Mutex;

/// The larger of the wall clock and the latest expiry for which an entry was ever dropped, so that
/// a wall clock going backwards never revives anything. No more than that: were it the largest clock
/// that anything was dropped *by*, one flush under a clock that is wrong for a moment would end
/// everything that expires, for as long as the clock was ahead.
///
/// A transaction takes its clock at begin; a flush or compaction drops by the least clock of the open
/// ones, so an entry that a transaction may still see stays, and holds that clock until it is known
/// what was dropped ([`EngineClock::hold_drop_clock`]): no transaction begins below it meanwhile.
///
/// The open ones are kept in shards, so that threads that begin do not meet: each takes the lock of
/// one, a scan takes the locks of all at once. So to each other they are as if there were one lock.
#[derive(Debug)]
pub(crate) struct EngineClock {
    wall: Arc<dyn Clock>,
    dropped: AtomicU64,
    /// The clocks that jobs drop by at this moment, and the largest of them.
    held: Mutex<Vec<u64>>,
    largest_held: AtomicU64,
    shards: [Arc<Shard>; SHARDS],
}

const SHARDS: usize = 16;

/// The clocks of some of the open transactions, on cache lines of their own.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Shard {
    /// How many there are of each second: rarely more than two.
    open: Mutex<Vec<(u64, usize)>>,
}

impl Shard {
    /// The shard that this thread uses.
    fn index() -> usize {
        static THREADS: AtomicUsize = AtomicUsize::new(0);
        thread_local! {
            static INDEX: usize = THREADS.fetch_add(1, Ordering::Relaxed) % SHARDS;
        }
        // While a thread ends any will do.
        INDEX.try_with(|index| *index).unwrap_or(0)
    }
}

impl EngineClock {
    /// `dropped` is the latest expiry for which an entry was dropped, from the manifest.
    pub(crate) fn new(wall: Arc<dyn Clock>, dropped: u64) -> Self {
        let now = wall.now();
        if now < dropped {
            tracing::warn!(now, dropped, "the clock is behind an expiry that has passed");
        }
        EngineClock {
            wall,
            dropped: AtomicU64::new(dropped),
            held: Mutex::default(),
            largest_held: AtomicU64::new(0),
            shards: Default::default(),
        }
    }

    /// Seconds since 1970, never less than an expiry for which something was dropped.
    pub(crate) fn now(&self) -> u64 {
        // In this order: what is held is let go of after it was noted.
        let held = self.largest_held.load(Ordering::SeqCst);
        held.max(self.least())
    }

    fn least(&self) -> u64 {
        self.wall.now().max(self.dropped.load(Ordering::SeqCst))
    }

    /// Something was dropped for this expiry.
    pub(crate) fn note_dropped(&self, expiry: u64) {
        self.dropped.fetch_max(expiry, Ordering::SeqCst);
    }

    /// The clock of a transaction that begins now, held until dropped.
    pub(crate) fn begin(&self) -> ClockMark {
        let shard = &self.shards[Shard::index()];
        let mut open = shard.open.lock();
        let now = self.now();
        match open.iter_mut().find(|(second, _)| *second == now) {
            Some((_, count)) => *count += 1,
            None => open.push((now, 1)),
        }
        drop(open);
        ClockMark { now, shard: shard.clone() }
    }

    /// The clock that expired entries could be dropped by now: no open transaction has an earlier one.
    pub(crate) fn drop_clock(&self) -> u64 {
        self.with_drop_clock(|clock| clock)
    }

    /// The clock to drop expired entries by: no open transaction has an earlier one, and none that
    /// begins gets an earlier one until it is released.
    pub(crate) fn hold_drop_clock(&self) -> u64 {
        let mut held = self.held.lock();
        self.with_drop_clock(|clock| {
            held.push(clock);
            self.largest_held.fetch_max(clock, Ordering::SeqCst);
            clock
        })
    }

    /// Whoever held this clock has [noted](EngineClock::note_dropped) what was dropped.
    pub(crate) fn release_drop_clock(&self, clock: u64) {
        let mut held = self.held.lock();
        if let Some(at) = held.iter().position(|c| *c == clock) {
            held.swap_remove(at);
        }
        self.largest_held.store(held.iter().copied().max().unwrap_or(0), Ordering::SeqCst);
    }

    /// Nobody begins while `f` runs.
    fn with_drop_clock(&self, f: impl FnOnce(u64) -> u64) -> u64 {
        // All at once, and always in this order.
        let shards: [_; SHARDS] = std::array::from_fn(|i| self.shards[i].open.lock());
        let open = shards.iter().flat_map(|shard| shard.iter().map(|(second, _)| *second));
        f(open.fold(self.least(), u64::min))
    }
}

/// A transaction's clock.
#[derive(Debug)]
pub(crate) struct ClockMark {
    now: u64,
    shard: Arc<Shard>,
}

impl ClockMark {
    pub(crate) fn now(&self) -> u64 {
        self.now
    }
}

impl Drop for ClockMark {
    fn drop(&mut self) {
        let mut open = self.shard.open.lock();
        if let Some(at) = open.iter().position(|(second, _)| *second == self.now) {
            open[at].1 -= 1;
            if open[at].1 == 0 {
                open.swap_remove(at);
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
    fn the_drop_clock_is_held_down_by_every_thread() {
        let wall = Arc::new(ManualClock::new(100));
        let clock = Arc::new(EngineClock::new(wall.clone(), 0));
        // More threads than shards, each a second later than the one before.
        let mut marks: Vec<_> = (0..2 * SHARDS as u64)
            .map(|i| {
                wall.set(100 + i);
                let clock = clock.clone();
                std::thread::spawn(move || clock.begin()).join().unwrap()
            })
            .collect();
        wall.set(1000);
        while let Some(first) = marks.first().map(ClockMark::now) {
            assert_eq!(clock.drop_clock(), first);
            marks.remove(0);
        }
        assert_eq!(clock.drop_clock(), 1000);
    }

    #[test]
    fn no_mark_is_ever_below_a_clock_that_was_dropped_by() {
        let wall = Arc::new(ManualClock::new(1));
        let clock = Arc::new(EngineClock::new(wall.clone(), 0));
        let threads: Vec<_> = (0..4)
            .map(|_| {
                let clock = clock.clone();
                std::thread::spawn(move || {
                    for _ in 0..20_000 {
                        let held = || clock.largest_held.load(Ordering::SeqCst);
                        let before = held();
                        let mark = clock.begin();
                        assert!(mark.now() >= before);
                        assert!(held() <= mark.now(), "dropped under an open mark");
                    }
                })
            })
            .collect();
        for second in 2..3000 {
            wall.set(second);
            clock.hold_drop_clock();
        }
        threads.into_iter().for_each(|thread| thread.join().unwrap());
    }

    #[test]
    fn a_wall_clock_going_backwards_does_not_take_the_engine_clock_along() {
        let wall = Arc::new(ManualClock::new(100));
        let clock = EngineClock::new(wall.clone(), 0);
        let held = [clock.hold_drop_clock(), clock.hold_drop_clock()];
        assert_eq!(held, [100, 100]);
        wall.set(50);
        assert_eq!((clock.now(), clock.begin().now()), (100, 100), "while somebody drops by it");
        clock.release_drop_clock(100);
        assert_eq!(clock.now(), 100);
        clock.note_dropped(70);
        clock.release_drop_clock(100);
        assert_eq!((clock.now(), clock.begin().now()), (70, 70), "no less than what is gone");
        assert_eq!(EngineClock::new(wall, 70).now(), 70);
    }
}
