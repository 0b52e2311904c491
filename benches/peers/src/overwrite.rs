//! Random overwrites of separated values, beside fjall with key-value separation, by turns in one run:
//! time per overwrite, and space on the disk per byte of keys and values in use.
#![allow(clippy::print_stdout, clippy::unwrap_used, reason = "a program that prints a table")]

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::ExitCode;
use std::thread::sleep;
use std::time::{Duration, Instant};

use fastrand::Rng;
use fjall::{Database, KeyspaceCreateOptions, KvSeparationOptions};
use kvdb::{Durability, Options};
use kvdb_benches::disk::Place;
use kvdb_benches::ratios::{HEADING, Recorder};
use kvdb_benches::targets::{OVERWRITE, TARGETS};

/// Turns that make the store, and lead to a state that lasts.
const LOADS: usize = 2;
const ROUNDS: usize = 5;
/// Overwrites in a turn, in times as many as there are values: enough for collection to have to
/// keep up.
const TURN: usize = 4;
/// Of each store.
const CACHE: usize = 64 << 20;

fn key(i: usize) -> Vec<u8> {
    format!("{i:016}").into_bytes()
}

/// Both acknowledge a write when the operating system has it, neither compresses, and all else is
/// as it comes, but for the cache. Of fjall that is the fastest there is with this durability.
trait Store {
    fn open(path: &Path) -> Self;
    fn put(&self, key: Vec<u8>, value: &[u8]);
    fn close(self);
}

impl Store for kvdb::Db {
    fn open(path: &Path) -> Self {
        let options = Options::default().durability(Durability::Buffered).block_cache_size(CACHE);
        options.open(path).unwrap()
    }
    fn put(&self, key: Vec<u8>, value: &[u8]) {
        kvdb::Db::put(self, key, value).unwrap();
    }
    fn close(self) {
        kvdb::Db::close(&self).unwrap();
    }
}

/// Its keyspace, and the database, which is to be dropped last.
struct Fjall(fjall::Keyspace, #[expect(dead_code, reason = "held")] Database);

impl Store for Fjall {
    fn open(path: &Path) -> Self {
        let db = Database::builder(path).cache_size(CACHE as u64).open().unwrap();
        let separated = Some(KvSeparationOptions::default());
        let options = || KeyspaceCreateOptions::default().with_kv_separation(separated);
        let keyspace = db.keyspace("values", options).unwrap();
        Fjall(keyspace, db)
    }
    fn put(&self, key: Vec<u8>, value: &[u8]) {
        self.0.insert(key, value).unwrap();
    }
    fn close(self) {}
}

/// Bytes that the files below a directory take up on the disk, so that preallocated ones count and
/// holes do not.
fn space(path: &Path) -> u64 {
    let entries = fs::read_dir(path).unwrap().flatten();
    entries
        .map(|entry| match entry.metadata() {
            Ok(metadata) if metadata.is_dir() => space(&entry.path()),
            Ok(metadata) => metadata.blocks() * 512,
            // Removed meanwhile.
            Err(_) => 0,
        })
        .sum()
}

/// Random bytes; every value is a piece of them, so that making one takes no time.
struct Values(Vec<u8>);

impl Values {
    fn new() -> Values {
        let mut bytes = vec![0; 16 << 20];
        Rng::with_seed(1).fill(&mut bytes);
        Values(bytes)
    }

    fn piece(&self, rng: &mut Rng) -> &[u8] {
        let at = rng.usize(..self.0.len() - OVERWRITE.2);
        &self.0[at..at + OVERWRITE.2]
    }
}

/// Puts values to the keys that `next` gives. Nanoseconds for each, and the
/// space of the store right after the last.
fn turn<S: Store>(
    path: &Path,
    values: &Values,
    mut rng: Rng,
    next: fn(&mut Rng, usize) -> usize,
) -> (f64, f64) {
    let n = TURN * OVERWRITE.0;
    let store = S::open(path);
    let start = Instant::now();
    for i in 0..n {
        let key = key(next(&mut rng, i));
        store.put(key, values.piece(&mut rng));
    }
    let nanos = start.elapsed().as_nanos() as f64 / n as f64;
    let space = space(path) as f64;
    store.close();
    (nanos, space)
}

/// The space of a store that was open for five seconds without a write.
fn after_a_while<S: Store>(path: &Path) -> f64 {
    let store = S::open(path);
    sleep(Duration::from_secs(5));
    let space = space(path) as f64;
    store.close();
    space
}

fn main() -> ExitCode {
    let (n, key_len, len) = OVERWRITE;
    let live = (n * (key_len + len)) as f64;
    let place = Place::new();
    let (ours, theirs) = (place.path("kvdb"), place.path("fjall"));
    let values = Values::new();
    let mut recorder = Recorder::default();
    for round in 0..LOADS + ROUNDS {
        let rng = Rng::with_seed(round as u64);
        let next: fn(&mut Rng, usize) -> usize = match round {
            0 => |_, i| i % OVERWRITE.0,
            _ => |rng, _| rng.usize(..OVERWRITE.0),
        };
        let a = turn::<kvdb::Db>(&ours, &values, rng.clone(), next);
        let b = turn::<Fjall>(&theirs, &values, rng, next);
        if round >= LOADS {
            recorder.record("overwrite", a.0, b.0);
            recorder.record("space while it is overwritten", a.1 / live, b.1 / live);
        }
    }
    let rest = [after_a_while::<kvdb::Db>(&ours), after_a_while::<Fjall>(&theirs)];
    recorder.record("space after five seconds", rest[0] / live, rest[1] / live);
    println!("overwrite\n{HEADING}");
    let mut all_reached = true;
    for target in TARGETS.iter().filter(|target| target.group == "overwrite") {
        let outcome = recorder.outcome(target);
        println!("{outcome}");
        all_reached &= outcome.reached;
    }
    if all_reached { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
