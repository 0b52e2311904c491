//! Creating and opening.

use std::path::Path;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, OnceLock};

use kvdb_vfs::{ErrorKind, File, Fs, OpenMode, SyncSite};
use parking_lot::{Mutex, RwLock};
use prost::Message;

use crate::format::{HEADER_LEN, Header, RECORD_HEADER_LEN, TEMP_NAME};
use crate::manifest::{Log, Manifest, Options, path_in};
use crate::replay::{Cut, Replayed, read_header, replay};
use crate::rewrite::{discard_temp, fresh_nonce, write_temp};
use crate::{Error, Result, State};

/// What opening has found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OpenReport {
    /// The id of the database.
    pub database: u128,
    /// Number of change sets replayed, a snapshot included.
    pub records: u64,
    /// Length of the file up to the end of the last record, in bytes.
    pub bytes: u64,
    /// A torn tail: bytes of an append that was never acknowledged. They are gone now, or, when
    /// read-only, still there and ignored.
    pub cut: Option<Cut>,
}

/// Whether there is a manifest in `dir`. Says nothing about its contents.
///
/// # Errors
/// Those of the file system, other than that there is no such file.
pub fn exists(fs: &dyn Fs, dir: &Path) -> Result<bool> {
    match fs.metadata(&path_in(dir)) {
        Ok(_) => Ok(true),
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(false),
        Err(e) => Err(e.into()),
    }
}

impl<S: State> Manifest<S> {
    /// Creates the manifest of a new database in `dir`, which must exist. The file gets its name
    /// when it is complete and durable, and is durable under that name when this returns.
    ///
    /// `database` had better be random: it is part of every checksum.
    ///
    /// # Errors
    /// [`Error::AlreadyExists`], [`Error::ReadOnly`], and those of the file system. If it was the
    /// last step that failed, the sync of the directory, the manifest is there all the same, and
    /// can be opened.
    pub fn create(
        fs: Arc<dyn Fs>,
        dir: &Path,
        database: u128,
        options: Options,
    ) -> Result<Manifest<S>> {
        let path = path_in(dir);
        if options.read_only {
            return Err(Error::ReadOnly { path });
        }
        if exists(&*fs, dir)? {
            return Err(Error::AlreadyExists { path });
        }
        let header = Header { database, nonce: fresh_nonce(0), base: HEADER_LEN };
        let temp = write_temp(&*fs, dir, &header.encode())?;
        if let Err(e) = fs.rename(&dir.join(TEMP_NAME), &path) {
            discard_temp(&*fs, dir);
            return Err(e.into());
        }
        fs.sync_dir(dir, SyncSite::ManifestDir)?;
        // Through its final name, which is what errors should mention.
        let file = fs.open(&path, OpenMode::ReadWrite).unwrap_or(temp);
        Ok(Manifest::assemble(fs, dir, header, options, file, S::default(), HEADER_LEN))
    }

    /// Opens the manifest in `dir` and replays it.
    ///
    /// A torn last record is cut off and reported. Time and memory grow with the length of the
    /// file, of which rewriting keeps care.
    ///
    /// # Errors
    /// [`Error::Missing`], [`Error::Empty`], [`Error::TooShort`], [`Error::NotAManifest`],
    /// [`Error::UnsupportedVersion`], [`Error::UnknownFeature`], [`Error::Corrupt`],
    /// [`Error::Decode`], [`Error::Inconsistent`], and those of the file system. In each of these
    /// cases the file is as it was.
    pub fn open(
        fs: Arc<dyn Fs>,
        dir: &Path,
        options: Options,
    ) -> Result<(Manifest<S>, OpenReport)> {
        let path = path_in(dir);
        let mode = if options.read_only { OpenMode::Read } else { OpenMode::ReadWrite };
        let file = fs.open(&path, mode).map_err(|e| match e.kind() {
            ErrorKind::NotFound => Error::Missing { path: path.clone() },
            _ => e.into(),
        })?;
        let len = file.len()?;
        let header = read_header(&*file, &path, len)?;
        let found = replay::<S>(&*file, &path, &header, len)?;
        let report = OpenReport {
            database: header.database,
            records: found.records,
            bytes: found.end,
            cut: found.cut,
        };
        if let Some(cut) = found.cut {
            tracing::warn!(path = %path.display(), offset = cut.offset, bytes = cut.bytes,
                "the manifest ends in a torn record");
        }
        if !options.read_only {
            make_durable(&*file, &header, &found)?;
            // The file may have got its name just before a crash, or before a sync of the
            // directory that failed. Nothing may be acknowledged under a name that can vanish.
            fs.sync_dir(dir, SyncSite::ManifestDir)?;
            remove_leftover(&*fs, dir);
        }
        let manifest = Manifest::assemble(fs, dir, header, options, file, found.state, found.end);
        if !(found.marked || manifest.options.read_only) {
            manifest.log.lock().mark();
        }
        Ok((manifest, report))
    }

    fn assemble(
        fs: Arc<dyn Fs>,
        dir: &Path,
        header: Header,
        options: Options,
        file: Arc<dyn File>,
        state: S,
        end: u64,
    ) -> Manifest<S> {
        let rewrite_at = options.rewrite_at(state.snapshot().encoded_len() as u64);
        Manifest {
            fs,
            dir: dir.to_owned(),
            path: path_in(dir),
            database: header.database,
            options,
            log: Mutex::new(Log { file, header, end, rewrite_at }),
            state: RwLock::new(state),
            changes: AtomicU64::new(0),
            size: AtomicU64::new(end),
            poison: OnceLock::new(),
        }
    }
}

/// Cuts a torn tail off, and makes sure that what was read is on the disk.
///
/// The last record may have been written by a process that died before its sync, or whose sync
/// failed: then the system's cache shows bytes that the disk does not have, and a mere sync would
/// not write them. So they are written again. A mark, or the header's word, makes that needless.
/// A mark stays: without it, power lost behind this sync would leave the last record without one.
fn make_durable<S>(file: &dyn File, header: &Header, found: &Replayed<S>) -> Result<()> {
    let rewrite_last = !found.marked && found.end > header.base;
    if rewrite_last {
        let len = (found.end - found.last) as usize;
        let mut record = vec![0; len];
        file.read_exact_at(&mut record, found.last)?;
        file.write_all_at(&record, found.last)?;
    }
    if found.cut.is_some() {
        file.set_len(if found.marked { found.end + RECORD_HEADER_LEN } else { found.end })?;
    }
    if rewrite_last || found.cut.is_some() {
        file.sync_data(SyncSite::ManifestAppend)?;
    }
    debug_assert!(found.end - found.last >= RECORD_HEADER_LEN || found.records == 0);
    Ok(())
}

/// Removes what a crash in the middle of a rewrite has left.
fn remove_leftover(fs: &dyn Fs, dir: &Path) {
    match fs.remove(&dir.join(TEMP_NAME)) {
        Ok(()) => tracing::debug!("removed the file of an unfinished rewrite"),
        Err(e) if e.kind() == ErrorKind::NotFound => {}
        // The next rewrite truncates it.
        Err(e) => tracing::debug!(error = %e, "the file of an unfinished rewrite stays"),
    }
}
