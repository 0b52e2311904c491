//! Getting at blocks: in place, from the cache, or from the source.

use std::ops::Range;
use std::sync::atomic::Ordering;

use kvdb_vfs::Region;

use crate::block;
use crate::hit::BlockRef;
use crate::index::Index;
use crate::prefetch::prefetch;
use crate::table::zeroed;
use crate::{Codec, Error, ErrorKind, Part, Result, Source, Table};

/// Bytes at the front of a block that are asked for at once, as soon as it is known which block: in
/// a block of common entries these are the header, the heads, the slots and the keys. Otherwise each
/// would be a miss that waits for the one before.
const SEARCHED: usize = 896;

/// What is read at once for a long walk, or asked of the system.
#[derive(Debug, Default)]
pub(crate) struct Ahead {
    /// How much to read at once; 0: blocks are read one by one.
    len: usize,
    start: u64,
    piece: Option<Region>,
    /// The block that was needed last, and the walk of which it is part.
    block: usize,
    walk: Walk,
}

impl Ahead {
    pub(crate) fn new(len: usize) -> Self {
        Ahead { len, ..Ahead::default() }
    }
}

/// How far ahead of a walk through a map the system is told of what it will read: so far when it
/// has gone on from block to block a few times, twice as far each time, up to that. No further, since
/// whoever reads large values that the entries point to may need so much memory for them that what
/// was read far ahead is gone before the walk comes to it.
const FIRST_TOLD: u64 = 16 << 10;
const MOST_TOLD: u64 = 128 << 10;
const STEPS_TO_TELL: u32 = 2;

/// A walk through a map that is advised for random access, and what the system was told of it.
#[derive(Debug, Default)]
struct Walk {
    /// Steps from a block to its neighbour without another in between, and in which direction.
    steps: u32,
    backward: bool,
    /// How far was told last, and up to where.
    reach: u64,
    told: u64,
}

impl Walk {
    /// Steps from a block to the next or the one before, which has this range. What to tell.
    fn step(&mut self, block: &Range<u64>, backward: bool, data: u64) -> Option<Range<u64>> {
        if self.backward != backward || self.steps == 0 {
            *self = Walk { backward, ..Walk::default() };
        }
        self.steps = self.steps.saturating_add(1);
        let left = match backward {
            _ if self.reach == 0 => 0,
            false => self.told.saturating_sub(block.end),
            true => block.start.saturating_sub(self.told),
        };
        if self.steps < STEPS_TO_TELL || left > self.reach / 2 {
            return None;
        }
        self.reach = (self.reach * 2).clamp(FIRST_TOLD, MOST_TOLD);
        let tell = match backward {
            false => block.end + left..block.end.saturating_add(self.reach).min(data),
            true => block.start.saturating_sub(self.reach)..block.start - left,
        };
        self.told = if backward { tell.start } else { tell.end };
        (!tell.is_empty()).then_some(tell)
    }

    /// Goes elsewhere.
    fn jump(&mut self) {
        self.steps = 0;
    }
}

impl<S: Source> Table<S> {
    /// A walk through a map has come to this block. If it came from next door it most likely goes on.
    #[inline(never)]
    fn tell_ahead(&self, index: &Index<'_>, block: usize, ahead: &mut Ahead) {
        let from = std::mem::replace(&mut ahead.block, block);
        let backward = block.wrapping_add(1) == from;
        if !backward && block != from.wrapping_add(1) {
            ahead.walk.jump();
        } else if let Ok(range) = index.block_range(block)
            && let Some(tell) = ahead.walk.step(&range, backward, self.data_len)
        {
            self.source.will_need(tell);
        }
    }

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
        if self.source.bytes().is_some() {
            self.tell_ahead(index, block, ahead);
            return self.block(index, block);
        }
        if ahead.len == 0 {
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
        let read = || {
            let mut bytes = zeroed(range.end - range.start)?;
            self.source.read_exact_at(&mut bytes, range.start)?;
            Ok(Region::from_vec(bytes))
        };
        read().map_err(|e| self.locate(e, range.start))
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

#[cfg(test)]
mod tests {
    use super::*;

    const BLOCK: u64 = 4096;
    const DATA: u64 = 1 << 20;

    /// Walks over blocks by number and checks that each was told before it comes to it.
    fn told(blocks: impl Iterator<Item = u64>, backward: bool) -> Vec<Range<u64>> {
        let (mut walk, mut told) = (Walk::default(), Vec::<Range<u64>>::new());
        for (steps, at) in blocks.enumerate() {
            let range = at * BLOCK..(at + 1) * BLOCK;
            let known = told.iter().any(|t| t.start <= range.start && range.end <= t.end);
            assert_eq!(known, steps >= 2, "{at}");
            told.extend(walk.step(&range, backward, DATA));
        }
        told
    }

    #[test]
    fn a_walk_is_told_of_each_byte_once_and_never_far_ahead() {
        for backward in [false, true] {
            let last = DATA / BLOCK - 1;
            let told = told((0..=last).map(|i| if backward { last - i } else { i }), backward);
            let bytes: u64 = told.iter().map(|t| t.end - t.start).sum();
            assert_eq!(bytes, DATA - 2 * BLOCK, "all but what was read before it was a walk");
            assert!(told.iter().all(|t| t.end - t.start <= MOST_TOLD));
            assert!(told.len() > 1 && told[0].end - told[0].start == FIRST_TOLD);
            assert!(told.len() as u64 <= 4 + DATA / (MOST_TOLD / 2), "in few pieces: {told:?}");
        }
    }

    /// Bytes in memory that note what is said to be needed of them.
    struct Noting(Vec<u8>, std::sync::Mutex<Vec<Range<u64>>>);

    impl Source for Noting {
        fn len(&self) -> Result<u64> {
            Ok(self.0.len() as u64)
        }
        fn bytes(&self) -> Option<&[u8]> {
            Some(&self.0)
        }
        fn will_need(&self, range: Range<u64>) {
            self.1.lock().unwrap().push(range);
        }
    }

    #[test]
    fn a_cursor_that_walks_tells_its_source_and_a_get_does_not() {
        use crate::{Builder, BuilderOptions, Cursor as _, ReaderOptions, key_hash};
        let mut builder = Builder::new(Vec::new(), BuilderOptions::default()).unwrap();
        for i in 0..4000u32 {
            builder.add(&i.to_be_bytes(), 1, &[7; 100]).unwrap();
        }
        let source = Noting(builder.finish().unwrap().0, Default::default());
        let table = Table::open(source, ReaderOptions::default()).unwrap();
        for i in (0..4000u32).step_by(37) {
            let key = i.to_be_bytes();
            assert!(table.get(&key, u64::MAX, key_hash(&key)).unwrap().is_some());
        }
        let told = || std::mem::take(&mut *table.source().1.lock().unwrap());
        assert!(told().is_empty());
        let mut cursor = table.cursor();
        let mut on = cursor.first().unwrap();
        while on {
            on = cursor.next().unwrap();
        }
        let bytes: u64 = told().iter().map(|t| t.end - t.start).sum();
        assert!(bytes > 390_000 && bytes < table.data_len, "{bytes}");
    }

    #[test]
    fn a_block_is_checksummed_at_its_first_use_and_not_again() {
        use crate::{Builder, BuilderOptions, Cursor as _, ReaderOptions, key_hash};
        let mut builder = Builder::new(Vec::new(), BuilderOptions::default()).unwrap();
        for i in 0..4000u32 {
            builder.add(&i.to_be_bytes(), 1, &[7; 100]).unwrap();
        }
        let table = Table::open(builder.finish().unwrap().0, ReaderOptions::default()).unwrap();
        let blocks = table.index().unwrap().blocks();
        let verified = || (0..blocks).filter(|&block| table.is_verified(block)).collect::<Vec<_>>();
        assert!(blocks > 64 && verified().is_empty());
        let (key, behind) = (3000u32.to_be_bytes(), 3001u32.to_be_bytes());
        assert!(table.get(&key, 1, key_hash(&key)).unwrap().is_some());
        let block = table.index().unwrap().find(&key, 1).unwrap();
        assert_eq!(verified(), [block]);
        assert!(table.get(&behind, 1, key_hash(&behind)).unwrap().is_some());
        assert_eq!(verified(), [block], "it is the same block");
        assert!(table.cursor().last().unwrap());
        assert_eq!(verified(), [block, blocks - 1]);
    }

    #[test]
    fn who_jumps_or_turns_is_no_walk() {
        let mut walk = Walk::default();
        let block = |at: u64| at * BLOCK..(at + 1) * BLOCK;
        for at in [3, 90, 40, 7] {
            assert_eq!(walk.step(&block(at), false, DATA), None);
            walk.jump();
        }
        for at in [10, 9, 10, 9, 10] {
            assert_eq!(walk.step(&block(at), at == 9, DATA), None);
        }
        assert_eq!(walk.step(&block(11), false, DATA), Some(block(12).start..block(15).end));
    }
}
