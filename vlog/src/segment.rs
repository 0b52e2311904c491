//! One segment file.

use std::path::Path;
use std::sync::Arc;

use kvdb_vfs::{File, Fs, OpenMode, Salt, SyncSite};
use zerocopy::{FromBytes, IntoBytes};

use crate::file::LogFile;
use crate::format::{FIRST_FRAME, FORMAT_VERSION, PAGE, SEGMENT_MAGIC, SegmentHeader};
use crate::options::SyncMethod;
use crate::{Error, Options, Result, SegmentMeta, SegmentName, segment_path};

/// An open segment.
#[derive(Debug)]
pub(crate) struct Segment {
    pub(crate) meta: SegmentMeta,
    pub(crate) method: SyncMethod,
    /// The file had an earlier life: what lies behind the end is neither zero nor in the cache.
    pub(crate) recycled: bool,
    pub(crate) data: LogFile,
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
        if let Err(e) = fill(fs, dir, &*file, database, &meta, options.prefill) {
            if let Err(e) = fs.remove(&path) {
                tracing::warn!(path = %path.display(), error = %e, "half-made segment not removed");
            }
            return Err(e);
        }
        let salt = Salt::derive(database, meta.file, meta.nonce);
        let method = options.sync_method;
        let data = LogFile::new(path, file, salt, capacity, FIRST_FRAME, options.maps);
        Ok(Arc::new(Segment { meta, method, recycled: false, data }))
    }

    /// Whether nobody but the holder of this one reference can read the file, by a view or by a
    /// value, and it has no second name: then it may be written over.
    pub(crate) fn is_unused(self: &Arc<Self>) -> bool {
        Arc::strong_count(self) == 1
            && self.data.map_holders() <= 1
            && self.data.file.links().is_ok_and(|links| links == 1)
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
        let made = || -> Result<Arc<dyn File>> {
            fs.rename(&old_path, &path)?;
            let file = fs.open(&path, OpenMode::ReadWrite)?;
            let mut page = vec![0; PAGE as usize];
            write_header(&mut page, database, &meta);
            file.write_all_at(&page, 0)?;
            file.sync_data(SyncSite::LogSegmentCreate)?;
            fs.sync_dir(dir, SyncSite::LogSegmentDir)?;
            Ok(file)
        };
        let file = made().inspect_err(|error| {
            tracing::warn!(%error, path = %old_path.display(), "segment not recycled");
            for path in [&old_path, &path] {
                // One of the two is not there.
                let _ = fs.remove(path);
            }
        })?;
        let salt = Salt::derive(database, meta.file, meta.nonce);
        let method = options.sync_method;
        let data = LogFile::new(path, file, salt, capacity, FIRST_FRAME, options.maps);
        Ok(Arc::new(Segment { meta, method, recycled: true, data }))
    }

    /// Opens a segment that the manifest names, and checks that it is the one.
    pub(crate) fn open(
        fs: &dyn Fs,
        dir: &Path,
        database: u128,
        meta: SegmentMeta,
        options: &Options,
        read_only: bool,
    ) -> Result<Arc<Segment>> {
        let path = segment_path(dir, meta.file);
        let mode = if read_only { OpenMode::Read } else { OpenMode::ReadWrite };
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
        let data =
            LogFile::new(path, file, header.salt(), meta.capacity, FIRST_FRAME, options.maps);
        Ok(Arc::new(Segment { meta, method, recycled: false, data }))
    }

    pub(crate) fn id(&self) -> u32 {
        self.meta.segment
    }

    pub(crate) fn capacity(&self) -> u32 {
        self.meta.capacity
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
    if header.format.get() > FORMAT_VERSION {
        return Err(Error::UnsupportedVersion {
            path: path.to_owned(),
            found: header.format.get(),
            supported: FORMAT_VERSION,
        });
    }
    if !header.verifies() {
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

fn fill(
    fs: &dyn Fs,
    dir: &Path,
    file: &dyn File,
    database: u128,
    meta: &SegmentMeta,
    prefill: bool,
) -> Result<()> {
    file.allocate(meta.capacity.into())?;
    let mut block = vec![0; if prefill { 1 << 20 } else { PAGE as usize }];
    write_header(&mut block, database, meta);
    let mut at = 0;
    loop {
        let n = block.len().min((meta.capacity - at) as usize);
        file.write_all_at(&block[..n], at.into())?;
        at += n as u32;
        if !prefill || at == meta.capacity {
            break;
        }
        block[..SegmentHeader::LEN].fill(0);
    }
    file.sync_data(SyncSite::LogSegmentCreate)?;
    Ok(fs.sync_dir(dir, SyncSite::LogSegmentDir)?)
}
