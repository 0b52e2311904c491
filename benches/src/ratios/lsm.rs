//! The tree beside one dependent miss, and two compaction threads beside one.

use std::hint::black_box;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use fastrand::Rng;
use kvdb_lsm::{
    Background, Cursor, Entry, Floor, Job, NoCompanion, Options, Tree, Visible, VisibleOptions,
    key_hash,
};
use kvdb_manifest::Manifest;
use kvdb_vfs::{Fs, OsFs};

use super::Recorder;
use crate::disk::Place;
use crate::input::{Flat, random_keys};
use crate::miss::Chase;
use crate::targets::{CHASE_BYTES, LSM};
use crate::timing::{fold, nanos};

const ROUNDS: usize = 5;
/// Point gets of a round.
const GETS: usize = 200_000;
/// Rounds of the compaction: each needs stores of its own.
const COMPACTIONS: usize = 5;

type Store = Arc<Tree<NoCompanion>>;

/// Opens the tree in a directory, which is made if there is none.
pub(super) fn open(dir: &Path, options: Options) -> Store {
    let fs: Arc<dyn Fs> = Arc::new(OsFs::new());
    fs.create_dir_all(dir).expect("a directory");
    let manifest = match kvdb_manifest::exists(&*fs, dir).expect("a directory") {
        true => Manifest::open(fs.clone(), dir, Default::default()).expect("a manifest").0,
        false => Manifest::create(fs.clone(), dir, 1, Default::default()).expect("a manifest"),
    };
    let companion = Arc::new(NoCompanion::default());
    let tree = Tree::open(fs, dir, Arc::new(manifest), options, companion, false).expect("a tree");
    tree.start().expect("threads");
    tree
}

fn by_hand() -> Options {
    Options { background: Background::Manual, ..Options::default() }
}

/// Writes these keys, one frame each, from this version on.
fn write<'k>(tree: &Store, keys: impl Iterator<Item = &'k [u8]>, from: u64, value: &[u8]) -> u64 {
    let mut version = from;
    for key in keys {
        tree.write(version, &[(key, Entry::value(value))]).expect("room");
        version += 1;
    }
    version
}

/// All entries in four tables of level 0 with the same range of keys.
fn four_tables(dir: &Path, keys: &Flat, value: &[u8]) {
    let tree = open(dir, by_hand());
    let n = keys.iter().count();
    for run in 0..4 {
        let from = run * (n / 4);
        write(&tree, keys.iter().skip(from).take(n / 4), from as u64 + 1, value);
        tree.flush().expect("a flush");
    }
    assert_eq!(tree.superversion().table_counts()[0], 4);
}

/// All entries in five runs: three quarters on the last level, a tenth on the one above, a twentieth
/// in each of two tables of level 0, and the rest in the memtable.
fn five_runs(dir: &Path, keys: &Flat, value: &[u8]) -> Store {
    let tree = open(dir, by_hand());
    let n = keys.iter().count();
    let mut keys = keys.iter();
    let mut version = 1;
    let mut some = |part: usize| {
        version = write(&tree, keys.by_ref().take(n / part), version, value);
    };
    some(2);
    tree.flush().expect("a flush");
    some(4);
    tree.major_compact().expect("a compaction");
    for _ in 0..4 {
        some(40);
        tree.flush().expect("a flush");
    }
    assert!(tree.step(Job::Compact).expect("a compaction"));
    for _ in 0..2 {
        some(20);
        tree.flush().expect("a flush");
    }
    some(20);
    let counts = tree.superversion().table_counts();
    assert_eq!((counts[0], counts.iter().filter(|&&n| n > 0).count()), (2, 3), "{counts:?}");
    tree
}

fn get_all(tree: &Store, keys: &Flat, there: bool) -> f64 {
    let n = keys.iter().count();
    nanos(n, || {
        let mut sum = 0u64;
        for key in keys.iter() {
            let pinned = tree.pin();
            let found = pinned.get(key, u64::MAX, key_hash(key)).expect("an intact tree");
            assert_eq!(found.is_some(), there);
            sum = sum.wrapping_add(found.map_or(0, |f| fold(f.entry().payload)));
        }
        black_box(sum);
    })
}

fn scan(cursor: &mut impl Cursor, n: usize, forward: bool) -> f64 {
    nanos(n, || {
        let mut sum = 0u64;
        let mut on = if forward { cursor.first() } else { cursor.last() }.expect("intact");
        for _ in 0..n {
            assert!(on);
            sum = sum.wrapping_add(fold(cursor.key())).wrapping_add(fold(cursor.value()));
            on = if forward { cursor.next() } else { cursor.prev() }.expect("intact");
        }
        assert!(!on);
        black_box(sum);
    })
}

fn scan_visible(tree: &Store, n: usize) -> f64 {
    let mut cursor = Visible::new(tree.superversion().cursor(), VisibleOptions::default());
    nanos(n, || {
        let mut sum = 0u64;
        let mut on = cursor.first().expect("intact");
        for _ in 0..n {
            assert!(on);
            let entry = cursor.entry().expect("intact");
            sum = sum.wrapping_add(fold(cursor.key())).wrapping_add(fold(entry.payload));
            on = cursor.next().expect("intact");
        }
        assert!(!on);
        black_box(sum);
    })
}

/// One compaction of everything by so many threads, in nanoseconds of an entry.
fn compact(prepared: &Path, place: &Place, n: usize, threads: usize) -> f64 {
    let dir = place.path("compacted");
    std::fs::create_dir(&dir).expect("a directory");
    for entry in std::fs::read_dir(prepared).expect("the prepared tree") {
        let entry = entry.expect("the prepared tree");
        std::fs::copy(entry.path(), dir.join(entry.file_name())).expect("a copy");
    }
    // Nothing compacts by itself; what is asked for is shared by the pool.
    let never = 1 << 10;
    let tree = open(
        &dir,
        Options {
            compaction_threads: threads,
            l0_compaction_trigger: never,
            l0_slowdown_trigger: never,
            l0_stop_trigger: 2 * never,
            ..Options::default()
        },
    );
    tree.companion().raise_floor(Floor { discard: n as u64, clock: 0 });
    let start = Instant::now();
    tree.major_compact().expect("a compaction");
    let time = start.elapsed().as_secs_f64() * 1e9 / n as f64;
    let stats = tree.stats();
    assert_eq!((stats.levels[0].tables, stats.compactions), (0, 1));
    tree.close();
    std::fs::remove_dir_all(&dir).expect("a directory of our own");
    time
}

pub(super) fn run(recorder: &mut Recorder) {
    let (n, key_len, value_len) = LSM;
    let keys = Flat::new(&random_keys(n, key_len, 1));
    let queries = keys.shuffled(2);
    let missing = Flat::new(&random_keys(GETS, key_len, 3));
    let mut value = vec![0; value_len];
    Rng::with_seed(4).fill(&mut value);

    let place = Place::new();
    let prepared = place.path("four");
    four_tables(&prepared, &keys, &value);
    let four = open(&prepared, by_hand());
    let five = five_runs(&place.path("five"), &keys, &value);
    // The first use of each block compares its checksum.
    get_all(&five, &queries, true);
    scan(&mut five.superversion().cursor(), n, true);
    scan(&mut four.superversion().cursor(), n, true);

    let mut chase = Chase::new(CHASE_BYTES, 6);
    for round in 0..ROUNDS {
        // Other keys than in the last round: those are in no cache.
        let part: Vec<_> = queries.iter().skip(round * GETS % n).take(GETS).collect();
        let part = Flat::new(&part.into_iter().map(<[u8]>::to_vec).collect::<Vec<_>>());
        let d = chase.nanos(300_000);
        let get = get_all(&five, &part, true);
        let d = (d + chase.nanos(300_000)) / 2.0;
        recorder.record("get over 5 runs", get, d);
        recorder.record("get of a missing key", get_all(&five, &missing, false), d);

        recorder.record("merge of 4 runs", scan(&mut four.superversion().cursor(), n, true), 1.0);
        let backward = scan(&mut four.superversion().cursor(), n, false);
        recorder.record("merge of 4 runs, backward", backward, 1.0);
        recorder.record("scan of what is visible, 5 runs", scan_visible(&five, n), 1.0);

        let tree = open(&place.path("puts"), by_hand());
        let puts = nanos(n / 4, || {
            write(&tree, keys.iter().take(n / 4), 1, &value);
        });
        recorder.record("put, random", puts, d);
        drop(tree);
        std::fs::remove_dir_all(place.path("puts")).expect("a directory of our own");
    }
    for round in 0..COMPACTIONS {
        let (one, two) = match round % 2 {
            0 => {
                let one = compact(&prepared, &place, n, 1);
                (one, compact(&prepared, &place, n, 2))
            }
            _ => {
                let two = compact(&prepared, &place, n, 2);
                (compact(&prepared, &place, n, 1), two)
            }
        };
        recorder.record("compaction by two threads", two, one);
    }
}
