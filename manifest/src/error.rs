//! What can go wrong with a manifest.

use std::path::{Path, PathBuf};

use crate::Inconsistent;

/// A result of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why a manifest could not be opened, read or written.
///
/// None of these has destroyed anything. After an error of [`append`](crate::Manifest::append)
/// other than [`Error::OutcomeUnknown`] the change is certainly not part of the manifest and never
/// will be; after that one it may or may not be, and whatever the change names must be left alone.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The file system refused an operation.
    #[error(transparent)]
    Io(#[from] kvdb_vfs::Error),

    /// The file system failed at a point where nobody can tell what is on the disk. The manifest
    /// is poisoned; reopening finds out.
    #[error("{}: whether the last change is durable is unknown: {source}", path.display())]
    OutcomeUnknown {
        /// The manifest.
        path: PathBuf,
        /// What failed.
        source: kvdb_vfs::Error,
    },

    /// An earlier failure made it unsafe to write any more. Reopening clears it.
    #[error("{}: not writable any more after an earlier failure: {cause}", path.display())]
    Poisoned {
        /// The manifest.
        path: PathBuf,
        /// The earlier failure.
        cause: String,
    },

    /// The manifest was opened for reading only.
    #[error("{}: opened read-only", path.display())]
    ReadOnly {
        /// The manifest.
        path: PathBuf,
    },

    /// There is no manifest.
    #[error("{}: there is no manifest", path.display())]
    Missing {
        /// Where it was looked for.
        path: PathBuf,
    },

    /// There is a manifest already.
    #[error("{}: there is a manifest already", path.display())]
    AlreadyExists {
        /// The manifest.
        path: PathBuf,
    },

    /// The file has no bytes. A manifest gets its name when it is complete, so this is no crash
    /// during creation.
    #[error("{}: the manifest is empty", path.display())]
    Empty {
        /// The manifest.
        path: PathBuf,
    },

    /// The file ends inside its header.
    #[error("{}: the manifest ends inside its header, after {len} bytes", path.display())]
    TooShort {
        /// The manifest.
        path: PathBuf,
        /// Length of the file in bytes.
        len: u64,
    },

    /// The file does not start as a manifest does.
    #[error("{}: not a manifest", path.display())]
    NotAManifest {
        /// The file.
        path: PathBuf,
    },

    /// The file is of a format that this version of the crate does not know.
    #[error("{}: format version {found}, this program reads {supported}", path.display())]
    UnsupportedVersion {
        /// The manifest.
        path: PathBuf,
        /// Its format version.
        found: u32,
        /// The version that can be read.
        supported: u32,
    },

    /// The store uses a feature that this version of the crate does not know.
    #[error("{}: the record at offset {offset} needs the unknown feature {feature:?}", path.display())]
    UnknownFeature {
        /// The manifest.
        path: PathBuf,
        /// Where the record starts.
        offset: u64,
        /// Name of the feature.
        feature: String,
    },

    /// Bytes that were durable once are not what was written.
    #[error("{}: damaged at offset {offset}: {reason}", path.display())]
    Corrupt {
        /// The manifest.
        path: PathBuf,
        /// Where the damaged part starts.
        offset: u64,
        /// What is wrong with it.
        reason: &'static str,
    },

    /// A record is intact but is not a change set.
    #[error("{}: the record at offset {offset} is no change set: {source}", path.display())]
    Decode {
        /// The manifest.
        path: PathBuf,
        /// Where the record starts.
        offset: u64,
        /// What the decoder says.
        source: prost::DecodeError,
    },

    /// A record is intact but does not fit what the records before it add up to.
    #[error("{}: the record at offset {offset} is inconsistent: {source}", path.display())]
    Inconsistent {
        /// The manifest.
        path: PathBuf,
        /// Where the record starts.
        offset: u64,
        /// What does not fit.
        source: Inconsistent,
    },

    /// The change handed to `append` does not fit the state. Nothing was written.
    #[error("the change was refused: {0}")]
    Rejected(#[source] Inconsistent),

    /// The change handed to `append` is larger than a record may be. Nothing was written.
    #[error("a change of {len} bytes, the limit is {max}")]
    TooLarge {
        /// Encoded length in bytes.
        len: u64,
        /// The limit in bytes.
        max: u64,
    },

    /// The records on disk do not add up to the state in memory.
    #[error("{}: the records do not add up to the state in memory", path.display())]
    Diverged {
        /// The manifest.
        path: PathBuf,
    },
}

impl Error {
    /// Whether the change that failed may be part of the manifest all the same.
    pub fn is_outcome_unknown(&self) -> bool {
        matches!(self, Error::OutcomeUnknown { .. })
    }

    /// Whether the file system, now or earlier, kept the change from being written: nothing is wrong
    /// with the change.
    pub fn is_refusal_to_write(&self) -> bool {
        matches!(self, Error::Io(_) | Error::OutcomeUnknown { .. } | Error::Poisoned { .. })
    }

    pub(crate) fn corrupt(path: &Path, offset: u64, reason: &'static str) -> Self {
        Error::Corrupt { path: path.to_owned(), offset, reason }
    }

    /// An error of the state about a record that was read.
    pub(crate) fn replayed(path: &Path, offset: u64, source: Inconsistent) -> Self {
        let path = path.to_owned();
        match source {
            Inconsistent::UnknownFeature(feature) => {
                Error::UnknownFeature { path, offset, feature }
            }
            source => Error::Inconsistent { path, offset, source },
        }
    }
}
