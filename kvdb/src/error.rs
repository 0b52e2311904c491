//! What can go wrong, and what to do about it.

use std::path::PathBuf;

/// A result of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Everything an operation of the database can fail with. [`Error::kind`] says what to do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Another commit changed what this transaction has read. Run it again.
    #[error("conflict: another commit changed what this transaction has read; run it again")]
    Conflict,
    /// The transaction outlived the memory of the conflict detection. Run it again.
    #[error(
        "transaction too old: the conflict detection no longer remembers its time; run it again, or raise max_conflict_memory"
    )]
    TooOld,
    /// Managed mode: the transaction has read something at a version so old that, when it began, the
    /// conflict detection no longer knew all that was committed after it: for want of memory, or
    /// because the database was opened since. Begun there again it never gets through.
    #[error(
        "version {version} is too old to begin at: what was committed up to {remembered_after} is no longer checked for conflicts; begin there or above, or raise max_conflict_memory"
    )]
    ForgottenVersion {
        /// The version it began at.
        version: u64,
        /// The oldest version to begin at.
        remembered_after: u64,
    },
    /// Keys have at least one byte.
    #[error("empty key: keys have 1 to {} bytes", crate::MAX_KEY_LEN)]
    EmptyKey,
    /// The key is longer than [`MAX_KEY_LEN`](crate::MAX_KEY_LEN).
    #[error("key of {len} bytes: the limit is {limit}")]
    KeyTooLong {
        /// Bytes of the key.
        len: usize,
        /// Most bytes a key may have.
        limit: usize,
    },
    /// The value does not fit into a frame of the log: see
    /// [`Db::max_value_len`](crate::Db::max_value_len).
    #[error("value of {len} bytes: the limit for this key and segment size is {limit}")]
    ValueTooLarge {
        /// Bytes of the value.
        len: usize,
        /// Most bytes a value under this key may have.
        limit: usize,
    },
    /// This write would take the transaction over its limit. It is not in the transaction; what
    /// was there before can still be committed.
    #[error("transaction too big: {size} bytes with this write, the limit is {limit}")]
    TransactionTooBig {
        /// Bytes of the transaction with the refused write.
        size: usize,
        /// Most bytes a transaction may have.
        limit: usize,
    },
    /// Someone else has the store open.
    #[error("in use: {} is open elsewhere (in this process or another)", path.display())]
    InUse {
        /// The directory.
        path: PathBuf,
    },
    /// There is no store at this path, and it was not to be created.
    #[error("no database at {}", path.display())]
    NotFound {
        /// The directory.
        path: PathBuf,
    },
    /// The path holds something that is not a store of ours.
    #[error("{} is not a database: {reason}", path.display())]
    NotADatabase {
        /// The path.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The two directories are not halves of the same store: the value log is not here, or another
    /// store's is. A store is opened with the [`value_dir`](crate::Options#structfield.value_dir)
    /// that it was created with, or with none if it was created with none. If the store is known to
    /// have had its log in its own directory, and that is gone, it is [`Error::Inconsistent`] instead:
    /// then the option is right and the log is lost.
    #[error(
        "option value_dir: {} does not hold the value log of the database at {} \
         (which has another one, or has lost it)",
        value_dir.display(), path.display()
    )]
    WrongValueDir {
        /// The store's directory.
        path: PathBuf,
        /// The value log's directory.
        value_dir: PathBuf,
    },
    /// The writer was finished.
    #[error("the writer is finished")]
    Finished,
    /// The key of a sequence holds something else, or the sequence is at its end.
    #[error("sequence {}: {what}", key.escape_ascii())]
    NotASequence {
        /// The key.
        key: Vec<u8>,
        /// What is wrong with it.
        what: &'static str,
    },
    /// The database was opened for reading only.
    #[error("the database is open for reading only")]
    ReadOnly,
    /// The database was closed: see [`Db::close`](crate::Db::close) for what is still usable.
    #[error("the database is closed")]
    Closed,
    /// Whoever was told of its progress broke it off.
    #[error("cancelled")]
    Cancelled,
    /// The first close could not make everything durable; this is what the later ones say.
    #[error("the database was closed, but not all could be made durable: {0}")]
    CloseFailed(String),
    /// The call would wait for the one that it was made within: see
    /// [`Db::gc_with`](crate::Db::gc_with).
    #[error("this call would wait for the one it was made within")]
    Reentrant,
    /// A setting out of its range, or an empty path.
    #[error("option {name}: {reason}")]
    InvalidOption {
        /// Name of the option.
        name: &'static str,
        /// What is wrong with it.
        reason: String,
    },
    /// What was visible at this version is no longer known.
    #[error("version {version} is below the discard watermark {watermark}: its past is gone")]
    BelowWatermark {
        /// The version asked for.
        version: u64,
        /// The oldest version that can still be read.
        watermark: u64,
    },
    /// The version lies in the future.
    #[error("version {version} has not been committed yet; the newest is {newest}")]
    FutureVersion {
        /// The version asked for.
        version: u64,
        /// The newest version.
        newest: u64,
    },
    /// The database is in managed mode: the caller says at which versions it reads and commits.
    #[error("the database is in managed mode: begin_at and commit_at take the place of this call")]
    Managed,
    /// A version to begin or commit at was given, but the database chooses its versions itself.
    #[error("the database is not in managed mode: it chooses its versions itself")]
    NotManaged,
    /// Managed mode: the version of a commit must be above every earlier one.
    #[error("version {version} is not above {last}, the largest version so far")]
    VersionNotAbove {
        /// The version asked for.
        version: u64,
        /// The largest version of the store.
        last: u64,
    },
    /// There is no larger version left: the largest is `u64::MAX - 1`.
    #[error("versions are exhausted")]
    VersionsExhausted,
    /// An earlier write or sync of the log failed. Nothing can be written until the database is
    /// opened again; reading goes on.
    #[error("the log is poisoned by an earlier failure; close and open the database: {0}")]
    Poisoned(String),
    /// The log failed while this commit was being written. Whether it took place is known after
    /// the next opening: it is there whole or not at all.
    #[error("outcome unknown: the log failed during this commit: {0}")]
    OutcomeUnknown(String),
    /// A background job (flush, compaction) failed and writing has stopped. Reading goes on.
    #[error("background work failed; close and open the database: {0}")]
    Background(String),
    /// The key holds merge operands, and the store was opened without a merge operator: see
    /// [`Options::merge_operator`](crate::Options::merge_operator).
    #[error(
        "key {} holds merge operands; open the store with its merge operator",
        key.escape_ascii()
    )]
    NoMergeOperator {
        /// The key.
        key: Vec<u8>,
    },
    /// An entry of a kind this version does not know, or bytes that make no entry.
    #[error("damaged entry under key {}: {what}", key.escape_ascii())]
    DamagedEntry {
        /// The key.
        key: Vec<u8>,
        /// What is wrong.
        what: String,
    },
    /// Orphaned or unexpected state that only a restore can mend.
    #[error("inconsistent store: {0}")]
    Inconsistent(String),
    /// An error of the file system.
    #[error(transparent)]
    Io(#[from] kvdb_vfs::Error),
    /// An error of the value log.
    #[error(transparent)]
    Log(kvdb_vlog::Error),
    /// An error of the manifest.
    #[error(transparent)]
    Manifest(kvdb_manifest::Error),
    /// An error of the tree.
    #[error(transparent)]
    Tree(kvdb_lsm::Error),
    /// An error of a table.
    #[error(transparent)]
    Table(kvdb_sstable::Error),
}

/// What a caller can do about an [`Error`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// Run the transaction again.
    Retry,
    /// Change the call, the options or the path.
    Usage,
    /// Free space, then go on (or open again if the database is poisoned).
    NoSpace,
    /// Stored bytes are damaged or missing: restore from a backup.
    Corruption,
    /// Close the database and open it again.
    Reopen,
    /// Someone else has it.
    InUse,
    /// There is nothing at that path.
    NotFound,
    /// The database is closed.
    Closed,
    /// The operating system refused: see the source.
    Io,
}

impl Error {
    /// What a caller can do about it.
    ///
    /// ```
    /// # fn main() -> kvdb::Result<()> {
    /// # let db = kvdb::Options::default().open_in(std::sync::Arc::new(kvdb::vfs::MemFs::new()), "/db")?;
    /// use kvdb::ErrorKind;
    /// let mut t = db.begin()?;
    /// t.get("k")?;
    /// t.put("l", "")?;
    /// db.put("k", "changed meanwhile")?;
    /// match t.commit() {
    ///     Err(error) if error.kind() == ErrorKind::Retry => {} // run it again
    ///     Err(error) if error.kind() == ErrorKind::NoSpace => panic!("free some space: {error}"),
    ///     outcome => panic!("{outcome:?}"),
    /// }
    /// assert_eq!(db.put("", "").unwrap_err().kind(), ErrorKind::Usage);
    /// # db.close()
    /// # }
    /// ```
    pub fn kind(&self) -> ErrorKind {
        match self {
            Error::Conflict | Error::TooOld => ErrorKind::Retry,
            Error::ForgottenVersion { .. }
            | Error::EmptyKey
            | Error::KeyTooLong { .. }
            | Error::ValueTooLarge { .. }
            | Error::TransactionTooBig { .. }
            | Error::ReadOnly
            | Error::NoMergeOperator { .. }
            | Error::Cancelled
            | Error::Reentrant
            | Error::Finished
            | Error::NotASequence { .. }
            | Error::InvalidOption { .. }
            | Error::BelowWatermark { .. }
            | Error::FutureVersion { .. }
            | Error::Managed
            | Error::NotManaged
            | Error::VersionNotAbove { .. }
            | Error::VersionsExhausted
            | Error::WrongValueDir { .. }
            | Error::NotADatabase { .. } => ErrorKind::Usage,
            Error::InUse { .. } => ErrorKind::InUse,
            Error::NotFound { .. } => ErrorKind::NotFound,
            Error::Closed => ErrorKind::Closed,
            Error::CloseFailed(_)
            | Error::Poisoned(_)
            | Error::OutcomeUnknown(_)
            | Error::Background(_) => ErrorKind::Reopen,
            Error::DamagedEntry { .. } | Error::Inconsistent(_) => ErrorKind::Corruption,
            Error::Io(e) => of_io(e),
            Error::Log(e) => of_log(e),
            Error::Manifest(e) => of_manifest(e),
            Error::Tree(e) => of_tree(e),
            Error::Table(e) => of_table(e),
        }
    }
}

fn of_io(error: &kvdb_vfs::Error) -> ErrorKind {
    match error.kind() {
        kvdb_vfs::ErrorKind::NoSpace => ErrorKind::NoSpace,
        kvdb_vfs::ErrorKind::NotFound => ErrorKind::NotFound,
        kvdb_vfs::ErrorKind::Locked => ErrorKind::InUse,
        kvdb_vfs::ErrorKind::UnexpectedEof => ErrorKind::Corruption,
        _ => ErrorKind::Io,
    }
}

fn of_log(error: &kvdb_vlog::Error) -> ErrorKind {
    use kvdb_vlog::Error as E;
    match error {
        E::NotASegment { .. }
        | E::WrongDatabase { .. }
        | E::WrongFile { .. }
        | E::Damaged { .. }
        | E::Truncated { .. }
        | E::BadPointer { .. }
        | E::KeyMismatch { .. }
        | E::UnknownSegment { .. }
        | E::BadPosition { .. } => ErrorKind::Corruption,
        E::Io(e) => of_io(e),
        E::Closed => ErrorKind::Closed,
        E::Poisoned { .. } | E::OutcomeUnknown { .. } | E::Panicked { .. } => ErrorKind::Reopen,
        E::Namer(e) => e.downcast_ref().map_or(ErrorKind::Io, of_tree),
        _ => ErrorKind::Usage,
    }
}

fn of_manifest(error: &kvdb_manifest::Error) -> ErrorKind {
    use kvdb_manifest::Error as E;
    match error {
        E::Io(e) => of_io(e),
        E::OutcomeUnknown { .. } | E::Poisoned { .. } => ErrorKind::Reopen,
        E::Missing { .. } => ErrorKind::NotFound,
        E::NotAManifest { .. }
        | E::ReadOnly { .. }
        | E::AlreadyExists { .. }
        | E::UnsupportedVersion { .. }
        | E::UnknownFeature { .. } => ErrorKind::Usage,
        _ => ErrorKind::Corruption,
    }
}

fn of_tree(error: &kvdb_lsm::Error) -> ErrorKind {
    use kvdb_lsm::Error as E;
    match error {
        E::Fs(e) => of_io(e),
        E::Table(e) => of_table(e),
        E::Manifest(e) => of_manifest(e),
        E::MissingTable { .. } | E::TableSize { .. } | E::Inconsistent(_) | E::Entry(_) => {
            ErrorKind::Corruption
        }
        E::Closed => ErrorKind::Closed,
        E::Background { source, .. } => match of_tree(source) {
            ErrorKind::NoSpace => ErrorKind::NoSpace,
            _ => ErrorKind::Reopen,
        },
        E::Panic(_) => ErrorKind::Reopen,
        E::Option { .. } | E::ReadOnly => ErrorKind::Usage,
        _ => ErrorKind::Io,
    }
}

fn of_table(error: &kvdb_sstable::Error) -> ErrorKind {
    use kvdb_sstable::ErrorKind as K;
    match error.kind() {
        K::Io => file_system_cause(error).map_or(ErrorKind::Io, of_io),
        K::Other if is_closed(error) => ErrorKind::Closed,
        K::Other => file_system_cause(error).map_or(ErrorKind::Corruption, of_io),
        K::Unpositioned
        | K::UnsupportedVersion { .. }
        | K::UnsupportedFeature(_)
        | K::UnknownCodec(_)
        | K::UnknownFilter(_) => ErrorKind::Usage,
        _ => ErrorKind::Corruption,
    }
}

/// What the file system said, at the bottom of an error.
fn file_system_cause<'e>(
    error: &'e (dyn std::error::Error + 'static),
) -> Option<&'e kvdb_vfs::Error> {
    cause(error)
}

/// The error of this kind that an error comes from.
fn cause<'e, T: std::error::Error + 'static>(
    error: &'e (dyn std::error::Error + 'static),
) -> Option<&'e T> {
    if let Some(found) = error.downcast_ref() {
        return Some(found);
    }
    match error.downcast_ref::<std::io::Error>().and_then(|error| error.get_ref()) {
        Some(inner) => cause(inner),
        None => cause(error.source()?),
    }
}

impl From<kvdb_sstable::Error> for Error {
    fn from(error: kvdb_sstable::Error) -> Self {
        match is_closed(&error) {
            true => Error::Closed,
            false => Error::Table(error),
        }
    }
}

/// Whether a cursor met the end of the database.
fn is_closed(error: &kvdb_sstable::Error) -> bool {
    matches!(error.kind(), kvdb_sstable::ErrorKind::Other)
        && matches!(cause(error), Some(kvdb_lsm::Error::Closed))
}

impl From<kvdb_manifest::Error> for Error {
    fn from(error: kvdb_manifest::Error) -> Self {
        match error {
            kvdb_manifest::Error::NotAManifest { path } => Error::NotADatabase {
                reason: "this file is the manifest of another program, or overwritten".into(),
                path,
            },
            error => Error::Manifest(error),
        }
    }
}

impl From<kvdb_vlog::Error> for Error {
    fn from(error: kvdb_vlog::Error) -> Self {
        use kvdb_vlog::Error as E;
        match error {
            E::Poisoned { cause } => Error::Poisoned(cause.to_string()),
            E::OutcomeUnknown { cause } => Error::OutcomeUnknown(cause.to_string()),
            E::Closed => Error::Closed,
            E::ReadOnly => Error::ReadOnly,
            E::Io(error) => Error::Io(error),
            error => Error::Log(error),
        }
    }
}

impl From<kvdb_lsm::Error> for Error {
    fn from(error: kvdb_lsm::Error) -> Self {
        use kvdb_lsm::Error as E;
        match error {
            E::Closed => Error::Closed,
            E::ReadOnly => Error::ReadOnly,
            E::Fs(error) => Error::Io(error.duplicate()),
            E::Table(error) if is_closed(&error) => Error::Closed,
            error => Error::Tree(error),
        }
    }
}

impl From<kvdb_txn::CommitError> for Error {
    fn from(error: kvdb_txn::CommitError) -> Self {
        use kvdb_txn::CommitError as E;
        match error {
            E::Conflict => Error::Conflict,
            E::TooOld { .. } => Error::TooOld,
            E::ReadOnly => Error::ReadOnly,
            E::Managed => Error::Managed,
            E::NotManaged => Error::NotManaged,
            E::VersionNotAbove { version, last } => Error::VersionNotAbove { version, last },
            E::Exhausted => Error::VersionsExhausted,
            error => Error::Poisoned(error.to_string()),
        }
    }
}

impl From<kvdb_txn::BeginError> for Error {
    fn from(error: kvdb_txn::BeginError) -> Self {
        use kvdb_txn::BeginError as E;
        match error {
            E::BelowFloor { version, floor } => Error::BelowWatermark { version, watermark: floor },
            E::NotYet { version, newest } => Error::FutureVersion { version, newest },
            error => Error::Inconsistent(error.to_string()),
        }
    }
}
