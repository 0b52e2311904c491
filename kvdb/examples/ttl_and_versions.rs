//! Entries that expire, and older versions: `cargo run -p kvdb --example ttl_and_versions`.

#![allow(clippy::print_stdout)]

use std::sync::Arc;
use std::time::Duration;

use kvdb::vfs::{ManualClock, MemFs};
use kvdb::{Options, Result, WriteOptions};

fn main() -> Result<()> {
    // In memory, with a clock that is set by hand.
    let clock = Arc::new(ManualClock::new(1_700_000_000));
    let options = Options::default().versions_to_keep(10);
    let db = options.open_with(Arc::new(MemFs::new()), clock.clone(), "/db")?;

    // A session that ends in a minute, with a byte of the user's own.
    let minute = WriteOptions::default().ttl(Duration::from_secs(60)).user_meta(b's');
    db.put_with("session:42", "alice", minute)?;
    let item = db.get_entry("session:42")?.expect("it has just begun");
    assert_eq!((item.user_meta(), item.expires_at()), (b's', Some(1_700_000_060)));
    clock.set(1_700_000_060);
    assert!(db.get("session:42")?.is_none(), "its second has come");

    // Each commit is a version. From that of a snapshot that is held on, each can be read.
    let first = db.put("page", "draft")?;
    let held = db.snapshot()?;
    let second = db.put("page", "final")?;
    db.delete("page")?;
    db.compact()?;
    assert_eq!(db.snapshot_at(first)?.get("page")?.expect("then"), "draft");
    assert_eq!(db.snapshot_at(second)?.get("page")?.expect("then"), "final");
    assert!(db.get("page")?.is_none());
    drop(held); // without one, whatever is kept, compaction may end that

    // All that is kept of every key: newest first, deletes and expired entries marked.
    for item in db.snapshot()?.versions() {
        let item = item?;
        let what = match (item.is_deleted(), item.is_expired()) {
            (true, _) => "deleted".to_owned(),
            (_, true) => "expired".to_owned(),
            _ => item.value()?.escape_ascii().to_string(),
        };
        println!("{} at version {}: {what}", item.key().escape_ascii(), item.version());
    }

    // What is newer than a version, deletes included.
    let changes = db.snapshot()?.versions().since(second).collect::<Result<Vec<_>>>()?;
    assert!(changes.len() == 1 && changes[0].is_deleted());
    db.close()
}
