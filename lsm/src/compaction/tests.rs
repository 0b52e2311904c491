//! Picking, with levels built by hand.
//!
//! | rule | test |
//! |---|---|
//! | the last level gives the targets of those above | `targets_follow_from_the_last_level`, `an_empty_tree_has_its_base_at_the_bottom` |
//! | the base never lies below a level with tables | `the_base_level_never_lies_below_a_level_with_tables` |
//! | level 0 goes first for one thread | `level_0_goes_first_for_whoever_asks_for_that` |
//! | what is being compacted counts no more | `what_is_on_its_way_does_not_count` |
//! | the score of a level is divided by that of the next | `a_level_waits_while_the_next_one_is_fuller` |
//! | least overlap goes first | `an_overfull_level_is_compacted_where_it_overlaps_least` |
//! | tombstones, superseded entries, log garbage weigh in | `entries_that_will_go_make_a_table_worth_more` |
//! | what overlaps nothing is moved, not over too many grandparents | `a_table_over_too_many_grandparents_is_not_moved`, `level_0_goes_as_a_whole_and_is_moved_only_if_nothing_overlaps` |
//! | inputs are widened while that is free | `more_inputs_are_taken_if_they_cost_nothing`, `inputs_are_not_widened_at_a_cost` |
//! | level 0 keeps its order of age | `a_table_of_level_0_never_overtakes_an_older_one_that_stays` |
//! | level 0 → 0 while the base is busy | `level_0_is_merged_in_itself_while_the_base_is_busy`, `level_0_is_not_merged_in_itself_for_little`, `level_0_is_merged_in_itself_as_far_as_memory_permits_and_by_one_job_at_a_time` |
//! | ranges are reserved on both levels | `overlapping_jobs_do_not_run_at_once`, `ranges_are_reserved_on_both_levels`, `a_manual_job_on_level_0_waits_for_all_of_it` |
//! | a job is cut into parts by bytes | `a_job_is_cut_into_parts_of_some_size_at_ascending_keys` |
//! | range deletes are applied once, where they hide something, not before everybody sees them | `a_range_delete_is_applied_where_it_hides_something` |
//! | an idle tree looks for what can go, and not twice | `tombstones_superseded_and_expired_entries_are_looked_for_without_writes`, `a_table_is_not_rewritten_again_before_anything_has_changed`, `a_table_with_tombstones_goes_down_to_what_they_hide` |
//! | pointers meet those they supersede | `pointers_above_the_last_level_are_brought_down_to_those_they_may_supersede` |
//! | older tables on any level keep what hides something | `a_key_is_at_the_bottom_if_no_older_table_may_hold_it_on_level_0_or_deeper` |
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
    // Most of the last level was dropped: the level above it is the measure until it has drained.
    let mut tables = row(3, 1, 0, 50, 10 * MIB);
    tables.push(table(100, 4, ["a", "b"], [1, 1]));
    let s = scores(&version(tables));
    assert_eq!((s.base, s.targets[3], s.targets[4]), (2, 50 * MIB, 500 * MIB));
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
    for (field, pick) in [(0, 102), (1, 103), (2, 104), (3, 101)] {
        let mut tables = tables.clone();
        match field {
            0 => tables[2].tombstones = 500,
            1 => tables[3].stale = 500,
            3 => tables[1].expiring = 500,
            _ => {
                tables[4].pointers = vec![PointerSum { segment: 1, count: 1000, bytes: 100 * MIB }];
            }
        }
        let job = with_picker(&version(tables), &Running::default(), |p| p.by_score(false));
        assert_eq!(job.unwrap().upper[0].id(), pick);
    }
    // An entry that expires some day is worth less than a tombstone, and pointers never most of all.
    tables[1].expiring = 500;
    tables[3].tombstones = 400;
    tables[4].pointers = vec![PointerSum { segment: 1, count: 1000, bytes: 400 * MIB }];
    let job = with_picker(&version(tables), &Running::default(), |p| p.by_score(false));
    assert_eq!(job.unwrap().upper[0].id(), 103);
}

#[test]
fn a_table_over_too_many_grandparents_is_not_moved() {
    let mut tables = row(2, 1, 0, 1, 20 * MIB);
    tables[0].largest_key = b"000999".to_vec();
    tables.extend(row(4, 200, 0, 30, MIB));
    let job = with_picker(&version(tables.clone()), &Running::default(), |p| p.by_score(false));
    let job = job.unwrap();
    assert!(job.lower.is_empty() && !job.is_move, "30 tables below the next level");
    let all = Range { smallest: b"0".to_vec(), largest: b"9".to_vec() };
    let asked = with_picker(&version(tables.clone()), &Running::default(), |p| p.manual(2, &all));
    assert!(!asked.unwrap().unwrap().is_move, "nor when somebody asks");
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
        call: 0,
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
        call: 0,
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
    let built = Built { floor: 10, clock: 60, patience: 5, ..Built::default() };
    let v = version_with(vec![t.clone()], built);
    assert!(garbage(&v, 20, 60).is_none());
    assert!(garbage(&v, 20, 65).is_some(), "its patience is over");
    let built = Built { floor: 4, clock: 60, patience: 5, ..Built::default() };
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
    c.begin(&key(35));
    assert!(!c.before(&key(35), &key(45), 1), "the next output drags along what lies under itself");
    let mut c = cuts(u64::MAX);
    c.begin(&key(35));
    assert!(
        !c.before(&key(35), &key(36), MIB / 2),
        "what lies before it is no boundary of its own"
    );
    let range = RangeDelete { start: key(3), end: Some(key(7)), version: 1 };
    let mut c = Cuts::new(MIB, None, u64::MAX, Arc::new(RangeDeletes::new(vec![range])));
    c.begin(&key(0));
    assert!(c.before(&key(2), &key(3), 1) && c.before(&key(6), &key(7), 1));
    assert!(!c.before(&key(3), &key(6), 1));
}

fn job(from: usize, to: usize, v: &Arc<Version>, upper: &[u64], lower: &[u64]) -> Job {
    let pick = |level: usize, ids: &[u64]| -> Vec<_> {
        let tables = v.level(level).tables().iter();
        tables.filter(|t| ids.contains(&t.id())).cloned().collect()
    };
    Job {
        reason: Reason::Score,
        from,
        to,
        upper: pick(from, upper),
        lower: pick(to, lower),
        older_top: vec![],
        version: v.clone(),
        call: 0,
        is_move: false,
    }
}

#[test]
fn level_0_goes_first_for_whoever_asks_for_that() {
    let mut tables = row(3, 100, 0, 20, 4 * MIB); // 80 MiB, target 10
    tables.extend(row(4, 200, 0, 10, 10 * MIB));
    tables.extend(level_0(&[["x", "y"]; 4]));
    let v = version(tables);
    assert_eq!(scores(&v).candidates(), [3, 0]);
    let from =
        |top_first| with_picker(&v, &Running::default(), |p| p.by_score(top_first)).unwrap().from;
    assert_eq!((from(true), from(false)), (0, 3));
}

#[test]
fn what_is_on_its_way_does_not_count() {
    let mut tables = row(3, 100, 0, 4, 6 * MIB); // 24 MiB, target 10
    tables.extend(row(4, 200, 0, 10, 10 * MIB));
    tables.extend(level_0(&[["x", "y"]; 4]));
    let v = version(tables);
    let none = scores(&v);
    assert_eq!((none.scores[0], none.scores[3]), (1.0, 2.4));
    assert_eq!(none.debt, 14 * MIB);
    let mut running = Running::default();
    running.add(&job(3, 4, &v, &[100, 101, 102], &[]));
    running.add(&job(0, 0, &v, &[10, 11], &[]));
    assert_eq!((running.leaving(0), running.leaving(3)), ((0, 0), (3, 18 * MIB)));
    running.add(&job(0, 3, &v, &[12, 13], &[]));
    let rest = with_picker(&v, &running, |p| p.scores());
    assert_eq!((rest.scores[0], rest.scores[3]), (0.5, 0.6));
    assert_eq!((rest.debt, rest.candidates()), (0, vec![]));
}

#[test]
fn level_0_is_not_merged_in_itself_for_little() {
    let pick = |sizes: &[u64]| {
        let mut tables = level_0(&vec![["a", "z"]; sizes.len()]);
        for (t, size) in tables.iter_mut().zip(sizes) {
            t.size = *size;
        }
        let v = version(tables);
        let mut running = Running::default();
        running.add(&job(0, 4, &v, &[10], &[]));
        with_picker(&v, &running, |p| p.by_score(true)).map(|job| ids(&job.upper))
    };
    assert_eq!(pick(&[MIB; 5]), None, "fewer than writers are slowed down for");
    assert_eq!(pick(&[MIB; 6]), Some(vec![15, 14, 13, 12, 11]));
    assert_eq!(pick(&[9 * MIB; 6]), None, "no four of them stay below eight memtables");
    let most: Vec<u64> = (12..21).rev().collect();
    assert_eq!(pick(&[7 * MIB / 2; 11]), Some(most), "tables as a full memtable makes them");
    // Those at the end are the newest.
    let merged_before = [MIB, 10 * MIB, 3 * MIB, 3 * MIB, 3 * MIB, 3 * MIB, 3 * MIB];
    assert_eq!(pick(&merged_before), Some(vec![16, 15, 14, 13, 12]), "not once more for five");
    let small_before = [MIB, 7 * MIB / 2, 3 * MIB, 3 * MIB, 3 * MIB, 3 * MIB, 3 * MIB];
    assert_eq!(pick(&small_before), Some(vec![16, 15, 14, 13, 12, 11]), "that costs little");
}

#[test]
fn level_0_is_merged_in_itself_as_far_as_memory_permits_and_by_one_job_at_a_time() {
    let pick = |change: fn(&mut TableRecord), running: &[&[u64]]| {
        let mut tables = level_0(&vec![["a", "z"]; 20]);
        tables.iter_mut().for_each(change);
        let v = version(tables);
        let mut jobs = Running::default();
        jobs.add(&job(0, 4, &v, &[10], &[]));
        for inputs in running {
            jobs.add(&job(0, 0, &v, inputs, &[]));
        }
        with_picker(&v, &jobs, |p| p.by_score(true)).map(|job| job.upper.len())
    };
    assert_eq!(pick(|_| {}, &[]), Some(19));
    // Half a memtable, 2 MiB; an entry takes ten bytes of hash and filter.
    assert_eq!(pick(|t| t.entries = 20_000, &[]), Some(10));
    assert_eq!(pick(|t| t.entries = 60_000, &[]), None, "three are too few");
    // 257 blocks of a table, whose separators are held three times.
    assert_eq!(pick(|t| t.largest_key = vec![b'z'; 600], &[]), Some(4));
    assert_eq!(pick(|_| {}, &[&[11, 12, 13, 14]]), None, "there is one already");
}

#[test]
fn level_0_is_merged_in_itself_as_far_as_the_tables_indexes_fit_whatever_their_bounds_look_like() {
    let pick = |sections: u64| {
        let tables = level_0(&vec![["a", "z"]; 20]);
        let v = version_with(tables, Built { sections, ..Built::default() });
        let mut jobs = Running::default();
        jobs.add(&job(0, 4, &v, &[10], &[]));
        with_picker(&v, &jobs, |p| p.by_score(true)).map(|job| job.upper.len())
    };
    // Three times, within 2 MiB.
    assert_eq!(pick(100 << 10), Some(6));
    assert_eq!(pick(200 << 10), None, "three are too few");
}

#[test]
fn of_very_many_tables_of_level_0_some_are_merged_in_itself() {
    const N: u64 = 20_000;
    let tables = (0..N).map(|i| table(10 + i, 0, ["a", "z"], [100 + 10 * i, 109 + 10 * i]));
    let tables = tables.map(|t| TableRecord { size: 1024, entries: 10, ..t });
    let v = version(tables.collect());
    let half: Vec<u64> = (10..10 + N / 2).collect();
    let mut jobs = Running::default();
    jobs.add(&job(0, 4, &v, &half, &[]));
    let job = with_picker(&v, &jobs, |p| p.by_score(true)).unwrap();
    assert_eq!((job.to, job.upper.len()), (0, 64));
    let all: Vec<u64> = (10..10 + N).collect();
    let mut jobs = Running::default();
    jobs.add(&super::tests::job(0, 4, &v, &all, &[]));
    assert!(with_picker(&v, &jobs, |p| p.by_score(true)).is_none());
}

#[test]
fn inputs_are_not_widened_at_a_cost() {
    let keys = |a: u32, b: u32| [format!("{a:06}"), format!("{b:06}")];
    let with = |sizes: [u64; 2], lower: &[(u32, u32, u64)]| {
        let mut tables = row(3, 100, 0, 2, 0);
        (tables[0].size, tables[1].size) = (sizes[0], sizes[1]);
        for (i, &(a, b, size)) in lower.iter().enumerate() {
            let [a, b] = keys(a, b);
            tables.push(TableRecord { size, ..table(200 + i as u64, 4, [&a, &b], [1, 1]) });
        }
        version(tables)
    };
    let pick = |v: &Arc<Version>, running: &Running| {
        let job = with_picker(v, running, |p| p.by_score(false)).unwrap();
        (ids(&job.upper), ids(&job.lower))
    };
    // The second table would drag another one along.
    let v = with([8 * MIB, 8 * MIB], &[(0, 14, MIB), (15, 30, MIB)]);
    assert_eq!(pick(&v, &Running::default()), (vec![100], vec![200]));
    // Both over one, but more than 25 tables' worth together.
    let v = with([6 * MIB, 30 * MIB], &[(0, 99, MIB)]);
    assert_eq!(pick(&v, &Running::default()), (vec![101], vec![200]));
    // The end of the second one is being written to.
    let mut tables = vec![table(1, 2, ["000016", "000018"], [20, 30])];
    tables.extend(row(3, 100, 0, 2, 8 * MIB));
    tables.push(table(200, 4, ["000000", "000014"], [1, 1]));
    let v = version(tables);
    let mut running = Running::default();
    running.add(&job(2, 3, &v, &[1], &[]));
    assert_eq!(pick(&v, &running), (vec![100], vec![200]));
}

#[test]
fn ranges_are_reserved_on_both_levels() {
    let v = version(vec![
        table(1, 1, ["c", "d"], [40, 50]),
        table(2, 2, ["c", "d"], [30, 40]),
        table(3, 3, ["c", "d"], [20, 30]),
        table(4, 4, ["c", "d"], [10, 20]),
        table(5, 3, ["x", "y"], [20, 30]),
    ]);
    let mut running = Running::default();
    let ticket = running.add(&job(2, 3, &v, &[2], &[]));
    assert!(running.conflicts(&job(1, 2, &v, &[1], &[])), "out of the level it takes from");
    assert!(running.conflicts(&job(2, 3, &v, &[2], &[])));
    assert!(running.conflicts(&job(3, 4, &v, &[3], &[])), "from the level it writes to");
    assert!(!running.conflicts(&job(3, 4, &v, &[5], &[])), "other keys");
    assert!(!running.conflicts(&job(4, 4, &v, &[4], &[])), "another level");
    let busy = |level: usize| running.is_table_busy(level, &v.level(level).tables()[0]);
    assert_eq!([1, 2, 3, 4].map(busy), [false, true, true, false]);
    running.remove(ticket);
    assert!(!running.conflicts(&job(2, 3, &v, &[2], &[])));
    // Ranges hold both their ends.
    let v = version(vec![
        table(1, 2, ["c", "d"], [10, 20]),
        table(2, 1, ["a", "c"], [20, 30]),
        table(3, 1, ["d", "e"], [20, 30]),
    ]);
    running.add(&job(2, 3, &v, &[1], &[]));
    assert!(running.conflicts(&job(1, 2, &v, &[2], &[])));
    assert!(running.conflicts(&job(1, 2, &v, &[3], &[])));
}

#[test]
fn a_manual_job_on_level_0_waits_for_all_of_it() {
    let v = version(level_0(&[["a", "b"], ["x", "y"]]));
    let all = Range { smallest: b"a".to_vec(), largest: b"z".to_vec() };
    let mut running = Running::default();
    let first = with_picker(&v, &running, |p| p.manual(0, &all)).unwrap().unwrap();
    assert_eq!(ids(&first.upper), [11, 10]);
    running.add(&job(0, 4, &v, &[10], &[]));
    assert!(with_picker(&v, &running, |p| p.manual(0, &all)).is_err());
}

#[test]
fn an_idle_tree_begins_where_most_can_go_and_not_where_nothing_can() {
    let mut tables = row(4, 1, 0, 3, MIB);
    (tables[0].tombstones, tables[1].tombstones, tables[2].tombstones) = (200, 500, 300);
    assert_eq!(ids(&garbage(&version(tables), 10, 0).unwrap().upper), [2]);
    // Every reader may be older than all of it.
    let mut t = table(1, 4, ["a", "b"], [20, 30]);
    (t.expiring, t.earliest_expiry) = (200, 50);
    assert!(garbage(&version(vec![t.clone()]), 19, 60).is_none());
    assert!(garbage(&version(vec![t]), 20, 60).is_some());
    // Superseded versions are wanted.
    let mut t = table(1, 4, ["a", "b"], [1, 10]);
    t.stale = 500;
    let v = version(vec![t]);
    for (versions_to_keep, looks) in [(1, true), (2, false)] {
        let options = Options { versions_to_keep, ..options() };
        let running = Running::default();
        let picker = Picker { version: &v, running: &running, options: &options };
        assert_eq!(picker.garbage(Floor { discard: 10, clock: 0 }).is_some(), looks);
    }
}

#[test]
fn most_pointers_go_down_first() {
    let mut tables = row(3, 100, 0, 3, MIB);
    tables.extend(row(4, 200, 0, 3, MIB));
    for (i, bytes) in [10, 30, 20, 30, 30, 30].into_iter().enumerate() {
        tables[i].pointers = vec![PointerSum { segment: 1, count: 1, bytes: bytes * MIB }];
    }
    let v = version(tables.clone());
    let job = with_picker(&v, &Running::default(), |p| p.log_garbage()).unwrap();
    assert_eq!((ids(&job.upper), ids(&job.lower)), (vec![101], vec![201]));
    // Of two levels above the last one, that with more.
    tables.push(TableRecord {
        pointers: tables[0].pointers.clone(),
        ..row(2, 1, 0, 1, MIB).remove(0)
    });
    let job = with_picker(&version(tables), &Running::default(), |p| p.log_garbage()).unwrap();
    assert_eq!((job.from, ids(&job.upper)), (3, vec![101]));
}

#[test]
fn a_range_delete_is_applied_where_it_hides_something() {
    use crate::range_delete::RangeDeletes;
    use kvdb_manifest::store::RangeDelete;

    let range = RangeDelete { start: b"a".to_vec(), end: Some(b"m".to_vec()), version: 20 };
    let ranges = RangeDeletes::new(vec![range]);
    let pick = |t: TableRecord, floor: u64, built: u64| {
        let v = version_with(vec![t], Built { floor: built, ..Built::default() });
        let floor = Floor { discard: floor, clock: 0 };
        with_picker(&v, &Running::default(), |p| p.range_delete(&ranges, floor))
    };
    for level in [0, 3] {
        let t = |keys, versions| table(1, level, keys, versions);
        let job = pick(t(["b", "c"], [1, 10]), 20, 0).unwrap();
        assert_eq!((job.reason, job.is_move), (Reason::RangeDelete, false));
        assert!(pick(t(["b", "c"], [1, 10]), 19, 0).is_none(), "not everybody sees it");
        let again = pick(t(["b", "c"], [1, 10]), 20, 20);
        assert_eq!(again.is_some(), level == 0, "applied already, and cut where the range ends");
        assert!(pick(t(["b", "c"], [20, 30]), 30, 0).is_none(), "nothing is older");
        assert!(pick(t(["m", "n"], [1, 10]), 20, 0).is_none(), "behind its end");
    }
}

#[test]
fn a_job_is_cut_into_parts_of_some_size_at_ascending_keys() {
    use super::split::split;

    let mut tables = row(3, 100, 0, 4, MIB);
    tables.extend(row(4, 200, 0, 4, MIB));
    let v = version(tables);
    let all = job(3, 4, &v, &[100, 101, 102, 103], &[200, 201, 202, 203]);
    for (width, least, parts) in [(4, 1, 4), (4, 4 * MIB, 2), (4, 5 * MIB, 1), (1, 1, 1)] {
        let cut = split(&all, width, least);
        assert_eq!(cut.len(), parts, "{width} of {least}");
        assert!(cut[0].start.is_none() && cut[parts - 1].end.is_none());
        for pair in cut.windows(2) {
            assert!(pair[0].end == pair[1].start && pair[0].start < pair[1].start, "{cut:?}");
        }
    }
    // The tables of both levels begin with the same keys: no key is a cut twice.
    let cut = split(&all, 8, 1);
    assert!(cut.windows(2).all(|pair| pair[0].start < pair[1].start), "{cut:?}");
    assert_eq!(cut.len(), 4, "{cut:?}");
}

#[test]
fn a_key_is_at_the_bottom_if_no_older_table_may_hold_it_on_level_0_or_deeper() {
    use super::dropping::{Dropping, OlderTables};

    let v = version(vec![
        table(1, 0, ["c", "e"], [1, 2]),
        table(2, 1, ["a", "z"], [3, 4]),
        table(3, 2, ["g", "i"], [1, 2]),
        table(4, 2, ["q", "s"], [1, 2]),
        table(5, 3, ["k", "m"], [1, 2]),
    ]);
    let older_top = v.level(0).tables().to_vec();
    let older = OlderTables::new(older_top, &v, 1);
    let floor = Floor { discard: 10, clock: 0 };
    let mut dropping = Dropping::new(floor, 1, Arc::default(), Some(older));
    let at_bottom = |key: &char| dropping.is_bottom(key.to_string().as_bytes());
    let keys: String = ('a'..='u').filter(at_bottom).collect();
    assert_eq!(keys, "abfjnoptu");
    assert!(
        !Dropping::new(floor, 1, Arc::default(), None).is_bottom(b"x"),
        "a flush knows nothing"
    );
}
