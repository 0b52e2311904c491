//! The log that is appended to.

pub(crate) mod admission;
mod blocks;
mod commit;
mod queue;
mod recycle;
mod rotate;
mod sink;
mod standalone;
mod tail;
mod writer;

use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use crossbeam_utils::CachePadded;
use kvdb_vfs::{Fs, SyncSite};

use admission::Admission;
pub use admission::{Room, SegmentNamer};
use commit::Turns;
use queue::Queue;
pub use queue::Ticket;
pub(crate) use recycle::Pool;
pub use sink::{Committed, Discard, Routed, Sink};
pub use standalone::{Appended, Directory};
pub(crate) use tail::Tail;
pub(crate) use writer::Writer;

use crate::frame::Frame;
use crate::relocate::{RecordFiles, RelocatedSegment, Relocation};
use crate::segment::Segment;
use crate::sync::{
    AtomicBool, AtomicU64, Condvar, Mutex, RwLock, lock_busy, order_write_before_read,
};
use crate::view::{LogView, Place};
use crate::{Durability, Error, Options, Position, Relocated, Result, SealedSegment};

/// A log that is open for appending. Shared by reference between threads.
///
/// `C` is whatever the caller wants to travel with a frame from [`Log::enqueue`] to its
/// [`Sink`]: the memtable that was reserved for it, for example.
///
/// A commit is four steps: build a [`Frame`], [`Log::reserve`] room for it (the only step that
/// can refuse or wait), [`Log::enqueue`] it, in the order of versions, and [`Log::drive`] the
/// ticket. [`Log::append`] does all four for users without an order of their own.
///
/// Dropping a log leaves it as a crash would: call [`Log::close`] for a clean end.
pub struct Log<C = ()> {
    pub(crate) shared: Arc<Shared>,
    // What every commit writes to has cache lines of its own: a lock that one thread takes must not
    // take the next one's memory away from another.
    queue: CachePadded<Mutex<Queue<C>>>,
    /// Nothing waits and nothing is under way; told while the log is being closed.
    idle: Condvar,
    closing: AtomicBool,
    writer: CachePadded<Mutex<Writer>>,
    turns: CachePadded<Turns>,
    /// The last version given out by [`Log::append`].
    last_version: Mutex<u64>,
    closed: Mutex<bool>,
}

impl<C> std::fmt::Debug for Log<C> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let tail = lock_busy(&self.shared.tail);
        write!(f, "Log({}, end {}, durable {})", self.shared.dir.display(), tail.end, tail.durable)
    }
}

/// What reservations, readers and syncs share with the log.
pub(crate) struct Shared {
    pub(crate) fs: Arc<dyn Fs>,
    pub(crate) dir: PathBuf,
    pub(crate) database: u128,
    pub(crate) options: Options,
    pub(crate) namer: Arc<dyn SegmentNamer>,
    pub(crate) admission: CachePadded<Mutex<Admission>>,
    /// Room was placed, released or made, or there will never be any.
    pub(crate) room: Condvar,
    pub(crate) poison: OnceLock<Arc<Error>>,
    pub(crate) view: RwLock<Arc<LogView>>,
    pub(crate) tail: CachePadded<Mutex<Tail>>,
    /// What the tail says is durable, packed: for frames, which carry it. Changes under the tail's lock.
    pub(crate) durable: CachePadded<AtomicU64>,
    pub(crate) sync_gate: Mutex<()>,
    /// Segments that were left and not yet reported as sealed.
    pub(crate) left: Mutex<Vec<(Arc<Segment>, SealedSegment)>>,
    /// One at a time reports them: whoever keeps the list of segments is told once.
    pub(crate) sealing: Mutex<()>,
    /// Whether there are any; changes under their lock.
    pub(crate) any_left: AtomicBool,
    pub(crate) usage: CachePadded<Usage>,
    /// Segments that are not part of the log any more, whose files may be used again.
    pub(crate) pool: Mutex<Pool>,
    /// Segments are made no larger than this many bytes, but as large as a frame needs.
    pub(crate) segment_limit: AtomicU32,
}

/// How many groups were written since the last segment was made: what the next one is for.
#[derive(Debug)]
pub(crate) struct Usage {
    synced: AtomicU64,
    buffered: AtomicU64,
}

impl Usage {
    pub(crate) fn new() -> Self {
        Usage { synced: AtomicU64::new(0), buffered: AtomicU64::new(0) }
    }

    /// Only the leader counts, so the counters need no atomic addition; that one may be lost to a call
    /// of [`Usage::was_buffered`] in between does not matter.
    fn count(&self, sync: bool) {
        let counter = if sync { &self.synced } else { &self.buffered };
        counter.store(counter.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
    }

    /// Whether most groups since the last call were buffered. None is not most.
    fn was_buffered(&self) -> bool {
        let synced = self.synced.swap(0, Ordering::Relaxed);
        self.buffered.swap(0, Ordering::Relaxed) > synced
    }
}

impl Shared {
    pub(crate) fn add_to_view(&self, segment: &Arc<Segment>) {
        let mut view = self.view.write();
        *view = Arc::new(view.with(segment.id(), Place::Raw(segment.clone())));
    }

    pub(crate) fn remove_from_view(&self, segments: &[u32]) {
        let mut view = self.view.write();
        *view = Arc::new(view.without(segments));
    }

    /// Remembers a segment that was left, for [`Log::prepare`].
    fn leave(&self, segment: Arc<Segment>, sealed: SealedSegment) {
        let mut left = self.left.lock();
        left.push((segment, sealed));
        self.any_left.store(true, Ordering::Relaxed);
    }
}

/// What a log starts from.
pub(crate) struct Start {
    pub(crate) shared: Shared,
    pub(crate) writer: Writer,
    pub(crate) last_version: u64,
}

impl<C> Log<C> {
    pub(crate) fn start(start: Start) -> Self {
        Log {
            shared: Arc::new(start.shared),
            queue: CachePadded::new(Mutex::new(Queue::new())),
            idle: Condvar::new(),
            closing: AtomicBool::new(false),
            writer: CachePadded::new(Mutex::new(start.writer)),
            turns: CachePadded::new(Turns::new()),
            last_version: Mutex::new(start.last_version),
            closed: Mutex::new(false),
        }
    }

    /// Reserves room for a frame of `frame_len` bytes ([`Frame::len`]). This is where a commit
    /// is refused: after it has its version it cannot be. Waits while a spare segment is being
    /// made or the frames ahead are being placed, and makes a spare itself if nobody does.
    ///
    /// # Errors
    /// [`Error::FrameTooLarge`]; [`Error::Poisoned`]; [`Error::Closed`]; whatever making a
    /// segment reports, a full disk first of all. None of these changes anything.
    pub fn reserve(&self, frame_len: usize) -> Result<Room<'_>> {
        self.shared.reserve(frame_len, false)
    }

    /// As [`Log::reserve`], also from the room that is kept for a full disk. For what frees
    /// space: deletes, and what garbage collection has to log.
    ///
    /// # Errors
    /// As [`Log::reserve`].
    pub fn reserve_kept(&self, frame_len: usize) -> Result<Room<'_>> {
        self.shared.reserve(frame_len, true)
    }

    /// Puts a frame into the queue. The order of calls is the order of frames in the log, and
    /// versions must not fall in it: call this under the lock that gives out versions. Never
    /// fails, never waits for I/O.
    pub fn enqueue(
        &self,
        frame: Frame,
        version: u64,
        durability: Durability,
        room: Room<'_>,
        context: C,
    ) -> Ticket<C> {
        let room = room.spend(frame.len() as u64);
        lock_busy(&self.queue).push(frame, version, durability, room, context)
    }

    /// Makes everything durable that was appended before the call.
    ///
    /// # Errors
    /// [`Error::Poisoned`], with the reason.
    pub fn sync(&self) -> Result<Position> {
        let end = self.end();
        self.shared.sync_to(end, SyncSite::LogBackground)
    }

    /// Makes everything before `position` durable, before a table that refers to it is installed.
    /// Returns at once if it is.
    ///
    /// # Errors
    /// [`Error::Poisoned`], with the reason.
    pub fn sync_through(&self, position: Position) -> Result<Position> {
        self.shared.sync_to(position.min(self.end()), SyncSite::LogBeforeInstall)
    }

    /// Everything before this is durable.
    pub fn durable_to(&self) -> Position {
        lock_busy(&self.shared.tail).durable
    }

    /// Behind the last byte written. A frame that was committed lies before it.
    pub fn end(&self) -> Position {
        lock_busy(&self.shared.tail).end
    }

    /// Bytes reserved and not yet placed.
    pub fn reserved(&self) -> u64 {
        lock_busy(&self.shared.admission).reserved
    }

    /// Why the log refuses to be appended to, if it does.
    pub fn poisoned(&self) -> Option<Arc<Error>> {
        self.shared.poison.get().cloned()
    }

    /// Poisons the log: for a failure elsewhere after which nothing may be appended.
    pub fn poison(&self, error: Error) -> Arc<Error> {
        self.shared.set_poison(error)
    }

    /// A snapshot of where the segments are.
    pub fn view(&self) -> Arc<LogView> {
        self.shared.view.read().clone()
    }

    /// Takes segments out of the view that the caller has freed. Views taken before keep them;
    /// the files are the caller's to remove. The segment being written cannot be taken out.
    ///
    /// # Errors
    /// [`Error::Misuse`] if one of them is the active segment or a spare that is not being
    /// [given up](Log::give_up_spares).
    pub fn forget(&self, segments: &[u32]) -> Result<()> {
        let active = lock_busy(&self.shared.tail).active.id();
        let admission = lock_busy(&self.shared.admission);
        if segments.iter().any(|s| *s >= active && !admission.is_given_up(*s)) {
            return Err(Error::Misuse("only segments before the active one can be forgotten"));
        }
        drop(admission);
        self.shared.remove_from_view(segments);
        Ok(())
    }

    /// Opens the relocation table that garbage collection has made for a segment, and the record
    /// files that it names. `opened` is shared by the tables of one collection.
    ///
    /// # Errors
    /// As opening a log with that segment relocated.
    pub fn open_relocated(
        &self,
        segment: u32,
        relocated: &Relocated,
        opened: &mut RecordFiles,
    ) -> Result<RelocatedSegment> {
        let Shared { fs, dir, database, options, .. } = &*self.shared;
        let table = Relocation::open(&**fs, dir, *database, segment, relocated, options, opened)?;
        Ok(RelocatedSegment { segment, table: Arc::new(table) })
    }

    /// Lets these segments be read where garbage collection has moved their records. Views taken
    /// before go on as they are. To be called when the move is durable in the caller's manifest;
    /// the former files are the caller's to remove.
    pub fn relocate(&self, segments: Vec<RelocatedSegment>) {
        let mut view = self.shared.view.write();
        let places = segments.into_iter().map(|s| (s.segment, Place::Relocated(s.table)));
        *view = Arc::new(view.with_places(places));
    }

    /// One step of housekeeping: makes the spare segment if there is none, reports segments that
    /// were left as sealed, syncs what is overdue. Call it from a background thread, or between
    /// commits; `true` if there was something to do.
    ///
    /// # Errors
    /// Of the file system or of the [`SegmentNamer`]. If the spare cannot be made (the disk is full),
    /// nothing is poisoned and the rest is done all the same, since it may be what lets the caller free
    /// space; the spare is tried again by the next call, or by the commit that needs the room.
    pub fn prepare(&self) -> Result<bool> {
        let shared = &self.shared;
        let a = lock_busy(&shared.admission);
        shared.check_usable(&a)?;
        let spare = match a.wants_spare() {
            true => shared.make_spare(a, 0).map(|_| true),
            false => {
                drop(a);
                Ok(false)
            }
        };
        let kept = self.sync_and_seal()?;
        Ok(spare? | kept)
    }

    /// The part of [`prepare`](Log::prepare) that takes no space.
    fn sync_and_seal(&self) -> Result<bool> {
        let shared = &self.shared;
        let mut did = false;
        let tail = lock_busy(&shared.tail);
        let (end, overdue) = (tail.end, tail.unsynced >= shared.options.sync_interval_bytes);
        drop(tail);
        if overdue {
            shared.sync_to(end, SyncSite::LogBackground)?;
            did = true;
        }
        let _one_at_a_time = shared.sealing.lock();
        loop {
            let first = shared.left.lock().first().cloned();
            let Some((segment, sealed)) = first else { break };
            let end = Position::new(segment.id(), sealed.length);
            // It may have been left by a group that is still being written.
            if lock_busy(&shared.tail).end < end
                || shared.sync_to(end, SyncSite::LogBackground)? < end
            {
                break;
            }
            shared.namer.sealed(&sealed).map_err(Error::Namer)?;
            let mut left = shared.left.lock();
            left.retain(|(s, _)| s.id() != segment.id());
            shared.any_left.store(!left.is_empty(), Ordering::Relaxed);
            did = true;
        }
        Ok(did)
    }

    /// To be called when nothing was committed for a while: makes buffered commits durable, and
    /// then writes a synced marker, so that the durable mark is past the last commit and damage
    /// to it cannot pass for a torn tail. `true` if there was something to do. Does nothing
    /// while commits are under way.
    ///
    /// # Errors
    /// [`Error::Poisoned`], with the reason; [`Error::Closed`].
    pub fn idle_sync(&self) -> Result<bool> {
        {
            let a = lock_busy(&self.shared.admission);
            self.shared.check_usable(&a)?;
        }
        let end = self.end();
        let mut did = false;
        if self.durable_to() < end {
            self.shared.sync_to(end, SyncSite::LogBackground)?;
            did = true;
        }
        let Some(mut writer) = self.writer.try_lock() else { return Ok(did) };
        self.shared.check_usable(&lock_busy(&self.shared.admission))?;
        match writer.mark(&self.shared) {
            Ok(marked) => Ok(did || marked),
            Err(e) => Err(Error::Poisoned { cause: self.shared.set_poison(e) }),
        }
    }

    /// Refuses new reservations, waits for the commits in flight, and ends the log with a synced
    /// footer. Calling it again does nothing.
    ///
    /// Tickets that were dropped without being driven, with no later one to take them along, are
    /// not written.
    ///
    /// # Errors
    /// [`Error::Poisoned`]: then there is no footer, and the next opening recovers.
    pub fn close(&self) -> Result<()> {
        {
            let mut a = lock_busy(&self.shared.admission);
            a.closed = true;
            self.shared.room.notify_all();
        }
        let mut closed = self.closed.lock();
        if *closed {
            return Ok(());
        }
        self.wait_for_commits();
        self.shared.wait_for_making();
        let mut writer = self.writer.lock();
        if let Err(e) = self.shared.check_poison() {
            // They are no part of the log, whatever became of it.
            self.shared.remove_dead();
            return Err(e);
        }
        let end = self.end();
        self.shared.sync_to(end, SyncSite::LogClose)?;
        if let Err(e) = writer.close(&self.shared) {
            return Err(Error::Poisoned { cause: self.shared.set_poison(e) });
        }
        *closed = true;
        self.shared.remove_dead();
        Ok(())
    }

    fn wait_for_commits(&self) {
        // Long enough to cost nothing: only an abandoned ticket or a leaked reservation is not
        // announced.
        const LOOK_AGAIN: Duration = Duration::from_millis(20);
        let mut queue = lock_busy(&self.queue);
        // A group that is through was written, applied and published, or has failed; its members may
        // still be about to hear of it.
        // Either this sees that a group is through, or its leader sees that somebody waits: both
        // write first and read what the other wrote afterwards, in one total order.
        self.closing.store(true, Ordering::SeqCst);
        order_write_before_read();
        loop {
            if queue.is_idle(self.turns.finished())
                && (self.reserved() == 0 || self.poisoned().is_some())
            {
                return;
            }
            self.idle.wait_for(&mut queue, LOOK_AGAIN);
            let abandoned = queue.take_abandoned();
            let room: u64 = abandoned.iter().map(|n| n.room).sum();
            if room > 0 {
                self.shared.release(room);
            }
        }
    }
}
