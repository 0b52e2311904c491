//! How flushes and the log depend on each other: where replay may start, what a poisoned log
//! forbids, and that every segment that was left gets sealed.
#![allow(clippy::unwrap_used)] // a test may panic

mod common;

use std::sync::Arc;

use common::{PATH, manual, open, value};
use kvdb::vfs::{Fault, FaultFs, FaultPlan, Keep, MemFs, Op};
use kvdb::{Durability, Error, Step};

/// The head moves when a memtable is flushed, while the first frame of the next one may lie in a
/// new segment and be neither written nor durable.
#[test]
fn rule_45_the_replay_head_never_passes_what_is_durable() {
    // Values this large have a memtable each, and a segment takes ten of them.
    let options = manual().value_threshold(1 << 30);
    let fs = Arc::new(MemFs::new());
    let db = open(&options, &fs).unwrap();
    for i in 0..30u64 {
        let durability = if i % 2 == 0 { Durability::Sync } else { Durability::Buffered };
        let mut batch = db.batch();
        batch.put(format!("{i:02}"), value(i, 90_000 + 1000 * i as usize)).unwrap();
        batch.commit_with(durability).unwrap();
        while db.step(Step::Flush).unwrap() {}
        let image = Arc::new(fs.crash_image(&mut Keep::None));
        let after = open(&options, &image).unwrap_or_else(|e| panic!("after commit {i}: {e}"));
        for j in 0..=i - i % 2 {
            assert!(after.contains(format!("{j:02}")).unwrap(), "{j} is lost after commit {i}");
        }
    }
}

#[test]
fn a_poisoned_log_installs_no_flush_and_loses_nothing() {
    for flush_on_close in [false, true] {
        for fault in [Fault::Io, Fault::IoAfter, Fault::ShortWrite] {
            let what = format!("{fault:?}, flush_on_close: {flush_on_close}");
            let options = manual().flush_on_close(flush_on_close);
            let inner = Arc::new(MemFs::new());
            let fs = FaultFs::new(inner.clone());
            let db = options.open_in(Arc::new(fs.clone()), PATH).unwrap();
            for i in 0..3u64 {
                db.put(format!("{i}"), value(i, 1000)).unwrap();
            }
            fs.arm(FaultPlan::new(fault).on(&[Op::Write]).path(".vlog"));
            let error = db.put("failed", value(9, 1000)).unwrap_err();
            assert!(matches!(error, Error::OutcomeUnknown(_)), "{what}: {error}");
            let error = db.put("later", "").unwrap_err();
            assert!(matches!(error, Error::Poisoned(_)), "{what}: {error}");
            assert!(db.flush().is_err(), "{what}: a flush of frames that are not in the log");
            assert_eq!(db.get("2").unwrap().unwrap(), value(2, 1000), "reading goes on");
            assert!(!db.contains("failed").unwrap());
            assert!(db.close().is_err(), "{what}: closed as if nothing had happened");
            let db = open(&options, &inner).unwrap_or_else(|e| panic!("{what}: {e}"));
            for i in 0..3u64 {
                assert_eq!(db.get(format!("{i}")).unwrap().unwrap(), value(i, 1000), "{what}");
            }
            assert!(!db.contains("later").unwrap());
            db.verify().unwrap();
        }
    }
}

/// Without this, a segment whose sealing nobody recorded before the head had passed it would
/// never be known to hold garbage.
#[test]
fn rule_42_segments_left_before_the_head_are_sealed_after_reopening() {
    for clean in [true, false] {
        let options = manual();
        let fs = Arc::new(MemFs::new());
        let db = open(&options, &fs).unwrap();
        for i in 0..8u64 {
            db.put(format!("{i}"), value(i, 300_000)).unwrap();
        }
        db.flush().unwrap();
        let fs = match clean {
            true => {
                db.close().unwrap();
                fs
            }
            false => Arc::new(fs.process_image()),
        };
        let db = open(&options, &fs).unwrap();
        while db.step(Step::PrepareLog).unwrap() {}
        let segments = db.stats().segments;
        let head = segments.iter().filter(|s| s.before_replay_head).count();
        assert!(head >= 2, "the workload leaves segments behind: {segments:?}");
        for segment in segments.iter().filter(|s| s.before_replay_head) {
            assert!(segment.sealed_bytes.is_some(), "clean: {clean}, never sealed: {segment:?}");
            assert!(segment.live_bytes < segment.sealed_bytes.unwrap());
        }
        db.verify().unwrap();
    }
}
