//! Point reads and scans of one table, of redb and of LMDB, over the same entries in one run.

use std::hint::black_box;
use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use kvdb_benches::disk::Place;
use kvdb_benches::timing::fold;
use kvdb_peers::{Input, Lmdb, table};
use kvdb_sstable::{Cursor, key_hash};
use redb::{Durability, ReadableDatabase, ReadableTable, TableDefinition};

const REDB: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("t");

fn redb(place: &Place, input: &Input) -> Result<redb::Database, redb::Error> {
    let db = redb::Builder::new().set_cache_size(1 << 30).create(place.path("redb"))?;
    let mut transaction = db.begin_write()?;
    transaction.set_durability(Durability::None)?;
    {
        let mut table = transaction.open_table(REDB)?;
        for key in input.keys.iter() {
            table.insert(key, input.value.as_slice())?;
        }
    }
    transaction.commit()?;
    Ok(db)
}

/// The time of `n` entries, taken from walks that begin anew whenever they come to an end.
fn walked(n: u64, mut walk: impl FnMut(&mut dyn FnMut(&[u8], &[u8]) -> bool)) -> Duration {
    let (mut left, mut sum) = (n, 0u64);
    let start = Instant::now();
    while left > 0 {
        walk(&mut |key, value| {
            sum = sum.wrapping_add(fold(key)).wrapping_add(fold(value));
            left -= 1;
            left > 0
        });
    }
    black_box(sum);
    start.elapsed()
}

fn reads(c: &mut Criterion) {
    let input = Input::new();
    let place = Place::new();
    let ours = table(&input);
    let lmdb = Lmdb::new(&place, &input).expect("lmdb");
    let redb = redb(&place, &input).expect("redb");
    let lmdb_reads = lmdb.env.read_txn().expect("lmdb");
    let redb_table = redb.begin_read().expect("redb").open_table(REDB).expect("redb");

    let mut group = c.benchmark_group("get");
    let mut queries = input.queries.iter().cycle();
    let mut next = || queries.next().expect("keys");
    group.bench_function("table", |b| {
        b.iter(|| {
            let key = next();
            let hit = ours.get(key, u64::MAX, key_hash(key)).expect("intact").expect("there");
            fold(hit.value())
        });
    });
    group.bench_function("lmdb", |b| {
        b.iter(|| fold(lmdb.entries.get(&lmdb_reads, next()).expect("lmdb").expect("there")));
    });
    group.bench_function("redb", |b| {
        b.iter(|| fold(redb_table.get(next()).expect("redb").expect("there").value()));
    });
    group.finish();

    let mut group = c.benchmark_group("scan");
    for forward in [true, false] {
        let id = |engine| BenchmarkId::new(engine, if forward { "forward" } else { "backward" });
        group.bench_function(id("table"), |b| {
            b.iter_custom(|n| {
                walked(n, |visit| {
                    let mut cursor = ours.cursor();
                    let mut on = if forward { cursor.first() } else { cursor.last() };
                    while on.expect("intact") && visit(cursor.key(), cursor.value()) {
                        on = if forward { cursor.next() } else { cursor.prev() };
                    }
                })
            });
        });
        group.bench_function(id("lmdb"), |b| {
            b.iter_custom(|n| {
                walked(n, |visit| {
                    let mut walk =
                        |entries: &mut dyn Iterator<Item = heed::Result<(&[u8], &[u8])>>| {
                            entries.map(|entry| entry.expect("lmdb")).all(|(k, v)| visit(k, v));
                        };
                    if forward {
                        walk(&mut lmdb.entries.iter(&lmdb_reads).expect("lmdb"));
                    } else {
                        walk(&mut lmdb.entries.rev_iter(&lmdb_reads).expect("lmdb"));
                    }
                })
            });
        });
        group.bench_function(id("redb"), |b| {
            b.iter_custom(|n| {
                walked(n, |visit| {
                    let mut range = redb_table.iter().expect("redb");
                    while let Some(entry) = if forward { range.next() } else { range.next_back() } {
                        let (key, value) = entry.expect("redb");
                        if !visit(key.value(), value.value()) {
                            break;
                        }
                    }
                })
            });
        });
    }
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(2))
        .sample_size(20);
    targets = reads
}
criterion_main!(benches);
