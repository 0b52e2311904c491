//! One collection: from its victims to the change set that replaces them.

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::Arc;

use kvdb_lsm::Superversion;
use kvdb_manifest::store::{LogFile, SHARED_TABLES, SegmentRelocated, StoreChange, TableRecord};
use kvdb_vfs::SyncSite;
use kvdb_vlog::{
    LiveRecord, LogView, Output, Pointer, RecordFiles, RecordWriter, Relocated, TableWriter,
    record_file_path, relocation_table_path, segment_path,
};

use super::by_records::ASK_BYTES;
use super::collector::Claim;
use super::survivors::{self, Survivors, is_unreadable};
use super::units::connected;
use super::{GcStage, Watch};
use crate::core::Core;
use crate::error::{Error, ErrorKind, Result};

/// Bytes of records that are copied and then written: they fit into a processor's second cache.
const PIECE_BYTES: u64 = 256 << 10;

/// How a collection ended that changed nothing.
#[derive(Debug)]
pub(super) enum Failure {
    /// A record that is in use cannot be read, or what says which records of these segments are.
    Damaged { segments: Vec<u32>, error: Error },
    /// The file system could not read these segments, or a table that refers to them: perhaps the next
    /// time.
    Unread { segments: Vec<u32>, error: Error },
    /// Anything else.
    Failed(Error),
}

impl Failure {
    /// After a record of this segment could not be read.
    fn of_segment(segment: u32, error: Error) -> Self {
        match error.kind() {
            ErrorKind::Corruption => Failure::Damaged { segments: vec![segment], error },
            ErrorKind::Io => Failure::Unread { segments: vec![segment], error },
            _ => Failure::Failed(error),
        }
    }
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
    /// changed and what was written is removed; `written` says how much that was. Returns the view
    /// that still holds the victims.
    pub(super) fn relocate(
        &self,
        claim: &Claim<'_>,
        watch: &mut Watch<'_>,
        written: &Cell<u64>,
    ) -> Result<(Done, Arc<LogView>), Failure> {
        // Pinned after the victims were seen to lie before the replay head.
        let superversion = self.superversion();
        let view = superversion.view().clone();
        let look_up = self.collector.look_up();
        let go_on = || self.check_collecting();
        let mut survivors = match Survivors::new(&superversion, claim, look_up, &go_on) {
            Ok(survivors) => survivors,
            Err(Error::Log(error)) => return Err(unreadable(claim, &view, error, &go_on)),
            Err(error) => return Err(self.unreadable_table(&superversion, claim, error)),
        };
        let mut outputs = Outputs {
            core: self,
            writer: None,
            finished: Vec::new(),
            tables: claim.segments().iter().map(|&s| (s, TableWriter::new(s))).collect(),
            most: self.options.segment_size as u64,
        };
        let mut done = Done::default();
        let mut ahead = Ahead::default();
        loop {
            match survivors.next_batch() {
                Ok([]) => break,
                Ok(_) => {}
                Err(error) => return Err(self.unreadable_table(&superversion, claim, error)),
            }
            ahead.prefetch(&view, claim, &survivors);
            let pushed = outputs.push_all(&view, &survivors);
            written.set(outputs.len());
            let bytes = pushed?;
            done.bytes_read += bytes;
            self.check_collecting()?;
            watch.at(GcStage::Copying, bytes)?;
        }
        if let Some((segment, count)) = survivors.missing() {
            let what = format!("{count} records in use are not to be found in segment {segment}");
            let segments = vec![segment];
            return Err(Failure::Damaged { segments, error: Error::Inconsistent(what) });
        }
        drop(survivors);
        drop(superversion);
        Ok((outputs.finish(claim, done, watch, written)?, view))
    }

    /// After the tree could not be read: if the table is found that cannot, none of the victims that
    /// it refers to can be collected, but others can.
    fn unreadable_table(
        &self,
        superversion: &Superversion<LogView>,
        claim: &Claim<'_>,
        error: Error,
    ) -> Failure {
        if !is_unreadable(&error) {
            return Failure::Failed(error);
        }
        let victims = |table: &TableRecord| -> Vec<u32> {
            let segments = table.pointers.iter().map(|p| p.segment);
            segments.filter(|segment| claim.contains(*segment)).collect()
        };
        let tables = superversion.table_records().map(|table| (table.id, victims(table)));
        for (id, segments) in tables.filter(|(_, segments)| !segments.is_empty()) {
            let go_on = || self.check_collecting();
            match survivors::read_through(superversion.cursor_over(|t| t.id == id), &go_on) {
                Ok(()) => {}
                Err(error) if error.kind() == ErrorKind::Corruption => {
                    return Failure::Damaged { segments, error };
                }
                Err(error) if is_unreadable(&error) => return Failure::Unread { segments, error },
                Err(error) => return Failure::Failed(error),
            }
        }
        Failure::Failed(error)
    }

    /// Whether a collection may go on.
    pub(super) fn check_collecting(&self) -> Result<()> {
        if self.collector.is_stopped() {
            return Err(Error::Closed);
        }
        // Nothing that was moved could be installed.
        match self.manifest.is_poisoned() {
            true => Err(Error::Poisoned("the manifest could not be written".into())),
            false => Ok(()),
        }
    }
}

/// Has the system read ahead, batch by batch, in the victims that it does not have in memory.
#[derive(Default)]
struct Ahead {
    /// The victims that it does not, and what is to be read before it is asked again.
    uncached: BTreeSet<u32>,
    for_bytes: u64,
}

impl Ahead {
    fn prefetch(&mut self, view: &LogView, claim: &Claim<'_>, survivors: &Survivors<'_>) {
        if self.for_bytes == 0 {
            self.for_bytes = 64 << 20;
            self.uncached = claim.segments().iter().copied().collect();
            self.uncached.retain(|segment| !view.is_cached(*segment));
        }
        let pointers = || survivors.records().map(|record| record.pointer);
        let bytes = pointers().map(|pointer| u64::from(pointer.len())).sum();
        self.for_bytes = self.for_bytes.saturating_sub(bytes);
        if !self.uncached.is_empty() {
            let far = |pointer: &Pointer| self.uncached.contains(&pointer.segment());
            view.prefetch(&pointers().filter(far).collect::<Vec<_>>());
        }
    }
}

/// How many of the records, at least one, are copied and written at a time.
fn piece(records: &[LiveRecord<'_>]) -> usize {
    let mut bytes = 0;
    let fits = |record: &&LiveRecord<'_>| {
        bytes += u64::from(record.pointer.len());
        bytes <= PIECE_BYTES
    };
    records.iter().take_while(fits).count().max(1).min(records.len())
}

/// The victim whose records cannot even be told apart.
fn unreadable(
    claim: &Claim<'_>,
    view: &LogView,
    error: kvdb_vlog::Error,
    go_on: &dyn Fn() -> Result<()>,
) -> Failure {
    for &segment in claim.segments() {
        if let Err(error) = go_on() {
            return Failure::Failed(error);
        }
        let (mut outcome, mut passed) = (Ok(()), 0);
        let read = view.record_names(segment, |_, _, pointer| {
            passed += u64::from(pointer.len());
            if passed >= ASK_BYTES {
                (outcome, passed) = (go_on(), 0);
            }
            match outcome {
                Ok(()) => ControlFlow::Continue(()),
                Err(_) => ControlFlow::Break(()),
            }
        });
        if let Err(error) = outcome {
            return Failure::Failed(error);
        }
        if let Err(error) = read {
            return Failure::of_segment(segment, error.into());
        }
    }
    Failure::Failed(error.into())
}

impl Outputs<'_> {
    /// Bytes of the record files so far.
    fn len(&self) -> u64 {
        let finished: u64 = self.finished.iter().map(Output::len).sum();
        finished + self.writer.as_ref().map_or(0, RecordWriter::len)
    }

    /// Copies a batch of records, piece by piece, each verified before it gets its new checksum.
    /// Returns their bytes.
    fn push_all(&mut self, view: &LogView, survivors: &Survivors<'_>) -> Result<u64, Failure> {
        let records: Vec<LiveRecord<'_>> = survivors.records().collect();
        let mut left = &records[..];
        let mut offsets = Vec::with_capacity(records.len());
        while !left.is_empty() {
            let most = self.most;
            let writer = match &mut self.writer {
                Some(writer) => writer,
                None => {
                    let writer = self.create()?;
                    self.writer.insert(writer)
                }
            };
            offsets.clear();
            let next = &left[..piece(left)];
            let taken = writer.copy(view, next, most, &mut offsets).map_err(|(at, error)| {
                let error = Error::from(error);
                Failure::of_segment(next[at].pointer.segment(), error)
            })?;
            writer.write_ready()?;
            let (copied, rest) = left.split_at(taken);
            self.note(copied, &offsets)?;
            left = rest;
            if taken < next.len()
                && let Some(writer) = self.writer.take()
            {
                self.finished.push(writer.finish()?);
            }
        }
        Ok(records.iter().map(|record| u64::from(record.pointer.len())).sum())
    }

    fn create(&self) -> Result<RecordWriter> {
        let Core { fs, tree, manifest, .. } = self.core;
        let (file, nonce) = (tree.file_ids().next(), tree.file_ids().nonce());
        Ok(RecordWriter::create(fs, self.core.log_dir(), manifest.database(), file, nonce)?)
    }

    /// Notes where records are now, in the tables of their segments.
    fn note(&mut self, copied: &[LiveRecord<'_>], offsets: &[u32]) -> Result<()> {
        let file = self.finished.len();
        for (record, &offset) in copied.iter().zip(offsets) {
            let segment = record.pointer.segment();
            let Some(table) = self.tables.get_mut(&segment) else {
                return Err(Error::Inconsistent(format!("segment {segment} is no victim")));
            };
            table.add(record.pointer.offset(), file, offset)?;
        }
        Ok(())
    }

    /// Makes everything durable, then replaces the victims by one change set.
    fn finish(
        mut self,
        claim: &Claim<'_>,
        mut done: Done,
        watch: &mut Watch<'_>,
        written: &Cell<u64>,
    ) -> Result<Done, Failure> {
        let core = self.core;
        let log = core.log()?;
        if let Some(writer) = self.writer.take() {
            self.finished.push(writer.finish()?);
        }
        let mut change = StoreChange::default();
        let mut table_files: Vec<Output> = Vec::new();
        let mut nonces = Vec::new();
        let mut tables = std::mem::take(&mut self.tables);
        tables.retain(|&segment, table| {
            if table.is_empty() {
                change.segments_freed.push(segment);
            }
            !table.is_empty()
        });
        // Those that will be collected together share files.
        let number = |i: &usize| self.finished[*i].file();
        let files_of =
            |table: &TableWriter| -> Vec<u64> { table.files().iter().map(number).collect() };
        let parts = tables.iter().map(|(s, table)| (*s, files_of(table).into_iter().collect()));
        for (segments, _) in connected(parts) {
            let together: Vec<_> = segments.iter().filter_map(|s| tables.remove(s)).collect();
            let files: Vec<_> = together.iter().map(files_of).collect();
            let name = || (core.tree.file_ids().next(), core.tree.file_ids().nonce());
            let database = core.manifest.database();
            let (made, places) = TableWriter::finish_together(
                together,
                &core.fs,
                core.log_dir(),
                database,
                &self.finished,
                name,
            )?;
            for ((segment, files), place) in segments.into_iter().zip(files).zip(places) {
                let table = made[place].file();
                let moved = SegmentRelocated { segment, table, files };
                change.segments_relocated.push(moved);
                nonces.push(made[place].nonce());
            }
            table_files.extend(made);
            written.set(self.len() + table_files.iter().map(Output::len).sum::<u64>());
        }
        let shares = table_files.len() < change.segments_relocated.len();
        if shares && !core.manifest.read(|state| state.features().contains(SHARED_TABLES)) {
            change.features_added.push(SHARED_TABLES.to_owned());
        }
        let outputs = || self.finished.iter().chain(&table_files);
        outputs().try_for_each(Output::sync)?;
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
        for (moved, table_nonce) in change.segments_relocated.iter().zip(nonces) {
            let at = Relocated { table: moved.table, table_nonce };
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
        watch.at(GcStage::Copied, 0)?;
        core.check_collecting()?;

        let installed = core.install_relocation(change, relocated);
        if installed.as_ref().err().is_none_or(kvdb_lsm::Error::may_be_installed) {
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

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use std::path::Path;

    use kvdb_vfs::{Fault, FaultPlan, Fs, MemFs, Op};
    use parking_lot::Mutex;

    use super::super::stores::{claim_all, sealed_segments};
    use super::*;
    use crate::{Background, GcOptions, Options};

    #[test]
    fn a_store_whose_tables_share_a_file_names_that_feature() {
        let options = Options::default().background(Background::Manual).segment_size(1 << 20);
        let db = options.open_in(Arc::new(MemFs::new()), "/db").unwrap();
        let collect = |keys: u32| {
            (0..keys).for_each(|key| _ = db.put(key.to_be_bytes(), vec![1; 10_000]).unwrap());
            db.gc(&GcOptions::full()).unwrap();
            let relocated = db
                .core()
                .manifest
                .read(|state| state.segments().values().filter(|s| s.relocated.is_some()).count());
            (relocated, db.core().manifest.read(|state| state.features().clone()))
        };
        assert_eq!(collect(10), (1, BTreeSet::new()), "one table");
        let (relocated, features) = collect(300);
        assert!(relocated > 1 && features == BTreeSet::from([SHARED_TABLES.to_owned()]));
    }

    #[test]
    fn what_a_collection_wrote_in_vain_counts_its_tables() {
        let inner = Arc::new(MemFs::new());
        let (fs, db) = sealed_segments(&inner);
        let claim = claim_all(&db);
        // Records are synced when all is written, and tables after them.
        let sizes: Arc<Mutex<[u64; 2]>> = Arc::default();
        let seen = sizes.clone();
        inner.on_operation(move |fs: &MemFs, op, path: &Path| {
            if op == Op::SyncData && path.extension().is_some_and(|x| x == "vrec") {
                let files = fs.list(Path::new("/db")).unwrap().into_iter();
                let size = |x| {
                    let made = files.clone().filter(|e| e.name.extension().is_some_and(|y| x == y));
                    made.map(|e| fs.metadata(&Path::new("/db").join(e.name)).unwrap().len).sum()
                };
                *seen.lock() = ["vrec", "vrel"].map(size);
            }
        });
        let full = fs.arm(FaultPlan::new(Fault::NoSpace).on(&[Op::SyncData]).path(".vrel"));
        let (written, mut go_on) = (Cell::new(0), |_, _| ControlFlow::Continue(()));
        let failed = db.core().relocate(&claim, &mut Watch::new(&mut go_on), &written);
        inner.clear_hook();
        assert!(
            matches!(failed, Err(Failure::Failed(error)) if error.kind() == ErrorKind::NoSpace)
        );
        let [records, tables] = *sizes.lock();
        assert!(full.fired() == 1 && tables > 0);
        assert_eq!(written.get(), records + tables);
    }

    #[test]
    fn nothing_is_installed_once_the_database_is_being_closed() {
        let inner = Arc::new(MemFs::new());
        let (_fs, db) = sealed_segments(&inner);
        let (core, claim) = (db.core(), claim_all(&db));
        let before = core.manifest.read_numbered(|_, changes| changes);
        let mut close_when_copied = |stage, _| {
            if stage == GcStage::Copied {
                core.collector.stop();
            }
            ControlFlow::Continue(())
        };
        let mut watch = Watch::new(&mut close_when_copied);
        let ended = core.relocate(&claim, &mut watch, &Cell::new(0));
        assert!(matches!(ended, Err(Failure::Failed(Error::Closed))), "{:?}", ended.err());
        assert_eq!(core.manifest.read_numbered(|_, changes| changes), before);
        let names = inner.list(Path::new("/db")).unwrap().into_iter().map(|entry| entry.name);
        let made = names.filter(|n| n.extension().is_some_and(|x| x == "vrec" || x == "vrel"));
        assert_eq!(made.count(), 0);
    }

    #[test]
    fn looking_for_the_damaged_victim_ends_when_it_is_told_to() {
        let (fs, db) = sealed_segments(&Arc::new(MemFs::new()));
        let claim = claim_all(&db);
        let view = db.core().superversion().view().clone();
        let look = |most: u64| {
            let (asked, reads) = (Cell::new(0), FaultPlan::count().on(&[Op::Read]).path(".vlog"));
            let reads = fs.arm(reads);
            let go_on = || {
                asked.set(asked.get() + 1);
                if asked.get() <= most { Ok(()) } else { Err(Error::Closed) }
            };
            let failure = unreadable(&claim, &view, kvdb_vlog::Error::Misuse("any"), &go_on);
            let Failure::Failed(error) = failure else { panic!("all can be read") };
            (error, asked.get(), reads.seen())
        };
        let (error, asked, all) = look(u64::MAX);
        assert!(matches!(error, Error::Log(_)), "{error}");
        assert!(asked > 6, "{asked} times");
        for most in 0..3 {
            let (error, asked, reads) = look(most);
            assert!(matches!(error, Error::Closed), "{error}");
            assert!(
                asked == most + 1 && reads <= most * 4 && reads < all,
                "{reads} of {all} reads"
            );
        }
    }
}
