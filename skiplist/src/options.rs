//! How a list is made.

/// How to make a [`SkipList`](crate::SkipList).
///
/// ```
/// use kvdb_skiplist::Options;
///
/// let options = Options { capacity: 4 << 20, ..Options::default() };
/// assert!(options.huge_pages && !options.prefault);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Options {
    /// Bytes for entries: keys, values, 30 bytes each besides, and the list's own fixed overhead
    /// ([`SkipList::OVERHEAD`](crate::SkipList::OVERHEAD)). Rounded down to a multiple of 8; at
    /// most [`MAX_CAPACITY`](crate::MAX_CAPACITY). The index comes on top: address space of a
    /// quarter of the capacity, touched as far as it is needed. Default: 64 MiB.
    pub capacity: usize,
    /// Seed of the shape of the index: with the same seed, the same inserts in the same order by
    /// one thread give the same list to the last byte. Default: 0.
    pub seed: u64,
    /// Ask the operating system to back the arena with huge pages (Linux: `madvise`). A wish, not
    /// a promise: where it is refused the list works all the same. Default: true.
    pub huge_pages: bool,
    /// Touch every page of the arena in [`SkipList::new`](crate::SkipList::new), so that no
    /// insert waits for a page fault. Default: false; see also
    /// [`SkipList::prefault`](crate::SkipList::prefault) to do it from another thread.
    pub prefault: bool,
}

impl Default for Options {
    fn default() -> Self {
        Options { capacity: 64 << 20, seed: 0, huge_pages: true, prefault: false }
    }
}
