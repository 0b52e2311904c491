//! Bad options, bad pointers, foreign files: errors, never a panic and never foreign bytes.
use std::sync::Arc;

use kvdb_vfs::{Fs, MemFs, OpenMode};
use kvdb_vlog::*;
use proptest::prelude::*;

use crate::common::*;

#[test]
fn options_out_of_range_are_errors_that_name_them() {
    let full = Options::default();
    assert!(full.validate().is_ok());
    for (option, options) in [
        ("segment_size", Options { segment_size: (1 << 20) - 4096, ..full.clone() }),
        ("segment_size", Options { segment_size: (1 << 31) + 4096, ..full.clone() }),
        ("segment_size", Options { segment_size: (1 << 20) + 8, ..full.clone() }),
        ("initial_segment_size", Options { initial_segment_size: 4096, ..full.clone() }),
        ("initial_segment_size", Options { initial_segment_size: 1 << 30, ..full.clone() }),
        ("max_segment_records", Options { max_segment_records: 0, ..full.clone() }),
        ("max_group_bytes", Options { max_group_bytes: 0, ..full.clone() }),
        ("sync_interval_bytes", Options { sync_interval_bytes: 0, ..full.clone() }),
    ] {
        match options.validate() {
            Err(Error::BadOption { option: o, .. }) => assert_eq!(o, option),
            other => panic!("{option}: {other:?}"),
        }
    }
    for size in [1 << 20, 1 << 31] {
        assert!(
            Options { segment_size: size, initial_segment_size: 1 << 20, ..full.clone() }
                .validate()
                .is_ok()
        );
    }
}

#[test]
fn a_record_that_is_too_large_leaves_the_frame_usable() {
    let mut builder = FrameBuilder::new();
    builder.push(b"a", b"", b"1", None).unwrap();
    let len = builder.len();
    let long = vec![0; MAX_KEY_LEN + 1];
    let e = builder.push(&long, b"", b"", None).unwrap_err();
    assert!(matches!(e, Error::RecordTooLarge { what: "key", size: 65_536, limit: 65_535 }), "{e}");
    let e = builder.push(b"", &long[..256], b"", None).unwrap_err();
    assert!(matches!(e, Error::RecordTooLarge { what: "tag", size: 256, limit: 255 }), "{e}");
    assert_eq!((builder.len(), builder.records()), (len, 1));
    builder.push(&long[1..], &long[..255], b"", Some(3)).unwrap();
    assert_eq!(builder.records(), 2);
}

fn one_record() -> (Arc<dyn Fs>, Arc<Manifest>, Log, Pointer, Rec) {
    let fs: Arc<dyn Fs> = Arc::new(MemFs::new());
    let manifest = Manifest::new(State::default());
    let (log, ..) = open(&fs, &manifest, &options()).unwrap();
    for version in 1..5 {
        append(&log, Entry { version, seed: version, size: 300 }, Durability::Sync).unwrap();
    }
    let mut seen = Seen::default();
    recovery(&fs, &manifest.state(), &options())
        .unwrap()
        .replay(|f| {
            seen.add(f);
            Ok::<_, ()>(())
        })
        .unwrap();
    let (pointer, record) = seen.pointers[3].clone();
    (fs, manifest, log, pointer, record)
}

#[test]
fn a_pointer_that_names_no_record_reads_nothing() {
    let (_, _, log, pointer, (key, _, value, version)) = one_record();
    let view = log.view();
    assert_eq!(&*view.read(pointer, &key, version).unwrap(), &value[..]);
    let read = |p, k: &[u8], v| view.read(p, k, v).map(|v| v.to_vec()).unwrap_err();
    let (s, o, l) = (pointer.segment(), pointer.offset(), pointer.len());
    assert!(matches!(read(Pointer::new(99, o, l), &key, version), Error::UnknownSegment { .. }));
    for p in [
        Pointer::new(s, u32::MAX, l),
        Pointer::new(s, o, u32::MAX),
        Pointer::new(s, log.end().offset, l),
    ] {
        assert!(matches!(read(p, &key, version), Error::BadPointer { .. }), "{p}");
    }
    for p in [Pointer::new(s, o, l - 1), Pointer::new(s, o, l + 1), Pointer::new(s, o, 12)] {
        let e = read(p, &key, version);
        assert!(matches!(e, Error::BadPointer { .. } | Error::Damaged { .. }), "{p}: {e}");
    }
    for p in [Pointer::new(s, o + 1, l), Pointer::new(s, o - 8, l), Pointer::new(s, 0, l)] {
        let e = read(p, &key, version);
        assert!(matches!(e, Error::BadPointer { .. } | Error::Damaged { .. }), "{p}: {e}");
    }
    assert!(matches!(read(pointer, b"another", version), Error::KeyMismatch { .. }));
    assert!(matches!(read(pointer, &key, version + 1), Error::Damaged { .. }));
    assert!(view.read_ref(pointer, b"another", version).is_err());
}

#[test]
fn a_flipped_bit_in_a_record_is_found_when_it_is_read() {
    let (fs, manifest, log, pointer, (key, _, _, version)) = one_record();
    let path = segment_path(DIR.as_ref(), manifest.state().segments[0].meta.file);
    let file = fs.open(&path, OpenMode::ReadWrite).unwrap();
    for at in 0..pointer.len() {
        let place = u64::from(pointer.offset() + at);
        let mut byte = [0];
        file.read_exact_at(&mut byte, place).unwrap();
        file.write_all_at(&[byte[0] ^ 4], place).unwrap();
        let e = log.view().read(pointer, &key, version).unwrap_err();
        match e {
            Error::Damaged { path: p, offset, .. } => {
                assert_eq!((p, offset), (path.clone(), pointer.offset().into()));
            }
            other => panic!("byte {at}: {other}"),
        }
        file.write_all_at(&byte, place).unwrap();
    }
    log.view().read(pointer, &key, version).unwrap();
}

/// Without the checksum there is still no other key's value, and none beyond what is there.
#[test]
fn with_verification_off_a_flipped_bit_of_a_value_is_not_looked_for() {
    let (fs, manifest, log, pointer, (key, _, value, version)) = one_record();
    log.close().unwrap();
    drop(log);
    let path = segment_path(DIR.as_ref(), manifest.state().segments[0].meta.file);
    let file = fs.open(&path, OpenMode::ReadWrite).unwrap();
    let (log, ..) = open(&fs, &manifest, &Options { verify_reads: false, ..options() }).unwrap();
    let flip = |at: u32| {
        let (place, mut byte) = (u64::from(pointer.offset() + at), [0]);
        file.read_exact_at(&mut byte, place).unwrap();
        file.write_all_at(&[byte[0] ^ 4], place).unwrap();
    };
    flip(pointer.len() - 1);
    let read = log.view().read(pointer, &key, version).unwrap();
    assert!(read.len() == value.len() && *read != *value);
    flip(pointer.len() - 1);
    assert_eq!(*log.view().read(pointer, &key, version).unwrap(), *value);
    let other = [&key[..], b"!"].concat();
    assert!(matches!(log.view().read(pointer, &other, version), Err(Error::KeyMismatch { .. })));
}

#[test]
fn files_of_others_are_told_apart() {
    let (fs, manifest, log, ..) = one_record();
    drop(log);
    let state = manifest.state();
    let path = segment_path(DIR.as_ref(), state.segments[0].meta.file);
    let open = |database, state: &State| {
        let segments = state.segments.clone();
        let o = options();
        Recovery::open(fs.clone(), DIR.as_ref(), database, segments, state.head, o, true)
            .unwrap_err()
    };
    assert!(matches!(open(1, &state), Error::WrongDatabase { expected: 1, .. }));
    let mut other = state.clone();
    other.segments[0].meta.nonce += 1;
    assert!(matches!(open(DATABASE, &other), Error::WrongFile { what: "nonce", .. }));
    let mut other = state.clone();
    other.head = Position::new(77, 0);
    assert!(matches!(open(DATABASE, &other), Error::UnknownSegment { segment: 77 }));
    other.head = Position::new(state.head.segment, 4100);
    assert!(matches!(open(DATABASE, &other), Error::BadPosition { .. }));
    let file = fs.open(&path, OpenMode::ReadWrite).unwrap();
    file.write_all_at(&[9], 8).unwrap();
    let e = open(DATABASE, &state);
    assert!(matches!(e, Error::UnsupportedVersion { found: 9, supported: 1, .. }), "{e}");
    file.write_all_at(b"X", 0).unwrap();
    assert!(matches!(open(DATABASE, &state), Error::NotASegment { .. }));
}

#[test]
fn a_read_only_opening_replays_and_refuses_the_rest() {
    let (fs, manifest, log, ..) = one_record();
    drop(log);
    let state = manifest.state();
    let before = fs.list(DIR.as_ref()).unwrap();
    let (segments, o) = (state.segments.clone(), options());
    let mut recovery =
        Recovery::open(fs.clone(), DIR.as_ref(), DATABASE, segments, state.head, o, true).unwrap();
    let end = recovery.replay(|_| Ok::<_, ()>(())).unwrap();
    assert_eq!((end.frames, end.clean), (4, false));
    assert!(matches!(recovery.rewrite_tail(), Err(Error::ReadOnly)));
    let name = SegmentName { segment: 9, file: 9, nonce: 9 };
    assert!(matches!(recovery.create_segment(name), Err(Error::ReadOnly)));
    assert!(matches!(recovery.into_log::<()>(manifest, Start::Clean), Err(Error::ReadOnly)));
    assert_eq!(fs.list(DIR.as_ref()).unwrap(), before);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64 * scale() as u32))]

    /// Whatever the bytes behind the header are: an answer, no panic, no foreign frame.
    #[test]
    fn arbitrary_bytes_replay_to_nothing_foreign(
        patches in prop::collection::vec(
            (4096u32..12_280, prop::collection::vec(any::<u8>(), 1..200)), 1..20),
    ) {
        let (fs, manifest, log, ..) = one_record();
        drop(log);
        let state = manifest.state();
        let path = segment_path(DIR.as_ref(), state.segments[0].meta.file);
        let file = fs.open(&path, OpenMode::ReadWrite).unwrap();
        for (at, bytes) in &patches {
            let end = bytes.len().min((12_288 - at) as usize);
            file.write_all_at(&bytes[..end], (*at).into()).unwrap();
        }
        let entries: Vec<_> =
            (1..5).map(|version| Entry { version, seed: version, size: 300 }).collect();
        if let Ok((_, seen, _)) = open(&fs, &manifest, &options()) {
            prop_assert!(check_prefix(&seen, &entries, 0).is_ok());
        }
    }
}

#[test]
fn a_pointer_of_another_length_than_an_intact_record_is_not_told_as_damage() {
    let fs: Arc<dyn Fs> = Arc::new(MemFs::new());
    let (log, ..) = open(&fs, &Manifest::new(State::default()), &options()).unwrap();
    let mut frame = FrameBuilder::new();
    frame.push(b"a", b"", b"value", None).unwrap();
    frame.push(b"b", b"", b"value", None).unwrap();
    let done = log.append(frame.finish(), Durability::Sync).unwrap();
    let right = done.pointers[0];
    let long = Pointer::new(right.segment(), right.offset(), right.len() + 8);
    assert_eq!(&*log.view().read(right, b"a", done.version).unwrap(), b"value");
    let read = log.view().read(long, b"a", done.version);
    assert!(matches!(read, Err(Error::BadPointer { .. })), "{read:?}");
}
