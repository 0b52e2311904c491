//! Real concurrent histories, checked for serializability in two ways.

use std::collections::{BTreeMap, HashMap};
use std::thread;

use crate::store::{Key, Record, Store};
use kvdb_txn::{CommitError, Mode, Options};

const KEYS: Key = 48;

/// A small generator, so that a history is the threads' doing and not the generator's.
struct Random(u64);

impl Random {
    fn below(&mut self, n: u32) -> u32 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 33) as u32 % n
    }
}

/// Runs transactions on several threads, with compaction under them.
fn history(store: &Store, threads: u64, each: usize) -> Vec<Record> {
    let run = |seed| {
        let mut random = Random(seed);
        let mut records = Vec::new();
        for i in 0..each {
            let mut txn = store.begin(Mode::ReadWrite);
            for _ in 0..random.below(3) {
                txn.get(random.below(KEYS));
            }
            if random.below(2) == 0 {
                let start = random.below(KEYS);
                txn.scan(start..KEYS.min(start + 1 + random.below(6)));
            }
            if random.below(4) == 0 {
                thread::yield_now();
            }
            for _ in 0..1 + random.below(2) {
                txn.put(random.below(KEYS), i as i64);
            }
            match txn.commit() {
                Ok(record) => records.extend(record),
                Err(CommitError::Conflict) => {}
                Err(other) => panic!("{other}"),
            }
            if random.below(64) == 0 {
                store.compact();
            }
        }
        records
    };
    thread::scope(|scope| {
        let threads: Vec<_> = (1..=threads)
            .map(|t| scope.spawn(move || run(t.wrapping_mul(0x9e37_79b9_7f4a_7c15))))
            .collect();
        threads.into_iter().flat_map(|t| t.join().unwrap()).collect()
    })
}

/// Who wrote which version of each key, in version order.
fn writers(history: &[Record]) -> BTreeMap<Key, Vec<u64>> {
    let mut writers: BTreeMap<Key, Vec<u64>> = BTreeMap::new();
    for record in history {
        for key in &record.wrote {
            writers.entry(*key).or_default().push(record.version);
        }
    }
    writers.values_mut().for_each(|versions| versions.sort_unstable());
    writers
}

/// By versions: what was seen is the newest at the read version, and unchanged at the commit.
fn violation_by_versions(history: &[Record]) -> Option<String> {
    let writers = writers(history);
    for record in history {
        for seen in &record.seen {
            let versions = writers.get(&seen.key).map_or(&[][..], Vec::as_slice);
            let newest = |at: u64| versions.iter().rev().find(|v| **v <= at).copied().unwrap_or(0);
            if newest(record.read_version) != seen.version {
                return Some(format!("not the newest version: {seen:?} in {record:?}"));
            }
            if newest(record.version - 1) != seen.version {
                return Some(format!("changed before the commit: {seen:?} in {record:?}"));
            }
        }
    }
    None
}

/// By dependencies: an order of all transactions that explains every read must exist. The edges
/// are those of each key's own order of writers; how the versions of different keys compare is
/// not looked at.
fn has_cycle(history: &[Record]) -> bool {
    let index: HashMap<u64, usize> =
        history.iter().enumerate().map(|(i, record)| (record.version, i)).collect();
    let mut edges = vec![Vec::new(); history.len()];
    let writers = writers(history);
    for versions in writers.values() {
        for pair in versions.windows(2) {
            edges[index[&pair[0]]].push(index[&pair[1]]);
        }
    }
    for (reader, record) in history.iter().enumerate() {
        for seen in &record.seen {
            let versions = writers.get(&seen.key).map_or(&[][..], Vec::as_slice);
            if seen.version != 0 {
                edges[index[&seen.version]].push(reader);
            }
            let next = versions.partition_point(|v| *v <= seen.version);
            if let Some(next) = versions.get(next).map(|v| index[v]).filter(|n| *n != reader) {
                edges[reader].push(next);
            }
        }
    }
    let mut incoming = vec![0usize; history.len()];
    edges.iter().flatten().for_each(|&to| incoming[to] += 1);
    let mut ready: Vec<usize> = (0..history.len()).filter(|&i| incoming[i] == 0).collect();
    let mut ordered = 0;
    while let Some(from) = ready.pop() {
        ordered += 1;
        for &to in &edges[from] {
            incoming[to] -= 1;
            if incoming[to] == 0 {
                ready.push(to);
            }
        }
    }
    ordered < history.len()
}

/// SEMANTICS 12, 18, 19: points, ranges, and absent keys, on four threads.
#[test]
fn concurrent_histories_are_serializable() {
    let store = Store::new(Options::default());
    let history = history(&store, 4, 4000);
    assert!(history.len() > 2000, "most commit: {}", history.len());
    assert_eq!(violation_by_versions(&history), None);
    assert!(!has_cycle(&history));
    assert_eq!(store.oracle.open_transactions(), (0, 0));
    assert_eq!(store.oracle.tracked_bytes(), 0);
}

/// The checker is not blind: without the ranges, it finds the phantoms.
#[test]
fn a_history_without_range_tracking_is_found_out() {
    let found = (0..20).any(|_| {
        let mut store = Store::new(Options::default());
        store.ignore_ranges = true;
        let history = history(&store, 4, 2000);
        violation_by_versions(&history).is_some() && has_cycle(&history)
    });
    assert!(found);
}

/// SEMANTICS 22: with detection off the last commit wins, and the checker sees that as well.
#[test]
fn a_history_without_detection_is_found_out() {
    let found = (0..20).any(|_| {
        let options = Options { detect_conflicts: false, ..Options::default() };
        let store = Store::new(options);
        let history = history(&store, 4, 2000);
        assert_eq!(history.len(), 8000, "nothing conflicts");
        assert_eq!(store.oracle.tracked_bytes(), 0);
        violation_by_versions(&history).is_some() && has_cycle(&history)
    });
    assert!(found);
}
