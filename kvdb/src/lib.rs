#![doc = include_str!("../README.md")]

mod batch;
mod bounds;
mod bulk;
mod clock;
mod closing;
mod commit;
mod committer;
mod companion;
mod core;
mod cursor;
mod db;
mod drop_range;
mod ends;
mod error;
mod gate;
mod gc;
mod housekeeper;
mod item;
mod iter;
mod limits;
mod merge;
mod open;
mod options;
mod orphans;
mod pending;
mod pipeline;
mod random;
mod read;
mod reader;
mod reclaim;
mod replay;
mod sequence;
mod shortage;
mod snapshot;
mod stats;
mod track;
mod transaction;
mod unwind;
mod value;
mod verify;
mod versions;
mod write_set;

pub use batch::Batch;
pub use bounds::KeyRange;
pub use bulk::BulkWriter;
pub use cursor::Cursor;
pub use db::Db;
pub use error::{Error, ErrorKind, Result};
pub use gc::{GcOptions, GcReport, GcStage, GcTotals, LogFileStats};
pub use item::Item;
pub use iter::{Iter, Keys};
pub use limits::MAX_KEY_LEN;
pub use merge::MergeOperator;
pub use options::{Background, Codec, Durability, Options};
pub use pending::PendingCommit;
pub use reader::Untracked;
pub use sequence::Sequence;
pub use snapshot::Snapshot;
pub use stats::{Health, LevelStats, SegmentStats, Stats, Step};
pub use transaction::Transaction;
pub use value::Value;
pub use verify::VerifyReport;
pub use versions::Versions;
pub use write_set::WriteOptions;

#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
struct HouseReadme;

/// File systems and clocks to open a database with: the system's, memory, injected faults.
pub mod vfs {
    pub use kvdb_vfs::*;
}

/// The crates the database is made of, for the types of their errors and statistics.
pub mod parts {
    pub use kvdb_lsm as lsm;
    pub use kvdb_manifest as manifest;
    pub use kvdb_sstable as sstable;
    pub use kvdb_txn as txn;
    pub use kvdb_vlog as vlog;
}
