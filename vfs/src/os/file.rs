//! An open file of the operating system.

use std::fs;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};

use memmap2::{MmapOptions, MmapRaw};
use parking_lot::Mutex;

use super::sys;
use crate::{Advice, Error, ErrorKind, File, Op, Region, Result, SyncSite, WriteMode};

/// A file opened by [`OsFs`](super::OsFs).
#[derive(Debug)]
pub(super) struct OsFile {
    /// Shared with the maps: the lock that says that there are some goes with the last of them.
    file: Arc<fs::File>,
    path: PathBuf,
    access: Access,
    /// Set once the system has refused a durable write: from then on write and sync.
    no_durable_write: AtomicBool,
    maps: Mutex<Maps>,
}

/// What a handle was opened for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Access {
    Read,
    ReadWrite,
    Direct,
}

/// The access pattern last advised, and the maps it holds for.
#[derive(Debug)]
struct Maps {
    pattern: Advice,
    live: Vec<Weak<Map>>,
}

/// A map, with the handle whose shared lock says that it lives.
#[derive(Debug)]
struct Map {
    map: MmapRaw,
    /// Whether its access pattern is its own, and not the file's.
    own_pattern: bool,
    _file: Arc<fs::File>,
}

impl OsFile {
    pub(super) fn new(file: fs::File, path: &Path, access: Access) -> Self {
        OsFile {
            file: Arc::new(file),
            path: path.to_owned(),
            access,
            no_durable_write: AtomicBool::new(false),
            maps: Mutex::new(Maps { pattern: Advice::Normal, live: Vec::new() }),
        }
    }

    fn error(&self, op: Op, offset: Option<u64>, e: impl Into<io::Error>) -> Error {
        Error::new(op, &self.path, offset, e.into())
    }

    /// The system reports a write through a read-only handle as a bad descriptor; say what it is.
    fn check_writable(&self, op: Op, offset: Option<u64>) -> Result<()> {
        if self.access != Access::Read {
            return Ok(());
        }
        let e = io::Error::new(io::ErrorKind::PermissionDenied, "opened for reading");
        Err(self.error(op, offset, e))
    }

    fn check_readable(&self, op: Op, offset: u64) -> Result<()> {
        if self.access != Access::Direct {
            return Ok(());
        }
        let e = io::Error::new(io::ErrorKind::PermissionDenied, "opened for direct writes");
        Err(self.error(op, Some(offset), e))
    }

    /// That a direct write comes in blocks is the caller's duty; the system's own message for it
    /// would read as if it could do no direct writes at all.
    fn check_write(&self, buf: &[u8], offset: u64) -> Result<()> {
        self.check_writable(Op::Write, Some(offset))?;
        if self.access != Access::Direct || crate::aligned::is_aligned(buf, offset) {
            return Ok(());
        }
        Err(self.error(Op::Write, Some(offset), crate::aligned::misaligned()))
    }

    fn write_error(&self, offset: u64, e: io::Error) -> Error {
        if self.access == Access::Direct && sys::is_refusal(&e) {
            let kind = ErrorKind::Unsupported;
            return Error::with_kind(kind, Op::Write, &self.path, Some(offset), e);
        }
        self.error(Op::Write, Some(offset), e)
    }

    fn system_len(&self, op: Op) -> Result<u64> {
        Ok(self.file.metadata().map_err(|e| self.error(op, None, e))?.len())
    }
}

/// Calls `write(rest, offset)` until all is written. Interruptions are resumed, and a write of
/// nothing is an error, as in `Write::write_all`.
fn write_all(
    mut buf: &[u8],
    mut offset: u64,
    mut write: impl FnMut(&[u8], u64) -> io::Result<usize>,
) -> io::Result<()> {
    while !buf.is_empty() {
        match write(buf, offset) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(n) => {
                buf = &buf[n..];
                offset += n as u64;
            }
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

/// Has the system begin to write what is dirty in a range. Whether it does is its affair: whoever
/// needs the bytes on the disk syncs, and learns of failures there.
#[cfg(target_os = "linux")]
fn start_write_back(file: &fs::File, range: Range<u64>) {
    use std::os::fd::AsRawFd;
    let len = range.end.saturating_sub(range.start);
    let (Ok(start), Ok(len)) = (i64::try_from(range.start), i64::try_from(len)) else { return };
    if len == 0 {
        return; // a length of zero would mean "to the end of the file"
    }
    let fd = file.as_raw_fd();
    // SAFETY: the descriptor is open for as long as `file` is borrowed, and the call takes numbers
    // only: it reads and writes no memory of this process.
    let _ = unsafe { libc::sync_file_range(fd, start, len, libc::SYNC_FILE_RANGE_WRITE) };
}

#[cfg(not(target_os = "linux"))]
fn start_write_back(_: &fs::File, _: Range<u64>) {}

/// What the system call `cachestat` (Linux 6.5) says of a range.
#[cfg(all(target_os = "linux", any(target_arch = "x86_64", target_arch = "aarch64")))]
fn is_cached(file: &fs::File, range: Range<u64>) -> bool {
    use std::os::fd::AsRawFd;
    // The same on every architecture but Alpha; `libc` names it for few of them.
    const SYS_CACHESTAT: libc::c_long = 451;
    const PAGE: u64 = 4096;
    let bounds = [range.start, range.end.saturating_sub(range.start)];
    // Pages that are cached, dirty, being written back, evicted, evicted lately.
    let mut pages = [0u64; 5];
    if bounds[1] == 0 {
        return true;
    }
    // SAFETY: the descriptor is open for as long as `file` is borrowed. The call reads two 64-bit
    // numbers from the first pointer and writes five to the second (`struct cachestat_range` and
    // `struct cachestat` of the kernel's interface), which are arrays of that size here.
    let done = unsafe {
        libc::syscall(
            SYS_CACHESTAT,
            file.as_raw_fd(),
            bounds.as_ptr(),
            pages.as_mut_ptr(),
            0 as libc::c_uint,
        )
    };
    // Where pages are larger the answer is no, and advice is given as if it were needed.
    done == 0 && pages[0] >= range.end.div_ceil(PAGE) - range.start / PAGE
}

#[cfg(not(all(target_os = "linux", any(target_arch = "x86_64", target_arch = "aarch64"))))]
fn is_cached(_: &fs::File, _: Range<u64>) -> bool {
    false
}

impl OsFile {
    /// A map of a range, with a pattern of its own or the file's.
    fn map_as(&self, range: Range<u64>, pattern: Option<Advice>) -> Result<Region> {
        self.check_readable(Op::Map, range.start)?;
        let error = |kind: io::ErrorKind, why: String| {
            self.error(Op::Map, Some(range.start), io::Error::new(kind, why))
        };
        if range.start > range.end {
            return Err(error(
                io::ErrorKind::InvalidInput,
                "the range ends before it starts".into(),
            ));
        }
        let file_len = self.system_len(Op::Map)?;
        if range.end > file_len {
            // Touching a page beyond the end would be a SIGBUS.
            let why = format!("a map up to {} of a file of {file_len} bytes", range.end);
            return Err(error(io::ErrorKind::UnexpectedEof, why));
        }
        let Ok(len) = usize::try_from(range.end - range.start) else {
            return Err(error(io::ErrorKind::OutOfMemory, "larger than the address space".into()));
        };
        if len == 0 {
            return Ok(Region::from_vec(Vec::new()));
        }
        let map = MmapOptions::new()
            .offset(range.start)
            .len(len)
            .map_raw_read_only(&self.file)
            .map_err(|e| self.error(Op::Map, Some(range.start), e))?;
        // Before anyone has the map.
        sys::lock_shared(&self.file);
        let map = Arc::new(Map { map, own_pattern: pattern.is_some(), _file: self.file.clone() });
        {
            let mut maps = self.maps.lock();
            sys::advise_map(&map.map, pattern.unwrap_or(maps.pattern));
            maps.live.retain(|m| m.strong_count() > 0);
            maps.live.push(Arc::downgrade(&map));
        }
        let base = map.map.as_ptr();
        // SAFETY: the map is readable for `len` bytes and stays until `map`, the owner, is dropped.
        // The file was at least that long just now; that nobody truncates it, and that nobody
        // dereferences bytes that are being written, is what `File::map` and `Region` ask for.
        Ok(unsafe { Region::from_raw(base, len, map) })
    }
}

impl File for OsFile {
    fn path(&self) -> &Path {
        &self.path
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<usize> {
        self.check_readable(Op::Read, offset)?;
        let mut done = 0;
        while done < buf.len() {
            match sys::read_at(&self.file, &mut buf[done..], offset + done as u64) {
                Ok(0) => break,
                Ok(n) => done += n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(self.error(Op::Read, Some(offset + done as u64), e)),
            }
        }
        Ok(done)
    }

    fn write_all_at(&self, buf: &[u8], offset: u64) -> Result<()> {
        self.check_write(buf, offset)?;
        write_all(buf, offset, |rest, at| sys::write_at(&self.file, rest, at))
            .map_err(|e| self.write_error(offset, e))
    }

    fn write_all_at_with(&self, buf: &[u8], offset: u64, mode: WriteMode) -> Result<()> {
        let WriteMode::Durable(site) = mode else {
            return self.write_all_at(buf, offset);
        };
        self.check_write(buf, offset)?;
        if !self.no_durable_write.load(Ordering::Relaxed) {
            match write_all(buf, offset, |rest, at| sys::write_durable(&self.file, rest, at)) {
                Ok(()) => return Ok(()),
                // A refusal, not a failure: nothing was written that a rewrite would not cover.
                Err(e) if sys::is_refusal(&e) => {
                    self.no_durable_write.store(true, Ordering::Relaxed)
                }
                Err(e) => return Err(self.error(Op::Write, Some(offset), e)),
            }
        }
        self.write_all_at(buf, offset)?;
        self.sync_data(site)
    }

    fn sync_data(&self, _site: SyncSite) -> Result<()> {
        self.file.sync_data().map_err(|e| self.error(Op::SyncData, None, e))
    }

    fn allocate(&self, len: u64) -> Result<()> {
        self.check_writable(Op::Allocate, None)?;
        if len == 0 {
            return Ok(());
        }
        match sys::allocate(&self.file, len) {
            Ok(()) => Ok(()),
            Err(e) if sys::is_refusal(&e) => {
                if self.system_len(Op::Allocate)? >= len {
                    return Ok(());
                }
                self.file.set_len(len).map_err(|e| self.error(Op::Allocate, None, e))
            }
            Err(e) => Err(self.error(Op::Allocate, None, e)),
        }
    }

    fn set_len(&self, len: u64) -> Result<()> {
        self.check_writable(Op::SetLen, None)?;
        self.file.set_len(len).map_err(|e| self.error(Op::SetLen, None, e))
    }

    fn len(&self) -> Result<u64> {
        self.system_len(Op::Len)
    }

    fn links(&self) -> Result<u64> {
        let found = self.file.metadata().map_err(|e| self.error(Op::Metadata, None, e))?;
        sys::links(&self.path, &found).map_err(|e| self.error(Op::Metadata, None, e))
    }

    fn map(&self, range: Range<u64>) -> Result<Option<Region>> {
        self.map_as(range, None).map(Some)
    }

    fn map_for(&self, range: Range<u64>, pattern: Advice) -> Result<Option<Region>> {
        self.map_as(range, Some(pattern)).map(Some)
    }

    fn is_held(&self) -> Result<bool> {
        // The lock belongs to the open file, so that of another handle is in the way of ours, in
        // this process as in others.
        let mut maps = self.maps.lock();
        maps.live.retain(|m| m.strong_count() > 0);
        match sys::try_lock_alone(&self.file) {
            Ok(free) => {
                let _ = self.file.unlock();
                if !maps.live.is_empty() {
                    sys::lock_shared(&self.file);
                }
                Ok(!free)
            }
            Err(e) if sys::is_refusal(&e) => Ok(true),
            Err(e) => Err(self.error(Op::Lock, None, e)),
        }
    }

    fn is_cached(&self, range: Range<u64>) -> bool {
        is_cached(&self.file, range)
    }

    fn advise(&self, range: Range<u64>, advice: Advice) {
        if advice == Advice::WriteBack {
            return start_write_back(&self.file, range);
        }
        sys::advise(&self.file, range, advice);
        if matches!(advice, Advice::Normal | Advice::Random | Advice::Sequential) {
            let mut maps = self.maps.lock();
            maps.pattern = advice;
            maps.live.retain(|m| m.strong_count() > 0);
            for map in maps.live.iter().filter_map(Weak::upgrade).filter(|m| !m.own_pattern) {
                sys::advise_map(&map.map, advice);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_just_written_is_cached_and_what_is_not_there_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        let file = fs::File::options().read(true).write(true).create_new(true).open(&path).unwrap();
        let file = OsFile::new(file, &path, Access::ReadWrite);
        file.write_all_at(&[7; 10_000], 0).unwrap();
        // Where the system does not say, the answer is no throughout.
        let says = file.is_cached(0..10_000);
        assert_eq!(file.is_cached(5000..5001), says);
        assert!(!file.is_cached(0..30_000) && !file.is_cached(20_000..20_001));
    }

    /// What the system says about the mapping at an address: `rr` for random, `sr` for sequential.
    #[cfg(target_os = "linux")]
    fn pattern(map: &Region) -> Option<&'static str> {
        let maps = fs::read_to_string("/proc/self/smaps").ok()?;
        let from = format!("{:x}-", map.as_ptr() as usize);
        let flags = maps.split_once(&from)?.1.split_once("VmFlags:")?.1.lines().next()?;
        ["rr", "sr"].into_iter().find(|flag| flags.split_whitespace().any(|f| f == *flag))
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn a_map_with_a_pattern_of_its_own_keeps_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        let file = fs::File::options().read(true).write(true).create_new(true).open(&path).unwrap();
        let file = OsFile::new(file, &path, Access::ReadWrite);
        file.write_all_at(&[7; 10_000], 0).unwrap();
        let plain = file.map(0..10_000).unwrap().unwrap();
        let random = file.map_for(0..10_000, Advice::Random).unwrap().unwrap();
        let along = file.map_for(0..10_000, Advice::Sequential).unwrap().unwrap();
        let patterns = || [&plain, &random, &along].map(pattern);
        if patterns() == [None; 3] {
            return; // a system that does not say
        }
        assert_eq!(patterns(), [None, Some("rr"), Some("sr")]);
        file.advise(0..10_000, Advice::Random);
        assert_eq!(patterns(), [Some("rr"), Some("rr"), Some("sr")]);
        file.advise(0..10_000, Advice::Sequential);
        assert_eq!(patterns(), [Some("sr"), Some("rr"), Some("sr")]);
        assert!(plain[..] == random[..] && random[..] == along[..]);
    }

    #[test]
    fn write_all_resumes_short_and_interrupted_writes() {
        let mut out = Vec::new();
        let mut calls = 0;
        write_all(b"abcdefg", 10, |rest, at| {
            calls += 1;
            if calls % 2 == 1 {
                return Err(io::ErrorKind::Interrupted.into());
            }
            assert_eq!(at, 10 + out.len() as u64);
            let n = rest.len().min(3);
            out.extend_from_slice(&rest[..n]);
            Ok(n)
        })
        .unwrap();
        assert_eq!(out, b"abcdefg");
    }

    #[test]
    fn write_all_fails_when_nothing_is_taken() {
        let e = write_all(b"x", 0, |_, _| Ok(0)).unwrap_err();
        assert_eq!(e.kind(), io::ErrorKind::WriteZero);
    }

    #[test]
    fn a_refused_durable_write_falls_back_to_write_and_sync() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        let file = fs::File::options().read(true).write(true).create_new(true).open(&path).unwrap();
        let file = OsFile::new(file, &path, Access::ReadWrite);
        file.no_durable_write.store(true, Ordering::Relaxed);
        file.write_all_at_with(b"abc", 2, WriteMode::Durable(SyncSite::Other(0))).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"\0\0abc");
    }
}
