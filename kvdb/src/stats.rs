//! What there is to see from outside: [`Stats`], [`Health`], and stepping by hand.

use serde::{Deserialize, Serialize};

use crate::core::Core;
use crate::db::Db;
use crate::error::{Error, Result};
use crate::gc::{GcTotals, LogFileStats};

/// Figures of an open database, at one moment.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Stats {
    /// The newest commit timestamp that is visible.
    pub version: u64,
    /// The tree in one line: tables per level.
    pub shape: String,
    /// The levels, 0 first.
    pub levels: Vec<LevelStats>,
    /// Bytes in memtables, the active one included, and in their indexes.
    pub memtable_bytes: u64,
    /// Memtables that wait to be flushed.
    pub sealed_memtables: u64,
    /// Dropped ranges that still hide something.
    pub range_drops: u64,
    /// Open transactions and snapshots that only read.
    pub open_snapshots: u64,
    /// Open read-write transactions.
    pub open_transactions: u64,
    /// Bytes that the conflict detection takes for writes that open read-write transactions may
    /// have to be checked against; 0 when none is open. In managed mode, where a transaction may begin
    /// at an older version at any time, for all that was committed above the discard watermark: with
    /// or without transactions it grows up to
    /// [`max_conflict_memory`](crate::Options#structfield.max_conflict_memory).
    pub conflict_memory: u64,
    /// The segments of the value log, oldest first.
    pub segments: Vec<SegmentStats>,
    /// Sum of the tables' sizes.
    pub tree_bytes: u64,
    /// Sum of the segments' written bytes.
    pub log_bytes: u64,
    /// Bytes appended to the value log since the database was opened.
    pub log_appended: u64,
    /// The files of the value log: segments as they were written, and what garbage collection made
    /// of them.
    pub log_files: Vec<LogFileStats>,
    /// What garbage collection has done since the database was opened.
    pub gc: GcTotals,
    /// Everything the tree itself counts: flushes, compactions, stalls, filters.
    pub tree: kvdb_lsm::Stats,
}

/// One level of the tree.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct LevelStats {
    /// Its number.
    pub level: u32,
    /// Tables on it.
    pub tables: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Entries in them, all versions and tombstones counted.
    pub entries: u64,
    /// Tombstones among them.
    pub tombstones: u64,
}

/// One segment of the value log.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct SegmentStats {
    /// Its id.
    pub segment: u32,
    /// Bytes of its file; 0 if garbage collection has moved its records to other files.
    pub capacity: u64,
    /// Bytes written to it, if it is sealed; the active one is still growing.
    pub sealed_bytes: Option<u64>,
    /// Bytes that tables refer to. What is only in memtables so far is not counted.
    pub live_bytes: u64,
    /// Number of values that tables refer to.
    pub live_values: u64,
    /// Whether it lies before the replay head, so that only what tables refer to is needed of it.
    pub before_replay_head: bool,
    /// Bytes that nobody needs: size minus what tables refer to. Known for sealed segments that lie
    /// before the replay head and are still in the file they were written to; for others see
    /// [`Stats::log_files`].
    pub garbage_bytes: Option<u64>,
    /// Whether garbage collection has moved its records to other files.
    pub relocated: bool,
    /// Why garbage collection leaves it alone, if it came upon damage in it.
    pub damaged: Option<String>,
}

/// Whether the database can write.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Health {
    /// It can.
    Good,
    /// Background work failed. For want of space or of descriptors: it is tried again, and this is
    /// over when it succeeds. If garbage collection came upon damage, writing goes on, and what it
    /// leaves alone (see [`SegmentStats::damaged`]) takes its space until the database is opened again.
    /// Otherwise writers will meet the same error. Reading goes on.
    Failing(String),
    /// The log or the manifest is poisoned: nothing can be written until the database is opened again. (Where
    /// it is the manifest, commits may go on for as long as there is room for them in memtables and in the
    /// log.)
    Poisoned(String),
    /// It was closed.
    Closed,
}

/// One piece of background work.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Step {
    /// Write one sealed memtable to a table.
    Flush,
    /// Run one compaction.
    Compact,
    /// Remove files that nobody holds any more.
    Reclaim,
    /// Make the log's spare segment, record sealed ones.
    PrepareLog,
    /// Make buffered commits durable and mark them so.
    SyncLog,
    /// Free the log's segments that nothing refers to.
    FreeSegments,
    /// Collect garbage of the log once: move what is in use of some files.
    Collect,
    /// Take one step towards what a database at rest looks like: memtable flushed, an active
    /// segment with garbage left for a new one, garbage collected.
    Rest,
}

impl Step {
    /// All of them.
    pub const ALL: &'static [Step] = &[
        Step::Flush,
        Step::Compact,
        Step::Reclaim,
        Step::PrepareLog,
        Step::SyncLog,
        Step::FreeSegments,
        Step::Collect,
        Step::Rest,
    ];
}

impl Db {
    /// Figures of this moment. Costs a walk over the tables' records.
    ///
    /// ```
    /// # fn main() -> kvdb::Result<()> {
    /// # let db = kvdb::Options::default().open_in(std::sync::Arc::new(kvdb::vfs::MemFs::new()), "/db")?;
    /// db.put("k", "v")?;
    /// let stats = db.stats();
    /// assert_eq!((stats.version, stats.open_transactions), (db.version(), 0));
    /// println!("{}: {} bytes in tables, {} in the log", stats.shape, stats.tree_bytes, stats.log_bytes);
    /// # db.close()
    /// # }
    /// ```
    pub fn stats(&self) -> Stats {
        self.core().stats()
    }

    /// Whether the database can write.
    ///
    /// ```
    /// # fn main() -> kvdb::Result<()> {
    /// # let db = kvdb::Options::default().open_in(std::sync::Arc::new(kvdb::vfs::MemFs::new()), "/db")?;
    /// use kvdb::Health;
    /// match db.health() {
    ///     Health::Good => {}
    ///     Health::Failing(why) => println!("background work: {why}"),
    ///     Health::Poisoned(why) => println!("close it and open it again: {why}"),
    ///     other => println!("{other:?}"),
    /// }
    /// # db.close()
    /// # }
    /// ```
    pub fn health(&self) -> Health {
        let core = self.core();
        if core.commits.is_closed() {
            return Health::Closed;
        }
        if let Some(cause) = core.log.as_ref().and_then(|log| log.poisoned()) {
            return Health::Poisoned(cause.to_string());
        }
        if let Some(cause) = core.manifest.poisoned() {
            return Health::Poisoned(format!("the manifest: {cause}"));
        }
        match core.tree.health() {
            Some(error) => Health::Failing(error.to_string()),
            None => match core.collector.damage().pop_first() {
                Some((segment, what)) => Health::Failing(format!(
                    "garbage collection leaves segment {segment} alone: {what}"
                )),
                None => Health::Good,
            },
        }
    }

    /// Does one piece of background work on the calling thread, if there is any; says whether
    /// there was. For [`Background::Manual`](crate::Background::Manual).
    ///
    /// # Errors
    /// That of the work; [`Error::Reentrant`] for [`Step::Collect`] and [`Step::Rest`] within a
    /// collection's progress, on its thread: they would wait for it.
    pub fn step(&self, step: Step) -> Result<bool> {
        let core = self.core();
        if matches!(step, Step::Collect | Step::Rest) && core.work.holds_this_thread() {
            return Err(Error::Reentrant);
        }
        let _inside = core.work.enter()?;
        let log = core.log()?;
        Ok(match step {
            Step::Flush => core.tree.step(kvdb_lsm::Job::Flush)?,
            Step::Compact => core.tree.step(kvdb_lsm::Job::Compact)?,
            Step::Reclaim => core.tree.step(kvdb_lsm::Job::Reclaim)?,
            Step::PrepareLog => log.prepare()?,
            Step::SyncLog => log.idle_sync()?,
            Step::FreeSegments => core.free_dead_segments()?.files > 0,
            Step::Collect => core.collect_step()?,
            Step::Rest => core.rest_step()?,
        })
    }
}

impl Core {
    fn stats(&self) -> Stats {
        let tree = self.tree.stats();
        let mut levels = Vec::new();
        let mut segments = Vec::new();
        let damage = self.collector.damage();
        let mut log_files = Vec::new();
        self.manifest.read(|state| {
            log_files = crate::gc::file_stats(state, &damage);
            for (level, tables) in state.tables_by_level() {
                levels.push(LevelStats {
                    level,
                    tables: tables.len() as u64,
                    bytes: tables.iter().map(|t| t.size).sum(),
                    entries: tables.iter().map(|t| t.entries).sum(),
                    tombstones: tables.iter().map(|t| t.tombstones).sum(),
                });
            }
            let live = state.live_bytes();
            let head = state.replay_head().map_or(0, |head| head.segment);
            for (&segment, s) in state.segments() {
                let sum = live.get(&segment).copied().unwrap_or_default();
                let relocated = s.relocated.is_some();
                let settled = s.sealed.filter(|_| segment < head && !relocated);
                let used = u64::from(kvdb_vlog::FIRST_FRAME) + sum.bytes;
                segments.push(SegmentStats {
                    segment,
                    capacity: if relocated { 0 } else { s.named.capacity.into() },
                    sealed_bytes: s.sealed.map(|sealed| sealed.length.into()),
                    live_bytes: sum.bytes,
                    live_values: sum.count,
                    before_replay_head: segment < head,
                    garbage_bytes: settled.map(|s| u64::from(s.length).saturating_sub(used)),
                    relocated,
                    damaged: damage.get(&segment).cloned(),
                });
            }
        });
        let end = self.log.as_ref().map_or(self.recovered_end, |log| log.end());
        let moved: u64 = log_files.iter().filter(|f| f.relocated).map(|f| f.bytes).sum();
        let log_bytes = segments
            .iter()
            .filter(|s| !s.relocated)
            .map(|s| match s.sealed_bytes {
                Some(bytes) => bytes,
                None if s.segment == end.segment => end.offset.into(),
                // Left for a later one and about to be sealed, or the spare.
                None if s.segment < end.segment => s.capacity,
                None => 0,
            })
            .sum::<u64>()
            + moved;
        let (open_snapshots, open_transactions) = self.oracle.open_transactions();
        Stats {
            version: self.oracle.read_version(),
            open_snapshots: open_snapshots as u64,
            open_transactions: open_transactions as u64,
            conflict_memory: self.oracle.tracked_bytes() as u64,
            shape: tree.shape.clone(),
            tree_bytes: levels.iter().map(|l| l.bytes).sum(),
            levels,
            memtable_bytes: tree.memtable_bytes,
            sealed_memtables: tree.sealed_memtables as u64,
            range_drops: self.superversion().range_deletes().iter().count() as u64,
            segments,
            log_appended: self.log.as_ref().map_or(0, |log| log.appended()),
            log_files,
            gc: self.collector.totals(),
            log_bytes,
            tree,
        }
    }
}
