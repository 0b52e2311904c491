//! The arena: where nodes and values lie, and the one place that turns offsets into references.
//!
//! # Layout
//!
//! ```text
//!            0        8       16        24     28     30
//!           +--------+-------+---------+------+------+-----+-------+
//!   node    | link   | value | version | prev | klen | key | value |       a multiple of 8 bytes
//!           +--------+-------+---------+------+------+-----+-------+
//!
//!            0      8      12     16     20     24                       256
//!           +------+------+------+------+------+--------+-----+---------+--------+-----+
//!   record  | next | node | down | prev | lock | slot 0 | ... | slot 28 | link 1 | ... |
//!           +------+------+------+------+------+--------+-----+---------+--------+-----+
//!
//!           a multiple of 64 bytes; `next` is link 0, and only the top layer has others
//! ```
//!
//! A *link* is `code << 32 | id`, the code being that of the node it leads to relative to the node
//! it is at; a record's links lead to records of its layer and its slots to nodes, or to records one
//! layer below, and their codes are relative to the record's node. A *value word* is `length << 32 | offset`, and 0 for an empty value. All are 64-bit atomics, so
//! each is read and replaced as a whole. Nodes and values grow from the start of the memory up to
//! the capacity; records are behind it.
//!
//! # Invariants
//!
//! Everything here is safe to call inside this crate on the strength of these, which the modules
//! that call it keep:
//!
//! - **A1** An id used with an arena came from an `allocate` of that arena, from one of its links,
//!   slots or prev words, or is that of the head or the head's record; node ids are used for nodes
//!   and record ids for records. Links, slots and prev words only ever hold such ids, or none.
//! - **A2** Level `l` of a record is touched only if `l` is below the record's height, which is 1
//!   below the top layer. A link of level `l` leads only to records taller than `l`. `down` is
//!   read only above the lowest layer.
//! - **A3** Lengths, version and key of a node, the bytes of a value, node and `down` of a record are
//!   written before the node, value or record is published with release ordering, never after;
//!   ids and value words are read with acquire ordering. Hence whoever holds one sees all of them,
//!   for good.
//! - **A4** Nothing is given back before the arena as a whole, which needs exclusive access.

#[cfg(not(loom))]
mod memory;
#[cfg(loom)]
mod model;
#[cfg(not(loom))]
mod raw;
mod taken;

#[cfg(loom)]
pub(crate) use self::model::{
    Arena, LAYERS, NODE_HEADER, OVERHEAD, SLOTS, index_len, node_len, value_len,
};
#[cfg(not(loom))]
pub(crate) use self::raw::{
    Arena, LAYERS, NODE_HEADER, OVERHEAD, SLOTS, index_len, node_len, value_len,
};
pub(crate) use self::taken::Full;

/// The name of a node: its offset within the arena.
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

/// The name of an index record.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct RecordId(u32);

impl RecordId {
    /// The id in the lower half of a link between records, if there is one.
    #[inline]
    pub(crate) fn of_link(link: u64) -> Option<RecordId> {
        (link as u32 != 0).then_some(RecordId(link as u32))
    }

    /// The id in a record's prev word, if there is one.
    #[inline]
    pub(crate) fn of_word(word: u32) -> Option<RecordId> {
        (word != 0).then_some(RecordId(word))
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
