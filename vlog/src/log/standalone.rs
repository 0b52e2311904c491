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

/// So many versions are left out where frames may have been lost: more than a process can have given
/// out.
const VERSION_GAP: u64 = 1 << 32;

/// A frame that was appended.
#[derive(Debug)]
#[non_exhaustive]
pub struct Appended {
    /// Where the frame begins.
    pub position: Position,
    /// The version it was given: one more than the last; many more after an unclean end, since those
    /// that were lost are not given out again.
    pub version: u64,
    /// The names of its records, in order.
    pub pointers: Vec<Pointer>,
}

impl Log<()> {
    /// Appends a frame and waits until it is committed. For users without an order of their own:
    /// versions are given out here, one by one.
    ///
    /// # Errors
    /// Those of [`Log::reserve`], and those of [`Log::drive`]; [`Error::Misuse`](crate::Error::Misuse)
    /// if no version is left above the largest that was found.
    pub fn append(&self, frame: Frame, durability: Durability) -> Result<Appended> {
        let room = self.reserve(frame.len())?;
        let layout: Vec<_> = frame.layout().collect();
        let ticket = {
            let mut last = self.last_version.lock();
            *last = last.checked_add(1).ok_or(crate::Error::Misuse("no version is left"))?;
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
/// and swapped files are noticed when they were sealed long ago, and garbage collection. (Here a newest
/// file that was zeroed as a whole passes for one that was never begun.)
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
        let mut found = self.segments()?;
        let segments = std::mem::take(&mut found.segments);
        let head = segments
            .first()
            .map_or(Position::ZERO, |s| Position::new(s.meta.segment, crate::FIRST_FRAME));
        let numbers = segments.iter().map(|s| s.meta.segment.into()).chain(found.newest);
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
        let end = recovery.replay(on_frame).map_err(|e| match &e {
            // The log does not go on where it should: the file there may be why.
            ReplayError::Log(crate::Error::Damaged { path, .. }) => {
                let at = path.file_name().and_then(|name| parse_segment_path(name.as_ref()));
                let left = at.and_then(|at| recovery.left_behind(at));
                let wrong = left.and_then(|left| found.wrong(|n| n == u64::from(left)));
                wrong.map_or(e, ReplayError::Log)
            }
            _ => e,
        })?;
        if let Some(before) = recovery.left_for_first()?
            && let Some(wrong) = found.wrong(|n| n == u64::from(before))
        {
            return Err(wrong.into());
        }
        self.remove_unfinished(found.aside.iter().map(|a| &a.path))?;
        if end.clean && recovery.end_segment().is_some() {
            // A spare may have been made of which neither header nor name is durable yet.
            recovery.harden_spares()?;
            self.fs.sync_dir(&self.dir, SyncSite::LogSegmentDir).map_err(crate::Error::Io)?;
            return Ok((recovery.into_log(namer, crate::Start::Clean)?, end));
        }
        let fresh = segments.is_empty();
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
        let mut writer = log.writer.lock();
        if !fresh {
            let last = end.largest_version.saturating_add(VERSION_GAP);
            (*log.last_version.lock(), writer.largest_version) = (last, last);
        }
        // That a segment was begun is taken for durable by the first frames that follow.
        writer.begin(&log.shared)?;
        drop(writer);
        Ok((log, end))
    }

    /// The segments in the directory. Files that were never finished are removed: neither they nor any
    /// that follow have a frame.
    fn segments(&self) -> Result<Found> {
        let mut files: Vec<(u64, PathBuf)> = Vec::new();
        for entry in self.fs.list(&self.dir)? {
            if let Some(number) = parse_segment_path(&entry.name) {
                files.push((number, self.dir.join(&entry.name)));
            }
        }
        files.sort_unstable_by_key(|(number, _)| Reverse(*number));
        let newest = files.first().map(|(number, _)| *number);
        let (mut segments, mut unfinished, mut aside) = (Vec::new(), Vec::new(), Vec::new());
        let mut frames_follow = false;
        for (number, path) in files {
            let file = self.fs.open(&path, OpenMode::Read)?;
            let header = match read_header(&*file, &path) {
                Ok(header) => header,
                Err(e @ (crate::Error::Io(_) | crate::Error::UnsupportedVersion { .. })) => {
                    return Err(e);
                }
                // Without a whole page it was not finished, whatever of its header is there.
                Err(e) if file.len()? >= PAGE.into() && !is_blank(&*file, 0, u64::MAX)? => {
                    return Err(e);
                }
                Err(error) if frames_follow => {
                    aside.push(Aside { number, path, error });
                    continue;
                }
                Err(_) => {
                    unfinished.push(path);
                    continue;
                }
            };
            let (meta, database) = (meta_of(&header), header.database.get());
            if database != self.database {
                let (expected, found) = (self.database, database);
                return Err(crate::Error::WrongDatabase { path, expected, found });
            }
            if meta.file != number {
                let (expected, found) = (number, meta.file);
                return Err(crate::Error::WrongFile { path, what: "file id", expected, found });
            }
            // Whatever the log has entered begins with a link or a frame; its length was durable before.
            let begun = !is_blank(&*file, PAGE.into(), PAGE.into())?;
            if !begun && frames_follow {
                let error = crate::Error::damaged(&path, PAGE.into(), "a frame");
                aside.push(Aside { number, path, error });
                continue;
            }
            frames_follow |= begun;
            let short = file.len()? < meta.capacity.into();
            if short && !begun && is_blank(&*file, PAGE.into(), u64::MAX)? {
                unfinished.push(path);
                continue;
            }
            segments.push(SegmentRecord { meta, sealed: None, relocated: None });
        }
        self.remove_unfinished(unfinished.iter())?;
        segments.sort_by_key(|s| s.meta.segment);
        Ok(Found { segments, newest, aside })
    }

    /// Removes files without a frame, for good: were one back after a crash, those that follow might have
    /// frames by then.
    fn remove_unfinished<'p>(&self, paths: impl Iterator<Item = &'p PathBuf>) -> Result<()> {
        let mut any = false;
        for path in paths {
            tracing::info!(path = %path.display(), "removing a segment never finished");
            self.fs.remove(path)?;
            any = true;
        }
        if any {
            self.fs.sync_dir(&self.dir, SyncSite::LogRemoveDir)?;
        }
        Ok(())
    }

    /// Removes segments that lie before `position` and are not needed any more, and takes them
    /// out of the log's view. Their values stay readable through views taken before. May be called again
    /// after an error, and by several threads, which take turns.
    ///
    /// # Errors
    /// Of the file system; [`Error::Misuse`](crate::Error::Misuse) if `position` is beyond the
    /// end of `log`.
    pub fn remove_before<C>(&self, log: &Log<C>, position: Position) -> Result<()> {
        match log.prepare() {
            // Room is what this is for.
            Err(e) if !e.is_no_space() => return Err(e),
            _ => {}
        }
        // What will be the first segment says with its link how far versions have come.
        log.sync()?;
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

/// What is in a directory.
struct Found {
    /// Ascending.
    segments: Vec<SegmentRecord>,
    /// The highest number that a file had.
    newest: Option<u64>,
    aside: Vec<Aside>,
}

/// A file that begins with zeros, though frames follow in later ones: a segment that could be neither
/// finished nor removed, so that the log went on behind it, or one that was damaged. Which of the two,
/// tell the links.
struct Aside {
    number: u64,
    path: PathBuf,
    /// What is wrong with it if it was part of the log.
    error: crate::Error,
}

impl Found {
    /// Takes out what is wrong with the first file put aside for which this holds.
    fn wrong(&mut self, holds: impl Fn(u64) -> bool) -> Option<crate::Error> {
        let matching = self.aside.iter().enumerate().filter(|(_, a)| holds(a.number));
        let (at, _) = matching.min_by_key(|(_, a)| a.number)?;
        Some(self.aside.swap_remove(at).error)
    }
}

/// Whether a file is all zeros from an offset on, for so many bytes or to its end.
fn is_blank(file: &dyn File, from: u64, len: u64) -> Result<bool> {
    let mut chunk = vec![0; len.min(64 << 10) as usize];
    let (mut at, end) = (from, from.saturating_add(len));
    while at < end {
        let n = file.read_at(&mut chunk, at)?;
        if n == 0 {
            break;
        }
        if chunk[..n].iter().any(|b| *b != 0) {
            return Ok(false);
        }
        at += n as u64;
    }
    Ok(true)
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
