//! What nobody reads any more, waiting to be freed by a background step.
//!
//! Dropping the last reference to a table unmaps its file and, if the table is no longer part of
//! the tree, removes it; dropping a memtable unmaps an arena. A reader must not pay for that, and
//! deferred destruction may run on any reader's thread. So what is dropped is only put here, and
//! [`Graveyard::bury`] is called by a step that has the time.

use std::any::Any;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use kvdb_vfs::Fs;
use parking_lot::{Condvar, Mutex};

/// How often to try to move the epoch on while something waits for it.
const EPOCH_LOOK: Duration = Duration::from_millis(5);
const LONG: Duration = Duration::from_secs(3600);

/// Things to be freed.
#[derive(Default)]
pub(crate) struct Graveyard {
    queue: Mutex<Vec<Remains>>,
    /// Superversions that were replaced and are not queued yet, because a pin may protect them.
    deferred: AtomicUsize,
    changed: Condvar,
}

pub(crate) enum Remains {
    /// Something whose drop may take long.
    Object(Box<dyn Any + Send>),
    /// A file that is no longer part of the tree, with what may still map it.
    File(PathBuf, Option<Box<dyn Any + Send>>),
}

impl Graveyard {
    pub(crate) fn new() -> Arc<Graveyard> {
        Arc::default()
    }

    pub(crate) fn push(&self, remains: Remains) {
        self.queue.lock().push(remains);
        self.changed.notify_all();
    }

    /// Something will be pushed by [`push_deferred`](Self::push_deferred) once the epoch has moved on.
    pub(crate) fn expect_deferred(&self) {
        let queue = self.queue.lock();
        self.deferred.fetch_add(1, Ordering::Relaxed);
        drop(queue);
        self.changed.notify_all();
    }

    pub(crate) fn push_deferred(&self, remains: Remains) {
        let mut queue = self.queue.lock();
        queue.push(remains);
        self.deferred.fetch_sub(1, Ordering::Relaxed);
        drop(queue);
        self.changed.notify_all();
    }

    /// Whether nothing waits, here or for the epoch.
    pub(crate) fn is_empty(&self) -> bool {
        self.queue.lock().is_empty() && !self.awaits_epoch()
    }

    /// Whether the epoch has to move on for something to be freed.
    pub(crate) fn awaits_epoch(&self) -> bool {
        self.deferred.load(Ordering::Relaxed) > 0
    }

    /// Waits until there may be something to do, or `stop` says not to. While something waits for
    /// the epoch, only for a moment: nobody tells when it can move on.
    pub(crate) fn wait(&self, stop: impl Fn() -> bool) {
        let mut queue = self.queue.lock();
        if queue.is_empty() && !stop() {
            let time = if self.awaits_epoch() { EPOCH_LOOK } else { LONG };
            self.changed.wait_for(&mut queue, time);
        }
    }

    /// Wakes whoever waits.
    pub(crate) fn wake(&self) {
        drop(self.queue.lock());
        self.changed.notify_all();
    }

    /// Frees everything that is queued, and what that sets free. Returns how many things it were.
    pub(crate) fn bury(&self, fs: &dyn Fs) -> usize {
        let mut count = 0;
        loop {
            let batch = std::mem::take(&mut *self.queue.lock());
            if batch.is_empty() {
                return count;
            }
            count += batch.len();
            for remains in batch {
                match remains {
                    Remains::Object(object) => drop(object),
                    Remains::File(path, map) => {
                        drop(map);
                        if let Err(error) = fs.remove(&path) {
                            // It is an orphan now, and removed when the tree is opened again.
                            tracing::warn!(path = %path.display(), %error, "cannot remove an old table");
                        }
                    }
                }
            }
        }
    }
}

impl std::fmt::Debug for Graveyard {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Graveyard({} remains)", self.queue.lock().len())
    }
}
