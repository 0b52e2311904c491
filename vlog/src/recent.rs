//! The latest bytes of a segment that is written past the cache.
//!
//! Nothing of such a write is in the page cache, and the segment is not mapped while it is being
//! written. So its last bytes are kept here, where readers copy them from, and what is older is
//! read into the cache ahead of its readers.

use std::ops::Range;

use parking_lot::RwLock;

/// At least this much is kept, and at most twice as much, in bytes.
const KEEP: usize = 1 << 20;

#[derive(Debug, Default)]
pub(crate) struct Recent {
    kept: RwLock<Kept>,
}

#[derive(Debug, Default)]
struct Kept {
    /// Where in the file `bytes` begin.
    start: u32,
    bytes: Vec<u8>,
}

impl Kept {
    fn end(&self) -> u32 {
        self.start + self.bytes.len() as u32
    }

    /// Forgets all but the last `keep` bytes. Returns what was forgotten.
    fn shrink(&mut self, keep: usize) -> Range<u32> {
        let cut = self.bytes.len().saturating_sub(keep);
        self.bytes.drain(..cut);
        let from = self.start;
        self.start += cut as u32;
        from..self.start
    }
}

impl Recent {
    /// Adds what was written at `offset`, in place of what was known of there and beyond. Returns
    /// a range that is kept no longer.
    pub(crate) fn push(&self, offset: u32, bytes: &[u8]) -> Range<u32> {
        let mut kept = self.kept.write();
        if (kept.start..=kept.end()).contains(&offset) {
            let known = (offset - kept.start) as usize;
            kept.bytes.truncate(known);
        } else {
            kept.bytes.clear();
            kept.start = offset;
        }
        if bytes.len() > KEEP {
            // No use in copying what is to go at once.
            let from = kept.start;
            let skipped = bytes.len() - KEEP;
            kept.bytes.clear();
            kept.start = offset + skipped as u32;
            kept.bytes.extend_from_slice(&bytes[skipped..]);
            return from..kept.start;
        }
        kept.bytes.extend_from_slice(bytes);
        if kept.bytes.len() >= 2 * KEEP { kept.shrink(KEEP) } else { 0..0 }
    }

    /// A copy of these bytes, if they are kept.
    pub(crate) fn read(&self, range: Range<usize>) -> Option<Vec<u8>> {
        let kept = self.kept.read();
        let start = range.start.checked_sub(kept.start as usize)?;
        Some(kept.bytes.get(start..start + range.len())?.to_vec())
    }

    /// Forgets everything. Returns what it was.
    pub(crate) fn clear(&self) -> Range<u32> {
        let mut kept = self.kept.write();
        let all = kept.shrink(0);
        kept.bytes = Vec::new();
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_bytes_are_there_whatever_was_pushed() {
        let recent = Recent::default();
        let file: Vec<u8> = (0..8 * KEEP).map(|i| (i / 7 + i / 4096) as u8).collect();
        let sizes = [10, KEEP / 2, 1, KEEP + 5, KEEP, 3 * KEEP, KEEP - 1, 4000];
        let (mut at, mut forgotten) = (100, 100);
        for size in sizes {
            let gone = recent.push(at as u32, &file[at..at + size]);
            if !gone.is_empty() {
                assert_eq!(gone.start, forgotten, "what is forgotten is told without a gap");
                forgotten = gone.end;
            }
            at += size;
            let least = (at - KEEP.min(at - 100)).max(forgotten as usize);
            assert_eq!(recent.read(least..at).unwrap(), file[least..at]);
            assert!(recent.read(least..at + 1).is_none());
            if forgotten > 100 {
                assert!(recent.read(forgotten as usize - 1..at).is_none());
            }
        }
        assert_eq!(recent.clear(), forgotten..at as u32);
        assert!(recent.read(at - 1..at).is_none());
    }

    #[test]
    fn what_is_written_once_more_replaces_what_was_known() {
        let recent = Recent::default();
        recent.push(0, b"abcdef");
        recent.push(4, b"XY");
        assert_eq!(recent.read(0..6).unwrap(), b"abcdXY");
        recent.push(100, b"far");
        assert_eq!((recent.read(0..6), recent.read(100..103).unwrap()), (None, b"far".to_vec()));
    }

    #[test]
    fn no_more_than_twice_what_is_to_be_kept_is_kept() {
        let recent = Recent::default();
        let piece = vec![1; KEEP / 4];
        for i in 0..20 {
            recent.push(i * piece.len() as u32, &piece);
            assert!(recent.kept.read().bytes.len() < 2 * KEEP);
        }
    }
}
