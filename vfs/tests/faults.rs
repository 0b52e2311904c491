//! Injected faults: each kind, each filter, counting, once and for ever.

#![allow(clippy::unwrap_used)] // helpers of tests, outside of #[test] functions

use std::path::Path;
use std::sync::Arc;

use kvdb_vfs::{
    ErrorKind, Fault, FaultFs, FaultPlan, File, Fs, Keep, MemFs, Op, OpenMode, ReadRequest,
    SyncSite, WriteMode,
};

const SITE: SyncSite = SyncSite::LogGroup;
const OTHER: SyncSite = SyncSite::Table;

/// A file `a` whose name is durable, and both layers of its file system.
fn fixture() -> (MemFs, FaultFs, Arc<dyn File>) {
    let memory = MemFs::new();
    let fs = FaultFs::new(Arc::new(memory.clone()));
    let file = fs.open(Path::new("a"), OpenMode::CreateNew).unwrap();
    fs.sync_dir(Path::new("/"), SITE).unwrap();
    (memory, fs, file)
}

fn contents(fs: &dyn Fs, path: &str) -> Vec<u8> {
    let file = fs.open(Path::new(path), OpenMode::Read).unwrap();
    let mut bytes = vec![0; file.len().unwrap() as usize];
    file.read_exact_at(&mut bytes, 0).unwrap();
    bytes
}

#[test]
fn every_operation_can_fail_with_every_error_and_has_no_effect() {
    let cases = [
        (Fault::Io, ErrorKind::Io),
        (Fault::NoSpace, ErrorKind::NoSpace),
        (Fault::TooManyFiles, ErrorKind::TooManyFiles),
    ];
    for (fault, kind) in cases {
        let (memory, fs, file) = fixture();
        file.write_all_at(b"abc", 0).unwrap();
        fs.create_dir_all(Path::new("d")).unwrap();
        let armed = fs.arm(FaultPlan::new(fault).forever());
        let (a, b, d) = (Path::new("a"), Path::new("b"), Path::new("d"));
        let before = memory.operations();
        let results = [
            (Op::Open, fs.open(b, OpenMode::CreateNew).map(drop)),
            (Op::Rename, fs.rename(a, b)),
            (Op::Remove, fs.remove(a)),
            (Op::HardLink, fs.hard_link(a, b)),
            (Op::List, fs.list(d).map(drop)),
            (Op::Metadata, fs.metadata(a).map(drop)),
            (Op::CreateDir, fs.create_dir_all(b)),
            (Op::RemoveDir, fs.remove_dir(d)),
            (Op::SyncDir, fs.sync_dir(d, SITE)),
            (Op::Lock, fs.lock(d, kvdb_vfs::LockMode::Shared).map(drop)),
            (Op::Read, file.read_at(&mut [0; 2], 1).map(drop)),
            (Op::Read, file.read_batch(&mut [ReadRequest { offset: 0, buf: &mut [0], read: 0 }])),
            (Op::Write, file.write_all_at(b"x", 0)),
            (Op::Write, file.write_all_at_with(b"x", 0, WriteMode::Durable(SITE))),
            (Op::SyncData, file.sync_data(SITE)),
            (Op::Allocate, file.allocate(100)),
            (Op::SetLen, file.set_len(0)),
            (Op::Len, file.len().map(drop)),
            (Op::Metadata, file.links().map(drop)),
            (Op::Map, file.map(0..1).map(drop)),
        ];
        assert_eq!((armed.seen(), armed.fired()), (results.len() as u64, results.len() as u64));
        for (op, result) in results {
            let e = result.unwrap_err();
            assert_eq!((e.kind(), e.op()), (kind, op));
        }
        assert_eq!(memory.operations(), before, "{fault:?}: nothing reached the file system");
        fs.disarm();
        assert_eq!(contents(&fs, "a"), b"abc");
    }
}

#[test]
fn once_means_once_and_the_nth_is_the_nth() {
    let (_, fs, file) = fixture();
    let armed = fs.arm(FaultPlan::new(Fault::Io).on(&[Op::Write]).after(2));
    let results: Vec<bool> = (0..5).map(|_| file.write_all_at(b"x", 0).is_ok()).collect();
    assert_eq!(results, [true, true, false, true, true]);
    assert_eq!((armed.seen(), armed.fired()), (5, 1));
    fs.arm(FaultPlan::new(Fault::Io).on(&[Op::Write]).after(1).forever());
    let results: Vec<bool> = (0..4).map(|_| file.write_all_at(b"x", 0).is_ok()).collect();
    assert_eq!(results, [true, false, false, false]);
}

#[test]
fn filters_by_operation_path_and_site_all_have_to_pass() {
    let (_, fs, a) = fixture();
    let b = fs.open(Path::new("dir-less-b"), OpenMode::CreateNew).unwrap();
    let plan = FaultPlan::new(Fault::Io).on(&[Op::SyncData]).path("less").site(SITE).forever();
    let armed = fs.arm(plan);
    a.sync_data(SITE).unwrap();
    b.sync_data(OTHER).unwrap();
    b.write_all_at_with(b"x", 0, WriteMode::Durable(SITE)).unwrap();
    b.sync_data(SITE).unwrap_err();
    assert_eq!((armed.seen(), armed.fired()), (1, 1));
    armed.disarm();
    b.sync_data(SITE).unwrap();
    fs.arm(FaultPlan::new(Fault::Io).path("target"));
    let e = fs.rename(Path::new("a"), Path::new("target")).unwrap_err();
    assert_eq!(e.path(), Path::new("a"), "matched by its second path, named by its first");
}

#[test]
fn counting_counts_what_matches_and_nothing_fails() {
    let (_, fs, file) = fixture();
    let all = fs.arm(FaultPlan::count());
    let writes = fs.arm(FaultPlan::count().on(FaultPlan::MUTATING));
    file.write_all_at(b"abc", 0).unwrap();
    file.len().unwrap();
    file.sync_data(SITE).unwrap();
    assert_eq!((all.seen(), writes.seen(), all.fired()), (3, 2, 0));
}

#[test]
fn a_later_plan_counts_but_waits_for_its_turn() {
    let (_, fs, file) = fixture();
    let first = fs.arm(FaultPlan::new(Fault::NoSpace));
    let second = fs.arm(FaultPlan::new(Fault::Io));
    assert_eq!(file.len().unwrap_err().kind(), ErrorKind::NoSpace);
    assert_eq!(file.len().unwrap_err().kind(), ErrorKind::Io);
    file.len().unwrap();
    assert_eq!((first.fired(), second.fired(), second.seen()), (1, 1, 3));
}

#[test]
fn a_short_write_leaves_the_first_half() {
    let (_, fs, file) = fixture();
    fs.arm(FaultPlan::new(Fault::ShortWrite));
    fs.rename(Path::new("a"), Path::new("a")).unwrap();
    let e = file.write_all_at(b"abcdef", 1).unwrap_err();
    assert_eq!((e.kind(), e.offset()), (ErrorKind::NoSpace, Some(1)));
    assert_eq!(contents(&fs, "a"), b"\0abc");
    file.write_all_at(b"abcdef", 1).unwrap();
}

#[test]
fn an_operation_may_take_effect_and_still_be_reported_as_failed() {
    let (memory, fs, file) = fixture();
    fs.arm(FaultPlan::new(Fault::IoAfter).forever());
    file.write_all_at(b"abc", 0).unwrap_err();
    file.sync_data(SITE).unwrap_err();
    fs.rename(Path::new("a"), Path::new("b")).unwrap_err();
    fs.sync_dir(Path::new("/"), SITE).unwrap_err();
    assert_eq!(contents(&memory.crash_image(&mut Keep::None), "b"), b"abc");
}

#[test]
fn a_skipped_sync_says_ok_and_makes_nothing_durable() {
    let (memory, fs, file) = fixture();
    fs.arm(FaultPlan::skip_sync(SITE));
    file.write_all_at(b"abc", 0).unwrap();
    file.sync_data(SITE).unwrap();
    file.write_all_at_with(b"def", 3, WriteMode::Durable(SITE)).unwrap();
    fs.rename(Path::new("a"), Path::new("b")).unwrap();
    fs.sync_dir(Path::new("/"), SITE).unwrap();
    assert_eq!(contents(&memory.crash_image(&mut Keep::None), "a"), b"");
    file.sync_data(OTHER).unwrap();
    fs.sync_dir(Path::new("/"), OTHER).unwrap();
    assert_eq!(contents(&memory.crash_image(&mut Keep::None), "b"), b"abcdef");
}

#[test]
fn a_failed_sync_that_drops_the_disk_is_not_healed_by_a_later_sync() {
    let (memory, fs, file) = fixture();
    file.write_all_at(&[1; 8192], 0).unwrap();
    file.sync_data(SITE).unwrap();
    file.write_all_at(&[2; 4096], 0).unwrap();
    fs.arm(FaultPlan::new(Fault::LoseUnsynced));
    assert_eq!(file.sync_data(SITE).unwrap_err().kind(), ErrorKind::Io);
    file.sync_data(SITE).unwrap();
    let expected_on_disk = [1; 8192];
    assert_eq!(contents(&fs, "a")[..4096], [2; 4096], "the cache has it");
    assert_eq!(contents(&memory.crash_image(&mut Keep::None), "a"), expected_on_disk);
    assert_eq!(contents(&memory.crash_image(&mut Keep::All), "a"), expected_on_disk);
    let killed = memory.process_image();
    assert_eq!(contents(&killed, "a")[..4096], [2; 4096], "a new process still sees the cache");
    assert_eq!(contents(&killed.crash_image(&mut Keep::All), "a"), expected_on_disk);
    file.write_all_at(b"3", 0).unwrap();
    file.sync_data(SITE).unwrap();
    let rewritten = contents(&memory.crash_image(&mut Keep::None), "a");
    assert_eq!(rewritten[..3], [b'3', 2, 2], "a page written once more is written back whole");
}

#[test]
fn a_durable_write_can_lose_its_bytes_and_without_support_it_merely_fails() {
    let (memory, fs, file) = fixture();
    fs.arm(FaultPlan::new(Fault::LoseUnsynced));
    file.write_all_at_with(b"abc", 0, WriteMode::Durable(SITE)).unwrap_err();
    file.sync_data(SITE).unwrap();
    assert_eq!(contents(&fs, "a"), b"abc");
    assert_eq!(contents(&memory.crash_image(&mut Keep::All), "a"), b"\0\0\0");

    let dir = tempfile::tempdir().unwrap();
    let fs = FaultFs::new(Arc::new(kvdb_vfs::OsFs::new()));
    let file = fs.open(&dir.path().join("f"), OpenMode::CreateNew).unwrap();
    assert!(!file.lose_unsynced());
    fs.arm(FaultPlan::new(Fault::LoseUnsynced));
    assert_eq!(file.sync_data(SITE).unwrap_err().kind(), ErrorKind::Io);
}
