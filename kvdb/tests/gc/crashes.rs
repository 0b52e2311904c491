//! Power cuts and failures at any operation of a collection or of a step towards rest.

use std::sync::Arc;

use kvdb::vfs::{Fault, FaultFs, FaultPlan, Keep, MemFs, Op, SyncSite};
use kvdb::{Db, ErrorKind, GcOptions, Step};

use crate::common;
use crate::common::{Contents, PATH, manual, open, value};
use crate::support::{
    SIZE, check_any_failure, check_any_power_cut, check_image, key, names, now, power_cuts, put,
    with_faults, with_little_garbage,
};

#[test]
fn a_collection_that_the_manifest_refuses_leaves_the_victims_and_nothing_else() {
    for fault in [Fault::NoSpace, Fault::Io] {
        let (inner, fs, db, model) = with_faults(&manual());
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

/// Images of power cuts before every operation of a collection.
fn images(policy: impl Fn(u64) -> Keep + Send + Sync + 'static) -> (Vec<MemFs>, Contents) {
    let (fs, db, model) = with_little_garbage();
    db.sync().unwrap();
    let cuts = power_cuts(&fs, policy, || {
        let report = db.gc(&GcOptions::default().batch_bytes(600_000)).unwrap();
        assert!(report.collections >= 2);
    });
    (cuts, model)
}

#[test]
fn rule_41_a_crash_at_any_step_of_a_collection_leaves_no_trace() {
    check_any_power_cut(images);
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
    let (base, db, model) = with_little_garbage();
    db.close().unwrap();
    let faults =
        [Fault::Io, Fault::IoAfter, Fault::NoSpace, Fault::ShortWrite, Fault::LoseUnsynced];
    check_any_failure(&base, &model, &faults);
}

/// A store that was brought to rest while an operation on the manifest failed, if it came to that.
fn brought_to_rest(plan: FaultPlan) -> (Arc<MemFs>, Db, Contents, bool) {
    let inner = Arc::new(MemFs::new());
    let fs = FaultFs::new(inner.clone());
    let db = manual().open_in(Arc::new(fs.clone()), PATH).unwrap();
    let mut model = Contents::new();
    (0..40).for_each(|i| put(&db, &mut model, i, 0));
    while db.step(Step::PrepareLog).unwrap() {}
    let armed = fs.arm(plan.path(kvdb_manifest::FILE_NAME));
    while let Ok(true) = db.step(Step::Rest) {}
    armed.disarm();
    (inner, db, model, armed.fired() > 0)
}

#[test]
fn rule_48_a_step_towards_rest_that_the_manifest_refuses_leaves_a_log_to_go_on_with() {
    for nth in 0.. {
        let full = FaultPlan::new(Fault::NoSpace).on(&[Op::Write]);
        let (inner, db, mut model, fired) = brought_to_rest(full.after(nth));
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
        let unsynced = FaultPlan::new(Fault::Io).on(&[Op::SyncData]);
        let (inner, db, mut model, fired) = brought_to_rest(unsynced.after(nth));
        // As far as there is room; then it is refused.
        let refused = (40..240).find(|i| match db.put(key(*i), value(*i, SIZE)) {
            Ok(_) => model.insert(key(*i), value(*i, SIZE)).is_some(),
            Err(_) => true,
        });
        assert_eq!(refused.is_some(), fired, "sync {nth}");
        for image in [inner.process_image(), inner.crash_image(&mut Keep::All)] {
            let after = open(&manual(), &Arc::new(image)).unwrap_or_else(|e| panic!("{nth}: {e}"));
            let mut found = now(&after);
            // It failed, and may be there.
            refused.iter().for_each(|i| _ = found.remove(&key(*i)));
            assert!(found == model, "sync {nth}");
        }
        if !fired {
            assert!(nth > 2, "{nth}");
            break;
        }
    }
}

#[test]
fn nothing_is_copied_that_the_manifest_cannot_take_any_more() {
    let (_, fs, db, model) = with_faults(&manual());
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
