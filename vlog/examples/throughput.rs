//! How fast the log is on this machine, each row beside its yardstick, interleaved.
//!
//! `cargo run --release -p kvdb-vlog --example throughput [DIRECTORY]`
#![allow(clippy::unwrap_used, clippy::print_stdout)]

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use kvdb_vfs::{File, Fs, OpenMode, OsFs, SyncSite};
use kvdb_vlog::*;

const ROUNDS: usize = 5;

fn main() {
    let base = std::env::args_os().nth(1).map_or_else(std::env::temp_dir, PathBuf::from);
    let dir = tempfile::tempdir_in(base).unwrap();
    batched(dir.path());
    large(dir.path());
    durable(dir.path(), SyncMethod::Fdatasync);
    durable(dir.path(), SyncMethod::DurableWrite);
    threads(dir.path());
    replay_and_read(dir.path(), 100, 1_000_000);
    replay_and_read(dir.path(), 1024, 300_000);
    replay_and_read(dir.path(), 4096, 100_000);
}

fn median(mut runs: Vec<f64>) -> f64 {
    runs.sort_by(f64::total_cmp);
    runs[runs.len() / 2]
}

fn rate(n: u64, time: Duration) -> f64 {
    n as f64 / time.as_secs_f64()
}

fn create(path: &Path) -> Arc<dyn File> {
    let _ = std::fs::remove_file(path);
    OsFs::new().open(path, OpenMode::CreateNew).unwrap()
}

struct Store {
    log: Log,
    path: PathBuf,
    dir: Directory,
}

impl Store {
    fn new(at: &Path, name: &str, options: &Options) -> Store {
        let path = at.join(name);
        let _ = std::fs::remove_dir_all(&path);
        let fs: Arc<dyn Fs> = Arc::new(OsFs::new());
        let dir = Directory::new(fs, &path, 1).unwrap();
        let (log, _) = dir.open(options.clone(), |_| Ok::<_, ()>(())).unwrap();
        log.prepare().unwrap();
        Store { log, path, dir }
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.path);
    }
}

/// Frames of 100 bytes, 32 in a group, into the system; beside it plain writes of as many bytes.
fn batched(at: &Path) {
    const GROUPS: u64 = 20_000;
    let options = Options { initial_segment_size: 128 << 20, ..Options::default() };
    let (mut ours, mut plain) = (vec![], vec![]);
    for _ in 0..ROUNDS {
        let store = Store::new(at, "batched", &options);
        let value = [7; 100 - 32 - 12 - 16];
        let mut version = 0;
        let start = Instant::now();
        let mut spare_buffers = Vec::new();
        for _ in 0..GROUPS {
            let tickets: Vec<_> = (0..32)
                .map(|_| {
                    version += 1;
                    let buffer = spare_buffers.pop().unwrap_or_default();
                    let mut builder = FrameBuilder::reusing(buffer);
                    builder.push(&[3; 16], b"", &value, None).unwrap();
                    let frame = builder.finish();
                    let room = store.log.reserve(frame.len()).unwrap();
                    store.log.enqueue(frame, version, Durability::Buffered, room, ())
                })
                .collect();
            for ticket in tickets {
                spare_buffers.push(store.log.drive(ticket, &Discard).unwrap().into_buffer());
            }
        }
        ours.push(rate(GROUPS * 32, start.elapsed()));
        let file = create(&at.join("plain"));
        let block = [1; 32 * 104];
        let start = Instant::now();
        for i in 0..GROUPS {
            file.write_all_at(&block, i * block.len() as u64).unwrap();
        }
        plain.push(rate(GROUPS * 32, start.elapsed()));
    }
    report("100-byte frames by 32, buffered, frames/s", median(ours), median(plain));
}

/// Values of 64 KiB into the system, beside plain sequential writes of a new file.
fn large(at: &Path) {
    const N: u64 = 6000;
    let options = Options { initial_segment_size: 128 << 20, ..Options::default() };
    let (mut ours, mut plain) = (vec![], vec![]);
    let value = vec![5; 64 << 10];
    for _ in 0..ROUNDS {
        let store = Store::new(at, "large", &options);
        let mut buffer = Vec::new();
        let mut time = Duration::ZERO;
        for version in 1..=N {
            let start = Instant::now();
            let mut builder = FrameBuilder::reusing(buffer);
            builder.push(b"key", b"", &value, None).unwrap();
            let frame = builder.finish();
            let room = store.log.reserve(frame.len()).unwrap();
            let ticket = store.log.enqueue(frame, version, Durability::Buffered, room, ());
            buffer = store.log.drive(ticket, &Discard).unwrap().into_buffer();
            time += start.elapsed();
            // A background thread's work.
            store.log.prepare().unwrap();
        }
        ours.push(rate(N, time));
        drop(store);
        let file = create(&at.join("plain"));
        let mut time = Duration::ZERO;
        for i in 0..N {
            let start = Instant::now();
            file.write_all_at(&value, i * value.len() as u64).unwrap();
            time += start.elapsed();
            if i % 512 == 511 {
                file.sync_data(SyncSite::Other(0)).unwrap();
            }
        }
        plain.push(rate(N, time));
    }
    report("64 KiB values, buffered, values/s", median(ours), median(plain));
}

/// Writes zeros over the file ahead of time, as the log does with its segments.
fn prewrite(file: &dyn File, len: u64) {
    let zeros = vec![0; 1 << 20];
    let mut at = 0;
    while at < len {
        file.write_all_at(&zeros, at).unwrap();
        at += zeros.len() as u64;
    }
    file.sync_data(SyncSite::Other(0)).unwrap();
}

/// One 4 KiB frame per durable append, beside a raw write and `fdatasync` into a pre-written file.
fn durable(at: &Path, sync_method: SyncMethod) {
    const N: u64 = 1500;
    let options = Options { initial_segment_size: 32 << 20, sync_method, ..Options::default() };
    let (mut ours, mut plain) = (vec![], vec![]);
    for _ in 0..ROUNDS {
        let store = Store::new(at, "durable", &options);
        let value = vec![5; 4096 - 32 - 12 - 4];
        let mut buffer = Vec::new();
        let start = Instant::now();
        for version in 1..=N {
            let mut builder = FrameBuilder::reusing(buffer);
            builder.push(b"1234", b"", &value, None).unwrap();
            let frame = builder.finish();
            let room = store.log.reserve(frame.len()).unwrap();
            let ticket = store.log.enqueue(frame, version, Durability::Sync, room, ());
            buffer = store.log.drive(ticket, &Discard).unwrap().into_buffer();
        }
        ours.push(rate(N, start.elapsed()));
        let file = create(&at.join("plain"));
        prewrite(&*file, N * 4096);
        let block = [1; 4096];
        let start = Instant::now();
        for i in 0..N {
            file.write_all_at(&block, i * 4096).unwrap();
            file.sync_data(SyncSite::Other(0)).unwrap();
        }
        plain.push(rate(N, start.elapsed()));
    }
    let name = format!("4 KiB durable appends, {sync_method:?}, appends/s");
    report(&name, median(ours), median(plain));
}

/// Durable appends by 16 threads, beside one.
fn threads(at: &Path) {
    const N: u64 = 600;
    let options = Options { initial_segment_size: 64 << 20, ..Options::default() };
    let run = |threads: u64| {
        let store = Store::new(at, "threads", &options);
        let start = Instant::now();
        std::thread::scope(|s| {
            for _ in 0..threads {
                s.spawn(|| {
                    let value = [5; 1024];
                    for _ in 0..N {
                        let mut builder = FrameBuilder::new();
                        builder.push(b"1234", b"", &value, None).unwrap();
                        store.log.append(builder.finish(), Durability::Sync).unwrap();
                    }
                });
            }
        });
        rate(threads * N, start.elapsed())
    };
    let (mut many, mut one) = (vec![], vec![]);
    for _ in 0..ROUNDS {
        many.push(run(16));
        one.push(run(1));
    }
    report("durable 1 KiB appends, 16 threads against 1, appends/s", median(many), median(one));
}

/// Replay, and reading by pointer at random, beside dependent cache misses.
fn replay_and_read(at: &Path, size: usize, n: u64) {
    let options = Options { initial_segment_size: 128 << 20, prefill: false, ..Options::default() };
    let store = Store::new(at, "replay", &options);
    let value = vec![5; size];
    let mut pointers = Vec::with_capacity(n as usize);
    for i in 0..n {
        let mut builder = FrameBuilder::new();
        builder.push(&i.to_le_bytes(), b"", &value, None).unwrap();
        let done = store.log.append(builder.finish(), Durability::Buffered).unwrap();
        pointers.push((i, done.pointers[0], done.version));
        if i % 1024 == 0 {
            store.log.prepare().unwrap();
        }
    }
    store.log.close().unwrap();
    let mut rates = vec![];
    let mut bytes = 0;
    for _ in 0..ROUNDS {
        let start = Instant::now();
        let (mut records, mut fold) = (0u64, 0u64);
        let (log, _) = store
            .dir
            .open(options.clone(), |frame| {
                for r in frame.records() {
                    records += 1;
                    bytes += r.value.len();
                    fold += u64::from(r.key[0]);
                }
                Ok::<_, ()>(())
            })
            .unwrap();
        assert_eq!(records, n);
        std::hint::black_box(fold);
        rates.push(rate(n, start.elapsed()));
        log.close().unwrap();
    }
    let replay = median(rates);
    println!(
        "replay of {size}-byte values: {:.2} M records/s, {:.2} GB/s",
        replay / 1e6,
        replay * size as f64 / 1e9
    );
    let view = store.log.view();
    let mut x = 1u64;
    for i in (1..pointers.len()).rev() {
        x = x.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        pointers.swap(i, (x >> 33) as usize % (i + 1));
    }
    let chase: Vec<u32> = {
        let len = (64 << 20) / 64;
        let mut order: Vec<u32> = (0..len).collect();
        for i in (1..order.len()).rev() {
            x = x.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            order.swap(i, (x >> 33) as usize % i);
        }
        let mut next = vec![0; len as usize * 16];
        for w in order.windows(2) {
            next[w[0] as usize * 16] = w[1];
        }
        next
    };
    let (mut ours, mut miss) = (vec![], vec![]);
    for _ in 0..ROUNDS {
        let part = &pointers[..pointers.len().min(100_000)];
        let start = Instant::now();
        let mut fold = 0u64;
        for (key, pointer, version) in part {
            let value = view.read_ref(*pointer, &key.to_le_bytes(), *version).unwrap().unwrap();
            fold += u64::from(value[0]);
        }
        std::hint::black_box(fold);
        ours.push(start.elapsed().as_nanos() as f64 / part.len() as f64);
        let start = Instant::now();
        let mut at = chase[0];
        for _ in 0..200_000 {
            at = chase[at as usize * 16];
        }
        std::hint::black_box(at);
        miss.push(start.elapsed().as_nanos() as f64 / 200_000.0);
    }
    let (ours, miss) = (median(ours), median(miss));
    println!(
        "read of {size}-byte values by pointer: {ours:.0} ns = {:.2} D (D = {miss:.0} ns)",
        ours / miss
    );
}

fn report(name: &str, ours: f64, yardstick: f64) {
    println!("{name}: {ours:.0}, yardstick {yardstick:.0}, ratio {:.2}", ours / yardstick);
}
