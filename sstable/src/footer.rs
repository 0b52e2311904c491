//! The end of a table file: what it must say to be believed.

use kvdb_vfs::Salt;

use crate::format::{BLOCK_MAGIC, FORMAT_VERSION, Footer, Handle};
use crate::{Codec, Error, ErrorKind, Part, Result, Source};

/// Where the sections are. They lie within the file, one behind the other.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sections {
    pub(crate) filter: Option<Handle>,
    pub(crate) index: Handle,
    pub(crate) properties: Handle,
}

/// Not a table, or the front part of one?
#[cold]
pub(crate) fn no_footer(source: &impl Source, len: u64) -> Error {
    let mut start = [0; 5];
    let begins_as_table = len == 0
        || len >= 5 && source.read_exact_at(&mut start, 0).is_ok() && start[4] == BLOCK_MAGIC;
    Error::new(if begins_as_table {
        ErrorKind::Truncated(Part::Footer)
    } else {
        ErrorKind::NotATable
    })
}

/// Checks everything a footer says against itself and the file's length.
pub(crate) fn check_footer(footer: &Footer, footer_at: u64) -> Result<(Codec, Sections)> {
    let version = footer.version.get();
    if version != FORMAT_VERSION {
        return Err(Error::new(ErrorKind::UnsupportedVersion {
            found: version,
            supported: FORMAT_VERSION,
        }));
    }
    if !Salt::NONE.matches(footer.checksum.get(), footer.crc(), footer_at, 0) {
        return Err(Error::new(ErrorKind::ChecksumMismatch(Part::Footer)));
    }
    let codec = Codec::from_id(footer.codec)?;
    let unsupported = |what| Err(Error::new(ErrorKind::UnsupportedFeature(what)));
    if footer.range_tombstones != Handle::NONE {
        return unsupported("range tombstones");
    }
    if footer.encryption != Handle::NONE {
        return unsupported("encryption");
    }
    let handles = [footer.filter, footer.index, footer.properties];
    if footer.reserved != [0; 15] || handles.iter().any(|h| h.reserved.get() != 0) {
        return unsupported("a reserved field of the footer");
    }
    // Blocks, filter, index, properties, footer: each begins where the one before ends, so that
    // every byte of the file belongs to something that has a checksum.
    let corrupt = |what| Err(Error::corrupt(Part::Footer, what));
    let mut at = footer.data_len.get();
    let filter = (footer.filter != Handle::NONE).then_some(footer.filter);
    for handle in filter.iter().chain([&footer.index, &footer.properties]) {
        if handle.offset.get() != at {
            return corrupt("sections do not adjoin");
        }
        at = match at.checked_add(handle.len.get()) {
            Some(end) if end <= footer_at => end,
            _ => return corrupt("a section leaves the file"),
        };
    }
    if at != footer_at {
        return corrupt("sections do not end at the footer");
    }
    Ok((codec, Sections { filter, index: footer.index, properties: footer.properties }))
}

#[cfg(test)]
mod tests {
    use zerocopy::FromBytes;

    use super::*;
    use crate::format::FOOTER_LEN;
    use crate::{Builder, BuilderOptions};

    /// The footer of a table with a filter, and where it is.
    fn footer() -> (Footer, u64) {
        let mut builder = Builder::new(Vec::new(), BuilderOptions::default()).unwrap();
        builder.add(b"key", 1, b"value").unwrap();
        let bytes = builder.finish().unwrap().0;
        let (_, footer) = Footer::read_from_suffix(&bytes).unwrap();
        (footer, (bytes.len() - FOOTER_LEN) as u64)
    }

    #[test]
    fn a_footer_that_contradicts_itself_or_its_file_is_refused() {
        let (intact, at) = footer();
        assert!(check_footer(&intact, at).is_ok());
        let refused = |at: u64, change: &dyn Fn(&mut Footer)| {
            let mut footer = intact;
            change(&mut footer);
            footer.checksum.set(Salt::NONE.seal(footer.crc(), at, 0));
            check_footer(&footer, at).unwrap_err().kind()
        };
        let corrupt = |what| ErrorKind::Corrupt { part: Part::Footer, what };
        let adjoin = corrupt("sections do not adjoin");
        let leaves = corrupt("a section leaves the file");
        let end = corrupt("sections do not end at the footer");
        assert_eq!(refused(at, &|f| f.data_len += 64), adjoin);
        assert_eq!(refused(at, &|f| f.filter.offset += 64), adjoin);
        assert_eq!(refused(at, &|f| f.index.len += 64), adjoin);
        assert_eq!(refused(at, &|f| f.properties.offset -= 64), adjoin);
        assert_eq!(refused(at, &|f| f.properties.len += 64), leaves);
        assert_eq!(refused(at, &|f| f.filter.len.set(u64::MAX)), leaves);
        assert_eq!(refused(at, &|f| f.properties.len -= 64), end);
        assert_eq!(refused(at + 64, &|_| ()), end);
        assert_eq!(refused(at - 64, &|_| ()), leaves);
        let unsupported = |what| ErrorKind::UnsupportedFeature(what);
        assert_eq!(refused(at, &|f| f.range_tombstones.len += 1), unsupported("range tombstones"));
        assert_eq!(refused(at, &|f| f.encryption.offset += 1), unsupported("encryption"));
        let reserved = unsupported("a reserved field of the footer");
        assert_eq!(refused(at, &|f| f.reserved[14] = 1), reserved);
        assert_eq!(refused(at, &|f| f.filter.reserved += 1), reserved);
        assert_eq!(refused(at, &|f| f.index.reserved += 1), reserved);
        assert_eq!(refused(at, &|f| f.properties.reserved += 1), reserved);
        // Without a right checksum nothing else is looked at, but the version.
        let mut footer = intact;
        footer.codec = 99;
        let mismatch = ErrorKind::ChecksumMismatch(Part::Footer);
        assert_eq!(check_footer(&footer, at).unwrap_err().kind(), mismatch);
        assert_eq!(check_footer(&intact, at + 1).unwrap_err().kind(), mismatch, "elsewhere");
    }
}
