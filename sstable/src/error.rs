//! What can be wrong with a table, a block or a cursor, and where.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

/// A result of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// A failure: its kind, and the file and offset where there are any.
///
/// One word wide, so that the `Result<bool>` of a cursor's move stays in registers.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub struct Error(Box<Inner>);

#[derive(Debug, thiserror::Error)]
struct Inner {
    kind: ErrorKind,
    path: Option<PathBuf>,
    offset: Option<u64>,
    #[source]
    source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

impl fmt::Display for Inner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(path) = &self.path {
            write!(f, "{}: ", path.display())?;
        }
        write!(f, "{}", self.kind)?;
        if let Some(offset) = self.offset {
            write!(f, " at offset {offset}")?;
        }
        match &self.source {
            Some(source) => write!(f, ": {source}"),
            None => Ok(()),
        }
    }
}

/// The failures that callers tell apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The file does not end in a table's footer.
    #[error("not a table (no footer)")]
    NotATable,
    /// A table of a format version that this build does not read.
    #[error(
        "table format version {found} is {} than this build reads ({supported})",
        if found < supported { "older" } else { "newer" }
    )]
    UnsupportedVersion {
        /// The version in the footer.
        found: u32,
        /// The version this build reads.
        supported: u32,
    },
    /// The table needs a feature that this build does not have (a reserved field is not 0).
    #[error("table uses a feature that this build does not know: {0}")]
    UnsupportedFeature(&'static str),
    /// The blocks are compressed with a codec that this build does not have.
    #[error("unknown codec {0} (or one that was not compiled in)")]
    UnknownCodec(u8),
    /// The filter is of an algorithm that this build does not have.
    #[error("unknown filter algorithm {0}")]
    UnknownFilter(u32),
    /// A stored checksum does not match its data.
    #[error("checksum mismatch in the {0}")]
    ChecksumMismatch(Part),
    /// The file is shorter than its footer says, or a part of it leaves the file.
    #[error("truncated: the {0} is not all there")]
    Truncated(Part),
    /// The checksum is right and the contents make no sense.
    #[error("corrupt {part}: {what}")]
    Corrupt {
        /// Which structure.
        part: Part,
        /// What is wrong with it.
        what: &'static str,
    },
    /// A whole table, but not the one that was expected here (two files were swapped, or the file
    /// is from another database).
    #[error(
        "this is table {found_table} of database {found_database:032x}, expected was table {expected_table} of {expected_database:032x}"
    )]
    WrongTable {
        /// Database id in the footer.
        found_database: u128,
        /// Table id in the footer.
        found_table: u64,
        /// Database id the caller expects.
        expected_database: u128,
        /// Table id the caller expects.
        expected_table: u64,
    },
    /// An entry was added that is not greater than the one before it.
    #[error(
        "entries must be added in strictly ascending order (key ascending, version descending)"
    )]
    OutOfOrder,
    /// A key longer than [`MAX_KEY_LEN`](crate::MAX_KEY_LEN).
    #[error("key of {0} bytes is too long")]
    KeyTooLong(usize),
    /// A value, or a set of properties, that a table has no room for.
    #[error("{0} bytes are too large for this table")]
    TooLarge(u64),
    /// An option outside its range.
    #[error("invalid option: {0}")]
    InvalidOption(&'static str),
    /// `next` or `prev` on a cursor that stands nowhere: see [`Cursor`](crate::Cursor).
    #[error("the cursor is not positioned")]
    Unpositioned,
    /// Reading or writing failed.
    #[error("input/output error")]
    Io,
    /// A cursor of another crate failed; the source says how.
    #[error("a source of entries failed")]
    Other,
}

/// The parts of a table, for messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
#[allow(missing_docs)] // each is the structure of that name in the format
pub enum Part {
    Footer,
    Properties,
    Index,
    Filter,
    Block,
    Padding,
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Part::Footer => "footer",
            Part::Properties => "properties",
            Part::Index => "index",
            Part::Filter => "filter",
            Part::Block => "block",
            Part::Padding => "padding",
        })
    }
}

impl Error {
    /// An error of this kind, without a place.
    #[cold]
    pub fn new(kind: ErrorKind) -> Self {
        Error(Box::new(Inner { kind, path: None, offset: None, source: None }))
    }

    /// For cursors of other crates: wraps whatever went wrong there.
    #[cold]
    pub fn other(source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Error(Box::new(Inner {
            kind: ErrorKind::Other,
            path: None,
            offset: None,
            source: Some(source.into()),
        }))
    }

    /// The error of `next` and `prev` on a cursor that stands nowhere.
    #[cold]
    pub fn unpositioned() -> Self {
        Error::new(ErrorKind::Unpositioned)
    }

    #[cold]
    pub(crate) fn corrupt(part: Part, what: &'static str) -> Self {
        Error::new(ErrorKind::Corrupt { part, what })
    }

    /// Names the file.
    #[must_use]
    pub fn at_path(mut self, path: &Path) -> Self {
        self.0.path = Some(path.to_owned());
        self
    }

    /// Names the offset in the file, in bytes.
    #[must_use]
    pub fn at_offset(mut self, offset: u64) -> Self {
        self.0.offset = Some(offset);
        self
    }

    /// Adds the file and the offset, where they are not known yet.
    #[cold]
    pub(crate) fn or_at(mut self, path: Option<&Path>, offset: u64) -> Self {
        if self.0.offset.is_none() && self.of_file().is_none() {
            self.0.offset = Some(offset);
        }
        self.or_at_path(path)
    }

    /// Adds the file, where it is not known yet.
    #[cold]
    pub(crate) fn or_at_path(mut self, path: Option<&Path>) -> Self {
        if self.0.path.is_none() && self.of_file().is_none() {
            self.0.path = path.map(Path::to_owned);
        }
        self
    }

    /// What a file said, if that is the source: it names its place itself.
    fn of_file(&self) -> Option<&kvdb_vfs::Error> {
        self.0.source.as_deref()?.downcast_ref()
    }

    /// What kind of failure.
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// In which file, if it is known.
    pub fn path(&self) -> Option<&Path> {
        self.0.path.as_deref().or_else(|| Some(self.of_file()?.path()))
    }

    /// At which offset of the file, in bytes, if there is one.
    pub fn offset(&self) -> Option<u64> {
        self.0.offset.or_else(|| self.of_file()?.offset())
    }

    /// Whether it is the data that is damaged (and not the device, the caller or the build).
    pub fn is_corruption(&self) -> bool {
        matches!(
            self.0.kind,
            ErrorKind::NotATable
                | ErrorKind::ChecksumMismatch(_)
                | ErrorKind::Truncated(_)
                | ErrorKind::Corrupt { .. }
                | ErrorKind::WrongTable { .. }
        )
    }
}

impl From<io::Error> for Error {
    fn from(source: io::Error) -> Self {
        Error(Box::new(Inner {
            kind: ErrorKind::Io,
            path: None,
            offset: None,
            source: Some(source.into()),
        }))
    }
}

impl From<kvdb_vfs::Error> for Error {
    fn from(source: kvdb_vfs::Error) -> Self {
        Error(Box::new(Inner {
            kind: ErrorKind::Io,
            // Both are in the source's own message.
            path: None,
            offset: None,
            source: Some(source.into()),
        }))
    }
}
