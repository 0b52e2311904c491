//! The table beside one dependent miss, its own forward scan, and redb over the same entries.

use std::hint::black_box;
use std::ops::Bound;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use fastrand::Rng;
use kvdb_sstable::{
    AnySource, Bounded, Builder, BuilderOptions, Cursor, ReaderOptions, Result, Source, Table,
    key_hash,
};
use kvdb_vfs::{File, Fs, OpenMode, OsFs, Region};
use redb::{Durability, ReadableDatabase, ReadableTable, TableDefinition};

use super::Recorder;
use crate::disk::Place;
use crate::input::{Flat, random_keys};
use crate::miss::Chase;
use crate::targets::{CHASE_BYTES, SSTABLE, SSTABLE_FILE};
use crate::timing::{fold, nanos};

const ROUNDS: usize = 5;
/// Point gets of a round.
const GETS: usize = 250_000;
/// What stays in the processor's caches: keys that are looked up, and entries that are scanned.
const HOT_KEYS: usize = 1000;
const HOT_ENTRIES: usize = 10_000;

/// Builds a table into a vector that was written before, so that no page of it is new.
fn build(keys: &Flat, value: &[u8], mut out: Vec<u8>) -> Vec<u8> {
    out.clear();
    let mut builder = Builder::new(out, BuilderOptions::default()).expect("the default options");
    for key in keys.iter() {
        builder.add(key, 1, value).expect("ascending keys");
    }
    builder.finish().expect("a table").0
}

fn get_all(table: &Table<impl Source>, keys: &Flat, n: usize) -> f64 {
    nanos(n, || {
        let mut sum = 0u64;
        for key in keys.iter().cycle().take(n) {
            let hit = table.get(key, u64::MAX, key_hash(key)).expect("an intact table");
            sum = sum.wrapping_add(fold(hit.expect("a key that is there").value()));
        }
        black_box(sum);
    })
}

const COLD_PARTS: [&str; 3] =
    ["get, as far as the filter", "get, as far as the index", "get, as far as the block"];
const HOT_PARTS: [&str; 3] = [
    "get, hot, as far as the filter",
    "get, hot, as far as the index",
    "get, hot, as far as the block",
];

/// Ever larger parts of a get, to see what each adds: as far as the filter, the index, the block in
/// which the key is, whose value is not read.
fn get_in_part(table: &Table<impl Source>, keys: &Flat, n: usize) -> [f64; 3] {
    let may_contain = |key| table.may_contain(key_hash(key)).expect("an intact filter");
    let offset = |key| table.approximate_offset(key).expect("an intact index");
    let len = |key| {
        let hit = table.get(key, u64::MAX, key_hash(key)).expect("an intact table");
        hit.expect("a key that is there").value().len()
    };
    let filter = nanos(n, || {
        black_box(keys.iter().cycle().take(n).filter(|key| may_contain(key)).count());
    });
    let index = nanos(n, || {
        let there = keys.iter().cycle().take(n).filter(|key| may_contain(key));
        black_box(there.map(offset).sum::<u64>());
    });
    let block = nanos(n, || {
        black_box(keys.iter().cycle().take(n).map(len).sum::<usize>());
    });
    [filter, index, block]
}

/// The misses of gets without the gets: what the front of a key's block says is part of the address of
/// the value, and what the value says part of that of the next front, so that each waits for the one
/// before. The rest of the addresses is known ahead.
fn misses_alone(table: &Table<Region>, keys: &Flat) -> f64 {
    let bytes: &[u8] = table.source();
    let places: Vec<_> = keys
        .iter()
        .map(|key| {
            let hit = table.get(key, u64::MAX, key_hash(key)).expect("an intact table");
            let hit = hit.expect("a key that is there");
            let value = hit.value();
            let front = table.approximate_offset(key).expect("an intact index") as usize;
            (front, value.as_ptr().addr() - bytes.as_ptr().addr() - front, value.len())
        })
        .collect();
    // That these lookups brought it all near must not help.
    black_box(bytes.iter().step_by(64).map(|&byte| u64::from(byte)).sum::<u64>());
    // The fifth byte of each block is the same, and so are the values.
    let value = places
        .first()
        .map_or(0, |&(front, behind, len)| fold(&bytes[front + behind..front + behind + len]));
    nanos(places.len(), || {
        let mut nothing = 0;
        for &(front, behind, len) in &places {
            let front = front + nothing;
            let start = front + behind + usize::from(bytes[front + 4] ^ bytes[4]);
            nothing = (fold(&bytes[start..start + len]) ^ value) as usize;
        }
        assert_eq!(black_box(nothing), 0);
    })
}

/// The cursor is made where it walks: one that comes from elsewhere may be kept in memory.
fn scan<C: Cursor>(open: impl Fn() -> C, entries: usize, passes: usize, forward: bool) -> f64 {
    nanos(entries * passes, || {
        let mut cursor = open();
        let mut sum = 0u64;
        for _ in 0..passes {
            let mut on = if forward { cursor.first() } else { cursor.last() }.expect("intact");
            for _ in 0..entries {
                assert!(on);
                sum = sum.wrapping_add(fold(cursor.key())).wrapping_add(fold(cursor.value()));
                on = if forward { cursor.next() } else { cursor.prev() }.expect("intact");
            }
        }
        black_box(sum);
    })
}

/// A scan of the first entries that looks at bounds, on both sides.
fn scan_within(table: &Table<impl Source>, keys: &Flat, entries: usize, passes: usize) -> f64 {
    let at = |i| Bound::Included(keys.iter().nth(i).expect("so many keys").to_vec());
    let (from, to) = (at(0), at(entries - 1));
    scan(|| Bounded::new(table.cursor(), from.clone(), to.clone()), entries, passes, true)
}

/// Filter probes of few keys that are there, hashes given.
fn probe(table: &Table<impl Source>, keys: &Flat) -> f64 {
    let hashes: Vec<u64> = keys.iter().take(HOT_KEYS).map(key_hash).collect();
    let passes = 500;
    nanos(passes * hashes.len(), || {
        let mut found = 0;
        for _ in 0..passes {
            for &hash in &hashes {
                found += usize::from(table.may_contain(hash).expect("an intact filter"));
            }
        }
        assert_eq!(black_box(found), passes * hashes.len());
    })
}

/// How many of a hundred keys that are not there the filter lets through.
fn false_positives(table: &Table<impl Source>, missing: &Flat) -> f64 {
    let through = missing
        .iter()
        .filter(|key| table.may_contain(key_hash(key)).expect("an intact filter"))
        .count();
    through as f64 * 100.0 / missing.iter().count() as f64
}

/// A file that counts how often it is read.
struct Counting {
    file: Arc<dyn File>,
    reads: AtomicU64,
}

impl Source for Counting {
    fn len(&self) -> Result<u64> {
        self.file.len()
    }

    fn bytes(&self) -> Option<&[u8]> {
        None
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        self.reads.fetch_add(1, Ordering::Relaxed);
        self.file.read_exact_at(buf, offset)
    }
}

/// Reads of the file per get, when index and filter are there and no block is.
fn reads_per_get(path: &Path, keys: &Flat) -> f64 {
    let file = OsFs::new().open(path, OpenMode::Read).expect("the file");
    let source = Counting { file, reads: AtomicU64::new(0) };
    let table = Table::open(source, ReaderOptions::default()).expect("an intact table");
    let n = 10_000;
    get_all(&table, keys, 1);
    let before = table.source().reads.load(Ordering::Relaxed);
    get_all(&table, keys, n);
    (table.source().reads.load(Ordering::Relaxed) - before) as f64 / n as f64
}

/// From the path to a table that can be asked, in nanoseconds.
fn open(path: &Path) -> f64 {
    let start = Instant::now();
    let file = OsFs::new().open(path, OpenMode::Read).expect("the file");
    let source = AnySource::open(file, true).expect("a map");
    let table = Table::open(source, ReaderOptions::default()).expect("an intact table");
    let time = start.elapsed().as_secs_f64() * 1e9;
    black_box(table.properties().entries);
    time
}

const REDB: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("t");

/// The same entries in redb, with room for all of them in its cache.
struct Redb(redb::Database);

impl Redb {
    fn new(path: &Path, keys: &Flat, value: &[u8]) -> Redb {
        let fill = || -> std::result::Result<_, redb::Error> {
            let db = redb::Builder::new().set_cache_size(1 << 30).create(path)?;
            let mut transaction = db.begin_write()?;
            transaction.set_durability(Durability::None)?;
            {
                let mut table = transaction.open_table(REDB)?;
                for key in keys.iter() {
                    table.insert(key, value)?;
                }
            }
            transaction.commit()?;
            Ok(db)
        };
        Redb(fill().expect("a database of redb's"))
    }

    fn get_all(&self, keys: &Flat, n: usize) -> std::result::Result<f64, redb::Error> {
        let table = self.0.begin_read()?.open_table(REDB)?;
        Ok(nanos(n, || {
            let mut sum = 0u64;
            for key in keys.iter().cycle().take(n) {
                let value = table.get(key).expect("redb").expect("a key that is there");
                sum = sum.wrapping_add(fold(value.value()));
            }
            black_box(sum);
        }))
    }

    fn scan(&self, n: usize, forward: bool) -> std::result::Result<f64, redb::Error> {
        let table = self.0.begin_read()?.open_table(REDB)?;
        let mut range = table.iter()?;
        Ok(nanos(n, || {
            let mut sum = 0u64;
            for _ in 0..n {
                let entry = if forward { range.next() } else { range.next_back() };
                let (key, value) = entry.expect("an entry").expect("redb");
                sum = sum.wrapping_add(fold(key.value())).wrapping_add(fold(value.value()));
            }
            black_box(sum);
        }))
    }
}

pub(super) fn run(recorder: &mut Recorder) {
    let (n, key_len, value_len) = SSTABLE;
    let keys = Flat::new(&random_keys(n, key_len, 1)).sorted();
    let queries = keys.shuffled(2);
    let hot = Flat::new(&queries.iter().take(HOT_KEYS).map(<[u8]>::to_vec).collect::<Vec<_>>());
    let missing = Flat::new(&random_keys(200_000, key_len, 3));
    let mut value = vec![0; value_len];
    Rng::with_seed(4).fill(&mut value);

    let place = Place::new();
    let redb = Redb::new(&place.path("redb"), &keys, &value);
    let small: Vec<_> = keys.iter().take(SSTABLE_FILE.0).map(<[u8]>::to_vec).collect();
    let small = Flat::new(&small);
    let file = build(&small, &value, Vec::new());
    assert!(file.len() >= 64 << 20);
    let path = place.path("table");
    std::fs::write(&path, file).expect("a file");
    let in_file = small.shuffled(5);
    let mut room = build(&keys, &value, Vec::new());
    let table = Table::open(Region::from_vec(room.clone()), ReaderOptions::default());
    let table = table.expect("an intact table");
    table.verify().expect("an intact table");
    get_all(&table, &keys, n); // the first use of each block compares its checksum

    let mut chase = Chase::new(CHASE_BYTES, 6);
    for round in 0..ROUNDS {
        let build = nanos(n, || room = build(&keys, &value, std::mem::take(&mut room)));
        recorder.record("build", build, 1.0);

        // Other keys than in the last round: those are in no cache.
        let part = Flat::new(
            &queries
                .iter()
                .skip(round * GETS % n)
                .take(GETS)
                .map(<[u8]>::to_vec)
                .collect::<Vec<_>>(),
        );
        let d = chase.nanos(300_000);
        let get = get_all(&table, &part, GETS);
        let d = (d + chase.nanos(300_000)) / 2.0;
        recorder.record("get", get, d);
        recorder.record("get vs redb", get, redb.get_all(&part, GETS).expect("redb"));
        recorder.record("get, hot", get_all(&table, &hot, 100 * HOT_KEYS), 1.0);
        for (keys, n, yardstick, parts) in
            [(&part, GETS, d, COLD_PARTS), (&hot, 100 * HOT_KEYS, 1.0, HOT_PARTS)]
        {
            for (name, time) in parts.into_iter().zip(get_in_part(&table, keys, n)) {
                recorder.record(name, time, yardstick);
            }
        }
        recorder.record("get, its two misses alone", misses_alone(&table, &part), d);

        let forward = scan(|| table.cursor(), n, 1, true);
        recorder.record("scan", forward, 1.0);
        recorder.record("scan within bounds", scan_within(&table, &keys, n, 1), forward);
        let backward = scan(|| table.cursor(), n, 1, false);
        recorder.record("scan backward", backward, forward);
        recorder.record("scan vs redb", forward, redb.scan(n, true).expect("redb"));
        recorder.record("scan backward vs redb", backward, redb.scan(n, false).expect("redb"));
        let hot_scan = scan(|| table.cursor(), HOT_ENTRIES, 50, true);
        recorder.record("scan, hot", hot_scan, 1.0);
        let within = scan_within(&table, &keys, HOT_ENTRIES, 50);
        recorder.record("scan within bounds, hot", within, hot_scan);
        let back = scan(|| table.cursor(), HOT_ENTRIES, 50, false);
        recorder.record("scan backward, hot", back, hot_scan);

        recorder.record("filter probe, hot", probe(&table, &hot), 1.0);
        recorder.record("filter, false positives", false_positives(&table, &missing), 1.0);
        for _ in 0..3 {
            recorder.record("open of 64 MiB", open(&path), 1.0);
        }
        recorder.record("uncached get", reads_per_get(&path, &in_file), 1.0);
    }
}
