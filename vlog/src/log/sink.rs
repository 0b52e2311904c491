//! What the log calls while it commits.

use crate::frame::{Frame, FrameView};
use crate::{Error, Position};

/// Takes the frames of a group where they belong. Implemented by whoever keeps an index over the
/// log; [`Discard`] is the sink of those who keep none.
///
/// The leader of a group calls these on its own thread, for its own frames and for those of
/// others: all threads that drive one log must pass sinks that mean the same thing. Admission is
/// over, so none of these may refuse. A panic in any of them poisons the log.
pub trait Sink<C> {
    /// The frames of a group, in order, with their positions, before a byte of them is written.
    /// Here is decided which memtable takes which frame.
    fn route(&self, frames: &mut [Routed<C>]) {
        let _ = frames;
    }

    /// Whether frames of different groups may be applied at the same time, each group by its own
    /// leader. Within a group the order is kept, and [`Sink::publish`] is always called in order.
    /// What a memtable with concurrent insertion wants: the order that counts was decided by
    /// [`Sink::route`].
    fn concurrent(&self) -> bool {
        false
    }

    /// A frame that was written (and synced, if anyone in the group asked for that). Called in
    /// order, one frame at a time, unless [`Sink::concurrent`] permits more.
    fn apply(&self, frame: FrameView<'_>, context: &mut C) {
        let _ = (frame, context);
    }

    /// Every frame up to and including this version was applied.
    fn publish(&self, up_to: u64) {
        let _ = up_to;
    }

    /// A frame that will not be applied: the log is poisoned. Whether its bytes reached the file
    /// is in the cause ([`Error::OutcomeUnknown`]). Called in order; gives the context back.
    fn fail(&self, version: u64, context: C, cause: &Error) {
        let _ = (version, context, cause);
    }
}

/// A sink that does nothing.
#[derive(Debug, Default, Clone, Copy)]
pub struct Discard;

impl<C> Sink<C> for Discard {}

/// A frame whose place is known.
#[derive(Debug)]
pub struct Routed<C> {
    pub(crate) version: u64,
    pub(crate) position: Position,
    pub(crate) len: u32,
    pub(crate) records: u32,
    pub(crate) context: Option<C>,
}

impl<C> Routed<C> {
    /// The frame's version.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// Where it begins.
    pub fn position(&self) -> Position {
        self.position
    }

    /// Its length in bytes.
    pub fn frame_len(&self) -> u32 {
        self.len
    }

    /// Number of its records.
    pub fn records(&self) -> u32 {
        self.records
    }

    /// What the caller sent along. `None` never happens inside [`Sink::route`].
    pub fn context(&mut self) -> Option<&mut C> {
        self.context.as_mut()
    }
}

/// A commit that succeeded.
#[derive(Debug)]
#[non_exhaustive]
pub struct Committed {
    /// Where the frame begins.
    pub position: Position,
    /// Its version.
    pub version: u64,
    /// Everything before this was durable when the commit returned; behind the frame if it was a
    /// [`Durability::Sync`](crate::Durability::Sync) one.
    pub durable_to: Position,
    pub(crate) frame: Frame,
}

impl Committed {
    /// The frame's buffer, to build the next one in.
    pub fn into_buffer(self) -> Vec<u8> {
        self.frame.into_buffer()
    }
}
