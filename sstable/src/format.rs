//! The fixed structures of a table file. Prose and byte tables are in the crate's documentation.

use zerocopy::little_endian::{U16, U32, U64, U128};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// The last eight bytes of every table.
pub(crate) const MAGIC: [u8; 8] = *b"kvdbSST\n";
/// The format version this build writes and reads.
pub const FORMAT_VERSION: u32 = 1;
/// The fifth byte of every block.
pub(crate) const BLOCK_MAGIC: u8 = 0xB7;

pub(crate) const FOOTER_LEN: usize = size_of::<Footer>();
pub(crate) const BLOCK_HEADER_LEN: usize = size_of::<BlockHeader>();
pub(crate) const INDEX_HEADER_LEN: usize = size_of::<IndexHeader>();
pub(crate) const FILTER_HEADER_LEN: usize = size_of::<FilterHeader>();
pub(crate) const PROPERTIES_HEADER_LEN: usize = size_of::<PropertiesHeader>();

/// Blocks of uncompressed tables start at multiples of this (or of the block size, if smaller).
pub(crate) const PAGE: usize = 4096;
/// Sections start at multiples of this, so that a filter's words share as few cache lines as can be.
pub(crate) const SECTION_ALIGN: usize = 64;

/// Where a section is and what its checksum is. All zero: there is none.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
#[repr(C)]
pub(crate) struct Handle {
    pub(crate) offset: U64,
    pub(crate) len: U64,
    pub(crate) checksum: U32,
    pub(crate) reserved: U32,
}

impl Handle {
    pub(crate) const NONE: Handle =
        Handle { offset: U64::ZERO, len: U64::ZERO, checksum: U32::ZERO, reserved: U32::ZERO };
}

#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(crate) struct Footer {
    pub(crate) database: U128,
    pub(crate) table: U64,
    pub(crate) salt: U64,
    pub(crate) data_len: U64,
    pub(crate) filter: Handle,
    pub(crate) index: Handle,
    pub(crate) properties: Handle,
    pub(crate) range_tombstones: Handle,
    pub(crate) encryption: Handle,
    pub(crate) codec: u8,
    pub(crate) reserved: [u8; 15],
    pub(crate) checksum: U32,
    pub(crate) version: U32,
    pub(crate) magic: [u8; 8],
}

impl Footer {
    /// The CRC of all of the footer but its checksum.
    pub(crate) fn crc(&self) -> u32 {
        let bytes = self.as_bytes();
        let at = std::mem::offset_of!(Footer, checksum);
        let mut crc = crc32fast::Hasher::new();
        crc.update(&bytes[..at]);
        crc.update(&bytes[at + 4..]);
        crc.finalize()
    }
}

#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(crate) struct BlockHeader {
    pub(crate) checksum: U32,
    pub(crate) magic: u8,
    pub(crate) codec: u8,
    /// Bit 0: slots hold 32-bit ends instead of 16-bit ones. Bits 1 to 3: the logarithm of the
    /// restart interval to base 2.
    pub(crate) flags: u8,
    /// Bytes per version in a slot: 0, 1, 2, 4 or 8.
    pub(crate) version_width: u8,
    /// Length of the decoded block, header included, padding not.
    pub(crate) raw_len: U32,
    /// Stored bytes behind the header, padding not included.
    pub(crate) payload_len: U32,
    /// Bytes of all keys, without what they share.
    pub(crate) key_len: U32,
    pub(crate) count: U16,
    pub(crate) prefix_len: U16,
    pub(crate) base_version: U64,
}

pub(crate) const BLOCK_WIDE: u8 = 1;
pub(crate) const BLOCK_SHIFT_BIT: u32 = 1;
/// No block has more entries.
pub(crate) const BLOCK_MAX_COUNT: usize = u16::MAX as usize;

#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(crate) struct IndexHeader {
    pub(crate) blocks: U32,
    pub(crate) prefix_len: U32,
    /// Bytes of all separators together, without the prefix.
    pub(crate) separator_len: U32,
    /// Bit 0: there is a column of versions.
    pub(crate) flags: U32,
}

pub(crate) const INDEX_VERSIONS: u32 = 1;

#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(crate) struct FilterHeader {
    pub(crate) algorithm: U32,
    pub(crate) hashes: U32,
    pub(crate) words: U64,
    /// Distinct keys in the filter.
    pub(crate) keys: U64,
    /// 0: the filter is over whole keys. Other values are reserved for prefix filters.
    pub(crate) prefix_kind: U32,
    pub(crate) reserved: [u8; 36],
}

#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(crate) struct PropertiesHeader {
    pub(crate) entries: U64,
    pub(crate) distinct_keys: U64,
    pub(crate) key_bytes: U64,
    pub(crate) value_bytes: U64,
    pub(crate) block_bytes: U64,
    pub(crate) blocks: U64,
    pub(crate) smallest_version: U64,
    pub(crate) largest_version: U64,
    pub(crate) smallest_key_len: U32,
    pub(crate) largest_key_len: U32,
    /// How many properties of the caller's own follow the two keys.
    pub(crate) user: U32,
    pub(crate) reserved: U32,
}

const _: () = {
    assert!(size_of::<Handle>() == 24);
    assert!(FOOTER_LEN == 192);
    assert!(BLOCK_HEADER_LEN == 32);
    assert!(INDEX_HEADER_LEN == 16);
    assert!(FILTER_HEADER_LEN == SECTION_ALIGN);
    assert!(PROPERTIES_HEADER_LEN == 80);
};
