//! What can go wrong, and what the caller should do about it.

use thiserror::Error;

/// Why a commit was refused. Nothing was enqueued and no version was used, whatever the kind.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum CommitError {
    /// Something the transaction read was written by a commit it could not see. Run it again.
    #[error("conflict: a key or range this transaction read was changed by a later commit")]
    Conflict,
    /// More was committed during the transaction's life than the oracle remembers
    /// ([`Options::max_tracked_bytes`](crate::Options::max_tracked_bytes)), so it can no longer
    /// tell whether there is a conflict. Run it again, in less time, or raise the limit.
    #[error(
        "transaction too old: it reads version {read_version}, writes are remembered only after {remembered_after}"
    )]
    TooOld {
        /// The version from which the transaction's reads had still to be checked.
        read_version: u64,
        /// The newest version whose writes were forgotten.
        remembered_after: u64,
    },
    /// An earlier commit failed after its version was handed out; see
    /// [`Oracle::failed`](crate::Oracle::failed).
    #[error("no more commits: the commit of version {failed_version} failed")]
    Poisoned {
        /// The smallest version that failed.
        failed_version: u64,
    },
    /// The mark was opened with [`Mode::ReadOnly`](crate::Mode::ReadOnly).
    #[error("write in a read-only transaction")]
    ReadOnly,
    /// `commit_at` was called on an oracle that chooses its versions itself.
    #[error("a commit version was given, but the oracle is not in managed mode")]
    NotManaged,
    /// `commit` was called on an oracle whose versions the caller chooses.
    #[error("the oracle is in managed mode: a commit must give its version")]
    Managed,
    /// Managed mode: the version does not exceed every earlier one.
    #[error("commit version {version} is not above {last}, the largest version so far")]
    VersionNotAbove {
        /// The version that was asked for.
        version: u64,
        /// The largest version handed out, or found at open.
        last: u64,
    },
    /// There is no larger version left.
    #[error("versions are exhausted")]
    Exhausted,
}

/// Why a snapshot could not be opened.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum BeginError {
    /// Versions that a reader at this version needs may be gone already.
    #[error("version {version} cannot be read any more: versions below {floor} may be gone")]
    BelowFloor {
        /// The version that was asked for.
        version: u64,
        /// The smallest version that can be read.
        floor: u64,
    },
    /// The version is not readable yet (managed mode may read ahead).
    #[error("version {version} is not there yet: the newest readable one is {newest}")]
    NotYet {
        /// The version that was asked for.
        version: u64,
        /// The newest readable version.
        newest: u64,
    },
}

/// A managed-mode call on an oracle that is not in managed mode.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
#[error("the oracle is not in managed mode: it chooses the discard watermark itself")]
pub struct NotManaged;
