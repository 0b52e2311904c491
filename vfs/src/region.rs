//! A piece of a file in memory.

use std::fmt;
use std::ops::{Deref, Range};
use std::sync::Arc;

/// Read-only bytes that own what they point into: a memory map, a buffer of [`MemFs`](crate::MemFs),
/// or a plain vector. Cloning costs one reference count.
///
/// # What changes under it
///
/// A map shows later writes to the file. Dereferencing the whole region is for sealed files. Of a
/// file that is still being appended to, take only [`Region::slice`] of the part that is already
/// written and will not be written again.
#[derive(Clone)]
pub struct Region {
    base: *const u8,
    len: usize,
    owner: Arc<dyn Send + Sync>,
}

// SAFETY: the bytes are only read, they live as long as `owner`, and `owner` is itself `Send + Sync`.
unsafe impl Send for Region {}
// SAFETY: as above; sharing a region shares nothing but reads.
unsafe impl Sync for Region {}

impl Region {
    /// A region over memory that `owner` keeps alive: a map, an arena, a shared buffer.
    ///
    /// A region over memory that somebody else owns: an arena, a cache.
    ///
    /// # Safety
    /// `base .. base + len` must be readable and initialised for as long as `owner` is alive, and
    /// bytes that a caller dereferences must not be written at the same time.
    pub unsafe fn from_raw(base: *const u8, len: usize, owner: Arc<dyn Send + Sync>) -> Self {
        Region { base, len, owner }
    }

    /// A region over bytes of one's own.
    pub fn from_vec(bytes: Vec<u8>) -> Self {
        let owner = Arc::new(bytes);
        let (base, len) = (owner.as_ptr(), owner.len());
        // SAFETY: the vector is never touched again, so its buffer stays put until `owner` goes.
        unsafe { Region::from_raw(base, len, owner) }
    }

    /// Length in bytes.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether it has no bytes.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The bytes of a range; `None` if it leaves the region.
    pub fn slice(&self, range: Range<usize>) -> Option<&[u8]> {
        if range.start > range.end || range.end > self.len {
            return None;
        }
        // SAFETY: in bounds by the check above, alive as long as `self.owner`; see `from_raw`.
        Some(unsafe {
            std::slice::from_raw_parts(self.base.add(range.start), range.end - range.start)
        })
    }

    /// A region over a part of this one, sharing its owner.
    pub fn subregion(&self, range: Range<usize>) -> Option<Region> {
        if range.start > range.end || range.end > self.len {
            return None;
        }
        // SAFETY: in bounds by the check. No reference to the bytes is made: they may be in the
        // course of being written.
        let base = unsafe { self.base.add(range.start) };
        Some(Region { base, len: range.end - range.start, owner: self.owner.clone() })
    }

    /// How many regions (and others) hold the memory: 1 means this is the last.
    pub fn holders(&self) -> usize {
        Arc::strong_count(&self.owner)
    }
}

impl Deref for Region {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        // SAFETY: see `from_raw`; the whole range is in bounds.
        unsafe { std::slice::from_raw_parts(self.base, self.len) }
    }
}

impl AsRef<[u8]> for Region {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl fmt::Debug for Region {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Region({} bytes)", self.len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slices_and_subregions_stay_within_the_region() {
        let region = Region::from_vec(b"0123456789".to_vec());
        assert_eq!(region.slice(2..5).unwrap(), b"234");
        assert_eq!(region.slice(10..10).unwrap(), b"");
        assert_eq!(region.slice(5..11), None);
        #[allow(clippy::reversed_empty_ranges)]
        let reversed = region.slice(5..4);
        assert_eq!(reversed, None);
        let part = region.subregion(2..8).unwrap();
        assert_eq!(part.subregion(1..3).unwrap().as_ref(), b"34");
        assert!(part.subregion(0..7).is_none());
        assert!(part.slice(0..7).is_none(), "not even what lies in the region around it");
    }

    #[test]
    fn the_last_region_frees_the_bytes() {
        let region = Region::from_vec(vec![7; 100]);
        let part = region.subregion(99..100).unwrap();
        assert_eq!(part.holders(), 2);
        drop(region);
        assert_eq!((part.holders(), part[0]), (1, 7));
        assert!(Region::from_vec(Vec::new()).is_empty());
    }
}
