//! The log beside plain files, raw durable writes, and `okaywal`, in one run.
//!
//! `cargo bench -p kvdb-benches --bench vlog`. What is promised about these figures is measured,
//! in turns with its yardsticks, by `ratios -- vlog`.
//!
//! A commit of `okaywal` is always synced, so it stands beside durable appends, and beside replay and
//! reading, where how the bytes got there does not matter. What is read is read to the last byte, and
//! its checksums are compared, by both.
#![allow(missing_docs, reason = "what criterion's macro makes")]

use std::fs::File;
use std::hint::black_box;
use std::io::{BufWriter, Read, Write};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use criterion::{
    BenchmarkId, Criterion, SamplingMode, Throughput, criterion_group, criterion_main,
};
use kvdb_benches::disk::{Method, PAGE, Place, Raw};
use kvdb_benches::targets::{
    VLOG_DURABLE, VLOG_LARGE, VLOG_READ, VLOG_REPLAY_LARGE, VLOG_REPLAY_SMALL, VLOG_SMALL,
    VLOG_THREADS,
};
use kvdb_benches::timing::fold;
use kvdb_vfs::OsFs;
use kvdb_vlog::{
    Directory, Discard, Durability, FrameBuilder, Log, LogView, Options, Pointer, Position,
    Recovery, SegmentRecord, SyncMethod,
};
use okaywal::{
    Configuration, Entry, EntryId, LogManager, LogPosition, LogVoid, ReadChunkResult,
    SegmentReader, WriteAheadLog,
};

const MIB: u32 = 1 << 20;
/// Frames of a group, where they are grouped.
const GROUP: usize = 32;
/// Records of a frame, or chunks of an entry, where one holds many.
const MANY: usize = 1000;
const FRAME_HEADER: usize = 32;
const RECORD_HEADER: usize = 12;

fn directory(place: &Place) -> Directory {
    Directory::new(Arc::new(OsFs::new()), &place.path("log"), 1).expect("a directory")
}

fn open(dir: &Directory, options: Options) -> Log {
    let (log, _) = dir.open(options, |_| Ok::<_, ()>(())).expect("an intact log");
    prepare(&log);
    log
}

fn prepare(log: &Log) {
    while log.prepare().expect("housekeeping") {}
}

/// For what is only handed to the operating system: nothing is written ahead of time or synced.
fn buffered(segment_size: u32) -> Options {
    Options {
        initial_segment_size: segment_size,
        segment_size,
        prefill: false,
        sync_method: SyncMethod::Fdatasync,
        sync_interval_bytes: 1 << 40,
        ..Options::default()
    }
}

/// A file of the log of either, written ahead of time, in which all durable appends of a measurement
/// have room: none of them has to wait for the next one to be made.
const DURABLE_FILE: u32 = 512 * MIB;

fn durable(sync_method: SyncMethod) -> Options {
    let (initial_segment_size, segment_size) = (DURABLE_FILE, DURABLE_FILE);
    Options { sync_method, initial_segment_size, segment_size, ..Options::default() }
}

fn append(log: &Log, key: &[u8], value: &[u8], how: Durability) {
    let mut builder = FrameBuilder::new();
    builder.push(key, b"", value, None).expect("a small record");
    log.append(builder.finish(), how).expect("an append");
}

/// Removes what was filled, so that a long measurement does not fill the disk.
fn trim(dir: &Directory, log: &Log) {
    dir.remove_before(log, log.end()).expect("old segments go");
}

/// All in one file, which stays as it is.
fn okaywal(path: &Path, manager: impl LogManager) -> WriteAheadLog {
    Configuration::default_for(path)
        .preallocate_bytes(DURABLE_FILE)
        .checkpoint_after_bytes(u64::MAX)
        .open(manager)
        .expect("a log")
}

fn commit(wal: &WriteAheadLog, value: &[u8]) {
    let mut entry = wal.begin_entry().expect("an entry");
    entry.write_chunk(value).expect("a chunk");
    entry.commit().expect("a commit");
}

/// One frame of 4 KiB made durable: this log by each method, `okaywal`, and raw writes.
fn durable_appends(c: &mut Criterion) {
    let mut group = c.benchmark_group("durable append of 4 KiB");
    group.sample_size(20).warm_up_time(Duration::from_secs(1));
    let (_, key_len, value_len) = VLOG_DURABLE;
    assert_eq!(FRAME_HEADER + RECORD_HEADER + key_len + value_len, PAGE);
    let (key, value) = (vec![3; key_len], vec![7; value_len]);
    for method in [SyncMethod::Fdatasync, SyncMethod::DurableWrite, SyncMethod::Direct] {
        let place = Place::new();
        let dir = directory(&place);
        let log = open(&dir, durable(method));
        group.bench_function(BenchmarkId::new("kvdb-vlog", format!("{method:?}")), |b| {
            b.iter(|| append(&log, &key, &value, Durability::Sync));
            trim(&dir, &log);
        });
    }
    let place = Place::new();
    let wal = okaywal(&place.path("okaywal"), LogVoid);
    group.bench_function("okaywal", |b| b.iter(|| commit(&wal, &value)));
    wal.shutdown().expect("an end");
    for method in [Method::Fdatasync, Method::DurableWrite, Method::Direct] {
        let place = Place::new();
        let mut raw = Raw::new(&place.path("raw"), 16 << 10, method);
        group.bench_function(BenchmarkId::new("raw", format!("{method:?}")), |b| {
            b.iter(|| raw.write());
        });
    }
    group.finish();
}

/// Durable appends that several threads share.
fn threads(c: &mut Criterion) {
    let mut group = c.benchmark_group("durable appends of 1 KiB by threads");
    let (n, key_len, value_len) = VLOG_THREADS;
    group
        .sample_size(10)
        .sampling_mode(SamplingMode::Flat)
        .throughput(Throughput::Elements(n as u64));
    let (key, value) = (vec![3; key_len], vec![7; value_len]);
    let by = |threads: usize, work: &(dyn Fn() + Sync)| {
        std::thread::scope(|scope| {
            for _ in 0..threads {
                scope.spawn(|| (0..n / threads).for_each(|_| work()));
            }
        });
    };
    for count in [1, 16] {
        let place = Place::new();
        let dir = directory(&place);
        let log = open(&dir, durable(SyncMethod::default()));
        group.bench_function(BenchmarkId::new("kvdb-vlog", count), |b| {
            b.iter(|| by(count, &|| append(&log, &key, &value, Durability::Sync)));
            trim(&dir, &log);
        });
        let wal = okaywal(&place.path("okaywal"), LogVoid);
        group.bench_function(BenchmarkId::new("okaywal", count), |b| {
            b.iter(|| by(count, &|| commit(&wal, &value)));
        });
        wal.shutdown().expect("an end");
    }
    group.finish();
}

/// Frames of 100 bytes, 32 to a write, and the same bytes through a `BufWriter` flushed as often.
fn small(c: &mut Criterion) {
    let (_, key_len, value_len) = VLOG_SMALL;
    let frame = FRAME_HEADER + RECORD_HEADER + key_len + value_len;
    let mut group = c.benchmark_group("100-byte frames by 32 into the operating system");
    group.sample_size(20).throughput(Throughput::Elements(GROUP as u64));
    let (key, value) = (vec![3; key_len], vec![7; value_len]);
    let place = Place::new();
    let dir = directory(&place);
    let log = open(&dir, buffered(64 * MIB));
    let mut version = 0;
    let mut buffers = vec![Vec::new(); GROUP];
    let mut tickets = Vec::with_capacity(GROUP);
    group.bench_function("kvdb-vlog", |b| {
        b.iter(|| {
            for _ in 0..GROUP {
                version += 1;
                let mut builder = FrameBuilder::reusing(buffers.pop().unwrap_or_default());
                builder.push(&key, b"", &value, None).expect("a small record");
                let frame = builder.finish();
                let room = log.reserve(frame.len()).expect("room");
                tickets.push(log.enqueue(frame, version, Durability::Buffered, room, ()));
            }
            for ticket in tickets.drain(..) {
                let done = log.drive(ticket, &Discard).expect("an append");
                buffers.push(done.into_buffer());
            }
            // What a background thread would do is counted.
            if version % (1 << 15) == 0 {
                prepare(&log);
            }
        });
        trim(&dir, &log);
    });
    let bytes = vec![7; frame];
    group.bench_function("BufWriter", |b| {
        let file = File::create(place.path("plain")).expect("a file");
        let mut file = BufWriter::with_capacity(1 << 16, file);
        b.iter(|| {
            for _ in 0..GROUP {
                file.write_all(black_box(&bytes)).expect("a write");
            }
            file.flush().expect("a write");
        });
    });
    group.finish();
}

/// Values of 64 KiB handed to the operating system, one frame per write, and plain writes of as many
/// bytes, both to a new file.
fn large(c: &mut Criterion) {
    let (_, key_len, value_len) = VLOG_LARGE;
    let frame = FRAME_HEADER + RECORD_HEADER + key_len + value_len;
    let mut group = c.benchmark_group("64 KiB values into the operating system");
    group
        .sample_size(20)
        .sampling_mode(SamplingMode::Flat)
        .throughput(Throughput::Bytes(frame as u64));
    // No more than a segment, which would have to be synced when it is left.
    group.measurement_time(Duration::from_secs(3)).warm_up_time(Duration::from_secs(1));
    let (key, value) = (vec![3; key_len], vec![7; value_len]);
    let bytes = vec![7; frame];
    let time = |n: u64, mut work: Box<dyn FnMut() + '_>| {
        let start = Instant::now();
        (0..n).for_each(|_| work());
        start.elapsed()
    };
    group.bench_function("kvdb-vlog", |b| {
        b.iter_custom(|n| {
            let place = Place::new();
            let log = open(&directory(&place), buffered(1 << 30));
            time(n, Box::new(|| append(&log, &key, &value, Durability::Buffered)))
        });
    });
    group.bench_function("File", |b| {
        b.iter_custom(|n| {
            let place = Place::new();
            let mut file = File::create(place.path("plain")).expect("a file");
            time(n, Box::new(|| file.write_all(black_box(&bytes)).expect("a write")))
        });
    });
    group.finish();
}

/// A closed log of `n` values, `per_frame` to a frame.
struct Filled {
    place: Place,
    dir: Directory,
    n: usize,
    segments: Vec<SegmentRecord>,
    end: Position,
    records: Vec<(u64, Pointer, u64)>,
}

impl Filled {
    fn new((n, key_len, value_len): (usize, usize, usize), per_frame: usize) -> Filled {
        assert_eq!(key_len, 8);
        let place = Place::new();
        let dir = directory(&place);
        let log = open(&dir, buffered(64 * MIB));
        let value = vec![7; value_len];
        let mut records = Vec::with_capacity(n);
        for first in (0..n as u64).step_by(per_frame) {
            let mut builder = FrameBuilder::new();
            let keys = first..(first + per_frame as u64);
            for key in keys.clone() {
                builder.push(&key.to_le_bytes(), b"", &value, None).expect("a small record");
            }
            let done = log.append(builder.finish(), Durability::Buffered).expect("an append");
            records.extend(keys.zip(done.pointers).map(|(key, at)| (key, at, done.version)));
            prepare(&log);
        }
        // The records are all in segments that were left, so that nothing has to look at them again.
        log.rotate(0).expect("a new segment").expect("nobody commits");
        log.close().expect("a clean end");
        let view = log.view();
        let metas = view.segments().filter_map(|segment| view.meta(segment));
        let segments =
            metas.map(|meta| SegmentRecord { meta, sealed: None, relocated: None }).collect();
        Filled { place, dir, n, segments, end: log.end(), records }
    }

    /// Maps of all segments that nothing was read through: as those of a store of which nothing has
    /// to be replayed.
    fn new_maps(&self) -> Arc<LogView> {
        let (fs, path) = (Arc::new(OsFs::new()), self.place.path("log"));
        let (segments, options) = (self.segments.clone(), buffered(64 * MIB));
        let opened = Recovery::open(fs, &path, 1, segments, self.end, options, true);
        let mut recovery = opened.expect("an intact log");
        let end = recovery.replay(|_| Ok::<_, ()>(())).expect("an intact end");
        assert_eq!(end.frames, 0);
        recovery.view()
    }

    /// Opens the log; the time that replaying and folding all of it takes.
    fn replay(&self) -> (Log, Duration) {
        let mut found = 0;
        let mut sum = 0u64;
        let start = Instant::now();
        let opened = self.dir.open(buffered(64 * MIB), |frame| {
            for record in frame.records() {
                found += 1;
                sum = sum.wrapping_add(fold(record.key)).wrapping_add(fold(record.value));
            }
            Ok::<_, ()>(())
        });
        let time = start.elapsed();
        assert_eq!(found, self.n);
        black_box(sum);
        (opened.expect("an intact log").0, time)
    }

    fn read(view: &LogView, records: &[(u64, Pointer, u64)]) -> Duration {
        let start = Instant::now();
        for (key, pointer, version) in records {
            let value = view.read_ref(*pointer, &key.to_le_bytes(), *version);
            black_box(fold(value.expect("an intact record").expect("a map")));
        }
        start.elapsed()
    }
}

/// Folds every chunk of every entry, and compares its checksum.
#[derive(Debug, Default)]
struct Folding {
    buffer: Vec<u8>,
    expected: usize,
    found: usize,
    sum: u64,
}

impl LogManager for Folding {
    fn recover(&mut self, entry: &mut Entry<'_>) -> std::io::Result<()> {
        while let ReadChunkResult::Chunk(mut chunk) = entry.read_chunk()? {
            self.buffer.resize(chunk.bytes_remaining() as usize, 0);
            chunk.read_exact(&mut self.buffer)?;
            assert!(chunk.check_crc()?);
            self.sum = black_box(self.sum.wrapping_add(fold(&self.buffer)));
            self.found += 1;
        }
        if self.found > self.expected {
            return Err(std::io::Error::other("more than was written"));
        }
        Ok(())
    }

    fn checkpoint_to(
        &mut self,
        _: EntryId,
        _: &mut SegmentReader,
        _: &WriteAheadLog,
    ) -> std::io::Result<()> {
        Ok(())
    }
}

/// A log of `okaywal` with `n` values, `MANY` to an entry, all in one file, which stays as it is.
struct FilledOkaywal {
    place: Place,
    n: usize,
    positions: Vec<LogPosition>,
}

impl FilledOkaywal {
    fn new((n, key_len, value_len): (usize, usize, usize)) -> FilledOkaywal {
        let mut filled = FilledOkaywal { place: Place::new(), n, positions: Vec::new() };
        let value = vec![7; key_len + value_len];
        let wal = filled.open(LogVoid);
        for _ in 0..n / MANY {
            let mut entry = wal.begin_entry().expect("an entry");
            for _ in 0..MANY {
                filled.positions.push(entry.write_chunk(&value).expect("a chunk").position);
            }
            entry.commit().expect("a commit");
        }
        wal.shutdown().expect("an end");
        filled
    }

    fn open(&self, manager: impl LogManager) -> WriteAheadLog {
        okaywal(&self.place.path("okaywal"), manager)
    }

    fn replay(&self) -> (WriteAheadLog, Duration) {
        let start = Instant::now();
        let wal = self.open(Folding { expected: self.n, ..Folding::default() });
        (wal, start.elapsed())
    }

    fn read(wal: &WriteAheadLog, positions: &[LogPosition]) -> Duration {
        let mut buffer = Vec::new();
        let start = Instant::now();
        for position in positions {
            let mut chunk = wal.read_at(*position).expect("a chunk");
            buffer.resize(chunk.chunk_length() as usize, 0);
            chunk.read_exact(&mut buffer).expect("all of it");
            assert!(chunk.crc_is_valid().expect("a checksum"));
            black_box(fold(&buffer));
        }
        start.elapsed()
    }
}

/// Replay of a log in the page cache.
fn replay(c: &mut Criterion) {
    for (name, sizes) in [("100-byte", VLOG_REPLAY_SMALL), ("4 KiB", VLOG_REPLAY_LARGE)] {
        let (n, key_len, value_len) = sizes;
        let mut group = c.benchmark_group(format!("replay of {name} values"));
        group.sample_size(10).sampling_mode(SamplingMode::Flat);
        group.warm_up_time(Duration::from_secs(1));
        group.throughput(match value_len {
            4096 => Throughput::Bytes((n * (key_len + value_len)) as u64),
            _ => Throughput::Elements(n as u64),
        });
        let closing = |(log, time): (Log, Duration)| {
            log.close().expect("a clean end");
            time
        };
        for per_frame in [1, MANY] {
            let filled = Filled::new(sizes, per_frame);
            group.bench_function(
                BenchmarkId::new("kvdb-vlog, records per frame", per_frame),
                |b| {
                    b.iter_custom(|n| (0..n).map(|_| closing(filled.replay())).sum());
                },
            );
        }
        let filled = FilledOkaywal::new(sizes);
        group.bench_function(BenchmarkId::new("okaywal, chunks per entry", MANY), |b| {
            let closing = |(wal, time): (WriteAheadLog, Duration)| {
                wal.shutdown().expect("an end");
                time
            };
            b.iter_custom(|n| (0..n).map(|_| closing(filled.replay())).sum());
        });
        group.finish();
    }
}

/// Values of 1 KiB in the page cache, read by pointer in random order.
fn read(c: &mut Criterion) {
    /// Of a batch.
    const READS: usize = 30_000;
    let mut group = c.benchmark_group("read of 1 KiB by pointer");
    group.sample_size(10).sampling_mode(SamplingMode::Flat);
    group.warm_up_time(Duration::from_secs(1)).throughput(Throughput::Elements(READS as u64));
    let mut filled = Filled::new(VLOG_READ, 1);
    fastrand::Rng::with_seed(1).shuffle(&mut filled.records);
    let mut next = filled.records.chunks_exact(READS).cycle();
    let mut batch = || next.next().expect("there is always a next one");
    group.bench_function("kvdb-vlog, through new maps", |b| {
        b.iter_custom(|n| (0..n).map(|_| Filled::read(&filled.new_maps(), batch())).sum());
    });
    let (log, _) = filled.replay();
    let view = log.view();
    group.bench_function("kvdb-vlog, through maps that replay went over", |b| {
        b.iter_custom(|n| (0..n).map(|_| Filled::read(&view, batch())).sum());
    });
    let mut okay = FilledOkaywal::new(VLOG_READ);
    fastrand::Rng::with_seed(1).shuffle(&mut okay.positions);
    let (wal, _) = okay.replay();
    let mut next = okay.positions.chunks_exact(READS).cycle();
    group.bench_function("okaywal", |b| {
        b.iter_custom(|n| {
            let one =
                |_| FilledOkaywal::read(&wal, next.next().expect("there is always a next one"));
            (0..n).map(one).sum()
        });
    });
    wal.shutdown().expect("an end");
    group.finish();
}

criterion_group!(benches, durable_appends, threads, small, large, replay, read);
criterion_main!(benches);
