//! [`Batch`]: writes that take effect together.

use std::fmt;
use std::sync::Arc;

use crate::commit::Commit;
use crate::core::Core;
use crate::error::Result;
use crate::options::Durability;
use crate::write_set::{WriteOptions, WriteSet};

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
    /// As [`Transaction::put`](crate::Transaction::put).
    pub fn put(&mut self, key: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> Result<()> {
        self.put_with(key, value, WriteOptions::default())
    }

    /// Writes a key with a user's byte, a time to live or an expiry time.
    ///
    /// # Errors
    /// As [`Transaction::put`](crate::Transaction::put).
    pub fn put_with(
        &mut self,
        key: impl AsRef<[u8]>,
        value: impl AsRef<[u8]>,
        options: WriteOptions,
    ) -> Result<()> {
        self.core.check_open()?;
        self.writes.put(&self.core, key.as_ref(), value.as_ref(), options)
    }

    /// Adds an operand for the store's [`MergeOperator`](crate::MergeOperator).
    ///
    /// # Errors
    /// As [`Transaction::merge`](crate::Transaction::merge).
    pub fn merge(&mut self, key: impl AsRef<[u8]>, operand: impl AsRef<[u8]>) -> Result<()> {
        let (key, core) = (key.as_ref(), &self.core);
        core.check_open()?;
        let operator = core.merge_operator(key)?;
        self.writes.merge(&core.limits, key, operand.as_ref(), operator, core.clock.now())
    }

    /// Deletes a key.
    ///
    /// # Errors
    /// As [`Transaction::put`](crate::Transaction::put).
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
