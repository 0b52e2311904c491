//! What a flush or a compaction may leave out.
//!
//! The rules, for the versions of one key from the newest to the oldest, with a discard floor `F`
//! (every reader reads at `F` or later) and a clock that no reader is behind:
//!
//! 1. A version above `F` stays.
//! 2. Of those at or below `F`, readers see the newest only. It stays, and so do
//!    [`versions_to_keep`](crate::Options::versions_to_keep) of them in all, but
//! 3. nothing older than a tombstone stays, nor anything hidden by a range delete at or below `F`;
//!    an expired entry is a tombstone of its own version.
//! 4. A tombstone at or below `F` goes itself if no older table that is not part of the job overlaps
//!    the key: everything older that the job has goes with it by rule 3.
//! 5. From a merge operand down to the nearest value or tombstone everything stays, or is folded
//!    ([`fold`](super::fold)).

use std::sync::Arc;

use crate::companion::Floor;
use crate::entry::Entry;
use crate::range_delete::RangeDeletes;
use crate::table::TableFile;
use crate::version::{Level, Version};

/// What is to be done with an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    Keep,
    Drop,
    /// Replace it by a tombstone of the same version.
    Bury,
}

/// Decides entry by entry, in order of `(key, version)`.
#[derive(Debug)]
pub(crate) struct Dropping {
    floor: Floor,
    versions_to_keep: usize,
    range_deletes: Arc<RangeDeletes>,
    /// `None`: this is a flush, tombstones stay.
    older: Option<OlderTables>,
    key: KeyState,
    /// Entries left out or buried.
    pub(crate) dropped: u64,
    /// Whether one of them was left out because of its age or for a range delete; if not, readers
    /// below the floor would still find everything.
    pub(crate) used_floor: bool,
    /// The latest expiry for which one of them was left out or buried; 0: none was.
    pub(crate) used_expiry: u64,
    /// Highest version of a tombstone (or expired entry) that was left out.
    pub(crate) dropped_tombstone: u64,
}

/// What is known of the key whose versions go by.
#[derive(Debug, Default)]
struct KeyState {
    /// Values at or below the floor that stay.
    kept: usize,
    /// The last one that stays is an operand: whatever it is folded onto stays too.
    in_chain: bool,
    /// Everything older goes.
    closed: bool,
}

impl Dropping {
    pub(crate) fn new(
        floor: Floor,
        versions_to_keep: usize,
        range_deletes: Arc<RangeDeletes>,
        older: Option<OlderTables>,
    ) -> Dropping {
        Dropping {
            floor,
            versions_to_keep,
            range_deletes,
            older,
            key: KeyState::default(),
            dropped: 0,
            used_floor: false,
            used_expiry: 0,
            dropped_tombstone: 0,
        }
    }

    /// The entries that follow are of another key, greater than the one before.
    pub(crate) fn next_key(&mut self) {
        self.key = KeyState::default();
    }

    /// What is to be done with the next version of the key, which is older than the one before.
    pub(crate) fn judge(&mut self, key: &[u8], version: u64, entry: &Entry<'_>) -> Verdict {
        let verdict = self.verdict(key, version, entry);
        if verdict != Verdict::Keep {
            self.dropped += 1;
        }
        verdict
    }

    /// Whether a version may be folded with those below it: nobody reads them apart.
    pub(crate) fn may_fold(&self, version: u64) -> bool {
        version <= self.floor.discard && self.versions_to_keep == 1
    }

    /// An entry that was judged to stay, or to be buried, was folded into a newer one.
    pub(crate) fn note_folded(&mut self, verdict: Verdict) {
        self.used_floor = true;
        if verdict == Verdict::Keep {
            self.dropped += 1;
        }
    }

    /// Whether nothing older than this job's entries of the key is anywhere. Asked with ascending
    /// keys.
    pub(crate) fn is_bottom(&mut self, key: &[u8]) -> bool {
        self.older.as_mut().is_some_and(|older| !older.may_hold(key))
    }

    fn verdict(&mut self, key: &[u8], version: u64, entry: &Entry<'_>) -> Verdict {
        if version > self.floor.discard {
            return Verdict::Keep;
        }
        if self.key.closed || self.range_deletes.hides(key, version, self.floor.discard) {
            self.key.closed = true;
            self.used_floor = true;
            return Verdict::Drop;
        }
        let expired = entry.is_expired(self.floor.clock);
        if entry.is_absent(self.floor.clock) {
            self.key.closed = true;
            if expired {
                self.used_expiry = self.used_expiry.max(entry.expires_at);
            }
            if self.older.as_mut().is_some_and(|older| !older.may_hold(key)) {
                self.used_floor = true;
                self.dropped_tombstone = self.dropped_tombstone.max(version);
                return Verdict::Drop;
            }
            let tombstone = entry.kind == crate::entry::Kind::Tombstone;
            return if tombstone { Verdict::Keep } else { Verdict::Bury };
        }
        self.key.in_chain = entry.kind.is_merge();
        if !self.key.in_chain {
            self.key.kept += 1;
            self.key.closed = self.key.kept >= self.versions_to_keep;
        }
        Verdict::Keep
    }
}

/// The tables that may hold something older than a job's inputs and are not among them. Asked with
/// ascending keys.
#[derive(Debug)]
pub(crate) struct OlderTables {
    top: Vec<Arc<TableFile>>,
    deeper: Vec<(Arc<Level>, usize)>,
}

impl OlderTables {
    /// Older tables on level 0 are named; of the deeper levels, everything below `level` is older.
    pub(crate) fn new(top: Vec<Arc<TableFile>>, version: &Version, level: usize) -> OlderTables {
        let deeper = version.levels().iter().skip(level + 1).filter(|l| !l.is_empty());
        OlderTables { top, deeper: deeper.map(|l| (l.clone(), 0)).collect() }
    }

    /// Whether one of them overlaps the key.
    fn may_hold(&mut self, key: &[u8]) -> bool {
        if self.top.iter().any(|t| t.covers(key)) {
            return true;
        }
        self.deeper.iter_mut().any(|(level, at)| {
            let tables = level.tables();
            while tables.get(*at).is_some_and(|t| t.largest() < key) {
                *at += 1;
            }
            tables.get(*at).is_some_and(|t| t.smallest() <= key)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::entry::Kind;
    use kvdb_manifest::store::RangeDelete;

    const F: u64 = 10;

    /// Versions that remain of one key; a buried one as its negative.
    fn remain(keep: usize, bottom: bool, versions: &[(u64, Entry<'_>)]) -> Vec<i64> {
        remain_with(keep, bottom, versions, Vec::new())
    }

    fn remain_with(
        keep: usize,
        bottom: bool,
        versions: &[(u64, Entry<'_>)],
        ranges: Vec<RangeDelete>,
    ) -> Vec<i64> {
        let older = bottom.then(|| OlderTables { top: Vec::new(), deeper: Vec::new() });
        let floor = Floor { discard: F, clock: 100 };
        let ranges = Arc::new(RangeDeletes::new(ranges));
        let mut dropping = Dropping::new(floor, keep, ranges, older);
        dropping.next_key();
        let judge = |(v, e): &(u64, Entry<'_>)| match dropping.judge(b"k", *v, e) {
            Verdict::Keep => Some(*v as i64),
            Verdict::Drop => None,
            Verdict::Bury => Some(-(*v as i64)),
        };
        versions.iter().filter_map(judge).collect()
    }

    const V: Entry<'static> = Entry::value(b"v");
    const M: Entry<'static> = Entry::merge(b"m");
    const T: Entry<'static> = Entry::tombstone();
    const EXPIRED: Entry<'static> = Entry::value(b"v").with_expiry(100);
    const FRESH: Entry<'static> = Entry::value(b"v").with_expiry(101);

    #[test]
    fn what_a_reader_at_the_floor_or_above_can_see_stays() {
        assert_eq!(remain(1, true, &[(12, V), (11, V), (10, V), (9, V)]), [12, 11, 10]);
        assert_eq!(remain(1, true, &[(11, T), (9, V), (8, V)]), [11, 9]);
        assert_eq!(remain(1, true, &[(11, EXPIRED), (9, FRESH)]), [11, 9]);
    }

    #[test]
    fn versions_to_keep_survive_but_never_beyond_a_tombstone() {
        assert_eq!(remain(3, true, &[(12, V), (9, V), (8, V), (7, V), (6, V)]), [12, 9, 8, 7]);
        assert_eq!(remain(3, true, &[(9, V), (8, T), (7, V)]), [9]);
        assert_eq!(remain(3, false, &[(9, V), (8, T), (7, V)]), [9, 8]);
    }

    #[test]
    fn a_tombstone_goes_only_at_the_bottom_and_with_everything_older() {
        assert_eq!(remain(1, true, &[(9, T), (8, V), (7, T)]), [0i64; 0]);
        assert_eq!(remain(1, false, &[(9, T), (8, V), (7, T)]), [9]);
        assert_eq!(remain(1, true, &[(11, T), (8, T), (7, V)]), [11]);
    }

    #[test]
    fn an_expired_entry_is_a_tombstone_until_it_can_go() {
        assert_eq!(remain(1, false, &[(9, EXPIRED), (8, V)]), [-9]);
        assert_eq!(remain(1, true, &[(9, EXPIRED), (8, V)]), [0i64; 0]);
        assert_eq!(remain(2, true, &[(9, V), (8, EXPIRED), (7, V)]), [9]);
    }

    #[test]
    fn operands_stay_down_to_the_nearest_value_or_tombstone() {
        assert_eq!(remain(1, true, &[(9, M), (8, M), (7, V), (6, V)]), [9, 8, 7]);
        assert_eq!(remain(1, false, &[(9, M), (8, T), (7, V)]), [9, 8]);
        assert_eq!(remain(1, true, &[(9, M), (8, T), (7, V)]), [9]);
        assert_eq!(remain(1, true, &[(9, M), (8, M)]), [9, 8]);
        assert_eq!(remain(2, true, &[(9, M), (8, V), (7, V), (6, V)]), [9, 8, 7]);
        let pointer = Entry::new(Kind::MergePointer, b"p");
        assert_eq!(remain(1, true, &[(9, pointer), (8, V), (7, V)]), [9, 8]);
    }

    #[test]
    fn what_a_range_delete_hides_from_everybody_goes() {
        let range = |version| vec![RangeDelete { start: b"a".to_vec(), end: None, version }];
        assert_eq!(remain_with(1, false, &[(9, V), (7, V)], range(8)), [9]);
        assert_eq!(remain_with(3, false, &[(9, V), (7, V), (6, T)], range(8)), [9]);
        assert_eq!(remain_with(1, false, &[(7, V)], range(8)), [0i64; 0]);
        // A reader at the floor does not see this range delete.
        assert_eq!(remain_with(1, false, &[(9, V)], range(11)), [9]);
        assert_eq!(remain_with(1, false, &[(9, M), (7, M), (6, V)], range(8)), [9]);
    }
}
