//! Replay: every whole frame in order, then why it stopped.

use std::sync::Arc;

use zerocopy::FromBytes;

use crate::format::{FIRST_FRAME, FRAME_HEADER, FooterBody, Kind, LinkBody, Totals};
use crate::frame::FrameView;
use crate::reader::Reader;
use crate::recovery::Recovery;
use crate::scan::search_marks;
use crate::segment::Segment;
use crate::{Error, Position, ReplayError, Result, SealedSegment};

/// Behind a footer, this many bytes of zeros mean that nothing was appended after it.
const ZEROS_BEHIND_FOOTER: u32 = 1 << 20;

/// How a log ended.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ReplayEnd {
    /// Behind the last frame that verified.
    pub end: Position,
    /// The last frame is a footer and nothing was appended behind it: the log was closed. An
    /// empty log is clean, too.
    pub clean: bool,
    /// Number of transactions that were replayed.
    pub frames: u64,
    /// Number of records in them.
    pub records: u64,
    /// The largest version of any frame or record; 0 if there was none.
    pub largest_version: u64,
    /// Bytes behind the end, up to the last one that is not zero in the same segment, that are
    /// not part of the log: a torn tail. In a file that was used again, what is left there of its
    /// earlier life counts too.
    pub cut_bytes: u64,
    /// Everything before this was durable before this opening.
    pub durable_to: Position,
    /// Segments that will not be appended to any more and are not sealed in the caller's
    /// manifest: those that were left for a later one, and after an unclean end the last one,
    /// cut at the end. For the last one to be durable takes
    /// [`Recovery::rewrite_tail`](crate::Recovery::rewrite_tail).
    pub sealed: Vec<SealedSegment>,
    /// After an unclean end, the named segments behind it. Nothing in them is part of the log;
    /// they must be freed in the change set that goes on with a new segment.
    pub unreached: Vec<u32>,
    /// With [`Options::salvage`](crate::Options::salvage): the damage at which the log was cut.
    pub damage: Option<Damage>,
}

/// Durable data that does not verify.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Damage {
    /// The file.
    pub path: std::path::PathBuf,
    /// Where the first frame that does not verify begins.
    pub position: Position,
    /// How far the log was known to be durable: what lies between is lost.
    pub durable_to: Position,
}

/// What the recovery needs to go on.
pub(crate) struct Outcome {
    /// Which segment the log ends in, if any.
    pub(crate) index: Option<usize>,
    /// Where each segment that was passed ends; by index, 0 for those before the head.
    pub(crate) lengths: Vec<u32>,
    pub(crate) end: Position,
    pub(crate) clean: bool,
    pub(crate) totals: Totals,
    pub(crate) footer: Option<Vec<u8>>,
    pub(crate) durable: Position,
    pub(crate) left: Vec<(Arc<Segment>, SealedSegment)>,
    pub(crate) unreached: Vec<u32>,
    pub(crate) largest_version: u64,
}

/// Replay in progress.
struct Replay<'a> {
    recovery: &'a Recovery,
    at: u32,
    /// Of the current segment, if it was read from its beginning.
    totals: Option<Totals>,
    footer: Option<Vec<u8>>,
    footer_totals: Option<Totals>,
    /// What the current segment must begin with.
    link: Option<LinkBody>,
    durable: Position,
    frames: u64,
    records: u64,
    largest_version: u64,
}

pub(crate) fn replay<E>(
    recovery: &Recovery,
    salvage: bool,
    mut on_frame: impl FnMut(FrameView<'_>) -> Result<(), E>,
) -> Result<(ReplayEnd, Outcome), ReplayError<E>> {
    let head = recovery.head;
    let segments = &recovery.segments;
    let first = segments.iter().position(|(r, _)| r.meta.segment == head.segment);
    let mut state = Replay {
        recovery,
        at: head.offset,
        totals: (head.offset == FIRST_FRAME).then(Totals::default),
        footer: None,
        footer_totals: None,
        link: None,
        durable: head,
        frames: 0,
        records: 0,
        largest_version: 0,
    };
    let Some(mut index) = first else {
        return Ok(empty(head));
    };
    let mut lengths = vec![0; segments.len()];
    let mut left = left_before(recovery, index)?;
    loop {
        state.segment(index, &mut on_frame)?;
        lengths[index] = state.at;
        let Some(sealed) = state.next(index)? else { break };
        if segments[index].0.sealed.is_none() {
            left.push((segments[index].1.clone(), sealed));
        }
        state.link = Some(LinkBody::to(&sealed));
        index += 1;
        state.at = FIRST_FRAME;
        state.totals = Some(Totals::default());
        state.footer = None;
        state.footer_totals = None;
    }
    Ok(state.finish(index, lengths, left, salvage)?)
}

fn empty(head: Position) -> (ReplayEnd, Outcome) {
    let end = ReplayEnd {
        end: head,
        clean: true,
        frames: 0,
        records: 0,
        largest_version: 0,
        cut_bytes: 0,
        durable_to: head,
        sealed: Vec::new(),
        unreached: Vec::new(),
        damage: None,
    };
    let outcome = Outcome {
        index: None,
        lengths: Vec::new(),
        end: head,
        clean: false,
        totals: Totals::default(),
        footer: None,
        durable: head,
        left: Vec::new(),
        unreached: Vec::new(),
        largest_version: 0,
    };
    (end, outcome)
}

impl Replay<'_> {
    /// Replays the frames of one segment from `self.at` on, up to the first that does not verify.
    fn segment<E>(
        &mut self,
        index: usize,
        on_frame: &mut impl FnMut(FrameView<'_>) -> Result<(), E>,
    ) -> Result<(), ReplayError<E>> {
        let (record, segment) = &self.recovery.segments[index];
        let limit = record.sealed.as_ref().map_or(segment.capacity(), |s| s.length);
        let mut reader = Reader::new(segment, limit);
        while let Some((header, bytes, largest)) = reader.frame(self.at)? {
            // A link is the first frame and only the first.
            let kind = header.kind();
            if (kind == Some(Kind::Link)) != (self.at == FIRST_FRAME) {
                break;
            }
            if let (true, Some(link)) = (kind == Some(Kind::Link), &self.link)
                && LinkBody::read_from_bytes(&bytes[FRAME_HEADER..]).ok().as_ref() != Some(link)
            {
                break;
            }
            self.largest_version = self.largest_version.max(largest);
            if kind == Some(Kind::Transaction) {
                let view = FrameView::new(bytes, &header, Position::new(segment.id(), self.at));
                self.frames += 1;
                self.records += u64::from(view.len());
                on_frame(view).map_err(ReplayError::Caller)?;
            }
            self.footer = None;
            if kind == Some(Kind::Footer) {
                let body = FooterBody::read_from_bytes(&bytes[FRAME_HEADER..]);
                self.footer = Some(bytes.to_vec());
                self.footer_totals = body
                    .ok()
                    .map(|b| Totals { frames: b.frames.get(), checksum: b.checksum.get() });
                if let Some(totals) = &mut self.footer_totals {
                    totals.add(header.raw_crc());
                }
            } else if let Some(totals) = &mut self.footer_totals {
                totals.add(header.raw_crc());
            }
            if let Some(totals) = &mut self.totals {
                totals.add(header.raw_crc());
            }
            self.durable = self.durable.max(header.durable());
            self.at += header.len();
        }
        Ok(())
    }

    /// Whether the log goes on in the segment behind `index`, and as what this one was left.
    fn next(&mut self, index: usize) -> Result<Option<SealedSegment>> {
        let (record, segment) = &self.recovery.segments[index];
        let next = self.recovery.segments.get(index + 1).map(|(_, s)| s);
        if let Some(sealed) = &record.sealed {
            self.durable = self.durable.max(Position::new(sealed.segment, sealed.length));
            let wrong = self
                .known_totals()
                .is_some_and(|t| t != Totals { frames: sealed.frames, checksum: sealed.checksum });
            if self.at < sealed.length || wrong || next.is_none() {
                return Ok(None);
            }
            return Ok(Some(*sealed));
        }
        let Some(next) = next else { return Ok(None) };
        let Some(link) = read_link(next)? else { return Ok(None) };
        let same = link.segment.get() == segment.id() && link.length.get() == self.at;
        let linked = Totals { frames: link.frames.get(), checksum: link.checksum.get() };
        if !same || self.known_totals().is_some_and(|t| t != linked) {
            return Ok(None);
        }
        Ok(Some(linked.sealed(segment.id(), self.at)))
    }

    /// Frame count and checksum of the current segment, if they can be known without reading
    /// what lies before the head.
    fn known_totals(&self) -> Option<Totals> {
        self.totals.or(self.footer_totals)
    }

    fn finish(
        mut self,
        index: usize,
        lengths: Vec<u32>,
        left: Vec<(Arc<Segment>, SealedSegment)>,
        salvage: bool,
    ) -> Result<(ReplayEnd, Outcome)> {
        let segments = &self.recovery.segments;
        let (record, segment) = &segments[index];
        let end = Position::new(segment.id(), self.at);
        let mut clean = self.footer.is_some() && record.sealed.is_none();
        // What lies behind the end, and how far it says the log was durable.
        let zeros = clean.then_some(ZEROS_BEHIND_FOOTER);
        let limit = record.sealed.as_ref().map_or(segment.capacity(), |s| s.length);
        let behind = search_marks(segment, self.at, limit, zeros)?;
        let cut_bytes = u64::from(behind.nonzero_to.saturating_sub(self.at));
        let mut last_mark = behind.mark;
        if let Some(sealed) = &record.sealed {
            let sealed = Position::new(sealed.segment, sealed.length);
            last_mark = last_mark.max(Some(sealed)).filter(|m| *m > end);
        }
        for (record, segment) in &segments[index + 1..] {
            let mark = match &record.sealed {
                Some(sealed) => Some(Position::new(sealed.segment, sealed.length)),
                None => search_marks(segment, FIRST_FRAME, segment.capacity(), zeros)?.mark,
            };
            last_mark = last_mark.max(mark);
        }
        clean &= last_mark.is_none();
        let durable = last_mark.unwrap_or_default().max(self.durable);
        let mut damage = None;
        let wrong_seal = record.sealed.as_ref().is_some_and(|sealed| {
            self.at == sealed.length
                && self.known_totals().is_some_and(|t| {
                    t != Totals { frames: sealed.frames, checksum: sealed.checksum }
                })
        });
        if durable > end || wrong_seal {
            let path = segment.data.path.clone();
            if !salvage {
                let what = if wrong_seal { "the segment as it was sealed" } else { "a frame" };
                return Err(Error::Damaged { path, offset: self.at.into(), what });
            }
            damage = Some(Damage { path, position: end, durable_to: durable });
        }
        let totals = match self.known_totals() {
            Some(totals) => totals,
            None => match self.count_prefix(segment) {
                Err(error) if salvage => {
                    tracing::warn!(%error, "frames before the head cannot be counted");
                    Totals::default()
                }
                counted => counted?,
            },
        };
        let mut sealed: Vec<_> = left.iter().map(|(_, s)| *s).collect();
        let mut unreached = Vec::new();
        if !clean {
            if record.sealed.is_none() {
                sealed.push(totals.sealed(segment.id(), self.at));
            }
            unreached = segments[index + 1..].iter().map(|(r, _)| r.meta.segment).collect();
        }
        let end_of_replay = ReplayEnd {
            end,
            clean,
            frames: self.frames,
            records: self.records,
            largest_version: self.largest_version,
            cut_bytes,
            durable_to: durable.min(end),
            sealed,
            unreached: unreached.clone(),
            damage,
        };
        let outcome = Outcome {
            index: Some(index),
            lengths,
            end,
            clean,
            totals,
            footer: self.footer.take(),
            durable: durable.min(end),
            left,
            unreached,
            largest_version: self.largest_version,
        };
        Ok((end_of_replay, outcome))
    }

    /// Frame count and checksum of a segment whose beginning was not replayed, from its headers.
    fn count_prefix(&self, segment: &Segment) -> Result<Totals> {
        let mut totals = Totals::default();
        let mut reader = Reader::new(segment, self.at);
        let mut at = FIRST_FRAME;
        while at < self.at {
            let Some(header) = reader.header(at)? else {
                return Err(Error::damaged(&segment.data.path, at.into(), "a frame"));
            };
            totals.add(header.raw_crc());
            at += header.len();
        }
        Ok(totals)
    }
}

/// Segments before the head that were left and are not sealed in the caller's manifest: the head
/// may have moved on before anyone reported them. The link of the next segment has the figures.
fn left_before(recovery: &Recovery, head: usize) -> Result<Vec<(Arc<Segment>, SealedSegment)>> {
    let mut left = Vec::new();
    for pair in recovery.segments[..=head].windows(2) {
        let [(record, segment), (_, next)] = pair else { continue };
        if record.sealed.is_some() {
            continue;
        }
        if let Some(link) = read_link(next)?
            && link.segment.get() == segment.id()
        {
            let totals = Totals { frames: link.frames.get(), checksum: link.checksum.get() };
            left.push((segment.clone(), totals.sealed(segment.id(), link.length.get())));
        }
    }
    Ok(left)
}

pub(crate) fn read_link(segment: &Segment) -> Result<Option<LinkBody>> {
    let mut reader = Reader::new(segment, segment.capacity());
    let Some((header, bytes, _)) = reader.frame(FIRST_FRAME)? else { return Ok(None) };
    if header.kind() != Some(Kind::Link) {
        return Ok(None);
    }
    Ok(LinkBody::read_from_bytes(&bytes[FRAME_HEADER..]).ok())
}
