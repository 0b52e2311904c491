//! What ties the tree to the value log: the tree asks, the log answers, and the other way round.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock, Weak};

use kvdb_lsm::{BoxError, Companion, FileIds, Floor, Tree};
use kvdb_manifest::store::{SegmentNamed, SegmentSealed, StoreChange};
use kvdb_txn::Oracle;
use kvdb_vlog::{
    Log, LogView, Pointer, Position, RelocatedSegment, SealedSegment, SegmentMeta, SegmentName,
    SegmentNamer,
};
use parking_lot::{Mutex, RwLock};

use crate::clock::EngineClock;
use crate::housekeeper::Housekeeper;
use crate::merge::MergeOperator;
use crate::pipeline::Route;

/// Bytes that a value may come to by folding in the background; beyond, operands stay apart.
const MOST_FOLDED: usize = 16 << 20;

/// The value log as the tree sees it.
#[derive(Debug)]
pub(crate) struct ValueLog {
    dir: PathBuf,
    clock: Arc<EngineClock>,
    /// The view until there is a log: during recovery, and for ever in a read-only database.
    recovered: RwLock<Arc<LogView>>,
    /// Log and oracle, once recovery is through.
    running: OnceLock<(Arc<Log<Route>>, Arc<Oracle>)>,
    /// Nothing below this version may be dropped while there is no oracle.
    recovered_floor: u64,
    /// No version is ever dropped, so the floor stays where it was.
    keep_all: bool,
    operator: Option<MergeOperator>,
    /// What a collection has moved and is about to install.
    staged: Mutex<Vec<RelocatedSegment>>,
}

impl ValueLog {
    pub(crate) fn new(
        dir: PathBuf,
        clock: Arc<EngineClock>,
        recovered: Arc<LogView>,
        recovered_floor: u64,
        keep_all: bool,
        operator: Option<MergeOperator>,
    ) -> Self {
        ValueLog {
            dir,
            clock,
            recovered: RwLock::new(recovered),
            running: OnceLock::new(),
            recovered_floor,
            keep_all,
            operator,
            staged: Mutex::default(),
        }
    }

    /// The directory of the log.
    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    /// The next change set with relocated segments moves these.
    pub(crate) fn stage(&self, relocated: Vec<RelocatedSegment>) {
        *self.staged.lock() = relocated;
    }

    /// That change set was installed or will not be.
    pub(crate) fn unstage(&self) {
        self.staged.lock().clear();
    }

    /// Recovery has made a segment.
    pub(crate) fn set_recovered(&self, view: Arc<LogView>) {
        *self.recovered.write() = view;
    }

    /// From here on the log and the oracle answer.
    pub(crate) fn run(&self, log: Arc<Log<Route>>, oracle: Arc<Oracle>) {
        let first = self.running.set((log, oracle)).is_ok();
        debug_assert!(first, "a database is started once");
        // It would hold every file that there was at the opening, for as long as the database is open.
        *self.recovered.write() = Arc::default();
    }

    /// The version below which nobody reads any more.
    fn discard(&self) -> u64 {
        match self.running.get() {
            Some((_, oracle)) if !self.keep_all => oracle.raise_floor(),
            _ => self.recovered_floor,
        }
    }
}

impl Companion for ValueLog {
    type View = LogView;

    fn pointer(&self, payload: &[u8]) -> Option<(u32, u32)> {
        let pointer = Pointer::from_stored(payload)?;
        Some((pointer.segment(), pointer.len()))
    }

    fn before_install(&self, _: &mut StoreChange, log_end: u64) -> Result<(), BoxError> {
        // Until there is a log, recovery has written and synced all that is replayed.
        if let Some((log, _)) = self.running.get() {
            // A memtable is quiet also when its last frames have failed. They are counted in
            // `log_end`, and some of their records may be in the memtable; whoever took them out
            // of flight has poisoned the log before.
            if let Some(cause) = log.poisoned() {
                return Err(kvdb_vlog::Error::Poisoned { cause }.into());
            }
            log.sync_through(Position::unpacked(log_end))?;
        }
        Ok(())
    }

    fn installed(&self, change: &StoreChange) {
        self.clock.note_dropped(change.clock.unwrap_or(0));
        let Some((log, _)) = self.running.get() else { return };
        if !change.segments_relocated.is_empty() {
            log.relocate(std::mem::take(&mut *self.staged.lock()));
        }
        // Their files are removed, not used again, as [`Log::recycle`] could. Segments die in batches,
        // by the flush or the collection that was the last to need them, and are as large as the data
        // asked for when they were made: of a pool of two, 6 of 142 new segments had their files (4 KiB
        // values overwritten, durable, 10,000 a second; five segments died at a time). Could two of each
        // batch always be used, it would save 0.4 of 5 to 6 bytes that reach the device for each byte
        // written; neither commits (medians 12,200 a second with it and 12,500 without) nor bytes showed
        // a difference. And a store gives space back at rest: what is kept would have to be counted as
        // space and given up, like spares. Buffered stores have nothing to gain at all: nothing is
        // written ahead for them, and a page of an old file costs more to enter than one of a new one.
        // What recovery has cut off is not in the view.
        let view = log.view();
        let known = |id: &u32| view.holders(*id).is_some();
        let freed: Vec<u32> = change.segments_freed.iter().copied().filter(known).collect();
        if !freed.is_empty()
            && let Err(error) = log.forget(&freed)
        {
            tracing::error!(%error, "forgetting freed segments");
        }
    }

    fn folds(&self) -> bool {
        self.operator.is_some()
    }

    fn fold(&self, key: &[u8], older: &[u8], newer: &[u8]) -> Option<Vec<u8>> {
        let folded = self.operator.as_ref()?.fold(key, older, newer);
        (folded.len() <= MOST_FOLDED).then_some(folded)
    }

    fn view(&self) -> Arc<LogView> {
        match self.running.get() {
            Some((log, _)) => log.view(),
            None => self.recovered.read().clone(),
        }
    }

    fn floor(&self) -> Floor {
        Floor { discard: self.discard(), clock: self.clock.drop_clock() }
    }

    fn hold_floor(&self) -> Floor {
        Floor { discard: self.discard(), clock: self.clock.hold_drop_clock() }
    }

    fn release_floor(&self, floor: Floor) {
        self.clock.release_drop_clock(floor.clock);
    }
}

/// Gives segments their names, durably, before a frame is written into them.
#[derive(Debug)]
pub(crate) struct Namer {
    pub(crate) tree: Weak<Tree<ValueLog>>,
    pub(crate) segments: SegmentIds,
    pub(crate) housekeeper: Arc<Housekeeper>,
    /// It is not known whether a segment was named: none may be named behind it.
    pub(crate) in_doubt: AtomicBool,
}

/// The next segment id. Ids are never reused.
#[derive(Debug)]
pub(crate) struct SegmentIds(std::sync::atomic::AtomicU32);

impl SegmentIds {
    pub(crate) fn new(next: u32) -> Self {
        SegmentIds(next.into())
    }

    pub(crate) fn next(&self) -> u32 {
        self.0.fetch_add(1, std::sync::atomic::Ordering::Relaxed)
    }
}

/// Names for the next segment.
pub(crate) fn segment_name(files: &FileIds, segments: &SegmentIds) -> SegmentName {
    SegmentName { segment: segments.next(), file: files.next(), nonce: files.nonce() }
}

impl Namer {
    fn tree(&self) -> Result<Arc<Tree<ValueLog>>, BoxError> {
        Ok(self.tree.upgrade().ok_or("the database is closed")?)
    }

    fn install(&self, change: StoreChange) -> Result<(), BoxError> {
        Ok(self.tree()?.install(change)?)
    }
}

impl SegmentNamer for Namer {
    fn allocate(&self) -> Result<SegmentName, BoxError> {
        let tree = self.tree()?;
        if tree.is_manifest_poisoned() {
            // Says why no segment can be named. Housekeeping would make one all the time.
            tree.install(StoreChange::default())?;
        }
        if self.in_doubt.load(Ordering::SeqCst) {
            let why = "a segment may have been named behind which the log cannot go on";
            return Err(kvdb_lsm::Error::Panic(why.into()).into());
        }
        Ok(segment_name(tree.file_ids(), &self.segments))
    }

    fn name(&self, meta: &SegmentMeta) -> Result<(), BoxError> {
        let change = StoreChange { segments_named: vec![named(meta)], ..StoreChange::default() };
        self.tree()?.install(change).map_err(|error| {
            // A poisoned manifest names nothing more by itself.
            self.in_doubt.fetch_or(error.may_be_installed(), Ordering::SeqCst);
            error.into()
        })
    }

    fn is_refusal(&self, error: &BoxError) -> bool {
        match error.downcast_ref() {
            Some(kvdb_lsm::Error::Manifest(error)) => !error.is_outcome_unknown(),
            Some(kvdb_lsm::Error::Closed) => true,
            _ => false,
        }
    }

    fn sealed(&self, sealed: &SealedSegment) -> Result<(), BoxError> {
        let change =
            StoreChange { segments_sealed: vec![seal_record(sealed)], ..StoreChange::default() };
        self.install(change)
    }

    fn housekeeping_due(&self) {
        self.housekeeper.wake();
    }
}

/// A segment as the manifest writes it.
pub(crate) fn named(meta: &SegmentMeta) -> SegmentNamed {
    SegmentNamed {
        segment: meta.segment,
        file: meta.file,
        nonce: meta.nonce,
        capacity: meta.capacity,
        method: meta.method,
    }
}

/// A sealed segment as the manifest writes it.
pub(crate) fn seal_record(sealed: &SealedSegment) -> SegmentSealed {
    SegmentSealed {
        segment: sealed.segment,
        length: sealed.length,
        frames: sealed.frames.into(),
        checksum: sealed.checksum,
    }
}
