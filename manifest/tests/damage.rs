//! Damage to what was durable is an error that names the place, never a wrong state, a panic or a
//! silent loss.

#![allow(clippy::unwrap_used)] // helpers of tests

mod common;

use std::path::Path;
use std::sync::Arc;

use common::*;
use kvdb_manifest::store::*;
use kvdb_manifest::{Error, FILE_NAME, Manifest, Options};
use kvdb_vfs::{Fs, OpenMode, Salt, SyncSite};

/// Five records, the first of them a snapshot of three. Returns the file and where records start.
fn sample() -> (Vec<u8>, Vec<usize>) {
    let fs = file_system();
    let manifest = create(&fs);
    for n in 0..3 {
        manifest.append(&heavy(n, 10)).unwrap();
    }
    manifest.rewrite().unwrap();
    let mut starts = vec![HEADER];
    for n in 3..7 {
        starts.push(manifest.size() as usize);
        manifest.append(&heavy(n, 20 * n as usize)).unwrap();
    }
    starts.push(manifest.size() as usize);
    (bytes_of(&fs), starts)
}

#[test]
fn a_flipped_bit_is_an_error_that_names_the_record_and_leaves_the_file_alone() {
    let (bytes, starts) = sample();
    let end = *starts.last().unwrap();
    assert_eq!(bytes.len(), end + RECORD_HEADER); // marked
    for at in 0..end {
        for bit in 0..8 {
            let mut bad = bytes.clone();
            bad[at] ^= 1 << bit;
            let fs = with_bytes(&bad);
            let start = starts.iter().rev().find(|s| **s <= at).copied().unwrap_or(0);
            match open(&fs) {
                Err(Error::Corrupt { offset, path, .. }) => {
                    assert_eq!((offset as usize, path), (start, Path::new(DIR).join(FILE_NAME)));
                }
                Err(Error::NotAManifest { .. }) if at < 8 => {}
                other => panic!("byte {at} bit {bit}: {other:?}"),
            }
            assert_eq!(bytes_of(&fs), bad);
        }
    }
}

#[test]
fn a_damaged_mark_costs_nothing_but_the_mark() {
    let (bytes, starts) = sample();
    let end = *starts.last().unwrap();
    for at in end..bytes.len() {
        let mut bad = bytes.clone();
        bad[at] ^= 0x10;
        let (manifest, report) = open(&with_bytes(&bad)).unwrap();
        assert_eq!(numbers(&manifest), (0..7).collect::<Vec<_>>());
        assert_eq!(report.cut.unwrap().offset as usize, end);
    }
}

#[test]
fn without_its_mark_the_last_record_passes_for_torn_and_no_other_does() {
    let (bytes, starts) = sample();
    let end = *starts.last().unwrap();
    let last = starts[starts.len() - 2];
    for at in HEADER..end {
        let mut bad = bytes[..end].to_vec();
        bad[at] ^= 0x04;
        match open(&with_bytes(&bad)) {
            Ok((manifest, report)) => {
                assert!(at >= last, "byte {at}");
                assert_eq!(numbers(&manifest), (0..6).collect::<Vec<_>>());
                assert_eq!(report.cut.unwrap().offset as usize, last);
            }
            Err(Error::Corrupt { .. }) => assert!(at < last, "byte {at}"),
            Err(e) => panic!("{e}"),
        }
    }
}

#[test]
fn a_snapshot_that_is_the_last_record_never_passes_for_torn() {
    let fs = file_system();
    let manifest = create(&fs);
    manifest.append(&heavy(1, 10)).unwrap();
    manifest.append(&heavy(2, 10)).unwrap();
    manifest.rewrite().unwrap();
    let bytes = bytes_of(&fs);
    assert_eq!(bytes.len() as u64, manifest.size());
    for at in HEADER..bytes.len() {
        let mut bad = bytes.clone();
        bad[at] ^= 0x20;
        assert!(matches!(open(&with_bytes(&bad)), Err(Error::Corrupt { offset: 64, .. })));
        let short = &bytes[..at];
        assert!(matches!(open(&with_bytes(short)), Err(Error::Corrupt { .. })), "{at}");
    }
}

#[test]
fn a_witness_is_found_wherever_it_is() {
    // What follows a damaged record is looked through in pieces of this size.
    const PIECE: usize = 256 << 10;
    let fs = file_system();
    let manifest = create(&fs);
    manifest.append(&add(0)).unwrap();
    let damaged = manifest.size() as usize;
    manifest.append(&heavy(1, PIECE - 64)).unwrap();
    let spare = damaged + PIECE - manifest.size() as usize;
    assert!(spare < 64, "the next record begins near the seam");
    for ballast in PIECE - 64..PIECE - 64 + spare + RECORD_HEADER {
        let fs = file_system();
        let manifest = create(&fs);
        manifest.append(&add(0)).unwrap();
        manifest.append(&heavy(1, ballast)).unwrap();
        let end = manifest.size() as usize;
        let mut bytes = bytes_of(&fs);
        assert_eq!(bytes.len(), end + RECORD_HEADER, "the mark is the only witness");
        bytes[damaged + 1] ^= 1;
        match open(&with_bytes(&bytes)) {
            Err(Error::Corrupt { offset, .. }) => assert_eq!(offset as usize, damaged),
            other => panic!("a witness {} behind passed over: {other:?}", end - damaged),
        }
    }
}

#[test]
fn overwritten_ranges_are_found() {
    let (bytes, starts) = sample();
    let end = *starts.last().unwrap();
    let mut dice = Dice(3);
    for _ in 0..2000 * scale() {
        let from = dice.roll(end as u64) as usize;
        let to = (from + 1 + dice.roll(200) as usize).min(end);
        let mut bad = bytes.clone();
        match dice.roll(3) {
            0 => bad[from..to].fill(0),
            1 => bad[from..to].iter_mut().for_each(|b| *b = dice.roll(256) as u8),
            _ => {
                // A piece of the file at another place of it.
                let source = dice.roll((bytes.len() - (to - from)) as u64) as usize;
                bad[from..to].copy_from_slice(&bytes[source..source + (to - from)]);
            }
        }
        if bad[..end] != bytes[..end] {
            assert!(open(&with_bytes(&bad)).is_err());
        }
    }
}

#[test]
fn a_file_of_another_database_is_told_by_its_id() {
    let (fs, other) = (file_system(), file_system());
    let _ = create(&fs);
    let manifest: Manifest<Numbers> =
        Manifest::create(Arc::new(other.clone()), Path::new(DIR), 99, manual()).unwrap();
    manifest.append(&add(1)).unwrap();
    assert_eq!(open(&with_bytes(&bytes_of(&other))).unwrap().1.database, 99);
    // Its records in our file are garbage.
    let mut mixed = bytes_of(&fs);
    mixed.extend_from_slice(&bytes_of(&other)[HEADER..]);
    let (manifest, report) = open(&with_bytes(&mixed)).unwrap();
    assert!(numbers(&manifest).is_empty() && report.cut.is_some());
}

#[test]
fn intact_records_that_make_no_sense_are_errors_of_their_own() {
    let fs = file_system();
    let manifest = create(&fs);
    manifest.append(&add(1)).unwrap();
    let (bytes, at) = (bytes_of(&fs), manifest.size());

    let (manifest, _) = open(&with_bytes(&append_signed(&bytes, at, &[]))).unwrap();
    assert_eq!(numbers(&manifest), [1]); // an empty change is one, too
    let no_message = with_bytes(&append_signed(&bytes, at, &[0xff; 7]));
    assert!(matches!(open(&no_message), Err(Error::Decode { offset, .. }) if offset == at));
    let again = with_bytes(&append_signed(&bytes, at, &prost::Message::encode_to_vec(&add(1))));
    assert!(matches!(open(&again), Err(Error::Inconsistent { offset, .. }) if offset == at));

    let feature = StoreChange { features_added: vec!["zigzag".into()], ..Default::default() };
    let fresh = &bytes[..HEADER];
    let bad = append_signed(fresh, 64, &prost::Message::encode_to_vec(&feature));
    let opened = Manifest::<StoreState>::open(Arc::new(with_bytes(&bad)), Path::new(DIR), manual());
    assert!(
        matches!(opened, Err(Error::UnknownFeature { offset: 64, feature, .. }) if feature == "zigzag")
    );
}

/// `file` up to `at`, and a record with this payload and valid checksums.
fn append_signed(file: &[u8], at: u64, payload: &[u8]) -> Vec<u8> {
    let mut out = file[..at as usize].to_vec();
    let mut head = Vec::new();
    head.extend_from_slice(&(payload.len() as u32).to_le_bytes());
    head.extend_from_slice(&1u32.to_le_bytes());
    head.extend_from_slice(&crc32fast::hash(payload).to_le_bytes());
    let sealed = salt_of(file).seal(crc32fast::hash(&head), at, 0);
    head.extend_from_slice(&sealed.to_le_bytes());
    out.extend_from_slice(&head);
    out.extend_from_slice(payload);
    out
}

fn salt_of(file: &[u8]) -> Salt {
    let database = u128::from_le_bytes(file[16..32].try_into().unwrap());
    let nonce = u64::from_le_bytes(file[32..40].try_into().unwrap());
    Salt::derive(database, 0, nonce)
}

/// Splits a file into the payloads of its records.
fn payloads(file: &[u8], end: usize) -> Vec<Vec<u8>> {
    let (mut at, mut out) = (HEADER, Vec::new());
    while at < end {
        let len = u32::from_le_bytes(file[at..at + 4].try_into().unwrap()) as usize;
        out.push(file[at + RECORD_HEADER..at + RECORD_HEADER + len].to_vec());
        at += RECORD_HEADER + len;
    }
    out
}

#[test]
fn mutated_change_sets_with_valid_checksums_never_panic() {
    let fs = file_system();
    let store: Manifest<StoreState> =
        Manifest::create(Arc::new(fs.clone()), Path::new(DIR), DATABASE, manual()).unwrap();
    for id in 1..6 {
        let table = TableRecord {
            id,
            smallest_key: b"a".to_vec(),
            largest_key: b"z".to_vec(),
            pointers: vec![PointerSum { segment: id as u32, count: 1, bytes: 50 }],
            ..TableRecord::default()
        };
        let segment = id as u32;
        let change = StoreChange {
            segments_named: vec![SegmentNamed {
                segment,
                file: 50 + id,
                capacity: 99,
                ..Default::default()
            }],
            segments_sealed: vec![SegmentSealed { segment, length: 9, ..Default::default() }],
            log_files_added: vec![LogFile { file: 90 + id, nonce: 7, length: 3 }],
            segments_relocated: vec![SegmentRelocated {
                segment,
                table: 90 + id,
                files: vec![90 + id],
            }],
            tables_added: vec![table],
            tables_removed: if id > 2 { vec![id - 1] } else { vec![] },
            replay_head: Some(LogPosition { segment, offset: 64 }),
            range_deletes_added: vec![RangeDelete { version: id, ..Default::default() }],
            largest_version: Some(id),
            next_segment: Some(id as u32 + 1),
            ..StoreChange::default()
        };
        store.append(&change).unwrap();
    }
    let file = bytes_of(&fs);
    let records = payloads(&file, store.size() as usize);
    assert_eq!(records.len(), 5);
    let mut dice = Dice(0x5eed);
    let (mut opened, mut refused) = (0, 0);
    for _ in 0..10_000 * scale() {
        let mut records = records.clone();
        for _ in 0..1 + dice.roll(3) {
            let which = dice.roll(records.len() as u64) as usize;
            mutate(&mut records[which], &mut dice);
        }
        let mut bad = file[..HEADER].to_vec();
        for payload in &records {
            let at = bad.len() as u64;
            bad = append_signed(&bad, at, payload);
        }
        let fs = Arc::new(with_bytes(&bad));
        match Manifest::<StoreState>::open(fs, Path::new(DIR), Options::default()) {
            Ok((manifest, _)) => {
                // Whatever it says, it hangs together.
                opened += 1;
                manifest.read(|s| (s.live_bytes(), s.tables_by_level().len()));
                manifest.rewrite().unwrap();
                manifest.verify().unwrap();
            }
            Err(
                Error::Decode { .. } | Error::Inconsistent { .. } | Error::UnknownFeature { .. },
            ) => {
                refused += 1;
            }
            Err(e) => panic!("{e}"),
        }
    }
    assert!(opened > 100 && refused > 100, "{opened} opened, {refused} refused");
}

fn mutate(payload: &mut Vec<u8>, dice: &mut Dice) {
    let at = dice.roll(payload.len() as u64 + 1) as usize;
    match dice.roll(5) {
        0 => payload.truncate(at),
        1 => payload.insert(at, dice.roll(256) as u8),
        2 if at < payload.len() => {
            payload.remove(at);
        }
        3 => {
            let tail = payload[at..].to_vec();
            payload.extend(tail);
        }
        _ if at < payload.len() => payload[at] = dice.roll(256) as u8,
        _ => {}
    }
}

#[test]
fn headers_with_valid_checksums_and_wrong_contents_are_refused() {
    let fs = file_system();
    let _ = create(&fs);
    let good = bytes_of(&fs);
    let signed = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut bytes = good.clone();
        change(&mut bytes);
        let sealed = salt_of(&bytes).seal(crc32fast::hash(&bytes[..60]), 0, 0);
        bytes[60..].copy_from_slice(&sealed.to_le_bytes());
        open(&with_bytes(&bytes)).map(|_| ())
    };
    assert!(signed(&|_| {}).is_ok());
    let newer = signed(&|b| b[8] = 7);
    assert!(matches!(newer, Err(Error::UnsupportedVersion { found: 7, .. })));
    let base = |base: u64| signed(&|b| b[40..48].copy_from_slice(&base.to_le_bytes()));
    for wrong in [0, 63, 65, 4096, u64::MAX] {
        assert!(matches!(base(wrong), Err(Error::Corrupt { .. })), "{wrong}");
    }
}

#[test]
fn verify_finds_damage_that_came_after_opening() {
    let fs = file_system();
    let manifest = create(&fs);
    for n in 0..4 {
        manifest.append(&heavy(n, 100)).unwrap();
    }
    manifest.verify().unwrap();
    let path = Path::new(DIR).join(FILE_NAME);
    let good = bytes_of(&fs);
    let file = fs.open(&path, OpenMode::ReadWrite).unwrap();
    for (at, byte) in (0..manifest.size()).zip(&good) {
        file.write_all_at(&[byte ^ 1], at).unwrap();
        let found = manifest.verify().unwrap_err();
        let expected = matches!(found, Error::Corrupt { .. })
            || at < 8 && matches!(found, Error::NotAManifest { .. });
        assert!(expected, "byte {at}: {found}");
        file.write_all_at(&[*byte], at).unwrap();
    }
    manifest.verify().unwrap();
    file.set_len(manifest.size() - 1).unwrap();
    assert!(matches!(manifest.verify(), Err(Error::Corrupt { .. })));
    fs.remove(&path).unwrap();
    assert!(matches!(manifest.verify(), Err(Error::Missing { .. })));
    let other = with_bytes(&bytes_of(&{
        let fs = file_system();
        let _ = create(&fs);
        fs
    }));
    let foreign = bytes_of(&other);
    let file = fs.open(&path, OpenMode::CreateNew).unwrap();
    file.write_all_at(&foreign, 0).unwrap();
    file.sync_data(SyncSite::Other(0)).unwrap();
    assert!(matches!(manifest.verify(), Err(Error::Corrupt { offset: 0, .. })));
}
