//! [`Transaction`]: reads and writes that take effect together or not at all.

use std::fmt;
use std::sync::Arc;

use kvdb_lsm::entry::Entry;
use kvdb_txn::{ReadMark, ReadSet};
use parking_lot::Mutex;

use crate::bounds::{KeyRange, prefix_bounds};
use crate::clock::ClockMark;
use crate::commit::Commit;
use crate::core::{At, Core};
use crate::cursor::{Cursor, Picture};
use crate::error::Result;
use crate::item::{Item, Looked, Payload};
use crate::iter::Iter;
use crate::merge::Folded;
use crate::options::Durability;
use crate::track::SharedTrack;
use crate::value::Value;
use crate::write_set::{Pending, WriteOptions, WriteSet};

/// A read-write transaction: serializable. It reads one snapshot, sees its own writes, and at
/// commit fails with [`Error::Conflict`](crate::Error::Conflict) if another commit has changed
/// anything it has read, keys that were absent and ranges that were scanned included.
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
    core: Arc<Core>,
    mark: ReadMark,
    clock: ClockMark,
    writes: WriteSet,
    reads: Mutex<ReadSet>,
    tracks: Mutex<Vec<SharedTrack>>,
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

    /// Writes a key with a user's byte or an expiry time.
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
        self.writes.put(&self.core.limits, key.as_ref(), value.as_ref(), options)
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
        let key = key.as_ref();
        self.core.check_open()?;
        match self.own(key) {
            Own::Nothing => self.core.get(self.read(key), self.at()),
            Own::Absent => Ok(None),
            Own::Value(_, pending) => Ok(Some(Value::copied(pending.value()))),
            Own::Operand(operand) => Ok(Some(Value::from_vec(self.fold(key, &operand)?.value))),
        }
    }

    /// The whole entry of a key.
    ///
    /// # Errors
    /// As [`Snapshot::get`](crate::Snapshot::get).
    pub fn get_entry(&self, key: impl AsRef<[u8]>) -> Result<Option<Item>> {
        let key = key.as_ref();
        self.core.check_open()?;
        match self.own(key) {
            Own::Nothing => self.core.get_entry(self.read(key), self.at()),
            Own::Absent => Ok(None),
            Own::Value(entry, pending) => {
                let payload = Payload::Inline(Value::copied(pending.value()));
                Ok(Some(Item::new(key, kvdb_lsm::PENDING, &entry, payload)))
            }
            Own::Operand(operand) => {
                let folded = self.fold(key, &operand)?;
                Ok(Some(Item::folded(key, kvdb_lsm::PENDING, folded)))
            }
        }
    }

    /// Whether the key is there. Never touches the value log.
    ///
    /// # Errors
    /// As [`Snapshot::get`](crate::Snapshot::get).
    pub fn contains(&self, key: impl AsRef<[u8]>) -> Result<bool> {
        let key = key.as_ref();
        self.core.check_open()?;
        match self.own(key) {
            Own::Nothing => self.core.contains(self.read(key), self.at()),
            Own::Absent => Ok(false),
            Own::Value(..) | Own::Operand(_) => Ok(true),
        }
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
        let stored = |key: &&K| matches!(self.own(key.as_ref()), Own::Nothing);
        let others: Vec<&[u8]> =
            keys.iter().filter(stored).map(|key| self.read(key.as_ref())).collect();
        let mut others = self.core.multi_get(&others, self.at())?.into_iter();
        let get = |key: &K| match self.own(key.as_ref()) {
            Own::Nothing => Ok(others.next().flatten()),
            _ => self.get(key),
        };
        keys.iter().map(get).collect()
    }

    /// All entries in key order, the transaction's own writes of before this call among them.
    pub fn iter(&self) -> Iter<'_> {
        self.range(..)
    }

    /// The entries within bounds. A start above the end is an empty range.
    pub fn range(&self, range: impl KeyRange) -> Iter<'_> {
        Iter::new(self.picture(), range.into_bounds())
    }

    /// Exactly the entries whose keys start with `prefix`.
    pub fn prefix(&self, prefix: impl AsRef<[u8]>) -> Iter<'_> {
        Iter::new(self.picture(), prefix_bounds(prefix.as_ref()))
    }

    /// A cursor within bounds: lends instead of owning, for long scans.
    pub fn cursor(&self, range: impl KeyRange) -> Cursor<'_> {
        Cursor::new(&self.picture(), range.into_bounds())
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
            track.lock().collect(&mut reads);
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

    fn at(&self) -> At {
        At::Version { version: self.mark.version(), clock: self.clock.now() }
    }

    /// Notes that the key was read, whether it is there or not.
    fn read<'k>(&self, key: &'k [u8]) -> &'k [u8] {
        if self.core.options.detect_conflicts {
            self.reads.lock().add_point(key);
        }
        key
    }

    /// The transaction's own write of a key. An answer from here is not a read.
    fn own(&self, key: &[u8]) -> Own<'_> {
        let Some(pending) = self.writes.get(key) else { return Own::Nothing };
        let entry = pending.entry();
        match entry.kind {
            _ if entry.is_absent(self.clock.now()) => Own::Absent,
            kind if kind.is_merge() => Own::Operand(entry),
            _ => Own::Value(entry, pending),
        }
    }

    /// An operand of its own, folded onto what the snapshot holds.
    fn fold(&self, key: &[u8], operand: &Entry<'_>) -> Result<Folded> {
        self.read(key);
        let superversion = self.core.superversion();
        let version = self.mark.version();
        let place =
            Looked { core: &self.core, superversion: &superversion, at: self.at(), version };
        place.fold(key, kvdb_lsm::PENDING, operand)
    }

    fn picture(&self) -> Picture<'_> {
        Picture {
            superversion: self.core.superversion(),
            pending: (!self.writes.is_empty()).then(|| self.writes.snapshot()),
            version: self.mark.version(),
            clock: self.clock.now(),
            since: 0,
            closed: self.core.check_open().is_err(),
            operator: self.core.options.merge_operator.clone(),
            tracks: self.core.options.detect_conflicts.then_some(&self.tracks),
        }
    }
}

impl fmt::Debug for Transaction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Transaction")
            .field("read_version", &self.read_version())
            .field("writes", &self.len())
            .finish_non_exhaustive()
    }
}

/// What a transaction itself has written to a key.
enum Own<'t> {
    Nothing,
    /// A delete, or a value that has expired.
    Absent,
    Value(Entry<'t>, &'t Pending),
    /// An operand, to be folded onto what the snapshot holds.
    Operand(Entry<'t>),
}

/// Writes that take effect together, without reads and so without conflicts.
///
/// ```
/// # fn main() -> kvdb::Result<()> {
/// # let db = kvdb::Options::default().open_in(std::sync::Arc::new(kvdb::vfs::MemFs::new()), "/db")?;
/// let mut batch = db.batch();
/// batch.put("a", "1")?;
/// batch.delete("b")?;
/// batch.commit()?;
/// # db.close()
/// # }
/// ```
pub struct Batch {
    core: Arc<Core>,
    writes: WriteSet,
}

impl Batch {
    pub(crate) fn new(core: Arc<Core>) -> Self {
        Batch { core, writes: WriteSet::default() }
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

    /// Writes a key.
    ///
    /// # Errors
    /// As [`Transaction::put`].
    pub fn put(&mut self, key: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> Result<()> {
        self.put_with(key, value, WriteOptions::default())
    }

    /// Writes a key with a user's byte or an expiry time.
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
        self.writes.put(&self.core.limits, key.as_ref(), value.as_ref(), options)
    }

    /// Adds an operand for the store's [`MergeOperator`](crate::MergeOperator).
    ///
    /// # Errors
    /// As [`Transaction::merge`].
    pub fn merge(&mut self, key: impl AsRef<[u8]>, operand: impl AsRef<[u8]>) -> Result<()> {
        let (key, core) = (key.as_ref(), &self.core);
        core.check_open()?;
        let operator = core.merge_operator(key)?;
        self.writes.merge(&core.limits, key, operand.as_ref(), operator, core.clock.now())
    }

    /// Deletes a key.
    ///
    /// # Errors
    /// As [`Transaction::put`].
    pub fn delete(&mut self, key: impl AsRef<[u8]>) -> Result<()> {
        self.core.check_open()?;
        self.writes.delete(&self.core.limits, key.as_ref())
    }

    /// Makes the writes take effect, with the database's durability. Returns the commit timestamp;
    /// an empty batch takes none and returns the newest one.
    ///
    /// # Errors
    /// [`Error::ReadOnly`](crate::Error::ReadOnly),
    /// [`Error::OutcomeUnknown`](crate::Error::OutcomeUnknown), or that of whatever refused it.
    pub fn commit(self) -> Result<u64> {
        let durability = self.core.options.durability;
        self.commit_with(durability)
    }

    /// Makes the writes take effect with a durability of its own.
    ///
    /// # Errors
    /// As [`Batch::commit`].
    pub fn commit_with(self, durability: Durability) -> Result<u64> {
        self.into_commit().now(durability)
    }

    /// What it commits.
    pub(crate) fn into_commit(self) -> Commit {
        Commit { core: self.core, writes: self.writes, reads: None, late: false }
    }
}

impl fmt::Debug for Batch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Batch").field("writes", &self.len()).finish_non_exhaustive()
    }
}

// Both can move between threads, and be looked at from several.
const _: fn() = || {
    fn send_sync<T: Send + Sync>() {}
    send_sync::<Transaction>();
    send_sync::<Batch>();
};
