//! SEMANTICS rules 44, 45, 49b and 49c over simulated power cuts.
//!
//! A small seeded workload runs over a file system in memory, one operation after the other on one
//! thread. Before every operation that changes a file the power may fail: the image keeps all, none
//! or random parts of what was not synced. Each image is opened, verified and compared with the
//! history: it must show the state after some number of commits, no fewer than were acknowledged
//! durably, no commit in part. Then it goes on: more commits, another power cut, several times over.
#![allow(clippy::unwrap_used)] // a test may panic

mod common;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use common::{Contents, contents, manual, open, scale, value};
use kvdb::vfs::{Keep, MemFs, Op, SyncSite};
use kvdb::{Db, Durability, Options, Step};
use parking_lot::Mutex;

/// Every commit writes its number here, so an image tells how far it got.
const NUMBER: &[u8] = b"commit";

/// What is known of a run at a moment.
#[derive(Debug, Clone, Default)]
struct History {
    /// The state after each commit, by its number. State 0 is the start.
    states: Vec<Arc<Contents>>,
    /// Number of the last commit that was acknowledged.
    acknowledged: usize,
    /// Number of the last commit that is known to be durable.
    durable: usize,
    /// The largest version that was acknowledged.
    version: u64,
}

impl History {
    fn starting_with(state: Contents, version: u64) -> Self {
        History { states: vec![Arc::new(state)], acknowledged: 0, durable: 0, version }
    }
}

/// A workload under way on one store.
struct Run {
    db: Option<Db>,
    fs: Arc<MemFs>,
    options: Options,
    rng: fastrand::Rng,
    history: Arc<Mutex<History>>,
    /// Bytes of the largest values: in some runs large enough that the log is rotated.
    largest: usize,
}

fn largest(seed: u64) -> usize {
    if seed % 3 == 1 { 150_000 } else { 20_000 }
}

impl Run {
    fn db(&self) -> &Db {
        self.db.as_ref().unwrap()
    }

    fn step(&mut self) {
        match self.rng.u32(..100) {
            0..70 => self.commit(),
            70..90 => {
                let step = Step::ALL[self.rng.usize(..Step::ALL.len())];
                self.db().step(step).unwrap();
            }
            90..93 => {
                self.db().flush().unwrap();
                self.all_durable_if_synced();
            }
            93..96 => {
                self.db().sync().unwrap();
                self.all_durable_if_synced();
            }
            96..98 => {
                self.db().close().unwrap();
                self.all_durable_if_synced();
                self.db = Some(open(&self.options, &self.fs).unwrap());
            }
            _ => self.db().compact().unwrap(),
        }
    }

    fn all_durable_if_synced(&self) {
        let mut history = self.history.lock();
        history.durable = history.acknowledged;
    }

    fn commit(&mut self) {
        let mut state = (**self.history.lock().states.last().unwrap()).clone();
        let number = self.history.lock().states.len() as u64;
        let mut t = self.db().begin().unwrap();
        let large = self.rng.u8(..4) == 0;
        for i in 0..=self.rng.u64(..6) {
            let key = format!("{:02}", self.rng.u8(..60)).into_bytes();
            if self.rng.u8(..5) == 0 {
                t.delete(&key).unwrap();
                state.remove(&key);
            } else {
                let len =
                    if large { self.rng.usize(..self.largest) } else { self.rng.usize(..300) };
                let v = value(number << 8 | i, len);
                t.put(&key, &v).unwrap();
                state.insert(key, v);
            }
        }
        // A stamp whose reuse would show, in a key of its own.
        let stamp = number.to_be_bytes().to_vec();
        t.put(NUMBER, &stamp).unwrap();
        state.insert(NUMBER.to_vec(), stamp);
        let durability = if self.rng.bool() { Durability::Sync } else { Durability::Buffered };
        // From here on an image may hold the commit.
        self.history.lock().states.push(Arc::new(state));
        let version = t.commit_with(durability).unwrap();
        let mut history = self.history.lock();
        assert!(version > history.version, "version {version} was handed out before");
        history.version = version;
        history.acknowledged = number as usize;
        if durability == Durability::Sync {
            history.durable = number as usize;
        }
    }
}

/// A power cut: the image, and what must hold of it.
type Cut = (MemFs, History);

/// Runs a workload and takes images before operations, each with a policy drawn by the seed.
fn run(
    options: &Options,
    fs: MemFs,
    history: History,
    seed: u64,
    steps: usize,
    every: u64,
) -> Vec<Cut> {
    let mut rng = fastrand::Rng::with_seed(seed);
    let history = Arc::new(Mutex::new(history));
    let cuts: Arc<Mutex<Vec<Cut>>> = Arc::default();
    let hook = {
        let (history, cuts) = (history.clone(), cuts.clone());
        let rng = Mutex::new(rng.fork());
        let seen = std::sync::atomic::AtomicU64::new(rng.lock().u64(..every));
        move |fs: &MemFs, _: Op, _: &Path| {
            if !seen.fetch_add(1, std::sync::atomic::Ordering::Relaxed).is_multiple_of(every) {
                return;
            }
            let (kind, seed) = {
                let mut rng = rng.lock();
                (rng.u8(..6), rng.u64(..))
            };
            let mut policy = match kind {
                0 => Keep::All,
                1 => Keep::None,
                _ => Keep::Random(seed),
            };
            cuts.lock().push((fs.crash_image(&mut policy), history.lock().clone()));
        }
    };
    let fs = Arc::new(fs);
    fs.on_operation(hook);
    let db = Some(open(options, &fs).unwrap());
    let mut run =
        Run { db, fs: fs.clone(), options: options.clone(), rng, history, largest: largest(seed) };
    for _ in 0..steps {
        run.step();
    }
    run.db().close().unwrap();
    fs.clear_hook();
    Arc::try_unwrap(cuts).map_or_else(|c| c.lock().clone(), Mutex::into_inner)
}

/// Opens an image and compares it with the history. Returns what it holds.
fn check(options: &Options, image: &Arc<MemFs>, history: &History, what: &str) -> (Db, Contents) {
    let db = open(options, image).unwrap_or_else(|e| panic!("{what}: does not open: {e}"));
    let shown = contents(&db.snapshot().unwrap());
    let number = |state: &Contents| {
        state.get(NUMBER).map_or(0, |v| u64::from_be_bytes(v[..].try_into().unwrap()))
    };
    let first = number(&history.states[0]);
    let at = history
        .states
        .iter()
        .position(|state| number(state) == number(&shown))
        .unwrap_or_else(|| panic!("{what}: commit {} was never made", number(&shown)));
    assert!(
        at >= history.durable,
        "{what}: commit {} is lost, it was acknowledged as durable (shown: {at}, first {first})",
        history.durable
    );
    let expected = &history.states[at];
    if shown != **expected {
        let differing: BTreeMap<_, _> = expected
            .keys()
            .chain(shown.keys())
            .filter(|k| expected.get(*k) != shown.get(*k))
            .map(|k| {
                (
                    k.escape_ascii().to_string(),
                    (expected.get(k).map(Vec::len), shown.get(k).map(Vec::len)),
                )
            })
            .collect();
        panic!("{what}: not the state after commit {at}; differing keys: {differing:?}");
    }
    db.verify().unwrap_or_else(|e| panic!("{what}: does not verify: {e}"));
    (db, shown)
}

fn option_sets() -> Vec<Options> {
    vec![
        manual(),
        manual().value_threshold(0).durability(Durability::Buffered),
        manual().value_threshold(1 << 30),
        manual().value_dir("/log"),
    ]
}

#[test]
fn rules_44_45_49_every_power_cut_leaves_a_prefix_with_all_that_was_acknowledged() {
    let wanted = 1000 * scale() as usize;
    let (images, seeds) = power_cuts(0, wanted);
    println!("{images} images from {seeds} runs");
    assert!(images >= wanted);
}

/// The planted mutants: with any one sync of the system left out, the test above fails.
#[test]
fn every_sync_is_needed() {
    // These do not show in single power cuts of this workload; what they are for is tested where
    // it shows, in the crates they belong to.
    const ELSEWHERE: &[SyncSite] = &[
        // After a failed sync the page cache shows what the disk does not have.
        SyncSite::LogRecovery,
        // Garbage collection has workloads of its own.
        SyncSite::LogRelocate,
        SyncSite::LogRelocateDir,
        // Of a log that has no manifest.
        SyncSite::LogRemoveDir,
        // The database removes files of segments; the log by itself can use them again.
        SyncSite::LogRecycle,
        SyncSite::LogRecycleDir,
        // The footer: without it the next opening recovers, nothing is lost.
        SyncSite::LogClose,
    ];
    let survivors: Vec<SyncSite> = SyncSite::ALL
        .iter()
        .copied()
        .filter(|site| !ELSEWHERE.contains(site))
        .filter(|&site| {
            let killed = std::thread::spawn(move || {
                common::SKIPPED.set(Some(site));
                power_cuts(1000, 1500);
            });
            killed.join().is_ok()
        })
        .collect();
    assert!(survivors.is_empty(), "syncs that can be left out unnoticed: {survivors:?}");
}

/// Takes and checks at least so many images; returns how many, and from how many runs.
fn power_cuts(first_seed: u64, wanted: usize) -> (usize, u64) {
    let mut images = 0;
    let mut seed = first_seed;
    while images < wanted {
        let options = &option_sets()[seed as usize % option_sets().len()];
        let fresh = History::starting_with(Contents::new(), 0);
        for (i, (image, mut history)) in
            run(options, MemFs::new(), fresh, seed, 60, 3).into_iter().enumerate()
        {
            images += 1;
            let what = format!("seed {seed}, image {i}");
            let image = Arc::new(image);
            // A look without writing must not change what an opener for writing finds.
            if i % 7 == 0 {
                let read_only = options.clone().read_only(true);
                match open(&read_only, &image) {
                    Ok(db) => {
                        drop(db);
                        drop(check(&read_only, &image, &history, &what));
                    }
                    // Cut while the store was being made.
                    Err(e) => {
                        assert_eq!(e.kind(), kvdb::ErrorKind::NotFound, "{what}: {e}");
                        assert_eq!(history.acknowledged, 0, "{what}: {e}");
                    }
                }
            }
            let (db, mut shown) = check(options, &image, &history, &what);
            // Rule 49c: what was cut never comes back, however many crashes follow; rule 49b:
            // no version is handed out again.
            let mut fs = image;
            let mut db = Some(db);
            for life in 0..if i % 5 == 0 { 3 } else { 0 } {
                let what = format!("{what}, life {life}");
                let version = db.as_ref().unwrap().put("life", &what).unwrap();
                assert!(version > history.version, "{what}: version {version} again");
                shown.insert(b"life".to_vec(), what.clone().into_bytes());
                history = History::starting_with(shown.clone(), version);
                if options.durability == Durability::Buffered {
                    db.as_ref().unwrap().sync().unwrap();
                }
                let mut policy = Keep::Random(seed << 32 | (i as u64) << 8 | life);
                let next = Arc::new(fs.crash_image(&mut policy));
                drop(db.take());
                fs = next;
                let (again, _) = check(options, &fs, &history, &what);
                db = Some(again);
            }
            drop(db);
        }
        seed += 1;
    }
    (images, seed - first_seed)
}

#[test]
fn rule_49_a_crash_during_recovery_converges() {
    let mut nested = 0;
    for seed in 100..100 + 4 * scale() {
        let options = &option_sets()[seed as usize % option_sets().len()];
        let fresh = History::starting_with(Contents::new(), 0);
        let cuts = run(options, MemFs::new(), fresh, seed, 40, 17);
        for (i, (image, history)) in cuts.into_iter().enumerate() {
            // The image's own recovery is cut at its operations, and theirs again.
            let mut fs = Arc::new(image);
            for depth in 0..5 {
                let cuts: Arc<Mutex<Vec<MemFs>>> = Arc::default();
                {
                    let cuts = cuts.clone();
                    let rng =
                        Mutex::new(fastrand::Rng::with_seed(seed << 16 | (i as u64) << 4 | depth));
                    fs.on_operation(move |fs, _, _| {
                        let mut policy = Keep::Random(rng.lock().u64(..));
                        cuts.lock().push(fs.crash_image(&mut policy));
                    });
                }
                let what = format!("seed {seed}, image {i}, depth {depth}");
                drop(open(options, &fs).unwrap_or_else(|e| panic!("{what}: {e}")));
                fs.clear_hook();
                let mut cuts = std::mem::take(&mut *cuts.lock());
                nested += cuts.len();
                let Some(middle) = (!cuts.is_empty()).then(|| cuts.swap_remove(cuts.len() / 2))
                else {
                    break;
                };
                for (j, cut) in cuts.into_iter().enumerate() {
                    if j % 3 == depth as usize % 3 {
                        drop(check(options, &Arc::new(cut), &history, &format!("{what}, cut {j}")));
                    }
                }
                fs = Arc::new(middle);
            }
            drop(check(options, &fs, &history, &format!("seed {seed}, image {i}, last")));
        }
    }
    println!("{nested} nested cuts");
    assert!(nested > 100);
}

#[test]
fn rule_44_a_killed_process_loses_nothing_that_was_acknowledged() {
    for seed in 200..200 + 10 * scale() {
        let options = &option_sets()[seed as usize % option_sets().len()];
        let fs = Arc::new(MemFs::new());
        let images: Arc<Mutex<Vec<Cut>>> = Arc::default();
        let history = Arc::new(Mutex::new(History::starting_with(Contents::new(), 0)));
        {
            let (images, history) = (images.clone(), history.clone());
            let count = std::sync::atomic::AtomicU64::new(0);
            fs.on_operation(move |fs, _, _| {
                if count.fetch_add(1, std::sync::atomic::Ordering::Relaxed).is_multiple_of(11) {
                    images.lock().push((fs.process_image(), history.lock().clone()));
                }
            });
        }
        let db = Some(open(options, &fs).unwrap());
        let rng = fastrand::Rng::with_seed(seed);
        let mut run = Run {
            db,
            fs: fs.clone(),
            options: options.clone(),
            rng,
            history,
            largest: largest(seed),
        };
        for _ in 0..60 {
            run.step();
        }
        fs.clear_hook();
        for (i, (image, mut history)) in std::mem::take(&mut *images.lock()).into_iter().enumerate()
        {
            // Without a power cut, every acknowledged commit counts, buffered ones too.
            history.durable = history.acknowledged;
            drop(check(options, &Arc::new(image), &history, &format!("seed {seed}, image {i}")));
        }
    }
}
