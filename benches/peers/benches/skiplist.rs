//! The skiplist side by side with `crossbeam-skiplist`, `BTreeMap` behind a lock, and `skl`:
//!
//! ```text
//! cargo bench --manifest-path benches/peers/Cargo.toml --bench skiplist
//! ```
//!
//! A million entries of 24 and 16 bytes each, as everywhere; all times are of one operation times
//! the number of elements that criterion prints. Every list maps `(key, version)` to a value and
//! answers for the newest version not above one asked for. Arenas have their pages beforehand.
//!
//! An insert into `skl` 0.22 takes time linear in what is before its place: its `find_splice` looks
//! through every level from the head on, not from where the level above ended, and every insert of
//! its maps, generic or dynamic, plain or versioned, goes through there. A million in random order
//! would take hours, whatever the options. So its inserts are measured in a list of ten
//! thousand, beside the others at that size, and its reads after inserting in falling order, which
//! looks at one entry a level, beside kvdb's after the same. Its lookups do descend.
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
/// Entries of a list small enough for inserts that take linear time.
const FEW: usize = 10_000;
const RANDOM: &str = "random insertion";
const FALLING: &str = "insertion in falling order";

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
        // Entries of about 100 bytes with their towers. No free list and no compression of keys are
        // the defaults; `map_anon` can have its pages beforehand, which `alloc` cannot.
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

fn reads<L: List>(criterion: &mut Criterion, keys: &Flat, queries: &Flat, after: &str) {
    let list = L::empty();
    fill(&list, keys);
    let queries: Vec<_> = queries.iter().collect();
    let mut group = criterion.benchmark_group(format!("get after {after}"));
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
    let mut group = criterion.benchmark_group(format!("next after {after}"));
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
    reads::<SkipList>(criterion, &keys, &queries, RANDOM);
    reads::<SkipMap<Pair, Vec<u8>>>(criterion, &keys, &queries, RANDOM);
    reads::<RwLock<BTreeMap<Pair, Vec<u8>>>>(criterion, &keys, &queries, RANDOM);
    sorted(criterion, &keys.sorted());
    beside_skl(criterion, &keys, &queries);
}

/// What `skl` can do: see above.
fn beside_skl(criterion: &mut Criterion, keys: &Flat, queries: &Flat) {
    let few = Flat::new(&random_keys(FEW, SKIPLIST.1, 1));
    let mut group = criterion.benchmark_group(format!("random insert of {FEW}"));
    group.throughput(Throughput::Elements(FEW as u64));
    group.sample_size(10);
    random_insert::<SkipList>(&mut group, &few);
    random_insert::<SkipMap<Pair, Vec<u8>>>(&mut group, &few);
    random_insert::<RwLock<BTreeMap<Pair, Vec<u8>>>>(&mut group, &few);
    random_insert::<Skl>(&mut group, &few);
    group.finish();
    let mut falling: Vec<_> = keys.sorted().iter().map(<[u8]>::to_vec).collect();
    falling.reverse();
    let falling = Flat::new(&falling);
    reads::<SkipList>(criterion, &falling, queries, FALLING);
    reads::<Skl>(criterion, &falling, queries, FALLING);
}

criterion_group! {
    name = skiplist;
    config = Criterion::default()
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(2));
    targets = all
}
criterion_main!(skiplist);
