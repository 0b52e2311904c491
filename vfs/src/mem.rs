//! A file system in memory that knows what a power loss would take back.

mod buffer;
mod content;
mod file;
mod image;
mod names;

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use parking_lot::{Mutex, RwLock, RwLockReadGuard};

use crate::{
    Entry, EntryKind, Error, ErrorKind, File, Fs, LockGuard, LockMode, Metadata, Op, OpenMode,
    Result, SyncSite,
};
use content::Content;
use file::MemFile;
pub use image::{DirtyPage, ImagePolicy, Keep, NameChange};
use names::{Child, DirId, Inode, Names};

/// A file system in memory. Clones share the same files.
///
/// Names and files are separate things as on Unix: an open or mapped file stays usable after its
/// last name is gone, a file may have several names, a rename replaces. Every path starts at the
/// root, which is always there; a relative path means the same as an absolute one.
///
/// # Power loss
///
/// For every file it remembers what of it is durable, in pages of 4 KiB made of sectors of 512
/// bytes, and for every directory which changes of names are. [`MemFs::crash_image`] builds the
/// file system a power loss at this moment would leave behind: all that is durable, and of the
/// rest what an [`ImagePolicy`] decides. It is as hard as the rules of [`Fs`] permit:
///
/// - Of a page that was written but not synced, each sector is old or new. (Versions in between,
///   when a page was written more than once, show in images taken in between.)
/// - The length is the old, the new or one in between. Bytes within the length that were not kept
///   are what they were before, or zero.
/// - A change of names is kept or not, independently of those of other names and of the contents:
///   a durable file without a name is gone, a durable name may lead to an empty file. A rename is
///   kept or not as a whole.
/// - Creating a file, syncing it and losing the power leaves nothing: the directory was not synced.
///
/// An image costs time in proportion to the bytes ever written, not to the length of the files, so
/// preallocated files are cheap.
///
/// # Maps
///
/// A map points into the very buffer of the file, so it shows later writes in place. A file that
/// grows may move to a larger buffer; maps made before then keep the old one, which no longer
/// changes. A file that was given its final length by [`File::allocate`] or [`File::set_len`]
/// never moves.
///
/// # Limits
///
/// A file can have up to [`MemFs::DEFAULT_FILE_CAPACITY`] bytes unless created by
/// [`MemFs::with_file_capacity`]; beyond that writing fails with [`ErrorKind::NoSpace`]. Memory is
/// taken page by page as it is written. What an image might bring back is kept: the old version of an
/// overwritten page until the file is synced, a removed file until its directory is.
#[derive(Clone)]
pub struct MemFs {
    shared: Arc<Shared>,
}

type Hook = dyn Fn(&MemFs, Op, &Path) + Send + Sync;

/// Locks are taken in this order: `world`, `names`, contents of a file. `locks` and `hook` are
/// never held together with another.
struct Shared {
    /// Held shared by everything that changes something, exclusively while an image is built: an
    /// image is a cut through all files at one moment.
    world: RwLock<()>,
    names: Mutex<Names>,
    locks: Mutex<HashMap<DirId, Holders>>,
    hook: RwLock<Option<Arc<Hook>>>,
    operations: AtomicU64,
    open: AtomicUsize,
    most_open: AtomicUsize,
    file_capacity: u64,
}

/// Who holds the lock of a directory.
enum Holders {
    Exclusive,
    Shared(usize),
}

impl Default for MemFs {
    fn default() -> Self {
        MemFs::new()
    }
}

impl fmt::Debug for MemFs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemFs").field("operations", &self.operations()).finish_non_exhaustive()
    }
}

impl MemFs {
    /// How large a file may become by default: 4 GiB (1 GiB where addresses have 32 bits).
    pub const DEFAULT_FILE_CAPACITY: u64 = if usize::BITS >= 64 { 4 << 30 } else { 1 << 30 };

    /// An empty file system.
    pub fn new() -> Self {
        MemFs::with_file_capacity(MemFs::DEFAULT_FILE_CAPACITY)
    }

    /// An empty file system whose files can have up to `bytes` bytes each.
    pub fn with_file_capacity(bytes: u64) -> Self {
        MemFs::over(Names::new(), bytes)
    }

    fn over(names: Names, file_capacity: u64) -> Self {
        MemFs {
            shared: Arc::new(Shared {
                world: RwLock::new(()),
                names: Mutex::new(names),
                locks: Mutex::new(HashMap::new()),
                hook: RwLock::new(None),
                operations: AtomicU64::new(0),
                open: AtomicUsize::new(0),
                most_open: AtomicUsize::new(0),
                file_capacity,
            }),
        }
    }

    /// The file system that a power loss at this moment would leave, with everything in it durable,
    /// no lock held and no hook set. See [`ImagePolicy`] for what there is to decide.
    ///
    /// Waits for operations under way and holds up others meanwhile. May be called from a hook. The
    /// policy must not use this file system.
    ///
    /// # Panics
    /// When there is no memory for the copy.
    pub fn crash_image(&self, policy: &mut dyn ImagePolicy) -> MemFs {
        let _world = self.shared.world.write();
        let names = image::after_power_loss(&self.shared.names.lock(), policy);
        MemFs::over(names, self.shared.file_capacity)
    }

    /// The file system that the death of the process at this moment would leave: everything
    /// written is there, no lock is held, open files without a name are gone. What was not durable
    /// still is not, so an image of a later power loss can be taken from it.
    ///
    /// # Panics
    /// When there is no memory for the copy.
    pub fn process_image(&self) -> MemFs {
        let _world = self.shared.world.write();
        let names = image::duplicate(&self.shared.names.lock());
        MemFs::over(names, self.shared.file_capacity)
    }

    /// Calls `hook` before every operation that changes something: creating opens, writes, syncs
    /// (of files and directories), `allocate`, `set_len`, renames, links, removals. A durable write
    /// is two operations, [`Op::Write`] and [`Op::SyncData`]. Replaces the hook set before.
    ///
    /// The hook runs on the calling thread with no lock held; it may use the file system it is
    /// given, in particular take images. Operations of its own that change something call it again.
    ///
    /// ```
    /// use std::sync::atomic::{AtomicUsize, Ordering};
    /// use kvdb_vfs::{Fs, Keep, MemFs, OpenMode};
    /// # fn main() -> kvdb_vfs::Result<()> {
    /// let fs = MemFs::new();
    /// static IMAGES: AtomicUsize = AtomicUsize::new(0);
    /// fs.on_operation(|fs, _op, _path| {
    ///     let image = fs.crash_image(&mut Keep::Random(7));
    ///     // ... open the database in `image` and look at what is left ...
    ///     IMAGES.fetch_add(1, Ordering::Relaxed);
    /// });
    /// fs.open("a".as_ref(), OpenMode::CreateNew)?.write_all_at(b"x", 0)?;
    /// assert_eq!(IMAGES.load(Ordering::Relaxed), 2);
    /// # Ok(())
    /// # }
    /// ```
    pub fn on_operation(&self, hook: impl Fn(&MemFs, Op, &Path) + Send + Sync + 'static) {
        *self.shared.hook.write() = Some(Arc::new(hook));
    }

    /// Removes the hook.
    pub fn clear_hook(&self) {
        *self.shared.hook.write() = None;
    }

    /// How many operations that change something have been started (see [`MemFs::on_operation`]).
    pub fn operations(&self) -> u64 {
        self.shared.operations.load(Ordering::SeqCst)
    }

    /// How many files are open: on a real file system each takes a descriptor, maps do not.
    pub fn open_files(&self) -> usize {
        self.shared.open.load(Ordering::SeqCst)
    }

    /// The most files that were open at once. An image begins with none.
    pub fn most_open_files(&self) -> usize {
        self.shared.most_open.load(Ordering::SeqCst)
    }

    /// How many pages of named files a power loss might take back at this moment.
    pub fn unsynced_pages(&self) -> usize {
        let _world = self.shared.world.write();
        let names = self.shared.names.lock();
        let mut seen = HashSet::new();
        let files = names.dirs.values().flat_map(|d| d.live.values());
        files
            .filter_map(|child| match child {
                Child::File(inode) if seen.insert(Arc::as_ptr(inode)) => {
                    Some(inode.content.read().dirty_pages())
                }
                _ => None,
            })
            .sum()
    }

    /// How many changes of names a power loss might take back at this moment.
    pub fn unsynced_names(&self) -> usize {
        self.shared.names.lock().pending.len()
    }

    fn file_capacity(&self) -> u64 {
        self.shared.file_capacity
    }

    /// Starts an operation that changes something: counts it, calls the hook, and holds off images
    /// until the guard is dropped.
    fn begin(&self, op: Op, path: &Path) -> RwLockReadGuard<'_, ()> {
        self.shared.operations.fetch_add(1, Ordering::SeqCst);
        let hook = self.shared.hook.read().clone();
        if let Some(hook) = hook {
            hook(self, op, path);
        }
        self.shared.world.read()
    }

    /// Runs a change of names.
    fn change(
        &self,
        op: Op,
        path: &Path,
        change: impl FnOnce(&mut Names) -> io::Result<()>,
    ) -> Result<()> {
        let _world = self.begin(op, path);
        let result = change(&mut self.shared.names.lock());
        result.map_err(|e| Error::new(op, path, None, e))
    }
}

/// Opens or creates.
fn open_or_create(names: &mut Names, path: &Path, mode: OpenMode) -> io::Result<Arc<Inode>> {
    let found = match names.find(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => None,
        other => Some(other?),
    };
    match (found, mode) {
        (Some(_), OpenMode::CreateNew) => Err(io::ErrorKind::AlreadyExists.into()),
        (Some(Child::Dir(_)), _) => Err(io::ErrorKind::IsADirectory.into()),
        (Some(Child::File(inode)), OpenMode::CreateTruncate) => {
            inode.content.write().set_len(0, 0)?;
            Ok(inode)
        }
        (Some(Child::File(inode)), _) => Ok(inode),
        (None, OpenMode::Read | OpenMode::ReadWrite | OpenMode::Direct) => {
            Err(io::ErrorKind::NotFound.into())
        }
        (None, OpenMode::CreateNew | OpenMode::CreateTruncate) => {
            let inode = Inode::new(Content::empty());
            names.link(names.place(path)?, Child::File(inode.clone()))?;
            Ok(inode)
        }
    }
}

impl Fs for MemFs {
    fn open(&self, path: &Path, mode: OpenMode) -> Result<Arc<dyn File>> {
        let creates = matches!(mode, OpenMode::CreateNew | OpenMode::CreateTruncate);
        let _world = creates.then(|| self.begin(Op::Open, path));
        let inode = open_or_create(&mut self.shared.names.lock(), path, mode)
            .map_err(|e| Error::new(Op::Open, path, None, e))?;
        let open = self.shared.open.fetch_add(1, Ordering::SeqCst) + 1;
        self.shared.most_open.fetch_max(open, Ordering::SeqCst);
        Ok(Arc::new(MemFile {
            fs: self.clone(),
            inode,
            path: path.to_owned(),
            mode,
            maps: Arc::default(),
        }))
    }

    fn rename(&self, from: &Path, to: &Path) -> Result<()> {
        self.change(Op::Rename, from, |names| names.rename(names.place(from)?, names.place(to)?))
    }

    fn remove(&self, path: &Path) -> Result<()> {
        self.change(Op::Remove, path, |names| names.unlink_file(names.place(path)?))
    }

    fn hard_link(&self, from: &Path, to: &Path) -> Result<()> {
        let _world = self.begin(Op::HardLink, from);
        let mut names = self.shared.names.lock();
        let error = |path: &Path, e: io::Error| Error::new(Op::HardLink, path, None, e);
        let child = names.find(from).map_err(|e| error(from, e))?;
        if let Child::Dir(_) = child {
            return Err(error(from, io::ErrorKind::PermissionDenied.into()));
        }
        let place = names.place(to).map_err(|e| error(from, e))?;
        names.link(place, child).map_err(|e| error(to, e))
    }

    fn list(&self, dir: &Path) -> Result<Vec<Entry>> {
        let names = self.shared.names.lock();
        let id = names.find_dir(dir).map_err(|e| Error::new(Op::List, dir, None, e))?;
        let live = names.dirs.get(&id).map(|d| &d.live);
        Ok(live
            .into_iter()
            .flatten()
            .map(|(name, child)| Entry {
                name: name.into(),
                kind: match child {
                    Child::File(_) => EntryKind::File,
                    Child::Dir(_) => EntryKind::Dir,
                },
            })
            .collect())
    }

    fn metadata(&self, path: &Path) -> Result<Metadata> {
        let found = self.shared.names.lock().find(path);
        Ok(match found.map_err(|e| Error::new(Op::Metadata, path, None, e))? {
            Child::File(inode) => Metadata {
                kind: EntryKind::File,
                len: inode.content.read().len(),
                links: inode.links.load(Ordering::SeqCst),
            },
            Child::Dir(_) => Metadata { kind: EntryKind::Dir, len: 0, links: 1 },
        })
    }

    fn create_dir_all(&self, dir: &Path) -> Result<()> {
        self.change(Op::CreateDir, dir, |names| names.create_dirs(dir))
    }

    fn remove_dir(&self, dir: &Path) -> Result<()> {
        self.change(Op::RemoveDir, dir, |names| names.unlink_dir(names.place(dir)?))
    }

    fn sync_dir(&self, dir: &Path, _site: SyncSite) -> Result<()> {
        self.change(Op::SyncDir, dir, |names| {
            let id = names.find_dir(dir)?;
            names.sync(id);
            Ok(())
        })
    }

    fn lock(&self, dir: &Path, mode: LockMode) -> Result<LockGuard> {
        let id = self.shared.names.lock().find_dir(dir);
        let id = id.map_err(|e| Error::new(Op::Lock, dir, None, e))?;
        let mut locks = self.shared.locks.lock();
        match (locks.get_mut(&id), mode) {
            (None, LockMode::Exclusive) => {
                locks.insert(id, Holders::Exclusive);
            }
            (None, LockMode::Shared) => {
                locks.insert(id, Holders::Shared(1));
            }
            (Some(Holders::Shared(n)), LockMode::Shared) => *n += 1,
            (Some(_), _) => {
                let source = io::Error::new(io::ErrorKind::WouldBlock, "locked by another opener");
                return Err(Error::with_kind(ErrorKind::Locked, Op::Lock, dir, None, source));
            }
        }
        Ok(LockGuard::new(HeldLock { fs: self.clone(), dir: id }))
    }
}

/// Releases a directory lock when dropped.
struct HeldLock {
    fs: MemFs,
    dir: DirId,
}

impl Drop for HeldLock {
    fn drop(&mut self) {
        let mut locks = self.fs.shared.locks.lock();
        match locks.get_mut(&self.dir) {
            Some(Holders::Shared(n)) if *n > 1 => *n -= 1,
            _ => {
                locks.remove(&self.dir);
            }
        }
    }
}
