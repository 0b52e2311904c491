//! The arena as it is: bytes.

use std::slice;

use super::memory::Memory;
use super::taken::{Full, Taken};
use super::{END, NodeId};
use crate::error::OptionsError;
use crate::height::MAX_HEIGHT;
use crate::options::Options;
use crate::sync::{AtomicU32, AtomicU64, Ordering};

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

pub(crate) struct Arena {
    memory: Memory,
    taken: Taken,
}

impl Arena {
    pub(crate) fn new(options: &Options) -> Result<Arena, OptionsError> {
        let capacity = options.capacity / 8 * 8;
        let memory = Memory::new(capacity, options.huge_pages)
            .map_err(|source| OptionsError::NoMemory { capacity, source })?;
        let mut arena = Arena { memory, taken: Taken::new(capacity) };
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
        self.taken = Taken::new(self.memory.len());
    }

    pub(crate) fn populate(&self) {
        self.memory.populate();
    }

    pub(crate) const fn head() -> NodeId {
        NodeId(HEAD as u32)
    }

    pub(crate) fn taken(&self) -> &Taken {
        &self.taken
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
        let start = self.taken.take(node_len(height, key.len(), value_len), 1)?;
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
            let value = slice::from_raw_parts_mut(at.add(KEY + key.len()), value_len);
            self.taken.fill(|| fill(value));
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
        let start = self.taken.take(value_len(len), 0)?;
        // SAFETY: `take` handed out at least `len` bytes from `start`, within the memory, to us
        // alone, and they are initialised: the memory was zeroed when it was mapped.
        fill(unsafe { slice::from_raw_parts_mut(self.memory.start().as_ptr().add(start), len) });
        Ok((len as u64) << 32 | start as u64)
    }

    #[inline]
    fn at(&self, node: NodeId) -> *mut u8 {
        debug_assert!(node.0 as usize >= HEAD && (node.0 as usize) < self.memory.len());
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
