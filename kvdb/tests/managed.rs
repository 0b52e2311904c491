//! SEMANTICS rule 24 (and 25 with it): the caller chooses the versions.
#![allow(clippy::unwrap_used)] // a test may panic

mod common;

use std::sync::Arc;

use common::{PATH, contents, open, tiny};
use kvdb::vfs::MemFs;
use kvdb::{Db, Durability, Error, ErrorKind, Options};

fn managed() -> Options {
    tiny().durability(Durability::Buffered).managed(true)
}

fn memory() -> (Db, Arc<MemFs>) {
    let fs = Arc::new(MemFs::new());
    (managed().open_in(fs.clone(), PATH).unwrap(), fs)
}

fn put_at(db: &Db, key: &str, value: &str, version: u64) -> Result<u64, Error> {
    let mut batch = db.batch();
    batch.put(key, value)?;
    batch.commit_at(version)
}

#[test]
fn rule_24_reads_and_commits_happen_at_the_versions_given() {
    let (db, fs) = memory();
    assert_eq!(put_at(&db, "k", "ten", 10).unwrap(), 10);
    let mut t = db.begin_at(10).unwrap();
    assert_eq!(t.get("k").unwrap().unwrap(), "ten");
    t.put("k", "thousand").unwrap();
    assert_eq!(t.commit_at(1000).unwrap(), 1000);
    assert_eq!(db.get_entry("k").unwrap().unwrap().version(), 1000);
    for (version, there) in
        [(9, None), (10, Some("ten")), (999, Some("ten")), (1000, Some("thousand"))]
    {
        let value = db.snapshot_at(version).unwrap().get("k").unwrap();
        assert_eq!(value.as_deref(), there.map(str::as_bytes), "at {version}");
        let t = db.begin_at(version).unwrap();
        assert_eq!(t.get("k").unwrap().as_deref(), there.map(str::as_bytes));
    }
    // The largest there is, after which there is none.
    put_at(&db, "k", "last", u64::MAX - 1).unwrap();
    db.flush().unwrap();
    assert!(matches!(put_at(&db, "k", "v", u64::MAX), Err(Error::VersionsExhausted)));
    assert_eq!(db.get("k").unwrap().unwrap(), "last");
    db.close().unwrap();
    // A crash before any close: reopening where a gap in the versions has no room.
    let db = open(&tiny(), &fs).unwrap();
    assert!(matches!(db.put("k", "v"), Err(Error::VersionsExhausted)));
    assert_eq!(db.get("k").unwrap().unwrap(), "last");
}

#[test]
fn rule_24_a_version_not_above_every_earlier_one_is_an_error_also_after_reopening() {
    let (db, fs) = memory();
    put_at(&db, "a", "1", 100).unwrap();
    let refused = |db: &Db, version, last| match put_at(db, "b", "2", version) {
        Err(Error::VersionNotAbove { version: v, last: l }) => assert_eq!((v, l), (version, last)),
        other => panic!("{other:?}"),
    };
    for version in [0, 1, 99, 100] {
        refused(&db, version, 100);
    }
    put_at(&db, "b", "2", 101).unwrap();
    db.flush().unwrap();
    put_at(&db, "c", "3", 102).unwrap();
    db.close().unwrap();
    let db = open(&managed(), &fs).unwrap();
    refused(&db, 102, 102);
    assert_eq!(put_at(&db, "d", "4", 103).unwrap(), 103);
    // Killed instead of closed: the versions go on without a gap, since they are the caller's.
    let image = Arc::new(fs.process_image());
    drop(db);
    let db = open(&managed(), &image).unwrap();
    refused(&db, 103, 103);
    assert_eq!(put_at(&db, "e", "5", 104).unwrap(), 104);
    assert_eq!(contents(&db.snapshot().unwrap()).len(), 5);
}

#[test]
fn rule_24_modes_do_not_mix() {
    let (db, _fs) = memory();
    let managed = |error: Error| {
        assert!(matches!(error, Error::Managed), "{error}");
        assert_eq!(error.kind(), ErrorKind::Usage);
    };
    managed(db.put("k", "v").unwrap_err());
    managed(db.delete("k").unwrap_err());
    managed(db.begin().unwrap_err());
    managed(db.update(|t| t.put("k", "v")).unwrap_err());
    let batch = || {
        let mut batch = db.batch();
        batch.put("k", "v").unwrap();
        batch
    };
    managed(batch().commit().unwrap_err());
    managed(batch().commit_async().unwrap_err());
    managed(batch().commit_then(Durability::Sync, |_| panic!("refused")).unwrap_err());
    managed(db.batch().commit().unwrap_err());
    managed(db.begin_at(0).unwrap().commit().unwrap_err());
    // Nothing of it happened, and reading the newest is no choice of a version.
    assert_eq!(db.version(), 0);
    assert_eq!(db.iter().unwrap().count(), 0);
    db.close().unwrap();

    let (db, _fs) = common::memory();
    let unmanaged = |error: Error| {
        assert!(matches!(error, Error::NotManaged), "{error}");
        assert_eq!(error.kind(), ErrorKind::Usage);
    };
    unmanaged(db.begin_at(0).unwrap_err());
    unmanaged(db.set_discard_watermark(0).unwrap_err());
    unmanaged(put_at(&db, "k", "v", 5).unwrap_err());
    unmanaged(db.batch().commit_at(5).unwrap_err());
    let mut t = db.begin().unwrap();
    t.put("k", "v").unwrap();
    unmanaged(t.commit_at(5).unwrap_err());
    assert_eq!(db.version(), 0);
    db.put("k", "v").unwrap();
}

#[test]
fn rule_24_a_managed_transaction_conflicts_with_what_was_committed_above_its_version() {
    let (db, _fs) = memory();
    put_at(&db, "a", "1", 10).unwrap();
    put_at(&db, "b", "1", 20).unwrap();
    // It reads at 15, so it has not seen what was written at 20, though that was long ago.
    let late = |key: &str| {
        let mut t = db.begin_at(15).unwrap();
        t.get(key).unwrap();
        t.put("c", "1").unwrap();
        t.commit_at(db.version() + 1)
    };
    assert!(matches!(late("b"), Err(Error::Conflict)));
    late("a").unwrap();
    // A version in the future reads the newest; what comes between is a conflict.
    let mut t = db.begin_at(1000).unwrap();
    assert_eq!(t.read_version(), db.version());
    t.get("a").unwrap();
    t.put("d", "1").unwrap();
    put_at(&db, "a", "2", 500).unwrap();
    assert_eq!(t.get("a").unwrap().unwrap(), "1", "one snapshot for its life");
    assert!(matches!(t.commit_at(1000), Err(Error::Conflict)));
}

#[test]
fn rule_24_every_version_stays_until_the_watermark_passes_it() {
    let (db, fs) = memory();
    for version in 1..=50u64 {
        put_at(&db, "k", &version.to_string(), version).unwrap();
    }
    db.compact().unwrap();
    for version in 1..=50u64 {
        let snapshot = db.snapshot_at(version).unwrap();
        assert_eq!(snapshot.get("k").unwrap().unwrap(), version.to_string());
    }
    assert!(matches!(
        db.set_discard_watermark(51),
        Err(Error::FutureVersion { version: 51, newest: 50 })
    ));
    let held = db.snapshot_at(20).unwrap();
    db.set_discard_watermark(30).unwrap();
    db.set_discard_watermark(5).unwrap(); // never falls
    let below = |db: &Db, version| {
        let refused = |error| assert!(matches!(error, Error::BelowWatermark { .. }), "{error}");
        refused(db.snapshot_at(version).unwrap_err());
        refused(db.begin_at(version).map(drop).unwrap_err());
    };
    below(&db, 29);
    db.compact().unwrap();
    assert_eq!(held.get("k").unwrap().unwrap(), "20", "an open snapshot keeps what it sees");
    assert_eq!(db.snapshot_at(30).unwrap().get("k").unwrap().unwrap(), "30");
    drop(held);
    below(&db, 20);
    db.compact().unwrap();
    below(&db, 20);
    db.close().unwrap();

    let db = open(&managed(), &fs).unwrap();
    below(&db, 29);
    assert_eq!(db.snapshot_at(30).unwrap().get("k").unwrap().unwrap(), "30");
}

#[test]
fn rule_25_below_the_watermark_is_an_error_after_reopening_though_nothing_was_compacted() {
    for crash in [false, true] {
        let (db, fs) = memory();
        for version in 1..=10u64 {
            put_at(&db, "k", &version.to_string(), version).unwrap();
        }
        db.set_discard_watermark(7).unwrap();
        let fs = if crash {
            db.sync().unwrap();
            let image = Arc::new(fs.process_image());
            drop(db);
            image
        } else {
            db.close().unwrap();
            fs
        };
        let db = open(&managed(), &fs).unwrap();
        assert!(matches!(db.snapshot_at(6), Err(Error::BelowWatermark { .. })), "crash: {crash}");
        assert!(matches!(db.begin_at(6), Err(Error::BelowWatermark { .. })), "crash: {crash}");
        assert_eq!(db.snapshot_at(7).unwrap().get("k").unwrap().unwrap(), "7");
    }
}

#[test]
fn rule_25_a_watermark_that_an_open_snapshot_held_up_is_whole_after_a_close() {
    let (db, fs) = memory();
    for version in 1..=10u64 {
        put_at(&db, "k", &version.to_string(), version).unwrap();
    }
    let held = db.snapshot_at(3).unwrap();
    db.set_discard_watermark(7).unwrap();
    assert_eq!(held.get("k").unwrap().unwrap(), "3");
    db.close().unwrap();
    drop(held);
    let db = open(&managed(), &fs).unwrap();
    assert!(matches!(db.snapshot_at(6), Err(Error::BelowWatermark { .. })));
    assert_eq!(db.snapshot_at(7).unwrap().get("k").unwrap().unwrap(), "7");
}
