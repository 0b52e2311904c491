//! A log whose directory is all that says which segments there are: power loss at every operation of
//! creating, rotating, removing, closing and opening.
use std::path::Path;
use std::sync::{Arc, Mutex};

use kvdb_vfs::{FaultFs, FaultPlan, Fs, Keep, MemFs, Op, SyncSite};
use kvdb_vlog::*;

use crate::common::*;

/// What is known at a moment. Frames are named by the seeds of what is in them.
#[derive(Debug, Clone, Default)]
struct Known {
    /// Every frame that was appended, in order, without those that an opening cut.
    frames: Vec<Entry>,
    /// The frames before this one may be gone,
    kept_from: usize,
    /// and the ones from this on.
    durable: usize,
}

struct Tracker {
    known: Mutex<Known>,
    crashes: Mutex<Vec<(MemFs, Known)>>,
    seed: u64,
}

impl Tracker {
    fn new(known: Known, seed: u64) -> Arc<Self> {
        Arc::new(Tracker { known: Mutex::new(known), crashes: Mutex::default(), seed })
    }

    fn take(&self, fs: &MemFs) {
        let known = self.known.lock().unwrap().clone();
        let mut crashes = self.crashes.lock().unwrap();
        let seed = mix(self.seed ^ crashes.len() as u64);
        for policy in [Keep::None, Keep::All, Keep::Random(seed), Keep::Random(!seed)] {
            crashes.push((fs.crash_image(&mut { policy }), known.clone()));
        }
    }

    fn watch(self: &Arc<Self>, fs: &MemFs) {
        let tracker = Arc::downgrade(self);
        fs.on_operation(move |fs: &MemFs, _: Op, _: &Path| {
            if let Some(tracker) = tracker.upgrade() {
                tracker.take(fs);
            }
        });
    }

    fn crashes(&self) -> Vec<(MemFs, Known)> {
        std::mem::take(&mut *self.crashes.lock().unwrap())
    }
}

fn contents(records: Vec<Rec>) -> Vec<(Vec<u8>, Vec<u8>, Vec<u8>)> {
    records.into_iter().map(|(key, tag, value, _)| (key, tag, value)).collect()
}

/// Opens the directory and compares. Returns which frames of the known ones were there.
fn open_dir(
    fs: Arc<dyn Fs>,
    options: &Options,
    known: &Known,
) -> Result<(Directory, Log, std::ops::Range<usize>), String> {
    let dir = Directory::new(fs, DIR.as_ref(), DATABASE).map_err(|e| e.to_string())?;
    let mut seen = Vec::new();
    let opened = dir.open(options.clone(), |frame| {
        seen.push((frame.version(), contents(records_of(frame))));
        Ok::<_, ()>(())
    });
    let (log, end) = opened.map_err(|e| format!("{e:?} ({known:?})"))?;
    if end.frames as usize != seen.len() {
        return Err("the count is wrong".to_owned());
    }
    // But for the gap behind an unclean end.
    if seen.windows(2).any(|two| two[0].0 + 1 != two[1].0 && two[1].0 - two[0].0 < 1 << 32) {
        return Err("versions with a gap".to_owned());
    }
    // Frames without records look alike; so the run is found by all that is in it.
    let expected: Vec<_> = known.frames.iter().map(|e| contents(e.records())).collect();
    let found = (0..=known.kept_from)
        .rev()
        .map(|from| from..from + seen.len())
        .filter(|run| run.end >= known.durable && run.end <= expected.len())
        .find(|run| seen.iter().map(|s| &s.1).eq(&expected[run.clone()]));
    match found {
        Some(run) => Ok((dir, log, run)),
        None => Err(format!("{} frames are not what was written: {known:?}", seen.len())),
    }
}

fn append_one(log: &Log, tracker: &Tracker, seed: u64, size: usize) -> Result<Position, String> {
    let entry = Entry { version: 0, seed, size };
    tracker.known.lock().unwrap().frames.push(entry);
    let durability = if seed.is_multiple_of(2) { Durability::Sync } else { Durability::Buffered };
    let done = log.append(entry.frame(), durability).map_err(|e| e.to_string())?;
    if durability == Durability::Sync {
        let mut known = tracker.known.lock().unwrap();
        known.durable = known.frames.len();
    }
    Ok(done.position)
}

/// Appends, rotates, removes, closes and opens again.
fn workload(
    fs: &Arc<dyn Fs>,
    tracker: &Tracker,
    options: &Options,
    seed: u64,
    steps: u64,
) -> Result<(), String> {
    let mut open: Option<(Directory, Log, Vec<Position>)> = None;
    for step in 0..steps {
        let roll = mix(seed.wrapping_mul(1 << 20) + step);
        let (dir, log, mut starts) = match open.take() {
            Some(open) => open,
            None => {
                let mut known = tracker.known.lock().unwrap();
                // Nothing was lost: the process ended, and the system did not.
                let all = Known { durable: known.frames.len(), ..known.clone() };
                drop(known);
                let (dir, log, run) = open_dir(fs.clone(), options, &all)?;
                known = tracker.known.lock().unwrap();
                known.frames.drain(..run.start);
                known.kept_from -= run.start;
                known.durable = known.frames.len();
                drop(known);
                (dir, log, Vec::new())
            }
        };
        match roll % 16 {
            0 => drop(log.idle_sync().map_err(|e| e.to_string())?),
            1 => drop(log.prepare().map_err(|e| e.to_string())?),
            2 => {
                log.sync().map_err(|e| e.to_string())?;
                let mut known = tracker.known.lock().unwrap();
                known.durable = known.frames.len();
            }
            3 | 4 if !starts.is_empty() => {
                let at = starts.len() - 1 - (roll >> 8) as usize % starts.len().min(4);
                let position: Position = starts[at];
                // Those of its own segment stay, too.
                let first = starts.iter().position(|s| s.segment == position.segment).unwrap();
                {
                    let mut known = tracker.known.lock().unwrap();
                    known.kept_from =
                        known.kept_from.max(known.frames.len() - (starts.len() - first));
                }
                dir.remove_before(&log, position).map_err(|e| e.to_string())?;
                // It may lie before what an earlier removal left.
                assert!(log.view().segments().next() >= Some(position.segment));
            }
            5 if step % 2 == 0 => {
                log.rotate(u64::MAX).map_err(|e| e.to_string())?.expect("nobody commits");
                let mut known = tracker.known.lock().unwrap();
                known.durable = known.frames.len();
            }
            6 if step % 2 == 0 => {
                if roll & 64 == 0 {
                    log.close().map_err(|e| e.to_string())?;
                    let mut known = tracker.known.lock().unwrap();
                    known.durable = known.frames.len();
                }
                continue;
            }
            _ => {
                let size = if roll & 0x300 == 0 { 5000 } else { (roll >> 16) as usize % 900 };
                starts.push(append_one(&log, tracker, roll, size)?);
            }
        }
        open = Some((dir, log, starts));
    }
    Ok(())
}

fn with_faults(fs: &MemFs, skip: Option<SyncSite>) -> Arc<dyn Fs> {
    let faults = FaultFs::new(Arc::new(fs.clone()));
    if let Some(site) = skip {
        faults.arm(FaultPlan::skip_sync(site));
    }
    Arc::new(faults)
}

/// Opens an image, compares, goes on, and lets the power fail again.
fn survive(
    (disk, known): (MemFs, Known),
    options: &Options,
    skip: Option<SyncSite>,
    depth: u32,
    seed: u64,
) -> Result<u64, String> {
    let tracker = Tracker::new(known.clone(), seed);
    if depth > 0 {
        tracker.watch(&disk);
    }
    let (_dir, log, run) = open_dir(with_faults(&disk, skip), options, &known)?;
    {
        // What was found is durable, what was cut never comes back.
        let mut now = tracker.known.lock().unwrap();
        now.frames.truncate(run.end);
        now.durable = run.end;
    }
    for i in 0..3 {
        // The same sizes as those that were cut, other contents.
        let size = known.frames.get(run.end + i as usize).map_or(100, |e| e.size);
        append_one(&log, &tracker, mix(seed ^ i) & !1, size)?;
    }
    drop(log);
    disk.clear_hook();
    let last = (disk.crash_image(&mut Keep::None), tracker.known.lock().unwrap().clone());
    let mut crashes = tracker.crashes();
    crashes.push(last);
    let mut images = 1;
    for (i, (disk, known)) in crashes.into_iter().enumerate() {
        if depth == 0 || i % 3 != 0 {
            open_dir(with_faults(&disk, skip), options, &known)?;
        } else {
            images += survive((disk, known), options, skip, depth - 1, mix(seed + i as u64))?;
        }
    }
    Ok(images)
}

fn run(options: &Options, seed: u64, skip: Option<SyncSite>) -> Result<u64, String> {
    let disk = new_disk();
    let tracker = Tracker::new(Known::default(), seed);
    tracker.watch(&disk);
    workload(&with_faults(&disk, skip), &tracker, options, seed, 45)?;
    disk.clear_hook();
    let mut images = 0;
    for (i, crash) in tracker.crashes().into_iter().enumerate() {
        let depth = u32::from(i % 13 == 5);
        images += survive(crash, options, skip, depth, mix(seed + i as u64))?;
    }
    Ok(images)
}

fn variants() -> Vec<Options> {
    let plain = options();
    vec![
        Options { sync_interval_bytes: 4 << 10, ..plain.clone() },
        Options { sync_method: SyncMethod::Direct, prefill: true, ..plain },
    ]
}

#[test]
fn rules_44_45_a_directory_shows_the_end_of_the_log_after_a_crash_at_any_operation() {
    let mut images = 0;
    for seed in 0..6 * scale() {
        for options in variants() {
            match run(&options, seed, None) {
                Ok(n) => images += n,
                Err(e) => panic!("seed {seed}, {options:?}: {e}"),
            }
        }
    }
    println!("{images} crash images");
}

#[test]
fn every_sync_of_a_directory_is_needed() {
    use SyncSite::*;
    let sites = [LogGroup, LogOlder, LogBackground, LogSegmentCreate, LogSegmentDir, LogRemoveDir];
    for site in sites {
        let noticed = (0..12 * scale()).any(|seed| {
            variants().iter().any(|options| {
                let skipped = std::panic::catch_unwind(|| run(options, seed, Some(site)));
                !matches!(skipped, Ok(Ok(_)))
            })
        });
        assert!(noticed, "{site:?}");
    }
}
