//! One memtable: a skiplist, and which part of the log it stands for.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};

use crossbeam_utils::CachePadded;
use kvdb_skiplist::{EntryRef, InsertError, SkipList};
use kvdb_sstable::key_hash;

use crate::admission::Admission;
use crate::entry::Entry;
use crate::error::{Error, Result};
use crate::memtable_filter::MemtableFilter;

const NONE: u64 = u64::MAX;

/// A sorted buffer of the newest writes, and the bookkeeping that says when it may be flushed.
///
/// It is flushed only when it is sealed (no frame will be routed to it any more) and every frame
/// routed to it has been applied.
#[derive(Debug)]
pub(crate) struct Memtable {
    /// Whoever routes frames here. A reservation gets at it this way, and so needs to count one
    /// reference, not two.
    admission: Weak<Admission>,
    list: Arc<SkipList>,
    filter: MemtableFilter,
    /// Arena bytes that frames may use.
    room: usize,
    /// Its place among the memtables, given when it becomes the active one.
    sequence: AtomicU64,
    /// On cache lines of its own: every frame changes it, and every insert and lookup reads the rest.
    frames: CachePadded<Frames>,
}

/// What a memtable stands for.
#[derive(Debug)]
struct Frames {
    sealed: AtomicBool,
    /// Frames routed here that are not applied yet.
    unapplied: AtomicUsize,
    /// Packed log position of the first frame's start, or `NONE`.
    start: AtomicU64,
    /// Packed log position of the last frame's end.
    end: AtomicU64,
}

/// The most arena bytes that an entry can take whose encoding has `encoded_len` bytes.
pub(crate) fn entry_bound(key_len: usize, encoded_len: usize) -> usize {
    SkipList::node_bound(key_len, encoded_len)
}

impl Memtable {
    /// A memtable with an arena of `capacity` bytes.
    pub(crate) fn new(
        capacity: usize,
        seed: u64,
        admission: Weak<Admission>,
    ) -> Result<Arc<Memtable>> {
        Ok(Memtable::over(Memtable::list_for(capacity, seed)?, admission))
    }

    /// The most memory that one with an arena of `capacity` bytes takes: the arena, the list's index
    /// beside it, and the filter.
    pub(crate) const fn bytes_for(capacity: usize) -> usize {
        capacity + SkipList::index_bound(capacity) + MemtableFilter::bytes_for(capacity)
    }

    /// Bytes of the arena and of the index that are taken.
    pub(crate) fn bytes(&self) -> usize {
        self.list.allocated() + self.list.index_bytes()
    }

    /// An empty list for a memtable.
    pub(crate) fn list_for(capacity: usize, seed: u64) -> Result<SkipList> {
        let options = kvdb_skiplist::Options { capacity, seed, ..Default::default() };
        SkipList::new(options).map_err(|e| Error::Memtable(Arc::new(e)))
    }

    /// A memtable of an empty list.
    pub(crate) fn over(list: SkipList, admission: Weak<Admission>) -> Arc<Memtable> {
        let (room, capacity) = (list.remaining(), list.capacity());
        Arc::new(Memtable {
            admission,
            list: Arc::new(list),
            filter: MemtableFilter::new(capacity),
            room,
            sequence: AtomicU64::new(0),
            frames: CachePadded::new(Frames {
                sealed: AtomicBool::new(false),
                unapplied: AtomicUsize::new(0),
                start: AtomicU64::new(NONE),
                end: AtomicU64::new(0),
            }),
        })
    }

    /// Has the system back all of it with pages now.
    pub(crate) fn prefault(&self) {
        self.list.prefault();
        self.filter.prefault();
    }

    #[inline]
    pub(crate) fn list(&self) -> &Arc<SkipList> {
        &self.list
    }

    pub(crate) fn admission(&self) -> Option<Arc<Admission>> {
        self.admission.upgrade()
    }

    pub(crate) fn room(&self) -> usize {
        self.room
    }

    pub(crate) fn sequence(&self) -> u64 {
        self.sequence.load(Ordering::Relaxed)
    }

    pub(crate) fn activate(&self, sequence: u64) {
        self.sequence.store(sequence, Ordering::Relaxed);
    }

    /// Whether no frame was ever routed here.
    pub(crate) fn is_untouched(&self) -> bool {
        self.frames.start.load(Ordering::Relaxed) == NONE
    }

    /// Sequence number of the newest memtable that frames were routed to, this being the active one. An
    /// untouched one may stay for ever, and what is routed there later is newer than whatever is now.
    pub(crate) fn newest_written(&self) -> u64 {
        self.sequence() - u64::from(self.is_untouched())
    }

    /// Packed log position of the first frame; `None` if there is none.
    pub(crate) fn start(&self) -> Option<u64> {
        let start = self.frames.start.load(Ordering::Relaxed);
        (start != NONE).then_some(start)
    }

    /// Packed log position of the end of the last frame.
    pub(crate) fn end(&self) -> u64 {
        self.frames.end.load(Ordering::Relaxed)
    }

    /// Takes a frame in. Called under the admission lock, in log order.
    pub(crate) fn begin_frame(&self, start: u64, end: u64) {
        // Only written here: no need to exchange anything.
        self.frames
            .start
            .store(start.min(self.frames.start.load(Ordering::Relaxed)), Ordering::Relaxed);
        self.frames.end.store(end.max(self.frames.end.load(Ordering::Relaxed)), Ordering::Relaxed);
        self.frames.unapplied.fetch_add(1, Ordering::Relaxed);
    }

    /// A frame is applied. True if it was the last one of a sealed memtable: the flusher wants to
    /// know.
    pub(crate) fn end_frame(&self) -> bool {
        // Either this sees `sealed`, or whoever sealed sees no frame left: both sides write
        // first and read the other's word afterwards, in one total order.
        self.frames.unapplied.fetch_sub(1, Ordering::SeqCst) == 1
            && self.frames.sealed.load(Ordering::SeqCst)
    }

    pub(crate) fn seal(&self) {
        self.frames.sealed.store(true, Ordering::SeqCst);
    }

    /// Whether every frame routed here is applied. What they inserted is visible to the caller.
    pub(crate) fn is_quiet(&self) -> bool {
        self.frames.unapplied.load(Ordering::SeqCst) == 0
    }

    /// The newest entry of `key` at or below `at_most`; `hash` is [`key_hash`] of the key.
    #[inline]
    pub(crate) fn get(&self, key: &[u8], at_most: u64, hash: u64) -> Option<EntryRef<'_>> {
        if self.filter.may_contain(hash) { self.list.get(key, at_most) } else { None }
    }

    /// Inserts an entry. An entry that is there already is replaced.
    pub(crate) fn insert(&self, key: &[u8], version: u64, entry: Entry<'_>) -> Result<()> {
        let addition = self.filter.begin(key_hash(key));
        let inserted = self.list.insert_with(key, version, entry.encoded_len(), |bytes| {
            // Before the entry is linked in: a reader that can find it finds the filter's bits.
            addition.finish();
            entry.encode_into(bytes);
        });
        match inserted {
            Ok(()) => Ok(()),
            Err(InsertError::Exists) => {
                // Replay may meet a record twice.
                let mut bytes = Vec::with_capacity(entry.encoded_len());
                entry.encode(&mut bytes);
                match self.list.upsert(key, version, &bytes) {
                    Ok(_) => Ok(()),
                    Err(e) => Err(Error::Memtable(Arc::new(e))),
                }
            }
            Err(e) => Err(Error::Memtable(Arc::new(e))),
        }
    }
}
