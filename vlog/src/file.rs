//! A file that holds records: what reading one by its place needs.

use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::sync::{Arc, OnceLock};

use kvdb_vfs::{Advice, File, Region, Salt};

use crate::frame::RecordParts;
use crate::recent::Recent;
use crate::sync::{AtomicBool, AtomicU32};
use crate::{Error, Pointer, Result};

/// File, salt, and the map where there is one.
#[derive(Debug)]
pub(crate) struct LogFile {
    pub(crate) path: PathBuf,
    pub(crate) file: Arc<dyn File>,
    pub(crate) salt: Salt,
    len: u32,
    maps: bool,
    /// Whether the map may be looked at: not while the file is being written past the cache.
    settled: AtomicBool,
    /// The last bytes of a file that is not settled.
    recent: Recent,
    map: OnceLock<Option<Region>>,
    /// Another, for those who read the records in the order they lie in.
    scan_map: OnceLock<Option<Region>>,
    /// Bytes below this are written and will not be written again, or only with the same bytes:
    /// a reader may look at them. Stored with release order after the write returned.
    written: AtomicU32,
}

impl LogFile {
    /// A file of `len` bytes of which `written` may be read.
    pub(crate) fn new(
        path: PathBuf,
        file: Arc<dyn File>,
        salt: Salt,
        len: u32,
        written: u32,
        maps: bool,
    ) -> Self {
        LogFile {
            path,
            file,
            salt,
            len,
            maps,
            settled: AtomicBool::new(true),
            recent: Recent::default(),
            map: OnceLock::new(),
            scan_map: OnceLock::new(),
            written: AtomicU32::new(written),
        }
    }

    /// The same, to be written past the cache.
    pub(crate) fn unsettled(self) -> Self {
        self.settled.store(false, Ordering::Relaxed);
        self
    }

    /// The file will not be written past the cache any more.
    pub(crate) fn settle(&self) {
        if !self.settled.swap(true, Ordering::AcqRel) {
            self.warm(self.recent.clear());
        }
    }

    /// Keeps what was written past the cache for its readers. To be called before
    /// [`set_written`](Self::set_written) lets them look.
    pub(crate) fn remember(&self, offset: u32, bytes: &[u8]) {
        self.warm(self.recent.push(offset, bytes));
    }

    /// Has the system read a range that is only on the disk, as a buffered write would have left
    /// it: what was just written is likely to be read.
    fn warm(&self, range: std::ops::Range<u32>) {
        if !range.is_empty() {
            self.file.advise(range.start.into()..range.end.into(), Advice::WillNeed);
        }
    }

    pub(crate) fn written(&self) -> u32 {
        self.written.load(Ordering::Acquire)
    }

    /// Lets readers look at everything below `offset`.
    pub(crate) fn set_written(&self, offset: u32) {
        self.written.store(offset, Ordering::Release);
    }

    /// The map of the whole file, made at first use. `None`: positioned reads.
    #[inline]
    pub(crate) fn map(&self) -> Option<&Region> {
        match self.map.get() {
            Some(map) => map.as_ref(),
            None if !self.settled.load(Ordering::Acquire) => None,
            None => self.make_map(),
        }
    }

    #[cold]
    fn make_map(&self) -> Option<&Region> {
        self.map.get_or_init(|| self.map_all(Advice::Random)).as_ref()
    }

    fn map_all(&self, pattern: Advice) -> Option<Region> {
        if !self.maps {
            return None;
        }
        match self.file.map_for(0..u64::from(self.len), pattern) {
            Ok(map) => map,
            Err(e) => {
                tracing::warn!(error = %e, "file not mapped, reading by system calls");
                None
            }
        }
    }

    /// As [`map`](Self::map), but the system reads ahead of whoever walks over it. A map of its own,
    /// since the other must not: a point read would bring in megabytes.
    fn scan_map(&self) -> Option<&Region> {
        if let Some(map) = self.scan_map.get() {
            return map.as_ref();
        }
        // That the file may be looked at is for the other to say.
        self.map()?;
        let make = || {
            // How far ahead goes by the file.
            self.file.advise(0..u64::from(self.len), Advice::Sequential);
            self.map_all(Advice::Sequential)
        };
        self.scan_map.get_or_init(make).as_ref()
    }

    /// Reading along begins behind `end`, up to which everything was asked for. In the middle of a
    /// file the system takes a first page that is missing for a single one, unless the one before it
    /// was just read.
    pub(crate) fn begin_along(&self, end: u64) {
        if self.scan_map().is_some() && end > 0 && end <= self.written().into() {
            // A hint: whoever reads the bytes for what they are will meet the error.
            let _ = self.file.read_at(&mut [0], end - 1);
        }
    }

    /// How many regions hold a map: no more than 1 means that no value does.
    pub(crate) fn map_holders(&self) -> usize {
        let holders = |map: &OnceLock<Option<Region>>| {
            map.get().and_then(Option::as_ref).map_or(0, Region::holders)
        };
        holders(&self.map).max(holders(&self.scan_map))
    }

    /// The part of the map that holds the record at `offset`; `None` without a map.
    ///
    /// # Errors
    /// `BadPointer` if that is not within what was written.
    #[inline]
    pub(crate) fn mapped(&self, offset: u32, pointer: Pointer) -> Result<Option<&[u8]>> {
        let range = self.range(offset, pointer)?;
        let Some(map) = self.map() else { return Ok(None) };
        match map.slice(range) {
            Some(bytes) => Ok(Some(bytes)),
            None => Err(Error::BadPointer { pointer, what: "it leaves the map" }),
        }
    }

    /// The bytes of the record at `offset`, without a copy where there is a map.
    pub(crate) fn region(&self, offset: u32, pointer: Pointer) -> Result<Region> {
        self.region_of(self.range(offset, pointer)?, pointer)
    }

    /// As [`region`](Self::region), for one who reads the records in the order they lie in.
    pub(crate) fn region_along(&self, offset: u32, pointer: Pointer) -> Result<Region> {
        let range = self.range(offset, pointer)?;
        match self.scan_map() {
            Some(map) => {
                let part = map.subregion(range);
                part.ok_or(Error::BadPointer { pointer, what: "it leaves the map" })
            }
            None => self.region_of(range, pointer),
        }
    }

    /// Bytes of what was written, whatever they are.
    pub(crate) fn bytes(&self, offset: u32, len: u32) -> Result<Region> {
        let pointer = Pointer::new(0, offset, len);
        self.region_of(self.range(offset, pointer)?, pointer)
    }

    fn region_of(&self, range: std::ops::Range<usize>, pointer: Pointer) -> Result<Region> {
        if let Some(map) = self.map() {
            let part = map.subregion(range);
            return part.ok_or(Error::BadPointer { pointer, what: "it leaves the map" });
        }
        if !self.settled.load(Ordering::Acquire)
            && let Some(bytes) = self.recent.read(range.clone())
        {
            return Ok(Region::from_vec(bytes));
        }
        // The length is bounded by what is in the file, see `range`.
        let mut bytes = vec![0; range.len()];
        self.file.read_exact_at(&mut bytes, range.start as u64)?;
        Ok(Region::from_vec(bytes))
    }

    /// Copies the record at `offset` to `out`, which is as long.
    pub(crate) fn copy(&self, offset: u32, pointer: Pointer, out: &mut [u8]) -> Result<()> {
        if let Some(bytes) = self.mapped(offset, pointer)? {
            out.copy_from_slice(bytes);
            return Ok(());
        }
        let range = self.range(offset, pointer)?;
        if !self.settled.load(Ordering::Acquire) {
            out.copy_from_slice(&self.region_of(range, pointer)?);
            return Ok(());
        }
        Ok(self.file.read_exact_at(out, range.start as u64)?)
    }

    /// Whether the system has all that was written in memory; `false` also where it does not say.
    pub(crate) fn is_cached(&self) -> bool {
        self.file.is_cached(0..self.written().into())
    }

    #[inline]
    fn range(&self, offset: u32, pointer: Pointer) -> Result<std::ops::Range<usize>> {
        let (start, end) = (u64::from(offset), u64::from(offset) + u64::from(pointer.len()));
        if end > u64::from(self.written()) {
            return Err(Error::BadPointer { pointer, what: "it lies beyond what was written" });
        }
        Ok(start as usize..end as usize)
    }

    /// Takes the record in `bytes`, found at `offset`, apart and verifies it.
    #[inline]
    pub(crate) fn verify<'a>(
        &self,
        bytes: &'a [u8],
        offset: u32,
        pointer: Pointer,
        version: u64,
        check: bool,
    ) -> Result<StoredRecord<'a>> {
        touch(bytes);
        self.verify_read(bytes, offset, pointer, version, check)
    }

    /// As [`verify`](Self::verify), for bytes that were just copied.
    #[inline]
    pub(crate) fn verify_read<'a>(
        &self,
        bytes: &'a [u8],
        offset: u32,
        pointer: Pointer,
        version: u64,
        check: bool,
    ) -> Result<StoredRecord<'a>> {
        let Some(record) = StoredRecord::parse(bytes) else {
            return Err(self.not_a_record(bytes, offset, pointer, version));
        };
        if check {
            let raw = crc32fast::hash(&bytes[4..]);
            if !self.salt.matches(record.stored_crc, raw, offset.into(), version) {
                return Err(Error::damaged(&self.path, offset.into(), "a record"));
            }
        }
        Ok(record)
    }

    /// Tells a pointer that is wrong from a record that is damaged: if the place holds an intact
    /// record of another length, it is the pointer.
    #[cold]
    fn not_a_record(&self, bytes: &[u8], offset: u32, pointer: Pointer, version: u64) -> Error {
        let intact = RecordParts::parse(bytes).is_some_and(|parts| {
            let raw = crc32fast::hash(parts.covered);
            self.salt.matches(parts.stored_crc, raw, offset.into(), version)
        });
        match intact {
            true => Error::BadPointer { pointer, what: "the record there has another length" },
            false => Error::damaged(&self.path, offset.into(), "a record of the pointer's length"),
        }
    }
}

/// A record whose length is the pointer's. Its version trailer, if any, is not part of the bytes:
/// whoever reads by pointer knows the version.
pub(crate) struct StoredRecord<'a> {
    pub(crate) stored_crc: u32,
    pub(crate) key: &'a [u8],
    pub(crate) tag: &'a [u8],
    pub(crate) value: &'a [u8],
}

impl<'a> StoredRecord<'a> {
    #[inline]
    fn parse(bytes: &'a [u8]) -> Option<Self> {
        use crate::format::{FLAG_VERSION, RECORD_HEADER, RecordHeader};
        use zerocopy::FromBytes;
        let (header, body) = RecordHeader::ref_from_prefix(bytes).ok()?;
        if header.flags & !FLAG_VERSION != 0 || header.len() != bytes.len() as u64 {
            return None;
        }
        debug_assert_eq!(body.len(), bytes.len() - RECORD_HEADER, "the header is fixed");
        let (key, rest) = body.split_at_checked(usize::from(header.key_len.get()))?;
        let (tag, value) = rest.split_at_checked(usize::from(header.tag_len))?;
        Some(StoredRecord { stored_crc: header.crc.get(), key, tag, value })
    }
}

/// Loads from every cache line of a short record before anything depends on the first one, so
/// that the misses of a cold record overlap instead of following each other.
#[inline]
fn touch(bytes: &[u8]) {
    const LINE: usize = 64;
    if bytes.len() <= 16 << 10 {
        let lines = bytes.iter().step_by(LINE);
        std::hint::black_box(lines.fold(0u8, |all, byte| all | byte));
    }
}
