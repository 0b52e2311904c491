//! Every operation of the file system fails once (rules 44, 48, 49b).
use std::sync::Arc;

use kvdb_vfs::{ErrorKind, Fault, FaultFs, FaultPlan, Fs, Keep, MemFs, Op};
use kvdb_vlog::*;

use crate::common::*;

/// What a life of a log came to under a fault.
#[derive(Debug, Default)]
struct Story {
    entries: Vec<Entry>,
    /// How many of them lie before the head.
    flushed: usize,
    acked: usize,
    acked_sync: usize,
    /// Enqueued and failed, outcome unknown.
    unknown: bool,
    failed: Vec<Error>,
}

impl Story {
    /// Those that are replayed.
    fn replayed(&self) -> &[Entry] {
        &self.entries[self.flushed..]
    }
}

/// What a database does with a log at rest: leaves the active segment, moves the head behind all there
/// is, lets the files of the segments before be used again, and gives up what is kept ready.
fn rest(
    log: &Log,
    fs: &Arc<dyn Fs>,
    manifest: &Manifest,
    story: &mut Story,
    spares: bool,
) -> Result<()> {
    let remove = |metas: Vec<SegmentMeta>| {
        let paths = metas.iter().map(|meta| segment_path(DIR.as_ref(), meta.file));
        // What stays there is named by nobody.
        paths.for_each(|path| drop(fs.remove(&path)));
    };
    if spares {
        remove(log.give_up_spares(|spares| {
            let ids: Vec<_> = spares.iter().map(|s| s.segment).collect();
            manifest.0.lock().unwrap().segments.retain(|s| !ids.contains(&s.meta.segment));
            log.forget(&ids).is_ok()
        }));
        return Ok(());
    }
    let head = log.rotate(u64::MAX)?.expect("nobody commits");
    (story.acked, story.acked_sync) = (story.entries.len(), story.entries.len());
    log.prepare()?;
    let freed: Vec<_> = {
        let mut state = manifest.0.lock().unwrap();
        state.head = head;
        let (freed, kept) = state.segments.drain(..).partition(|s| s.meta.segment < head.segment);
        state.segments = kept;
        let freed: Vec<SegmentRecord> = freed;
        freed.iter().map(|s| s.meta.segment).collect()
    };
    story.flushed = story.entries.len();
    remove(log.recycle(&freed)?);
    Ok(())
}

fn live(fs: &Arc<dyn Fs>, manifest: &Arc<Manifest>, options: &Options) -> Story {
    let mut story = Story::default();
    for life in 0..2 {
        let (log, seen, _) = match open(fs, manifest, options) {
            Ok(opened) => opened,
            Err(e) => {
                story.failed.push(e);
                return story;
            }
        };
        let least = story.acked - story.flushed;
        let n = check_prefix(&seen, story.replayed(), least).unwrap();
        story.entries.truncate(story.flushed + n);
        for i in 0..14u64 {
            let version = story.entries.len() as u64 + 1;
            let size = if i % 5 == 4 { 3500 } else { 200 };
            let entry = Entry { version, seed: life * 100 + i, size };
            let durability = if i % 2 == 0 { Durability::Sync } else { Durability::Buffered };
            let frame = entry.frame();
            let room = match log.reserve(frame.len()) {
                Ok(room) => room,
                Err(e) => {
                    // Refused before the first byte: nothing else changes.
                    story.failed.push(e);
                    continue;
                }
            };
            story.entries.push(entry);
            let ticket = log.enqueue(frame, version, durability, room, ());
            match log.drive(ticket, &Discard) {
                Ok(_) => {
                    assert!(!story.unknown, "a commit after one that failed");
                    story.acked = story.entries.len();
                    if durability == Durability::Sync {
                        story.acked_sync = story.acked;
                    }
                }
                Err(e) => {
                    assert!(
                        matches!(e, Error::OutcomeUnknown { .. } | Error::Poisoned { .. }),
                        "{e}"
                    );
                    assert!(log.poisoned().is_some());
                    assert!(matches!(log.reserve(100), Err(Error::Poisoned { .. })));
                    // Reads go on.
                    for (pointer, (key, _, value, version)) in &seen.pointers {
                        if let Ok(read) = log.view().read(*pointer, key, *version) {
                            assert_eq!(&*read, &value[..]);
                        }
                    }
                    story.unknown = true;
                    story.failed.push(e);
                    return story;
                }
            }
            let steps =
                [log.prepare().err(), (i % 4 == 1).then(|| log.idle_sync().err()).flatten()];
            story.failed.extend(steps.into_iter().flatten());
            if matches!(i, 4 | 8 | 11)
                && let Err(e) = rest(&log, fs, manifest, &mut story, i == 8)
            {
                story.failed.push(e);
                if log.poisoned().is_some() {
                    return story;
                }
            }
        }
        match log.close() {
            Ok(()) => story.acked_sync = story.acked,
            Err(e) => {
                story.failed.push(e);
                return story;
            }
        }
    }
    story
}

fn check(disk: &MemFs, manifest: &Arc<Manifest>, story: &Story, options: &Options, what: &str) {
    // The process goes on and opens again; or it dies; or the power goes.
    let images: [(Arc<dyn Fs>, usize); 4] = [
        (Arc::new(disk.process_image()), story.acked),
        (Arc::new(disk.crash_image(&mut Keep::None)), story.acked_sync),
        (Arc::new(disk.crash_image(&mut Keep::Random(story.acked as u64))), story.acked_sync),
        (Arc::new(disk.crash_image(&mut Keep::All)), story.acked_sync),
    ];
    for (i, (fs, least)) in images.into_iter().enumerate() {
        let manifest = Manifest::new(manifest.state());
        let (log, seen, _) =
            open(&fs, &manifest, options).unwrap_or_else(|e| panic!("{what}, image {i}: {e}"));
        let n = check_prefix(&seen, story.replayed(), least - story.flushed)
            .unwrap_or_else(|e| panic!("{what}, image {i}: {e}"));
        let version = (story.flushed + n) as u64 + 1;
        let next = Entry { version, seed: 9999, size: 200 };
        append(&log, next, Durability::Sync).unwrap();
    }
}

fn every_operation(fault: Fault, forever: bool, options: &Options) {
    let disk = new_disk();
    let fs = FaultFs::new(Arc::new(disk.clone()));
    let counter = fs.arm(FaultPlan::count());
    let plain: Arc<dyn Fs> = Arc::new(fs.clone());
    let story = live(&plain, &Manifest::new(State::default()), options);
    assert_eq!((story.failed.len(), story.acked_sync), (0, 28), "{story:?}");
    let operations = counter.seen();
    let mut fired = 0;
    for n in 0..operations {
        let disk = new_disk();
        let fs = FaultFs::new(Arc::new(disk.clone()));
        let mut plan = FaultPlan::new(fault).after(n);
        if forever {
            plan = plan.forever();
        }
        let armed = fs.arm(plan);
        let manifest = Manifest::new(State::default());
        let shared: Arc<dyn Fs> = Arc::new(fs.clone());
        let story = live(&shared, &manifest, options);
        if armed.fired() == 0 {
            continue;
        }
        fired += 1;
        let what = format!("{fault:?} at operation {n} of {operations}, for ever {forever}");
        check(&disk, &manifest, &story, options, &what);
    }
    assert!(fired > 0);
}

#[test]
fn every_operation_may_fail_once_or_for_ever() {
    use Fault::*;
    for options in [
        Options { maps: false, ..options() },
        Options { sync_method: SyncMethod::DurableWrite, ..options() },
        Options { sync_method: SyncMethod::Direct, ..options() },
    ] {
        for fault in [Io, IoAfter, NoSpace, TooManyFiles, ShortWrite, LoseUnsynced] {
            every_operation(fault, false, &options);
            every_operation(fault, true, &options);
        }
    }
}

#[test]
fn what_a_failed_sync_lost_is_written_again_by_recovery() {
    // The page cache, or the device's own, shows what the disk does not have: opening in the same
    // boot finds the frames, and must not take them for durable.
    for options in [options(), Options { sync_method: SyncMethod::Direct, ..options() }] {
        let disk = new_disk();
        let fs = FaultFs::new(Arc::new(disk.clone()));
        let shared: Arc<dyn Fs> = Arc::new(fs.clone());
        let manifest = Manifest::new(State::default());
        let (log, ..) = open(&shared, &manifest, &options).unwrap();
        let entries: Vec<_> = (1..6).map(|v| Entry { version: v, seed: v, size: 100 }).collect();
        for entry in &entries {
            // What is lost begins in the middle of a page.
            let how = if entry.version == 1 { Durability::Sync } else { Durability::Buffered };
            append(&log, *entry, how).unwrap();
        }
        fs.arm(FaultPlan::new(Fault::LoseUnsynced));
        assert!(matches!(log.sync(), Err(Error::Poisoned { .. })));
        assert!(matches!(log.sync(), Err(Error::Poisoned { .. })), "a sync is not tried again");
        assert!(matches!(log.close(), Err(Error::Poisoned { .. })));
        drop(log);
        let (_, seen, end) = open(&shared, &manifest, &options).unwrap();
        assert_eq!((seen.frames.len(), end.clean), (5, false));
        let after: Arc<dyn Fs> = Arc::new(disk.crash_image(&mut Keep::None));
        let (_, seen, _) = open(&after, &manifest, &options).unwrap();
        assert_eq!(check_prefix(&seen, &entries, 5), Ok(5));
    }
}

#[test]
fn a_failed_write_poisons_and_later_ones_are_not_tried() {
    let fs = FaultFs::new(Arc::new(new_disk()));
    let shared: Arc<dyn Fs> = Arc::new(fs.clone());
    let (log, ..) = open(&shared, &Manifest::new(State::default()), &options()).unwrap();
    let entry = Entry { version: 1, seed: 1, size: 100 };
    fs.arm(FaultPlan::new(Fault::Io).on(&[Op::Write]));
    let e = append(&log, entry, Durability::Buffered).unwrap_err();
    assert!(
        matches!(&e, Error::OutcomeUnknown { cause } if matches!(&**cause, Error::Io(_))),
        "{e}"
    );
    let writes = fs.arm(FaultPlan::count().on(&[Op::Write, Op::SyncData]));
    assert!(matches!(log.append(entry.frame(), Durability::Sync), Err(Error::Poisoned { .. })));
    assert!(matches!(log.sync(), Ok(_) | Err(Error::Poisoned { .. })));
    assert!(log.idle_sync().is_err() && log.prepare().is_err() && log.close().is_err());
    assert_eq!(writes.seen(), 0);
}

#[test]
fn on_a_full_disk_commits_are_refused_and_deletes_go_on() {
    let fs = FaultFs::new(Arc::new(new_disk()));
    let shared: Arc<dyn Fs> = Arc::new(fs.clone());
    let manifest = Manifest::new(State::default());
    let (log, ..) = open(&shared, &manifest, &options()).unwrap();
    let full = fs.arm(FaultPlan::new(Fault::NoSpace).on(&[Op::Open, Op::Allocate]).forever());
    let is_full = |e: &Error| matches!(e, Error::Io(e) if e.kind() == ErrorKind::NoSpace);
    assert!(is_full(&log.prepare().unwrap_err()));
    // Ordinary commits are refused while room is left,
    assert!(is_full(&log.reserve(200).unwrap_err()));
    // and what frees space is not, until that is used up.
    let mut kept = 0;
    let e = loop {
        let frame = Entry { version: kept + 1, seed: kept, size: 100 }.frame();
        match log.reserve_kept(frame.len()) {
            Ok(room) => {
                kept += 1;
                let ticket = log.enqueue(frame, kept, Durability::Sync, room, ());
                log.drive(ticket, &Discard).unwrap();
            }
            Err(e) => break e,
        }
    };
    assert!(is_full(&e) && kept > 10, "{kept}, {e}");
    assert!(log.poisoned().is_none());
    full.disarm();
    append(&log, Entry { version: kept + 1, seed: 1, size: 100 }, Durability::Sync).unwrap();
    log.close().unwrap();
}

#[test]
fn a_segment_that_could_not_be_made_leaves_nothing_behind() {
    let disk = new_disk();
    let fs = FaultFs::new(Arc::new(disk.clone()));
    let shared: Arc<dyn Fs> = Arc::new(fs.clone());
    let (log, ..) = open(&shared, &Manifest::new(State::default()), &options()).unwrap();
    let segments = log.view().segments().len();
    for op in [Op::Open, Op::Allocate, Op::Write, Op::SyncData, Op::SyncDir] {
        fs.arm(FaultPlan::new(Fault::Io).on(&[op]));
        log.prepare().unwrap_err();
        assert_eq!(log.view().segments().len(), segments);
        assert_eq!(disk.list(DIR.as_ref()).unwrap().len(), 1, "{op}");
    }
    assert!(log.prepare().unwrap());
    assert_eq!(disk.list(DIR.as_ref()).unwrap().len(), 2);
}

#[test]
fn what_a_failed_sync_lost_is_written_again_if_it_is_more_than_one_write() {
    let sizes = Options { segment_size: 4 << 20, initial_segment_size: 4 << 20, ..options() };
    for options in [sizes.clone(), Options { sync_method: SyncMethod::Direct, ..sizes }] {
        let disk = new_disk();
        let fs = FaultFs::new(Arc::new(disk.clone()));
        let shared: Arc<dyn Fs> = Arc::new(fs.clone());
        let manifest = Manifest::new(State::default());
        let (log, ..) = open(&shared, &manifest, &options).unwrap();
        for fill in 1..4 {
            let mut frame = FrameBuilder::new();
            frame.push(b"key", b"", &vec![fill; 500_000], None).unwrap();
            log.append(frame.finish(), Durability::Buffered).unwrap();
        }
        fs.arm(FaultPlan::new(Fault::LoseUnsynced));
        assert!(log.sync().is_err());
        drop(log);
        let (_, seen, _) = open(&shared, &manifest, &options).unwrap();
        assert_eq!(seen.frames.len(), 3, "the cache still shows them");
        let after: Arc<dyn Fs> = Arc::new(disk.crash_image(&mut Keep::None));
        let (_, seen, _) = open(&after, &manifest, &options).unwrap();
        assert_eq!(seen.frames.len(), 3);
    }
}

#[test]
fn a_disk_is_not_taken_for_full_once_a_segment_could_be_made() {
    let fs = FaultFs::new(Arc::new(new_disk()));
    let shared: Arc<dyn Fs> = Arc::new(fs.clone());
    let (log, ..) = open(&shared, &Manifest::new(State::default()), &options()).unwrap();
    let full = || fs.arm(FaultPlan::new(Fault::NoSpace).on(&[Op::Open, Op::Allocate]).forever());
    let armed = full();
    log.prepare().unwrap_err();
    armed.disarm();
    assert!(log.prepare().unwrap());
    let spare = log.view().segments().last().unwrap();
    let mut version = 0;
    let mut next = || {
        version += 1;
        append(&log, Entry { version, seed: 1, size: 900 }, Durability::Buffered)
    };
    while log.end().segment < spare {
        next().unwrap();
    }
    // There is room enough, and nobody has asked for more.
    let armed = full();
    next().unwrap();
    assert_eq!(armed.seen(), 0);
}

#[test]
fn a_file_that_could_not_be_used_again_is_removed() {
    for op in [Op::Rename, Op::Open, Op::Write, Op::SyncData, Op::SyncDir] {
        let disk = new_disk();
        let fs = FaultFs::new(Arc::new(disk.clone()));
        let shared: Arc<dyn Fs> = Arc::new(fs.clone());
        let sizes = Options { initial_segment_size: 16 << 10, ..options() };
        let (log, ..) = open(&shared, &Manifest::new(State::default()), &sizes).unwrap();
        let fill = |segment| {
            while log.end().segment == segment {
                let frame = Entry { version: 0, seed: 1, size: 900 }.frame();
                log.append(frame, Durability::Sync).unwrap();
            }
        };
        fill(1);
        // The first is reported, so that nothing but what is kept leads to it.
        while log.prepare().unwrap() {}
        fill(2);
        assert!(log.recycle(&[1]).unwrap().is_empty(), "it is kept");
        let files = || disk.list(DIR.as_ref()).unwrap().len();
        assert_eq!(files(), 3);
        let armed = fs.arm(FaultPlan::new(Fault::Io).on(&[op]));
        log.prepare().unwrap_err();
        assert_eq!((armed.fired(), files()), (1, 2), "{op}");
        assert!(log.prepare().unwrap());
        assert_eq!(files(), 3);
    }
}
