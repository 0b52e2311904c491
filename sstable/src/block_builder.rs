//! Collects the entries of one block and lays them out.

use zerocopy::IntoBytes;
use zerocopy::little_endian::{U16, U32, U64};

use crate::block::common_prefix;
use crate::codec::Codec;
use crate::cursor::key_head;
use crate::format::{BLOCK_HEADER_LEN, BLOCK_MAGIC, BLOCK_SHIFT_BIT, BLOCK_WIDE, BlockHeader};
use crate::{Error, ErrorKind, Result};

/// The entries of the block under construction.
///
/// How much of the keys the whole block shares is known only when it is complete, so keys are kept
/// whole until then; what the block will measure is known at any time nevertheless.
#[derive(Debug, Default)]
pub(crate) struct BlockBuilder {
    shift: u32,
    keys: Vec<u8>,
    values: Vec<u8>,
    entries: Vec<Entry>,
    least_version: u64,
    greatest_version: u64,
    prefix_len: usize,
    /// Key bytes of all restarts, whole; and of all other entries, without what they share with
    /// their restart.
    restart_bytes: usize,
    follower_bytes: usize,
}

#[derive(Debug, Clone, Copy)]
struct Entry {
    key_end: usize,
    value_end: usize,
    /// Bytes in common with the restart of the group; the whole key for a restart itself.
    common: usize,
    version: u64,
}

fn width_of(span: u64) -> usize {
    match span {
        0 => 0,
        1..=0xFF => 1,
        0x100..=0xFFFF => 2,
        0x1_0000..=0xFFFF_FFFF => 4,
        _ => 8,
    }
}

impl BlockBuilder {
    pub(crate) fn new(shift: u32) -> Self {
        BlockBuilder { shift, ..Default::default() }
    }

    pub(crate) fn count(&self) -> usize {
        self.entries.len()
    }

    fn key(&self, i: usize) -> &[u8] {
        let start = if i == 0 { 0 } else { self.entries[i - 1].key_end };
        &self.keys[start..self.entries[i].key_end]
    }

    /// The length of the decoded block if this entry were added. A little short for keys that share
    /// more than 255 bytes behind the common prefix.
    pub(crate) fn len_with(&self, key: &[u8], version: u64, value: &[u8]) -> usize {
        let n = self.entries.len();
        if n == 0 {
            let slot = if self.shift == 0 { 4 } else { 5 };
            return BLOCK_HEADER_LEN + 8 + slot + key.len() + value.len();
        }
        let prefix = common_prefix(&self.keys[..self.prefix_len], key);
        let groups = (n >> self.shift) + 1;
        let (mut restarts, mut followers) = (self.restart_bytes, self.follower_bytes);
        match self.restart_of(n) {
            r if r == n => restarts += key.len(),
            r => followers += key.len() - common_prefix(self.key(r), key),
        }
        let span = self.greatest_version.max(version) - self.least_version.min(version);
        let keys = restarts - groups * prefix + followers;
        let values = self.values.len() + value.len();
        layout_len(n + 1, groups, self.shift, width_of(span), prefix, keys, values)
    }

    /// The length of the decoded block as it is.
    pub(crate) fn len(&self) -> usize {
        let n = self.entries.len();
        if n == 0 {
            return 0;
        }
        let groups = ((n - 1) >> self.shift) + 1;
        let keys = self.restart_bytes - groups * self.prefix_len + self.follower_bytes;
        let width = width_of(self.greatest_version - self.least_version);
        layout_len(n, groups, self.shift, width, self.prefix_len, keys, self.values.len())
    }

    fn restart_of(&self, i: usize) -> usize {
        i >> self.shift << self.shift
    }

    pub(crate) fn add(&mut self, key: &[u8], version: u64, value: &[u8]) {
        let n = self.entries.len();
        let common = if n == 0 {
            self.prefix_len = key.len();
            self.least_version = version;
            self.greatest_version = version;
            self.restart_bytes = key.len();
            key.len()
        } else {
            self.prefix_len = common_prefix(&self.keys[..self.prefix_len], key);
            self.least_version = self.least_version.min(version);
            self.greatest_version = self.greatest_version.max(version);
            match self.restart_of(n) {
                r if r == n => {
                    self.restart_bytes += key.len();
                    key.len()
                }
                r => {
                    let common = common_prefix(self.key(r), key);
                    self.follower_bytes += key.len() - common;
                    common
                }
            }
        };
        self.keys.extend_from_slice(key);
        self.values.extend_from_slice(value);
        let entry =
            Entry { key_end: self.keys.len(), value_end: self.values.len(), common, version };
        self.entries.push(entry);
    }

    /// Appends the block to `out`, compressed if that pays, with a checksum of zero, and without
    /// padding. The builder is empty afterwards. Returns the length of the decoded block.
    pub(crate) fn finish(&mut self, codec: Codec, out: &mut Vec<u8>) -> Result<usize> {
        let start = out.len();
        self.lay_out(out)?;
        let raw_len = out.len() - start;
        if codec != Codec::None {
            let raw = out.split_off(start);
            out.extend_from_slice(&raw[..BLOCK_HEADER_LEN]);
            match codec.compress(&raw[BLOCK_HEADER_LEN..], out)? {
                Some(id) => {
                    let payload = U32::new((out.len() - start - BLOCK_HEADER_LEN) as u32);
                    out[start + 5] = id;
                    out[start + 12..start + 16].copy_from_slice(payload.as_bytes());
                }
                None => out.extend_from_slice(&raw[BLOCK_HEADER_LEN..]),
            }
        }
        self.keys.clear();
        self.values.clear();
        self.entries.clear();
        self.restart_bytes = 0;
        self.follower_bytes = 0;
        Ok(raw_len)
    }

    fn lay_out(&self, out: &mut Vec<u8>) -> Result<()> {
        let (start, count, prefix) = (out.len(), self.entries.len(), self.prefix_len);
        let groups = ((count - 1) >> self.shift) + 1;
        let width = width_of(self.greatest_version - self.least_version);
        let key_len: usize = (0..count).map(|i| self.key(i).len() - prefix - self.shared(i)).sum();
        let wide = key_len > usize::from(u16::MAX) || self.values.len() > usize::from(u16::MAX);
        let stride = if wide { 8 } else { 4 } + usize::from(self.shift != 0) + width;
        let len =
            BLOCK_HEADER_LEN + groups * 8 + count * stride + prefix + key_len + self.values.len();
        let raw_len =
            u32::try_from(len).map_err(|_| Error::new(ErrorKind::TooLarge(len as u64)))?;
        out.reserve(len);
        let header = BlockHeader {
            checksum: U32::ZERO,
            magic: BLOCK_MAGIC,
            codec: Codec::None.id(),
            flags: if wide { BLOCK_WIDE } else { 0 } | (self.shift << BLOCK_SHIFT_BIT) as u8,
            version_width: width as u8,
            raw_len: U32::new(raw_len),
            payload_len: U32::new(raw_len - BLOCK_HEADER_LEN as u32),
            key_len: U32::new(key_len as u32),
            count: U16::new(count as u16),
            prefix_len: U16::new(prefix as u16),
            base_version: U64::new(self.least_version),
        };
        out.extend_from_slice(header.as_bytes());
        for i in (0..count).step_by(1 << self.shift) {
            out.extend_from_slice(&key_head(&self.key(i)[prefix..]).to_le_bytes());
        }
        let mut key_end = 0;
        for (i, entry) in self.entries.iter().enumerate() {
            let shared = self.shared(i);
            key_end += self.key(i).len() - prefix - shared;
            if wide {
                out.extend_from_slice(&(key_end as u32).to_le_bytes());
                out.extend_from_slice(&(entry.value_end as u32).to_le_bytes());
            } else {
                out.extend_from_slice(&(key_end as u16).to_le_bytes());
                out.extend_from_slice(&(entry.value_end as u16).to_le_bytes());
            }
            if self.shift != 0 {
                out.push(shared as u8);
            }
            let delta = (entry.version - self.least_version).to_le_bytes();
            out.extend_from_slice(&delta[..width]);
        }
        out.extend_from_slice(&self.keys[..prefix]);
        for i in 0..count {
            out.extend_from_slice(&self.key(i)[prefix + self.shared(i)..]);
        }
        out.extend_from_slice(&self.values);
        debug_assert_eq!(out.len() - start, len);
        Ok(())
    }

    /// Bytes behind the block's prefix that entry `i` takes from its restart.
    fn shared(&self, i: usize) -> usize {
        if i == self.restart_of(i) {
            return 0;
        }
        (self.entries[i].common - self.prefix_len).min(255)
    }
}

fn layout_len(
    count: usize,
    groups: usize,
    shift: u32,
    width: usize,
    prefix: usize,
    keys: usize,
    values: usize,
) -> usize {
    let wide = keys > usize::from(u16::MAX) || values > usize::from(u16::MAX);
    let stride = if wide { 8 } else { 4 } + usize::from(shift != 0) + width;
    BLOCK_HEADER_LEN + groups * 8 + count * stride + prefix + keys + values
}
