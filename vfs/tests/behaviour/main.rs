//! What every file system of this crate must do, run over each of them.

#![allow(clippy::unwrap_used)] // helpers of tests, outside of #[test] functions

mod contents;
mod locks;
mod maps;
mod names;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use kvdb_vfs::{FaultFs, File, Fs, MemFs, OpenMode, OsFs};

/// A file system and an empty directory in it.
struct Place {
    fs: Arc<dyn Fs>,
    dir: PathBuf,
    _temporary: Option<tempfile::TempDir>,
}

impl Place {
    fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    fn create(&self, name: &str) -> Arc<dyn File> {
        self.fs.open(&self.path(name), OpenMode::CreateNew).unwrap()
    }

    fn write(&self, name: &str, bytes: &[u8]) {
        self.create(name).write_all_at(bytes, 0).unwrap();
    }

    fn read(&self, name: &str) -> Vec<u8> {
        let file = self.fs.open(&self.path(name), OpenMode::Read).unwrap();
        contents_of(&*file)
    }

    fn names(&self) -> Vec<String> {
        let entries = self.fs.list(&self.dir).unwrap();
        entries.into_iter().map(|e| e.name.to_str().unwrap().to_owned()).collect()
    }
}

fn contents_of(file: &dyn File) -> Vec<u8> {
    let mut bytes = vec![0; file.len().unwrap() as usize];
    file.read_exact_at(&mut bytes, 0).unwrap();
    bytes
}

fn in_memory(fs: Arc<dyn Fs>) -> Place {
    let dir = Path::new("/some/where").to_owned();
    fs.create_dir_all(&dir).unwrap();
    Place { fs, dir, _temporary: None }
}

/// All of them, by name.
fn all() -> Vec<(&'static str, Place)> {
    let temporary = tempfile::tempdir().unwrap();
    let dir = temporary.path().to_owned();
    vec![
        ("os", Place { fs: Arc::new(OsFs::new()), dir, _temporary: Some(temporary) }),
        ("memory", in_memory(Arc::new(MemFs::new()))),
        ("faults", in_memory(Arc::new(FaultFs::new(Arc::new(MemFs::new()))))),
    ]
}

/// Runs `check` over each of them.
fn each(check: impl Fn(&Place)) {
    for (name, place) in all() {
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| check(&place)));
        assert!(result.is_ok(), "fails on the file system {name}");
    }
}
