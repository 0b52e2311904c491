//! A file system whose operations fail on demand.

mod file;
mod plan;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

use crate::{
    BLOCK, Entry, File, Fs, LockGuard, LockMode, Metadata, Op, OpenMode, Result, SyncSite,
};
use file::FaultFile;
use plan::Operation;
pub use plan::{ArmedPlan, Fault, FaultPlan};

/// Wraps another file system and makes operations fail as [`FaultPlan`]s say. Clones share the
/// plans, so that one of them can be given to the database and another kept to arm plans while it
/// runs.
///
/// To try every failure of a workload, run it once with [`FaultPlan::count`] and then once for
/// each operation counted:
///
/// ```
/// use std::sync::Arc;
/// use kvdb_vfs::{ErrorKind, Fault, FaultFs, FaultPlan, Fs, MemFs, OpenMode, Result, SyncSite};
///
/// fn workload(fs: &dyn Fs) -> Result<()> {
///     let file = fs.open("a".as_ref(), OpenMode::CreateNew)?;
///     file.write_all_at(b"abc", 0)?;
///     file.sync_data(SyncSite::Other(1))?;
///     fs.sync_dir("/".as_ref(), SyncSite::Other(2))
/// }
///
/// let fs = FaultFs::new(Arc::new(MemFs::new()));
/// let counter = fs.arm(FaultPlan::count());
/// workload(&fs).unwrap();
/// assert_eq!(counter.seen(), 4);
///
/// for n in 0..counter.seen() {
///     let fs = FaultFs::new(Arc::new(MemFs::new()));
///     fs.arm(FaultPlan::new(Fault::Io).after(n));
///     assert_eq!(workload(&fs).unwrap_err().kind(), ErrorKind::Io);
/// }
/// ```
#[derive(Debug, Clone)]
pub struct FaultFs {
    inner: Arc<dyn Fs>,
    faults: Arc<Faults>,
}

/// The plans in force, shared by a file system, its clones and their files.
#[derive(Debug, Default)]
struct Faults {
    plans: Mutex<Vec<ArmedPlan>>,
    operations: AtomicU64,
}

impl FaultFs {
    /// A file system that does what `inner` does until a plan is armed.
    pub fn new(inner: Arc<dyn Fs>) -> Self {
        FaultFs { inner, faults: Arc::default() }
    }

    /// Puts a plan in force, beside those that already are. If several want the same operation,
    /// the one armed first has it. The answer tells how often the plan matched and fired, and takes
    /// it out of force.
    pub fn arm(&self, plan: FaultPlan) -> ArmedPlan {
        let armed = ArmedPlan::new(plan);
        self.faults.plans.lock().push(armed.clone());
        armed
    }

    /// Takes all plans out of force.
    pub fn disarm(&self) {
        for armed in self.faults.plans.lock().drain(..) {
            armed.disarm();
        }
    }

    /// How many operations were started, whether or not a plan matched.
    pub fn operations(&self) -> u64 {
        self.faults.operations.load(Ordering::SeqCst)
    }

    /// The file system below.
    pub fn inner(&self) -> &Arc<dyn Fs> {
        &self.inner
    }
}

impl Faults {
    /// What is to go wrong with this operation.
    fn decide(&self, operation: &Operation<'_>) -> Option<Fault> {
        self.operations.fetch_add(1, Ordering::SeqCst);
        let mut plans = self.plans.lock();
        plans.retain(|armed| !armed.is_disarmed());
        // All plans count the operation, also those that come too late for it.
        plans.iter().fold(None, |first, armed| {
            let wanted = armed.wants(operation, first.is_none());
            first.or(wanted)
        })
    }

    /// Carries out an operation, or does to it what a plan says.
    fn run<T>(&self, operation: &Operation<'_>, act: impl FnOnce() -> Result<T>) -> Result<T> {
        settle(operation, self.decide(operation), act)
    }
}

/// Carries out an operation that suffers a fault (or none) whose effect is all or nothing.
fn settle<T>(
    operation: &Operation<'_>,
    fault: Option<Fault>,
    act: impl FnOnce() -> Result<T>,
) -> Result<T> {
    let Some(fault) = fault else { return act() };
    if fault == Fault::IoAfter {
        act()?;
    }
    Err(operation.error(fault))
}

impl Fs for FaultFs {
    fn open(&self, path: &Path, mode: OpenMode) -> Result<Arc<dyn File>> {
        let inner =
            self.faults.run(&Operation::new(Op::Open, path), || self.inner.open(path, mode))?;
        let block = if mode == OpenMode::Direct { BLOCK } else { 1 };
        Ok(Arc::new(FaultFile { inner, faults: self.faults.clone(), block }))
    }

    fn rename(&self, from: &Path, to: &Path) -> Result<()> {
        let operation = Operation::new(Op::Rename, from).to(to);
        self.faults.run(&operation, || self.inner.rename(from, to))
    }

    fn remove(&self, path: &Path) -> Result<()> {
        self.faults.run(&Operation::new(Op::Remove, path), || self.inner.remove(path))
    }

    fn hard_link(&self, from: &Path, to: &Path) -> Result<()> {
        let operation = Operation::new(Op::HardLink, from).to(to);
        self.faults.run(&operation, || self.inner.hard_link(from, to))
    }

    fn list(&self, dir: &Path) -> Result<Vec<Entry>> {
        self.faults.run(&Operation::new(Op::List, dir), || self.inner.list(dir))
    }

    fn metadata(&self, path: &Path) -> Result<Metadata> {
        self.faults.run(&Operation::new(Op::Metadata, path), || self.inner.metadata(path))
    }

    fn create_dir_all(&self, dir: &Path) -> Result<()> {
        self.faults.run(&Operation::new(Op::CreateDir, dir), || self.inner.create_dir_all(dir))
    }

    fn remove_dir(&self, dir: &Path) -> Result<()> {
        self.faults.run(&Operation::new(Op::RemoveDir, dir), || self.inner.remove_dir(dir))
    }

    fn sync_dir(&self, dir: &Path, site: SyncSite) -> Result<()> {
        let operation = Operation::new(Op::SyncDir, dir).site(site);
        match self.faults.decide(&operation) {
            Some(Fault::SkipSync) => Ok(()),
            fault => settle(&operation, fault, || self.inner.sync_dir(dir, site)),
        }
    }

    fn lock(&self, dir: &Path, mode: LockMode) -> Result<LockGuard> {
        self.faults.run(&Operation::new(Op::Lock, dir), || self.inner.lock(dir, mode))
    }
}
