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
    /// most [`MAX_CAPACITY`](crate::MAX_CAPACITY). The index comes on top: address space of
    /// five eighths of the capacity, touched as far as it is needed: 10 to 14 bytes for an entry, 19 at
    /// most. Default: 64 MiB.
    pub capacity: usize,
    /// Seed of the shape of the index: with the same seed, the same inserts in the same order by
    /// one thread give the same list to the last byte. Default: 0.
    pub seed: u64,
    /// Ask the operating system to back the arena with huge pages (Linux: `madvise`). A wish, not
    /// a promise: where it is refused the list works all the same. Default: true.
    pub huge_pages: bool,
    /// Have [`SkipList::new`](crate::SkipList::new) do what
    /// [`SkipList::prefault`](crate::SkipList::prefault) does, which says where that works. Default:
    /// false.
    pub prefault: bool,
}

impl Default for Options {
    fn default() -> Self {
        Options { capacity: 64 << 20, seed: 0, huge_pages: true, prefault: false }
    }
}
