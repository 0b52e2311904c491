//! Names of places in the log, and what is known of its segments.

use std::fmt;
use std::path::{Path, PathBuf};

use zerocopy::little_endian::U32;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// The name of a record: segment, offset of the record in it, and length.
///
/// It is a name, not an address: it stays valid when the record is moved by garbage collection,
/// since the segment's number then leads to a relocation table. `len` is
/// `12 + key + tag + value` bytes whatever else the file holds for the record, so the length of
/// the value is known without reading it.
///
/// Twelve bytes, little-endian, to be stored as they are.
#[derive(
    Clone, Copy, PartialEq, Eq, Hash, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
#[repr(C)]
pub struct Pointer {
    segment: U32,
    offset: U32,
    len: U32,
}

impl Pointer {
    /// Length of the stored form.
    pub const LEN: usize = size_of::<Pointer>();

    /// A pointer from its parts.
    pub const fn new(segment: u32, offset: u32, len: u32) -> Self {
        Pointer { segment: U32::new(segment), offset: U32::new(offset), len: U32::new(len) }
    }

    /// Reads the stored form; `None` unless `bytes` is exactly [`Pointer::LEN`] long.
    pub fn from_stored(bytes: &[u8]) -> Option<Self> {
        Pointer::read_from_bytes(bytes).ok()
    }

    /// The segment's number.
    pub fn segment(&self) -> u32 {
        self.segment.get()
    }

    /// Where the record begins in the segment, in bytes.
    pub fn offset(&self) -> u32 {
        self.offset.get()
    }

    /// `12 + key + tag + value`, in bytes.
    #[allow(clippy::len_without_is_empty)] // a record is never empty
    pub fn len(&self) -> u32 {
        self.len.get()
    }

    /// The length of the value of a record with a key and a tag of these lengths; `None` if the
    /// pointer is too short for them.
    pub fn value_len(&self, key_len: usize, tag_len: usize) -> Option<usize> {
        (self.len() as usize).checked_sub(crate::format::RECORD_HEADER + key_len + tag_len)
    }

    /// The position of the record.
    pub fn position(&self) -> Position {
        Position { segment: self.segment(), offset: self.offset() }
    }
}

impl fmt::Display for Pointer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}+{}", self.segment(), self.offset(), self.len())
    }
}

impl fmt::Debug for Pointer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Pointer({self})")
    }
}

/// A place in the log. Ordered as the log is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Position {
    /// The segment's number.
    pub segment: u32,
    /// Offset in the segment, in bytes.
    pub offset: u32,
}

impl Position {
    /// Before everything.
    pub const ZERO: Position = Position { segment: 0, offset: 0 };

    /// A position from its parts.
    pub const fn new(segment: u32, offset: u32) -> Self {
        Position { segment, offset }
    }

    /// As one number of the same order: `segment << 32 | offset`.
    pub const fn packed(self) -> u64 {
        (self.segment as u64) << 32 | self.offset as u64
    }

    /// The inverse of [`packed`](Position::packed).
    pub const fn unpacked(packed: u64) -> Self {
        Position { segment: (packed >> 32) as u32, offset: packed as u32 }
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.segment, self.offset)
    }
}

/// What the caller chooses for a new segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SegmentName {
    /// The segment's number: above every earlier one, never used again.
    pub segment: u32,
    /// Number of the file that holds it.
    pub file: u64,
    /// A random number, so that checksums of an earlier life of the file never verify.
    pub nonce: u64,
}

/// What the caller must keep of a segment to open it again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SegmentMeta {
    /// The segment's number.
    pub segment: u32,
    /// Number of the file that holds it.
    pub file: u64,
    /// The random number in its salt.
    pub nonce: u64,
    /// Size of the file in bytes.
    pub capacity: u32,
    /// How durable groups are written, as stored in the header.
    pub method: u32,
}

/// A segment that will not be appended to any more. All of it is durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SealedSegment {
    /// The segment's number.
    pub segment: u32,
    /// Where its last frame ends, in bytes.
    pub length: u32,
    /// Number of its frames of all kinds.
    pub frames: u32,
    /// CRC-32 over the checksums of its frames' headers, in order.
    pub checksum: u32,
}

/// Where the records of a collected segment are now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Relocated {
    /// Number of the file with the relocation table.
    pub table: u64,
    /// The random number in the table's salt.
    pub table_nonce: u64,
}

/// A segment as the caller's manifest has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SegmentRecord {
    /// As it was named.
    pub meta: SegmentMeta,
    /// As it was sealed, if it was.
    pub sealed: Option<SealedSegment>,
    /// Where its records went, if they were relocated; then its own file is gone.
    pub relocated: Option<Relocated>,
}

/// The path of a segment's file.
pub fn segment_path(dir: &Path, file: u64) -> PathBuf {
    dir.join(format!("{file:06}.vlog"))
}

/// The file number of a name made by [`segment_path`]; `None` for any other name.
pub fn parse_segment_path(name: &Path) -> Option<u64> {
    numbered(name, "vlog")
}

pub(crate) fn numbered(name: &Path, extension: &str) -> Option<u64> {
    if name.extension()?.to_str()? != extension {
        return None;
    }
    let stem = name.file_stem()?.to_str()?;
    let number = stem.parse::<u64>().ok()?;
    (stem == format!("{number:06}")).then_some(number)
}
