//! The skiplist beside one dependent miss and `crossbeam-skiplist`.

use std::cmp::Reverse;
use std::hint::black_box;
use std::time::Instant;

use crossbeam_skiplist::SkipMap;
use kvdb_skiplist::{Options, SkipList};

use super::Recorder;
use crate::input::{Flat, random_keys};
use crate::miss::Chase;
use crate::targets::{CHASE_BYTES, SKIPLIST};

const ROUNDS: u64 = 5;

const FEW: usize = 1000;

/// What a memtable on top of crossbeam's list would hold: keys and values of any length.
type Crossbeam = SkipMap<(Vec<u8>, Reverse<u64>), Vec<u8>>;

fn nanos(n: usize, work: impl FnOnce()) -> f64 {
    let start = Instant::now();
    work();
    start.elapsed().as_secs_f64() * 1e9 / n as f64
}

fn insert_all(list: &SkipList, keys: &Flat, value: &[u8]) {
    for key in keys.iter() {
        list.insert(key, 1, value).expect("room for every entry");
    }
}

fn get_all(list: &SkipList, keys: &Flat) -> u64 {
    keys.iter().filter_map(|key| list.get(key, 9)).map(|entry| u64::from(entry.value()[0])).sum()
}

/// Folds a byte of every key and value.
fn walk(list: &SkipList, forward: bool) -> (usize, u64) {
    let mut cursor = list.cursor();
    let mut valid = if forward { cursor.first() } else { cursor.last() };
    let (mut entries, mut sum) = (0, 0);
    while valid {
        entries += 1;
        sum += u64::from(cursor.key()[0]) + u64::from(cursor.value()[0]);
        valid = if forward { cursor.next() } else { cursor.prev() };
    }
    (entries, sum)
}

struct Inputs {
    value: Vec<u8>,
    keys: Flat,
    queries: Flat,
    /// So few of them that the caches hold all they lead through.
    few: Flat,
    missing: Flat,
    sorted: Flat,
    decimal: Flat,
    decimal_queries: Flat,
}

pub(super) fn run(recorder: &mut Recorder) {
    let (n, key_len, value_len) = SKIPLIST;
    let keys = Flat::new(&random_keys(n, key_len, 1));
    let mut decimal: Vec<_> = (0..n).map(|i| format!("{i:016}").into_bytes()).collect();
    fastrand::Rng::with_seed(3).shuffle(&mut decimal);
    let decimal = Flat::new(&decimal);
    let queries = keys.shuffled(2);
    let few: Vec<_> = queries.iter().take(FEW).map(<[u8]>::to_vec).collect();
    let inputs = Inputs {
        value: vec![7; value_len],
        queries,
        few: Flat::new(&few),
        missing: Flat::new(&random_keys(n, key_len, 4)),
        sorted: keys.sorted(),
        decimal_queries: decimal.shuffled(5),
        decimal,
        keys,
    };
    let capacity = SkipList::OVERHEAD + n * SkipList::node_bound(key_len, value_len);
    let mut list = SkipList::new(Options { capacity, prefault: true, ..Options::default() })
        .expect("memory for the list");
    let mut chase = Chase::new(CHASE_BYTES, 6);
    for round in 0..ROUNDS {
        // What comes first in a round comes last in the next.
        if round % 2 == 0 {
            let ours = ours(recorder, &mut list, &inputs, &mut chase, round);
            theirs(recorder, &inputs, ours);
        } else {
            let theirs = crossbeam(&inputs);
            let ours = ours(recorder, &mut list, &inputs, &mut chase, round);
            compare(recorder, ours, theirs);
        }
    }
}

/// Nanoseconds of an insert, a get and a step.
type Figures = [f64; 3];

fn theirs(recorder: &mut Recorder, inputs: &Inputs, ours: Figures) {
    compare(recorder, ours, crossbeam(inputs));
}

fn compare(recorder: &mut Recorder, ours: Figures, theirs: Figures) {
    recorder.record("insert vs crossbeam", ours[0], theirs[0]);
    recorder.record("get vs crossbeam", ours[1], theirs[1]);
    recorder.record("iteration vs crossbeam", ours[2], theirs[2]);
}

fn ours(
    recorder: &mut Recorder,
    list: &mut SkipList,
    inputs: &Inputs,
    chase: &mut Chase,
    seed: u64,
) -> Figures {
    let n = SKIPLIST.0;
    let Inputs { value, keys, queries, .. } = inputs;

    list.reset(seed);
    let mut d = chase.nanos(300_000);
    let insert = nanos(n, || insert_all(list, keys, value));
    d = (d + chase.nanos(300_000)) / 2.0;
    recorder.record("random insert", insert, d);
    let data = (SKIPLIST.1 + SKIPLIST.2) * n;
    let taken = list.allocated() - SkipList::OVERHEAD + list.index_bytes();
    let overhead = (taken - data) as f64 / n as f64;
    recorder.record("overhead, bytes per entry", overhead, 1.0);

    let get = nanos(n, || assert!(black_box(get_all(list, queries)) > 0));
    d = chase.nanos(300_000);
    recorder.record("get", get, d);
    let few = nanos(n, || {
        for _ in 0..n / FEW {
            assert!(black_box(get_all(list, &inputs.few)) > 0);
        }
    });
    recorder.record("get of the same thousand", few, d);
    let missing = nanos(n, || assert_eq!(get_all(list, &inputs.missing), 0));
    recorder.record("get of a missing key", missing, d);

    let next = nanos(n, || assert_eq!(black_box(walk(list, true)).0, n));
    recorder.record("next after random insertion", next, chase.nanos(300_000));
    let prev = nanos(n, || assert_eq!(black_box(walk(list, false)).0, n));
    recorder.record("prev after random insertion", prev, next);

    // One writer and two, on the same keys.
    let halves = keys.halves();
    list.reset(seed);
    let two = {
        let list = &*list;
        nanos(n, || {
            std::thread::scope(|scope| {
                for half in &halves {
                    scope.spawn(move || insert_all(list, half, value));
                }
            });
        })
    };
    recorder.record("two writers", two, insert);
    let (alone, both) = apart(&halves, value, seed);
    recorder.record("two writers, a list each: time", both, alone);

    list.reset(seed);
    let hinted = nanos(n, || {
        let mut inserter = list.inserter();
        for key in inputs.sorted.iter() {
            inserter.insert(key, 1, value).expect("room for every entry");
        }
    });
    recorder.record("sorted insert with a hint", hinted, 1.0);
    let next_sorted = nanos(n, || assert_eq!(black_box(walk(list, true)).0, n));
    recorder.record("next after sorted insertion", next_sorted, 1.0);

    list.reset(seed);
    let decimal = nanos(n, || insert_all(list, &inputs.decimal, value));
    recorder.record("insert, 16-digit decimal keys", decimal, d);
    let decimal = nanos(n, || assert!(get_all(list, &inputs.decimal_queries) > 0));
    recorder.record("get, 16-digit decimal keys", decimal, d);
    [insert, get, next]
}

/// What two threads can be to one where they share nothing: nanoseconds of an insert by one thread into a
/// list, and by two into a list each.
fn apart(halves: &[Flat; 2], value: &[u8], seed: u64) -> (f64, f64) {
    let (n, key_len, value_len) = SKIPLIST;
    let capacity = SkipList::OVERHEAD + n / 2 * SkipList::node_bound(key_len, value_len);
    let mut lists = [0, 1].map(|_| {
        SkipList::new(Options { capacity, prefault: true, seed, ..Options::default() })
            .expect("memory for the list")
    });
    let alone = nanos(n / 2, || insert_all(&lists[0], &halves[0], value));
    lists[0].reset(seed);
    let both = nanos(n, || {
        std::thread::scope(|scope| {
            for (list, half) in lists.iter().zip(halves) {
                scope.spawn(move || insert_all(list, half, value));
            }
        });
    });
    (alone, both)
}

fn crossbeam(inputs: &Inputs) -> Figures {
    let n = SKIPLIST.0;
    let map = Crossbeam::new();
    let insert = nanos(n, || {
        for key in inputs.keys.iter() {
            map.insert((key.to_vec(), Reverse(1)), inputs.value.clone());
        }
    });
    // The newest version at most 9. The query's key has to be owned; that is not counted.
    let queries: Vec<_> = inputs.queries.iter().map(|key| (key.to_vec(), Reverse(9))).collect();
    let get = nanos(n, || {
        let mut sum = 0;
        for query in &queries {
            let entry = map.lower_bound(std::ops::Bound::Included(query));
            sum += entry
                .filter(|entry| entry.key().0 == query.0)
                .map_or(0, |entry| u64::from(entry.value()[0]));
        }
        assert!(black_box(sum) > 0);
    });
    let next = nanos(n, || {
        let mut sum = 0;
        for entry in map.iter() {
            sum += u64::from(entry.key().0[0]) + u64::from(entry.value()[0]);
        }
        assert!(black_box(sum) > 0);
    });
    [insert, get, next]
}
