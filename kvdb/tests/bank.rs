//! The bank: money moves among 1,000 accounts, and the sum never does, for any reader at any
//! version, with flush, compaction, garbage collection and reopening under it (SEMANTICS 12, 13,
//! 18, 19, 25, 44).
#![allow(clippy::unwrap_used)] // a test may panic

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use common::{open, scale, tiny};
use kvdb::vfs::MemFs;
use kvdb::{Db, Durability, Error, GcOptions, Options, Result, Snapshot};

const ACCOUNTS: u32 = 1_000;
const EACH: i64 = 1_000;
const TOTAL: i64 = ACCOUNTS as i64 * EACH;
const THREADS: u64 = 8;

fn key(account: u32) -> [u8; 6] {
    let mut key = *b"a:____";
    key[2..].copy_from_slice(&account.to_be_bytes());
    key
}

/// Every seventh balance is large enough to live in the log.
fn value(account: u32, balance: i64) -> Vec<u8> {
    let mut value = balance.to_le_bytes().to_vec();
    value.resize(if account.is_multiple_of(7) { 300 } else { 8 }, account as u8);
    value
}

fn balance(value: &[u8]) -> i64 {
    i64::from_le_bytes(value[..8].try_into().unwrap())
}

fn fill(db: &Db) {
    let mut batch = db.batch();
    for account in 0..ACCOUNTS {
        batch.put(key(account), value(account, EACH)).unwrap();
    }
    batch.commit().unwrap();
}

/// From one account to another; now and then to the poorest of ten neighbours, found by a scan,
/// and with a receipt that makes new keys.
fn transfer(db: &Db, rng: &mut fastrand::Rng) -> Result<()> {
    let from = rng.u32(..ACCOUNTS);
    let amount = rng.i64(1..20);
    let mut t = db.begin()?;
    let had = balance(&t.get(key(from))?.unwrap());
    let to = match rng.u8(..4) {
        0 => {
            let first = rng.u32(..ACCOUNTS - 10);
            let mut poorest = (i64::MAX, 0);
            for (account, item) in (first..first + 10).zip(t.range(key(first)..key(first + 10))) {
                let item = item?;
                assert_eq!(item.key(), key(account));
                poorest = poorest.min((balance(&item.value()?), account));
            }
            poorest.1
        }
        _ => rng.u32(..ACCOUNTS),
    };
    if to == from {
        return Ok(());
    }
    let has = balance(&t.get(key(to))?.unwrap());
    t.put(key(from), value(from, had - amount))?;
    t.put(key(to), value(to, has + amount))?;
    match rng.u8(..8) {
        0 => t.commit_async()?.wait()?,
        1 => t.commit_with(Durability::Sync)?,
        _ => t.commit()?,
    };
    Ok(())
}

fn sum(snapshot: &Snapshot, backward: bool) -> i64 {
    let balances = |item: Result<kvdb::Item>| balance(&item.unwrap().value().unwrap());
    let accounts = snapshot.prefix("a:");
    let all: Vec<i64> = match backward {
        false => accounts.map(balances).collect(),
        true => accounts.rev().map(balances).collect(),
    };
    assert_eq!(all.len(), ACCOUNTS as usize, "accounts neither come nor go");
    all.iter().sum()
}

fn sum_of_gets(snapshot: &Snapshot) -> i64 {
    (0..ACCOUNTS).map(|a| snapshot.get_with(key(a), balance).unwrap().unwrap()).sum()
}

#[derive(Default)]
struct Seen {
    transfers: AtomicU64,
    conflicts: AtomicU64,
    sums: AtomicU64,
    old: AtomicU64,
    below: AtomicU64,
    moved: AtomicU64,
}

/// One life of the store: threads that transfer, readers, and background work on demand.
fn life(db: &Db, seed: u64, each: u64, seen: &Seen) {
    let done = AtomicBool::new(false);
    let check = |sum: i64| {
        seen.sums.fetch_add(1, Ordering::Relaxed);
        seen.moved.fetch_add(u64::from(sum != TOTAL), Ordering::Relaxed);
    };
    std::thread::scope(|scope| {
        let writers: Vec<_> = (0..THREADS)
            .map(|thread| {
                scope.spawn(move || {
                    let mut rng = fastrand::Rng::with_seed(seed << 8 | thread);
                    let mut left = each;
                    while left > 0 {
                        match transfer(db, &mut rng) {
                            Ok(()) => left -= 1,
                            Err(Error::Conflict | Error::TooOld) => {
                                seen.conflicts.fetch_add(1, Ordering::Relaxed);
                            }
                            Err(error) => panic!("{error}"),
                        }
                        if rng.u8(..16) == 0 {
                            std::thread::yield_now();
                        }
                    }
                    seen.transfers.fetch_add(each, Ordering::Relaxed);
                })
            })
            .collect();
        let (done, check) = (&done, &check);
        scope.spawn(move || {
            let mut rng = fastrand::Rng::with_seed(seed);
            let first = db.version();
            let mut kept: Vec<Snapshot> = Vec::new();
            while !done.load(Ordering::Relaxed) {
                let snapshot = db.snapshot().unwrap();
                check(sum(&snapshot, rng.bool()));
                check(sum_of_gets(&snapshot));
                // At a random version, and at those of snapshots held for long.
                match db.snapshot_at(rng.u64(first..=db.version())) {
                    Ok(old) => {
                        check(sum(&old, rng.bool()));
                        seen.old.fetch_add(1, Ordering::Relaxed);
                        kept.push(old);
                    }
                    Err(Error::BelowWatermark { .. }) => {
                        seen.below.fetch_add(1, Ordering::Relaxed);
                    }
                    Err(error) => panic!("{error}"),
                }
                if kept.len() > 4 {
                    check(sum_of_gets(&kept.swap_remove(rng.usize(..4))));
                }
            }
        });
        scope.spawn(move || {
            let mut rng = fastrand::Rng::with_seed(seed);
            while !done.load(Ordering::Relaxed) {
                match rng.u8(..4) {
                    0 => db.flush().unwrap(),
                    1 => db.compact().unwrap(),
                    2 => drop(db.gc(&GcOptions::default()).unwrap()),
                    _ => std::thread::sleep(std::time::Duration::from_millis(3)),
                }
            }
        });
        writers.into_iter().for_each(|writer| writer.join().unwrap());
        done.store(true, Ordering::Relaxed);
    });
}

fn run(options: &Options, lives: u64, each: u64) -> Seen {
    let mut fs = Arc::new(MemFs::new());
    let seen = Seen::default();
    let mut version = 0;
    for life_number in 0..lives {
        let db = open(options, &fs).unwrap();
        if life_number == 0 {
            fill(&db);
        }
        assert!(db.version() >= version, "nothing that was acknowledged is gone");
        let snapshot = db.snapshot().unwrap();
        seen.moved.fetch_add(u64::from(sum(&snapshot, false) != TOTAL), Ordering::Relaxed);
        drop(snapshot);
        life(&db, life_number, each, &seen);
        version = db.version();
        db.verify().unwrap();
        if life_number % 2 == 0 {
            db.close().unwrap();
        } else {
            fs = Arc::new(fs.process_image()); // as if killed
        }
    }
    seen
}

fn buffered() -> Options {
    tiny().durability(Durability::Buffered)
}

#[test]
fn the_sum_never_moves() {
    for options in [buffered(), buffered().versions_to_keep(usize::MAX)] {
        let seen = run(&options, 3, 150 * scale());
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        println!(
            "{} transfers, {} conflicts, {} sums, {} of old versions, {} below the watermark",
            get(&seen.transfers),
            get(&seen.conflicts),
            get(&seen.sums),
            get(&seen.old),
            get(&seen.below)
        );
        assert_eq!(get(&seen.moved), 0, "the sum moved");
        assert!(get(&seen.conflicts) > 0 && get(&seen.sums) > 0 && get(&seen.old) > 0);
        if options.versions_to_keep == usize::MAX {
            assert_eq!(get(&seen.below), 0, "every version can be read for ever");
        }
    }
}

/// The test is not blind: without conflict detection money is lost or made.
#[test]
fn the_sum_moves_without_conflict_detection() {
    let moved = (0..20).any(|_| {
        let seen = run(&buffered().detect_conflicts(false), 2, 200);
        seen.moved.load(Ordering::Relaxed) > 0
    });
    assert!(moved);
}
