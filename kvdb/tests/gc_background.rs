//! Garbage collection of the value log that nobody asks for: SEMANTICS rule 39.
#![allow(clippy::unwrap_used)] // a test may panic

mod common;

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use common::{PATH, contents, manual, open, scale, tiny, value};
use kvdb::vfs::{Fs, Keep, MemFs};
use kvdb::{Db, Durability, Options, Step};

fn key(i: u64) -> Vec<u8> {
    format!("key{i:06}").into_bytes()
}

/// Bytes of all files of the store.
fn directory(fs: &MemFs) -> u64 {
    let entries = fs.list(Path::new(PATH)).unwrap();
    entries.iter().map(|e| fs.metadata(&Path::new(PATH).join(&e.name)).map_or(0, |m| m.len)).sum()
}

/// Waits until the directory is no larger than this.
fn shrinks_to(fs: &MemFs, db: &Db, most: u64) {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        let size = directory(fs);
        if size <= most {
            return;
        }
        assert!(Instant::now() < deadline, "{size} bytes, not {most}: {:#?}", db.stats().log_files);
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Quick, for a file system in memory.
fn options() -> Options {
    tiny().durability(Durability::Buffered)
}

/// Overwrites everything twice, then deletes all but one key of so many, and waits.
fn shrinks_by_itself(every: u64) {
    let fs = Arc::new(MemFs::new());
    let db = open(&options(), &fs).unwrap();
    let (n, len) = (500, 20_000);
    for round in 0..3 {
        for i in 0..n {
            db.put(key(i), value(round << 32 | i, len)).unwrap();
        }
    }
    let (kept, deleted): (Vec<_>, Vec<_>) = (0..n).partition(|i| i % every == every - 1);
    for i in deleted {
        db.delete(key(i)).unwrap();
    }
    // A quarter more than what is in use, and what there is of fixed size: a segment, tables.
    shrinks_to(&fs, &db, kept.len() as u64 * len as u64 * 5 / 4 + (1 << 20) + (64 << 10));
    assert!(db.iter().unwrap().map(|i| i.unwrap().into_key()).eq(kept.iter().map(|i| key(*i))));
    for i in kept {
        assert_eq!(db.get(key(i)).unwrap().unwrap(), value(2 << 32 | i, len));
    }
    db.verify().unwrap();
    db.put("again", value(1, len)).unwrap();
    db.close().unwrap();
    let db = open(&options(), &fs).unwrap();
    assert_eq!(db.get("again").unwrap().unwrap(), value(1, len));
}

#[test]
fn rule_39_after_everything_was_overwritten_or_deleted_the_directory_shrinks_by_itself() {
    // Side by side, since each waits for a while without writes.
    std::thread::scope(|scope| {
        for every in [1, 10, 1000] {
            scope.spawn(move || shrinks_by_itself(every));
        }
    });
}

#[test]
fn rule_39_two_hundred_rounds_of_writing_and_deleting_stay_bounded() {
    let fs = Arc::new(MemFs::new());
    let db = open(&options(), &fs).unwrap();
    let (n, len) = (2000u64, 500);
    for round in 0..200 * scale() {
        let mut batch = db.batch();
        for i in 0..n {
            batch.put(key(round * n + i), value(i, len)).unwrap();
            if round > 0 {
                batch.delete(key((round - 1) * n + i)).unwrap();
            }
            if i % 100 == 99 {
                let full = std::mem::replace(&mut batch, db.batch());
                full.commit().unwrap();
            }
        }
        batch.commit().unwrap();
        // Two hundred megabytes go through it; one is in use. Background threads may get little of
        // a busy machine, so they are given time, but nothing is called.
        if round % 10 == 9 {
            shrinks_to(&fs, &db, 20 << 20);
        }
    }
    shrinks_to(&fs, &db, 3 << 20);
    let last = (200 * scale() - 1) * n;
    assert!(db.iter().unwrap().map(|i| i.unwrap().into_key()).eq((last..last + n).map(key)));
    db.verify().unwrap();
}

#[test]
fn the_log_keeps_its_space_limit_while_it_is_written_to() {
    let fs = Arc::new(MemFs::new());
    let db = open(&options(), &fs).unwrap();
    let mut rng = fastrand::Rng::with_seed(7);
    let (n, len) = (2000u64, 10_000);
    let live = n * len as u64;
    for i in 0..n {
        db.put(key(i), value(i, len)).unwrap();
    }
    // For as long as it takes, but never at rest.
    let deadline = Instant::now() + Duration::from_secs(60);
    let mut written = 0;
    while written < 3 * n || db.stats().gc.collections < 3 || directory(&fs) > 2 * live {
        for _ in 0..20 {
            db.put(key(rng.u64(..n)), value(rng.u64(..), len)).unwrap();
            written += 1;
        }
        std::thread::sleep(Duration::from_millis(5));
        assert!(Instant::now() < deadline, "{} bytes, {:?}", directory(&fs), db.stats().gc);
    }
    db.verify().unwrap();
}

#[test]
fn close_does_not_wait_for_a_collection_to_end() {
    let fs = Arc::new(MemFs::new());
    let db = open(&options(), &fs).unwrap();
    for i in 0..1500u64 {
        db.put(key(i * 7 % 500), value(i, 20_000)).unwrap();
    }
    // Somewhere in a collection, in the pause of its pacing, or before it.
    db.close().unwrap();
    let expected = 500;
    let db = open(&options(), &fs).unwrap();
    assert_eq!(db.iter().unwrap().count(), expected);
    db.verify().unwrap();
}

#[test]
fn coming_to_rest_loses_nothing_at_any_power_cut() {
    for seed in 0..2 * scale() {
        let fs = Arc::new(MemFs::new());
        let db = open(&manual(), &fs).unwrap();
        for i in 0..60 {
            db.put(key(i), value(i, 20_000)).unwrap();
        }
        for i in 0..60 {
            db.put(key(i % 10), value(1000 + i, 20_000)).unwrap();
        }
        let expected = contents(&db.snapshot().unwrap());
        let images: Arc<parking_lot::Mutex<Vec<MemFs>>> = Arc::default();
        let taken = images.clone();
        fs.on_operation(move |fs: &MemFs, _, _: &Path| {
            let n = taken.lock().len() as u64;
            let mut keep = match (n + seed) % 3 {
                0 => Keep::None,
                1 => Keep::All,
                _ => Keep::Random(seed << 32 | n),
            };
            let image = fs.crash_image(&mut keep);
            taken.lock().push(image);
        });
        for _ in 0..3 {
            while db.step(Step::Rest).unwrap() {}
            while db.step(Step::Compact).unwrap() {}
        }
        fs.clear_hook();
        let segments = db.stats().segments;
        let raw = segments.iter().filter(|s| !s.relocated).collect::<Vec<_>>();
        assert_eq!(raw.len(), 1, "an empty segment to go on with: {raw:?}");
        drop(db);
        let images = std::mem::take(&mut *images.lock());
        assert!(images.len() > 20);
        for (n, image) in images.into_iter().enumerate() {
            let image = Arc::new(image);
            let what = format!("seed {seed}, operation {n}");
            let db = open(&manual(), &image).unwrap_or_else(|e| panic!("{what}: {e}"));
            assert!(contents(&db.snapshot().unwrap()) == expected, "{what}");
            db.verify().unwrap_or_else(|e| panic!("{what}: {e}"));
            db.put("more", "x").unwrap();
            db.close().unwrap();
            let db = open(&manual(), &image).unwrap_or_else(|e| panic!("{what}, again: {e}"));
            assert_eq!(db.iter().unwrap().count(), expected.len() + 1, "{what}");
        }
    }
}

#[test]
fn a_store_comes_to_rest_however_much_a_snapshot_holds() {
    for options in [manual(), manual().value_threshold(0)] {
        let fs = Arc::new(MemFs::new());
        let db = open(&options, &fs).unwrap();
        let mut held = Vec::new();
        for round in 0..4 {
            for i in 0..150 {
                let len = if i % 5 == 0 { 20_000 } else { 40 };
                db.put(key(i * 7 % (50 + round)), value(round << 32 | i, len)).unwrap();
            }
            db.flush().unwrap();
            held.push((db.snapshot().unwrap(), db.iter().unwrap()));
        }
        let rest = || {
            let mut steps = 0;
            while db.step(Step::Rest).unwrap() {
                steps += 1;
                assert!(steps < 40, "no rest: {:?} {:#?}", db.stats().gc, db.stats().log_files);
                while db.step(Step::Compact).unwrap() {}
                while db.step(Step::Reclaim).unwrap() {}
            }
        };
        // At every number of snapshots that are left it gets there, and then does nothing.
        while !held.is_empty() {
            rest();
            let before = (db.stats().gc, fs.list(Path::new(PATH)).unwrap());
            for _ in 0..5 {
                assert!(!db.step(Step::Rest).unwrap());
                assert!(!db.step(Step::Collect).unwrap());
            }
            assert_eq!((db.stats().gc, fs.list(Path::new(PATH)).unwrap()), before);
            held.pop();
        }
        db.verify().unwrap();
    }
}
