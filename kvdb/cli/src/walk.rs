//! The files below a folder, in the order of their keys.
//!
//! The key of a file is its path below the folder with `/` between the parts. Entries of a
//! directory are sorted by name with a `/` behind the names of directories, as git sorts
//! its trees: that makes a walk in depth come by in exactly the bytewise order of the keys
//! (`a.txt` before `a/b`, although `a` is before `a.txt`), without holding more than the
//! directories on the path to the current file.
//!
//! Symbolic links are not followed, so a walk cannot go in circles, and a canonical folder
//! gives canonical paths all the way down.

use std::collections::HashSet;
use std::ffi::OsString;
use std::fs::{self, DirEntry};
use std::io;
use std::path::{Path, PathBuf};
use std::vec;

use crate::bytes;

/// A file that was found.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) key: Vec<u8>,
    pub(crate) path: PathBuf,
}

/// A path that could not be read.
#[derive(Debug)]
pub(crate) struct Unreadable {
    pub(crate) path: PathBuf,
    pub(crate) error: io::Error,
}

/// What a walk leaves out.
#[derive(Clone, Debug, Default)]
pub(crate) struct Rules {
    /// Files and directories of these names.
    pub(crate) names: HashSet<OsString>,
    /// Directories of these names.
    pub(crate) directories: HashSet<OsString>,
    /// These directories, as canonical paths.
    pub(crate) stores: Vec<PathBuf>,
}

/// What a walk has left out so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Skipped {
    pub(crate) symlinks: u64,
    /// Left out by the rules, each directory counted once.
    pub(crate) excluded: u64,
    /// Pipes, sockets, devices.
    pub(crate) special: u64,
}

/// The walk: an iterator over files, and over what could not be read on the way.
#[derive(Debug)]
pub(crate) struct Walk {
    rules: Rules,
    /// The directories from the folder down to the current one, with what is left of each.
    open: Vec<Level>,
    skipped: Skipped,
    /// An error that was met while a directory was being opened.
    errors: Vec<Unreadable>,
}

#[derive(Debug)]
struct Level {
    path: PathBuf,
    /// Empty, or ends with a `/`.
    key: Vec<u8>,
    entries: vec::IntoIter<Child>,
}

#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Child {
    /// With a `/` behind it if it is a directory; this is what the order goes by.
    sort_key: Vec<u8>,
    name: OsString,
    is_dir: bool,
}

impl Walk {
    /// A walk below `folder`, which must be a canonical path if the rules name stores.
    ///
    /// # Errors
    ///
    /// The folder cannot be listed.
    pub(crate) fn new(folder: &Path, rules: Rules) -> io::Result<Self> {
        let mut walk =
            Self { rules, open: Vec::new(), skipped: Skipped::default(), errors: Vec::new() };
        walk.enter(folder.to_owned(), Vec::new())?;
        Ok(walk)
    }

    /// What has been left out up to here.
    pub(crate) fn skipped(&self) -> Skipped {
        self.skipped
    }

    fn enter(&mut self, path: PathBuf, key: Vec<u8>) -> io::Result<()> {
        let mut children = Vec::new();
        for entry in fs::read_dir(&path)? {
            let child = entry.and_then(|entry| self.admit(&path, &entry));
            match child {
                Ok(Some(child)) => children.push(child),
                Ok(None) => {}
                Err(error) => self.errors.push(Unreadable { path: path.clone(), error }),
            }
        }
        children.sort_unstable();
        self.open.push(Level { path, key, entries: children.into_iter() });
        Ok(())
    }

    /// The entry, unless it is left out, which is then counted.
    fn admit(&mut self, parent: &Path, entry: &DirEntry) -> io::Result<Option<Child>> {
        let name = entry.file_name();
        let kind = entry.file_type()?;
        let is_store = || {
            let path = parent.join(&name);
            self.rules.stores.contains(&path)
        };
        if self.rules.names.contains(&name)
            || kind.is_dir() && (self.rules.directories.contains(&name) || is_store())
        {
            self.skipped.excluded += 1;
            return Ok(None);
        }
        if kind.is_symlink() {
            self.skipped.symlinks += 1;
            return Ok(None);
        }
        if !kind.is_dir() && !kind.is_file() {
            self.skipped.special += 1;
            return Ok(None);
        }
        let Some(bytes) = bytes::of_os_str(&name) else {
            let message = format!("the name {} is not Unicode", name.display());
            return Err(io::Error::new(io::ErrorKind::InvalidData, message));
        };
        let mut sort_key = bytes.to_vec();
        if kind.is_dir() {
            sort_key.push(b'/');
        }
        Ok(Some(Child { sort_key, name, is_dir: kind.is_dir() }))
    }
}

impl Iterator for Walk {
    type Item = Result<Entry, Unreadable>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(unreadable) = self.errors.pop() {
                return Some(Err(unreadable));
            }
            let level = self.open.last_mut()?;
            let Some(child) = level.entries.next() else {
                self.open.pop();
                continue;
            };
            let path = level.path.join(&child.name);
            let key = [level.key.as_slice(), &child.sort_key].concat();
            if !child.is_dir {
                return Some(Ok(Entry { key, path }));
            }
            if let Err(error) = self.enter(path.clone(), key) {
                return Some(Err(Unreadable { path, error }));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use super::{Rules, Skipped, Walk};

    fn keys(walk: &mut Walk) -> Vec<String> {
        walk.map(|found| String::from_utf8(found.unwrap().key).unwrap()).collect()
    }

    fn make(folder: &Path, files: &[&str]) {
        for file in files {
            let path = folder.join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, file).unwrap();
        }
    }

    fn rules(names: &[&str], directories: &[&str]) -> Rules {
        Rules {
            names: names.iter().map(Into::into).collect(),
            directories: directories.iter().map(Into::into).collect(),
            stores: Vec::new(),
        }
    }

    #[test]
    fn files_come_in_the_order_of_their_keys_also_around_the_slash() {
        let folder = tempfile::tempdir().unwrap();
        make(
            folder.path(),
            &["a/b", "a.txt", "a/b.c/d", "a/b.c!", "a0", "A", "a/zz/y/x", "é", "a!"],
        );
        let mut walk = Walk::new(folder.path(), Rules::default()).unwrap();
        let found = keys(&mut walk);
        let mut sorted = found.clone();
        sorted.sort_unstable();
        assert_eq!(found, sorted);
        assert_eq!(found.len(), 9);
        assert_eq!(walk.skipped(), Skipped::default());
    }

    #[test]
    fn names_are_left_out_at_any_depth_and_directory_names_spare_files() {
        let folder = tempfile::tempdir().unwrap();
        make(folder.path(), &["target/x", "b/target/y", "c/target", "d/skip", "e/skip/z", "f"]);
        let mut walk = Walk::new(folder.path(), rules(&["skip"], &["target"])).unwrap();
        assert_eq!(keys(&mut walk), ["c/target", "f"]);
        assert_eq!(walk.skipped(), Skipped { excluded: 4, ..Skipped::default() });
    }

    #[test]
    fn the_database_is_left_out_by_its_place_not_by_its_name() {
        let folder = tempfile::tempdir().unwrap();
        make(folder.path(), &["demo.kvdb/LOG", "sub/demo.kvdb/LOG"]);
        let root = folder.path().canonicalize().unwrap();
        let rules = Rules { stores: vec![root.join("demo.kvdb")], ..Rules::default() };
        let mut walk = Walk::new(&root, rules).unwrap();
        assert_eq!(keys(&mut walk), ["sub/demo.kvdb/LOG"]);
    }

    #[cfg(unix)]
    #[test]
    fn symbolic_links_and_sockets_are_counted_and_not_followed() {
        let folder = tempfile::tempdir().unwrap();
        make(folder.path(), &["real/file"]);
        std::os::unix::fs::symlink("real", folder.path().join("link")).unwrap();
        std::os::unix::fs::symlink("nowhere", folder.path().join("dangling")).unwrap();
        std::os::unix::fs::symlink("..", folder.path().join("real/up")).unwrap();
        let _socket = std::os::unix::net::UnixListener::bind(folder.path().join("socket")).unwrap();
        let mut walk = Walk::new(folder.path(), Rules::default()).unwrap();
        assert_eq!(keys(&mut walk), ["real/file"]);
        assert_eq!(walk.skipped(), Skipped { symlinks: 3, special: 1, excluded: 0 });
    }

    #[test]
    fn a_folder_that_vanishes_is_reported_and_the_rest_comes() {
        let folder = tempfile::tempdir().unwrap();
        make(folder.path(), &["a/x", "b/x", "c"]);
        let mut walk = Walk::new(folder.path(), Rules::default()).unwrap();
        fs::remove_dir_all(folder.path().join("b")).unwrap();
        assert_eq!(walk.next().unwrap().unwrap().key, b"a/x");
        assert!(walk.next().unwrap().unwrap_err().path.ends_with("b"));
        assert_eq!(walk.next().unwrap().unwrap().key, b"c");
        assert!(walk.next().is_none());
    }
}
