//! What the tests of the tree share.
#![allow(dead_code, unreachable_pub, missing_docs, clippy::unwrap_used)]

use std::path::{Path, PathBuf};
use std::sync::Arc;

use kvdb_lsm::{Background, Cursor, NoCompanion, Options, Tree};
use kvdb_manifest::Manifest;
use kvdb_manifest::store::StoreState;
use kvdb_vfs::{Fs, MemFs, OsFs};

pub const DATABASE: u128 = 0x6b76_6462;

/// A directory in memory that outlives the trees opened in it.
#[derive(Clone)]
pub struct Store {
    pub fs: Arc<dyn Fs>,
    pub dir: PathBuf,
}

impl Store {
    pub fn new() -> Store {
        Store::over(Arc::new(MemFs::new()))
    }

    pub fn over(fs: Arc<dyn Fs>) -> Store {
        let dir = PathBuf::from("/db");
        fs.create_dir_all(&dir).unwrap();
        fs.sync_dir(Path::new("/"), kvdb_vfs::SyncSite::StoreDir).unwrap();
        Store { fs, dir }
    }

    pub fn manifest(&self) -> Result<Arc<Manifest<StoreState>>, kvdb_manifest::Error> {
        open_manifest(&self.fs, &self.dir)
    }

    pub fn open(&self, options: Options) -> Arc<Tree<NoCompanion>> {
        self.try_open(options).unwrap()
    }

    pub fn try_open(&self, options: Options) -> Result<Arc<Tree<NoCompanion>>, kvdb_lsm::Error> {
        let manifest = self.manifest()?;
        let companion = Arc::new(NoCompanion::default());
        let tree = Tree::open(self.fs.clone(), &self.dir, manifest, options, companion, false)?;
        tree.remove_orphans()?;
        tree.start()?;
        Ok(tree)
    }

    /// Names of the table files in the directory.
    pub fn table_files(&self) -> Vec<u64> {
        let names = self.fs.list(&self.dir).unwrap().into_iter().map(|e| e.name);
        names.filter_map(|n| kvdb_lsm::parse_table_file_name(&n)).collect()
    }
}

/// A store in a directory of the operating system's, which goes with the first of the two.
pub fn in_directory() -> (tempfile::TempDir, Store) {
    in_directory_of(Arc::new(OsFs::new()))
}

/// The same, by way of a file system that is over the operating system's.
pub fn in_directory_of(fs: Arc<dyn Fs>) -> (tempfile::TempDir, Store) {
    let dir = tempfile::tempdir().unwrap();
    let store = Store { fs, dir: dir.path().join("db") };
    store.fs.create_dir_all(&store.dir).unwrap();
    (dir, store)
}

pub fn open_manifest(
    fs: &Arc<dyn Fs>,
    dir: &Path,
) -> Result<Arc<Manifest<StoreState>>, kvdb_manifest::Error> {
    let options = kvdb_manifest::Options::default();
    if !kvdb_manifest::exists(&**fs, dir)? {
        return Ok(Arc::new(Manifest::create(fs.clone(), dir, DATABASE, options)?));
    }
    Ok(Arc::new(Manifest::open(fs.clone(), dir, options)?.0))
}

/// Everything small, so that a test of a few thousand entries has several levels; stepped by hand.
pub fn small() -> Options {
    Options {
        memtable_size: 64 << 10,
        table_size: 16 << 10,
        base_level_size: 32 << 10,
        level_size_multiplier: 4,
        max_levels: 5,
        l0_compaction_trigger: 2,
        l0_slowdown_trigger: 6,
        l0_stop_trigger: 10,
        block_size: 1024,
        compaction_threads: 2,
        min_split_bytes: 32 << 10,
        background: Background::Manual,
        paranoid: true,
        ..Options::default()
    }
}

/// What multiplies counts: `KVDB_TEST_SCALE`, or 1.
pub fn scale() -> u64 {
    std::env::var("KVDB_TEST_SCALE").ok().and_then(|s| s.parse().ok()).unwrap_or(1)
}

/// Number of entries of all versions.
pub fn count<C: kvdb_lsm::Companion>(tree: &Tree<C>) -> usize {
    let mut cursor = tree.superversion().cursor();
    let mut n = 0;
    let mut valid = cursor.first().unwrap();
    while valid {
        n += 1;
        valid = cursor.next().unwrap();
    }
    n
}
