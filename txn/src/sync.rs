//! The primitives the protocol is built from: the real ones, or loom's in a model.

#[cfg(not(loom))]
mod imp {
    pub(crate) use parking_lot::Mutex;
    pub(crate) use std::sync::atomic::{AtomicU64, AtomicUsize};

    /// Takes a lock that is held for some ten nanoseconds at a time. To sleep, or to yield, would cost
    /// more than to wait; and every look at the lock takes its cache line away from the holder. So:
    /// few looks, far apart, which also lets the other commit several times from a warm cache;
    /// then, since the holder may not be running, as the mutex does it.
    #[inline]
    pub(crate) fn lock_busy<T>(mutex: &Mutex<T>) -> parking_lot::MutexGuard<'_, T> {
        if let Some(guard) = mutex.try_lock() {
            return guard;
        }
        lock_contended(mutex)
    }

    #[cold]
    fn lock_contended<T>(mutex: &Mutex<T>) -> parking_lot::MutexGuard<'_, T> {
        for spins in [16, 32, 64, 64] {
            for _ in 0..spins {
                std::hint::spin_loop();
            }
            if let Some(guard) = mutex.try_lock() {
                return guard;
            }
        }
        mutex.lock()
    }

    /// What a `SeqCst` write followed by a `SeqCst` read already guarantees.
    #[inline(always)]
    pub(crate) fn order_write_before_read() {}
}

#[cfg(loom)]
mod imp {
    use std::sync::PoisonError;

    use loom::sync::MutexGuard;
    pub(crate) use loom::sync::atomic::{AtomicU64, AtomicUsize};

    /// loom's mutex with the interface of parking_lot's.
    pub(crate) struct Mutex<T>(loom::sync::Mutex<T>);

    impl<T> Mutex<T> {
        pub(crate) fn new(value: T) -> Self {
            Mutex(loom::sync::Mutex::new(value))
        }

        pub(crate) fn lock(&self) -> MutexGuard<'_, T> {
            self.0.lock().unwrap_or_else(PoisonError::into_inner)
        }
    }

    pub(crate) fn lock_busy<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
        mutex.lock()
    }

    /// loom takes a `SeqCst` access for an acquire/release one, so the order of a write
    /// before a later read of another place has to be spelled out for it.
    pub(crate) fn order_write_before_read() {
        loom::sync::atomic::fence(loom::sync::atomic::Ordering::SeqCst);
    }
}

pub(crate) use imp::*;
