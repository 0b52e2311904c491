//! What panics in a background thread, but not in a job: it is told, nobody waits for ever, and what comes
//! behind it is freed all the same.
#![allow(clippy::unwrap_used)] // a test may panic

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use common::*;
use kvdb_lsm::*;
use kvdb_manifest::store::StoreChange;

/// Panics where a compaction thread asks for the floor, once it is told to.
#[derive(Default)]
struct Fragile {
    breaks: AtomicBool,
}

impl Companion for Fragile {
    type View = ();

    fn pointer(&self, _: &[u8]) -> Option<(u32, u32)> {
        None
    }

    fn before_install(&self, _: &mut StoreChange, _: u64) -> Result<(), BoxError> {
        Ok(())
    }

    fn view(&self) -> Arc<()> {
        Arc::default()
    }

    fn floor(&self) -> Floor {
        assert!(!self.breaks.swap(false, Ordering::SeqCst), "a fragile floor");
        Floor { discard: 0, clock: 0 }
    }
}

fn wait_for(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while !done() {
        assert!(Instant::now() < deadline, "{what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Otherwise the thread was gone, and writers waited for it once they had to.
#[test]
fn rule_50_a_panic_where_the_next_job_is_looked_for_is_told_and_ends_waits() {
    let store = Store::new();
    let manifest = store.manifest().unwrap();
    let options = Options {
        background: Background::Threads,
        idle_after_ms: 20,
        compaction_threads: 1,
        debt_slowdown_bytes: 1 << 20,
        ..small()
    };
    let fragile = Arc::new(Fragile::default());
    let tree = Tree::open(store.fs.clone(), &store.dir, manifest, options, fragile.clone(), false)
        .unwrap();
    tree.start().unwrap();
    tree.write(1, &[(b"k", Entry::tombstone())]).unwrap();
    fragile.breaks.store(true, Ordering::SeqCst);
    // Idle, it looks whether the tombstone may go.
    if let Err(error) = tree.flush() {
        assert!(error.to_string().contains("a fragile floor"), "{error}");
    }
    wait_for("nobody was told", || tree.health().is_some());
    let health = tree.health().unwrap();
    assert!(matches!(health, Error::Background { .. }), "{health}");
    let writer = std::thread::spawn({
        let tree = tree.clone();
        move || {
            (2u64..40_000)
                .find_map(|v| tree.write(v, &[(&v.to_be_bytes(), Entry::value(&[7; 1000]))]).err())
        }
    });
    wait_for("a writer waits for ever", || writer.is_finished());
    assert!(writer.join().unwrap().is_some(), "it is told as well");
    tree.close();
}

struct PanicsWhenDropped;

impl Drop for PanicsWhenDropped {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            panic!("a fragile drop");
        }
    }
}

#[test]
fn a_panic_while_something_is_freed_keeps_nothing_else_from_being_freed() {
    let store = Store::new();
    let tree = store.open(Options { background: Background::Threads, ..small() });
    tree.retire(Box::new(PanicsWhenDropped));
    for v in 1..=6 {
        tree.write(v, &[(b"k", Entry::value(b"v"))]).unwrap();
        tree.flush().unwrap();
    }
    tree.companion().raise_floor(Floor { discard: 6, clock: 0 });
    tree.major_compact().unwrap();
    let waiting = std::thread::spawn({
        let tree = tree.clone();
        move || tree.wait_idle()
    });
    wait_for("it waits for what was never freed", || waiting.is_finished());
    waiting.join().unwrap().unwrap();
    assert_eq!(store.table_files().len(), 1, "the old tables are gone");
    tree.close();
}
