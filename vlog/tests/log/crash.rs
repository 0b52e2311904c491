//! Power loss and sudden death at every operation, and again during recovery (rules 44, 45, 49c).
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use kvdb_vfs::{FaultFs, FaultPlan, Fs, Keep, MemFs, Op, SyncSite};
use kvdb_vlog::*;

use crate::common::*;

/// What is known at a moment of a workload.
#[derive(Debug, Clone, Default)]
struct Known {
    /// Every frame that was ever enqueued, in order, without those that a recovery cut.
    expected: Vec<Entry>,
    /// How many of them must survive the loss of power,
    durable: usize,
    /// and the death of the process.
    written: usize,
    /// Where those began that were written and not recovered.
    starts: Vec<(u64, Position)>,
    /// The last version of those that lie before the head.
    flushed: u64,
}

impl Known {
    fn next_version(&self) -> u64 {
        self.expected.last().map_or(self.flushed, |e| e.version) + 1
    }
}

/// What a database does when it has flushed its memtables: the head moves to the first frame
/// known in the active segment, the segments before are freed and their files used again.
fn checkpoint(log: &Log, fs: &Arc<dyn Fs>, tracker: &Tracker) {
    while log.prepare().unwrap() {}
    log.sync_through(log.end()).unwrap();
    let active = log.end().segment;
    let first = {
        let known = tracker.known.lock().unwrap();
        known.starts.iter().find(|s| s.1.segment == active).copied()
    };
    if let Some((version, head)) = first {
        move_head(log, fs, tracker, version, head);
    }
}

/// What a database does with a log at rest: the active segment is left, and the head moves behind
/// all there is; or what is kept ready is given up.
fn rest(log: &Log, fs: &Arc<dyn Fs>, tracker: &Tracker, rotate: bool) {
    let manifest = &tracker.manifest;
    if rotate {
        let end = log.rotate(u64::MAX).unwrap().expect("nobody commits");
        let version = {
            let mut known = tracker.known.lock().unwrap();
            known.durable = known.expected.len();
            known.next_version()
        };
        while log.prepare().unwrap() {}
        move_head(log, fs, tracker, version, end);
        return;
    }
    let gone = log.give_up_spares(|spares| {
        let ids: Vec<_> = spares.iter().map(|s| s.segment).collect();
        let mut state = manifest.0.lock().unwrap();
        state.segments.retain(|s| !ids.contains(&s.meta.segment));
        log.forget(&ids).unwrap();
        true
    });
    for meta in gone {
        fs.remove(&segment_path(DIR.as_ref(), meta.file)).unwrap();
    }
}

/// The frames before this version lie before `head` and need not be replayed any more.
fn move_head(log: &Log, fs: &Arc<dyn Fs>, tracker: &Tracker, version: u64, head: Position) {
    let mut known = tracker.known.lock().unwrap();
    let before = known.expected.iter().filter(|e| e.version < version).count();
    known.expected.drain(..before);
    known.flushed = version - 1;
    known.durable = known.expected.len();
    known.written = known.expected.len();
    let mut state = tracker.manifest.0.lock().unwrap();
    state.head = head;
    let (freed, rest): (Vec<_>, Vec<_>) =
        state.segments.drain(..).partition(|s| s.meta.segment < head.segment);
    state.segments = rest;
    drop(state);
    drop(known);
    let freed: Vec<_> = freed.iter().map(|s| s.meta.segment).collect();
    for meta in log.recycle(&freed).unwrap() {
        fs.remove(&segment_path(DIR.as_ref(), meta.file)).unwrap();
    }
}

/// A crash: what was left, and what must be in it.
struct Crash {
    fs: MemFs,
    state: State,
    known: Known,
    power: bool,
}

struct Tracker {
    manifest: Arc<Manifest>,
    known: Mutex<Known>,
    crashes: Mutex<Vec<Crash>>,
    seeds: Vec<u64>,
    seen: AtomicU64,
    every: u64,
}

impl Tracker {
    fn take(&self, fs: &MemFs) {
        if !self.seen.fetch_add(1, Ordering::Relaxed).is_multiple_of(self.every) {
            return;
        }
        let known = self.known.lock().unwrap().clone();
        let state = self.manifest.state();
        let mut crashes = self.crashes.lock().unwrap();
        let mut add = |fs, power| {
            crashes.push(Crash { fs, state: state.clone(), known: known.clone(), power });
        };
        add(fs.process_image(), false);
        add(fs.crash_image(&mut Keep::None), true);
        add(fs.crash_image(&mut Keep::All), true);
        for seed in &self.seeds {
            add(fs.crash_image(&mut Keep::Random(*seed)), true);
        }
    }
}

fn watch(fs: &MemFs, tracker: &Arc<Tracker>) {
    let tracker = Arc::downgrade(tracker);
    fs.on_operation(move |fs: &MemFs, _: Op, _: &Path| {
        if let Some(tracker) = tracker.upgrade() {
            tracker.take(fs);
        }
    });
}

fn with_faults(fs: &MemFs, skip: Option<SyncSite>) -> Arc<dyn Fs> {
    let faults = FaultFs::new(Arc::new(fs.clone()));
    if let Some(site) = skip {
        faults.arm(FaultPlan::skip_sync(site));
    }
    Arc::new(faults)
}

/// Appends frames of all sizes with all durabilities, through rotations, idle syncs, clean and
/// unclean reopenings, and keeps the tracker informed.
fn workload(fs: &Arc<dyn Fs>, tracker: &Tracker, options: &Options, seed: u64, steps: u64) {
    let mut log: Option<Log> = None;
    for step in 0..steps {
        let roll = mix(seed.wrapping_mul(1 << 20) + step);
        let open_log = match log.take() {
            Some(log) => log,
            None => {
                let (log, seen, _) = open(fs, &tracker.manifest, options).unwrap();
                let known = tracker.known.lock().unwrap().clone();
                check_prefix(&seen, &known.expected, known.expected.len()).unwrap();
                log
            }
        };
        match roll % 16 {
            0 => drop(open_log.idle_sync().unwrap()),
            1 | 2 => drop(open_log.prepare().unwrap()),
            3 => {
                match roll & 64 {
                    0 => drop(open_log.sync().unwrap()),
                    _ => drop(open_log.sync_through(open_log.end()).unwrap()),
                }
                let mut known = tracker.known.lock().unwrap();
                known.durable = known.expected.len();
            }
            5 => checkpoint(&open_log, fs, tracker),
            6 if step % 2 == 0 => rest(&open_log, fs, tracker, roll & 64 == 0),
            4 if step % 3 == 0 => {
                if roll & 64 == 0 {
                    open_log.close().unwrap();
                    let mut known = tracker.known.lock().unwrap();
                    known.durable = known.expected.len();
                }
                continue;
            }
            _ => {
                let durability =
                    if roll & 32 == 0 { Durability::Sync } else { Durability::Buffered };
                let size = match (roll >> 8) % 8 {
                    0 => 6000,
                    1 => 3000,
                    _ => (roll >> 16) as usize % 700,
                };
                let version = {
                    let mut known = tracker.known.lock().unwrap();
                    let version = known.next_version();
                    known.expected.push(Entry { version, seed: roll, size });
                    version
                };
                let entry = Entry { version, seed: roll, size };
                let done = append(&open_log, entry, durability).unwrap();
                let mut known = tracker.known.lock().unwrap();
                known.starts.push((version, done.position));
                known.written = known.expected.len();
                if durability == Durability::Sync {
                    known.durable = known.expected.len();
                }
            }
        }
        log = Some(open_log);
    }
}

/// Recovers a crash, compares, appends, and crashes again; `depth` times over.
fn survive(
    crash: Crash,
    options: &Options,
    skip: Option<SyncSite>,
    depth: u32,
    seed: u64,
    images: &AtomicU64,
) -> Result<(), String> {
    images.fetch_add(1, Ordering::Relaxed);
    let Crash { fs: disk, state, known, power } = crash;
    let least = if power { known.durable } else { known.written };
    let manifest = Manifest::new(state);
    let tracker = Arc::new(Tracker {
        manifest: manifest.clone(),
        known: Mutex::new(Known { written: least.min(known.durable), ..known.clone() }),
        crashes: Mutex::default(),
        seeds: vec![mix(seed)],
        seen: AtomicU64::new(seed),
        every: 2,
    });
    // A process that died left data that is not durable: only what was stays acknowledged.
    if !power {
        tracker.known.lock().unwrap().written = known.written;
    }
    if depth > 0 {
        watch(&disk, &tracker);
    }
    let fs = with_faults(&disk, skip);
    let (log, seen, end) =
        open(&fs, &manifest, options).map_err(|e| format!("{e} ({known:?}, power {power})"))?;
    let n = check_prefix(&seen, &known.expected, least)?;
    if end.frames as usize != n {
        return Err("the count is wrong".to_owned());
    }
    {
        // Recovery ended: what it found is durable, what it cut never comes back.
        let mut now = tracker.known.lock().unwrap();
        now.expected.truncate(n);
        now.durable = n;
        now.written = n;
    }
    for i in 0..3u64 {
        let mut now = tracker.known.lock().unwrap();
        let version = now.next_version();
        // The same sizes as those that were cut, other contents.
        let size = known.expected.get(now.expected.len()).map_or(100, |e| e.size);
        let entry = Entry { version, seed: mix(seed ^ i), size };
        now.expected.push(entry);
        drop(now);
        append(&log, entry, Durability::Sync).map_err(|e| e.to_string())?;
        let mut now = tracker.known.lock().unwrap();
        now.durable = now.expected.len();
        now.written = now.expected.len();
    }
    if seed.is_multiple_of(3) {
        log.close().map_err(|e| e.to_string())?;
    }
    drop(log);
    disk.clear_hook();
    let last = Crash {
        fs: disk.crash_image(&mut Keep::None),
        state: manifest.state(),
        known: tracker.known.lock().unwrap().clone(),
        power: true,
    };
    let mut crashes = std::mem::take(&mut *tracker.crashes.lock().unwrap());
    if depth > 0 {
        crashes.push(last);
        for (i, crash) in crashes.into_iter().enumerate() {
            // Few of those of the second generation have a third.
            let deeper = if i % 7 == 3 { depth - 1 } else { 0 };
            survive(crash, options, skip, deeper, mix(seed + i as u64), images)?;
        }
    } else {
        let fs: Arc<dyn Fs> = Arc::new(last.fs);
        let manifest = Manifest::new(last.state);
        let (_, seen, _) = open(&fs, &manifest, options).map_err(|e| e.to_string())?;
        check_prefix(&seen, &last.known.expected, last.known.durable)?;
    }
    Ok(())
}

fn run(options: &Options, seed: u64, steps: u64, skip: Option<SyncSite>) -> Result<u64, String> {
    let disk = MemFs::new();
    // The directory is the database's affair.
    disk.create_dir_all(DIR.as_ref()).unwrap();
    disk.sync_dir("/".as_ref(), SyncSite::Other(0)).unwrap();
    let tracker = Arc::new(Tracker {
        manifest: Manifest::new(State::default()),
        known: Mutex::default(),
        crashes: Mutex::default(),
        seeds: vec![seed + 1, seed + 2, seed + 3],
        seen: AtomicU64::new(0),
        every: 1,
    });
    watch(&disk, &tracker);
    workload(&with_faults(&disk, skip), &tracker, options, seed, steps);
    tracker.take(&disk);
    disk.clear_hook();
    let crashes = std::mem::take(&mut *tracker.crashes.lock().unwrap());
    let images = AtomicU64::new(0);
    for (i, crash) in crashes.into_iter().enumerate() {
        let depth = if i % 11 == 5 { 2 } else { 0 };
        survive(crash, options, skip, depth, mix(seed + i as u64), &images)?;
    }
    Ok(images.into_inner())
}

fn variants() -> Vec<Options> {
    let plain = options();
    vec![
        Options { sync_interval_bytes: 4 << 10, ..plain.clone() },
        Options { prefill: true, maps: false, ..plain.clone() },
        Options { sync_method: SyncMethod::DurableWrite, ..plain.clone() },
        Options { sync_method: SyncMethod::Direct, prefill: true, ..plain },
    ]
}

#[test]
fn acknowledged_frames_survive_a_crash_at_any_operation() {
    let mut images = 0;
    for seed in 0..scale() {
        for options in variants() {
            match run(&options, seed, 45, None) {
                Ok(n) => images += n,
                Err(e) => panic!("seed {seed}, {options:?}: {e}"),
            }
        }
    }
    println!("{images} crash images");
}

/// A suite that does not notice a missing sync tests nothing.
#[test]
fn every_missing_sync_is_noticed() {
    use SyncSite::*;
    let sites = [
        LogGroup,
        LogOlder,
        LogBackground,
        LogBeforeInstall,
        LogClose,
        LogRecovery,
        LogSegmentCreate,
        LogSegmentDir,
        LogRecycle,
        LogRecycleDir,
    ];
    for site in sites {
        // The first seeds are those that are known to tell.
        let noticed = [2, 0, 1].into_iter().chain(3..8 * scale()).any(|seed| {
            variants().iter().any(|options| {
                let skipped = std::panic::catch_unwind(|| run(options, seed, 45, Some(site)));
                !matches!(skipped, Ok(Ok(_)))
            })
        });
        assert!(noticed, "{site:?}");
    }
}
