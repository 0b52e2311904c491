//! One unit of compaction, and which ones run.

use std::collections::HashSet;
use std::sync::Arc;

use crate::table::TableFile;
use crate::version::Version;

/// Why a job was picked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reason {
    /// The score of its level.
    Score,
    /// Too many tables on level 0 while the base level is busy.
    Level0,
    /// Tombstones, expired or superseded entries that can go.
    Garbage,
    /// The companion's log holds garbage that only a compaction can find.
    LogGarbage,
    /// A range delete to be applied.
    RangeDelete,
    /// Somebody asked.
    Manual,
}

/// What to compact: tables of one level, and those of the target level that they overlap.
#[derive(Debug, Clone)]
pub(crate) struct Job {
    pub(crate) reason: Reason,
    pub(crate) from: usize,
    /// The next level with a place for the outputs; `from` itself for a rewrite in place and for
    /// level 0 → 0.
    pub(crate) to: usize,
    /// Inputs on `from`. On level 0 newest first.
    pub(crate) upper: Vec<Arc<TableFile>>,
    /// Inputs on `to`, where that is another level.
    pub(crate) lower: Vec<Arc<TableFile>>,
    /// Tables of level 0 that are older than the inputs and stay.
    pub(crate) older_top: Vec<Arc<TableFile>>,
    /// The version it was picked from.
    pub(crate) version: Arc<Version>,
    /// The call of `compact_range` that rewrites a table in place; 0: it is something else.
    pub(crate) call: u64,
    /// The inputs only change their level.
    pub(crate) is_move: bool,
}

impl Job {
    pub(crate) fn inputs(&self) -> impl Iterator<Item = &Arc<TableFile>> + Clone {
        self.upper.iter().chain(&self.lower)
    }

    pub(crate) fn input_bytes(&self) -> u64 {
        self.inputs().map(|t| t.size()).sum()
    }

    /// The keys it is about: from the least to the greatest of its inputs.
    pub(crate) fn range(&self) -> Range {
        bounds(self.inputs()).unwrap_or_default()
    }
}

/// A closed range of keys.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Range {
    pub(crate) smallest: Vec<u8>,
    pub(crate) largest: Vec<u8>,
}

impl Range {
    fn overlaps(&self, other: &Range) -> bool {
        self.smallest <= other.largest && other.smallest <= self.largest
    }
}

/// The range that covers these tables; `None` if there are none.
pub(crate) fn bounds<'a>(
    tables: impl Iterator<Item = &'a Arc<TableFile>> + Clone,
) -> Option<Range> {
    let smallest = tables.clone().map(|t| t.smallest()).min()?.to_vec();
    let largest = tables.map(|t| t.largest()).max()?.to_vec();
    Some(Range { smallest, largest })
}

/// The jobs that run now, and the key ranges they have reserved on their two levels.
#[derive(Debug, Default)]
pub(crate) struct Running {
    jobs: Vec<Reservation>,
    next: u64,
}

#[derive(Debug)]
struct Reservation {
    ticket: u64,
    from: usize,
    to: usize,
    range: Range,
    inputs: Vec<u64>,
    upper_tables: usize,
    upper_bytes: u64,
}

impl Running {
    pub(crate) fn len(&self) -> usize {
        self.jobs.len()
    }

    /// Whether keys of this range are being compacted on this level.
    pub(crate) fn is_busy(&self, level: usize, range: &Range) -> bool {
        self.jobs.iter().any(|j| (j.from == level || j.to == level) && j.range.overlaps(range))
    }

    pub(crate) fn is_table_busy(&self, level: usize, table: &TableFile) -> bool {
        self.jobs.iter().any(|j| {
            (j.from == level || j.to == level)
                && table.overlaps(&j.range.smallest, &j.range.largest)
        })
    }

    /// Whether a table is an input of a running job.
    pub(crate) fn is_input(&self, table: u64) -> bool {
        self.jobs.iter().any(|j| j.inputs.contains(&table))
    }

    /// The inputs of all running jobs.
    pub(crate) fn inputs(&self) -> HashSet<u64> {
        self.jobs.iter().flat_map(|j| j.inputs.iter().copied()).collect()
    }

    /// Whether tables of level 0 are being merged into one that stays there.
    pub(crate) fn merges_top(&self) -> bool {
        self.jobs.iter().any(|j| (j.from, j.to) == (0, 0))
    }

    /// Whether a job would touch a range that another one has reserved.
    pub(crate) fn conflicts(&self, job: &Job) -> bool {
        let range = job.range();
        self.is_busy(job.from, &range) || self.is_busy(job.to, &range)
    }

    /// Reserves the ranges of a job.
    pub(crate) fn add(&mut self, job: &Job) -> u64 {
        let ticket = self.next;
        self.next += 1;
        self.jobs.push(Reservation {
            ticket,
            from: job.from,
            to: job.to,
            range: job.range(),
            inputs: job.inputs().map(|t| t.id()).collect(),
            upper_tables: job.upper.len(),
            upper_bytes: job.upper.iter().map(|t| t.size()).sum(),
        });
        ticket
    }

    pub(crate) fn remove(&mut self, ticket: u64) {
        self.jobs.retain(|j| j.ticket != ticket);
    }

    /// Tables and bytes of a level that are on their way to another one.
    pub(crate) fn leaving(&self, level: usize) -> (usize, u64) {
        let jobs = self.jobs.iter().filter(|j| j.from == level && j.to != level);
        jobs.fold((0, 0), |(n, bytes), j| (n + j.upper_tables, bytes + j.upper_bytes))
    }
}
