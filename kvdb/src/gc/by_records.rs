//! Which records of the victims are in use, from the other end: each is looked up in the tree.
//!
//! For victims that are little beside the tree, where reading all tables that refer to them would
//! cost more. The victims' records are gathered up to a bounded number of bytes, sorted by key, and
//! looked up in that order, so that neighbours find the blocks and filters that the one before has
//! used. That a record is named in a victim says nothing about it; one that the tree points to is
//! verified when it is copied.

use std::collections::BTreeSet;

use kvdb_lsm::Superversion;
use kvdb_sstable::key_hash;
use kvdb_vlog::{LogView, Pointer};
use zerocopy::IntoBytes;

use crate::error::Result;

/// Bytes of keys and what goes with them that are sorted at once.
const SORT_BYTES: usize = 32 << 20;
/// Bytes that a record takes beside its key while it is sorted.
const RECORD_BYTES: usize = 48;

/// What is in use, in key order.
#[derive(Debug, Default)]
pub(super) struct Found {
    keys: Vec<u8>,
    records: Vec<Named>,
}

#[derive(Debug, Clone, Copy)]
struct Named {
    key: (usize, usize),
    version: u64,
    pointer: Pointer,
}

impl Found {
    /// Looks up everything that the victims hold.
    pub(super) fn new(
        superversion: &Superversion<LogView>,
        victims: &BTreeSet<u32>,
        go_on: &dyn Fn() -> Result<()>,
    ) -> Result<Found> {
        let mut found = Found::default();
        let mut chunk = Found::default();
        let mut outcome = Ok(());
        for &segment in victims {
            superversion.view().record_names(segment, |key, version, pointer| {
                chunk.push(key, version, pointer);
                if chunk.bytes() >= SORT_BYTES && outcome.is_ok() {
                    outcome = go_on().and_then(|()| found.take_used(superversion, &mut chunk));
                }
            })?;
            std::mem::replace(&mut outcome, Ok(()))?;
        }
        found.take_used(superversion, &mut chunk)?;
        found.sort();
        Ok(found)
    }

    fn push(&mut self, key: &[u8], version: u64, pointer: Pointer) {
        let start = self.keys.len();
        self.keys.extend_from_slice(key);
        self.records.push(Named { key: (start, self.keys.len()), version, pointer });
    }

    fn bytes(&self) -> usize {
        self.keys.len() + self.records.len() * RECORD_BYTES
    }

    fn sort(&mut self) {
        let keys = &self.keys;
        let order = |r: &Named| (&keys[r.key.0..r.key.1], std::cmp::Reverse(r.version));
        self.records.sort_unstable_by(|a, b| order(a).cmp(&order(b)));
    }

    /// Moves those of a chunk here that the tree points to.
    fn take_used(&mut self, tree: &Superversion<LogView>, chunk: &mut Found) -> Result<()> {
        chunk.sort();
        for record in &chunk.records {
            let key = &chunk.keys[record.key.0..record.key.1];
            // Versions only grow: if this version is anywhere, it is the first at or below itself.
            let hit = tree.get(key, record.version, key_hash(key))?;
            let used = hit.is_some_and(|hit| {
                let entry = hit.entry();
                hit.version() == record.version
                    && entry.kind.is_pointer()
                    && entry.payload == record.pointer.as_bytes()
            });
            if used {
                self.push(key, record.version, record.pointer);
            }
        }
        chunk.keys.clear();
        chunk.records.clear();
        Ok(())
    }

    /// Key, version and pointer of the record with this number, in key order.
    pub(super) fn get(&self, at: usize) -> Option<(&[u8], u64, Pointer)> {
        let record = self.records.get(at)?;
        Some((&self.keys[record.key.0..record.key.1], record.version, record.pointer))
    }
}
