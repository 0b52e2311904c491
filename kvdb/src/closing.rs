//! That a database is closed once, and everyone who closes it learns what came of it.

use std::thread::ThreadId;

use parking_lot::{Condvar, Mutex};

use crate::error::{Error, Result};

/// See the module's description.
#[derive(Debug, Default)]
pub(crate) struct Closing {
    state: Mutex<State>,
    ended: Condvar,
}

#[derive(Debug, Default)]
enum State {
    #[default]
    Open,
    /// The first close is under way, on this thread.
    Under(ThreadId),
    /// It has ended: with this error, if it failed.
    Ended(Option<String>),
}

impl State {
    fn outcome(&self) -> Result<()> {
        match self {
            State::Ended(Some(failure)) => Err(Error::CloseFailed(failure.clone())),
            _ => Ok(()),
        }
    }
}

/// The first close. The others learn of its end whatever becomes of it.
#[derive(Debug)]
pub(crate) struct First<'a>(&'a Closing);

impl Closing {
    /// Some for the first call.
    pub(crate) fn begin(&self) -> Option<First<'_>> {
        let mut state = self.state.lock();
        matches!(*state, State::Open).then(|| {
            *state = State::Under(std::thread::current().id());
            First(self)
        })
    }

    /// What the first close came to, waited for, unless this is the thread it runs on: then what
    /// it is busy with has called back.
    pub(crate) fn outcome(&self) -> Result<()> {
        let this = std::thread::current().id();
        let mut state = self.state.lock();
        while matches!(*state, State::Under(thread) if thread != this) {
            self.ended.wait(&mut state);
        }
        state.outcome()
    }

    /// As [`Closing::outcome`] if it is known; nothing is waited for.
    pub(crate) fn outcome_so_far(&self) -> Result<()> {
        self.state.lock().outcome()
    }

    fn end(&self, failure: Option<String>) {
        *self.state.lock() = State::Ended(failure);
        self.ended.notify_all();
    }
}

impl First<'_> {
    pub(crate) fn end(self, outcome: &Result<()>) {
        self.0.end(outcome.as_ref().err().map(Error::to_string));
    }
}

impl Drop for First<'_> {
    fn drop(&mut self) {
        if matches!(*self.0.state.lock(), State::Under(_)) {
            self.0.end(Some("closing panicked".to_owned()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_waits_learns_of_a_first_close_that_panics() {
        let closing = Closing::default();
        let first = closing.begin().unwrap();
        assert!(closing.begin().is_none());
        closing.outcome().unwrap(); // on the thread of the first close nothing is waited for
        std::thread::scope(|scope| {
            let waits = scope.spawn(|| closing.outcome());
            drop(first);
            let told = waits.join().unwrap().unwrap_err();
            assert!(
                matches!(&told, Error::CloseFailed(why) if why == "closing panicked"),
                "{told}"
            );
        });
        assert!(closing.outcome_so_far().is_err());
    }
}
