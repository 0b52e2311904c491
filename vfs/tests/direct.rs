//! Files opened for direct writes, and files held by maps, in every file system alike.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "all of this is a test")]

use std::path::Path;
use std::sync::Arc;

use kvdb_vfs::*;

const SITE: SyncSite = SyncSite::Other(1);

/// Each file system with a directory to work in. The temporary directory may lie where the system
/// has no direct writes (old `tmpfs`): then that one is left out, and says so.
fn all(test: impl Fn(&dyn Fs, &Path)) {
    test(&MemFs::new(), "/".as_ref());
    test(&FaultFs::new(Arc::new(MemFs::new())), "/".as_ref());
    let dir = tempfile::tempdir().unwrap();
    let os = OsFs::new();
    os.open(&dir.path().join("probe"), OpenMode::CreateNew).unwrap();
    match os.open(&dir.path().join("probe"), OpenMode::Direct) {
        Ok(_) => test(&os, dir.path()),
        Err(e) if e.kind() == ErrorKind::Unsupported => {
            println!("SKIPPED: no direct writes in {}", dir.path().display());
        }
        Err(e) => panic!("{e}"),
    }
}

fn blocks(n: usize, byte: u8) -> AlignedBuffer {
    let mut buffer = AlignedBuffer::new();
    buffer.extend_from_slice(&vec![byte; n * BLOCK]);
    buffer
}

#[test]
fn direct_writes_are_read_back_through_another_handle() {
    all(|fs, dir| {
        let path = dir.join("a");
        let file = fs.open(&path, OpenMode::CreateNew).unwrap();
        file.allocate(8 * BLOCK as u64).unwrap();
        let direct = fs.open(&path, OpenMode::Direct).unwrap();
        direct.write_all_at(&blocks(2, 1), 0).unwrap();
        direct.write_all_at_with(&blocks(1, 2), BLOCK as u64, WriteMode::Durable(SITE)).unwrap();
        direct.sync_data(SITE).unwrap();
        let mut bytes = vec![0; 3 * BLOCK];
        file.read_exact_at(&mut bytes, 0).unwrap();
        assert_eq!(bytes, [[1; BLOCK], [2; BLOCK], [0; BLOCK]].concat());
        // Once more over the same place, after it was read.
        direct.write_all_at_with(&blocks(1, 3), 0, WriteMode::Durable(SITE)).unwrap();
        file.read_exact_at(&mut bytes[..BLOCK], 0).unwrap();
        assert_eq!(bytes[..BLOCK], [3; BLOCK]);
        assert_eq!(file.len().unwrap(), 8 * BLOCK as u64);
    });
}

#[test]
fn a_direct_write_that_is_not_aligned_is_refused() {
    all(|fs, dir| {
        let path = dir.join("a");
        fs.open(&path, OpenMode::CreateNew).unwrap().allocate(8 * BLOCK as u64).unwrap();
        let direct = fs.open(&path, OpenMode::Direct).unwrap();
        let buffer = blocks(2, 1);
        for (bytes, offset) in
            [(&buffer[..BLOCK], 512), (&buffer[..100], 0), (&buffer[8..BLOCK + 8], 0)]
        {
            for mode in [WriteMode::Buffered, WriteMode::Durable(SITE)] {
                let e = direct.write_all_at_with(bytes, offset, mode).unwrap_err();
                assert_eq!(
                    (e.kind(), e.op(), e.offset()),
                    (ErrorKind::Io, Op::Write, Some(offset))
                );
            }
        }
    });
}

#[test]
fn a_handle_for_direct_writes_neither_creates_nor_reads() {
    all(|fs, dir| {
        let path = dir.join("a");
        assert_eq!(fs.open(&path, OpenMode::Direct).unwrap_err().kind(), ErrorKind::NotFound);
        fs.open(&path, OpenMode::CreateNew).unwrap().allocate(8 * BLOCK as u64).unwrap();
        let direct = fs.open(&path, OpenMode::Direct).unwrap();
        assert_eq!(direct.read_at(&mut [0; 8], 0).unwrap_err().kind(), ErrorKind::PermissionDenied);
        assert_eq!(direct.map(0..8).unwrap_err().kind(), ErrorKind::PermissionDenied);
    });
}

#[test]
fn a_durable_direct_write_survives_and_vouches_for_nothing_else() {
    let fs = MemFs::new();
    let path = Path::new("/a");
    let file = fs.open(path, OpenMode::CreateNew).unwrap();
    file.allocate(8 * BLOCK as u64).unwrap();
    file.sync_data(SITE).unwrap();
    fs.sync_dir("/".as_ref(), SITE).unwrap();
    let direct = fs.open(path, OpenMode::Direct).unwrap();
    direct.write_all_at(&blocks(1, 1), 0).unwrap();
    direct.write_all_at_with(&blocks(1, 2), BLOCK as u64, WriteMode::Durable(SITE)).unwrap();
    let after = |fs: &MemFs| {
        let image = fs.crash_image(&mut Keep::None);
        let mut bytes = vec![9; 2 * BLOCK];
        image.open(path, OpenMode::Read).unwrap().read_exact_at(&mut bytes, 0).unwrap();
        (bytes[0], bytes[BLOCK])
    };
    assert_eq!(after(&fs), (0, 2));
    direct.sync_data(SITE).unwrap();
    assert_eq!(after(&fs), (1, 2));
}

#[test]
fn a_direct_write_cut_short_ends_with_a_block() {
    let fs = FaultFs::new(Arc::new(MemFs::new()));
    let file = fs.open("/a".as_ref(), OpenMode::CreateNew).unwrap();
    file.allocate(8 * BLOCK as u64).unwrap();
    let direct = fs.open("/a".as_ref(), OpenMode::Direct).unwrap();
    fs.arm(FaultPlan::new(Fault::ShortWrite));
    let e = direct.write_all_at(&blocks(3, 1), 0).unwrap_err();
    assert_eq!(e.kind(), ErrorKind::NoSpace);
    let mut bytes = vec![0; 3 * BLOCK];
    file.read_exact_at(&mut bytes, 0).unwrap();
    assert_eq!((bytes[BLOCK - 1], bytes[BLOCK]), (1, 0));
}

#[test]
fn a_file_is_held_while_a_map_of_another_handle_lives() {
    all(|fs, dir| {
        let path = dir.join("a");
        let file = fs.open(&path, OpenMode::CreateNew).unwrap();
        file.write_all_at(&[7; 2 * BLOCK], 0).unwrap();
        let other = fs.open(&path, OpenMode::ReadWrite).unwrap();
        assert!(!other.is_held().unwrap() && !file.is_held().unwrap());
        let map = file.map(0..2 * BLOCK as u64).unwrap().unwrap();
        assert!(other.is_held().unwrap());
        assert!(!file.is_held().unwrap(), "its own maps are its own affair");
        assert!(other.is_held().unwrap(), "asking changes nothing");
        // A part of the map, after the handle has gone, under another name.
        let part = map.subregion(10..20).unwrap();
        drop((map, file));
        let moved = dir.join("b");
        fs.rename(&path, &moved).unwrap();
        let later = fs.open(&moved, OpenMode::ReadWrite).unwrap();
        assert!(later.is_held().unwrap());
        assert_eq!(&part[..], &[7; 10]);
        drop(part);
        assert!(!later.is_held().unwrap());
    });
}
