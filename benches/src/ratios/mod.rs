//! What the `ratios` program measures, a module per part of kvdb.
//!
//! A module's `run` takes turns between a part and its yardsticks for some rounds and records, for
//! each of its rows in [`TARGETS`], what both took. The figure of a row is the median over
//! the rounds of the ratio *within* a round.

mod gc;
mod kvdb;
mod lsm;
mod lsm_load;
mod manifest;
mod report;
mod skiplist;
mod sstable;
mod txn;
mod vlog;

pub use report::{HEADING, Outcome, Recorder};

use crate::targets::TARGETS;

/// What measures a part.
pub type Run = fn(&mut Recorder);

/// The parts that can be measured, and by what.
pub const GROUPS: &[(&str, Run)] = &[
    ("skiplist", skiplist::run),
    ("sstable", sstable::run),
    ("vlog", vlog::run),
    ("manifest", manifest::run),
    ("txn", txn::run),
    ("lsm", lsm::run),
    ("lsm-load", lsm_load::run),
    ("gc", gc::run),
    ("kvdb", kvdb::run),
];

/// Measures a part; `None` if there is no such part.
#[must_use]
pub fn measure(name: &str) -> Option<Vec<Outcome>> {
    let (group, run) = GROUPS.iter().find(|(group, _)| *group == name)?;
    let mut recorder = Recorder::default();
    run(&mut recorder);
    let rows = TARGETS.iter().filter(|target| target.group == *group);
    Some(rows.map(|target| recorder.outcome(target)).collect())
}
