//! What there is to collect, made once for each state of the manifest.
//!
//! It takes time in proportion to the tables and segments of the store, and is looked at several times a
//! second, while the manifest changes with every flush or compaction.

use std::collections::BTreeMap;
use std::sync::Arc;

use kvdb_manifest::store::{PointerSum, StoreState};
use parking_lot::Mutex;

use super::units::{Unit, collectable};
use crate::core::Core;

/// The units of a store, and sums over its tables.
#[derive(Debug)]
pub(crate) struct Overview {
    /// What may be collected.
    pub(crate) units: Vec<Unit>,
    pub(crate) next_segment: u32,
    /// What tables refer to in each segment.
    pub(crate) live: BTreeMap<u32, PointerSum>,
    /// Bytes of tables.
    pub(super) tree: u64,
    /// What tables above the last level refer to in the log.
    pub(super) upper: u64,
}

impl Overview {
    pub(crate) fn new(state: &StoreState) -> Self {
        let live = state.live_bytes();
        Overview {
            units: collectable(state, &live),
            next_segment: state.next_segment(),
            live,
            tree: state.tables().values().map(|t| t.size).sum(),
            upper: upper_bytes(state),
        }
    }
}

fn upper_bytes(state: &StoreState) -> u64 {
    let last = state.tables().values().map(|t| t.level).max().unwrap_or(0);
    let upper = state.tables().values().filter(|t| t.level < last || last == 0);
    upper.flat_map(|t| &t.pointers).map(|p| p.bytes).sum()
}

/// The last overview that was made, and how many changes had led to its state.
#[derive(Debug, Default)]
pub(crate) struct Latest(Mutex<Option<(u64, Arc<Overview>)>>);

impl Latest {
    /// That of `state`, to which so many changes have led.
    pub(crate) fn of(&self, state: &StoreState, changes: u64) -> Arc<Overview> {
        let mut latest = self.0.lock();
        if let Some((_, overview)) = latest.as_ref().filter(|(of, _)| *of == changes) {
            return overview.clone();
        }
        let overview = Arc::new(Overview::new(state));
        *latest = Some((changes, overview.clone()));
        overview
    }
}

impl Core {
    /// What there is to collect now.
    pub(super) fn overview(&self) -> Arc<Overview> {
        self.manifest.read_numbered(|state, changes| self.collector.overview.of(state, changes))
    }
}

#[cfg(test)]
mod tests {
    use kvdb_vfs::MemFs;

    use super::super::stores::sealed_segments;
    use super::*;

    #[test]
    fn one_overview_is_made_for_each_state_and_looked_at_by_all_who_collect() {
        let (_fs, db) = sealed_segments(&Arc::new(MemFs::new()));
        let core = db.core();
        let mut before = core.overview();
        let mut is_new = || {
            let now = core.overview();
            !Arc::ptr_eq(&std::mem::replace(&mut before, now.clone()), &now)
        };
        db.put("k", "v").unwrap();
        core.survey(core.log().unwrap().end());
        assert!(!core.collect_step().unwrap(), "all is in use");
        assert!(!is_new(), "the manifest is as it was");
        db.flush().unwrap();
        assert!(is_new());
        for key in 0..200u32 {
            db.delete(key.to_be_bytes()).unwrap();
        }
        db.compact().unwrap();
        assert!(is_new() && core.collect_step().unwrap());
        assert!(is_new() && !is_new());
        let now = core.manifest.read(Overview::new);
        assert_eq!((&before.units, before.next_segment), (&now.units, now.next_segment));
    }
}
