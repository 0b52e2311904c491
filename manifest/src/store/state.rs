//! What the change sets of a store add up to.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    LogFile, LogPosition, PointerSum, RangeDelete, SegmentNamed, SegmentRelocated, SegmentSealed,
    StoreChange, TableRecord,
};
use crate::{Inconsistent, State};

/// The format features that this version knows. A manifest with another one is not opened.
pub const KNOWN_FEATURES: &[&str] = &[SHARED_TABLES];

/// Several relocated segments may have their tables in one file.
pub const SHARED_TABLES: &str = "shared-relocation-tables";

/// The contents of a store: tables, log segments, where replay starts, and the numbers that must
/// never shrink.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct StoreState {
    pub(super) tables: BTreeMap<u64, TableRecord>,
    pub(super) segments: BTreeMap<u32, SegmentState>,
    pub(super) log_files: BTreeMap<u64, LogFile>,
    pub(super) range_deletes: BTreeMap<u64, Vec<RangeDelete>>,
    pub(super) replay_head: Option<LogPosition>,
    pub(super) largest_version: u64,
    pub(super) watermark: u64,
    pub(super) clock: u64,
    pub(super) dropped_tombstone: u64,
    pub(super) next_file: u64,
    pub(super) next_segment: u32,
    pub(super) features: BTreeSet<String>,
    pub(super) log_apart: Option<bool>,
}

/// One log segment that exists.
#[derive(Debug, Clone, PartialEq)]
pub struct SegmentState {
    /// Its name and the file it was written to.
    pub named: SegmentNamed,
    /// Its final shape, once it is no longer appended to.
    pub sealed: Option<SegmentSealed>,
    /// Where its live records are, once they were moved. The file it was written to is then no
    /// longer part of the store.
    pub relocated: Option<SegmentRelocated>,
}

impl StoreState {
    /// The tables by id.
    pub fn tables(&self) -> &BTreeMap<u64, TableRecord> {
        &self.tables
    }

    /// The tables of each level that has any: level 0 by largest version, newest first; deeper
    /// levels by smallest key. O(n log n).
    pub fn tables_by_level(&self) -> BTreeMap<u32, Vec<&TableRecord>> {
        let mut levels: BTreeMap<u32, Vec<&TableRecord>> = BTreeMap::new();
        for table in self.tables.values() {
            levels.entry(table.level).or_default().push(table);
        }
        for (level, tables) in &mut levels {
            match level {
                0 => tables.sort_by_key(|t| std::cmp::Reverse((t.largest_version, t.id))),
                _ => tables.sort_by(|a, b| (&a.smallest_key, a.id).cmp(&(&b.smallest_key, b.id))),
            }
        }
        levels
    }

    /// The log segments by id.
    pub fn segments(&self) -> &BTreeMap<u32, SegmentState> {
        &self.segments
    }

    /// The files with relocated records and the relocation tables, by file id.
    pub fn log_files(&self) -> &BTreeMap<u64, LogFile> {
        &self.log_files
    }

    /// The range deletes that have to be consulted, oldest first.
    pub fn range_deletes(&self) -> impl Iterator<Item = &RangeDelete> {
        self.range_deletes.values().flatten()
    }

    /// Where replay of the log starts; `None`: nothing was ever logged, or nothing is known.
    pub fn replay_head(&self) -> Option<LogPosition> {
        self.replay_head
    }

    /// The largest version that may have been handed out, as far as the manifest knows.
    pub fn largest_version(&self) -> u64 {
        self.largest_version
    }

    /// The largest discard watermark of any table: reading below it is an error.
    pub fn watermark(&self) -> u64 {
        self.watermark
    }

    /// The latest expiry for which an entry was ever dropped, in seconds since 1970: no clock may be
    /// below it.
    pub fn clock(&self) -> u64 {
        self.clock
    }

    /// The largest version of a tombstone that was removed outright.
    pub fn dropped_tombstone(&self) -> u64 {
        self.dropped_tombstone
    }

    /// No file id below this is free.
    pub fn next_file(&self) -> u64 {
        self.next_file
    }

    /// No segment id below this is free.
    pub fn next_segment(&self) -> u32 {
        self.next_segment
    }

    /// The format features the store uses.
    pub fn features(&self) -> &BTreeSet<String> {
        &self.features
    }

    /// Whether the log's files lie in a directory of their own, if the store says so.
    pub fn log_apart(&self) -> Option<bool> {
        self.log_apart
    }

    /// What the tables refer to in each segment that they refer to at all: its live records. The
    /// rest of the segment is garbage. A sum over all tables, never a counter.
    pub fn live_bytes(&self) -> BTreeMap<u32, PointerSum> {
        let mut sums: BTreeMap<u32, PointerSum> = BTreeMap::new();
        for p in self.tables.values().flat_map(|t| &t.pointers) {
            let zero = PointerSum { segment: p.segment, count: 0, bytes: 0 };
            let sum = sums.entry(p.segment).or_insert(zero);
            sum.count = sum.count.saturating_add(p.count);
            sum.bytes = sum.bytes.saturating_add(p.bytes);
        }
        sums
    }

    /// What a snapshot does not name is gone; what only grows, the features and the place of the log stay.
    fn reset(&mut self) {
        self.tables.clear();
        self.segments.clear();
        self.log_files.clear();
        self.range_deletes.clear();
        self.replay_head = None;
    }

    fn saw_file(&mut self, id: u64) {
        self.next_file = self.next_file.max(id.saturating_add(1));
    }
}

impl State for StoreState {
    type Change = StoreChange;

    fn check(&self, change: &StoreChange) -> Result<(), Inconsistent> {
        super::check::check(self, change)
    }

    fn apply(&mut self, c: &StoreChange) {
        if c.reset {
            self.reset();
        }
        for id in &c.tables_removed {
            self.tables.remove(id);
        }
        for table in &c.tables_added {
            self.saw_file(table.id);
            self.tables.insert(table.id, table.clone());
        }
        for &named in &c.segments_named {
            self.saw_file(named.file);
            self.next_segment = self.next_segment.max(named.segment.saturating_add(1));
            let segment = SegmentState { named, sealed: None, relocated: None };
            self.segments.insert(named.segment, segment);
        }
        for sealed in &c.segments_sealed {
            if let Some(segment) = self.segments.get_mut(&sealed.segment) {
                segment.sealed = Some(*sealed);
            }
        }
        for relocated in &c.segments_relocated {
            if let Some(segment) = self.segments.get_mut(&relocated.segment) {
                segment.relocated = Some(relocated.clone());
            }
        }
        for id in &c.segments_freed {
            self.segments.remove(id);
        }
        for id in &c.log_files_removed {
            self.log_files.remove(id);
        }
        for &file in &c.log_files_added {
            self.saw_file(file.file);
            self.log_files.insert(file.file, file);
        }
        for version in &c.range_deletes_removed {
            self.range_deletes.remove(version);
        }
        for delete in &c.range_deletes_added {
            self.range_deletes.entry(delete.version).or_default().push(delete.clone());
        }
        self.replay_head = c.replay_head.or(self.replay_head);
        self.largest_version = c.largest_version.unwrap_or(self.largest_version);
        self.watermark = c.watermark.unwrap_or(self.watermark);
        self.clock = c.clock.unwrap_or(self.clock);
        self.dropped_tombstone = c.dropped_tombstone.unwrap_or(self.dropped_tombstone);
        self.next_file = self.next_file.max(c.next_file.unwrap_or(0));
        self.next_segment = self.next_segment.max(c.next_segment.unwrap_or(0));
        self.features.extend(c.features_added.iter().cloned());
        self.log_apart = c.log_apart.or(self.log_apart);
    }

    fn snapshot(&self) -> StoreChange {
        let segments = self.segments.values();
        StoreChange {
            reset: true,
            tables_added: self.tables.values().cloned().collect(),
            segments_named: segments.clone().map(|s| s.named).collect(),
            segments_sealed: segments.clone().filter_map(|s| s.sealed).collect(),
            segments_relocated: segments.filter_map(|s| s.relocated.clone()).collect(),
            log_files_added: self.log_files.values().copied().collect(),
            replay_head: self.replay_head,
            largest_version: Some(self.largest_version),
            watermark: Some(self.watermark),
            clock: Some(self.clock),
            dropped_tombstone: Some(self.dropped_tombstone),
            range_deletes_added: self.range_deletes().cloned().collect(),
            next_file: Some(self.next_file),
            next_segment: Some(self.next_segment),
            features_added: self.features.iter().cloned().collect(),
            log_apart: self.log_apart,
            ..StoreChange::default()
        }
    }
}
