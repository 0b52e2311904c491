//! Prints what transactions cost: `cargo run --release -p kvdb-txn --example begin_commit`.
//!
//! Every row is the best of several short runs, because a shared machine only ever adds time.

#![allow(clippy::print_stdout, missing_docs)]

use std::sync::{Arc, Barrier};
use std::thread;
use std::time::Instant;

use kvdb_txn::{Mode, Options, Oracle, ReadSet};

const ROUNDS: u64 = 12;
const PER_ROUND: u64 = 100_000;

fn key(i: u64) -> [u8; 16] {
    let mut key = [b'k'; 16];
    key[8..].copy_from_slice(&i.to_be_bytes());
    key
}

/// One transaction that reads a key and writes one.
fn read_write(oracle: &Oracle, i: u64) {
    let key = key(i);
    let mark = oracle.begin(Mode::ReadWrite);
    let mut reads = ReadSet::new();
    reads.add_point(&key);
    let version = oracle.commit(&mark, &reads, [&key], |version| version).expect("no conflict");
    oracle.published(version.expect("one write"));
}

/// The least time per call, over all threads together.
fn measure(threads: u64, oracle: &Arc<Oracle>, op: fn(&Oracle, u64)) -> f64 {
    let mut best = f64::MAX;
    for round in 0..ROUNDS {
        let barrier = Arc::new(Barrier::new(threads as usize));
        let workers: Vec<_> = (0..threads)
            .map(|thread| {
                let (oracle, barrier) = (Arc::clone(oracle), Arc::clone(&barrier));
                thread::spawn(move || {
                    barrier.wait();
                    let start = Instant::now();
                    for i in 0..PER_ROUND {
                        op(&oracle, (round * threads + thread) * PER_ROUND + i);
                    }
                    (start, Instant::now())
                })
            })
            .collect();
        let times: Vec<_> = workers.into_iter().map(|w| w.join().expect("worker")).collect();
        let start = times.iter().map(|t| t.0).min().expect("a thread");
        let end = times.iter().map(|t| t.1).max().expect("a thread");
        best = best.min((end - start).as_nanos() as f64 / (threads * PER_ROUND) as f64);
    }
    best
}

fn row(name: &str, op: fn(&Oracle, u64)) {
    let oracle = || Arc::new(Oracle::new(Options::default(), 0, 0));
    let one = measure(1, &oracle(), op);
    let two = measure(2, &oracle(), op);
    println!("{name:36} {one:6.1} ns alone {two:6.1} ns by two threads ({:.2}x)", one / two);
}

fn main() {
    row("begin, read-only, end", |oracle, _| drop(oracle.begin(Mode::ReadOnly)));
    row("begin, read-write, end", |oracle, _| drop(oracle.begin(Mode::ReadWrite)));
    row("begin, read, commit a key, publish", read_write);
    row("blind commit of a key, publish", |oracle, i| {
        let version = oracle.commit_blind([&key(i)], |version| version).expect("no conflict");
        oracle.published(version.expect("one write"));
    });
}
