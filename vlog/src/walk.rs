//! The names of all records of a segment: key, version, pointer.

use std::ops::ControlFlow;

use crate::file::LogFile;
use crate::format::{FIRST_FRAME, FRAME_HEADER, Kind, RECORD_HEADER};
use crate::frame::{RecordParts, stored_len};
use crate::reader::Reader;
use crate::relocate::Relocation;
use crate::segment::Segment;
use crate::view::{LogView, Place};
use crate::{Error, Pointer, Result};

impl LogView {
    /// Calls `each` with key, version and pointer of every record of a segment that is not being
    /// written; of a relocated one, of those that were kept. In no particular order; until `each` breaks
    /// off.
    ///
    /// Headers of frames are verified, records are not: read a record by its pointer to know that
    /// it is intact. A frame that does not verify is taken for the end, so whoever knows how many
    /// records there must be should count.
    ///
    /// # Errors
    /// [`Error::UnknownSegment`]; [`Error::Damaged`] where no record or frame can be made out;
    /// [`Error::Io`].
    pub fn record_names(
        &self,
        segment: u32,
        mut each: impl FnMut(&[u8], u64, Pointer) -> ControlFlow<()>,
    ) -> Result<()> {
        match self.place(segment)? {
            Place::Raw(segment) => in_frames(segment, &mut each),
            Place::Relocated(table) => in_record_files(segment, table, &mut each),
        }
    }
}

/// Told of a key, a version and a pointer; says whether to go on.
type Each<'a> = dyn FnMut(&[u8], u64, Pointer) -> ControlFlow<()> + 'a;

fn in_frames(segment: &Segment, each: &mut Each<'_>) -> Result<()> {
    let damaged = |at: u32, what| Error::damaged(&segment.data.path, at.into(), what);
    let end = segment.data.written();
    let mut reader = Reader::new(segment, end);
    let mut at = FIRST_FRAME;
    while at < end {
        // The end, where it is not known more exactly than by the file's size.
        let Some(header) = reader.header(at)? else { break };
        if header.kind() == Some(Kind::Transaction) {
            let Some(bytes) = reader.bytes(at, header.len() as usize)? else {
                return Err(damaged(at, "a frame"));
            };
            let mut inside = FRAME_HEADER;
            for _ in 0..header.records.get() {
                let parts = bytes.get(inside..).and_then(RecordParts::parse);
                let offset = at + inside as u32;
                let parts = parts.ok_or_else(|| damaged(offset, "a record"))?;
                let version = parts.version.unwrap_or(header.version.get());
                let pointer = Pointer::new(segment.id(), offset, parts.len as u32);
                if each(parts.key, version, pointer).is_break() {
                    return Ok(());
                }
                inside += parts.stored_len();
            }
        }
        at += header.len();
    }
    Ok(())
}

fn in_record_files(segment: u32, table: &Relocation, each: &mut Each<'_>) -> Result<()> {
    for (old, file, offset) in table.moved()? {
        let bytes = stored(file, offset)?;
        let parts = RecordParts::parse(&bytes);
        let (Some(parts), Some(version)) = (&parts, parts.as_ref().and_then(|p| p.version)) else {
            return Err(Error::damaged(&file.path, offset.into(), "a relocated record"));
        };
        if each(parts.key, version, Pointer::new(segment, old, parts.len as u32)).is_break() {
            break;
        }
    }
    Ok(())
}

/// The bytes of a record that carries its version, at `offset`; no more than the file has is read.
pub(crate) fn stored(file: &LogFile, offset: u32) -> Result<kvdb_vfs::Region> {
    let damaged = || Error::damaged(&file.path, offset.into(), "a relocated record");
    let rest = file.written().saturating_sub(offset);
    // The header first: it says how much to read.
    let header = file.bytes(offset, rest.min(RECORD_HEADER as u32))?;
    let len = stored_len(&header).ok_or_else(damaged)?;
    if len > u64::from(rest) {
        return Err(damaged());
    }
    file.bytes(offset, len as u32)
}
