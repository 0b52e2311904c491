//! [`BulkWriter`]: any number of writes, in chunks.

use std::fmt;
use std::sync::Arc;

use crate::commit::Request;
use crate::core::Core;
use crate::error::{Error, Result};
use crate::options::Durability;
use crate::write_set::{WriteOptions, WriteSet};

/// Bytes of a chunk in the log, unless a transaction may not even have so many.
const CHUNK: usize = 1 << 20;

/// Writes without number, for loading: collected into chunks, each of which is one commit.
///
/// A chunk holds up to 1 MiB of log, or a single larger write, and never more than
/// [`Options::max_transaction_size`](crate::Options::max_transaction_size). **Each chunk is atomic,
/// the whole is not**: after a crash the store has a prefix of the chunks. Within a chunk the later
/// write of a key replaces the earlier, and operands are folded; whatever is read afterwards is as if
/// each write had been a commit of its own, wherever chunks end. Writes conflict with nothing.
///
/// Chunks are committed on the caller's thread as they fill up, `Buffered`;
/// [`flush`](BulkWriter::flush) commits the rest and then makes everything as durable as the
/// database promises. If a chunk fails, what is written after it is left out, so that no later write
/// is there without an earlier one; the next `flush` says so, once, and then the writer can be used
/// again. What was not flushed when the writer is dropped may or may not have been written.
///
/// ```
/// # fn main() -> kvdb::Result<()> {
/// # let db = kvdb::Options::default().open_in(std::sync::Arc::new(kvdb::vfs::MemFs::new()), "/db")?;
/// let mut writer = db.bulk_writer();
/// for i in 0..100_000u32 {
///     writer.put(i.to_be_bytes(), "value")?;
/// }
/// writer.finish()?;
/// assert_eq!(db.iter()?.count(), 100_000);
/// # db.close()
/// # }
/// ```
pub struct BulkWriter {
    core: Arc<Core>,
    writes: WriteSet,
    durability: Durability,
    /// Why a chunk is missing, until someone has been told.
    failed: Option<Error>,
    /// Chunks have been committed that are not durable yet.
    unsynced: bool,
    finished: bool,
}

impl BulkWriter {
    pub(crate) fn new(core: Arc<Core>) -> Self {
        let durability = core.options.durability;
        BulkWriter {
            core,
            writes: WriteSet::default(),
            durability,
            failed: None,
            unsynced: false,
            finished: false,
        }
    }

    /// What [`flush`](BulkWriter::flush) promises, instead of what the database does.
    #[must_use]
    pub fn durability(mut self, durability: Durability) -> Self {
        self.durability = durability;
        self
    }

    /// Writes a key.
    ///
    /// # Errors
    /// For this write alone: [`Error::EmptyKey`], [`Error::KeyTooLong`], [`Error::ValueTooLarge`];
    /// it is left out and the writer goes on. [`Error::Finished`]; [`Error::ReadOnly`];
    /// [`Error::Closed`].
    pub fn put(&mut self, key: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> Result<()> {
        self.put_with(key, value, WriteOptions::default())
    }

    /// Writes a key with a user's byte, a time to live or an expiry time.
    ///
    /// # Errors
    /// As [`BulkWriter::put`].
    pub fn put_with(
        &mut self,
        key: impl AsRef<[u8]>,
        value: impl AsRef<[u8]>,
        options: WriteOptions,
    ) -> Result<()> {
        let (key, value) = (key.as_ref(), value.as_ref());
        self.add(|writes, core| writes.put(core, key, value, options))
    }

    /// Deletes a key.
    ///
    /// # Errors
    /// As [`BulkWriter::put`].
    pub fn delete(&mut self, key: impl AsRef<[u8]>) -> Result<()> {
        self.add(|writes, core| writes.delete(&core.limits, key.as_ref()))
    }

    /// Adds an operand for the store's [`MergeOperator`](crate::MergeOperator).
    ///
    /// # Errors
    /// [`Error::NoMergeOperator`], and as [`BulkWriter::put`].
    pub fn merge(&mut self, key: impl AsRef<[u8]>, operand: impl AsRef<[u8]>) -> Result<()> {
        let (key, operand) = (key.as_ref(), operand.as_ref());
        let merge = |writes: &mut WriteSet, core: &Core| {
            let operator = core.merge_operator(key)?;
            writes.merge(&core.limits, key, operand, operator, core.clock.now())
        };
        // What it comes to must not depend on where a chunk ends. So an operand is folded within the
        // chunk only if that is the same as lying on what is there; else it goes to the next one.
        if self.writes.expires(key) {
            self.commit_chunk();
        }
        match self.add(merge) {
            Err(Error::ValueTooLarge { .. }) if self.writes.get(key).is_some() => {
                self.commit_chunk();
                self.add(merge)
            }
            outcome => outcome,
        }
    }

    fn add(&mut self, write: impl Fn(&mut WriteSet, &Core) -> Result<()>) -> Result<()> {
        if self.finished {
            return Err(Error::Finished);
        }
        self.core.check_open()?;
        self.core.log()?;
        match write(&mut self.writes, &self.core) {
            Err(Error::TransactionTooBig { .. }) if !self.writes.is_empty() => {
                self.commit_chunk();
                write(&mut self.writes, &self.core)?;
            }
            outcome => outcome?,
        }
        if self.writes.frame_len() >= CHUNK {
            self.commit_chunk();
        }
        Ok(())
    }

    fn commit_chunk(&mut self) {
        let chunk = std::mem::take(&mut self.writes);
        if self.failed.is_some() || chunk.is_empty() {
            return;
        }
        let request =
            Request { writes: &chunk, reads: None, at: None, durability: Durability::Buffered };
        // What stays if it panics: then the chunk is missing, or may be.
        self.failed = Some(Error::OutcomeUnknown("the commit of a chunk panicked".to_owned()));
        let outcome = self.core.check_unmanaged().and_then(|()| self.core.commit(request));
        self.unsynced |= outcome.is_ok();
        self.failed = outcome.err();
    }

    /// Commits what is left and makes all of it durable. Without anything to do, it does nothing.
    ///
    /// # Errors
    /// That of the first chunk since the last flush that could not be committed: it and what was
    /// written after it is not in the store, but with [`Error::OutcomeUnknown`], as after a panic
    /// that was caught, the chunk itself may be. That of the sync. [`Error::Finished`];
    /// [`Error::Closed`].
    pub fn flush(&mut self) -> Result<()> {
        if self.finished {
            return Err(Error::Finished);
        }
        self.commit_rest()
    }

    fn commit_rest(&mut self) -> Result<()> {
        self.commit_chunk();
        if self.unsynced && self.durability == Durability::Sync {
            // As for a chunk: what stays if it panics.
            let panicked = || Error::OutcomeUnknown("the sync of the chunks panicked".to_owned());
            let complete = self.failed.is_none();
            self.failed.get_or_insert_with(panicked);
            let synced = self.core.sync();
            if complete {
                self.failed = synced.err();
            }
        }
        self.unsynced = false;
        self.failed.take().map_or_else(|| self.core.check_open(), Err)
    }

    /// Flushes, and ends it: every later call fails with [`Error::Finished`].
    ///
    /// # Errors
    /// As [`BulkWriter::flush`]; it is finished all the same.
    pub fn finish(&mut self) -> Result<()> {
        if std::mem::replace(&mut self.finished, true) {
            return Err(Error::Finished);
        }
        self.commit_rest()
    }
}

impl Drop for BulkWriter {
    fn drop(&mut self) {
        if !self.writes.is_empty() || self.failed.is_some() {
            let (writes, failed) = (self.writes.len(), self.failed.as_ref().map(Error::to_string));
            tracing::warn!(writes, failed, "a bulk writer was dropped without a flush");
        }
    }
}

impl fmt::Debug for BulkWriter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BulkWriter")
            .field("pending", &self.writes.len())
            .field("failed", &self.failed)
            .field("finished", &self.finished)
            .finish_non_exhaustive()
    }
}
