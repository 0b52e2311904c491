//! Space in the log: segments that nothing refers to are freed (SEMANTICS rule 39, as far as no
//! live value shares a segment with dead ones).
#![allow(clippy::unwrap_used)] // a test may panic

mod common;

use std::time::{Duration, Instant};

use common::{memory, open, tiny, value};
use kvdb::Db;

fn segments(db: &Db) -> usize {
    db.stats().segments.len()
}

#[test]
fn a_log_of_small_values_stays_small_without_anyone_calling_anything() {
    let (db, fs) = memory();
    let mut most = 0;
    for round in 0..400u64 {
        for i in 0..100u64 {
            db.put(i.to_be_bytes(), value(round, 200)).unwrap();
        }
        most = most.max(segments(&db));
    }
    // 9 MiB went through segments of 1 MiB.
    let deadline = Instant::now() + Duration::from_secs(20);
    while segments(&db) > 5 {
        assert!(Instant::now() < deadline, "{} segments, at most {most}", segments(&db));
        db.flush().unwrap();
        std::thread::sleep(Duration::from_millis(20));
    }
    db.close().unwrap();
    let db = open(&tiny(), &fs).unwrap();
    assert_eq!(db.get(7u64.to_be_bytes()).unwrap().unwrap(), value(399, 200));
    db.verify().unwrap();
}

#[test]
fn a_segment_goes_when_its_last_value_is_compacted_away_and_not_before() {
    let (db, _fs) = memory();
    for i in 0..60u64 {
        db.put(i.to_be_bytes(), value(i, 100_000)).unwrap();
    }
    db.flush().unwrap();
    let full = segments(&db);
    assert!(full >= 6, "{full}");
    for i in 1..60u64 {
        db.delete(i.to_be_bytes()).unwrap();
    }
    let snapshot = db.snapshot().unwrap();
    let held = db.get(0u64.to_be_bytes()).unwrap().unwrap();
    db.compact().unwrap();
    let deadline = Instant::now() + Duration::from_secs(20);
    while segments(&db) > 4 {
        assert!(Instant::now() < deadline, "{} segments", segments(&db));
        std::thread::sleep(Duration::from_millis(20));
    }
    // The one live value keeps its segment.
    assert_eq!(db.get(0u64.to_be_bytes()).unwrap().unwrap(), value(0, 100_000));
    assert_eq!(snapshot.iter().count(), 1);
    assert_eq!(held, value(0, 100_000));
    db.verify().unwrap();
}

#[test]
fn a_snapshot_and_an_iterator_keep_the_segments_they_need() {
    let (db, _fs) = memory();
    for i in 0..60u64 {
        db.put(i.to_be_bytes(), value(i, 100_000)).unwrap();
    }
    db.flush().unwrap();
    let snapshot = db.snapshot().unwrap();
    let iter = db.iter().unwrap();
    for i in 0..60u64 {
        db.delete(i.to_be_bytes()).unwrap();
    }
    db.compact().unwrap();
    std::thread::sleep(Duration::from_millis(500));
    assert_eq!(common::contents(&snapshot).len(), 60);
    drop(snapshot);
    db.compact().unwrap();
    std::thread::sleep(Duration::from_millis(500));
    // Their files may be gone by now; the iterator still holds them.
    for (i, item) in iter.enumerate() {
        assert_eq!(item.unwrap().value().unwrap(), value(i as u64, 100_000));
    }
}

/// A file that was removed and is still open takes the space that it did.
#[test]
#[cfg(target_os = "linux")]
fn rule_39_files_of_an_earlier_opening_are_closed_when_they_are_removed() {
    let dir = tempfile::tempdir().unwrap();
    let removed = || {
        let open = std::fs::read_dir("/proc/self/fd").unwrap().filter_map(|fd| {
            let to = std::fs::read_link(fd.ok()?.path()).ok()?;
            (to.starts_with(dir.path()) && to.to_str()?.ends_with("(deleted)")).then_some(to)
        });
        open.collect::<Vec<_>>()
    };
    for round in 0..3u64 {
        let db = tiny().open(dir.path()).unwrap();
        for i in 0..60u64 {
            db.put(i.to_be_bytes(), value(round << 8 | i, 100_000)).unwrap();
        }
        db.gc(&kvdb::GcOptions::full()).unwrap();
        let deadline = Instant::now() + Duration::from_secs(20);
        while !removed().is_empty() {
            assert!(Instant::now() < deadline, "{:?}", removed());
            std::thread::sleep(Duration::from_millis(20));
        }
        db.close().unwrap();
    }
}

#[test]
fn a_dead_segment_is_freed_only_after_it_was_sealed() {
    let fs = std::sync::Arc::new(kvdb::vfs::MemFs::new());
    let db = open(&common::manual().value_threshold(1 << 30), &fs).unwrap();
    for i in 0..30u64 {
        db.put(i.to_be_bytes(), value(i, 100_000)).unwrap();
    }
    // Segments were left, their contents are in tables, and nobody has reported them as sealed.
    db.flush().unwrap();
    let left = segments(&db);
    assert!(left >= 3, "{left}");
    while db.step(kvdb::Step::FreeSegments).unwrap() {}
    while db.step(kvdb::Step::PrepareLog).unwrap() {}
    while db.step(kvdb::Step::FreeSegments).unwrap() {}
    assert!(segments(&db) <= 2, "{} of {left} are still there", segments(&db));
    db.verify().unwrap();
}
