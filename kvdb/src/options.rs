//! Everything that can be set, with its limits.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use kvdb_vfs::{Clock, Fs, OsFs, SystemClock};
use serde::{Deserialize, Serialize};

use crate::db::Db;
use crate::error::{Error, Result};
use crate::merge::MergeOperator;

const KIB: usize = 1 << 10;
const MIB: usize = 1 << 20;

/// What a commit promises when it returns.
///
/// ```
/// # fn main() -> kvdb::Result<()> {
/// # let fs = std::sync::Arc::new(kvdb::vfs::MemFs::new());
/// use kvdb::{Durability, Options};
/// // Of the database, and of one commit.
/// let db = Options::default().durability(Durability::Buffered).open_in(fs, "/db")?;
/// db.put("hint", "may be lost with the power")?;
/// let mut t = db.begin()?;
/// t.put("order", "must not be")?;
/// t.commit_with(Durability::Sync)?; // and so is what was committed before
/// # db.close()
/// # }
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
pub enum Durability {
    /// The commit survives a power cut.
    #[default]
    Sync,
    /// The commit is with the operating system: it survives the death of the process. After a
    /// power cut the store is a prefix of the commit order; at most about 32 MiB of log is lost.
    Buffered,
}

/// Who does the background work.
///
/// ```
/// # fn main() -> kvdb::Result<()> {
/// use kvdb::{Background, Options, Step};
/// # let fs = std::sync::Arc::new(kvdb::vfs::MemFs::new());
/// let db = Options::default().background(Background::Manual).open_in(fs, "/db")?;
/// db.put("k", "v")?;
/// while db.step(Step::Compact)? {} // as long as there is something to do
/// # db.close()
/// # }
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
pub enum Background {
    /// Threads of the database.
    #[default]
    Threads,
    /// Nobody: [`Db::step`] does one piece at a time, on the calling thread. For tests that want
    /// to replay a history exactly. Writers never wait; memtables
    /// pile up instead.
    Manual,
}

/// How table blocks are compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Codec {
    /// Not at all. Reads borrow from the map.
    #[default]
    None,
    /// LZ4, block by block.
    Lz4,
}

/// The settings of a database. Plain data: fields can be set one by one, through the setters of
/// the same name, or read from a file with serde. Nothing is checked before [`Options::validate`],
/// which every way of opening calls.
///
/// A store can be reopened with other settings at any time: every entry and every table carries
/// what it needs to be read.
///
/// ```
/// use kvdb::{Durability, Options};
/// # fn main() -> kvdb::Result<()> {
/// # let dir = tempfile::tempdir().expect("temporary directory");
/// let db = Options::default()
///     .durability(Durability::Buffered)
///     .value_threshold(512)
///     .open(dir.path())?;
/// # db.close()
/// # }
/// ```
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct Options {
    /// Create the store if the path holds none. Default: true.
    pub create_if_missing: bool,
    /// Open for reading only: never writes a byte, shares the directory with other read-only
    /// openers, refuses every write. Default: false.
    pub read_only: bool,
    /// What a commit promises unless it says otherwise itself. Default: [`Durability::Sync`].
    pub durability: Durability,
    /// A directory of its own for the value log, for example on a second disk. The same at every
    /// opening of a store: another one is [`Error::WrongValueDir`]. Default: none, the log lives
    /// beside the tables.
    pub value_dir: Option<PathBuf>,
    /// Values of at least this many bytes live in the log only; shorter ones in the tree.
    /// 0: all values in the log. Default: 1 KiB.
    pub value_threshold: usize,
    /// Bytes of a memtable. 64 KiB ..= 1 GiB, default 64 MiB.
    pub memtable_size: usize,
    /// How many memtables there may be, the active one included. 2 ..= 64, default 4.
    pub max_memtables: usize,
    /// Bytes a table may grow to. 16 KiB ..= 1 GiB, default 64 MiB.
    pub table_size: usize,
    /// Level-0 tables that start a compaction. 1 ..= 64, default 4.
    pub level0_compaction_trigger: usize,
    /// Level-0 tables from which writers are slowed. Default 12.
    pub level0_slowdown_trigger: usize,
    /// Level-0 tables at which writers stop until there are fewer. Default 20.
    pub level0_stall_trigger: usize,
    /// Bytes of the first level below level 0. Default 256 MiB.
    pub level_base_size: u64,
    /// How much larger each deeper level is. 2 ..= 100, default 10.
    pub level_size_multiplier: u32,
    /// Number of levels, level 0 included. 2 ..= 16, default 7.
    pub max_levels: usize,
    /// Threads that compact. 1 ..= 64, default 2.
    pub compaction_threads: usize,
    /// Bytes per second that compactions in the background read at most, all of them together, and so about
    /// write, so that they leave the disk to others. Not those that somebody [asked for](crate::Db::compact),
    /// nor while writers are slowed down because compaction is behind. 0, or 64 KiB and more. Default 0: as
    /// fast as it goes.
    pub compaction_rate: u64,
    /// Bytes of a log segment once the store has grown; small stores have smaller ones.
    /// 1 MiB ..= 2 GiB, default 128 MiB. It bounds what one transaction can hold.
    pub segment_size: usize,
    /// Bytes a transaction may have in the log, all keys, values and headers counted; capped by
    /// the segment size. Default: no cap but that.
    pub max_transaction_size: Option<usize>,
    /// How many versions of a key survive compaction although no snapshot needs them: for
    /// [`versions`](crate::Snapshot::versions) to show. They make no whole picture of the store, so
    /// [`Db::snapshot_at`] does not read at theirs once compaction has passed it. 1 and up, default 1.
    /// `usize::MAX` keeps every version, and every version can be read for ever.
    pub versions_to_keep: usize,
    /// Bytes of a table block before compression. 1 KiB ..= 1 MiB, default 4 KiB.
    pub block_size: usize,
    /// Bits per key of the tables' filters; 0: no filter. 0 ..= 32, default 10.
    pub filter_bits_per_key: u32,
    /// Codec of new tables. Default: none.
    pub codec: Codec,
    /// Bytes of log between forced rotations of the memtable: bounds what a recovery replays.
    /// Default 1 GiB.
    pub max_replay_bytes: u64,
    /// Whether transactions check at commit that what they read has not changed. Without it the
    /// last commit wins. Default: true.
    pub detect_conflicts: bool,
    /// Bytes the conflict detection may use while read-write transactions are open, and always in
    /// [managed mode](#structfield.managed). Past it the oldest such transaction fails with *too old*.
    /// Default 64 MiB.
    pub max_conflict_memory: usize,
    /// Managed mode: the caller chooses the versions, with [`Db::begin_at`],
    /// [`Transaction::commit_at`](crate::Transaction::commit_at) and
    /// [`Db::set_discard_watermark`]; calls that would choose one are errors. Default: false.
    pub managed: bool,
    /// Read tables and sealed segments through memory maps. Default: true. Without, by positioned
    /// reads through a cache: slower, but an I/O error is an error and not a `SIGBUS`.
    pub memory_map: bool,
    /// Bytes of the block cache, for compressed tables and positioned reads. Default 64 MiB.
    pub block_cache_size: usize,
    /// How many tables may be open at a time: those that were not read lately are closed when it is
    /// reached. 0: half as many as the process may have files open, 16,384 at most. 16 ..= 1,048,576,
    /// default 0.
    ///
    /// Each takes a descriptor and, with [`memory_map`](#structfield.memory_map), a map. The
    /// segments of the log, of which each takes as much, are not counted, nor are other files of
    /// the process: lower it where there are many, or raise the process's limit. Set below what is
    /// read all the time it makes most reads open a file. An iterator keeps open what was open when
    /// it began; threads that open tables at the same moment may exceed it by as many as they are.
    /// If the system has no descriptor left nevertheless, fewer tables are kept open for a while.
    /// Reads, iterators (but [`Versions`](crate::Versions)) and cursors have some closed, for which
    /// they wait 100 ms at most, and try once more; an iterator goes on over the tables of that
    /// moment, unless what it has to show is gone from them, since its snapshot is. What else wants
    /// a descriptor fails, the folding of operands under a cursor among it.
    pub max_open_tables: usize,
    /// Bytes of memory that memtables with their indexes, the block cache, indexes and filters of
    /// open tables, what flushes and compactions build, and the conflict detection may take
    /// together ([`Options::memory_bound`]): settings that may take more are refused. What commits
    /// under way, iterators, values and a garbage collection hold comes on top; the page cache
    /// behind maps is the system's. [`Options::within_memory`] finds settings for a budget. 0: no
    /// limit. Default: 0.
    pub memory_budget: u64,
    /// Who does the background work. Default: threads.
    pub background: Background,
    /// Whether garbage of the value log is collected in the background. [`Db::gc`] does it on
    /// demand either way. Default: true.
    pub collect_garbage: bool,
    /// Bytes of the value log per byte in use, above which garbage is collected although the
    /// database is being written to: the higher, the less is moved, the lower, the less space is
    /// taken. Values that are overwritten at random cost at least 1.26 bytes written to the log a byte where
    /// twice as much as is in use may be taken, 1.7 at 1.5, and 2.2 at 1.33. At rest less is taken anyway.
    /// What is allocated ahead of commits counts. 1.1 ..= 10, default 1.43.
    pub space_amplification: f64,
    /// Write the memtable to a table when the database is closed, so that opening replays nothing.
    /// Default: false, the log is enough.
    pub flush_on_close: bool,
    /// How operands written by [`Db::merge`] are folded. Not part of the serialized form: to be set
    /// at every opening of a store that has operands. Default: none.
    #[serde(skip)]
    pub merge_operator: Option<MergeOperator>,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            create_if_missing: true,
            read_only: false,
            durability: Durability::Sync,
            value_dir: None,
            value_threshold: KIB,
            memtable_size: 64 * MIB,
            max_memtables: 4,
            table_size: 64 * MIB,
            level0_compaction_trigger: 4,
            level0_slowdown_trigger: 12,
            level0_stall_trigger: 20,
            level_base_size: 256 * MIB as u64,
            level_size_multiplier: 10,
            max_levels: 7,
            compaction_threads: 2,
            compaction_rate: 0,
            segment_size: 128 * MIB,
            max_transaction_size: None,
            versions_to_keep: 1,
            block_size: 4 * KIB,
            filter_bits_per_key: 10,
            codec: Codec::None,
            max_replay_bytes: 1 << 30,
            detect_conflicts: true,
            max_conflict_memory: 64 * MIB,
            managed: false,
            memory_map: true,
            block_cache_size: 64 * MIB,
            max_open_tables: 0,
            memory_budget: 0,
            background: Background::Threads,
            collect_garbage: true,
            space_amplification: 1.43,
            flush_on_close: false,
            merge_operator: None,
        }
    }
}

macro_rules! setters {
    ($($name:ident: $kind:ty),* $(,)?) => {
        $(
            #[doc = concat!("Sets [`Options::", stringify!($name), "`](#structfield.", stringify!($name), ").")]
            #[must_use]
            pub fn $name(mut self, value: $kind) -> Self {
                self.$name = value;
                self
            }
        )*
    };
}

impl Options {
    /// For little memory: small memtables, tables and segments, one compaction thread, all within a
    /// [`memory_budget`](#structfield.memory_budget) of 32 MiB.
    ///
    /// ```
    /// let options = kvdb::Options::small_memory().segment_size(8 << 20);
    /// assert!(options.memory_bound() <= 32 << 20);
    /// ```
    pub fn small_memory() -> Self {
        Options {
            memtable_size: 2 * MIB,
            max_memtables: 3,
            table_size: 4 * MIB,
            level_base_size: 16 * MIB as u64,
            compaction_threads: 1,
            segment_size: 16 * MIB,
            block_cache_size: 4 * MIB,
            max_conflict_memory: 4 * MIB,
            memory_budget: 32 * MIB as u64,
            ..Options::default()
        }
    }

    /// For loading much data at once: buffered commits, large memtables, late compaction. A store that was
    /// loaded with these is opened with others afterwards.
    ///
    /// ```
    /// # fn main() -> kvdb::Result<()> {
    /// # let fs = std::sync::Arc::new(kvdb::vfs::MemFs::new());
    /// let db = kvdb::Options::bulk_load().open_in(fs.clone(), "/db")?;
    /// let mut writer = db.bulk_writer();
    /// writer.put("key", "value")?;
    /// writer.finish()?;
    /// db.sync()?;
    /// db.close()?;
    /// let db = kvdb::Options::default().open_in(fs, "/db")?;
    /// assert!(db.contains("key")?);
    /// # db.close()
    /// # }
    /// ```
    pub fn bulk_load() -> Self {
        Options {
            durability: Durability::Buffered,
            memtable_size: 256 * MIB,
            table_size: 128 * MIB,
            level0_compaction_trigger: 8,
            level0_slowdown_trigger: 40,
            level0_stall_trigger: 60,
            detect_conflicts: false,
            segment_size: 1024 * MIB,
            ..Options::default()
        }
    }

    /// The defaults, scaled down to a memory budget: about half of it for memtables.
    ///
    /// ```
    /// # fn main() -> kvdb::Result<()> {
    /// let options = kvdb::Options::within_memory(100 << 20)?;
    /// assert!(options.memory_bound() <= 100 << 20);
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// [`Error::InvalidOption`] if the budget is too small for a database (less than about 10 MiB).
    pub fn within_memory(budget: u64) -> Result<Self> {
        let conflicts = (budget / 16).min(64 * MIB as u64);
        // Reading by position takes more than reading through maps: both are within the budget then.
        let most = Options::default().memory_map(false).tree_options();
        let tree = most.scaled_to(budget - conflicts).map_err(|_| Error::InvalidOption {
            name: "memory_budget",
            reason: format!("{budget} bytes are too few for a database"),
        })?;
        let cache = match tree.reads {
            kvdb_lsm::Reads::Positioned { block_cache_bytes } => block_cache_bytes,
            _ => tree.mapped_cache_bytes,
        };
        let options = Options {
            memtable_size: tree.memtable_size,
            max_memtables: tree.max_memtables,
            table_size: tree.table_size as usize,
            level_base_size: tree.base_level_size,
            compaction_threads: tree.compaction_threads,
            block_cache_size: cache as usize,
            max_conflict_memory: (conflicts as usize).max(4 * KIB),
            memory_budget: budget,
            ..Options::default()
        };
        options.validate().map(|()| options)
    }

    /// The most memory that what [`memory_budget`](#structfield.memory_budget) counts can take with
    /// these settings, in bytes.
    pub fn memory_bound(&self) -> u64 {
        self.tree_options().memory_bound().saturating_add(self.max_conflict_memory as u64)
    }

    setters! {
        create_if_missing: bool,
        read_only: bool,
        durability: Durability,
        value_threshold: usize,
        memtable_size: usize,
        max_memtables: usize,
        table_size: usize,
        level0_compaction_trigger: usize,
        level0_slowdown_trigger: usize,
        level0_stall_trigger: usize,
        level_base_size: u64,
        level_size_multiplier: u32,
        max_levels: usize,
        compaction_threads: usize,
        compaction_rate: u64,
        segment_size: usize,
        max_transaction_size: Option<usize>,
        versions_to_keep: usize,
        block_size: usize,
        filter_bits_per_key: u32,
        codec: Codec,
        max_replay_bytes: u64,
        detect_conflicts: bool,
        max_conflict_memory: usize,
        managed: bool,
        memory_map: bool,
        block_cache_size: usize,
        max_open_tables: usize,
        memory_budget: u64,
        background: Background,
        collect_garbage: bool,
        space_amplification: f64,
        flush_on_close: bool,
    }

    /// Sets [`Options::merge_operator`](#structfield.merge_operator).
    #[must_use]
    pub fn merge_operator(mut self, operator: MergeOperator) -> Self {
        self.merge_operator = Some(operator);
        self
    }

    /// Sets [`Options::value_dir`](#structfield.value_dir).
    ///
    /// ```
    /// # fn main() -> kvdb::Result<()> {
    /// # let fs = std::sync::Arc::new(kvdb::vfs::MemFs::new());
    /// use kvdb::{ErrorKind, Options};
    /// let apart = Options::default().value_dir("/large/values");
    /// apart.open_in(fs.clone(), "/fast/db")?.close()?;
    /// let without = Options::default().open_in(fs, "/fast/db");
    /// assert_eq!(without.unwrap_err().kind(), ErrorKind::Usage); // it says which option is wrong
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn value_dir(mut self, dir: impl Into<PathBuf>) -> Self {
        self.value_dir = Some(dir.into());
        self
    }

    /// Opens the store at `path` with these settings.
    ///
    /// # Errors
    /// See [`Db::open`], and [`Error::InvalidOption`].
    pub fn open(&self, path: impl AsRef<Path>) -> Result<Db> {
        self.open_in(Arc::new(OsFs::new()), path)
    }

    /// Opens the store at `path` of another file system: [`MemFs`](kvdb_vfs::MemFs) for a database
    /// in memory, [`FaultFs`](kvdb_vfs::FaultFs) to see how errors are met.
    ///
    /// ```
    /// # fn main() -> kvdb::Result<()> {
    /// let memory = std::sync::Arc::new(kvdb::vfs::MemFs::new());
    /// let db = kvdb::Options::default().open_in(memory, "/db")?;
    /// db.put("k", "v")?;
    /// # db.close()
    /// # }
    /// ```
    pub fn open_in(&self, fs: Arc<dyn Fs>, path: impl AsRef<Path>) -> Result<Db> {
        self.open_with(fs, Arc::new(SystemClock), path)
    }

    /// Opens with a file system and a clock of one's own.
    ///
    /// ```
    /// # fn main() -> kvdb::Result<()> {
    /// use kvdb::vfs::{ManualClock, MemFs};
    /// use kvdb::{Options, WriteOptions};
    /// use std::sync::Arc;
    /// let clock = Arc::new(ManualClock::new(1_000));
    /// let db = Options::default().open_with(Arc::new(MemFs::new()), clock.clone(), "/db")?;
    /// db.put_with("k", "v", WriteOptions::default().expires_at(1_060))?;
    /// clock.set(1_060);
    /// assert!(db.get("k")?.is_none());
    /// # db.close()
    /// # }
    /// ```
    pub fn open_with(
        &self,
        fs: Arc<dyn Fs>,
        clock: Arc<dyn Clock>,
        path: impl AsRef<Path>,
    ) -> Result<Db> {
        self.validate()?;
        let path = path.as_ref();
        named("path", path)?;
        Db::open_with(self.clone(), fs, clock, path)
    }

    pub(crate) fn log_options(&self) -> kvdb_vlog::Options {
        kvdb_vlog::Options {
            segment_size: self.segment_size as u32 & !4095,
            initial_segment_size: (4 * MIB).min(self.segment_size) as u32 & !4095,
            // Buffered commits gain nothing from writing zeros ahead.
            prefill: self.durability == Durability::Sync,
            // Each would wait for the device if written past the cache.
            sync_method: match self.durability {
                Durability::Sync => kvdb_vlog::SyncMethod::Direct,
                Durability::Buffered => kvdb_vlog::SyncMethod::Fdatasync,
            },
            maps: self.memory_map,
            ..kvdb_vlog::Options::default()
        }
    }

    pub(crate) fn tree_options(&self) -> kvdb_lsm::Options {
        kvdb_lsm::Options {
            memtable_size: self.memtable_size,
            max_memtables: self.max_memtables,
            max_replay_bytes: self.max_replay_bytes,
            table_size: self.table_size as u64,
            l0_compaction_trigger: self.level0_compaction_trigger,
            l0_slowdown_trigger: self.level0_slowdown_trigger,
            l0_stop_trigger: self.level0_stall_trigger,
            base_level_size: self.level_base_size,
            level_size_multiplier: self.level_size_multiplier.into(),
            max_levels: self.max_levels,
            compaction_threads: self.compaction_threads,
            compaction_rate: self.compaction_rate,
            versions_to_keep: self.versions_to_keep,
            block_size: self.block_size,
            bits_per_key: self.filter_bits_per_key,
            compression: match self.codec {
                Codec::None => kvdb_lsm::Compression::None,
                Codec::Lz4 => kvdb_lsm::Compression::Lz4,
            },
            reads: match self.memory_map {
                true => kvdb_lsm::Reads::Mapped,
                false => {
                    kvdb_lsm::Reads::Positioned { block_cache_bytes: self.block_cache_size as u64 }
                }
            },
            mapped_cache_bytes: self.block_cache_size as u64,
            max_open_tables: self.max_open_tables,
            background: match self.background {
                Background::Threads => kvdb_lsm::Background::Threads,
                Background::Manual => kvdb_lsm::Background::Manual,
            },
            ..kvdb_lsm::Options::default()
        }
    }

    pub(crate) fn oracle_options(&self) -> kvdb_txn::Options {
        kvdb_txn::Options {
            detect_conflicts: self.detect_conflicts,
            max_tracked_bytes: self.max_conflict_memory,
            managed: self.managed,
        }
    }

    /// Checks every setting against its limits and against each other.
    ///
    /// ```
    /// # fn main() -> kvdb::Result<()> {
    /// use kvdb::{Error, Options};
    /// Options::bulk_load().validate()?;
    /// let wrong = Options::default().memtable_size(1).validate();
    /// assert!(matches!(wrong, Err(Error::InvalidOption { name: "memtable_size", .. })));
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`Error::InvalidOption`] with the name of the first option that is out of its range.
    pub fn validate(&self) -> Result<()> {
        if let Some(dir) = &self.value_dir {
            named("value_dir", dir)?;
        }
        range("memtable_size", self.memtable_size, 64 * KIB, 1024 * MIB)?;
        range("max_memtables", self.max_memtables, 2, 64)?;
        range("table_size", self.table_size, 16 * KIB, 1024 * MIB)?;
        range("level0_compaction_trigger", self.level0_compaction_trigger, 1, 64)?;
        range(
            "level0_slowdown_trigger",
            self.level0_slowdown_trigger,
            self.level0_compaction_trigger,
            1 << 16,
        )?;
        range(
            "level0_stall_trigger",
            self.level0_stall_trigger,
            self.level0_slowdown_trigger + 1,
            1 << 17,
        )?;
        range("level_base_size", self.level_base_size, 16 * KIB as u64, 1 << 40)?;
        range("level_size_multiplier", self.level_size_multiplier, 2, 100)?;
        range("max_levels", self.max_levels, 2, 16)?;
        range("compaction_threads", self.compaction_threads, 1, 64)?;
        if self.compaction_rate != 0 {
            range("compaction_rate", self.compaction_rate, 64 * KIB as u64, u64::MAX)?;
        }
        range("segment_size", self.segment_size, MIB, 2048 * MIB)?;
        if let Some(size) = self.max_transaction_size {
            range("max_transaction_size", size, 4 * KIB, self.segment_size)?;
        }
        range("versions_to_keep", self.versions_to_keep, 1, usize::MAX)?;
        range("max_conflict_memory", self.max_conflict_memory, 4 * KIB, usize::MAX)?;
        range("block_size", self.block_size, KIB, MIB)?;
        range("filter_bits_per_key", self.filter_bits_per_key, 0, 32)?;
        range("space_amplification", self.space_amplification, 1.1, 10.0)?;
        range("max_replay_bytes", self.max_replay_bytes, MIB as u64, u64::MAX)?;
        if self.max_open_tables != 0 {
            range("max_open_tables", self.max_open_tables, 16, 1 << 20)?;
        }
        let bound = self.memory_bound();
        if self.memory_budget > 0 && bound > self.memory_budget {
            let reason =
                format!("{} is less than the {bound} bytes it may take", self.memory_budget);
            return Err(Error::InvalidOption { name: "memory_budget", reason });
        }
        Ok(())
    }
}

/// Refuses the empty path, which the system would report as one that does not exist.
fn named(name: &'static str, path: &Path) -> Result<()> {
    match path.as_os_str().is_empty() {
        true => {
            let reason = "the path is empty; \".\" is the current directory".into();
            Err(Error::InvalidOption { name, reason })
        }
        false => Ok(()),
    }
}

/// What is no number is within no range.
pub(crate) fn range<T: PartialOrd + std::fmt::Display + Copy>(
    name: &'static str,
    value: T,
    least: T,
    most: T,
) -> Result<()> {
    if !(least..=most).contains(&value) {
        let reason = format!("{value} is not within {least} ..= {most}");
        return Err(Error::InvalidOption { name, reason });
    }
    Ok(())
}
