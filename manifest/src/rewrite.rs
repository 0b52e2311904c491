//! Replacing the log by a snapshot of its state.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use kvdb_vfs::{File, Fs, OpenMode, SyncSite};
use prost::Message;

use crate::format::{HEADER_LEN, Header, RECORD_HEADER_LEN, TEMP_NAME};
use crate::manifest::{Log, Manifest, encode_change};
use crate::replay::read_header;
use crate::{Error, Result, State};

impl<S: State> Manifest<S> {
    /// Replaces the file by one that holds a snapshot of the state and nothing else.
    ///
    /// The new file is complete and durable before it takes the name over, so a crash leaves one
    /// or the other, with the same state. Holds up appends, not reads.
    ///
    /// # Errors
    /// [`Error::Io`] when nothing has changed and the old file stays in use;
    /// [`Error::OutcomeUnknown`] when it is not certain which file has the name, which poisons
    /// the manifest (no change is lost by it). [`Error::TooLarge`], [`Error::Poisoned`],
    /// [`Error::ReadOnly`].
    pub fn rewrite(&self) -> Result<()> {
        let mut log = self.log.lock();
        self.writable()?;
        let snapshot = self.state.read().snapshot();
        self.rewrite_locked(&mut log, &snapshot)
    }

    /// Rewrites a log that has become long, if a snapshot would be much shorter. The append that
    /// brought it here is durable already, so a failure is no failure of that append.
    pub(crate) fn consider_rewrite(&self, log: &mut Log) {
        let snapshot = self.state.read().snapshot();
        let wanted = self.options.rewrite_at(snapshot.encoded_len() as u64);
        if log.end < wanted {
            log.rewrite_at = wanted; // mostly alive: not worth it before it has grown
            return;
        }
        if let Err(e) = self.rewrite_locked(log, &snapshot) {
            // Not with every append from now on: perhaps the disk is full.
            log.rewrite_at = log.end.saturating_add(self.options.rewrite_bytes.max(1 << 16));
            tracing::warn!(path = %self.path.display(), error = %e, "rewriting the manifest failed");
        }
    }

    fn rewrite_locked(&self, log: &mut Log, snapshot: &S::Change) -> Result<()> {
        let mut header = Header {
            database: self.database,
            nonce: fresh_nonce(log.header.nonce),
            base: 0, // known when the snapshot is encoded
        };
        let record = encode_change(snapshot, &header, HEADER_LEN)?;
        header.base = HEADER_LEN + record.len() as u64;
        let mut bytes = Vec::with_capacity(header.base as usize);
        bytes.extend_from_slice(&header.encode());
        bytes.extend_from_slice(&record);

        let temp = write_temp(&*self.fs, &self.dir, &bytes)?;
        // An unwinding thread would leave the old file here, and perhaps the new one under its name.
        let unwinding = self.poison_on_unwind("a rewrite");
        let exchanged = self.exchange(log, header, temp);
        unwinding.disarm();
        exchanged
    }

    /// Gives the manifest's name to a new file, and appends to that from now on.
    fn exchange(&self, log: &mut Log, header: Header, temp: Arc<dyn File>) -> Result<()> {
        if let Err(e) = self.fs.rename(&self.dir.join(TEMP_NAME), &self.path) {
            return Err(self.rename_failed(log, e));
        }
        // From here on the old file may have lost its name. An append to it could vanish, and so
        // could one to the new file while the directory is not durable.
        if let Err(e) = self.fs.sync_dir(&self.dir, SyncSite::ManifestDir) {
            return Err(self.poisoned_by(e));
        }
        // Through its final name, which is what errors should mention.
        let file = self.fs.open(&self.path, OpenMode::ReadWrite).unwrap_or(temp);
        let before = log.end;
        let payload = header.base - HEADER_LEN - RECORD_HEADER_LEN;
        *log = Log { file, header, end: header.base, rewrite_at: self.options.rewrite_at(payload) };
        self.size.store(log.end, Ordering::Relaxed);
        tracing::debug!(before, after = log.end, "manifest rewritten");
        Ok(())
    }

    /// A rename that reports failure has usually not happened. Usually is not enough to append to
    /// the old file, so look whose name it is.
    fn rename_failed(&self, log: &Log, failure: kvdb_vfs::Error) -> Error {
        let named = self.fs.open(&self.path, OpenMode::Read).map_err(Error::from);
        let named = named.and_then(|f| read_header(&*f, &self.path, f.len()?));
        match named {
            Ok(header) if header == log.header => {
                discard_temp(&*self.fs, &self.dir);
                failure.into()
            }
            _ => self.poisoned_by(failure),
        }
    }
}

/// Writes the file that is to become the manifest, durably. On failure it is removed again.
pub(crate) fn write_temp(fs: &dyn Fs, dir: &Path, bytes: &[u8]) -> Result<Arc<dyn File>> {
    let written = fs.open(&dir.join(TEMP_NAME), OpenMode::CreateTruncate).and_then(|file| {
        file.write_all_at(bytes, 0)?;
        file.sync_data(SyncSite::ManifestRewrite)?;
        Ok(file)
    });
    written.map_err(|e| {
        discard_temp(fs, dir);
        e.into()
    })
}

/// Removes the file that did not become the manifest. Failing that, the next opening does.
pub(crate) fn discard_temp(fs: &dyn Fs, dir: &Path) {
    if let Err(e) = fs.remove(&dir.join(TEMP_NAME)) {
        tracing::debug!(error = %e, "the file that was to become the manifest stays");
    }
}

/// A random number for the salt of a new file. The standard library seeds its hash maps from the
/// system's random numbers, which is all that is needed to tell files of one database apart.
pub(crate) fn fresh_nonce(previous: u64) -> u64 {
    let mut hasher = RandomState::new().build_hasher();
    hasher.write_u64(previous);
    match hasher.finish() {
        same if same == previous => !same,
        other => other,
    }
}
