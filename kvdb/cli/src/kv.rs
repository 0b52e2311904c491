//! `get`, `put` and `del`: one key at a time.

use std::fs;
use std::io::{self, Read};

use kvdb::Durability;

use crate::args::{DelArgs, GetArgs, PutArgs};
use crate::bytes;
use crate::failure::{Failure, Outcome, complain};
use crate::output::Output;
use crate::store::{self, Access};

pub(crate) fn get(args: &GetArgs) -> Result<Outcome, Failure> {
    let key = bytes::key(&args.key, args.form)?;
    let db = store::open(&args.store, Access::Read, Durability::Sync)?;
    let value =
        db.get(&key).map_err(|error| Failure::store(&args.store.db, "read the key", &error))?;
    let Some(value) = value else {
        complain(format_args!("not found: {}", args.key.display()));
        return Ok(Outcome::Partial);
    };
    let mut output = Output::new();
    output.raw(&value)?;
    output.finish()?;
    Ok(Outcome::Done)
}

pub(crate) fn put(args: &PutArgs) -> Result<Outcome, Failure> {
    let key = bytes::key(&args.key, args.form)?;
    // The value comes first: a file that is not there must not leave an empty database.
    let value = match (&args.value, &args.file) {
        (Some(value), _) => bytes::plain(value)?,
        (None, Some(file)) => {
            fs::read(file).map_err(|error| Failure::io(file.display(), &error))?
        }
        (None, None) => {
            let mut value = Vec::new();
            io::stdin()
                .lock()
                .read_to_end(&mut value)
                .map_err(|error| Failure::io("stdin", &error))?;
            value
        }
    };
    let db = store::open(&args.store, Access::Create, Durability::Sync)?;
    db.put(&key, &value)
        .map_err(|error| Failure::store(&args.store.db, "store the value", &error))?;
    store::close(&args.store, db)?;
    Ok(Outcome::Done)
}

pub(crate) fn del(args: &DelArgs) -> Result<Outcome, Failure> {
    let key = bytes::key(&args.key, args.form)?;
    let db = store::open(&args.store, Access::Change, Durability::Sync)?;
    let was_there = db
        .update(|transaction| -> kvdb::Result<bool> {
            let was_there = transaction.contains(&key)?;
            if was_there {
                transaction.delete(&key)?;
            }
            Ok(was_there)
        })
        .map_err(|error| Failure::store(&args.store.db, "delete the key", &error))?;
    store::close(&args.store, db)?;
    if !was_there {
        complain(format_args!("not found: {}", args.key.display()));
        return Ok(Outcome::Partial);
    }
    Ok(Outcome::Done)
}
