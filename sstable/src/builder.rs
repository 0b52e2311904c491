//! [`Builder`]: writes a table to any [`Write`], front to back, in bounded memory.

use std::cmp::Ordering;
use std::io::Write;

use kvdb_vfs::Salt;
use zerocopy::IntoBytes;
use zerocopy::little_endian::{U32, U64, U128};

use crate::block_builder::BlockBuilder;
use crate::cursor::compare;
use crate::format::{
    BLOCK_MAX_COUNT, FOOTER_LEN, FORMAT_VERSION, Footer, Handle, MAGIC, PAGE, SECTION_ALIGN,
};
use crate::index::IndexBuilder;
use crate::properties::Properties;
use crate::{
    Codec, Error, ErrorKind, Identity, MAX_KEY_LEN, MAX_VALUE_LEN, Result, filter, key_hash,
};

/// How a table is to be built. Start from the default and set what differs.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct BuilderOptions {
    /// Bytes of a block, 256..=1 MiB. Blocks of an uncompressed table are padded to pages of 4 KiB
    /// (or to this, rounded up to a power of two, if it is less), and grow by a page at a time, to
    /// 64 KiB at most, where the padding would exceed a sixteenth. An entry that does not fit gets
    /// a block of its own. Default: 4096.
    pub block_size: usize,
    /// Every how many entries a key is stored whole: a power of two, 1..=128. More save space where
    /// neighbouring keys resemble each other; fewer make lookups faster. Default: 4.
    pub restart_interval: usize,
    /// Size of the filter; 10 give 0.85 % false positives; 0 builds none. At most 64. Default: 10.
    pub bits_per_key: f64,
    /// Compression of blocks. Default: none.
    pub codec: Codec,
    /// What the checksums are tied to. It is stored in the table. Default: [`Salt::NONE`].
    pub salt: Salt,
    /// Which table of which database this is. Default: 0 and 0.
    pub identity: Identity,
}

impl Default for BuilderOptions {
    fn default() -> Self {
        BuilderOptions {
            block_size: PAGE,
            restart_interval: 4,
            bits_per_key: 10.0,
            codec: Codec::None,
            salt: Salt::NONE,
            identity: Identity::default(),
        }
    }
}

/// An uncompressed block may grow to this to save padding.
const GROWN: usize = 64 * 1024;
/// Padding of up to this part of a block is accepted.
const ACCEPTED_PADDING: usize = 16;
/// Hashes of keys in a piece.
const HASHES: usize = 8192;
/// Output is handed on in pieces of about this size.
const OUTPUT: usize = 256 * 1024;

/// Builds one table out of entries in ascending order.
///
/// Memory: one block, one output buffer of 256 KiB, about 20 bytes and a short separator per block,
/// and 8 bytes per distinct key for the filter.
///
/// After an error of [`Write`] the table is lost, and every further call that would write fails.
/// An entry that was refused ([`ErrorKind::OutOfOrder`], [`ErrorKind::KeyTooLong`],
/// [`ErrorKind::TooLarge`]) is not in the table, and building may go on.
#[derive(Debug)]
pub struct Builder<W: Write> {
    writer: W,
    options: BuilderOptions,
    align: usize,
    /// What the current block may grow to.
    limit: usize,
    block: BlockBuilder,
    index: IndexBuilder,
    /// Of all keys, for the filter. In pieces: one vector would double its room as it grows.
    hashes: Vec<Vec<u64>>,
    out: Vec<u8>,
    /// Bytes handed to the writer.
    written: u64,
    last_key: Vec<u8>,
    last_version: u64,
    properties: Properties,
    /// A write failed: nothing is known of what reached the writer.
    failed: bool,
}

impl<W: Write> Builder<W> {
    /// A builder that writes to `writer`. Writes are large, so the writer need not buffer.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidOption`].
    pub fn new(writer: W, options: BuilderOptions) -> Result<Self> {
        let invalid = |what| Err(Error::new(ErrorKind::InvalidOption(what)));
        if !(256..=1 << 20).contains(&options.block_size) {
            return invalid("block_size must be between 256 bytes and 1 MiB");
        }
        if !options.restart_interval.is_power_of_two() || options.restart_interval > 128 {
            return invalid("restart_interval must be a power of two up to 128");
        }
        if !(0.0..=64.0).contains(&options.bits_per_key) {
            return invalid("bits_per_key must be between 0 and 64");
        }
        let align = options.block_size.next_power_of_two().min(PAGE);
        Ok(Builder {
            writer,
            align,
            limit: options.block_size.next_multiple_of(align),
            block: BlockBuilder::new(options.restart_interval.trailing_zeros()),
            index: IndexBuilder::default(),
            hashes: Vec::new(),
            out: Vec::with_capacity(OUTPUT + GROWN),
            written: 0,
            last_key: Vec::new(),
            last_version: 0,
            properties: Properties::default(),
            failed: false,
            options,
        })
    }

    /// Adds an entry, which must be greater than the one before: a greater key, or the same key with
    /// a lesser version.
    ///
    /// # Errors
    /// [`ErrorKind::OutOfOrder`], [`ErrorKind::KeyTooLong`], [`ErrorKind::TooLarge`], [`ErrorKind::Io`].
    pub fn add(&mut self, key: &[u8], version: u64, value: &[u8]) -> Result<()> {
        if key.len() > MAX_KEY_LEN {
            return Err(Error::new(ErrorKind::KeyTooLong(key.len())));
        }
        if value.len() > MAX_VALUE_LEN {
            return Err(Error::new(ErrorKind::TooLarge(value.len() as u64)));
        }
        let first = self.properties.entries == 0;
        if !first && compare((&self.last_key, self.last_version), (key, version)) != Ordering::Less
        {
            return Err(Error::new(ErrorKind::OutOfOrder));
        }
        if self.block.count() > 0 && self.is_full(key, version, value) {
            self.finish_block(self.block_align())?;
        }
        if self.block.count() == 0 {
            let offset = self.offset();
            match self.index.blocks() {
                0 => self.index.first_block(offset),
                _ => self.index.block(offset, (&self.last_key, self.last_version), key),
            }
            let limit = self.block.len_with(key, version, value).max(self.options.block_size);
            self.limit = limit.next_multiple_of(self.align);
        }
        if first || self.last_key != key {
            self.properties.distinct_keys += 1;
            if self.options.bits_per_key > 0.0 {
                let hash = key_hash(key);
                match self.hashes.last_mut() {
                    Some(piece) if piece.len() < HASHES => piece.push(hash),
                    _ => self.hashes.push(vec![hash]),
                }
            }
            self.last_key.clear();
            self.last_key.extend_from_slice(key);
        }
        self.last_version = version;
        let p = &mut self.properties;
        if first {
            p.smallest_key = key.to_vec();
            p.smallest_version = version;
            p.largest_version = version;
        }
        p.entries += 1;
        p.key_bytes += key.len() as u64;
        p.value_bytes += value.len() as u64;
        p.smallest_version = p.smallest_version.min(version);
        p.largest_version = p.largest_version.max(version);
        self.block.add(key, version, value);
        Ok(())
    }

    /// Adds a property of the caller's own, to be read back from [`Properties::user`].
    ///
    /// # Errors
    /// [`ErrorKind::TooLarge`] beyond 16 MiB.
    pub fn add_property(&mut self, name: &str, value: &[u8]) -> Result<()> {
        let len = name.len() + value.len();
        if len > 16 << 20 {
            return Err(Error::new(ErrorKind::TooLarge(len as u64)));
        }
        self.properties.user.push((name.to_owned(), value.to_vec()));
        Ok(())
    }

    /// Entries so far.
    pub fn entries(&self) -> u64 {
        self.properties.entries
    }

    /// The key added last.
    pub fn last_key(&self) -> Option<&[u8]> {
        (self.properties.entries > 0).then_some(&self.last_key)
    }

    /// How large the file would be if it were finished now: exact but for the current block's
    /// compression, the index and the filter, which are estimated.
    pub fn estimated_size(&self) -> u64 {
        let filter = self.properties.distinct_keys as f64 * self.options.bits_per_key / 8.0;
        let index = self.index.estimated_len();
        self.offset() + (self.block.len() + index + FOOTER_LEN) as u64 + filter as u64
    }

    /// Writes what is left, the filter, the index, the properties and the footer, and flushes the
    /// writer. A table without entries is a valid table.
    ///
    /// # Errors
    /// [`ErrorKind::Io`], and [`ErrorKind::TooLarge`] for an index beyond 4 GiB.
    pub fn finish(mut self) -> Result<(W, Properties)> {
        if self.block.count() > 0 {
            self.finish_block(self.block_align().max(SECTION_ALIGN))?;
        }
        let data_len = self.offset();
        self.check_writer()?;
        let mut section = Vec::new();
        let mut filter = Handle::NONE;
        if !self.hashes.is_empty() {
            let keys = self.properties.distinct_keys as usize;
            let hashes = std::mem::take(&mut self.hashes).into_iter().flatten();
            filter::build(keys, hashes, self.options.bits_per_key, &mut section);
            filter = self.write_section(&mut section)?;
        }
        self.index.finish(data_len, &mut section)?;
        let index = self.write_section(&mut section)?;
        self.properties.blocks = self.index.blocks() as u64;
        self.properties.largest_key = std::mem::take(&mut self.last_key);
        self.properties.stored_bytes = data_len;
        self.properties.encode(&mut section)?;
        let properties = self.write_section(&mut section)?;

        let mut footer = Footer {
            database: U128::new(self.options.identity.database),
            table: U64::new(self.options.identity.table),
            salt: U64::new(self.options.salt.to_raw()),
            data_len: U64::new(data_len),
            filter,
            index,
            properties,
            range_tombstones: Handle::NONE,
            encryption: Handle::NONE,
            codec: self.options.codec.id(),
            reserved: [0; 15],
            checksum: U32::ZERO,
            version: U32::new(FORMAT_VERSION),
            magic: MAGIC,
        };
        // Not the table's own salt: it stands in this footer, and would vouch for itself.
        footer.checksum = U32::new(Salt::NONE.seal(footer.crc(), self.offset(), 0));
        self.out.extend_from_slice(footer.as_bytes());
        self.write_out()?;
        self.writer.flush()?;
        self.properties.file_len = self.written;
        Ok((self.writer, self.properties))
    }

    /// Where the next block or section goes.
    fn offset(&self) -> u64 {
        self.written + self.out.len() as u64
    }

    /// Blocks that are read in place begin and end at pages; compressed ones are packed.
    fn block_align(&self) -> usize {
        if self.options.codec == Codec::None { self.align } else { 1 }
    }

    /// Whether the block is to be closed ahead of this entry.
    fn is_full(&mut self, key: &[u8], version: u64, value: &[u8]) -> bool {
        if self.block.count() == BLOCK_MAX_COUNT {
            return true;
        }
        let len = self.block.len_with(key, version, value);
        if self.options.codec != Codec::None {
            return len > self.options.block_size;
        }
        if len <= self.limit {
            return false;
        }
        // The block would be padded to the limit. If that wastes much, let it grow instead.
        let padding = self.limit.saturating_sub(self.block.len());
        let grown = len.next_multiple_of(self.align);
        if padding * ACCEPTED_PADDING <= self.limit || grown > GROWN.max(self.options.block_size) {
            return true;
        }
        self.limit = grown;
        false
    }

    fn finish_block(&mut self, align: usize) -> Result<()> {
        self.check_writer()?;
        let (offset, start) = (self.offset(), self.out.len());
        let raw_len = self.block.finish(self.options.codec, &mut self.out)?;
        self.properties.block_bytes += raw_len as u64;
        // What is aligned is the place in the file: compressed blocks begin anywhere.
        let padding = (align as u64 - self.offset() % align as u64) % align as u64;
        self.out.resize(self.out.len() + padding as usize, 0);
        let crc = crc32fast::hash(&self.out[start + 4..]);
        let sealed = self.options.salt.seal(crc, offset, 0);
        self.out[start..start + 4].copy_from_slice(&sealed.to_le_bytes());
        if self.out.len() >= OUTPUT {
            self.write_out()?;
        }
        Ok(())
    }

    /// Writes `section`, padded, and empties it.
    fn write_section(&mut self, section: &mut Vec<u8>) -> Result<Handle> {
        section.resize(section.len().next_multiple_of(SECTION_ALIGN), 0);
        let offset = self.offset();
        let crc = crc32fast::hash(section);
        self.write_out()?;
        // No need to note a failure: no call of the builder comes behind this one.
        self.writer.write_all(section)?;
        self.written += section.len() as u64;
        let handle = Handle {
            offset: U64::new(offset),
            len: U64::new(section.len() as u64),
            checksum: U32::new(self.options.salt.seal(crc, offset, 0)),
            reserved: U32::ZERO,
        };
        section.clear();
        Ok(handle)
    }

    fn check_writer(&self) -> Result<()> {
        if self.failed {
            return Err(std::io::Error::other("an earlier write of this table failed").into());
        }
        Ok(())
    }

    fn write_out(&mut self) -> Result<()> {
        self.failed = true;
        self.writer.write_all(&self.out)?;
        self.failed = false;
        self.written += self.out.len() as u64;
        self.out.clear();
        Ok(())
    }
}
