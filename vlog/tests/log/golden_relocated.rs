//! Relocation tables and relocated records as earlier versions of this crate wrote them are read
//! for ever, and today's are written the same.
//!
//! `tests/golden/v1-relocated` holds the files of one collection with a file for each table,
//! `v1-relocated-together` those of the same with both tables in one file. With `KVDB_WRITE_GOLDEN` set the
//! test writes them anew: only for a new format, into a new folder.
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use kvdb_vfs::{Fs, MemFs, OpenMode};
use kvdb_vlog::*;

use crate::common::*;

/// Segments that were collected, and the tables they led to: number and nonce.
const COLLECTED: [(u32, u64, u64); 2] = [(3, 911, 0x1111), (7, 912, 0x2222)];
const TOGETHER: [(u32, u64, u64); 2] = [(3, 911, 0x1111), (7, 911, 0x1111)];
type Collected = [(u32, u64, u64); 2];
/// The record files.
const RECORD_FILES: [(u64, u64); 2] = [(901, 0xaaaa), (902, 0xbbbb)];

fn folder(collected: Collected) -> PathBuf {
    let together = if collected == TOGETHER { "-together" } else { "" };
    Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/golden/v1-relocated{together}"))
}

/// The segment that each record was in, at which offset, and the record. Those of segment 3 lie
/// close together, those of segment 7 far apart: their tables have buckets of another width.
fn moved() -> Vec<(u32, u32, Rec)> {
    let entries =
        (1..14u64).map(|n| Entry { version: 10 * n, seed: n, size: (n * n * 9) as usize });
    let records = entries.flat_map(|entry| entry.records());
    let place = |i: usize| match i % 3 {
        0 => (3, FIRST_FRAME + 48 + 40 * i as u32),
        _ => (7, FIRST_FRAME + 48 + 20_011 * i as u32),
    };
    records.enumerate().map(|(i, record)| (place(i).0, place(i).1, record)).collect()
}

/// Collects both segments into two record files.
fn write(collected: Collected) -> BTreeMap<PathBuf, Vec<u8>> {
    let disk: Arc<dyn Fs> = Arc::new(MemFs::new());
    let dir = Path::new(DIR);
    disk.create_dir_all(dir).unwrap();
    let mut tables = collected.map(|(segment, ..)| TableWriter::new(segment));
    let records = moved();
    let mut outputs = Vec::new();
    for (part, (file, nonce)) in records.chunks(records.len().div_ceil(2)).zip(RECORD_FILES) {
        let mut writer = RecordWriter::create(&disk, dir, DATABASE, file, nonce).unwrap();
        for (segment, offset, (key, tag, value, version)) in part {
            let at = writer.push(key, tag, value, *version).unwrap();
            let table = tables.iter_mut().find(|t| t.segment() == *segment).unwrap();
            table.add(*offset, outputs.len(), at).unwrap();
        }
        outputs.push(writer.finish().unwrap());
    }
    if collected == TOGETHER {
        let name = || (collected[0].1, collected[0].2);
        let tables = tables.into_iter().collect();
        let (files, places) =
            TableWriter::finish_together(tables, &disk, dir, DATABASE, &outputs, name).unwrap();
        assert_eq!(places, [0, 0]);
        files.into_iter().for_each(Output::keep);
    } else {
        for (table, (_, file, nonce)) in tables.into_iter().zip(collected) {
            table.finish(&disk, dir, DATABASE, (file, nonce), &outputs).unwrap().keep();
        }
    }
    outputs.into_iter().for_each(Output::keep);
    let read = |name: PathBuf| {
        let file = disk.open(&dir.join(&name), OpenMode::Read).unwrap();
        let mut bytes = vec![0; file.len().unwrap() as usize];
        file.read_exact_at(&mut bytes, 0).unwrap();
        (name, bytes)
    };
    disk.list(dir).unwrap().into_iter().map(|entry| read(entry.name)).collect()
}

fn stored(collected: Collected) -> BTreeMap<PathBuf, Vec<u8>> {
    let files = std::fs::read_dir(folder(collected)).unwrap().map(|file| file.unwrap());
    files.map(|file| (file.file_name().into(), std::fs::read(file.path()).unwrap())).collect()
}

fn restored(
    collected: Collected,
    files: &BTreeMap<PathBuf, Vec<u8>>,
    maps: bool,
) -> Result<Recovery> {
    let disk: Arc<dyn Fs> = Arc::new(MemFs::new());
    disk.create_dir_all(DIR.as_ref()).unwrap();
    for (name, bytes) in files {
        let file = disk.open(&Path::new(DIR).join(name), OpenMode::CreateNew).unwrap();
        file.write_all_at(bytes, 0).unwrap();
    }
    let segments = collected.map(|(segment, table, table_nonce)| SegmentRecord {
        // Of its own file nothing is left.
        meta: SegmentMeta { segment, file: 0, nonce: 0, capacity: 16 << 10, method: 0 },
        sealed: None,
        relocated: Some(Relocated { table, table_nonce }),
    });
    let state = State { segments: segments.into(), head: Position::new(8, 0), next: 8 };
    recovery(&disk, &state, &Options { maps, ..options() })
}

#[test]
fn relocated_records_of_format_1_are_read_and_written_the_same() {
    check_golden(COLLECTED, 4);
}

#[test]
fn tables_in_one_file_of_format_1_are_read_and_written_the_same() {
    check_golden(TOGETHER, 3);
}

fn check_golden(collected: Collected, files_there: usize) {
    if std::env::var_os("KVDB_WRITE_GOLDEN").is_some() {
        std::fs::create_dir_all(folder(collected)).unwrap();
        for (name, bytes) in write(collected) {
            std::fs::write(folder(collected).join(name), bytes).unwrap();
        }
    }
    let files = stored(collected);
    assert_eq!(files.len(), files_there, "tables and two record files");
    assert!(files == write(collected), "today's are not written as they were");
    for maps in [true, false] {
        let mut recovery = restored(collected, &files, maps).unwrap();
        recovery.replay(|_| Ok::<_, ()>(())).unwrap();
        let view = recovery.view();
        let records = moved();
        assert!(records.len() > 20);
        for (segment, offset, (key, tag, value, version)) in &records {
            let len = record_len(key.len(), tag.len(), value.len()) as u32;
            let pointer = Pointer::new(*segment, *offset, len);
            let same = |k: &[u8], t: &[u8], v: &[u8]| (k, t, v) == (key, tag, value);
            assert!(view.read_record(pointer, *version, same).unwrap());
            assert_eq!(&*view.read(pointer, key, *version).unwrap(), &value[..]);
        }
        let counts = collected.map(|(s, ..)| view.verify(s, None).unwrap().records);
        assert_eq!(counts.iter().sum::<u64>(), records.len() as u64);
        assert!(counts.iter().all(|n| *n > 0));
    }
}

#[test]
fn a_relocation_of_an_older_or_newer_format_is_an_error_that_says_so() {
    for changed in stored(COLLECTED).keys() {
        for version in [0, FORMAT_VERSION + 1, u32::MAX] {
            let mut files = stored(COLLECTED);
            files.get_mut(changed).unwrap()[8..12].copy_from_slice(&version.to_le_bytes());
            match restored(COLLECTED, &files, true) {
                Err(Error::UnsupportedVersion { path, found, supported }) => {
                    assert_eq!((found, supported), (version, FORMAT_VERSION));
                    assert_eq!(path, Path::new(DIR).join(changed));
                }
                other => panic!("{version}: {other:?}"),
            }
        }
    }
}
