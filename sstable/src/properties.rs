//! What a table says about itself.

use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, IntoBytes};

use crate::format::{PROPERTIES_HEADER_LEN, PropertiesHeader};
use crate::{Error, ErrorKind, Part, Result};

/// Counts, bounds and sizes of a table, and the caller's own properties.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Properties {
    /// Entries, all versions counted.
    pub entries: u64,
    /// Distinct keys.
    pub distinct_keys: u64,
    /// Bytes of all keys together, before truncation and compression.
    pub key_bytes: u64,
    /// Bytes of all values together, before compression.
    pub value_bytes: u64,
    /// Bytes of the blocks as laid out, before compression and without padding.
    pub block_bytes: u64,
    /// Bytes of the blocks as stored, padding included.
    pub stored_bytes: u64,
    /// Bytes of the whole file.
    pub file_len: u64,
    /// Number of blocks.
    pub blocks: u64,
    /// The least version; 0 in an empty table.
    pub smallest_version: u64,
    /// The greatest version; 0 in an empty table.
    pub largest_version: u64,
    /// The first key; empty in an empty table.
    pub smallest_key: Vec<u8>,
    /// The last key; empty in an empty table.
    pub largest_key: Vec<u8>,
    /// The caller's own properties, in the order they were given.
    pub user: Vec<(String, Vec<u8>)>,
}

impl Properties {
    /// The value of the caller's own property of this name.
    pub fn user(&self, name: &str) -> Option<&[u8]> {
        self.user.iter().find(|(n, _)| n == name).map(|(_, value)| value.as_slice())
    }

    pub(crate) fn encode(&self, out: &mut Vec<u8>) -> Result<()> {
        let len32 = |len: usize| {
            u32::try_from(len)
                .map(U32::new)
                .map_err(|_| Error::new(ErrorKind::TooLarge(len as u64)))
        };
        let header = PropertiesHeader {
            entries: U64::new(self.entries),
            distinct_keys: U64::new(self.distinct_keys),
            key_bytes: U64::new(self.key_bytes),
            value_bytes: U64::new(self.value_bytes),
            block_bytes: U64::new(self.block_bytes),
            blocks: U64::new(self.blocks),
            smallest_version: U64::new(self.smallest_version),
            largest_version: U64::new(self.largest_version),
            smallest_key_len: len32(self.smallest_key.len())?,
            largest_key_len: len32(self.largest_key.len())?,
            user: len32(self.user.len())?,
            reserved: U32::ZERO,
        };
        out.extend_from_slice(header.as_bytes());
        out.extend_from_slice(&self.smallest_key);
        out.extend_from_slice(&self.largest_key);
        for (name, value) in &self.user {
            out.extend_from_slice(len32(name.len())?.as_bytes());
            out.extend_from_slice(len32(value.len())?.as_bytes());
            out.extend_from_slice(name.as_bytes());
            out.extend_from_slice(value);
        }
        Ok(())
    }

    pub(crate) fn decode(section: &[u8], stored_bytes: u64, file_len: u64) -> Result<Properties> {
        let corrupt = |what| Error::corrupt(Part::Properties, what);
        let (header, mut rest) = PropertiesHeader::ref_from_prefix(section)
            .map_err(|_| corrupt("shorter than their header"))?;
        debug_assert_eq!(section.len() - rest.len(), PROPERTIES_HEADER_LEN);
        if header.reserved.get() != 0 {
            return Err(Error::new(ErrorKind::UnsupportedFeature("a reserved property")));
        }
        fn take<'a>(rest: &mut &'a [u8], len: u32) -> Result<&'a [u8]> {
            let (taken, left) = rest
                .split_at_checked(len as usize)
                .ok_or_else(|| Error::corrupt(Part::Properties, "a length leaves the section"))?;
            *rest = left;
            Ok(taken)
        }
        fn take_len(rest: &mut &[u8]) -> Result<u32> {
            let bytes = take(rest, 4)?;
            Ok(U32::read_from_bytes(bytes).map_or(0, U32::get))
        }
        let smallest_key = take(&mut rest, header.smallest_key_len.get())?.to_vec();
        let largest_key = take(&mut rest, header.largest_key_len.get())?.to_vec();
        // Nothing is reserved by the count in the file: each property takes eight bytes of it.
        let mut user = Vec::new();
        for _ in 0..header.user.get() {
            let (name_len, value_len) = (take_len(&mut rest)?, take_len(&mut rest)?);
            let name = std::str::from_utf8(take(&mut rest, name_len)?)
                .map_err(|_| corrupt("a name is not UTF-8"))?;
            user.push((name.to_owned(), take(&mut rest, value_len)?.to_vec()));
        }
        if rest.iter().any(|&b| b != 0) {
            return Err(Error::corrupt(Part::Padding, "not zero"));
        }
        Ok(Properties {
            entries: header.entries.get(),
            distinct_keys: header.distinct_keys.get(),
            key_bytes: header.key_bytes.get(),
            value_bytes: header.value_bytes.get(),
            block_bytes: header.block_bytes.get(),
            stored_bytes,
            file_len,
            blocks: header.blocks.get(),
            smallest_version: header.smallest_version.get(),
            largest_version: header.largest_version.get(),
            smallest_key,
            largest_key,
            user,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn properties_that_leave_their_section_are_refused() {
        let properties = Properties {
            smallest_key: b"a".to_vec(),
            largest_key: b"zz".to_vec(),
            user: vec![("name".to_owned(), b"value".to_vec())],
            ..Properties::default()
        };
        let mut section = Vec::new();
        properties.encode(&mut section).unwrap();
        assert_eq!(Properties::decode(&section, 0, 0).unwrap(), properties);
        let refused = |change: fn(&mut Vec<u8>)| {
            let mut section = section.clone();
            change(&mut section);
            Properties::decode(&section, 0, 0).unwrap_err().kind()
        };
        let corrupt = |what| ErrorKind::Corrupt { part: Part::Properties, what };
        let leaves = corrupt("a length leaves the section");
        assert_eq!(refused(|s| s.truncate(79)), corrupt("shorter than their header"));
        assert_eq!(refused(|s| s[64] = 200), leaves);
        assert_eq!(refused(|s| s[68] = 200), leaves);
        assert_eq!(refused(|s| s[72] = 2), leaves);
        assert_eq!(refused(|s| s.truncate(s.len() - 1)), leaves);
        assert_eq!(refused(|s| s[80 + 3 + 8] = 0xFF), corrupt("a name is not UTF-8"));
        assert!(matches!(refused(|s| s[76] = 1), ErrorKind::UnsupportedFeature(_)));
        let padding = ErrorKind::Corrupt { part: Part::Padding, what: "not zero" };
        assert_eq!(refused(|s| s.push(1)), padding);
        section.push(0);
        assert_eq!(Properties::decode(&section, 0, 0).unwrap(), properties);
    }
}
