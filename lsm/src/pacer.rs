//! [`Pacer`]: how fast compactions may read and write.

use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// How long one wait lasts at most: a tree that is closed, or whose writers begin to wait, should not
/// have to wait for that.
const LONGEST_WAIT: Duration = Duration::from_millis(50);

/// Spreads the bytes of all compactions over time, at a rate that the user gives.
#[derive(Debug)]
pub(crate) struct Pacer {
    /// Bytes per second; 0: as fast as it goes.
    rate: u64,
    /// When what was done so far is paid for.
    paid: Mutex<Option<Instant>>,
}

impl Pacer {
    pub(crate) fn new(rate: u64) -> Pacer {
        Pacer { rate, paid: Mutex::default() }
    }

    /// After so many bytes: waits until as many were due, but not once `hurry` says so.
    pub(crate) fn pay(&self, bytes: u64, hurry: impl Fn() -> bool) {
        if self.rate == 0 {
            return;
        }
        let due = self.due(bytes, Instant::now());
        loop {
            let left = due.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            if hurry() {
                // What it does from here on is not owed either.
                *self.paid.lock() = None;
                return;
            }
            std::thread::sleep(left.min(LONGEST_WAIT));
        }
    }

    /// When these bytes are due, behind all that others have asked for.
    fn due(&self, bytes: u64, now: Instant) -> Instant {
        let cost = Duration::from_secs_f64(bytes as f64 / self.rate as f64);
        let mut paid = self.paid.lock();
        let due = paid.filter(|paid| *paid > now).unwrap_or(now) + cost;
        *paid = Some(due);
        due
    }

    /// Until when what was asked for so far is paid for.
    #[cfg(test)]
    pub(crate) fn paid(&self) -> Option<Instant> {
        *self.paid.lock()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn bytes_are_due_one_behind_the_other_and_what_was_not_used_is_not_saved() {
        let pacer = Pacer::new(1000);
        let now = Instant::now();
        assert_eq!(pacer.due(1000, now), now + SECOND);
        assert_eq!(pacer.due(2000, now), now + 3 * SECOND, "another thread's");
        assert_eq!(pacer.due(500, now + 2 * SECOND), now + 3 * SECOND + SECOND / 2);
        assert_eq!(pacer.due(1000, now + 60 * SECOND), now + 61 * SECOND);
    }

    #[test]
    fn who_is_in_a_hurry_does_not_wait_and_owes_nothing() {
        let pacer = Pacer::new(1);
        // Until then it waits, and asks again and again.
        let asked = Cell::new(0);
        pacer.pay(1 << 40, || asked.replace(asked.get() + 1) == 2);
        assert_eq!(asked.get(), 3);
        assert!(pacer.paid().is_none());
        Pacer::new(0).pay(u64::MAX, || panic!("without a rate nobody asks"));
    }
}
