//! One million entries of 16-byte keys and 100-byte values, all in memory. `dependent miss` is the
//! yardstick: one random access to memory that waits for the one before.

use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use kvdb_sstable::{Builder, BuilderOptions, Codec, Cursor, Merge, ReaderOptions, Table, key_hash};
use kvdb_vfs::Region;

const N: usize = 1_000_000;
const VALUE: usize = 100;

type Keys = Vec<[u8; 16]>;

fn keys(seed: u64, n: usize) -> Keys {
    let mut rng = fastrand::Rng::with_seed(seed);
    let mut keys: Keys = (0..n).map(|_| rng.u128(..).to_be_bytes()).collect();
    keys.sort_unstable();
    keys
}

fn build(keys: &Keys, options: BuilderOptions) -> Vec<u8> {
    let value = [7u8; VALUE];
    let out = Vec::with_capacity(keys.len() * 160);
    let mut builder = Builder::new(out, options).expect("options");
    for (i, key) in keys.iter().enumerate() {
        builder.add(key, i as u64, &value).expect("ascending");
    }
    builder.finish().expect("finish").0
}

fn open(bytes: Vec<u8>) -> Arc<Table<Region>> {
    let table = Table::open(Region::from_vec(bytes), ReaderOptions::default()).expect("open");
    table.verify().expect("intact");
    Arc::new(table)
}

fn dependent_miss(c: &mut Criterion) {
    let n = (64 << 20) / 8;
    let mut next: Vec<usize> = (0..n).collect();
    let mut rng = fastrand::Rng::with_seed(9);
    // Sattolo: one cycle through all.
    for i in (1..n).rev() {
        next.swap(i, rng.usize(0..i));
    }
    let mut at = 0;
    c.bench_function("dependent miss", |b| {
        b.iter(|| {
            at = next[at];
            at
        });
    });
}

fn point(c: &mut Criterion) {
    let keys = keys(1, N);
    for interval in [1, 4] {
        let mut options = BuilderOptions::default();
        options.restart_interval = interval;
        let bytes = build(&keys, options);
        let size = bytes.len();
        let table = open(bytes);
        // Looked up in an order of their own; reading the keys themselves costs nothing.
        let mut order = keys.clone();
        fastrand::Rng::with_seed(2).shuffle(&mut order);
        let mut i = 0;
        let mut group = c.benchmark_group(format!("interval {interval}, {} MB", size >> 20));
        let mut next = |n: usize| {
            i = (i + 1) % n;
            &order[i]
        };
        group.bench_function("get", |b| {
            b.iter(|| {
                let key = next(N);
                let hit = table.get(key, u64::MAX, key_hash(key)).expect("get").expect("there");
                hit.value()[0]
            });
        });
        group.bench_function("get unfiltered", |b| {
            b.iter(|| {
                let key = next(N);
                let hit = table.get_unfiltered(key, u64::MAX).expect("get").expect("there");
                hit.value()[0]
            });
        });
        group.bench_function("filter, present", |b| {
            b.iter(|| table.may_contain(key_hash(next(N))).expect("filter"));
        });
        group.bench_function("get hot", |b| {
            b.iter(|| {
                let key = next(1000);
                let hit = table.get(key, u64::MAX, key_hash(key)).expect("get").expect("there");
                hit.value()[0]
            });
        });
        let mut cursor = table.cursor();
        group.bench_function("seek", |b| {
            b.iter(|| cursor.seek(next(N), u64::MAX).expect("seek"));
        });
        let mut x = 0u64;
        group.bench_function("filter, missing", |b| {
            b.iter(|| {
                x = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
                table.may_contain(x).expect("filter")
            });
        });
        let per_entry = |b: &mut criterion::Bencher, forward: bool, hot: bool| {
            let mut cursor = table.cursor();
            b.iter_custom(|n| {
                let limit = if hot { 10_000 } else { N as u64 };
                let start = std::time::Instant::now();
                let mut left = n;
                let mut sum = 0u64;
                while left > 0 {
                    let mut on =
                        if forward { cursor.first() } else { cursor.last() }.expect("first");
                    let mut run = left.min(limit);
                    left -= run;
                    while on && run > 0 {
                        sum += u64::from(cursor.key()[15]) + u64::from(cursor.value()[99]);
                        on = if forward { cursor.next() } else { cursor.prev() }.expect("next");
                        run -= 1;
                    }
                }
                black_box(sum);
                start.elapsed()
            });
        };
        group.bench_function("scan", |b| per_entry(b, true, false));
        group.bench_function("scan hot", |b| per_entry(b, true, true));
        group.bench_function("scan back", |b| per_entry(b, false, false));
        group.bench_function("scan back hot", |b| per_entry(b, false, true));
        group.finish();
    }
}

fn merge(c: &mut Criterion) {
    let mut all = keys(1, N);
    fastrand::Rng::with_seed(5).shuffle(&mut all);
    let tables: Vec<_> = all
        .chunks(N / 4)
        .map(|run| {
            let mut run = run.to_vec();
            run.sort_unstable();
            open(build(&run, BuilderOptions::default()))
        })
        .collect();
    for forward in [true, false] {
        let name = if forward { "merge of 4" } else { "merge of 4, back" };
        c.bench_function(name, |b| {
            let mut merge = Merge::new(tables.iter().map(|t| t.cursor()).collect());
            let mut on = false;
            b.iter(|| {
                on = match (on, forward) {
                    (true, true) => merge.next(),
                    (true, false) => merge.prev(),
                    (false, true) => merge.first(),
                    (false, false) => merge.last(),
                }
                .expect("move");
                on && merge.value()[0] == 7
            });
        });
    }
}

fn building(c: &mut Criterion) {
    let keys = keys(1, N / 4);
    let mut group = c.benchmark_group("build");
    group.throughput(Throughput::Bytes((keys.len() * (16 + VALUE)) as u64));
    group.sample_size(10);
    for codec in [Codec::None, Codec::Lz4] {
        let mut options = BuilderOptions::default();
        options.codec = codec;
        let mut out = Vec::with_capacity(keys.len() * 160);
        group.bench_function(format!("{codec:?}"), |b| {
            b.iter_batched(
                || keys.iter().enumerate(),
                |entries| {
                    out.clear();
                    let mut builder = Builder::new(&mut out, options.clone()).expect("options");
                    let value = [7u8; VALUE];
                    for (i, key) in entries {
                        builder.add(key, i as u64, &value).expect("ascending");
                    }
                    builder.finish().expect("finish").1
                },
                BatchSize::PerIteration,
            );
        });
    }
    group.finish();
    let bytes = build(&keys, BuilderOptions::default());
    c.bench_function("open", |b| {
        b.iter(|| Table::open(bytes.as_slice(), ReaderOptions::default()).expect("open"));
    });
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_millis(1500))
        .sample_size(20);
    targets = dependent_miss, point, merge, building
}
criterion_main!(benches);
