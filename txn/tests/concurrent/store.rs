//! A small multi-version store around the oracle, with a commit queue like a log's.

use std::collections::{BTreeMap, VecDeque};
use std::ops::{Bound, Range};
use std::sync::Mutex;

use kvdb_txn::{BeginError, CommitError, Mode, Options, Oracle, ReadMark, ReadSet};

pub(crate) type Key = u32;
pub(crate) type Value = i64;

pub(crate) fn bytes(key: Key) -> [u8; 4] {
    key.to_be_bytes()
}

/// Versions of a key, oldest first, and whether older ones were dropped.
#[derive(Default)]
struct Versions {
    kept: Vec<(u64, Value)>,
    dropped: bool,
}

type Commit = (u64, Vec<(Key, Value)>);

pub(crate) struct Store {
    pub(crate) oracle: Oracle,
    keys: Mutex<BTreeMap<Key, Versions>>,
    queue: Mutex<VecDeque<Commit>>,
    leader: Mutex<()>,
    /// Planted bug: forget which ranges were read.
    pub(crate) ignore_ranges: bool,
}

/// What a transaction saw of a key: the version of the value, 0 for none.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    pub(crate) key: Key,
    pub(crate) version: u64,
}

/// A committed transaction.
#[derive(Clone, Debug)]
pub(crate) struct Record {
    pub(crate) read_version: u64,
    pub(crate) version: u64,
    pub(crate) seen: Vec<Seen>,
    pub(crate) wrote: Vec<Key>,
}

pub(crate) struct Txn<'s> {
    store: &'s Store,
    pub(crate) mark: ReadMark,
    reads: ReadSet,
    seen: Vec<Seen>,
    writes: BTreeMap<Key, Value>,
}

impl Store {
    pub(crate) fn new(options: Options) -> Self {
        Store {
            oracle: Oracle::new(options, 0, 0),
            keys: Mutex::default(),
            queue: Mutex::default(),
            leader: Mutex::default(),
            ignore_ranges: false,
        }
    }

    pub(crate) fn begin(&self, mode: Mode) -> Txn<'_> {
        self.txn(self.oracle.begin(mode))
    }

    pub(crate) fn begin_at(&self, version: u64, mode: Mode) -> Result<Txn<'_>, BeginError> {
        self.oracle.begin_at(version, mode).map(|mark| self.txn(mark))
    }

    fn txn(&self, mark: ReadMark) -> Txn<'_> {
        let (reads, seen, writes) = Default::default();
        Txn { store: self, mark, reads, seen, writes }
    }

    /// Applies and publishes whatever is queued, in order.
    fn lead(&self) {
        let _leader = self.leader.lock().unwrap();
        let group = std::mem::take(&mut *self.queue.lock().unwrap());
        let Some(last) = group.back().map(|commit| commit.0) else { return };
        assert!(group.iter().zip(group.iter().skip(1)).all(|(a, b)| a.0 + 1 == b.0));
        for (version, writes) in group {
            // Key by key, so that a reader which looks too early sees half a commit.
            for (key, value) in writes {
                let mut keys = self.keys.lock().unwrap();
                keys.entry(key).or_default().kept.push((version, value));
            }
        }
        self.oracle.published(last);
    }

    /// Drops what the oracle says that no one reads.
    pub(crate) fn compact(&self) {
        let floor = self.oracle.raise_floor();
        for versions in self.keys.lock().unwrap().values_mut() {
            let visible = versions.kept.partition_point(|(version, _)| *version <= floor);
            if visible > 1 {
                versions.kept.drain(..visible - 1);
                versions.dropped = true;
            }
        }
    }

    fn newest(versions: &Versions, at: u64) -> Option<(u64, Value)> {
        let newest = versions.kept.iter().rev().find(|(version, _)| *version <= at).copied();
        // Of the versions up to the floor one stays, and no reader is below the floor.
        assert!(newest.is_some() || !versions.dropped, "a version that is read was dropped");
        newest
    }
}

impl Txn<'_> {
    pub(crate) fn get(&mut self, key: Key) -> Option<Value> {
        if let Some(own) = self.writes.get(&key) {
            return Some(*own);
        }
        self.reads.add_point(&bytes(key));
        let keys = self.store.keys.lock().unwrap();
        let newest = keys.get(&key).and_then(|v| Store::newest(v, self.mark.version()));
        self.seen.push(Seen { key, version: newest.map_or(0, |n| n.0) });
        newest.map(|n| n.1)
    }

    pub(crate) fn scan(&mut self, range: Range<Key>) -> Vec<(Key, Value)> {
        if !self.store.ignore_ranges {
            let (start, end) = (bytes(range.start), bytes(range.end));
            self.reads.add_range(Bound::Included(&start), Bound::Excluded(&end));
        }
        let mut found = Vec::new();
        for key in range {
            let keys = self.store.keys.lock().unwrap();
            let newest = keys.get(&key).and_then(|v| Store::newest(v, self.mark.version()));
            self.seen.push(Seen { key, version: newest.map_or(0, |n| n.0) });
            found.extend(newest.map(|n| (key, n.1)));
        }
        found
    }

    pub(crate) fn put(&mut self, key: Key, value: Value) {
        self.writes.insert(key, value);
    }

    pub(crate) fn commit(self) -> Result<Option<Record>, CommitError> {
        let keys: Vec<_> = self.writes.keys().map(|key| bytes(*key)).collect();
        let writes: Vec<_> = self.writes.into_iter().collect();
        let wrote = writes.iter().map(|(key, _)| *key).collect();
        let queue = &self.store.queue;
        let version = self.store.oracle.commit(&self.mark, &self.reads, &keys, |version| {
            queue.lock().unwrap().push_back((version, writes));
            version
        })?;
        self.store.lead();
        let read_version = self.mark.version();
        Ok(version.map(|version| {
            assert!(self.store.oracle.read_version() >= version, "acknowledged, so readable");
            Record { read_version, version, seen: self.seen, wrote }
        }))
    }
}
