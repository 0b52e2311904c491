//! Collections that end before they are through, and those that wait for each other.

use std::ops::ControlFlow;

use kvdb::{Error, GcOptions, GcStage, Step};

use crate::common::{manual, open};
use crate::support::{FEW, LOG, check_image, names, now, put, with_extension, with_garbage};

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

/// Each time that something was collected there is as much again.
#[test]
fn a_collection_on_demand_ends_however_much_is_written_meanwhile() {
    for gc in [GcOptions::default(), GcOptions::full()] {
        let (_fs, db, mut model) = with_garbage();
        let mut collections = 0;
        let report = db.gc_with(&gc, |stage, _| {
            if stage == GcStage::Removed {
                collections += 1;
                (0..2 * FEW).for_each(|i| put(&db, &mut model, i % FEW, collections));
                db.compact().unwrap();
                while db.step(Step::PrepareLog).unwrap() {}
            }
            match collections < 20 {
                true => ControlFlow::Continue(()),
                false => ControlFlow::Break(()),
            }
        });
        assert!(report.is_ok_and(|report| report.collections > 0), "{gc:?}: {collections}");
        assert!(now(&db) == model);
        assert!(db.gc(&gc).unwrap().collections > 0, "the next one has it");
    }
}

#[test]
fn a_collection_ends_when_the_database_is_closed() {
    for closed_at in [GcStage::Copying, GcStage::Copied] {
        let (fs, db, mut model) = with_garbage();
        // Five batches.
        (0..5 * FEW).for_each(|i| put(&db, &mut model, i, 2));
        db.compact().unwrap();
        while db.step(Step::PrepareLog).unwrap() {}
        db.step(Step::FreeSegments).unwrap();
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
