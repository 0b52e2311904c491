//! Random operations, flushes, compactions, snapshots, crashes of the process and reopenings,
//! against a `BTreeMap`: the same answers under every set of options.
#![allow(clippy::unwrap_used)] // a test may panic

mod common;

use std::sync::Arc;

use common::{Contents, contents, manual, open, scale, tiny, value};
use kvdb::vfs::MemFs;
use kvdb::{Codec, Db, Durability, GcOptions, Options, Snapshot};

/// Bytes of the largest values: with larger ones the log has many segments, and garbage in them.
const SMALL: usize = 3000;
const LARGE: usize = 40_000;

fn option_sets() -> Vec<(&'static str, Options)> {
    vec![
        ("tiny", tiny()),
        ("by hand", manual()),
        ("all values in the log", tiny().value_threshold(0)),
        ("all values in the tree", manual().value_threshold(1 << 30)),
        ("positioned reads", tiny().memory_map(false)),
        ("compressed", manual().codec(Codec::Lz4)),
        ("no filters, small blocks", manual().filter_bits_per_key(0).block_size(1 << 10)),
        ("two levels", manual().max_levels(2).level0_compaction_trigger(1)),
        ("large memtables", tiny().memtable_size(4 << 20)),
        ("buffered", tiny().durability(Durability::Buffered).compaction_threads(3)),
        ("flush on close", tiny().flush_on_close(true)),
        ("value directory", tiny().value_dir("/values")),
    ]
}

#[test]
fn the_same_operations_give_the_same_answers_under_every_set_of_options() {
    for seed in 0..2 * scale() {
        for (name, options) in option_sets() {
            println!("seed {seed}, {name}");
            run(seed, &options, 1200, SMALL);
        }
    }
}

#[test]
fn garbage_collection_of_the_log_changes_no_answer() {
    let sets = [
        ("threads", tiny()),
        ("by hand", manual()),
        ("everything in the log", manual().value_threshold(0)),
        ("positioned reads", manual().memory_map(false)),
        ("two levels", manual().max_levels(2).level0_compaction_trigger(1)),
        ("value directory", manual().value_dir("/values")),
    ];
    for seed in 100..100 + 2 * scale() {
        for (name, options) in &sets {
            println!("seed {seed}, {name}");
            let collections = run(seed, options, 900, LARGE);
            assert!(collections > 3, "{collections} collections");
        }
    }
}

/// Returns how many collections of the log there were.
fn run(seed: u64, options: &Options, steps: u64, largest: usize) -> u64 {
    let mut rng = fastrand::Rng::with_seed(seed);
    let mut fs = Arc::new(MemFs::new());
    let mut db = open(options, &fs).unwrap();
    let mut model = Contents::new();
    let mut snapshots: Vec<(Snapshot, Contents)> = Vec::new();
    let mut last_version = 0;
    let mut collections = 0;
    let change = |rng: &mut fastrand::Rng, step, model: &mut Contents, write: Write<'_>| {
        change(rng, step, largest, model, write);
    };
    for step in 0..steps {
        match rng.u32(..1040) {
            0..700 => {
                let mut batch = db.batch();
                for _ in 0..=rng.u32(..3) {
                    change(&mut rng, step, &mut model, &mut |key, value| match value {
                        Some(value) => batch.put(key, value).unwrap(),
                        None => batch.delete(key).unwrap(),
                    });
                }
                let version = batch.commit().unwrap();
                assert!(version > last_version);
                last_version = version;
            }
            700..800 => {
                let mut t = db.begin().unwrap();
                let own = model.clone();
                for _ in 0..=rng.u32(..10) {
                    change(&mut rng, step, &mut model, &mut |key, value| match value {
                        Some(value) => t.put(key, value).unwrap(),
                        None => t.delete(key).unwrap(),
                    });
                }
                assert!(t.iter().map(|i| i.unwrap().into_key()).eq(model.keys().cloned()));
                assert!(
                    t.iter().rev().map(|i| i.unwrap().into_key()).eq(model.keys().rev().cloned())
                );
                if rng.u8(..4) == 0 {
                    t.rollback();
                    model = own;
                } else {
                    last_version = t.commit().unwrap();
                }
            }
            800..900 => {
                let key = key(&mut rng);
                let got = db.get(&key).unwrap();
                assert_eq!(got.as_deref(), model.get(&key).map(|v| &v[..]));
                assert_eq!(db.contains(&key).unwrap(), model.contains_key(&key));
            }
            900..920 => snapshots.push((db.snapshot().unwrap(), model.clone())),
            920..940 if !snapshots.is_empty() => {
                let (snapshot, expected) = snapshots.swap_remove(rng.usize(..snapshots.len()));
                assert!(contents(&snapshot) == expected, "a snapshot changed (step {step})");
            }
            940..955 => db.flush().unwrap(),
            955..960 => db.compact().unwrap(),
            960..980 => background(&db, &mut rng),
            980..990 => {
                snapshots.clear();
                db.close().unwrap();
                db = open(options, &fs).unwrap();
            }
            990..993 => {
                // The process dies: what the file system was given is there.
                snapshots.clear();
                let image = Arc::new(fs.process_image());
                drop(db);
                fs = image;
                db = open(options, &fs).unwrap();
            }
            993..1000 => assert!(contents(&db.snapshot().unwrap()) == model, "step {step}"),
            _ => {
                let everything = rng.u8(..3) == 0;
                let gc = if everything { GcOptions::full() } else { GcOptions::default() };
                let report = db.gc(&gc.look_up(rng.bool())).unwrap();
                assert_eq!(report.damaged, []);
                collections += report.collections;
            }
        }
    }
    assert!(contents(&db.snapshot().unwrap()) == model, "at the end");
    for (snapshot, expected) in &snapshots {
        assert!(contents(snapshot) == *expected, "a snapshot changed (at the end)");
    }
    let report = db.verify().unwrap();
    assert!(report.entries >= model.len() as u64 || report.tables == 0);
    db.close().unwrap();
    let db = open(options, &fs).unwrap();
    assert!(contents(&db.snapshot().unwrap()) == model, "after reopening");
    collections
}

fn key(rng: &mut fastrand::Rng) -> Vec<u8> {
    format!("{:0width$}", rng.u32(..150), width = 1 + rng.usize(..3)).into_bytes()
}

type Write<'a> = &'a mut dyn FnMut(&[u8], Option<&[u8]>);

fn change(
    rng: &mut fastrand::Rng,
    step: u64,
    largest: usize,
    model: &mut Contents,
    write: Write<'_>,
) {
    let key = key(rng);
    if rng.u8(..4) == 0 {
        write(&key, None);
        model.remove(&key);
    } else {
        let len = if rng.u8(..4) == 0 { rng.usize(..largest) } else { rng.usize(..100) };
        let value = value(step, len);
        write(&key, Some(&value));
        model.insert(key, value);
    }
}

fn background(db: &Db, rng: &mut fastrand::Rng) {
    if db.options().background == kvdb::Background::Manual {
        for _ in 0..rng.u32(..5) {
            let step = kvdb::Step::ALL[rng.usize(..kvdb::Step::ALL.len())];
            db.step(step).unwrap();
        }
    } else {
        db.wait_idle().unwrap();
    }
}
