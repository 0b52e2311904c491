//! Collections on a disk that is full.

use std::ops::ControlFlow;
use std::sync::Arc;

use kvdb::vfs::{Fault, FaultFs, FaultPlan, Fs, Op};
use kvdb::{ErrorKind, GcOptions, GcStage, Step};

use crate::common::{PATH, manual};
use crate::support::{delete, log_files, names, now, put, with_faults, with_garbage};

#[test]
fn a_full_disk_is_a_clean_refusal_or_a_smaller_collection() {
    let (inner, fs, db, model) = with_faults(&manual());
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

/// Each try is known by the bytes that it writes in vain.
#[test]
fn on_a_full_disk_little_is_written_in_vain() {
    // Where a file fits, its table does not, however small: less and less is tried.
    for (room, most) in [(0, 1), (1, 4)] {
        let (inner, fs, db, model) = with_faults(&manual());
        let before = names(&inner);
        let full = FaultPlan::new(Fault::NoSpace).on(&[Op::Write]).path(".vrel");
        let full = fs.arm(full.forever());
        let first = FaultPlan::new(Fault::NoSpace).on(&[Op::Write]).path(".vrec");
        let first = fs.arm(first.after(room).forever());
        let mut chosen = Vec::new();
        let error = db.gc_with(&GcOptions::default(), |stage, bytes| {
            match stage {
                GcStage::Chosen => chosen.push(0),
                _ => *chosen.last_mut().unwrap() += bytes,
            }
            ControlFlow::Continue(())
        });
        assert_eq!(error.unwrap_err().kind(), ErrorKind::NoSpace);
        assert!(chosen.len() <= most && chosen.iter().sum::<u64>() <= 4 << 20, "{chosen:?}");
        assert_eq!(names(&inner), before);
        first.disarm();
        full.disarm();
        assert!(now(&db) == model);
    }
}

/// That the memtable cannot be flushed is no reason not to make the room that it needs.
#[test]
fn what_makes_room_is_not_kept_from_it_by_what_needs_room() {
    let (inner, fs, db, mut model) = with_faults(&manual());
    put(&db, &mut model, 1, 5);
    let before = log_files(&inner);
    let full = fs.arm(FaultPlan::new(Fault::NoSpace).on(&[Op::Write]).path(".sst").forever());
    let error = loop {
        match db.step(Step::Rest) {
            Ok(more) => assert!(more, "it cannot come to rest"),
            Err(error) => break error,
        }
    };
    assert_eq!(error.kind(), ErrorKind::NoSpace, "{error}");
    assert!(full.fired() > 0 && db.stats().gc.collections > 0);
    assert!(log_files(&inner) < before / 3 * 2, "{} of {before}", log_files(&inner));
    assert!(now(&db) == model);
    full.disarm();
    db.close().unwrap();
    let db = manual().open_in(inner as Arc<dyn Fs>, PATH).unwrap();
    assert!(now(&db) == model);
}
