//! SEMANTICS rule 48, as far as dropping ranges goes: on a full disk a drop works as a delete does, and
//! whatever operation of it fails, it is there whole or not at all and poisons no more than it must.
#![allow(clippy::unwrap_used)] // a test may panic

mod common;

use std::sync::Arc;

use common::{PATH, manual, open, tiny, value};
use kvdb::vfs::{ArmedPlan, Fault, FaultFs, FaultPlan, Keep, MemFs, Op};
use kvdb::{Db, Durability, Error, ErrorKind, Health, Options, Step};

fn keys(db: &Db) -> Vec<String> {
    let keys = db.iter().unwrap().keys().map(|key| String::from_utf8(key.unwrap()).unwrap());
    keys.collect()
}

/// A store with `a/` and `b/` in a table and in memory, on a disk that is full from then on.
fn filled(options: &Options) -> (Db, Arc<MemFs>, Vec<ArmedPlan>) {
    let inner = Arc::new(MemFs::new());
    let fs = FaultFs::new(inner.clone());
    let db = options.open_in(Arc::new(fs.clone()), PATH).unwrap();
    for i in 0..40u64 {
        let len = if i % 2 == 0 { 20 } else { 3000 };
        db.put(format!("a/{i:02}"), value(i, len)).unwrap();
        db.put(format!("b/{i:02}"), value(i, len)).unwrap();
        if i == 20 {
            db.flush().unwrap();
        }
    }
    // So that the next segment, which drops need one day, is there.
    db.sync().unwrap();
    let full = |op, path| fs.arm(FaultPlan::new(Fault::NoSpace).on(&[op]).path(path).forever());
    let plans = vec![
        full(Op::Write, "MANIFEST"),
        full(Op::Write, ".sst"),
        full(Op::Allocate, ".sst"),
        full(Op::Allocate, ".vlog"),
    ];
    (db, inner, plans)
}

/// After the drop and a delete.
fn check(db: &Db, what: &str) {
    let keys = keys(db);
    assert!(!keys.iter().any(|key| key.starts_with("a/")), "{what}: came back: {keys:?}");
    assert_eq!(keys.iter().filter(|key| key.starts_with("b/")).count(), 39, "{what}");
    assert!(db.get("a/03").unwrap().is_none() && !db.contains("b/03").unwrap(), "{what}");
    assert_eq!(db.get("b/05").unwrap().unwrap(), value(5, 3000), "{what}");
}

fn check_images(options: &Options, fs: &MemFs, what: &str) {
    let images =
        [fs.crash_image(&mut Keep::None), fs.crash_image(&mut Keep::All), fs.process_image()];
    for image in images {
        let image = Arc::new(image);
        for _ in 0..2 {
            let db = open(options, &image).unwrap();
            check(&db, what);
            db.compact().unwrap();
            check(&db, what);
            db.verify().unwrap();
            db.close().unwrap();
        }
    }
}

#[test]
fn rule_48_on_a_full_disk_a_drop_takes_effect_poisons_nothing_and_never_comes_undone() {
    for options in [manual(), tiny().flush_on_close(true)] {
        let (db, fs, plans) = filled(&options);
        assert_eq!(db.flush().unwrap_err().kind(), ErrorKind::NoSpace);
        let before = db.snapshot().unwrap();
        db.drop_prefix("a/").unwrap();
        db.delete("b/03").unwrap();
        assert!(plans[0].fired() > 0, "the manifest was to be written");
        check(&db, "on the full disk");
        assert_eq!(before.iter().count(), 80, "whoever read before sees what there was");
        assert!(!matches!(db.health(), Health::Poisoned(_)), "{:?}", db.health());
        db.drop_prefix("a/").unwrap();
        check_images(&options, &fs, "after a crash on the full disk");
        drop(before);

        // There is room again. The first change set that passes the drop in the log carries it.
        plans.iter().for_each(ArmedPlan::disarm);
        db.flush().unwrap();
        check_images(&options, &fs, "after a flush");
        db.put("c", "v").unwrap();
        db.compact().unwrap();
        db.wait_idle().unwrap();
        assert_eq!(db.stats().range_drops, 0, "all that was dropped is gone");
        check(&db, "after a compaction");
        assert_eq!(db.health(), Health::Good);
        db.verify().unwrap();
        db.close().unwrap();
        check_images(&options, &fs, "after a clean close");
    }
}

#[test]
fn rule_48_a_drop_of_nothing_on_a_full_disk_is_forgotten_when_there_is_room() {
    let inner = Arc::new(MemFs::new());
    let fs = FaultFs::new(inner.clone());
    let db = manual().open_in(Arc::new(fs.clone()), PATH).unwrap();
    db.put("b", "v").unwrap();
    db.flush().unwrap();
    let full = fs.arm(FaultPlan::new(Fault::NoSpace).on(&[Op::Write]).path("MANIFEST").forever());
    db.drop_prefix("none/").unwrap();
    assert_eq!((full.fired() > 0, db.stats().range_drops), (true, 1));
    full.disarm();
    db.compact().unwrap();
    db.wait_idle().unwrap();
    assert_eq!(db.stats().range_drops, 0);
    db.put("none/1", "v").unwrap();
    for image in [inner.crash_image(&mut Keep::None), inner.process_image()] {
        let db = open(&manual(), &Arc::new(image)).unwrap();
        assert_eq!(keys(&db), ["b", "none/1"]);
        db.compact().unwrap();
        assert_eq!((keys(&db).len(), db.stats().range_drops), (2, 0));
        db.verify().unwrap();
    }
}

/// What the caller was told of a drop.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Told {
    Done,
    Refused,
    Unknown,
    NotTried,
}

/// Fills, drops `a/` twice with new entries under it between and after, and closes. Returns what
/// was told of the drops.
fn workload(options: &Options, fs: &FaultFs) -> [Told; 2] {
    let mut told = [Told::NotTried; 2];
    let Ok(db) = options.open_in(Arc::new(fs.clone()), PATH) else { return told };
    let fill = |name: &str| {
        let mut batch = db.batch();
        for i in 0..5u64 {
            batch.put(format!("a/{name}/{i}"), value(i, 500)).unwrap();
        }
        batch.put(format!("b/{name}"), "v").unwrap();
        batch.commit()
    };
    for (round, told) in told.iter_mut().enumerate() {
        let (Ok(_), Ok(())) = (fill(&format!("{round}/table")), db.flush()) else {
            return [*told; 2];
        };
        let Ok(_) = fill(&format!("{round}/memory")) else { return [Told::NotTried; 2] };
        *told = match db.drop_prefix(format!("a/{round}")) {
            Ok(_) => Told::Done,
            Err(Error::OutcomeUnknown(_)) => Told::Unknown,
            Err(_) => Told::Refused,
        };
        let _ = fill("later");
        let _ = db.flush();
        let _ = db.step(Step::Compact);
    }
    let _ = db.close();
    told
}

#[test]
fn rule_48_whatever_operation_of_a_drop_fails_it_is_there_whole_or_not_at_all() {
    for fault in [Fault::Io, Fault::IoAfter, Fault::NoSpace, Fault::LoseUnsynced] {
        for forever in [false, true] {
            let counting = FaultFs::new(Arc::new(MemFs::new()));
            let counter = counting.arm(FaultPlan::count());
            assert_eq!(workload(&manual(), &counting), [Told::Done; 2]);
            let mut done_though = 0;
            for n in 0..counter.seen() {
                let inner = Arc::new(MemFs::new());
                let fs = FaultFs::new(inner.clone());
                let plan = FaultPlan::new(fault).after(n);
                let armed = fs.arm(if forever { plan.forever() } else { plan });
                let told = workload(&manual(), &fs);
                if armed.fired() == 0 {
                    break; // the fault hits no operation from here on
                }
                done_though += u32::from(told == [Told::Done; 2]);
                for image in [inner.crash_image(&mut Keep::Random(n)), inner.process_image()] {
                    let what = format!("{fault:?} at {n}, forever: {forever}, {told:?}");
                    let db = open(&manual(), &Arc::new(image)).unwrap();
                    let keys = keys(&db);
                    for (round, told) in told.iter().enumerate() {
                        let prefix = format!("a/{round}/");
                        let left = keys.iter().filter(|key| key.starts_with(&prefix)).count();
                        match told {
                            Told::Done => assert_eq!(left, 0, "{what}: {keys:?}"),
                            Told::Refused => assert_eq!(left, 10, "{what}: {keys:?}"),
                            Told::Unknown => assert!(left == 0 || left == 10, "{what}: {keys:?}"),
                            Told::NotTried => {}
                        }
                    }
                    let later = keys.iter().filter(|key| key.starts_with("a/later")).count();
                    assert!(later == 0 || later == 5, "{what}: a commit in part");
                    db.compact().unwrap();
                    db.verify().unwrap();
                }
            }
            assert!(done_though > 0, "{fault:?}: no fault that a drop survives");
        }
    }
}

/// The default durability of the drop is `Sync`, whatever the database's: it pulls what was before
/// it along, on a full disk too.
#[test]
fn rule_48_a_drop_on_a_full_disk_makes_the_buffered_commits_before_it_durable() {
    let options = manual().durability(Durability::Buffered);
    let (db, fs, _plans) = filled(&options);
    db.delete("b/03").unwrap();
    db.drop_prefix("a/").unwrap();
    check_images(&options, &fs, "buffered");
}
