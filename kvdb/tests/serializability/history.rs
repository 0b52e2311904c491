//! Runs transactions on several threads and notes what each saw and did.

use std::ops::Bound;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use kvdb::vfs::MemFs;
use kvdb::{Db, Error, Item, Iter, Options, Result, Transaction};

use crate::common::PATH;

/// Keys are `0..KEYS`; never more exist, so a range is a set of keys, found or not.
pub(crate) const KEYS: u16 = 64;

/// A deliberate fault in how a transaction reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Planted {
    Nothing,
    /// Ranges are read from a snapshot of the transaction's version, past its tracking.
    RangesAreForgotten,
    /// The same, but the keys that were found are read again, tracked.
    KeysFoundForRanges,
}

/// What was seen of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) key: u16,
    /// None: it was not there.
    pub(crate) version: Option<u64>,
}

/// A transaction that committed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Record {
    pub(crate) read_version: u64,
    /// None: it wrote nothing.
    pub(crate) version: Option<u64>,
    pub(crate) seen: Vec<Seen>,
    /// Keys written, and whether they are there afterwards.
    pub(crate) wrote: Vec<(u16, bool)>,
}

pub(crate) struct History {
    pub(crate) records: Vec<Record>,
    pub(crate) refused: u64,
}

pub(crate) fn record(
    options: &Options,
    planted: Planted,
    threads: u64,
    each: usize,
    seed: u64,
) -> History {
    let db = options.open_in(Arc::new(MemFs::new()), PATH).unwrap();
    let refused = AtomicU64::new(0);
    let done = AtomicBool::new(false);
    let mut records = Vec::new();
    std::thread::scope(|scope| {
        let (db, done, refused) = (&db, &done, &refused);
        let workers: Vec<_> = (0..threads)
            .map(|thread| {
                scope.spawn(move || {
                    let mut rng = fastrand::Rng::with_seed(seed << 8 | thread);
                    let runs = (0..each).filter_map(|_| {
                        let record = transaction(db, planted, &mut rng);
                        refused.fetch_add(u64::from(record.is_none()), Ordering::Relaxed);
                        record
                    });
                    runs.collect::<Vec<_>>()
                })
            })
            .collect();
        scope.spawn(move || {
            while !done.load(Ordering::Relaxed) {
                db.flush().unwrap();
                std::thread::sleep(std::time::Duration::from_millis(1));
                db.compact().unwrap();
            }
        });
        records = workers.into_iter().flat_map(|worker| worker.join().unwrap()).collect();
        done.store(true, Ordering::Relaxed);
    });
    db.close().unwrap();
    History { records, refused: refused.into_inner() }
}

/// One transaction; None if it was refused for a conflict.
fn transaction(db: &Db, planted: Planted, rng: &mut fastrand::Rng) -> Option<Record> {
    let mut run = Run { t: db.begin().unwrap(), db, planted, record: Record::default() };
    run.record.read_version = run.t.read_version();
    for _ in 0..rng.usize(..3) {
        run.get(rng.u16(..KEYS));
    }
    for _ in 0..rng.usize(..2) {
        run.scan(rng);
    }
    if rng.bool() {
        std::thread::yield_now();
    }
    // Some only read; some write blindly.
    for _ in 0..rng.usize(..3) {
        run.write(rng.u16(..KEYS), rng);
    }
    run.commit(rng)
}

struct Run<'a> {
    t: Transaction,
    db: &'a Db,
    planted: Planted,
    record: Record,
}

impl Run<'_> {
    fn get(&mut self, key: u16) {
        let item = self.t.get_entry(key.to_be_bytes()).unwrap();
        self.record.seen.push(Seen { key, version: item.map(|item| item.version()) });
    }

    /// A scan of a part of a range, from either side.
    fn scan(&mut self, rng: &mut fastrand::Rng) {
        let first = rng.u16(..KEYS);
        let end = (first + 1 + rng.u16(..8)).min(KEYS);
        let bounds = (
            Bound::Included(first.to_be_bytes().to_vec()),
            Bound::Excluded(end.to_be_bytes().to_vec()),
        );
        let (backward, most) = (rng.bool(), rng.usize(..6));
        let snapshot;
        let iter: Iter<'_> = if self.planted == Planted::Nothing {
            self.t.range(bounds)
        } else {
            snapshot = self.db.snapshot_at(self.record.read_version).unwrap();
            snapshot.range(bounds)
        };
        let found: Vec<(u16, u64)> = match backward {
            false => iter.take(most).map(key_and_version).collect(),
            true => iter.rev().take(most).map(key_and_version).collect(),
        };
        // What was looked at: all of it, or up to the last one that was asked for.
        let looked_at = match found.last() {
            _ if most == 0 => first..first,
            Some((last, _)) if found.len() == most && backward => *last..end,
            Some((last, _)) if found.len() == most => first..*last + 1,
            _ => first..end,
        };
        if self.planted == Planted::KeysFoundForRanges {
            for (key, version) in &found {
                let again = self.t.get_entry(key.to_be_bytes()).unwrap().unwrap();
                assert_eq!(again.version(), *version);
            }
        }
        self.record.seen.extend(looked_at.map(|key| {
            let version = found.iter().find(|(k, _)| *k == key).map(|(_, version)| *version);
            Seen { key, version }
        }));
    }

    fn write(&mut self, key: u16, rng: &mut fastrand::Rng) {
        let there = rng.u8(..3) > 0;
        if there {
            self.t.put(key.to_be_bytes(), vec![0; rng.usize(..400)]).unwrap();
        } else {
            self.t.delete(key.to_be_bytes()).unwrap();
        }
        self.record.wrote.retain(|(k, _)| *k != key);
        self.record.wrote.push((key, there));
    }

    fn commit(mut self, rng: &mut fastrand::Rng) -> Option<Record> {
        let committed = match rng.u8(..4) {
            0 => self.t.commit_async().and_then(|pending| pending.wait()),
            _ => self.t.commit(),
        };
        match committed {
            Ok(version) => {
                self.record.version = (!self.record.wrote.is_empty()).then_some(version);
                Some(self.record)
            }
            Err(Error::Conflict | Error::TooOld) => None,
            Err(error) => panic!("{error}"),
        }
    }
}

fn key_and_version(item: Result<Item>) -> (u16, u64) {
    let item = item.unwrap();
    (u16::from_be_bytes(item.key().try_into().unwrap()), item.version())
}
