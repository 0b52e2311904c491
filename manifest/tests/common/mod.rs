//! A small state, and files in memory.

#![allow(dead_code, unreachable_pub, clippy::unwrap_used)] // each test takes what it needs

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use kvdb_manifest::{FILE_NAME, Inconsistent, Manifest, OpenReport, Options, Result, State};
use kvdb_vfs::{Fs, MemFs, OpenMode, SyncSite};

pub const DIR: &str = "/store";
pub const DATABASE: u128 = 0x0123_4567_89ab_cdef_0011_2233_4455_6677;
pub const HEADER: usize = 64;
pub const RECORD_HEADER: usize = 16;

/// Numbers that come and go, and ballast that is forgotten.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Change {
    #[prost(uint64, repeated, tag = "1")]
    pub add: Vec<u64>,
    #[prost(uint64, repeated, tag = "2")]
    pub remove: Vec<u64>,
    #[prost(bytes = "vec", tag = "3")]
    pub ballast: Vec<u8>,
}

#[derive(Debug, Clone, Default, PartialEq)]
pub struct Numbers(pub BTreeSet<u64>);

impl State for Numbers {
    type Change = Change;

    fn check(&self, c: &Change) -> Result<(), Inconsistent> {
        for n in &c.remove {
            if !self.0.contains(n) {
                return Err(Inconsistent::new(format!("no number {n}")));
            }
        }
        for n in &c.add {
            if self.0.contains(n) && !c.remove.contains(n) {
                return Err(Inconsistent::new(format!("number {n} already")));
            }
        }
        Ok(())
    }

    fn apply(&mut self, c: &Change) {
        for n in &c.remove {
            self.0.remove(n);
        }
        self.0.extend(&c.add);
    }

    fn snapshot(&self) -> Change {
        Change { add: self.0.iter().copied().collect(), ..Change::default() }
    }
}

pub fn add(n: u64) -> Change {
    Change { add: vec![n], ..Change::default() }
}

pub fn heavy(n: u64, ballast: usize) -> Change {
    // Not zeros, so that a lost sector shows.
    Change { add: vec![n], remove: vec![], ballast: (0..ballast).map(|i| i as u8 | 1).collect() }
}

/// Rewriting only when asked to.
pub fn manual() -> Options {
    Options { rewrite_bytes: u64::MAX, ..Options::default() }
}

pub fn read_only() -> Options {
    Options { read_only: true, ..Options::default() }
}

pub fn file_system() -> MemFs {
    let fs = MemFs::new();
    fs.create_dir_all(Path::new(DIR)).unwrap();
    fs.sync_dir(Path::new("/"), SyncSite::Other(0)).unwrap();
    fs
}

pub fn create(fs: &MemFs) -> Manifest<Numbers> {
    Manifest::create(Arc::new(fs.clone()), Path::new(DIR), DATABASE, manual()).unwrap()
}

pub fn open_with(fs: &MemFs, options: Options) -> Result<(Manifest<Numbers>, OpenReport)> {
    Manifest::open(Arc::new(fs.clone()), Path::new(DIR), options)
}

pub fn open(fs: &MemFs) -> Result<(Manifest<Numbers>, OpenReport)> {
    open_with(fs, manual())
}

pub fn numbers(manifest: &Manifest<Numbers>) -> Vec<u64> {
    manifest.read(|s| s.0.iter().copied().collect())
}

pub fn bytes_of(fs: &MemFs) -> Vec<u8> {
    let file = fs.open(&Path::new(DIR).join(FILE_NAME), OpenMode::Read).unwrap();
    let mut bytes = vec![0; file.len().unwrap() as usize];
    file.read_exact_at(&mut bytes, 0).unwrap();
    bytes
}

/// A file system whose manifest has these bytes.
pub fn with_bytes(bytes: &[u8]) -> MemFs {
    let fs = file_system();
    let file = fs.open(&Path::new(DIR).join(FILE_NAME), OpenMode::CreateNew).unwrap();
    file.write_all_at(bytes, 0).unwrap();
    file.sync_data(SyncSite::Other(0)).unwrap();
    fs
}

/// A source of numbers for tests: xorshift64*.
pub struct Dice(pub u64);

impl Dice {
    pub fn roll(&mut self, below: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 16) % below
    }
}

/// Multiplies the size of the random tests; see the crate's test documentation.
pub fn scale() -> u64 {
    std::env::var("KVDB_TEST_SCALE").ok().and_then(|s| s.parse().ok()).unwrap_or(1)
}
