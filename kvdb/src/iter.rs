//! [`Iter`]: the standard library's iterator over visible entries, from both ends.

use std::fmt;
use std::ops::Bound;

use crate::bounds::{Bounds, is_empty};
use crate::cursor::{Cursor, Picture};
use crate::error::Result;
use crate::item::Item;

/// Visible entries in key order, from both ends: `iter.rev()` is the exact mirror, and front and
/// back meet once.
///
/// Items are owned, and lazy in their values: a value in the log is read when asked for. An error
/// is an item, not an end: after it the iterator is finished unless it is positioned anew.
///
/// Iterators of a snapshot or database are `'static`; one of a transaction borrows it, and sees
/// the writes the transaction had made when the iterator was created.
///
/// ```
/// # fn main() -> kvdb::Result<()> {
/// # let db = kvdb::Options::default().open_in(std::sync::Arc::new(kvdb::vfs::MemFs::new()), "/db")?;
/// for k in ["a:1", "a:2", "b:1"] { db.put(k, "")?; }
/// let keys: Vec<_> = db.prefix("a:")?.rev().map(|item| Ok(item?.into_key())).collect::<kvdb::Result<_>>()?;
/// assert_eq!(keys, [b"a:2", b"a:1"]);
/// # db.close()
/// # }
/// ```
pub struct Iter<'t> {
    picture: Picture<'t>,
    lower: Bound<Vec<u8>>,
    upper: Bound<Vec<u8>>,
    front: End<'t>,
    back: End<'t>,
    finished: bool,
}

/// One of the two ends.
#[derive(Debug, Default)]
struct End<'t> {
    cursor: Option<Cursor<'t>>,
    /// Where the next move starts, if not from where the cursor stands.
    from: Option<Vec<u8>>,
    /// Whether the cursor stands on an entry that was given out.
    given: bool,
}

impl<'t> Iter<'t> {
    pub(crate) fn new(picture: Picture<'t>, (lower, upper): Bounds) -> Self {
        let finished = is_empty(&lower, &upper);
        Iter { picture, lower, upper, front: End::default(), back: End::default(), finished }
    }

    /// Moves the front: [`next`](Iterator::next) gives the first entry with a key of `key` or
    /// greater, within the bounds. From any position, any number of times.
    pub fn seek(&mut self, key: impl AsRef<[u8]>) {
        self.front = End {
            cursor: self.front.cursor.take(),
            from: Some(key.as_ref().to_vec()),
            given: false,
        };
        self.finished = is_empty(&self.lower, &self.upper);
    }

    /// Moves the back: [`next_back`](DoubleEndedIterator::next_back) gives the last entry with a
    /// key of `key` or less, within the bounds.
    pub fn seek_back(&mut self, key: impl AsRef<[u8]>) {
        self.back = End {
            cursor: self.back.cursor.take(),
            from: Some(key.as_ref().to_vec()),
            given: false,
        };
        self.finished = is_empty(&self.lower, &self.upper);
    }

    /// The keys alone. Never touches the value log.
    pub fn keys(self) -> Keys<'t> {
        Keys(self)
    }

    fn cursor(&self) -> Cursor<'t> {
        Cursor::new(&self.picture, (self.lower.clone(), self.upper.clone()))
    }

    /// Moves the front on; whether it stands on an entry that the back has not given out.
    fn step(&mut self) -> Result<bool> {
        if self.finished {
            return Ok(false);
        }
        let mut cursor = self.front.cursor.take().unwrap_or_else(|| self.cursor());
        let on = match (self.front.from.take(), self.front.given) {
            (Some(key), _) => cursor.seek(key),
            (None, true) => cursor.next(),
            (None, false) => cursor.first(),
        };
        let met = |cursor: &Cursor<'_>| {
            self.back.given
                && self.back.cursor.as_ref().is_some_and(|back| cursor.key() >= back.key())
        };
        let on = on.map(|on| on && !met(&cursor));
        self.finished = !matches!(on, Ok(true));
        self.front.given = !self.finished;
        self.front.cursor = Some(cursor);
        on
    }

    /// Moves the back; the mirror of [`Iter::step`].
    fn step_back(&mut self) -> Result<bool> {
        if self.finished {
            return Ok(false);
        }
        let mut cursor = self.back.cursor.take().unwrap_or_else(|| self.cursor());
        let on = match (self.back.from.take(), self.back.given) {
            (Some(key), _) => cursor.seek_for_prev(key),
            (None, true) => cursor.prev(),
            (None, false) => cursor.last(),
        };
        let met = |cursor: &Cursor<'_>| {
            self.front.given
                && self.front.cursor.as_ref().is_some_and(|front| cursor.key() <= front.key())
        };
        let on = on.map(|on| on && !met(&cursor));
        self.finished = !matches!(on, Ok(true));
        self.back.given = !self.finished;
        self.back.cursor = Some(cursor);
        on
    }

    fn give<R>(
        &mut self,
        step: fn(&mut Self) -> Result<bool>,
        end: fn(&Self) -> &End<'t>,
        take: impl FnOnce(&Cursor<'t>) -> Result<R>,
    ) -> Option<Result<R>> {
        match step(self) {
            Ok(true) => end(self).cursor.as_ref().map(take),
            Ok(false) => None,
            Err(error) => Some(Err(error)),
        }
    }
}

impl Iterator for Iter<'_> {
    type Item = Result<Item>;

    fn next(&mut self) -> Option<Self::Item> {
        self.give(Self::step, |iter| &iter.front, Cursor::item)
    }
}

impl DoubleEndedIterator for Iter<'_> {
    fn next_back(&mut self) -> Option<Self::Item> {
        self.give(Self::step_back, |iter| &iter.back, Cursor::item)
    }
}

impl std::iter::FusedIterator for Iter<'_> {}

impl fmt::Debug for Iter<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Iter")
            .field("lower", &self.lower)
            .field("upper", &self.upper)
            .field("version", &self.picture.version)
            .field("finished", &self.finished)
            .finish_non_exhaustive()
    }
}

/// The keys of an [`Iter`]. Never touches the value log.
#[derive(Debug)]
pub struct Keys<'t>(Iter<'t>);

impl Iterator for Keys<'_> {
    type Item = Result<Vec<u8>>;

    fn next(&mut self) -> Option<Self::Item> {
        self.0.give(Iter::step, |iter| &iter.front, |cursor| Ok(cursor.key().to_vec()))
    }
}

impl DoubleEndedIterator for Keys<'_> {
    fn next_back(&mut self) -> Option<Self::Item> {
        self.0.give(Iter::step_back, |iter| &iter.back, |cursor| Ok(cursor.key().to_vec()))
    }
}

impl std::iter::FusedIterator for Keys<'_> {}
