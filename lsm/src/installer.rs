//! [`Installer`]: change sets of threads of low priority, installed by one of normal priority.
//!
//! Installing takes the lock that every write takes, for a moment. A thread of low priority that
//! loses its processor in that moment would hold up all writers until it gets one back, and with all
//! cores busy that is some ticks of the scheduler. So it hands its change set over and waits.

use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};

use kvdb_manifest::store::StoreChange;
use parking_lot::Mutex;

use crate::companion::Companion;
use crate::error::{Error, Result};
use crate::install::Installation;
use crate::priority;
use crate::shared::Shared;

/// A change set on its way, and where the outcome is waited for.
pub(crate) struct Request {
    change: StoreChange,
    parts: Installation,
    outcome: SyncSender<Result<bool>>,
}

/// The way to the installing thread, while there is one.
#[derive(Default)]
pub(crate) struct Installer {
    thread: Mutex<Option<Way>>,
}

struct Way {
    requests: Sender<Request>,
    nice: i32,
}

impl Installer {
    /// Opens the way. The receiver is for the thread that will call [`Shared::installer_loop`], and that
    /// has the priority of the caller.
    pub(crate) fn open(&self) -> Receiver<Request> {
        let (requests, receiver) = channel();
        *self.thread.lock() = Some(Way { requests, nice: priority::nice() });
        receiver
    }

    /// Closes it: the thread ends when it has done what it was handed.
    pub(crate) fn close(&self) {
        *self.thread.lock() = None;
    }

    /// The way, for a thread whose priority is lower.
    fn way(&self) -> Option<Sender<Request>> {
        let thread = self.thread.lock();
        let way = thread.as_ref()?;
        (priority::nice() > way.nice).then(|| way.requests.clone())
    }
}

impl<C: Companion> Shared<C> {
    /// Installs a change: appends it to the manifest, and when it is durable makes the superversion
    /// that belongs to it the current one. `Ok(false)`: an input is gone, nothing was done.
    pub(crate) fn install_change(&self, change: StoreChange, parts: Installation) -> Result<bool> {
        let Some(way) = self.installer.way() else { return self.install_here(change, parts) };
        let (outcome, answer) = sync_channel(1);
        match way.send(Request { change, parts, outcome }) {
            Ok(()) => answer.recv().unwrap_or(Err(Error::Closed)),
            // The thread has ended meanwhile.
            Err(back) => self.install_here(back.0.change, back.0.parts),
        }
    }

    /// What the installing thread does, until [`Installer::close`].
    pub(crate) fn installer_loop(&self, requests: &Receiver<Request>) {
        for Request { change, parts, outcome } in requests {
            // Whoever asked waits for it.
            let _ = outcome.send(self.install_here(change, parts));
        }
    }
}
