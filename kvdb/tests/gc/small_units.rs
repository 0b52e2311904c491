//! Segments of which little is left, for ever: what it costs to keep that.

use std::ops::ControlFlow;
use std::sync::{Arc, OnceLock};

use kvdb::vfs::{Fault, FaultFs, FaultPlan, Fs, MemFs, Op};
use kvdb::{Db, ErrorKind, GcOptions, GcStage, Step};

use crate::common::{Contents, PATH, manual, open, value};
use crate::support::{
    FEW, check_any_failure, check_any_power_cut, damage, descriptors, key, names, now, on_disk,
    power_cuts, put, with_extension,
};

/// Files that collections have made.
const MADE: &[&str] = &[".vrec", ".vrel"];

/// A segment with this record and one that is garbage already; the next one is begun.
fn segment_of_one(db: &Db, model: &mut Contents, i: u64, size: usize) {
    let v = value(i, size);
    db.put(key(i), &v).unwrap();
    model.insert(key(i), v);
    db.put("junk", value(i, 4 * size.max(5000))).unwrap();
    db.delete("junk").unwrap();
    db.gc(&GcOptions::default().min_garbage(1.0).settle(true)).unwrap();
}

/// Each of these many segments was collected by itself when all but one record was garbage.
fn store(segments: u64, size: usize) -> (Arc<MemFs>, Db, Contents) {
    let fs = Arc::new(MemFs::new());
    let db = open(&manual(), &fs).unwrap();
    let mut model = Contents::new();
    for i in 0..segments {
        segment_of_one(&db, &mut model, i, size);
        db.gc(&GcOptions::default()).unwrap();
    }
    (fs, db, model)
}

fn come_to_rest(db: &Db) {
    for step in 0.. {
        assert!(step < 200, "no rest: {:?}", db.stats().gc);
        let did = [Step::Rest, Step::Compact, Step::Reclaim].map(|step| db.step(step).unwrap());
        if did == [false; 3] {
            return;
        }
    }
}

/// At most seven units of each size, and sizes go by fours from a kilobyte to a quarter of a mebibyte,
/// a quarter of a segment; what is larger is as many as fit into all there is.
fn most_files(live: u64) -> usize {
    2 * (7 * 5 + live.div_ceil(256 << 10) as usize)
}

#[test]
fn rule_39_segments_that_keep_one_record_each_do_not_take_a_file_and_a_descriptor_each() {
    const SEGMENTS: u64 = 300;
    for size in [300, 20_000] {
        let (fs, db, model) = store(SEGMENTS, size);
        let live: u64 = model.values().map(|v| v.len() as u64 + 300).sum();
        let most = most_files(live);
        assert!(most < SEGMENTS as usize);
        let files = with_extension(&fs, MADE).len();
        assert!(files <= most, "{files} files, not {most}, with {size} bytes each");
        let relocated = db.stats().segments.iter().filter(|s| s.relocated).count() as u64;
        assert!(relocated >= SEGMENTS - 1, "{relocated}");
        come_to_rest(&db);
        let before = (fs.operations(), db.stats().gc);
        come_to_rest(&db);
        assert!(!db.step(Step::Collect).unwrap());
        assert_eq!((fs.operations(), db.stats().gc), before, "at rest");
        assert!(now(&db) == model);
        db.verify().unwrap();
        db.close().unwrap();

        let dir = on_disk(&fs);
        for options in [manual(), manual().memory_map(false)] {
            let image = Arc::new(fs.process_image());
            drop(open(&options, &image));
            let opened = image.most_open_files();
            let tables = with_extension(&fs, &[".vrel"]).len();
            let others = names(&fs).len() - tables;
            assert!(
                opened <= others + 1,
                "{opened} at once of {others} and {tables} files of tables"
            );
            let db = options.open(dir.path()).unwrap();
            assert!(now(&db) == model);
            // Tables, segments and the like take some as well.
            let held = descriptors(dir.path()).unwrap_or(0);
            assert!(held < most / 2 + 40, "{held} descriptors with {size} bytes each");
            db.verify().unwrap();
            db.close().unwrap();
        }
    }
}

/// What is moved for the number of files alone is moved once for each size that it grows through.
#[test]
fn a_record_is_moved_a_few_times_only_to_keep_units_few() {
    let (_fs, db, model) = store(200, 20_000);
    let stored: u64 = model.values().map(|v| v.len() as u64).sum();
    let written = db.stats().gc.bytes_written;
    assert!(written < 4 * stored, "{written} for {stored}");
}

/// Enough small units for two merges, made once; and what is under their keys.
fn with_small_units() -> (Arc<MemFs>, Contents) {
    static MADE: OnceLock<(MemFs, Contents)> = OnceLock::new();
    let (image, model) = MADE.get_or_init(|| {
        let (fs, db, mut model) = store(7, 20_000);
        let collections = db.stats().gc.collections;
        assert_eq!(collections, 7, "none merged yet");
        segment_of_one(&db, &mut model, 7, 20_000);
        (8..20).for_each(|i| put(&db, &mut model, i, 0));
        db.close().unwrap();
        (fs.process_image(), model)
    });
    (Arc::new(image.process_image()), model.clone())
}

#[test]
fn rule_41_a_crash_at_any_step_of_a_merge_of_small_units_leaves_no_trace() {
    check_any_power_cut(|policy| {
        let (fs, model) = with_small_units();
        let db = open(&manual(), &fs).unwrap();
        let images = power_cuts(&fs, policy, || {
            let report = db.gc(&GcOptions::default()).unwrap();
            assert_eq!(report.collections, 2, "the last segment, and the merge: {report:?}");
        });
        assert!(with_extension(&fs, &[".vrec"]).len() == 1, "{:?}", with_extension(&fs, MADE));
        (images, model)
    });
}

#[test]
fn rule_48_any_operation_of_a_merge_of_small_units_may_fail() {
    let (base, model) = with_small_units();
    let faults = [Fault::Io, Fault::IoAfter, Fault::NoSpace, Fault::ShortWrite];
    check_any_failure(&base, &model, &faults);
}

#[test]
fn a_merge_that_is_broken_off_leaves_what_was_there() {
    let (fs, model) = with_small_units();
    let db = open(&manual(), &fs).unwrap();
    let before = |fs: &MemFs| with_extension(fs, MADE);
    let mut chosen = 0;
    let mut there = Vec::new();
    let result = db.gc_with(&GcOptions::default(), |stage, _| {
        if stage == GcStage::Chosen {
            chosen += 1;
            there = before(&fs);
        }
        match (chosen, stage) {
            (2, GcStage::Copied) => ControlFlow::Break(()),
            _ => ControlFlow::Continue(()),
        }
    });
    assert!(matches!(result, Err(kvdb::Error::Cancelled)), "{result:?}");
    assert!(there.len() >= 16 && before(&fs) == there, "{there:?}");
    assert!(now(&db) == model);
    db.verify().unwrap();
}

/// Their sizes differ little, so that less and less is tried, but never nothing.
#[test]
fn on_a_full_disk_tries_of_a_hundred_small_segments_come_to_an_end() {
    let inner = Arc::new(MemFs::new());
    let fs = FaultFs::new(inner.clone() as Arc<dyn Fs>);
    let db = manual().open_in(Arc::new(fs.clone()), PATH).unwrap();
    let mut model = Contents::new();
    (0..100).for_each(|i| segment_of_one(&db, &mut model, i, 300));
    // The last that is written.
    let full = FaultPlan::new(Fault::NoSpace).on(&[Op::Write]).path(".vrel");
    let full = fs.arm(full.forever());
    let mut tries = 0;
    let result = db.gc_with(&GcOptions::default(), |stage, _| {
        tries += u32::from(stage == GcStage::Chosen);
        match tries < 100 {
            true => ControlFlow::Continue(()),
            false => ControlFlow::Break(()),
        }
    });
    assert_eq!(result.unwrap_err().kind(), ErrorKind::NoSpace, "after {tries} tries");
    assert!(with_extension(&inner, MADE).is_empty());
    assert!(tries > 1 && full.fired() == u64::from(tries) && now(&db) == model);
    full.disarm();
    let report = db.gc(&GcOptions::default()).unwrap();
    assert!(report.collections > 0 && with_extension(&inner, &[".vrec"]).len() < 8, "{report:?}");
    assert!(now(&db) == model);
}

/// It gains little and needs room.
#[test]
fn a_disk_without_room_for_a_merge_is_no_error_and_is_left_alone() {
    let (inner, model) = with_small_units();
    let fs = FaultFs::new(inner.clone() as Arc<dyn Fs>);
    let db = manual().open_in(Arc::new(fs.clone()), PATH).unwrap();
    // The segment, then no more.
    let full = FaultPlan::new(Fault::NoSpace).on(&[Op::Write]).path(".vrec");
    let full = fs.arm(full.after(1).forever());
    assert_eq!(db.gc(&GcOptions::default()).unwrap().collections, 1);
    assert_eq!(full.fired(), 1, "tried once");
    assert_eq!(db.gc(&GcOptions::default()).unwrap().collections, 0);
    assert!((0..50).any(|_| !db.step(Step::Rest).unwrap()), "comes to rest");
    assert_eq!(full.fired(), 1, "and not again at once");
    assert_eq!(with_extension(&inner, &[".vrec"]).len(), 8);
    assert!(now(&db) == model);
    full.disarm();
    db.close().unwrap();
    let db = open(&manual(), &inner).unwrap();
    assert_eq!(db.gc(&GcOptions::default()).unwrap().collections, 1);
    assert!(now(&db) == model);
}

#[test]
fn a_damaged_small_unit_is_left_and_the_others_are_merged() {
    let (fs, model) = with_small_units();
    let name = with_extension(&fs, &[".vrec"]).swap_remove(3);
    damage(&fs, &name, 10_000);
    let db = open(&manual(), &fs).unwrap();
    // Of the eight that there are then seven are whole, which is too few; one more.
    let mut model = model;
    let report = db.gc(&GcOptions::default()).unwrap();
    assert_eq!((report.collections, report.damaged.len()), (1, 1), "{report:?}");
    db.gc(&GcOptions::default().min_garbage(1.0).settle(true)).unwrap();
    segment_of_one(&db, &mut model, FEW, 20_000);
    let report = db.gc(&GcOptions::default()).unwrap();
    assert_eq!((report.collections, report.damaged.len()), (2, 0), "{report:?}");
    let left = with_extension(&fs, &[".vrec"]);
    assert!(left.contains(&name) && left.len() == 2, "{left:?}");
    let lost = model.keys().filter(|key| match db.get(key) {
        Ok(got) => got.is_none(),
        Err(error) => error.kind() == ErrorKind::Corruption,
    });
    assert_eq!(lost.count(), 1);
}
