//! SEMANTICS: which transactions are in conflict (rules 18 to 22).
#![allow(clippy::unwrap_used)] // a test may panic

mod common;

use std::sync::Arc;
use std::time::Duration;

use common::{memory, open, tiny};
use kvdb::vfs::MemFs;
use kvdb::{Db, Error, ErrorKind, MergeOperator, Result, Transaction, Value, WriteOptions};

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
