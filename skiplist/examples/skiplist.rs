//! The skiplist alone, as the memtable of an engine of one's own: several writers, a reader of a fixed
//! version, and the end of the arena. `cargo run -p kvdb-skiplist --example skiplist`

#![allow(clippy::print_stdout)]

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use kvdb_skiplist::{Options, SkipList};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let list = Arc::new(SkipList::new(Options { capacity: 4 << 20, ..Options::default() })?);
    let versions = AtomicU64::new(1);

    std::thread::scope(|scope| {
        for writer in 0..4u64 {
            let (list, versions) = (&list, &versions);
            scope.spawn(move || {
                for i in 0..1000u64 {
                    let version = versions.fetch_add(1, Ordering::Relaxed);
                    let key = format!("key{:04}", (i * 7 + writer) % 500);
                    list.insert(key.as_bytes(), version, &version.to_le_bytes()).expect("room");
                }
            });
        }
    });
    println!("{} entries, {} bytes of the arena", list.len(), list.allocated());

    // A reader at version 2000 sees of each key the newest one up to there.
    let mut cursor = list.cursor();
    let (mut on, mut keys) = (cursor.first(), 0);
    let mut last = Vec::new();
    while on {
        if cursor.version() <= 2000 && cursor.key() != last {
            last = cursor.key().to_vec();
            let found = list.get(&last, 2000).expect("the cursor stands on it");
            assert_eq!(found.version(), cursor.version());
            keys += 1;
        }
        on = cursor.next();
    }
    println!("{keys} keys at version 2000");

    // What is full says so, and stays as it is: time for the next memtable.
    let small = SkipList::new(Options { capacity: 64 << 10, ..Options::default() })?;
    let mut inserted = 0u64;
    while small.insert(&inserted.to_be_bytes(), 1, &[0; 100]).is_ok() {
        inserted += 1;
    }
    assert_eq!(small.len() as u64, inserted);
    println!("{inserted} entries of 100 bytes fit into 64 KiB");
    Ok(())
}
