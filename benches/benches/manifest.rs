//! The manifest beside a write and a sync of as many bytes, `okaywal`, and decoding alone.
//!
//! `cargo bench -p kvdb-benches --bench manifest`. What is promised about these figures is
//! measured, in turns with its yardsticks, by `ratios -- manifest`.
#![allow(missing_docs, reason = "what criterion's macro makes")]

use std::fs::File;
use std::hint::black_box;
use std::io::{Read, Write};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use criterion::{Criterion, SamplingMode, Throughput, criterion_group, criterion_main};
use kvdb_benches::disk::Place;
use kvdb_benches::targets::MANIFEST;
use kvdb_manifest::store::{StoreChange, StoreState, TableRecord};
use kvdb_manifest::{Manifest, Options};
use kvdb_vfs::{Fs, MemFs, OsFs};
use okaywal::{
    Configuration, Entry, EntryId, LogManager, LogVoid, ReadChunkResult, SegmentReader,
    WriteAheadLog,
};
use prost::Message;

/// Tables there are at a time.
const TABLES: u64 = 1000;

fn change(id: u64) -> StoreChange {
    let table = TableRecord {
        id,
        level: 1,
        size: 64 << 20,
        smallest_key: format!("user{id:020}").into_bytes(),
        largest_key: format!("user{id:020}zzzz").into_bytes(),
        largest_version: id,
        entries: 500_000,
        ..TableRecord::default()
    };
    let tables_removed = if id > TABLES { vec![id - TABLES] } else { vec![] };
    StoreChange { tables_added: vec![table], tables_removed, ..StoreChange::default() }
}

/// Never rewritten by itself.
fn options() -> Options {
    Options { rewrite_bytes: u64::MAX, ..Options::default() }
}

fn create(fs: Arc<dyn Fs>, dir: &Path) -> Manifest<StoreState> {
    fs.create_dir_all(dir).expect("a directory");
    Manifest::create(fs, dir, 1, options()).expect("a manifest")
}

/// One file, which stays as it is.
fn okaywal(place: &Place, manager: impl LogManager) -> WriteAheadLog {
    Configuration::default_for(place.path("okaywal"))
        .preallocate_bytes(64 << 20)
        .checkpoint_after_bytes(u64::MAX)
        .open(manager)
        .expect("a log")
}

fn append(c: &mut Criterion) {
    let place = Place::new();
    let manifest = create(Arc::new(OsFs::new()), &place.path("store"));
    let mut group = c.benchmark_group("durable append of a change set");
    group.sample_size(20);
    let mut id = 0;
    group.bench_function("kvdb-manifest", |b| {
        b.iter(|| {
            id += 1;
            manifest.append(&change(id)).expect("an append");
        });
    });
    let wal = okaywal(&place, LogVoid);
    let mut id = 0;
    group.bench_function("okaywal", |b| {
        b.iter(|| {
            id += 1;
            let mut entry = wal.begin_entry().expect("an entry");
            entry.write_chunk(&change(id).encode_to_vec()).expect("a chunk");
            entry.commit().expect("a commit")
        });
    });
    wal.shutdown().expect("an end");
    let bytes = vec![1; change(2 * TABLES).encoded_len() + 16];
    let mut file = File::create(place.path("plain")).expect("a file");
    group.bench_function("File and sync_data", |b| {
        b.iter(|| {
            file.write_all(&bytes).expect("a write");
            file.sync_data().expect("a sync");
        });
    });
    group.bench_function("rewrite with 1,000 tables", |b| {
        b.iter(|| manifest.rewrite().expect("a rewrite"));
    });
    group.finish();
}

/// Decodes every entry, its checksum compared.
#[derive(Debug, Default)]
struct Decoding {
    buffer: Vec<u8>,
}

impl LogManager for Decoding {
    fn recover(&mut self, entry: &mut Entry<'_>) -> std::io::Result<()> {
        while let ReadChunkResult::Chunk(mut chunk) = entry.read_chunk()? {
            self.buffer.resize(chunk.bytes_remaining() as usize, 0);
            chunk.read_exact(&mut self.buffer)?;
            assert!(chunk.check_crc()?);
            black_box(StoreChange::decode(&*self.buffer)?);
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

/// Opening a long log: its change sets read, checked, decoded and applied; and decoded only.
fn replay(c: &mut Criterion) {
    let n = MANIFEST.0 as u64;
    let fs: Arc<dyn Fs> = Arc::new(MemFs::new());
    let manifest = create(fs.clone(), Path::new("/store"));
    let place = Place::new();
    let wal = okaywal(&place, LogVoid);
    let mut encoded = Vec::new();
    // A sync for each would take long: what is read is the same.
    let mut entry = wal.begin_entry().expect("an entry");
    for id in 1..=n {
        let change = change(id);
        manifest.append(&change).expect("an append");
        entry.write_chunk(&change.encode_to_vec()).expect("a chunk");
        change.encode_length_delimited(&mut encoded).expect("room");
    }
    entry.commit().expect("a commit");
    wal.shutdown().expect("an end");
    drop(manifest);
    let mut group = c.benchmark_group("replay of change sets");
    group.sample_size(10).sampling_mode(SamplingMode::Flat).throughput(Throughput::Elements(n));
    group.bench_function("kvdb-manifest", |b| {
        b.iter(|| {
            let opened = Manifest::<StoreState>::open(fs.clone(), Path::new("/store"), options());
            let (_, report) = opened.expect("an intact manifest");
            assert_eq!(report.records, n);
        });
    });
    group.bench_function("okaywal and decoding", |b| {
        let one = |_| {
            let start = Instant::now();
            let wal = okaywal(&place, Decoding::default());
            let time = start.elapsed();
            wal.shutdown().expect("an end");
            time
        };
        b.iter_custom(|n| (0..n).map(one).sum::<Duration>());
    });
    group.bench_function("decoding alone", |b| {
        b.iter(|| {
            let mut rest = encoded.as_slice();
            while !rest.is_empty() {
                let change = StoreChange::decode_length_delimited(&mut rest);
                black_box(change.expect("what was encoded"));
            }
        });
    });
    group.finish();
}

criterion_group!(benches, append, replay);
criterion_main!(benches);
