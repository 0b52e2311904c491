//! Range deletes that no compaction has applied everywhere yet.

use kvdb_manifest::store::RangeDelete;

/// The short list of ranges of which everything older than a version is gone.
///
/// A range delete is consulted by every read and applied by every compaction. It leaves the list
/// when no memtable and no table holds anything that it hides.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct RangeDeletes {
    list: Vec<RangeDelete>,
}

impl RangeDeletes {
    /// A list of these.
    pub fn new(mut list: Vec<RangeDelete>) -> Self {
        list.sort_by_key(|r| std::cmp::Reverse(r.version));
        RangeDeletes { list }
    }

    /// The newest first.
    pub fn iter(&self) -> impl Iterator<Item = &RangeDelete> {
        self.list.iter()
    }

    /// Whether there are none.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// Whether a reader at `at_most` must not see `version` of `key`, because a range delete that
    /// it sees is newer.
    #[inline]
    pub fn hides(&self, key: &[u8], version: u64, at_most: u64) -> bool {
        !self.list.is_empty() && self.hides_slow(key, version, at_most)
    }

    #[cold]
    fn hides_slow(&self, key: &[u8], version: u64, at_most: u64) -> bool {
        self.list
            .iter()
            .skip_while(|r| r.version > at_most)
            .take_while(|r| r.version > version)
            .any(|r| contains(r, key))
    }

    /// Whether an end of a range lies in `(after, key]`: a table that ends before `key` and not
    /// later is wholly inside or outside of every range.
    pub(crate) fn boundary_between(&self, after: &[u8], key: &[u8]) -> bool {
        self.list.iter().any(|r| {
            (after < r.start.as_slice() && r.start.as_slice() <= key)
                || r.end.as_deref().is_some_and(|end| after < end && end <= key)
        })
    }
}

/// Whether a key lies in the range.
pub(crate) fn contains(range: &RangeDelete, key: &[u8]) -> bool {
    range.start.as_slice() <= key && range.end.as_deref().is_none_or(|end| key < end)
}

/// Whether a table from `smallest` to `largest` overlaps the range.
pub(crate) fn overlaps(range: &RangeDelete, smallest: &[u8], largest: &[u8]) -> bool {
    range.start.as_slice() <= largest && range.end.as_deref().is_none_or(|end| smallest < end)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(start: &[u8], end: Option<&[u8]>, version: u64) -> RangeDelete {
        RangeDelete { start: start.to_vec(), end: end.map(<[u8]>::to_vec), version }
    }

    #[test]
    fn a_range_delete_hides_what_is_older_from_readers_that_see_it() {
        let list = RangeDeletes::new(vec![range(b"b", Some(b"d"), 10), range(b"c", None, 20)]);
        assert!(list.hides(b"b", 9, 10));
        assert!(!list.hides(b"b", 9, 9), "the reader is older than the delete");
        assert!(!list.hides(b"b", 10, 15), "the entry is not older");
        assert!(!list.hides(b"a", 1, 100) && !list.hides(b"d", 1, 15));
        assert!(list.hides(b"d", 1, 20) && list.hides(b"c", 15, 100));
        assert!(!RangeDeletes::default().hides(b"b", 1, u64::MAX));
    }

    #[test]
    fn tables_are_cut_where_a_range_begins_or_ends() {
        let list = RangeDeletes::new(vec![range(b"b", Some(b"d"), 10)]);
        assert!(list.boundary_between(b"a", b"b") && list.boundary_between(b"a", b"z"));
        assert!(!list.boundary_between(b"b", b"c") && !list.boundary_between(b"d", b"e"));
        assert!(list.boundary_between(b"c", b"d"));
    }
}
