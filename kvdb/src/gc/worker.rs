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
            rate: 0.0,
            looked: now,
            pause: Duration::ZERO,
            next_flush: now,
            next_trickle: now + TRICKLE_FLUSH,
            obstacles: Obstacles::default(),
        }
    }

    fn run(&mut self) {
        let mut more = false;
        while !self.stop.wait(if more { Duration::ZERO } else { LOOK.max(self.pause) }) {
            more = match self.look() {
                Ok(more) => {
                    self.pause = Duration::ZERO;
                    more
                }
                Err(Error::Closed) => false,
                Err(error) => {
                    self.pause = (self.pause * 2).clamp(FIRST_PAUSE, LONGEST_PAUSE);
                    tracing::warn!(%error, "garbage collection");
                    false
                }
            };
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
        let mut pace = Pace::new(self.rate, survey.amplification() / limit, Instant::now());
        let mut paced = |_, bytes: u64| {
            let ahead = pace.ahead(bytes, Instant::now());
            if !ahead.is_zero() {
                stop.wait(ahead);
            }
            go_on(core)
        };
        let mut report = GcReport::default();
        core.collect(choice, &mut Watch::new(&mut paced), &mut report, &mut self.obstacles)
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
        self.manifest.read(|state| Survey::new(state, end, segment_size))
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
        let log = self.log()?;
        let Some(end) = log.rotate(bytes)? else { return Ok(false) };
        log.prepare()?;
        log.sync_through(end)?;
        Ok(self.tree.advance_replay_head(end.packed())?)
    }

    /// One step towards rest, for those who step by hand.
    pub(crate) fn rest_step(&self) -> Result<bool> {
        let survey = self.survey(self.log()?.end());
        let mut obstacles = Obstacles::default();
        self.come_to_rest(&survey, true, &mut obstacles, |_, _| ControlFlow::Continue(()))
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::sync::mpsc::channel;

    use kvdb_vfs::{Fs, MemFs, Op};

    use super::*;
    use crate::{Background, Db, Durability, GcOptions, Options, Step};

    /// Bytes of a segment, and of a value: ten to a segment.
    const SEGMENT: usize = 1 << 20;
    const VALUE: usize = 100_000;
    const KEYS: u32 = 200;

    fn is_output(path: &Path) -> bool {
        path.extension().is_some_and(|x| x == "vrec")
    }

    /// Counted in writes, not in time.
    #[test]
    fn a_collection_in_the_background_ends_with_the_batch_at_which_the_database_is_closed() {
        let fs = Arc::new(MemFs::new());
        let options = Options::default()
            .background(Background::Manual)
            .durability(Durability::Buffered)
            .segment_size(SEGMENT);
        let db = options.open_in(fs.clone(), "/db").unwrap();
        for (round, step) in [(0, 1), (1, 2)] {
            for key in (0..KEYS).step_by(step) {
                db.put(key.to_be_bytes(), vec![round; VALUE]).unwrap();
            }
        }
        db.compact().unwrap();

        let core = db.core().clone();
        let (closes, closing) = channel();
        let after: Arc<AtomicU64> = Arc::default();
        let (counted, closer) = (after.clone(), Mutex::new(Some((db.clone(), closes))));
        fs.on_operation(move |_, op, path: &Path| {
            if op != Op::Write || !is_output(path) {
                return;
            }
            counted.fetch_add(1, Ordering::SeqCst);
            let Some((db, closes)) = closer.lock().take() else { return };
            let core = db.core().clone();
            closes.send(std::thread::spawn(move || db.close())).unwrap();
            let late = Instant::now() + Duration::from_secs(20);
            while !core.collector.is_stopped() && Instant::now() < late {
                std::thread::yield_now();
            }
            counted.store(0, Ordering::SeqCst);
        });
        // The thread as it is when nothing was written for a while.
        let thread = std::thread::spawn({
            let core = core.clone();
            move || {
                let mut round = Round::new(&core, &core.gc.stop);
                round.appended = core.log.as_ref().unwrap().appended();
                round.since = round.since.checked_sub(REST).unwrap();
                round.run();
            }
        });
        *core.gc.thread.lock() = Some(thread);
        let closes = closing.recv_timeout(Duration::from_secs(60)).expect("nothing is collected");
        closes.join().unwrap().unwrap();
        fs.clear_hook();
        let more = after.load(Ordering::SeqCst);
        // A batch is two segments long, which are written in quarters, and the ends of files.
        assert!(more <= 11, "{more} writes");
        assert!(core.gc.thread.lock().is_none(), "and the thread with it");
        let left = fs.list(Path::new("/db")).unwrap();
        assert!(left.iter().all(|e| !is_output(&e.name)), "{left:?}");

        let db = options.open_in(fs, "/db").unwrap();
        for key in 0..KEYS {
            let round = u8::from(key % 2 == 0);
            assert_eq!(db.get(key.to_be_bytes()).unwrap().unwrap(), [round; VALUE]);
        }
    }

    const MIB: u64 = 1 << 20;

    fn small() -> Options {
        Options::default()
            .background(Background::Manual)
            .durability(Durability::Buffered)
            .memtable_size(64 << 10)
            .level0_compaction_trigger(2)
            .segment_size(SEGMENT)
            .value_threshold(256)
    }

    fn put(db: &Db, keys: impl IntoIterator<Item = u32>, round: u8) {
        keys.into_iter().for_each(|key| _ = db.put(key.to_be_bytes(), [round; 10_000]).unwrap());
    }

    /// Bytes of the store's files.
    fn size(fs: &MemFs) -> u64 {
        let dir = Path::new("/db");
        let list = fs.list(dir).unwrap();
        list.iter().map(|e| fs.metadata(&dir.join(&e.name)).map_or(0, |m| m.len)).sum()
    }

    impl<'a> Round<'a> {
        fn of(db: &'a Db) -> Self {
            Round::new(db.core(), &db.core().gc.stop)
        }

        /// A look at a moment when nothing was written for a while.
        fn look_at_rest(&mut self) -> bool {
            self.appended = self.core.log.as_ref().unwrap().appended();
            self.since = Instant::now().checked_sub(REST).unwrap();
            self.look().unwrap()
        }

        /// As often as there is something to do, with what other threads do meanwhile.
        fn come_to_rest(&mut self, db: &Db) {
            for _ in 0..100 {
                let did = self.look_at_rest();
                let others = [Step::PrepareLog, Step::Compact, Step::Reclaim];
                while others.iter().any(|step| db.step(*step).unwrap()) {}
                if !did && !self.look_at_rest() {
                    return;
                }
            }
            panic!("it never comes to rest");
        }
    }

    /// Files of collections on disk are those that the manifest names, and the log reads segments
    /// where the manifest says they are.
    fn check_named(fs: &MemFs, db: &Db) {
        let files = fs.list(Path::new("/db")).unwrap();
        let made = |e: &kvdb_vfs::Entry| kvdb_vlog::parse_relocation_path(&e.name);
        let mut files: Vec<u64> = files.iter().filter_map(made).collect();
        files.sort_unstable();
        let view = db.core().log().unwrap().view();
        let read: Vec<_> = view.segments().map(|s| (s, view.meta(s).is_none())).collect();
        db.core().manifest.read(|state| {
            assert!(state.log_files().keys().eq(&files), "{files:?} {:?}", state.log_files());
            let named = state.segments().iter().map(|(id, s)| (*id, s.relocated.is_some()));
            assert_eq!(read, named.collect::<Vec<_>>());
        });
    }

    #[test]
    fn rule_39_a_store_at_rest_takes_little_more_than_what_is_in_use() {
        let fs = Arc::new(MemFs::new());
        let db = small().open_in(fs.clone(), "/db").unwrap();
        let mut round = Round::of(&db);
        let fixed = MIB + (64 << 10);
        let in_use = |keys: u64| keys * 10_000 * 5 / 4 + fixed;
        for value in 0..3 {
            put(&db, 0..1000, value);
        }
        round.come_to_rest(&db);
        assert!(size(&fs) <= in_use(1000), "overwritten: {}", size(&fs));
        check_named(&fs, &db);
        // Then of what was collected before most is garbage, and then all.
        let delete = |keys: &mut dyn Iterator<Item = u32>| {
            keys.for_each(|key| _ = db.delete(key.to_be_bytes()).unwrap());
        };
        delete(&mut (0..1000).filter(|key| key % 10 != 0));
        round.next_flush = Instant::now();
        round.come_to_rest(&db);
        assert!(size(&fs) <= in_use(100), "deleted: {}", size(&fs));
        check_named(&fs, &db);
        for key in (0..1000u32).step_by(10) {
            assert_eq!(db.get(key.to_be_bytes()).unwrap().unwrap(), [2; 10_000]);
        }
        db.verify().unwrap();
        delete(&mut (0..1000).step_by(10));
        round.next_flush = Instant::now();
        round.come_to_rest(&db);
        assert!(size(&fs) <= fixed, "nothing left: {}", size(&fs));
        check_named(&fs, &db);
        let moved = |e: &kvdb_vfs::Entry| e.name.extension().is_some_and(|x| x != "vlog");
        let left =
            || -> Vec<_> { fs.list(Path::new("/db")).unwrap().into_iter().filter(moved).collect() };
        // Somebody else's pin, in another test, may hold back for a moment what nobody reads.
        let deadline = Instant::now() + Duration::from_secs(10);
        while !left().is_empty() && Instant::now() < deadline {
            db.step(Step::Reclaim).unwrap();
            std::thread::sleep(Duration::from_millis(1));
        }
        assert!(left().is_empty(), "{:?}", left());
        db.verify().unwrap();
    }

    #[test]
    fn a_store_at_rest_is_left_alone_and_little_is_flushed_now_and_then() {
        let fs = Arc::new(MemFs::new());
        let db = small().open_in(fs.clone(), "/db").unwrap();
        let mut round = Round::of(&db);
        put(&db, (0..300).chain(0..200), 1);
        round.come_to_rest(&db);
        let operations = fs.operations();
        for _ in 0..5 {
            round.next_flush = Instant::now();
            assert!(!round.look_at_rest());
            assert!(!db.step(Step::PrepareLog).unwrap());
        }
        assert_eq!(fs.operations(), operations);
        put(&db, 0..1, 2);
        let later = Instant::now() + Duration::from_secs(3600);
        round.next_flush = later;
        round.come_to_rest(&db);
        assert!(db.core().tree.unflushed_from().is_some(), "so little can wait");
        round.next_flush = Instant::now();
        round.come_to_rest(&db);
        assert!(db.core().tree.unflushed_from().is_none());
        assert!(round.next_flush > Instant::now(), "and so can what comes next");
        // Much cannot.
        round.next_flush = later;
        put(&db, 0..200, 3);
        round.come_to_rest(&db);
        assert!(db.core().tree.unflushed_from().is_none());
    }

    #[test]
    fn at_rest_an_active_segment_full_of_garbage_is_left_for_a_small_one() {
        let fs = Arc::new(MemFs::new());
        let db = small().open_in(fs.clone(), "/db").unwrap();
        // One segment, and in use a fiftieth of it.
        (0..50).for_each(|value| put(&db, [1], value));
        Round::of(&db).come_to_rest(&db);
        assert!(size(&fs) < 400 << 10, "{}", size(&fs));
        check_named(&fs, &db);
        assert_eq!(db.get(1u32.to_be_bytes()).unwrap().unwrap(), [49; 10_000]);
    }

    #[test]
    fn at_rest_what_was_overwritten_is_brought_together_with_what_overwrote_it() {
        let fs = Arc::new(MemFs::new());
        // As far as the tree is concerned, it could wait.
        let db = small().level0_compaction_trigger(8).open_in(fs.clone(), "/db").unwrap();
        put(&db, 0..300, 0);
        db.compact().unwrap();
        put(&db, 0..300, 1);
        Round::of(&db).come_to_rest(&db);
        assert_eq!(db.stats().levels.iter().map(|level| level.entries).sum::<u64>(), 300);
        assert!(size(&fs) <= 300 * 10_000 * 5 / 4 + MIB, "{}", size(&fs));
    }

    #[test]
    fn while_it_is_written_to_the_memtable_is_sealed_once_until_it_is_flushed() {
        let db = small().open_in(Arc::new(MemFs::new()), "/db").unwrap();
        let mut round = Round::of(&db);
        let sealed = || db.stats().sealed_memtables;
        let mut look = || {
            // However long ago it was that something had been written before.
            round.since = Instant::now().checked_sub(REST).unwrap();
            round.look().unwrap();
        };
        put(&db, 0..10, 0);
        look();
        assert_eq!(sealed(), 0, "not for two memtables' bytes");
        for _ in 0..3 {
            put(&db, 0..10, 0);
            look();
            assert_eq!(sealed(), 1);
        }
        // And without anything above the last level.
        db.compact().unwrap();
        put(&db, 0..20, 0);
        look();
        assert_eq!(sealed(), 1, "again when it was flushed");
    }

    #[test]
    fn while_it_is_written_to_garbage_is_brought_to_light_and_collected() {
        let db = small().open_in(Arc::new(MemFs::new()), "/db").unwrap();
        put(&db, 0..1000, 0);
        db.compact().unwrap();
        put(&db, (0..1000).filter(|key| key % 4 != 0), 1);
        db.flush().unwrap();
        while db.step(Step::PrepareLog).unwrap() {}
        let mut round = Round::of(&db);
        let levels = || db.stats().levels.iter().filter(|level| level.tables > 0).count();
        assert_eq!((levels(), db.stats().gc.collections), (2, 0));
        // One thing at a time.
        assert!(round.look().unwrap());
        assert_eq!((levels(), db.stats().gc.collections), (1, 0));
        assert!(round.look().unwrap());
        assert_eq!((levels(), db.stats().gc.collections), (1, 1));
        while round.look().unwrap() {}
        let survey = db.core().survey(db.core().log().unwrap().end());
        let (got, limit) = (survey.amplification(), db.core().options.space_amplification);
        assert!(got <= limit, "{got}");
        db.verify().unwrap();
    }

    /// As with something that is written every second for ever.
    #[test]
    fn rule_39_what_was_deleted_goes_though_a_little_is_written_all_the_time() {
        let fs = Arc::new(MemFs::new());
        // All of it fits into one memtable.
        let db = small().memtable_size(4 << 20).open_in(fs.clone(), "/db").unwrap();
        put(&db, 0..1000, 0);
        db.compact().unwrap();
        Round::of(&db).come_to_rest(&db);
        let before = size(&fs);
        (0..1000u32)
            .filter(|key| key % 10 != 0)
            .for_each(|key| _ = db.delete(key.to_be_bytes()).unwrap());
        let mut round = Round::of(&db);
        let beat = |round: &mut Round<'_>, times: usize| {
            for _ in 0..times {
                db.put("beat", "b").unwrap();
                let _ = round.look().unwrap();
                assert!(round.since.elapsed() < REST, "never at rest");
                let others = [
                    Step::PrepareLog,
                    Step::Flush,
                    Step::Compact,
                    Step::FreeSegments,
                    Step::Reclaim,
                ];
                while others.iter().any(|step| db.step(*step).unwrap()) {}
            }
        };
        beat(&mut round, 20);
        assert!(size(&fs) >= before, "not within the first minute");
        round.next_trickle = Instant::now();
        beat(&mut round, 20);
        // A tenth is in use, times the limit, with what is ahead of the log and not flushed.
        let most = 100 * 10_000 * 3 / 2 + 3 * MIB;
        assert!(size(&fs) <= most, "{} of {before}", size(&fs));
        assert!(round.next_trickle > Instant::now() + TRICKLE_FLUSH / 2);
        // And what is written now is left alone: it overwrites next to nothing.
        let flushes = db.stats().tree.flushes;
        round.next_trickle = Instant::now();
        beat(&mut round, 3);
        assert_eq!(db.stats().tree.flushes, flushes);
        db.verify().unwrap();
    }

    #[test]
    fn while_it_is_written_to_small_units_are_merged_when_they_are_many() {
        let db = small().open_in(Arc::new(MemFs::new()), "/db").unwrap();
        let mut round = Round::of(&db);
        let unsettled = GcOptions::default().min_garbage(1.0).settle(true);
        let of_collections = || db.stats().log_files.iter().filter(|file| file.relocated).count();
        for key in 0..8 {
            // A segment with one record in use.
            put(&db, [key, 100], 1);
            db.delete(100u32.to_be_bytes()).unwrap();
            db.gc(&unsettled).unwrap();
            assert_eq!(of_collections(), key as usize);
            db.core().collect_step().unwrap();
        }
        assert_eq!(of_collections(), 8);
        put(&db, [100], 1);
        assert!(round.look().unwrap());
        assert_eq!(of_collections(), 1);
        assert!(!round.look().unwrap());
        db.verify().unwrap();
    }

    #[test]
    fn segments_are_made_to_the_measure_of_what_is_in_use() {
        let options = small().segment_size(16 * SEGMENT);
        let db = options.open_in(Arc::new(MemFs::new()), "/db").unwrap();
        let largest = || db.stats().segments.last().unwrap().capacity;
        put(&db, 0..10, 0);
        Round::of(&db).look().unwrap();
        // Beyond what was made ready before.
        put(&db, 0..4000, 0);
        assert_eq!(largest(), MIB);
    }

    #[test]
    fn a_collection_goes_as_fast_as_commits_come_in_and_faster_above_the_limit() {
        let now = Instant::now();
        let seconds = |commits, by_limit| {
            let mut pace = Pace::new(commits, by_limit, now);
            pace.ahead(32 * MIB, now).as_secs_f64()
        };
        let near = |got: f64, to: f64| assert!((got - to).abs() < 1e-6, "{got}, not {to}");
        let commits = (32 * MIB) as f64;
        near(seconds(commits, 1.0), 1.0);
        near(seconds(commits, 1.05), 0.5);
        near(seconds(commits, 1.5), 1.0 / 11.0);
        near(seconds(0.0, 2.0), 4.0);
        // What has taken its time is not waited for, and is not made up for by less than was late.
        let mut pace = Pace::new(commits, 1.0, now);
        assert!(pace.ahead(32 * MIB, now + Duration::from_secs(2)).is_zero());
        near(pace.ahead(64 * MIB, now + Duration::from_secs(2)).as_secs_f64(), 1.0);
    }

    #[test]
    fn without_background_collection_there_is_no_thread_for_it() {
        for collects in [false, true] {
            let options = Options::default().collect_garbage(collects);
            let db = options.open_in(Arc::new(MemFs::new()), "/db").unwrap();
            assert_eq!(db.core().gc.thread.lock().is_some(), collects);
        }
    }

    /// Something small was written since the last flush, and the next one is not due yet.
    #[test]
    fn a_store_on_its_way_to_rest_leaves_its_active_segment_only_when_it_is_flushed() {
        let options = Options::default()
            .background(Background::Manual)
            .durability(Durability::Buffered)
            .segment_size(SEGMENT);
        let db = options.open_in(Arc::new(MemFs::new()), "/db").unwrap();
        let core = db.core();
        let survey = || core.survey(core.log().unwrap().end());
        for _ in 0..40 {
            db.put("k", vec![0; 50_000]).unwrap();
            db.compact().unwrap();
            if survey().wants_rotation_at_rest() {
                break;
            }
        }
        db.put("k", "v").unwrap();
        let newest = || db.stats().segments.last().map(|s| s.segment);
        let before = newest();
        for _ in 0..5 {
            assert!(survey().wants_rotation_at_rest());
            let go_on = |_, _| ControlFlow::Continue(());
            core.come_to_rest(&survey(), false, &mut Obstacles::default(), go_on).unwrap();
        }
        assert!(newest() <= before.map(|n| n + 1), "{:?} after {before:?}", newest());
    }

    #[test]
    fn stopping_cuts_a_pause_short() {
        let worker = Worker::default();
        let stop = worker.stop.clone();
        let (woken, wakes) = channel();
        std::thread::spawn(move || woken.send(stop.wait(Duration::from_secs(3600))));
        worker.stop();
        assert!(wakes.recv_timeout(Duration::from_secs(60)).unwrap());
    }
}
