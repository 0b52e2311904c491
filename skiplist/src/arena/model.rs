//! The arena under the model checker: the same interface over typed slots, so that the algorithm
//! itself runs under loom. The bytes of a node are in a cell whose accesses loom watches, which
//! checks invariant A3: a read that publication does not order after the write is reported.

use loom::cell::UnsafeCell;

use super::taken::{Full, Taken};
use super::{END, NodeId};
use crate::error::OptionsError;
use crate::height::MAX_HEIGHT;
use crate::options::Options;
use crate::sync::{AtomicU32, AtomicU64, Ordering};

/// Everything takes one slot of this many bytes.
const SLOT: usize = 64;

/// Slot 0 is none, slot 1 the head.
pub(crate) const OVERHEAD: usize = 2 * SLOT;

pub(crate) const fn node_len(_: usize, _: usize, _: usize) -> usize {
    SLOT
}

pub(crate) const fn value_len(_: usize) -> usize {
    SLOT
}

#[derive(Default)]
struct Body {
    key: Vec<u8>,
    version: u64,
    height: usize,
    value: Vec<u8>,
}

struct Slot {
    links: [AtomicU64; MAX_HEIGHT],
    value_word: AtomicU64,
    prev: AtomicU32,
    body: UnsafeCell<Body>,
}

pub(crate) struct Arena {
    slots: Vec<Slot>,
    taken: Taken,
}

// SAFETY: as for the arena of bytes; loom checks the argument.
unsafe impl Sync for Arena {}

impl Arena {
    pub(crate) fn new(options: &Options) -> Result<Arena, OptionsError> {
        let slot = || Slot {
            links: std::array::from_fn(|_| AtomicU64::new(END)),
            value_word: AtomicU64::new(0),
            prev: AtomicU32::new(0),
            body: UnsafeCell::new(Body::default()),
        };
        let slots = (0..options.capacity / SLOT).map(|_| slot()).collect::<Vec<_>>();
        let taken = Taken::new(slots.len() * SLOT);
        Ok(Arena { slots, taken })
    }

    pub(crate) fn clear(&mut self) {
        for link in &self.slot(Arena::head().word()).links {
            link.store(END, Ordering::Relaxed);
        }
        self.taken = Taken::new(self.slots.len() * SLOT);
    }

    pub(crate) fn populate(&self) {}

    pub(crate) const fn head() -> NodeId {
        NodeId(SLOT as u32)
    }

    pub(crate) fn taken(&self) -> &Taken {
        &self.taken
    }

    fn slot(&self, offset: u32) -> &Slot {
        &self.slots[offset as usize / SLOT]
    }

    fn body(&self, offset: u32) -> &Body {
        // SAFETY: written before it was published, never after; loom checks that.
        self.slot(offset).body.with(|body| unsafe { &*body })
    }

    fn write(&self, offset: usize, body: Body) {
        // SAFETY: the slot was taken by us alone and is not published yet; loom checks that.
        self.slot(offset as u32).body.with_mut(|place| unsafe { *place = body });
    }

    pub(crate) fn allocate(
        &self,
        key: &[u8],
        version: u64,
        height: usize,
        value_len: usize,
        fill: impl FnOnce(&mut [u8]),
    ) -> Result<NodeId, Full> {
        let start = self.taken.take(node_len(height, key.len(), value_len), 1)?;
        let mut value = vec![0; value_len];
        self.taken.fill(|| fill(&mut value));
        self.write(start, Body { key: key.to_vec(), version, height, value });
        let node = NodeId(start as u32);
        self.value_word(node).store((value_len as u64) << 32 | start as u64, Ordering::Relaxed);
        Ok(node)
    }

    pub(crate) fn allocate_value(
        &self,
        len: usize,
        fill: impl FnOnce(&mut [u8]),
    ) -> Result<u64, Full> {
        let start = self.taken.take(value_len(len), 0)?;
        let mut value = vec![0; len];
        fill(&mut value);
        self.write(start, Body { value, ..Body::default() });
        Ok((len as u64) << 32 | start as u64)
    }

    pub(crate) fn link(&self, node: NodeId, level: usize) -> &AtomicU64 {
        assert!(node == Arena::head() || level < self.height(node), "invariant A2");
        &self.slot(node.word()).links[level]
    }

    pub(crate) fn value_word(&self, node: NodeId) -> &AtomicU64 {
        &self.slot(node.word()).value_word
    }

    pub(crate) fn prev(&self, node: NodeId) -> &AtomicU32 {
        &self.slot(node.word()).prev
    }

    pub(crate) fn version(&self, node: NodeId) -> u64 {
        self.body(node.word()).version
    }

    pub(crate) fn height(&self, node: NodeId) -> usize {
        self.body(node.word()).height
    }

    pub(crate) fn key(&self, node: NodeId) -> &[u8] {
        &self.body(node.word()).key
    }

    pub(crate) fn value(&self, node: NodeId) -> &[u8] {
        self.value_of(self.value_word(node).load(Ordering::Acquire))
    }

    pub(crate) fn value_of(&self, word: u64) -> &[u8] {
        &self.body(word as u32).value
    }

    pub(crate) fn prefetch(&self, _: u32) {}
}
