//! Writing a direct segment: whole blocks, the last one again and again.
//!
//! Frames end anywhere, direct writes end with a block. So the bytes between the beginning of the
//! last block and the end of the log are kept, and each write begins with them. Behind its last
//! byte a write is filled up with zeros, which the next one replaces.
//!
//! Writing the acknowledged bytes of a block once more does them no harm: they are the same, and
//! of a write that is interrupted each sector is old or new.

use kvdb_vfs::{AlignedBuffer, BLOCK, WriteMode};

use crate::Result;
use crate::segment::Segment;

/// The longest write, in bytes.
const PIECE: usize = 1 << 20;
/// As many bytes of frames are one write, wherever they begin.
pub(super) const ONE_WRITE: usize = PIECE - BLOCK;

/// The bytes of the last block.
#[derive(Default)]
pub(super) struct Blocks {
    /// Segment and offset behind the bytes in `buffer`; `None` if those are not known.
    at: Option<(u32, u32)>,
    /// From the beginning of a block on.
    buffer: AlignedBuffer,
}

impl Blocks {
    /// Writes `parts`, one behind the other, at `offset`: up to [`ONE_WRITE`] bytes in one go,
    /// more in several.
    pub(super) fn write<'a>(
        &mut self,
        segment: &Segment,
        offset: u32,
        parts: impl Iterator<Item = &'a [u8]>,
        mode: WriteMode,
    ) -> Result<()> {
        let mut start = offset / BLOCK as u32 * BLOCK as u32;
        if self.at.take() != Some((segment.id(), offset)) {
            // The first write since the log was opened, or behind a footer that is written again.
            self.buffer.clear();
            self.buffer.resize((offset - start) as usize);
            segment.data.file.read_exact_at(&mut self.buffer, start.into())?;
        }
        for mut part in parts {
            while !part.is_empty() {
                let (now, rest) = part.split_at(part.len().min(PIECE - self.buffer.len()));
                self.buffer.extend_from_slice(now);
                part = rest;
                if self.buffer.len() == PIECE {
                    segment.write(&self.buffer, start, mode)?;
                    start += PIECE as u32;
                    self.buffer.clear();
                }
            }
        }
        let len = self.buffer.len();
        if len > 0 {
            self.buffer.pad_to_block();
            segment.write(&self.buffer, start, mode)?;
            self.buffer.resize(len);
            self.buffer.keep_from(len / BLOCK * BLOCK);
        }
        self.at = Some((segment.id(), start + len as u32));
        Ok(())
    }
}
