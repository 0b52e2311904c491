//! Merge operands: written blindly, folded by readers and in the background (SEMANTICS, rule 38).

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::common::{PATH, manual, memory, scale, tiny};
use kvdb::vfs::{Fs, ManualClock, MemFs};
use kvdb::{
    Db, Durability, Error, ErrorKind, MergeOperator, Options, Result, Snapshot, WriteOptions,
};

/// Associative, and tells in which order it was applied.
fn append() -> MergeOperator {
    MergeOperator::new(|_key, older, newer| [older, newer].concat())
}

fn options() -> Options {
    tiny().durability(Durability::Buffered).merge_operator(append())
}

fn text(db: &Db, key: &str) -> Option<String> {
    db.get(key).unwrap().map(|v| String::from_utf8(v.into_vec()).unwrap())
}

#[test]
fn rule_38_get_folds_operands_oldest_first_and_a_delete_is_a_barrier() {
    let fs = Arc::new(MemFs::new());
    let db = options().open_in(fs, PATH).unwrap();
    let check = |db: &Db| {
        assert_eq!(text(db, "based").as_deref(), Some("base+a+b"));
        assert_eq!(text(db, "bare").as_deref(), Some("+x+y"));
        assert_eq!(text(db, "deleted").as_deref(), Some("+n"));
        assert_eq!(text(db, "gone"), None);
    };
    db.put("based", "base").unwrap();
    db.put("deleted", "old").unwrap();
    db.put("gone", "old").unwrap();
    db.merge("gone", "+z").unwrap();
    db.flush().unwrap();
    db.merge("based", "+a").unwrap();
    db.merge("bare", "+x").unwrap();
    db.delete("deleted").unwrap();
    db.delete("gone").unwrap();
    db.flush().unwrap();
    db.merge("based", "+b").unwrap();
    db.merge("bare", "+y").unwrap();
    db.merge("deleted", "+n").unwrap();
    check(&db);
    db.flush().unwrap();
    check(&db);
    db.compact().unwrap();
    check(&db);
    db.verify().unwrap();
}

#[test]
fn rule_38_add_is_a_blind_write_and_never_conflicts() {
    let fs = Arc::new(MemFs::new());
    let db = options().open_in(fs, PATH).unwrap();
    let mut one = db.begin().unwrap();
    let mut two = db.begin().unwrap();
    one.merge("k", "1").unwrap();
    two.merge("k", "2").unwrap();
    two.commit().unwrap();
    one.commit().unwrap();
    assert_eq!(text(&db, "k").as_deref(), Some("21"));
    // To read what was merged is a read of what lies below.
    let mut reader = db.begin().unwrap();
    reader.merge("k", "3").unwrap();
    assert_eq!(reader.get("k").unwrap().unwrap(), "213");
    db.merge("k", "4").unwrap();
    assert!(matches!(reader.commit(), Err(Error::Conflict)));
}

#[test]
fn rule_38_a_transaction_and_a_batch_fold_their_own_writes() {
    let fs = Arc::new(MemFs::new());
    let db = options().open_in(fs, PATH).unwrap();
    db.put("k", "old").unwrap();
    let mut t = db.begin().unwrap();
    t.merge("k", "+1").unwrap();
    t.merge("k", "+2").unwrap();
    assert_eq!(t.get("k").unwrap().unwrap(), "old+1+2");
    let item = t.iter().next().unwrap().unwrap();
    assert_eq!(item.value().unwrap(), "old+1+2");
    assert_eq!(t.multi_get(["k"]).unwrap()[0].as_ref().unwrap(), "old+1+2");
    t.delete("k").unwrap();
    t.merge("k", "new").unwrap();
    assert_eq!(t.get("k").unwrap().unwrap(), "new");
    assert_eq!(t.get_entry("k").unwrap().unwrap().value().unwrap(), "new");
    t.commit().unwrap();
    assert_eq!(text(&db, "k").as_deref(), Some("new"));
    let mut batch = db.batch();
    batch.put("b", "x").unwrap();
    batch.merge("b", "y").unwrap();
    batch.merge("k", "er").unwrap();
    batch.commit().unwrap();
    assert_eq!((text(&db, "b").as_deref(), text(&db, "k").as_deref()), (Some("xy"), Some("newer")));
}

#[test]
fn rule_38_the_background_fold_keeps_one_version() {
    let fs = Arc::new(MemFs::new());
    let options = manual().durability(Durability::Buffered).merge_operator(append());
    let db = options.open_in(fs, PATH).unwrap();
    let entries = |db: &Db| db.stats().levels.iter().map(|l| l.entries).sum::<u64>();
    db.put_with("based", "base", WriteOptions::default().user_meta(7)).unwrap();
    for i in 0..50 {
        db.merge("based", format!("{}", i % 10)).unwrap();
        db.merge("bare", format!("{}", i % 10)).unwrap();
        if i == 20 {
            db.flush().unwrap();
        }
    }
    let digits: String = (0..50).map(|i| char::from(b'0' + i % 10)).collect();
    let hold = db.snapshot().unwrap();
    db.merge("bare", "!").unwrap();
    db.flush().unwrap();
    // What the snapshot needs stays apart: its fold, and the operand it does not see.
    assert!(entries(&db) <= 3 + 2, "flushes fold as well: {}", entries(&db));
    db.compact().unwrap();
    assert_eq!(entries(&db), 3, "base, and bare with what the snapshot does not see");
    assert_eq!(hold.get("bare").unwrap().unwrap(), digits.as_str());
    drop(hold);
    db.compact().unwrap();
    assert_eq!(entries(&db), 2);
    assert_eq!(text(&db, "based"), Some(format!("base{digits}")));
    assert_eq!(db.get_entry("based").unwrap().unwrap().user_meta(), 7);
    assert_eq!(text(&db, "bare"), Some(format!("{digits}!")));
    // At the bottom they have become values: nothing has to be folded any more.
    drop(db);
}

#[test]
fn rule_38_a_folded_store_opens_without_the_operator_and_an_unfolded_one_says_what_is_missing() {
    let fs = Arc::new(MemFs::new());
    let db = options().open_in(fs.clone(), PATH).unwrap();
    db.put("folded", "").unwrap();
    db.merge("folded", "f").unwrap();
    db.compact().unwrap();
    db.put("plain", "p").unwrap();
    db.put("unfolded", "u").unwrap();
    db.merge("unfolded", "v").unwrap();
    db.close().unwrap();

    let bare = tiny().durability(Durability::Buffered);
    let db = bare.open_in(fs.clone(), PATH).unwrap();
    let refused = |error: Error| {
        assert!(matches!(&error, Error::NoMergeOperator { key } if key == b"unfolded"), "{error}");
        assert_eq!(error.kind(), ErrorKind::Usage);
    };
    for _ in 0..2 {
        assert_eq!(text(&db, "plain").as_deref(), Some("p"));
        assert_eq!(text(&db, "folded").as_deref(), Some("f"));
        refused(db.get("unfolded").unwrap_err());
        refused(db.get_with("unfolded", |_| ()).unwrap_err());
        refused(db.get_entry("unfolded").unwrap_err());
        refused(db.multi_get(["plain", "unfolded"]).unwrap_err());
        let items: Vec<_> = db.iter().unwrap().collect();
        assert_eq!(items.len(), 3);
        refused(items.into_iter().nth(2).unwrap().unwrap_err());
        let keys: Vec<_> = db.iter().unwrap().keys().collect::<Result<_>>().unwrap();
        assert_eq!(keys, [&b"folded"[..], b"plain", b"unfolded"]);
        // Compaction without the operator loses nothing.
        db.compact().unwrap();
    }
    assert!(matches!(db.merge("k", "v"), Err(Error::NoMergeOperator { .. })));
    assert!(matches!(db.batch().merge("k", "v"), Err(Error::NoMergeOperator { .. })));
    assert!(matches!(db.begin().unwrap().merge("k", "v"), Err(Error::NoMergeOperator { .. })));
    db.close().unwrap();

    let db = options().open_in(fs, PATH).unwrap();
    assert_eq!(text(&db, "unfolded").as_deref(), Some("uv"));
}

#[test]
fn rule_38_operands_lie_on_values_of_the_log_and_many_on_each_other() {
    let (_, fs) = memory();
    let db = options().open_in(fs, "/other").unwrap();
    let base = "x".repeat(5000); // above the threshold
    db.put_with("k", &base, WriteOptions::default().user_meta(7)).unwrap();
    for _ in 0..100 {
        db.merge("k", "+").unwrap();
    }
    db.merge("big", "y".repeat(5000)).unwrap();
    let check = |db: &Db| {
        assert_eq!(text(db, "k"), Some(base.clone() + &"+".repeat(100)));
        let item = db.get_entry("k").unwrap().unwrap();
        assert_eq!((item.user_meta(), item.value_len()), (7, 5100));
        assert_eq!(text(db, "big"), Some("y".repeat(5000)));
        let mut cursor = db.snapshot().unwrap().cursor(..);
        assert!(cursor.last().unwrap());
        assert_eq!((cursor.value_len().unwrap(), cursor.user_meta()), (5100, 7));
        assert_eq!(cursor.value().unwrap().len(), 5100);
        assert_eq!(cursor.inline_value().unwrap().len(), 5100);
    };
    check(&db);
    db.compact().unwrap();
    check(&db);
    db.verify().unwrap();
}

#[test]
fn rule_38_a_range_drop_is_a_barrier_however_many_operands_lie_on_it() {
    let db = options().open_in(Arc::new(MemFs::new()), PATH).unwrap();
    for above in [1, 3, 4, 5, 20] {
        db.put("k", "base").unwrap();
        db.merge("k", "+dropped").unwrap();
        let before = db.snapshot().unwrap();
        db.drop_prefix("k").unwrap();
        for _ in 0..above {
            db.merge("k", "+").unwrap();
        }
        assert_eq!(text(&db, "k"), Some("+".repeat(above)));
        assert_eq!(before.get("k").unwrap().unwrap(), "base+dropped");
    }
}

#[test]
fn rule_38_and_25_versions_to_keep_are_not_folded_into_one() {
    let options = manual().durability(Durability::Buffered).merge_operator(append());
    let db = options.versions_to_keep(3).open_in(Arc::new(MemFs::new()), PATH).unwrap();
    for digit in ["1", "2", "3", "4", "5"] {
        db.merge("k", digit).unwrap();
    }
    for _ in 0..2 {
        let items = db.iter().unwrap().versions().take(3).collect::<Result<Vec<_>>>().unwrap();
        let values: Vec<_> = items.iter().map(|item| item.value().unwrap().into_vec()).collect();
        assert_eq!(values, [&b"12345"[..], b"1234", b"123"]);
        db.flush().unwrap();
        db.compact().unwrap();
    }
}

#[test]
fn rule_38_on_an_expired_value_operands_stand_alone() {
    let clock = Arc::new(ManualClock::new(100));
    let fs: Arc<dyn Fs> = Arc::new(MemFs::new());
    let db = options().open_with(fs, clock.clone(), PATH).unwrap();
    db.put_with("k", "base", WriteOptions::default().expires_at(200)).unwrap();
    db.merge("k", "+1").unwrap();
    let early = db.snapshot().unwrap();
    for _ in 0..2 {
        clock.set(200);
        assert_eq!(text(&db, "k").as_deref(), Some("+1"));
        assert_eq!(early.get("k").unwrap().unwrap(), "base+1", "its clock has not come so far");
        db.compact().unwrap();
    }
    drop(early);
    db.compact().unwrap();
    assert_eq!(text(&db, "k").as_deref(), Some("+1"));
}

/// What a snapshot should show.
type State = BTreeMap<Vec<u8>, Vec<u8>>;

fn compare(snapshot: &Snapshot, state: &State) {
    let items: Vec<_> = snapshot.iter().collect::<Result<_>>().unwrap();
    let forward: State =
        items.iter().map(|item| (item.key().to_vec(), item.value().unwrap().into_vec())).collect();
    assert_eq!(&forward, state);
    let mut backward: Vec<_> = snapshot.iter().rev().collect::<Result<_>>().unwrap();
    backward.reverse();
    assert_eq!(backward.len(), items.len());
    for (a, b) in items.iter().zip(&backward) {
        assert_eq!((a.key(), a.version()), (b.key(), b.version()));
        assert_eq!(a.value().unwrap(), b.value().unwrap());
        let newest = snapshot.versions().find(|v| v.as_ref().unwrap().key() == a.key());
        let newest = newest.unwrap().unwrap();
        assert_eq!((newest.version(), newest.value().unwrap()), (a.version(), a.value().unwrap()));
    }
    let keys: Vec<&Vec<u8>> = state.keys().collect();
    let values = snapshot.multi_get(&keys).unwrap();
    for (key, value) in keys.iter().zip(values) {
        assert_eq!(value.unwrap(), state[*key]);
        assert!(snapshot.contains(key).unwrap());
        assert!(snapshot.get_with(key, |v| v == state[*key]).unwrap().unwrap());
    }
}

#[test]
fn rule_38_every_reader_agrees_with_a_model_while_operands_are_folded_in_the_background() {
    for seed in 0..8 * scale() {
        let mut rng = fastrand::Rng::with_seed(seed);
        let fs = Arc::new(MemFs::new());
        let options = match seed % 2 {
            0 => options(),
            _ => options().versions_to_keep(3),
        };
        let mut db = options.open_in(fs.clone(), PATH).unwrap();
        let mut state = State::new();
        let mut held: Vec<(Snapshot, State)> = Vec::new();
        for step in 0..400u32 {
            let key = vec![b'a' + rng.u8(..6)];
            match rng.u32(..100) {
                0..55 => {
                    let operand = format!("{step},").repeat(rng.usize(1..4));
                    db.merge(&key, &operand).unwrap();
                    state.entry(key).or_default().extend(operand.bytes());
                }
                55..70 => {
                    let value = format!("={step},").repeat(if rng.bool() { 1 } else { 60 });
                    db.put(&key, &value).unwrap();
                    state.insert(key, value.into_bytes());
                }
                70..80 => {
                    db.delete(&key).unwrap();
                    state.remove(&key);
                }
                80..88 => db.flush().unwrap(),
                88..92 => db.compact().unwrap(),
                92..96 => held.push((db.snapshot().unwrap(), state.clone())),
                96..98 if !held.is_empty() => {
                    let (snapshot, then) = held.swap_remove(rng.usize(..held.len()));
                    compare(&snapshot, &then);
                }
                98 => {
                    held.clear();
                    db.close().unwrap();
                    db = options.open_in(fs.clone(), PATH).unwrap();
                }
                _ => compare(&db.snapshot().unwrap(), &state),
            }
        }
        for (snapshot, then) in &held {
            compare(snapshot, then);
        }
        held.clear();
        db.compact().unwrap();
        compare(&db.snapshot().unwrap(), &state);
        db.verify().unwrap();
    }
}
