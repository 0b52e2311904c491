//! Choosing what to compact.

use std::cmp::Reverse;
use std::sync::Arc;

use super::job::{Job, Range, Reason, Running, bounds};
use super::scores::Scores;
use crate::companion::Floor;
use crate::options::Options;
use crate::range_delete::{self, RangeDeletes};
use crate::table::TableFile;
use crate::version::Version;

/// A table whose useless entries are at least this part of all is worth rewriting when nothing else
/// is to be done.
const USELESS_PART: f64 = 0.1;
/// Inputs of one job are widened as long as they stay below so many tables' worth of bytes.
const WIDEN_TABLES: u64 = 25;
/// A move must not leave a table that overlaps more than so many tables' worth of the next level.
pub(super) const GRANDPARENT_TABLES: u64 = 10;
/// Level 0 → 0 takes at least so many tables.
const LEAST_L0_RUN: usize = 4;
/// No more than so many,
const MOST_L0_RUN: usize = 64;
/// and no more than so many memtables' worth of bytes.
const L0_RUN_MEMTABLES: u64 = 8;
/// Log bytes that pointers of upper levels refer to, as a part of those of the last level, from
/// which on an idle tree is compacted for the log's sake.
const LOG_GARBAGE_PART: u64 = 5;

/// What picking looks at.
pub(crate) struct Picker<'a> {
    pub(crate) version: &'a Arc<Version>,
    pub(crate) running: &'a Running,
    pub(crate) options: &'a Options,
}

impl Picker<'_> {
    /// Targets and scores, with what is being compacted already left out.
    pub(crate) fn scores(&self) -> Scores {
        Scores::new(self.version, self.options, |level| self.running.leaving(level))
    }

    /// The most urgent job whose ranges are free. `top_first`: level 0 goes before everything.
    pub(crate) fn by_score(&self, top_first: bool) -> Option<Job> {
        let scores = self.scores();
        let mut levels = scores.candidates();
        if top_first {
            levels.sort_by_key(|&level| level != 0);
        }
        levels.into_iter().find_map(|level| match level {
            0 => self.top_to_base(scores.base, Reason::Score).or_else(|| self.top_to_top()),
            _ => self.one_down(level),
        })
    }

    fn job(&self, reason: Reason, from: usize, to: usize, upper: Vec<Arc<TableFile>>) -> Job {
        let lower = match bounds(upper.iter()) {
            Some(range) if from != to => {
                self.version.level(to).overlapping(&range.smallest, &range.largest).to_vec()
            }
            _ => Vec::new(),
        };
        let version = self.version.clone();
        let older_top = Vec::new();
        Job { reason, from, to, upper, lower, older_top, version, call: 0, is_move: false }
    }

    fn if_free(&self, job: Job) -> Option<Job> {
        (!job.upper.is_empty() && !self.running.conflicts(&job)).then_some(job)
    }

    /// All tables of level 0 into the base level. If some are on their way already: the others, if
    /// they have no key range in common with those.
    pub(crate) fn top_to_base(&self, base: usize, reason: Reason) -> Option<Job> {
        let mut upper: Vec<Arc<TableFile>> = Vec::new();
        let mut left_out: Vec<&Arc<TableFile>> = Vec::new();
        // Oldest first: a table that overlaps an older one which stays has to stay as well.
        for table in self.version.level(0).tables().iter().rev() {
            let stays = self.running.is_table_busy(0, table)
                || left_out.iter().any(|t| t.overlaps(table.smallest(), table.largest()));
            if stays {
                left_out.push(table);
            } else {
                upper.push(table.clone());
            }
        }
        upper.reverse();
        let mut job = self.if_free(self.job(reason, 0, base, upper))?;
        job.is_move = job.lower.is_empty() && disjoint(&job.upper) && self.may_move(&job);
        Some(job)
    }

    /// Several tables of level 0, next to each other in age, into one: fewer tables for readers to
    /// look into and for writers to wait for while the base level is busy, and one table less to meet
    /// what lies below for each that went into it.
    ///
    /// The longest run that is as cheap as may be: each table more makes it cheaper per table that
    /// there will be less (RocksDB's rule for its intra-L0 compactions), so what was merged before is not
    /// merged again with a few new ones. Not more than memory permits: its output is one table, whose
    /// hashes and index are held until it ends.
    fn top_to_top(&self) -> Option<Job> {
        let top = self.version.level(0).tables();
        if top.len() < self.options.l0_slowdown_trigger || self.running.merges_top() {
            return None;
        }
        let limit = L0_RUN_MEMTABLES * self.options.memtable_size as u64;
        let memory = self.options.top_run_bound();
        let inputs = self.running.inputs();
        let mut best: &[Arc<TableFile>] = &[];
        for start in 0..top.len() {
            let (mut end, mut bytes, mut held, mut cost) = (start, 0, 0, u64::MAX);
            let next = |end: usize| top.get(end).filter(|t| !inputs.contains(&t.id()));
            while let Some(table) = next(end).filter(|_| end - start < MOST_L0_RUN) {
                bytes += table.size();
                held += self.held_to_build(table);
                // Bytes to be written for each table that there will be less.
                let next = bytes.checked_div((end - start) as u64).unwrap_or(u64::MAX);
                if bytes > limit || held > memory || next > cost {
                    break;
                }
                (cost, end) = (next, end + 1);
            }
            if end - start > best.len() {
                best = &top[start..end];
            }
        }
        if best.len() < LEAST_L0_RUN {
            return None;
        }
        self.in_top(Reason::Level0, best)
    }

    /// About what a table's entries take in memory while they are written into another one: hashes, the
    /// filter, and the index, which is gathered in vectors that grow and laid out as a section in the end.
    fn held_to_build(&self, table: &TableFile) -> u64 {
        let r = &table.record;
        let filter = r.entries * u64::from(self.options.bits_per_key) / 8;
        let key = r.smallest_key.len().max(r.largest_key.len()) as u64;
        let index = match table.built.sections {
            0 => (r.size / self.options.block_size as u64 + 1) * (key + 16),
            sections => sections.saturating_sub(filter),
        };
        r.entries * 8 + filter + 3 * index
    }

    /// Tables of level 0 that are next to each other in age, merged in place.
    fn in_top(&self, reason: Reason, run: &[Arc<TableFile>]) -> Option<Job> {
        let top = self.version.level(0).tables();
        let oldest = run.last()?;
        let mut job = self.job(reason, 0, 0, run.to_vec());
        let behind = top.iter().skip_while(|t| t.id() != oldest.id()).skip(1);
        job.older_top = behind.cloned().collect();
        // Whoever takes older tables down does not mind: the run stays above them.
        let free = !run.iter().any(|t| self.running.is_input(t.id()));
        free.then_some(job)
    }

    /// The table of a level that is cheapest to move down, considering what goes away with it.
    fn one_down(&self, level: usize) -> Option<Job> {
        let next = level + 1;
        let tables = self.version.level(level).tables();
        let mut order: Vec<_> = tables
            .iter()
            .filter(|t| !self.running.is_table_busy(level, t))
            .map(|t| (self.cost(t, next), t))
            .collect();
        order.sort_by(|a, b| a.0.total_cmp(&b.0));
        order.into_iter().find_map(|(_, table)| self.down(Reason::Score, level, table))
    }

    /// Bytes to be rewritten on the next level per byte that leaves this one. Entries that are
    /// likely to go, and pointers into the log that may turn out dead, make it cheaper.
    fn cost(&self, table: &TableFile, next: usize) -> f64 {
        let overlap = self.version.level(next).overlapping(table.smallest(), table.largest());
        let bytes: u64 = overlap.iter().map(|t| t.size()).sum();
        let r = &table.record;
        let useless = (r.tombstones + r.stale) as f64 + 0.5 * r.expiring as f64;
        let part = (useless / r.entries.max(1) as f64).min(1.0);
        let per_pointer = table.pointer_bytes() as f64 / table.size().max(1) as f64;
        bytes as f64 / table.size().max(1) as f64 / (1.0 + 3.0 * part + per_pointer.min(4.0) / 4.0)
    }

    /// One table of a level ≥ 1 one level down.
    fn down(&self, reason: Reason, level: usize, table: &Arc<TableFile>) -> Option<Job> {
        if level + 1 >= self.version.levels().len() {
            return None;
        }
        let job = self.job(reason, level, level + 1, vec![table.clone()]);
        let mut job = self.if_free(job)?;
        job.is_move = job.lower.is_empty() && self.may_move(&job);
        if !job.is_move {
            job = self.widen(job);
        }
        Some(job)
    }

    /// More inputs of the upper level for free: those that make no difference to the lower one.
    fn widen(&self, job: Job) -> Job {
        let range = job.range();
        let upper = self.version.level(job.from).overlapping(&range.smallest, &range.largest);
        if upper.len() <= job.upper.len() {
            return job;
        }
        let wider = self.job(job.reason, job.from, job.to, upper.to_vec());
        let limit = WIDEN_TABLES * self.options.table_size;
        let same_lower = wider.lower.len() == job.lower.len();
        if same_lower && wider.input_bytes() <= limit && !self.running.conflicts(&wider) {
            return wider;
        }
        job
    }

    /// Whether the inputs of a job without lower tables may change their level as they are.
    fn may_move(&self, job: &Job) -> bool {
        let limit = GRANDPARENT_TABLES * self.options.table_size;
        job.reason != Reason::Garbage
            && job.reason != Reason::RangeDelete
            && job.upper.iter().all(|t| {
                let below = self.version.levels().get(job.to + 1);
                let overlap = below.map_or(0, |l| {
                    let tables = l.overlapping(t.smallest(), t.largest());
                    tables.iter().map(|t| t.size()).sum()
                });
                overlap <= limit
            })
    }

    /// A table with entries that can go, when nothing more urgent is to be done.
    pub(crate) fn garbage(&self, floor: Floor) -> Option<Job> {
        let mut order: Vec<(f64, usize, &Arc<TableFile>)> = Vec::new();
        for (level, tables) in self.version.levels().iter().enumerate() {
            for table in tables.tables() {
                let part = self.useless_part(level, table, floor);
                if part >= USELESS_PART {
                    order.push((part, level, table));
                }
            }
        }
        order.sort_by(|a, b| b.0.total_cmp(&a.0));
        order.into_iter().find_map(|(_, level, table)| self.purge(level, table))
    }

    /// Which part of a table's entries is of no use to anybody, as far as its record tells and if it
    /// was not tried already with the same floor and clock.
    fn useless_part(&self, level: usize, table: &TableFile, floor: Floor) -> f64 {
        let (r, built) = (&table.record, &table.built);
        if r.smallest_version > floor.discard {
            return 0.0;
        }
        // Of the versions that were above the floor when the table was written, at least half must
        // be below it now: a table is rewritten so a few times at most while the floor passes it.
        let since = built.floor.max(r.smallest_version.saturating_sub(1));
        let passed = floor.discard.min(r.largest_version).saturating_sub(since);
        let news = passed > 0 && passed >= r.largest_version.saturating_sub(since) / 2;
        let mut useless = 0;
        if news || self.lies_above_older(level, table) {
            useless += r.tombstones;
        }
        if news && self.options.versions_to_keep == 1 {
            useless += r.stale;
        }
        let patient = built.clock.saturating_add(built.patience);
        if r.expiring > 0 && r.earliest_expiry <= floor.clock && floor.clock >= patient {
            useless += r.expiring;
        }
        useless as f64 / r.entries.max(1) as f64
    }

    fn lies_above_older(&self, level: usize, table: &TableFile) -> bool {
        let deeper = &self.version.levels()[level + 1..];
        deeper.iter().any(|l| !l.overlapping(table.smallest(), table.largest()).is_empty())
    }

    /// Rewrites a table so that what can go goes: one level down if something lies below it, else in
    /// place.
    fn purge(&self, level: usize, table: &Arc<TableFile>) -> Option<Job> {
        if level == 0 {
            return self.top_to_base(self.scores().base, Reason::Garbage);
        }
        if self.lies_above_older(level, table) {
            return self.down(Reason::Garbage, level, table);
        }
        self.if_free(self.job(Reason::Garbage, level, level, vec![table.clone()]))
    }

    /// A job that brings superseded pointers together with what supersedes them: what the levels
    /// above the last one refer to in the log may supersede as much below.
    pub(crate) fn log_garbage(&self) -> Option<Job> {
        let levels = self.version.levels();
        let bytes = |l: usize| -> u64 {
            levels[l].tables().iter().map(|t| t.pointer_bytes()).fold(0, u64::saturating_add)
        };
        let last = self.version.last_level()?;
        let upper: u64 = (0..last).map(bytes).fold(0, u64::saturating_add);
        let files: u64 = levels.iter().map(|l| l.bytes()).sum();
        let lower = bytes(last);
        if upper < lower / LOG_GARBAGE_PART || upper + lower < files.saturating_mul(4) || upper == 0
        {
            return None;
        }
        let level = (0..last).max_by_key(|&l| bytes(l))?;
        if level == 0 {
            return self.top_to_base(self.scores().base, Reason::LogGarbage);
        }
        let mut tables: Vec<_> = levels[level].tables().iter().collect();
        tables.sort_by_key(|t| Reverse(t.pointer_bytes()));
        tables.into_iter().find_map(|t| self.down(Reason::LogGarbage, level, t))
    }

    /// A table that holds something which a range delete hides from everybody.
    pub(crate) fn range_delete(&self, ranges: &RangeDeletes, floor: Floor) -> Option<Job> {
        for range in ranges.iter().filter(|r| r.version <= floor.discard) {
            for (level, tables) in self.version.levels().iter().enumerate() {
                let mut hidden = tables.tables().iter().filter(|t| {
                    t.record.smallest_version < range.version
                        && range_delete::overlaps(range, t.smallest(), t.largest())
                        // On level 0 it may reach beyond the range and hold nothing that is
                        // hidden: below, it will be cut where the range ends, and that is known then.
                        && (level == 0 || t.built.floor < range.version)
                });
                let found = match level {
                    // Tables of level 0 cannot be cut where the range ends.
                    0 if hidden.next().is_some() => {
                        self.top_to_base(self.scores().base, Reason::RangeDelete)
                    }
                    0 => None,
                    _ => hidden.find_map(|t| {
                        let upper = vec![t.clone()];
                        self.if_free(self.job(Reason::RangeDelete, level, level, upper))
                    }),
                };
                if found.is_some() {
                    return found;
                }
            }
        }
        None
    }

    /// Everything of a range of keys on one level, one level down: `Err(Busy)` if it has to wait for
    /// a running job, `Ok(None)` if the level has nothing there. Of level 0 all goes.
    pub(crate) fn manual(&self, level: usize, range: &Range) -> Result<Option<Job>, Busy> {
        let tables = self.version.level(level).tables();
        let overlaps = |t: &&Arc<TableFile>| t.overlaps(&range.smallest, &range.largest);
        if !tables.iter().any(|t| overlaps(&t)) {
            return Ok(None);
        }
        if level == 0 {
            if tables.iter().any(|t| self.running.is_table_busy(0, t)) {
                return Err(Busy);
            }
            let job = self.top_to_base(self.scores().base, Reason::Manual);
            return job.ok_or(Busy).map(Some);
        }
        let upper = tables.iter().filter(overlaps).cloned().collect();
        let job = self.job(Reason::Manual, level, level + 1, upper);
        let mut job = self.if_free(job).ok_or(Busy)?;
        job.is_move = job.lower.is_empty() && self.may_move(&job);
        Ok(Some(job))
    }

    /// The next job of those that bring a range down to the last level that has tables: one on the
    /// uppermost level above it with something of the range that is no newer than `newest`.
    pub(crate) fn manual_down(&self, range: &Range, newest: u64) -> Result<Option<Job>, Busy> {
        let last = self.version.last_level().unwrap_or(1);
        let due = |t: &Arc<TableFile>| {
            t.record.smallest_version <= newest && t.overlaps(&range.smallest, &range.largest)
        };
        let level = (0..last).find(|&l| self.version.level(l).tables().iter().any(due));
        level.map_or(Ok(None), |level| self.manual(level, range))
    }

    /// Rewrites in place one table of the last level that has something no newer than `newest`, and
    /// something that can go with this floor and could not when it was written. One that the same
    /// `call` has rewritten is left alone whatever the clock says: clocks go back, and if one did at
    /// every job and not at the looks in between, there would be no end.
    pub(crate) fn manual_rewrite(
        &self,
        range: &Range,
        newest: u64,
        floor: Floor,
        call: u64,
    ) -> Result<Option<Job>, Busy> {
        let Some(last) = self.version.last_level() else { return Ok(None) };
        let tables = self.version.level(last).overlapping(&range.smallest, &range.largest);
        let worth = tables.iter().find(|t| {
            let r = &t.record;
            let behind = t.built.clock < floor.clock && t.built.call != call;
            let old = behind || t.built.floor < floor.discard.min(r.largest_version);
            r.tombstones + r.stale + r.expiring > 0 && old && r.smallest_version <= newest
        });
        let Some(table) = worth else { return Ok(None) };
        let job = Job { call, ..self.job(Reason::Manual, last, last, vec![table.clone()]) };
        self.if_free(job).ok_or(Busy).map(Some)
    }
}

/// The range is being compacted by somebody else.
#[derive(Debug)]
pub(crate) struct Busy;

/// Whether no two of these tables overlap.
fn disjoint(tables: &[Arc<TableFile>]) -> bool {
    let mut sorted: Vec<_> = tables.iter().collect();
    sorted.sort_by(|a, b| a.smallest().cmp(b.smallest()));
    sorted.windows(2).all(|pair| pair[0].largest() < pair[1].smallest())
}
