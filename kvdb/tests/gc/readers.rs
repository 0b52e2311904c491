//! What readers see while files are collected.

use std::ops::ControlFlow;
use std::sync::Arc;

use kvdb::vfs::{MemFs, Op};
use kvdb::{Db, GcOptions, GcStage, Step};

use crate::common::{Contents, contents, manual, open, tiny, value};
use crate::support::{
    FEW, SIZE, delete, key, log_files, now, put, with_garbage, with_little_garbage,
};

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
