//! Closing tables: there may be only so many open at a time, with only so much memory for their
//! indexes and filters.
//!
//! An open table keeps a descriptor, and a map or its index in memory. A read of an open table must
//! not pay for the bound, so nothing is kept in order of use: each table has a flag that reads set if
//! it is not set (one load otherwise), and the janitor goes round when a limit is reached, clears flags
//! and closes what it finds unread since the last time (the clock, or second-chance, rule). Closing is
//! installing a superversion with other handles, so whoever reads from an older one goes on
//! undisturbed, and its tables stay open until it is dropped. Readers who come faster than the janitor
//! find that no more tables may be open, and open those they need for themselves.
//!
//! What is open in the current superversion is counted where it changes, so that whoever reaches a limit
//! knows it and wakes the janitor, and nothing has to be looked at again when somebody lets go of an older
//! one. Until a superversion that nobody holds is freed, what only it has open counts as well.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::companion::Companion;
use crate::error::Error;
use crate::install::InstallState;
use crate::shared::Shared;
use crate::superversion::{Superversion, drive_epoch};

/// How long a read that found no descriptor waits at most until what it had closed is free: other
/// threads' pins, and whoever installs something, may hold that up. It looks so many times one behind the
/// other, then every millisecond.
const FREE_PATIENCE: Duration = Duration::from_millis(50);
const HASTY_ROUNDS: u32 = 10;

impl<C: Companion> Shared<C> {
    /// Closes tables that were not read lately while as many are open, or take as much memory, as may.
    /// True if there were any.
    pub(crate) fn close_idle_tables(&self) -> bool {
        self.tables.has_excess() && self.close_unread(&mut self.install.lock())
    }

    /// For a read that failed with this error and holds nothing any more: if it was for want of a
    /// descriptor, closes tables that were not read lately, and says that another try is worth it. (It is
    /// also where nothing had to be closed any more: somebody else may have been quicker.)
    pub(crate) fn free_descriptors(&self, error: &Error) -> bool {
        if !error.is_out_of_descriptors() {
            return false;
        }
        let (tables, graveyard) = (&self.tables, &self.tables.graveyard);
        let began = Instant::now();
        for round in 0.. {
            // Whoever installs something holds the lock while the manifest is synced, and may call a
            // companion that reads.
            if tables.has_excess()
                && let Some(mut install) = self.install.try_lock()
            {
                self.close_unread(&mut install);
            }
            drive_epoch();
            graveyard.bury(&*self.fs);
            let done = !tables.has_excess() && graveyard.is_empty();
            if done || began.elapsed() >= FREE_PATIENCE {
                break;
            }
            if round >= HASTY_ROUNDS {
                std::thread::sleep(Duration::from_millis(1));
            }
        }
        true
    }

    fn close_unread(&self, install: &mut InstallState) -> bool {
        let tables = &self.tables;
        let current = self.superversion();
        let version = current.version();
        let candidates: Vec<_> = version.tables().filter(|t| t.opened().is_some()).collect();
        let held: u64 = candidates.iter().map(|t| t.held()).sum();
        let (limit, open_limit) = (tables.sections_limit, tables.open_limit());
        if held < limit && candidates.len() < open_limit {
            return false;
        }
        // Some more than must be, so that it is not done again at once.
        let mut excess_bytes = held.saturating_sub(limit / 4 * 3);
        let mut excess = candidates.len().saturating_sub(open_limit / 4 * 3);
        let mut closed = HashSet::new();
        let count = candidates.len();
        for turn in 0..2 * count {
            if excess == 0 && excess_bytes == 0 {
                break;
            }
            install.hand = (install.hand + 1) % count;
            let table = candidates[install.hand];
            let bytes = table.held();
            let spared = turn < count && table.take_used();
            if spared || (excess == 0 && bytes == 0) || !closed.insert(table.id()) {
                continue;
            }
            excess = excess.saturating_sub(1);
            excess_bytes = excess_bytes.saturating_sub(bytes);
        }
        // A handle that an older superversion has too must not be opened any more by readers of this one:
        // it would be open there for as long as that is held, and in the end all of them would be.
        let next = version.with_closed(|level, t| {
            let shared = || Arc::strong_count(level) > 1 || Arc::strong_count(t) > 1;
            closed.contains(&t.id()) || (t.opened().is_none() && shared())
        });
        if candidates.len() >= open_limit {
            tables.relax_open_limit();
        }
        // Only memtables change without the install lock.
        let memtables = self.admission.lock();
        self.current.replace(Superversion::new(
            &memtables,
            Arc::new(next),
            current.view().clone(),
            current.range_deletes().clone(),
            current.watermark(),
            self.reads.clone(),
        ));
        true
    }
}
