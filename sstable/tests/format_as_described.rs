//! A second reader, made of what the crate's documentation says of the format and of nothing else: no
//! structure, no parser and no hash of the crate's own. It reads the golden tables, and so what is said
//! is what is so.
#![allow(clippy::unwrap_used)]

#[path = "golden/cases.rs"]
#[allow(unreachable_pub)]
mod cases;

use std::cmp::Reverse;
use std::path::PathBuf;

use cases::{Case, Entry};
use xxhash_rust::xxh3::xxh3_64;

fn u16_at(bytes: &[u8], at: usize) -> usize {
    u16::from_le_bytes(bytes[at..at + 2].try_into().unwrap()).into()
}

fn u32_at(bytes: &[u8], at: usize) -> usize {
    u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap()) as usize
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap())
}

/// A number of so many bytes.
fn number(bytes: &[u8]) -> u64 {
    bytes.iter().rev().fold(0, |number, &byte| number << 8 | u64::from(byte))
}

/// The first eight bytes, padded with zeros, as a big-endian number.
fn head(key: &[u8]) -> u64 {
    (0..8).fold(0, |head, i| head << 8 | u64::from(key.get(i).copied().unwrap_or(0)))
}

/// What a checksum at this place is masked with.
fn mask(salt: u64, offset: usize) -> u32 {
    const STEP: u64 = 0x9e37_79b9_7f4a_7c15;
    let mut x = (salt ^ (offset as u64).wrapping_mul(STEP)).wrapping_add(STEP);
    x = (x ^ x >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ x >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    ((x ^ x >> 31) >> 32) as u32
}

type Pair = (Vec<u8>, Reverse<u64>);

struct File {
    bytes: Vec<u8>,
    footer: usize,
    salt: u64,
}

impl File {
    fn new(bytes: Vec<u8>) -> File {
        let footer = bytes.len() - 192;
        let at = &bytes[footer..];
        assert_eq!(&at[184..], b"kvdbSST\n");
        assert_eq!(u32_at(at, 180), 1);
        let others = [&at[..176], &at[180..]].concat();
        let crc = crc32fast::hash(&others);
        assert_eq!(u32_at(at, 176) as u32, crc ^ mask(0, footer));
        assert!(at[112..160].iter().chain(&at[161..176]).all(|&byte| byte == 0), "reserved");
        let salt = u64_at(at, 24);
        File { bytes, footer, salt }
    }

    /// The section of the handle at this place of the footer, and where it begins.
    fn section(&self, handle: usize) -> Option<(usize, &[u8])> {
        let handle = &self.bytes[self.footer + handle..][..24];
        if handle.iter().all(|&byte| byte == 0) {
            return None;
        }
        let (offset, len) = (u64_at(handle, 0) as usize, u64_at(handle, 8) as usize);
        assert_eq!((offset % 64, u32_at(handle, 20)), (0, 0));
        let section = &self.bytes[offset..offset + len];
        let crc = crc32fast::hash(section);
        assert_eq!(u32_at(handle, 16) as u32, crc ^ mask(self.salt, offset));
        Some((offset, section))
    }

    /// Where the blocks begin, and where the last one ends; and the separators.
    fn index(&self) -> (Vec<usize>, Vec<Pair>) {
        let (_, index) = self.section(64).unwrap();
        let field = |i: usize| u32_at(index, 4 * i);
        let (blocks, prefix_len, separators_len, flags) = (field(0), field(1), field(2), field(3));
        let n = blocks.saturating_sub(1);
        let heads = 16;
        let offsets = heads + 8 * n;
        let versions = offsets + 8 * (blocks + 1);
        let ends = versions + if flags & 1 == 1 { 8 * n } else { 0 };
        let prefix = ends + 4 * n;
        let region = prefix + prefix_len;
        assert!(index[region + separators_len..].iter().all(|&byte| byte == 0), "padding");
        let offsets = (0..=blocks).map(|i| u64_at(index, offsets + 8 * i) as usize).collect();
        let separators = (0..n).map(|i| {
            let start = if i == 0 { 0 } else { u32_at(index, ends + 4 * (i - 1)) };
            let own = &index[region..region + separators_len][start..u32_at(index, ends + 4 * i)];
            assert_eq!(u64_at(index, heads + 8 * i), head(own));
            let version = if flags & 1 == 1 { u64_at(index, versions + 8 * i) } else { u64::MAX };
            ([&index[prefix..region], own].concat(), Reverse(version))
        });
        (offsets, separators.collect())
    }

    /// The entries of a block, and its decoded length.
    fn block(&self, start: usize, end: usize) -> (Vec<Entry>, usize) {
        let stored = &self.bytes[start..end];
        let crc = crc32fast::hash(&stored[4..]);
        assert_eq!(u32_at(stored, 0) as u32, crc ^ mask(self.salt, start));
        assert_eq!(stored[4], 0xB7);
        let (raw_len, payload_len) = (u32_at(stored, 8), u32_at(stored, 12));
        let payload = &stored[32..32 + payload_len];
        assert!(stored[32 + payload_len..].iter().all(|&byte| byte == 0), "padding");
        let body = match stored[5] {
            0 => payload.to_vec(),
            1 => lz4_flex::block::decompress(payload, raw_len - 32).unwrap(),
            #[cfg(feature = "zstd")]
            2 => zstd::bulk::decompress(payload, raw_len - 32).unwrap(),
            other => panic!("codec {other}"),
        };
        let block = [&stored[..32], &body].concat();
        assert_eq!(block.len(), raw_len);
        let (wide, interval) = (block[6] & 1 == 1, 1 << (block[6] >> 1 & 7));
        let (width, count) = (usize::from(block[7]), u16_at(&block, 20));
        let heads = 32;
        let slots = heads + 8 * count.div_ceil(interval);
        let end_len = if wide { 4 } else { 2 };
        let slot_len = 2 * end_len + usize::from(interval != 1) + width;
        let prefix = slots + count * slot_len;
        let keys = prefix + u16_at(&block, 22);
        let values = keys + u32_at(&block, 16);
        let (keys_region, values_region) = (&block[keys..values], &block[values..]);
        let (mut key_start, mut value_start, mut restart) = (0, 0, Vec::new());
        let mut entries = Vec::new();
        for i in 0..count {
            let slot = &block[slots + i * slot_len..][..slot_len];
            let key_end = number(&slot[..end_len]) as usize;
            let value_end = number(&slot[end_len..2 * end_len]) as usize;
            let shared = if interval == 1 { 0 } else { usize::from(slot[2 * end_len]) };
            let version = u64_at(&block, 24) + number(&slot[slot_len - width..]);
            let own = &keys_region[key_start..key_end];
            if i % interval == 0 {
                assert_eq!((shared, u64_at(&block, heads + 8 * (i / interval))), (0, head(own)));
                restart = own.to_vec();
            }
            let key = [&block[prefix..keys], &restart[..shared], own].concat();
            entries.push((key, version, values_region[value_start..value_end].to_vec()));
            (key_start, value_start) = (key_end, value_end);
        }
        assert_eq!((key_start, value_start), (keys_region.len(), values_region.len()));
        (entries, raw_len)
    }

    /// Whether the filter has a key.
    fn may_contain(filter: &[u8], key: &[u8]) -> bool {
        let (algorithm, hashes) = (u32_at(filter, 0), u32_at(filter, 4));
        assert_eq!((algorithm, u32_at(filter, 24)), (1, 0));
        let bits = u128::from(u64_at(filter, 8)) * 64;
        let mut h = xxh3_64(key);
        let step = h.wrapping_mul(0x517c_c1b7_2722_0a95);
        (0..hashes).all(|_| {
            let bit = ((u128::from(h) * bits) >> 64) as usize;
            h = h.rotate_left(5).wrapping_add(step);
            u64_at(filter, 64 + 8 * (bit / 64)) >> (bit % 64) & 1 == 1
        })
    }
}

#[test]
fn a_reader_made_of_the_documentation_reads_golden_and_new_tables() {
    let dir = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    for case in cases::cases() {
        check(std::fs::read(dir.join(case.name).with_extension("sst")).unwrap(), &case);
        check(cases::build(&case).unwrap(), &case);
    }
}

fn check(bytes: Vec<u8>, case: &Case) {
    let Case { name, options, entries, properties } = case;
    let file = File::new(bytes);
    let footer = &file.bytes[file.footer..];
    let id = u128::from(u64_at(footer, 8)) << 64 | u128::from(u64_at(footer, 0));
    assert_eq!((id, u64_at(footer, 16)), (options.identity.database, options.identity.table));
    let (offsets, separators) = file.index();
    let data_len = u64_at(footer, 32) as usize;
    assert_eq!((offsets[0], offsets[offsets.len() - 1]), (0, data_len), "{name}");
    let (mut seen, mut block_bytes) = (Vec::new(), 0);
    for (i, place) in offsets.windows(2).enumerate() {
        let (block, raw_len) = file.block(place[0], place[1]);
        for (key, version, _) in &block {
            let pair = (key.clone(), Reverse(*version));
            assert!(i == 0 || separators[i - 1] <= pair, "{name}");
            assert!(separators.get(i).is_none_or(|separator| pair < *separator), "{name}");
        }
        seen.extend(block);
        block_bytes += raw_len as u64;
    }
    assert!(seen == *entries, "{name}");

    let mut keys: Vec<_> = entries.iter().map(|(key, ..)| key.as_slice()).collect();
    keys.dedup();
    if let Some((at, filter)) = file.section(40) {
        assert_eq!((at, u64_at(filter, 16) as usize), (data_len, keys.len()), "{name}");
        assert!(keys.iter().all(|key| File::may_contain(filter, key)), "{name}");
        let others = (0..1000u32).filter(|i| File::may_contain(filter, &i.to_be_bytes()));
        assert!(others.count() < 100, "{name}");
    } else {
        assert!(keys.is_empty() || options.bits_per_key == 0.0, "{name}");
    }

    let (_, said) = file.section(88).unwrap();
    let lengths = |part: fn(&Entry) -> usize| entries.iter().map(part).sum::<usize>() as u64;
    let versions = || entries.iter().map(|entry| entry.1);
    let expected = [
        entries.len() as u64,
        keys.len() as u64,
        lengths(|entry| entry.0.len()),
        lengths(|entry| entry.2.len()),
        block_bytes,
        offsets.len() as u64 - 1,
        versions().min().unwrap_or(0),
        versions().max().unwrap_or(0),
    ];
    for (i, expected) in expected.into_iter().enumerate() {
        assert_eq!(u64_at(said, 8 * i), expected, "{name}, property {i}");
    }
    let mut rest = &said[80..];
    let mut take = |len: usize| {
        let (taken, left) = rest.split_at(len);
        rest = left;
        taken
    };
    assert_eq!(take(u32_at(said, 64)), keys.first().copied().unwrap_or_default(), "{name}");
    assert_eq!(take(u32_at(said, 68)), keys.last().copied().unwrap_or_default(), "{name}");
    assert_eq!(u32_at(said, 72), properties.len(), "{name}");
    for (property, value) in properties {
        let lens = take(8).to_vec();
        assert_eq!(take(u32_at(&lens, 0)), property.as_bytes(), "{name}");
        assert_eq!(take(u32_at(&lens, 4)), value, "{name}");
    }
    assert!(rest.iter().all(|&byte| byte == 0), "{name}: padding");
}
