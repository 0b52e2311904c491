//! Pointers into segments whose records were moved.
use std::sync::Arc;

use kvdb_vfs::{Fs, MemFs, OpenMode};
use kvdb_vlog::*;

use crate::common::*;

type Named = Vec<(Pointer, Rec)>;

/// A store with two collected segments, each with a file for its table; what was kept of their
/// records, and what was dropped.
fn relocated(maps: bool) -> (Arc<dyn Fs>, State, Options, Named, Named) {
    relocated_in(maps, false)
}

/// The same, or with both tables in one file.
fn relocated_in(maps: bool, together: bool) -> (Arc<dyn Fs>, State, Options, Named, Named) {
    let fs: Arc<dyn Fs> = Arc::new(MemFs::new());
    let options = Options { maps, ..options() };
    let manifest = Manifest::new(State::default());
    let (log, ..) = open(&fs, &manifest, &options).unwrap();
    for version in 1..40 {
        append(&log, Entry { version, seed: version, size: 900 }, Durability::Buffered).unwrap();
        log.prepare().unwrap();
    }
    log.close().unwrap();
    drop(log);
    let mut state = manifest.state();
    let mut recovery = recovery(&fs, &state, &options).unwrap();
    let mut seen = Seen::default();
    recovery
        .replay(|f| {
            seen.add(f);
            Ok::<_, ()>(())
        })
        .unwrap();
    // The first two segments are collected into two record files, every second record is kept.
    let victims = [state.segments[0].meta, state.segments[1].meta];
    let dir = std::path::Path::new(DIR);
    let mut outputs = Vec::new();
    let mut writer = RecordWriter::create(&fs, dir, DATABASE, 900, 5).unwrap();
    let mut tables: Vec<_> = victims.iter().map(|v| TableWriter::new(v.segment)).collect();
    let (mut kept, mut dropped) = (Vec::new(), Vec::new());
    for (i, (pointer, record)) in seen.pointers.iter().enumerate() {
        let Some(table) = tables.iter_mut().find(|t| t.segment() == pointer.segment()) else {
            kept.push((*pointer, record.clone()));
            continue;
        };
        if i % 2 == 1 {
            dropped.push((*pointer, record.clone()));
            continue;
        }
        if outputs.is_empty() && writer.len() > 12_000 {
            let next = RecordWriter::create(&fs, dir, DATABASE, 899, 4).unwrap();
            outputs.push(std::mem::replace(&mut writer, next).finish().unwrap());
        }
        let (key, tag, value, version) = record;
        let at = writer.push(key, tag, value, *version).unwrap();
        table.add(pointer.offset(), outputs.len(), at).unwrap();
        kept.push((*pointer, record.clone()));
    }
    outputs.push(writer.finish().unwrap());
    assert_eq!(outputs.len(), 2);
    let segments: Vec<u32> = tables.iter().map(TableWriter::segment).collect();
    let mut numbers = 902u64..;
    let mut next_name = || (numbers.next().unwrap(), 6);
    let (files, places) = match together {
        true => TableWriter::finish_together(tables, &fs, dir, DATABASE, &outputs, next_name),
        false => tables
            .into_iter()
            .map(|table| table.finish(&fs, dir, DATABASE, next_name(), &outputs))
            .collect::<Result<Vec<_>>>()
            .map(|files| (files, vec![0, 1])),
    }
    .unwrap();
    assert_eq!((files.len(), places.len()), (if together { 1 } else { 2 }, 2));
    for (segment, place) in segments.into_iter().zip(places) {
        let known = state.segments.iter_mut().find(|s| s.meta.segment == segment).unwrap();
        let (table, table_nonce) = (files[place].file(), files[place].nonce());
        known.relocated = Some(Relocated { table, table_nonce });
        fs.remove(&segment_path(dir, known.meta.file)).unwrap();
    }
    files.into_iter().for_each(Output::keep);
    outputs.into_iter().for_each(Output::keep);
    state.head = Position::new(state.segments[2].meta.segment, 0);
    (fs, state, options, kept, dropped)
}

#[test]
fn a_pointer_leads_to_the_record_wherever_it_was_moved() {
    for (maps, together) in [(true, false), (false, false), (true, true), (false, true)] {
        let (fs, state, options, kept, dropped) = relocated_in(maps, together);
        let mut recovery = recovery(&fs, &state, &options).unwrap();
        recovery.replay(|_| Ok::<_, ()>(())).unwrap();
        let view = recovery.view();
        let both = [1, 2].map(|s| view.verify(s, None).unwrap().records);
        assert_eq!(
            both.iter().sum::<u64>(),
            kept.iter().filter(|(p, _)| p.segment() < 3).count() as u64
        );
        assert!(view.meta(1).is_none() && view.holders(1).is_some());
        for (pointer, (key, tag, value, version)) in &kept {
            assert_eq!(&*view.read(*pointer, key, *version).unwrap(), &value[..]);
            if let Some(borrowed) = view.read_ref(*pointer, key, *version).unwrap() {
                assert_eq!(borrowed, &value[..]);
            }
            let same = |k: &[u8], t: &[u8], v: &[u8]| k == key && t == tag && v == value;
            assert!(view.read_record(*pointer, *version, same).unwrap());
        }
        assert!(!dropped.is_empty());
        for (pointer, (key, _, _, version)) in &dropped {
            let e = view.read(*pointer, key, *version).unwrap_err();
            assert!(matches!(e, Error::BadPointer { .. }), "{e}");
        }
    }
}

#[test]
fn every_flipped_byte_of_a_relocation_is_noticed() {
    for together in [false, true] {
        flip_every_byte(together);
    }
}

fn flip_every_byte(together: bool) {
    let (fs, state, options, kept, _) = relocated_in(true, together);
    let files: Vec<_> = fs
        .list(DIR.as_ref())
        .unwrap()
        .into_iter()
        .filter(|e| parse_relocation_path(&e.name).is_some())
        .map(|e| std::path::Path::new(DIR).join(e.name))
        .collect();
    assert_eq!(files.len(), if together { 3 } else { 4 });
    for path in files {
        let file = fs.open(&path, OpenMode::ReadWrite).unwrap();
        let records = path.extension().unwrap() == "vrec";
        // The header page beyond the header holds nothing.
        let len = file.len().unwrap();
        let places = (0..len).filter(|at| !records || !(64..4096).contains(at));
        for at in places.filter(|at| !records || *at < 64 || at % 13 == 0) {
            let mut byte = [0];
            file.read_exact_at(&mut byte, at).unwrap();
            file.write_all_at(&[byte[0] ^ 0x20], at).unwrap();
            let opened = recovery(&fs, &state, &options);
            let noticed = match opened {
                Err(_) => true,
                Ok(recovery) => {
                    let view = recovery.view();
                    let verified = [1, 2].iter().all(|s| view.verify(*s, None).is_ok());
                    assert!(!verified || at < 72, "{} at {at}", path.display());
                    let moved = kept.iter().filter(|(p, _)| p.segment() <= 2);
                    let failed = moved.filter(|(pointer, (key, _, value, version))| {
                        match view.read(*pointer, key, *version) {
                            Ok(read) => {
                                assert_eq!(&*read, &value[..]);
                                false
                            }
                            Err(_) => true,
                        }
                    });
                    failed.count() > 0
                }
            };
            // A version trailer is not read by pointer (who reads knows the version), so only
            // verification notices it.
            assert!(noticed || records && at >= 4096, "{} at {at}", path.display());
            file.write_all_at(&byte, at).unwrap();
        }
    }
}

#[test]
fn outputs_that_nobody_keeps_are_removed() {
    let fs: Arc<dyn Fs> = Arc::new(MemFs::new());
    let dir = std::path::Path::new(DIR);
    fs.create_dir_all(dir).unwrap();
    let mut writer = RecordWriter::create(&fs, dir, DATABASE, 1, 1).unwrap();
    writer.push(b"key", b"", b"value", 7).unwrap();
    drop(writer);
    let mut writer = RecordWriter::create(&fs, dir, DATABASE, 1, 1).unwrap();
    let at = writer.push(b"key", b"", b"value", 7).unwrap();
    let outputs = [writer.finish().unwrap()];
    let mut table = TableWriter::new(3);
    table.add(4096, 0, at).unwrap();
    let table = table.finish(&fs, dir, DATABASE, (2, 2), &outputs).unwrap();
    assert_eq!(fs.list(dir).unwrap().len(), 2);
    drop((outputs, table));
    assert_eq!(fs.list(dir).unwrap().len(), 0);
}

#[test]
fn every_old_offset_of_a_large_segment_leads_to_its_record() {
    // Sizes from a few bytes to whole buckets of nothing, and the very last offset.
    let fs: Arc<dyn Fs> = Arc::new(MemFs::new());
    let dir = std::path::Path::new(DIR);
    fs.create_dir_all(dir).unwrap();
    let manifest = Manifest::new(State::default());
    let (log, ..) = open(&fs, &manifest, &options()).unwrap();
    append(&log, Entry { version: 1, seed: 1, size: 900 }, Durability::Sync).unwrap();
    for gap in [13u32, 300, 4000, 200_000, 70_000_000] {
        let id = gap.into();
        let mut writer = RecordWriter::create(&fs, dir, DATABASE, id, 1).unwrap();
        let mut table = TableWriter::new(1);
        let mut old = 4096u32;
        let mut moved = Vec::new();
        while old < (1 << 31) && moved.len() < 3000 {
            let key = old.to_string().into_bytes();
            let at = writer.push(&key, b"t", b"v", 9).unwrap();
            table.add(old, 0, at).unwrap();
            moved.push((old, key));
            old += 1 + (mix(old.into()) % u64::from(2 * gap)) as u32;
        }
        let outputs = [writer.finish().unwrap()];
        let out = table.finish(&fs, dir, DATABASE, (id + 1, 2), &outputs).unwrap();
        let relocated = Relocated { table: out.file(), table_nonce: out.nonce() };
        let opened = log.open_relocated(1, &relocated, &mut RecordFiles::default()).unwrap();
        log.relocate(vec![opened]);
        let view = log.view();
        for (old, key) in &moved {
            let pointer = Pointer::new(1, *old, record_len(key.len(), 1, 1) as u32);
            assert_eq!(&*view.read(pointer, key, 9).unwrap(), b"v");
            for other in [old - 1, old + 1] {
                let pointer = Pointer::new(1, other, pointer.len());
                if moved.iter().all(|(o, _)| *o != other) {
                    let e = view.read(pointer, key, 9).unwrap_err();
                    assert!(matches!(e, Error::BadPointer { .. }), "{e}");
                }
            }
        }
    }
}

#[test]
fn a_record_is_copied_only_if_it_verifies_and_a_failed_copy_changes_nothing() {
    let fs: Arc<dyn Fs> = Arc::new(MemFs::new());
    let manifest = Manifest::new(State::default());
    // Copying verifies what reading does not.
    let options = Options { verify_reads: false, maps: false, ..options() };
    let (log, ..) = open(&fs, &manifest, &options).unwrap();
    let mut frame = FrameBuilder::new();
    for key in [b"a", b"b", b"c"] {
        frame.push(key, b"", &[7; 100], None).unwrap();
    }
    let done = log.append(frame.finish(), Durability::Sync).unwrap();
    let live: Vec<_> = done
        .pointers
        .iter()
        .zip([b"a", b"b", b"c"])
        .map(|(pointer, key)| LiveRecord { pointer: *pointer, key, version: done.version })
        .collect();
    let dir = std::path::Path::new(DIR);
    let mut writer = RecordWriter::create(&fs, dir, DATABASE, 900, 5).unwrap();
    let mut offsets = Vec::new();
    let stored = RecordWriter::stored_len(1, 0, 100);
    let most = writer.len() + 2 * stored;
    assert_eq!(writer.copy(&log.view(), &live, most, &mut offsets).unwrap(), 2, "no more fit");
    assert_eq!((writer.len(), offsets.len()), (most, 2));

    let other = [live[0], LiveRecord { key: b"x", ..live[1] }];
    let copied = writer.copy(&log.view(), &other, u64::MAX, &mut offsets);
    assert!(matches!(copied, Err((1, Error::KeyMismatch { .. }))), "{copied:?}");
    assert_eq!((writer.len(), offsets.len()), (most, 2));

    let path = segment_path(dir, manifest.state().segments[0].meta.file);
    let file = fs.open(&path, OpenMode::ReadWrite).unwrap();
    let last_byte = live[1].pointer.offset() + live[1].pointer.len() - 1;
    file.write_all_at(&[8], last_byte.into()).unwrap();
    let copied = writer.copy(&log.view(), &live, u64::MAX, &mut offsets);
    assert!(matches!(copied, Err((1, Error::Damaged { .. }))), "{copied:?}");
    assert_eq!((writer.len(), offsets.len()), (most, 2));
}

#[test]
fn a_table_or_record_file_that_was_cut_short_is_an_error_when_it_is_opened() {
    for maps in [true, false] {
        let (fs, state, options, ..) = relocated(maps);
        let raw: Vec<_> = state
            .segments
            .iter()
            .filter(|s| s.relocated.is_none())
            .map(|s| segment_path(DIR.as_ref(), s.meta.file))
            .collect();
        let mut cut = 0;
        for entry in fs.list(DIR.as_ref()).unwrap() {
            let path = std::path::Path::new(DIR).join(entry.name);
            if raw.contains(&path) {
                continue;
            }
            let file = fs.open(&path, OpenMode::ReadWrite).unwrap();
            let mut last = [0];
            let len = file.len().unwrap() - 1;
            file.read_exact_at(&mut last, len).unwrap();
            file.set_len(len).unwrap();
            let opened = recovery(&fs, &state, &options);
            assert!(
                matches!(&opened, Err(Error::Truncated { path: p, .. }) if *p == path),
                "{path:?}: {opened:?}"
            );
            file.write_all_at(&last, len).unwrap();
            recovery(&fs, &state, &options).unwrap();
            cut += 1;
        }
        assert_eq!(cut, 4, "two of each");
    }
}

/// A record file that holds nothing.
fn record_file(fs: &Arc<dyn Fs>, database: u128, file: u64, nonce: u64) -> Output {
    RecordWriter::create(fs, DIR.as_ref(), database, file, nonce).unwrap().finish().unwrap()
}

#[test]
fn another_table_or_record_file_is_never_taken_for_the_one_that_is_named() {
    let (fs, state, options, ..) = relocated(true);
    let dir = std::path::Path::new(DIR);
    let refused = |fs: &Arc<dyn Fs>, state: &State, what: &str| match recovery(fs, state, &options)
        .unwrap_err()
    {
        Error::WrongFile { what: found, .. } => assert_eq!(found, what),
        Error::WrongDatabase { .. } => assert_eq!(what, "database"),
        other => panic!("{what}: {other}"),
    };
    let swap = |a: std::path::PathBuf, b: std::path::PathBuf| {
        let aside = dir.join("aside");
        fs.rename(&a, &aside).unwrap();
        fs.rename(&b, &a).unwrap();
        fs.rename(&aside, &b).unwrap();
    };
    let named = |segment: usize, relocated: Relocated| {
        let mut other = state.clone();
        other.segments[segment].relocated = Some(relocated);
        other
    };
    let [first, second] = [0, 1].map(|segment| state.segments[segment].relocated.clone().unwrap());
    refused(&fs, &named(0, second.clone()), "segment");
    refused(&fs, &named(0, Relocated { table_nonce: 7, ..first.clone() }), "nonce");
    let tables = [&first, &second].map(|r| relocation_table_path(dir, r.table));
    swap(tables[0].clone(), tables[1].clone());
    refused(&fs, &state, "file id");
    swap(tables[0].clone(), tables[1].clone());
    // The name of one record file and the contents of the other, which are long enough.
    for file in [899, 900] {
        let file = fs.open(&record_file_path(dir, file), OpenMode::ReadWrite).unwrap();
        file.set_len(20_000).unwrap();
    }
    swap(record_file_path(dir, 899), record_file_path(dir, 900));
    refused(&fs, &state, "file id");
    swap(record_file_path(dir, 899), record_file_path(dir, 900));
    recovery(&fs, &state, &options).unwrap();

    // Of the same names, but for the nonce or the database.
    for (database, nonce, what) in [(DATABASE, 6, "nonce"), (DATABASE + 1, 5, "database")] {
        let path = record_file_path(dir, 900);
        let len = fs.metadata(&path).unwrap().len;
        fs.rename(&path, &dir.join("aside")).unwrap();
        record_file(&fs, database, 900, nonce).keep();
        fs.open(&path, OpenMode::ReadWrite).unwrap().set_len(len).unwrap();
        refused(&fs, &state, what);
        fs.remove(&path).unwrap();
        fs.rename(&dir.join("aside"), &path).unwrap();
    }
    fs.remove(&tables[0]).unwrap();
    let none = TableWriter::new(1);
    let name = (first.table, first.table_nonce);
    none.finish(&fs, dir, DATABASE + 1, name, &[]).unwrap().keep();
    refused(&fs, &state, "database");
}

#[test]
fn a_record_of_any_of_several_files_of_several_chunks_is_found() {
    let fs: Arc<dyn Fs> = Arc::new(MemFs::new());
    let (log, ..) = open(&fs, &Manifest::new(State::default()), &options()).unwrap();
    append(&log, Entry { version: 1, seed: 1, size: 900 }, Durability::Sync).unwrap();
    let dir = std::path::Path::new(DIR);
    let mut writers =
        [900, 901].map(|file| RecordWriter::create(&fs, dir, DATABASE, file, 1).unwrap());
    let mut table = TableWriter::new(1);
    let value = |i: u32| vec![i as u8; 30_000 + i as usize * 50];
    for i in 0..200u32 {
        // In no order of files, and of both some megabytes.
        let file = usize::from(i % 3 == 0);
        let at = writers[file].push(&i.to_be_bytes(), b"", &value(i), 9).unwrap();
        table.add(4096 + i, file, at).unwrap();
    }
    assert_eq!(table.files(), [1, 0], "in the order that they were first used in");
    let outputs = writers.map(|writer| writer.finish().unwrap());
    assert!(outputs.iter().all(|output| output.len() > 2 << 20));
    let output = table.finish(&fs, dir, DATABASE, (902, 1), &outputs).unwrap();
    let relocated = Relocated { table: output.file(), table_nonce: output.nonce() };
    log.relocate(vec![log.open_relocated(1, &relocated, &mut RecordFiles::default()).unwrap()]);
    let view = log.view();
    for i in 0..200 {
        let pointer = Pointer::new(1, 4096 + i, record_len(4, 0, value(i).len()) as u32);
        assert!(*view.read(pointer, &i.to_be_bytes(), 9).unwrap() == *value(i), "{i}");
    }
    assert_eq!(view.verify(1, None).unwrap().records, 200);
}

#[test]
fn a_table_of_a_record_that_went_to_two_places_or_nowhere_is_refused() {
    let fs: Arc<dyn Fs> = Arc::new(MemFs::new());
    let dir = std::path::Path::new(DIR);
    fs.create_dir_all(dir).unwrap();
    let outputs = [record_file(&fs, DATABASE, 900, 1)];
    for moved in [[(4096, 0, 4096), (4096, 0, 5000)], [(4096, 0, 4096), (5000, 1, 5000)]] {
        let mut table = TableWriter::new(1);
        moved.iter().for_each(|&(old, file, new)| table.add(old, file, new).unwrap());
        let refused = table.finish(&fs, dir, DATABASE, (901, 1), &outputs);
        assert!(matches!(refused, Err(Error::Misuse(_))), "{refused:?}");
        assert!(fs.metadata(&relocation_table_path(dir, 901)).is_err(), "and not begun");
    }
}
