//! Threads that insert and read at once, in schedules drawn from seeds.

use std::collections::BTreeSet;
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

use kvdb_skiplist::{EntryRef, InsertError, Options, SkipList};

/// `KVDB_TEST_SCALE=N` runs N times as many.
fn schedules() -> u64 {
    let scale = std::env::var("KVDB_TEST_SCALE").ok().and_then(|scale| scale.parse().ok());
    if cfg!(miri) { 2 } else { 1000 * scale.unwrap_or(1) }
}

const THREADS: usize = if cfg!(miri) { 3 } else { 8 };

/// SplitMix64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }

    /// Gives others a chance, now and then.
    fn pause(&mut self) {
        match self.below(16) {
            0 => thread::yield_now(),
            1 => (0..self.below(200)).for_each(|_| std::hint::spin_loop()),
            _ => {}
        }
    }
}

fn list(seed: u64, capacity: usize) -> SkipList {
    let options = Options { capacity, seed, huge_pages: false, ..Options::default() };
    SkipList::new(options).expect("a list")
}

/// A value that shows if any byte of it, of its key or of its version is not its own.
fn value(key: &[u8], version: u64) -> Vec<u8> {
    let sum = key.iter().fold(version, |sum, &byte| sum.wrapping_mul(31) + u64::from(byte));
    sum.to_le_bytes().repeat(1 + (sum % 5) as usize)
}

fn assert_whole(entry: EntryRef<'_>) {
    assert_eq!(entry.value(), value(entry.key(), entry.version()), "a half-written entry");
}

type Pair = (Vec<u8>, std::cmp::Reverse<u64>);

fn pair(entry: EntryRef<'_>) -> Pair {
    (entry.key().to_vec(), std::cmp::Reverse(entry.version()))
}

/// Walks all of the list one way or the other; every entry whole, order never broken.
fn read_through(list: &SkipList, forward: bool) -> usize {
    let mut cursor = list.cursor();
    let mut valid = if forward { cursor.first() } else { cursor.last() };
    let mut before: Option<Pair> = None;
    let mut seen = 0;
    while valid {
        let entry = cursor.entry().expect("valid");
        assert_whole(entry);
        let here = pair(entry);
        if let Some(before) = before {
            assert!(if forward { before < here } else { before > here }, "{before:?} {here:?}");
        }
        before = Some(here);
        seen += 1;
        valid = if forward { cursor.next() } else { cursor.prev() };
    }
    seen
}

fn key(random: &mut Random) -> Vec<u8> {
    let number = random.below(40);
    match number % 4 {
        0 => vec![number as u8],
        1 => format!("a rather long prefix {number:06}").into_bytes(),
        2 => [vec![0; 260], vec![number as u8 / 8]].concat(),
        _ => vec![0; number as usize / 2],
    }
}

#[test]
fn a_thousand_schedules_of_eight_writers_and_a_reader() {
    for seed in 0..schedules() {
        let list = list(seed, 1 << 17);
        let start = Barrier::new(THREADS + 1);
        let done = AtomicBool::new(false);
        let inserted: Vec<Vec<Pair>> = thread::scope(|scope| {
            let writers: Vec<_> = (0..THREADS)
                .map(|writer| {
                    let (list, start) = (&list, &start);
                    scope.spawn(move || write(list, start, seed << 8 | writer as u64))
                })
                .collect();
            let reader = scope.spawn(|| {
                start.wait();
                let mut seen = 0;
                let mut forward = true;
                while !done.load(Ordering::Acquire) {
                    let now = read_through(&list, forward);
                    assert!(now >= seen, "an entry went away");
                    seen = now;
                    forward = !forward;
                }
            });
            let all = writers.into_iter().map(|writer| writer.join().expect("a writer")).collect();
            done.store(true, Ordering::Release);
            reader.join().expect("the reader");
            all
        });
        let expected: BTreeSet<Pair> = inserted.iter().flatten().cloned().collect();
        assert_eq!(expected.len(), inserted.iter().map(Vec::len).sum(), "a pair went in twice");
        assert_eq!(list.len(), expected.len());
        assert!(list.iter().map(pair).eq(expected.iter().cloned()));
        assert!(list.iter().rev().map(pair).eq(expected.iter().rev().cloned()));
        for (key, version) in &expected {
            let entry = list.get(key, version.0).expect("what was inserted");
            assert_eq!(entry.version(), version.0);
            assert_whole(entry);
        }
    }
}

/// Inserts what it draws, some of it drawn by other threads too; returns what it got in.
fn write(list: &SkipList, start: &Barrier, seed: u64) -> Vec<Pair> {
    let mut random = Random(seed);
    let mut inserter = list.inserter();
    let mut mine = Vec::new();
    start.wait();
    for _ in 0..24 {
        let (key, version) = (key(&mut random), random.below(3));
        let value = value(&key, version);
        random.pause();
        let result = if random.below(2) == 0 {
            list.insert(&key, version, &value)
        } else {
            inserter.insert(&key, version, &value)
        };
        match result {
            Ok(()) => mine.push((key.clone(), std::cmp::Reverse(version))),
            Err(InsertError::Exists) => {}
            Err(other) => panic!("{other}"),
        }
        let entry = list.get(&key, version).expect("inserted by us or by another");
        assert_eq!(entry.version(), version);
        assert_whole(entry);
    }
    mine
}

/// A list long enough that records of all but the top layer are split while others search through
/// them, walk along them, and split them too.
#[test]
fn searches_and_walks_are_right_while_the_index_grows() {
    const EACH: u64 = if cfg!(miri) { 30 } else { 8000 };
    let list = list(11, 16 << 20);
    let key = |i: u64| i.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes();
    let done = AtomicBool::new(false);
    let start = Barrier::new(THREADS + 2);
    thread::scope(|scope| {
        let writers: Vec<_> = (0..THREADS as u64)
            .map(|writer| {
                let (list, start) = (&list, &start);
                scope.spawn(move || {
                    start.wait();
                    for i in 0..EACH {
                        let key = key(i * THREADS as u64 + writer);
                        list.insert(&key, 1, &value(&key, 1)).expect("room");
                        assert!(list.get(&key, 1).is_some(), "what was just inserted");
                    }
                })
            })
            .collect();
        for forward in [true, false] {
            let (list, start, done) = (&list, &start, &done);
            scope.spawn(move || {
                let mut random = Random(u64::from(forward));
                start.wait();
                while !done.load(Ordering::Acquire) {
                    let sought = random.next().to_be_bytes();
                    let mut cursor = list.cursor();
                    let mut valid = match forward {
                        true => cursor.seek(&sought, 1),
                        false => cursor.seek_for_prev(&sought, 1),
                    };
                    let mut before = sought.to_vec();
                    for step in 0..200 {
                        if !valid {
                            break;
                        }
                        assert_whole(cursor.entry().expect("valid"));
                        let here = cursor.key();
                        let equal = step == 0 && here == sought;
                        assert!(equal || (here > &before[..]) == forward && here != &before[..]);
                        before = here.to_vec();
                        valid = if forward { cursor.next() } else { cursor.prev() };
                    }
                }
            });
        }
        for writer in writers {
            writer.join().expect("a writer");
        }
        done.store(true, Ordering::Release);
    });
    let entries = EACH * THREADS as u64;
    assert_eq!(list.len() as u64, entries);
    assert_eq!(read_through(&list, true) as u64, entries);
    assert_eq!(read_through(&list, false) as u64, entries);
    assert!((0..entries).all(|i| list.get(&key(i), 1).is_some()));
}

#[test]
fn what_one_thread_inserted_all_threads_find() {
    const EACH: usize = if cfg!(miri) { 30 } else { 20_000 };
    let list = list(7, 16 << 20);
    let key = |writer: usize, i: usize| {
        format!("{:08}", (i * 7919 + writer * 104_729) % 1_000_000 * 10 + writer).into_bytes()
    };
    // How far each writer has come.
    let progress: [AtomicUsize; 2] = Default::default();
    thread::scope(|scope| {
        for writer in 0..2 {
            let (list, progress) = (&list, &progress);
            scope.spawn(move || {
                let mut random = Random(writer as u64);
                for i in 0..EACH {
                    list.insert(&key(writer, i), 1, b"v").expect("room");
                    progress[writer].store(i + 1, Ordering::Release);
                    let other = 1 - writer;
                    let known = progress[other].load(Ordering::Acquire) as u64;
                    if known > 0 {
                        let newest = random.below(2) == 0;
                        let at = if newest { known - 1 } else { random.below(known) };
                        assert!(list.get(&key(other, at as usize), 1).is_some());
                    }
                }
            });
        }
    });
    assert_eq!(list.len(), 2 * EACH);
}

#[test]
fn many_writers_on_one_key() {
    const VERSIONS: u64 = if cfg!(miri) { 20 } else { 2000 };
    let list = list(3, 8 << 20);
    let start = Barrier::new(THREADS);
    // Every thread tries every version, from its own place in the circle.
    let wins: u64 = thread::scope(|scope| {
        let writers: Vec<_> = (0..THREADS as u64)
            .map(|writer| {
                let (list, start) = (&list, &start);
                scope.spawn(move || {
                    start.wait();
                    let mut wins = 0;
                    for i in 0..VERSIONS {
                        let version = (i + writer * VERSIONS / THREADS as u64) % VERSIONS;
                        match list.insert(b"key", version, &value(b"key", version)) {
                            Ok(()) => wins += 1,
                            Err(InsertError::Exists) => {}
                            Err(other) => panic!("{other}"),
                        }
                        let entry = list.get(b"key", version).expect("there by now");
                        assert_eq!(entry.version(), version);
                        assert_whole(entry);
                    }
                    wins
                })
            })
            .collect();
        writers.into_iter().map(|writer| writer.join().expect("a writer")).sum()
    });
    assert_eq!(wins, VERSIONS);
    assert_eq!(list.len() as u64, VERSIONS);
    let versions: Vec<_> = list.iter().map(|entry| entry.version()).collect();
    assert!(versions.iter().copied().eq((0..VERSIONS).rev()));
}

#[test]
fn replaced_values_are_whole_whoever_replaces_them() {
    const ROUNDS: u64 = if cfg!(miri) { 20 } else { 3000 };
    let list = list(5, 8 << 20);
    let value = |n: u64| n.to_le_bytes().repeat(1 + (n % 7) as usize);
    thread::scope(|scope| {
        for writer in 0..3u64 {
            let list = &list;
            scope.spawn(move || {
                for i in 0..ROUNDS {
                    list.upsert(b"k", 1, &value(i * 3 + writer)).expect("room");
                }
            });
        }
        scope.spawn(|| {
            for _ in 0..ROUNDS {
                if let Some(entry) = list.get(b"k", 1) {
                    let n = u64::from_le_bytes(*entry.value().first_chunk().expect("8 bytes"));
                    assert_eq!(entry.value(), value(n));
                }
            }
        });
    });
    assert_eq!(list.len(), 1);
}

#[test]
fn racing_upserts_of_a_new_pair_take_no_more_than_their_bounds() {
    // Long enough to be written while the other one is.
    const LEN: usize = if cfg!(miri) { 100 } else { 300_000 };
    let bound = SkipList::node_bound(1, LEN);
    for round in 0..if cfg!(miri) { 10 } else { 200 } {
        let list = list(round, SkipList::OVERHEAD + 2 * bound);
        let start = Barrier::new(2);
        let replaced = thread::scope(|scope| {
            let upsert = |byte| {
                let (list, start) = (&list, &start);
                scope.spawn(move || {
                    start.wait();
                    list.upsert(b"k", 1, &[byte; LEN])
                })
            };
            [upsert(1), upsert(2)].map(|thread| thread.join().unwrap().expect("room for two"))
        });
        assert_ne!(replaced[0], replaced[1], "one inserted, one replaced");
        assert_eq!(list.len(), 1);
        assert_whole_bytes(&list, LEN);
    }
}

fn assert_whole_bytes(list: &SkipList, len: usize) {
    let value = list.get(b"k", 1).expect("the pair").value();
    assert!(value.len() == len && value.iter().all(|byte| *byte == value[0] && *byte > 0));
}

#[test]
fn a_full_arena_under_many_writers_keeps_what_went_in() {
    for seed in 0..if cfg!(miri) { 2 } else { 50 } {
        let list = list(seed, 16 << 10);
        let inserted: Vec<Vec<Pair>> = thread::scope(|scope| {
            let writers: Vec<_> = (0..THREADS as u64)
                .map(|writer| {
                    let list = &list;
                    scope.spawn(move || {
                        let mut mine = Vec::new();
                        let mut random = Random(seed << 8 | writer);
                        for _ in 0..100 {
                            let key = random.next().to_be_bytes();
                            match list.insert(&key, writer, &value(&key, writer)) {
                                Ok(()) => mine.push((key.to_vec(), std::cmp::Reverse(writer))),
                                Err(InsertError::Full { needed, remaining }) => {
                                    assert!(needed > remaining);
                                }
                                Err(other) => panic!("{other}"),
                            }
                        }
                        mine
                    })
                })
                .collect();
            writers.into_iter().map(|writer| writer.join().expect("a writer")).collect()
        });
        let expected: BTreeSet<Pair> = inserted.into_iter().flatten().collect();
        assert!(list.allocated() <= list.capacity());
        assert!(list.iter().map(pair).eq(expected.iter().cloned()));
        assert_eq!(read_through(&list, false), expected.len());
    }
}
