//! The table format alone: build a file, read it by key and in order, and see damage found.
//! `cargo run -p kvdb-sstable --example table`

#![allow(clippy::print_stdout)]

use kvdb_sstable::{Builder, BuilderOptions, Cursor, ReaderOptions, Table, key_hash};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    // Entries come in order: keys ascending, of one key the newest version first.
    let mut builder = Builder::new(Vec::new(), BuilderOptions::default())?;
    for i in 0..50_000u32 {
        let key = format!("user:{i:06}");
        if i % 10 == 0 {
            builder.add(key.as_bytes(), 2, b"renamed")?;
        }
        builder.add(key.as_bytes(), 1, format!("name of {i}").as_bytes())?;
    }
    let (mut bytes, properties) = builder.finish()?;
    println!(
        "{} entries of {} keys in {} bytes",
        properties.entries, properties.distinct_keys, properties.file_len
    );

    // A table is read from anything that is bytes; a map or a file works the same.
    let table = Table::open(&bytes[..], ReaderOptions::default())?;
    let key = b"user:000040";
    let newest = table.get(key, u64::MAX, key_hash(key))?.expect("it is there");
    assert_eq!((newest.version(), newest.value()), (2, &b"renamed"[..]));
    let older = table.get(key, 1, key_hash(key))?.expect("so is this");
    assert_eq!(older.value(), b"name of 40");
    assert!(table.get(b"nobody", 9, key_hash(b"nobody"))?.is_none());

    // In order, from anywhere, both ways.
    let mut cursor = table.cursor();
    let mut on = cursor.seek(b"user:049990", u64::MAX)?;
    let mut seen = 0;
    while on {
        seen += 1;
        on = cursor.next()?;
    }
    println!("{seen} entries from user:049990 to the end");
    table.verify()?;

    // One flipped bit is found where it is read, and named.
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    let damaged = Table::open(&bytes[..], ReaderOptions::default())?;
    println!("after one flipped bit: {}", damaged.verify().expect_err("it is found"));
    Ok(())
}
