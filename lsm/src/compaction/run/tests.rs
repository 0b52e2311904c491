//! Jobs put together by hand, over tables that are there.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use kvdb_manifest::store::{RangeDelete, StoreChange, TableRecord};
use kvdb_sstable::{Cursor as _, key_hash};
use kvdb_vfs::MemFs;

use super::{GRANDPARENT_TABLES, MOST_PATIENCE, patience};
use crate::compaction::job::{Job, Reason};
use crate::companion::{Companion, Floor, NoCompanion};
use crate::entry::{Entry, Kind};
use crate::error::{BoxError, Error, Result};
use crate::options::{Background, Options};
use crate::table::{Built, TableContext, TableFile};
use crate::testing::{flush, reopened, tree_with};
use crate::tree::Tree;

/// Nothing is compacted by itself, everything is split and cut as soon as it may be.
fn options() -> Options {
    Options {
        memtable_size: 1 << 20,
        table_size: 16 << 10,
        base_level_size: 32 << 10,
        max_levels: 4,
        block_size: 1024,
        l0_compaction_trigger: 100,
        l0_slowdown_trigger: 100,
        l0_stop_trigger: 200,
        compaction_threads: 4,
        min_split_bytes: 1,
        background: Background::Manual,
        paranoid: true,
        ..Options::default()
    }
}

fn tree() -> Arc<Tree<NoCompanion>> {
    tree_with(options(), NoCompanion::default())
}

/// A job over these tables of level 0, counted from the newest; the older ones stay.
fn job<C: Companion>(tree: &Tree<C>, to: usize, tables: std::ops::Range<usize>) -> Job {
    let version = tree.superversion().version().clone();
    let top = version.level(0).tables();
    let upper = top[tables.clone()].to_vec();
    let older_top = top[tables.end..].to_vec();
    Job {
        reason: Reason::Score,
        from: 0,
        to,
        upper,
        lower: vec![],
        older_top,
        version,
        call: 0,
        is_move: false,
    }
}

fn run<C: Companion>(tree: &Tree<C>, job: Job) -> Result<bool> {
    tree.shared.run_reserved(job, tree.shared.scheduler.lock())
}

/// All entries: key, version, kind, payload.
fn entries<C: Companion>(tree: &Tree<C>) -> Vec<(String, u64, Kind, String)> {
    let mut cursor = tree.superversion().cursor();
    let mut valid = cursor.first().unwrap();
    let mut all = Vec::new();
    while valid {
        let entry = Entry::decode(cursor.value()).unwrap();
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        all.push((text(cursor.key()), cursor.version(), entry.kind, text(entry.payload)));
        valid = cursor.next().unwrap();
    }
    all
}

/// What is left of level 0 is a list in age, so the output of such a job is one table; and what is
/// older may lie on the same level.
#[test]
fn level_0_merged_in_itself_is_one_table_and_keeps_tombstones_over_what_is_older_there() {
    let tree = tree();
    let fill = |version: u64, entry: Entry<'_>| {
        for k in 0..200u64 {
            tree.write(version, &[(&k.to_be_bytes(), entry)]).unwrap();
        }
        tree.flush().unwrap();
    };
    let value = [7; 300];
    fill(1, Entry::value(b"old"));
    fill(2, Entry::value(&value));
    for k in 0..100u64 {
        tree.write(3, &[(&k.to_be_bytes(), Entry::tombstone())]).unwrap();
    }
    tree.flush().unwrap();
    tree.companion().raise_floor(Floor { discard: 3, clock: 0 });
    assert!(run(&tree, job(&tree, 0, 0..2)).unwrap());
    assert_eq!(tree.superversion().table_counts(), [2, 0, 0, 0]);
    assert!(tree.stats().levels[0].bytes > 2 * options().table_size, "beyond a table's size");
    for k in [0u64, 99, 100, 199] {
        let key = k.to_be_bytes();
        let superversion = tree.superversion();
        let found = superversion.get(&key, 3, key_hash(&key)).unwrap().unwrap();
        let expected = if k < 100 { (3, Kind::Tombstone) } else { (2, Kind::Value) };
        assert_eq!((found.version(), found.entry().kind), expected, "key {k}");
    }
    tree.verify().unwrap();
}

#[test]
fn a_merge_refuses_inputs_out_of_the_order_of_age() {
    let tree = tree();
    flush(&tree, &[("a", 1, Entry::value(b"")), ("k", 1, Entry::value(b"older"))]);
    flush(&tree, &[("k", 2, Entry::value(b"newer")), ("z", 2, Entry::value(b""))]);
    let mut wrong = job(&tree, 2, 0..2);
    wrong.upper.reverse();
    let before = entries(&tree);
    let error = run(&tree, wrong).unwrap_err();
    assert!(matches!(error, Error::Inconsistent(_)), "{error}");
    assert_eq!(entries(&tree), before);
    assert!(run(&tree, job(&tree, 2, 0..2)).unwrap());
}

/// The output of a merge within level 0 has a greater number than tables that are newer.
#[test]
fn what_was_merged_on_level_0_stays_where_its_age_puts_it() {
    let mut tree = tree();
    for version in 1..=4 {
        let value = version.to_string();
        flush(&tree, &[("k", version, Entry::value(value.as_bytes()))]);
    }
    assert!(run(&tree, job(&tree, 0, 1..3)).unwrap());
    for opened_again in [false, true] {
        if opened_again {
            tree = reopened(tree, options());
        }
        let version = tree.superversion().version().clone();
        let top = version.level(0).tables().iter();
        let versions: Vec<_> =
            top.map(|t| (t.record.smallest_version, t.record.largest_version)).collect();
        assert_eq!(versions, [(4, 4), (2, 3), (1, 1)]);
        for at in 1..=4 {
            let got = tree.get(b"k", at, 0).unwrap().unwrap();
            assert_eq!(got, at.to_string().as_bytes());
        }
        tree.verify().unwrap();
    }
    // And all of it goes down in this order.
    assert!(run(&tree, job(&tree, 2, 0..3)).unwrap());
    assert_eq!(tree.get(b"k", 9, 0).unwrap().unwrap(), b"4");
}

#[test]
fn a_table_that_has_left_the_tree_is_not_moved() {
    let tree = tree();
    flush(&tree, &[("k", 1, Entry::value(b"v"))]);
    let moved = Job { is_move: true, ..job(&tree, 2, 0..1) };
    tree.install(StoreChange { reset: true, ..StoreChange::default() }).unwrap();
    assert!(!run(&tree, moved).unwrap());
    assert_eq!(entries(&tree), []);
}

/// Folds by appending.
#[derive(Default)]
struct Appending(NoCompanion);

impl Companion for Appending {
    type View = ();
    fn pointer(&self, _: &[u8]) -> Option<(u32, u32)> {
        None
    }
    fn before_install(&self, _: &mut StoreChange, _: u64) -> std::result::Result<(), BoxError> {
        Ok(())
    }
    fn view(&self) -> Arc<()> {
        Arc::default()
    }
    fn floor(&self) -> Floor {
        self.0.floor()
    }
    fn folds(&self) -> bool {
        true
    }
    fn fold(&self, _: &[u8], older: &[u8], newer: &[u8]) -> Option<Vec<u8>> {
        Some([older, newer].concat())
    }
}

/// What a merge of all tables of level 0 but the two oldest leaves, which have values of two keys.
fn folded(versions_to_keep: usize, discard: u64) -> Vec<(String, u64, Kind, String)> {
    let options = Options { versions_to_keep, ..options() };
    let tree = tree_with(options, Appending::default());
    flush(&tree, &[("below", 1, Entry::value(b"v"))]);
    flush(&tree, &[("last", 1, Entry::value(b"v"))]);
    let operands = [(b"b", 2), (b"c", 3), (b"d", 4)];
    for key in ["a", "below", "c", "last"] {
        flush(&tree, &operands.map(|(payload, version)| (key, version, Entry::merge(payload))));
    }
    tree.companion().0.raise_floor(Floor { discard, clock: 0 });
    assert!(run(&tree, job(&tree, 0, 0..4)).unwrap());
    tree.verify().unwrap();
    entries(&tree)
}

#[test]
fn operands_are_folded_where_nobody_reads_them_apart_and_into_a_value_only_at_the_bottom() {
    let entry = |key: &str, version, kind, payload: &str| {
        (key.to_owned(), version, kind, payload.to_owned())
    };
    let (value, merge) = (Kind::Value, Kind::Merge);
    assert_eq!(
        folded(1, 4),
        [
            entry("a", 4, value, "bcd"),
            entry("below", 4, merge, "bcd"),
            entry("below", 1, value, "v"),
            entry("c", 4, value, "bcd"),
            entry("last", 4, merge, "bcd"),
            entry("last", 1, value, "v"),
        ]
    );
    let above_the_floor: Vec<_> = folded(1, 3).into_iter().filter(|e| e.0 == "a").collect();
    assert_eq!(above_the_floor, [entry("a", 4, merge, "d"), entry("a", 3, value, "bc")]);
    let kept: Vec<_> = folded(2, 4).into_iter().filter(|e| e.0 == "a").collect();
    assert_eq!(
        kept,
        [entry("a", 4, merge, "d"), entry("a", 3, merge, "c"), entry("a", 2, merge, "b")],
        "whoever keeps versions wants them as they are"
    );
    // The last key of all ends no other way than those before it.
    let tree = tree_with(options(), Appending::default());
    flush(&tree, &[("k", 2, Entry::merge(b"b")), ("k", 3, Entry::merge(b"c"))]);
    tree.companion().0.raise_floor(Floor { discard: 3, clock: 0 });
    assert!(run(&tree, job(&tree, 2, 0..1)).unwrap());
    assert_eq!(entries(&tree), [entry("k", 3, value, "bc")]);
}

#[test]
fn operands_end_at_what_hides_everything_below_and_stay_apart_from_what_may_expire() {
    let folded = |below: Entry<'_>, hidden: bool| {
        let tree = tree_with(options(), Appending::default());
        let operands = [("k", 2, Entry::merge(b"b")), ("k", 3, Entry::merge(b"c"))];
        flush(&tree, &[("k", 1, below), operands[0], operands[1]]);
        if hidden {
            let range = RangeDelete { start: b"a".to_vec(), end: None, version: 2 };
            let change = StoreChange { range_deletes_added: vec![range], ..StoreChange::default() };
            tree.install(change).unwrap();
        }
        tree.companion().0.raise_floor(Floor { discard: 3, clock: 50 });
        assert!(run(&tree, job(&tree, 2, 0..1)).unwrap());
        let superversion = tree.superversion();
        assert_eq!(
            superversion.watermark(),
            3,
            "operands that were readable apart are not any more"
        );
        let meta = superversion.get(b"k", 9, key_hash(b"k")).unwrap().unwrap().entry().user_meta;
        let left: Vec<_> =
            entries(&tree).into_iter().map(|(_, v, kind, payload)| (v, kind, payload)).collect();
        (left, meta, tree.stats().dropped_entries)
    };
    let alone =
        |kind, payload: &str, meta, dropped| (vec![(3, kind, payload.to_owned())], meta, dropped);
    let apart = |kind| (vec![(3, Kind::Merge, "bc".to_owned()), (1, kind, "v".to_owned())], 0, 1);
    let value = Entry::value(b"v");
    assert_eq!(folded(value.with_meta(7), false), alone(Kind::Value, "vbc", 7, 2));
    assert_eq!(folded(Entry::tombstone(), false), alone(Kind::Value, "bc", 0, 2));
    assert_eq!(folded(value.with_expiry(50), false), alone(Kind::Value, "bc", 0, 2));
    assert_eq!(folded(value, true), alone(Kind::Value, "bc", 0, 2));
    assert_eq!(folded(value.with_expiry(60), false), apart(Kind::Value));
    assert_eq!(folded(Entry::merge(b"v").with_expiry(60), false), apart(Kind::Merge));
}

#[test]
fn a_table_that_yields_little_is_left_alone_twice_as_long_each_time() {
    let fs = Arc::new(MemFs::new());
    let context = Arc::new(TableContext::new(fs, Path::new("/db"), 1, &options()));
    let tree = tree();
    let of = |reason, before: u64| {
        let built = Built { patience: before, ..Built::default() };
        let table = TableFile::new(TableRecord::default(), built, context.clone());
        Job { reason, upper: vec![Arc::new(table)], ..job(&tree, 2, 0..0) }
    };
    let after = |before, dropped| patience(&of(Reason::Garbage, before), dropped, 1000);
    assert_eq!([0, 1, 2, 600].map(|before| after(before, 99)), [1, 2, 4, 1200]);
    assert_eq!(after(MOST_PATIENCE - 1, 0), MOST_PATIENCE);
    assert_eq!(after(600, 100), 0, "it was worth it");
    assert_eq!(patience(&of(Reason::Score, 600), 0, 1000), 0, "it was not for that");
}

#[test]
fn an_output_ends_before_it_lies_over_more_of_the_level_below_than_it_may_drag_along() {
    let tree = tree();
    let write = |version: u64, step: usize, value: &[u8]| {
        for k in (0..4000u64).step_by(step) {
            tree.write(version, &[(&k.to_be_bytes(), Entry::value(value))]).unwrap();
        }
        tree.flush().unwrap();
    };
    write(1, 1, &[7; 200]);
    assert!(run(&tree, job(&tree, 3, 0..1)).unwrap());
    // One table would have room for all of these, and would lie over all of those.
    write(2, 20, b"");
    assert!(run(&tree, job(&tree, 2, 0..1)).unwrap());
    let version = tree.superversion().version().clone();
    let sizes =
        |tables: &[Arc<TableFile>]| -> Vec<u64> { tables.iter().map(|t| t.size()).collect() };
    let below = sizes(version.level(3).tables());
    let limit = GRANDPARENT_TABLES * options().table_size;
    assert!(below.iter().sum::<u64>() > 3 * limit, "{below:?}");
    let outputs = version.level(2).tables();
    assert!(sizes(outputs).iter().sum::<u64>() < options().table_size);
    for output in outputs {
        let under = sizes(version.level(3).overlapping(output.smallest(), output.largest()));
        // It is seen when a table is passed; and the last one is not passed yet.
        let most = limit + 2 * below.iter().max().unwrap();
        assert!(under.iter().sum::<u64>() <= most, "{under:?}");
    }
}

#[test]
fn what_a_thread_reads_is_paid_for_and_what_somebody_asked_for_or_does_by_hand_is_not() {
    const MIB: usize = 1 << 20;
    let paid = |reason, started| {
        let options = Options { compaction_rate: 1 << 30, ..options() };
        let tree = tree_with(options, NoCompanion::default());
        tree.shared.started.store(started, Ordering::Relaxed);
        let before = Instant::now();
        let job = Job { reason, ..job(&tree, 2, 0..0) };
        tree.shared.go_on(&job, MIB).unwrap();
        tree.shared.started.store(false, Ordering::Relaxed);
        tree.shared.pacer.paid().map(|until| until >= before + Duration::from_secs(1) / 1024)
    };
    assert_eq!(paid(Reason::Score, true), Some(true));
    assert_eq!(paid(Reason::Manual, true), None);
    assert_eq!(paid(Reason::Score, false), None);
}
