//! A log whose directory is its manifest, where something fails or is damaged.
use std::convert::Infallible;
use std::path::Path;
use std::sync::{Arc, Mutex};

use kvdb_vfs::{
    DirtyPage, Fault, FaultFs, FaultPlan, Fs, ImagePolicy, MemFs, NameChange, Op, OpenMode,
    SyncSite,
};
use kvdb_vlog::*;

use crate::common::*;

pub fn directory(fs: impl Fs + 'static) -> Directory {
    Directory::new(Arc::new(fs), DIR.as_ref(), 7).unwrap()
}

fn open(directory: &Directory) -> Result<(Log, ReplayEnd)> {
    let ignore = |_: FrameView<'_>| Ok::<(), Infallible>(());
    directory.open(options(), ignore).map_err(|e| match e {
        ReplayError::Log(e) => e,
        other => panic!("{other:?}"),
    })
}

fn add(log: &Log, frames: u64, durability: Durability) {
    for seed in 0..frames {
        log.append(Entry { version: 0, seed, size: 900 }.frame(), durability).unwrap();
    }
}

fn fill(log: &Log, segment: u32, durability: Durability) {
    while log.end().segment < segment {
        add(log, 1, durability);
    }
}

pub fn files(fs: &MemFs) -> Vec<u64> {
    let names = fs.list(DIR.as_ref()).unwrap();
    let mut files: Vec<_> = names.iter().filter_map(|e| parse_segment_path(&e.name)).collect();
    files.sort_unstable();
    files
}

/// After power loss: all that a test does not take away.
struct Loses {
    /// The second page of this file.
    page: Option<&'static str>,
    /// What is not durable of lengths.
    lengths: bool,
    /// Of the changes of names, those whose bit is set are there.
    names: u64,
}

impl ImagePolicy for Loses {
    fn length(&mut self, _: &Path, durable: u64, current: u64) -> u64 {
        if self.lengths { durable.max(4096.min(current)) } else { current }
    }

    fn page(&mut self, page: &DirtyPage<'_>) -> u8 {
        let lost = self.page.is_some_and(|name| page.path.ends_with(name) && page.page == 1);
        if lost { 0 } else { 0xff }
    }

    fn name(&mut self, change: &NameChange<'_>) -> bool {
        self.names >> change.index & 1 == 1
    }
}

#[test]
fn rule_46_the_first_buffered_frames_of_a_new_segment_may_be_lost_in_part() {
    let disk = new_disk();
    let (log, _) = open(&directory(disk.clone())).unwrap();
    add(&log, 3, Durability::Sync);
    drop(log);
    let (log, _) = open(&directory(disk.clone())).unwrap();
    assert_eq!(log.end().segment, 2);
    add(&log, 7, Durability::Buffered);
    assert!(log.end().offset > 8192 + 1000, "their frames reach into the third page");
    let image =
        disk.crash_image(&mut Loses { page: Some("000002.vlog"), lengths: false, names: u64::MAX });
    let (_, end) = open(&directory(image)).unwrap();
    assert_eq!(end.frames, 3);
}

#[test]
fn rules_47_49_a_file_whose_header_was_zeroed_is_damage_if_it_has_frames() {
    // The only one, the newest of several, one in the middle.
    for (frames, file) in [(5, 1), (40, 0), (40, 2)] {
        let disk = new_disk();
        let directory = directory(disk.clone());
        let (log, _) = open(&directory).unwrap();
        add(&log, frames, Durability::Sync);
        let active = u64::from(log.end().segment);
        assert!(frames == 5 || active > 2);
        log.idle_sync().unwrap();
        drop(log);
        let path = segment_path(DIR.as_ref(), if file == 0 { active } else { file });
        disk.open(&path, OpenMode::ReadWrite).unwrap().write_all_at(&[0; 4096], 0).unwrap();
        let before = files(&disk);
        for _ in 0..2 {
            let e = open(&directory).unwrap_err();
            assert!(e.to_string().contains(&path.display().to_string()), "{e}");
        }
        assert_eq!(files(&disk), before, "nothing is removed");
    }
}

#[test]
fn a_directory_opens_with_a_spare_that_failed_and_the_next_one() {
    let disk = new_disk();
    let faults = FaultFs::new(Arc::new(disk.clone()));
    let (log, _) = open(&directory(faults.clone())).unwrap();
    add(&log, 3, Durability::Sync);
    let armed = faults.arm(FaultPlan::new(Fault::Io).site(SyncSite::LogSegmentCreate));
    assert!(log.prepare().is_err() && armed.fired() == 1);
    let images = Arc::new(Mutex::new(Vec::new()));
    let taken = images.clone();
    let take = move |disk: &MemFs| {
        for names in 0..1 << disk.unsynced_names().min(5) {
            for lengths in [false, true] {
                let image = disk.crash_image(&mut Loses { page: None, lengths, names });
                taken.lock().unwrap().push(image);
            }
        }
    };
    take(&disk);
    disk.on_operation(move |disk: &MemFs, _: Op, _: &Path| take(disk));
    log.prepare().unwrap();
    disk.clear_hook();
    let images = std::mem::take(&mut *images.lock().unwrap());
    assert!(images.len() > 4);
    for image in images {
        let (log, end) = open(&directory(image.clone())).unwrap();
        assert_eq!(end.frames, 3);
        add(&log, 1, Durability::Sync);
        drop(log);
        assert_eq!(open(&directory(image)).unwrap().1.frames, 4);
    }
}

#[test]
fn rule_44_a_removal_that_failed_is_made_good_before_the_next_one() {
    for op in [Op::Remove, Op::SyncDir] {
        let disk = new_disk();
        let faults = FaultFs::new(Arc::new(disk.clone()));
        let directory = directory(faults.clone());
        let (log, _) = open(&directory).unwrap();
        fill(&log, 5, Durability::Buffered);
        let kept = log.append(Entry { version: 0, seed: 99, size: 900 }.frame(), Durability::Sync);
        let kept = kept.unwrap();
        faults.arm(FaultPlan::new(Fault::Io).on(&[op]));
        assert!(directory.remove_before(&log, Position::new(3, FIRST_FRAME)).is_err());
        directory.remove_before(&log, kept.position).unwrap();
        assert_eq!(files(&disk)[0], u64::from(kept.position.segment), "{op:?}");
        drop(log);
        let mut last = 0;
        let note = |frame: FrameView<'_>| {
            last = frame.version();
            Ok::<_, Infallible>(())
        };
        directory.open(options(), note).unwrap();
        assert_eq!(last, kept.version, "{op:?}");
    }
}

#[test]
fn several_threads_remove_and_leave_no_gap() {
    for _ in 0..20 {
        let disk = new_disk();
        let directory = directory(disk.clone());
        let (log, _) = open(&directory).unwrap();
        fill(&log, 8, Durability::Sync);
        std::thread::scope(|scope| {
            for to in [4, 6, 7] {
                let (directory, log) = (&directory, &log);
                scope.spawn(move || {
                    directory.remove_before(log, Position::new(to, FIRST_FRAME)).unwrap();
                });
            }
        });
        assert_eq!(files(&disk)[0], 7);
        drop(log);
        open(&directory).unwrap();
    }
}

#[test]
fn nothing_is_removed_before_a_position_beyond_the_end() {
    let disk = new_disk();
    let directory = directory(disk.clone());
    let (log, _) = open(&directory).unwrap();
    fill(&log, 3, Durability::Sync);
    let before = files(&disk);
    let beyond = Position::new(log.end().segment + 1, FIRST_FRAME);
    assert!(matches!(directory.remove_before(&log, beyond), Err(Error::Misuse(_))));
    assert_eq!(files(&disk)[..3], before[..3]);
}

#[test]
fn a_file_of_the_largest_number_is_an_error() {
    let disk = new_disk();
    disk.open(&segment_path(DIR.as_ref(), u64::MAX), OpenMode::CreateNew).unwrap();
    assert!(open(&directory(disk)).is_err());
}
