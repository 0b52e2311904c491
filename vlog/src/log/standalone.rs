//! The log on its own: appending without a sink, and a directory that is its own manifest.

use std::cmp::Reverse;
use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use kvdb_vfs::{File, Fs, OpenMode, SyncSite};

use super::{Discard, Log, SegmentNamer};
use crate::format::PAGE;
use crate::frame::{Frame, FrameView};
use crate::segment::{meta_of, read_header};
use crate::sync::Mutex;
use crate::{
    BoxError, Durability, Options, Pointer, Position, Recovery, ReplayEnd, ReplayError, Result,
    SealedSegment, SegmentMeta, SegmentName, SegmentRecord, parse_segment_path, segment_path,
};

/// A frame that was appended.
#[derive(Debug)]
#[non_exhaustive]
pub struct Appended {
    /// Where the frame begins.
    pub position: Position,
    /// The version it was given: one more than the last.
    pub version: u64,
    /// The names of its records, in order.
    pub pointers: Vec<Pointer>,
}

impl Log<()> {
    /// Appends a frame and waits until it is committed. For users without an order of their own:
    /// versions are given out here, one by one.
    ///
    /// # Errors
    /// Those of [`Log::reserve`], and those of [`Log::drive`].
    pub fn append(&self, frame: Frame, durability: Durability) -> Result<Appended> {
        let room = self.reserve(frame.len())?;
        let layout: Vec<_> = frame.layout().collect();
        let ticket = {
            let mut last = self.last_version.lock();
            *last += 1;
            self.enqueue(frame, *last, durability, room, ())
        };
        let done = self.drive(ticket, &Discard)?;
        let Position { segment, offset } = done.position;
        let pointers =
            layout.iter().map(|(at, len)| Pointer::new(segment, offset + at, *len)).collect();
        Ok(Appended { position: done.position, version: done.version, pointers })
    }
}

/// A log directory without a manifest: which segments there are is what the directory says.
///
/// Enough for a write-ahead log or a value store of its own. What a manifest adds is that lost
/// and swapped files are noticed when they were sealed long ago, and garbage collection.
#[derive(Debug)]
pub struct Directory {
    fs: Arc<dyn Fs>,
    dir: PathBuf,
    database: u128,
    /// Held by who removes segments.
    removing: Mutex<()>,
}

impl Directory {
    /// A log in `dir`, which is created if it is missing. `database` is a number of the caller's
    /// that ties the files to it.
    ///
    /// # Errors
    /// If the directory cannot be created.
    pub fn new(fs: Arc<dyn Fs>, dir: &Path, database: u128) -> Result<Self> {
        fs.create_dir_all(dir)?;
        Ok(Directory { fs, dir: dir.to_owned(), database, removing: Mutex::new(()) })
    }

    /// Replays the log from its first segment, and opens it for appending.
    ///
    /// The directory must not be in use by anyone else; see [`Fs::lock`].
    ///
    /// # Errors
    /// As [`Recovery::open`] and [`Recovery::replay`]; the callback's own end the opening.
    pub fn open<E>(
        &self,
        options: Options,
        on_frame: impl FnMut(FrameView<'_>) -> Result<(), E>,
    ) -> Result<(Log, ReplayEnd), ReplayError<E>> {
        let (segments, newest) = self.segments()?;
        let head = segments
            .first()
            .map_or(Position::ZERO, |s| Position::new(s.meta.segment, crate::FIRST_FRAME));
        let numbers = segments.iter().map(|s| s.meta.segment.into()).chain(newest);
        let next = numbers.max().map_or(1, |last| last.saturating_add(1));
        let namer = Arc::new(Numbers { next: AtomicU64::new(next) });
        let mut recovery = Recovery::open(
            self.fs.clone(),
            &self.dir,
            self.database,
            segments.clone(),
            head,
            options,
            false,
        )?;
        let end = recovery.replay(on_frame)?;
        if end.clean && recovery.end_segment().is_some() {
            return Ok((recovery.into_log(namer, crate::Start::Clean)?, end));
        }
        // Segments behind the end go for good when the directory is synced for the next one, before
        // that has a frame.
        for segment in &end.unreached {
            let meta = segments.iter().find(|s| s.meta.segment == *segment);
            if let Some(meta) = meta {
                self.fs
                    .remove(&segment_path(&self.dir, meta.meta.file))
                    .map_err(crate::Error::Io)?;
            }
        }
        let name = namer.allocate().map_err(crate::Error::Namer)?;
        let meta = recovery.create_segment(name)?;
        let log: Log = recovery.into_log(namer, crate::Start::At(meta.segment))?;
        // That a segment was begun is taken for durable by the first frames that follow.
        log.writer.lock().begin(&log.shared)?;
        Ok((log, end))
    }

    /// The segments in the directory, ascending, and the highest number that a file had. A file that
    /// was never finished is removed: neither it nor any that follows has a frame.
    fn segments(&self) -> Result<(Vec<SegmentRecord>, Option<u64>)> {
        let mut numbers: Vec<(u64, PathBuf)> = Vec::new();
        for entry in self.fs.list(&self.dir)? {
            if let Some(number) = parse_segment_path(&entry.name) {
                numbers.push((number, self.dir.join(&entry.name)));
            }
        }
        let newest = numbers.iter().map(|(number, _)| *number).max();
        let mut found: Vec<SegmentRecord> = Vec::new();
        let mut files = Vec::new();
        for (number, path) in numbers {
            let file = self.fs.open(&path, OpenMode::Read)?;
            let header = match read_header(&*file, &path) {
                Ok(header) => header,
                Err(e) => {
                    if !is_blank(&*file, 0)? {
                        return Err(e);
                    }
                    self.remove_unfinished(&path)?;
                    continue;
                }
            };
            let meta = meta_of(&header);
            if meta.file != number {
                let (expected, found) = (number, meta.file);
                return Err(crate::Error::WrongFile { path, what: "file id", expected, found });
            }
            files.push((number, path, file.len()? < meta.capacity.into()));
            found.push(SegmentRecord { meta, sealed: None, relocated: None });
        }
        // Its length is durable before the first frame is written to it, or to one that follows.
        if files.iter().any(|(.., short)| *short) {
            files.sort_unstable_by_key(|(number, ..)| Reverse(*number));
            for (number, path, short) in files {
                if !is_blank(&*self.fs.open(&path, OpenMode::Read)?, PAGE.into())? {
                    break;
                }
                if short {
                    self.remove_unfinished(&path)?;
                    found.retain(|s| s.meta.file != number);
                }
            }
        }
        found.sort_by_key(|s| s.meta.segment);
        Ok((found, newest))
    }

    fn remove_unfinished(&self, path: &Path) -> Result<()> {
        tracing::info!(path = %path.display(), "removing a segment never finished");
        Ok(self.fs.remove(path)?)
    }

    /// Removes segments that lie before `position` and are not needed any more, and takes them
    /// out of the log's view. Their values stay readable through views taken before. May be called again
    /// after an error, and by several threads, which take turns.
    ///
    /// # Errors
    /// Of the file system; [`Error::Misuse`](crate::Error::Misuse) if `position` is beyond the
    /// end of `log`.
    pub fn remove_before<C>(&self, log: &Log<C>, position: Position) -> Result<()> {
        log.prepare()?;
        if position.segment > log.end().segment {
            return Err(crate::Error::Misuse("only segments before the active one can be removed"));
        }
        let _one_at_a_time = self.removing.lock();
        let view = log.view();
        let mut old: Vec<u32> = view.segments().filter(|s| *s < position.segment).collect();
        old.sort_unstable();
        // In order, and the next one only when the one before is gone for good: what is left is always
        // the end of the log.
        for meta in old.iter().filter_map(|s| view.meta(*s)) {
            match self.fs.remove(&segment_path(&self.dir, meta.file)) {
                Err(e) if e.kind() != kvdb_vfs::ErrorKind::NotFound => return Err(e.into()),
                _ => self.fs.sync_dir(&self.dir, SyncSite::LogRemoveDir)?,
            }
            log.forget(&[meta.segment])?;
        }
        Ok(())
    }
}

/// Whether a file is all zeros from an offset on.
fn is_blank(file: &dyn File, from: u64) -> Result<bool> {
    let mut chunk = vec![0; 64 << 10];
    let mut at = from;
    loop {
        let n = file.read_at(&mut chunk, at)?;
        if n == 0 {
            return Ok(true);
        }
        if chunk[..n].iter().any(|b| *b != 0) {
            return Ok(false);
        }
        at += n as u64;
    }
}

/// Numbers segments and files alike, above all that the directory holds.
#[derive(Debug)]
struct Numbers {
    next: AtomicU64,
}

impl SegmentNamer for Numbers {
    fn allocate(&self) -> Result<SegmentName, BoxError> {
        let file = self.next.fetch_add(1, Ordering::Relaxed);
        let segment = u32::try_from(file)?;
        // Seeded by the system for every `RandomState`.
        let nonce = RandomState::new().build_hasher().finish();
        Ok(SegmentName { segment, file, nonce })
    }

    fn name(&self, _: &SegmentMeta) -> Result<(), BoxError> {
        // The directory was synced when the file was made.
        Ok(())
    }

    fn sealed(&self, _: &SealedSegment) -> Result<(), BoxError> {
        Ok(())
    }
}
