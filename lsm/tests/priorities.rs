//! Which threads run at a lower priority. Alone in its file: it looks at all threads of the process.

#![allow(clippy::unwrap_used)]
#![cfg(target_os = "linux")]

mod common;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use common::*;
use kvdb_lsm::*;

/// Nice values of this process's threads, by name.
fn nice() -> BTreeMap<String, i32> {
    let tasks = std::fs::read_dir("/proc/self/task").unwrap();
    let stats = tasks.filter_map(|t| std::fs::read_to_string(t.ok()?.path().join("stat")).ok());
    let parse = |stat: String| {
        let (name, rest) = stat.split_once('(')?.1.rsplit_once(')')?;
        Some((name.to_owned(), rest.split_whitespace().nth(16)?.parse().ok()?))
    };
    stats.filter_map(parse).filter(|(name, _)| name.starts_with("kvdb-")).collect()
}

#[test]
fn compaction_runs_at_a_lower_priority_and_what_writers_wait_for_does_not() {
    let store = Store::new();
    let options =
        Options { nice: 19, compaction_threads: 2, background: Background::Threads, ..small() };
    let tree = store.open(options);
    let low = ["kvdb-compact-0", "kvdb-compact-1", "kvdb-part-0", "kvdb-part-1"];
    let normal = ["kvdb-flush", "kvdb-install", "kvdb-janitor", "kvdb-urgent"];
    // A thread takes its name and lowers its priority itself, when it gets to it.
    let deadline = Instant::now() + Duration::from_secs(30);
    let threads = loop {
        let threads = nice();
        let there = normal.iter().all(|t| threads.contains_key(*t));
        if there && low.iter().all(|t| threads.get(*t) == Some(&19)) {
            break threads;
        }
        assert!(Instant::now() < deadline, "{threads:?}");
        std::thread::sleep(Duration::from_millis(5));
    };
    let own = *threads.get("kvdb-flush").unwrap();
    assert!(own < 19);
    assert!(normal.iter().all(|t| threads.get(*t) == Some(&own)), "{threads:?}");
    assert_eq!(threads.len(), low.len() + normal.len(), "{threads:?}");
    tree.close();
    // A thread that was joined is listed for a moment longer.
    while !nice().is_empty() {
        assert!(Instant::now() < deadline, "none outlives the tree");
        std::thread::yield_now();
    }
}
