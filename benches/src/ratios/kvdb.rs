//! The whole database: what puts and gets of small values cost, wall clock and processor time of
//! all threads, beside one thread, redb, and one dependent miss.

use std::hint::black_box;
use std::sync::Barrier;
use std::thread;
use std::time::Instant;

use kvdb::{Db, Durability, Options};
use redb::{ReadableDatabase, ReadableTable, TableDefinition};
use rustix::time::{ClockId, clock_gettime};

use super::Recorder;
use crate::disk::Place;
use crate::input::{Flat, random_keys};
use crate::miss::Chase;
use crate::targets::{CHASE_BYTES, KVDB};
use crate::timing::{fold, nanos};

const ROUNDS: usize = 5;
const BATCH: usize = 100;
/// Point gets of a round.
const GETS: usize = 200_000;
const REDB: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("entries");

/// A store of its own with buffered commits.
fn open(place: &Place, name: &str) -> Db {
    let options = Options::default().durability(Durability::Buffered);
    options.open(place.path(name)).expect("a database")
}

/// Processor time of all threads of this process, in nanoseconds.
fn cpu() -> f64 {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    time.tv_sec as f64 * 1e9 + time.tv_nsec as f64
}

/// Wall clock and processor time per put. The latter until what the puts have begun in the
/// background has settled.
fn put(db: &Db, n: usize, work: impl FnOnce()) -> (f64, f64) {
    let (start, cpu_before) = (Instant::now(), cpu());
    work();
    let wall = start.elapsed().as_secs_f64() * 1e9 / n as f64;
    db.wait_idle().expect("nothing fails");
    (wall, (cpu() - cpu_before) / n as f64)
}

fn put_one_by_one(db: &Db, keys: &Flat, value: &[u8]) {
    for key in keys.iter() {
        db.put(key, value).expect("a put");
    }
}

fn put_in_batches(db: &Db, keys: &Flat, value: &[u8]) {
    let mut keys = keys.iter().peekable();
    while keys.peek().is_some() {
        let mut batch = db.batch();
        for key in keys.by_ref().take(BATCH) {
            batch.put(key, value).expect("room for it");
        }
        batch.commit().expect("a commit");
    }
}

fn put_by_two(db: &Db, halves: &[Flat; 2], value: &[u8]) {
    let barrier = Barrier::new(2);
    thread::scope(|scope| {
        for half in halves {
            let barrier = &barrier;
            scope.spawn(move || {
                barrier.wait();
                put_one_by_one(db, half, value);
            });
        }
    });
}

/// The same entries in redb, with room for all of them in its cache.
fn redb(place: &Place, keys: &Flat, value: &[u8]) -> redb::Database {
    let fill = || -> Result<_, redb::Error> {
        let db = redb::Builder::new().set_cache_size(1 << 30).create(place.path("redb"))?;
        let mut transaction = db.begin_write()?;
        transaction.set_durability(redb::Durability::None)?;
        {
            let mut table = transaction.open_table(REDB)?;
            for key in keys.iter() {
                table.insert(key, value)?;
            }
        }
        transaction.commit()?;
        Ok(db)
    };
    fill().expect("a database of redb's")
}

fn redb_gets(db: &redb::Database, keys: &Flat) -> Result<f64, redb::Error> {
    let table = db.begin_read()?.open_table(REDB)?;
    Ok(nanos(GETS, || {
        let mut sum = 0u64;
        for key in keys.iter().take(GETS) {
            let value = table.get(key).expect("redb").expect("a key that is there");
            sum = sum.wrapping_add(fold(value.value()));
        }
        black_box(sum);
    }))
}

fn redb_scan(db: &redb::Database, n: usize) -> Result<f64, redb::Error> {
    let table = db.begin_read()?.open_table(REDB)?;
    let range = table.iter()?;
    Ok(nanos(n, || {
        let mut sum = 0u64;
        for entry in range {
            let (key, value) = entry.expect("redb");
            sum = sum.wrapping_add(fold(key.value())).wrapping_add(fold(value.value()));
        }
        black_box(sum);
    }))
}

fn gets(db: &Db, keys: &Flat) -> f64 {
    nanos(GETS, || {
        let mut sum = 0u64;
        for key in keys.iter().take(GETS) {
            let found = db.get_with(key, fold).expect("no error");
            sum = sum.wrapping_add(found.expect("a key that is there"));
        }
        black_box(sum);
    })
}

fn scan(db: &Db, n: usize) -> f64 {
    let snapshot = db.snapshot().expect("open");
    nanos(n, || {
        let (mut sum, mut count) = (0u64, 0);
        let mut cursor = snapshot.cursor(..);
        let mut on = cursor.first().expect("no error");
        while on {
            let value = cursor.value_with(fold).expect("no error");
            sum = sum.wrapping_add(fold(cursor.key())).wrapping_add(value);
            count += 1;
            on = cursor.next().expect("no error");
        }
        assert_eq!(count, n);
        black_box(sum);
    })
}

pub(super) fn run(recorder: &mut Recorder) {
    let (n, key_len, value_len) = KVDB;
    let place = Place::new();
    let keys = Flat::new(&random_keys(n, key_len, 11));
    let halves = keys.halves();
    let value = vec![0xa5; value_len];
    let order = keys.shuffled(12);
    let mut chase = Chase::new(CHASE_BYTES, 13);
    let rival = redb(&place, &keys, &value);
    for round in 0..ROUNDS {
        let single = open(&place, &format!("single-{round}"));
        let (one, used) = put(&single, n, || put_one_by_one(&single, &keys, &value));
        recorder.record("put", one, 1.0);
        recorder.record("put, processor time", used, 1.0);

        let double = open(&place, &format!("double-{round}"));
        let (two, _) = put(&double, n, || put_by_two(&double, &halves, &value));
        recorder.record("put, two threads", two, one);
        drop(double);

        let batched = open(&place, &format!("batched-{round}"));
        let (wall, used) = put(&batched, n, || put_in_batches(&batched, &keys, &value));
        recorder.record("put by 100", wall, 1.0);
        recorder.record("put by 100, processor time", used, 1.0);
        drop(batched);

        single.flush().expect("a flush");
        single.wait_idle().expect("nothing fails");
        let ours = gets(&single, &order);
        recorder.record("get", ours, redb_gets(&rival, &order).expect("redb"));
        recorder.record("get beside a miss", ours, chase.nanos(300_000));
        recorder.record("scan", scan(&single, n), redb_scan(&rival, n).expect("redb"));
        let begin = nanos(GETS, || (0..GETS).for_each(|_| drop(single.begin())));
        recorder.record("begin and end", begin, 1.0);
    }
}
