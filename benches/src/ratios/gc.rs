//! Garbage collection of the value log: what it costs, what it leaves, what commits notice of it.

use std::fs;
use std::hint::black_box;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use fastrand::Rng;
use kvdb::{Db, Durability, GcOptions, GcReport, Options};
use kvdb_vfs::{Advice, Fs, OpenMode, OsFs, SyncSite};
use kvdb_vlog::{Pointer, RecordFiles, RecordWriter, Relocated, TableWriter, record_len};

use super::Recorder;
use crate::disk::Place;
use crate::targets::{GC_MOVE, GC_OVERWRITE, GC_RESOLVE};

const ROUNDS: usize = 3;
/// Rounds of moving, which are short; some meet a device that is busy with what was written before.
const MOVES: usize = 11;
/// How long commits are timed at a stretch.
const STRETCH: Duration = Duration::from_millis(2200);

fn key(i: usize) -> Vec<u8> {
    format!("{i:016}").into_bytes()
}

fn value(rng: &mut Rng, len: usize) -> Vec<u8> {
    let mut value = vec![0; len];
    rng.fill(&mut value);
    value
}

/// Nanoseconds to find where a record of a collected segment is now, for records of one segment in
/// random order.
fn resolve(recorder: &mut Recorder) {
    let (n, key_len, value_len) = GC_RESOLVE;
    let fs: Arc<dyn Fs> = Arc::new(kvdb_vfs::OsFs::new());
    let place = Place::new();
    let dir = place.path("log");
    fs.create_dir_all(&dir).expect("a directory");
    let options = kvdb_vlog::Options { prefill: false, ..Default::default() };
    let database = 0x6b76;
    let directory = kvdb_vlog::Directory::new(fs.clone(), &dir, database).expect("a log");
    let (log, _) = directory.open(options, |_| Ok::<_, std::io::Error>(())).expect("a log");
    // The records themselves are not touched, so their file holds only the first.
    let mut writer = RecordWriter::create(&fs, &dir, database, 900, 1).expect("a file");
    writer.push(&vec![b'k'; key_len], b"", b"", 1).expect("a record");
    let outputs = [writer.finish().expect("a file")];
    let len = record_len(key_len, 1, value_len);
    let stride = (len + 32).next_multiple_of(8);
    let mut table = TableWriter::new(1);
    let mut pointers = Vec::with_capacity(n);
    for i in 0..n {
        let old = (4096 + i * stride) as u32;
        table.add(old, 0, i as u32).expect("an entry");
        pointers.push(Pointer::new(1, old, len as u32));
    }
    let out = table.finish(&fs, &dir, database, (901, 2), &outputs).expect("a table");
    let relocated = Relocated { table: 901, table_nonce: 2 };
    let segment =
        log.open_relocated(1, &relocated, &mut RecordFiles::default()).expect("the table");
    log.relocate(vec![segment]);
    let view = log.view();
    Rng::with_seed(5).shuffle(&mut pointers);
    for _ in 0..ROUNDS + 2 {
        let start = Instant::now();
        let mut sum = 0u64;
        for pointer in &pointers {
            sum += u64::from(view.offset_in_file(*pointer).expect("it was moved"));
        }
        let nanos = start.elapsed().as_nanos() as f64 / n as f64;
        black_box(sum);
        recorder.record("resolve a relocated pointer", nanos, 1.0);
    }
    drop((out, outputs));
}

/// Bytes of a full-grown segment.
const SEGMENT: u64 = 16 << 20;

fn options() -> Options {
    Options::default().memtable_size(1 << 20).segment_size(SEGMENT as usize)
}

/// Moving what is in use of half-dead files, beside copying as many bytes into as many files, in the
/// same way and with the same syncs.
fn moving(recorder: &mut Recorder) {
    let (n, _, len) = GC_MOVE;
    let place = Place::new();
    let quiet = options().collect_garbage(false).durability(Durability::Buffered);
    let db = quiet.open(place.path("db")).expect("a database");
    let mut rng = Rng::with_seed(1);
    (0..n).for_each(|i| drop(db.put(key(i), value(&mut rng, len))));
    let mut order: Vec<usize> = (0..n).collect();
    for _ in 0..MOVES {
        // Any half of the keys, so that half of every file is garbage, relocated or not.
        rng.shuffle(&mut order);
        for &i in &order[..n / 2] {
            db.put(key(i), value(&mut rng, len)).expect("a commit");
        }
        // All that is garbage is known, what is in use is in the cache, as what the yardstick
        // reads is, and only the victims' moving is timed.
        db.compact().expect("a compaction");
        db.sync().expect("a sync");
        db.iter().expect("an iterator").for_each(|i| drop(i.expect("an item").value()));
        let start = Instant::now();
        let report = db.gc(&GcOptions::default()).expect("a collection");
        let ours = start.elapsed().as_nanos() as f64;
        let plain = copy(&place, &report);
        let kib = (report.bytes_read / 1024).max(1) as f64;
        recorder.record("moving what is in use", ours / kib, plain / kib);
    }
    db.close().expect("an end");
}

/// Nanoseconds to copy as many bytes into as many files, each synced at the end: full segments, and
/// small ones in the place of relocation tables.
fn copy(place: &Place, report: &GcReport) -> f64 {
    const CHUNK: u64 = 256 << 10;
    const WRITE_BACK: u64 = 1 << 20;
    let fs = OsFs::new();
    let path = |i: u64| place.path(&format!("copy{i}"));
    let create = |i| fs.open(&path(i), OpenMode::CreateNew).expect("a file");
    let mut buffer = vec![7u8; CHUNK as usize];
    let pieces = |bytes: u64| {
        (0..bytes).step_by(CHUNK as usize).map(move |at| (at, (bytes - at).min(CHUNK) as usize))
    };
    let source = create(0);
    for (at, n) in pieces(report.bytes_read) {
        source.write_all_at(&buffer[..n], at).expect("room");
    }
    source.sync_data(SyncSite::LogRelocate).expect("a sync");
    let start = Instant::now();
    let mut targets = Vec::new();
    for (at, n) in pieces(report.bytes_read) {
        source.read_exact_at(&mut buffer[..n], at).expect("bytes");
        let to = at % SEGMENT;
        if to == 0 {
            targets.push(create(targets.len() as u64 + 1));
        }
        let target = targets.last().expect("a file");
        target.write_all_at(&buffer[..n], to).expect("room");
        let end = to + n as u64;
        if end.is_multiple_of(WRITE_BACK) {
            target.advise(end - WRITE_BACK..end, Advice::WriteBack);
        }
    }
    let rest = report.bytes_written.saturating_sub(report.bytes_read);
    let tables = report.files_written.saturating_sub(targets.len() as u64);
    for _ in 0..tables {
        let target = create(targets.len() as u64 + 1);
        target.write_all_at(&buffer[..(rest / tables).min(CHUNK) as usize], 0).expect("room");
        targets.push(target);
    }
    for target in &targets {
        target.sync_data(SyncSite::LogRelocate).expect("a sync");
    }
    fs.sync_dir(&place.path(""), SyncSite::LogRelocateDir).expect("a sync");
    let nanos = start.elapsed().as_nanos() as f64;
    for i in 0..=targets.len() as u64 {
        fs.remove(&path(i)).expect("the file");
    }
    nanos
}

/// Bytes of all files of a store.
fn directory(path: &Path) -> u64 {
    let entries = fs::read_dir(path).expect("the directory");
    entries.filter_map(|e| e.ok()?.metadata().ok()).map(|m| m.len()).sum()
}

/// Commits for a while; nanoseconds per commit.
fn overwrite(db: &Db, next: &mut dyn FnMut() -> usize, rng: &mut Rng, time: Duration) -> f64 {
    let value = value(rng, GC_OVERWRITE.2);
    let start = Instant::now();
    let mut commits = 0u32;
    while start.elapsed() < time {
        db.put(key(next()), &value).expect("a commit");
        commits += 1;
    }
    start.elapsed().as_nanos() as f64 / f64::from(commits)
}

/// The same overwrites of the same store with and without collection, by turns; afterwards what
/// the store takes at rest, and when everything was collected.
fn overwriting(recorder: &mut Recorder, random: bool) {
    let (n, key_len, len) = GC_OVERWRITE;
    let live = (n * (key_len + len)) as f64;
    let place = Place::new();
    let path = |on: bool| place.path(if on { "with" } else { "without" });
    let mut rng = Rng::with_seed(3);
    for on in [true, false] {
        let loading = options().durability(Durability::Buffered);
        let db = loading.open(path(on)).expect("a database");
        for i in 0..n {
            db.put(key(i), value(&mut rng, len)).expect("a commit");
        }
        // To a state that lasts.
        for i in 0..2 * n {
            let i = if random { rng.usize(..n) } else { i % n };
            db.put(key(i), value(&mut rng, len)).expect("a commit");
        }
        db.close().expect("an end");
    }
    let mut turns = [0; 2];
    for _ in 0..ROUNDS {
        let mut times = [0.0; 2];
        for on in [false, true] {
            let db = options().collect_garbage(on).open(path(on)).expect("a database");
            let (mut order, turn) = (rng.fork(), &mut turns[usize::from(on)]);
            let mut next = || {
                *turn += 1;
                if random { order.usize(..n) } else { *turn % n }
            };
            if on {
                // What was left undone when it was closed is not charged to these commits.
                overwrite(&db, &mut next, &mut rng, STRETCH / 4);
            }
            let before = db.stats().gc.bytes_written;
            let from = db.stats().log_appended;
            times[usize::from(on)] = overwrite(&db, &mut next, &mut rng, STRETCH);
            if on && random {
                let stats = db.stats();
                let moved = (stats.gc.bytes_written - before) as f64;
                let appended = (stats.log_appended - from) as f64;
                recorder.record("space, overwritten", directory(&path(true)) as f64 / live, 1.0);
                recorder.record("log written per byte", 1.0 + moved / appended, 1.0);
            }
            db.close().expect("an end");
        }
        let name = match random {
            true => "commits beside it, part garbage",
            false => "commits beside it, all garbage",
        };
        recorder.record(name, times[1], times[0]);
    }
    if random {
        let db = options().open(path(true)).expect("a database");
        std::thread::sleep(Duration::from_secs(5));
        recorder.record("space, at rest", directory(&path(true)) as f64 / live, 1.0);
        db.gc(&GcOptions::full()).expect("a collection");
        std::thread::sleep(Duration::from_secs(2));
        recorder.record("space, all collected", directory(&path(true)) as f64 / live, 1.0);
        db.close().expect("an end");
    }
}

pub(super) fn run(recorder: &mut Recorder) {
    resolve(recorder);
    moving(recorder);
    overwriting(recorder, false);
    overwriting(recorder, true);
}
