//! What can be collected: files of the log, what is live in them, and which are worth it.
//!
//! A *unit* is what is collected as a whole: one segment in the file it was written to, or a set of
//! relocated segments that have record files in common, with these files and their tables. Live
//! bytes are known per segment, exactly, as sums over the installed tables' records; so they are
//! known per unit. That is why a unit is never taken apart: which of a segment's live records are
//! in which of its record files the sums do not tell.

use std::collections::{BTreeMap, BTreeSet};

use kvdb_manifest::store::{PointerSum, SegmentState, StoreState};

/// What a record takes more in a record file than a pointer's length says, with its entry in the
/// relocation table.
const MOVED_OVERHEAD: u64 = VERSION_BYTES + 9;
const VERSION_BYTES: u64 = 8;
/// What outputs cost however little is in them: a header page, change sets.
const FIXED_OVERHEAD: u64 = 8 << 10;
/// What a relocation table takes however few entries it has, and for each file that it names; and
/// how many bytes of its segment take another byte of directory, at least.
const TABLE_OVERHEAD: u64 = 128;
const TABLE_FILE: u64 = 24;
const TABLE_SPAN: u64 = 1 << 14;

/// Segments that are collected together, and their files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Unit {
    /// The segments, ascending.
    pub(crate) segments: Vec<u32>,
    /// The files, ascending; of a segment that was never relocated its own.
    pub(crate) files: Vec<u64>,
    /// The relocation tables.
    pub(crate) tables: Vec<u64>,
    /// Bytes on disk of all of these.
    pub(crate) size: u64,
    /// Bytes of the segments as they were first written, which pointers are offsets into.
    pub(crate) span: u64,
    /// What tables refer to in the segments.
    pub(crate) live: PointerSum,
    /// Whether it was collected before.
    pub(crate) relocated: bool,
    /// Whether any of its records is garbage. What a collection made holds what was in use and nothing
    /// else: until some of that is garbage, nothing is gained by moving it again, whatever its tables
    /// take. So every collection of what was collected before removes a record, and they come to an end.
    pub(crate) garbage: bool,
}

impl Unit {
    /// Which part of it is garbage, 0 to 1.
    pub(crate) fn garbage_share(&self) -> f64 {
        1.0 - (self.live.bytes as f64 / self.size.max(1) as f64).min(1.0)
    }

    /// Bytes that its live records will take when they are moved, their tables counted. Rather too
    /// many than too few: a unit that would be as large as before must never look worth it, or it
    /// would be moved for ever.
    pub(crate) fn moved_size(&self) -> u64 {
        let count = self.live.count;
        if count == 0 {
            return 0;
        }
        let tables = self.segments.len() as u64;
        // No segment, and so no output, is cut smaller than a mebibyte.
        let outputs = (self.live.bytes >> 20) + 2;
        let directories =
            tables * (TABLE_OVERHEAD + TABLE_FILE * outputs.min(count)) + self.span / TABLE_SPAN;
        self.live.bytes + count * MOVED_OVERHEAD + FIXED_OVERHEAD + directories
    }

    /// Bytes that collecting it sets free.
    pub(crate) fn gain(&self) -> u64 {
        self.size.saturating_sub(self.moved_size())
    }

    /// Benefit over cost, after Sprite LFS (Rosenblum and Ousterhout, 1991): free space times how
    /// long it may be expected to stay free, over reading all and writing what is live. The age is
    /// that of the youngest segment, in segments, which is time as the log knows it; its cube root
    /// serves both kinds of load. In a simulation at a space limit of 1.42, bytes written per byte
    /// were, without age, with its cube root, and with the age itself: 1.93, 1.96 and 2.11 where all
    /// keys are overwritten alike; 2.21, 1.61 and 1.54 where a tenth of them gets 90 % of the
    /// overwrites; 2.09, 1.84 and 1.91 where a fifth gets 80 %.
    pub(crate) fn score(&self, next_segment: u32) -> f64 {
        let youngest = self.segments.last().copied().unwrap_or(next_segment);
        let age = f64::from(next_segment.saturating_sub(youngest).max(1));
        let used = 1.0 - self.garbage_share();
        age.cbrt() * (1.0 - used) / (1.0 + used)
    }
}

/// The units of a store that may be collected: sealed, and before the replay head, so that no
/// memtable refers to them and none ever will again.
pub(super) fn collectable(state: &StoreState, live: &BTreeMap<u32, PointerSum>) -> Vec<Unit> {
    all(state, live)
        .into_iter()
        .filter_map(|(unit, collectable)| collectable.then_some(unit))
        .collect()
}

/// All units, and whether each may be collected. `live` is what tables refer to in each segment.
pub(super) fn all(state: &StoreState, live: &BTreeMap<u32, PointerSum>) -> Vec<(Unit, bool)> {
    let head = state.replay_head().map_or(0, |head| head.segment);
    let sum = |segment: u32| live.get(&segment).copied().unwrap_or_default();
    let mut units = Vec::new();
    let mut relocated: Vec<(u32, &SegmentState)> = Vec::new();
    for (&id, segment) in state.segments() {
        if segment.relocated.is_some() {
            relocated.push((id, segment));
        } else {
            let unit = Unit {
                segments: vec![id],
                files: vec![segment.named.file],
                tables: Vec::new(),
                size: segment.named.capacity.into(),
                span: segment.named.capacity.into(),
                live: sum(id),
                relocated: false,
                garbage: true,
            };
            units.push((unit, segment.sealed.is_some() && id < head));
        }
    }
    let moved = relocated.iter().filter_map(|(id, s)| Some((*id, s.relocated.as_ref()?)));
    let parts = moved.clone().map(|(id, moved)| {
        // One file of tables may be that of several segments: these go together as well.
        (id, moved.files.iter().copied().chain([moved.table]).collect())
    });
    let tables: BTreeSet<u64> = moved.clone().map(|(_, moved)| moved.table).collect();
    units.extend(connected(parts).into_iter().map(|(segments, files)| {
        let (tables, files): (Vec<u64>, Vec<u64>) =
            files.into_iter().partition(|file| tables.contains(file));
        let length = |file: &u64| state.log_files().get(file).map_or(0, |f| f.length);
        let capacity =
            |id: &u32| state.segments().get(id).map_or(0, |s| u64::from(s.named.capacity));
        let mut total = PointerSum::default();
        for &segment in &segments {
            total.count += sum(segment).count;
            total.bytes += sum(segment).bytes;
        }
        let stored = total.bytes + total.count * VERSION_BYTES;
        let headers = files.len() as u64 * u64::from(kvdb_vlog::FIRST_FRAME);
        let unit = Unit {
            garbage: files.iter().map(length).sum::<u64>() > stored + headers,
            size: files.iter().chain(&tables).map(length).sum(),
            span: segments.iter().map(capacity).sum(),
            segments: segments.into_iter().collect(),
            files,
            tables,
            live: total,
            relocated: true,
        };
        (unit, true)
    }));
    units
}

/// Segments by the files they have in common, directly or by way of others. Near linear: of groups
/// that turn out to be one the smaller ones are added to the largest.
pub(super) fn connected(
    segments: impl Iterator<Item = (u32, BTreeSet<u64>)>,
) -> Vec<(BTreeSet<u32>, BTreeSet<u64>)> {
    let mut groups: Vec<(BTreeSet<u32>, BTreeSet<u64>)> = Vec::new();
    let mut group_of: BTreeMap<u64, usize> = BTreeMap::new();
    for (id, files) in segments {
        let known: BTreeSet<usize> =
            files.iter().filter_map(|f| group_of.get(f).copied()).collect();
        let size = |at: &usize| groups[*at].0.len() + groups[*at].1.len();
        let largest = known.iter().copied().max_by_key(size);
        let into = largest.unwrap_or(groups.len());
        if into == groups.len() {
            groups.push(Default::default());
        }
        let mut added = vec![(BTreeSet::from([id]), files)];
        let others = known.into_iter().filter(|at| *at != into);
        added.extend(others.map(|at| std::mem::take(&mut groups[at])));
        for (segments, files) in added {
            group_of.extend(files.iter().map(|file| (*file, into)));
            groups[into].0.extend(segments);
            groups[into].1.extend(files);
        }
    }
    groups.retain(|(segments, _)| !segments.is_empty());
    groups
}

/// What to choose victims by.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Choice {
    /// Least part of a unit that must be garbage, 0 to 1.
    pub(crate) min_garbage: f64,
    /// Take segments that were never collected whatever their garbage: to have them in key order.
    pub(crate) sort: bool,
    /// Victims are merged as long as their live bytes do not exceed this; one is always taken.
    pub(crate) max_live: u64,
    /// Units with segments from this number on are left alone. `u32::MAX` is no segment's number.
    pub(crate) below: u32,
}

/// The victims of one job, the best first, of which no more than `room` is written. Units that were
/// collected before are merged with their like only, so that what has survived stays apart from what has
/// yet to; but not when sorting.
pub(crate) fn choose<'u>(
    units: impl IntoIterator<Item = &'u Unit>,
    next_segment: u32,
    choice: Choice,
    room: u64,
) -> Vec<Unit> {
    let worth = |unit: &&Unit| {
        let garbage = unit.garbage_share() >= choice.min_garbage && unit.gain() > unit.size / 64;
        let worth = garbage && unit.gain() > 0 || choice.sort && !unit.relocated;
        let old = unit.segments.last().is_none_or(|youngest| *youngest < choice.below);
        worth && old && unit.live.count > 0 && unit.moved_size() <= room
    };
    let mut candidates: Vec<&Unit> = units.into_iter().filter(worth).collect();
    let score = |unit: &Unit| unit.score(next_segment);
    candidates.sort_by(|a, b| score(b).total_cmp(&score(a)));
    let mut chosen: Vec<Unit> = Vec::new();
    let (mut live, mut moved) = (0, 0);
    for unit in candidates {
        let alike = chosen.first().is_none_or(|first| first.relocated == unit.relocated);
        let more = live + unit.live.bytes <= choice.max_live && moved + unit.moved_size() <= room;
        if !chosen.is_empty() && !(more && (alike || choice.sort)) {
            continue;
        }
        live += unit.live.bytes;
        moved += unit.moved_size();
        chosen.push(unit.clone());
    }
    chosen
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use kvdb_vfs::MemFs;

    use super::super::stores::Store;
    use super::*;
    use crate::{Background, GcOptions, Options};

    fn collectable(state: &StoreState) -> Vec<Unit> {
        super::collectable(state, &state.live_bytes())
    }

    /// A segment of 1 MiB, with so many percent of it in use by records of 1 KiB.
    fn unit(segment: u32, used: u64, relocated: bool) -> Unit {
        let bytes = (1 << 20) * used / 100;
        let live = PointerSum { segment, count: bytes >> 10, bytes };
        let files = vec![segment.into()];
        let size = 1 << 20;
        Unit {
            segments: vec![segment],
            files,
            tables: Vec::new(),
            size,
            span: size,
            live,
            relocated,
            garbage: true,
        }
    }

    fn chosen(units: &[Unit], choice: Choice) -> Vec<u32> {
        choose(units, 100, choice, u64::MAX).iter().flat_map(|unit| unit.segments.clone()).collect()
    }

    const ALL: Choice =
        Choice { min_garbage: 0.25, sort: false, max_live: u64::MAX, below: u32::MAX };

    /// Whatever moving it again is reckoned to gain. That may be too much: where every one of a thousand
    /// tables names every one of 60 files, a full collection did not end.
    #[test]
    fn what_a_collection_made_has_no_garbage_until_one_of_its_records_is() {
        let options = Options::default().background(Background::Manual).segment_size(1 << 20);
        let db = options.open_in(Arc::new(MemFs::new()), "/db").unwrap();
        for (round, step) in [(0, 1), (1, 3)] {
            for key in (0..300u32).step_by(step) {
                db.put(key.to_be_bytes(), vec![round; 10_000]).unwrap();
            }
        }
        db.gc(&GcOptions::full()).unwrap();
        let moved = || {
            db.core().manifest.read(|state| {
                let units = collectable(state).into_iter().filter(|unit| unit.relocated);
                units.map(|unit| unit.garbage).collect::<Vec<_>>()
            })
        };
        assert_eq!(moved(), [false]);
        let files = db.stats().log_files;
        assert!(files.len() > 3 && files.iter().all(|f| f.reclaimable_bytes == 0), "{files:?}");
        (0..60u32).for_each(|key| _ = db.delete(key.to_be_bytes()).unwrap());
        db.compact().unwrap();
        assert_eq!(moved(), [true]);
        db.gc(&GcOptions::full()).unwrap();
        assert_eq!(moved(), [false]);
    }

    #[test]
    fn victims_are_chosen_by_benefit_and_cost() {
        let units = [unit(80, 50, false), unit(81, 20, false), unit(10, 50, false)];
        assert_eq!(chosen(&units, ALL), [81, 10, 80], "the most garbage, then the oldest");
        // Old enough, a segment with less garbage is better than one that may gain some yet.
        assert_eq!(chosen(&[unit(99, 40, false), unit(3, 55, false)], ALL), [3, 99]);
    }

    #[test]
    fn what_has_little_or_nothing_but_garbage_is_no_victim() {
        let units = [unit(1, 0, false), unit(2, 80, false), unit(3, 70, false)];
        assert_eq!(chosen(&units, ALL), [3]);
        assert_eq!(chosen(&units, Choice { sort: true, ..ALL }), [3, 2]);
    }

    #[test]
    fn what_was_collected_before_stays_apart_from_what_was_not() {
        let units =
            [unit(1, 30, true), unit(2, 40, true), unit(90, 10, false), unit(91, 60, false)];
        assert_eq!(chosen(&units, ALL), [1, 2], "the best one decides");
        let units =
            [unit(1, 60, true), unit(2, 70, true), unit(90, 10, false), unit(91, 60, false)];
        assert_eq!(chosen(&units, ALL), [90, 91]);
        assert_eq!(chosen(&units, Choice { sort: true, ..ALL }).len(), 4);
    }

    #[test]
    fn victims_are_merged_as_far_as_they_may_and_one_is_always_taken() {
        let units = [unit(1, 50, false), unit(2, 50, false), unit(3, 50, false)];
        let up_to = |max_live| chosen(&units, Choice { max_live, ..ALL }).len();
        assert_eq!((up_to(0), up_to(1 << 19), up_to(1 << 20), up_to(3 << 20)), (1, 1, 2, 3));
    }

    /// Of many short records their tables, and what is written beside each, are a good part.
    #[test]
    fn victims_are_merged_as_far_as_what_is_written_of_them_has_room() {
        let short = |segment| {
            let one = unit(segment, 50, false);
            Unit { live: PointerSum { count: one.live.bytes / 64, ..one.live }, ..one }
        };
        let units = [short(1), short(2), short(3)];
        let moved = units[0].moved_size();
        let within = |room| choose(&units, 100, ALL, room).len();
        assert_eq!((within(moved - 1), within(moved), within(2 * moved - 1)), (0, 1, 1));
        assert_eq!((within(2 * moved), within(3 * moved)), (2, 3));
    }

    #[test]
    fn what_is_sealed_and_before_the_replay_head_is_collectable() {
        let sealed = Some(4096);
        let state = Store::default()
            .segment(1, 4096, sealed)
            .segment(2, 4096, None) // left, and not reported as sealed yet
            .segment(3, 4096, sealed)
            .segment(4, 4096, sealed)
            .segment(5, 4096, sealed)
            .segment(6, 4096, None)
            .head(4, 100)
            .state();
        let segments = collectable(&state).into_iter().flat_map(|unit| unit.segments);
        assert_eq!(segments.collect::<Vec<_>>(), [1, 3]);
        let nothing = Store::default().segment(1, 4096, sealed).state();
        assert_eq!(collectable(&nothing), [], "no head: everything would be replayed");
    }

    #[test]
    fn relocated_segments_with_files_in_common_also_by_way_of_others_are_one_unit() {
        let files = [(10, 1000), (11, 2000), (12, 4000), (13, 8000), (14, 16_000)];
        let tables = [(21, 1), (22, 2), (23, 4), (24, 8), (25, 16)];
        let store = files
            .iter()
            .chain(&tables)
            .fold(Store::default(), |store, (file, length)| store.file(*file, *length));
        let state = store
            .moved(1, 1 << 20, 21, &[10, 11])
            .moved(2, 2 << 20, 22, &[12, 13])
            .moved(3, 4 << 20, 23, &[11, 12]) // ties the first two together
            .moved(4, 8 << 20, 24, &[14])
            .moved(5, 16 << 20, 25, &[10, 13]) // finds files of both in the group they became
            .table(1, 0, &[(1, 1, 10), (2, 2, 20), (4, 8, 80)])
            .table(2, 1, &[(1, 100, 1000), (3, 4, 40), (5, 16, 160)])
            .segment(9, 1 << 20, None)
            .head(9, 0)
            .state();
        let mut units = collectable(&state);
        units.sort_by_key(|unit| unit.segments[0]);
        let sum = |count, bytes| PointerSum { segment: 0, count, bytes };
        let one = Unit {
            segments: vec![1, 2, 3, 5],
            files: vec![10, 11, 12, 13],
            tables: vec![21, 22, 23, 25],
            size: 15_000 + 23,
            span: 23 << 20,
            live: sum(123, 1230),
            relocated: true,
            garbage: false, // with a header page in each file
        };
        let other = Unit {
            segments: vec![4],
            files: vec![14],
            tables: vec![24],
            size: 16_008,
            span: 8 << 20,
            live: sum(8, 80),
            relocated: true,
            garbage: true,
        };
        assert_eq!(units, [one, other]);
    }

    /// In the square of their number it would take minutes.
    #[test]
    fn tens_of_thousands_of_segments_are_grouped_at_once_however_they_meet() {
        const N: u32 = 50_000;
        let files = |of: &[u32]| of.iter().map(|f| u64::from(*f)).collect::<BTreeSet<u64>>();
        let one = |groups: Vec<(BTreeSet<u32>, BTreeSet<u64>)>| {
            assert_eq!((groups.len(), groups[0].0.len()), (1, N as usize));
        };
        one(connected((0..N).map(|s| (s, files(&[7])))));
        one(connected((0..N).map(|s| (s, files(&[s, s + 1])))));
        one(connected((0..N).rev().map(|s| (s, files(&[s, s / 2])))));
        // Pairs, then pairs of pairs.
        let pairs = (0..N / 2).map(|s| (s, files(&[2 * s, 2 * s + 1])));
        let chain = (N / 2..N).map(|s| (s, files(&[2 * (s - N / 2) + 1, 2 * (s - N / 2) + 2])));
        one(connected(pairs.chain(chain)));
        assert_eq!(connected((0..N).map(|s| (s, files(&[s])))).len(), N as usize);
    }

    #[test]
    fn segments_with_tables_in_one_file_are_one_unit_and_the_file_counts_once() {
        let state = [(10, 1000), (11, 2000), (20, 300)]
            .iter()
            .fold(Store::default(), |store, (file, length)| store.file(*file, *length))
            .moved(1, 1 << 20, 20, &[10])
            .moved(2, 1 << 20, 20, &[11])
            .segment(9, 1 << 20, None)
            .head(9, 0)
            .state();
        let units = collectable(&state);
        let of = |unit: &Unit| (unit.files.clone(), unit.tables.clone(), unit.size);
        assert_eq!(units.iter().map(of).collect::<Vec<_>>(), [(vec![10, 11], vec![20], 3300)]);
    }

    #[test]
    fn what_moving_costs_besides_the_records_is_no_gain() {
        // Thousands of short records in many segments, and nothing but these in their files.
        let live = PointerSum { segment: 0, count: 10_000, bytes: 1_000_000 };
        let segments: Vec<u32> = (0..100).collect();
        let full = Unit { segments, live, ..unit(1, 100, true) };
        let tables = 100 * (TABLE_OVERHEAD + 2 * TABLE_FILE) + full.span / TABLE_SPAN;
        assert_eq!(
            full.moved_size(),
            1_000_000 + 10_000 * MOVED_OVERHEAD + FIXED_OVERHEAD + tables
        );
        assert_eq!(Unit { size: full.moved_size() + 1, ..full.clone() }.gain(), 1);
        assert_eq!(Unit { size: full.moved_size() - 1, ..full.clone() }.gain(), 0);
        // A gain of next to nothing is none either, whatever is asked for.
        let all = Choice { min_garbage: 0.0, ..ALL };
        let gains = |gain| Unit { size: full.moved_size() + gain, ..full.clone() };
        let least = full.moved_size() / 63 + 1;
        assert_eq!(choose(&[gains(least - 2)], 100, all, u64::MAX), []);
        assert_eq!(choose(&[gains(least + 2)], 100, all, u64::MAX).len(), 1);
        let empty = Unit { live: PointerSum::default(), ..full };
        assert_eq!(empty.moved_size(), 0, "and nothing costs nothing");
    }
}
