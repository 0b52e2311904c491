//! A manifest in memory, frames whose contents follow from a seed, and opening as a database does.
use std::convert::Infallible;
use std::sync::Arc;
use std::sync::Mutex;

use kvdb_vfs::{Fs, MemFs, SyncSite};
use kvdb_vlog::*;

pub const DATABASE: u128 = 0x6b76_6462;
pub const DIR: &str = "/log";

/// A disk with the directory of the log, which outlives a crash.
pub fn new_disk() -> MemFs {
    let disk = MemFs::new();
    disk.create_dir_all(DIR.as_ref()).unwrap();
    disk.sync_dir("/".as_ref(), SyncSite::Other(0)).unwrap();
    disk
}

/// Multiplies counts of cases.
pub fn scale() -> u64 {
    std::env::var("KVDB_TEST_SCALE").ok().and_then(|s| s.parse().ok()).unwrap_or(1)
}

pub fn options() -> Options {
    Options {
        segment_size: 16 << 10,
        initial_segment_size: 12 << 10,
        tiny_segments: true,
        prefill: false,
        sync_method: SyncMethod::Fdatasync,
        ..Options::default()
    }
}

/// What a manifest file would hold.
#[derive(Debug, Clone, Default)]
pub struct State {
    pub segments: Vec<SegmentRecord>,
    pub head: Position,
    pub next: u64,
}

#[derive(Debug, Default)]
pub struct Manifest(pub Mutex<State>);

impl Manifest {
    pub fn new(state: State) -> Arc<Self> {
        Arc::new(Manifest(Mutex::new(state)))
    }
    pub fn state(&self) -> State {
        self.0.lock().unwrap().clone()
    }
}

impl SegmentNamer for Manifest {
    fn allocate(&self) -> Result<SegmentName, BoxError> {
        let mut state = self.0.lock().unwrap();
        state.next += 1;
        let n = state.next;
        Ok(SegmentName { segment: n as u32, file: 100 + n, nonce: n.wrapping_mul(0x9e37_79b9) })
    }
    fn name(&self, meta: &SegmentMeta) -> Result<(), BoxError> {
        let record = SegmentRecord { meta: *meta, sealed: None, relocated: None };
        self.0.lock().unwrap().segments.push(record);
        Ok(())
    }
    fn sealed(&self, sealed: &SealedSegment) -> Result<(), BoxError> {
        let mut state = self.0.lock().unwrap();
        let known = state.segments.iter_mut().find(|s| s.meta.segment == sealed.segment);
        match known.expect("only named segments are sealed").sealed.replace(*sealed) {
            None => Ok(()),
            Some(_) => Err(format!("segment {} sealed a second time", sealed.segment).into()),
        }
    }
}

/// A transaction: everything in it follows from its seed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry {
    pub version: u64,
    pub seed: u64,
    pub size: usize,
}

pub type Rec = (Vec<u8>, Vec<u8>, Vec<u8>, u64);

pub fn mix(mut x: u64) -> u64 {
    x = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

impl Entry {
    /// About `size` bytes in zero to four records, some with a version of their own.
    pub fn records(&self) -> Vec<Rec> {
        let n = mix(self.seed) % 5;
        let n = if self.size > 200 { n.max(1) } else { n };
        (0..n)
            .map(|i| {
                let key = format!("{}/{i}", self.seed).into_bytes();
                let tag = vec![i as u8; (mix(self.seed + i) % 4) as usize];
                let len = self.size / n as usize;
                let value = (0..len).map(|b| mix(self.seed ^ b as u64) as u8).collect();
                let own = mix(self.seed ^ i).is_multiple_of(3) && self.version > 0;
                let version = if own { self.version - 1 } else { self.version };
                (key, tag, value, version)
            })
            .collect()
    }
    pub fn frame(&self) -> Frame {
        let mut builder = FrameBuilder::new();
        for (key, tag, value, version) in self.records() {
            let own = (version != self.version).then_some(version);
            builder.push(&key, &tag, &value, own).unwrap();
        }
        assert_eq!(builder.len() % 8, 0);
        let len = builder.len();
        let frame = builder.finish();
        assert_eq!(frame.len(), len);
        frame
    }
}

pub fn records_of(frame: FrameView<'_>) -> Vec<Rec> {
    let records = frame.records();
    records.map(|r| (r.key.to_vec(), r.tag.to_vec(), r.value.to_vec(), r.version)).collect()
}

/// What a replay gave.
#[derive(Debug, Default, Clone)]
pub struct Seen {
    pub frames: Vec<(u64, Vec<Rec>)>,
    pub pointers: Vec<(Pointer, Rec)>,
    pub positions: Vec<Position>,
}

impl Seen {
    pub fn add(&mut self, frame: FrameView<'_>) {
        let records = records_of(frame);
        self.pointers.extend(frame.records().map(|r| r.pointer).zip(records.iter().cloned()));
        self.frames.push((frame.version(), records));
        self.positions.push(frame.position());
    }
}

pub fn recovery(fs: &Arc<dyn Fs>, state: &State, options: &Options) -> Result<Recovery> {
    let segments = state.segments.clone();
    Recovery::open(fs.clone(), DIR.as_ref(), DATABASE, segments, state.head, options.clone(), false)
}

/// Replays everything, and opens for appending the way a database does.
pub fn open(
    fs: &Arc<dyn Fs>,
    manifest: &Arc<Manifest>,
    options: &Options,
) -> Result<(Log, Seen, ReplayEnd)> {
    fs.create_dir_all(DIR.as_ref())?;
    let mut seen = Seen::default();
    let mut recovery = recovery(fs, &manifest.state(), options)?;
    let end = recovery
        .replay(|frame| {
            seen.add(frame);
            Ok::<_, Infallible>(())
        })
        .map_err(|e| match e {
            ReplayError::Log(e) => e,
            ReplayError::Caller(never) => match never {},
        })?;
    if end.clean && recovery.end_segment().is_some() {
        return Ok((recovery.into_log(manifest.clone(), Start::Clean)?, seen, end));
    }
    recovery.rewrite_tail()?;
    let meta = recovery.create_segment(manifest.allocate().unwrap())?;
    // One change set.
    let mut unnamed = Vec::new();
    {
        let mut state = manifest.0.lock().unwrap();
        for sealed in &end.sealed {
            let known = state.segments.iter_mut().find(|s| s.meta.segment == sealed.segment);
            known.unwrap().sealed = Some(*sealed);
        }
        state.segments.retain(|s| {
            let gone = end.unreached.contains(&s.meta.segment);
            if gone {
                unnamed.push(s.meta.file);
            }
            !gone
        });
        state.segments.push(SegmentRecord { meta, sealed: None, relocated: None });
        if state.head == Position::ZERO {
            state.head = Position::new(meta.segment, FIRST_FRAME);
        }
    }
    for file in unnamed {
        fs.remove(&segment_path(DIR.as_ref(), file))?;
    }
    Ok((recovery.into_log(manifest.clone(), Start::At(meta.segment))?, seen, end))
}

pub fn append(log: &Log, entry: Entry, durability: Durability) -> Result<Committed> {
    let frame = entry.frame();
    let room = log.reserve(frame.len())?;
    let ticket = log.enqueue(frame, entry.version, durability, room, ());
    log.drive(ticket, &Discard)
}

/// Fails unless `seen` is a prefix of `expected` of at least `least` frames; returns its length.
pub fn check_prefix(seen: &Seen, expected: &[Entry], least: usize) -> Result<usize, String> {
    let n = seen.frames.len();
    if n < least {
        return Err(format!("{n} frames, {least} were acknowledged"));
    }
    if n > expected.len() {
        return Err(format!("{n} frames, {} were ever written", expected.len()));
    }
    for (i, (seen, expected)) in seen.frames.iter().zip(expected).enumerate() {
        if *seen != (expected.version, expected.records()) {
            return Err(format!("frame {i} is not what was written"));
        }
    }
    Ok(n)
}
