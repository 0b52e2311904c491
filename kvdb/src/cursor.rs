//! [`Cursor`]: a place among the visible entries, that moves both ways.

use std::marker::PhantomData;
use std::ops::Bound;
use std::sync::{Arc, OnceLock, Weak};

use kvdb_lsm::entry::{Entry, Kind};
use kvdb_lsm::{CursorOptions, Superversion, TreeCursor, Visible, VisibleOptions};
use kvdb_sstable::{Bounded, Merge};
use kvdb_vlog::{LogView, Pointer};
use parking_lot::Mutex;

use crate::bounds::Bounds;
use crate::core::Core;
use crate::error::{Error, Result};
use crate::item::{Item, Payload, decode_pointer, pointed_len, read_pointer};
use crate::merge::{Folded, Folder, MergeOperator};
use crate::track::{SharedTrack, Track};
use crate::transaction::Transaction;
use crate::value::Value;
use crate::write_set::{PendingCursor, PendingWrites};

/// Where a cursor's entries come from: the tree, with a transaction's own writes before it.
#[derive(Debug)]
pub(crate) enum Stream {
    Tree(TreeCursor),
    Mixed(Box<Merge<Part>>),
    /// Nowhere: the database was closed before it was asked for.
    Closed(ClosedCursor),
}

/// One of the two streams of a transaction with writes.
#[derive(Debug)]
pub(crate) enum Part {
    Pending(PendingCursor),
    Tree(TreeCursor),
}

/// A cursor whose every move is refused.
#[derive(Debug)]
pub(crate) struct ClosedCursor;

impl ClosedCursor {
    fn refuse(&self) -> kvdb_sstable::Result<bool> {
        Err(kvdb_sstable::Error::other(kvdb_lsm::Error::Closed))
    }
}

impl kvdb_sstable::Cursor for ClosedCursor {
    fn seek(&mut self, _key: &[u8], _version: u64) -> kvdb_sstable::Result<bool> {
        self.refuse()
    }
    fn seek_for_prev(&mut self, _key: &[u8], _version: u64) -> kvdb_sstable::Result<bool> {
        self.refuse()
    }
    fn first(&mut self) -> kvdb_sstable::Result<bool> {
        self.refuse()
    }
    fn last(&mut self) -> kvdb_sstable::Result<bool> {
        self.refuse()
    }
    fn next(&mut self) -> kvdb_sstable::Result<bool> {
        self.refuse()
    }
    fn prev(&mut self) -> kvdb_sstable::Result<bool> {
        self.refuse()
    }
    fn valid(&self) -> bool {
        false
    }
    fn key(&self) -> &[u8] {
        &[]
    }
    fn version(&self) -> u64 {
        0
    }
    fn value(&self) -> &[u8] {
        &[]
    }
}

macro_rules! delegate {
    ($self:ident, $kind:ident { $($way:ident),* }, $call:ident $args:tt) => {
        match $self {
            $($kind::$way(inner) => inner.$call $args,)*
        }
    };
}

macro_rules! impl_cursor {
    ($kind:ident { $($way:ident),* }) => {
        impl kvdb_sstable::Cursor for $kind {
            fn seek(&mut self, key: &[u8], version: u64) -> kvdb_sstable::Result<bool> {
                delegate!(self, $kind { $($way),* }, seek(key, version))
            }
            fn seek_for_prev(&mut self, key: &[u8], version: u64) -> kvdb_sstable::Result<bool> {
                delegate!(self, $kind { $($way),* }, seek_for_prev(key, version))
            }
            fn first(&mut self) -> kvdb_sstable::Result<bool> {
                delegate!(self, $kind { $($way),* }, first())
            }
            fn last(&mut self) -> kvdb_sstable::Result<bool> {
                delegate!(self, $kind { $($way),* }, last())
            }
            #[inline]
            fn next(&mut self) -> kvdb_sstable::Result<bool> {
                delegate!(self, $kind { $($way),* }, next())
            }
            #[inline]
            fn prev(&mut self) -> kvdb_sstable::Result<bool> {
                delegate!(self, $kind { $($way),* }, prev())
            }
            #[inline]
            fn valid(&self) -> bool {
                delegate!(self, $kind { $($way),* }, valid())
            }
            #[inline]
            fn key(&self) -> &[u8] {
                delegate!(self, $kind { $($way),* }, key())
            }
            #[inline]
            fn version(&self) -> u64 {
                delegate!(self, $kind { $($way),* }, version())
            }
            #[inline]
            fn value(&self) -> &[u8] {
                delegate!(self, $kind { $($way),* }, value())
            }
            #[inline]
            fn parts(&self) -> (&[u8], u64, &[u8]) {
                delegate!(self, $kind { $($way),* }, parts())
            }
            #[inline]
            fn head(&self) -> u64 {
                delegate!(self, $kind { $($way),* }, head())
            }
        }
    };
}

impl_cursor!(Stream { Tree, Mixed, Closed });
impl_cursor!(Part { Pending, Tree });

/// Everything needed to make cursors over the same state: one picture of the store.
#[derive(Debug, Clone)]
pub(crate) struct Picture<'t> {
    pub(crate) core: Weak<Core>,
    pub(crate) superversion: Arc<Superversion<LogView>>,
    pub(crate) pending: Option<PendingWrites>,
    /// How many writes had been added to the transaction by then.
    pub(crate) added: u64,
    pub(crate) version: u64,
    pub(crate) clock: u64,
    /// Entries that are not newer than this are left out, with the tables that have nothing else.
    pub(crate) since: u64,
    pub(crate) operator: Option<MergeOperator>,
    /// It was asked for when the database was closed already.
    pub(crate) closed: bool,
    /// Where a read-write transaction collects what its cursors read.
    pub(crate) tracks: Option<&'t Mutex<Vec<SharedTrack>>>,
}

impl<'t> Picture<'t> {
    /// Every version of every key within the bounds, with the transaction's own writes.
    pub(crate) fn stream(&self, lower: &Bound<Vec<u8>>, upper: &Bound<Vec<u8>>) -> Bounded<Stream> {
        if self.closed {
            let stream = Stream::Closed(ClosedCursor);
            return Bounded::new(stream, lower.clone(), upper.clone());
        }
        let tree = self.superversion.cursor_with(&CursorOptions {
            since: self.since,
            lower: lower.clone(),
            upper: upper.clone(),
        });
        let stream = match &self.pending {
            None => Stream::Tree(tree),
            Some(writes) => {
                let parts =
                    vec![Part::Pending(PendingCursor::new(writes.clone())), Part::Tree(tree)];
                Stream::Mixed(Box::new(Merge::new(parts)))
            }
        };
        Bounded::new(stream, lower.clone(), upper.clone())
    }

    /// What one more walk of a read-write transaction over all versions notes its reads in.
    pub(crate) fn track(&self) -> Option<SharedTrack> {
        self.noted(0)
    }

    /// The same for one that shows of each key the newest version alone.
    fn track_newest(&self) -> Option<SharedTrack> {
        self.noted(self.added)
    }

    fn noted(&self, own: u64) -> Option<SharedTrack> {
        let tracks = self.tracks?;
        let track = Arc::new(Mutex::new(Track::besides(own)));
        tracks.lock().push(track.clone());
        Some(track)
    }

    pub(crate) fn folds(&self) -> Folds {
        Folds {
            superversion: self.superversion.clone(),
            operator: self.operator.clone(),
            at_most: self.version,
            clock: self.clock,
        }
    }
}

/// What it takes to fold operands under a cursor.
#[derive(Debug)]
pub(crate) struct Folds {
    superversion: Arc<Superversion<LogView>>,
    operator: Option<MergeOperator>,
    at_most: u64,
    clock: u64,
}

impl Folds {
    pub(crate) fn view(&self) -> &Arc<LogView> {
        self.superversion.view()
    }

    #[cold]
    pub(crate) fn fold(&self, key: &[u8], version: u64, operand: &Entry<'_>) -> Result<Folded> {
        let folder = Folder {
            superversion: &self.superversion,
            operator: self.operator.as_ref(),
            at_most: self.at_most,
            clock: self.clock,
        };
        folder.fold(key, version, operand)
    }
}

/// A cursor over the entries that are visible to a snapshot or a transaction, within bounds.
///
/// Unlike [`Iter`](crate::Iter) it lends: key and value are looked at in place, nothing is copied
/// or allocated per step. Every move is fallible and says whether the cursor stands on an entry.
/// A new one stands before the first entry, which [`next`](Cursor::next) moves it to. After an error
/// it stands nowhere: only [`first`](Cursor::first), [`last`](Cursor::last) and the seeks position it
/// anew.
///
/// A cursor of a snapshot or database owns what it walks (`Cursor<'static>`); one of a transaction
/// borrows the transaction.
///
/// ```
/// # fn main() -> kvdb::Result<()> {
/// # let db = kvdb::Options::default().open_in(std::sync::Arc::new(kvdb::vfs::MemFs::new()), "/db")?;
/// for k in ["a", "b", "c"] { db.put(k, k)?; }
/// let mut cursor = db.snapshot()?.cursor(..);
/// assert!(cursor.seek("b")?);
/// assert_eq!(cursor.key(), b"b");
/// assert!(cursor.prev()?);
/// assert_eq!(cursor.key(), b"a");
/// assert!(!cursor.prev()?);
/// # db.close()
/// # }
/// ```
#[derive(Debug)]
pub struct Cursor<'t> {
    visible: Visible<Bounded<Stream>>,
    folds: Folds,
    /// To go on with when there was no descriptor left: of a cursor that nothing walks with.
    picture: Option<Box<Picture<'t>>>,
    /// What the operands under the cursor come to, once someone has asked.
    folded: OnceLock<Folded>,
    track: Option<SharedTrack>,
    lower: Bound<Vec<u8>>,
    upper: Bound<Vec<u8>>,
    _transaction: PhantomData<&'t Transaction>,
}

impl<'t> Cursor<'t> {
    pub(crate) fn new(picture: &Picture<'t>, (lower, upper): Bounds) -> Cursor<'t> {
        let visible = Visible::new(
            picture.stream(&lower, &upper),
            VisibleOptions {
                at_most: picture.version,
                since: picture.since,
                clock: picture.clock,
                range_deletes: picture.superversion.range_deletes().clone(),
            },
        );
        let cursor = Cursor {
            visible,
            folds: picture.folds(),
            picture: None,
            folded: OnceLock::new(),
            track: picture.track_newest(),
            lower,
            upper,
            _transaction: PhantomData,
        };
        // It stands before the first entry: what moves on from here reads from the bound.
        cursor.tracked(|track| track.jump_forward(cursor.lower.clone()));
        cursor
    }

    /// A cursor by itself.
    pub(crate) fn alone(picture: Picture<'t>, bounds: Bounds) -> Cursor<'t> {
        let cursor = Cursor::new(&picture, bounds);
        Cursor { picture: Some(Box::new(picture)), ..cursor }
    }

    /// Lets go of the picture that it walks over. Stands nowhere until [`resume`](Self::resume).
    pub(crate) fn exchange(&mut self, picture: &Picture<'t>) {
        let stream = picture.stream(&self.lower, &self.upper);
        self.visible.exchange(stream, picture.superversion.range_deletes().clone());
        self.folds = picture.folds();
        self.folded.take();
    }

    /// Stands where it stood, or would have come to if the last move had not failed.
    pub(crate) fn resume(&mut self) -> Result<bool> {
        Ok(self.visible.resume()?)
    }

    #[inline]
    fn again(&mut self, moved: kvdb_lsm::Result<bool>) -> Result<bool> {
        match moved {
            Ok(on) => Ok(on),
            Err(error) => self.try_again(error.into()),
        }
    }

    #[cold]
    fn try_again(&mut self, error: Error) -> Result<bool> {
        let Some(mut picture) = self.picture.take() else { return Err(error) };
        let renewed = picture.renew(&error);
        if renewed {
            self.exchange(&picture);
            picture.release(&error);
        }
        self.picture = Some(picture);
        if renewed { self.resume() } else { Err(error) }
    }

    /// Moves to the first entry within the bounds.
    ///
    /// # Errors
    /// As all moves: damage or an I/O error of a table, with path and offset.
    pub fn first(&mut self) -> Result<bool> {
        self.tracked(|track| track.jump_forward(self.lower.clone()));
        let moved = self.visible.first();
        let on = self.again(moved);
        self.arrive_forward(on)
    }

    /// Moves to the last entry within the bounds.
    pub fn last(&mut self) -> Result<bool> {
        self.tracked(|track| track.jump_backward(self.upper.clone()));
        let moved = self.visible.last();
        let on = self.again(moved);
        self.arrive_backward(on)
    }

    /// Moves to the first entry whose key is `key` or greater, within the bounds.
    pub fn seek(&mut self, key: impl AsRef<[u8]>) -> Result<bool> {
        let key = key.as_ref();
        self.tracked(|track| match self.visible.inner().is_below(key) {
            true => track.jump_forward(self.lower.clone()),
            false => track.jump_forward(Bound::Included(key.to_vec())),
        });
        let moved = self.visible.seek(key);
        let on = self.again(moved);
        self.arrive_forward(on)
    }

    /// Moves to the last entry whose key is `key` or less, within the bounds.
    pub fn seek_for_prev(&mut self, key: impl AsRef<[u8]>) -> Result<bool> {
        let key = key.as_ref();
        self.tracked(|track| match self.visible.inner().is_above(key) {
            true => track.jump_backward(self.upper.clone()),
            false => track.jump_backward(Bound::Included(key.to_vec())),
        });
        let moved = self.visible.seek_for_prev(key);
        let on = self.again(moved);
        self.arrive_backward(on)
    }

    /// Moves to the next entry. From before the first one, where a new cursor is, that is the first
    /// one; from behind the last one there is none.
    ///
    /// # Errors
    /// As [`first`](Cursor::first); and one of kind [`Usage`](crate::ErrorKind::Usage) after a move
    /// that failed.
    #[allow(clippy::should_implement_trait)] // lends, and is fallible
    pub fn next(&mut self) -> Result<bool> {
        let moved = self.visible.next();
        let on = self.again(moved);
        self.arrive_forward(on)
    }

    /// Moves to the previous entry. From behind the last one, that is the last one; from before the
    /// first one there is none.
    ///
    /// # Errors
    /// As [`next`](Cursor::next).
    pub fn prev(&mut self) -> Result<bool> {
        let moved = self.visible.prev();
        let on = self.again(moved);
        self.arrive_backward(on)
    }

    /// Whether the cursor stands on an entry.
    pub fn valid(&self) -> bool {
        self.visible.valid()
    }

    /// The key it stands on. Call only while [`valid`](Cursor::valid).
    pub fn key(&self) -> &[u8] {
        self.visible.key()
    }

    /// The commit timestamp of the entry; [`u64::MAX`] for a transaction's own write.
    pub fn version(&self) -> u64 {
        self.visible.version()
    }

    /// The user's byte; of merge operands that of the value below them.
    pub fn user_meta(&self) -> u8 {
        let entry = self.entry();
        match entry.kind.is_merge() {
            true => self.fold(&entry).map_or(0, |folded| folded.user_meta),
            false => entry.user_meta,
        }
    }

    /// Seconds since 1970 from which on the entry is absent; `None`: never.
    pub fn expires_at(&self) -> Option<u64> {
        let at = self.entry().expires_at;
        (at != 0).then_some(at)
    }

    /// Whether the value lives in the log rather than in the tree.
    pub fn is_separated(&self) -> bool {
        self.entry().kind == Kind::Pointer
    }

    /// Bytes of the value, known without reading it. (Merge operands are folded for it.)
    ///
    /// # Errors
    /// A pointer that makes no sense; [`Error::NoMergeOperator`](crate::Error::NoMergeOperator).
    pub fn value_len(&self) -> Result<usize> {
        let entry = self.entry();
        match entry.kind {
            Kind::Pointer => pointed_len(self.key(), &entry),
            kind if kind.is_merge() => Ok(self.fold(&entry)?.value.len()),
            _ => Ok(entry.payload.len()),
        }
    }

    /// The value in place, if it lives in the tree; `None` if it lives in the log, or if it has to
    /// be folded and cannot: [`value`](Cursor::value) says why.
    pub fn inline_value(&self) -> Option<&[u8]> {
        let entry = self.entry();
        match entry.kind {
            Kind::Value => Some(entry.payload),
            kind if kind.is_merge() => self.fold(&entry).ok().map(|folded| &*folded.value),
            _ => None,
        }
    }

    /// The value: a copy if it lives in the tree, a handle into the log if it lives there.
    ///
    /// # Errors
    /// Damage or an I/O error of the log; [`Error::NoMergeOperator`](crate::Error::NoMergeOperator).
    pub fn value(&self) -> Result<Value> {
        let entry = self.entry();
        match entry.kind {
            Kind::Pointer => {
                read_pointer(self.folds.view(), entry.payload, self.key(), self.version())
            }
            kind if kind.is_merge() => Ok(Value::copied(&self.fold(&entry)?.value)),
            _ => Ok(Value::copied(entry.payload)),
        }
    }

    /// Calls `f` with the value where it lies, in the tree or in the log.
    ///
    /// # Errors
    /// Damage or an I/O error of the log.
    pub fn value_with<R>(&self, f: impl FnOnce(&[u8]) -> R) -> Result<R> {
        let entry = self.entry();
        match entry.kind {
            Kind::Pointer => {
                let pointer = decode_pointer(entry.payload, self.key())?;
                match self.view().read_ref(pointer, self.key(), self.version())? {
                    Some(bytes) => Ok(f(bytes)),
                    None => Ok(f(&self.value()?)),
                }
            }
            kind if kind.is_merge() => Ok(f(&self.fold(&entry)?.value)),
            _ => Ok(f(entry.payload)),
        }
    }

    /// The entry, owned.
    ///
    /// # Errors
    /// An entry of an unknown kind; [`Error::NoMergeOperator`](crate::Error::NoMergeOperator).
    pub fn item(&self) -> Result<Item> {
        let entry = self.entry();
        if entry.kind.is_merge() {
            return Ok(Item::folded(self.key(), self.version(), self.fold(&entry)?.clone()));
        }
        let payload = Payload::of(self.key(), &entry, self.folds.view())?;
        Ok(Item::new(self.key(), self.version(), &entry, payload))
    }

    /// Where in the log the value is, if it is there.
    pub(crate) fn pointer(&self) -> Option<Pointer> {
        let entry = self.entry();
        (entry.kind == Kind::Pointer).then(|| Pointer::from_stored(entry.payload)).flatten()
    }

    pub(crate) fn view(&self) -> &LogView {
        self.folds.view()
    }

    /// The entry under the cursor. That it decodes was seen when the cursor came here.
    fn entry(&self) -> Entry<'_> {
        self.visible.entry().unwrap_or(Entry::tombstone())
    }

    /// What the operands under the cursor come to.
    #[cold]
    fn fold(&self, operand: &Entry<'_>) -> Result<&Folded> {
        if let Some(folded) = self.folded.get() {
            return Ok(folded);
        }
        let folded = self.folds.fold(self.key(), self.version(), operand)?;
        Ok(self.folded.get_or_init(|| folded))
    }

    #[inline]
    pub(crate) fn arrive_forward(&mut self, on: Result<bool>) -> Result<bool> {
        self.forget_folded();
        let on = on?;
        self.tracked(|track| match on {
            true => track.forward(self.visible.key()),
            false => track.forward_to_end(&self.upper),
        });
        Ok(on)
    }

    /// What was folded for the entry that it leaves, which is seldom anything.
    #[inline]
    fn forget_folded(&mut self) {
        if self.folded.get().is_some() {
            self.folded.take();
        }
    }

    #[inline]
    pub(crate) fn arrive_backward(&mut self, on: Result<bool>) -> Result<bool> {
        self.forget_folded();
        let on = on?;
        self.tracked(|track| match on {
            true => track.backward(self.visible.key()),
            false => track.backward_to_start(&self.lower),
        });
        Ok(on)
    }

    fn tracked(&self, f: impl FnOnce(&mut Track)) {
        if let Some(track) = &self.track {
            f(&mut track.lock());
        }
    }
}
