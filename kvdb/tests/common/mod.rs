//! What the tests of the database share: tiny stores, a model, a scale.
#![allow(dead_code, unreachable_pub, missing_docs)] // each test file uses its part

use std::cell::Cell;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use kvdb::vfs::{FaultFs, FaultPlan, Fs, MemFs, SyncSite};
use kvdb::{Background, Db, Durability, Options, Result, Snapshot};

/// Where stores live in memory.
pub const PATH: &str = "/db";

/// The smallest of everything, so that a few hundred writes reach every level.
pub fn tiny() -> Options {
    Options::default()
        .memtable_size(64 << 10)
        .max_memtables(3)
        .table_size(16 << 10)
        .level0_compaction_trigger(2)
        .level0_slowdown_trigger(8)
        .level0_stall_trigger(12)
        .level_base_size(32 << 10)
        .level_size_multiplier(2)
        .segment_size(1 << 20)
        .compaction_threads(1)
        .value_threshold(256)
}

/// As [`tiny`], with background work driven by hand.
pub fn manual() -> Options {
    tiny().background(Background::Manual)
}

/// A tiny store in memory that acknowledges as soon as the file system has the bytes.
pub fn memory() -> (Db, Arc<MemFs>) {
    let fs = Arc::new(MemFs::new());
    let db = tiny().durability(Durability::Buffered).open_in(fs.clone(), PATH).unwrap();
    (db, fs)
}

pub fn open(options: &Options, fs: &Arc<MemFs>) -> Result<Db> {
    match SKIPPED.get() {
        None => options.open_in(fs.clone() as Arc<dyn Fs>, Path::new(PATH)),
        Some(site) => {
            let faulty = FaultFs::new(fs.clone() as Arc<dyn Fs>);
            faulty.arm(FaultPlan::skip_sync(site));
            options.open_in(Arc::new(faulty), Path::new(PATH))
        }
    }
}

thread_local! {
    /// A planted mutant: the sync at this site says that it is done and does nothing.
    pub static SKIPPED: Cell<Option<SyncSite>> = const { Cell::new(None) };
}

/// One number multiplies the counts of all tests: `KVDB_TEST_SCALE`, default 1.
pub fn scale() -> u64 {
    std::env::var("KVDB_TEST_SCALE").ok().and_then(|s| s.parse().ok()).unwrap_or(1)
}

/// What a store holds.
pub type Contents = BTreeMap<Vec<u8>, Vec<u8>>;

/// Everything a snapshot shows, read forwards, and checked against backwards and point reads.
pub fn contents(snapshot: &Snapshot) -> Contents {
    let forward: Vec<(Vec<u8>, Vec<u8>)> = snapshot
        .iter()
        .map(|item| {
            let item = item.unwrap();
            let value = item.value().unwrap().into_vec();
            assert_eq!(value.len(), item.value_len(), "length known without reading");
            (item.into_key(), value)
        })
        .collect();
    let mut backward: Vec<(Vec<u8>, Vec<u8>)> = snapshot
        .iter()
        .rev()
        .map(|item| {
            let item = item.unwrap();
            (item.key().to_vec(), item.value().unwrap().into_vec())
        })
        .collect();
    backward.reverse();
    assert_eq!(forward.len(), backward.len(), "forward and backward differ");
    assert!(forward == backward, "forward and backward differ");
    assert!(forward.windows(2).all(|w| w[0].0 < w[1].0), "keys out of order");
    for (key, value) in &forward {
        let got = snapshot.get(key).unwrap();
        assert!(got.as_deref() == Some(&value[..]), "get differs from iteration");
    }
    forward.into_iter().collect()
}

/// A value that tells where it comes from, of a length that goes by the number.
pub fn value(number: u64, len: usize) -> Vec<u8> {
    let mut value = vec![0; len.max(8)];
    value[..8].copy_from_slice(&number.to_le_bytes());
    fastrand::Rng::with_seed(number).fill(&mut value[8..]);
    value.truncate(len);
    value
}
