//! One thread that keeps the log ready: the spare segment, background syncs, the durable-to mark,
//! and the segments that are dead.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

use crate::core::Core;

/// How long the log must have been idle before its tail is made durable and marked so.
const IDLE: Duration = Duration::from_millis(200);

/// The thread and the means to wake and stop it.
#[derive(Debug, Default)]
pub(crate) struct Housekeeper {
    shared: Arc<Shared>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    wake: Condvar,
}

#[derive(Debug, Default)]
struct State {
    woken: bool,
    stopped: bool,
}

impl Housekeeper {
    /// Starts the thread.
    pub(crate) fn start(&self, core: Arc<Core>) -> std::io::Result<()> {
        let shared = self.shared.clone();
        let thread = std::thread::Builder::new().name("kvdb-log".into()).spawn(move || {
            let kept = catch_unwind(AssertUnwindSafe(|| run(&shared, &core)));
            if let (Err(panic), Some(log)) = (kept, &core.log) {
                log.poison(panicked("housekeeping", &*panic));
            }
        })?;
        *self.thread.lock() = Some(thread);
        Ok(())
    }

    /// There is something to do now.
    pub(crate) fn wake(&self) {
        let mut state = self.shared.state.lock();
        if !state.woken {
            state.woken = true;
            self.shared.wake.notify_one();
        }
    }

    /// Ends the thread and waits for it.
    pub(crate) fn stop(&self) {
        self.shared.state.lock().stopped = true;
        self.shared.wake.notify_all();
        let thread = self.thread.lock().take();
        if thread.is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the log's housekeeper panicked");
        }
    }
}

/// A panic here ends the care for the log: writers must not go on as if nothing had happened.
pub(crate) fn panicked(
    during: &'static str,
    panic: &(dyn std::any::Any + Send),
) -> kvdb_vlog::Error {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    let message = text.or_else(|| panic.downcast_ref::<String>().cloned());
    kvdb_vlog::Error::Panicked {
        during,
        message: message.unwrap_or_else(|| "no message".to_owned()),
    }
}

fn run(shared: &Shared, core: &Core) {
    let Some(log) = &core.log else { return };
    let mut manifest_size = 0;
    let mut settled_size = core.manifest.size();
    loop {
        let idle = {
            let mut state = shared.state.lock();
            if !state.woken && !state.stopped {
                shared.wake.wait_for(&mut state, IDLE);
            }
            if state.stopped {
                return;
            }
            !std::mem::take(&mut state.woken)
        };
        // Every writer is told of it; here is nothing left to do.
        if log.poisoned().is_some() {
            continue;
        }
        // A failure has poisoned the log, or will meet the next commit that needs the room; there
        // is nobody here to tell.
        if let Err(error) = log.prepare() {
            tracing::warn!(%error, "no spare segment");
        }
        if idle && let Err(error) = log.idle_sync() {
            tracing::warn!(%error, "background sync");
        }
        // From then on damage to the last change set cannot pass for a torn append.
        let size = core.manifest.size();
        if idle && size != settled_size && !core.manifest.is_poisoned() {
            settled_size = size;
            if let Err(error) = core.manifest.settle() {
                tracing::warn!(%error, "settling the manifest");
            }
        }
        // Only a change set can have made a segment dead.
        if size != manifest_size {
            match core.free_dead_segments() {
                Ok(_) => manifest_size = size,
                Err(error) => tracing::warn!(%error, "freeing segments"),
            }
        }
    }
}
