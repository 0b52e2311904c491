//! What can go wrong with a log.

use std::path::PathBuf;
use std::sync::Arc;

use crate::{Pointer, Position};

/// A result of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// An error of the caller's own, as a [`SegmentNamer`](crate::SegmentNamer) returns it.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// A failed operation of the log.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The file does not begin as a file of this crate does.
    #[error("{}: not a log segment", path.display())]
    NotASegment {
        /// The file.
        path: PathBuf,
    },
    /// The file was written in a newer or an older version of the format.
    #[error("{}: format version {found}, this program reads {supported}", path.display())]
    UnsupportedVersion {
        /// The file.
        path: PathBuf,
        /// The version in its header.
        found: u32,
        /// The version understood here.
        supported: u32,
    },
    /// The file belongs to another database.
    #[error("{}: belongs to database {found:032x}, not {expected:032x}", path.display())]
    WrongDatabase {
        /// The file.
        path: PathBuf,
        /// The database that was opened.
        expected: u128,
        /// The database in the file's header.
        found: u128,
    },
    /// The file is one of this database, but not the one that its name stands for.
    #[error("{}: {what} {found} in its header, {expected} expected", path.display())]
    WrongFile {
        /// The file.
        path: PathBuf,
        /// Which field of the header differs.
        what: &'static str,
        /// The value expected.
        expected: u64,
        /// The value found.
        found: u64,
    },
    /// Bytes that were known to be durable, or that a pointer vouches for, do not verify.
    #[error("{}: damaged at offset {offset}: {what}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Where the bytes that do not verify begin.
        offset: u64,
        /// What they should have been.
        what: &'static str,
    },
    /// The file is shorter than it must be.
    #[error("{}: {found} bytes long, {expected} expected", path.display())]
    Truncated {
        /// The file.
        path: PathBuf,
        /// The length it must have, in bytes.
        expected: u64,
        /// The length it has, in bytes.
        found: u64,
    },
    /// A frame that no segment can hold.
    #[error("a frame of {size} bytes is over the limit of {limit}")]
    FrameTooLarge {
        /// Length of the frame in bytes, header and padding included.
        size: u64,
        /// The largest length allowed, see [`max_frame_len`](crate::max_frame_len).
        limit: u64,
    },
    /// A key, tag or value that no record can hold.
    #[error("a {what} of {size} bytes is over the limit of {limit}")]
    RecordTooLarge {
        /// Which part of the record.
        what: &'static str,
        /// Its length in bytes.
        size: u64,
        /// The largest length allowed.
        limit: u64,
    },
    /// A pointer to no record.
    #[error("pointer {pointer} does not name a record: {what}")]
    BadPointer {
        /// The pointer.
        pointer: Pointer,
        /// What is wrong with it.
        what: &'static str,
    },
    /// A pointer to a record of another key.
    #[error("pointer {pointer} names a record of another key")]
    KeyMismatch {
        /// The pointer.
        pointer: Pointer,
    },
    /// A position or pointer into a segment that is not part of the log.
    #[error("segment {segment} is not part of the log")]
    UnknownSegment {
        /// The segment's number.
        segment: u32,
    },
    /// A position where no frame begins.
    #[error("no frame begins at {position}")]
    BadPosition {
        /// The position.
        position: Position,
    },
    /// An earlier write or sync failed, or a callback panicked. Nothing can be appended any more;
    /// opening again clears it.
    #[error("the log failed earlier: {cause}")]
    Poisoned {
        /// The failure that did it.
        cause: Arc<Error>,
    },
    /// The log was closed.
    #[error("the log is closed")]
    Closed,
    /// The commit failed after its bytes may have been written. Recovery finds it whole or not at
    /// all; which of the two is not known.
    #[error("outcome unknown: {cause}")]
    OutcomeUnknown {
        /// The failure.
        cause: Arc<Error>,
    },
    /// A callback panicked.
    #[error("panic in {during}: {message}")]
    Panicked {
        /// Which callback.
        during: &'static str,
        /// The panic's message.
        message: String,
    },
    /// A frame was enqueued with a reservation smaller than itself. A mistake of the caller that
    /// costs the log its guarantee that every admitted frame has a place, so it poisons the log.
    #[error("a frame of {frame} bytes was enqueued with room for {room}")]
    RoomTooSmall {
        /// Length of the frame.
        frame: u64,
        /// What was reserved.
        room: u64,
    },
    /// Options out of range.
    #[error("option {option}: {value} is not in {range}")]
    BadOption {
        /// Name of the option.
        option: &'static str,
        /// The value given.
        value: u64,
        /// The values allowed.
        range: &'static str,
    },
    /// The caller's segment registry refused.
    #[error("naming a segment: {0}")]
    Namer(#[source] BoxError),
    /// Not possible on a log that was opened for reading only.
    #[error("the log is open for reading only")]
    ReadOnly,
    /// The method was called out of its turn.
    #[error("{0}")]
    Misuse(&'static str),
    /// The file system failed.
    #[error(transparent)]
    Io(#[from] kvdb_vfs::Error),
}

impl Error {
    /// Whether the cause, however deeply wrapped, is a full disk or quota.
    pub fn is_no_space(&self) -> bool {
        match self {
            Error::Io(e) => e.kind() == kvdb_vfs::ErrorKind::NoSpace,
            Error::Poisoned { cause } | Error::OutcomeUnknown { cause } => cause.is_no_space(),
            _ => false,
        }
    }

    pub(crate) fn damaged(path: &std::path::Path, offset: u64, what: &'static str) -> Self {
        Error::Damaged { path: path.to_owned(), offset, what }
    }
}

/// Why a replay ended early: the log's fault, or the caller's wish.
#[derive(Debug, thiserror::Error)]
pub enum ReplayError<E> {
    /// The log could not be read, or is damaged.
    #[error(transparent)]
    Log(#[from] Error),
    /// The callback returned an error.
    #[error("the callback stopped the replay")]
    Caller(E),
}
