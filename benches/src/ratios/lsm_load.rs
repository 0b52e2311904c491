//! Ten million random keys: what they cost in bytes, and how long a put takes at a steady rate.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use fastrand::Rng;
use kvdb_lsm::{Entry, Floor, Options};

use super::Recorder;
use super::lsm::open;
use crate::disk::Place;
use crate::targets::LSM_LOAD;

/// The steady rate, as a part of what was reached without a pause.
const STEADY: f64 = 0.8;
/// For how long a thread is watched that does nothing.
const WITHOUT_CORE: Duration = Duration::from_secs(10);

/// The `n`th key: a permutation of the numbers, so that none comes twice.
fn key(n: u64) -> [u8; 16] {
    let mut x = n.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let high = x ^ (x >> 27);
    ((u128::from(high) << 64) | u128::from(n)).to_be_bytes()
}

/// What a load has cost.
struct Load {
    /// From the first put to the return of the last one.
    puts: Duration,
    /// Until nothing is left to flush or to compact.
    settled: Duration,
    /// From when each put was due to its return, sorted; and from its call.
    since_due: Vec<u64>,
    since_call: Vec<u64>,
    /// Bytes written to tables, and bytes of the directory at the end, beside the user's.
    written: f64,
    space: f64,
    slowed: u64,
    /// How long puts waited for a memtable or for compaction, in all.
    stopped: f64,
}

/// Loads a tree; `every`: a put is due so often. Without it, whenever the one before has returned.
fn load(dir: &Path, every: Option<f64>) -> Load {
    let (n, key_len, value_len) = LSM_LOAD;
    let mut value = vec![0; value_len];
    Rng::with_seed(4).fill(&mut value);
    let tree = open(dir, Options::default());
    // Written once before: their pages must not come while puts are timed.
    let (mut since_due, mut since_call) = (vec![u64::MAX; n], vec![u64::MAX; n]);
    let start = Instant::now();
    let mut now = 0;
    for i in 0..n as u64 {
        let due = every.map_or(now, |every| (i as f64 * every) as u64);
        while now < due {
            std::hint::spin_loop();
            now = start.elapsed().as_nanos() as u64;
        }
        let called = now;
        tree.write(i + 1, &[(&key(i), Entry::value(&value))]).expect("room");
        now = start.elapsed().as_nanos() as u64;
        since_due[i as usize] = now - due;
        since_call[i as usize] = now - called;
    }
    let puts = start.elapsed();
    tree.flush().expect("a flush");
    tree.companion().raise_floor(Floor { discard: n as u64, clock: 0 });
    tree.wait_idle().expect("an intact tree");
    let settled = start.elapsed();
    let stats = tree.stats();
    tree.close();
    let user = (n * (key_len + value_len)) as f64;
    let len = |entry: std::io::Result<std::fs::DirEntry>| entry?.metadata().map(|meta| meta.len());
    let files = std::fs::read_dir(dir).expect("the tree's directory");
    let space: u64 = files.map(|entry| len(entry).expect("a file")).sum();
    since_due.sort_unstable();
    since_call.sort_unstable();
    Load {
        puts,
        settled,
        since_due,
        since_call,
        written: (stats.flushed_bytes + stats.compacted_write_bytes) as f64 / user,
        space: space as f64 / user,
        slowed: stats.slowdowns,
        stopped: stats.stalls.iter().map(|stall| stall.nanos as f64).sum(),
    }
}

/// The longest time for which a thread that does nothing but look at the clock does not get a core,
/// beside as many busy threads as a tree has for flushes and compactions, at their priorities.
fn longest_without_a_core(time: Duration, options: &Options) -> f64 {
    let stop = AtomicBool::new(false);
    let busy = |nice: Option<i32>| {
        if let Some(nice) = nice {
            kvdb_lsm::lower_priority(nice);
        }
        while !stop.load(Ordering::Relaxed) {
            std::hint::spin_loop();
        }
    };
    std::thread::scope(|scope| {
        scope.spawn(|| busy(None));
        for _ in 0..options.compaction_threads {
            scope.spawn(|| busy(Some(options.nice)));
        }
        let (start, mut last, mut longest) = (Instant::now(), Duration::ZERO, Duration::ZERO);
        while last < time {
            let now = start.elapsed();
            (last, longest) = (now, longest.max(now - last));
        }
        stop.store(true, Ordering::Relaxed);
        longest.as_nanos() as f64
    })
}

/// What so many of the puts stay below, in nanoseconds.
fn percentile(sorted: &[u64], part: f64) -> f64 {
    sorted[((sorted.len() - 1) as f64 * part) as usize] as f64
}

pub(super) fn run(recorder: &mut Recorder) {
    let n = LSM_LOAD.0 as f64;
    let place = Place::new();
    let dir = place.path("tree");
    let free = load(&dir, None);
    std::fs::remove_dir_all(&dir).expect("a directory of our own");
    recorder.record("write amplification", free.written, 1.0);
    recorder.record("space after settling", free.space, 1.0);
    let put = free.puts.as_nanos() as f64 / n;
    recorder.record("put without a pause", put, 1.0);
    recorder.record("the same until settled", free.settled.as_nanos() as f64 / n, 1.0);
    recorder.record("puts slowed down", free.slowed as f64, 1.0);
    recorder.record("longest put without a pause", percentile(&free.since_call, 1.0), 1.0);
    recorder.record("puts without a pause stopped", free.stopped, 1.0);
    drop(free);

    let steady = load(&dir, Some(put / STEADY));
    std::fs::remove_dir_all(&dir).expect("a directory of our own");
    recorder.record("put at 80 %, p99, since due", percentile(&steady.since_due, 0.99), 1.0);
    recorder.record("put at 80 %, p99", percentile(&steady.since_call, 0.99), 1.0);
    recorder.record("put at 80 %, p99.9", percentile(&steady.since_call, 0.999), 1.0);
    recorder.record("put at 80 %, p99.9, since due", percentile(&steady.since_due, 0.999), 1.0);
    recorder.record("longest put at 80 %", percentile(&steady.since_call, 1.0), 1.0);
    recorder.record("longest put at 80 %, since due", percentile(&steady.since_due, 1.0), 1.0);
    recorder.record("puts at 80 % slowed down", steady.slowed as f64, 1.0);
    recorder.record("puts at 80 % stopped", steady.stopped, 1.0);
    let without_core = longest_without_a_core(WITHOUT_CORE, &Options::default());
    recorder.record("longest without a core", without_core, 1.0);
}
