//! The log beside plain writes of the same bytes, raw durable writes, and one dependent miss.

use std::fs::File;
use std::hint::black_box;
use std::io::{BufWriter, Write};
use std::sync::Arc;

use kvdb_vfs::{Fs, OsFs};
use kvdb_vlog::{
    Directory, Discard, Durability, FrameBuilder, Log, LogView, Options, Pointer, Position,
    Recovery, SegmentRecord, SyncMethod,
};

use super::Recorder;
use crate::disk::{Method, PAGE, Place, Raw};
use crate::miss::Chase;
use crate::targets::{
    CHASE_BYTES, VLOG_DURABLE, VLOG_LARGE, VLOG_READ, VLOG_READ_BACK, VLOG_REPLAY_LARGE,
    VLOG_REPLAY_SMALL, VLOG_SMALL, VLOG_THREADS,
};
use crate::timing::{fold, nanos};

const ROUNDS: usize = 5;
/// Frames of a group, where they are grouped.
const GROUP: usize = 32;
const FRAME_HEADER: usize = 32;
const RECORD_HEADER: usize = 12;

/// A log in a directory of its own.
struct Store {
    place: Place,
    directory: Directory,
}

impl Store {
    fn new() -> Store {
        let place = Place::new();
        let fs: Arc<dyn Fs> = Arc::new(OsFs::new());
        let directory = Directory::new(fs, &place.path("log"), 1).expect("a directory");
        Store { place, directory }
    }

    fn open(&self, options: &Options) -> Log {
        let opened = self.directory.open(options.clone(), |_| Ok::<_, ()>(()));
        let log = opened.expect("a log").0;
        prepare(&log);
        log
    }
}

fn prepare(log: &Log) {
    while log.prepare().expect("housekeeping") {}
}

/// For what is only handed to the operating system: nothing is written ahead of time or synced.
fn buffered() -> Options {
    Options {
        initial_segment_size: 64 << 20,
        segment_size: 64 << 20,
        prefill: false,
        sync_method: SyncMethod::Fdatasync,
        sync_interval_bytes: 1 << 40,
        ..Options::default()
    }
}

/// Appends one frame of one record with a version of the caller's, reusing a buffer.
fn append(
    log: &Log,
    key: &[u8],
    value: &[u8],
    version: u64,
    how: Durability,
    buffer: Vec<u8>,
) -> Vec<u8> {
    let mut builder = FrameBuilder::reusing(buffer);
    builder.push(key, b"", value, None).expect("a small record");
    let frame = builder.finish();
    let room = log.reserve(frame.len()).expect("room");
    let ticket = log.enqueue(frame, version, how, room, ());
    log.drive(ticket, &Discard).expect("an append").into_buffer()
}

/// Frames of 100 bytes, 32 to a group, beside a `BufWriter` that is flushed as often. What a
/// background thread would do for the log is done, and counted, between groups.
fn small(recorder: &mut Recorder) {
    let (n, key_len, value_len) = VLOG_SMALL;
    let frame = FRAME_HEADER + RECORD_HEADER + key_len + value_len;
    let (key, value) = (vec![3; key_len], vec![7; value_len]);
    let store = Store::new();
    let log = store.open(&buffered());
    let mut spare_buffers = vec![Vec::new(); GROUP];
    let mut tickets = Vec::with_capacity(GROUP);
    let mut version = 0;
    let ours = nanos(n, || {
        for group in 0..n / GROUP {
            for _ in 0..GROUP {
                version += 1;
                let mut builder = FrameBuilder::reusing(spare_buffers.pop().unwrap_or_default());
                builder.push(&key, b"", &value, None).expect("a small record");
                let frame = builder.finish();
                let room = log.reserve(frame.len()).expect("room");
                tickets.push(log.enqueue(frame, version, Durability::Buffered, room, ()));
            }
            for ticket in tickets.drain(..) {
                let done = log.drive(ticket, &Discard).expect("an append");
                spare_buffers.push(done.into_buffer());
            }
            if group % 1024 == 1023 {
                prepare(&log);
            }
        }
    });
    let mut file =
        BufWriter::with_capacity(1 << 16, File::create(store.place.path("plain")).expect("a file"));
    let bytes = vec![7; frame];
    let plain = nanos(n, || {
        for _ in 0..n / GROUP {
            for _ in 0..GROUP {
                file.write_all(black_box(&bytes)).expect("a write");
            }
            file.flush().expect("a write");
        }
    });
    recorder.record("100-byte frames by 32", ours, 1.0);
    recorder.record("the same beside plain writes", ours, plain);
}

/// Frames of 64 KiB beside plain writes of as many bytes to a new file: with no sync on either side,
/// for which the log must not leave a segment, and with a sync every 32 MiB on both. Both take turns
/// of a few writes: what a page of the cache costs goes by how many are dirty already.
fn large(recorder: &mut Recorder) {
    const SYNC_EVERY: usize = 32 << 20;
    const TURN: usize = 64;
    let (n, key_len, value_len) = VLOG_LARGE;
    let (key, value) = (vec![3; key_len], vec![7; value_len]);
    let frame = FRAME_HEADER + RECORD_HEADER + key_len + value_len;
    for synced in [false, true] {
        let store = Store::new();
        let mut options = Options { segment_size: 1 << 30, ..buffered() };
        if synced {
            options.sync_interval_bytes = SYNC_EVERY as u64;
        } else {
            options.initial_segment_size = 1 << 30;
        }
        let log = store.open(&options);
        let mut file = File::create(store.place.path("plain")).expect("a file");
        let bytes = vec![7; frame];
        let (mut buffer, mut version, mut unsynced) = (Vec::new(), 0, 0);
        let (mut ours, mut plain) = (0.0, 0.0);
        for _ in 0..n / TURN {
            ours += nanos(n, || {
                for _ in 0..TURN {
                    version += 1;
                    let spare = std::mem::take(&mut buffer);
                    buffer = append(&log, &key, &value, version, Durability::Buffered, spare);
                }
                prepare(&log);
            });
            plain += nanos(n, || {
                for _ in 0..TURN {
                    file.write_all(black_box(&bytes)).expect("a write");
                    unsynced += frame;
                }
                if synced && unsynced >= SYNC_EVERY {
                    file.sync_data().expect("a sync");
                    unsynced = 0;
                }
            });
        }
        let name = if synced { "64 KiB values, synced by 32 MiB" } else { "64 KiB values" };
        recorder.record(name, ours, plain);
    }
}

/// Durable appends of a page to a log.
struct Appends {
    log: Log,
    _store: Store,
    key: Vec<u8>,
    value: Vec<u8>,
    version: u64,
    buffer: Vec<u8>,
}

impl Appends {
    fn new(sync_method: SyncMethod) -> Appends {
        let (_, key_len, value_len) = VLOG_DURABLE;
        assert_eq!(FRAME_HEADER + RECORD_HEADER + key_len + value_len, PAGE);
        let store = Store::new();
        let options = Options { initial_segment_size: 8 << 20, sync_method, ..Options::default() };
        let log = store.open(&options);
        let (key, value) = (vec![3; key_len], vec![7; value_len]);
        Appends { log, _store: store, key, value, version: 0, buffer: Vec::new() }
    }

    fn append(&mut self) {
        self.version += 1;
        let buffer = std::mem::take(&mut self.buffer);
        let (key, value) = (&self.key, &self.value);
        self.buffer = append(&self.log, key, value, self.version, Durability::Sync, buffer);
    }
}

/// Writes of a turn.
const TURN: usize = 20;

/// Durable appends of a page by each method, beside raw durable writes of a page by each. All six
/// take turns of a few writes: how long the device takes changes from one second to the next.
/// Every file was written to its end before, and every write goes to a place of its own.
fn durable(recorder: &mut Recorder) {
    let n = VLOG_DURABLE.0;
    let place = Place::new();
    let methods = [
        (Method::Fdatasync, SyncMethod::Fdatasync),
        (Method::DurableWrite, SyncMethod::DurableWrite),
        (Method::Direct, SyncMethod::Direct),
    ];
    let mut writers = methods.map(|(raw, ours)| {
        (Raw::new(&place.path(&format!("{raw:?}")), 2048, raw), Appends::new(ours))
    });
    let mut times = [(0.0, 0.0); 3];
    for _ in 0..n / TURN {
        for ((raw, ours), (raw_time, our_time)) in writers.iter_mut().zip(&mut times) {
            *raw_time += nanos(n, || (0..TURN).for_each(|_| raw.write()));
            *our_time += nanos(n, || (0..TURN).for_each(|_| ours.append()));
        }
    }
    let best = times.iter().fold(f64::INFINITY, |best, (raw, _)| best.min(*raw));
    for ((_, method), (raw, ours)) in methods.into_iter().zip(times) {
        if method == SyncMethod::default() {
            recorder.record("durable 4 KiB, by default", ours, best);
        }
        let row = match method {
            SyncMethod::Fdatasync => "durable 4 KiB, fdatasync",
            SyncMethod::DurableWrite => "durable 4 KiB, durable write",
            SyncMethod::Direct => "durable 4 KiB, direct",
        };
        recorder.record(row, ours, raw);
    }
    recorder.record("raw O_DIRECT|O_DSYNC", times[2].0, times[0].0);
}

/// Both methods, where what was appended is read soon.
fn read_back(recorder: &mut Recorder) {
    let by_fdatasync = appended_and_read(SyncMethod::Fdatasync);
    let by_direct = appended_and_read(SyncMethod::Direct);
    recorder.record("append and read, direct", by_direct, by_fdatasync);
}

/// The mean time of a durable append of a page with reading it once, to the last byte: each when
/// half of the others have been appended after it, in random order at the end.
fn appended_and_read(sync_method: SyncMethod) -> f64 {
    let (n, key_len, value_len) = VLOG_READ_BACK;
    let store = Store::new();
    let options = Options { initial_segment_size: 8 << 20, sync_method, ..Options::default() };
    let log = store.open(&options);
    let (key, value) = (vec![3; key_len], vec![7; value_len]);
    let read = |(pointer, version): (Pointer, u64)| {
        let value = log.view().read(pointer, &key, version).expect("an intact record");
        fold(&value)
    };
    let mut appended = Vec::with_capacity(n);
    let mut rng = fastrand::Rng::with_seed(3);
    nanos(n, || {
        let mut sum = 0u64;
        for i in 0..n {
            let mut builder = FrameBuilder::new();
            builder.push(&key, b"", &value, None).expect("a small record");
            let done = log.append(builder.finish(), Durability::Sync).expect("an append");
            appended.push((done.pointers[0], done.version));
            if i >= n / 2 {
                sum = sum.wrapping_add(read(appended[i - n / 2]));
            }
        }
        let rest = &mut appended[n / 2..];
        rng.shuffle(rest);
        for record in rest {
            sum = sum.wrapping_add(read(*record));
        }
        black_box(sum);
    })
}

/// Durable appends by sixteen threads beside one.
fn threads(recorder: &mut Recorder) {
    let (n, key_len, value_len) = VLOG_THREADS;
    let run = |threads: usize, n: usize| {
        let store = Store::new();
        let options = Options { initial_segment_size: 16 << 20, ..Options::default() };
        let log = store.open(&options);
        nanos(n, || {
            std::thread::scope(|scope| {
                for _ in 0..threads {
                    scope.spawn(|| {
                        let (key, value) = (vec![3; key_len], vec![7; value_len]);
                        for _ in 0..n / threads {
                            let mut builder = FrameBuilder::new();
                            builder.push(&key, b"", &value, None).expect("a small record");
                            log.append(builder.finish(), Durability::Sync).expect("an append");
                        }
                    });
                }
            });
        })
    };
    let one = run(1, n / 4);
    recorder.record("durable 1 KiB, 16 threads", run(16, n), one);
}

/// A log that is written once and then replayed and read.
struct Filled {
    store: Store,
    entries: usize,
    segments: Vec<SegmentRecord>,
    end: Position,
    /// Key, name and version of each record, in random order.
    records: Vec<(u64, Pointer, u64)>,
}

impl Filled {
    fn new((n, key_len, value_len): (usize, usize, usize)) -> Filled {
        assert_eq!(key_len, 8);
        let store = Store::new();
        let log = store.open(&buffered());
        let mut value = vec![0; value_len];
        let mut rng = fastrand::Rng::with_seed(7);
        let mut records = Vec::with_capacity(n);
        for i in 0..n as u64 {
            rng.fill(&mut value);
            let mut builder = FrameBuilder::new();
            builder.push(&i.to_le_bytes(), b"", &value, None).expect("a small record");
            let done = log.append(builder.finish(), Durability::Buffered).expect("an append");
            records.push((i, done.pointers[0], done.version));
            if i % 4096 == 0 {
                prepare(&log);
            }
        }
        // The records are all in segments that were left, so that nothing has to look at them again.
        log.rotate(0).expect("a new segment").expect("nobody commits");
        log.close().expect("a clean end");
        rng.shuffle(&mut records);
        let view = log.view();
        let metas = view.segments().filter_map(|segment| view.meta(segment));
        let record = |meta| SegmentRecord { meta, sealed: None, relocated: None };
        let segments = metas.map(record).collect();
        Filled { store, entries: n, segments, end: log.end(), records }
    }

    /// Maps of all segments through which nothing was read: what lies before the end is not replayed,
    /// which would touch every page.
    fn new_maps(&self) -> Arc<LogView> {
        let (fs, path) = (Arc::new(OsFs::new()), self.store.place.path("log"));
        let (segments, options) = (self.segments.clone(), buffered());
        let opened = Recovery::open(fs, &path, 1, segments, self.end, options, true);
        let mut recovery = opened.expect("an intact log");
        let end = recovery.replay(|_| Ok::<_, ()>(())).expect("an intact end");
        assert_eq!(end.frames, 0);
        recovery.view()
    }

    /// Opens the log and reads every record of it to the last byte.
    fn replay(&self) -> f64 {
        let options = buffered();
        let mut records = 0;
        let mut log = None;
        let time = nanos(self.entries, || {
            let mut sum = 0u64;
            let opened = self.store.directory.open(options, |frame| {
                for record in frame.records() {
                    records += 1;
                    sum = sum.wrapping_add(fold(record.key)).wrapping_add(fold(record.value));
                }
                Ok::<_, ()>(())
            });
            log = Some(opened.expect("an intact log").0);
            black_box(sum);
        });
        assert_eq!(records, self.entries);
        log.map(|log| log.close()).transpose().expect("a clean end");
        time
    }

    /// Reads `records` by pointer, to the last byte, checksums compared.
    fn read(view: &LogView, records: &[(u64, Pointer, u64)]) -> f64 {
        nanos(records.len(), || {
            let mut sum = 0u64;
            for (key, pointer, version) in records {
                let value = view.read_ref(*pointer, &key.to_le_bytes(), *version);
                sum = sum.wrapping_add(fold(value.expect("an intact record").expect("a map")));
            }
            black_box(sum);
        })
    }
}

pub(super) fn run(recorder: &mut Recorder) {
    let mut chase = Chase::new(CHASE_BYTES, 6);
    let replay_small = Filled::new(VLOG_REPLAY_SMALL);
    let replay_large = Filled::new(VLOG_REPLAY_LARGE);
    let read = Filled::new(VLOG_READ);
    let part = VLOG_READ.0 / ROUNDS;
    for round in 0..ROUNDS {
        small(recorder);
        large(recorder);
        durable(recorder);
        read_back(recorder);
        threads(recorder);
        recorder.record("replay of 100-byte values", replay_small.replay(), 1.0);
        recorder.record("replay of 4 KiB values", replay_large.replay(), 1.0);

        let view = read.new_maps();
        let records = &read.records[round * part..(round + 1) * part];
        let d = chase.nanos(300_000);
        let first = Filled::read(&view, records);
        let d = (d + chase.nanos(300_000)) / 2.0;
        recorder.record("read of 1 KiB by pointer", first, d);
        recorder.record("the same, pages mapped", Filled::read(&view, records), d);
    }
}
