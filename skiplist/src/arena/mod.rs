//! The arena: where nodes and values lie, and the one place that turns offsets into references.
//!
//! # Layout of a node
//!
//! ```text
//!            -8·(height-1)      -8      0       8       16       24    28     30   31
//!               +-----------+-------+-------+-------+---------+------+------+----+-----+-------+
//!               | link h-1  |  ...  | link 0| value | version | prev | klen | h  | key | value |
//!               +-----------+-------+-------+-------+---------+------+------+----+-----+-------+
//!                                   ^ node id: a multiple of 8
//! ```
//!
//! The tower grows towards lower addresses, so that what a walk along level 0 wants (link 0,
//! lengths, key) is adjacent, and a node that lives on few levels has no room for more of them.
//! A *link* is `code << 32 | node id`, the code being that of the successor relative to this
//! node; a *value word* is `length << 32 | offset`. Both are 64-bit atomics, so each is read and
//! replaced as a whole.
//!
//! # Invariants
//!
//! Everything here is safe to call inside this crate on the strength of these, which the modules
//! that call it keep:
//!
//! - **A1** A [`NodeId`] used with an arena came from [`Arena::allocate`] of that arena, from one
//!   of its links or prev words, or is the head. Links and prev words only ever hold such ids, or
//!   none.
//! - **A2** Level `l` of a node is touched only if `l` is below the node's height. A link of level
//!   `l` leads only to nodes taller than `l`.
//! - **A3** Lengths, version, height and key of a node, and the bytes of a value, are written
//!   before the node or value is published with release ordering, never after; ids and value words
//!   are read with acquire ordering. Hence whoever holds one sees all of them, for good.
//! - **A4** Nothing is given back before the arena as a whole, which needs exclusive access.

mod memory;

use std::slice;

use self::memory::Memory;
use crate::error::OptionsError;
use crate::height::MAX_HEIGHT;
use crate::options::Options;
use crate::sync::{AtomicU32, AtomicU64, Ordering};

/// The name of a node: the offset of its level-0 link within the arena.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct NodeId(u32);

impl NodeId {
    /// The id in the lower half of a link, if there is one.
    #[inline]
    pub(crate) fn of_link(link: u64) -> Option<NodeId> {
        NodeId::of_word(link as u32)
    }

    /// The id in a prev word, if there is one.
    #[inline]
    pub(crate) fn of_word(word: u32) -> Option<NodeId> {
        (word != 0).then_some(NodeId(word))
    }

    /// This id as a prev word, or as the lower half of a link.
    #[inline]
    pub(crate) fn word(self) -> u32 {
        self.0
    }
}

/// A link that leads nowhere. Its code is the largest there is, so a search stops here; in the
/// one case where a key has the same code, the missing id tells.
pub(crate) const END: u64 = 0xffff_ffff << 32;

const LINK: usize = 8;
const VALUE: usize = 8;
const VERSION: usize = 16;
const PREV: usize = 24;
const KEY_LEN: usize = 28;
const HEIGHT: usize = 30;
const KEY: usize = 31;

/// The head has a full tower, and neither key nor value.
const HEAD: usize = LINK * (MAX_HEIGHT - 1);

/// Arena bytes taken before the first entry.
pub(crate) const OVERHEAD: usize = round(HEAD + KEY);

/// Offsets have 32 bits.
#[cfg(target_pointer_width = "64")]
pub(crate) const MAX_CAPACITY: usize = 1 << 32;
#[cfg(not(target_pointer_width = "64"))]
pub(crate) const MAX_CAPACITY: usize = 1 << 30;

const fn round(len: usize) -> usize {
    len.next_multiple_of(8)
}

/// Arena bytes of a node. Saturates, so that no pair of lengths wraps around.
pub(crate) const fn node_len(height: usize, key_len: usize, value_len: usize) -> usize {
    let fixed = LINK * (height - 1) + KEY;
    let len = fixed.saturating_add(key_len).saturating_add(value_len);
    if len > usize::MAX - 8 { len } else { round(len) }
}

/// Arena bytes of a value that replaces another.
pub(crate) const fn value_len(len: usize) -> usize {
    if len > usize::MAX - 8 { len } else { round(len) }
}

/// Too few bytes left; nothing was taken.
#[derive(Debug)]
pub(crate) struct Full {
    pub(crate) needed: usize,
    pub(crate) remaining: usize,
}

/// Bytes taken (lower 34 bits) and nodes made (upper 30). One word, so that an insert
/// changes one contended cache line once.
#[derive(Clone, Copy)]
struct Taken(u64);

impl Taken {
    const NODE: u64 = 1 << 34;

    fn bytes(self) -> usize {
        (self.0 & (Taken::NODE - 1)) as usize
    }

    fn nodes(self) -> usize {
        (self.0 >> 34) as usize
    }
}

/// The word every writer changes, on cache lines of its own: readers' fields do not suffer.
#[repr(align(128))]
struct Counter(AtomicU64);

pub(crate) struct Arena {
    memory: Memory,
    taken: Counter,
}

impl Arena {
    pub(crate) fn new(options: &Options) -> Result<Arena, OptionsError> {
        let capacity = options.capacity / 8 * 8;
        let memory = Memory::new(capacity, options.huge_pages)
            .map_err(|source| OptionsError::NoMemory { capacity, source })?;
        let mut arena = Arena { memory, taken: Counter(AtomicU64::new(0)) };
        if options.prefault {
            arena.populate();
        }
        arena.clear();
        Ok(arena)
    }

    /// Forgets all nodes.
    pub(crate) fn clear(&mut self) {
        for level in 0..MAX_HEIGHT {
            self.link(Arena::head(), level).store(END, Ordering::Relaxed);
        }
        *self.taken.0.get_mut() = OVERHEAD as u64;
    }

    pub(crate) fn populate(&self) {
        self.memory.populate();
    }

    pub(crate) const fn head() -> NodeId {
        NodeId(HEAD as u32)
    }

    pub(crate) fn capacity(&self) -> usize {
        self.memory.len()
    }

    pub(crate) fn allocated(&self) -> usize {
        Taken(self.taken.0.load(Ordering::Relaxed)).bytes()
    }

    /// Nodes made and not disowned.
    pub(crate) fn nodes(&self) -> usize {
        Taken(self.taken.0.load(Ordering::Relaxed)).nodes()
    }

    /// A node that was made lost the race for its place.
    pub(crate) fn disown(&self) {
        self.taken.0.fetch_sub(Taken::NODE, Ordering::Relaxed);
    }

    fn take(&self, needed: usize, node: bool) -> Result<usize, Full> {
        let more = needed as u64 + if node { Taken::NODE } else { 0 };
        let mut taken = self.taken.0.load(Ordering::Relaxed);
        loop {
            let start = Taken(taken).bytes();
            let remaining = self.capacity() - start;
            if needed > remaining {
                return Err(Full { needed, remaining });
            }
            // Relaxed: the counter hands out disjoint ranges, it publishes nothing.
            match self.taken.0.compare_exchange_weak(
                taken,
                taken + more,
                Ordering::Relaxed,
                Ordering::Relaxed,
            ) {
                Ok(_) => return Ok(start),
                Err(now) => taken = now,
            }
        }
    }

    /// Makes a node nobody knows of yet, with no successors and no predecessor. `fill` is called
    /// once, with the bytes of the value to be.
    pub(crate) fn allocate(
        &self,
        key: &[u8],
        version: u64,
        height: usize,
        value_len: usize,
        fill: impl FnOnce(&mut [u8]),
    ) -> Result<NodeId, Full> {
        debug_assert!(key.len() <= crate::MAX_KEY_LEN && (1..=MAX_HEIGHT).contains(&height));
        let start = self.take(node_len(height, key.len(), value_len), true)?;
        let node = start + LINK * (height - 1);
        let value = node + KEY + key.len();
        // SAFETY: `take` handed out `node_len` bytes from `start`, a multiple of 8, to us alone and
        // within the memory; every access below is inside them by the definition of `node_len`.
        // Nobody else has the id, so nobody reads or writes these bytes until we publish it (A3).
        // The memory was zeroed when it was mapped, so the value's bytes are initialised.
        unsafe {
            let at = self.memory.start().as_ptr().add(node);
            at.add(VERSION).cast::<u64>().write(version);
            at.add(KEY_LEN).cast::<u16>().write(key.len() as u16);
            at.add(HEIGHT).write(height as u8);
            at.add(KEY).copy_from_nonoverlapping(key.as_ptr(), key.len());
            fill(slice::from_raw_parts_mut(at.add(KEY + key.len()), value_len));
        }
        let node = NodeId(node as u32);
        self.value_word(node).store((value_len as u64) << 32 | value as u64, Ordering::Relaxed);
        self.prev(node).store(0, Ordering::Relaxed);
        for level in 0..height {
            self.link(node, level).store(END, Ordering::Relaxed);
        }
        Ok(node)
    }

    /// Writes a value by itself; returns its value word.
    pub(crate) fn allocate_value(
        &self,
        len: usize,
        fill: impl FnOnce(&mut [u8]),
    ) -> Result<u64, Full> {
        let start = self.take(value_len(len), false)?;
        // SAFETY: `take` handed out at least `len` bytes from `start`, within the memory, to us
        // alone, and they are initialised: the memory was zeroed when it was mapped.
        fill(unsafe { slice::from_raw_parts_mut(self.memory.start().as_ptr().add(start), len) });
        Ok((len as u64) << 32 | start as u64)
    }

    #[inline]
    fn at(&self, node: NodeId) -> *mut u8 {
        debug_assert!(node.0 as usize >= HEAD && (node.0 as usize) < self.capacity());
        // SAFETY: ids are offsets within the memory (A1).
        unsafe { self.memory.start().as_ptr().add(node.0 as usize) }
    }

    /// The link of a node at a level below its height.
    #[inline]
    pub(crate) fn link(&self, node: NodeId, level: usize) -> &AtomicU64 {
        // SAFETY: the node has more than `level` levels (A2), so the word lies within it; it is a
        // multiple of 8 from an 8-aligned start, and only ever accessed as an atomic.
        unsafe { AtomicU64::from_ptr(self.at(node).sub(LINK * level).cast()) }
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
    pub(crate) fn height(&self, node: NodeId) -> usize {
        // SAFETY: within the node (A1), written before the id was known (A3).
        unsafe { self.at(node).add(HEIGHT).read() as usize }
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

    /// Asks for the first cache line of a node; any word will do, a wrong one is harmless.
    #[inline]
    pub(crate) fn prefetch(&self, word: u32) {
        #[cfg(all(target_arch = "x86_64", not(miri)))]
        {
            let at = self.memory.start().as_ptr().wrapping_add(word as usize);
            // SAFETY: a prefetch never faults, whatever the address.
            unsafe {
                use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
                _mm_prefetch::<_MM_HINT_T0>(at.cast_const().cast());
            }
        }
        #[cfg(not(all(target_arch = "x86_64", not(miri))))]
        let _ = word;
    }
}
