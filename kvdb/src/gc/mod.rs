//! Garbage collection of the value log, by relocation.
//!
//! What is still in use of some files of the log is copied into new ones, in key order; a table
//! per segment says where each record went; one change set of the manifest puts the new files in
//! the place of the old. The tree is not written to and its pointers stay as they are: they name a
//! record by the segment and offset that it was first written at, and reading one looks the
//! segment up in the log view of the reader's superversion. So a collection needs nobody's
//! permission, can never bring anything back that was deleted, and is in nobody's way: it takes no
//! lock that a reader or a commit takes, but for the moment of the install.
//!
//! 1. **Choose** ([`units`], [`overview`]): files before the replay head by benefit and cost. Live bytes
//!    are sums over the tables' records, never a counter. If none is worth it, those that were made before and
//!    are small are merged when they are many ([`small`]).
//! 2. **Find** ([`survivors`]): the entries of a pinned superversion that point into the victims, by
//!    reading the tables that refer to them or by looking the victims' records up, whatever is nearer.
//! 3. **Copy** ([`job`]): each record is verified, then written, with a new checksum, to files cut
//!    at [`Options::segment_size`](crate::Options::segment_size) by key range. A victim with
//!    damage is left whole, reported, and not chosen again: with it all that was collected together
//!    with it before and has record files in common. So are victims that an unreadable table refers to.
//! 4. **Install**: files, tables and directory synced, then the change set. From then on new
//!    superversions read the new files; older ones keep the old.
//! 5. **Remove**: the old names go at once; what they stood for goes with its last holder.
//!
//! Files without anything in use are removed unread (`reclaim`). A failure anywhere before the
//! change set is durable removes what was written and leaves everything as it was; after a crash
//! the next opening does.

mod by_records;
mod collector;
mod files;
mod job;
mod obstacles;
mod overview;
mod small;
#[cfg(test)]
mod stores;
mod survey;
mod survivors;
mod units;
mod worker;

use std::cell::Cell;
use std::ops::ControlFlow;

pub(crate) use collector::Collector;
pub use collector::GcTotals;
pub use files::LogFileStats;
pub(crate) use files::file_stats;
#[cfg(test)]
pub(crate) use stores::Store;
pub(crate) use units::{Choice, Unit, choose};
pub(crate) use worker::Worker;

use crate::core::Core;
use crate::db::Db;
use crate::error::{Error, ErrorKind, Result};
use job::{Done, Failure};
use obstacles::Obstacles;
use small::to_merge;

/// What a collection on demand is to do.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct GcOptions {
    /// Files of which less than this part is garbage are left alone. 0 to 1, default 0.2.
    pub min_garbage: f64,
    /// First write what is in memory to tables, bring together in the tree what was overwritten
    /// with what overwrote it, and begin a new segment: only then is all garbage known, and can go.
    /// Default: false.
    pub settle: bool,
    /// Also move segments without garbage that were never collected: afterwards values lie in key
    /// order, which makes scans over large values sequential. Default: false.
    pub sort: bool,
    /// Files are collected together as long as what is in use of them does not exceed so many
    /// bytes: the more, the longer are the runs in key order; as much free space is needed
    /// meanwhile, and again when they are collected the next time, which can only be all at once.
    /// Default 1 GiB.
    pub batch_bytes: u64,
    /// Whether what is in use is found by looking up the victims' records, or by reading the
    /// tables that refer to them; by itself what is cheaper. For tests.
    #[doc(hidden)]
    pub look_up: Option<bool>,
}

impl Default for GcOptions {
    fn default() -> Self {
        GcOptions {
            min_garbage: 0.2,
            settle: false,
            sort: false,
            batch_bytes: 1 << 30,
            look_up: None,
        }
    }
}

impl GcOptions {
    /// Everything that can be gained, whatever it costs: what is in memory is flushed, the tree
    /// compacted, every file with garbage collected, every segment brought into key order. What was
    /// brought into order before and has no garbage stays where it is, unless it is little: it is not merged
    /// with what is new, so that after several of these the files of one may overlap in keys with those
    /// of another. Takes as much free space as [`batch_bytes`](GcOptions::batch_bytes) says, and so does whoever
    /// collects what it leaves: where values go on to be overwritten at random, smaller batches keep the
    /// log smaller afterwards.
    pub fn full() -> Self {
        GcOptions { min_garbage: 0.0, settle: true, sort: true, ..GcOptions::default() }
    }

    /// Sets [`GcOptions::min_garbage`].
    #[must_use]
    pub fn min_garbage(self, min_garbage: f64) -> Self {
        GcOptions { min_garbage, ..self }
    }

    /// Sets [`GcOptions::settle`].
    #[must_use]
    pub fn settle(self, settle: bool) -> Self {
        GcOptions { settle, ..self }
    }

    #[doc(hidden)]
    #[must_use]
    pub fn look_up(self, look_up: bool) -> Self {
        GcOptions { look_up: Some(look_up), ..self }
    }

    /// Sets [`GcOptions::sort`].
    #[must_use]
    pub fn sort(self, sort: bool) -> Self {
        GcOptions { sort, ..self }
    }

    /// Sets [`GcOptions::batch_bytes`].
    #[must_use]
    pub fn batch_bytes(self, batch_bytes: u64) -> Self {
        GcOptions { batch_bytes, ..self }
    }
}

/// What a collection on demand has done.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct GcReport {
    /// Times that files were collected together.
    pub collections: u64,
    /// Files removed, all-garbage ones included.
    pub files_removed: u64,
    /// Files written, relocation tables included.
    pub files_written: u64,
    /// Bytes read: what was in use.
    pub bytes_read: u64,
    /// Bytes written.
    pub bytes_written: u64,
    /// Bytes of removed files, less what was written. Space comes back when the last reader of a
    /// file is gone.
    pub bytes_reclaimed: u64,
    /// Segments that were found damaged, or that a table refers to which cannot be read, and that were
    /// left as they are, and how. Where the file system could not read the segment or the table, the next
    /// collection tries again; the others, and what was collected together with them, are tried when the
    /// database is opened anew.
    pub damaged: Vec<(u32, String)>,
}

impl GcReport {
    fn add(&mut self, done: &Done) {
        self.collections += 1;
        self.files_removed += done.files_removed;
        self.files_written += done.files_written;
        self.bytes_read += done.bytes_read;
        self.bytes_written += done.bytes_written;
        self.bytes_reclaimed += done.bytes_removed.saturating_sub(done.bytes_written);
    }
}

/// How far a collection is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum GcStage {
    /// The victims are chosen.
    Chosen,
    /// Some records were copied.
    Copying,
    /// All files are written and durable; the store does not know of them yet.
    Copied,
    /// The store reads the new files.
    Installed,
    /// The old files are removed.
    Removed,
}

/// Told of every stage and of the bytes copied since the last; may end the collection.
pub(crate) struct Watch<'a> {
    tell: &'a mut dyn FnMut(GcStage, u64) -> ControlFlow<()>,
}

impl<'a> Watch<'a> {
    pub(crate) fn new(tell: &'a mut dyn FnMut(GcStage, u64) -> ControlFlow<()>) -> Self {
        Watch { tell }
    }

    fn at(&mut self, stage: GcStage, bytes: u64) -> Result<()> {
        match (self.tell)(stage, bytes) {
            ControlFlow::Continue(()) => Ok(()),
            ControlFlow::Break(()) => Err(Error::Cancelled),
        }
    }
}

impl Db {
    /// Collects garbage of the value log now, on the calling thread, until nothing is left that is
    /// worth it by `options`, of what was written before. Background collection does what is needed by
    /// itself; this is for those who want the space, or the key order, at once. One that is under way in
    /// the background is waited for, and no longer paced then.
    ///
    /// Reads, commits and compactions go on meanwhile. Needs free space for what is in use of the
    /// files that are collected together; with less it goes on with what fits, by what it could write
    /// before, and leaves out the rest: that is an error only when there is nothing left that does.
    ///
    /// ```
    /// # fn main() -> kvdb::Result<()> {
    /// # let memory = std::sync::Arc::new(kvdb::vfs::MemFs::new());
    /// # let db = kvdb::Options::default().open_in(memory, "/db")?;
    /// let report = db.gc(&kvdb::GcOptions::full())?;
    /// println!("{} bytes are free again", report.bytes_reclaimed);
    /// # db.close()
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`Error::Closed`], also when the database is closed meanwhile; [`Error::ReadOnly`];
    /// [`Error::InvalidOption`] for a `min_garbage` that is not within 0 to 1; those of the file
    /// system. What was collected before stays so; the rest is as it was. Damage is no
    /// error but part of the report.
    pub fn gc(&self, options: &GcOptions) -> Result<GcReport> {
        self.gc_with(options, |_, _| ControlFlow::Continue(()))
    }

    /// As [`Db::gc`], and tells `progress` of each stage and of the bytes that were copied since it
    /// was last told. It may use the database, but not collect or close it, which would wait for
    /// itself and is refused; if it breaks off, what was begun is undone, or, at
    /// [`GcStage::Installed`], when it stays, brought to its end.
    ///
    /// ```
    /// # fn main() -> kvdb::Result<()> {
    /// # let db = kvdb::Options::default().open_in(std::sync::Arc::new(kvdb::vfs::MemFs::new()), "/db")?;
    /// use std::ops::ControlFlow;
    /// let started = std::time::Instant::now();
    /// let outcome = db.gc_with(&kvdb::GcOptions::full(), |_stage, _bytes| {
    ///     match started.elapsed().as_secs() < 60 {
    ///         true => ControlFlow::Continue(()),
    ///         false => ControlFlow::Break(()), // then it is `Error::Cancelled`
    ///     }
    /// });
    /// assert!(outcome.is_ok());
    /// # db.close()
    /// # }
    /// ```
    ///
    /// # Errors
    /// As [`Db::gc`]; [`Error::Cancelled`] if `progress` broke off; [`Error::Reentrant`] within
    /// another `progress` on the same thread.
    pub fn gc_with(
        &self,
        options: &GcOptions,
        mut progress: impl FnMut(GcStage, u64) -> ControlFlow<()>,
    ) -> Result<GcReport> {
        let core = self.core();
        if core.work.holds_this_thread() {
            return Err(Error::Reentrant);
        }
        let _inside = core.work.enter()?;
        core.log()?;
        crate::options::range("min_garbage", options.min_garbage, 0.0, 1.0)?;
        if options.settle {
            core.settle_for_collection()?;
        }
        core.collector.set_look_up(options.look_up);
        let _hurry = core.collector.hurry();
        let mut report = GcReport::default();
        let choice = Choice {
            min_garbage: options.min_garbage,
            sort: options.sort,
            max_live: options.batch_bytes,
            // What is written meanwhile is for the next one: it might go on for as long as that does.
            below: core.overview().next_segment,
        };
        let mut watch = Watch::new(&mut progress);
        let mut obstacles = Obstacles::default();
        while core.collect(choice, &mut watch, &mut report, &mut obstacles)? {}
        Ok(report)
    }
}

impl Core {
    /// Frees what is all garbage and runs one collection. `false`: there was nothing to collect.
    /// `obstacles` go from one to the next of those who collect until nothing is left.
    pub(crate) fn collect(
        &self,
        choice: Choice,
        watch: &mut Watch<'_>,
        report: &mut GcReport,
        obstacles: &mut Obstacles,
    ) -> Result<bool> {
        let _one_at_a_time = self.collector.work();
        loop {
            self.check_collecting()?;
            let freed = self.free_dead_segments()?;
            report.files_removed += freed.files;
            report.bytes_reclaimed += freed.bytes;
            let (claim, merging) = {
                let _choosing = self.collector.choosing();
                let overview = self.overview();
                let next = overview.next_segment;
                let readable = |u: &&Unit| !self.collector.is_damaged(u) && !obstacles.is_unread(u);
                let units: Vec<&Unit> = overview.units.iter().filter(readable).collect();
                let candidates = || units.iter().copied().filter(|unit| unit.garbage);
                let mut victims = choose(candidates(), next, choice, obstacles.room());
                // Forgotten too when all that is worth it was collected, in smaller pieces.
                if victims.is_empty()
                    && let Some(error) = obstacles.take_error()
                    && !choose(candidates(), next, choice, u64::MAX).is_empty()
                {
                    self.collector.count(|totals| totals.failed += 1);
                    return Err(error);
                }
                let merging = victims.is_empty() && self.collector.may_merge();
                if merging {
                    victims = to_merge(units.iter().copied(), self.options.segment_size as u64);
                }
                if victims.is_empty() {
                    return Ok(false);
                }
                (self.collector.claim(victims), merging)
            };
            watch.at(GcStage::Chosen, 0)?;
            tracing::debug!(segments = ?claim.segments(), "collecting");
            let written = Cell::new(0);
            match self.relocate(&claim, watch, &written) {
                Ok((done, former)) => {
                    obstacles.made(done.bytes_removed.saturating_sub(done.bytes_written));
                    tracing::debug!(?done, "collected");
                    self.count_collection(&done);
                    report.add(&done);
                    drop(claim);
                    // Who breaks off now still gets what was won.
                    let told = watch.at(GcStage::Installed, 0);
                    self.remove_doomed();
                    // The names are gone. To unmap and free what they stood for takes as long as a
                    // good part of the copying, and is for whoever frees old tables.
                    self.tree.retire(Box::new(former));
                    told?;
                    watch.at(GcStage::Removed, 0)?;
                    return Ok(true);
                }
                Err(Failure::Damaged { segments, error }) => {
                    tracing::error!(?segments, %error, "damaged: the segments are not collected");
                    self.collector.count(|totals| totals.failed += 1);
                    for segment in segments {
                        self.collector.note_damage(segment, error.to_string());
                        report.damaged.push((segment, error.to_string()));
                    }
                }
                Err(Failure::Unread { segments, error }) => {
                    tracing::error!(?segments, %error, "not known to be in use: left for now");
                    self.collector.count(|totals| totals.failed += 1);
                    let what = error.to_string();
                    report.damaged.extend(segments.iter().map(|s| (*s, what.clone())));
                    obstacles.unread(&segments, error);
                }
                Err(Failure::Failed(error)) => {
                    if error.kind() == ErrorKind::NoSpace && merging {
                        // It would have gained little: that can wait.
                        tracing::warn!(%error, "no room to merge small files of the log");
                        self.collector.count(|totals| totals.failed += 1);
                        self.collector.merge_later();
                        return Ok(false);
                    }
                    if error.kind() == ErrorKind::NoSpace {
                        // What is smaller may fit, and makes room for the next.
                        let size = claim.units.iter().map(Unit::moved_size).sum();
                        obstacles.none_for(size, written.get(), error);
                        continue;
                    }
                    if !matches!(error, Error::Closed | Error::Cancelled) {
                        self.collector.count(|totals| totals.failed += 1);
                    }
                    return Err(error);
                }
            }
        }
    }

    /// One collection of what is worth it, without a pace: for those who step by hand.
    pub(crate) fn collect_step(&self) -> Result<bool> {
        let choice = Choice { min_garbage: 0.2, sort: false, max_live: 256 << 20, below: u32::MAX };
        let mut go_on = |_, _| ControlFlow::Continue(());
        let (mut report, mut obstacles) = Default::default();
        self.collect(choice, &mut Watch::new(&mut go_on), &mut report, &mut obstacles)
    }

    fn count_collection(&self, done: &Done) {
        self.collector.count(|totals| {
            totals.collections += 1;
            totals.bytes_read += done.bytes_read;
            totals.bytes_written += done.bytes_written;
            totals.bytes_removed += done.bytes_removed;
        });
    }

    /// Brings everything that is garbage to light.
    fn settle_for_collection(&self) -> Result<()> {
        self.tree.flush()?;
        self.tree.major_compact()?;
        let survey = self.survey(self.log()?.end());
        if survey.has_young() {
            self.leave_active_segment(survey.rest_segment())?;
        }
        Ok(())
    }
}
