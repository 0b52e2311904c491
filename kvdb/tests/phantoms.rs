//! SEMANTICS rules 19 and 21: nothing that a transaction has seen may be changed by another commit
//! without a conflict, whichever way it looked.
//!
//! A transaction takes random steps: cursors and iterators over random bounds, moved in every
//! direction, seeks outside the bounds, point reads, writes of its own. Meanwhile another commit
//! changes one key. If the transaction commits all the same, then the same steps taken after the
//! other commit must show the same: it comes after it in the serial order.
#![allow(clippy::unwrap_used)] // a test may panic

mod common;

use std::ops::Bound;

use common::{memory, scale};
use kvdb::{Cursor, Db, Error, Item, Iter, Result, Transaction};

#[derive(Debug, Clone)]
enum Step {
    Get(Vec<u8>),
    Put(Vec<u8>),
    Delete(Vec<u8>),
    Cursor(Bound<Vec<u8>>, Bound<Vec<u8>>, Vec<Move>),
    Iter(Bound<Vec<u8>>, Bound<Vec<u8>>, Vec<Move>),
    Keys(Bound<Vec<u8>>, Bound<Vec<u8>>, Vec<bool>),
}

#[derive(Debug, Clone)]
enum Move {
    First,
    Last,
    Seek(Vec<u8>),
    SeekBack(Vec<u8>),
    Next,
    Prev,
}

fn key(rng: &mut fastrand::Rng) -> Vec<u8> {
    let mut key = vec![rng.u8(b'a'..=b'l')];
    if rng.u8(..4) == 0 {
        key.push(rng.u8(0..2));
    }
    key
}

fn bound(rng: &mut fastrand::Rng) -> Bound<Vec<u8>> {
    match rng.u8(..4) {
        0 => Bound::Included(key(rng)),
        1 => Bound::Excluded(key(rng)),
        _ => Bound::Unbounded,
    }
}

fn moves(rng: &mut fastrand::Rng) -> Vec<Move> {
    let one = |rng: &mut fastrand::Rng| match rng.u8(..10) {
        0 => Move::First,
        1 => Move::Last,
        2 => Move::Seek(key(rng)),
        3 => Move::SeekBack(key(rng)),
        4..7 => Move::Next,
        _ => Move::Prev,
    };
    (0..rng.usize(1..6)).map(|_| one(rng)).collect()
}

fn step(rng: &mut fastrand::Rng) -> Step {
    match rng.u8(..10) {
        0 => Step::Get(key(rng)),
        1 => Step::Put(key(rng)),
        2 => Step::Delete(key(rng)),
        3..7 => Step::Cursor(bound(rng), bound(rng), moves(rng)),
        7 | 8 => Step::Iter(bound(rng), bound(rng), moves(rng)),
        _ => Step::Keys(bound(rng), bound(rng), (0..4).map(|_| rng.bool()).collect()),
    }
}

/// What a step shows. The version tells one commit's value from another's.
type Seen = Option<(Vec<u8>, Vec<u8>)>;

fn seen_by(cursor: &Cursor<'_>, on: Result<bool>) -> Seen {
    on.unwrap().then(|| (cursor.key().to_vec(), cursor.value().unwrap().into_vec()))
}

fn seen_in(item: Option<Result<Item>>) -> Seen {
    let item = item?.unwrap();
    let value = item.value().unwrap().into_vec();
    Some((item.into_key(), value))
}

fn take(t: &mut Transaction, steps: &[Step]) -> Vec<Seen> {
    let mut seen = Vec::new();
    for step in steps {
        match step {
            Step::Get(key) => {
                seen.push(t.get(key).unwrap().map(|v| (key.clone(), v.into_vec())));
            }
            Step::Put(key) => t.put(key, "own").unwrap(),
            Step::Delete(key) => t.delete(key).unwrap(),
            Step::Cursor(lower, upper, moves) => {
                let mut cursor = t.cursor((lower.clone(), upper.clone()));
                for m in moves {
                    let on = match m {
                        Move::First => cursor.first(),
                        Move::Last => cursor.last(),
                        Move::Seek(key) => cursor.seek(key),
                        Move::SeekBack(key) => cursor.seek_for_prev(key),
                        Move::Next => cursor.next(),
                        Move::Prev => cursor.prev(),
                    };
                    seen.push(seen_by(&cursor, on));
                }
            }
            Step::Iter(lower, upper, moves) => {
                let mut iter: Iter<'_> = t.range((lower.clone(), upper.clone()));
                for m in moves {
                    match m {
                        Move::Seek(key) => iter.seek(key),
                        Move::SeekBack(key) => iter.seek_back(key),
                        Move::First | Move::Next => seen.push(seen_in(iter.next())),
                        Move::Last | Move::Prev => seen.push(seen_in(iter.next_back())),
                    }
                }
            }
            Step::Keys(lower, upper, forward) => {
                let mut keys = t.range((lower.clone(), upper.clone())).keys();
                for forward in forward {
                    let key = if *forward { keys.next() } else { keys.next_back() };
                    seen.push(key.map(|k| (k.unwrap(), Vec::new())));
                }
            }
        }
    }
    seen
}

fn fill(db: &Db, rng: &mut fastrand::Rng, round: u64) {
    let mut batch = db.batch();
    for _ in 0..4 {
        let key = key(rng);
        if rng.bool() {
            batch.put(key, round.to_be_bytes()).unwrap();
        } else {
            batch.delete(key).unwrap();
        }
    }
    batch.commit().unwrap();
}

#[test]
fn rules_19_and_21_what_was_seen_has_not_changed_when_a_transaction_commits() {
    let (db, _fs) = memory();
    let mut rng = fastrand::Rng::with_seed(19);
    let (mut conflicts, mut needless, mut commits) = (0, 0, 0);
    for round in 0..20_000 * scale() {
        fill(&db, &mut rng, round);
        if round % 500 == 0 {
            db.flush().unwrap();
        }
        let steps: Vec<Step> = (0..rng.usize(1..4)).map(|_| step(&mut rng)).collect();
        let mut t = db.begin().unwrap();
        let seen = take(&mut t, &steps);
        // A write, so that there is something to commit.
        t.put("z", "").unwrap();
        let other = key(&mut rng);
        if rng.bool() {
            db.put(&other, "other").unwrap();
        } else {
            db.delete(&other).unwrap();
        }
        let again = take(&mut db.begin().unwrap(), &steps);
        match t.commit() {
            Ok(_) => {
                commits += 1;
                assert_eq!(
                    seen,
                    again,
                    "round {round}: {} was changed unnoticed under {steps:?}",
                    other.escape_ascii()
                );
            }
            Err(Error::Conflict) => {
                conflicts += 1;
                needless += u32::from(seen == again);
            }
            Err(error) => panic!("{error}"),
        }
    }
    println!("{commits} commits, {conflicts} conflicts, {needless} of them changed nothing seen");
    assert!(commits > 1000 && conflicts > 1000);
}
