//! SEMANTICS rule 48: any operation of the file system fails, once or from then on, and nothing
//! that was acknowledged is lost, nothing refused comes back, nothing panics or hangs.
//!
//! One small workload is run once to count its operations, and then again and again with one of
//! them failing. It goes on after errors as a program would. Then the store is opened again as the
//! death of the process and as a power cut at that moment would leave it.
#![allow(clippy::unwrap_used, clippy::print_stdout, clippy::print_stderr)] // a test may panic and print

mod common;

use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::Duration;

use common::{PATH, manual, open, scale, tiny, value};
use kvdb::vfs::{Fault, FaultFs, FaultPlan, Fs, Keep, MemFs, Op, OpenMode};
use kvdb::{Db, Durability, Error, ErrorKind, GcOptions, Health, Options, Step};

/// What the caller was told about a commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Told {
    Durable,
    Buffered,
    Refused,
    Unknown,
}

fn small(number: usize) -> String {
    format!("small/{number:03}")
}

fn large(number: usize) -> String {
    format!("large/{number:03}")
}

fn large_value(number: usize) -> Vec<u8> {
    value(number as u64, 400 + 9000 * (number % 5))
}

fn commit(db: &Db, number: usize) -> Told {
    let durability = if number % 3 == 2 { Durability::Buffered } else { Durability::Sync };
    let mut batch = db.batch();
    batch.put(small(number), number.to_string()).unwrap();
    batch.put(large(number), large_value(number)).unwrap();
    batch.put("number", number.to_string()).unwrap();
    batch.put("garbage", large_value(number)).unwrap();
    match batch.commit_with(durability) {
        Ok(_) if durability == Durability::Sync => Told::Durable,
        Ok(_) => Told::Buffered,
        Err(Error::OutcomeUnknown(_)) => Told::Unknown,
        Err(_) => Told::Refused,
    }
}

/// Opens (again, if closing is part of it), commits, and does all kinds of background work, garbage
/// collection of values among it. Errors
/// are part of the game. Returns what was told of each commit.
fn workload(options: &Options, fs: &FaultFs) -> Vec<Told> {
    let mut told = Vec::new();
    for _life in 0..2 {
        let Ok(db) = options.open_in(Arc::new(fs.clone()), PATH) else { continue };
        for i in 0..24 {
            told.push(commit(&db, told.len()));
            let _ = match i % 8 {
                0 if i > 0 => db.gc(&GcOptions::full()).map(drop),
                1 => db.step(Step::PrepareLog).map(drop),
                3 => db.step(Step::SyncLog).map(drop),
                4 => db.flush(),
                6 => db.step(Step::Compact).map(drop),
                7 => db.step(Step::Reclaim).map(drop),
                _ => Ok(()),
            };
            if let Some(Told::Durable) = told.last() {
                // Reading works, whatever fails to be written, unless it is the read that fails.
                let _ = db.get(large(told.len() - 1));
            }
        }
        let _ = db.compact();
        let _ = db.step(Step::Collect);
        let _ = db.step(Step::Rest);
        let _ = db.close();
    }
    told
}

/// Opens what is left and compares it with what was told.
fn check(options: &Options, image: MemFs, told: &[Told], power_cut: bool, what: &str) {
    let image = Arc::new(image);
    let db = open(options, &image).unwrap_or_else(|e| panic!("{what}: does not open: {e}"));
    let mut newest = None;
    let mut missing_before = None;
    for (number, &told) in told.iter().enumerate() {
        let there = db.get(small(number)).unwrap();
        let also = db.get(large(number)).unwrap();
        assert_eq!(there.is_some(), also.is_some(), "{what}: commit {number} in part ({told:?})");
        if let Some(value) = also {
            assert!(value == large_value(number), "{what}: value of commit {number}");
        }
        match (told, there.is_some()) {
            (Told::Durable, false) => panic!("{what}: commit {number} is lost: {told:?}"),
            (Told::Buffered, false) if !power_cut => panic!("{what}: commit {number} is lost"),
            (Told::Refused, true) => panic!("{what}: commit {number} was refused and is there"),
            (Told::Buffered, false) => missing_before = Some(number),
            (_, true) => {
                assert_eq!(missing_before, None, "{what}: {number} is there: no prefix");
                newest = Some(number.to_string());
            }
            _ => {}
        }
    }
    let shown = db.get("number").unwrap();
    assert_eq!(shown.as_deref(), newest.as_deref().map(str::as_bytes), "{what}: last commit");
    let garbage = db.get("garbage").unwrap();
    let expected = newest.as_deref().map(|n| large_value(n.parse().unwrap()));
    assert!(garbage.as_deref() == expected.as_deref(), "{what}: what overwrote the garbage");
    // It works again.
    db.put("again", value(1, 5000)).unwrap_or_else(|e| panic!("{what}: {e}"));
    db.compact().unwrap_or_else(|e| panic!("{what}: {e}"));
    db.verify().unwrap_or_else(|e| panic!("{what}: does not verify: {e}"));
    db.close().unwrap_or_else(|e| panic!("{what}: {e}"));
}

/// Runs `cases` on a thread of their own; one that takes a minute hangs.
fn watched(cases: impl FnOnce(&dyn Fn(&str)) + Send + 'static) {
    let (report, reports) = channel::<String>();
    let thread = std::thread::spawn(move || cases(&|what| drop(report.send(what.to_owned()))));
    let mut last = String::new();
    loop {
        match reports.recv_timeout(Duration::from_secs(60)) {
            Ok(what) => last = what,
            Err(RecvTimeoutError::Timeout) => panic!("hangs: {last}"),
            Err(RecvTimeoutError::Disconnected) => break,
        }
    }
    if let Err(panic) = thread.join() {
        eprintln!("in {last}");
        std::panic::resume_unwind(panic);
    }
}

fn every_operation_fails(options: Options, faults: &'static [Fault], forever: bool, stride: u64) {
    watched(move |now| {
        let mut cases = 0;
        for (f, &fault) in faults.iter().enumerate() {
            let counter_fs = FaultFs::new(Arc::new(MemFs::new()));
            let counter = counter_fs.arm(FaultPlan::count());
            let told = workload(&options, &counter_fs);
            assert!(told.iter().all(|t| matches!(t, Told::Durable | Told::Buffered)));
            let stride = (stride / scale()).max(1);
            for n in (f as u64 % stride..counter.seen()).step_by(stride as usize) {
                let inner = Arc::new(MemFs::new());
                let fs = FaultFs::new(inner.clone());
                let plan = FaultPlan::new(fault).after(n);
                let armed = fs.arm(if forever { plan.forever() } else { plan });
                let what = format!("{fault:?} at operation {n}, for ever: {forever}");
                now(&what);
                let told = workload(&options, &fs);
                if armed.fired() == 0 {
                    break;
                }
                cases += 1;
                let policy = &mut Keep::Random(n);
                check(
                    &options,
                    inner.crash_image(policy),
                    &told,
                    true,
                    &format!("{what}, power cut"),
                );
                check(
                    &options,
                    inner.crash_image(&mut Keep::None),
                    &told,
                    true,
                    &format!("{what}, all lost"),
                );
                check(&options, inner.process_image(), &told, false, &what);
            }
        }
        println!("{cases} cases");
        assert!(cases > 20);
    });
}

const ALL: &[Fault] =
    &[Fault::Io, Fault::IoAfter, Fault::NoSpace, Fault::ShortWrite, Fault::LoseUnsynced];

#[test]
fn rule_48_any_operation_may_fail_once() {
    every_operation_fails(manual(), ALL, false, 8);
}

#[test]
fn rule_48_any_operation_and_all_after_it_may_fail() {
    every_operation_fails(manual().value_threshold(4000), ALL, true, 8);
}

/// With threads the count of operations differs from run to run, so this is a sample. What it is
/// for: whoever waits for a thread that has met an error is woken.
#[test]
fn rule_48_any_operation_may_fail_under_background_threads() {
    every_operation_fails(tiny(), &[Fault::Io, Fault::NoSpace], false, 24);
    every_operation_fails(tiny().flush_on_close(true), &[Fault::Io, Fault::NoSpace], true, 24);
}

#[test]
fn rule_48_a_full_disk_refuses_puts_poisons_nothing_and_still_takes_deletes() {
    let inner = Arc::new(MemFs::new());
    let fs = FaultFs::new(inner.clone());
    let db = manual().open_in(Arc::new(fs.clone()), PATH).unwrap();
    let full = fs.arm(FaultPlan::new(Fault::NoSpace).on(&[Op::Allocate]).path(".vlog").forever());
    let mut written = 0u64;
    let error = loop {
        match db.put(written.to_be_bytes(), value(written, 50_000)) {
            Ok(_) => written += 1,
            Err(error) => break error,
        }
    };
    assert_eq!(error.kind(), ErrorKind::NoSpace, "{error}");
    assert_eq!(db.health(), Health::Good);
    // What is kept is for deletes, single and in batches; a put is still refused.
    db.delete(0u64.to_be_bytes()).unwrap();
    let mut batch = db.batch();
    batch.delete(1u64.to_be_bytes()).unwrap();
    batch.delete(2u64.to_be_bytes()).unwrap();
    batch.commit().unwrap();
    assert_eq!(db.put("small", "").unwrap_err().kind(), ErrorKind::NoSpace);
    db.flush().unwrap();
    full.disarm();
    db.put("small", "").unwrap();
    db.close().unwrap();
    let db = open(&manual(), &inner).unwrap();
    assert_eq!(db.iter().unwrap().count() as u64, written - 3 + 1);
}

#[test]
fn rule_48_a_segment_that_the_manifest_refuses_to_name_leaves_no_file() {
    // A refusal, and one of unknown outcome, after which the manifest refuses everything.
    for (fault, op) in [(Fault::NoSpace, Op::Write), (Fault::Io, Op::SyncData)] {
        let inner = Arc::new(MemFs::new());
        let fs = FaultFs::new(inner.clone());
        let db = manual().open_in(Arc::new(fs.clone()), PATH).unwrap();
        let segments = || {
            let names = inner.list(PATH.as_ref()).unwrap().into_iter().map(|e| e.name);
            names.filter(|n| n.extension().is_some_and(|e| e == "vlog")).count()
        };
        let mut written = 0u64;
        let mut put = || {
            written += 1;
            db.put(written.to_be_bytes(), value(written, 50_000))
        };
        while !db.step(Step::PrepareLog).unwrap() {
            put().unwrap();
        }
        let before = segments();
        let refused = fs.arm(FaultPlan::new(fault).on(&[op]).path("MANIFEST").forever());
        let made = fs.arm(FaultPlan::count().on(&[Op::Allocate]).path(".vlog"));
        while put().is_ok() {}
        for _ in 0..10 {
            db.step(Step::PrepareLog).unwrap_err();
            put().unwrap_err();
        }
        assert!(refused.fired() > 0);
        // The one that may be named stays, and no other is made.
        let unknown = op == Op::SyncData;
        assert_eq!(segments(), before + usize::from(unknown), "{fault:?}");
        assert_eq!(made.seen() == 1, unknown, "{fault:?}: {} made", made.seen());
        refused.disarm();
        drop(db);
        let db = open(&manual(), &Arc::new(inner.process_image())).unwrap();
        assert!(db.iter().unwrap().count() > 10);
    }
}

#[test]
fn rule_48_an_opening_that_finds_the_disk_full_frees_what_it_can_and_leaves_nothing() {
    let fs = Arc::new(MemFs::new());
    let db = open(&manual(), &fs).unwrap();
    for i in 0..40u64 {
        db.put(i.to_be_bytes(), value(i, 5000)).unwrap();
    }
    let image = Arc::new(fs.process_image());
    // What a collection was about to write when the process ended.
    let leftover = std::path::Path::new(PATH).join("999990.vrec");
    let file = image.open(&leftover, OpenMode::CreateNew).unwrap();
    file.write_all_at(&[1; 100_000], 0).unwrap();
    let files = || image.list(PATH.as_ref()).unwrap().len();
    let before = files();
    for _ in 0..3 {
        let full = FaultFs::new(image.clone());
        full.arm(FaultPlan::new(Fault::NoSpace).on(&[Op::Write]).path(".sst").forever());
        let error = manual().open_in(Arc::new(full), PATH).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NoSpace, "{error}");
        assert_eq!(files(), before - 1);
        assert!(image.metadata(&leftover).is_err());
    }
    let db = open(&manual(), &image).unwrap();
    assert_eq!(db.iter().unwrap().count(), 40);
    db.verify().unwrap();
}
