//! What is done to a tree beside reading and writing it: flush, compaction, checks, figures.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use kvdb_manifest::store::{PointerSum, RangeDelete, StoreChange};
use kvdb_sstable::Cursor;

use crate::at_work::AtWork;
use crate::compaction::job::{self, Range};
use crate::compaction::pick::{Busy, Picker};
use crate::companion::{Companion, Floor};
use crate::cursor::Sourced;
use crate::entry::Entry;
use crate::error::{Error, Result};
use crate::graveyard::Remains;
use crate::install::Installation;
use crate::shared::Shared;
use crate::stats::Stats;
use crate::table::TableFile;
use crate::tree::Tree;
use crate::version::KeyOrder;

/// A unit of background work, for [`Tree::step`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Job {
    /// Flush one sealed memtable.
    Flush,
    /// Run one compaction, those for garbage included.
    Compact,
    /// Free what nobody reads any more, files included.
    Reclaim,
}

/// How long a caller of `wait_idle` waits, when all else is done, for what waits for the epoch. Not for
/// ever: it may hold a pin itself, and so may any reader of any tree.
const EPOCH_PATIENCE: Duration = Duration::from_secs(1);
/// How often it looks in that time at least: the process may be stopped meanwhile.
const EPOCH_LOOKS: u32 = 50;

impl<C: Companion> Tree<C> {
    /// Installs a change set of the caller's: durable in the manifest, then part of the current
    /// superversion, under the same lock as flushes and compactions.
    ///
    /// Numbers that only grow may be stale in `change`; they are raised to the manifest's. With
    /// `reset`, memtables are emptied as well; no reservation may be outstanding then.
    ///
    /// # Errors
    /// [`Error::Manifest`], [`Error::ReadOnly`], [`Error::Inconsistent`], [`Error::Closed`].
    pub fn install(&self, change: StoreChange) -> Result<()> {
        self.shared.install_change(change, Installation::default()).map(drop)
    }

    /// Whether the manifest takes no change any more, since it is not known what became of one.
    pub fn is_manifest_poisoned(&self) -> bool {
        self.shared.manifest.is_poisoned()
    }

    /// Deletes a range, which the caller's log holds durably, in a frame that was
    /// [routed](Self::route) and whose reservation is still held. From here on every reader at the
    /// range's version or later knows of it.
    ///
    /// If the manifest does not take it (the disk may be full), that is reported to `tracing` only:
    /// the next change set carries it, and the replay head does not pass the frame before.
    ///
    /// # Errors
    /// [`Error::ReadOnly`], [`Error::Inconsistent`], [`Error::Closed`], [`Error::Manifest`] if the
    /// manifest cannot have it.
    pub fn delete_range(&self, range: RangeDelete) -> Result<()> {
        let change = StoreChange {
            // No table will tell of this version.
            largest_version: Some(range.version),
            range_deletes_added: vec![range.clone()],
            ..StoreChange::default()
        };
        match self.install(change) {
            Err(Error::Manifest(error)) if error.is_refusal_to_write() => {
                tracing::warn!(%error, version = range.version, "a deleted range is in the log only");
                self.shared.owe(range);
                Ok(())
            }
            outcome => outcome,
        }
    }

    /// Hides what range deletes hide that the manifest does not know: for a tree that is opened for
    /// reading only, whose log holds them.
    pub fn hide(&self, ranges: Vec<RangeDelete>) {
        if ranges.is_empty() {
            return;
        }
        let shared = &self.shared;
        let change = StoreChange { range_deletes_added: ranges, ..StoreChange::default() };
        let _install = shared.install.lock();
        let current = shared.superversion();
        let memtables = shared.admission.lock();
        shared.current.replace(current.with_range_deletes(&memtables, &change));
    }

    /// Has something that nobody needs any more dropped where tables are that nobody reads: by a
    /// background thread, or by [`Job::Reclaim`]. For what takes long to drop, as the last map of
    /// a large file does.
    pub fn retire(&self, object: Box<dyn std::any::Any + Send>) {
        self.shared.tables.graveyard.push(Remains::Object(object));
    }

    /// Moves the replay head up to `end` (packed, as in [`route`](Self::route)), or to the first frame
    /// that is in a memtable, if that comes before. After a flush the head stands where the
    /// flushed frames end; when the log goes on elsewhere, this lets go of what lies between.
    /// `false`: the head is there already.
    ///
    /// Every frame before `end` must have been routed, and be durable.
    ///
    /// # Errors
    /// As [`install`](Self::install).
    pub fn advance_replay_head(&self, end: u64) -> Result<bool> {
        let parts = Installation { logged_to: Some(end), ..Installation::default() };
        self.shared.install_change(StoreChange::default(), parts)
    }

    /// Where the first frame that is in a memtable begins in the log (packed, as in
    /// [`route`](Self::route)); `None`: everything is in tables.
    pub fn unflushed_from(&self) -> Option<u64> {
        self.shared.admission.lock().replay_head_without(&[])
    }

    /// Seals the active memtable and wakes the flush thread. Does nothing if it is empty, or if there
    /// are [`Options::max_memtables`](crate::Options::max_memtables) already: flushes are behind then, and the
    /// next one makes room. Returns whether it has sealed one.
    ///
    /// # Errors
    /// [`Error::Memtable`] if there is no memory for another one.
    pub fn rotate(&self) -> Result<bool> {
        self.seal(true).map(|(sealed, _)| sealed)
    }

    /// Whether it has sealed one, and the newest sealed one.
    fn seal(&self, within_limit: bool) -> Result<(bool, Option<u64>)> {
        let current = &self.shared.current;
        self.shared.admission.rotate(within_limit, |memtables| {
            current.replace(current.pin().with_memtables(memtables));
        })
    }

    /// Seals the active memtable and waits until everything sealed is in durable tables.
    ///
    /// # Errors
    /// The failure of the flush; [`Error::Closed`]; [`Error::ReadOnly`].
    pub fn flush(&self) -> Result<()> {
        let shared = &self.shared;
        if shared.read_only {
            return Err(Error::ReadOnly);
        }
        let (_, Some(newest)) = self.seal(false)? else { return Ok(()) };
        loop {
            let mut state = shared.admission.lock();
            if state.sealed.first().is_none_or(|m| m.sequence() > newest) {
                return Ok(());
            }
            // Without threads nobody else tries again.
            let stops =
                |f: &&Error| f.concerns("flush") && (shared.has_threads() || !f.is_transient());
            if let Some(failure) = state.failure().filter(stops) {
                return Err(failure.clone());
            }
            if state.is_closed() {
                return Err(Error::Closed);
            }
            if shared.has_threads() || state.flushable().is_none() {
                shared.admission.wait_work(&mut state, None);
                continue;
            }
            drop(state);
            shared.flush_one()?;
            shared.admission.clear_transient_failure();
        }
    }

    /// The end of recovery: writes all memtables to level-0 tables and installs them in one change
    /// set together with `change`. Without a replay head in `change`, replay will start where the
    /// replayed frames end. Installs `change` also if nothing was replayed.
    ///
    /// # Errors
    /// As [`flush`](Self::flush); nothing is installed then.
    pub fn flush_recovered(&self, change: StoreChange) -> Result<()> {
        let shared = &self.shared;
        if shared.read_only {
            return Err(Error::ReadOnly);
        }
        self.seal(false)?;
        let _at_work = AtWork::begin(shared);
        let _one_at_a_time = shared.flushing.lock();
        let sealed = shared.admission.lock().sealed.clone();
        shared.flush_memtables(&sealed, change).map(drop)
    }

    /// Compacts everything from `start` to `end` (both inclusive; `None`: no bound) down to the
    /// last level that has tables, and rewrites what is there if something in it can go. Flushes
    /// first. Runs on the calling thread, beside background compactions. What is written meanwhile is
    /// not waited for.
    ///
    /// # Errors
    /// That of a job; [`Error::Closed`]; [`Error::ReadOnly`].
    pub fn compact_range(&self, start: Option<&[u8]>, end: Option<&[u8]>) -> Result<()> {
        self.flush()?;
        let shared = &self.shared;
        let current = shared.superversion();
        let largest = current.version().tables().map(|t| t.largest()).max();
        let Some(largest) = end.or(largest) else { return Ok(()) };
        let range =
            Range { smallest: start.unwrap_or_default().to_vec(), largest: largest.to_vec() };
        // Every job takes something this old further down, so it ends however much is written.
        let newest = current.version().tables().map(|t| t.record.largest_version).max();
        let newest = newest.unwrap_or(0);
        drop(current);
        let down = |picker: &Picker<'_>| picker.manual_down(&range, newest);
        while self.run_manual(down)? {}
        let rewritten_with = shared.companion.floor();
        let call = {
            let mut schedule = shared.scheduler.lock();
            schedule.calls += 1;
            schedule.calls
        };
        // Jobs in the background may have begun a deeper level since.
        while self.run_manual(|picker| match down(picker)? {
            Some(job) => Ok(Some(job)),
            None => {
                // If the clock went back, jobs drop by less than they could have.
                let clock = rewritten_with.clock.min(shared.companion.floor().clock);
                let floor = Floor { clock, ..rewritten_with };
                picker.manual_rewrite(&range, newest, floor, call)
            }
        })? {}
        Ok(())
    }

    /// Runs the job that `pick` finds on this thread, after waiting for those in its way. False: it
    /// found none.
    fn run_manual(
        &self,
        pick: impl Fn(&Picker<'_>) -> Result<Option<job::Job>, Busy>,
    ) -> Result<bool> {
        let shared = &self.shared;
        let mut schedule = shared.scheduler.lock();
        loop {
            shared.check_cancelled()?;
            let current = shared.superversion();
            let picker = Picker {
                version: current.version(),
                running: &schedule.running,
                options: &shared.options,
            };
            match pick(&picker) {
                Ok(None) => return Ok(false),
                Ok(Some(job)) => {
                    drop(current);
                    shared.run_reserved(job, schedule)?;
                    return Ok(true);
                }
                Err(_busy) => {
                    drop(current);
                    shared.scheduler.wait(&mut schedule, Some(Duration::from_millis(100)));
                }
            }
        }
    }

    /// [`compact_range`](Self::compact_range) over everything.
    ///
    /// # Errors
    /// As `compact_range`.
    pub fn major_compact(&self) -> Result<()> {
        self.compact_range(None, None)
    }

    /// Waits until background work has nothing left to do: no memtable to flush, no level to
    /// compact, no tombstone, expired entry or log garbage to look for, no file to remove. Does
    /// the work itself with
    /// [`Background::Manual`](crate::Background::Manual). What is pinned by readers is not waited for.
    ///
    /// # Errors
    /// [`Error::Background`], [`Error::Closed`].
    pub fn wait_idle(&self) -> Result<()> {
        let shared = &self.shared;
        if !shared.has_threads() {
            let mut held_up = None;
            loop {
                let flushed = !shared.read_only && self.step(Job::Flush)?;
                let compacted = !shared.read_only && self.step(Job::Compact)?;
                if flushed || compacted || self.step(Job::Reclaim)? {
                    held_up = None;
                    continue;
                }
                if shared.has_buried_what_it_can(&mut held_up) {
                    return Ok(());
                }
                std::thread::sleep(Duration::from_millis(1));
            }
        }
        let mut held_up = None;
        let mut schedule = shared.scheduler.lock();
        schedule.awaited += 1;
        let result = loop {
            if shared.is_closing() {
                break Err(Error::Closed);
            }
            if let Some(failure) = self.health() {
                break Err(failure);
            }
            if shared.read_only {
                break Ok(());
            }
            if !shared.is_settled(&schedule) || shared.can_retire_range_deletes() {
                held_up = None;
            } else if shared.has_buried_what_it_can(&mut held_up) {
                break Ok(());
            }
            drop(schedule);
            shared.scheduler.wake();
            let retired = shared.retire_range_deletes();
            schedule = shared.scheduler.lock();
            if let Err(error) = retired {
                break Err(error);
            }
            shared.scheduler.wait(&mut schedule, Some(Duration::from_millis(10)));
        };
        schedule.awaited -= 1;
        result
    }

    /// Does one unit of background work on the calling thread. False: there was nothing to do.
    ///
    /// # Errors
    /// That of the job, whose inputs are untouched then.
    pub fn step(&self, job: Job) -> Result<bool> {
        let shared = &self.shared;
        match job {
            Job::Flush => {
                let result = shared.flush_one();
                shared.note_outcome("flush", &result);
                result
            }
            Job::Compact => {
                if shared.read_only {
                    return Err(Error::ReadOnly);
                }
                if let Some(failure) = shared.fatal_failure() {
                    return Err(failure);
                }
                let schedule = shared.scheduler.lock();
                let Some(job) = shared.next_job(&schedule, true) else {
                    drop(schedule);
                    let result = shared.retire_range_deletes();
                    shared.note_outcome("compaction", &result);
                    return result;
                };
                shared.run_reserved(job, schedule).map(|_| true)
            }
            Job::Reclaim => Ok(shared.reclaim()),
        }
    }

    /// The failure of a background job, if there was one. A failure for want of space or descriptors
    /// is forgotten when a later job succeeds; every other one stays until the tree is opened anew.
    pub fn health(&self) -> Option<Error> {
        self.shared.admission.lock().failure().cloned()
    }

    /// Counts, sizes and scores. Costs a walk over the tables' records.
    pub fn stats(&self) -> Stats {
        self.shared.stats()
    }

    /// Reads every table from end to end: checksums, order, records (pointer sums among them)
    /// against contents, and that for
    /// every key nothing newer lies below something older.
    ///
    /// # Errors
    /// The first damage or inconsistency found.
    pub fn verify(&self) -> Result<()> {
        let current = self.superversion();
        current.version().check()?;
        for table in current.version().tables() {
            table.verify()?;
            self.recount(table)?;
        }
        // A merge that prefers upper levels: of one key, whoever comes first must be newer.
        let mut cursor = current.cursor();
        let mut order = KeyOrder::default();
        let mut valid = cursor.first()?;
        while valid {
            order.next(cursor.key(), cursor.version(), cursor.source())?;
            Entry::decode(cursor.value())?;
            valid = cursor.next()?;
        }
        Ok(())
    }

    /// Counts what a table's pointers refer to and compares it with the table's record.
    fn recount(&self, table: &TableFile) -> Result<()> {
        let companion = &self.shared.companion;
        let mut sums: BTreeMap<u32, PointerSum> = BTreeMap::new();
        let mut cursor = table.reader_for_walk(true)?.owned_cursor();
        let mut valid = cursor.first()?;
        while valid {
            let entry = Entry::decode(cursor.value())?;
            if entry.kind.is_pointer()
                && let Some((segment, bytes)) = companion.pointer(entry.payload)
            {
                let zero = PointerSum { segment, count: 0, bytes: 0 };
                let sum = sums.entry(segment).or_insert(zero);
                sum.count += 1;
                sum.bytes += u64::from(bytes);
            }
            valid = cursor.next()?;
        }
        if !sums.values().eq(&table.record.pointers) {
            let what = format!("pointer sums of table {} are {sums:?}", table.id());
            return Err(Error::Inconsistent(what));
        }
        Ok(())
    }
}

impl<C: Companion> Shared<C> {
    /// Whether what nobody reads any more is freed, but for what pins have held up for a while. The
    /// epoch moves on when every thread that reads just now, of whatever tree, is done. `held_up`: since
    /// when this was asked again and again, and how often.
    fn has_buried_what_it_can(&self, held_up: &mut Option<(Instant, u32)>) -> bool {
        let graveyard = &self.tables.graveyard;
        let (since, looks) = held_up.get_or_insert_with(|| (Instant::now(), 0));
        *looks += 1;
        let patient = *looks > EPOCH_LOOKS && since.elapsed() >= EPOCH_PATIENCE;
        graveyard.is_empty() || (graveyard.is_buried() && patient)
    }
}
