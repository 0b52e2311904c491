//! Closing waits for the jobs of callers, and does not wait for itself within a job.

#![allow(clippy::unwrap_used)]

mod common;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::channel;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use common::*;
use kvdb_lsm::*;
use kvdb_manifest::store::StoreChange;
use kvdb_vfs::{MemFs, Op};
use parking_lot::Mutex;

const PATIENCE: Duration = Duration::from_secs(60);

/// Tables of level 0 and a sealed memtable over the same keys, of merge operands and pointers.
fn fill<C: Companion>(tree: &Tree<C>, versions: std::ops::RangeInclusive<u64>) {
    let last = *versions.end();
    for version in versions {
        for k in 0..2000u64 {
            let key = k.to_be_bytes();
            let entry = if k % 2 == 0 { Entry::merge(&[1; 30]) } else { Entry::pointer(&[1; 30]) };
            tree.write(version, &[(&key, entry)]).unwrap();
        }
        if version < last {
            tree.flush().unwrap();
        }
    }
    tree.rotate().unwrap();
}

fn large() -> Options {
    Options { memtable_size: 1 << 20, l0_slowdown_trigger: 20, l0_stop_trigger: 30, ..small() }
}

type Work = fn(&Tree<NoCompanion>) -> Result<()>;

#[test]
fn when_close_returns_the_directory_has_no_file_of_a_callers_unfinished_job() {
    let jobs: [(&str, Work); 5] = [
        ("flush", |tree| tree.flush()),
        ("step", |tree| tree.step(Job::Flush).map(drop)),
        ("recovery", |tree| tree.flush_recovered(StoreChange::default())),
        ("compaction", |tree| tree.step(Job::Compact).map(drop)),
        ("major compaction", |tree| tree.major_compact()),
    ];
    for (name, job) in jobs {
        let fs = MemFs::new();
        let store = Store::over(Arc::new(fs.clone()));
        let tree = store.open(large());
        fill(&tree, 1..=3);
        if name == "major compaction" {
            tree.flush().unwrap();
        }
        let before = store.table_files();
        // The first time that a job writes to a table, somebody else closes the tree and looks.
        let (once, closing, looked_in) = (AtomicBool::new(false), tree.clone(), store.clone());
        let closer = Arc::new(Mutex::new(None));
        let started = closer.clone();
        fs.on_operation(move |_, op, path| {
            let table = op == Op::Write && path.extension().is_some_and(|e| e == "sst");
            if !table || once.swap(true, Ordering::SeqCst) {
                return;
            }
            let (closing, store) = (closing.clone(), looked_in.clone());
            let tree = closing.clone();
            let closer = std::thread::spawn(move || {
                closing.close();
                store.table_files()
            });
            while !matches!(tree.admit_replay(1), Err(Error::Closed)) {
                std::thread::yield_now();
            }
            // It has every opportunity to return too early.
            let deadline = Instant::now() + Duration::from_millis(100);
            while !closer.is_finished() && Instant::now() < deadline {
                std::thread::yield_now();
            }
            *started.lock() = Some(closer);
        });
        let outcome = job(&tree);
        fs.clear_hook();
        assert!(matches!(outcome, Err(Error::Closed)), "{name}: {outcome:?}");
        let closer = closer.lock().take().expect(name);
        assert_eq!(closer.join().unwrap(), before, "{name}");
        drop(tree);
        let tree = store.open(large());
        tree.verify().unwrap();
    }
}

/// What a call closes, or drops.
type Target = Mutex<Option<(&'static str, Closes)>>;

enum Closes {
    Tree(Weak<Tree<Calling>>),
    LastHandle(Arc<Tree<Calling>>),
}

/// Closes its tree in one of the calls that it gets.
#[derive(Default)]
struct Calling {
    target: Target,
    done: AtomicBool,
}

impl Calling {
    fn called(&self, call: &'static str) {
        let mut target = self.target.lock();
        if target.as_ref().is_none_or(|(at, _)| *at != call) {
            return;
        }
        let Some((_, closes)) = target.take() else { return };
        drop(target);
        match closes {
            Closes::Tree(tree) => tree.upgrade().unwrap().close(),
            Closes::LastHandle(tree) => assert_eq!(Arc::strong_count(&tree), 1),
        }
        self.done.store(true, Ordering::SeqCst);
    }
}

impl Companion for Calling {
    type View = ();
    fn pointer(&self, _: &[u8]) -> Option<(u32, u32)> {
        self.called("pointer");
        None
    }
    fn before_install(&self, _: &mut StoreChange, _: u64) -> Result<(), BoxError> {
        self.called("before_install");
        Ok(())
    }
    fn installed(&self, _: &StoreChange) {
        self.called("installed");
    }
    fn folds(&self) -> bool {
        true
    }
    fn fold(&self, _: &[u8], older: &[u8], _: &[u8]) -> Option<Vec<u8>> {
        self.called("fold");
        Some(older.to_vec())
    }
    fn view(&self) -> Arc<()> {
        self.called("view");
        Arc::default()
    }
    fn floor(&self) -> Floor {
        Floor { discard: 1000, clock: 0 }
    }
    fn hold_floor(&self) -> Floor {
        self.called("hold_floor");
        self.floor()
    }
    fn release_floor(&self, _: Floor) {
        self.called("release_floor");
    }
}

const CALLS: [&str; 7] =
    ["pointer", "before_install", "installed", "fold", "view", "hold_floor", "release_floor"];

fn calling(store: &Store, background: Background) -> Arc<Tree<Calling>> {
    let (manifest, companion) = (store.manifest().unwrap(), Arc::<Calling>::default());
    let options = Options { background, l0_compaction_trigger: 4, ..large() };
    let tree =
        Tree::open(store.fs.clone(), &store.dir, manifest, options, companion, false).unwrap();
    tree.remove_orphans().unwrap();
    tree.start().unwrap();
    tree
}

/// Three tables of level 0, and a memtable whose flush makes them worth a compaction: it cannot be
/// flushed before what this returns is dropped.
fn filled_but_for_a_frame(tree: &Tree<Calling>) -> Reservation {
    fill(tree, 1..=3);
    tree.flush().unwrap();
    let mut reservation = tree.admit(4096).unwrap();
    tree.route(&mut reservation, 0, 0);
    tree.insert(&reservation, &0u64.to_be_bytes(), 4, Entry::merge(&[1])).unwrap();
    tree.insert(&reservation, &1u64.to_be_bytes(), 4, Entry::pointer(&[1])).unwrap();
    tree.rotate().unwrap();
    reservation
}

/// Runs it on a thread of its own, and does not wait for ever.
fn in_time(name: String, work: impl FnOnce() + Send + 'static) {
    let (done, ended) = channel();
    let thread = std::thread::spawn(move || {
        work();
        let _ = done.send(());
    });
    match ended.recv_timeout(PATIENCE) {
        Err(std::sync::mpsc::RecvTimeoutError::Timeout) => panic!("{name}: it waits for itself"),
        _ => thread.join().unwrap(),
    }
}

#[test]
fn within_a_call_to_the_companion_close_does_not_wait_and_the_next_one_does() {
    for background in [Background::Manual, Background::Threads] {
        for call in CALLS {
            in_time(format!("{call}, {background:?}"), move || {
                let store = Store::new();
                let tree = calling(&store, background);
                let held_back = filled_but_for_a_frame(&tree);
                let companion = tree.companion();
                let closes = Closes::Tree(Arc::downgrade(&tree));
                *companion.target.lock() = Some((call, closes));
                drop(held_back);
                let outcomes = [tree.flush(), tree.major_compact()];
                assert!(matches!(outcomes[1], Err(Error::Closed)), "{call}: {outcomes:?}");
                assert!(tree.health().is_none());
                tree.close();
                assert!(companion.done.load(Ordering::SeqCst), "{call} was not called");
                let named: usize = tree.superversion().table_counts().iter().sum();
                assert_eq!(store.table_files().len(), named, "{call}, {background:?}");
                drop(tree);
                calling(&store, background).verify().unwrap();
            });
        }
    }
}

#[test]
fn the_last_handle_may_be_dropped_within_a_call_to_the_companion() {
    for call in CALLS {
        in_time(call.to_owned(), move || {
            let store = Store::new();
            let tree = calling(&store, Background::Threads);
            let held_back = filled_but_for_a_frame(&tree);
            let companion = tree.companion().clone();
            *companion.target.lock() = Some((call, Closes::LastHandle(tree)));
            drop(held_back);
            let deadline = Instant::now() + PATIENCE / 2;
            while Arc::strong_count(&companion) > 1 {
                assert!(Instant::now() < deadline, "{call}: a thread has not ended");
                std::thread::sleep(Duration::from_millis(1));
            }
            assert!(companion.done.load(Ordering::SeqCst));
            drop(companion);
            calling(&store, Background::Threads).verify().unwrap();
        });
    }
}
