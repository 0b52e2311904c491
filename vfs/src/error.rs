//! What can go wrong with a file, and what it was that went wrong.

use std::io;
use std::path::{Path, PathBuf};

/// A result of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// A failed operation: what kind of failure, which operation, on which path, at which offset.
#[derive(Debug, thiserror::Error)]
#[error("{op} {}{}: {source}", path.display(), At(*offset))]
pub struct Error {
    kind: ErrorKind,
    op: Op,
    path: PathBuf,
    offset: Option<u64>,
    source: io::Error,
}

struct At(Option<u64>);

impl std::fmt::Display for At {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0 {
            Some(offset) => write!(f, " at offset {offset}"),
            None => Ok(()),
        }
    }
}

/// The failures that callers tell apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// No such file or directory.
    NotFound,
    /// The name is taken.
    AlreadyExists,
    /// Not permitted, or a read-only medium.
    PermissionDenied,
    /// A directory where a file was expected.
    IsADirectory,
    /// A file where a directory was expected.
    NotADirectory,
    /// Someone else holds the lock.
    Locked,
    /// Disk or quota full, or a file size limit reached.
    NoSpace,
    /// The process or the system has no descriptor left.
    TooManyFiles,
    /// The file ended before the read did.
    UnexpectedEof,
    /// The system or the file system cannot do this.
    Unsupported,
    /// Everything else, device errors first of all.
    Io,
}

/// The operations of [`Fs`](crate::Fs) and [`File`](crate::File), for messages and for fault plans.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
#[allow(missing_docs)] // each is the method of the same name
pub enum Op {
    Open,
    Rename,
    Remove,
    HardLink,
    List,
    Metadata,
    CreateDir,
    RemoveDir,
    SyncDir,
    Lock,
    Read,
    Write,
    SyncData,
    Allocate,
    SetLen,
    Len,
    Map,
}

impl std::fmt::Display for Op {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Op::Open => "open",
            Op::Rename => "rename",
            Op::Remove => "remove",
            Op::HardLink => "hard link",
            Op::List => "list",
            Op::Metadata => "stat",
            Op::CreateDir => "create directory",
            Op::RemoveDir => "remove directory",
            Op::SyncDir => "sync directory",
            Op::Lock => "lock",
            Op::Read => "read",
            Op::Write => "write",
            Op::SyncData => "sync",
            Op::Allocate => "allocate",
            Op::SetLen => "set length of",
            Op::Len => "length of",
            Op::Map => "map",
        })
    }
}

impl Error {
    /// Wraps an error of the operating system.
    pub fn new(op: Op, path: &Path, offset: Option<u64>, source: io::Error) -> Self {
        Error { kind: ErrorKind::of(&source), op, path: path.to_owned(), offset, source }
    }

    /// An error whose kind is not to be derived from the source.
    pub fn with_kind(
        kind: ErrorKind,
        op: Op,
        path: &Path,
        offset: Option<u64>,
        source: io::Error,
    ) -> Self {
        Error { kind, op, path: path.to_owned(), offset, source }
    }

    pub(crate) fn unexpected_eof(path: &Path, offset: u64, wanted: usize, got: usize) -> Self {
        let source = io::Error::new(
            io::ErrorKind::UnexpectedEof,
            format!("wanted {wanted} bytes, the file has {got} there"),
        );
        Error::new(Op::Read, path, Some(offset), source)
    }

    /// What kind of failure.
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// Which operation failed.
    pub fn op(&self) -> Op {
        self.op
    }

    /// On which path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// At which offset, where there is one.
    pub fn offset(&self) -> Option<u64> {
        self.offset
    }

    /// The same failure once more, for a second place that has to report it. The source is
    /// rebuilt from its kind and text, since `io::Error` cannot be cloned.
    pub fn duplicate(&self) -> Self {
        let source = match self.source.raw_os_error() {
            Some(code) => io::Error::from_raw_os_error(code),
            None => io::Error::new(self.source.kind(), self.source.to_string()),
        };
        Error { kind: self.kind, op: self.op, path: self.path.clone(), offset: self.offset, source }
    }
}

impl ErrorKind {
    /// The kind of an error of the operating system.
    pub fn of(e: &io::Error) -> Self {
        use io::ErrorKind as K;
        #[cfg(unix)]
        if let Some(code) = e.raw_os_error() {
            use rustix::io::Errno;
            match Errno::from_raw_os_error(code) {
                Errno::MFILE | Errno::NFILE => return ErrorKind::TooManyFiles,
                Errno::DQUOT | Errno::FBIG | Errno::NOSPC => return ErrorKind::NoSpace,
                Errno::ROFS => return ErrorKind::PermissionDenied,
                _ => {}
            }
        }
        match e.kind() {
            K::NotFound => ErrorKind::NotFound,
            K::AlreadyExists => ErrorKind::AlreadyExists,
            K::PermissionDenied | K::ReadOnlyFilesystem => ErrorKind::PermissionDenied,
            K::IsADirectory => ErrorKind::IsADirectory,
            K::NotADirectory => ErrorKind::NotADirectory,
            K::WouldBlock => ErrorKind::Locked,
            K::StorageFull | K::QuotaExceeded | K::FileTooLarge => ErrorKind::NoSpace,
            K::UnexpectedEof => ErrorKind::UnexpectedEof,
            K::Unsupported => ErrorKind::Unsupported,
            _ => ErrorKind::Io,
        }
    }
}
