//! The window: the writes of the latest commits, in version order.
//!
//! A transaction that commits is checked against the writes of all versions above the one it
//! reads at. The window keeps these as a log: a queue of sealed, immutable *blocks* and one open
//! block at its end. Appending a commit copies its keys to the open block, or, for a larger one,
//! queues a block that was built before the lock was taken. Forgetting drops whole blocks.
//!
//! There is no index over the window, on purpose. A check walks the writes that were committed
//! during the transaction's life and looks each up in the transaction's own read set, which costs
//! nanoseconds where committing that write has cost hundreds: a check is always a small part of
//! the time in which there came to be something to check. An ordered index would tax every commit,
//! under the lock, for the benefit of a few.

use std::collections::VecDeque;
use std::mem::size_of;
use std::ops::Bound;
use std::sync::Arc;

use crate::range::KeyRange;
use crate::read_set::{ReadSet, fingerprint};

/// One thing that a commit writes.
#[derive(Clone, Copy, Debug)]
pub enum Write<'a> {
    /// A put, a delete or a merge of one key.
    Key(&'a [u8]),
    /// A delete of all keys between two bounds, whether they exist or not.
    Range(Bound<&'a [u8]>, Bound<&'a [u8]>),
}

impl<'a> From<&'a [u8]> for Write<'a> {
    fn from(key: &'a [u8]) -> Self {
        Write::Key(key)
    }
}

impl<'a> From<&'a Vec<u8>> for Write<'a> {
    fn from(key: &'a Vec<u8>) -> Self {
        Write::Key(key)
    }
}

impl<'a, const N: usize> From<&'a [u8; N]> for Write<'a> {
    fn from(key: &'a [u8; N]) -> Self {
        Write::Key(key)
    }
}

/// A commit with more writes than this becomes a block of its own.
const OWN_BLOCK_WRITES: usize = 32;
/// A commit with more bytes of keys than this becomes a block of its own.
const OWN_BLOCK_BYTES: usize = 2 << 10;
/// The open block is sealed at so many writes, …
const BLOCK_WRITES: usize = 256;
/// … or so many bytes of keys.
const BLOCK_BYTES: usize = 16 << 10;
/// A large commit is cut into blocks of about so many bytes of keys.
const PIECE_BYTES: usize = 1 << 20;

/// What a block takes besides its content.
const BLOCK_OVERHEAD: usize = size_of::<Block>() + 2 * size_of::<usize>() + size_of::<Arc<Block>>();

/// What follows each key in a block: its fingerprint, its version, its length.
const TRAILER: usize = 8 + 8 + 4;

/// Writes in version order.
///
/// The first fields are what each commit writes, in the open block: see [`Window`].
#[derive(Debug, Default)]
#[repr(C)]
pub(crate) struct Block {
    /// The keys, each followed by its trailer, so that they are walked from the newest back. The
    /// version is not set in a block of one version, where it is never looked at.
    data: Vec<u8>,
    /// The number of keys.
    keys: usize,
    /// The version of its first write.
    first: u64,
    /// The version of its last write, once it is sealed.
    last: u64,
    ranges: Vec<(u64, KeyRange)>,
}

/// A key in a block.
struct Entry<'a> {
    key: &'a [u8],
    fingerprint: u64,
    version: u64,
}

/// Takes the last key off a block's data.
#[inline]
fn split_last(data: &[u8]) -> Option<(&[u8], Entry<'_>)> {
    let (data, length) = data.split_last_chunk()?;
    let (data, version) = data.split_last_chunk()?;
    let (data, fingerprint) = data.split_last_chunk()?;
    let start = data.len().checked_sub(u32::from_le_bytes(*length) as usize)?;
    let (data, key) = data.split_at(start);
    let (fingerprint, version) = (u64::from_le_bytes(*fingerprint), u64::from_le_bytes(*version));
    Some((data, Entry { key, fingerprint, version }))
}

impl Block {
    fn push(&mut self, write: Write<'_>) {
        match write {
            Write::Key(key) => {
                self.data.reserve(key.len() + TRAILER);
                self.data.extend_from_slice(key);
                self.data.extend_from_slice(&fingerprint(key).to_le_bytes());
                self.data.extend_from_slice(&0u64.to_le_bytes());
                self.data.extend_from_slice(&(key.len() as u32).to_le_bytes());
                self.keys += 1;
            }
            Write::Range(lower, upper) => {
                self.ranges.extend(KeyRange::new(lower, upper).map(|range| (0, range)));
            }
        }
    }

    /// Appends a whole commit.
    fn append(&mut self, version: u64, commit: &Block) {
        if self.len() == 0 {
            self.first = version;
        }
        self.data.extend_from_slice(&commit.data);
        self.keys += commit.keys;
        // The versions, from the last key back.
        let mut end = self.data.len();
        for _ in 0..commit.keys {
            let at = end - 4 - 8;
            self.data[at..at + 8].copy_from_slice(&version.to_le_bytes());
            let length = self.data[end - 4..end].try_into().map_or(0, u32::from_le_bytes);
            end -= length as usize + TRAILER;
        }
        self.ranges.extend(commit.ranges.iter().map(|(_, range)| (version, range.clone())));
    }

    fn stamp(&mut self, version: u64) {
        self.first = version;
        self.last = version;
        for range in &mut self.ranges {
            range.0 = version;
        }
    }

    fn len(&self) -> usize {
        self.keys + self.ranges.len()
    }

    /// Bytes of the keys.
    fn key_bytes(&self) -> usize {
        self.data.len() - self.keys * TRAILER
    }

    /// The version of the newest write in an open block, 0 if it is empty.
    fn newest(&self) -> u64 {
        let key = split_last(&self.data).map_or(0, |(_, entry)| entry.version);
        self.ranges.last().map_or(key, |(version, _)| key.max(*version))
    }

    fn clear(&mut self) {
        self.data.clear();
        self.keys = 0;
        self.ranges.clear();
    }

    /// Bytes of memory, unused capacity included.
    fn bytes(&self) -> usize {
        BLOCK_OVERHEAD
            + self.data.capacity()
            + self.ranges.capacity() * size_of::<(u64, KeyRange)>()
            + self.ranges.iter().map(|(_, range)| range.len()).sum::<usize>()
    }

    /// Its keys, the newest first.
    fn newest_first(&self) -> impl Iterator<Item = Entry<'_>> {
        let mut data = &self.data[..];
        std::iter::from_fn(move || {
            let (rest, entry) = split_last(data)?;
            data = rest;
            Some(entry)
        })
    }

    /// The first range above `after`.
    fn ranges_above(&self, after: u64) -> &[(u64, KeyRange)] {
        let first = match self.first > after {
            true => 0,
            false => self.ranges.partition_point(|(version, _)| *version <= after),
        };
        &self.ranges[first..]
    }

    /// Whether anything in `reads` was written above version `after`, in a sealed block.
    pub(crate) fn conflicts(&self, after: u64, reads: &ReadSet) -> bool {
        self.last > after && self.conflicts_within(after, reads, usize::MAX) == Some(true)
    }

    /// The same for any block, if no more than `most` writes have to be looked at.
    fn conflicts_within(&self, after: u64, reads: &ReadSet, most: usize) -> Option<bool> {
        let whole = self.first > after;
        let ranges = self.ranges_above(after);
        let mut left = most.checked_sub(ranges.len())?;
        for entry in self.newest_first() {
            if !whole && entry.version <= after {
                break;
            }
            left = left.checked_sub(1)?;
            if reads.covers(entry.fingerprint, entry.key) {
                return Some(true);
            }
        }
        Some(ranges.iter().any(|(_, range)| reads.intersects(range)))
    }

    /// Whether an open block has more than `count` writes above `after`.
    fn has_more_above(&self, after: u64, count: usize) -> bool {
        let ranges = self.ranges_above(after).len();
        match count.checked_sub(ranges) {
            None => true,
            Some(count) => self.newest_first().nth(count).is_some_and(|e| e.version > after),
        }
    }
}

/// The writes of one commit, hashed and copied before the oracle's lock is taken.
#[derive(Debug, Default)]
pub(crate) struct Batch {
    /// A large commit, ready to be queued as it is.
    pieces: Vec<Block>,
    /// What is left, few enough to be copied to the open block.
    rest: Block,
    any: bool,
}

impl Batch {
    pub(crate) fn new<'a, W: Into<Write<'a>>>(writes: impl IntoIterator<Item = W>) -> Self {
        let writes = writes.into_iter();
        let mut batch = Batch::default();
        for write in writes {
            batch.any = true;
            batch.rest.push(write.into());
            if batch.rest.key_bytes() >= PIECE_BYTES {
                batch.cut();
            }
        }
        if batch.rest.len() > OWN_BLOCK_WRITES || batch.rest.key_bytes() > OWN_BLOCK_BYTES {
            batch.cut();
        }
        batch
    }

    fn cut(&mut self) {
        let mut piece = std::mem::take(&mut self.rest);
        piece.data.shrink_to_fit();
        self.pieces.push(piece);
    }

    /// Whether there was no write at all.
    pub(crate) fn is_empty(&self) -> bool {
        !self.any
    }
}

/// How a check goes on.
pub(crate) enum Plan {
    /// So little is left that it was checked on the spot: whether there is a conflict.
    Checked(bool),
    /// These blocks are to be checked without the lock; they reach up to the version.
    Blocks(Vec<Arc<Block>>, u64),
}

/// See the module's description. What every commit writes comes first, on as few cache lines as
/// possible: they move from one committing thread to the next.
#[derive(Debug, Default)]
#[repr(C)]
pub(crate) struct Window {
    open: Block,
    sealed: VecDeque<Arc<Block>>,
    sealed_bytes: usize,
    /// All writes above this version are here.
    forgotten: u64,
}

impl Window {
    /// An empty window that knows of no write at or below `version`.
    pub(crate) fn new(version: u64) -> Self {
        Window { forgotten: version, ..Self::default() }
    }

    /// The newest version whose writes are not here any more.
    pub(crate) fn forgotten(&self) -> u64 {
        self.forgotten
    }

    /// The last version of the oldest sealed block, 0 if there is none: what has to be passed
    /// before anything can be forgotten.
    pub(crate) fn front(&self) -> u64 {
        self.sealed.front().map_or(0, |block| block.last)
    }

    /// Adds the writes of the newest commit. Returns whether a block was sealed.
    pub(crate) fn append(&mut self, version: u64, batch: &mut Batch) -> bool {
        let mut sealed = !batch.pieces.is_empty();
        if sealed {
            self.seal();
        }
        for mut block in batch.pieces.drain(..) {
            block.stamp(version);
            self.push_sealed(Arc::new(block));
        }
        if batch.rest.len() > 0 {
            self.open.append(version, &batch.rest);
            if self.open.len() >= BLOCK_WRITES || self.open.key_bytes() >= BLOCK_BYTES {
                self.seal();
                sealed = true;
            }
        }
        sealed
    }

    fn seal(&mut self) {
        if self.open.len() > 0 {
            let next = Block { data: Vec::with_capacity(self.open.data.len()), ..Block::default() };
            self.open.last = self.open.newest();
            let block = std::mem::replace(&mut self.open, next);
            self.push_sealed(Arc::new(block));
        }
    }

    fn push_sealed(&mut self, block: Arc<Block>) {
        self.sealed_bytes += block.bytes();
        self.sealed.push_back(block);
    }

    /// Plans the check of everything above `after`; `at_once` writes may be checked on the spot.
    pub(crate) fn plan(&mut self, after: u64, reads: &ReadSet, at_once: usize) -> Plan {
        let first = self.sealed.partition_point(|block| block.last <= after);
        let mut count = 0usize;
        for block in self.sealed.range(first..) {
            count = count.saturating_add(block.len());
            if count > at_once {
                break;
            }
        }
        if let Some(most) = at_once.checked_sub(count)
            && let Some(conflict) = self.open.conflicts_within(after, reads, most)
        {
            let mut sealed = self.sealed.range(first..);
            return Plan::Checked(conflict || sealed.any(|block| block.conflicts(after, reads)));
        }
        if self.open.has_more_above(after, at_once / 2) {
            self.seal();
        }
        let blocks: Vec<_> = self.sealed.range(first..).cloned().collect();
        let up_to = blocks.last().map_or(after, |block| block.last);
        Plan::Blocks(blocks, up_to)
    }

    /// Forgets blocks whose versions are all at or below `version`; they are handed to the caller,
    /// who drops them without the lock.
    pub(crate) fn forget(&mut self, version: u64, dropped: &mut Vec<Arc<Block>>) {
        while self.front() != 0 && self.front() <= version {
            self.forget_front(dropped);
        }
        if self.sealed.is_empty() && self.open.len() > 0 && self.open.newest() <= version {
            self.forget_open();
        }
    }

    /// Forgets the oldest writes until what is left takes no more than `limit` bytes.
    pub(crate) fn shrink(&mut self, limit: usize, dropped: &mut Vec<Arc<Block>>) {
        while self.bytes() > limit && !self.sealed.is_empty() {
            self.forget_front(dropped);
        }
        if self.bytes() > limit {
            self.forget_open();
        }
    }

    fn forget_front(&mut self, dropped: &mut Vec<Arc<Block>>) {
        if let Some(block) = self.sealed.pop_front() {
            self.forgotten = self.forgotten.max(block.last);
            self.sealed_bytes -= block.bytes();
            dropped.push(block);
        }
    }

    fn forget_open(&mut self) {
        if self.open.len() > 0 {
            self.forgotten = self.forgotten.max(self.open.newest());
            self.open.clear();
        }
    }

    /// Bytes of memory that remembered writes take; 0 if there are none.
    pub(crate) fn bytes(&self) -> usize {
        self.sealed_bytes + if self.open.len() > 0 { self.open.bytes() } else { 0 }
    }
}
