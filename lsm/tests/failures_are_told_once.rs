//! A failure of background work is told to `tracing` once. The only test here: others' events would
//! change what is recorded.

#![allow(clippy::unwrap_used)]

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use common::*;
use kvdb_lsm::*;
use kvdb_manifest::store::StoreChange;
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Metadata, Subscriber};

/// Counts errors.
#[derive(Default)]
struct Errors(Arc<AtomicUsize>);

impl Subscriber for Errors {
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
            self.0.fetch_add(1, Ordering::SeqCst);
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
fn a_panic_in_a_flush_or_a_compaction_is_told_once() {
    let store = Store::new();
    let tree = store.open(small());
    for version in 1..=2 {
        tree.write(version, &[(b"k", Entry::pointer(&[0; 12]))]).unwrap();
        tree.flush().unwrap();
    }
    drop(tree);
    for job in [Job::Compact, Job::Flush] {
        let manifest = store.manifest().unwrap();
        let (fs, dir) = (store.fs.clone(), &store.dir);
        let tree = Tree::open(fs, dir, manifest, small(), Arc::new(Panicking), false).unwrap();
        tree.write(3, &[(b"k", Entry::pointer(&[0; 12]))]).unwrap();
        tree.rotate().unwrap();
        let errors = Errors::default();
        let told = errors.0.clone();
        let failed = tracing::subscriber::with_default(errors, || tree.step(job)).unwrap_err();
        assert!(matches!(failed, Error::Panic(_)), "{failed}");
        assert_eq!(told.load(Ordering::SeqCst), 1, "{job:?}");
        assert!(tree.health().is_some());
    }
}
