//! What all public types can be relied on for: threads, lifetimes, panics of the user.

use std::panic::{RefUnwindSafe, UnwindSafe, catch_unwind};

use crate::common::tiny;
use kvdb::{
    Batch, BulkWriter, Cursor, Db, Error, GcOptions, GcReport, Health, Item, Iter, Keys,
    MergeOperator, Options, PendingCommit, Sequence, Snapshot, Stats, Transaction, Untracked,
    Value, VerifyReport, Versions, WriteOptions,
};

const fn anywhere<T: Send + Sync + 'static>() {}
const fn after_a_panic<T: UnwindSafe + RefUnwindSafe>() {}

/// They go to other threads and are shared between them, and own what they need; and a panic in code of
/// the user leaves them as they were before the call (tests/panics.rs), so they may be used behind it.
macro_rules! handles {
    ($($handle:ty),* $(,)?) => {
        $(const _: () = {
            anywhere::<$handle>();
            after_a_panic::<$handle>();
        };)*
    };
}

handles!(
    Db,
    Snapshot,
    Transaction,
    Untracked<'static>,
    Batch,
    BulkWriter,
    Sequence,
    PendingCommit,
    Iter<'static>,
    Keys<'static>,
    Versions<'static>,
    Cursor<'static>,
    Item,
    Value,
    Options,
    WriteOptions,
    MergeOperator,
    GcOptions,
    GcReport,
    Health,
    Stats,
    VerifyReport,
);

const _: () = {
    const fn clone<T: Clone>() {}
    clone::<Db>();
    clone::<Snapshot>();
    clone::<Value>();
    clone::<Item>();
    clone::<Options>();
    anywhere::<Error>();
};

#[test]
fn a_panic_around_an_opening_and_between_calls_is_caught_without_assertions() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().to_owned();
    let options = tiny().merge_operator(MergeOperator::new(|_, a, b| [a, b].concat()));
    let db = catch_unwind(move || options.open(path)).unwrap().unwrap();
    let broken = {
        let db = db.clone();
        catch_unwind(move || {
            db.update(|t| {
                t.put("k", "v")?;
                assert!(t.is_empty(), "broken off");
                Ok(())
            })
        })
    };
    broken.unwrap_err();
    assert!(catch_unwind(|| db.get("k")).unwrap().unwrap().is_none());
    db.put("k", "w").unwrap();
    db.close().unwrap();
}
