//! Reading many keys at once, and values as handles (SEMANTICS, 8, 13 and 33).

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::common::{PATH, manual, memory, scale, tiny, value};
use kvdb::vfs::{Clock, MemFs};
use kvdb::{Durability, Error, MergeOperator, Value, WriteOptions};

#[test]
fn multi_get_answers_as_get_does_whatever_the_order_and_however_often_a_key_is_asked_for() {
    let (db, _fs) = memory();
    let mut rng = fastrand::Rng::with_seed(5);
    for i in 0..600u64 {
        db.put(format!("{:03}", rng.u32(..400)), value(i, rng.usize(..600))).unwrap();
        if i % 150 == 149 {
            db.delete(format!("{:03}", rng.u32(..400))).unwrap();
            db.flush().unwrap();
        }
    }
    let held = db.snapshot().unwrap();
    for _ in 0..20 * scale() {
        let keys: Vec<String> =
            (0..rng.usize(..120)).map(|_| format!("{:03}", rng.u32(..420))).collect();
        let expected: Vec<Option<Value>> = keys.iter().map(|k| held.get(k).unwrap()).collect();
        assert_eq!(held.multi_get(&keys).unwrap(), expected);
        assert_eq!(db.multi_get(&keys).unwrap(), expected);
        let mut t = db.begin().unwrap();
        assert_eq!(t.multi_get(&keys).unwrap(), expected);
        if let Some(key) = keys.first() {
            t.delete(key).unwrap();
            assert!(t.multi_get(&keys).unwrap()[0].is_none(), "its own delete");
        }
    }
    // A snapshot stays what it was.
    let keys: Vec<String> = (0..400).map(|i| format!("{i:03}")).collect();
    let before = held.multi_get(&keys).unwrap();
    for key in &keys {
        db.put(key, "new").unwrap();
    }
    db.compact().unwrap();
    assert_eq!(held.multi_get(&keys).unwrap(), before);
    assert!(db.multi_get(&keys).unwrap().into_iter().all(|v| v.unwrap() == "new"));
}

/// A clock of which each look is a second later than the one before, once it runs.
#[derive(Debug, Default)]
struct Ticking {
    now: AtomicU64,
    step: AtomicU64,
}

impl Clock for Ticking {
    fn now(&self) -> u64 {
        self.now.fetch_add(self.step.load(Ordering::SeqCst), Ordering::SeqCst)
    }
}

#[test]
fn rule_35_what_expires_at_one_moment_is_there_for_every_key_of_a_multi_get_or_for_none() {
    let clock = Arc::new(Ticking::default());
    clock.now.store(100, Ordering::SeqCst);
    let append = MergeOperator::new(|_, older, newer| [older, newer].concat());
    let options = manual().merge_operator(append);
    let db = options.open_with(Arc::new(MemFs::new()), clock.clone(), PATH).unwrap();
    let (plain, folded): (Vec<_>, Vec<_>) =
        (0..8u8).map(|i| (format!("a{i}"), format!("b{i}"))).unzip();
    let mut batch = db.batch();
    for key in plain.iter().chain(&folded) {
        batch.put_with(key, "v", WriteOptions::default().expires_at(108)).unwrap();
    }
    batch.commit().unwrap();
    for key in &folded {
        db.merge(key, "w").unwrap();
    }
    clock.now.store(104, Ordering::SeqCst);
    let (snapshot, t) = (db.snapshot().unwrap(), db.begin().unwrap());
    clock.step.store(1, Ordering::SeqCst);
    for there in [true, false] {
        clock.now.store(if there { 107 } else { 108 }, Ordering::SeqCst);
        let all = db.multi_get(plain.iter().chain(&folded)).unwrap();
        let (values, folds) = all.split_at(plain.len());
        assert!(values.iter().all(|v| v.is_some() == there), "{values:?}");
        let fold = if there { "vw" } else { "w" };
        assert!(folds.iter().all(|v| v.as_ref().unwrap() == fold), "{folds:?}");
    }
    // Snapshots and transactions have a clock of their own, which does not run.
    clock.now.store(200, Ordering::SeqCst);
    for values in [snapshot.multi_get(&plain).unwrap(), t.multi_get(&plain).unwrap()] {
        assert!(values.iter().all(Option::is_some), "{values:?}");
    }
}

#[test]
fn rule_8_multi_get_refuses_an_empty_key_and_a_closed_database() {
    let (db, _fs) = memory();
    assert!(matches!(db.multi_get(["a", ""]), Err(Error::EmptyKey)));
    assert_eq!(db.multi_get::<&str>([]).unwrap(), []);
    db.close().unwrap();
    assert!(matches!(db.multi_get(["a"]), Err(Error::Closed)));
}

#[test]
fn rule_19_multi_get_in_a_transaction_is_a_read_of_each_key() {
    let (db, _fs) = memory();
    for (key, conflicts) in [("absent", true), ("other", false)] {
        let mut t = db.begin().unwrap();
        t.multi_get(["present", "absent"]).unwrap();
        t.put("own", "v").unwrap();
        db.put(key, "v").unwrap();
        assert_eq!(matches!(t.commit(), Err(Error::Conflict)), conflicts, "{key}");
    }
}

#[test]
fn values_are_handles_that_outlive_the_database() {
    let fs = Arc::new(MemFs::new());
    let db = tiny().durability(Durability::Buffered).open_in(fs, PATH).unwrap();
    let (small, large) = (value(1, 50), value(2, 5000));
    db.put("small", &small).unwrap();
    db.put("large", &large).unwrap();
    let values = db.multi_get(["small", "large"]).unwrap();
    db.compact().unwrap();
    let again = db.multi_get(["small", "large"]).unwrap();
    drop(db);
    for values in [values, again] {
        let [a, b] = <[Option<Value>; 2]>::try_from(values).unwrap().map(Option::unwrap);
        assert_eq!((&a[..], b.as_ref()), (&small[..], &large[..]));
        let clone = b.clone();
        assert_eq!(clone.as_ptr(), b.as_ptr(), "a clone is the same bytes");
        assert_eq!((Vec::from(a), b.into_vec()), (small.clone(), large.clone()));
    }
}

#[cfg(feature = "bytes")]
#[test]
fn a_value_becomes_bytes_without_a_copy() {
    let (db, _fs) = memory();
    db.put("k", value(1, 5000)).unwrap();
    let got = db.get("k").unwrap().unwrap();
    let at = got.as_ptr();
    let bytes = bytes::Bytes::from(got);
    drop(db);
    assert_eq!(bytes.as_ptr(), at);
    assert_eq!(bytes, value(1, 5000));
}
