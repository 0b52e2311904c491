//! The whole database beside others, in one run on one machine: loads, point reads and scans, with values of
//! 16 bytes to 64 KiB. All lengths, or the one that is named.
#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::unwrap_used,
    reason = "a program that prints a table"
)]

mod stores;

use std::hint::black_box;
use std::process::ExitCode;

use fastrand::Rng;
use kvdb_benches::disk::Place;
use kvdb_benches::timing::nanos;

use kvdb_peers::Lmdb;
use stores::{Fjall, Redb, Store};

/// Lengths of values, and how many there are.
const SIZES: [(usize, usize); 5] =
    [(16, 2_000_000), (128, 1_000_000), (1024, 200_000), (4096, 60_000), (64 << 10, 4_000)];
const ROUNDS: usize = 3;
const GETS: usize = 200_000;
/// Entries of a short scan.
const SHORT: usize = 100;

const ROWS: [&str; 8] = [
    "fill, random",
    "fill, until settled",
    "overwrite",
    "get",
    "get of what is not there",
    "scan of all",
    "scan of 100",
    "scan of 100 backward",
];

fn key(i: usize) -> [u8; 16] {
    let mut key = [0; 16];
    // Spread over all of it, and the same for every engine.
    let i = i as u64;
    key[..8].copy_from_slice(&i.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes());
    key[8..].copy_from_slice(&i.to_be_bytes());
    key
}

/// Random bytes; every value is a piece of them.
struct Values(Vec<u8>);

impl Values {
    fn new() -> Values {
        let mut bytes = vec![0; 16 << 20];
        Rng::with_seed(1).fill(&mut bytes);
        Values(bytes)
    }

    fn piece(&self, rng: &mut Rng, len: usize) -> &[u8] {
        let at = rng.usize(..self.0.len() - len);
        &self.0[at..at + len]
    }
}

/// One store of each engine: so many values of one length.
struct Run<'a> {
    values: &'a Values,
    n: usize,
    len: usize,
}

impl Run<'_> {
    /// Nanoseconds for each value: put in random order of the keys, until the engine has come to rest behind
    /// that, and overwritten at random.
    fn load<S: Store>(&self, store: &S) -> [f64; 3] {
        let mut rng = Rng::with_seed(2);
        let mut put = |order: &mut dyn FnMut(usize) -> usize| {
            nanos(self.n, || {
                (0..self.n).for_each(|i| {
                    store.put(&key(order(i)), self.values.piece(&mut rng, self.len));
                });
            })
        };
        let fill = put(&mut |i| i);
        let settled = fill + nanos(self.n, || store.settle());
        let mut order = Rng::with_seed(3);
        let over = put(&mut |_| order.usize(..self.n));
        store.settle();
        [fill, settled, over]
    }

    /// Nanoseconds for a get, a get in vain, an entry of a scan of all, and short scans both ways.
    fn read<S: Store>(&self, store: &S, round: usize) -> [f64; 5] {
        let gets = GETS.min(10 * self.n).min((8 << 30) / (self.len + 100));
        let scans = (GETS / SHORT).min(4000 * 1024 / (self.len + 16)).max(60);
        let rng = Rng::with_seed(round as u64 + 10);
        let mut pick = rng.clone();
        let get = nanos(gets, || {
            let sum = store.get_all(&mut (0..gets).map(|_| key(pick.usize(..self.n))));
            assert_eq!(black_box(sum).1, gets);
        });
        let mut pick = rng.clone();
        let missing = nanos(gets, || {
            let sum = store.get_all(&mut (0..gets).map(|_| key(self.n + pick.usize(..self.n))));
            assert_eq!(black_box(sum).1, 0);
        });
        let all = nanos(self.n, || {
            assert_eq!(black_box(store.scan(&[0; 16], self.n, false)).1, self.n);
        });
        let short = |backward: bool| {
            let mut pick = rng.clone();
            nanos(scans, || {
                for _ in 0..scans {
                    black_box(store.scan(&key(pick.usize(..self.n)), SHORT, backward));
                }
            })
        };
        [get, missing, all, short(false), short(true)]
    }

    /// One figure for each row, the median where there are rounds.
    fn engine<S: Store>(&self, place: &Place) -> [f64; 8] {
        let store = S::open(place, self.len);
        let [fill, settled, over] = self.load(&store);
        // The first round brings everything into memory.
        let rounds: Vec<_> = (0..=ROUNDS).map(|round| self.read(&store, round)).skip(1).collect();
        store.close();
        let median = |i: usize| {
            let mut all: Vec<f64> = rounds.iter().map(|round| round[i]).collect();
            all.sort_by(f64::total_cmp);
            all[all.len() / 2]
        };
        let [a, b, c, d, e] = [0, 1, 2, 3, 4].map(median);
        [fill, settled, over, a, b, c, d, e]
    }
}

fn main() -> ExitCode {
    let only = std::env::args().nth(1);
    let sizes: Vec<_> = SIZES
        .into_iter()
        .filter(|(len, _)| only.as_ref().is_none_or(|o| *o == len.to_string()))
        .collect();
    if sizes.is_empty() {
        eprintln!("lengths of values: {:?}", SIZES.map(|(len, _)| len));
        return ExitCode::from(2);
    }
    let values = Values::new();
    for (len, n) in sizes {
        let place = Place::new();
        let run = Run { values: &values, n, len };
        let figures = [
            run.engine::<kvdb::Db>(&place),
            run.engine::<Fjall>(&place),
            run.engine::<Lmdb>(&place),
            run.engine::<Redb>(&place),
        ];
        println!("{n} values of {len} bytes, ns");
        println!(
            "{:26}{:>12}{:>12}{:>12}{:>12}{:>10}",
            "", "kvdb", "fjall", "lmdb", "redb", "best/kvdb"
        );
        for (i, name) in ROWS.into_iter().enumerate() {
            let best = figures[1..].iter().map(|f| f[i]).fold(f64::INFINITY, f64::min);
            print!("{name:26}");
            figures.iter().for_each(|f| print!("{:12.1}", f[i]));
            println!("{:9.2}x", best / figures[0][i]);
        }
    }
    ExitCode::SUCCESS
}
