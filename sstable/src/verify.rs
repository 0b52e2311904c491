//! Reading a table from front to back, believing nothing.

use std::cmp::Ordering;
use std::ops::Range;

use kvdb_vfs::Region;

use crate::block::{self, Layout};
use crate::cursor::compare;
use crate::filter::FilterMeta;
use crate::footer::Sections;
use crate::hit::BlockRef;
use crate::index::IndexLayout;
use crate::key_buffer::KeyBuffer;
use crate::properties::Properties;
use crate::{Error, Part, Result, Source, Table, key_hash};

impl<S: Source> Table<S> {
    /// Reads and checks every byte of the table: all checksums, whether entries ascend, whether the
    /// index leads to each block, whether the filter knows each key, whether what the properties say
    /// is so, and that padding is zero. What is under a right checksum and leads no search of an entry
    /// astray is not compared: the text of separators, the number of keys that the filter notes.
    ///
    /// Time: three to four times that of a scan; more where long keys share much. The cache is not touched.
    ///
    /// # Errors
    /// The first thing that is wrong, with its offset.
    pub fn verify(&self) -> Result<()> {
        self.verify_sections()?;
        let index = self.index()?;
        let mut seen = Properties::default();
        let (mut key, mut version) = (KeyBuffer::default(), 0);
        let mut next = KeyBuffer::default();
        for number in 0..index.blocks() {
            let range = index.block_range(number).map_err(|e| self.locate_in_index(e))?;
            let offset = range.start;
            let block = BlockRef::Pinned(self.read_block_verified(range)?);
            let bytes = block.bytes();
            let mut check = || {
                let layout = Layout::parse(bytes)?;
                if bytes[layout.raw_len()..].iter().any(|&b| b != 0) {
                    return Err(Error::corrupt(Part::Padding, "not zero"));
                }
                layout.check_search_parts(bytes)?;
                seen.block_bytes += layout.raw_len() as u64;
                for entry in 0..layout.count {
                    let slot = layout.slot(bytes, entry)?;
                    layout.read_key(bytes, entry, &slot, None, &mut next)?;
                    let first = seen.entries == 0;
                    let pair = (&*next, slot.version);
                    if !first && compare((&key, version), pair) != Ordering::Less {
                        return Err(Error::corrupt(Part::Block, "entries do not ascend"));
                    }
                    if first || *key != *next {
                        seen.distinct_keys += 1;
                        if !self.may_contain(key_hash(&next))? {
                            let missing = Error::corrupt(Part::Filter, "a key is missing");
                            let filter =
                                self.sections.filter.as_ref().map_or(0, |f| f.offset.get());
                            return Err(self.locate(missing, filter));
                        }
                    }
                    let leads = index.find(&next, slot.version);
                    if leads.map_err(|e| self.locate_in_index(e))? != number {
                        let elsewhere =
                            Error::corrupt(Part::Index, "an entry is not where it leads");
                        return Err(self.locate_in_index(elsewhere));
                    }
                    if first {
                        seen.smallest_key = next.to_vec();
                        seen.smallest_version = slot.version;
                    }
                    seen.entries += 1;
                    seen.key_bytes += next.len() as u64;
                    seen.value_bytes += layout.value_range(&slot)?.len() as u64;
                    seen.smallest_version = seen.smallest_version.min(slot.version);
                    seen.largest_version = seen.largest_version.max(slot.version);
                    std::mem::swap(&mut key, &mut next);
                    version = slot.version;
                }
                Ok(())
            };
            check().map_err(|e| self.locate(e, offset))?;
        }
        seen.largest_key = key.to_vec();
        seen.blocks = index.blocks() as u64;
        self.verify_properties(seen)
    }

    /// Compares the checksums of index, filter and properties, whatever the options say, and checks
    /// that their padding is zero.
    fn verify_sections(&self) -> Result<()> {
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

    /// A block, with all that is stored around it checked, whatever the options say.
    fn read_block_verified(&self, range: Range<u64>) -> Result<Region> {
        let offset = range.start;
        let stored = self.stored_block(&range)?;
        let stored = stored.bytes();
        let check = || {
            self.check_block(stored, offset, true)?;
            check_stored_padding(stored)?;
            self.decode(stored)
        };
        check().map_err(|e| self.locate(e, offset))
    }

    fn verify_properties(&self, mut seen: Properties) -> Result<()> {
        let said = self.properties();
        seen.stored_bytes = said.stored_bytes;
        seen.file_len = said.file_len;
        seen.user.clone_from(&said.user);
        if seen != *said {
            let e = Error::corrupt(Part::Properties, "they do not describe the entries");
            return Err(self.locate(e, self.sections.properties.offset.get()));
        }
        Ok(())
    }
}

impl Layout {
    /// Checks what a search relies on and a scan does not: that heads are those of the restarts. And
    /// that no byte of a region is left over.
    fn check_search_parts(&self, bytes: &[u8]) -> Result<()> {
        for (head, entry) in self.heads(bytes).iter().zip((0..self.count).step_by(self.interval()))
        {
            let slot = self.slot(bytes, entry)?;
            if slot.shared != 0 {
                return Err(Error::corrupt(Part::Block, "a restart is not whole"));
            }
            if head.get() != crate::key_head(self.suffix(bytes, &slot)?) {
                return Err(Error::corrupt(Part::Block, "a head is not that of its key"));
            }
        }
        if !self.ends_meet(bytes) {
            return Err(Error::corrupt(Part::Block, "the last slot does not end its regions"));
        }
        Ok(())
    }
}

/// The padding of a stored block that is compressed.
fn check_stored_padding(stored: &[u8]) -> Result<()> {
    let header = block::header(stored)?;
    let used = crate::format::BLOCK_HEADER_LEN + header.payload_len.get() as usize;
    if stored.get(used..).is_none_or(|padding| padding.iter().any(|&b| b != 0)) {
        return Err(Error::corrupt(Part::Padding, "not zero"));
    }
    Ok(())
}
