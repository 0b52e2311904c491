//! [`Table`]: the reader.

use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::AtomicU64;

use kvdb_vfs::{Region, Salt};
use zerocopy::FromBytes;

use crate::block::Layout;
use crate::cache::{BlockCache, next_handle};
use crate::filter::FilterMeta;
use crate::footer::{Sections, check_footer, no_footer};
use crate::format::{FOOTER_LEN, Footer, Handle, MAGIC};
use crate::hit::Hit;
use crate::index::{Index, IndexLayout};
use crate::table_cursor::TableCursor;
use crate::{Codec, Error, ErrorKind, Identity, Part, Properties, Result, Source};

/// How a table is to be read. Start from the default and set what differs.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct ReaderOptions {
    /// Which table this has to be. Default: any.
    pub identity: Option<Identity>,
    /// Whether checksums of blocks, index and filter are compared when they are first used. That of
    /// the footer always is. Default: yes.
    pub verify_checksums: bool,
    /// The path, for messages, where the source does not know it.
    pub path: Option<PathBuf>,
    /// Where blocks go that cannot be used in place. Without one they are read anew each time.
    pub cache: Option<BlockCache>,
}

impl Default for ReaderOptions {
    fn default() -> Self {
        ReaderOptions { identity: None, verify_checksums: true, path: None, cache: None }
    }
}

/// An open table.
///
/// Opening reads the footer and the properties. Index and filter are read (or, in memory, only
/// checked) when they are first used, and each block is checksummed at its first use.
///
/// A table is shared by reference or in an `Arc`; it has no locks.
#[derive(Debug)]
pub struct Table<S> {
    pub(crate) source: S,
    path: Option<PathBuf>,
    identity: Identity,
    pub(crate) salt: Salt,
    pub(crate) codec: Codec,
    pub(crate) data_len: u64,
    pub(crate) sections: Sections,
    pub(crate) verify_checksums: bool,
    properties: Properties,
    pub(crate) cache: Option<BlockCache>,
    pub(crate) cache_handle: u64,
    index: OnceLock<LoadedIndex>,
    filter: OnceLock<Option<LoadedFilter>>,
}

/// A section in place, or a copy of it.
#[derive(Debug)]
pub(crate) enum Section {
    InPlace(Range<usize>),
    Loaded(Region),
}

#[derive(Debug)]
struct LoadedIndex {
    section: Section,
    layout: IndexLayout,
    /// A bit per block: its checksum has been compared.
    verified: Box<[AtomicU64]>,
}

#[derive(Debug)]
struct LoadedFilter {
    section: Section,
    meta: FilterMeta,
}

impl<S: Source> Table<S> {
    /// Opens a table. Costs one or two small reads, whatever the size of the table.
    ///
    /// # Errors
    /// [`ErrorKind::NotATable`], [`ErrorKind::Truncated`], [`ErrorKind::UnsupportedVersion`],
    /// [`ErrorKind::UnsupportedFeature`], [`ErrorKind::UnknownCodec`], [`ErrorKind::WrongTable`],
    /// [`ErrorKind::ChecksumMismatch`], [`ErrorKind::Corrupt`], [`ErrorKind::Io`].
    pub fn open(source: S, options: ReaderOptions) -> Result<Self> {
        let path = options.path.clone().or_else(|| source.path().map(Path::to_owned));
        Self::open_at(source, options, path.clone()).map_err(|e| e.or_at_path(path.as_deref()))
    }

    fn open_at(source: S, options: ReaderOptions, path: Option<PathBuf>) -> Result<Self> {
        let len = source.len()?;
        let footer_at = match len.checked_sub(FOOTER_LEN as u64) {
            Some(at) => at,
            None => return Err(no_footer(&source, len).at_offset(0)),
        };
        // The properties are most often short and end where the footer begins.
        let tail_at = len - len.min(4096);
        let mut tail = vec![0; (len - tail_at) as usize];
        source.read_exact_at(&mut tail, tail_at)?;
        let footer = Footer::read_from_suffix(&tail)
            .map(|(_, footer)| footer)
            .map_err(|_| no_footer(&source, len).at_offset(footer_at))?;
        if footer.magic != MAGIC {
            return Err(no_footer(&source, len).at_offset(footer_at));
        }
        let (codec, sections) =
            check_footer(&footer, footer_at).map_err(|e| e.or_at(None, footer_at))?;
        let identity = Identity { database: footer.database.get(), table: footer.table.get() };
        if let Some(expected) = options.identity
            && expected != identity
        {
            return Err(Error::new(ErrorKind::WrongTable {
                found_database: identity.database,
                found_table: identity.table,
                expected_database: expected.database,
                expected_table: expected.table,
            })
            .at_offset(footer_at));
        }
        let data_len = footer.data_len.get();
        let mut table = Table {
            source,
            path,
            identity,
            salt: Salt::from_raw(footer.salt.get()),
            codec,
            data_len,
            sections,
            verify_checksums: options.verify_checksums,
            properties: Properties::default(),
            cache: options.cache,
            cache_handle: next_handle(),
            index: OnceLock::new(),
            filter: OnceLock::new(),
        };
        let properties_at = sections.properties.offset.get();
        table.properties = if properties_at >= tail_at {
            let start = (properties_at - tail_at) as usize;
            table.parse_properties(&tail[start..tail.len() - FOOTER_LEN], len)?
        } else {
            let section = table.load_section(&sections.properties)?;
            table.parse_properties(section.bytes(&table.source), len)?
        };
        Ok(table)
    }

    fn parse_properties(&self, section: &[u8], len: u64) -> Result<Properties> {
        let handle = &self.sections.properties;
        self.check_section(section, handle, Part::Properties, self.verify_checksums)
            .and_then(|()| Properties::decode(section, self.data_len, len))
            .map_err(|e| self.locate(e, handle.offset.get()))
    }

    /// The newest version of `key` that is not above `at_most`. `hash` is [`key_hash`] of the key.
    ///
    /// Costs the filter, and if that says yes, a search of the index and of one block.
    ///
    /// [`key_hash`]: crate::key_hash
    ///
    /// # Errors
    /// Damage of the parts that were looked at, and what the source returns.
    #[inline]
    pub fn get(&self, key: &[u8], at_most: u64, hash: u64) -> Result<Option<Hit<'_>>> {
        if !self.may_contain(hash)? {
            return Ok(None);
        }
        self.get_unfiltered(key, at_most)
    }

    /// As [`Table::get`], without asking the filter.
    pub fn get_unfiltered(&self, key: &[u8], at_most: u64) -> Result<Option<Hit<'_>>> {
        let index = self.index()?;
        if index.blocks() == 0 {
            return Ok(None);
        }
        let block = index.find(key, at_most).map_err(|e| self.locate_in_index(e))?;
        let (offset, block) = self.block(&index, block)?;
        let bytes = block.bytes();
        let found = (|| {
            let layout = Layout::parse(bytes)?;
            let (_, slot) = layout.lower_bound(bytes, key, at_most)?;
            slot.map(|slot| Ok((slot.version, layout.value_range(&slot)?))).transpose()
        })();
        match found {
            Ok(None) => Ok(None),
            Ok(Some((version, range))) => Ok(Some(Hit::new(version, block, range))),
            Err(e) => Err(self.locate(e, offset)),
        }
    }

    /// Whether a key with this hash may be in the table; true if there is no filter.
    ///
    /// # Errors
    /// Damage of the filter, found at its first use.
    #[inline]
    pub fn may_contain(&self, hash: u64) -> Result<bool> {
        match self.filter()? {
            None => Ok(true),
            Some(filter) => Ok(filter.meta.may_contain(filter.section.bytes(&self.source), hash)),
        }
    }

    /// Asks the processor for the parts of the filter that [`Table::may_contain`] will look at, if it
    /// is loaded. Worth it before several tables are asked one after the other: their misses then
    /// overlap.
    #[inline]
    pub fn prefetch_filter(&self, hash: u64) {
        if let Some(Some(filter)) = self.filter.get() {
            filter.meta.prefetch(filter.section.bytes(&self.source), hash);
        }
    }

    /// A cursor that borrows the table.
    pub fn cursor(&self) -> TableCursor<&Self> {
        TableCursor::new(self)
    }

    /// A cursor that keeps the table alive.
    pub fn owned_cursor(self: &std::sync::Arc<Self>) -> TableCursor<std::sync::Arc<Self>> {
        TableCursor::new(self.clone())
    }

    /// What the table says about itself.
    pub fn properties(&self) -> &Properties {
        &self.properties
    }

    /// Which table of which database this is.
    pub fn identity(&self) -> Identity {
        self.identity
    }

    /// The codec the blocks were built with (a level is not recorded).
    pub fn codec(&self) -> Codec {
        self.codec
    }

    /// The source.
    pub fn source(&self) -> &S {
        &self.source
    }

    /// The path, if it is known.
    pub fn path(&self) -> Option<&Path> {
        self.path.as_deref()
    }

    /// About how many bytes of the file are taken by keys less than `key`: exact to a block.
    ///
    /// # Errors
    /// Damage of the index.
    pub fn approximate_offset(&self, key: &[u8]) -> Result<u64> {
        let index = self.index()?;
        if index.blocks() == 0 {
            return Ok(0);
        }
        index
            .find(key, u64::MAX)
            .and_then(|block| Ok(index.block_range(block)?.start))
            .map_err(|e| self.locate_in_index(e))
    }

    /// Keys at which the table may be cut, ascending, each with the offset of the block behind the
    /// cut: keys less than it are ahead of the offset, the others are not.
    ///
    /// # Errors
    /// Damage of the index, here or by an item.
    pub fn boundaries(&self) -> Result<impl Iterator<Item = Result<(Vec<u8>, u64)>> + '_> {
        let index = self.index()?;
        Ok((0..index.blocks().saturating_sub(1)).filter_map(move |i| {
            let boundary = || {
                let (suffix, version) = index.separator(i)?;
                if version != u64::MAX {
                    // Between versions of one key.
                    return Ok(None);
                }
                let offset = index.block_range(i + 1)?.start;
                Ok(Some(([index.prefix(), suffix].concat(), offset)))
            };
            boundary().map_err(|e| self.locate_in_index(e)).transpose()
        }))
    }

    /// The index, loaded and checked at its first use.
    #[inline]
    pub(crate) fn index(&self) -> Result<Index<'_>> {
        let loaded = match self.index.get() {
            Some(loaded) => loaded,
            None => self.load_index()?,
        };
        Ok(loaded.layout.view(loaded.section.bytes(&self.source)))
    }

    /// A word of the bits that say which blocks have been verified.
    #[inline]
    pub(crate) fn verified(&self, word: usize) -> Option<&AtomicU64> {
        self.index.get()?.verified.get(word)
    }

    #[cold]
    fn load_index(&self) -> Result<&LoadedIndex> {
        let handle = &self.sections.index;
        let load = || {
            let section = self.load_section(handle)?;
            let bytes = section.bytes(&self.source);
            self.check_section(bytes, handle, Part::Index, self.verify_checksums)?;
            let layout = IndexLayout::parse(bytes, self.data_len)?;
            let verified = (0..layout.blocks.div_ceil(64)).map(|_| AtomicU64::new(0)).collect();
            Ok(LoadedIndex { section, layout, verified })
        };
        let loaded = load().map_err(|e| self.locate_in_index(e))?;
        Ok(self.index.get_or_init(|| loaded))
    }

    #[inline]
    fn filter(&self) -> Result<Option<&LoadedFilter>> {
        match self.filter.get() {
            Some(loaded) => Ok(loaded.as_ref()),
            None => self.load_filter(),
        }
    }

    #[cold]
    fn load_filter(&self) -> Result<Option<&LoadedFilter>> {
        let load = |handle: &Handle| {
            let section = self.load_section(handle)?;
            let bytes = section.bytes(&self.source);
            self.check_section(bytes, handle, Part::Filter, self.verify_checksums)?;
            let meta = FilterMeta::parse(bytes)?;
            Ok(LoadedFilter { section, meta })
        };
        let loaded = match &self.sections.filter {
            None => None,
            Some(handle) => Some(load(handle).map_err(|e| self.locate(e, handle.offset.get()))?),
        };
        Ok(self.filter.get_or_init(|| loaded).as_ref())
    }

    pub(crate) fn load_section(&self, handle: &Handle) -> Result<Section> {
        // `check_footer` has seen to it that the section lies within the file.
        let (offset, len) = (handle.offset.get(), handle.len.get());
        let too_large = |_| Error::new(ErrorKind::TooLarge(len));
        if self.source.bytes().is_some() {
            let start = usize::try_from(offset).map_err(too_large)?;
            return Ok(Section::InPlace(start..start + usize::try_from(len).map_err(too_large)?));
        }
        let mut bytes = zeroed(len)?;
        self.source.read_exact_at(&mut bytes, offset)?;
        Ok(Section::Loaded(Region::from_vec(bytes)))
    }

    pub(crate) fn check_section(
        &self,
        bytes: &[u8],
        handle: &Handle,
        part: Part,
        checksum: bool,
    ) -> Result<()> {
        if bytes.len() as u64 != handle.len.get() {
            return Err(Error::new(ErrorKind::Truncated(part)));
        }
        if checksum {
            let crc = crc32fast::hash(bytes);
            if !self.salt.matches(handle.checksum.get(), crc, handle.offset.get(), 0) {
                return Err(Error::new(ErrorKind::ChecksumMismatch(part)));
            }
        }
        Ok(())
    }

    #[cold]
    pub(crate) fn locate(&self, e: Error, offset: u64) -> Error {
        e.or_at(self.path.as_deref(), offset)
    }

    #[cold]
    pub(crate) fn locate_in_index(&self, e: Error) -> Error {
        self.locate(e, self.sections.index.offset.get())
    }
}

/// Memory for bytes of the file. That the file has so many does not mean that the machine has: most of
/// them may be a hole.
pub(crate) fn zeroed(len: u64) -> Result<Vec<u8>> {
    let len = usize::try_from(len).map_err(|_| Error::new(ErrorKind::TooLarge(len)))?;
    let mut bytes = Vec::new();
    bytes.try_reserve_exact(len).map_err(|_| io::Error::from(io::ErrorKind::OutOfMemory))?;
    bytes.resize(len, 0);
    Ok(bytes)
}

impl Section {
    #[inline]
    pub(crate) fn bytes<'s>(&'s self, source: &'s impl Source) -> &'s [u8] {
        match self {
            Section::InPlace(range) => {
                source.bytes().and_then(|bytes| bytes.get(range.clone())).unwrap_or_default()
            }
            Section::Loaded(region) => region,
        }
    }
}
