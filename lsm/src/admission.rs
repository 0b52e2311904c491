//! Who may write, and into which memtable.
//!
//! Everything that can refuse a write or make it wait happens in [`Admission::admit`], before the
//! write has a version and a place in the log. Afterwards the log's leader routes the frame to a
//! memtable, and that cannot fail. What makes it so is the **invariant** on the sum `R` of all
//! reservations that are not routed yet:
//!
//! > `R` ≤ what is left of the active memtable, **or** there is a spare and `R` ≤ its room.
//!
//! Routing a frame that does not fit into the active memtable makes the spare the active one, with
//! room for all of `R`; routing one that fits lessens `R` by as much as the memtable. A frame
//! larger than a memtable carries a memtable of its own, made at admission, which is a standard
//! one's room larger than the frame, so that `R` fits behind it.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use crossbeam_utils::CachePadded;
use parking_lot::{Condvar, Mutex, MutexGuard};

use crate::error::{Error, Result};
use crate::memtable::Memtable;
use crate::options::{Background, Options};
use crate::stall::{Pressure, StallReason, Stalls};

/// Longest time one write is slowed down.
const LONGEST_DELAY: Duration = Duration::from_secs(1);
/// A writer that is due sooner than this goes on at once, and the time is added to what the next one
/// waits: no sleep is as short as what a small write owes.
const SHORTEST_DELAY: Duration = Duration::from_micros(100);
/// Time that slept-over writers, and those that came late, are given back at most.
const CREDIT: Duration = Duration::from_millis(2);

/// The memtables and the reservations on them. Its lock is held for moments only, never over I/O.
#[derive(Debug)]
pub(crate) struct Admission {
    /// For its memtables.
    this: Weak<Admission>,
    memtable_size: usize,
    /// Room of a memtable of the standard size.
    standard: usize,
    max_memtables: usize,
    max_replay_bytes: u64,
    delayed_write_rate: f64,
    /// Writers never wait; memtables pile up instead.
    waitless: bool,
    /// On cache lines of its own: every commit changes it, twice, and reads the rest.
    state: CachePadded<Mutex<Memtables>>,
    /// Whether there is a failure in the state: for threads that must not hold writers up.
    failed: AtomicBool,
    /// Whether the pressure slows writers: for those who are not to take the lock.
    slows: AtomicBool,
    /// As [`Admission::flush_rate`] tells; 0: not known yet.
    flush_rate: AtomicU64,
    /// Writers wait here for room.
    room: Condvar,
    /// The flush thread waits here for a memtable that can be flushed, and callers of `flush` for
    /// the flush thread.
    work: Condvar,
    pub(crate) stalls: Stalls,
}

/// What the admission lock protects.
#[derive(Debug)]
pub(crate) struct Memtables {
    pub(crate) active: Arc<Memtable>,
    /// Bytes of the active memtable that no frame has taken.
    left: usize,
    /// Log bytes of the frames routed to the active memtable.
    logged: u64,
    /// Oldest first.
    pub(crate) sealed: Vec<Arc<Memtable>>,
    pub(crate) spare: Option<Arc<Memtable>>,
    /// A memtable was filled, and no spare prepared since.
    filled: bool,
    /// Memtables carried in reservations of large frames.
    carried: usize,
    /// `R` of the invariant.
    reserved: usize,
    next_sequence: u64,
    seed: u64,
    closed: bool,
    failure: Option<Error>,
    pressure: Pressure,
    /// When the next slowed-down writer may go.
    pace: Instant,
}

/// Room for one frame, and later the memtable that took it.
///
/// Dropping it says that the frame is applied (or, if it was never routed, that it will not come).
/// A memtable is flushed only when every frame routed to it is applied.
#[derive(Debug)]
#[must_use = "dropping a reservation gives it back"]
pub struct Reservation {
    /// The one that took the frame. Until it is routed: the frame's own, or the one that was active
    /// at admission and most often takes the frame. It stays in memory for that long, even if it is
    /// flushed meanwhile.
    memtable: Arc<Memtable>,
    bytes: usize,
    state: Stage,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// Room is reserved.
    Reserved,
    /// It carries a memtable of its own.
    Carried,
    Routed,
}

impl Reservation {
    /// The bytes that were asked for.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Whether the frame has a memtable.
    pub fn is_routed(&self) -> bool {
        self.state == Stage::Routed
    }

    /// The memtable that took the frame.
    pub(crate) fn routed(&self) -> Option<&Arc<Memtable>> {
        self.is_routed().then_some(&self.memtable)
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        if self.is_routed() && !self.memtable.end_frame() {
            return;
        }
        let Some(admission) = self.memtable.admission() else { return };
        let mut state = admission.state.lock();
        match self.state {
            // The lock orders this after a flusher's look at the memtable.
            Stage::Routed => {
                drop(state);
                admission.work.notify_all();
                return;
            }
            Stage::Carried => state.carried -= 1,
            Stage::Reserved => state.reserved -= self.bytes,
        }
        drop(state);
        admission.room.notify_all();
    }
}

impl Admission {
    pub(crate) fn new(options: &Options, seed: u64) -> Result<Arc<Admission>> {
        let list = Memtable::list_for(options.memtable_size, seed)?;
        let left = list.remaining();
        Ok(Arc::new_cyclic(|this| Admission {
            this: this.clone(),
            memtable_size: options.memtable_size,
            standard: left,
            max_memtables: options.max_memtables,
            max_replay_bytes: options.max_replay_bytes,
            delayed_write_rate: options.delayed_write_rate as f64,
            waitless: options.background == Background::Manual,
            state: CachePadded::new(Mutex::new(Memtables {
                active: {
                    let active = Memtable::over(list, this.clone());
                    active.activate(1);
                    active
                },
                left,
                logged: 0,
                sealed: Vec::new(),
                spare: None,
                filled: false,
                carried: 0,
                reserved: 0,
                next_sequence: 2,
                seed,
                closed: false,
                failure: None,
                pressure: Pressure::default(),
                pace: Instant::now(),
            })),
            failed: AtomicBool::new(false),
            slows: AtomicBool::new(false),
            flush_rate: AtomicU64::new(0),
            room: Condvar::new(),
            work: Condvar::new(),
            stalls: Stalls::default(),
        }))
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, Memtables> {
        self.state.lock()
    }

    /// Waits for work or for its completion; at most until `deadline`.
    pub(crate) fn wait_work(
        &self,
        state: &mut MutexGuard<'_, Memtables>,
        deadline: Option<Instant>,
    ) {
        match deadline {
            Some(deadline) => drop(self.work.wait_until(state, deadline)),
            None => self.work.wait(state),
        }
    }

    pub(crate) fn wake_all(&self) {
        self.room.notify_all();
        self.work.notify_all();
    }

    /// Reserves room for a frame; waits for it if need be.
    pub(crate) fn admit(self: &Arc<Self>, bytes: usize, wait: bool) -> Result<Reservation> {
        let wait = wait && !self.waitless;
        let mut state = lock_busy(&self.state);
        if wait {
            self.slow_down(&mut state, bytes);
        }
        let mut stalled: Option<(Instant, StallReason)> = None;
        let admitted = loop {
            if state.closed {
                break Err(Error::Closed);
            }
            if let Some(failure) = state.failure.as_ref().filter(|f| !f.is_transient()) {
                break Err(failure.clone());
            }
            let reason = if wait && state.pressure.stops() {
                state.pressure.reason()
            } else {
                match self.try_reserve(&mut state, bytes, wait) {
                    Ok(Some(own)) => break Ok(own),
                    Ok(None) => StallReason::Memtables,
                    Err(e) => break Err(e),
                }
            };
            let waited_for = match reason {
                StallReason::Memtables => "flush",
                _ => "compaction",
            };
            if let Some(failure) = state.failure.as_ref().filter(|f| f.concerns(waited_for)) {
                // The room waited for may never come.
                break Err(failure.clone());
            }
            if stalled.is_none() {
                stalled = Some((Instant::now(), reason));
                self.stalls.begin_wait();
                self.work.notify_all();
            }
            self.room.wait(&mut state);
        };
        if let Some((since, reason)) = stalled {
            self.stalls.note_stop(reason, since.elapsed());
        }
        Ok(state.reservation(bytes, admitted?))
    }

    /// `None`: there is no room now. `Some(None)`: reserved. `Some(Some(_))`: a memtable for this
    /// frame alone.
    #[allow(clippy::type_complexity)]
    fn try_reserve(
        &self,
        state: &mut Memtables,
        bytes: usize,
        wait: bool,
    ) -> Result<Option<Option<Arc<Memtable>>>> {
        let together = state.reserved.saturating_add(bytes);
        if bytes <= self.standard {
            if together <= state.left {
                state.reserved = together;
                return Ok(Some(None));
            }
            if together <= self.standard {
                if state.spare.is_none() && (!wait || state.count() < self.max_memtables) {
                    state.spare = Some(self.new_memtable(state)?);
                }
                if state.spare.is_some() {
                    state.reserved = together;
                    return Ok(Some(None));
                }
            }
            if wait {
                return Ok(None);
            }
        }
        let alone = state.sealed.is_empty() && state.carried == 0;
        if wait && !alone && state.count() >= self.max_memtables {
            return Ok(None);
        }
        let capacity = self.memtable_size.saturating_add(bytes);
        let own = Memtable::new(capacity, state.next_seed(), self.this.clone())?;
        state.carried += 1;
        Ok(Some(Some(own)))
    }

    fn new_memtable(&self, state: &mut Memtables) -> Result<Arc<Memtable>> {
        Memtable::new(self.memtable_size, state.next_seed(), self.this.clone())
    }

    /// Arena bytes that writers may fill in a second, if they are held back: in proportion to the
    /// debt, and to how full the last memtable is when there can be no other before a flush ends.
    fn rate(&self, state: &Memtables) -> Option<f64> {
        let part = |left: f64| left.max(1.0 / 64.0);
        let backlog = state.pressure.slows().map(|debt| self.delayed_write_rate * part(1.0 - debt));
        let last = state.spare.is_none() && state.count() >= self.max_memtables;
        // Twice as fast as room comes back while the memtable is empty, as fast when it is half full.
        // So a flush ends before it is full, and nobody has to wait for all of it at once.
        let flushing = (self.flush_rate().filter(|_| last))
            .map(|rate| 2.0 * rate * part(state.left as f64 / self.standard as f64));
        backlog.into_iter().chain(flushing).reduce(f64::min)
    }

    /// Arena bytes that a second of flushing has freed lately, if there was a flush.
    pub(crate) fn flush_rate(&self) -> Option<f64> {
        let rate = self.flush_rate.load(Ordering::Relaxed);
        (rate > 0).then_some(rate as f64)
    }

    /// A flush has freed a memtable of so many bytes in so much time.
    pub(crate) fn note_flushed(&self, bytes: usize, time: Duration) {
        let rate = (bytes as f64 / time.as_secs_f64().max(1e-6)) as u64;
        let rate = self.flush_rate().map_or(rate, |before| (before as u64).midpoint(rate));
        self.flush_rate.store(rate.max(1), Ordering::Relaxed);
    }

    /// Holds a writer back.
    fn slow_down(&self, state: &mut MutexGuard<'_, Memtables>, bytes: usize) {
        let Some(rate) = self.rate(state) else { return };
        let now = Instant::now();
        let cost = Duration::from_secs_f64(bytes as f64 / rate);
        let (due, next) = pace(state.pace, now, cost);
        state.pace = next;
        if due.is_some_and(|due| self.hold_back(state, due)) {
            self.stalls.note_slowdown(now.elapsed());
        }
    }

    /// Waits until `due`, as long as writers are to be slowed down at all. Whether it had to.
    fn hold_back(&self, state: &mut MutexGuard<'_, Memtables>, due: Instant) -> bool {
        let mut waited = false;
        while Instant::now() < due
            && !state.closed
            && state.failure.is_none()
            && self.rate(state).is_some()
        {
            waited = true;
            self.room.wait_until(state, due);
        }
        waited
    }

    /// Binds a reservation to the memtable that takes its frame. Called in frame order. `publish` is
    /// called, under the lock, if the active memtable has changed.
    pub(crate) fn route(
        &self,
        r: &mut Reservation,
        start: u64,
        end: u64,
        publish: impl FnOnce(&Memtables),
    ) {
        debug_assert!(!r.is_routed(), "a frame is routed once");
        let mut state = lock_busy(&self.state);
        let rotated = match r.state {
            Stage::Carried => {
                state.carried -= 1;
                let left = r.memtable.room().saturating_sub(r.bytes);
                state.switch_to(r.memtable.clone(), left);
                true
            }
            _ => {
                let full = r.bytes > state.left;
                let rotated = (full || state.logged > self.max_replay_bytes) && {
                    if state.spare.is_none()
                        && (self.waitless || state.count() < self.max_memtables)
                    {
                        // Only to bound replay; a full memtable has its spare by the invariant.
                        state.spare = self.new_memtable(&mut state).ok();
                    }
                    match state.spare.take() {
                        Some(spare) if state.reserved <= spare.room() => {
                            let left = spare.room();
                            state.switch_to(spare, left);
                            state.filled |= full;
                            true
                        }
                        spare => {
                            debug_assert!(!full, "a reservation has its room");
                            state.spare = spare;
                            false
                        }
                    }
                };
                state.left = state.left.saturating_sub(r.bytes);
                state.reserved -= r.bytes;
                rotated
            }
        };
        state.active.begin_frame(start, end);
        // A frame lies in one segment, so its length is the difference.
        state.logged = state.logged.saturating_add(end.saturating_sub(start));
        // Another one may be gone but for this reservation: it is freed when the lock is.
        let former = (!Arc::ptr_eq(&r.memtable, &state.active))
            .then(|| std::mem::replace(&mut r.memtable, state.active.clone()));
        r.state = Stage::Routed;
        debug_assert!(state.invariant_holds());
        if rotated {
            publish(&state);
        }
        drop(state);
        drop(former);
        if rotated {
            self.work.notify_all();
            self.room.notify_all();
        } else if self.stalls.any_waiting() {
            self.room.notify_all();
        }
    }

    /// Seals the active memtable unless it is untouched, or unless there are as many as there may be
    /// and the caller bears that. Returns whether it did, and the sequence number of the newest sealed
    /// memtable, if there is one.
    pub(crate) fn rotate(
        &self,
        within_limit: bool,
        publish: impl FnOnce(&Memtables),
    ) -> Result<(bool, Option<u64>)> {
        let mut state = self.state.lock();
        let full = within_limit
            && !self.waitless
            && state.spare.is_none()
            && state.count() >= self.max_memtables;
        let seals = !state.active.is_untouched() && !full;
        if seals {
            let next = match state.spare.take() {
                Some(spare) => spare,
                None => self.new_memtable(&mut state)?,
            };
            let left = next.room();
            state.switch_to(next, left);
            debug_assert!(state.invariant_holds());
            publish(&state);
            self.work.notify_all();
        }
        Ok((seals, state.sealed.last().map(|m| m.sequence())))
    }

    /// New figures on what writers have to wait for.
    pub(crate) fn set_pressure(&self, state: &mut Memtables, pressure: Pressure) {
        let eased = !pressure.stops() || pressure.slows().is_none();
        self.slows.store(pressure.slows().is_some(), Ordering::Relaxed);
        state.pressure = pressure;
        if eased {
            self.room.notify_all();
        }
    }

    pub(crate) fn fail(&self, error: Error) {
        let mut state = self.state.lock();
        if state.failure.as_ref().is_none_or(Error::is_transient) {
            state.failure = Some(error);
            self.failed.store(true, Ordering::Release);
        }
        drop(state);
        self.wake_all();
    }

    /// A job that may have failed for want of space has succeeded.
    pub(crate) fn clear_transient_failure(&self) {
        if !self.has_failure() {
            return;
        }
        let mut state = self.state.lock();
        if state.failure.as_ref().is_some_and(Error::is_transient) {
            state.failure = None;
            self.failed.store(false, Ordering::Release);
        }
    }

    /// Whether writers are slowed down, or stopped, because compaction is behind.
    pub(crate) fn slows(&self) -> bool {
        self.slows.load(Ordering::Relaxed)
    }

    /// Whether there is a failure, without the lock.
    pub(crate) fn has_failure(&self) -> bool {
        self.failed.load(Ordering::Acquire)
    }

    /// Makes a spare memtable with all its pages, if one was filled and there is none: called by the
    /// flush thread, so that writers wait neither for the map nor for its pages.
    pub(crate) fn prepare_spare(&self) {
        let wanted = |state: &Memtables| {
            state.spare.is_none() && !state.closed && state.count() < self.max_memtables
        };
        let seed = {
            let mut state = self.state.lock();
            if !std::mem::take(&mut state.filled) || !wanted(&state) {
                return;
            }
            state.next_seed()
        };
        // No memory: whoever needs the spare will find out.
        let spare = Memtable::new(self.memtable_size, seed, self.this.clone());
        let Ok(spare) = spare else { return };
        spare.prefault();
        let mut state = self.state.lock();
        if wanted(&state) {
            state.spare = Some(spare);
            drop(state);
            self.room.notify_all();
        }
    }

    pub(crate) fn close(&self) {
        let mut state = self.state.lock();
        state.closed = true;
        // Who was admitted before still has its room.
        if state.reserved == 0 {
            state.spare = None;
        }
        drop(state);
        self.wake_all();
    }
}

/// Takes a lock that each commit holds for some ten nanoseconds, twice: looks a few times, far apart,
/// before it gives the core to another thread as the mutex itself would do.
#[inline]
fn lock_busy<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.try_lock().unwrap_or_else(|| lock_contended(mutex))
}

#[cold]
fn lock_contended<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    for _ in 0..40 {
        (0..4).for_each(|_| std::hint::spin_loop());
        if !mutex.is_locked()
            && let Some(guard) = mutex.try_lock()
        {
            return guard;
        }
    }
    mutex.lock()
}

/// When a writer that comes `now` may go, and when the one behind it, if all that go at the pace so
/// far are to take `cost` of time each on average. `None`: at once.
fn pace(pace: Instant, now: Instant, cost: Duration) -> (Option<Instant>, Instant) {
    let earliest = now.checked_sub(CREDIT).unwrap_or(now);
    let due = pace.max(earliest).min(now + LONGEST_DELAY);
    ((due >= now + SHORTEST_DELAY).then_some(due), due + cost)
}

impl Memtables {
    /// Memtables of every kind.
    fn count(&self) -> usize {
        1 + self.sealed.len() + usize::from(self.spare.is_some()) + self.carried
    }

    fn next_seed(&mut self) -> u64 {
        self.seed = self.seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
        self.seed
    }

    /// Makes `next` the active memtable. The former one is sealed, or kept as the spare if nothing
    /// was ever routed to it.
    fn switch_to(&mut self, next: Arc<Memtable>, left: usize) {
        next.activate(self.next_sequence);
        self.next_sequence += 1;
        let former = std::mem::replace(&mut self.active, next);
        self.left = left;
        self.logged = 0;
        if former.is_untouched() {
            self.spare.get_or_insert(former);
            return;
        }
        former.seal();
        self.sealed.push(former);
    }

    /// What was reserved: room, or a memtable for the frame alone.
    fn reservation(&self, bytes: usize, own: Option<Arc<Memtable>>) -> Reservation {
        let (memtable, state) = match own {
            Some(own) => (own, Stage::Carried),
            None => (self.active.clone(), Stage::Reserved),
        };
        Reservation { memtable, bytes, state }
    }

    fn invariant_holds(&self) -> bool {
        self.reserved <= self.left || self.spare.as_ref().is_some_and(|s| self.reserved <= s.room())
    }

    /// The oldest memtable, if it can be flushed now.
    pub(crate) fn flushable(&self) -> Option<Arc<Memtable>> {
        self.sealed.first().filter(|m| m.is_quiet()).cloned()
    }

    /// Where replay starts once the memtables up to `flushed` are on disk: behind their last frame,
    /// unless another memtable starts earlier.
    ///
    /// Not at the start of the first frame behind, which may lie in the next segment: that frame
    /// is routed before it is written, and need not be durable. What was flushed is, so replay
    /// finds everything that precedes its head.
    pub(crate) fn replay_head_without(&self, flushed: &[Arc<Memtable>]) -> Option<u64> {
        let others = self.sealed.iter().chain([&self.active]);
        let rest = others.filter(|m| !flushed.iter().any(|f| Arc::ptr_eq(f, m)));
        rest.filter_map(|m| m.start()).chain(flushed.iter().map(|m| m.end()).max()).min()
    }

    /// Takes flushed memtables off the list.
    pub(crate) fn remove_sealed(&mut self, flushed: &[Arc<Memtable>]) {
        self.sealed.retain(|m| !flushed.iter().any(|f| Arc::ptr_eq(f, m)));
    }

    /// Sequence number of the oldest memtable that may hold something.
    pub(crate) fn oldest_sequence(&self) -> u64 {
        self.sealed.first().unwrap_or(&self.active).sequence()
    }

    /// Forgets everything that was written and not flushed.
    pub(crate) fn discard_all(&mut self, admission: &Admission) {
        self.sealed.clear();
        if self.active.is_untouched() {
            return;
        }
        let spare = self.spare.take().map_or_else(|| admission.new_memtable(self), Ok);
        match spare {
            Ok(next) => {
                let left = next.room();
                self.switch_to(next, left);
                self.sealed.clear();
            }
            // No memory for a memtable: nothing can be written any more.
            Err(e) => {
                self.failure = Some(e);
                admission.failed.store(true, Ordering::Release);
            }
        }
    }

    /// All memtables, newest first, the active one included.
    pub(crate) fn newest_first(&self) -> impl Iterator<Item = &Arc<Memtable>> {
        std::iter::once(&self.active).chain(self.sealed.iter().rev())
    }

    pub(crate) fn pressure(&self) -> Pressure {
        self.pressure
    }

    pub(crate) fn failure(&self) -> Option<&Error> {
        self.failure.as_ref()
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.closed
    }

    /// Bytes of all memtables, with their indexes.
    pub(crate) fn bytes(&self) -> usize {
        let all = self.sealed.iter().chain([&self.active]).chain(&self.spare);
        all.map(|m| m.bytes()).sum()
    }
}

#[cfg(test)]
mod tests;
