//! The thread pool that shares the parts of one compaction.

use std::sync::Arc;

use parking_lot::{Condvar, Mutex};

use crate::error::{Error, Result};

/// A rayon pool of the tree's own, whose threads are gone when it is.
pub(crate) struct Pool {
    pool: Option<rayon::ThreadPool>,
    running: Arc<Running>,
}

/// How many of its threads have not ended.
#[derive(Default)]
struct Running {
    count: Mutex<usize>,
    ended: Condvar,
}

impl Pool {
    /// A pool of so many threads, each of which calls `start` first.
    pub(crate) fn new(threads: usize, start: impl Fn() + Send + Sync + 'static) -> Result<Pool> {
        // All of them, also those that have not come to their first instruction when the pool ends.
        let running = Arc::new(Running { count: Mutex::new(threads), ..Running::default() });
        let ended = running.clone();
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .thread_name(|i| format!("kvdb-part-{i}"))
            .start_handler(move |_| start())
            .exit_handler(move |_| {
                *ended.count.lock() -= 1;
                ended.ended.notify_all();
            })
            // Parts hand their panics to the job that waits for them. This is for what rayon itself
            // might throw: without a handler it would abort the process.
            .panic_handler(|_| tracing::error!("a compaction thread panicked"))
            .build()
            .map_err(|e| Error::Thread(Arc::new(std::io::Error::other(e))))?;
        Ok(Pool { pool: Some(pool), running })
    }

    /// Runs `work` in the pool and waits for it. A panic is passed on to the caller.
    pub(crate) fn install<R: Send>(&self, work: impl FnOnce() -> R + Send) -> R {
        match &self.pool {
            Some(pool) => pool.install(work),
            None => work(),
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        // Rayon tells its threads to end, and does not wait for them.
        self.pool = None;
        let mut count = self.running.count.lock();
        while *count > 0 {
            self.running.ended.wait(&mut count);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};

    #[test]
    fn its_threads_are_gone_when_it_is() {
        let started = Arc::new(AtomicUsize::new(0));
        let seen = started.clone();
        let pool = Pool::new(3, move || _ = seen.fetch_add(1, Ordering::SeqCst)).unwrap();
        assert_eq!(pool.install(|| 7), 7);
        let running = pool.running.clone();
        drop(pool);
        assert_eq!(*running.count.lock(), 0);
        assert_eq!(started.load(Ordering::SeqCst), 3);
    }
}
