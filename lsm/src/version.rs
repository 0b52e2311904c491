//! Which tables are on which level.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use kvdb_manifest::store::{StoreChange, StoreState};
use kvdb_sstable::{Cursor, Merge, Runs, TableCursor, key_head};

use crate::cursor::Input;
use crate::error::{Error, Result};
use crate::range_delete::{self, RangeDeletes};
use crate::table::{Built, Reader, TableContext, TableFile};

/// The tables of one level. Level 0: newest first, keys may overlap. Deeper: by key, disjoint.
#[derive(Debug, Default)]
pub(crate) struct Level {
    tables: Vec<Arc<TableFile>>,
    /// Heads of the smallest and of the largest keys: most searches end here, without touching a
    /// table.
    lows: Vec<u64>,
    heads: Vec<u64>,
    bytes: u64,
}

impl Level {
    fn new(depth: usize, mut tables: Vec<Arc<TableFile>>) -> Level {
        if depth == 0 {
            tables.sort_by_key(|t| std::cmp::Reverse((t.record.largest_version, t.id())));
        } else {
            tables.sort_by(|a, b| a.smallest().cmp(b.smallest()));
        }
        let lows = tables.iter().map(|t| key_head(t.smallest())).collect();
        let heads = tables.iter().map(|t| key_head(t.largest())).collect();
        let bytes = tables.iter().map(|t| t.size()).sum();
        Level { tables, lows, heads, bytes }
    }

    #[inline]
    pub(crate) fn tables(&self) -> &[Arc<TableFile>] {
        &self.tables
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.tables.is_empty()
    }

    /// Index of the first table whose largest key is ≥ `key`. Not for level 0.
    #[inline]
    pub(crate) fn find(&self, key: &[u8]) -> usize {
        self.find_with(key, key_head(key))
    }

    #[inline]
    fn find_with(&self, key: &[u8], head: u64) -> usize {
        let from = self.heads.partition_point(|&h| h < head);
        // Keys with a long prefix in common have one head: then the keys have to be looked at.
        let alike = self.heads[from..].partition_point(|&h| h == head);
        from + self.tables[from..from + alike].partition_point(|t| t.largest() < key)
    }

    /// The one table that may hold `key`, whose head is given. Not for level 0.
    #[inline]
    pub(crate) fn candidate(&self, key: &[u8], head: u64) -> Option<&Arc<TableFile>> {
        let i = self.find_with(key, head);
        let low = *self.lows.get(i)?;
        (low < head || (low == head && self.tables[i].smallest() <= key)).then(|| &self.tables[i])
    }

    /// The first table from number `from` on whose bounds hold `key`, and its number. For level 0.
    #[inline]
    pub(crate) fn covering(
        &self,
        from: usize,
        key: &[u8],
        head: u64,
    ) -> Option<(usize, &Arc<TableFile>)> {
        let bounds = self.lows.iter().zip(&self.heads).enumerate().skip(from);
        for (i, (&low, &high)) in bounds {
            if low <= head && head <= high {
                let table = &self.tables[i];
                if (low < head && head < high) || table.covers(key) {
                    return Some((i, table));
                }
            }
        }
        None
    }

    /// The tables that overlap the keys from `smallest` to `largest`. Not for level 0.
    pub(crate) fn overlapping(&self, smallest: &[u8], largest: &[u8]) -> &[Arc<TableFile>] {
        let from = self.find(smallest);
        let rest = &self.tables[from..];
        &rest[..rest.partition_point(|t| t.smallest() <= largest)]
    }
}

/// The levels at one moment. Immutable.
#[derive(Debug)]
pub(crate) struct Version {
    levels: Vec<Arc<Level>>,
}

impl Version {
    /// The tables that the manifest names.
    pub(crate) fn from_state(
        state: &StoreState,
        levels: usize,
        built: Built,
        context: &Arc<TableContext>,
    ) -> Version {
        let mut tables: Vec<Vec<Arc<TableFile>>> = vec![Vec::new(); levels];
        for record in state.tables().values() {
            let depth = record.level as usize;
            if depth >= tables.len() {
                // The store was written with more levels.
                tables.resize(depth + 1, Vec::new());
            }
            let file = TableFile::new(record.clone(), built, context.clone());
            tables[depth].push(Arc::new(file));
        }
        let levels = tables.into_iter().enumerate().map(|(i, t)| Arc::new(Level::new(i, t)));
        Version { levels: levels.collect() }
    }

    /// This version with a change applied. `fresh` are the tables that the change adds, where they
    /// are at hand; tables that only change their level are shared.
    pub(crate) fn apply(
        &self,
        change: &StoreChange,
        fresh: &[Arc<TableFile>],
        context: &Arc<TableContext>,
    ) -> Version {
        let removed: HashSet<u64> = change.tables_removed.iter().copied().collect();
        let gone = |id: u64| change.reset || removed.contains(&id);
        let moved = self.tables().filter(|t| gone(t.id()));
        let mut at_hand: HashMap<u64, Arc<TableFile>> =
            moved.chain(fresh).map(|t| (t.id(), t.clone())).collect();
        let mut added: BTreeMap<usize, Vec<Arc<TableFile>>> = BTreeMap::new();
        for record in &change.tables_added {
            let table = at_hand.remove(&record.id).unwrap_or_else(|| {
                Arc::new(TableFile::new(record.clone(), Built::default(), context.clone()))
            });
            added.entry(record.level as usize).or_default().push(table);
        }
        let count =
            added.keys().next_back().map_or(0, |deepest| deepest + 1).max(self.levels.len());
        let mut levels = Vec::with_capacity(count);
        for depth in 0..count {
            let old = self.levels.get(depth);
            let new = added.remove(&depth).unwrap_or_default();
            let changed =
                !new.is_empty() || old.is_some_and(|l| l.tables().iter().any(|t| gone(t.id())));
            levels.push(match old {
                Some(old) if !changed => old.clone(),
                old => {
                    let kept = old.into_iter().flat_map(|l| l.tables()).filter(|t| !gone(t.id()));
                    Arc::new(Level::new(depth, kept.cloned().chain(new).collect()))
                }
            });
        }
        Version { levels }
    }

    /// The same tables, some of them by other handles, which are not open.
    pub(crate) fn with_closed(
        &self,
        close: impl Fn(&Arc<Level>, &Arc<TableFile>) -> bool,
    ) -> Version {
        let levels = self.levels.iter().enumerate().map(|(depth, level)| {
            let mut changed = false;
            let reopen = |t: &Arc<TableFile>| {
                if close(level, t) {
                    changed = true;
                    return Arc::new(t.closed());
                }
                t.clone()
            };
            let tables = level.tables.iter().map(reopen).collect();
            if changed { Arc::new(Level::new(depth, tables)) } else { level.clone() }
        });
        Version { levels: levels.collect() }
    }

    #[inline]
    pub(crate) fn levels(&self) -> &[Arc<Level>] {
        &self.levels
    }

    pub(crate) fn level(&self, depth: usize) -> &Level {
        &self.levels[depth]
    }

    /// The deepest level that has tables, level 0 aside.
    pub(crate) fn last_level(&self) -> Option<usize> {
        (1..self.levels.len()).rev().find(|&l| !self.levels[l].is_empty())
    }

    pub(crate) fn tables(&self) -> impl Iterator<Item = &Arc<TableFile>> {
        self.levels.iter().flat_map(|l| l.tables())
    }

    /// Whether any table holds something in a range delete's range that is older than it.
    pub(crate) fn holds_older_than(&self, range: &kvdb_manifest::store::RangeDelete) -> bool {
        self.tables().any(|t| {
            t.record.smallest_version < range.version
                && range_delete::overlaps(range, t.smallest(), t.largest())
        })
    }

    /// All of it as sources of a merge, newest first: tables of level 0, then the levels.
    fn inputs(&self) -> Vec<Input> {
        let Some((top, deeper)) = self.levels.split_first() else { return Vec::new() };
        let deeper = deeper.iter().filter(|l| !l.is_empty());
        top.tables().iter().map(Input::table).chain(deeper.map(Input::level)).collect()
    }

    /// Checks for the keys of a table, its first `limit` entries and what the other tables have among
    /// them, that nothing newer lies below something older, and that all versions of a key on a level
    /// ≥ 1 are in one table (which [`check`](Self::check) sees by their bounds).
    ///
    /// What cannot be read is not judged: whoever needs it will report it.
    ///
    /// # Errors
    /// [`Error::Inconsistent`], naming the key.
    pub(crate) fn check_versions(&self, table: &TableFile, limit: usize) -> Result<()> {
        let mut merge = Merge::new(self.inputs());
        let mut order = KeyOrder::default();
        let mut valid = merge.seek(table.smallest(), u64::MAX).unwrap_or(false);
        for _ in 0..limit {
            if !valid || merge.key() > table.largest() {
                break;
            }
            order.next(merge.key(), merge.version(), merge.source().unwrap_or(0))?;
            valid = merge.next().unwrap_or(false);
        }
        Ok(())
    }

    /// Checks that bounds are in order and that tables of a level ≥ 1 do not overlap. (That nothing
    /// newer lies below something older takes reading them.)
    ///
    /// # Errors
    /// [`Error::Inconsistent`], naming the tables.
    pub(crate) fn check(&self) -> Result<()> {
        for (depth, level) in self.levels.iter().enumerate() {
            for t in level.tables() {
                if t.smallest() > t.largest() {
                    return Err(Error::Inconsistent(format!("bounds of table {}", t.id())));
                }
            }
            if depth == 0 {
                continue;
            }
            for pair in level.tables().windows(2) {
                if pair[0].largest() >= pair[1].smallest() {
                    return Err(Error::Inconsistent(format!(
                        "tables {} and {} of level {depth} overlap",
                        pair[0].id(),
                        pair[1].id()
                    )));
                }
            }
        }
        Ok(())
    }

    /// One line: for each level that has tables, their number and size.
    pub(crate) fn shape(&self) -> String {
        let mut out = String::new();
        for (depth, level) in self.levels.iter().enumerate().filter(|(_, l)| !l.is_empty()) {
            let gap = if out.is_empty() { "" } else { "  " };
            let (n, size) = (level.tables().len(), Size(level.bytes()));
            out.push_str(&format!("{gap}L{depth}: {n} × {size}"));
        }
        if out.is_empty() { "empty".to_owned() } else { out }
    }
}

/// Entries in order of `(key, version)`, merged from sources of which the newest comes first: whether,
/// for every key, nothing newer lies in an older source.
#[derive(Debug, Default)]
pub(crate) struct KeyOrder {
    key: Vec<u8>,
    last: Option<(u64, usize)>,
}

impl KeyOrder {
    /// The next entry.
    ///
    /// # Errors
    /// [`Error::Inconsistent`], naming the key.
    pub(crate) fn next(&mut self, key: &[u8], version: u64, source: usize) -> Result<()> {
        if let Some(last) = self.last
            && self.key == key
        {
            check_order(key, last, (version, source))?;
        }
        if self.last.is_none() || self.key != key {
            self.key.clear();
            self.key.extend_from_slice(key);
        }
        self.last = Some((version, source));
        Ok(())
    }
}

/// Whether an entry may come behind another one of its key, each given by its version and the number of
/// its source: it has to be older, and from the same source or one that holds older entries.
///
/// # Errors
/// [`Error::Inconsistent`], naming the key.
#[inline]
pub(crate) fn check_order(key: &[u8], before: (u64, usize), next: (u64, usize)) -> Result<()> {
    if next.0 < before.0 && next.1 >= before.1 {
        return Ok(());
    }
    Err(Error::Inconsistent(format!(
        "version {} lies below version {} of its key, {key:02x?}",
        next.0, before.0
    )))
}

struct Size(u64);

impl std::fmt::Display for Size {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0 {
            n if n < 10 << 10 => write!(f, "{n} B"),
            n if n < 10 << 20 => write!(f, "{} KiB", n >> 10),
            n if n < 10 << 30 => write!(f, "{} MiB", n >> 20),
            n => write!(f, "{} GiB", n >> 30),
        }
    }
}

/// The tables of a level ≥ 1, or some of them, to be walked one behind the other.
#[derive(Debug, Clone)]
pub(crate) struct LevelRuns {
    tables: Arc<[Arc<TableFile>]>,
    /// Each will be read from front to back.
    scan: bool,
}

impl LevelRuns {
    pub(crate) fn new(tables: impl Into<Arc<[Arc<TableFile>]>>, scan: bool) -> LevelRuns {
        LevelRuns { tables: tables.into(), scan }
    }
}

impl Runs for LevelRuns {
    type Cursor = TableCursor<Arc<Reader>>;

    fn len(&self) -> usize {
        self.tables.len()
    }

    fn open(&self, i: usize) -> kvdb_sstable::Result<Self::Cursor> {
        let table = &self.tables[i];
        let reader = table.reader_for_walk(self.scan).map_err(kvdb_sstable::Error::other)?;
        if self.scan {
            table.read_ahead(&reader);
        }
        Ok(reader.owned_cursor())
    }

    fn find(&self, key: &[u8], _version: u64) -> usize {
        self.tables.partition_point(|t| t.largest() < key)
    }
}

/// All tables of a level ≥ 1, shared with the version they belong to.
#[derive(Debug, Clone)]
pub(crate) struct WholeLevel(pub(crate) Arc<Level>);

impl Runs for WholeLevel {
    type Cursor = TableCursor<Arc<Reader>>;

    fn len(&self) -> usize {
        self.0.tables.len()
    }

    fn open(&self, i: usize) -> kvdb_sstable::Result<Self::Cursor> {
        let reader = self.0.tables[i].reader_for_walk(false);
        Ok(reader.map_err(kvdb_sstable::Error::other)?.owned_cursor())
    }

    fn find(&self, key: &[u8], _version: u64) -> usize {
        self.0.find(key)
    }
}

/// The range deletes of a change applied to a list.
pub(crate) fn apply_range_deletes(old: &Arc<RangeDeletes>, c: &StoreChange) -> Arc<RangeDeletes> {
    if c.range_deletes_added.is_empty() && c.range_deletes_removed.is_empty() && !c.reset {
        return old.clone();
    }
    let kept = old.iter().filter(|r| !c.reset && !c.range_deletes_removed.contains(&r.version));
    Arc::new(RangeDeletes::new(
        kept.cloned().chain(c.range_deletes_added.iter().cloned()).collect(),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_a_key_nothing_newer_comes_behind_something_older_nor_out_of_a_newer_source() {
        let follows = |(key, version, source): (&[u8], u64, usize)| {
            let mut order = KeyOrder::default();
            order.next(b"k", 9, 0).unwrap();
            order.next(b"k", 5, 2).unwrap();
            order.next(key, version, source).is_ok()
        };
        assert!(follows((b"k", 4, 2)) && follows((b"k", 4, 3)));
        assert!(!follows((b"k", 5, 2)) && !follows((b"k", 5, 3)), "the same version again");
        assert!(!follows((b"k", 6, 2)) && !follows((b"k", 6, 3)), "a newer one");
        assert!(!follows((b"k", 4, 1)), "from above");
        assert!(follows((b"l", 9, 0)), "of another key");
    }
}
