//! Cursors: a position in the list, moved both ways.

use std::fmt;
use std::sync::Arc;

use crate::ahead::Ahead;
use crate::arena::{Arena, NodeId, RecordId};
use crate::entry::{EntryRef, OwnedEntry};
use crate::list::SkipList;
use crate::search::Probe;

/// Where a cursor stands: an entry, if any, and what is known of the way on. Ids are cheap to hold
/// and stay good.
#[derive(Clone, Copy)]
pub(crate) struct Position {
    pub(crate) node: Option<NodeId>,
    pub(crate) ahead: Ahead,
}

impl Position {
    const NOWHERE: Position = Position { node: None, ahead: Ahead::from(Arena::first_record(0)) };

    fn found(node: Option<NodeId>, record: RecordId) -> Position {
        Position { node, ahead: Ahead::from(record) }
    }
}

/// The moves of both cursors, and the ends of ranges.
impl SkipList {
    /// The first entry at or after the pair.
    #[inline]
    pub(crate) fn seek(&self, key: &[u8], version: u64) -> Position {
        let (_, node, record) = self.find(&mut Probe::new(key, version));
        Position::found(node, record)
    }

    /// The first entry after the pair.
    pub(crate) fn seek_after(&self, key: &[u8], version: u64) -> Position {
        let mut probe = Probe::new(key, version);
        let (_, at_or_after, record) = self.find(&mut probe);
        let node = match probe.found() {
            Some(node) => self.after(node),
            None => at_or_after,
        };
        Position::found(node, record)
    }

    /// The last entry at or before the pair.
    pub(crate) fn seek_for_prev(&self, key: &[u8], version: u64) -> Position {
        let mut probe = Probe::new(key, version);
        let (before, _, record) = self.find(&mut probe);
        Position::found(probe.found().or_else(|| entry(before)), record)
    }

    /// The last entry before the pair.
    pub(crate) fn seek_before(&self, key: &[u8], version: u64) -> Position {
        let (before, _, record) = self.find(&mut Probe::new(key, version));
        Position::found(entry(before), record)
    }

    pub(crate) fn first_entry(&self) -> Position {
        Position::found(self.after(Arena::head()), Arena::first_record(0))
    }

    pub(crate) fn last_entry(&self) -> Position {
        let (last, record) = self.last();
        Position::found(entry(last), record)
    }
}

/// A node, if it is an entry.
fn entry(node: NodeId) -> Option<NodeId> {
    (node != Arena::head()).then_some(node)
}

macro_rules! moves {
    () => {
        /// Whether the cursor stands on an entry.
        #[inline]
        #[must_use]
        pub fn valid(&self) -> bool {
            self.at.node.is_some()
        }

        /// Moves to the first entry. This move, like all others, tells whether the cursor stands
        /// on an entry afterwards.
        pub fn first(&mut self) -> bool {
            self.at = self.list.first_entry();
            self.valid()
        }

        /// Moves to the last entry.
        pub fn last(&mut self) -> bool {
            self.at = self.list.last_entry();
            self.valid()
        }

        /// Moves to the next entry. Behind the last one the cursor stands nowhere, and stays there
        /// until it is moved to a place by name.
        #[inline]
        #[allow(clippy::should_implement_trait, reason = "a cursor lends; it is no iterator")]
        pub fn next(&mut self) -> bool {
            self.at.node = self.at.node.and_then(|node| self.list.step(node, &mut self.at.ahead));
            self.valid()
        }

        /// Moves to the previous entry. Before the first one the cursor stands nowhere, and stays
        /// there until it is moved to a place by name.
        #[inline]
        pub fn prev(&mut self) -> bool {
            self.at.node =
                self.at.node.and_then(|node| self.list.step_back(node, &mut self.at.ahead));
            self.valid()
        }

        /// Moves to the first entry at or after `(key, version)`: with `version` as an upper
        /// limit, the newest visible entry of `key` if there is one.
        pub fn seek(&mut self, key: &[u8], version: u64) -> bool {
            self.at = self.list.seek(key, version);
            self.valid()
        }

        /// Moves to the last entry at or before `(key, version)`.
        pub fn seek_for_prev(&mut self, key: &[u8], version: u64) -> bool {
            self.at = self.list.seek_for_prev(key, version);
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
    at: Position,
}

impl<'a> Cursor<'a> {
    pub(crate) fn new(list: &'a SkipList) -> Cursor<'a> {
        Cursor { list, at: Position::NOWHERE }
    }

    moves!();

    /// The entry the cursor stands on, if any.
    #[inline]
    #[must_use]
    pub fn entry(&self) -> Option<EntryRef<'a>> {
        Some(EntryRef::new(self.list.arena(), self.at.node?))
    }

    /// The key of the entry; empty if the cursor stands nowhere.
    #[inline]
    #[must_use]
    pub fn key(&self) -> &'a [u8] {
        self.at.node.map_or(&[], |node| self.list.arena().key(node))
    }

    /// The version of the entry; 0 if the cursor stands nowhere.
    #[inline]
    #[must_use]
    pub fn version(&self) -> u64 {
        self.at.node.map_or(0, |node| self.list.arena().version(node))
    }

    /// The current value of the entry; empty if the cursor stands nowhere.
    #[inline]
    #[must_use]
    pub fn value(&self) -> &'a [u8] {
        self.at.node.map_or(&[], |node| self.list.arena().value(node))
    }
}

/// A position in a list that keeps the list alive; see [`SkipList::owned_cursor`].
#[derive(Clone)]
pub struct OwnedCursor {
    list: Arc<SkipList>,
    at: Position,
}

impl OwnedCursor {
    pub(crate) fn new(list: Arc<SkipList>) -> OwnedCursor {
        OwnedCursor { list, at: Position::NOWHERE }
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
        Some(OwnedEntry::new(Arc::clone(&self.list), self.at.node?))
    }

    /// The key of the entry; empty if the cursor stands nowhere.
    #[inline]
    #[must_use]
    pub fn key(&self) -> &[u8] {
        self.at.node.map_or(&[], |node| self.list.arena().key(node))
    }

    /// The version of the entry; 0 if the cursor stands nowhere.
    #[inline]
    #[must_use]
    pub fn version(&self) -> u64 {
        self.at.node.map_or(0, |node| self.list.arena().version(node))
    }

    /// The current value of the entry; empty if the cursor stands nowhere.
    #[inline]
    #[must_use]
    pub fn value(&self) -> &[u8] {
        self.at.node.map_or(&[], |node| self.list.arena().value(node))
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
