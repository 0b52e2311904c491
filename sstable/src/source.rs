//! [`Source`]: where the bytes of a table come from.

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use kvdb_vfs::{Advice, File, Region};

use crate::{Error, ErrorKind, Part, Result};

/// The bytes of a table file.
///
/// A source whose bytes are all in memory (a vector, a memory map) shows them as a slice, and
/// uncompressed blocks, index and filter are used where they are. Others are read by position,
/// through a [`BlockCache`](crate::BlockCache) if there is one.
///
/// The bytes must not change while a table is open. If they do nevertheless, reads may return
/// errors or wrong entries, nothing worse.
pub trait Source: Send + Sync {
    /// The length of the file in bytes.
    fn len(&self) -> Result<u64>;

    /// Whether the file has no bytes.
    fn is_empty(&self) -> Result<bool> {
        Ok(self.len()? == 0)
    }

    /// All of the file, if it is in memory.
    fn bytes(&self) -> Option<&[u8]>;

    /// All of the file as a region, if that is what it is: then values can be kept alive without a
    /// copy.
    fn region(&self) -> Option<&Region> {
        None
    }

    /// Reads exactly `buf.len()` bytes at `offset`.
    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        let bytes = usize::try_from(offset)
            .ok()
            .and_then(|start| self.bytes()?.get(start..)?.get(..buf.len()))
            .ok_or_else(|| Error::new(ErrorKind::Truncated(Part::Block)).at_offset(offset))?;
        buf.copy_from_slice(bytes);
        Ok(())
    }

    /// These bytes will be read soon: a hint to the system, where it has them on a device.
    fn will_need(&self, _range: Range<u64>) {}

    /// The path, for messages.
    fn path(&self) -> Option<&Path> {
        None
    }
}

macro_rules! in_memory {
    ($($t:ty),*) => {$(
        impl Source for $t {
            fn len(&self) -> Result<u64> {
                Ok(<[u8]>::len(self) as u64)
            }
            #[inline]
            fn bytes(&self) -> Option<&[u8]> {
                Some(self)
            }
        }
    )*};
}
in_memory!(&[u8], Vec<u8>, Box<[u8]>, Arc<[u8]>);

impl Source for Region {
    fn len(&self) -> Result<u64> {
        Ok(Region::len(self) as u64)
    }
    #[inline]
    fn bytes(&self) -> Option<&[u8]> {
        Some(self)
    }
    #[inline]
    fn region(&self) -> Option<&Region> {
        Some(self)
    }
}

impl Source for Arc<dyn File> {
    fn len(&self) -> Result<u64> {
        Ok(File::len(&**self)?)
    }
    fn bytes(&self) -> Option<&[u8]> {
        None
    }
    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        Ok(File::read_exact_at(&**self, buf, offset)?)
    }
    fn path(&self) -> Option<&Path> {
        Some(File::path(&**self))
    }
}

/// A mapped file, or one that is read by position: for those who hold tables of both kinds.
#[derive(Debug, Clone)]
pub enum AnySource {
    /// All of the file in memory, and the file it came from, if there is one.
    Mapped(Region, Option<Arc<dyn File>>),
    /// Read by position.
    File(Arc<dyn File>),
}

impl AnySource {
    /// Maps `file` if `map` is set and its file system has maps.
    ///
    /// # Errors
    /// What [`File::len`] and [`File::map`] return.
    pub fn open(file: Arc<dyn File>, map: bool) -> Result<Self> {
        if map && let Some(region) = file.map(0..File::len(&*file)?)? {
            return Ok(AnySource::Mapped(region, Some(file)));
        }
        Ok(AnySource::File(file))
    }
}

impl Source for AnySource {
    fn len(&self) -> Result<u64> {
        match self {
            AnySource::Mapped(region, _) => Ok(Region::len(region) as u64),
            AnySource::File(file) => Source::len(file),
        }
    }
    #[inline]
    fn bytes(&self) -> Option<&[u8]> {
        self.region().map(|region| &**region)
    }
    #[inline]
    fn region(&self) -> Option<&Region> {
        match self {
            AnySource::Mapped(region, _) => Some(region),
            AnySource::File(_) => None,
        }
    }
    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        match self {
            AnySource::Mapped(region, _) => Source::read_exact_at(region, buf, offset),
            AnySource::File(file) => Source::read_exact_at(file, buf, offset),
        }
    }
    fn will_need(&self, range: Range<u64>) {
        if let AnySource::Mapped(_, Some(file)) = self {
            file.advise(range, Advice::WillNeed);
        }
    }
    fn path(&self) -> Option<&Path> {
        match self {
            AnySource::Mapped(_, file) => file.as_ref().map(|file| File::path(&**file)),
            AnySource::File(file) => Some(File::path(&**file)),
        }
    }
}
