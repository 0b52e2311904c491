//! The commit queue: who waits, and who leads.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use smallvec::SmallVec;

use super::sink::{Committed, Routed};
use crate::frame::Frame;
use crate::sync::{AtomicBool, AtomicU8, Condvar, Mutex, spin_until};
use crate::{Durability, Result};

const WAITING: u8 = 0;
/// Nobody leads any more: try to.
const LEAD: u8 = 1;
const DONE: u8 = 2;

/// A frame in the queue and the thread that waits for it.
pub(crate) struct Node<C> {
    /// The queue it was made for.
    queue: u64,
    pub(crate) version: u64,
    pub(crate) durability: Durability,
    /// Length of the frame.
    pub(crate) len: u32,
    /// Room it was given.
    pub(crate) room: u64,
    /// In the queue, not in a group. Changes under the queue's lock.
    queued: AtomicBool,
    /// Its owner waits and can be woken to lead. Changes under the queue's lock.
    parked: AtomicBool,
    state: AtomicU8,
    slot: Mutex<Slot<C>>,
    changed: Condvar,
}

struct Slot<C> {
    payload: Option<(Frame, C)>,
    outcome: Option<Result<Committed>>,
}

impl<C> Node<C> {
    fn new(
        queue: u64,
        frame: Frame,
        version: u64,
        durability: Durability,
        room: u64,
        context: C,
    ) -> Self {
        Node {
            queue,
            version,
            durability,
            len: frame.len() as u32,
            room,
            queued: AtomicBool::new(true),
            parked: AtomicBool::new(false),
            state: AtomicU8::new(WAITING),
            slot: Mutex::new(Slot { payload: Some((frame, context)), outcome: None }),
            changed: Condvar::new(),
        }
    }

    /// Waits until the outcome is known or leadership is free.
    pub(crate) fn wait(&self) {
        if self.durability == Durability::Buffered {
            // A buffered group takes a few microseconds: less than sleeping and waking.
            spin_until(|| self.state.load(Ordering::Acquire) != WAITING);
        }
        let mut slot = self.slot.lock();
        while self.state.load(Ordering::Acquire) == WAITING {
            self.changed.wait(&mut slot);
        }
        if self.state.load(Ordering::Acquire) == LEAD {
            self.state.store(WAITING, Ordering::Release);
        }
    }

    pub(crate) fn outcome(&self) -> Option<Result<Committed>> {
        if self.state.load(Ordering::Acquire) != DONE {
            return None;
        }
        self.slot.lock().outcome.take()
    }

    /// Sets the outcome and wakes whoever waits for it.
    pub(crate) fn complete(&self, outcome: Result<Committed>) {
        let mut slot = self.slot.lock();
        slot.outcome = Some(outcome);
        self.state.store(DONE, Ordering::Release);
        self.changed.notify_all();
    }

    fn wake_to_lead(&self) {
        let _slot = self.slot.lock();
        if self.state.load(Ordering::Acquire) == WAITING {
            self.state.store(LEAD, Ordering::Release);
            self.changed.notify_all();
        }
    }
}

/// A frame that was enqueued. Pass it to [`Log::drive`](super::Log::drive): until someone drives
/// this ticket or a later one, the frame is not written, and every version behind it waits.
#[must_use]
pub struct Ticket<C = ()> {
    pub(crate) node: Arc<Node<C>>,
}

impl<C> Ticket<C> {
    /// The frame's version.
    pub fn version(&self) -> u64 {
        self.node.version
    }

    /// Whether the outcome is known, so that driving returns at once.
    pub fn is_done(&self) -> bool {
        self.node.state.load(Ordering::Acquire) == DONE
    }
}

impl<C> std::fmt::Debug for Ticket<C> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Ticket(version {})", self.node.version)
    }
}

/// Frames that are written together.
pub(crate) struct Group<C> {
    /// Its turn to be applied.
    pub(crate) turn: u64,
    pub(crate) nodes: Members<Arc<Node<C>>>,
    pub(crate) frames: Members<Frame>,
    pub(crate) routed: Members<Routed<C>>,
}

/// One of something for each member of a group. Most groups have but one.
type Members<T> = SmallVec<[T; 1]>;

impl<C> Default for Group<C> {
    fn default() -> Self {
        Group { turn: 0, nodes: SmallVec::new(), frames: SmallVec::new(), routed: SmallVec::new() }
    }
}

impl<C> Group<C> {
    pub(crate) fn wants_sync(&self) -> bool {
        self.nodes.iter().any(|n| n.durability == Durability::Sync)
    }
}

/// Frames that wait, in the order of their versions.
pub(crate) struct Queue<C> {
    /// No other one of the process has it.
    id: u64,
    nodes: VecDeque<Arc<Node<C>>>,
    leader: bool,
    next_turn: u64,
    last_size: usize,
}

impl<C> Queue<C> {
    pub(crate) fn new() -> Self {
        static NEXT: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(0);
        let id = NEXT.fetch_add(1, Ordering::Relaxed);
        Queue { id, nodes: VecDeque::new(), leader: false, next_turn: 0, last_size: 0 }
    }

    pub(crate) fn push(
        &mut self,
        frame: Frame,
        version: u64,
        durability: Durability,
        room: u64,
        context: C,
    ) -> Ticket<C> {
        let node = Arc::new(Node::new(self.id, frame, version, durability, room, context));
        debug_assert!(
            self.nodes.back().is_none_or(|last| last.version <= version),
            "queue order is version order"
        );
        self.nodes.push_back(node.clone());
        Ticket { node }
    }

    /// Makes the owner of `node` the leader, if there is none and its frame still waits.
    pub(crate) fn try_lead(&mut self, node: &Node<C>) -> bool {
        if !node.queued.load(Ordering::Relaxed) {
            return false;
        }
        let may = !self.leader;
        self.leader = true;
        node.parked.store(!may, Ordering::Relaxed);
        may
    }

    /// Whether a frame is not of this queue.
    pub(crate) fn is_foreign(&self, node: &Node<C>) -> bool {
        node.queue != self.id
    }

    /// Whether waiting for more members is likely to find some, and worth it: what they would
    /// share is a sync.
    pub(crate) fn expects_more(&self) -> bool {
        self.nodes.len() < self.last_size
            && self.nodes.iter().any(|n| n.durability == Durability::Sync)
    }

    /// Takes what waits, at most `max_bytes` of it but one frame at least.
    pub(crate) fn take_group(&mut self, max_bytes: usize) -> Group<C> {
        let mut group = Group::default();
        let mut bytes = 0;
        while let Some(node) = self.nodes.front() {
            bytes += node.len as usize;
            if bytes > max_bytes && !group.nodes.is_empty() {
                break;
            }
            let Some(node) = self.nodes.pop_front() else { break };
            node.queued.store(false, Ordering::Relaxed);
            let payload = node.slot.lock().payload.take();
            // A node leaves the queue once, so its payload is there.
            let Some((frame, context)) = payload else { continue };
            group.routed.push(Routed {
                version: node.version,
                position: crate::Position::ZERO,
                len: node.len,
                records: frame.records(),
                context: Some(context),
            });
            group.frames.push(frame);
            group.nodes.push(node);
        }
        self.last_size = group.nodes.len();
        group.turn = self.next_turn;
        self.next_turn += 1;
        group
    }

    /// Ends a leadership and wakes the first waiting thread to take over.
    pub(crate) fn stop_leading(&mut self) {
        self.leader = false;
        let next = self.nodes.iter().find(|n| n.parked.load(Ordering::Relaxed));
        if let Some(next) = next {
            next.parked.store(false, Ordering::Relaxed);
            next.wake_to_lead();
        }
    }

    /// Whether nothing waits and nothing is under way, `finished` groups being through.
    pub(crate) fn is_idle(&self, finished: u64) -> bool {
        self.nodes.is_empty() && self.next_turn == finished && !self.leader
    }

    /// Removes frames that nobody will ever drive, because their tickets were dropped and no
    /// later one is there to take them along. Returns them.
    pub(crate) fn take_abandoned(&mut self) -> Vec<Arc<Node<C>>> {
        if self.leader || self.nodes.iter().any(|n| Arc::strong_count(n) > 1) {
            return Vec::new();
        }
        self.nodes.drain(..).collect()
    }
}
