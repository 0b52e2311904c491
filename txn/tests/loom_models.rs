//! The protocols of the oracle in every interleaving that loom can make of them:
//!
//! ```text
//! RUSTFLAGS="--cfg loom" LOOM_MAX_PREEMPTIONS=3 \
//!     cargo test --release -p kvdb-txn --test loom_models --target-dir target/loom
//! ```
//!
//! A table of marks has two slots here, so that slots are reused and run out.

#![cfg(loom)]
#![allow(clippy::unwrap_used, reason = "all of this is a test")]

use std::sync::Arc;

use kvdb_txn::{CommitError, Mode, Options, Oracle, ReadMark, ReadSet};
use loom::thread;

/// An oracle with one published commit.
fn oracle() -> Arc<Oracle> {
    let oracle = Arc::new(Oracle::new(Options::default(), 0, 0));
    commit(&oracle);
    oracle
}

/// Commits without a read, and publishes.
fn commit(oracle: &Oracle) -> u64 {
    let version = oracle.commit_blind([b"key"], |version| version).unwrap().unwrap();
    oracle.published(version);
    version
}

fn reads() -> ReadSet {
    let mut reads = ReadSet::new();
    reads.add_point(b"key");
    reads
}

/// Whatever floor is returned while a mark lives, the mark is not below it.
fn assert_above(floor: u64, marks: &[ReadMark]) {
    for mark in marks {
        assert!(floor <= mark.version(), "floor {floor} passed a mark at {}", mark.version());
    }
}

#[test]
fn no_floor_passes_a_reader_that_begins() {
    loom::model(|| {
        let oracle = oracle();
        let reader = {
            let oracle = Arc::clone(&oracle);
            thread::spawn(move || oracle.begin(Mode::ReadOnly))
        };
        let newest = commit(&oracle);
        let floor = oracle.raise_floor();
        let mark = reader.join().unwrap();
        assert!(floor <= newest);
        assert_above(floor, &[mark]);
    });
}

#[test]
fn no_floor_passes_readers_that_share_and_reuse_slots() {
    loom::model(|| {
        let oracle = oracle();
        let first = oracle.begin(Mode::ReadOnly);
        let reader = {
            let oracle = Arc::clone(&oracle);
            thread::spawn(move || {
                drop(first);
                // The first slot again or the second; then there may be none.
                let second = oracle.begin(Mode::ReadOnly);
                let third = oracle.begin(Mode::ReadOnly);
                [second, third]
            })
        };
        commit(&oracle);
        let mine = oracle.begin(Mode::ReadOnly);
        let floor = oracle.raise_floor();
        let marks = reader.join().unwrap();
        assert_above(floor, &marks);
        assert_above(floor, &[mine]);
        drop(marks);
        assert_eq!(oracle.raise_floor(), oracle.read_version());
        assert_eq!(oracle.open_transactions(), (0, 0));
    });
}

#[test]
fn a_reader_at_a_chosen_version_is_refused_or_kept() {
    loom::model(|| {
        let oracle = oracle();
        let reader = {
            let oracle = Arc::clone(&oracle);
            thread::spawn(move || oracle.begin_at(1, Mode::ReadOnly).ok())
        };
        commit(&oracle);
        let floor = oracle.raise_floor();
        let mark = reader.join().unwrap();
        assert!(mark.is_some() || floor == 2);
        assert_above(oracle.raise_floor(), mark.as_slice());
    });
}

#[test]
fn a_clone_keeps_the_version_of_a_mark_that_goes() {
    loom::model(|| {
        let oracle = oracle();
        // The clone gets the slot before the mark's, which a scan passes first.
        let first = oracle.begin(Mode::ReadOnly);
        let mark = oracle.begin(Mode::ReadOnly);
        drop(first);
        commit(&oracle);
        let cloner = thread::spawn(move || mark.clone());
        let floor = oracle.raise_floor();
        let clone = cloner.join().unwrap();
        assert_above(floor, &[clone.clone()]);
        assert_above(oracle.raise_floor(), &[clone]);
    });
}

/// SEMANTICS 12.
#[test]
fn a_transaction_sees_what_was_acknowledged_before_it_began() {
    loom::model(|| {
        let oracle = oracle();
        let writer = {
            let oracle = Arc::clone(&oracle);
            thread::spawn(move || commit(&oracle))
        };
        oracle.raise_floor();
        let acknowledged = writer.join().unwrap();
        assert!(oracle.begin(Mode::ReadOnly).version() >= acknowledged);
    });
}

/// SEMANTICS 21: forgetting runs while a transaction begins; it neither makes it miss a conflict
/// nor makes it "too old".
#[test]
fn no_write_is_forgotten_that_a_transaction_must_be_checked_against() {
    loom::model(|| {
        let oracle = oracle();
        let writer = {
            let oracle = Arc::clone(&oracle);
            thread::spawn(move || {
                let mark = oracle.begin(Mode::ReadWrite);
                let verdict = oracle.commit(&mark, &reads(), [b"other"], |version| version);
                (mark.version(), verdict)
            })
        };
        let missed = commit(&oracle);
        oracle.tracked_bytes();
        match writer.join().unwrap() {
            (read, Ok(version)) => assert!(read >= missed || version.unwrap() < missed),
            (read, Err(error)) => {
                assert_eq!(error, CommitError::Conflict);
                assert!(read < missed);
            }
        }
    });
}

/// SEMANTICS 18: of two that read what the other writes, one commits.
#[test]
fn of_two_skewed_writes_one_is_refused() {
    loom::model(|| {
        let oracle = oracle();
        let marks = [oracle.begin(Mode::ReadWrite), oracle.begin(Mode::ReadWrite)];
        let [a, b] = marks.map(|mark| {
            let oracle = Arc::clone(&oracle);
            thread::spawn(move || {
                let verdict = oracle.commit(&mark, &reads(), [b"key"], |version| version);
                if let Ok(Some(version)) = verdict {
                    oracle.published(version);
                }
                verdict.is_ok()
            })
        });
        assert!(a.join().unwrap() ^ b.join().unwrap());
    });
}

/// SEMANTICS 23: a sealed block goes with the last of those that kept it, whoever that is: the
/// transaction's end, or the publication.
#[test]
fn memory_is_given_back_by_the_last_who_needs_it() {
    loom::model(|| {
        let oracle = oracle();
        let mark = oracle.begin(Mode::ReadWrite);
        // Large enough to be a block of its own.
        let keys: Vec<_> = (0..40u8).map(|i| [i]).collect();
        let version = oracle.commit_blind(&keys, |version| version).unwrap().unwrap();
        assert!(oracle.retained_bytes() > 0);
        let ender = thread::spawn(move || drop(mark));
        oracle.published(version);
        ender.join().unwrap();
        assert_eq!(oracle.retained_bytes(), 0);
    });
}

/// SEMANTICS 23: two transactions keep one block each, and end at once.
#[test]
fn memory_is_given_back_when_the_next_block_becomes_free_while_one_is_forgotten() {
    loom::model(|| {
        let oracle = Arc::new(Oracle::new(Options::default(), 0, 0));
        let keys: Vec<_> = (0..40u8).map(|i| [i]).collect();
        let mut marks = [0, 1].map(|_| {
            let mark = oracle.begin(Mode::ReadWrite);
            let version = oracle.commit_blind(&keys, |version| version).unwrap().unwrap();
            oracle.published(version);
            mark
        });
        marks.sort_by_key(ReadMark::version);
        let [older, younger] = marks;
        let ender = thread::spawn(move || drop(older));
        drop(younger);
        ender.join().unwrap();
        assert_eq!(oracle.retained_bytes(), 0);
    });
}
