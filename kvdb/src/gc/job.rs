//! One collection: from its victims to the change set that replaces them.

use std::collections::BTreeMap;
use std::path::PathBuf;

use kvdb_manifest::store::{LogFile, SegmentRelocated, StoreChange};
use kvdb_vfs::SyncSite;
use kvdb_vlog::{
    LogView, Output, RecordFiles, RecordWriter, Relocated, TableWriter, record_file_path,
    relocation_table_path, segment_path,
};

use super::collector::Claim;
use super::survivors::{Survivor, Survivors};
use super::{GcStage, Watch};
use crate::core::Core;
use crate::error::{Error, ErrorKind, Result};

/// How a collection ended that changed nothing.
pub(super) enum Failure {
    /// A record that is in use cannot be read.
    Damaged { segment: u32, error: Error },
    /// Anything else.
    Failed(Error),
}

impl<E: Into<Error>> From<E> for Failure {
    fn from(error: E) -> Self {
        Failure::Failed(error.into())
    }
}

/// What a collection has done.
#[derive(Debug, Default)]
pub(super) struct Done {
    pub(super) bytes_read: u64,
    pub(super) bytes_written: u64,
    pub(super) bytes_removed: u64,
    pub(super) files_written: u64,
    pub(super) files_removed: u64,
}

/// Record files and tables in the making.
struct Outputs<'a> {
    core: &'a Core,
    writer: Option<RecordWriter>,
    finished: Vec<Output>,
    tables: BTreeMap<u32, TableWriter>,
    most: u64,
}

impl Core {
    /// Moves what is in use of the claimed units and installs the change. On a failure nothing has
    /// changed and what was written is removed.
    pub(super) fn relocate(
        &self,
        claim: &Claim<'_>,
        watch: &mut Watch<'_>,
    ) -> Result<Done, Failure> {
        // Pinned after the victims were seen to lie before the replay head.
        let superversion = self.superversion();
        let view = superversion.view().clone();
        let look_up = self.collector.look_up();
        let go_on = || self.check_collecting();
        let mut survivors = match Survivors::new(&superversion, claim, look_up, &go_on) {
            Ok(survivors) => survivors,
            Err(Error::Log(error)) => return Err(unreadable(claim, &view, error)),
            Err(error) => return Err(error.into()),
        };
        let mut outputs = Outputs {
            core: self,
            writer: None,
            finished: Vec::new(),
            tables: claim.segments().iter().map(|&s| (s, TableWriter::new(s))).collect(),
            most: self.options.segment_size as u64,
        };
        let mut done = Done::default();
        loop {
            let mut pointers: Vec<_> = survivors.next_batch()?.iter().map(|s| s.pointer).collect();
            if pointers.is_empty() {
                break;
            }
            view.prefetch(&mut pointers);
            let mut bytes = 0;
            for survivor in survivors.batch() {
                outputs.push(&view, survivors.key(survivor), survivor)?;
                bytes += u64::from(survivor.pointer.len());
            }
            done.bytes_read += bytes;
            self.check_collecting()?;
            watch.at(GcStage::Copying, bytes)?;
        }
        if let Some((segment, count)) = survivors.missing() {
            let what = format!("{count} records in use are not to be found in segment {segment}");
            return Err(Failure::Damaged { segment, error: Error::Inconsistent(what) });
        }
        drop(survivors);
        drop(superversion);
        outputs.finish(claim, &view, done, watch)
    }

    /// Whether a collection may go on.
    pub(super) fn check_collecting(&self) -> Result<()> {
        if self.collector.is_stopped() { Err(Error::Closed) } else { Ok(()) }
    }
}

/// The victim whose records cannot even be told apart.
fn unreadable(claim: &Claim<'_>, view: &LogView, error: kvdb_vlog::Error) -> Failure {
    let unread = |s: &&u32| view.record_names(**s, |_, _, _| {}).is_err();
    match claim.segments().iter().find(unread) {
        Some(&segment) => Failure::Damaged { segment, error: error.into() },
        None => Failure::Failed(error.into()),
    }
}

impl Outputs<'_> {
    /// Copies a record, which is verified before it gets its new checksum.
    fn push(&mut self, view: &LogView, key: &[u8], survivor: &Survivor) -> Result<(), Failure> {
        let Survivor { pointer, version, .. } = *survivor;
        let segment = pointer.segment();
        let damaged = |error| Failure::Damaged { segment, error };
        let size = u64::from(pointer.len()) + 8;
        let full = self.writer.as_ref().is_some_and(|w| w.len() + size > self.most);
        if full && let Some(writer) = self.writer.take() {
            self.finished.push(writer.finish()?);
        }
        let writer = match &mut self.writer {
            Some(writer) => writer,
            None => {
                let core = self.core;
                let ids = core.tree.file_ids();
                let writer = RecordWriter::create(
                    &core.fs,
                    core.log_dir(),
                    core.manifest.database(),
                    ids.next(),
                    ids.nonce(),
                )?;
                self.writer.insert(writer)
            }
        };
        let pushed = view.read_record(pointer, version, |found, tag, value| {
            (found == key).then(|| writer.push(key, tag, value, version))
        });
        let offset = match pushed {
            Ok(Some(offset)) => offset?,
            Ok(None) => return Err(damaged(kvdb_vlog::Error::KeyMismatch { pointer }.into())),
            Err(error) => {
                let error = Error::from(error);
                return Err(match error.kind() {
                    ErrorKind::Corruption | ErrorKind::Io => damaged(error),
                    _ => Failure::Failed(error),
                });
            }
        };
        match self.tables.get_mut(&segment) {
            Some(table) => Ok(table.add(pointer.offset(), self.finished.len(), offset)?),
            None => Err(Error::Inconsistent(format!("segment {segment} is no victim")).into()),
        }
    }

    /// Makes everything durable, then replaces the victims by one change set.
    fn finish(
        mut self,
        claim: &Claim<'_>,
        view: &LogView,
        mut done: Done,
        watch: &mut Watch<'_>,
    ) -> Result<Done, Failure> {
        let core = self.core;
        let log = core.log()?;
        if let Some(writer) = self.writer.take() {
            self.finished.push(writer.finish()?);
        }
        let mut change = StoreChange::default();
        let mut table_files = Vec::new();
        for (segment, table) in std::mem::take(&mut self.tables) {
            if table.is_empty() {
                change.segments_freed.push(segment);
                continue;
            }
            let files = table.files().iter().map(|&i| self.finished[i].file()).collect();
            let name = (core.tree.file_ids().next(), core.tree.file_ids().nonce());
            let database = core.manifest.database();
            let output = table.finish(&core.fs, core.log_dir(), database, name, &self.finished)?;
            change.segments_relocated.push(SegmentRelocated { segment, table: name.0, files });
            table_files.push(output);
        }
        let outputs = || self.finished.iter().chain(&table_files);
        if outputs().next().is_some() {
            core.fs.sync_dir(core.log_dir(), SyncSite::LogRelocateDir)?;
        }
        done.files_written = outputs().count() as u64;
        done.bytes_written = outputs().map(Output::len).sum();
        change.log_files_added = outputs()
            .map(|o| LogFile { file: o.file(), nonce: o.nonce(), length: o.len() })
            .collect();

        // Opened, and so verified, before the manifest is told: from then on nothing may fail.
        let mut opened = RecordFiles::default();
        let mut relocated = Vec::new();
        for (moved, output) in change.segments_relocated.iter().zip(&table_files) {
            let at = Relocated { table: output.file(), table_nonce: output.nonce() };
            relocated.push(log.open_relocated(moved.segment, &at, &mut opened)?);
        }
        let mut gone: Vec<PathBuf> = Vec::new();
        for unit in &claim.units {
            done.bytes_removed += unit.size;
            if unit.relocated {
                change.log_files_removed.extend(unit.files.iter().chain(&unit.tables));
                gone.extend(unit.files.iter().map(|f| record_file_path(core.log_dir(), *f)));
                gone.extend(unit.tables.iter().map(|f| relocation_table_path(core.log_dir(), *f)));
            } else {
                gone.extend(unit.files.iter().map(|f| segment_path(core.log_dir(), *f)));
            }
        }
        done.files_removed = gone.len() as u64;
        let _ = view;
        watch.at(GcStage::Copied, 0)?;
        core.check_collecting()?;

        let installed = core.install_relocation(change, relocated);
        let unknown = matches!(
            &installed,
            Err(kvdb_lsm::Error::Manifest(error)) if error.is_outcome_unknown()
        );
        if installed.is_ok() || unknown {
            self.finished.into_iter().chain(table_files).for_each(Output::keep);
        }
        installed?;
        core.collector.doom(gone);
        Ok(done)
    }
}

impl Core {
    fn install_relocation(
        &self,
        change: StoreChange,
        relocated: Vec<kvdb_vlog::RelocatedSegment>,
    ) -> Result<(), kvdb_lsm::Error> {
        let companion = self.tree.companion();
        companion.stage(relocated);
        let installed = self.tree.install(change);
        companion.unstage();
        installed
    }
}
