//! Files of ours that the manifest does not name.
//!
//! They are left behind by a crash: an output that was not installed, an input that was not
//! removed. They go once everything named has been found, so that nothing is deleted that a
//! damaged manifest merely forgot: if a record was cut from the manifest's tail, they are moved
//! aside into the folder `orphans` instead.

use std::path::Path;

use kvdb_manifest::Manifest;
use kvdb_manifest::store::StoreState;
use kvdb_vfs::{EntryKind, Fs};

use crate::error::Result;

/// The folder for what is moved aside.
const ASIDE: &str = "orphans";

pub(crate) fn clean(
    fs: &dyn Fs,
    dirs: &[&Path],
    manifest: &Manifest<StoreState>,
    move_aside: bool,
) -> Result<()> {
    for dir in dirs {
        for entry in fs.list(dir)? {
            if entry.kind != EntryKind::File || !is_orphan(&entry.name, manifest) {
                continue;
            }
            let path = dir.join(&entry.name);
            if move_aside {
                let aside = dir.join(ASIDE);
                fs.create_dir_all(&aside)?;
                tracing::warn!(path = %path.display(), "moving an unnamed file aside");
                fs.rename(&path, &aside.join(&entry.name))?;
            } else {
                tracing::info!(path = %path.display(), "removing a leftover");
                fs.remove(&path)?;
            }
        }
    }
    Ok(())
}

/// Whether a file has a name of ours that the manifest does not know.
fn is_orphan(name: &Path, manifest: &Manifest<StoreState>) -> bool {
    if let Some(id) = kvdb_lsm::parse_table_file_name(name) {
        return manifest.read(|s| !s.tables().contains_key(&id));
    }
    if let Some(id) = kvdb_vlog::parse_segment_path(name) {
        return manifest.read(|s| !s.segments().values().any(|seg| seg.named.file == id));
    }
    if let Some(id) = kvdb_vlog::parse_relocation_path(name) {
        return manifest.read(|s| !s.log_files().contains_key(&id));
    }
    false
}
