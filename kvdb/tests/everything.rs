//! All there is, at once: merges, expiry, drops of ranges, collections of the log, old versions,
//! snapshots that are held, transactions, asynchronous commits, crashes. A history is kept beside
//! the store, and whatever a reader at some version and clock is shown is compared with it.
#![allow(clippy::unwrap_used)] // a test may panic

mod common;

use std::collections::BTreeMap;
use std::ops::{Bound, ControlFlow};
use std::sync::Arc;

use common::{Contents, PATH, contents, manual, scale, value};
use kvdb::vfs::{Fs, Keep, ManualClock, MemFs};
use kvdb::{
    Db, Durability, Error, GcOptions, MergeOperator, Options, Snapshot, Step, WriteOptions,
};

#[derive(Debug, Clone)]
enum Write {
    Put { key: Vec<u8>, value: Vec<u8>, expires_at: Option<u64> },
    Delete(Vec<u8>),
    Merge { key: Vec<u8>, operand: Vec<u8> },
    Drop { start: Vec<u8>, end: Option<Vec<u8>> },
}

/// All writes, with their versions, in order.
#[derive(Debug, Default)]
struct History(Vec<(u64, Write)>);

/// What one key holds: the version of its newest write, and the value if it is there.
type Keys = BTreeMap<Vec<u8>, (u64, Option<Vec<u8>>)>;

impl History {
    /// Every key written up to a version, as a reader with this clock sees it.
    fn keys(&self, version: u64, clock: u64) -> Keys {
        let mut keys = Keys::new();
        for (at, write) in self.0.iter().take_while(|(at, _)| *at <= version) {
            match write {
                Write::Put { key, value, expires_at } => {
                    let there = expires_at.is_none_or(|e| e > clock);
                    keys.insert(key.clone(), (*at, there.then(|| value.clone())));
                }
                Write::Delete(key) => drop(keys.insert(key.clone(), (*at, None))),
                Write::Merge { key, operand } => {
                    let old = keys.remove(key).and_then(|(_, value)| value).unwrap_or_default();
                    keys.insert(key.clone(), (*at, Some([&old[..], operand].concat())));
                }
                Write::Drop { start, end } => {
                    keys.retain(|k, _| k < start || end.as_ref().is_some_and(|end| k >= end));
                }
            }
        }
        keys
    }

    fn contents(&self, version: u64, clock: u64) -> Contents {
        let keys = self.keys(version, clock).into_iter();
        keys.filter_map(|(key, (_, value))| Some((key, value?))).collect()
    }
}

fn short(contents: &Contents) -> Vec<(String, usize, u64)> {
    let number =
        |v: &[u8]| v.iter().fold(7u64, |h, b| h.wrapping_mul(31).wrapping_add((*b).into()));
    contents
        .iter()
        .map(|(k, v)| (String::from_utf8_lossy(k).into_owned(), v.len(), number(v)))
        .collect()
}

struct Held {
    snapshot: Snapshot,
    clock: u64,
    iter: Option<(kvdb::Iter<'static>, Contents)>,
}

struct World {
    options: Options,
    fs: Arc<MemFs>,
    clock: Arc<ManualClock>,
    db: Db,
    history: History,
    held: Vec<Held>,
    rng: fastrand::Rng,
    now: u64,
    step: u64,
    what: String,
}

fn option_sets() -> Vec<Options> {
    let append = MergeOperator::new(|_key, older, newer| [older, newer].concat());
    let base = || manual().merge_operator(append.clone());
    vec![
        base().durability(Durability::Buffered),
        base().versions_to_keep(3),
        base().memory_map(false).durability(Durability::Buffered).value_threshold(64),
        base().versions_to_keep(usize::MAX).durability(Durability::Buffered),
        base().value_dir("/values"),
    ]
}

impl World {
    fn open(options: &Options, fs: &Arc<MemFs>, clock: &Arc<ManualClock>) -> Db {
        options.open_with(fs.clone() as Arc<dyn Fs>, clock.clone(), PATH).unwrap()
    }

    fn new(options: Options, seed: u64, what: String) -> World {
        let fs = Arc::new(MemFs::new());
        let clock = Arc::new(ManualClock::new(1000));
        let db = World::open(&options, &fs, &clock);
        World {
            options,
            fs,
            clock,
            db,
            history: History::default(),
            held: Vec::new(),
            rng: fastrand::Rng::with_seed(seed),
            now: 1000,
            step: 0,
            what,
        }
    }

    fn key(&mut self) -> Vec<u8> {
        let rng = &mut self.rng;
        vec![b'a' + rng.u8(..5), b'a' + rng.u8(..6), b'a' + rng.u8(..3)]
    }

    fn some_value(&mut self) -> Vec<u8> {
        self.step += 1;
        let len = match self.rng.u32(..10) {
            0..4 => self.rng.usize(1..200),
            4..9 => self.rng.usize(200..2000),
            _ => self.rng.usize(2000..60_000),
        };
        value(self.step, len)
    }

    fn write(&mut self) -> Write {
        let key = self.key();
        match self.rng.u32(..20) {
            0..10 => Write::Put { key, value: self.some_value(), expires_at: None },
            10..12 => {
                let expires_at = Some(self.now + self.rng.u64(..6));
                Write::Put { key, value: self.some_value(), expires_at }
            }
            12..15 => Write::Delete(key),
            _ => {
                self.step += 1;
                Write::Merge { key, operand: format!("+{}", self.step).into_bytes() }
            }
        }
    }

    fn commit(&mut self) {
        match self.rng.u32(..12) {
            0..7 => {
                let write = self.write();
                let version = match &write {
                    Write::Put { key, value, expires_at: None } => self.db.put(key, value),
                    Write::Put { key, value, expires_at: Some(at) } => {
                        let options = WriteOptions::default().expires_at(*at);
                        self.db.put_with(key, value, options)
                    }
                    Write::Delete(key) => self.db.delete(key),
                    Write::Merge { key, operand } => self.db.merge(key, operand),
                    Write::Drop { .. } => unreachable!(),
                };
                self.history.0.push((version.unwrap(), write));
            }
            7..9 => {
                // One write a key: what folds within a transaction is another test's.
                let mut batch = self.db.batch();
                let mut writes: BTreeMap<Vec<u8>, Write> = BTreeMap::new();
                for _ in 0..self.rng.u32(1..30) {
                    let write = self.write();
                    let key = match &write {
                        Write::Put { key, .. } | Write::Delete(key) | Write::Merge { key, .. } => {
                            key
                        }
                        Write::Drop { .. } => unreachable!(),
                    };
                    if writes.contains_key(key) {
                        continue;
                    }
                    match &write {
                        Write::Put { key, value, expires_at } => {
                            let options = WriteOptions::default();
                            let options = expires_at.map_or(options, |at| options.expires_at(at));
                            batch.put_with(key, value, options).unwrap();
                        }
                        Write::Delete(key) => batch.delete(key).unwrap(),
                        Write::Merge { key, operand } => batch.merge(key, operand).unwrap(),
                        Write::Drop { .. } => unreachable!(),
                    }
                    writes.insert(key.clone(), write);
                }
                let version = match self.rng.bool() {
                    true => batch.commit().unwrap(),
                    false => batch.commit_async().unwrap().wait().unwrap(),
                };
                self.history.0.extend(writes.into_values().map(|write| (version, write)));
            }
            9..11 => self.transaction(),
            _ => {
                let (a, b) = (self.key(), self.key());
                let (start, end) = match self.rng.u32(..4) {
                    0 => (a[..1].to_vec(), Some(vec![a[0] + 1])),
                    1 => (a.clone().min(b.clone()), Some(a.max(b))),
                    2 => (a, None),
                    _ if self.rng.u32(..4) == 0 => (Vec::new(), None),
                    _ => (a[..2].to_vec(), Some(vec![a[0], a[1] + 1])),
                };
                let lower = Bound::Included(start.clone());
                let upper = end.clone().map_or(Bound::Unbounded, Bound::Excluded);
                let before = self.db.version();
                let version = self.db.drop_range((lower, upper)).unwrap();
                if version > before {
                    self.history.0.push((version, Write::Drop { start, end }));
                }
            }
        }
    }

    /// Reads and writes in one transaction: its own writes are seen over the snapshot.
    fn transaction(&mut self) {
        let mut t = self.db.begin().unwrap();
        let mut writes = BTreeMap::new();
        for _ in 0..self.rng.u32(1..6) {
            let write = self.write();
            match &write {
                Write::Put { key, value, .. } => {
                    t.put(key, value).unwrap();
                    let put =
                        Write::Put { key: key.clone(), value: value.clone(), expires_at: None };
                    writes.insert(key.clone(), put);
                }
                Write::Delete(key) => {
                    t.delete(key).unwrap();
                    writes.insert(key.clone(), write);
                }
                Write::Merge { key, operand } if !writes.contains_key(key) => {
                    t.merge(key, operand).unwrap();
                    writes.insert(key.clone(), write);
                }
                _ => {}
            }
        }
        let read = t.read_version();
        let mut expected = History(self.history.0.clone());
        expected.0.retain(|(version, _)| *version <= read);
        expected.0.extend(writes.values().map(|write| (u64::MAX, write.clone())));
        let expected = expected.contents(u64::MAX, self.now);
        if self.rng.bool() {
            let seen: Contents = t
                .iter()
                .map(|item| item.unwrap())
                .map(|item| (item.key().to_vec(), item.value().unwrap().into_vec()))
                .collect();
            assert_eq!(short(&seen), short(&expected), "{}: in a transaction", self.what);
        }
        let key = self.key();
        assert_eq!(t.get(&key).unwrap().as_deref(), expected.get(&key).map(|v| &v[..]));
        let version = t.commit().unwrap();
        self.history.0.extend(writes.into_values().map(|write| (version, write)));
    }

    fn background(&mut self) {
        let what = self.what.clone();
        match self.rng.u32(..12) {
            0..3 => drop(self.db.step(Step::Flush).unwrap()),
            3..5 => drop(self.db.step(Step::Compact).unwrap()),
            5 => self.db.flush().unwrap(),
            6 => self.db.compact().unwrap(),
            7 => {
                while self.db.step(Step::PrepareLog).unwrap() {}
                while self.db.step(Step::FreeSegments).unwrap() {}
                while self.db.step(Step::Reclaim).unwrap() {}
            }
            8 => drop(self.db.step(Step::SyncLog).unwrap()),
            9 => drop(self.db.step(Step::Collect).unwrap()),
            _ => {
                while self.db.step(Step::PrepareLog).unwrap() {}
                let options = match self.rng.u32(..3) {
                    0 => GcOptions::full(),
                    1 => GcOptions::default().min_garbage(0.0),
                    _ => GcOptions::default().sort(true).batch_bytes(1),
                };
                let (db, rng) = (&self.db, &mut self.rng);
                let (act, at, cancels) = (rng.u32(..5), rng.u32(..8), rng.u32(..4) == 0);
                let mut stages = 0;
                let ended = db.gc_with(&options, |_, _| {
                    stages += 1;
                    if stages == at {
                        match act {
                            0 => db.compact().unwrap(),
                            1 => db.flush().unwrap(),
                            2 => drop(db.step(Step::FreeSegments).unwrap()),
                            3 => drop(db.step(Step::Compact).unwrap()),
                            _ => {}
                        }
                        if cancels {
                            return ControlFlow::Break(());
                        }
                    }
                    ControlFlow::Continue(())
                });
                match ended {
                    Ok(report) => assert!(report.damaged.is_empty(), "{what}: {report:?}"),
                    Err(Error::Cancelled) if cancels => {}
                    Err(error) => panic!("{what}: {error}"),
                }
            }
        }
    }

    fn check_snapshot(&self, snapshot: &Snapshot, clock: u64, why: &str) {
        let expected = self.history.contents(snapshot.version(), clock);
        let seen = contents(snapshot);
        assert!(
            seen == expected,
            "{}: {why} at {}:\n{:?}\nexpected\n{:?}",
            self.what,
            snapshot.version(),
            short(&seen),
            short(&expected)
        );
    }

    fn check(&mut self) {
        let snapshot = self.db.snapshot().unwrap();
        self.check_snapshot(&snapshot, self.now, "now");
        let keys = self.history.keys(snapshot.version(), self.now);
        // Absent keys, one by one and together.
        let asked: Vec<Vec<u8>> = (0..20).map(|_| self.key()).collect();
        let got = self.db.multi_get(&asked).unwrap();
        for (key, got) in asked.iter().zip(got) {
            let expected = keys.get(key).and_then(|(_, value)| value.as_deref());
            assert!(got.as_deref() == expected, "{}: multi_get of {key:?}", self.what);
            assert_eq!(self.db.contains(key).unwrap(), expected.is_some());
        }
        // What is newer than some version.
        let pick = self.rng.usize(..self.history.0.len().max(1));
        let since = self.history.0.get(pick).map_or(0, |(version, _)| *version);
        let newer: Vec<(Vec<u8>, u64)> = snapshot
            .iter()
            .since(since)
            .map(|item| item.unwrap())
            .map(|item| (item.key().to_vec(), item.version()))
            .collect();
        let expected: Vec<(Vec<u8>, u64)> = keys
            .iter()
            .filter(|(_, (version, value))| *version > since && value.is_some())
            .map(|(key, (version, _))| (key.clone(), *version))
            .collect();
        assert_eq!(newer, expected, "{}: since {since}", self.what);
        // An older version, if it is still there; and every version that is shown.
        if let Ok(older) = self.db.snapshot_at(since) {
            self.check_snapshot(&older, self.now, "an older version");
        }
        let mut cache: BTreeMap<u64, Keys> = BTreeMap::new();
        for item in snapshot.versions() {
            let item = item.unwrap();
            let keys = cache
                .entry(item.version())
                .or_insert_with(|| self.history.keys(item.version(), self.now));
            let (version, value) = keys.get(item.key()).unwrap_or_else(|| {
                panic!("{}: {item:?} was never written", self.what);
            });
            assert_eq!(*version, item.version(), "{}: {item:?}", self.what);
            let there = !item.is_deleted() && !item.is_expired();
            assert_eq!(there, value.is_some(), "{}: {item:?}", self.what);
            if let (true, Some(value)) = (there, value) {
                assert!(item.value().unwrap() == value[..], "{}: {item:?}", self.what);
            }
        }
    }

    fn hold(&mut self) {
        if self.held.len() < 3 && self.rng.bool() {
            let snapshot = self.db.snapshot().unwrap();
            let iter = self
                .rng
                .bool()
                .then(|| (snapshot.iter(), self.history.contents(snapshot.version(), self.now)));
            self.held.push(Held { snapshot, clock: self.now, iter });
        } else if !self.held.is_empty() {
            let held = self.held.swap_remove(self.rng.usize(..self.held.len()));
            self.check_snapshot(&held.snapshot, held.clock, "a snapshot that was held");
            if let Some((iter, expected)) = held.iter {
                let seen: Contents = iter
                    .map(|item| item.unwrap())
                    .map(|item| (item.key().to_vec(), item.value().unwrap().into_vec()))
                    .collect();
                assert_eq!(short(&seen), short(&expected), "{}: a held iterator", self.what);
            }
        }
    }

    /// Ends this life, one way or the other, and begins the next.
    fn again(&mut self) {
        let how = self.rng.u32(..6);
        let sync = self.options.durability == Durability::Sync;
        match how {
            0..2 => {
                self.held.clear();
                self.db.close().unwrap();
            }
            2..4 => self.fs = Arc::new(self.fs.process_image()),
            _ => {
                if !sync {
                    self.db.sync().unwrap();
                }
                let mut keep = Keep::Random(self.rng.u64(..));
                self.fs = Arc::new(self.fs.crash_image(&mut keep));
            }
        }
        self.held.clear();
        self.clock = Arc::new(ManualClock::new(self.now));
        if self.rng.bool() {
            // A reader changes nothing.
            let options = self.options.clone().read_only(true);
            self.db = World::open(&options, &self.fs, &self.clock);
            let snapshot = self.db.snapshot().unwrap();
            self.check_snapshot(&snapshot, self.now, "read-only");
            drop(snapshot);
            self.db.close().unwrap();
        }
        self.db = World::open(&self.options, &self.fs, &self.clock);
    }

    fn run(&mut self, steps: u64) {
        let what = self.what.clone();
        for i in 0..steps {
            self.what = format!("{what}, step {i}");
            match self.rng.u32(..100) {
                0..70 => self.commit(),
                70..90 => self.background(),
                90..94 => self.hold(),
                94..96 => {
                    self.now += 1;
                    self.clock.set(self.now);
                }
                96..99 => self.check(),
                _ => self.again(),
            }
        }
        self.check();
        self.db.verify().unwrap();
        self.again();
        self.check();
        self.db.gc(&GcOptions::full()).unwrap();
        self.check();
        self.db.verify().unwrap();
        self.held.clear();
        self.db.close().unwrap();
    }
}

#[test]
fn rules_25_38_40_and_55_hold_together() {
    let first = std::env::var("KVDB_TEST_SEED").ok().and_then(|s| s.parse().ok()).unwrap_or(0);
    for seed in first..first + 2 * scale() {
        for (i, options) in option_sets().into_iter().enumerate() {
            let what = format!("seed {seed}, options {i}");
            World::new(options, seed << 8 | i as u64, what).run(500);
        }
    }
}
