//! The oracle: what a transaction costs, alone and by two threads.

use std::sync::Barrier;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Instant;

use kvdb_txn::{Mode, Options, Oracle, ReadSet};

use super::Recorder;
use crate::miss::Chase;
use crate::targets::{CHASE_BYTES, TXN};

const ROUNDS: usize = 9;

fn key(i: usize) -> [u8; 16] {
    let mut key = [b'k'; 16];
    key[8..].copy_from_slice(&i.to_be_bytes());
    key
}

/// Reads a key and writes it.
fn read_write(oracle: &Oracle, i: usize) {
    let key = key(i);
    let mark = oracle.begin(Mode::ReadWrite);
    let mut reads = ReadSet::new();
    reads.add_point(&key);
    let version = oracle.commit(&mark, &reads, [&key], |version| version).expect("no conflict");
    oracle.published(version.expect("one write"));
}

/// Writes a key unread.
fn blind(oracle: &Oracle, i: usize) {
    let version = oracle.commit_blind([&key(i)], |version| version).expect("no conflict");
    oracle.published(version.expect("one write"));
}

fn read_only(oracle: &Oracle, _: usize) {
    drop(oracle.begin(Mode::ReadOnly));
}

/// The least that threads can share: one cache line goes back and forth.
fn count(counter: &AtomicU64, _: usize) {
    counter.fetch_add(1, Ordering::SeqCst);
}

/// Nanoseconds per transaction, over all threads together: from the start of the first to the end
/// of the last. No two transactions have a key in common.
fn measure<T: Sync>(shared: &T, threads: usize, op: fn(&T, usize)) -> f64 {
    let n = TXN.0;
    let barrier = Barrier::new(threads);
    let worker = |thread: usize| {
        barrier.wait();
        let start = Instant::now();
        for i in 0..n {
            op(shared, thread * n + i);
        }
        (start, Instant::now())
    };
    let times: Vec<_> = thread::scope(|scope| {
        let worker = &worker;
        let workers: Vec<_> =
            (0..threads).map(|thread| scope.spawn(move || worker(thread))).collect();
        workers.into_iter().map(|worker| worker.join().expect("a worker")).collect()
    });
    let start = times.iter().map(|time| time.0).min().expect("a thread");
    let end = times.iter().map(|time| time.1).max().expect("a thread");
    (end - start).as_secs_f64() * 1e9 / (threads * n) as f64
}

pub(super) fn run(recorder: &mut Recorder) {
    let mut chase = Chase::new(CHASE_BYTES, 6);
    let oracles = [(); 3].map(|()| Oracle::new(Options::default(), 0, 0));
    for _ in 0..ROUNDS {
        let one = measure(&oracles[0], 1, read_write);
        recorder.record("read, commit of one key", one, 1.0);
        recorder.record("the same beside a miss", one, chase.nanos(300_000));
        recorder.record("two threads", measure(&oracles[0], 2, read_write), one);
        let counter = AtomicU64::new(0);
        let one = measure(&counter, 1, count);
        recorder.record("a shared counter, two threads", measure(&counter, 2, count), one);
        let one = measure(&oracles[1], 1, blind);
        recorder.record("blind commit of one key", one, 1.0);
        recorder.record("blind, two threads", measure(&oracles[1], 2, blind), one);
        let one = measure(&oracles[2], 1, read_only);
        recorder.record("read-only begin and end", one, 1.0);
        recorder.record("read-only, two threads", measure(&oracles[2], 2, read_only), one);
    }
}
