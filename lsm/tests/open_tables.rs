//! How many tables are open, in descriptors of the process, and which are closed.

#![allow(clippy::unwrap_used)]

mod common;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use common::*;
use kvdb_lsm::*;
use kvdb_vfs::{Fault, FaultFs, FaultPlan, MemFs, Op, OsFs};

const KEYS: u64 = 20_000;
const LIMIT: usize = 16;

fn options(reads: Reads) -> Options {
    Options { reads, max_open_tables: LIMIT, ..small() }
}

/// Eight times as many tables as may be open.
fn filled(store: &Store, options: Options) -> Arc<Tree<NoCompanion>> {
    let tree = store.open(options);
    for n in 0..KEYS {
        let k = n * 7919 % KEYS; // all over, so that tables are merged and cut, not moved
        tree.write(n + 1, &[(&k.to_be_bytes(), Entry::value(&[k as u8; 100]))]).unwrap();
    }
    tree.flush().unwrap();
    tree.major_compact().unwrap();
    tree.wait_idle().unwrap();
    let tables: usize = tree.superversion().table_counts().iter().sum();
    assert!(tables > 8 * LIMIT, "{tables} tables");
    tree
}

fn get(tree: &Tree<NoCompanion>, k: u64) {
    assert_eq!(tree.get(&k.to_be_bytes(), u64::MAX, 0).unwrap().unwrap(), [k as u8; 100]);
}

/// Closes tables if as many are open as may be, and waits until they are. (Other tests' readers may
/// hold that up for a moment.)
fn settle(tree: &Tree<NoCompanion>) {
    if tree.stats().open_tables < LIMIT {
        return;
    }
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(30);
    while tree.stats().open_tables >= LIMIT {
        assert!(std::time::Instant::now() < deadline, "{} open", tree.stats().open_tables);
        tree.step(Job::Reclaim).unwrap();
    }
}

/// Descriptors of tables of a store that this process has. `None` where that cannot be told.
fn descriptors(store: &Store) -> Option<usize> {
    let fds = std::fs::read_dir("/proc/self/fd").ok()?;
    let paths = fds.filter_map(|fd| std::fs::read_link(fd.ok()?.path()).ok());
    let ours = |p: &PathBuf| p.starts_with(&store.dir) && p.to_string_lossy().contains(".sst");
    Some(paths.filter(ours).count())
}

#[test]
fn only_so_many_tables_are_open_at_a_time() {
    for reads in [Reads::Mapped, Reads::Positioned { block_cache_bytes: 64 << 10 }] {
        let (_dir, store) = in_directory();
        let tree = filled(&store, options(reads));
        let mut rng = fastrand::Rng::with_seed(3);
        let mut reached = 0;
        for i in 0..1000 {
            get(&tree, rng.u64(..KEYS));
            let open = tree.stats().open_tables;
            assert!(open <= LIMIT, "{open} open");
            assert!(descriptors(&store).is_none_or(|n| n <= LIMIT), "{:?}", descriptors(&store));
            reached += usize::from(open == LIMIT);
            // For a while nobody closes any.
            if i > 500 {
                settle(&tree);
            }
        }
        assert!(reached > 400, "the limit was reached {reached} times");
        assert_eq!(count(&tree), KEYS as usize);
        tree.verify().unwrap();
        settle(&tree);
        assert!(tree.stats().open_tables <= LIMIT);
    }
}

#[test]
fn background_threads_close_tables_by_themselves() {
    let (_dir, store) = in_directory();
    let tree = filled(&store, options(Reads::Mapped));
    tree.close();
    drop(tree);
    let tree = store.open(Options { background: Background::Threads, ..options(Reads::Mapped) });
    for k in 0..KEYS {
        get(&tree, k);
    }
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(30);
    while tree.stats().open_tables > LIMIT || descriptors(&store).is_some_and(|n| n > LIMIT) {
        assert!(std::time::Instant::now() < deadline, "{} open", tree.stats().open_tables);
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
}

#[test]
fn readers_keep_what_they_have_open_and_share_it_with_those_who_come_later() {
    let (_dir, store) = in_directory();
    let tree = filled(&store, options(Reads::Mapped));
    settle(&tree);
    let held = tree.superversion();
    let mut cursor = held.cursor();
    assert!(cursor.seek(&(KEYS / 2).to_be_bytes(), u64::MAX).unwrap());
    // As many as may be open, in the held superversion; then all of them, again and again.
    for k in (0..KEYS).step_by(KEYS as usize / LIMIT) {
        get(&tree, k);
    }
    let mut most_open = 0;
    for k in (0..KEYS).step_by(20).take(1000) {
        get(&tree, k);
        tree.step(Job::Reclaim).unwrap();
        let open = tree.stats().open_tables;
        most_open = most_open.max(open);
        // A table that both have is open once; the cursor has one of its own.
        let files = descriptors(&store);
        assert!(files.is_none_or(|n| n <= open + 1), "{files:?} of {open}");
    }
    assert!((LIMIT + 1..=2 * LIMIT).contains(&most_open), "{most_open} open");
    let mut n = 1;
    while cursor.next().unwrap() {
        n += 1;
        // What it walks over is not left open in a superversion where nobody would close it.
        tree.step(Job::Reclaim).unwrap();
        let open = tree.stats().open_tables;
        assert!(open <= 2 * LIMIT, "{open} open");
    }
    assert_eq!(n, KEYS / 2);
    drop((held, cursor));
    settle(&tree);
    tree.wait_idle().unwrap();
    assert!(descriptors(&store).is_none_or(|n| n <= LIMIT), "{:?}", descriptors(&store));
}

#[test]
fn what_a_reader_holds_does_not_keep_others_closed_once_the_rest_is_freed() {
    let fs = FaultFs::new(Arc::new(MemFs::new()));
    let store = Store::over(Arc::new(fs.clone()));
    let tree = filled(&store, options(Reads::Mapped));
    settle(&tree);
    for k in (0..KEYS).step_by(20) {
        get(&tree, k);
    }
    assert_eq!(tree.stats().open_tables, LIMIT);
    let held = tree.superversion();
    let opened = fs.arm(FaultPlan::count().on(&[Op::Open]).path(".sst"));
    let openings = |k| {
        let before = opened.seen();
        get(&tree, k);
        get(&tree, k);
        opened.seen() - before
    };
    let pin = tree.pin();
    assert!(tree.step(Job::Reclaim).unwrap(), "some are closed");
    // The former superversion may be freed as far as anybody knows, so that what is open in it counts.
    let refused = openings(KEYS - 1);
    assert!(refused > 0);
    drop(pin);
    // The step that does free it is the last one: nothing is left to do, and the janitor sleeps.
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(30);
    while !tree.step(Job::Reclaim).unwrap() {
        assert!(std::time::Instant::now() < deadline, "{} open", tree.stats().open_tables);
    }
    assert_eq!(openings(KEYS - 1), refused / 2);
    assert_eq!(openings(KEYS - 1), 0);
    drop(held);
    settle(&tree);
}

#[test]
fn what_is_read_all_the_time_stays_open() {
    let fs = FaultFs::new(Arc::new(MemFs::new()));
    let store = Store::over(Arc::new(fs.clone()));
    let tree = filled(&store, options(Reads::Mapped));
    let opened = fs.arm(FaultPlan::count().on(&[Op::Open]).path(".sst"));
    let hot = || {
        let before = opened.seen();
        for k in [7, KEYS / 3, KEYS / 2, KEYS - 7] {
            get(&tree, k);
        }
        opened.seen() - before
    };
    hot();
    let mut openings = 0;
    for k in (0..KEYS).step_by(50) {
        get(&tree, k);
        settle(&tree);
        openings += hot();
    }
    let cold = opened.seen() - openings;
    assert!(cold > 5 * LIMIT as u64, "{cold} openings");
    // One of them may be met before it is read again after the flags were cleared.
    assert!(openings < cold / 20, "{openings} of {cold}");
}

#[test]
fn nothing_is_open_after_the_tree_is_gone() {
    let other = Store::new().open(small());
    for background in [Background::Manual, Background::Threads] {
        let (_dir, store) = in_directory();
        let tree = filled(&store, Options { background, ..options(Reads::Mapped) });
        for k in (0..KEYS).step_by(10) {
            get(&tree, k);
        }
        let superversion = tree.superversion();
        let key = 1u64.to_be_bytes();
        let value = superversion.get(&key, u64::MAX, key_hash(&key)).unwrap().unwrap().to_region();
        // A reader of another tree holds up what was replaced.
        let pin = other.pin();
        tree.rotate().unwrap();
        tree.write(KEYS + 1, &[(b"k", Entry::value(b"v"))]).unwrap();
        tree.rotate().unwrap();
        tree.close();
        drop((tree, superversion));
        assert_eq!(&value[..], [1; 100]);
        drop((value, pin));
        // Replaced superversions go with the epoch, after the tree.
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(30);
        while descriptors(&store).is_some_and(|n| n > 0) {
            assert!(std::time::Instant::now() < deadline, "{:?}", descriptors(&store));
            other.step(Job::Reclaim).unwrap();
        }
    }
}

#[test]
fn after_the_last_descriptor_fewer_tables_are_kept_open() {
    let fs = FaultFs::new(Arc::new(MemFs::new()));
    let store = Store::over(Arc::new(fs.clone()));
    // What checks each table that is installed would leave all of them open.
    let wide = Options { max_open_tables: 1 << 10, paranoid: false, ..options(Reads::Mapped) };
    let tree = filled(&store, wide);
    for k in (0..KEYS * 3 / 4).step_by(10) {
        get(&tree, k);
    }
    let before = tree.stats().open_tables;
    assert!(before > 5 * LIMIT, "{before} open");
    let refusing = FaultPlan::new(Fault::TooManyFiles).on(&[Op::Open]).path(".sst");
    let refusing = fs.arm(refusing.forever());
    let failed = tree.get(&(KEYS - 1).to_be_bytes(), u64::MAX, 0).unwrap_err();
    assert!(failed.is_transient(), "{failed}");
    assert_eq!(refusing.fired(), 2, "tried once more, when some were closed, and not again");
    refusing.disarm();
    assert!(tree.health().is_none());
    tree.wait_idle().unwrap();
    let after = tree.stats().open_tables;
    assert!(after < before * 3 / 4, "{before} open, then {after}");
    for k in 0..KEYS {
        get(&tree, k);
        assert!(tree.stats().open_tables <= before * 3 / 4);
    }
}

#[test]
fn a_read_that_finds_no_descriptor_closes_tables_itself_and_tries_once_more() {
    let fs = FaultFs::new(Arc::new(OsFs::new()));
    let (_dir, store) = in_directory_of(Arc::new(fs.clone()));
    let wide = Options { max_open_tables: 1 << 10, paranoid: false, ..options(Reads::Mapped) };
    let tree = filled(&store, wide);
    for k in (0..KEYS * 3 / 4).step_by(10) {
        get(&tree, k);
    }
    // No thread of the tree's closes any, and no step is asked for.
    let before = tree.stats().open_tables;
    let refused = fs.arm(FaultPlan::new(Fault::TooManyFiles).on(&[Op::Open]).path(".sst"));
    get(&tree, KEYS - 1);
    assert_eq!(refused.fired(), 1);
    let after = tree.stats().open_tables;
    assert!(before > 5 * LIMIT && after < before * 3 / 4, "{before} open, then {after}");
    assert!(descriptors(&store).is_none_or(|n| n <= after), "{:?}", descriptors(&store));
}

#[test]
fn after_a_refusal_more_tables_are_kept_open_step_by_step() {
    let fs = FaultFs::new(Arc::new(MemFs::new()));
    let store = Store::over(Arc::new(fs.clone()));
    let wide = Options { max_open_tables: 1 << 10, paranoid: false, ..options(Reads::Mapped) };
    drop(filled(&store, wide.clone()));
    // When hardly any table is open: somebody else has the descriptors for a moment.
    let tree = store.open(wide);
    let refused = fs.arm(FaultPlan::new(Fault::TooManyFiles).on(&[Op::Open]).path(".sst"));
    get(&tree, 1);
    assert_eq!(refused.fired(), 1);
    let (mut limits, mut most) = (Vec::new(), 0);
    let tables: usize = tree.superversion().table_counts().iter().sum();
    while most < tables {
        for k in (0..KEYS).step_by(20) {
            get(&tree, k);
        }
        most = tree.stats().open_tables;
        limits.push(most);
        assert!(limits.len() < 100, "{limits:?} of {tables}");
        tree.wait_idle().unwrap();
    }
    assert_eq!(limits[0], LIMIT);
    let small_steps = limits.windows(2).all(|w| w[0] <= w[1] && w[1] <= w[0] + w[0] / 8);
    assert!(small_steps && limits.len() > 10, "{limits:?}");
}

#[test]
fn jobs_that_find_no_descriptor_have_tables_closed() {
    for job in [Job::Flush, Job::Compact] {
        let fs = FaultFs::new(Arc::new(MemFs::new()));
        let store = Store::over(Arc::new(fs.clone()));
        let wide = Options { max_open_tables: 1 << 10, paranoid: false, ..options(Reads::Mapped) };
        let tree = filled(&store, wide);
        for k in (0..KEYS).step_by(20) {
            get(&tree, k);
        }
        // So many tables at the top that they are worth a compaction.
        for n in 0..2 {
            tree.write(KEYS + n + 1, &[(&1u64.to_be_bytes(), Entry::value(&[1; 100]))]).unwrap();
            tree.rotate().unwrap();
            assert!(n == 1 && job == Job::Flush || tree.step(Job::Flush).unwrap());
        }
        count(&tree); // all are open: what is refused is the new file
        let before = tree.stats().open_tables;
        let refusing = FaultPlan::new(Fault::TooManyFiles).on(&[Op::Open]).path(".sst");
        let refusing = fs.arm(refusing.forever());
        let failed = tree.step(job).unwrap_err();
        assert!(failed.is_transient(), "{failed}");
        tree.step(Job::Reclaim).unwrap();
        refusing.disarm();
        assert!(tree.step(job).unwrap());
        assert!(tree.health().is_none());
        tree.wait_idle().unwrap();
        let after = tree.stats().open_tables;
        assert!(after < before * 3 / 4, "{before} open, then {after}");
    }
}

#[test]
fn a_job_does_not_keep_the_files_it_has_written_open() {
    let (_dir, store) = in_directory();
    // It is asked about pointers while a job runs, and looks how many files are open then.
    struct Looking(PathBuf, Arc<AtomicUsize>);
    impl Companion for Looking {
        type View = ();
        fn view(&self) -> Arc<()> {
            Arc::new(())
        }
        fn floor(&self) -> Floor {
            Floor { discard: 0, clock: 0 }
        }
        fn pointer(&self, _payload: &[u8]) -> Option<(u32, u32)> {
            let store = Store { fs: Arc::new(OsFs::new()), dir: self.0.clone() };
            self.1.fetch_max(descriptors(&store).unwrap_or(0), Ordering::Relaxed);
            None
        }
        fn before_install(
            &self,
            _: &mut kvdb_manifest::store::StoreChange,
            _: u64,
        ) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
            Ok(())
        }
    }
    let most = Arc::new(AtomicUsize::new(0));
    let companion = Arc::new(Looking(store.dir.clone(), most.clone()));
    let options = Options { compaction_threads: 1, ..options(Reads::Mapped) };
    let tree = Tree::open(
        store.fs.clone(),
        &store.dir,
        store.manifest().unwrap(),
        options,
        companion,
        false,
    )
    .unwrap();
    for n in 0..KEYS {
        let k = n * 7919 % KEYS;
        let value = [k as u8; 100];
        let entry = match k % 500 {
            0 => Entry::new(Kind::Pointer, &[0; 12]),
            _ => Entry::value(&value),
        };
        tree.write(n + 1, &[(&k.to_be_bytes(), entry)]).unwrap();
    }
    tree.flush().unwrap();
    let top = tree.superversion().table_counts()[0];
    most.store(0, Ordering::Relaxed);
    tree.major_compact().unwrap();
    let tables: usize = tree.superversion().table_counts().iter().sum();
    let most = most.load(Ordering::Relaxed);
    assert!(tables > 5 * LIMIT, "{tables} tables");
    // Level 0 is merged as a whole; of the outputs the last two are open, or not synced yet.
    assert!(most <= top + LIMIT, "{most} of {top} and {tables} tables were open");
}
