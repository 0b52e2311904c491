//! SEMANTICS: transactions and conflicts (rules 11 to 23).
#![allow(clippy::unwrap_used)] // a test may panic

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use common::{contents, memory, open, tiny, value};
use kvdb::vfs::MemFs;
use kvdb::{
    Db, Durability, Error, ErrorKind, GcOptions, MergeOperator, Result, Transaction, Value,
    WriteOptions,
};

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
fn rule_18_of_a_write_skew_exactly_one_commits() {
    let (db, _fs) = memory();
    for round in 0..50u64 {
        let (x, y) = (format!("x{round}"), format!("y{round}"));
        db.put(&x, "1").unwrap();
        db.put(&y, "1").unwrap();
        let mut a = db.begin().unwrap();
        let mut b = db.begin().unwrap();
        for t in [&a, &b] {
            assert!(t.contains(&x).unwrap() && t.contains(&y).unwrap());
        }
        a.delete(&x).unwrap();
        b.delete(&y).unwrap();
        let outcomes = [a.commit(), b.commit()];
        assert_eq!(outcomes.iter().filter(|o| o.is_ok()).count(), 1);
        let conflict = outcomes.into_iter().find_map(Result::err).unwrap();
        assert!(matches!(conflict, Error::Conflict), "{conflict}");
        assert_eq!(conflict.kind(), ErrorKind::Retry);
        assert!(db.contains(&x).unwrap() ^ db.contains(&y).unwrap());
    }
}

#[test]
fn rule_18_of_a_write_skew_between_threads_at_most_one_commits() {
    let (db, _fs) = memory();
    for round in 0..200u64 {
        let keys = [format!("x{round}"), format!("y{round}")];
        for key in &keys {
            db.put(key, "1").unwrap();
        }
        let barrier = Arc::new(std::sync::Barrier::new(2));
        let threads: Vec<_> = (0..2)
            .map(|me| {
                let (db, keys, barrier) = (db.clone(), keys.clone(), barrier.clone());
                std::thread::spawn(move || {
                    let mut t = db.begin().unwrap();
                    barrier.wait();
                    let both = keys.iter().all(|k| t.contains(k).unwrap());
                    if both {
                        t.delete(&keys[me]).unwrap();
                    }
                    t.commit()
                })
            })
            .collect();
        for thread in threads {
            if let Err(error) = thread.join().unwrap() {
                assert!(matches!(error, Error::Conflict), "{error}");
            }
        }
        let left = keys.iter().filter(|k| db.contains(k).unwrap()).count();
        assert_eq!(left, 1, "round {round}");
    }
}

#[test]
fn rule_19_a_read_of_an_absent_key_is_a_read() {
    let (db, _fs) = memory();
    let mut t = db.begin().unwrap();
    assert!(t.get("absent").unwrap().is_none());
    t.put("other", "v").unwrap();
    db.put("absent", "now there").unwrap();
    assert!(matches!(t.commit(), Err(Error::Conflict)));
}

#[test]
fn rule_19_two_scans_of_an_empty_prefix_and_an_insert_each_do_not_both_commit() {
    let (db, _fs) = memory();
    let mut a = db.begin().unwrap();
    let mut b = db.begin().unwrap();
    assert_eq!(a.prefix("p/").count(), 0);
    assert_eq!(b.prefix("p/").rev().count(), 0);
    a.put("p/a", "").unwrap();
    b.put("p/b", "").unwrap();
    a.commit().unwrap();
    assert!(matches!(b.commit(), Err(Error::Conflict)));
}

#[test]
fn rule_19_a_scan_is_a_read_of_what_was_consumed_and_not_of_more() {
    type Scan = fn(&kvdb::Transaction);
    // Keys k10, k20, … k90 are there. Each scan is followed by an insert of another commit.
    let cases: &[(&str, Scan, &[&str], &[&str])] = &[
        (
            "the first of all",
            |t| drop(t.iter().next().unwrap().unwrap()),
            &["k05", "k10"],
            &["k15"],
        ),
        (
            "the last of all",
            |t| drop(t.iter().next_back().unwrap().unwrap()),
            &["k95", "k90"],
            &["k85"],
        ),
        ("all", |t| t.iter().for_each(drop), &["k05", "k55", "k99"], &[]),
        (
            "a range to its end",
            |t| t.range("k30".."k60").for_each(drop),
            &["k30", "k35", "k59"],
            &["k25", "k60", "k65"],
        ),
        (
            "two of a range",
            |t| t.range("k30"..).take(2).for_each(drop),
            &["k35", "k40"],
            &["k45", "k29"],
        ),
        (
            "two backward",
            |t| t.range(.."k60").rev().take(2).for_each(drop),
            &["k45", "k55", "k40"],
            &["k35", "k60"],
        ),
        (
            "both ends",
            |t| {
                let mut iter = t.range("k20"..="k80");
                iter.next().unwrap().unwrap();
                iter.next_back().unwrap().unwrap();
            },
            &["k20", "k80"],
            &["k50", "k15", "k85"],
        ),
        (
            "a seek",
            |t| {
                let mut iter = t.iter();
                iter.seek("k42");
                iter.next().unwrap().unwrap();
            },
            &["k42", "k45", "k50"],
            &["k41", "k55", "k10"],
        ),
        (
            "a cursor there and back",
            |t| {
                let mut cursor = t.cursor(..);
                assert!(cursor.seek("k45").unwrap());
                assert!(cursor.prev().unwrap());
                assert!(cursor.prev().unwrap());
            },
            &["k35", "k50", "k30"],
            &["k25", "k55"],
        ),
        (
            "a forgotten iterator",
            |t| {
                let mut iter = t.range("k30"..);
                iter.next().unwrap().unwrap();
                std::mem::forget(iter);
            },
            &["k30"],
            &["k40"],
        ),
        (
            "seeks of a cursor before its bounds and behind them",
            |t| {
                assert!(t.cursor("k35".."k45").seek("k15").unwrap());
                assert!(t.cursor("k55"..="k65").seek_for_prev("k85").unwrap());
                assert!(!t.cursor("k71".."k74").seek("k78").unwrap());
                assert!(!t.cursor("k76".."k79").seek_for_prev("k72").unwrap());
            },
            &["k35", "k40", "k60", "k65"],
            &["k15", "k20", "k34", "k66", "k70", "k85", "k75", "k78"],
        ),
        (
            "seeks of an iterator before its bounds and behind them",
            |t| {
                let mut iter = t.range("k35".."k45");
                iter.seek("k15");
                iter.next().unwrap().unwrap();
                let mut iter = t.range("k55"..="k65");
                iter.seek_back("k85");
                iter.next_back().unwrap().unwrap();
            },
            &["k35", "k40", "k60", "k65"],
            &["k15", "k20", "k34", "k66", "k70", "k85"],
        ),
        (
            "a new cursor, moved on",
            |t| assert!(t.cursor("k25"..).next().unwrap()),
            &["k25", "k27", "k30"],
            &["k20", "k35"],
        ),
        (
            "a new cursor, moved back",
            |t| assert!(!t.cursor("k25"..).prev().unwrap()),
            &[],
            &["k20", "k25", "k30"],
        ),
        ("nothing", |t| drop(t.iter()), &[], &["k10", "k55"]),
    ];
    for (name, scan, conflicting, harmless) in cases {
        for (keys, conflicts) in [(conflicting, true), (harmless, false)] {
            for key in *keys {
                let (db, _fs) = memory();
                for i in 1..10 {
                    db.put(format!("k{i}0"), "").unwrap();
                }
                let mut t = db.begin().unwrap();
                scan(&t);
                t.put("zzz", "").unwrap();
                db.put(key, "changed").unwrap();
                let outcome = t.commit();
                assert_eq!(
                    outcome.is_err(),
                    conflicts,
                    "{name}, then a write of {key}: {outcome:?}"
                );
            }
        }
    }
}

#[test]
fn rule_20_blind_writes_never_conflict_and_own_reads_are_no_reads() {
    let (db, _fs) = memory();
    let mut a = db.begin().unwrap();
    let mut b = db.begin().unwrap();
    for (t, mark) in [(&mut a, "a"), (&mut b, "b")] {
        t.put("k", mark).unwrap();
        assert_eq!(t.get("k").unwrap().unwrap(), mark, "answered from its own writes");
        t.delete("l").unwrap();
        assert!(t.get("l").unwrap().is_none());
    }
    a.commit().unwrap();
    b.commit().unwrap();
    assert_eq!(db.get("k").unwrap().unwrap(), "b");
}

/// A transaction that has written "k", or does something else, scans; another commit changes "k".
fn scan_and_change(
    operator: bool,
    before: impl Fn(&mut Transaction),
    scan: impl Fn(&mut Transaction),
    change: impl Fn(&Db),
) -> Result<u64> {
    let options = match operator {
        true => tiny().merge_operator(MergeOperator::new(|_, a, b| [a, b].concat())),
        false => tiny(),
    };
    let db = open(&options, &Arc::new(MemFs::new())).unwrap();
    for key in ["a", "k", "z"] {
        db.put(key, "stored").unwrap();
    }
    let mut t = db.begin().unwrap();
    t.put("end", "").unwrap();
    before(&mut t);
    scan(&mut t);
    change(&db);
    t.commit()
}

#[test]
fn rule_20_own_writes_that_a_scan_meets_are_no_reads_and_all_between_them_is() {
    type Do = (&'static str, fn(&mut Transaction));
    let scans: [Do; 6] = [
        ("forward", |t| _ = t.iter().count()),
        ("backward", |t| _ = t.range("a"..="z").rev().count()),
        ("keys", |t| _ = t.iter().keys().count()),
        ("one step", |t| drop(t.range("k"..).next().unwrap().unwrap())),
        ("a seek", |t| _ = t.cursor(..).seek("k").unwrap()),
        ("both ends", |t| {
            let mut iter = t.range("b"..="l");
            while iter.next().is_some() && iter.next_back().is_some() {}
        }),
    ];
    let own: [Do; 3] = [
        ("put", |t| t.put("k", "own").unwrap()),
        ("delete", |t| t.delete("k").unwrap()),
        ("expired", |t| {
            t.put_with("k", "own", WriteOptions::default().ttl(Duration::ZERO)).unwrap();
        }),
    ];
    let changes: [fn(&Db); 2] = [|db| drop(db.put("k", "other")), |db| drop(db.delete("k"))];
    let conflicts = |outcome: Result<u64>| match outcome {
        Ok(_) => false,
        Err(Error::Conflict) => true,
        Err(error) => panic!("{error}"),
    };
    for (scanned, scan) in scans {
        for change in changes {
            for (how, write) in own {
                let outcome = scan_and_change(false, write, scan, change);
                assert!(!conflicts(outcome), "{scanned} over the own {how}");
            }
            // However often it is written again, afterwards too.
            let again = |t: &mut Transaction| {
                scan(t);
                t.delete("k").unwrap();
                t.put("k", "own").unwrap();
            };
            let put = |t: &mut Transaction| t.put("k", "own").unwrap();
            let outcome = scan_and_change(false, put, again, change);
            assert!(!conflicts(outcome), "{scanned} over an own write that is written again");
            // Not written by itself, or later: then it was read.
            let outcome = scan_and_change(false, |_| {}, scan, change);
            assert!(conflicts(outcome), "{scanned} over what is stored");
            let later = |t: &mut Transaction| {
                scan(t);
                t.put("k", "own").unwrap();
                scan(t);
            };
            assert!(
                conflicts(scan_and_change(false, |_| {}, later, change)),
                "{scanned}, then own"
            );
            // An operand shows what is stored.
            let operand = |t: &mut Transaction| t.merge("k", "+").unwrap();
            let outcome = scan_and_change(true, operand, scan, change);
            assert!(conflicts(outcome), "{scanned} over an operand");
        }
    }
    let put = |t: &mut Transaction| {
        t.put("k", "own").unwrap();
        t.put("m", "own").unwrap();
    };
    let all = |t: &mut Transaction| assert_eq!(t.iter().count(), 5);
    // Beside own writes it is a read of the range as ever, and of drops that reach beyond one.
    for key in ["a", "j", "k\0", "l", "n", "zz"] {
        let outcome = scan_and_change(false, put, all, |db| drop(db.put(key, "other")));
        assert!(conflicts(outcome), "{key} lies beside own writes");
    }
    let drop_k = |db: &Db| drop(db.drop_range("k"..="k"));
    assert!(!conflicts(scan_and_change(false, put, all, drop_k)));
    let drop_k_to_l = |db: &Db| drop(db.drop_range("k".."l"));
    assert!(conflicts(scan_and_change(false, put, all, drop_k_to_l)));
    // All versions show what is stored below an own write.
    let versions = |t: &mut Transaction| assert_eq!(t.iter().versions().count(), 6);
    assert!(conflicts(scan_and_change(false, put, versions, |db| drop(db.put("k", "other")))));
    // An iterator from before the write shows what is stored.
    let db = open(&tiny(), &Arc::new(MemFs::new())).unwrap();
    db.put("k", "stored").unwrap();
    let mut t = db.begin().unwrap();
    assert_eq!(t.iter().next().unwrap().unwrap().value().unwrap(), "stored");
    t.put("k", "own").unwrap();
    assert_eq!(t.iter().next().unwrap().unwrap().value().unwrap(), "own");
    db.put("k", "other").unwrap();
    assert!(matches!(t.commit(), Err(Error::Conflict)));
}

#[test]
fn rule_20_untracked_reads_conflict_with_nothing_and_show_the_same() {
    let operator = MergeOperator::new(|_, a, b| [a, b].concat());
    let db = open(&tiny().merge_operator(operator), &Arc::new(MemFs::new())).unwrap();
    for key in ["a", "b", "c"] {
        db.put(key, "stored").unwrap();
    }
    db.put("large", [7; 1000]).unwrap();
    let mut t = db.begin().unwrap();
    t.put("b", "own").unwrap();
    t.delete("c").unwrap();
    t.merge("a", "+").unwrap();
    let look = |t: &Transaction, tracked: bool| {
        let u = t.untracked();
        let shown = |value: Option<Value>| value.map(Value::into_vec);
        let mut seen = Vec::new();
        for key in ["a", "b", "c", "large", "none"] {
            let all = match tracked {
                true => [
                    shown(t.get(key).unwrap()),
                    t.get_entry(key).unwrap().map(|item| item.value().unwrap().into_vec()),
                    t.get_with(key, <[u8]>::to_vec).unwrap(),
                    shown(t.multi_get([key]).unwrap().remove(0)),
                ],
                false => [
                    shown(u.get(key).unwrap()),
                    u.get_entry(key).unwrap().map(|item| item.value().unwrap().into_vec()),
                    u.get_with(key, <[u8]>::to_vec).unwrap(),
                    shown(u.multi_get([key]).unwrap().remove(0)),
                ],
            };
            assert!(all.iter().all(|value| *value == all[0]), "{key}: {all:?}");
            let there = if tracked { t.contains(key) } else { u.contains(key) }.unwrap();
            assert_eq!(there, all[0].is_some());
            seen.push((key.as_bytes().to_vec(), all[0].clone()));
        }
        let walks = match tracked {
            true => [t.iter(), t.range("a"..), t.prefix("")],
            false => [u.iter(), u.range("a"..), u.prefix("")],
        };
        for walk in walks {
            let walked: Vec<_> = walk
                .map(|item| {
                    let item = item.unwrap();
                    (item.key().to_vec(), Some(item.value().unwrap().into_vec()))
                })
                .collect();
            let there: Vec<_> = seen.iter().filter(|(_, value)| value.is_some()).collect();
            assert_eq!(walked.iter().collect::<Vec<_>>(), there);
        }
        let mut cursor = if tracked { t.cursor(..) } else { u.cursor(..) };
        assert!(cursor.first().unwrap() && cursor.value().unwrap() == "stored+");
        seen
    };
    let untracked = look(&t, false);
    assert_eq!(
        look(
            &db.begin()
                .map(|mut same| {
                    same.put("b", "own").unwrap();
                    same.delete("c").unwrap();
                    same.merge("a", "+").unwrap();
                    same
                })
                .unwrap(),
            true
        ),
        untracked
    );
    for key in ["a", "b", "c", "d", "large", "none"] {
        db.put(key, "other").unwrap();
    }
    assert_eq!(look(&t, false), untracked, "one snapshot");
    t.commit().unwrap();
    assert_eq!(db.get("a").unwrap().unwrap(), "other+", "folded onto what was committed");

    // Each way of reading, tracked, is a read.
    let reads: [fn(&Transaction); 3] = [
        |t| _ = t.get_with("a", |_| ()).unwrap(),
        |t| _ = t.get_with("absent", |_| ()).unwrap(),
        |t| drop(t.untracked().get("a").and_then(|_| t.get("a")).unwrap()),
    ];
    for read in reads {
        let mut t = db.begin().unwrap();
        t.put("own", "").unwrap();
        read(&t);
        db.put("a", "changed").unwrap();
        db.put("absent", "changed").unwrap();
        assert!(matches!(t.commit(), Err(Error::Conflict)));
        db.delete("absent").unwrap();
    }
}

#[test]
fn rule_22_without_conflict_detection_the_last_commit_wins() {
    let fs = Arc::new(MemFs::new());
    let db = open(&tiny().detect_conflicts(false), &fs).unwrap();
    let mut a = db.begin().unwrap();
    let mut b = db.begin().unwrap();
    for t in [&mut a, &mut b] {
        t.get("k").unwrap();
        let _ = t.iter().count();
    }
    a.put("k", "a").unwrap();
    b.put("k", "b").unwrap();
    a.commit().unwrap();
    b.commit().unwrap();
    assert_eq!(db.get("k").unwrap().unwrap(), "b");
}

#[test]
fn rule_22_without_conflict_detection_nothing_is_remembered() {
    let db = open(&tiny().detect_conflicts(false), &Arc::new(MemFs::new())).unwrap();
    let mut t = db.begin().unwrap();
    t.get("k").unwrap();
    for i in 0..1000u64 {
        db.put(i.to_be_bytes(), "v").unwrap();
    }
    assert_eq!(db.stats().conflict_memory, 0);
    t.put("k", "v").unwrap();
    t.commit().unwrap();
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
