//! Dropping whole ranges of keys (SEMANTICS, rule 55).

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::common::{Contents, PATH, contents, manual, memory, open, scale, tiny, value};
use kvdb::vfs::{Fault, FaultFs, FaultPlan, Fs, Keep, MemFs, Op};
use kvdb::{Db, Durability, Error, Options, Result};

fn keys(db: &Db) -> Vec<String> {
    let keys = db.iter().unwrap().keys().map(|key| String::from_utf8(key.unwrap()).unwrap());
    keys.collect()
}

#[test]
fn rule_55_a_drop_takes_what_was_there_and_nothing_else_nothing_later() {
    let (db, _fs) = memory();
    let fill = |db: &Db| {
        for key in ["a", "b", "b1", "b\u{7f}", "c", "d"] {
            db.put(key, value(1, 300)).unwrap();
        }
    };
    fill(&db);
    db.flush().unwrap();
    let version = db.drop_prefix("b").unwrap();
    assert_eq!(db.version(), version, "a drop is a commit");
    assert_eq!(keys(&db), ["a", "c", "d"]);
    assert!(db.get("b").unwrap().is_none() && !db.contains("b1").unwrap());
    assert!(db.multi_get(["b", "c"]).unwrap()[0].is_none());
    db.put("b1", "new").unwrap();
    assert_eq!(keys(&db), ["a", "b1", "c", "d"]);
    db.compact().unwrap();
    assert_eq!(keys(&db), ["a", "b1", "c", "d"]);
    assert_eq!(db.get("b1").unwrap().unwrap(), "new");

    fill(&db);
    db.drop_range("b".."c").unwrap();
    assert_eq!(keys(&db), ["a", "c", "d"]);
    db.drop_range(..="a").unwrap();
    db.drop_range((Bound::Excluded("c"), Bound::Unbounded)).unwrap();
    assert_eq!(keys(&db), ["c"]);
    let before = db.version();
    #[allow(clippy::reversed_empty_ranges)]
    let empty = db.drop_range("z".."a").unwrap();
    assert_eq!((empty, db.version()), (before, before), "an empty range commits nothing");
    db.drop_all().unwrap();
    assert!(keys(&db).is_empty());
    fill(&db);
    assert_eq!(db.iter().unwrap().count(), 6);
    assert!(matches!(db.drop_prefix(vec![1; 65_001]), Err(Error::KeyTooLong { .. })));
    db.verify().unwrap();
}

#[test]
fn rule_55_readers_from_before_go_on_to_see_what_they_saw() {
    let (db, _fs) = memory();
    for i in 0..500u64 {
        db.put(format!("{i:03}"), value(i, if i % 2 == 0 { 20 } else { 400 })).unwrap();
    }
    let before = db.snapshot().unwrap();
    let seen = contents(&before);
    let mut iter = before.iter();
    for _ in 0..10 {
        iter.next().unwrap().unwrap();
    }
    db.drop_all().unwrap();
    db.put("new", "v").unwrap();
    db.compact().unwrap();
    db.wait_idle().unwrap();
    assert_eq!(contents(&before), seen);
    assert_eq!(
        iter.map(|item| item.unwrap().value().unwrap().len()).filter(|&l| l > 0).count(),
        490
    );
    assert_eq!(keys(&db), ["new"]);
    assert_eq!(before.versions().count(), 500);
    drop(before);
}

#[test]
fn rule_55_a_drop_is_a_write_of_its_range_to_conflict_detection() {
    let (db, _fs) = memory();
    db.put("b1", "v").unwrap();
    type Read = fn(&kvdb::Transaction) -> usize;
    let cases: [(Read, bool); 4] = [
        (|t| t.get("b1").unwrap().iter().count(), true),
        (|t| t.get("b9").unwrap().iter().count(), true),
        (|t| t.range("a".."z").count(), true),
        (|t| t.get("c").unwrap().iter().count(), false),
    ];
    for (read, conflicts) in cases {
        let mut t = db.begin().unwrap();
        read(&t);
        t.put("x", "v").unwrap();
        db.drop_prefix("b").unwrap();
        assert_eq!(matches!(t.commit(), Err(Error::Conflict)), conflicts);
    }
    // A blind write into the range that commits later stays.
    let mut t = db.begin().unwrap();
    t.put("b2", "kept").unwrap();
    db.drop_prefix("b").unwrap();
    t.commit().unwrap();
    assert_eq!(db.get("b2").unwrap().unwrap(), "kept");
}

#[test]
fn rule_55_compaction_takes_out_what_was_dropped_and_forgets_the_drop() {
    let fs = Arc::new(MemFs::new());
    let db = manual().durability(Durability::Buffered).open_in(fs, PATH).unwrap();
    for i in 0..2000u64 {
        db.put(format!("{i:04}"), value(i, 100)).unwrap();
    }
    db.compact().unwrap();
    db.drop_range("0100".."1900").unwrap();
    assert_eq!(db.stats().range_drops, 1);
    db.compact().unwrap();
    db.wait_idle().unwrap();
    let stats = db.stats();
    assert_eq!(stats.range_drops, 0);
    assert_eq!(stats.levels.iter().map(|l| l.entries).sum::<u64>(), 200);
    assert_eq!(db.iter().unwrap().count(), 200);
    db.verify().unwrap();
}

#[test]
fn rule_55_drops_known_at_opening_are_forgotten_as_well() {
    for options in [tiny(), manual()] {
        let fs = Arc::new(MemFs::new());
        let db = open(&options, &fs).unwrap();
        for i in 0..100u64 {
            db.put(format!("{i:04}"), "v").unwrap();
        }
        let reader = db.snapshot().unwrap(); // until it is gone, nothing can be taken out
        db.drop_range("0010".."0090").unwrap();
        db.flush().unwrap();
        drop(reader);
        db.close().unwrap();
        let db = open(&options, &fs).unwrap();
        assert!(db.stats().range_drops <= 1);
        db.compact().unwrap();
        db.wait_idle().unwrap();
        assert_eq!(db.stats().range_drops, 0);
        assert_eq!(keys(&db).len(), 20);
    }
}

/// Random puts, deletes and drops, and what should be there after each of them.
fn history(db: &Db, rng: &mut fastrand::Rng, steps: usize) -> Vec<(u64, Contents)> {
    let mut now = Contents::new();
    let mut states = vec![(0, now.clone())];
    for step in 0..steps as u64 {
        let key = vec![b'a' + rng.u8(..6), b'a' + rng.u8(..6)];
        let version = match rng.u32(..20) {
            0 => {
                now.clear();
                db.drop_all()
            }
            1..3 => {
                now.retain(|k, _| k[0] != key[0]);
                db.drop_prefix(&key[..1])
            }
            3 => {
                let end = [b'a' + rng.u8(..6), b'z'];
                now.retain(|k, _| !(k[..] >= key[..] && k[..] <= end[..]));
                db.drop_range(&key[..]..=&end[..])
            }
            4 => {
                db.flush().unwrap();
                continue;
            }
            5 if rng.bool() => {
                db.compact().unwrap();
                continue;
            }
            6 => {
                now.remove(&key);
                db.delete(&key)
            }
            _ => {
                let value = value(step, if rng.bool() { 10 } else { 400 });
                now.insert(key.clone(), value.clone());
                db.put(&key, value)
            }
        };
        states.push((version.unwrap(), now.clone()));
    }
    states
}

#[test]
fn rule_55_drops_survive_close_and_are_ordered_with_other_commits() {
    for seed in 0..12 * scale() {
        let mut rng = fastrand::Rng::with_seed(seed);
        let fs = Arc::new(MemFs::new());
        let options = manual().durability(Durability::Buffered).versions_to_keep(usize::MAX);
        let db = open(&options, &fs).unwrap();
        let states = history(&db, &mut rng, 120);
        let check = |db: &Db| {
            for (version, state) in states.iter().rev().step_by(7) {
                match db.snapshot_at(*version) {
                    Ok(snapshot) => {
                        assert_eq!(short(&contents(&snapshot)), short(state), "seed {seed}")
                    }
                    Err(Error::BelowWatermark { .. }) => {}
                    Err(error) => panic!("{error}"),
                }
            }
            let now = contents(&db.snapshot().unwrap());
            assert_eq!(short(&now), short(&states.last().unwrap().1), "seed {seed}");
        };
        check(&db);
        db.close().unwrap();
        for _ in 0..2 {
            let db = open(&options, &fs).unwrap();
            check(&db);
            db.close().unwrap();
        }
        check(&open(&options.clone().read_only(true), &fs).unwrap());
        let db = open(&options, &fs).unwrap();
        db.compact().unwrap();
        check(&db);
        db.verify().unwrap();
    }
}

/// What a failure is to print.
fn short(contents: &Contents) -> Vec<String> {
    contents.iter().map(|(k, v)| format!("{}={}", k.escape_ascii(), v[0])).collect()
}

/// At every operation on a file the power may fail.
fn power_cuts(options: &Options, seed: u64, steps: usize) {
    let mut rng = fastrand::Rng::with_seed(seed);
    let inner = Arc::new(MemFs::new());
    let faulty = Arc::new(FaultFs::new(inner.clone() as Arc<dyn Fs>));
    let db = options.open_in(faulty.clone(), PATH).unwrap();
    let after = rng.u64(..400);
    let ops = [Op::Write, Op::SyncData, Op::Open, Op::Rename, Op::Remove];
    faulty.arm(FaultPlan::new(Fault::Io).on(&ops).after(after).forever());
    let mut now = Contents::new();
    let mut possible = vec![now.clone()];
    for step in 0..steps as u64 {
        let key = vec![b'a' + rng.u8(..4), b'a' + rng.u8(..4)];
        let outcome = match rng.u32(..8) {
            0 => {
                now.retain(|k, _| k[0] != key[0]);
                db.drop_prefix(&key[..1])
            }
            1 => {
                if db.flush().is_err() {
                    break;
                }
                continue;
            }
            _ => {
                let value = value(step, 300);
                now.insert(key.clone(), value.clone());
                db.put(&key, value)
            }
        };
        possible.push(now.clone());
        match outcome {
            // A buffered commit may be lost, but then with all that came after it.
            Ok(_) if options.durability == Durability::Sync => possible = vec![now.clone()],
            Ok(_) => {}
            Err(_) => break,
        }
    }
    let policy = match rng.u8(..3) {
        0 => Keep::All,
        1 => Keep::None,
        _ => Keep::Random(rng.u64(..)),
    };
    let image = Arc::new(inner.crash_image(&mut { policy }));
    drop(db);
    let read_only = open(&options.clone().read_only(true), &image);
    let seen_read_only = read_only.map(|db| contents(&db.snapshot().unwrap())).ok();
    let db = open(options, &image).unwrap();
    let seen = contents(&db.snapshot().unwrap());
    assert!(possible.contains(&seen), "seed {seed}: a drop in part, or an acknowledged one lost");
    if let Some(read_only) = seen_read_only {
        let (ours, theirs) = (short(&read_only), short(&seen));
        assert_eq!(ours, theirs, "seed {seed}: read-only shows something else");
    }
    db.compact().unwrap();
    assert_eq!(short(&contents(&db.snapshot().unwrap())), short(&seen), "seed {seed}");
    drop(db);
    let db = open(options, &image).unwrap();
    let again = contents(&db.snapshot().unwrap());
    assert_eq!(short(&again), short(&seen), "seed {seed}: after the next opening");
}

#[test]
fn rule_55_after_a_power_cut_a_drop_is_there_whole_or_not_at_all() {
    for seed in 0..150 * scale() {
        power_cuts(&manual().durability(Durability::Sync), seed, 80);
        power_cuts(&manual().durability(Durability::Buffered), seed, 80);
    }
}

#[test]
fn rule_55_concurrent_writers_and_drops_agree_on_one_order() {
    let (db, _fs) = memory();
    let stop = Arc::new(AtomicBool::new(false));
    let writers: Vec<_> = (0..3u8)
        .map(|t| {
            let (db, stop) = (db.clone(), stop.clone());
            std::thread::spawn(move || {
                let mut last = BTreeMap::new();
                let mut n = 0u64;
                while !stop.load(Ordering::Relaxed) {
                    let key = vec![b'k', t, (n % 5) as u8];
                    last.insert(key.clone(), db.put(&key, n.to_be_bytes()).unwrap());
                    n += 1;
                }
                last
            })
        })
        .collect();
    let mut dropped = 0;
    for _ in 0..100 {
        dropped = db.drop_prefix("k").unwrap();
        for item in db.prefix("k").unwrap() {
            assert!(item.unwrap().version() > dropped, "older than the drop, and still there");
        }
    }
    stop.store(true, Ordering::Relaxed);
    for writer in writers {
        for (key, version) in writer.join().unwrap() {
            let there = db.get_entry(&key).unwrap().map(|item| item.version());
            assert_eq!(there, (version > dropped).then_some(version));
        }
    }
    db.compact().unwrap();
    db.wait_idle().unwrap();
    db.verify().unwrap();
}

#[test]
fn rule_3_and_24_drops_are_refused_where_other_writes_are() -> Result<()> {
    let fs = Arc::new(MemFs::new());
    drop(tiny().open_in(fs.clone(), PATH)?);
    let db = tiny().read_only(true).open_in(fs.clone(), PATH)?;
    assert!(matches!(db.drop_all(), Err(Error::ReadOnly)));
    drop(db);
    let db = tiny().managed(true).open_in(fs, PATH)?;
    assert!(matches!(db.drop_all(), Err(Error::Managed)));
    db.close()?;
    assert!(matches!(db.drop_all(), Err(Error::Closed)));
    Ok(())
}
