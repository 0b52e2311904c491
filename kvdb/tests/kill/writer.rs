//! The child: writes until it is killed.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;

use kvdb::{Db, Durability, Error};

use crate::plan::{COUNT, Coordinates, MARK, Plan, Shape, WRITERS};
use crate::report;

const STORE: &str = "KVDB_KILL_STORE";
const ORDERS: &str = "KVDB_KILL_ORDERS";

/// What a child is to do.
#[derive(Debug)]
pub(crate) struct Orders {
    pub(crate) store: PathBuf,
    pub(crate) seed: u64,
    pub(crate) life: u32,
    pub(crate) durability: Durability,
    /// The first commit of each writer.
    pub(crate) first: [u32; WRITERS as usize],
}

impl Orders {
    pub(crate) fn to_env(&self, command: &mut Command) {
        let sync = u8::from(self.durability == Durability::Sync);
        let first = self.first.map(|number| number.to_string()).join(" ");
        command
            .env(STORE, &self.store)
            .env(ORDERS, format!("{} {} {sync} {first}", self.seed, self.life));
    }

    pub(crate) fn from_env() -> Option<Self> {
        let store = env::var_os(STORE)?.into();
        let text = env::var(ORDERS).unwrap();
        let numbers: Vec<u64> = text.split(' ').map(|word| word.parse().unwrap()).collect();
        let durability = if numbers[2] == 1 { Durability::Sync } else { Durability::Buffered };
        let first = std::array::from_fn(|writer| numbers[3 + writer] as u32);
        Some(Self { store, seed: numbers[0], life: numbers[1] as u32, durability, first })
    }
}

/// Opens the store and writes. Returns only by the end of the process.
pub(crate) fn run(orders: &Orders) {
    report::ready();
    let db = crate::options(orders.durability)
        .open(&orders.store)
        .unwrap_or_else(|error| give_up("open", &error));
    thread::scope(|scope| {
        for writer in 0..WRITERS {
            let db = &db;
            scope.spawn(move || write(db, orders, writer));
        }
    });
}

fn write(db: &Db, orders: &Orders, writer: u8) {
    let other = match orders.durability {
        Durability::Sync => Durability::Buffered,
        Durability::Buffered => Durability::Sync,
    };
    for number in orders.first[usize::from(writer)].. {
        let commit = Coordinates { seed: orders.seed, life: orders.life, writer, number };
        let plan = commit.plan();
        let durability = if plan.contrary { other } else { orders.durability };
        report::intend(writer, number);
        let version = loop {
            match perform(db, &commit, &plan, durability) {
                Ok(version) => break version,
                Err(Error::Conflict) if plan.shape == Shape::Counting => {}
                Err(error) => give_up("commit", &error),
            }
        };
        report::acknowledge(writer, number, version);
    }
}

fn perform(
    db: &Db,
    commit: &Coordinates,
    plan: &Plan,
    durability: Durability,
) -> kvdb::Result<u64> {
    if let (Shape::Single, [(key, value)]) = (plan.shape, plan.writes.as_slice()) {
        return match value {
            Some(value) => db.put(key, value),
            None => db.delete(key),
        };
    }
    let mut transaction = db.begin()?;
    if plan.shape == Shape::Counting {
        let count = transaction.get(COUNT)?.map_or(0, |value| parse(&value));
        transaction.put(COUNT, (count + 1).to_string())?;
    }
    for (key, value) in &plan.writes {
        match value {
            Some(value) => transaction.put(key, value)?,
            None => transaction.delete(key)?,
        }
    }
    if plan.shape == Shape::Marking {
        transaction.put(MARK, commit.mark())?;
    }
    transaction.commit_with(durability)
}

/// A count as it stands under [`COUNT`].
pub(crate) fn parse(value: &[u8]) -> u64 {
    std::str::from_utf8(value).ok().and_then(|text| text.parse().ok()).unwrap()
}

fn give_up(what: &str, error: &Error) -> ! {
    eprintln!("{what}: {error}");
    std::process::exit(3);
}

impl Orders {
    pub(crate) fn new(
        store: &Path,
        seed: u64,
        life: u32,
        durability: Durability,
        first: [u32; 4],
    ) -> Self {
        Self { store: store.to_owned(), seed, life, durability, first }
    }
}
