//! Every target there is, with its sizes and its yardstick, in one table.

/// What a figure is held against.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Goal {
    /// Ours divided by the yardstick must not exceed this (times; smaller is better).
    AtMost(f64),
    /// The yardstick divided by ours must reach this (times; larger is better).
    AtLeast(f64),
    /// Ours, by itself, must not exceed this. There is no yardstick.
    AtMostNanos(f64),
    /// Ours, by itself and in this unit, must not exceed this. There is no yardstick.
    AtMostOf(f64, &'static str),
    /// For information: there is no target.
    Shown,
}

/// One row of the table.
#[derive(Debug, Clone, Copy)]
pub struct Target {
    /// The part; the name `ratios` is called with.
    pub group: &'static str,
    /// What is measured, within the group.
    pub name: &'static str,
    /// Number of entries, and the lengths of keys and values in bytes.
    pub sizes: (usize, usize, usize),
    /// What ours is divided by, or what is divided by ours.
    pub yardstick: &'static str,
    /// What the figure must reach.
    pub goal: Goal,
}

/// Entries, key length, value length of the skiplist's rows.
pub const SKIPLIST: (usize, usize, usize) = (1_000_000, 24, 16);

/// Entries, key length, value length of a round of small frames: 100 bytes each.
pub const VLOG_SMALL: (usize, usize, usize) = (1 << 19, 16, 40);
/// Of a round of large frames into the operating system.
pub const VLOG_LARGE: (usize, usize, usize) = (4096, 16, 64 << 10);
/// Of a round of durable frames of exactly 4 KiB.
pub const VLOG_DURABLE: (usize, usize, usize) = (300, 16, 4096 - 32 - 12 - 16);
/// Of a round of durable frames of 4 KiB of which each is read once.
pub const VLOG_READ_BACK: (usize, usize, usize) = (1024, 16, 4096 - 32 - 12 - 16);
/// Of a round of durable appends by sixteen threads; one thread makes a quarter of them.
pub const VLOG_THREADS: (usize, usize, usize) = (1600, 16, 1024);
/// Of the log that is replayed for its number of records.
pub const VLOG_REPLAY_SMALL: (usize, usize, usize) = (1_000_000, 8, 100);
/// Of the log that is replayed for its bytes.
pub const VLOG_REPLAY_LARGE: (usize, usize, usize) = (100_000, 8, 4096);
/// Of the log that is read by pointer.
pub const VLOG_READ: (usize, usize, usize) = (300_000, 8, 1024);
/// Change sets of the manifest that is replayed; each adds one table.
pub const MANIFEST: (usize, usize, usize) = (100_000, 0, 0);
/// Of the table in memory.
pub const SSTABLE: (usize, usize, usize) = (1_000_000, 16, 100);
/// Of the table in a file, which has at least 64 MiB.
pub const SSTABLE_FILE: (usize, usize, usize) = (550_000, 16, 100);
/// Transactions of each thread and round.
pub const TXN: (usize, usize, usize) = (300_000, 16, 0);
/// Of the database.
pub const KVDB: (usize, usize, usize) = (500_000, 16, 128);

/// Of a tree: entries of all its runs together, keys, values.
pub const LSM: (usize, usize, usize) = (1_000_000, 16, 100);
/// Of the tree that is loaded with random keys.
pub const LSM_LOAD: (usize, usize, usize) = (10_000_000, 16, 128);
/// Records of the collected segment whose pointers are resolved: all of 128 MiB.
pub const GC_RESOLVE: (usize, usize, usize) = (122_000, 16, 1024);
/// Of the store whose half-dead segments are collected.
pub const GC_MOVE: (usize, usize, usize) = (30_000, 16, 4096);
/// Of the store that is overwritten.
pub const GC_OVERWRITE: (usize, usize, usize) = (16_000, 16, 4096);
/// Of the store that is overwritten beside fjall.
pub const OVERWRITE: (usize, usize, usize) = (65_536, 16, 4096);
/// Bytes of values of a store that is scanned in a quarter of the memory.
pub const GC_CAPPED: usize = 512 << 20;

/// Bytes through which the yardstick *D* is chased.
pub const CHASE_BYTES: usize = 64 << 20;

const fn skiplist(name: &'static str, yardstick: &'static str, goal: Goal) -> Target {
    Target { group: "skiplist", name, sizes: SKIPLIST, yardstick, goal }
}

const fn row(
    group: &'static str,
    sizes: (usize, usize, usize),
    name: &'static str,
    yardstick: &'static str,
    goal: Goal,
) -> Target {
    Target { group, name, sizes, yardstick, goal }
}

/// A gigabyte a second, for pieces of `bytes` bytes.
const fn gigabyte_a_second(bytes: usize) -> Goal {
    Goal::AtMostNanos(bytes as f64)
}

/// All rows.
pub const TARGETS: &[Target] = &[
    skiplist("random insert", "D", Goal::AtMost(4.0)),
    skiplist("get", "D", Goal::AtMost(3.0)),
    skiplist("next after random insertion", "D", Goal::AtMost(1.2)),
    skiplist("prev after random insertion", "next", Goal::AtMost(1.5)),
    skiplist("next after sorted insertion", "", Goal::AtMostNanos(8.0)),
    skiplist("sorted insert with a hint", "", Goal::AtMostNanos(100.0)),
    skiplist("two writers", "one writer", Goal::AtLeast(1.6)),
    skiplist("two writers, a list each: time", "one writer", Goal::Shown),
    skiplist("insert vs crossbeam", "crossbeam-skiplist", Goal::AtLeast(3.0)),
    skiplist("get vs crossbeam", "crossbeam-skiplist", Goal::AtLeast(3.0)),
    skiplist("iteration vs crossbeam", "crossbeam-skiplist", Goal::AtLeast(2.0)),
    skiplist("get of the same thousand", "D", Goal::Shown),
    skiplist("get of a missing key", "D", Goal::Shown),
    skiplist("insert, 16-digit decimal keys", "D", Goal::Shown),
    skiplist("get, 16-digit decimal keys", "D", Goal::Shown),
    skiplist("overhead, bytes per entry", "", Goal::Shown),
    // A million a second.
    row("vlog", VLOG_SMALL, "100-byte frames by 32", "", Goal::AtMostNanos(1000.0)),
    row("vlog", VLOG_SMALL, "the same beside plain writes", "BufWriter", Goal::Shown),
    row("vlog", VLOG_LARGE, "64 KiB values", "plain writes", Goal::AtLeast(0.8)),
    row("vlog", VLOG_LARGE, "64 KiB values, synced by 32 MiB", "plain writes", Goal::Shown),
    row("vlog", VLOG_DURABLE, "durable 4 KiB, by default", "best raw", Goal::AtLeast(0.9)),
    row("vlog", VLOG_DURABLE, "durable 4 KiB, fdatasync", "raw", Goal::AtLeast(0.9)),
    row("vlog", VLOG_DURABLE, "durable 4 KiB, durable write", "raw", Goal::AtLeast(0.9)),
    row("vlog", VLOG_DURABLE, "durable 4 KiB, direct", "raw", Goal::AtLeast(0.9)),
    row("vlog", VLOG_DURABLE, "raw O_DIRECT|O_DSYNC", "raw fdatasync", Goal::Shown),
    row("vlog", VLOG_READ_BACK, "append and read, direct", "fdatasync", Goal::Shown),
    row("vlog", VLOG_THREADS, "durable 1 KiB, 16 threads", "one thread", Goal::AtLeast(6.0)),
    // Two million a second.
    row("vlog", VLOG_REPLAY_SMALL, "replay of 100-byte values", "", Goal::AtMostNanos(500.0)),
    row(
        "vlog",
        VLOG_REPLAY_LARGE,
        "replay of 4 KiB values",
        "",
        gigabyte_a_second(VLOG_REPLAY_LARGE.2),
    ),
    row("vlog", VLOG_READ, "read of 1 KiB by pointer", "D", Goal::AtMost(3.0)),
    row("vlog", VLOG_READ, "the same, pages mapped", "D", Goal::Shown),
    row("manifest", MANIFEST, "durable append", "raw", Goal::AtLeast(0.9)),
    row("manifest", MANIFEST, "durable append, two threads", "one thread", Goal::Shown),
    row("manifest", MANIFEST, "rewrite with 1,000 tables", "raw", Goal::Shown),
    row("manifest", MANIFEST, "open with 1,000 tables", "", Goal::Shown),
    row("manifest", MANIFEST, "replay, per change set", "decoding", Goal::Shown),
    row("sstable", SSTABLE, "get", "D", Goal::AtMost(3.0)),
    row("sstable", SSTABLE, "get, as far as the filter", "D", Goal::Shown),
    row("sstable", SSTABLE, "get, as far as the index", "D", Goal::Shown),
    row("sstable", SSTABLE, "get, as far as the block", "D", Goal::Shown),
    row("sstable", SSTABLE, "get, its two misses alone", "D", Goal::Shown),
    row("sstable", SSTABLE, "get, hot", "", Goal::AtMostNanos(250.0)),
    row("sstable", SSTABLE, "get, hot, as far as the filter", "", Goal::Shown),
    row("sstable", SSTABLE, "get, hot, as far as the index", "", Goal::Shown),
    row("sstable", SSTABLE, "get, hot, as far as the block", "", Goal::Shown),
    row("sstable", SSTABLE, "get vs redb", "redb", Goal::Shown),
    row("sstable", SSTABLE, "scan", "", Goal::AtMostNanos(30.0)),
    row("sstable", SSTABLE, "scan, hot", "", Goal::AtMostNanos(20.0)),
    row("sstable", SSTABLE, "scan backward", "scan", Goal::AtMost(1.15)),
    row("sstable", SSTABLE, "scan backward, hot", "scan, hot", Goal::Shown),
    row("sstable", SSTABLE, "scan within bounds", "scan", Goal::Shown),
    row("sstable", SSTABLE, "scan within bounds, hot", "scan, hot", Goal::Shown),
    row("sstable", SSTABLE, "scan vs redb", "redb", Goal::Shown),
    row("sstable", SSTABLE, "scan backward vs redb", "redb", Goal::Shown),
    row("sstable", SSTABLE, "build", "", gigabyte_a_second(SSTABLE.1 + SSTABLE.2)),
    row("sstable", SSTABLE, "filter probe, hot", "", Goal::AtMostNanos(25.0)),
    row("sstable", SSTABLE, "filter, false positives", "", Goal::AtMostOf(1.0, "%")),
    row("sstable", SSTABLE_FILE, "open of 64 MiB", "", Goal::AtMostNanos(100_000.0)),
    row("sstable", SSTABLE_FILE, "uncached get", "", Goal::AtMostOf(1.0, "reads")),
    row("txn", TXN, "read, commit of one key", "", Goal::AtMostNanos(300.0)),
    row("txn", TXN, "the same beside a miss", "D", Goal::Shown),
    row("txn", TXN, "two threads", "one thread", Goal::AtLeast(1.5)),
    row("txn", TXN, "a shared counter, two threads", "one thread", Goal::Shown),
    row("txn", TXN, "blind commit of one key", "", Goal::Shown),
    row("txn", TXN, "blind, two threads", "one thread", Goal::Shown),
    row("txn", TXN, "read-only begin and end", "", Goal::Shown),
    row("txn", TXN, "read-only, two threads", "one thread", Goal::Shown),
    row("lsm", LSM, "merge of 4 runs", "", Goal::AtMostNanos(40.0)),
    row("lsm", LSM, "merge of 4 runs, backward", "", Goal::Shown),
    row("lsm", LSM, "scan of what is visible, 5 runs", "", Goal::Shown),
    row("lsm", LSM, "get over 5 runs", "D", Goal::AtMost(5.0)),
    row("lsm", LSM, "get of a missing key", "D", Goal::Shown),
    row("lsm", LSM, "put, random", "D", Goal::Shown),
    row("lsm", LSM, "compaction by two threads", "one thread", Goal::AtLeast(1.6)),
    row("lsm-load", LSM_LOAD, "write amplification", "", Goal::AtMostOf(5.0, "x")),
    row("lsm-load", LSM_LOAD, "space after settling", "", Goal::AtMostOf(1.12, "x")),
    row("lsm-load", LSM_LOAD, "put without a pause", "", Goal::Shown),
    row("lsm-load", LSM_LOAD, "the same until settled", "", Goal::Shown),
    row("lsm-load", LSM_LOAD, "puts slowed down", "", Goal::Shown),
    row("lsm-load", LSM_LOAD, "longest put without a pause", "", Goal::Shown),
    row("lsm-load", LSM_LOAD, "put at 80 %, p99", "", Goal::Shown),
    row("lsm-load", LSM_LOAD, "put at 80 %, p99, since due", "", Goal::Shown),
    row("lsm-load", LSM_LOAD, "put at 80 %, p99.9", "", Goal::AtMostNanos(500_000.0)),
    row("lsm-load", LSM_LOAD, "put at 80 %, p99.9, since due", "", Goal::Shown),
    row("lsm-load", LSM_LOAD, "longest put at 80 %", "", Goal::AtMostNanos(10_000_000.0)),
    row("lsm-load", LSM_LOAD, "longest put at 80 %, since due", "", Goal::Shown),
    row("lsm-load", LSM_LOAD, "puts at 80 % slowed down", "", Goal::Shown),
    // Waiting for a memtable or for compaction: all waits together.
    row("lsm-load", LSM_LOAD, "puts without a pause stopped", "", Goal::Shown),
    row("lsm-load", LSM_LOAD, "puts at 80 % stopped", "", Goal::AtMostNanos(10_000_000.0)),
    // Of a thread that looks at the clock, beside as many busy threads as the tree has.
    row("lsm-load", LSM_LOAD, "longest without a core", "", Goal::Shown),
    row("gc", GC_RESOLVE, "resolve a relocated pointer", "", Goal::AtMostNanos(100.0)),
    // Nanoseconds per KiB.
    row("gc", GC_MOVE, "moving what is in use", "copying", Goal::AtLeast(0.8)),
    row("gc", GC_OVERWRITE, "commits beside it, all garbage", "without", Goal::AtLeast(0.95)),
    row("gc", GC_OVERWRITE, "commits beside it, part garbage", "without", Goal::AtLeast(0.8)),
    row("gc", GC_OVERWRITE, "space, overwritten", "", Goal::AtMostOf(1.5, "of live")),
    row("gc", GC_OVERWRITE, "log written per byte", "", Goal::AtMostOf(1.9, "bytes")),
    row("gc", GC_OVERWRITE, "space, at rest", "", Goal::AtMostOf(1.25, "of live")),
    row("gc", GC_OVERWRITE, "space, all collected", "", Goal::AtMostOf(1.03, "of live")),
    // By `peers`, since fjall needs a newer compiler than kvdb.
    row("overwrite", OVERWRITE, "overwrite", "fjall", Goal::AtLeast(1.0)),
    row("overwrite", OVERWRITE, "space while it is overwritten", "fjall", Goal::AtMost(1.0)),
    row("overwrite", OVERWRITE, "space after five seconds", "fjall", Goal::Shown),
    // By `scripts/scan-capped.sh`, in nanoseconds per KiB.
    row(
        "scan-capped",
        (GC_CAPPED / 4096, 16, 4096),
        "4 KiB, loaded at random",
        "read",
        Goal::Shown,
    ),
    row(
        "scan-capped",
        (GC_CAPPED / 4096, 16, 4096),
        "4 KiB, collected",
        "read",
        Goal::AtLeast(0.8),
    ),
    row(
        "scan-capped",
        (GC_CAPPED >> 16, 16, 65536),
        "64 KiB, loaded at random",
        "read",
        Goal::Shown,
    ),
    row(
        "scan-capped",
        (GC_CAPPED >> 16, 16, 65536),
        "64 KiB, collected",
        "read",
        Goal::AtLeast(0.8),
    ),
    // 450,000 a second: twice the best log-structured peer of the same run.
    row("kvdb", KVDB, "put", "", Goal::AtMostNanos(2222.0)),
    row("kvdb", KVDB, "put, processor time", "", Goal::AtMostNanos(3000.0)),
    row("kvdb", KVDB, "put, two threads", "one thread", Goal::AtLeast(1.5)),
    row("kvdb", KVDB, "put by 100", "", Goal::Shown),
    row("kvdb", KVDB, "put by 100, processor time", "", Goal::AtMostNanos(2000.0)),
    row("kvdb", KVDB, "get", "redb", Goal::AtLeast(1.0)),
    row("kvdb", KVDB, "get beside a miss", "D", Goal::AtMost(4.0)),
    row("kvdb", KVDB, "scan", "redb", Goal::Shown),
    row("kvdb", KVDB, "begin and end", "", Goal::Shown),
];
