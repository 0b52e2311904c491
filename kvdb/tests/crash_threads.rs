//! SEMANTICS rules 12, 45 and 49b with everything running: four writers, flush, compaction and
//! housekeeping threads, a thread that collects garbage without end, and power cuts taken at any moment by a thread of its own.
//!
//! Every writer numbers its commits. Before an image is taken the last numbers that were
//! acknowledged as durable are noted, afterwards the last ones that were begun: the image must
//! show, of every writer, a number in between, and everything up to it and nothing behind it. When
//! the run is over the versions of all commits are known, so it is checked that what the image
//! shows is a prefix of the one order of commits.
#![allow(clippy::unwrap_used)] // a test may panic

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use common::{open, scale, tiny, value};
use kvdb::vfs::{Keep, MemFs};
use kvdb::{Db, Durability, GcOptions, Options};
use parking_lot::Mutex;

const WRITERS: u64 = 4;
/// A commit deletes what the writer's commit so many numbers ago has written.
const KEPT: u64 = 30;

#[derive(Default)]
struct Writer {
    /// Number of the last commit that was begun.
    begun: AtomicU64,
    /// Number of the last commit that was acknowledged as durable.
    durable: AtomicU64,
}

/// What the writers and the taker of images share.
#[derive(Default)]
struct Shared {
    writers: [Writer; WRITERS as usize],
    /// Version, writer and number of every commit that was acknowledged.
    commits: Mutex<Vec<(u64, u64, u64)>>,
    /// The largest version that was acknowledged.
    version: AtomicU64,
    stop: AtomicBool,
}

fn entry_key(writer: u64, number: u64) -> String {
    format!("{writer}/{number:06}")
}

fn entry_value(writer: u64, number: u64) -> Vec<u8> {
    let len = match number % 16 {
        0 => 60_000 + 1000 * writer as usize,
        1..=4 => 3000,
        _ => 40 + number as usize % 200,
    };
    value(writer << 32 | number, len)
}

fn write(db: &Db, shared: &Shared, writer: u64, seed: u64) {
    let mut rng = fastrand::Rng::with_seed(seed << 8 | writer);
    let me = &shared.writers[writer as usize];
    let mut number = 0u64;
    while !shared.stop.load(Ordering::SeqCst) {
        number += 1;
        let durability = if rng.u8(..3) == 0 { Durability::Sync } else { Durability::Buffered };
        let mut batch = db.batch();
        batch.put(format!("head/{writer}"), number.to_be_bytes()).unwrap();
        batch.put(entry_key(writer, number), entry_value(writer, number)).unwrap();
        if let Some(old) = number.checked_sub(KEPT).filter(|&old| old > 0) {
            batch.delete(entry_key(writer, old)).unwrap();
        }
        batch.put(format!("tail/{writer}"), number.to_be_bytes()).unwrap();
        me.begun.store(number, Ordering::SeqCst);
        let version = batch.commit_with(durability).unwrap();
        if durability == Durability::Sync {
            me.durable.store(number, Ordering::SeqCst);
        }
        shared.version.fetch_max(version, Ordering::SeqCst);
        shared.commits.lock().push((version, writer, number));
        assert_eq!(db.get(format!("tail/{writer}")).unwrap().unwrap(), number.to_be_bytes());
    }
}

/// What an image shows: the number of each writer, and the newest version.
struct Shown {
    numbers: [u64; WRITERS as usize],
    version: u64,
    what: String,
}

fn number(db: &Db, name: &str, writer: u64) -> (u64, u64) {
    match db.get_entry(format!("{name}/{writer}")).unwrap() {
        None => (0, 0),
        Some(item) => {
            let bytes = item.value().unwrap();
            (u64::from_be_bytes(bytes[..].try_into().unwrap()), item.version())
        }
    }
}

/// Takes one image, opens it, and looks at every writer's part.
fn power_cut(
    options: &Options,
    fs: &MemFs,
    shared: &Shared,
    keep: &mut Keep,
    what: String,
) -> Shown {
    let durable: Vec<u64> =
        shared.writers.iter().map(|w| w.durable.load(Ordering::SeqCst)).collect();
    let acknowledged = shared.version.load(Ordering::SeqCst);
    let image = Arc::new(fs.crash_image(keep));
    let begun: Vec<u64> = shared.writers.iter().map(|w| w.begun.load(Ordering::SeqCst)).collect();
    let db = open(options, &image).unwrap_or_else(|e| panic!("{what}: does not open: {e}"));
    let mut shown = Shown { numbers: [0; WRITERS as usize], version: 0, what };
    let what = &shown.what;
    for writer in 0..WRITERS {
        let w = writer as usize;
        let (head, version) = number(&db, "head", writer);
        assert_eq!((head, version), number(&db, "tail", writer), "{what}: a commit in part");
        assert!(
            (durable[w]..=begun[w]).contains(&head),
            "{what}: writer {writer} is at {head}, durable were {}, begun {}",
            durable[w],
            begun[w]
        );
        shown.numbers[w] = head;
        shown.version = shown.version.max(version);
        let mut expected = head.saturating_sub(KEPT) + 1;
        for item in db.prefix(format!("{writer}/")).unwrap() {
            let item = item.unwrap();
            assert_eq!(item.key(), entry_key(writer, expected).as_bytes(), "{what}");
            let value = item.value().unwrap();
            assert!(value == entry_value(writer, expected), "{what}: value of {expected}");
            expected += 1;
        }
        assert_eq!(expected, head + 1, "{what}: entries of writer {writer}");
    }
    let next = db.put("next", "").unwrap();
    assert!(next > acknowledged, "{what}: version {next} again, {acknowledged} was acknowledged");
    db.verify().unwrap_or_else(|e| panic!("{what}: does not verify: {e}"));
    shown
}

fn run(options: &Options, seed: u64, images: u64) {
    let fs = Arc::new(MemFs::new());
    let db = open(options, &fs).unwrap();
    let shared = Shared::default();
    let collections = AtomicU64::new(0);
    let shown = std::thread::scope(|scope| {
        // Also when an assertion fails.
        struct Stop<'a>(&'a AtomicBool);
        impl Drop for Stop<'_> {
            fn drop(&mut self) {
                self.0.store(true, Ordering::SeqCst);
            }
        }
        for writer in 0..WRITERS {
            let (db, shared) = (&db, &shared);
            scope.spawn(move || write(db, shared, writer, seed));
        }
        let _stop = Stop(&shared.stop);
        scope.spawn(|| {
            while !shared.stop.load(Ordering::SeqCst) {
                collections
                    .fetch_add(db.gc(&GcOptions::full()).unwrap().collections, Ordering::Relaxed);
            }
        });
        let mut rng = fastrand::Rng::with_seed(seed);
        let mut shown = Vec::new();
        for i in 0..images {
            // Some way on, so that the images differ.
            let from = shared.version.load(Ordering::SeqCst) + rng.u64(..40);
            while shared.version.load(Ordering::SeqCst) < from {
                std::thread::yield_now();
            }
            let mut keep = match rng.u8(..4) {
                0 => Keep::None,
                1 => Keep::All,
                _ => Keep::Random(rng.u64(..)),
            };
            let what = format!("seed {seed}, image {i}, {keep:?}");
            shown.push(power_cut(options, &fs, &shared, &mut keep, what));
        }
        shown
    });
    let separated = options.value_threshold < 60_000;
    assert!(!separated || collections.into_inner() > 0, "no collection was among it");
    let commits = shared.commits.lock();
    for image in &shown {
        for &(version, writer, number) in commits.iter() {
            let there = number <= image.numbers[writer as usize];
            assert_eq!(
                there,
                version <= image.version,
                "{}: version {version} (number {number} of writer {writer}) breaks the prefix that ends at {}",
                image.what,
                image.version
            );
        }
    }
    db.verify().unwrap();
    db.close().unwrap();
}

#[test]
fn rule_45_power_cuts_under_four_writers_leave_a_prefix_with_all_that_was_durable() {
    for round in 0..2 * scale() {
        let threshold = [256, 1 << 30][round as usize % 2];
        run(&tiny().value_threshold(threshold), round, 20);
    }
}

#[test]
fn rule_45_the_same_with_a_log_directory_of_its_own() {
    for round in 0..scale() {
        run(&tiny().value_dir("/log"), 1000 + round, 20);
    }
}
