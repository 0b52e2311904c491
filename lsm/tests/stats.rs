//! What the figures say, held against what was done.

#![allow(clippy::unwrap_used)]

mod common;

use common::*;
use kvdb_lsm::*;

fn fill(tree: &Tree<NoCompanion>, keys: std::ops::Range<u64>, version: u64) {
    for key in keys {
        tree.write(version, &[(&key.to_be_bytes(), Entry::value(&[7; 50]))]).unwrap();
    }
    tree.flush().unwrap();
}

#[test]
fn bytes_tables_and_jobs_add_up() {
    let store = Store::new();
    let tree = store.open(small());
    fill(&tree, 0..400, 1);
    let s = tree.stats();
    assert_eq!((s.flushes, s.compactions, s.moves), (1, 0, 0));
    assert_eq!(s.levels[0].tables, 1);
    assert_eq!((s.levels[0].bytes, s.levels[0].write_bytes), (s.flushed_bytes, s.flushed_bytes));
    assert_eq!(s.levels[0].score, 0.5, "one of two tables");
    assert!(s.shape.starts_with("L0: 1 "), "{}", s.shape);

    // Disjoint tables of level 0 move down, overlapping ones are merged.
    fill(&tree, 1000..1400, 2);
    assert!(tree.step(Job::Compact).unwrap());
    let s = tree.stats();
    assert_eq!((s.moves, s.compactions), (2, 0));
    let sum = |s: &Stats, of: fn(&LevelStats) -> u64| s.levels.iter().map(of).sum::<u64>();
    assert_eq!(sum(&s, |l| l.moved_bytes), s.flushed_bytes);
    assert_eq!(s.levels[4].tables, 2, "to the last level, since nothing lies above it");
    let before = s.levels[4].bytes;
    fill(&tree, 0..400, 3);
    fill(&tree, 0..400, 4);
    let s = tree.stats();
    let inputs = s.levels[0].bytes;
    tree.companion().raise_floor(Floor { discard: 4, clock: 0 });
    assert!(tree.step(Job::Compact).unwrap());
    let s = tree.stats();
    assert_eq!(s.compactions, 1);
    assert!(s.dropped_entries >= 400, "the older version of every key");
    let read = sum(&s, |l| l.read_bytes);
    assert_eq!(read, s.compacted_read_bytes);
    assert!(read >= inputs && read <= inputs + before);
    assert_eq!(sum(&s, |l| l.write_bytes), s.flushed_bytes + s.compacted_write_bytes);
    assert!(s.compacted_write_bytes > 0 && s.levels[0].tables == 0);
    let files: u64 = store
        .table_files()
        .iter()
        .map(|&id| store.fs.metadata(&store.dir.join(table_file_name(id))).unwrap().len)
        .sum();
    while tree.step(Job::Reclaim).unwrap() {}
    let all: u64 = tree.stats().levels.iter().map(|l| l.bytes).sum();
    assert!(all < files);
    assert_eq!((s.failed_jobs, s.running, s.sealed_memtables), (0, 0, 0));
    assert!(s.memtable_bytes > 0);
}

/// Read, written and moved bytes of each level, 0 first.
fn bytes_per_level(s: &Stats) -> Vec<[u64; 3]> {
    s.levels.iter().map(|l| [l.read_bytes, l.write_bytes, l.moved_bytes]).collect()
}

#[test]
fn what_a_job_reads_writes_and_moves_counts_for_the_level_it_goes_to() {
    let store = Store::new();
    let tree = store.open(small());
    fill(&tree, 0..400, 1);
    fill(&tree, 1000..1400, 2);
    let mut expected = vec![[0; 3]; 5];
    let top = tree.stats().levels[0].bytes;
    expected[0] = [0, top, 0];
    assert_eq!(bytes_per_level(&tree.stats()), expected);
    assert!(tree.step(Job::Compact).unwrap());
    expected[4] = [0, 0, top];
    assert_eq!(bytes_per_level(&tree.stats()), expected);
    // The last level is large enough for one above it now: twice into that one, the second time over
    // what lies there.
    for round in 0..2u64 {
        fill(&tree, 0..200, 3 + 2 * round);
        fill(&tree, 0..200, 4 + 2 * round);
        let s = tree.stats();
        assert_eq!((s.base_level, s.levels[3].tables > 0), (3, round > 0), "{}", s.shape);
        expected[0][1] += s.levels[0].bytes;
        expected[3][0] += s.levels[0].bytes + s.levels[3].bytes;
        tree.companion().raise_floor(Floor { discard: 4 + 2 * round, clock: 0 });
        assert!(tree.step(Job::Compact).unwrap());
        let s = tree.stats();
        assert_eq!((s.levels[0].tables, s.compactions), (0, round + 1), "{}", s.shape);
        expected[3][1] += s.levels[3].bytes;
        assert_eq!(bytes_per_level(&s), expected, "{}", s.shape);
        let sum = |i: usize| expected.iter().map(|l| l[i]).sum::<u64>();
        assert_eq!((s.compacted_read_bytes, s.moves), (sum(0), 2));
        assert_eq!(s.flushed_bytes + s.compacted_write_bytes, sum(1));
    }
}

#[test]
fn filters_and_lookups_are_counted() {
    let store = Store::new();
    let tree = store.open(small());
    fill(&tree, 0..400, 1);
    let get = |key: u64| tree.get(&key.to_be_bytes(), u64::MAX, 0).unwrap().is_some();
    assert!((0..100).all(get));
    let s = tree.stats();
    assert_eq!((s.table_hits, s.filter_hits, s.filter_misses), (100, 0, 0));
    // Keys within the table's bounds that are not in it.
    let missing = |i: u64| {
        let key = [i.to_be_bytes().as_slice(), b"x"].concat();
        tree.get(&key, u64::MAX, 0).unwrap().is_none()
    };
    assert!((0..399).all(missing));
    let s = tree.stats();
    assert_eq!(s.table_hits, 100);
    assert_eq!(s.filter_hits + s.filter_misses, 399);
    assert!(s.filter_hits > 350, "{s:?}");
    // What a memtable answers, no table is asked.
    tree.write(2, &[(&5u64.to_be_bytes(), Entry::value(b"new"))]).unwrap();
    assert!(get(5));
    assert_eq!(tree.stats().table_hits, 100);
    // Whichever threads they come from.
    std::thread::scope(|s| {
        for _ in 0..3 {
            s.spawn(|| assert!((10..20).all(get)));
        }
    });
    assert_eq!(tree.stats().table_hits, 130);
}

#[test]
fn every_reason_to_wait_is_listed() {
    let store = Store::new();
    let s = store.open(small()).stats();
    let reasons: Vec<_> = s.stalls.iter().map(|s| (s.reason, s.count, s.nanos)).collect();
    assert_eq!(
        reasons,
        [StallReason::Memtables, StallReason::Level0, StallReason::Debt].map(|r| (r, 0, 0))
    );
    assert_eq!((s.slowdowns, s.slowdown_nanos), (0, 0));
    assert_eq!(s.shape, "empty");
}

#[test]
fn levels_their_targets_and_what_lies_above_them() {
    let store = Store::new();
    let tree = store.open(small());
    fill(&tree, 0..400, 1);
    fill(&tree, 200..600, 2);
    let s = tree.stats();
    assert_eq!((s.base_level, s.levels.len()), (4, 5), "data goes to the last level first");
    assert_eq!(s.levels[0].score, 1.0, "two of two tables");
    assert_eq!((s.levels[0].target_bytes, s.debt_bytes), (0, 0));
    assert_eq!(s.levels[4].target_bytes, small().base_level_size);
    for version in 3..20 {
        fill(&tree, version * 300..version * 300 + 400, version);
    }
    tree.wait_idle().unwrap();
    let s = tree.stats();
    assert!(s.base_level < 4, "{}", s.shape);
    let last = s.levels[4].bytes;
    assert_eq!(s.levels[4].target_bytes, last, "the last level is as large as it is");
    assert_eq!(s.levels[3].target_bytes, (last / 4).max(small().base_level_size));
    assert!(s.levels.iter().all(|l| l.score < 1.0) && s.debt_bytes == 0, "{s:?}");
    // The same tables seen with smaller targets are in debt.
    drop(tree);
    let tree = store.open(Options { base_level_size: 16 << 10, ..small() });
    let s = tree.stats();
    let above = |l: &LevelStats| l.bytes.saturating_sub(l.target_bytes);
    assert_eq!(s.debt_bytes, s.levels[s.base_level..4].iter().map(above).sum::<u64>());
}

#[test]
fn caches_and_open_tables() {
    let store = Store::new();
    let reads = Reads::Positioned { block_cache_bytes: 1 << 20 };
    let tree = store.open(Options { reads, paranoid: false, ..small() });
    fill(&tree, 0..400, 1);
    let s = tree.stats();
    assert_eq!((s.open_tables, s.index_bytes, s.cache_bytes), (0, 0, 0), "opened when it is read");
    assert!(tree.get(&7u64.to_be_bytes(), u64::MAX, 0).unwrap().is_some());
    let s = tree.stats();
    assert_eq!(s.open_tables, 1);
    assert!(s.index_bytes > 0 && s.index_bytes < s.levels[0].bytes);
    assert!(s.cache_bytes >= small().block_size as u64 / 2, "a block: {}", s.cache_bytes);
    tree.companion().raise_floor(Floor { discard: 1, clock: 0 });
    drop(tree);
    let tree = store.open(Options { paranoid: false, ..small() });
    assert!(tree.get(&7u64.to_be_bytes(), u64::MAX, 0).unwrap().is_some());
    let s = tree.stats();
    assert_eq!((s.open_tables, s.index_bytes, s.cache_bytes), (1, 0, 0), "used in the map");
}

#[test]
fn failed_jobs_are_counted_and_change_nothing_else() {
    use kvdb_vfs::{Fault, FaultFs, FaultPlan, MemFs, Op};

    let fs = FaultFs::new(std::sync::Arc::new(MemFs::new()));
    let store = Store::over(std::sync::Arc::new(fs.clone()));
    let tree = store.open(small());
    fill(&tree, 0..400, 1);
    fill(&tree, 0..400, 2);
    let before = tree.stats();
    fs.arm(FaultPlan::new(Fault::NoSpace).on(&[Op::Write]).path(".sst"));
    tree.step(Job::Compact).unwrap_err();
    let after = tree.stats();
    assert_eq!(after.failed_jobs, 1);
    assert_eq!(after.levels, before.levels);
    assert_eq!((after.compactions, after.compacted_write_bytes, after.running), (0, 0, 0));
    assert_eq!(after.dropped_entries, 0);
}

#[test]
fn a_compaction_counts_as_running_from_its_first_read_to_its_installation() {
    use kvdb_vfs::{MemFs, Op};
    use std::sync::Arc;

    let fs = MemFs::new();
    let store = Store::over(Arc::new(fs.clone()));
    let tree = store.open(small());
    let running = Arc::<parking_lot::Mutex<Vec<usize>>>::default();
    let (seen, looks_at) = (running.clone(), Arc::downgrade(&tree));
    fs.on_operation(move |_, op, path| {
        if op == Op::Write && path.extension().is_some_and(|e| e == "sst") {
            seen.lock().push(looks_at.upgrade().unwrap().stats().running);
        }
    });
    let take = || std::mem::take(&mut *running.lock());
    fill(&tree, 0..400, 1);
    fill(&tree, 0..400, 2);
    let flushing = take();
    assert!(!flushing.is_empty() && flushing.iter().all(|&n| n == 0), "{flushing:?}");
    assert!(tree.step(Job::Compact).unwrap());
    let compacting = take();
    fs.clear_hook();
    assert!(!compacting.is_empty() && compacting.iter().all(|&n| n == 1), "{compacting:?}");
    assert_eq!(tree.stats().running, 0);
}
