//! Front-to-back reading of a segment's frames.

use kvdb_vfs::Advice;

use crate::Result;
use crate::format::{FRAME_HEADER, FrameHeader};
use crate::frame::verify_body;
use crate::segment::Segment;

/// How far ahead of the reader the system is asked to read.
const AHEAD: u64 = 4 << 20;
/// Without a map, what is read at once.
const WINDOW: usize = 1 << 20;

/// Gives out the bytes of a segment: of the map where there is one, else of a window that moves.
pub(crate) struct Reader<'a> {
    segment: &'a Segment,
    limit: u32,
    /// The system was asked to read up to here.
    asked: u64,
    window: Vec<u8>,
    window_at: u32,
}

impl<'a> Reader<'a> {
    /// A reader of everything below `limit`.
    pub(crate) fn new(segment: &'a Segment, limit: u32) -> Self {
        let limit = limit.min(segment.capacity());
        Reader { segment, limit, asked: 0, window: Vec::new(), window_at: 0 }
    }

    /// The frame at `offset`, if one begins there and verifies as a whole, and the largest version
    /// in it.
    pub(crate) fn frame(&mut self, offset: u32) -> Result<Option<(FrameHeader, &[u8], u64)>> {
        let Some(header) = self.header(offset)? else { return Ok(None) };
        let salt = self.segment.data.salt;
        let Some(bytes) = self.bytes(offset, header.len() as usize)? else { return Ok(None) };
        Ok(verify_body(bytes, &header, salt, offset).map(|largest| (header, bytes, largest)))
    }

    /// The header of the frame at `offset`, if one begins there.
    pub(crate) fn header(&mut self, offset: u32) -> Result<Option<FrameHeader>> {
        let (salt, limit) = (self.segment.data.salt, self.limit);
        let Some(bytes) = self.bytes(offset, FRAME_HEADER)? else { return Ok(None) };
        Ok(FrameHeader::check(bytes, salt, offset, limit))
    }

    /// Bytes from `offset` on; `None` beyond the limit.
    pub(crate) fn bytes(&mut self, offset: u32, len: usize) -> Result<Option<&[u8]>> {
        let end = u64::from(offset) + len as u64;
        if end > self.limit.into() {
            return Ok(None);
        }
        if let Some(map) = self.segment.data.map() {
            if end + AHEAD / 2 > self.asked && self.asked < self.limit.into() {
                let from = self.asked.max(offset.into());
                self.asked = (end + AHEAD).min(self.limit.into());
                if from < self.asked {
                    self.segment.data.file.advise(from..self.asked, Advice::WillNeed);
                }
            }
            return Ok(map.slice(offset as usize..end as usize));
        }
        let have = u64::from(self.window_at) + self.window.len() as u64;
        if offset < self.window_at || end > have {
            let n = len.max(WINDOW).min((self.limit - offset) as usize);
            self.window.resize(n, 0);
            self.segment.data.file.read_exact_at(&mut self.window, offset.into())?;
            self.window_at = offset;
        }
        let start = (offset - self.window_at) as usize;
        Ok(self.window.get(start..start + len))
    }
}
