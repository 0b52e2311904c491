//! What is done beside commits, and fails: markers, links, spares, closing.
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Barrier, mpsc};
use std::thread;
use std::time::Duration;

use kvdb_vfs::{Fault, FaultFs, FaultPlan, Fs, Keep, Op};
use kvdb_vlog::*;

use crate::common::*;
use crate::directory::{directory, files};
use crate::directory_faults::{fill, frame, open_dir, put};

fn within(seconds: u64, what: impl FnOnce() + Send + 'static) -> bool {
    let (done, wait) = mpsc::channel();
    thread::spawn(move || {
        what();
        done.send(()).ok();
    });
    wait.recv_timeout(Duration::from_secs(seconds)).is_ok()
}

/// While the marker of an idle sync (or the link of a rotation) is being written, a commit comes and waits
/// for the writer; then that write fails.
#[test]
fn rules_44_45_no_commit_is_acknowledged_behind_a_marker_or_a_link_that_failed() {
    let mut lost = Vec::new();
    for sync_method in [SyncMethod::Direct, SyncMethod::DurableWrite, SyncMethod::Fdatasync] {
        for durability in [Durability::Sync, Durability::Buffered] {
            for rotate in [false, true] {
                let options = Options { sync_method, ..options() };
                let disk = new_disk();
                let faults = FaultFs::new(Arc::new(disk.clone()));
                let fs: Arc<dyn Fs> = Arc::new(faults.clone());
                let manifest = Manifest::new(State::default());
                let (log, ..) = open(&fs, &manifest, &options).unwrap();
                let log = Arc::new(log);
                put(&log, 100, Durability::Sync);
                // Of a rotation the first write is that of the new segment's header.
                let first = u64::from(rotate);
                faults.arm(FaultPlan::new(Fault::ShortWrite).on(&[Op::Write]).after(first));
                let (commits, committed) = mpsc::channel();
                let (writes, committer) = (AtomicU64::new(0), log.clone());
                disk.on_operation(move |_, op, _| {
                    if op != Op::Write || writes.fetch_add(1, Ordering::SeqCst) != first {
                        return;
                    }
                    let log = committer.clone();
                    let commit = thread::spawn(move || log.append(frame(100), durability).is_ok());
                    commits.send(commit).unwrap();
                    // Long enough for it to come as far as the writer.
                    thread::sleep(Duration::from_millis(20));
                });
                let kept = match rotate {
                    true => log.rotate(u64::MAX).map(|_| true),
                    false => log.idle_sync(),
                };
                assert!(kept.is_err(), "{kept:?}");
                let acknowledged = committed.recv().unwrap().join().unwrap();
                disk.clear_hook();
                let fs: Arc<dyn Fs> = Arc::new(disk.process_image());
                let seen = open(&fs, &manifest, &options).map(|(_, seen, _)| seen.frames.len());
                if acknowledged && !matches!(seen, Ok(2)) {
                    lost.push(format!("{sync_method:?} {durability:?} rotate {rotate}: {seen:?}"));
                }
            }
        }
    }
    assert!(lost.is_empty(), "acknowledged, and of two frames are found: {lost:#?}");
}

#[test]
fn rule_48_housekeeping_on_a_full_disk_goes_on_to_report_what_was_sealed() {
    let disk = new_disk();
    let faults = FaultFs::new(Arc::new(disk.clone()));
    let shared: Arc<dyn Fs> = Arc::new(faults.clone());
    let manifest = Manifest::new(State::default());
    let (log, ..) = open(&shared, &manifest, &options()).unwrap();
    fill(&log, 2);
    faults.arm(FaultPlan::new(Fault::NoSpace).on(&[Op::Open, Op::Allocate]).forever());
    let done = log.prepare();
    assert!(manifest.state().segments[0].sealed.is_some(), "{done:?}");
}

struct AsksAndPanics;

impl Sink<()> for AsksAndPanics {
    fn concurrent(&self) -> bool {
        panic!("asked to")
    }
}

#[test]
fn rule_50_a_panic_when_the_sink_is_asked_whether_it_is_concurrent_hangs_nobody() {
    let fs: Arc<dyn Fs> = Arc::new(new_disk());
    let (log, ..) = open(&fs, &Manifest::new(State::default()), &options()).unwrap();
    let log = Arc::new(log);
    let room = log.reserve(frame(100).len()).unwrap();
    let ticket = log.enqueue(frame(100), 1, Durability::Buffered, room, ());
    let outcome = log.drive(ticket, &AsksAndPanics);
    assert!(matches!(outcome, Err(Error::OutcomeUnknown { .. })), "{outcome:?}");
    let ended = within(20, move || {
        assert!(matches!(log.reserve(100), Err(Error::Poisoned { .. })));
        assert!(log.close().is_err());
    });
    assert!(ended, "the next one waits for ever");
}

/// Commits over several segments, as far as the log takes them. Returns the last version.
fn append_until_refused(log: Log) -> u64 {
    let commits = (1..60).map_while(|_| log.append(frame(900), Durability::Sync).ok());
    commits.last().map_or(1, |done| done.version)
}

#[test]
fn spares_are_not_lost_to_the_log_if_the_one_who_frees_them_panics() {
    let fs: Arc<dyn Fs> = Arc::new(new_disk());
    let manifest = Manifest::new(State::default());
    let (log, ..) = open(&fs, &manifest, &options()).unwrap();
    put(&log, 100, Durability::Sync);
    while log.prepare().unwrap() {}
    let panicked = catch_unwind(AssertUnwindSafe(|| {
        log.give_up_spares(|_| panic!("asked to"));
    }));
    assert!(panicked.is_err());
    let last = append_until_refused(log);
    let opened = open(&fs, &manifest, &options());
    let (_, seen, _) = opened.unwrap_or_else(|e| panic!("after {last} commits: {e}"));
    assert_eq!(seen.frames.last().unwrap().0, last);
}

/// A log that left segment 1, all sealed.
fn with_dead(fs: &Arc<dyn Fs>, dead: u32) -> Log {
    let sizes = Options { segment_size: 16 << 10, initial_segment_size: 16 << 10, ..options() };
    let (log, ..) = open(fs, &Manifest::new(State::default()), &sizes).unwrap();
    fill(&log, dead + 1);
    while log.prepare().unwrap() {}
    log
}

#[test]
fn what_was_recycled_does_not_outlive_a_log_that_was_poisoned_and_closed() {
    let disk = new_disk();
    let fs: Arc<dyn Fs> = Arc::new(disk.clone());
    let log = with_dead(&fs, 3);
    let before = files(&disk).len();
    assert!(log.recycle(&[1, 2]).unwrap().is_empty());
    log.poison(Error::Misuse("elsewhere"));
    let closed = log.close();
    drop(log);
    assert_eq!(files(&disk).len(), before - 2, "{closed:?}");
}

#[test]
fn room_for_a_frame_of_any_length_is_an_error_and_no_panic() {
    let fs: Arc<dyn Fs> = Arc::new(new_disk());
    let (log, ..) = open(&fs, &Manifest::new(State::default()), &options()).unwrap();
    for len in [usize::MAX, usize::MAX - 7, u32::MAX as usize + 1, 1 << 31] {
        let reserved = catch_unwind(AssertUnwindSafe(|| log.reserve(len).map(|room| room.len())));
        assert!(matches!(reserved, Ok(Err(Error::FrameTooLarge { .. }))), "{len}: {reserved:?}");
    }
}

#[test]
fn a_record_of_the_largest_version_is_an_error_or_followed_by_another() {
    let disk = new_disk();
    let dir = directory(disk.clone());
    let (log, ..) = open_dir(&dir, &options()).unwrap();
    let mut builder = FrameBuilder::new();
    builder.push(b"key", b"", b"value", Some(u64::MAX)).unwrap();
    log.append(builder.finish(), Durability::Sync).unwrap();
    log.close().unwrap();
    drop(log);
    let (log, ..) = open_dir(&dir, &options()).unwrap();
    let next = catch_unwind(AssertUnwindSafe(|| log.append(frame(10), Durability::Sync)));
    match next {
        Ok(Ok(done)) => assert!(done.version > 1, "{}", done.version),
        Ok(Err(_)) => {}
        Err(_) => panic!("append panics"),
    }
}

#[test]
fn a_ticket_of_another_log_is_an_error_and_does_not_spin_for_ever() {
    let fs: Arc<dyn Fs> = Arc::new(new_disk());
    let other: Arc<dyn Fs> = Arc::new(new_disk());
    let (one, ..) = open(&fs, &Manifest::new(State::default()), &options()).unwrap();
    let (two, ..) = open(&other, &Manifest::new(State::default()), &options()).unwrap();
    let frame = frame(10);
    let room = one.reserve(frame.len()).unwrap();
    let ticket = one.enqueue(frame, 1, Durability::Sync, room, ());
    let (two, stop) = (Arc::new(two), Arc::new(AtomicBool::new(false)));
    let (driven, stopped) = (two.clone(), stop.clone());
    let ended = within(3, move || {
        let _ = driven.drive(ticket, &Discard);
        stopped.store(true, Ordering::SeqCst);
    });
    // Ends the spinning of the thread that was left behind.
    two.poison(Error::Misuse("enough"));
    assert!(ended, "drives for ever");
}

#[test]
fn a_ticket_of_another_log_is_refused_beside_frames_that_wait() {
    let logs = [(); 2].map(|()| {
        let fs: Arc<dyn Fs> = Arc::new(new_disk());
        open(&fs, &Manifest::new(State::default()), &options()).unwrap().0
    });
    let [one, two] = &logs;
    let [ticket, waits] = [one, two].map(|log| {
        let frame = frame(10);
        let room = log.reserve(frame.len()).unwrap();
        log.enqueue(frame, 1, Durability::Sync, room, ())
    });
    assert!(matches!(two.drive(ticket, &Discard), Err(Error::Misuse(_))));
    assert!(!waits.is_done(), "it was led by a stranger");
    two.drive(waits, &Discard).unwrap();
}

/// Waits while it names.
struct Waits {
    manifest: Arc<Manifest>,
    armed: AtomicBool,
    begin: Barrier,
    go: Barrier,
}

impl SegmentNamer for Waits {
    fn allocate(&self) -> Result<SegmentName, BoxError> {
        self.manifest.allocate()
    }
    fn name(&self, meta: &SegmentMeta) -> Result<(), BoxError> {
        if self.armed.swap(false, Ordering::SeqCst) {
            self.begin.wait();
            self.go.wait();
        }
        self.manifest.name(meta)
    }
    fn sealed(&self, sealed: &SealedSegment) -> Result<(), BoxError> {
        self.manifest.sealed(sealed)
    }
}

#[test]
fn nothing_is_written_behind_the_footer_of_a_close_that_returned() {
    let disk = new_disk();
    let fs: Arc<dyn Fs> = Arc::new(disk.clone());
    let namer = Arc::new(Waits {
        manifest: Manifest::new(State::default()),
        armed: AtomicBool::new(false),
        begin: Barrier::new(2),
        go: Barrier::new(2),
    });
    let mut recovery = recovery(&fs, &State::default(), &options()).unwrap();
    recovery.replay(|_| Ok::<_, ()>(())).unwrap();
    let meta = recovery.create_segment(namer.allocate().unwrap()).unwrap();
    namer.manifest.name(&meta).unwrap();
    namer.manifest.0.lock().unwrap().head = Position::new(meta.segment, FIRST_FRAME);
    let log: Log = recovery.into_log(namer.clone(), Start::At(meta.segment)).unwrap();
    put(&log, 100, Durability::Sync);
    namer.armed.store(true, Ordering::SeqCst);
    let (operations, after, rotated) = thread::scope(|s| {
        let rotating = s.spawn(|| log.rotate(u64::MAX));
        namer.begin.wait();
        // Perhaps it waits for the rotation: then let that go on.
        let closing = s.spawn(|| {
            log.close().unwrap();
            disk.operations()
        });
        thread::sleep(Duration::from_millis(100));
        let returned = closing.is_finished();
        namer.go.wait();
        let operations = closing.join().unwrap();
        let rotated = rotating.join().unwrap();
        (returned.then_some(operations), disk.operations(), rotated)
    });
    if let Some(operations) = operations {
        assert_eq!(operations, after, "operations after the close, rotate: {rotated:?}");
    }
    drop(log);
    let (_, _, end) = open(&fs, &namer.manifest, &options()).unwrap();
    assert!(end.clean, "{end:?}");
}

#[test]
fn an_intact_segment_before_the_head_that_is_not_sealed_verifies() {
    let disk = new_disk();
    let fs: Arc<dyn Fs> = Arc::new(disk.clone());
    let manifest = Manifest::new(State::default());
    let (log, ..) = open(&fs, &manifest, &options()).unwrap();
    fill(&log, 2);
    put(&log, 100, Durability::Sync);
    // The head moves on before anybody reports what was left.
    {
        let mut state = manifest.0.lock().unwrap();
        assert!(state.segments[0].sealed.is_none());
        state.head = Position::new(2, FIRST_FRAME);
    }
    log.close().unwrap();
    log.view().verify(1, None).unwrap();
    drop(log);
    let (log, ..) = open(&fs, &manifest, &options()).unwrap();
    let verified = log.view().verify(1, None);
    assert!(verified.is_ok(), "{verified:?}");
}

#[test]
fn a_segment_is_not_reported_as_sealed_while_its_last_frames_are_being_written() {
    let disk = new_disk();
    let fs: Arc<dyn Fs> = Arc::new(disk.clone());
    let manifest = Manifest::new(State::default());
    let (log, ..) = open(&fs, &manifest, &options()).unwrap();
    while log.end().offset < 9000 {
        put(&log, 900, Durability::Sync);
    }
    while log.prepare().unwrap() {}
    assert_eq!(log.end().segment, 1);
    // Two frames of one group, the second of which goes to the next segment.
    let mut tickets = [100, 5000].map(|size| {
        let (frame, version) = (frame(size), 1000 + size as u64);
        let room = log.reserve(frame.len()).unwrap();
        Some(log.enqueue(frame, version, Durability::Buffered, room, ()))
    });
    let (begun, go_on) = (Arc::new(Barrier::new(2)), Arc::new(Barrier::new(2)));
    let (begin, go, once) = (begun.clone(), go_on.clone(), AtomicBool::new(false));
    let path = segment_path(DIR.as_ref(), manifest.state().segments[0].meta.file);
    disk.on_operation(move |_, op, written| {
        if op == Op::Write && written == path && !once.swap(true, Ordering::SeqCst) {
            begin.wait();
            go.wait();
        }
    });
    thread::scope(|s| {
        let last = tickets[1].take().unwrap();
        let driving = s.spawn(|| log.drive(last, &Discard).map(|_| ()));
        begun.wait();
        let prepared = log.prepare();
        assert_eq!(manifest.state().segments[0].sealed, None, "{prepared:?}");
        go_on.wait();
        driving.join().unwrap().unwrap();
    });
    disk.clear_hook();
    let fs: Arc<dyn Fs> = Arc::new(disk.crash_image(&mut Keep::None));
    let m = Manifest::new(manifest.state());
    let after = open(&fs, &m, &options()).map(|(_, s, _)| s.frames.len());
    assert!(after.is_ok(), "power loss after a buffered commit: {after:?}");
}

#[test]
fn a_spare_that_was_put_back_is_followed_by_the_next_one_in_time() {
    let mut made = Vec::new();
    for give in [false, true] {
        let disk = new_disk();
        let fs: Arc<dyn Fs> = Arc::new(disk.clone());
        let manifest = Manifest::new(State::default());
        let (log, ..) = open(&fs, &manifest, &options()).unwrap();
        while log.end().offset < 10500 {
            put(&log, 900, Durability::Sync);
        }
        while log.prepare().unwrap() {}
        if give {
            assert!(log.give_up_spares(|_| false).is_empty());
        }
        while log.end().segment == 1 {
            put(&log, 900, Durability::Sync);
        }
        // Nearly full, as for anybody.
        while log.end().offset < 13500 {
            put(&log, 300, Durability::Sync);
        }
        let before = files(&disk).len();
        while log.prepare().unwrap() {}
        made.push((give, log.end(), files(&disk).len() - before));
    }
    assert_eq!(made[0].2, made[1].2, "{made:?}");
}

struct NamesAndPanics(Arc<Manifest>, AtomicBool);
impl SegmentNamer for NamesAndPanics {
    fn allocate(&self) -> Result<SegmentName, BoxError> {
        self.0.allocate()
    }
    fn name(&self, meta: &SegmentMeta) -> Result<(), BoxError> {
        self.0.name(meta)?;
        if self.1.swap(false, Ordering::SeqCst) {
            panic!("after it was named");
        }
        Ok(())
    }
    fn sealed(&self, sealed: &SealedSegment) -> Result<(), BoxError> {
        self.0.sealed(sealed)
    }
}

#[test]
fn a_log_whose_namer_panicked_after_it_had_named_a_segment_opens_again() {
    let disk = new_disk();
    let fs: Arc<dyn Fs> = Arc::new(disk.clone());
    let manifest = Manifest::new(State::default());
    let namer = Arc::new(NamesAndPanics(manifest.clone(), AtomicBool::new(false)));
    let mut recovery = recovery(&fs, &State::default(), &options()).unwrap();
    recovery.replay(|_| Ok::<_, ()>(())).unwrap();
    let meta = recovery.create_segment(namer.allocate().unwrap()).unwrap();
    manifest.name(&meta).unwrap();
    manifest.0.lock().unwrap().head = Position::new(meta.segment, FIRST_FRAME);
    let log: Log = recovery.into_log(namer.clone(), Start::At(meta.segment)).unwrap();
    put(&log, 100, Durability::Sync);
    namer.1.store(true, Ordering::SeqCst);
    assert!(catch_unwind(AssertUnwindSafe(|| log.prepare())).is_err());
    let last = append_until_refused(log);
    let opened = open(&fs, &manifest, &options()).map(|(_, seen, _)| seen.frames.len());
    assert!(opened.is_ok(), "after {last} commits: {opened:?}");
}
