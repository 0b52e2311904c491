//! I/O errors at every step of flush and compaction (SEMANTICS 48, 53): inputs stay, outputs go,
//! nothing flushed is lost, and opening again clears the failure.

#![allow(clippy::unwrap_used)]

mod common;

use std::sync::Arc;
use std::time::{Duration, Instant};

use common::*;
use kvdb_lsm::*;
use kvdb_vfs::{Fault, FaultFs, FaultPlan, MemFs, Op};

fn fill(tree: &Tree<NoCompanion>, version: u64) {
    for k in 0..150u64 {
        let key = (k * 7 % 150).to_be_bytes();
        tree.write(version, &[(&key, Entry::value(&version.to_be_bytes()))]).unwrap();
    }
}

fn check(tree: &Tree<NoCompanion>, version: u64) {
    for k in 0..150u64 {
        let got = tree.get(&k.to_be_bytes(), u64::MAX, 0).unwrap().unwrap();
        assert_eq!(got, version.to_be_bytes(), "key {k}");
    }
}

/// Three tables on level 0, and older ones below.
fn prepared() -> (FaultFs, Store) {
    let fs = FaultFs::new(Arc::new(MemFs::new()));
    let store = Store::over(Arc::new(fs.clone()));
    let tree = store.open(small());
    for version in 1..=4 {
        fill(&tree, version);
        tree.flush().unwrap();
    }
    tree.wait_idle().unwrap();
    for version in 5..=7 {
        fill(&tree, version);
        tree.flush().unwrap();
    }
    drop(tree);
    (fs, store)
}

const FAULTS: [Fault; 3] = [Fault::Io, Fault::NoSpace, Fault::ShortWrite];

/// Which operations fail, and how many a compaction does of them at least.
const STEPS: [(&[Op], &str, u64); 3] = [
    // Creating, writing and syncing outputs.
    (FaultPlan::MUTATING, ".sst", 3),
    // Opening and reading inputs.
    (&[Op::Open, Op::Read, Op::Len, Op::Map], ".sst", 3),
    // Syncing the directory, before the manifest hears of the outputs.
    (&[Op::SyncDir], "db", 1),
];

#[test]
fn a_compaction_that_fails_at_any_step_leaves_its_inputs_and_removes_its_outputs() {
    fail_at_any_step(&small());
}

#[test]
fn a_part_of_a_compaction_that_fails_takes_the_outputs_of_the_others_along() {
    let parts = Options { min_split_bytes: 1, ..small() };
    let (_, store) = prepared();
    let tree = store.open(parts.clone());
    assert!(tree.step(Job::Compact).unwrap());
    let counts = tree.superversion().table_counts();
    assert_eq!(counts.iter().sum::<usize>(), 2, "a table of each part: {counts:?}");
    fail_at_any_step(&parts);
}

fn fail_at_any_step(options: &Options) {
    for (ops, path, least) in STEPS {
        for fault in FAULTS {
            let mut failures = 0;
            for n in 0.. {
                let (fs, store) = prepared();
                let plan = FaultPlan::new(fault).on(ops).path(path).after(n);
                match fail_compaction(&fs, &store, options, fault, plan) {
                    Outcome::Failed => failures += 1,
                    Outcome::NotNeeded => {}
                    Outcome::NotReached => break,
                }
            }
            let possible = fault != Fault::ShortWrite || ops.contains(&Op::Write);
            assert!(failures >= least || !possible, "{failures} failures of {ops:?}, {fault:?}");
        }
    }
}

enum Outcome {
    Failed,
    /// What failed was only a look ahead.
    NotNeeded,
    NotReached,
}

fn fail_compaction(
    fs: &FaultFs,
    store: &Store,
    options: &Options,
    fault: Fault,
    plan: FaultPlan,
) -> Outcome {
    // By positioned reads, so that every block is an operation.
    let reads = Reads::Positioned { block_cache_bytes: 64 << 10 };
    let options = Options { reads, ..options.clone() };
    let tree = store.open(options.clone());
    tree.companion().raise_floor(Floor { discard: 7, clock: 0 });
    let before = tree.superversion().shape();
    let what = format!("{plan:?}");
    let plan = fs.arm(plan);
    let result = tree.step(Job::Compact);
    fs.disarm();
    let error = match result {
        Ok(done) => {
            assert!(done);
            check(&tree, 7);
            return if plan.fired() == 0 { Outcome::NotReached } else { Outcome::NotNeeded };
        }
        Err(error) => error,
    };
    // A short write is what a disk does that runs full.
    assert_eq!(error.is_transient(), fault != Fault::Io, "{error}");
    assert_eq!(tree.superversion().shape(), before, "{what}");
    let tables: usize = tree.superversion().table_counts().iter().sum();
    assert_eq!(store.table_files().len(), tables, "no output is left behind");
    check(&tree, 7);
    let health = tree.health().unwrap();
    match error.is_transient() {
        true => {
            assert!(tree.step(Job::Compact).unwrap(), "tried again");
            assert!(tree.health().is_none(), "and forgotten");
        }
        false => {
            let refused = tree.write(8, &[(b"k", Entry::tombstone())]).unwrap_err();
            assert_eq!(refused.to_string(), health.to_string());
            drop(tree);
            let tree = store.open(options);
            assert!(tree.health().is_none(), "opening again clears it");
            check(&tree, 7);
            assert!(tree.step(Job::Compact).unwrap());
        }
    }
    Outcome::Failed
}

/// Tables of the last level, each by itself: what was rewritten before one failed stays so.
#[test]
fn a_rewrite_in_place_that_fails_at_any_step_leaves_what_it_had_not_done() {
    for (ops, path, _) in STEPS {
        for fault in FAULTS {
            let mut failures = 0;
            for n in 0.. {
                let (fs, store) = prepared();
                let reads = Reads::Positioned { block_cache_bytes: 64 << 10 };
                let tree = store.open(Options { reads, ..small() });
                // With all versions first; then it has something to drop.
                tree.major_compact().unwrap();
                let before = tree.superversion().table_counts();
                assert_eq!(before[..4].iter().sum::<usize>(), 0, "{before:?}");
                tree.companion().raise_floor(Floor { discard: 7, clock: 0 });
                let plan = fs.arm(FaultPlan::new(fault).on(ops).path(path).after(n));
                let result = tree.major_compact();
                fs.disarm();
                let tables: usize = tree.superversion().table_counts().iter().sum();
                // The old ones go once no pin, of whatever test, holds them back.
                let deadline = Instant::now() + Duration::from_secs(10);
                while store.table_files().len() > tables && Instant::now() < deadline {
                    tree.step(Job::Reclaim).unwrap();
                }
                assert_eq!(store.table_files().len(), tables, "{ops:?} {n}: {result:?}");
                check(&tree, 7);
                tree.verify().unwrap();
                failures += u64::from(result.is_err());
                if plan.fired() == 0 {
                    result.unwrap();
                    break;
                }
            }
            let possible = fault != Fault::ShortWrite || ops.contains(&Op::Write);
            assert!(failures > 0 || !possible, "{ops:?}, {fault:?}");
        }
    }
}

#[test]
fn a_flush_that_fails_keeps_the_memtable_and_leaves_no_file() {
    for fault in FAULTS {
        for n in 0.. {
            let (fs, store) = prepared();
            let tree = store.open(small());
            fill(&tree, 8);
            let files = store.table_files();
            let plan = fs.arm(FaultPlan::new(fault).on(FaultPlan::MUTATING).path(".sst").after(n));
            let result = tree.flush();
            fs.disarm();
            if plan.fired() == 0 {
                result.unwrap();
                break;
            }
            assert!(result.is_err());
            assert_eq!(store.table_files(), files);
            check(&tree, 8);
        }
    }
}

#[test]
fn a_flush_by_hand_is_tried_again_whatever_became_of_the_one_before() {
    let (fs, store) = prepared();
    let tree = store.open(small());
    let top = || tree.superversion().table_counts()[0];
    let tables = top();
    tree.write(1000, &[(b"k", Entry::value(b"v"))]).unwrap();
    let full = FaultPlan::new(Fault::NoSpace).on(&[Op::Write]).path(".sst").forever();
    let full = fs.arm(full);
    tree.rotate().unwrap();
    tree.step(Job::Flush).unwrap_err();
    let fired = full.fired();
    tree.flush().unwrap_err();
    assert!(full.fired() > fired, "the failure is the new one's");
    full.disarm();
    tree.flush().unwrap();
    assert!(tree.health().is_none());
    assert_eq!(top(), tables + 1);
}

#[test]
fn after_a_failed_append_to_the_manifest_outputs_are_left_to_reopening() {
    for site in [Op::Write, Op::SyncData] {
        let (fs, store) = prepared();
        let tree = store.open(small());
        fs.arm(FaultPlan::new(Fault::Io).on(&[site]).path("MANIFEST").forever());
        tree.step(Job::Compact).unwrap_err();
        check(&tree, 7);
        drop(tree);
        fs.disarm();
        let tree = store.open(small());
        tree.verify().unwrap();
        check(&tree, 7);
        let tables: usize = tree.superversion().table_counts().iter().sum();
        assert_eq!(store.table_files().len(), tables);
    }
}

#[test]
fn a_missing_or_truncated_table_is_named_at_open() {
    let (_, store) = prepared();
    let files = store.table_files();
    let id = files[0];
    let path = store.dir.join(table_file_name(id));
    let file = store.fs.open(&path, kvdb_vfs::OpenMode::ReadWrite).unwrap();
    let len = file.len().unwrap();
    file.set_len(len - 1).unwrap();
    let error = store.try_open(small()).unwrap_err();
    assert!(matches!(&error, Error::TableSize { path: p, .. } if *p == path), "{error}");
    store.fs.remove(&path).unwrap();
    let error = store.try_open(small()).unwrap_err();
    assert!(matches!(&error, Error::MissingTable { path: p } if *p == path), "{error}");
    assert_eq!(store.table_files(), files[1..], "nothing was deleted");
}

#[test]
fn a_writer_that_waits_for_level_0_is_told_that_the_compaction_fails_and_may_try_again() {
    let fs = FaultFs::new(Arc::new(MemFs::new()));
    let store = Store::over(Arc::new(fs.clone()));
    let options = Options { l0_slowdown_trigger: 3, l0_stop_trigger: 4, ..small() };
    let tree = store.open(options.clone());
    for version in 1..=4 {
        fill(&tree, version);
        tree.flush().unwrap();
    }
    drop(tree);
    let full = fs.arm(FaultPlan::new(Fault::NoSpace).on(&[Op::Write]).path(".sst").forever());
    let tree = store.open(Options { background: Background::Threads, ..options });
    let until = Instant::now() + Duration::from_secs(20);
    let write = || {
        let writer = std::thread::spawn({
            let tree = tree.clone();
            move || tree.write(5, &[(b"k", Entry::value(b"v"))])
        });
        while !writer.is_finished() {
            if Instant::now() > until {
                tree.close(); // which ends the wait
            }
            std::thread::yield_now();
        }
        writer.join().unwrap()
    };
    let error = write().unwrap_err();
    assert!(matches!(&error, Error::Background { job: "compaction", .. }), "{error}");
    assert!(error.is_transient() && full.fired() > 0, "{error}");
    full.disarm();
    while let Err(error) = write() {
        assert!(matches!(&error, Error::Background { job: "compaction", .. }), "{error}");
    }
    // Forgotten a moment after it has been installed, which is what writers wait for.
    while tree.health().is_some() {
        assert!(Instant::now() < until);
        std::thread::yield_now();
    }
    assert_eq!(tree.get(b"k", 5, 0).unwrap().unwrap(), b"v");
}
