//! Loads a tree with random keys on real files, and prints what it cost:
//! `cargo run --release -p kvdb-lsm --example load -- [entries] [value bytes]`.

#![allow(clippy::print_stdout)]

use std::sync::Arc;
use std::time::{Duration, Instant};

use kvdb_lsm::{Cursor, Entry, Floor, NoCompanion, Options, Tree, key_hash};
use kvdb_manifest::Manifest;
use kvdb_vfs::{Fs, OsFs};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let entries: u64 = args.next().map_or(Ok(1_000_000), |s| s.parse())?;
    let value: usize = args.next().map_or(Ok(128), |s| s.parse())?;

    let dir = tempfile::tempdir()?;
    let fs: Arc<dyn Fs> = Arc::new(OsFs::new());
    let manifest = Arc::new(Manifest::create(fs.clone(), dir.path(), 1, Default::default())?);
    let companion = Arc::new(NoCompanion::default());
    let tree = Tree::open(fs, dir.path(), manifest, Options::default(), companion, false)?;
    tree.start()?;

    let key = |n: u64| -> [u8; 16] {
        let mut x = n.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let high = x ^ (x >> 27);
        ((u128::from(high) << 64) | u128::from(n)).to_be_bytes()
    };
    let mut bytes = vec![0u8; value];
    let mut rng = fastrand::Rng::with_seed(1);
    rng.fill(&mut bytes);

    let mut slowest: Vec<Duration> = Vec::with_capacity(entries as usize);
    let started = Instant::now();
    let mut last = started;
    for n in 0..entries {
        tree.write(n + 1, &[(&key(n), Entry::value(&bytes))])?;
        let now = Instant::now();
        slowest.push(now - last);
        last = now;
    }
    let loaded = started.elapsed();
    slowest.sort_unstable();
    let percentile = |p: f64| slowest[((entries - 1) as f64 * p) as usize];
    tree.flush()?;
    tree.companion().raise_floor(Floor { discard: entries, clock: 0 });
    tree.wait_idle()?;
    let settled = started.elapsed();
    let s = tree.stats();
    let user = entries as f64 * (16 + value) as f64;
    let written = (s.flushed_bytes + s.compacted_write_bytes) as f64;
    let space: u64 = s.levels.iter().map(|l| l.bytes).sum();
    println!("load      {loaded:?}, settled {settled:?}: {:.0} ns per put", per(loaded, entries));
    println!(
        "puts      p99 {:?}, p99.9 {:?}, max {:?}",
        percentile(0.99),
        percentile(0.999),
        percentile(1.0)
    );
    println!("write     amplification {:.2}, space {:.3}", written / user, space as f64 / user);
    println!("shape     {}", s.shape);
    println!("stalls    {:?}, slowed {} times", s.stalls, s.slowdowns);

    let reads = entries.min(1_000_000);
    for round in 0..2 {
        let started = Instant::now();
        for _ in 0..reads {
            let key = key(rng.u64(..entries));
            let pinned = tree.pin();
            let found = pinned.get(&key, u64::MAX, key_hash(&key))?;
            assert!(found.is_some());
        }
        let name = ["first", "cached"][round];
        println!("get       {name} {:.0} ns", per(started.elapsed(), reads));
    }
    let started = Instant::now();
    for n in 0..reads {
        let key = key(entries + n);
        let pinned = tree.pin();
        assert!(pinned.get(&key, u64::MAX, key_hash(&key))?.is_none());
    }
    println!("miss      {:.0} ns", per(started.elapsed(), reads));
    let started = Instant::now();
    let mut cursor = tree.superversion().cursor();
    let (mut n, mut valid) = (0, cursor.first()?);
    while valid {
        n += 1;
        valid = cursor.next()?;
    }
    println!("scan      {:.1} ns per entry, {n} entries", per(started.elapsed(), n));
    tree.close();
    Ok(())
}

fn per(time: Duration, n: u64) -> f64 {
    time.as_nanos() as f64 / n as f64
}
