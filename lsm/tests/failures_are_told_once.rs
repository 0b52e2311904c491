//! A failure of background work is told to `tracing` once. The only test here: others' events would
//! change what is recorded.

#![allow(clippy::unwrap_used)]

mod common;

use std::sync::Arc;

use common::*;
use kvdb_lsm::*;
use kvdb_manifest::store::StoreChange;
use kvdb_vfs::{Fault, FaultFs, FaultPlan, Op};
use parking_lot::Mutex;
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Metadata, Subscriber};

/// For each error, how many compactions of the tree had not given their ranges back when it was told.
struct Errors<C: Companion> {
    tree: Arc<Tree<C>>,
    running: Arc<Mutex<Vec<usize>>>,
}

impl<C: Companion> Subscriber for Errors<C> {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }
    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }
    fn record(&self, _: &Id, _: &Record<'_>) {}
    fn record_follows_from(&self, _: &Id, _: &Id) {}
    fn event(&self, event: &Event<'_>) {
        if *event.metadata().level() == Level::ERROR {
            self.running.lock().push(self.tree.stats().running);
        }
    }
    fn enter(&self, _: &Id) {}
    fn exit(&self, _: &Id) {}
}

struct Panicking;

impl Companion for Panicking {
    type View = ();
    fn pointer(&self, _: &[u8]) -> Option<(u32, u32)> {
        panic!("a pointer of no sense")
    }
    fn before_install(&self, _: &mut StoreChange, _: u64) -> Result<(), BoxError> {
        Ok(())
    }
    fn view(&self) -> Arc<()> {
        Arc::default()
    }
    fn floor(&self) -> Floor {
        Floor::default()
    }
}

#[test]
fn a_failure_of_a_flush_or_a_compaction_is_told_once_and_before_others_may_have_its_inputs() {
    let store = Store::new();
    let tree = store.open(small());
    for version in 1..=2 {
        tree.write(version, &[(b"k", Entry::pointer(&[0; 12]))]).unwrap();
        tree.flush().unwrap();
    }
    drop(tree);
    for (job, running) in [(Job::Compact, 1), (Job::Flush, 0)] {
        let manifest = store.manifest().unwrap();
        let (fs, dir) = (store.fs.clone(), &store.dir);
        let tree = Tree::open(fs, dir, manifest, small(), Arc::new(Panicking), false).unwrap();
        tree.write(3, &[(b"k", Entry::pointer(&[0; 12]))]).unwrap();
        tree.rotate().unwrap();
        let told = Arc::<Mutex<Vec<usize>>>::default();
        let errors = Errors { tree: tree.clone(), running: told.clone() };
        let failed = tracing::subscriber::with_default(errors, || tree.step(job)).unwrap_err();
        assert!(matches!(failed, Error::Panic(_)), "{failed}");
        assert_eq!(*told.lock(), [running], "{job:?}");
        assert!(tree.health().is_some());
    }
    // Whoever has the job next may be through before this one is told otherwise, and then it would stay.
    for fault in [Fault::NoSpace, Fault::Io] {
        let fs = FaultFs::new(store.fs.clone());
        let fails = fs.arm(FaultPlan::new(fault).on(&[Op::Write]).path(".sst"));
        let tree = Store { fs: Arc::new(fs), ..store.clone() }.open(small());
        let told = Arc::<Mutex<Vec<usize>>>::default();
        let errors = Errors { tree: tree.clone(), running: told.clone() };
        let outcome = tracing::subscriber::with_default(errors, || tree.step(Job::Compact));
        assert!(outcome.is_err() && fails.fired() == 1, "{outcome:?}");
        assert_eq!(*told.lock(), [1], "{outcome:?}");
        assert!(tree.health().is_some());
    }
}
