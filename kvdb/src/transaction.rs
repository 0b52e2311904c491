//! [`Transaction`]: reads and writes that take effect together or not at all.

use std::fmt;
use std::sync::Arc;

use kvdb_txn::{ReadMark, ReadSet};
use parking_lot::Mutex;

use crate::bounds::{KeyRange, prefix_bounds};
use crate::clock::ClockMark;
use crate::commit::Commit;
use crate::core::Core;
use crate::cursor::Cursor;
use crate::error::Result;
use crate::item::Item;
use crate::iter::Iter;
use crate::options::Durability;
use crate::reader::{Reader, Untracked};
use crate::track::SharedTrack;
use crate::value::Value;
use crate::write_set::{WriteOptions, WriteSet};

/// A read-write transaction: serializable. It reads one snapshot, sees its own writes, and at
/// commit fails with [`Error::Conflict`](crate::Error::Conflict) if another commit has changed
/// anything it has read, keys that were absent and ranges that were scanned included. What it
/// answers from its own writes it has not read: a key that it has put or deleted itself, also where
/// a scan comes to it, may be changed by others. [`untracked`](Transaction::untracked) reads what
/// may change anyway.
///
/// Dropping it discards it. [`Db::update`](crate::Db::update) runs a closure in one and again on a
/// conflict.
///
/// ```
/// # fn main() -> kvdb::Result<()> {
/// # let db = kvdb::Options::default().open_in(std::sync::Arc::new(kvdb::vfs::MemFs::new()), "/db")?;
/// let mut t = db.begin()?;
/// t.put("greeting", "hello")?;
/// assert_eq!(t.get("greeting")?.expect("own write"), "hello");
/// assert!(db.get("greeting")?.is_none(), "not visible to others before commit");
/// t.commit()?;
/// assert_eq!(db.get("greeting")?.expect("committed"), "hello");
/// # db.close()
/// # }
/// ```
///
/// What is finished cannot be used, by type, and a [`Snapshot`](crate::Snapshot) has nothing to write
/// with:
///
/// ```compile_fail,E0382
/// # fn f(db: kvdb::Db) -> kvdb::Result<()> {
/// let mut t = db.begin()?;
/// t.commit()?;
/// t.put("k", "v") // moved
/// # }
/// ```
/// ```compile_fail,E0599
/// # fn f(db: kvdb::Db) -> kvdb::Result<()> {
/// db.begin_read()?.put("k", "v") // no such method
/// # }
/// ```
pub struct Transaction {
    pub(crate) core: Arc<Core>,
    pub(crate) mark: ReadMark,
    pub(crate) clock: ClockMark,
    pub(crate) writes: WriteSet,
    pub(crate) reads: Mutex<ReadSet>,
    pub(crate) tracks: Mutex<Vec<SharedTrack>>,
    /// Began at a version after which some writes were forgotten already.
    late: bool,
}

impl Transaction {
    pub(crate) fn new(core: Arc<Core>, mark: ReadMark, clock: ClockMark) -> Self {
        // Who reads the newest version there is cannot be late, only overtaken.
        let oracle = &core.oracle;
        let late = core.options.managed
            && mark.version() < oracle.remembered_after().min(oracle.read_version());
        Transaction {
            core,
            mark,
            clock,
            late,
            writes: WriteSet::default(),
            reads: Mutex::default(),
            tracks: Mutex::default(),
        }
    }

    /// The commit timestamp of the snapshot it reads.
    pub fn read_version(&self) -> u64 {
        self.mark.version()
    }

    /// Bytes its writes will take in the log.
    pub fn size(&self) -> usize {
        self.writes.frame_len()
    }

    /// Number of keys it writes.
    pub fn len(&self) -> usize {
        self.writes.len()
    }

    /// Whether it writes nothing.
    pub fn is_empty(&self) -> bool {
        self.writes.is_empty()
    }

    /// Writes a key. Later writes of the same key replace earlier ones.
    ///
    /// # Errors
    /// [`Error::EmptyKey`](crate::Error::EmptyKey),
    /// [`Error::KeyTooLong`](crate::Error::KeyTooLong),
    /// [`Error::ValueTooLarge`](crate::Error::ValueTooLarge), and
    /// [`Error::TransactionTooBig`](crate::Error::TransactionTooBig), after which this write is not
    /// in the transaction and the rest can still be committed.
    pub fn put(&mut self, key: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> Result<()> {
        self.put_with(key, value, WriteOptions::default())
    }

    /// Writes a key with a user's byte, a time to live or an expiry time.
    ///
    /// # Errors
    /// As [`Transaction::put`].
    pub fn put_with(
        &mut self,
        key: impl AsRef<[u8]>,
        value: impl AsRef<[u8]>,
        options: WriteOptions,
    ) -> Result<()> {
        self.core.check_open()?;
        self.core.log()?;
        // By the clock that it reads by, too: else its own write could be absent to it at once.
        let options = options.counted(&self.core.clock, self.clock.now());
        self.writes.put(&self.core, key.as_ref(), value.as_ref(), options)
    }

    /// Adds an operand for the store's [`MergeOperator`](crate::MergeOperator). Not a read: it
    /// conflicts with nothing. What is added to a value of this transaction that expires expires
    /// with it.
    ///
    /// # Errors
    /// [`Error::NoMergeOperator`](crate::Error::NoMergeOperator), and as [`Transaction::put`].
    pub fn merge(&mut self, key: impl AsRef<[u8]>, operand: impl AsRef<[u8]>) -> Result<()> {
        self.core.check_open()?;
        self.core.log()?;
        let (key, core) = (key.as_ref(), &self.core);
        let operator = core.merge_operator(key)?;
        self.writes.merge(&core.limits, key, operand.as_ref(), operator, self.clock.now())
    }

    /// Deletes a key. Deleting what is not there is no error.
    ///
    /// # Errors
    /// As [`Transaction::put`].
    pub fn delete(&mut self, key: impl AsRef<[u8]>) -> Result<()> {
        self.core.check_open()?;
        self.core.log()?;
        self.writes.delete(&self.core.limits, key.as_ref())
    }

    /// The value of a key: the transaction's own write, or what the snapshot holds.
    ///
    /// # Errors
    /// As [`Snapshot::get`](crate::Snapshot::get).
    pub fn get(&self, key: impl AsRef<[u8]>) -> Result<Option<Value>> {
        self.reader().get(key.as_ref())
    }

    /// The whole entry of a key.
    ///
    /// # Errors
    /// As [`Snapshot::get`](crate::Snapshot::get).
    pub fn get_entry(&self, key: impl AsRef<[u8]>) -> Result<Option<Item>> {
        self.reader().get_entry(key.as_ref())
    }

    /// Calls `f` with the value in place, that of the transaction's own write too. `f` should be
    /// short, since memory is not freed anywhere in the database while it runs.
    ///
    /// ```
    /// # fn main() -> kvdb::Result<()> {
    /// # let db = kvdb::Options::default().open_in(std::sync::Arc::new(kvdb::vfs::MemFs::new()), "/db")?;
    /// db.put("k", "value")?;
    /// let mut t = db.begin()?;
    /// t.put("own", "longer value")?;
    /// assert_eq!(t.get_with("k", |value| value.len())?, Some(5));
    /// assert_eq!(t.get_with("own", |value| value.len())?, Some(12));
    /// # drop(t);
    /// # db.close()
    /// # }
    /// ```
    ///
    /// # Errors
    /// As [`Snapshot::get`](crate::Snapshot::get).
    pub fn get_with<R>(
        &self,
        key: impl AsRef<[u8]>,
        f: impl FnOnce(&[u8]) -> R,
    ) -> Result<Option<R>> {
        self.reader().get_with(key.as_ref(), f)
    }

    /// Whether the key is there. Never touches the value log.
    ///
    /// # Errors
    /// As [`Snapshot::get`](crate::Snapshot::get).
    pub fn contains(&self, key: impl AsRef<[u8]>) -> Result<bool> {
        self.reader().contains(key.as_ref())
    }

    /// The values of many keys, in the order asked.
    ///
    /// # Errors
    /// As [`Transaction::get`], for the first key that fails.
    pub fn multi_get<K: AsRef<[u8]>>(
        &self,
        keys: impl IntoIterator<Item = K>,
    ) -> Result<Vec<Option<Value>>> {
        let keys: Vec<K> = keys.into_iter().collect();
        self.reader().multi_get(&keys)
    }

    /// All entries in key order, the transaction's own writes of before this call among them.
    pub fn iter(&self) -> Iter<'_> {
        self.range(..)
    }

    /// The entries within bounds. A start above the end is an empty range.
    pub fn range(&self, range: impl KeyRange) -> Iter<'_> {
        Iter::new(self.reader().picture(), range.into_bounds())
    }

    /// Exactly the entries whose keys start with `prefix`.
    pub fn prefix(&self, prefix: impl AsRef<[u8]>) -> Iter<'_> {
        Iter::new(self.reader().picture(), prefix_bounds(prefix.as_ref()))
    }

    /// A cursor within bounds: lends instead of owning, for long scans.
    pub fn cursor(&self, range: impl KeyRange) -> Cursor<'_> {
        Cursor::alone(self.reader().picture(), range.into_bounds())
    }

    /// The same reads without conflicts: see [`Untracked`].
    pub fn untracked(&self) -> Untracked<'_> {
        Untracked::new(Reader::new(self, false))
    }

    fn reader(&self) -> Reader<'_> {
        Reader::new(self, self.core.options.detect_conflicts)
    }

    /// Makes the writes take effect, with the database's durability. Returns the commit timestamp;
    /// a transaction without writes takes none, never conflicts, and returns its read version.
    ///
    /// # Errors
    /// [`Error::Conflict`](crate::Error::Conflict) or [`Error::TooOld`](crate::Error::TooOld):
    /// nothing was written, run it again. [`Error::OutcomeUnknown`](crate::Error::OutcomeUnknown):
    /// the log failed on the way. Others: nothing was written.
    pub fn commit(self) -> Result<u64> {
        let durability = self.core.options.durability;
        self.commit_with(durability)
    }

    /// Makes the writes take effect with a durability of its own.
    ///
    /// # Errors
    /// As [`Transaction::commit`].
    pub fn commit_with(self, durability: Durability) -> Result<u64> {
        self.into_commit().now(durability)
    }

    /// What it commits.
    pub(crate) fn into_commit(self) -> Commit {
        let mut reads = self.reads.into_inner();
        for track in self.tracks.into_inner() {
            track.lock().collect(&self.writes, &mut reads);
        }
        Commit {
            core: self.core,
            writes: self.writes,
            reads: Some((self.mark, reads)),
            late: self.late,
        }
    }

    /// Discards it. The same as dropping it.
    pub fn rollback(self) {}
}

impl fmt::Debug for Transaction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Transaction")
            .field("read_version", &self.read_version())
            .field("writes", &self.len())
            .finish_non_exhaustive()
    }
}
