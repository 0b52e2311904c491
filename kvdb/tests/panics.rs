//! Panics in code of the user that the database calls: they concern the call they happen in, and nobody
//! else; in the background they stop writing, with their message (SEMANTICS, rules 16, 38, 50).
#![allow(clippy::unwrap_used)] // a test may panic

mod common;

use std::ops::ControlFlow;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use common::{PATH, contents, manual, tiny, value};
use kvdb::vfs::{Fs, Keep, MemFs, Op};
use kvdb::{
    Db, Durability, Error, ErrorKind, GcOptions, GcStage, Health, Item, MergeOperator, Options,
    Result,
};

/// An operator that appends, and panics while it is told to.
fn fragile() -> (MergeOperator, Arc<AtomicBool>) {
    let panics = Arc::new(AtomicBool::new(false));
    let told = panics.clone();
    let operator = MergeOperator::new(move |_, older, newer| {
        assert!(!told.load(Ordering::SeqCst), "a fragile operator");
        [older, newer].concat()
    });
    (operator, panics)
}

fn panics<R>(f: impl FnOnce() -> R) -> String {
    let panic = catch_unwind(AssertUnwindSafe(f)).map(drop).unwrap_err();
    panic
        .downcast_ref::<&str>()
        .map_or_else(|| panic.downcast_ref::<String>().unwrap().clone(), |text| (*text).to_owned())
}

fn open(options: &Options, operator: MergeOperator, fs: &Arc<MemFs>) -> Db {
    let options = options.clone().durability(Durability::Buffered).merge_operator(operator);
    options.open_in(fs.clone() as Arc<dyn Fs>, PATH).unwrap()
}

#[test]
fn rule_38_an_operator_that_panics_in_a_read_or_a_write_breaks_off_that_call_alone() {
    let fs = Arc::new(MemFs::new());
    let (operator, breaks) = fragile();
    let db = open(&manual(), operator, &fs);
    db.put("k", "a").unwrap();
    db.merge("k", "b").unwrap();
    db.put("l", "v").unwrap();
    let mut t = db.begin().unwrap();
    t.put("own", "x").unwrap();
    let mut batch = db.batch();
    batch.merge("both", "1").unwrap();
    let snapshot = db.snapshot().unwrap();

    breaks.store(true, Ordering::SeqCst);
    let reads: [&dyn Fn(); 8] = [
        &|| drop(db.get("k")),
        &|| drop(db.get_entry("k")),
        &|| drop(db.get_with("k", |value| value.len())),
        &|| drop(db.multi_get(["k"])),
        &|| drop(snapshot.get("k")),
        &|| drop(t.get("k")),
        &|| db.iter().unwrap().for_each(|item| drop(item.unwrap().value())),
        &|| db.iter().unwrap().rev().for_each(|item| drop(item.unwrap().value())),
    ];
    for read in reads {
        assert!(panics(read).contains("fragile"));
    }
    assert!(panics(|| t.merge("own", "y")).contains("fragile"));
    assert!(panics(|| batch.merge("both", "2")).contains("fragile"));
    let mut bulk = db.bulk_writer();
    bulk.put("bulk", "1").unwrap();
    assert!(panics(|| bulk.merge("bulk", "2")).contains("fragile"));
    // What needs no folding goes on, and writing does.
    assert_eq!(db.get("l").unwrap().unwrap(), "v");
    db.merge("k", "c").unwrap();

    breaks.store(false, Ordering::SeqCst);
    assert_eq!(db.health(), Health::Good);
    assert_eq!(db.get("k").unwrap().unwrap(), "abc");
    assert_eq!(snapshot.get("k").unwrap().unwrap(), "ab");
    // What was being written is as it was before the call.
    t.merge("own", "z").unwrap();
    t.commit().unwrap_err(); // it has read k, which was merged to meanwhile
    batch.merge("both", "3").unwrap();
    batch.commit().unwrap();
    bulk.finish().unwrap();
    assert_eq!(db.get("both").unwrap().unwrap(), "13");
    assert_eq!(db.get("bulk").unwrap().unwrap(), "1");
    assert!(db.get("own").unwrap().is_none());
    drop(snapshot);
    db.compact().unwrap();
    assert_eq!(db.get("k").unwrap().unwrap(), "abc");
    db.close().unwrap();
}

#[test]
fn rule_38_an_entry_whose_fold_panicked_is_still_the_iterator_s_next() {
    let fs = Arc::new(MemFs::new());
    let (operator, breaks) = fragile();
    let db = open(&manual(), operator, &fs);
    for key in ["a", "b", "c"] {
        db.put(key, "1").unwrap();
        db.merge(key, "2").unwrap();
    }
    // Steps whose fold panics, from the front or the back, then all that is left.
    let left = |iter: &mut dyn DoubleEndedIterator<Item = Result<Item>>, steps: &[bool], back| {
        for step in steps {
            breaks.store(true, Ordering::SeqCst);
            let fails = || if *step { iter.next_back() } else { iter.next() }.map(drop);
            assert!(panics(fails).contains("fragile"));
            breaks.store(false, Ordering::SeqCst);
        }
        let mut items = Vec::new();
        while let Some(item) = if back { iter.next_back() } else { iter.next() } {
            let item = item.unwrap();
            items.push((item.value().unwrap().into_vec(), item.into_key()));
        }
        let keys: Vec<u8> = items.iter().map(|(_, key)| key[0]).collect();
        (String::from_utf8(keys).unwrap(), items)
    };
    for steps in [&[false][..], &[true], &[false, false], &[true, false], &[false, true]] {
        for back in [false, true] {
            let sorted = |keys: &str| match back {
                true => keys.chars().rev().collect(),
                false => keys.to_owned(),
            };
            let (keys, items) = left(&mut db.iter().unwrap(), steps, back);
            assert_eq!(keys, sorted("abc"), "{steps:?}");
            assert!(items.iter().all(|(value, _)| value == b"12"), "{items:?}");
            let mut iter = db.iter().unwrap();
            iter.next().unwrap().unwrap();
            iter.next_back().unwrap().unwrap();
            assert_eq!(left(&mut iter, steps, back).0, "b", "{steps:?}");
            let versions = &mut db.snapshot().unwrap().versions();
            versions.seek_back("b");
            let steps: Vec<bool> = steps.iter().map(|_| false).collect();
            assert_eq!(left(versions, &steps, back).0, sorted("aabb"));
        }
    }
    // What one end could not give out the other may, and then it is given out.
    let mut iter = db.range("a".."b").unwrap();
    breaks.store(true, Ordering::SeqCst);
    panics(|| iter.next().map(drop));
    breaks.store(false, Ordering::SeqCst);
    assert_eq!(iter.next_back().unwrap().unwrap().key(), b"a");
    assert!(iter.next().is_none() && iter.next_back().is_none());
    db.close().unwrap();
}

#[test]
fn rule_50_an_operator_that_panics_in_the_background_stops_writing_and_loses_nothing() {
    for compaction in [false, true] {
        let fs = Arc::new(MemFs::new());
        let (operator, breaks) = fragile();
        let db = open(&tiny(), operator, &fs);
        db.put("k", "a").unwrap();
        db.merge("k", "b").unwrap();
        if compaction {
            // Folded when the tables meet.
            let hold = db.snapshot().unwrap();
            db.flush().unwrap();
            db.merge("k", "c").unwrap();
            db.flush().unwrap();
            drop(hold);
        } else {
            db.merge("k", "c").unwrap();
        }
        breaks.store(true, Ordering::SeqCst);
        let job = if compaction { db.compact() } else { db.flush() };
        let error = job.unwrap_err();
        assert!(error.to_string().contains("a fragile operator"), "{error}");
        assert_eq!(error.kind(), ErrorKind::Reopen);
        // A job of the background meets it as well, at the latest when all of them are waited for;
        // from then on writers are refused, if they were not before.
        let refused = (0..10_000u64).find_map(|i| db.put(i.to_be_bytes(), value(i, 400)).err());
        let failed = db.wait_idle().unwrap_err();
        assert!(failed.to_string().contains("a fragile operator"), "{failed}");
        let refused = refused.unwrap_or_else(|| db.put("l", "v").unwrap_err());
        assert!(refused.to_string().contains("a fragile operator"), "{refused}");
        assert_eq!(refused.kind(), ErrorKind::Reopen);
        assert!(matches!(db.health(), Health::Failing(why) if why.contains("a fragile operator")));
        breaks.store(false, Ordering::SeqCst);
        assert_eq!(db.get("k").unwrap().unwrap(), "abc", "reading goes on");
        let before = contents(&db.snapshot().unwrap());
        drop(db.close());
        for image in [fs.process_image(), fs.crash_image(&mut Keep::All)] {
            let db = open(&tiny(), fragile().0, &Arc::new(image));
            assert_eq!(contents(&db.snapshot().unwrap()), before);
            db.compact().unwrap();
            assert_eq!(contents(&db.snapshot().unwrap()), before);
            db.verify().unwrap();
        }
    }
}

#[test]
fn rule_16_a_closure_that_panics_discards_its_transaction() {
    let fs = Arc::new(MemFs::new());
    let db = open(&tiny(), fragile().0, &fs);
    db.put("k", "v").unwrap();
    let broken = |t: &mut kvdb::Transaction| -> kvdb::Result<()> {
        t.get("k")?;
        t.put("k", "w")?;
        let mut iter = t.iter();
        iter.next().unwrap()?;
        panic!("in update")
    };
    assert_eq!(panics(|| db.update(broken)), "in update");
    assert_eq!(panics(|| db.view(|_| -> kvdb::Result<()> { panic!("in view") })), "in view");
    assert_eq!(panics(|| db.get_with("k", |_| -> () { panic!("in place") })), "in place");
    assert_eq!(db.get("k").unwrap().unwrap(), "v");
    assert_eq!(db.stats().conflict_memory, 0, "its read mark is released");
    db.put("k", "x").unwrap();
    db.compact().unwrap();
    assert_eq!(db.get("k").unwrap().unwrap(), "x");
    db.close().unwrap();
}

#[test]
fn rule_41_a_collection_whose_watcher_panics_leaves_no_trace() {
    let fs = Arc::new(MemFs::new());
    let db = open(&manual(), fragile().0, &fs);
    for round in 0..2 {
        for i in 0..300u64 {
            db.put(i.to_be_bytes(), value(round << 32 | i, 5000)).unwrap();
        }
    }
    db.compact().unwrap();
    let before = contents(&db.snapshot().unwrap());
    let files = || fs.list(PATH.as_ref()).unwrap().len();
    for at in [GcStage::Chosen, GcStage::Copying, GcStage::Copied] {
        let there = files();
        let broken = |stage, _| -> ControlFlow<()> {
            assert!(stage != at, "a watcher");
            ControlFlow::Continue(())
        };
        assert_eq!(panics(|| db.gc_with(&GcOptions::full(), broken)), "a watcher");
        assert!(files() <= there, "{at:?}: {:?}", fs.list(PATH.as_ref()));
        assert_eq!(contents(&db.snapshot().unwrap()), before);
    }
    assert_eq!(db.health(), Health::Good);
    // Neither what is collected nor the gate is held any more.
    let report = db.gc(&GcOptions::full()).unwrap();
    assert!(report.bytes_reclaimed > 0, "{report:?}");
    assert_eq!(contents(&db.snapshot().unwrap()), before);
    db.put("k", "v").unwrap();
    db.close().unwrap();
    let db = open(&manual(), fragile().0, &fs);
    assert_eq!(db.iter().unwrap().count(), before.len() + 1);
    db.close().unwrap();
}

/// Panics at the next sync of the manifest once it is told to.
fn breaks_at_the_manifest(fs: &MemFs) -> Arc<AtomicBool> {
    let armed = Arc::new(AtomicBool::new(false));
    let told = armed.clone();
    fs.on_operation(move |_, op, path: &Path| {
        let manifest = op == Op::SyncData && path.ends_with(kvdb_manifest::FILE_NAME);
        assert!(!manifest || !told.swap(false, Ordering::SeqCst), "a fragile disk");
    });
    armed
}

/// The manifest may have the change set by then.
#[test]
fn what_a_change_set_names_stays_when_making_it_durable_panics() {
    let fs = Arc::new(MemFs::new());
    let db = manual().open_in(fs.clone(), PATH).unwrap();
    for i in 0..600u64 {
        db.put((i % 300).to_be_bytes(), value(i, 5000)).unwrap();
    }
    db.compact().unwrap();
    let before = contents(&db.snapshot().unwrap());
    let breaks = breaks_at_the_manifest(&fs);
    let outcome = db.gc_with(&GcOptions::full(), |stage, _| {
        breaks.store(stage == GcStage::Copied, Ordering::SeqCst);
        ControlFlow::Continue(())
    });
    let error = outcome.unwrap_err();
    assert!(error.to_string().contains("a fragile disk"), "{error}");
    let health = db.health();
    assert!(matches!(&health, Health::Poisoned(why) if why.contains("manifest")), "{health:?}");
    fs.clear_hook();
    let fs = Arc::new(fs.process_image());
    let db = manual().open_in(fs.clone(), PATH).unwrap();
    assert_eq!(contents(&db.snapshot().unwrap()), before, "collected");
    db.verify().unwrap();

    // As an opening after an unclean end names its new segment.
    db.put("k", "v").unwrap();
    let fs = fs.process_image();
    let breaks = breaks_at_the_manifest(&fs);
    breaks.store(true, Ordering::SeqCst);
    let fs = Arc::new(fs);
    let error = manual().open_in(fs.clone(), PATH).unwrap_err();
    assert!(error.to_string().contains("a fragile disk"), "{error}");
    fs.clear_hook();
    let db = manual().open_in(Arc::new(fs.process_image()), PATH).unwrap();
    assert_eq!(db.iter().unwrap().count(), before.len() + 1, "recovered");
    db.verify().unwrap();
}

/// Panics once, at this thread's `n`th operation from now on; 0 when it has.
fn breaks_here(fs: &MemFs, n: u64) -> Arc<AtomicU64> {
    let left = Arc::new(AtomicU64::new(n));
    let (told, me) = (left.clone(), std::thread::current().id());
    fs.on_operation(move |_, _, _| {
        if std::thread::current().id() == me && told.load(Ordering::SeqCst) > 0 {
            assert!(told.fetch_sub(1, Ordering::SeqCst) > 1, "a fragile disk");
        }
    });
    left
}

/// Chunks are committed on the caller's thread, which makes room for them if nobody else does.
#[test]
fn rule_36_a_chunk_whose_commit_panicked_is_told_of_by_flush() {
    let (mut panicked, mut goes_on) = (0, 0);
    for n in 1..200 {
        let fs = Arc::new(MemFs::new());
        let db = manual().durability(Durability::Buffered).open_in(fs.clone(), PATH).unwrap();
        let mut bulk = db.bulk_writer();
        let left = breaks_here(&fs, n);
        let mut written = Vec::new();
        let mut broken = 0;
        for i in 0..60u64 {
            let put = || bulk.put(i.to_be_bytes(), value(i, 100_000));
            match catch_unwind(AssertUnwindSafe(put)) {
                Ok(outcome) => written.extend(outcome.is_ok().then_some(i)),
                Err(_) => broken += 1,
            }
        }
        let outcome = catch_unwind(AssertUnwindSafe(|| bulk.flush()));
        fs.clear_hook();
        // If it broke in the flush, or before it, the next flush says so, once.
        let told = outcome.unwrap_or_else(|_| {
            broken += 1;
            bulk.flush()
        });
        panicked += broken;
        assert!(broken == 0 || told.is_err(), "{n}: {told:?}");
        let there: Vec<u64> =
            (0..60u64).filter(|i| db.contains(i.to_be_bytes()).unwrap()).collect();
        assert!(told.is_err() || there == written, "{n}: {there:?}");
        // What was written after it is left out: a prefix is there.
        assert_eq!(there, Vec::from_iter(0..there.len() as u64), "{n}");
        // And it can be used again, unless the panic has left a file of the store in doubt.
        bulk.put("again", "v").unwrap();
        match bulk.flush() {
            Ok(()) => goes_on += u32::from(broken > 0 && db.contains("again").unwrap()),
            Err(error) => assert_eq!(error.kind(), ErrorKind::Reopen, "{n}: {error}"),
        }
        if left.load(Ordering::SeqCst) > 0 {
            break;
        }
    }
    assert!(panicked > 0 && goes_on > 0, "{panicked} on the caller's thread, {goes_on}");
}

#[test]
fn rule_36_a_bulk_writer_whose_finish_panicked_is_finished() {
    let mut panicked = 0;
    for n in 1..200 {
        let fs = Arc::new(MemFs::new());
        let db = manual().durability(Durability::Buffered).open_in(fs.clone(), PATH).unwrap();
        let mut bulk = db.bulk_writer();
        // A chunk, and nearly another one: for this there is no segment yet.
        for i in 0..21u64 {
            bulk.put(i.to_be_bytes(), value(i, 100_000)).unwrap();
        }
        let left = breaks_here(&fs, n);
        panicked += usize::from(catch_unwind(AssertUnwindSafe(|| bulk.finish())).is_err());
        fs.clear_hook();
        assert!(matches!(bulk.put("k", "v"), Err(Error::Finished)), "{n}");
        assert!(matches!(bulk.flush(), Err(Error::Finished)), "{n}");
        if left.load(Ordering::SeqCst) > 0 {
            break;
        }
    }
    assert!(panicked > 0, "nothing panicked on the caller's thread");
}
