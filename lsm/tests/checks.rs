//! What is checked before it is installed, and what `verify` finds (SEMANTICS 42 and 51).

#![allow(clippy::unwrap_used)]

mod common;

use std::sync::Arc;

use common::*;
use kvdb_lsm::*;
use kvdb_manifest::store::{StoreChange, StoreState, TableRecord};

fn fill<C: Companion>(tree: &Tree<C>, version: u64, entry: Entry<'_>) {
    for k in 0..20u64 {
        tree.write(version, &[(&k.to_be_bytes(), entry)]).unwrap();
    }
    tree.flush().unwrap();
}

fn records(tree: &Tree<impl Companion>) -> Vec<TableRecord> {
    tree.superversion().table_records().cloned().collect()
}

/// These tables as they are to be from now on.
fn changed(records: Vec<TableRecord>) -> StoreChange {
    StoreChange {
        tables_removed: records.iter().map(|t| t.id).collect(),
        tables_added: records,
        ..StoreChange::default()
    }
}

fn is_inconsistent(result: Result<()>) -> bool {
    matches!(result, Err(Error::Inconsistent(_)))
}

fn state(store: &Store) -> StoreState {
    store.manifest().unwrap().read(Clone::clone)
}

#[test]
fn rule_51_tables_of_a_level_that_overlap_are_not_installed_and_not_opened() {
    for paranoid in [true, false] {
        let store = Store::new();
        let tree = store.open(Options { paranoid, ..small() });
        fill(&tree, 1, Entry::value(b"old"));
        fill(&tree, 2, Entry::value(b"new"));
        let before = state(&store);
        let mut both = records(&tree);
        both.iter_mut().for_each(|t| t.level = 1);
        let outcome = tree.install(changed(both));
        assert_eq!(is_inconsistent(outcome), paranoid);
        assert_eq!(state(&store) == before, paranoid, "the manifest was not told");
        assert_eq!(tree.verify().is_ok(), paranoid);
        drop(tree);
        let opened = store.try_open(small());
        assert_eq!(is_inconsistent(opened.map(drop)), !paranoid);
    }
}

#[test]
fn rule_51_what_is_newer_below_something_older_is_not_installed_and_found_by_verify() {
    for paranoid in [true, false] {
        let store = Store::new();
        let tree = store.open(Options { paranoid, ..small() });
        fill(&tree, 5, Entry::value(b"new"));
        tree.major_compact().unwrap();
        let before = state(&store);
        // Whoever writes so breaks the rule that versions only grow.
        for k in 0..20u64 {
            tree.write(3, &[(&k.to_be_bytes(), Entry::value(b"old"))]).unwrap();
        }
        assert_eq!(is_inconsistent(tree.flush()), paranoid);
        assert_eq!(state(&store) == before, paranoid);
        assert_eq!(store.table_files().len() == before.tables().len(), paranoid, "no leftover");
        assert!(paranoid || is_inconsistent(tree.verify()));
    }
}

/// A payload is a segment and a length, a byte each.
#[derive(Default)]
struct Log(NoCompanion);

impl Companion for Log {
    type View = ();
    fn pointer(&self, payload: &[u8]) -> Option<(u32, u32)> {
        Some((payload[0].into(), payload[1].into()))
    }
    fn before_install(&self, _: &mut StoreChange, _: u64) -> std::result::Result<(), BoxError> {
        Ok(())
    }
    fn view(&self) -> Arc<()> {
        Arc::default()
    }
    fn floor(&self) -> Floor {
        self.0.floor()
    }
}

fn open(store: &Store) -> Arc<Tree<Log>> {
    let manifest = store.manifest().unwrap();
    let log = Arc::new(Log::default());
    Tree::open(store.fs.clone(), &store.dir, manifest, small(), log, false).unwrap()
}

#[test]
fn rule_42_verify_finds_pointer_sums_that_are_not_those_of_a_recount() {
    type Wrong = fn(&mut TableRecord);
    let wrongs: [Wrong; 4] = [
        |t| t.pointers[0].bytes += 1,
        |t| t.pointers[0].count -= 1,
        |t| t.pointers[0].segment = 2,
        |t| t.pointers.clear(),
    ];
    for wrong in wrongs {
        let store = Store::new();
        let tree = open(&store);
        let named = [1, 2].map(|segment| kvdb_manifest::store::SegmentNamed {
            segment,
            file: tree.file_ids().next(),
            ..Default::default()
        });
        let named = StoreChange { segments_named: named.to_vec(), ..StoreChange::default() };
        tree.install(named).unwrap();
        fill(&tree, 1, Entry::pointer(&[1, 250]));
        tree.verify().unwrap();
        let mut tables = records(&tree);
        assert_eq!(tables.len(), 1);
        wrong(&mut tables[0]);
        tree.install(changed(tables)).unwrap();
        drop(tree);
        let tree = open(&store);
        assert!(is_inconsistent(tree.verify()));
    }
}

#[test]
fn rule_51_tables_of_a_level_have_not_even_one_key_in_common() {
    let two = |paranoid| {
        let store = Store::new();
        let tree = store.open(Options { paranoid, ..small() });
        for (keys, version) in [(0..20u64, 1), (19..40, 2)] {
            for k in keys {
                tree.write(version, &[(&k.to_be_bytes(), Entry::value(b"v"))]).unwrap();
            }
            tree.flush().unwrap();
        }
        (store, tree)
    };
    let down = |tree: &Tree<NoCompanion>| {
        let mut tables = records(tree);
        tables.iter_mut().for_each(|t| t.level = 1);
        tree.install(changed(tables))
    };
    let (_, tree) = two(true);
    assert!(is_inconsistent(down(&tree)), "the last key of one is the first of the other");
    let (store, tree) = two(false);
    down(&tree).unwrap();
    drop(tree);
    assert!(is_inconsistent(store.try_open(small()).map(drop)));
}

#[test]
fn rule_42_verify_finds_records_that_do_not_say_what_the_tables_hold() {
    type Wrong = fn(&mut TableRecord);
    let wrongs: [Wrong; 5] = [
        |t| t.entries += 1,
        |t| t.smallest_key.truncate(1),
        |t| t.largest_key.push(0),
        |t| t.smallest_version -= 1,
        |t| t.largest_version += 1,
    ];
    for (i, wrong) in wrongs.into_iter().enumerate() {
        let store = Store::new();
        let tree = store.open(small());
        fill(&tree, 5, Entry::value(b"v"));
        tree.verify().unwrap();
        let mut tables = records(&tree);
        wrong(&mut tables[0]);
        tree.install(changed(tables)).unwrap();
        drop(tree);
        assert!(is_inconsistent(store.open(small()).verify()), "number {i}");
    }
}

#[test]
fn rule_42_verify_finds_a_wrong_byte_wherever_it_is_in_a_table() {
    let store = Store::new();
    let options = Options { block_size: 256, ..small() };
    let tree = store.open(options.clone());
    fill(&tree, 1, Entry::value(b"v"));
    drop(tree);
    let path = store.dir.join(table_file_name(store.table_files()[0]));
    let file = store.fs.open(&path, kvdb_vfs::OpenMode::ReadWrite).unwrap();
    for at in 0..file.len().unwrap() {
        let mut byte = [0];
        file.read_exact_at(&mut byte, at).unwrap();
        file.write_all_at(&[byte[0] ^ 0x10], at).unwrap();
        let verified = store.open(options.clone()).verify();
        assert!(verified.is_err(), "byte {at}");
        file.write_all_at(&byte, at).unwrap();
    }
    store.open(options).verify().unwrap();
}

#[test]
fn rule_51_a_table_that_only_changes_its_level_is_checked_too() {
    let store = Store::new();
    let tree = store.open(small());
    fill(&tree, 1, Entry::value(b"old"));
    fill(&tree, 2, Entry::value(b"new"));
    let mut newer = records(&tree);
    newer.retain(|t| t.largest_version == 2);
    newer[0].level = 3;
    assert!(is_inconsistent(tree.install(changed(newer))));
    assert_eq!(tree.get(&0u64.to_be_bytes(), 9, 0).unwrap().unwrap(), b"new");
    tree.verify().unwrap();
}
