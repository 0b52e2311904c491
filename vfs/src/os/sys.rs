//! Where the systems differ.

use std::fs::{self, File};
use std::io;
use std::ops::Range;
use std::path::Path;

use memmap2::MmapRaw;

use crate::Advice;

#[cfg(not(any(unix, windows)))]
compile_error!("kvdb-vfs has positioned reads and writes for Unix and Windows only");

#[cfg(unix)]
pub(super) fn read_at(file: &File, buf: &mut [u8], offset: u64) -> io::Result<usize> {
    std::os::unix::fs::FileExt::read_at(file, buf, offset)
}

#[cfg(unix)]
pub(super) fn write_at(file: &File, buf: &[u8], offset: u64) -> io::Result<usize> {
    std::os::unix::fs::FileExt::write_at(file, buf, offset)
}

#[cfg(windows)]
pub(super) fn read_at(file: &File, buf: &mut [u8], offset: u64) -> io::Result<usize> {
    std::os::windows::fs::FileExt::seek_read(file, buf, offset)
}

#[cfg(windows)]
pub(super) fn write_at(file: &File, buf: &[u8], offset: u64) -> io::Result<usize> {
    std::os::windows::fs::FileExt::seek_write(file, buf, offset)
}

/// Writes a part of `buf` that is on stable storage when the call returns.
#[cfg(target_os = "linux")]
pub(super) fn write_durable(file: &File, buf: &[u8], offset: u64) -> io::Result<usize> {
    use rustix::io::{ReadWriteFlags, pwritev2};
    // u64::MAX would mean the file's own position.
    if i64::try_from(offset).is_err() {
        return Err(rustix::io::Errno::FBIG.into());
    }
    Ok(pwritev2(file, &[io::IoSlice::new(buf)], offset, ReadWriteFlags::DSYNC)?)
}

#[cfg(not(target_os = "linux"))]
pub(super) fn write_durable(_: &File, _: &[u8], _: u64) -> io::Result<usize> {
    Err(io::ErrorKind::Unsupported.into())
}

/// Opens an existing file for writing past the cache.
#[cfg(any(target_os = "linux", target_os = "android"))]
pub(super) fn open_direct(path: &Path) -> io::Result<File> {
    use std::os::unix::fs::OpenOptionsExt;
    let flags = rustix::fs::OFlags::DIRECT.bits().cast_signed();
    File::options().write(true).custom_flags(flags).open(path)
}

#[cfg(not(any(target_os = "linux", target_os = "android")))]
pub(super) fn open_direct(_: &Path) -> io::Result<File> {
    Err(io::ErrorKind::Unsupported.into())
}

/// Reserves blocks for `0..len` and extends the file. `len` is not 0.
#[cfg(any(target_os = "linux", target_os = "android", target_os = "freebsd"))]
pub(super) fn allocate(file: &File, len: u64) -> io::Result<()> {
    use rustix::fs::{FallocateFlags, fallocate};
    Ok(rustix::io::retry_on_intr(|| fallocate(file, FallocateFlags::empty(), 0, len))?)
}

#[cfg(not(any(target_os = "linux", target_os = "android", target_os = "freebsd")))]
pub(super) fn allocate(_: &File, _: u64) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

/// Whether the system or the file system does not know this call (as opposed to: it failed).
pub(super) fn is_refusal(e: &io::Error) -> bool {
    #[cfg(unix)]
    if let Some(code) = e.raw_os_error() {
        use rustix::io::Errno;
        let refusals = [Errno::NOSYS, Errno::OPNOTSUPP, Errno::NOTSUP, Errno::INVAL];
        return refusals.contains(&Errno::from_raw_os_error(code));
    }
    e.kind() == io::ErrorKind::Unsupported
}

#[cfg(unix)]
pub(super) fn links(_: &Path, found: &fs::Metadata) -> io::Result<u64> {
    Ok(std::os::unix::fs::MetadataExt::nlink(found))
}

/// The count is not to be had from the stable standard library. Two means "perhaps more than one",
/// so that whoever asks before overwriting a file in place does not.
#[cfg(windows)]
pub(super) fn links(_: &Path, _: &fs::Metadata) -> io::Result<u64> {
    Ok(2)
}

/// Takes the lock of an open file for itself alone, if nobody else has it. On Windows such a lock
/// would keep others from reading, and nothing is written over in place there: see [`links`].
#[cfg(unix)]
pub(super) fn try_lock_alone(file: &File) -> io::Result<bool> {
    match file.try_lock() {
        Ok(()) => Ok(true),
        Err(fs::TryLockError::WouldBlock) => Ok(false),
        Err(fs::TryLockError::Error(e)) => Err(e),
    }
}

#[cfg(windows)]
pub(super) fn try_lock_alone(_: &File) -> io::Result<bool> {
    Ok(false)
}

/// Says that the file is mapped, for as long as this handle lives.
#[cfg(unix)]
pub(super) fn lock_shared(file: &File) {
    // Where there are no locks, `try_lock_alone` fails as well.
    let _ = file.try_lock_shared();
}

#[cfg(windows)]
pub(super) fn lock_shared(_: &File) {}

#[cfg(unix)]
pub(super) fn sync_dir(dir: &Path) -> io::Result<()> {
    open_dir(dir)?.sync_all()
}

/// Windows has no call for it: NTFS journals names by itself.
#[cfg(windows)]
pub(super) fn sync_dir(dir: &Path) -> io::Result<()> {
    if fs::metadata(dir)?.is_dir() { Ok(()) } else { Err(io::ErrorKind::NotADirectory.into()) }
}

/// The handle whose lock stands for the directory. `flock` belongs to the open file, so two
/// handles of one process exclude each other like those of two.
#[cfg(unix)]
pub(super) fn lock_handle(dir: &Path) -> io::Result<File> {
    open_dir(dir)
}

#[cfg(windows)]
pub(super) fn lock_handle(dir: &Path) -> io::Result<File> {
    sync_dir(dir)?;
    File::options().read(true).write(true).create(true).truncate(false).open(dir.join("LOCK"))
}

#[cfg(unix)]
fn open_dir(dir: &Path) -> io::Result<File> {
    let handle = File::open(dir)?;
    if handle.metadata()?.is_dir() { Ok(handle) } else { Err(io::ErrorKind::NotADirectory.into()) }
}

#[cfg(any(target_os = "linux", target_os = "android", target_os = "freebsd"))]
pub(super) fn advise(file: &File, range: Range<u64>, advice: Advice) {
    use rustix::fs::{Advice as Fadvice, fadvise};
    let advice = match advice {
        Advice::Normal => Fadvice::Normal,
        Advice::Random => Fadvice::Random,
        Advice::Sequential => Fadvice::Sequential,
        Advice::WillNeed => Fadvice::WillNeed,
        Advice::DontNeed => Fadvice::DontNeed,
        // There is no such advice: see the file.
        Advice::WriteBack => return,
    };
    let Some(len) = range.end.checked_sub(range.start).and_then(std::num::NonZeroU64::new) else {
        return; // a length of zero would mean "to the end of the file"
    };
    // A hint: what the system makes of it is its affair.
    let _ = fadvise(file, range.start, Some(len), advice);
}

#[cfg(not(any(target_os = "linux", target_os = "android", target_os = "freebsd")))]
pub(super) fn advise(_: &File, _: Range<u64>, _: Advice) {}

/// Tells the system the access pattern of a map, which it keeps apart from that of the file.
#[cfg(unix)]
pub(super) fn advise_map(map: &MmapRaw, pattern: Advice) {
    let pattern = match pattern {
        Advice::Random => memmap2::Advice::Random,
        Advice::Sequential => memmap2::Advice::Sequential,
        _ => memmap2::Advice::Normal,
    };
    let _ = map.advise(pattern);
}

#[cfg(not(unix))]
pub(super) fn advise_map(_: &MmapRaw, _: Advice) {}
