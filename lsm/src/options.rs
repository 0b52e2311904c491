//! How a tree is to behave: [`Options`].

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::memtable::Memtable;
use crate::table::LEAST_OPEN;

/// How a tree is to behave. Any of it may differ the next time the tree is opened: every table
/// carries what is needed to read it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Options {
    /// Bytes of a memtable's arena, in which entries have 30 bytes each besides key and value. 64 KiB to
    /// 1 GiB. Default 64 MiB. Its index comes on top: some 13 bytes per entry, 19 at most.
    pub memtable_size: usize,
    /// How many memtables there may be, the active one and its spare included. At least 2;
    /// default 4. Writers wait when all of them are full. Each flush that is waited for,
    /// and frames larger than a memtable, may exceed it by one.
    pub max_memtables: usize,
    /// A memtable is sealed when the log has grown by this many bytes since its first frame, full
    /// or not, so that recovery has no more than that per memtable to replay. Default 256 MiB.
    pub max_replay_bytes: u64,
    /// Bytes at which a table of level 1 and below is finished. 16 KiB to 1 GiB. Default 8 MiB.
    pub table_size: u64,
    /// Number of level-0 tables that makes level 0 worth compacting. Default 4.
    pub l0_compaction_trigger: usize,
    /// Number of level-0 tables from which on writers are slowed down. Default 12.
    pub l0_slowdown_trigger: usize,
    /// Number of level-0 tables at which writers wait. Default 24.
    pub l0_stop_trigger: usize,
    /// Bytes waiting for compaction (above the levels' targets) from which on writers are slowed
    /// down; at four times as much they wait. Default 32 GiB.
    pub debt_slowdown_bytes: u64,
    /// Largest target of the base level, the one that level 0 is compacted into. Default 64 MiB.
    pub base_level_size: u64,
    /// How many times larger each level may be than the one above. 2 to 100. Default 10.
    pub level_size_multiplier: u64,
    /// Number of levels, level 0 included. 2 to 16. Default 7.
    pub max_levels: usize,
    /// Threads that compact, and the width of the pool that shares one compaction. Default: the
    /// number of processors, at most 4.
    pub compaction_threads: usize,
    /// How far the parts of one compaction that run at the same time may go: inputs of fewer
    /// bytes than this are not split. Default 16 MiB.
    pub min_split_bytes: u64,
    /// How many versions of a key survive although no reader can see them any more: the newest one
    /// at or below the discard floor included, and never beyond a tombstone. At least 1.
    pub versions_to_keep: usize,
    /// Target bytes of a table's block. Default 4 KiB.
    pub block_size: usize,
    /// Entries between two restart points of a block: a power of two, at most 128. Default 16.
    pub restart_interval: usize,
    /// Bits per key of a table's filter; 0: no filter. Default 10.
    pub bits_per_key: u32,
    /// How blocks of tables are compressed. Default: not at all.
    pub compression: Compression,
    /// How tables are read.
    pub reads: Reads,
    /// How many tables may be open at a time: those that were not read lately are closed when it is
    /// reached, and opened again when they are read. 0: half as many as the process may have files open, 16,384 at
    /// most. 16 to 1,048,576. Default 0.
    ///
    /// Each takes a descriptor, and a map where tables are mapped: raise it only together with the
    /// process's limit (`ulimit -n`, and `vm.max_map_count` for maps), and lower it if the process has
    /// many files of its own, which the default does not know of. Set below what is read all the time it
    /// makes most reads open a file. What is held comes on top: an iterator or superversion keeps open
    /// what was open when it began, and a running compaction the tables it reads. Threads that open
    /// tables at the same moment may exceed it by as many as they are. Beyond it each read of a table that
    /// is closed opens the file for itself, for as long as it takes.
    ///
    /// If the system has no descriptor left nevertheless, fewer tables are kept open. A point read
    /// ([`Tree::get`](crate::Tree::get)) that wants one has some closed and tries once more; a cursor, a
    /// flush or a compaction fails (flushes and compactions are tried again). While opening tables
    /// succeeds, their number grows again, by an eighth at a time, up to this one.
    pub max_open_tables: usize,
    /// Bytes of the cache for decompressed blocks where tables are mapped. Default 8 MiB.
    pub mapped_cache_bytes: u64,
    /// Whether background work runs by itself.
    pub background: Background,
    /// Scheduling class of compaction threads (Unix nice value, 0 to 19). Default 8: with all
    /// cores busy, a committing thread should not have to wait for a time slice to end.
    pub nice: i32,
    /// Bytes per second that writers are held to where the slow-down begins; the more debt, the
    /// less. Default 64 MiB.
    pub delayed_write_rate: u64,
    /// Bytes per second that compactions in the background read at most, all of them together, and so about
    /// write. Not those that somebody [asked for](crate::Tree::compact_range), nor while writers are slowed
    /// down because compaction is behind. 0: as fast as it goes. Default 0.
    pub compaction_rate: u64,
    /// An idle tree looks for tombstones, expired entries and log garbage to drop this many
    /// milliseconds after the last flush. Default 1000.
    pub idle_after_ms: u64,
    /// Bytes of memory that all of the above may take together, by [`Options::memory_bound`]; options
    /// that may take more are refused. 0: no limit. Default 0.
    pub memory_budget: u64,
    /// Check the order and overlap of levels after every install and the order of entries in
    /// every job. Default: in debug builds.
    pub paranoid: bool,
}

/// Compression of table blocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Compression {
    /// Stored as they are: usable in place, without a copy.
    #[default]
    None,
    /// LZ4 block format.
    Lz4,
    /// Zstandard, level 1 to 22. Needs the `zstd` feature of `kvdb-sstable`.
    Zstd(i32),
}

/// How tables are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Reads {
    /// Through memory maps where the file system has them. An I/O error under a map ends the
    /// process (`SIGBUS`).
    Mapped,
    /// By positioned reads through a block cache of this many bytes, shared by all tables.
    Positioned {
        /// Bytes of the block cache.
        block_cache_bytes: u64,
    },
}

/// Who does background work.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Background {
    /// Threads of the tree's own, from [`Tree::start`](crate::Tree::start) to close.
    #[default]
    Threads,
    /// Nobody but [`Tree::step`](crate::Tree::step). Writers never wait in this mode; full
    /// memtables pile up instead.
    Manual,
}

/// What a table builder takes beside hashes and index, and its inputs' current blocks.
const BUILDER: u64 = 1 << 20;

/// How many tables are kept open by default at most, whatever the process may have open: each may have
/// a map, and Linux gives a process 65,530 of those.
const MOST_OPEN: usize = 16 << 10;

/// How many files the process may have open.
fn open_files() -> usize {
    #[cfg(unix)]
    {
        let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
        limit.map_or(usize::MAX, |n| usize::try_from(n).unwrap_or(usize::MAX))
    }
    #[cfg(not(unix))]
    {
        8192
    }
}

/// What a small budget takes from tables last of all: the smaller they are, the more of them a store
/// has, and each takes a descriptor and about a kilobyte of memory that the budget does not count.
const SMALL_TABLE: u64 = 2 << 20;
/// The same for memtables: the smaller they are, the more often entries are rewritten.
const SMALL_MEMTABLE: usize = 1 << 20;

impl Default for Options {
    fn default() -> Self {
        Options {
            memtable_size: 64 << 20,
            max_memtables: 4,
            max_replay_bytes: 256 << 20,
            table_size: 8 << 20,
            l0_compaction_trigger: 4,
            l0_slowdown_trigger: 12,
            l0_stop_trigger: 24,
            debt_slowdown_bytes: 32 << 30,
            base_level_size: 64 << 20,
            level_size_multiplier: 10,
            max_levels: 7,
            compaction_threads: std::thread::available_parallelism().map_or(1, |n| n.get().min(4)),
            min_split_bytes: 16 << 20,
            versions_to_keep: 1,
            block_size: 4096,
            restart_interval: 16,
            bits_per_key: 10,
            compression: Compression::None,
            reads: Reads::Mapped,
            max_open_tables: 0,
            mapped_cache_bytes: 8 << 20,
            background: Background::Threads,
            nice: 8,
            delayed_write_rate: 64 << 20,
            compaction_rate: 0,
            idle_after_ms: 1000,
            memory_budget: 0,
            paranoid: cfg!(debug_assertions),
        }
    }
}

impl Options {
    /// Checks every option against its range.
    ///
    /// # Errors
    /// [`Error::Option`] with the name of the first option that is out of range.
    pub fn validate(&self) -> Result<()> {
        fn within<T: PartialOrd + std::fmt::Display>(
            option: &'static str,
            value: T,
            least: T,
            most: T,
        ) -> Result<()> {
            if value < least || value > most {
                return Err(Error::option(option, format!("{value} is not in {least}..={most}")));
            }
            Ok(())
        }
        within("memtable_size", self.memtable_size, 64 << 10, 1 << 30)?;
        within("max_memtables", self.max_memtables, 2, 64)?;
        within("max_replay_bytes", self.max_replay_bytes, 1, u64::MAX)?;
        within("table_size", self.table_size, 16 << 10, 1 << 30)?;
        within("l0_compaction_trigger", self.l0_compaction_trigger, 1, 1 << 16)?;
        within(
            "l0_slowdown_trigger",
            self.l0_slowdown_trigger,
            self.l0_compaction_trigger,
            1 << 16,
        )?;
        within("l0_stop_trigger", self.l0_stop_trigger, self.l0_slowdown_trigger + 1, 1 << 17)?;
        within("debt_slowdown_bytes", self.debt_slowdown_bytes, 1 << 20, u64::MAX / 8)?;
        within("base_level_size", self.base_level_size, 16 << 10, 1 << 40)?;
        within("level_size_multiplier", self.level_size_multiplier, 2, 100)?;
        within("max_levels", self.max_levels, 2, 16)?;
        within("compaction_threads", self.compaction_threads, 1, 64)?;
        within("versions_to_keep", self.versions_to_keep, 1, usize::MAX)?;
        within("block_size", self.block_size, 256, 1 << 20)?;
        within("restart_interval", self.restart_interval, 1, 128)?;
        if !self.restart_interval.is_power_of_two() {
            let reason = format!("{} is not a power of two", self.restart_interval);
            return Err(Error::option("restart_interval", reason));
        }
        within("bits_per_key", self.bits_per_key, 0, 64)?;
        if let Compression::Zstd(level) = self.compression {
            within("compression", level, 1, 22)?;
        }
        if self.max_open_tables != 0 {
            within("max_open_tables", self.max_open_tables, LEAST_OPEN, 1 << 20)?;
        }
        within("nice", self.nice, 0, 19)?;
        within("delayed_write_rate", self.delayed_write_rate, 1 << 10, u64::MAX)?;
        if self.compaction_rate != 0 {
            within("compaction_rate", self.compaction_rate, 64 << 10, u64::MAX)?;
        }
        within("idle_after_ms", self.idle_after_ms, 1, 1 << 40)?;
        let bound = self.memory_bound();
        if self.memory_budget > 0 && bound > self.memory_budget {
            let reason =
                format!("{} is less than the {bound} bytes it may take", self.memory_budget);
            return Err(Error::option("memory_budget", reason));
        }
        Ok(())
    }

    /// The most memory the tree takes, in bytes: memtables with their indexes and filters (and one more for
    /// a flush); block cache, and the indexes and filters of open tables, where tables
    /// are read by position; and for each job that may run at once its output buffers, the filter's
    /// hashes and the index of the table it builds, and the blocks it reads where they are not part of a
    /// map. Page cache behind maps is the system's to give and take.
    ///
    /// On top come frames larger than a memtable; what cursors and values of the caller's keep alive; jobs
    /// of callers of [`compact_range`](crate::Tree::compact_range) beyond one; and what tells tables apart:
    /// about a kilobyte for each, and its smallest and its largest key some times over, twelve times while a
    /// change of all tables is installed. Where tables are read by position and keys have kilobytes, so do
    /// the indexes of the tables of level 0 that are compacted, in each part of the job (measured, with keys
    /// of 2.9 KB that have little in common: 28.8 MB within a budget of 25.2).
    pub fn memory_bound(&self) -> u64 {
        let cache = match self.reads {
            Reads::Mapped => self.mapped_cache_bytes,
            Reads::Positioned { block_cache_bytes } => {
                block_cache_bytes.saturating_add(self.sections_limit())
            }
        };
        // Eight bytes per key, of which the shortest entries take about 32 bytes each.
        let flush = BUILDER + self.memtable_size as u64 / 4;
        let parts = (self.compaction_threads * 2 + 1) as u64;
        let jobs = flush + parts * (BUILDER + self.table_size / 4) + self.top_run_bound();
        (self.memtables_bound() + jobs).saturating_add(cache).saturating_add(self.blocks_bound())
    }

    /// What is held of a table that several of level 0 are merged into, until it ends: it may be much
    /// larger than others.
    pub(crate) fn top_run_bound(&self) -> u64 {
        self.memtable_size as u64 / 2
    }

    /// The blocks that a compaction of all of level 0 stands on: one in each table for each of its
    /// parts, where blocks are not part of a map. Level 0 is full when writers wait, and memtables may
    /// follow.
    fn blocks_bound(&self) -> u64 {
        if self.reads == Reads::Mapped && self.compression == Compression::None {
            return 0;
        }
        let tables = (self.l0_stop_trigger + self.max_memtables) as u64;
        tables * self.compaction_threads as u64 * self.block_size as u64
    }

    /// What the memtables take of it. Of a memtable that is full of the shortest entries, in the order
    /// that is worst for the index, more than a third is index.
    fn memtables_bound(&self) -> u64 {
        (self.max_memtables as u64 + 1) * Memtable::bytes_for(self.memtable_size) as u64
    }

    /// Bytes of the indexes and filters of open tables, where they are in memory and not mapped: half
    /// as much as the block cache, but room for those of a table or two. Tables that were not read
    /// lately are closed beyond that.
    pub(crate) fn sections_limit(&self) -> u64 {
        match self.reads {
            Reads::Mapped => u64::MAX,
            Reads::Positioned { block_cache_bytes } => {
                (block_cache_bytes / 2).max(1 << 20).max(self.table_size / 8)
            }
        }
    }

    /// How many tables may be open at a time.
    pub(crate) fn open_limit(&self) -> usize {
        match self.max_open_tables {
            0 => (open_files() / 2).clamp(LEAST_OPEN, MOST_OPEN),
            most => most,
        }
    }

    /// The defaults scaled to a memory budget: about half of it for memtables, a quarter for the block
    /// cache and open tables' indexes where tables are read by position.
    ///
    /// # Errors
    /// [`Error::Option`] for a smaller budget.
    pub fn within_memory(budget: u64, reads: Reads) -> Result<Options> {
        Options { reads, ..Options::default() }.scaled_to(budget)
    }

    /// These options with smaller memtables, caches and tables and fewer threads, so that all of it
    /// stays within a memory budget, which becomes [`memory_budget`](Options::memory_budget).
    ///
    /// # Errors
    /// [`Error::Option`] if the least that a tree takes is more.
    pub fn scaled_to(mut self, budget: u64) -> Result<Options> {
        self.memory_budget = budget;
        match &mut self.reads {
            Reads::Positioned { block_cache_bytes } => *block_cache_bytes = budget / 6,
            Reads::Mapped => self.mapped_cache_bytes = self.mapped_cache_bytes.min(budget / 4),
        }
        while self.memory_bound() > budget {
            if self.memtables_bound() > budget / 2 {
                self.memtable_size /= 2;
            } else if self.table_size > SMALL_TABLE {
                self.table_size /= 2;
            } else if self.compaction_threads > 1 {
                self.compaction_threads -= 1;
            } else if self.memtable_size > SMALL_MEMTABLE {
                self.memtable_size /= 2;
            } else if self.table_size > 256 << 10 {
                self.table_size /= 2;
            } else {
                self.memtable_size /= 2;
            }
            if self.memtable_size < 64 << 10 {
                break;
            }
        }
        self.base_level_size = self.base_level_size.min(4 * self.memtable_size as u64);
        self.validate().map(|()| self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_valid() {
        Options::default().validate().unwrap();
    }

    #[test]
    fn a_memory_budget_is_held_or_refused() {
        for mib in [20, 32, 64, 256, 1024, 4096] {
            for reads in [Reads::Mapped, Reads::Positioned { block_cache_bytes: 0 }] {
                let o = Options::within_memory(mib << 20, reads).unwrap();
                assert!(o.memory_bound() <= mib << 20);
                assert!(o.memory_bound() > mib << 17 || mib > 1000, "{mib}: {}", o.memory_bound());
                // Small tables are many tables: a terabyte of them is half a million as it is.
                assert!(o.table_size >= 2 << 20, "{mib}: {}", o.table_size);
            }
        }
        assert!(Options::within_memory(1 << 20, Reads::Mapped).is_err());
        let o = Options { memory_budget: 64 << 20, ..Options::default() };
        assert!(o.validate().unwrap_err().to_string().contains("memory_budget"));
    }

    #[test]
    fn the_memory_bound_has_the_blocks_of_level_0_where_they_are_copied() {
        let bound = |reads, compression, block_size| {
            Options { reads, compression, block_size, ..Options::default() }.memory_bound()
        };
        let positioned = Reads::Positioned { block_cache_bytes: 1 << 20 };
        for (reads, compression, counts) in [
            (Reads::Mapped, Compression::None, false),
            (Reads::Mapped, Compression::Lz4, true),
            (positioned, Compression::None, true),
        ] {
            let more = bound(reads, compression, 1 << 20) - bound(reads, compression, 4096);
            assert_eq!(
                more >= 24 * ((1 << 20) - 4096),
                counts,
                "{reads:?} {compression:?}: {more}"
            );
        }
        // 24 tables with a mebibyte each do not fit.
        let large = Options { reads: positioned, block_size: 1 << 20, ..Options::default() };
        assert!(large.scaled_to(24 << 20).is_err());
    }

    #[test]
    fn the_memory_bound_has_what_is_held_while_level_0_is_merged_in_itself() {
        let o = Options { memtable_size: 1 << 30, mapped_cache_bytes: 0, ..Options::default() };
        // With memtables as large as they may be, what else there is comes to little.
        let others = o.memtables_bound() + o.memtable_size as u64 / 4;
        assert!(o.memory_bound() >= others + o.top_run_bound(), "{}", o.memory_bound());
    }

    #[test]
    fn an_option_out_of_range_is_named() {
        let o = Options { max_memtables: 1, ..Options::default() };
        assert_eq!(
            o.validate().unwrap_err().to_string(),
            "option max_memtables: 1 is not in 2..=64"
        );
        for restart_interval in [0, 3, 256] {
            let o = Options { restart_interval, ..Options::default() };
            assert!(o.validate().unwrap_err().to_string().contains("restart_interval"));
        }
        for (max_open_tables, fits) in [(0, true), (15, false), (16, true), (1 << 20, true)] {
            let o = Options { max_open_tables, ..Options::default() };
            assert_eq!(o.validate().is_ok(), fits, "{max_open_tables}");
            assert!(fits || o.validate().unwrap_err().to_string().contains("max_open_tables"));
            assert!(!fits || (16..=1 << 20).contains(&o.open_limit()));
        }
        let o = Options { l0_stop_trigger: 12, ..Options::default() };
        assert!(o.validate().unwrap_err().to_string().contains("l0_stop_trigger"));
    }
}
