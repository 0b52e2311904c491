//! Merge and Concat against the model.
#![allow(clippy::unwrap_used)]

mod common;

use common::{Entry, Model, build, compare_walks, random_entries, scale};
use kvdb_sstable::{BuilderOptions, Concat, Cursor, Merge, ReaderOptions, Result, Runs, Table};
use kvdb_sstable::{TableCursor, compare};

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

struct Tables(Vec<Table<Vec<u8>>>, Vec<Vec<Entry>>, bool);

impl<'t> Runs for &'t Tables {
    type Cursor = TableCursor<&'t Table<Vec<u8>>>;
    fn len(&self) -> usize {
        self.0.len()
    }
    fn open(&self, i: usize) -> Result<Self::Cursor> {
        Ok(self.0[i].cursor())
    }
    fn find(&self, key: &[u8], version: u64) -> usize {
        let by_key = self.2;
        self.1.partition_point(|run| {
            let last = run.last().unwrap();
            if by_key {
                last.0.as_slice() < key
            } else {
                compare((&last.0, last.1), (key, version)).is_lt()
            }
        })
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
        let tables = runs
            .iter()
            .map(|run| {
                let bytes = build(run, BuilderOptions::default());
                Table::open(bytes, ReaderOptions::default()).unwrap()
            })
            .collect();
        let tables = Tables(tables, runs, by_key);
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
