//! Opening a log that exists: replay, and what must be done before it is appended to again.

use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicU32;
use std::sync::{Arc, OnceLock};

use crossbeam_utils::CachePadded;
use kvdb_vfs::{Fs, SyncSite};

use crate::format::{END_RESERVE, FIRST_FRAME, LinkBody, MARKER_LEN, PAGE, Totals};
use crate::frame::FrameView;
use crate::log::admission::{Admission, usable};
use crate::log::{self, Log, Pool, SegmentNamer, Shared, Tail, Usage, Writer};
use crate::relocate::{RecordFiles, Relocation};
use crate::replay::{Outcome, ReplayEnd, read_link};
use crate::segment::{Reading, Segment};
use crate::sync::{AtomicBool, AtomicU64, Condvar, Mutex, RwLock};
use crate::view::{LogView, Place};
use crate::{
    Error, Options, Position, ReplayError, Result, SegmentMeta, SegmentName, SegmentRecord,
};

/// Where a recovered log goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// Behind the footer of a clean close.
    Clean,
    /// At the beginning of this segment, made by [`Recovery::create_segment`].
    At(u32),
}

/// A log being opened.
///
/// The order of steps after an unclean end is: [`replay`](Recovery::replay),
/// [`rewrite_tail`](Recovery::rewrite_tail), [`create_segment`](Recovery::create_segment), then
/// whatever makes the replayed frames and the sealing of the old segment durable elsewhere (in
/// a database one change set), then [`into_log`](Recovery::into_log). Interrupted anywhere, it
/// can be started over, any number of times, with the same result.
pub struct Recovery {
    fs: Arc<dyn Fs>,
    dir: PathBuf,
    database: u128,
    options: Options,
    read_only: bool,
    pub(crate) head: Position,
    /// Segments with a file of their own, ascending.
    pub(crate) segments: Vec<(SegmentRecord, Arc<Segment>)>,
    relocated: Vec<(u32, Arc<Relocation>)>,
    outcome: Option<Outcome>,
    fresh: Option<Arc<Segment>>,
    rewritten: bool,
}

impl std::fmt::Debug for Recovery {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Recovery({}, head {})", self.dir.display(), self.head)
    }
}

impl Recovery {
    /// Makes the headers of segments behind the end durable, whoever may have failed to.
    pub(crate) fn harden_spares(&self) -> Result<()> {
        let Some(end) = self.end_segment() else { return Ok(()) };
        let spares = self.segments.iter().filter(|(_, s)| s.id() > end);
        spares.map(|(_, s)| s).try_for_each(|s| s.rewrite(0..PAGE, SyncSite::LogRecovery))
    }

    /// The segment that was left for the first one here behind segment `at`, as its link says.
    pub(crate) fn left_behind(&self, at: u64) -> Option<u32> {
        let next = self.segments.iter().find(|(_, s)| u64::from(s.id()) > at);
        Some(read_link(&next?.1).ok()??.segment.get())
    }

    /// The segment that was left for the first one here, as its link says, if that held anything.
    pub(crate) fn left_for_first(&self) -> Result<Option<u32>> {
        let Some((_, first)) = self.segments.first() else { return Ok(None) };
        let link = read_link(first)?.filter(|link| link.length.get() > FIRST_FRAME);
        Ok(link.map(|link| link.segment.get()))
    }

    /// Opens every segment that is named, and checks that each file is there, as long as it must
    /// be, and begins with the header of this database, file and segment. Changes and deletes
    /// nothing.
    ///
    /// # Errors
    /// Naming the file that is missing ([`Error::Io`]), short, foreign, or damaged;
    /// [`Error::UnknownSegment`] or [`Error::BadPosition`] for a `head` outside of the log;
    /// [`Error::BadOption`].
    pub fn open(
        fs: Arc<dyn Fs>,
        dir: &Path,
        database: u128,
        mut segments: Vec<SegmentRecord>,
        head: Position,
        options: Options,
        read_only: bool,
    ) -> Result<Recovery> {
        options.validate()?;
        segments.sort_by_key(|s| s.meta.segment);
        if segments.windows(2).any(|two| two[0].meta.segment == two[1].meta.segment) {
            return Err(Error::Misuse("a segment number is named twice"));
        }
        let mut open = Vec::with_capacity(segments.len());
        let mut relocated = Vec::new();
        let mut record_files = RecordFiles::default();
        for record in segments {
            let id = record.meta.segment;
            if let Some(to) = &record.relocated {
                let table =
                    Relocation::open(&*fs, dir, database, id, to, &options, &mut record_files)?;
                relocated.push((id, Arc::new(table)));
                continue;
            }
            let reading = match (read_only, record.sealed.is_some() || id < head.segment) {
                (true, _) => Reading::Only,
                (false, true) => Reading::Sealed,
                (false, false) => Reading::AndWriting,
            };
            let segment = Segment::open(&*fs, dir, database, record.meta, &options, reading)?;
            if let Some(sealed) = &record.sealed {
                if sealed.length > segment.capacity() || sealed.length < FIRST_FRAME {
                    return Err(Error::Truncated {
                        path: segment.data.path.clone(),
                        expected: sealed.length.into(),
                        found: segment.capacity().into(),
                    });
                }
                segment.data.set_written(sealed.length);
            }
            open.push((record, segment));
        }
        // Left before the head and not sealed yet: how far it was written, says the link of the next.
        for (at, (record, segment)) in open.iter().enumerate() {
            if record.sealed.is_none() && segment.id() < head.segment {
                let next = open.get(at + 1).map(|(_, next)| read_link(next)).transpose()?.flatten();
                let link = next.filter(|link| link.segment.get() == segment.id());
                let length = link.map_or(segment.capacity(), |link| link.length.get());
                segment.data.set_written(length.min(segment.capacity()));
            }
        }
        let head = Position::new(head.segment, head.offset.max(FIRST_FRAME));
        match open.iter().find(|(r, _)| r.meta.segment == head.segment) {
            Some((_, s)) if head.offset > s.capacity() || !head.offset.is_multiple_of(8) => {
                return Err(Error::BadPosition { position: head });
            }
            None if !open.is_empty() => {
                return Err(Error::UnknownSegment { segment: head.segment });
            }
            _ => {}
        }
        Ok(Recovery {
            fs,
            dir: dir.to_owned(),
            database,
            options,
            read_only,
            head,
            segments: open,
            relocated,
            outcome: None,
            fresh: None,
            rewritten: false,
        })
    }

    /// Hands every whole transaction from the head on to `on_frame`, in order, and finds out how
    /// the log ended. Where segments are mapped, values are not copied.
    ///
    /// # Errors
    /// [`Error::Damaged`], naming the first place that does not verify, if bytes there or behind
    /// it were known to be durable (unless [`Options::salvage`]); [`ReplayError::Caller`] with
    /// the callback's error. May be called again then.
    pub fn replay<E>(
        &mut self,
        on_frame: impl FnMut(FrameView<'_>) -> Result<(), E>,
    ) -> Result<ReplayEnd, ReplayError<E>> {
        let (end, outcome) = crate::replay::replay(self, self.options.salvage, on_frame)?;
        for (i, (record, segment)) in self.segments.iter().enumerate() {
            if record.sealed.is_none() && record.meta.segment >= self.head.segment {
                segment.data.set_written(match outcome.index {
                    Some(last) if i < last => outcome.lengths[i],
                    Some(last) if i == last => outcome.end.offset,
                    _ => FIRST_FRAME,
                });
            }
        }
        self.outcome = Some(outcome);
        Ok(end)
    }

    /// The segment in which the log ended, if it may be appended to.
    pub fn end_segment(&self) -> Option<u32> {
        let outcome = self.outcome.as_ref()?;
        let (record, _) = self.segments.get(outcome.index?)?;
        record.sealed.is_none().then_some(record.meta.segment)
    }

    /// Writes every frame above the last durable-to mark again, the same bytes in the same
    /// place, and syncs. After a sync that failed before the crash, what the page cache shows
    /// need not be on the disk, and a sync alone would not bring it there.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::ReadOnly`]; [`Error::Misuse`] before the replay.
    pub fn rewrite_tail(&mut self) -> Result<()> {
        let outcome = self.outcome.as_ref().ok_or(Error::Misuse("rewrite before replay"))?;
        if self.read_only {
            return Err(Error::ReadOnly);
        }
        let from = outcome.durable.max(self.head);
        let Some(last) = outcome.index else {
            self.rewritten = true;
            return Ok(());
        };
        for (i, (record, segment)) in self.segments.iter().enumerate().take(last + 1) {
            let id = record.meta.segment;
            if id < from.segment || record.sealed.is_some() {
                continue;
            }
            let start = if id == from.segment { from.offset } else { FIRST_FRAME };
            let end = if i == last { outcome.end.offset } else { outcome.lengths[i] };
            if start >= end {
                continue;
            }
            segment.rewrite(start..end, SyncSite::LogRecovery)?;
        }
        self.rewritten = true;
        Ok(())
    }

    /// Makes the segment to go on with: its file is complete and synced when this returns, so
    /// that it can be named in the same change set that seals the old one. Does
    /// [`Recovery::rewrite_tail`] first if that was not called.
    ///
    /// # Errors
    /// [`Error::Misuse`] before the replay or if the number is not above all others;
    /// [`Error::ReadOnly`]; [`Error::Io`].
    pub fn create_segment(&mut self, name: SegmentName) -> Result<SegmentMeta> {
        if self.read_only {
            return Err(Error::ReadOnly);
        }
        if !self.rewritten {
            self.rewrite_tail()?;
        }
        let last = self.segments.last().map(|(r, _)| r.meta.segment);
        if last.is_some_and(|last| name.segment <= last) {
            return Err(Error::Misuse("segment numbers must grow"));
        }
        // A store that grew stays at the size it grew to.
        let largest = self.segments.iter().map(|(r, _)| r.meta.capacity).max().unwrap_or(0);
        let capacity =
            largest.max(self.options.initial_segment_size).min(self.options.segment_size);
        let (fs, dir) = (&*self.fs, &*self.dir);
        let segment = Segment::create(fs, dir, self.database, name, capacity, &self.options)?;
        let meta = segment.meta;
        self.fresh = Some(segment);
        Ok(meta)
    }

    /// Removes the file of the segment made here: for a recovery that goes no further, if the segment
    /// is certainly not named. Failing that, it is left for the next one.
    pub fn abandon_segment(&mut self) {
        if let Some(fresh) = self.fresh.take()
            && let Err(error) = self.fs.remove(&fresh.data.path)
        {
            tracing::warn!(path = %fresh.data.path.display(), %error, "a segment is not removed");
        }
    }

    /// Where the segments are, up to what was replayed, the fresh segment included.
    pub fn view(&self) -> Arc<LogView> {
        let mut places: Vec<_> =
            self.relocated.iter().map(|(id, t)| (*id, Place::Relocated(t.clone()))).collect();
        let open = self.segments.iter().map(|(_, s)| s).chain(&self.fresh);
        places.extend(open.map(|s| (s.id(), Place::Raw(s.clone()))));
        places.sort_by_key(|(id, _)| *id);
        Arc::new(LogView::new(places, self.options.verify_reads))
    }

    /// Opens the log for appending.
    ///
    /// After [`Start::Clean`] it goes on behind the footer, and named segments behind it stay
    /// its spares. After [`Start::At`] the segment made here is the active one, the old one is
    /// never appended to again, and the segments that the replay did not reach are not part of
    /// the log any more.
    ///
    /// # Errors
    /// [`Error::Misuse`] if the steps before were not taken; [`Error::ReadOnly`].
    pub fn into_log<C>(self, namer: Arc<dyn SegmentNamer>, start: Start) -> Result<Log<C>> {
        if self.read_only {
            return Err(Error::ReadOnly);
        }
        let view = self.view();
        let Some(outcome) = self.outcome else {
            return Err(Error::Misuse("a log must be replayed before it is appended to"));
        };
        // What lies before the segment to go on in is not written any more.
        let left = match start {
            Start::Clean => outcome.index.unwrap_or(0),
            Start::At(_) => self.segments.len(),
        };
        self.segments.iter().take(left).for_each(|(_, segment)| segment.data.settle());
        let (mut writer, tail, admission, view) = match start {
            Start::Clean => {
                let (Some(index), Some(footer), true) =
                    (outcome.index, outcome.footer, outcome.clean)
                else {
                    return Err(Error::Misuse("the log did not end with a footer"));
                };
                let mut later = self.segments.into_iter().skip(index).map(|(_, s)| s);
                let Some(active) = later.next() else {
                    return Err(Error::Misuse("the log has no segment"));
                };
                let at = outcome.end.offset;
                let left = active.capacity().saturating_sub(at + MARKER_LEN + END_RESERVE);
                let admission = Admission::new(
                    left / 8 * 8,
                    later.collect(),
                    &active,
                    self.options.segment_size,
                );
                let writer = Writer::new(active.clone(), at, outcome.totals, None, Some(footer));
                (writer, tail(active, outcome.end), admission, view)
            }
            Start::At(segment) => {
                let Some(fresh) = self.fresh.filter(|s| s.id() == segment) else {
                    return Err(Error::Misuse("go on at a segment made by this recovery"));
                };
                let link = match outcome.index {
                    Some(_) => LinkBody::to(
                        &outcome.totals.sealed(outcome.end.segment, outcome.end.offset),
                    ),
                    None => LinkBody::NONE,
                };
                let first = Position::new(fresh.id(), FIRST_FRAME);
                let admission = Admission::new(
                    usable(fresh.capacity()),
                    Default::default(),
                    &fresh,
                    self.options.segment_size,
                );
                let writer =
                    Writer::new(fresh.clone(), FIRST_FRAME, Totals::default(), Some(link), None);
                let view = Arc::new(view.without(&outcome.unreached));
                (writer, tail(fresh, first), admission, view)
            }
        };
        writer.largest_version = outcome.largest_version;
        let left: Vec<_> = match start {
            // Passed by in the replay, sealed by nobody yet.
            Start::Clean => outcome.left.into_iter().collect(),
            // Reported in `ReplayEnd::sealed`, and sealed by the caller.
            Start::At(_) => Vec::new(),
        };
        let shared = Shared {
            fs: self.fs,
            dir: self.dir,
            database: self.database,
            options: self.options,
            namer,
            admission: CachePadded::new(Mutex::new(admission)),
            room: Condvar::new(),
            poison: OnceLock::new(),
            view: RwLock::new(view),
            durable: CachePadded::new(AtomicU64::new(tail.durable.packed())),
            tail: CachePadded::new(Mutex::new(tail)),
            sync_gate: Mutex::new(()),
            sealing: Mutex::new(()),
            usage: CachePadded::new(Usage::new()),
            pool: Mutex::new(Pool::default()),
            segment_limit: AtomicU32::new(u32::MAX),
            any_left: AtomicBool::new(!left.is_empty()),
            left: Mutex::new(left),
        };
        Ok(Log::start(log::Start { shared, writer, last_version: outcome.largest_version }))
    }
}

fn tail(active: Arc<Segment>, end: Position) -> Tail {
    active.data.set_written(end.offset);
    Tail { end, durable: end, active, dirty: Vec::new(), unsynced: 0, written: 0 }
}
