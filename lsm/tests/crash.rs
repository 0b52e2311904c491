//! Power losses: what was flushed is there, whole, and the tree is in order (SEMANTICS 45, 53).

#![allow(clippy::unwrap_used)]

mod common;

use std::path::Path;
use std::sync::Arc;

use common::*;
use kvdb_lsm::*;
use kvdb_vfs::{Keep, MemFs, Op};
use parking_lot::Mutex;

/// A workload of rounds; after each one everything written so far is flushed.
fn workload(store: &Store, rounds: u64, flushed: &Mutex<u64>) -> Result<()> {
    let options = Options { versions_to_keep: 1, ..small() };
    let tree = store.try_open(options)?;
    let mut rng = fastrand::Rng::with_seed(rounds);
    for round in 1..=rounds {
        let frames: Vec<[u8; 2]> = (0..60).map(|_| [rng.u8(..20), rng.u8(..10)]).collect();
        for (i, key) in frames.iter().enumerate() {
            let version = round * 100 + i as u64;
            let entry = match rng.u8(..5) {
                0 => Entry::tombstone(),
                _ => Entry::value(&[0; 40]),
            };
            tree.write(version, &[(key, entry)])?;
        }
        tree.companion().raise_floor(Floor { discard: (round - 1) * 100, clock: 0 });
        tree.flush()?;
        *flushed.lock() = round;
        while tree.step(Job::Compact)? {}
        while tree.step(Job::Reclaim)? {}
    }
    Ok(())
}

/// What the workload has written up to the end of a round, without tombstones.
fn expected(rounds: u64, upto: u64) -> Vec<(Vec<u8>, u64)> {
    let mut rng = fastrand::Rng::with_seed(rounds);
    let mut newest = std::collections::BTreeMap::new();
    for round in 1..=upto {
        let frames: Vec<[u8; 2]> = (0..60).map(|_| [rng.u8(..20), rng.u8(..10)]).collect();
        for (i, key) in frames.iter().enumerate() {
            let live = rng.u8(..5) > 0;
            newest.insert(key.to_vec(), live.then_some(round * 100 + i as u64));
        }
    }
    newest.into_iter().filter_map(|(k, v)| Some((k, v?))).collect()
}

fn shown(tree: &Tree<NoCompanion>) -> Vec<(Vec<u8>, u64)> {
    let mut cursor = Visible::new(tree.superversion().cursor(), VisibleOptions::default());
    let mut out = Vec::new();
    let mut valid = cursor.first().unwrap();
    while valid {
        out.push((cursor.key().to_vec(), cursor.version()));
        valid = cursor.next().unwrap();
    }
    out
}

const ROUNDS: u64 = 12;

/// Opens an image and checks that it holds what was flushed, or what is about to be.
fn check(image: MemFs, flushed: u64, what: &str) {
    let store = Store::over(Arc::new(image));
    if flushed == 0 && !kvdb_manifest::exists(&*store.fs, &store.dir).unwrap() {
        return;
    }
    let tree = store.try_open(small()).unwrap_or_else(|e| panic!("{what}: {e}"));
    tree.verify().unwrap_or_else(|e| panic!("{what}: {e}"));
    let got = shown(&tree);
    let fits = got == expected(ROUNDS, flushed) || got == expected(ROUNDS, flushed + 1);
    assert!(fits, "{what}: after {flushed} flushes: {got:?}, {:?}", expected(ROUNDS, flushed));
    let tables: usize = tree.superversion().table_counts().iter().sum();
    assert_eq!(store.table_files().len(), tables, "{what}: orphans are removed");
}

#[test]
fn what_was_flushed_survives_a_power_loss_at_every_operation() {
    let fs = MemFs::new();
    let store = Store::over(Arc::new(fs.clone()));
    let flushed = Arc::new(Mutex::new(0));
    let images: Arc<Mutex<Vec<(MemFs, u64, String)>>> = Arc::default();
    let (taken, done) = (images.clone(), flushed.clone());
    fs.on_operation(move |fs: &MemFs, op: Op, path: &Path| {
        let n = fs.operations();
        let flushed = *done.lock();
        let mut taken = taken.lock();
        for mut keep in [Keep::None, Keep::All, Keep::Random(n)] {
            let what = format!("operation {n}, {op} {}, {keep:?}", path.display());
            taken.push((fs.crash_image(&mut keep), flushed, what));
        }
    });
    workload(&store, ROUNDS, &flushed).unwrap();
    fs.clear_hook();
    let images = std::mem::take(&mut *images.lock());
    assert!(images.len() > 300, "{} images", images.len());
    for (image, flushed, what) in images {
        check(image, flushed, &what);
    }
    assert_eq!(*flushed.lock(), ROUNDS);
}
