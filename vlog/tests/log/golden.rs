//! Logs as earlier versions of this crate wrote them are read for ever, and today's are written
//! the same.
//!
//! `tests/golden/v1` holds the files of a log, without the zeros at their ends. With
//! `KVDB_WRITE_GOLDEN` set the test writes them anew: only for a new format, into a new folder.
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use kvdb_vfs::{Fs, MemFs, OpenMode};
use kvdb_vlog::*;

use crate::common::*;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/v1")
}

fn entries() -> Vec<Entry> {
    (1..16).map(|n| Entry { version: 10 * n, seed: n, size: (n * n * 17) as usize }).collect()
}

/// Two segments, left and closed, opened again, a marker, closed again, and a torn end.
fn write() -> BTreeMap<PathBuf, Vec<u8>> {
    let disk: Arc<dyn Fs> = Arc::new(MemFs::new());
    let manifest = Manifest::new(State::default());
    let (early, late) = (&entries()[..12], &entries()[12..]);
    for part in [early, late] {
        let (log, ..) = open(&disk, &manifest, &options()).unwrap();
        for entry in part {
            append(&log, *entry, Durability::Sync).unwrap();
            log.prepare().unwrap();
        }
        log.idle_sync().unwrap();
        log.close().unwrap();
    }
    let files = disk.list(DIR.as_ref()).unwrap();
    files
        .iter()
        .map(|entry| {
            let file = disk.open(&Path::new(DIR).join(&entry.name), OpenMode::Read).unwrap();
            let mut bytes = vec![0; file.len().unwrap() as usize];
            file.read_exact_at(&mut bytes, 0).unwrap();
            let used = bytes.iter().rposition(|b| *b != 0).map_or(0, |last| last + 1);
            bytes.truncate(used);
            (entry.name.clone(), bytes)
        })
        .collect()
}

fn stored() -> BTreeMap<PathBuf, Vec<u8>> {
    let files = std::fs::read_dir(folder()).unwrap().map(|file| file.unwrap());
    files.map(|file| (file.file_name().into(), std::fs::read(file.path()).unwrap())).collect()
}

/// The files on a disk, with their zeros.
fn restore(files: &BTreeMap<PathBuf, Vec<u8>>) -> Arc<dyn Fs> {
    let disk: Arc<dyn Fs> = Arc::new(MemFs::new());
    disk.create_dir_all(DIR.as_ref()).unwrap();
    for (name, bytes) in files {
        let file = disk.open(&Path::new(DIR).join(name), OpenMode::CreateNew).unwrap();
        // What the header says.
        let capacity = u32::from_le_bytes(bytes[52..56].try_into().unwrap());
        file.set_len(capacity.into()).unwrap();
        file.write_all_at(bytes, 0).unwrap();
    }
    disk
}

#[test]
fn logs_of_format_1_are_read_and_written_the_same() {
    if std::env::var_os("KVDB_WRITE_GOLDEN").is_some() {
        std::fs::create_dir_all(folder()).unwrap();
        for (name, bytes) in write() {
            std::fs::write(folder().join(name), bytes).unwrap();
        }
    }
    let files = stored();
    assert!(files.len() >= 3, "left, active and spare");
    for (name, bytes) in write() {
        assert!(files[&name] == bytes, "{} is not written as it was", name.display());
    }
    let disk = restore(&files);
    let dir = Directory::new(disk, DIR.as_ref(), DATABASE).unwrap();
    let mut seen = Seen::default();
    let (log, end) = dir
        .open(options(), |frame| {
            seen.add(frame);
            Ok::<_, ()>(())
        })
        .unwrap();
    assert_eq!(check_prefix(&seen, &entries(), 15), Ok(15));
    assert!(end.clean && end.largest_version == 150);
    for (pointer, (key, _, value, version)) in &seen.pointers {
        assert_eq!(&*log.view().read(*pointer, key, *version).unwrap(), &value[..]);
    }
    // The places are part of the format: pointers to them are stored elsewhere.
    // (The first two frames are empty.)
    let first = &seen.pointers[0].0;
    assert_eq!((first.segment(), first.offset()), (1, FIRST_FRAME + 48 + 3 * 32));
}

#[test]
fn a_segment_of_an_older_or_newer_format_is_an_error_that_says_so() {
    for version in [0, FORMAT_VERSION + 1, u32::MAX] {
        let mut files = stored();
        for bytes in files.values_mut() {
            bytes[8..12].copy_from_slice(&version.to_le_bytes());
        }
        let dir = Directory::new(restore(&files), DIR.as_ref(), DATABASE).unwrap();
        match dir.open(options(), |_| Ok::<_, ()>(())) {
            Err(ReplayError::Log(Error::UnsupportedVersion { path, found, supported })) => {
                assert_eq!((found, supported), (version, FORMAT_VERSION));
                assert!(path.starts_with(DIR));
            }
            other => panic!("{version}: {:?}", other.map(|(_, end)| end)),
        }
    }
}
