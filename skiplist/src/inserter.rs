//! Inserting near the last insert.

use std::fmt;

use crate::arena::Arena;
use crate::error::InsertError;
use crate::list::SkipList;
use crate::search::{NOWHERE, Place, Places, Probe};

/// Inserts entries, each search starting from the place of the one before; see
/// [`SkipList::inserter`].
///
/// Worth it for runs that are sorted, or close to it: an entry next to the one before it costs a
/// comparison or two. Entries in no order are inserted correctly, at a little more than the cost
/// of [`SkipList::insert`]. Others may insert at the same time.
///
/// ```
/// # use kvdb_skiplist::{Options, SkipList};
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let list = SkipList::new(Options { capacity: 1 << 20, ..Options::default() })?;
/// let mut inserter = list.inserter();
/// for i in 0..1000u32 {
///     inserter.insert(&i.to_be_bytes(), 1, b"value")?;
/// }
/// assert_eq!(list.len(), 1000);
/// # Ok(()) }
/// ```
pub struct Inserter<'a> {
    list: &'a SkipList,
    /// On each level, a place near the last insert. Nodes are never removed, so the node of a
    /// place stays good; what was behind it may have changed.
    places: Box<Places>,
}

impl<'a> Inserter<'a> {
    pub(crate) fn new(list: &'a SkipList) -> Inserter<'a> {
        Inserter { list, places: Box::new(NOWHERE) }
    }

    /// As [`SkipList::insert`].
    ///
    /// # Errors
    ///
    /// As [`SkipList::insert`].
    #[inline]
    pub fn insert(&mut self, key: &[u8], version: u64, value: &[u8]) -> Result<(), InsertError> {
        self.insert_with(key, version, value.len(), |bytes| bytes.copy_from_slice(value))
    }

    /// As [`SkipList::insert_with`].
    ///
    /// # Errors
    ///
    /// As [`SkipList::insert_with`].
    pub fn insert_with(
        &mut self,
        key: &[u8],
        version: u64,
        value_len: usize,
        fill: impl FnOnce(&mut [u8]),
    ) -> Result<(), InsertError> {
        let list = self.list;
        let mut probe = list.probe(key, version, value_len)?;
        let height = list.height_of(key, version);
        self.find_places(&mut probe, height);
        let node = list.link_in(&mut probe, &mut self.places, height, value_len, fill)?;
        for place in &mut self.places[..height] {
            place.node = node;
        }
        Ok(())
    }

    /// Finds the places on the levels below `height` (and those on some levels above).
    fn find_places(&mut self, probe: &mut Probe<'_>, height: usize) {
        let arena = self.list.arena();
        // Up, to the lowest level on which the pair belongs right behind the remembered node.
        let top = self.list.top().max(height);
        let mut level = height - 1;
        let mut node = loop {
            let node = self.places[level].node;
            if probe.stand_on(arena, node) && probe.is_next(arena, node, level) {
                break node;
            }
            level += 1;
            if level >= top {
                level = top - 1;
                let entered = probe.stand_on(arena, Arena::head());
                debug_assert!(entered, "the head is before everything");
                break Arena::head();
            }
        };
        // Down again, on each level from the remembered node if that is known to be nearer.
        loop {
            let (last, next) = probe.walk(arena, node, level);
            self.places[level] = Place { node: last, code: probe.code(), next };
            if level == 0 {
                return;
            }
            level -= 1;
            node = last;
            let remembered = self.places[level].node;
            if remembered != node && probe.stand_nearer(arena, remembered) {
                node = remembered;
            }
        }
    }
}

impl fmt::Debug for Inserter<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Inserter").field("list", self.list).finish_non_exhaustive()
    }
}
