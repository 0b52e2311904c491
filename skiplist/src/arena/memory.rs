//! The bytes behind an arena: one zeroed region, in huge pages where the system gives them.
//!
//! On Linux it is an anonymous map. Elsewhere, and where a checker wants to watch the edges (Miri;
//! AddressSanitizer, with `--cfg kvdb_heap_arena`), it comes from the allocator.

use std::io;
use std::ptr::NonNull;

/// Regions start at a multiple of this, so that a huge page fits from the first byte on.
const ALIGN: usize = 2 << 20;

/// Zeroed memory at a fixed address, 8-aligned, given back when dropped.
pub(super) struct Memory {
    start: NonNull<u8>,
    len: usize,
    owner: Owner,
}

#[cfg(all(target_os = "linux", not(any(miri, kvdb_heap_arena))))]
type Owner = memmap2::MmapRaw;
#[cfg(not(all(target_os = "linux", not(any(miri, kvdb_heap_arena)))))]
type Owner = std::alloc::Layout;

// SAFETY: `Memory` is a pointer to a region nothing else owns; what is done with the bytes behind
// it is the user's affair.
unsafe impl Send for Memory {}
// SAFETY: as above: a shared `Memory` gives out the address, and nothing else.
unsafe impl Sync for Memory {}

impl Memory {
    #[cfg(all(target_os = "linux", not(any(miri, kvdb_heap_arena))))]
    pub(super) fn new(len: usize, huge_pages: bool) -> io::Result<Memory> {
        use memmap2::{Advice, MmapOptions};
        // Address space is cheap: map enough to align the start, the rest is never touched.
        let slack = if huge_pages { ALIGN } else { 0 };
        let padded = len.checked_add(slack).ok_or(io::ErrorKind::OutOfMemory)?;
        let map = MmapOptions::new().len(padded).no_reserve_swap().map_anon()?;
        // Without a slice of its own: `populate` must not make one over bytes that others write.
        let map = memmap2::MmapRaw::from(map);
        let mut skip = 0;
        if huge_pages {
            skip = map.as_ptr().align_offset(ALIGN).min(slack);
            if let Err(refused) = map.advise_range(Advice::HugePage, skip, len) {
                // A kernel without transparent huge pages: small ones do as well.
                let _ = refused;
            }
        }
        let start =
            NonNull::new(map.as_mut_ptr().wrapping_add(skip)).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(Memory { start, len, owner: map })
    }

    #[cfg(not(all(target_os = "linux", not(any(miri, kvdb_heap_arena)))))]
    pub(super) fn new(len: usize, huge_pages: bool) -> io::Result<Memory> {
        let align = if huge_pages && len >= ALIGN { ALIGN } else { 64 };
        let layout = std::alloc::Layout::from_size_align(len.max(8), align)
            .map_err(|_| io::ErrorKind::OutOfMemory)?;
        // SAFETY: the layout's size is not zero.
        let start = NonNull::new(unsafe { std::alloc::alloc_zeroed(layout) })
            .ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(Memory { start, len, owner: layout })
    }

    pub(super) fn start(&self) -> NonNull<u8> {
        self.start
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Has the system back the pages of the first `len` bytes now.
    pub(super) fn populate(&self, len: usize) {
        #[cfg(all(target_os = "linux", not(any(miri, kvdb_heap_arena))))]
        {
            let skip = self.start.as_ptr().addr() - self.owner.as_ptr().addr();
            // A huge page at a time: the system holds a lock meanwhile that other threads' faults and
            // maps may have to wait for.
            let end = len.min(self.len);
            for at in (0..end).step_by(ALIGN) {
                let len = ALIGN.min(end - at);
                let advice = memmap2::Advice::PopulateWrite;
                if let Err(refused) = self.owner.advise_range(advice, skip + at, len) {
                    // Linux before 5.14. The pages come with their first use then.
                    let _ = refused;
                    return;
                }
            }
        }
        #[cfg(not(all(target_os = "linux", not(any(miri, kvdb_heap_arena)))))]
        let _ = (&self.owner, len);
    }
}

#[cfg(not(all(target_os = "linux", not(any(miri, kvdb_heap_arena)))))]
impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: `start` came from `alloc_zeroed` with this very layout, and goes only once.
        unsafe { std::alloc::dealloc(self.start.as_ptr(), self.owner) }
    }
}
