//! [`Hit`]: what a point lookup found.

use std::fmt;
use std::ops::Range;

use kvdb_vfs::Region;

/// A block that borrows from its table's source, or holds its memory itself.
#[derive(Debug, Clone)]
pub(crate) enum BlockRef<'t> {
    InPlace { bytes: &'t [u8], offset: usize, region: Option<&'t Region> },
    Pinned(Region),
}

impl<'t> BlockRef<'t> {
    #[inline]
    pub(crate) fn in_place(bytes: &'t [u8], offset: u64, region: Option<&'t Region>) -> Self {
        BlockRef::InPlace { bytes, offset: offset as usize, region }
    }

    #[inline]
    pub(crate) fn bytes(&self) -> &[u8] {
        match self {
            BlockRef::InPlace { bytes, .. } => bytes,
            BlockRef::Pinned(region) => region,
        }
    }

    /// A part of the block that keeps its memory alive: a reference count where the memory is
    /// counted, a copy where it is only borrowed.
    pub(crate) fn region(&self, range: Range<usize>) -> Region {
        let shared = match self {
            BlockRef::InPlace { region: Some(region), offset, .. } => {
                region.subregion(offset + range.start..offset + range.end)
            }
            BlockRef::InPlace { .. } => None,
            BlockRef::Pinned(region) => region.subregion(range.clone()),
        };
        shared.unwrap_or_else(|| {
            Region::from_vec(self.bytes().get(range).unwrap_or_default().to_vec())
        })
    }
}

/// An entry that a point lookup found. Its value is read where it lies.
#[derive(Clone)]
pub struct Hit<'t> {
    version: u64,
    block: BlockRef<'t>,
    range: Range<usize>,
}

impl<'t> Hit<'t> {
    #[inline]
    pub(crate) fn new(version: u64, block: BlockRef<'t>, range: Range<usize>) -> Self {
        Hit { version, block, range }
    }

    /// The version of the entry.
    #[inline]
    pub fn version(&self) -> u64 {
        self.version
    }

    /// The value of the entry.
    #[inline]
    pub fn value(&self) -> &[u8] {
        self.block.bytes().get(self.range.clone()).unwrap_or_default()
    }

    /// The value as an owned handle, which outlives the table. It holds the whole map (or the whole
    /// block, if that had to be loaded); it is a copy only where the source is a vector or a slice.
    pub fn to_region(&self) -> Region {
        self.block.region(self.range.clone())
    }
}

impl fmt::Debug for Hit<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Hit(version {}, {} bytes)", self.version, self.range.len())
    }
}
