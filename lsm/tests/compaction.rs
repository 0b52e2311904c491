//! What a compaction does with whole tables: how it is cut into parts, and where outputs end.

#![allow(clippy::unwrap_used)]

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use common::*;
use kvdb_lsm::*;
use kvdb_manifest::store::{StoreChange, TableRecord};
use parking_lot::{Condvar, Mutex};

/// Records of the tables in the manifest.
fn records(store: &Store, tree: Arc<Tree<NoCompanion>>) -> Vec<TableRecord> {
    drop(tree);
    store.manifest().unwrap().read(|state| state.tables().values().cloned().collect())
}

/// Few keys, of which every one has more versions than a block, or a table, has room for.
fn many_versions(tree: &Tree<NoCompanion>, keys: u64, versions: u64) {
    for version in 1..=versions {
        for key in 0..keys {
            let value = [version as u8; 40];
            tree.write(version, &[(&key.to_be_bytes(), Entry::value(&value))]).unwrap();
        }
    }
    tree.flush().unwrap();
}

#[test]
fn parts_that_run_side_by_side_never_cut_the_versions_of_a_key() {
    for (threads, background) in [(4, Background::Threads), (3, Background::Manual)] {
        let store = Store::new();
        let options = Options {
            compaction_threads: threads,
            min_split_bytes: 1,
            l0_compaction_trigger: 1 << 10,
            l0_slowdown_trigger: 1 << 10,
            l0_stop_trigger: 1 << 11,
            background,
            ..small()
        };
        let tree = store.open(options);
        many_versions(&tree, 9, 1500);
        assert!(tree.superversion().table_counts()[0] > 3);
        tree.major_compact().unwrap();
        tree.verify().unwrap();
        assert_eq!(count(&tree), 9 * 1500, "nobody has allowed to drop anything");
        let tables = records(&store, tree);
        // Fewer than one table for each part would mean that nothing was cut.
        assert!(tables.len() >= threads, "{} tables", tables.len());
        let mut owner: BTreeMap<Vec<u8>, u64> = BTreeMap::new();
        for table in &tables {
            assert!(table.level > 0);
            for key in [&table.smallest_key, &table.largest_key] {
                let former = owner.insert(key.clone(), table.id);
                assert!(former.is_none_or(|id| id == table.id), "two tables have {key:?}");
            }
        }
        let versions: u64 = tables.iter().map(|t| t.entries).sum();
        assert_eq!(versions, 9 * 1500);
    }
}

/// Notes which threads write tables, and has each of them wait at its first entry for the others.
#[derive(Default)]
struct Meeting {
    wanted: AtomicUsize,
    here: Mutex<BTreeSet<String>>,
    comes: Condvar,
}

impl Companion for Meeting {
    type View = ();
    fn pointer(&self, _: &[u8]) -> Option<(u32, u32)> {
        let thread = std::thread::current().name().unwrap_or_default().to_owned();
        let mut here = self.here.lock();
        if here.insert(thread) {
            self.comes.notify_all();
        }
        let until = Instant::now() + Duration::from_secs(20);
        while here.len() < self.wanted.load(Ordering::SeqCst) {
            if self.comes.wait_until(&mut here, until).timed_out() {
                // Nobody waits once more.
                self.wanted.store(0, Ordering::SeqCst);
            }
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

#[test]
fn parts_run_side_by_side_in_the_pool_and_a_job_that_is_too_small_for_parts_does_not() {
    for (min_split_bytes, parts) in [(1, 2), (1 << 40, 0)] {
        let store = Store::new();
        let options = Options {
            memtable_size: 1 << 20,
            min_split_bytes,
            l0_compaction_trigger: 50,
            l0_slowdown_trigger: 50,
            l0_stop_trigger: 60,
            background: Background::Threads,
            ..small()
        };
        let (manifest, meeting) = (store.manifest().unwrap(), Arc::<Meeting>::default());
        let fs = store.fs.clone();
        let tree = Tree::open(fs, &store.dir, manifest, options, meeting.clone(), false).unwrap();
        tree.start().unwrap();
        for version in 1..=2 {
            for key in 0..1000u64 {
                tree.write(version, &[(&key.to_be_bytes(), Entry::pointer(&[7; 100]))]).unwrap();
            }
            tree.flush().unwrap();
        }
        meeting.here.lock().clear();
        meeting.wanted.store(parts, Ordering::SeqCst);
        tree.major_compact().unwrap();
        let pooled: Vec<_> =
            meeting.here.lock().iter().filter(|t| t.starts_with("kvdb-part")).cloned().collect();
        assert_eq!(pooled.len(), parts, "{pooled:?}");
        tree.verify().unwrap();
    }
}

#[test]
fn one_key_is_one_table_however_many_versions_it_has() {
    let store = Store::new();
    let options = Options { compaction_threads: 4, min_split_bytes: 1, ..small() };
    let tree = store.open(options);
    many_versions(&tree, 1, 4000);
    tree.major_compact().unwrap();
    let tables = records(&store, tree);
    assert_eq!(tables.len(), 1);
    assert!(tables[0].size > 4 * small().table_size);
}

#[test]
fn inputs_are_removed_only_after_the_manifest_has_the_outputs() {
    let fs = kvdb_vfs::MemFs::new();
    let store = Store::over(Arc::new(fs.clone()));
    let tree = store.open(small());
    many_versions(&tree, 100, 3);
    many_versions(&tree, 100, 3);
    tree.companion().raise_floor(Floor { discard: 3, clock: 0 });
    let events: Arc<parking_lot::Mutex<Vec<String>>> = Arc::default();
    let seen = events.clone();
    fs.on_operation(move |_, op, path| {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        seen.lock().push(format!("{op} {name}"));
    });
    tree.major_compact().unwrap();
    tree.wait_idle().unwrap();
    fs.clear_hook();
    let events = events.lock();
    let installed = events.iter().position(|e| e == "sync MANIFEST" || e == "sync data MANIFEST");
    let removed = events.iter().position(|e| e.starts_with("remove") && e.ends_with(".sst"));
    let installed = installed.unwrap_or_else(|| panic!("{events:?}"));
    let removed = removed.unwrap_or_else(|| panic!("{events:?}"));
    assert!(installed < removed, "{events:?}");
}

#[test]
fn every_output_is_durable_before_the_manifest_names_it() {
    let fs = kvdb_vfs::MemFs::new();
    let store = Store::over(Arc::new(fs.clone()));
    let tree = store.open(small());
    // Two runs over the same keys, so that they are merged, into many tables.
    many_versions(&tree, 2000, 1);
    tree.major_compact().unwrap();
    for key in 0..2000u64 {
        tree.write(2, &[(&key.to_be_bytes(), Entry::value(&[2; 40]))]).unwrap();
    }
    tree.flush().unwrap();
    tree.major_compact().unwrap();
    let tables: usize = tree.superversion().table_counts().iter().sum();
    assert!(tables > 5 && tree.stats().compactions > 0, "{tables} tables");
    let image = fs.crash_image(&mut kvdb_vfs::Keep::None);
    let after = Store { fs: Arc::new(image), dir: store.dir.clone() }.open(small());
    after.verify().unwrap();
    assert_eq!(after.superversion().table_counts(), tree.superversion().table_counts());
    assert_eq!(count(&after), 4000);
}

#[test]
fn a_compaction_whose_inputs_have_left_the_tree_installs_nothing() {
    use std::sync::atomic::{AtomicBool, Ordering};

    let fs = kvdb_vfs::MemFs::new();
    let store = Store::over(Arc::new(fs.clone()));
    let tree = store.open(small());
    many_versions(&tree, 100, 1);
    for key in 0..100u64 {
        tree.write(2, &[(&key.to_be_bytes(), Entry::value(b"new"))]).unwrap();
    }
    tree.flush().unwrap();
    // When the outputs are written, everything is dropped.
    let (once, dropping) = (AtomicBool::new(false), tree.clone());
    fs.on_operation(move |_, op, path| {
        let created = op == kvdb_vfs::Op::SyncDir && path.ends_with("db");
        if created && !once.swap(true, Ordering::SeqCst) {
            let change = kvdb_manifest::store::StoreChange { reset: true, ..Default::default() };
            dropping.install(change).unwrap();
        }
    });
    tree.step(Job::Compact).unwrap();
    fs.clear_hook();
    assert_eq!(count(&tree), 0, "what was dropped stays dropped");
    assert_eq!(tree.stats().compactions, 0);
    tree.wait_idle().unwrap();
    assert!(store.table_files().is_empty(), "{:?}", store.table_files());
}

#[test]
fn a_flush_whose_memtable_was_dropped_meanwhile_installs_nothing() {
    use std::sync::atomic::{AtomicBool, Ordering};

    let fs = kvdb_vfs::MemFs::new();
    let store = Store::over(Arc::new(fs.clone()));
    let tree = store.open(small());
    tree.write(1, &[(b"k", Entry::value(b"v"))]).unwrap();
    tree.rotate().unwrap();
    let (once, dropping) = (AtomicBool::new(false), tree.clone());
    fs.on_operation(move |_, op, path| {
        let written = op == kvdb_vfs::Op::SyncDir && path.ends_with("db");
        if written && !once.swap(true, Ordering::SeqCst) {
            let change = kvdb_manifest::store::StoreChange { reset: true, ..Default::default() };
            dropping.install(change).unwrap();
        }
    });
    tree.step(Job::Flush).unwrap();
    fs.clear_hook();
    assert_eq!((count(&tree), tree.stats().flushes), (0, 0), "what was dropped stays dropped");
    assert!(store.table_files().is_empty(), "{:?}", store.table_files());
}

/// One version of so many keys.
fn one_version(tree: &Tree<NoCompanion>, keys: u64, version: u64) {
    for key in 0..keys {
        tree.write(version, &[(&key.to_be_bytes(), Entry::value(&[version as u8; 40]))]).unwrap();
    }
}

fn levels_in_use(tree: &Tree<NoCompanion>) -> usize {
    tree.superversion().table_counts().iter().filter(|&&tables| tables > 0).count()
}

#[test]
fn a_major_compaction_leaves_one_level_whatever_ran_when_it_began() {
    use std::sync::Barrier;
    use std::sync::atomic::{AtomicBool, Ordering};

    let fs = kvdb_vfs::MemFs::new();
    let store = Store::over(Arc::new(fs.clone()));
    let tree = store.open(small());
    for version in 1..=2 {
        one_version(&tree, 1000, version);
        tree.flush().unwrap();
    }
    // Level 0 is on its way to the last level, where nothing is yet, and comes no further.
    let (once, gate) = (AtomicBool::new(false), Arc::new(Barrier::new(2)));
    let waiting = gate.clone();
    fs.on_operation(move |_, op, path| {
        let written = op == kvdb_vfs::Op::SyncDir && path.ends_with("db");
        if written && !once.swap(true, Ordering::SeqCst) {
            waiting.wait();
            waiting.wait();
        }
    });
    std::thread::scope(|s| {
        s.spawn(|| tree.step(Job::Compact).unwrap());
        gate.wait();
        one_version(&tree, 1000, 3);
        let flushes = tree.stats().flushes;
        let compacting = s.spawn(|| tree.major_compact().unwrap());
        while tree.stats().flushes == flushes {
            std::thread::yield_now();
        }
        // Time to look at the levels; too little of it can only hide that they have changed since.
        std::thread::sleep(std::time::Duration::from_millis(50));
        assert!(!compacting.is_finished(), "it waits for level 0");
        gate.wait();
    });
    assert_eq!(levels_in_use(&tree), 1, "{}", tree.superversion().shape());
    assert_eq!(count(&tree), 3000);
}

#[test]
fn a_major_compaction_ends_although_others_go_on_writing() {
    use std::sync::atomic::{AtomicU64, Ordering};

    let fs = kvdb_vfs::MemFs::new();
    let store = Store::over(Arc::new(fs.clone()));
    let tree = store.open(small());
    one_version(&tree, 1000, 1);
    tree.flush().unwrap();
    one_version(&tree, 1000, 2);
    tree.flush().unwrap();
    // With every compaction another version comes in, down to level 0.
    let (version, writing) = (Arc::new(AtomicU64::new(2)), tree.clone());
    let newest = version.clone();
    let busy = std::sync::atomic::AtomicBool::new(false);
    fs.on_operation(move |_, op, path| {
        let written = op == kvdb_vfs::Op::SyncDir && path.ends_with("db");
        if written && newest.load(Ordering::SeqCst) < 50 && !busy.swap(true, Ordering::SeqCst) {
            one_version(&writing, 1000, newest.fetch_add(1, Ordering::SeqCst) + 1);
            writing.flush().unwrap();
            busy.store(false, Ordering::SeqCst);
        }
    });
    tree.major_compact().unwrap();
    fs.clear_hook();
    let newest = version.load(Ordering::SeqCst);
    assert!((3..10).contains(&newest), "{newest} versions");
    assert_eq!(count(&tree) as u64, 1000 * newest);
    tree.verify().unwrap();
}

/// Its clock says one thing to those who look and another to those who compact, again and again.
#[derive(Default)]
struct Swinging {
    looks: parking_lot::Mutex<Vec<u64>>,
    held: parking_lot::Mutex<Vec<u64>>,
}

impl Swinging {
    /// Goes round in the list.
    fn next(clocks: &parking_lot::Mutex<Vec<u64>>) -> Floor {
        let mut clocks = clocks.lock();
        let clock = clocks.first().copied().unwrap_or(0);
        if !clocks.is_empty() {
            clocks.rotate_left(1);
        }
        Floor { discard: 100, clock }
    }
}

impl Companion for Swinging {
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
    fn view(&self) -> Arc<()> {
        Arc::default()
    }
    fn floor(&self) -> Floor {
        Swinging::next(&self.looks)
    }
    fn hold_floor(&self) -> Floor {
        Swinging::next(&self.held)
    }
}

#[test]
fn a_major_compaction_ends_however_the_clock_swings_and_drops_what_every_clock_permits() {
    let swings: [(&[u64], &[u64]); 4] =
        [(&[150], &[50]), (&[150, 60, 150], &[50, 150]), (&[60, 150], &[150, 50]), (&[50], &[150])];
    for (looks, held) in swings {
        let store = Store::new();
        let companion = Arc::<Swinging>::default();
        let manifest = store.manifest().unwrap();
        let tree =
            Tree::open(store.fs.clone(), &store.dir, manifest, small(), companion.clone(), false)
                .unwrap();
        tree.start().unwrap();
        // One in two expires at 40, one in four at 100.
        for k in 0..4000u64 {
            let expiry = [40, 100, 40, 0][k as usize % 4];
            let entry = Entry::value(&[7; 60]).with_expiry(expiry);
            tree.write(1, &[(&k.to_be_bytes(), entry)]).unwrap();
        }
        tree.major_compact().unwrap();
        let tables: usize = tree.superversion().table_counts().iter().sum();
        let compactions = tree.stats().compactions;
        assert!(tables > 10 && count(&tree) == 4000, "{tables} tables");
        *companion.looks.lock() = looks.to_vec();
        *companion.held.lock() = held.to_vec();
        // Were it to go on for ever, the clock stands still in the end.
        let (watched, stopper) = (tree.clone(), companion.clone());
        let ended = Arc::new(std::sync::atomic::AtomicBool::new(false));
        let end = ended.clone();
        let watcher = std::thread::spawn(move || {
            while !end.load(std::sync::atomic::Ordering::SeqCst) {
                if watched.stats().compactions > compactions + 10 * tables as u64 {
                    stopper.held.lock().clear();
                    stopper.looks.lock().clear();
                }
                std::thread::yield_now();
            }
        });
        tree.major_compact().unwrap();
        ended.store(true, std::sync::atomic::Ordering::SeqCst);
        watcher.join().unwrap();
        let rewritten = tree.stats().compactions - compactions;
        assert!(rewritten <= tables as u64, "{rewritten} of {tables} tables, {looks:?} {held:?}");
        assert!(count(&tree) <= 2000, "{} left, {looks:?} {held:?}", count(&tree));
        tree.verify().unwrap();
    }
}
