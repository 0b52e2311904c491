//! Creating, opening, appending, reading, rewriting: what a user relies on when nothing fails.

#![allow(clippy::unwrap_used)] // helpers of tests

mod common;

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use common::*;
use kvdb_manifest::{Error, FILE_NAME, Manifest, Options, State, exists};
use kvdb_vfs::{Fs, Keep, Op, OpenMode, OsFs};

#[test]
fn changes_are_there_after_reopening_in_order() {
    let fs = file_system();
    assert!(!exists(&fs, Path::new(DIR)).unwrap());
    let manifest = create(&fs);
    assert!(exists(&fs, Path::new(DIR)).unwrap());
    manifest.append(&Change { add: vec![1, 2, 3], ..Default::default() }).unwrap();
    manifest.append(&Change { remove: vec![2], ..Default::default() }).unwrap();
    manifest.append(&Change { add: vec![2], remove: vec![1], ..Default::default() }).unwrap();
    assert_eq!(numbers(&manifest), [2, 3]);
    assert_eq!(manifest.verify().unwrap().records, 3);
    let (manifest, report) = open(&fs).unwrap();
    assert_eq!(numbers(&manifest), [2, 3]);
    assert_eq!((report.database, manifest.database()), (DATABASE, DATABASE));
    assert_eq!((report.records, report.bytes, report.cut), (3, manifest.size(), None));
    assert_eq!(manifest.path(), Path::new(DIR).join(FILE_NAME));
}

#[test]
fn a_missing_empty_short_or_foreign_file_is_an_error_of_its_own_and_stays() {
    assert!(matches!(open(&file_system()), Err(Error::Missing { .. })));
    assert!(matches!(open(&with_bytes(b"")), Err(Error::Empty { .. })));
    let fs = file_system();
    let _ = create(&fs);
    let good = bytes_of(&fs);
    for len in 1..HEADER {
        let short = with_bytes(&good[..len]);
        assert!(matches!(open(&short), Err(Error::TooShort { len: l, .. }) if l == len as u64));
        assert_eq!(bytes_of(&short), &good[..len]);
    }
    // Whatever its length is, and also where it differs in one byte of the magic only.
    let almost: Vec<u8> = (0..200).map(|i| if i == 7 { b'x' } else { good[i % HEADER] }).collect();
    for (bytes, first) in [(vec![b'x'; 200], 0), (almost, 7)] {
        for len in (first + 1..HEADER + 2).chain([200]) {
            let foreign = with_bytes(&bytes[..len]);
            assert!(matches!(open(&foreign), Err(Error::NotAManifest { .. })), "{len} bytes");
            assert_eq!(bytes_of(&foreign), &bytes[..len]);
        }
    }
    let again: Result<Manifest<Numbers>, _> =
        Manifest::create(Arc::new(fs.clone()), Path::new(DIR), 1, manual());
    assert!(matches!(again, Err(Error::AlreadyExists { .. })));
    assert_eq!(bytes_of(&fs), good);
}

#[test]
fn a_change_that_does_not_fit_is_refused_before_anything_is_written() {
    let fs = file_system();
    let manifest = create(&fs);
    manifest.append(&add(1)).unwrap();
    let (bytes, operations) = (bytes_of(&fs), fs.operations());
    assert!(matches!(manifest.append(&add(1)), Err(Error::Rejected(_))));
    assert_eq!((bytes_of(&fs), fs.operations()), (bytes, operations));
    assert!(!manifest.is_poisoned());
    manifest.append(&add(2)).unwrap();
}

#[test]
fn the_number_of_changes_tells_whether_the_state_is_the_same() {
    let fs = file_system();
    let manifest = create(&fs);
    let seen = || manifest.read_numbered(|state, changes| (state.0.len(), changes));
    assert_eq!(seen(), (0, 0));
    manifest.append(&add(1)).unwrap();
    assert_eq!(seen(), (1, 1));
    manifest.append(&add(1)).unwrap_err();
    manifest.rewrite().unwrap();
    assert_eq!(seen(), (1, 1), "neither what is refused nor a rewrite changes it");
    manifest.append(&add(2)).unwrap();
    assert_eq!(seen(), (2, 2));
}

#[test]
fn a_change_can_be_made_from_the_state_it_is_applied_to() {
    let fs = file_system();
    let manifest = create(&fs);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..50 {
                    manifest
                        .append_with(|s| {
                            Ok::<_, Error>(add(s.0.last().map_or(0, |largest| largest + 1)))
                        })
                        .unwrap();
                }
            });
        }
    });
    assert_eq!(numbers(&manifest), (0..200).collect::<Vec<_>>());
    let size = manifest.size();
    let refused = manifest.append_with(|_| Err(Error::ReadOnly { path: "mine".into() }));
    assert!(matches!(refused, Err(Error::ReadOnly { path }) if path == Path::new("mine")));
    assert_eq!(manifest.size(), size);
}

#[test]
fn reading_does_not_wait_for_the_sync_of_an_append() {
    let fs = file_system();
    let manifest = Arc::new(create(&fs));
    manifest.append(&add(1)).unwrap();
    let looked = Arc::new(AtomicBool::new(false));
    let (reader, seen) = (manifest.clone(), looked.clone());
    fs.on_operation(move |_, op, _| {
        // In the middle of the append, on another thread: it must come back.
        if op == Op::SyncData && !seen.swap(true, Ordering::SeqCst) {
            let reader = reader.clone();
            let found = std::thread::spawn(move || (numbers(&reader), reader.is_poisoned()));
            assert_eq!(found.join().unwrap(), (vec![1], false)); // not yet durable, not yet there
        }
    });
    manifest.append(&add(2)).unwrap();
    fs.clear_hook();
    assert!(looked.load(Ordering::SeqCst));
    assert_eq!(numbers(&manifest), [1, 2]);
}

#[test]
fn a_reader_writes_nothing_and_refuses_to() {
    let fs = file_system();
    create(&fs).append(&add(1)).unwrap();
    let operations = fs.operations();
    let (manifest, _) = open_with(&fs, read_only()).unwrap();
    assert!(matches!(manifest.append(&add(2)), Err(Error::ReadOnly { .. })));
    assert!(matches!(manifest.rewrite(), Err(Error::ReadOnly { .. })));
    assert!(matches!(manifest.settle(), Err(Error::ReadOnly { .. })));
    manifest.verify().unwrap();
    assert_eq!(numbers(&manifest), [1]);
    assert_eq!(fs.operations(), operations);
    let created: Result<Manifest<Numbers>, _> =
        Manifest::create(Arc::new(file_system()), Path::new(DIR), 1, read_only());
    assert!(matches!(created, Err(Error::ReadOnly { .. })));
}

#[test]
fn rewriting_leaves_a_short_file_with_the_same_state_that_goes_on() {
    let fs = file_system();
    let manifest = create(&fs);
    for n in 0..100 {
        manifest.append(&heavy(n, 500)).unwrap();
    }
    let before = manifest.size();
    manifest.rewrite().unwrap();
    assert!(manifest.size() * 50 < before, "{} of {before}", manifest.size());
    assert_eq!(bytes_of(&fs).len() as u64, manifest.size());
    manifest.append(&add(100)).unwrap();
    assert_eq!(manifest.verify().unwrap().records, 2);
    manifest.rewrite().unwrap();
    manifest.rewrite().unwrap();
    assert_eq!(numbers(&open(&fs).unwrap().0), (0..=100).collect::<Vec<_>>());
}

#[test]
fn the_file_is_rewritten_when_it_is_long_and_mostly_dead_and_only_then() {
    let options = || Options { rewrite_bytes: 4096, rewrite_ratio: 3, ..Options::default() };
    let fs = file_system();
    drop(create(&fs));
    let (manifest, _) = open_with(&fs, options()).unwrap();
    for n in 0..500 {
        manifest.append(&heavy(n, 200)).unwrap();
        assert!(manifest.size() < 3 * 4096, "{}", manifest.size());
    }
    assert!(manifest.size() < 500 * 200 / 4);
    assert_eq!(numbers(&open(&fs).unwrap().0), (0..500).collect::<Vec<_>>());

    // All of it alive: never worth it.
    let fs = file_system();
    drop(create(&fs));
    let (manifest, _) = open_with(&fs, options()).unwrap();
    for n in 0..200 {
        let add = (0..100).map(|i| (1 << 60) + n * 1000 + i).collect();
        manifest.append(&Change { add, ..Change::default() }).unwrap();
    }
    assert_eq!(manifest.verify().unwrap().records, 200);
}

#[test]
fn a_ratio_below_two_counts_as_two() {
    for rewrite_ratio in [0, 1, 2] {
        let fs = file_system();
        drop(create(&fs));
        let options = Options { rewrite_bytes: 0, rewrite_ratio, ..Options::default() };
        let (manifest, _) = open_with(&fs, options).unwrap();
        let renames = Arc::new(AtomicU64::new(0));
        let count = renames.clone();
        fs.on_operation(move |_, op, _| {
            count.fetch_add(u64::from(op == Op::Rename), Ordering::Relaxed);
        });
        // All of it alive.
        for n in 0..200 {
            manifest.append(&add((1 << 60) + n)).unwrap();
        }
        fs.clear_hook();
        let rewrites = renames.load(Ordering::Relaxed);
        assert!((2..40).contains(&rewrites), "{rewrites} with {rewrite_ratio}");
    }
}

#[test]
fn opening_a_file_that_is_vouched_for_writes_nothing_but_the_directory() {
    // By a mark, or by the header.
    for rewritten in [false, true] {
        let fs = file_system();
        let manifest = create(&fs);
        manifest.append(&add(1)).unwrap();
        if rewritten {
            manifest.rewrite().unwrap();
        }
        let bytes = bytes_of(&fs);
        fs.on_operation(|_, op, _| assert!(matches!(op, Op::SyncDir | Op::Remove), "{op}"));
        open(&fs).unwrap();
        fs.clear_hook();
        assert_eq!(bytes_of(&fs), bytes);
    }
}

#[test]
fn it_works_on_a_real_file_system() {
    let dir = tempfile::tempdir().unwrap();
    let fs: Arc<dyn Fs> = Arc::new(OsFs);
    let manifest: Manifest<Numbers> =
        Manifest::create(fs.clone(), dir.path(), DATABASE, Options::default()).unwrap();
    for n in 0..20 {
        manifest.append(&heavy(n, 50)).unwrap();
    }
    manifest.rewrite().unwrap();
    manifest.append(&add(20)).unwrap();
    manifest.settle().unwrap();
    manifest.verify().unwrap();
    // A torn append.
    let file = fs.open(manifest.path(), OpenMode::ReadWrite).unwrap();
    file.write_all_at(b"garbage", manifest.size()).unwrap();
    drop(manifest);
    let opened = Manifest::<Numbers>::open(fs, dir.path(), Options::default());
    let (manifest, report) = opened.unwrap();
    assert_eq!(numbers(&manifest), (0..=20).collect::<Vec<_>>());
    assert_eq!((report.records, report.cut.map(|c| c.bytes)), (2, Some(16)));
    manifest.append(&add(21)).unwrap();
}

#[test]
fn every_file_has_a_nonce_of_its_own() {
    let fs = file_system();
    let manifest = create(&fs);
    let mut nonces = std::collections::HashSet::new();
    for _ in 0..20 {
        assert!(nonces.insert(bytes_of(&fs)[32..40].to_vec()));
        manifest.rewrite().unwrap();
    }
}

/// Panics when a certain change is applied.
#[derive(Debug, Default)]
struct Fragile;

impl State for Fragile {
    type Change = Change;

    fn apply(&mut self, change: &Change) {
        assert!(change.add.is_empty(), "fragile");
    }

    fn snapshot(&self) -> Change {
        Change::default()
    }
}

#[test]
fn a_panic_in_the_middle_of_an_append_poisons() {
    let fs: Arc<dyn Fs> = Arc::new(file_system());
    let manifest = Manifest::<Fragile>::create(fs, Path::new(DIR), 1, manual()).unwrap();
    manifest.append(&Change::default()).unwrap();
    let append = std::panic::AssertUnwindSafe(|| manifest.append(&add(1)));
    std::panic::catch_unwind(append).unwrap_err();
    assert!(matches!(manifest.append(&Change::default()), Err(Error::Poisoned { .. })));
    // One before anything is written does not.
    let fs: Arc<dyn Fs> = Arc::new(file_system());
    let manifest = Manifest::<Fragile>::create(fs, Path::new(DIR), 1, manual()).unwrap();
    let append = || manifest.append_with(|_| -> Result<Change, Error> { panic!("mine") });
    std::panic::catch_unwind(std::panic::AssertUnwindSafe(append)).unwrap_err();
    manifest.append(&Change::default()).unwrap();
}

#[test]
fn a_panic_in_the_middle_of_a_rewrite_loses_nothing_that_is_acknowledged() {
    let automatic = || Options { rewrite_bytes: 3000, rewrite_ratio: 2, ..Options::default() };
    for (op, options) in
        [Op::Rename, Op::SyncDir].into_iter().flat_map(|op| [(op, manual()), (op, automatic())])
    {
        let fs = file_system();
        let manifest =
            Manifest::<Numbers>::create(Arc::new(fs.clone()), Path::new(DIR), 1, options).unwrap();
        manifest.append(&add(0)).unwrap();
        fs.on_operation(move |_, met, _| assert!(met != op, "planted"));
        let mut acknowledged = BTreeSet::from([0]);
        let mut panicked = false;
        for n in 1..2000 {
            let rewrite = n == 10;
            let next = std::panic::AssertUnwindSafe(|| {
                manifest.append(&add(n))?;
                if rewrite { manifest.rewrite() } else { Ok(()) }
            });
            match std::panic::catch_unwind(next) {
                Ok(Ok(())) => _ = acknowledged.insert(n),
                Ok(Err(error)) => {
                    assert!(matches!(error, Error::Poisoned { .. }) && panicked, "{error}");
                    break;
                }
                Err(_) => {
                    panicked = true;
                    fs.on_operation(|_, _, _| ());
                }
            }
        }
        assert!(panicked && manifest.is_poisoned(), "{op:?}");
        drop(manifest);
        for image in [fs.process_image(), fs.crash_image(&mut Keep::None)] {
            let (manifest, _) =
                Manifest::<Numbers>::open(Arc::new(image), Path::new(DIR), manual()).unwrap();
            let found = manifest.read(|numbers| numbers.0.clone());
            assert!(found.is_superset(&acknowledged), "{op:?}: {found:?}, {acknowledged:?}");
        }
    }
}

/// Gives another sum with every replay.
#[derive(Debug)]
struct Drifting(u64);

impl Default for Drifting {
    fn default() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        Drifting(NEXT.fetch_add(1, Ordering::Relaxed))
    }
}

impl State for Drifting {
    type Change = Change;

    fn apply(&mut self, _: &Change) {}

    fn snapshot(&self) -> Change {
        add(self.0)
    }
}

#[test]
fn verifying_finds_a_state_that_is_not_what_the_records_add_up_to() {
    let fs: Arc<dyn Fs> = Arc::new(file_system());
    let manifest = Manifest::<Drifting>::create(fs, Path::new(DIR), 1, manual()).unwrap();
    manifest.append(&Change::default()).unwrap();
    assert!(matches!(manifest.verify(), Err(Error::Diverged { .. })));
}
