//! What nobody reads any more, waiting to be freed by a background step.
//!
//! Dropping the last reference to a table unmaps its file and, if the table is no longer part of
//! the tree, removes it; dropping a memtable unmaps an arena. A reader must not pay for that, and
//! deferred destruction may run on any reader's thread. So what is dropped is only put here, and
//! [`Graveyard::bury`] is called by a step that has the time.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread::Thread;
use std::time::Duration;

use kvdb_vfs::Fs;
use parking_lot::Mutex;

use crate::compaction::run::panic_message;

/// How often to try to move the epoch on while something waits for it.
const EPOCH_LOOK: Duration = Duration::from_millis(5);
const LONG: Duration = Duration::from_secs(3600);

/// Things to be freed.
#[derive(Default)]
pub(crate) struct Graveyard {
    queue: Mutex<Queue>,
    /// Superversions that were replaced and are not queued yet, because a pin may protect them.
    deferred: AtomicUsize,
    /// Things taken off the queue and not freed yet.
    in_hand: AtomicUsize,
    /// The thread that buries, if there is one, and whether it can be woken.
    janitor: OnceLock<Thread>,
    registered: AtomicBool,
}

#[derive(Default)]
struct Queue {
    waiting: Vec<Remains>,
    /// Nobody buries any more. What comes is dropped where it is let go of: what waits here keeps the
    /// graveyard alive, and would be kept alive by it for ever. Files stay, as orphans.
    closed: bool,
}

pub(crate) enum Remains {
    /// Something whose drop may take long.
    Object(Box<dyn Any + Send>),
    /// A file that is no longer part of the tree. What may still map it was queued before.
    File(PathBuf),
}

impl Graveyard {
    pub(crate) fn new() -> Arc<Graveyard> {
        Arc::default()
    }

    pub(crate) fn push(&self, remains: Remains) {
        let mut queue = self.queue.lock();
        if queue.closed {
            drop(queue); // before `remains`, which may hold more of the kind
            return;
        }
        queue.waiting.push(remains);
        drop(queue);
        self.wake();
    }

    /// Nobody will bury from now on but the caller, what is here now.
    pub(crate) fn close(&self) {
        self.queue.lock().closed = true;
    }

    /// Whether the tree was closed: whoever opens the directory next may remove its files.
    pub(crate) fn is_closed(&self) -> bool {
        self.queue.lock().closed
    }

    /// Something will be pushed by [`push_deferred`](Self::push_deferred) once the epoch has moved on.
    ///
    /// Called under the lock that every write takes, so it must not wait for the queue's, which a
    /// thread of low priority may hold.
    pub(crate) fn expect_deferred(&self) {
        self.deferred.fetch_add(1, Ordering::SeqCst);
        self.wake();
    }

    pub(crate) fn push_deferred(&self, remains: Remains) {
        let mut queue = self.queue.lock();
        self.deferred.fetch_sub(1, Ordering::SeqCst);
        if queue.closed {
            drop(queue);
            return;
        }
        queue.waiting.push(remains);
        drop(queue);
        self.wake();
    }

    /// Whether nothing waits, here or for the epoch.
    pub(crate) fn is_empty(&self) -> bool {
        self.is_buried_but(false)
    }

    /// Whether nothing waits here; something may wait for the epoch, which any reader holds up.
    pub(crate) fn is_buried(&self) -> bool {
        self.is_buried_but(true)
    }

    fn is_buried_but(&self, deferred: bool) -> bool {
        let queue = self.queue.lock();
        queue.waiting.is_empty()
            && (deferred || !self.awaits_epoch())
            && self.in_hand.load(Ordering::Acquire) == 0
    }

    /// Whether the epoch has to move on for something to be freed.
    pub(crate) fn awaits_epoch(&self) -> bool {
        self.deferred.load(Ordering::SeqCst) > 0
    }

    /// This thread is the janitor from now on, and has not looked for anything yet.
    ///
    /// No wake-up is lost: whoever has something for the janitor writes first and looks then whether
    /// it is registered; the janitor registers first and looks then. All of it in one total order, or
    /// under the lock of the queue.
    pub(crate) fn register(&self) {
        self.janitor.get_or_init(std::thread::current);
        self.registered.store(true, Ordering::SeqCst);
    }

    /// The janitor waits until there may be something to do, or `stop` says not to. While something
    /// waits for the epoch, only for a moment: nobody tells when it can move on.
    pub(crate) fn wait(&self, stop: impl Fn() -> bool) {
        if self.queue.lock().waiting.is_empty() && !stop() {
            // Woken between the look and here, it does not sleep: the call is not forgotten.
            std::thread::park_timeout(if self.awaits_epoch() { EPOCH_LOOK } else { LONG });
        }
    }

    /// Wakes the janitor.
    pub(crate) fn wake(&self) {
        if self.registered.load(Ordering::SeqCst)
            && let Some(janitor) = self.janitor.get()
        {
            janitor.unpark();
        }
    }

    /// Frees everything that is queued, and what that sets free. Returns how many things it were.
    pub(crate) fn bury(&self, fs: &dyn Fs) -> usize {
        let mut count = 0;
        loop {
            let batch = {
                let mut queue = self.queue.lock();
                self.in_hand.fetch_add(queue.waiting.len(), Ordering::Relaxed);
                std::mem::take(&mut queue.waiting)
            };
            if batch.is_empty() {
                return count;
            }
            let taken = batch.len();
            count += taken;
            for remains in batch {
                let free = || match remains {
                    Remains::Object(object) => drop(object),
                    Remains::File(path) => {
                        if let Err(error) = fs.remove(&path) {
                            // It is an orphan now, and removed when the tree is opened again.
                            tracing::warn!(path = %path.display(), %error, "cannot remove an old table");
                        }
                    }
                };
                // Nobody reads it any more; what comes behind it is to be freed all the same.
                if let Err(panic) = catch_unwind(AssertUnwindSafe(free)) {
                    let panic = panic_message(&*panic);
                    tracing::error!(%panic, "freeing something that nobody reads any more");
                }
            }
            self.in_hand.fetch_sub(taken, Ordering::Release);
        }
    }
}

impl std::fmt::Debug for Graveyard {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Graveyard({} remains)", self.queue.lock().waiting.len())
    }
}
