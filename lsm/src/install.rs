//! The one way in which the tree changes: manifest first, then the superversion.

use std::collections::{HashMap, HashSet};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use kvdb_manifest::store::{RangeDelete, StoreChange};

use crate::at_work::AtWork;
use crate::compaction::run::panic_message;
use crate::companion::Companion;
use crate::error::{Error, Result};
use crate::memtable::Memtable;
use crate::shared::Shared;
use crate::stall::Pressure;
use crate::superversion::Superversion;
use crate::table::TableFile;
use crate::version::apply_range_deletes;

/// So many entries from the start of each new table on are held against those above and below before
/// the table is installed, if the tree is paranoid.
const CHECKED: usize = 10_000;

/// What goes with a change set.
#[derive(Default)]
pub(crate) struct Installation {
    /// Tables that must still be part of the tree; if one is not, nothing is installed.
    pub(crate) inputs: Vec<u64>,
    /// Handles of tables that the change adds.
    pub(crate) fresh: Vec<Arc<TableFile>>,
    /// Memtables whose contents the added tables hold.
    pub(crate) flushed: Vec<Arc<Memtable>>,
    /// Every frame of the log before this position was routed: the replay head may move up to it
    /// as far as memtables permit.
    pub(crate) logged_to: Option<u64>,
}

/// What the install lock protects beside the right to install.
#[derive(Debug, Default)]
pub(crate) struct InstallState {
    /// For each range delete the newest memtable that may hold something it hides.
    barriers: HashMap<u64, u64>,
    /// The same for range deletes that were there when the tree was opened; `None` before
    /// recovery is done.
    pub(crate) first_barrier: Option<u64>,
    /// Range deletes that readers know of and the manifest does not yet. The next change set, whatever
    /// it is, carries them: so the replay head never passes one that is in the log only.
    owed: Vec<RangeDelete>,
    /// Where the search for tables to close goes on.
    pub(crate) hand: usize,
}

impl InstallState {
    /// The change as the manifest is to have it, if that differs.
    fn with_owed(&self, change: &StoreChange, largest: u64) -> Option<StoreChange> {
        if self.owed.is_empty() || change.reset {
            return None;
        }
        // None of them is over: it bars a memtable, whose flush would have been such a change set.
        let mut change = change.clone();
        change.range_deletes_added.extend(self.owed.iter().cloned());
        if let Some(newest) = change.range_deletes_added.iter().map(|r| r.version).max() {
            change.largest_version = change.largest_version.max(Some(newest.max(largest)));
        }
        Some(change)
    }
}

impl<C: Companion> Shared<C> {
    /// [`install_change`](Self::install_change), on this thread. A panic in the companion is an error:
    /// the manifest may have the change then.
    pub(crate) fn install_here(&self, change: StoreChange, parts: Installation) -> Result<bool> {
        let _at_work = AtWork::begin(self);
        match catch_unwind(AssertUnwindSafe(|| self.install_or_panic(change, parts))) {
            Ok(result) => result,
            Err(panic) => Err(Error::Panic(panic_message(&*panic))),
        }
    }

    fn install_or_panic(&self, mut change: StoreChange, parts: Installation) -> Result<bool> {
        if self.read_only {
            return Err(Error::ReadOnly);
        }
        let mut install = self.install.lock();
        // `Tree::close` sets this and takes the lock: whoever opens the store next has it alone.
        self.check_cancelled()?;
        let current = self.superversion();
        let version = current.version();
        let inputs: HashSet<u64> = parts.inputs.iter().copied().collect();
        let there = version.tables().filter(|t| inputs.contains(&t.id())).count();
        let flushed_are_there = {
            let memtables = self.admission.lock();
            let sealed = &memtables.sealed;
            let replay = memtables.replay_head_without(&parts.flushed);
            if !parts.flushed.is_empty() && change.replay_head.is_none() {
                change.replay_head = replay.map(unpack);
            }
            if let Some(end) = parts.logged_to {
                let head = memtables.replay_head_without(&[]).map_or(end, |start| start.min(end));
                change.replay_head = Some(unpack(head));
                if self.manifest.read(|s| s.replay_head()) >= change.replay_head {
                    return Ok(false);
                }
            }
            parts.flushed.iter().all(|f| sealed.iter().any(|s| Arc::ptr_eq(f, s)))
        };
        if !flushed_are_there || there < inputs.len() {
            return Ok(false);
        }
        let listed = |v: &u64| current.range_deletes().iter().any(|r| r.version == *v);
        change.range_deletes_removed.retain(listed);
        self.complete(&mut change);
        let recorded = install.with_owed(&change, self.manifest.read(|s| s.largest_version()));
        let next = Arc::new(version.apply(&change, &parts.fresh, &self.tables));
        if self.options.paranoid {
            next.check()?;
            // Those that only change their level too.
            let added: HashSet<u64> = change.tables_added.iter().map(|t| t.id).collect();
            for table in next.tables().filter(|t| added.contains(&t.id())) {
                next.check_versions(table, CHECKED)?;
            }
        }
        let gone: Vec<Arc<TableFile>> = {
            let removed: HashSet<u64> = change.tables_removed.iter().copied().collect();
            let moved: HashSet<u64> = change.tables_added.iter().map(|t| t.id).collect();
            let goes = |t: &&Arc<TableFile>| {
                (change.reset || removed.contains(&t.id())) && !moved.contains(&t.id())
            };
            version.tables().filter(goes).cloned().collect()
        };

        self.manifest.append(recorded.as_ref().unwrap_or(&change))?;
        install.owed.clear();

        // From here on nothing fails.
        self.companion.installed(&change);
        let view = self.companion.view();
        let range_deletes = apply_range_deletes(current.range_deletes(), &change);
        let watermark = current.watermark().max(change.watermark.unwrap_or(0));
        let debt = self.debt(&next);
        let pressure = Pressure::new(&self.options, next.level(0).tables().len(), debt);
        {
            let mut memtables = self.admission.lock();
            if change.reset {
                memtables.discard_all(&self.admission);
            }
            memtables.remove_sealed(&parts.flushed);
            for range in &change.range_deletes_added {
                install.barriers.insert(range.version, memtables.active.newest_written());
            }
            let reads = self.reads.clone();
            let superversion =
                Superversion::new(&memtables, next, view, range_deletes, watermark, reads);
            self.current.replace(superversion);
            self.admission.set_pressure(&mut memtables, pressure);
        }
        for table in gone {
            table.mark_obsolete();
        }
        drop(install);
        self.admission.wake_all();
        self.scheduler.wake();
        Ok(true)
    }

    /// Has readers know of a range delete that the manifest does not take now.
    pub(crate) fn owe(&self, range: RangeDelete) {
        let mut install = self.install.lock();
        let current = self.superversion();
        {
            let memtables = self.admission.lock();
            install.barriers.insert(range.version, memtables.active.newest_written());
            let change =
                StoreChange { range_deletes_added: vec![range.clone()], ..StoreChange::default() };
            self.current.replace(current.with_range_deletes(&memtables, &change));
        }
        install.owed.push(range);
        drop(install);
        self.scheduler.wake();
    }

    /// Numbers that only grow are never smaller than the manifest's: two jobs may finish in another
    /// order than they began.
    fn complete(&self, change: &mut StoreChange) {
        let next_file = self.ids.bound();
        self.manifest.read(|state| {
            let raise = |value: &mut Option<u64>, least: u64| {
                if let Some(value) = value {
                    *value = (*value).max(least);
                }
            };
            raise(&mut change.watermark, state.watermark());
            raise(&mut change.clock, state.clock());
            raise(&mut change.dropped_tombstone, state.dropped_tombstone());
            raise(&mut change.largest_version, state.largest_version());
            change.next_file = Some(next_file.max(state.next_file()));
            if let Some(head) = state.replay_head()
                && change.replay_head.is_some_and(|new| new < head)
                && !change.reset
            {
                change.replay_head = None;
            }
        });
    }

    /// Range deletes that hide nothing any more: no memtable and no table has anything older.
    fn applied_range_deletes(&self) -> Vec<u64> {
        let current = self.superversion();
        if current.range_deletes().is_empty() {
            return Vec::new();
        }
        drop(current);
        let install = self.install.lock();
        let current = self.superversion();
        let oldest = self.admission.lock().oldest_sequence();
        let mut done: Vec<u64> = Vec::new();
        let mut open: Vec<u64> = Vec::new();
        for range in current.range_deletes().iter() {
            let barrier = install.barriers.get(&range.version).copied();
            let flushed = barrier.or(install.first_barrier).is_some_and(|b| oldest > b);
            let applied = flushed && !current.version().holds_older_than(range);
            if applied { &mut done } else { &mut open }.push(range.version);
        }
        done.sort_unstable();
        done.dedup();
        // Several ranges may share a version; they go together.
        done.retain(|v| !open.contains(v));
        done
    }

    /// Whether [`retire_range_deletes`](Self::retire_range_deletes) would do something.
    pub(crate) fn can_retire_range_deletes(&self) -> bool {
        !self.applied_range_deletes().is_empty()
    }

    /// Takes range deletes off the list that hide nothing any more. True if there were any.
    pub(crate) fn retire_range_deletes(&self) -> Result<bool> {
        let done = self.applied_range_deletes();
        if done.is_empty() {
            return Ok(false);
        }
        // Nothing older can have come in since: versions only grow, and tables are made of tables.
        // An incremental backup from below it would not hear of it any more.
        let change = StoreChange {
            range_deletes_removed: done.clone(),
            dropped_tombstone: done.iter().max().copied(),
            ..StoreChange::default()
        };
        self.install_change(change, Installation::default())?;
        let mut install = self.install.lock();
        install.barriers.retain(|version, _| !done.contains(version));
        Ok(true)
    }
}

/// A packed log position as the manifest has it.
pub(crate) fn unpack(position: u64) -> kvdb_manifest::store::LogPosition {
    kvdb_manifest::store::LogPosition { segment: (position >> 32) as u32, offset: position as u32 }
}
