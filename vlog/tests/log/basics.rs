//! Append, read, replay, close.
use std::convert::Infallible;
use std::sync::Arc;

use kvdb_vfs::{FaultFs, FaultPlan, Fs, MemFs, Op, OpenMode, OsFs};
use kvdb_vlog::*;

use crate::common::*;

fn lives(fs: Arc<dyn Fs>, options: Options) {
    let manifest = Manifest::new(State::default());
    let mut expected: Vec<Entry> = Vec::new();
    let mut pointers = Vec::new();
    for life in 0..6u64 {
        let (log, seen, end) = open(&fs, &manifest, &options).unwrap();
        assert_eq!(check_prefix(&seen, &expected, expected.len()), Ok(expected.len()));
        assert_eq!(end.clean, life != 4, "life {life}: {end:?}");
        assert_eq!(end.records as usize, seen.pointers.len());
        assert_eq!(end.largest_version, expected.len() as u64);
        assert_eq!(seen.pointers, pointers);
        for _ in 0..60 {
            let version = expected.len() as u64 + 1;
            let entry = Entry { version, seed: version, size: (version * 37 % 3000) as usize };
            let durability = match version % 3 {
                0 => Durability::Sync,
                _ => Durability::Buffered,
            };
            let before = log.end();
            let done = append(&log, entry, durability).unwrap();
            assert!(done.position >= before && done.position < log.end());
            if durability == Durability::Sync {
                assert!(done.durable_to >= log.end());
            }
            expected.push(entry);
            if version.is_multiple_of(4) {
                log.prepare().unwrap();
            }
            if version.is_multiple_of(13) {
                log.idle_sync().unwrap();
                assert_eq!(log.durable_to(), log.end());
            }
        }
        if life != 3 {
            log.close().unwrap();
            log.close().unwrap();
            assert!(matches!(log.reserve(64), Err(Error::Closed)));
        }
        drop(log);
        let mut all = Seen::default();
        let mut replayed = recovery(&fs, &manifest.state(), &options).unwrap();
        replayed
            .replay(|f| {
                all.add(f);
                Ok::<_, ()>(())
            })
            .unwrap();
        let view = replayed.view();
        for (pointer, (key, tag, value, version)) in &all.pointers {
            assert_eq!(&*view.read(*pointer, key, *version).unwrap(), &value[..]);
            let borrowed = view.read_ref(*pointer, key, *version).unwrap();
            assert!(borrowed.is_none_or(|b| b == &value[..]));
            assert_eq!(borrowed.is_some(), options.maps);
            let same = view.read_record(*pointer, *version, |k, t, v| {
                (k, t, v) == (&key[..], &tag[..], &value[..])
            });
            assert!(same.unwrap());
            assert_eq!(pointer.value_len(key.len(), tag.len()), Some(value.len()));
        }
        let some: Vec<_> = all.pointers.iter().map(|(p, _)| *p).collect();
        view.prefetch(&some);
        pointers = all.pointers;
    }
}

#[test]
fn what_was_appended_is_read_and_replayed_in_every_mode() {
    for maps in [true, false] {
        for prefill in [true, false] {
            for sync_method in [SyncMethod::Fdatasync, SyncMethod::DurableWrite, SyncMethod::Direct]
            {
                let options = Options { maps, prefill, sync_method, ..options() };
                lives(Arc::new(MemFs::new()), options.clone());
            }
        }
    }
}

#[test]
fn the_same_on_a_disk() {
    for sync_method in [SyncMethod::Fdatasync, SyncMethod::DurableWrite, SyncMethod::Direct] {
        let dir = tempfile::tempdir().unwrap();
        // The common directory is absolute, so the store lives below the temporary one.
        let fs: Arc<dyn Fs> = Arc::new(OsFs::new());
        let dir = Directory::new(fs, &dir.path().join("log"), 7).unwrap();
        let options = Options { sync_method, ..options() };
        let mut expected = Vec::new();
        for life in 0..4u64 {
            let mut seen = Vec::new();
            let (log, _) = dir
                .open(options.clone(), |f| {
                    seen.extend(records_of(f));
                    Ok::<_, ()>(())
                })
                .unwrap();
            assert_eq!(seen, expected);
            for i in 0..50 {
                let seed = life * 1000 + i;
                let entry = Entry { version: 0, seed, size: (i * 61) as usize };
                let done = log.append(entry.frame(), Durability::Sync).unwrap();
                let records = entry.records();
                assert_eq!(done.pointers.len(), records.len());
                for (pointer, (key, _, value, _)) in done.pointers.iter().zip(&records) {
                    let read = log.view().read(*pointer, key, done.version).unwrap();
                    assert_eq!(&*read, &value[..]);
                }
                let stamped = records.into_iter().map(|(k, t, v, _)| (k, t, v, done.version));
                expected.extend(stamped);
                log.prepare().unwrap();
            }
            if life % 2 == 0 {
                log.close().unwrap();
            }
        }
    }
}

#[test]
fn frames_of_every_size_up_to_the_limit() {
    let fs: Arc<dyn Fs> = Arc::new(MemFs::new());
    let manifest = Manifest::new(State::default());
    let options = options();
    let (log, _, _) = open(&fs, &manifest, &options).unwrap();
    let limit = max_frame_len(options.segment_size);
    let mut version = 0;
    let mut expected = Vec::new();
    for len in (32..=limit).step_by(8).filter(|l| *l < 600 || *l + 600 > limit || l % 512 == 0) {
        version += 1;
        let mut builder = FrameBuilder::new();
        if len >= 64 {
            // Fill to the byte, or leave one to seven of padding.
            let value = vec![version as u8; (len - 32).saturating_sub(12 + (version as usize % 8))];
            builder.push(b"", b"", &value, None).unwrap();
            expected.push(value);
        }
        let frame = builder.finish();
        assert!(frame.len() <= len);
        let room = log.reserve(frame.len()).unwrap();
        let ticket = log.enqueue(frame, version, Durability::Buffered, room, ());
        log.drive(ticket, &Discard).unwrap();
    }
    let mut builder = FrameBuilder::new();
    builder.push(b"", b"", &vec![0; limit - 32 - 12 + 1], None).unwrap();
    match log.reserve(builder.len()) {
        Err(Error::FrameTooLarge { size, limit: l }) => {
            assert_eq!((size, l), (limit as u64 + 8, limit as u64));
        }
        other => panic!("{other:?}"),
    }
    log.close().unwrap();
    drop(log);
    let (_, seen, end) = open(&fs, &manifest, &options).unwrap();
    assert_eq!(end.frames, version);
    let values: Vec<_> = seen.pointers.into_iter().map(|(_, r)| r.2).collect();
    assert!(values == expected);
}

#[test]
fn replay_accepts_frames_beyond_todays_options() {
    let fs: Arc<dyn Fs> = Arc::new(MemFs::new());
    let manifest = Manifest::new(State::default());
    let large = Options { segment_size: 64 << 10, ..options() };
    let (log, _, _) = open(&fs, &manifest, &large).unwrap();
    let entry = Entry { version: 1, seed: 1, size: 50_000 };
    append(&log, entry, Durability::Sync).unwrap();
    log.close().unwrap();
    drop(log);
    let (log, seen, _) = open(&fs, &manifest, &options()).unwrap();
    assert_eq!(check_prefix(&seen, &[entry], 1), Ok(1));
    assert!(matches!(log.reserve(50_000), Err(Error::FrameTooLarge { .. })));
    append(&log, Entry { version: 2, seed: 2, size: 8000 }, Durability::Sync).unwrap();
}

#[test]
fn opening_and_closing_many_times_leaves_the_log_as_it_was() {
    let fs: Arc<dyn Fs> = Arc::new(MemFs::new());
    let manifest = Manifest::new(State::default());
    let (log, ..) = open(&fs, &manifest, &options()).unwrap();
    append(&log, Entry { version: 1, seed: 1, size: 100 }, Durability::Buffered).unwrap();
    log.close().unwrap();
    let end = log.end();
    drop(log);
    for _ in 0..12 {
        let (log, seen, replayed) = open(&fs, &manifest, &options()).unwrap();
        assert!(replayed.clean);
        assert_eq!((seen.frames.len(), replayed.end), (1, end));
        log.close().unwrap();
        assert_eq!(log.end(), end);
    }
    assert_eq!(manifest.state().segments.len(), 1);
    assert_eq!(fs.list(DIR.as_ref()).unwrap().len(), 1);
}

#[test]
fn an_empty_log_that_was_closed_is_clean() {
    let fs: Arc<dyn Fs> = Arc::new(MemFs::new());
    let manifest = Manifest::new(State::default());
    let (log, _, end) = open(&fs, &manifest, &options()).unwrap();
    assert!(end.clean && end.frames == 0);
    log.close().unwrap();
    drop(log);
    let (_, _, end) = open(&fs, &manifest, &options()).unwrap();
    assert!(end.clean, "{end:?}");
    assert_eq!(manifest.state().segments.len(), 1);
}

#[test]
fn segments_grow_from_small_to_full_size() {
    let fs: Arc<dyn Fs> = Arc::new(MemFs::new());
    let manifest = Manifest::new(State::default());
    let options = Options {
        initial_segment_size: 64 << 10,
        segment_size: 1 << 20,
        tiny_segments: false,
        ..options()
    };
    let (log, ..) = open(&fs, &manifest, &options).unwrap();
    for version in 1..100 {
        append(&log, Entry { version, seed: version, size: 30_000 }, Durability::Buffered).unwrap();
        log.prepare().unwrap();
    }
    let sizes: Vec<u32> = manifest.state().segments.iter().map(|s| s.meta.capacity >> 10).collect();
    assert_eq!(sizes[..6], [64, 128, 256, 512, 1024, 1024]);
    // All but the active one and the spare were reported, in order, with what is in them.
    let state = manifest.state();
    assert!(state.segments[..state.segments.len() - 2].iter().all(|s| s.sealed.is_some()));
}

#[test]
fn a_segment_is_left_when_it_has_its_number_of_records() {
    let fs: Arc<dyn Fs> = Arc::new(MemFs::new());
    let manifest = Manifest::new(State::default());
    let options = Options { max_segment_records: 10, ..options() };
    let (log, ..) = open(&fs, &manifest, &options).unwrap();
    let mut expected = Vec::new();
    for version in 1..=100 {
        log.prepare().unwrap();
        let entry = Entry { version, seed: version, size: 10 };
        append(&log, entry, Durability::Buffered).unwrap();
        expected.push(entry);
    }
    log.close().unwrap();
    drop(log);
    let (_, seen, _) = open(&fs, &manifest, &options).unwrap();
    assert_eq!(check_prefix(&seen, &expected, 100), Ok(100));
    let mut per_segment = std::collections::BTreeMap::new();
    for (pointer, _) in &seen.pointers {
        *per_segment.entry(pointer.segment()).or_insert(0) += 1;
    }
    // A frame of up to four records may be the one that reaches the limit.
    assert!(per_segment.len() >= 10 && per_segment.values().all(|n| *n < 14), "{per_segment:?}");
    assert!(per_segment.values().rev().skip(1).all(|n| *n >= 10), "{per_segment:?}");
}

#[test]
fn segments_before_a_position_can_be_removed() {
    let fs: Arc<dyn Fs> = Arc::new(MemFs::new());
    let dir = Directory::new(fs, DIR.as_ref(), 7).unwrap();
    let (log, _) = dir.open(options(), |_| Ok::<_, ()>(())).unwrap();
    let mut last = None;
    for seed in 0..40 {
        let frame = Entry { version: 0, seed, size: 1500 }.frame();
        last = Some(log.append(frame, Durability::Buffered).unwrap());
    }
    let last = last.unwrap();
    let before = log.view();
    dir.remove_before(&log, last.position).unwrap();
    assert!(log.view().segments().len() < before.segments().len());
    assert!(log.view().segments().next() == Some(last.position.segment));
    log.close().unwrap();
    let mut versions = Vec::new();
    let (_, end) = dir
        .open(options(), |f| {
            versions.push(f.version());
            Ok::<_, ()>(())
        })
        .unwrap();
    assert!(end.clean);
    assert_eq!(versions.last(), Some(&last.version));
}

#[test]
fn a_dead_segment_is_used_again_when_nobody_reads_it_any_more() {
    for maps in [true, false] {
        let faults = FaultFs::new(Arc::new(MemFs::new()));
        let renames = faults.arm(FaultPlan::count().on(&[Op::Rename]));
        let fs: Arc<dyn Fs> = Arc::new(faults);
        let manifest = Manifest::new(State::default());
        let options = Options { initial_segment_size: 16 << 10, maps, ..options() };
        let (log, ..) = open(&fs, &manifest, &options).unwrap();
        let mut pinned = Vec::new();
        let mut expected = Vec::new();
        let mut held = None;
        for round in 0..10u64 {
            for i in 0..30 {
                let entry = Entry { version: round * 30 + i + 1, seed: round * 30 + i, size: 1000 };
                let frame = entry.frame();
                let room = log.reserve(frame.len()).unwrap();
                let ticket = log.enqueue(frame, entry.version, Durability::Buffered, room, ());
                let position = log.drive(ticket, &Discard).unwrap().position;
                expected.push((entry, position));
                log.prepare().unwrap();
            }
            // One value and one view stay in use; the first of them for good.
            let (entry, position) = expected[0];
            let (key, tag, value, version) = &entry.records()[0];
            let len = record_len(key.len(), tag.len(), value.len()) as u32;
            let pointer = Pointer::new(position.segment, position.offset + 32, len);
            if round == 0 {
                pinned.push((log.view().read(pointer, key, *version).unwrap(), value.clone()));
            }
            log.sync().unwrap();
            let active = log.end().segment;
            let freed: Vec<_> = log.view().segments().filter(|s| *s < active).collect();
            {
                let mut state = manifest.0.lock().unwrap();
                state.segments.retain(|s| s.meta.segment >= active);
                state.head = Position::new(active, 0);
            }
            let view = log.view();
            for meta in log.recycle(&freed).unwrap() {
                fs.remove(&segment_path(DIR.as_ref(), meta.file)).unwrap();
            }
            // A view held through the next round leads to every value of its own.
            let entries = expected[expected.len() - 30..].to_vec();
            let next = (round % 2 == 0).then_some((view, entries));
            if let Some((view, entries)) = std::mem::replace(&mut held, next) {
                for (entry, position) in entries {
                    let Some((key, tag, value, version)) = entry.records().into_iter().next()
                    else {
                        continue;
                    };
                    let len = record_len(key.len(), tag.len(), value.len()) as u32;
                    let pointer = Pointer::new(position.segment, position.offset + 32, len);
                    assert_eq!(&*view.read(pointer, &key, version).unwrap(), &value[..]);
                }
            }
            for (value, expected) in &pinned {
                assert_eq!(&**value, &expected[..]);
            }
        }
        assert!(renames.seen() >= 5, "{} files were used again", renames.seen());
        log.close().unwrap();
        drop(log);
        let (_, seen, end) = open(&fs, &manifest, &options).unwrap();
        assert!(end.clean);
        let first = seen.positions[0];
        let at = expected.iter().position(|(_, p)| *p == first).unwrap();
        let entries: Vec<_> = expected[at..].iter().map(|(e, _)| *e).collect();
        assert_eq!(check_prefix(&seen, &entries, entries.len()), Ok(entries.len()));
        // Removed ones, and those kept for their files, are gone.
        assert_eq!(fs.list(DIR.as_ref()).unwrap().len(), manifest.state().segments.len());
    }
}

#[test]
fn a_file_with_a_second_name_is_not_used_again() {
    let fs: Arc<dyn Fs> = Arc::new(MemFs::new());
    let dir = Directory::new(fs.clone(), DIR.as_ref(), 7).unwrap();
    let options = Options { initial_segment_size: 16 << 10, ..options() };
    let (log, _) = dir.open(options, |_| Ok::<_, ()>(())).unwrap();
    let rotate = |seed| {
        let last = log.end().segment;
        while log.end().segment == last {
            let entry = Entry { version: 1, seed, size: 3000 };
            log.append(entry.frame(), Durability::Buffered).unwrap();
        }
        while log.prepare().unwrap() {}
        last
    };
    let first = rotate(1);
    let old = segment_path(DIR.as_ref(), log.view().meta(first).unwrap().file);
    let copy = std::path::Path::new("/copy");
    fs.hard_link(&old, copy).unwrap();
    let bytes = || {
        let file = fs.open(copy, OpenMode::Read).unwrap();
        let mut bytes = vec![0; file.len().unwrap() as usize];
        file.read_exact_at(&mut bytes, 0).unwrap();
        bytes
    };
    let before = bytes();
    assert!(log.recycle(&[first]).unwrap().is_empty());
    rotate(2);
    rotate(3);
    assert!(fs.metadata(&old).is_ok(), "used again under another name");
    assert!(bytes() == before);
    fs.remove(copy).unwrap();
    rotate(4);
    assert!(fs.metadata(&old).is_err(), "not used again");
}

#[test]
fn a_segment_that_is_full_to_the_last_byte_is_closed_and_gone_on_from() {
    let options = Options { initial_segment_size: 16 << 10, ..options() };
    let fill = max_frame_len(options.segment_size);
    for short in (0..=120).step_by(8) {
        let fs: Arc<dyn Fs> = Arc::new(MemFs::new());
        let manifest = Manifest::new(State::default());
        let mut expected = 0;
        for life in 0..4 {
            let (log, seen, end) = open(&fs, &manifest, &options).unwrap();
            assert!(end.clean, "{short} bytes short, life {life}: {end:?}");
            assert_eq!(seen.frames.len() as u64, expected);
            log.prepare().unwrap();
            if life == 0 {
                let mut builder = FrameBuilder::new();
                builder.push(b"", b"", &vec![1; fill - short - 44], None).unwrap();
                let frame = builder.finish();
                assert_eq!(frame.len(), fill - short);
                let room = log.reserve(frame.len()).unwrap();
                let ticket = log.enqueue(frame, 1, Durability::Buffered, room, ());
                log.drive(ticket, &Discard).unwrap();
                expected += 1;
            } else if life > 1 {
                expected += 1;
                let entry = Entry { version: expected, seed: 1, size: 20 };
                append(&log, entry, Durability::Sync).unwrap();
            }
            log.close().unwrap();
        }
        let file = segment_path(DIR.as_ref(), manifest.state().segments[0].meta.file);
        assert_eq!(fs.metadata(&file).unwrap().len, u64::from(options.segment_size));
    }
}

#[test]
fn a_frame_larger_than_the_spare_passes_it_by() {
    let fs: Arc<dyn Fs> = Arc::new(MemFs::new());
    let manifest = Manifest::new(State::default());
    let options = Options { segment_size: 256 << 10, ..options() };
    let (log, ..) = open(&fs, &manifest, &options).unwrap();
    assert!(log.prepare().unwrap());
    let mut expected = Vec::new();
    for (i, size) in [100, 200_000, 100, 100_000, 100].into_iter().enumerate() {
        let entry = Entry { version: i as u64 + 1, seed: i as u64 + 1, size };
        append(&log, entry, Durability::Sync).unwrap();
        expected.push(entry);
    }
    while log.prepare().unwrap() {}
    let state = manifest.state();
    let passed_by = state.segments[1].sealed.unwrap();
    assert_eq!((passed_by.frames, passed_by.length), (1, FIRST_FRAME + 48));
    log.close().unwrap();
    drop(log);
    let (_, seen, end) = open(&fs, &manifest, &options).unwrap();
    assert!(end.clean);
    assert_eq!(check_prefix(&seen, &expected, 5), Ok(5));
}

#[test]
fn replay_and_reads_by_pointer_show_values_where_they_are_mapped() {
    let fs: Arc<dyn Fs> = Arc::new(MemFs::new());
    let manifest = Manifest::new(State::default());
    let options = Options { segment_size: 1 << 20, initial_segment_size: 1 << 20, ..options() };
    let (log, ..) = open(&fs, &manifest, &options).unwrap();
    let value = vec![9; 300_000];
    for version in 1..=8 {
        let mut builder = FrameBuilder::new();
        builder.push(b"key", b"", &value, None).unwrap();
        let frame = builder.finish();
        let room = log.reserve(frame.len()).unwrap();
        let done = log.drive(log.enqueue(frame, version, Durability::Buffered, room, ()), &Discard);
        let at = done.unwrap().position;
        let pointer =
            Pointer::new(at.segment, at.offset + 32, record_len(3, 0, value.len()) as u32);
        // Of the segment being written, and of those that were left.
        let view = log.view();
        let lent = view.read_ref(pointer, b"key", version).unwrap().expect("a map").as_ptr();
        assert_eq!(view.read(pointer, b"key", version).unwrap().as_ptr(), lent);
    }
    assert!(log.end().segment >= 3);
    drop(log);
    let mut recovery = recovery(&fs, &manifest.state(), &options).unwrap();
    let mut shown = Vec::new();
    let replayed = recovery.replay(|frame| {
        shown.extend(frame.records().map(|r| (r.pointer, r.version, r.value.as_ptr() as usize)));
        Ok::<_, Infallible>(())
    });
    assert_eq!(replayed.unwrap().frames, 8);
    let view = recovery.view();
    for (pointer, version, address) in shown {
        let mapped = view.read_ref(pointer, b"key", version).unwrap().expect("a map");
        assert_eq!(mapped.as_ptr() as usize, address);
    }
}
