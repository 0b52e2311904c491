//! How fast change sets are appended and replayed, beside the barest thing that could be done:
//! a write of the same bytes to a growing file, and a sync.
//!
//! `cargo run --release -p kvdb-manifest --example append_rate -- [DIR]`

#![allow(clippy::print_stdout)] // a program, not a library

use std::error::Error;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use kvdb_manifest::store::{StoreChange, StoreState, TableRecord};
use kvdb_manifest::{Manifest, Options};
use kvdb_vfs::{Fs, OpenMode, OsFs, SyncSite};
use prost::Message;

/// What a compaction step writes: a table goes, a table comes.
fn change(id: u64) -> StoreChange {
    let table = TableRecord {
        id,
        level: 1,
        size: 64 << 20,
        nonce: id.wrapping_mul(0x9e37_79b9_7f4a_7c15),
        smallest_key: format!("user{id:020}").into_bytes(),
        largest_key: format!("user{id:020}zzzz").into_bytes(),
        largest_version: id,
        entries: 500_000,
        raw_bytes: 100 << 20,
        ..TableRecord::default()
    };
    let tables_removed = if id > 1000 { vec![id - 1000] } else { vec![] };
    StoreChange { tables_added: vec![table], tables_removed, ..StoreChange::default() }
}

fn main() -> Result<(), Box<dyn Error>> {
    let dir = std::env::args().nth(1).unwrap_or_else(|| ".".into());
    let dir = Path::new(&dir).join("append_rate.tmp");
    let fs: Arc<dyn Fs> = Arc::new(OsFs);
    fs.create_dir_all(&dir)?;

    let never = Options { rewrite_bytes: u64::MAX, ..Options::default() };
    let manifest = Manifest::<StoreState>::create(fs.clone(), &dir, 1, never)?;
    let raw_path = dir.join("raw");
    let raw = fs.open(&raw_path, OpenMode::CreateTruncate)?;
    let (mut ours, mut yardstick, mut raw_end) = (Vec::new(), Vec::new(), 0);
    for id in 1..=2000 {
        let change = change(id);
        let start = Instant::now();
        manifest.append(&change)?;
        ours.push(start.elapsed());

        let bytes = vec![1; change.encoded_len() + 16];
        let start = Instant::now();
        raw.write_all_at(&bytes, raw_end)?;
        raw.sync_data(SyncSite::Other(0))?;
        yardstick.push(start.elapsed());
        raw_end += bytes.len() as u64;
    }
    let (ours, yardstick) = (median(ours), median(yardstick));
    println!("append, median: {ours:?}; write and sync of as many bytes: {yardstick:?}");

    let start = Instant::now();
    manifest.rewrite()?;
    println!("rewrite with 1,000 tables: {:?}, {} bytes", start.elapsed(), manifest.size());
    drop(manifest);

    // Replay needs a long log: written in memory, where a sync costs nothing.
    let memory: Arc<dyn Fs> = Arc::new(kvdb_vfs::MemFs::new());
    let never = Options { rewrite_bytes: u64::MAX, ..Options::default() };
    let manifest =
        Manifest::<StoreState>::create(memory.clone(), Path::new("/"), 1, never.clone())?;
    let start = Instant::now();
    for id in 1..=100_000 {
        manifest.append(&change(id))?;
    }
    println!("append in memory: {:?} each", start.elapsed() / 100_000);
    let start = Instant::now();
    let (_, report) = Manifest::<StoreState>::open(memory, Path::new("/"), never)?;
    let seconds = start.elapsed().as_secs_f64();
    println!(
        "replay: {:.2} M change sets a second, {:.0} MB/s",
        report.records as f64 / seconds / 1e6,
        report.bytes as f64 / seconds / 1e6
    );
    for name in ["raw", kvdb_manifest::FILE_NAME] {
        fs.remove(&dir.join(name))?;
    }
    fs.remove_dir(&dir)?;
    Ok(())
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times[times.len() / 2]
}
