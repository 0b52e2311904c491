//! Every operation of creating, opening, appending and rewriting fails once, or from then on, in
//! every way there is. What was acknowledged is there, in memory and on the disk; what failed is
//! not, unless the error has said that nobody knows; and nothing lands behind garbage.

#![allow(clippy::unwrap_used)] // helpers of tests

mod common;

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use common::*;
use kvdb_manifest::{Error, Manifest, OpenReport, Options, TEMP_NAME, exists};
use kvdb_vfs::{Fault, FaultFs, FaultPlan, Fs, Keep, MemFs, Op, SyncSite};

const FAULTS: [Fault; 6] = [
    Fault::Io,
    Fault::IoAfter,
    Fault::NoSpace,
    Fault::TooManyFiles,
    Fault::ShortWrite,
    Fault::LoseUnsynced,
];

/// Each fault, once and for ever, at each of the operations that `run` starts.
fn everywhere(run: impl Fn(&dyn Fn(&FaultFs), &str)) {
    let mut failures = 0;
    for fault in FAULTS {
        for forever in [false, true] {
            for n in 0.. {
                let armed = std::cell::RefCell::new(None);
                let arm = |fs: &FaultFs| {
                    let plan = FaultPlan::new(fault).after(n);
                    let plan = if forever { plan.forever() } else { plan };
                    *armed.borrow_mut() = Some(fs.arm(plan));
                };
                run(&arm, &format!("{fault:?} at operation {n}, for ever: {forever}"));
                if armed.borrow().as_ref().unwrap().fired() == 0 {
                    break; // the workload is shorter than that
                }
                failures += 1;
            }
        }
    }
    assert!(failures > 10);
}

/// What a caller knows.
#[derive(Default)]
struct Knowledge {
    acknowledged: BTreeSet<u64>,
    unknown: BTreeSet<u64>,
}

impl Knowledge {
    fn append(&mut self, manifest: &Manifest<Numbers>, n: u64, what: &str) {
        match manifest.append(&heavy(n, [0, 700, 5000][n as usize % 3])) {
            Ok(()) => {
                self.acknowledged.insert(n);
            }
            Err(e @ Error::OutcomeUnknown { .. }) => {
                assert!(manifest.is_poisoned() && e.is_outcome_unknown(), "{what}");
                self.unknown.insert(n);
            }
            Err(Error::Io(_)) => assert!(!manifest.is_poisoned(), "{what}"),
            Err(Error::Poisoned { .. }) => assert!(manifest.is_poisoned(), "{what}"),
            Err(e) => panic!("{what}: {e}"),
        }
    }

    /// Opens an image and checks it; then what was found must not vanish any more.
    fn check(&self, image: &MemFs, exact: bool, what: &str) {
        let (manifest, _) = open(image).unwrap_or_else(|e| panic!("{what}: {e}"));
        let found = manifest.read(|s| s.0.clone());
        assert!(found.is_superset(&self.acknowledged), "{what}: {found:?}");
        let extra: BTreeSet<u64> = found.difference(&self.acknowledged).copied().collect();
        assert!(extra.is_subset(&self.unknown), "{what}: {found:?}");
        assert!(!exact || extra.is_empty(), "{what}: {found:?}");
        let later = image.crash_image(&mut Keep::None);
        assert_eq!(numbers(&open(&later).unwrap().0), numbers(&manifest), "{what}");
        manifest.append(&add(1_000_000)).unwrap();
        let later = image.crash_image(&mut Keep::None);
        assert_eq!(numbers(&open(&later).unwrap().0), numbers(&manifest), "{what}");
    }

    fn check_all(&self, fs: &MemFs, exact: bool, what: &str) {
        self.check(&fs.process_image(), exact, what);
        self.check(&fs.crash_image(&mut Keep::None), exact, what);
        self.check(&fs.crash_image(&mut Keep::All), exact, what);
        for seed in 0..4 * scale() {
            self.check(&fs.crash_image(&mut Keep::Random(seed)), exact, what);
        }
    }
}

fn open_faulty(fs: &FaultFs, options: Options) -> Result<(Manifest<Numbers>, OpenReport), Error> {
    Manifest::open(Arc::new(fs.clone()), Path::new(DIR), options)
}

#[test]
fn appends_and_rewrites_that_fail_leave_memory_and_disk_alike_or_poison() {
    // Rewrites on demand, and rewrites that an append brings about.
    let automatic = || Options { rewrite_bytes: 3000, rewrite_ratio: 2, ..Options::default() };
    for options in [manual, automatic] {
        everywhere(|arm, what| {
            let fs = file_system();
            create(&fs).append(&add(100)).unwrap();
            let faulty = FaultFs::new(Arc::new(fs.clone()));
            let (manifest, _) = open_faulty(&faulty, options()).unwrap();
            let mut known = Knowledge { acknowledged: [100].into(), ..Knowledge::default() };
            arm(&faulty);
            for n in 0..7 {
                known.append(&manifest, n, what);
                if n == 3 {
                    match manifest.rewrite() {
                        Ok(()) | Err(Error::Io(_) | Error::Poisoned { .. }) => {}
                        Err(Error::OutcomeUnknown { .. }) => assert!(manifest.is_poisoned()),
                        Err(e) => panic!("{what}: {e}"),
                    }
                }
                if n == 5 && manifest.settle().is_ok() {
                    assert!(!manifest.is_poisoned());
                }
            }
            faulty.disarm();
            assert_eq!(manifest.read(|s| s.0.clone()), known.acknowledged, "{what}");
            known.check_all(&fs, !manifest.is_poisoned(), what);
            if !manifest.is_poisoned() {
                manifest.verify().unwrap();
                known.append(&manifest, 7, what);
                assert!(known.acknowledged.contains(&7), "{what}");
                known.check_all(&fs, true, what);
            }
        });
    }
}

#[test]
fn opening_that_fails_destroys_nothing_and_works_when_the_fault_is_gone() {
    // The process died before the sync of its last append: whole in the cache, not on the disk.
    // And with a torn append instead.
    for torn in [false, true] {
        everywhere(|arm, what| {
            let fs = file_system();
            let faulty = FaultFs::new(Arc::new(fs.clone()));
            let mut known = Knowledge::default();
            {
                let manifest: Manifest<Numbers> =
                    Manifest::create(Arc::new(faulty.clone()), Path::new(DIR), 1, manual())
                        .unwrap();
                known.append(&manifest, 1, what);
                known.append(&manifest, 2, what);
                let fault = if torn { Fault::ShortWrite } else { Fault::LoseUnsynced };
                faulty.arm(FaultPlan::new(fault).forever());
                faulty.arm(FaultPlan::new(Fault::Io).on(&[Op::SetLen]));
                known.append(&manifest, 4, what);
                assert_eq!(known.unknown, [4].into(), "{what}");
                faulty.disarm();
            }
            let fs = fs.process_image();
            let faulty = FaultFs::new(Arc::new(fs.clone()));
            arm(&faulty);
            let opened = open_faulty(&faulty, manual());
            faulty.disarm();
            match opened {
                Err(Error::Io(_)) => known.check_all(&fs, false, what),
                Err(e) => panic!("{what}: {e}"),
                Ok((manifest, report)) => {
                    assert_eq!(report.cut.is_some(), torn, "{what}");
                    // What was found is acknowledged by that.
                    let found = manifest.read(|s| s.0.clone());
                    assert_eq!(found.contains(&4), !torn, "{what}");
                    let known = Knowledge { acknowledged: found, ..Knowledge::default() };
                    known.check_all(&fs, true, what);
                }
            }
        });
    }
}

#[test]
fn creating_that_fails_can_be_tried_again() {
    everywhere(|arm, what| {
        let fs = file_system();
        let faulty = FaultFs::new(Arc::new(fs.clone()));
        arm(&faulty);
        let created: Result<Manifest<Numbers>, Error> =
            Manifest::create(Arc::new(faulty.clone()), Path::new(DIR), 1, manual());
        faulty.disarm();
        assert!(matches!(created, Ok(_) | Err(Error::Io(_))), "{what}");
        let known = Knowledge::default();
        for image in [fs.process_image(), fs.crash_image(&mut Keep::Random(1))] {
            if exists(&image, Path::new(DIR)).unwrap() {
                known.check(&image, true, what);
            } else {
                assert!(created.is_err() || image.operations() == 0, "{what}");
                create(&image).append(&add(1)).unwrap();
            }
        }
    });
}

#[test]
fn verifying_that_cannot_read_says_so_and_harms_nothing() {
    everywhere(|arm, what| {
        let fs = file_system();
        create(&fs).append(&add(1)).unwrap();
        let faulty = FaultFs::new(Arc::new(fs.clone()));
        let (manifest, _) = open_faulty(&faulty, manual()).unwrap();
        arm(&faulty);
        assert!(matches!(manifest.verify(), Ok(_) | Err(Error::Io(_))), "{what}");
        faulty.disarm();
        manifest.append(&add(2)).unwrap();
        manifest.verify().unwrap();
    });
}

#[test]
fn after_a_poisoning_nothing_is_written_and_reading_goes_on() {
    let fs = file_system();
    create(&fs).append(&add(1)).unwrap();
    let faulty = FaultFs::new(Arc::new(fs.clone()));
    let (manifest, _) = open_faulty(&faulty, manual()).unwrap();
    faulty.arm(FaultPlan::new(Fault::Io).on(&[Op::SyncData]));
    assert!(manifest.append(&add(2)).unwrap_err().is_outcome_unknown());
    let operations = fs.operations();
    assert!(matches!(manifest.append(&add(3)), Err(Error::Poisoned { cause, .. })
        if cause.contains("sync")));
    assert!(matches!(manifest.rewrite(), Err(Error::Poisoned { .. })));
    assert!(matches!(manifest.settle(), Err(Error::Poisoned { .. })));
    assert_eq!(fs.operations(), operations);
    assert_eq!(numbers(&manifest), [1]);
}

#[test]
fn a_failed_write_that_is_not_durably_taken_back_poisons() {
    // The write took effect, so a power loss might bring it back until the truncation is synced.
    let fs = file_system();
    create(&fs).append(&add(1)).unwrap();
    let faulty = FaultFs::new(Arc::new(fs.clone()));
    let (manifest, _) = open_faulty(&faulty, manual()).unwrap();
    faulty.arm(FaultPlan::new(Fault::IoAfter).on(&[Op::Write]));
    let sync = faulty.arm(FaultPlan::new(Fault::Io).on(&[Op::SyncData]));
    assert!(manifest.append(&add(2)).unwrap_err().is_outcome_unknown());
    assert!(sync.fired() == 1 && manifest.is_poisoned());
}

#[test]
fn a_settling_that_fails_poisons() {
    let fs = file_system();
    create(&fs).append(&add(1)).unwrap();
    let faulty = FaultFs::new(Arc::new(fs.clone()));
    let (manifest, _) = open_faulty(&faulty, manual()).unwrap();
    manifest.append(&add(2)).unwrap();
    faulty.arm(FaultPlan::new(Fault::Io).on(&[Op::SyncData]));
    assert!(manifest.settle().unwrap_err().is_outcome_unknown() && manifest.is_poisoned());
    // What it was to vouch for was durable before.
    assert_eq!(numbers(&open(&fs.crash_image(&mut Keep::None)).unwrap().0), [1, 2]);
}

#[test]
fn a_write_that_was_taken_back_leaves_the_last_record_with_its_mark() {
    for fault in [Fault::Io, Fault::IoAfter, Fault::ShortWrite] {
        let fs = file_system();
        create(&fs).append(&add(1)).unwrap();
        let faulty = FaultFs::new(Arc::new(fs.clone()));
        let (manifest, _) = open_faulty(&faulty, manual()).unwrap();
        let end = manifest.size() as usize;
        faulty.arm(FaultPlan::new(fault).on(&[Op::Write]));
        assert!(matches!(manifest.append(&heavy(2, 3000)), Err(Error::Io(_))), "{fault:?}");
        let mut bytes = bytes_of(&fs);
        assert_eq!(bytes.len(), end + RECORD_HEADER, "{fault:?}");
        bytes[end - 1] ^= 1;
        let opened = open(&with_bytes(&bytes));
        assert!(matches!(opened, Err(Error::Corrupt { .. })), "{fault:?}: passes for torn");
    }
}

/// The mark of a settled manifest is durable; taking a write back must not cost it that.
#[test]
fn a_settled_manifest_stays_settled_when_an_append_is_taken_back() {
    for fault in [Fault::Io, Fault::IoAfter, Fault::NoSpace, Fault::ShortWrite] {
        let fs = file_system();
        drop(create(&fs));
        let faulty = FaultFs::new(Arc::new(fs.clone()));
        let (manifest, _) = open_faulty(&faulty, manual()).unwrap();
        manifest.append(&add(1)).unwrap();
        manifest.settle().unwrap();
        faulty.arm(FaultPlan::new(fault).on(&[Op::Write]));
        assert!(matches!(manifest.append(&add(2)), Err(Error::Io(_))), "{fault:?}");
        let mut bytes = bytes_of(&fs.crash_image(&mut Keep::None));
        bytes[HEADER + RECORD_HEADER] ^= 1;
        let opened = open(&with_bytes(&bytes));
        assert!(matches!(opened, Err(Error::Corrupt { .. })), "{fault:?}: passes for torn");
    }
}

#[test]
fn a_rewrite_that_fails_leaves_no_file_behind() {
    let site = SyncSite::ManifestRewrite;
    for plan in [
        FaultPlan::new(Fault::NoSpace).on(&[Op::Write]).path(TEMP_NAME),
        FaultPlan::new(Fault::Io).on(&[Op::SyncData]).site(site),
        FaultPlan::new(Fault::Io).on(&[Op::Rename]),
    ] {
        let fs = file_system();
        create(&fs).append(&add(1)).unwrap();
        let faulty = FaultFs::new(Arc::new(fs.clone()));
        let (manifest, _) = open_faulty(&faulty, manual()).unwrap();
        let armed = faulty.arm(plan.clone());
        assert!(matches!(manifest.rewrite(), Err(Error::Io(_))), "{plan:?}");
        assert_eq!(armed.fired(), 1);
        assert!(fs.metadata(&Path::new(DIR).join(TEMP_NAME)).is_err(), "{plan:?}");
        manifest.append(&add(2)).unwrap();
        manifest.rewrite().unwrap();
        assert_eq!(numbers(&open(&fs).unwrap().0), [1, 2]);
    }
}

#[test]
fn a_creation_that_fails_leaves_no_file_behind() {
    for fault in [Fault::Io, Fault::IoAfter, Fault::NoSpace] {
        for op in [Op::Open, Op::Write, Op::SyncData, Op::Rename] {
            let fs = file_system();
            let faulty = FaultFs::new(Arc::new(fs.clone()));
            faulty.arm(FaultPlan::new(fault).on(&[op]));
            let created =
                Manifest::<Numbers>::create(Arc::new(faulty), Path::new(DIR), 1, manual());
            assert!(created.is_err(), "{fault:?} {op:?}");
            assert!(fs.metadata(&Path::new(DIR).join(TEMP_NAME)).is_err(), "{fault:?} {op:?}");
        }
    }
}

#[test]
fn a_rewrite_that_failed_is_not_tried_again_with_every_append() {
    let fs = file_system();
    drop(create(&fs));
    let faulty = FaultFs::new(Arc::new(fs.clone()));
    let options = Options { rewrite_bytes: 2000, rewrite_ratio: 2, ..Options::default() };
    let (manifest, _) = open_faulty(&faulty, options).unwrap();
    let full = FaultPlan::new(Fault::NoSpace).on(&[Op::Open]).path(TEMP_NAME);
    let armed = faulty.arm(full.forever());
    let mut n = 0;
    while armed.fired() == 0 {
        manifest.append(&heavy(n, 400)).unwrap();
        n += 1;
    }
    let failed_at = manifest.size();
    while armed.fired() == 1 {
        manifest.append(&heavy(n, 400)).unwrap();
        n += 1;
    }
    assert!(manifest.size() - failed_at >= 1 << 16, "{failed_at}, {}", manifest.size());
    faulty.disarm();
    while manifest.size() > failed_at {
        manifest.append(&heavy(n, 400)).unwrap();
        n += 1;
    }
    assert_eq!(numbers(&open(&fs).unwrap().0), (0..n).collect::<Vec<_>>());
}

/// Two faults: the second one hits whatever the first made necessary.
#[test]
fn two_faults_in_a_row_lose_nothing() {
    let faults_there_are =
        [Fault::Io, Fault::IoAfter, Fault::NoSpace, Fault::ShortWrite, Fault::LoseUnsynced];
    for first in faults_there_are {
        for second in faults_there_are {
            for n in 0..40 {
                for gap in [0, 1, 2] {
                    let what = format!("{first:?} at {n}, {second:?} {gap} behind it");
                    let fs = file_system();
                    create(&fs).append(&add(100)).unwrap();
                    let faults = FaultFs::new(Arc::new(fs.clone()));
                    let options =
                        Options { rewrite_bytes: 2500, rewrite_ratio: 2, ..Options::default() };
                    let opened = Manifest::<Numbers>::open(
                        Arc::new(faults.clone()),
                        Path::new(DIR),
                        options,
                    );
                    let (manifest, _) = opened.unwrap();
                    faults.arm(FaultPlan::new(first).after(n));
                    faults.arm(FaultPlan::new(second).after(n + 1 + gap));
                    let (mut acked, mut unknown) = (vec![100], Vec::new());
                    for i in 0..6 {
                        match manifest.append(&heavy(i, [0, 700, 2000][i as usize % 3])) {
                            Ok(()) => acked.push(i),
                            Err(Error::OutcomeUnknown { .. }) => unknown.push(i),
                            Err(_) => {}
                        }
                        if i == 3 {
                            let _ = manifest.rewrite();
                        }
                    }
                    faults.disarm();
                    acked.sort_unstable();
                    assert_eq!(numbers(&manifest), acked, "{what}");
                    for image in [
                        fs.process_image(),
                        fs.crash_image(&mut Keep::None),
                        fs.crash_image(&mut Keep::All),
                        fs.crash_image(&mut Keep::Random(n * 7 + gap)),
                    ] {
                        let (found, _) = open(&image).unwrap_or_else(|e| panic!("{what}: {e}"));
                        let found = numbers(&found);
                        assert!(acked.iter().all(|a| found.contains(a)), "{what}: {found:?}");
                        let extra = found.iter().filter(|f| !acked.contains(f));
                        assert!(extra.clone().all(|f| unknown.contains(f)), "{what}: {found:?}");
                        // What was found stays.
                        let later = image.crash_image(&mut Keep::None);
                        assert_eq!(numbers(&open(&later).unwrap().0), found, "{what}");
                    }
                }
            }
        }
    }
}

#[test]
fn opening_with_a_fault_and_then_a_power_loss_loses_nothing() {
    for fault in [Fault::Io, Fault::IoAfter, Fault::ShortWrite, Fault::LoseUnsynced] {
        for n in 0..30 {
            let fs = file_system();
            let first = FaultFs::new(Arc::new(fs.clone()));
            create(&fs).append(&add(1)).unwrap();
            let (manifest, _) =
                Manifest::<Numbers>::open(Arc::new(first.clone()), Path::new(DIR), manual())
                    .unwrap();
            manifest.append(&add(2)).unwrap();
            first.arm(FaultPlan::new(Fault::LoseUnsynced).site(SyncSite::ManifestAppend));
            assert!(manifest.append(&heavy(3, 900)).is_err());
            drop(manifest);
            let second = FaultFs::new(Arc::new(fs.clone()));
            second.arm(FaultPlan::new(fault).after(n));
            let opened = Manifest::<Numbers>::open(Arc::new(second), Path::new(DIR), manual());
            let found = opened.map(|(manifest, _)| {
                let found = numbers(&manifest);
                let _ = manifest.append(&add(4));
                found
            });
            let (after, _) = open(&fs.crash_image(&mut Keep::None)).unwrap();
            let after = numbers(&after);
            let found = found.unwrap_or_else(|_| vec![1, 2]);
            assert!(found.iter().all(|f| after.contains(f)), "{fault:?} {n}: {found:?} {after:?}");
        }
    }
}
