//! The writes of a transaction before its commit.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;
use std::time::Duration;

use kvdb_lsm::entry::{self, Entry, Kind};
use kvdb_sstable::Cursor;
use kvdb_vlog::FrameBuilder;

use crate::clock::EngineClock;
use crate::core::Core;
use crate::error::Result;
use crate::limits::{Limits, check_key};
use crate::merge::MergeOperator;

/// One write: an entry, encoded, with its value behind its head.
#[derive(Debug, Clone)]
pub(crate) struct Pending {
    encoded: Arc<[u8]>,
    head_len: usize,
    /// Which of the set's writes made its key answer without what is stored, 1 being the first; of an
    /// operand without a meaning.
    since: u64,
}

impl Pending {
    fn new(kind: Kind, user_meta: u8, expires_at: u64, value: &[u8]) -> Self {
        let mut head = [0; entry::MAX_HEAD];
        let head_len = Entry { kind, user_meta, expires_at, payload: value }.encode_head(&mut head);
        let mut encoded = Vec::with_capacity(head_len + value.len());
        encoded.extend_from_slice(&head[..head_len]);
        encoded.extend_from_slice(value);
        Pending { encoded: encoded.into(), head_len, since: 0 }
    }

    /// Whether reads of its key need nothing that is stored.
    fn answers(&self) -> bool {
        !self.entry().kind.is_merge()
    }

    /// Head and value, as they stand in a memtable.
    pub(crate) fn encoded(&self) -> &[u8] {
        &self.encoded
    }

    /// The entry. What [`Pending::new`] encoded decodes.
    pub(crate) fn entry(&self) -> Entry<'_> {
        Entry::decode(&self.encoded).unwrap_or(Entry::tombstone())
    }

    /// The head alone: the tag of the log record.
    pub(crate) fn head(&self) -> &[u8] {
        &self.encoded[..self.head_len]
    }

    pub(crate) fn value(&self) -> &[u8] {
        &self.encoded[self.head_len..]
    }

    fn frame_bytes(&self, key: &[u8]) -> usize {
        kvdb_vlog::record_len(key.len(), self.head_len, self.value().len())
    }
}

/// What a write carries besides its value.
///
/// ```
/// # fn main() -> kvdb::Result<()> {
/// # let db = kvdb::Options::default().open_in(std::sync::Arc::new(kvdb::vfs::MemFs::new()), "/db")?;
/// use kvdb::WriteOptions;
/// use std::time::Duration;
/// let mut batch = db.batch();
/// batch.put_with("token", "secret", WriteOptions::default().ttl(Duration::from_secs(60)))?;
/// batch.put_with("offer", "cheap", WriteOptions::default().expires_at(4_102_444_800))?; // 2100
/// batch.put_with("page", "text", WriteOptions::default().user_meta(b'p'))?;
/// batch.commit()?;
/// # db.close()
/// # }
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct WriteOptions {
    /// One byte for the user, returned with the entry.
    pub user_meta: u8,
    /// Seconds since 1970 from which on the entry is absent; `None`: never.
    pub expires_at: Option<u64>,
    /// How long the entry is there from the moment of the write; `None`: for ever. Where
    /// [`expires_at`](WriteOptions#structfield.expires_at) is set as well, the earlier of the two
    /// counts.
    pub ttl: Option<Duration>,
}

impl WriteOptions {
    /// Sets the user's byte.
    #[must_use]
    pub fn user_meta(mut self, meta: u8) -> Self {
        self.user_meta = meta;
        self
    }

    /// Sets the second from which on the entry is absent. 0 is the same as 1: long ago.
    ///
    /// The second is one of the store's own clock, which follows the system's. What was once absent does not
    /// come back when that is set back: as long as the store is open its clock stands still then, by up to
    /// an hour; and it is never behind an expiry for which something has been removed from the store. A
    /// clock that is set back by more was wrong before, and what expired by it but was not removed is there
    /// again.
    #[must_use]
    pub fn expires_at(mut self, seconds: u64) -> Self {
        self.expires_at = Some(seconds.max(1));
        self
    }

    /// Sets how long the entry is there, from the moment it is written (not: committed) on.
    ///
    /// The moment is taken from the clock that [expiry goes by](WriteOptions::expires_at), the store's
    /// own; in a transaction it is no earlier than the clock that this reads by. It has
    /// seconds: a fraction of `ttl` counts as a whole one, and the first second may have begun
    /// before. With a `ttl` of zero the entry is absent at once, as a delete that is written as a
    /// value; one beyond all times never expires.
    #[must_use]
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.ttl = Some(ttl);
        self
    }

    /// With an expiry instead of a time to live, which is counted from `least` if the clock is behind.
    pub(crate) fn counted(mut self, clock: &EngineClock, least: u64) -> Self {
        if self.ttl.is_some() {
            self.expires_at = Some(self.expiry(clock, least));
            self.ttl = None;
        }
        self
    }

    /// As an entry has it: 0 means never. A time to live is counted from `least` at the earliest.
    pub(crate) fn expiry(self, clock: &EngineClock, least: u64) -> u64 {
        let at = self.expires_at.map(|second| second.max(1));
        let after = self.ttl.map(|ttl| match ttl.is_zero() {
            true => 1,
            false => {
                let seconds = ttl.as_secs().saturating_add(u64::from(ttl.subsec_nanos() > 0));
                clock.now().max(least).saturating_add(seconds)
            }
        });
        at.into_iter().chain(after).min().unwrap_or(0)
    }
}

/// Later writes of a key replace earlier ones. In key order, so that the commit inserts sorted.
#[derive(Debug, Default)]
pub(crate) struct WriteSet {
    writes: BTreeMap<Box<[u8]>, Pending>,
    /// Bytes of all records in the log.
    record_bytes: usize,
    /// Writes that were ever added.
    added: u64,
}

impl WriteSet {
    pub(crate) fn is_empty(&self) -> bool {
        self.writes.is_empty()
    }

    pub(crate) fn len(&self) -> usize {
        self.writes.len()
    }

    /// Whether it only deletes, and so may use what is kept for a full disk.
    pub(crate) fn only_deletes(&self) -> bool {
        self.writes.values().all(|pending| pending.entry().kind == Kind::Tombstone)
    }

    pub(crate) fn get(&self, key: &[u8]) -> Option<&Pending> {
        self.writes.get(key)
    }

    /// Whether the key is written with a value that expires.
    pub(crate) fn expires(&self, key: &[u8]) -> bool {
        self.get(key).is_some_and(|pending| pending.entry().expires_at != 0)
    }

    pub(crate) fn keys(&self) -> impl Iterator<Item = &[u8]> {
        self.writes.keys().map(|k| &**k)
    }

    /// How many writes were added so far.
    pub(crate) fn added(&self) -> u64 {
        self.added
    }

    /// The keys between these bounds whose reads needed nothing that is stored when so many writes had
    /// been added. From then on they never do.
    pub(crate) fn answered<'a>(
        &'a self,
        lower: Bound<&'a [u8]>,
        upper: Bound<&'a [u8]>,
        added: u64,
    ) -> impl Iterator<Item = &'a [u8]> {
        use Bound::{Excluded, Included};
        let empty = match (lower, upper) {
            (Included(lower), Included(upper)) => lower > upper,
            (Included(lower) | Excluded(lower), Included(upper) | Excluded(upper)) => {
                lower >= upper
            }
            _ => false,
        };
        let within = (!empty).then(|| self.writes.range::<[u8], _>((lower, upper)));
        let answers = move |pending: &Pending| pending.answers() && pending.since <= added;
        within.into_iter().flatten().filter(move |(_, p)| answers(p)).map(|(key, _)| &**key)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&[u8], &Pending)> {
        self.writes.iter().map(|(k, p)| (&**k, p))
    }

    /// Bytes of the frame this will be.
    pub(crate) fn frame_len(&self) -> usize {
        kvdb_vlog::frame_len(self.record_bytes)
    }

    pub(crate) fn put(
        &mut self,
        core: &Core,
        key: &[u8],
        value: &[u8],
        options: WriteOptions,
    ) -> Result<()> {
        check_key(key)?;
        core.limits.check_value(key.len(), value.len())?;
        let expiry = options.expiry(&core.clock, 0);
        let pending = Pending::new(Kind::Value, options.user_meta, expiry, value);
        self.add(&core.limits, key, pending)
    }

    /// Adds an operand: onto what this set writes to the key already, or as it is.
    ///
    /// On a value that expires the result expires with it; one that has expired by `clock` is as a
    /// delete.
    pub(crate) fn merge(
        &mut self,
        limits: &Limits,
        key: &[u8],
        operand: &[u8],
        operator: &MergeOperator,
        clock: u64,
    ) -> Result<()> {
        check_key(key)?;
        let pending = match self.get(key) {
            None => Pending::new(Kind::Merge, 0, 0, operand),
            Some(old) => {
                let entry = old.entry();
                match entry.is_absent(clock) {
                    true => Pending::new(Kind::Value, 0, 0, operand),
                    false => {
                        let folded = operator.fold(key, old.value(), operand);
                        Pending::new(entry.kind, entry.user_meta, entry.expires_at, &folded)
                    }
                }
            }
        };
        limits.check_value(key.len(), pending.value().len())?;
        self.add(limits, key, pending)
    }

    pub(crate) fn delete(&mut self, limits: &Limits, key: &[u8]) -> Result<()> {
        check_key(key)?;
        self.add(limits, key, Pending::new(Kind::Tombstone, 0, 0, &[]))
    }

    /// Refuses before anything changes, so that a write over the limit is simply not there.
    fn add(&mut self, limits: &Limits, key: &[u8], mut pending: Pending) -> Result<()> {
        let old = self.writes.get(key);
        let replaced = old.map_or(0, |old| old.frame_bytes(key));
        let record_bytes = self.record_bytes - replaced + pending.frame_bytes(key);
        limits.check_transaction(kvdb_vlog::frame_len(record_bytes))?;
        let answered = old.filter(|old| old.answers()).map(|old| old.since);
        self.added += 1;
        pending.since = answered.unwrap_or(self.added);
        self.record_bytes = record_bytes;
        self.writes.insert(key.into(), pending);
        Ok(())
    }

    /// The frame of these writes, with the value of each record still without a version.
    pub(crate) fn to_frame(&self) -> Result<kvdb_vlog::Frame> {
        let mut frame = FrameBuilder::with_capacity(self.frame_len());
        for (key, pending) in self.iter() {
            frame.push(key, pending.head(), pending.value(), None)?;
        }
        Ok(frame.finish())
    }

    /// A picture of the writes as they are now, for an iterator.
    pub(crate) fn snapshot(&self) -> PendingWrites {
        self.iter().map(|(key, pending)| (key.into(), pending.clone())).collect()
    }
}

pub(crate) type PendingWrites = Arc<[(Box<[u8]>, Pending)]>;

/// Walks the writes of a transaction as if they were committed at [`kvdb_lsm::PENDING`], the
/// version that is newer than all others and visible whatever the reader's timestamp is.
#[derive(Debug, Clone)]
pub(crate) struct PendingCursor {
    writes: PendingWrites,
    /// 0: before the first; `i + 1`: on `i`; `len + 1`: behind the last.
    place: usize,
}

impl PendingCursor {
    pub(crate) fn new(writes: PendingWrites) -> Self {
        PendingCursor { writes, place: 0 }
    }

    fn go(&mut self, place: usize) -> kvdb_sstable::Result<bool> {
        self.place = place;
        Ok(self.valid())
    }
}

impl Cursor for PendingCursor {
    fn seek(&mut self, key: &[u8], version: u64) -> kvdb_sstable::Result<bool> {
        // A write at the largest version stands before every `(key, version)` but itself.
        let before = if version == kvdb_lsm::PENDING {
            self.writes.partition_point(|(k, _)| **k < *key)
        } else {
            self.writes.partition_point(|(k, _)| **k <= *key)
        };
        self.go(before + 1)
    }

    fn seek_for_prev(&mut self, key: &[u8], _version: u64) -> kvdb_sstable::Result<bool> {
        self.go(self.writes.partition_point(|(k, _)| **k <= *key))
    }

    fn first(&mut self) -> kvdb_sstable::Result<bool> {
        self.go(1)
    }

    fn last(&mut self) -> kvdb_sstable::Result<bool> {
        self.go(self.writes.len())
    }

    fn next(&mut self) -> kvdb_sstable::Result<bool> {
        self.go((self.place + 1).min(self.writes.len() + 1))
    }

    fn prev(&mut self) -> kvdb_sstable::Result<bool> {
        self.go(self.place.saturating_sub(1))
    }

    fn valid(&self) -> bool {
        (1..=self.writes.len()).contains(&self.place)
    }

    fn key(&self) -> &[u8] {
        &self.writes[self.place - 1].0
    }

    fn version(&self) -> u64 {
        kvdb_lsm::PENDING
    }

    fn value(&self) -> &[u8] {
        self.writes[self.place - 1].1.encoded()
    }
}
