//! The index: which block may hold a pair, by a flat array of separators that is used in place.

use std::cmp::Ordering;
use std::ops::Range;

use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, IntoBytes};

use crate::block::common_prefix;
use crate::cursor::{compare, key_head};
use crate::format::{INDEX_HEADER_LEN, INDEX_VERSIONS, IndexHeader};
use crate::heads::{FANOUT, Samples, partition_point};
use crate::prefetch::prefetch;
use crate::{Error, ErrorKind, Part, Result};

/// Collects the separators of a table. Memory: about 20 bytes and a separator per block.
#[derive(Debug, Default)]
pub(crate) struct IndexBuilder {
    offsets: Vec<u64>,
    separators: Vec<u8>,
    ends: Vec<usize>,
    versions: Vec<u64>,
}

impl IndexBuilder {
    /// The first block: no separator.
    pub(crate) fn first_block(&mut self, offset: u64) {
        self.offsets.push(offset);
    }

    /// A further block, at `offset`, between an entry `before` and its own first entry `(key, _)`.
    ///
    /// The separator is the least-effort pair that is behind the one and not behind the other: the
    /// shortest such prefix of the key, or if the keys are the same, the key with the version that
    /// follows `before`'s.
    pub(crate) fn block(&mut self, offset: u64, before: (&[u8], u64), key: &[u8]) {
        if before.0 == key {
            self.separators.extend_from_slice(key);
            // Versions descend, so there is one below.
            self.versions.push(before.1.saturating_sub(1));
        } else {
            let len = common_prefix(before.0, key) + 1;
            self.separators.extend_from_slice(&key[..len.min(key.len())]);
            self.versions.push(u64::MAX);
        }
        self.ends.push(self.separators.len());
        self.offsets.push(offset);
    }

    /// Bytes the section will take, about.
    pub(crate) fn estimated_len(&self) -> usize {
        INDEX_HEADER_LEN + self.offsets.len() * 20 + self.separators.len()
    }

    pub(crate) fn blocks(&self) -> usize {
        self.offsets.len()
    }

    fn separator(&self, i: usize) -> &[u8] {
        let start = if i == 0 { 0 } else { self.ends[i - 1] };
        &self.separators[start..self.ends[i]]
    }

    /// Appends the section to `out`; the blocks end at `data_len`.
    pub(crate) fn finish(&self, data_len: u64, out: &mut Vec<u8>) -> Result<()> {
        let n = self.ends.len();
        let prefix = match n {
            0 => 0,
            _ => common_prefix(self.separator(0), self.separator(n - 1)),
        };
        let total = self.separators.len() - n * prefix;
        let too_large = |len: usize| Error::new(ErrorKind::TooLarge(len as u64));
        let has_versions = self.versions.iter().any(|&v| v != u64::MAX);
        let header = IndexHeader {
            blocks: U32::new(u32::try_from(self.offsets.len()).map_err(|_| too_large(n))?),
            prefix_len: U32::new(prefix as u32),
            separator_len: U32::new(u32::try_from(total).map_err(|_| too_large(total))?),
            flags: U32::new(if has_versions { INDEX_VERSIONS } else { 0 }),
        };
        out.extend_from_slice(header.as_bytes());
        for i in 0..n {
            out.extend_from_slice(&key_head(&self.separator(i)[prefix..]).to_le_bytes());
        }
        for offset in self.offsets.iter().chain([&data_len]) {
            out.extend_from_slice(&offset.to_le_bytes());
        }
        if has_versions {
            for version in &self.versions {
                out.extend_from_slice(&version.to_le_bytes());
            }
        }
        let mut end = 0;
        for i in 0..n {
            end += self.separator(i).len() - prefix;
            out.extend_from_slice(&(end as u32).to_le_bytes());
        }
        if n > 0 {
            out.extend_from_slice(&self.separator(0)[..prefix]);
        }
        for i in 0..n {
            out.extend_from_slice(&self.separator(i)[prefix..]);
        }
        Ok(())
    }
}

/// Where the columns of an index are in its section; all checked to lie within it.
#[derive(Debug)]
pub(crate) struct IndexLayout {
    pub(crate) blocks: usize,
    offsets: usize,
    versions: Option<usize>,
    ends: usize,
    prefix: usize,
    separators: usize,
    end: usize,
    data_len: u64,
    samples: Samples,
}

#[cold]
fn corrupt(what: &'static str) -> Error {
    Error::corrupt(Part::Index, what)
}

impl IndexLayout {
    pub(crate) fn parse(section: &[u8], data_len: u64) -> Result<IndexLayout> {
        let (header, _) = IndexHeader::ref_from_prefix(section)
            .map_err(|_| corrupt("shorter than its header"))?;
        let flags = header.flags.get();
        if flags & !INDEX_VERSIONS != 0 {
            return Err(Error::new(ErrorKind::UnsupportedFeature("a flag of the index")));
        }
        let blocks = u64::from(header.blocks.get());
        let n = blocks.saturating_sub(1);
        let offsets = INDEX_HEADER_LEN as u64 + n * 8;
        let versions = offsets + (blocks + 1) * 8;
        let ends = versions + if flags == 0 { 0 } else { n * 8 };
        let prefix = ends + n * 4;
        let separators = prefix + u64::from(header.prefix_len.get());
        let end = separators + u64::from(header.separator_len.get());
        if end > section.len() as u64 {
            return Err(corrupt("columns leave the section"));
        }
        if blocks == 0 && data_len != 0 || blocks != 0 && data_len == 0 {
            return Err(corrupt("blocks and their bytes do not agree"));
        }
        let mut layout = IndexLayout {
            blocks: blocks as usize,
            offsets: offsets as usize,
            versions: (flags != 0).then_some(versions as usize),
            ends: ends as usize,
            prefix: prefix as usize,
            separators: separators as usize,
            end: end as usize,
            data_len,
            samples: Samples::new(&[]),
        };
        let view = layout.view(section);
        if view.offset(0)? != 0 || view.offset(layout.blocks)? != data_len {
            return Err(corrupt("blocks do not fill the data"));
        }
        layout.samples = Samples::new(view.heads());
        Ok(layout)
    }

    /// The index over the section it was parsed from.
    #[inline]
    pub(crate) fn view<'s>(&'s self, section: &'s [u8]) -> Index<'s> {
        Index { layout: self, section }
    }

    /// How many bytes of the section are used; the rest is padding.
    pub(crate) fn used(&self) -> usize {
        self.end
    }
}

/// An index in place.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Index<'s> {
    layout: &'s IndexLayout,
    section: &'s [u8],
}

impl<'s> Index<'s> {
    #[inline]
    pub(crate) fn blocks(&self) -> usize {
        self.layout.blocks
    }

    #[inline]
    fn heads(&self) -> &'s [U64] {
        self.section
            .get(INDEX_HEADER_LEN..self.layout.offsets)
            .and_then(|bytes| <[U64]>::ref_from_bytes(bytes).ok())
            .unwrap_or_default()
    }

    #[inline]
    fn u64_at(&self, at: usize) -> Result<u64> {
        let bytes = self.section.get(at..).and_then(|rest| rest.first_chunk::<8>());
        bytes.map(|b| u64::from_le_bytes(*b)).ok_or_else(|| corrupt("a column leaves the section"))
    }

    #[inline]
    fn offset(&self, block: usize) -> Result<u64> {
        self.u64_at(self.layout.offsets + block * 8)
    }

    /// The bytes of a block in the file. Within the data, and not empty.
    #[inline]
    pub(crate) fn block_range(&self, block: usize) -> Result<Range<u64>> {
        let (start, end) = (self.offset(block)?, self.offset(block + 1)?);
        if start >= end || end > self.layout.data_len {
            return Err(corrupt("offsets of blocks do not ascend"));
        }
        Ok(start..end)
    }

    /// What all separators begin with.
    pub(crate) fn prefix(&self) -> &'s [u8] {
        self.section.get(self.layout.prefix..self.layout.separators).unwrap_or_default()
    }

    /// Separator `i` without the prefix, and its version: it stands between blocks `i` and `i + 1`.
    #[inline]
    pub(crate) fn separator(&self, i: usize) -> Result<(&'s [u8], u64)> {
        let end_at = |i: usize| {
            let at = self.layout.ends + i * 4;
            let bytes = self.section.get(at..).and_then(|rest| rest.first_chunk::<4>());
            bytes.map(|b| u32::from_le_bytes(*b) as usize)
        };
        let start = if i == 0 { Some(0) } else { end_at(i - 1) };
        let suffix = start
            .zip(end_at(i))
            .and_then(|(start, end)| {
                self.section.get(self.layout.separators..self.layout.end)?.get(start..end)
            })
            .ok_or_else(|| corrupt("a separator leaves its region"))?;
        let version = match self.layout.versions {
            None => u64::MAX,
            Some(at) => self.u64_at(at + i * 8)?,
        };
        Ok((suffix, version))
    }

    /// The block that holds `(key, version)` if any block does: the last one whose separator is at or
    /// before the pair. Blocks ahead of it hold only lesser pairs, blocks behind it only greater ones.
    /// There must be a block.
    #[inline]
    pub(crate) fn find(&self, key: &[u8], version: u64) -> Result<usize> {
        let prefix = self.prefix();
        let Some(target) = key.strip_prefix(prefix) else {
            return Ok(if key < prefix { 0 } else { self.blocks().saturating_sub(1) });
        };
        let (head, heads) = (key_head(target), self.heads());
        let lo = self.layout.samples.lower_bound(heads, head, |near| {
            // The block's offset is needed next, from a column of its own.
            let column = self.section.get(self.layout.offsets + near * 8..);
            prefetch(column.unwrap_or_default(), (FANOUT + 1) * 8);
        });
        if heads.get(lo).is_none_or(|h| h.get() != head) {
            return Ok(lo);
        }
        let (mut a, mut b) = (lo, lo + partition_point(&heads[lo..], |h| h == head));
        while a < b {
            let mid = (a + b) / 2;
            if compare(self.separator(mid)?, (target, version)) == Ordering::Greater {
                b = mid;
            } else {
                a = mid + 1;
            }
        }
        Ok(a)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DATA: u64 = 12_288;

    /// Of three blocks, two of which have versions of one key.
    fn section() -> Vec<u8> {
        let mut builder = IndexBuilder::default();
        builder.first_block(0);
        builder.block(4096, (b"key a", 9), b"key c");
        builder.block(8192, (b"key d", 5), b"key d");
        let mut section = Vec::new();
        builder.finish(DATA, &mut section).unwrap();
        section
    }

    /// Where the columns of [`section`] are.
    const OFFSETS: usize = INDEX_HEADER_LEN + 2 * 8;
    const ENDS: usize = OFFSETS + 4 * 8 + 2 * 8;

    #[test]
    fn a_separator_is_behind_one_block_and_not_behind_the_next() {
        let section = section();
        let layout = IndexLayout::parse(&section, DATA).unwrap();
        let index = layout.view(&section);
        assert_eq!(index.prefix(), b"key ");
        assert_eq!(index.separator(0).unwrap(), (&b"c"[..], u64::MAX));
        assert_eq!(index.separator(1).unwrap(), (&b"d"[..], 4));
        for (key, version, block) in [
            (&b"key a"[..], 9, 0),
            (b"key b", 0, 0),
            (b"key c", u64::MAX, 1),
            (b"key d", 5, 1),
            (b"key d", 4, 2),
            (b"key d", 0, 2),
            (b"j", 0, 0),
            (b"key", 0, 0),
            (b"kez", u64::MAX, 2),
        ] {
            assert_eq!(index.find(key, version).unwrap(), block, "{key:?} {version}");
        }
    }

    #[test]
    fn an_index_that_contradicts_itself_is_refused() {
        let refused = |data_len, change: &dyn Fn(&mut Vec<u8>)| {
            let mut section = section();
            change(&mut section);
            let used = IndexLayout::parse(&section, data_len).and_then(|layout| {
                let index = layout.view(&section);
                index.separator(1)?;
                (0..index.blocks()).try_for_each(|block| index.block_range(block).map(drop))
            });
            match used.unwrap_err().kind() {
                ErrorKind::Corrupt { part: Part::Index, what } => what,
                other => panic!("{other:?}"),
            }
        };
        let put = |at: usize, value: u64| {
            move |section: &mut Vec<u8>| section[at..at + 8].copy_from_slice(&value.to_le_bytes())
        };
        assert_eq!(refused(DATA, &|s| s.truncate(15)), "shorter than its header");
        assert_eq!(refused(DATA, &|s| s[8] += 1), "columns leave the section");
        let mut flagged = section();
        flagged[12] |= 2;
        let kind = IndexLayout::parse(&flagged, DATA).unwrap_err().kind();
        assert_eq!(kind, ErrorKind::UnsupportedFeature("a flag of the index"));
        assert_eq!(refused(DATA, &|s| s[4] = 200), "columns leave the section");
        assert_eq!(refused(DATA, &|s| s[0] = 0), "blocks and their bytes do not agree");
        assert_eq!(refused(0, &|_| ()), "blocks and their bytes do not agree");
        assert_eq!(refused(DATA + 1, &|_| ()), "blocks do not fill the data");
        assert_eq!(refused(DATA, &put(OFFSETS, 1)), "blocks do not fill the data");
        for offset in [0, 8192, DATA + 1, u64::MAX] {
            let change = put(OFFSETS + 8, offset);
            assert_eq!(refused(DATA, &change), "offsets of blocks do not ascend", "{offset}");
        }
        let mut forged = section();
        put(OFFSETS + 8, DATA + 1)(&mut forged);
        let layout = IndexLayout::parse(&forged, DATA).unwrap();
        assert!(layout.view(&forged).block_range(0).is_err(), "it would read the filter");
        assert_eq!(refused(DATA, &|s| s[ENDS] = 3), "a separator leaves its region");
        assert_eq!(refused(DATA, &|s| s[ENDS + 4] = 3), "a separator leaves its region");
    }
}
