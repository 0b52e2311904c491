//! An open file whose operations fail on demand.

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use super::Faults;
use super::plan::{Fault, Operation};
use crate::{Advice, File, Op, ReadRequest, Region, Result, SyncSite, WriteMode};

/// A file opened by [`FaultFs`](crate::FaultFs).
#[derive(Debug)]
pub(super) struct FaultFile {
    pub(super) inner: Arc<dyn File>,
    pub(super) faults: Arc<Faults>,
    /// A write that is cut short ends at a multiple of this.
    pub(super) block: usize,
}

impl FaultFile {
    fn operation(&self, op: Op) -> Operation<'_> {
        Operation::new(op, self.inner.path())
    }

    fn write(&self, buf: &[u8], offset: u64, mode: WriteMode) -> Result<()> {
        let mut operation = self.operation(Op::Write).offset(offset);
        if let WriteMode::Durable(site) = mode {
            operation = operation.site(site);
        }
        let Some(fault) = self.faults.decide(&operation) else {
            return self.inner.write_all_at_with(buf, offset, mode);
        };
        match fault {
            Fault::SkipSync => return self.inner.write_all_at(buf, offset),
            Fault::IoAfter => self.inner.write_all_at_with(buf, offset, mode)?,
            Fault::ShortWrite => {
                let half = buf.len() / 2 / self.block * self.block;
                self.inner.write_all_at(&buf[..half], offset)?;
            }
            Fault::LoseUnsynced => {
                self.inner.write_all_at(buf, offset)?;
                self.inner.lose_unsynced();
            }
            Fault::Io | Fault::NoSpace | Fault::TooManyFiles | Fault::Unsupported => {}
        }
        Err(operation.error(fault))
    }
}

impl File for FaultFile {
    fn path(&self) -> &Path {
        self.inner.path()
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<usize> {
        let operation = self.operation(Op::Read).offset(offset);
        self.faults.run(&operation, || self.inner.read_at(buf, offset))
    }

    fn read_batch(&self, requests: &mut [ReadRequest<'_>]) -> Result<()> {
        for request in &*requests {
            self.faults.run(&self.operation(Op::Read).offset(request.offset), || Ok(()))?;
        }
        self.inner.read_batch(requests)
    }

    fn write_all_at(&self, buf: &[u8], offset: u64) -> Result<()> {
        self.write(buf, offset, WriteMode::Buffered)
    }

    fn write_all_at_with(&self, buf: &[u8], offset: u64, mode: WriteMode) -> Result<()> {
        self.write(buf, offset, mode)
    }

    fn sync_data(&self, site: SyncSite) -> Result<()> {
        let operation = self.operation(Op::SyncData).site(site);
        let Some(fault) = self.faults.decide(&operation) else {
            return self.inner.sync_data(site);
        };
        match fault {
            Fault::SkipSync => return Ok(()),
            Fault::IoAfter => self.inner.sync_data(site)?,
            Fault::LoseUnsynced => {
                self.inner.lose_unsynced();
            }
            Fault::Io
            | Fault::NoSpace
            | Fault::TooManyFiles
            | Fault::Unsupported
            | Fault::ShortWrite => {}
        }
        Err(operation.error(fault))
    }

    fn allocate(&self, len: u64) -> Result<()> {
        self.faults.run(&self.operation(Op::Allocate), || self.inner.allocate(len))
    }

    fn set_len(&self, len: u64) -> Result<()> {
        self.faults.run(&self.operation(Op::SetLen), || self.inner.set_len(len))
    }

    fn len(&self) -> Result<u64> {
        self.faults.run(&self.operation(Op::Len), || self.inner.len())
    }

    fn links(&self) -> Result<u64> {
        self.faults.run(&self.operation(Op::Metadata), || self.inner.links())
    }

    fn map(&self, range: Range<u64>) -> Result<Option<Region>> {
        let operation = self.operation(Op::Map).offset(range.start);
        self.faults.run(&operation, || self.inner.map(range))
    }

    fn map_for(&self, range: Range<u64>, pattern: Advice) -> Result<Option<Region>> {
        let operation = self.operation(Op::Map).offset(range.start);
        self.faults.run(&operation, || self.inner.map_for(range, pattern))
    }

    fn is_held(&self) -> Result<bool> {
        self.faults.run(&self.operation(Op::Lock), || self.inner.is_held())
    }

    fn is_cached(&self, range: Range<u64>) -> bool {
        self.inner.is_cached(range)
    }

    fn advise(&self, range: Range<u64>, advice: Advice) {
        self.inner.advise(range, advice);
    }

    fn lose_unsynced(&self) -> bool {
        self.inner.lose_unsynced()
    }
}
