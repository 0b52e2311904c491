//! A table beside LMDB: point gets and scans of the same entries, in one interleaved run.

use std::hint::black_box;

use heed::RoTxn;
use kvdb_benches::disk::Place;
use kvdb_benches::input::Flat;
use kvdb_benches::ratios::{HEADING, Recorder};
use kvdb_benches::targets::{Goal, SSTABLE, Target};
use kvdb_benches::timing::{fold, nanos};
use kvdb_peers::{Input, Lmdb, table};
use kvdb_sstable::{Cursor, Table, key_hash};
use kvdb_vfs::Region;

const ROUNDS: usize = 5;
const GETS: usize = 250_000;
const ROWS: [&str; 3] = ["get", "scan", "scan backward"];

struct Reads<'l>(&'l Lmdb);

impl Reads<'_> {
    fn get_all(&self, transaction: &RoTxn<'_>, keys: &Flat) -> f64 {
        nanos(GETS, || {
            let mut sum = 0u64;
            for key in keys.iter() {
                let value = self.0.entries.get(transaction, key).expect("lmdb");
                sum = sum.wrapping_add(fold(value.expect("a key that is there")));
            }
            black_box(sum);
        })
    }

    fn scan(&self, transaction: &RoTxn<'_>, forward: bool) -> heed::Result<f64> {
        let fold_all = |entries: &mut dyn Iterator<Item = heed::Result<(&[u8], &[u8])>>| {
            let mut sum = 0u64;
            for entry in entries {
                let (key, value) = entry.expect("lmdb");
                sum = sum.wrapping_add(fold(key)).wrapping_add(fold(value));
            }
            black_box(sum);
        };
        Ok(if forward {
            let mut entries = self.0.entries.iter(transaction)?;
            nanos(SSTABLE.0, || fold_all(&mut entries))
        } else {
            let mut entries = self.0.entries.rev_iter(transaction)?;
            nanos(SSTABLE.0, || fold_all(&mut entries))
        })
    }
}

type Ours = Table<Region>;

fn get_all(table: &Ours, keys: &Flat) -> f64 {
    nanos(GETS, || {
        let mut sum = 0u64;
        for key in keys.iter() {
            let hit = table.get(key, u64::MAX, key_hash(key)).expect("an intact table");
            sum = sum.wrapping_add(fold(hit.expect("a key that is there").value()));
        }
        black_box(sum);
    })
}

fn scan(table: &Ours, forward: bool) -> f64 {
    nanos(SSTABLE.0, || {
        let mut cursor = table.cursor();
        let mut sum = 0u64;
        let mut on = if forward { cursor.first() } else { cursor.last() }.expect("intact");
        while on {
            sum = sum.wrapping_add(fold(cursor.key())).wrapping_add(fold(cursor.value()));
            on = if forward { cursor.next() } else { cursor.prev() }.expect("intact");
        }
        black_box(sum);
    })
}

fn main() -> heed::Result<()> {
    let n = SSTABLE.0;
    let input = Input::new();
    let table = table(&input);
    let place = Place::new();
    let lmdb = Lmdb::new(&place, &input)?;
    let transaction = lmdb.env.read_txn()?;
    let lmdb = Reads(&lmdb);
    let mut recorder = Recorder::default();
    // The round before the first warms everything up.
    for round in 0..=ROUNDS {
        let part = input.queries.iter().skip(round % (n / GETS) * GETS).take(GETS);
        let part = Flat::new(&part.map(<[u8]>::to_vec).collect::<Vec<_>>());
        let figures = [
            (get_all(&table, &part), lmdb.get_all(&transaction, &part)),
            (scan(&table, true), lmdb.scan(&transaction, true)?),
            (scan(&table, false), lmdb.scan(&transaction, false)?),
        ];
        if round > 0 {
            for (name, (ours, theirs)) in ROWS.into_iter().zip(figures) {
                recorder.record(name, ours, theirs);
            }
        }
    }
    println!("lmdb\n{HEADING}");
    for name in ROWS {
        let (group, yardstick) = ("lmdb", "lmdb");
        let target = Target { group, name, sizes: SSTABLE, yardstick, goal: Goal::Shown };
        println!("{}", recorder.outcome(&target));
    }
    Ok(())
}
