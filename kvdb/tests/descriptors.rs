//! Reads that find no descriptor have tables closed and are tried once more: all kinds of them.
#![allow(clippy::unwrap_used)] // a test may panic

mod common;

use std::path::PathBuf;
use std::sync::Arc;

use common::tiny;
use kvdb::vfs::{Fault, FaultFs, FaultPlan, Op, OsFs};
use kvdb::{Background, Db, Durability, MergeOperator, Options, Result};

const KEYS: u64 = 12_000;

fn key(i: u64) -> Vec<u8> {
    i.to_be_bytes().to_vec()
}

/// A store in a directory: its tables, and a file system that refuses to open one when it is told to.
struct Store {
    dir: tempfile::TempDir,
    faults: FaultFs,
    db: Db,
}

fn options() -> Options {
    let append = MergeOperator::new(|_, older, newer| [older, newer].concat());
    let options = tiny().durability(Durability::Buffered).merge_operator(append);
    // Nobody but readers closes any.
    options.background(Background::Manual)
}

impl Store {
    /// Every key has its number for a value.
    fn new() -> Store {
        let dir = tempfile::tempdir().unwrap();
        let faults = FaultFs::new(Arc::new(OsFs::new()));
        let open = || options().open_in(Arc::new(faults.clone()), dir.path().join("db")).unwrap();
        let db = open();
        for i in 0..KEYS {
            let i = i * 7919 % KEYS;
            db.put(key(i), [&key(i)[..], &[0; 100]].concat()).unwrap();
        }
        db.compact().unwrap();
        db.close().unwrap();
        drop(db);
        let db = open();
        Store { dir, faults, db }
    }

    /// Opens the tables of some of the keys.
    fn read(&self, keys: std::ops::Range<u64>) {
        for i in keys.step_by(20) {
            self.db.get(key(i)).unwrap().unwrap();
        }
        assert!(self.descriptors().is_none_or(|n| n > 40), "{:?} open", self.descriptors());
    }

    /// Runs something to which the system refuses one descriptor, when it has been refused `after` none.
    /// In the end fewer tables are open than at first.
    fn refusing<R>(&self, after: u64, work: impl FnOnce() -> Result<R>) -> R {
        let before = self.descriptors();
        let plan = FaultPlan::new(Fault::TooManyFiles).on(&[Op::Open]).path(".sst").after(after);
        let refused = self.faults.arm(plan);
        let outcome = work();
        assert_eq!(refused.fired(), 1);
        refused.disarm();
        let outcome = outcome.unwrap();
        let (before, now) = (before.unwrap_or(4), self.descriptors().unwrap_or(3));
        assert!(now < before * 7 / 8, "{before} open, then {now}");
        outcome
    }

    /// Descriptors of tables. `None` where that cannot be told.
    fn descriptors(&self) -> Option<usize> {
        let fds = std::fs::read_dir("/proc/self/fd").ok()?;
        let paths = fds.filter_map(|fd| std::fs::read_link(fd.ok()?.path()).ok());
        let ours = |p: &PathBuf| {
            p.starts_with(self.dir.path()) && p.extension().is_some_and(|e| e == "sst")
        };
        Some(paths.filter(ours).count())
    }
}

/// Everything below, then everything above.
const LOWER: std::ops::Range<u64> = 0..KEYS * 3 / 4;
const UPPER: std::ops::Range<u64> = KEYS / 4..KEYS;

#[test]
fn many_keys_at_once() {
    let store = Store::new();
    store.read(LOWER);
    let keys: Vec<_> = (0..KEYS).step_by(100).map(key).collect();
    // Copies: a value keeps its table open.
    let copies = |values: Vec<Option<kvdb::Value>>| -> Vec<_> {
        values.into_iter().map(|value| value.unwrap()[..8].to_vec()).collect()
    };
    assert_eq!(store.refusing(0, || Ok(copies(store.db.multi_get(&keys)?))), keys);
    let store = Store::new();
    store.read(UPPER);
    let snapshot = store.db.snapshot().unwrap();
    assert_eq!(store.refusing(0, || Ok(copies(snapshot.multi_get(&keys)?))), keys);
}

#[test]
fn operands_whose_value_is_in_another_table() {
    let store = Store::new();
    let last = key(KEYS - 1);
    for operand in ["a", "b"] {
        store.db.merge(&last, operand).unwrap();
    }
    let expected = [&last[..], &[0; 100], b"ab"].concat();
    store.read(LOWER);
    let found = store.refusing(0, || store.db.get(&last));
    assert_eq!(found.unwrap(), expected);

    let store = Store::new();
    store.db.merge(&last, "ab").unwrap();
    store.read(LOWER);
    let calls = std::cell::Cell::new(0);
    let read = |bytes: &[u8]| {
        calls.set(calls.get() + 1);
        bytes.to_vec()
    };
    assert_eq!(store.refusing(0, || store.db.get_with(&last, read)).unwrap(), expected);
    assert_eq!(calls.get(), 1);

    let store = Store::new();
    let mut transaction = store.db.begin().unwrap();
    transaction.merge(&last, "ab").unwrap();
    store.read(LOWER);
    assert_eq!(store.refusing(0, || transaction.get(&last)).unwrap(), expected);
}

fn numbers(items: impl Iterator<Item = Result<kvdb::Item>>) -> Result<Vec<u64>> {
    items.map(|item| Ok(u64::from_be_bytes(item?.key().try_into().unwrap()))).collect()
}

/// An iterator holds what was open when it began.
#[test]
fn an_iterator_goes_on_where_it_was_whichever_table_it_does_not_get() {
    let forward: Vec<u64> = (0..KEYS).collect();
    let backward: Vec<u64> = (0..KEYS).rev().collect();
    for after in [0, 1, 7] {
        let store = Store::new();
        store.read(LOWER);
        let seen = store.refusing(after, || numbers(store.db.iter()?));
        assert_eq!(seen, forward);
        let store = Store::new();
        store.read(UPPER);
        let seen = store.refusing(after, || numbers(store.db.iter()?.rev()));
        assert_eq!(seen, backward);
    }
}

#[test]
fn the_two_ends_of_an_iterator_meet_also_if_one_of_them_has_failed_on_the_way() {
    for (open, after) in [(LOWER, 0), (LOWER, 3), (UPPER, 0), (UPPER, 3), (LOWER, 5)] {
        let store = Store::new();
        store.read(open);
        let mut iter = store.db.iter().unwrap();
        let (mut front, mut back) = (Vec::new(), Vec::new());
        store.refusing(after, || {
            // The front is some entries ahead.
            front.extend(numbers(iter.by_ref().take(100))?);
            loop {
                let ends = [iter.next(), iter.next_back()];
                for (end, list) in ends.into_iter().zip([&mut front, &mut back]) {
                    list.extend(numbers(end.into_iter())?);
                }
                if front.len() + back.len() >= KEYS as usize {
                    return Ok(());
                }
            }
        });
        assert!(iter.next().is_none() && iter.next_back().is_none());
        back.reverse();
        front.extend(back);
        assert!(front.iter().copied().eq(0..KEYS), "{after}");
    }
}

#[test]
fn what_a_transaction_has_written_is_in_its_iterator_as_well_afterwards() {
    let store = Store::new();
    let mut transaction = store.db.begin().unwrap();
    transaction.delete(key(5)).unwrap();
    transaction.put(key(KEYS), "new").unwrap();
    // Committed since: not to be seen.
    store.db.put(key(KEYS + 1), "later").unwrap();
    store.db.delete(key(KEYS - 2)).unwrap();
    store.read(LOWER);
    let seen = store.refusing(2, || numbers(transaction.iter()));
    assert!(seen.into_iter().eq((0..=KEYS).filter(|&i| i != 5)));
}

#[test]
fn a_cursor_is_moved_once_more() {
    type Moves = fn(&mut kvdb::Cursor<'_>) -> Result<u64>;
    fn at(cursor: &kvdb::Cursor<'_>) -> u64 {
        u64::from_be_bytes(cursor.key().try_into().unwrap())
    }
    let moves: [(&str, Moves, u64); 6] = [
        ("first", |c| c.first().map(|_| at(c)), 0),
        ("last", |c| c.last().map(|_| at(c)), KEYS - 1),
        ("seek", |c| c.seek(key(KEYS - 1)).map(|_| at(c)), KEYS - 1),
        ("seek_for_prev", |c| c.seek_for_prev(key(0)).map(|_| at(c)), 0),
        (
            "next",
            |c| {
                let mut n = 0;
                while c.next()? {
                    assert_eq!(at(c), n);
                    n += 1;
                }
                Ok(n)
            },
            KEYS,
        ),
        (
            "prev",
            |c| {
                let mut n = KEYS;
                let mut on = c.last()?;
                while on {
                    n -= 1;
                    assert_eq!(at(c), n);
                    on = c.prev()?;
                }
                Ok(n)
            },
            0,
        ),
    ];
    for (name, moves, expected) in moves {
        let store = Store::new();
        store.read(if matches!(name, "first" | "seek_for_prev") { UPPER } else { LOWER });
        let mut cursor = store.db.snapshot().unwrap().cursor(..);
        let reached = store.refusing(0, || moves(&mut cursor));
        assert_eq!(reached, expected, "{name}");
    }
}

#[test]
fn one_more_try_is_all() {
    let store = Store::new();
    store.read(LOWER);
    let mut iter = store.db.iter().unwrap();
    iter.seek(key(KEYS - 1));
    let plan = FaultPlan::new(Fault::TooManyFiles).on(&[Op::Open]).path(".sst").forever();
    let refused = store.faults.arm(plan);
    assert!(iter.next().unwrap().is_err());
    assert_eq!(refused.fired(), 2);
    assert!(iter.next().is_none(), "an error ends it");
    refused.disarm();
    iter.seek(key(KEYS - 1));
    assert_eq!(iter.next().unwrap().unwrap().key(), key(KEYS - 1));
}
