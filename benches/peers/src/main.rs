//! A table beside LMDB: point gets and scans of the same entries, in one interleaved run.

use std::hint::black_box;

use fastrand::Rng;
use heed::types::Bytes;
use heed::{Database, Env, EnvFlags, EnvOpenOptions, RoTxn};
use kvdb_benches::disk::Place;
use kvdb_benches::input::{Flat, random_keys};
use kvdb_benches::ratios::{HEADING, Recorder};
use kvdb_benches::targets::{Goal, SSTABLE, Target};
use kvdb_benches::timing::{fold, nanos};
use kvdb_sstable::{Builder, BuilderOptions, Cursor, ReaderOptions, Table, key_hash};
use kvdb_vfs::Region;

const ROUNDS: usize = 5;
const GETS: usize = 250_000;
const ROWS: [&str; 3] = ["get", "scan", "scan backward"];

struct Lmdb {
    env: Env,
    entries: Database<Bytes, Bytes>,
}

impl Lmdb {
    fn new(place: &Place, keys: &Flat, value: &[u8]) -> heed::Result<Lmdb> {
        let path = place.path("lmdb");
        std::fs::create_dir_all(&path)?;
        let mut options = EnvOpenOptions::new();
        options.map_size(1 << 30);
        // SAFETY: the directory is new and only this process knows it, so no other environment has
        // these files, and nobody changes them behind the map's back. `NO_SYNC` weakens what a
        // crash leaves, which nobody will look at.
        let env = unsafe { options.flags(EnvFlags::NO_SYNC).open(&path)? };
        let mut transaction = env.write_txn()?;
        let entries = env.create_database(&mut transaction, None)?;
        for key in keys.iter() {
            entries.put(&mut transaction, key, value)?;
        }
        transaction.commit()?;
        Ok(Lmdb { env, entries })
    }

    fn get_all(&self, transaction: &RoTxn<'_>, keys: &Flat) -> f64 {
        nanos(GETS, || {
            let mut sum = 0u64;
            for key in keys.iter() {
                let value = self.entries.get(transaction, key).expect("lmdb");
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
            let mut entries = self.entries.iter(transaction)?;
            nanos(SSTABLE.0, || fold_all(&mut entries))
        } else {
            let mut entries = self.entries.rev_iter(transaction)?;
            nanos(SSTABLE.0, || fold_all(&mut entries))
        })
    }
}

type Ours = Table<Region>;

fn build(keys: &Flat, value: &[u8]) -> Ours {
    let mut builder = Builder::new(Vec::new(), BuilderOptions::default()).expect("the defaults");
    for key in keys.iter() {
        builder.add(key, 1, value).expect("ascending keys");
    }
    let bytes = builder.finish().expect("a table").0;
    let table = Table::open(Region::from_vec(bytes), ReaderOptions::default());
    let table = table.expect("an intact table");
    table.verify().expect("an intact table");
    table
}

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
    let (n, key_len, value_len) = SSTABLE;
    let keys = Flat::new(&random_keys(n, key_len, 1)).sorted();
    let queries = keys.shuffled(2);
    let mut value = vec![0; value_len];
    Rng::with_seed(4).fill(&mut value);
    let table = build(&keys, &value);
    let place = Place::new();
    let lmdb = Lmdb::new(&place, &keys, &value)?;
    let transaction = lmdb.env.read_txn()?;
    let mut recorder = Recorder::default();
    // The round before the first warms everything up.
    for round in 0..=ROUNDS {
        let part = queries.iter().skip(round % (n / GETS) * GETS).take(GETS);
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
