//! [`Db`]: the handle.

use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use kvdb_txn::Mode;
use kvdb_vfs::{Clock, Fs};

use crate::batch::Batch;
use crate::bounds::KeyRange;
use crate::bulk::BulkWriter;
use crate::core::{At, Core};
use crate::error::{Error, Result};
use crate::item::Item;
use crate::iter::Iter;
use crate::options::{Background, Options};
use crate::sequence::Sequence;
use crate::snapshot::Snapshot;
use crate::transaction::Transaction;
use crate::value::Value;
use crate::write_set::WriteOptions;

/// An open database. Cheap to clone; clones are the same database. It is closed by
/// [`Db::close`], or when the last clone is dropped.
///
/// ```
/// # fn main() -> kvdb::Result<()> {
/// # let dir = tempfile::tempdir().expect("temporary directory");
/// # let path = dir.path().join("db");
/// let db = kvdb::Db::open(&path)?;
/// db.put("key", "value")?;
/// assert_eq!(db.get("key")?.expect("just put"), "value");
///
/// db.update(|t| {
///     let n = t.get("hits")?.map_or(0, |v| v.len());
///     t.put("hits", vec![b'x'; n + 1])
/// })?;
///
/// for item in db.prefix("h")? {
///     let item = item?;
///     println!("{:?} has {} bytes", item.key(), item.value_len());
/// }
/// db.close()?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Db {
    handle: Arc<Handle>,
}

/// Closes when the last of the clones goes.
struct Handle {
    core: Arc<Core>,
}

impl Drop for Handle {
    fn drop(&mut self) {
        match self.core.close() {
            // Whoever closed it before has been told.
            Ok(()) | Err(Error::CloseFailed(_)) => {}
            Err(error) => tracing::error!(path = %self.core.path.display(), %error, "closing"),
        }
    }
}

impl Db {
    /// Opens the store at `path` with the default options, creating it and missing parents.
    ///
    /// After an unclean end the log is replayed: every acknowledged commit is there whole, no
    /// other in part. Opening never destroys anything it cannot read.
    ///
    /// # Errors
    /// [`Error::InUse`] if the store is open elsewhere, [`Error::NotADatabase`], an
    /// [`Error::Io`] naming the path, or damage with file and offset.
    pub fn open(path: impl AsRef<Path>) -> Result<Db> {
        Options::default().open(path)
    }

    pub(crate) fn open_with(
        options: Options,
        fs: Arc<dyn Fs>,
        clock: Arc<dyn Clock>,
        path: &Path,
    ) -> Result<Db> {
        let core = crate::open::open(options, fs, clock, path)?;
        let core = Arc::new(core);
        let db = Db { handle: Arc::new(Handle { core: core.clone() }) };
        // For reading only as well: it frees and closes what nobody reads any more.
        core.tree.start()?;
        if core.log.is_some() && core.options.background == Background::Threads {
            core.housekeeper.start(core.clone()).map_err(|source| {
                Error::Io(kvdb_vfs::Error::new(kvdb_vfs::Op::Open, path, None, source))
            })?;
            if core.options.collect_garbage {
                core.gc.start(core.clone()).map_err(|source| {
                    Error::Io(kvdb_vfs::Error::new(kvdb_vfs::Op::Open, path, None, source))
                })?;
            }
        }
        Ok(db)
    }

    pub(crate) fn core(&self) -> &Arc<Core> {
        &self.handle.core
    }

    /// Writes a key. Returns the commit timestamp.
    ///
    /// # Errors
    /// As [`Batch::put`] and [`Batch::commit`].
    pub fn put(&self, key: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> Result<u64> {
        self.put_with(key, value, WriteOptions::default())
    }

    /// Writes a key with a user's byte, a time to live or an expiry time. Returns the commit timestamp.
    ///
    /// ```
    /// # fn main() -> kvdb::Result<()> {
    /// # let db = kvdb::Options::default().open_in(std::sync::Arc::new(kvdb::vfs::MemFs::new()), "/db")?;
    /// use kvdb::WriteOptions;
    /// db.put_with("session", "alice", WriteOptions::default().expires_at(4_000_000_000).user_meta(7))?;
    /// let entry = db.get_entry("session")?.expect("not expired");
    /// assert_eq!((entry.user_meta(), entry.expires_at()), (7, Some(4_000_000_000)));
    /// # db.close()
    /// # }
    /// ```
    ///
    /// # Errors
    /// As [`Batch::put`] and [`Batch::commit`].
    pub fn put_with(
        &self,
        key: impl AsRef<[u8]>,
        value: impl AsRef<[u8]>,
        options: WriteOptions,
    ) -> Result<u64> {
        self.core().put(key.as_ref(), value.as_ref(), options)
    }

    /// Deletes a key. Deleting what is not there is no error. Returns the commit timestamp.
    ///
    /// # Errors
    /// As [`Batch::delete`] and [`Batch::commit`].
    pub fn delete(&self, key: impl AsRef<[u8]>) -> Result<u64> {
        self.core().delete(key.as_ref())
    }

    /// Starts a set of writes that take effect together, without reads.
    pub fn batch(&self) -> Batch {
        Batch::new(self.core().clone())
    }

    /// Starts writing without number, in chunks that are atomic each: see [`BulkWriter`].
    pub fn bulk_writer(&self) -> BulkWriter {
        BulkWriter::new(self.core().clone())
    }

    /// A sequence of numbers that never come twice, kept under a key: see [`Sequence`]. It leases
    /// `lease` numbers at once (0 counts as 1).
    ///
    /// # Errors
    /// [`Error::NotASequence`] if the key holds something else; [`Error::ReadOnly`];
    /// [`Error::Managed`]; those of [`Db::get`].
    pub fn sequence(&self, key: impl AsRef<[u8]>, lease: u64) -> Result<Sequence> {
        Sequence::new(self.core().clone(), key.as_ref(), lease)
    }

    /// The newest value of a key, without a copy.
    ///
    /// # Errors
    /// Damage or I/O errors, with path and offset; [`Error::Closed`].
    pub fn get(&self, key: impl AsRef<[u8]>) -> Result<Option<Value>> {
        self.core().get(key.as_ref(), At::Now)
    }

    /// The whole newest entry of a key: version, user's byte, expiry, and its value when asked for.
    ///
    /// # Errors
    /// As [`Db::get`].
    pub fn get_entry(&self, key: impl AsRef<[u8]>) -> Result<Option<Item>> {
        self.core().get_entry(key.as_ref(), At::Now)
    }

    /// Calls `f` with the newest value in place. Touches no shared counter; `f` should be short,
    /// since memory is not freed anywhere in the database while it runs.
    ///
    /// ```
    /// # fn main() -> kvdb::Result<()> {
    /// # let db = kvdb::Options::default().open_in(std::sync::Arc::new(kvdb::vfs::MemFs::new()), "/db")?;
    /// db.put("k", "value")?;
    /// assert_eq!(db.get_with("k", |value| value.len())?, Some(5));
    /// assert_eq!(db.get_with("none", |value| value.len())?, None);
    /// # db.close()
    /// # }
    /// ```
    ///
    /// # Errors
    /// As [`Db::get`].
    pub fn get_with<R>(
        &self,
        key: impl AsRef<[u8]>,
        f: impl FnOnce(&[u8]) -> R,
    ) -> Result<Option<R>> {
        self.core().get_with(key.as_ref(), At::Now, f)
    }

    /// The newest values of many keys, in the order asked, all of one moment, that of the clock for
    /// expiry included: one look at the store for all of them, in key order, the tables' filters
    /// fetched ahead.
    ///
    /// ```
    /// # fn main() -> kvdb::Result<()> {
    /// # let db = kvdb::Options::default().open_in(std::sync::Arc::new(kvdb::vfs::MemFs::new()), "/db")?;
    /// db.put("a", "1")?;
    /// db.put("c", "3")?;
    /// let values = db.multi_get(["c", "b", "a"])?;
    /// assert_eq!(values[0].as_deref(), Some(&b"3"[..]));
    /// assert!(values[1].is_none());
    /// # db.close()
    /// # }
    /// ```
    ///
    /// # Errors
    /// As [`Db::get`], for the first key that fails.
    pub fn multi_get<K: AsRef<[u8]>>(
        &self,
        keys: impl IntoIterator<Item = K>,
    ) -> Result<Vec<Option<Value>>> {
        let keys: Vec<K> = keys.into_iter().collect();
        self.core().multi_get(&keys, At::Now)
    }

    /// Writes an operand that the store's [`MergeOperator`](crate::MergeOperator) folds onto the
    /// value of the key. Reads nothing, so merges never conflict with each other. Operands live in
    /// the tree, whatever their size. Returns the commit timestamp.
    ///
    /// ```
    /// # fn main() -> kvdb::Result<()> {
    /// # let fs = std::sync::Arc::new(kvdb::vfs::MemFs::new());
    /// use kvdb::{MergeOperator, Options};
    /// let number = |bytes: &[u8]| bytes.try_into().map_or(0, u64::from_le_bytes);
    /// let sum = MergeOperator::new(move |_, a, b| (number(a) + number(b)).to_le_bytes().to_vec());
    /// let db = Options::default().merge_operator(sum).open_in(fs, "/db")?;
    /// db.merge("hits", 1u64.to_le_bytes())?;
    /// db.merge("hits", 2u64.to_le_bytes())?;
    /// assert_eq!(number(&db.get("hits")?.expect("merged")), 3);
    /// # db.close()
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`Error::NoMergeOperator`], and as [`Batch::put`] and [`Batch::commit`].
    pub fn merge(&self, key: impl AsRef<[u8]>, operand: impl AsRef<[u8]>) -> Result<u64> {
        self.core().merge(key.as_ref(), operand.as_ref())
    }

    /// Whether a key is there. Never touches the value log.
    ///
    /// # Errors
    /// As [`Db::get`].
    pub fn contains(&self, key: impl AsRef<[u8]>) -> Result<bool> {
        self.core().contains(key.as_ref(), At::Now)
    }

    /// Begins a read-write transaction.
    ///
    /// # Errors
    /// [`Error::Closed`].
    pub fn begin(&self) -> Result<Transaction> {
        let core = self.core();
        core.check_open()?;
        core.check_unmanaged()?;
        // The clock first: what compaction may drop at this clock it may drop for good.
        let clock = core.clock.begin();
        Ok(Transaction::new(core.clone(), core.oracle.begin(Mode::ReadWrite), clock))
    }

    /// Managed mode: begins a read-write transaction that reads at `version`, to be committed with
    /// [`Transaction::commit_at`]. A version above the newest one reads the newest; what is
    /// committed between the two later is a conflict for whoever read it. At a version that the
    /// conflict detection does not reach back to, a transaction can commit only if it reads nothing
    /// ([`Error::ForgottenVersion`]). Snapshots at a version
    /// are taken with [`Db::snapshot_at`], in either mode.
    ///
    /// ```
    /// # fn main() -> kvdb::Result<()> {
    /// # let memory = std::sync::Arc::new(kvdb::vfs::MemFs::new());
    /// let db = kvdb::Options::default().managed(true).open_in(memory, "/db")?;
    /// let mut t = db.begin_at(0)?;
    /// t.put("k", "at ten")?;
    /// t.commit_at(10)?;
    /// let mut batch = db.batch();
    /// batch.put("k", "at twenty")?;
    /// batch.commit_at(20)?;
    /// assert_eq!(db.snapshot_at(19)?.get("k")?.expect("from 10"), "at ten");
    /// db.set_discard_watermark(20)?;
    /// assert!(db.snapshot_at(19).is_err(), "may be gone");
    /// # db.close()
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`Error::NotManaged`] unless [`Options::managed`](crate::Options#structfield.managed) is
    /// set, [`Error::BelowWatermark`] below what was passed to [`Db::set_discard_watermark`], by
    /// this process or an earlier one, [`Error::Closed`].
    pub fn begin_at(&self, version: u64) -> Result<Transaction> {
        let core = self.core();
        core.check_open()?;
        if !core.options.managed {
            return Err(Error::NotManaged);
        }
        let clock = core.clock.begin();
        // Above the newest version commits may be half applied.
        let version = version.min(core.oracle.read_version());
        let mark = core.begin_mark(version, Mode::ReadWrite)?;
        Ok(Transaction::new(core.clone(), mark, clock))
    }

    /// Managed mode: versions that are older than the newest one at or below `version` may be
    /// dropped from now on, and nothing below `version` can be read any more. Until this is called
    /// every version is kept. The watermark never falls: a lower one than before changes nothing.
    /// It is durable when the call returns, as far as no open snapshot or transaction is below it,
    /// and whole after [`Db::close`]; one sync of the manifest if it has risen.
    ///
    /// # Errors
    /// [`Error::NotManaged`] unless [`Options::managed`](crate::Options#structfield.managed) is
    /// set; [`Error::FutureVersion`] above the newest version; [`Error::ReadOnly`],
    /// [`Error::Closed`], or that of writing the manifest.
    pub fn set_discard_watermark(&self, version: u64) -> Result<()> {
        self.core().set_discard_watermark(version)
    }

    /// Begins a read-only transaction: a snapshot of now.
    ///
    /// # Errors
    /// [`Error::Closed`].
    pub fn begin_read(&self) -> Result<Snapshot> {
        let core = self.core();
        core.check_open()?;
        let clock = core.clock.begin();
        Ok(Snapshot::new(core.clone(), core.oracle.begin(Mode::ReadOnly), clock))
    }

    /// The store as it is now, for reading. The same as [`Db::begin_read`].
    ///
    /// # Errors
    /// [`Error::Closed`].
    pub fn snapshot(&self) -> Result<Snapshot> {
        self.begin_read()
    }

    /// The store as it was at an earlier version: while a snapshot of that version or an older one
    /// is held, or for ever with
    /// [`Options::versions_to_keep`](crate::Options#structfield.versions_to_keep) at `usize::MAX`.
    /// Otherwise compaction ends it sooner or later, however many versions are kept.
    ///
    /// ```
    /// # fn main() -> kvdb::Result<()> {
    /// # let db = kvdb::Options::default().open_in(std::sync::Arc::new(kvdb::vfs::MemFs::new()), "/db")?;
    /// let first = db.put("k", "old")?;
    /// let held = db.snapshot()?; // else compaction may drop what the next commit replaces
    /// db.put("k", "new")?;
    /// assert_eq!(db.snapshot_at(first)?.get("k")?.expect("then"), "old");
    /// # drop(held);
    /// # db.close()
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`Error::BelowWatermark`] if what was visible then may have been dropped,
    /// [`Error::FutureVersion`] if there was no such commit yet.
    pub fn snapshot_at(&self, version: u64) -> Result<Snapshot> {
        let core = self.core();
        core.check_open()?;
        let newest = core.oracle.read_version();
        if version > newest {
            return Err(Error::FutureVersion { version, newest });
        }
        let clock = core.clock.begin();
        let mark = core.begin_mark(version, Mode::ReadOnly)?;
        Ok(Snapshot::new(core.clone(), mark, clock))
    }

    /// Runs a closure in a read-write transaction and commits it; runs it again if another commit
    /// got in the way of this one, with growing pauses, up to 64 times. An error of the closure
    /// discards, and is returned as it is. For closures with errors of their own there is
    /// [`try_update`](Db::try_update).
    ///
    /// ```
    /// # fn main() -> kvdb::Result<()> {
    /// # let db = kvdb::Options::default().open_in(std::sync::Arc::new(kvdb::vfs::MemFs::new()), "/db")?;
    /// let visits = db.update(|t| {
    ///     let visits = t.get("visits")?.map_or(0, |v| v[0]) + 1;
    ///     t.put("visits", [visits])?;
    ///     Ok(visits)
    /// })?;
    /// assert_eq!(visits, 1);
    /// # db.close()
    /// # }
    /// ```
    ///
    /// # Errors
    /// The closure's; [`Error::Conflict`] or [`Error::TooOld`] if it never got through; those of
    /// [`Transaction::commit`].
    pub fn update<R>(&self, f: impl FnMut(&mut Transaction) -> Result<R>) -> Result<R> {
        self.try_update(f)
    }

    /// As [`update`](Db::update), for a closure whose error is of any type that an [`Error`] can
    /// become: how a transaction is called off for a reason of one's own.
    ///
    /// ```
    /// # fn main() -> kvdb::Result<()> {
    /// # let db = kvdb::Options::default().open_in(std::sync::Arc::new(kvdb::vfs::MemFs::new()), "/db")?;
    /// #[derive(Debug)]
    /// enum Refused {
    ///     TooMany,
    ///     Store(kvdb::Error),
    /// }
    /// impl From<kvdb::Error> for Refused {
    ///     fn from(error: kvdb::Error) -> Self {
    ///         Refused::Store(error)
    ///     }
    /// }
    /// let refused = db.try_update(|t| {
    ///     t.delete("visits")?;
    ///     match t.get("limit")? {
    ///         Some(_) => Ok(()),
    ///         None => Err(Refused::TooMany), // nothing is deleted
    ///     }
    /// });
    /// assert!(matches!(refused, Err(Refused::TooMany)));
    /// # db.close()
    /// # }
    /// ```
    ///
    /// # Errors
    /// As of [`update`](Db::update).
    pub fn try_update<R, E: From<Error>>(
        &self,
        mut f: impl FnMut(&mut Transaction) -> Result<R, E>,
    ) -> Result<R, E> {
        const TRIES: u32 = 64;
        let mut attempt = 0;
        loop {
            let mut transaction = self.begin()?;
            // Nothing that a transaction is asked for is a conflict, but its commit.
            let result = f(&mut transaction)?;
            match transaction.commit() {
                Ok(_) => return Ok(result),
                Err(Error::Conflict | Error::TooOld) if attempt + 1 < TRIES => {
                    back_off(attempt);
                    attempt += 1;
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Runs a closure on a snapshot of now. Never conflicts.
    ///
    /// ```
    /// # fn main() -> kvdb::Result<()> {
    /// # let db = kvdb::Options::default().open_in(std::sync::Arc::new(kvdb::vfs::MemFs::new()), "/db")?;
    /// db.put("a", "1")?;
    /// let sizes = db.view(|snapshot| {
    ///     snapshot.iter().map(|entry| Ok(entry?.value_len())).collect::<kvdb::Result<Vec<_>>>()
    /// })?;
    /// assert_eq!(sizes, [1]);
    /// # db.close()
    /// # }
    /// ```
    ///
    /// # Errors
    /// The closure's, or [`Error::Closed`].
    pub fn view<R>(&self, f: impl FnOnce(&Snapshot) -> Result<R>) -> Result<R> {
        self.try_view(f)
    }

    /// As [`view`](Db::view), for a closure whose error is of any type that an [`Error`] can become.
    ///
    /// # Errors
    /// As of [`view`](Db::view).
    pub fn try_view<R, E: From<Error>>(
        &self,
        f: impl FnOnce(&Snapshot) -> Result<R, E>,
    ) -> Result<R, E> {
        f(&self.begin_read()?)
    }

    /// All entries of now, in key order.
    ///
    /// # Errors
    /// [`Error::Closed`].
    pub fn iter(&self) -> Result<Iter<'static>> {
        Ok(self.begin_read()?.iter())
    }

    /// The entries of now within bounds. A start above the end is an empty range.
    ///
    /// ```
    /// # fn main() -> kvdb::Result<()> {
    /// # let db = kvdb::Options::default().open_in(std::sync::Arc::new(kvdb::vfs::MemFs::new()), "/db")?;
    /// for key in ["a", "b", "c", "d"] {
    ///     db.put(key, "")?;
    /// }
    /// assert_eq!(db.range("b".."d")?.count(), 2);
    /// assert_eq!(db.range(..="c")?.rev().next().expect("three")?.key(), b"c");
    /// # db.close()
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`Error::Closed`].
    pub fn range(&self, range: impl KeyRange) -> Result<Iter<'static>> {
        Ok(self.begin_read()?.range(range))
    }

    /// Exactly the entries of now whose keys start with `prefix`.
    ///
    /// # Errors
    /// [`Error::Closed`].
    pub fn prefix(&self, prefix: impl AsRef<[u8]>) -> Result<Iter<'static>> {
        Ok(self.begin_read()?.prefix(prefix))
    }

    /// Makes every commit so far durable, buffered ones included.
    ///
    /// ```
    /// # fn main() -> kvdb::Result<()> {
    /// # let db = kvdb::Options::default().open_in(std::sync::Arc::new(kvdb::vfs::MemFs::new()), "/db")?;
    /// use kvdb::Durability;
    /// let mut batch = db.batch();
    /// batch.put("k", "v")?;
    /// batch.commit_with(Durability::Buffered)?; // survives the death of the process
    /// db.sync()?; // and from here on a power cut
    /// # db.close()
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`Error::Poisoned`], [`Error::ReadOnly`], [`Error::Closed`], or that of the sync, which
    /// poisons the database.
    pub fn sync(&self) -> Result<()> {
        self.core().sync()
    }

    /// Writes everything in memory to tables. Returns when they are durable.
    ///
    /// # Errors
    /// That of the flush, which stops background work.
    pub fn flush(&self) -> Result<()> {
        let core = self.core();
        let _inside = core.work.enter()?;
        core.log()?;
        core.tree.flush()?;
        Ok(())
    }

    /// Flushes, and merges all tables down to the last level.
    ///
    /// # Errors
    /// That of the flush, which stops background work; that of the compaction, which leaves the
    /// tables as they were.
    pub fn compact(&self) -> Result<()> {
        let core = self.core();
        let _inside = core.work.enter()?;
        core.log()?;
        core.tree.flush()?;
        Ok(core.tree.major_compact()?)
    }

    /// Waits until no flush or compaction is under way or due.
    ///
    /// # Errors
    /// That of a failed job.
    pub fn wait_idle(&self) -> Result<()> {
        let core = self.core();
        core.check_open()?;
        Ok(core.tree.wait_idle()?)
    }

    /// The newest commit timestamp that is visible.
    pub fn version(&self) -> u64 {
        self.core().oracle.read_version()
    }

    /// Bytes the value of a key of this length may have, which follows from
    /// [`Options::segment_size`] and [`Options::max_transaction_size`].
    ///
    /// ```
    /// # fn main() -> kvdb::Result<()> {
    /// # let db = kvdb::Options::default().open_in(std::sync::Arc::new(kvdb::vfs::MemFs::new()), "/db")?;
    /// let most = db.max_value_len(3);
    /// let refused = db.put("key", vec![0; most + 1]);
    /// assert!(matches!(refused, Err(kvdb::Error::ValueTooLarge { limit, .. }) if limit == most));
    /// # db.close()
    /// # }
    /// ```
    pub fn max_value_len(&self, key_len: usize) -> usize {
        self.core().limits.max_value_len(key_len)
    }

    /// Bytes a transaction may have in the log, headers counted.
    pub fn max_transaction_size(&self) -> usize {
        self.core().limits.transaction
    }

    /// The directory.
    pub fn path(&self) -> &Path {
        &self.core().path
    }

    /// The options it was opened with.
    pub fn options(&self) -> &Options {
        &self.core().options
    }

    /// Ends it, for all clones: waits for commits in flight, makes the log durable, stops the
    /// threads, unlocks the directory.
    ///
    /// Afterwards there is one rule. **Whatever is asked of a handle fails with [`Error::Closed`]**: of
    /// a database, snapshot, transaction, batch, bulk writer or sequence, also where the answer would
    /// not need the store, as a transaction's own write or a number that is leased already; an iterator
    /// or cursor that is begun fails at its first step. **What was given out before stays usable**:
    /// values, items, iterators and cursors, and the outcomes of commits that were on their way. What
    /// only says how things are ([`version`](Db::version), [`stats`](Db::stats), [`path`](Db::path) and
    /// their like) goes on to do so. The same holds when the last handle is dropped.
    ///
    /// An iterator from before opens tables as it comes to them: if whoever opens the directory
    /// next has removed one by then, that is [`Error::Closed`] as well, never a wrong entry.
    ///
    /// It is done once. Another call meanwhile waits for the first one and returns when the directory
    /// is free; it, and every later call, succeeds if the first one did, and repeats its failure if
    /// not. Only a callback or a waker that the first call waits for cannot wait in turn: there it
    /// returns `Ok` at once. (Such a callback must not wait for another thread that closes, either.)
    ///
    /// ```
    /// # fn main() -> kvdb::Result<()> {
    /// # let db = kvdb::Options::default().open_in(std::sync::Arc::new(kvdb::vfs::MemFs::new()), "/db")?;
    /// let other = db.clone();
    /// db.close()?;
    /// other.close()?; // nothing is left to do
    /// assert!(matches!(other.get("key"), Err(kvdb::Error::Closed)));
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// Whatever could not be made durable, or [`Error::CloseFailed`] with what the first call said;
    /// it is closed all the same. [`Error::Reentrant`] within [`Db::gc_with`]'s `progress`: it is
    /// not closed.
    pub fn close(&self) -> Result<()> {
        self.core().close()
    }
}

impl fmt::Debug for Db {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Db").field("path", &self.path()).finish_non_exhaustive()
    }
}

/// Yields at first, then sleeps up to some milliseconds, with a jitter that keeps rivals apart.
fn back_off(attempt: u32) {
    if attempt < 3 {
        std::thread::yield_now();
        return;
    }
    let most = 50u64 << attempt.min(9);
    let jitter = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .map_or(0, |now| u64::from(now.subsec_nanos()));
    std::thread::sleep(Duration::from_micros(most / 2 + jitter % (most / 2)));
}
