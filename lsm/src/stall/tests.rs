//! When writers are held back, and what of it a whole tree's figures tell.

use std::time::Instant;

use kvdb_manifest::store::{StoreChange, TableRecord};

use super::*;
use crate::companion::NoCompanion;
use crate::entry::Entry;
use crate::maintenance::Job;
use crate::testing::{flush, reopened, tree_with};
use crate::tree::Tree;

#[test]
fn writers_are_slowed_from_one_trigger_and_stopped_at_the_other() {
    let options = Options { l0_slowdown_trigger: 8, l0_stop_trigger: 16, ..Options::default() };
    let at = |l0, debt| Pressure::new(&options, l0, debt);
    assert!(at(7, 0).slows().is_none());
    assert!(at(8, 0).slows().is_some() && !at(15, 0).stops());
    assert!(at(8, 0).slows() < at(15, 0).slows());
    assert!(at(16, 0).stops());
    let debt = options.debt_slowdown_bytes;
    assert!(at(0, debt).slows().is_none() && at(0, debt * 2).slows().is_some());
    assert!(at(0, debt * 4).stops() && !at(0, debt * 4 - 1).stops());
    assert_eq!(at(0, debt * 4).reason(), StallReason::Debt);
}

/// Writers wait, since there are to be threads, but none runs: what there is to do is done step by step.
fn options() -> Options {
    Options {
        memtable_size: 64 << 10,
        max_memtables: 2,
        table_size: 16 << 10,
        base_level_size: 16 << 10,
        max_levels: 3,
        l0_compaction_trigger: 2,
        l0_slowdown_trigger: 3,
        l0_stop_trigger: 4,
        debt_slowdown_bytes: 1 << 20,
        ..Options::default()
    }
}

/// As many tables on level 0.
fn with_top_tables(tables: u64) -> std::sync::Arc<Tree<NoCompanion>> {
    let tree = tree_with(options(), NoCompanion::default());
    for version in 1..=tables {
        flush(&tree, &[("k", version, Entry::value(b"v"))]);
    }
    tree
}

/// Tables of level 1 that have so many bytes in all, as far as anybody can tell who does not read them.
fn large(bytes: u64) -> StoreChange {
    let key = |n: u64| n.to_be_bytes().to_vec();
    let record = |n: u64| TableRecord {
        id: 1000 + n,
        level: 1,
        size: bytes / 4,
        smallest_key: key(2 * n),
        largest_key: key(2 * n + 1),
        smallest_version: 1,
        largest_version: 1,
        entries: 2,
        ..TableRecord::default()
    };
    StoreChange { tables_added: (0..4).map(record).collect(), ..StoreChange::default() }
}

/// Writes with `write` until a writer waits, then lets it go on by `ease`, which is called until it is
/// through. What the tree tells of it: reason and number of all waits.
fn waited(
    tree: &Tree<NoCompanion>,
    write: impl Fn() + Send,
    ease: impl Fn(),
) -> Vec<(StallReason, u64)> {
    let shared = &tree.shared;
    let begun = Instant::now();
    let least = std::thread::scope(|s| {
        let writer = s.spawn(write);
        let until = begun + Duration::from_secs(20);
        while !shared.admission.stalls.any_waiting() && !writer.is_finished() {
            assert!(Instant::now() < until, "nobody waits");
            std::thread::yield_now();
        }
        let waits = Instant::now();
        // Woken for nothing, it waits on.
        std::thread::sleep(Duration::from_millis(4));
        shared.admission.wake_all();
        std::thread::sleep(Duration::from_millis(4));
        let least = waits.elapsed();
        while !writer.is_finished() && Instant::now() < until {
            ease();
            std::thread::yield_now();
        }
        let eased = writer.is_finished();
        tree.close();
        assert!(eased, "nobody told the one who waits");
        writer.join().unwrap();
        least
    });
    let stalls = tree.stats().stalls;
    let nanos: u64 = stalls.iter().map(|s| s.nanos).sum();
    assert!(stalls.iter().all(|s| (s.count == 0) == (s.nanos == 0)), "{stalls:?}");
    assert!(nanos >= least.as_nanos() as u64, "{nanos} ns of {least:?} at least");
    assert!(nanos <= begun.elapsed().as_nanos() as u64, "one writer, {nanos} ns");
    stalls.iter().map(|s| (s.reason, s.count)).collect()
}

#[test]
fn a_tree_tells_what_writers_waited_for_how_often_and_for_how_long() {
    use StallReason::{Debt, Level0, Memtables};

    let write = |tree: &Tree<NoCompanion>| tree.write(100, &[(b"k", Entry::value(b"v"))]).unwrap();

    // Two memtables, and nobody who flushes them.
    let tree = tree_with(options(), NoCompanion::default());
    let fill = || {
        for version in 1..=150 {
            tree.write(version, &[(b"k", Entry::value(&[7; 1000]))]).unwrap();
        }
    };
    let stalls = waited(&tree, fill, || _ = tree.step(Job::Flush).unwrap());
    assert_eq!(stalls, [(Memtables, 1), (Level0, 0), (Debt, 0)]);

    let tree = with_top_tables(4);
    let compact = || _ = tree.step(Job::Compact).unwrap();
    let stalls = waited(&tree, || write(&tree), compact);
    assert_eq!(stalls, [(Memtables, 0), (Level0, 1), (Debt, 0)]);

    let tree = tree_with(options(), NoCompanion::default());
    tree.install(large(16 << 20)).unwrap();
    let drop_all = || {
        if !tree.superversion().version().level(1).is_empty() {
            let tables_removed = (1000..1004).collect();
            tree.install(StoreChange { tables_removed, ..StoreChange::default() }).unwrap();
        }
    };
    let stalls = waited(&tree, || write(&tree), drop_all);
    assert_eq!(stalls, [(Memtables, 0), (Level0, 0), (Debt, 1)]);
}

/// How many of two writes were slowed down: the first one that comes goes at once.
fn slowed(tree: &Tree<NoCompanion>) -> u64 {
    for version in [100, 101] {
        tree.write(version, &[(b"k", Entry::value(&[7; 1000]))]).unwrap();
    }
    let stats = tree.stats();
    assert_eq!(stats.slowdowns == 0, stats.slowdown_nanos == 0);
    stats.slowdowns
}

#[test]
fn a_reopened_tree_holds_writers_back_for_what_was_left_undone() {
    let slow = Options { delayed_write_rate: 1 << 20, ..options() };
    let levels = |tables, bytes| {
        let tree = with_top_tables(tables);
        if bytes > 0 {
            tree.install(large(bytes)).unwrap();
            // Opening looks whether the files are there.
            for table in tree.superversion().version().level(1).tables() {
                let file =
                    tree.shared.fs.open(&table.path(), kvdb_vfs::OpenMode::CreateNew).unwrap();
                file.set_len(table.size()).unwrap();
            }
        }
        reopened(tree, slow.clone())
    };
    assert_eq!(slowed(&levels(2, 0)), 0);
    assert_eq!(slowed(&levels(3, 0)), 1, "tables of level 0");
    assert_eq!(slowed(&levels(2, 3 << 20)), 1, "bytes above the targets");
}

#[test]
fn a_flush_tells_how_fast_room_comes_back() {
    let tree = tree_with(options(), NoCompanion::default());
    assert_eq!(tree.shared.admission.flush_rate(), None);
    tree.write(1, &[(b"k", Entry::value(b"v"))]).unwrap();
    tree.rotate().unwrap();
    let bytes = tree.shared.admission.lock().sealed[0].bytes() as f64;
    let begun = Instant::now();
    tree.flush().unwrap();
    let least = bytes / begun.elapsed().as_secs_f64();
    let rate = tree.shared.admission.flush_rate().unwrap();
    assert!(rate + 1.0 >= least, "{rate}: the flush took no longer than the call, {least}");
}
