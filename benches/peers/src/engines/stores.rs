//! The engines behind one trait: none syncs a put, none compresses, each has 1 GiB of cache where it has one of
//! its own, and memtables of 64 MiB.

use std::ops::Bound;

use fjall::{Database, KeyspaceCreateOptions, KvSeparationOptions};
use kvdb::{Durability, GcOptions, Options};
use kvdb_benches::disk::Place;
use kvdb_benches::timing::fold;
use kvdb_peers::Lmdb;
use redb::{ReadableDatabase, TableDefinition};

const CACHE: usize = 1 << 30;
const MEMTABLE: usize = 64 << 20;
const ENTRIES: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("entries");

/// A sum over all bytes that were read, and how many entries that were.
pub(crate) type Read = (u64, usize);

/// What the rows ask of an engine.
pub(crate) trait Store {
    /// A new one for values of this length.
    fn open(place: &Place, len: usize) -> Self;
    /// A commit of its own.
    fn put(&self, key: &[u8], value: &[u8]);
    /// Does what it would do in the background.
    fn settle(&self);
    /// What is there of these keys.
    fn get_all(&self, keys: &mut dyn Iterator<Item = [u8; 16]>) -> Read;
    /// Entries from the first key not less than this one on; backward, from the last one not greater.
    fn scan(&self, from: &[u8], n: usize, backward: bool) -> Read;
    fn close(self);
}

impl Store for kvdb::Db {
    fn open(place: &Place, _len: usize) -> Self {
        let options = Options::default().durability(Durability::Buffered);
        options.block_cache_size(CACHE).memtable_size(MEMTABLE).open(place.path("kvdb")).unwrap()
    }
    fn put(&self, key: &[u8], value: &[u8]) {
        kvdb::Db::put(self, key, value).unwrap();
    }
    fn settle(&self) {
        self.compact().unwrap();
        self.gc(&GcOptions::default()).unwrap();
    }
    fn get_all(&self, keys: &mut dyn Iterator<Item = [u8; 16]>) -> Read {
        keys.fold((0, 0), |(sum, n), key| match self.get_with(key, fold).unwrap() {
            Some(value) => (sum + value, n + 1),
            None => (sum, n),
        })
    }
    fn scan(&self, from: &[u8], n: usize, backward: bool) -> Read {
        let snapshot = self.snapshot().unwrap();
        let mut cursor = snapshot.cursor(..);
        let (mut sum, mut count) = (0u64, 0);
        let mut on = if backward { cursor.seek_for_prev(from) } else { cursor.seek(from) }.unwrap();
        while on && count < n {
            let value = cursor.value_with(fold).unwrap();
            sum = sum.wrapping_add(fold(cursor.key())).wrapping_add(value);
            count += 1;
            on = if backward { cursor.prev() } else { cursor.next() }.unwrap();
        }
        (sum, count)
    }
    fn close(self) {
        kvdb::Db::close(&self).unwrap();
    }
}

/// Its keyspace, and the database, which is to be dropped last. Values of 1 KiB and more are separated.
pub(crate) struct Fjall(fjall::Keyspace, #[expect(dead_code, reason = "held")] Database);

impl Store for Fjall {
    fn open(place: &Place, len: usize) -> Self {
        let db = Database::builder(place.path("fjall")).cache_size(CACHE as u64).open().unwrap();
        let separated = (len >= 1024).then(KvSeparationOptions::default);
        let options = || {
            KeyspaceCreateOptions::default()
                .with_kv_separation(separated)
                .max_memtable_size(MEMTABLE as u64)
        };
        Fjall(db.keyspace("values", options).unwrap(), db)
    }
    fn put(&self, key: &[u8], value: &[u8]) {
        self.0.insert(key, value).unwrap();
    }
    fn settle(&self) {
        self.0.rotate_memtable_and_wait().unwrap();
        self.0.major_compact().unwrap();
    }
    fn get_all(&self, keys: &mut dyn Iterator<Item = [u8; 16]>) -> Read {
        keys.fold((0, 0), |(sum, n), key| match self.0.get(key).unwrap() {
            Some(value) => (sum.wrapping_add(fold(&value)), n + 1),
            None => (sum, n),
        })
    }
    fn scan(&self, from: &[u8], n: usize, backward: bool) -> Read {
        let add = |(sum, n): Read, entry: fjall::Guard| {
            let (key, value) = entry.into_inner().unwrap();
            (sum.wrapping_add(fold(&key)).wrapping_add(fold(&value)), n + 1)
        };
        match backward {
            false => self.0.range(from..).take(n).fold((0, 0), add),
            true => self.0.range(..=from).rev().take(n).fold((0, 0), add),
        }
    }
    fn close(self) {}
}

/// `NO_SYNC`, so that a put ends in the page cache. Reads of one round are in one transaction.
impl Store for Lmdb {
    fn open(place: &Place, _len: usize) -> Self {
        Lmdb::create(place, 16 << 30).unwrap()
    }
    fn put(&self, key: &[u8], value: &[u8]) {
        let mut transaction = self.env.write_txn().unwrap();
        self.entries.put(&mut transaction, key, value).unwrap();
        transaction.commit().unwrap();
    }
    fn settle(&self) {}
    fn get_all(&self, keys: &mut dyn Iterator<Item = [u8; 16]>) -> Read {
        let transaction = self.env.read_txn().unwrap();
        keys.fold((0, 0), |(sum, n), key| match self.entries.get(&transaction, &key[..]).unwrap() {
            Some(value) => (sum.wrapping_add(fold(value)), n + 1),
            None => (sum, n),
        })
    }
    fn scan(&self, from: &[u8], n: usize, backward: bool) -> Read {
        let transaction = self.env.read_txn().unwrap();
        let add = |(sum, n): Read, entry: heed::Result<(&[u8], &[u8])>| {
            let (key, value) = entry.unwrap();
            (sum.wrapping_add(fold(key)).wrapping_add(fold(value)), n + 1)
        };
        match backward {
            false => {
                let range = (Bound::Included(from), Bound::Unbounded);
                self.entries.range(&transaction, &range).unwrap().take(n).fold((0, 0), add)
            }
            true => {
                let range = (Bound::Unbounded, Bound::Included(from));
                self.entries.rev_range(&transaction, &range).unwrap().take(n).fold((0, 0), add)
            }
        }
    }
    fn close(self) {}
}

/// Without durability a put ends in the process: less than the others promise. Its reads of a round are in one
/// transaction.
pub(crate) struct Redb(redb::Database);

impl Store for Redb {
    fn open(place: &Place, _len: usize) -> Self {
        let db = redb::Builder::new().set_cache_size(CACHE).create(place.path("redb")).unwrap();
        let transaction = db.begin_write().unwrap();
        transaction.open_table(ENTRIES).unwrap();
        transaction.commit().unwrap();
        Redb(db)
    }
    fn put(&self, key: &[u8], value: &[u8]) {
        let mut transaction = self.0.begin_write().unwrap();
        transaction.set_durability(redb::Durability::None).unwrap();
        transaction.open_table(ENTRIES).unwrap().insert(key, value).unwrap();
        transaction.commit().unwrap();
    }
    fn settle(&self) {}
    fn get_all(&self, keys: &mut dyn Iterator<Item = [u8; 16]>) -> Read {
        let table = self.0.begin_read().unwrap().open_table(ENTRIES).unwrap();
        keys.fold((0, 0), |(sum, n), key| match table.get(&key[..]).unwrap() {
            Some(value) => (sum.wrapping_add(fold(value.value())), n + 1),
            None => (sum, n),
        })
    }
    fn scan(&self, from: &[u8], n: usize, backward: bool) -> Read {
        let table = self.0.begin_read().unwrap().open_table(ENTRIES).unwrap();
        let mut read = (0u64, 0);
        let mut add = |key: &[u8], value: &[u8]| {
            read = (read.0.wrapping_add(fold(key)).wrapping_add(fold(value)), read.1 + 1);
        };
        let range = match backward {
            false => table.range(from..),
            true => table.range(..=from),
        };
        let mut range = range.unwrap();
        for _ in 0..n {
            let entry = if backward { range.next_back() } else { range.next() };
            let Some(entry) = entry else { break };
            let (key, value) = entry.unwrap();
            add(key.value(), value.value());
        }
        read
    }
    fn close(self) {}
}
