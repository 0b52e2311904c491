//! A million entries of 16-byte keys and 100-byte values in a tree on files: writes, point reads,
//! scans and one compaction of everything.

use std::hint::black_box;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use kvdb_lsm::{
    Background, Cursor, Entry, Floor, NoCompanion, Options, Tree, Visible, VisibleOptions, key_hash,
};
use kvdb_manifest::Manifest;
use kvdb_vfs::{Fs, OsFs};

const N: usize = 1_000_000;
const VALUE: [u8; 100] = [7; 100];

type Store = Arc<Tree<NoCompanion>>;

fn keys(seed: u64, n: usize) -> Vec<[u8; 16]> {
    let mut rng = fastrand::Rng::with_seed(seed);
    (0..n).map(|_| rng.u128(..).to_be_bytes()).collect()
}

fn open(dir: &Path, options: Options) -> Store {
    let fs: Arc<dyn Fs> = Arc::new(OsFs::new());
    let manifest = Manifest::create(fs.clone(), dir, 1, Default::default()).expect("a manifest");
    let companion = Arc::new(NoCompanion::default());
    let tree = Tree::open(fs, dir, Arc::new(manifest), options, companion, false).expect("a tree");
    tree.start().expect("threads");
    tree
}

fn by_hand() -> Options {
    Options { background: Background::Manual, ..Options::default() }
}

/// Four tables of level 0 that span all keys, and nothing else.
fn four_runs(dir: &Path, options: Options, keys: &[[u8; 16]]) -> Store {
    let tree = open(dir, options);
    let mut version = 0;
    for run in keys.chunks(keys.len() / 4) {
        for key in run {
            version += 1;
            tree.write(version, &[(key, Entry::value(&VALUE))]).expect("room");
        }
        tree.flush().expect("a flush");
    }
    tree
}

fn reads(c: &mut Criterion) {
    let dir = tempfile::tempdir().expect("a directory");
    let keys = keys(1, N);
    let tree = four_runs(dir.path(), by_hand(), &keys);
    let mut order = keys.clone();
    fastrand::Rng::with_seed(2).shuffle(&mut order);
    let missing = self::keys(3, N);
    let mut i = 0;
    let mut group = c.benchmark_group("four runs");
    for (name, keys) in [("get", &order), ("get of a missing key", &missing)] {
        group.bench_function(name, |b| {
            b.iter(|| {
                i = (i + 1) % N;
                let pinned = tree.pin();
                let found = pinned.get(&keys[i], u64::MAX, key_hash(&keys[i])).expect("intact");
                found.map(|f| f.entry().payload[99])
            });
        });
    }
    group.throughput(Throughput::Elements(1));
    let mut cursor = tree.superversion().cursor();
    group.bench_function("next", |b| {
        b.iter(|| {
            if !cursor.valid() || !cursor.next().expect("intact") {
                cursor.first().expect("intact");
            }
            (cursor.key()[15], cursor.value()[99])
        });
    });
    let mut cursor = Visible::new(tree.superversion().cursor(), VisibleOptions::default());
    group.bench_function("next of what is visible", |b| {
        b.iter(|| {
            if !cursor.valid() || !cursor.next().expect("intact") {
                cursor.first().expect("intact");
            }
            black_box(cursor.key()[15]);
        });
    });
    group.finish();
}

fn writes(c: &mut Criterion) {
    let keys = keys(4, N / 4);
    let mut group = c.benchmark_group("writes");
    group.throughput(Throughput::Elements(keys.len() as u64)).sample_size(10);
    group.bench_function("a quarter of a million puts", |b| {
        b.iter_custom(|rounds| {
            let mut time = Duration::ZERO;
            for _ in 0..rounds {
                let dir = tempfile::tempdir().expect("a directory");
                let tree = open(dir.path(), by_hand());
                let start = Instant::now();
                for (i, key) in keys.iter().enumerate() {
                    let entry = Entry::value(&VALUE);
                    tree.write(i as u64 + 1, &[(key, entry)]).expect("room");
                }
                time += start.elapsed();
            }
            time
        });
    });
    group.finish();
}

fn compaction(c: &mut Criterion) {
    let keys = keys(5, N);
    let mut group = c.benchmark_group("compaction of four runs");
    group.throughput(Throughput::Elements(N as u64)).sample_size(10);
    for threads in [1, 2] {
        group.bench_function(format!("{threads} threads"), |b| {
            b.iter_custom(|rounds| {
                let mut time = Duration::ZERO;
                for _ in 0..rounds {
                    let dir = tempfile::tempdir().expect("a directory");
                    let never = 1 << 10;
                    let options = Options {
                        compaction_threads: threads,
                        l0_compaction_trigger: never,
                        l0_slowdown_trigger: never,
                        l0_stop_trigger: 2 * never,
                        ..Options::default()
                    };
                    let tree = four_runs(dir.path(), options, &keys);
                    tree.companion().raise_floor(Floor { discard: N as u64, clock: 0 });
                    let start = Instant::now();
                    tree.major_compact().expect("a compaction");
                    time += start.elapsed();
                }
                time
            });
        });
    }
    group.finish();
}

criterion_group!(benches, reads, writes, compaction);
criterion_main!(benches);
