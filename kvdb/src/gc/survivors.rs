//! Which records of the victims are still in use: what the tree says.
//!
//! The tables that refer to a victim are read in key order, all versions of all keys, with the
//! memtables of the same superversion; whatever points into a victim survives. Nothing of the
//! victims themselves is read for that, and nothing is sorted, since the tree is. A superversion
//! that was pinned when the victims lay before the replay head shows every pointer into them that
//! any later version can hold: flushes and compactions only leave entries out, and what is
//! written later points behind the head. So what it does not show is garbage for good.

use kvdb_lsm::entry::Entry;
use kvdb_lsm::{Cursor as _, Superversion, TreeCursor};
use kvdb_vlog::{LogView, Pointer};

use crate::error::{Error, Result};
use crate::item::decode_pointer;

/// Records that are fetched and written at once: enough that the system can read ahead, and that
/// pacing and cancelling look at them often.
const BATCH_BYTES: u64 = 2 << 20;
const BATCH_RECORDS: usize = 1024;

/// A record that survives.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Survivor {
    key: (usize, usize),
    pub(crate) version: u64,
    pub(crate) pointer: Pointer,
}

/// The records in use, in key order, in batches.
pub(crate) struct Survivors<'a> {
    victims: &'a dyn Fn(u32) -> bool,
    cursor: TreeCursor,
    started: bool,
    keys: Vec<u8>,
    batch: Vec<Survivor>,
}

impl<'a> Survivors<'a> {
    pub(crate) fn new(
        superversion: &Superversion<LogView>,
        victims: &'a dyn Fn(u32) -> bool,
    ) -> Self {
        let cursor = superversion.cursor_over(|t| t.pointers.iter().any(|p| victims(p.segment)));
        Survivors { victims, cursor, started: false, keys: Vec::new(), batch: Vec::new() }
    }

    /// Gathers the next batch; empty at the end.
    pub(crate) fn next_batch(&mut self) -> Result<&[Survivor]> {
        self.keys.clear();
        self.batch.clear();
        let mut bytes = 0;
        let mut on = match self.started {
            true => self.cursor.valid(),
            false => self.cursor.first()?,
        };
        self.started = true;
        while on && bytes < BATCH_BYTES && self.batch.len() < BATCH_RECORDS {
            let entry = Entry::decode(self.cursor.value()).map_err(|error| {
                Error::DamagedEntry { key: self.cursor.key().to_vec(), what: error.to_string() }
            })?;
            if entry.kind.is_pointer() {
                let pointer = decode_pointer(entry.payload, self.cursor.key())?;
                if (self.victims)(pointer.segment()) {
                    let start = self.keys.len();
                    self.keys.extend_from_slice(self.cursor.key());
                    let (key, version) = ((start, self.keys.len()), self.cursor.version());
                    self.batch.push(Survivor { key, version, pointer });
                    bytes += u64::from(pointer.len());
                }
            }
            on = self.cursor.next()?;
        }
        Ok(&self.batch)
    }

    /// The key of a survivor of the last batch.
    pub(crate) fn key(&self, survivor: &Survivor) -> &[u8] {
        &self.keys[survivor.key.0..survivor.key.1]
    }

    /// The last batch.
    pub(crate) fn batch(&self) -> &[Survivor] {
        &self.batch
    }
}
