//! The two traits, [`Fs`] and [`File`], and the small types in their signatures.

use std::fmt::Debug;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::{Region, Result, SyncSite};

/// A file system: names, directories and locks.
///
/// # Durability
///
/// Creating, renaming, linking or removing a name is durable only after [`Fs::sync_dir`] of the
/// directory that holds it; the contents of a file only after [`File::sync_data`] of that file.
/// Nothing orders the two, and nothing orders two files against each other.
pub trait Fs: Send + Sync + Debug {
    /// Opens a file. See [`OpenMode`] for what must or must not exist.
    ///
    /// # Errors
    /// `NotFound`, `AlreadyExists`, `PermissionDenied`, `IsADirectory`, `TooManyFiles`, `Io`, each with the path.
    fn open(&self, path: &Path, mode: OpenMode) -> Result<Arc<dyn File>>;

    /// Renames `from` to `to`, replacing `to` if it exists. Atomic: a reader sees the old or the new.
    fn rename(&self, from: &Path, to: &Path) -> Result<()>;

    /// Removes the name of a file. Open handles and maps stay usable.
    fn remove(&self, path: &Path) -> Result<()>;

    /// Gives the file `from` a second name `to`, which must not exist.
    fn hard_link(&self, from: &Path, to: &Path) -> Result<()>;

    /// The entries of a directory, sorted by name.
    fn list(&self, dir: &Path) -> Result<Vec<Entry>>;

    /// What is known of a path without opening it.
    fn metadata(&self, path: &Path) -> Result<Metadata>;

    /// Creates a directory and its missing parents. Existing ones are no error; a file in the way is.
    fn create_dir_all(&self, dir: &Path) -> Result<()>;

    /// Removes an empty directory.
    fn remove_dir(&self, dir: &Path) -> Result<()>;

    /// Makes the names in `dir` durable.
    fn sync_dir(&self, dir: &Path, site: SyncSite) -> Result<()>;

    /// Locks a directory against other openers, in this process and in others. Never waits.
    ///
    /// # Errors
    /// `Locked`, naming the directory, when someone holds it in a mode that excludes this one.
    fn lock(&self, dir: &Path, mode: LockMode) -> Result<LockGuard>;
}

/// An open file. All operations are positioned, so one handle serves many threads.
pub trait File: Send + Sync + Debug {
    /// The path it was opened with (for messages).
    fn path(&self) -> &Path;

    /// Reads up to `buf.len()` bytes at `offset`; fewer only at the end of the file. Interrupted
    /// and short reads of the system are resumed.
    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<usize>;

    /// Reads exactly `buf.len()` bytes at `offset`, or fails with `UnexpectedEof`.
    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        let n = self.read_at(buf, offset)?;
        if n == buf.len() {
            return Ok(());
        }
        Err(crate::Error::unexpected_eof(self.path(), offset, buf.len(), n))
    }

    /// Serves several reads; a file system that can submit them together does. Each request
    /// carries its own result length.
    fn read_batch(&self, requests: &mut [ReadRequest<'_>]) -> Result<()> {
        for r in requests {
            r.read = self.read_at(r.buf, r.offset)?;
        }
        Ok(())
    }

    /// Writes all of `buf` at `offset`, extending the file if it ends before.
    fn write_all_at(&self, buf: &[u8], offset: u64) -> Result<()>;

    /// Writes all of `buf` at `offset` in the given mode. [`WriteMode::Durable`] vouches for these
    /// bytes only, never for earlier buffered ones.
    fn write_all_at_with(&self, buf: &[u8], offset: u64, mode: WriteMode) -> Result<()>;

    /// Makes the contents (and the length) durable. After a failure nothing is known about what
    /// reached the disk, and a later success means nothing: never retry.
    fn sync_data(&self, site: SyncSite) -> Result<()>;

    /// Reserves space up to `len` and extends the file to `len` if shorter. New bytes read as zero.
    fn allocate(&self, len: u64) -> Result<()>;

    /// Truncates or extends (with zeros).
    fn set_len(&self, len: u64) -> Result<()>;

    /// Length in bytes.
    fn len(&self) -> Result<u64>;

    /// Whether the file has no bytes.
    fn is_empty(&self) -> Result<bool> {
        Ok(self.len()? == 0)
    }

    /// How many names the file has.
    fn links(&self) -> Result<u64>;

    /// Maps a range for reading. `None`: this file system has no maps, use [`File::read_at`].
    ///
    /// The range must lie within the file. The file counts as held ([`File::is_held`]) for as long
    /// as a part of the map lives. Whoever truncates a mapped file takes the readers of
    /// the map down (`SIGBUS`): lock the directory.
    fn map(&self, range: Range<u64>) -> Result<Option<Region>>;

    /// As [`map`](File::map), with an access pattern of the map's own: [`Advice::Random`] or
    /// [`Advice::Sequential`]. What is [advised](File::advise) for the file later does not change it.
    fn map_for(&self, range: Range<u64>, pattern: Advice) -> Result<Option<Region>> {
        let _ = pattern;
        self.map(range)
    }

    /// Whether a map of this file that was made through *another* handle may still live, in this
    /// process or in another one: then the file must not be written over in place. Where that
    /// cannot be found out the answer is yes.
    ///
    /// The answer no holds for as long as nobody else opens the file.
    fn is_held(&self) -> Result<bool>;

    /// Whether the system has a whole range in memory now, so that reading it waits for no device.
    /// `false` also where that cannot be told. To decide whether advice is worth its call.
    fn is_cached(&self, _range: Range<u64>) -> bool {
        false
    }

    /// A hint about future reads. Never fails; may do nothing.
    fn advise(&self, range: Range<u64>, advice: Advice);

    /// Does to this file what a failed write-back does: what is not durable now stays readable but
    /// never becomes durable, unless it is written once more. For the injection of faults; returns
    /// whether this file system can do it, which of those here only [`MemFs`](crate::MemFs) can.
    fn lose_unsynced(&self) -> bool {
        false
    }
}

/// How to open a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OpenMode {
    /// Existing file, reading only.
    Read,
    /// Existing file, reading and writing.
    ReadWrite,
    /// The file must not exist; reading and writing.
    CreateNew,
    /// Created, or truncated to nothing if it exists; reading and writing.
    CreateTruncate,
    /// Existing file, writing only, past the cache of the operating system (`O_DIRECT`).
    ///
    /// Offset and length of every write must be multiples of [`BLOCK`], and so must the address of
    /// the bytes: see [`AlignedBuffer`](crate::AlignedBuffer). A [`WriteMode::Durable`] write is
    /// what `O_DIRECT | O_DSYNC` does; any other is on its way to the device when it returns and
    /// needs [`File::sync_data`] like a buffered one. Such a handle can neither be read nor mapped.
    ///
    /// Do not write to a file through handles of both kinds at a time, and do not look through a
    /// map at blocks that are being written this way.
    ///
    /// Opening, or the first write, fails with `Unsupported` where the system or the file system
    /// has no such thing; then nothing was written.
    Direct,
}

/// What direct writes come in: see [`OpenMode::Direct`]. In bytes.
pub const BLOCK: usize = 4096;

/// How a single write becomes durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WriteMode {
    /// Into the operating system's cache.
    Buffered,
    /// On stable storage when the call returns (`RWF_DSYNC` or the like; where the system has
    /// none, a buffered write and a sync of the file).
    Durable(SyncSite),
}

/// One read of a batch.
#[derive(Debug)]
pub struct ReadRequest<'a> {
    /// Where in the file.
    pub offset: u64,
    /// Where to.
    pub buf: &'a mut [u8],
    /// How many bytes were read; fewer than asked only at the end of the file.
    pub read: usize,
}

/// What a reader is going to do with a range.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Advice {
    /// Nothing special.
    Normal,
    /// Single pages in no order: read nothing ahead.
    Random,
    /// Front to back: read far ahead.
    Sequential,
    /// Soon: start reading now.
    WillNeed,
    /// Not again: may be dropped from the cache.
    DontNeed,
    /// Start writing dirty pages back, without waiting and without any durability.
    WriteBack,
}

/// One name in a directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The name, without the directory.
    pub name: PathBuf,
    /// What it names.
    pub kind: EntryKind,
}

/// What a name stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EntryKind {
    /// A regular file.
    File,
    /// A directory.
    Dir,
    /// Anything else: symbolic link, socket, device.
    Other,
}

/// What is known of a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Metadata {
    /// File, directory or other.
    pub kind: EntryKind,
    /// Length in bytes (0 for directories).
    pub len: u64,
    /// Number of names.
    pub links: u64,
}

/// Who may hold a directory at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LockMode {
    /// One holder.
    Exclusive,
    /// Any number of shared holders, no exclusive one.
    Shared,
}

/// Holds a directory lock; dropping it unlocks.
pub struct LockGuard {
    pub(crate) _held: Box<dyn Send + Sync>,
}

impl Debug for LockGuard {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("LockGuard")
    }
}

impl LockGuard {
    /// Wraps whatever holds the lock until it is dropped. For file systems of your own.
    pub fn new(held: impl Send + Sync + 'static) -> Self {
        LockGuard { _held: Box::new(held) }
    }
}
