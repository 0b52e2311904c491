//! Tables that were written once and are read for ever.
//!
//! They are made by `examples/golden.rs`. When a test here fails, the code is wrong, not the file: a
//! format that reads or writes other bytes has another version.

#![allow(clippy::unwrap_used)]

#[path = "golden/cases.rs"]
#[allow(unreachable_pub)]
mod cases;
mod common;

use std::path::PathBuf;

use cases::{Case, cases};
use common::{Model, compare_walks};
use kvdb_sstable::{Codec, Cursor, ErrorKind, FORMAT_VERSION, ReaderOptions, Table, key_hash};

/// The CRC-32 of each file, so that none is ever written anew together with the code.
const FILES: [(&str, u32); 14] = [
    ("empty", 0x24cc_3742),
    ("interval-1", 0x84d1_37a2),
    ("interval-128", 0x7d2e_99b5),
    ("interval-16-blocks-of-512", 0x8ff5_c1d9),
    ("lz4-long", 0x0947_47b1),
    ("lz4", 0xf2a0_202f),
    ("many-versions", 0x7faa_a7be),
    ("no-filter", 0x8114_a52f),
    ("odd-keys", 0xff73_bcc8),
    ("plain", 0x721c_29ad),
    ("properties", 0xe465_f1df),
    ("twenty-bits", 0xde52_9b77),
    ("version-0", 0x7e75_40ad),
    ("zstd", 0x5ac2_04cb),
];

fn path(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name).with_extension("sst")
}

fn file(name: &str) -> Vec<u8> {
    std::fs::read(path(name)).unwrap()
}

#[test]
fn no_golden_file_was_changed_and_each_is_read() {
    for (name, crc) in FILES {
        assert_eq!(
            crc32fast::hash(&file(name)),
            crc,
            "{name}: {:#010x}",
            crc32fast::hash(&file(name))
        );
    }
    let known = |name: &str| FILES.iter().any(|(known, _)| *known == name);
    for case in cases() {
        assert!(known(case.name), "{}", case.name);
    }
    for entry in std::fs::read_dir(path("plain").parent().unwrap()).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "sst") {
            assert!(known(path.file_stem().unwrap().to_str().unwrap()), "{}", path.display());
        }
    }
}

#[test]
fn golden_tables_hold_what_was_put_into_them() {
    let mut rng = fastrand::Rng::with_seed(1);
    for Case { name, options, entries, properties } in cases() {
        let table = Table::open(file(name), ReaderOptions::default()).unwrap();
        table.verify().unwrap();
        assert_eq!(table.identity(), options.identity, "{name}");
        assert_eq!(table.codec().to_string(), options.codec.to_string(), "{name}");
        let said = table.properties();
        assert_eq!(said.entries, entries.len() as u64, "{name}");
        assert_eq!(said.user.len(), properties.len(), "{name}");
        for (property, value) in &properties {
            assert_eq!(said.user(property), Some(value.as_slice()), "{name}");
        }
        assert_eq!(said.stored_bytes % 64, 0, "{name}: sections begin at cache lines");
        let (mut cursor, mut back) = (table.cursor(), table.cursor());
        for (key, version, value) in &entries {
            assert!(cursor.next_or_first().unwrap(), "{name}");
            assert_eq!(
                (cursor.key(), cursor.version(), cursor.value()),
                (&**key, *version, &**value)
            );
            let hit = table.get(key, *version, key_hash(key)).unwrap().unwrap();
            assert_eq!((hit.version(), hit.value()), (*version, &**value), "{name}");
        }
        assert!(!cursor.next_or_first().unwrap() || entries.is_empty(), "{name}");
        let mut on = back.last().unwrap();
        for (key, version, value) in entries.iter().rev() {
            assert!(on, "{name}");
            assert_eq!((back.key(), back.version(), back.value()), (&**key, *version, &**value));
            on = back.prev().unwrap();
        }
        assert!(!on, "{name}");
        compare_walks(&mut rng, &mut table.cursor(), &mut Model::new(entries), 300);
    }
}

trait NextOrFirst: Cursor {
    fn next_or_first(&mut self) -> kvdb_sstable::Result<bool> {
        if self.valid() { self.next() } else { self.first() }
    }
}
impl<C: Cursor> NextOrFirst for C {}

#[test]
fn the_builder_writes_the_same_bytes_as_ever() {
    for case in cases() {
        let built = cases::build(&case).unwrap();
        assert!(built == cases::build(&case).unwrap(), "{} differs from run to run", case.name);
        // What a compressor makes of its input may change with its version; any decompressor reads it.
        if case.options.codec == Codec::None {
            assert!(built == file(case.name), "{} is written differently", case.name);
        }
    }
}

#[test]
fn a_table_of_an_older_or_a_newer_version_is_refused_by_name() {
    let options = ReaderOptions::default;
    let e = Table::open(file("version-0"), options()).unwrap_err();
    assert_eq!(e.kind(), ErrorKind::UnsupportedVersion { found: 0, supported: FORMAT_VERSION });
    assert!(e.to_string().contains("older"), "{e}");
    let mut newer = file("plain");
    let at = newer.len() - 12;
    newer[at] += 1;
    let e = Table::open(newer, options()).unwrap_err();
    assert_eq!(e.kind(), ErrorKind::UnsupportedVersion { found: 2, supported: FORMAT_VERSION });
    assert!(e.to_string().contains("newer"), "{e}");
}

#[cfg(not(feature = "zstd"))]
#[test]
fn without_its_feature_zstandard_is_a_codec_that_is_named() {
    let e = Table::open(file("zstd"), ReaderOptions::default()).unwrap_err();
    assert_eq!(e.kind(), ErrorKind::UnknownCodec(2));
}
