//! Damaged and forged tables: an error or the right data; never a panic, a hang, or an allocation
//! that the file does not justify.

#![allow(clippy::unwrap_used)]

mod common;
#[path = "common/sign.rs"]
#[allow(unreachable_pub)]
mod sign;

use std::cell::Cell;
use std::sync::Arc;

use common::{Entry, build, random_entries, scale};
use kvdb_sstable::{
    BlockCache, BuilderOptions, Codec, Cursor, ErrorKind, Part, ReaderOptions, Source, Table,
    key_hash,
};
use kvdb_vfs::{Fs, MemFs, OpenMode, Region, Salt};
use sign::{FOOTER, HANDLES, sign, u64_at};

/// Counts what the thread that asks has allocated: the largest piece, what is held, and the most
/// that was.
struct Watch;

thread_local! {
    static LARGEST: Cell<usize> = const { Cell::new(0) };
    static HELD: Cell<isize> = const { Cell::new(0) };
    static MOST: Cell<isize> = const { Cell::new(0) };
}

fn count(taken: usize, returned: usize) {
    // A thread that ends has no counters any more.
    let _ = LARGEST.try_with(|largest| largest.set(largest.get().max(taken)));
    let held = HELD.try_with(|held| {
        held.set(held.get() + taken as isize - returned as isize);
        held.get()
    });
    let _ = MOST.try_with(|most| most.set(most.get().max(held.unwrap_or(0))));
}

// SAFETY: all calls go to the system's allocator as they are.
unsafe impl std::alloc::GlobalAlloc for Watch {
    unsafe fn alloc(&self, layout: std::alloc::Layout) -> *mut u8 {
        count(layout.size(), 0);
        // SAFETY: the caller's promises are handed on.
        unsafe { std::alloc::System.alloc(layout) }
    }
    unsafe fn dealloc(&self, ptr: *mut u8, layout: std::alloc::Layout) {
        count(0, layout.size());
        // SAFETY: as above.
        unsafe { std::alloc::System.dealloc(ptr, layout) }
    }
    unsafe fn realloc(&self, ptr: *mut u8, layout: std::alloc::Layout, size: usize) -> *mut u8 {
        // Both pieces may be there while one is copied to the other.
        count(size, 0);
        count(0, layout.size());
        // SAFETY: as above.
        unsafe { std::alloc::System.realloc(ptr, layout, size) }
    }
}

#[global_allocator]
static WATCH: Watch = Watch;

fn options(codec: Codec, interval: usize) -> BuilderOptions {
    let mut options = BuilderOptions::default();
    options.codec = codec;
    options.block_size = 256;
    options.restart_interval = interval;
    options.salt = Salt::derive(1, 2, 3);
    options
}

fn codecs() -> Vec<Codec> {
    vec![
        Codec::None,
        Codec::Lz4,
        #[cfg(feature = "zstd")]
        Codec::Zstd(1),
    ]
}

fn small(codec: Codec) -> (Vec<Entry>, Vec<u8>) {
    let mut rng = fastrand::Rng::with_seed(7);
    let mut entries = random_entries(&mut rng, 14, 3, 40);
    entries.extend(random_entries(&mut rng, 8, 5, 20));
    let entries = common::sort(entries);
    let mut builder = kvdb_sstable::Builder::new(Vec::new(), options(codec, 4)).unwrap();
    builder.add_property("name", b"value").unwrap();
    for (key, version, value) in &entries {
        builder.add(key, *version, value).unwrap();
    }
    (entries, builder.finish().unwrap().0)
}

/// Uses all of a table. Whatever comes back without an error must be what was built, if there is
/// something to compare with.
fn use_all<S: Source>(table: &Table<S>, keys: &[Entry], right: Option<&[Entry]>) -> bool {
    let mut clean = table.verify().is_ok();
    let limit = 300_000;
    let mut cursor = table.cursor();
    for forward in [true, false] {
        let mut steps = 0;
        let mut seen = Vec::new();
        let mut moved = if forward { cursor.first() } else { cursor.last() };
        while let Ok(true) = moved {
            if right.is_some() {
                seen.push((cursor.key().to_vec(), cursor.version(), cursor.value().to_vec()));
            } else {
                std::hint::black_box((cursor.key().len(), cursor.version(), cursor.value().len()));
            }
            steps += 1;
            assert!(steps < limit, "does not end");
            moved = if forward { cursor.next() } else { cursor.prev() };
        }
        match (moved, right) {
            (Err(_), _) => clean = false,
            (Ok(_), Some(right)) => {
                if !forward {
                    seen.reverse();
                }
                assert_eq!(seen, right, "a scan came up wrong without an error");
            }
            (Ok(_), None) => {}
        }
    }
    for (key, version, value) in keys {
        for hash in [Some(key_hash(key)), None] {
            let hit = match hash {
                Some(hash) => table.get(key, *version, hash),
                None => table.get_unfiltered(key, *version),
            };
            match (hit, right) {
                (Err(_), _) => clean = false,
                (Ok(hit), Some(_)) => {
                    let hit = hit.expect("an entry vanished without an error");
                    assert_eq!((hit.version(), hit.value()), (*version, value.as_slice()));
                }
                (Ok(hit), None) => drop(hit.map(|hit| hit.to_region().len())),
            }
        }
        for moved in [cursor.seek(key, *version), cursor.seek_for_prev(key, *version)] {
            match moved {
                Err(_) => clean = false,
                Ok(on) => assert!(on || right.is_none()),
            }
        }
    }
    if let Ok(boundaries) = table.boundaries() {
        clean &= boundaries.take(limit).all(|b| b.is_ok());
    }
    clean
}

/// Runs what uses a file of `len` bytes, and sees to it that it takes no more memory than such a file
/// justifies: a block may decompress to 255 times its size and a page, and a key of the longest kind
/// may come out of it.
fn within_reason(len: usize, uses: impl FnOnce()) {
    let before = HELD.get();
    LARGEST.set(0);
    MOST.set(before);
    uses();
    let (largest, most) = (LARGEST.get(), MOST.get() - before);
    assert!(largest <= len * 256 + 65_536 * 4, "{largest} bytes at once for a file of {len}");
    let bound = (len * 600 + 65_536 * 8) as isize;
    assert!(most <= bound, "{most} bytes held for a file of {len}");
}

#[test]
fn every_single_byte_flip_is_an_error_or_does_no_harm() {
    // All that a byte can become, or each bit alone and all of them.
    let all = (1..=255).collect();
    let masks: Vec<u8> = if scale() > 1 { all } else { vec![1, 2, 4, 8, 16, 32, 64, 128, 255] };
    for codec in codecs() {
        let (entries, bytes) = small(codec);
        for at in 0..bytes.len() {
            for mask in &masks {
                let mut damaged = bytes.clone();
                damaged[at] ^= mask;
                within_reason(bytes.len(), || {
                    let table = match Table::open(damaged.as_slice(), ReaderOptions::default()) {
                        Ok(table) => table,
                        Err(e) => return assert!(e.offset().is_some(), "{e}"),
                    };
                    let e = table.verify().expect_err("every byte has a checksum");
                    assert!(e.offset().is_some(), "{e}");
                    use_all(&table, &entries, Some(&entries));
                });
            }
        }
    }
}

#[test]
fn every_truncation_is_an_error_at_open() {
    for codec in codecs() {
        let (_, bytes) = small(codec);
        for len in 0..bytes.len() {
            let mut refused = None;
            within_reason(len, || {
                refused = Table::open(&bytes[..len], ReaderOptions::default()).err();
            });
            let e = refused.expect("it is not all there");
            match e.kind() {
                ErrorKind::Truncated(Part::Footer) => assert!(len == 0 || len >= 5),
                ErrorKind::NotATable => assert!((1..5).contains(&len)),
                other => panic!("{other:?} at {len}"),
            }
            assert_eq!(e.offset(), Some(len.saturating_sub(FOOTER) as u64), "{len}");
        }
    }
    let (_, bytes) = small(Codec::None);
    // And so is every prolongation.
    let mut longer = bytes.clone();
    for _ in 0..300 {
        longer.push(0);
        assert!(Table::open(longer.as_slice(), ReaderOptions::default()).is_err());
    }
    // Bytes lost in the middle, footer intact.
    let gap = [&bytes[..512], &bytes[768..]].concat();
    assert!(Table::open(gap, ReaderOptions::default()).is_err());
}

#[test]
fn each_kind_of_bad_input_has_its_own_error() {
    let kind = |bytes: &[u8]| Table::open(bytes, ReaderOptions::default()).unwrap_err().kind();
    let (_, bytes) = small(Codec::None);
    let footer = bytes.len() - FOOTER;
    assert_eq!(kind(&[b'x'; 5000]), ErrorKind::NotATable);
    assert_eq!(kind(b"x"), ErrorKind::NotATable);
    assert_eq!(kind(b""), ErrorKind::Truncated(Part::Footer));
    let change = |at: usize, byte: u8, signed: bool| {
        let mut changed = bytes.clone();
        changed[footer + at] = byte;
        if signed {
            sign(&mut changed);
        }
        kind(&changed)
    };
    assert_eq!(change(180, 9, true), ErrorKind::UnsupportedVersion { found: 9, supported: 1 });
    assert_eq!(change(160, 77, true), ErrorKind::UnknownCodec(77));
    assert_eq!(change(160, 1, false), ErrorKind::ChecksumMismatch(Part::Footer));
    assert_eq!(change(112, 1, true), ErrorKind::UnsupportedFeature("range tombstones"));
    assert_eq!(change(136, 1, true), ErrorKind::UnsupportedFeature("encryption"));
    assert!(matches!(change(161, 1, true), ErrorKind::UnsupportedFeature(_)));
    assert!(matches!(change(40, 1, true), ErrorKind::Corrupt { part: Part::Footer, .. }));

    let fs = MemFs::new();
    let path = std::path::Path::new("/broken.sst");
    let file = fs.open(path, OpenMode::CreateNew).unwrap();
    let mut damaged = bytes.clone();
    damaged[300] ^= 1;
    file.write_all_at(&damaged, 0).unwrap();
    let table = Table::open(file, ReaderOptions::default()).unwrap();
    let mut cursor = table.cursor();
    assert!(cursor.first().unwrap());
    let e = loop {
        match cursor.next() {
            Ok(on) => assert!(on),
            Err(e) => break e,
        }
    };
    assert_eq!(e.kind(), ErrorKind::ChecksumMismatch(Part::Block));
    assert_eq!((e.path(), e.offset()), (Some(path), Some(256)));
    assert!(e.is_corruption());
    assert_eq!(e.to_string(), "/broken.sst: checksum mismatch in the block at offset 256");
}

#[test]
fn every_bad_input_names_the_file_and_the_offset() {
    let fs = MemFs::new();
    let (_, bytes) = small(Codec::None);
    let len = bytes.len() as u64;
    let footer = bytes.len() - FOOTER;
    let mut files = 0;
    let mut open = |bytes: &[u8]| {
        files += 1;
        let path = std::path::PathBuf::from(format!("/{files}.sst"));
        let file = fs.open(&path, OpenMode::CreateNew).unwrap();
        file.write_all_at(bytes, 0).unwrap();
        let mut options = ReaderOptions::default();
        options.identity = Some(kvdb_sstable::Identity::default());
        (Table::open(file, options), path)
    };
    let footer_with = |at: usize, byte: u8, signed: bool| {
        let mut changed = bytes.clone();
        changed[footer + at] = byte;
        if signed {
            sign(&mut changed);
        }
        changed
    };
    let wrong = ErrorKind::WrongTable {
        found_database: 0,
        found_table: 9,
        expected_database: 0,
        expected_table: 0,
    };
    let version = |found| ErrorKind::UnsupportedVersion { found, supported: 1 };
    let at_open = [
        (b"a text".to_vec(), ErrorKind::NotATable, 0),
        (vec![b'x'; 5000], ErrorKind::NotATable, 5000 - FOOTER as u64),
        (bytes[..100].to_vec(), ErrorKind::Truncated(Part::Footer), 0),
        (bytes[..700].to_vec(), ErrorKind::Truncated(Part::Footer), 700 - FOOTER as u64),
        (footer_with(180, 0, true), version(0), footer as u64),
        (footer_with(180, 2, true), version(2), footer as u64),
        (footer_with(160, 77, true), ErrorKind::UnknownCodec(77), footer as u64),
        (footer_with(16, 9, true), wrong, footer as u64),
        (footer_with(33, 200, false), ErrorKind::ChecksumMismatch(Part::Footer), footer as u64),
    ];
    for (bytes, kind, offset) in at_open {
        let (table, path) = open(&bytes);
        let e = table.unwrap_err();
        assert_eq!(e.kind(), kind);
        assert_eq!((e.path(), e.offset()), (Some(path.as_path()), Some(offset)), "{e}");
        assert!(e.to_string().starts_with(path.to_str().unwrap()), "{e}");
    }

    // And behind the footer: each section and a block, at its own offset.
    let parts = [Part::Filter, Part::Index, Part::Properties];
    for (handle, part) in HANDLES.into_iter().zip(parts) {
        let offset = u64_at(&bytes, footer + handle);
        assert!(offset < len);
        let mut damaged = bytes.clone();
        damaged[offset as usize + 20] ^= 4;
        let (table, path) = open(&damaged);
        let e = match (part, table) {
            (Part::Properties, table) => table.unwrap_err(),
            (Part::Index, table) => table.unwrap().get_unfiltered(b"k", 1).unwrap_err(),
            (_, table) => table.unwrap().get(b"k", 1, key_hash(b"k")).unwrap_err(),
        };
        assert_eq!(e.kind(), ErrorKind::ChecksumMismatch(part));
        assert_eq!((e.path(), e.offset()), (Some(path.as_path()), Some(offset)), "{e}");
    }
    let mut damaged = bytes.clone();
    damaged[20] ^= 4;
    let (table, path) = open(&damaged);
    let table = table.unwrap();
    for e in [table.verify().unwrap_err(), table.cursor().first().unwrap_err()] {
        assert_eq!(e.kind(), ErrorKind::ChecksumMismatch(Part::Block));
        assert_eq!((e.path(), e.offset()), (Some(path.as_path()), Some(0)), "{e}");
    }
}

#[test]
fn signing_an_intact_table_changes_nothing() {
    for codec in [Codec::None, Codec::Lz4] {
        let (_, bytes) = small(codec);
        let mut signed = bytes.clone();
        sign(&mut signed);
        assert!(signed == bytes);
    }
}

/// Changes a table at random, mostly where structure is dense, and makes all checksums right again.
fn forge(rng: &mut fastrand::Rng, bytes: &mut [u8]) {
    let footer = bytes.len() - FOOTER;
    let index = (u64_at(bytes, footer + HANDLES[1]) as usize).min(footer);
    for _ in 0..rng.usize(1..4) {
        let at = match rng.u32(0..8) {
            0 => rng.usize(0..bytes.len()),
            1 => footer + rng.usize(0..FOOTER),
            2 | 3 => rng.usize(index..footer),
            4 => index + rng.usize(0..32),
            // Header, heads and slots of some block.
            _ => rng.usize(0..4) * 256 + rng.usize(0..120),
        };
        let Some(rest) = bytes.get_mut(at..) else { continue };
        let len = [1, 1, 2, 4, 8][rng.usize(0..5)].min(rest.len());
        let value = match rng.u32(0..5) {
            0 => rng.u64(..),
            1 => 0,
            2 => u64::MAX,
            3 => rng.u64(0..600),
            _ => 1 << rng.u32(0..64),
        };
        if rng.bool() {
            rest[..len].copy_from_slice(&value.to_le_bytes()[..len]);
        } else {
            rest[0] = rest[0].wrapping_add(rng.u8(0..4).wrapping_sub(2));
        }
    }
    if rng.u32(0..4) > 0 {
        sign(bytes);
    }
}

#[test]
fn forged_tables_with_right_checksums_do_no_harm() {
    let mut rng = fastrand::Rng::with_seed(11);
    let mut tables = Vec::new();
    for codec in [
        Codec::None,
        Codec::Lz4,
        #[cfg(feature = "zstd")]
        Codec::Zstd(1),
    ] {
        for (interval, shape) in [(1, 0), (4, 1), (4, 3), (16, 5)] {
            let entries = random_entries(&mut rng, 24, shape, 40);
            tables.push((build(&entries, options(codec, interval)), entries));
        }
    }
    let (mut opened, mut clean) = (0, 0);
    let rounds = 300_000 * scale();
    for round in 0..rounds {
        let (bytes, entries) = &tables[round % tables.len()];
        let mut forged = bytes.clone();
        forge(&mut rng, &mut forged);
        let mut options = ReaderOptions::default();
        options.verify_checksums = rng.u32(0..4) > 0;
        within_reason(forged.len(), || {
            if let Ok(table) = Table::open(forged.as_slice(), options) {
                opened += 1;
                let keys = &entries[..entries.len().min(6)];
                clean += usize::from(use_all(&table, keys, None));
            }
        });
    }
    // The forging is not so coarse that nothing gets past the front door, nor so timid that nothing
    // is noticed.
    assert!(opened > rounds / 3 && clean < opened, "{opened} opened, {clean} clean of {rounds}");
}

#[test]
fn random_bytes_behind_a_right_footer_do_no_harm() {
    let mut rng = fastrand::Rng::with_seed(12);
    let (entries, bytes) = small(Codec::None);
    let footer = bytes.len() - FOOTER;
    for _ in 0..2000 * scale() {
        let mut forged = bytes.clone();
        let start = rng.usize(0..footer);
        let end = rng.usize(start..=footer);
        forged[start..end].fill_with(|| rng.u8(..));
        sign(&mut forged);
        if let Ok(table) = Table::open(forged, ReaderOptions::default()) {
            use_all(&table, &entries[..4], None);
        }
    }
}

#[test]
fn a_swapped_block_is_noticed() {
    // Two blocks of the same table change places: each is whole, both are wrong.
    let (_, bytes) = small(Codec::None);
    let mut swapped = bytes.clone();
    swapped[..256].copy_from_slice(&bytes[256..512]);
    swapped[256..512].copy_from_slice(&bytes[..256]);
    let table = Table::open(swapped, ReaderOptions::default()).unwrap();
    let kind = table.cursor().first().unwrap_err().kind();
    assert_eq!(kind, ErrorKind::ChecksumMismatch(Part::Block));
}

/// Takes a certain number of bytes, refuses once, and takes the rest.
struct Refusing(Vec<u8>, usize);

impl std::io::Write for Refusing {
    fn write(&mut self, buf: &[u8]) -> std::io::Result<usize> {
        if self.0.len() >= self.1 {
            self.1 = usize::MAX;
            return Err(std::io::Error::other("full"));
        }
        self.0.extend_from_slice(buf);
        Ok(buf.len())
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_table_of_which_a_write_failed_is_never_finished() {
    for limit in [0, 1, 300_000, 1_000_000] {
        let refusing = Refusing(Vec::new(), limit);
        let mut builder = kvdb_sstable::Builder::new(refusing, BuilderOptions::default()).unwrap();
        let mut failed = false;
        for i in 0..12_000u32 {
            if let Err(e) = builder.add(&i.to_be_bytes(), 0, &[7; 100]) {
                assert_eq!(e.kind(), ErrorKind::Io);
                failed = true;
            }
        }
        // Ignoring the error does not help.
        assert!(failed && builder.finish().is_err());
    }
}

#[test]
fn a_file_read_by_position_gives_the_same_with_and_without_a_cache() {
    let mut rng = fastrand::Rng::with_seed(13);
    let fs = MemFs::new();
    let cache = BlockCache::new(20_000);
    for (i, codec) in [Codec::None, Codec::Lz4].into_iter().enumerate() {
        let entries = random_entries(&mut rng, 2000, 3, 60);
        let bytes = build(&entries, options(codec, 4));
        let path = format!("/{i}.sst");
        let file = fs.open(path.as_ref(), OpenMode::CreateNew).unwrap();
        file.write_all_at(&bytes, 0).unwrap();
        for cache in [None, Some(cache.clone())] {
            let mut options = ReaderOptions::default();
            options.cache = cache;
            let by_position = Arc::new(Table::open(file.clone(), options.clone()).unwrap());
            let in_memory = Table::open(Region::from_vec(bytes.clone()), options).unwrap();
            by_position.verify().unwrap();
            let mut model = common::Model::new(entries.clone());
            common::compare_walks(&mut rng, &mut by_position.owned_cursor(), &mut model, 1500);
            model = common::Model::new(entries.clone());
            common::compare_walks(&mut rng, &mut in_memory.cursor(), &mut model, 1500);
            for bytes in [1, 1000, 1 << 20] {
                model = common::Model::new(entries.clone());
                let mut cursor = by_position.cursor().read_ahead(bytes);
                common::compare_walks(&mut rng, &mut cursor, &mut model, 500);
            }
            let mut kept = Vec::new();
            for (key, version, value) in entries.iter().step_by(7) {
                let a = by_position.get(key, *version, key_hash(key)).unwrap().unwrap();
                let b = in_memory.get(key, *version, key_hash(key)).unwrap().unwrap();
                assert_eq!((a.value(), b.value()), (value.as_slice(), value.as_slice()));
                kept.push((a.to_region(), b.to_region(), value));
            }
            drop((by_position, in_memory));
            // Values outlive their tables and their stay in the cache.
            assert!(kept.iter().all(|(a, b, value)| &**a == *value && &**b == *value));
        }
    }
    assert!(cache.weight() <= 20_000 && !cache.is_empty());
}

#[test]
fn with_checksums_off_reads_compare_none_and_verify_compares_all() {
    let entries = vec![(b"key".to_vec(), 1, b"a value to be damaged".to_vec())];
    let mut bytes = build(&entries, BuilderOptions::default());
    let at = bytes.windows(7).position(|window| window == b"damaged").unwrap();
    bytes[at] = b'D';
    for verify_checksums in [true, false] {
        let mut options = ReaderOptions::default();
        options.verify_checksums = verify_checksums;
        let table = Table::open(bytes.as_slice(), options).unwrap();
        let read = table.get(b"key", 1, key_hash(b"key"));
        if verify_checksums {
            assert_eq!(read.unwrap_err().kind(), ErrorKind::ChecksumMismatch(Part::Block));
        } else {
            assert_eq!(read.unwrap().unwrap().value(), b"a value to be Damaged");
        }
        let e = table.verify().unwrap_err();
        assert_eq!(e.kind(), ErrorKind::ChecksumMismatch(Part::Block));
    }
}

#[test]
fn a_compressed_block_in_an_uncompressed_table_is_refused() {
    let (_, mut bytes) = small(Codec::None);
    bytes[5] = 1;
    sign(&mut bytes);
    let table = Table::open(bytes, ReaderOptions::default()).unwrap();
    let what = "compressed in an uncompressed table";
    let kind = ErrorKind::Corrupt { part: Part::Block, what };
    assert_eq!(table.cursor().first().unwrap_err().kind(), kind);
    assert_eq!(table.verify().unwrap_err().kind(), kind);
}

/// A source that shows fewer bytes than it says it has, and reads all of them.
struct Short(Vec<u8>, usize);

impl Source for Short {
    fn len(&self) -> kvdb_sstable::Result<u64> {
        Ok(self.0.len() as u64)
    }
    fn bytes(&self) -> Option<&[u8]> {
        Some(&self.0[..self.1])
    }
    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> kvdb_sstable::Result<()> {
        self.0.read_exact_at(buf, offset)
    }
}

#[test]
fn a_source_that_shows_less_than_it_has_is_truncated_where_it_ends() {
    let (_, bytes) = small(Codec::None);
    let section = |i: usize| u64_at(&bytes, bytes.len() - FOOTER + HANDLES[i]);
    let open = |shown: u64| {
        let source = Short(bytes.clone(), shown as usize);
        Table::open(source, ReaderOptions::default()).unwrap()
    };
    let (filter, index) = (section(0), section(1));
    let e = open(filter).get(b"k", 1, key_hash(b"k")).unwrap_err();
    assert_eq!((e.kind(), e.offset()), (ErrorKind::Truncated(Part::Filter), Some(filter)));
    let e = open(index).get_unfiltered(b"k", 1).unwrap_err();
    assert_eq!((e.kind(), e.offset()), (ErrorKind::Truncated(Part::Index), Some(index)));
}

#[test]
fn a_walk_that_reads_ahead_holds_one_piece_at_a_time() {
    let mut rng = fastrand::Rng::with_seed(14);
    let entries = random_entries(&mut rng, 4000, 3, 200);
    let fs = MemFs::new();
    let file = fs.open("/1.sst".as_ref(), OpenMode::CreateNew).unwrap();
    file.write_all_at(&build(&entries, BuilderOptions::default()), 0).unwrap();
    let table = Table::open(file, ReaderOptions::default()).unwrap();
    table.get_unfiltered(b"", 1).unwrap();
    let piece = 64 << 10;
    assert!(table.properties().stored_bytes > 5 * piece as u64);
    for forward in [true, false] {
        let mut cursor = table.cursor().read_ahead(piece);
        MOST.set(HELD.get());
        let before = HELD.get();
        let mut moved = if forward { cursor.first() } else { cursor.last() };
        while moved.unwrap() {
            moved = if forward { cursor.next() } else { cursor.prev() };
        }
        let most = (MOST.get() - before) as usize;
        assert!((piece..piece + (8 << 10)).contains(&most), "{most} bytes held");
    }
}

#[test]
fn a_codec_that_is_unknown_is_named_where_it_stands() {
    let (_, mut bytes) = small(Codec::Lz4);
    let intact = Table::open(bytes.as_slice(), ReaderOptions::default()).unwrap();
    let second = intact.blocks().unwrap().nth(1).unwrap().unwrap().range.start;
    bytes[second as usize + 5] = 77;
    sign(&mut bytes);
    let mut options = ReaderOptions::default();
    options.path = Some("/named.sst".into());
    let table = Table::open(bytes, options).unwrap();
    let mut cursor = table.cursor();
    let mut moved = cursor.first();
    while let Ok(true) = moved {
        moved = cursor.next();
    }
    for e in [moved.unwrap_err(), table.verify().unwrap_err()] {
        assert_eq!(e.kind(), ErrorKind::UnknownCodec(77));
        assert_eq!((e.path(), e.offset()), (Some("/named.sst".as_ref()), Some(second)), "{e}");
    }
}

#[test]
fn after_a_failure_a_cursor_stands_nowhere_until_it_is_positioned_anew() {
    let (entries, mut bytes) = small(Codec::None);
    // The second block.
    bytes[300] ^= 1;
    let table = Table::open(bytes, ReaderOptions::default()).unwrap();
    let mut cursor = table.cursor();
    for forward in [true, false] {
        let mut moved = if forward { cursor.first() } else { cursor.last() };
        let mut last = None;
        while let Ok(true) = moved {
            last = Some((cursor.key().to_vec(), cursor.version(), cursor.value().to_vec()));
            moved = if forward { cursor.next() } else { cursor.prev() };
        }
        assert_eq!(moved.unwrap_err().kind(), ErrorKind::ChecksumMismatch(Part::Block));
        assert!(!cursor.valid());
        // Not what lies where the last one was, in whatever block.
        assert!(cursor.value().is_empty() && cursor.value_region().is_empty());
        for moved in [cursor.next(), cursor.prev()] {
            assert_eq!(moved.unwrap_err().kind(), ErrorKind::Unpositioned);
        }
        // Also in the block that it came from.
        let (key, version, value) = last.unwrap();
        assert!(cursor.seek(&key, version).unwrap());
        assert_eq!((cursor.key(), cursor.value()), (&key[..], &value[..]));
    }
    assert!(cursor.first().unwrap());
    assert_eq!((cursor.key(), cursor.value()), (&entries[0].0[..], &entries[0].2[..]));
}

/// A file that is a hole of a pebibyte but for its last bytes.
struct Hole {
    tail: Vec<u8>,
}

const PEBIBYTE: u64 = 1 << 50;

impl Source for Hole {
    fn len(&self) -> kvdb_sstable::Result<u64> {
        Ok(PEBIBYTE)
    }

    fn bytes(&self) -> Option<&[u8]> {
        None
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> kvdb_sstable::Result<()> {
        let start = PEBIBYTE - self.tail.len() as u64;
        for (byte, at) in buf.iter_mut().zip(offset..) {
            *byte = at.checked_sub(start).map_or(0, |at| self.tail[at as usize]);
        }
        Ok(())
    }
}

#[test]
fn a_section_larger_than_memory_is_an_error() {
    let bytes =
        build(&random_entries(&mut fastrand::Rng::with_seed(1), 1, 1, 20), options(Codec::None, 1));
    let at = PEBIBYTE - FOOTER as u64;
    let mut footer = bytes[bytes.len() - FOOTER..].to_vec();
    let properties = u64_at(&footer, HANDLES[2]) as usize..bytes.len() - FOOTER;
    let len = properties.len() as u64;
    let salt = Salt::from_raw(u64_at(&footer, 24));
    let crc = crc32fast::hash(&bytes[properties.clone()]);
    let mut put = |at: usize, bytes: &[u8]| footer[at..at + bytes.len()].copy_from_slice(bytes);
    // One page of blocks, no filter, an index of what is left, the properties as they were.
    put(32, &4096u64.to_le_bytes());
    put(HANDLES[0], &[0; 24]);
    put(HANDLES[1], &4096u64.to_le_bytes());
    put(HANDLES[1] + 8, &(at - len - 4096).to_le_bytes());
    put(HANDLES[2], &(at - len).to_le_bytes());
    put(HANDLES[2] + 8, &len.to_le_bytes());
    put(HANDLES[2] + 16, &salt.seal(crc, at - len, 0).to_le_bytes());
    let crc = crc32fast::hash(&[&footer[..176], &footer[180..]].concat());
    footer[176..180].copy_from_slice(&Salt::NONE.seal(crc, at, 0).to_le_bytes());
    let tail = [&bytes[properties], &footer].concat();

    let mut options = ReaderOptions::default();
    options.path = Some("hole.sst".into());
    let table = Table::open(Hole { tail }, options).unwrap();
    let e = table.get_unfiltered(b"k", 1).unwrap_err();
    assert_eq!(e.kind(), ErrorKind::Io, "{e}");
    assert_eq!((e.path().unwrap().to_str(), e.offset()), (Some("hole.sst"), Some(4096)));
    assert!(e.to_string().contains("out of memory"), "{e}");
}

/// Bytes some of which cannot be read.
struct BadSector(Vec<u8>, std::ops::Range<u64>);

impl Source for BadSector {
    fn len(&self) -> kvdb_sstable::Result<u64> {
        Ok(self.0.len() as u64)
    }

    fn bytes(&self) -> Option<&[u8]> {
        None
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> kvdb_sstable::Result<()> {
        if offset < self.1.end && self.1.start < offset + buf.len() as u64 {
            return Err(std::io::Error::other("bad sector").into());
        }
        buf.copy_from_slice(&self.0[offset as usize..][..buf.len()]);
        Ok(())
    }
}

#[test]
fn what_a_source_fails_with_gets_the_file_and_the_offset() {
    let entries = random_entries(&mut fastrand::Rng::with_seed(1), 100, 1, 20);
    let bytes = build(&entries, options(Codec::None, 1));
    let mut reader = ReaderOptions::default();
    reader.path = Some("bad.sst".into());
    let table = Table::open(BadSector(bytes.clone(), 0..1), reader).unwrap();
    let e = table.cursor().first().unwrap_err();
    assert_eq!((e.path().unwrap().to_str(), e.offset()), (Some("bad.sst"), Some(0)), "{e}");

    // A file says it itself.
    let fs = MemFs::new();
    let file = fs.open("/1.sst".as_ref(), OpenMode::CreateNew).unwrap();
    file.write_all_at(&bytes, 0).unwrap();
    let table = Table::open(file.clone(), ReaderOptions::default()).unwrap();
    assert!(table.get_unfiltered(b"", 1).is_ok());
    file.set_len(300).unwrap();
    let e = table.cursor().last().unwrap_err();
    assert_eq!((e.path().unwrap().to_str(), e.offset().is_some()), (Some("/1.sst"), true), "{e}");
}
