//! What each thread takes, what it does between jobs, and that it is there at all.

use std::collections::BTreeSet;

use kvdb_manifest::store::{RangeDelete, StoreChange};
use parking_lot::{Condvar, Mutex};

use super::*;
use crate::companion::{Floor, NoCompanion};
use crate::entry::Entry;
use crate::error::BoxError;
use crate::options::Options;
use crate::stall::Pressure;
use crate::testing::{flush, tree_with};
use crate::tree::Tree;

/// How long a test waits for what must happen.
const PATIENCE: Duration = Duration::from_secs(30);

/// Knows which threads ask for the floor, begin a job and install, and holds up the jobs of one of them.
#[derive(Default)]
struct Gate {
    inner: NoCompanion,
    holds: Mutex<Option<&'static str>>,
    began: Mutex<BTreeSet<String>>,
    asked: Mutex<BTreeSet<String>>,
    installed: Mutex<BTreeSet<String>>,
    begins: Condvar,
    opens: Condvar,
}

impl Gate {
    fn holding(thread: &'static str) -> Gate {
        Gate { holds: Mutex::new(Some(thread)), ..Gate::default() }
    }

    /// Whether the thread has begun a job; waits for it.
    fn has_begun(&self, thread: &str) -> bool {
        let until = Instant::now() + PATIENCE;
        let mut began = self.began.lock();
        while !began.contains(thread) && !self.begins.wait_until(&mut began, until).timed_out() {}
        began.contains(thread)
    }

    fn open(&self) {
        *self.holds.lock() = None;
        self.opens.notify_all();
    }
}

fn this_thread() -> String {
    std::thread::current().name().unwrap_or_default().to_owned()
}

impl Companion for Gate {
    type View = ();
    fn pointer(&self, _: &[u8]) -> Option<(u32, u32)> {
        None
    }
    fn before_install(&self, _: &mut StoreChange, _: u64) -> std::result::Result<(), BoxError> {
        Ok(())
    }
    fn installed(&self, _: &StoreChange) {
        self.installed.lock().insert(this_thread());
    }
    fn view(&self) -> Arc<()> {
        self.inner.view()
    }
    fn floor(&self) -> Floor {
        let floor = self.inner.floor();
        self.asked.lock().insert(this_thread());
        floor
    }
    fn hold_floor(&self) -> Floor {
        let thread = this_thread();
        self.began.lock().insert(thread.clone());
        self.begins.notify_all();
        let mut holds = self.holds.lock();
        while *holds == Some(thread.as_str()) {
            self.opens.wait(&mut holds);
        }
        self.floor()
    }
}

/// There are to be threads, but none runs before [`Tree::start`].
fn options() -> Options {
    Options {
        memtable_size: 1 << 20,
        table_size: 16 << 10,
        base_level_size: 16 << 10,
        max_levels: 3,
        l0_compaction_trigger: 2,
        l0_slowdown_trigger: 6,
        l0_stop_trigger: 10,
        compaction_threads: 1,
        idle_after_ms: 1 << 40,
        paranoid: true,
        ..Options::default()
    }
}

/// A table of level 0.
fn fill<C: Companion>(tree: &Tree<C>, version: u64, keys: u64) {
    for key in 0..keys {
        tree.write(version, &[(&key.to_be_bytes(), Entry::value(&[7; 100]))]).unwrap();
    }
    tree.flush().unwrap();
}

/// Level 1 has more than twice what it should have, and level 0 nothing.
fn with_a_full_level_1() -> Arc<Tree<Gate>> {
    let tree = tree_with(options(), Gate::holding("kvdb-compact-0"));
    for (versions, keys) in [([1, 2], 1500), ([3, 4], 300)] {
        for version in versions {
            fill(&tree, version, keys);
        }
        assert!(tree.step(crate::maintenance::Job::Compact).unwrap());
    }
    let stats = tree.stats();
    assert!(stats.levels[0].tables == 0 && stats.levels[1].score > 2.0, "{}", stats.shape);
    tree
}

/// The level that a thread of this role takes from.
fn takes(tree: &Tree<Gate>, role: Role) -> Option<usize> {
    match tree.shared.next_for(role, &tree.shared.scheduler.lock(), Instant::now()) {
        Next::Run(job) => Some(job.from),
        _ => None,
    }
}

fn press(tree: &Tree<Gate>, l0_tables: usize, debt: u64) {
    let admission = &tree.shared.admission;
    let pressure = Pressure::new(&options(), l0_tables, debt);
    admission.set_pressure(&mut admission.lock(), pressure);
}

#[test]
fn one_thread_takes_level_0_first_one_by_score_and_one_level_0_only_while_writers_are_slowed() {
    let tree = with_a_full_level_1();
    let all = || [Role::Urgent, Role::TopFirst, Role::ByScore].map(|role| takes(&tree, role));
    assert_eq!(all(), [None, Some(1), Some(1)]);
    press(&tree, 0, options().debt_slowdown_bytes * 2);
    assert_eq!(all(), [None, Some(1), Some(1)], "slowed down, but not for level 0");
    // It is time for level 0, and more so for level 1.
    fill(&tree, 5, 10);
    fill(&tree, 6, 10);
    press(&tree, options().l0_slowdown_trigger, 0);
    assert_eq!(all(), [Some(0), Some(0), Some(1)]);
    press(&tree, 0, 0);
    assert_eq!(all(), [None, Some(0), Some(1)]);
    // That is how the threads are started.
    tree.start().unwrap();
    let begun = tree.companion().has_begun("kvdb-compact-0");
    let leaving = tree.shared.scheduler.lock().running.leaving(0).0;
    tree.companion().open();
    tree.close();
    assert!(begun && leaving == 2, "{leaving} tables of level 0");
}

#[test]
fn level_0_is_compacted_for_writers_who_are_slowed_down_while_all_other_threads_are_busy() {
    let tree = tree_with(options(), Gate::holding("kvdb-compact-0"));
    tree.start().unwrap();
    fill(&tree, 1, 10);
    fill(&tree, 2, 10);
    let busy = tree.companion().has_begun("kvdb-compact-0");
    for version in 3..=6 {
        fill(&tree, version, 10);
    }
    let helped = tree.companion().has_begun("kvdb-urgent");
    tree.companion().open();
    tree.close();
    assert!(busy && helped, "{busy}, {helped}");
}

#[test]
fn nobody_begins_a_job_during_a_pause_or_after_a_failure_that_stays() {
    let tree = with_a_full_level_1();
    let shared = &tree.shared;
    let now = Instant::now();
    shared.scheduler.lock().pause_until = Some(now + RETRY);
    for role in [Role::TopFirst, Role::ByScore] {
        let at = |now| shared.next_for(role, &shared.scheduler.lock(), now);
        let first = at(now);
        assert!(matches!(first, Next::Wait(Some(time)) if time == RETRY), "{first:?}");
        let then = at(now + RETRY);
        assert!(matches!(then, Next::Run(_)), "{then:?}");
    }
    shared.note_failure("compaction", &Error::Panic("x".into()));
    for role in [Role::TopFirst, Role::ByScore] {
        let never = shared.next_for(role, &shared.scheduler.lock(), now + RETRY);
        assert!(matches!(never, Next::Wait(None)), "{never:?}");
    }
}

#[test]
fn after_a_job_that_found_no_space_there_is_a_pause_and_after_others_there_is_none() {
    let tree = tree_with(options(), NoCompanion::default());
    let pause_after = |result| tree.shared.after_work(&result).pause_until;
    assert!(pause_after(Ok(true)).is_none());
    assert!(pause_after(Err(Error::Inconsistent("x".into()))).is_none(), "nobody tries that again");
    let full = std::io::Error::from(std::io::ErrorKind::StorageFull);
    let full = kvdb_vfs::Error::new(kvdb_vfs::Op::Write, "000001.sst".as_ref(), None, full);
    let before = Instant::now();
    assert!(pause_after(Err(full.into())).is_some_and(|until| until >= before + RETRY));
}

#[test]
fn one_thread_looks_from_time_to_time_for_what_can_go_and_retires_range_deletes() {
    let tree = tree_with(options(), NoCompanion::default());
    let next = |role| tree.shared.next_for(role, &tree.shared.scheduler.lock(), Instant::now());
    let others_wait =
        || [Role::Urgent, Role::ByScore].map(next).map(|n| matches!(n, Next::Wait(None)));
    assert!(matches!(next(Role::TopFirst), Next::Wait(None)), "an empty tree");
    flush(&tree, &[("k", 1, Entry::tombstone())]);
    assert!(matches!(next(Role::TopFirst), Next::Wait(Some(time)) if time == IDLE_LOOK));
    assert_eq!(others_wait(), [true; 2]);
    let range = RangeDelete { start: b"a".to_vec(), end: None, version: 2 };
    let change = StoreChange { range_deletes_added: vec![range], ..StoreChange::default() };
    tree.install(change).unwrap();
    assert!(matches!(next(Role::TopFirst), Next::Retire));
    assert_eq!(others_wait(), [true; 2]);
}

#[test]
fn garbage_is_looked_for_when_there_was_no_flush_for_a_while_or_somebody_waits_for_it() {
    let tree = tree_with(options(), NoCompanion::default());
    flush(&tree, &[("k", 1, Entry::tombstone())]);
    tree.companion().raise_floor(Floor { discard: 1, clock: 0 });
    let shared = &tree.shared;
    let finds = || shared.next_job(&shared.scheduler.lock(), true).is_some();
    assert!(!finds(), "thirty years have not passed");
    shared.scheduler.lock().awaited = 1;
    assert!(finds());
    // Time counts from the last flush on.
    std::thread::sleep(Duration::from_millis(2));
    let before = shared.opened.elapsed().as_millis() as u64;
    flush(&tree, &[("k", 2, Entry::tombstone())]);
    assert!(shared.last_flush.load(Ordering::Relaxed) >= before.max(1));
}

#[test]
fn range_deletes_leave_the_list_although_nobody_waits_for_it() {
    let tree = tree_with(options(), Gate::default());
    tree.start().unwrap();
    flush(&tree, &[("k", 1, Entry::value(b"v"))]);
    let range = RangeDelete { start: b"a".to_vec(), end: None, version: 2 };
    let change = StoreChange { range_deletes_added: vec![range], ..StoreChange::default() };
    tree.install(change).unwrap();
    let until = Instant::now() + PATIENCE;
    // It has looked once, in vain. Nobody tells it when the floor rises.
    while !tree.companion().asked.lock().contains("kvdb-compact-0") {
        assert!(Instant::now() < until, "nobody looks");
        std::thread::sleep(Duration::from_millis(1));
    }
    tree.companion().inner.raise_floor(Floor { discard: 2, clock: 0 });
    while !tree.superversion().range_deletes().is_empty() {
        assert!(Instant::now() < until, "{}", tree.superversion().shape());
        std::thread::sleep(Duration::from_millis(5));
    }
    assert!(tree.superversion().table_counts().iter().all(|&n| n == 0));
}

#[test]
fn the_flush_thread_prepares_a_spare_when_a_memtable_was_filled() {
    let options = Options { memtable_size: 64 << 10, ..options() };
    let tree = tree_with(options, NoCompanion::default());
    tree.start().unwrap();
    let admission = &tree.shared.admission;
    let first = admission.lock().active.sequence();
    for version in 1.. {
        tree.write(version, &[(b"k", Entry::value(&[7; 1000]))]).unwrap();
        if admission.lock().active.sequence() > first {
            break;
        }
    }
    let until = Instant::now() + PATIENCE;
    while admission.lock().spare.is_none() {
        assert!(Instant::now() < until, "no spare");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// The thread that compacts may lose its processor while it holds the lock that every write takes.
#[cfg(target_os = "linux")]
#[test]
fn what_a_thread_of_low_priority_has_made_is_installed_by_another_one() {
    let tree = tree_with(Options { nice: 19, ..options() }, Gate::default());
    tree.start().unwrap();
    fill(&tree, 1, 10);
    fill(&tree, 2, 10);
    let begun = tree.companion().has_begun("kvdb-compact-0");
    tree.wait_idle().unwrap();
    tree.close();
    let installed = tree.companion().installed.lock().clone();
    assert!(begun && installed.iter().eq(["kvdb-flush", "kvdb-install"]), "{installed:?}");
}
