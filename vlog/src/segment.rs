//! One segment file.

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use kvdb_vfs::{
    AlignedBuffer, BLOCK, ErrorKind, File, Fs, OpenMode, Region, Salt, SyncSite, WriteMode,
};
use zerocopy::{FromBytes, IntoBytes};

use crate::file::LogFile;
use crate::format::{FIRST_FRAME, FORMAT_VERSION, PAGE, SEGMENT_MAGIC, SegmentHeader};
use crate::options::SyncMethod;
use crate::{Error, Options, Result, SegmentMeta, SegmentName, segment_path};

/// What a segment is opened for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reading {
    /// The log is opened for reading only.
    Only,
    /// The segment may have to be written, at its end or once more.
    AndWriting,
    /// Reading, in a log that is written: nothing of this segment will be.
    Sealed,
}

/// An open segment.
#[derive(Debug)]
pub(crate) struct Segment {
    pub(crate) meta: SegmentMeta,
    pub(crate) method: SyncMethod,
    /// Where writes go with [`SyncMethod::Direct`].
    direct: Option<Arc<dyn File>>,
    /// The file had an earlier life: what lies behind the end is neither zero nor in the cache.
    pub(crate) recycled: bool,
    pub(crate) data: LogFile,
    /// A map of the header page, never looked at: other openings of the file see it as held
    /// ([`File::is_held`]) for as long as anything leads here, whether it was read through or not.
    _held: Option<Region>,
}

impl Segment {
    /// Creates, preallocates and syncs a segment's file, and makes its name durable. If that
    /// fails the file is removed again, since nobody has named it yet.
    pub(crate) fn create(
        fs: &dyn Fs,
        dir: &Path,
        database: u128,
        name: SegmentName,
        capacity: u32,
        options: &Options,
    ) -> Result<Arc<Segment>> {
        let path = segment_path(dir, name.file);
        let file = fs.open(&path, OpenMode::CreateNew)?;
        let meta = meta_for(name, capacity, options);
        let sites = (SyncSite::LogSegmentCreate, SyncSite::LogSegmentDir);
        let making = Making { fs, dir, path: &path, file: &*file, database, sites };
        let made = making.allocate_and_fill(meta, options.prefill).and_then(|(meta, direct)| {
            Segment::fresh(path.clone(), file.clone(), database, meta, direct, options, false)
        });
        made.inspect_err(|_| {
            if let Err(e) = fs.remove(&path) {
                tracing::warn!(path = %path.display(), error = %e, "half-made segment not removed");
            }
        })
    }

    /// A segment that was just made.
    fn fresh(
        path: PathBuf,
        file: Arc<dyn File>,
        database: u128,
        meta: SegmentMeta,
        direct: Option<Arc<dyn File>>,
        options: &Options,
        recycled: bool,
    ) -> Result<Arc<Segment>> {
        let held = file.map(0..PAGE.into())?;
        let salt = Salt::derive(database, meta.file, meta.nonce);
        let mut data = LogFile::new(path, file, salt, meta.capacity, FIRST_FRAME, options.maps);
        if direct.is_some() {
            data = data.unsettled();
        }
        let method = SyncMethod::from_raw(meta.method).unwrap_or(SyncMethod::Fdatasync);
        Ok(Arc::new(Segment { meta, method, direct, recycled, data, _held: held }))
    }

    /// Whether nobody but the holder of this one reference can read the file, and it has no second
    /// name: then it may be written over. Not by a view (the reference is the only one), not by a
    /// value read in this opening of the log (nobody else holds the map), and not by a value or a
    /// view that outlives an earlier opening, in this process or in another (no map of another
    /// handle; every open segment has one).
    pub(crate) fn is_unused(self: &Arc<Self>) -> bool {
        Arc::strong_count(self) == 1
            && self.data.map_holders() <= 1
            && self.data.file.links().is_ok_and(|links| links == 1)
            && self.data.file.is_held().is_ok_and(|held| !held)
    }

    /// Makes a new segment out of the file of one that is not part of the log any more and that
    /// [`is_unused`](Segment::is_unused). Bytes of the earlier life do not verify in the new one.
    /// If it fails the file is removed, under whichever name.
    pub(crate) fn recycle(
        fs: &dyn Fs,
        dir: &Path,
        database: u128,
        name: SegmentName,
        old: Arc<Segment>,
        options: &Options,
    ) -> Result<Arc<Segment>> {
        let path = segment_path(dir, name.file);
        let (old_path, capacity) = (old.data.path.clone(), old.capacity());
        drop(old);
        let meta = meta_for(name, capacity, options);
        let made = || {
            fs.rename(&old_path, &path)?;
            let file = fs.open(&path, OpenMode::ReadWrite)?;
            let sites = (SyncSite::LogRecycle, SyncSite::LogRecycleDir);
            let making = Making { fs, dir, path: &path, file: &*file, database, sites };
            let (meta, direct) = making.fill(meta, false)?;
            Segment::fresh(path.clone(), file.clone(), database, meta, direct, options, true)
        };
        made().inspect_err(|error| {
            tracing::warn!(%error, path = %old_path.display(), "segment not recycled");
            for path in [&old_path, &path] {
                // One of the two is not there.
                let _ = fs.remove(path);
            }
        })
    }

    /// Opens a segment that the manifest names, and checks that it is the one.
    pub(crate) fn open(
        fs: &dyn Fs,
        dir: &Path,
        database: u128,
        meta: SegmentMeta,
        options: &Options,
        reading: Reading,
    ) -> Result<Arc<Segment>> {
        let path = segment_path(dir, meta.file);
        let mode = if reading == Reading::Only { OpenMode::Read } else { OpenMode::ReadWrite };
        let file = fs.open(&path, mode)?;
        let header = read_header(&*file, &path)?;
        if header.database.get() != database {
            let found = header.database.get();
            return Err(Error::WrongDatabase { path, expected: database, found });
        }
        let found = meta_of(&header);
        for (what, expected, found) in [
            ("file id", meta.file, found.file),
            ("segment", meta.segment.into(), found.segment.into()),
            ("nonce", meta.nonce, found.nonce),
            ("capacity", meta.capacity.into(), found.capacity.into()),
            ("method", meta.method.into(), found.method.into()),
        ] {
            if expected != found {
                return Err(Error::WrongFile { path, what, expected, found });
            }
        }
        let len = file.len()?;
        if len < u64::from(meta.capacity) {
            return Err(Error::Truncated { path, expected: meta.capacity.into(), found: len });
        }
        let Some(method) = SyncMethod::from_raw(meta.method) else {
            return Err(Error::damaged(&path, 12, "a known sync method"));
        };
        let direct = match (method, reading) {
            (SyncMethod::Direct, Reading::AndWriting) => open_direct(fs, &path)?,
            _ => None,
        };
        let mut data =
            LogFile::new(path, file, header.salt(), meta.capacity, FIRST_FRAME, options.maps);
        if direct.is_some() {
            data = data.unsettled();
        }
        let held = data.file.map(0..PAGE.into())?;
        Ok(Arc::new(Segment { meta, method, direct, recycled: false, data, _held: held }))
    }

    pub(crate) fn id(&self) -> u32 {
        self.meta.segment
    }

    pub(crate) fn capacity(&self) -> u32 {
        self.meta.capacity
    }

    /// Whether it is written in blocks, past the cache.
    pub(crate) fn is_direct(&self) -> bool {
        self.direct.is_some()
    }

    /// Writes at any place of a segment that is not direct, and whole aligned blocks of one that is.
    pub(crate) fn write(&self, bytes: &[u8], offset: u32, mode: WriteMode) -> Result<()> {
        let file = self.direct.as_ref().unwrap_or(&self.data.file);
        Ok(file.write_all_at_with(bytes, offset.into(), mode)?)
    }

    /// Writes the bytes that are there once more, into the same place, and syncs.
    pub(crate) fn rewrite(&self, range: Range<u32>, site: SyncSite) -> Result<()> {
        let block = BLOCK as u32;
        let (mut at, end) = match self.is_direct() {
            true => (range.start / block * block, range.end.next_multiple_of(block)),
            false => (range.start, range.end),
        };
        let mut buffer = AlignedBuffer::new();
        while at < end {
            let n = (end - at).min(1 << 20);
            buffer.resize(n as usize);
            self.data.file.read_exact_at(&mut buffer, at.into())?;
            self.write(&buffer, at, WriteMode::Buffered)?;
            at += n;
        }
        self.sync(site)
    }

    /// Syncs the file.
    pub(crate) fn sync(&self, site: SyncSite) -> Result<()> {
        Ok(self.data.file.sync_data(site)?)
    }
}

/// The id of the database that the segment file at `path` says it belongs to; `None` if it does not
/// begin with a segment header that verifies, as after a crash while it was being made.
///
/// # Errors
/// [`Error::Io`]; [`Error::UnsupportedVersion`].
pub fn segment_database(fs: &dyn Fs, path: &Path) -> Result<Option<u128>> {
    let file = fs.open(path, OpenMode::Read)?;
    match read_header(&*file, path) {
        Ok(header) => Ok(Some(header.database.get())),
        Err(Error::NotASegment { .. } | Error::Truncated { .. } | Error::Damaged { .. }) => {
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

/// Reads and checks a segment's header on its own: magic, format, checksum.
pub(crate) fn read_header(file: &dyn File, path: &Path) -> Result<SegmentHeader> {
    let mut bytes = [0; SegmentHeader::LEN];
    let n = file.read_at(&mut bytes, 0)?;
    if n < bytes.len() {
        let expected = SegmentHeader::LEN as u64;
        return Err(Error::Truncated { path: path.to_owned(), expected, found: n as u64 });
    }
    let header = SegmentHeader::read_from_bytes(&bytes)
        .map_err(|_| Error::NotASegment { path: path.to_owned() })?;
    if header.magic != SEGMENT_MAGIC {
        return Err(Error::NotASegment { path: path.to_owned() });
    }
    if header.format.get() != FORMAT_VERSION {
        return Err(Error::UnsupportedVersion {
            path: path.to_owned(),
            found: header.format.get(),
            supported: FORMAT_VERSION,
        });
    }
    // What a later version may put where zeros are is not known here.
    if !header.verifies() || header.reserved.get() != 0 {
        return Err(Error::damaged(path, 0, "a segment header"));
    }
    Ok(header)
}

/// What a header says of its segment.
pub(crate) fn meta_of(header: &SegmentHeader) -> SegmentMeta {
    SegmentMeta {
        segment: header.segment.get(),
        file: header.file.get(),
        nonce: header.nonce.get(),
        capacity: header.capacity.get(),
        method: header.method.get(),
    }
}

fn meta_for(name: SegmentName, capacity: u32, options: &Options) -> SegmentMeta {
    let SegmentName { segment, file, nonce } = name;
    SegmentMeta { segment, file, nonce, capacity, method: options.sync_method.to_raw() }
}

fn write_header(page: &mut [u8], database: u128, meta: &SegmentMeta) {
    let mut header = SegmentHeader {
        magic: SEGMENT_MAGIC,
        format: FORMAT_VERSION.into(),
        method: meta.method.into(),
        database: database.into(),
        file: meta.file.into(),
        nonce: meta.nonce.into(),
        segment: meta.segment.into(),
        capacity: meta.capacity.into(),
        reserved: 0.into(),
        crc: 0.into(),
    };
    header.seal();
    page[..SegmentHeader::LEN].copy_from_slice(header.as_bytes());
}

/// The first bytes of a segment's file.
#[cfg(any(test, fuzzing))]
pub(crate) fn header_page(database: u128, meta: &SegmentMeta) -> Vec<u8> {
    let mut page = vec![0; PAGE as usize];
    write_header(&mut page, database, meta);
    page
}

/// How the contents of a new segment are made.
struct Making<'a> {
    fs: &'a dyn Fs,
    dir: &'a Path,
    path: &'a Path,
    file: &'a dyn File,
    database: u128,
    /// Where the file and the directory are synced.
    sites: (SyncSite, SyncSite),
}

impl Making<'_> {
    /// A handle for direct writes, if that is the method wanted and can be had.
    fn direct(&self, method: SyncMethod) -> Result<Option<Arc<dyn File>>> {
        if method == SyncMethod::Direct { open_direct(self.fs, self.path) } else { Ok(None) }
    }

    fn allocate_and_fill(
        &self,
        meta: SegmentMeta,
        zeros: bool,
    ) -> Result<(SegmentMeta, Option<Arc<dyn File>>)> {
        self.file.allocate(meta.capacity.into())?;
        self.fill(meta, zeros)
    }

    /// Writes the header, with `zeros` behind it to the end, and makes all of it durable. Returns
    /// the handle to go on with, and what the header says: another method than `meta` if the file
    /// system turns out to have no direct writes.
    fn fill(
        &self,
        mut meta: SegmentMeta,
        zeros: bool,
    ) -> Result<(SegmentMeta, Option<Arc<dyn File>>)> {
        let wanted = SyncMethod::from_raw(meta.method).unwrap_or(SyncMethod::Fdatasync);
        let mut direct = self.direct(wanted)?;
        let mut block = AlignedBuffer::new();
        block.resize(if zeros { 1 << 20 } else { PAGE as usize });
        loop {
            if wanted == SyncMethod::Direct && direct.is_none() {
                meta.method = SyncMethod::Fdatasync.to_raw();
            }
            block[..PAGE as usize].fill(0);
            write_header(&mut block, self.database, &meta);
            match self.write(direct.as_deref().unwrap_or(self.file), &mut block, &meta, zeros) {
                Err(e) if direct.is_some() && e.kind() == ErrorKind::Unsupported => direct = None,
                written => break written?,
            }
        }
        let (file_site, dir_site) = self.sites;
        self.file.sync_data(file_site)?;
        self.fs.sync_dir(self.dir, dir_site)?;
        Ok((meta, direct))
    }

    fn write(
        &self,
        to: &dyn File,
        block: &mut AlignedBuffer,
        meta: &SegmentMeta,
        zeros: bool,
    ) -> kvdb_vfs::Result<()> {
        let mut at = 0;
        loop {
            let n = block.len().min((meta.capacity - at) as usize);
            to.write_all_at(&block[..n], at.into())?;
            at += n as u32;
            if !zeros || at == meta.capacity {
                return Ok(());
            }
            block[..SegmentHeader::LEN].fill(0);
        }
    }
}

/// Opens a segment for direct writes; `None` where there are none.
fn open_direct(fs: &dyn Fs, path: &Path) -> Result<Option<Arc<dyn File>>> {
    match fs.open(path, OpenMode::Direct) {
        Ok(file) => Ok(Some(file)),
        Err(e) if e.kind() == ErrorKind::Unsupported => {
            tracing::debug!(path = %path.display(), "no direct writes here");
            Ok(None)
        }
        Err(e) => Err(e.into()),
    }
}
