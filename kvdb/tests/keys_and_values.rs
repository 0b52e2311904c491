//! SEMANTICS: keys, values, limits (rules 8 to 10).
#![allow(clippy::unwrap_used)] // a test may panic

mod common;

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use common::{contents, memory, open, tiny, value};
use kvdb::vfs::{Clock, ManualClock, MemFs};
use kvdb::{Durability, Error, ErrorKind, MAX_KEY_LEN, MergeOperator, Result, WriteOptions};

#[test]
fn rule_8_an_empty_key_is_an_error_everywhere() {
    let (db, _fs) = memory();
    let mut t = db.begin().unwrap();
    let mut batch = db.batch();
    let errors = [
        db.put("", "v").map(drop),
        db.delete("").map(drop),
        db.get("").map(drop),
        db.contains("").map(drop),
        t.put("", "v"),
        t.delete(""),
        t.get("").map(drop),
        batch.put("", "v"),
    ];
    for error in errors {
        assert!(matches!(error, Err(Error::EmptyKey)), "{error:?}");
    }
    assert_eq!(db.iter().unwrap().count(), 0);
}

#[test]
fn rule_8_the_longest_key_works_and_one_byte_more_is_an_error() {
    let (db, fs) = memory();
    let longest = vec![0xAB; MAX_KEY_LEN];
    assert_eq!(MAX_KEY_LEN, 65_000);
    db.put(&longest, "v").unwrap();
    let mut too_long = longest.clone();
    too_long.push(0);
    match db.put(&too_long, "v").unwrap_err() {
        Error::KeyTooLong { len, limit } => assert_eq!((len, limit), (65_001, 65_000)),
        other => panic!("{other}"),
    }
    for _ in 0..3 {
        assert_eq!(db.get(&longest).unwrap().unwrap(), "v");
        let item = db.prefix(&longest[..64_999]).unwrap().next().unwrap().unwrap();
        assert_eq!(item.key(), longest);
        db.flush().unwrap();
    }
    db.close().unwrap();
    assert_eq!(open(&tiny(), &fs).unwrap().get(&longest).unwrap().unwrap(), "v");
}

#[test]
fn rule_8_every_byte_is_legal_and_keys_that_are_prefixes_of_each_other_stay_distinct() {
    let mut keys: BTreeSet<Vec<u8>> = BTreeSet::new();
    for byte in 0..=255u8 {
        keys.insert(vec![byte]);
        keys.insert(vec![byte, 0x00]);
        keys.insert(vec![byte, 0x00, 0x00]);
        keys.insert(vec![byte, 0xFF]);
        keys.insert(vec![byte, 0xFF, 0xFF]);
        keys.insert(vec![0xFF, byte, 0x00, byte]);
        keys.insert(vec![byte; 7]);
        keys.insert(vec![byte; 8]);
        keys.insert(vec![byte; 9]);
    }
    let (db, _fs) = memory();
    let mut shuffled: Vec<_> = keys.iter().collect();
    fastrand::Rng::with_seed(8).shuffle(&mut shuffled);
    for key in &shuffled {
        db.put(key, key).unwrap();
    }
    for round in 0..2 {
        for key in &keys {
            assert_eq!(db.get(key).unwrap().unwrap(), key, "round {round}");
            let mut iter = db.iter().unwrap();
            iter.seek(key);
            assert_eq!(iter.next().unwrap().unwrap().key(), key);
        }
        let found: Vec<_> = db.iter().unwrap().keys().map(|k| k.unwrap()).collect();
        assert!(found.iter().eq(keys.iter()), "order or distinctness, round {round}");
        assert!(!db.contains([0x00, 0x00, 0x01]).unwrap());
        db.flush().unwrap();
    }
}

#[test]
fn rule_9_values_of_every_size_round_trip() {
    let (db, fs) = memory();
    let threshold = db.options().value_threshold;
    let mut sizes = vec![0, 1, 7, 8, 9, 4095, 4096, 4097, 65_535, 65_536, 500_000];
    sizes.extend([threshold - 1, threshold, threshold + 1]);
    let check = |db: &kvdb::Db| {
        for &size in &sizes {
            let item = db.get_entry(size.to_be_bytes()).unwrap().unwrap();
            assert_eq!(item.value_len(), size);
            assert_eq!(item.is_separated(), size >= threshold, "{size}");
            assert_eq!(item.value().unwrap(), value(size as u64, size));
            let same = db.get_with(size.to_be_bytes(), |v| v == value(size as u64, size));
            assert_eq!(same.unwrap(), Some(true));
        }
    };
    for &size in &sizes {
        db.put(size.to_be_bytes(), value(size as u64, size)).unwrap();
    }
    check(&db);
    db.flush().unwrap();
    check(&db);
    db.close().unwrap();
    check(&open(&tiny(), &fs).unwrap());
    check(&open(&tiny().memory_map(false), &fs).unwrap());
}

#[test]
fn rule_9_an_empty_value_is_not_absence() {
    let (db, fs) = memory();
    db.put("empty", "").unwrap();
    assert_eq!(db.get("empty").unwrap().unwrap(), "");
    assert!(db.get("absent").unwrap().is_none());
    db.flush().unwrap();
    db.close().unwrap();
    let db = open(&tiny().value_threshold(0), &fs).unwrap();
    assert_eq!(db.get("empty").unwrap().unwrap(), "");
    db.put("empty in the log", "").unwrap();
    let item = db.get_entry("empty in the log").unwrap().unwrap();
    assert!(item.is_separated());
    assert_eq!(item.value().unwrap(), "");
}

#[test]
fn rule_9_the_largest_value_works_and_one_byte_more_is_an_error_before_anything_is_written() {
    let (db, fs) = memory();
    for key in ["k".to_owned(), "k".repeat(MAX_KEY_LEN)] {
        let limit = db.max_value_len(key.len());
        assert!(limit > (1 << 20) - (80 << 10), "{limit} in a segment of 1 MiB");
        let largest = value(9, limit);
        db.put(&key, &largest).unwrap();
        assert_eq!(db.get(&key).unwrap().unwrap(), largest);
        let version = db.version();
        let too_large = vec![0; limit + 1];
        match db.put(&key, &too_large).unwrap_err() {
            Error::ValueTooLarge { len, limit: l } => assert_eq!((len, l), (limit + 1, limit)),
            other => panic!("{other}"),
        }
        let with_meta = WriteOptions::default().user_meta(1).expires_at(u64::MAX);
        db.put_with(&key, &largest, with_meta).unwrap();
        assert_eq!(db.version(), version + 1, "the refused write took a version");
    }
    db.close().unwrap();
    let db = open(&tiny(), &fs).unwrap();
    for key in ["k".to_owned(), "k".repeat(MAX_KEY_LEN)] {
        assert_eq!(db.get(&key).unwrap().unwrap(), value(9, db.max_value_len(key.len())));
    }
}

#[test]
fn rule_9_a_value_of_64_mib_round_trips() {
    let dir = tempfile::tempdir().unwrap();
    let options = tiny().segment_size(128 << 20).durability(Durability::Buffered);
    let large = value(64, 64 << 20);
    let db = options.open(dir.path()).unwrap();
    db.put("large", &large).unwrap();
    db.put("behind", "it").unwrap();
    assert!(db.get("large").unwrap().unwrap() == large);
    db.close().unwrap();
    let db = options.open(dir.path()).unwrap();
    assert!(db.get("large").unwrap().unwrap() == large);
    assert_eq!(db.get("behind").unwrap().unwrap(), "it");
}

#[test]
fn rule_10_the_write_that_is_too_much_is_not_in_the_transaction_and_the_rest_commits() {
    let fs = std::sync::Arc::new(kvdb::vfs::MemFs::new());
    let db = open(&tiny().max_transaction_size(Some(8 << 10)), &fs).unwrap();
    assert_eq!(db.max_transaction_size(), 8 << 10);
    let mut t = db.begin().unwrap();
    let mut written = 0u32;
    loop {
        match t.put(written.to_be_bytes(), vec![1; 100]) {
            Ok(()) => written += 1,
            Err(error) => {
                assert!(
                    matches!(error, Error::TransactionTooBig { size, limit } if size > limit),
                    "{error}"
                );
                assert_eq!(error.kind(), ErrorKind::Usage);
                break;
            }
        }
    }
    assert!(written > 50);
    assert!(t.size() <= 8 << 10);
    assert!(t.get(written.to_be_bytes()).unwrap().is_none());
    // Replacing a write by a shorter one makes room again.
    t.put(0u32.to_be_bytes(), "").unwrap();
    t.put(written.to_be_bytes(), "fits").unwrap();
    t.commit().unwrap();
    assert_eq!(contents(&db.snapshot().unwrap()).len(), written as usize + 1);
}

#[test]
fn rule_10_a_single_write_over_the_limit_is_refused_as_that_of_a_batch_is() {
    let fs = std::sync::Arc::new(kvdb::vfs::MemFs::new());
    let append = MergeOperator::new(|_, older, newer| [older, newer].concat());
    let options = tiny().max_transaction_size(Some(8 << 10)).merge_operator(append);
    let db = open(&options, &fs).unwrap();
    let version = db.put("k", "v").unwrap();
    // A key alone that is too much, and the longest one that is not.
    let long = "k".repeat(8 << 10);
    let fits = |len: &usize| db.batch().put("k".repeat(*len), "").is_ok();
    let longest = (1..long.len()).rev().find(fits).unwrap();
    let sizes = |outcome: Result<u64>| match outcome.unwrap_err() {
        Error::TransactionTooBig { size, limit } => (size, limit),
        error => panic!("{error}"),
    };
    let mut batch = db.batch();
    for len in [longest + 1, long.len()] {
        let key = "k".repeat(len);
        let as_batch = [
            sizes(batch.put(&key, "").map(|()| 0)),
            sizes(batch.delete(&key).map(|()| 0)),
            sizes(batch.merge(&key, "").map(|()| 0)),
        ];
        let single = [sizes(db.put(&key, "")), sizes(db.delete(&key)), sizes(db.merge(&key, ""))];
        assert_eq!(single, as_batch, "a key of {len} bytes");
    }
    assert_eq!(db.version(), version, "nothing was written");
    assert_eq!(db.iter().unwrap().count(), 1);
    db.put("k".repeat(longest), "").unwrap();
    db.merge("k".repeat(longest), "").unwrap();
    db.delete("k".repeat(longest)).unwrap();
}

#[test]
fn rule_9_the_limits_hold_for_a_segment_size_that_is_no_multiple_of_a_page() {
    for extra in [0, 8, 2048, 4095] {
        let fs = std::sync::Arc::new(kvdb::vfs::MemFs::new());
        let db = common::tiny().segment_size((1 << 20) + extra).open_in(fs, common::PATH).unwrap();
        let largest = db.max_value_len(1);
        db.put("k", vec![7; largest]).unwrap();
        assert_eq!(db.get("k").unwrap().unwrap(), vec![7; largest]);
        let error = db.put("k", vec![7; largest + 1]).unwrap_err();
        assert!(matches!(error, kvdb::Error::ValueTooLarge { .. }), "{error}");
        // What a transaction takes, it can commit.
        let mut t = db.begin().unwrap();
        let mut n = 0u32;
        let refused = loop {
            match t.put(n.to_be_bytes(), [7; 1000]) {
                Ok(()) => n += 1,
                Err(error) => break error,
            }
        };
        assert!(matches!(refused, kvdb::Error::TransactionTooBig { .. }), "{refused}");
        t.commit().unwrap();
        assert!(
            db.contains((n - 1).to_be_bytes()).unwrap() && !db.contains(n.to_be_bytes()).unwrap()
        );
    }
}

#[test]
fn rule_35_a_time_to_live_is_counted_from_the_write_by_the_clock_that_expiry_goes_by() {
    let clock = Arc::new(ManualClock::new(1000));
    let db = tiny().open_with(Arc::new(MemFs::new()), clock.clone(), common::PATH).unwrap();
    let ttl = |millis| WriteOptions::default().ttl(Duration::from_millis(millis));
    let expiry = |key: &str| db.get_entry(key).unwrap().unwrap().expires_at();
    db.put_with("put", "v", ttl(10_000)).unwrap();
    db.put_with("fraction", "v", ttl(9_001)).unwrap();
    let mut batch = db.batch();
    batch.put_with("batch", "v", ttl(10_000).user_meta(3)).unwrap();
    let mut bulk = db.bulk_writer();
    bulk.put_with("bulk", "v", ttl(10_000)).unwrap();
    let mut t = db.begin().unwrap();
    clock.set(1005);
    t.put_with("transaction", "v", ttl(10_000)).unwrap();
    assert_eq!(t.get_entry("transaction").unwrap().unwrap().expires_at(), Some(1015));
    // It counts from the write, whenever it is committed.
    batch.commit().unwrap();
    bulk.finish().unwrap();
    t.commit().unwrap();
    for (key, at) in
        [("put", 1010), ("fraction", 1010), ("batch", 1010), ("bulk", 1010), ("transaction", 1015)]
    {
        assert_eq!(expiry(key), Some(at), "{key}");
    }
    assert_eq!(db.get_entry("batch").unwrap().unwrap().user_meta(), 3);
    clock.set(1009);
    assert!(db.contains("put").unwrap());
    clock.set(1010);
    assert!(!db.contains("put").unwrap() && db.contains("transaction").unwrap());

    // The earlier of two counts, whichever was said last.
    db.put_with("both", "v", ttl(10_000).expires_at(1012)).unwrap();
    assert_eq!(expiry("both"), Some(1012));
    db.put_with("both", "v", WriteOptions::default().expires_at(9999).ttl(Duration::from_secs(1)))
        .unwrap();
    assert_eq!(expiry("both"), Some(1011));

    // Zero: absent at once, older versions hidden, in the transaction too.
    db.put("zero", "older").unwrap();
    let mut t = db.begin().unwrap();
    clock.set(1020);
    t.put_with("zero", "v", ttl(0)).unwrap();
    assert!(t.get("zero").unwrap().is_none());
    t.commit().unwrap();
    assert!(db.get("zero").unwrap().is_none());
    db.compact().unwrap();
    assert!(db.get("zero").unwrap().is_none());

    // Beyond all times: never.
    for forever in [Duration::MAX, Duration::from_secs(u64::MAX)] {
        db.put_with("forever", "v", WriteOptions::default().ttl(forever)).unwrap();
        assert_eq!(expiry("forever"), Some(u64::MAX));
    }
    clock.set(u64::MAX - 1);
    assert!(db.contains("forever").unwrap());
    clock.set(1020);

    // A clock that was set back: what has expired stays so, and what is written now is not born
    // expired.
    db.put_with("gone", "v", ttl(1_000)).unwrap();
    clock.set(2000);
    db.compact().unwrap();
    clock.set(500);
    db.put_with("young", "v", ttl(10_000)).unwrap();
    let at = expiry("young").unwrap();
    assert!(at >= 1021 + 10, "{at}: counted from what has expired already");
    clock.set(at - 1);
    assert!(db.contains("young").unwrap());
    clock.set(at);
    assert!(!db.contains("young").unwrap());
}

#[test]
fn rule_35_second_zero_is_long_ago_however_it_is_set() {
    let (db, _fs) = common::memory();
    let mut options = kvdb::WriteOptions::default();
    options.expires_at = Some(0);
    db.put_with("one", "v", options).unwrap();
    let mut t = db.begin().unwrap();
    t.put_with("two", "v", options).unwrap();
    assert!(!t.contains("two").unwrap());
    t.commit().unwrap();
    assert!(!db.contains("one").unwrap() && !db.contains("two").unwrap());
}

#[derive(Debug, Default)]
struct GoesBack {
    calls: AtomicU64,
    at: AtomicU64,
    before: AtomicU64,
    after: AtomicU64,
}

impl Clock for GoesBack {
    fn now(&self) -> u64 {
        let n = self.calls.fetch_add(1, Ordering::SeqCst);
        let from = if n < self.at.load(Ordering::SeqCst) { &self.before } else { &self.after };
        from.load(Ordering::SeqCst)
    }
}

#[test]
fn rule_35_a_compaction_ends_although_the_clock_goes_back_meanwhile() {
    let mut hung = Vec::new();
    for k in 0..6 {
        let fs = Arc::new(MemFs::new());
        let clock = Arc::new(GoesBack::default());
        clock.after.store(1000, Ordering::SeqCst);
        let db = common::manual().open_with(fs.clone(), clock.clone(), common::PATH).unwrap();
        for i in 0..10 {
            let options = WriteOptions::default().expires_at(1_000_000);
            db.put_with(format!("key{i}"), "value", options).unwrap();
        }
        db.compact().unwrap();
        clock.before.store(2000, Ordering::SeqCst);
        clock.after.store(1999, Ordering::SeqCst);
        clock.at.store(clock.calls.load(Ordering::SeqCst) + k, Ordering::SeqCst);
        let (done, wait) = mpsc::channel();
        let operations = fs.operations();
        let compacting = db.clone();
        std::thread::spawn(move || {
            compacting.compact().ok();
            done.send(()).ok();
        });
        if wait.recv_timeout(Duration::from_secs(5)).is_err() {
            hung.push((k, fs.operations() - operations));
            // Ends it.
            clock.after.store(3000, Ordering::SeqCst);
            wait.recv_timeout(Duration::from_secs(5)).unwrap();
        }
    }
    assert!(hung.is_empty(), "never ends, when back at the call, operations meanwhile: {hung:?}");
}

#[test]
fn a_ttl_in_a_transaction_counts_from_no_earlier_than_its_own_clock() {
    let clock = Arc::new(ManualClock::new(2000));
    let db = tiny().open_with(Arc::new(MemFs::new()), clock.clone(), common::PATH).unwrap();
    let ttl = WriteOptions::default().ttl(Duration::from_secs(5));
    let mut t = db.begin().unwrap();
    clock.set(1990);
    t.put_with("own", "v", ttl).unwrap();
    assert_eq!(t.get("own").unwrap().unwrap(), "v", "it sees its own write");
    assert_eq!(t.get_entry("own").unwrap().unwrap().expires_at(), Some(2005));
    // The earlier of the two, and from a clock that went on.
    t.put_with("both", "v", ttl.expires_at(2003)).unwrap();
    clock.set(2002);
    t.put_with("later", "v", ttl).unwrap();
    t.commit().unwrap();
    let expiry = |key| db.get_entry(key).unwrap().unwrap().expires_at();
    assert_eq!([expiry("own"), expiry("both"), expiry("later")], [2005, 2003, 2007].map(Some));
    db.close().unwrap();
}
