//! What is collected, and what comes of it.

use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;

use kvdb::vfs::{FaultFs, FaultPlan, Fs, MemFs, Op};
use kvdb::{Db, GcOptions, GcStage, Step};

use crate::common::{Contents, PATH, manual, open, value};
use crate::support::{SIZE, bytes_of, key, now, put, with_extension, with_garbage};

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
fn a_collection_reads_of_its_victims_only_what_is_in_use() {
    let (_fs, db, model) = with_garbage();
    let live: usize = model.values().map(Vec::len).sum();
    let report = db.gc(&GcOptions::full()).unwrap();
    assert!(report.bytes_read <= (live + live / 50) as u64, "{live} {report:?}");
    assert!(report.bytes_written <= (live + live / 50) as u64 + 8192, "{live} {report:?}");
}

/// The keys of the records in a file of relocated ones, in the order that they lie in.
fn keys_in(fs: &MemFs, name: &str) -> Vec<Vec<u8>> {
    let bytes = bytes_of(fs, name);
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
    assert_eq!(tables, 1, "of all segments together");
    assert_eq!(report.files_written as usize, outputs.len() + tables);
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
