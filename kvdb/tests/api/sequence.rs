//! Numbers that never come twice (SEMANTICS, rule 37).

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use crate::common::{PATH, memory, scale, tiny};
use kvdb::vfs::{Fault, FaultFs, FaultPlan, Keep, MemFs, Op};
use kvdb::{Db, Durability, Error, MergeOperator, Result, WriteOptions};

#[test]
fn rule_37_concurrent_owners_never_get_a_number_twice() {
    for detect in [true, false] {
        let fs = Arc::new(MemFs::new());
        let options = tiny().durability(Durability::Buffered).detect_conflicts(detect);
        let db = options.open_in(fs, PATH).unwrap();
        let shared = Arc::new(db.sequence("ids", 7).unwrap());
        let mut threads = Vec::new();
        for t in 0..6u64 {
            let (db, shared) = (db.clone(), shared.clone());
            threads.push(std::thread::spawn(move || {
                let own = db.sequence("ids", t).unwrap();
                let mut got = Vec::new();
                for i in 0..200u64 {
                    got.push(if i % 3 == 0 { shared.next() } else { own.next() }.unwrap());
                    if i % 50 == t {
                        own.release().unwrap();
                    }
                }
                got
            }));
        }
        let mut all = BTreeSet::new();
        for thread in threads {
            for number in thread.join().unwrap() {
                assert!(all.insert(number), "{number} came twice");
            }
        }
        assert!(*all.last().unwrap() < 1200 + 7 * 7, "gaps are no larger than the leases");
    }
}

#[test]
fn rule_37_a_number_never_repeats_after_a_power_cut_whatever_the_durability() {
    for seed in 0..20 * scale() {
        let mut rng = fastrand::Rng::with_seed(seed);
        let mut fs = Arc::new(MemFs::new());
        let mut used = BTreeSet::new();
        for _ in 0..6 {
            let options = tiny().durability(Durability::Buffered);
            let db = options.open_in(fs.clone(), PATH).unwrap();
            let ids = db.sequence("ids", 10).unwrap();
            for _ in 0..rng.u32(1..30) {
                let number = ids.next().unwrap();
                assert!(used.insert(number), "{number} came twice");
                db.put("other", number.to_be_bytes()).unwrap();
                if rng.u32(..10) == 0 {
                    ids.release().unwrap();
                }
            }
            fs = Arc::new(fs.crash_image(&mut Keep::Random(rng.u64(..))));
        }
        assert!(*used.last().unwrap() < used.len() as u64 + 6 * 10 + 60, "gaps stay small");
    }
}

#[test]
fn rule_37_released_leases_are_reused_also_after_reopening() {
    let fs = Arc::new(MemFs::new());
    let options = tiny().durability(Durability::Buffered);
    let db = options.open_in(fs.clone(), PATH).unwrap();
    let first = db.sequence("ids", 100).unwrap();
    let second = db.sequence("ids", 100).unwrap();
    assert_eq!((first.next().unwrap(), second.next().unwrap()), (0, 100));
    // Not the last lease: kept in memory for whoever asks next.
    first.release().unwrap();
    let third = db.sequence("ids", 100).unwrap();
    assert_eq!(third.next().unwrap(), 1);
    drop(third);
    assert_eq!(first.next().unwrap(), 2, "what was dropped is reused too");
    // The last lease goes back to the store.
    second.release().unwrap();
    db.close().unwrap();
    drop((first, second));
    let db = options.open_in(fs, PATH).unwrap();
    assert_eq!(db.sequence("ids", 1).unwrap().next().unwrap(), 101);
}

#[test]
fn rule_37_a_sequence_that_starts_over_gives_no_number_twice_to_its_owner() {
    let resets: [fn(&Db) -> Result<u64>; 2] = [|db| db.delete("ids"), Db::drop_all];
    for reset in resets {
        let (db, _fs) = memory();
        // Of these two 1..10 and 11..20 are given back.
        let (one, other) = (db.sequence("ids", 10).unwrap(), db.sequence("ids", 10).unwrap());
        assert_eq!((one.next().unwrap(), other.next().unwrap()), (0, 10));
        drop((one, other));
        reset(&db).unwrap();
        let ids = db.sequence("ids", 10).unwrap();
        let all: Vec<u64> = (0..40).map(|_| ids.next().unwrap()).collect();
        assert_eq!(all, (0..40).collect::<Vec<_>>());
    }
    // Those that are given back without that are used as before.
    let (db, _fs) = memory();
    let (one, other) = (db.sequence("ids", 10).unwrap(), db.sequence("ids", 10).unwrap());
    assert_eq!((one.next().unwrap(), other.next().unwrap()), (0, 10));
    drop(one);
    let ids = db.sequence("ids", 10).unwrap();
    assert_eq!((1..10).map(|_| ids.next().unwrap()).collect::<Vec<_>>(), Vec::from_iter(1..10));
}

#[test]
fn rule_37_while_a_sequence_has_an_owner_no_number_comes_twice_although_its_key_is_removed() {
    type Removal = fn(&Db) -> Result<u64>;
    let removals: [(&str, Removal); 6] = [
        ("delete", |db| db.delete("ids")),
        ("drop_all", Db::drop_all),
        ("drop_prefix", |db| db.drop_prefix("i")),
        ("update", |db| db.update(|t| t.delete("ids")).map(|()| 0)),
        ("an older state", |db| db.put("ids", 3u64.to_le_bytes())),
        ("expiry", |db| {
            let at_once = WriteOptions::default().ttl(Duration::ZERO);
            db.put_with("ids", 3u64.to_le_bytes(), at_once)
        }),
    ];
    for (name, remove) in removals {
        let (db, fs) = memory();
        let owner = db.sequence("ids", 10).unwrap();
        let mut used: BTreeSet<u64> = (0..4).map(|_| owner.next().unwrap()).collect();
        remove(&db).unwrap();
        // Others come, the first one goes on with what it holds, and leases again.
        let other = db.sequence("ids", 5).unwrap();
        for i in 0..40 {
            let number = if i % 3 == 0 { &owner } else { &other }.next().unwrap();
            assert!(used.insert(number), "{name}: {number} came twice");
            match i {
                20 => drop(remove(&db).unwrap()),
                25 => other.release().unwrap(),
                30 => owner.release().unwrap(),
                _ => {}
            }
        }
        assert!(*used.last().unwrap() < 44 + 3 * 15, "{name}: gaps are no larger than the leases");
        drop(owner);
        assert!(used.insert(other.next().unwrap()), "{name}");
        // When nobody owns it any more it begins where the key says.
        remove(&db).unwrap();
        drop(other);
        let start = db.sequence("ids", 10).unwrap().next().unwrap();
        assert_eq!(start, if name == "an older state" { 3 } else { 0 }, "{name}");
        remove(&db).unwrap();
        db.close().unwrap();
        let db = tiny().open_in(fs, PATH).unwrap();
        let again = db.sequence("ids", 10).unwrap().next().unwrap();
        assert_eq!(again, start, "{name}");
    }
}

#[test]
fn rule_37_owners_that_come_and_go_removals_and_crashes_agree_with_a_model() {
    for seed in 0..60 * scale() {
        let mut rng = fastrand::Rng::with_seed(seed);
        let mut fs = Arc::new(MemFs::new());
        // Every number since the sequence may last have begun anew.
        let mut used = BTreeSet::new();
        for _ in 0..4 {
            let options = tiny().durability(Durability::Buffered);
            let db = options.open_in(fs.clone(), PATH).unwrap();
            let mut owners = Vec::new();
            let mut removed = false;
            for _ in 0..rng.u32(10..80) {
                match rng.u32(..12) {
                    0 | 1 => {
                        if owners.is_empty() && removed {
                            used.clear();
                            removed = false;
                        }
                        owners.push(db.sequence("ids", rng.u64(1..8)).unwrap());
                    }
                    2 if !owners.is_empty() => drop(owners.swap_remove(rng.usize(..owners.len()))),
                    3 if !owners.is_empty() => owners[rng.usize(..owners.len())].release().unwrap(),
                    4 => {
                        db.delete("ids").unwrap();
                        removed = true;
                    }
                    _ if !owners.is_empty() => {
                        let number = owners[rng.usize(..owners.len())].next().unwrap();
                        assert!(used.insert(number), "seed {seed}: {number} came twice");
                    }
                    _ => {}
                }
            }
            if rng.bool() {
                // Owners that are still there learn that it is closed.
                db.close().unwrap();
            } else {
                fs = Arc::new(fs.crash_image(&mut Keep::Random(rng.u64(..))));
            }
            if removed {
                used.clear();
            }
        }
    }
}

#[test]
fn rule_37_a_key_that_holds_something_else_is_an_error_and_so_is_the_end_of_the_numbers() {
    let (db, _fs) = memory();
    db.put("text", "not eight").unwrap();
    assert!(matches!(db.sequence("text", 1), Err(Error::NotASequence { .. })));
    assert!(matches!(db.sequence("", 1), Err(Error::EmptyKey)));
    db.put("last", (u64::MAX - 2).to_le_bytes()).unwrap();
    let last = db.sequence("last", 100).unwrap();
    assert_eq!((last.next().unwrap(), last.next().unwrap()), (u64::MAX - 2, u64::MAX - 1));
    assert!(matches!(last.next(), Err(Error::NotASequence { .. })));
    db.close().unwrap();
    assert!(matches!(db.sequence("ids", 1), Err(Error::Closed)));
}

#[test]
fn rule_37_numbers_whose_return_has_an_unknown_outcome_are_not_handed_out_again() {
    let fs = Arc::new(MemFs::new());
    let faulty = FaultFs::new(fs.clone());
    let options = tiny().durability(Durability::Buffered);
    let db = options.open_in(Arc::new(faulty.clone()), PATH).unwrap();
    let ids = db.sequence("ids", 100).unwrap();
    assert_eq!(ids.next().unwrap(), 0);
    faulty.arm(FaultPlan::new(Fault::IoAfter).on(&[Op::Write]).path(".vlog"));
    assert!(matches!(ids.release(), Err(Error::OutcomeUnknown(_))));
    faulty.disarm();
    let before: Vec<u64> = [&ids, &db.sequence("ids", 100).unwrap()]
        .iter()
        .filter_map(|sequence| sequence.next().ok())
        .collect();
    let db = options.open_in(Arc::new(fs.process_image()), PATH).unwrap();
    let after = db.sequence("ids", 100).unwrap().next().unwrap();
    assert!(!before.contains(&after), "{after} came twice");
}

#[test]
fn a_sequence_set_forward_goes_on_there_without_what_was_given_back_before() {
    let (db, _fs) = memory();
    let (one, other) = (db.sequence("ids", 10).unwrap(), db.sequence("ids", 10).unwrap());
    assert_eq!((one.next().unwrap(), other.next().unwrap()), (0, 10));
    // Seen by an owner that leases, and by one that comes.
    drop(one);
    db.put("ids", 1000u64.to_le_bytes()).unwrap();
    assert_eq!((11..20).map(|_| other.next().unwrap()).collect::<Vec<_>>(), Vec::from_iter(11..20));
    assert_eq!(other.next().unwrap(), 1000, "what it held still came");
    let third = db.sequence("ids", 10).unwrap();
    assert_eq!(third.next().unwrap(), 1010);
    drop(other);
    db.put("ids", 5000u64.to_le_bytes()).unwrap();
    let fourth = db.sequence("ids", 10).unwrap();
    assert_eq!(fourth.next().unwrap(), 5000);
    // What is given back only now is from before as well.
    assert_eq!(third.next().unwrap(), 1011);
    third.release().unwrap();
    assert_eq!(third.next().unwrap(), 5010);
    drop(third);
    assert_eq!(db.sequence("ids", 10).unwrap().next().unwrap(), 5011, "and this is not");
}

#[test]
fn a_sequence_set_forward_while_numbers_are_leased_or_given_back_is_not_set_back() {
    for release in [false, true] {
        // Whoever reads the key has the operator called, and is overtaken by then.
        let (place, armed) = (Arc::new(OnceLock::<Db>::new()), Arc::new(AtomicBool::new(false)));
        let (there, told) = (place.clone(), armed.clone());
        let operator = MergeOperator::new(move |_, _, newer| {
            if told.swap(false, Ordering::SeqCst) {
                let db = there.get().unwrap().clone();
                let forward = move || db.put("ids", 1000u64.to_le_bytes()).map(drop);
                std::thread::spawn(forward).join().unwrap().unwrap();
            }
            newer.to_vec()
        });
        let options = tiny().durability(Durability::Buffered).merge_operator(operator);
        let db = options.open_in(Arc::new(MemFs::new()), PATH).unwrap();
        place.set(db.clone()).unwrap();
        let ids = db.sequence("ids", 10).unwrap();
        if release {
            assert_eq!(ids.next().unwrap(), 0);
        }
        // The same number, as an operand.
        let same = if release { 10u64 } else { 0 };
        db.put("ids", "").unwrap();
        db.merge("ids", same.to_le_bytes()).unwrap();
        armed.store(true, Ordering::SeqCst);
        if release {
            ids.release().unwrap();
        }
        assert_eq!(ids.next().unwrap(), 1000, "release: {release}");
        assert!(!armed.load(Ordering::SeqCst));
        db.close().unwrap();
    }
}
