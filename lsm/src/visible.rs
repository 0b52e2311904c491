//! [`Visible`]: of all versions, those that one reader sees.

use std::sync::Arc;

use kvdb_sstable::{Cursor, seek_before, seek_behind};

use crate::entry::Entry;
use crate::error::Result;
use crate::range_delete::RangeDeletes;

/// The version of a transaction's own uncommitted writes: visible whatever is asked for.
pub const PENDING: u64 = u64::MAX;

/// What a reader sees. Which keys of it: see [`Bounded`](crate::Bounded).
#[derive(Debug, Clone)]
pub struct VisibleOptions {
    /// The newest version ≤ this one of each key is looked at; [`PENDING`] always.
    pub at_most: u64,
    /// Keys whose newest visible version is not newer than this are skipped. 0: none are.
    pub since: u64,
    /// Entries that expire at or before this second are absent.
    pub clock: u64,
    /// Range deletes to consult.
    pub range_deletes: Arc<RangeDeletes>,
}

impl Default for VisibleOptions {
    /// Everything: all keys, newest versions, nothing expired.
    fn default() -> Self {
        VisibleOptions { at_most: u64::MAX, since: 0, clock: 0, range_deletes: Arc::default() }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Position {
    /// The last move failed.
    Unpositioned,
    /// Before the first visible key.
    Before,
    /// Behind the last visible key.
    Behind,
    /// On an entry, which the inner cursor stands on.
    Forward,
    /// On an entry, which is in the buffers. The inner cursor stands before its key, or on a
    /// version of it that is not visible, or nowhere.
    Backward,
}

/// A cursor over user keys: for each key the newest version that its reader sees, without
/// tombstones and expired entries.
///
/// Wraps any [`Cursor`] over `(key, version) → encoded entry`. It moves both ways, changes
/// direction at any point, and its states are those of a [`Cursor`]: on an entry, before the first
/// (also when new), behind the last, or unpositioned (after an error).
///
/// A merge operand is yielded as it is; folding it onto the older versions is up to the reader.
///
/// # Cost
/// One step of the inner cursor per version passed. Many versions of one key are passed with a
/// seek. Backward, an entry is copied, because whether it is the newest visible one is known only
/// when the cursor has left it.
#[derive(Debug)]
pub struct Visible<C> {
    inner: C,
    options: VisibleOptions,
    position: Position,
    /// Forward: scratch for the key whose versions are being passed. Backward: the key.
    key: Vec<u8>,
    value: Vec<u8>,
    version: u64,
}

/// After so many versions of one key, seek instead of stepping on.
const STEPS_BEFORE_SEEK: usize = 8;

impl<C: Cursor> Visible<C> {
    /// A view on `inner`, before its first visible key.
    pub fn new(inner: C, options: VisibleOptions) -> Self {
        let position = Position::Before;
        Visible { inner, options, position, key: Vec::new(), value: Vec::new(), version: 0 }
    }

    /// The cursor it wraps, to look at.
    pub fn inner(&self) -> &C {
        &self.inner
    }

    /// The cursor it wraps.
    pub fn into_inner(self) -> C {
        self.inner
    }

    /// What it was made with.
    pub fn options(&self) -> &VisibleOptions {
        &self.options
    }

    /// Whether it stands on an entry.
    #[inline]
    pub fn valid(&self) -> bool {
        matches!(self.position, Position::Forward | Position::Backward)
    }

    /// The user key. Only while [`valid`](Self::valid).
    #[inline]
    pub fn key(&self) -> &[u8] {
        match self.position {
            Position::Forward => self.inner.key(),
            _ => &self.key,
        }
    }

    /// The version. Only while [`valid`](Self::valid).
    #[inline]
    pub fn version(&self) -> u64 {
        match self.position {
            Position::Forward => self.inner.version(),
            _ => self.version,
        }
    }

    /// The encoded entry. Only while [`valid`](Self::valid).
    #[inline]
    pub fn value(&self) -> &[u8] {
        match self.position {
            Position::Forward => self.inner.value(),
            _ => &self.value,
        }
    }

    /// The entry. Only while [`valid`](Self::valid).
    ///
    /// # Errors
    /// None that the move to this place has not reported already.
    #[inline]
    pub fn entry(&self) -> Result<Entry<'_>> {
        Ok(Entry::decode(self.value())?)
    }

    /// Moves to the first visible key.
    ///
    /// # Errors
    /// Any of the inner cursor; and a value that is not an entry. So for all moves; the cursor is
    /// unpositioned afterwards.
    pub fn first(&mut self) -> Result<bool> {
        self.guarded(|c| {
            c.inner.first()?;
            c.settle_forward()
        })
    }

    /// Moves to the last visible key.
    ///
    /// # Errors
    /// As [`first`](Self::first).
    pub fn last(&mut self) -> Result<bool> {
        self.guarded(|c| {
            c.inner.last()?;
            c.settle_backward()
        })
    }

    /// Moves to the first visible key ≥ `key`.
    ///
    /// # Errors
    /// As [`first`](Self::first).
    pub fn seek(&mut self, key: &[u8]) -> Result<bool> {
        self.guarded(|c| {
            c.inner.seek(key, u64::MAX)?;
            c.settle_forward()
        })
    }

    /// Moves to the last visible key ≤ `key`.
    ///
    /// # Errors
    /// As [`first`](Self::first).
    pub fn seek_for_prev(&mut self, key: &[u8]) -> Result<bool> {
        self.guarded(|c| {
            c.inner.seek_for_prev(key, 0)?;
            c.settle_backward()
        })
    }

    /// Moves to the next visible key.
    ///
    /// # Errors
    /// As [`first`](Self::first); and `Unpositioned`.
    #[inline]
    #[allow(clippy::should_implement_trait, reason = "a cursor lends; it is no iterator")]
    pub fn next(&mut self) -> Result<bool> {
        match self.position {
            Position::Forward => self.guarded(|c| {
                c.pass_key_forward()?;
                c.settle_forward()
            }),
            Position::Backward => self.guarded(|c| {
                seek_behind(&mut c.inner, &c.key)?;
                c.settle_forward()
            }),
            Position::Before => self.first(),
            Position::Behind => Ok(false),
            Position::Unpositioned => Err(kvdb_sstable::Error::unpositioned().into()),
        }
    }

    /// Moves to the previous visible key.
    ///
    /// # Errors
    /// As [`first`](Self::first); and `Unpositioned`.
    #[inline]
    pub fn prev(&mut self) -> Result<bool> {
        match self.position {
            Position::Forward => self.guarded(|c| {
                c.key.clear();
                c.key.extend_from_slice(c.inner.key());
                seek_before(&mut c.inner, &c.key)?;
                c.settle_backward()
            }),
            Position::Backward => self.guarded(|c| {
                c.pass_key_backward()?;
                c.settle_backward()
            }),
            Position::Behind => self.last(),
            Position::Before => Ok(false),
            Position::Unpositioned => Err(kvdb_sstable::Error::unpositioned().into()),
        }
    }

    /// Runs a move. If it fails the cursor stands nowhere; it never takes a damaged place for an end.
    #[inline]
    fn guarded(&mut self, step: impl FnOnce(&mut Self) -> Result<bool>) -> Result<bool> {
        self.position = Position::Unpositioned;
        step(self)
    }

    #[inline]
    fn sees(&self, version: u64) -> bool {
        version <= self.options.at_most || version == PENDING
    }

    /// Whether the newest visible entry of a key makes the key visible.
    #[inline]
    fn shows(&self, key: &[u8], version: u64, value: &[u8]) -> Result<bool> {
        let entry = Entry::decode(value)?;
        Ok(!entry.is_absent(self.options.clock)
            && version > self.options.since
            && (version == PENDING
                || !self.options.range_deletes.hides(key, version, self.options.at_most)))
    }

    /// From wherever the inner cursor stands: onwards to the first visible key.
    /// The inner cursor is on the newest version of some key, or behind the last one.
    fn settle_forward(&mut self) -> Result<bool> {
        while self.inner.valid() {
            if !self.sees(self.inner.version()) {
                self.pass_newer()?;
                continue;
            }
            if self.shows(self.inner.key(), self.inner.version(), self.inner.value())? {
                self.position = Position::Forward;
                return Ok(true);
            }
            self.pass_key_forward()?;
        }
        self.position = Position::Behind;
        Ok(false)
    }

    /// The inner cursor is on a version that is too new: go to the first one that is not, be it of
    /// this key or of a later one.
    fn pass_newer(&mut self) -> Result<()> {
        self.key.clear();
        self.key.extend_from_slice(self.inner.key());
        for _ in 0..STEPS_BEFORE_SEEK {
            if !self.inner.next()?
                || self.inner.version() <= self.options.at_most
                || self.inner.key() != self.key
            {
                return Ok(());
            }
        }
        self.inner.seek(&self.key, self.options.at_most)?;
        Ok(())
    }

    /// Leaves the key the inner cursor stands on, onwards.
    fn pass_key_forward(&mut self) -> Result<()> {
        self.key.clear();
        self.key.extend_from_slice(self.inner.key());
        for _ in 0..STEPS_BEFORE_SEEK {
            if !self.inner.next()? || self.inner.key() != self.key {
                return Ok(());
            }
        }
        seek_behind(&mut self.inner, &self.key)?;
        Ok(())
    }

    /// Leaves the key in the buffer backwards, past its versions that are not visible.
    fn pass_key_backward(&mut self) -> Result<()> {
        for _ in 0..STEPS_BEFORE_SEEK {
            if !self.inner.valid() || self.inner.key() != self.key {
                return Ok(());
            }
            self.inner.prev()?;
        }
        seek_before(&mut self.inner, &self.key)?;
        Ok(())
    }

    /// From wherever the inner cursor stands: back to the last visible key.
    /// The inner cursor is on the oldest version of some key, or before the first one.
    fn settle_backward(&mut self) -> Result<bool> {
        while self.inner.valid() {
            self.key.clear();
            self.key.extend_from_slice(self.inner.key());
            if self.newest_backward()? && self.shows(&self.key, self.version, &self.value)? {
                self.position = Position::Backward;
                return Ok(true);
            }
            self.pass_key_backward()?;
        }
        self.position = Position::Before;
        Ok(false)
    }

    /// Of the key in the buffer, whose oldest version the inner cursor stands on: loads the newest
    /// visible version. False if none is visible. Leaves the inner cursor on the first version that
    /// is not visible, or before the key.
    fn newest_backward(&mut self) -> Result<bool> {
        let mut found = false;
        let mut steps = 0;
        while self.inner.valid() && self.inner.key() == self.key {
            if !self.sees(self.inner.version()) {
                // Too new. Still, an uncommitted write of one's own may stand before all others.
                return Ok(self.load_pending()? || found);
            }
            found = true;
            self.load();
            steps += 1;
            if steps == STEPS_BEFORE_SEEK {
                // Many versions: go straight to the newest visible one.
                if self.inner.seek(&self.key, self.options.at_most)? && self.inner.key() == self.key
                {
                    self.load();
                }
                self.load_pending()?;
                return Ok(true);
            }
            self.inner.prev()?;
        }
        Ok(found)
    }

    /// Copies what the inner cursor stands on, the key excepted.
    #[inline]
    fn load(&mut self) {
        self.version = self.inner.version();
        self.value.clear();
        self.value.extend_from_slice(self.inner.value());
    }

    /// Loads the uncommitted version of the key in the buffer, if there is one. Leaves the inner
    /// cursor before the key.
    fn load_pending(&mut self) -> Result<bool> {
        let mut found = false;
        self.inner.seek_for_prev(&self.key, PENDING)?;
        if self.inner.valid() && self.inner.key() == self.key {
            found = true;
            self.load();
            self.inner.prev()?;
        }
        Ok(found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cursor::Input;
    use crate::memtable::Memtable;

    fn over(entries: &[(&str, u64, Entry<'_>)], options: VisibleOptions) -> Visible<Input> {
        let memtable = Memtable::new(1 << 20, 1, Default::default()).unwrap();
        for (key, version, entry) in entries {
            memtable.insert(key.as_bytes(), *version, *entry).unwrap();
        }
        Visible::new(Input::memtable(&memtable), options)
    }

    fn both_ways(mut cursor: Visible<Input>) -> Vec<(String, u64)> {
        let mut forward = Vec::new();
        let mut valid = cursor.first().unwrap();
        while valid {
            let key = String::from_utf8(cursor.key().to_vec()).unwrap();
            forward.push((key, cursor.version()));
            valid = cursor.next().unwrap();
        }
        let mut backward = Vec::new();
        let mut valid = cursor.last().unwrap();
        while valid {
            let key = String::from_utf8(cursor.key().to_vec()).unwrap();
            backward.push((key, cursor.version()));
            valid = cursor.prev().unwrap();
        }
        backward.reverse();
        assert_eq!(forward, backward);
        forward
    }

    const V: Entry<'static> = Entry::value(b"v");

    #[test]
    fn uncommitted_writes_are_seen_at_any_version_and_hide_what_is_older() {
        let entries = [
            ("a", 5, V),
            ("b", PENDING, V),
            ("b", 5, V),
            ("c", PENDING, Entry::tombstone()),
            ("c", 1, V),
            ("d", PENDING, V),
            ("d", 9, V),
            ("d", 1, V),
            ("e", 9, V),
            ("f", PENDING, V.with_expiry(10)),
            ("f", 1, V),
        ];
        let options = VisibleOptions { at_most: 5, clock: 10, ..VisibleOptions::default() };
        let expected = [("a", 5), ("b", PENDING), ("d", PENDING)].map(|(k, v)| (k.to_owned(), v));
        assert_eq!(both_ways(over(&entries, options)), expected);
    }

    #[test]
    fn many_versions_of_a_key_are_passed_both_ways() {
        let mut entries = Vec::new();
        for key in ["a", "b", "c"] {
            entries.extend((1..=100).map(|v| (key, v, V)));
        }
        entries.push(("b", PENDING, V));
        for at_most in [1, 2, 7, 8, 9, 50, 99, 100, PENDING] {
            let options = VisibleOptions { at_most, ..VisibleOptions::default() };
            let seen = both_ways(over(&entries, options));
            let newest = at_most.min(100);
            let expected = [("a", newest), ("b", PENDING), ("c", newest)];
            assert_eq!(seen, expected.map(|(k, v)| (k.to_owned(), v)), "{at_most}");
        }
    }

    #[test]
    fn since_leaves_out_what_is_not_newer() {
        let entries = [("a", 5, V), ("b", 6, V), ("b", 3, V), ("c", 3, V)];
        let options = VisibleOptions { since: 5, ..VisibleOptions::default() };
        assert_eq!(both_ways(over(&entries, options)), [("b".to_owned(), 6)]);
    }

    #[test]
    fn a_new_cursor_stands_before_the_first_entry_and_damage_is_no_end() {
        let mut cursor = over(&[("a", 1, V)], VisibleOptions::default());
        assert!(!cursor.valid() && !cursor.prev().unwrap());
        assert!(cursor.next().unwrap() && cursor.key() == b"a");
        let memtable = Memtable::new(1 << 20, 1, Default::default()).unwrap();
        memtable.insert(b"a", 1, V).unwrap();
        memtable.list().insert(b"b", 1, &[0]).unwrap();
        let mut cursor = Visible::new(Input::memtable(&memtable), VisibleOptions::default());
        assert!(cursor.first().unwrap());
        assert!(cursor.next().is_err());
        assert!(cursor.next().is_err(), "not an end, whoever asks");
        assert!(cursor.last().is_err());
        assert!(cursor.seek(b"a").unwrap());
    }
}
