//! What conflict detection remembers (SEMANTICS, rule 23).

use std::ops::Range;
use std::sync::Arc;

use crate::common::{PATH, tiny, value};
use kvdb::vfs::MemFs;
use kvdb::{Db, Durability, Error, ErrorKind};

#[test]
fn rule_23_the_memory_of_conflict_detection_is_capped_and_nothing_without_open_transactions() {
    const CAP: usize = 128 << 10;
    let options = tiny().durability(Durability::Buffered).max_conflict_memory(CAP);
    let db = options.open_in(Arc::new(MemFs::new()), PATH).unwrap();
    let write = |n: u64| {
        for i in 0..n {
            db.put(i.to_be_bytes(), value(i, 20)).unwrap();
        }
    };
    write(5000);
    assert_eq!(db.stats().conflict_memory, 0, "no transaction is open");
    let reader = db.snapshot().unwrap();
    write(5000);
    assert_eq!(db.stats().conflict_memory, 0, "read-only ones hold nothing here");

    let mut old = db.begin().unwrap();
    old.get("absent").unwrap();
    old.put("other", "v").unwrap();
    let mut blind = db.begin().unwrap();
    blind.put("blind", "v").unwrap();
    write(100);
    assert!(db.stats().conflict_memory > 0);
    for _ in 0..20 {
        write(2000);
        let bytes = db.stats().conflict_memory;
        assert!(bytes <= CAP as u64, "{bytes}");
    }
    assert!(matches!(old.commit(), Err(Error::TooOld)));
    blind.commit().unwrap();
    assert_eq!(db.stats().conflict_memory, 0);
    assert_eq!(reader.get(7u64.to_be_bytes()).unwrap().unwrap(), value(7, 20));
}

/// In managed mode: a key of its own at each version.
fn write_at(db: &Db, versions: Range<u64>) {
    for version in versions {
        let mut batch = db.batch();
        batch.put(version.to_be_bytes(), "v").unwrap();
        batch.commit_at(version).unwrap();
    }
}

#[test]
fn rule_23_in_managed_mode_what_is_above_the_watermark_is_remembered_up_to_the_cap() {
    const CAP: usize = 128 << 10;
    let options = tiny().managed(true).durability(Durability::Buffered).max_conflict_memory(CAP);
    let db = options.open_in(Arc::new(MemFs::new()), PATH).unwrap();
    let write = |versions| write_at(&db, versions);
    write(1..3000);
    let all = db.stats().conflict_memory;
    assert!(all > 0, "a transaction may begin at any of these versions");
    db.set_discard_watermark(2999).unwrap();
    write(3000..3001);
    assert!(db.stats().conflict_memory < all, "at these none begins any more");
    write(3001..30_000);
    let bytes = db.stats().conflict_memory;
    assert!(bytes > 0 && bytes <= CAP as u64, "{bytes}");
}

#[test]
fn rule_24_a_version_that_conflicts_are_no_longer_known_of_is_no_matter_of_trying_again() {
    let options = tiny().managed(true).durability(Durability::Buffered);
    let db = options.max_conflict_memory(128 << 10).open_in(Arc::new(MemFs::new()), PATH).unwrap();
    let write = |versions| write_at(&db, versions);
    let begin = |version| {
        let mut t = db.begin_at(version).unwrap();
        t.get("absent").unwrap();
        t.put("other", "v").unwrap();
        t
    };
    write(1..10);
    // It could have committed when it began, and can if it begins at a newer version.
    let overtaken = begin(5);
    write(10..30_000);
    let error = overtaken.commit_at(30_000).unwrap_err();
    assert!(matches!(error, Error::TooOld), "{error}");
    assert_eq!(error.kind(), ErrorKind::Retry);
    // This one never could, and however often it begins at that version it never can.
    for _ in 0..2 {
        let error = begin(5).commit_at(30_000).unwrap_err();
        let Error::ForgottenVersion { version: 5, remembered_after } = error else {
            panic!("{error}");
        };
        assert_eq!(error.kind(), ErrorKind::Usage);
        assert!((10..30_000).contains(&remembered_after), "{remembered_after}");
        assert!(error.to_string().contains("max_conflict_memory"), "{error}");
    }
    // What reads nothing needs no check, and from where writes are remembered there is one.
    let mut blind = db.begin_at(5).unwrap();
    blind.put("blind", "v").unwrap();
    blind.commit_at(30_000).unwrap();
    begin(29_999).commit_at(30_001).unwrap();
}
