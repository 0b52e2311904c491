//! Directories: which names there are, which of them are durable, and what is pending in between.
//!
//! Each directory has two maps from names to files: the live one, which operations see, and the
//! durable one, which a power loss falls back to. A change of names goes to the live map at once
//! and to a list of pending changes; [`Names::sync`] moves it on to the durable map.
//!
//! Pending changes depend on earlier ones of the same name: a change may become durable (or be
//! kept by an image) only together with all earlier pending changes of the names it touches. Any
//! set that is closed in this sense is a possible outcome; changes of different names are not
//! ordered against each other. A rename is one change that touches two names, so it happens or it
//! does not. If it leads into another directory, syncing the target makes the new name durable and
//! leaves the removal of the old one pending.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::ffi::{OsStr, OsString};
use std::io;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::RwLock;

use super::content::Content;

/// A file, independent of its names.
pub(super) struct Inode {
    pub(super) content: RwLock<Content>,
    /// How many live names it has.
    pub(super) links: AtomicU64,
    /// One reference for the file itself, and one for each live map of it.
    pub(super) maps: Arc<()>,
}

impl Inode {
    pub(super) fn new(content: Content) -> Arc<Inode> {
        Arc::new(Inode {
            content: RwLock::new(content),
            links: AtomicU64::new(0),
            maps: Arc::default(),
        })
    }
}

pub(super) type DirId = u64;

/// The directory that is always there.
pub(super) const ROOT: DirId = 0;

/// What a name stands for.
#[derive(Clone)]
pub(super) enum Child {
    File(Arc<Inode>),
    Dir(DirId),
}

impl Child {
    fn is_same(&self, other: &Child) -> bool {
        match (self, other) {
            (Child::File(a), Child::File(b)) => Arc::ptr_eq(a, b),
            (Child::Dir(a), Child::Dir(b)) => a == b,
            _ => false,
        }
    }
}

pub(super) type Map = BTreeMap<OsString, Child>;

#[derive(Clone, Default)]
pub(super) struct Dir {
    pub(super) live: Map,
    pub(super) durable: Map,
}

/// A name in a directory, and the path it was called by.
#[derive(Clone)]
pub(super) struct Place {
    pub(super) dir: DirId,
    pub(super) name: OsString,
    pub(super) path: PathBuf,
}

/// A change of names that is not durable yet: `child` goes from one name to another. A creation
/// comes from nowhere, a removal leads nowhere.
#[derive(Clone)]
pub(super) struct Pending {
    pub(super) from: Option<Place>,
    pub(super) to: Option<Place>,
    pub(super) child: Child,
}

impl Pending {
    /// The directory whose sync makes it durable.
    fn owner(&self) -> Option<DirId> {
        self.to.as_ref().or(self.from.as_ref()).map(|place| place.dir)
    }

    fn places(&self) -> impl Iterator<Item = (DirId, &OsStr)> {
        self.from.iter().chain(&self.to).map(|p| (p.dir, p.name.as_os_str()))
    }
}

/// All directories.
#[derive(Clone)]
pub(super) struct Names {
    pub(super) dirs: HashMap<DirId, Dir>,
    pub(super) next_dir: DirId,
    pub(super) pending: Vec<Pending>,
}

impl Names {
    pub(super) fn new() -> Names {
        Names {
            dirs: HashMap::from([(ROOT, Dir::default())]),
            next_dir: ROOT + 1,
            pending: Vec::new(),
        }
    }

    /// What a path stands for.
    pub(super) fn find(&self, path: &Path) -> io::Result<Child> {
        let mut at = Child::Dir(ROOT);
        for name in components(path) {
            let Child::Dir(dir) = at else { return Err(io::ErrorKind::NotADirectory.into()) };
            at = self.get(dir, name).ok_or(io::ErrorKind::NotFound)?.clone();
        }
        Ok(at)
    }

    pub(super) fn find_dir(&self, path: &Path) -> io::Result<DirId> {
        match self.find(path)? {
            Child::Dir(dir) => Ok(dir),
            Child::File(_) => Err(io::ErrorKind::NotADirectory.into()),
        }
    }

    /// The directory and the name in it that a path means, whether or not the name exists.
    pub(super) fn place(&self, path: &Path) -> io::Result<Place> {
        let mut names = components(path);
        // The root has no name: it can neither be created nor removed nor replaced.
        let name = names.pop().ok_or(io::ErrorKind::IsADirectory)?.to_owned();
        let mut dir = ROOT;
        for name in names {
            dir = match self.get(dir, name).ok_or(io::ErrorKind::NotFound)? {
                Child::Dir(dir) => *dir,
                Child::File(_) => return Err(io::ErrorKind::NotADirectory.into()),
            };
        }
        Ok(Place { dir, name, path: path.to_owned() })
    }

    pub(super) fn at(&self, place: &Place) -> Option<&Child> {
        self.get(place.dir, &place.name)
    }

    fn get(&self, dir: DirId, name: &OsStr) -> Option<&Child> {
        self.dirs.get(&dir)?.live.get(name)
    }

    /// Gives `child` a name.
    pub(super) fn link(&mut self, to: Place, child: Child) -> io::Result<()> {
        if self.at(&to).is_some() {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        self.change(Pending { from: None, to: Some(to), child });
        Ok(())
    }

    pub(super) fn unlink_file(&mut self, from: Place) -> io::Result<()> {
        match self.at(&from).cloned() {
            None => Err(io::ErrorKind::NotFound.into()),
            Some(Child::Dir(_)) => Err(io::ErrorKind::IsADirectory.into()),
            Some(child) => {
                self.change(Pending { from: Some(from), to: None, child });
                Ok(())
            }
        }
    }

    pub(super) fn unlink_dir(&mut self, from: Place) -> io::Result<()> {
        match self.at(&from).cloned() {
            None => Err(io::ErrorKind::NotFound.into()),
            Some(Child::File(_)) => Err(io::ErrorKind::NotADirectory.into()),
            Some(Child::Dir(dir)) if !self.is_empty(dir) => {
                Err(io::ErrorKind::DirectoryNotEmpty.into())
            }
            Some(child) => {
                self.change(Pending { from: Some(from), to: None, child });
                Ok(())
            }
        }
    }

    pub(super) fn rename(&mut self, from: Place, to: Place) -> io::Result<()> {
        let child = self.at(&from).ok_or(io::ErrorKind::NotFound)?.clone();
        match (&child, self.at(&to)) {
            // Two names of one file: POSIX leaves both.
            (_, Some(old)) if child.is_same(old) => return Ok(()),
            (Child::File(_), Some(Child::Dir(_))) => return Err(io::ErrorKind::IsADirectory.into()),
            (Child::Dir(_), Some(Child::File(_))) => {
                return Err(io::ErrorKind::NotADirectory.into());
            }
            (Child::Dir(_), Some(Child::Dir(old))) if !self.is_empty(*old) => {
                return Err(io::ErrorKind::DirectoryNotEmpty.into());
            }
            (Child::Dir(moved), _) if self.is_within(to.dir, *moved) => {
                return Err(io::ErrorKind::InvalidInput.into());
            }
            _ => {}
        }
        self.change(Pending { from: Some(from), to: Some(to), child });
        Ok(())
    }

    /// Creates a directory and its missing parents.
    pub(super) fn create_dirs(&mut self, path: &Path) -> io::Result<()> {
        let mut dir = ROOT;
        let mut so_far = PathBuf::new();
        for name in components(path) {
            so_far.push(name);
            dir = match self.get(dir, name) {
                Some(Child::Dir(dir)) => *dir,
                Some(Child::File(_)) => return Err(io::ErrorKind::NotADirectory.into()),
                None => {
                    let id = self.next_dir;
                    self.next_dir += 1;
                    self.dirs.insert(id, Dir::default());
                    let to = Place { dir, name: name.to_owned(), path: so_far.clone() };
                    self.change(Pending { from: None, to: Some(to), child: Child::Dir(id) });
                    id
                }
            };
        }
        Ok(())
    }

    /// Makes the names in a directory durable.
    pub(super) fn sync(&mut self, dir: DirId) {
        let mut kept: Vec<bool> = self.pending.iter().map(|p| p.owner() == Some(dir)).collect();
        let final_from = close(&self.pending, &mut kept);
        let mut rest = Vec::new();
        let pending = std::mem::take(&mut self.pending);
        for ((mut change, kept), final_from) in pending.into_iter().zip(kept).zip(final_from) {
            if !kept {
                rest.push(change);
                continue;
            }
            // The old name in the other directory is that directory's affair, unless a later
            // change of that name is durable now. Directories never have two names.
            let elsewhere = change.from.as_ref().is_some_and(|from| from.dir != dir);
            let half = elsewhere && final_from && matches!(change.child, Child::File(_));
            if half {
                let from = change.from.take();
                apply(&mut self.dirs, |d| &mut d.durable, &change);
                rest.push(Pending { from, to: None, child: change.child });
            } else {
                apply(&mut self.dirs, |d| &mut d.durable, &change);
            }
        }
        self.pending = rest;
    }

    fn change(&mut self, change: Pending) {
        let replaced = change.to.as_ref().and_then(|to| self.at(to)).cloned();
        if let Some(Child::File(old)) = replaced {
            old.links.fetch_sub(1, Ordering::SeqCst);
        }
        if let Child::File(inode) = &change.child {
            match (&change.from, &change.to) {
                (None, Some(_)) => inode.links.fetch_add(1, Ordering::SeqCst),
                (Some(_), None) => inode.links.fetch_sub(1, Ordering::SeqCst),
                _ => 0,
            };
        }
        apply(&mut self.dirs, |d| &mut d.live, &change);
        self.pending.push(change);
    }

    fn is_empty(&self, dir: DirId) -> bool {
        self.dirs.get(&dir).is_none_or(|d| d.live.is_empty())
    }

    /// Whether `dir` is `above` or lies below it.
    fn is_within(&self, dir: DirId, above: DirId) -> bool {
        dir == above
            || self.dirs.get(&above).is_some_and(|d| {
                d.live.values().any(|c| matches!(c, Child::Dir(sub) if self.is_within(dir, *sub)))
            })
    }
}

/// Extends a choice of pending changes by all earlier ones of the same names. Tells for each change
/// whether no later chosen one touches the name it comes from.
pub(super) fn close(pending: &[Pending], kept: &mut [bool]) -> Vec<bool> {
    let mut needed = HashSet::new();
    let mut final_from = vec![true; pending.len()];
    for (i, change) in pending.iter().enumerate().rev() {
        kept[i] |= change.places().any(|place| needed.contains(&place));
        final_from[i] =
            change.from.as_ref().is_none_or(|f| !needed.contains(&(f.dir, f.name.as_os_str())));
        if kept[i] {
            needed.extend(change.places());
        }
    }
    final_from
}

/// Carries out a change in one of the two maps of the directories.
pub(super) fn apply(
    dirs: &mut HashMap<DirId, Dir>,
    map: impl Fn(&mut Dir) -> &mut Map,
    change: &Pending,
) {
    if let Some(from) = &change.from
        && let Some(dir) = dirs.get_mut(&from.dir)
    {
        map(dir).remove(&from.name);
    }
    if let Some(to) = &change.to
        && let Some(dir) = dirs.get_mut(&to.dir)
    {
        map(dir).insert(to.name.clone(), change.child.clone());
    }
}

/// The names along a path. Every path starts at the root, `..` is taken literally.
fn components(path: &Path) -> Vec<&OsStr> {
    let mut names = Vec::new();
    for component in path.components() {
        match component {
            Component::Normal(name) => names.push(name),
            Component::ParentDir => {
                names.pop();
            }
            Component::Prefix(_) | Component::RootDir | Component::CurDir => {}
        }
    }
    names
}
