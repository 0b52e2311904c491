//! [`Versions`]: every version of every key, from both ends.

use std::cmp::{Ordering, Reverse};
use std::fmt;
use std::ops::Bound;

use kvdb_lsm::PENDING;
use kvdb_lsm::entry::Entry;
use kvdb_sstable::{Bounded, Cursor as _};

use crate::bounds::Bounds;
use crate::cursor::{Folds, Picture, Stream};
use crate::ends::{End, Place, Walk};
use crate::error::Result;
use crate::item::{Item, Payload};
use crate::track::{SharedTrack, Track};

/// Every version of every key that is stored and not newer than the reader: in key order, the
/// newest first within a key; from the back the exact mirror.
///
/// Deletes are items too ([`Item::is_deleted`]), and so are entries whose time was up
/// ([`Item::is_expired`]). Merge operands are shown as what a reader at their version saw: folded.
/// Older versions are there until compaction drops what
/// [`Options::versions_to_keep`](crate::Options::versions_to_keep) and open snapshots do not ask
/// for, so this is what *is* there, not a history that is promised. What a range drop hides is not
/// shown.
///
/// Made by [`Snapshot::versions`](crate::Snapshot::versions) and
/// [`Iter::versions`](crate::Iter::versions).
///
/// ```
/// # fn main() -> kvdb::Result<()> {
/// # let fs = std::sync::Arc::new(kvdb::vfs::MemFs::new());
/// # let db = kvdb::Options::default().versions_to_keep(10).open_in(fs, "/db")?;
/// db.put("k", "old")?;
/// db.put("k", "new")?;
/// db.delete("k")?;
/// let history = db.snapshot()?.versions().collect::<kvdb::Result<Vec<_>>>()?;
/// assert!(history[0].is_deleted());
/// assert_eq!(history[1].value()?, "new");
/// assert_eq!(history[2].value()?, "old");
/// # db.close()
/// # }
/// ```
pub struct Versions<'t> {
    picture: Picture<'t>,
    lower: Bound<Vec<u8>>,
    upper: Bound<Vec<u8>>,
    folds: Folds,
    front: End<Stretch, At>,
    back: End<Stretch, At>,
}

#[derive(Debug)]
struct Stretch {
    stream: Bounded<Stream>,
    track: Option<SharedTrack>,
}

/// A version of a key.
type At = (Vec<u8>, u64);

impl Walk<At> for Stretch {
    fn at(&self) -> At {
        (self.stream.key().to_vec(), self.stream.version())
    }
    fn cmp_at(&self, (key, version): &At) -> Ordering {
        self.order().cmp(&(key, Reverse(*version)))
    }
    fn cmp(&self, other: &Self) -> Ordering {
        self.order().cmp(&other.order())
    }
}

impl Stretch {
    /// Where it stands: the newest version of a key is its first.
    fn order(&self) -> (&[u8], Reverse<u64>) {
        (self.stream.key(), Reverse(self.stream.version()))
    }
}

impl<'t> Versions<'t> {
    pub(crate) fn new(picture: Picture<'t>, (lower, upper): Bounds) -> Self {
        let folds = picture.folds();
        Versions { picture, lower, upper, folds, front: End::default(), back: End::default() }
    }

    /// Only versions newer than this one, deletes included as long as they are kept: a delete that no
    /// reader needs goes with what it hides. What a drop of a range removed is absent, whatever its
    /// version, and the drop itself is not shown. Tables that hold nothing newer are not opened. Starts
    /// over: call it before anything was taken.
    ///
    /// ```
    /// # fn main() -> kvdb::Result<()> {
    /// # let db = kvdb::Options::default().open_in(std::sync::Arc::new(kvdb::vfs::MemFs::new()), "/db")?;
    /// let version = db.put("a", "old")?;
    /// db.delete("a")?;
    /// let changes = db.snapshot()?.versions().since(version).collect::<kvdb::Result<Vec<_>>>()?;
    /// assert!(changes.len() == 1 && changes[0].is_deleted());
    /// # db.close()
    /// # }
    /// ```
    #[must_use]
    pub fn since(mut self, version: u64) -> Versions<'t> {
        self.picture.since = version;
        Versions::new(self.picture, (self.lower, self.upper))
    }

    /// Moves the front: [`next`](Iterator::next) gives the newest version of the first key that is
    /// `key` or greater, within the bounds. As [`Iter::seek`](crate::Iter::seek).
    pub fn seek(&mut self, key: impl AsRef<[u8]>) {
        self.front.place = Place::From((key.as_ref().to_vec(), u64::MAX));
    }

    /// Moves the back: [`next_back`](DoubleEndedIterator::next_back) gives the oldest version of the
    /// last key that is `key` or less, within the bounds.
    pub fn seek_back(&mut self, key: impl AsRef<[u8]>) {
        self.back.place = Place::From((key.as_ref().to_vec(), 0));
    }

    fn stretch(&self) -> Stretch {
        Stretch {
            stream: self.picture.stream(&self.lower, &self.upper),
            track: self.picture.track(),
        }
    }

    fn shows(&self, walk: &Stretch) -> bool {
        let (key, version) = (walk.stream.key(), walk.stream.version());
        let at_most = self.picture.version;
        if version == PENDING {
            return true;
        }
        version <= at_most
            && version > self.picture.since
            && !self.picture.superversion.range_deletes().hides(key, version, at_most)
    }

    /// Moves the front on; whether it stands on a version that the back leaves to it.
    fn step(&mut self) -> Result<bool> {
        let walk = self.front.take_walk(&mut self.back);
        let mut walk = walk.unwrap_or_else(|| Box::new(self.stretch()));
        let moved = self.walk_forward(&mut walk, &self.front.place);
        self.front.settle(&mut self.back, walk, moved, Ordering::Less)
    }

    fn walk_forward(&self, walk: &mut Stretch, place: &Place<At>) -> Result<bool> {
        let stream = &mut walk.stream;
        let mut on = match place {
            Place::Past | Place::Failed => return Ok(false),
            Place::Reached => return Ok(true),
            Place::Given => stream.next()?,
            Place::From((key, version)) if !stream.is_below(key) => {
                note(&walk.track, |track| track.jump_forward(Bound::Included(key.clone())));
                stream.seek(key, *version)?
            }
            Place::Start | Place::From(_) => {
                note(&walk.track, |track| track.jump_forward(self.lower.clone()));
                stream.first()?
            }
        };
        while on {
            if self.shows(walk) {
                note(&walk.track, |track| track.forward(walk.stream.key()));
                return Ok(true);
            }
            on = walk.stream.next()?;
        }
        note(&walk.track, |track| track.forward_to_end(&self.upper));
        Ok(false)
    }

    /// Moves the back; the mirror of [`Versions::step`].
    fn step_back(&mut self) -> Result<bool> {
        let walk = self.back.take_walk(&mut self.front);
        let mut walk = walk.unwrap_or_else(|| Box::new(self.stretch()));
        let moved = self.walk_backward(&mut walk, &self.back.place);
        self.back.settle(&mut self.front, walk, moved, Ordering::Greater)
    }

    fn walk_backward(&self, walk: &mut Stretch, place: &Place<At>) -> Result<bool> {
        let stream = &mut walk.stream;
        let mut on = match place {
            Place::Past | Place::Failed => return Ok(false),
            Place::Reached => return Ok(true),
            Place::Given => stream.prev()?,
            Place::From((key, version)) if !stream.is_above(key) => {
                note(&walk.track, |track| track.jump_backward(Bound::Included(key.clone())));
                stream.seek_for_prev(key, *version)?
            }
            Place::Start | Place::From(_) => {
                note(&walk.track, |track| track.jump_backward(self.upper.clone()));
                stream.last()?
            }
        };
        while on {
            if self.shows(walk) {
                note(&walk.track, |track| track.backward(walk.stream.key()));
                return Ok(true);
            }
            on = walk.stream.prev()?;
        }
        note(&walk.track, |track| track.backward_to_start(&self.lower));
        Ok(false)
    }
}

/// The version that a walk stands on.
fn item(folds: &Folds, clock: u64, walk: &Stretch) -> Result<Item> {
    let (key, version) = (walk.stream.key(), walk.stream.version());
    let entry = Entry::decode(walk.stream.value()).map_err(kvdb_lsm::Error::from)?;
    if entry.kind.is_merge() {
        return Ok(Item::folded(key, version, folds.fold(key, version, &entry)?));
    }
    let expired = entry.is_expired(clock);
    let payload = Payload::of(key, &entry, folds.view())?;
    Ok(Item::new(key, version, &entry, payload).with_expired(expired))
}

impl Iterator for Versions<'_> {
    type Item = Result<Item>;

    fn next(&mut self) -> Option<Self::Item> {
        match self.step() {
            Ok(true) => self.front.give(|walk| item(&self.folds, self.picture.clock, walk)),
            Ok(false) => None,
            Err(error) => Some(Err(error)),
        }
    }
}

impl DoubleEndedIterator for Versions<'_> {
    fn next_back(&mut self) -> Option<Self::Item> {
        match self.step_back() {
            Ok(true) => self.back.give(|walk| item(&self.folds, self.picture.clock, walk)),
            Ok(false) => None,
            Err(error) => Some(Err(error)),
        }
    }
}

impl std::iter::FusedIterator for Versions<'_> {}

impl fmt::Debug for Versions<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Versions")
            .field("lower", &self.lower)
            .field("upper", &self.upper)
            .field("version", &self.picture.version)
            .field("since", &self.picture.since)
            .finish_non_exhaustive()
    }
}

fn note(track: &Option<SharedTrack>, f: impl FnOnce(&mut Track)) {
    if let Some(track) = track {
        f(&mut track.lock());
    }
}
