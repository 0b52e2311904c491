//! Closing stops flushes and compactions at their next look, counted in entries and not in time, and
//! nothing changes the store from then on.

#![allow(clippy::unwrap_used)]

mod common;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use common::*;
use kvdb_lsm::*;
use kvdb_manifest::store::{RangeDelete, StoreChange};
use kvdb_vfs::{MemFs, Op, OpenMode};
use parking_lot::Mutex;

/// Entries that are written between two looks at whether to go on.
const LOOK: u64 = 256;
const ENTRIES: u64 = 20_000;

/// Counts the entries that jobs write, and has the tree closed when it has counted so many.
#[derive(Default)]
struct Closing {
    tree: OnceLock<Weak<Tree<Closing>>>,
    written: AtomicU64,
    close_at: AtomicU64,
    closer: Mutex<Option<JoinHandle<()>>>,
    written_after: AtomicU64,
}

impl Companion for Closing {
    type View = ();
    fn pointer(&self, _: &[u8]) -> Option<(u32, u32)> {
        let written = self.written.fetch_add(1, Ordering::SeqCst) + 1;
        let close_at = self.close_at.load(Ordering::SeqCst);
        if close_at == 0 {
            return None;
        }
        if written == close_at {
            let tree = self.tree.get().unwrap().upgrade().unwrap();
            let closed = tree.clone();
            // Whoever is told by then that the tree is closed finds the thread there.
            let mut closer = self.closer.lock();
            *closer = Some(std::thread::spawn(move || closed.close()));
            drop(closer);
            while !matches!(tree.admit_replay(1), Err(Error::Closed)) {
                std::thread::yield_now();
            }
            self.written_after.store(0, Ordering::SeqCst);
        } else {
            self.written_after.fetch_add(1, Ordering::SeqCst);
        }
        None
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

fn open(store: &Store, background: Background) -> Arc<Tree<Closing>> {
    let options = Options {
        memtable_size: 8 << 20,
        l0_compaction_trigger: 50,
        l0_slowdown_trigger: 50,
        l0_stop_trigger: 60,
        background,
        ..small()
    };
    let manifest = store.manifest().unwrap();
    let companion = Arc::<Closing>::default();
    let tree =
        Tree::open(store.fs.clone(), &store.dir, manifest, options, companion, false).unwrap();
    tree.remove_orphans().unwrap();
    tree.companion().tree.set(Arc::downgrade(&tree)).unwrap();
    tree.start().unwrap();
    tree
}

fn fill(tree: &Tree<Closing>, version: u64) {
    fill_with(tree, version, ENTRIES, &[0; 30]);
}

fn fill_with(tree: &Tree<Closing>, version: u64, entries: u64, payload: &[u8]) {
    for k in 0..entries {
        tree.write(version, &[(&k.to_be_bytes(), Entry::pointer(payload))]).unwrap();
    }
}

/// Has the tree closed when `job` has written a thousand entries; how many more it writes then.
fn written_after_close(tree: &Tree<Closing>, job: impl FnOnce() -> Result<()>) -> u64 {
    written_after_close_at(tree, 1000, job)
}

fn written_after_close_at(
    tree: &Tree<Closing>,
    entries: u64,
    job: impl FnOnce() -> Result<()>,
) -> u64 {
    let companion = tree.companion();
    let so_far = companion.written.load(Ordering::SeqCst);
    companion.close_at.store(so_far + entries, Ordering::SeqCst);
    let result = job();
    assert!(matches!(result, Err(Error::Closed)), "{result:?}");
    companion.closer.lock().take().unwrap().join().unwrap();
    assert!(tree.health().is_none(), "that is no failure");
    companion.written_after.load(Ordering::SeqCst)
}

#[test]
fn a_compaction_stops_within_a_few_entries_after_close() {
    for (background, parts) in [(Background::Manual, 1), (Background::Threads, 2)] {
        let store = Store::new();
        let tree = open(&store, background);
        for version in 1..=3 {
            fill(&tree, version);
            tree.flush().unwrap();
        }
        let before = store.table_files();
        let more = written_after_close(&tree, || tree.major_compact());
        assert!(more <= parts * LOOK, "{more} entries, {background:?}");
        assert_eq!(store.table_files(), before, "its outputs are gone, its inputs are not");
        drop(tree);
        let tree = open(&store, background);
        tree.verify().unwrap();
        assert_eq!(count(&tree) as u64, 3 * ENTRIES);
    }
}

#[test]
fn a_flush_stops_within_a_few_entries_after_close() {
    for background in [Background::Manual, Background::Threads] {
        let store = Store::new();
        let tree = open(&store, background);
        fill(&tree, 1);
        tree.flush().unwrap();
        let before = store.table_files();
        fill(&tree, 2);
        let more = written_after_close(&tree, || tree.flush());
        assert!(more <= LOOK, "{more} entries, {background:?}");
        assert_eq!(store.table_files(), before);
        let key = 7u64.to_be_bytes();
        let found = tree.pin().get(&key, u64::MAX, key_hash(&key)).unwrap().unwrap().version();
        assert_eq!(found, 2, "what is in memory stays there");
        drop(tree);
        assert_eq!(count(&open(&store, background)) as u64, ENTRIES);
    }
}

#[test]
fn jobs_over_large_entries_stop_within_a_mebibyte_after_close() {
    let payload = vec![0; 64 << 10];
    for compacts in [false, true] {
        let store = Store::new();
        let tree = open(&store, Background::Manual);
        fill_with(&tree, 1, 100, &payload);
        tree.flush().unwrap();
        fill_with(&tree, 2, 100, &payload);
        let more = match compacts {
            true => {
                tree.flush().unwrap();
                written_after_close_at(&tree, 20, || tree.major_compact())
            }
            false => written_after_close_at(&tree, 20, || tree.flush()),
        };
        assert!(more <= 16, "{more} entries, {compacts}");
    }
}

/// A store with two tables of level 0 over the same keys, and a memtable.
fn two_tables(fs: &MemFs) -> (Store, Arc<Tree<NoCompanion>>) {
    let store = Store::over(Arc::new(fs.clone()));
    let tree = store.open(small());
    for version in 1..=3 {
        for k in 0..100u64 {
            tree.write(version, &[(&k.to_be_bytes(), Entry::value(b"v"))]).unwrap();
        }
        match version {
            3 => _ = tree.rotate().unwrap(),
            _ => tree.flush().unwrap(),
        }
    }
    (store, tree)
}

#[test]
fn what_runs_on_a_callers_thread_changes_nothing_once_the_tree_is_closed() {
    for job in [Job::Flush, Job::Compact] {
        let fs = MemFs::new();
        let (store, tree) = two_tables(&fs);
        let before = store.table_files();
        // When everything is written and synced but the manifest: the tree is closed, and the store
        // opened anew, where another table is flushed.
        let (once, closing, next_store) = (AtomicBool::new(false), tree.clone(), store.clone());
        fs.on_operation(move |_, op, path| {
            let written = op == Op::SyncDir && path.ends_with("db");
            if written && !once.swap(true, Ordering::SeqCst) {
                closing.close();
                let next = next_store.open(small());
                next.write(4, &[(b"next", Entry::value(b"v"))]).unwrap();
                next.flush().unwrap();
            }
        });
        let outcome = tree.step(job);
        fs.clear_hook();
        assert!(matches!(outcome, Err(Error::Closed)), "{outcome:?}");
        drop(tree);
        let next = store.open(small());
        assert!(next.get(b"next", 4, 0).unwrap().is_some());
        assert_eq!(count(&next), 201);
        next.verify().unwrap();
        assert_eq!(store.table_files().len(), before.len() + 1, "{job:?}");
    }
}

#[test]
fn a_closed_tree_neither_moves_nor_removes_nor_installs_anything() {
    let fs = MemFs::new();
    let (store, tree) = two_tables(&fs);
    tree.close();
    let before = (store.table_files(), tree.superversion().shape());
    store.fs.open(&store.dir.join("000900.sst"), OpenMode::CreateNew).unwrap();
    let writes: Arc<Mutex<Vec<String>>> = Arc::default();
    let seen = writes.clone();
    fs.on_operation(move |_, op, path| {
        if matches!(op, Op::Write | Op::SyncData | Op::Remove | Op::Rename) {
            seen.lock().push(format!("{op} {}", path.display()));
        }
    });
    let range = RangeDelete { start: Vec::new(), end: None, version: 9 };
    let outcomes: [Result<()>; 8] = [
        tree.step(Job::Flush).map(drop),
        tree.step(Job::Compact).map(drop),
        tree.flush(),
        tree.major_compact(),
        tree.flush_recovered(StoreChange::default()),
        tree.install(StoreChange::default()),
        tree.delete_range(range),
        tree.remove_orphans().map(drop),
    ];
    fs.clear_hook();
    for outcome in &outcomes {
        assert!(matches!(outcome, Err(Error::Closed)), "{outcomes:?}");
    }
    assert!(writes.lock().is_empty(), "{writes:?}");
    assert_eq!(tree.superversion().shape(), before.1);
    assert!(store.table_files().contains(&900) && store.table_files().len() == before.0.len() + 1);
}

#[test]
fn a_table_that_would_only_change_its_level_stays_where_it_is_in_a_closed_tree() {
    let store = Store::new();
    let tree = store.open(small());
    for version in 1..=2u64 {
        let key = version.to_be_bytes();
        tree.write(version, &[(&key, Entry::value(b"v"))]).unwrap();
        tree.flush().unwrap();
    }
    tree.close();
    let before = tree.superversion().table_counts();
    assert!(matches!(tree.step(Job::Compact), Err(Error::Closed)));
    assert_eq!(tree.superversion().table_counts(), before);
}

/// At its rate the compaction would take minutes.
#[test]
fn a_compaction_that_keeps_to_a_rate_is_cancelled_and_hurries_when_writers_are_slowed() {
    for slow in [false, true] {
        let store = Store::new();
        let options = Options {
            background: Background::Threads,
            compaction_rate: 64 << 10,
            l0_compaction_trigger: 4,
            l0_slowdown_trigger: 6,
            l0_stop_trigger: 8,
            memtable_size: 4 << 20,
            base_level_size: 64 << 20,
            ..small()
        };
        let tree = store.open(options);
        let fill = |version: u64| {
            for k in 0..300u64 {
                let version = version * 1000 + k;
                tree.write(version, &[(&k.to_be_bytes(), Entry::value(&[7; 10_000]))]).unwrap();
            }
            tree.flush().unwrap();
        };
        (1..=4).for_each(&fill);
        let until = Instant::now() + Duration::from_secs(30);
        while tree.stats().running == 0 {
            assert!(Instant::now() < until, "no compaction");
            std::thread::sleep(Duration::from_millis(1));
        }
        if slow {
            // Twelve megabytes would be three minutes; writers that would be stopped go on.
            (5..=12).for_each(&fill);
            assert!(tree.stats().compactions > 0);
        } else {
            // As fast as it goes it would be over long before.
            std::thread::sleep(Duration::from_millis(500));
            assert_eq!(tree.stats().compactions, 0);
        }
        tree.close();
    }
}
