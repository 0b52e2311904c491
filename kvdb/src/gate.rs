//! Who is inside, and whether anyone may still come in.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::ThreadId;

use parking_lot::{Condvar, Mutex};

use crate::error::{Error, Result};

const CLOSED: usize = 1 << (usize::BITS - 1);

/// Counts the commits in flight, so that close can wait for them. Entering is one atomic addition.
#[derive(Debug, Default)]
pub(crate) struct Gate {
    /// Number of those inside, with the top bit for "closed".
    state: AtomicUsize,
    lock: Mutex<()>,
    left: Condvar,
}

impl Gate {
    /// # Errors
    /// [`Error::Closed`] once [`Gate::close`] was called.
    pub(crate) fn enter(&self) -> Result<Inside<'_>> {
        self.count_in()?;
        Ok(Inside(self))
    }

    /// As [`Gate::enter`], for who leaves on another thread.
    pub(crate) fn enter_owned(self: &Arc<Self>) -> Result<OwnedInside> {
        self.count_in()?;
        Ok(OwnedInside(self.clone()))
    }

    fn count_in(&self) -> Result<()> {
        // SeqCst: a closer that sees a zero count must also stop everyone who comes later.
        if self.state.fetch_add(1, Ordering::SeqCst) & CLOSED != 0 {
            self.leave();
            return Err(Error::Closed);
        }
        Ok(())
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.state.load(Ordering::SeqCst) & CLOSED != 0
    }

    /// Lets nobody in any more. True for the call that closed it.
    pub(crate) fn shut(&self) -> bool {
        self.state.fetch_or(CLOSED, Ordering::SeqCst) & CLOSED == 0
    }

    /// Whether nobody is inside.
    pub(crate) fn is_empty(&self) -> bool {
        self.state.load(Ordering::SeqCst) & !CLOSED == 0
    }

    /// As [`Gate::shut`], and waits until all are out.
    pub(crate) fn close(&self) -> bool {
        let first = self.shut();
        let mut guard = self.lock.lock();
        while !self.is_empty() {
            self.left.wait(&mut guard);
        }
        first
    }

    fn leave(&self) {
        if self.state.fetch_sub(1, Ordering::SeqCst) == CLOSED | 1 {
            // Under the lock, so that a closer between its check and its wait cannot miss it.
            let _guard = self.lock.lock();
            self.left.notify_all();
        }
    }
}

/// One of those inside.
#[derive(Debug)]
pub(crate) struct Inside<'a>(&'a Gate);

impl Drop for Inside<'_> {
    fn drop(&mut self) {
        self.0.leave();
    }
}

/// A gate for calls that run code of the user on their thread: it knows the threads inside, since
/// whoever closes must not wait for itself.
#[derive(Debug, Default)]
pub(crate) struct Work {
    gate: Gate,
    threads: Mutex<Vec<ThreadId>>,
}

impl Work {
    /// # Errors
    /// [`Error::Closed`] once [`Work::close`] was called.
    pub(crate) fn enter(&self) -> Result<AtWork<'_>> {
        let _inside = self.gate.enter()?;
        self.threads.lock().push(std::thread::current().id());
        Ok(AtWork { work: self, _inside })
    }

    pub(crate) fn holds_this_thread(&self) -> bool {
        self.threads.lock().contains(&std::thread::current().id())
    }

    /// Lets nobody in any more, and waits until all are out.
    pub(crate) fn close(&self) {
        self.gate.close();
    }
}

/// One of those at work.
#[derive(Debug)]
pub(crate) struct AtWork<'a> {
    work: &'a Work,
    _inside: Inside<'a>,
}

impl Drop for AtWork<'_> {
    fn drop(&mut self) {
        let this = std::thread::current().id();
        let mut threads = self.work.threads.lock();
        if let Some(at) = threads.iter().rposition(|thread| *thread == this) {
            threads.swap_remove(at);
        }
    }
}

/// One of those inside, bound to no scope.
#[derive(Debug)]
pub(crate) struct OwnedInside(Arc<Gate>);

impl Drop for OwnedInside {
    fn drop(&mut self) {
        self.0.leave();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicBool;

    #[test]
    fn close_waits_for_those_inside_and_refuses_the_rest() {
        let gate = Arc::new(Gate::default());
        let out = Arc::new(AtomicBool::new(false));
        let inside = gate.enter().unwrap();
        let closer = {
            let (gate, out) = (gate.clone(), out.clone());
            std::thread::spawn(move || {
                assert!(gate.close());
                assert!(out.load(Ordering::SeqCst), "closed while someone was inside");
            })
        };
        while !gate.is_closed() {
            std::thread::yield_now();
        }
        assert!(matches!(gate.enter(), Err(Error::Closed)));
        out.store(true, Ordering::SeqCst);
        drop(inside);
        closer.join().unwrap();
        assert!(!gate.close(), "the second close has nothing to do");
    }
}
