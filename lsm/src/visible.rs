//! [`Visible`]: of all versions, those that one reader sees.

use std::sync::Arc;

use kvdb_sstable::{Cursor, key_head, seek_before, seek_behind};

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

impl VisibleOptions {
    #[inline]
    fn sees(&self, version: u64) -> bool {
        version <= self.at_most || version == PENDING
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Position {
    /// The last move failed, or the inner cursor is another one.
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
    /// How a move that fails now is taken up again.
    again: Again,
}

/// From where a move reaches the place that it was on its way to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Again {
    /// It stands before the first visible key.
    Before,
    /// It stands behind the last one.
    Behind,
    First,
    Last,
    /// The first visible key that is the buffered one or greater.
    From,
    /// The first one that is greater.
    After,
    /// The last one that is the buffered one or less.
    UpTo,
    /// The last one that is less.
    Ahead,
}

/// After so many versions of one key, seek instead of stepping on.
const STEPS_BEFORE_SEEK: usize = 8;

impl<C: Cursor> Visible<C> {
    /// A view on `inner`, before its first visible key.
    pub fn new(inner: C, options: VisibleOptions) -> Self {
        Visible {
            inner,
            options,
            position: Position::Before,
            key: Vec::new(),
            value: Vec::new(),
            version: 0,
            again: Again::First,
        }
    }

    /// Takes another inner cursor, over the same entries as far as this reader sees them, with the range
    /// deletes that belong to it. Stands nowhere then, until [`resume`](Self::resume). The former one,
    /// and what it holds, is dropped.
    pub fn exchange(&mut self, inner: C, range_deletes: Arc<RangeDeletes>) {
        match self.position {
            // A move has failed: how it is taken up is known.
            Position::Unpositioned => {}
            Position::Before => self.again = Again::Before,
            Position::Behind => self.again = Again::Behind,
            Position::Forward => {
                self.key.clear();
                self.key.extend_from_slice(self.inner.key());
                self.again = Again::From;
            }
            Position::Backward => self.again = Again::UpTo,
        }
        self.position = Position::Unpositioned;
        self.inner = inner;
        self.options.range_deletes = range_deletes;
    }

    /// Stands again where it stood before the inner cursor was [exchanged](Self::exchange); if a move
    /// had failed then, that move is made from where it had come to.
    ///
    /// # Errors
    /// As for all moves.
    pub fn resume(&mut self) -> Result<bool> {
        match self.again {
            Again::Before => self.position = Position::Before,
            Again::Behind => self.position = Position::Behind,
            Again::First => return self.first(),
            Again::Last => return self.last(),
            Again::From | Again::After => {
                return self.guarded(|c| {
                    match c.again {
                        Again::From => c.inner.seek(&c.key, u64::MAX)?,
                        _ => seek_behind(&mut c.inner, &c.key)?,
                    };
                    c.settle_forward()
                });
            }
            Again::UpTo | Again::Ahead => {
                return self.guarded(|c| {
                    match c.again {
                        Again::UpTo => c.inner.seek_for_prev(&c.key, 0)?,
                        _ => seek_before(&mut c.inner, &c.key)?,
                    };
                    c.settle_backward()
                });
            }
        }
        Ok(false)
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
        self.again = Again::First;
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
        self.again = Again::Last;
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
            if let Err(error) = c.inner.seek(key, u64::MAX) {
                return c.missed(Again::From, key, error);
            }
            c.settle_forward()
        })
    }

    /// Moves to the last visible key ≤ `key`.
    ///
    /// # Errors
    /// As [`first`](Self::first).
    pub fn seek_for_prev(&mut self, key: &[u8]) -> Result<bool> {
        self.guarded(|c| {
            if let Err(error) = c.inner.seek_for_prev(key, 0) {
                return c.missed(Again::UpTo, key, error);
            }
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
                c.again = Again::After;
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
                c.again = Again::Ahead;
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

    /// A seek has failed.
    #[cold]
    fn missed(&mut self, again: Again, key: &[u8], error: kvdb_sstable::Error) -> Result<bool> {
        self.again = again;
        self.key.clear();
        self.key.extend_from_slice(key);
        Err(error.into())
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
            let (key, version, value) = self.inner.parts();
            if !self.options.sees(version) {
                self.pass_newer()?;
                continue;
            }
            if self.shows(key, version, value)? {
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
        self.again = Again::From;
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
        self.again = Again::After;
        self.key.clear();
        self.key.extend_from_slice(self.inner.key());
        let head = key_head(&self.key);
        for _ in 0..STEPS_BEFORE_SEEK {
            if !self.inner.next()? || self.inner.head() != head || self.inner.key() != self.key {
                return Ok(());
            }
        }
        seek_behind(&mut self.inner, &self.key)?;
        Ok(())
    }

    /// Leaves the key in the buffer backwards, past its versions that are not visible.
    fn pass_key_backward(&mut self) -> Result<()> {
        self.again = Again::Ahead;
        let head = key_head(&self.key);
        for _ in 0..STEPS_BEFORE_SEEK {
            if !self.inner.valid() || !self.is_on(head) {
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
            self.again = Again::UpTo;
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
        let head = key_head(&self.key);
        for steps in 0.. {
            let (_, version, value) = self.inner.parts();
            if !self.options.sees(version) {
                // Too new. Still, an uncommitted write of one's own may stand before all others.
                return Ok(self.load_pending()? || steps > 0);
            }
            self.version = version;
            self.value.clear();
            self.value.extend_from_slice(value);
            if steps + 1 == STEPS_BEFORE_SEEK {
                // Many versions: go straight to the newest visible one.
                if self.inner.seek(&self.key, self.options.at_most)? && self.inner.key() == self.key
                {
                    self.load();
                }
                self.load_pending()?;
                break;
            }
            if !self.inner.prev()? || !self.is_on(head) {
                break;
            }
        }
        Ok(true)
    }

    /// Whether the inner cursor is on a version of the key in the buffer, which has this head.
    #[inline(always)]
    fn is_on(&self, head: u64) -> bool {
        self.inner.head() == head && self.inner.key() == self.key
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
mod tests;
