//! Point reads and scans of one table, of LMDB and of redb, over the same entries in one run.

use std::hint::black_box;
use std::time::{Duration, Instant};

use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, BenchmarkId, Criterion, criterion_group, criterion_main};
use heed::{RoTxn, WithTls};
use kvdb_benches::disk::Place;
use kvdb_benches::timing::fold;
use kvdb_peers::{Input, Lmdb, table};
use kvdb_sstable::{Cursor, Table, key_hash};
use kvdb_vfs::Region;
use redb::{Durability, ReadOnlyTable, ReadableDatabase, ReadableTable, TableDefinition};

/// What is measured, the same way for each. Whatever is read is read to the last byte.
trait Engine {
    /// The value of a key that is there, folded.
    fn get(&self, key: &[u8]) -> u64;

    /// Shows all entries, until `visit` has had enough.
    fn walk(&self, forward: bool, visit: impl FnMut(&[u8], &[u8]) -> bool);
}

impl Engine for Table<Region> {
    fn get(&self, key: &[u8]) -> u64 {
        let hit = Table::get(self, key, u64::MAX, key_hash(key)).expect("intact").expect("there");
        fold(hit.value())
    }

    fn walk(&self, forward: bool, mut visit: impl FnMut(&[u8], &[u8]) -> bool) {
        let mut cursor = self.cursor();
        let mut on = if forward { cursor.first() } else { cursor.last() };
        while on.expect("intact") && visit(cursor.key(), cursor.value()) {
            on = if forward { cursor.next() } else { cursor.prev() };
        }
    }
}

/// One read transaction for all that is read.
struct LmdbReads<'l>(&'l Lmdb, RoTxn<'l, WithTls>);

impl Engine for LmdbReads<'_> {
    fn get(&self, key: &[u8]) -> u64 {
        fold(self.0.entries.get(&self.1, key).expect("lmdb").expect("there"))
    }

    fn walk(&self, forward: bool, mut visit: impl FnMut(&[u8], &[u8]) -> bool) {
        let mut entry = |entry: heed::Result<(&[u8], &[u8])>| {
            let (key, value) = entry.expect("lmdb");
            visit(key, value)
        };
        let entries = &self.0.entries;
        if forward {
            entries.iter(&self.1).expect("lmdb").all(&mut entry);
        } else {
            entries.rev_iter(&self.1).expect("lmdb").all(&mut entry);
        }
    }
}

const REDB: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("t");

/// All entries, written in order by one transaction, with room for all of them in the cache.
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

impl Engine for ReadOnlyTable<&'static [u8], &'static [u8]> {
    fn get(&self, key: &[u8]) -> u64 {
        fold(ReadableTable::get(self, key).expect("redb").expect("there").value())
    }

    fn walk(&self, forward: bool, mut visit: impl FnMut(&[u8], &[u8]) -> bool) {
        let mut range = self.iter().expect("redb");
        while let Some(entry) = if forward { range.next() } else { range.next_back() } {
            let (key, value) = entry.expect("redb");
            if !visit(key.value(), value.value()) {
                break;
            }
        }
    }
}

/// All that an engine holds, as one number. It touches every page, too, so that none is touched for
/// the first time while it is measured.
fn contents(engine: &impl Engine) -> (usize, u64) {
    let (mut entries, mut sum) = (0, 0u64);
    engine.walk(true, |key, value| {
        entries += 1;
        let entry = fold(key).rotate_left(7).wrapping_add(fold(value));
        sum = (sum ^ entry).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        true
    });
    (entries, sum)
}

type Group<'g> = BenchmarkGroup<'g, WallTime>;

fn gets(group: &mut Group<'_>, name: &str, engine: &impl Engine, input: &Input) {
    let mut queries = input.queries.iter().cycle();
    group.bench_function(name, |b| b.iter(|| engine.get(queries.next().expect("keys"))));
}

/// The time per entry, taken from walks that begin anew whenever they come to an end.
fn scans(group: &mut Group<'_>, name: &str, engine: &impl Engine, forward: bool) {
    let id = BenchmarkId::new(name, if forward { "forward" } else { "backward" });
    group.bench_function(id, |b| {
        b.iter_custom(|n| {
            let (mut left, mut sum) = (n, 0u64);
            let start = Instant::now();
            while left > 0 {
                engine.walk(forward, |key, value| {
                    sum = sum.wrapping_add(fold(key)).wrapping_add(fold(value));
                    left -= 1;
                    left > 0
                });
            }
            black_box(sum);
            start.elapsed()
        });
    });
}

fn reads(c: &mut Criterion) {
    let input = Input::new();
    let place = Place::new();
    let ours = table(&input);
    let lmdb = Lmdb::new(&place, &input).expect("lmdb");
    let lmdb = LmdbReads(&lmdb, lmdb.env.read_txn().expect("lmdb"));
    let redb = redb(&place, &input).expect("redb");
    let redb = redb.begin_read().expect("redb").open_table(REDB).expect("redb");
    let held = contents(&ours);
    assert_eq!(held.0, input.keys.iter().count());
    assert!(held == contents(&lmdb) && held == contents(&redb), "all hold the same");

    let mut group = c.benchmark_group("get");
    gets(&mut group, "table", &ours, &input);
    gets(&mut group, "lmdb", &lmdb, &input);
    gets(&mut group, "redb", &redb, &input);
    group.finish();
    let mut group = c.benchmark_group("scan");
    for forward in [true, false] {
        scans(&mut group, "table", &ours, forward);
        scans(&mut group, "lmdb", &lmdb, forward);
        scans(&mut group, "redb", &redb, forward);
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
