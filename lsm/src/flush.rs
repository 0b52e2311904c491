//! From a sealed memtable to a table of level 0.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Instant;

use kvdb_manifest::store::StoreChange;
use kvdb_vfs::SyncSite;

use crate::at_work::AtWork;
use crate::compaction::dropping::Dropping;
use crate::compaction::merge::{Cuts, merge_into_tables};
use crate::compaction::run::panic_message;
use crate::compaction::split::Part;
use crate::companion::{Companion, Floor, HeldFloor};
use crate::cursor::Input;
use crate::error::{Error, Result};
use crate::install::Installation;
use crate::memtable::Memtable;
use crate::shared::Shared;
use crate::stats::add;
use crate::table::Built;
use crate::table_writer::Finished;

impl<C: Companion> Shared<C> {
    /// Flushes the oldest sealed memtable, if every frame routed to it is applied. False: there is
    /// nothing to flush now.
    pub(crate) fn flush_one(&self) -> Result<bool> {
        if self.read_only {
            return Err(Error::ReadOnly);
        }
        let _at_work = AtWork::begin(self);
        let _one_at_a_time = self.flushing.lock();
        let Some(memtable) = self.admission.lock().flushable() else { return Ok(false) };
        let memtables = [memtable];
        let _span = tracing::debug_span!("flush").entered();
        let start = Instant::now();
        let flush = || self.flush_memtables(&memtables, StoreChange::default());
        let result = match catch_unwind(AssertUnwindSafe(flush)) {
            Ok(result) => result,
            Err(panic) => Err(Error::Panic(panic_message(&*panic))),
        };
        if let Err(error) = &result {
            add(&self.work.failed_jobs, 1);
            self.tables.note_refusal(error);
        }
        if let (Ok(true), [memtable]) = (&result, &memtables) {
            self.admission.note_flushed(memtable.bytes(), start.elapsed());
        }
        result.map(|_| true)
    }

    /// Writes each of these memtables (the oldest sealed ones, oldest first) into a table of level 0
    /// and installs all of them with one change set, made from `change`.
    pub(crate) fn flush_memtables(
        &self,
        memtables: &[Arc<Memtable>],
        mut change: StoreChange,
    ) -> Result<bool> {
        self.check_cancelled()?;
        let held = HeldFloor::new(&*self.companion);
        let floor = held.floor;
        let mut used_floor = false;
        let mut used_expiry = 0;
        let mut finished: Vec<Finished> = Vec::new();
        for memtable in memtables {
            let (table, dropping) = self.write_memtable(memtable, floor)?;
            used_floor |= dropping.used_floor;
            used_expiry = used_expiry.max(dropping.used_expiry);
            finished.extend(table);
        }
        let log_end = memtables.iter().map(|m| m.end()).max().unwrap_or(0);
        // The log first: a table must never be durable with entries that the log may still lose.
        self.companion
            .before_install(&mut change, log_end)
            .map_err(|e| Error::Companion(Arc::from(e)))?;
        for table in &mut finished {
            self.check_cancelled()?;
            table.output.sync()?;
        }
        if !finished.is_empty() {
            self.fs.sync_dir(&self.dir, SyncSite::TableDir)?;
        }
        let largest = finished.iter().map(|f| f.record.largest_version).max();
        change.largest_version = change.largest_version.max(largest);
        if used_floor {
            change.watermark = change.watermark.max(Some(floor.discard));
        }
        if used_expiry > 0 {
            change.clock = change.clock.max(Some(used_expiry));
        }
        change.tables_added.extend(finished.iter().map(|f| f.record.clone()));
        let written: u64 = finished.iter().map(|f| f.record.size).sum();
        let built = Built::default();
        let fresh = finished.iter().map(|f| self.table(f, built)).collect();
        let installation =
            Installation { fresh, flushed: memtables.to_vec(), ..Default::default() };
        let outcome = self.install_change(change, installation);
        self.settle_outputs(finished, &outcome);
        if !outcome? {
            return Ok(false);
        }
        add(&self.work.flushes, memtables.len() as u64);
        add(&self.work.flushed_bytes, written);
        add(&self.work.level(0).written, written);
        self.note_flush();
        tracing::debug!(memtables = memtables.len(), written, "flushed");
        Ok(true)
    }

    fn write_memtable(
        &self,
        memtable: &Arc<Memtable>,
        floor: Floor,
    ) -> Result<(Option<Finished>, Dropping)> {
        let range_deletes = self.current.pin().range_deletes().clone();
        let keep = self.options.versions_to_keep;
        let mut dropping = Dropping::new(floor, keep, range_deletes, None);
        let mut tables = merge_into_tables(
            &mut Input::memtable(memtable),
            &Part::default(),
            &mut dropping,
            &mut Cuts::none(),
            &self.writer_context(),
            0,
            &|_| self.check_cancelled(),
        )?;
        Ok((tables.pop(), dropping))
    }
}
