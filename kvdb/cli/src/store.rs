//! Opening the database a command works on.

use kvdb::{Db, Durability, Options};

use crate::args::Store;
use crate::failure::{CREATED_BY, Failure};

/// What a command is going to do with the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    /// Look only. Nothing is created and, where the store permits, nothing is written.
    Read,
    /// Change a store that is there.
    Change,
    /// Change a store, and create it first if need be.
    Create,
}

/// Opens the store of a command, with `durability` for what it commits.
pub(crate) fn open(store: &Store, access: Access, durability: Durability) -> Result<Db, Failure> {
    if access != Access::Create && !store.db.exists() {
        return Err(Failure::usage(format!("there is no database at {}", store.db.display()))
            .with_advice(CREATED_BY));
    }
    let mut options = Options::default();
    options.create_if_missing = access == Access::Create;
    options.read_only = access == Access::Read;
    options.durability = durability;
    options.value_dir = store.value_dir.clone();
    options.open(&store.db).map_err(|error| Failure::store(&store.db, "open the database", &error))
}

/// Ends the work on a store, so that an error of its last writes is not lost.
pub(crate) fn close(store: &Store, db: Db) -> Result<(), Failure> {
    db.close().map_err(|error| Failure::store(&store.db, "close the database", &error))
}
