//! Finding a place: the walk that everything else is made of.

use std::cmp::Ordering as Order;

use crate::arena::{Arena, NodeId};
use crate::code::{ENDLESS, agreed, code, compare, shared};
use crate::height::MAX_HEIGHT;
use crate::sync::Ordering;

/// A pair that is looked for, and what is known of it relative to the node the search stands on.
///
/// Invariant **S1**: the node stood on is before the pair, `common` is the length of the prefix
/// its key shares with the pair's key ([`ENDLESS`] if trailing zeros are all that differs), and
/// `code` is the code of the pair's key relative to it. The head counts as a key that shares
/// nothing with any other.
pub(crate) struct Probe<'k> {
    key: &'k [u8],
    version: u64,
    common: usize,
    code: u32,
    /// The leftmost node found to be at or after the pair by comparing keys.
    bound: Option<Bound>,
}

/// A node at or after the pair that was looked for.
#[derive(Clone, Copy)]
struct Bound {
    node: NodeId,
    /// How the pair's key compares to the node's key, then the whole pair to the whole node.
    same_key: bool,
    same_pair: bool,
}

/// Where a new node goes on one level: between `node` and what `next` leads to.
#[derive(Clone, Copy)]
pub(crate) struct Place {
    /// The last node before the pair.
    pub(crate) node: NodeId,
    /// The code of the pair's key relative to that node.
    pub(crate) code: u32,
    /// The node's link as it was seen.
    pub(crate) next: u64,
}

/// The places on all levels.
pub(crate) type Places = [Place; MAX_HEIGHT];

/// Places before the first search: the beginning of every level.
pub(crate) const NOWHERE: Places =
    [Place { node: Arena::head(), code: 0, next: crate::arena::END }; MAX_HEIGHT];

impl<'k> Probe<'k> {
    /// Looks for a pair, standing on the head.
    #[inline]
    pub(crate) fn new(key: &'k [u8], version: u64) -> Probe<'k> {
        Probe { key, version, common: 0, code: code(key, 0), bound: None }
    }

    /// Whether a node with exactly this pair was met.
    #[inline]
    pub(crate) fn found(&self) -> Option<NodeId> {
        self.bound.filter(|bound| bound.same_pair).map(|bound| bound.node)
    }

    /// After a search to level 0: the first node at or after the pair, if it has the same key.
    #[inline]
    pub(crate) fn same_key(&self) -> Option<NodeId> {
        self.bound.filter(|bound| bound.same_key).map(|bound| bound.node)
    }

    /// Orders the pair and a node, and tells the common prefix of their keys.
    #[inline]
    fn compare(&self, arena: &Arena, node: NodeId, from: usize) -> (Order, Order, usize) {
        let (keys, common) = compare(self.key, arena.key(node), from);
        // Newer versions come first.
        let pairs = keys.then_with(|| arena.version(node).cmp(&self.version));
        (keys, pairs, common)
    }

    #[inline]
    fn share(&mut self, common: usize) {
        self.common = common;
        self.code = code(self.key, common);
    }

    /// The prefix shared with the key of `node`, if that is before the pair.
    #[inline]
    fn common_if_after(&self, arena: &Arena, node: NodeId) -> Option<usize> {
        if node == Arena::head() {
            return Some(0);
        }
        let (_, pairs, common) = self.compare(arena, node, 0);
        (pairs == Order::Greater).then_some(common)
    }

    /// Stands on `node` if that is before the pair, and tells whether it is.
    #[inline]
    pub(crate) fn stand_on(&mut self, arena: &Arena, node: NodeId) -> bool {
        let common = self.common_if_after(arena, node);
        if let Some(common) = common {
            self.share(common);
        }
        common.is_some()
    }

    /// Stands on `node` if that is before the pair and known to be nearer than the node stood on;
    /// tells whether so. Of two nodes before the pair, the one relative to which the pair's code
    /// is smaller is the later one; equal codes leave it open.
    #[inline]
    pub(crate) fn stand_nearer(&mut self, arena: &Arena, node: NodeId) -> bool {
        let Some(common) = self.common_if_after(arena, node) else { return false };
        let nearer = code(self.key, common) < self.code;
        if nearer {
            self.share(common);
        }
        nearer
    }

    /// Whether the pair, on a level of the node stood on, belongs right behind that node.
    #[inline]
    pub(crate) fn is_next(&self, arena: &Arena, node: NodeId, level: usize) -> bool {
        let link = arena.link(node, level).load(Ordering::Acquire);
        let next_code = (link >> 32) as u32;
        match NodeId::of_link(link) {
            Some(next) if next_code == self.code => {
                self.compare(arena, next, agreed(self.common)).1 != Order::Greater
            }
            Some(_) => next_code > self.code,
            None => true,
        }
    }

    /// Walks along one level from `node`, on which the search stands, to the last node before the
    /// pair; returns it with its link. Afterwards the search stands there.
    #[inline]
    pub(crate) fn walk(&mut self, arena: &Arena, mut node: NodeId, level: usize) -> (NodeId, u64) {
        loop {
            // Acquire: makes the node behind the link readable (A3).
            let link = arena.link(node, level).load(Ordering::Acquire);
            let next_code = (link >> 32) as u32;
            if next_code > self.code {
                return (node, link);
            }
            let Some(next) = NodeId::of_link(link) else { return (node, link) };
            if next_code < self.code {
                let more = shared(next_code, self.code);
                if more != 0 {
                    self.share(self.common + more);
                }
                node = next;
                continue;
            }
            if self.bound.is_some_and(|bound| bound.node == next) {
                return (node, link);
            }
            let (keys, pairs, common) = self.compare(arena, next, agreed(self.common));
            if pairs != Order::Greater {
                self.bound = Some(Bound {
                    node: next,
                    same_key: keys == Order::Equal,
                    same_pair: pairs == Order::Equal,
                });
                return (node, link);
            }
            self.share(common);
            node = next;
        }
    }

    /// The code of the node behind `next` relative to a new node with the pair's key, put between
    /// that node and one with `link` to it, relative to which the pair's key has `code`.
    #[inline]
    pub(crate) fn code_after(&self, arena: &Arena, place: &Place) -> u32 {
        let next_code = (place.next >> 32) as u32;
        let Some(next) = NodeId::of_link(place.next) else { return next_code };
        if next_code != place.code && shared(next_code, place.code) == 0 {
            // The two leave the node before them differently, and so each other where the
            // successor leaves it: the theorem of offset-value codes.
            return next_code;
        }
        let after = arena.key(next);
        let (_, common) = compare(self.key, after, 0);
        code(after, common)
    }

    #[inline]
    pub(crate) fn pair(&self) -> (&'k [u8], u64) {
        (self.key, self.version)
    }

    /// The code of the pair's key relative to the node stood on.
    #[inline]
    pub(crate) fn code(&self) -> u32 {
        self.code
    }

    /// Takes the search back to a place found earlier.
    pub(crate) fn return_to(&mut self, arena: &Arena, place: &Place) {
        self.code = place.code;
        self.common = match place.code >> 24 {
            // The code does not tell.
            0 if place.node != Arena::head() => compare(self.key, arena.key(place.node), 0).1,
            upper => 255 - upper as usize,
        };
        debug_assert!(self.common == ENDLESS || self.code == code(self.key, self.common));
    }
}
