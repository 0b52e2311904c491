//! Segments of the log that nothing refers to any more, and files that go.
//!
//! A segment is dead when it lies before the replay head and no table of the installed version
//! refers to it: everything in it was small and is in tables by now, or was overwritten or deleted
//! and compacted away. It is freed by one change set; only then its file is removed. Readers of
//! older superversions keep what they hold.
//!
//! Live bytes are the sum over the tables' records, never a counter, and the manifest refuses to
//! free a segment that a table refers to. So the worst that a mistake here could do is an error.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use kvdb_manifest::store::{StoreChange, StoreState};
use kvdb_vlog::{record_file_path, relocation_table_path, segment_path};

use crate::core::Core;
use crate::error::Result;

/// What was freed.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Freed {
    /// Number of files.
    pub(crate) files: u64,
    /// Their bytes.
    pub(crate) bytes: u64,
}

impl Core {
    /// Frees the dead segments, if there are any, and removes files that were freed earlier.
    pub(crate) fn free_dead_segments(&self) -> Result<Freed> {
        let mut freed = Freed::default();
        {
            let _choosing = self.collector.choosing();
            let busy = |segment| self.collector.is_busy(segment);
            let (change, gone) = self.manifest.read(|s| freeing(s, self.log_dir(), &busy));
            if !change.segments_freed.is_empty() {
                tracing::debug!(?change.segments_freed, "freeing segments without live values");
                self.tree.install(change)?;
                freed.files = gone.len() as u64;
                freed.bytes = gone.iter().map(|(_, bytes)| bytes).sum();
                self.collector.count(|totals| totals.bytes_removed += freed.bytes);
                self.collector.doom(gone.into_iter().map(|(path, _)| path));
            }
        }
        self.remove_doomed();
        Ok(freed)
    }

    /// Removes the files that no manifest names any more.
    pub(crate) fn remove_doomed(&self) {
        for path in self.collector.take_doomed() {
            if let Err(error) = self.fs.remove(&path) {
                // The next opening finds it unnamed and removes it.
                tracing::warn!(%error, "removing a freed file of the log");
            }
        }
    }
}

/// The change that frees what is dead, and the files, with their sizes, that go with it. Of
/// relocated segments the tables go, and record files that no other segment has records in.
fn freeing(
    state: &StoreState,
    dir: &Path,
    busy: &dyn Fn(u32) -> bool,
) -> (StoreChange, Vec<(PathBuf, u64)>) {
    let mut change = StoreChange::default();
    let mut gone = Vec::new();
    let dead = dead_segments(state, busy);
    let relocated =
        |id: &u32| state.segments().get(id).and_then(|segment| segment.relocated.as_ref());
    let still_used: BTreeSet<u64> = state
        .segments()
        .iter()
        .filter(|(id, _)| !dead.contains(id))
        .filter_map(|(_, segment)| segment.relocated.as_ref())
        .flat_map(|moved| moved.files.iter().copied())
        .collect();
    let length = |file: &u64| state.log_files().get(file).map_or(0, |f| f.length);
    let mut unused: BTreeSet<u64> = BTreeSet::new();
    for id in &dead {
        match (relocated(id), state.segments().get(id)) {
            (Some(moved), _) => {
                change.log_files_removed.push(moved.table);
                gone.push((relocation_table_path(dir, moved.table), length(&moved.table)));
                unused.extend(moved.files.iter().filter(|f| !still_used.contains(f)));
            }
            (None, Some(s)) => {
                gone.push((segment_path(dir, s.named.file), s.named.capacity.into()));
            }
            (None, None) => {}
        }
    }
    for file in unused {
        change.log_files_removed.push(file);
        gone.push((record_file_path(dir, file), length(&file)));
    }
    change.segments_freed = dead.into_iter().collect();
    (change, gone)
}

fn dead_segments(state: &StoreState, busy: &dyn Fn(u32) -> bool) -> BTreeSet<u32> {
    let Some(head) = state.replay_head() else { return BTreeSet::new() };
    let before = state.segments().range(..head.segment);
    if before.clone().next().is_none() {
        return BTreeSet::new();
    }
    let live = state.live_bytes();
    // One that is not sealed yet is still to be reported by the log, which counts on its being there.
    let sealed = before.filter(|(_, segment)| segment.sealed.is_some()).map(|(&id, _)| id);
    sealed.filter(|id| !live.contains_key(id) && !busy(*id)).collect()
}
