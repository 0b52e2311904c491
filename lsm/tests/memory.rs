//! The memory budget, held against an allocator that counts. A test of one process: what else runs in
//! it would be counted.

#![allow(clippy::unwrap_used)]

mod common;

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use common::*;
use kvdb_lsm::*;
use kvdb_vfs::OsFs;

/// Counts what is allocated now, and the most there was.
struct Counting;
static NOW: AtomicUsize = AtomicUsize::new(0);
static MOST: AtomicUsize = AtomicUsize::new(0);

fn more(bytes: usize) {
    MOST.fetch_max(NOW.fetch_add(bytes, Ordering::Relaxed) + bytes, Ordering::Relaxed);
}

// SAFETY: all calls go to the system's allocator as they are.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        more(layout.size());
        // SAFETY: the caller's promises are handed on.
        unsafe { System.alloc(layout) }
    }
    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        more(layout.size());
        // SAFETY: as above.
        unsafe { System.alloc_zeroed(layout) }
    }
    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        NOW.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: as above.
        unsafe { System.dealloc(ptr, layout) }
    }
    unsafe fn realloc(&self, ptr: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        more(size);
        NOW.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: as above.
        unsafe { System.realloc(ptr, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const VALUE: usize = 100;
/// Bytes of a level at the scale of 1; with `KVDB_TEST_SCALE=128` it has 4 GiB.
const LEVEL: u64 = 32 << 20;

fn key(n: u64) -> [u8; 16] {
    let x = (n + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (u128::from(x ^ (x >> 31)) << 64 | u128::from(n)).to_be_bytes()
}

/// Loads a level, compacts it whole, reads it at random and from end to end.
fn load_and_compact(reads: Reads) {
    let before = NOW.load(Ordering::Relaxed);
    MOST.store(before, Ordering::Relaxed);
    let budget: u64 = 24 << 20;
    let mut options = Options::within_memory(budget, reads).unwrap();
    options.paranoid = false; // it would read everything again and again
    let memtables = (options.max_memtables + 1) * options.memtable_size;
    let dir = tempfile::tempdir().unwrap();
    let store = Store { fs: Arc::new(OsFs::new()), dir: dir.path().join("db") };
    store.fs.create_dir_all(&store.dir).unwrap();
    let tree = store.open(options);
    let entries = LEVEL * scale() / (16 + VALUE as u64);
    for n in 0..entries {
        tree.write(n + 1, &[(&key(n), Entry::value(&[n as u8; VALUE]))]).unwrap();
    }
    tree.flush().unwrap();
    tree.companion().raise_floor(Floor { discard: entries, clock: 0 });
    tree.major_compact().unwrap();
    tree.wait_idle().unwrap();
    assert!(tree.stats().levels.iter().map(|l| l.bytes).sum::<u64>() > LEVEL * scale());
    let mut rng = fastrand::Rng::with_seed(1);
    for _ in 0..entries.min(300_000) {
        let n = rng.u64(..entries);
        assert_eq!(tree.get(&key(n), u64::MAX, 0).unwrap().unwrap(), [n as u8; VALUE]);
    }
    assert_eq!(count(&tree) as u64, entries);
    // The arenas of memtables are maps of their own, which the allocator does not see.
    let most = MOST.load(Ordering::Relaxed) - before + memtables;
    assert!(most as u64 <= budget, "{most} of {budget} bytes, {reads:?}");
    tree.close();
}

#[test]
fn a_level_is_loaded_compacted_and_read_within_the_memory_budget() {
    load_and_compact(Reads::Mapped);
    load_and_compact(Reads::Positioned { block_cache_bytes: 0 });
}
