//! Iterators over the whole list or a range of keys, from both ends.

use std::fmt;
use std::iter::FusedIterator;
use std::ops::{Bound, RangeBounds};

use crate::ahead::Ahead;
use crate::arena::NodeId;
use crate::code::compare;
use crate::cursor::Position;
use crate::entry::EntryRef;
use crate::list::SkipList;

/// Iterates over entries in order, from both ends; see [`SkipList::iter`] and
/// [`SkipList::range`].
///
/// The ends are fixed when it is made. Entries inserted between them meanwhile may or may not
/// come up.
#[derive(Clone)]
pub struct Iter<'a> {
    list: &'a SkipList,
    /// First and last entry still to come.
    ends: Option<(NodeId, NodeId)>,
    /// What each end knows of the way.
    front: Ahead,
    back: Ahead,
}

impl SkipList {
    /// All entries, in order.
    #[must_use]
    pub fn iter(&self) -> Iter<'_> {
        Iter::new(self, self.first_entry(), || self.last_entry())
    }

    /// All entries, of any version, whose keys are within `keys`.
    ///
    /// ```
    /// # use kvdb_skiplist::{Options, SkipList};
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let list = SkipList::new(Options { capacity: 1 << 16, ..Options::default() })?;
    /// for key in ["a", "b", "c"] {
    ///     list.insert(key.as_bytes(), 1, b"")?;
    /// }
    /// let keys: Vec<_> = list.range("b"..).rev().map(|entry| entry.key()).collect();
    /// assert_eq!(keys, [b"c", b"b"]);
    /// # Ok(()) }
    /// ```
    pub fn range<K: AsRef<[u8]>>(&self, keys: impl RangeBounds<K>) -> Iter<'_> {
        // Of one key, version u64::MAX is the first possible entry and version 0 the last.
        let first = match keys.start_bound() {
            Bound::Unbounded => self.first_entry(),
            Bound::Included(key) => self.seek(key.as_ref(), u64::MAX),
            Bound::Excluded(key) => self.seek_after(key.as_ref(), 0),
        };
        Iter::new(self, first, || match keys.end_bound() {
            Bound::Unbounded => self.last_entry(),
            Bound::Included(key) => self.seek_for_prev(key.as_ref(), 0),
            Bound::Excluded(key) => self.seek_before(key.as_ref(), u64::MAX),
        })
    }
}

impl<'a> IntoIterator for &'a SkipList {
    type Item = EntryRef<'a>;
    type IntoIter = Iter<'a>;

    fn into_iter(self) -> Iter<'a> {
        self.iter()
    }
}

impl<'a> Iter<'a> {
    fn new(list: &'a SkipList, first: Position, last: impl FnOnce() -> Position) -> Iter<'a> {
        let last = if first.node.is_some() { last() } else { first };
        let ends = first.node.zip(last.node);
        // An empty range has its last entry before its first.
        let ends = ends.filter(|&(first, last)| {
            let arena = list.arena();
            // Ranges are over keys, so that versions of one key are never on both sides.
            compare(arena.key(first), arena.key(last), 0).0.is_le()
        });
        Iter { list, ends, front: first.ahead, back: last.ahead }
    }
}

impl<'a> Iterator for Iter<'a> {
    type Item = EntryRef<'a>;

    #[inline]
    fn next(&mut self) -> Option<EntryRef<'a>> {
        let (first, last) = self.ends?;
        self.ends = if first == last {
            None
        } else {
            self.list.step(first, &mut self.front).map(|next| (next, last))
        };
        Some(EntryRef::new(self.list.arena(), first))
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        // No upper bound: entries may come in between.
        (usize::from(self.ends.is_some()), None)
    }

    fn last(mut self) -> Option<EntryRef<'a>> {
        self.next_back()
    }
}

impl<'a> DoubleEndedIterator for Iter<'a> {
    #[inline]
    fn next_back(&mut self) -> Option<EntryRef<'a>> {
        let (first, last) = self.ends?;
        self.ends = if first == last {
            None
        } else {
            self.list.step_back(last, &mut self.back).map(|before| (first, before))
        };
        Some(EntryRef::new(self.list.arena(), last))
    }
}

impl FusedIterator for Iter<'_> {}

impl fmt::Debug for Iter<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Iter").finish_non_exhaustive()
    }
}
