//! Many threads commit: order, durability, panics, reservations.
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Barrier, Mutex};
use std::thread;

use kvdb_vfs::{Fault, FaultFs, FaultPlan, Fs, Keep, MemFs, Op, SyncSite};
use kvdb_vlog::*;

use crate::common::*;

/// Records what it is told, and complains when it is told out of order.
#[derive(Default)]
struct Recorder {
    routed: Mutex<Vec<(u64, Position)>>,
    applied: Mutex<Vec<u64>>,
    published: AtomicU64,
    failed: Mutex<Vec<u64>>,
    panic_in: Mutex<Option<(&'static str, u64)>>,
    concurrent: AtomicBool,
}

impl Recorder {
    fn maybe_panic(&self, callback: &'static str, version: u64) {
        // A group may end behind the version asked for.
        let due = self.panic_in.lock().unwrap().is_some_and(|(c, v)| c == callback && v <= version);
        assert!(!due, "asked to");
    }
}

impl Sink<u64> for Recorder {
    fn route(&self, frames: &mut [Routed<u64>]) {
        let mut routed = self.routed.lock().unwrap();
        for frame in frames {
            assert_eq!(frame.context().copied(), Some(frame.version() * 3));
            if let Some((version, position)) = routed.last() {
                assert!(*version < frame.version() && *position < frame.position());
            }
            routed.push((frame.version(), frame.position()));
            drop(routed);
            self.maybe_panic("route", frame.version());
            routed = self.routed.lock().unwrap();
        }
    }
    fn concurrent(&self) -> bool {
        self.concurrent.load(Ordering::Relaxed)
    }
    fn apply(&self, frame: FrameView<'_>, context: &mut u64) {
        assert_eq!(*context, frame.version() * 3);
        self.maybe_panic("apply", frame.version());
        let routed = self.routed.lock().unwrap();
        assert!(routed.contains(&(frame.version(), frame.position())));
        drop(routed);
        let mut applied = self.applied.lock().unwrap();
        let in_order = applied.last().is_none_or(|last| *last < frame.version());
        assert!(in_order || self.concurrent(), "applied out of order");
        applied.push(frame.version());
    }
    fn publish(&self, up_to: u64) {
        self.maybe_panic("publish", up_to);
        let before = self.published.swap(up_to, Ordering::SeqCst);
        assert!(before < up_to, "published backwards");
        let applied = self.applied.lock().unwrap();
        assert!((before + 1..=up_to).all(|version| applied.contains(&version)));
    }
    fn fail(&self, version: u64, context: u64, cause: &Error) {
        assert_eq!(context, version * 3);
        assert!(matches!(cause, Error::Poisoned { .. } | Error::OutcomeUnknown { .. }));
        self.failed.lock().unwrap().push(version);
    }
}

fn open_with<C>(fs: &Arc<dyn Fs>, manifest: &Arc<Manifest>, options: &Options) -> Log<C> {
    fs.create_dir_all(DIR.as_ref()).unwrap();
    fs.sync_dir("/".as_ref(), SyncSite::Other(0)).unwrap();
    let mut recovery = recovery(fs, &manifest.state(), options).unwrap();
    assert_eq!(recovery.replay(|_| Ok::<_, ()>(())).unwrap().frames, 0);
    let meta = recovery.create_segment(manifest.allocate().unwrap()).unwrap();
    manifest.name(&meta).unwrap();
    manifest.0.lock().unwrap().head = Position::new(meta.segment, 0);
    recovery.into_log(manifest.clone(), Start::At(meta.segment)).unwrap()
}

struct Run {
    log: Arc<Log<u64>>,
    sink: Arc<Recorder>,
    /// The oracle: versions and the queue under one lock.
    versions: Arc<Mutex<u64>>,
    entries: Arc<Mutex<Vec<Entry>>>,
}

impl Run {
    fn new(fs: &Arc<dyn Fs>, manifest: &Arc<Manifest>, options: &Options) -> Run {
        Run {
            log: Arc::new(open_with(fs, manifest, options)),
            sink: Arc::default(),
            versions: Arc::default(),
            entries: Arc::default(),
        }
    }

    fn commit(&self, seed: u64) -> Result<Committed> {
        let size = mix(seed) as usize % if seed.is_multiple_of(10) { 6000 } else { 300 };
        // Records follow from seed and size alone: no version of their own.
        let entry = Entry { version: 0, seed, size };
        let frame = entry.frame();
        let room = self.log.reserve(frame.len())?;
        let durability =
            if seed.is_multiple_of(4) { Durability::Sync } else { Durability::Buffered };
        let ticket = {
            let mut last = self.versions.lock().unwrap();
            *last += 1;
            self.entries.lock().unwrap().push(Entry { version: *last, ..entry });
            self.log.enqueue(frame, *last, durability, room, *last * 3)
        };
        let version = ticket.version();
        let done = self.log.drive(ticket, &*self.sink)?;
        assert_eq!(done.version, version);
        assert!(self.sink.published.load(Ordering::SeqCst) >= version, "acknowledged unpublished");
        if durability == Durability::Sync {
            assert!(self.log.durable_to() > done.position);
        }
        Ok(done)
    }
}

#[test]
fn eight_threads_commit_in_the_order_of_their_versions() {
    for (pass, options) in [
        Options { prefill: true, ..options() },
        Options { max_group_bytes: 500, ..options() },
        Options { sync_method: SyncMethod::DurableWrite, segment_size: 1 << 20, ..options() },
    ]
    .into_iter()
    .enumerate()
    {
        let disk = MemFs::new();
        let fs: Arc<dyn Fs> = Arc::new(disk.clone());
        let manifest = Manifest::new(State::default());
        let run = Arc::new(Run::new(&fs, &manifest, &options));
        run.sink.concurrent.store(pass > 0, Ordering::Relaxed);
        let stop = AtomicBool::new(false);
        const EACH: u64 = 250;
        thread::scope(|s| {
            let housekeeper = s.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    run.log.prepare().unwrap();
                    run.log.idle_sync().unwrap();
                    thread::yield_now();
                }
            });
            let writers: Vec<_> = (0..8)
                .map(|t| {
                    let run = run.clone();
                    s.spawn(move || {
                        for i in 0..EACH {
                            run.commit((pass as u64 + 1) * 1_000_000 + t * 10_000 + i).unwrap();
                        }
                    })
                })
                .collect();
            writers.into_iter().for_each(|w| w.join().unwrap());
            stop.store(true, Ordering::Relaxed);
            housekeeper.join().unwrap();
        });
        assert_eq!(run.log.reserved(), 0);
        assert_eq!(run.sink.applied.lock().unwrap().len() as u64, 8 * EACH);
        assert_eq!(run.sink.published.load(Ordering::SeqCst), 8 * EACH);
        run.log.close().unwrap();
        let entries = run.entries.lock().unwrap().clone();
        drop(run);
        let after: Arc<dyn Fs> = Arc::new(disk.crash_image(&mut Keep::None));
        let mut frames = Vec::new();
        let mut recovery = recovery(&after, &manifest.state(), &options).unwrap();
        let end = recovery
            .replay(|f| {
                frames.push((f.version(), records_of(f)));
                Ok::<_, ()>(())
            })
            .unwrap();
        assert!(end.clean);
        assert_eq!(frames.len(), entries.len());
        for ((version, records), entry) in frames.iter().zip(&entries) {
            assert_eq!(*version, entry.version);
            let plain = Entry { version: 0, ..*entry }.records();
            let stamped: Vec<_> =
                plain.into_iter().map(|(k, t, v, _)| (k, t, v, *version)).collect();
            assert_eq!(records, &stamped);
        }
    }
}

#[test]
fn a_crash_under_load_keeps_every_acknowledged_frame() {
    for seed in 0..4 * scale() {
        let disk = MemFs::new();
        let fs: Arc<dyn Fs> = Arc::new(disk.clone());
        let manifest = Manifest::new(State::default());
        let run = Arc::new(Run::new(&fs, &manifest, &options()));
        // Version up to which a Sync commit was acknowledged, read before the image is taken.
        let acked = Arc::new(AtomicU64::new(0));
        let images = Arc::new(Mutex::new(Vec::new()));
        let count = AtomicU64::new(0);
        {
            let (acked, images) = (acked.clone(), images.clone());
            let manifest = Arc::downgrade(&manifest);
            disk.on_operation(move |fs, _, _| {
                if !count.fetch_add(1, Ordering::Relaxed).is_multiple_of(23) {
                    return;
                }
                let Some(manifest) = manifest.upgrade() else { return };
                let least = acked.load(Ordering::SeqCst);
                // Segments may be named between the two: then they are missing in the state,
                // which a manifest that was lost with them would be, too.
                let state = manifest.state();
                images.lock().unwrap().push((
                    fs.crash_image(&mut Keep::Random(seed + least)),
                    least,
                    state,
                ));
            });
        }
        thread::scope(|s| {
            for t in 0..4u64 {
                let (run, acked) = (run.clone(), acked.clone());
                s.spawn(move || {
                    for i in 0..60 {
                        let n = seed * 100_000 + t * 1000 + i;
                        let done = run.commit(n).unwrap();
                        if n.is_multiple_of(4) {
                            acked.fetch_max(done.version, Ordering::SeqCst);
                        }
                        if i % 4 == 0 {
                            run.log.prepare().unwrap();
                        }
                    }
                });
            }
        });
        disk.clear_hook();
        let entries = run.entries.lock().unwrap().clone();
        let images = std::mem::take(&mut *images.lock().unwrap());
        assert!(images.len() > 5);
        for (image, least, state) in images {
            let fs: Arc<dyn Fs> = Arc::new(image);
            let mut recovery = recovery(&fs, &state, &options()).unwrap();
            let mut n = 0;
            recovery
                .replay(|f| {
                    let entry = entries[n];
                    assert_eq!(f.version(), entry.version);
                    assert_eq!(f.len() as usize, Entry { version: 0, ..entry }.records().len());
                    n += 1;
                    Ok::<_, ()>(())
                })
                .unwrap();
            assert!(n as u64 >= least, "{n} frames, {least} were acknowledged");
        }
    }
}

#[test]
fn a_panic_in_a_callback_poisons_and_wakes_everyone() {
    for (callback, concurrent) in
        [("route", false), ("apply", false), ("publish", false), ("apply", true), ("publish", true)]
    {
        let fs: Arc<dyn Fs> = Arc::new(MemFs::new());
        let manifest = Manifest::new(State::default());
        let run = Arc::new(Run::new(&fs, &manifest, &options()));
        *run.sink.panic_in.lock().unwrap() = Some((callback, 100));
        run.sink.concurrent.store(concurrent, Ordering::Relaxed);
        let mut failed = Vec::new();
        thread::scope(|s| {
            let threads: Vec<_> = (0..6)
                .map(|t| {
                    let run = run.clone();
                    s.spawn(move || {
                        (0..200).find_map(|i| run.commit(t * 1000 + i).err()).expect("poisoned")
                    })
                })
                .collect();
            failed.extend(threads.into_iter().map(|t| t.join().unwrap()));
        });
        for e in &failed {
            assert!(matches!(e, Error::Poisoned { .. } | Error::OutcomeUnknown { .. }), "{e}");
        }
        let cause = run.log.poisoned().expect(callback);
        assert!(matches!(&*cause, Error::Panicked { message, .. } if message.contains("asked to")));
        let published = run.sink.published.load(Ordering::SeqCst);
        assert!(published < 100);
        // Every version is either published or was reported as failed.
        let mut failed = run.sink.failed.lock().unwrap().clone();
        failed.sort_unstable();
        let last = *run.versions.lock().unwrap();
        assert_eq!(failed, (published + 1..=last).collect::<Vec<_>>());
        assert!(matches!(run.log.close(), Err(Error::Poisoned { .. })));
    }
}

#[test]
fn a_failed_sync_fails_the_group_and_everything_queued_behind() {
    let faults = FaultFs::new(Arc::new(MemFs::new()));
    let fs: Arc<dyn Fs> = Arc::new(faults.clone());
    let manifest = Manifest::new(State::default());
    let run = Arc::new(Run::new(&fs, &manifest, &options()));
    faults.arm(FaultPlan::new(Fault::Io).on(&[Op::SyncData]).site(SyncSite::LogGroup).after(20));
    let outcomes = Mutex::new(Vec::new());
    thread::scope(|s| {
        for t in 0..6 {
            let (run, outcomes) = (run.clone(), &outcomes);
            s.spawn(move || {
                let e = (0..500).find_map(|i| run.commit(t * 1000 + i).err()).expect("poisoned");
                outcomes.lock().unwrap().push(e);
            });
        }
    });
    let outcomes = outcomes.into_inner().unwrap();
    assert_eq!(outcomes.len(), 6);
    assert!(outcomes.iter().any(|e| matches!(e, Error::OutcomeUnknown { .. })));
    let published = run.sink.published.load(Ordering::SeqCst);
    let mut failed = run.sink.failed.lock().unwrap().clone();
    failed.sort_unstable();
    let last = *run.versions.lock().unwrap();
    assert_eq!(failed, (published + 1..=last).collect::<Vec<_>>());
}

#[test]
fn close_waits_for_those_in_flight_and_refuses_the_rest() {
    for round in 0..20 {
        let fs: Arc<dyn Fs> = Arc::new(MemFs::new());
        let manifest = Manifest::new(State::default());
        let run = Arc::new(Run::new(&fs, &manifest, &options()));
        let start = Barrier::new(5);
        thread::scope(|s| {
            for t in 0..4 {
                let (run, start) = (run.clone(), &start);
                s.spawn(move || {
                    start.wait();
                    let e = (0..).find_map(|i| run.commit(t * 1_000_000 + i).err());
                    assert!(matches!(e, Some(Error::Closed)), "{e:?}");
                });
            }
            start.wait();
            (0..round * 10).for_each(|_| thread::yield_now());
            run.log.close().unwrap();
        });
        let committed = run.sink.published.load(Ordering::SeqCst);
        assert_eq!(committed, *run.versions.lock().unwrap());
        let mut recovery = recovery(&fs, &manifest.state(), &options()).unwrap();
        let end = recovery.replay(|_| Ok::<_, ()>(())).unwrap();
        assert!(end.clean && end.frames == committed);
    }
}

#[test]
fn a_ticket_that_is_dropped_is_taken_along_or_given_up_by_close() {
    let fs: Arc<dyn Fs> = Arc::new(MemFs::new());
    let manifest = Manifest::new(State::default());
    let log: Log = open_with(&fs, &manifest, &options());
    let enqueue = |version| {
        let frame = Entry { version, seed: version, size: 50 }.frame();
        let room = log.reserve(frame.len()).unwrap();
        log.enqueue(frame, version, Durability::Buffered, room, ())
    };
    drop(enqueue(1));
    log.drive(enqueue(2), &Discard).unwrap();
    let ticket = enqueue(3);
    assert!(!ticket.is_done());
    drop(ticket);
    log.close().unwrap();
    assert_eq!(log.reserved(), 0);
    let mut recovery = recovery(&fs, &manifest.state(), &options()).unwrap();
    assert_eq!(recovery.replay(|_| Ok::<_, ()>(())).unwrap().frames, 2);
}

#[test]
fn room_that_is_not_used_is_given_back() {
    let fs: Arc<dyn Fs> = Arc::new(MemFs::new());
    let manifest = Manifest::new(State::default());
    let log: Log = open_with(&fs, &manifest, &options());
    let rooms: Vec<_> = (0..10).map(|_| log.reserve(101).unwrap()).collect();
    assert_eq!(log.reserved(), 1040);
    assert!(rooms.iter().all(|r| r.len() == 104));
    drop(rooms);
    assert_eq!(log.reserved(), 0);
    // Too much room goes back when it is spent, too little poisons rather than break a promise.
    let frame = || Entry { version: 1, seed: 4, size: 50 }.frame();
    let ticket = log.enqueue(frame(), 1, Durability::Buffered, log.reserve(5000).unwrap(), ());
    assert_eq!(log.reserved(), frame().len() as u64);
    log.drive(ticket, &Discard).unwrap();
    assert_eq!(log.reserved(), 0);
    let ticket = log.enqueue(frame(), 2, Durability::Buffered, log.reserve(32).unwrap(), ());
    let e = log.drive(ticket, &Discard).unwrap_err();
    assert!(
        matches!(&e, Error::Poisoned { cause } if matches!(**cause, Error::RoomTooSmall { .. }))
    );
}

#[test]
fn a_segment_is_reported_as_sealed_once_however_many_threads_prepare() {
    let inner = MemFs::new();
    let fs: Arc<dyn Fs> = Arc::new(inner.clone());
    let manifest = Manifest::new(State::default());
    let (log, ..) = open(&fs, &manifest, &options()).unwrap();
    for version in 1.. {
        append(&log, Entry { version, seed: version, size: 900 }, Durability::Buffered).unwrap();
        if log.end().segment > 2 {
            break;
        }
    }
    // Whoever comes first is still at it, syncing the segment, when the others have seen it too.
    inner.on_operation(|_, op, _| {
        if op == Op::SyncData {
            thread::sleep(std::time::Duration::from_millis(30));
        }
    });
    let barrier = Barrier::new(3);
    thread::scope(|s| {
        for _ in 0..3 {
            s.spawn(|| {
                barrier.wait();
                log.prepare().unwrap();
            });
        }
    });
    inner.clear_hook();
    let segments = manifest.state().segments;
    assert!(segments.iter().filter(|s| s.sealed.is_some()).count() >= 2, "{segments:?}");
}

#[test]
fn a_large_frame_of_a_group_that_goes_on_in_the_next_segment_is_where_it_was_placed() {
    for sync_method in [SyncMethod::Fdatasync, SyncMethod::Direct] {
        let options = Options {
            segment_size: 128 << 10,
            initial_segment_size: 64 << 10,
            sync_method,
            ..options()
        };
        let fs: Arc<dyn Fs> = Arc::new(MemFs::new());
        let manifest = Manifest::new(State::default());
        let log: Log = open_with(&fs, &manifest, &options);
        let entries = [1, 2].map(|version| Entry { version, seed: version + 10, size: 40_000 });
        // Nobody drives the first: the second takes it along, as one group.
        let mut tickets: Vec<_> = entries[..2]
            .iter()
            .map(|e| {
                let frame = e.frame();
                let room = log.reserve(frame.len()).unwrap();
                log.enqueue(frame, e.version, Durability::Sync, room, ())
            })
            .collect();
        let last = log.drive(tickets.pop().unwrap(), &Discard).unwrap();
        let first = log.drive(tickets.pop().unwrap(), &Discard).unwrap();
        assert!(first.position.segment < last.position.segment, "one group, two segments");
        drop(log);
        let mut recovery = recovery(&fs, &manifest.state(), &options).unwrap();
        assert_eq!(recovery.replay(|_| Ok::<_, ()>(())).unwrap().frames, 2);
    }
}

/// Panics when it is asked to.
struct Fragile {
    inner: Arc<Manifest>,
    panics_in: Mutex<&'static str>,
}

impl Fragile {
    fn maybe_panic(&self, callback: &'static str) {
        assert!(*self.panics_in.lock().unwrap() != callback, "asked to");
    }
}

impl SegmentNamer for Fragile {
    fn allocate(&self) -> Result<SegmentName, BoxError> {
        self.maybe_panic("allocate");
        self.inner.allocate()
    }
    fn name(&self, meta: &SegmentMeta) -> Result<(), BoxError> {
        self.maybe_panic("name");
        self.inner.name(meta)
    }
    fn sealed(&self, sealed: &SealedSegment) -> Result<(), BoxError> {
        self.maybe_panic("sealed");
        self.inner.sealed(sealed)
    }
    fn housekeeping_due(&self) {
        self.maybe_panic("housekeeping_due");
    }
}

#[test]
fn a_panic_while_a_segment_is_made_or_reported_stops_nobody_else() {
    // In `name` is another matter: whether there was one is not known then.
    for callback in ["allocate", "sealed", "housekeeping_due"] {
        let fs: Arc<dyn Fs> = Arc::new(MemFs::new());
        fs.create_dir_all(DIR.as_ref()).unwrap();
        let manifest = Manifest::new(State::default());
        let namer = Arc::new(Fragile { inner: manifest.clone(), panics_in: Mutex::new(callback) });
        let mut recovery = recovery(&fs, &manifest.state(), &options()).unwrap();
        recovery.replay(|_| Ok::<_, ()>(())).unwrap();
        let meta = recovery.create_segment(manifest.allocate().unwrap()).unwrap();
        manifest.name(&meta).unwrap();
        manifest.0.lock().unwrap().head = Position::new(meta.segment, 0);
        let log: Log = recovery.into_log(namer.clone(), Start::At(meta.segment)).unwrap();
        let commit = |version| {
            let entry = Entry { version, seed: version, size: 3000 };
            append(&log, entry, Durability::Sync).unwrap();
        };
        let prepare = || thread::scope(|s| s.spawn(|| log.prepare().is_ok()).join());
        let mut panics = 0;
        for version in 1..=8 {
            // Where a commit has to make the segment itself, it would be its own panic.
            if callback == "housekeeping_due" {
                commit(version);
                continue;
            }
            if prepare().is_err() {
                panics += 1;
                *namer.panics_in.lock().unwrap() = "";
                assert!(prepare().unwrap(), "{callback}");
                *namer.panics_in.lock().unwrap() = callback;
            }
            commit(version);
        }
        assert!(log.poisoned().is_none(), "{callback}");
        assert!(panics > 0 || callback == "housekeeping_due", "{callback}");
        *namer.panics_in.lock().unwrap() = "";
        log.close().unwrap();
        assert_eq!(log.reserved(), 0);
    }
}

#[test]
fn the_active_segment_is_left_on_demand_and_what_is_before_it_can_go() {
    let fs: Arc<dyn Fs> = Arc::new(MemFs::new());
    let manifest = Manifest::new(State::default());
    let options = Options { segment_size: 1 << 20, initial_segment_size: 256 << 10, ..options() };
    let (log, ..) = open(&fs, &manifest, &options).unwrap();
    let entry = |version| Entry { version, seed: version, size: 300 };
    append(&log, entry(1), Durability::Buffered).unwrap();
    while log.prepare().unwrap() {}
    let named = manifest.state().segments.len();
    assert_eq!(named, 2, "the active one and a spare");
    let written = log.appended();
    // Not while a commit is under way: the room that it has may be in the spare.
    let room = log.reserve(100).unwrap();
    assert_eq!(log.rotate(u64::MAX).unwrap(), None);
    assert!(log.give_up_spares(|_| panic!("there is a reservation")).is_empty());
    drop(room);
    let end = log.rotate(100_000).unwrap().unwrap();
    assert_eq!((log.end(), log.durable_to()), (end, end), "begun durably");
    let last = manifest.state().segments.pop().unwrap();
    assert_eq!(last.meta.segment, end.segment, "the spare was passed by");
    assert_eq!(last.meta.capacity, 96 << 10, "whole pages, no more than asked for");
    assert_eq!(log.appended(), written + 2 * 48, "two links");
    // Nothing is made ready before it is needed, and those that were left are reported.
    while log.prepare().unwrap() {}
    let segments = manifest.state().segments;
    assert_eq!(segments.len(), named + 1);
    assert!(segments[..named].iter().all(|s| s.sealed.is_some()));
    log.forget(&[segments[0].meta.segment, segments[1].meta.segment]).unwrap();
    assert!(matches!(log.forget(&[end.segment]), Err(Error::Misuse(_))));
    // It is needed when the active one is nearly full.
    let mut version = 1;
    while manifest.state().segments.len() == segments.len() {
        version += 1;
        append(&log, entry(version), Durability::Buffered).unwrap();
        log.prepare().unwrap();
    }
    assert_eq!(log.end().segment, end.segment);
    assert!(version > 20, "{version}");
}

#[test]
fn spares_are_given_up_only_if_they_are_freed() {
    let fs: Arc<dyn Fs> = Arc::new(MemFs::new());
    let manifest = Manifest::new(State::default());
    let (log, ..) = open(&fs, &manifest, &options()).unwrap();
    let entry = |version| Entry { version, seed: version, size: 900 };
    append(&log, entry(1), Durability::Sync).unwrap();
    assert!(log.prepare().unwrap());
    let spare = manifest.state().segments[1].meta;
    assert!(matches!(log.forget(&[spare.segment]), Err(Error::Misuse(_))), "it is a spare");
    let kept = log.give_up_spares(|spares| {
        assert_eq!(spares, [spare]);
        false
    });
    assert!(kept.is_empty() && log.view().segments().len() == 2);
    assert!(matches!(log.forget(&[spare.segment]), Err(Error::Misuse(_))), "it still is one");
    let gone = log.give_up_spares(|spares| {
        // Meanwhile no other is made.
        assert!(!log.prepare().unwrap());
        log.forget(&[spares[0].segment]).is_ok()
    });
    assert_eq!(gone, [spare]);
    assert!(!log.prepare().unwrap(), "none is wanted yet");
    manifest.0.lock().unwrap().segments.retain(|s| s.meta.segment != spare.segment);
    fs.remove(&segment_path(DIR.as_ref(), spare.file)).unwrap();
    for version in 2..40 {
        append(&log, entry(version), Durability::Sync).unwrap();
    }
    log.close().unwrap();
    drop(log);
    let (_, seen, end) = open(&fs, &manifest, &options()).unwrap();
    assert!(end.clean && seen.frames.len() == 39);
}

/// Else it would be made and given up again and again for as long as nothing is written.
#[test]
fn a_log_at_rest_with_little_room_makes_no_spare_before_something_is_written() {
    let fs: Arc<dyn Fs> = Arc::new(MemFs::new());
    let manifest = Manifest::new(State::default());
    let options = Options { segment_size: 64 << 10, initial_segment_size: 64 << 10, ..options() };
    let (log, ..) = open(&fs, &manifest, &options).unwrap();
    let mut next = (1..).map(|version| Entry { version, seed: version, size: 300 });
    let mut write = || drop(append(&log, next.next().unwrap(), Durability::Sync).unwrap());
    while log.end().offset < (64 << 10) * 8 / 10 {
        write();
    }
    for _ in 0..2 {
        assert!(log.prepare().unwrap(), "it is nearly full");
        let gone = log.give_up_spares(|spares| {
            manifest.0.lock().unwrap().segments.retain(|s| s.meta.segment != spares[0].segment);
            log.forget(&[spares[0].segment]).is_ok()
        });
        assert_eq!(gone.len(), 1);
        assert!(!log.prepare().unwrap());
        write();
    }
    assert_eq!(log.end().segment, 1);
}

#[test]
fn a_sync_vouches_for_nothing_that_was_written_after_it_began() {
    let disk = MemFs::new();
    let fs: Arc<dyn Fs> = Arc::new(disk.clone());
    let (log, ..) = open(&fs, &Manifest::new(State::default()), &options()).unwrap();
    let log = Arc::new(log);
    let entry = |version| Entry { version, seed: version, size: 300 };
    append(&log, entry(1), Durability::Buffered).unwrap();
    let end = log.end();
    let once = Mutex::new(Some(log.clone()));
    disk.on_operation(move |_, op, _| {
        if op == Op::SyncData
            && let Some(log) = once.lock().unwrap().take()
        {
            append(&log, entry(2), Durability::Buffered).unwrap();
        }
    });
    assert_eq!(log.sync().unwrap(), end);
    assert!(log.end() > end, "one was written meanwhile");
    assert_eq!(log.durable_to(), end);
}

#[test]
fn a_commit_syncs_what_is_not_durable_at_twice_the_interval() {
    let fs: Arc<dyn Fs> = Arc::new(MemFs::new());
    let interval = 4000;
    let sizes = Options {
        segment_size: 1 << 20,
        initial_segment_size: 1 << 20,
        sync_interval_bytes: interval,
        ..options()
    };
    let (log, ..) = open(&fs, &Manifest::new(State::default()), &sizes).unwrap();
    let (mut synced, mut syncs) = (0, 0);
    for version in 1..60 {
        append(&log, Entry { version, seed: version, size: 300 }, Durability::Buffered).unwrap();
        if log.durable_to() == log.end() {
            (synced, syncs) = (log.appended(), syncs + 1);
        }
        let unsynced = log.appended() - synced;
        assert!(unsynced < 2 * interval, "{unsynced} bytes may be lost");
    }
    assert!(syncs > 1);
}

#[test]
fn what_was_queued_before_a_failure_is_not_written_after_it() {
    let disk = MemFs::new();
    let fs: Arc<dyn Fs> = Arc::new(disk.clone());
    let (log, ..) = open(&fs, &Manifest::new(State::default()), &options()).unwrap();
    let frame = Entry { version: 1, seed: 1, size: 300 }.frame();
    let room = log.reserve(frame.len()).unwrap();
    let ticket = log.enqueue(frame, 1, Durability::Buffered, room, ());
    let (end, operations) = (log.end(), disk.operations());
    log.poison(Error::Misuse("a failure elsewhere"));
    let done = log.drive(ticket, &Discard);
    assert!(matches!(done, Err(Error::Poisoned { .. })), "{done:?}");
    assert_eq!((log.end(), disk.operations()), (end, operations));
    assert_eq!(log.reserved(), 0, "its room is given back");
}

#[test]
fn housekeeping_syncs_at_the_interval_and_a_log_at_rest_is_synced() {
    let fs: Arc<dyn Fs> = Arc::new(MemFs::new());
    let sizes = Options { sync_interval_bytes: 4000, ..options() };
    let (log, ..) = open(&fs, &Manifest::new(State::default()), &sizes).unwrap();
    while log.prepare().unwrap() {}
    let mut frame = FrameBuilder::new();
    frame.push(b"key", b"", &[1; 5000], None).unwrap();
    log.append(frame.finish(), Durability::Buffered).unwrap();
    assert!(log.durable_to() < log.end(), "not yet at twice the interval");
    assert!(log.prepare().unwrap());
    assert_eq!(log.durable_to(), log.end());

    append(&log, Entry { version: 2, seed: 1, size: 300 }, Durability::Buffered).unwrap();
    let end = log.end();
    assert!(log.durable_to() < end);
    assert!(log.idle_sync().unwrap());
    assert!(log.durable_to() >= end);
}

#[test]
fn segments_are_limited_to_no_less_than_64_kib() {
    let fs: Arc<dyn Fs> = Arc::new(MemFs::new());
    let sizes = Options { segment_size: 1 << 20, initial_segment_size: 1 << 20, ..options() };
    let (log, ..) = open(&fs, &Manifest::new(State::default()), &sizes).unwrap();
    log.limit_segments(1);
    assert!(log.prepare().unwrap());
    let spare = log.view().segments().last().unwrap();
    assert_eq!(log.view().meta(spare).unwrap().capacity, 64 << 10);
}

/// Counts the frames of each group.
#[derive(Default)]
struct Groups(Mutex<Vec<usize>>);

impl Sink<()> for Groups {
    fn route(&self, frames: &mut [Routed<()>]) {
        self.0.lock().unwrap().push(frames.len());
    }
    fn apply(&self, _: FrameView<'_>, _: &mut ()) {}
    fn publish(&self, _: u64) {}
    fn fail(&self, _: u64, _: (), _: &Error) {}
}

#[test]
fn a_group_is_bounded_by_its_bytes() {
    let fs: Arc<dyn Fs> = Arc::new(MemFs::new());
    let sizes = Options { max_group_bytes: 1000, ..options() };
    let (log, ..) = open(&fs, &Manifest::new(State::default()), &sizes).unwrap();
    let mut tickets = Vec::new();
    for version in 1..=5 {
        let mut frame = FrameBuilder::new();
        frame.push(b"key", b"", &[1; 400], None).unwrap();
        let frame = frame.finish();
        let room = log.reserve(frame.len()).unwrap();
        tickets.push(log.enqueue(frame, version, Durability::Buffered, room, ()));
    }
    let groups = Groups::default();
    log.drive(tickets.pop().unwrap(), &groups).unwrap();
    assert_eq!(*groups.0.lock().unwrap(), [2, 2, 1]);
}

/// The first frame is being applied until the second is being written, and that ends in a panic.
struct BreaksTheFirst {
    applies: Barrier,
    routes: Barrier,
}

impl Sink<()> for BreaksTheFirst {
    fn route(&self, frames: &mut [Routed<()>]) {
        if frames[0].version() == 2 {
            self.routes.wait();
        }
    }
    fn apply(&self, frame: FrameView<'_>, _: &mut ()) {
        assert_eq!(frame.version(), 1, "applied behind one that failed");
        self.applies.wait();
        self.routes.wait();
        panic!("asked to");
    }
    fn publish(&self, _: u64) {
        panic!("nothing is to be published");
    }
    fn fail(&self, _: u64, _: (), _: &Error) {}
}

#[test]
fn what_was_written_behind_a_group_that_failed_is_not_acknowledged() {
    let fs: Arc<dyn Fs> = Arc::new(MemFs::new());
    let (log, ..) = open(&fs, &Manifest::new(State::default()), &options()).unwrap();
    let sink = BreaksTheFirst { applies: Barrier::new(2), routes: Barrier::new(2) };
    let commit = |version| {
        let frame = Entry { version, seed: 1, size: 100 }.frame();
        let room = log.reserve(frame.len()).unwrap();
        let ticket = log.enqueue(frame, version, Durability::Buffered, room, ());
        log.drive(ticket, &sink)
    };
    thread::scope(|s| {
        let first = s.spawn(|| commit(1));
        sink.applies.wait();
        let second = commit(2);
        assert!(matches!(second, Err(Error::OutcomeUnknown { .. })), "{second:?}");
        let first = first.join().unwrap();
        assert!(matches!(first, Err(Error::OutcomeUnknown { .. })), "{first:?}");
    });
}
