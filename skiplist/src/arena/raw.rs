//! The arena as it is: bytes.

use std::slice;

use super::memory::Memory;
use super::taken::{Apart, Full, Taken};
use super::{END, NodeId, RecordId};
use crate::error::OptionsError;
use crate::height::MAX_HEIGHT;
use crate::options::Options;
use crate::sync::{AtomicU32, AtomicU64, Ordering};

const VALUE: usize = 8;
const VERSION: usize = 16;
const PREV: usize = 24;
const KEY_LEN: usize = 28;
const KEY: usize = 30;

/// Bytes of a node besides key and value.
pub(crate) const NODE_HEADER: usize = KEY;

/// The head has neither key nor value, and id 0 is none.
const HEAD: usize = 8;

/// Arena bytes taken before the first entry.
pub(crate) const OVERHEAD: usize = round(HEAD + KEY);

/// Layers of the index.
pub(crate) const LAYERS: usize = 4;

/// Slots of an index record: as many as make it four cache lines.
pub(crate) const SLOTS: usize = 29;

const LINE: usize = 64;

/// How far ahead an inserter asks for memory, in bytes.
const AHEAD: usize = 4 * LINE;

const RECORD_NODE: usize = 8;
const RECORD_DOWN: usize = 12;
const RECORD_PREV: usize = 16;
const RECORD_LOCK: usize = 20;
const RECORD_SLOTS: usize = 24;
const RECORD_TOWER: usize = RECORD_SLOTS + SLOTS * 8;

const fn record_len(height: usize) -> usize {
    (RECORD_TOWER + 8 * (height - 1)).next_multiple_of(LINE)
}

/// The head's records, that of the lowest layer first. Id 0 is none.
const FIRST_RECORD: usize = LINE;

/// Where the records that are made later begin.
const LATER_RECORDS: usize = FIRST_RECORD + (LAYERS - 1) * record_len(1) + record_len(MAX_HEIGHT);

const fn round(len: usize) -> usize {
    len.next_multiple_of(8)
}

/// Arena bytes of a node. Saturates, so that no pair of lengths wraps around.
pub(crate) const fn node_len(key_len: usize, value_len: usize) -> usize {
    let len = KEY.saturating_add(key_len).saturating_add(value_len);
    if len > usize::MAX - 8 { len } else { round(len) }
}

/// Arena bytes of a value that replaces another.
pub(crate) const fn value_len(len: usize) -> usize {
    if len > usize::MAX - 8 { len } else { round(len) }
}

/// Bytes for the index beside nodes of `capacity` bytes: enough for any entries in any order. A node has
/// 32 bytes or more, and each record of the lowest layer takes half its slots or more of links to nodes
/// of its own: that is 18 bytes of index for a node, and less than 20 with the layers above. The rest is
/// for records that writers waste who are put to sleep at the end of a split. What is not needed is
/// never touched.
pub(crate) const fn index_len(capacity: usize) -> usize {
    (LATER_RECORDS + capacity / 8 * 5).next_multiple_of(LINE)
}

/// Of that, what entries of some 50 bytes in random order need.
const fn likely_index_len(capacity: usize) -> usize {
    (LATER_RECORDS + capacity / 4).next_multiple_of(LINE)
}

/// The value word of `len` bytes from `start` on. An empty value may lie behind the last byte of the
/// largest arena, at an offset of more than 32 bits: any other does as well for it.
const fn value_word(start: usize, len: usize) -> u64 {
    if len == 0 { 0 } else { (len as u64) << 32 | start as u64 }
}

pub(crate) struct Arena {
    /// Nodes and values, then, from the next cache line on, the index.
    memory: Memory,
    index: usize,
    taken: Taken,
    /// Bytes of the index that are taken.
    index_taken: Apart<AtomicU64>,
}

impl Arena {
    pub(crate) fn new(options: &Options) -> Result<Arena, OptionsError> {
        let capacity = options.capacity / 8 * 8;
        let index = capacity.next_multiple_of(LINE);
        let memory = Memory::new(index + index_len(capacity), options.huge_pages)
            .map_err(|source| OptionsError::NoMemory { capacity, source })?;
        let mut arena = Arena {
            memory,
            index,
            taken: Taken::new(capacity),
            index_taken: Apart(AtomicU64::new(0)),
        };
        if options.prefault {
            arena.populate();
        }
        arena.clear();
        Ok(arena)
    }

    /// Forgets all nodes.
    pub(crate) fn clear(&mut self) {
        self.taken = Taken::new(self.taken.capacity());
        self.link(Arena::head()).store(END, Ordering::Relaxed);
        self.index_taken.0 = AtomicU64::new(LATER_RECORDS as u64);
        for layer in 0..LAYERS {
            let height = if layer + 1 < LAYERS { 1 } else { MAX_HEIGHT };
            let down = layer.checked_sub(1).map(Arena::first_record);
            self.init_record(Arena::first_record(layer), Arena::head(), down, height);
        }
    }

    pub(crate) fn populate(&self) {
        self.memory.populate(self.index + likely_index_len(self.taken.capacity()));
    }

    pub(crate) const fn head() -> NodeId {
        NodeId(HEAD as u32)
    }

    pub(crate) fn taken(&self) -> &Taken {
        &self.taken
    }

    /// Makes a node nobody knows of yet; whoever publishes it stores its link and prev word before.
    /// `fill` is called once, with the bytes of the value to be.
    pub(crate) fn allocate(
        &self,
        key: &[u8],
        version: u64,
        value_len: usize,
        fill: impl FnOnce(&mut [u8]),
    ) -> Result<NodeId, Full> {
        debug_assert!(key.len() <= crate::MAX_KEY_LEN);
        let node = self.taken.take(node_len(key.len(), value_len), 1)?;
        let value = node + KEY + key.len();
        // SAFETY: `take` handed out `node_len` bytes from `node`, a multiple of 8, to us alone and
        // within the memory; every access below is inside them by the definition of `node_len`.
        // Nobody else has the id, so nobody reads or writes these bytes until we publish it (A3).
        // The memory was zeroed when it was mapped, so the value's bytes are initialised.
        unsafe {
            let at = self.memory.start().as_ptr().add(node);
            at.add(VERSION).cast::<u64>().write(version);
            at.add(KEY_LEN).cast::<u16>().write(key.len() as u16);
            at.add(KEY).copy_from_nonoverlapping(key.as_ptr(), key.len());
            let value = slice::from_raw_parts_mut(at.add(KEY + key.len()), value_len);
            self.taken.fill(|| fill(value));
        }
        let node = NodeId(node as u32);
        self.value_word(node).store(value_word(value, value_len), Ordering::Relaxed);
        Ok(node)
    }

    /// Makes an index record for `node`, with empty slots and no successors, which nobody knows
    /// of yet; `None` if the index is full. `down` is the node's record one layer below.
    pub(crate) fn allocate_record(
        &self,
        node: NodeId,
        down: Option<RecordId>,
        height: usize,
    ) -> Option<RecordId> {
        let len = record_len(height) as u64;
        let limit = (self.memory.len() - self.index) as u64;
        let start = self
            .index_taken
            .0
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |taken| {
                (taken + len <= limit).then_some(taken + len)
            })
            .ok()?;
        let record = RecordId((start / 8) as u32);
        self.init_record(record, node, down, height);
        Some(record)
    }

    fn init_record(&self, record: RecordId, node: NodeId, down: Option<RecordId>, height: usize) {
        for slot in 0..SLOTS {
            self.slot(record, slot).store(END, Ordering::Relaxed);
        }
        for level in 0..height {
            self.record_link(record, level).store(END, Ordering::Relaxed);
        }
        // SAFETY: the record's header is within the index (A1), and nobody else knows the record.
        unsafe {
            self.at_record(record).add(RECORD_NODE).cast::<u32>().write(node.0);
            let down = down.map_or(0, RecordId::word);
            self.at_record(record).add(RECORD_DOWN).cast::<u32>().write(down);
        }
        self.record_prev(record).store(0, Ordering::Relaxed);
        self.record_lock(record).store(0, Ordering::Relaxed);
    }

    /// Bytes the index takes.
    pub(crate) fn index_bytes(&self) -> usize {
        self.index_taken.0.load(Ordering::Relaxed) as usize
    }

    /// The head's record in a layer.
    pub(crate) const fn first_record(layer: usize) -> RecordId {
        RecordId(((FIRST_RECORD + layer * record_len(1)) / 8) as u32)
    }

    #[inline]
    fn at_record(&self, record: RecordId) -> *mut u8 {
        // SAFETY: ids are eighths of offsets within the index (A1).
        unsafe { self.memory.start().as_ptr().add(self.index + record.0 as usize * 8) }
    }

    /// The slots of a record: links to nodes, or to records one layer below, after the record's
    /// node.
    #[inline]
    pub(crate) fn slots(&self, record: RecordId) -> &[AtomicU64; SLOTS] {
        // SAFETY: within the record (A1), 8-aligned, and only ever accessed as atomics.
        unsafe { &*self.at_record(record).add(RECORD_SLOTS).cast() }
    }

    /// One of them.
    #[inline]
    pub(crate) fn slot(&self, record: RecordId, slot: usize) -> &AtomicU64 {
        &self.slots(record)[slot]
    }

    /// A link of a record to the next record of its layer, on a level below its height.
    #[inline]
    pub(crate) fn record_link(&self, record: RecordId, level: usize) -> &AtomicU64 {
        let at = if level == 0 { 0 } else { RECORD_TOWER + (level - 1) * 8 };
        // SAFETY: within the record (A1, A2), 8-aligned, and only ever accessed as an atomic.
        unsafe { AtomicU64::from_ptr(self.at_record(record).add(at).cast()) }
    }

    /// The word for the id of some record before this one in its layer.
    #[inline]
    pub(crate) fn record_prev(&self, record: RecordId) -> &AtomicU32 {
        // SAFETY: within the record (A1), 4-aligned, and only ever accessed as an atomic.
        unsafe { AtomicU32::from_ptr(self.at_record(record).add(RECORD_PREV).cast()) }
    }

    /// The word that is odd while somebody splits the record.
    #[inline]
    pub(crate) fn record_lock(&self, record: RecordId) -> &AtomicU32 {
        // SAFETY: within the record (A1), 4-aligned, and only ever accessed as an atomic.
        unsafe { AtomicU32::from_ptr(self.at_record(record).add(RECORD_LOCK).cast()) }
    }

    /// The node a record is for.
    #[inline]
    pub(crate) fn record_node(&self, record: RecordId) -> NodeId {
        // SAFETY: within the record (A1), written before the id was known (A3).
        NodeId(unsafe { self.at_record(record).add(RECORD_NODE).cast::<u32>().read() })
    }

    /// The record of the same node one layer below a record of a layer above the lowest.
    #[inline]
    pub(crate) fn record_down(&self, record: RecordId) -> RecordId {
        // SAFETY: within the record (A1), written before the id was known (A3).
        RecordId(unsafe { self.at_record(record).add(RECORD_DOWN).cast::<u32>().read() })
    }

    /// Writes a value by itself; returns its value word.
    pub(crate) fn allocate_value(
        &self,
        len: usize,
        fill: impl FnOnce(&mut [u8]),
    ) -> Result<u64, Full> {
        let start = self.taken.take(value_len(len), 0)?;
        // SAFETY: `take` handed out at least `len` bytes from `start`, within the memory, to us
        // alone, and they are initialised: the memory was zeroed when it was mapped.
        fill(unsafe { slice::from_raw_parts_mut(self.memory.start().as_ptr().add(start), len) });
        Ok(value_word(start, len))
    }

    #[inline]
    fn at(&self, node: NodeId) -> *mut u8 {
        debug_assert!(node.0 as usize >= HEAD && (node.0 as usize) < self.memory.len());
        // SAFETY: ids are offsets within the memory (A1).
        unsafe { self.memory.start().as_ptr().add(node.0 as usize) }
    }

    /// The link of a node to the next one.
    #[inline]
    pub(crate) fn link(&self, node: NodeId) -> &AtomicU64 {
        // SAFETY: within the node (A1), 8-aligned, and only ever accessed as an atomic.
        unsafe { AtomicU64::from_ptr(self.at(node).cast()) }
    }

    #[inline]
    pub(crate) fn value_word(&self, node: NodeId) -> &AtomicU64 {
        // SAFETY: within the node (A1), 8-aligned, and only ever accessed as an atomic.
        unsafe { AtomicU64::from_ptr(self.at(node).add(VALUE).cast()) }
    }

    /// The word for the id of some node before this one.
    #[inline]
    pub(crate) fn prev(&self, node: NodeId) -> &AtomicU32 {
        // SAFETY: within the node (A1), 8-aligned, and only ever accessed as an atomic.
        unsafe { AtomicU32::from_ptr(self.at(node).add(PREV).cast()) }
    }

    #[inline]
    pub(crate) fn version(&self, node: NodeId) -> u64 {
        // SAFETY: within the node (A1), 8-aligned, written before the id was known (A3).
        unsafe { self.at(node).add(VERSION).cast::<u64>().read() }
    }

    #[inline]
    pub(crate) fn key(&self, node: NodeId) -> &[u8] {
        // SAFETY: length and bytes are within the node (A1) and were written before the id was
        // known, never to change while the arena is borrowed (A3, A4).
        unsafe {
            let at = self.at(node);
            let len = at.add(KEY_LEN).cast::<u16>().read();
            slice::from_raw_parts(at.add(KEY), usize::from(len))
        }
    }

    /// The current value of a node.
    #[inline]
    pub(crate) fn value(&self, node: NodeId) -> &[u8] {
        // Acquire: makes a value that replaced another readable (A3).
        self.value_of(self.value_word(node).load(Ordering::Acquire))
    }

    /// The value that a value word of this arena names.
    #[inline]
    pub(crate) fn value_of(&self, word: u64) -> &[u8] {
        // SAFETY: a value word names bytes of the memory that were written before the word was
        // published and do not change while the arena is borrowed (A3, A4).
        unsafe {
            let at = self.memory.start().as_ptr().add(word as u32 as usize);
            slice::from_raw_parts(at, (word >> 32) as usize)
        }
    }

    /// Asks for the cache lines of a node with a short key; any word will do, a wrong one is
    /// harmless.
    #[inline]
    pub(crate) fn prefetch(&self, word: u32) {
        let at = self.memory.start().as_ptr().wrapping_add(word as usize);
        prefetch(at);
        prefetch(at.wrapping_add(LINE - 1));
    }

    /// Asks for the cache lines that the nodes after the next few will be written to.
    #[inline]
    pub(crate) fn prefetch_room(&self) {
        let at = self.memory.start().as_ptr().wrapping_add(self.taken.bytes() + AHEAD);
        prefetch(at);
        prefetch(at.wrapping_add(LINE));
    }

    /// Asks for the cache lines of a record.
    #[inline]
    pub(crate) fn prefetch_record(&self, record: RecordId) {
        for line in 0..RECORD_TOWER / LINE {
            prefetch(self.at_record(record).wrapping_add(line * LINE));
        }
    }
}

#[inline]
fn prefetch(at: *mut u8) {
    // SAFETY: a prefetch never faults, whatever the address.
    #[cfg(all(target_arch = "x86_64", not(miri)))]
    unsafe {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        _mm_prefetch::<_MM_HINT_T0>(at.cast_const().cast());
    }
    #[cfg(not(all(target_arch = "x86_64", not(miri))))]
    let _ = at;
}
