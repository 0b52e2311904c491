//! Power lost, or the process killed, before any operation of a history: what was acknowledged is
//! there, of the rest at most the change under way, whole. The survivor is used on and crashes
//! again.

#![allow(clippy::unwrap_used)] // helpers of tests

mod common;

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use common::*;
use kvdb_manifest::{Manifest, exists};
use kvdb_vfs::{FaultFs, FaultPlan, Fs, Keep, MemFs, SyncSite};

/// Images of every moment of a history, each with what was acknowledged by then.
struct Recorder {
    images: Arc<Mutex<Vec<(MemFs, u64)>>>,
    acknowledged: Arc<AtomicU64>,
}

impl Recorder {
    fn new(fs: &MemFs, seeds: u64) -> Recorder {
        let images = Arc::new(Mutex::new(Vec::new()));
        let acknowledged = Arc::new(AtomicU64::new(0));
        let (list, count) = (images.clone(), acknowledged.clone());
        fs.on_operation(move |fs, _, _| {
            let now = count.load(Ordering::SeqCst);
            let mut list = list.lock().unwrap();
            list.push((fs.crash_image(&mut Keep::None), now));
            list.push((fs.crash_image(&mut Keep::All), now));
            list.push((fs.process_image(), now));
            for seed in 0..seeds {
                let seed = seed ^ fs.operations() << 20;
                list.push((fs.crash_image(&mut Keep::Random(seed)), now));
            }
        });
        Recorder { images, acknowledged }
    }

    fn take(&self) -> Vec<(MemFs, u64)> {
        std::mem::take(&mut *self.images.lock().unwrap())
    }
}

/// The history: changes 0, 1, 2… with ballast from nothing to several pages, and rewrites.
fn history(manifest: &Manifest<Numbers>, from: u64, to: u64, acknowledged: &AtomicU64) {
    for n in from..to {
        // Not at once: a rewrite would make up for what opening has left undone.
        if n % 5 == 4 && n > from {
            manifest.rewrite().unwrap();
        }
        manifest.append(&heavy(n, [0, 100, 2000, 9000][n as usize % 4])).unwrap();
        acknowledged.store(n + 1, Ordering::SeqCst);
        if n % 7 == 3 {
            manifest.settle().unwrap();
        }
    }
}

/// Opens an image and says how many changes it has.
#[track_caller]
fn survivors(image: &MemFs, acknowledged: u64) -> (Manifest<Numbers>, u64) {
    let (manifest, _) = open(image).unwrap_or_else(|e| panic!("{acknowledged} acknowledged: {e}"));
    let found = numbers(&manifest);
    let count = found.len() as u64;
    assert_eq!(found, (0..count).collect::<Vec<_>>());
    assert!(
        count == acknowledged || count == acknowledged + 1,
        "{count} found, {acknowledged} acknowledged"
    );
    (manifest, count)
}

#[test]
fn acknowledged_changes_survive_a_crash_at_any_operation() {
    let fs = file_system();
    let manifest = create(&fs);
    let recorder = Recorder::new(&fs, 12 * scale());
    history(&manifest, 0, 24, &recorder.acknowledged);
    let images = recorder.take();
    assert!(images.len() > 1000, "{}", images.len());
    for (image, acknowledged) in &images {
        survivors(image, *acknowledged);
    }
}

#[test]
fn a_survivor_that_crashes_again_has_lost_nothing() {
    let fs = file_system();
    let manifest = create(&fs);
    let first = Recorder::new(&fs, 2 * scale());
    history(&manifest, 0, 8, &first.acknowledged);
    for (image, acknowledged) in first.take() {
        // The second life begins with recovery, which is crashed as well.
        let second = Recorder::new(&image, 2);
        second.acknowledged.store(acknowledged, Ordering::SeqCst);
        let (manifest, count) = survivors(&image, acknowledged);
        let in_recovery = second.take();
        for (image, _) in &in_recovery {
            survivors(image, acknowledged);
        }
        // Once opened, what was found counts as acknowledged: others have acted upon it.
        second.acknowledged.store(count, Ordering::SeqCst);
        history(&manifest, count, count + 2, &second.acknowledged);
        for (image, acknowledged) in second.take() {
            survivors(&image, acknowledged);
        }
    }
}

#[test]
fn a_crash_during_creation_leaves_no_manifest_or_a_whole_one() {
    let fs = file_system();
    let recorder = Recorder::new(&fs, 20);
    let manifest = create(&fs);
    recorder.acknowledged.store(1, Ordering::SeqCst); // created
    manifest.append(&add(0)).unwrap();
    let (mut without, mut with) = (0, 0);
    for (image, created) in recorder.take() {
        if exists(&image, Path::new(DIR)).unwrap() {
            with += 1;
            let (manifest, report) = open(&image).unwrap();
            assert!(numbers(&manifest).len() <= 1 && report.database == DATABASE);
        } else {
            without += 1;
            assert_eq!(created, 0, "a manifest that was created is gone");
            // Creating it works all the same, whatever has been left.
            create(&image).append(&add(5)).unwrap();
        }
    }
    assert!(with > 0 && without > 0);
}

#[test]
fn what_a_crashed_rewrite_leaves_is_removed_at_the_next_opening() {
    let fs = file_system();
    let manifest = create(&fs);
    manifest.append(&add(0)).unwrap();
    let recorder = Recorder::new(&fs, 0);
    recorder.acknowledged.store(1, Ordering::SeqCst);
    manifest.rewrite().unwrap();
    let temp = Path::new(DIR).join(kvdb_manifest::TEMP_NAME);
    let mut seen = 0;
    for (image, _) in recorder.take() {
        seen += u32::from(image.metadata(&temp).is_ok());
        survivors(&image, 1);
        assert!(image.metadata(&temp).is_err());
    }
    assert!(seen > 0);
}

#[test]
fn each_sync_is_needed() {
    for site in [SyncSite::ManifestAppend, SyncSite::ManifestRewrite, SyncSite::ManifestDir] {
        let fs = file_system();
        drop(create(&fs));
        let faulty = FaultFs::new(Arc::new(fs.clone()));
        let skipped = faulty.arm(FaultPlan::skip_sync(site));
        let (manifest, _) =
            Manifest::<Numbers>::open(Arc::new(faulty.clone()), Path::new(DIR), manual()).unwrap();
        let recorder = Recorder::new(&fs, 12);
        history(&manifest, 0, 16, &recorder.acknowledged);
        assert!(skipped.fired() > 1);
        let noticed = recorder.take().into_iter().any(|(image, acknowledged)| {
            !matches!(open(&image), Ok((m, _)) if numbers(&m).len() as u64 >= acknowledged)
        });
        assert!(noticed, "without {site:?} nothing was lost");
    }
}

#[test]
fn a_settled_manifest_tells_damage_from_a_torn_append_after_a_power_loss() {
    let fs = file_system();
    let manifest = create(&fs);
    manifest.append(&add(0)).unwrap();
    manifest.append(&add(1)).unwrap();
    let flip_last = |image: &MemFs| {
        let mut bytes = bytes_of(image);
        bytes[manifest.size() as usize - 1] ^= 1;
        open(&with_bytes(&bytes))
    };
    let unsettled = fs.crash_image(&mut Keep::None);
    assert_eq!(flip_last(&unsettled).unwrap().1.records, 1); // passes for torn
    manifest.settle().unwrap();
    let settled = fs.crash_image(&mut Keep::None);
    assert!(matches!(flip_last(&settled), Err(kvdb_manifest::Error::Corrupt { .. })));
    // So does opening, and time.
    let _ = open(&unsettled).unwrap();
    assert!(flip_last(&unsettled).is_err());
}
