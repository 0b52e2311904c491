//! kvdb's own change sets, [`StoreChange`], and what they add up to, [`StoreState`].
//!
//! What must hold of the state after every change, and is therefore checked before a change is
//! written and again when it is replayed:
//!
//! - A table, segment or file that is added was not there; one that is removed, sealed, relocated
//!   or freed was. Nothing is named twice in one change.
//! - A table refers only to segments that exist. A segment is freed only when no table refers to
//!   it and replay does not start in it.
//! - A relocated segment is sealed, and the files it was moved to exist.
//! - Numbers that only grow do: the largest version, the watermark, the clock, the highest dropped
//!   tombstone, the next ids, the replay head.
//! - Every feature is known.

mod check;
mod messages;
mod state;

pub use messages::{
    LogFile, LogPosition, PointerSum, RangeDelete, SegmentNamed, SegmentRelocated, SegmentSealed,
    StoreChange, TableRecord,
};
pub use state::{KNOWN_FEATURES, SHARED_TABLES, SegmentState, StoreState};
