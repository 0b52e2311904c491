//! The operating system's file system.

mod file;
mod sys;

use std::fs::{self, OpenOptions};
use std::io;
use std::path::Path;
use std::sync::Arc;

use crate::{
    Entry, EntryKind, Error, ErrorKind, File, Fs, LockGuard, LockMode, Metadata, Op, OpenMode,
    Result, SyncSite,
};
use file::{Access, OsFile};

/// The file system of the operating system.
///
/// | | Linux | other Unix | Windows |
/// |---|---|---|---|
/// | [`File::sync_data`] | `fdatasync` | what [`std::fs::File::sync_data`] does | `FlushFileBuffers` |
/// | [`WriteMode::Durable`](crate::WriteMode::Durable) | `pwritev2` with `RWF_DSYNC`, else write and sync | write and sync | write and sync |
/// | [`OpenMode::Direct`] | `O_DIRECT` | unsupported | unsupported |
/// | [`File::is_held`] | `flock` of the file, shared by each handle with a map | the same | always |
/// | [`File::allocate`] | `fallocate`, else extended with a hole | FreeBSD `posix_fallocate`, else a hole | extended |
/// | [`Fs::sync_dir`] | `fsync` of the directory | the same | nothing |
/// | [`Fs::lock`] | `flock` of the directory | the same | lock of a file `LOCK` in it |
/// | [`File::advise`] | `posix_fadvise`, `madvise`, `sync_file_range` | where there is one | nothing |
///
/// Symbolic links are followed, except that [`Fs::list`] reports them as [`EntryKind::Other`].
#[derive(Debug, Default, Clone, Copy)]
pub struct OsFs;

impl OsFs {
    /// The file system of the operating system.
    pub const fn new() -> Self {
        OsFs
    }
}

impl OsFs {
    fn open_direct(self, path: &Path) -> Result<Arc<dyn File>> {
        match sys::open_direct(path) {
            Ok(file) => Ok(Arc::new(OsFile::new(file, path, Access::Direct))),
            Err(e) if sys::is_refusal(&e) => {
                Err(Error::with_kind(ErrorKind::Unsupported, Op::Open, path, None, e))
            }
            Err(e) => Err(of_file(Op::Open, path)(e)),
        }
    }
}

/// Attaches operation and path to an error of the system.
fn at(op: Op, path: &Path) -> impl FnOnce(io::Error) -> Error {
    move |e| Error::new(op, path, None, e)
}

impl Fs for OsFs {
    fn open(&self, path: &Path, mode: OpenMode) -> Result<Arc<dyn File>> {
        let mut options = OpenOptions::new();
        options.read(true);
        match mode {
            OpenMode::Read => {}
            OpenMode::ReadWrite => {
                options.write(true);
            }
            OpenMode::CreateNew => {
                options.write(true).create_new(true);
            }
            OpenMode::CreateTruncate => {
                options.write(true).create(true).truncate(true);
            }
            OpenMode::Direct => return self.open_direct(path),
        }
        let access = if mode == OpenMode::Read { Access::Read } else { Access::ReadWrite };
        let file = options.open(path).map_err(of_file(Op::Open, path))?;
        // Unix opens a directory for reading without complaint.
        if mode == OpenMode::Read && file.metadata().map_err(at(Op::Open, path))?.is_dir() {
            return Err(at(Op::Open, path)(io::ErrorKind::IsADirectory.into()));
        }
        Ok(Arc::new(OsFile::new(file, path, access)))
    }

    fn rename(&self, from: &Path, to: &Path) -> Result<()> {
        fs::rename(from, to).map_err(at(Op::Rename, from))
    }

    fn remove(&self, path: &Path) -> Result<()> {
        fs::remove_file(path).map_err(of_file(Op::Remove, path))
    }

    fn hard_link(&self, from: &Path, to: &Path) -> Result<()> {
        fs::hard_link(from, to).map_err(|e| {
            // The error belongs to the name that is in the way, where one is.
            let path = if e.kind() == io::ErrorKind::AlreadyExists { to } else { from };
            Error::new(Op::HardLink, path, None, e)
        })
    }

    fn list(&self, dir: &Path) -> Result<Vec<Entry>> {
        let mut entries = Vec::new();
        for entry in fs::read_dir(dir).map_err(at(Op::List, dir))? {
            let entry = entry.map_err(at(Op::List, dir))?;
            let kind = entry.file_type().map_err(at(Op::List, dir))?;
            entries.push(Entry { name: entry.file_name().into(), kind: kind_of(kind) });
        }
        entries.sort_unstable_by(|a, b| a.name.as_os_str().cmp(b.name.as_os_str()));
        Ok(entries)
    }

    fn metadata(&self, path: &Path) -> Result<Metadata> {
        let found = fs::metadata(path).map_err(at(Op::Metadata, path))?;
        Ok(match kind_of(found.file_type()) {
            EntryKind::File => Metadata {
                kind: EntryKind::File,
                len: found.len(),
                links: sys::links(path, &found).map_err(at(Op::Metadata, path))?,
            },
            // What the system counts there are the directories inside and their parents.
            kind => Metadata { kind, len: 0, links: 1 },
        })
    }

    fn create_dir_all(&self, dir: &Path) -> Result<()> {
        fs::create_dir_all(dir).map_err(|e| {
            if e.kind() == io::ErrorKind::AlreadyExists {
                // Something is there that is not a directory.
                let source = io::ErrorKind::NotADirectory.into();
                return Error::new(Op::CreateDir, dir, None, source);
            }
            Error::new(Op::CreateDir, dir, None, e)
        })
    }

    fn remove_dir(&self, dir: &Path) -> Result<()> {
        fs::remove_dir(dir).map_err(at(Op::RemoveDir, dir))
    }

    fn sync_dir(&self, dir: &Path, _site: SyncSite) -> Result<()> {
        sys::sync_dir(dir).map_err(at(Op::SyncDir, dir))
    }

    fn lock(&self, dir: &Path, mode: LockMode) -> Result<LockGuard> {
        let handle = sys::lock_handle(dir).map_err(at(Op::Lock, dir))?;
        let taken = match mode {
            LockMode::Exclusive => handle.try_lock(),
            LockMode::Shared => handle.try_lock_shared(),
        };
        match taken {
            Ok(()) => Ok(LockGuard::new(Locked(handle))),
            Err(fs::TryLockError::WouldBlock) => {
                let source = io::Error::new(io::ErrorKind::WouldBlock, "locked by another opener");
                Err(Error::with_kind(ErrorKind::Locked, Op::Lock, dir, None, source))
            }
            Err(fs::TryLockError::Error(e)) => Err(at(Op::Lock, dir)(e)),
        }
    }
}

/// A locked handle. To close it is not enough: a process that another thread is just starting
/// has a copy of every handle until it executes its program, and with the copy it holds the lock.
struct Locked(fs::File);

impl Drop for Locked {
    fn drop(&mut self) {
        // If this fails, closing the handle is what is left to do.
        let _ = self.0.unlock();
    }
}

/// Some systems refuse a directory as forbidden where others say what is wrong.
fn of_file(op: Op, path: &Path) -> impl FnOnce(io::Error) -> Error {
    move |e| {
        if e.kind() == io::ErrorKind::PermissionDenied && path.is_dir() {
            return Error::with_kind(ErrorKind::IsADirectory, op, path, None, e);
        }
        Error::new(op, path, None, e)
    }
}

fn kind_of(t: fs::FileType) -> EntryKind {
    if t.is_file() {
        EntryKind::File
    } else if t.is_dir() {
        EntryKind::Dir
    } else {
        EntryKind::Other
    }
}

#[cfg(test)]
mod tests {
    use super::{Locked, sys};

    #[test]
    fn a_lock_goes_with_its_holder_also_while_a_copy_of_the_handle_lives() {
        let dir = tempfile::tempdir().unwrap();
        let handle = sys::lock_handle(dir.path()).unwrap();
        handle.try_lock().unwrap();
        let copy = handle.try_clone().unwrap();
        drop(Locked(handle));
        sys::lock_handle(dir.path()).unwrap().try_lock().unwrap();
        drop(copy);
    }
}
