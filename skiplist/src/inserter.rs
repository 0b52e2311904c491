//! Inserting near the last insert.

use std::fmt;

use crate::arena::{END, NodeId, RecordId, SLOTS};
use crate::error::InsertError;
use crate::index::Base;
use crate::list::{Linked, SkipList};
use crate::search::{Place, Probe};
use crate::sync::Ordering;

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
    /// The node inserted last, and the record it was entered in. Nothing is ever removed, so they
    /// stay good; what comes behind them may have changed.
    last: Option<(NodeId, Base)>,
}

impl<'a> Inserter<'a> {
    pub(crate) fn new(list: &'a SkipList) -> Inserter<'a> {
        Inserter { list, last: None }
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
        let (mut place, base) = match self.place_behind_last(&mut probe) {
            Some(found) => found,
            None => {
                probe.stand_on_head();
                list.find_place(&mut probe)
            }
        };
        let Linked::Node(node) = list.link_in(&mut probe, &mut place, value_len, fill)? else {
            return Err(InsertError::Exists);
        };
        list.enter(&base, node);
        self.last = Some((node, base));
        Ok(())
    }

    /// The place behind the last insert, and its record, if they are the right ones.
    #[inline]
    fn place_behind_last(&self, probe: &mut Probe<'_>) -> Option<(Place, Base)> {
        let arena = self.list.arena();
        let (last, base) = self.last?;
        // The record: the pair must not be beyond the base of the next one.
        if !probe.stand_on(arena, arena.record_node(base.record)) {
            return None;
        }
        let code = probe.code();
        let link = arena.record_link(base.record, 0).load(Ordering::Acquire);
        let next = RecordId::of_link(link).map(|record| arena.record_node(record));
        if !probe.is_next(arena, link, next) {
            return None;
        }
        // The node.
        if !probe.stand_on(arena, last) {
            return None;
        }
        let next = arena.link(last).load(Ordering::Acquire);
        if !probe.is_next(arena, next, NodeId::of_link(next)) {
            return None;
        }
        // For an insert to come: in order, they are bound by memory that is written for the first time.
        arena.prefetch_room();
        let place = probe.walk(arena, last);
        let slot = (base.empty + SLOTS - 1) % SLOTS;
        let free = arena.slot(base.record, slot).load(Ordering::Relaxed) == END;
        let empty = if free { slot } else { self.list.empty_slot(base.record) };
        Some((place, Base { record: base.record, code, empty, above: base.above }))
    }
}

impl fmt::Debug for Inserter<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Inserter").field("list", self.list).finish_non_exhaustive()
    }
}
