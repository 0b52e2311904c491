//! What is done with bytes of which nothing is known, one function for each parser: no panic, no
//! access outside of them, no endless walk, and what is asked twice is answered alike.
//!
//! Compiled for tests and for cargo-fuzz (`--cfg fuzzing`) only. Its targets are in `fuzz/`, the
//! corpus in `tests/corpus`. The tests below replay the corpus and mutate it.

#![allow(missing_docs, unreachable_pub)]

use zerocopy::FromBytes;

use crate::block::{self, Layout};
use crate::filter::FilterMeta;
use crate::footer::check_footer;
use crate::format::{FOOTER_LEN, Footer};
use crate::index::IndexLayout;
use crate::key_buffer::KeyBuffer;
use crate::{Cursor, Properties, ReaderOptions, Table, key_hash};

#[path = "../tests/common/sign.rs"]
mod sign;

/// A stored block.
pub fn block(data: &[u8]) {
    if let Ok(decoded) = block::decompress(data) {
        entries(&decoded);
    }
    entries(data);
}

/// A decoded block: all its entries in both directions, and searches.
fn entries(data: &[u8]) {
    let Ok(layout) = Layout::parse(data) else { return };
    assert!(layout.raw_len() <= data.len());
    assert!(layout.heads(data).len() <= layout.count);
    // Keys may be as long as the block, each: bounded, so that inputs stay quick.
    let count = layout.count.min(64);
    let [mut forward, mut alone, mut backward] = [(); 3].map(|()| KeyBuffer::default());
    let mut known = None;
    let mut keys = Vec::new();
    for i in 0..count {
        let Ok(slot) = layout.slot(data, i) else { return };
        if let Ok(range) = layout.value_range(&slot) {
            assert!(data.get(range).is_some());
        }
        if i > 0 && !layout.same_group(i, i - 1) {
            known = known.map(|_| 0);
        }
        let walked = layout.read_key(data, i, &slot, known, &mut forward);
        let read = layout.read_key(data, i, &slot, None, &mut alone);
        assert_eq!(walked.is_ok(), read.is_ok());
        known = walked.ok();
        if read.is_ok() {
            assert_eq!(*forward, *alone, "entry {i}");
            layout.put_prefix(data, &mut backward);
            if layout.read_key_backward(data, i, &slot, &mut backward).is_ok() {
                assert_eq!(*backward, *alone, "entry {i}");
            }
            keys.push((alone.to_vec(), slot.version));
        }
    }
    for (key, version) in &keys {
        for (key, version) in [(&key[..], *version), (&key[..key.len() / 2], 0), (key, u64::MAX)] {
            if let Ok((i, slot)) = layout.lower_bound(data, key, version) {
                assert!(i <= layout.count);
                assert!(slot.is_none() || i < layout.count);
            }
        }
    }
}

/// Eight bytes that say how long the blocks are, and an index section.
pub fn index(data: &[u8]) {
    let Some((len, section)) = data.split_first_chunk::<8>() else { return };
    let data_len = u64::from_le_bytes(*len);
    let Ok(layout) = IndexLayout::parse(section, data_len) else { return };
    assert!(layout.used() <= section.len());
    let index = layout.view(section);
    for i in 0..index.blocks().min(256) {
        if let Ok(range) = index.block_range(i) {
            assert!(range.start < range.end && range.end <= data_len);
        }
        if i + 1 < index.blocks()
            && let Ok((suffix, version)) = index.separator(i)
        {
            let key = [index.prefix(), suffix].concat();
            for (key, version) in [(&key[..], version), (&key[..key.len() / 2], 0)] {
                if let Ok(block) = index.find(key, version) {
                    assert!(block < index.blocks());
                }
            }
        }
    }
    for key in [&b""[..], &[0xFF; 40], index.prefix()] {
        if index.blocks() > 0
            && let Ok(block) = index.find(key, 7)
        {
            assert!(block < index.blocks());
        }
    }
}

/// A filter section.
pub fn filter(data: &[u8]) {
    let Ok(meta) = FilterMeta::parse(data) else { return };
    assert!(meta.used() <= data.len());
    for i in 0..64u64 {
        let hash = key_hash(&i.to_le_bytes());
        meta.prefetch(data, hash);
        assert_eq!(meta.may_contain(data, hash), meta.may_contain(data, hash));
    }
}

/// A footer that begins where its data length and sections say, or somewhere else.
pub fn footer(data: &[u8]) {
    let Ok((footer, _)) = Footer::read_from_prefix(data) else { return };
    for at in [0, data.len() as u64, footer.data_len.get(), footer_place(&footer)] {
        let mut signed = footer;
        signed.checksum.set(kvdb_vfs::Salt::NONE.seal(footer.crc(), at, 0));
        for footer in [&footer, &signed] {
            if let Ok((_, sections)) = check_footer(footer, at) {
                let end = |handle: &crate::format::Handle| {
                    handle.offset.get().checked_add(handle.len.get())
                };
                assert_eq!(end(&sections.properties), Some(at));
                assert!(end(&sections.index).is_some_and(|end| end <= at));
            }
        }
    }
}

fn footer_place(footer: &Footer) -> u64 {
    footer.properties.offset.get().wrapping_add(footer.properties.len.get())
}

/// A properties section.
pub fn properties(data: &[u8]) {
    if let Ok(properties) = Properties::decode(data, 0, data.len() as u64) {
        let user: usize = properties.user.iter().map(|(n, v)| n.len() + v.len()).sum();
        assert!(user + properties.smallest_key.len() + properties.largest_key.len() <= data.len());
    }
}

/// A whole table: as it is, and with all checksums made right.
pub fn table(data: &[u8]) {
    use_table(data);
    if data.len() >= FOOTER_LEN {
        let mut signed = data.to_vec();
        sign::sign(&mut signed);
        use_table(&signed);
    }
}

fn use_table(data: &[u8]) {
    let Ok(table) = Table::open(data, ReaderOptions::default()) else { return };
    let whole = table.verify().is_ok();
    let mut cursor = table.cursor();
    let mut keys = Vec::new();
    let mut steps = [0, 0];
    for (forward, steps) in [true, false].into_iter().zip(&mut steps) {
        let mut moved = if forward { cursor.first() } else { cursor.last() };
        while let Ok(true) = moved {
            *steps += 1;
            assert!(*steps <= 65_536 * (data.len() / 32 + 1), "more entries than blocks can hold");
            if keys.len() < 8 {
                keys.push((cursor.key().to_vec(), cursor.version()));
            }
            if *steps > 5_000 {
                break;
            }
            moved = if forward { cursor.next() } else { cursor.prev() };
        }
        assert!(!whole || moved.is_ok(), "what verifies can be walked");
    }
    assert!(!whole || steps[0] == steps[1]);
    for (key, version) in keys {
        let hit = table.get(&key, version, key_hash(&key));
        assert!(!whole || hit.is_ok_and(|hit| hit.is_some_and(|hit| hit.version() == version)));
        for moved in [cursor.seek(&key, version), cursor.seek_for_prev(&key, version)] {
            assert!(!whole || moved.is_ok_and(|on| on));
        }
    }
}

/// What takes any input.
pub type Target = fn(&[u8]);

/// The targets by name, which is that of the folder of their corpus and of their program in `fuzz/`.
pub const TARGETS: [(&str, Target); 6] = [
    ("block", block),
    ("index", index),
    ("filter", filter),
    ("footer", footer),
    ("properties", properties),
    ("table", table),
];

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    fn corpus(target: &str) -> Vec<Vec<u8>> {
        let dir = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/corpus").join(target);
        let mut paths: Vec<_> =
            std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect();
        paths.sort();
        assert!(!paths.is_empty(), "{target}");
        paths.iter().map(|path| std::fs::read(path).unwrap()).collect()
    }

    #[test]
    fn the_corpus_does_no_harm() {
        for (name, target) in TARGETS {
            for input in corpus(name) {
                target(&input);
            }
        }
    }

    /// What a fuzzer would try: numbers at the edges, pieces moved, cut and taken from elsewhere.
    fn mutate(rng: &mut fastrand::Rng, input: &mut Vec<u8>, other: &[u8]) {
        for _ in 0..rng.usize(1..5) {
            let len = input.len();
            if len == 0 {
                input.push(rng.u8(..));
                continue;
            }
            // The front of a part is where its structure is.
            let at = if rng.bool() { rng.usize(0..len) } else { rng.usize(0..len.min(96)) };
            let width = [1, 2, 4, 8][rng.usize(0..4)].min(len - at);
            match rng.u32(0..10) {
                0 => input[at] ^= 1 << rng.u32(0..8),
                1 => input[at] = rng.u8(..),
                2 => input[at] = input[at].wrapping_add(rng.u8(0..4).wrapping_sub(2)),
                3 => {
                    let edges =
                        [0, 1, u64::MAX, u64::MAX >> 1, len as u64, len as u64 - 1, 1 << 32];
                    let edge = edges[rng.usize(0..edges.len())].to_le_bytes();
                    input[at..at + width].copy_from_slice(&edge[..width]);
                }
                4 => input.truncate(at),
                5 => {
                    let copy = input[at..at + width].to_vec();
                    let to = rng.usize(0..len - width + 1);
                    input[to..to + width].copy_from_slice(&copy);
                }
                6 => {
                    let from = rng.usize(0..other.len().max(1)).min(other.len());
                    let piece = &other[from..(from + 16).min(other.len())];
                    let piece = &piece[..piece.len().min(len - at)];
                    input[at..at + piece.len()].copy_from_slice(piece);
                }
                7 => drop(input.splice(at..at, [0; 8])),
                8 => drop(input.drain(at..at + width)),
                _ => input[at..at + width].fill_with(|| rng.u8(..)),
            }
        }
    }

    #[test]
    fn mutations_of_the_corpus_do_no_harm() {
        let scale = std::env::var("KVDB_TEST_SCALE").ok().and_then(|s| s.parse().ok());
        let rounds = 10_000 * scale.unwrap_or(1);
        let mut rng = fastrand::Rng::with_seed(rounds as u64);
        let mut inputs = 0u64;
        for (name, target) in TARGETS {
            let corpus = corpus(name);
            for _ in 0..rounds {
                let mut input = corpus[rng.usize(0..corpus.len())].clone();
                let other = &corpus[rng.usize(0..corpus.len())];
                mutate(&mut rng, &mut input, other);
                target(&input);
                inputs += 1;
            }
        }
        assert_eq!(inputs, 6 * rounds as u64);
    }
}
