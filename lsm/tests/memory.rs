//! The memory budget, held against an allocator that counts. A test of one process: what else runs in
//! it would be counted.

#![allow(clippy::unwrap_used)]

mod common;
#[path = "../../sstable/tests/common/counting.rs"]
mod counting;

use std::sync::Arc;

use common::*;
use counting::Watermark;
use kvdb_lsm::*;
use kvdb_vfs::OsFs;

const VALUE: usize = 100;
/// Bytes of a level at the scale of 1; with `KVDB_TEST_SCALE=128` it has 4 GiB.
const LEVEL: u64 = 32 << 20;

/// Every so many entries are written a second time.
const SECOND: u64 = 64;
/// Entries of one write.
const BATCH: u64 = 64;

fn key(n: u64) -> [u8; 16] {
    u128::from(n.wrapping_mul(3)).to_be_bytes()
}

/// Writes entries with these numbers, in this order, `round` being part of their values.
fn write(tree: &Tree<NoCompanion>, version: &mut u64, round: u8, numbers: &[u64]) {
    let keys: Vec<_> = numbers.iter().map(|&n| key(n)).collect();
    let values: Vec<_> = numbers.iter().map(|&n| [n as u8 ^ round; VALUE]).collect();
    let entries = keys.iter().zip(&values).map(|(k, v)| (&k[..], Entry::value(v)));
    *version += 1;
    tree.write(*version, &entries.collect::<Vec<_>>()).unwrap();
}

/// Loads a level, compacts it whole, reads it at random and from end to end.
fn load_and_compact(reads: Reads) {
    let held = Watermark::start();
    let budget: u64 = 24 << 20;
    let mut options = Options::within_memory(budget, reads).unwrap();
    options.paranoid = false; // it would read everything again and again
    let memtables = (options.max_memtables + 1) * options.memtable_size;
    let dir = tempfile::tempdir().unwrap();
    let store = Store { fs: Arc::new(OsFs::new()), dir: dir.path().join("db") };
    store.fs.create_dir_all(&store.dir).unwrap();
    let tree = store.open(options);
    let entries = LEVEL * scale() / VALUE as u64;
    let mut version = 0;
    // In order, so that what is flushed is moved down as it is and the level is full soon.
    for from in (0..entries).step_by(BATCH as usize) {
        let numbers: Vec<u64> = (from..entries.min(from + BATCH)).collect();
        write(&tree, &mut version, 0, &numbers);
    }
    tree.flush().unwrap();
    // All over it, so that all of it has to be merged with what is new.
    let mut rng = fastrand::Rng::with_seed(1);
    let mut second: Vec<u64> = (0..entries / SECOND).map(|i| i * SECOND).collect();
    rng.shuffle(&mut second);
    for numbers in second.chunks(BATCH as usize) {
        write(&tree, &mut version, 1, numbers);
    }
    let numbers = second.len() * size_of::<u64>();
    drop(second);
    tree.companion().raise_floor(Floor { discard: version, clock: 0 });
    tree.major_compact().unwrap();
    tree.wait_idle().unwrap();
    let stats = tree.stats();
    assert!(stats.levels.iter().map(|l| l.bytes).sum::<u64>() > LEVEL * scale());
    assert_eq!(stats.dropped_entries, entries / SECOND, "all that was written twice has met");
    assert!(stats.compacted_read_bytes > LEVEL * scale(), "all of it was read and written anew");
    for _ in 0..entries.min(300_000) {
        let n = rng.u64(..entries);
        let round = u8::from(n.is_multiple_of(SECOND) && n / SECOND < entries / SECOND);
        let expected = [n as u8 ^ round; VALUE];
        assert_eq!(tree.get(&key(n), u64::MAX, 0).unwrap().unwrap(), expected);
    }
    assert_eq!(count(&tree) as u64, entries);
    // The arenas of memtables are maps of their own, which the allocator does not see. The numbers of
    // the second round are the test's own.
    let most = held.most() + memtables - numbers;
    let (shape, open) = (stats.shape, tree.stats().open_tables);
    assert!(most as u64 <= budget, "{most} of {budget} bytes, {reads:?}, {shape}, {open} open");
    tree.close();
}

#[test]
fn a_level_is_loaded_compacted_and_read_within_the_memory_budget() {
    load_and_compact(Reads::Mapped);
    load_and_compact(Reads::Positioned { block_cache_bytes: 0 });
}
