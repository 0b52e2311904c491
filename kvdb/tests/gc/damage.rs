//! Damage that a collection meets.

use std::path::Path;
use std::sync::Arc;

use kvdb::vfs::{Fault, FaultFs, FaultPlan, Fs, MemFs, Op};
use kvdb::{ErrorKind, GcOptions, Step};

use crate::common::{Contents, PATH, manual, open, value};
use crate::support::{
    SIZE, damage, key, log_files, names, now, place_of, put, with_extension, with_faults,
    with_garbage,
};

#[test]
fn records_that_tables_refer_to_and_the_victim_does_not_show_are_damage() {
    let (fs, db, model) = with_garbage();
    db.close().unwrap();
    // The length of a frame in the first segment: what follows cannot be told apart, and some that
    // are in use come before it.
    let (name, at) = place_of(&fs, ".vlog", &value(20 << 16, SIZE)[..64]);
    assert_eq!(name, with_extension(&fs, &[".vlog"])[0]);
    let header = at - (32 + 12 + key(20).len() as u64 + 1);
    damage(&fs, &name, header + 5);

    let db = open(&manual(), &fs).unwrap();
    let report = db.gc(&GcOptions::full().look_up(true)).unwrap();
    assert_eq!(report.damaged.len(), 1, "{report:?}");
    assert!(report.collections > 0 && names(&fs).contains(&name));
    // The records themselves are whole.
    assert!(now(&db) == model);
}

#[test]
fn a_damaged_victim_is_left_whole_reported_and_not_chosen_again() {
    let (fs, db, model) = with_garbage();
    db.close().unwrap();
    // A byte in the middle of a value that is in use: key 2's, in the first segment.
    let (name, at) = place_of(&fs, ".vlog", &value(2 << 16, SIZE)[..64]);
    assert_eq!(name, with_extension(&fs, &[".vlog"])[0]);
    damage(&fs, &name, at + 1000);
    let path = Path::new(PATH).join(&name);

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
    let pinned: Vec<_> = stats.log_files.iter().filter(|f| f.damaged.is_some()).collect();
    assert!(pinned.len() == 1 && pinned[0].segments == [*segment], "{pinned:?}");
    assert!(pinned[0].garbage_bytes > 0 && pinned[0].reclaimable_bytes == 0);
    for (key, value) in &model {
        match db.get(key) {
            Ok(got) => assert_eq!(got.unwrap(), value[..]),
            Err(e) => {
                assert!(*key == crate::support::key(2) && e.kind() == ErrorKind::Corruption, "{e}")
            }
        }
    }
    let again = db.gc(&GcOptions::full()).unwrap();
    assert_eq!((again.collections, again.damaged.len()), (0, 0));
    assert_eq!(db.stats().gc.failed, 1);
    // With the segment goes what is known of its damage.
    assert!(matches!(db.health(), kvdb::Health::Failing(_)));
    let mut model = model;
    (0..100).for_each(|i| put(&db, &mut model, i, 7));
    let report = db.gc(&GcOptions::full()).unwrap();
    assert!(report.files_removed > 0 && fs.metadata(&path).is_err(), "{report:?}");
    assert_eq!(db.health(), kvdb::Health::Good);
    assert!(now(&db) == model);
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
    let (name, at) = place_of(&fs, ".vrec", &model[&lost][..64]);
    damage(&fs, &name, at);
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
    let (inner, fs, db, model) = with_faults(&manual().memory_map(false));
    let victim = with_extension(&inner, &[".vlog"]).swap_remove(0);
    let broken = fs.arm(FaultPlan::new(Fault::Io).on(&[Op::Read]).path(&victim).forever());
    let report = db.gc(&GcOptions::full()).unwrap();
    assert_eq!(report.damaged.len(), 1, "{report:?}");
    assert!(report.collections > 0 && names(&inner).contains(&victim));
    assert!(db.stats().log_files.iter().all(|file| file.damaged.is_none()));
    // It was no damage: it is collected when the device answers again.
    broken.disarm();
    let report = db.gc(&GcOptions::full()).unwrap();
    assert!(report.damaged.is_empty() && !names(&inner).contains(&victim), "{report:?}");
    assert_eq!(db.health(), kvdb::Health::Good);
    assert!(now(&db) == model);
}

/// Two groups of keys, in segments and in tables of their own, of which two thirds are garbage.
fn two_groups() -> (Arc<MemFs>, Contents) {
    let fs = Arc::new(MemFs::new());
    let mut model = Contents::new();
    let db = open(&manual().codec(kvdb::Codec::None), &fs).unwrap();
    let key = |group: &str, i: u64| format!("{group}{i:04}/{}", "k".repeat(200)).into_bytes();
    let settle = || {
        while db.step(Step::PrepareLog).unwrap() {}
        db.gc(&GcOptions::default().min_garbage(1.0).settle(true)).unwrap();
        while db.step(Step::Reclaim).unwrap() {}
    };
    for group in ["a", "b"] {
        (0..150).for_each(|i| _ = db.put(key(group, i), value(i, SIZE)).unwrap());
        settle();
        (0..150).filter(|i| i % 3 != 0).for_each(|i| _ = db.delete(key(group, i)).unwrap());
        model.extend((0..150).step_by(3).map(|i| (key(group, i), value(i, SIZE))));
    }
    settle();
    db.close().unwrap();
    // Tables that were waiting for a reader of another test go now.
    open(&manual(), &fs).unwrap().close().unwrap();
    (fs, model)
}

/// A block of a table of the first of two groups is unreadable.
#[test]
fn what_an_unreadable_table_refers_to_is_left_alone_and_the_rest_is_collected() {
    for look_up in [false, true] {
        let (fs, _) = two_groups();
        let (name, at) = place_of(&fs, ".sst", b"a00");
        damage(&fs, &name, at + 20);
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

/// As if the device did not answer where the table is.
#[test]
fn what_a_table_refers_to_that_the_file_system_cannot_read_is_left_for_now() {
    for look_up in [false, true] {
        let (inner, model) = two_groups();
        let fs = FaultFs::new(inner.clone() as Arc<dyn Fs>);
        let db = manual().memory_map(false).open_in(Arc::new(fs.clone()), PATH).unwrap();
        let (table, _) = place_of(&inner, ".sst", b"a00");
        let silent = FaultPlan::new(Fault::Io).on(&[Op::Read]).path(&table).forever();
        let silent = fs.arm(silent);
        let options = GcOptions::default().look_up(look_up);
        let report = db.gc(&options).unwrap();
        assert!(silent.fired() > 0 && report.collections > 0, "{look_up} {report:?}");
        assert!(!report.damaged.is_empty(), "{look_up} {report:?}");
        assert!(report.damaged.iter().all(|(_, what)| what.contains(".sst")), "{report:?}");
        assert_eq!(db.health(), kvdb::Health::Good);
        let again = db.gc(&options).unwrap();
        assert_eq!((again.collections, again.damaged), (0, report.damaged));
        silent.disarm();
        assert!(db.gc(&options).unwrap().collections > 0);
        assert!(now(&db) == model);
    }
}

/// What a lookup comes upon may be a table that does not refer to the victims, so the tables that do are
/// read then. Here it is one of these, which can be read the second time.
#[test]
fn where_a_lookup_fails_the_tables_that_refer_to_the_victims_are_read() {
    for nth in [0, 2] {
        let (inner, model) = two_groups();
        let fs = FaultFs::new(inner as Arc<dyn Fs>);
        let db = manual().memory_map(false).open_in(Arc::new(fs.clone()), PATH).unwrap();
        let once = fs.arm(FaultPlan::new(Fault::Io).on(&[Op::Read]).path(".sst").after(nth));
        let report = db.gc(&GcOptions::default().look_up(true)).unwrap();
        assert_eq!(once.fired(), 1);
        assert!(report.collections > 0 && report.damaged.is_empty(), "{report:?}");
        assert!(now(&db) == model);
    }
}
