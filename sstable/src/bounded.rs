//! [`Bounded`]: the part of a cursor's entries whose keys lie within bounds.

use std::cmp::Ordering;
use std::ops::Bound;

use crate::cursor::{State, key_head};
use crate::{Cursor, Error, Result};

/// Shows of a cursor only the entries whose keys lie between two bounds, as if there were no others.
///
/// Bounds are keys: all versions of a key are within them, or none is. A lower bound behind the upper
/// one is an empty range. A move costs what that of the inner cursor costs, and one comparison of keys;
/// at most one entry outside of the bounds is read, next to them.
///
/// ```
/// use std::ops::Bound;
///
/// use kvdb_sstable::{Bounded, Builder, BuilderOptions, Cursor, ReaderOptions, Table};
///
/// # fn main() -> kvdb_sstable::Result<()> {
/// let mut builder = Builder::new(Vec::new(), BuilderOptions::default())?;
/// for key in [b"a", b"b", b"c"] {
///     builder.add(key, 1, b"")?;
/// }
/// let table = Table::open(builder.finish()?.0, ReaderOptions::default())?;
/// let (from, to) = (Bound::Included(b"b".to_vec()), Bound::Excluded(b"c".to_vec()));
/// let mut cursor = Bounded::new(table.cursor(), from, to);
/// assert!(cursor.first()? && cursor.key() == b"b");
/// assert!(!cursor.next()?);
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Bounded<C> {
    inner: C,
    lower: Bound<Vec<u8>>,
    upper: Bound<Vec<u8>>,
    /// The heads of the bounds: a key of a lesser head is below, of a greater one above. Where there is
    /// no bound, no head is.
    lower_head: u64,
    upper_head: u64,
    state: State,
}

impl<C: Cursor> Bounded<C> {
    /// Bounds `inner`, whatever its position. Not yet positioned.
    pub fn new(inner: C, lower: Bound<Vec<u8>>, upper: Bound<Vec<u8>>) -> Self {
        let head = |bound: &Bound<Vec<u8>>, none| match bound {
            Bound::Unbounded => none,
            Bound::Included(key) | Bound::Excluded(key) => key_head(key),
        };
        let (lower_head, upper_head) = (head(&lower, 0), head(&upper, u64::MAX));
        Bounded { inner, lower, upper, lower_head, upper_head, state: State::Unpositioned }
    }

    /// The inner cursor.
    pub fn inner(&self) -> &C {
        &self.inner
    }

    /// The inner cursor back.
    pub fn into_inner(self) -> C {
        self.inner
    }

    /// Whether `key` lies below the lower bound.
    #[inline]
    pub fn is_below(&self, key: &[u8]) -> bool {
        self.has_below(key_head(key), key)
    }

    /// Whether `key` lies above the upper bound.
    #[inline]
    pub fn is_above(&self, key: &[u8]) -> bool {
        self.has_above(key_head(key), key)
    }

    #[inline]
    fn has_below(&self, head: u64, key: &[u8]) -> bool {
        match (head.cmp(&self.lower_head), &self.lower) {
            (Ordering::Less, _) => true,
            (Ordering::Greater, _) | (_, Bound::Unbounded) => false,
            (Ordering::Equal, Bound::Included(bound)) => key < bound.as_slice(),
            (Ordering::Equal, Bound::Excluded(bound)) => key <= bound.as_slice(),
        }
    }

    #[inline]
    fn has_above(&self, head: u64, key: &[u8]) -> bool {
        match (head.cmp(&self.upper_head), &self.upper) {
            (Ordering::Greater, _) => true,
            (Ordering::Less, _) | (_, Bound::Unbounded) => false,
            (Ordering::Equal, Bound::Included(bound)) => key > bound.as_slice(),
            (Ordering::Equal, Bound::Excluded(bound)) => key >= bound.as_slice(),
        }
    }

    /// After a move onwards of the inner cursor, which did not begin before the lower bound.
    #[inline]
    fn onwards(&mut self, moved: Result<bool>) -> Result<bool> {
        self.state = State::Unpositioned;
        let unbounded = matches!(self.upper, Bound::Unbounded);
        let on = moved? && (unbounded || !self.has_above(self.inner.head(), self.inner.key()));
        self.state = if on { State::At } else { State::Behind };
        Ok(on)
    }

    /// After a move back of the inner cursor, which did not begin behind the upper bound.
    #[inline]
    fn back(&mut self, moved: Result<bool>) -> Result<bool> {
        self.state = State::Unpositioned;
        let unbounded = matches!(self.lower, Bound::Unbounded);
        let on = moved? && (unbounded || !self.has_below(self.inner.head(), self.inner.key()));
        self.state = if on { State::At } else { State::Before };
        Ok(on)
    }
}

impl<C: Cursor> Cursor for Bounded<C> {
    fn seek(&mut self, key: &[u8], version: u64) -> Result<bool> {
        if self.is_below(key) {
            return self.first();
        }
        let moved = self.inner.seek(key, version);
        self.onwards(moved)
    }

    fn seek_for_prev(&mut self, key: &[u8], version: u64) -> Result<bool> {
        if self.is_above(key) {
            return self.last();
        }
        let moved = self.inner.seek_for_prev(key, version);
        self.back(moved)
    }

    fn first(&mut self) -> Result<bool> {
        let moved = match &self.lower {
            Bound::Unbounded => self.inner.first(),
            Bound::Included(key) => self.inner.seek(key, u64::MAX),
            Bound::Excluded(key) => seek_behind(&mut self.inner, key),
        };
        self.onwards(moved)
    }

    fn last(&mut self) -> Result<bool> {
        let moved = match &self.upper {
            Bound::Unbounded => self.inner.last(),
            Bound::Included(key) => self.inner.seek_for_prev(key, 0),
            Bound::Excluded(key) => seek_before(&mut self.inner, key),
        };
        self.back(moved)
    }

    #[inline]
    fn next(&mut self) -> Result<bool> {
        match self.state {
            State::At => {
                let moved = self.inner.next();
                self.onwards(moved)
            }
            State::Before => self.first(),
            State::Behind => Ok(false),
            State::Unpositioned => Err(Error::unpositioned()),
        }
    }

    #[inline]
    fn prev(&mut self) -> Result<bool> {
        match self.state {
            State::At => {
                let moved = self.inner.prev();
                self.back(moved)
            }
            State::Behind => self.last(),
            State::Before => Ok(false),
            State::Unpositioned => Err(Error::unpositioned()),
        }
    }

    #[inline]
    fn valid(&self) -> bool {
        self.state == State::At
    }

    #[inline]
    fn key(&self) -> &[u8] {
        self.inner.key()
    }

    #[inline]
    fn version(&self) -> u64 {
        self.inner.version()
    }

    #[inline]
    fn value(&self) -> &[u8] {
        self.inner.value()
    }

    #[inline]
    fn parts(&self) -> (&[u8], u64, &[u8]) {
        self.inner.parts()
    }

    #[inline]
    fn head(&self) -> u64 {
        self.inner.head()
    }
}

/// Moves to the first entry, which is the newest version, of the first key greater than `key`.
///
/// # Errors
/// What the cursor returns.
pub fn seek_behind<C: Cursor>(cursor: &mut C, key: &[u8]) -> Result<bool> {
    let on = cursor.seek(key, 0)?;
    if on && cursor.key() == key { cursor.next() } else { Ok(on) }
}

/// Moves to the last entry, which is the oldest version, of the last key less than `key`.
///
/// # Errors
/// What the cursor returns.
pub fn seek_before<C: Cursor>(cursor: &mut C, key: &[u8]) -> Result<bool> {
    let on = cursor.seek_for_prev(key, u64::MAX)?;
    if on && cursor.key() == key { cursor.prev() } else { Ok(on) }
}
