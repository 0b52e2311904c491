//! The arena under the model checker: the same interface over typed units, so that the algorithm
//! itself runs under loom. The bytes of a node are in a cell whose accesses loom watches, which
//! checks invariant A3: a read that publication does not order after the write is reported.

use loom::cell::UnsafeCell;

use super::taken::{Full, Taken};
use super::{END, NodeId, RecordId};
use crate::error::OptionsError;
use crate::height::MAX_HEIGHT;
use crate::options::Options;
use crate::sync::{AtomicU32, AtomicU64, Ordering};

/// Every node and every value counts for this many bytes.
const UNIT: usize = 64;

/// Unit 0 is none, unit 1 the head.
pub(crate) const OVERHEAD: usize = 2 * UNIT;

/// Layers of the index: two, so that one has towers and one has not.
pub(crate) const LAYERS: usize = 2;

/// Slots of an index record: few, so that records are split.
pub(crate) const SLOTS: usize = 2;

/// Records; number 0 is none, and the head's come next.
const RECORDS: usize = 3 + LAYERS;

pub(crate) const NODE_HEADER: usize = UNIT;

pub(crate) const fn node_len(_: usize, _: usize) -> usize {
    UNIT
}

pub(crate) const fn index_len(_: usize) -> usize {
    RECORDS * UNIT
}

pub(crate) const fn value_len(_: usize) -> usize {
    UNIT
}

#[derive(Default)]
struct Body {
    key: Vec<u8>,
    version: u64,
    value: Vec<u8>,
}

struct Unit {
    link: AtomicU64,
    value_word: AtomicU64,
    prev: AtomicU32,
    body: UnsafeCell<Body>,
}

struct Record {
    slots: [AtomicU64; SLOTS],
    links: [AtomicU64; MAX_HEIGHT],
    prev: AtomicU32,
    lock: AtomicU32,
    header: UnsafeCell<Header>,
}

#[derive(Clone, Copy)]
struct Header {
    node: NodeId,
    down: Option<RecordId>,
    height: usize,
}

pub(crate) struct Arena {
    units: Vec<Unit>,
    records: Vec<Record>,
    taken: Taken,
    records_taken: AtomicU64,
}

// SAFETY: as for the arena of bytes; loom checks the argument.
unsafe impl Sync for Arena {}

impl Arena {
    pub(crate) fn new(options: &Options) -> Result<Arena, OptionsError> {
        let unit = |_| Unit {
            link: AtomicU64::new(END),
            value_word: AtomicU64::new(0),
            prev: AtomicU32::new(0),
            body: UnsafeCell::new(Body::default()),
        };
        let record = |number| Record {
            slots: std::array::from_fn(|_| AtomicU64::new(END)),
            links: std::array::from_fn(|_| AtomicU64::new(END)),
            prev: AtomicU32::new(0),
            lock: AtomicU32::new(0),
            header: UnsafeCell::new(Header {
                node: Arena::head(),
                down: (number == LAYERS).then(|| Arena::first_record(0)),
                height: if number == LAYERS { MAX_HEIGHT } else { 1 },
            }),
        };
        let units = (0..options.capacity / UNIT).map(unit).collect::<Vec<_>>();
        let taken = Taken::new(units.len() * UNIT);
        let records = (0..RECORDS).map(record).collect();
        Ok(Arena { units, records, taken, records_taken: AtomicU64::new(1 + LAYERS as u64) })
    }

    pub(crate) fn clear(&mut self) {
        unreachable!("no model resets a list");
    }

    pub(crate) fn populate(&self) {}

    pub(crate) const fn head() -> NodeId {
        NodeId(UNIT as u32)
    }

    pub(crate) const fn first_record(layer: usize) -> RecordId {
        RecordId(1 + layer as u32)
    }

    pub(crate) fn taken(&self) -> &Taken {
        &self.taken
    }

    fn unit(&self, offset: u32) -> &Unit {
        &self.units[offset as usize / UNIT]
    }

    fn body(&self, offset: u32) -> &Body {
        // SAFETY: written before it was published, never after; loom checks that.
        self.unit(offset).body.with(|body| unsafe { &*body })
    }

    fn record(&self, record: RecordId) -> &Record {
        &self.records[record.word() as usize]
    }

    fn header(&self, record: RecordId) -> Header {
        // SAFETY: written before it was published, never after; loom checks that.
        self.record(record).header.with(|header| unsafe { *header })
    }

    fn write(&self, offset: usize, body: Body) {
        // SAFETY: the slot was taken by us alone and is not published yet; loom checks that.
        self.unit(offset as u32).body.with_mut(|place| unsafe { *place = body });
    }

    pub(crate) fn allocate(
        &self,
        key: &[u8],
        version: u64,
        value_len: usize,
        fill: impl FnOnce(&mut [u8]),
    ) -> Result<NodeId, Full> {
        let start = self.taken.take(node_len(key.len(), value_len), 1)?;
        let mut value = vec![0; value_len];
        self.taken.fill(|| fill(&mut value));
        self.write(start, Body { key: key.to_vec(), version, value });
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

    pub(crate) fn allocate_record(
        &self,
        node: NodeId,
        down: Option<RecordId>,
        height: usize,
    ) -> Option<RecordId> {
        let number = self
            .records_taken
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |taken| {
                (taken < RECORDS as u64).then_some(taken + 1)
            })
            .ok()?;
        let record = RecordId(number as u32);
        let made = Header { node, down, height };
        // SAFETY: the record was taken by us alone and is not published yet; loom checks that.
        self.record(record).header.with_mut(|header| unsafe { *header = made });
        Some(record)
    }

    pub(crate) fn index_bytes(&self) -> usize {
        // So that the first new record is tall: see `height`.
        64 * (self.records_taken.load(Ordering::Relaxed) as usize + 1 - LAYERS)
    }

    pub(crate) fn slots(&self, record: RecordId) -> &[AtomicU64; SLOTS] {
        &self.record(record).slots
    }

    pub(crate) fn slot(&self, record: RecordId, slot: usize) -> &AtomicU64 {
        &self.record(record).slots[slot]
    }

    pub(crate) fn record_link(&self, record: RecordId, level: usize) -> &AtomicU64 {
        assert!(level < self.header(record).height, "invariant A2");
        &self.record(record).links[level]
    }

    pub(crate) fn record_lock(&self, record: RecordId) -> &AtomicU32 {
        &self.record(record).lock
    }

    pub(crate) fn record_prev(&self, record: RecordId) -> &AtomicU32 {
        &self.record(record).prev
    }

    pub(crate) fn record_node(&self, record: RecordId) -> NodeId {
        self.header(record).node
    }

    pub(crate) fn record_down(&self, record: RecordId) -> RecordId {
        self.header(record).down.expect("invariant A2")
    }

    pub(crate) fn prefetch_room(&self) {}

    pub(crate) fn prefetch_record(&self, _: RecordId) {}

    pub(crate) fn link(&self, node: NodeId) -> &AtomicU64 {
        &self.unit(node.word()).link
    }

    pub(crate) fn value_word(&self, node: NodeId) -> &AtomicU64 {
        &self.unit(node.word()).value_word
    }

    pub(crate) fn prev(&self, node: NodeId) -> &AtomicU32 {
        &self.unit(node.word()).prev
    }

    pub(crate) fn version(&self, node: NodeId) -> u64 {
        self.body(node.word()).version
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
