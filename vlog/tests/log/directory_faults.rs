//! A log whose directory is its manifest, where anything fails, once, twice or for ever.
use std::convert::Infallible;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::{Arc, Mutex};

use kvdb_vfs::{
    DirtyPage, Fault, FaultFs, FaultPlan, Fs, ImagePolicy, Keep, MemFs, NameChange, Op, OpenMode,
    SyncSite,
};
use kvdb_vlog::*;

use crate::common::*;
use crate::directory::{directory, files};

pub fn open_dir(directory: &Directory, options: &Options) -> Result<(Log, ReplayEnd, Vec<u64>)> {
    let mut seen = Vec::new();
    let note = |frame: FrameView<'_>| {
        seen.push(frame.version());
        Ok::<(), Infallible>(())
    };
    let (log, end) = directory.open(options.clone(), note).map_err(|e| match e {
        ReplayError::Log(e) => e,
        other => panic!("{other:?}"),
    })?;
    Ok((log, end, seen))
}

/// Opens a log and commits a small frame.
fn begun(directory: &Directory, options: &Options) -> Log {
    let (log, ..) = open_dir(directory, options).unwrap();
    put(&log, 100, Durability::Sync);
    log
}

pub fn frame(size: usize) -> Frame {
    let mut builder = FrameBuilder::new();
    builder.push(b"key", b"", &vec![7; size], None).unwrap();
    builder.finish()
}

pub fn put(log: &Log, size: usize, durability: Durability) -> Appended {
    log.append(frame(size), durability).unwrap()
}

pub fn fill(log: &Log, segment: u32) {
    while log.end().segment < segment {
        put(log, 900, Durability::Sync);
    }
}

/// A spare that could not be mapped (too many maps) is not in the log, so its file must not be, either.
#[test]
fn rule_48_a_spare_that_cannot_be_mapped_leaves_no_file_behind() {
    let disk = new_disk();
    let faults = FaultFs::new(Arc::new(disk.clone()));
    let dir = directory(faults.clone());
    let log = begun(&dir, &options());
    let armed = faults.arm(FaultPlan::new(Fault::Io).on(&[Op::Map]));
    assert!(log.prepare().is_err());
    assert_eq!(armed.fired(), 1);
    fill(&log, 3);
    let last = put(&log, 100, Durability::Sync);
    log.close().unwrap();
    drop(log);
    let (_, _, seen) = open_dir(&dir, &options()).unwrap();
    assert_eq!(seen.last(), Some(&last.version));
}

#[test]
fn rule_48_a_spare_that_could_be_neither_made_nor_removed_does_not_keep_a_directory_shut() {
    let mut wrong = Vec::new();
    for (op, image) in
        [(Op::Write, false), (Op::SyncData, false), (Op::SyncDir, false), (Op::SyncData, true)]
    {
        let disk = new_disk();
        let faults = FaultFs::new(Arc::new(disk.clone()));
        let dir = directory(faults.clone());
        let (log, ..) = open_dir(&dir, &options()).unwrap();
        put(&log, 100, Durability::Sync);
        let one = faults.arm(FaultPlan::new(Fault::Io).on(&[op]));
        let two = faults.arm(FaultPlan::new(Fault::Io).on(&[Op::Remove]));
        assert!(log.prepare().is_err());
        assert_eq!((one.fired(), two.fired()), (1, 1));
        fill(&log, 3);
        let last = put(&log, 100, Durability::Sync);
        drop(log);
        let disk = if image { disk.crash_image(&mut Keep::None) } else { disk.process_image() };
        let opened = open_dir(&directory(disk), &options());
        match opened {
            Ok((_, _, seen)) => assert_eq!(seen.last(), Some(&last.version)),
            Err(e) => wrong.push(format!("{op:?}, power loss {image}: {e}")),
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn rule_48_segments_are_removed_on_a_full_disk() {
    let disk = new_disk();
    let faults = FaultFs::new(Arc::new(disk.clone()));
    let dir = directory(faults.clone());
    let (log, ..) = open_dir(&dir, &options()).unwrap();
    fill(&log, 4);
    let position = put(&log, 100, Durability::Sync).position;
    assert!(files(&disk).len() >= 4);
    faults.arm(FaultPlan::new(Fault::NoSpace).on(&[Op::Open, Op::Allocate]).forever());
    let removed = dir.remove_before(&log, position);
    assert_eq!(files(&disk)[0], 4, "{removed:?}");
}

#[test]
fn rule_49_a_file_of_no_length_is_named_and_not_removed_if_frames_follow() {
    let mut wrong = Vec::new();
    for file in [1, 2] {
        let disk = new_disk();
        let dir = directory(disk.clone());
        let (log, ..) = open_dir(&dir, &options()).unwrap();
        fill(&log, 3);
        log.close().unwrap();
        drop(log);
        let path = segment_path(DIR.as_ref(), file);
        disk.open(&path, OpenMode::ReadWrite).unwrap().set_len(0).unwrap();
        let before = files(&disk);
        let opened = open_dir(&dir, &options());
        let named =
            matches!(&opened, Err(e) if e.to_string().contains(&path.display().to_string()));
        if !named || files(&disk) != before {
            let opened = opened.map(|(_, end, _)| end.frames);
            wrong.push(format!("file {file}: {opened:?}, {before:?} -> {:?}", files(&disk)));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn a_file_of_another_database_is_not_removed() {
    let disk = new_disk();
    let (log, ..) = open_dir(&directory(disk.clone()), &options()).unwrap();
    put(&log, 100, Durability::Sync);
    assert!(log.prepare().unwrap());
    drop(log);
    let spare = disk.open(&segment_path(DIR.as_ref(), 2), OpenMode::ReadWrite).unwrap();
    spare.set_len(4096).unwrap();
    let other = Directory::new(Arc::new(disk.clone()), DIR.as_ref(), 8).unwrap();
    let before = files(&disk);
    let opened = open_dir(&other, &options());
    assert!(matches!(opened, Err(Error::WrongDatabase { .. })));
    assert_eq!(files(&disk), before);
}

/// Keeps all but: lengths, and the removal of names.
struct Only {
    lengths: bool,
    removals: bool,
}

impl ImagePolicy for Only {
    fn length(&mut self, _: &Path, durable: u64, current: u64) -> u64 {
        if self.lengths { current } else { durable.max(4096.min(current)) }
    }
    fn page(&mut self, _: &DirtyPage<'_>) -> u8 {
        0xff
    }
    fn name(&mut self, change: &NameChange<'_>) -> bool {
        self.removals || change.to.is_some()
    }
}

#[test]
fn an_unfinished_file_is_gone_for_good_before_one_behind_it_has_frames() {
    let disk = new_disk();
    let faults = FaultFs::new(Arc::new(disk.clone()));
    let dir = directory(faults.clone());
    let log = begun(&dir, &options());
    faults.arm(FaultPlan::new(Fault::Io).site(SyncSite::LogSegmentCreate));
    faults.arm(FaultPlan::new(Fault::Io).on(&[Op::Remove]));
    assert!(log.prepare().is_err());
    assert!(log.prepare().unwrap());
    log.close().unwrap();
    drop(log);
    let disk = disk.crash_image(&mut Only { lengths: false, removals: true });
    assert_eq!(files(&disk), [1, 2, 3]);
    let (log, end, _) = open_dir(&directory(disk.clone()), &options()).unwrap();
    assert!(end.clean);
    assert_eq!(files(&disk), [1, 3]);
    fill(&log, 3);
    let last = put(&log, 100, Durability::Sync).version;
    drop(log);
    let disk = disk.crash_image(&mut Only { lengths: true, removals: false });
    let (_, _, seen) = open_dir(&directory(disk), &options()).unwrap();
    assert_eq!(seen.last(), Some(&last));
}

/// What a directory knows of a life under a fault.
#[derive(Debug, Default, Clone)]
struct Life {
    /// Versions enqueued in order, with what was acknowledged.
    written: Vec<u64>,
    acked: usize,
    acked_sync: usize,
    removed: u64,
    errors: Vec<String>,
    reopened: bool,
}

const OPS: &[Op] = &[
    Op::Open,
    Op::Rename,
    Op::Remove,
    Op::List,
    Op::Metadata,
    Op::CreateDir,
    Op::SyncDir,
    Op::Read,
    Op::Write,
    Op::SyncData,
    Op::Allocate,
    Op::SetLen,
    Op::Len,
    Op::Map,
];

fn live(fs: &FaultFs, options: &Options) -> Result<Life, String> {
    let mut life = Life::default();
    let Ok(dir) = Directory::new(Arc::new(fs.clone()), DIR.as_ref(), 7) else { return Ok(life) };
    for _ in 0..2 {
        let (log, _, seen) = match open_dir(&dir, options) {
            Ok(opened) => opened,
            Err(e) => {
                life.errors.push(e.to_string());
                // Once more: the fault may have been for once.
                match open_dir(&dir, options) {
                    Ok(opened) => {
                        life.reopened = true;
                        opened
                    }
                    Err(e) => {
                        life.errors.push(e.to_string());
                        return Ok(life);
                    }
                }
            }
        };
        same(&life, &seen, life.acked)?;
        life.written = seen.clone();
        life.acked = seen.len();
        life.acked_sync = seen.len();
        let mut starts: Vec<Appended> = Vec::new();
        for i in 0..16 {
            let size = if i % 5 == 4 { 3500 } else { 300 };
            let durability = if i % 2 == 0 { Durability::Sync } else { Durability::Buffered };
            match log.append(frame(size), durability) {
                Ok(done) => {
                    life.written.push(done.version);
                    life.acked = life.written.len();
                    if durability == Durability::Sync {
                        life.acked_sync = life.acked;
                    }
                    starts.push(done);
                }
                Err(e) => {
                    life.errors.push(e.to_string());
                    if log.poisoned().is_some() {
                        break;
                    }
                }
            }
            if i % 4 == 1
                && let Err(e) = log.prepare()
            {
                life.errors.push(e.to_string());
            }
            if i % 7 == 3
                && let Err(e) = log.idle_sync()
            {
                life.errors.push(e.to_string());
            }
            if i == 9 {
                match log.rotate(u64::MAX) {
                    Ok(_) => life.acked_sync = life.acked,
                    Err(e) => life.errors.push(e.to_string()),
                }
            }
            if i == 12
                && let Some(start) = starts.get(starts.len().saturating_sub(3))
            {
                let first = starts.iter().find(|s| s.position.segment == start.position.segment);
                life.removed = life.removed.max(first.unwrap().version);
                if let Err(e) = dir.remove_before(&log, start.position) {
                    life.errors.push(e.to_string());
                }
            }
        }
        match log.close() {
            Ok(()) => life.acked_sync = life.acked,
            Err(e) => life.errors.push(e.to_string()),
        }
    }
    Ok(life)
}

/// What is seen is what was acknowledged, perhaps without what was removed, perhaps with more.
fn same(life: &Life, seen: &[u64], least: usize) -> Result<(), String> {
    // By one, or by the gap behind an unclean end.
    if seen.windows(2).any(|two| two[0] + 1 != two[1] && two[1] - two[0] < 1 << 32) {
        return Err(format!("a gap: {seen:?}"));
    }
    let needed: Vec<u64> =
        life.written[..least].iter().copied().filter(|v| *v >= life.removed).collect();
    let missing: Vec<_> = needed.iter().filter(|v| !seen.contains(v)).collect();
    if missing.is_empty() { Ok(()) } else { Err(format!("{missing:?} missing in {seen:?}")) }
}

fn sweep(
    fault: Fault,
    forever: bool,
    second: Option<(Fault, u64)>,
    options: &Options,
) -> Vec<String> {
    let mut wrong: Vec<_> = Vec::new();
    for n in 0.. {
        let disk = new_disk();
        let faults = FaultFs::new(Arc::new(disk.clone()));
        let plan = FaultPlan::new(fault).on(OPS).after(n);
        let armed = faults.arm(if forever { plan.forever() } else { plan });
        if let Some((fault, gap)) = second {
            faults.arm(FaultPlan::new(fault).on(OPS).after(n + 1 + gap));
        }
        let what = format!("{fault:?} {n} forever {forever} {second:?} {:?}", options.sync_method);
        let life = catch_unwind(AssertUnwindSafe(|| live(&faults, options)));
        let life = match life {
            Ok(Ok(life)) => life,
            Ok(Err(e)) => {
                wrong.push(format!("{what}: {e}"));
                continue;
            }
            Err(_) => {
                wrong.push(format!("{what}: panic"));
                continue;
            }
        };
        if armed.fired() == 0 {
            break;
        }
        let images = [
            (disk.process_image(), life.acked),
            (disk.crash_image(&mut Keep::None), life.acked_sync),
            (disk.crash_image(&mut Keep::All), life.acked_sync),
            (disk.crash_image(&mut Keep::Random(n)), life.acked_sync),
            (disk.crash_image(&mut Only { lengths: false, removals: true }), life.acked_sync),
            (disk.crash_image(&mut Only { lengths: true, removals: false }), life.acked_sync),
        ];
        for (i, (image, least)) in images.into_iter().enumerate() {
            match open_dir(&directory(image), options) {
                Ok((_, _, seen)) => {
                    if let Err(e) = same(&life, &seen, least) {
                        wrong.push(format!("{what}, image {i}: {e}; {:?}", life.errors));
                    }
                }
                Err(e) => wrong.push(format!("{what}, image {i}: {e}; {:?}", life.errors)),
            }
        }
    }
    wrong
}

#[test]
fn rules_44_48_every_operation_of_a_directory_may_fail_once_or_for_ever() {
    use Fault::*;
    let mut wrong: Vec<String> = Vec::new();
    for options in
        [options(), Options { sync_method: SyncMethod::Direct, prefill: true, ..options() }]
    {
        for fault in [Io, IoAfter, NoSpace, TooManyFiles, ShortWrite, LoseUnsynced] {
            wrong.extend(sweep(fault, false, None, &options));
            wrong.extend(sweep(fault, true, None, &options));
        }
    }
    let some: Vec<String> = wrong.iter().take(40).cloned().collect();
    assert!(wrong.is_empty(), "{} cases:\n{}", wrong.len(), some.join("\n"));
}

#[test]
fn rules_44_48_two_operations_of_a_directory_may_fail() {
    use Fault::*;
    let mut wrong: Vec<String> = Vec::new();
    for options in
        [options(), Options { sync_method: SyncMethod::Direct, prefill: true, ..options() }]
    {
        for first in [Io, IoAfter, LoseUnsynced] {
            for second in [Io, IoAfter, LoseUnsynced] {
                for gap in [0, 1, 2] {
                    wrong.extend(sweep(first, false, Some((second, gap)), &options));
                }
            }
        }
    }
    let some: Vec<String> = wrong.iter().take(400).cloned().collect();
    assert!(wrong.is_empty(), "{} cases:\n{}", wrong.len(), some.join("\n"));
}

#[test]
fn rule_49b_a_version_is_not_given_out_again_when_the_segments_before_were_removed() {
    let disk = new_disk();
    let dir = directory(disk.clone());
    let (log, ..) = open_dir(&dir, &options()).unwrap();
    let last = (0..3).map(|_| put(&log, 100, Durability::Sync).version).last().unwrap();
    let position = log.rotate(u64::MAX).unwrap().unwrap();
    dir.remove_before(&log, position).unwrap();
    log.close().unwrap();
    drop(log);
    let (log, ..) = open_dir(&dir, &options()).unwrap();
    let next = put(&log, 100, Durability::Sync).version;
    assert!(next > last, "{next} after {last}");
}

#[test]
fn rule_49b_a_version_lost_in_a_power_cut_is_not_given_out_again() {
    let disk = new_disk();
    let log = begun(&directory(disk.clone()), &options());
    let last = put(&log, 100, Durability::Buffered).version;
    let image = disk.crash_image(&mut Keep::None);
    let (log, _, seen) = open_dir(&directory(image), &options()).unwrap();
    assert_eq!(seen.len(), 1);
    let next = put(&log, 100, Durability::Sync).version;
    assert!(next > last, "{next} after {last}");
}

#[test]
fn rule_49b_versions_go_on_after_a_removal_and_a_power_loss() {
    let disk = new_disk();
    let dir = directory(disk.clone());
    let log = begun(&dir, &options());
    drop(log);
    let (log, ..) = open_dir(&dir, &options()).unwrap();
    let mut acked = put(&log, 100, Durability::Sync);
    while log.end().offset < 9000 {
        acked = put(&log, 900, Durability::Sync);
    }
    let segment = log.end().segment;
    let lost = put(&log, 5000, Durability::Buffered);
    assert!(log.end().segment > segment);
    dir.remove_before(&log, log.end()).unwrap();
    let disk = disk.crash_image(&mut Keep::None);
    let (log, ..) = open_dir(&directory(disk.clone()), &options()).unwrap();
    let next = put(&log, 100, Durability::Sync);
    assert!(
        next.version > acked.version,
        "next {} acked sync {} lost {}",
        next.version,
        acked.version,
        lost.version
    );
}

#[test]
fn rule_49b_a_version_lost_in_a_second_power_cut_is_not_given_out_again_either() {
    let disk = new_disk();
    let dir = directory(disk.clone());
    let log = begun(&dir, &options());
    drop(log);
    let (log, ..) = open_dir(&dir, &options()).unwrap();
    let lost = put(&log, 100, Durability::Buffered);
    let disk = disk.crash_image(&mut Keep::None);
    let (log, ..) = open_dir(&directory(disk), &options()).unwrap();
    let next = put(&log, 100, Durability::Sync);
    assert!(next.version > lost.version, "next {} lost {}", next.version, lost.version);
}

#[test]
fn rule_44_no_frame_is_acknowledged_in_a_spare_whose_name_is_not_durable() {
    let disk = new_disk();
    let dir = directory(disk.clone());
    let log = begun(&dir, &options());
    log.close().unwrap();
    drop(log);
    let (log, end, _) = open_dir(&dir, &options()).unwrap();
    assert!(end.clean);
    let image: Arc<Mutex<Option<MemFs>>> = Arc::default();
    let into = image.clone();
    disk.on_operation(move |fs, op, _| {
        if op == Op::SyncDir {
            into.lock().unwrap().get_or_insert_with(|| fs.process_image());
        }
    });
    assert!(log.prepare().unwrap());
    disk.clear_hook();
    let disk = image.lock().unwrap().take().unwrap();
    let (log, ..) = open_dir(&directory(disk.clone()), &options()).unwrap();
    fill(&log, 2);
    let last = put(&log, 100, Durability::Sync);
    assert!(log.durable_to() >= log.end());
    drop(log);
    let disk = disk.crash_image(&mut Keep::None);
    let opened =
        open_dir(&directory(disk.clone()), &options()).map(|(_, _, seen)| seen.last().copied());
    assert!(
        matches!(opened, Ok(Some(v)) if v == last.version),
        "{opened:?} of {}; files {:?}",
        last.version,
        files(&disk)
    );
}

#[test]
fn a_removal_ends_with_a_failed_sync_also_on_a_full_disk() {
    let disk = new_disk();
    let faults = FaultFs::new(Arc::new(disk.clone()));
    let dir = directory(faults.clone());
    let log = begun(&dir, &options());
    drop(log);
    let (log, ..) = open_dir(&dir, &options()).unwrap();
    fill(&log, 3);
    let acked = put(&log, 100, Durability::Sync);
    while log.end().segment == 3 {
        put(&log, 900, Durability::Buffered);
    }
    faults.arm(FaultPlan::new(Fault::NoSpace).on(&[Op::Open, Op::Allocate]).forever());
    faults.arm(FaultPlan::new(Fault::Io).on(&[Op::SyncData]));
    let removed = dir.remove_before(&log, log.end());
    let disk = disk.crash_image(&mut Keep::None);
    let (log, ..) = open_dir(&directory(disk), &options()).unwrap();
    let next = put(&log, 100, Durability::Sync);
    assert!(removed.is_err() && next.version > acked.version);
}

#[test]
fn rule_46_damage_is_told_of_its_own_file_not_of_a_harmless_one_behind_it() {
    let disk = new_disk();
    let faults = FaultFs::new(Arc::new(disk.clone()));
    let dir = directory(faults.clone());
    let log = begun(&dir, &options());
    faults.arm(FaultPlan::new(Fault::Io).on(&[Op::SyncData]));
    faults.arm(FaultPlan::new(Fault::Io).on(&[Op::Remove]));
    assert!(log.prepare().is_err());
    fill(&log, 3);
    put(&log, 100, Durability::Sync);
    log.close().unwrap();
    drop(log);
    // Damage in the first segment.
    let f = disk.open(&segment_path(DIR.as_ref(), 1), OpenMode::ReadWrite).unwrap();
    f.write_all_at(&[0xff; 8], 6000).unwrap();
    let opened = open_dir(&dir, &options()).map(|(_, e, _)| e);
    let text = format!("{opened:?}");
    assert!(text.contains("000001"), "{text}");
}

/// A spare of which the header was written and not synced when the process ended: its first frame may be
/// one that is durable by itself, and vouches for no byte but its own.
#[test]
fn rule_44_no_frame_is_acknowledged_in_a_spare_whose_header_is_not_durable() {
    for sync_method in [SyncMethod::Fdatasync, SyncMethod::DurableWrite, SyncMethod::Direct] {
        let options = Options { sync_method, ..options() };
        let disk = new_disk();
        let dir = directory(disk.clone());
        let log = begun(&dir, &options);
        log.close().unwrap();
        drop(log);
        let (log, ..) = open_dir(&dir, &options).unwrap();
        let image: Arc<Mutex<Option<MemFs>>> = Arc::default();
        let into = image.clone();
        disk.on_operation(move |disk, op, path| {
            if op == Op::SyncData && path.ends_with("000002.vlog") {
                into.lock().unwrap().get_or_insert_with(|| disk.process_image());
            }
        });
        assert!(log.prepare().unwrap());
        disk.clear_hook();
        let disk = image.lock().unwrap().take().unwrap();
        let (log, end, _) = open_dir(&directory(disk.clone()), &options).unwrap();
        assert!(end.clean);
        fill(&log, 2);
        let last = put(&log, 100, Durability::Sync);
        drop(log);
        let disk = disk.crash_image(&mut Keep::None);
        let (_, _, seen) = open_dir(&directory(disk), &options).unwrap();
        assert_eq!(seen.last(), Some(&last.version), "{sync_method:?}");
    }
}
