//! The primitives the protocols are built from: the real ones, or loom's in a model.

#[cfg(not(loom))]
mod imp {
    use std::sync::OnceLock;
    use std::sync::atomic::Ordering;
    use std::thread::available_parallelism;

    pub(crate) use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64};
    pub(crate) use std::thread::yield_now;

    pub(crate) use parking_lot::{Condvar, Mutex, MutexGuard, RwLock};

    /// So often anybody looks: about as long as it takes a group to be written, a microsecond or
    /// two.
    const FIRST_SPINS: u32 = 40;
    /// So often looks who may go on looking: about as long as it takes a sleeping thread to be
    /// woken, tens of microseconds. Were it less, one thread that has slept once would send
    /// those to sleep that wait for it, and they each other, for ever.
    const SPINS: u32 = 1200;

    /// Those who went on looking, in the whole process.
    static SPINNING: AtomicU32 = AtomicU32::new(0);

    /// Looks for a while whether something has happened that should happen within microseconds.
    pub(crate) fn spin_until(happened: impl Fn() -> bool) -> bool {
        let look = |times| {
            (0..times).any(|_| {
                std::hint::spin_loop();
                happened()
            })
        };
        if look(FIRST_SPINS) {
            return true;
        }
        // One core is left for whoever does what is waited for.
        static CORES: OnceLock<u32> = OnceLock::new();
        let cores = *CORES.get_or_init(|| available_parallelism().map_or(1, |n| n.get() as u32));
        let _spinning = Spinning;
        SPINNING.fetch_add(1, Ordering::Relaxed) + 1 < cores && look(SPINS)
    }

    /// Counts one less when dropped.
    struct Spinning;

    impl Drop for Spinning {
        fn drop(&mut self) {
            SPINNING.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// Takes a lock that is held for less than a microsecond at a time: looks a few times, far apart,
    /// before it gives the core to another thread as the mutex itself would do.
    #[inline]
    pub(crate) fn lock_busy<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
        mutex.try_lock().unwrap_or_else(|| lock_contended(mutex))
    }

    #[cold]
    fn lock_contended<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
        for _ in 0..40 {
            (0..4).for_each(|_| std::hint::spin_loop());
            if !mutex.is_locked()
                && let Some(guard) = mutex.try_lock()
            {
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
    use std::ops::{Deref, DerefMut};
    use std::sync::PoisonError;
    use std::time::Duration;

    pub(crate) use loom::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64};
    pub(crate) use loom::thread::yield_now;

    pub(crate) fn lock_busy<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
        mutex.lock()
    }

    /// In a model there is no while: whoever waits sleeps at once.
    pub(crate) fn spin_until(_: impl Fn() -> bool) -> bool {
        false
    }

    /// loom takes a `SeqCst` access for an acquire/release one, so the order of a write
    /// before a later read of another place has to be spelled out for it.
    pub(crate) fn order_write_before_read() {
        loom::sync::atomic::fence(loom::sync::atomic::Ordering::SeqCst);
    }

    /// loom's mutex with the interface of parking_lot's.
    #[derive(Debug)]
    pub(crate) struct Mutex<T>(loom::sync::Mutex<T>);

    /// `inner` is there except while [`MutexGuard::unlocked`] runs and the condition is waited for.
    pub(crate) struct MutexGuard<'a, T> {
        mutex: &'a Mutex<T>,
        inner: Option<loom::sync::MutexGuard<'a, T>>,
    }

    impl<T> Mutex<T> {
        pub(crate) fn new(value: T) -> Self {
            Mutex(loom::sync::Mutex::new(value))
        }

        pub(crate) fn lock(&self) -> MutexGuard<'_, T> {
            let inner = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            MutexGuard { mutex: self, inner: Some(inner) }
        }

        pub(crate) fn try_lock(&self) -> Option<MutexGuard<'_, T>> {
            Some(MutexGuard { mutex: self, inner: Some(self.0.try_lock().ok()?) })
        }
    }

    impl<T> MutexGuard<'_, T> {
        pub(crate) fn unlocked<U>(guard: &mut Self, f: impl FnOnce() -> U) -> U {
            guard.inner = None;
            let result = f();
            *guard = guard.mutex.lock();
            result
        }
    }

    impl<T> Deref for MutexGuard<'_, T> {
        type Target = T;
        fn deref(&self) -> &T {
            self.inner.as_ref().expect("the mutex is held")
        }
    }

    impl<T> DerefMut for MutexGuard<'_, T> {
        fn deref_mut(&mut self) -> &mut T {
            self.inner.as_mut().expect("the mutex is held")
        }
    }

    #[derive(Debug)]
    pub(crate) struct Condvar(loom::sync::Condvar);

    impl Condvar {
        pub(crate) fn new() -> Self {
            Condvar(loom::sync::Condvar::new())
        }

        pub(crate) fn wait<T>(&self, guard: &mut MutexGuard<'_, T>) {
            let inner = guard.inner.take().expect("the mutex is held");
            guard.inner = Some(self.0.wait(inner).unwrap_or_else(PoisonError::into_inner));
        }

        /// Time does not pass in a model: whoever counts on that is found out.
        pub(crate) fn wait_for<T>(&self, guard: &mut MutexGuard<'_, T>, _: Duration) {
            self.wait(guard);
        }

        pub(crate) fn notify_all(&self) {
            self.0.notify_all();
        }
    }

    #[derive(Debug)]
    pub(crate) struct RwLock<T>(loom::sync::RwLock<T>);

    impl<T> RwLock<T> {
        pub(crate) fn new(value: T) -> Self {
            RwLock(loom::sync::RwLock::new(value))
        }

        pub(crate) fn read(&self) -> loom::sync::RwLockReadGuard<'_, T> {
            self.0.read().unwrap_or_else(PoisonError::into_inner)
        }

        pub(crate) fn write(&self) -> loom::sync::RwLockWriteGuard<'_, T> {
            self.0.write().unwrap_or_else(PoisonError::into_inner)
        }
    }
}

pub(crate) use imp::*;
