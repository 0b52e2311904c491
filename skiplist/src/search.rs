//! Finding a place: the walk that everything else is made of.

use std::cmp::Ordering as Order;

use crate::arena::{Arena, NodeId, RecordId};
use crate::code::{ENDLESS, agreed, code, compare, shared};
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

/// Where a new node goes: between `node` and what `next` leads to.
#[derive(Clone, Copy)]
pub(crate) struct Place {
    /// The last node before the pair.
    pub(crate) node: NodeId,
    /// The code of the pair's key relative to that node.
    pub(crate) code: u32,
    /// The node's link as it was seen.
    pub(crate) next: u64,
}

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

    /// After a search among the nodes: the first one at or after the pair, if it has the same key.
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

    /// Begins anew, standing on the head.
    pub(crate) fn stand_on_head(&mut self) {
        self.share(0);
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

    /// Whether the pair belongs right behind the node stood on.
    #[inline]
    pub(crate) fn is_next(&self, arena: &Arena, link: u64, next: Option<NodeId>) -> bool {
        let next_code = (link >> 32) as u32;
        match next {
            Some(next) if next_code == self.code => {
                self.compare(arena, next, agreed(self.common)).1 != Order::Greater
            }
            Some(_) => next_code > self.code,
            None => true,
        }
    }

    /// Goes over to a node before the pair whose code, relative to the node stood on, is `code`.
    #[inline]
    pub(crate) fn follow(&mut self, code: u32) {
        // Also where nothing more is shared, which happens too irregularly for a branch.
        self.share(self.common + shared(code, self.code));
    }

    /// Walks along the nodes from `node`, on which the search stands, to the last one before the
    /// pair; returns where that is. Afterwards the search stands there.
    #[inline]
    pub(crate) fn walk(&mut self, arena: &Arena, mut node: NodeId) -> Place {
        loop {
            // Acquire: makes the node behind the link readable (A3).
            let link = arena.link(node).load(Ordering::Acquire);
            if !self.goes_beyond(arena, link, NodeId::of_link(link)) {
                return Place { node, code: self.code, next: link };
            }
            node = NodeId::of_link(link).unwrap_or(node);
        }
    }

    /// Walks along one level of a layer of the index from `record`, on whose base the search stands, to the
    /// last record whose base is before the pair; returns it with its link. Afterwards the search
    /// stands on its base.
    #[inline]
    pub(crate) fn walk_records(
        &mut self,
        arena: &Arena,
        mut record: RecordId,
        level: usize,
    ) -> (RecordId, u64) {
        loop {
            // Acquire: makes the record behind the link, and its base, readable (A3).
            let link = arena.record_link(record, level).load(Ordering::Acquire);
            let Some(next) = RecordId::of_link(link) else { return (record, link) };
            let next_code = (link >> 32) as u32;
            if next_code > self.code {
                return (record, link);
            }
            let base = if next_code == self.code { Some(arena.record_node(next)) } else { None };
            if level == 0 {
                // Likely to be the record sought: have its slots come along with its header.
                arena.prefetch_record(next);
            }
            if !self.goes_beyond(arena, link, base) {
                return (record, link);
            }
            record = next;
        }
    }

    /// Whether the node behind a link of the node stood on is before the pair; if so, the search
    /// stands on it afterwards. `next` is that node, and is needed only where the codes tie.
    #[inline(always)]
    fn goes_beyond(&mut self, arena: &Arena, link: u64, next: Option<NodeId>) -> bool {
        let next_code = (link >> 32) as u32;
        if next_code > self.code {
            return false;
        }
        if next_code < self.code {
            self.follow(next_code);
            return true;
        }
        let Some(next) = next else { return false };
        if self.bound.is_some_and(|bound| bound.node == next) {
            return false;
        }
        let (keys, pairs, common) = self.compare(arena, next, agreed(self.common));
        if pairs == Order::Greater {
            self.share(common);
            return true;
        }
        self.bound = Some(Bound {
            node: next,
            same_key: keys == Order::Equal,
            same_pair: pairs == Order::Equal,
        });
        false
    }

    /// The code of the node behind a link relative to a new node with the pair's key, put between
    /// it and the link's node, relative to which the pair's key has `code`.
    #[inline]
    pub(crate) fn code_after(&self, arena: &Arena, code: u32, link: u64) -> u32 {
        self.code_of_next(arena, code, link, || NodeId::of_link(link))
    }

    /// The same for a link between records.
    pub(crate) fn code_after_record(&self, arena: &Arena, code: u32, link: u64) -> u32 {
        self.code_of_next(arena, code, link, || {
            RecordId::of_link(link).map(|record| arena.record_node(record))
        })
    }

    #[inline(always)]
    fn code_of_next(
        &self,
        arena: &Arena,
        code: u32,
        link: u64,
        next: impl FnOnce() -> Option<NodeId>,
    ) -> u32 {
        let next_code = (link >> 32) as u32;
        if next_code != code && shared(next_code, code) == 0 {
            // The two leave the node before them differently, and so each other where the
            // successor leaves it: the theorem of offset-value codes.
            return next_code;
        }
        let Some(next) = next() else { return next_code };
        let after = arena.key(next);
        let (_, common) = compare(self.key, after, 0);
        self::code(after, common)
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

    /// Takes the search back to a node before the pair, relative to which the pair's key has
    /// `code`.
    pub(crate) fn return_to(&mut self, arena: &Arena, node: NodeId, code: u32) {
        self.code = code;
        self.common = match code >> 24 {
            // The code does not tell.
            0 if node != Arena::head() => compare(self.key, arena.key(node), 0).1,
            upper => 255 - upper as usize,
        };
        debug_assert!(self.common == ENDLESS || self.code == self::code(self.key, self.common));
    }
}
