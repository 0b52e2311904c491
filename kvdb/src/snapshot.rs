//! [`Snapshot`]: the store as it was at one moment.

use std::fmt;
use std::sync::Arc;

use kvdb_txn::ReadMark;

use crate::bounds::{KeyRange, prefix_bounds};
use crate::clock::ClockMark;
use crate::core::{At, Core};
use crate::cursor::{Cursor, Picture};
use crate::error::Result;
use crate::item::Item;
use crate::iter::Iter;
use crate::value::Value;
use crate::versions::Versions;

/// The store as it was at one commit timestamp, for reading. Owned and cheap to clone; nothing
/// that is flushed, compacted or collected meanwhile changes what it shows.
///
/// It holds no files, only a timestamp: what it may still see is kept by compaction until it is
/// dropped.
///
/// ```
/// # fn main() -> kvdb::Result<()> {
/// # let db = kvdb::Options::default().open_in(std::sync::Arc::new(kvdb::vfs::MemFs::new()), "/db")?;
/// db.put("k", "then")?;
/// let snapshot = db.snapshot()?;
/// db.put("k", "now")?;
/// assert_eq!(snapshot.get("k")?.expect("it was there"), "then");
/// // It is `'static`, and can go to another thread.
/// let values = std::thread::spawn(move || snapshot.iter().count()).join();
/// assert_eq!(values.expect("no panic"), 1);
/// # db.close()
/// # }
/// ```
#[derive(Clone)]
pub struct Snapshot {
    pub(crate) core: Arc<Core>,
    marks: Arc<(ReadMark, ClockMark)>,
}

impl Snapshot {
    pub(crate) fn new(core: Arc<Core>, mark: ReadMark, clock: ClockMark) -> Self {
        Snapshot { core, marks: Arc::new((mark, clock)) }
    }

    /// The commit timestamp it shows: every commit up to and including it, none after.
    pub fn version(&self) -> u64 {
        self.marks.0.version()
    }

    pub(crate) fn at(&self) -> At {
        At::Version { version: self.version(), clock: self.marks.1.now() }
    }

    /// The value of a key.
    ///
    /// # Errors
    /// Damage or I/O errors, with path and offset; [`Error::Closed`](crate::Error::Closed).
    pub fn get(&self, key: impl AsRef<[u8]>) -> Result<Option<Value>> {
        self.core.get(key.as_ref(), self.at())
    }

    /// The whole entry of a key: version, user's byte, expiry, and its value when asked for.
    ///
    /// # Errors
    /// As [`Snapshot::get`].
    pub fn get_entry(&self, key: impl AsRef<[u8]>) -> Result<Option<Item>> {
        self.core.get_entry(key.as_ref(), self.at())
    }

    /// Calls `f` with the value in place. Touches no shared counter; `f` should be short, since
    /// memory is not freed anywhere in the database while it runs.
    ///
    /// # Errors
    /// As [`Snapshot::get`].
    pub fn get_with<R>(
        &self,
        key: impl AsRef<[u8]>,
        f: impl FnOnce(&[u8]) -> R,
    ) -> Result<Option<R>> {
        self.core.get_with(key.as_ref(), self.at(), f)
    }

    /// Whether the key is there. Never touches the value log.
    ///
    /// # Errors
    /// As [`Snapshot::get`].
    pub fn contains(&self, key: impl AsRef<[u8]>) -> Result<bool> {
        self.core.contains(key.as_ref(), self.at())
    }

    /// The values of many keys, in the order asked: one look at the store for all of them.
    ///
    /// # Errors
    /// As [`Snapshot::get`], for the first key that fails.
    pub fn multi_get<K: AsRef<[u8]>>(
        &self,
        keys: impl IntoIterator<Item = K>,
    ) -> Result<Vec<Option<Value>>> {
        let keys: Vec<K> = keys.into_iter().collect();
        self.core.multi_get(&keys, self.at())
    }

    /// All entries in key order. Iterators and cursors that are begun when the database is closed fail
    /// with [`Error::Closed`](crate::Error::Closed) at their first step.
    pub fn iter(&self) -> Iter<'static> {
        self.range(..)
    }

    /// The entries within bounds. A start above the end is an empty range.
    pub fn range(&self, range: impl KeyRange) -> Iter<'static> {
        Iter::new(self.picture(), range.into_bounds())
    }

    /// Exactly the entries whose keys start with `prefix`.
    pub fn prefix(&self, prefix: impl AsRef<[u8]>) -> Iter<'static> {
        Iter::new(self.picture(), prefix_bounds(prefix.as_ref()))
    }

    /// All versions of all keys that this snapshot sees or could have seen: see [`Versions`].
    pub fn versions(&self) -> Versions<'static> {
        self.iter().versions()
    }

    /// A cursor within bounds: lends instead of owning, for long scans.
    pub fn cursor(&self, range: impl KeyRange) -> Cursor<'static> {
        Cursor::alone(self.picture(), range.into_bounds())
    }

    fn picture(&self) -> Picture<'static> {
        Picture {
            core: Arc::downgrade(&self.core),
            superversion: self.core.superversion(),
            pending: None,
            added: 0,
            version: self.version(),
            clock: self.marks.1.now(),
            since: 0,
            closed: self.core.check_open().is_err(),
            operator: self.core.options.merge_operator.clone(),
            tracks: None,
        }
    }
}

impl fmt::Debug for Snapshot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Snapshot").field("version", &self.version()).finish_non_exhaustive()
    }
}
