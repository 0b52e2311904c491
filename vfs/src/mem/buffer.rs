//! The bytes of one file: a flat, zero-initialised buffer that maps can point into.
//!
//! This is the only module of the in-memory file system with `unsafe` code. What makes it sound:
//!
//! - A [`Buffer`] never moves, never shrinks and is freed only when the last `Arc` of it goes, so
//!   a pointer into it is good for as long as its holder keeps the `Arc`.
//! - All bytes are initialised (to zero) from the start.
//! - No reference to the bytes is ever made here: everything goes through raw pointers, so that
//!   writing some bytes does not clash with a reader's `&[u8]` of others.
//! - A buffer has one [`Memory`], which is not `Clone`. Reading takes `&Memory`, writing takes
//!   `&mut Memory`, so the two exclude each other by the ordinary rules.
//! - What remains are the regions handed out by [`Memory::region`]. They read without any lock.
//!   That nobody dereferences bytes of a region while these same bytes are being written is the
//!   contract of [`Region`], as it is for a map of a real file.

use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::ops::Range;
use std::ptr::NonNull;
use std::sync::Arc;

use memmap2::{MmapOptions, MmapRaw};

use crate::Region;

/// Bytes in a page, the unit of write-back.
pub(super) const PAGE: usize = 4096;

/// A copy of one page.
pub(super) type Page = [u8; PAGE];

/// From this size on memory comes straight from the system, which hands out pages that cost
/// nothing until they are written: a preallocated file is as cheap as an empty one.
const MAP_FROM: usize = 64 << 10;

/// Fixed zero-initialised memory.
enum Buffer {
    Empty,
    Heap(NonNull<u8>, Layout),
    Map(MmapRaw),
}

// SAFETY: the buffer is plain memory that any thread may free; access to the bytes is regulated by
// `Memory` and `Region`, see the module's documentation.
unsafe impl Send for Buffer {}
// SAFETY: as above; through `&Buffer` one gets at nothing but the pointer.
unsafe impl Sync for Buffer {}

impl Buffer {
    /// `None` when there is no memory left.
    fn zeroed(len: usize) -> Option<Buffer> {
        if len == 0 {
            return Some(Buffer::Empty);
        }
        if len >= MAP_FROM && !cfg!(miri) {
            let map = MmapOptions::new().len(len).no_reserve_swap().map_anon().ok()?;
            return Some(Buffer::Map(map.into()));
        }
        let layout = Layout::from_size_align(len, PAGE).ok()?;
        // SAFETY: the layout's size is not zero.
        let start = NonNull::new(unsafe { alloc_zeroed(layout) })?;
        Some(Buffer::Heap(start, layout))
    }

    fn len(&self) -> usize {
        match self {
            Buffer::Empty => 0,
            Buffer::Heap(_, layout) => layout.size(),
            Buffer::Map(map) => map.len(),
        }
    }

    fn start(&self) -> *mut u8 {
        match self {
            Buffer::Empty => NonNull::dangling().as_ptr(),
            Buffer::Heap(start, _) => start.as_ptr(),
            Buffer::Map(map) => map.as_mut_ptr(),
        }
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        if let Buffer::Heap(start, layout) = self {
            // SAFETY: allocated with this layout in `zeroed`, and this is the last holder.
            unsafe { dealloc(start.as_ptr(), *layout) }
        }
    }
}

/// Owner of a region. A type of its own, so that [`Region::holders`] counts regions only.
struct Mapped<K> {
    _buffer: Arc<Buffer>,
    _keep: K,
}

/// The only handle through which a buffer is read and written by position. Remembers which pages
/// were ever written, since the others need neither be copied nor cleared.
pub(super) struct Memory {
    buffer: Arc<Buffer>,
    /// One bit per page that may hold something else than zeros.
    touched: Vec<u64>,
}

impl Memory {
    pub(super) fn empty() -> Memory {
        Memory { buffer: Arc::new(Buffer::Empty), touched: Vec::new() }
    }

    pub(super) fn capacity(&self) -> usize {
        self.buffer.len()
    }

    /// Makes room for `capacity` bytes, in a new buffer if need be; regions keep the old one.
    /// `None` when there is no memory left; then nothing has changed.
    pub(super) fn grow(&mut self, capacity: usize) -> Option<()> {
        if capacity > self.capacity() {
            *self = self.copy(capacity)?;
        }
        Some(())
    }

    /// A copy with a buffer of its own, of at least the same capacity.
    pub(super) fn copy(&self, capacity: usize) -> Option<Memory> {
        let capacity = capacity.max(self.capacity()).checked_next_multiple_of(PAGE)?;
        let buffer = Buffer::zeroed(capacity)?;
        for run in self.touched_runs() {
            let end = run.end.min(self.capacity());
            // SAFETY: in bounds of both, which do not overlap. `&self` keeps writers of ours away;
            // nobody else knows the other.
            unsafe {
                std::ptr::copy_nonoverlapping(
                    self.buffer.start().add(run.start),
                    buffer.start().add(run.start),
                    end - run.start,
                );
            }
        }
        Some(Memory { buffer: Arc::new(buffer), touched: self.touched.clone() })
    }

    /// Copies bytes out.
    pub(super) fn read(&self, offset: usize, out: &mut [u8]) {
        self.check(offset, out.len());
        // SAFETY: in bounds by the check; `&self` keeps writers away; `out` is somewhere else,
        // since nobody gets a `&mut` into the buffer.
        unsafe {
            std::ptr::copy_nonoverlapping(
                self.buffer.start().add(offset),
                out.as_mut_ptr(),
                out.len(),
            );
        }
    }

    /// Copies bytes in.
    pub(super) fn write(&mut self, offset: usize, bytes: &[u8]) {
        self.check(offset, bytes.len());
        if bytes.is_empty() {
            return;
        }
        for page in offset / PAGE..=(offset + bytes.len() - 1) / PAGE {
            self.touch(page);
        }
        // SAFETY: in bounds by the check; `&mut self` keeps other readers and writers away, but
        // for regions, whose holders answer for themselves. `bytes` may be a slice of such a
        // region, hence `copy` and not `copy_nonoverlapping`.
        unsafe {
            std::ptr::copy(bytes.as_ptr(), self.buffer.start().add(offset), bytes.len());
        }
    }

    /// Sets bytes to zero.
    pub(super) fn clear(&mut self, range: Range<usize>) {
        let end = range.end.min(self.capacity());
        let mut at = range.start;
        while at < end {
            let page = at / PAGE;
            let Some(page) = self.next_touched(page) else { return };
            let start = at.max(page * PAGE);
            let stop = end.min((page + 1) * PAGE);
            if start >= stop {
                return;
            }
            // SAFETY: in bounds since `stop <= end <= capacity`; otherwise as in `write`.
            unsafe { std::ptr::write_bytes(self.buffer.start().add(start), 0, stop - start) };
            if stop - start == PAGE {
                self.touched[page / 64] &= !(1 << (page % 64));
            }
            at = stop;
        }
    }

    /// A copy of a page; `None` when it is all zeros because nobody ever wrote to it.
    pub(super) fn page(&self, page: usize) -> Option<Box<Page>> {
        if !self.is_touched(page) {
            return None;
        }
        let mut copy = Box::new([0; PAGE]);
        self.read(page * PAGE, &mut copy[..]);
        Some(copy)
    }

    pub(super) fn is_touched(&self, page: usize) -> bool {
        self.touched.get(page / 64).is_some_and(|word| word & (1 << (page % 64)) != 0)
    }

    /// A region over bytes of the buffer, which stays although the file may move to another.
    /// `keep` lives as long as the region.
    pub(super) fn region(&self, range: Range<usize>, keep: impl Send + Sync + 'static) -> Region {
        assert!(range.start <= range.end);
        self.check(range.start, range.end - range.start);
        let owner = Arc::new(Mapped { _buffer: self.buffer.clone(), _keep: keep });
        // SAFETY: in bounds by the check, initialised from the start, and `owner` keeps the buffer.
        // That the bytes dereferenced are not written at the same time is the contract of `Region`.
        unsafe {
            let base = self.buffer.start().add(range.start);
            Region::from_raw(base, range.end - range.start, owner)
        }
    }

    /// The first page from `page` on that may hold something else than zeros.
    pub(super) fn next_touched(&self, page: usize) -> Option<usize> {
        let mut word = page / 64;
        let mut bits = self.touched.get(word)? & (u64::MAX << (page % 64));
        while bits == 0 {
            word += 1;
            bits = *self.touched.get(word)?;
        }
        Some(word * 64 + bits.trailing_zeros() as usize)
    }

    /// Byte ranges of consecutive touched pages.
    fn touched_runs(&self) -> impl Iterator<Item = Range<usize>> + '_ {
        let mut page = 0;
        std::iter::from_fn(move || {
            let first = self.next_touched(page)?;
            page = first + 1;
            while self.is_touched(page) {
                page += 1;
            }
            Some(first * PAGE..page * PAGE)
        })
    }

    fn touch(&mut self, page: usize) {
        let word = page / 64;
        if word >= self.touched.len() {
            self.touched.resize(word + 1, 0);
        }
        self.touched[word] |= 1 << (page % 64);
    }

    /// Every access goes through this: the pointers below it are in bounds or it panics.
    fn check(&self, offset: usize, len: usize) {
        let end = offset.checked_add(len);
        assert!(end.is_some_and(|end| end <= self.capacity()), "access outside of the buffer");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn growing_keeps_the_bytes_and_leaves_old_regions_alone() {
        let mut m = Memory::empty();
        m.grow(10).unwrap();
        assert_eq!(m.capacity(), PAGE);
        m.write(3, b"abc");
        let old = m.region(0..8, ());
        m.grow(1 << 20).unwrap();
        m.write(3, b"xyz");
        assert_eq!(&old[..], b"\0\0\0abc\0\0");
        let mut now = [0; 8];
        m.read(0, &mut now);
        assert_eq!(&now, b"\0\0\0xyz\0\0");
    }

    #[test]
    fn a_region_outlives_its_memory() {
        for len in [100, MAP_FROM] {
            let mut m = Memory::empty();
            m.grow(len).unwrap();
            m.write(len - 4, b"tail");
            let region = m.region(len - 4..len, ());
            drop(m);
            assert_eq!(&region[..], b"tail");
            assert_eq!(region.holders(), 1);
        }
    }

    #[test]
    fn clearing_whole_pages_forgets_them() {
        let mut m = Memory::empty();
        m.grow(200 * PAGE).unwrap();
        m.write(70 * PAGE - 1, b"ab");
        m.write(150 * PAGE, b"c");
        m.clear(69 * PAGE + 5..200 * PAGE);
        assert!(m.is_touched(69), "only a part of it was cleared");
        assert!(!m.is_touched(70));
        assert!(!m.is_touched(150));
        let mut tail = [1; 2];
        m.read(70 * PAGE - 1, &mut tail);
        assert_eq!(tail, [0, 0]);
    }

    #[test]
    #[should_panic(expected = "outside of the buffer")]
    fn access_beyond_the_end_is_caught() {
        Memory::empty().write(0, b"x");
    }
}
