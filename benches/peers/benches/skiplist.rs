//! The skiplist side by side with `crossbeam-skiplist`, `BTreeMap` behind a lock, and `skl`:
//!
//! ```text
//! cargo bench --manifest-path benches/peers/Cargo.toml --bench skiplist
//! ```
//!
//! A million entries of 24 and 16 bytes each, as everywhere; all times are of one operation times
//! the number of elements that criterion prints. Every list maps `(key, version)` to a value and
//! answers for the newest version not above one asked for. Arenas have their pages beforehand.
#![allow(missing_docs, reason = "criterion's macros")]
#![allow(clippy::unwrap_used, reason = "a benchmark that fails may end")]

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::hint::black_box;
use std::ops::Bound;
use std::sync::RwLock;
use std::time::Duration;

use criterion::measurement::WallTime;
use criterion::{
    BatchSize, BenchmarkGroup, Criterion, Throughput, criterion_group, criterion_main,
};
use crossbeam_skiplist::SkipMap;
use kvdb_benches::input::{Flat, random_keys};
use kvdb_benches::targets::SKIPLIST;
use kvdb_skiplist::{Options, SkipList};
use skl::dynamic::Builder;
use skl::dynamic::multiple_version::Map;
use skl::dynamic::multiple_version::sync::SkipMap as Skl;

const VALUE: [u8; SKIPLIST.2] = [7; SKIPLIST.2];
const QUERIES: usize = 50_000;

type Pair = (Vec<u8>, Reverse<u64>);

/// What all of them can do.
trait List: Sync {
    fn name() -> &'static str;
    fn empty() -> Self;
    fn insert(&self, key: &[u8]);
    /// A byte of the newest value not above version 9.
    fn get(&self, key: &[u8]) -> u64;
    /// A byte of each key and value of the first `n` entries.
    fn walk(&self, n: usize) -> u64;
}

impl List for SkipList {
    fn name() -> &'static str {
        "kvdb"
    }
    fn empty() -> Self {
        let (n, key_len, value_len) = SKIPLIST;
        let capacity = SkipList::OVERHEAD + n * SkipList::node_bound(key_len, value_len);
        SkipList::new(Options { capacity, prefault: true, ..Options::default() }).unwrap()
    }
    fn insert(&self, key: &[u8]) {
        SkipList::insert(self, key, 1, &VALUE).unwrap();
    }
    fn get(&self, key: &[u8]) -> u64 {
        SkipList::get(self, key, 9).map_or(0, |entry| u64::from(entry.value()[0]))
    }
    fn walk(&self, n: usize) -> u64 {
        self.iter().take(n).map(|e| u64::from(e.key()[0]) + u64::from(e.value()[0])).sum()
    }
}

impl List for SkipMap<Pair, Vec<u8>> {
    fn name() -> &'static str {
        "crossbeam-skiplist"
    }
    fn empty() -> Self {
        SkipMap::new()
    }
    fn insert(&self, key: &[u8]) {
        SkipMap::insert(self, (key.to_vec(), Reverse(1)), VALUE.to_vec());
    }
    fn get(&self, key: &[u8]) -> u64 {
        let entry = self.lower_bound(Bound::Included(&(key.to_vec(), Reverse(9))));
        entry.filter(|e| e.key().0 == key).map_or(0, |e| u64::from(e.value()[0]))
    }
    fn walk(&self, n: usize) -> u64 {
        self.iter().take(n).map(|e| u64::from(e.key().0[0]) + u64::from(e.value()[0])).sum()
    }
}

impl List for RwLock<BTreeMap<Pair, Vec<u8>>> {
    fn name() -> &'static str {
        "BTreeMap behind a RwLock"
    }
    fn empty() -> Self {
        RwLock::default()
    }
    fn insert(&self, key: &[u8]) {
        self.write().unwrap().insert((key.to_vec(), Reverse(1)), VALUE.to_vec());
    }
    fn get(&self, key: &[u8]) -> u64 {
        let map = self.read().unwrap();
        let entry = map.range((key.to_vec(), Reverse(9))..).next();
        entry.filter(|(found, _)| found.0 == key).map_or(0, |(_, value)| u64::from(value[0]))
    }
    fn walk(&self, n: usize) -> u64 {
        let map = self.read().unwrap();
        map.iter().take(n).map(|(key, value)| u64::from(key.0[0]) + u64::from(value[0])).sum()
    }
}

impl List for Skl {
    fn name() -> &'static str {
        "skl"
    }
    fn empty() -> Self {
        // Entries of about 100 bytes with their towers.
        let builder = Builder::new().with_capacity(256 << 20).with_populate(true);
        builder.map_anon().unwrap()
    }
    fn insert(&self, key: &[u8]) {
        Map::insert(self, 1, key, &VALUE).unwrap();
    }
    fn get(&self, key: &[u8]) -> u64 {
        Map::get(self, 9, key).map_or(0, |entry| u64::from(entry.value()[0]))
    }
    fn walk(&self, n: usize) -> u64 {
        let entries = Map::iter(self, 9).take(n);
        entries.map(|e| u64::from(e.key()[0]) + u64::from(e.value()[0])).sum()
    }
}

fn fill<L: List>(list: &L, keys: &Flat) {
    keys.iter().for_each(|key| list.insert(key));
}

fn random_insert<L: List>(group: &mut BenchmarkGroup<'_, WallTime>, keys: &Flat) {
    let fill_one = |list: L| {
        fill(&list, keys);
        list
    };
    group
        .bench_function(L::name(), |b| b.iter_batched(L::empty, fill_one, BatchSize::PerIteration));
}

fn two_writers<L: List>(group: &mut BenchmarkGroup<'_, WallTime>, keys: &Flat) {
    let halves = keys.halves();
    let fill_two = |list: L| {
        std::thread::scope(|scope| {
            for half in &halves {
                scope.spawn(|| fill(&list, half));
            }
        });
        list
    };
    group
        .bench_function(L::name(), |b| b.iter_batched(L::empty, fill_two, BatchSize::PerIteration));
}

fn reads<L: List>(criterion: &mut Criterion, keys: &Flat, queries: &Flat) {
    let list = L::empty();
    fill(&list, keys);
    let queries: Vec<_> = queries.iter().collect();
    let mut group = criterion.benchmark_group("get");
    group.throughput(Throughput::Elements(QUERIES as u64));
    let mut from = 0;
    group.bench_function(L::name(), |b| {
        b.iter(|| {
            // Others each time, so that none is in the cache.
            from = (from + QUERIES) % (queries.len() - QUERIES + 1);
            black_box(queries[from..][..QUERIES].iter().map(|key| list.get(key)).sum::<u64>())
        });
    });
    group.finish();
    let mut group = criterion.benchmark_group("next after random insertion");
    group.throughput(Throughput::Elements(SKIPLIST.0 as u64));
    group.sample_size(10);
    group.bench_function(L::name(), |b| b.iter(|| black_box(list.walk(SKIPLIST.0))));
    group.finish();
}

fn sorted(criterion: &mut Criterion, keys: &Flat) {
    let mut group = criterion.benchmark_group("sorted insert");
    group.throughput(Throughput::Elements(SKIPLIST.0 as u64));
    group.sample_size(10);
    let hinted = |list: SkipList| {
        let mut inserter = list.inserter();
        keys.iter().for_each(|key| inserter.insert(key, 1, &VALUE).unwrap());
        list
    };
    group.bench_function("kvdb, with an inserter", |b| {
        b.iter_batched(SkipList::empty, hinted, BatchSize::PerIteration);
    });
    random_insert::<SkipList>(&mut group, keys);
    random_insert::<SkipMap<Pair, Vec<u8>>>(&mut group, keys);
    random_insert::<RwLock<BTreeMap<Pair, Vec<u8>>>>(&mut group, keys);
    group.finish();
}

fn all(criterion: &mut Criterion) {
    let (n, key_len, _) = SKIPLIST;
    let keys = Flat::new(&random_keys(n, key_len, 1));
    for (name, measure) in [
        (
            "random insert",
            [
                random_insert::<SkipList>,
                random_insert::<SkipMap<Pair, Vec<u8>>>,
                random_insert::<RwLock<BTreeMap<Pair, Vec<u8>>>>,
            ],
        ),
        (
            "random insert by two writers",
            [
                two_writers::<SkipList>,
                two_writers::<SkipMap<Pair, Vec<u8>>>,
                two_writers::<RwLock<BTreeMap<Pair, Vec<u8>>>>,
            ],
        ),
    ] {
        let mut group = criterion.benchmark_group(name);
        group.throughput(Throughput::Elements(n as u64));
        group.sample_size(10);
        for measure in measure {
            measure(&mut group, &keys);
        }
        group.finish();
    }
    let queries = keys.shuffled(2);
    reads::<SkipList>(criterion, &keys, &queries);
    reads::<SkipMap<Pair, Vec<u8>>>(criterion, &keys, &queries);
    reads::<RwLock<BTreeMap<Pair, Vec<u8>>>>(criterion, &keys, &queries);
    sorted(criterion, &keys.sorted());
    // Last, as it is not known to come to an end: it did not within three minutes.
    let mut group = criterion.benchmark_group("random insert, the last of them");
    group.throughput(Throughput::Elements(n as u64));
    group.sample_size(10);
    random_insert::<Skl>(&mut group, &keys);
    group.finish();
    reads::<Skl>(criterion, &keys, &queries);
}

criterion_group! {
    name = skiplist;
    config = Criterion::default()
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(2));
    targets = all
}
criterion_main!(skiplist);
