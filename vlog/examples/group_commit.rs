//! Group commit with an order and an index of one's own: many threads, one sync for many of them.
//!
//! `cargo run --release -p kvdb-vlog --example group_commit [DIRECTORY]`
//!
//! [`Log::append`] gives out versions by itself. Who has an order of their own (a database, say)
//! takes the four steps apart: reserve, which alone may refuse; enqueue, under the lock that gives
//! out versions; drive; and a [`Sink`] that puts the frames of a group into the index, in order,
//! before anyone is told that they are committed.
#![allow(clippy::print_stdout, reason = "an example")]

use std::collections::BTreeMap;
use std::error::Error;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use kvdb_vfs::OsFs;
use kvdb_vlog::{
    Directory, Durability, FrameBuilder, FrameView, Log, Options, Pointer, Routed, Sink,
};

/// Keys and where their values are.
#[derive(Default)]
struct Index {
    map: Mutex<BTreeMap<Vec<u8>, (Pointer, u64)>>,
    visible: AtomicU64,
    groups: AtomicU64,
}

impl Sink<()> for Index {
    fn route(&self, _: &mut [Routed<()>]) {
        self.groups.fetch_add(1, Ordering::Relaxed);
    }

    fn apply(&self, frame: FrameView<'_>, (): &mut ()) {
        let mut map = self.map.lock().unwrap_or_else(PoisonError::into_inner);
        for record in frame.records() {
            map.insert(record.key.to_vec(), (record.pointer, record.version));
        }
    }

    fn publish(&self, up_to: u64) {
        self.visible.store(up_to, Ordering::Release);
    }
}

/// One transaction, from its records to the moment when it is durable and visible.
fn put(log: &Log, index: &Index, versions: &Mutex<u64>, key: &str) -> Result<u64, Box<dyn Error>> {
    let mut frame = FrameBuilder::new();
    frame.push(key.as_bytes(), b"", format!("value of {key}").as_bytes(), None)?;
    let frame = frame.finish();
    let room = log.reserve(frame.len())?;
    let ticket = {
        let mut last = versions.lock().unwrap_or_else(PoisonError::into_inner);
        *last += 1;
        log.enqueue(frame, *last, Durability::Sync, room, ())
    };
    Ok(log.drive(ticket, index)?.version)
}

fn main() -> Result<(), Box<dyn Error>> {
    let base = std::env::args_os().nth(1).map_or_else(std::env::temp_dir, PathBuf::from);
    let dir = tempfile::tempdir_in(base)?;
    let directory = Directory::new(Arc::new(OsFs::new()), &dir.path().join("log"), 1)?;
    let (log, _) = directory.open(Options::default(), |_| Ok::<_, std::io::Error>(()))?;
    let (index, versions) = (Index::default(), Mutex::new(0));

    const EACH: u64 = 200;
    for threads in [1, 16] {
        let groups = index.groups.load(Ordering::Relaxed);
        let start = Instant::now();
        std::thread::scope(|scope| {
            for thread in 0..threads {
                let (log, index, versions) = (&log, &index, &versions);
                scope.spawn(move || {
                    for n in 0..EACH {
                        let key = format!("{threads}/{thread}/{n}");
                        if let Err(e) = put(log, index, versions, &key) {
                            println!("{key}: {e}");
                        }
                    }
                });
            }
        });
        let commits = threads * EACH;
        println!(
            "{threads:2} threads: {commits} durable commits in {} groups, {:.0} a second",
            index.groups.load(Ordering::Relaxed) - groups,
            commits as f64 / start.elapsed().as_secs_f64(),
        );
    }

    // Reading: the index leads to the log. A set of values is asked for ahead.
    let map = index.map.into_inner().unwrap_or_else(PoisonError::into_inner);
    let view = log.view();
    let soon: Vec<Pointer> = map.values().map(|(pointer, _)| *pointer).collect();
    view.prefetch(&soon);
    for (key, (pointer, version)) in &map {
        let value = view.read(*pointer, key, *version)?;
        assert_eq!(&*value, [b"value of ", &key[..]].concat());
    }
    println!("{} values read, {} visible", map.len(), index.visible.load(Ordering::Acquire));
    log.close()?;
    Ok(())
}
