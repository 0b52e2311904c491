//! Open, write, read, scan, close: `cargo run -p kvdb --example quickstart`.

#![allow(clippy::print_stdout)]

use kvdb::{Db, Result};

fn main() -> Result<()> {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let db = Db::open(dir.path().join("fruit"))?;

    // Single writes are commits of their own: durable when they return.
    db.put("apple", "red")?;
    db.put("banana", "yellow")?;
    db.put("blueberry", "blue")?;
    db.delete("banana")?;

    // A value is a handle into the store: no copy, and it outlives the database.
    let apple = db.get("apple")?.expect("it was just put");
    assert_eq!(apple, "red");
    assert!(!db.contains("banana")?);

    // Several writes at once.
    let mut batch = db.batch();
    batch.put("cherry", "dark red")?;
    batch.put("currant", "black")?;
    batch.commit()?;

    // In order, forwards and backwards. Every step can fail, and says so.
    for item in db.prefix("b")?.chain(db.range("c"..)?.rev()) {
        let item = item?;
        println!("{} is {}", item.key().escape_ascii(), item.value()?.escape_ascii());
    }

    // Many keys of one moment.
    let colors = db.multi_get(["apple", "banana", "cherry"])?;
    assert_eq!(colors.iter().flatten().count(), 2);

    db.close()?;
    assert_eq!(apple, "red");
    Ok(())
}
