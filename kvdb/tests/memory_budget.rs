//! `Options::memory_budget`, held against an allocator that counts. A test of one process: what else
//! runs in it would be counted.
#![allow(clippy::unwrap_used)] // a test may panic

#[path = "../../sstable/tests/common/counting.rs"]
mod counting;

use counting::Watermark;
use kvdb::{Codec, Durability, Options, Result};

const VALUE: usize = 100;

fn key(n: u64) -> [u8; 16] {
    let x = (n + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (u128::from(x ^ (x >> 31)) << 64 | u128::from(n)).to_be_bytes()
}

/// Writes, compacts and reads more than the budget, some of it beside a transaction that has read.
fn use_it(options: &Options) -> Result<()> {
    let held = Watermark::start();
    let budget = options.memory_budget;
    let entries = 2 * budget / (16 + VALUE as u64);
    let dir = tempfile::tempdir().unwrap();
    let db = options.open(dir.path())?;
    let transaction = db.begin()?;
    transaction.get(key(0))?;
    let mut n = 0;
    while n < entries {
        let mut batch = db.batch();
        for _ in 0..50 {
            batch.put(key(n), [n as u8; VALUE])?;
            n += 1;
        }
        batch.commit()?;
    }
    drop(transaction);
    db.compact()?;
    let mut rng = fastrand::Rng::with_seed(1);
    for _ in 0..50_000 {
        let n = rng.u64(..entries);
        assert_eq!(db.get(key(n))?.unwrap(), [n as u8; VALUE]);
    }
    assert_eq!(db.iter()?.count() as u64, n);
    // Memtables are maps of their own, which the allocator does not see: arenas, and beside each an index
    // of five eighths of it at most.
    let memtables = (options.max_memtables + 1) * options.memtable_size / 8 * 13;
    let most = held.most() + memtables;
    assert!(most as u64 <= budget, "{most} of {budget} bytes: {options:?}");
    db.close()
}

#[test]
fn the_memory_budget_is_held() -> Result<()> {
    for base in [Options::small_memory(), Options::within_memory(24 << 20)?] {
        assert!(base.memory_budget > 0);
        for memory_map in [true, false] {
            let options = base.clone().memory_map(memory_map).codec(Codec::Lz4);
            use_it(&options.durability(Durability::Buffered))?;
        }
    }
    for mib in [12, 100, 1000] {
        let options = Options::within_memory(mib << 20)?;
        assert!(options.memory_bound() <= mib << 20, "{mib}");
        options.memory_map(false).validate()?;
    }
    let error = Options::within_memory(1 << 20).unwrap_err().to_string();
    assert!(error.contains("memory_budget"), "{error}");
    Ok(())
}
