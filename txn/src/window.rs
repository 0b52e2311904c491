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

#[derive(Clone, Copy, Debug)]
struct Entry {
    fingerprint: u64,
    /// Not set in a block of one version, where it is never looked at.
    version: u64,
    /// Where the key ends in `Block::keys`; it starts where the one before it ends.
    end: usize,
}

/// Writes in version order.
#[derive(Debug, Default)]
#[repr(C)]
pub(crate) struct Block {
    keys: Vec<u8>,
    entries: Vec<Entry>,
    first: u64,
    last: u64,
    ranges: Vec<(u64, KeyRange)>,
}

impl Block {
    fn push(&mut self, write: Write<'_>) {
        match write {
            Write::Key(key) => {
                self.keys.extend_from_slice(key);
                let fingerprint = fingerprint(key);
                self.entries.push(Entry { fingerprint, version: 0, end: self.keys.len() });
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
        self.last = version;
        let base = self.keys.len();
        self.keys.extend_from_slice(&commit.keys);
        let entries = commit.entries.iter();
        self.entries.extend(entries.map(|e| Entry { version, end: base + e.end, ..*e }));
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
        self.entries.len() + self.ranges.len()
    }

    fn clear(&mut self) {
        self.keys.clear();
        self.entries.clear();
        self.ranges.clear();
    }

    /// Bytes of memory, unused capacity included.
    fn bytes(&self) -> usize {
        BLOCK_OVERHEAD
            + self.keys.capacity()
            + self.entries.capacity() * size_of::<Entry>()
            + self.ranges.capacity() * size_of::<(u64, KeyRange)>()
            + self.ranges.iter().map(|(_, range)| range.len()).sum::<usize>()
    }

    /// The first entry and the first range above `after`.
    fn tail(&self, after: u64) -> (usize, usize) {
        if self.first > after {
            (0, 0)
        } else if self.last <= after {
            (self.entries.len(), self.ranges.len())
        } else {
            (
                self.entries.partition_point(|entry| entry.version <= after),
                self.ranges.partition_point(|(version, _)| *version <= after),
            )
        }
    }

    /// Whether anything in `reads` was written above version `after`.
    pub(crate) fn conflicts(&self, after: u64, reads: &ReadSet) -> bool {
        let (entry, range) = self.tail(after);
        let mut start = match entry {
            0 => 0,
            n => self.entries[n - 1].end,
        };
        for entry in &self.entries[entry..] {
            let key = &self.keys[start..entry.end];
            if reads.covers(entry.fingerprint, key) {
                return true;
            }
            start = entry.end;
        }
        self.ranges[range..].iter().any(|(_, range)| reads.intersects(range))
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
        batch.rest.entries.reserve(writes.size_hint().0.min(BLOCK_WRITES));
        for write in writes {
            batch.any = true;
            batch.rest.push(write.into());
            if batch.rest.keys.len() >= PIECE_BYTES {
                batch.cut();
            }
        }
        if batch.rest.len() > OWN_BLOCK_WRITES || batch.rest.keys.len() > OWN_BLOCK_BYTES {
            batch.cut();
        }
        batch
    }

    fn cut(&mut self) {
        let mut piece = std::mem::take(&mut self.rest);
        piece.keys.shrink_to_fit();
        piece.entries.shrink_to_fit();
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
            if self.open.len() >= BLOCK_WRITES || self.open.keys.len() >= BLOCK_BYTES {
                self.seal();
                sealed = true;
            }
        }
        sealed
    }

    fn seal(&mut self) {
        if self.open.len() > 0 {
            let next = Block {
                keys: Vec::with_capacity(self.open.keys.len()),
                entries: Vec::with_capacity(self.open.entries.len()),
                ..Block::default()
            };
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
        let (entry, range) = self.open.tail(after);
        let open = self.open.len() - entry - range;
        let mut count = open;
        for block in self.sealed.range(first..) {
            count = count.saturating_add(block.len());
            if count > at_once {
                break;
            }
        }
        if count <= at_once {
            let sealed = self.sealed.range(first..).any(|block| block.conflicts(after, reads));
            return Plan::Checked(sealed || (open > 0 && self.open.conflicts(after, reads)));
        }
        if open > at_once / 2 {
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
        if self.sealed.is_empty() && self.open.len() > 0 && self.open.last <= version {
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
            self.forgotten = self.forgotten.max(self.open.last);
            self.open.clear();
        }
    }

    /// Bytes of memory that remembered writes take; 0 if there are none.
    pub(crate) fn bytes(&self) -> usize {
        self.sealed_bytes + if self.open.len() > 0 { self.open.bytes() } else { 0 }
    }
}
