//! The handle: appending change sets and reading the state.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use kvdb_vfs::{ErrorKind, File, Fs, SyncSite};
use parking_lot::{Mutex, RwLock};
use prost::Message;

use crate::format::{FILE_NAME, Header, Kind, MAX_CHANGE_LEN, RECORD_HEADER_LEN, Record};
use crate::replay::replay;
use crate::{Error, Result, State};

/// How a manifest is opened and when it is rewritten.
#[derive(Debug, Clone)]
pub struct Options {
    /// Write nothing: a torn tail is reported but stays, appends are refused. Default: false.
    pub read_only: bool,
    /// The file is not rewritten by itself while it is smaller than this, in bytes. Default:
    /// 1 MiB. `u64::MAX` leaves rewriting to [`Manifest::rewrite`].
    pub rewrite_bytes: u64,
    /// The file is rewritten by itself when it is this many times as long as a snapshot of the
    /// state; less than 2 counts as 2. Default: 4.
    pub rewrite_ratio: u64,
}

impl Default for Options {
    fn default() -> Self {
        Options { read_only: false, rewrite_bytes: 1 << 20, rewrite_ratio: 4 }
    }
}

impl Options {
    /// The size at which a file whose snapshot takes `snapshot` bytes is to be rewritten.
    pub(crate) fn rewrite_at(&self, snapshot: u64) -> u64 {
        self.rewrite_bytes.max(snapshot.saturating_mul(self.rewrite_ratio.max(2)))
    }
}

/// A crash-safe log of change sets, and the state they add up to.
///
/// Shared by reference between threads. Appends are ordered by one lock that is held over their
/// I/O; reads of the state never wait for it.
///
/// The manifest does not lock its directory: whoever opens the store does. Two writers of one
/// manifest destroy it.
pub struct Manifest<S: State> {
    pub(crate) fs: Arc<dyn Fs>,
    pub(crate) dir: PathBuf,
    pub(crate) path: PathBuf,
    pub(crate) database: u128,
    pub(crate) options: Options,
    /// The append lock. Taken before `state`, never after it.
    pub(crate) log: Mutex<Log>,
    /// Written only with the append lock held, and only for as long as applying takes.
    pub(crate) state: RwLock<S>,
    /// Changes to the state since it was opened. Written with its lock held.
    pub(crate) changes: AtomicU64,
    pub(crate) size: AtomicU64,
    /// Why nothing may be written any more. Set once.
    pub(crate) poison: OnceLock<String>,
}

/// The file in use. Only what lies before `end` is part of the manifest.
pub(crate) struct Log {
    pub(crate) file: Arc<dyn File>,
    pub(crate) header: Header,
    /// Where the last record ends and the next one goes. Everything before it is durable.
    pub(crate) end: u64,
    /// Size at which the next automatic rewrite is considered.
    pub(crate) rewrite_at: u64,
}

impl Log {
    /// Writes a mark behind the last record, unsynced: see "Marks" in the crate's documentation.
    /// Failure costs nothing but the mark. Returns where the file may end: behind the mark, if there
    /// is one.
    pub(crate) fn mark(&self) -> u64 {
        self.try_mark().unwrap_or_else(|e| {
            tracing::debug!(error = %e, "no mark behind the last record");
            self.end
        })
    }

    fn try_mark(&self) -> kvdb_vfs::Result<u64> {
        if self.end == self.header.base {
            return Ok(self.end); // the header vouches for all there is
        }
        let mark = Record::mark(self.header.salt(), self.end);
        self.file.write_all_at(&mark, self.end)?;
        Ok(self.end + mark.len() as u64)
    }
}

/// What [`Manifest::verify`] has read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VerifyReport {
    /// Number of change sets, a snapshot included.
    pub records: u64,
    /// Length of the verified part of the file, in bytes.
    pub bytes: u64,
}

impl<S: State> Manifest<S> {
    /// Adds one change. When this returns, the change is durable and part of the state.
    ///
    /// The order of changes is the order in which appends get the lock. Costs one write, one
    /// sync, and now and then a rewrite of the file. That a rewrite failed is no failure of the
    /// append that brought it about: it is logged, and in the worst case the manifest is poisoned
    /// and the *next* append says so.
    ///
    /// # Errors
    /// [`Error::Rejected`] (the change does not fit the state) and [`Error::TooLarge`] before
    /// anything is written. [`Error::Io`] when the write failed and its traces were removed.
    /// [`Error::OutcomeUnknown`] when that is not certain: the manifest is poisoned, and the
    /// change may turn out to be part of it when it is opened again. [`Error::Poisoned`] and
    /// [`Error::ReadOnly`] from then on, or from the beginning.
    pub fn append(&self, change: &S::Change) -> Result<()> {
        let mut log = self.log.lock();
        self.append_locked(&mut log, change)
    }

    /// Adds one change that is made from the current state, with no other change in between.
    ///
    /// `make` runs under the append lock: it must not append to or rewrite this manifest (that
    /// would wait for itself for ever), and had better not do I/O.
    ///
    /// # Errors
    /// Those of `make`, which leave everything as it was, and those of [`append`](Self::append).
    pub fn append_with<E: From<Error>>(
        &self,
        make: impl FnOnce(&S) -> Result<S::Change, E>,
    ) -> Result<(), E> {
        let mut log = self.log.lock();
        let change = make(&self.state.read())?;
        Ok(self.append_locked(&mut log, &change)?)
    }

    /// Looks at the state. Never waits for I/O, only for a change that is just being applied in
    /// memory; a long `f` holds up appends.
    ///
    /// `f` must not call into this manifest.
    pub fn read<R>(&self, f: impl FnOnce(&S) -> R) -> R {
        f(&self.state.read())
    }

    /// As [`read`](Self::read), and tells `f` how many changes were made to the state since the manifest was
    /// opened: as long as that number is the same, so is the state, and what was made of it can be kept.
    pub fn read_numbered<R>(&self, f: impl FnOnce(&S, u64) -> R) -> R {
        let state = self.state.read();
        f(&state, self.changes.load(Ordering::Relaxed))
    }

    /// The id of the database, as given to [`create`](Self::create).
    pub fn database(&self) -> u128 {
        self.database
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Length of the file up to the end of the last record, in bytes.
    pub fn size(&self) -> u64 {
        self.size.load(Ordering::Relaxed)
    }

    /// Whether an earlier failure forbids further writing. Reopening clears it.
    pub fn is_poisoned(&self) -> bool {
        self.poisoned().is_some()
    }

    /// Which failure that was.
    pub fn poisoned(&self) -> Option<&str> {
        self.poison.get().map(String::as_str)
    }

    /// Makes the mark behind the last record durable. From then on, until the next append, damage to
    /// any record of this file is told from a torn append, also after a power loss, unless it reaches
    /// to the end of the file and takes the mark along. Meant for a clean close and for idle times; one sync, or nothing if there is nothing to vouch for.
    ///
    /// # Errors
    /// As [`append`](Self::append); a failed sync poisons, though no change is at stake.
    pub fn settle(&self) -> Result<()> {
        let log = self.log.lock();
        self.writable()?;
        if log.try_mark()? == log.end {
            return Ok(()); // without a mark there is nothing to sync
        }
        log.file.sync_data(SyncSite::ManifestAppend).map_err(|e| self.poisoned_by(e))
    }

    /// Reads the file again, checks every record, and compares what they add up to with the state
    /// in memory. Appends and rewrites go on meanwhile.
    ///
    /// # Errors
    /// Those of [`open`](Self::open) about damage, and [`Error::Diverged`]. [`Error::Poisoned`] if
    /// a failed rewrite has left it open which file has the name.
    pub fn verify(&self) -> Result<VerifyReport> {
        // Records never change once written and a replaced file stays readable through its
        // handle, so the lock is needed for a consistent beginning only.
        let (file, header, end, expected) = {
            let log = self.log.lock();
            let file = self.reopen(&log)?;
            (file, log.header, log.end, self.state.read().snapshot())
        };
        let found = replay::<S>(&*file, &self.path, &header, end)?;
        if let Some(cut) = found.cut {
            let reason = "a record that was durable is damaged";
            return Err(Error::corrupt(&self.path, cut.offset, reason));
        }
        if found.state.snapshot().encode_to_vec() != expected.encode_to_vec() {
            return Err(Error::Diverged { path: self.path.clone() });
        }
        Ok(VerifyReport { records: found.records, bytes: found.end })
    }

    /// Opens the file by its name once more and makes sure that it is the one in use.
    fn reopen(&self, log: &Log) -> Result<Arc<dyn File>> {
        let file =
            self.fs.open(&self.path, kvdb_vfs::OpenMode::Read).map_err(|e| match e.kind() {
                ErrorKind::NotFound => Error::Missing { path: self.path.clone() },
                _ => e.into(),
            })?;
        let len = file.len()?;
        if crate::replay::read_header(&*file, &self.path, len)? != log.header {
            self.intact()?; // a rewrite that failed half-way may have left the other file there
            return Err(Error::corrupt(&self.path, 0, "another manifest has taken the name"));
        }
        if len < log.end {
            return Err(Error::corrupt(&self.path, len, "the file has been truncated"));
        }
        Ok(file)
    }

    fn append_locked(&self, log: &mut Log, change: &S::Change) -> Result<()> {
        self.writable()?;
        self.state.read().check(change).map_err(Error::Rejected)?;
        let bytes = encode_change(change, &log.header, log.end)?;

        // From here to the end of `apply` an unwinding thread would leave file and state apart.
        let unwinding = self.poison_on_unwind("an append");
        if let Err(e) = log.file.write_all_at(&bytes, log.end) {
            let result = self.roll_back(log, e);
            unwinding.disarm();
            return Err(result);
        }
        if let Err(e) = log.file.sync_data(SyncSite::ManifestAppend) {
            // A later sync that succeeds would mean nothing: the system may have dropped the
            // bytes and forgotten about it, or have written all of them.
            unwinding.disarm();
            return Err(self.poisoned_by(e));
        }
        log.end += bytes.len() as u64;
        self.size.store(log.end, Ordering::Relaxed);
        {
            let mut state = self.state.write();
            self.changes.fetch_add(1, Ordering::Relaxed);
            state.apply(change);
        }
        unwinding.disarm();

        log.mark();
        if log.end >= log.rewrite_at {
            self.consider_rewrite(log);
        }
        Ok(())
    }

    /// Poisons the manifest if it is dropped, as by a panic, before it is disarmed.
    pub(crate) fn poison_on_unwind(&self, within: &'static str) -> PoisonOnUnwind<'_> {
        PoisonOnUnwind { poison: &self.poison, within }
    }

    /// Takes back a write that failed, so that the next record does not land behind garbage.
    ///
    /// That write has gone over the mark, which may have been durable. So the mark is there again
    /// before the sync that makes its loss durable; and before the file is truncated, since it needs
    /// no space while the file has its bytes.
    fn roll_back(&self, log: &Log, failure: kvdb_vfs::Error) -> Error {
        let end = log.mark();
        let undone =
            log.file.set_len(end).and_then(|()| log.file.sync_data(SyncSite::ManifestAppend));
        match undone {
            Ok(()) => failure.into(),
            Err(e) => {
                tracing::warn!(error = %e, "a failed append could not be taken back");
                self.poisoned_by(failure)
            }
        }
    }

    pub(crate) fn writable(&self) -> Result<()> {
        self.intact()?;
        if self.options.read_only {
            return Err(Error::ReadOnly { path: self.path.clone() });
        }
        Ok(())
    }

    fn intact(&self) -> Result<()> {
        match self.poison.get() {
            Some(cause) => Err(Error::Poisoned { path: self.path.clone(), cause: cause.clone() }),
            None => Ok(()),
        }
    }

    /// Forbids all further writing because of `source`.
    pub(crate) fn poisoned_by(&self, source: kvdb_vfs::Error) -> Error {
        tracing::error!(path = %self.path.display(), error = %source, "manifest poisoned");
        // Only the first failure counts; a second one changes nothing.
        let _ = self.poison.set(source.to_string());
        Error::OutcomeUnknown { path: self.path.clone(), source }
    }
}

impl<S: State> std::fmt::Debug for Manifest<S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Manifest")
            .field("path", &self.path)
            .field("database", &self.database)
            .field("size", &self.size())
            .field("poisoned", &self.is_poisoned())
            .finish_non_exhaustive()
    }
}

/// A whole record, as it is to be written at `offset`.
pub(crate) fn encode_change(
    change: &impl Message,
    header: &Header,
    offset: u64,
) -> Result<Vec<u8>> {
    let len = change.encoded_len() as u64;
    if len > MAX_CHANGE_LEN {
        return Err(Error::TooLarge { len, max: MAX_CHANGE_LEN });
    }
    let mut bytes = Vec::with_capacity((RECORD_HEADER_LEN + len) as usize);
    bytes.resize(RECORD_HEADER_LEN as usize, 0);
    change.encode_raw(&mut bytes);
    let (head, payload) = bytes.split_at_mut(RECORD_HEADER_LEN as usize);
    head.copy_from_slice(&Record::encode(Kind::Change, payload, header.salt(), offset));
    Ok(bytes)
}

pub(crate) fn path_in(dir: &Path) -> PathBuf {
    dir.join(FILE_NAME)
}

/// Poisons the manifest when dropped by a panic.
pub(crate) struct PoisonOnUnwind<'a> {
    poison: &'a OnceLock<String>,
    within: &'static str,
}

impl PoisonOnUnwind<'_> {
    pub(crate) fn disarm(self) {
        std::mem::forget(self);
    }
}

impl Drop for PoisonOnUnwind<'_> {
    fn drop(&mut self) {
        let _ = self.poison.set(format!("a panic in the middle of {}", self.within));
    }
}
