//! What can go wrong in the tree.

use std::path::PathBuf;
use std::sync::Arc;

use crate::entry::DecodeError;

/// A result of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// An error of somebody else's.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// A failure of the tree. Cloning shares the source, since a background failure is reported in
/// several places.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// An option is out of its range.
    #[error("option {option}: {reason}")]
    Option {
        /// Name of the option.
        option: &'static str,
        /// What is wrong with it.
        reason: String,
    },
    /// A file operation failed.
    #[error(transparent)]
    Fs(Arc<kvdb_vfs::Error>),
    /// A table cannot be read or written.
    #[error(transparent)]
    Table(Arc<kvdb_sstable::Error>),
    /// The manifest cannot be read or written.
    #[error(transparent)]
    Manifest(Arc<kvdb_manifest::Error>),
    /// A memtable refused an entry.
    #[error("memtable: {0}")]
    Memtable(Arc<dyn std::error::Error + Send + Sync>),
    /// A table that the manifest names is not there.
    #[error("table {} is missing", path.display())]
    MissingTable {
        /// Where it should be.
        path: PathBuf,
    },
    /// A table that the manifest names has another length.
    #[error("table {} has {found} bytes, the manifest says {expected}", path.display())]
    TableSize {
        /// The file.
        path: PathBuf,
        /// Length in the manifest.
        expected: u64,
        /// Length on disk.
        found: u64,
    },
    /// The tables break a rule that must hold between them.
    #[error("the tree is inconsistent: {0}")]
    Inconsistent(String),
    /// A value in the tree is not an encoded entry.
    #[error("corrupt entry: {0}")]
    Entry(#[from] DecodeError),
    /// The companion refused.
    #[error(transparent)]
    Companion(Arc<dyn std::error::Error + Send + Sync>),
    /// The tree has been closed. A cursor that outlives it meets this where a table that it had not come
    /// to yet was removed by whoever opened the directory next.
    #[error("the tree is closed")]
    Closed,
    /// A read at a version below the discard watermark: what it would see may be gone.
    #[error("version {version} is below the discard watermark {watermark}")]
    BelowWatermark {
        /// The version that was asked for.
        version: u64,
        /// The least that can be read.
        watermark: u64,
    },
    /// The tree was opened for reading only.
    #[error("the tree is read-only")]
    ReadOnly,
    /// A background job failed earlier; its inputs are untouched. Reopening clears it.
    #[error("an earlier background {job} failed: {source}")]
    Background {
        /// Which job.
        job: &'static str,
        /// How it failed.
        source: Arc<Error>,
    },
    /// A background job panicked.
    #[error("a background job panicked: {0}")]
    Panic(String),
    /// The system refused to start a thread.
    #[error("cannot start a background thread: {0}")]
    Thread(Arc<std::io::Error>),
}

impl Error {
    pub(crate) fn option(option: &'static str, reason: impl Into<String>) -> Self {
        Error::Option { option, reason: reason.into() }
    }

    /// Whether waiting may help: no space left, or no descriptor. Such a failure of a background
    /// job is tried again, and it is forgotten once the job succeeds.
    pub fn is_transient(&self) -> bool {
        use kvdb_vfs::ErrorKind::{NoSpace, TooManyFiles};
        matches!(self.file_error(), Some(NoSpace | TooManyFiles))
    }

    /// Whether a change set whose installation failed so may be in the manifest all the same: its
    /// files must stay. After a panic nobody knows whether it was before or after the append; nothing
    /// else fails any more once the manifest has the change.
    pub fn may_be_installed(&self) -> bool {
        match self {
            Error::Manifest(error) => error.is_outcome_unknown(),
            Error::Panic(_) => true,
            _ => false,
        }
    }

    /// Whether the process or the system has no descriptor left.
    pub(crate) fn is_out_of_descriptors(&self) -> bool {
        self.file_error() == Some(kvdb_vfs::ErrorKind::TooManyFiles)
    }

    pub(crate) fn is_not_found(&self) -> bool {
        self.file_error() == Some(kvdb_vfs::ErrorKind::NotFound)
    }

    /// The failure of the file system that it comes from, if there is one.
    fn file_error(&self) -> Option<kvdb_vfs::ErrorKind> {
        let mut cause: Option<&(dyn std::error::Error + 'static)> = match self {
            Error::Background { source, .. } => return source.file_error(),
            Error::Fs(e) => Some(&**e),
            Error::Table(e) => Some(&**e),
            // Certainly not appended. After its other errors it does not know its own end any more.
            Error::Manifest(e) => match &**e {
                kvdb_manifest::Error::Io(e) => Some(e),
                _ => None,
            },
            _ => None,
        };
        while let Some(e) = cause {
            // A table that could not be opened, on its way through a cursor.
            if let Some(own) = e.downcast_ref::<Error>() {
                return own.file_error();
            }
            if let Some(fs) = e.downcast_ref::<kvdb_vfs::Error>() {
                return Some(fs.kind());
            }
            cause = match e.downcast_ref::<std::io::Error>().and_then(|e| e.get_ref()) {
                Some(inner) => Some(inner),
                None => e.source(),
            };
        }
        None
    }
}

impl Error {
    /// Whether whoever waits for this job to succeed has to be told of the failure: what is tried
    /// again may succeed, but another job's failure says nothing about this one.
    pub(crate) fn concerns(&self, waited_for: &str) -> bool {
        match self {
            Error::Background { job, .. } => *job == waited_for || !self.is_transient(),
            _ => true,
        }
    }
}

impl From<kvdb_vfs::Error> for Error {
    fn from(e: kvdb_vfs::Error) -> Self {
        Error::Fs(Arc::new(e))
    }
}

impl From<kvdb_sstable::Error> for Error {
    fn from(e: kvdb_sstable::Error) -> Self {
        Error::Table(Arc::new(e))
    }
}

impl From<kvdb_manifest::Error> for Error {
    fn from(e: kvdb_manifest::Error) -> Self {
        Error::Manifest(Arc::new(e))
    }
}
