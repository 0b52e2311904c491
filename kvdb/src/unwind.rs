//! What a panic leaves: everything as it was before the call that it broke off.
//!
//! Code of the user runs within calls: merge operators, closures, callbacks, and whatever the file
//! system or the clock is. Where it panics the call has changed nothing (`tests/panics.rs` goes
//! through them), locks are released and do not poison, and what breaks in the background stops
//! writing. So handles may be used behind a `catch_unwind`. The compiler cannot see that through
//! locks and trait objects.

use std::panic::{RefUnwindSafe, UnwindSafe};

use crate::{
    Batch, BulkWriter, Cursor, Db, Item, Iter, Keys, MergeOperator, PendingCommit, Sequence,
    Snapshot, Transaction, Untracked, Value, Versions,
};

macro_rules! unwind_safe {
    ($($handle:ty),* $(,)?) => {
        $(impl UnwindSafe for $handle {}
        impl RefUnwindSafe for $handle {})*
    };
}

unwind_safe!(
    Batch,
    BulkWriter,
    Cursor<'_>,
    Db,
    Item,
    Iter<'_>,
    Keys<'_>,
    MergeOperator,
    PendingCommit,
    Sequence,
    Snapshot,
    Transaction,
    Untracked<'_>,
    Value,
    Versions<'_>,
);
