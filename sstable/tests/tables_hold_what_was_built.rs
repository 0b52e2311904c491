//! Round trips over block sizes, restart intervals, codecs, filters and key shapes.
#![allow(clippy::unwrap_used)]

mod common;

use std::sync::Arc;

use common::{Entry, Model, build, compare_walks, random_entries, scale};
use kvdb_sstable::{
    Builder, BuilderOptions, Codec, Cursor, ErrorKind, Identity, ReaderOptions, Table, key_hash,
};
use kvdb_vfs::{Region, Salt};

fn options(block_size: usize, restart_interval: usize, codec: Codec) -> BuilderOptions {
    let mut options = BuilderOptions::default();
    options.block_size = block_size;
    options.restart_interval = restart_interval;
    options.codec = codec;
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

fn check_gets(entries: &[Entry], table: &Table<Vec<u8>>) {
    let newest = |key: &[u8], at_most: u64| {
        entries.iter().find(|e| e.0 == key && e.1 <= at_most).map(|e| (e.1, e.2.clone()))
    };
    for (key, version, _) in entries {
        for at_most in [*version, version.saturating_sub(1), version.saturating_add(1), u64::MAX, 0]
        {
            let got = table.get(key, at_most, key_hash(key)).unwrap();
            let got = got.map(|hit| (hit.version(), hit.value().to_vec()));
            assert_eq!(got, newest(key, at_most), "{key:?} at {at_most}");
        }
        for mut other in [[key.as_slice(), b"\0"].concat(), key[..key.len() / 2].to_vec()] {
            let got = table.get_unfiltered(&other, u64::MAX).unwrap();
            assert_eq!(got.map(|h| h.version()), newest(&other, u64::MAX).map(|e| e.0));
            other.push(0xFF);
            let got = table.get(&other, 5, key_hash(&other)).unwrap();
            assert_eq!(got.map(|h| h.version()), newest(&other, 5).map(|e| e.0));
        }
    }
}

/// From the least to the greatest.
const BLOCK_SIZES: [usize; 5] = [256, 1000, 4096, 65_536, 1 << 20];
/// All there are.
const INTERVALS: [usize; 8] = [1, 2, 4, 8, 16, 32, 64, 128];

#[test]
fn every_block_size_interval_codec_and_key_shape() {
    let mut rng = fastrand::Rng::with_seed(1);
    for codec in codecs() {
        for block_size in BLOCK_SIZES {
            for interval in INTERVALS {
                for shape in 0..6 {
                    let n = [0, 1, 2, 17, 150][rng.usize(0..5)] * scale().min(10);
                    let value = [0, 10, 300][rng.usize(0..3)];
                    let entries = random_entries(&mut rng, n, shape, value);
                    let table = build(&entries, options(block_size, interval, codec));
                    let table = Table::open(table, ReaderOptions::default()).unwrap();
                    table.verify().unwrap();
                    assert_eq!(table.properties().entries, entries.len() as u64);
                    check_gets(&entries, &table);
                    let mut model = Model::new(entries);
                    compare_walks(&mut rng, &mut table.cursor(), &mut model, 200);
                }
            }
        }
    }
}

#[test]
fn keys_of_the_greatest_length_and_long_values() {
    let mut rng = fastrand::Rng::with_seed(2);
    let mut entries = Vec::new();
    for i in 0..8u8 {
        let mut key = vec![7; 65_535];
        key[65_500] = i;
        entries.push((key, 1, vec![i; 100]));
        let mut key = vec![7; 65_000];
        key[10] = i / 4;
        entries.push((key, u64::from(i), vec![i; 300_000 * usize::from(i % 3)]));
    }
    let entries = common::sort(entries);
    for codec in codecs() {
        for block_size in BLOCK_SIZES {
            for interval in INTERVALS {
                let table = build(&entries, options(block_size, interval, codec));
                let table = Table::open(table, ReaderOptions::default()).unwrap();
                table.verify().unwrap();
                check_gets(&entries, &table);
                let mut model = Model::new(entries.clone());
                compare_walks(&mut rng, &mut table.cursor(), &mut model, 50);
            }
        }
    }
}

#[test]
fn one_key_with_a_hundred_thousand_versions() {
    let mut rng = fastrand::Rng::with_seed(3);
    let mut entries = vec![(b"a".to_vec(), 5, b"before".to_vec())];
    entries
        .extend((0..100_000u64).rev().map(|v| (b"key".to_vec(), v * 2, v.to_le_bytes().to_vec())));
    entries.push((b"kez".to_vec(), 5, b"behind".to_vec()));
    // Each interval, with each block size and each codec at least twice.
    let sizes = BLOCK_SIZES.into_iter().cycle();
    let shapes = codecs().into_iter().cycle().zip(INTERVALS.into_iter().zip(sizes));
    for (codec, (interval, block_size)) in shapes {
        let table = build(&entries, options(block_size, interval, codec));
        let table = Table::open(Region::from_vec(table), ReaderOptions::default()).unwrap();
        table.verify().unwrap();
        assert_eq!(table.properties().distinct_keys, 3);
        for _ in 0..2000 {
            let at_most = rng.u64(0..200_100);
            let hit = table.get(b"key", at_most, key_hash(b"key")).unwrap().unwrap();
            assert_eq!(hit.version(), at_most.min(199_998) / 2 * 2);
            assert_eq!(hit.value(), (hit.version() / 2).to_le_bytes());
        }
        assert!(table.properties().blocks > 1);
        assert!(table.boundaries().unwrap().count() <= 2, "no cut inside of a key");
        let mut model = Model::new(entries.clone());
        compare_walks(&mut rng, &mut Arc::new(table).owned_cursor(), &mut model, 2000);
    }
}

#[test]
fn entries_out_of_order_are_refused_and_the_table_goes_on() {
    let mut builder = Builder::new(Vec::new(), BuilderOptions::default()).unwrap();
    builder.add(b"b", 5, b"1").unwrap();
    for (key, version) in [(b"a", 9), (b"b", 5), (b"b", 6)] {
        let e = builder.add(key, version, b"no").unwrap_err();
        assert_eq!(e.kind(), ErrorKind::OutOfOrder);
    }
    let e = builder.add(&[b'c'; 65_536], 1, b"no").unwrap_err();
    assert_eq!(e.kind(), ErrorKind::KeyTooLong(65_536));
    builder.add(b"b", 4, b"2").unwrap();
    let (bytes, properties) = builder.finish().unwrap();
    let table = Table::open(bytes, ReaderOptions::default()).unwrap();
    assert_eq!(*table.properties(), properties);
    assert_eq!(properties.entries, 2);
    assert_eq!((properties.smallest_version, properties.largest_version), (4, 5));
    table.verify().unwrap();
}

#[test]
fn properties_of_the_callers_own_and_the_identity_come_back() {
    let mut options = BuilderOptions::default();
    options.identity = Identity { database: 1 << 100, table: 77 };
    let mut builder = Builder::new(Vec::new(), options.clone()).unwrap();
    builder.add_property("garbage", b"\x01\x02").unwrap();
    builder.add(b"", 1, b"").unwrap();
    builder.add_property("", b"").unwrap();
    let (bytes, properties) = builder.finish().unwrap();
    assert_eq!(properties.file_len, bytes.len() as u64);
    let mut reader = ReaderOptions::default();
    reader.identity = Some(options.identity);
    let table = Table::open(bytes.as_slice(), reader.clone()).unwrap();
    assert_eq!(table.properties().user("garbage"), Some(&b"\x01\x02"[..]));
    assert_eq!(table.properties().user(""), Some(&b""[..]));
    assert_eq!(table.properties().user("other"), None);
    assert_eq!(table.identity(), options.identity);
    reader.identity = Some(Identity { database: 1 << 99, table: 77 });
    let e = Table::open(bytes.as_slice(), reader.clone()).unwrap_err();
    assert!(matches!(e.kind(), ErrorKind::WrongTable { found_table: 77, expected_table: 77, .. }));
    reader.identity = Some(Identity { database: 1 << 100, table: 78 });
    let e = Table::open(bytes.as_slice(), reader).unwrap_err();
    assert!(matches!(e.kind(), ErrorKind::WrongTable { found_table: 77, expected_table: 78, .. }));
}

#[test]
fn cuts_by_boundaries_split_a_table_by_offset() {
    let mut rng = fastrand::Rng::with_seed(4);
    let entries = random_entries(&mut rng, 5000, 3, 100);
    let table =
        Table::open(build(&entries, options(4096, 4, Codec::None)), ReaderOptions::default());
    let table = table.unwrap();
    let cuts: Vec<_> = table.boundaries().unwrap().map(Result::unwrap).collect();
    assert_eq!(cuts.len() as u64, table.properties().blocks - 1);
    let mut cursor = table.cursor();
    for pair in cuts.windows(2) {
        assert!(pair[0].0 < pair[1].0 && pair[0].1 < pair[1].1);
        assert_eq!(table.approximate_offset(&pair[1].0).unwrap(), pair[1].1);
        // A cut lies between two entries, never on the wrong side of one.
        assert!(cursor.seek(&pair[1].0, u64::MAX).unwrap());
        assert!(cursor.key() >= pair[1].0.as_slice());
        assert_eq!(table.approximate_offset(cursor.key()).unwrap(), pair[1].1);
    }
    assert_eq!(table.approximate_offset(b"").unwrap(), 0);
}

#[test]
fn blocks_cover_the_data_and_begin_with_the_entries_they_say() {
    let entries = random_entries(&mut fastrand::Rng::with_seed(5), 2000, 1, 40);
    for codec in codecs() {
        let table =
            Table::open(build(&entries, options(512, 4, codec)), ReaderOptions::default()).unwrap();
        let blocks: Vec<_> = table.blocks().unwrap().map(Result::unwrap).collect();
        let properties = table.properties();
        assert!(blocks.len() > 10 && blocks.len() as u64 == properties.blocks);
        let mut first = 0;
        let mut end = 0;
        for block in &blocks {
            assert_eq!(block.range.start, end);
            end = block.range.end;
            let entry = &entries[first];
            assert_eq!((&block.first_key, block.first_version), (&entry.0, entry.1));
            first += block.entries;
        }
        assert_eq!((end, first), (properties.stored_bytes, entries.len()));
        let decoded: u64 = blocks.iter().map(|block| block.decoded_len).sum();
        assert_eq!(decoded, properties.block_bytes);
    }
}

#[test]
fn a_damaged_block_is_an_error_in_its_place_and_hides_no_other() {
    let entries = random_entries(&mut fastrand::Rng::with_seed(6), 500, 1, 40);
    let mut bytes = build(&entries, options(512, 4, Codec::None));
    let intact = Table::open(bytes.clone(), ReaderOptions::default()).unwrap();
    let blocks: Vec<_> = intact.blocks().unwrap().map(Result::unwrap).collect();
    let damaged = blocks.len() / 2;
    bytes[blocks[damaged].range.start as usize + 60] ^= 1;
    let table = Table::open(bytes, ReaderOptions::default()).unwrap();
    for (number, block) in table.blocks().unwrap().enumerate() {
        if number == damaged {
            let error = block.unwrap_err();
            assert!(error.is_corruption());
            assert_eq!(error.offset(), Some(blocks[damaged].range.start));
        } else {
            assert_eq!(block.unwrap(), blocks[number]);
        }
    }
}

#[test]
fn a_block_holds_no_more_entries_than_its_header_can_count() {
    let mut options = options(1 << 20, 128, Codec::None);
    options.bits_per_key = 0.0;
    let mut builder = Builder::new(Vec::new(), options).unwrap();
    for version in (0..70_000u64).rev() {
        builder.add(b"key", version, b"").unwrap();
    }
    let table = Table::open(builder.finish().unwrap().0, ReaderOptions::default()).unwrap();
    table.verify().unwrap();
    let entries: Vec<_> = table.blocks().unwrap().map(|block| block.unwrap().entries).collect();
    assert_eq!(entries, [65_535, 70_000 - 65_535]);
    for version in [0, 4_464, 4_465, 69_999] {
        let hit = table.get(b"key", version, key_hash(b"key")).unwrap().unwrap();
        assert_eq!(hit.version(), version);
    }
}

#[test]
fn options_out_of_their_range_are_refused() {
    let refused = |change: fn(&mut BuilderOptions)| {
        let mut options = BuilderOptions::default();
        change(&mut options);
        Builder::new(Vec::new(), options)
            .is_err_and(|e| matches!(e.kind(), ErrorKind::InvalidOption(_)))
    };
    assert!(refused(|o| o.block_size = 255) && refused(|o| o.block_size = (1 << 20) + 1));
    assert!(refused(|o| o.restart_interval = 0) && refused(|o| o.restart_interval = 3));
    assert!(refused(|o| o.restart_interval = 256));
    assert!(refused(|o| o.bits_per_key = -1.0) && refused(|o| o.bits_per_key = 64.5));
    assert!(refused(|o| o.bits_per_key = f64::NAN));
    assert!(!refused(|o| (o.block_size, o.restart_interval, o.bits_per_key) = (256, 128, 64.0)));
    assert!(!refused(|o| (o.block_size, o.restart_interval, o.bits_per_key) = (1 << 20, 1, 0.0)));
}

#[test]
fn the_length_of_the_file_is_known_ahead_of_its_end() {
    let entries = random_entries(&mut fastrand::Rng::with_seed(8), 30_000, 3, 60);
    for block_size in [512, 4096, 65_536] {
        let options = options(block_size, 4, Codec::None);
        let mut builder = Builder::new(Vec::new(), options).unwrap();
        let mut before = 0;
        for (key, version, value) in &entries {
            builder.add(key, *version, value).unwrap();
            let now = builder.estimated_size();
            assert!(now >= before.max(value.len() as u64), "it never falls");
            before = now;
        }
        let estimated = builder.estimated_size();
        let len = builder.finish().unwrap().0.len() as u64;
        assert!(estimated.abs_diff(len) <= len / 50, "{estimated} of {len}");
    }
}

/// Notes when it was last written to and flushed.
#[derive(Default)]
struct Flushed(bool);

impl std::io::Write for Flushed {
    fn write(&mut self, buf: &[u8]) -> std::io::Result<usize> {
        self.0 = false;
        Ok(buf.len())
    }
    fn flush(&mut self) -> std::io::Result<()> {
        self.0 = true;
        Ok(())
    }
}

#[test]
fn a_finished_table_was_flushed() {
    let mut builder = Builder::new(Flushed::default(), BuilderOptions::default()).unwrap();
    builder.add(b"key", 1, b"value").unwrap();
    assert!(builder.finish().unwrap().0.0);
}

#[test]
fn a_property_beyond_its_limit_is_refused_and_the_table_goes_on() {
    let mut builder = Builder::new(Vec::new(), BuilderOptions::default()).unwrap();
    let long = vec![1; 16 << 20];
    let e = builder.add_property("n", &long).unwrap_err();
    assert_eq!(e.kind(), ErrorKind::TooLarge((16 << 20) + 1));
    builder.add_property("", &long).unwrap();
    builder.add(b"key", 1, b"value").unwrap();
    let table = Table::open(builder.finish().unwrap().0, ReaderOptions::default()).unwrap();
    assert!(table.properties().user.len() == 1 && table.properties().user("").unwrap() == long);
    table.verify().unwrap();
}

#[test]
fn a_block_that_does_not_shrink_by_an_eighth_is_stored_as_it_is() {
    let mut rng = fastrand::Rng::with_seed(9);
    for codec in codecs() {
        let mut builder = Builder::new(Vec::new(), options(4096, 4, codec)).unwrap();
        for i in 0..200u32 {
            // Noise first, then what repeats itself.
            let value: Vec<u8> = (0..500).map(|_| if i < 100 { rng.u8(..) } else { 7 }).collect();
            builder.add(&i.to_be_bytes(), 1, &value).unwrap();
        }
        let table = Table::open(builder.finish().unwrap().0, ReaderOptions::default()).unwrap();
        for block in table.blocks().unwrap().map(Result::unwrap) {
            let noise = block.first_key < 90u32.to_be_bytes().to_vec();
            let repeats = block.first_key >= 100u32.to_be_bytes().to_vec();
            let stored = block.range.end - block.range.start;
            assert!(!noise || block.codec == Codec::None && stored >= block.decoded_len);
            let shrinks = block.codec.to_string() == codec.to_string() && stored < 1000;
            assert!(!repeats || codec == Codec::None || shrinks, "{block:?}");
        }
        table.verify().unwrap();
    }
}

#[test]
fn compressed_blocks_keep_to_their_size_and_end_where_sections_may_begin() {
    let mut rng = fastrand::Rng::with_seed(10);
    let mut builder = Builder::new(Vec::new(), options(512, 4, Codec::Lz4)).unwrap();
    // More than the builder's buffer, so that it is emptied in the midst.
    for i in 0..20_000u32 {
        let value: Vec<u8> = (0..rng.usize(0..60)).map(|_| rng.u8(..)).collect();
        builder.add(&i.to_be_bytes(), 1, &value).unwrap();
    }
    let table = Table::open(builder.finish().unwrap().0, ReaderOptions::default()).unwrap();
    let mut longest = 0;
    for block in table.blocks().unwrap() {
        longest = longest.max(block.unwrap().decoded_len);
    }
    assert_eq!(longest, 512, "the size asked for is made use of, and not exceeded");
    assert!(table.properties().stored_bytes > 512 << 10);
    assert_eq!(table.properties().stored_bytes % 64, 0);
}

#[test]
fn an_uncompressed_block_grows_by_pages_and_to_64_kib_at_most() {
    let mut longest = 0;
    for len in [1000, 1300, 3000, 9000, 18_000, 30_000, 34_000] {
        let mut builder = Builder::new(Vec::new(), BuilderOptions::default()).unwrap();
        for i in 0..100u32 {
            builder.add(&i.to_be_bytes(), 1, &vec![7; len]).unwrap();
        }
        let table = Table::open(builder.finish().unwrap().0, ReaderOptions::default()).unwrap();
        let last = table.properties().blocks as usize - 1;
        for (number, block) in table.blocks().unwrap().map(Result::unwrap).enumerate() {
            let stored = block.range.end - block.range.start;
            longest = longest.max(stored);
            assert!(stored.is_multiple_of(4096) && stored <= 64 << 10, "{block:?}");
            // The next entry, at the latest, would have led beyond the limit.
            let padding = stored - block.decoded_len;
            let wastes = padding * 16 > stored && stored + len as u64 - padding <= 60 << 10;
            assert!(!wastes || number == last, "{block:?}");
        }
    }
    assert_eq!(longest, 60 << 10);
}

#[test]
fn a_block_of_many_bytes_of_keys_and_none_of_values_comes_back() {
    let mut rng = fastrand::Rng::with_seed(11);
    let keys = (0..200).map(|_| (0..1000).map(|_| rng.u8(..)).collect());
    let entries = common::sort(keys.map(|key| (key, 1, Vec::new())).collect());
    let table = build(&entries, options(1 << 20, 4, Codec::None));
    let table = Table::open(table, ReaderOptions::default()).unwrap();
    table.verify().unwrap();
    assert_eq!(table.properties().blocks, 1);
    check_gets(&entries, &table);
    compare_walks(&mut rng, &mut table.cursor(), &mut Model::new(entries), 500);
}

#[test]
fn a_value_of_a_cursor_is_kept_without_a_copy_where_its_table_is_shared() {
    let entries = random_entries(&mut fastrand::Rng::with_seed(12), 300, 3, 60);
    for codec in codecs() {
        let bytes = build(&entries, options(512, 4, codec));
        let table = Table::open(Region::from_vec(bytes), ReaderOptions::default()).unwrap();
        let mut cursor = table.cursor();
        let mut kept = Vec::new();
        let mut on = cursor.first().unwrap();
        while on {
            let region = cursor.value_region();
            assert!(
                codec != Codec::None
                    || region.is_empty()
                    || region.as_ptr() == cursor.value().as_ptr()
            );
            kept.push(region);
            on = cursor.next().unwrap();
        }
        drop(table);
        assert_eq!(kept.len(), entries.len());
        assert!(kept.iter().zip(&entries).all(|(region, entry)| **region == *entry.2));
    }
}
