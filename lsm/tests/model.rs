//! Random operations against a map of versions, under many option sets: the same operations must
//! give the same answers whatever the options are (SEMANTICS 13, 25, 27, 28, 35, 51, 52).

#![allow(clippy::unwrap_used)]

mod common;

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use common::*;
use kvdb_lsm::*;
use kvdb_manifest::store::{RangeDelete, StoreChange};
use parking_lot::Mutex;

type Key = Vec<u8>;

#[derive(Debug, Clone)]
struct Stored {
    kind: Kind,
    expires_at: u64,
    payload: Vec<u8>,
}

/// What a correct tree holds, all versions for ever.
#[derive(Default, Clone)]
struct Model {
    keys: BTreeMap<Key, BTreeMap<u64, Stored>>,
    ranges: Vec<RangeDelete>,
}

impl Model {
    fn hidden(&self, key: &[u8], version: u64, at: u64) -> bool {
        self.ranges.iter().any(|r| {
            version < r.version
                && r.version <= at
                && r.start.as_slice() <= key
                && r.end.as_deref().is_none_or(|end| key < end)
        })
    }

    /// What a reader folds: payloads from the newest operand down to the value.
    fn get(&self, key: &[u8], at: u64, clock: u64) -> Option<Vec<Vec<u8>>> {
        let mut fold = Vec::new();
        for (&version, e) in self.keys.get(key)?.range(..=at).rev() {
            let expired = e.expires_at != 0 && e.expires_at <= clock;
            if self.hidden(key, version, at) || expired || e.kind == Kind::Tombstone {
                break;
            }
            fold.push(e.payload.clone());
            if !e.kind.is_merge() {
                break;
            }
        }
        (!fold.is_empty()).then_some(fold)
    }

    fn visible(&self, at: u64, clock: u64) -> Vec<(Key, Vec<Vec<u8>>)> {
        let keys = self.keys.keys();
        keys.filter_map(|k| Some((k.clone(), self.get(k, at, clock)?))).collect()
    }
}

/// What an operator that appends makes of payloads, the newest first.
fn joined(payloads: &[Vec<u8>]) -> Vec<u8> {
    payloads.iter().rev().flatten().copied().collect()
}

/// Whether the newest entry may be this one: itself, or with some of the older ones folded into it.
fn shows(got: &[u8], expected: &[Vec<u8>]) -> bool {
    got.ends_with(&expected[0]) && joined(expected).ends_with(got)
}

/// A companion whose operands are appended to what is older.
#[derive(Default)]
struct Appending {
    inner: NoCompanion,
    folds: bool,
    folded: std::sync::atomic::AtomicU64,
    gate: Mutex<Option<Gate>>,
}

/// Where the next job waits, after it has said that it has come there.
struct Gate {
    comes: Sender<()>,
    opens: Receiver<()>,
}

impl Companion for Appending {
    type View = ();
    fn pointer(&self, _: &[u8]) -> Option<(u32, u32)> {
        None
    }
    fn before_install(&self, _: &mut StoreChange, _: u64) -> Result<(), BoxError> {
        Ok(())
    }
    fn view(&self) -> Arc<()> {
        self.inner.view()
    }
    fn floor(&self) -> Floor {
        self.inner.floor()
    }
    fn hold_floor(&self) -> Floor {
        let floor = self.floor();
        if let Some(gate) = { self.gate.lock().take() } {
            gate.comes.send(()).unwrap();
            let _ = gate.opens.recv();
        }
        floor
    }
    fn folds(&self) -> bool {
        self.folds
    }
    fn fold(&self, _: &[u8], older: &[u8], newer: &[u8]) -> Option<Vec<u8>> {
        self.folded.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        // Some it cannot fold: both stay.
        (!newer.len().is_multiple_of(7)).then(|| [older, newer].concat())
    }
}

fn open(store: &Store, options: &Options, folds: bool) -> Arc<Tree<Appending>> {
    let companion = Arc::new(Appending { folds, ..Appending::default() });
    let manifest = store.manifest().unwrap();
    let fs = store.fs.clone();
    let tree = Tree::open(fs, &store.dir, manifest, options.clone(), companion, false).unwrap();
    tree.remove_orphans().unwrap();
    tree.start().unwrap();
    tree
}

fn fold(s: &Superversion<()>, key: &[u8], at: u64, clock: u64) -> Option<Vec<Vec<u8>>> {
    let mut fold = Vec::new();
    assert_eq!(
        s.get(key, at, key_hash(key)).unwrap().map(|f| f.version()),
        s.get_older(key, u64::MAX, at, key_hash(key)).unwrap().map(|f| f.version()),
    );
    let mut older_than = u64::MAX;
    while let Some(found) = s.get_older(key, older_than, at, key_hash(key)).unwrap() {
        let entry = found.entry();
        if entry.is_absent(clock) {
            break;
        }
        assert_eq!(&*found.to_region(), entry.payload);
        fold.push(entry.payload.to_vec());
        if !entry.kind.is_merge() {
            break;
        }
        older_than = found.version();
    }
    (!fold.is_empty()).then_some(fold)
}

struct Snapshot {
    superversion: Arc<Superversion<()>>,
    at: u64,
    clock: u64,
    expected: Vec<(Key, Vec<Vec<u8>>)>,
    cursor: Visible<TreeCursor>,
}

/// Tables of level 0 that slow writers down under every option set.
const MOST_TOP: usize = 14;

struct Run {
    rng: fastrand::Rng,
    store: Store,
    options: Options,
    tree: Arc<Tree<Appending>>,
    folds: bool,
    folded: u64,
    /// Bytes that compactions of level 0 in itself have read.
    merged_top: u64,
    model: Model,
    version: u64,
    floor: Floor,
    snapshots: Vec<Snapshot>,
}

impl Run {
    fn new(seed: u64, options: Options, folds: bool) -> Run {
        let store = Store::new();
        let tree = open(&store, &options, folds);
        let rng = fastrand::Rng::with_seed(seed);
        Run {
            rng,
            store,
            options,
            tree,
            folds,
            folded: 0,
            merged_top: 0,
            model: Model::default(),
            version: 0,
            floor: Floor::default(),
            snapshots: Vec::new(),
        }
    }

    fn key(&mut self) -> Key {
        let n = self.rng.u32(..150);
        match n % 3 {
            0 => format!("{n:03}").into_bytes(),
            1 => format!("a key with a long common prefix {n:03}").into_bytes(),
            _ => vec![0xFF; (n % 20) as usize + 1],
        }
    }

    fn write(&mut self) {
        self.version += self.rng.u64(1..3);
        let mut frame: BTreeMap<Key, Stored> = BTreeMap::new();
        for _ in 0..self.rng.usize(1..6) {
            let key = self.key();
            let kind = match self.rng.u32(..10) {
                0..=5 => Kind::Value,
                6 => Kind::Merge,
                _ => Kind::Tombstone,
            };
            let len = if self.rng.u32(..50) == 0 { 3000 } else { self.rng.usize(..60) };
            let mut payload = self.version.to_be_bytes().to_vec();
            payload.resize(8 + len, 7);
            if kind == Kind::Tombstone {
                payload.clear();
            }
            let expires_at = match self.rng.u32(..5) {
                0 if kind == Kind::Value => self.floor.clock + self.rng.u64(1..40),
                _ => 0,
            };
            frame.insert(key, Stored { kind, expires_at, payload });
        }
        let entries: Vec<(&[u8], Entry<'_>)> = frame
            .iter()
            .map(|(k, e)| (k.as_slice(), Entry::new(e.kind, &e.payload).with_expiry(e.expires_at)))
            .collect();
        self.tree.write(self.version, &entries).unwrap();
        for (key, stored) in frame {
            self.model.keys.entry(key).or_default().insert(self.version, stored);
        }
    }

    fn range_delete(&mut self) {
        let (a, b) = (self.key(), self.key());
        if a == b {
            return;
        }
        self.version += 1;
        let range = RangeDelete {
            start: a.clone().min(b.clone()),
            end: (self.rng.u32(..10) > 0).then(|| a.max(b)),
            version: self.version,
        };
        let change =
            StoreChange { range_deletes_added: vec![range.clone()], ..StoreChange::default() };
        self.tree.install(change).unwrap();
        self.model.ranges.push(range);
    }

    fn raise_floor(&mut self) {
        self.floor.discard = self.rng.u64(self.floor.discard..=self.version);
        self.floor.clock += self.rng.u64(..20);
        self.tree.companion().inner.raise_floor(self.floor);
    }

    fn check_gets(&mut self) {
        let at = self.rng.u64(self.floor.discard..=self.version + 1);
        let clock = self.floor.clock + self.rng.u64(..20);
        let superversion = self.tree.superversion();
        assert!(superversion.watermark() <= self.floor.discard);
        for _ in 0..10 {
            let key = self.key();
            let got = fold(&superversion, &key, at, clock);
            let expected = self.model.get(&key, at, clock);
            let joined = |payloads: Option<Vec<_>>| payloads.map(|p| joined(&p));
            assert_eq!(joined(got), joined(expected), "{key:?} at {at}");
        }
    }

    fn check_scan(&mut self) {
        let at = self.rng.u64(self.floor.discard..=self.version + 1);
        let clock = self.floor.clock + self.rng.u64(..20);
        let (lower, upper) = (self.bound(), self.bound());
        let inside = |key: &[u8]| {
            let above = match &lower {
                Bound::Unbounded => true,
                Bound::Included(b) => key >= b.as_slice(),
                Bound::Excluded(b) => key > b.as_slice(),
            };
            above
                && match &upper {
                    Bound::Unbounded => true,
                    Bound::Included(b) => key <= b.as_slice(),
                    Bound::Excluded(b) => key < b.as_slice(),
                }
        };
        let mut expected = self.model.visible(at, clock);
        expected.retain(|(k, _)| inside(k));
        let superversion = self.tree.superversion();
        let cursor = superversion.cursor_with(&CursorOptions {
            lower: lower.clone(),
            upper: upper.clone(),
            ..CursorOptions::default()
        });
        let range_deletes = superversion.range_deletes().clone();
        let options = VisibleOptions { at_most: at, clock, range_deletes, since: 0 };
        let mut cursor = Visible::new(Bounded::new(cursor, lower, upper), options);
        // A position: index into `expected`; -1 before it, its length behind it.
        let end = expected.len() as isize;
        let mut position = -1;
        cursor.seek_for_prev(b"").unwrap();
        for _ in 0..40 {
            let valid = match self.rng.u32(..20) {
                0 => {
                    position = 0;
                    cursor.first()
                }
                1 => {
                    position = end - 1;
                    cursor.last()
                }
                2 => {
                    let key = self.key();
                    position = expected.partition_point(|(k, _)| *k < key) as isize;
                    cursor.seek(&key)
                }
                3 => {
                    let key = self.key();
                    position = expected.partition_point(|(k, _)| *k <= key) as isize - 1;
                    cursor.seek_for_prev(&key)
                }
                4..=12 => {
                    position = (position + 1).min(end);
                    cursor.next()
                }
                _ => {
                    position = (position - 1).max(-1);
                    cursor.prev()
                }
            };
            let valid = valid.unwrap();
            match usize::try_from(position).ok().and_then(|p| expected.get(p)) {
                Some((key, value)) => {
                    assert!(valid && cursor.valid());
                    assert_eq!(cursor.key(), key);
                    assert!(shows(cursor.entry().unwrap().payload, value));
                }
                None => assert!(!valid && !cursor.valid()),
            }
        }
    }

    fn bound(&mut self) -> Bound<Key> {
        match self.rng.u32(..4) {
            0 => Bound::Included(self.key()),
            1 => Bound::Excluded(self.key()),
            _ => Bound::Unbounded,
        }
    }

    fn take_snapshot(&mut self) {
        let superversion = self.tree.superversion();
        let (at, clock) = (self.version, self.floor.clock + 5);
        let options = VisibleOptions {
            at_most: at,
            clock,
            range_deletes: superversion.range_deletes().clone(),
            ..VisibleOptions::default()
        };
        let cursor = Visible::new(superversion.cursor(), options);
        let expected = self.model.visible(at, clock);
        self.snapshots.push(Snapshot { superversion, at, clock, expected, cursor });
    }

    /// Whatever has happened to the tree, a superversion and a cursor of old show what they did.
    fn check_snapshot(&mut self) {
        if self.snapshots.is_empty() {
            return;
        }
        let i = self.rng.usize(..self.snapshots.len());
        let mut s = self.snapshots.swap_remove(i);
        let mut got = Vec::new();
        let mut valid = s.cursor.first().unwrap();
        while valid {
            got.push((s.cursor.key().to_vec(), s.cursor.entry().unwrap().payload.to_vec()));
            valid = s.cursor.next().unwrap();
        }
        assert_eq!(got.len(), s.expected.len());
        for ((key, payload), (expected_key, expected)) in got.iter().zip(&s.expected) {
            assert!(key == expected_key && shows(payload, expected));
            let folded = fold(&s.superversion, key, s.at, s.clock).unwrap();
            assert_eq!(joined(&folded), joined(expected));
        }
    }

    fn reopen(&mut self) {
        // Another opening does not know what was pinned before.
        self.snapshots.clear();
        self.tree.flush().unwrap();
        self.tree.close();
        self.note_done();
        self.tree = open(&self.store, &self.options, self.folds);
        self.tree.companion().inner.raise_floor(self.floor);
    }

    fn note_done(&mut self) {
        self.folded += self.tree.companion().folded.load(std::sync::atomic::Ordering::Relaxed);
        self.merged_top += self.tree.stats().levels[0].read_bytes;
    }

    /// Writes, reads and jobs while a compaction is under way: by hand, jobs follow each other, and the
    /// base level would never be busy when it is level 0's turn. What is drawn is the same in every tree.
    fn beside_a_compaction(&mut self) {
        let by_hand = self.options.background == Background::Manual;
        let other = by_hand.then(|| {
            let (comes, come) = channel();
            let (open, opens) = channel();
            let tree = self.tree.clone();
            *tree.companion().gate.lock() = Some(Gate { comes, opens });
            let other = std::thread::spawn(move || {
                let outcome = tree.step(Job::Compact);
                // One without a gate to pass: nothing to do, or tables that only change their level.
                tree.companion().gate.lock().take();
                outcome
            });
            let _ = come.recv();
            (other, open)
        });
        for _ in 0..MOST_TOP {
            for _ in 0..self.rng.usize(1..4) {
                self.write();
            }
            self.tree.flush().unwrap();
        }
        self.check_gets();
        self.take_snapshot();
        self.tree.step(Job::Compact).unwrap();
        self.check_scan();
        self.check_snapshot();
        if let Some((other, open)) = other {
            drop(open);
            other.join().unwrap().unwrap();
        }
        self.check_scan();
    }

    fn step(&mut self) {
        match self.rng.u32(..1000) {
            0..=699 => self.write(),
            700..=703 => self.range_delete(),
            704..=719 => _ = self.tree.rotate().unwrap(),
            720..=739 => drop(self.tree.step(Job::Flush).unwrap()),
            740..=789 => drop(self.tree.step(Job::Compact).unwrap()),
            790..=799 => drop(self.tree.step(Job::Reclaim).unwrap()),
            800..=819 => self.tree.flush().unwrap(),
            820..=823 => {
                let (a, b) = (self.key(), self.key());
                let (a, b) = (a.clone().min(b.clone()), a.max(b));
                self.tree.compact_range(Some(&a), Some(&b)).unwrap();
            }
            824 => self.tree.major_compact().unwrap(),
            825..=830 => self.raise_floor(),
            831..=834 => self.beside_a_compaction(),
            835..=914 => self.check_gets(),
            915..=964 => self.check_scan(),
            965..=974 => self.take_snapshot(),
            975..=984 => self.check_snapshot(),
            985..=989 => self.tree.verify().unwrap(),
            990..=994 => self.tree.wait_idle().unwrap(),
            _ => self.reopen(),
        }
    }
}

fn option_sets() -> Vec<Options> {
    let mut sets = vec![small()];
    let mut add = |f: &dyn Fn(&mut Options)| {
        let mut o = small();
        f(&mut o);
        sets.push(o);
    };
    add(&|o| o.versions_to_keep = 3);
    add(&|o| o.max_levels = 2);
    add(&|o| o.level_size_multiplier = 2);
    add(&|o| o.compression = Compression::Lz4);
    add(&|o| o.reads = Reads::Positioned { block_cache_bytes: 64 << 10 });
    add(&|o| o.bits_per_key = 0);
    add(&|o| o.restart_interval = 1);
    add(&|o| o.block_size = 256);
    add(&|o| o.min_split_bytes = 1);
    add(&|o| {
        o.compaction_threads = 4;
        o.min_split_bytes = 4 << 10;
    });
    add(&|o| o.max_replay_bytes = 1);
    add(&|o| o.l0_compaction_trigger = 1);
    add(&|o| {
        o.l0_compaction_trigger = 8;
        o.l0_slowdown_trigger = 8;
    });
    sets
}

fn run(seed: u64, options: Options, folds: bool, steps: usize) {
    let folded = folds && options.versions_to_keep == 1;
    let mut run = Run::new(seed, options, folds);
    for _ in 0..steps {
        run.step();
    }
    run.raise_floor();
    run.tree.wait_idle().unwrap();
    run.tree.verify().unwrap();
    for _ in 0..10 {
        run.check_gets();
        run.check_scan();
    }
    while !run.snapshots.is_empty() {
        run.check_snapshot();
    }
    // Nobody holds anything any more: what is in the directory is what the tree consists of.
    run.tree.wait_idle().unwrap();
    // Files go with the last holder, and a thread that was just put to sleep may hold what it replaced.
    let files_are_tables = || {
        let tables: usize = run.tree.superversion().table_counts().iter().sum();
        run.store.table_files().len() == tables
    };
    let until = Instant::now() + Duration::from_secs(20);
    while !files_are_tables() && Instant::now() < until {
        std::thread::sleep(Duration::from_millis(1));
    }
    assert!(files_are_tables(), "files that belong to no table");
    run.note_done();
    assert_eq!(run.folded > 0, folded, "{}", run.folded);
    let by_hand = run.options.background == Background::Manual;
    assert!(run.merged_top > 0 || !by_hand, "level 0 was never merged in itself");
}

#[test]
fn random_operations_give_what_a_map_of_versions_gives() {
    for round in 0..scale() {
        for (i, options) in option_sets().into_iter().enumerate() {
            let seed = round * 1000 + i as u64;
            let outcome =
                std::panic::catch_unwind(|| run(seed, options.clone(), i % 2 == 0, 15_000));
            assert!(outcome.is_ok(), "seed {seed} with {options:?}");
        }
    }
}

/// Options drawn at random, within what makes a small tree busy.
fn random_options(seed: u64) -> Options {
    let mut rng = fastrand::Rng::with_seed(seed);
    let mut o = small();
    o.memtable_size = 64 << 10 << rng.u32(..3);
    o.max_memtables = rng.usize(2..6);
    o.max_replay_bytes = 1 << rng.u32(10..30);
    o.table_size = 16 << 10 << rng.u32(..4);
    o.l0_compaction_trigger = rng.usize(1..8);
    o.l0_slowdown_trigger = o.l0_compaction_trigger + rng.usize(..8);
    assert!(o.l0_slowdown_trigger <= MOST_TOP);
    o.l0_stop_trigger = o.l0_slowdown_trigger + rng.usize(1..8);
    o.base_level_size = 16 << 10 << rng.u32(..5);
    o.level_size_multiplier = rng.u64(2..12);
    o.max_levels = rng.usize(2..8);
    o.compaction_threads = rng.usize(1..5);
    o.min_split_bytes = 1 << rng.u32(..20);
    o.versions_to_keep = rng.usize(1..4);
    o.block_size = 256 << rng.u32(..6);
    o.restart_interval = 1 << rng.u32(..8);
    o.bits_per_key = rng.u32(..16);
    if rng.bool() {
        o.compression = Compression::Lz4;
    }
    if rng.bool() {
        o.reads = Reads::Positioned { block_cache_bytes: 1 << rng.u32(12..22) };
    }
    if rng.bool() {
        (o.background, o.idle_after_ms) = (Background::Threads, rng.u64(1..50));
    }
    o
}

#[test]
fn the_same_operations_give_the_same_answers_under_twenty_random_option_sets() {
    for set in 0..20 * scale() {
        let options = random_options(set);
        // One seed for all: what is done and what is asked depends on nothing else.
        let outcome = std::panic::catch_unwind(|| run(7, options.clone(), set % 2 == 0, 4_000));
        assert!(outcome.is_ok(), "set {set}: {options:?}");
    }
}
