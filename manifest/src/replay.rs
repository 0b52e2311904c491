//! Reading a manifest: every whole record in order, then why it stopped.

use std::path::Path;

use kvdb_vfs::File;
use prost::Message;

use crate::format::{HEADER_LEN, Header, Kind, MAX_CHANGE_LEN, RECORD_HEADER_LEN, Record, is_ours};
use crate::{Error, Result, State};

/// How much is read at once.
const CHUNK: usize = 256 << 10;

/// The part of a torn record that opening has cut off (or would have, when read-only).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cut {
    /// Where the last whole record ends.
    pub offset: u64,
    /// How many bytes came after it.
    pub bytes: u64,
}

/// What a manifest holds.
pub(crate) struct Replayed<S> {
    pub(crate) state: S,
    /// Number of change sets.
    pub(crate) records: u64,
    /// Where the last of them starts.
    pub(crate) last: u64,
    /// Where it ends.
    pub(crate) end: u64,
    /// Whether a mark follows: all up to `end` is durable for certain.
    pub(crate) marked: bool,
    pub(crate) cut: Option<Cut>,
}

/// Reads and checks the header of a file of `len` bytes.
pub(crate) fn read_header(file: &dyn File, path: &Path, len: u64) -> Result<Header> {
    if len == 0 {
        return Err(Error::Empty { path: path.to_owned() });
    }
    let mut bytes = [0; HEADER_LEN as usize];
    let there = &mut bytes[..len.min(HEADER_LEN) as usize];
    file.read_exact_at(there, 0)?;
    // Whose it is comes first: a short file of another program is not a cut one of ours.
    if !is_ours(there) {
        return Err(Error::NotAManifest { path: path.to_owned() });
    }
    if len < HEADER_LEN {
        return Err(Error::TooShort { path: path.to_owned(), len });
    }
    Header::decode(&bytes, path)
}

/// Replays the first `len` bytes of the file.
///
/// # Errors
/// Damage that cannot be a torn tail, records that are no change sets or do not fit.
pub(crate) fn replay<S: State>(
    file: &dyn File,
    path: &Path,
    header: &Header,
    len: u64,
) -> Result<Replayed<S>> {
    let salt = header.salt();
    let mut window = Window::new(file, len);
    let mut out = Replayed {
        state: S::default(),
        records: 0,
        last: HEADER_LEN,
        end: HEADER_LEN,
        marked: false,
        cut: None,
    };
    loop {
        let at = out.end;
        let Some(head) = window.get(at, RECORD_HEADER_LEN)? else { break };
        let Some(record) = Record::decode(head, salt, at) else { break };
        if record.kind == Kind::Mark {
            out.marked = true;
            break;
        }
        let payload_at = at + RECORD_HEADER_LEN;
        let Some(payload) = window.get(payload_at, record.len.into())? else { break };
        if !record.matches(payload) {
            break;
        }
        let change = S::Change::decode(payload).map_err(|source| Error::Decode {
            path: path.to_owned(),
            offset: at,
            source,
        })?;
        out.state.check(&change).map_err(|e| Error::replayed(path, at, e))?;
        out.state.apply(&change);
        out.records += 1;
        out.last = at;
        out.end = payload_at + u64::from(record.len);
    }
    judge_tail(&mut window, path, header, &mut out)?;
    Ok(out)
}

/// Decides what the bytes behind the last whole record are: nothing, a torn append, or damage.
///
/// Every append is synced before the next one (or a mark) is written, so a valid record header
/// anywhere behind an invalid record proves that the latter was durable once. Without such a
/// witness the tail is what a crash left of the last append, of which nobody was told.
fn judge_tail<S>(
    window: &mut Window<'_>,
    path: &Path,
    header: &Header,
    out: &mut Replayed<S>,
) -> Result<()> {
    let (end, len) = (out.end, window.len);
    if end < header.base {
        return Err(Error::corrupt(path, end, "a record that was durable is damaged"));
    }
    let known = if out.marked { end + RECORD_HEADER_LEN } else { end };
    if known == len {
        return Ok(());
    }
    let bytes = len - end;
    if bytes > RECORD_HEADER_LEN + MAX_CHANGE_LEN {
        return Err(Error::corrupt(path, end, "what follows is longer than any record"));
    }
    let from = if out.marked { known } else { end + 1 };
    if find_record(window, header, from)? {
        return Err(Error::corrupt(path, end, "a damaged record has valid ones behind it"));
    }
    out.cut = Some(Cut { offset: end, bytes });
    Ok(())
}

/// Whether a valid record header starts at `from` or anywhere behind it. Linear in the length of
/// the tail: a header is judged by itself, without its payload.
fn find_record(window: &mut Window<'_>, header: &Header, from: u64) -> Result<bool> {
    let salt = header.salt();
    let mut at = from;
    while at + RECORD_HEADER_LEN <= window.len {
        let size = (window.len - at).min(CHUNK as u64);
        let Some(bytes) = window.get(at, size)? else { break };
        let starts = bytes.windows(RECORD_HEADER_LEN as usize);
        for (i, candidate) in starts.enumerate() {
            if Record::decode(candidate, salt, at + i as u64).is_some() {
                return Ok(true);
            }
        }
        at += size - RECORD_HEADER_LEN + 1;
    }
    Ok(false)
}

/// A buffer that moves over the file, so that neither a long tail nor a sparse file is ever held
/// in memory as a whole.
struct Window<'a> {
    file: &'a dyn File,
    len: u64,
    start: u64,
    buf: Vec<u8>,
}

impl<'a> Window<'a> {
    fn new(file: &'a dyn File, len: u64) -> Self {
        Window { file, len, start: 0, buf: Vec::new() }
    }

    /// `size` bytes at `offset`, or `None` if the file ends before. The caller bounds `size`.
    fn get(&mut self, offset: u64, size: u64) -> Result<Option<&[u8]>> {
        let Some(end) = offset.checked_add(size).filter(|end| *end <= self.len) else {
            return Ok(None);
        };
        if offset < self.start || end > self.start + self.buf.len() as u64 {
            let fill = size.max(CHUNK as u64).min(self.len - offset);
            self.buf.clear();
            self.buf.resize(fill as usize, 0);
            self.start = offset;
            if let Err(e) = self.file.read_exact_at(&mut self.buf, offset) {
                self.buf.clear();
                return Err(e.into());
            }
        }
        let at = (offset - self.start) as usize;
        Ok(Some(&self.buf[at..at + size as usize]))
    }
}
