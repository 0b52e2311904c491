//! Segments that are made ready: what they look like, who may refuse them, and of which files they
//! are made.
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, OnceLock};

use kvdb_vfs::{FaultFs, FaultPlan, Fs, MemFs, Op, OpenMode};
use kvdb_vlog::*;

use crate::common::*;

/// Names segments in a way of its own.
#[derive(Default)]
struct Namer {
    manifest: Manifest,
    /// The number that every segment gets, if not 0.
    number: AtomicU32,
    refuses: AtomicBool,
    /// Whether a refusal is certain.
    certain: AtomicBool,
    /// Where a commit begins while a segment is being named.
    log: OnceLock<Arc<Log>>,
    begun: Mutex<Option<Ticket<()>>>,
}

impl SegmentNamer for Namer {
    fn allocate(&self) -> Result<SegmentName, BoxError> {
        let name = self.manifest.allocate()?;
        let number = self.number.load(Ordering::Relaxed);
        Ok(SegmentName { segment: if number > 0 { number } else { name.segment }, ..name })
    }
    fn name(&self, meta: &SegmentMeta) -> Result<(), BoxError> {
        if let Some(log) = self.log.get() {
            let frame = Entry { version: 1, seed: 1, size: 300 }.frame();
            let room = log.reserve(frame.len())?;
            let ticket = log.enqueue(frame, 1, Durability::Buffered, room, ());
            *self.begun.lock().unwrap() = Some(ticket);
        }
        if self.refuses.load(Ordering::Relaxed) {
            Err("no".into())
        } else {
            self.manifest.name(meta)
        }
    }
    fn is_refusal(&self, _: &BoxError) -> bool {
        self.certain.load(Ordering::Relaxed)
    }
    fn sealed(&self, sealed: &SealedSegment) -> Result<(), BoxError> {
        self.manifest.sealed(sealed)
    }
}

fn open_named(fs: &Arc<dyn Fs>, namer: &Arc<Namer>) -> Log {
    fs.create_dir_all(DIR.as_ref()).unwrap();
    let mut recovery = recovery(fs, &State::default(), &options()).unwrap();
    recovery.replay(|_| Ok::<_, ()>(())).unwrap();
    let meta = recovery.create_segment(namer.allocate().unwrap()).unwrap();
    namer.manifest.name(&meta).unwrap();
    recovery.into_log(namer.clone(), Start::At(meta.segment)).unwrap()
}

fn files(fs: &Arc<dyn Fs>) -> usize {
    fs.list(DIR.as_ref()).unwrap().len()
}

#[test]
fn a_spare_has_a_number_above_all_others() {
    let fs: Arc<dyn Fs> = Arc::new(MemFs::new());
    let namer = Arc::new(Namer::default());
    namer.number.store(5, Ordering::Relaxed);
    let log = open_named(&fs, &namer);
    for number in [4, 5] {
        namer.number.store(number, Ordering::Relaxed);
        let made = log.prepare();
        assert!(matches!(made, Err(Error::Misuse(_))), "{number}: {made:?}");
        assert_eq!((files(&fs), log.view().segments().len()), (1, 1));
    }
    namer.number.store(6, Ordering::Relaxed);
    assert!(log.prepare().unwrap());
}

#[test]
fn a_spare_that_was_not_named_is_in_no_view_and_its_file_goes_if_that_is_certain() {
    for certain in [true, false] {
        let fs: Arc<dyn Fs> = Arc::new(MemFs::new());
        let namer = Arc::new(Namer::default());
        let log = open_named(&fs, &namer);
        namer.refuses.store(true, Ordering::Relaxed);
        namer.certain.store(certain, Ordering::Relaxed);
        let made = log.prepare();
        assert!(matches!(made, Err(Error::Namer(_))), "{made:?}");
        assert_eq!(log.view().segments().len(), 1);
        assert_eq!(files(&fs), if certain { 1 } else { 2 });
        // The next one is named.
        namer.refuses.store(false, Ordering::Relaxed);
        assert!(log.prepare().unwrap());
        assert_eq!(log.view().segments().len(), 2);
    }
}

#[test]
fn a_segment_is_not_left_when_a_commit_began_while_the_next_one_was_made() {
    let fs: Arc<dyn Fs> = Arc::new(MemFs::new());
    let namer = Arc::new(Namer::default());
    let log = Arc::new(open_named(&fs, &namer));
    let end = log.end();
    assert!(namer.log.set(log.clone()).is_ok());
    assert_eq!(log.rotate(u64::MAX).unwrap(), None);
    assert_eq!(log.end(), end);
    let ticket = namer.begun.lock().unwrap().take().unwrap();
    let done = log.drive(ticket, &Discard).unwrap();
    assert_eq!(done.position.segment, end.segment);
}

#[test]
fn a_segment_is_written_to_its_end_and_zero_behind_its_header() {
    for sync_method in [SyncMethod::Fdatasync, SyncMethod::Direct] {
        let faults = FaultFs::new(Arc::new(MemFs::new()));
        let writes = faults.arm(FaultPlan::count().on(&[Op::Write]));
        let fs: Arc<dyn Fs> = Arc::new(faults);
        let manifest = Manifest::new(State::default());
        let size = 2 << 20 | 4096;
        let sizes = Options {
            segment_size: size,
            initial_segment_size: size,
            prefill: true,
            sync_method,
            ..options()
        };
        let (_log, ..) = open(&fs, &manifest, &sizes).unwrap();
        assert_eq!(writes.seen(), 3, "a mebibyte each, and the rest");
        let path = segment_path(DIR.as_ref(), manifest.state().segments[0].meta.file);
        let mut bytes = vec![1; size as usize];
        fs.open(&path, OpenMode::Read).unwrap().read_exact_at(&mut bytes, 0).unwrap();
        assert!(bytes[..8] == *b"KVDBVLOG" && bytes[64..].iter().all(|b| *b == 0));
    }
}

/// A log that has left so many segments, and has no spare. All but the last of those are reported,
/// so that nothing but what is kept leads to their files.
fn left(segments: u32, sizes: &Options) -> Log {
    let fs: Arc<dyn Fs> = Arc::new(MemFs::new());
    let (log, ..) = open(&fs, &Manifest::new(State::default()), sizes).unwrap();
    while log.end().segment <= segments {
        let last = log.end().segment;
        append_large(&log, 900);
        if last < log.end().segment && last < segments {
            while log.prepare().unwrap() {}
        }
    }
    assert_eq!(log.view().segments().last(), Some(log.end().segment));
    log
}

fn append_large(log: &Log, size: usize) {
    let mut frame = FrameBuilder::new();
    frame.push(b"key", b"", &vec![1; size], None).unwrap();
    log.append(frame.finish(), Durability::Sync).unwrap();
}

fn numbers(metas: Vec<SegmentMeta>) -> Vec<u32> {
    metas.into_iter().map(|meta| meta.segment).collect()
}

#[test]
fn of_dead_segments_two_are_kept_and_the_others_given_back() {
    let log = left(5, &Options { initial_segment_size: 16 << 10, ..options() });
    assert_eq!(numbers(log.recycle(&[1, 2, 3]).unwrap()), [1]);
    assert_eq!(numbers(log.recycle(&[4]).unwrap()), [2], "the one that died first");
}

#[test]
fn a_dead_segment_that_somebody_reads_gives_way_to_one_that_can_be_used() {
    let log = left(4, &Options { initial_segment_size: 16 << 10, ..options() });
    assert!(log.recycle(&[1]).unwrap().is_empty());
    let reader = log.view();
    assert!(log.recycle(&[2]).unwrap().is_empty());
    assert_eq!(numbers(log.recycle(&[3]).unwrap()), [2]);
    drop(reader);
}

#[test]
fn a_dead_segment_named_twice_is_kept_once() {
    let log = left(4, &Options { initial_segment_size: 16 << 10, ..options() });
    assert!(log.recycle(&[1, 1]).unwrap().is_empty());
    assert!(log.recycle(&[2, 2]).unwrap().is_empty());
    assert_eq!(numbers(log.recycle(&[3]).unwrap()), [1]);
}

#[test]
fn a_closed_log_keeps_no_dead_segment() {
    let log = left(2, &Options { initial_segment_size: 16 << 10, ..options() });
    log.close().unwrap();
    assert_eq!(log.recycle(&[1, 2]).unwrap().len(), 2);
}

#[test]
fn a_dead_segment_much_smaller_than_new_ones_is_given_back() {
    let sizes = Options { segment_size: 64 << 10, initial_segment_size: 16 << 10, ..options() };
    let log = left(2, &sizes);
    // Of 16 and 32 KiB.
    assert_eq!(numbers(log.recycle(&[1, 2]).unwrap()), [1]);
}

#[test]
fn a_dead_segment_is_not_used_again_for_a_frame_that_it_does_not_take() {
    let sizes = Options { segment_size: 64 << 10, initial_segment_size: 32 << 10, ..options() };
    let log = left(2, &sizes);
    assert!(log.recycle(&[1]).unwrap().is_empty());
    append_large(&log, 30_000);
    append_large(&log, 50_000);
    let last = log.view().segments().last().unwrap();
    assert_eq!((last, log.view().meta(last).unwrap().capacity), (4, 64 << 10));
}

#[test]
fn a_dead_segment_larger_than_new_ones_are_to_be_is_not_used_again() {
    let sizes = Options { segment_size: 256 << 10, initial_segment_size: 256 << 10, ..options() };
    let log = left(2, &sizes);
    assert!(log.recycle(&[1]).unwrap().is_empty());
    log.limit_segments(64 << 10);
    assert!(log.prepare().unwrap());
    let last = log.view().segments().last().unwrap();
    assert_eq!((last, log.view().meta(last).unwrap().capacity), (4, 64 << 10));
}
