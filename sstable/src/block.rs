//! A block in place: where its parts are, and how an entry is found and read in it.
//!
//! Nothing is decoded when a block is loaded. Everything that is read from it is checked when it is
//! read: a forged block gives an error or wrong entries, never an access outside of it.

use std::cmp::Ordering;

use zerocopy::FromBytes;
use zerocopy::little_endian::U64;

use crate::codec::Codec;
use crate::cursor::{compare, key_head};
use crate::format::{BLOCK_HEADER_LEN, BLOCK_MAGIC, BLOCK_SHIFT_BIT, BLOCK_WIDE, BlockHeader};
use crate::heads::partition_point;
use crate::key_buffer::KeyBuffer;
use crate::{Error, ErrorKind, MAX_KEY_LEN, Part, Result};

/// The parts of a decoded block, all of them checked to lie within it.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Layout {
    pub(crate) count: usize,
    shift: u32,
    wide: bool,
    /// Ones where a version in a slot has bits.
    delta_mask: u64,
    /// Width of a slot in bytes.
    stride: usize,
    slots: usize,
    prefix: usize,
    keys: usize,
    values: usize,
    end: usize,
    base: u64,
}

/// Two slots at their narrow kind's longest, and what a read of eight bytes may overshoot.
const WINDOW: usize = 32;

/// What a slot says, with the ends of the entry before it. Offsets count from the start of the region.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Slot {
    key_start: usize,
    key_end: usize,
    value_start: usize,
    value_end: usize,
    /// Bytes of the restart's key behind the prefix that this key begins with.
    pub(crate) shared: usize,
    pub(crate) version: u64,
}

#[cold]
fn corrupt(what: &'static str) -> Error {
    Error::corrupt(Part::Block, what)
}

/// The header of a stored block.
pub(crate) fn header(stored: &[u8]) -> Result<&BlockHeader> {
    let (header, _) =
        BlockHeader::ref_from_prefix(stored).map_err(|_| corrupt("shorter than its header"))?;
    if header.magic != BLOCK_MAGIC {
        return Err(corrupt("no block begins here"));
    }
    Ok(header)
}

/// The CRC of a stored block: all behind the checksum, padding included.
pub(crate) fn crc(stored: &[u8]) -> u32 {
    crc32fast::hash(stored.get(4..).unwrap_or_default())
}

/// The decoded form of a compressed block.
pub(crate) fn decompress(stored: &[u8]) -> Result<Vec<u8>> {
    let header = header(stored)?;
    let codec = Codec::from_id(header.codec)?;
    let payload = stored
        .get(BLOCK_HEADER_LEN..)
        .and_then(|rest| rest.get(..header.payload_len.get() as usize))
        .ok_or_else(|| corrupt("payload leaves the block"))?;
    let raw = header.raw_len.get();
    if !crate::codec::plausible(raw.into(), payload.len() as u64) {
        return Err(corrupt("claims an impossible compression"));
    }
    let body = (raw as usize)
        .checked_sub(BLOCK_HEADER_LEN)
        .ok_or_else(|| corrupt("shorter than its header"))?;
    let mut out = Vec::with_capacity(raw as usize);
    out.extend_from_slice(&stored[..BLOCK_HEADER_LEN]);
    codec.decompress(payload, &mut out, body)?;
    Ok(out)
}

impl Layout {
    /// Reads the header of a decoded block and checks that every part lies within `block`. What is
    /// behind `raw_len` is padding.
    #[inline]
    pub(crate) fn parse(block: &[u8]) -> Result<Layout> {
        let header = header(block)?;
        let count = u64::from(header.count.get());
        let wide = header.flags & BLOCK_WIDE != 0;
        let shift = u32::from(header.flags >> BLOCK_SHIFT_BIT);
        let width = u64::from(header.version_width);
        if shift > 7 {
            return Err(Error::new(ErrorKind::UnsupportedFeature("a reserved flag of a block")));
        }
        if count == 0 || !matches!(width, 0 | 1 | 2 | 4 | 8) {
            return Err(corrupt("impossible header"));
        }
        let groups = ((count - 1) >> shift) + 1;
        let stride = if wide { 8 } else { 4 } + u64::from(shift != 0) + width;
        let slots = BLOCK_HEADER_LEN as u64 + groups * 8;
        let prefix = slots + count * stride;
        let keys = prefix + u64::from(header.prefix_len.get());
        let values = keys + u64::from(header.key_len.get());
        let end = u64::from(header.raw_len.get());
        if end > block.len() as u64 || values > end {
            return Err(corrupt("parts leave the block"));
        }
        Ok(Layout {
            count: count as usize,
            shift,
            wide,
            delta_mask: match width {
                0 => 0,
                width => u64::MAX >> (64 - 8 * width),
            },
            stride: stride as usize,
            slots: slots as usize,
            prefix: prefix as usize,
            keys: keys as usize,
            values: values as usize,
            end: end as usize,
            base: header.base_version.get(),
        })
    }

    /// Every how many entries a key is whole.
    pub(crate) fn interval(&self) -> usize {
        1 << self.shift
    }

    /// The length of the decoded block without padding.
    pub(crate) fn raw_len(&self) -> usize {
        self.end
    }

    /// Whether the last slot ends where its regions end.
    pub(crate) fn ends_meet(&self, block: &[u8]) -> bool {
        self.ends(block, self.slots + (self.count - 1) * self.stride).is_some_and(|(key, value)| {
            key == self.values - self.keys && value == self.end - self.values
        })
    }

    /// The ends of key and value that the slot at `at` holds.
    #[inline(always)]
    fn ends(&self, block: &[u8], at: usize) -> Option<(usize, usize)> {
        let slot = block.get(at..)?;
        if self.wide {
            let ends = u64::from_le_bytes(*slot.first_chunk()?);
            Some(((ends & 0xFFFF_FFFF) as usize, (ends >> 32) as usize))
        } else {
            let ends = u32::from_le_bytes(*slot.first_chunk()?);
            Some(((ends & 0xFFFF) as usize, (ends >> 16) as usize))
        }
    }

    /// Reads slot `i < count`.
    #[inline]
    pub(crate) fn slot(&self, block: &[u8], i: usize) -> Result<Slot> {
        self.slot_opt(block, i).ok_or_else(|| corrupt("a slot leaves the block"))
    }

    #[inline(always)]
    fn slot_opt(&self, block: &[u8], i: usize) -> Option<Slot> {
        // For slot 0 this is inside of the header.
        let before = self.slots + i * self.stride - self.stride;
        match block.get(before..).and_then(|rest| rest.first_chunk()) {
            Some(window) if !self.wide => self.narrow_slot(window, i),
            _ => self.slot_at_length(block, i),
        }
    }

    /// Reads slot `i` from a window that begins with the slot before it. Without a jump: what the
    /// width of the slots decides are masks and offsets.
    #[inline(always)]
    fn narrow_slot(&self, window: &[u8; WINDOW], i: usize) -> Option<Slot> {
        // No stride is more: see `parse`.
        let own = self.stride & 15;
        let u32_at = |at: usize| u32::from_le_bytes(std::array::from_fn(|k| window[at + k]));
        let ends = u32_at(own);
        let starts = if i == 0 { 0 } else { u32_at(0) };
        let shares = usize::from(self.shift != 0);
        let shared = if shares == 0 { 0 } else { usize::from(window[own + 4]) };
        let delta = u64::from_le_bytes(std::array::from_fn(|k| window[own + 4 + shares + k]));
        Some(Slot {
            key_start: (starts & 0xFFFF) as usize,
            key_end: (ends & 0xFFFF) as usize,
            value_start: (starts >> 16) as usize,
            value_end: (ends >> 16) as usize,
            shared,
            version: self.base.checked_add(delta & self.delta_mask)?,
        })
    }

    #[cold]
    fn slot_at_length(&self, block: &[u8], i: usize) -> Option<Slot> {
        let at = self.slots + i * self.stride;
        let (key_start, value_start) = match i {
            0 => (0, 0),
            _ => self.ends(block, at - self.stride)?,
        };
        let (key_end, value_end) = self.ends(block, at)?;
        let mut rest = block.get(at + if self.wide { 8 } else { 4 }..self.prefix)?;
        let mut shared = 0;
        if self.shift != 0 {
            let (first, behind) = rest.split_first()?;
            (shared, rest) = (usize::from(*first), behind);
        }
        let mut delta = [0; 8];
        let width = self.delta_mask.count_ones() as usize / 8;
        delta[..width].copy_from_slice(rest.get(..width)?);
        let version = self.base.checked_add(u64::from_le_bytes(delta))?;
        Some(Slot { key_start, key_end, value_start, value_end, shared, version })
    }

    /// The part of an entry's key that is stored with it.
    #[inline]
    pub(crate) fn suffix<'b>(&self, block: &'b [u8], slot: &Slot) -> Result<&'b [u8]> {
        block
            .get(self.keys..self.values)
            .and_then(|keys| keys.get(slot.key_start..slot.key_end))
            .ok_or_else(|| corrupt("a key leaves its region"))
    }

    /// Where in the block an entry's value is. In bounds.
    #[inline]
    pub(crate) fn value_range(&self, slot: &Slot) -> Result<std::ops::Range<usize>> {
        let start = self.values + slot.value_start;
        let end = self.values + slot.value_end;
        if start > end || end > self.end {
            return Err(corrupt("a value leaves its region"));
        }
        Ok(start..end)
    }

    /// What all keys of the block begin with.
    #[inline]
    pub(crate) fn prefix<'b>(&self, block: &'b [u8]) -> &'b [u8] {
        block.get(self.prefix..self.keys).unwrap_or_default()
    }

    #[inline]
    pub(crate) fn heads<'b>(&self, block: &'b [u8]) -> &'b [U64] {
        block
            .get(BLOCK_HEADER_LEN..self.slots)
            .and_then(|bytes| <[U64]>::ref_from_bytes(bytes).ok())
            .unwrap_or_default()
    }

    #[inline]
    fn restart_of(&self, i: usize) -> usize {
        i >> self.shift << self.shift
    }

    /// Whether two entries have the same restart.
    #[inline]
    pub(crate) fn same_group(&self, a: usize, b: usize) -> bool {
        (a ^ b) >> self.shift == 0
    }

    /// Writes the key of entry `i` to `key`.
    ///
    /// `known`: how many bytes behind the prefix `key` has in common with the restart of the entry
    /// already; `None` if `key` does not begin with this block's prefix. Returns the same for the
    /// key written.
    #[inline]
    pub(crate) fn read_key(
        &self,
        block: &[u8],
        i: usize,
        slot: &Slot,
        known: Option<usize>,
        key: &mut KeyBuffer,
    ) -> Result<usize> {
        if known.is_none_or(|known| slot.shared > known) {
            if known.is_none() {
                self.put_prefix(block, key);
            }
            if slot.shared != 0 {
                self.put_shared(block, i, slot, key)?;
            }
        }
        self.put_suffix(block, i, slot, key)
    }

    /// As [`Layout::read_key`] where `key` begins with the block's prefix, for a walk backward. There
    /// each key shares more with its restart than the one read before did, so what is in `key` is of
    /// no use; and neither to look at it, nor to keep the restart for the next key, saves jumps that
    /// nobody could predict.
    #[inline(always)]
    pub(crate) fn read_key_backward(
        &self,
        block: &[u8],
        i: usize,
        slot: &Slot,
        key: &mut KeyBuffer,
    ) -> Result<usize> {
        self.put_shared(block, i, slot, key)?;
        self.put_suffix(block, i, slot, key)
    }

    /// Begins a key with what all keys of the block begin with.
    #[inline]
    pub(crate) fn put_prefix(&self, block: &[u8], key: &mut KeyBuffer) {
        key.put(0, block, self.prefix, self.keys - self.prefix);
    }

    /// Puts what entry `i` shares with its restart behind the prefix.
    #[inline(always)]
    fn put_shared(&self, block: &[u8], i: usize, slot: &Slot, key: &mut KeyBuffer) -> Result<()> {
        let of = self.restart_of(i);
        let at = self.slots + of * self.stride;
        let start = if of == 0 { Some((0, 0)) } else { self.ends(block, at - self.stride) };
        let (start, end) = match (start, self.ends(block, at)) {
            (Some((start, _)), Some((end, _))) => (self.keys + start, self.keys + end),
            _ => return Err(corrupt("a slot leaves the block")),
        };
        if start > end || end > self.values {
            return Err(corrupt("a key leaves its region"));
        }
        if slot.shared > end - start {
            return Err(corrupt("a key shares more than there is"));
        }
        key.put(self.keys - self.prefix, block, start, slot.shared);
        Ok(())
    }

    /// Puts what is stored with entry `i` behind what it shares, which completes its key. Returns what
    /// [`Layout::read_key`] does.
    #[inline(always)]
    fn put_suffix(
        &self,
        block: &[u8],
        i: usize,
        slot: &Slot,
        key: &mut KeyBuffer,
    ) -> Result<usize> {
        let shared = self.keys - self.prefix + slot.shared;
        let suffix_len = self.suffix(block, slot)?.len();
        if shared + suffix_len > MAX_KEY_LEN {
            return Err(corrupt("a key is too long"));
        }
        key.put(shared, block, self.keys + slot.key_start, suffix_len);
        // A restart shares nothing, unless it is forged.
        Ok(if slot.shared == 0 && self.restart_of(i) == i { suffix_len } else { slot.shared })
    }

    /// The index of the first entry at or after `(key, version)`, `count` if there is none; with its
    /// slot if its key is `key`.
    #[inline]
    pub(crate) fn lower_bound(
        &self,
        block: &[u8],
        key: &[u8],
        version: u64,
    ) -> Result<(usize, Option<Slot>)> {
        let prefix = self.prefix(block);
        let Some(target) = key.strip_prefix(prefix) else {
            return Ok((if key < prefix { 0 } else { self.count }, None));
        };
        let head = key_head(target);
        let heads = self.heads(block);
        // Restarts with lesser heads are before the target, those with greater ones behind it.
        let mut group = partition_point(heads, |h| h < head);
        if heads.get(group).is_some_and(|h| h.get() == head) {
            let mut end = group + partition_point(&heads[group..], |h| h == head);
            while group < end {
                let mid = (group + end) / 2;
                let i = mid << self.shift;
                let slot = self.slot(block, i)?;
                match order(self.suffix(block, &slot)?, slot.version, target, version) {
                    Ordering::Less => group = mid + 1,
                    // No earlier restart can be equal, since pairs are distinct.
                    Ordering::Equal => return Ok((i, Some(slot))),
                    Ordering::Greater => end = mid,
                }
            }
        }
        let restart = (group << self.shift).min(self.count);
        if group > 0 && self.shift != 0 {
            // The target is behind the restart of the group before: it may be inside that group.
            let found = self.find_in_group(block, group - 1, restart, target, version)?;
            if let Some(found) = found {
                return Ok(found);
            }
        }
        if restart >= self.count {
            return Ok((self.count, None));
        }
        let slot = self.slot(block, restart)?;
        let same = self.suffix(block, &slot)? == target;
        Ok((restart, same.then_some(slot)))
    }

    /// The first entry at or after the target behind the restart of a group, which is before it.
    #[inline]
    fn find_in_group(
        &self,
        block: &[u8],
        group: usize,
        end: usize,
        target: &[u8],
        version: u64,
    ) -> Result<Option<(usize, Option<Slot>)>> {
        let first = group << self.shift;
        let slot = self.slot(block, first)?;
        let common = common_prefix(self.suffix(block, &slot)?, target);
        for i in first + 1..end {
            let slot = self.slot(block, i)?;
            // More shared with the restart than the target shares: on the restart's side of it.
            let shared = slot.shared;
            if shared > common {
                continue;
            }
            let suffix = self.suffix(block, &slot)?;
            let rest = &target[shared..];
            match order(suffix, slot.version, rest, version) {
                Ordering::Less => {}
                Ordering::Equal => return Ok(Some((i, Some(slot)))),
                Ordering::Greater => return Ok(Some((i, (suffix == rest).then_some(slot)))),
            }
        }
        Ok(None)
    }
}

/// Pair order: key ascending, version descending.
#[inline]
fn order(a: &[u8], a_version: u64, b: &[u8], b_version: u64) -> Ordering {
    compare((a, a_version), (b, b_version))
}

/// How many leading bytes two slices have in common.
#[inline]
pub(crate) fn common_prefix(a: &[u8], b: &[u8]) -> usize {
    let n = a.len().min(b.len());
    let (mut i, a, b) = (0, &a[..n], &b[..n]);
    while let (Some(x), Some(y)) = (a[i..].first_chunk::<8>(), b[i..].first_chunk::<8>()) {
        let diff = u64::from_le_bytes(*x) ^ u64::from_le_bytes(*y);
        if diff != 0 {
            return i + (diff.trailing_zeros() / 8) as usize;
        }
        i += 8;
    }
    i + a[i..].iter().zip(&b[i..]).take_while(|(x, y)| x == y).count()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::block_builder::BlockBuilder;

    /// Four entries with one restart; versions of a byte.
    fn small(codec: Codec) -> Vec<u8> {
        let mut builder = BlockBuilder::new(2);
        for (i, key) in [&b"key-aa"[..], b"key-ab", b"key-abc", b"key-b"].into_iter().enumerate() {
            builder.add(key, 250 + i as u64, &[i as u8; 40]);
        }
        let mut block = Vec::new();
        builder.finish(codec, &mut block).unwrap();
        block
    }

    const SLOTS: usize = BLOCK_HEADER_LEN + 8;
    /// Two ends of two bytes, *shared*, a version.
    const STRIDE: usize = 6;

    fn what<T>(result: Result<T>) -> &'static str {
        match result.err().map(|e| e.kind()) {
            Some(ErrorKind::Corrupt { part: Part::Block, what }) => what,
            other => panic!("{other:?}"),
        }
    }

    fn changed(change: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
        let mut block = small(Codec::None);
        change(&mut block);
        block
    }

    #[test]
    fn a_header_that_contradicts_its_block_is_refused() {
        let refused = |change: fn(&mut Vec<u8>)| what(Layout::parse(&changed(change)));
        assert_eq!(refused(|b| b.truncate(31)), "shorter than its header");
        assert_eq!(refused(|b| b[4] ^= 1), "no block begins here");
        assert_eq!(refused(|b| b[20] = 0), "impossible header");
        for width in [3, 5, 6, 7, 9, 255] {
            let mut block = small(Codec::None);
            block[7] = width;
            assert_eq!(what(Layout::parse(&block)), "impossible header", "{width}");
        }
        assert_eq!(refused(|b| b[8] += 1), "parts leave the block");
        assert_eq!(refused(|b| b.truncate(b.len() - 1)), "parts leave the block");
        assert_eq!(refused(|b| b[17] = 1), "parts leave the block");
        let e = Layout::parse(&changed(|b| b[6] |= 1 << 4)).unwrap_err();
        assert!(matches!(e.kind(), ErrorKind::UnsupportedFeature(_)), "{e}");
        // What is behind its end is padding.
        assert!(Layout::parse(&changed(|b| b.push(7))).is_ok());
    }

    /// What is wrong with entry `i`: its slot, its key either way, or its value.
    fn wrong_with(block: &[u8], i: usize) -> &'static str {
        let layout = Layout::parse(block).unwrap();
        let slot = match layout.slot(block, i) {
            Ok(slot) => slot,
            e => return what(e),
        };
        let mut key = KeyBuffer::default();
        let forward = layout.read_key(block, i, &slot, None, &mut key);
        let backward = layout.read_key_backward(block, i, &slot, &mut key);
        match (forward, backward) {
            (Ok(_), Ok(_)) => what(layout.value_range(&slot)),
            (forward, backward) => {
                let forward = what(forward);
                assert_eq!(what(backward), forward, "the same both ways");
                forward
            }
        }
    }

    #[test]
    fn an_entry_that_leaves_its_block_is_refused() {
        let key_end = |i: usize| SLOTS + i * STRIDE;
        let leaves = |at: usize, byte: u8| wrong_with(&changed(|b| b[at] = byte), 2);
        assert_eq!(leaves(key_end(2), 200), "a key leaves its region");
        assert_eq!(leaves(key_end(1), 200), "a key leaves its region");
        assert_eq!(leaves(key_end(2) + 2, 255), "a value leaves its region");
        assert_eq!(leaves(key_end(1) + 2, 255), "a value leaves its region");
        assert_eq!(leaves(key_end(2) + 4, 3), "a key shares more than there is");
        let overflow = changed(|b| b[24..32].fill(0xFF));
        assert_eq!(wrong_with(&overflow, 2), "a slot leaves the block");
        // The same where slots are read one by one, next to the end.
        let long = changed(|b| b[6] |= BLOCK_WIDE);
        assert_eq!(wrong_with(&long, 2), "a key leaves its region");
    }

    #[test]
    fn a_key_of_more_than_the_greatest_length_is_refused() {
        // One entry, wide: 40,000 bytes of prefix and as many of its own.
        let len = 40_000;
        let mut block = changed(|b| b.truncate(BLOCK_HEADER_LEN));
        block[6] = BLOCK_WIDE;
        block[7] = 0;
        block[16..20].copy_from_slice(&(len as u32).to_le_bytes());
        block[20..24].copy_from_slice(&[1, 0, (len % 256) as u8, (len / 256) as u8]);
        block.extend([0; 8]);
        block.extend((len as u32).to_le_bytes());
        block.extend([0; 4]);
        block.resize(block.len() + 2 * len, b'k');
        let raw_len = block.len() as u32;
        block[8..12].copy_from_slice(&raw_len.to_le_bytes());
        assert_eq!(wrong_with(&block, 0), "a key is too long");
    }

    #[test]
    fn regions_that_no_slot_ends_are_noticed() {
        let meets = |block: &[u8]| Layout::parse(block).unwrap().ends_meet(block);
        assert!(meets(&small(Codec::None)));
        let last = SLOTS + 3 * STRIDE;
        assert!(!meets(&changed(|b| b[last] -= 1)), "the keys");
        assert!(!meets(&changed(|b| b[last + 2] -= 1)), "the values");
    }

    #[test]
    fn a_compressed_block_that_claims_what_cannot_be_is_refused() {
        let stored = small(Codec::Lz4);
        assert!(stored[5] == Codec::Lz4.id() && decompress(&stored).is_ok());
        let refused = |at: usize, value: u32| {
            let mut block = stored.clone();
            block[at..at + 4].copy_from_slice(&value.to_le_bytes());
            what(decompress(&block))
        };
        let (raw, payload) = (small(Codec::None).len() as u32, stored.len() as u32 - 32);
        assert_eq!(refused(12, payload + 1), "payload leaves the block");
        assert_eq!(refused(8, payload * 255 + 4097), "claims an impossible compression");
        assert_eq!(refused(8, 31), "shorter than its header");
        assert_eq!(refused(8, raw + 1), "decompressed length differs");
        assert_eq!(refused(8, raw - 1), "LZ4 data do not decompress");
    }
}
