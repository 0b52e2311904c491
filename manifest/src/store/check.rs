//! Whether a change fits a state. Everything is looked at before anything is changed, which is
//! what makes applying all-or-nothing.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    KNOWN_FEATURES, LogFile, SegmentNamed, SegmentRelocated, SegmentSealed, StoreChange,
    StoreState, TableRecord,
};
use crate::Inconsistent;

type Check = Result<(), Inconsistent>;

pub(super) fn check(state: &StoreState, change: &StoreChange) -> Check {
    features(change)?;
    // A reset change is checked against an empty store that has kept its numbers.
    let empty = StoreState::default();
    let base = if change.reset { &empty } else { state };
    let after = After::new(base, change)?;
    tables(&after)?;
    segments(&after)?;
    if !change.reset {
        new_segments(state, change)?;
    }
    range_deletes(base, change)?;
    numbers(state, change)?;
    replay_head(&after)?;
    if let (Some(old), Some(new)) = (base.replay_head, change.replay_head) {
        ensure(new >= old, || format!("the replay head moves back from {old:?} to {new:?}"))?;
    }
    Ok(())
}

fn ensure(holds: bool, what: impl FnOnce() -> String) -> Check {
    if holds { Ok(()) } else { Err(Inconsistent::new(what())) }
}

fn features(change: &StoreChange) -> Check {
    match change.features_added.iter().find(|f| !KNOWN_FEATURES.contains(&f.as_str())) {
        Some(unknown) => Err(Inconsistent::UnknownFeature(unknown.clone())),
        None => Ok(()),
    }
}

/// The ids that a list of a change names.
///
/// # Errors
/// An id that is named twice.
fn distinct<I: Ord + Copy + std::fmt::Display>(
    what: &str,
    ids: impl Iterator<Item = I>,
) -> Result<BTreeSet<I>, Inconsistent> {
    let mut seen = BTreeSet::new();
    for id in ids {
        ensure(seen.insert(id), || format!("{what} {id} twice in one change"))?;
    }
    Ok(seen)
}

/// Which ids will be there after the change, without building the state.
struct After<'a> {
    base: &'a StoreState,
    change: &'a StoreChange,
    tables_removed: BTreeSet<u64>,
    segments_named: BTreeSet<u32>,
    segments_sealed: BTreeSet<u32>,
    segments_freed: BTreeSet<u32>,
    log_files_added: BTreeSet<u64>,
    log_files_removed: BTreeSet<u64>,
}

impl<'a> After<'a> {
    /// Checks that every id is added, removed or changed once, and only where it can be.
    fn new(base: &'a StoreState, change: &'a StoreChange) -> Result<Self, Inconsistent> {
        let c = change;
        let after = After {
            base,
            change,
            tables_removed: distinct("table removed", c.tables_removed.iter().copied())?,
            segments_named: distinct("segment named", c.segments_named.iter().map(|s| s.segment))?,
            segments_sealed: distinct(
                "segment sealed",
                c.segments_sealed.iter().map(|s| s.segment),
            )?,
            segments_freed: distinct("segment freed", c.segments_freed.iter().copied())?,
            log_files_added: distinct("log file added", c.log_files_added.iter().map(|f| f.file))?,
            log_files_removed: distinct("log file removed", c.log_files_removed.iter().copied())?,
        };
        distinct("table added", c.tables_added.iter().map(|t| t.id))?;
        distinct("segment relocated", c.segments_relocated.iter().map(|s| s.segment))?;

        for id in &after.tables_removed {
            ensure(base.tables.contains_key(id), || format!("table {id} removed, not there"))?;
        }
        for TableRecord { id, .. } in &c.tables_added {
            let gone = after.tables_removed.contains(id);
            ensure(gone || !base.tables.contains_key(id), || {
                format!("table {id} added, there already")
            })?;
            ensure(*id < u64::MAX, || format!("file id {id} out of range"))?;
        }
        for id in &after.log_files_removed {
            let there = base.log_files.contains_key(id);
            ensure(there, || format!("log file {id} removed, not there"))?;
        }
        for LogFile { file, .. } in &c.log_files_added {
            let gone = after.log_files_removed.contains(file);
            ensure(gone || !base.log_files.contains_key(file), || {
                format!("log file {file} added, there already")
            })?;
            ensure(*file < u64::MAX, || format!("file id {file} out of range"))?;
        }
        Ok(after)
    }

    fn has_segment(&self, id: u32) -> bool {
        let named = self.base.segments.contains_key(&id) || self.segments_named.contains(&id);
        named && !self.segments_freed.contains(&id)
    }

    fn has_log_file(&self, id: u64) -> bool {
        self.log_files_added.contains(&id)
            || self.base.log_files.contains_key(&id) && !self.log_files_removed.contains(&id)
    }
}

fn tables(after: &After<'_>) -> Check {
    for table in &after.change.tables_added {
        let id = table.id;
        ensure(table.smallest_key <= table.largest_key, || format!("keys of table {id}"))?;
        ensure(table.smallest_version <= table.largest_version, || {
            format!("versions of table {id}")
        })?;
        let ascending = table.pointers.windows(2).all(|p| p[0].segment < p[1].segment);
        ensure(ascending, || format!("pointer sums of table {id} do not ascend"))?;
        for p in &table.pointers {
            let segment = p.segment;
            ensure(after.has_segment(segment), || {
                format!("table {id} refers to segment {segment}, which is not there")
            })?;
        }
    }
    if after.segments_freed.is_empty() {
        return Ok(()); // then the tables that stay refer to what they did before
    }
    let stay = after.base.tables.values().filter(|t| !after.tables_removed.contains(&t.id));
    for table in stay {
        for p in &table.pointers {
            let (id, segment) = (table.id, p.segment);
            ensure(!after.segments_freed.contains(&segment), || {
                format!("segment {segment} freed, table {id} refers to it")
            })?;
        }
    }
    Ok(())
}

fn segments(after: &After<'_>) -> Check {
    let (base, change) = (after.base, after.change);
    let mut files: BTreeSet<u64> = BTreeSet::new();
    if !change.segments_named.is_empty() {
        files.extend(base.segments.values().map(|s| s.named.file));
    }
    for named in &change.segments_named {
        let (id, file) = (named.segment, named.file);
        let known = base.segments.contains_key(&id);
        ensure(!known, || format!("segment {id} named, there already"))?;
        ensure(id < u32::MAX, || format!("segment id {id} out of range"))?;
        ensure(file < u64::MAX, || format!("file id {file} out of range"))?;
        ensure(files.insert(file), || format!("segment {id} in file {file}, which is taken"))?;
    }
    for id in &after.segments_freed {
        let there = base.segments.contains_key(id);
        ensure(there, || format!("segment {id} freed, not there"))?;
        let head = change.replay_head.or(base.replay_head);
        ensure(head.is_none_or(|h| h.segment != *id), || {
            format!("segment {id} freed, replay starts in it")
        })?;
    }
    let named: BTreeMap<u32, &SegmentNamed> =
        change.segments_named.iter().map(|s| (s.segment, s)).collect();
    for SegmentSealed { segment: id, length, .. } in &change.segments_sealed {
        ensure(after.has_segment(*id), || format!("segment {id} sealed, not there"))?;
        let before = base.segments.get(id);
        let again = before.is_some_and(|s| s.sealed.is_some());
        ensure(!again, || format!("segment {id} sealed a second time"))?;
        let file = before.map(|s| &s.named).or(named.get(id).copied());
        ensure(file.is_none_or(|file| *length <= file.capacity), || {
            format!("segment {id} sealed at {length}, beyond the end of its file")
        })?;
    }
    relocations(after)
}

/// Segments are named in the order of their numbers, so one below the next free number was there
/// once, and pointers may still mean that one. It cannot be told of a file id: `next_file` is above
/// all ids that were handed out, and jobs that have some may end in any order.
fn new_segments(state: &StoreState, change: &StoreChange) -> Check {
    let next = state.next_segment;
    for SegmentNamed { segment: id, .. } in &change.segments_named {
        ensure(*id >= next, || format!("segment {id} named, no number below {next} is free"))?;
    }
    Ok(())
}

/// Replay starts in a segment that is there, if the log is this store's: else it starts before all
/// segments there are, or there are none.
fn replay_head(after: &After<'_>) -> Check {
    let (base, change) = (after.base, after.change);
    let Some(head) = change.replay_head.or(base.replay_head) else { return Ok(()) };
    let mut there =
        base.segments.keys().chain(&after.segments_named).filter(|&&id| after.has_segment(id));
    ensure(after.has_segment(head.segment) || there.all(|id| *id > head.segment), || {
        format!("replay starts at {head:?}, in a segment that is not there")
    })
}

fn relocations(after: &After<'_>) -> Check {
    let (base, change) = (after.base, after.change);
    for moved in &change.segments_relocated {
        let id = moved.segment;
        ensure(after.has_segment(id), || format!("segment {id} relocated, not there"))?;
        let sealed = after.segments_sealed.contains(&id)
            || base.segments.get(&id).is_some_and(|s| s.sealed.is_some());
        ensure(sealed, || format!("segment {id} relocated, not sealed"))?;
        relocated_files(after, moved)?;
    }
    if after.log_files_removed.is_empty() {
        return Ok(()); // then the segments that stay as they were find their files
    }
    let again: BTreeSet<u32> = change.segments_relocated.iter().map(|s| s.segment).collect();
    for (id, segment) in &base.segments {
        if after.segments_freed.contains(id) || again.contains(id) {
            continue;
        }
        if let Some(moved) = &segment.relocated {
            relocated_files(after, moved)?;
        }
    }
    Ok(())
}

fn relocated_files(after: &After<'_>, moved: &SegmentRelocated) -> Check {
    let id = moved.segment;
    for file in moved.files.iter().chain([&moved.table]) {
        ensure(after.has_log_file(*file), || {
            format!("segment {id} is relocated to file {file}, which is not there")
        })?;
    }
    Ok(())
}

fn range_deletes(base: &StoreState, change: &StoreChange) -> Check {
    let removed = distinct("range delete removed", change.range_deletes_removed.iter().copied())?;
    for version in &removed {
        let there = base.range_deletes.contains_key(version);
        ensure(there, || format!("range delete {version} removed, not there"))?;
    }
    let mut added = BTreeSet::new();
    for delete in &change.range_deletes_added {
        let version = delete.version;
        let empty = delete.end.as_ref().is_some_and(|end| *end <= delete.start);
        ensure(!empty, || format!("range delete {version} is of an empty range"))?;
        let before = base.range_deletes.get(&version).filter(|_| !removed.contains(&version));
        let known = before.is_some_and(|list| list.contains(delete));
        let new = added.insert((version, &delete.start, &delete.end));
        ensure(new && !known, || format!("range delete {version} added, there already"))?;
    }
    Ok(())
}

fn numbers(state: &StoreState, change: &StoreChange) -> Check {
    let grow_only = [
        ("largest version", state.largest_version, change.largest_version),
        ("watermark", state.watermark, change.watermark),
        ("clock", state.clock, change.clock),
        ("highest dropped tombstone", state.dropped_tombstone, change.dropped_tombstone),
        ("next file id", state.next_file, change.next_file),
        ("next segment id", state.next_segment.into(), change.next_segment.map(u64::from)),
    ];
    for (what, old, new) in grow_only {
        if let Some(new) = new {
            ensure(new >= old, || format!("the {what} shrinks from {old} to {new}"))?;
        }
    }
    Ok(())
}
