//! The protocols of the log in the interleavings that loom can make of them, over files in memory:
//!
//! ```text
//! RUSTFLAGS="--cfg loom" LOOM_MAX_PREEMPTIONS=2 \
//!     cargo test --release -p kvdb-vlog --test loom_models --target-dir target/loom
//! ```
//!
//! What runs is the log itself. Files are not modelled: an operation on one is a single step.

#![cfg(loom)]
#![allow(clippy::unwrap_used, reason = "all of this is a test")]

use std::path::Path;
use std::sync::Arc;

use kvdb_vfs::{Fs, Keep, MemFs, SyncSite};
use kvdb_vlog::*;
use loom::thread;

const DIR: &str = "/log";

fn check(model: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.max_branches = 100_000;
    builder.preemption_bound = builder.preemption_bound.or(Some(2));
    builder.check(model);
}

fn options() -> Options {
    Options {
        segment_size: 16 << 10,
        initial_segment_size: 12 << 10,
        tiny_segments: true,
        prefill: false,
        ..Options::default()
    }
}

fn open(fs: &MemFs) -> (Arc<Log>, ReplayEnd) {
    fs.create_dir_all(DIR.as_ref()).unwrap();
    fs.sync_dir("/".as_ref(), SyncSite::Other(0)).unwrap();
    let dir = Directory::new(Arc::new(fs.clone()), DIR.as_ref(), 1).unwrap();
    let (log, end) = dir.open(options(), |_| Ok::<_, ()>(())).unwrap();
    (Arc::new(log), end)
}

fn frame(byte: u8, len: usize) -> Frame {
    let mut builder = FrameBuilder::new();
    builder.push(b"key", b"", &vec![byte; len], None).unwrap();
    builder.finish()
}

/// Whoever appended can read, through the view of that moment.
fn append(log: &Log, byte: u8, len: usize, how: Durability) -> Result<Appended> {
    let done = log.append(frame(byte, len), how)?;
    let value = log.view().read(done.pointers[0], b"key", done.version).unwrap();
    assert_eq!(&*value, &vec![byte; len][..]);
    if how == Durability::Sync {
        assert!(log.durable_to() > done.position, "acknowledged and not durable");
    }
    Ok(done)
}

/// How many frames a power loss at this moment leaves.
fn after_power_loss(fs: &MemFs) -> u64 {
    open(&fs.crash_image(&mut Keep::None)).1.frames
}

#[test]
fn a_group_is_led_by_one_and_every_member_is_woken() {
    check(|| {
        let fs = MemFs::new();
        let (log, _) = open(&fs);
        let other = log.clone();
        let thread = thread::spawn(move || append(&other, 1, 100, Durability::Sync).unwrap());
        let mine = append(&log, 2, 100, Durability::Buffered).unwrap();
        let theirs = thread.join().unwrap();
        assert_ne!(mine.version, theirs.version);
        assert_eq!(mine.version < theirs.version, mine.position < theirs.position);
        // The synced one, and whatever came before it.
        assert!(after_power_loss(&fs) >= theirs.version);
    });
}

#[test]
fn a_rotation_under_two_writers_and_housekeeping_loses_no_frame() {
    check(|| {
        let fs = MemFs::new();
        let (log, _) = open(&fs);
        // Two of these do not fit into the first segment.
        let (other, third) = (log.clone(), log.clone());
        let thread = thread::spawn(move || append(&other, 1, 5000, Durability::Sync).unwrap());
        let keeper = thread::spawn(move || third.prepare().unwrap());
        append(&log, 2, 5000, Durability::Buffered).unwrap();
        thread.join().unwrap();
        keeper.join().unwrap();
        log.sync().unwrap();
        assert_eq!(log.reserved(), 0);
        assert_eq!(after_power_loss(&fs), 2);
    });
}

#[test]
fn a_mark_never_claims_more_than_is_durable() {
    check(|| {
        let fs = MemFs::new();
        let (log, _) = open(&fs);
        append(&log, 1, 100, Durability::Buffered).unwrap();
        let other = log.clone();
        let thread = thread::spawn(move || other.idle_sync().unwrap());
        append(&log, 2, 100, Durability::Buffered).unwrap();
        thread.join().unwrap();
        // A mark beyond what is durable would make this opening report damage.
        let frames = after_power_loss(&fs);
        assert!((1..=2).contains(&frames));
        assert!(log.durable_to() <= log.end());
    });
}

#[test]
fn a_close_waits_for_commits_in_flight_and_refuses_the_rest() {
    check(|| {
        let fs = MemFs::new();
        let (log, _) = open(&fs);
        let other = log.clone();
        let thread = thread::spawn(move || match append(&other, 1, 100, Durability::Buffered) {
            Ok(_) => 1,
            Err(Error::Closed) => 0,
            Err(e) => panic!("{e}"),
        });
        log.close().unwrap();
        let closed_with = fs.crash_image(&mut Keep::None);
        let appended = thread.join().unwrap();
        let (_, end) = open(&closed_with);
        assert!(end.clean);
        assert_eq!(end.frames, appended, "what was acknowledged lies before the footer");
    });
}

#[test]
fn the_last_reader_keeps_a_file_from_being_used_again() {
    check(|| {
        let fs = MemFs::new();
        let (log, _) = open(&fs);
        let old = append(&log, 1, 9000, Durability::Sync).unwrap();
        while log.end().segment == old.position.segment {
            append(&log, 2, 9000, Durability::Sync).unwrap();
        }
        log.sync().unwrap();
        while log.prepare().unwrap() {}
        let view = log.view();
        let reader = thread::spawn(move || {
            let value = view.read(old.pointers[0], b"key", old.version).unwrap();
            drop(view);
            thread::yield_now();
            assert_eq!(&*value, &[1; 9000][..]);
        });
        log.recycle(&[old.position.segment]).unwrap();
        for byte in 3..5 {
            append(&log, byte, 12_000, Durability::Sync).unwrap();
            while log.prepare().unwrap() {}
        }
        reader.join().unwrap();
        assert!(fs.list(Path::new(DIR)).is_ok());
    });
}
