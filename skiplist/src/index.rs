//! The index: hints that lead a search close to its place.
//!
//! The index decides nothing. It is a skiplist of *records*; a record belongs to a node, its
//! *base*, and its slots hold links to nodes that come after the base, in no order. All codes in a
//! record are relative to the base, so a search that stands on the base picks, without touching a
//! key, the slot that leads farthest without overshooting. Any node that a slot or a link of the
//! index leads to is in the list for good, so a slot can be stale, missing, or misplaced without
//! making anything wrong: it costs the search steps along the list. That is why writers here never
//! wait for one another. Whoever finds a slot taken or a record being split leaves the hint out.

use crate::arena::{Arena, END, NodeId, RecordId, SLOTS};
use crate::code::{code, compare};
use crate::height::{MAX_HEIGHT, height};
use crate::list::SkipList;
use crate::search::Probe;
use crate::sync::Ordering;

/// The record whose base is the last one before a pair.
#[derive(Clone, Copy)]
pub(crate) struct Base {
    pub(crate) record: RecordId,
    /// The code of the pair's key relative to the record's base.
    pub(crate) code: u32,
    /// A slot that was seen empty, or [`SLOTS`].
    pub(crate) empty: usize,
}

impl SkipList {
    /// Finds the last base before the pair, and from there a node before the pair that is close
    /// to it; the probe, which stood on the head, stands on that node afterwards.
    #[inline]
    pub(crate) fn approach(&self, probe: &mut Probe<'_>) -> (NodeId, Base) {
        let arena = self.arena();
        let mut record = Arena::first_record();
        for level in (0..self.top()).rev() {
            record = probe.walk_records(arena, record, level).0;
        }
        self.approach_from(probe, record)
    }

    /// As [`approach`](SkipList::approach), the base being known, and the probe standing on it.
    #[inline]
    pub(crate) fn approach_from(&self, probe: &mut Probe<'_>, record: RecordId) -> (NodeId, Base) {
        let arena = self.arena();
        let code = probe.code();
        let limit = u64::from(code) << 32;
        let (mut before, mut after, mut empty) = (0, END, SLOTS);
        for slot in 0..SLOTS {
            // Acquire: makes the node behind the slot readable (A3).
            let link = arena.slot(record, slot).load(Ordering::Acquire);
            if link == END {
                empty = slot;
            }
            if link < limit {
                before = before.max(link);
            } else {
                after = after.min(link);
            }
        }
        let base = Base { record, code, empty };
        let Some(node) = NodeId::of_link(before) else {
            return (arena.record_node(record), base);
        };
        // The walk will want both.
        arena.prefetch(before as u32);
        arena.prefetch(after as u32);
        probe.follow((before >> 32) as u32);
        (node, base)
    }

    /// A slot of a record that is empty, or [`SLOTS`].
    pub(crate) fn empty_slot(&self, record: RecordId) -> usize {
        let empty = |&slot: &usize| self.arena().slot(record, slot).load(Ordering::Relaxed) == END;
        (0..SLOTS).rev().find(empty).unwrap_or(SLOTS)
    }

    /// Enters a node that was just linked in, behind its base.
    pub(crate) fn enter(&self, base: &Base, node: NodeId) {
        let arena = self.arena();
        let link = u64::from(base.code) << 32 | u64::from(node.word());
        if base.empty < SLOTS {
            // Release: whoever reads the slot may read the node. If another was faster, that one
            // is in the index instead.
            let slot = arena.slot(base.record, base.empty);
            let _ = slot.compare_exchange(END, link, Ordering::Release, Ordering::Relaxed);
            return;
        }
        let lock = arena.record_lock(base.record);
        let locked = lock.compare_exchange(0, 1, Ordering::Acquire, Ordering::Relaxed).is_ok();
        let split = locked && self.split(base.record, link);
        if locked {
            lock.store(0, Ordering::Release);
        }
        if !split {
            // No room, or somebody is about to make some. A fresh hint is as good as an old one.
            let slot = node.word() as usize / 8 % SLOTS;
            arena.slot(base.record, slot).store(link, Ordering::Release);
        }
    }

    /// Splits a full record, which the caller has locked, to make room for `link`.
    #[cold]
    fn split(&self, record: RecordId, link: u64) -> bool {
        let arena = self.arena();
        let mut links = [END; SLOTS + 1];
        for (slot, link) in links[..SLOTS].iter_mut().enumerate() {
            *link = arena.slot(record, slot).load(Ordering::Acquire);
        }
        links[SLOTS] = link;
        let key = |link: u64| NodeId::of_link(link).map(|node| (arena.key(node), node));
        links.sort_unstable_by(|&a, &b| {
            (a >> 32).cmp(&(b >> 32)).then_with(|| match (key(a), key(b)) {
                (Some((a, m)), Some((b, n))) => {
                    let versions = || arena.version(n).cmp(&arena.version(m));
                    compare(a, b, 0).0.then_with(versions)
                }
                (a, b) => a.is_none().cmp(&b.is_none()),
            })
        });
        // Entries that arrive in order leave full records behind. Only at the list's end: in front
        // of another base, entries in falling order would each get a record to themselves.
        let last = key(link).is_some_and(|(_, node)| self.after(node).is_none());
        let middle = if last && links[SLOTS] == link { SLOTS } else { SLOTS / 2 };
        let Some((base_key, base)) = key(links[middle]) else { return false };
        let number = (arena.index_bytes() / 64) as u32;
        let height = height(self.seed(), number);
        let Some(new) = arena.allocate_record(base, height) else { return false };
        for (slot, &link) in links[middle + 1..].iter().enumerate() {
            let Some((after, node)) = key(link) else { continue };
            let (_, common) = compare(base_key, after, 0);
            let moved = u64::from(code(after, common)) << 32 | u64::from(node.word());
            // Relaxed: linking the record in publishes these.
            arena.slot(new, slot).store(moved, Ordering::Relaxed);
        }
        self.link_record(new, base, height);
        let moved = &links[middle..];
        for slot in 0..SLOTS {
            let slot = arena.slot(record, slot);
            let there = slot.load(Ordering::Relaxed);
            if moved.contains(&there) {
                let _ = slot.compare_exchange(there, END, Ordering::Relaxed, Ordering::Relaxed);
            }
        }
        if !moved.contains(&link) {
            let slot = (0..SLOTS).map(|slot| arena.slot(record, slot)).find(|slot| {
                slot.compare_exchange(END, link, Ordering::Release, Ordering::Relaxed).is_ok()
            });
            return slot.is_some();
        }
        true
    }

    /// Links a record in on the levels below `height`.
    fn link_record(&self, new: RecordId, base: NodeId, height: usize) {
        let arena = self.arena();
        let mut probe = Probe::new(arena.key(base), arena.version(base));
        let mut record = Arena::first_record();
        let mut places = [(record, 0, END); MAX_HEIGHT];
        for level in (0..self.top().max(height)).rev() {
            let (last, next) = probe.walk_records(arena, record, level);
            record = last;
            places[level] = (record, probe.code(), next);
        }
        for (level, place) in places.iter().enumerate().take(height) {
            let (mut record, mut code, mut next) = *place;
            loop {
                let after = u64::from(probe.code_after_record(arena, code, next)) << 32;
                arena
                    .record_link(new, level)
                    .store(after | (next & 0xffff_ffff), Ordering::Relaxed);
                let here = u64::from(code) << 32 | u64::from(new.word());
                // Release publishes the record. A failure reads nothing: the walk looks again.
                let linked = arena.record_link(record, level).compare_exchange(
                    next,
                    here,
                    Ordering::Release,
                    Ordering::Relaxed,
                );
                if linked.is_ok() {
                    break;
                }
                probe.return_to(arena, arena.record_node(record), code);
                (record, next) = probe.walk_records(arena, record, level);
                code = probe.code();
            }
        }
        self.grow_to(height);
    }
}
