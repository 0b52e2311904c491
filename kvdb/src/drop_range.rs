//! Dropping all keys of a range at once.
//!
//! A drop is a commit like any other: it has a version, a place in the order of commits, and a frame
//! in the log, of one record that is no entry: tag [`TAG`], the start of the range as its key, and as
//! its value nothing (no end) or a byte 1 and the end, which is not in the range. It is always
//! written durably before it is applied, since applying it writes to the manifest: a drop there
//! must never outlive the commits before it. A drop takes space, so it may use what the log keeps for
//! a full disk; where even the manifest cannot grow, the drop takes effect and is written there later.
//!
//! Applied, it is a line in the manifest and in the superversion, `{range, version}`, which every
//! read and every conflict check consults: what is older is hidden from whoever reads at its version
//! or later. Compactions take the dropped entries out, and the line goes when nothing is left that
//! it hides. So a drop takes as long as a commit and a change set, whatever it drops.
//!
//! Replay finds drops in the log again. What the manifest does not have yet is installed at the end
//! of recovery, together with the replayed tables; a read-only opening keeps it in memory.

use kvdb_lsm::Tree;
use kvdb_manifest::Manifest;
use kvdb_manifest::store::{RangeDelete, StoreState};
use kvdb_txn::Write;
use kvdb_vlog::{FrameBuilder, RecordView};
use std::ops::Bound;

use crate::bounds::{Bounds, KeyRange, prefix_bounds};
use crate::companion::ValueLog;
use crate::core::Core;
use crate::db::Db;
use crate::error::{Error, Result};
use crate::limits::MAX_KEY_LEN;
use crate::options::Durability;

/// The tag of the record. No entry's head begins with this byte.
pub(crate) const TAG: &[u8] = &[0x0F];

impl Db {
    /// Deletes all keys that start with a prefix, in one commit that is durable when this returns.
    /// Returns its timestamp.
    ///
    /// Ordered with all other commits: what was committed before is gone, what is committed later
    /// stays. Snapshots and iterators from before go on to see what they saw. A transaction that
    /// has read such a key, there or not, conflicts. It takes the time of one commit; the space is
    /// given back by compaction in the background.
    ///
    /// ```
    /// # fn main() -> kvdb::Result<()> {
    /// # let db = kvdb::Options::default().open_in(std::sync::Arc::new(kvdb::vfs::MemFs::new()), "/db")?;
    /// for k in ["user:1", "user:2", "visit:1"] { db.put(k, "")?; }
    /// db.drop_prefix("user:")?;
    /// assert!(!db.contains("user:1")? && db.contains("visit:1")?);
    /// # db.close()
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`Error::KeyTooLong`], [`Error::ReadOnly`], [`Error::Managed`], [`Error::OutcomeUnknown`]: it
    /// is done whole or not at all, which the next opening tells. Those of whatever refused it.
    pub fn drop_prefix(&self, prefix: impl AsRef<[u8]>) -> Result<u64> {
        self.core().drop_range(prefix_bounds(prefix.as_ref()))
    }

    /// Deletes all keys within bounds. Otherwise as [`Db::drop_prefix`]. An empty range drops
    /// nothing, commits nothing, and returns the newest version.
    ///
    /// ```
    /// # fn main() -> kvdb::Result<()> {
    /// # let db = kvdb::Options::default().open_in(std::sync::Arc::new(kvdb::vfs::MemFs::new()), "/db")?;
    /// for day in ["2024-01", "2024-02", "2024-03"] {
    ///     db.put(day, "")?;
    /// }
    /// db.drop_range(.."2024-03")?;
    /// assert_eq!(db.iter()?.count(), 1);
    /// # db.close()
    /// # }
    /// ```
    ///
    /// # Errors
    /// As [`Db::drop_prefix`].
    pub fn drop_range(&self, range: impl KeyRange) -> Result<u64> {
        self.core().drop_range(range.into_bounds())
    }

    /// Deletes all keys. Otherwise as [`Db::drop_prefix`].
    ///
    /// # Errors
    /// As [`Db::drop_prefix`].
    pub fn drop_all(&self) -> Result<u64> {
        self.core().drop_range((Bound::Unbounded, Bound::Unbounded))
    }
}

impl Core {
    fn drop_range(&self, (lower, upper): Bounds) -> Result<u64> {
        let _inside = self.commits.enter()?;
        let log = self.log()?;
        self.check_unmanaged()?;
        let start = match lower {
            Bound::Unbounded => Vec::new(),
            Bound::Included(key) => checked(key)?,
            Bound::Excluded(key) => behind(checked(key)?),
        };
        let end = match upper {
            Bound::Unbounded => None,
            Bound::Included(key) => Some(behind(checked(key)?)),
            Bound::Excluded(key) => Some(checked(key)?),
        };
        if end.as_ref().is_some_and(|end| *end <= start) {
            return Ok(self.oracle.read_version());
        }
        if self.manifest.is_poisoned() {
            return Err(Error::Poisoned("the manifest could not be written".into()));
        }
        let mut value = Vec::new();
        if let Some(end) = &end {
            value.push(1);
            value.extend_from_slice(end);
        }
        let mut frame = FrameBuilder::default();
        frame.push(&start, TAG, &value, None)?;
        let admitted = self.admit(frame.finish(), 0, true)?;
        let upper = end.as_deref().map_or(Bound::Unbounded, Bound::Excluded);
        let write = Write::Range(Bound::Included(&start), upper);
        let durability = Durability::Sync;
        let queued =
            self.oracle.commit_blind([write], |v| (v, admitted.enqueue(log, v, durability)))?;
        self.finish(queued)
    }
}

/// The drop that a record stands for, if it does.
pub(crate) fn of_record(record: &RecordView<'_>) -> Option<Result<RangeDelete>> {
    if record.tag != TAG {
        return None;
    }
    let end = match record.value.split_first() {
        None => None,
        Some((1, end)) => Some(end.to_vec()),
        Some(_) => {
            let (key, what) = (record.key.to_vec(), "a drop with an unknown end".to_owned());
            return Some(Err(Error::DamagedEntry { key, what }));
        }
    };
    Some(Ok(RangeDelete { start: record.key.to_vec(), end, version: record.version }))
}

/// Applies a drop whose frame is durable: from here on every reader at its version or later, and
/// every later opening, knows of it. If the disk is so full that the manifest cannot take it, the
/// log goes on to tell of it until the manifest can.
pub(crate) fn install(tree: &Tree<ValueLog>, drop: RangeDelete) -> Result<()> {
    tracing::info!(version = drop.version, "dropping a range of keys");
    Ok(tree.delete_range(drop)?)
}

/// Those of the replayed drops that the manifest does not know.
pub(crate) fn unknown(
    mut drops: Vec<RangeDelete>,
    manifest: &Manifest<StoreState>,
) -> Vec<RangeDelete> {
    manifest.read(|state| drops.retain(|drop| !state.range_deletes().any(|known| known == drop)));
    drops
}

fn checked(key: Vec<u8>) -> Result<Vec<u8>> {
    match key.len() {
        len if len > MAX_KEY_LEN => Err(Error::KeyTooLong { len, limit: MAX_KEY_LEN }),
        _ => Ok(key),
    }
}

/// The first key behind a key.
fn behind(mut key: Vec<u8>) -> Vec<u8> {
    key.push(0);
    key
}
