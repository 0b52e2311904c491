//! Reading by pointer, through a snapshot of the segment map.

use std::fmt;
use std::ops::{Deref, Range};
use std::ptr::from_ref;
use std::sync::Arc;

use kvdb_vfs::{Advice, Region};

use crate::file::{LogFile, StoredRecord};
use crate::relocate::Relocation;
use crate::segment::Segment;
use crate::{Error, Pointer, Result, SegmentMeta};

/// A value read from the log. Owns what it points into, by one reference count; reading it later
/// works whatever became of the log.
#[derive(Clone)]
pub struct Value(Region);

impl Value {
    /// The bytes as a region.
    pub fn into_region(self) -> Region {
        self.0
    }
}

impl Deref for Value {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        &self.0
    }
}

impl AsRef<[u8]> for Value {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Value({} bytes)", self.0.len())
    }
}

/// Where the records of a segment are.
#[derive(Debug, Clone)]
pub(crate) enum Place {
    /// In the segment's own file.
    Raw(Arc<Segment>),
    /// Moved by garbage collection.
    Relocated(Arc<Relocation>),
}

/// A snapshot of which segment is where. What a view leads to stays readable for as long as the
/// view lives, also when the files have been removed.
///
/// Reading a record costs a binary search over the segments (one step where their numbers are
/// consecutive), the checksum over the record, and the comparison of the key.
///
/// What bounds that: of a record of 1 KiB in memory, in mapped pages and in no cache, merely loading and
/// adding up its bytes takes 2.5 dependent cache misses *D* (seventeen lines, and the translation of one
/// page or two), each read depending on the last. Finding the record and taking it apart adds 0.4, its
/// checksum 0.4: 3.3 in all (medians of 21 rounds of 60,000 reads, D 140–190 ns; the middle halves are
/// 0.2–0.6 wide). Through a map that is new, the system's faults add 1.5 to 2.5, which no reader of a map
/// can do without. In one run, medians of nine rounds of 60,000 records, each round through maps of its
/// own:
///
/// | of each record of 1 KiB | new maps | pages mapped |
/// |---|---:|---:|
/// | one byte loaded | 2.4 *D* | 0.2 *D* |
/// | every byte added up | 4.9 *D* | 2.1 *D* |
/// | and a CRC-32 of them | 5.9 *D* | 3.1 *D* |
/// | read by pointer, checksum verified, value added up | 5.3 *D* | 3.1 *D* |
///
/// So a first touch in less than 4 *D* is out of reach for whoever reads the bytes. Tried and not kept: a
/// checksum by wider registers (`crc32fast` 1.5.5: 3.3); leaving the misses of a record to the
/// processor instead of loading a byte of each line first (0.93 of the time, 0.70..1.18 in 14 rounds);
/// loading the last line of a record first (3.5 against 3.4).
#[derive(Debug, Clone, Default)]
pub struct LogView {
    /// Sorted by segment.
    places: Vec<(u32, Place)>,
    verify: bool,
}

impl LogView {
    pub(crate) fn new(places: Vec<(u32, Place)>, verify: bool) -> Self {
        debug_assert!(places.is_sorted_by_key(|(id, _)| *id), "a view is sorted by segment");
        LogView { places, verify }
    }

    /// This view with one segment more, or with another place for one it has.
    pub(crate) fn with(&self, id: u32, place: Place) -> Self {
        self.with_places([(id, place)])
    }

    /// As [`with`](LogView::with), for several.
    pub(crate) fn with_places(&self, places: impl IntoIterator<Item = (u32, Place)>) -> Self {
        let mut view = self.clone();
        for (id, place) in places {
            match view.places.binary_search_by_key(&id, |(id, _)| *id) {
                Ok(at) => view.places[at].1 = place,
                Err(at) => view.places.insert(at, (id, place)),
            }
        }
        view
    }

    /// This view without these segments.
    pub(crate) fn without(&self, ids: &[u32]) -> Self {
        let mut view = self.clone();
        view.places.retain(|(id, _)| !ids.contains(id));
        view
    }

    /// Those of these segments that are in files of their own.
    pub(crate) fn raw(&self, ids: &[u32]) -> Vec<Arc<Segment>> {
        let raw = |id: &u32| match self.place(*id) {
            Ok(Place::Raw(segment)) => Some(segment.clone()),
            _ => None,
        };
        ids.iter().filter_map(raw).collect()
    }

    /// The numbers of the segments, ascending.
    pub fn segments(&self) -> impl ExactSizeIterator<Item = u32> + '_ {
        self.places.iter().map(|(id, _)| *id)
    }

    /// What was named for a segment; `None` if it is not in the view, or was relocated.
    pub fn meta(&self, segment: u32) -> Option<SegmentMeta> {
        match self.place(segment).ok()? {
            Place::Raw(segment) => Some(segment.meta),
            Place::Relocated(_) => None,
        }
    }

    /// How many views, values' maps not counted, hold the segment. At 1 this view is the last.
    pub fn holders(&self, segment: u32) -> Option<usize> {
        match self.place(segment).ok()? {
            Place::Raw(segment) => Some(Arc::strong_count(segment)),
            Place::Relocated(table) => Some(Arc::strong_count(table)),
        }
    }

    /// Reads the value of the record that `pointer` names, without a copy where the segment is
    /// mapped. `key` and `version` are those it was written with.
    ///
    /// # Errors
    /// [`Error::UnknownSegment`], [`Error::BadPointer`], [`Error::Damaged`] with file and offset,
    /// [`Error::KeyMismatch`], [`Error::Io`]. Never other bytes than those written, never a
    /// panic, and no allocation beyond what the file holds.
    pub fn read(&self, pointer: Pointer, key: &[u8], version: u64) -> Result<Value> {
        let (file, offset) = self.locate(pointer)?;
        self.value_in(file, file.region(offset, pointer)?, (pointer, offset), key, version)
    }

    /// As [`LogView::read`], for one whom a [`ReadOrder`](crate::ReadOrder) says to read records in
    /// the order they lie in: the system reads ahead.
    ///
    /// # Errors
    /// As [`LogView::read`].
    pub fn read_along(&self, pointer: Pointer, key: &[u8], version: u64) -> Result<Value> {
        let (file, offset) = self.locate(pointer)?;
        self.value_in(file, file.region_along(offset, pointer)?, (pointer, offset), key, version)
    }

    /// To be called once before [`read_along`](LogView::read_along) begins, with the last record
    /// that was asked for by [`prefetch`](LogView::prefetch): the system is to go on behind it.
    pub fn begin_along(&self, last: Pointer) {
        if let Ok((file, offset)) = self.locate(last) {
            file.begin_along(u64::from(offset) + u64::from(last.len()));
        }
    }

    fn value_in(
        &self,
        file: &LogFile,
        region: Region,
        (pointer, offset): (Pointer, u32),
        key: &[u8],
        version: u64,
    ) -> Result<Value> {
        let record = file.verify(&region, offset, pointer, version, self.verify)?;
        let value = checked_value(&record, pointer, key)?;
        let range = region.len() - value.len()..region.len();
        let value = region.subregion(range);
        Ok(Value(value.ok_or(Error::BadPointer { pointer, what: "it leaves the map" })?))
    }

    /// As [`LogView::read`], borrowed from the map: touches no reference count. `None` where the
    /// segment is not mapped, and `read` must be used.
    ///
    /// # Errors
    /// As [`LogView::read`].
    #[inline]
    pub fn read_ref(&self, pointer: Pointer, key: &[u8], version: u64) -> Result<Option<&[u8]>> {
        let (file, offset) = self.locate(pointer)?;
        let Some(bytes) = file.mapped(offset, pointer)? else { return Ok(None) };
        let record = file.verify(bytes, offset, pointer, version, self.verify)?;
        checked_value(&record, pointer, key).map(Some)
    }

    /// Reads a whole record and hands its key, tag and value to `f`. Always verifies.
    ///
    /// # Errors
    /// As [`LogView::read`], but for the key, which is not known.
    pub fn read_record<T>(
        &self,
        pointer: Pointer,
        version: u64,
        f: impl FnOnce(&[u8], &[u8], &[u8]) -> T,
    ) -> Result<T> {
        let (file, offset) = self.locate(pointer)?;
        let region = file.region(offset, pointer)?;
        let record = file.verify(&region, offset, pointer, version, true)?;
        Ok(f(record.key, record.tag, record.value))
    }

    /// Where the record is in its file now, in bytes from the file's start: the pointer's own
    /// offset, or where garbage collection has moved the record to. Does not look at the record.
    ///
    /// # Errors
    /// [`Error::UnknownSegment`], [`Error::BadPointer`]; damage of a relocation table.
    #[inline]
    pub fn offset_in_file(&self, pointer: Pointer) -> Result<u32> {
        Ok(self.locate(pointer)?.1)
    }

    /// Whether the system has the files of a segment's records in memory as a whole, so that there is
    /// no use in [`prefetch`](LogView::prefetch). `false` also where it does not say.
    pub fn is_cached(&self, segment: u32) -> bool {
        match self.place(segment) {
            Ok(Place::Raw(segment)) => segment.data.is_cached(),
            Ok(Place::Relocated(table)) => table.files().all(LogFile::is_cached),
            Err(_) => false,
        }
    }

    /// Tells the system that these records will be read soon. Neighbours closer than 16 KiB
    /// become one request. Unknown ones are skipped. Never fails.
    pub fn prefetch(&self, pointers: &[Pointer]) {
        let place = |pointer: &Pointer| {
            let (file, offset) = self.locate(*pointer).ok()?;
            let range = u64::from(offset)..u64::from(offset) + u64::from(pointer.len());
            (range.end <= u64::from(file.written())).then_some((file, range))
        };
        let mut ranges = pointers.iter().filter_map(place).collect();
        join_near(&mut ranges);
        for (file, range) in ranges {
            file.file.advise(range, Advice::WillNeed);
        }
    }

    #[inline]
    pub(crate) fn locate(&self, pointer: Pointer) -> Result<(&LogFile, u32)> {
        match self.place(pointer.segment())? {
            Place::Raw(segment) => Ok((&segment.data, pointer.offset())),
            Place::Relocated(table) => match table.find(pointer.offset())? {
                Some((file, offset)) => Ok((&**file, offset)),
                None => Err(Error::BadPointer { pointer, what: "the record was not kept" }),
            },
        }
    }

    #[inline]
    pub(crate) fn place(&self, segment: u32) -> Result<&Place> {
        // Numbers are mostly consecutive, so the first guess is mostly right.
        let first = self.places.first().map_or(0, |(id, _)| *id);
        let guess = segment.wrapping_sub(first) as usize;
        if let Some((id, place)) = self.places.get(guess)
            && *id == segment
        {
            return Ok(place);
        }
        match self.places.binary_search_by_key(&segment, |(id, _)| *id) {
            Ok(at) => Ok(&self.places[at].1),
            Err(_) => Err(Error::UnknownSegment { segment }),
        }
    }
}

/// Sorts ranges of files, and joins those of one file with no more than 16 KiB in between.
fn join_near<F>(ranges: &mut Vec<(&F, Range<u64>)>) {
    const NEAR: u64 = 16 << 10;
    ranges.sort_unstable_by_key(|(file, range)| (from_ref(*file), range.start));
    ranges.dedup_by(|(file, range), (last_file, last)| {
        let near = std::ptr::eq(*file, *last_file) && range.start <= last.end + NEAR;
        if near {
            last.end = last.end.max(range.end);
        }
        near
    });
}

#[inline]
fn checked_value<'a>(record: &StoredRecord<'a>, pointer: Pointer, key: &[u8]) -> Result<&'a [u8]> {
    if record.key != key {
        return Err(Error::KeyMismatch { pointer });
    }
    Ok(record.value)
}

#[cfg(test)]
mod tests {
    use super::join_near;

    #[test]
    fn what_is_asked_for_ahead_is_joined_within_a_file_and_across_short_gaps() {
        let files = [1u8, 2];
        let [a, b] = [&files[0], &files[1]];
        let near = 16 << 10;
        let mut ranges = vec![
            (b, 5..10),
            (a, 100..200),
            (a, 50_000..60_000),
            (a, 0..50),
            // Within another, and the farthest that is near.
            (a, 51_000..52_000),
            (a, 60_000 + near..60_001 + near),
            // One byte too far.
            (a, 60_002 + 2 * near..60_003 + 2 * near),
        ];
        join_near(&mut ranges);
        let expected = [
            (a, 0..200),
            (a, 50_000..60_001 + near),
            (a, 60_002 + 2 * near..60_003 + 2 * near),
            (b, 5..10),
        ];
        assert_eq!(ranges, expected);
        join_near::<u8>(&mut Vec::new());
    }
}
