//! Real concurrent histories of the database, checked for serializability (SEMANTICS 12, 13, 18–22).
//!
//! Threads run transactions of point and range reads, puts, and deletes, with flush and compaction
//! under them; each notes which version of each key it saw. The versions give the order in which
//! every key was written, so the dependencies between all transactions are known, and a history is
//! serializable exactly if they contain no cycle. What the oracle thinks of it is not asked.
#![allow(clippy::unwrap_used)] // a test may panic

#[path = "../common/mod.rs"]
mod common;
mod graph;
mod history;

use common::{scale, tiny};
use graph::{Verdict, verdict};
use history::{Planted, record};
use kvdb::{Durability, Options};

const THREADS: u64 = 4;
const EACH: usize = 1500;

fn options() -> Options {
    tiny().durability(Durability::Buffered)
}

fn run(options: &Options, planted: Planted, each: usize, seed: u64) -> Verdict {
    let history = record(options, planted, THREADS, each, seed);
    verdict(&history)
}

#[test]
fn concurrent_histories_are_serializable() {
    for round in 0..scale() {
        let verdict = run(&options(), Planted::Nothing, EACH, round);
        println!(
            "{} transactions, {} dependencies, {} conflicts",
            verdict.transactions, verdict.edges, verdict.refused
        );
        assert_eq!(verdict.broken_snapshot, None, "round {round}");
        assert_eq!(verdict.cycle, None, "round {round}");
        assert!(verdict.transactions > EACH * THREADS as usize / 2, "most commit");
        assert!(verdict.refused > 0, "there was something to refuse");
    }
}

/// The checker is not blind: a bug that is planted here must be found within a few histories.
fn is_found(options: &Options, planted: Planted) {
    let found = (0..50).any(|round| {
        let verdict = run(options, planted, EACH, 1000 + round);
        assert_eq!(verdict.broken_snapshot, None, "what is planted breaks no snapshot");
        verdict.cycle.is_some()
    });
    assert!(found, "{planted:?} was not found out");
}

#[test]
fn a_history_without_range_tracking_is_found_out() {
    is_found(&options(), Planted::RangesAreForgotten);
}

/// What engines do that track the keys an iterator has found.
#[test]
fn a_history_that_tracks_the_keys_found_in_place_of_ranges_is_found_out() {
    is_found(&options(), Planted::KeysFoundForRanges);
}

/// SEMANTICS 22: with detection off the last commit wins, and the checker sees that as well.
#[test]
fn a_history_without_conflict_detection_is_found_out() {
    is_found(&options().detect_conflicts(false), Planted::Nothing);
}
