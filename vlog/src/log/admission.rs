//! Room for frames: decided before a commit gets its version, because afterwards nothing may
//! refuse it.
//!
//! # The invariant
//!
//! Let *R* be the bytes reserved and not yet placed, *left* what the active segment still takes,
//! and *usable(s)* what a spare takes (its capacity without header, link and footer). Then always
//!
//! > R ≤ left, or R ≤ usable(s) for some spare s.
//!
//! So the leader can place every admitted frame without creating anything. It puts each frame
//! into the active segment if it fits and otherwise enters the next spare:
//!
//! - A frame placed without rotation takes the same number of bytes from R and from *left*; both
//!   sides of either inequality keep their order.
//! - If R ≤ left no rotation happens. If R ≤ usable(s), then by the time the leader enters s,
//!   what is still to be placed is at most R, so all of it fits into s; from then on the first
//!   inequality holds. Spares before s may be passed by: they get their link and stay empty.
//! - A marker takes its bytes from *left* only if the invariant holds afterwards, and so does a
//!   rotation by record count.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::Shared;
use crate::format::{PAGE, SEGMENT_OVERHEAD, max_frame_len};
use crate::options::SyncMethod;
use crate::segment::Segment;
use crate::sync::{MutexGuard, lock_busy};
use crate::{BoxError, Error, Result, SealedSegment, SegmentMeta, SegmentName};

/// Keeps the list of segments: in a database, the manifest.
pub trait SegmentNamer: Send + Sync {
    /// Chooses number, file and nonce of a new segment. The number must exceed every earlier one
    /// and never be used again, also not after a crash that lost the choice.
    fn allocate(&self) -> Result<SegmentName, BoxError>;

    /// Makes a segment part of the log, durably. Called before its first frame; its file is
    /// complete and synced by then, and it is in [`Log::view`](super::Log::view).
    ///
    /// The log goes on in the order of the names. Who cannot tell whether an attempt has succeeded must
    /// refuse every later one: a segment that is named and passed over is damage to the next opening.
    fn name(&self, meta: &SegmentMeta) -> Result<(), BoxError>;

    /// Whether an error of [`name`](SegmentNamer::name) says that the segment is certainly not part
    /// of the log. Then its file is removed; else it stays, for whoever opens the log to decide.
    fn is_refusal(&self, error: &BoxError) -> bool {
        let _ = error;
        false
    }

    /// A segment that was left and is durable to its end. Called from
    /// [`Log::prepare`](super::Log::prepare).
    fn sealed(&self, sealed: &SealedSegment) -> Result<(), BoxError>;

    /// There is something for [`Log::prepare`](super::Log::prepare) to do. Called by a leader
    /// with no lock held, for every group until it is done: wake the thread that does it, and
    /// return.
    fn housekeeping_due(&self) {}
}

/// What admission decides upon.
#[derive(Debug)]
pub(crate) struct Admission {
    /// R of the invariant.
    pub(crate) reserved: u64,
    /// What the active segment still takes, footer's place excluded.
    pub(crate) left: u32,
    /// Named segments to go on with, in order.
    pub(crate) spares: VecDeque<Arc<Segment>>,
    /// Someone is making a spare.
    making: bool,
    pub(crate) closed: bool,
    /// The disk was full when last asked for a spare.
    full: bool,
    /// Size of the next spare.
    next_capacity: u32,
    /// The highest segment number so far.
    last_segment: Option<u32>,
    waiting: usize,
    /// The spares were given up for the log being at rest, when so much was left of the active
    /// segment: none is wanted before something is written and one is needed.
    dormant: Option<u32>,
    /// The spares that were last given up, or are being.
    giving_up: Vec<u32>,
}

/// What a fresh segment takes, in bytes.
pub(crate) fn usable(capacity: u32) -> u32 {
    capacity.saturating_sub(SEGMENT_OVERHEAD) / 8 * 8
}

impl Admission {
    pub(crate) fn new(
        left: u32,
        spares: VecDeque<Arc<Segment>>,
        active: &Segment,
        segment_size: u32,
    ) -> Self {
        let last = spares.back().map_or(active.capacity(), |s| s.capacity());
        let last_segment = Some(spares.back().map_or(active.id(), |s| s.id()));
        Admission {
            reserved: 0,
            left,
            spares,
            making: false,
            closed: false,
            full: false,
            next_capacity: last.saturating_mul(2).min(segment_size),
            last_segment,
            waiting: 0,
            dormant: None,
            giving_up: Vec::new(),
        }
    }

    /// Whether the invariant would hold with these many bytes reserved and left.
    fn holds(&self, reserved: u64, left: u32) -> bool {
        reserved <= left.into()
            || self.spares.iter().any(|s| reserved <= usable(s.capacity()).into())
    }

    /// Reserves `len` bytes, if that keeps the invariant.
    fn admit(&mut self, len: u64) -> bool {
        let may = self.holds(self.reserved + len, self.left);
        if may {
            self.reserved += len;
        }
        may
    }

    /// Takes room for a control frame from the active segment, if that leaves enough for all.
    pub(crate) fn take(&mut self, len: u32) -> bool {
        let Some(left) = self.left.checked_sub(len) else { return false };
        let may = self.holds(self.reserved, left);
        if may {
            self.left = left;
            self.check();
        }
        may
    }

    /// Places a frame that was admitted with `room` bytes. Returns the spare to enter first, any
    /// number of times, then `None` when the frame fits.
    pub(crate) fn place(&mut self, len: u32) -> Placing {
        if len <= self.left {
            self.left -= len;
            self.reserved = self.reserved.saturating_sub(len.into());
            self.check();
            return Placing::Fits;
        }
        self.rotate().map_or(Placing::NoRoom, Placing::Enter)
    }

    /// Leaves the active segment for the next spare.
    fn rotate(&mut self) -> Option<Arc<Segment>> {
        let spare = self.spares.pop_front()?;
        self.dormant = None;
        self.left = usable(spare.capacity());
        Some(spare)
    }

    /// Leaves the active segment early, if the next spare takes everything reserved.
    pub(crate) fn rotate_early(&mut self) -> Option<Arc<Segment>> {
        let next = self.spares.front()?;
        if self.reserved > usable(next.capacity()).into() {
            return None;
        }
        let next = self.rotate();
        self.check();
        next
    }

    pub(crate) fn wants_spare(&self) -> bool {
        let nearly_full = self.left < usable(self.next_capacity) / 4;
        let needed = self.dormant.is_none_or(|left| self.left < left && nearly_full);
        self.spares.is_empty() && !self.making && !self.closed && needed
    }

    /// Takes the spares, if there are any and nothing is reserved. Until they are given up or put
    /// back, no other is made: for whom [`Making`] is.
    pub(crate) fn take_spares(&mut self) -> Option<Vec<Arc<Segment>>> {
        if self.reserved > 0 || self.making || self.spares.is_empty() {
            return None;
        }
        (self.dormant, self.making) = (Some(self.left), true);
        self.giving_up = self.spares.iter().map(|s| s.id()).collect();
        Some(self.spares.drain(..).collect())
    }

    /// They could not be given up.
    pub(crate) fn put_back(&mut self, spares: Vec<Arc<Segment>>) {
        self.spares.extend(spares);
        self.giving_up.clear();
        self.dormant = None;
    }

    /// Whether a segment is a spare that is being given up, or was the last to be.
    pub(crate) fn is_given_up(&self, segment: u32) -> bool {
        self.giving_up.contains(&segment)
    }

    pub(crate) fn is_making(&self) -> bool {
        self.making
    }

    /// Leaves the active segment for the last spare, if nothing is reserved. Returns the segments
    /// to enter, one after the other.
    pub(crate) fn rotate_all(&mut self) -> Vec<Arc<Segment>> {
        if self.reserved > 0 {
            return Vec::new();
        }
        let mut entered = Vec::new();
        while let Some(next) = self.rotate() {
            entered.push(next);
        }
        self.dormant = Some(self.left);
        self.check();
        entered
    }

    /// The invariant, checked wherever one of its terms changed.
    fn check(&self) {
        debug_assert!(self.holds(self.reserved, self.left), "admitted more than there is room for");
    }
}

/// Where a frame goes.
pub(crate) enum Placing {
    /// Behind the last one.
    Fits,
    /// Not into the active segment: enter this one, and ask again.
    Enter(Arc<Segment>),
    /// Nowhere: the invariant was broken.
    NoRoom,
}

/// Room in the log for one frame. Dropping it gives the room back.
///
/// Hold it for a short time, and while holding it do not wait for another reservation of the same
/// thread: who waits for room waits for the frames ahead to be placed.
#[must_use]
pub struct Room<'l> {
    shared: &'l Shared,
    len: u64,
}

impl std::fmt::Debug for Room<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Room({} bytes)", self.len)
    }
}

impl Room<'_> {
    /// How many bytes were reserved.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether it is room for nothing.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Hands the room over to a frame of `len` bytes; what is too much goes back at once.
    pub(crate) fn spend(mut self, len: u64) -> u64 {
        let kept = self.len.min(len);
        self.len -= kept;
        kept
    }
}

impl Drop for Room<'_> {
    fn drop(&mut self) {
        if self.len > 0 {
            self.shared.release(self.len);
        }
    }
}

impl Shared {
    /// Reserves room for a frame. `kept`: also from what is kept for a full disk.
    pub(crate) fn reserve(self: &Arc<Self>, len: usize, kept: bool) -> Result<Room<'_>> {
        let limit = max_frame_len(self.options.segment_size) as u64;
        let len = (len as u64).checked_next_multiple_of(8).unwrap_or(u64::MAX);
        if len > limit {
            return Err(Error::FrameTooLarge { size: len, limit });
        }
        let mut a = lock_busy(&self.admission);
        loop {
            self.check_usable(&a)?;
            let total = a.reserved + len;
            // Without a spare the end of a segment is for deletes and collection, and all of it
            // while the disk is known to be full.
            let scarce = !kept
                && a.spares.is_empty()
                && (a.full || total + u64::from(self.low_water(&a)) > a.left.into());
            if !scarce && a.admit(len) {
                return Ok(Room { shared: self, len });
            }
            let hopeless = !a.spares.iter().any(|s| len <= usable(s.capacity()).into());
            if a.making || !(scarce || hopeless) {
                a.waiting += 1;
                self.room.wait(&mut a);
                a.waiting -= 1;
                continue;
            }
            a = self.make_spare(a, len as u32)?;
        }
    }

    /// What is left of the active segment when the spare is made by a commit if nobody else does:
    /// an eighth of a full-grown segment, a quarter of one that is followed by a larger one.
    fn low_water(&self, a: &Admission) -> u32 {
        usable(a.next_capacity / 2) / 4
    }

    pub(crate) fn check_usable(&self, a: &Admission) -> Result<()> {
        if let Some(cause) = self.poison.get() {
            return Err(Error::Poisoned { cause: cause.clone() });
        }
        if a.closed { Err(Error::Closed) } else { Ok(()) }
    }

    pub(crate) fn release(&self, len: u64) {
        let mut a = lock_busy(&self.admission);
        a.reserved = a.reserved.saturating_sub(len);
        a.check();
        self.wake_waiting(&a);
    }

    /// Wakes those who wait for room; call when room was placed, released or made.
    pub(crate) fn wake_waiting(&self, a: &Admission) {
        if a.waiting > 0 {
            self.room.notify_all();
        }
    }

    /// Waits until nobody is making a spare, or giving one up.
    pub(crate) fn wait_for_making(&self) {
        let mut a = lock_busy(&self.admission);
        while a.making {
            a.waiting += 1;
            self.room.wait(&mut a);
            a.waiting -= 1;
        }
    }

    /// Makes a spare that takes a frame of `len` bytes, with the lock released meanwhile.
    pub(crate) fn make_spare<'a>(
        &'a self,
        a: MutexGuard<'a, Admission>,
        len: u32,
    ) -> Result<MutexGuard<'a, Admission>> {
        let limit = self.segment_limit.load(Ordering::Relaxed);
        self.make_spare_within(a, len, limit)
    }

    /// As [`make_spare`](Self::make_spare), of no more than `limit` bytes if the frame needs no more.
    pub(crate) fn make_spare_within<'a>(
        &'a self,
        mut a: MutexGuard<'a, Admission>,
        len: u32,
        limit: u32,
    ) -> Result<MutexGuard<'a, Admission>> {
        let needed = (len + SEGMENT_OVERHEAD).next_multiple_of(PAGE);
        let capacity = a.next_capacity.min(limit).max(needed).min(self.options.segment_size);
        let last = a.last_segment;
        a.making = true;
        let made = MutexGuard::unlocked(&mut a, || {
            // If the namer panics, the others must not wait for ever.
            let mut making = Making { shared: self, done: false };
            let made = self.new_segment(capacity, needed, last);
            making.done = true;
            made
        });
        a.making = false;
        self.wake_waiting(&a);
        match made {
            Ok(segment) => {
                a.last_segment = Some(segment.id());
                a.spares.push_back(segment);
                a.dormant = None;
                a.full = false;
                a.next_capacity = capacity.saturating_mul(2).min(self.options.segment_size);
                Ok(a)
            }
            Err(e) => {
                a.full = e.is_no_space();
                Err(e)
            }
        }
    }

    /// A segment of `capacity` bytes, or one that takes `least` bytes and has a file already.
    fn new_segment(&self, capacity: u32, least: u32, last: Option<u32>) -> Result<Arc<Segment>> {
        let name = self.namer.allocate().map_err(Error::Namer)?;
        if last.is_some_and(|last| name.segment <= last) {
            return Err(Error::Misuse("segment numbers must grow"));
        }
        let (fs, dir) = (&*self.fs, &*self.dir);
        let mut options = self.options.clone();
        if self.usage.was_buffered() && options.sync_method == SyncMethod::Direct {
            options.sync_method = SyncMethod::Fdatasync;
        }
        let segment = match self.take_unused(capacity, least) {
            Some(old) => Segment::recycle(fs, dir, self.database, name, old, &options)?,
            None => Segment::create(fs, dir, self.database, name, capacity, &options)?,
        };
        self.add_to_view(&segment);
        let in_doubt = InDoubt(self);
        let named = self.namer.name(&segment.meta);
        std::mem::forget(in_doubt);
        if let Err(e) = named {
            self.remove_from_view(&[segment.id()]);
            let path = &segment.data.path;
            if self.namer.is_refusal(&e)
                && let Err(error) = fs.remove(path)
            {
                tracing::warn!(path = %path.display(), %error, "an unnamed segment is not removed");
            }
            return Err(Error::Namer(e));
        }
        Ok(segment)
    }
}

/// Dropped where a caller has unwound that was naming or freeing a segment: whether it did is not
/// known, so the log may go on neither in it nor behind it.
pub(crate) struct InDoubt<'a>(pub(crate) &'a Shared);

impl Drop for InDoubt<'_> {
    fn drop(&mut self) {
        self.0.set_poison(Error::Misuse("naming or freeing a segment panicked"));
    }
}

/// Resets the flag that spares are being made or given up, also if that unwinds.
pub(crate) struct Making<'a> {
    shared: &'a Shared,
    done: bool,
}

impl<'a> Making<'a> {
    /// For who has set the flag.
    pub(crate) fn new(shared: &'a Shared) -> Self {
        Making { shared, done: false }
    }
}

impl Drop for Making<'_> {
    fn drop(&mut self) {
        if !self.done {
            let mut a = lock_busy(&self.shared.admission);
            a.making = false;
            self.shared.room.notify_all();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::sync::Arc;

    use kvdb_vfs::{Fs, MemFs};
    use proptest::prelude::*;

    use super::{Admission, Placing, usable};
    use crate::segment::Segment;
    use crate::{Options, SegmentName};

    #[derive(Debug, Clone)]
    enum Step {
        /// A commit asks for room.
        Reserve(u32),
        /// The next of those admitted is placed.
        Place,
        /// One of those admitted gives its room back.
        GiveUp(usize),
        Marker,
        /// The active segment has its number of records.
        RotateEarly,
        /// Housekeeping adds a spare of so many pages.
        Spare(u32),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            6 => (4u32..3000).prop_map(|n| Step::Reserve(n * 8)),
            5 => Just(Step::Place),
            1 => any::<usize>().prop_map(Step::GiveUp),
            1 => Just(Step::Marker),
            1 => Just(Step::RotateEarly),
            2 => (3u32..8).prop_map(Step::Spare),
        ]
    }

    fn segment(fs: &dyn Fs, id: u32, pages: u32) -> Arc<Segment> {
        let name = SegmentName { segment: id, file: id.into(), nonce: 0 };
        let options = Options { prefill: false, ..Options::default() };
        Segment::create(fs, "/".as_ref(), 0, name, pages * 4096, &options).unwrap()
    }

    proptest! {
        #[test]
        fn what_was_admitted_always_has_a_place(steps in prop::collection::vec(step(), 1..200)) {
            let fs = MemFs::new();
            let first = segment(&fs, 1, 4);
            let mut a =
                Admission::new(usable(first.capacity()), VecDeque::new(), &first, 64 << 10);
            let mut admitted = VecDeque::new();
            let mut next = 1;
            for step in steps {
                match step {
                    Step::Reserve(len) => {
                        if a.admit(len.into()) {
                            admitted.push_back(len);
                        }
                    }
                    Step::Place => {
                        let Some(len) = admitted.pop_front() else { continue };
                        loop {
                            match a.place(len) {
                                Placing::Fits => break,
                                Placing::Enter(_) => {}
                                Placing::NoRoom => prop_assert!(false, "no place for {}", len),
                            }
                        }
                    }
                    Step::GiveUp(i) if !admitted.is_empty() => {
                        let len = admitted.remove(i % admitted.len()).unwrap();
                        a.reserved -= u64::from(len);
                    }
                    Step::GiveUp(_) => {}
                    Step::Marker => drop(a.take(32)),
                    Step::RotateEarly => drop(a.rotate_early()),
                    Step::Spare(pages) => {
                        next += 1;
                        a.spares.push_back(segment(&fs, next, pages));
                    }
                }
                prop_assert!(a.holds(a.reserved, a.left));
                prop_assert_eq!(a.reserved, admitted.iter().map(|n| u64::from(*n)).sum::<u64>());
            }
        }
    }
}
