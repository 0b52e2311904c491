//! Building frames: records are encoded and checksummed before anyone knows where they will go.

use crc32fast::Hasher;
use kvdb_vfs::Salt;
use zerocopy::{FromBytes, IntoBytes};

use crate::format::{
    FLAG_VERSION, FRAME_HEADER, FrameHeader, Kind, MAX_KEY_LEN, MAX_SEGMENT_SIZE, MAX_TAG_LEN,
    RECORD_HEADER, RecordHeader, VERSION_TRAILER, max_frame_len,
};
use crate::{Error, Pointer, Position, Result};

/// Collects the records of one frame.
///
/// A member of a group encodes and checksums its own frame on its own thread; when the leader
/// knows the frame's place, it only masks the checksums.
///
/// ```
/// # fn main() -> Result<(), kvdb_vlog::Error> {
/// let mut builder = kvdb_vlog::FrameBuilder::new();
/// builder.push(b"key", b"", b"value", None)?;
/// assert_eq!(builder.len(), (32 + 12 + 3 + 5usize).next_multiple_of(8));
/// let frame = builder.finish();
/// assert_eq!(frame.records(), 1);
/// # Ok(()) }
/// ```
#[derive(Debug)]
pub struct FrameBuilder {
    bytes: Vec<u8>,
    records: u32,
    body: Hasher,
}

impl Default for FrameBuilder {
    fn default() -> Self {
        Self::new()
    }
}

impl FrameBuilder {
    /// An empty frame.
    pub fn new() -> Self {
        Self::reusing(Vec::new())
    }

    /// An empty frame with room for `bytes` bytes of records.
    pub fn with_capacity(bytes: usize) -> Self {
        Self::reusing(Vec::with_capacity(FRAME_HEADER + bytes + 8))
    }

    /// An empty frame that is built in a buffer of an earlier one ([`Frame::into_buffer`]).
    pub fn reusing(mut buffer: Vec<u8>) -> Self {
        buffer.clear();
        buffer.resize(FRAME_HEADER, 0);
        FrameBuilder { bytes: buffer, records: 0, body: Hasher::new() }
    }

    /// Adds a record. Without an explicit version its version is the frame's.
    ///
    /// # Errors
    /// [`Error::RecordTooLarge`] for a key over 65,535 or a tag over 255 bytes, and
    /// [`Error::FrameTooLarge`] if the frame would exceed what the largest possible segment
    /// holds. The frame is as it was before, and can still be used.
    pub fn push(
        &mut self,
        key: &[u8],
        tag: &[u8],
        value: &[u8],
        version: Option<u64>,
    ) -> Result<()> {
        self.push_parts(key, tag, &[value], version)
    }

    /// As [`FrameBuilder::push`], with a value in several parts.
    ///
    /// # Errors
    /// As [`FrameBuilder::push`].
    pub fn push_parts(
        &mut self,
        key: &[u8],
        tag: &[u8],
        value: &[&[u8]],
        version: Option<u64>,
    ) -> Result<()> {
        let value_len: usize = value.iter().map(|p| p.len()).sum();
        limit("key", key.len(), MAX_KEY_LEN)?;
        limit("tag", tag.len(), MAX_TAG_LEN)?;
        let trailer = if version.is_some() { VERSION_TRAILER } else { 0 };
        let len = RECORD_HEADER + key.len() + tag.len() + value_len + trailer;
        let size = self.bytes.len().saturating_add(len);
        let most = max_frame_len(MAX_SEGMENT_SIZE);
        if size > most {
            return Err(Error::FrameTooLarge { size: size as u64, limit: most as u64 });
        }
        let start = self.bytes.len();
        let mut header = RecordHeader {
            crc: 0.into(),
            value_len: (value_len as u32).into(),
            key_len: (key.len() as u16).into(),
            tag_len: tag.len() as u8,
            flags: if version.is_some() { FLAG_VERSION } else { 0 },
        };
        self.bytes.reserve(len);
        self.bytes.extend_from_slice(header.as_bytes());
        self.bytes.extend_from_slice(key);
        self.bytes.extend_from_slice(tag);
        for part in value {
            self.bytes.extend_from_slice(part);
        }
        let raw = crc32fast::hash(&self.bytes[start + 4..]);
        header.crc = raw.into();
        self.bytes[start..start + 4].copy_from_slice(header.crc.as_bytes());
        if let Some(version) = version {
            self.bytes.extend_from_slice(&version.to_le_bytes());
        }
        self.body.update(&raw.to_le_bytes());
        self.records += 1;
        Ok(())
    }

    /// Exact length of the frame in bytes if it were finished now, header and padding included.
    #[allow(clippy::len_without_is_empty)] // a frame is never empty
    pub fn len(&self) -> usize {
        self.bytes.len().next_multiple_of(8)
    }

    /// Number of records so far.
    pub fn records(&self) -> u32 {
        self.records
    }

    /// The finished frame.
    pub fn finish(self) -> Frame {
        let FrameBuilder { mut bytes, records, body } = self;
        let content = bytes.len();
        bytes.resize(content.next_multiple_of(8), 0);
        let header =
            FrameHeader::new(Kind::Transaction, bytes.len() as u32, body.finalize(), records, 0);
        bytes[..FRAME_HEADER].copy_from_slice(header.as_bytes());
        Frame { bytes, records }
    }
}

fn limit(what: &'static str, size: usize, limit: usize) -> Result<()> {
    if size <= limit {
        return Ok(());
    }
    Err(Error::RecordTooLarge { what, size: size as u64, limit: limit as u64 })
}

/// A finished frame without a place.
#[derive(Debug)]
pub struct Frame {
    bytes: Vec<u8>,
    records: u32,
}

impl Frame {
    /// Length in bytes, header and padding included: what it takes in the log.
    #[allow(clippy::len_without_is_empty)] // a frame is never empty
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Number of records.
    pub fn records(&self) -> u32 {
        self.records
    }

    /// The frame's buffer, to build another one in.
    pub fn into_buffer(self) -> Vec<u8> {
        self.bytes
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// For each record, its offset in the frame and its pointer length.
    pub(crate) fn layout(&self) -> impl Iterator<Item = (u32, u32)> + '_ {
        let mut at = FRAME_HEADER;
        (0..self.records).map_while(move |_| {
            let header = RecordHeader::ref_from_prefix(self.bytes.get(at..)?).ok()?.0;
            let here = (at as u32, header.len() as u32);
            at += header.len() as usize + if header.has_version() { VERSION_TRAILER } else { 0 };
            Some(here)
        })
    }

    /// Ties the frame to its place: masks the checksums of the records and fills in the header.
    /// Returns the header's raw checksum. Called once per frame.
    pub(crate) fn seal(&mut self, salt: Salt, offset: u32, version: u64, durable: Position) -> u32 {
        let mut at = FRAME_HEADER;
        for _ in 0..self.records {
            let Some(rest) = self.bytes.get_mut(at..) else { break };
            let Ok((header, body)) = RecordHeader::mut_from_prefix(rest) else { break };
            let len = header.len() as usize - RECORD_HEADER;
            let own = if header.has_version() { VERSION_TRAILER } else { 0 };
            let record_version = match body.get(len..len + own) {
                Some(trailer) if own != 0 => trailer.try_into().map_or(version, u64::from_le_bytes),
                _ => version,
            };
            let place = u64::from(offset) + at as u64;
            header.crc = salt.seal(header.crc.get(), place, record_version).into();
            at += RECORD_HEADER + len + own;
        }
        let Ok((header, _)) = FrameHeader::mut_from_prefix(&mut self.bytes) else { return 0 };
        header.version = version.into();
        header.seal(salt, offset, durable)
    }

    /// A view of the frame at its place.
    pub(crate) fn view(&self, version: u64, position: Position) -> FrameView<'_> {
        FrameView { bytes: &self.bytes, version, position, records: self.records }
    }
}

/// A whole, verified frame of the log.
#[derive(Debug, Clone, Copy)]
pub struct FrameView<'a> {
    bytes: &'a [u8],
    version: u64,
    position: Position,
    records: u32,
}

impl<'a> FrameView<'a> {
    pub(crate) fn new(bytes: &'a [u8], header: &FrameHeader, position: Position) -> Self {
        FrameView { bytes, version: header.version.get(), position, records: header.records.get() }
    }

    /// The frame's version.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// Where the frame begins.
    pub fn position(&self) -> Position {
        self.position
    }

    /// Number of records.
    pub fn len(&self) -> u32 {
        self.records
    }

    /// Whether it has no records.
    pub fn is_empty(&self) -> bool {
        self.records == 0
    }

    /// Length of the frame in bytes, header and padding included.
    pub fn frame_len(&self) -> usize {
        self.bytes.len()
    }

    /// The records, in the order in which they were pushed.
    pub fn records(&self) -> Records<'a> {
        Records { frame: *self, at: FRAME_HEADER, left: self.records }
    }
}

/// One record of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RecordView<'a> {
    /// The key.
    pub key: &'a [u8],
    /// The tag: bytes of the caller's own, at most 255.
    pub tag: &'a [u8],
    /// The value.
    pub value: &'a [u8],
    /// The record's version: its own, or the frame's.
    pub version: u64,
    /// The record's name.
    pub pointer: Pointer,
}

/// Iterator over the records of a frame.
#[derive(Debug, Clone)]
pub struct Records<'a> {
    frame: FrameView<'a>,
    at: usize,
    left: u32,
}

impl<'a> Iterator for Records<'a> {
    type Item = RecordView<'a>;

    #[inline]
    fn next(&mut self) -> Option<RecordView<'a>> {
        self.left = self.left.checked_sub(1)?;
        let parts = RecordParts::parse(self.frame.bytes.get(self.at..)?)?;
        let Position { segment, offset } = self.frame.position;
        let pointer = Pointer::new(segment, offset + self.at as u32, parts.len as u32);
        self.at += parts.stored_len();
        Some(RecordView {
            key: parts.key,
            tag: parts.tag,
            value: parts.value,
            version: parts.version.unwrap_or(self.frame.version),
            pointer,
        })
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.left as usize, Some(self.left as usize))
    }
}

/// A record taken apart; nothing but its lengths is checked.
pub(crate) struct RecordParts<'a> {
    pub(crate) stored_crc: u32,
    /// What the checksum covers.
    pub(crate) covered: &'a [u8],
    pub(crate) key: &'a [u8],
    pub(crate) tag: &'a [u8],
    pub(crate) value: &'a [u8],
    pub(crate) version: Option<u64>,
    /// `12 + key + tag + value`.
    pub(crate) len: usize,
}

impl<'a> RecordParts<'a> {
    /// Takes the record at the start of `bytes` apart; `None` if it does not fit or has flags
    /// unknown here.
    #[inline]
    pub(crate) fn parse(bytes: &'a [u8]) -> Option<Self> {
        let (header, _) = RecordHeader::ref_from_prefix(bytes).ok()?;
        if header.flags & !FLAG_VERSION != 0 {
            return None;
        }
        let len = usize::try_from(header.len()).ok()?;
        let covered = bytes.get(4..len)?;
        let body = bytes.get(RECORD_HEADER..len)?;
        let (key, rest) = body.split_at_checked(usize::from(header.key_len.get()))?;
        let (tag, value) = rest.split_at_checked(usize::from(header.tag_len))?;
        let version = match header.has_version() {
            true => {
                let trailer = bytes.get(len..len + VERSION_TRAILER)?;
                Some(u64::from_le_bytes(trailer.try_into().ok()?))
            }
            false => None,
        };
        Some(RecordParts { stored_crc: header.crc.get(), covered, key, tag, value, version, len })
    }

    /// Bytes that the record takes in the file.
    pub(crate) fn stored_len(&self) -> usize {
        self.len + if self.version.is_some() { VERSION_TRAILER } else { 0 }
    }
}

/// Bytes that the record with this header takes in the file; `None` if that is no header.
pub(crate) fn stored_len(header: &[u8]) -> Option<u64> {
    let (header, _) = RecordHeader::ref_from_prefix(header).ok()?;
    Some(header.len() + if header.has_version() { VERSION_TRAILER as u64 } else { 0 })
}

/// Verifies a frame whose header verified: every record, and that they are the ones the header
/// was made for. `bytes` is the whole frame. Returns the largest version in it.
pub(crate) fn verify_body(
    bytes: &[u8],
    header: &FrameHeader,
    salt: Salt,
    offset: u32,
) -> Option<u64> {
    let mut largest = header.version.get();
    if header.kind() != Some(Kind::Transaction) {
        let body = bytes.get(FRAME_HEADER..)?;
        let intact = crc32fast::hash(body) == header.body_crc.get();
        return (intact && header.records.get() == 0).then_some(largest);
    }
    let mut body = Hasher::new();
    let mut at = FRAME_HEADER;
    for _ in 0..header.records.get() {
        let parts = RecordParts::parse(bytes.get(at..)?)?;
        let raw = crc32fast::hash(parts.covered);
        let version = parts.version.unwrap_or(header.version.get());
        if !salt.matches(parts.stored_crc, raw, u64::from(offset) + at as u64, version) {
            return None;
        }
        largest = largest.max(version);
        body.update(&raw.to_le_bytes());
        at += parts.stored_len();
    }
    let padding = bytes.get(at..)?;
    let intact = padding.len() < 8
        && padding.iter().all(|b| *b == 0)
        && body.finalize() == header.body_crc.get();
    intact.then_some(largest)
}
