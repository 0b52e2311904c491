//! Reading everything of a segment, to find damage before a reader does.

use crate::file::LogFile;
use crate::format::{FIRST_FRAME, Kind, Totals};
use crate::frame::RecordParts;
use crate::reader::Reader;
use crate::relocate::Relocation;
use crate::segment::Segment;
use crate::view::{LogView, Place};
use crate::{Error, Result, SealedSegment};

/// What [`LogView::verify`] read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Verified {
    /// Transactions; 0 for a relocated segment, which has no frames.
    pub frames: u64,
    /// Records.
    pub records: u64,
    /// Bytes of frames or records.
    pub bytes: u64,
}

impl LogView {
    /// Verifies every frame of a segment (or every record, of a relocated one), and with `sealed`
    /// that they are those it was sealed with. Costs reading the segment once.
    ///
    /// # Errors
    /// [`Error::Damaged`] with file and offset of the first thing that does not verify;
    /// [`Error::UnknownSegment`]; [`Error::Io`].
    pub fn verify(&self, segment: u32, sealed: Option<&SealedSegment>) -> Result<Verified> {
        match self.place(segment)? {
            Place::Raw(segment) => verify_frames(segment, sealed),
            Place::Relocated(table) => verify_records(table),
        }
    }
}

fn verify_frames(segment: &Segment, sealed: Option<&SealedSegment>) -> Result<Verified> {
    let path = &segment.data.path;
    let end = sealed.map_or(segment.data.written(), |s| s.length.min(segment.capacity()));
    let mut reader = Reader::new(segment, end);
    let (mut done, mut totals) = (Verified::default(), Totals::default());
    let mut at = FIRST_FRAME;
    while at < end {
        let Some((header, _, _)) = reader.frame(at)? else {
            return Err(Error::damaged(path, at.into(), "a frame"));
        };
        if header.kind() == Some(Kind::Transaction) {
            done.frames += 1;
            done.records += u64::from(header.records.get());
        }
        totals.add(header.raw_crc());
        at += header.len();
    }
    done.bytes = u64::from(at - FIRST_FRAME);
    match sealed {
        Some(sealed) if totals.sealed(segment.id(), at) != *sealed => {
            Err(Error::damaged(path, at.into(), "the segment as it was sealed"))
        }
        _ => Ok(done),
    }
}

fn verify_records(table: &Relocation) -> Result<Verified> {
    let mut done = Verified::default();
    for (file, offset) in table.records()? {
        let len = verify_record(file, offset)?;
        done.records += 1;
        done.bytes += len as u64;
    }
    Ok(done)
}

/// Verifies a record that carries its version, at `offset`; returns its length in the file.
fn verify_record(file: &LogFile, offset: u32) -> Result<usize> {
    let damaged = || Error::damaged(&file.path, offset.into(), "a relocated record");
    let bytes = crate::walk::stored(file, offset)?;
    let parts = RecordParts::parse(&bytes).ok_or_else(damaged)?;
    let version = parts.version.ok_or_else(damaged)?;
    let raw = crc32fast::hash(parts.covered);
    match file.salt.matches(parts.stored_crc, raw, offset.into(), version) {
        true => Ok(bytes.len()),
        false => Err(damaged()),
    }
}
