//! Entries, borrowed and owned.

use std::fmt;
use std::sync::Arc;

use crate::arena::{Arena, NodeId};
use crate::list::SkipList;

/// An entry, borrowed from the list.
///
/// The value is the one the entry had when it was looked up; an
/// [`upsert`](SkipList::upsert) later on does not change it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct EntryRef<'a> {
    key: &'a [u8],
    version: u64,
    value: &'a [u8],
}

impl<'a> EntryRef<'a> {
    #[inline]
    pub(crate) fn new(arena: &'a Arena, node: NodeId) -> EntryRef<'a> {
        EntryRef { key: arena.key(node), version: arena.version(node), value: arena.value(node) }
    }

    /// The key.
    #[inline]
    #[must_use]
    pub fn key(&self) -> &'a [u8] {
        self.key
    }

    /// The version.
    #[inline]
    #[must_use]
    pub fn version(&self) -> u64 {
        self.version
    }

    /// The value.
    #[inline]
    #[must_use]
    pub fn value(&self) -> &'a [u8] {
        self.value
    }
}

/// An entry that keeps its list alive, at the price of one reference count.
///
/// The value is the one the entry had when it was looked up; an
/// [`upsert`](SkipList::upsert) later on does not change it.
#[derive(Clone)]
pub struct OwnedEntry {
    list: Arc<SkipList>,
    node: NodeId,
    value: u64,
}

impl OwnedEntry {
    pub(crate) fn new(list: Arc<SkipList>, node: NodeId) -> OwnedEntry {
        let value = list.arena().value_word(node).load(crate::sync::Ordering::Acquire);
        OwnedEntry { list, node, value }
    }

    /// The key.
    #[must_use]
    pub fn key(&self) -> &[u8] {
        self.list.arena().key(self.node)
    }

    /// The version.
    #[must_use]
    pub fn version(&self) -> u64 {
        self.list.arena().version(self.node)
    }

    /// The value.
    #[must_use]
    pub fn value(&self) -> &[u8] {
        self.list.arena().value_of(self.value)
    }
}

impl fmt::Debug for OwnedEntry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OwnedEntry")
            .field("key", &self.key())
            .field("version", &self.version())
            .field("value", &self.value())
            .finish()
    }
}
