//! The fixed parts of the file: its header and the header of a record.

use std::path::Path;

use kvdb_vfs::Salt;
use zerocopy::little_endian::{U32, U64, U128};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::{Error, Result};

/// Name of the manifest within its directory.
pub const FILE_NAME: &str = "MANIFEST";
/// Name of the file that becomes the manifest at a rewrite.
pub const TEMP_NAME: &str = "MANIFEST.tmp";
/// The largest encoded change, in bytes.
pub const MAX_CHANGE_LEN: u64 = 1 << 30;
/// The format that is written, and the only one that is read. (Version 0 was for development.)
pub const FORMAT_VERSION: u32 = 1;

pub(crate) const HEADER_LEN: u64 = size_of::<RawHeader>() as u64;
pub(crate) const RECORD_HEADER_LEN: u64 = size_of::<RecordHeader>() as u64;

const MAGIC: [u8; 8] = *b"kvdbMANI";
/// The manifest is file 0 of its database; ids of tables and segments are not used as salt here.
const FILE_ID: u64 = 0;

/// The first bytes of the file. See the crate's documentation for the table.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct RawHeader {
    magic: [u8; 8],
    version: U32,
    reserved: U32,
    database: U128,
    nonce: U64,
    base: U64,
    reserved2: [u8; 12],
    checksum: U32,
}

/// Whether a manifest can begin with these bytes, however few they are.
pub(crate) fn is_ours(start: &[u8]) -> bool {
    start.iter().zip(MAGIC).all(|(&byte, magic)| byte == magic)
}

/// What the file's header says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) database: u128,
    /// Random, new with every file, so that records of an earlier one never verify.
    pub(crate) nonce: u64,
    /// Length of the file when it got its name. All of it was durable by then, so damage below
    /// this offset is never a torn tail.
    pub(crate) base: u64,
}

impl Header {
    pub(crate) fn salt(&self) -> Salt {
        Salt::derive(self.database, FILE_ID, self.nonce)
    }

    pub(crate) fn encode(&self) -> [u8; HEADER_LEN as usize] {
        let mut raw = RawHeader {
            magic: MAGIC,
            version: U32::new(FORMAT_VERSION),
            reserved: U32::ZERO,
            database: U128::new(self.database),
            nonce: U64::new(self.nonce),
            base: U64::new(self.base),
            reserved2: [0; 12],
            checksum: U32::ZERO,
        };
        raw.checksum = U32::new(self.salt().seal(raw.crc(), 0, 0));
        let mut out = [0; HEADER_LEN as usize];
        out.copy_from_slice(raw.as_bytes());
        out
    }

    /// Reads the header of the manifest at `path`, which begins [as one](is_ours). The layout of these bytes is the same in every
    /// format version, so a checksum that does not match is damage, whatever the version says.
    pub(crate) fn decode(bytes: &[u8; HEADER_LEN as usize], path: &Path) -> Result<Header> {
        let raw: RawHeader = zerocopy::transmute!(*bytes);
        let header =
            Header { database: raw.database.get(), nonce: raw.nonce.get(), base: raw.base.get() };
        if !header.salt().matches(raw.checksum.get(), raw.crc(), 0, 0) {
            return Err(Error::corrupt(path, 0, "the checksum of the header does not match"));
        }
        if raw.version.get() != FORMAT_VERSION {
            return Err(Error::UnsupportedVersion {
                path: path.to_owned(),
                found: raw.version.get(),
                supported: FORMAT_VERSION,
            });
        }
        if header.base < HEADER_LEN {
            return Err(Error::corrupt(path, 0, "the header claims less than its own length"));
        }
        Ok(header)
    }
}

impl RawHeader {
    fn crc(&self) -> u32 {
        let bytes = self.as_bytes();
        crc32fast::hash(&bytes[..bytes.len() - size_of::<U32>()])
    }
}

/// What precedes the payload of a record.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct RecordHeader {
    len: U32,
    kind: U32,
    payload_crc: U32,
    checksum: U32,
}

/// What a record is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A change set.
    Change,
    /// No payload: everything before it was durable when it was written.
    Mark,
}

impl Kind {
    const fn code(self) -> u32 {
        match self {
            Kind::Change => 1,
            Kind::Mark => 2,
        }
    }
}

/// A record header whose checksum matched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Record {
    pub(crate) kind: Kind,
    pub(crate) len: u32,
    payload_crc: u32,
}

impl Record {
    /// A mark, as it is written at `offset`.
    pub(crate) fn mark(salt: Salt, offset: u64) -> [u8; RECORD_HEADER_LEN as usize] {
        Record::encode(Kind::Mark, &[], salt, offset)
    }

    /// The header of a record with this payload, at most [`MAX_CHANGE_LEN`] bytes, at `offset`.
    pub(crate) fn encode(
        kind: Kind,
        payload: &[u8],
        salt: Salt,
        offset: u64,
    ) -> [u8; RECORD_HEADER_LEN as usize] {
        debug_assert!(payload.len() as u64 <= MAX_CHANGE_LEN);
        let mut raw = RecordHeader {
            len: U32::new(payload.len() as u32),
            kind: U32::new(kind.code()),
            payload_crc: U32::new(crc32fast::hash(payload)),
            checksum: U32::ZERO,
        };
        raw.checksum = U32::new(salt.seal(raw.crc(), offset, 0));
        let mut out = [0; RECORD_HEADER_LEN as usize];
        out.copy_from_slice(raw.as_bytes());
        out
    }

    /// The record header in `bytes`, if it is one that was written at `offset` of this file.
    pub(crate) fn decode(bytes: &[u8], salt: Salt, offset: u64) -> Option<Record> {
        let (raw, _) = RecordHeader::ref_from_prefix(bytes).ok()?;
        // The cheap tests come first: this runs at every byte of a damaged tail.
        let kind = match raw.kind.get() {
            1 => Kind::Change,
            2 if raw.len.get() == 0 => Kind::Mark,
            _ => return None,
        };
        if u64::from(raw.len.get()) > MAX_CHANGE_LEN
            || !salt.matches(raw.checksum.get(), raw.crc(), offset, 0)
        {
            return None;
        }
        Some(Record { kind, len: raw.len.get(), payload_crc: raw.payload_crc.get() })
    }

    pub(crate) fn matches(&self, payload: &[u8]) -> bool {
        payload.len() == self.len as usize && crc32fast::hash(payload) == self.payload_crc
    }
}

impl RecordHeader {
    fn crc(&self) -> u32 {
        let bytes = self.as_bytes();
        crc32fast::hash(&bytes[..bytes.len() - size_of::<U32>()])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_survives_and_any_flipped_bit_is_seen() {
        let path = Path::new("M");
        let header = Header { database: 7 << 90 | 5, nonce: 9, base: 4711 };
        let bytes = header.encode();
        assert_eq!(Header::decode(&bytes, path).unwrap(), header);
        for bit in 0..bytes.len() * 8 {
            let mut bad = bytes;
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(Header::decode(&bad, path).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn a_newer_format_is_told_from_damage() {
        let header = Header { database: 1, nonce: 2, base: 64 };
        let mut raw: RawHeader = zerocopy::transmute!(header.encode());
        raw.version = U32::new(FORMAT_VERSION + 1);
        raw.checksum = U32::new(header.salt().seal(raw.crc(), 0, 0));
        let bytes: [u8; HEADER_LEN as usize] = zerocopy::transmute!(raw);
        assert!(matches!(
            Header::decode(&bytes, Path::new("M")),
            Err(Error::UnsupportedVersion { found: 2, supported: 1, .. })
        ));
    }

    #[test]
    fn a_record_header_is_valid_in_one_place_of_one_file_only() {
        let (a, b) = (Salt::derive(1, 0, 1), Salt::derive(1, 0, 2));
        let bytes = Record::encode(Kind::Change, b"payload", a, 64);
        let record = Record::decode(&bytes, a, 64).unwrap();
        assert!(record.matches(b"payload") && !record.matches(b"paYload"));
        assert_eq!(Record::decode(&bytes, b, 64), None);
        assert_eq!(Record::decode(&bytes, a, 65), None);
        assert_eq!(Record::decode(&[0; 16], a, 0), None);
        assert_eq!(Record::decode(&Record::mark(a, 64), a, 64).unwrap().kind, Kind::Mark);
    }
}
