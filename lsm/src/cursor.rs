//! [`TreeCursor`]: every version of every key, merged from memtables and tables.

use std::sync::Arc;

use kvdb_skiplist::{OwnedCursor, SkipList};
use kvdb_sstable::{Concat, Cursor, Merge, Result, TableCursor};

use crate::memtable::Memtable;
use crate::table::{Reader, TableFile};
use crate::version::{Level, LevelRuns, WholeLevel};

/// A cursor over all versions of all keys of one superversion.
///
/// It owns what it reads from: memtables and tables stay, with their files, as long as the cursor
/// does, whatever happens to the tree. A table is opened when the cursor gets there.
///
/// Entries that are inserted into the active memtable meanwhile may or may not be shown. They are
/// newer than any reader that began before, so readers pass over them; but who shows all versions
/// and turns round among them should turn with a seek, not with a step.
pub struct TreeCursor {
    merge: Merge<Input>,
}

impl std::fmt::Debug for TreeCursor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "TreeCursor({} sources)", self.merge.cursors().len())
    }
}

impl TreeCursor {
    pub(crate) fn new(inputs: Vec<Input>) -> TreeCursor {
        TreeCursor { merge: Merge::new(inputs) }
    }
}

impl Cursor for TreeCursor {
    #[inline]
    fn seek(&mut self, key: &[u8], version: u64) -> Result<bool> {
        self.merge.seek(key, version)
    }
    #[inline]
    fn seek_for_prev(&mut self, key: &[u8], version: u64) -> Result<bool> {
        self.merge.seek_for_prev(key, version)
    }
    #[inline]
    fn first(&mut self) -> Result<bool> {
        self.merge.first()
    }
    #[inline]
    fn last(&mut self) -> Result<bool> {
        self.merge.last()
    }
    #[inline]
    fn next(&mut self) -> Result<bool> {
        self.merge.next()
    }
    #[inline]
    fn prev(&mut self) -> Result<bool> {
        self.merge.prev()
    }
    #[inline]
    fn valid(&self) -> bool {
        self.merge.valid()
    }
    #[inline]
    fn key(&self) -> &[u8] {
        self.merge.key()
    }
    #[inline]
    fn version(&self) -> u64 {
        self.merge.version()
    }
    #[inline]
    fn value(&self) -> &[u8] {
        self.merge.value()
    }
    #[inline]
    fn parts(&self) -> (&[u8], u64, &[u8]) {
        self.merge.parts()
    }
    #[inline]
    fn head(&self) -> u64 {
        self.merge.head()
    }
}

/// Tells which of several sources, the newest first, an entry comes from.
pub(crate) trait Sourced {
    /// The index of the source; 0 where there is but one.
    fn source(&self) -> usize;
}

impl Sourced for TreeCursor {
    fn source(&self) -> usize {
        self.merge.source().unwrap_or(0)
    }
}

impl Sourced for Merge<Input> {
    fn source(&self) -> usize {
        Merge::source(self).unwrap_or(0)
    }
}

impl Sourced for Input {
    fn source(&self) -> usize {
        0
    }
}

/// One sorted source of a merge.
pub(crate) enum Input {
    Memtable(MemtableCursor),
    Table(OneTable),
    Level(Concat<WholeLevel>),
    Tables(Concat<LevelRuns>),
}

impl Input {
    pub(crate) fn memtable(memtable: &Arc<Memtable>) -> Input {
        Input::Memtable(MemtableCursor::new(memtable.list()))
    }

    pub(crate) fn table(file: &Arc<TableFile>) -> Input {
        Input::Table(OneTable { file: file.clone(), scan: false, cursor: None })
    }

    /// A table that will be read from front to back.
    pub(crate) fn table_scan(file: &Arc<TableFile>) -> Input {
        Input::Table(OneTable { file: file.clone(), scan: true, cursor: None })
    }

    pub(crate) fn level(level: &Arc<Level>) -> Input {
        Input::Level(Concat::new(WholeLevel(level.clone())))
    }

    pub(crate) fn tables(tables: Vec<Arc<TableFile>>) -> Input {
        Input::Tables(Concat::new(LevelRuns::new(tables, false)))
    }

    /// Tables of one level that will be read from front to back.
    pub(crate) fn tables_scan(tables: Vec<Arc<TableFile>>) -> Input {
        Input::Tables(Concat::new(LevelRuns::new(tables, true)))
    }
}

macro_rules! each {
    ($self:ident, $c:ident => $e:expr) => {
        match $self {
            Input::Memtable($c) => $e,
            Input::Table($c) => $e,
            Input::Level($c) => $e,
            Input::Tables($c) => $e,
        }
    };
}

impl Cursor for Input {
    fn seek(&mut self, key: &[u8], version: u64) -> Result<bool> {
        each!(self, c => c.seek(key, version))
    }
    fn seek_for_prev(&mut self, key: &[u8], version: u64) -> Result<bool> {
        each!(self, c => c.seek_for_prev(key, version))
    }
    fn first(&mut self) -> Result<bool> {
        each!(self, c => c.first())
    }
    fn last(&mut self) -> Result<bool> {
        each!(self, c => c.last())
    }
    #[inline]
    fn next(&mut self) -> Result<bool> {
        each!(self, c => c.next())
    }
    #[inline]
    fn prev(&mut self) -> Result<bool> {
        each!(self, c => c.prev())
    }
    #[inline]
    fn valid(&self) -> bool {
        each!(self, c => c.valid())
    }
    #[inline]
    fn key(&self) -> &[u8] {
        each!(self, c => c.key())
    }
    #[inline]
    fn version(&self) -> u64 {
        each!(self, c => c.version())
    }
    #[inline]
    fn value(&self) -> &[u8] {
        each!(self, c => c.value())
    }
    #[inline]
    fn parts(&self) -> (&[u8], u64, &[u8]) {
        each!(self, c => c.parts())
    }
    #[inline]
    fn head(&self) -> u64 {
        each!(self, c => c.head())
    }
}

/// A table of level 0, opened at the first move.
pub(crate) struct OneTable {
    file: Arc<TableFile>,
    scan: bool,
    cursor: Option<TableCursor<Arc<Reader>>>,
}

impl OneTable {
    #[inline]
    fn open(&mut self) -> Result<&mut TableCursor<Arc<Reader>>> {
        if self.cursor.is_none() {
            let reader =
                self.file.reader_for_walk(self.scan).map_err(kvdb_sstable::Error::other)?;
            if self.scan {
                self.file.read_ahead(&reader);
            }
            self.cursor = Some(reader.owned_cursor());
        }
        self.cursor.as_mut().ok_or_else(kvdb_sstable::Error::unpositioned)
    }

    #[inline]
    fn opened(&self) -> &TableCursor<Arc<Reader>> {
        match &self.cursor {
            Some(cursor) => cursor,
            None => panic!("the cursor does not stand on an entry"),
        }
    }
}

impl Cursor for OneTable {
    fn seek(&mut self, key: &[u8], version: u64) -> Result<bool> {
        self.open()?.seek(key, version)
    }
    fn seek_for_prev(&mut self, key: &[u8], version: u64) -> Result<bool> {
        self.open()?.seek_for_prev(key, version)
    }
    fn first(&mut self) -> Result<bool> {
        self.open()?.first()
    }
    fn last(&mut self) -> Result<bool> {
        self.open()?.last()
    }
    #[inline]
    fn next(&mut self) -> Result<bool> {
        match &mut self.cursor {
            Some(cursor) => cursor.next(),
            None => self.open()?.next(),
        }
    }
    #[inline]
    fn prev(&mut self) -> Result<bool> {
        match &mut self.cursor {
            Some(cursor) => cursor.prev(),
            None => self.open()?.prev(),
        }
    }
    #[inline]
    fn valid(&self) -> bool {
        self.cursor.as_ref().is_some_and(|c| c.valid())
    }
    #[inline]
    fn key(&self) -> &[u8] {
        self.opened().key()
    }
    #[inline]
    fn version(&self) -> u64 {
        self.opened().version()
    }
    #[inline]
    fn value(&self) -> &[u8] {
        self.opened().value()
    }
    #[inline]
    fn parts(&self) -> (&[u8], u64, &[u8]) {
        self.opened().parts()
    }
    #[inline]
    fn head(&self) -> u64 {
        self.opened().head()
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Unpositioned,
    Before,
    At,
    Behind,
}

/// A cursor over a memtable, with the states of a [`Cursor`].
pub(crate) struct MemtableCursor {
    cursor: OwnedCursor,
    state: State,
}

impl MemtableCursor {
    fn new(list: &Arc<SkipList>) -> Self {
        MemtableCursor { cursor: list.owned_cursor(), state: State::Unpositioned }
    }

    #[inline]
    fn stand(&mut self, valid: bool, otherwise: State) -> Result<bool> {
        self.state = if valid { State::At } else { otherwise };
        Ok(valid)
    }
}

impl Cursor for MemtableCursor {
    fn seek(&mut self, key: &[u8], version: u64) -> Result<bool> {
        let valid = self.cursor.seek(key, version);
        self.stand(valid, State::Behind)
    }
    fn seek_for_prev(&mut self, key: &[u8], version: u64) -> Result<bool> {
        let valid = self.cursor.seek_for_prev(key, version);
        self.stand(valid, State::Before)
    }
    fn first(&mut self) -> Result<bool> {
        let valid = self.cursor.first();
        self.stand(valid, State::Behind)
    }
    fn last(&mut self) -> Result<bool> {
        let valid = self.cursor.last();
        self.stand(valid, State::Before)
    }
    #[inline]
    fn next(&mut self) -> Result<bool> {
        match self.state {
            State::At => {
                let valid = self.cursor.next();
                self.stand(valid, State::Behind)
            }
            State::Before => self.first(),
            State::Behind => Ok(false),
            State::Unpositioned => Err(kvdb_sstable::Error::unpositioned()),
        }
    }
    #[inline]
    fn prev(&mut self) -> Result<bool> {
        match self.state {
            State::At => {
                let valid = self.cursor.prev();
                self.stand(valid, State::Before)
            }
            State::Behind => self.last(),
            State::Before => Ok(false),
            State::Unpositioned => Err(kvdb_sstable::Error::unpositioned()),
        }
    }
    #[inline]
    fn valid(&self) -> bool {
        self.state == State::At
    }
    #[inline]
    fn key(&self) -> &[u8] {
        self.cursor.key()
    }
    #[inline]
    fn version(&self) -> u64 {
        self.cursor.version()
    }
    #[inline]
    fn value(&self) -> &[u8] {
        self.cursor.value()
    }
}
