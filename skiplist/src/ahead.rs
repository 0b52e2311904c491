//! Looking ahead on a walk: the index knows where the entries lie that come next.
//!
//! After inserts in random order each step along the list is a cache miss, and the next address is
//! known only when the one before has come. But the slots of an index record name all entries
//! behind its base, if in no order. So a walk asks for the entries of the record it comes to next,
//! a few with every step, and for the record after that: misses overlap. All of this are hints: a
//! walk that lost its way in the index is slower and sees the same.

use crate::arena::{Arena, NodeId, RecordId, SLOTS};
use crate::list::SkipList;
use crate::search::Probe;
use crate::sync::Ordering;

/// Nodes at this distance or less follow each other in memory: the processor sees such walks ahead
/// by itself, but not soon enough.
const NEAR: u32 = 256;

/// How far ahead a walk along such nodes asks, in bytes: a miss of 150 ns has to be over by the time
/// the walk gets there.
const FAR: u32 = 3072;

/// Entries asked for with a step. In a record half full they come up within half of the walk
/// through the record before.
const AT_ONCE: usize = 2;

/// The same where a walk begins, and what comes next has not been asked for before.
const AT_START: usize = 6;

/// Steps without coming to another record after which a walk has lost its way.
const LOST: u32 = 4 * SLOTS as u32;

/// What a walk knows of the index around it.
#[derive(Clone, Copy)]
pub(crate) struct Ahead {
    /// The record whose base is the last one before where the walk is or right there, as far as is
    /// known.
    here: RecordId,
    /// The record next to that one, in the walk's direction.
    next: Option<RecordId>,
    /// The record some of whose entries have been asked for.
    asked: Option<RecordId>,
    slot: usize,
    at_once: usize,
    /// The word of the node at which the walk goes over into the next record, or 0.
    edge: u32,
    direction: Direction,
    steps: u32,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Direction {
    None,
    Forward,
    Backward,
}

impl Ahead {
    /// A walk that begins at an entry found through `here`.
    #[inline]
    pub(crate) const fn from(here: RecordId) -> Ahead {
        Ahead {
            here,
            next: None,
            asked: None,
            slot: 0,
            at_once: AT_START,
            edge: 0,
            direction: Direction::None,
            steps: 0,
        }
    }

    /// Asks for a few more of the entries to come.
    #[inline]
    fn ask(&mut self, arena: &Arena) {
        let Some(asked) = self.asked else { return };
        let slots = arena.slots(asked);
        let until = (self.slot + self.at_once).min(SLOTS);
        for slot in &slots[self.slot.min(until)..until] {
            // Relaxed: only for its address.
            arena.prefetch(slot.load(Ordering::Relaxed) as u32);
        }
        self.slot = until;
        if until == SLOTS && self.asked != self.next {
            self.asked = self.next;
            self.slot = 0;
            self.at_once = AT_ONCE;
        }
    }
}

impl SkipList {
    /// The node after this one, on a walk.
    #[inline]
    pub(crate) fn step(&self, node: NodeId, ahead: &mut Ahead) -> Option<NodeId> {
        let arena = self.arena();
        if ahead.direction != Direction::Forward {
            self.turn(node, ahead, Direction::Forward);
        }
        let next = self.after(node)?;
        if next.word() == ahead.edge {
            self.cross(ahead);
        }
        ahead.steps += 1;
        if next.word().wrapping_sub(node.word()) < NEAR {
            arena.prefetch(next.word().wrapping_add(FAR));
        } else {
            ahead.ask(arena);
            if ahead.steps > LOST {
                self.find_way(next, ahead);
            }
        }
        Some(next)
    }

    /// The node before this one, on a walk; `None` if that is the head.
    #[inline]
    pub(crate) fn step_back(&self, node: NodeId, ahead: &mut Ahead) -> Option<NodeId> {
        if ahead.direction != Direction::Backward {
            self.turn(node, ahead, Direction::Backward);
        }
        let before = self.before(node)?;
        if node.word() == ahead.edge {
            self.cross(ahead);
        }
        ahead.steps += 1;
        ahead.ask(self.arena());
        if ahead.steps > LOST {
            self.find_way(before, ahead);
        }
        Some(before)
    }

    /// Begins to look ahead in a direction.
    #[cold]
    fn turn(&self, node: NodeId, ahead: &mut Ahead, direction: Direction) {
        let arena = self.arena();
        *ahead = Ahead { direction, ..Ahead::from(ahead.here) };
        self.look_from(ahead.here, ahead);
        if direction == Direction::Forward && ahead.edge == node.word() {
            self.look_from(ahead.next.unwrap_or(ahead.here), ahead);
        }
        if let Some(next) = ahead.next {
            arena.prefetch_record(next);
        }
        ahead.asked = Some(ahead.here);
    }

    /// Goes over into the next record.
    fn cross(&self, ahead: &mut Ahead) {
        let Some(here) = ahead.next else { return };
        self.look_from(here, ahead);
        ahead.asked = ahead.next;
        ahead.slot = 0;
        ahead.at_once = AT_ONCE;
        ahead.steps = 0;
        // Its slots will be wanted after the next crossing.
        let beyond = ahead.next.and_then(|next| match ahead.direction {
            Direction::Backward => {
                let word = self.arena().record_prev(next).load(Ordering::Relaxed);
                RecordId::of_word(word)
            }
            _ => self.record_after(next),
        });
        if let Some(beyond) = beyond {
            self.arena().prefetch_record(beyond);
        }
    }

    fn look_from(&self, here: RecordId, ahead: &mut Ahead) {
        let arena = self.arena();
        ahead.here = here;
        if ahead.direction == Direction::Backward {
            ahead.next = self.record_before(here);
            ahead.edge = arena.record_node(here).word();
        } else {
            ahead.next = self.record_after(here);
            ahead.edge = ahead.next.map_or(0, |next| arena.record_node(next).word());
        }
    }

    /// Finds out where in the index a walk is.
    #[cold]
    fn find_way(&self, node: NodeId, ahead: &mut Ahead) {
        let arena = self.arena();
        let mut probe = Probe::new(arena.key(node), arena.version(node));
        let direction = ahead.direction;
        let (_, base) = self.approach(&mut probe);
        *ahead = Ahead::from(base.record);
        self.turn(node, ahead, direction);
    }

    fn record_after(&self, record: RecordId) -> Option<RecordId> {
        RecordId::of_link(self.arena().record_link(record, 0).load(Ordering::Acquire))
    }

    fn record_before(&self, record: RecordId) -> Option<RecordId> {
        // Some record before this one; those that came in between lie on the way.
        let word = self.arena().record_prev(record).load(Ordering::Acquire);
        let mut before = RecordId::of_word(word)?;
        while let Some(next) = self.record_after(before).filter(|&next| next != record) {
            before = next;
        }
        Some(before)
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::Options;
    use crate::cursor::Position;

    const N: u64 = if cfg!(miri) { 300 } else { 3000 };

    /// Fails unless the walk knows where in the index it is.
    fn check(list: &SkipList, at: &Position) {
        let arena = list.arena();
        let node = at.node.expect("an entry");
        let order = |record, node: NodeId| {
            let base = arena.record_node(record);
            match base == Arena::head() {
                true => std::cmp::Ordering::Less,
                false => arena.key(base).cmp(arena.key(node)),
            }
        };
        assert!(order(at.ahead.here, node).is_le(), "the record is before the entry");
        let next = list.record_after(at.ahead.here);
        assert!(next.is_none_or(|next| order(next, node).is_ge()), "and the next one is not");
        assert!(at.ahead.steps <= LOST, "without having been lost");
        match at.ahead.direction {
            Direction::None => {}
            Direction::Forward => assert_eq!(at.ahead.next, next),
            Direction::Backward => assert_eq!(at.ahead.next, list.record_before(at.ahead.here)),
        }
    }

    fn walk(
        list: &SkipList,
        at: &mut Position,
        steps: u64,
        forward: bool,
        check: fn(&SkipList, &Position),
    ) -> u64 {
        for step in 0..steps {
            let Some(node) = at.node else { return step };
            check(list, at);
            at.node = match forward {
                true => list.step(node, &mut at.ahead),
                false => list.step_back(node, &mut at.ahead),
            };
        }
        steps
    }

    #[test]
    fn a_walk_knows_its_record_wherever_it_began_and_turns() {
        let list = SkipList::new(Options { capacity: 1 << 20, ..Options::default() }).unwrap();
        let key = |i: u64| (i.wrapping_mul(0x9e37_79b9_7f4a_7c15)).to_be_bytes();
        for i in 0..N {
            list.insert(&key(i), 1, b"").unwrap();
        }
        assert_eq!(walk(&list, &mut list.first_entry(), u64::MAX, true, check), N);
        assert_eq!(walk(&list, &mut list.last_entry(), u64::MAX, false, check), N);
        for i in 0..N {
            for mut at in [list.seek(&key(i), 1), list.seek_for_prev(&key(i), 1)] {
                for (steps, forward) in
                    [(i % 70, true), (i % 50, false), (i % 3, true), (40, false)]
                {
                    walk(&list, &mut at, steps, forward, check);
                }
            }
        }
    }

    #[test]
    fn a_walk_among_entries_that_come_in_meanwhile_finds_its_way() {
        let list = SkipList::new(Options { capacity: 1 << 20, ..Options::default() }).unwrap();
        let key = |i: u64| i.to_be_bytes();
        for i in 0..N / 2 {
            list.insert(&key(i * 1000), 1, b"").unwrap();
        }
        // Every step has a record's worth of new entries before it.
        let (mut forward, mut backward) = (list.first_entry(), list.last_entry());
        for i in 1..N / 8 {
            for j in 1..SLOTS as u64 {
                list.insert(&key(i * 1000 + j), 1, b"").unwrap();
            }
            walk(&list, &mut forward, 1, true, |_, _| {});
            walk(&list, &mut backward, 1, false, |_, _| {});
        }
        for (mut at, onward) in [(forward, true), (backward, false)] {
            walk(&list, &mut at, 4 * u64::from(LOST), onward, |_, _| {});
            assert!(walk(&list, &mut at, u64::MAX, onward, check) > N / 8, "much is left");
        }
    }
}
