//! Manifests as earlier versions of this crate wrote them are read for ever.
//!
//! With `KVDB_WRITE_GOLDEN` set the test writes the file anew: only for a new format, into a new
//! folder.

#![allow(clippy::unwrap_used)] // helpers of tests

use std::path::{Path, PathBuf};
use std::sync::Arc;

use kvdb_manifest::store::*;
use kvdb_manifest::{Error, FILE_NAME, FORMAT_VERSION, Manifest, Options, State};
use kvdb_vfs::{Fs, MemFs, OpenMode};

const DATABASE: u128 = 0x6b76_6462_6b76_6462;

fn path() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/v1").join(FILE_NAME)
}

/// Every field of every message, in five change sets.
fn changes() -> Vec<StoreChange> {
    let table = |id: u64| TableRecord {
        id,
        level: 3,
        size: 1 << 26,
        nonce: 0x0123_4567_89ab_cdef,
        smallest_key: format!("key{id}a").into_bytes(),
        largest_key: format!("key{id}z").into_bytes(),
        smallest_version: 5,
        largest_version: 500,
        entries: 100_000,
        tombstones: 17,
        raw_bytes: 1 << 27,
        stale: 18,
        expiring: 19,
        earliest_expiry: 1_900_000_000,
        pointers: vec![PointerSum { segment: 1, count: 9, bytes: 90_000 }],
    };
    let named = |segment: u32| SegmentNamed {
        segment,
        file: 100 + u64::from(segment),
        nonce: u64::MAX - u64::from(segment),
        capacity: 128 << 20,
        method: 2,
    };
    let file = |file: u64| LogFile { file, nonce: 77, length: 1 << 20 };
    vec![
        StoreChange {
            segments_named: (1..=4).map(named).collect(),
            next_file: Some(200),
            next_segment: Some(5),
            ..StoreChange::default()
        },
        StoreChange {
            segments_sealed: [1, 2]
                .map(|segment| SegmentSealed {
                    segment,
                    length: 100 << 20,
                    frames: 12_345,
                    checksum: 0xdead_beef,
                })
                .to_vec(),
            tables_added: vec![table(10), table(11), table(12)],
            replay_head: Some(LogPosition { segment: 3, offset: 4096 }),
            largest_version: Some(1 << 40),
            watermark: Some(1 << 30),
            clock: Some(1_800_000_000),
            ..StoreChange::default()
        },
        StoreChange {
            log_files_added: vec![file(150), file(151), file(152)],
            segments_relocated: vec![SegmentRelocated { segment: 1, table: 150, files: vec![151] }],
            ..StoreChange::default()
        },
        StoreChange {
            tables_removed: vec![11],
            segments_freed: vec![2],
            log_files_removed: vec![152],
            dropped_tombstone: Some(33),
            range_deletes_added: vec![
                RangeDelete { start: b"a".to_vec(), end: Some(b"b".to_vec()), version: 44 },
                RangeDelete { start: b"x".to_vec(), end: None, version: 45 },
            ],
            ..StoreChange::default()
        },
        StoreChange { range_deletes_removed: vec![44], ..StoreChange::default() },
    ]
}

fn expected() -> StoreState {
    let mut state = StoreState::default();
    for change in changes() {
        state.check(&change).unwrap();
        state.apply(&change);
    }
    state
}

fn write() -> Vec<u8> {
    let fs = Arc::new(MemFs::new());
    let manifest =
        Manifest::<StoreState>::create(fs.clone(), Path::new("/"), DATABASE, Options::default())
            .unwrap();
    for change in changes() {
        manifest.append(&change).unwrap();
    }
    manifest.settle().unwrap();
    let file = fs.open(&Path::new("/").join(FILE_NAME), OpenMode::Read).unwrap();
    let mut bytes = vec![0; file.len().unwrap() as usize];
    file.read_exact_at(&mut bytes, 0).unwrap();
    bytes
}

fn open(bytes: &[u8]) -> Result<Manifest<StoreState>, Error> {
    let fs = Arc::new(MemFs::new());
    let path = Path::new("/").join(FILE_NAME);
    fs.open(&path, OpenMode::CreateNew).unwrap().write_all_at(bytes, 0).unwrap();
    Ok(Manifest::open(fs, Path::new("/"), Options::default())?.0)
}

#[test]
fn a_manifest_of_format_1_is_read() {
    if std::env::var_os("KVDB_WRITE_GOLDEN").is_some() {
        std::fs::create_dir_all(path().parent().unwrap()).unwrap();
        std::fs::write(path(), write()).unwrap();
    }
    let bytes = std::fs::read(path()).unwrap();
    let manifest = open(&bytes).unwrap();
    assert_eq!(manifest.read(State::snapshot), expected().snapshot());
    // Today's is of the same length; its nonce, and what is sealed with it, differ.
    assert_eq!(write().len(), bytes.len());
    manifest.append(&StoreChange { watermark: Some(1 << 31), ..StoreChange::default() }).unwrap();
    manifest.rewrite().unwrap();
}

#[test]
fn a_manifest_of_an_older_or_newer_format_is_an_error_that_says_so() {
    for version in [0, FORMAT_VERSION + 1, u32::MAX] {
        let mut bytes = std::fs::read(path()).unwrap();
        bytes[8..12].copy_from_slice(&version.to_le_bytes());
        let field = |range: std::ops::Range<usize>| bytes[range].to_vec();
        let salt = kvdb_vfs::Salt::derive(
            u128::from_le_bytes(field(16..32).try_into().unwrap()),
            0,
            u64::from_le_bytes(field(32..40).try_into().unwrap()),
        );
        let seal = salt.seal(crc32fast::hash(&bytes[..60]), 0, 0);
        bytes[60..64].copy_from_slice(&seal.to_le_bytes());
        match open(&bytes) {
            Err(Error::UnsupportedVersion { found, supported, .. }) => {
                assert_eq!((found, supported), (version, FORMAT_VERSION));
            }
            other => panic!("{version}: {:?}", other.map(|m| m.size())),
        }
    }
}
