//! What the golden tables hold. Neither this nor the files may ever change: a new table is a new case.
//!
//! Numbers come from a generator that is written down here, so that no other crate can change them.

use kvdb_sstable::{Builder, BuilderOptions, Codec, Identity, Result};
use kvdb_vfs::Salt;

pub type Entry = (Vec<u8>, u64, Vec<u8>);

/// One golden table.
pub struct Case {
    /// Its file is `NAME.sst`.
    pub name: &'static str,
    pub options: BuilderOptions,
    pub entries: Vec<Entry>,
    pub properties: Vec<(&'static str, Vec<u8>)>,
}

/// The multiplier is that of Knuth's MMIX.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, n: u64) -> u64 {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % n
    }
    fn bytes(&mut self, len: usize) -> Vec<u8> {
        (0..len).map(|_| self.below(256) as u8).collect()
    }
}

/// Keys that resemble each other, versions now and then, values of some words.
fn common(seed: u64, n: u64) -> Vec<Entry> {
    let mut numbers = Numbers(seed);
    let mut entries = Vec::new();
    for i in 0..n {
        let key =
            format!("user{:08}/{}", i * 37, ["name", "mail", "seen"][numbers.below(3) as usize]);
        for version in (0..=numbers.below(3)).rev() {
            let word = numbers.bytes(4);
            let times = numbers.below(5) as usize;
            entries.push((key.clone().into_bytes(), 1000 + 300 * version, word.repeat(times)));
        }
    }
    entries
}

fn versions(n: u64) -> Vec<Entry> {
    let mut entries = vec![(b"a".to_vec(), u64::MAX, b"before".to_vec())];
    entries.extend((0..n).rev().map(|v| (b"key".to_vec(), v * v, v.to_le_bytes().to_vec())));
    entries.push((b"key\0".to_vec(), 0, b"behind".to_vec()));
    entries
}

fn odd_keys() -> Vec<Entry> {
    let mut entries = vec![(vec![], 7, b"the empty key".to_vec()), (vec![], 6, vec![])];
    entries.extend((1..20).map(|n| (vec![0; n], 1, vec![n as u8])));
    entries.extend((1..20).map(|n| (vec![0xFF; n], u64::MAX, vec![n as u8; n])));
    entries
}

/// Lengths of 32 bits in the slots, and the longest key there is.
fn long() -> Vec<Entry> {
    let mut entries: Vec<Entry> = (0..4u8)
        .map(|i| ([&[b'k'; 64_999][..], &[i]].concat(), u64::from(i), vec![i; 9]))
        .collect();
    entries.push((vec![b'l'; 65_535], 1, b"longest".to_vec()));
    entries.push((b"value".to_vec(), 3, b"0123456789abcdef".repeat(10_000)));
    entries
}

fn options(change: impl FnOnce(&mut BuilderOptions)) -> BuilderOptions {
    let mut options = BuilderOptions::default();
    options.salt = Salt::derive(0x1234_5678_9abc_def0, 42, 7);
    options.identity = Identity { database: 0x1234_5678_9abc_def0, table: 42 };
    change(&mut options);
    options
}

/// All cases that this build can write.
pub fn cases() -> Vec<Case> {
    let case = |name, options, entries| Case { name, options, entries, properties: Vec::new() };
    let mut cases = vec![
        case("empty", BuilderOptions::default(), Vec::new()),
        case("plain", BuilderOptions::default(), common(1, 150)),
        case("interval-1", options(|o| o.restart_interval = 1), common(2, 100)),
        case(
            "interval-16-blocks-of-512",
            options(|o| (o.restart_interval, o.block_size) = (16, 512)),
            common(3, 100),
        ),
        case("interval-128", options(|o| o.restart_interval = 128), common(4, 150)),
        case("many-versions", options(|o| o.block_size = 1024), versions(700)),
        case("odd-keys", options(|_| ()), odd_keys()),
        case("no-filter", options(|o| o.bits_per_key = 0.0), common(5, 20)),
        case("twenty-bits", options(|o| o.bits_per_key = 20.0), common(6, 60)),
        case("lz4", options(|o| o.codec = Codec::Lz4), common(7, 400)),
        case("lz4-long", options(|o| o.codec = Codec::Lz4), long()),
        #[cfg(feature = "zstd")]
        case(
            "zstd",
            options(|o| (o.codec, o.block_size) = (Codec::Zstd(3), 16_384)),
            common(8, 400),
        ),
    ];
    cases.push(Case {
        name: "properties",
        options: options(|_| ()),
        entries: common(9, 10),
        properties: vec![
            ("garbage", vec![1, 0, 0, 0, 200, 3]),
            ("", vec![]),
            ("früheste", 1_700_000_000u64.to_le_bytes().to_vec()),
        ],
    });
    cases
}

/// Builds the table of a case.
pub fn build(case: &Case) -> Result<Vec<u8>> {
    let mut builder = Builder::new(Vec::new(), case.options.clone())?;
    for (key, version, value) in &case.entries {
        builder.add(key, *version, value)?;
    }
    for (name, value) in &case.properties {
        builder.add_property(name, value)?;
    }
    Ok(builder.finish()?.0)
}
