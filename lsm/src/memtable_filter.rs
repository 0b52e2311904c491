//! A filter over the keys of a memtable, so that a point read seldom searches one in vain.

use std::sync::atomic::{AtomicU64, Ordering};

/// One word of filter for so many bytes of arena: about twelve bits for an entry of a hundred bytes.
/// With entries of half that size one search in forty is in vain.
const ARENA_PER_WORD: usize = 512;

/// Bits that a key sets, all of them in one word: one cache line is touched, and an insert is one
/// atomic operation.
const BITS: u32 = 5;

/// A Bloom filter of single words that grows with the memtable. Says yes for every key that was
/// added before, as far as the caller knows of it.
#[derive(Debug)]
pub(crate) struct MemtableFilter {
    words: Box<[AtomicU64]>,
}

impl MemtableFilter {
    /// For a memtable whose arena has `capacity` bytes. The pages of it come as they are used.
    pub(crate) fn new(capacity: usize) -> MemtableFilter {
        MemtableFilter { words: bytemuck::zeroed_slice_box((capacity / ARENA_PER_WORD).max(1)) }
    }

    /// Bytes that a filter for such a memtable takes.
    pub(crate) const fn bytes_for(capacity: usize) -> usize {
        capacity / ARENA_PER_WORD * size_of::<AtomicU64>()
    }

    /// Touches every page.
    pub(crate) fn prefault(&self) {
        for word in self.words.iter().step_by(4096 / size_of::<AtomicU64>()) {
            word.fetch_or(0, Ordering::Relaxed);
        }
    }

    /// The word of a hash. Which word is told by the upper bits, which bits in it by the lower ones.
    #[inline]
    fn word(&self, hash: u64) -> &AtomicU64 {
        let at = (u128::from(hash) * self.words.len() as u128) >> 64;
        &self.words[at as usize]
    }

    #[inline]
    fn mask(hash: u64) -> u64 {
        (0..BITS).fold(0, |mask, i| mask | 1 << ((hash >> (6 * i)) & 63))
    }

    /// Begins to add a key: looks at its word, which is on its way into the cache then.
    #[inline]
    pub(crate) fn begin(&self, hash: u64) -> Addition<'_> {
        let word = self.word(hash);
        let mask = Self::mask(hash);
        Addition { word, mask, missing: word.load(Ordering::Relaxed) & mask != mask }
    }

    /// Whether a key with this hash may have been added.
    #[inline]
    pub(crate) fn may_contain(&self, hash: u64) -> bool {
        let mask = Self::mask(hash);
        // Relaxed: the bits are set before the entry is linked in, and whoever is to see the entry has
        // synchronised with that.
        self.word(hash).load(Ordering::Relaxed) & mask == mask
    }
}

/// A key about to be added.
#[derive(Debug)]
pub(crate) struct Addition<'f> {
    word: &'f AtomicU64,
    mask: u64,
    missing: bool,
}

impl Addition<'_> {
    /// Adds it.
    #[inline]
    pub(crate) fn finish(self) {
        if self.missing {
            self.word.fetch_or(self.mask, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kvdb_sstable::key_hash;

    #[test]
    fn what_was_added_may_be_there_and_most_of_the_rest_is_not() {
        let filter = MemtableFilter::new(1 << 20);
        // As many entries of a hundred bytes as such a memtable takes.
        let n = (1u64 << 20) / 100;
        for k in 0..n {
            filter.begin(key_hash(&k.to_be_bytes())).finish();
        }
        assert!((0..n).all(|k| filter.may_contain(key_hash(&k.to_be_bytes()))));
        let wrong = (n..11 * n).filter(|k| filter.may_contain(key_hash(&k.to_be_bytes()))).count();
        assert!(wrong < n as usize / 5, "{wrong} of {}", 10 * n);
    }

    #[test]
    fn what_one_thread_has_added_every_other_one_finds() {
        use std::sync::atomic::AtomicUsize;
        // A filter so small that many keys share their bits, and threads see each other's.
        let filter = MemtableFilter::new(8 << 10);
        const KEYS: usize = 20_000;
        let added: [AtomicUsize; 3] = Default::default();
        let key = |thread: usize, k: usize| key_hash(&(3 * k + thread).to_be_bytes());
        std::thread::scope(|s| {
            for (thread, added) in added.iter().enumerate() {
                let filter = &filter;
                s.spawn(move || {
                    for k in 0..KEYS {
                        filter.begin(key(thread, k)).finish();
                        added.store(k + 1, Ordering::Release);
                    }
                });
            }
            s.spawn(|| {
                let mut seen = [0; 3];
                while seen != [KEYS; 3] {
                    for (thread, seen) in seen.iter_mut().enumerate() {
                        let upto = added[thread].load(Ordering::Acquire);
                        assert!((*seen..upto).all(|k| filter.may_contain(key(thread, k))));
                        *seen = upto;
                    }
                }
            });
        });
    }

    #[test]
    fn the_smallest_memtable_has_one_too() {
        let filter = MemtableFilter::new(0);
        assert!(!filter.may_contain(u64::MAX));
        filter.begin(u64::MAX).finish();
        assert!(filter.may_contain(u64::MAX));
    }
}
