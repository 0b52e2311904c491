//! What readers hold stays, and what nobody holds goes (SEMANTICS 33, 54).

#![allow(clippy::unwrap_used)]

mod common;

use std::sync::Arc;

use common::*;
use kvdb_lsm::*;
use kvdb_manifest::store::{RangeDelete, StoreChange, StoreState};

fn fill(tree: &Tree<NoCompanion>, version: u64) {
    for k in 0..200u64 {
        tree.write(version, &[(&k.to_be_bytes(), Entry::value(&[version as u8; 30]))]).unwrap();
    }
    tree.flush().unwrap();
}

fn tables(tree: &Tree<NoCompanion>) -> usize {
    tree.superversion().table_counts().iter().sum()
}

#[test]
fn files_stay_as_long_as_a_cursor_needs_them_and_go_with_it() {
    let store = Store::new();
    let tree = store.open(small());
    fill(&tree, 1);
    fill(&tree, 2);
    let mut cursor = tree.superversion().cursor();
    tree.companion().raise_floor(Floor { discard: 2, clock: 0 });
    tree.major_compact().unwrap();
    tree.wait_idle().unwrap();
    assert!(store.table_files().len() > tables(&tree), "the cursor has not even opened them yet");
    assert!(cursor.first().unwrap());
    let mut n = 1;
    while cursor.next().unwrap() {
        n += 1;
    }
    assert_eq!(n, 400, "both versions are still there for it");
    drop(cursor);
    tree.wait_idle().unwrap();
    assert_eq!(store.table_files().len(), tables(&tree));
}

#[test]
fn values_and_cursors_outlive_the_tree() {
    for reads in [Reads::Mapped, Reads::Positioned { block_cache_bytes: 1 << 20 }] {
        let store = Store::new();
        let tree = store.open(Options { reads, ..small() });
        fill(&tree, 1);
        tree.write(2, &[(b"in memory", Entry::value(b"arena").with_meta(7))]).unwrap();
        let superversion = tree.superversion();
        let region = |key: &[u8]| {
            superversion.get(key, u64::MAX, key_hash(key)).unwrap().unwrap().to_region()
        };
        let (in_table, in_memtable) = (region(&5u64.to_be_bytes()), region(b"in memory"));
        let mut cursor = superversion.cursor();
        drop(superversion);
        drop(tree);
        assert_eq!(*in_table, [1; 30]);
        assert_eq!(*in_memtable, *b"arena");
        assert!(cursor.seek(b"in memory", u64::MAX).unwrap());
        assert_eq!(Entry::decode(cursor.value()).unwrap().user_meta, 7);
    }
}

#[test]
fn a_reader_does_not_remove_files_itself() {
    let store = Store::new();
    let tree = store.open(small());
    fill(&tree, 1);
    fill(&tree, 2);
    let old = tree.superversion();
    tree.companion().raise_floor(Floor { discard: 2, clock: 0 });
    tree.major_compact().unwrap();
    while tree.step(Job::Reclaim).unwrap() {}
    let files = store.table_files().len();
    drop(old);
    assert_eq!(store.table_files().len(), files, "only queued");
    tree.wait_idle().unwrap(); // other tests' readers may hold up the epoch for a moment
    assert_eq!(store.table_files().len(), tables(&tree));
}

#[test]
fn deleted_and_expired_keys_leave_without_further_writes() {
    let store = Store::new();
    let tree = store.open(small());
    fill(&tree, 1);
    for k in 0..200u64 {
        let entry = match k % 2 {
            0 => Entry::tombstone(),
            _ => Entry::value(b"x").with_expiry(50),
        };
        tree.write(2, &[(&k.to_be_bytes(), entry)]).unwrap();
    }
    tree.flush().unwrap();
    tree.companion().raise_floor(Floor { discard: 1, clock: 49 });
    tree.wait_idle().unwrap();
    assert!(count(&tree) >= 300, "a reader at 1 still sees the old values");
    tree.companion().raise_floor(Floor { discard: 2, clock: 49 });
    tree.wait_idle().unwrap();
    assert_eq!(count(&tree), 100, "deleted keys are gone, the others live");
    tree.companion().raise_floor(Floor { discard: 2, clock: 50 });
    tree.wait_idle().unwrap();
    assert_eq!((count(&tree), store.table_files().len()), (0, 0));
    let state = store_state(&store, tree);
    assert_eq!((state.dropped_tombstone(), state.clock(), state.watermark()), (2, 50, 2));
}

#[test]
fn deleted_keys_leave_without_further_writes_if_nothing_else_could() {
    let store = Store::new();
    let tree = store.open(small());
    fill(&tree, 1);
    tree.major_compact().unwrap();
    for k in 0..200u64 {
        tree.write(2, &[(&k.to_be_bytes(), Entry::tombstone())]).unwrap();
    }
    tree.flush().unwrap();
    tree.companion().raise_floor(Floor { discard: 2, clock: 0 });
    tree.wait_idle().unwrap();
    assert_eq!((count(&tree), store.table_files().len()), (0, 0));
    let state = store_state(&store, tree);
    assert_eq!((state.dropped_tombstone(), state.watermark()), (2, 2), "no table tells of them");
}

#[test]
fn a_table_whose_entries_expire_one_by_one_is_rewritten_ever_more_seldom() {
    let store = Store::new();
    let tree = store.open(small());
    for k in 0..500u64 {
        let entry = Entry::value(b"v").with_expiry(1000 + k);
        tree.write(1, &[(&k.to_be_bytes(), entry)]).unwrap();
    }
    tree.flush().unwrap();
    tree.companion().raise_floor(Floor { discard: 1, clock: 1 });
    tree.major_compact().unwrap();
    let before = tree.stats();
    assert_eq!(tables(&tree), 1);
    let mut rewritten = Vec::new();
    for clock in 1000..1040 {
        let compactions = tree.stats().compactions;
        tree.companion().raise_floor(Floor { discard: 1, clock });
        tree.wait_idle().unwrap();
        if tree.stats().compactions > compactions {
            rewritten.push(clock);
        }
    }
    assert_eq!(rewritten, [1000, 1001, 1003, 1007, 1015, 1031]);
    assert_eq!(tree.stats().dropped_entries, before.dropped_entries + 32);
}

fn store_state(store: &Store, tree: Arc<Tree<NoCompanion>>) -> StoreState {
    drop(tree);
    store.manifest().unwrap().read(Clone::clone)
}

#[test]
fn a_range_delete_leaves_the_list_when_it_is_applied() {
    let store = Store::new();
    let tree = store.open(small());
    fill(&tree, 1);
    let range = RangeDelete {
        start: 50u64.to_be_bytes().to_vec(),
        end: Some(150u64.to_be_bytes().to_vec()),
        version: 2,
    };
    tree.write(1, &[(b"unflushed", Entry::value(b""))]).unwrap();
    let change = StoreChange { range_deletes_added: vec![range], ..StoreChange::default() };
    tree.install(change).unwrap();
    let visible = |at| {
        let superversion = tree.superversion();
        let range_deletes = superversion.range_deletes().clone();
        let options = VisibleOptions { at_most: at, range_deletes, ..VisibleOptions::default() };
        let mut cursor = Visible::new(superversion.cursor(), options);
        let mut n = 0;
        let mut valid = cursor.last().unwrap();
        while valid {
            n += 1;
            valid = cursor.prev().unwrap();
        }
        n
    };
    assert_eq!((visible(1), visible(2)), (201, 101));
    tree.wait_idle().unwrap();
    assert_eq!((visible(1), visible(2)), (201, 101), "nobody may apply it yet");
    tree.companion().raise_floor(Floor { discard: 2, clock: 0 });
    tree.wait_idle().unwrap();
    assert!(!tree.superversion().range_deletes().is_empty(), "a memtable may hold something");
    tree.flush().unwrap();
    tree.wait_idle().unwrap();
    tree.write(3, &[(b"x", Entry::value(b""))]).unwrap();
    tree.flush().unwrap();
    tree.wait_idle().unwrap();
    assert_eq!(visible(3), 102);
    let superversion = tree.superversion();
    assert!(superversion.range_deletes().is_empty());
    assert_eq!(superversion.watermark(), 2);
}

/// Nobody flushes a memtable that nothing was written to: a range delete must not wait for that.
#[test]
fn a_range_delete_over_an_empty_memtable_leaves_the_list_too() {
    let store = Store::new();
    let drop_all = |version| {
        let range = RangeDelete { start: Vec::new(), end: None, version };
        StoreChange { range_deletes_added: vec![range], ..StoreChange::default() }
    };
    let tree = store.open(small());
    fill(&tree, 1);
    tree.install(drop_all(2)).unwrap();
    tree.companion().raise_floor(Floor { discard: 2, clock: 0 });
    tree.wait_idle().unwrap();
    assert!(tree.superversion().range_deletes().is_empty());
    assert_eq!((count(&tree), store.table_files().len()), (0, 0));
    assert_eq!(
        tree.superversion().watermark(),
        2,
        "who reads at 1 must not be told that nothing is"
    );
    fill(&tree, 3);
    tree.install(drop_all(4)).unwrap();
    drop(tree);
    // The same when it is found at opening.
    let tree = store.open(small());
    assert!(!tree.superversion().range_deletes().is_empty());
    tree.companion().raise_floor(Floor { discard: 4, clock: 0 });
    tree.wait_idle().unwrap();
    assert!(tree.superversion().range_deletes().is_empty());
    assert_eq!((count(&tree), store.table_files().len()), (0, 0));
    // An incremental backup from below would not hear of it.
    assert_eq!(store_state(&store, tree).dropped_tombstone(), 4);
}

/// The list is by version: of ranges that share one, none goes before all can.
#[test]
fn ranges_deleted_in_one_commit_leave_the_list_together() {
    let store = Store::new();
    let tree = store.open(small());
    fill(&tree, 1);
    let range = |start: u64, end: u64| RangeDelete {
        start: start.to_be_bytes().to_vec(),
        end: Some(end.to_be_bytes().to_vec()),
        version: 2,
    };
    let ranges = vec![range(0, 50), range(1000, 2000)];
    tree.install(StoreChange { range_deletes_added: ranges, ..StoreChange::default() }).unwrap();
    tree.companion().raise_floor(Floor { discard: 1, clock: 0 });
    tree.wait_idle().unwrap();
    let hidden = |k: u64| {
        let key = k.to_be_bytes();
        tree.pin().get(&key, 2, key_hash(&key)).unwrap().is_none()
    };
    assert!(hidden(7) && !hidden(50), "the other range hides nothing and had to wait");
    tree.companion().raise_floor(Floor { discard: 2, clock: 0 });
    tree.wait_idle().unwrap();
    assert!(tree.superversion().range_deletes().is_empty());
    assert!(hidden(7) && count(&tree) == 150);
}

#[test]
fn orphans_go_and_strangers_stay() {
    let store = Store::new();
    let tree = store.open(small());
    fill(&tree, 1);
    drop(tree);
    for name in ["000900.sst", "000901.sst.tmp", "notes.txt", "000902.log", "7.sst"] {
        store.fs.open(&store.dir.join(name), kvdb_vfs::OpenMode::CreateNew).unwrap();
    }
    let before = store.table_files();
    let tree = store.open(small());
    assert!(before.contains(&900) && !store.table_files().contains(&900));
    for (name, there) in
        [("000901.sst.tmp", false), ("notes.txt", true), ("000902.log", true), ("7.sst", true)]
    {
        assert_eq!(store.fs.metadata(&store.dir.join(name)).is_ok(), there, "{name}");
    }
    assert!(tree.file_ids().next() > 902, "ids start above everything in the directory");
}

#[test]
fn tables_that_nobody_reads_are_closed_when_memory_is_short() {
    let store = Store::new();
    let reads = Reads::Positioned { block_cache_bytes: 64 << 10 };
    let options = Options { reads, bits_per_key: 64, table_size: 512 << 10, ..small() };
    let tree = store.open(options);
    let n = 200_000u64;
    for k in 0..n {
        tree.write(k + 1, &[(&k.to_be_bytes(), Entry::value(b""))]).unwrap();
    }
    tree.major_compact().unwrap();
    tree.wait_idle().unwrap();
    // The filters alone have eight bytes for each key.
    let limit = 1 << 20;
    let settle = || {
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(30);
        while tree.stats().index_bytes >= limit {
            assert!(std::time::Instant::now() < deadline, "{}", tree.stats().index_bytes);
            tree.step(Job::Reclaim).unwrap();
        }
    };
    let get = |k: u64| tree.get(&k.to_be_bytes(), u64::MAX, 0).unwrap().is_some();
    let mut closed = 0;
    for k in (0..n).step_by(97) {
        assert!(get(k));
        closed += u64::from(tree.stats().index_bytes >= limit);
        settle();
    }
    assert!(closed > 0);
    // Whoever holds an older superversion goes on with the tables it has open.
    let held = tree.superversion();
    for k in (0..n).rev().step_by(97) {
        assert!(get(k));
        tree.step(Job::Reclaim).unwrap();
        assert!(
            held.get(&k.to_be_bytes(), u64::MAX, key_hash(&k.to_be_bytes())).unwrap().is_some()
        );
    }
    drop(held);
    settle();
    assert_eq!(store.table_files().len(), tables(&tree), "closing a table removes no file");
    tree.verify().unwrap();
}

/// A table that a range delete covers whole goes unread, but only when everybody sees the delete, and
/// not if anything in it is newer.
#[test]
fn a_compaction_passes_over_tables_that_a_range_delete_covers_and_over_no_others() {
    let store = Store::new();
    let tree = store.open(small());
    fill(&tree, 1);
    fill(&tree, 2);
    let range = RangeDelete { start: Vec::new(), end: None, version: 5 };
    let change = StoreChange { range_deletes_added: vec![range], ..StoreChange::default() };
    tree.install(change).unwrap();
    let get = |k: u64, at: u64| {
        let key = k.to_be_bytes();
        let superversion = tree.superversion();
        let found = superversion.get(&key, at, key_hash(&key)).unwrap();
        found.map(|f| f.version())
    };
    tree.companion().raise_floor(Floor { discard: 4, clock: 0 });
    tree.major_compact().unwrap();
    tree.wait_idle().unwrap();
    assert_eq!((get(7, 4), get(7, 5)), (Some(2), None), "a reader before the delete");
    assert!(!tree.superversion().range_deletes().is_empty(), "it hides something still");
    for k in 0..200u64 {
        tree.write(6, &[(&k.to_be_bytes(), Entry::value(b"new"))]).unwrap();
    }
    tree.companion().raise_floor(Floor { discard: 6, clock: 0 });
    tree.major_compact().unwrap();
    assert_eq!(get(7, 6), Some(6));
    assert_eq!(count(&tree), 200);
    tree.verify().unwrap();
}

#[test]
fn a_table_that_reaches_beyond_a_range_delete_keeps_what_lies_outside() {
    let key = |k: u64| k.to_be_bytes().to_vec();
    for (start, end) in [(0, Some(100)), (100, None), (50, Some(150))] {
        let store = Store::new();
        let tree = store.open(small());
        fill(&tree, 1);
        let range = RangeDelete { start: key(start), end: end.map(key), version: 2 };
        let change = StoreChange { range_deletes_added: vec![range], ..StoreChange::default() };
        tree.install(change).unwrap();
        tree.companion().raise_floor(Floor { discard: 2, clock: 0 });
        tree.wait_idle().unwrap();
        assert_eq!(count(&tree), 100, "from {start} to {end:?}");
        assert_eq!(tree.get(&key(start), 2, 0).unwrap(), None);
    }
}

/// Whoever reads below what was left out has to be told, also after the tree was opened again, when
/// there is no table to ask.
#[test]
fn a_flush_that_drops_all_it_has_leaves_a_watermark_to_the_next_opening() {
    let store = Store::new();
    let tree = store.open(small());
    for k in 0..20u64 {
        tree.write(1, &[(&k.to_be_bytes(), Entry::value(b"v"))]).unwrap();
    }
    tree.delete_range(RangeDelete { start: Vec::new(), end: None, version: 2 }).unwrap();
    tree.companion().raise_floor(Floor { discard: 3, clock: 70 });
    tree.flush().unwrap();
    assert_eq!((tables(&tree), tree.stats().flushes), (0, 1));
    assert_eq!(tree.superversion().watermark(), 3);
    let state = store_state(&store, tree);
    assert_eq!((state.watermark(), state.largest_version()), (3, 2));
    let tree = store.open(small());
    assert_eq!(tree.superversion().watermark(), 3);
}

#[test]
fn what_a_flush_drops_for_its_age_or_buries_for_its_expiry_is_in_its_change_set() {
    // The floor, and what the manifest has to tell then: the floor's version where something is dropped
    // for its age, and the latest expiry that something was buried for.
    for (floor, told) in [
        (Floor { discard: 1, clock: 10 }, (0, 0)),
        (Floor { discard: 3, clock: 10 }, (3, 0)),
        (Floor { discard: 2, clock: 45 }, (0, 40)),
        (Floor { discard: 2, clock: 60 }, (0, 50)),
        (Floor { discard: 4, clock: 60 }, (4, 50)),
    ] {
        let store = Store::new();
        let tree = store.open(small());
        for version in 2..=3 {
            tree.write(version, &[(b"overwritten", Entry::value(b"v"))]).unwrap();
        }
        for (key, expires_at) in [(b"a", 50), (b"b", 40), (b"c", 70)] {
            let entry = Entry::value(b"v").with_expiry(expires_at);
            tree.write(2, &[(key, entry)]).unwrap();
        }
        tree.companion().raise_floor(floor);
        tree.flush().unwrap();
        let state = store_state(&store, tree);
        assert_eq!((state.watermark(), state.clock()), told, "{floor:?}");
        assert_eq!(store.open(small()).superversion().watermark(), told.0);
    }
    // Of several memtables that are flushed at once, as after recovery, whichever it is.
    let store = Store::new();
    let tree = store.open(small());
    for version in 2..=3 {
        tree.write(version, &[(b"overwritten", Entry::value(b"v"))]).unwrap();
    }
    tree.write(3, &[(b"expiring", Entry::value(b"v").with_expiry(50))]).unwrap();
    tree.rotate().unwrap();
    tree.write(4, &[(b"k", Entry::value(b"v"))]).unwrap();
    tree.companion().raise_floor(Floor { discard: 4, clock: 60 });
    tree.flush_recovered(StoreChange::default()).unwrap();
    assert_eq!(tables(&tree), 2);
    let state = store_state(&store, tree);
    assert_eq!((state.watermark(), state.clock()), (4, 50));
}

#[test]
fn a_table_is_looked_at_when_the_first_of_its_entries_expires() {
    let store = Store::new();
    let mut tree = store.open(small());
    // Neither the first nor the last of them expires first.
    let expiries = [70, 50, 60, 40, 90, 80, 50];
    for (k, &expires_at) in expiries.iter().enumerate() {
        let entry = Entry::value(b"v").with_expiry(expires_at);
        tree.write(1, &[(&[k as u8], entry)]).unwrap();
    }
    tree.write(1, &[(&[7], Entry::value(b"stays"))]).unwrap();
    tree.flush().unwrap();
    tree.companion().raise_floor(Floor { discard: 1, clock: 1 });
    tree.major_compact().unwrap();
    let mut left = 8;
    for (clock, first, gone) in [(39, 40, 0), (40, 50, 1), (49, 50, 0), (50, 60, 2)] {
        // The record tells it in every life of the tree.
        drop(tree);
        tree = store.open(small());
        let before = tree.stats().compactions;
        tree.companion().raise_floor(Floor { discard: 1, clock });
        tree.wait_idle().unwrap();
        left -= gone;
        assert_eq!(count(&tree), left, "at {clock}");
        assert_eq!(tree.stats().compactions, before + u64::from(gone > 0), "at {clock}");
        let superversion = tree.superversion();
        let record = superversion.table_records().next().unwrap();
        assert_eq!((record.earliest_expiry, record.expiring as usize), (first, left - 1));
    }
}

/// A range that the manifest did not take goes into it with the next change set, once.
#[test]
fn a_range_that_the_manifest_did_not_take_at_first_leaves_it_for_good_when_it_is_applied() {
    use kvdb_vfs::{Fault, FaultFs, FaultPlan, MemFs, Op};

    let fs = FaultFs::new(Arc::new(MemFs::new()));
    let store = Store::over(Arc::new(fs.clone()));
    let tree = store.open(small());
    fill(&tree, 1);
    let ranges = || {
        let state = store.manifest().unwrap().read(Clone::clone);
        let versions: Vec<u64> = state.range_deletes().map(|r| r.version).collect();
        (versions, state.largest_version())
    };
    let full = fs.arm(FaultPlan::new(Fault::NoSpace).on(&[Op::Write]).path("MANIFEST").forever());
    tree.delete_range(RangeDelete { start: Vec::new(), end: None, version: 2 }).unwrap();
    full.disarm();
    assert!(full.fired() > 0 && ranges() == (vec![], 1), "{:?}", ranges());
    assert_eq!(tree.get(&7u64.to_be_bytes(), 2, 0).unwrap(), None, "readers know");
    tree.install(StoreChange::default()).unwrap();
    assert_eq!(ranges(), (vec![2], 2), "whatever change it is");
    tree.install(StoreChange::default()).unwrap();
    assert_eq!(ranges(), (vec![2], 2), "and once");
    tree.companion().raise_floor(Floor { discard: 2, clock: 0 });
    tree.wait_idle().unwrap();
    assert!(tree.superversion().range_deletes().is_empty());
    fill(&tree, 3);
    assert_eq!(ranges(), (vec![], 3));
    drop(tree);
    let tree = store.open(small());
    assert!(tree.superversion().range_deletes().is_empty());
    assert_eq!(count(&tree), 200);
}

/// A range that is owed still is gone when everything is dropped.
#[test]
fn a_range_that_is_owed_does_not_outlive_a_reset() {
    use kvdb_vfs::{Fault, FaultFs, FaultPlan, MemFs, Op};

    let fs = FaultFs::new(Arc::new(MemFs::new()));
    let store = Store::over(Arc::new(fs.clone()));
    let tree = store.open(small());
    let full = fs.arm(FaultPlan::new(Fault::NoSpace).on(&[Op::Write]).path("MANIFEST").forever());
    tree.delete_range(RangeDelete { start: Vec::new(), end: None, version: 2 }).unwrap();
    full.disarm();
    tree.install(StoreChange { reset: true, ..StoreChange::default() }).unwrap();
    fill(&tree, 3);
    assert!(tree.superversion().range_deletes().is_empty());
    assert_eq!(store_state(&store, tree).range_deletes().count(), 0);
}

/// A tree that keeps so many versions, with a table of old entries on the last level and a watermark that
/// came from dropping something else; opened anew.
fn reopened_above_the_watermark(
    keep: usize,
    entry: Entry<'_>,
    range: Option<RangeDelete>,
) -> Arc<Tree<NoCompanion>> {
    let store = Store::new();
    let options = Options { versions_to_keep: keep, ..small() };
    let tree = store.open(options.clone());
    for k in 0..100u64 {
        tree.write(1, &[(&k.to_be_bytes(), entry)]).unwrap();
    }
    tree.flush().unwrap();
    tree.major_compact().unwrap();
    if let Some(range) = range {
        tree.delete_range(range).unwrap();
    }
    for version in 6..=10 {
        tree.write(version, &[(b"z", Entry::value(b"v"))]).unwrap();
    }
    tree.companion().raise_floor(Floor { discard: 10, clock: 0 });
    tree.flush().unwrap();
    assert_eq!((tree.superversion().watermark(), count(&tree)), (10, 100 + keep));
    drop(tree);
    let tree = store.open(options);
    tree.companion().raise_floor(Floor { discard: 10, clock: 0 });
    tree
}

#[test]
fn range_deletes_are_applied_after_reopening_however_many_versions_are_kept() {
    for keep in [1, 2] {
        let range = RangeDelete { start: Vec::new(), end: None, version: 5 };
        let tree = reopened_above_the_watermark(keep, Entry::value(b"v"), Some(range));
        tree.major_compact().unwrap();
        tree.wait_idle().unwrap();
        assert_eq!(count(&tree), keep, "{keep} kept");
        assert!(tree.superversion().range_deletes().is_empty());
    }
}

#[test]
fn tombstones_go_after_reopening_however_many_versions_are_kept() {
    for keep in [1, 2] {
        let tree = reopened_above_the_watermark(keep, Entry::tombstone(), None);
        tree.wait_idle().unwrap();
        assert_eq!(count(&tree), keep, "{keep} kept");
    }
}

#[test]
fn tables_that_keep_several_versions_are_not_rewritten_after_reopening_for_those() {
    let store = Store::new();
    let options = Options { versions_to_keep: 3, ..small() };
    let tree = store.open(options.clone());
    for version in 1..=3 {
        fill(&tree, version);
    }
    tree.companion().raise_floor(Floor { discard: 3, clock: 0 });
    tree.major_compact().unwrap();
    drop(tree);
    let tree = store.open(options);
    tree.companion().raise_floor(Floor { discard: 3, clock: 0 });
    tree.wait_idle().unwrap();
    assert_eq!(tree.stats().compactions, 0);
    // Who asks for it has them looked at, once.
    for _ in 0..2 {
        tree.major_compact().unwrap();
    }
    assert!(tree.stats().compactions <= tables(&tree) as u64);
}

#[test]
fn a_file_with_a_number_that_no_store_comes_to_does_no_harm() {
    for name in [format!("{}.sst", u64::MAX), format!("{}.log", u64::MAX - 1)] {
        let store = Store::new();
        store.fs.open(&store.dir.join(&name), kvdb_vfs::OpenMode::CreateNew).unwrap();
        for version in 1..=4 {
            let tree = store.open(small());
            for part in [2 * version, 2 * version + 1] {
                tree.write(part, &[(b"k", Entry::value(b"v"))]).unwrap();
                tree.flush().unwrap_or_else(|e| panic!("{name}: {e}"));
            }
        }
    }
}
