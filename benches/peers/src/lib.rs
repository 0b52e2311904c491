//! The yardsticks: other engines with the same entries, in their fastest documented configuration.

use fastrand::Rng;
use heed::types::Bytes;
use heed::{Database, Env, EnvFlags, EnvOpenOptions, PutFlags};
use kvdb_benches::disk::Place;
use kvdb_benches::input::{Flat, random_keys};
use kvdb_benches::targets::SSTABLE;
use kvdb_sstable::{Builder, BuilderOptions, ReaderOptions, Table};
use kvdb_vfs::Region;

/// What all engines hold: sorted keys, one value, and the keys in another order.
pub struct Input {
    /// Sorted.
    pub keys: Flat,
    /// The same, shuffled.
    pub queries: Flat,
    /// Of every key.
    pub value: Vec<u8>,
}

impl Input {
    /// The sizes of the rows of `ratios -- sstable`.
    #[must_use]
    pub fn new() -> Input {
        let (n, key_len, value_len) = SSTABLE;
        let keys = Flat::new(&random_keys(n, key_len, 1)).sorted();
        let queries = keys.shuffled(2);
        let mut value = vec![0; value_len];
        Rng::with_seed(4).fill(&mut value);
        Input { keys, queries, value }
    }
}

impl Default for Input {
    fn default() -> Self {
        Input::new()
    }
}

/// An LMDB environment.
pub struct Lmdb {
    /// The environment.
    pub env: Env,
    /// Its one database.
    pub entries: Database<Bytes, Bytes>,
}

impl Lmdb {
    /// An empty one, of up to so many bytes, which syncs nothing.
    ///
    /// # Errors
    /// What LMDB returns.
    pub fn create(place: &Place, bytes: usize) -> heed::Result<Lmdb> {
        let path = place.path("lmdb");
        std::fs::create_dir(&path)?;
        let mut options = EnvOpenOptions::new();
        options.map_size(bytes);
        // SAFETY: the directory is new and only this process knows it, so no other environment has
        // these files, and nobody changes them behind the map's back. `NO_SYNC` weakens what a
        // crash leaves, which nobody will look at.
        let env = unsafe { options.flags(EnvFlags::NO_SYNC).open(&path)? };
        let mut transaction = env.write_txn()?;
        let entries = env.create_database(&mut transaction, None)?;
        transaction.commit()?;
        Ok(Lmdb { env, entries })
    }

    /// All entries, written in order by one transaction and appended, which leaves no page half full:
    /// half as many pages to read.
    ///
    /// # Errors
    /// What LMDB returns.
    pub fn new(place: &Place, input: &Input) -> heed::Result<Lmdb> {
        let Lmdb { env, entries } = Lmdb::create(place, 1 << 30)?;
        let mut transaction = env.write_txn()?;
        for key in input.keys.iter() {
            entries.put_with_flags(
                &mut transaction,
                PutFlags::APPEND,
                key,
                input.value.as_slice(),
            )?;
        }
        transaction.commit()?;
        Ok(Lmdb { env, entries })
    }
}

/// A table of the default options in memory, every checksum compared.
#[must_use]
pub fn table(input: &Input) -> Table<Region> {
    let mut builder = Builder::new(Vec::new(), BuilderOptions::default()).expect("the defaults");
    for key in input.keys.iter() {
        builder.add(key, 1, &input.value).expect("ascending keys");
    }
    let bytes = builder.finish().expect("a table").0;
    let table = Table::open(Region::from_vec(bytes), ReaderOptions::default());
    let table = table.expect("an intact table");
    table.verify().expect("an intact table");
    table
}
