//! The real thing: background threads, writers and readers at once.

#![allow(clippy::unwrap_used)]

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use common::*;
use kvdb_lsm::*;
use kvdb_vfs::{Fault, FaultFs, FaultPlan, MemFs, Op};

fn threaded() -> Options {
    Options { background: Background::Threads, idle_after_ms: 50, ..small() }
}

/// A writer that writes the same version under all keys; readers that must find one version under
/// all keys, whichever way they look.
fn readers_and_a_writer(store: &Store, rounds: u64) {
    const KEYS: u64 = 64;
    let tree = store.open(threaded());
    let newest = AtomicU64::new(0);
    let done = AtomicBool::new(false);
    std::thread::scope(|s| {
        for reader in 0..2 {
            let (tree, newest, done) = (&tree, &newest, &done);
            s.spawn(move || {
                let mut reads = 0u64;
                while !done.load(Ordering::SeqCst) || reads < 10 {
                    reads += 1;
                    let at = newest.load(Ordering::SeqCst);
                    if at == 0 {
                        continue;
                    }
                    if reader == 0 {
                        let pinned = tree.pin();
                        // As any reader: not below what was dropped.
                        if pinned.watermark() > at {
                            continue;
                        }
                        for k in 0..KEYS {
                            let key = k.to_be_bytes();
                            let found = pinned.get(&key, at, key_hash(&key)).unwrap().unwrap();
                            assert_eq!(found.version(), at);
                        }
                    } else {
                        let superversion = tree.superversion();
                        if superversion.watermark() > at {
                            continue;
                        }
                        let options = VisibleOptions { at_most: at, ..VisibleOptions::default() };
                        let mut cursor = Visible::new(superversion.cursor(), options);
                        let forward = reads.is_multiple_of(2);
                        let mut n = 0;
                        let mut valid =
                            if forward { cursor.first() } else { cursor.last() }.unwrap();
                        while valid {
                            assert_eq!(cursor.version(), at);
                            n += 1;
                            valid = if forward { cursor.next() } else { cursor.prev() }.unwrap();
                        }
                        assert_eq!(n, KEYS);
                    }
                }
            });
        }
        for version in 1..=rounds {
            let keys: Vec<_> = (0..KEYS).map(u64::to_be_bytes).collect();
            let value = [version as u8; 100];
            let entries: Vec<_> =
                keys.iter().map(|k| (k.as_slice(), Entry::value(&value))).collect();
            tree.write(version, &entries).unwrap();
            newest.store(version, Ordering::SeqCst);
            if version % 10 == 0 {
                tree.companion().raise_floor(Floor { discard: version - 5, clock: 0 });
            }
        }
        done.store(true, Ordering::SeqCst);
    });
    tree.flush().unwrap();
    tree.companion().raise_floor(Floor { discard: rounds, clock: 0 });
    tree.wait_idle().unwrap();
    tree.verify().unwrap();
    let stats = tree.stats();
    assert!(stats.flushes > 10 && stats.compactions > 3, "{stats:?}");
    assert_eq!(stats.failed_jobs, 0);
    let tables: usize = stats.levels.iter().map(|l| l.tables).sum();
    assert_eq!(store.table_files().len(), tables);
    tree.close();
}

#[test]
fn readers_see_one_version_while_all_is_rewritten_under_them() {
    readers_and_a_writer(&Store::new(), 1500);
}

#[test]
fn the_same_on_the_operating_systems_files() {
    let (_dir, store) = in_directory();
    readers_and_a_writer(&store, 300);
    let tree = store.open(threaded());
    tree.companion().raise_floor(Floor { discard: 300, clock: 0 });
    tree.major_compact().unwrap();
    assert_eq!(count(&tree), 64);
}

#[test]
fn many_writers_through_flush_compaction_and_stalls() {
    let store = Store::new();
    let options =
        Options { max_memtables: 2, l0_slowdown_trigger: 3, l0_stop_trigger: 4, ..threaded() };
    let tree = store.open(options);
    let order = parking_lot::Mutex::new(0u64);
    std::thread::scope(|s| {
        for t in 0..4u64 {
            let (tree, order) = (&tree, &order);
            s.spawn(move || {
                for i in 0..400u64 {
                    let key = (t << 32 | i).to_be_bytes();
                    let value = [t as u8; 200];
                    let entry = Entry::value(&value);
                    let mut r = tree.admit(Tree::<NoCompanion>::entry_bound(8, &entry)).unwrap();
                    // What a log's leader does: a place in the order, and a memtable with it.
                    let version = {
                        let mut order = order.lock();
                        tree.route(&mut r, *order * 8, *order * 8 + 8);
                        *order += 1;
                        *order
                    };
                    tree.insert(&r, &key, version, entry).unwrap();
                }
            });
        }
    });
    tree.flush().unwrap();
    tree.wait_idle().unwrap();
    assert_eq!(count(&tree), 1600);
    tree.verify().unwrap();
}

#[test]
fn closing_cancels_a_long_compaction() {
    let store = Store::new();
    let tree = store.open(Options {
        l0_compaction_trigger: 50,
        l0_slowdown_trigger: 50,
        l0_stop_trigger: 60,
        ..threaded()
    });
    for version in 1..=40 {
        for k in 0..100u64 {
            tree.write(version, &[(&k.to_be_bytes(), Entry::value(&[0; 300]))]).unwrap();
        }
    }
    tree.flush().unwrap();
    std::thread::scope(|s| {
        let compaction = s.spawn(|| tree.major_compact());
        tree.close();
        // Done already, or told to stop; never stuck.
        assert!(matches!(compaction.join().unwrap(), Ok(()) | Err(Error::Closed)));
    });
    assert!(matches!(tree.admit(1), Err(Error::Closed)));
    assert!(matches!(tree.flush(), Ok(()) | Err(Error::Closed)));
    assert_eq!(tree.get(&7u64.to_be_bytes(), u64::MAX, 0).unwrap().unwrap(), [0; 300]);
    drop(tree);
    store.open(threaded()).verify().unwrap();
}

#[test]
fn a_failing_disk_stops_writers_with_the_error_and_readers_go_on() {
    let fs = FaultFs::new(Arc::new(MemFs::new()));
    let store = Store::over(Arc::new(fs.clone()));
    let tree = store.open(threaded());
    fs.arm(FaultPlan::new(Fault::Io).on(&[Op::Write, Op::SyncData]).path(".sst").forever());
    let error =
        (1..).find_map(|v| tree.write(v, &[(b"k", Entry::value(&[0; 1000]))]).err()).unwrap();
    assert!(matches!(&error, Error::Background { job: "flush", .. }), "{error}");
    assert!(tree.flush().is_err() && tree.wait_idle().is_err());
    assert!(tree.get(b"k", u64::MAX, 0).unwrap().is_some());
    tree.close();
}

#[test]
fn a_full_disk_is_waited_out() {
    let fs = FaultFs::new(Arc::new(MemFs::new()));
    let store = Store::over(Arc::new(fs.clone()));
    let tree = store.open(threaded());
    fs.arm(FaultPlan::new(Fault::NoSpace).on(&[Op::Write]).path(".sst").forever());
    tree.write(1, &[(b"k", Entry::value(b"v"))]).unwrap();
    assert!(tree.flush().unwrap_err().is_transient());
    tree.write(2, &[(b"k", Entry::value(b"w"))]).unwrap();
    fs.disarm();
    let deadline = Instant::now() + Duration::from_secs(30);
    while tree.health().is_some() {
        assert!(Instant::now() < deadline);
        std::thread::sleep(Duration::from_millis(20));
    }
    tree.flush().unwrap();
    drop(tree);
    assert_eq!(store.open(threaded()).get(b"k", 2, 0).unwrap().unwrap(), b"w");
}

/// A companion that panics when it is asked what a pointer refers to.
struct Panicking;

impl Companion for Panicking {
    type View = ();
    fn pointer(&self, _: &[u8]) -> Option<(u32, u32)> {
        panic!("no such pointer")
    }
    fn before_install(
        &self,
        _: &mut kvdb_manifest::store::StoreChange,
        _: u64,
    ) -> Result<(), BoxError> {
        Ok(())
    }
    fn view(&self) -> Arc<()> {
        Arc::new(())
    }
    fn floor(&self) -> Floor {
        Floor::default()
    }
}

#[test]
fn a_panic_in_a_job_is_reported_and_hangs_nobody() {
    let store = Store::new();
    let manifest = store.manifest().unwrap();
    let tree =
        Tree::open(store.fs.clone(), &store.dir, manifest, threaded(), Arc::new(Panicking), false)
            .unwrap();
    tree.start().unwrap();
    tree.write(1, &[(b"k", Entry::pointer(b"p"))]).unwrap();
    let error = tree.flush().unwrap_err().to_string();
    assert!(error.contains("no such pointer"), "{error}");
    assert_eq!(tree.health().unwrap().to_string(), error);
    assert!(tree.write(2, &[(b"k", Entry::tombstone())]).is_err());
    assert!(store.table_files().is_empty(), "no output is left");
    tree.close();
}

#[test]
fn tables_are_closed_and_opened_under_readers_while_all_is_rewritten() {
    let store = Store::new();
    let options = Options {
        reads: Reads::Positioned { block_cache_bytes: 64 << 10 },
        bits_per_key: 64,
        table_size: 128 << 10,
        memtable_size: 1 << 20,
        background: Background::Threads,
        ..small()
    };
    let tree = store.open(options);
    let n = 200_000u64;
    for k in 0..n {
        tree.write(k + 1, &[(&k.to_be_bytes(), Entry::value(b""))]).unwrap();
    }
    let done = AtomicBool::new(false);
    let over = AtomicBool::new(false);
    std::thread::scope(|s| {
        for seed in 0..2 {
            let (tree, done, over) = (&tree, &done, &over);
            s.spawn(move || {
                let mut rng = fastrand::Rng::with_seed(seed);
                while !done.load(Ordering::Relaxed) {
                    // What is held is older than what is read beside it.
                    let held = tree.superversion();
                    let mut cursor = held.cursor();
                    for _ in 0..200 {
                        let key = rng.u64(..n).to_be_bytes();
                        assert!(tree.get(&key, u64::MAX, 0).unwrap().is_some());
                        assert!(held.get(&key, u64::MAX, key_hash(&key)).unwrap().is_some());
                        assert!(cursor.seek(&key, u64::MAX).unwrap() && cursor.key() == key);
                    }
                    if tree.stats().index_bytes > 1 << 20 {
                        over.store(true, Ordering::Relaxed);
                    }
                }
            });
        }
        let mut version = n;
        for round in 0..4 {
            for k in (round..n).step_by(4) {
                version += 1;
                tree.write(version, &[(&k.to_be_bytes(), Entry::value(b"new"))]).unwrap();
            }
            tree.companion().raise_floor(Floor { discard: version, clock: 0 });
            tree.major_compact().unwrap();
        }
        done.store(true, Ordering::Relaxed);
    });
    assert!(over.load(Ordering::Relaxed), "memory was never short");
    tree.wait_idle().unwrap();
    assert_eq!(count(&tree) as u64, n);
    tree.verify().unwrap();
    tree.wait_idle().unwrap();
    let tables: usize = tree.superversion().table_counts().iter().sum();
    assert_eq!(store.table_files().len(), tables);
}

/// A companion that panics when it hears that a change is installed.
#[derive(Default)]
struct Fragile {
    panics: AtomicBool,
}

impl Companion for Fragile {
    type View = ();
    fn pointer(&self, _: &[u8]) -> Option<(u32, u32)> {
        None
    }
    fn before_install(
        &self,
        _: &mut kvdb_manifest::store::StoreChange,
        _: u64,
    ) -> Result<(), BoxError> {
        Ok(())
    }
    fn installed(&self, _: &kvdb_manifest::store::StoreChange) {
        assert!(!self.panics.load(Ordering::Relaxed), "a fragile companion");
    }
    fn view(&self) -> Arc<()> {
        Arc::default()
    }
    fn floor(&self) -> Floor {
        Floor { discard: 7, clock: 0 }
    }
}

#[test]
fn a_panic_behind_the_manifest_removes_no_table_that_it_names() {
    for background in [Background::Manual, Background::Threads] {
        let store = Store::new();
        let tree = store.open(small());
        for version in 1..=7 {
            tree.write(version, &[(b"k", Entry::value(&version.to_be_bytes()))]).unwrap();
            tree.flush().unwrap();
        }
        drop(tree);
        let companion = Arc::new(Fragile::default());
        let manifest = store.manifest().unwrap();
        let options = Options { background, ..small() };
        let (fs, dir) = (store.fs.clone(), store.dir.clone());
        let tree = Tree::open(fs, &dir, manifest, options, companion.clone(), false).unwrap();
        companion.panics.store(true, Ordering::Relaxed);
        tree.start().unwrap();
        let error = match background {
            Background::Manual => tree.step(Job::Compact).unwrap_err(),
            _ => tree.wait_idle().unwrap_err(), // by the installing thread
        };
        assert!(error.to_string().contains("a fragile companion"), "{error}");
        drop(tree);
        let tree = store.open(small());
        assert_eq!(tree.get(b"k", u64::MAX, 0).unwrap().unwrap(), 7u64.to_be_bytes());
        tree.verify().unwrap();
        let tables: usize = tree.superversion().table_counts().iter().sum();
        assert_eq!(store.table_files().len(), tables);
    }
}

/// Nobody writes, nobody waits: what can go goes all the same, by the tree's own threads.
#[test]
fn an_idle_tree_drops_what_can_go_by_itself() {
    let store = Store::new();
    let tree = store.open(Options { idle_after_ms: 20, ..threaded() });
    for k in 0..500u64 {
        tree.write(1, &[(&k.to_be_bytes(), Entry::value(b"old"))]).unwrap();
    }
    tree.flush().unwrap();
    for k in 0..500u64 {
        let entry = match k % 2 {
            0 => Entry::tombstone(),
            _ => Entry::value(b"new").with_expiry(50),
        };
        tree.write(2, &[(&k.to_be_bytes(), entry)]).unwrap();
    }
    tree.flush().unwrap();
    tree.companion().raise_floor(Floor { discard: 2, clock: 50 });
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(30);
    while tree.superversion().table_counts().iter().sum::<usize>() > 0 {
        assert!(std::time::Instant::now() < deadline, "{}", tree.superversion().shape());
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    assert!(tree.health().is_none());
}

#[test]
fn sealing_on_demand_makes_no_more_memtables_than_there_may_be() {
    let store = Store::new();
    let tree = store.open(Options { max_memtables: 3, ..threaded() });
    // The first memtable cannot be flushed: a frame in it is not applied yet.
    let mut first = tree.admit(100).unwrap();
    tree.route(&mut first, 0, 0);
    for version in 1..=20 {
        tree.write(version, &[(b"k", Entry::value(b"v"))]).unwrap();
        assert_eq!(tree.rotate().unwrap(), version <= 2, "whether it has sealed one");
    }
    assert_eq!(tree.stats().sealed_memtables, 2);
    drop(first);
    tree.flush().unwrap();
    tree.write(21, &[(b"k", Entry::value(b"v"))]).unwrap();
    assert!(tree.rotate().unwrap());
    tree.wait_idle().unwrap();
    assert_eq!(tree.unflushed_from(), None, "it is sealed again once there is room");
}
