//! Files of ours that the manifest does not name.
//!
//! They are left behind by a crash: an output that was not installed, an input that was not
//! removed. They go once everything named has been found, so that nothing is deleted that a
//! damaged manifest merely forgot: if a record was cut from the manifest's tail, they are moved
//! aside into the folder `orphans` instead. No opening touches them there: to remove them is for
//! whoever has seen that nothing is missing. What is no leftover of *this* store stays: a file of the
//! log that says it belongs to another database, and kinds of files that this store keeps elsewhere.

use std::path::{Path, PathBuf};

use kvdb_manifest::Manifest;
use kvdb_manifest::store::{SegmentState, StoreState};
use kvdb_vfs::{EntryKind, Fs};

use crate::error::Result;

/// The folder for what is moved aside.
const ASIDE: &str = "orphans";

/// Removes leftover tables from `dir` and leftover files of the log from `log_dir`.
pub(crate) fn clean(
    fs: &dyn Fs,
    dir: &Path,
    log_dir: &Path,
    manifest: &Manifest<StoreState>,
    move_aside: bool,
) -> Result<()> {
    name_unknown(fs, dir)?;
    if log_dir != dir {
        name_unknown(fs, log_dir)?;
    }
    clean_dir(fs, dir, move_aside, |path| Ok(is_orphaned_table(path, manifest)))?;
    clean_dir(fs, log_dir, move_aside, |path| is_orphaned_log_file(fs, path, manifest))
}

fn clean_dir(
    fs: &dyn Fs,
    dir: &Path,
    move_aside: bool,
    is_orphan: impl Fn(&Path) -> Result<bool>,
) -> Result<()> {
    for entry in fs.list(dir)? {
        let path = dir.join(&entry.name);
        if entry.kind != EntryKind::File || !is_orphan(&path)? {
            continue;
        }
        if move_aside {
            let aside = dir.join(ASIDE);
            fs.create_dir_all(&aside)?;
            tracing::warn!(path = %path.display(), "moving an unnamed file aside");
            fs.rename(&path, &free_place(fs, &aside, &entry.name)?)?;
        } else {
            tracing::info!(path = %path.display(), "removing a leftover");
            fs.remove(&path)?;
        }
    }
    Ok(())
}

/// A path in the folder for this name. Numbers of files that are only there may be given again, and
/// what was moved aside earlier must not be replaced.
fn free_place(fs: &dyn Fs, aside: &Path, name: &Path) -> Result<PathBuf> {
    let mut place = aside.join(name);
    for again in 1.. {
        match fs.metadata(&place) {
            Err(error) if error.kind() == kvdb_vfs::ErrorKind::NotFound => break,
            found => drop(found?),
        }
        place = aside.join(format!("{}.{again}", name.display()));
    }
    Ok(place)
}

/// Names what lies in a store's directory and is none of ours.
fn name_unknown(fs: &dyn Fs, dir: &Path) -> Result<()> {
    for entry in fs.list(dir)? {
        if !is_of_a_store(&entry.name) {
            let path = dir.join(&entry.name);
            tracing::info!(path = %path.display(), "left alone: no file of a store");
        }
    }
    Ok(())
}

/// Whether a name in a directory is one that stores give.
fn is_of_a_store(name: &Path) -> bool {
    let name = name.to_str().unwrap_or_default();
    let of_table = name.strip_suffix(".tmp").unwrap_or(name);
    name == ASIDE
        || [kvdb_manifest::FILE_NAME, kvdb_manifest::TEMP_NAME].contains(&name)
        || kvdb_lsm::parse_table_file_name(Path::new(of_table)).is_some()
        || kvdb_vlog::parse_segment_path(Path::new(name)).is_some()
        || kvdb_vlog::parse_relocation_path(Path::new(name)).is_some()
}

/// Whether a file has the name of a table that the manifest does not know.
fn is_orphaned_table(path: &Path, manifest: &Manifest<StoreState>) -> bool {
    name(path)
        .and_then(kvdb_lsm::parse_table_file_name)
        .is_some_and(|id| manifest.read(|s| !s.tables().contains_key(&id)))
}

/// Whether a file has the name of a file of the log that the manifest does not know.
fn is_orphaned_log_file(fs: &dyn Fs, path: &Path, manifest: &Manifest<StoreState>) -> Result<bool> {
    let Some(name) = name(path) else { return Ok(false) };
    let Some(database) = database_of(name) else { return Ok(false) };
    let relocated = kvdb_vlog::parse_relocation_path(name);
    let segment = kvdb_vlog::parse_segment_path(name);
    let named = manifest.read(|state| {
        relocated.is_some_and(|id| state.log_files().contains_key(&id))
            || segment.is_some_and(|id| names_file(state, id))
    });
    if named {
        return Ok(false);
    }
    // A crash may have left it without a header that verifies; then nobody can miss it.
    match database(fs, path) {
        Ok(Some(database)) if database != manifest.database() => {
            tracing::warn!(path = %path.display(), "left alone: it belongs to another database");
            Ok(false)
        }
        Ok(_) => Ok(true),
        // Nothing that this store needs: no reason not to open, and no leave to remove it either.
        Err(error @ kvdb_vlog::Error::UnsupportedVersion { .. }) => {
            tracing::warn!(path = %path.display(), %error, "left alone: a file that is not named");
            Ok(false)
        }
        Err(error) => Err(error.into()),
    }
}

/// Reads from a file's header whose it is.
pub(crate) type DatabaseOf = fn(&dyn Fs, &Path) -> kvdb_vlog::Result<Option<u128>>;

/// How to know whose a file of this name is, if it is one of a log.
pub(crate) fn database_of(name: &Path) -> Option<DatabaseOf> {
    if kvdb_vlog::parse_relocation_path(name).is_some() {
        return Some(kvdb_vlog::relocation_database);
    }
    kvdb_vlog::parse_segment_path(name).map(|_| kvdb_vlog::segment_database as DatabaseOf)
}

/// Whether a segment is still in the file with this number, not moved out of it.
fn names_file(state: &StoreState, id: u64) -> bool {
    let here = |s: &SegmentState| s.relocated.is_none() && s.named.file == id;
    state.segments().values().any(here)
}

fn name(path: &Path) -> Option<&Path> {
    path.file_name().map(Path::new)
}
