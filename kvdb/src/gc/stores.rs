//! Stores for tests: as a manifest knows them, and one with segments to be collected.

use std::sync::Arc;

use kvdb_manifest::State as _;
use kvdb_manifest::store::{
    LogFile, LogPosition, PointerSum, SegmentNamed, SegmentRelocated, SegmentSealed, StoreChange,
    StoreState, TableRecord,
};
use kvdb_vfs::{FaultFs, MemFs};

use super::collector::Claim;
use super::overview::Overview;
use crate::{Background, Db, Options};

/// Several sealed segments before the replay head, all of which is in use, read by position. Values are of
/// 50,000 bytes.
pub(crate) fn sealed_segments(inner: &Arc<MemFs>) -> (FaultFs, Db) {
    let fs = FaultFs::new(inner.clone());
    let options =
        Options::default().background(Background::Manual).segment_size(4 << 20).memory_map(false);
    let db = options.open_in(Arc::new(fs.clone()), "/db").unwrap();
    for key in 0..300u32 {
        db.put(key.to_be_bytes(), vec![0; 50_000]).unwrap();
    }
    let core = db.core();
    core.tree.flush().unwrap();
    while core.log().unwrap().prepare().unwrap() {}
    (fs, db)
}

/// All that can be collected of a store.
pub(crate) fn claim_all(db: &Db) -> Claim<'_> {
    db.core().collector.claim(db.core().manifest.read(Overview::new).units)
}

/// Says what there is, part by part.
#[derive(Debug, Default)]
pub(crate) struct Store(StoreChange);

impl Store {
    /// A segment in a file of its own, whose number is a hundred more.
    pub(crate) fn segment(mut self, segment: u32, capacity: u32, sealed: Option<u32>) -> Self {
        let file = u64::from(segment) + 100;
        let named = SegmentNamed { segment, file, nonce: 0, capacity, method: 0 };
        self.0.segments_named.push(named);
        let seal = |length| SegmentSealed { segment, length, frames: 1, checksum: 0 };
        self.0.segments_sealed.extend(sealed.map(seal));
        self
    }

    /// A sealed segment whose records were moved.
    pub(crate) fn moved(self, segment: u32, capacity: u32, table: u64, files: &[u64]) -> Self {
        let mut store = self.segment(segment, capacity, Some(capacity));
        let files = files.to_vec();
        store.0.segments_relocated.push(SegmentRelocated { segment, table, files });
        store
    }

    /// A record file or relocation table.
    pub(crate) fn file(mut self, file: u64, length: u64) -> Self {
        self.0.log_files_added.push(LogFile { file, nonce: 0, length });
        self
    }

    /// A table of a thousand bytes: segment, count and bytes of what it refers to.
    pub(crate) fn table(mut self, id: u64, level: u32, pointers: &[(u32, u64, u64)]) -> Self {
        let sum = |&(segment, count, bytes)| PointerSum { segment, count, bytes };
        let pointers = pointers.iter().map(sum).collect();
        let table = TableRecord { id, level, size: 1000, pointers, ..TableRecord::default() };
        self.0.tables_added.push(table);
        self
    }

    /// Where replay starts.
    pub(crate) fn head(mut self, segment: u32, offset: u32) -> Self {
        self.0.replay_head = Some(LogPosition { segment, offset });
        self
    }

    pub(crate) fn state(self) -> StoreState {
        let mut state = StoreState::default();
        state.check(&self.0).unwrap();
        state.apply(&self.0);
        state
    }
}
