//! The filter: is a key possibly in the table?
//!
//! Built with fastbloom, probed in place with code of our own, which a test holds against fastbloom.

use fastbloom::BloomFilter;
use xxhash_rust::xxh3::xxh3_64;
use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, IntoBytes};

use crate::format::{FILTER_HEADER_LEN, FilterHeader};
use crate::prefetch::prefetch;
use crate::{Error, ErrorKind, Part, Result};

/// Algorithm 1: the layout of fastbloom 0.17.
pub(crate) const FASTBLOOM_17: u32 = 1;

/// More hashes than this are never worth it, and no filter may ask for more.
const MAX_HASHES: u32 = 30;

/// The hash of a user key that filters are made of (XXH3, 64 bits, no seed). Compute it once per
/// read and hand it to every table.
#[inline]
pub fn key_hash(key: &[u8]) -> u64 {
    xxh3_64(key)
}

/// Appends a filter section (header and words) over the hashes of so many keys to `out`.
pub(crate) fn build(
    keys: usize,
    hashes: impl Iterator<Item = u64>,
    bits_per_key: f64,
    out: &mut Vec<u8>,
) {
    let bits = (keys as f64 * bits_per_key).ceil().max(64.0) as usize;
    let words = bits.div_ceil(64);
    // The best number of hashes for n bits per key is n · ln 2.
    let count = (bits_per_key * std::f64::consts::LN_2).round().clamp(1.0, f64::from(MAX_HASHES));
    let mut bloom = BloomFilter::with_num_bits(words * 64).hashes(count as u32);
    for hash in hashes {
        bloom.insert_hash(hash);
    }
    let header = FilterHeader {
        algorithm: U32::new(FASTBLOOM_17),
        hashes: U32::new(count as u32),
        words: U64::new(words as u64),
        keys: U64::new(keys as u64),
        prefix_kind: U32::ZERO,
        reserved: [0; 36],
    };
    out.extend_from_slice(header.as_bytes());
    out.reserve(words * 8);
    for word in bloom.as_slice() {
        out.extend_from_slice(&word.to_le_bytes());
    }
}

/// What the header of a filter says; the words stay where they are.
#[derive(Debug, Clone, Copy)]
pub(crate) struct FilterMeta {
    pub(crate) hashes: u32,
    pub(crate) words: usize,
}

impl FilterMeta {
    /// Checks the header of a filter section.
    pub(crate) fn parse(section: &[u8]) -> Result<FilterMeta> {
        let corrupt = |what| Error::corrupt(Part::Filter, what);
        let (header, words) = FilterHeader::ref_from_prefix(section)
            .map_err(|_| corrupt("shorter than its header"))?;
        if header.algorithm.get() != FASTBLOOM_17 {
            return Err(Error::new(ErrorKind::UnknownFilter(header.algorithm.get())));
        }
        if header.prefix_kind.get() != 0 || header.reserved != [0; 36] {
            return Err(Error::new(ErrorKind::UnsupportedFeature("a filter over prefixes")));
        }
        let hashes = header.hashes.get();
        if hashes == 0 || hashes > MAX_HASHES {
            return Err(corrupt("impossible number of hashes"));
        }
        let count = header.words.get();
        if count == 0 || count.checked_mul(8).is_none_or(|len| len > words.len() as u64) {
            return Err(corrupt("words leave the section"));
        }
        Ok(FilterMeta { hashes, words: count as usize })
    }

    /// How many bytes of the section are used; the rest is padding.
    pub(crate) fn used(&self) -> usize {
        FILTER_HEADER_LEN + self.words * 8
    }

    /// The words of the section this was parsed from.
    #[inline]
    pub(crate) fn words<'s>(&self, section: &'s [u8]) -> &'s [U64] {
        section
            .get(FILTER_HEADER_LEN..FILTER_HEADER_LEN + self.words * 8)
            .and_then(|bytes| <[U64]>::ref_from_bytes(bytes).ok())
            .unwrap_or_default()
    }

    /// Asks for the words that [`FilterMeta::may_contain`] will look at.
    #[inline]
    pub(crate) fn prefetch(&self, section: &[u8], hash: u64) {
        let words = self.words(section);
        for_each_bit(words, self.hashes, hash, |bit| {
            if let Some(word) = words.get(bit / 64) {
                prefetch(word.as_bytes(), 1);
            }
        });
    }

    /// Whether a key with this hash may be among the keys of the filter.
    #[inline]
    pub(crate) fn may_contain(&self, section: &[u8], hash: u64) -> bool {
        probe(self.words(section), self.hashes, hash)
    }
}

/// fastbloom's double hashing and its range reduction (Lemire: a multiplication instead of a
/// modulo). No exit before the end: the loads do not wait for each other, so that a cold filter
/// costs about one miss, not one per hash.
#[inline]
fn probe(words: &[U64], hashes: u32, hash: u64) -> bool {
    let mut all = 1u64;
    for_each_bit(words, hashes, hash, |bit| {
        // Never out of bounds: see below. If there are no words, yes is safe.
        let word = words.get(bit / 64).map_or(u64::MAX, |w| w.get());
        all &= word >> (bit % 64);
    });
    all & 1 == 1
}

/// The bits of a hash, each below `64 · words.len()`, since a hash is below 2⁶⁴.
#[inline]
fn for_each_bit(words: &[U64], hashes: u32, hash: u64, mut visit: impl FnMut(usize)) {
    const STEP: u64 = 0x517c_c1b7_2722_0a95;
    let bits = words.len() as u128 * 64;
    let step = hash.wrapping_mul(STEP);
    let mut h = hash;
    for _ in 0..hashes {
        visit(((u128::from(h) * bits) >> 64) as usize);
        h = h.rotate_left(5).wrapping_add(step);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn probing_in_place_agrees_with_fastbloom() {
        for (n, bits_per_key) in [(1, 10.0), (7, 1.0), (1000, 10.0), (5000, 20.5), (5000, 4.0)] {
            let hashes: Vec<u64> = (0..n).map(|i: u64| key_hash(&i.to_be_bytes())).collect();
            let mut section = Vec::new();
            build(hashes.len(), hashes.iter().copied(), bits_per_key, &mut section);
            let meta = FilterMeta::parse(&section).unwrap();
            let words: Vec<u64> = meta.words(&section).iter().map(|w| w.get()).collect();
            let theirs = BloomFilter::from_vec(words).hashes(meta.hashes);
            let mut yes = 0;
            for i in 0..50_000u64 {
                let hash = key_hash(&i.to_be_bytes());
                meta.prefetch(&section, hash);
                let ours = meta.may_contain(&section, hash);
                assert_eq!(ours, theirs.contains_hash(hash));
                assert!(ours || i >= n);
                yes += u32::from(ours);
            }
            if n == 5000 && bits_per_key > 10.0 {
                assert!(yes < 5100, "{yes}");
            }
        }
    }

    #[test]
    fn ten_bits_per_key_give_at_most_one_percent_false_positives() {
        let hashes: Vec<u64> = (0..100_000u64).map(|i| key_hash(&i.to_be_bytes())).collect();
        let mut section = Vec::new();
        build(hashes.len(), hashes.iter().copied(), 10.0, &mut section);
        let meta = FilterMeta::parse(&section).unwrap();
        let wrong = (100_000..400_000u64)
            .filter(|i| meta.may_contain(&section, key_hash(&i.to_be_bytes())))
            .count();
        assert!(wrong <= 3000, "{wrong} of 300,000");
    }

    #[test]
    fn a_header_that_contradicts_its_filter_is_refused() {
        let refused = |at: usize, byte: u8| {
            let mut section = Vec::new();
            build(3, 1..=3, 10.0, &mut section);
            assert!(FilterMeta::parse(&section).is_ok());
            section[at] = byte;
            FilterMeta::parse(&section).unwrap_err().kind()
        };
        let corrupt = |what| ErrorKind::Corrupt { part: Part::Filter, what };
        assert_eq!(refused(0, 2), ErrorKind::UnknownFilter(2));
        assert_eq!(refused(4, 0), corrupt("impossible number of hashes"));
        assert_eq!(refused(4, MAX_HASHES as u8 + 1), corrupt("impossible number of hashes"));
        assert_eq!(refused(8, 0), corrupt("words leave the section"));
        assert_eq!(refused(8, 2), corrupt("words leave the section"));
        assert_eq!(refused(15, 0x80), corrupt("words leave the section"));
        for at in [24, 28, 63] {
            assert!(matches!(refused(at, 1), ErrorKind::UnsupportedFeature(_)), "{at}");
        }
    }

    #[test]
    fn the_layout_of_algorithm_1_does_not_change() {
        let hashes: Vec<u64> = (0..20u64).map(|i| key_hash(&i.to_be_bytes())).collect();
        let mut section = Vec::new();
        build(hashes.len(), hashes.iter().copied(), 10.0, &mut section);
        assert_eq!(crc32fast::hash(&section), 2_285_784_987, "golden vector");
    }
}
