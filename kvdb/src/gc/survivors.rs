//! Which records of the victims are still in use: what the tree says.
//!
//! The tables that refer to a victim are read in key order, all versions of all keys, with the
//! memtables of the same superversion; whatever points into a victim survives. Nothing of the
//! victims themselves is read for that, and nothing is sorted, since the tree is. Where the victims
//! hold few records beside what these tables hold, the records are looked up instead
//! ([`by_records`](super::by_records)).
//!
//! A superversion that was pinned when the victims lay before the replay head shows every pointer
//! into them that any later version can hold: flushes and compactions only leave entries out, and
//! what is written later points behind the head. So what it does not show is garbage for good. As
//! many as the tables' records say must be found in either way; if not, the victim is damaged.

use std::collections::BTreeMap;

use kvdb_lsm::entry::Entry;
use kvdb_lsm::{Cursor as _, Superversion, TreeCursor};
use kvdb_vlog::{LiveRecord, LogView, Pointer};

use super::by_records::Found;
use super::collector::Claim;
use crate::error::{Error, ErrorKind, Result};
use crate::item::decode_pointer;

/// Records that are fetched and written at once: enough that the system can read ahead, and that
/// pacing and cancelling look at them often.
const BATCH_BYTES: u64 = 2 << 20;
const BATCH_RECORDS: usize = 1024;
/// So many entries of a table are passed over in the time of one lookup.
const LOOKUP_COST: u64 = 32;
/// Most records in use that are gathered in memory.
const MOST_FOUND: u64 = 1 << 19;

/// A record that survives.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Survivor {
    key: (usize, usize),
    version: u64,
    pointer: Pointer,
}

/// How survivors are found.
enum Source {
    Tables { cursor: TreeCursor, started: bool },
    Records { found: Found, next: usize },
}

/// The records in use, in key order, in batches.
pub(crate) struct Survivors<'a> {
    claim: &'a Claim<'a>,
    source: Source,
    keys: Vec<u8>,
    batch: Vec<Survivor>,
    /// How many must be found still, by segment.
    expected: BTreeMap<u32, u64>,
}

impl<'a> Survivors<'a> {
    pub(crate) fn new(
        superversion: &Superversion<LogView>,
        claim: &'a Claim<'a>,
        by_records: Option<bool>,
        go_on: &dyn Fn() -> Result<()>,
    ) -> Result<Self> {
        let victims = |segment| claim.contains(segment);
        let mut expected: BTreeMap<u32, u64> = BTreeMap::new();
        let mut entries = 0;
        for table in superversion.table_records() {
            let mut refers = false;
            for sum in table.pointers.iter().filter(|p| victims(p.segment)) {
                *expected.entry(sum.segment).or_default() += sum.count;
                refers = true;
            }
            entries += if refers { table.entries } else { 0 };
        }
        let by_records = by_records.unwrap_or_else(|| is_sparse(claim, entries));
        let found = by_records.then(|| Found::new(superversion, claim.segments(), go_on));
        let source = match found.transpose() {
            Ok(Some(found)) => Source::Records { found, next: 0 },
            // A lookup may come upon an unreadable table that does not refer to the victims at all.
            Err(error) if !is_unreadable(&error) => return Err(error),
            Ok(None) | Err(_) => {
                let refers = |t: &kvdb_manifest::store::TableRecord| {
                    t.pointers.iter().any(|p| victims(p.segment))
                };
                Source::Tables { cursor: superversion.cursor_over(refers), started: false }
            }
        };
        Ok(Survivors { claim, source, keys: Vec::new(), batch: Vec::new(), expected })
    }

    /// Gathers the next batch; empty at the end.
    pub(crate) fn next_batch(&mut self) -> Result<&[Survivor]> {
        self.keys.clear();
        self.batch.clear();
        let mut bytes = 0;
        while bytes < BATCH_BYTES && self.batch.len() < BATCH_RECORDS {
            let Some(pointer) = self.push_next()? else { break };
            bytes += u64::from(pointer.len());
            if let Some(count) = self.expected.get_mut(&pointer.segment()) {
                *count = count.saturating_sub(1);
            }
        }
        Ok(&self.batch)
    }

    /// Adds the next survivor to the batch.
    fn push_next(&mut self) -> Result<Option<Pointer>> {
        let start = self.keys.len();
        let (version, pointer) = match &mut self.source {
            Source::Records { found, next } => {
                let Some((key, version, pointer)) = found.get(*next) else { return Ok(None) };
                *next += 1;
                self.keys.extend_from_slice(key);
                (version, pointer)
            }
            Source::Tables { cursor, started } => {
                let mut on = if *started { cursor.next()? } else { cursor.first()? };
                *started = true;
                loop {
                    if !on {
                        return Ok(None);
                    }
                    let pointer = pointer_at(cursor)?;
                    if let Some(pointer) = pointer.filter(|p| self.claim.contains(p.segment())) {
                        self.keys.extend_from_slice(cursor.key());
                        break (cursor.version(), pointer);
                    }
                    on = cursor.next()?;
                }
            }
        };
        self.batch.push(Survivor { key: (start, self.keys.len()), version, pointer });
        Ok(Some(pointer))
    }

    /// A segment of which not all was found that tables refer to, after the last batch.
    pub(crate) fn missing(&self) -> Option<(u32, u64)> {
        self.expected.iter().find(|(_, count)| **count > 0).map(|(s, count)| (*s, *count))
    }

    /// The last batch.
    pub(crate) fn records(&self) -> impl Iterator<Item = LiveRecord<'_>> {
        self.batch.iter().map(|survivor| LiveRecord {
            pointer: survivor.pointer,
            key: &self.keys[survivor.key.0..survivor.key.1],
            version: survivor.version,
        })
    }
}

/// Whether it is a table, or a part of one, that cannot be read.
pub(super) fn is_unreadable(error: &Error) -> bool {
    let unreadable = matches!(error.kind(), ErrorKind::Corruption | ErrorKind::Io);
    !matches!(error, Error::Log(_)) && unreadable
}

/// Whether looking up the victims' records is cheaper than reading `entries` entries of tables.
fn is_sparse(claim: &Claim<'_>, entries: u64) -> bool {
    let (mut records, mut live) = (0, 0);
    for unit in &claim.units {
        let mean = (unit.live.bytes / unit.live.count.max(1)).max(64);
        records += unit.size / mean;
        live += unit.live.count;
    }
    entries / LOOKUP_COST > records && live <= MOST_FOUND
}

/// Reads everything that a cursor goes over, to know whether that can be done.
pub(crate) fn read_through(mut cursor: TreeCursor, go_on: &dyn Fn() -> Result<()>) -> Result<()> {
    let mut on = cursor.first()?;
    for i in 1u64.. {
        if !on {
            break;
        }
        pointer_at(&cursor)?;
        on = cursor.next()?;
        if i % 4096 == 0 {
            go_on()?;
        }
    }
    Ok(())
}

/// The pointer that the cursor stands on, if it is one.
fn pointer_at(cursor: &TreeCursor) -> Result<Option<Pointer>> {
    let entry = Entry::decode(cursor.value()).map_err(|error| Error::DamagedEntry {
        key: cursor.key().to_vec(),
        what: error.to_string(),
    })?;
    match entry.kind.is_pointer() {
        true => decode_pointer(entry.payload, cursor.key()).map(Some),
        false => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::sync::Arc;

    use kvdb_vfs::{FaultPlan, MemFs, Op};

    use super::super::stores::{claim_all, sealed_segments};
    use super::*;

    #[test]
    fn looking_records_up_asks_often_whether_to_go_on_and_reads_nothing_more_when_not() {
        let (fs, db) = sealed_segments(&Arc::new(MemFs::new()));
        let claim = claim_all(&db);
        let segments = claim.units.len() as u64;
        assert!(segments >= 2, "{segments}");
        let superversion = db.core().superversion();
        let asked = Cell::new(0u64);
        let look_up = |most: u64| {
            asked.set(0);
            let reads = fs.arm(FaultPlan::count().on(&[Op::Read]).path(".vlog"));
            let go_on = || {
                asked.set(asked.get() + 1);
                if asked.get() <= most { Ok(()) } else { Err(Error::Closed) }
            };
            let found = Survivors::new(&superversion, &claim, Some(true), &go_on);
            (found.map(drop), reads.seen())
        };
        let (found, all) = look_up(u64::MAX);
        found.unwrap();
        let mebibytes = (segments - 1) * 3;
        assert!(asked.get() > segments + mebibytes, "{} times", asked.get());
        for most in 0..3 {
            let (ended, reads) = look_up(most);
            assert!(matches!(ended, Err(Error::Closed)), "{ended:?}");
            assert_eq!(asked.get(), most + 1, "and asks no more");
            assert!(reads <= most * 4 && reads < all, "{reads} of {all} reads");
        }
    }
}
