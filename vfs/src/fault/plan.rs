//! Which operation fails, and how.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crate::{Error, ErrorKind, Op, SyncSite};

/// What goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Fault {
    /// The operation has no effect and fails with `EIO` ([`ErrorKind::Io`]).
    Io,
    /// The operation takes effect and then fails with `EIO`: the outcome is unknown to the caller.
    IoAfter,
    /// The operation has no effect and fails with `ENOSPC` ([`ErrorKind::NoSpace`]).
    NoSpace,
    /// The operation has no effect and fails with `EMFILE` ([`ErrorKind::TooManyFiles`]).
    TooManyFiles,
    /// The operation has no effect and fails as one that the file system does not know
    /// ([`ErrorKind::Unsupported`]).
    Unsupported,
    /// The first half of the bytes is written, then the write fails with `ENOSPC`. Writes only.
    ShortWrite,
    /// The sync does nothing and says it did; a durable write is merely buffered. Syncs of files
    /// and directories and durable writes only. This is how a mutant without one of its syncs is
    /// made.
    SkipSync,
    /// The sync fails with `EIO` and what was not durable stays in the cache, readable, but never
    /// becomes durable, not even by a later sync that succeeds (see
    /// [`File::lose_unsynced`](crate::File::lose_unsynced)). Syncs of files and durable writes
    /// only. Where the file system below cannot do it the same as [`Fault::Io`].
    LoseUnsynced,
}

impl Fault {
    /// Whether there is such a failure of such an operation.
    fn can_hit(self, operation: &Operation<'_>) -> bool {
        let durable_write = operation.op == Op::Write && operation.site.is_some();
        match self {
            Fault::Io
            | Fault::IoAfter
            | Fault::NoSpace
            | Fault::TooManyFiles
            | Fault::Unsupported => true,
            Fault::ShortWrite => operation.op == Op::Write,
            Fault::SkipSync => matches!(operation.op, Op::SyncData | Op::SyncDir) || durable_write,
            Fault::LoseUnsynced => operation.op == Op::SyncData || durable_write,
        }
    }
}

/// One operation as plans see it.
pub(super) struct Operation<'a> {
    op: Op,
    path: &'a Path,
    to: Option<&'a Path>,
    site: Option<SyncSite>,
    offset: Option<u64>,
}

impl<'a> Operation<'a> {
    pub(super) fn new(op: Op, path: &'a Path) -> Self {
        Operation { op, path, to: None, site: None, offset: None }
    }

    pub(super) fn to(self, to: &'a Path) -> Self {
        Operation { to: Some(to), ..self }
    }

    pub(super) fn site(self, site: SyncSite) -> Self {
        Operation { site: Some(site), ..self }
    }

    pub(super) fn offset(self, offset: u64) -> Self {
        Operation { offset: Some(offset), ..self }
    }

    /// The error that a fault shows as.
    pub(super) fn error(&self, fault: Fault) -> Error {
        let kind = match fault {
            Fault::NoSpace | Fault::ShortWrite => ErrorKind::NoSpace,
            Fault::TooManyFiles => ErrorKind::TooManyFiles,
            Fault::Unsupported => ErrorKind::Unsupported,
            _ => ErrorKind::Io,
        };
        Error::with_kind(kind, self.op, self.path, self.offset, system_error(kind))
    }
}

/// What the system would have said.
#[cfg(unix)]
fn system_error(kind: ErrorKind) -> io::Error {
    use rustix::io::Errno;
    match kind {
        ErrorKind::NoSpace => Errno::NOSPC.into(),
        ErrorKind::TooManyFiles => Errno::MFILE.into(),
        ErrorKind::Unsupported => Errno::OPNOTSUPP.into(),
        _ => Errno::IO.into(),
    }
}

#[cfg(not(unix))]
fn system_error(kind: ErrorKind) -> io::Error {
    match kind {
        ErrorKind::NoSpace => io::ErrorKind::StorageFull.into(),
        ErrorKind::Unsupported => io::ErrorKind::Unsupported.into(),
        ErrorKind::TooManyFiles => io::Error::other("too many open files"),
        _ => io::Error::other("input/output error"),
    }
}

/// Says which operation fails: after so many that match, once or from then on.
///
/// An operation matches if it passes all filters and the fault can happen to it at all
/// ([`Fault::ShortWrite`] never matches a rename). An advice is no
/// operation; [`File::links`](crate::File::links) counts as [`Op::Metadata`].
#[derive(Debug, Clone)]
pub struct FaultPlan {
    /// `None`: count only.
    fault: Option<Fault>,
    ops: Option<Vec<Op>>,
    path: Option<String>,
    site: Option<SyncSite>,
    after: u64,
    forever: bool,
}

impl FaultPlan {
    /// The operations that change something.
    pub const MUTATING: &'static [Op] = &[
        Op::Rename,
        Op::Remove,
        Op::HardLink,
        Op::CreateDir,
        Op::RemoveDir,
        Op::SyncDir,
        Op::Write,
        Op::SyncData,
        Op::Allocate,
        Op::SetLen,
    ];

    /// The next operation suffers `fault`, once.
    pub fn new(fault: Fault) -> Self {
        FaultPlan { fault: Some(fault), ..FaultPlan::count() }
    }

    /// Nothing fails; [`ArmedPlan::seen`] tells how many operations matched.
    pub fn count() -> Self {
        FaultPlan { fault: None, ops: None, path: None, site: None, after: 0, forever: false }
    }

    /// Every sync (and durable write) at `site` is skipped, for ever.
    pub fn skip_sync(site: SyncSite) -> Self {
        FaultPlan::new(Fault::SkipSync).site(site).forever()
    }

    /// Only these operations match. [`FaultPlan::MUTATING`] is such a list.
    pub fn on(self, ops: &[Op]) -> Self {
        FaultPlan { ops: Some(ops.to_vec()), ..self }
    }

    /// Only operations on paths that contain `part` match; of a rename or link, either path. An
    /// open file has the path it was opened with.
    pub fn path(self, part: &str) -> Self {
        FaultPlan { path: Some(part.to_owned()), ..self }
    }

    /// Only syncs and durable writes at this site match.
    pub fn site(self, site: SyncSite) -> Self {
        FaultPlan { site: Some(site), ..self }
    }

    /// Lets `n` matching operations pass first.
    pub fn after(self, n: u64) -> Self {
        FaultPlan { after: n, ..self }
    }

    /// Not once, but from then on.
    pub fn forever(self) -> Self {
        FaultPlan { forever: true, ..self }
    }

    fn matches(&self, operation: &Operation<'_>) -> bool {
        let on_path = |part: &String| {
            let contains = |path: &Path| path.to_string_lossy().contains(part.as_str());
            contains(operation.path) || operation.to.is_some_and(contains)
        };
        self.fault.is_none_or(|fault| fault.can_hit(operation))
            && self.ops.as_ref().is_none_or(|ops| ops.contains(&operation.op))
            && self.site.is_none_or(|site| operation.site == Some(site))
            && self.path.as_ref().is_none_or(on_path)
    }
}

/// A plan in force, as [`FaultFs::arm`](crate::FaultFs::arm) returns it.
#[derive(Debug, Clone)]
pub struct ArmedPlan {
    state: Arc<State>,
}

#[derive(Debug)]
struct State {
    plan: FaultPlan,
    seen: AtomicU64,
    fired: AtomicU64,
    disarmed: AtomicBool,
}

impl ArmedPlan {
    pub(super) fn new(plan: FaultPlan) -> Self {
        ArmedPlan {
            state: Arc::new(State {
                plan,
                seen: AtomicU64::new(0),
                fired: AtomicU64::new(0),
                disarmed: AtomicBool::new(false),
            }),
        }
    }

    /// How many operations matched.
    pub fn seen(&self) -> u64 {
        self.state.seen.load(Ordering::SeqCst)
    }

    /// How many operations were made to fail (or skipped).
    pub fn fired(&self) -> u64 {
        self.state.fired.load(Ordering::SeqCst)
    }

    /// Takes the plan out of force.
    pub fn disarm(&self) {
        self.state.disarmed.store(true, Ordering::SeqCst);
    }

    pub(super) fn is_disarmed(&self) -> bool {
        self.state.disarmed.load(Ordering::SeqCst)
    }

    /// Counts the operation if it matches, and says what it should suffer. Called under the lock
    /// of the plans. `free`: no other plan has the operation already.
    pub(super) fn wants(&self, operation: &Operation<'_>, free: bool) -> Option<Fault> {
        let State { plan, seen, fired, .. } = &*self.state;
        if !plan.matches(operation) {
            return None;
        }
        let earlier = seen.fetch_add(1, Ordering::SeqCst);
        let fault = plan.fault?;
        // A single shot that another plan got ahead of goes to the next operation.
        let due = earlier >= plan.after && (plan.forever || fired.load(Ordering::SeqCst) == 0);
        if !due || !free {
            return None;
        }
        fired.fetch_add(1, Ordering::SeqCst);
        Some(fault)
    }
}
