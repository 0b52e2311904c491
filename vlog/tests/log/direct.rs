//! Segments that are written past the cache, and files that are used again.
use std::sync::Arc;

use kvdb_vfs::{Fault, FaultFs, FaultPlan, Fs, MemFs, Op, OsFs};
use kvdb_vlog::*;

use crate::common::*;

fn direct(segment_size: u32) -> Options {
    Options {
        segment_size,
        initial_segment_size: segment_size,
        sync_method: SyncMethod::Direct,
        prefill: true,
        ..options()
    }
}

/// In memory and on the disk, where the temporary directory may lie on a file system without
/// direct writes: then the log falls back, and the same holds.
fn everywhere(test: impl Fn(Arc<dyn Fs>, &std::path::Path)) {
    test(Arc::new(MemFs::new()), "/log".as_ref());
    let dir = tempfile::tempdir().unwrap();
    test(Arc::new(OsFs::new()), &dir.path().join("log"));
}

/// Appends an entry and so many more that its segment is left.
fn fill(log: &Log) -> (Entry, Appended) {
    let entry = Entry { version: 1, seed: 1, size: 40_000 };
    let done = log.append(entry.frame(), Durability::Sync).unwrap();
    for seed in 2..5 {
        log.append(Entry { seed, ..entry }.frame(), Durability::Sync).unwrap();
    }
    (entry, done)
}

/// Appends until the next segment is begun, and has a spare made.
fn rotate(log: &Log, entry: Entry) {
    let last = log.end().segment;
    while log.end().segment == last {
        log.append(Entry { seed: 9, ..entry }.frame(), Durability::Sync).unwrap();
    }
    while log.prepare().unwrap() {}
}

/// The method of a segment as its header has it.
fn method(log: &Log, segment: u32) -> u32 {
    log.view().meta(segment).unwrap().method
}

#[test]
fn records_are_read_from_memory_from_the_disk_and_after_rotation_from_a_map() {
    everywhere(|fs, path| {
        let dir = Directory::new(fs, path, 1).unwrap();
        let options = direct(4 << 20);
        let mut written: Vec<(Pointer, Rec)> = Vec::new();
        for life in 0..3u64 {
            let (log, end) = dir.open(options.clone(), |_| Ok::<_, ()>(())).unwrap();
            assert_eq!(end.frames, written.len() as u64, "every frame has one record");
            // The largest is more than is kept, and more than one write.
            for (i, size) in
                (0..200u64).map(|i| (i, if i == 100 { 3 << 20 } else { i as usize * 97 }))
            {
                let seed = mix(life * 1000 + i);
                let value: Vec<u8> =
                    (0..size).map(|b| mix(seed ^ (b / 512) as u64) as u8).collect();
                let mut frame = FrameBuilder::new();
                frame.push(&seed.to_le_bytes(), b"t", &value, None).unwrap();
                let how = if i % 3 == 0 { Durability::Buffered } else { Durability::Sync };
                let done = log.append(frame.finish(), how).unwrap();
                written.push((
                    done.pointers[0],
                    (seed.to_le_bytes().to_vec(), b"t".to_vec(), value, done.version),
                ));
                log.prepare().unwrap();
                let view = log.view();
                // The latest, and some older one.
                for (pointer, (key, _, value, version)) in
                    [written.last().unwrap(), &written[mix(seed) as usize % written.len()]]
                {
                    assert_eq!(&*view.read(*pointer, key, *version).unwrap(), &value[..]);
                    let borrowed = view.read_ref(*pointer, key, *version).unwrap();
                    assert!(borrowed.is_none_or(|bytes| bytes == &value[..]));
                    let written_past_the_cache = pointer.segment() == log.end().segment
                        && method(&log, pointer.segment()) == 2;
                    assert!(borrowed.is_none() || !written_past_the_cache, "a map of it");
                }
            }
            let active = log.end().segment;
            assert!(active > written[0].0.segment());
            let view = log.view();
            for (pointer, (key, _, value, version)) in &written {
                assert_eq!(&*view.read(*pointer, key, *version).unwrap(), &value[..]);
                if pointer.segment() < active {
                    let mapped = view.read_ref(*pointer, key, *version).unwrap();
                    assert_eq!(mapped, Some(&value[..]), "a segment that was left is mapped");
                }
            }
            if life != 1 {
                log.close().unwrap();
            }
        }
    });
}

#[test]
fn without_direct_writes_a_segment_is_made_for_fdatasync() {
    // Refused when the file is opened for them (the second opening), and only by the first write.
    for plan in [
        FaultPlan::new(Fault::Unsupported).on(&[Op::Open]).after(1),
        FaultPlan::new(Fault::Unsupported).on(&[Op::Write]),
    ] {
        for prefill in [false, true] {
            let disk = MemFs::new();
            let fs = FaultFs::new(Arc::new(disk.clone()));
            let armed = fs.arm(plan.clone());
            let dir = Directory::new(Arc::new(fs), DIR.as_ref(), 1).unwrap();
            let options = Options { prefill, ..direct(64 << 10) };
            let (log, _) = dir.open(options.clone(), |_| Ok::<_, ()>(())).unwrap();
            assert_eq!(armed.fired(), 1);
            assert_eq!(method(&log, log.end().segment), 0);
            let entry = Entry { version: 1, seed: 1, size: 5000 };
            log.append(entry.frame(), Durability::Sync).unwrap();
            log.close().unwrap();
            let dir = Directory::new(Arc::new(disk), DIR.as_ref(), 1).unwrap();
            let (log, end) = dir.open(options, |_| Ok::<_, ()>(())).unwrap();
            assert!(end.clean && end.frames == 1);
            assert_eq!(method(&log, log.end().segment), 0, "a segment keeps its method");
            log.prepare().unwrap();
            let spare = log.view().segments().last().unwrap();
            assert_eq!(method(&log, spare), 2);
        }
    }
}

#[test]
fn a_direct_segment_is_gone_on_with_where_there_are_no_direct_writes_any_more() {
    let disk = MemFs::new();
    let open = |fs: Arc<dyn Fs>| {
        let dir = Directory::new(fs, DIR.as_ref(), 1).unwrap();
        dir.open(direct(64 << 10), |_| Ok::<_, ()>(())).unwrap()
    };
    let (log, _) = open(Arc::new(disk.clone()));
    log.append(Entry { version: 1, seed: 1, size: 500 }.frame(), Durability::Sync).unwrap();
    log.close().unwrap();
    drop(log);
    let fs = FaultFs::new(Arc::new(disk));
    // Opened to be listed, to be written, and then for direct writes.
    let armed = fs.arm(FaultPlan::new(Fault::Unsupported).on(&[Op::Open]).after(2));
    let (log, _) = open(Arc::new(fs.clone()));
    assert_eq!(armed.fired(), 1);
    log.append(Entry { version: 1, seed: 2, size: 500 }.frame(), Durability::Sync).unwrap();
    drop(log);
    let (_, end) = open(Arc::new(fs));
    assert_eq!(end.frames, 2);
}

#[test]
fn a_segment_is_made_for_what_the_last_groups_were() {
    let fs: Arc<dyn Fs> = Arc::new(MemFs::new());
    let dir = Directory::new(fs, DIR.as_ref(), 1).unwrap();
    let (log, _) = dir.open(direct(64 << 10), |_| Ok::<_, ()>(())).unwrap();
    let next = |buffered: u64, synced: u64| {
        let known = log.view().segments().last().unwrap();
        for i in 0..buffered + synced {
            let how = if i < buffered { Durability::Buffered } else { Durability::Sync };
            log.append(Entry { version: 0, seed: 1, size: 100 }.frame(), how).unwrap();
        }
        // Rotate, until a segment was made after these groups.
        loop {
            log.prepare().unwrap();
            let last = log.view().segments().last().unwrap();
            if last > known {
                return method(&log, last);
            }
            let large = Entry { version: 0, seed: 5, size: 20_000 };
            log.append(large.frame(), Durability::Sync).unwrap();
        }
    };
    assert_eq!(next(0, 0), 2, "nothing is known yet");
    assert_eq!(next(30, 10), 0);
    assert_eq!(next(10, 30), 2);
}

#[test]
fn a_file_is_not_used_again_while_a_value_of_an_earlier_opening_shows_it() {
    everywhere(|fs, path| {
        for options in [direct(64 << 10), Options { segment_size: 64 << 10, ..options() }] {
            let options = Options { initial_segment_size: 64 << 10, ..options };
            let path = path.join(format!("{:?}", options.sync_method));
            let dir = Directory::new(fs.clone(), &path, 1).unwrap();
            let (log, _) = dir.open(options.clone(), |_| Ok::<_, ()>(())).unwrap();
            let (entry, done) = fill(&log);
            let first = done.position.segment;
            let (key, _, expected, _) = &entry.records()[0];
            let value = log.view().read(done.pointers[0], key, done.version).unwrap();
            log.close().unwrap();
            drop(log);

            // A second opening knows nothing of the value.
            let (log, _) = dir.open(options.clone(), |_| Ok::<_, ()>(())).unwrap();
            while log.prepare().unwrap() {}
            let old = segment_path(&path, log.view().meta(first).unwrap().file);
            assert!(log.recycle(&[first]).unwrap().is_empty());
            rotate(&log, entry);
            assert!(fs.metadata(&old).is_ok(), "used again under a value");
            assert_eq!(&*value, &expected[..]);
            drop(value);
            rotate(&log, entry);
            assert!(fs.metadata(&old).is_err(), "not used again");
            log.close().unwrap();
        }
    });
}

#[test]
fn a_file_is_not_used_again_while_a_view_of_an_earlier_opening_leads_to_it() {
    everywhere(|fs, path| {
        for maps in [true, false] {
            let options = Options { maps, ..direct(64 << 10) };
            let path = path.join(maps.to_string());
            let dir = Directory::new(fs.clone(), &path, 1).unwrap();
            let (log, _) = dir.open(options.clone(), |_| Ok::<_, ()>(())).unwrap();
            let (entry, done) = fill(&log);
            let first = done.position.segment;
            // Nothing was read through it yet, so nothing is mapped.
            let view = log.view();
            log.close().unwrap();
            drop(log);

            let (log, _) = dir.open(options.clone(), |_| Ok::<_, ()>(())).unwrap();
            while log.prepare().unwrap() {}
            let old = segment_path(&path, log.view().meta(first).unwrap().file);
            assert!(log.recycle(&[first]).unwrap().is_empty());
            rotate(&log, entry);
            assert!(fs.metadata(&old).is_ok(), "used again under a view");
            let (key, _, expected, _) = &entry.records()[0];
            let value = view.read(done.pointers[0], key, done.version).unwrap();
            assert_eq!(&*value, &expected[..]);
            drop((value, view));
            rotate(&log, entry);
            assert!(fs.metadata(&old).is_err(), "not used again");
            log.close().unwrap();
        }
    });
}

#[test]
fn a_file_is_not_used_again_while_a_view_of_an_opening_that_found_it_leads_to_it() {
    everywhere(|fs, path| {
        let options = Options { maps: false, ..direct(64 << 10) };
        let dir = Directory::new(fs.clone(), path, 1).unwrap();
        let open = || dir.open(options.clone(), |_| Ok::<_, ()>(())).unwrap().0;
        let log = open();
        let (entry, done) = fill(&log);
        let first = done.position.segment;
        log.close().unwrap();
        drop(log);
        // It was not made in this opening.
        let log = open();
        let view = log.view();
        log.close().unwrap();
        drop(log);

        let log = open();
        while log.prepare().unwrap() {}
        let old = segment_path(path, log.view().meta(first).unwrap().file);
        assert!(log.recycle(&[first]).unwrap().is_empty());
        rotate(&log, entry);
        assert!(fs.metadata(&old).is_ok(), "used again under a view");
        drop(view);
        rotate(&log, entry);
        assert!(fs.metadata(&old).is_err(), "not used again");
        log.close().unwrap();
    });
}
