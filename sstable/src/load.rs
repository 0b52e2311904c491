//! Getting at blocks: in place, from the cache, or from the source.

use std::ops::Range;
use std::sync::atomic::Ordering;

use kvdb_vfs::Region;

use crate::block;
use crate::hit::BlockRef;
use crate::index::Index;
use crate::prefetch::prefetch;
use crate::{Codec, Error, ErrorKind, Part, Result, Source, Table};

/// Bytes at the front of a block that are asked for at once, as soon as it is known which block: in
/// a block of common entries these are the header, the heads, the slots and the keys. Otherwise each
/// would be a miss that waits for the one before.
const SEARCHED: usize = 896;

/// A piece of the file that a long walk has read at once.
#[derive(Debug, Default)]
pub(crate) struct Ahead {
    /// How much to read at once; 0: blocks are read one by one.
    len: usize,
    start: u64,
    piece: Option<Region>,
}

impl Ahead {
    pub(crate) fn new(len: usize) -> Self {
        Ahead { len, ..Ahead::default() }
    }
}

impl<S: Source> Table<S> {
    /// A block, verified at its first use, decompressed if need be; and its offset.
    #[inline]
    pub(crate) fn block(&self, index: &Index<'_>, block: usize) -> Result<(u64, BlockRef<'_>)> {
        let range = index.block_range(block).map_err(|e| self.locate_in_index(e))?;
        let offset = range.start;
        if self.codec == Codec::None
            && let Some(bytes) = self.source.bytes()
        {
            let stored = self.in_place(bytes, &range)?;
            prefetch(stored, SEARCHED);
            if !self.is_verified(block) {
                self.verify_block(stored, offset)?;
                self.set_verified(block);
            }
            return Ok((offset, BlockRef::in_place(stored, offset, self.source.region())));
        }
        Ok((offset, self.load_block(range)?))
    }

    /// Asks for the parts of a block that a walk will read first, if it is in memory.
    #[inline]
    pub(crate) fn prefetch_block(&self, index: &Index<'_>, block: usize) {
        if self.codec == Codec::None
            && block < index.blocks()
            && let Some(bytes) = self.source.bytes()
            && let Ok(range) = index.block_range(block)
            && let Some(stored) = bytes.get(range.start as usize..range.end as usize)
        {
            prefetch(stored, SEARCHED);
        }
    }

    pub(crate) fn in_place<'b>(&self, bytes: &'b [u8], range: &Range<u64>) -> Result<&'b [u8]> {
        // Blocks lie within the data and the data within the file, so this fits if it is there.
        bytes
            .get(range.start as usize..range.end as usize)
            .ok_or_else(|| self.locate(Error::new(ErrorKind::Truncated(Part::Block)), range.start))
    }

    /// Whether a block's checksum has been compared already, or is not to be.
    #[inline]
    fn is_verified(&self, block: usize) -> bool {
        // Relaxed: the bit tells about bytes that never change.
        !self.verify_checksums
            || self
                .verified(block / 64)
                .is_some_and(|bits| bits.load(Ordering::Relaxed) >> (block % 64) & 1 == 1)
    }

    fn set_verified(&self, block: usize) {
        if let Some(bits) = self.verified(block / 64) {
            bits.fetch_or(1 << (block % 64), Ordering::Relaxed);
        }
    }

    /// Compares the checksum of a stored block, and checks that it is one that is read in place.
    #[cold]
    fn verify_block(&self, stored: &[u8], offset: u64) -> Result<()> {
        self.check_block(stored, offset, self.verify_checksums).map_err(|e| self.locate(e, offset))
    }

    pub(crate) fn check_block(&self, stored: &[u8], offset: u64, checksum: bool) -> Result<()> {
        let sealed = stored.first_chunk().map_or(0, |b| u32::from_le_bytes(*b));
        if checksum && !self.salt.matches(sealed, block::crc(stored), offset, 0) {
            return Err(Error::new(ErrorKind::ChecksumMismatch(Part::Block)));
        }
        let header = block::header(stored)?;
        if self.codec == Codec::None && header.codec != Codec::None.id() {
            return Err(Error::corrupt(Part::Block, "compressed in an uncompressed table"));
        }
        Ok(())
    }

    /// A block that cannot be used in place: from the cache, or read, verified and decompressed.
    fn load_block(&self, range: Range<u64>) -> Result<BlockRef<'_>> {
        let offset = range.start;
        if let Some(cache) = &self.cache
            && let Some(block) = cache.get(self.cache_handle, offset)
        {
            return Ok(BlockRef::Pinned(block));
        }
        let block = match self.source.bytes() {
            Some(bytes) => {
                let stored = self.in_place(bytes, &range)?;
                self.verify_block(stored, offset)?;
                self.decode(stored).map_err(|e| self.locate(e, offset))?
            }
            None => self.decode_region(self.read(range)?, offset)?,
        };
        if let Some(cache) = &self.cache {
            cache.insert(self.cache_handle, offset, block.clone());
        }
        Ok(BlockRef::Pinned(block))
    }

    /// As [`Table::block`] for one of a long walk: what has to be read is read in large pieces, and
    /// the cache is left to others.
    pub(crate) fn block_ahead(
        &self,
        index: &Index<'_>,
        block: usize,
        ahead: &mut Ahead,
    ) -> Result<(u64, BlockRef<'_>)> {
        if ahead.len == 0 || self.source.bytes().is_some() {
            return self.block(index, block);
        }
        let range = index.block_range(block).map_err(|e| self.locate_in_index(e))?;
        let within = |start: u64, piece: &Region| {
            let from = usize::try_from(range.start.checked_sub(start)?).ok()?;
            piece.subregion(from..from.checked_add((range.end - range.start) as usize)?)
        };
        let (offset, backward) = (range.start, ahead.start > range.start);
        let held = ahead.piece.as_ref().and_then(|piece| within(ahead.start, piece));
        let stored = match held {
            Some(stored) => stored,
            None => {
                ahead.piece = None;
                let len = ahead.len as u64;
                let wanted = if backward {
                    range.end.saturating_sub(len).min(range.start)..range.end
                } else {
                    range.start..range.start.saturating_add(len).min(self.data_len).max(range.end)
                };
                ahead.start = wanted.start;
                let piece = ahead.piece.insert(self.read(wanted)?);
                within(ahead.start, piece).ok_or_else(|| {
                    self.locate(Error::new(ErrorKind::Truncated(Part::Block)), offset)
                })?
            }
        };
        Ok((offset, BlockRef::Pinned(self.decode_region(stored, offset)?)))
    }

    /// A range of the file, which lies within the data.
    pub(crate) fn read(&self, range: Range<u64>) -> Result<Region> {
        let len = usize::try_from(range.end - range.start)
            .map_err(|_| Error::new(ErrorKind::TooLarge(range.end - range.start)))?;
        let mut bytes = vec![0; len];
        self.source.read_exact_at(&mut bytes, range.start)?;
        Ok(Region::from_vec(bytes))
    }

    /// A stored block in memory of its own, verified, and decompressed if need be.
    fn decode_region(&self, stored: Region, offset: u64) -> Result<Region> {
        self.verify_block(&stored, offset)?;
        if block::header(&stored).is_ok_and(|header| header.codec == Codec::None.id()) {
            return Ok(stored);
        }
        self.decode(&stored).map_err(|e| self.locate(e, offset))
    }

    pub(crate) fn decode(&self, stored: &[u8]) -> Result<Region> {
        if block::header(stored)?.codec == Codec::None.id() {
            return Ok(Region::from_vec(stored.to_vec()));
        }
        Ok(Region::from_vec(block::decompress(stored)?))
    }
}
