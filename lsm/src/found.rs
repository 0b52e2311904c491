//! [`Found`]: what a point read came upon, still where it lies.

use std::sync::Arc;

use kvdb_skiplist::{EntryRef, SkipList};
use kvdb_sstable::Hit;
use kvdb_vfs::Region;

use crate::entry::{Entry, Kind};
use crate::error::Result;

/// An entry that a point read found, borrowed from its superversion where that keeps it.
#[derive(Debug)]
pub struct Found<'a> {
    version: u64,
    kind: Kind,
    user_meta: u8,
    expires_at: u64,
    /// Where the payload begins in the encoded entry.
    payload_at: usize,
    place: Place<'a>,
}

#[derive(Debug)]
enum Place<'a> {
    Memtable(&'a Arc<SkipList>, &'a [u8]),
    Table(Hit<'a>),
    /// In a table that is not open any more.
    Region(Region),
}

impl<'a> Found<'a> {
    #[inline]
    pub(crate) fn in_memtable(list: &'a Arc<SkipList>, entry: EntryRef<'a>) -> Result<Self> {
        Found::new(entry.version(), Place::Memtable(list, entry.value()))
    }

    #[inline]
    pub(crate) fn in_table(hit: Hit<'a>) -> Result<Self> {
        Found::new(hit.version(), Place::Table(hit))
    }

    pub(crate) fn in_region(version: u64, value: Region) -> Result<Self> {
        Found::new(version, Place::Region(value))
    }

    #[inline]
    fn new(version: u64, place: Place<'a>) -> Result<Self> {
        let bytes = place.bytes();
        let Entry { kind, user_meta, expires_at, payload } = Entry::decode(bytes)?;
        let payload_at = bytes.len() - payload.len();
        Ok(Found { version, kind, user_meta, expires_at, payload_at, place })
    }

    /// The version.
    #[inline]
    pub fn version(&self) -> u64 {
        self.version
    }

    /// The entry.
    #[inline]
    pub fn entry(&self) -> Entry<'_> {
        let payload = self.place.bytes().get(self.payload_at..).unwrap_or_default();
        Entry { kind: self.kind, user_meta: self.user_meta, expires_at: self.expires_at, payload }
    }

    /// The payload as an owned handle, without a copy: it keeps the memtable's arena, the table's
    /// map or the block alive, and nothing else.
    pub fn to_region(&self) -> Region {
        match &self.place {
            Place::Memtable(list, value) => {
                let payload = value.get(self.payload_at..).unwrap_or_default();
                // SAFETY: the payload lies in the arena of `list`, where a value that was inserted
                // is never written again and never moves; the arena lives as long as the list, of
                // which the region owns a reference (`SkipList::reset` needs the only one).
                unsafe { Region::from_raw(payload.as_ptr(), payload.len(), (*list).clone()) }
            }
            Place::Table(hit) => {
                let value = hit.to_region();
                value.subregion(self.payload_at..value.len()).unwrap_or(value)
            }
            Place::Region(value) => {
                value.subregion(self.payload_at..value.len()).unwrap_or_else(|| value.clone())
            }
        }
    }
}

impl Place<'_> {
    #[inline]
    fn bytes(&self) -> &[u8] {
        match self {
            Place::Memtable(_, value) => value,
            Place::Table(hit) => hit.value(),
            Place::Region(value) => value,
        }
    }
}
