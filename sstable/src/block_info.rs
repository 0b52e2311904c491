//! [`BlockInfo`]: the blocks of a table as blocks, for those who look at a file.

use std::ops::Range;

use crate::block::{Layout, header};
use crate::hit::BlockRef;
use crate::key_buffer::KeyBuffer;
use crate::{Codec, Result, Source, Table};

/// What one block holds and takes.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct BlockInfo {
    /// Where the stored block is in the file, padding included.
    pub range: Range<u64>,
    /// Its own codec: a block that does not shrink is stored uncompressed. A level is not recorded.
    pub codec: Codec,
    /// Length of the decoded block in bytes, header included, padding not.
    pub decoded_len: u64,
    /// Number of entries.
    pub entries: usize,
    /// The first key.
    pub first_key: Vec<u8>,
    /// The version of the first entry.
    pub first_version: u64,
}

impl<S: Source> Table<S> {
    /// The blocks in order, each read and checked when the iterator comes to it. A block that is
    /// damaged is an error in its place, and the blocks behind it follow.
    ///
    /// # Errors
    /// Damage of the index, here; that of a block, by its item.
    pub fn blocks(&self) -> Result<impl Iterator<Item = Result<BlockInfo>> + '_> {
        let index = self.index()?;
        Ok((0..index.blocks()).map(move |number| {
            let range = index.block_range(number).map_err(|e| self.locate_in_index(e))?;
            let offset = range.start;
            let stored = self.stored_block(&range)?;
            let describe = || {
                self.check_block(stored.bytes(), offset, self.verify_checksums)?;
                let codec = Codec::from_id(header(stored.bytes())?.codec)?;
                let decoded = self.decode(stored.bytes())?;
                let layout = Layout::parse(&decoded)?;
                let slot = layout.slot(&decoded, 0)?;
                let mut first_key = KeyBuffer::default();
                layout.read_key(&decoded, 0, &slot, None, &mut first_key)?;
                Ok(BlockInfo {
                    range,
                    codec,
                    decoded_len: layout.raw_len() as u64,
                    entries: layout.count,
                    first_key: first_key.to_vec(),
                    first_version: slot.version,
                })
            };
            describe().map_err(|e| self.locate(e, offset))
        }))
    }

    /// A block as it is stored, unchecked: in place, or read past the cache.
    pub(crate) fn stored_block(&self, range: &Range<u64>) -> Result<BlockRef<'_>> {
        Ok(match self.source.bytes() {
            Some(bytes) => BlockRef::in_place(self.in_place(bytes, range)?, range.start, None),
            None => BlockRef::Pinned(self.read(range.clone())?),
        })
    }
}
