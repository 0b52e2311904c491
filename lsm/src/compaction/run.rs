//! Running one job, from its inputs to its change set.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use kvdb_manifest::store::{StoreChange, TableRecord};
use kvdb_sstable::Merge;
use kvdb_vfs::SyncSite;
use rayon::prelude::*;

use super::dropping::{Dropping, OlderTables};
use super::job::{Job, Reason};
use super::merge::{Cuts, merge_into_tables};
use super::pick::GRANDPARENT_TABLES;
use super::split::{Part, split};
use crate::at_work::AtWork;
use crate::companion::{Companion, Floor, HeldFloor};
use crate::cursor::Input;
use crate::error::{Error, Result};
use crate::install::Installation;
use crate::range_delete::RangeDeletes;
use crate::shared::Shared;
use crate::stats::add;
use crate::table::{Built, TableFile};
use crate::table_writer::Finished;

/// Longest time between two looks at a table whose entries expire one by one, in seconds.
const MOST_PATIENCE: u64 = 24 * 3600;

/// What one part of a job has done.
struct PartDone {
    finished: Vec<Finished>,
    dropped: u64,
    used_floor: bool,
    used_expiry: u64,
    dropped_tombstone: u64,
}

impl<C: Companion> Shared<C> {
    /// Runs a job whose ranges are reserved. `Ok(false)`: given up, because an input has left the
    /// tree meanwhile. On an error the inputs are installed as before and the outputs are removed.
    pub(crate) fn run_job(&self, job: &Job) -> Result<bool> {
        let _at_work = AtWork::begin(self);
        let _span = tracing::debug_span!("compaction", from = job.from, to = job.to).entered();
        let run = || {
            self.check_cancelled()?;
            if job.is_move { self.run_move(job) } else { self.run_merge(job) }
        };
        let result = match catch_unwind(AssertUnwindSafe(run)) {
            Ok(result) => result,
            Err(panic) => Err(Error::Panic(panic_message(&*panic))),
        };
        if !matches!(result, Ok(true)) {
            add(&self.work.failed_jobs, 1);
        }
        if let Err(error) = &result {
            self.tables.note_refusal(error);
        }
        result
    }

    fn run_move(&self, job: &Job) -> Result<bool> {
        let moved = |t: &Arc<TableFile>| TableRecord { level: job.to as u32, ..t.record.clone() };
        let change = StoreChange {
            tables_removed: job.upper.iter().map(|t| t.id()).collect(),
            tables_added: job.upper.iter().map(moved).collect(),
            ..StoreChange::default()
        };
        let inputs = change.tables_removed.clone();
        let installed =
            self.install_change(change, Installation { inputs, ..Default::default() })?;
        if installed {
            add(&self.work.moves, job.upper.len() as u64);
            add(&self.work.level(job.to).moved, job.input_bytes());
            tracing::debug!(from = job.from, to = job.to, tables = job.upper.len(), "moved tables");
        }
        Ok(installed)
    }

    fn run_merge(&self, job: &Job) -> Result<bool> {
        let held = HeldFloor::new(&*self.companion);
        let floor = held.floor;
        let range_deletes = self.current.pin().range_deletes().clone();
        let hidden = |t: &&Arc<TableFile>| is_hidden(t, &range_deletes, floor);
        let merged: Vec<_> = job.inputs().filter(|t| !hidden(t)).cloned().collect();
        let whole_tables = job.inputs().count() - merged.len();

        let mut width = self.options.compaction_threads;
        if job.from == 0 && job.to == 0 {
            width = 1; // one table, so that level 0 stays a list in age
        }
        let parts = split(job, width, self.options.min_split_bytes);
        let run_part = |part: &Part| self.run_part(job, part, floor, &range_deletes);
        let done: Vec<PartDone> = match self.pool() {
            Some(pool) if parts.len() > 1 => {
                pool.install(|| parts.par_iter().map(run_part).collect::<Result<_>>())?
            }
            _ => parts.iter().map(run_part).collect::<Result<_>>()?,
        };

        let used_floor = whole_tables > 0 || done.iter().any(|d| d.used_floor);
        let used_expiry = done.iter().map(|d| d.used_expiry).max().unwrap_or(0);
        let dropped: u64 = done.iter().map(|d| d.dropped).sum();
        let dropped_tombstone = done.iter().map(|d| d.dropped_tombstone).max().unwrap_or(0);
        let finished: Vec<Finished> = done.into_iter().flat_map(|d| d.finished).collect();
        self.check_cancelled()?;
        if !finished.is_empty() {
            self.fs.sync_dir(&self.dir, SyncSite::TableDir)?;
        }

        let entries: u64 = job.inputs().map(|t| t.record.entries).sum();
        let built = Built {
            floor: floor.discard,
            clock: floor.clock,
            patience: patience(job, dropped, entries),
            call: job.call,
            ..Built::default()
        };
        let change = StoreChange {
            tables_removed: job.inputs().map(|t| t.id()).collect(),
            tables_added: finished.iter().map(|f| f.record.clone()).collect(),
            watermark: used_floor.then_some(floor.discard),
            clock: (used_expiry > 0).then_some(used_expiry),
            dropped_tombstone: (dropped_tombstone > 0).then_some(dropped_tombstone),
            ..StoreChange::default()
        };
        let written: u64 = finished.iter().map(|f| f.record.size).sum();
        let inputs = change.tables_removed.clone();
        let fresh = finished.iter().map(|f| self.table(f, built)).collect();
        let installation = Installation { inputs, fresh, ..Default::default() };
        let outcome = self.install_change(change, installation);
        let tables = finished.len();
        self.settle_outputs(finished, &outcome);
        if !outcome? {
            return Ok(false);
        }
        add(&self.work.compactions, 1);
        add(&self.work.dropped_entries, dropped);
        let counters = self.work.level(job.to);
        add(&counters.read, job.input_bytes());
        add(&counters.written, written);
        tracing::debug!(
            reason = ?job.reason, from = job.from, to = job.to, inputs = job.inputs().count(),
            read = job.input_bytes(), tables, written, dropped, "compacted"
        );
        Ok(true)
    }

    fn run_part(
        &self,
        job: &Job,
        part: &Part,
        floor: Floor,
        range_deletes: &Arc<RangeDeletes>,
    ) -> Result<PartDone> {
        // It may run on a thread of the pool.
        let _at_work = AtWork::begin(self);
        let wanted = |t: &&Arc<TableFile>| {
            let before = part.end.as_deref().is_some_and(|end| t.smallest() >= end);
            let behind = part.start.as_deref().is_some_and(|start| t.largest() < start);
            !before && !behind && !is_hidden(t, range_deletes, floor)
        };
        let mut inputs: Vec<Input> = Vec::new();
        let run = |tables: &[Arc<TableFile>]| -> Option<Input> {
            let tables: Vec<_> = tables.iter().filter(wanted).cloned().collect();
            (!tables.is_empty()).then(|| Input::tables_scan(tables))
        };
        if job.from == 0 {
            inputs.extend(job.upper.iter().filter(wanted).map(Input::table_scan));
        } else {
            inputs.extend(run(&job.upper));
        }
        inputs.extend(run(&job.lower));
        let older = OlderTables::new(job.older_top.clone(), &job.version, job.to);
        let keep = self.options.versions_to_keep;
        let mut dropping = Dropping::new(floor, keep, range_deletes.clone(), Some(older));
        let mut cuts = match job.to {
            0 => Cuts::none(),
            to => Cuts::new(
                self.options.table_size,
                job.version.levels().get(to + 1).cloned(),
                GRANDPARENT_TABLES * self.options.table_size,
                range_deletes.clone(),
            ),
        };
        let mut finished = merge_into_tables(
            &mut Merge::new(inputs),
            part,
            &mut dropping,
            &mut cuts,
            &self.writer_context(),
            job.to,
            &|bytes| self.go_on(job, bytes),
        )?;
        if let Some(last) = finished.last_mut() {
            self.check_cancelled()?;
            last.output.sync()?;
        }
        Ok(PartDone {
            finished,
            dropped: dropping.dropped,
            used_floor: dropping.used_floor,
            used_expiry: dropping.used_expiry,
            dropped_tombstone: dropping.dropped_tombstone,
        })
    }

    /// Whether a job may go on after these bytes, and when: one that nobody waits for keeps to the rate.
    fn go_on(&self, job: &Job, bytes: usize) -> Result<()> {
        if job.reason != Reason::Manual && self.started.load(Ordering::Relaxed) {
            let hurry = || self.closing.load(Ordering::Relaxed) || self.admission.slows();
            self.pacer.pay(bytes as u64, hurry);
        }
        self.check_cancelled()
    }

    /// After an installation: the files are kept if they are part of the tree or may turn out to
    /// be, and removed otherwise.
    pub(crate) fn settle_outputs(&self, finished: Vec<Finished>, outcome: &Result<bool>) {
        let keep = match outcome {
            Ok(installed) => *installed,
            Err(error) => error.may_be_installed(),
        };
        for table in finished {
            if keep {
                table.output.keep();
            }
        }
    }

    pub(crate) fn check_cancelled(&self) -> Result<()> {
        if self.closing.load(Ordering::Relaxed) { Err(Error::Closed) } else { Ok(()) }
    }
}

/// Whether a range delete that everybody sees hides all of a table.
fn is_hidden(table: &TableFile, ranges: &RangeDeletes, floor: Floor) -> bool {
    ranges.iter().any(|r| {
        r.version <= floor.discard
            && table.record.largest_version < r.version
            && crate::range_delete::contains(r, table.smallest())
            && crate::range_delete::contains(r, table.largest())
    })
}

/// When entries expire one by one, rewriting a table for each of them would never end: as long as
/// it yields little, wait twice as long before the next look.
fn patience(job: &Job, dropped: u64, entries: u64) -> u64 {
    if job.reason != Reason::Garbage || dropped * 10 >= entries {
        return 0;
    }
    let before = job.inputs().map(|t| t.built.patience).max().unwrap_or(0);
    (2 * before).clamp(1, MOST_PATIENCE)
}

/// What a panic said.
pub(crate) fn panic_message(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|s| (*s).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "no message".to_owned())
}

#[cfg(test)]
mod tests;
