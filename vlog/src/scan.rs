//! Looking behind the end of the log for durable-to marks.
//!
//! A frame that does not verify ends the replay. Whether what is missing was known to be durable
//! is told only by a later frame's mark, so everything behind the stop is searched for headers
//! that verify, at every eighth byte; nothing else of those frames is looked at.

use zerocopy::FromBytes;
use zerocopy::little_endian::U32;

use crate::format::{FRAME_HEADER, FrameHeader};
use crate::segment::Segment;
use crate::{Position, Result};

const CHUNK: usize = 1 << 20;

/// What lies behind the end.
#[derive(Debug, Default)]
pub(crate) struct Found {
    /// The furthest mark in any valid frame header; `None` if there is no such header.
    pub(crate) mark: Option<Position>,
    /// Behind the last byte that is not zero.
    pub(crate) nonzero_to: u32,
}

/// Searches `segment` in `from..to`. With `zeros`, the search ends after that many bytes if they are all zero: a
/// footer is followed by zeros unless the log was appended to after it.
pub(crate) fn search_marks(
    segment: &Segment,
    from: u32,
    to: u32,
    zeros: Option<u32>,
) -> Result<Found> {
    let mut found = Found { mark: None, nonzero_to: from };
    let mut chunk = vec![0; CHUNK.min((to.saturating_sub(from)) as usize)];
    let mut at = from;
    let mut only_zeros = true;
    while at < to {
        let n = chunk.len().min((to - at) as usize);
        let n = segment.data.file.read_at(&mut chunk[..n], at.into())?;
        if n < FRAME_HEADER {
            break;
        }
        let bytes = &chunk[..n];
        if let Some(last) = last_nonzero(bytes) {
            only_zeros = false;
            found.nonzero_to = at + last as u32 + 1;
            found.mark = found.mark.max(search(bytes, segment, at));
        } else if only_zeros && zeros.is_some_and(|zeros| at - from + n as u32 >= zeros) {
            break;
        }
        if n < chunk.len() || at + n as u32 >= to {
            break;
        }
        // Headers on the seam are in both chunks.
        at += (n - FRAME_HEADER + 8) as u32 / 8 * 8;
    }
    Ok(found)
}

fn search(bytes: &[u8], segment: &Segment, base: u32) -> Option<Position> {
    let mut furthest = None;
    let capacity = segment.capacity();
    for at in (0..bytes.len().saturating_sub(FRAME_HEADER - 1)).step_by(8) {
        // Length and kind, the cheapest to rule out: zeros have no kind.
        let Ok((word, _)) = U32::ref_from_prefix(&bytes[at + 4..]) else { break };
        let word = word.get();
        if !(1..=4).contains(&(word & 7)) || word > capacity {
            continue;
        }
        let offset = base + at as u32;
        let header = FrameHeader::check(&bytes[at..], segment.data.salt, offset, capacity);
        furthest = furthest.max(header.map(|h| h.durable()));
    }
    furthest
}

fn last_nonzero(bytes: &[u8]) -> Option<usize> {
    // Blocks first: most of what is searched is zero.
    let block = bytes.chunks(64).rposition(|block| block.iter().fold(0, |a, b| a | b) != 0)?;
    let start = block * 64;
    let end = (start + 64).min(bytes.len());
    bytes[start..end].iter().rposition(|b| *b != 0).map(|at| start + at)
}
