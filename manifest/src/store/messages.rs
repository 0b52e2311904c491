//! What is written: [`StoreChange`] and its parts.
//!
//! One record stream is the single truth about which tables are on which level, which log bytes
//! each of them refers to, which log segments exist and which physical file holds each, and where
//! replay starts. A change set is atomic: after a crash all of it is there or nothing.
//!
//! The messages are encoded as protocol buffers (proto3 rules: an absent field is 0 or empty),
//! derived in Rust. Field numbers are never reused.

use prost::Message;

/// One atomic change of a store. Every part is optional; an empty change set changes nothing.
#[derive(Clone, PartialEq, Message)]
pub struct StoreChange {
    /// Forget all tables, segments, log files, range deletes and the replay head first. The numbers
    /// that only grow, the features and the place of the log stay. A snapshot record has it; so has `drop_all`.
    #[prost(bool, tag = "1")]
    pub reset: bool,
    /// Tables that are part of the store from now on. A table that changes its level is removed
    /// and added in the same change set; removals are applied first.
    #[prost(message, repeated, tag = "2")]
    pub tables_added: Vec<TableRecord>,
    /// Ids of tables that are no longer part of the store.
    #[prost(uint64, repeated, tag = "3")]
    pub tables_removed: Vec<u64>,
    /// Log segments that exist from now on. Durable before their first frame. They are named in the
    /// order of their ids: none below the next free one, unless the change is a reset.
    #[prost(message, repeated, tag = "4")]
    pub segments_named: Vec<SegmentNamed>,
    /// Log segments that will never be appended to again.
    #[prost(message, repeated, tag = "5")]
    pub segments_sealed: Vec<SegmentSealed>,
    /// Log segments whose live records were moved by value-log garbage collection.
    #[prost(message, repeated, tag = "6")]
    pub segments_relocated: Vec<SegmentRelocated>,
    /// Ids of log segments that no table refers to any more.
    #[prost(uint32, repeated, tag = "7")]
    pub segments_freed: Vec<u32>,
    /// Files with relocated records, and relocation tables.
    #[prost(message, repeated, tag = "8")]
    pub log_files_added: Vec<LogFile>,
    /// Ids of such files that are no longer part of the store.
    #[prost(uint64, repeated, tag = "9")]
    pub log_files_removed: Vec<u64>,
    /// Where replay of the log starts. Never moves backwards. In a segment that exists, or, where the
    /// log is kept elsewhere, before all that do.
    #[prost(message, optional, tag = "10")]
    pub replay_head: Option<LogPosition>,
    /// The largest version that may have been handed out before this change. Only grows.
    #[prost(uint64, optional, tag = "11")]
    pub largest_version: Option<u64>,
    /// The largest discard watermark any table was built with. Reading below it is an error. Only grows.
    #[prost(uint64, optional, tag = "12")]
    pub watermark: Option<u64>,
    /// The latest expiry (seconds since 1970) for which an entry was ever dropped. Only grows.
    #[prost(uint64, optional, tag = "13")]
    pub clock: Option<u64>,
    /// The largest version of a tombstone that was removed outright. Incremental backups from
    /// below it are refused. Only grows.
    #[prost(uint64, optional, tag = "14")]
    pub dropped_tombstone: Option<u64>,
    /// Range deletes that readers and compactions must consult from now on. Several may share a
    /// version. Removals are applied first.
    #[prost(message, repeated, tag = "15")]
    pub range_deletes_added: Vec<RangeDelete>,
    /// Versions of range deletes that compaction has applied everywhere.
    #[prost(uint64, repeated, tag = "16")]
    pub range_deletes_removed: Vec<u64>,
    /// No file id below this is free. Only grows.
    #[prost(uint64, optional, tag = "17")]
    pub next_file: Option<u64>,
    /// No segment id below this is free. Only grows.
    #[prost(uint32, optional, tag = "18")]
    pub next_segment: Option<u32>,
    /// Names of format features that a reader must know. An unknown one refuses the open.
    #[prost(string, repeated, tag = "19")]
    pub features_added: Vec<String>,
    /// Whether the log's files lie in a directory of their own. Unsaid by stores of before this field.
    #[prost(bool, optional, tag = "20")]
    pub log_apart: Option<bool>,
}

/// A table and everything the tree wants to know of it without opening it.
#[derive(Clone, PartialEq, Message)]
pub struct TableRecord {
    /// File id; the file is named after it.
    #[prost(uint64, tag = "1")]
    pub id: u64,
    /// Level, 0 for the youngest.
    #[prost(uint32, tag = "2")]
    pub level: u32,
    /// Exact length of the file in bytes.
    #[prost(uint64, tag = "3")]
    pub size: u64,
    /// The random part of the file's salt.
    #[prost(fixed64, tag = "4")]
    pub nonce: u64,
    /// First user key.
    #[prost(bytes = "vec", tag = "5")]
    pub smallest_key: Vec<u8>,
    /// Last user key.
    #[prost(bytes = "vec", tag = "6")]
    pub largest_key: Vec<u8>,
    /// Smallest version of any entry.
    #[prost(uint64, tag = "7")]
    pub smallest_version: u64,
    /// Largest version of any entry. Level-0 tables are ordered by it, newest first.
    #[prost(uint64, tag = "8")]
    pub largest_version: u64,
    /// Entries of all kinds.
    #[prost(uint64, tag = "9")]
    pub entries: u64,
    /// Tombstones among them.
    #[prost(uint64, tag = "10")]
    pub tombstones: u64,
    /// Entries that are not the newest version of their key within this table.
    #[prost(uint64, tag = "11")]
    pub stale: u64,
    /// Entries with an expiry time.
    #[prost(uint64, tag = "12")]
    pub expiring: u64,
    /// Earliest expiry (seconds since 1970) among them; 0 if there is none.
    #[prost(uint64, tag = "13")]
    pub earliest_expiry: u64,
    /// Sum of key and value bytes before encoding.
    #[prost(uint64, tag = "14")]
    pub raw_bytes: u64,
    /// What the table's pointers refer to, one entry a segment, ascending. The live bytes of a
    /// segment are the sum over the tables of the current version, never a counter.
    #[prost(message, repeated, tag = "15")]
    pub pointers: Vec<PointerSum>,
}

/// How many log bytes of one segment a table refers to.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct PointerSum {
    /// Segment id.
    #[prost(uint32, tag = "1")]
    pub segment: u32,
    /// Number of pointers.
    #[prost(uint64, tag = "2")]
    pub count: u64,
    /// Sum of the lengths of their records in bytes.
    #[prost(uint64, tag = "3")]
    pub bytes: u64,
}

/// A log segment that exists: the name that pointers use, and the file it lives in.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct SegmentNamed {
    /// Segment id, never reused.
    #[prost(uint32, tag = "1")]
    pub segment: u32,
    /// File id; the file is named after it.
    #[prost(uint64, tag = "2")]
    pub file: u64,
    /// The random part of the file's salt.
    #[prost(fixed64, tag = "3")]
    pub nonce: u64,
    /// Length the file was given in bytes.
    #[prost(uint32, tag = "4")]
    pub capacity: u32,
    /// How its bytes become durable; one method for a segment's life.
    #[prost(uint32, tag = "5")]
    pub method: u32,
}

/// The final shape of a log segment.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct SegmentSealed {
    /// Segment id.
    #[prost(uint32, tag = "1")]
    pub segment: u32,
    /// Where its last frame ends (including padding), in bytes from the start of the file: at most its
    /// capacity.
    #[prost(uint32, tag = "2")]
    pub length: u32,
    /// Number of frames.
    #[prost(uint64, tag = "3")]
    pub frames: u64,
    /// Running checksum over its frames' checksums.
    #[prost(uint32, tag = "4")]
    pub checksum: u32,
}

/// Where the live records of a collected segment are now.
#[derive(Clone, PartialEq, Message)]
pub struct SegmentRelocated {
    /// Segment id; pointers go on using it.
    #[prost(uint32, tag = "1")]
    pub segment: u32,
    /// File id of its relocation table: old offset to (file ordinal, new offset).
    #[prost(uint64, tag = "2")]
    pub table: u64,
    /// File ids that the ordinals stand for, in order.
    #[prost(uint64, repeated, tag = "3")]
    pub files: Vec<u64>,
}

/// A file written by value-log garbage collection.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct LogFile {
    /// File id.
    #[prost(uint64, tag = "1")]
    pub file: u64,
    /// The random part of the file's salt.
    #[prost(fixed64, tag = "2")]
    pub nonce: u64,
    /// Exact length in bytes.
    #[prost(uint64, tag = "3")]
    pub length: u64,
}

/// A position in the log.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Message)]
pub struct LogPosition {
    /// Segment id.
    #[prost(uint32, tag = "1")]
    pub segment: u32,
    /// Bytes from the start of the segment.
    #[prost(uint32, tag = "2")]
    pub offset: u32,
}

/// Everything in a key range with a version below this one is gone.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct RangeDelete {
    /// First key of the range, inclusive.
    #[prost(bytes = "vec", tag = "1")]
    pub start: Vec<u8>,
    /// End of the range, exclusive; absent: no end.
    #[prost(bytes = "vec", optional, tag = "2")]
    pub end: Option<Vec<u8>>,
    /// Commit timestamp of the delete.
    #[prost(uint64, tag = "3")]
    pub version: u64,
}
