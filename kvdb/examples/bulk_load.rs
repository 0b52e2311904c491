//! Loading much at once, and counters without reads: `cargo run --release -p kvdb --example bulk_load`.

#![allow(clippy::print_stdout)]

use kvdb::{MergeOperator, Options, Result};

fn main() -> Result<()> {
    const ROWS: u32 = 200_000;
    let dir = tempfile::tempdir().expect("a temporary directory");
    let count = MergeOperator::new(|_key, older, newer| {
        let read = |bytes: &[u8]| bytes.try_into().map_or(0, u64::from_le_bytes);
        (read(older) + read(newer)).to_le_bytes().to_vec()
    });
    let options = Options::bulk_load().merge_operator(count);
    let db = options.open(dir.path().join("rows"))?;

    // Chunks of about 1 MiB, each a commit of its own.
    let mut writer = db.bulk_writer();
    for row in 0..ROWS {
        writer.put(format!("row:{row:08}"), format!("the value of row {row}"))?;
        writer.merge(format!("count:{}", row % 10), 1u64.to_le_bytes())?;
    }
    writer.finish()?;
    db.flush()?;

    // Ids that never come twice.
    let ids = db.sequence("ids", 1000)?;
    assert_eq!((ids.next()?, ids.next()?), (0, 1));
    ids.release()?;

    let seven = db.get("count:7")?.expect("merged");
    assert_eq!(seven.as_ref(), u64::from(ROWS / 10).to_le_bytes());
    println!("{}", db.stats().shape);
    db.close()
}
