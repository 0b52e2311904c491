//! What a crash in the middle of an append can leave behind the last whole record is cut off and
//! reported, and everything before it is there.

#![allow(clippy::unwrap_used)] // helpers of tests

mod common;

use common::*;
use kvdb_manifest::{Cut, Error};

/// A manifest with these records, and where each of them ends.
fn sample(sizes: &[usize]) -> (Vec<u8>, Vec<usize>) {
    let fs = file_system();
    let manifest = create(&fs);
    let mut ends = vec![HEADER];
    for (n, size) in sizes.iter().enumerate() {
        manifest.append(&heavy(n as u64, *size)).unwrap();
        ends.push(manifest.size() as usize);
    }
    (bytes_of(&fs), ends)
}

/// Opens these bytes and expects the first `count` records, with the rest cut off, for good, and
/// the manifest fit for use.
#[track_caller]
fn opens_with(bytes: &[u8], count: usize, end: usize, cut: Option<Cut>) {
    let fs = with_bytes(bytes);
    let (manifest, report) = open_with(&fs, read_only()).unwrap();
    assert_eq!((report.records, report.bytes, report.cut), (count as u64, end as u64, cut));
    assert_eq!(numbers(&manifest), (0..count as u64).collect::<Vec<_>>());
    assert_eq!(bytes_of(&fs), bytes, "a reader has written");

    let (manifest, report) = open(&fs).unwrap();
    assert_eq!((report.records, report.bytes, report.cut), (count as u64, end as u64, cut));
    manifest.append(&heavy(1000, 9)).unwrap();
    manifest.verify().unwrap();
    let (manifest, report) = open(&fs).unwrap();
    assert_eq!((report.records, report.cut), (count as u64 + 1, None));
    let expected: Vec<u64> = (0..count as u64).chain([1000]).collect();
    assert_eq!(numbers(&manifest), expected);
}

#[test]
fn a_file_cut_at_any_byte_opens_with_its_whole_records() {
    let (bytes, ends) = sample(&[0, 5, 300, 1, 700]);
    for len in HEADER..bytes.len() {
        let count = ends.iter().filter(|end| **end <= len).count() - 1;
        let end = ends[count];
        let cut = Cut { offset: end as u64, bytes: (len - end) as u64 };
        opens_with(&bytes[..len], count, end, (len > end).then_some(cut));
    }
}

#[test]
fn a_file_that_grew_without_its_contents_opens_with_its_whole_records() {
    let (bytes, ends) = sample(&[0, 5, 1300]);
    let (last, end) = (ends[2], ends[3]);
    for zeros_from in last..end {
        let mut bad = bytes[..end].to_vec();
        bad[zeros_from..].fill(0);
        if bad == bytes[..end] {
            continue;
        }
        let cut = Cut { offset: last as u64, bytes: (end - last) as u64 };
        opens_with(&bad, 2, last, Some(cut));
    }
    // Preallocation beyond the append.
    let mut long = bytes[..last].to_vec();
    long.resize(1 << 20, 0);
    let cut = Cut { offset: last as u64, bytes: (long.len() - last) as u64 };
    opens_with(&long, 2, last, Some(cut));
}

#[test]
fn any_subset_of_the_sectors_of_the_last_append_may_be_missing() {
    let (bytes, ends) = sample(&[40, 20, 4000]);
    let (last, end) = (ends[2], ends[3]);
    let mut dice = Dice(7);
    for round in 0..300 * scale() {
        let mut bad = bytes[..end].to_vec();
        for sector in last / 512..=(end - 1) / 512 {
            if dice.roll(2) == 0 {
                let range = (sector * 512).max(last)..((sector + 1) * 512).min(end);
                if round % 2 == 0 {
                    bad[range].fill(0);
                } else {
                    bad[range].iter_mut().for_each(|b| *b = dice.roll(256) as u8);
                }
            }
        }
        if bad != bytes[..end] {
            let cut = Cut { offset: last as u64, bytes: (end - last) as u64 };
            opens_with(&bad, 2, last, Some(cut));
        }
    }
}

#[test]
fn garbage_behind_the_last_record_is_cut_with_and_without_a_mark() {
    let (bytes, ends) = sample(&[3, 30]);
    let end = ends[2];
    let mut dice = Dice(11);
    for marked in [true, false] {
        let whole = if marked { &bytes[..] } else { &bytes[..end] };
        for _ in 0..200 * scale() {
            let mut bad = whole.to_vec();
            bad.extend((0..1 + dice.roll(600)).map(|_| dice.roll(256) as u8));
            let cut = Cut { offset: end as u64, bytes: (bad.len() - end) as u64 };
            opens_with(&bad, 2, end, Some(cut));
        }
    }
}

#[test]
fn what_was_cut_behind_a_mark_is_gone_for_good_and_the_mark_is_not() {
    let (bytes, ends) = sample(&[3, 30]);
    let mut torn = bytes.clone();
    torn.extend_from_slice(&[0xA5; 300]);
    let fs = with_bytes(&torn);
    assert_eq!(open(&fs).unwrap().1.cut.unwrap().bytes, 16 + 300);
    // Also after a power loss that takes all that was not synced.
    let after = fs.crash_image(&mut kvdb_vfs::Keep::None);
    assert_eq!(open(&after).unwrap().1.cut, None);
    for survivor in [fs.process_image(), fs.crash_image(&mut kvdb_vfs::Keep::None)] {
        let mut damaged = bytes_of(&survivor);
        damaged[ends[2] - 1] ^= 1;
        let opened = open(&with_bytes(&damaged));
        assert!(matches!(opened, Err(Error::Corrupt { .. })), "passes for torn");
    }
}

/// The limit of what marks and witnesses tell: none of them is left.
#[test]
fn a_settled_tail_that_is_gone_or_zeros_to_the_end_passes_for_torn() {
    let fs = file_system();
    let manifest = create(&fs);
    let mut ends = vec![HEADER];
    for n in 0..6 {
        manifest.append(&add(n)).unwrap();
        ends.push(manifest.size() as usize);
    }
    manifest.settle().unwrap();
    let bytes = bytes_of(&fs);
    for (count, &end) in ends.iter().enumerate() {
        opens_with(&bytes[..end], count, end, None);
        let mut zeros = bytes.clone();
        zeros[end..].fill(0);
        let cut = Cut { offset: end as u64, bytes: (zeros.len() - end) as u64 };
        opens_with(&zeros, count, end, Some(cut));
    }
}

#[test]
fn records_of_an_earlier_manifest_are_not_taken_for_records() {
    // The same changes at the same offsets, in a file of the same database with another nonce.
    let (earlier, _) = sample(&[3, 30, 50]);
    let (bytes, ends) = sample(&[3, 30, 50]);
    for (keep, &end) in ends.iter().enumerate() {
        let mut bad = bytes[..end].to_vec();
        bad.extend_from_slice(&earlier[end..]);
        let cut = Cut { offset: end as u64, bytes: (bad.len() - end) as u64 };
        opens_with(&bad, keep, end, Some(cut));
    }
}

#[test]
fn a_tail_longer_than_any_record_is_no_torn_append() {
    let (bytes, ends) = sample(&[3]);
    let fs = with_bytes(&bytes[..ends[1]]);
    let path = std::path::Path::new(DIR).join(kvdb_manifest::FILE_NAME);
    let file = kvdb_vfs::Fs::open(&fs, &path, kvdb_vfs::OpenMode::ReadWrite).unwrap();
    file.set_len(ends[1] as u64 + kvdb_manifest::MAX_CHANGE_LEN + 17).unwrap();
    assert!(matches!(open(&fs), Err(Error::Corrupt { offset, .. }) if offset == ends[1] as u64));
}
