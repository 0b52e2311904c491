//! Cursors: a position in the list, moved both ways.

use std::fmt;
use std::sync::Arc;

use crate::arena::{Arena, NodeId};
use crate::entry::{EntryRef, OwnedEntry};
use crate::list::SkipList;
use crate::search::Probe;

/// The moves of both cursors: positions are node ids, so they are cheap to hold and stay good.
impl SkipList {
    fn seek(&self, key: &[u8], version: u64) -> Option<NodeId> {
        self.find(&mut Probe::new(key, version)).1
    }

    /// `node`, if it is an entry.
    pub(crate) fn before_or_none(&self, node: NodeId) -> Option<NodeId> {
        (node != Arena::head()).then_some(node)
    }

    pub(crate) fn seek_for_prev(&self, key: &[u8], version: u64) -> Option<NodeId> {
        let mut probe = Probe::new(key, version);
        let (before, _) = self.find(&mut probe);
        probe.found().or_else(|| self.before_or_none(before))
    }

    pub(crate) fn first_node(&self) -> Option<NodeId> {
        self.after(Arena::head())
    }

    pub(crate) fn last_node(&self) -> Option<NodeId> {
        self.before_or_none(self.last())
    }
}

macro_rules! moves {
    () => {
        /// Whether the cursor stands on an entry.
        #[inline]
        #[must_use]
        pub fn valid(&self) -> bool {
            self.node.is_some()
        }

        /// Moves to the first entry. This move, like all others, tells whether the cursor stands
        /// on an entry afterwards.
        pub fn first(&mut self) -> bool {
            self.node = self.list.first_node();
            self.valid()
        }

        /// Moves to the last entry.
        pub fn last(&mut self) -> bool {
            self.node = self.list.last_node();
            self.valid()
        }

        /// Moves to the next entry. Behind the last one the cursor stands nowhere, and stays there
        /// until it is moved to a place by name.
        #[inline]
        #[allow(clippy::should_implement_trait, reason = "a cursor lends; it is no iterator")]
        pub fn next(&mut self) -> bool {
            self.node = self.node.and_then(|node| self.list.step(node));
            self.valid()
        }

        /// Moves to the previous entry. Before the first one the cursor stands nowhere, and stays
        /// there until it is moved to a place by name.
        #[inline]
        pub fn prev(&mut self) -> bool {
            self.node = self.node.and_then(|node| self.list.before(node));
            self.valid()
        }

        /// Moves to the first entry at or after `(key, version)`: with `version` as an upper
        /// limit, the newest visible entry of `key` if there is one.
        pub fn seek(&mut self, key: &[u8], version: u64) -> bool {
            self.node = self.list.seek(key, version);
            self.valid()
        }

        /// Moves to the last entry at or before `(key, version)`.
        pub fn seek_for_prev(&mut self, key: &[u8], version: u64) -> bool {
            self.node = self.list.seek_for_prev(key, version);
            self.valid()
        }
    };
}

/// A position in a list; see [`SkipList::cursor`].
///
/// ```
/// # use kvdb_skiplist::{Options, SkipList};
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let list = SkipList::new(Options { capacity: 1 << 16, ..Options::default() })?;
/// list.insert(b"b", 1, b"old")?;
/// list.insert(b"b", 2, b"new")?;
/// let mut cursor = list.cursor();
/// assert!(cursor.seek(b"a", u64::MAX));
/// assert_eq!((cursor.key(), cursor.version(), cursor.value()), (&b"b"[..], 2, &b"new"[..]));
/// assert!(cursor.next() && cursor.version() == 1);
/// assert!(!cursor.next());
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct Cursor<'a> {
    list: &'a SkipList,
    node: Option<NodeId>,
}

impl<'a> Cursor<'a> {
    pub(crate) fn new(list: &'a SkipList) -> Cursor<'a> {
        Cursor { list, node: None }
    }

    moves!();

    /// The entry the cursor stands on, if any.
    #[inline]
    #[must_use]
    pub fn entry(&self) -> Option<EntryRef<'a>> {
        Some(EntryRef::new(self.list.arena(), self.node?))
    }

    /// The key of the entry; empty if the cursor stands nowhere.
    #[inline]
    #[must_use]
    pub fn key(&self) -> &'a [u8] {
        self.node.map_or(&[], |node| self.list.arena().key(node))
    }

    /// The version of the entry; 0 if the cursor stands nowhere.
    #[inline]
    #[must_use]
    pub fn version(&self) -> u64 {
        self.node.map_or(0, |node| self.list.arena().version(node))
    }

    /// The current value of the entry; empty if the cursor stands nowhere.
    #[inline]
    #[must_use]
    pub fn value(&self) -> &'a [u8] {
        self.node.map_or(&[], |node| self.list.arena().value(node))
    }
}

/// A position in a list that keeps the list alive; see [`SkipList::owned_cursor`].
#[derive(Clone)]
pub struct OwnedCursor {
    list: Arc<SkipList>,
    node: Option<NodeId>,
}

impl OwnedCursor {
    pub(crate) fn new(list: Arc<SkipList>) -> OwnedCursor {
        OwnedCursor { list, node: None }
    }

    moves!();

    /// The list.
    #[must_use]
    pub fn list(&self) -> &Arc<SkipList> {
        &self.list
    }

    /// A handle of the entry the cursor stands on, if any.
    #[must_use]
    pub fn entry(&self) -> Option<OwnedEntry> {
        Some(OwnedEntry::new(Arc::clone(&self.list), self.node?))
    }

    /// The key of the entry; empty if the cursor stands nowhere.
    #[inline]
    #[must_use]
    pub fn key(&self) -> &[u8] {
        self.node.map_or(&[], |node| self.list.arena().key(node))
    }

    /// The version of the entry; 0 if the cursor stands nowhere.
    #[inline]
    #[must_use]
    pub fn version(&self) -> u64 {
        self.node.map_or(0, |node| self.list.arena().version(node))
    }

    /// The current value of the entry; empty if the cursor stands nowhere.
    #[inline]
    #[must_use]
    pub fn value(&self) -> &[u8] {
        self.node.map_or(&[], |node| self.list.arena().value(node))
    }
}

impl fmt::Debug for Cursor<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cursor").field("entry", &self.entry()).finish_non_exhaustive()
    }
}

impl fmt::Debug for OwnedCursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OwnedCursor").field("entry", &self.entry()).finish_non_exhaustive()
    }
}
