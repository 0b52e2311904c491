//! The threads behind asynchronous commits.
//!
//! Whoever commits asynchronously takes all steps that can refuse or order the commit, then leaves
//! its ticket here, under the lock that gives out versions: so the queue of tickets is in version
//! order, like the log's own. One thread, the *committer*, drives them: the first of those that
//! wait leads a group of all, the others find their outcome there. It runs no code of a user but
//! wakers of futures. Callbacks run on a thread of their own, in the same order, because they may
//! use the database: one that waits for room in the log waits for tickets to be driven.
//!
//! Both threads are started by the first asynchronous commit, and ended when the database is
//! closed, after every commit has its outcome and every callback has run.
//!
//! What is under way is bounded in number and bytes: see [`Committer::claim`].

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, OnceLock};
use std::task::Waker;
use std::thread::{JoinHandle, ThreadId};
use std::time::Duration;

use kvdb_vlog::Ticket;
use parking_lot::{Condvar, Mutex};

use crate::commit::Request;
use crate::core::Core;
use crate::error::{Error, Result};
use crate::gate::OwnedInside;
use crate::pending::{Done, Slot};
use crate::pipeline::Route;

/// The most asynchronous commits that may be under way, callbacks that have not run included.
const MAX_COMMITS: usize = 4096;
/// The most bytes of frames they may have. A larger one goes alone.
const MAX_BYTES: usize = 32 << 20;

/// Whom to tell of an outcome.
pub(crate) enum Tell {
    Handle(Arc<Slot>),
    Callback(Callback),
}

pub(crate) type Callback = Box<dyn FnOnce(Result<u64>) + Send>;

/// See the module's description.
#[derive(Debug, Default)]
pub(crate) struct Committer {
    shared: Arc<Shared>,
    threads: Mutex<Option<Threads>>,
    /// Which threads they are, once started; also while they are waited for.
    ids: OnceLock<[ThreadId; 2]>,
}

#[derive(Debug)]
struct Threads {
    committer: JoinHandle<()>,
    callbacks: JoinHandle<()>,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    /// A ticket, or the end.
    driven: Condvar,
    /// A callback, or the end.
    called: Condvar,
    /// A commit less under way.
    room: Condvar,
}

#[derive(Debug, Default)]
struct State {
    jobs: VecDeque<Job>,
    due: VecDeque<Due>,
    commits: usize,
    bytes: usize,
    /// No ticket comes any more.
    stopping: bool,
    /// No callback comes any more.
    told_all: bool,
}

/// An ordered commit that nobody drives yet.
struct Job {
    ticket: Ticket<Route>,
    tell: TellOnce,
    claim: Claim,
    inside: OwnedInside,
}

/// A callback to be run.
struct Due {
    callback: Callback,
    outcome: Result<u64>,
    claim: Claim,
}

impl std::fmt::Debug for Job {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Job({:?})", self.ticket)
    }
}

impl std::fmt::Debug for Due {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Due({:?})", self.outcome)
    }
}

/// A share in what may be under way, until dropped.
struct Claim {
    shared: Arc<Shared>,
    bytes: usize,
}

impl Drop for Claim {
    fn drop(&mut self) {
        let mut state = self.shared.state.lock();
        state.commits -= 1;
        state.bytes -= self.bytes;
        drop(state);
        self.shared.room.notify_all();
    }
}

/// An outcome is told whatever becomes of the thread that should tell it.
struct TellOnce(Option<Tell>);

impl TellOnce {
    /// Tells it. What is returned has to be woken when nothing is held that the woken might wait
    /// for: it is code of the user, and may drop the last handle of the database.
    fn tell(mut self, shared: &Shared, outcome: Result<Done>, claim: Claim) -> Option<Waker> {
        match self.0.take() {
            Some(Tell::Handle(slot)) => return slot.complete(outcome),
            Some(Tell::Callback(callback)) => {
                let outcome = outcome.map(|done| done.version);
                shared.state.lock().due.push_back(Due { callback, outcome, claim });
                shared.called.notify_one();
            }
            None => {}
        }
        None
    }
}

impl Drop for TellOnce {
    fn drop(&mut self) {
        let lost = || Error::OutcomeUnknown("the committer panicked".to_owned());
        match self.0.take() {
            Some(Tell::Handle(slot)) => _ = slot.complete(Err(lost())).map(wake),
            Some(Tell::Callback(callback)) => call(callback, Err(lost())),
            None => {}
        }
    }
}

impl Core {
    /// Commits without waiting for the outcome, which is told. Returns the version.
    pub(crate) fn commit_later(self: &Arc<Self>, request: Request<'_>, tell: Tell) -> Result<u64> {
        let inside = self.commits.enter_owned()?;
        let log = self.log()?;
        let committer = &self.committer;
        let callbacks = committer.start(self)?;
        // Room here first: who holds room in the log holds up others.
        let claim = committer.claim(request.writes.frame_len(), callbacks, self)?;
        let admitted = self.admit_request(&request)?;
        let durability = request.durability;
        // If the commit is refused, the callback goes last: it may hold the last handle of the
        // database, and closing that waits for whoever is inside.
        let mut tell = Some(tell);
        let mut held = Some((claim, inside));
        let enqueue = |version| {
            let ticket = admitted.enqueue(log, version, durability);
            if let (Some(tell), Some((claim, inside))) = (tell.take(), held.take()) {
                let job = Job { ticket, tell: TellOnce(Some(tell)), claim, inside };
                committer.shared.state.lock().jobs.push_back(job);
            }
            version
        };
        let queued = self.order(&request, enqueue)?;
        committer.shared.driven.notify_one();
        // Without writes nothing comes here.
        Ok(queued.unwrap_or_else(|| self.oracle.read_version()))
    }

    /// Tells that a commit without writes has succeeded, where others are told.
    pub(crate) fn tell_later(self: &Arc<Self>, tell: Tell, version: u64) -> Result<()> {
        let _inside = self.commits.enter()?;
        let callbacks = self.committer.start(self)?;
        let claim = self.committer.claim(0, callbacks, self)?;
        let done = Done { version, position: None };
        _ = TellOnce(Some(tell)).tell(&self.committer.shared, Ok(done), claim).map(wake);
        Ok(())
    }
}

impl Committer {
    /// Starts the threads, if they do not run yet. Returns which one runs the callbacks.
    fn start(&self, core: &Arc<Core>) -> Result<ThreadId> {
        let mut threads = self.threads.lock();
        if let Some(threads) = &*threads {
            return Ok(threads.callbacks.thread().id());
        }
        let spawn = |name: &str, run: Box<dyn FnOnce() + Send>| {
            std::thread::Builder::new().name(name.into()).spawn(run).map_err(|source| {
                Error::Io(kvdb_vfs::Error::new(kvdb_vfs::Op::Open, &core.path, None, source))
            })
        };
        let shared = self.shared.clone();
        let callbacks = spawn("kvdb-callbacks", Box::new(move || run_callbacks(&shared)))?;
        let (shared, of) = (self.shared.clone(), core.clone());
        let committer = spawn("kvdb-commit", Box::new(move || run_commits(&shared, &of)));
        match committer {
            Ok(committer) => {
                let id = callbacks.thread().id();
                self.ids.get_or_init(|| [committer.thread().id(), id]);
                *threads = Some(Threads { committer, callbacks });
                Ok(id)
            }
            Err(error) => {
                // Nothing was queued yet; the next try starts both anew.
                self.shared.state.lock().told_all = true;
                self.shared.called.notify_all();
                drop(callbacks.join());
                self.shared.state.lock().told_all = false;
                Err(error)
            }
        }
    }

    /// A share for a commit of this size, waited for while too much is under way. A callback does
    /// not wait: it would wait for itself. Nobody waits while the database is being closed: it may
    /// be a callback that closes it.
    fn claim(&self, bytes: usize, callbacks: ThreadId, core: &Core) -> Result<Claim> {
        let waits = std::thread::current().id() != callbacks;
        let mut state = self.shared.state.lock();
        while waits
            && state.commits > 0
            && (state.commits >= MAX_COMMITS || state.bytes + bytes > MAX_BYTES)
        {
            core.check_open()?;
            self.shared.room.wait(&mut state);
        }
        state.commits += 1;
        state.bytes += bytes;
        Ok(Claim { shared: self.shared.clone(), bytes })
    }

    /// The database is being closed: those who wait for room are turned away. And if a waker does
    /// that, on the committer's own thread, this thread drives what is left until all are out.
    pub(crate) fn closing(&self, core: &Core) {
        /// For those who leave without a ticket, which is not announced here.
        const LOOK_AGAIN: Duration = Duration::from_millis(5);
        drop(self.shared.state.lock());
        self.shared.room.notify_all();
        let this = std::thread::current().id();
        if self.threads.lock().as_ref().is_none_or(|t| t.committer.thread().id() != this) {
            return;
        }
        while !core.commits.is_empty() {
            let mut state = self.shared.state.lock();
            match state.jobs.pop_front() {
                Some(job) => {
                    drop(state);
                    drive(job, &self.shared, core);
                }
                None => drop(self.shared.driven.wait_for(&mut state, LOOK_AGAIN)),
            }
        }
    }

    /// Whether a callback or a waker runs on this thread, as far as that is this module's doing.
    pub(crate) fn is_this_thread(&self) -> bool {
        self.ids.get().is_some_and(|ids| ids.contains(&std::thread::current().id()))
    }

    /// Ends the threads when everything is told. To be called when nobody commits any more.
    pub(crate) fn stop(&self) {
        let Some(threads) = self.threads.lock().take() else { return };
        self.shared.state.lock().stopping = true;
        self.shared.driven.notify_all();
        join(threads.committer);
        self.shared.state.lock().told_all = true;
        self.shared.called.notify_all();
        join(threads.callbacks);
    }
}

/// Waits for a thread, unless it is this one: a callback may close the database, a waker drop its
/// last handle. Then it ends when that returns.
fn join(thread: JoinHandle<()>) {
    if thread.thread().id() != std::thread::current().id() && thread.join().is_err() {
        tracing::error!("a thread of asynchronous commits panicked");
    }
}

fn run_commits(shared: &Shared, core: &Core) {
    while let Some(job) = next(shared) {
        drive(job, shared, core);
    }
}

fn drive(Job { ticket, tell, claim, inside }: Job, shared: &Shared, core: &Core) {
    let version = ticket.version();
    let driven = catch_unwind(AssertUnwindSafe(|| Ok(core.log()?.drive(ticket, core)?)));
    let outcome = match driven {
        Ok(driven) => driven.map(|at| Done { version, position: Some(at.position) }),
        // The log guards what it calls, so this cannot be; if it is, nothing is certain.
        Err(_) => Err(Error::OutcomeUnknown("the committer panicked".to_owned())),
    };
    let waker = tell.tell(shared, outcome, claim);
    // Only now: who closes the database may rely on the outcome being there.
    drop(inside);
    _ = waker.map(wake);
}

fn next(shared: &Shared) -> Option<Job> {
    let mut state = shared.state.lock();
    loop {
        if let Some(job) = state.jobs.pop_front() {
            return Some(job);
        }
        if state.stopping {
            return None;
        }
        shared.driven.wait(&mut state);
    }
}

fn run_callbacks(shared: &Shared) {
    let mut state = shared.state.lock();
    loop {
        if let Some(Due { callback, outcome, claim }) = state.due.pop_front() {
            drop(state);
            call(callback, outcome);
            drop(claim);
            state = shared.state.lock();
        } else if state.told_all {
            return;
        } else {
            shared.called.wait(&mut state);
        }
    }
}

fn call(callback: Callback, outcome: Result<u64>) {
    if catch_unwind(AssertUnwindSafe(|| callback(outcome))).is_err() {
        tracing::error!("the callback of a commit panicked");
    }
}

fn wake(waker: Waker) {
    if catch_unwind(AssertUnwindSafe(|| waker.wake())).is_err() {
        tracing::error!("the waker of a commit panicked");
    }
}
