//! What the tests inside the crate share.

use std::path::Path;
use std::sync::Arc;

use kvdb_manifest::Manifest;
use kvdb_vfs::{Fs, MemFs, SyncSite};

use crate::companion::{Companion, NoCompanion};
use crate::entry::Entry;
use crate::options::Options;
use crate::tree::Tree;

/// A tree in memory, without threads: [`Tree::start`] was not called.
pub(crate) fn tree_with<C: Companion>(options: Options, companion: C) -> Arc<Tree<C>> {
    let fs: Arc<dyn Fs> = Arc::new(MemFs::new());
    let dir = Path::new("/db");
    fs.create_dir_all(dir).unwrap();
    fs.sync_dir(Path::new("/"), SyncSite::StoreDir).unwrap();
    let manifest = Manifest::create(fs.clone(), dir, 7, Default::default()).unwrap();
    let manifest = Arc::new(manifest);
    Tree::open(fs, dir, manifest, options, Arc::new(companion), false).unwrap()
}

/// The same tree, closed and opened again with these options.
pub(crate) fn reopened(tree: Arc<Tree<NoCompanion>>, options: Options) -> Arc<Tree<NoCompanion>> {
    let (fs, dir) = (tree.shared.fs.clone(), tree.shared.dir.clone());
    drop(tree);
    let (manifest, _) = Manifest::open(fs.clone(), &dir, Default::default()).unwrap();
    let companion = Arc::new(NoCompanion::default());
    Tree::open(fs, &dir, Arc::new(manifest), options, companion, false).unwrap()
}

/// One table of level 0 with these entries.
pub(crate) fn flush<C: Companion>(tree: &Tree<C>, entries: &[(&str, u64, Entry<'_>)]) {
    for (key, version, entry) in entries {
        tree.write(*version, &[(key.as_bytes(), *entry)]).unwrap();
    }
    tree.flush().unwrap();
}
