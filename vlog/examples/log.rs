//! The log alone, as a write-ahead log: transactions in, transactions out after a crash.
//! `cargo run -p kvdb-vlog --example log`

#![allow(clippy::print_stdout)]

use std::convert::Infallible;
use std::sync::Arc;

use kvdb_vfs::{Fs, OsFs};
use kvdb_vlog::{Directory, Durability, FrameBuilder, Options};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let place = tempfile::tempdir()?;
    let fs: Arc<dyn Fs> = Arc::new(OsFs::new());
    let dir = Directory::new(fs, place.path(), 1)?;

    let (log, _) = dir.open(Options::default(), |_| Ok::<_, Infallible>(()))?;
    let mut index = Vec::new();
    for i in 0..200u32 {
        // A frame is a transaction: after a crash all of it is there, or nothing.
        let mut frame = FrameBuilder::new();
        frame.push(format!("key{i}").as_bytes(), b"", &[b'v'; 500], None)?;
        frame.push(b"latest", b"", &i.to_le_bytes(), None)?;
        // Only now and then is the disk waited for; that vouches for all before it, too.
        let durability = if i % 50 == 49 { Durability::Sync } else { Durability::Buffered };
        let done = log.append(frame.finish(), durability)?;
        index.push((done.version, done.pointers[0]));
    }

    // A pointer names a record; key and version are checked, and every byte.
    let (version, pointer) = index[123];
    let value = log.view().read(pointer, b"key123", version)?;
    println!("key123 has {} bytes, at {pointer:?}", value.len());
    // No clean end: as if the process had died here.
    std::mem::forget(log);

    let mut transactions = 0;
    let (log, end) = dir.open(Options::default(), |frame| {
        transactions += 1;
        assert_eq!(frame.records().count(), 2);
        Ok::<_, Infallible>(())
    })?;
    println!("{transactions} transactions again; a clean end: {}", end.clean);
    assert_eq!(transactions, 200);
    log.close()?;
    Ok(())
}
