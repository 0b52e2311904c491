//! Segments of the log that nothing refers to any more.
//!
//! A segment is dead when it lies before the replay head and no table of the installed version
//! refers to it: everything in it was small and is in tables by now, or was overwritten or deleted
//! and compacted away. It is freed by one change set; only then its file is removed. Readers of older superversions keep what they hold.
//!
//! Live bytes are the sum over the tables' records, never a counter, and the manifest refuses to
//! free a segment that a table refers to. So the worst that a mistake here could do is an error.

use kvdb_manifest::store::{StoreChange, StoreState};

use crate::core::Core;
use crate::error::Result;

impl Core {
    /// Frees the dead segments, if there are any, and removes files that were freed earlier.
    pub(crate) fn free_dead_segments(&self) -> Result<bool> {
        let segments_freed = self.manifest.read(dead_segments);
        let any = !segments_freed.is_empty();
        if any {
            tracing::debug!(?segments_freed, "freeing segments without live values");
            self.tree.install(StoreChange { segments_freed, ..StoreChange::default() })?;
        }
        for path in self.tree.companion().take_doomed() {
            if let Err(error) = self.fs.remove(&path) {
                // The next opening finds it unnamed and removes it.
                tracing::warn!(%error, "removing a freed segment");
            }
        }
        Ok(any)
    }
}

fn dead_segments(state: &StoreState) -> Vec<u32> {
    let Some(head) = state.replay_head() else { return Vec::new() };
    let before = state.segments().range(..head.segment);
    if before.clone().next().is_none() {
        return Vec::new();
    }
    let live = state.live_bytes();
    before.map(|(&segment, _)| segment).filter(|segment| !live.contains_key(segment)).collect()
}
