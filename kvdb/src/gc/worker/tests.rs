//! Collection in the background, step by step.

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::channel;

use kvdb_vfs::{Fault, FaultFs, FaultPlan, Fs, MemFs, Op};

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
    let beat = |round: &mut Round<'_>, times| beat(round, &db, times);
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

fn of_collections(db: &Db) -> usize {
    db.stats().log_files.iter().filter(|file| file.relocated).count()
}

/// Eight units of one record each, which is enough for a merge.
fn make_small_units(db: &Db) {
    let unsettled = GcOptions::default().min_garbage(1.0).settle(true);
    for key in 0..8 {
        // A segment with one record in use.
        put(db, [key, 100], 1);
        db.delete(100u32.to_be_bytes()).unwrap();
        db.gc(&unsettled).unwrap();
        assert_eq!(of_collections(db), key as usize);
        db.core().collect_step().unwrap();
    }
    assert_eq!(of_collections(db), 8);
}

#[test]
fn while_it_is_written_to_small_units_are_merged_when_they_are_many() {
    let db = small().open_in(Arc::new(MemFs::new()), "/db").unwrap();
    let mut round = Round::of(&db);
    make_small_units(&db);
    put(&db, [100], 1);
    assert!(round.look().unwrap());
    assert_eq!(of_collections(&db), 1);
    assert!(!round.look().unwrap());
    db.verify().unwrap();
}

#[test]
fn a_merge_that_had_no_room_wakes_a_store_at_rest_when_it_is_time_to_try_again() {
    let fs = FaultFs::new(Arc::new(MemFs::new()));
    let db = small().open_in(Arc::new(fs.clone()), "/db").unwrap();
    make_small_units(&db);
    let full = FaultPlan::new(Fault::NoSpace).on(&[Op::Write]).path(".vrec");
    let full = fs.arm(full.forever());
    let mut round = Round::of(&db);
    round.come_to_rest(&db);
    assert_eq!((full.fired(), of_collections(&db)), (1, 8));
    full.disarm();
    assert!(!round.look_at_rest() && of_collections(&db) == 8);
    db.core().collector.merge_now();
    assert!(round.look_at_rest());
    assert_eq!(of_collections(&db), 1);
}

/// With what other threads do, and something that is written before each look.
fn beat(round: &mut Round<'_>, db: &Db, times: usize) {
    for _ in 0..times {
        db.put("beat", "b").unwrap();
        let _ = round.look().unwrap();
        assert!(round.since.elapsed() < REST, "never at rest");
        let others =
            [Step::PrepareLog, Step::Flush, Step::Compact, Step::FreeSegments, Step::Reclaim];
        while others.iter().any(|step| db.step(*step).unwrap()) {}
    }
}

#[test]
fn rule_39_the_limit_of_space_holds_also_where_no_file_has_much_garbage() {
    let fs = Arc::new(MemFs::new());
    let db = small().space_amplification(1.1).open_in(fs.clone(), "/db").unwrap();
    put(&db, 0..1000, 0);
    (0..1000u32).step_by(6).for_each(|key| _ = db.delete(key.to_be_bytes()).unwrap());
    db.compact().unwrap();
    beat(&mut Round::of(&db), &db, 40);
    let survey = db.core().survey(db.core().log().unwrap().end());
    let got = survey.amplification();
    assert!(got < 1.1, "{got}");
    db.verify().unwrap();
}

#[test]
fn rule_39_garbage_in_the_active_segment_goes_though_a_little_is_written_all_the_time() {
    let fs = Arc::new(MemFs::new());
    let db = small().segment_size(32 * SEGMENT).open_in(fs.clone(), "/db").unwrap();
    put(&db, 0..1000, 0);
    (0..1000u32).for_each(|key| _ = db.delete(key.to_be_bytes()).unwrap());
    db.compact().unwrap();
    let (before, segments) = (size(&fs), db.core().log().unwrap().end().segment);
    let mut round = Round::of(&db);
    beat(&mut round, &db, 10);
    assert!(before > 10 * MIB && size(&fs) < 3 * MIB, "{} of {before}", size(&fs));
    // Once, though it takes some looks until that is flushed.
    assert_eq!(db.core().log().unwrap().end().segment, segments + 1);
    db.verify().unwrap();
}

/// Or what there is to collect next would wait for that pause.
#[test]
fn when_there_is_no_room_for_another_segment_that_is_tried_once_a_minute() {
    let fs = FaultFs::new(Arc::new(MemFs::new()));
    let options = small().segment_size(32 * SEGMENT);
    let db = options.open_in(Arc::new(fs.clone()), "/db").unwrap();
    put(&db, 0..1000, 0);
    (0..1000u32).for_each(|key| _ = db.delete(key.to_be_bytes()).unwrap());
    db.compact().unwrap();
    let full = fs.arm(FaultPlan::new(Fault::NoSpace).on(&[Op::Allocate]).path(".vlog").forever());
    let mut round = Round::of(&db);
    assert_eq!([round.turn(), round.turn(), round.turn()], [FIRST_PAUSE, LOOK, LOOK]);
    assert_eq!(full.fired(), 1);
    full.disarm();
    let before = db.core().log().unwrap().end().segment;
    round.next_leave = Instant::now();
    round.look().unwrap();
    assert!(db.core().log().unwrap().end().segment > before);
}

/// A log of small values is garbage as soon as they are flushed, and goes on its own.
#[test]
fn a_store_of_small_values_is_not_flushed_once_more_after_every_flush() {
    let db = small().memtable_size(4 << 20).open_in(Arc::new(MemFs::new()), "/db").unwrap();
    let mut round = Round::of(&db);
    for value in 0..6 {
        (0..3000u32).for_each(|key| _ = db.put(key.to_be_bytes(), [value; 200]).unwrap());
        db.flush().unwrap();
        beat(&mut round, &db, 5);
    }
    let flushes = db.stats().tree.flushes;
    assert!(flushes <= 6 + 1, "{flushes}");
    // A minute later it may be once more.
    round.next_leave = Instant::now();
    (0..3000u32).for_each(|key| _ = db.put(key.to_be_bytes(), [9; 200]).unwrap());
    db.flush().unwrap();
    beat(&mut round, &db, 5);
    assert_eq!(db.stats().tree.flushes, flushes + 2);
    assert!(round.next_leave > Instant::now() + BUSY_LEAVE / 2);
}

#[test]
fn as_long_as_somebody_collects_at_once_nothing_in_the_background_pauses() {
    let db = small().open_in(Arc::new(MemFs::new()), "/db").unwrap();
    let is_wanted = || db.core().collector.is_wanted();
    (0..2).for_each(|round| put(&db, 0..200, round));
    db.compact().unwrap();
    for outcome in [ControlFlow::Break(()), ControlFlow::Continue(())] {
        let mut told = 0;
        let collected = db.gc_with(&GcOptions::full(), |_, _| {
            assert!(is_wanted());
            told += 1;
            outcome
        });
        assert!(told > 0 && collected.is_ok() == outcome.is_continue() && !is_wanted());
    }
}

#[test]
fn after_a_failure_there_is_a_pause_that_grows_and_after_a_success_there_is_none() {
    let fs = FaultFs::new(Arc::new(MemFs::new()));
    let db = small().open_in(Arc::new(fs.clone()), "/db").unwrap();
    put(&db, 0..300, 0);
    put(&db, (0..300).filter(|key| key % 4 != 0), 1);
    db.compact().unwrap();
    while db.step(Step::PrepareLog).unwrap() {}
    let failing = fs.arm(FaultPlan::new(Fault::Io).on(&[Op::Write]).path(".vrec").forever());
    let mut round = Round::of(&db);
    let waits: Vec<u64> = (0..8).map(|_| round.turn().as_secs()).collect();
    assert_eq!((waits, failing.fired()), (vec![1, 2, 4, 8, 16, 32, 60, 60], 8));
    failing.disarm();
    assert_eq!(round.turn(), Duration::ZERO, "there may be more");
    while round.turn() == Duration::ZERO {}
    assert_eq!((round.turn(), round.pause), (LOOK, Duration::ZERO));
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
