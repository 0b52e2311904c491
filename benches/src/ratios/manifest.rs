//! The manifest beside the barest thing that could be done: a write of as many bytes, and a sync.

use std::hint::black_box;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use kvdb_manifest::store::{StoreChange, StoreState, TableRecord};
use kvdb_manifest::{Manifest, Options};
use kvdb_vfs::{Fs, MemFs, OpenMode, OsFs, SyncSite};
use prost::Message;

use super::Recorder;
use crate::disk::Place;
use crate::targets::MANIFEST;
use crate::timing::nanos;

const ROUNDS: usize = 7;
/// Durable appends of a round.
const APPENDS: u64 = 200;
/// Tables there are at a time.
const TABLES: u64 = 1000;

/// What a compaction writes: a table comes and, when there are enough, one goes.
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
    let tables_removed = if id > TABLES { vec![id - TABLES] } else { vec![] };
    StoreChange { tables_added: vec![table], tables_removed, ..StoreChange::default() }
}

/// Never rewritten by itself.
fn options() -> Options {
    Options { rewrite_bytes: u64::MAX, ..Options::default() }
}

fn mean(time: Duration, n: u64) -> f64 {
    time.as_secs_f64() * 1e9 / n as f64
}

/// A manifest on disk and the file beside it.
struct OnDisk {
    place: Place,
    fs: Arc<dyn Fs>,
    manifest: Manifest<StoreState>,
    raw: Arc<dyn kvdb_vfs::File>,
    raw_end: u64,
    next: AtomicU64,
}

impl OnDisk {
    fn new() -> OnDisk {
        let place = Place::new();
        let fs: Arc<dyn Fs> = Arc::new(OsFs::new());
        let dir = place.path("manifest");
        fs.create_dir_all(&dir).expect("a directory");
        let manifest = Manifest::create(fs.clone(), &dir, 1, options()).expect("a manifest");
        // All tables by one change, to begin with.
        let mut all = StoreChange::default();
        for id in 1..=TABLES {
            all.tables_added.append(&mut change(id).tables_added);
        }
        manifest.append(&all).expect("a first change");
        let raw = fs.open(&place.path("raw"), OpenMode::CreateTruncate).expect("a file");
        OnDisk { place, fs, manifest, raw, raw_end: 0, next: AtomicU64::new(TABLES + 1) }
    }

    fn append(&self) {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        self.manifest.append(&change(id)).expect("an append");
    }

    /// Appends of the manifest and raw ones in turns.
    fn appends(&mut self) -> (f64, f64) {
        let (mut ours, mut theirs) = (Duration::ZERO, Duration::ZERO);
        for _ in 0..APPENDS {
            let start = Instant::now();
            self.append();
            ours += start.elapsed();

            let len = change(self.next.load(Ordering::Relaxed)).encoded_len() + 16;
            let bytes = vec![1; len];
            let start = Instant::now();
            self.raw.write_all_at(&bytes, self.raw_end).expect("a write");
            self.raw.sync_data(SyncSite::Other(0)).expect("a sync");
            theirs += start.elapsed();
            self.raw_end += len as u64;
        }
        (mean(ours, APPENDS), mean(theirs, APPENDS))
    }

    fn by_two_threads(&self) -> f64 {
        nanos(APPENDS as usize, || {
            std::thread::scope(|scope| {
                for _ in 0..2 {
                    scope.spawn(|| (0..APPENDS / 2).for_each(|_| self.append()));
                }
            });
        })
    }

    /// A rewrite, and as many bytes written to a new file that takes the place of another.
    fn rewrite(&self) -> (f64, f64) {
        let ours = nanos(1, || self.manifest.rewrite().expect("a rewrite"));
        let bytes = vec![1; self.manifest.size() as usize];
        let (temporary, path) = (self.place.path("new"), self.place.path("old"));
        let directory = path.parent().expect("its directory");
        let theirs = nanos(1, || {
            let replace = || {
                let file = self.fs.open(&temporary, OpenMode::CreateTruncate)?;
                file.write_all_at(&bytes, 0)?;
                file.sync_data(SyncSite::Other(0))?;
                self.fs.rename(&temporary, &path)?;
                self.fs.sync_dir(directory, SyncSite::Other(0))
            };
            replace().expect("a new file");
        });
        (ours, theirs)
    }
}

/// A long log in memory, where a sync costs nothing; and its change sets, encoded.
struct InMemory {
    fs: Arc<dyn Fs>,
    encoded: Vec<u8>,
}

impl InMemory {
    fn new() -> InMemory {
        let fs: Arc<dyn Fs> = Arc::new(MemFs::new());
        let manifest = Manifest::<StoreState>::create(fs.clone(), Path::new("/"), 1, options())
            .expect("a manifest");
        let mut encoded = Vec::new();
        for id in 1..=MANIFEST.0 as u64 {
            let change = change(id);
            manifest.append(&change).expect("an append");
            change.encode_length_delimited(&mut encoded).expect("room");
        }
        InMemory { fs, encoded }
    }

    fn replay(&self) -> (f64, f64) {
        let n = MANIFEST.0;
        let ours = nanos(n, || {
            let fs = self.fs.clone();
            let (manifest, report) =
                Manifest::<StoreState>::open(fs, Path::new("/"), options()).expect("intact");
            assert!(report.records >= n as u64);
            black_box(manifest.size());
        });
        let theirs = nanos(n, || {
            let mut rest = self.encoded.as_slice();
            while !rest.is_empty() {
                let change = StoreChange::decode_length_delimited(&mut rest);
                black_box(change.expect("what was encoded"));
            }
        });
        (ours, theirs)
    }
}

pub(super) fn run(recorder: &mut Recorder) {
    let memory = InMemory::new();
    let mut disk = OnDisk::new();
    for _ in 0..ROUNDS {
        let (ours, raw) = disk.appends();
        recorder.record("durable append", ours, raw);
        recorder.record("durable append, two threads", disk.by_two_threads(), ours);
        let (ours, raw) = disk.rewrite();
        recorder.record("rewrite with 1,000 tables", ours, raw);
        let dir = disk.place.path("manifest");
        let open = nanos(1, || {
            let options = Options { read_only: true, ..options() };
            let opened = Manifest::<StoreState>::open(disk.fs.clone(), &dir, options);
            black_box(opened.expect("intact").0.size());
        });
        recorder.record("open with 1,000 tables", open, 1.0);
        let (ours, decoding) = memory.replay();
        recorder.record("replay, per change set", ours, decoding);
    }
}
