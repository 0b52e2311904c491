//! Segments of the log that nothing refers to any more, and files that go.
//!
//! A segment is dead when it lies before the replay head and no table of the installed version
//! refers to it: everything in it was small and is in tables by now, or was overwritten or deleted
//! and compacted away. It is freed by one change set; only then its file is removed. Readers of
//! older superversions keep what they hold.
//!
//! Live bytes are the sum over the tables' records, never a counter, and the manifest refuses to
//! free a segment that a table refers to. So the worst that a mistake here could do is an error.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use kvdb_manifest::store::{PointerSum, StoreChange, StoreState};
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
            let (change, gone) = self.manifest.read_numbered(|state, changes| {
                let overview = self.collector.overview.of(state, changes);
                freeing(state, &overview.live, self.log_dir(), &busy)
            });
            if !change.segments_freed.is_empty() {
                tracing::debug!(?change.segments_freed, "freeing segments without live values");
                let segments = change.segments_freed.clone();
                self.tree.install(change)?;
                self.collector.forget_damage(&segments);
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

/// The change that frees what is dead, and the files, with their sizes, that go with it. `live` is what
/// tables refer to in each segment. Of
/// relocated segments the files of tables go that no other segment has its table in, and record files
/// that no other has records in.
fn freeing(
    state: &StoreState,
    live: &BTreeMap<u32, PointerSum>,
    dir: &Path,
    busy: &dyn Fn(u32) -> bool,
) -> (StoreChange, Vec<(PathBuf, u64)>) {
    let mut change = StoreChange::default();
    let mut gone = Vec::new();
    let dead = dead_segments(state, live, busy);
    if dead.is_empty() {
        return (change, gone);
    }
    let relocated =
        |id: &u32| state.segments().get(id).and_then(|segment| segment.relocated.as_ref());
    let still_used: BTreeSet<u64> = state
        .segments()
        .iter()
        .filter(|(id, _)| !dead.contains(id))
        .filter_map(|(_, segment)| segment.relocated.as_ref())
        .flat_map(|moved| moved.files.iter().copied().chain([moved.table]))
        .collect();
    let length = |file: &u64| state.log_files().get(file).map_or(0, |f| f.length);
    let (mut tables, mut unused) = (BTreeSet::new(), BTreeSet::new());
    for id in &dead {
        match (relocated(id), state.segments().get(id)) {
            (Some(moved), _) => {
                if !still_used.contains(&moved.table) && tables.insert(moved.table) {
                    change.log_files_removed.push(moved.table);
                    gone.push((relocation_table_path(dir, moved.table), length(&moved.table)));
                }
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

fn dead_segments(
    state: &StoreState,
    live: &BTreeMap<u32, PointerSum>,
    busy: &dyn Fn(u32) -> bool,
) -> BTreeSet<u32> {
    let Some(head) = state.replay_head() else { return BTreeSet::new() };
    let before = state.segments().range(..head.segment);
    // One that is not sealed yet is still to be reported by the log, which counts on its being there.
    let sealed = before.filter(|(_, segment)| segment.sealed.is_some()).map(|(&id, _)| id);
    sealed.filter(|id| !live.contains_key(id) && !busy(*id)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gc::Store;

    fn freeing(
        state: &StoreState,
        dir: &Path,
        busy: &dyn Fn(u32) -> bool,
    ) -> (StoreChange, Vec<(PathBuf, u64)>) {
        super::freeing(state, &state.live_bytes(), dir, busy)
    }

    /// Segments that are dead, in use, unsealed, and replayed; moved ones that share files.
    fn state() -> StoreState {
        let sealed = Some(4096);
        let files = [(10, 1000), (11, 2000), (12, 4000), (21, 1), (22, 2), (23, 4)];
        let store = files.iter().fold(Store::default(), |s, (file, len)| s.file(*file, *len));
        store
            .moved(1, 8192, 21, &[10, 11])
            .moved(2, 8192, 22, &[11, 12])
            .moved(3, 8192, 23, &[12])
            .segment(4, 8192, sealed)
            .segment(5, 8192, None)
            .segment(6, 8192, sealed)
            .segment(7, 8192, sealed)
            .segment(8, 8192, sealed)
            .table(1, 0, &[(2, 1, 10), (6, 1, 10)])
            .head(7, 100)
            .state()
    }

    #[test]
    fn what_is_dead_goes_with_the_files_that_nothing_else_is_in() {
        let dir = Path::new("/db");
        let (change, gone) = freeing(&state(), dir, &|_| false);
        assert_eq!(change.segments_freed, [1, 3, 4]);
        assert_eq!(change.log_files_removed, [21, 23, 10]);
        assert_eq!(
            gone,
            [
                (relocation_table_path(dir, 21), 1),
                (relocation_table_path(dir, 23), 4),
                (segment_path(dir, 104), 8192),
                (record_file_path(dir, 10), 1000),
            ]
        );
        kvdb_manifest::State::check(&state(), &change).unwrap();
    }

    #[test]
    fn a_file_of_several_tables_goes_with_the_last_segment_that_has_one_in_it() {
        let dir = Path::new("/db");
        let store = |live: &[(u32, u64, u64)]| {
            let files = [(10, 1000), (11, 2000), (20, 5)];
            files
                .iter()
                .fold(Store::default(), |s, (file, len)| s.file(*file, *len))
                .moved(1, 8192, 20, &[10])
                .moved(2, 8192, 20, &[11])
                .segment(7, 8192, None)
                .table(1, 0, live)
                .head(7, 100)
                .state()
        };
        let one = store(&[(2, 1, 10)]);
        let (change, gone) = freeing(&one, dir, &|_| false);
        assert_eq!(
            (&change.segments_freed[..], &change.log_files_removed[..]),
            (&[1][..], &[10][..])
        );
        assert_eq!(gone, [(record_file_path(dir, 10), 1000)]);
        kvdb_manifest::State::check(&one, &change).unwrap();
        let both = store(&[]);
        let (change, gone) = freeing(&both, dir, &|_| false);
        assert_eq!(change.log_files_removed, [20, 10, 11]);
        assert_eq!(gone.len(), 3);
        kvdb_manifest::State::check(&both, &change).unwrap();
    }

    #[test]
    fn what_is_being_collected_is_not_freed_and_keeps_its_files() {
        let (change, gone) = freeing(&state(), Path::new("/db"), &|segment| segment == 1);
        assert_eq!((change.segments_freed, change.log_files_removed), (vec![3, 4], vec![23]));
        assert_eq!(gone.len(), 2);
    }

    #[test]
    fn without_a_replay_head_nothing_is_dead() {
        let state = Store::default().segment(4, 8192, Some(4096)).state();
        assert_eq!(freeing(&state, Path::new("/db"), &|_| false), Default::default());
    }
}
