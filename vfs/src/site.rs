//! Every place that syncs has a name.

/// The call sites of [`File::sync_data`](crate::File::sync_data),
/// [`Fs::sync_dir`](crate::Fs::sync_dir) and durable writes in the whole system.
///
/// A test can make one of them do nothing at run time ([`FaultFs`](crate::FaultFs)): a mutant
/// without a rebuild. A suite that survives the loss of any one of them is too weak.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum SyncSite {
    /// The group of commits just written to the active segment.
    LogGroup,
    /// An older segment that still had unsynced bytes when a later one was to be synced.
    LogOlder,
    /// Background sync of buffered commits, and the marker after an idle sync.
    LogBackground,
    /// Before a table that refers to the log is installed.
    LogBeforeInstall,
    /// The footer of a clean close.
    LogClose,
    /// Rewriting the recovered tail.
    LogRecovery,
    /// Header (and pre-written contents) of a new segment.
    LogSegmentCreate,
    /// The log's directory after a segment was created.
    LogSegmentDir,
    /// Header of a new segment in a file that was used before.
    LogRecycle,
    /// The log's directory after such a file was renamed.
    LogRecycleDir,
    /// The log's directory after segments were removed, where it is all that says which there are.
    LogRemoveDir,
    /// Output of value-log garbage collection.
    LogRelocate,
    /// The log's directory after garbage collection.
    LogRelocateDir,
    /// A finished table.
    Table,
    /// The directory of tables.
    TableDir,
    /// An appended change set.
    ManifestAppend,
    /// The manifest's new file during creation or rewrite.
    ManifestRewrite,
    /// The manifest's directory after the rename.
    ManifestDir,
    /// The parent directories of a store that was just created.
    StoreDir,
    /// For the use of tests and other crates.
    Other(u16),
}

impl SyncSite {
    /// All sites of kvdb itself, for tests that go through them one by one.
    pub const ALL: &'static [SyncSite] = &[
        SyncSite::LogGroup,
        SyncSite::LogOlder,
        SyncSite::LogBackground,
        SyncSite::LogBeforeInstall,
        SyncSite::LogClose,
        SyncSite::LogRecovery,
        SyncSite::LogSegmentCreate,
        SyncSite::LogSegmentDir,
        SyncSite::LogRecycle,
        SyncSite::LogRecycleDir,
        SyncSite::LogRemoveDir,
        SyncSite::LogRelocate,
        SyncSite::LogRelocateDir,
        SyncSite::Table,
        SyncSite::TableDir,
        SyncSite::ManifestAppend,
        SyncSite::ManifestRewrite,
        SyncSite::ManifestDir,
        SyncSite::StoreDir,
    ];
}
