//! SEMANTICS: transactions (rules 11 to 16 and 23). Conflicts: `conflicts.rs`.
#![allow(clippy::unwrap_used)] // a test may panic

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use common::{contents, memory, open, tiny, value};
use kvdb::vfs::MemFs;
use kvdb::{Durability, Error, ErrorKind, GcOptions, Result, WriteOptions};

#[test]
fn rule_11_a_transaction_reads_its_own_writes() {
    let (db, _fs) = memory();
    db.put("deleted", "before").unwrap();
    db.put("expired", "before").unwrap();
    let mut t = db.begin().unwrap();
    t.put("k", "first").unwrap();
    t.put("k", "second").unwrap();
    t.delete("deleted").unwrap();
    t.put_with("expired", "now", WriteOptions::default().expires_at(1)).unwrap();
    assert_eq!(t.get("k").unwrap().unwrap(), "second");
    assert_eq!(t.get_entry("k").unwrap().unwrap().value().unwrap(), "second");
    for key in ["deleted", "expired"] {
        assert!(t.get(key).unwrap().is_none(), "{key}");
        assert!(!t.contains(key).unwrap(), "{key}");
    }
    let keys: Vec<_> = t.iter().keys().map(|k| k.unwrap()).collect();
    assert_eq!(keys, [b"k"]);
    assert!(db.get("k").unwrap().is_none(), "visible before commit");
    assert_eq!(db.get("deleted").unwrap().unwrap(), "before");
    t.commit().unwrap();
    assert_eq!(db.get("k").unwrap().unwrap(), "second");
    assert!(db.get("deleted").unwrap().is_none());
    assert!(db.get("expired").unwrap().is_none());
}

#[test]
fn rule_12_after_commit_every_transaction_begun_later_sees_it_in_every_thread() {
    let (db, _fs) = memory();
    let last = Arc::new(AtomicU64::new(0));
    let done = Arc::new(AtomicBool::new(false));
    let readers: Vec<_> = (0..3)
        .map(|_| {
            let (db, last, done) = (db.clone(), last.clone(), done.clone());
            std::thread::spawn(move || {
                loop {
                    let last_round = done.load(Ordering::SeqCst);
                    let acknowledged = last.load(Ordering::SeqCst);
                    let t = db.begin().unwrap();
                    let seen = t.get("n").unwrap().map_or(0, |v| number(&v));
                    assert!(seen >= acknowledged, "{acknowledged} was acknowledged, {seen} seen");
                    assert!(db.get("n").unwrap().map_or(0, |v| number(&v)) >= seen);
                    if last_round {
                        return;
                    }
                }
            })
        })
        .collect();
    for n in 1..=2000u64 {
        db.put("n", n.to_be_bytes()).unwrap();
        last.store(n, Ordering::SeqCst);
    }
    done.store(true, Ordering::SeqCst);
    for reader in readers {
        reader.join().unwrap();
    }
}

#[test]
fn rule_12_a_committed_transaction_is_visible_whole_or_not_at_all() {
    let (db, _fs) = memory();
    let keys: Vec<String> = (0..20).map(|i| format!("k{i:02}")).collect();
    let done = Arc::new(AtomicBool::new(false));
    let reader = {
        let (db, done) = (db.clone(), done.clone());
        std::thread::spawn(move || {
            while !done.load(Ordering::SeqCst) {
                let s = db.snapshot().unwrap();
                let seen: Vec<Vec<u8>> =
                    s.iter().map(|i| i.unwrap().value().unwrap().into_vec()).collect();
                assert!(seen.is_empty() || seen.len() == 20, "{} of 20 keys", seen.len());
                assert!(seen.windows(2).all(|w| w[0] == w[1]), "parts of two transactions");
                let again: Vec<Vec<u8>> =
                    s.iter().rev().map(|i| i.unwrap().value().unwrap().into_vec()).collect();
                assert!(again.iter().rev().eq(&seen), "a snapshot changed");
            }
        })
    };
    for n in 0..500u64 {
        let mut batch = db.batch();
        for key in &keys {
            batch.put(key, value(n, if n % 3 == 0 { 600 } else { 40 })).unwrap();
        }
        batch.commit().unwrap();
    }
    done.store(true, Ordering::SeqCst);
    reader.join().unwrap();
}

#[test]
fn rule_13_a_snapshot_stays_the_same_across_flush_and_compaction() {
    let (db, _fs) = memory();
    for i in 0..300u64 {
        db.put(i.to_be_bytes(), value(i, 100 + 2 * i as usize)).unwrap();
    }
    let snapshot = db.snapshot().unwrap();
    let before = contents(&snapshot);
    let mut held = snapshot.iter();
    let first = held.next().unwrap().unwrap();
    for i in 0..300u64 {
        if i % 2 == 0 {
            db.delete(i.to_be_bytes()).unwrap();
        } else {
            db.put(i.to_be_bytes(), value(1000 + i, 300)).unwrap();
        }
        if i % 100 == 0 {
            db.flush().unwrap();
        }
    }
    db.flush().unwrap();
    db.compact().unwrap();
    assert_eq!(contents(&snapshot), before);
    assert_eq!(first.value().unwrap(), value(0, 100));
    assert_eq!(held.count(), 299);
    assert_eq!(contents(&db.snapshot().unwrap()).len(), 150);
    drop(snapshot);
    db.compact().unwrap();
    assert_eq!(contents(&db.snapshot().unwrap()).len(), 150);
}

#[test]
fn rule_13_a_snapshot_stays_the_same_across_garbage_collection() {
    let (db, _fs) = memory();
    for i in 0..300u64 {
        db.put(i.to_be_bytes(), value(i, 5000)).unwrap();
    }
    let snapshot = db.snapshot().unwrap();
    let before = contents(&snapshot);
    for i in 0..300u64 {
        db.put(i.to_be_bytes(), value(1000 + i, 5000)).unwrap();
    }
    db.gc(&GcOptions::full()).unwrap();
    assert_eq!(contents(&snapshot), before);
    drop(snapshot);
    let report = db.gc(&GcOptions::full()).unwrap();
    assert!(report.bytes_reclaimed > 0, "{report:?}");
    assert_eq!(db.get(7u64.to_be_bytes()).unwrap().unwrap(), value(1007, 5000));
}

#[test]
fn rule_14_a_write_in_a_read_only_database_is_an_error_and_reading_goes_on() {
    let (db, fs) = memory();
    db.put("k", "v").unwrap();
    db.close().unwrap();
    let db = open(&tiny().read_only(true), &fs).unwrap();
    let mut t = db.begin().unwrap();
    assert!(matches!(t.put("k", "w"), Err(Error::ReadOnly)));
    assert!(matches!(t.delete("k"), Err(Error::ReadOnly)));
    assert_eq!(t.get("k").unwrap().unwrap(), "v");
    t.commit().unwrap();
    let mut batch = db.batch();
    batch.put("k", "w").unwrap();
    assert!(matches!(batch.commit_async(), Err(Error::ReadOnly)));
    assert!(matches!(db.batch().commit(), Err(Error::ReadOnly)));
}

#[test]
fn rule_14_dropping_a_transaction_discards_it() {
    let (db, _fs) = memory();
    let version = db.version();
    let mut t = db.begin().unwrap();
    t.put("k", "v").unwrap();
    drop(t);
    let mut t = db.begin().unwrap();
    t.put("k", "v").unwrap();
    t.rollback();
    assert!(db.get("k").unwrap().is_none());
    assert_eq!(db.version(), version);
}

#[test]
fn rule_15_a_commit_without_writes_never_conflicts_and_takes_no_version() {
    let (db, _fs) = memory();
    db.put("k", "1").unwrap();
    let t = db.begin().unwrap();
    t.get("k").unwrap();
    let version = db.put("k", "2").unwrap();
    assert!(t.commit().unwrap() < version);
    assert_eq!(db.version(), version);
}

#[test]
fn rule_15_empty_and_read_only_transactions_release_their_read_marks() {
    let (db, _fs) = memory();
    for i in 0..10_000u64 {
        match i % 3 {
            0 => drop(db.begin().unwrap()),
            1 => drop(db.begin_read().unwrap()),
            _ => drop(db.begin().unwrap().commit().unwrap()),
        }
    }
    // Nothing holds old versions back: overwriting and compacting leaves one entry a key.
    for round in 0..20u64 {
        for i in 0..50u64 {
            db.put(i.to_be_bytes(), value(round, 30)).unwrap();
        }
        db.flush().unwrap();
    }
    db.compact().unwrap();
    let entries: u64 = db.stats().levels.iter().map(|l| l.entries).sum();
    assert_eq!(entries, 50);
}

#[test]
fn rule_16_update_retries_until_it_gets_through() {
    let (db, _fs) = memory();
    db.put("n", 0u64.to_be_bytes()).unwrap();
    let threads: Vec<_> = (0..4)
        .map(|_| {
            let db = db.clone();
            std::thread::spawn(move || {
                for _ in 0..200 {
                    db.update(|t| {
                        let n = number(&t.get("n")?.unwrap());
                        t.put("n", (n + 1).to_be_bytes())
                    })
                    .unwrap();
                }
            })
        })
        .collect();
    for thread in threads {
        thread.join().unwrap();
    }
    assert_eq!(number(&db.get("n").unwrap().unwrap()), 800, "updates were lost");
}

#[test]
fn rule_16_an_error_of_the_closure_discards() {
    let (db, _fs) = memory();
    let outcome: Result<()> = db.update(|t| {
        t.put("k", "v")?;
        Err(Error::EmptyKey)
    });
    assert!(matches!(outcome, Err(Error::EmptyKey)));
    assert!(db.get("k").unwrap().is_none());
    assert!(db.view(|s| Result::<_>::Ok(s.get("k")?.is_none())).unwrap());
}

/// An error of a user's own.
#[derive(Debug)]
enum Refusal {
    Own(u64),
    Store(Error),
}

impl From<Error> for Refusal {
    fn from(error: Error) -> Self {
        Refusal::Store(error)
    }
}

#[test]
fn rule_16_a_closure_may_fail_with_an_error_of_the_user_s_own() {
    let (db, _fs) = memory();
    db.put("n", 7u64.to_be_bytes()).unwrap();
    let mut runs = 0;
    let outcome = db.try_update(|t| {
        runs += 1;
        let n = number(&t.get("n")?.unwrap());
        t.put("n", 8u64.to_be_bytes())?;
        if n == 7 { Err(Refusal::Own(n)) } else { Ok(()) }
    });
    assert!(matches!(outcome, Err(Refusal::Own(7))), "{outcome:?}");
    assert_eq!((runs, number(&db.get("n").unwrap().unwrap())), (1, 7));
    let viewed = db.try_view(|s| if s.contains("n")? { Err(Refusal::Own(1)) } else { Ok(()) });
    assert!(matches!(viewed, Err(Refusal::Own(1))), "{viewed:?}");

    // A conflict of its commit is met as ever, and what the store says becomes the user's error.
    let mut runs = 0;
    let seen = db.try_update(|t| {
        runs += 1;
        let n = number(&t.get("n")?.unwrap());
        if runs < 4 {
            db.put("n", (n + 1).to_be_bytes())?;
        }
        t.put("seen", n.to_be_bytes())?;
        Ok::<_, Refusal>(n)
    });
    assert_eq!((seen.unwrap(), runs), (10, 4));
    let empty = db.try_update(|t| Ok::<_, Refusal>(t.put("", "")?));
    assert!(matches!(empty, Err(Refusal::Store(Error::EmptyKey))), "{empty:?}");
    db.close().unwrap();
    let closed = db.try_update(|_| Ok::<_, Refusal>(()));
    assert!(matches!(closed, Err(Refusal::Store(Error::Closed))), "{closed:?}");
}

#[test]
fn rule_16_what_is_not_a_conflict_of_its_own_commit_runs_a_closure_once() {
    let (db, _fs) = memory();
    let mut runs = 0;
    let outcome: Result<()> = db.update(|_| {
        runs += 1;
        Err(Error::Conflict)
    });
    assert!(matches!(outcome, Err(Error::Conflict)));
    assert_eq!(runs, 1);
}

#[test]
fn rule_23_past_the_cap_the_oldest_transaction_is_too_old_and_nobody_else() {
    let options = tiny().max_conflict_memory(128 << 10);
    let db = open(&options, &Arc::new(MemFs::new())).unwrap();
    let write = |from: u64| {
        for i in from..from + 5000 {
            db.put(i.to_be_bytes(), "v").unwrap();
        }
    };
    write(0);
    assert_eq!(db.stats().conflict_memory, 0, "nothing is open");
    let snapshot = db.snapshot().unwrap();
    write(5000);
    assert_eq!(db.stats().conflict_memory, 0, "snapshots hold the low-water mark only");

    let mut old = db.begin().unwrap();
    let mut blind = db.begin().unwrap();
    old.get("k").unwrap();
    let before = db.stats();
    assert_eq!((before.open_snapshots, before.open_transactions), (1, 2));
    let mut most = 0;
    for i in 0..20_000u64 {
        db.put(i.to_be_bytes(), "v").unwrap();
        if i % 100 == 0 {
            most = most.max(db.stats().conflict_memory);
        }
    }
    assert!(most > 0 && most <= 128 << 10, "{most} bytes");
    let mut young = db.begin().unwrap();
    young.get("k").unwrap();
    for t in [&mut old, &mut young, &mut blind] {
        t.put("k", "v").unwrap();
    }
    // Nobody wrote what it read, but that is no longer known.
    let error = old.commit().unwrap_err();
    assert!(matches!(error, Error::TooOld), "{error}");
    assert_eq!(error.kind(), ErrorKind::Retry);
    young.commit().unwrap();
    blind.commit().unwrap();
    assert_eq!(snapshot.iter().count(), 5000);
    drop(snapshot);
    let after = db.stats();
    assert_eq!((after.open_snapshots, after.open_transactions, after.conflict_memory), (0, 0, 0));
}

#[test]
fn versions_of_commits_ascend_and_are_shown_by_reads() {
    let (db, _fs) = memory();
    let mut last = 0;
    for i in 0..100u64 {
        let version = match i % 3 {
            0 => db.put("k", "v").unwrap(),
            1 => {
                let mut t = db.begin().unwrap();
                t.put("k", "v").unwrap();
                t.commit_with(Durability::Sync).unwrap()
            }
            _ => {
                let mut batch = db.batch();
                batch.put("k", "v").unwrap();
                batch.commit().unwrap()
            }
        };
        assert!(version > last);
        assert_eq!(db.get_entry("k").unwrap().unwrap().version(), version);
        assert_eq!(db.version(), version);
        last = version;
    }
}

fn number(bytes: &[u8]) -> u64 {
    u64::from_be_bytes(bytes.try_into().unwrap())
}
