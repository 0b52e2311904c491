//! Garbage collection of the value log: SEMANTICS rules 39 to 43.
#![allow(clippy::unwrap_used)] // a test may panic

mod common;

use std::ops::ControlFlow;
use std::path::Path;
use std::sync::{Arc, OnceLock};

use common::{Contents, PATH, contents, manual, open, scale, tiny, value};
use kvdb::vfs::{Fault, FaultFs, FaultPlan, Fs, Keep, MemFs, Op, OpenMode, SyncSite};
use kvdb::{Db, Error, ErrorKind, GcOptions, GcStage, Step};

const SIZE: usize = 20_000;
/// Keys of a store on which many things are tried.
const FEW: u64 = 100;

fn key(i: u64) -> Vec<u8> {
    format!("key{i:05}").into_bytes()
}

fn put(db: &Db, model: &mut Contents, i: u64, round: u64) {
    let v = value(i << 16 | round, SIZE);
    db.put(key(i), &v).unwrap();
    model.insert(key(i), v);
}

fn delete(db: &Db, model: &mut Contents, i: u64) {
    db.delete(key(i)).unwrap();
    model.remove(&key(i));
}

/// 300 values in some six segments; of those under two of three keys nothing is left. Made once,
/// every test has its own copy.
fn with_garbage() -> (Arc<MemFs>, Db, Contents) {
    static MADE: OnceLock<(MemFs, Contents)> = OnceLock::new();
    garbage_under(300, &MADE)
}

/// The same in three segments, for what is tried at every operation of a collection.
fn with_little_garbage() -> (Arc<MemFs>, Db, Contents) {
    static MADE: OnceLock<(MemFs, Contents)> = OnceLock::new();
    garbage_under(FEW, &MADE)
}

fn garbage_under(keys: u64, made: &OnceLock<(MemFs, Contents)>) -> (Arc<MemFs>, Db, Contents) {
    let (image, model) = made.get_or_init(|| {
        let mutant = common::SKIPPED.replace(None);
        let fs = Arc::new(MemFs::new());
        let db = open(&manual(), &fs).unwrap();
        let mut model = Contents::new();
        for i in 0..keys {
            put(&db, &mut model, i, 0);
        }
        for i in 0..keys {
            match i % 3 {
                0 => put(&db, &mut model, i, 1),
                1 => delete(&db, &mut model, i),
                _ => {}
            }
        }
        db.compact().unwrap();
        while db.step(Step::PrepareLog).unwrap() {}
        db.close().unwrap();
        common::SKIPPED.set(mutant);
        (fs.process_image(), model)
    });
    let fs = Arc::new(image.process_image());
    let db = open(&manual(), &fs).unwrap();
    (fs, db, model.clone())
}

fn now(db: &Db) -> Contents {
    contents(&db.snapshot().unwrap())
}

/// Names in the store's directory.
fn names(fs: &MemFs) -> Vec<String> {
    let list = fs.list(Path::new(PATH)).unwrap();
    list.into_iter().map(|e| e.name.display().to_string()).collect()
}

fn with_extension(fs: &MemFs, extensions: &[&str]) -> Vec<String> {
    let is = |n: &String| extensions.iter().any(|e| n.ends_with(e));
    names(fs).into_iter().filter(is).collect()
}

/// The kinds of files of the log.
const LOG: &[&str] = &[".vlog", ".vrec", ".vrel"];

/// Bytes on disk of all files of the log.
fn log_files(fs: &MemFs) -> u64 {
    let names = with_extension(fs, LOG);
    names.iter().map(|n| fs.metadata(&Path::new(PATH).join(n)).unwrap().len).sum()
}

#[test]
fn rule_40_a_collection_changes_nothing_that_anybody_sees() {
    let (fs, db, mut model) = with_garbage();
    let before = db.snapshot().unwrap();
    let then = model.clone();
    let handle = db.get(key(2)).unwrap().unwrap();
    let (size, value_bytes) = (log_files(&fs), 200 * SIZE as u64);
    let report = db.gc(&GcOptions::default()).unwrap();
    assert!(report.collections >= 1 && report.damaged.is_empty(), "{report:?}");
    assert!(report.bytes_reclaimed > value_bytes / 2, "{report:?}");
    assert_eq!(log_files(&fs), size - report.bytes_reclaimed, "{report:?}");
    assert!(contents(&before) == then && now(&db) == model);
    assert_eq!(handle, value(2 << 16, SIZE));
    db.verify().unwrap();
    assert_eq!(db.gc(&GcOptions::default()).unwrap().collections, 0, "nothing left to do");

    // What was relocated is collected again, and pointers still take one step.
    for round in 2..6 {
        for i in 0..300 {
            if i % 7 == round % 7 {
                put(&db, &mut model, i, round);
            }
        }
        let report = db.gc(&GcOptions::full()).unwrap();
        assert!(report.collections > 0, "{report:?}");
        assert!(now(&db) == model);
        db.verify().unwrap();
    }
    assert!(contents(&before) == then, "the snapshot is as it was");
    assert!(db.stats().segments.iter().any(|s| s.relocated));
    db.close().unwrap();

    let db = open(&manual().read_only(true), &fs).unwrap();
    assert!(now(&db) == model, "read-only");
    db.close().unwrap();
    for options in [manual().memory_map(false), tiny()] {
        let db = open(&options, &fs).unwrap();
        assert!(now(&db) == model, "reopened");
        db.verify().unwrap();
        db.close().unwrap();
    }
}

#[test]
fn a_file_without_anything_in_use_is_removed_unread() {
    let fs = Arc::new(MemFs::new());
    let faulty = FaultFs::new(fs.clone() as Arc<dyn Fs>);
    let options = manual().memory_map(false);
    let db = options.open_in(Arc::new(faulty.clone()), PATH).unwrap();
    for i in 0..200 {
        db.put(key(i), value(i, SIZE)).unwrap();
    }
    for i in 0..200 {
        db.delete(key(i)).unwrap();
    }
    db.compact().unwrap();
    while db.step(Step::PrepareLog).unwrap() {}
    let dead = with_extension(&fs, &[".vlog"]).swap_remove(0);
    let reads = faulty.arm(FaultPlan::count().on(&[Op::Read]).path(&dead));
    let report = db.gc(&GcOptions::full()).unwrap();
    assert_eq!((reads.seen(), report.bytes_read, report.files_written), (0, 0, 0), "{report:?}");
    assert!(report.files_removed >= 2, "{report:?}");
    assert!(report.bytes_reclaimed >= report.files_removed << 19, "{report:?}");
}

#[test]
fn reading_the_tables_and_looking_the_records_up_find_the_same() {
    let (base, db, mut model) = with_garbage();
    for round in 0..3 {
        db.sync().unwrap();
        let image = base.process_image();
        let [by_tables, by_records] = [false, true].map(|look_up| {
            let fs = Arc::new(image.process_image());
            let db = open(&manual(), &fs).unwrap();
            let report = db.gc(&GcOptions::full().look_up(look_up)).unwrap();
            assert!(now(&db) == model, "round {round}, looked up: {look_up}");
            db.verify().unwrap();
            report
        });
        assert!(by_tables.collections > 0);
        assert_eq!(by_tables, by_records, "round {round}");
        // Then with relocated victims among them, and an old version of every key.
        db.gc(&GcOptions::full().look_up(round == 0)).unwrap();
        (0..300).step_by(2 + round).for_each(|i| put(&db, &mut model, i, 20 + round as u64));
    }
}

#[test]
fn records_that_tables_refer_to_and_the_victim_does_not_show_are_damage() {
    let (fs, db, model) = with_garbage();
    db.close().unwrap();
    // The length of a frame in the first segment: what follows cannot be told apart, and some that
    // are in use come before it.
    let path = Path::new(PATH).join(&with_extension(&fs, &[".vlog"])[0]);
    let file = fs.open(&path, OpenMode::ReadWrite).unwrap();
    let mut bytes = vec![0; file.len().unwrap() as usize];
    file.read_exact_at(&mut bytes, 0).unwrap();
    let needle = &value(20 << 16, SIZE)[..64];
    let at = bytes.windows(64).position(|w| w == needle).unwrap() as u64;
    let header = at - (32 + 12 + key(20).len() as u64 + 1);
    file.write_all_at(&[!bytes[header as usize + 5]], header + 5).unwrap();

    let db = open(&manual(), &fs).unwrap();
    let report = db.gc(&GcOptions::full().look_up(true)).unwrap();
    assert_eq!(report.damaged.len(), 1, "{report:?}");
    assert!(report.collections > 0 && fs.metadata(&path).is_ok());
    // The records themselves are whole.
    assert!(now(&db) == model);
}

#[test]
fn a_collection_reads_of_its_victims_only_what_is_in_use() {
    let (_fs, db, model) = with_garbage();
    let live: usize = model.values().map(Vec::len).sum();
    let report = db.gc(&GcOptions::full()).unwrap();
    assert!(report.bytes_read <= (live + live / 50) as u64, "{live} {report:?}");
    assert!(report.bytes_written <= (live + live / 50) as u64 + 8192, "{live} {report:?}");
}

/// The keys of the records in a file of relocated ones, in the order that they lie in.
fn keys_in(fs: &MemFs, name: &str) -> Vec<Vec<u8>> {
    let file = fs.open(&Path::new(PATH).join(name), OpenMode::Read).unwrap();
    let mut bytes = vec![0; file.len().unwrap() as usize];
    file.read_exact_at(&mut bytes, 0).unwrap();
    let is_key = |w: &&[u8]| w.starts_with(b"key") && w[3..].iter().all(u8::is_ascii_digit);
    bytes.windows(8).filter(is_key).map(<[u8]>::to_vec).collect()
}

#[test]
fn several_victims_are_merged_and_the_outputs_are_cut_by_key_range() {
    let (fs, db, model) = with_garbage();
    let report = db.gc(&GcOptions::full()).unwrap();
    assert_eq!(report.collections, 1, "{report:?}");
    let outputs: Vec<_> =
        with_extension(&fs, &[".vrec"]).iter().map(|name| keys_in(&fs, name)).collect();
    assert!(outputs.len() >= 4, "{}", outputs.len());
    // One behind the other they are all keys in order: no two of them overlap.
    assert!(outputs.concat().iter().eq(model.keys()));
    let files = db.stats().log_files;
    let moved = files.iter().filter(|f| f.relocated).collect::<Vec<_>>();
    assert_eq!(moved.len(), outputs.len());
    assert!(moved.iter().all(|f| f.segments.len() >= 4), "{moved:?}");
    let size = |name: &String| fs.metadata(&Path::new(PATH).join(name)).unwrap().len;
    assert!(with_extension(&fs, &[".vrec"]).iter().all(|name| size(name) <= 1 << 20), "{moved:?}");
    let tables = with_extension(&fs, &[".vrel"]).len();
    assert_eq!(tables, moved[0].segments.len());
    assert_eq!(report.files_written as usize, outputs.len() + tables);
}

/// What somebody else does while a collection is under way.
type Act = fn(&Db, &mut Contents);

fn compact_to_the_last_level(db: &Db, _: &mut Contents) {
    // Twice: with a floor above the tombstones they go.
    db.compact().unwrap();
    while db.step(Step::Compact).unwrap() {}
    while db.step(Step::Reclaim).unwrap() {}
}

const ACTS: &[(&str, Act)] = &[
    ("overwrite", |db, model| (0..FEW).step_by(4).for_each(|i| put(db, model, i, 9))),
    ("delete", |db, model| (0..FEW).step_by(2).for_each(|i| delete(db, model, i))),
    ("flush", |db, _| db.flush().unwrap()),
    ("compact", compact_to_the_last_level),
    ("delete, and compact the tombstones away", |db, model| {
        (0..FEW).step_by(2).for_each(|i| delete(db, model, i));
        compact_to_the_last_level(db, model);
    }),
    ("delete everything, and free what is dead", |db, model| {
        (0..FEW).for_each(|i| delete(db, model, i));
        compact_to_the_last_level(db, model);
        while db.step(Step::PrepareLog).unwrap() {}
        while db.step(Step::FreeSegments).unwrap() {}
    }),
    ("overwrite, compact, and write the old key again", |db, model| {
        (0..FEW).step_by(3).for_each(|i| put(db, model, i, 10));
        compact_to_the_last_level(db, model);
        (0..FEW).step_by(3).for_each(|i| delete(db, model, i));
        (0..FEW).step_by(6).for_each(|i| put(db, model, i, 11));
    }),
];

/// Among them what brought deleted keys back in Badger (issue 2286): a live record is chosen to be
/// moved; its key is deleted; the tombstone reaches the last level and goes; then the move ends.
#[test]
fn rule_40_whatever_happens_at_whichever_stage_of_a_collection_nothing_comes_back_or_is_lost() {
    let stages = [GcStage::Chosen, GcStage::Copying, GcStage::Copied, GcStage::Installed];
    for stage in stages {
        for (name, act) in ACTS {
            for hold in [false, true] {
                let what = format!("{name} at {stage:?}, held: {hold}");
                let (fs, db, mut model) = with_little_garbage();
                let mut held = None;
                let mut done = false;
                db.gc_with(&GcOptions::default(), |at, _| {
                    if at == stage && !done {
                        done = true;
                        if hold {
                            let snapshot = db.snapshot().unwrap();
                            held = Some((db.iter().unwrap(), snapshot, model.clone()));
                        }
                        act(&db, &mut model);
                    }
                    ControlFlow::Continue(())
                })
                .unwrap();
                assert!(done, "{what}: that stage was never reached");
                assert!(now(&db) == model, "{what}");
                if let Some((iter, snapshot, then)) = held {
                    assert!(contents(&snapshot) == then, "{what}: snapshot");
                    let shown = iter.map(|i| {
                        let i = i.unwrap();
                        (i.key().to_vec(), i.value().unwrap().into_vec())
                    });
                    assert!(shown.eq(then), "{what}: iterator");
                }
                compact_to_the_last_level(&db, &mut model);
                db.gc(&GcOptions::full()).unwrap();
                assert!(now(&db) == model, "{what}: later");
                db.verify().unwrap();
                let image = Arc::new(fs.process_image());
                db.close().unwrap();
                for fs in [fs, image] {
                    let db = open(&manual(), &fs).unwrap();
                    assert!(now(&db) == model, "{what}: reopened");
                    db.verify().unwrap();
                }
            }
        }
    }
}

#[test]
fn rule_41_an_iterator_outlives_several_collections_of_the_files_it_reads() {
    for options in [manual(), manual().memory_map(false)] {
        let fs = Arc::new(MemFs::new());
        let db = open(&options, &fs).unwrap();
        let mut model = Contents::new();
        (0..200).for_each(|i| put(&db, &mut model, i, 0));
        let then = model.clone();
        let mut iter = db.iter().unwrap();
        let mut expected = then.iter();
        for round in 1..8 {
            for _ in 0..20 {
                let item = iter.next().unwrap().unwrap();
                let (k, v) = expected.next().unwrap();
                assert!(item.key() == &k[..] && item.value().unwrap() == v[..]);
            }
            (0..200).filter(|i| i % 5 != round % 5).for_each(|i| put(&db, &mut model, i, round));
            let report = db.gc(&GcOptions::full()).unwrap();
            assert!(report.collections > 0 && report.bytes_reclaimed > 0, "{report:?}");
            assert!(now(&db) == model);
        }
        drop(db);
        for (item, (k, v)) in iter.zip(expected) {
            let item = item.unwrap();
            assert!(item.key() == &k[..] && item.value().unwrap() == v[..]);
        }
    }
}

#[test]
fn an_old_snapshot_keeps_exactly_what_it_needs() {
    let fs = Arc::new(MemFs::new());
    let db = open(&manual(), &fs).unwrap();
    let mut model = Contents::new();
    (0..100).for_each(|i| put(&db, &mut model, i, 0));
    (0..100).for_each(|i| put(&db, &mut model, i, 1));
    let snapshot = db.snapshot().unwrap();
    let then = model.clone();
    (0..100).for_each(|i| put(&db, &mut model, i, 2));
    let in_use = || db.stats().segments.iter().map(|s| s.live_values).sum::<u64>();
    db.gc(&GcOptions::full()).unwrap();
    assert_eq!(in_use(), 200, "what the snapshot sees, and what is seen now");
    assert!(contents(&snapshot) == then && now(&db) == model);
    let with_snapshot = log_files(&fs);
    drop(snapshot);
    db.gc(&GcOptions::full()).unwrap();
    assert_eq!(in_use(), 100);
    assert!(log_files(&fs) < with_snapshot - 90 * SIZE as u64);
    assert!(now(&db) == model);
}

#[test]
fn rule_43_the_segment_being_written_is_never_collected() {
    let (_fs, db, mut model) = with_garbage();
    (0..300).for_each(|i| put(&db, &mut model, i, 5));
    db.compact().unwrap();
    assert!(db.gc(&GcOptions::full()).unwrap().collections > 0);
    let stats = db.stats();
    let (before, others): (Vec<_>, Vec<_>) =
        stats.segments.iter().partition(|s| s.before_replay_head);
    assert!(before.iter().all(|s| s.relocated), "all others are candidates: {before:?}");
    assert!(!others.is_empty() && others.iter().all(|s| !s.relocated), "{others:?}");
    put(&db, &mut model, 1, 6);
    assert!(now(&db) == model);
}

#[test]
fn rule_42_live_bytes_are_those_of_a_recount_at_any_time() {
    let check = |db: &Db, what: &str| {
        db.flush().unwrap();
        // `verify` counts what tables refer to and compares it with their records.
        db.verify().unwrap_or_else(|e| panic!("{what}: {e}"));
        let stats = db.stats();
        let by_file: u64 = stats.log_files.iter().map(|f| f.live_bytes).sum();
        let by_segment: u64 = stats.segments.iter().map(|s| s.live_bytes).sum();
        assert_eq!(by_file, by_segment, "{what}");
        for f in &stats.log_files {
            assert_eq!(f.bytes, f.live_bytes + f.garbage_bytes, "{what}: {f:?}");
            assert!(f.reclaimable_bytes <= f.garbage_bytes, "{what}: {f:?}");
        }
        let mut segments = stats.segments;
        segments.retain(|s| s.live_values > 0);
        segments.into_iter().map(|s| (s.segment, s.live_values, s.live_bytes)).collect::<Vec<_>>()
    };
    let (fs, db, mut model) = with_garbage();
    check(&db, "at first");
    db.gc(&GcOptions::default()).unwrap();
    check(&db, "collected");
    (0..300).step_by(5).for_each(|i| put(&db, &mut model, i, 7));
    let before = check(&db, "overwritten");
    let image = Arc::new(fs.process_image());
    db.close().unwrap();
    for (fs, what) in [(fs, "reopened"), (image, "after a crash")] {
        let db = open(&manual(), &fs).unwrap();
        assert_eq!(check(&db, what), before, "{what}");
        db.gc(&GcOptions::full()).unwrap();
        check(&db, what);
        assert!(now(&db) == model);
    }
}

#[test]
fn a_damaged_victim_is_left_whole_reported_and_not_chosen_again() {
    let (fs, db, model) = with_garbage();
    db.close().unwrap();
    // A byte in the middle of a value that is in use: key 2's, in the first segment.
    let path = Path::new(PATH).join(&with_extension(&fs, &[".vlog"])[0]);
    let file = fs.open(&path, OpenMode::ReadWrite).unwrap();
    let mut bytes = vec![0; file.len().unwrap() as usize];
    file.read_exact_at(&mut bytes, 0).unwrap();
    let needle = &value(2 << 16, SIZE)[..64];
    let at = bytes.windows(64).position(|w| w == needle).unwrap() as u64 + 1000;
    file.write_all_at(&[!bytes[at as usize]], at).unwrap();

    let db = open(&manual(), &fs).unwrap();
    let files = log_files(&fs);
    let report = db.gc(&GcOptions::full()).unwrap();
    assert_eq!(report.damaged.len(), 1, "{report:?}");
    let (segment, what) = &report.damaged[0];
    assert!(what.contains(&path.display().to_string()), "{what}");
    assert!(report.collections > 0 && log_files(&fs) < files, "the others are collected");
    assert!(fs.metadata(&path).is_ok());
    let stats = db.stats();
    let damaged = stats.segments.iter().find(|s| s.segment == *segment).unwrap();
    assert!(damaged.damaged.is_some() && !damaged.relocated);
    for (key, value) in &model {
        match db.get(key) {
            Ok(got) => assert_eq!(got.unwrap(), value[..]),
            Err(e) => assert!(*key == self::key(2) && e.kind() == ErrorKind::Corruption, "{e}"),
        }
    }
    let again = db.gc(&GcOptions::full()).unwrap();
    assert_eq!((again.collections, again.damaged.len()), (0, 0));
    assert_eq!(db.stats().gc.failed, 1);
}

#[test]
fn rule_41_a_cancelled_collection_leaves_no_trace() {
    let (fs, db, model) = with_garbage();
    let before = names(&fs);
    for stage in [GcStage::Chosen, GcStage::Copying, GcStage::Copied] {
        let error = db
            .gc_with(&GcOptions::full().settle(false), |at, _| match at == stage {
                true => ControlFlow::Break(()),
                false => ControlFlow::Continue(()),
            })
            .unwrap_err();
        assert!(matches!(error, Error::Cancelled), "{error}");
        assert_eq!(names(&fs), before, "{stage:?}");
        assert!(now(&db) == model);
    }
    assert_eq!(db.stats().gc.failed, 0, "it did as it was told");
    assert!(db.gc(&GcOptions::default()).unwrap().collections > 0);
}

#[test]
fn rule_41_who_breaks_off_when_a_collection_is_installed_leaves_no_old_file() {
    let (fs, db, model) = with_garbage();
    let result = db.gc_with(&GcOptions::default(), |stage, _| match stage {
        GcStage::Installed => ControlFlow::Break(()),
        _ => ControlFlow::Continue(()),
    });
    assert!(matches!(result, Err(Error::Cancelled)), "{result:?}");
    assert_eq!(db.stats().gc.collections, 1);
    check_image(fs.process_image(), &model, "broken off");
    let known = db.stats().log_files;
    assert_eq!(with_extension(&fs, &[".vlog", ".vrec"]).len(), known.len(), "{known:?}");
}

#[test]
fn a_collection_ends_when_the_database_is_closed() {
    for closed_at in [GcStage::Copying, GcStage::Copied] {
        let (fs, db, model) = with_garbage();
        let before = with_extension(&fs, LOG);
        let (entered, enter) = std::sync::mpsc::channel();
        let closer = {
            let db = db.clone();
            std::thread::spawn(move || {
                enter.recv().unwrap();
                db.close().unwrap();
            })
        };
        let mut later = 0;
        let result = db.gc_with(&GcOptions::full().settle(false), |stage, _| {
            if stage == closed_at {
                later += 1;
                let _ = entered.send(());
                while db.health() != kvdb::Health::Closed {
                    std::thread::yield_now();
                }
                // Closed to newcomers; now it waits for us.
                std::thread::sleep(std::time::Duration::from_millis(20));
            }
            ControlFlow::Continue(())
        });
        assert!(matches!(result, Err(Error::Closed)), "{result:?}");
        // It may be told of one batch more, if closing has not come so far.
        assert!(later <= 2, "{later} batches");
        closer.join().unwrap();
        assert_eq!(with_extension(&fs, LOG), before);
        let db = open(&manual(), &fs).unwrap();
        assert!(now(&db) == model);
    }
}

/// Else what was written in between and lies in a victim would be taken for garbage.
#[test]
fn what_is_written_before_the_victims_are_chosen_is_seen_whatever_was_seen_before() {
    let (fs, db, mut model) = with_garbage();
    // Segments that go unread, and one that is half full.
    (0..300).for_each(|i| put(&db, &mut model, i, 6));
    db.compact().unwrap();
    while db.step(Step::PrepareLog).unwrap() {}
    (0..30).for_each(|i| put(&db, &mut model, i, 7));
    db.flush().unwrap();
    let writes = parking_lot::Mutex::new(Some((db.clone(), model)));
    let (written, wrote) = std::sync::mpsc::channel();
    fs.on_operation(move |_, op, path| {
        if op != Op::Remove || path.extension().is_none_or(|x| x != "vlog") {
            return;
        }
        let Some((db, mut model)) = writes.lock().take() else { return };
        (30..80).for_each(|i| put(&db, &mut model, i, 8));
        (0..300).filter(|i| !(30..40).contains(i)).for_each(|i| put(&db, &mut model, i, 9));
        db.compact().unwrap();
        while db.step(Step::PrepareLog).unwrap() {}
        written.send(model).unwrap();
    });
    let report = db.gc(&GcOptions::default()).unwrap();
    let model = wrote.try_recv().unwrap();
    fs.clear_hook();
    assert!(report.collections > 0 && report.damaged.is_empty(), "{report:?}");
    assert!(now(&db) == model);
    db.verify().unwrap();
}

#[test]
fn a_victim_of_which_nothing_is_left_by_then_is_freed() {
    let (fs, db, mut model) = with_little_garbage();
    let mut removed = None;
    let report = db.gc_with(&GcOptions::default(), |stage, _| {
        if stage == GcStage::Chosen && !model.is_empty() {
            (0..FEW).for_each(|i| delete(&db, &mut model, i));
            compact_to_the_last_level(&db, &mut model);
        }
        if stage == GcStage::Removed && removed.is_none() {
            removed = Some(fs.process_image());
        }
        ControlFlow::Continue(())
    });
    assert_eq!((report.unwrap().files_written, model.len()), (0, 0));
    let db = open(&manual(), &Arc::new(removed.unwrap())).unwrap();
    assert_eq!(now(&db).len(), 0);
    db.verify().unwrap();
}

#[test]
fn collections_that_are_asked_for_at_once_follow_each_other() {
    let (fs, db, model) = with_garbage();
    let (report, other) = std::thread::scope(|scope| {
        let mut other = None;
        let (chosen, choose) = std::sync::mpsc::channel();
        let report = db.gc_with(&GcOptions::full(), |stage, _| {
            if stage == GcStage::Chosen && other.is_none() {
                let (db, chosen) = (db.clone(), chosen.clone());
                other = Some(scope.spawn(move || {
                    db.gc_with(&GcOptions::full().settle(false), |_, _| {
                        let _ = chosen.send(());
                        ControlFlow::Continue(())
                    })
                }));
                // Time enough for one that does not wait.
                let early = choose.recv_timeout(std::time::Duration::from_millis(50));
                assert!(early.is_err(), "it has begun");
            }
            ControlFlow::Continue(())
        });
        (report.unwrap(), other.unwrap().join().unwrap().unwrap())
    });
    assert!(report.collections > 0, "{report:?}");
    assert_eq!(other.collections, 0, "nothing was left to do: {other:?}");
    assert!(now(&db) == model);
    let files = db.stats().log_files.iter().filter(|f| f.relocated).count();
    assert_eq!(with_extension(&fs, &[".vrec"]).len(), files);
}

#[test]
fn a_group_of_segments_with_damage_in_one_is_not_chosen_again() {
    let (fs, db, mut model) = with_garbage();
    db.gc(&GcOptions::full()).unwrap();
    let segments = db.stats().segments.iter().filter(|s| s.relocated).count();
    assert!(segments > 1);
    // Half of what is in them becomes garbage, and a value among the rest is damaged.
    (0..150).for_each(|i| put(&db, &mut model, i, 5));
    db.close().unwrap();
    let lost = key(299);
    let needle = model[&lost][..64].to_vec();
    let found = with_extension(&fs, &[".vrec"]).into_iter().find_map(|name| {
        let file = fs.open(&Path::new(PATH).join(name), OpenMode::ReadWrite).unwrap();
        let mut bytes = vec![0; file.len().unwrap() as usize];
        file.read_exact_at(&mut bytes, 0).unwrap();
        let at = bytes.windows(64).position(|w| w == needle)?;
        file.write_all_at(&[!bytes[at]], at as u64).unwrap();
        Some(())
    });
    assert!(found.is_some());
    let db = open(&manual(), &fs).unwrap();
    let report = db.gc(&GcOptions::full()).unwrap();
    assert_eq!(report.damaged.len(), 1, "{report:?}");
    let again = db.gc(&GcOptions::full()).unwrap();
    assert_eq!((again.collections, again.damaged.len()), (0, 0), "{again:?}");
    for (key, value) in &model {
        assert!(*key == lost || db.get(key).unwrap().unwrap() == value[..]);
    }
    assert_eq!(db.get(&lost).unwrap_err().kind(), ErrorKind::Corruption);
}

#[test]
fn a_victim_that_cannot_be_read_is_left_and_the_others_are_collected() {
    let (inner, db, model) = with_garbage();
    db.close().unwrap();
    let fs = FaultFs::new(inner.clone() as Arc<dyn Fs>);
    let db = manual().memory_map(false).open_in(Arc::new(fs.clone()), PATH).unwrap();
    let victim = with_extension(&inner, &[".vlog"]).swap_remove(0);
    let broken = fs.arm(FaultPlan::new(Fault::Io).on(&[Op::Read]).path(&victim).forever());
    let report = db.gc(&GcOptions::full()).unwrap();
    assert_eq!(report.damaged.len(), 1, "{report:?}");
    assert!(report.collections > 0 && names(&inner).contains(&victim));
    broken.disarm();
    assert!(now(&db) == model);
}

#[test]
fn a_collection_that_the_manifest_refuses_leaves_the_victims_and_nothing_else() {
    for fault in [Fault::NoSpace, Fault::Io] {
        let (inner, db, model) = with_garbage();
        db.close().unwrap();
        let fs = FaultFs::new(inner.clone() as Arc<dyn Fs>);
        let db = manual().open_in(Arc::new(fs.clone()), PATH).unwrap();
        let before = names(&inner);
        let op = if matches!(fault, Fault::Io) { Op::SyncData } else { Op::Write };
        let known = op == Op::Write;
        fs.arm(FaultPlan::new(fault).on(&[op]).path("MANIFEST"));
        let error = db.gc(&GcOptions::default().batch_bytes(0)).unwrap_err();
        // Nothing that is freed later takes the victims along.
        let _ = db.step(Step::FreeSegments);
        assert!(now(&db) == model, "{error}");
        let after = names(&inner);
        match known {
            true => assert_eq!(after, before, "{error}"),
            // The manifest may name either.
            false => assert!(before.iter().all(|name| after.contains(name)), "{error}"),
        }
        for image in [inner.process_image(), inner.crash_image(&mut Keep::None)] {
            check_image(image, &model, &format!("{error}"));
        }
        assert_eq!(db.gc(&GcOptions::default()).is_ok(), known);
    }
}

#[test]
fn a_full_disk_is_a_clean_refusal_or_a_smaller_collection() {
    let (inner, db, model) = with_garbage();
    db.close().unwrap();
    let fs = FaultFs::new(inner.clone() as Arc<dyn Fs>);
    let db = manual().open_in(Arc::new(fs.clone()), PATH).unwrap();
    let before = names(&inner);
    let full = FaultPlan::new(Fault::NoSpace).on(&[Op::Write]).path(".vrec").forever();
    let full = fs.arm(full);
    let error = db.gc(&GcOptions::default()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NoSpace, "{error}");
    assert_eq!(names(&inner), before);
    assert_eq!(db.health(), kvdb::Health::Good);
    assert_eq!(db.stats().gc.failed, 1);
    assert!(now(&db) == model);
    full.disarm();
    // There is room for one file, not for several at once.
    let plan = FaultPlan::new(Fault::NoSpace).on(&[Op::Write]).path(".vrec").after(1);
    let armed = fs.arm(plan);
    let report = db.gc(&GcOptions::default()).unwrap();
    assert_eq!(armed.fired(), 1);
    assert!(report.collections > 1, "one file after the other: {report:?}");
    assert!(now(&db) == model);
}

/// What a collection may write at once is less than the best victim takes.
#[test]
fn where_the_best_victim_does_not_fit_on_the_disk_smaller_ones_are_collected() {
    let (inner, db, mut model) = with_garbage();
    db.gc(&GcOptions::full()).unwrap();
    // Half of what was moved, which is one unit, becomes garbage, and of some new segments half.
    (0..300).filter(|i| i % 3 != 1 && i % 9 > 2).for_each(|i| delete(&db, &mut model, i));
    (400..600).for_each(|i| put(&db, &mut model, i, 0));
    (400..600).step_by(2).for_each(|i| delete(&db, &mut model, i));
    while db.step(Step::PrepareLog).unwrap() {}
    db.gc(&GcOptions::default().min_garbage(1.0).settle(true)).unwrap();
    db.close().unwrap();
    let fs = FaultFs::new(inner.clone() as Arc<dyn Fs>);
    let db = manual().open_in(Arc::new(fs.clone()), PATH).unwrap();
    let mut room: Option<kvdb::vfs::ArmedPlan> = None;
    let result = db.gc_with(&GcOptions::default(), |stage, _| {
        if stage == GcStage::Chosen {
            if let Some(room) = room.take() {
                room.disarm();
            }
            let full = FaultPlan::new(Fault::NoSpace).on(&[Op::Write]).path(".vrec");
            room = Some(fs.arm(full.after(4).forever()));
        }
        ControlFlow::Continue(())
    });
    assert_eq!(result.unwrap_err().kind(), ErrorKind::NoSpace, "the best one does not fit");
    let files = db.stats().log_files;
    let left = |f: &&kvdb::LogFileStats| !f.relocated && f.reclaimable_bytes > 0;
    assert!(db.stats().gc.collections > 0 && !files.iter().any(|f| left(&f)), "{files:?}");
    assert!(now(&db) == model);
    room.unwrap().disarm();
    assert!(db.gc(&GcOptions::default()).unwrap().collections > 0);
    assert!(now(&db) == model);
}

/// Two groups of keys, in segments and in tables of their own; a block of a table of the first is
/// unreadable.
#[test]
fn what_an_unreadable_table_refers_to_is_left_alone_and_the_rest_is_collected() {
    for look_up in [false, true] {
        let fs = Arc::new(MemFs::new());
        let db = open(&manual().codec(kvdb::Codec::None), &fs).unwrap();
        let key = |group: &str, i: u64| format!("{group}{i:04}/{}", "k".repeat(200));
        let settle = || {
            while db.step(Step::PrepareLog).unwrap() {}
            db.gc(&GcOptions::default().min_garbage(1.0).settle(true)).unwrap();
            while db.step(Step::Reclaim).unwrap() {}
        };
        for group in ["a", "b"] {
            (0..150).for_each(|i| _ = db.put(key(group, i), value(i, SIZE)).unwrap());
            settle();
            (0..150).filter(|i| i % 3 != 0).for_each(|i| _ = db.delete(key(group, i)).unwrap());
        }
        settle();
        db.close().unwrap();
        let mut hit = false;
        for name in with_extension(&fs, &[".sst"]) {
            let file = fs.open(&Path::new(PATH).join(&name), OpenMode::ReadWrite).unwrap();
            let mut bytes = vec![0; file.len().unwrap() as usize];
            file.read_exact_at(&mut bytes, 0).unwrap();
            let at = bytes.windows(3).position(|w| w == b"a00").filter(|_| !hit);
            if let Some(at) = at.map(|at| at + 20) {
                file.write_all_at(&[!bytes[at]], at as u64).unwrap();
                hit = true;
            }
        }
        assert!(hit);
        let db = open(&manual(), &fs).unwrap();
        assert_eq!(db.health(), kvdb::Health::Good);
        let report = db.gc(&GcOptions::default().look_up(look_up)).unwrap();
        assert!(report.collections > 0 && !report.damaged.is_empty(), "{look_up} {report:?}");
        assert!(report.damaged.iter().all(|(_, what)| what.contains(".sst")), "{report:?}");
        let health = db.health();
        assert!(
            matches!(&health, kvdb::Health::Failing(why) if why.contains(".sst")),
            "{health:?}"
        );
        let stats = db.stats();
        let left = stats.segments.iter().filter(|s| s.damaged.is_some());
        assert!(left.clone().count() == report.damaged.len() && left.clone().all(|s| !s.relocated));
        let again = db.gc(&GcOptions::default().look_up(look_up)).unwrap();
        assert_eq!((again.collections, again.damaged.len()), (0, 0));
        db.put("more", "v").unwrap();
    }
}

/// Images of power cuts before every operation of a collection.
fn images(policy: impl Fn(u64) -> Keep + Send + Sync + 'static) -> (Vec<MemFs>, Contents) {
    let (fs, db, model) = with_little_garbage();
    db.sync().unwrap();
    let cuts: Arc<parking_lot::Mutex<Vec<MemFs>>> = Arc::default();
    let taken = cuts.clone();
    fs.on_operation(move |fs: &MemFs, _: Op, _: &Path| {
        let n = taken.lock().len() as u64;
        let image = fs.crash_image(&mut policy(n));
        taken.lock().push(image);
    });
    let report = db.gc(&GcOptions::default().batch_bytes(600_000)).unwrap();
    assert!(report.collections >= 2);
    fs.clear_hook();
    drop(db);
    let cuts = std::mem::take(&mut *cuts.lock());
    (cuts, model)
}

fn check_image(image: MemFs, model: &Contents, what: &str) {
    let image = Arc::new(image);
    let db = open(&manual(), &image).unwrap_or_else(|e| panic!("{what}: {e}"));
    assert!(now(&db) == *model, "{what}");
    db.verify().unwrap_or_else(|e| panic!("{what}: {e}"));
    // Every file there is one that the store knows.
    let known = db.stats().log_files;
    for name in with_extension(&image, &[".vrec", ".vlog"]) {
        let number: u64 = name[..6].parse().unwrap();
        assert!(known.iter().any(|f| f.file == number), "{what}: {name} is a leftover");
    }
    let relocated = db.stats().segments.iter().filter(|s| s.relocated).count();
    assert_eq!(with_extension(&image, &[".vrel"]).len(), relocated, "{what}: leftovers");
    db.gc(&GcOptions::full()).unwrap_or_else(|e| panic!("{what}: {e}"));
    assert!(now(&db) == *model, "{what}: collected");
}

#[test]
fn rule_41_a_crash_at_any_step_of_a_collection_leaves_no_trace() {
    for round in 0..2 * scale() {
        let (images, model) = images(move |n| match (n + round) % 4 {
            0 => Keep::All,
            1 => Keep::None,
            _ => Keep::Random(round << 32 | n),
        });
        assert!(images.len() > 20, "{}", images.len());
        for (n, image) in images.into_iter().enumerate() {
            check_image(image, &model, &format!("round {round}, operation {n}"));
        }
    }
}

/// The planted mutants: without either sync of a collection the test above fails.
#[test]
fn every_sync_of_a_collection_is_needed() {
    for site in [SyncSite::LogRelocate, SyncSite::LogRelocateDir] {
        let killed = std::thread::spawn(move || {
            common::SKIPPED.set(Some(site));
            let (images, model) = images(|_| Keep::None);
            common::SKIPPED.set(None);
            for (n, image) in images.into_iter().enumerate() {
                check_image(image, &model, &format!("without {site:?}, operation {n}"));
            }
        });
        assert!(killed.join().is_err(), "{site:?} can be left out unnoticed");
    }
}

#[test]
fn rule_48_any_operation_of_a_collection_may_fail() {
    let faults =
        [Fault::Io, Fault::IoAfter, Fault::NoSpace, Fault::ShortWrite, Fault::LoseUnsynced];
    let (base, db, model) = with_little_garbage();
    db.close().unwrap();
    let mut cases = 0;
    for fault in faults {
        for n in 0.. {
            let what = format!("{fault:?} at operation {n}");
            let inner = Arc::new(base.process_image());
            let fs = FaultFs::new(inner.clone() as Arc<dyn Fs>);
            let db = manual().open_in(Arc::new(fs.clone()), PATH).unwrap();
            let armed = fs.arm(FaultPlan::new(fault).after(n));
            let result = db.gc(&GcOptions::default());
            if armed.fired() == 0 {
                break;
            }
            cases += 1;
            armed.disarm();
            assert!(now(&db) == model, "{what}: {result:?}");
            let image = inner.crash_image(&mut Keep::Random(n));
            check_image(image, &model, &format!("{what}, power cut"));
            let _ = db.close();
            check_image(inner.process_image(), &model, &what);
        }
    }
    assert!(cases > 60, "{cases}");
}

/// One value of every segment is still in use. After the first collection the tables of many
/// segments are most of what there is: that is no garbage, and nothing gets smaller by moving it
/// again.
#[test]
fn what_tables_of_relocated_segments_take_is_not_collected_for_ever() {
    const SEGMENTS: u64 = 60;
    let fs = Arc::new(MemFs::new());
    let db = open(&manual(), &fs).unwrap();
    let mut model = Contents::new();
    let mut i = 0;
    while db.stats().segments.len() < SEGMENTS as usize {
        let v = value(i, if i % 10 == 0 { 300 } else { 100_000 });
        db.put(key(i), &v).unwrap();
        match i % 10 {
            0 => _ = model.insert(key(i), v),
            _ => _ = db.delete(key(i)).unwrap(),
        }
        while db.step(Step::PrepareLog).unwrap() {}
        i += 1;
    }
    let options = GcOptions::default().settle(true);
    let mut collections = 0;
    let report = db.gc_with(&options, |stage, _| {
        collections += usize::from(stage == GcStage::Installed);
        if collections > 10 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    let report = report.unwrap();
    assert!(report.collections > 0, "{report:?}");
    assert_eq!(db.gc(&GcOptions::default()).unwrap().collections, 0, "nothing left to do");
    assert!(now(&db) == model);
    let at_rest = (0..50).find(|_| !db.step(Step::Rest).unwrap());
    assert!(at_rest.is_some(), "comes to rest");
}

#[test]
fn relocated_segments_of_which_little_is_left_take_no_descriptor_each() {
    const SEGMENTS: usize = 60;
    let fs = Arc::new(MemFs::new());
    let db = open(&manual(), &fs).unwrap();
    let mut model = Contents::new();
    for i in 0..SEGMENTS as u64 {
        put(&db, &mut model, i, 0);
        db.put("junk", value(i, SIZE)).unwrap();
        db.gc(&GcOptions::default().min_garbage(1.0).settle(true)).unwrap();
    }
    db.gc(&GcOptions::default()).unwrap();
    db.close().unwrap();
    assert!(with_extension(&fs, &[".vrel"]).len() >= SEGMENTS - 1, "{:?}", names(&fs));

    let dir = tempfile::tempdir().unwrap();
    for name in names(&fs) {
        let file = fs.open(&Path::new(PATH).join(&name), OpenMode::Read).unwrap();
        let mut bytes = vec![0; file.len().unwrap() as usize];
        file.read_exact_at(&mut bytes, 0).unwrap();
        std::fs::write(dir.path().join(&name), bytes).unwrap();
    }
    let Ok(_) = std::fs::read_dir("/proc/self/fd") else { return };
    let held = || {
        let links = std::fs::read_dir("/proc/self/fd").unwrap();
        let held = links.filter_map(|e| std::fs::read_link(e.unwrap().path()).ok());
        held.filter(|path| path.starts_with(dir.path())).count()
    };
    for options in [manual(), manual().memory_map(false)] {
        let db = options.open(dir.path()).unwrap();
        let opened = held();
        model.iter().for_each(|(key, value)| assert_eq!(db.get(key).unwrap().unwrap(), value[..]));
        assert!(opened.max(held()) < SEGMENTS / 2, "{opened}, {}", held());
        db.close().unwrap();
    }
}

#[test]
fn rule_48_a_step_towards_rest_that_the_manifest_refuses_leaves_a_log_to_go_on_with() {
    for nth in 0.. {
        let inner = Arc::new(MemFs::new());
        let fs = FaultFs::new(inner.clone());
        let db = manual().open_in(Arc::new(fs.clone()), PATH).unwrap();
        let mut model = Contents::new();
        (0..40).for_each(|i| put(&db, &mut model, i, 0));
        while db.step(Step::PrepareLog).unwrap() {}
        let full = FaultPlan::new(Fault::NoSpace).on(&[Op::Write]).path(kvdb_manifest::FILE_NAME);
        let refused = fs.arm(full.after(nth));
        while let Ok(true) = db.step(Step::Rest) {}
        let fired = refused.fired() > 0;
        refused.disarm();
        (0..200).for_each(|i| put(&db, &mut model, i, 1));
        assert!(now(&db) == model, "refused: append {nth}");
        let image = Arc::new(inner.process_image());
        let after = open(&manual(), &image).unwrap_or_else(|e| panic!("{nth}: {e}"));
        assert!(now(&after) == model, "refused: append {nth}");
        if !fired {
            assert!(nth > 3, "{nth}");
            break;
        }
    }
}

/// A segment that the manifest may have freed must not be written to.
#[test]
fn rule_48_no_commit_is_lost_behind_a_step_towards_rest_of_unknown_outcome() {
    for nth in 0.. {
        let inner = Arc::new(MemFs::new());
        let fs = FaultFs::new(inner.clone());
        let db = manual().open_in(Arc::new(fs.clone()), PATH).unwrap();
        let mut model = Contents::new();
        (0..40).for_each(|i| put(&db, &mut model, i, 0));
        while db.step(Step::PrepareLog).unwrap() {}
        let unsynced = FaultPlan::new(Fault::Io).on(&[Op::SyncData]).path("MANIFEST");
        let armed = fs.arm(unsynced.after(nth));
        while let Ok(true) = db.step(Step::Rest) {}
        armed.disarm();
        // As far as there is room; then it is refused.
        let refused = (40..240).find(|i| match db.put(key(*i), value(*i, SIZE)) {
            Ok(_) => model.insert(key(*i), value(*i, SIZE)).is_some(),
            Err(_) => true,
        });
        assert_eq!(refused.is_some(), armed.fired() > 0, "sync {nth}");
        for image in [inner.process_image(), inner.crash_image(&mut Keep::All)] {
            let after = open(&manual(), &Arc::new(image)).unwrap_or_else(|e| panic!("{nth}: {e}"));
            let mut found = now(&after);
            // It failed, and may be there.
            refused.iter().for_each(|i| _ = found.remove(&key(*i)));
            assert!(found == model, "sync {nth}");
        }
        if armed.fired() == 0 {
            assert!(nth > 2, "{nth}");
            break;
        }
    }
}

#[test]
fn nothing_is_copied_that_the_manifest_cannot_take_any_more() {
    let (inner, db, model) = with_garbage();
    db.close().unwrap();
    let fs = FaultFs::new(inner);
    let db = manual().open_in(Arc::new(fs.clone()), PATH).unwrap();
    db.put(key(0), "").unwrap();
    fs.arm(FaultPlan::new(Fault::Io).on(&[Op::SyncData]).path("MANIFEST"));
    db.flush().unwrap_err();
    let copied = fs.arm(FaultPlan::count().on(&[Op::Write]).path(".vrec"));
    for _ in 0..2 {
        let error = db.gc(&GcOptions::default()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Reopen, "{error}");
    }
    assert_eq!(copied.seen(), 0);
    assert_eq!(db.get(key(2)).unwrap().unwrap(), model[&key(2)]);
}
