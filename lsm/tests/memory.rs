//! The memory budget, held against an allocator that counts. What else runs in the process would be
//! counted: one test at a time.

#![allow(clippy::unwrap_used)]

mod common;
#[path = "../../sstable/tests/common/counting.rs"]
mod counting;

use std::sync::Arc;

use common::*;
use counting::Watermark;
use kvdb_lsm::*;
use kvdb_skiplist::SkipList;
use parking_lot::Mutex;

static ALONE: Mutex<()> = Mutex::new(());

const VALUE: usize = 100;
/// Bytes of a level at the scale of 1; with `KVDB_TEST_SCALE=128` it has 4 GiB.
const LEVEL: u64 = 32 << 20;

/// Every so many entries are written a second time.
const SECOND: u64 = 64;
/// Entries of one write.
const BATCH: u64 = 64;

/// Bytes that each table takes beside its keys, and how often one of its length is in memory, while a
/// change of all tables is installed: what the budget does not count.
const RECORD: usize = 1 << 10;
const KEYS: usize = 24;

/// What the entries are like.
#[derive(Debug, Clone, Copy)]
struct Shape {
    key_len: usize,
    /// Bytes of a key that are the same in all: what an index can say of it in a few bytes is not.
    common: usize,
    value_len: usize,
    bits_per_key: u32,
}

const ORDINARY: Shape = Shape { key_len: 16, common: 8, value_len: VALUE, bits_per_key: 10 };

impl Shape {
    fn key(&self, n: u64) -> Vec<u8> {
        let mut key = vec![0; self.key_len];
        key[self.common..self.common + 8].copy_from_slice(&n.wrapping_mul(3).to_be_bytes());
        key
    }

    /// Writes entries with these numbers, in this order, `round` being part of their values.
    fn write(&self, tree: &Tree<NoCompanion>, version: &mut u64, round: u8, numbers: &[u64]) {
        let keys: Vec<_> = numbers.iter().map(|&n| self.key(n)).collect();
        let values: Vec<_> =
            numbers.iter().map(|&n| vec![n as u8 ^ round; self.value_len]).collect();
        let entries = keys.iter().zip(&values).map(|(k, v)| (&k[..], Entry::value(v)));
        *version += 1;
        tree.write(*version, &entries.collect::<Vec<_>>()).unwrap();
    }
}

/// Loads a level, compacts it whole, reads it at random and from end to end.
fn load_and_compact(reads: Reads, shape: Shape) {
    let _alone = ALONE.lock();
    let held = Watermark::start();
    let budget: u64 = 24 << 20;
    let options = Options { reads, bits_per_key: shape.bits_per_key, ..Options::default() };
    let mut options = options.scaled_to(budget).unwrap();
    options.paranoid = false; // it would read everything again and again
    let list = options.memtable_size + SkipList::index_bound(options.memtable_size);
    let memtables = (options.max_memtables + 1) * list;
    let (_dir, store) = in_directory();
    let tree = store.open(options);
    let entries = LEVEL * scale() / shape.value_len.max(shape.key_len) as u64;
    let mut version = 0;
    // In order, so that what is flushed is moved down as it is and the level is full soon.
    for from in (0..entries).step_by(BATCH as usize) {
        let numbers: Vec<u64> = (from..entries.min(from + BATCH)).collect();
        shape.write(&tree, &mut version, 0, &numbers);
    }
    tree.flush().unwrap();
    // All over it, so that all of it has to be merged with what is new.
    let mut rng = fastrand::Rng::with_seed(1);
    let mut second: Vec<u64> = (0..entries / SECOND).map(|i| i * SECOND).collect();
    rng.shuffle(&mut second);
    for numbers in second.chunks(BATCH as usize) {
        shape.write(&tree, &mut version, 1, numbers);
    }
    let numbers = second.len() * size_of::<u64>();
    drop(second);
    tree.companion().raise_floor(Floor { discard: version, clock: 0 });
    tree.major_compact().unwrap();
    tree.wait_idle().unwrap();
    let stats = tree.stats();
    let level = stats.levels.iter().map(|l| l.bytes).sum::<u64>();
    assert_eq!(stats.dropped_entries, entries / SECOND, "all that was written twice has met");
    assert!(stats.compacted_read_bytes > level * 9 / 10, "all of it was read and written anew");
    for _ in 0..entries.min(300_000) {
        let n = rng.u64(..entries);
        let round = u8::from(n.is_multiple_of(SECOND) && n / SECOND < entries / SECOND);
        let expected = vec![n as u8 ^ round; shape.value_len];
        assert_eq!(tree.get(&shape.key(n), u64::MAX, 0).unwrap().unwrap(), expected);
    }
    assert_eq!(count(&tree) as u64, entries);
    // The lists of memtables are maps of their own, which the allocator does not see. The numbers of
    // the second round are the test's own. What a change of all tables takes comes on top.
    let tables = stats.levels.iter().map(|l| l.tables).sum::<usize>();
    let records = tables * (RECORD + KEYS * shape.key_len);
    let most = (held.most() + memtables - numbers).saturating_sub(records);
    let (levels, open) = (stats.shape, tree.stats().open_tables);
    assert!(
        most as u64 <= budget,
        "{most} of {budget} bytes, {reads:?}, {shape:?}, {levels}, {open} open"
    );
    tree.close();
}

#[test]
fn a_level_is_loaded_compacted_and_read_within_the_memory_budget() {
    load_and_compact(Reads::Mapped, ORDINARY);
    load_and_compact(Reads::Positioned { block_cache_bytes: 0 }, ORDINARY);
}

#[test]
fn the_largest_filters_and_long_keys_are_within_the_memory_budget() {
    let filters = Shape { bits_per_key: 64, ..ORDINARY };
    let far_apart = Shape { key_len: 3000, common: 0, value_len: 8, bits_per_key: 10 };
    let alike = Shape { common: 2900, ..far_apart };
    for shape in [filters, far_apart, alike] {
        load_and_compact(Reads::Mapped, shape);
        load_and_compact(Reads::Positioned { block_cache_bytes: 0 }, shape);
    }
}

/// Memory of the process that is not a file's, as the system counts it; `None` where it does not tell.
fn resident() -> Option<usize> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:"))?;
    Some(line.trim().strip_suffix("kB")?.trim().parse::<usize>().ok()? << 10)
}

/// Memtables full of small entries, each in front of the one before: what takes most index for its bytes.
/// Versions of one key each, of the shortest, or keys that are all different.
fn fill_memtables(key_len: usize) {
    let _alone = ALONE.lock();
    let options = Options {
        memtable_size: 512 << 10,
        max_memtables: 32,
        table_size: 256 << 10,
        compaction_threads: 1,
        reads: Reads::Mapped,
        mapped_cache_bytes: 0,
        paranoid: false,
        // Writers would wait for one memtable more, and nobody flushes before it is asked for.
        background: Background::Threads,
        ..Options::default()
    };
    let budget = options.memory_bound() as usize;
    let options = Options { memory_budget: budget as u64, ..options };
    let entry = Entry::value(b"");
    let bound = Tree::<NoCompanion>::entry_bound(key_len, &entry);
    let each = (options.memtable_size - SkipList::OVERHEAD) / bound;
    let memtables = options.max_memtables;
    let (_dir, store) = in_directory();
    let before = resident();
    let held = Watermark::start();
    let manifest = store.manifest().unwrap();
    let companion = Arc::new(NoCompanion::default());
    let tree = Tree::open(store.fs.clone(), &store.dir, manifest, options, companion, false);
    let tree = tree.unwrap();
    let mut version = 0;
    for memtable in 0..memtables {
        let mut room = tree.admit(each * bound).unwrap();
        tree.route(&mut room, 0, 0);
        for _ in 0..each {
            version += 1;
            let key = match key_len {
                1 => (u32::MAX - memtable as u32) << 24,
                _ => u32::MAX - version as u32,
            };
            // The newest version of a key comes first.
            tree.insert(&room, &key.to_be_bytes()[..key_len], version, entry).unwrap();
        }
    }
    let stats = tree.stats();
    assert_eq!(stats.sealed_memtables, memtables - 1, "all are full");
    let lists = stats.memtable_bytes as usize;
    assert!(lists > memtables * each * (bound + 16), "{lists} bytes, arenas and indexes");
    if let (Some(before), Some(now)) = (before, resident()) {
        assert!(now < before + budget, "{before} bytes, then {now}, of {budget}");
    }
    tree.flush().unwrap();
    assert_eq!(tree.stats().flushes, memtables as u64);
    let most = held.most() + lists;
    assert!(most <= budget, "{most} of {budget} bytes");
}

#[test]
fn memtables_full_of_small_entries_are_within_the_memory_budget_with_their_indexes() {
    fill_memtables(1);
    fill_memtables(4);
}
