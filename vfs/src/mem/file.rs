//! An open file in memory.

use std::fmt;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::MemFs;
use super::names::Inode;
use crate::{Advice, Error, File, Op, OpenMode, Region, Result, SyncSite, WriteMode};

/// A file opened by [`MemFs`].
pub(super) struct MemFile {
    pub(super) fs: MemFs,
    pub(super) inode: Arc<Inode>,
    pub(super) path: PathBuf,
    pub(super) mode: OpenMode,
    /// One reference for the handle itself, and one for each map made through it.
    pub(super) maps: Arc<()>,
}

impl fmt::Debug for MemFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemFile").field("path", &self.path).finish_non_exhaustive()
    }
}

impl Drop for MemFile {
    fn drop(&mut self) {
        self.fs.shared.open.fetch_sub(1, Ordering::SeqCst);
    }
}

impl MemFile {
    fn error(&self, op: Op, offset: Option<u64>, e: impl Into<io::Error>) -> Error {
        Error::new(op, &self.path, offset, e.into())
    }

    fn check_writable(&self, op: Op, offset: Option<u64>) -> Result<()> {
        if self.mode != OpenMode::Read {
            return Ok(());
        }
        let e = io::Error::new(io::ErrorKind::PermissionDenied, "opened for reading");
        Err(self.error(op, offset, e))
    }

    fn check_readable(&self, op: Op, offset: u64) -> Result<()> {
        if self.mode != OpenMode::Direct {
            return Ok(());
        }
        let e = io::Error::new(io::ErrorKind::PermissionDenied, "opened for direct writes");
        Err(self.error(op, Some(offset), e))
    }
}

impl File for MemFile {
    fn path(&self) -> &Path {
        &self.path
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<usize> {
        self.check_readable(Op::Read, offset)?;
        Ok(self.inode.content.read().read_at(buf, offset))
    }

    fn write_all_at(&self, buf: &[u8], offset: u64) -> Result<()> {
        self.check_writable(Op::Write, Some(offset))?;
        if self.mode == OpenMode::Direct && !crate::aligned::is_aligned(buf, offset) {
            return Err(self.error(Op::Write, Some(offset), crate::aligned::misaligned()));
        }
        let _world = self.fs.begin(Op::Write, &self.path);
        let limit = self.fs.file_capacity();
        let mut content = self.inode.content.write();
        content.write(buf, offset, limit).map_err(|e| self.error(Op::Write, Some(offset), e))
    }

    fn write_all_at_with(&self, buf: &[u8], offset: u64, mode: WriteMode) -> Result<()> {
        self.write_all_at(buf, offset)?;
        if let WriteMode::Durable(_) = mode {
            // Two steps, so that a crash in the middle of the write can be had.
            let _world = self.fs.begin(Op::SyncData, &self.path);
            self.inode.content.write().harden(offset, buf.len() as u64);
        }
        Ok(())
    }

    fn sync_data(&self, _site: SyncSite) -> Result<()> {
        let _world = self.fs.begin(Op::SyncData, &self.path);
        self.inode.content.write().sync();
        Ok(())
    }

    fn allocate(&self, len: u64) -> Result<()> {
        self.check_writable(Op::Allocate, None)?;
        let _world = self.fs.begin(Op::Allocate, &self.path);
        let limit = self.fs.file_capacity();
        let mut content = self.inode.content.write();
        if content.len() >= len {
            return Ok(());
        }
        content.set_len(len, limit).map_err(|e| self.error(Op::Allocate, None, e))
    }

    fn set_len(&self, len: u64) -> Result<()> {
        self.check_writable(Op::SetLen, None)?;
        let _world = self.fs.begin(Op::SetLen, &self.path);
        let limit = self.fs.file_capacity();
        let mut content = self.inode.content.write();
        content.set_len(len, limit).map_err(|e| self.error(Op::SetLen, None, e))
    }

    fn len(&self) -> Result<u64> {
        Ok(self.inode.content.read().len())
    }

    fn links(&self) -> Result<u64> {
        Ok(self.inode.links.load(Ordering::SeqCst))
    }

    fn map(&self, range: Range<u64>) -> Result<Option<Region>> {
        self.check_readable(Op::Map, range.start)?;
        let error = |kind: io::ErrorKind, why: String| {
            self.error(Op::Map, Some(range.start), io::Error::new(kind, why))
        };
        if range.start > range.end {
            return Err(error(
                io::ErrorKind::InvalidInput,
                "the range ends before it starts".into(),
            ));
        }
        let content = self.inode.content.read();
        if range.end > content.len() {
            let why = format!("a map up to {} of a file of {} bytes", range.end, content.len());
            return Err(error(io::ErrorKind::UnexpectedEof, why));
        }
        if range.is_empty() {
            return Ok(Some(Region::from_vec(Vec::new())));
        }
        let counted = (self.inode.maps.clone(), self.maps.clone());
        let range = range.start as usize..range.end as usize;
        Ok(Some(content.memory().region(range, counted)))
    }

    fn is_held(&self) -> Result<bool> {
        Ok(Arc::strong_count(&self.inode.maps) > Arc::strong_count(&self.maps))
    }

    fn advise(&self, _range: Range<u64>, _advice: Advice) {}

    fn lose_unsynced(&self) -> bool {
        let _world = self.fs.shared.world.read();
        self.inode.content.write().lose_unsynced();
        true
    }
}
