//! [`Table`]: the reader.

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use kvdb_vfs::{Region, Salt};
use zerocopy::FromBytes;

use crate::block::{self, Layout};
use crate::cache::{BlockCache, next_handle};
use crate::filter::FilterMeta;
use crate::format::{BLOCK_MAGIC, FOOTER_LEN, FORMAT_VERSION, Footer, Handle, MAGIC, PAGE};
use crate::hit::{BlockRef, Hit};
use crate::index::{Index, IndexLayout};
use crate::prefetch::prefetch;
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
    source: S,
    path: Option<PathBuf>,
    identity: Identity,
    salt: Salt,
    codec: Codec,
    data_len: u64,
    sections: Sections,
    verify_checksums: bool,
    properties: Properties,
    cache: Option<BlockCache>,
    cache_handle: u64,
    index: OnceLock<LoadedIndex>,
    filter: OnceLock<Option<LoadedFilter>>,
}

#[derive(Debug, Clone, Copy)]
struct Sections {
    filter: Option<Handle>,
    index: Handle,
    properties: Handle,
}

/// A section in place, or a copy of it.
#[derive(Debug)]
enum Section {
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

/// Bytes at the front of a block that are asked for at once, as soon as it is known which block: in
/// a block of common entries these are the header, the heads, the slots and the keys. Otherwise each would be
/// a miss that waits for the one before.
const SEARCHED: usize = 896;

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
            None => return Err(no_footer(&source, len)),
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
            }));
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

    /// Number of blocks.
    pub(crate) fn index(&self) -> Result<Index<'_>> {
        let loaded = match self.index.get() {
            Some(loaded) => loaded,
            None => self.load_index()?,
        };
        Ok(loaded.layout.view(loaded.section.bytes(&self.source)))
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

    fn load_section(&self, handle: &Handle) -> Result<Section> {
        // `check_footer` has seen to it that the section lies within the file.
        let (offset, len) = (handle.offset.get(), handle.len.get());
        let too_large = |_| Error::new(ErrorKind::TooLarge(len));
        if self.source.bytes().is_some() {
            let start = usize::try_from(offset).map_err(too_large)?;
            return Ok(Section::InPlace(start..start + usize::try_from(len).map_err(too_large)?));
        }
        let mut bytes = vec![0; usize::try_from(len).map_err(too_large)?];
        self.source.read_exact_at(&mut bytes, offset)?;
        Ok(Section::Loaded(Region::from_vec(bytes)))
    }

    fn check_section(
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

    /// A block, verified at its first use, decompressed if need be; and its offset.
    #[inline]
    pub(crate) fn block(&self, index: &Index<'_>, block: usize) -> Result<(u64, BlockRef<'_>)> {
        let range = index.block_range(block).map_err(|e| self.locate_in_index(e))?;
        let offset = range.start;
        if self.codec == Codec::None
            && let Some(bytes) = self.source.bytes()
        {
            let stored = self.in_place(bytes, &range)?;
            prefetch(stored, SEARCHED);
            if !self.is_verified(block) {
                self.verify_block(stored, offset)?;
                self.set_verified(block);
            }
            return Ok((offset, BlockRef::in_place(stored, offset, self.source.region())));
        }
        Ok((offset, self.load_block(range)?))
    }

    /// Asks for the parts of a block that a walk will read first, if it is in memory.
    #[inline]
    pub(crate) fn prefetch_block(&self, index: &Index<'_>, block: usize, backward: bool) {
        if self.codec == Codec::None
            && block < index.blocks()
            && let Some(bytes) = self.source.bytes()
            && let Ok(range) = index.block_range(block)
            && let Some(stored) = bytes.get(range.start as usize..range.end as usize)
        {
            // Forward, the processor notices by itself that values are read in sequence.
            prefetch(stored, if backward { PAGE } else { SEARCHED });
        }
    }

    fn in_place<'b>(&self, bytes: &'b [u8], range: &Range<u64>) -> Result<&'b [u8]> {
        // Blocks lie within the data and the data within the file, so this fits if it is there.
        bytes
            .get(range.start as usize..range.end as usize)
            .ok_or_else(|| self.locate(Error::new(ErrorKind::Truncated(Part::Block)), range.start))
    }

    /// Whether a block's checksum has been compared already, or is not to be.
    #[inline]
    fn is_verified(&self, block: usize) -> bool {
        !self.verify_checksums
            || self.index.get().and_then(|index| index.verified.get(block / 64)).is_some_and(
                // Relaxed: the bit tells about bytes that never change.
                |bits| bits.load(Ordering::Relaxed) >> (block % 64) & 1 == 1,
            )
    }

    fn set_verified(&self, block: usize) {
        if let Some(bits) = self.index.get().and_then(|index| index.verified.get(block / 64)) {
            bits.fetch_or(1 << (block % 64), Ordering::Relaxed);
        }
    }

    /// Compares the checksum of a stored block, and checks that it is one that is read in place.
    #[cold]
    fn verify_block(&self, stored: &[u8], offset: u64) -> Result<()> {
        self.check_block(stored, offset, self.verify_checksums).map_err(|e| self.locate(e, offset))
    }

    fn check_block(&self, stored: &[u8], offset: u64, checksum: bool) -> Result<()> {
        let sealed = stored.first_chunk().map_or(0, |b| u32::from_le_bytes(*b));
        if checksum && !self.salt.matches(sealed, block::crc(stored), offset, 0) {
            return Err(Error::new(ErrorKind::ChecksumMismatch(Part::Block)));
        }
        let header = block::header(stored)?;
        if self.codec == Codec::None && header.codec != Codec::None.id() {
            return Err(Error::corrupt(Part::Block, "compressed in an uncompressed table"));
        }
        Ok(())
    }

    /// A block that cannot be used in place: from the cache, or read, verified and decompressed.
    fn load_block(&self, range: Range<u64>) -> Result<BlockRef<'_>> {
        let offset = range.start;
        if let Some(cache) = &self.cache
            && let Some(block) = cache.get(self.cache_handle, offset)
        {
            return Ok(BlockRef::Pinned(block));
        }
        let block = self.read_block(range)?;
        if let Some(cache) = &self.cache {
            cache.insert(self.cache_handle, offset, block.clone());
        }
        Ok(BlockRef::Pinned(block))
    }

    /// A block from the source, past the cache.
    pub(crate) fn read_block(&self, range: Range<u64>) -> Result<Region> {
        let offset = range.start;
        if let Some(bytes) = self.source.bytes() {
            let stored = self.in_place(bytes, &range)?;
            self.verify_block(stored, offset)?;
            return self.decode(stored).map_err(|e| self.locate(e, offset));
        }
        let len = usize::try_from(range.end - range.start)
            .map_err(|_| Error::new(ErrorKind::TooLarge(range.end - range.start)))?;
        let mut stored = vec![0; len];
        self.source.read_exact_at(&mut stored, offset)?;
        self.verify_block(&stored, offset)?;
        if block::header(&stored).is_ok_and(|header| header.codec == Codec::None.id()) {
            return Ok(Region::from_vec(stored));
        }
        self.decode(&stored).map_err(|e| self.locate(e, offset))
    }

    /// A block, with all that is stored around it checked, whatever the options say.
    pub(crate) fn read_block_verified(&self, range: Range<u64>) -> Result<Region> {
        let offset = range.start;
        let mut copy = Vec::new();
        let stored = match self.source.bytes() {
            Some(bytes) => self.in_place(bytes, &range)?,
            None => {
                let len = usize::try_from(range.end - range.start)
                    .map_err(|_| Error::new(ErrorKind::TooLarge(range.end - range.start)))?;
                copy.resize(len, 0);
                self.source.read_exact_at(&mut copy, offset)?;
                &copy
            }
        };
        let check = || {
            self.check_block(stored, offset, true)?;
            crate::verify::check_stored_padding(stored)?;
            self.decode(stored)
        };
        check().map_err(|e| self.locate(e, offset))
    }

    /// Compares the checksums of index, filter and properties, whatever the options say, and checks
    /// that their padding is zero.
    pub(crate) fn verify_sections(&self) -> Result<()> {
        let Sections { filter, index, properties } = &self.sections;
        let parts = [(filter.as_ref(), Part::Filter), (Some(index), Part::Index)];
        for (handle, part) in parts.into_iter().chain([(Some(properties), Part::Properties)]) {
            let Some(handle) = handle else { continue };
            let check = || {
                let section = self.load_section(handle)?;
                let bytes = section.bytes(&self.source);
                self.check_section(bytes, handle, part, true)?;
                let used = match part {
                    Part::Index => IndexLayout::parse(bytes, self.data_len)?.used(),
                    Part::Filter => FilterMeta::parse(bytes)?.used(),
                    // Decoding has seen to it.
                    _ => bytes.len(),
                };
                if bytes[used..].iter().any(|&b| b != 0) {
                    return Err(Error::corrupt(Part::Padding, "not zero"));
                }
                Ok(())
            };
            check().map_err(|e| self.locate(e, handle.offset.get()))?;
        }
        Ok(())
    }

    fn decode(&self, stored: &[u8]) -> Result<Region> {
        if block::header(stored)?.codec == Codec::None.id() {
            return Ok(Region::from_vec(stored.to_vec()));
        }
        Ok(Region::from_vec(block::decompress(stored)?))
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

impl Section {
    #[inline]
    fn bytes<'s>(&'s self, source: &'s impl Source) -> &'s [u8] {
        match self {
            Section::InPlace(range) => {
                source.bytes().and_then(|bytes| bytes.get(range.clone())).unwrap_or_default()
            }
            Section::Loaded(region) => region,
        }
    }
}

/// Not a table, or the front part of one?
#[cold]
fn no_footer(source: &impl Source, len: u64) -> Error {
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
fn check_footer(footer: &Footer, footer_at: u64) -> Result<(Codec, Sections)> {
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
