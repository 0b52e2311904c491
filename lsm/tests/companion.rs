//! The tree with a log beside it: order of a flush, replay head, pointer sums, recovery.

#![allow(clippy::unwrap_used)]

mod common;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use common::*;
use kvdb_lsm::*;
use kvdb_manifest::store::{LogPosition, PointerSum, SegmentNamed, StoreChange, StoreState};
use kvdb_vfs::{MemFs, Op};
use parking_lot::Mutex;

/// A log of which only the pointers exist: a payload is `segment, length`, a byte each.
#[derive(Default)]
struct Log {
    events: Arc<Mutex<Vec<String>>>,
    floor: Mutex<Floor>,
    poisoned: Mutex<bool>,
    views: Mutex<u64>,
}

impl Companion for Log {
    type View = u64;

    fn pointer(&self, payload: &[u8]) -> Option<(u32, u32)> {
        Some((payload[0].into(), payload[1].into()))
    }

    fn before_install(&self, change: &mut StoreChange, log_end: u64) -> Result<(), BoxError> {
        self.events.lock().push(format!("log synced to {log_end}"));
        if *self.poisoned.lock() {
            return Err("the log is poisoned".into());
        }
        change.features_added.clear();
        Ok(())
    }

    fn installed(&self, _change: &StoreChange) {
        *self.views.lock() += 1;
    }

    fn view(&self) -> Arc<u64> {
        Arc::new(*self.views.lock())
    }

    fn floor(&self) -> Floor {
        *self.floor.lock()
    }
}

fn open(store: &Store, log: Log) -> Arc<Tree<Log>> {
    let manifest = store.manifest().unwrap();
    Tree::open(store.fs.clone(), &store.dir, manifest, small(), Arc::new(log), false).unwrap()
}

fn name_segments(tree: &Tree<Log>, ids: std::ops::Range<u32>) {
    let named = ids.map(|segment| SegmentNamed {
        segment,
        file: tree.file_ids().next(),
        ..SegmentNamed::default()
    });
    let change = StoreChange { segments_named: named.collect(), ..StoreChange::default() };
    tree.install(change).unwrap();
}

fn write(tree: &Tree<Log>, version: u64, key: &[u8], entry: Entry<'_>, at: (u64, u64)) {
    let mut r = tree.admit(Tree::<Log>::entry_bound(key.len(), &entry)).unwrap();
    tree.route(&mut r, at.0, at.1);
    tree.insert(&r, key, version, entry).unwrap();
}

fn state(store: &Store) -> StoreState {
    store.manifest().unwrap().read(Clone::clone)
}

#[test]
fn a_flush_syncs_log_table_directory_and_manifest_in_this_order() {
    let fs = MemFs::new();
    let store = Store::over(Arc::new(fs.clone()));
    let log = Log::default();
    let events = log.events.clone();
    let tree = open(&store, log);
    write(&tree, 1, b"k", Entry::value(b"v"), (1 << 32 | 64, 1 << 32 | 128));
    let seen = events.clone();
    fs.on_operation(move |_, op: Op, path: &Path| {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        seen.lock().push(format!("{op} {name}"));
    });
    tree.flush().unwrap();
    fs.clear_hook();
    let events = events.lock();
    let at = |what: &str| events.iter().position(|e| e.starts_with(what)).expect(what);
    let order = [
        at(&format!("log synced to {}", 1u64 << 32 | 128)),
        at("sync 0"),
        at("sync directory"),
        at("write MANIFEST"),
        at("sync MANIFEST"),
    ];
    assert!(order.is_sorted(), "{events:?}");
    assert_eq!(state(&store).replay_head(), Some(LogPosition { segment: 1, offset: 128 }));
    assert_eq!(state(&store).largest_version(), 1);
}

#[test]
fn a_poisoned_log_lets_no_flush_through() {
    let store = Store::new();
    let tree = open(&store, Log::default());
    write(&tree, 1, b"k", Entry::value(b"v"), (0, 8));
    *tree.companion().poisoned.lock() = true;
    assert!(matches!(tree.flush(), Err(Error::Companion(_))));
    assert!(store.table_files().is_empty());
    assert_eq!(tree.superversion().table_counts()[0], 0);
}

#[test]
fn the_replay_head_waits_for_the_oldest_unflushed_frame() {
    let store = Store::new();
    let tree = open(&store, Log::default());
    write(&tree, 1, b"a", Entry::value(b""), (100, 200));
    tree.rotate().unwrap();
    // A frame of the second memtable that is not applied yet.
    let mut open_frame = tree.admit(1000).unwrap();
    tree.route(&mut open_frame, 200, 300);
    write(&tree, 3, b"c", Entry::value(b""), (300, 400));
    assert!(tree.step(Job::Flush).unwrap());
    assert_eq!(state(&store).replay_head().unwrap().offset, 200);
    tree.rotate().unwrap();
    assert!(!tree.step(Job::Flush).unwrap(), "not while a frame is being applied");
    tree.insert(&open_frame, b"b", 2, Entry::value(b"")).unwrap();
    drop(open_frame);
    assert!(tree.step(Job::Flush).unwrap());
    assert_eq!(state(&store).replay_head().unwrap().offset, 400);
    assert_eq!(count(&tree), 3);
}

/// What the tables really refer to.
fn recount(tree: &Tree<Log>) -> BTreeMap<u32, (u64, u64)> {
    let mut sums = BTreeMap::new();
    let mut cursor = tree.superversion().cursor();
    let mut valid = cursor.first().unwrap();
    while valid {
        let entry = Entry::decode(cursor.value()).unwrap();
        if entry.kind.is_pointer() {
            let sum: &mut (u64, u64) = sums.entry(entry.payload[0].into()).or_default();
            sum.0 += 1;
            sum.1 += u64::from(entry.payload[1]);
        }
        valid = cursor.next().unwrap();
    }
    sums
}

#[test]
fn live_bytes_of_a_segment_are_what_the_tables_refer_to() {
    let store = Store::new();
    let mut tree = open(&store, Log::default());
    name_segments(&tree, 1..6);
    let mut rng = fastrand::Rng::with_seed(3);
    for version in 1..=3000u64 {
        let key = [rng.u8(..60)];
        let payload = [rng.u8(1..6), rng.u8(..)];
        let entry = match rng.u8(..6) {
            0 => Entry::tombstone(),
            1 => Entry::value(b"inline"),
            2 => Entry::new(Kind::MergePointer, &payload),
            3 => Entry::pointer(&payload).with_expiry(rng.u64(1..3000)),
            _ => Entry::pointer(&payload),
        };
        write(&tree, version, &key, entry, (version * 8, version * 8 + 8));
        if rng.u8(..30) == 0 {
            *tree.companion().floor.lock() = Floor { discard: version - 1, clock: version - 1 };
            tree.flush().unwrap();
            while rng.bool() && tree.step(Job::Compact).unwrap() {}
            let live: BTreeMap<_, _> = state(&store)
                .live_bytes()
                .into_iter()
                .map(|(segment, PointerSum { count, bytes, .. })| (segment, (count, bytes)))
                .collect();
            assert_eq!(live, recount(&tree));
        }
        if rng.u8(..200) == 0 {
            tree.flush().unwrap();
            drop(tree);
            tree = open(&store, Log::default());
        }
    }
    // Overwritten pointers go without further writes, whatever the levels' sizes are.
    tree.flush().unwrap();
    *tree.companion().floor.lock() = Floor { discard: 3000, clock: 3000 };
    tree.major_compact().unwrap();
    tree.wait_idle().unwrap();
    let pointers: u64 = recount(&tree).values().map(|(n, _)| n).sum();
    let keys = count(&tree) as u64;
    assert!(keys <= 60 * 5 && pointers <= keys);
}

#[test]
fn recovery_installs_all_memtables_and_the_callers_change_at_once() {
    let store = Store::new();
    let tree = open(&store, Log::default());
    let before = state(&store);
    // More than all memtables together hold: replay does not wait.
    for version in 1..=3000u64 {
        let entry = Entry::value(&[7; 200]);
        let key = version.to_be_bytes();
        let mut r = tree.admit_replay(Tree::<Log>::entry_bound(8, &entry)).unwrap();
        tree.route(&mut r, version * 100, version * 100 + 100);
        tree.insert(&r, &key, version, entry).unwrap();
    }
    assert_eq!(state(&store), before, "nothing yet");
    let named = SegmentNamed { segment: 9, file: 900, ..SegmentNamed::default() };
    let head = LogPosition { segment: 9, offset: 0 };
    let change = StoreChange {
        segments_named: vec![named],
        replay_head: Some(head),
        ..StoreChange::default()
    };
    tree.flush_recovered(change).unwrap();
    let after = state(&store);
    assert!(after.tables().len() > 5);
    assert_eq!((after.replay_head(), after.largest_version()), (Some(head), 3000));
    assert!(after.segments().contains_key(&9));
    assert_eq!(*tree.companion().views.lock(), 1, "one change set");
    assert_eq!(**tree.superversion().view(), 1, "and the view that belongs to it");
    tree.start().unwrap();
    tree.wait_idle().unwrap();
    assert_eq!(count(&tree), 3000);
}

#[test]
fn recovery_with_nothing_to_replay_still_installs_the_change() {
    let store = Store::new();
    let tree = open(&store, Log::default());
    let change = StoreChange { largest_version: Some(77), ..StoreChange::default() };
    tree.flush_recovered(change).unwrap();
    assert_eq!(state(&store).largest_version(), 77);
}

#[test]
fn a_reset_empties_tables_and_memtables() {
    let store = Store::new();
    let tree = open(&store, Log::default());
    write(&tree, 1, b"a", Entry::value(b""), (0, 8));
    tree.flush().unwrap();
    write(&tree, 2, b"b", Entry::value(b""), (8, 16));
    let old = tree.superversion();
    tree.install(StoreChange { reset: true, ..StoreChange::default() }).unwrap();
    assert_eq!(count(&tree), 0);
    assert!(old.get(b"b", 9, key_hash(b"b")).unwrap().is_some(), "readers keep what they had");
    drop(old);
    write(&tree, 3, b"c", Entry::value(b""), (16, 24));
    tree.flush().unwrap();
    tree.wait_idle().unwrap();
    assert_eq!((count(&tree), store.table_files().len()), (1, 1));
}

#[test]
fn a_read_only_tree_reads_and_replays_and_writes_nothing() {
    let store = Store::new();
    let tree = open(&store, Log::default());
    write(&tree, 1, b"a", Entry::value(b"x"), (0, 8));
    tree.flush().unwrap();
    drop(tree);
    let manifest = store.manifest().unwrap();
    let log = Arc::new(Log::default());
    let tree = Tree::open(store.fs.clone(), &store.dir, manifest, small(), log, true).unwrap();
    tree.start().unwrap();
    assert!(matches!(tree.admit(10), Err(Error::ReadOnly)));
    assert!(matches!(tree.flush(), Err(Error::ReadOnly)));
    assert!(matches!(tree.remove_orphans(), Err(Error::ReadOnly)));
    assert!(matches!(tree.install(StoreChange::default()), Err(Error::ReadOnly)));
    let mut r = tree.admit_replay(1000).unwrap();
    tree.route(&mut r, 8, 16);
    tree.insert(&r, b"b", 2, Entry::value(b"y")).unwrap();
    assert_eq!(tree.get(b"b", 2, 0).unwrap().unwrap(), b"y");
    assert_eq!(tree.get(b"a", 2, 0).unwrap().unwrap(), b"x");
}

#[test]
fn superseded_pointers_go_without_further_writes() {
    let store = Store::new();
    let tree = open(&store, Log::default());
    name_segments(&tree, 1..3);
    for (segment, version) in [(1, 1), (2, 2)] {
        for key in 0..200u8 {
            write(&tree, version, &[key], Entry::pointer(&[segment, 250]), (8, 16));
        }
        tree.flush().unwrap();
        if version == 1 {
            tree.major_compact().unwrap();
        }
    }
    tree.wait_idle().unwrap();
    assert_eq!(recount(&tree).len(), 2, "a reader may still want the old ones");
    *tree.companion().floor.lock() = Floor { discard: 2, clock: 0 };
    tree.wait_idle().unwrap();
    assert_eq!(recount(&tree), BTreeMap::from([(2, (200, 200 * 250))]));
    let live = state(&store).live_bytes();
    assert_eq!(live.keys().collect::<Vec<_>>(), [&2], "nothing refers to the first segment");
}

/// Jobs may end in another order than they began in.
#[test]
fn numbers_that_only_grow_are_never_taken_back() {
    let store = Store::new();
    let tree = open(&store, Log::default());
    name_segments(&tree, 1..10);
    let change = |by: u32| StoreChange {
        watermark: Some(10 + u64::from(by)),
        clock: Some(20 + u64::from(by)),
        dropped_tombstone: Some(30 + u64::from(by)),
        largest_version: Some(40 + u64::from(by)),
        replay_head: Some(LogPosition { segment: 5 + by, offset: 4096 }),
        ..StoreChange::default()
    };
    let numbers = || {
        let s = state(&store);
        (s.watermark(), s.clock(), s.dropped_tombstone(), s.largest_version(), s.replay_head())
    };
    tree.install(change(1)).unwrap();
    let later = numbers();
    assert_eq!((later.0, later.1, later.2, later.3), (11, 21, 31, 41));
    tree.install(change(0)).unwrap();
    assert_eq!(numbers(), later);
    tree.install(change(2)).unwrap();
    assert!(numbers() > later);
    let handed_out = tree.file_ids().next();
    tree.install(StoreChange::default()).unwrap();
    assert!(state(&store).next_file() > handed_out);
}

#[test]
fn the_replay_head_is_not_moved_past_what_is_in_memory() {
    let store = Store::new();
    let tree = open(&store, Log::default());
    write(&tree, 1, b"a", Entry::value(b""), (104, 200));
    assert!(tree.advance_replay_head(400).unwrap());
    assert_eq!(state(&store).replay_head().unwrap().offset, 104);
    assert!(!tree.advance_replay_head(400).unwrap(), "it is there already");
    tree.flush().unwrap();
    assert_eq!(state(&store).replay_head().unwrap().offset, 200);
    assert!(tree.advance_replay_head(400).unwrap());
    assert_eq!(state(&store).replay_head().unwrap().offset, 400);
}
