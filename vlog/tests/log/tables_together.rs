//! Relocation tables of several segments in one file.
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use kvdb_vfs::{Fs, MemFs, OpenMode};
use kvdb_vlog::*;

use crate::common::*;

/// The record that was at `offset` of a segment, and where it was.
fn record(segment: u32, offset: u32) -> (Pointer, [u8; 8], [u8; 20]) {
    let mut key = [0; 8];
    key[..4].copy_from_slice(&segment.to_be_bytes());
    key[4..].copy_from_slice(&offset.to_be_bytes());
    let value = [offset as u8; 20];
    (Pointer::new(segment, offset, record_len(8, 0, 20) as u32), key, value)
}

/// Segments with so many records each, spread over so many bytes, moved into one record file.
fn write(fs: &Arc<dyn Fs>, segments: &[(u32, u32, u32)]) -> (Vec<Output>, Vec<usize>, Output) {
    let dir = Path::new(DIR);
    fs.create_dir_all(dir).unwrap();
    let mut writer = RecordWriter::create(fs, dir, DATABASE, 900, 5).unwrap();
    let tables = segments.iter().map(|&(segment, records, span)| {
        let mut table = TableWriter::new(segment);
        for i in 0..records {
            let (pointer, key, value) = record(segment, offset(i, records, span));
            let at = writer.push(&key, b"", &value, 3).unwrap();
            table.add(pointer.offset(), 0, at).unwrap();
        }
        table
    });
    let tables: Vec<_> = tables.collect();
    let outputs = vec![writer.finish().unwrap()];
    let mut numbers = 1000u64..;
    let next = || (numbers.next().unwrap(), 7);
    let (files, places) =
        TableWriter::finish_together(tables, fs, dir, DATABASE, &outputs, next).unwrap();
    (files, places, outputs.into_iter().next().unwrap())
}

/// The last of them is at the end of the span.
fn offset(i: u32, records: u32, span: u32) -> u32 {
    4096 + (span / records) * (i + 1)
}

fn state(segments: &[(u32, u32, u32)], files: &[Output], places: &[usize]) -> State {
    let segments = segments.iter().zip(places).map(|(&(segment, ..), &place)| SegmentRecord {
        meta: SegmentMeta { segment, file: 0, nonce: 0, capacity: 16 << 10, method: 0 },
        sealed: None,
        relocated: Some(Relocated {
            table: files[place].file(),
            table_nonce: files[place].nonce(),
        }),
    });
    State { segments: segments.collect(), head: Position::new(9999, 0), next: 9999 }
}

/// Every record of every segment is found, and no other.
fn check(fs: &Arc<dyn Fs>, segments: &[(u32, u32, u32)], state: &State) {
    for maps in [true, false] {
        let mut recovery = recovery(fs, state, &Options { maps, ..options() }).unwrap();
        recovery.replay(|_| Ok::<_, ()>(())).unwrap();
        let view = recovery.view();
        for &(segment, records, span) in segments {
            for i in 0..records {
                let (pointer, key, value) = record(segment, offset(i, records, span));
                assert_eq!(&*view.read(pointer, &key, 3).unwrap(), &value[..]);
                let next = Pointer::new(segment, pointer.offset() + 1, pointer.len());
                let none = view.read(next, &key, 3).unwrap_err();
                assert!(matches!(none, Error::BadPointer { .. }), "{none}");
            }
            assert_eq!(view.verify(segment, None).unwrap().records, u64::from(records));
        }
    }
}

#[test]
fn short_tables_share_files_of_a_mebibyte_and_long_ones_have_their_own() {
    let fs: Arc<dyn Fs> = Arc::new(MemFs::new());
    let long = |segment: u32| segment % 1000 == 500;
    let segments: Vec<_> = (1..=3000)
        .map(|segment| (segment, if long(segment) { 3000 } else { 2 }, 4 << 20))
        .collect();
    let (files, places, records) = write(&fs, &segments);
    assert_eq!(places.len(), segments.len());
    let mut of: BTreeMap<usize, Vec<u32>> = BTreeMap::new();
    for (&(segment, ..), place) in segments.iter().zip(&places) {
        of.entry(*place).or_default().push(segment);
    }
    assert_eq!(of.len(), files.len());
    let alone: Vec<_> = of.values().filter(|segments| segments.len() == 1).collect();
    assert_eq!(alone, [&[500], &[1500], &[2500]]);
    let shared = || of.iter().filter(|(_, segments)| segments.len() > 1).map(|(at, _)| &files[*at]);
    assert!(shared().all(|file| file.len() <= 1 << 20));
    let bytes: u64 = shared().map(Output::len).sum();
    assert!(
        shared().count() as u64 <= bytes.div_ceil((1 << 20) - (16 << 10)),
        "all but the last full"
    );

    let state = state(&segments, &files, &places);
    files.into_iter().for_each(Output::keep);
    records.keep();
    check(&fs, &segments, &state);
}

/// A table of one has a directory of 64 KiB.
#[test]
fn tables_of_few_records_share_files_also_where_segments_are_large() {
    let fs: Arc<dyn Fs> = Arc::new(MemFs::new());
    let segments: Vec<_> = (1..=40).map(|segment| (segment, 1 + segment % 3, 1 << 30)).collect();
    let (files, places, records) = write(&fs, &segments);
    assert!(files.len() <= 3, "{} files", files.len());
    let state = state(&segments, &files, &places);
    files.into_iter().for_each(Output::keep);
    records.keep();
    check(&fs, &segments, &state);
}

#[test]
fn a_long_table_between_short_ones_does_not_divide_them() {
    let fs: Arc<dyn Fs> = Arc::new(MemFs::new());
    // With it the file would be longer than a mebibyte.
    let segments = [(1, 5, 4 << 20), (2, 200_000, 32 << 20), (3, 5, 4 << 20)];
    let (files, places, records) = write(&fs, &segments);
    assert_eq!((files.len(), places), (2, vec![0, 1, 0]));
    assert!(files[1].len() > 1 << 20);
    drop((files, records));
}

#[test]
fn damage_of_one_tables_header_hides_no_other_table() {
    let fs: Arc<dyn Fs> = Arc::new(MemFs::new());
    let segments = [(1, 5, 1 << 20), (2, 5, 1 << 20), (3, 5, 1 << 20)];
    let (files, places, records) = write(&fs, &segments);
    assert_eq!(places, [0, 0, 0]);
    let state = state(&segments, &files, &places);
    let path = relocation_table_path(DIR.as_ref(), files[0].file());
    let each = files[0].len() / 3;
    files.into_iter().for_each(Output::keep);
    records.keep();
    let file = fs.open(&path, OpenMode::ReadWrite).unwrap();
    let mut header = [0; 8];
    file.read_exact_at(&mut header, each).unwrap();
    assert_eq!(&header, b"KVDBVREL", "the second begins where the first ends");
    // The magic, something behind it, and a length that would lead beyond the end.
    for (damaged, at) in (1..=3).flat_map(|segment| [0, 14, 56].map(|at| (segment, at))) {
        let place = u64::from(damaged - 1) * each;
        let mut byte = [0];
        file.read_exact_at(&mut byte, place + at).unwrap();
        file.write_all_at(&[!byte[0]], place + at).unwrap();
        for segment in 1..=3 {
            let mut one = state.clone();
            one.segments.retain(|s| s.meta.segment == segment);
            match recovery(&fs, &one, &options()) {
                Ok(_) => assert_ne!(segment, damaged, "byte {at}"),
                Err(Error::Damaged { path: named, offset, .. }) => {
                    assert_eq!((segment, &named, offset), (damaged, &path, place), "byte {at}");
                }
                Err(error) => panic!("{error}"),
            }
        }
        file.write_all_at(&byte, place + at).unwrap();
    }
    check(&fs, &segments, &state);
    // A table that has moved within its file is not taken for what was written there.
    let mut tables = vec![0; (3 * each) as usize];
    file.read_exact_at(&mut tables, 0).unwrap();
    let (second, third) = (each as usize..2 * each as usize, 2 * each as usize..);
    let swapped = [&tables[..each as usize], &tables[third], &tables[second]].concat();
    file.write_all_at(&swapped, 0).unwrap();
    assert!(recovery(&fs, &state, &options()).is_err());
}

#[test]
fn tables_of_which_one_cannot_be_written_leave_nothing() {
    let fs: Arc<dyn Fs> = Arc::new(MemFs::new());
    let dir = Path::new(DIR);
    fs.create_dir_all(dir).unwrap();
    let record_file = RecordWriter::create(&fs, dir, DATABASE, 900, 1).unwrap().finish().unwrap();
    let mut tables: Vec<_> = (1..=2).map(TableWriter::new).collect();
    // A table long enough to be written by itself, then one that leads nowhere.
    (0..5000).for_each(|i| tables[0].add(4096 + 64 * i, 0, 4096).unwrap());
    tables[1].add(4096, 1, 4096).unwrap();
    let mut numbers = 901u64..;
    let next = || (numbers.next().unwrap(), 1);
    let refused = TableWriter::finish_together(tables, &fs, dir, DATABASE, &[record_file], next);
    assert!(matches!(refused, Err(Error::Misuse(_))), "{refused:?}");
    let left = fs.list(dir).unwrap();
    assert!(left.is_empty(), "{left:?}");
}
