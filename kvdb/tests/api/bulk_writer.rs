//! Any number of writes, in chunks (SEMANTICS, rule 36).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::common::{PATH, memory, tiny, value};
use kvdb::vfs::{Fault, FaultFs, FaultPlan, Fs, Keep, ManualClock, MemFs, Op};
use kvdb::{Durability, Error, ErrorKind, MergeOperator, WriteOptions};

#[test]
fn rule_36_more_writes_than_a_transaction_holds_with_expiry_and_user_meta_kept() {
    let clock = Arc::new(ManualClock::new(100));
    let fs: Arc<dyn Fs> = Arc::new(MemFs::new());
    let operator = MergeOperator::new(|_, older, newer| [older, newer].concat());
    let options = tiny()
        .max_transaction_size(Some(16 << 10))
        .merge_operator(operator)
        .durability(Durability::Buffered);
    let db = options.open_with(fs, clock, PATH).unwrap();
    let mut writer = db.bulk_writer();
    let before = db.version();
    for i in 0..2000u32 {
        let mut with = WriteOptions::default().user_meta(i as u8);
        if i % 10 != 6 {
            with = with.expires_at(200 + u64::from(i));
        }
        writer.put_with(i.to_be_bytes(), value(i.into(), 100), with).unwrap();
        if i % 10 == 3 {
            writer.delete((i - 1).to_be_bytes()).unwrap();
        }
        if i % 10 == 7 {
            writer.merge((i - 1).to_be_bytes(), "+").unwrap();
        }
    }
    writer.finish().unwrap();
    let chunks = db.version() - before;
    assert!((10..40).contains(&chunks), "250 KB in chunks of at most 16 KiB: {chunks}");
    for i in 0..2000u32 {
        let item = db.get_entry(i.to_be_bytes()).unwrap();
        if i % 10 == 2 {
            assert!(item.is_none());
            continue;
        }
        let item = item.unwrap();
        let mut expected = value(i.into(), 100);
        if i % 10 == 6 {
            expected.push(b'+');
        }
        let expiry = (i % 10 != 6).then_some(200 + u64::from(i));
        assert_eq!(item.expires_at(), expiry);
        assert_eq!((item.user_meta(), item.value().unwrap().into_vec()), (i as u8, expected));
    }
}

#[test]
fn rule_36_each_chunk_is_atomic_to_every_reader() {
    let (db, _fs) = memory();
    let done = AtomicBool::new(false);
    // How many entries there are of each version.
    let chunks = || {
        let mut chunks = BTreeMap::new();
        for (i, item) in db.iter().unwrap().enumerate() {
            let item = item.unwrap();
            let i = i as u32;
            assert_eq!(
                item.key(),
                i.to_be_bytes(),
                "what is there is a prefix of what was written"
            );
            *chunks.entry(item.version()).or_insert(0) += 1;
        }
        chunks
    };
    let seen = std::thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let mut seen = Vec::new();
            while !done.load(Ordering::Relaxed) {
                seen.push(chunks());
            }
            seen
        });
        let mut writer = db.bulk_writer();
        for i in 0..30_000u32 {
            writer.put(i.to_be_bytes(), value(i.into(), 100)).unwrap();
        }
        writer.flush().unwrap();
        done.store(true, Ordering::Relaxed);
        reader.join().unwrap()
    });
    let whole = chunks();
    assert_eq!(whole.values().sum::<u32>(), 30_000);
    assert!((3..=5).contains(&whole.len()), "1 MiB each: {whole:?}");
    for chunks in seen {
        assert!(chunks.iter().all(|(version, n)| whole[version] == *n), "{chunks:?} of {whole:?}");
    }
}

#[test]
fn rule_36_usable_after_an_empty_flush_and_an_error_after_finish() {
    let (db, _fs) = memory();
    let mut writer = db.bulk_writer();
    let before = db.version();
    writer.flush().unwrap();
    writer.flush().unwrap();
    assert_eq!(db.version(), before, "an empty flush is no commit");
    writer.put("k", "v").unwrap();
    writer.flush().unwrap();
    assert_eq!(db.get("k").unwrap().unwrap(), "v");
    writer.put("l", "w").unwrap();
    writer.finish().unwrap();
    assert_eq!(db.get("l").unwrap().unwrap(), "w");
    for error in [
        writer.put("m", "x").unwrap_err(),
        writer.delete("m").unwrap_err(),
        writer.flush().unwrap_err(),
        writer.finish().unwrap_err(),
    ] {
        assert!(matches!(error, Error::Finished), "{error}");
        assert_eq!(error.kind(), ErrorKind::Usage);
    }
}

#[test]
fn rule_36_a_write_that_is_refused_is_left_out_and_the_rest_goes_on() {
    let (db, _fs) = memory();
    let mut writer = db.bulk_writer();
    writer.put("a", "1").unwrap();
    assert!(matches!(writer.put("", "2"), Err(Error::EmptyKey)));
    let most = db.max_value_len(1);
    let too_large = writer.put("b", vec![0; most + 1]);
    assert!(matches!(too_large, Err(Error::ValueTooLarge { .. })));
    writer.put("c", vec![0; most]).unwrap();
    writer.put("d", "4").unwrap();
    writer.finish().unwrap();
    let keys: Vec<_> = db.iter().unwrap().keys().collect::<Result<_, Error>>().unwrap();
    assert_eq!(keys, [b"a", b"c", b"d"]);
}

#[test]
fn rule_36_the_error_of_a_chunk_is_reported_once_by_flush_and_nothing_later_is_there() {
    let memory = Arc::new(MemFs::new());
    let fs = Arc::new(FaultFs::new(memory.clone()));
    let db = tiny().durability(Durability::Buffered).open_in(fs.clone(), PATH).unwrap();
    let mut writer = db.bulk_writer();
    writer.put("early", "v").unwrap();
    writer.flush().unwrap();
    fs.arm(FaultPlan::new(Fault::Io).on(&[Op::Write]).path(".vlog").forever());
    for i in 0..20_000u32 {
        // Chunks fail on the way, and no call but flush says so.
        writer.put(i.to_be_bytes(), value(i.into(), 100)).unwrap();
    }
    // Either a chunk met the disk, or the log had been poisoned in the background before.
    let failed = writer.flush().unwrap_err();
    assert!(matches!(failed.kind(), ErrorKind::Io | ErrorKind::Reopen), "{failed}");
    writer.flush().unwrap();
    writer.put("k", "v").unwrap();
    let next = writer.flush().unwrap_err();
    assert_eq!(next.kind(), ErrorKind::Reopen, "the next failure is a new one");
    // What has failed before a close is still told, once.
    writer.put("l", "w").unwrap();
    drop(db.close());
    assert!(matches!(writer.flush(), Err(Error::Closed)));
    assert!(matches!(writer.put("m", "x"), Err(Error::Closed)));
    let db = tiny().open_in(Arc::new(memory.process_image()), PATH).unwrap();
    assert_eq!(db.iter().unwrap().count(), 1);
}

#[test]
fn rule_36_flush_makes_durable_what_the_database_promises() {
    for (durability, survives) in [(Durability::Sync, true), (Durability::Buffered, false)] {
        let fs = Arc::new(MemFs::new());
        let db = tiny().durability(durability).open_in(fs.clone(), PATH).unwrap();
        let mut writer = db.bulk_writer();
        writer.put("k", "v").unwrap();
        writer.flush().unwrap();
        let after_power_cut = Arc::new(fs.crash_image(&mut Keep::None));
        let again = tiny().open_in(after_power_cut, PATH).unwrap();
        assert_eq!(again.get("k").unwrap().is_some(), survives);
    }
}

#[test]
fn rule_36_after_a_chunk_that_was_refused_no_later_write_is_there_without_it() {
    let fs = Arc::new(FaultFs::new(Arc::new(MemFs::new()) as Arc<dyn Fs>));
    let db = tiny().durability(Durability::Buffered).open_in(fs.clone(), PATH).unwrap();
    let full = fs.arm(FaultPlan::new(Fault::NoSpace).on(&[Op::Allocate]).path(".vlog").forever());
    let mut writer = db.bulk_writer();
    let keys = || db.iter().unwrap().keys().collect::<Result<Vec<_>, Error>>().unwrap();
    for i in 0..100_000u32 {
        writer.put(i.to_be_bytes(), value(i.into(), 200)).unwrap();
        if i == 1000 {
            writer.flush().unwrap();
        }
    }
    // There is room again, but what was refused is missing.
    full.disarm();
    for i in 100_000..110_000u32 {
        writer.put(i.to_be_bytes(), value(i.into(), 200)).unwrap();
    }
    assert_eq!(writer.flush().unwrap_err().kind(), ErrorKind::NoSpace);
    let there = keys();
    assert!((1001..100_000).contains(&there.len()), "{} are there", there.len());
    let prefix: Vec<_> = (0..there.len() as u32).map(|i| i.to_be_bytes().to_vec()).collect();
    assert!(there == prefix, "what is there is a prefix of what was written");
    writer.put("~", "goes on").unwrap();
    writer.flush().unwrap();
    assert_eq!(keys().len(), there.len() + 1);
}

/// One write of a random history.
#[derive(Debug, Clone)]
enum Write {
    Put(&'static str, Vec<u8>, WriteOptions),
    Delete(&'static str),
    Merge(&'static str, Vec<u8>),
}

fn random_write(rng: &mut fastrand::Rng) -> Write {
    let key = ["a", "b", "c"][rng.usize(..3)];
    let bytes = |rng: &mut fastrand::Rng| {
        let len = [1, 20, 3000, 7000][rng.usize(..4)];
        vec![rng.alphabetic() as u8; len]
    };
    match rng.u32(..10) {
        0 => Write::Delete(key),
        1..=3 => {
            let meta = WriteOptions::default().user_meta(rng.u8(..));
            // Long ago, in time to come, never.
            let options = [meta, meta.expires_at(200), meta.expires_at(50)][rng.usize(..3)];
            Write::Put(key, bytes(rng), options)
        }
        _ => Write::Merge(key, bytes(rng)),
    }
}

/// Value, user's byte, expiry.
type Shown = (Vec<u8>, u8, Option<u64>);

/// What a reader is shown of each key.
fn shown(db: &kvdb::Db) -> Vec<Option<Shown>> {
    let entry = |key: &str| {
        let item = db.get_entry(key).unwrap()?;
        Some((item.value().unwrap().into_vec(), item.user_meta(), item.expires_at()))
    };
    ["a", "b", "c"].map(entry).to_vec()
}

#[test]
fn rule_36_what_is_written_does_not_depend_on_where_chunks_end() {
    for seed in 0..60 * crate::common::scale() {
        let mut rng = fastrand::Rng::with_seed(seed);
        let history: Vec<Write> = (0..rng.usize(1..60)).map(|_| random_write(&mut rng)).collect();
        let clock = Arc::new(ManualClock::new(100));
        let open = |limit: Option<usize>| {
            let operator = MergeOperator::new(|_, older, newer| [older, newer].concat());
            let options = tiny().merge_operator(operator).max_transaction_size(limit);
            let options = options.durability(Durability::Buffered);
            options.open_with(Arc::new(MemFs::new()), clock.clone(), PATH).unwrap()
        };
        // Each write by itself; in chunks of a few writes; in as few chunks as can be.
        let single = open(None);
        for write in history.clone() {
            match write {
                Write::Put(key, value, with) => single.put_with(key, value, with),
                Write::Delete(key) => single.delete(key),
                Write::Merge(key, operand) => single.merge(key, operand),
            }
            .unwrap();
        }
        let bulks = [open(Some(16 << 10)), open(None)];
        for db in &bulks {
            let mut writer = db.bulk_writer();
            for write in history.clone() {
                match write {
                    Write::Put(key, value, with) => writer.put_with(key, value, with),
                    Write::Delete(key) => writer.delete(key),
                    Write::Merge(key, operand) => writer.merge(key, operand),
                }
                .unwrap_or_else(|e| panic!("{seed}: {e}"));
            }
            writer.finish().unwrap();
        }
        for now in [100, 199, 200] {
            clock.set(now);
            for round in ["written", "flushed and merged"] {
                let expected = shown(&single);
                for (i, db) in bulks.iter().enumerate() {
                    assert!(shown(db) == expected, "seed {seed}, store {i}, at {now}, {round}");
                    db.compact().unwrap();
                }
            }
        }
    }
}
