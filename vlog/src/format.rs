//! The fixed structures on disk, and how they are sealed. The byte tables are in the crate's
//! documentation.

use crc32fast::Hasher;
use kvdb_vfs::Salt;
use zerocopy::little_endian::{U16, U32, U64, U128};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::Position;

/// The format version written here, and the only one read. (Version 0 was for development.)
pub const FORMAT_VERSION: u32 = 1;

pub(crate) const PAGE: u32 = 4096;
/// The smallest full-grown segment, in bytes.
pub const MIN_SEGMENT_SIZE: u32 = 1 << 20;
/// The largest segment, in bytes.
pub const MAX_SEGMENT_SIZE: u32 = 1 << 31;
/// Where the first frame of a segment begins: the header has a page of its own, which is never
/// written again.
pub const FIRST_FRAME: u32 = PAGE;
/// The longest key, in bytes.
pub const MAX_KEY_LEN: usize = u16::MAX as usize;
/// The longest tag, in bytes.
pub const MAX_TAG_LEN: usize = u8::MAX as usize;

pub(crate) const SEGMENT_MAGIC: [u8; 8] = *b"KVDBVLOG";
pub(crate) const FRAME_HEADER: usize = size_of::<FrameHeader>();
pub(crate) const RECORD_HEADER: usize = size_of::<RecordHeader>();
pub(crate) const VERSION_TRAILER: usize = 8;
pub(crate) const LINK_LEN: u32 = (FRAME_HEADER + size_of::<LinkBody>()) as u32;
pub(crate) const FOOTER_LEN: u32 = (FRAME_HEADER + size_of::<FooterBody>()) as u32;
pub(crate) const MARKER_LEN: u32 = FRAME_HEADER as u32;
/// What a segment's transactions cannot use.
pub(crate) const SEGMENT_OVERHEAD: u32 = FIRST_FRAME + LINK_LEN + END_RESERVE;
/// Kept free behind the last frame of the active segment: a close finds room for its footer, and
/// the opening after it for the marker that goes behind the footer.
pub(crate) const END_RESERVE: u32 = FOOTER_LEN + MARKER_LEN;
/// Flag of a record that carries its own version.
pub(crate) const FLAG_VERSION: u8 = 1;
/// "No segment before this one" in a link.
pub(crate) const NO_SEGMENT: u32 = u32::MAX;

/// The longest frame that a segment of this size can hold, in bytes: everything but the file's
/// header page (4096), the link frame (48), and the places of a footer (40) and a marker (32).
///
/// ```
/// assert_eq!(kvdb_vlog::max_frame_len(1 << 20), (1 << 20) - 4216);
/// ```
pub const fn max_frame_len(segment_size: u32) -> usize {
    segment_size.saturating_sub(SEGMENT_OVERHEAD) as usize / 8 * 8
}

/// What a pointer's `len` is for a record of these lengths, in bytes: `12 + key + tag + value`.
pub const fn record_len(key: usize, tag: usize, value: usize) -> usize {
    RECORD_HEADER + key + tag + value
}

/// Length in bytes of a frame that holds records of this total length, each as [`record_len`]
/// says, plus 8 for every one with an explicit version.
pub const fn frame_len(records: usize) -> usize {
    (FRAME_HEADER + records).next_multiple_of(8)
}

#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(crate) struct SegmentHeader {
    pub(crate) magic: [u8; 8],
    pub(crate) format: U32,
    pub(crate) method: U32,
    pub(crate) database: U128,
    pub(crate) file: U64,
    pub(crate) nonce: U64,
    pub(crate) segment: U32,
    pub(crate) capacity: U32,
    pub(crate) reserved: U32,
    pub(crate) crc: U32,
}

impl SegmentHeader {
    pub(crate) const LEN: usize = size_of::<SegmentHeader>();

    pub(crate) fn salt(&self) -> Salt {
        Salt::derive(self.database.get(), self.file.get(), self.nonce.get())
    }

    pub(crate) fn seal(&mut self) {
        let raw = crc32fast::hash(&self.as_bytes()[..Self::LEN - 4]);
        self.crc = self.salt().seal(raw, 0, 0).into();
    }

    pub(crate) fn verifies(&self) -> bool {
        let raw = crc32fast::hash(&self.as_bytes()[..Self::LEN - 4]);
        self.salt().matches(self.crc.get(), raw, 0, 0)
    }
}

/// What a frame is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Kind {
    Transaction = 1,
    Marker = 2,
    Footer = 3,
    Link = 4,
}

impl Kind {
    fn from_raw(raw: u32) -> Option<Kind> {
        match raw {
            1 => Some(Kind::Transaction),
            2 => Some(Kind::Marker),
            3 => Some(Kind::Footer),
            4 => Some(Kind::Link),
            _ => None,
        }
    }
}

#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(crate) struct FrameHeader {
    pub(crate) crc: U32,
    pub(crate) length_and_kind: U32,
    pub(crate) body_crc: U32,
    pub(crate) records: U32,
    pub(crate) version: U64,
    pub(crate) durable_segment: U32,
    pub(crate) durable_offset: U32,
}

impl FrameHeader {
    pub(crate) fn new(kind: Kind, len: u32, body_crc: u32, records: u32, version: u64) -> Self {
        FrameHeader {
            crc: 0.into(),
            length_and_kind: (len | kind as u32).into(),
            body_crc: body_crc.into(),
            records: records.into(),
            version: version.into(),
            durable_segment: 0.into(),
            durable_offset: 0.into(),
        }
    }

    /// Fills in the mark and the checksum; returns the checksum before it was sealed.
    pub(crate) fn seal(&mut self, salt: Salt, offset: u32, durable: Position) -> u32 {
        self.durable_segment = durable.segment.into();
        self.durable_offset = durable.offset.into();
        let raw = self.raw_crc();
        self.crc = salt.seal(raw, offset.into(), 0).into();
        raw
    }

    pub(crate) fn raw_crc(&self) -> u32 {
        crc32fast::hash(&self.as_bytes()[4..])
    }

    pub(crate) fn len(&self) -> u32 {
        self.length_and_kind.get() & !7
    }

    pub(crate) fn kind(&self) -> Option<Kind> {
        Kind::from_raw(self.length_and_kind.get() & 7)
    }

    pub(crate) fn durable(&self) -> Position {
        Position::new(self.durable_segment.get(), self.durable_offset.get())
    }

    /// Reads a header that must belong at `offset` of a file of `capacity` bytes with this salt.
    /// The cheap checks come first: this runs at every eighth byte of a tail.
    #[inline]
    pub(crate) fn check(bytes: &[u8], salt: Salt, offset: u32, capacity: u32) -> Option<Self> {
        let header = FrameHeader::read_from_prefix(bytes).ok()?.0;
        let kind = header.kind()?;
        let least = match kind {
            Kind::Transaction => FRAME_HEADER as u32,
            Kind::Marker => MARKER_LEN,
            Kind::Footer => FOOTER_LEN,
            Kind::Link => LINK_LEN,
        };
        let len = header.len();
        if len < least || len > capacity.saturating_sub(offset) {
            return None;
        }
        if kind != Kind::Transaction && len != least {
            return None;
        }
        salt.matches(header.crc.get(), header.raw_crc(), offset.into(), 0).then_some(header)
    }
}

#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(crate) struct RecordHeader {
    pub(crate) crc: U32,
    pub(crate) value_len: U32,
    pub(crate) key_len: U16,
    pub(crate) tag_len: u8,
    pub(crate) flags: u8,
}

impl RecordHeader {
    /// `12 + key + tag + value`.
    pub(crate) fn len(&self) -> u64 {
        RECORD_HEADER as u64
            + u64::from(self.key_len.get())
            + u64::from(self.tag_len)
            + u64::from(self.value_len.get())
    }

    pub(crate) fn has_version(&self) -> bool {
        self.flags & FLAG_VERSION != 0
    }
}

/// Body of a link: where the segment before this one ended.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
#[repr(C)]
pub(crate) struct LinkBody {
    pub(crate) segment: U32,
    pub(crate) length: U32,
    pub(crate) frames: U32,
    pub(crate) checksum: U32,
}

impl LinkBody {
    pub(crate) const NONE: LinkBody = LinkBody {
        segment: U32::new(NO_SEGMENT),
        length: U32::ZERO,
        frames: U32::ZERO,
        checksum: U32::ZERO,
    };

    pub(crate) fn to(sealed: &crate::SealedSegment) -> Self {
        LinkBody {
            segment: sealed.segment.into(),
            length: sealed.length.into(),
            frames: sealed.frames.into(),
            checksum: sealed.checksum.into(),
        }
    }
}

/// Body of a footer: the running totals of the segment up to the footer, so that appending can
/// go on behind it without reading the segment.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
#[repr(C)]
pub(crate) struct FooterBody {
    pub(crate) frames: U32,
    pub(crate) checksum: U32,
}

/// Continues a CRC-32 with one more checksum.
#[inline]
pub(crate) fn chain(crc: u32, next: u32) -> u32 {
    let mut hasher = Hasher::new_with_initial(crc);
    hasher.update(&next.to_le_bytes());
    hasher.finalize()
}

/// Frame count and running checksum of a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Totals {
    pub(crate) frames: u32,
    pub(crate) checksum: u32,
}

impl Totals {
    pub(crate) fn add(&mut self, raw_header_crc: u32) {
        self.frames = self.frames.wrapping_add(1);
        self.checksum = chain(self.checksum, raw_header_crc);
    }

    pub(crate) fn sealed(self, segment: u32, length: u32) -> crate::SealedSegment {
        crate::SealedSegment { segment, length, frames: self.frames, checksum: self.checksum }
    }
}

/// Writes a control frame (marker, link, footer) for `offset` into `out`; returns the header's
/// raw checksum. `version`: the largest so far in a link, else 0.
pub(crate) fn control_frame(
    out: &mut Vec<u8>,
    kind: Kind,
    version: u64,
    body: &[u8],
    salt: Salt,
    offset: u32,
    durable: Position,
) -> u32 {
    let len = (FRAME_HEADER + body.len()) as u32;
    debug_assert!(len.is_multiple_of(8), "control frames need no padding");
    let mut header = FrameHeader::new(kind, len, crc32fast::hash(body), 0, version);
    let raw = header.seal(salt, offset, durable);
    out.extend_from_slice(header.as_bytes());
    out.extend_from_slice(body);
    raw
}
