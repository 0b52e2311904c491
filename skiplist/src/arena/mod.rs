//! The arena: where nodes and values lie, and the one place that turns offsets into references.
//!
//! # Layout of a node
//!
//! ```text
//!            -8·(height-1)      -8      0       8       16       24    28     30   31
//!               +-----------+-------+-------+-------+---------+------+------+----+-----+-------+
//!               | link h-1  |  ...  | link 0| value | version | prev | klen | h  | key | value |
//!               +-----------+-------+-------+-------+---------+------+------+----+-----+-------+
//!                                   ^ node id: a multiple of 8
//! ```
//!
//! The tower grows towards lower addresses, so that what a walk along level 0 wants (link 0,
//! lengths, key) is adjacent, and a node that lives on few levels has no room for more of them.
//! A *link* is `code << 32 | node id`, the code being that of the successor relative to this
//! node; a *value word* is `length << 32 | offset`. Both are 64-bit atomics, so each is read and
//! replaced as a whole.
//!
//! # Invariants
//!
//! Everything here is safe to call inside this crate on the strength of these, which the modules
//! that call it keep:
//!
//! - **A1** A [`NodeId`] used with an arena came from [`Arena::allocate`] of that arena, from one
//!   of its links or prev words, or is the head. Links and prev words only ever hold such ids, or
//!   none.
//! - **A2** Level `l` of a node is touched only if `l` is below the node's height. A link of level
//!   `l` leads only to nodes taller than `l`.
//! - **A3** Lengths, version, height and key of a node, and the bytes of a value, are written
//!   before the node or value is published with release ordering, never after; ids and value words
//!   are read with acquire ordering. Hence whoever holds one sees all of them, for good.
//! - **A4** Nothing is given back before the arena as a whole, which needs exclusive access.

#[cfg(not(loom))]
mod memory;
#[cfg(loom)]
mod model;
#[cfg(not(loom))]
mod raw;
mod taken;

#[cfg(loom)]
pub(crate) use self::model::{Arena, OVERHEAD, node_len, value_len};
#[cfg(not(loom))]
pub(crate) use self::raw::{Arena, OVERHEAD, node_len, value_len};
pub(crate) use self::taken::Full;

/// The name of a node: the offset of its level-0 link within the arena.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct NodeId(u32);

impl NodeId {
    /// The id in the lower half of a link, if there is one.
    #[inline]
    pub(crate) fn of_link(link: u64) -> Option<NodeId> {
        NodeId::of_word(link as u32)
    }

    /// The id in a prev word, if there is one.
    #[inline]
    pub(crate) fn of_word(word: u32) -> Option<NodeId> {
        (word != 0).then_some(NodeId(word))
    }

    /// This id as a prev word, or as the lower half of a link.
    #[inline]
    pub(crate) fn word(self) -> u32 {
        self.0
    }
}

/// A link that leads nowhere. Its code is the largest there is, so a search stops here; in the
/// one case where a key has the same code, the missing id tells.
pub(crate) const END: u64 = 0xffff_ffff << 32;

/// Offsets have 32 bits.
#[cfg(target_pointer_width = "64")]
pub(crate) const MAX_CAPACITY: usize = 1 << 32;
#[cfg(not(target_pointer_width = "64"))]
pub(crate) const MAX_CAPACITY: usize = 1 << 30;
