//! [`Iter`]: the standard library's iterator over visible entries, from both ends.

use std::cmp::Ordering;
use std::fmt;
use std::ops::Bound;

use kvdb_vlog::ReadOrder;

use crate::bounds::Bounds;
use crate::cursor::{Cursor, Picture};
use crate::ends::{End, Place, Walk};
use crate::error::{Error, Result};
use crate::item::Item;
use crate::versions::Versions;

/// Visible entries in key order, from both ends: `iter.rev()` is the exact mirror, and front and
/// back meet once.
///
/// Items are owned, and lazy in their values: a value in the log is read when asked for. An error
/// is an item, not an end: after it the iterator is finished unless it is positioned anew. If a merge
/// operator panics in a step, that step has not been taken: the next one gives the same entry.
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
    front: Side<'t>,
    back: Side<'t>,
    /// How many entries ahead values of the log are fetched; 0: not at all.
    ahead: usize,
}

/// Entries ahead that values of the log are fetched unless it is said otherwise: so many at first,
/// twice as many each time, up to that; but no more than so many bytes.
const FIRST_AHEAD: usize = 32;
const AHEAD: usize = 256;
const AHEAD_BYTES: u64 = 2 << 20;

/// One of the two ends, and what looks ahead of it.
#[derive(Debug, Default)]
struct Side<'t> {
    end: End<Cursor<'t>, Vec<u8>>,
    scout: Option<Scout<'t>>,
    /// Whether the values of the log that it walks over lie in order.
    order: ReadOrder,
}

/// Runs ahead of an end and tells the system which values of the log will be read.
#[derive(Debug)]
struct Scout<'t> {
    cursor: Cursor<'t>,
    /// Entries between it and the end it serves, and about how many bytes of values these have.
    lead: usize,
    bytes: u64,
    /// How far ahead it went last.
    reach: usize,
    /// It has come to the last entry, or to damage, which the end will meet itself.
    done: bool,
}

/// One step of a cursor.
type Go<'t> = fn(&mut Cursor<'t>) -> Result<bool>;

impl<'t> Scout<'t> {
    /// Goes on until it is far enough ahead again; in large steps, so that neighbours in the log
    /// are asked for together.
    fn run(&mut self, ahead: usize, go: Go<'t>) {
        if self.done || self.lead > self.reach / 2 || self.bytes > AHEAD_BYTES / 2 {
            return;
        }
        let reach = self.reach.saturating_mul(2).max(FIRST_AHEAD).min(ahead);
        let mut pointers = Vec::with_capacity(reach.saturating_sub(self.lead));
        while self.lead < reach && self.bytes < AHEAD_BYTES && !self.done {
            match go(&mut self.cursor) {
                Ok(true) => {
                    self.lead += 1;
                    let pointer = self.cursor.pointer();
                    self.bytes += pointer.map_or(0, |pointer| pointer.len().into());
                    pointers.extend(pointer);
                }
                _ => self.done = true,
            }
        }
        self.reach = reach;
        self.cursor.view().prefetch(&pointers);
    }
}

impl Side<'_> {
    fn send(&mut self, key: &[u8]) {
        self.end.place = Place::From(key.to_vec());
        self.scout = None;
        self.order = ReadOrder::default();
    }
}

impl Walk<Vec<u8>> for Cursor<'_> {
    fn at(&self) -> Vec<u8> {
        self.key().to_vec()
    }
    fn cmp_at(&self, at: &Vec<u8>) -> Ordering {
        self.key().cmp(at)
    }
    fn cmp(&self, other: &Self) -> Ordering {
        self.key().cmp(other.key())
    }
}

impl<'t> Iter<'t> {
    pub(crate) fn new(picture: Picture<'t>, (lower, upper): Bounds) -> Self {
        Iter { picture, lower, upper, front: Side::default(), back: Side::default(), ahead: AHEAD }
    }

    /// Moves the front: [`next`](Iterator::next) gives the first entry with a key of `key` or
    /// greater, within the bounds. From any position, any number of times, also after the end. Both
    /// ends stop where the other one is, whether it was moved there or walked: after a seek beyond
    /// the back, nothing is left for either, until one of them is moved again.
    ///
    /// ```
    /// # fn main() -> kvdb::Result<()> {
    /// # let db = kvdb::Options::default().open_in(std::sync::Arc::new(kvdb::vfs::MemFs::new()), "/db")?;
    /// for key in ["a", "b", "c", "d"] {
    ///     db.put(key, "")?;
    /// }
    /// let mut iter = db.iter()?;
    /// iter.seek("bb");
    /// assert_eq!(iter.next().expect("c and d")?.key(), b"c");
    /// iter.seek("a"); // back again
    /// assert_eq!(iter.next().expect("all")?.key(), b"a");
    /// iter.seek_back("cc");
    /// assert_eq!(iter.next_back().expect("b and c")?.key(), b"c");
    /// iter.seek("b");
    /// assert_eq!(iter.rev().count(), 1); // b: the ends meet
    /// # db.close()
    /// # }
    /// ```
    pub fn seek(&mut self, key: impl AsRef<[u8]>) {
        self.front.send(key.as_ref());
    }

    /// Moves the back: [`next_back`](DoubleEndedIterator::next_back) gives the last entry with a
    /// key of `key` or less, within the bounds. The mirror of [`seek`](Iter::seek).
    pub fn seek_back(&mut self, key: impl AsRef<[u8]>) {
        self.back.send(key.as_ref());
    }

    /// How many entries ahead the system is told of values that live in the log and will be read, at
    /// most; 0: none. Default: 256. It begins with 32, and goes no further than 2 MiB. For those who
    /// look at few of the values it is better switched off; [`keys`](Iter::keys) never does it. Where
    /// values lie in key order, as a collection leaves them, a walk forward leaves it to the system's
    /// own read-ahead after a mebibyte.
    #[must_use]
    pub fn prefetch(mut self, entries: usize) -> Iter<'t> {
        self.ahead = entries;
        self
    }

    /// The keys alone. Never touches the value log.
    ///
    /// ```
    /// # fn main() -> kvdb::Result<()> {
    /// # let db = kvdb::Options::default().open_in(std::sync::Arc::new(kvdb::vfs::MemFs::new()), "/db")?;
    /// db.put("k", vec![0; 1 << 20])?;
    /// let keys = db.iter()?.keys().collect::<kvdb::Result<Vec<_>>>()?;
    /// assert_eq!(keys, [b"k"]);
    /// # db.close()
    /// # }
    /// ```
    pub fn keys(self) -> Keys<'t> {
        Keys(self)
    }

    /// Only entries newer than a version: what has changed since. Tables that hold nothing newer are
    /// not opened. Deleted keys are absent here; with [`versions`](Iter::versions) they are shown.
    ///
    /// A drop of a range ([`Db::drop_range`](crate::Db::drop_range) and its like) hides what was
    /// written before it, also what is newer than `version`, and is not shown itself, in neither
    /// form: who follows a store by what is newer does not hear from here which keys it has
    /// removed.
    ///
    /// Starts over: call it before anything was taken.
    ///
    /// ```
    /// # fn main() -> kvdb::Result<()> {
    /// # let db = kvdb::Options::default().open_in(std::sync::Arc::new(kvdb::vfs::MemFs::new()), "/db")?;
    /// db.put("a", "old")?;
    /// let version = db.put("b", "old")?;
    /// db.put("b", "new")?;
    /// let changed = db.iter()?.since(version).keys().collect::<kvdb::Result<Vec<_>>>()?;
    /// assert_eq!(changed, [b"b"]);
    /// # db.close()
    /// # }
    /// ```
    #[must_use]
    pub fn since(mut self, version: u64) -> Iter<'t> {
        self.picture.since = version;
        Iter::new(self.picture, (self.lower, self.upper))
    }

    /// Every version of every key within the bounds, deleted and expired ones marked.
    ///
    /// Starts over: call it before anything was taken.
    pub fn versions(self) -> Versions<'t> {
        Versions::new(self.picture, (self.lower, self.upper))
    }

    fn cursor(&self) -> Cursor<'t> {
        Cursor::new(&self.picture, (self.lower.clone(), self.upper.clone()))
    }

    /// Moves the front on; whether it stands on an entry that the back leaves to it.
    fn step(&mut self) -> Result<bool> {
        let cursor = self.front.end.take_walk(&mut self.back.end);
        let mut cursor = cursor.unwrap_or_else(|| Box::new(self.cursor()));
        let moved = match &self.front.end.place {
            Place::Start => cursor.first(),
            Place::From(key) => cursor.seek(key),
            Place::Reached => Ok(true),
            Place::Given => cursor.next(),
            Place::Past | Place::Failed => Ok(false),
        };
        let moved = match moved {
            Err(error) => {
                let taken_up = self.take_up(&mut cursor, error);
                cursor.arrive_forward(taken_up)
            }
            moved => moved,
        };
        self.front.end.settle(&mut self.back.end, cursor, moved, Ordering::Less)
    }

    /// Moves the back; the mirror of [`Iter::step`].
    fn step_back(&mut self) -> Result<bool> {
        let cursor = self.back.end.take_walk(&mut self.front.end);
        let mut cursor = cursor.unwrap_or_else(|| Box::new(self.cursor()));
        let moved = match &self.back.end.place {
            Place::Start => cursor.last(),
            Place::From(key) => cursor.seek_for_prev(key),
            Place::Reached => Ok(true),
            Place::Given => cursor.prev(),
            Place::Past | Place::Failed => Ok(false),
        };
        let moved = match moved {
            Err(error) => {
                let taken_up = self.take_up(&mut cursor, error);
                cursor.arrive_backward(taken_up)
            }
            moved => moved,
        };
        self.back.end.settle(&mut self.front.end, cursor, moved, Ordering::Greater)
    }

    /// After a move of one end's cursor that has failed: if that was for want of a descriptor, both ends
    /// let go of what they hold, and the move is made once more.
    #[cold]
    fn take_up(&mut self, cursor: &mut Cursor<'t>, error: Error) -> Result<bool> {
        if !self.picture.renew(&error) {
            return Err(error);
        }
        cursor.exchange(&self.picture);
        let mut sides = [&mut self.front, &mut self.back];
        for side in &mut sides {
            side.scout = None;
            if let Some(other) = &mut side.end.walk {
                other.exchange(&self.picture);
            }
        }
        self.picture.release(&error);
        for side in sides {
            if let (Some(other), false) = (&mut side.end.walk, side.end.place.is_over()) {
                other.resume()?;
            }
        }
        cursor.resume()
    }

    /// Sees to it that the values of the log that an end walks over are in memory when it comes to
    /// them: by a scout some way ahead of it, or, where they lie in order, by the system itself.
    /// Whether that is so.
    fn look_ahead(&mut self, side: fn(&mut Self) -> &mut Side<'t>, go: Go<'t>) -> bool {
        let ahead = self.ahead;
        let place = side(self);
        let Some(cursor) = place.end.walk.as_ref().filter(|c| ahead > 0 && c.valid()) else {
            return false;
        };
        if let Some(pointer) = cursor.pointer()
            && place.order.note(cursor.view(), pointer)
        {
            if let Some(scout) = place.scout.take()
                && let Some(last) = scout.cursor.pointer()
            {
                cursor.view().begin_along(last);
            }
            return true;
        }
        if place.scout.is_none() {
            if !cursor.is_separated() {
                return false;
            }
            let key = cursor.key().to_vec();
            // What is only fetched ahead was not read: it has no track.
            let picture = Picture { tracks: None, ..self.picture.clone() };
            let mut cursor = Cursor::new(&picture, (self.lower.clone(), self.upper.clone()));
            let done = !matches!(cursor.seek(key), Ok(true));
            side(self).scout = Some(Scout { cursor, lead: 0, bytes: 0, reach: 0, done });
        } else if let Some(scout) = &mut place.scout {
            scout.bytes -= scout.bytes / scout.lead.max(1) as u64;
            scout.lead = scout.lead.saturating_sub(1);
        }
        if let Some(scout) = &mut side(self).scout {
            scout.run(ahead, go);
        }
        false
    }

    fn give<R>(
        &mut self,
        step: fn(&mut Self) -> Result<bool>,
        side: fn(&mut Self) -> &mut Side<'t>,
        take: impl FnOnce(&Cursor<'t>) -> Result<R>,
    ) -> Option<Result<R>> {
        match step(self) {
            Ok(true) => side(self).end.give(take),
            Ok(false) => None,
            Err(error) => Some(Err(error)),
        }
    }
}

impl Iterator for Iter<'_> {
    type Item = Result<Item>;

    fn next(&mut self) -> Option<Self::Item> {
        let item = self.give(Self::step, |iter| &mut iter.front, Cursor::item)?;
        let along = self.look_ahead(|iter| &mut iter.front, Cursor::next);
        Some(item.map(|item| item.along(along)))
    }
}

impl DoubleEndedIterator for Iter<'_> {
    fn next_back(&mut self) -> Option<Self::Item> {
        let item = self.give(Self::step_back, |iter| &mut iter.back, Cursor::item)?;
        let along = self.look_ahead(|iter| &mut iter.back, Cursor::prev);
        Some(item.map(|item| item.along(along)))
    }
}

impl std::iter::FusedIterator for Iter<'_> {}

impl fmt::Debug for Iter<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Iter")
            .field("lower", &self.lower)
            .field("upper", &self.upper)
            .field("version", &self.picture.version)
            .finish_non_exhaustive()
    }
}

/// The keys of an [`Iter`]. Never touches the value log.
#[derive(Debug)]
pub struct Keys<'t>(Iter<'t>);

impl Keys<'_> {
    /// Moves the front, as [`Iter::seek`].
    ///
    /// ```
    /// # fn main() -> kvdb::Result<()> {
    /// # let db = kvdb::Options::default().open_in(std::sync::Arc::new(kvdb::vfs::MemFs::new()), "/db")?;
    /// for key in ["a", "b", "c", "d"] {
    ///     db.put(key, "")?;
    /// }
    /// let mut keys = db.iter()?.keys();
    /// keys.seek("bb");
    /// keys.seek_back("cc");
    /// assert_eq!(keys.collect::<kvdb::Result<Vec<_>>>()?, [b"c"]);
    /// # db.close()
    /// # }
    /// ```
    pub fn seek(&mut self, key: impl AsRef<[u8]>) {
        self.0.seek(key);
    }

    /// Moves the back, as [`Iter::seek_back`].
    pub fn seek_back(&mut self, key: impl AsRef<[u8]>) {
        self.0.seek_back(key);
    }
}

impl Iterator for Keys<'_> {
    type Item = Result<Vec<u8>>;

    fn next(&mut self) -> Option<Self::Item> {
        self.0.give(Iter::step, |iter| &mut iter.front, |cursor| Ok(cursor.key().to_vec()))
    }
}

impl DoubleEndedIterator for Keys<'_> {
    fn next_back(&mut self) -> Option<Self::Item> {
        self.0.give(Iter::step_back, |iter| &mut iter.back, |cursor| Ok(cursor.key().to_vec()))
    }
}

impl std::iter::FusedIterator for Keys<'_> {}
