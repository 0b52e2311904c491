//! The log beside a plain file, a `BufWriter` and `okaywal`, in one run.
//!
//! `cargo bench -p kvdb-benches --bench vlog`. What is promised about these figures is measured,
//! in turns with its yardsticks, by `ratios -- vlog`.
#![allow(missing_docs, reason = "what criterion's macro makes")]

use std::fs::File;
use std::hint::black_box;
use std::io::{BufWriter, Write};
use std::sync::Arc;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use kvdb_benches::disk::{Method, PAGE, Place, Raw};
use kvdb_vfs::OsFs;
use kvdb_vlog::{Directory, Durability, FrameBuilder, Log, Options, SyncMethod};
use okaywal::{Configuration, LogVoid, WriteAheadLog};

const KEY: &[u8] = b"sixteen bytes key";
const MIB: u32 = 1 << 20;

fn open(place: &Place, options: Options) -> (Directory, Log) {
    let dir = Directory::new(Arc::new(OsFs::new()), &place.path("log"), 1).expect("a directory");
    let (log, _) = dir.open(options, |_| Ok::<_, ()>(())).expect("a log");
    while log.prepare().expect("housekeeping") {}
    (dir, log)
}

fn append(log: &Log, value: &[u8], how: Durability) {
    let mut builder = FrameBuilder::new();
    builder.push(KEY, b"", value, None).expect("a small record");
    log.append(builder.finish(), how).expect("an append");
}

/// Frees what was filled, so that a long measurement does not fill the disk.
fn trim(dir: &Directory, log: &Log) {
    dir.remove_before(log, log.end()).expect("old segments go");
}

/// One frame of 4 KiB made durable: this log by each method, `okaywal`, and raw writes.
fn durable(c: &mut Criterion) {
    let mut group = c.benchmark_group("durable append of 4 KiB");
    group.sample_size(20);
    let value = vec![7; PAGE - 32 - 12 - KEY.len()];
    for method in [SyncMethod::Fdatasync, SyncMethod::DurableWrite, SyncMethod::Direct] {
        let place = Place::new();
        let options = Options {
            sync_method: method,
            initial_segment_size: 64 * MIB,
            segment_size: 64 * MIB,
            ..Options::default()
        };
        let (dir, log) = open(&place, options);
        group.bench_function(BenchmarkId::new("kvdb-vlog", format!("{method:?}")), |b| {
            b.iter(|| append(&log, &value, Durability::Sync));
            trim(&dir, &log);
        });
    }
    let place = Place::new();
    let wal = Configuration::default_for(place.path("okaywal"))
        .preallocate_bytes(64 * MIB)
        .checkpoint_after_bytes(48 << 20)
        .open(LogVoid)
        .expect("a log");
    group.bench_function("okaywal", |b| {
        b.iter(|| {
            let mut entry = wal.begin_entry().expect("an entry");
            entry.write_chunk(&value).expect("a chunk");
            entry.commit().expect("a commit")
        });
    });
    drop::<WriteAheadLog>(wal);
    for method in [Method::Fdatasync, Method::DurableWrite, Method::Direct] {
        let place = Place::new();
        let mut raw = Raw::new(&place.path("raw"), 16 << 10, method);
        group.bench_function(BenchmarkId::new("raw", format!("{method:?}")), |b| {
            b.iter(|| raw.write());
        });
    }
    group.finish();
}

/// Frames handed to the operating system one by one, and the same bytes by way of a plain file.
fn buffered(c: &mut Criterion) {
    for (name, len) in [("100 bytes", 100), ("4 KiB", 4 << 10), ("64 KiB", 64 << 10)] {
        let mut group = c.benchmark_group(format!("buffered append of {name}"));
        group.sample_size(20).throughput(Throughput::Bytes(len as u64));
        let value = vec![7; len - 32 - 12 - KEY.len()];
        let place = Place::new();
        let options = Options {
            sync_method: SyncMethod::Fdatasync,
            prefill: false,
            initial_segment_size: 128 * MIB,
            ..Options::default()
        };
        let (dir, log) = open(&place, options);
        group.bench_function("kvdb-vlog", |b| {
            b.iter(|| append(&log, &value, Durability::Buffered));
            while log.prepare().expect("housekeeping") {}
            trim(&dir, &log);
        });
        let bytes = vec![7; len];
        let mut file = File::create(place.path("plain")).expect("a file");
        group.bench_function("File", |b| {
            b.iter(|| file.write_all(black_box(&bytes)).expect("a write"));
            file = File::create(place.path("plain")).expect("a file");
        });
        let file = File::create(place.path("buffered")).expect("a file");
        let mut file = BufWriter::with_capacity(1 << 16, file);
        group.bench_function("BufWriter, flushed by 32", |b| {
            let mut n = 0;
            b.iter(|| {
                file.write_all(black_box(&bytes)).expect("a write");
                n += 1;
                if n % 32 == 0 {
                    file.flush().expect("a write");
                }
            });
        });
        group.finish();
    }
}

/// Replay, and reading by pointer, of a million records.
fn reading(c: &mut Criterion) {
    let place = Place::new();
    let options = Options {
        sync_method: SyncMethod::Fdatasync,
        prefill: false,
        initial_segment_size: 256 * MIB,
        segment_size: 256 * MIB,
        ..Options::default()
    };
    let (dir, log) = open(&place, options.clone());
    let value = vec![7; 100];
    let mut pointers = Vec::new();
    for _ in 0..1_000_000 {
        let mut builder = FrameBuilder::new();
        builder.push(KEY, b"", &value, None).expect("a small record");
        let done = log.append(builder.finish(), Durability::Buffered).expect("an append");
        pointers.push((done.pointers[0], done.version));
    }
    log.close().expect("a clean end");
    drop(log);
    let mut group = c.benchmark_group("a million records of 100 bytes");
    group.sample_size(10).throughput(Throughput::Elements(1_000_000));
    group.bench_function("replay", |b| {
        b.iter(|| {
            let opened = dir.open(options.clone(), |frame| {
                black_box(frame.records().count());
                Ok::<_, ()>(())
            });
            opened.expect("an intact log").0.close().expect("a clean end");
        });
    });
    let (log, _) = dir.open(options, |_| Ok::<_, ()>(())).expect("an intact log");
    fastrand::Rng::with_seed(1).shuffle(&mut pointers);
    let view = log.view();
    group.bench_function("read by pointer, random", |b| {
        b.iter(|| {
            for (pointer, version) in &pointers {
                let value = view.read_ref(*pointer, KEY, *version).expect("an intact record");
                black_box(value.map(<[u8]>::len));
            }
        });
    });
    group.finish();
}

criterion_group!(benches, durable, buffered, reading);
criterion_main!(benches);
