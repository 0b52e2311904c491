//! The list: making it, inserting, looking up.

use std::fmt;
use std::sync::Arc;

use crate::arena::{self, Arena, Full, NodeId, RecordId};
use crate::cursor::{Cursor, OwnedCursor};
use crate::entry::{EntryRef, OwnedEntry};
use crate::error::{InsertError, OptionsError};
use crate::index::Base;
use crate::inserter::Inserter;
use crate::options::Options;
use crate::search::{Place, Probe};
use crate::sync::{AtomicU32, Ordering};

/// Length of the longest key, in bytes.
pub const MAX_KEY_LEN: usize = u16::MAX as usize;

/// The largest [`Options::capacity`], in bytes: 4 GiB where pointers have 64 bits, else 1 GiB.
pub const MAX_CAPACITY: usize = arena::MAX_CAPACITY;

/// An ordered map from `(key, version)` to a value, in one arena of fixed capacity.
///
/// Keys ascend bytewise; among entries of one key the versions descend, so that the newest comes
/// first. Any number of threads insert and read at once through `&self`, without locks; nothing
/// is ever removed. See the [crate's documentation](crate) for how it works.
pub struct SkipList {
    arena: Arena,
    /// Levels of the index in use, a hint for where searches start: one that starts too low is
    /// slower, not wrong.
    height: AtomicU32,
    seed: u64,
}

impl SkipList {
    /// Arena bytes a list takes for itself. [`SkipList::remaining`] of a new list is its
    /// capacity less this.
    pub const OVERHEAD: usize = arena::OVERHEAD;

    /// Makes an empty list.
    ///
    /// # Errors
    ///
    /// A capacity that has no room for even one empty entry or exceeds [`MAX_CAPACITY`]; no
    /// memory.
    pub fn new(options: Options) -> Result<SkipList, OptionsError> {
        let capacity = options.capacity;
        let least = SkipList::OVERHEAD + SkipList::node_bound(0, 0);
        if capacity < least {
            return Err(OptionsError::CapacityTooSmall { capacity, least });
        }
        if capacity > MAX_CAPACITY {
            return Err(OptionsError::CapacityTooLarge { capacity, greatest: MAX_CAPACITY });
        }
        let arena = Arena::new(&options)?;
        Ok(SkipList { arena, height: AtomicU32::new(1), seed: options.seed })
    }

    /// Empties the list and gives it a new seed, keeping the arena with its pages: cheaper by far
    /// than a new list, whose every page the system has to find and zero. The time does not
    /// depend on what was in the list.
    pub fn reset(&mut self, seed: u64) {
        self.arena.clear();
        self.height = AtomicU32::new(1);
        self.seed = seed;
    }

    /// Has the operating system back every page for entries, and as many for the index as they
    /// commonly need, so that no insert waits for it: on Linux from 5.14 on. Elsewhere, or if the
    /// system refuses, it does nothing, and pages come with their first use. May run beside inserts
    /// and reads, on a thread of its own.
    pub fn prefault(&self) {
        self.arena.populate();
    }

    /// The arena bytes that an insert of a key and a value of these lengths takes.
    ///
    /// The arithmetic to rely on: inserts whose bounds add up to at most
    /// [`remaining`](SkipList::remaining) all succeed, as long as nobody takes bytes beyond that
    /// sum. Several threads may share such a budget; an insert never takes more than its bound,
    /// even where it fails. Saturates at `usize::MAX`.
    #[must_use]
    pub const fn node_bound(key_len: usize, value_len: usize) -> usize {
        arena::node_len(key_len, value_len)
    }

    /// The arena bytes that replacing a value by one of this length takes.
    /// Saturates at `usize::MAX`.
    #[must_use]
    pub const fn value_bound(value_len: usize) -> usize {
        arena::value_len(value_len)
    }

    /// The most that the index of a list of this capacity takes, in bytes, whatever entries are inserted
    /// in whatever order: five eighths of it, and two kilobytes. Commonly it takes less:
    /// [`index_bytes`](SkipList::index_bytes).
    #[must_use]
    pub const fn index_bound(capacity: usize) -> usize {
        arena::index_len(capacity / 8 * 8)
    }

    /// Inserts an entry.
    ///
    /// Every lookup that happens after this has returned, in any thread, finds the entry. Takes logarithmic time, expected.
    ///
    /// # Errors
    ///
    /// [`InsertError::Exists`] if there is such a pair; [`InsertError::Full`], or a length beyond
    /// its limit. The content of the list is then what it was.
    #[inline]
    pub fn insert(&self, key: &[u8], version: u64, value: &[u8]) -> Result<(), InsertError> {
        self.insert_with(key, version, value.len(), |bytes| bytes.copy_from_slice(value))
    }

    /// Inserts an entry whose value is written in place by `fill`, which gets `value_len` bytes
    /// of unspecified content. It is not called if the pair is found or the arena is full before
    /// that. If it panics, the bytes are lost and the list is unchanged.
    ///
    /// # Errors
    ///
    /// As [`insert`](SkipList::insert).
    pub fn insert_with(
        &self,
        key: &[u8],
        version: u64,
        value_len: usize,
        fill: impl FnOnce(&mut [u8]),
    ) -> Result<(), InsertError> {
        let mut probe = self.probe(key, version, value_len)?;
        let (mut place, base) = self.find_place(&mut probe);
        match self.link_in(&mut probe, &mut place, value_len, fill)? {
            Linked::Node(node) => self.enter(&base, node),
            Linked::Beaten { .. } => return Err(InsertError::Exists),
        }
        Ok(())
    }

    /// Inserts an entry, or replaces the value of the one with this pair; tells which: `true` if
    /// a value was replaced. Readers see the old value or the new one, whole. A replaced value's
    /// bytes stay taken, and references to it stay valid. Takes at most
    /// [`node_bound`](SkipList::node_bound) bytes, also where another thread inserts the pair at the
    /// same time.
    ///
    /// # Errors
    ///
    /// [`InsertError::Full`], or a length beyond its limit.
    pub fn upsert(&self, key: &[u8], version: u64, value: &[u8]) -> Result<bool, InsertError> {
        let mut probe = self.probe(key, version, value.len())?;
        let (mut place, base) = self.find_place(&mut probe);
        let fill = |bytes: &mut [u8]| bytes.copy_from_slice(value);
        let (node, word) = match probe.found() {
            Some(node) => (node, self.arena.allocate_value(value.len(), fill)?),
            None => match self.link_in(&mut probe, &mut place, value.len(), fill)? {
                Linked::Node(node) => {
                    self.enter(&base, node);
                    return Ok(false);
                }
                // The value lies in the node that came too late.
                Linked::Beaten { node, by } => {
                    (by, self.arena.value_word(node).load(Ordering::Relaxed))
                }
            },
        };
        // Release: whoever reads the word may read the value.
        self.arena.value_word(node).store(word, Ordering::Release);
        Ok(true)
    }

    /// An inserter that remembers where it inserted last: sorted runs go in at a fraction of the
    /// cost.
    #[must_use]
    pub fn inserter(&self) -> Inserter<'_> {
        Inserter::new(self)
    }

    /// The newest entry of `key` whose version is at most `at_most`.
    #[must_use]
    pub fn get(&self, key: &[u8], at_most: u64) -> Option<EntryRef<'_>> {
        let node = self.find_same_key(key, at_most)?;
        Some(EntryRef::new(&self.arena, node))
    }

    /// As [`get`](SkipList::get), with a handle that keeps the list alive.
    #[must_use]
    pub fn get_owned(self: &Arc<Self>, key: &[u8], at_most: u64) -> Option<OwnedEntry> {
        let node = self.find_same_key(key, at_most)?;
        Some(OwnedEntry::new(Arc::clone(self), node))
    }

    /// A cursor over the list, standing nowhere.
    #[must_use]
    pub fn cursor(&self) -> Cursor<'_> {
        Cursor::new(self)
    }

    /// A cursor that keeps the list alive, standing nowhere.
    #[must_use]
    pub fn owned_cursor(self: &Arc<Self>) -> OwnedCursor {
        OwnedCursor::new(Arc::clone(self))
    }

    /// Number of entries. Counts an insert that is under way from the moment it has its memory.
    #[must_use]
    pub fn len(&self) -> usize {
        self.arena.taken().nodes()
    }

    /// Whether [`len`](SkipList::len) is 0.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Arena bytes taken so far, [`OVERHEAD`](SkipList::OVERHEAD) included. Never shrinks, but
    /// for [`reset`](SkipList::reset).
    #[must_use]
    pub fn allocated(&self) -> usize {
        self.arena.taken().bytes()
    }

    /// Bytes taken by the index, which is kept beside the [`capacity`](SkipList::capacity): 10 to 14
    /// for an entry, up to 19 where keys fall; and two kilobytes.
    #[must_use]
    pub fn index_bytes(&self) -> usize {
        self.arena.index_bytes()
    }

    /// Bytes for entries and the fixed overhead, as given, rounded down to a multiple of 8.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.arena.taken().capacity()
    }

    /// Arena bytes left: [`capacity`](SkipList::capacity) less
    /// [`allocated`](SkipList::allocated).
    #[must_use]
    pub fn remaining(&self) -> usize {
        self.capacity() - self.allocated()
    }

    pub(crate) fn arena(&self) -> &Arena {
        &self.arena
    }

    pub(crate) fn seed(&self) -> u64 {
        self.seed
    }

    /// A record of this height is on its levels now.
    pub(crate) fn grow_to(&self, height: usize) {
        if height > self.top() {
            self.height.fetch_max(height as u32, Ordering::Relaxed);
        }
    }

    /// Checks the lengths of an entry and begins to look for its place.
    #[inline]
    pub(crate) fn probe<'k>(
        &self,
        key: &'k [u8],
        version: u64,
        value_len: usize,
    ) -> Result<Probe<'k>, InsertError> {
        if key.len() > MAX_KEY_LEN {
            return Err(InsertError::KeyTooLong { len: key.len(), limit: MAX_KEY_LEN });
        }
        let room = self.capacity() - SkipList::OVERHEAD;
        if arena::node_len(key.len(), value_len) > room {
            // `room` is a multiple of what lengths are rounded up to.
            let limit = room - arena::NODE_HEADER;
            return Err(match limit.checked_sub(key.len()) {
                Some(limit) => InsertError::ValueTooLong { len: value_len, limit },
                None => InsertError::KeyTooLong { len: key.len(), limit },
            });
        }
        Ok(Probe::new(key, version))
    }

    /// The level where a search begins.
    #[inline]
    pub(crate) fn top(&self) -> usize {
        self.height.load(Ordering::Relaxed) as usize
    }

    /// Where the pair belongs, and the record it is to be entered in.
    #[inline]
    pub(crate) fn find_place(&self, probe: &mut Probe<'_>) -> (Place, Base) {
        let (node, base) = self.approach(probe);
        (probe.walk(&self.arena, node), base)
    }

    #[inline]
    fn find_same_key(&self, key: &[u8], at_most: u64) -> Option<NodeId> {
        let mut probe = Probe::new(key, at_most);
        self.find_place(&mut probe);
        probe.same_key()
    }

    /// The last node before the pair, the first at or after it, and the record they were found
    /// through.
    #[inline]
    pub(crate) fn find(&self, probe: &mut Probe<'_>) -> (NodeId, Option<NodeId>, RecordId) {
        let (place, base) = self.find_place(probe);
        (place.node, NodeId::of_link(place.next), base.record)
    }

    /// Makes a node and links it in at `place`, which then tells where it went. The crate's
    /// documentation argues why this is right.
    #[inline]
    pub(crate) fn link_in(
        &self,
        probe: &mut Probe<'_>,
        place: &mut Place,
        value_len: usize,
        fill: impl FnOnce(&mut [u8]),
    ) -> Result<Linked, InsertError> {
        if probe.found().is_some() {
            return Err(InsertError::Exists);
        }
        // Its prev word is written last.
        self.arena.prefetch(place.next as u32);
        let (key, version) = probe.pair();
        let node = self.arena.allocate(key, version, value_len, fill)?;
        loop {
            let after = u64::from(probe.code_after(&self.arena, place.code, place.next)) << 32;
            let link = after | (place.next & 0xffff_ffff);
            self.arena.link(node).store(link, Ordering::Relaxed);
            self.arena.prev(node).store(place.node.word(), Ordering::Relaxed);
            let here = u64::from(place.code) << 32 | u64::from(node.word());
            // Release publishes the node. A failure reads nothing: the walk looks again.
            let linked = self.arena.link(place.node).compare_exchange(
                place.next,
                here,
                Ordering::Release,
                Ordering::Relaxed,
            );
            if linked.is_ok() {
                break;
            }
            // The search still stands where it walked to.
            *place = probe.walk(&self.arena, place.node);
            if let Some(by) = probe.found() {
                self.arena.taken().disown();
                return Ok(Linked::Beaten { node, by });
            }
        }
        self.set_prev(node, place.next);
        Ok(Linked::Node(node))
    }

    /// Tells the node behind `next` that `node` is now before it, unless something newer already
    /// is. A prev word only ever moves towards its own node: see the crate's documentation.
    fn set_prev(&self, node: NodeId, next: u64) {
        let Some(after) = NodeId::of_link(next) else { return };
        let prev = self.arena.prev(after);
        let mut before = prev.load(Ordering::Acquire);
        loop {
            let link = self.arena.link(node).load(Ordering::Acquire);
            if NodeId::of_link(link) != Some(after) {
                return;
            }
            match prev.compare_exchange(before, node.word(), Ordering::Release, Ordering::Acquire) {
                Ok(_) => return,
                Err(now) => before = now,
            }
        }
    }

    /// Whether every entry's way back is as short as can be, which holds whenever nobody inserts.
    #[cfg(any(loom, test))]
    #[doc(hidden)]
    pub fn prevs_are_exact(&self) -> bool {
        let nodes = std::iter::successors(Some(Arena::head()), |&node| self.after(node));
        nodes
            .collect::<Vec<_>>()
            .windows(2)
            .all(|pair| self.arena.prev(pair[1]).load(Ordering::Acquire) == pair[0].word())
    }

    /// The last node, or the head, and the record that leads close to it.
    pub(crate) fn last(&self) -> (NodeId, RecordId) {
        let (mut node, record) = self.far();
        while let Some(next) = self.after(node) {
            node = next;
        }
        (node, record)
    }

    /// The node after this one.
    #[inline]
    pub(crate) fn after(&self, node: NodeId) -> Option<NodeId> {
        NodeId::of_link(self.arena.link(node).load(Ordering::Acquire))
    }

    /// The node before this one, which is not the head; `None` if that is the head.
    #[inline]
    pub(crate) fn before(&self, node: NodeId) -> Option<NodeId> {
        // Some node before this one; those that came in between lie on the way.
        let mut before = NodeId::of_word(self.arena.prev(node).load(Ordering::Acquire))?;
        while let Some(next) = self.after(before).filter(|&next| next != node) {
            before = next;
        }
        (before != Arena::head()).then_some(before)
    }
}

/// What came of a node that was made.
pub(crate) enum Linked {
    /// It is in the list.
    Node(NodeId),
    /// It is not: `by`, with the same pair, was linked in meanwhile. Nobody knows of `node`.
    Beaten { node: NodeId, by: NodeId },
}

impl From<Full> for InsertError {
    fn from(full: Full) -> Self {
        InsertError::Full { needed: full.needed, remaining: full.remaining }
    }
}

impl fmt::Debug for SkipList {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SkipList")
            .field("len", &self.len())
            .field("allocated", &self.allocated())
            .field("capacity", &self.capacity())
            .finish_non_exhaustive()
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn once_nobody_inserts_every_way_back_is_as_short_as_can_be() {
        const EACH: u64 = if cfg!(miri) { 50 } else { 20_000 };
        let list = SkipList::new(Options { capacity: 16 << 20, ..Options::default() });
        let list = list.expect("a list");
        std::thread::scope(|scope| {
            for writer in 0..4 {
                let list = &list;
                scope.spawn(move || {
                    let mut inserter = list.inserter();
                    for i in 0..EACH {
                        // Two write in rising order, next to each other, and two all over.
                        let key = if writer < 2 { i * 4 } else { i.wrapping_mul(0x9e37_79b9) };
                        inserter.insert(&(key + writer).to_be_bytes(), writer, b"").expect("room");
                    }
                });
            }
        });
        assert!(list.prevs_are_exact());
    }
}
