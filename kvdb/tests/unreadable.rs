//! SEMANTICS rule 32: what cannot be read is an error item, and iteration does not pretend to have
//! ended.
#![allow(clippy::unwrap_used)] // a test may panic

mod common;

use std::sync::Arc;

use common::{PATH, manual, value};
use kvdb::vfs::{Fault, FaultFs, FaultPlan, MemFs, Op};
use kvdb::{Db, Item, Result};

const KEYS: u64 = 400;

/// Every third value lives in the log; all of it is read by positioned reads, without a cache to
/// speak of.
fn store() -> (Db, FaultFs) {
    let fs = FaultFs::new(Arc::new(MemFs::new()));
    let options = manual().memory_map(false).block_cache_size(1);
    let db = options.open_in(Arc::new(fs.clone()), PATH).unwrap();
    for i in 0..KEYS {
        db.put(i.to_be_bytes(), value(i, if i % 3 == 0 { 3000 } else { 100 })).unwrap();
    }
    db.compact().unwrap();
    db.close().unwrap();
    (options.open_in(Arc::new(fs.clone()), PATH).unwrap(), fs)
}

/// Keys in order, `None` for an error, of the item or of its value.
fn walk(iter: impl Iterator<Item = Result<Item>>) -> Vec<Option<u64>> {
    let key = |item: Result<Item>| {
        let item = item.ok()?;
        let number = u64::from_be_bytes(item.key().try_into().unwrap());
        let read = item.value().ok()?;
        assert_eq!(read, value(number, read.len()), "never wrong bytes");
        Some(number)
    };
    // Errors may go on for ever.
    iter.map(key).take(2 * KEYS as usize).collect()
}

/// What a walk meets while reads fail as planned, and how many of them did.
fn walk_under(db: &Db, fs: &FaultFs, plan: FaultPlan, backward: bool) -> (Vec<Option<u64>>, u64) {
    let armed = fs.arm(plan);
    let seen = match backward {
        false => walk(db.iter().unwrap()),
        true => walk(db.iter().unwrap().rev()),
    };
    armed.disarm();
    (seen, armed.fired())
}

#[test]
fn rule_32_an_unreadable_block_or_value_is_an_error_item_and_never_an_end() {
    let (db, fs) = store();
    for file in [".sst", ".vlog"] {
        let mut met = 0;
        for after in 0.. {
            for backward in [false, true] {
                let plan = FaultPlan::new(Fault::Io).on(&[Op::Read]).path(file).after(after);
                let (seen, fired) = walk_under(&db, &fs, plan.clone(), backward);
                let errors = seen.iter().filter(|key| key.is_none()).count();
                let numbers: Vec<u64> = seen.into_iter().flatten().collect();
                let sorted = match backward {
                    false => numbers.is_sorted_by(|a, b| a < b),
                    true => numbers.is_sorted_by(|a, b| a > b),
                };
                assert!(sorted, "{file}, read {after}");
                // A read that failed once ahead of the iterator is made again when it is needed.
                if errors == 0 {
                    assert_eq!(numbers.len() as u64, KEYS, "{file}, read {after}: {fired} unseen");
                }
                if fired > 0 {
                    let (seen, _) = walk_under(&db, &fs, plan.forever(), backward);
                    assert!(seen.contains(&None), "{file}, reads from {after} on");
                }
                met += fired;
            }
            if after >= 60 {
                break;
            }
        }
        assert!(met > 20, "{file}: {met} faults met");
    }
}
