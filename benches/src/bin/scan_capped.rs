//! Scans of a store of large values in a quarter of the memory that they would need, beside reading
//! a file of that length from front to back. `scripts/scan-capped.sh` runs it under a memory limit.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a program that prints a table")]

use std::hint::black_box;
use std::path::Path;
use std::process::ExitCode;
use std::time::Instant;

use fastrand::Rng;
use kvdb::{Db, Durability, GcOptions, Options};
use kvdb_benches::ratios::{HEADING, Recorder};
use kvdb_benches::targets::{GC_CAPPED, TARGETS};
use kvdb_benches::timing::fold;
use kvdb_vfs::{Advice, Fs, OpenMode, OsFs, SyncSite};

const ROUNDS: usize = 3;
const SIZES: [(usize, &str, [&str; 2]); 2] = [
    (4 << 10, "4", ["4 KiB, loaded at random", "4 KiB, collected"]),
    (64 << 10, "64", ["64 KiB, loaded at random", "64 KiB, collected"]),
];

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["bytes"] => println!("{GC_CAPPED}"),
        ["load", dir] => load(Path::new(dir)),
        ["scan", dir] => return scan(Path::new(dir)),
        _ => {
            eprintln!("usage: scan_capped bytes | load DIR | scan DIR");
            return ExitCode::from(2);
        }
    }
    ExitCode::SUCCESS
}

fn options() -> Options {
    Options::default().durability(Durability::Buffered).collect_garbage(false)
}

/// Every value once, in random order of the keys, and a file of as many bytes.
fn load(dir: &Path) {
    let mut rng = Rng::with_seed(7);
    for (len, name, _) in SIZES {
        let db = options().open(dir.join(name)).expect("a database");
        let mut order: Vec<usize> = (0..GC_CAPPED / len).collect();
        rng.shuffle(&mut order);
        let mut value = vec![0; len];
        for i in order {
            rng.fill(&mut value);
            db.put(format!("{i:016}"), &value).expect("a commit");
        }
        db.compact().expect("a compaction");
        db.sync().expect("a sync");
        db.close().expect("an end");
    }
    let file = OsFs::new().open(&dir.join("plain"), OpenMode::CreateNew).expect("a file");
    let mut piece = vec![0; 1 << 20];
    for at in (0..GC_CAPPED as u64).step_by(piece.len()) {
        rng.fill(&mut piece);
        file.write_all_at(&piece, at).expect("room");
    }
    file.sync_data(SyncSite::LogRelocate).expect("a sync");
}

/// Nanoseconds per KiB of the plain file, front to back, every byte folded.
fn plain(dir: &Path) -> f64 {
    let file = OsFs::new().open(&dir.join("plain"), OpenMode::Read).expect("the file");
    file.advise(0..GC_CAPPED as u64, Advice::Sequential);
    let mut piece = vec![0; 1 << 20];
    let start = Instant::now();
    let mut sum = 0u64;
    for at in (0..GC_CAPPED as u64).step_by(piece.len()) {
        file.read_exact_at(&mut piece, at).expect("bytes");
        sum = sum.wrapping_add(fold(&piece));
    }
    black_box(sum);
    per_kib(start)
}

/// Of all values of a store, in key order.
fn values(db: &Db) -> f64 {
    let start = Instant::now();
    let mut sum = 0u64;
    for item in db.iter().expect("an iterator") {
        sum = sum.wrapping_add(fold(&item.expect("an item").value().expect("its value")));
    }
    black_box(sum);
    per_kib(start)
}

fn per_kib(start: Instant) -> f64 {
    start.elapsed().as_nanos() as f64 / (GC_CAPPED / 1024) as f64
}

fn scan(dir: &Path) -> ExitCode {
    let mut recorder = Recorder::default();
    for (_, name, rows) in SIZES {
        let db = options().open(dir.join(name)).expect("the database");
        for row in rows {
            for _ in 0..ROUNDS {
                // Each drives what the other has read out of the little memory there is.
                let plain = plain(dir);
                recorder.record(row, values(&db), plain);
            }
            db.gc(&GcOptions::full()).expect("a collection");
        }
        db.close().expect("an end");
    }
    println!("scan-capped\n{HEADING}");
    let mut all_reached = true;
    for target in TARGETS.iter().filter(|target| target.group == "scan-capped") {
        let outcome = recorder.outcome(target);
        println!("{outcome}");
        all_reached &= outcome.reached;
    }
    if all_reached { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
