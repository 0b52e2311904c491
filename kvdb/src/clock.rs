//! The one clock for expiry times.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use kvdb_vfs::Clock;
use parking_lot::Mutex;

/// No less than the latest expiry for which an entry was ever dropped, so that whatever the wall clock
/// does nothing that is gone is missed by who should see it, and nothing that it hid comes back. (No more
/// than that is kept for good: were it the largest clock that anything was dropped *by*, one flush under
/// a clock that is wrong for a moment would end everything that expires, for as long as the clock was
/// ahead.)
///
/// And no less than anybody was told before, as long as the store is open: where the wall clock is set back
/// by up to an [hour](STEP_BACK) this one stands still, and what was seen to be absent stays so. If it is
/// set back further, it was wrong before, and what was said then is not held on to.
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
    /// The largest that was told, unless the wall clock was set back by more than a step since.
    told: AtomicU64,
    /// The clocks that jobs drop by at this moment, and the largest of them.
    held: Mutex<Vec<u64>>,
    largest_held: AtomicU64,
    shards: [Arc<Shard>; SHARDS],
}

const SHARDS: usize = 16;

/// By so many seconds a wall clock may be set back that was right before.
const STEP_BACK: u64 = 3600;

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
            told: AtomicU64::new(0),
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
        self.steady(self.wall.now()).max(self.dropped.load(Ordering::SeqCst))
    }

    /// Of the wall clock and what was told before that which holds.
    fn steady(&self, wall: u64) -> u64 {
        // Relaxed: who is to be told no less than somebody else comes after that one by other means.
        let told = self.told.load(Ordering::Relaxed);
        if wall > told {
            self.told.fetch_max(wall, Ordering::Relaxed);
        } else if told - wall <= STEP_BACK {
            return told;
        } else if self
            .told
            .compare_exchange(told, wall, Ordering::Relaxed, Ordering::Relaxed)
            .is_ok()
        {
            tracing::warn!(wall, told, "the clock was set back, and was wrong before");
        }
        wall
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
    fn a_wall_clock_that_is_set_back_takes_the_engine_clock_along_only_where_it_was_wrong() {
        let wall = Arc::new(ManualClock::new(100_000));
        let clock = EngineClock::new(wall.clone(), 0);
        assert_eq!(clock.now(), 100_000);
        wall.set(100_000 - STEP_BACK);
        assert_eq!(
            (clock.now(), clock.begin().now(), clock.drop_clock()),
            (100_000, 100_000, 100_000)
        );
        wall.set(100_000 - STEP_BACK - 1);
        assert_eq!(clock.now(), 100_000 - STEP_BACK - 1);
        wall.set(100_000 - STEP_BACK);
        assert_eq!(clock.now(), 100_000 - STEP_BACK, "and goes on from there");
    }

    #[test]
    fn it_is_held_where_something_is_dropped_by_it_and_at_what_was_dropped() {
        let wall = Arc::new(ManualClock::new(100_000));
        let clock = EngineClock::new(wall.clone(), 0);
        let held = [clock.hold_drop_clock(), clock.hold_drop_clock()];
        assert_eq!(held, [100_000, 100_000]);
        wall.set(50_000);
        assert_eq!(
            (clock.now(), clock.begin().now()),
            (100_000, 100_000),
            "while somebody drops by it"
        );
        clock.release_drop_clock(100_000);
        assert_eq!(clock.now(), 100_000);
        clock.note_dropped(70_000);
        clock.release_drop_clock(100_000);
        assert_eq!(
            (clock.now(), clock.begin().now()),
            (70_000, 70_000),
            "no less than what is gone"
        );
        assert_eq!(EngineClock::new(wall, 70_000).now(), 70_000);
    }

    #[test]
    fn no_thread_is_told_less_than_another_one_before() {
        let wall = Arc::new(ManualClock::new(100_000));
        let clock = EngineClock::new(wall.clone(), 0);
        let last = Mutex::new(0);
        std::thread::scope(|s| {
            for _ in 0..3 {
                s.spawn(|| {
                    for _ in 0..20_000 {
                        let before = *last.lock();
                        let now = clock.now();
                        assert!(now >= before, "{now}, {before} before");
                        let mut last = last.lock();
                        *last = now.max(*last);
                    }
                });
            }
            let mut rng = fastrand::Rng::with_seed(1);
            (0..20_000).for_each(|_| wall.set(rng.u64(100_000..100_000 + STEP_BACK)));
        });
    }
}
