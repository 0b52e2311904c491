//! The ways to commit: now, later, at a version of the caller's.

use std::sync::Arc;

use kvdb_txn::{ReadMark, ReadSet};

use crate::batch::Batch;
use crate::committer::Tell;
use crate::core::Core;
use crate::error::{Error, Result};
use crate::options::Durability;
use crate::pending::PendingCommit;
use crate::transaction::Transaction;
use crate::write_set::WriteSet;

/// A transaction or batch that will change no more.
pub(crate) struct Commit {
    pub(crate) core: Arc<Core>,
    pub(crate) writes: WriteSet,
    /// None for a batch.
    pub(crate) reads: Option<(ReadMark, ReadSet)>,
    /// Began at a version after which some writes were forgotten already.
    pub(crate) late: bool,
}

/// What the pipeline needs to know of a commit.
pub(crate) struct Request<'a> {
    pub(crate) writes: &'a WriteSet,
    pub(crate) reads: Option<(&'a ReadMark, &'a ReadSet)>,
    /// Managed mode: the version that the caller chose.
    pub(crate) at: Option<u64>,
    pub(crate) durability: Durability,
}

impl Commit {
    pub(crate) fn now(self, durability: Durability) -> Result<u64> {
        self.core.check_open()?;
        self.core.check_unmanaged()?;
        match self.nothing_to_write()? {
            Some(version) => Ok(version),
            None => self.core.commit(self.request(None, durability)),
        }
    }

    fn at(self, version: u64, durability: Durability) -> Result<u64> {
        self.core.check_open()?;
        if !self.core.options.managed {
            return Err(Error::NotManaged);
        }
        match self.nothing_to_write()? {
            Some(version) => Ok(version),
            None => {
                self.core.commit(self.request(Some(version), durability)).map_err(|error| {
                    match (&error, &self.reads) {
                        (Error::TooOld, Some((mark, _))) if self.late => Error::ForgottenVersion {
                            version: mark.version(),
                            remembered_after: self.core.oracle.remembered_after(),
                        },
                        _ => error,
                    }
                })
            }
        }
    }

    fn later(self, durability: Durability) -> Result<PendingCommit> {
        self.core.check_open()?;
        self.core.check_unmanaged()?;
        if let Some(version) = self.nothing_to_write()? {
            return Ok(PendingCommit::done(&self.core, version));
        }
        let pending = PendingCommit::new(&self.core);
        let tell = Tell::Handle(pending.slot());
        let version = self.core.commit_later(self.request(None, durability), tell)?;
        Ok(pending.with_version(version))
    }

    fn then(
        self,
        durability: Durability,
        callback: impl FnOnce(Result<u64>) + Send + 'static,
    ) -> Result<()> {
        self.core.check_open()?;
        self.core.check_unmanaged()?;
        let tell = Tell::Callback(Box::new(callback));
        match self.nothing_to_write()? {
            Some(version) => self.core.tell_later(tell, version),
            None => self.core.commit_later(self.request(None, durability), tell).map(drop),
        }
    }

    /// The version to return if there is nothing to write: it is not committed, only checked that
    /// it could be.
    fn nothing_to_write(&self) -> Result<Option<u64>> {
        if self.reads.is_none() {
            self.core.log()?;
        }
        if !self.writes.is_empty() {
            return Ok(None);
        }
        let read = self.reads.as_ref().map(|(mark, _)| mark.version());
        Ok(Some(read.unwrap_or_else(|| self.core.oracle.read_version())))
    }

    fn request(&self, at: Option<u64>, durability: Durability) -> Request<'_> {
        let reads = self.reads.as_ref().map(|(mark, reads)| (mark, reads));
        Request { writes: &self.writes, reads, at, durability }
    }
}

/// Writes the same methods for both kinds of commit: their documentation differs in one word.
macro_rules! ways_to_commit {
    ($kind:ident, $it:literal) => {
        impl $kind {
            #[doc = concat!("Puts the ", $it, " into the order of commits and returns a handle on its")]
            /// outcome, without waiting for the disk. With the database's durability.
            ///
            /// The order of these calls, of [`Db::put`](crate::Db::put) and of all other commits is
            /// the order of versions. The database leads such commits on a thread of its own,
            /// started by the first of them, as many together as there are.
            ///
            /// What can refuse a commit refuses it here, before it has a version; room in the
            /// memtables and the log is waited for here as well. So is an end of some commits if
            /// 4096 of them, or 32 MiB, are under way: memory stays bounded.
            ///
            /// Dropping the handle leaves the commit under way; [`Db::close`](crate::Db::close)
            /// waits for it.
            ///
            /// ```
            /// # fn main() -> kvdb::Result<()> {
            /// # let db = kvdb::Options::default().open_in(std::sync::Arc::new(kvdb::vfs::MemFs::new()), "/db")?;
            /// let mut pending = Vec::new();
            /// for i in 0..100u32 {
            ///     let mut batch = db.batch();
            ///     batch.put(i.to_be_bytes(), "value")?;
            ///     pending.push(batch.commit_async()?);
            /// }
            /// for commit in pending {
            ///     commit.wait()?; // from here on it is durable, and seen by everyone
            /// }
            /// assert_eq!(db.iter()?.count(), 100);
            /// # db.close()
            /// # }
            /// ```
            ///
            /// # Errors
            #[doc = concat!("As [`", stringify!($kind), "::commit`] before there is a version: nothing was written.")]
            /// What happens later is told by the handle.
            pub fn commit_async(self) -> Result<PendingCommit> {
                let commit = self.into_commit();
                let durability = commit.core.options.durability;
                commit.later(durability)
            }

            #[doc = concat!("As [`", stringify!($kind), "::commit_async`] with a durability of its own:")]
            /// [`Durability::Sync`] for a handle that is done when the commit is durable,
            /// [`Durability::Buffered`] for one that is done when everyone sees it.
            ///
            /// # Errors
            #[doc = concat!("As [`", stringify!($kind), "::commit_async`].")]
            pub fn commit_async_with(self, durability: Durability) -> Result<PendingCommit> {
                self.into_commit().later(durability)
            }

            #[doc = concat!("As [`", stringify!($kind), "::commit_async_with`], and calls `callback` with the outcome")]
            /// when the chosen durability holds (or never will), exactly once.
            ///
            /// Callbacks run in the order of versions, one at a time, on a thread that leads no
            /// commits, so they may use the database, commit, and even close it; a slow one delays
            /// those behind it. A callback that panics is reported to `tracing`, and forgotten.
            /// [`Db::close`](crate::Db::close) returns when all have run, unless it is called by
            /// one of them.
            ///
            /// ```
            /// # fn main() -> kvdb::Result<()> {
            /// # let db = kvdb::Options::default().open_in(std::sync::Arc::new(kvdb::vfs::MemFs::new()), "/db")?;
            /// let (sender, outcomes) = std::sync::mpsc::channel();
            /// let mut batch = db.batch();
            /// batch.put("key", "value")?;
            /// batch.commit_then(kvdb::Durability::Sync, move |outcome| {
            ///     sender.send(outcome).ok();
            /// })?;
            /// assert_eq!(outcomes.recv().expect("one outcome")?, db.version());
            /// # db.close()
            /// # }
            /// ```
            ///
            /// # Errors
            #[doc = concat!("As [`", stringify!($kind), "::commit_async`]; then `callback` is dropped without being called.")]
            pub fn commit_then(
                self,
                durability: Durability,
                callback: impl FnOnce(Result<u64>) + Send + 'static,
            ) -> Result<()> {
                self.into_commit().then(durability, callback)
            }

            /// Managed mode: makes the writes take effect at a version that the caller chose, which
            /// must be above every earlier one of the store, with the database's durability.
            /// Returns the version.
            ///
            /// # Errors
            #[doc = concat!("As [`", stringify!($kind), "::commit`], [`Error::VersionNotAbove`], [`Error::ForgottenVersion`] if")]
            /// it read at a version that is too old to be checked, and [`Error::NotManaged`] unless
            /// [`Options::managed`](crate::Options#structfield.managed) is set.
            pub fn commit_at(self, version: u64) -> Result<u64> {
                let commit = self.into_commit();
                let durability = commit.core.options.durability;
                commit.at(version, durability)
            }

            #[doc = concat!("As [`", stringify!($kind), "::commit_at`] with a durability of its own.")]
            ///
            /// # Errors
            #[doc = concat!("As [`", stringify!($kind), "::commit_at`].")]
            pub fn commit_at_with(self, version: u64, durability: Durability) -> Result<u64> {
                self.into_commit().at(version, durability)
            }
        }
    };
}

ways_to_commit!(Transaction, "transaction");
ways_to_commit!(Batch, "batch");
