//! What a transaction has read.

use std::collections::{BTreeMap, HashMap};
use std::hash::{BuildHasherDefault, Hasher};
use std::mem::size_of;
use std::ops::Bound;

use xxhash_rust::xxh3::xxh3_64;

use crate::range::{KeyRange, ends_by};

/// Up to so many points are searched one by one; beyond, through a hash index.
const UNINDEXED: usize = 16;

/// The fingerprint of a key: 64 bits of xxh3. It only preselects; keys are compared whole.
#[inline]
pub(crate) fn fingerprint(key: &[u8]) -> u64 {
    xxh3_64(key)
}

/// The keys and the ranges of keys that a transaction has asked for.
///
/// A read of an absent key counts as much as one that found something, and a scan counts with
/// the range that was asked for (as far as it was consumed), not with the keys it found: that
/// is what makes an insertion into it a conflict. Reads that the transaction answered from its
/// own writes do not belong here.
///
/// An empty set allocates nothing. Memory is that of the distinct keys plus about 40 bytes each;
/// ranges that overlap or touch are merged.
///
/// ```
/// use std::ops::Bound;
/// let mut reads = kvdb_txn::ReadSet::new();
/// reads.add_point(b"k");
/// reads.add_range(Bound::Included(b"a"), Bound::Excluded(b"c"));
/// reads.add_range(Bound::Included(b"b"), Bound::Excluded(b"d"));
/// assert_eq!((reads.points(), reads.ranges()), (1, 1));
/// ```
#[derive(Clone, Debug, Default)]
pub struct ReadSet {
    points: Vec<Point>,
    /// Where the point with a fingerprint is; kept only beyond `UNINDEXED` points.
    index: HashMap<u64, usize, BuildHasherDefault<AsIs>>,
    /// The points' keys, one after the other.
    keys: Vec<u8>,
    /// Disjoint, not touching: start to end of each range.
    ranges: BTreeMap<Vec<u8>, Option<Vec<u8>>>,
    /// Bytes of the keys in `ranges`.
    range_bytes: usize,
}

#[derive(Clone, Copy, Debug)]
struct Point {
    fingerprint: u64,
    start: usize,
    end: usize,
}

impl ReadSet {
    /// An empty set.
    pub fn new() -> Self {
        Self::default()
    }

    /// Notes that `key` was read, found or not. O(1), amortised.
    pub fn add_point(&mut self, key: &[u8]) {
        self.add(fingerprint(key), key);
    }

    fn add(&mut self, fingerprint: u64, key: &[u8]) {
        if let Some(point) = self.point(fingerprint) {
            if self.key_of(point) != key {
                // Two keys of one fingerprint: the second is kept as a range of one key.
                self.insert_range(KeyRange::point(key));
            }
            return;
        }
        let start = self.keys.len();
        self.keys.extend_from_slice(key);
        self.points.push(Point { fingerprint, start, end: self.keys.len() });
        match self.points.len() {
            0..=UNINDEXED => {}
            n if self.index.is_empty() => {
                self.index.reserve(2 * n);
                let entries = self.points.iter().enumerate();
                self.index.extend(entries.map(|(i, point)| (point.fingerprint, i)));
            }
            n => {
                self.index.insert(fingerprint, n - 1);
            }
        }
    }

    /// Notes that all keys between the bounds were read. O(log n) and the merged ranges.
    pub fn add_range(&mut self, lower: Bound<&[u8]>, upper: Bound<&[u8]>) {
        if let Some(range) = KeyRange::new(lower, upper) {
            self.insert_range(range);
        }
    }

    fn insert_range(&mut self, mut range: KeyRange) {
        // The one range that starts at or below the new one, if it reaches up to it.
        if let Some((start, end)) = self.ranges.range::<[u8], _>(up_to(&range.start)).next_back()
            && end.as_deref().is_none_or(|end| end >= range.start.as_slice())
        {
            if ends_at_or_after(end.as_deref(), range.end.as_deref()) {
                return;
            }
            range.start.clone_from(start);
        }
        // Every range that starts within the new one, or right at its end.
        while let Some((start, end)) = self.ranges.range::<[u8], _>(from(&range.start)).next() {
            if range.end.as_deref().is_some_and(|e| e < start.as_slice()) {
                break;
            }
            if ends_at_or_after(end.as_deref(), range.end.as_deref()) {
                range.end.clone_from(end);
            }
            let start = start.clone();
            let end = self.ranges.remove(&start).flatten();
            self.range_bytes -= KeyRange { start, end }.len();
        }
        self.range_bytes += range.len();
        self.ranges.insert(range.start, range.end);
    }

    /// Whether nothing was read.
    pub fn is_empty(&self) -> bool {
        self.points.is_empty() && self.ranges.is_empty()
    }

    /// The number of distinct keys read by point reads.
    pub fn points(&self) -> usize {
        self.points.len()
    }

    /// The number of ranges, after merging.
    pub fn ranges(&self) -> usize {
        self.ranges.len()
    }

    /// The memory that the set's content takes, in bytes (an estimate).
    pub fn bytes(&self) -> usize {
        self.keys.len()
            + self.points.len() * (size_of::<Point>() + size_of::<(u64, usize)>())
            + self.range_bytes
            + self.ranges.len() * 2 * size_of::<Vec<u8>>()
    }

    /// Forgets everything and keeps the memory for the next transaction.
    pub fn clear(&mut self) {
        self.points.clear();
        self.index.clear();
        self.keys.clear();
        self.ranges.clear();
        self.range_bytes = 0;
    }

    /// Whether `key`, which has this fingerprint, was read.
    #[inline]
    pub(crate) fn covers(&self, fingerprint: u64, key: &[u8]) -> bool {
        self.point(fingerprint).is_some_and(|point| self.key_of(point) == key)
            || (!self.ranges.is_empty() && self.in_ranges(key))
    }

    fn in_ranges(&self, key: &[u8]) -> bool {
        let below = self.ranges.range::<[u8], _>(up_to(key)).next_back();
        below.is_some_and(|(_, end)| !ends_by(end.as_deref(), key))
    }

    /// Whether any key of `range` was read.
    pub(crate) fn intersects(&self, range: &KeyRange) -> bool {
        // A range that starts below it and reaches into it, or one that starts in it.
        self.in_ranges(&range.start)
            || self
                .ranges
                .range::<[u8], _>(from(&range.start))
                .next()
                .is_some_and(|(start, _)| !range.ends_by(start))
            || self.points.iter().any(|point| range.contains(self.key_of(*point)))
    }

    #[inline]
    fn point(&self, fingerprint: u64) -> Option<Point> {
        if self.points.len() <= UNINDEXED {
            self.points.iter().find(|point| point.fingerprint == fingerprint).copied()
        } else {
            self.index.get(&fingerprint).map(|&i| self.points[i])
        }
    }

    fn key_of(&self, point: Point) -> &[u8] {
        &self.keys[point.start..point.end]
    }
}

fn up_to(key: &[u8]) -> (Bound<&[u8]>, Bound<&[u8]>) {
    (Bound::Unbounded, Bound::Included(key))
}

fn from(key: &[u8]) -> (Bound<&[u8]>, Bound<&[u8]>) {
    (Bound::Included(key), Bound::Unbounded)
}

/// Whether a range that ends before `a` goes at least as far as one that ends before `b`.
fn ends_at_or_after(a: Option<&[u8]>, b: Option<&[u8]>) -> bool {
    match (a, b) {
        (None, _) => true,
        (Some(_), None) => false,
        (Some(a), Some(b)) => a >= b,
    }
}

/// A hasher for keys that are hashes.
#[derive(Clone, Copy, Debug, Default)]
struct AsIs(u64);

impl Hasher for AsIs {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        self.0 = xxh3_64(bytes);
    }

    fn write_u64(&mut self, value: u64) {
        self.0 = value;
    }
}

#[cfg(test)]
mod tests {
    use super::ReadSet;

    #[test]
    fn keys_of_one_fingerprint_are_told_apart() {
        for others in [0, 100] {
            let mut reads = ReadSet::new();
            (0..others).for_each(|i| reads.add(i, &i.to_be_bytes()));
            reads.add(7777, b"one");
            reads.add(7777, b"two");
            reads.add(7777, b"two");
            assert!(reads.covers(7777, b"one") && reads.covers(7777, b"two"));
            assert!(!reads.covers(7777, b"three"));
            assert_eq!(reads.ranges(), 1);
        }
    }
}
