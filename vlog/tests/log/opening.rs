//! What an opening takes for granted, checked one by one, and when room for more is made.
use std::convert::Infallible;
use std::path::Path;
use std::sync::Arc;

use kvdb_vfs::{Fault, FaultFs, FaultPlan, Fs, Keep, MemFs, OpenMode};
use kvdb_vlog::*;

use crate::common::*;

fn overwrite(fs: &Arc<dyn Fs>, file: u64, offset: u64, bytes: &[u8]) {
    let path = segment_path(DIR.as_ref(), file);
    fs.open(&path, OpenMode::ReadWrite).unwrap().write_all_at(bytes, offset).unwrap();
}

fn ignore(_: FrameView<'_>) -> Result<(), Infallible> {
    Ok(())
}

/// A log of frames that nothing has synced, in at least three segments, that was not closed. With the
/// positions of its frames.
fn unsynced() -> (Arc<dyn Fs>, Arc<Manifest>, Vec<Position>) {
    let fs: Arc<dyn Fs> = Arc::new(MemFs::new());
    let manifest = Manifest::new(State::default());
    let options = Options { sync_interval_bytes: 1 << 30, ..options() };
    let (log, ..) = open(&fs, &manifest, &options).unwrap();
    let mut positions = Vec::new();
    for version in 1..40 {
        let entry = Entry { version, seed: version, size: 900 };
        positions.push(append(&log, entry, Durability::Buffered).unwrap().position);
    }
    assert!(log.end().segment >= 3, "{}", log.end());
    (fs, manifest, positions)
}

#[test]
fn a_segment_to_go_on_in_has_a_number_above_all_others() {
    let (fs, manifest, _) = unsynced();
    let state = manifest.state();
    let last = state.segments.last().unwrap().meta.segment;
    let files = fs.list(DIR.as_ref()).unwrap().len();
    let mut recovery = recovery(&fs, &state, &options()).unwrap();
    let name = |segment| SegmentName { segment, file: 900 + u64::from(segment), nonce: 5 };
    assert!(matches!(recovery.create_segment(name(last + 1)), Err(Error::Misuse(_))), "no replay");
    recovery.replay(ignore).unwrap();
    for number in [0, 1, last] {
        let refused = recovery.create_segment(name(number));
        assert!(matches!(refused, Err(Error::Misuse(_))), "{number}: {refused:?}");
    }
    assert_eq!(fs.list(DIR.as_ref()).unwrap().len(), files, "a refusal makes no file");
    let made = recovery.create_segment(name(last + 1)).unwrap();
    // As large as the log has grown.
    assert_eq!((made.segment, made.capacity), (last + 1, 16 << 10));
    recovery.abandon_segment();
    assert_eq!(fs.list(DIR.as_ref()).unwrap().len(), files, "nor does one that was given up");
}

#[test]
fn a_segment_to_go_on_in_is_no_larger_than_segments_are_to_be_now() {
    let (fs, manifest, _) = unsynced();
    let smaller = Options { segment_size: 12 << 10, ..options() };
    let mut recovery = recovery(&fs, &manifest.state(), &smaller).unwrap();
    recovery.replay(ignore).unwrap();
    let name = SegmentName { segment: 100, file: 900, nonce: 5 };
    assert_eq!(recovery.create_segment(name).unwrap().capacity, 12 << 10);
}

#[test]
fn segments_behind_the_end_are_in_no_view_and_show_nothing() {
    let (fs, manifest, positions) = unsynced();
    let state = manifest.state();
    let torn = *positions.iter().rfind(|p| p.segment == positions[0].segment).unwrap();
    overwrite(&fs, state.segments[0].meta.file, torn.offset.into(), &[0; 32]);
    let behind = positions.iter().find(|p| p.segment > torn.segment).unwrap();

    let mut recovery = recovery(&fs, &state, &options()).unwrap();
    let end = recovery.replay(ignore).unwrap();
    assert_eq!(end.end, torn);
    let others: Vec<u32> = state.segments[1..].iter().map(|s| s.meta.segment).collect();
    assert_eq!(end.unreached, others);
    // Its frames are there, whole, and no part of the log.
    let pointer = Pointer::new(behind.segment, behind.offset + 32, 50);
    let read = recovery.view().read_record(pointer, 1, |_, _, _| ());
    assert!(matches!(read, Err(Error::BadPointer { .. })), "{read:?}");

    let last = *others.last().unwrap();
    let name = SegmentName { segment: last + 1, file: 900, nonce: 5 };
    recovery.create_segment(name).unwrap();
    let log: Log = recovery.into_log(manifest, Start::At(last + 1)).unwrap();
    let seen: Vec<u32> = log.view().segments().collect();
    assert_eq!(seen, [torn.segment, last + 1]);
    let read = log.view().read_record(pointer, 1, |_, _, _| ());
    assert!(matches!(read, Err(Error::UnknownSegment { .. })), "{read:?}");
}

#[test]
fn the_seal_of_the_last_segment_is_compared_with_what_is_in_it() {
    let (fs, manifest, positions) = unsynced();
    let state = manifest.state();
    let end = recovery(&fs, &state, &options()).unwrap().replay(ignore).unwrap();
    let last = *end.sealed.last().unwrap();
    assert_eq!(last.segment, positions.last().unwrap().segment);
    let replay = |seal: SealedSegment| {
        let mut state = state.clone();
        // Nothing lies behind it, and those before are sealed as they are.
        state.segments.retain(|s| s.meta.segment <= last.segment);
        for (record, sealed) in state.segments.iter_mut().zip(&end.sealed) {
            record.sealed = Some(*sealed);
        }
        state.segments.last_mut().unwrap().sealed = Some(seal);
        recovery(&fs, &state, &options()).unwrap().replay(ignore)
    };
    let whole = replay(last).unwrap();
    assert_eq!((whole.end, whole.frames, whole.clean), (end.end, 39, false));
    assert!(whole.damage.is_none());
    for wrong in [
        SealedSegment { checksum: last.checksum ^ 1, ..last },
        SealedSegment { frames: last.frames + 1, ..last },
        SealedSegment { length: last.length + 8, ..last },
        SealedSegment { length: positions.last().unwrap().offset, ..last },
    ] {
        let found = replay(wrong);
        assert!(
            matches!(&found, Err(ReplayError::Log(Error::Damaged { .. }))),
            "{wrong:?}: {found:?}"
        );
    }
}

/// How much was left of the first segment when a commit made the second, and how much it takes.
fn left_when_a_commit_makes_the_spare(options: &Options) -> (u32, u32) {
    let fs: Arc<dyn Fs> = Arc::new(MemFs::new());
    let manifest = Manifest::new(State::default());
    let (log, ..) = open(&fs, &manifest, options).unwrap();
    let capacity = manifest.state().segments[0].meta.capacity;
    let mut version = 0;
    while manifest.state().segments.len() == 1 {
        version += 1;
        let entry = Entry { version, seed: 1, size: 1000 };
        append(&log, entry, Durability::Buffered).unwrap();
    }
    assert_eq!(log.end().segment, manifest.state().segments[0].meta.segment, "ahead of time");
    (capacity - log.end().offset, capacity)
}

#[test]
fn a_commit_makes_the_spare_when_an_eighth_is_left_or_a_quarter_of_one_that_grows() {
    let full = Options { segment_size: 1 << 20, initial_segment_size: 1 << 20, ..options() };
    let growing = Options { initial_segment_size: 64 << 10, ..full.clone() };
    for (options, part) in [(full, 8), (growing, 4)] {
        let (left, capacity) = left_when_a_commit_makes_the_spare(&options);
        // Less one or two frames, and what is set aside.
        let least = capacity / part - 4000;
        assert!((least..=capacity / part).contains(&left), "{left} of {capacity}, 1/{part}");
    }
}

#[test]
fn a_directory_takes_only_the_newest_file_for_unfinished_and_only_if_nothing_is_in_it() {
    for (segment, keep, fine) in [
        (2, 4096u64, true),
        (2, 5000, false),
        (1, 4096, false),
        // Its header is not whole: so it never was, or its length would be.
        (2, 60, true),
        (1, 60, false),
        (2, 0, true),
    ] {
        let fs: Arc<dyn Fs> = Arc::new(MemFs::new());
        let dir = Directory::new(fs.clone(), DIR.as_ref(), 7).unwrap();
        let (log, _) = dir.open(options(), ignore).unwrap();
        while log.end().segment < 2 {
            log.append(Entry { version: 0, seed: 3, size: 900 }.frame(), Durability::Buffered)
                .unwrap();
        }
        log.append(Entry { version: 0, seed: 3, size: 3000 }.frame(), Durability::Buffered)
            .unwrap();
        assert_eq!(log.view().segments().last(), Some(2));
        drop(log);
        let path = segment_path(Path::new(DIR), segment);
        fs.open(&path, OpenMode::ReadWrite).unwrap().set_len(keep).unwrap();
        let opened = dir.open(options(), ignore);
        assert_eq!(opened.is_ok(), fine, "segment {segment} of {keep} bytes: {opened:?}");
        assert_eq!(fs.metadata(&path).is_ok(), !fine, "what is not understood stays");
    }
}

#[test]
fn a_directory_looks_through_all_of_a_short_file_before_it_takes_it_for_unfinished() {
    for content in [false, true] {
        let fs: Arc<dyn Fs> = Arc::new(MemFs::new());
        let dir = Directory::new(fs.clone(), DIR.as_ref(), 7).unwrap();
        let sizes = Options { segment_size: 1 << 20, initial_segment_size: 1 << 20, ..options() };
        let (log, _) = dir.open(sizes.clone(), ignore).unwrap();
        assert!(log.prepare().unwrap());
        drop(log);
        let spare = fs.open(&segment_path(Path::new(DIR), 2), OpenMode::ReadWrite).unwrap();
        spare.set_len(200_000).unwrap();
        if content {
            spare.write_all_at(&[1], 199_999).unwrap();
        }
        let opened = dir.open(sizes, ignore);
        assert_eq!(opened.is_err(), content, "{opened:?}");
    }
}

#[test]
fn a_directory_refuses_a_file_under_another_name() {
    let fs: Arc<dyn Fs> = Arc::new(MemFs::new());
    let dir = Directory::new(fs.clone(), DIR.as_ref(), 7).unwrap();
    drop(dir.open(options(), ignore).unwrap());
    let path = |file| segment_path(Path::new(DIR), file);
    fs.rename(&path(1), &path(9)).unwrap();
    let opened = dir.open(options(), ignore);
    let wrong = matches!(
        &opened,
        Err(ReplayError::Log(Error::WrongFile { what: "file id", expected: 9, found: 1, .. }))
    );
    assert!(wrong, "{opened:?}");
}

#[test]
fn what_a_failed_sync_lost_is_written_again_when_a_directory_is_opened() {
    let disk = new_disk();
    let faults = FaultFs::new(Arc::new(disk.clone()));
    let dir = Directory::new(Arc::new(faults.clone()), DIR.as_ref(), 7).unwrap();
    let (log, _) = dir.open(options(), ignore).unwrap();
    for seed in 1..6 {
        let frame = Entry { version: 0, seed, size: 100 }.frame();
        let how = if seed == 1 { Durability::Sync } else { Durability::Buffered };
        log.append(frame, how).unwrap();
    }
    faults.arm(FaultPlan::new(Fault::LoseUnsynced));
    assert!(log.sync().is_err());
    drop(log);
    let frames = |dir: &Directory| dir.open(options(), ignore).unwrap().1.frames;
    assert_eq!(frames(&dir), 5, "the cache still shows them");
    let image = disk.crash_image(&mut Keep::None);
    let after = Directory::new(Arc::new(image), DIR.as_ref(), 7).unwrap();
    assert_eq!(frames(&after), 5);
}

#[test]
fn what_a_manifest_says_of_segments_is_checked_when_they_are_opened() {
    let (fs, manifest, _) = unsynced();
    let mut twice = manifest.state();
    twice.segments.push(twice.segments[0].clone());
    let opened = recovery(&fs, &twice, &options());
    assert!(matches!(opened, Err(Error::Misuse(_))), "{opened:?}");
    for length in [16 << 10 | 8, 4088] {
        let mut state = manifest.state();
        let segment = state.segments[1].meta.segment;
        state.segments[1].sealed = Some(SealedSegment { segment, length, frames: 1, checksum: 0 });
        let opened = recovery(&fs, &state, &options());
        assert!(matches!(opened, Err(Error::Truncated { .. })), "{length}: {opened:?}");
    }
    for head in [Position::new(1, 4100), Position::new(1, 1 << 20), Position::new(77, 4096)] {
        let opened = recovery(&fs, &State { head, ..manifest.state() }, &options());
        let refused =
            matches!(opened, Err(Error::BadPosition { .. } | Error::UnknownSegment { .. }));
        assert!(refused, "{head}: {opened:?}");
    }
}

#[test]
fn what_a_failed_sync_lost_of_a_later_segment_is_written_again_from_its_beginning() {
    let disk = new_disk();
    let faults = FaultFs::new(Arc::new(disk.clone()));
    let dir = Directory::new(Arc::new(faults.clone()), DIR.as_ref(), 7).unwrap();
    let (log, _) = dir.open(options(), ignore).unwrap();
    let add = |size, how| log.append(Entry { version: 0, seed: 1, size }.frame(), how).unwrap();
    // The mark lies in the third page of the first segment; the second has lost its second one.
    add(5000, Durability::Sync);
    add(10, Durability::Sync);
    let mut frames = 2;
    while log.end().segment == 1 || log.end().offset < 9000 {
        add(900, Durability::Buffered);
        frames += 1;
    }
    faults.arm(FaultPlan::new(Fault::LoseUnsynced).path("000002.vlog"));
    assert!(log.sync().is_err());
    drop(log);
    let found = |dir: &Directory| dir.open(options(), ignore).unwrap().1.frames;
    assert_eq!(found(&dir), frames, "the cache still shows them");
    let image = disk.crash_image(&mut Keep::None);
    let after = Directory::new(Arc::new(image), DIR.as_ref(), 7).unwrap();
    assert_eq!(found(&after), frames);
}

#[test]
fn what_is_read_of_a_segment_ends_where_it_was_sealed_and_before_the_head_nowhere() {
    let (fs, manifest, _) = unsynced();
    let state = manifest.state();
    let mut seen = Seen::default();
    let mut first = recovery(&fs, &state, &options()).unwrap();
    let replayed = first.replay(|frame| {
        seen.add(frame);
        Ok::<_, Infallible>(())
    });
    let end = replayed.unwrap();
    assert!(first.end_segment().is_some());
    drop(first);
    let (pointer, record) = &seen.pointers[0];
    let reads = |recovery: &Recovery, pointer: Pointer| {
        recovery.view().read(pointer, &record.0, record.3).map(|value| value.to_vec())
    };

    let mut sealed = state.clone();
    for (segment, seal) in sealed.segments.iter_mut().zip(&end.sealed) {
        segment.sealed = Some(*seal);
    }
    let mut opened = recovery(&fs, &sealed, &options()).unwrap();
    assert_eq!(reads(&opened, *pointer).unwrap(), record.2);
    let behind = Pointer::new(end.sealed[0].segment, end.sealed[0].length, 12);
    let read = reads(&opened, behind);
    assert!(matches!(read, Err(Error::BadPointer { .. })), "{read:?}");
    opened.replay(ignore).unwrap();
    assert_eq!(opened.end_segment(), None, "what is sealed is not appended to");

    let last = end.end.segment;
    let later = State { head: Position::new(last, FIRST_FRAME), ..state };
    let opened = recovery(&fs, &later, &options()).unwrap();
    assert_eq!(reads(&opened, *pointer).unwrap(), record.2);
}

#[test]
fn segments_left_before_a_clean_end_are_reported_as_sealed_after_it() {
    let fs: Arc<dyn Fs> = Arc::new(MemFs::new());
    let manifest = Manifest::new(State::default());
    let (log, ..) = open(&fs, &manifest, &options()).unwrap();
    for version in 1..40 {
        append(&log, Entry { version, seed: version, size: 900 }, Durability::Buffered).unwrap();
    }
    log.close().unwrap();
    drop(log);
    let unsealed = |active| {
        let segments = manifest.state().segments.into_iter();
        segments.filter(|s| s.meta.segment < active && s.sealed.is_none()).count()
    };
    let (log, _, end) = open(&fs, &manifest, &options()).unwrap();
    let active = log.end().segment;
    assert!(end.clean && unsealed(active) >= 2);
    while log.prepare().unwrap() {}
    assert_eq!(unsealed(active), 0);
}

/// The manifest of [`unsynced`] with every segment sealed as it is.
fn all_sealed(state: &State, end: &ReplayEnd) -> State {
    let mut state = state.clone();
    for (segment, seal) in state.segments.iter_mut().zip(&end.sealed) {
        segment.sealed = Some(*seal);
    }
    state
}

fn replayed(fs: &Arc<dyn Fs>, state: &State) -> Result<ReplayEnd, ReplayError<Infallible>> {
    recovery(fs, state, &options()).unwrap().replay(ignore)
}

#[test]
fn durable_to_ends_at_the_last_mark_or_seal() {
    let (fs, manifest, positions) = unsynced();
    let mut state = manifest.state();
    let end = replayed(&fs, &state).unwrap();
    let first = positions[0].segment;
    assert_eq!(end.durable_to, Position::new(first, FIRST_FRAME), "nothing was synced");
    let seal = end.sealed[0];
    state.segments[0].sealed = Some(seal);
    let end = replayed(&fs, &state).unwrap();
    assert_eq!(end.durable_to, Position::new(first, seal.length));
}

#[test]
fn cut_bytes_reach_to_the_last_one_that_is_not_zero() {
    let (fs, manifest, _) = unsynced();
    let state = manifest.state();
    let end = replayed(&fs, &state).unwrap();
    assert_eq!(end.cut_bytes, 0);
    let last = state.segments.iter().find(|s| s.meta.segment == end.end.segment).unwrap();
    overwrite(&fs, last.meta.file, u64::from(end.end.offset) + 100, &[1]);
    assert_eq!(replayed(&fs, &state).unwrap().cut_bytes, 101);
}

#[test]
fn a_hole_in_a_sealed_segment_is_damage_wherever_the_replay_begins() {
    let (fs, manifest, positions) = unsynced();
    let state = manifest.state();
    let sealed = all_sealed(&state, &replayed(&fs, &state).unwrap());
    assert_eq!(positions[3].segment, positions[0].segment);
    overwrite(&fs, state.segments[0].meta.file, u64::from(positions[3].offset) + 40, &[0xA5; 8]);
    // What the frames before the head add up to is not known.
    for head in [state.head, positions[1]] {
        match replayed(&fs, &State { head, ..sealed.clone() }) {
            Err(ReplayError::Log(Error::Damaged { offset, .. })) => {
                assert_eq!(offset, u64::from(positions[3].offset));
            }
            other => panic!("{head}: {other:?}"),
        }
    }
}

#[test]
fn a_segment_is_not_sealed_with_frames_before_the_head_left_uncounted() {
    let (fs, manifest, positions) = unsynced();
    let mut state = manifest.state();
    state.segments.truncate(1);
    state.head = positions[3];
    overwrite(&fs, state.segments[0].meta.file, positions[1].offset.into(), &[0; 32]);
    match replayed(&fs, &state) {
        Err(ReplayError::Log(Error::Damaged { offset, .. })) => {
            assert_eq!(offset, u64::from(positions[1].offset));
        }
        other => panic!("{other:?}"),
    }
    let salvage = Options { salvage: true, ..options() };
    recovery(&fs, &state, &salvage).unwrap().replay(ignore).unwrap();
}

#[test]
fn a_link_speaks_only_of_the_segment_it_names() {
    let fs: Arc<dyn Fs> = Arc::new(MemFs::new());
    let manifest = Manifest::new(State::default());
    let sizes =
        Options { initial_segment_size: 16 << 10, sync_interval_bytes: 1 << 30, ..options() };
    let (log, ..) = open(&fs, &manifest, &sizes).unwrap();
    // Frames of one length in segments of one size: all are left at the same place.
    let mut positions = Vec::new();
    while log.end().segment < 3 {
        let entry = Entry { version: positions.len() as u64 + 1, seed: 1, size: 900 };
        positions.push(append(&log, entry, Durability::Buffered).unwrap().position);
    }
    drop(log);
    let last_of =
        |segment| positions.iter().filter(|p| p.segment == segment).map(|p| p.offset).max();
    assert_eq!(last_of(1), last_of(2));
    let mut state = manifest.state();
    state.segments.retain(|s| s.meta.segment != 2);
    // The third segment begins with a link to the second.
    let before = State { head: Position::new(3, FIRST_FRAME), ..state.clone() };
    let end = recovery(&fs, &before, &sizes).unwrap().replay(ignore).unwrap();
    assert!(end.sealed.iter().all(|s| s.segment != 1), "{:?}", end.sealed);
    let across = State { head: positions[1], ..state };
    let end = recovery(&fs, &across, &sizes).unwrap().replay(ignore).unwrap();
    assert_eq!((end.end.segment, end.unreached), (1, vec![3]));
}
