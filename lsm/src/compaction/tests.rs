//! Picking, with levels built by hand.
//!
//! | rule | test |
//! |---|---|
//! | the last level gives the targets of those above | `targets_follow_from_the_last_level`, `an_empty_tree_has_its_base_at_the_bottom` |
//! | the base never lies below a level with tables | `the_base_level_never_lies_below_a_level_with_tables` |
//! | the score of a level is divided by that of the next | `a_level_waits_while_the_next_one_is_fuller` |
//! | least overlap goes first | `an_overfull_level_is_compacted_where_it_overlaps_least` |
//! | tombstones, superseded entries, log garbage weigh in | `entries_that_will_go_make_a_table_worth_more` |
//! | what overlaps nothing is moved, not over too many grandparents | `a_table_over_too_many_grandparents_is_not_moved`, `level_0_goes_as_a_whole_and_is_moved_only_if_nothing_overlaps` |
//! | inputs are widened while that is free | `more_inputs_are_taken_if_they_cost_nothing` |
//! | level 0 keeps its order of age | `a_table_of_level_0_never_overtakes_an_older_one_that_stays` |
//! | level 0 → 0 while the base is busy | `level_0_is_merged_in_itself_while_the_base_is_busy` |
//! | ranges are reserved on both levels | `overlapping_jobs_do_not_run_at_once` |
//! | an idle tree looks for what can go, and not twice | `tombstones_superseded_and_expired_entries_are_looked_for_without_writes`, `a_table_is_not_rewritten_again_before_anything_has_changed`, `a_table_with_tombstones_goes_down_to_what_they_hide` |
//! | pointers meet those they supersede | `pointers_above_the_last_level_are_brought_down_to_those_they_may_supersede` |
//! | outputs end at a size, at a boundary below, over few grandparents, at a range delete | `outputs_end_where_the_next_level_and_range_deletes_say` |
//!
//! The rules of dropping are in `dropping`, each with its test.

use std::path::Path;
use std::sync::Arc;

use kvdb_manifest::store::{PointerSum, StoreChange, TableRecord};
use kvdb_vfs::MemFs;

use super::job::{Job, Range, Reason, Running};
use super::pick::Picker;
use super::scores::Scores;
use crate::companion::Floor;
use crate::options::Options;
use crate::table::{Built, TableContext, TableFile};
use crate::version::Version;

const MIB: u64 = 1 << 20;

fn options() -> Options {
    Options {
        memtable_size: 4 << 20,
        table_size: MIB,
        base_level_size: 10 * MIB,
        level_size_multiplier: 10,
        max_levels: 5,
        l0_compaction_trigger: 4,
        l0_slowdown_trigger: 6,
        l0_stop_trigger: 12,
        ..Options::default()
    }
}

fn context() -> Arc<TableContext> {
    let fs = Arc::new(MemFs::new());
    Arc::new(TableContext::new(fs, Path::new("/db"), 1, &Options::default()))
}

/// A table of one MiB with a thousand entries.
fn table(id: u64, level: u32, keys: [&str; 2], versions: [u64; 2]) -> TableRecord {
    TableRecord {
        id,
        level,
        size: MIB,
        smallest_key: keys[0].into(),
        largest_key: keys[1].into(),
        smallest_version: versions[0],
        largest_version: versions[1],
        entries: 1000,
        ..TableRecord::default()
    }
}

fn version_with(tables: Vec<TableRecord>, built: Built) -> Arc<Version> {
    let context = context();
    let empty = Version::from_state(&Default::default(), 5, Built::default(), &context);
    let fresh: Vec<_> = tables
        .iter()
        .map(|r| Arc::new(TableFile::new(r.clone(), built, context.clone())))
        .collect();
    let change = StoreChange { tables_added: tables, ..StoreChange::default() };
    let version = empty.apply(&change, &fresh, &context);
    version.check().unwrap();
    Arc::new(version)
}

fn version(tables: Vec<TableRecord>) -> Arc<Version> {
    version_with(tables, Built::default())
}

fn with_picker<T>(v: &Arc<Version>, running: &Running, f: impl FnOnce(Picker<'_>) -> T) -> T {
    f(Picker { version: v, running, options: &options() })
}

fn ids(tables: &[Arc<TableFile>]) -> Vec<u64> {
    tables.iter().map(|t| t.id()).collect()
}

/// `n` adjoining tables of a level, from key `start` on.
fn row(level: u32, first_id: u64, start: u32, n: u32, size: u64) -> Vec<TableRecord> {
    (0..n)
        .map(|i| {
            let (a, b) = (format!("{:06}", start + 10 * i), format!("{:06}", start + 10 * i + 9));
            let id = first_id + u64::from(i);
            TableRecord { size, ..table(id, level, [&a, &b], [1, 10]) }
        })
        .collect()
}

fn scores(v: &Version) -> Scores {
    Scores::new(v, &options(), |_| (0, 0))
}

#[test]
fn an_empty_tree_has_its_base_at_the_bottom() {
    let s = scores(&version(vec![]));
    assert_eq!(s.base, 4);
    assert!(s.candidates().is_empty());
}

#[test]
fn targets_follow_from_the_last_level() {
    let s = scores(&version(row(4, 1, 0, 50, 10 * MIB)));
    assert_eq!(s.base, 2, "500 MiB need 50 and 5 above them");
    assert_eq!(s.targets[2..], [10 * MIB, 50 * MIB, 500 * MIB]);
    assert_eq!(s.debt, 0);
}

#[test]
fn the_base_level_never_lies_below_a_level_with_tables() {
    // Targets alone would make level 4 the base; level 2 still has a table.
    let s =
        scores(&version(vec![table(1, 2, ["a", "b"], [1, 2]), table(2, 4, ["a", "z"], [1, 1])]));
    assert_eq!(s.base, 2);
    let v = version(vec![
        table(1, 2, ["a", "b"], [1, 2]),
        table(3, 0, ["a", "b"], [3, 4]),
        table(4, 0, ["a", "b"], [5, 6]),
        table(5, 0, ["a", "b"], [7, 8]),
        table(6, 0, ["a", "b"], [9, 10]),
    ]);
    let job = with_picker(&v, &Running::default(), |p| p.by_score(true)).unwrap();
    assert_eq!((job.from, job.to), (0, 2));
    assert_eq!((ids(&job.upper), ids(&job.lower)), (vec![6, 5, 4, 3], vec![1]));
}

#[test]
fn an_overfull_level_is_compacted_where_it_overlaps_least() {
    let mut tables = row(3, 100, 0, 20, 4 * MIB); // 80 MiB, target 10
    tables.extend(row(4, 200, 0, 10, 10 * MIB));
    // Under table 105 lies a small one, under 100 to 104 and 106 to 109 large ones.
    tables[25].size = MIB;
    // Under 110 to 119 lies nothing; two of them are not whole gifts: one is busy.
    let v = version(tables);
    let mut running = Running::default();
    let (busy, _) = v.level(3).tables().split_at(10);
    assert_eq!(busy.len(), 10);
    let job = with_picker(&v, &running, |p| p.by_score(false)).unwrap();
    assert!(job.is_move && job.upper[0].id() >= 110, "nothing below: moved as it is");
    for t in v.level(3).tables().iter().filter(|t| t.id() >= 110) {
        let job = Job { upper: vec![t.clone()], ..job.clone() };
        running.add(&job);
    }
    let job = with_picker(&v, &running, |p| p.by_score(false)).unwrap();
    assert_eq!((ids(&job.upper), ids(&job.lower)), (vec![105], vec![205]));
    assert!(!job.is_move);
}

#[test]
fn entries_that_will_go_make_a_table_worth_more() {
    let mut tables = row(3, 100, 0, 5, 4 * MIB);
    tables.extend(row(4, 200, 0, 5, 10 * MIB));
    let plain = with_picker(&version(tables.clone()), &Running::default(), |p| p.by_score(false));
    assert_eq!(plain.unwrap().upper[0].id(), 100, "all alike: the first");
    for (field, pick) in [(0, 102), (1, 103), (2, 104)] {
        let mut tables = tables.clone();
        match field {
            0 => tables[2].tombstones = 500,
            1 => tables[3].stale = 500,
            _ => {
                tables[4].pointers = vec![PointerSum { segment: 1, count: 1000, bytes: 100 * MIB }];
            }
        }
        let job = with_picker(&version(tables), &Running::default(), |p| p.by_score(false));
        assert_eq!(job.unwrap().upper[0].id(), pick);
    }
}

#[test]
fn a_table_over_too_many_grandparents_is_not_moved() {
    let mut tables = row(2, 1, 0, 1, 20 * MIB);
    tables[0].largest_key = b"000999".to_vec();
    tables.extend(row(4, 200, 0, 30, MIB));
    let job = with_picker(&version(tables.clone()), &Running::default(), |p| p.by_score(false));
    let job = job.unwrap();
    assert!(job.lower.is_empty() && !job.is_move, "30 tables below the next level");
    tables.truncate(1 + 5);
    let job = with_picker(&version(tables), &Running::default(), |p| p.by_score(false));
    assert!(job.unwrap().is_move);
}

#[test]
fn more_inputs_are_taken_if_they_cost_nothing() {
    // Two tables above one: taking both rewrites the lower one once.
    let mut tables = row(3, 100, 0, 2, 6 * MIB);
    tables.push(table(200, 4, ["000000", "000099"], [1, 1]));
    let job = with_picker(&version(tables), &Running::default(), |p| p.by_score(false)).unwrap();
    assert_eq!((ids(&job.upper), ids(&job.lower)), (vec![100, 101], vec![200]));
}

fn level_0(ranges: &[[&str; 2]]) -> Vec<TableRecord> {
    let table = |(i, keys): (usize, &[&str; 2])| {
        let version = 100 + 10 * i as u64;
        table(10 + i as u64, 0, *keys, [version, version + 9])
    };
    ranges.iter().enumerate().map(table).collect()
}

#[test]
fn level_0_goes_as_a_whole_and_is_moved_only_if_nothing_overlaps() {
    let v = version(level_0(&[["a", "c"], ["b", "d"], ["e", "f"], ["g", "h"]]));
    let job = with_picker(&v, &Running::default(), |p| p.by_score(true)).unwrap();
    assert_eq!((ids(&job.upper), job.to, job.is_move), (vec![13, 12, 11, 10], 4, false));
    let v = version(level_0(&[["a", "b"], ["c", "d"], ["e", "f"], ["g", "h"]]));
    let job = with_picker(&v, &Running::default(), |p| p.by_score(true)).unwrap();
    assert!(job.is_move);
}

#[test]
fn a_table_of_level_0_never_overtakes_an_older_one_that_stays() {
    // Tables 10 and 11 are on their way. 12 overlaps them and stays, so 13, which overlaps 12 only,
    // has to stay too; 14 to 17 are free.
    let v = version(level_0(&[
        ["m", "n"],
        ["m", "n"],
        ["k", "n"],
        ["a", "l"],
        ["x", "y"],
        ["x", "y"],
        ["x", "y"],
        ["x", "z"],
    ]));
    let mut running = Running::default();
    let first: Vec<_> = v.level(0).tables().iter().filter(|t| t.id() < 12).cloned().collect();
    let job = Job {
        reason: Reason::Score,
        from: 0,
        to: 4,
        upper: first,
        lower: vec![],
        older_top: vec![],
        version: v.clone(),
        is_move: false,
    };
    running.add(&job);
    let job = with_picker(&v, &running, |p| p.by_score(true)).unwrap();
    assert_eq!(ids(&job.upper), [17, 16, 15, 14]);
    assert!(!running.conflicts(&job), "two disjoint jobs run at once");
}

#[test]
fn level_0_is_merged_in_itself_while_the_base_is_busy() {
    let mut ranges = vec![["a", "z"]; 2];
    ranges.extend([["a", "z"]; 6]);
    let v = version(level_0(&ranges));
    let mut running = Running::default();
    let first: Vec<_> = v.level(0).tables().iter().filter(|t| t.id() < 12).cloned().collect();
    let ticket = running.add(&Job {
        reason: Reason::Score,
        from: 0,
        to: 4,
        upper: first,
        lower: vec![],
        older_top: vec![],
        version: v.clone(),
        is_move: false,
    });
    let job = with_picker(&v, &running, |p| p.by_score(true)).unwrap();
    assert_eq!((job.from, job.to, job.reason), (0, 0, Reason::Level0));
    assert_eq!(ids(&job.upper), [17, 16, 15, 14, 13, 12], "a run without gaps in age");
    assert_eq!(ids(&job.older_top), [11, 10], "what is older still counts");
    running.add(&job);
    running.remove(ticket);
    assert!(
        with_picker(&v, &running, |p| p.by_score(true)).is_none(),
        "and nobody takes part of the run down meanwhile"
    );
}

#[test]
fn overlapping_jobs_do_not_run_at_once() {
    let mut tables = row(3, 100, 0, 4, 6 * MIB);
    tables.extend(row(4, 200, 5, 4, 10 * MIB));
    let v = version(tables);
    let mut running = Running::default();
    let mut seen = Vec::new();
    while let Some(job) = with_picker(&v, &running, |p| p.by_score(false)) {
        assert!(!running.conflicts(&job));
        seen.push(job.range());
        running.add(&job);
    }
    assert!(!seen.is_empty());
    let disjoint = |a: &Range, b: &Range| a.largest < b.smallest || b.largest < a.smallest;
    for (i, a) in seen.iter().enumerate() {
        assert!(seen[..i].iter().all(|b| disjoint(a, b)), "{seen:?}");
    }
}

fn garbage(v: &Arc<Version>, discard: u64, clock: u64) -> Option<Job> {
    with_picker(v, &Running::default(), |p| p.garbage(Floor { discard, clock }))
}

#[test]
fn tombstones_superseded_and_expired_entries_are_looked_for_without_writes() {
    let with = |f: &dyn Fn(&mut TableRecord)| {
        let mut tables = vec![table(1, 4, ["a", "b"], [1, 10]), table(2, 4, ["c", "d"], [1, 10])];
        f(&mut tables[1]);
        version(tables)
    };
    assert!(garbage(&with(&|_| {}), 100, 100).is_none());
    let v = with(&|t| t.tombstones = 200);
    let job = garbage(&v, 10, 0).unwrap();
    assert_eq!((job.from, job.to, ids(&job.upper)), (4, 4, vec![2]), "in place at the bottom");
    assert!(garbage(&v, 0, 0).is_none(), "readers may still see what they hide");
    assert!(garbage(&with(&|t| t.tombstones = 20), 10, 0).is_none(), "not for a few");
    assert!(garbage(&with(&|t| t.stale = 200), 10, 0).is_some());
    let v = with(&|t| (t.expiring, t.earliest_expiry) = (200, 50));
    assert!(garbage(&v, 10, 49).is_none());
    assert!(garbage(&v, 10, 50).is_some());
}

#[test]
fn a_table_is_not_rewritten_again_before_anything_has_changed() {
    let mut t = table(2, 4, ["c", "d"], [1, 10]);
    (t.tombstones, t.stale, t.expiring, t.earliest_expiry) = (200, 200, 200, 50);
    let built = Built { floor: 10, clock: 60, patience: 5 };
    let v = version_with(vec![t.clone()], built);
    assert!(garbage(&v, 20, 60).is_none());
    assert!(garbage(&v, 20, 65).is_some(), "its patience is over");
    let built = Built { floor: 4, clock: 60, patience: 5 };
    let v = version_with(vec![t], built);
    assert!(garbage(&v, 5, 60).is_none(), "the floor has passed one more version");
    assert!(garbage(&v, 8, 60).is_some());
}

#[test]
fn a_table_with_tombstones_goes_down_to_what_they_hide() {
    let mut upper = table(1, 2, ["a", "b"], [20, 30]);
    upper.tombstones = 1000;
    let built = Built { floor: 30, ..Built::default() };
    let v = version_with(vec![upper, table(2, 4, ["a", "z"], [1, 10])], built);
    let job = garbage(&v, 30, 0).unwrap();
    assert_eq!((job.from, job.to, job.is_move), (2, 3, false));
}

#[test]
fn pointers_above_the_last_level_are_brought_down_to_those_they_may_supersede() {
    let with = |upper: u64, lower: u64| {
        let mut tables = vec![table(1, 0, ["a", "b"], [20, 30]), table(2, 4, ["a", "b"], [1, 10])];
        tables[0].pointers = vec![PointerSum { segment: 2, count: 1, bytes: upper }];
        tables[1].pointers = vec![PointerSum { segment: 1, count: 1, bytes: lower }];
        version(tables)
    };
    let pick = |v| with_picker(&v, &Running::default(), |p| p.log_garbage());
    let job = pick(with(30 * MIB, 100 * MIB)).unwrap();
    assert_eq!((job.from, job.to, job.reason), (0, 4, Reason::LogGarbage));
    assert!(pick(with(10 * MIB, 100 * MIB)).is_none(), "little to win");
    assert!(pick(with(MIB, 2 * MIB)).is_none(), "the tables are as large as the log");
}

#[test]
fn a_level_waits_while_the_next_one_is_fuller() {
    // Level 2 is five times its target, level 3 four times: what level 2 would hand down would have to
    // be moved on at once.
    let mut tables = row(2, 1, 0, 10, 5 * MIB);
    tables.extend(row(3, 100, 0, 20, 20 * MIB));
    tables.extend(row(4, 200, 0, 100, 10 * MIB));
    let s = scores(&version(tables.clone()));
    assert_eq!(s.base, 2);
    assert_eq!(s.scores[2..4], [5.0, 4.0]);
    assert_eq!(s.candidates(), [3, 2]);
    // With level 3 within its target it is level 2's turn.
    tables.retain(|t| t.level != 3);
    tables.extend(row(3, 100, 0, 20, 4 * MIB));
    assert_eq!(scores(&version(tables)).candidates(), [2]);
}

#[test]
fn outputs_end_where_the_next_level_and_range_deletes_say() {
    use super::merge::Cuts;
    use crate::range_delete::RangeDeletes;
    use kvdb_manifest::store::RangeDelete;

    let next = version(row(4, 1, 0, 10, 4 * MIB)).levels()[4].clone();
    let cuts = |limit| Cuts::new(MIB, Some(next.clone()), limit, Arc::default());
    let key = |n: u32| format!("{n:06}").into_bytes();
    let mut c = cuts(u64::MAX);
    c.begin(&key(0));
    assert!(!c.before(&key(0), &key(5), MIB / 2), "half full, within a table of the next level");
    assert!(c.before(&key(5), &key(10), MIB / 2), "half full, at a boundary");
    assert!(!c.before(&key(10), &key(20), MIB / 2 - 1), "too small to end at a boundary");
    assert!(c.before(&key(20), &key(21), MIB), "full");
    let mut c = cuts(10 * MIB);
    c.begin(&key(0));
    assert!(!c.before(&key(19), &key(25), 1), "over two tables of the next level");
    assert!(c.before(&key(25), &key(35), 1), "over three: more than it may drag along");
    let range = RangeDelete { start: key(3), end: Some(key(7)), version: 1 };
    let mut c = Cuts::new(MIB, None, u64::MAX, Arc::new(RangeDeletes::new(vec![range])));
    c.begin(&key(0));
    assert!(c.before(&key(2), &key(3), 1) && c.before(&key(6), &key(7), 1));
    assert!(!c.before(&key(3), &key(6), 1));
}
