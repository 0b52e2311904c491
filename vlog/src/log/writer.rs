//! The end of the log: placing, sealing and writing the frames of a group.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use kvdb_vfs::{SyncSite, WriteMode};
use zerocopy::IntoBytes;

use super::Shared;
use super::admission::Placing;
use super::blocks::{Blocks, ONE_WRITE};
use super::queue::Group;
use super::sink::Sink;
use crate::format::{
    FIRST_FRAME, FooterBody, Kind, LINK_LEN, LinkBody, MARKER_LEN, PAGE, Totals, control_frame,
};
use crate::frame::Frame;
use crate::options::SyncMethod;
use crate::segment::Segment;
use crate::sync::lock_busy;
use crate::{Error, Position, Result};

/// A frame this large is written from where it was encoded; smaller ones are copied together.
const OWN_WRITE: usize = 32 << 10;

/// Where the next frame goes. Owned by whoever holds the writer's lock.
pub(crate) struct Writer {
    pub(crate) active: Arc<Segment>,
    /// Offset of the next frame.
    pub(crate) at: u32,
    pub(crate) totals: Totals,
    /// Records in the active segment, as far as this process knows.
    pub(crate) records: u64,
    /// The link that the active segment still has to begin with.
    pub(crate) link: Option<LinkBody>,
    /// The log ends with this footer, written by an earlier life.
    pub(crate) footer: Option<Vec<u8>>,
    /// Nothing follows the last footer of this process either.
    pub(crate) closed_here: bool,
    /// The furthest durable-to mark in any frame.
    pub(crate) carried: Position,
    /// Behind the last transaction.
    pub(crate) content: Position,
    /// The largest version of any frame.
    pub(crate) largest_version: u64,
    buffer: Vec<u8>,
    chunks: Vec<Chunk>,
    blocks: Blocks,
    /// Segments left by the group being written.
    leaving: Vec<Arc<Segment>>,
    /// There was no spare behind the last group.
    wants_spare: bool,
}

/// A group that was written.
pub(crate) struct Written {
    /// Everything before this is durable.
    pub(crate) durable: Position,
    /// There is something for [`Log::prepare`](super::Log::prepare) to do.
    pub(crate) housekeeping_due: bool,
}

/// One write.
struct Chunk {
    /// Which segment: so many had been left before by the same group. One that was left is
    /// `leaving[left]`, the last one is the active segment.
    left: usize,
    offset: u32,
    source: Source,
}

enum Source {
    /// A part of the group's buffer.
    Buffer(Range<usize>),
    /// A frame's own buffer.
    Frame(usize),
}

impl Chunk {
    fn bytes<'a>(&self, buffer: &'a [u8], frames: &'a [Frame]) -> &'a [u8] {
        match &self.source {
            Source::Buffer(range) => buffer.get(range.clone()).unwrap_or_default(),
            Source::Frame(i) => frames.get(*i).map_or(&[][..], |f| f.bytes()),
        }
    }
}

/// What became of a group that could not be written.
pub(crate) struct WriteFailure {
    pub(crate) error: Error,
    /// Some of its bytes may be in the file.
    pub(crate) touched: bool,
}

impl WriteFailure {
    fn before(error: Error) -> Self {
        WriteFailure { error, touched: false }
    }

    fn after(error: Error) -> Self {
        WriteFailure { error, touched: true }
    }
}

impl Writer {
    pub(crate) fn new(
        active: Arc<Segment>,
        at: u32,
        totals: Totals,
        link: Option<LinkBody>,
        footer: Option<Vec<u8>>,
    ) -> Self {
        let end = Position::new(active.id(), at);
        Writer {
            active,
            at,
            totals,
            records: 0,
            link,
            footer,
            closed_here: false,
            carried: end,
            content: end,
            largest_version: 0,
            buffer: Vec::new(),
            chunks: Vec::new(),
            blocks: Blocks::default(),
            leaving: Vec::new(),
            wants_spare: false,
        }
    }

    fn end(&self) -> Position {
        Position::new(self.active.id(), self.at)
    }

    /// Writes a group: places its frames, lets the sink route them, seals them, writes them, and
    /// syncs if a member asked for it.
    pub(crate) fn write_group<C>(
        &mut self,
        shared: &Shared,
        group: &mut Group<C>,
        sink: &dyn Sink<C>,
    ) -> Result<Written, WriteFailure> {
        self.resume(shared).map_err(WriteFailure::before)?;
        let steps = self.place(shared, group).map_err(WriteFailure::before)?;
        sink.route(&mut group.routed);
        self.encode(shared, group, &steps);
        let sync = group.wants_sync();
        shared.usage.count(sync);
        let done = self.write_out(shared, &group.frames, sync, SyncSite::LogGroup);
        self.buffer.clear();
        self.chunks.clear();
        if self.buffer.capacity() > 4 * OWN_WRITE.max(shared.options.max_group_bytes) {
            self.buffer = Vec::new();
        }
        let mut written = done.map_err(WriteFailure::after)?;
        written.housekeeping_due |= self.wants_spare || shared.any_left.load(Ordering::Relaxed);
        Ok(written)
    }

    /// Decides where each frame of the group goes. Returns the segments to enter, each before
    /// the frame with the index beside it.
    fn place<C>(
        &mut self,
        shared: &Shared,
        group: &mut Group<C>,
    ) -> Result<Vec<(usize, Arc<Segment>)>> {
        let mut steps = Vec::new();
        let (mut segment, mut at) = (self.active.id(), self.at);
        let mut linked = self.link.is_none();
        let mut records = self.records;
        let mut a = lock_busy(&shared.admission);
        for (i, frame) in group.routed.iter_mut().enumerate() {
            let (room, len) = (group.nodes[i].room, frame.len);
            if room < u64::from(len) {
                return Err(Error::RoomTooSmall { frame: len.into(), room });
            }
            if records >= shared.options.max_segment_records
                && let Some(next) = a.rotate_early()
            {
                (segment, at, linked, records) = (next.id(), FIRST_FRAME, false, 0);
                steps.push((i, next));
            }
            loop {
                match a.place(len) {
                    Placing::Fits => break,
                    Placing::Enter(next) => {
                        (segment, at, linked, records) = (next.id(), FIRST_FRAME, false, 0);
                        steps.push((i, next));
                    }
                    Placing::NoRoom => {
                        return Err(Error::Misuse("a frame that was admitted has no place"));
                    }
                }
            }
            if !linked {
                at += LINK_LEN;
                linked = true;
            }
            frame.position = Position::new(segment, at);
            at += len;
            records += u64::from(frame.records);
        }
        self.wants_spare = a.wants_spare();
        shared.wake_waiting(&a);
        Ok(steps)
    }

    /// Seals the frames and gathers what is to be written.
    fn encode<C>(
        &mut self,
        shared: &Shared,
        group: &mut Group<C>,
        steps: &[(usize, Arc<Segment>)],
    ) {
        let durable = shared.known_durable();
        let mut steps = steps.iter().peekable();
        for (i, frame) in group.frames.iter_mut().enumerate() {
            while let Some((_, next)) = steps.next_if(|(before, _)| *before == i) {
                self.enter(shared, next.clone(), durable);
            }
            self.link(durable);
            let routed = &group.routed[i];
            debug_assert_eq!(routed.position, self.end(), "placing and encoding agree");
            let raw = frame.seal(self.active.data.salt, self.at, routed.version, durable);
            self.totals.add(raw);
            self.records += u64::from(routed.records);
            if frame.len() >= OWN_WRITE {
                let (left, offset) = (self.leaving.len(), self.at);
                self.chunks.push(Chunk { left, offset, source: Source::Frame(i) });
                self.at += frame.len() as u32;
            } else {
                self.append(frame.bytes());
            }
            self.carried = self.carried.max(durable);
            self.content = self.end();
            self.largest_version = self.largest_version.max(routed.version);
        }
    }

    /// Leaves the active segment for `next`.
    fn enter(&mut self, shared: &Shared, next: Arc<Segment>, durable: Position) {
        // Passed by without a frame: its link is what keeps the chain whole.
        self.link(durable);
        let sealed = self.totals.sealed(self.active.id(), self.at);
        let left = std::mem::replace(&mut self.active, next);
        self.leaving.push(left.clone());
        shared.leave(left, sealed);
        self.link = Some(LinkBody::to(&sealed));
        self.at = FIRST_FRAME;
        self.totals = Totals::default();
        self.records = 0;
    }

    /// Writes the active segment's link if it has none yet.
    fn link(&mut self, durable: Position) {
        let Some(body) = self.link.take() else { return };
        self.control(Kind::Link, body.as_bytes(), durable);
    }

    fn control(&mut self, kind: Kind, body: &[u8], durable: Position) {
        let mut bytes = Vec::with_capacity(64);
        // What a link says is still known when every segment before it was removed.
        let version = if kind == Kind::Link { self.largest_version } else { 0 };
        let salt = self.active.data.salt;
        let raw = control_frame(&mut bytes, kind, version, body, salt, self.at, durable);
        self.totals.add(raw);
        self.append(&bytes);
        self.carried = self.carried.max(durable);
    }

    /// Copies bytes for the current offset into the group's buffer.
    fn append(&mut self, bytes: &[u8]) {
        debug_assert!(
            self.at as usize + bytes.len() <= self.active.capacity() as usize,
            "room was set aside"
        );
        let start = self.buffer.len();
        self.buffer.extend_from_slice(bytes);
        let end = self.buffer.len();
        match self.chunks.last_mut() {
            Some(Chunk { left, offset, source: Source::Buffer(range) })
                if *left == self.leaving.len()
                    && *offset as usize + range.len() == self.at as usize =>
            {
                range.end = end;
            }
            _ => self.chunks.push(Chunk {
                left: self.leaving.len(),
                offset: self.at,
                source: Source::Buffer(start..end),
            }),
        }
        self.at += bytes.len() as u32;
    }

    /// Writes the gathered chunks, lets readers see them, and syncs if asked to.
    fn write_out(
        &mut self,
        shared: &Shared,
        frames: &[Frame],
        sync: bool,
        site: SyncSite,
    ) -> Result<Written> {
        let end = self.end();
        let interval = shared.options.sync_interval_bytes;
        let mut written = Written { durable: Position::ZERO, housekeeping_due: false };
        let mut unsynced = 0;
        let durable_write =
            sync && self.is_one_durable_write(frames) && lock_busy(&shared.tail).is_clean();
        let padding = self.pad();
        let mode = if durable_write { WriteMode::Durable(site) } else { WriteMode::Buffered };
        for run in self.chunks.chunk_by(|a, b| a.left == b.left) {
            let Some(first) = run.first() else { continue };
            debug_assert!(first.left <= self.leaving.len(), "there is one active segment");
            let segment = self.leaving.get(first.left).unwrap_or(&self.active);
            if segment.is_direct() {
                let parts = run.iter().map(|chunk| chunk.bytes(&self.buffer, frames));
                self.blocks.write(segment, first.offset, parts, mode)?;
            }
            for chunk in run {
                let bytes = chunk.bytes(&self.buffer, frames);
                if segment.is_direct() {
                    segment.data.remember(chunk.offset, bytes);
                } else {
                    let padded = match &chunk.source {
                        Source::Buffer(range) if range.end + padding == self.buffer.len() => {
                            self.buffer.get(range.start..).unwrap_or_default()
                        }
                        _ => bytes,
                    };
                    segment.write(padded, chunk.offset, mode)?;
                }
                let behind = chunk.offset + bytes.len() as u32;
                segment.data.set_written(behind);
                let mut tail = lock_busy(&shared.tail);
                tail.advance(segment, behind, bytes.len() as u64);
                (written.durable, unsynced) = (tail.durable, tail.unsynced);
            }
        }
        self.leaving.drain(..).for_each(|segment| segment.data.settle());
        self.closed_here = false;
        if durable_write {
            let mut tail = lock_busy(&shared.tail);
            shared.set_durable(&mut tail, end);
            tail.unsynced = 0;
            written.durable = tail.durable;
        } else if sync || unsynced >= 2 * interval {
            let site = if sync { site } else { SyncSite::LogBackground };
            written.durable = shared.sync_to(end, site)?;
        } else {
            written.housekeeping_due = unsynced >= interval;
        }
        Ok(written)
    }

    /// Whether a group that was gathered is one write, of a kind that can be durable by itself.
    fn is_one_durable_write(&self, frames: &[Frame]) -> bool {
        let here = self.chunks.iter().all(|c| c.left == self.leaving.len());
        let bytes: usize = self.chunks.iter().map(|c| c.bytes(&self.buffer, frames).len()).sum();
        here && match self.active.method {
            SyncMethod::Fdatasync => false,
            SyncMethod::DurableWrite => self.chunks.len() == 1,
            SyncMethod::Direct => self.active.is_direct() && bytes <= ONE_WRITE,
        }
    }

    /// Extends the last write to a page's end, if it enters a page of a file that had an earlier
    /// life: else the kernel would have to read the page first. Returns by how many bytes.
    fn pad(&mut self) -> usize {
        // The last chunk is one of the active segment.
        let Some(Chunk { offset, source: Source::Buffer(range), .. }) = self.chunks.last() else {
            return 0;
        };
        let segment = &self.active;
        let enters = *offset / PAGE != (self.at - 1) / PAGE || offset.is_multiple_of(PAGE);
        if segment.is_direct() || !segment.recycled || !enters || range.end != self.buffer.len() {
            return 0;
        }
        let padding = (self.at.next_multiple_of(PAGE) - self.at) as usize;
        self.buffer.resize(self.buffer.len() + padding, 0);
        padding
    }

    /// Before the first frame behind a footer of an earlier life: writes the footer once more
    /// (what the cache shows need not be on the disk) and a marker behind it, and syncs both.
    ///
    /// From then on the log does not end with a footer. Without the marker, frames that were
    /// torn by a crash could leave the footer as the last frame that verifies, the log would
    /// pass for cleanly closed, and be appended to in front of remains of the lost frames.
    fn resume(&mut self, shared: &Shared) -> Result<()> {
        let Some(footer) = self.footer.take() else { return Ok(()) };
        self.at -= footer.len() as u32;
        let durable = self.end();
        self.append(&footer);
        // Its place was set aside when the log was opened.
        self.control(Kind::Marker, &[], durable);
        let done = self.write_out(shared, &[], true, SyncSite::LogGroup);
        self.buffer.clear();
        self.chunks.clear();
        done.map(|_| ())
    }

    /// Writes a marker that carries the durable mark past the last transaction, and syncs it.
    /// `false` if no marker is needed, or there is no room for one.
    pub(crate) fn mark(&mut self, shared: &Shared) -> Result<bool> {
        let durable = lock_busy(&shared.tail).durable;
        if self.content <= self.carried || durable < self.content || self.link.is_some() {
            return Ok(false);
        }
        if !lock_busy(&shared.admission).take(MARKER_LEN) {
            return Ok(false);
        }
        self.control(Kind::Marker, &[], durable);
        let done = self.write_out(shared, &[], true, SyncSite::LogBackground);
        self.buffer.clear();
        self.chunks.clear();
        done.map(|_| true)
    }

    /// Leaves the active segment for the last spare and begins that durably. `None`: room is
    /// reserved, and nothing was done.
    pub(crate) fn rotate(&mut self, shared: &Shared) -> Result<Option<Position>> {
        self.resume(shared)?;
        let entered = lock_busy(&shared.admission).rotate_all();
        if entered.is_empty() {
            return Ok(None);
        }
        let durable = lock_busy(&shared.tail).durable;
        for next in entered {
            self.enter(shared, next, durable);
        }
        self.begin(shared)?;
        Ok(Some(self.end()))
    }

    /// Begins the active segment, which has no frame yet, durably.
    pub(crate) fn begin(&mut self, shared: &Shared) -> Result<()> {
        let durable = lock_busy(&shared.tail).durable;
        self.link(durable);
        let done = self.write_out(shared, &[], true, SyncSite::LogBackground);
        self.buffer.clear();
        self.chunks.clear();
        done.map(|_| ())
    }

    /// Ends the log with a footer, unless it ends with one. Everything else is durable already.
    pub(crate) fn close(&mut self, shared: &Shared) -> Result<()> {
        if self.footer.is_some() || self.closed_here {
            return Ok(());
        }
        let durable = lock_busy(&shared.tail).durable;
        self.link(durable);
        let body =
            FooterBody { frames: self.totals.frames.into(), checksum: self.totals.checksum.into() };
        self.control(Kind::Footer, body.as_bytes(), durable);
        let done = self.write_out(shared, &[], true, SyncSite::LogClose);
        self.buffer.clear();
        self.chunks.clear();
        self.closed_here = true;
        done.map(|_| ())
    }
}
