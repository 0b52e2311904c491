//! One test for each rule of behaviour that the random tests do not state by name.

#![cfg(not(loom))]
#![allow(clippy::unwrap_used, reason = "all of this is a test")]

use std::ops::Bound;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::thread;

use kvdb_txn::{BeginError, CommitError, Mode, NotManaged, Options, Oracle, ReadSet, Write};

fn oracle() -> Oracle {
    Oracle::new(Options::default(), 0, 0)
}

fn managed() -> Oracle {
    Oracle::new(Options { managed: true, ..Options::default() }, 0, 0)
}

fn commit(oracle: &Oracle, key: &[u8]) -> u64 {
    let version = oracle.commit_blind([key], |version| version).unwrap().unwrap();
    oracle.published(version);
    version
}

fn point(key: &[u8]) -> ReadSet {
    let mut reads = ReadSet::new();
    reads.add_point(key);
    reads
}

#[test]
fn rule_12_a_commit_is_seen_by_every_transaction_begun_after_it_is_published_and_by_none_before() {
    let oracle = oracle();
    let version = oracle.commit_blind([b"key"], |version| version).unwrap().unwrap();
    assert_eq!(oracle.begin(Mode::ReadOnly).version(), 0);
    oracle.published(version);
    assert_eq!(oracle.begin(Mode::ReadOnly).version(), version);
}

#[test]
fn rule_14_a_read_only_transaction_cannot_commit_writes() {
    let oracle = oracle();
    let mark = oracle.begin(Mode::ReadOnly);
    let refused = oracle.commit(&mark, &ReadSet::new(), [b"key"], |_| ());
    assert_eq!(refused, Err(CommitError::ReadOnly));
    assert_eq!(oracle.last_version(), 0);
}

#[test]
fn rule_15_a_commit_without_writes_never_fails_and_uses_no_version() {
    let oracle = oracle();
    let mark = oracle.begin(Mode::ReadWrite);
    commit(&oracle, b"key");
    let none: [&[u8]; 0] = [];
    assert_eq!(oracle.commit(&mark, &point(b"key"), none, |_| panic!("enqueued")), Ok(None));
    oracle.failed(1);
    assert_eq!(oracle.commit(&mark, &point(b"key"), none, |_| panic!("enqueued")), Ok(None));
    assert_eq!(oracle.last_version(), 1);
}

#[test]
fn rule_15_ten_thousand_empty_transactions_leave_the_low_water_mark_where_it_should_be() {
    let oracle = oracle();
    for i in 0..10_000 {
        let mode = if i % 2 == 0 { Mode::ReadOnly } else { Mode::ReadWrite };
        drop(oracle.begin(mode));
    }
    let newest = commit(&oracle, b"key");
    assert_eq!(oracle.low_water(), newest);
    assert_eq!(oracle.raise_floor(), newest);
    assert_eq!(oracle.open_transactions(), (0, 0));
}

#[test]
fn rule_15_any_number_of_transactions_may_be_open_at_once() {
    let oracle = oracle();
    let mut open = Vec::new();
    for i in 0..1000u64 {
        open.push(oracle.begin(if i % 3 == 0 { Mode::ReadOnly } else { Mode::ReadWrite }));
        open.push(open[i as usize].clone());
        assert_eq!(commit(&oracle, b"key"), i + 1);
    }
    assert_eq!(oracle.open_transactions().0 + oracle.open_transactions().1, 2000);
    // Closed oldest first, from another thread, with the floor following.
    thread::spawn(move || {
        open.sort_by_key(|mark| mark.version());
        for mark in open {
            let version = mark.version();
            assert_eq!(oracle.raise_floor(), version);
            drop(mark);
        }
        assert_eq!(oracle.raise_floor(), 1000);
        assert_eq!(oracle.tracked_bytes(), 0);
    })
    .join()
    .unwrap();
}

#[test]
fn rule_17_commits_are_enqueued_in_version_order() {
    let oracle = oracle();
    let queue = std::sync::Mutex::new(Vec::new());
    thread::scope(|scope| {
        for thread in 0..4u8 {
            let (oracle, queue) = (&oracle, &queue);
            scope.spawn(move || {
                for i in 0..1000u16 {
                    let key = [&[thread], i.to_be_bytes().as_slice()].concat();
                    let enqueue = |version| queue.lock().unwrap().push(version);
                    oracle.commit_blind([&key], enqueue).unwrap();
                }
            });
        }
    });
    assert!(queue.into_inner().unwrap().into_iter().eq(1..=4000));
}

#[test]
fn rule_18_of_two_skewed_writes_exactly_one_commits() {
    let oracle = oracle();
    let (a, b) = (oracle.begin(Mode::ReadWrite), oracle.begin(Mode::ReadWrite));
    assert_eq!(oracle.commit(&a, &point(b"x"), [b"y"], |version| version), Ok(Some(1)));
    let second = oracle.commit(&b, &point(b"y"), [b"x"], |version| version);
    assert_eq!(second, Err(CommitError::Conflict));
}

#[test]
fn rule_19_an_insertion_into_a_range_that_was_asked_for_is_a_conflict() {
    let mut reads = ReadSet::new();
    reads.add_range(Bound::Excluded(b"b"), Bound::Included(b"d"));
    for (key, conflict) in
        [("b", false), ("b\0", true), ("c", true), ("d", true), ("d\0", false), ("a", false)]
    {
        let oracle = oracle();
        let mark = oracle.begin(Mode::ReadWrite);
        commit(&oracle, key.as_bytes());
        let verdict = oracle.commit(&mark, &reads, [b"elsewhere"], |_| ());
        assert_eq!(verdict == Err(CommitError::Conflict), conflict, "{key:?}");
    }
}

#[test]
fn rule_20_blind_writes_never_conflict() {
    let oracle = oracle();
    let (a, b) = (oracle.begin(Mode::ReadWrite), oracle.begin(Mode::ReadWrite));
    assert_eq!(oracle.commit(&a, &ReadSet::new(), [b"x"], |version| version), Ok(Some(1)));
    assert_eq!(oracle.commit(&b, &ReadSet::new(), [b"x"], |version| version), Ok(Some(2)));
}

#[test]
fn rule_21_a_range_delete_conflicts_with_reads_in_it_and_only_with_those() {
    let delete = Write::Range(Bound::Included(b"p"), Bound::Excluded(b"q"));
    let mut scan = ReadSet::new();
    scan.add_range(Bound::Included(b"a"), Bound::Excluded(b"p"));
    let mut wide = ReadSet::new();
    wide.add_range(Bound::Unbounded, Bound::Unbounded);
    for (reads, conflict) in [
        (point(b"p1"), true),
        (point(b"q"), false),
        (point(b"o"), false),
        (scan, false),
        (wide, true),
    ] {
        let oracle = oracle();
        let mark = oracle.begin(Mode::ReadWrite);
        oracle.commit_blind([delete], |version| oracle.published(version)).unwrap();
        let verdict = oracle.commit(&mark, &reads, [b"elsewhere"], |_| ());
        assert_eq!(verdict == Err(CommitError::Conflict), conflict, "{reads:?}");
    }
}

#[test]
fn rule_22_without_detection_the_last_commit_wins_and_nothing_is_remembered() {
    let options = Options { detect_conflicts: false, ..Options::default() };
    let oracle = Oracle::new(options, 0, 0);
    let (a, b) = (oracle.begin(Mode::ReadWrite), oracle.begin(Mode::ReadWrite));
    assert_eq!(oracle.commit(&a, &point(b"x"), [b"x"], |version| version), Ok(Some(1)));
    assert_eq!(oracle.tracked_bytes(), 0);
    assert_eq!(oracle.commit(&b, &point(b"x"), [b"x"], |version| version), Ok(Some(2)));
    let none: [&[u8]; 0] = [];
    assert_eq!(oracle.commit(&b, &point(b"x"), none, |version| version), Ok(None));
}

#[test]
fn rule_23_past_the_cap_the_oldest_transaction_is_too_old_and_younger_ones_are_not() {
    let options = Options { max_tracked_bytes: 256 << 10, ..Options::default() };
    let oracle = Oracle::new(options, 0, 0);
    let key = |i: u32| i.to_be_bytes();
    let old = oracle.begin(Mode::ReadWrite);
    let blind = oracle.begin(Mode::ReadWrite);
    let reader = oracle.begin(Mode::ReadOnly);
    let mut young = None;
    for i in 0..40_000 {
        if i == 39_000 {
            young = Some(oracle.begin(Mode::ReadWrite));
        }
        commit(&oracle, &key(i));
        if i % 1000 == 0 {
            assert!(oracle.tracked_bytes() <= options.max_tracked_bytes);
        }
    }
    let young = young.unwrap();
    let verdict = oracle.commit(&old, &point(b"other"), [b"x"], |_| ());
    let remembered_after = oracle.remembered_after();
    assert!((1..young.version()).contains(&remembered_after), "{remembered_after}");
    assert_eq!(verdict, Err(CommitError::TooOld { read_version: 0, remembered_after }));
    let verdict = oracle.commit(&young, &point(&key(39_500)), [b"x"], |_| ());
    assert_eq!(verdict, Err(CommitError::Conflict));
    assert_eq!(oracle.commit(&young, &point(&key(38_999)), [b"x"], |v| v), Ok(Some(40_001)));
    assert_eq!(oracle.commit(&blind, &ReadSet::new(), [b"x"], |v| v), Ok(Some(40_002)));
    oracle.published(40_002);
    // One that is too old keeps nothing in memory any more, and a reader never did.
    drop((young, blind));
    assert_eq!(oracle.tracked_bytes(), 0);
    assert_eq!(oracle.low_water(), 0);
    drop((old, reader));
    assert_eq!(oracle.low_water(), 40_002);
}

#[test]
fn rule_23_a_single_commit_larger_than_the_cap_is_not_kept() {
    let options = Options { max_tracked_bytes: 1000, ..Options::default() };
    let oracle = Oracle::new(options, 0, 0);
    let mark = oracle.begin(Mode::ReadWrite);
    let keys: Vec<_> = (0..3000u32).map(|i| [i.to_be_bytes(); 250].concat()).collect();
    oracle.commit_blind(&keys, |version| oracle.published(version)).unwrap();
    assert!(oracle.tracked_bytes() <= 1000);
    let verdict = oracle.commit(&mark, &point(b"other"), [b"x"], |_| ());
    assert!(matches!(verdict, Err(CommitError::TooOld { .. })), "{verdict:?}");
    let later = oracle.begin(Mode::ReadWrite);
    assert_eq!(oracle.commit(&later, &point(b"other"), [b"x"], |v| v), Ok(Some(2)));
}

#[test]
fn rule_24_managed_versions_only_grow_and_modes_do_not_mix() {
    let oracle = managed();
    let at = |version, reads: Option<(&_, &_)>| oracle.commit_at(version, reads, [b"key"], |v| v);
    assert_eq!(oracle.commit_blind([b"key"], |v| v), Err(CommitError::Managed));
    assert_eq!(at(10, None), Ok(Some(10)));
    assert_eq!(at(10, None), Err(CommitError::VersionNotAbove { version: 10, last: 10 }));
    assert_eq!(at(0, None), Err(CommitError::VersionNotAbove { version: 0, last: 10 }));
    oracle.published(10);

    // Reads ahead of the newest version, and misses what is committed below its own version.
    let ahead = oracle.begin_at(u64::MAX, Mode::ReadWrite).unwrap();
    assert_eq!(ahead.version(), u64::MAX);
    assert_eq!(at(20, None), Ok(Some(20)));
    oracle.published(20);
    assert_eq!(at(30, Some((&ahead, &point(b"key")))), Err(CommitError::Conflict));
    assert_eq!(at(u64::MAX, None), Err(CommitError::Exhausted));
    assert_eq!(at(u64::MAX - 1, None), Ok(Some(u64::MAX - 1)));

    let own = self::oracle();
    assert_eq!(own.commit_at(9, None, [b"key"], |_| ()), Err(CommitError::NotManaged));
    assert_eq!(own.set_discard_watermark(1), Err(NotManaged));
}

#[test]
fn rule_24_a_managed_transaction_is_checked_down_to_the_watermark() {
    let oracle = managed();
    let put = |version, key: u32| {
        oracle.commit_at(version, None, [&key.to_be_bytes()], |_| ()).unwrap();
        oracle.published(version);
    };
    (1..=1000).for_each(|version| put(version, version as u32));
    let begin_at = |version| oracle.begin_at(version, Mode::ReadWrite).unwrap();
    let verdict = |version, mark, key: u32| {
        let reads = point(&key.to_be_bytes());
        oracle.commit_at(version, Some((mark, &reads)), [b"x"], |version| version)
    };
    let mark = begin_at(300);
    assert_eq!(verdict(2000, &mark, 301), Err(CommitError::Conflict));
    assert_eq!(verdict(2000, &mark, 300), Ok(Some(2000)));
    oracle.published(2000);
    drop(mark);
    assert!(oracle.tracked_bytes() > 0);
    oracle.set_discard_watermark(2000).unwrap();
    assert_eq!(oracle.tracked_bytes(), 0);
}

#[test]
fn rule_24_the_discard_watermark_bounds_the_floor_and_refuses_readers() {
    let oracle = managed();
    for version in [10, 20, 30] {
        oracle.commit_at(version, None, [b"key"], |_| ()).unwrap();
        oracle.published(version);
    }
    assert_eq!(oracle.raise_floor(), 0);
    oracle.set_discard_watermark(20).unwrap();
    oracle.set_discard_watermark(5).unwrap();
    let refused = oracle.begin_at(19, Mode::ReadOnly).map(|mark| mark.version());
    assert_eq!(refused, Err(BeginError::BelowFloor { version: 19, floor: 20 }));
    let mark = oracle.begin_at(20, Mode::ReadOnly).unwrap();
    oracle.set_discard_watermark(25).unwrap();
    assert_eq!(oracle.raise_floor(), 20);
    drop(mark);
    assert_eq!(oracle.raise_floor(), 25);
    oracle.set_discard_watermark(u64::MAX).unwrap();
    assert_eq!(oracle.raise_floor(), 30);
}

#[test]
fn rule_25_reading_below_the_floor_is_an_error_also_after_reopening() {
    let oracle = Oracle::new(Options::default(), 100, 60);
    assert_eq!((oracle.read_version(), oracle.floor(), oracle.last_version()), (100, 60, 100));
    let begin_at = |version| oracle.begin_at(version, Mode::ReadOnly).map(|mark| mark.version());
    assert_eq!(begin_at(59), Err(BeginError::BelowFloor { version: 59, floor: 60 }));
    assert_eq!(begin_at(60), Ok(60));
    assert_eq!(begin_at(101), Err(BeginError::NotYet { version: 101, newest: 100 }));
    // What was refused has left no mark behind.
    assert_eq!(oracle.raise_floor(), 100);
    assert_eq!(begin_at(99), Err(BeginError::BelowFloor { version: 99, floor: 100 }));
}

#[test]
fn rule_25_a_snapshot_between_floor_and_newest_version_can_be_read() {
    let oracle = oracle();
    let old = oracle.begin(Mode::ReadOnly);
    commit(&oracle, b"a");
    commit(&oracle, b"b");
    // Wants to go to 2, and is held at 0.
    assert_eq!(oracle.raise_floor(), 0);
    let snapshot = oracle.begin_at(1, Mode::ReadOnly).unwrap();
    drop(old);
    assert_eq!(oracle.raise_floor(), 1);
    let clone = snapshot.clone();
    drop(snapshot);
    assert_eq!(oracle.raise_floor(), 1);
    drop(clone);
    assert_eq!(oracle.raise_floor(), 2);
}

#[test]
fn rule_49b_versions_go_on_above_the_largest_ever_used() {
    let oracle = Oracle::new(Options::default(), 7 << 32, 0);
    assert_eq!(oracle.begin(Mode::ReadOnly).version(), 7 << 32);
    assert_eq!(commit(&oracle, b"key"), (7 << 32) + 1);
}

#[test]
fn versions_run_out_with_an_error() {
    let oracle = Oracle::new(Options::default(), u64::MAX, u64::MAX);
    assert_eq!(oracle.commit_blind([b"key"], |_| ()), Err(CommitError::Exhausted));
    assert_eq!(oracle.begin(Mode::ReadOnly).version(), u64::MAX - 1);
}

#[test]
fn a_failed_version_is_never_readable_and_ends_all_commits() {
    let oracle = oracle();
    let mark = oracle.begin(Mode::ReadWrite);
    commit(&oracle, b"a");
    for expected in 2..=4 {
        assert_eq!(oracle.commit_blind([b"key"], |version| version), Ok(Some(expected)));
    }
    oracle.failed(3);
    oracle.failed(4);
    oracle.published(2);
    oracle.published(4);
    assert_eq!(oracle.read_version(), 2);
    assert_eq!(oracle.failed_version(), Some(3));
    let poisoned = CommitError::Poisoned { failed_version: 3 };
    assert_eq!(oracle.commit_blind([b"key"], |_| ()), Err(poisoned));
    assert_eq!(oracle.commit(&mark, &point(b"a"), [b"key"], |_| ()), Err(poisoned));
    assert_eq!(oracle.begin(Mode::ReadOnly).version(), 2);
    assert_eq!(oracle.tracked_bytes(), 0);
}

#[test]
fn a_panic_while_enqueueing_poisons_and_does_not_hang() {
    let oracle = oracle();
    let panicked = catch_unwind(AssertUnwindSafe(|| {
        oracle.commit_blind([b"key"], |_| panic!("the queue is broken")).map(|_: Option<()>| ())
    }));
    assert!(panicked.is_err());
    let poisoned = CommitError::Poisoned { failed_version: 1 };
    assert_eq!(oracle.commit_blind([b"key"], |_| ()), Err(poisoned));
    assert_eq!(oracle.begin(Mode::ReadOnly).version(), 0);
}

#[test]
fn a_check_of_many_writes_runs_without_the_lock_and_misses_none() {
    for target in [0u32, 1, 255, 256, 257, 4000, 4999] {
        let oracle = oracle();
        let (hit, miss) = (oracle.begin(Mode::ReadWrite), oracle.begin(Mode::ReadWrite));
        for i in 0..5000u32 {
            commit(&oracle, &i.to_be_bytes());
        }
        let verdict = oracle.commit(&hit, &point(&target.to_be_bytes()), [b"x"], |_| ());
        assert_eq!(verdict, Err(CommitError::Conflict), "{target}");
        let mut reads = ReadSet::new();
        reads.add_range(
            Bound::Included(&target.to_be_bytes()),
            Bound::Excluded(&(target + 1).to_be_bytes()),
        );
        let verdict = oracle.commit(&hit, &reads, [b"x"], |_| ());
        assert_eq!(verdict, Err(CommitError::Conflict), "{target}");
        let verdict = oracle.commit(&miss, &point(&(target + 5000).to_be_bytes()), [b"x"], |v| v);
        assert_eq!(verdict, Ok(Some(5001)));
    }
}

#[test]
fn a_read_set_counts_and_forgets() {
    let mut reads = ReadSet::new();
    assert!(reads.is_empty() && reads.bytes() == 0);
    for i in 0..100u32 {
        reads.add_point(&(i % 50).to_be_bytes());
        reads.add_range(Bound::Included(&i.to_be_bytes()), Bound::Excluded(&(i + 1).to_be_bytes()));
    }
    assert_eq!((reads.points(), reads.ranges()), (50, 1));
    assert!(reads.bytes() > 50 * 4 && reads.bytes() < 50 * 100);
    reads.add_range(Bound::Included(b"b"), Bound::Excluded(b"b"));
    reads.add_range(Bound::Included(b"c"), Bound::Excluded(b"b"));
    assert_eq!(reads.ranges(), 1, "no key lies between those bounds");
    reads.clear();
    assert!(reads.is_empty() && reads.bytes() == 0);
}

#[test]
fn marks_move_between_threads_and_outlive_the_oracle() {
    fn assert_send_sync<T: Send + Sync + 'static>() {}
    assert_send_sync::<Oracle>();
    assert_send_sync::<kvdb_txn::ReadMark>();
    assert_send_sync::<ReadSet>();
    let oracle = oracle();
    let marks: Vec<_> = (0..300).map(|_| oracle.begin(Mode::ReadWrite)).collect();
    drop(oracle);
    thread::spawn(move || drop(marks)).join().unwrap();
}
