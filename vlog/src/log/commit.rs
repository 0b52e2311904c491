//! Group commit: leading, following, applying in turn.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::Ordering;
use std::sync::{Arc, OnceLock};

use super::Log;
use super::queue::{Group, Queue, Ticket};
use super::sink::{Committed, Sink};
use super::writer::{WriteFailure, Written};
use crate::sync::{
    AtomicU32, AtomicU64, Condvar, Mutex, MutexGuard, lock_busy, order_write_before_read,
    spin_until, yield_now,
};
use crate::{Error, Result};

/// Groups are written one after the other and published one after the other; the next may be
/// written (and, if the sink permits, applied) while this one is applied.
pub(crate) struct Turns {
    /// The group that is to be published next.
    next: AtomicU64,
    /// A group could not be applied, so none behind it may be.
    broken: OnceLock<Arc<Error>>,
    /// How many sleep until the next turn.
    sleepers: AtomicU32,
    lock: Mutex<()>,
    changed: Condvar,
}

impl Turns {
    pub(crate) fn new() -> Self {
        Turns {
            next: AtomicU64::new(0),
            broken: OnceLock::new(),
            sleepers: AtomicU32::new(0),
            lock: Mutex::new(()),
            changed: Condvar::new(),
        }
    }

    /// Waits until it is a group's turn. Returns why it may not be applied, if so.
    fn wait_for(&self, turn: u64) -> Option<Arc<Error>> {
        if self.next.load(Ordering::SeqCst) != turn && !self.comes_soon(turn) {
            let mut guard = self.lock.lock();
            // Either this sees the turn, or whoever ends the one before sees the sleeper: both
            // sides write first and read the other's word afterwards, in one total order.
            self.sleepers.fetch_add(1, Ordering::SeqCst);
            order_write_before_read();
            while self.next.load(Ordering::SeqCst) != turn {
                self.changed.wait(&mut guard);
            }
            self.sleepers.fetch_sub(1, Ordering::SeqCst);
        }
        self.broken.get().cloned()
    }

    /// Applying takes about a microsecond, sleeping and waking many.
    fn comes_soon(&self, turn: u64) -> bool {
        spin_until(|| self.next.load(Ordering::SeqCst) == turn)
    }

    /// How many groups were published or have failed.
    pub(super) fn finished(&self) -> u64 {
        self.next.load(Ordering::SeqCst)
    }

    fn finish(&self, turn: u64, broken: Option<Arc<Error>>) {
        debug_assert_eq!(self.next.load(Ordering::SeqCst), turn, "groups are published in order");
        if let Some(broken) = broken {
            self.broken.get_or_init(|| broken);
        }
        self.next.store(turn + 1, Ordering::SeqCst);
        order_write_before_read();
        if self.sleepers.load(Ordering::SeqCst) > 0 {
            // Under the lock, so that a sleeper between its look and its sleep cannot miss it.
            let _guard = self.lock.lock();
            self.changed.notify_all();
        }
    }
}

impl<C> Log<C> {
    /// Leads or follows until the ticket's frame is committed or has failed.
    ///
    /// The work is done on the callers' threads: whoever finds no leader leads, takes everything
    /// that waits as one group, writes and syncs it, hands the lead to the next, and applies the
    /// group through `sink`. Uncontended, a commit runs on its own thread from start to end.
    ///
    /// # Errors
    /// [`Error::Poisoned`] if nothing of the frame was written, [`Error::OutcomeUnknown`] if
    /// some of it may have been; [`Error::Misuse`] if the ticket is another log's.
    pub fn drive(&self, ticket: Ticket<C>, sink: &dyn Sink<C>) -> Result<Committed> {
        let node = &ticket.node;
        loop {
            if let Some(outcome) = node.outcome() {
                return outcome;
            }
            let mut queue = lock_busy(&self.queue);
            if queue.is_foreign(node) {
                return Err(Error::Misuse("the ticket is of another log"));
            }
            match queue.try_lead(node) {
                true => self.lead(queue, sink),
                false => {
                    drop(queue);
                    node.wait();
                }
            }
        }
    }

    /// One group from queue to outcome, the lead being this thread's.
    fn lead<'l>(&'l self, queue: MutexGuard<'l, Queue<C>>, sink: &dyn Sink<C>) {
        let mut group = self.take_group(queue);
        let written = self.write(&mut group, sink);
        lock_busy(&self.queue).stop_leading();
        if written.as_ref().is_ok_and(|written| written.housekeeping_due) {
            let namer = &self.shared.namer;
            guarded("SegmentNamer::housekeeping_due", || namer.housekeeping_due()).ok();
        }
        let concurrent = guarded("Sink::concurrent", || sink.concurrent())
            .map_err(|error| (self.shared.set_poison(error), true));
        let early = match (&written, concurrent) {
            (Ok(_), Ok(true)) => Some(self.apply(&mut group, sink)),
            (Ok(_), Err(failure)) => Some(Err(failure)),
            _ => None,
        };
        let broken = self.turns.wait_for(group.turn);
        let applied = match (written, broken) {
            (Ok(written), None) => early
                .unwrap_or_else(|| self.apply(&mut group, sink))
                .and_then(|()| self.publish(&group, sink))
                .map(|()| written.durable),
            (Ok(_), Some(cause)) => Err((cause, true)),
            (Err(failure), _) => Err(failure),
        };
        match applied {
            Ok(durable) => {
                self.turns.finish(group.turn, None);
                let members = group.nodes.iter().zip(&group.routed).zip(group.frames.drain(..));
                for ((node, routed), frame) in members {
                    let (position, version) = (routed.position, routed.version);
                    node.complete(Ok(Committed { position, version, durable_to: durable, frame }));
                }
            }
            Err((cause, touched)) => {
                self.fail(&mut group, sink, &cause, touched);
                self.turns.finish(group.turn, Some(cause));
            }
        }
        order_write_before_read();
        if self.closing.load(Ordering::SeqCst) {
            // Under the lock, so that it cannot fall between a look of the one who waits and its sleep.
            let _queue = lock_busy(&self.queue);
            self.idle.notify_all();
        }
    }

    fn take_group<'l>(&'l self, mut queue: MutexGuard<'l, Queue<C>>) -> Group<C> {
        // The members of the last group are about to come back: let them run once, so that they
        // share this group's sync.
        if queue.expects_more() {
            drop(queue);
            yield_now();
            queue = lock_busy(&self.queue);
        }
        queue.take_group(self.shared.options.max_group_bytes)
    }

    fn write(
        &self,
        group: &mut Group<C>,
        sink: &dyn Sink<C>,
    ) -> Result<Written, (Arc<Error>, bool)> {
        let written = guarded("Sink::route", || {
            let mut writer = self.writer.lock();
            // Not before it is this thread's turn: a marker or a link, too, may have failed to be written.
            if let Some(cause) = self.shared.poison.get() {
                self.release_rooms(group);
                return Err((cause.clone(), false));
            }
            let written = writer.write_group(&self.shared, group, sink);
            // Under the writer's lock: whoever takes it next must not write behind what failed.
            written
                .map_err(|WriteFailure { error, touched }| (self.shared.set_poison(error), touched))
        });
        match written {
            Ok(written) => written,
            // What was written when it panicked is not known.
            Err(error) => Err((self.shared.set_poison(error), true)),
        }
    }

    fn release_rooms(&self, group: &Group<C>) {
        self.shared.release(group.nodes.iter().map(|n| n.room).sum());
    }

    fn apply(&self, group: &mut Group<C>, sink: &dyn Sink<C>) -> Result<(), (Arc<Error>, bool)> {
        let applied = guarded("Sink::apply", || {
            for (routed, frame) in group.routed.iter_mut().zip(&group.frames) {
                let view = frame.view(routed.version, routed.position);
                if let Some(context) = &mut routed.context {
                    sink.apply(view, context);
                }
            }
        });
        applied.map_err(|error| (self.shared.set_poison(error), true))
    }

    fn publish(&self, group: &Group<C>, sink: &dyn Sink<C>) -> Result<(), (Arc<Error>, bool)> {
        let Some(last) = group.routed.last() else { return Ok(()) };
        let published = guarded("Sink::publish", || sink.publish(last.version));
        published.map_err(|error| (self.shared.set_poison(error), true))
    }

    fn fail(&self, group: &mut Group<C>, sink: &dyn Sink<C>, cause: &Arc<Error>, touched: bool) {
        let error = || match touched {
            true => Error::OutcomeUnknown { cause: cause.clone() },
            false => Error::Poisoned { cause: cause.clone() },
        };
        for routed in &mut group.routed {
            let Some(context) = routed.context.take() else { continue };
            let told = guarded("Sink::fail", || sink.fail(routed.version, context, &error()));
            if let Err(e) = told {
                tracing::error!(error = %e, version = routed.version, "failure not passed on");
            }
        }
        for node in &group.nodes {
            node.complete(Err(error()));
        }
    }
}

/// Runs a callback; a panic becomes an error.
pub(crate) fn guarded<T>(during: &'static str, f: impl FnOnce() -> T) -> Result<T> {
    catch_unwind(AssertUnwindSafe(f)).map_err(|panic: Box<dyn Any + Send>| {
        let message = match (panic.downcast_ref::<&str>(), panic.downcast_ref::<String>()) {
            (Some(s), _) => (*s).to_owned(),
            (_, Some(s)) => s.clone(),
            _ => "a panic without a message".to_owned(),
        };
        Error::Panicked { during, message }
    })
}
