//! Reads that find no descriptor: they let go of what they hold, have tables closed that were not read
//! lately, and try once more.
//!
//! A table that is open in some superversion stays open for as long as anybody holds that. So a read
//! tries again from its beginning; and a walk goes on over the tables of the present moment, which show
//! its reader the same.

use kvdb_manifest::store::StoreState;

use crate::core::Core;
use crate::cursor::Picture;
use crate::error::{Error, Result};

impl Core {
    /// Runs a read, which holds nothing of the tree when it returns, and once more if the system had no
    /// descriptor left for it.
    #[inline]
    pub(crate) fn read<R>(&self, mut read: impl FnMut() -> Result<R>) -> Result<R> {
        match read() {
            Err(error) if self.free_descriptors(&error) => read(),
            outcome => outcome,
        }
    }

    #[cold]
    fn free_descriptors(&self, error: &Error) -> bool {
        match error {
            Error::Tree(error) => self.tree.free_descriptors(error),
            Error::Io(error) => self.tree.free_descriptors(&error.duplicate().into()),
            _ => false,
        }
    }
}

impl Picture<'_> {
    /// After a walk over it has met this error: if that was for want of a descriptor, the picture is
    /// taken anew. The walk's cursors are to be exchanged then, and [`release`](Self::release) called.
    pub(crate) fn renew(&mut self, error: &Error) -> bool {
        let Some(core) = self.core.upgrade() else { return false };
        if !core.free_descriptors(error) {
            return false;
        }
        let superversion = core.superversion();
        // An iterator may outlive the snapshot that it is from, and with it what the tables kept for it.
        // In this order: what was dropped is in the manifest before the tables are without it.
        if superversion.watermark() > self.version
            || core.manifest.read(StoreState::clock) > self.clock
        {
            return false;
        }
        self.superversion = superversion;
        true
    }

    /// Nobody holds the former picture any more: frees what was open in it alone.
    pub(crate) fn release(&self, error: &Error) {
        if let Some(core) = self.core.upgrade() {
            core.free_descriptors(error);
        }
    }
}
