//! The rules of the store's state, one by one: what fits is applied, what does not is refused
//! whole.

#![allow(clippy::unwrap_used)] // helpers of tests

use kvdb_manifest::store::*;
use kvdb_manifest::{Inconsistent, State};

fn table(id: u64, level: u32, segments: &[u32]) -> TableRecord {
    TableRecord {
        id,
        level,
        size: 4096,
        smallest_key: format!("{id:04}").into_bytes(),
        largest_key: format!("{id:04}z").into_bytes(),
        smallest_version: id,
        largest_version: id + 10,
        entries: 7,
        pointers: segments
            .iter()
            .map(|&segment| PointerSum { segment, count: 2, bytes: 100 + id })
            .collect(),
        ..TableRecord::default()
    }
}

fn named(segment: u32) -> SegmentNamed {
    SegmentNamed {
        segment,
        file: 1000 + u64::from(segment),
        nonce: 3,
        capacity: 1 << 20,
        method: 1,
    }
}

fn sealed(segment: u32) -> SegmentSealed {
    SegmentSealed { segment, length: 512, frames: 3, checksum: 9 }
}

fn log_file(file: u64) -> LogFile {
    LogFile { file, nonce: 5, length: 77 }
}

fn moved(segment: u32, table: u64, files: &[u64]) -> SegmentRelocated {
    SegmentRelocated { segment, table, files: files.to_vec() }
}

fn deleted(version: u64, start: &[u8], end: Option<&[u8]>) -> RangeDelete {
    RangeDelete { start: start.to_vec(), end: end.map(<[u8]>::to_vec), version }
}

/// Two levels, five segments of which 2 is relocated, a range delete, all numbers set.
fn sample() -> StoreState {
    let mut state = StoreState::default();
    must(
        &mut state,
        &StoreChange {
            segments_named: (1..=5).map(named).collect(),
            segments_sealed: vec![sealed(1), sealed(2), sealed(3)],
            log_files_added: vec![log_file(2000), log_file(2001), log_file(2002)],
            segments_relocated: vec![moved(2, 2000, &[2001])],
            tables_added: vec![table(10, 0, &[1, 2]), table(11, 0, &[4]), table(12, 1, &[])],
            replay_head: Some(LogPosition { segment: 4, offset: 64 }),
            largest_version: Some(50),
            watermark: Some(20),
            clock: Some(1_700_000_000),
            dropped_tombstone: Some(8),
            range_deletes_added: vec![deleted(30, b"a", Some(b"b")), deleted(30, b"x", None)],
            next_file: Some(10),
            next_segment: Some(9),
            ..StoreChange::default()
        },
    );
    state
}

fn must(state: &mut StoreState, change: &StoreChange) {
    state.check(change).unwrap();
    state.apply(change);
}

#[track_caller]
fn refused(change: StoreChange, because: &str) {
    match sample().check(&change) {
        Err(Inconsistent::Change(what)) => assert!(what.contains(because), "{what}"),
        other => panic!("{other:?} instead of: {because}"),
    }
}

#[test]
fn a_snapshot_leads_from_nothing_to_the_same_state() {
    let state = sample();
    let snapshot = state.snapshot();
    let mut again = StoreState::default();
    must(&mut again, &snapshot);
    assert_eq!(again, state);
    assert_eq!(again.snapshot(), snapshot);
    // A snapshot may also be applied to what it is a snapshot of.
    let mut same = state.clone();
    must(&mut same, &snapshot);
    assert_eq!(same, state);
}

#[test]
fn an_empty_change_changes_nothing() {
    let mut state = sample();
    must(&mut state, &StoreChange::default());
    assert_eq!(state, sample());
}

#[test]
fn ids_that_were_seen_are_not_free() {
    let state = sample();
    assert_eq!(state.next_file(), 2003); // although the change said 10
    assert_eq!(state.next_segment(), 9); // although only 5 is in use
    let mut state = StoreState::default();
    must(&mut state, &StoreChange { segments_named: vec![named(6)], ..Default::default() });
    assert_eq!((state.next_segment(), state.next_file()), (7, 1007));
}

#[test]
fn levels_come_in_reading_order() {
    let mut state = sample();
    must(
        &mut state,
        &StoreChange {
            tables_added: vec![table(9, 0, &[]), table(13, 1, &[]), table(14, 6, &[])],
            ..Default::default()
        },
    );
    let levels = state.tables_by_level();
    let ids = |level| levels.get(&level).unwrap().iter().map(|t| t.id).collect::<Vec<_>>();
    assert_eq!(ids(0), [11, 10, 9]);
    assert_eq!(ids(1), [12, 13]);
    assert_eq!(ids(6), [14]);
    assert_eq!(levels.len(), 3);
}

#[test]
fn live_bytes_are_the_sum_over_the_tables_there_are() {
    let mut state = sample();
    let sum = |segment, count, bytes| (segment, PointerSum { segment, count, bytes });
    assert_eq!(state.live_bytes(), [sum(1, 2, 110), sum(2, 2, 110), sum(4, 2, 111)].into());
    must(
        &mut state,
        &StoreChange {
            tables_removed: vec![10],
            tables_added: vec![table(20, 1, &[1, 4])],
            ..Default::default()
        },
    );
    assert_eq!(state.live_bytes(), [sum(1, 2, 120), sum(4, 4, 231)].into());
}

#[test]
fn a_table_changes_its_level_in_one_change() {
    let mut state = sample();
    let mut down = table(11, 0, &[4]);
    down.level = 3;
    must(
        &mut state,
        &StoreChange { tables_removed: vec![11], tables_added: vec![down], ..Default::default() },
    );
    assert_eq!(state.tables()[&11].level, 3);
}

#[test]
fn a_reset_forgets_contents_and_keeps_numbers() {
    let mut state = sample();
    must(
        &mut state,
        &StoreChange {
            reset: true,
            segments_named: vec![named(6)],
            tables_added: vec![table(10, 0, &[6])],
            ..Default::default()
        },
    );
    assert_eq!(state.tables().len(), 1);
    assert_eq!(state.segments().keys().collect::<Vec<_>>(), [&6]);
    assert!(state.log_files().is_empty() && state.range_deletes().next().is_none());
    assert_eq!(state.replay_head(), None);
    let numbers = (state.largest_version(), state.watermark(), state.clock());
    assert_eq!(numbers, (50, 20, 1_700_000_000));
    assert_eq!((state.dropped_tombstone(), state.next_file(), state.next_segment()), (8, 2003, 9));

    let shrinks = StoreChange { reset: true, next_file: Some(3), ..Default::default() };
    refused(shrinks, "next file id shrinks");
    let gone = StoreChange { reset: true, tables_removed: vec![10], ..Default::default() };
    refused(gone, "table 10 removed, not there");
}

#[test]
fn a_segment_goes_with_the_last_table_that_refers_to_it() {
    let mut state = sample();
    must(
        &mut state,
        &StoreChange {
            tables_removed: vec![10],
            segments_freed: vec![1, 2],
            log_files_removed: vec![2000, 2001],
            ..Default::default()
        },
    );
    assert_eq!(state.segments().keys().collect::<Vec<_>>(), [&3, &4, &5]);
    assert_eq!(state.log_files().len(), 1);
}

#[test]
fn a_segment_is_relocated_again_and_its_old_files_go() {
    let mut state = sample();
    must(
        &mut state,
        &StoreChange {
            log_files_removed: vec![2000, 2001],
            log_files_added: vec![log_file(3000)],
            segments_relocated: vec![moved(2, 3000, &[3000, 2002])],
            ..Default::default()
        },
    );
    assert_eq!(state.segments()[&2].relocated, Some(moved(2, 3000, &[3000, 2002])));
}

#[test]
fn range_deletes_share_versions_and_go_by_version() {
    let mut state = sample();
    must(
        &mut state,
        &StoreChange {
            range_deletes_added: vec![deleted(40, b"m", Some(b"n"))],
            ..Default::default()
        },
    );
    assert_eq!(state.range_deletes().map(|d| d.version).collect::<Vec<_>>(), [30, 30, 40]);
    must(&mut state, &StoreChange { range_deletes_removed: vec![30], ..Default::default() });
    assert_eq!(state.range_deletes().map(|d| d.version).collect::<Vec<_>>(), [40]);
}

#[test]
fn tables_that_do_not_fit_are_refused() {
    let removed = |ids: &[u64]| StoreChange { tables_removed: ids.to_vec(), ..Default::default() };
    let added = |t: Vec<TableRecord>| StoreChange { tables_added: t, ..Default::default() };
    refused(removed(&[99]), "table 99 removed, not there");
    refused(removed(&[10, 10]), "table removed 10 twice");
    refused(added(vec![table(10, 0, &[])]), "table 10 added, there already");
    refused(added(vec![table(20, 0, &[]), table(20, 1, &[])]), "table added 20 twice");
    refused(added(vec![table(20, 0, &[6])]), "segment 6, which is not there");
    refused(added(vec![table(20, 0, &[4, 1])]), "do not ascend");
    refused(added(vec![table(20, 0, &[1, 1])]), "do not ascend");
    refused(added(vec![TableRecord { id: u64::MAX, ..Default::default() }]), "out of range");
    let keys = TableRecord { smallest_key: b"zz".to_vec(), ..table(20, 0, &[]) };
    refused(added(vec![keys]), "keys of table 20");
    let versions = TableRecord { smallest_version: 999, ..table(20, 0, &[]) };
    refused(added(vec![versions]), "versions of table 20");
}

#[test]
fn segments_that_do_not_fit_are_refused() {
    let c = StoreChange::default;
    refused(
        StoreChange { segments_named: vec![named(5)], ..c() },
        "segment 5 named, there already",
    );
    refused(StoreChange { segments_named: vec![named(6), named(6)], ..c() }, "named 6 twice");
    let taken = SegmentNamed { file: 1001, ..named(6) };
    refused(StoreChange { segments_named: vec![taken], ..c() }, "which is taken");
    let last = SegmentNamed { segment: u32::MAX, ..named(6) };
    refused(StoreChange { segments_named: vec![last], ..c() }, "out of range");
    refused(StoreChange { segments_sealed: vec![sealed(6)], ..c() }, "segment 6 sealed, not there");
    refused(StoreChange { segments_sealed: vec![sealed(1)], ..c() }, "a second time");
    refused(StoreChange { segments_sealed: vec![sealed(4), sealed(4)], ..c() }, "sealed 4 twice");
    refused(StoreChange { segments_freed: vec![6], ..c() }, "segment 6 freed, not there");
    refused(StoreChange { segments_freed: vec![3, 3], ..c() }, "freed 3 twice");
    refused(StoreChange { segments_freed: vec![1], ..c() }, "table 10 refers to it");
    let both = StoreChange { tables_removed: vec![11], segments_freed: vec![4], ..c() };
    refused(both, "replay starts in it");
    let new = StoreChange {
        segments_freed: vec![3],
        tables_added: vec![table(20, 0, &[3])],
        ..StoreChange::default()
    };
    refused(new, "segment 3, which is not there");
    let reborn = StoreChange { segments_freed: vec![3], segments_named: vec![named(3)], ..c() };
    refused(reborn, "segment 3 named, there already");
}

#[test]
fn a_segment_number_that_was_freed_is_not_named_again() {
    let mut state = StoreState::default();
    let name = |segments: &[u32]| StoreChange {
        segments_named: segments.iter().copied().map(named).collect(),
        ..Default::default()
    };
    must(&mut state, &name(&[1, 2]));
    must(&mut state, &StoreChange { segments_freed: vec![2], ..Default::default() });
    let again = state.check(&name(&[2])).unwrap_err().to_string();
    assert!(again.contains("segment 2 named, no number below 3"), "{again}");
    must(&mut state, &name(&[3]));
    refused(name(&[8]), "no number below 9"); // never there, but not free either
    // A snapshot of this very state names what it has.
    let snapshot = state.snapshot();
    must(&mut state, &snapshot);
}

/// Ids are handed out, and recorded as such, before there is a file, and jobs end in any order.
#[test]
fn files_are_added_in_another_order_than_their_ids_were_handed_out_in() {
    let mut state = sample();
    let added = |id| StoreChange {
        tables_added: vec![table(id, 0, &[])],
        next_file: Some(3003),
        ..Default::default()
    };
    must(&mut state, &added(3002));
    must(&mut state, &added(3001));
    assert_eq!(state.next_file(), 3003);
}

#[test]
fn replay_starts_in_a_segment_that_is_there() {
    let c = StoreChange::default;
    let head = |segment| Some(LogPosition { segment, offset: 64 });
    refused(StoreChange { replay_head: head(6), ..c() }, "in a segment that is not there");
    refused(StoreChange { replay_head: head(99), ..c() }, "in a segment that is not there");
    let mut state = sample();
    let moves = StoreChange { segments_named: vec![named(9)], replay_head: head(9), ..c() };
    must(&mut state, &moves);
    must(&mut state, &StoreChange { segments_freed: vec![5], ..c() });
    let reset = StoreChange { reset: true, segments_named: vec![named(5)], ..c() };
    refused(StoreChange { replay_head: head(6), ..reset.clone() }, "that is not there");
    must(&mut state, &StoreChange { replay_head: head(5), ..reset });

    // A tree whose log is elsewhere has a head all the same.
    let mut alone = StoreState::default();
    must(&mut alone, &StoreChange { replay_head: head(7), ..c() });
    let behind = StoreChange { segments_named: vec![named(8)], ..c() };
    must(&mut alone.clone(), &behind);
    let before = StoreChange { segments_named: vec![named(6)], ..c() };
    assert!(alone.check(&before).is_err(), "it would start nowhere");
}

#[test]
fn a_seal_beyond_the_end_of_the_file_is_refused() {
    let at = |segment, length| SegmentSealed { length, ..sealed(segment) };
    let seal = |seal| StoreChange { segments_sealed: vec![seal], ..StoreChange::default() };
    let fresh = |length| StoreChange { segments_named: vec![named(9)], ..seal(at(9, length)) };
    must(&mut sample(), &seal(at(4, 1 << 20)));
    must(&mut sample(), &fresh(1 << 20));
    refused(seal(at(4, (1 << 20) + 1)), "segment 4 sealed at 1048577, beyond the end");
    refused(fresh((1 << 20) + 1), "segment 9 sealed at 1048577, beyond the end");
    refused(StoreChange { reset: true, ..fresh(2 << 20) }, "segment 9 sealed at 2097152");
}

#[test]
fn relocations_that_do_not_fit_are_refused() {
    let c = StoreChange::default;
    let relocated = |m| StoreChange { segments_relocated: vec![m], ..StoreChange::default() };
    refused(relocated(moved(6, 2000, &[])), "segment 6 relocated, not there");
    refused(relocated(moved(4, 2000, &[])), "segment 4 relocated, not sealed");
    refused(relocated(moved(1, 2005, &[2001])), "file 2005, which is not there");
    refused(relocated(moved(1, 2000, &[2001, 2006])), "file 2006, which is not there");
    refused(StoreChange { log_files_removed: vec![2001], ..c() }, "file 2001, which is not there");
    refused(StoreChange { log_files_removed: vec![2009], ..c() }, "log file 2009 removed");
    refused(StoreChange { log_files_added: vec![log_file(2000)], ..c() }, "there already");
    let twice = vec![moved(1, 2000, &[]), moved(1, 2000, &[])];
    refused(StoreChange { segments_relocated: twice, ..c() }, "relocated 1 twice");
}

#[test]
fn range_deletes_that_do_not_fit_are_refused() {
    let added = |d: Vec<RangeDelete>| StoreChange { range_deletes_added: d, ..Default::default() };
    refused(added(vec![deleted(30, b"x", None)]), "there already");
    let one = deleted(40, b"p", Some(b"q"));
    refused(added(vec![one.clone(), one]), "there already");
    refused(added(vec![deleted(40, b"p", Some(b"p"))]), "empty range");
    let gone = StoreChange { range_deletes_removed: vec![31], ..Default::default() };
    refused(gone, "range delete 31 removed, not there");
}

#[test]
fn numbers_that_only_grow_do_not_shrink() {
    let c = StoreChange::default;
    refused(StoreChange { largest_version: Some(49), ..c() }, "largest version shrinks");
    refused(StoreChange { watermark: Some(19), ..c() }, "watermark shrinks");
    refused(StoreChange { clock: Some(1), ..c() }, "clock shrinks");
    refused(StoreChange { dropped_tombstone: Some(7), ..c() }, "dropped tombstone shrinks");
    refused(StoreChange { next_file: Some(2002), ..c() }, "next file id shrinks");
    refused(StoreChange { next_segment: Some(8), ..c() }, "next segment id shrinks");
    let head = Some(LogPosition { segment: 4, offset: 63 });
    refused(StoreChange { replay_head: head, ..c() }, "replay head moves back");
}

#[test]
fn where_the_log_lies_is_kept_until_it_is_said_anew() {
    let mut state = sample();
    assert_eq!(state.log_apart(), None, "a store of before it was said");
    let say = |log_apart| StoreChange { log_apart, ..StoreChange::default() };
    for apart in [true, false] {
        must(&mut state, &say(Some(apart)));
        must(&mut state, &say(None));
        assert_eq!(state.log_apart(), Some(apart));
        let mut again = StoreState::default();
        must(&mut again, &state.snapshot());
        assert_eq!(again.log_apart(), Some(apart));
        must(&mut again, &StoreChange { reset: true, ..StoreChange::default() });
        assert_eq!(again.log_apart(), Some(apart));
    }
}

#[test]
fn an_unknown_feature_is_an_error_of_its_own() {
    let change = StoreChange { features_added: vec!["antigravity".into()], ..Default::default() };
    let error = sample().check(&change).unwrap_err();
    assert_eq!(error, Inconsistent::UnknownFeature("antigravity".into()));
}
