//! Torn tails are cut; damage to what was durable is an error (rules 46, 47, 49).
use std::sync::Arc;

use kvdb_vfs::{DirtyPage, Fs, ImagePolicy, MemFs, NameChange, OpenMode};
use kvdb_vlog::*;

use crate::common::*;

/// A log as it lies on the disk, to be copied and spoilt.
struct Sample {
    disk: MemFs,
    state: State,
    entries: Vec<Entry>,
    /// Where each frame begins, and where the last one ends.
    starts: Vec<Position>,
    end: Position,
    /// How many of the frames some mark covers.
    marked: usize,
}

impl Sample {
    /// Synced frames, then `torn` buffered ones; closed with a footer if nothing is torn.
    fn new(options: &Options, synced: usize, torn: usize) -> Sample {
        let disk = MemFs::new();
        let fs: Arc<dyn Fs> = Arc::new(disk.clone());
        let manifest = Manifest::new(State::default());
        let (log, ..) = open(&fs, &manifest, options).unwrap();
        let mut entries = Vec::new();
        let mut starts = Vec::new();
        for i in 0..synced + torn {
            let version = i as u64 + 1;
            let entry = Entry { version, seed: version * 11, size: 60 + i * 40 };
            let durability = if i < synced { Durability::Sync } else { Durability::Buffered };
            starts.push(append(&log, entry, durability).unwrap().position);
            entries.push(entry);
            if i + 1 == synced {
                log.idle_sync().unwrap();
            }
        }
        let marked = if torn == 0 { synced + 1 } else { synced };
        let end = log.end();
        if torn == 0 {
            log.close().unwrap();
        }
        Sample { disk, state: manifest.state(), entries, starts, end, marked }
    }

    fn copy(&self) -> Arc<dyn Fs> {
        Arc::new(self.disk.process_image())
    }

    fn file_of(&self, segment: u32) -> std::path::PathBuf {
        let known = self.state.segments.iter().find(|s| s.meta.segment == segment).unwrap();
        segment_path(DIR.as_ref(), known.meta.file)
    }

    fn reopen(&self, fs: &Arc<dyn Fs>, options: &Options) -> Result<usize> {
        let manifest = Manifest::new(self.state.clone());
        let (log, seen, _) = open(fs, &manifest, options)?;
        let n = check_prefix(&seen, &self.entries, 0).unwrap();
        // What was cut stays cut, whatever is appended.
        let size = self.entries.get(n).map_or(10, |e| e.size);
        let next = Entry { version: n as u64 + 1, seed: 77, size };
        append(&log, next, Durability::Sync).unwrap();
        drop(log);
        let (_, seen, _) = open(fs, &manifest, options).unwrap();
        let mut expected = self.entries[..n].to_vec();
        expected.push(next);
        assert_eq!(check_prefix(&seen, &expected, n + 1), Ok(n + 1));
        Ok(n)
    }
}

fn change(fs: &Arc<dyn Fs>, path: &std::path::Path, at: u32, f: impl Fn(&mut [u8]), len: usize) {
    let file = fs.open(path, OpenMode::ReadWrite).unwrap();
    let mut bytes = vec![0; len];
    file.read_exact_at(&mut bytes, at.into()).unwrap();
    f(&mut bytes);
    file.write_all_at(&bytes, at.into()).unwrap();
}

/// Number of frames that lie entirely before `at`.
fn whole_before(sample: &Sample, at: u32) -> usize {
    let ends = sample.starts.iter().skip(1).chain([&sample.end]);
    ends.filter(|e| e.offset <= at).count()
}

#[test]
fn a_tail_torn_at_any_byte_is_cut() {
    for options in [options(), Options { maps: false, ..options() }] {
        let sample = Sample::new(&options, 4, 6);
        let segment = sample.end.segment;
        assert_eq!(sample.starts[0].segment, segment, "one segment");
        let path = sample.file_of(segment);
        let capacity = options.initial_segment_size;
        let first_torn = sample.starts[4].offset;
        for at in first_torn..sample.end.offset {
            for garbage in [0u8, 0xA5] {
                let fs = sample.copy();
                let rest = (capacity - at) as usize;
                change(&fs, &path, at, |b| b.fill(garbage), rest);
                let n = sample.reopen(&fs, &options).unwrap();
                // Zeros that were zeros before change nothing.
                let whole = whole_before(&sample, at);
                assert!(n == whole || (garbage == 0 && n == whole + 1), "cut at {at}: {n} frames");
            }
        }
    }
}

#[test]
fn a_hole_in_the_unsynced_tail_ends_the_log() {
    let options = options();
    let sample = Sample::new(&options, 3, 5);
    let path = sample.file_of(sample.end.segment);
    for k in 3..8 {
        let fs = sample.copy();
        let next = sample.starts.get(k + 1).unwrap_or(&sample.end).offset;
        let len = (next - sample.starts[k].offset) as usize;
        change(&fs, &path, sample.starts[k].offset, |b| b.fill(0), len);
        assert_eq!(sample.reopen(&fs, &options).unwrap(), k, "the frames behind are whole");
    }
}

/// Keeps of each unsynced page the sectors whose bits are set, eight to a page, in order.
struct Kept(u64);

impl ImagePolicy for Kept {
    fn length(&mut self, _: &std::path::Path, _: u64, current: u64) -> u64 {
        current
    }
    fn page(&mut self, page: &DirtyPage<'_>) -> u8 {
        (self.0 >> (8 * page.index)) as u8
    }
    fn name(&mut self, _: &NameChange<'_>) -> bool {
        true
    }
}

#[test]
fn any_pages_and_sectors_of_the_unsynced_tail_may_be_missing() {
    for sync_method in [SyncMethod::Fdatasync, SyncMethod::Direct] {
        let options = Options { sync_method, ..options() };
        let sample = Sample::new(&options, 4, 12);
        let pages = sample.disk.unsynced_pages() as u32;
        assert!((2..=8).contains(&pages), "{pages}");
        let all = u64::MAX >> (64 - 8 * pages);
        // Whole pages in any order; all but one sector; one sector alone; a torn one.
        let subsets = (0..1u64 << pages).map(|set| {
            (0..pages).filter(|p| set >> p & 1 == 1).map(|p| 0xFFu64 << (8 * p)).sum::<u64>()
        });
        let sectors = (0..8 * pages).flat_map(|s| [all & !(1 << s), 1 << s, all >> s]);
        let mut fewest = sample.entries.len();
        for kept in subsets.chain(sectors).chain((0..200 * scale()).map(|n| mix(n) & all)) {
            let fs: Arc<dyn Fs> = Arc::new(sample.disk.crash_image(&mut Kept(kept)));
            let n = sample.reopen(&fs, &options).unwrap();
            assert!(n >= 4, "{n} frames of those synced, kept {kept:x}");
            assert!(kept != all || n == 16);
            fewest = fewest.min(n);
        }
        assert_eq!(fewest, 4);
    }
}

#[test]
fn damage_before_a_mark_is_an_error_with_file_and_offset() {
    for (options, torn) in
        [(options(), 2), (options(), 0), (Options { maps: false, ..options() }, 2)]
    {
        let sample = Sample::new(&options, 6, torn);
        let segment = sample.end.segment;
        let path = sample.file_of(segment);
        for at in FIRST_FRAME..sample.end.offset {
            let whole = whole_before(&sample, at);
            let fs = sample.copy();
            change(&fs, &path, at, |b| b[0] ^= 0x10, 1);
            match sample.reopen(&fs, &options) {
                Err(Error::Damaged { path: p, offset, .. }) => {
                    assert!(whole < sample.marked, "a torn tail taken for damage at {at}");
                    assert_eq!(p, path);
                    assert!(offset <= at.into(), "damage at {at} reported at {offset}");
                }
                Ok(n) => {
                    assert!(whole >= sample.marked, "damage at {at} passed over: {n} frames");
                    assert!(n == whole || torn == 0, "at {at}: {n}");
                }
                Err(e) => panic!("at {at}: {e}"),
            }
        }
    }
}

#[test]
fn every_flipped_byte_of_a_closed_log_is_noticed_or_harmless() {
    let options = options();
    let sample = Sample::new(&options, 5, 0);
    let path = sample.file_of(sample.end.segment);
    let mut noticed = 0;
    for at in 0..options.initial_segment_size {
        let fs = sample.copy();
        change(&fs, &path, at, |b| b[0] ^= 1 << (at % 8), 1);
        match sample.reopen(&fs, &options) {
            // Behind the footer, in it, or in the unused part of the header page.
            Ok(n) => assert_eq!(n, 5, "at {at}"),
            Err(_) => {
                noticed += 1;
                assert!(at < 64 || (FIRST_FRAME..sample.end.offset).contains(&at), "at {at}");
            }
        }
    }
    assert_eq!(noticed, 64 + sample.end.offset - FIRST_FRAME);
}

#[test]
fn overwritten_ranges_of_a_closed_log_are_noticed_unless_nothing_behind_them_is_left() {
    for options in [options(), Options { maps: false, ..options() }] {
        let sample = Sample::new(&options, 8, 0);
        let path = sample.file_of(sample.end.segment);
        // The last frame of all, which carries the last mark, begins here: the footer.
        let (first, footer) = (FIRST_FRAME, sample.end.offset);
        let len = footer + 40 - first;
        let mut original = vec![0; len as usize];
        let file = sample.copy().open(&path, OpenMode::Read).unwrap();
        file.read_exact_at(&mut original, first.into()).unwrap();
        let mut dice = 0;
        let mut roll = |below: u32| {
            dice += 1;
            (mix(dice) % u64::from(below)) as usize
        };
        let (mut noticed, mut cut) = (0, 0);
        for round in 0..1500 * scale() {
            let from = roll(len);
            let to = (from + 1 + roll(300)).min(len as usize);
            let mut bad = original.clone();
            match round % 3 {
                0 => bad[from..to].fill(0),
                1 => bad[from..to].iter_mut().for_each(|b| *b = roll(256) as u8),
                // A piece of the file at another place of it.
                _ => {
                    let source = roll(len - (to - from) as u32);
                    bad[from..to].copy_from_slice(&original[source..source + (to - from)]);
                }
            }
            if bad == original {
                continue;
            }
            let fs = sample.copy();
            change(&fs, &path, first, |b| b.copy_from_slice(&bad), bad.len());
            let whole = whole_before(&sample, first + from as u32);
            match sample.reopen(&fs, &options) {
                Err(Error::Damaged { path: p, offset, .. }) => {
                    noticed += 1;
                    assert_eq!(p, path);
                    assert!(offset <= u64::from(first) + to as u64);
                }
                Ok(n) => {
                    cut += 1;
                    let reaches = first + to as u32;
                    assert!(reaches > footer, "{from}..{to} passed over: {n} frames");
                    assert!(n >= whole, "{from}..{to}: {n} frames, {whole} are whole");
                }
                Err(e) => panic!("{from}..{to}: {e}"),
            }
        }
        assert!(noticed > 1000 && cut > 0, "{noticed} noticed, {cut} cut");
    }
}

#[test]
fn damage_is_noticed_by_a_mark_in_a_later_segment() {
    // Nobody has reported the segment that was left, so only marks can tell.
    let options = options();
    let disk = MemFs::new();
    let fs: Arc<dyn Fs> = Arc::new(disk.clone());
    let manifest = Manifest::new(State::default());
    let (log, ..) = open(&fs, &manifest, &options).unwrap();
    let mut last = Vec::new();
    for version in 1.. {
        let entry = Entry { version, seed: version * 11, size: 900 };
        let position = append(&log, entry, Durability::Sync).unwrap().position;
        if position.segment > 1 && last.len() > 1 {
            break;
        }
        last.push(position);
    }
    drop(log);
    let state = manifest.state();
    assert!(state.segments.iter().all(|s| s.sealed.is_none()));
    // The last frame of the first segment: no mark behind it in there.
    let damaged = last[last.len() - 1];
    let path = segment_path(DIR.as_ref(), state.segments[0].meta.file);
    change(&fs, &path, damaged.offset + 40, |b| b[0] ^= 1, 1);
    match open(&fs, &manifest, &options) {
        Err(Error::Damaged { path: p, offset, .. }) => {
            assert_eq!((p, offset), (path, damaged.offset.into()));
        }
        other => panic!("{:?}", other.map(|(_, _, end)| end)),
    }
}

#[test]
fn a_mark_is_found_wherever_it_is() {
    // What follows the end is looked through in pieces of this size.
    const PIECE: u32 = 1 << 20;
    let options = Options {
        segment_size: 4 << 20,
        initial_segment_size: 4 << 20,
        tiny_segments: false,
        ..options()
    };
    // A frame over a piece long, whose end and the marker behind it lie around the seam.
    for short in (0..=48).step_by(8) {
        let fs: Arc<dyn Fs> = Arc::new(MemFs::new());
        let manifest = Manifest::new(State::default());
        let (log, ..) = open(&fs, &manifest, &options).unwrap();
        let mut builder = FrameBuilder::new();
        builder.push(b"", b"", &vec![1; (PIECE - 44 - short) as usize], None).unwrap();
        let frame = builder.finish();
        assert_eq!(frame.len() as u32, PIECE - short);
        let position = log.append(frame, Durability::Sync).unwrap().position;
        assert!(log.idle_sync().unwrap());
        drop(log);
        let path = segment_path(DIR.as_ref(), manifest.state().segments[0].meta.file);
        change(&fs, &path, position.offset + 100, |b| b[0] ^= 1, 1);
        match open(&fs, &manifest, &options) {
            Err(Error::Damaged { offset, .. }) => assert_eq!(offset, position.offset.into()),
            other => panic!("{short}: {:?}", other.map(|(_, _, end)| end)),
        }
    }
}

#[test]
fn frames_lost_behind_a_footer_are_noticed() {
    // Closed, opened again, appended to, and the first thing behind the footer is gone.
    let options = options();
    let sample = Sample::new(&options, 3, 0);
    let fs = sample.copy();
    let manifest = Manifest::new(sample.state.clone());
    let (log, ..) = open(&fs, &manifest, &options).unwrap();
    let behind_footer = log.end();
    for version in 4..8 {
        let entry = Entry { version, seed: version, size: 100 };
        append(&log, entry, Durability::Sync).unwrap();
    }
    drop(log);
    let path = sample.file_of(behind_footer.segment);
    for len in [1, 32, 100] {
        let image: Arc<dyn Fs> = Arc::new(MemFs::new());
        copy_all(&fs, &image);
        change(&image, &path, behind_footer.offset, |b| b.fill(0xFF), len);
        let result = open(&image, &Manifest::new(manifest.state()), &options);
        match result {
            Err(Error::Damaged { offset, .. }) => assert_eq!(offset, behind_footer.offset.into()),
            other => panic!("{:?}", other.map(|(_, _, end)| end)),
        }
    }
}

fn copy_all(from: &Arc<dyn Fs>, to: &Arc<dyn Fs>) {
    to.create_dir_all(DIR.as_ref()).unwrap();
    for entry in from.list(DIR.as_ref()).unwrap() {
        let path = std::path::Path::new(DIR).join(entry.name);
        let file = from.open(&path, OpenMode::Read).unwrap();
        let mut bytes = vec![0; file.len().unwrap() as usize];
        file.read_exact_at(&mut bytes, 0).unwrap();
        to.open(&path, OpenMode::CreateNew).unwrap().write_all_at(&bytes, 0).unwrap();
    }
}

#[test]
fn damage_can_be_salvaged_on_request() {
    let options = options();
    let sample = Sample::new(&options, 6, 0);
    let fs = sample.copy();
    let path = sample.file_of(sample.end.segment);
    change(&fs, &path, sample.starts[3].offset + 40, |b| b[0] ^= 1, 1);
    assert!(matches!(sample.reopen(&fs, &options), Err(Error::Damaged { .. })));
    let salvage = Options { salvage: true, ..options };
    let manifest = Manifest::new(sample.state.clone());
    let (log, seen, end) = open(&fs, &manifest, &salvage).unwrap();
    assert_eq!(check_prefix(&seen, &sample.entries, 3), Ok(3));
    let damage = end.damage.unwrap();
    assert_eq!(damage.position, sample.starts[3]);
    assert!(damage.durable_to > damage.position && !end.clean);
    append(&log, Entry { version: 4, seed: 1, size: 1 }, Durability::Sync).unwrap();
    drop(log);
    let (_, seen, end) = open(&fs, &manifest, &salvage).unwrap();
    assert_eq!((seen.frames.len(), end.damage), (4, None));
}

#[test]
fn a_sealed_segment_that_was_cut_short_or_exchanged_is_an_error() {
    let options = options();
    let disk = MemFs::new();
    let fs: Arc<dyn Fs> = Arc::new(disk.clone());
    let manifest = Manifest::new(State::default());
    let (log, ..) = open(&fs, &manifest, &options).unwrap();
    for version in 1..30 {
        append(&log, Entry { version, seed: version, size: 900 }, Durability::Buffered).unwrap();
        log.prepare().unwrap();
    }
    log.close().unwrap();
    drop(log);
    let state = manifest.state();
    let first = state.segments[0].clone();
    let sealed = first.sealed.unwrap();
    let path = segment_path(DIR.as_ref(), first.meta.file);

    // Verification finds the same without a replay.
    let view_of = |fs: &Arc<dyn Fs>| recovery(fs, &state, &options).unwrap().view();
    for segment in &state.segments[..state.segments.len() - 2] {
        let sealed = segment.sealed.unwrap();
        let verified = view_of(&fs).verify(sealed.segment, Some(&sealed)).unwrap();
        assert_eq!(verified.bytes, u64::from(sealed.length - FIRST_FRAME));
        for at in (FIRST_FRAME..sealed.length).step_by(97) {
            let spoilt: Arc<dyn Fs> = Arc::new(disk.process_image());
            let path = segment_path(DIR.as_ref(), segment.meta.file);
            change(&spoilt, &path, at, |b| b[0] ^= 1, 1);
            let e = view_of(&spoilt).verify(sealed.segment, Some(&sealed)).unwrap_err();
            assert!(matches!(&e, Error::Damaged { path: p, .. } if *p == path), "{e}");
        }
        let other = SealedSegment { checksum: sealed.checksum ^ 1, ..sealed };
        assert!(view_of(&fs).verify(sealed.segment, Some(&other)).is_err());
    }

    let spoilt: Arc<dyn Fs> = Arc::new(disk.process_image());
    change(&spoilt, &path, sealed.length - 1, |b| b[0] ^= 1, 1);
    let e = open(&spoilt, &Manifest::new(state.clone()), &options).unwrap_err();
    assert!(matches!(&e, Error::Damaged { path: p, .. } if *p == path), "{e}");

    for (name, spoil) in [
        ("length", SealedSegment { length: sealed.length - 8, ..sealed }),
        ("frames", SealedSegment { frames: sealed.frames + 1, ..sealed }),
        ("checksum", SealedSegment { checksum: sealed.checksum ^ 1, ..sealed }),
    ] {
        let mut state = state.clone();
        state.segments[0].sealed = Some(spoil);
        let image: Arc<dyn Fs> = Arc::new(disk.process_image());
        let e = open(&image, &Manifest::new(state), &options).unwrap_err();
        assert!(matches!(&e, Error::Damaged { path: p, .. } if *p == path), "{name}: {e}");
    }

    // Two segments of the same store, exchanged.
    let spoilt: Arc<dyn Fs> = Arc::new(disk.process_image());
    let other = segment_path(DIR.as_ref(), state.segments[1].meta.file);
    spoilt.rename(&path, "/log/x".as_ref()).unwrap();
    spoilt.rename(&other, &path).unwrap();
    spoilt.rename("/log/x".as_ref(), &other).unwrap();
    let e = open(&spoilt, &Manifest::new(state.clone()), &options).unwrap_err();
    assert!(matches!(&e, Error::WrongFile { path: p, .. } if *p == path), "{e}");

    // Missing, truncated, empty.
    let spoilt: Arc<dyn Fs> = Arc::new(disk.process_image());
    spoilt.open(&path, OpenMode::ReadWrite).unwrap().set_len(5000).unwrap();
    let e = open(&spoilt, &Manifest::new(state.clone()), &options).unwrap_err();
    assert!(matches!(&e, Error::Truncated { path: p, .. } if *p == path), "{e}");
    spoilt.open(&path, OpenMode::ReadWrite).unwrap().set_len(0).unwrap();
    let e = open(&spoilt, &Manifest::new(state.clone()), &options).unwrap_err();
    assert!(matches!(&e, Error::Truncated { path: p, .. } if *p == path), "{e}");
    spoilt.remove(&path).unwrap();
    let e = open(&spoilt, &Manifest::new(state.clone()), &options).unwrap_err();
    assert!(matches!(&e, Error::Io(e) if e.path() == path), "{e}");
    assert_eq!(spoilt.list(DIR.as_ref()).unwrap().len(), state.segments.len() - 1);
}

#[test]
fn bytes_of_an_earlier_life_of_a_file_never_come_back() {
    // The whole old file, frames and all, lies under the new segment's header.
    let options = options();
    let sample = Sample::new(&options, 5, 0);
    let fs = sample.copy();
    let old = fs.open(&sample.file_of(sample.end.segment), OpenMode::Read).unwrap();
    let manifest = Manifest::new(State { next: 50, ..State::default() });
    let (log, ..) = open(&fs, &manifest, &options).unwrap();
    let entry = Entry { version: 1, seed: 500, size: 60 };
    append(&log, entry, Durability::Sync).unwrap();
    let end = log.end();
    drop(log);
    let path = segment_path(DIR.as_ref(), manifest.state().segments[0].meta.file);
    let new = fs.open(&path, OpenMode::ReadWrite).unwrap();
    let mut stale = vec![0; (options.initial_segment_size - end.offset) as usize];
    old.read_exact_at(&mut stale, end.offset.into()).unwrap();
    new.write_all_at(&stale, end.offset.into()).unwrap();
    let (_, seen, _) = open(&fs, &manifest, &options).unwrap();
    assert_eq!(check_prefix(&seen, &[entry], 1), Ok(1));
}

#[test]
fn remains_far_behind_a_footer_never_come_back() {
    // After a clean close: a large frame that is lost altogether, and a small one behind it that
    // is not. Behind the footer are more zeros than an opening looks through.
    let options = Options {
        segment_size: 4 << 20,
        initial_segment_size: 4 << 20,
        tiny_segments: false,
        ..options()
    };
    let fs: Arc<dyn Fs> = Arc::new(MemFs::new());
    let manifest = Manifest::new(State::default());
    let (log, ..) = open(&fs, &manifest, &options).unwrap();
    let mut entries = vec![Entry { version: 1, seed: 1, size: 100 }];
    append(&log, entries[0], Durability::Sync).unwrap();
    log.close().unwrap();
    drop(log);
    let (log, ..) = open(&fs, &manifest, &options).unwrap();
    let (large, small) = (2 << 20, 300);
    for (version, size) in [(2, large), (3, small)] {
        append(&log, Entry { version, seed: version, size }, Durability::Buffered).unwrap();
    }
    let mut seen = Seen::default();
    let mut before = recovery(&fs, &manifest.state(), &options).unwrap();
    before
        .replay(|f| {
            seen.add(f);
            Ok::<_, ()>(())
        })
        .unwrap();
    drop((log, before));
    let (start, end) = (seen.positions[1], seen.positions[2]);
    let path = segment_path(DIR.as_ref(), manifest.state().segments[0].meta.file);
    change(&fs, &path, start.offset, |b| b.fill(0), (end.offset - start.offset) as usize);

    let (log, seen, end) = open(&fs, &manifest, &options).unwrap();
    assert_eq!((check_prefix(&seen, &entries, 1), end.clean), (Ok(1), false));
    // A frame of the same length in the same place would make the small one the next.
    for (version, size) in [(2, large), (3, 10)] {
        let entry = Entry { version, seed: 2 * version, size };
        append(&log, entry, Durability::Sync).unwrap();
        entries.push(entry);
    }
    drop(log);
    let (_, seen, _) = open(&fs, &manifest, &options).unwrap();
    assert_eq!(check_prefix(&seen, &entries, 3), Ok(3));
}

#[test]
fn a_hole_behind_the_head_is_not_bridged_by_the_link_of_the_next_segment() {
    let options = options();
    let fs: Arc<dyn Fs> = Arc::new(MemFs::new());
    let manifest = Manifest::new(State::default());
    let (log, ..) = open(&fs, &manifest, &options).unwrap();
    let mut entries = Vec::new();
    let mut starts = Vec::new();
    for version in 1..20 {
        let entry = Entry { version, seed: version, size: 900 };
        starts.push(append(&log, entry, Durability::Buffered).unwrap().position);
        entries.push(entry);
    }
    drop(log);
    let rotated = starts.iter().position(|p| p.segment > starts[0].segment).unwrap();
    assert!(rotated > 4);
    // Replay begins in the middle, so what the frames before add up to is not known.
    manifest.0.lock().unwrap().head = starts[1];
    let path = segment_path(DIR.as_ref(), manifest.state().segments[0].meta.file);
    for (k, start) in starts.iter().enumerate().take(rotated).skip(2) {
        let image: Arc<dyn Fs> = Arc::new(MemFs::new());
        copy_all(&fs, &image);
        change(&image, &path, start.offset, |b| b.fill(0), 32);
        let (_, seen, end) = open(&image, &Manifest::new(manifest.state()), &options).unwrap();
        assert_eq!(check_prefix(&seen, &entries[1..], k - 1), Ok(k - 1));
        assert!(!end.unreached.is_empty() && end.end == *start);
        // Its frames were counted from the headers before the head.
        let sealed = end.sealed.last().unwrap();
        assert_eq!((sealed.length, sealed.frames), (start.offset, k as u32 + 1));
    }
}

#[test]
fn damage_to_what_a_sync_made_durable_is_noticed_behind_one_more_commit() {
    for last in [Durability::Sync, Durability::Buffered] {
        let options = options();
        let disk = MemFs::new();
        let fs: Arc<dyn Fs> = Arc::new(disk.clone());
        let manifest = Manifest::new(State::default());
        let (log, ..) = open(&fs, &manifest, &options).unwrap();
        let entry = |version| Entry { version, seed: version * 11, size: 300 };
        let first = append(&log, entry(1), Durability::Buffered).unwrap().position;
        // `first` is acknowledged as durable here: one sync group.
        assert_eq!(log.sync().unwrap(), log.end());
        // Begun, written and acknowledged after that: the next one.
        append(&log, entry(2), last).unwrap();
        drop(log);
        let path = segment_path(DIR.as_ref(), manifest.state().segments[0].meta.file);
        change(&fs, &path, first.offset + 40, |b| b[0] ^= 1, 1);
        match open(&fs, &manifest, &options) {
            Err(Error::Damaged { offset, .. }) => assert_eq!(offset, first.offset.into()),
            Err(e) => panic!("{e}"),
            Ok((_, seen, end)) => panic!(
                "{last:?}: cut as a torn tail: {} frames left, durable to {}",
                seen.frames.len(),
                end.durable_to
            ),
        }
    }
}

#[test]
fn a_log_that_is_salvaged_at_a_footer_does_not_go_on_behind_it() {
    let options = options();
    let sample = Sample::new(&options, 3, 0);
    let fs = sample.copy();
    let manifest = Manifest::new(sample.state.clone());
    let (log, ..) = open(&fs, &manifest, &options).unwrap();
    let behind_footer = log.end();
    for version in 4..8 {
        append(&log, Entry { version, seed: version, size: 100 }, Durability::Sync).unwrap();
    }
    drop(log);
    change(&fs, &sample.file_of(behind_footer.segment), behind_footer.offset, |b| b.fill(9), 32);
    let salvage = Options { salvage: true, ..options };
    let (log, seen, end) = open(&fs, &manifest, &salvage).unwrap();
    assert_eq!((seen.frames.len(), end.end), (3, behind_footer));
    assert!(end.damage.is_some() && !end.clean);
    assert_eq!(end.durable_to, end.end, "what was cut is not durable");
    assert!(log.end().segment > behind_footer.segment, "in front of what was lost");
}

#[test]
fn damage_is_noticed_by_the_mark_of_a_link_with_nothing_behind_it() {
    let fs: Arc<dyn Fs> = Arc::new(MemFs::new());
    let manifest = Manifest::new(State::default());
    let (log, ..) = open(&fs, &manifest, &options()).unwrap();
    let entry = Entry { version: 1, seed: 11, size: 300 };
    let position = append(&log, entry, Durability::Sync).unwrap().position;
    log.rotate(u64::MAX).unwrap().unwrap();
    drop(log);
    let state = manifest.state();
    assert!(state.segments.iter().all(|s| s.sealed.is_none()));
    let path = segment_path(DIR.as_ref(), state.segments[0].meta.file);
    change(&fs, &path, position.offset + 40, |b| b[0] ^= 1, 1);
    match open(&fs, &manifest, &options()) {
        Err(Error::Damaged { path: p, offset, .. }) => {
            assert_eq!((p, offset), (path, position.offset.into()));
        }
        other => panic!("{:?}", other.map(|(_, _, end)| end)),
    }
}

#[test]
fn damage_to_what_was_not_synced_before_a_close_is_noticed() {
    let fs: Arc<dyn Fs> = Arc::new(MemFs::new());
    let manifest = Manifest::new(State::default());
    let (log, ..) = open(&fs, &manifest, &options()).unwrap();
    let entry = Entry { version: 1, seed: 11, size: 300 };
    let position = append(&log, entry, Durability::Buffered).unwrap().position;
    log.close().unwrap();
    drop(log);
    let path = segment_path(DIR.as_ref(), manifest.state().segments[0].meta.file);
    change(&fs, &path, position.offset + 40, |b| b[0] ^= 1, 1);
    match open(&fs, &manifest, &options()) {
        Err(Error::Damaged { offset, .. }) => assert_eq!(offset, position.offset.into()),
        other => panic!("{:?}", other.map(|(_, _, end)| end)),
    }
}
