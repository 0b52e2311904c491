//! The threads that do background work.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use parking_lot::MutexGuard;

use crate::compaction::job::Job;
use crate::compaction::run::panic_message;
use crate::companion::Companion;
use crate::error::{Error, Result};
use crate::pool::Pool;
use crate::priority;
use crate::shared::{Schedule, Shared};

/// After a failure that may pass (no space left), a job is tried again after this time.
const RETRY: Duration = Duration::from_millis(500);
/// How often a tree with garbage that cannot go yet looks again.
const IDLE_LOOK: Duration = Duration::from_secs(1);
/// The running threads of a tree.
#[derive(Debug, Default)]
pub(crate) struct Workers {
    threads: Vec<JoinHandle<()>>,
    /// Does what it was handed before it ends.
    installer: Option<JoinHandle<()>>,
}

impl Workers {
    /// Starts flush, compaction and janitor threads.
    pub(crate) fn start<C: Companion>(shared: &Arc<Shared<C>>) -> Result<Workers> {
        let mut workers = Workers::default();
        let started = workers.start_all(shared);
        if started.is_err() {
            shared.request_close();
            workers.join();
        }
        started.map(|()| workers)
    }

    fn start_all<C: Companion>(&mut self, shared: &Arc<Shared<C>>) -> Result<()> {
        self.spawn(shared, "kvdb-janitor", |shared| shared.janitor_loop())?;
        if shared.read_only {
            return Ok(());
        }
        let nice = shared.options.nice;
        let threads = shared.options.compaction_threads;
        if threads > 1 {
            let pool = Pool::new(threads, move || priority::lower(nice))?;
            *shared.pool.lock() = Some(Arc::new(pool));
        }
        let requests = shared.installer.open();
        let installing = shared.clone();
        let work = move || installing.installer_loop(&requests);
        self.installer = Some(start("kvdb-install", work)?);
        self.spawn(shared, "kvdb-flush", |shared| shared.flush_loop())?;
        self.spawn(shared, "kvdb-urgent", |shared| shared.compaction_loop(Role::Urgent))?;
        for i in 0..threads {
            let role = if i == 0 { Role::TopFirst } else { Role::ByScore };
            self.spawn(shared, &format!("kvdb-compact-{i}"), move |shared| {
                priority::lower(nice);
                shared.compaction_loop(role);
            })?;
        }
        Ok(())
    }

    fn spawn<C: Companion>(
        &mut self,
        shared: &Arc<Shared<C>>,
        name: &str,
        work: impl FnOnce(&Shared<C>) + Send + 'static,
    ) -> Result<()> {
        let shared = shared.clone();
        // Jobs catch their own panics. What panics between them would end the thread, and nobody would know:
        // whoever waits for what it should have done would wait for ever.
        let work = move || {
            if let Err(panic) = catch_unwind(AssertUnwindSafe(|| work(&shared))) {
                shared.note_failure("background work", &Error::Panic(panic_message(&*panic)));
            }
        };
        self.threads.push(start(name, work)?);
        Ok(())
    }

    /// Waits for all threads to end.
    pub(crate) fn join(&mut self) {
        let me = std::thread::current().id();
        let join = |thread: JoinHandle<()>| {
            // The last handle may be dropped by a thread of the tree's own.
            if thread.thread().id() != me && thread.join().is_err() {
                tracing::error!("a background thread panicked outside of its job");
            }
        };
        self.threads.drain(..).for_each(join);
        self.installer.take().into_iter().for_each(join);
    }
}

fn start(name: &str, work: impl FnOnce() + Send + 'static) -> Result<JoinHandle<()>> {
    let thread = std::thread::Builder::new().name(name.to_owned()).spawn(work);
    thread.map_err(|e| Error::Thread(Arc::new(e)))
}

/// Which jobs a compaction thread takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    /// Level 0 only, at normal priority, and only when writers are being slowed down: the others run
    /// at a low priority, and writers must not wait for threads that get no time.
    Urgent,
    /// The most urgent, level 0 before everything.
    TopFirst,
    /// The most urgent.
    ByScore,
}

/// What a compaction thread does next.
#[derive(Debug)]
enum Next {
    Run(Job),
    /// Take range deletes off the list that hide nothing any more.
    Retire,
    /// Until something has changed, or this time is over.
    Wait(Option<Duration>),
}

impl<C: Companion> Shared<C> {
    /// Tells everybody to stop.
    pub(crate) fn request_close(&self) {
        self.closing.store(true, Ordering::SeqCst);
        self.admission.close();
        self.scheduler.wake();
        self.tables.graveyard.wake();
        // Nothing is installed any more, by whichever thread.
        self.installer.close();
    }

    fn flush_loop(&self) {
        loop {
            let mut state = self.admission.lock();
            while !state.is_closed() && state.flushable().is_none() {
                self.admission.wait_work(&mut state, None);
            }
            if state.is_closed() {
                return;
            }
            drop(state);
            self.admission.prepare_spare();
            match self.flush_one() {
                Ok(_) => {
                    self.admission.clear_transient_failure();
                    // Callers of `flush` look for this.
                    self.admission.wake_all();
                }
                Err(error) => {
                    self.note_failure("flush", &error);
                    let retry = error.is_transient().then(|| Instant::now() + RETRY);
                    let mut state = self.admission.lock();
                    while !state.is_closed() && retry.is_none_or(|at| Instant::now() < at) {
                        self.admission.wait_work(&mut state, retry);
                    }
                }
            }
        }
    }

    fn compaction_loop(&self, role: Role) {
        let mut schedule = self.scheduler.lock();
        while !self.is_closing() {
            match self.next_for(role, &schedule, Instant::now()) {
                Next::Run(job) => {
                    let result = self.run_reserved(job, schedule);
                    schedule = self.after_work(&result);
                }
                Next::Retire => {
                    drop(schedule);
                    let retired = self.retire_range_deletes();
                    self.note_outcome("compaction", &retired);
                    schedule = self.after_work(&retired);
                    if matches!(retired, Ok(false)) {
                        self.scheduler.wait(&mut schedule, Some(IDLE_LOOK));
                    }
                }
                Next::Wait(at_most) => self.scheduler.wait(&mut schedule, at_most),
            }
        }
    }

    /// What a compaction thread has to do now.
    fn next_for(&self, role: Role, schedule: &Schedule, now: Instant) -> Next {
        if let Some(until) = schedule.pause_until.filter(|&until| until > now) {
            return Next::Wait(Some(until - now));
        }
        if self.fatal_failure().is_some() {
            return Next::Wait(None);
        }
        let job = match role {
            Role::Urgent if !self.writers_are_slow() => None,
            Role::Urgent => self.next_job(schedule, true).filter(|job| job.from == 0),
            _ => self.next_job(schedule, role == Role::TopFirst),
        };
        match job {
            Some(job) => Next::Run(job),
            None if role != Role::TopFirst => Next::Wait(None),
            None if self.has_range_deletes() => Next::Retire,
            None => Next::Wait(self.may_find_garbage_later().then_some(IDLE_LOOK)),
        }
    }

    /// The schedule, which is not held while a job runs; with a pause after a failure that may pass.
    fn after_work(&self, result: &Result<bool>) -> MutexGuard<'_, Schedule> {
        let mut schedule = self.scheduler.lock();
        if result.as_ref().is_err_and(Error::is_transient) {
            schedule.pause_until = Some(Instant::now() + RETRY);
        }
        schedule
    }

    fn has_range_deletes(&self) -> bool {
        !self.current.pin().range_deletes().is_empty()
    }

    fn writers_are_slow(&self) -> bool {
        self.admission.lock().pressure().slows().is_some()
    }

    fn may_find_garbage_later(&self) -> bool {
        Self::may_hold_garbage(self.superversion().version())
    }

    fn janitor_loop(&self) {
        let graveyard = self.tables.graveyard.clone();
        graveyard.register();
        while !self.is_closing() {
            self.reclaim();
            graveyard.wait(|| self.closing.load(Ordering::SeqCst));
        }
    }

    /// Whether background work has nothing to do, garbage included, but to free what is gone. Looks
    /// with the eyes of an idle tree.
    pub(crate) fn is_settled(&self, schedule: &Schedule) -> bool {
        self.admission.lock().sealed.is_empty()
            && schedule.running.len() == 0
            && self.flushing.try_lock().is_some()
            && self.next_job(schedule, false).is_none()
    }
}

#[cfg(test)]
mod tests;
