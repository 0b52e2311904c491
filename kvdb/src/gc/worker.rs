//! Collection in the background: when, and how fast.
//!
//! One thread of low priority looks at the log a few times a second. While the database is written
//! to, it collects when the log takes more space than
//! [`Options::space_amplification`](crate::Options::space_amplification) permits, no faster than
//! it has to: paced by the bytes that commits write, the more the closer to the limit. When there is
//! no need for space, it merges what is small and has become too many ([`small`](super::small)). When
//! nothing was written for a while, it brings the store to rest: flushes the memtable, leaves an
//! active segment with garbage, and collects at full speed what is worth it.

use std::ops::ControlFlow;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use kvdb_manifest::store::StoreChange;
use kvdb_vlog::{Position, segment_path};
use parking_lot::{Condvar, Mutex};

use super::obstacles::Obstacles;
use super::survey::Survey;
use super::units::Unit;
use super::{GcReport, Watch};
use crate::core::Core;
use crate::error::{Error, ErrorKind, Result};
use crate::housekeeper::panicked;

/// How often to look.
const LOOK: Duration = Duration::from_millis(100);
/// How long nothing must have been written for the store to be at rest.
const REST: Duration = Duration::from_secs(1);
/// How often a store at rest is flushed for less than what makes a difference in space.
const REST_FLUSH: Duration = Duration::from_secs(5);
/// How often the memtable is sealed at most, while the database is written to, for the values that its
/// entries may have overwritten or deleted: however little is written, these go some minutes later.
const TRICKLE_FLUSH: Duration = Duration::from_secs(60);
/// How often the active segment is left at most, while the database is written to: each time costs a
/// flush, of whatever is in memory, and a store of small values has garbage in it after every flush.
const BUSY_LEAVE: Duration = Duration::from_secs(60);
/// The tree is compacted for the log's sake when tables above the last level refer to so large a
/// part of what the last level refers to, while the database is written to and at rest.
const BUSY_UPPER_PART: u64 = 32;
const REST_UPPER_PART: u64 = 20;
/// After a failure, how long to leave it alone at first, and at most.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// However slowly commits come in, collection may write so many bytes a second.
const LEAST_RATE: f64 = (8 << 20) as f64;
/// Scheduling class of the thread (Unix nice value): below that of compactions.
const NICE: i32 = 10;

/// The thread, and the means to stop it.
#[derive(Debug, Default)]
pub(crate) struct Worker {
    stop: Arc<Stop>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

#[derive(Debug, Default)]
struct Stop {
    stopped: Mutex<bool>,
    changed: Condvar,
}

impl Stop {
    /// Waits; true if it is over.
    fn wait(&self, time: Duration) -> bool {
        let mut stopped = self.stopped.lock();
        if !*stopped {
            self.changed.wait_for(&mut stopped, time);
        }
        *stopped
    }
}

impl Worker {
    /// Starts the thread.
    pub(crate) fn start(&self, core: Arc<Core>) -> std::io::Result<()> {
        let stop = self.stop.clone();
        let thread = std::thread::Builder::new().name("kvdb-gc".into()).spawn(move || {
            kvdb_lsm::lower_priority(NICE);
            let worked = catch_unwind(AssertUnwindSafe(|| Round::new(&core, &stop).run()));
            if let (Err(panic), Some(log)) = (worked, &core.log) {
                log.poison(panicked("garbage collection", &*panic));
            }
        })?;
        *self.thread.lock() = Some(thread);
        Ok(())
    }

    /// Ends the thread and waits for it. The collection under way must have been told before.
    pub(crate) fn stop(&self) {
        *self.stop.stopped.lock() = true;
        self.stop.changed.notify_all();
        let thread = self.thread.lock().take();
        if thread.is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("garbage collection panicked");
        }
    }
}

/// What the thread knows from one look to the next.
struct Round<'a> {
    core: &'a Core,
    stop: &'a Stop,
    /// Bytes appended to the log up to the last look, and since when there are no more.
    appended: u64,
    since: Instant,
    /// Size of the manifest when there was last nothing to do, and whether at rest.
    done: Option<(u64, bool)>,
    /// The replay head when the memtable was last sealed from here.
    sealed: Option<(u32, u32)>,
    /// Where the log went on when the active segment was last left for the garbage in it.
    left: Option<Position>,
    /// When it may be left again.
    next_leave: Instant,
    /// Bytes per second that commits write, smoothed.
    rate: f64,
    looked: Instant,
    pause: Duration,
    /// When to flush also for little.
    next_flush: Instant,
    /// When to seal the memtable again for what it may have overwritten.
    next_trickle: Instant,
    /// What is in the way for now.
    obstacles: Obstacles,
}

impl<'a> Round<'a> {
    fn new(core: &'a Core, stop: &'a Stop) -> Self {
        let now = Instant::now();
        Round {
            core,
            stop,
            appended: 0,
            since: now,
            done: None,
            sealed: None,
            left: None,
            next_leave: now,
            rate: 0.0,
            looked: now,
            pause: Duration::ZERO,
            next_flush: now,
            next_trickle: now + TRICKLE_FLUSH,
            obstacles: Obstacles::default(),
        }
    }

    fn run(&mut self) {
        let mut wait = LOOK;
        while !self.stop.wait(wait) {
            wait = self.turn();
        }
    }

    /// One look, and how long to wait before the next.
    fn turn(&mut self) -> Duration {
        match self.look() {
            Ok(more) => {
                self.pause = Duration::ZERO;
                if more { Duration::ZERO } else { LOOK }
            }
            Err(Error::Closed) => LOOK,
            Err(error) => {
                self.pause = (self.pause * 2).clamp(FIRST_PAUSE, LONGEST_PAUSE);
                tracing::warn!(%error, "garbage collection");
                self.pause
            }
        }
    }

    /// Does one thing, if there is one to do.
    fn look(&mut self) -> Result<bool> {
        let Some(log) = &self.core.log else { return Ok(false) };
        if log.poisoned().is_some() || self.core.manifest.is_poisoned() {
            return Ok(false);
        }
        self.note_appended(log.appended());
        let at_rest = self.since.elapsed() >= REST;
        let size = self.core.manifest.size();
        let flushed = self.core.tree.unflushed_from().is_none();
        let merge = self.core.collector.merge_is_due();
        if at_rest && flushed && !merge && self.done == Some((size, true)) {
            return Ok(false);
        }
        let survey = self.core.survey(log.end());
        log.limit_segments(survey.segment_limit(self.rate));
        let did = match at_rest {
            true => {
                let now = Instant::now();
                let flush = survey.wants_flush_at_rest() || now >= self.next_flush;
                if flush {
                    self.next_flush = now + REST_FLUSH;
                }
                let core = self.core;
                core.come_to_rest(&survey, flush, &mut self.obstacles, |_, _| go_on(core))
            }
            false => self.keep_up(&survey),
        }?;
        if !did && let Some(error) = self.obstacles.take_unread() {
            return Err(error);
        }
        self.done = (!did).then_some((size, at_rest));
        Ok(did)
    }

    /// Takes note of how much was written since the last look.
    fn note_appended(&mut self, appended: u64) {
        let now = Instant::now();
        let seconds = (now - self.looked).as_secs_f64().max(1e-3);
        let rate = (appended - self.appended.min(appended)) as f64 / seconds;
        // Over about a second; faster upwards, since being late costs space.
        let weight = if rate > self.rate { 0.5 } else { seconds.min(0.5) };
        self.rate += (rate - self.rate) * weight;
        if appended != self.appended {
            self.since = now;
        }
        (self.appended, self.looked) = (appended, now);
    }

    /// While the database is written to: as much as the space limit asks for.
    fn keep_up(&mut self, survey: &Survey) -> Result<bool> {
        let (core, stop) = (self.core, self.stop);
        // Once until it is flushed.
        let now = Instant::now();
        let mut flush = survey.wants_flush(core.options.memtable_size as u64);
        if !flush && now >= self.next_trickle {
            flush = survey.wants_flush_of(core.superversion().unflushed_entries());
        }
        // If it does nothing, flushes are behind: it is tried again.
        if flush && self.sealed != Some(survey.head) && core.tree.rotate()? {
            self.sealed = Some(survey.head);
            self.next_trickle = now + TRICKLE_FLUSH;
        }
        if survey.wants_compaction(BUSY_UPPER_PART) {
            core.tree.major_compact()?;
            return Ok(true);
        }
        let limit = core.options.space_amplification;
        let choice = survey.busy_choice(limit, self.rate).or_else(|| survey.merge_choice());
        let Some(choice) = choice else { return Ok(false) };
        let above = survey.amplification() > limit;
        let mut pace = Pace::new(self.rate, survey.amplification() / limit, Instant::now());
        let mut paced = |_, bytes: u64| {
            let ahead = pace.ahead(bytes, Instant::now());
            // Whoever waits to collect at once waits for this one first.
            if !ahead.is_zero() && !core.collector.is_wanted() {
                stop.wait(ahead);
            }
            go_on(core)
        };
        let mut report = GcReport::default();
        let mut watch = Watch::new(&mut paced);
        if core.collect(choice, &mut watch, &mut report, &mut self.obstacles)? {
            return Ok(true);
        }
        // Then it is in the segment that is written to, which may take long to fill.
        match above && survey.wants_rotation() {
            true => self.go_on_elsewhere(survey),
            false => Ok(false),
        }
    }

    /// Leaves the active segment, so that it can be collected when what it holds is in tables. `false`: there
    /// is nothing to be done for that now, or a commit got in the way.
    fn go_on_elsewhere(&mut self, survey: &Survey) -> Result<bool> {
        let core = self.core;
        if let Some(end) = self.left.filter(|end| survey.head.0 < end.segment) {
            return Ok(core.tree.advance_replay_head(end.packed())?);
        }
        let now = Instant::now();
        if now < self.next_leave {
            return Ok(false);
        }
        let left = core.begin_segment(survey.rest_segment());
        if !matches!(left, Ok(None)) {
            // Also if there is no room for it: that is no reason to pause again and again.
            self.next_leave = now + BUSY_LEAVE;
        }
        self.left = left?;
        if self.left.is_some() {
            core.tree.rotate()?;
        }
        Ok(self.left.is_some())
    }
}

fn go_on(core: &Core) -> ControlFlow<()> {
    match core.collector.is_stopped() {
        true => ControlFlow::Break(()),
        false => ControlFlow::Continue(()),
    }
}

/// How fast a collection may go while the database is written to.
#[derive(Debug)]
struct Pace {
    /// Bytes per second.
    rate: f64,
    /// When what was copied so far should have been.
    due: Instant,
}

impl Pace {
    /// At the limit of space as fast as commits come in, and the further above it the faster.
    fn new(commits: f64, by_limit: f64, now: Instant) -> Self {
        let rate = commits * (1.0 + 20.0 * (by_limit - 1.0));
        Pace { rate: rate.max(LEAST_RATE), due: now }
    }

    /// How long to wait after these bytes.
    fn ahead(&mut self, bytes: u64, now: Instant) -> Duration {
        self.due += Duration::from_secs_f64(bytes as f64 / self.rate);
        self.due.saturating_duration_since(now)
    }
}

impl Core {
    /// The state of the log, which ends there.
    pub(super) fn survey(&self, end: Position) -> Survey {
        let segment_size = self.options.segment_size as u64;
        let damaged = |unit: &Unit| self.collector.is_damaged(unit);
        self.manifest.read_numbered(|state, changes| {
            let overview = self.collector.overview.of(state, changes);
            Survey::new(state, &overview, end, segment_size, damaged)
        })
    }

    /// One step towards rest, for when nothing is being written: `false` if the store is there.
    fn come_to_rest(
        &self,
        survey: &Survey,
        flush: bool,
        obstacles: &mut Obstacles,
        mut go_on: impl FnMut(super::GcStage, u64) -> ControlFlow<()>,
    ) -> Result<bool> {
        // On a full disk what makes room goes first, and what needs room does not keep it from that.
        let freed = self.free_dead_segments()?.files > 0;
        let full = match self.bring_to_light(survey, flush) {
            Ok(true) => return Ok(true),
            Ok(false) => None,
            Err(error) if error.kind() == ErrorKind::NoSpace => Some(error),
            Err(error) => return Err(error),
        };
        if full.is_some() && self.give_up_spares(survey)? {
            return Ok(true);
        }
        let choice = survey.idle_choice();
        let mut report = GcReport::default();
        let collected = self.collect(choice, &mut Watch::new(&mut go_on), &mut report, obstacles);
        let collected = match collected {
            Err(error) if error.kind() == ErrorKind::NoSpace => {
                return if self.give_up_spares(survey)? { Ok(true) } else { Err(error) };
            }
            collected => collected?,
        };
        match full {
            _ if freed || collected || report.files_removed > 0 => Ok(true),
            Some(error) => Err(error),
            None => self.give_up_spares(survey),
        }
    }

    /// Flushes, compacts and leaves the active segment, one at a time, so that garbage is known.
    /// `false` if there was no need.
    fn bring_to_light(&self, survey: &Survey, flush: bool) -> Result<bool> {
        let unflushed = self.tree.unflushed_from();
        if flush && unflushed.is_some() {
            self.tree.flush()?;
            if self.tree.unflushed_from() != unflushed {
                return Ok(true);
            }
        }
        if survey.wants_compaction(REST_UPPER_PART) {
            self.tree.major_compact()?;
            return Ok(true);
        }
        // Only then can the replay head move there.
        let flushed = self.tree.unflushed_from().is_none();
        if flushed
            && survey.wants_rotation_at_rest()
            && self.leave_active_segment(survey.rest_segment())?
        {
            return Ok(true);
        }
        self.log()?.prepare()?;
        Ok(false)
    }

    /// Removes the segments that are kept ready, if they weigh something.
    fn give_up_spares(&self, survey: &Survey) -> Result<bool> {
        if !survey.spares_weigh() {
            return Ok(false);
        }
        let _choosing = self.collector.choosing();
        let mut installed = Ok(());
        let was_poisoned = self.manifest.is_poisoned();
        let log = self.log()?;
        let spares = log.give_up_spares(|spares| {
            let segments_freed = spares.iter().map(|s| s.segment).collect();
            installed = self.tree.install(StoreChange { segments_freed, ..StoreChange::default() });
            // If that is unknown, no segment will ever be named behind them.
            let poisoned = !was_poisoned && self.manifest.is_poisoned();
            let in_doubt = installed.as_ref().err().is_some_and(kvdb_lsm::Error::may_be_installed);
            if in_doubt && !self.manifest.is_poisoned() {
                log.poison(kvdb_vlog::Error::Misuse("spare segments may have been freed"));
            }
            installed.is_ok() || poisoned || in_doubt
        });
        installed?;
        if spares.is_empty() {
            return Ok(false);
        }
        self.collector.doom(spares.iter().map(|s| segment_path(self.log_dir(), s.file)));
        self.remove_doomed();
        Ok(true)
    }

    /// Begins a new segment, of so many bytes, and moves the replay head there, if nothing is in
    /// memtables. `false`: a commit got in the way.
    pub(super) fn leave_active_segment(&self, bytes: u64) -> Result<bool> {
        let Some(end) = self.begin_segment(bytes)? else { return Ok(false) };
        Ok(self.tree.advance_replay_head(end.packed())?)
    }

    /// Begins a new segment, of so many bytes. Returns where the log goes on, all before which is durable;
    /// `None`: a commit got in the way.
    fn begin_segment(&self, bytes: u64) -> Result<Option<Position>> {
        let log = self.log()?;
        let Some(end) = log.rotate(bytes)? else { return Ok(None) };
        log.prepare()?;
        log.sync_through(end)?;
        Ok(Some(end))
    }

    /// One step towards rest, for those who step by hand.
    pub(crate) fn rest_step(&self) -> Result<bool> {
        let survey = self.survey(self.log()?.end());
        let mut obstacles = Obstacles::default();
        self.come_to_rest(&survey, true, &mut obstacles, |_, _| ControlFlow::Continue(()))
    }
}

#[cfg(test)]
mod tests;
