//! Money moves between accounts; the sum never moves, for any reader, at any version.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

use crate::store::{Key, Store, Value};
use kvdb_txn::{BeginError, CommitError, Mode, Options};

const ACCOUNTS: Key = 100;
const EACH: Value = 1000;

fn fill(store: &Store) {
    let mut txn = store.begin(Mode::ReadWrite);
    (0..ACCOUNTS).for_each(|account| txn.put(account, EACH));
    txn.commit().unwrap();
}

fn transfer(store: &Store, step: u64) -> Result<(), CommitError> {
    let from = (step.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40) as Key % ACCOUNTS;
    let to = (from + 1 + step as Key % (ACCOUNTS - 1)) % ACCOUNTS;
    let mut txn = store.begin(Mode::ReadWrite);
    let amount = step as Value % 7;
    let from_balance = txn.get(from).unwrap();
    let to_balance = txn.get(to).unwrap();
    txn.put(from, from_balance - amount);
    txn.put(to, to_balance + amount);
    txn.commit().map(|_| ())
}

fn sum(mut txn: crate::store::Txn<'_>) -> Value {
    let accounts = txn.scan(0..ACCOUNTS);
    assert_eq!(accounts.len(), ACCOUNTS as usize);
    accounts.iter().map(|(_, balance)| balance).sum()
}

/// SEMANTICS 12, 13, 25: with versions dropped at the floor all the while.
#[test]
fn the_sum_never_moves() {
    let store = Store::new(Options::default());
    fill(&store);
    let (done, refused) = (AtomicBool::new(false), AtomicU64::new(0));
    thread::scope(|scope| {
        let (store, done, refused) = (&store, &done, &refused);
        let transfers: Vec<_> = (0..4u64)
            .map(|thread| {
                scope.spawn(move || {
                    for i in 0..4000 {
                        match transfer(store, i * 4 + thread) {
                            Ok(()) | Err(CommitError::Conflict) => {}
                            Err(other) => panic!("{other}"),
                        }
                    }
                })
            })
            .collect();
        scope.spawn(move || {
            while !done.load(Ordering::Relaxed) {
                store.compact();
                thread::yield_now();
            }
        });
        scope.spawn(move || {
            while !done.load(Ordering::Relaxed) {
                assert_eq!(sum(store.begin(Mode::ReadOnly)), EACH * Value::from(ACCOUNTS));
            }
        });
        scope.spawn(move || {
            while !done.load(Ordering::Relaxed) {
                let newest = store.oracle.read_version();
                let back = newest.wrapping_mul(0x9e37_79b9) % 50;
                match store.begin_at((newest - back.min(newest - 1)).max(1), Mode::ReadOnly) {
                    Ok(txn) => assert_eq!(sum(txn), EACH * Value::from(ACCOUNTS)),
                    Err(BeginError::BelowFloor { version, floor }) => {
                        assert!(version < floor);
                        refused.fetch_add(1, Ordering::Relaxed);
                    }
                    Err(other) => panic!("{other}"),
                }
            }
        });
        transfers.into_iter().for_each(|t| t.join().unwrap());
        done.store(true, Ordering::Relaxed);
    });
    assert_eq!(store.oracle.raise_floor(), store.oracle.last_version());
    assert_eq!(store.oracle.tracked_bytes(), 0);
}
