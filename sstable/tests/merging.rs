//! Merge and Concat against the model.
#![allow(clippy::unwrap_used)]

mod common;

use common::{Entry, Model, build, compare_walks, random_entries, scale};
use kvdb_sstable::{
    BuilderOptions, Concat, Cursor, ErrorKind, Merge, ReaderOptions, Result, Runs, Table,
    TableCursor, compare,
};

#[test]
fn a_merge_shows_every_pair_once_the_lowest_index_winning_in_both_directions() {
    let mut rng = fastrand::Rng::with_seed(1);
    for round in 0..300 * scale() {
        let sources = [0, 1, 2, 3, 4, 7, 20, 40][round % 8];
        let mut all: Vec<Vec<Entry>> = Vec::new();
        for index in 0..sources {
            let n = rng.usize(0..40);
            let shape = rng.u32(0..6);
            let mut entries = random_entries(&mut rng, n, shape, 3);
            if index > 0 {
                // The same pairs in several sources.
                let other: &Vec<Entry> = &all[rng.usize(0..index)];
                entries.extend(other.iter().filter(|_| rng.bool()).cloned());
            }
            for entry in &mut entries {
                entry.2 = vec![index as u8];
            }
            all.push(common::sort(entries));
        }
        // A stable sort and the removal of later duplicates: the lowest index wins.
        let expected = common::sort(all.iter().flatten().cloned().collect());
        let mut merge = Merge::new(all.into_iter().map(Model::new).collect());
        compare_walks(&mut rng, &mut merge, &mut Model::new(expected), 400);
    }
}

/// Tables, the last entry in or ahead of each, and whether they are found by key alone.
struct Tables(Vec<Table<Vec<u8>>>, Vec<Option<Entry>>, bool);

/// The last entries of runs; that of a run without any is that of the run ahead of it.
fn lasts(runs: &[Vec<Entry>]) -> Vec<Option<Entry>> {
    let mut last = None;
    runs.iter()
        .map(|run| {
            last = run.last().or(last);
            last.cloned()
        })
        .collect()
}

fn find(lasts: &[Option<Entry>], by_key: bool, key: &[u8], version: u64) -> usize {
    lasts.partition_point(|last| match last {
        None => true,
        Some(last) if by_key => last.0.as_slice() < key,
        Some(last) => compare((&last.0, last.1), (key, version)).is_lt(),
    })
}

impl<'t> Runs for &'t Tables {
    type Cursor = TableCursor<&'t Table<Vec<u8>>>;
    fn len(&self) -> usize {
        self.0.len()
    }
    fn open(&self, i: usize) -> Result<Self::Cursor> {
        Ok(self.0[i].cursor())
    }
    fn find(&self, key: &[u8], version: u64) -> usize {
        find(&self.1, self.2, key, version)
    }
}

#[test]
fn a_concatenation_walks_like_one_run() {
    let mut rng = fastrand::Rng::with_seed(2);
    for round in 0..100 * scale() {
        let n = rng.usize(0..200);
        let shape = rng.u32(0..6);
        let entries = random_entries(&mut rng, n, shape, 20);
        let by_key = round % 2 == 1;
        let mut runs: Vec<Vec<Entry>> = Vec::new();
        for entry in &entries {
            // Runs are told apart by key alone only where no key is in two of them.
            let may_cut = |run: &Vec<Entry>| !by_key || run.last().unwrap().0 != entry.0;
            if runs.last().is_none_or(|run| rng.u32(0..20) == 0 && may_cut(run)) {
                runs.push(Vec::new());
            }
            runs.last_mut().unwrap().push(entry.clone());
        }
        // Runs without entries, anywhere.
        for _ in 0..rng.usize(0..4) {
            runs.insert(rng.usize(0..=runs.len()), Vec::new());
        }
        let tables = runs
            .iter()
            .map(|run| {
                let bytes = build(run, BuilderOptions::default());
                Table::open(bytes, ReaderOptions::default()).unwrap()
            })
            .collect();
        let tables = Tables(tables, lasts(&runs), by_key);
        let mut concat = Concat::new(&tables);
        compare_walks(&mut rng, &mut concat, &mut Model::new(entries), 400);
    }
}

/// Fails once, at the n-th move.
struct Failing(Model, usize);

impl Failing {
    fn tick(&mut self) -> Result<()> {
        self.1 = self.1.wrapping_sub(1);
        if self.1 == 0 { Err(kvdb_sstable::Error::other("planned")) } else { Ok(()) }
    }
}

impl Cursor for Failing {
    fn seek(&mut self, key: &[u8], version: u64) -> Result<bool> {
        self.tick()?;
        self.0.seek(key, version)
    }
    fn seek_for_prev(&mut self, key: &[u8], version: u64) -> Result<bool> {
        self.tick()?;
        self.0.seek_for_prev(key, version)
    }
    fn first(&mut self) -> Result<bool> {
        self.tick()?;
        self.0.first()
    }
    fn last(&mut self) -> Result<bool> {
        self.tick()?;
        self.0.last()
    }
    fn next(&mut self) -> Result<bool> {
        self.tick()?;
        self.0.next()
    }
    fn prev(&mut self) -> Result<bool> {
        self.tick()?;
        self.0.prev()
    }
    fn valid(&self) -> bool {
        self.0.valid()
    }
    fn key(&self) -> &[u8] {
        self.0.key()
    }
    fn version(&self) -> u64 {
        self.0.version()
    }
    fn value(&self) -> &[u8] {
        self.0.value()
    }
}

#[test]
fn a_source_that_fails_never_makes_a_merge_come_up_short() {
    let mut rng = fastrand::Rng::with_seed(3);
    let a = random_entries(&mut rng, 50, 3, 3);
    let b = random_entries(&mut rng, 60, 0, 3);
    let total = common::sort([a.clone(), b.clone()].concat()).len();
    for fail_at in 1..55 {
        let sources = vec![
            Failing(Model::new(a.clone()), fail_at),
            Failing(Model::new(b.clone()), usize::MAX),
        ];
        let mut merge = Merge::new(sources);
        let mut count = 0;
        let mut moved = merge.first();
        while let Ok(true) = moved {
            count += 1;
            moved = merge.next();
        }
        if fail_at <= a.len() + 1 {
            assert!(moved.is_err(), "{fail_at}");
            assert!(!merge.valid());
            // It does not go on as if nothing had happened, but can be positioned again.
            assert!(merge.next().is_err() && merge.prev().is_err());
            assert!(merge.first().unwrap());
        } else {
            assert_eq!(count, total);
        }
    }
}

#[test]
fn a_merge_whose_seek_failed_stands_nowhere() {
    let mut rng = fastrand::Rng::with_seed(4);
    let entries = random_entries(&mut rng, 50, 3, 3);
    type Move = fn(&mut Merge<Failing>) -> Result<bool>;
    let moves: [Move; 4] =
        [|m| m.seek(b"user", 1), |m| m.seek_for_prev(b"v", 1), |m| m.first(), |m| m.last()];
    for fails in moves {
        // The second source fails at its second move.
        let source = |fail_at| Failing(Model::new(entries.clone()), fail_at);
        let mut merge = Merge::new(vec![source(usize::MAX), source(2), source(usize::MAX)]);
        assert!(merge.first().unwrap());
        assert_eq!(fails(&mut merge).unwrap_err().kind(), ErrorKind::Other);
        assert!(!merge.valid());
        for moved in [merge.next(), merge.prev()] {
            assert_eq!(moved.unwrap_err().kind(), ErrorKind::Unpositioned);
        }
        assert!(fails(&mut merge).unwrap());
    }
}

/// Runs of which one fails at its n-th move, or when it is opened if that is the 0th.
struct FailingRuns(Vec<Vec<Entry>>, usize, usize);

impl Runs for &FailingRuns {
    type Cursor = Failing;
    fn len(&self) -> usize {
        self.0.len()
    }
    fn open(&self, i: usize) -> Result<Failing> {
        let fail_at = if i == self.1 { self.2 } else { usize::MAX };
        if fail_at == 0 {
            return Err(kvdb_sstable::Error::other("planned"));
        }
        Ok(Failing(Model::new(self.0[i].clone()), fail_at))
    }
    fn find(&self, key: &[u8], version: u64) -> usize {
        find(&lasts(&self.0), false, key, version)
    }
}

#[test]
fn a_run_that_fails_never_makes_a_concatenation_come_up_short() {
    let mut rng = fastrand::Rng::with_seed(5);
    let entries = random_entries(&mut rng, 30, 3, 3);
    let runs: Vec<Vec<Entry>> = entries.chunks(10).map(<[_]>::to_vec).collect();
    for failing in 0..3 {
        for fail_at in 0..=10 {
            let runs = FailingRuns(runs.clone(), failing, fail_at);
            let mut concat = Concat::new(&runs);
            for forward in [true, false] {
                let mut moved = if forward { concat.first() } else { concat.last() };
                while let Ok(true) = moved {
                    moved = if forward { concat.next() } else { concat.prev() };
                }
                assert_eq!(moved.unwrap_err().kind(), ErrorKind::Other, "{failing} {fail_at}");
                assert!(!concat.valid());
                for moved in [concat.next(), concat.prev()] {
                    assert_eq!(moved.unwrap_err().kind(), ErrorKind::Unpositioned);
                }
            }
            // Where nothing fails it can be positioned again.
            let whole = (failing + 1) % 3;
            let (key, version, _) = &runs.0[whole][5];
            assert!(concat.seek(key, *version).unwrap() && concat.key() == key);
        }
    }
}
