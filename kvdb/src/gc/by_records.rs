//! Which records of the victims are in use, from the other end: each is looked up in the tree.
//!
//! For victims that are little beside the tree, where reading all tables that refer to them would
//! cost more. The victims' records are gathered up to a bounded number of bytes, sorted by key, and
//! looked up in that order, so that neighbours find the blocks and filters that the one before has
//! used. That a record is named in a victim says nothing about it; one that the tree points to is
//! verified when it is copied.

use std::collections::BTreeSet;
use std::ops::ControlFlow;

use kvdb_lsm::Superversion;
use kvdb_sstable::key_hash;
use kvdb_vlog::{LogView, Pointer};
use zerocopy::IntoBytes;

use crate::error::Result;

/// Bytes of keys and what goes with them that are sorted at once.
const SORT_BYTES: usize = 32 << 20;
/// Bytes of the victims that are passed over, and records that are looked up, before it is asked again
/// whether to go on: a close waits no longer.
pub(super) const ASK_BYTES: u64 = 1 << 20;
const ASK_RECORDS: usize = 1 << 12;
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
        Found::by_chunks(superversion, victims, SORT_BYTES, go_on)
    }

    fn by_chunks(
        superversion: &Superversion<LogView>,
        victims: &BTreeSet<u32>,
        chunk_bytes: usize,
        go_on: &dyn Fn() -> Result<()>,
    ) -> Result<Found> {
        let mut found = Found::default();
        let mut chunk = Found::default();
        let mut outcome = Ok(());
        let mut passed = 0;
        for &segment in victims {
            go_on()?;
            superversion.view().record_names(segment, |key, version, pointer| {
                chunk.push(key, version, pointer);
                passed += u64::from(pointer.len());
                if chunk.bytes() >= chunk_bytes {
                    outcome = found.take_used(superversion, &mut chunk, go_on);
                } else if passed >= ASK_BYTES {
                    passed = 0;
                    outcome = go_on();
                }
                match outcome {
                    Ok(()) => ControlFlow::Continue(()),
                    Err(_) => ControlFlow::Break(()),
                }
            })?;
            std::mem::replace(&mut outcome, Ok(()))?;
        }
        found.take_used(superversion, &mut chunk, go_on)?;
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
    fn take_used(
        &mut self,
        tree: &Superversion<LogView>,
        chunk: &mut Found,
        go_on: &dyn Fn() -> Result<()>,
    ) -> Result<()> {
        chunk.sort();
        for (i, record) in chunk.records.iter().enumerate() {
            if i % ASK_RECORDS == 0 {
                go_on()?;
            }
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

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::sync::Arc;

    use kvdb_vfs::MemFs;

    use super::*;
    use crate::{Background, Db, Error, Options};

    /// Segments with four versions of each of these many keys, of which a snapshot needs the third.
    fn store(keys: u16) -> (Db, crate::Snapshot) {
        let options = Options::default()
            .background(Background::Manual)
            .segment_size(1 << 20)
            .value_threshold(16);
        let db = options.open_in(Arc::new(MemFs::new()), "/db").unwrap();
        let mut held = None;
        for round in 0..4u8 {
            if round == 3 {
                held = Some(db.snapshot().unwrap());
            }
            for i in 0..keys {
                // In no order: 389 has no divisor in common with how many there are.
                let key = (u32::from(i) * 389 % u32::from(keys)).to_be_bytes();
                db.put(key, [round; 2000]).unwrap();
            }
        }
        db.compact().unwrap();
        (db, held.unwrap())
    }

    fn listed(found: &Found) -> Vec<(Vec<u8>, u64, Pointer)> {
        let get =
            |at| found.get(at).map(|(key, version, pointer)| (key.to_vec(), version, pointer));
        (0..).map_while(get).collect()
    }

    #[test]
    fn in_however_many_parts_records_are_looked_up_the_same_is_found_in_key_order() {
        let (db, _held) = store(1000);
        let superversion = db.core().superversion();
        let victims = superversion.view().segments().collect();
        let looks = Cell::new(0);
        let in_chunks = |bytes| {
            looks.set(0);
            let count = || {
                looks.set(looks.get() + 1);
                Ok(())
            };
            listed(&Found::by_chunks(&superversion, &victims, bytes, &count).unwrap())
        };
        let at_once = in_chunks(SORT_BYTES);
        assert_eq!(at_once.len(), 2000, "two versions of each key");
        let least = looks.get();
        assert!(at_once.is_sorted_by(|a, b| (&a.0, b.1) < (&b.0, a.1)), "the newest first");
        for bytes in [1, 999 * (RECORD_BYTES + 4), 30_000] {
            assert!(in_chunks(bytes) == at_once, "{bytes}");
            assert!(looks.get() > least, "{bytes}");
        }
    }

    #[test]
    fn looking_up_ends_when_it_is_told_to() {
        let (db, _held) = store(1000);
        let superversion = db.core().superversion();
        let victims = superversion.view().segments().collect();
        let looks = Cell::new(0);
        let no_more = || {
            looks.set(looks.get() + 1);
            if looks.get() < 3 { Ok(()) } else { Err(Error::Closed) }
        };
        let ended = Found::by_chunks(&superversion, &victims, 10_000, &no_more);
        assert!(matches!(ended, Err(Error::Closed)), "{ended:?}");
        assert_eq!(looks.get(), 3, "and asks no more");
    }
}
