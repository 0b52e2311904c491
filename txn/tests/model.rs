//! Random histories against a naive model: the verdict on every commit must be the same.

#![cfg(not(loom))]

use std::collections::BTreeSet;
use std::ops::Bound;

use kvdb_txn::{CommitError, Mode, Options, Oracle, ReadMark, ReadSet, Write};
use proptest::prelude::*;

type Bounds = (Bound<Vec<u8>>, Bound<Vec<u8>>);

#[derive(Clone, Debug)]
enum Put {
    Key(Vec<u8>),
    Range(Bounds),
}

#[derive(Clone, Debug)]
enum Step {
    Begin,
    BeginAt(u64),
    ReadPoint(usize, Vec<u8>),
    ReadRange(usize, Bounds),
    Write(usize, Put),
    /// So many writes at once, of keys with this prefix.
    Bulk(usize, u8, u16),
    Commit(usize),
    Blind(Vec<u8>),
    Drop(usize),
    /// Publishes this many more of the versions handed out.
    Publish(u64),
}

/// Keys of few letters, zero among them, so that prefixes and successors are common.
fn key() -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(prop::sample::select(vec![0u8, 1, b'a', 255]), 1..4)
}

fn bound() -> impl Strategy<Value = Bound<Vec<u8>>> {
    prop_oneof![
        3 => key().prop_map(Bound::Included),
        3 => key().prop_map(Bound::Excluded),
        1 => Just(Bound::Unbounded),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    let txn = 0..6usize;
    prop_oneof![
        6 => Just(Step::Begin),
        1 => (0..40u64).prop_map(Step::BeginAt),
        6 => (txn.clone(), key()).prop_map(|(t, k)| Step::ReadPoint(t, k)),
        3 => (txn.clone(), bound(), bound()).prop_map(|(t, l, u)| Step::ReadRange(t, (l, u))),
        6 => (txn.clone(), key()).prop_map(|(t, k)| Step::Write(t, Put::Key(k))),
        1 => (txn.clone(), bound(), bound())
            .prop_map(|(t, l, u)| Step::Write(t, Put::Range((l, u)))),
        1 => (txn.clone(), any::<u8>(), 1..400u16).prop_map(|(t, p, n)| Step::Bulk(t, p, n)),
        8 => txn.clone().prop_map(Step::Commit),
        4 => key().prop_map(Step::Blind),
        2 => txn.prop_map(Step::Drop),
        6 => (0..6u64).prop_map(Step::Publish),
    ]
}

fn as_ref((lower, upper): &Bounds) -> (Bound<&[u8]>, Bound<&[u8]>) {
    (lower.as_ref().map(Vec::as_slice), upper.as_ref().map(Vec::as_slice))
}

fn writes(puts: &[Put]) -> impl Iterator<Item = Write<'_>> {
    puts.iter().map(|put| match put {
        Put::Key(key) => Write::Key(key),
        Put::Range(bounds) => {
            let (lower, upper) = as_ref(bounds);
            Write::Range(lower, upper)
        }
    })
}

fn holds((lower, upper): &Bounds, key: &[u8]) -> bool {
    (match lower {
        Bound::Included(l) => l.as_slice() <= key,
        Bound::Excluded(l) => l.as_slice() < key,
        Bound::Unbounded => true,
    }) && (match upper {
        Bound::Included(u) => key <= u.as_slice(),
        Bound::Excluded(u) => key < u.as_slice(),
        Bound::Unbounded => true,
    })
}

/// Whether some key lies in both. If one does, then so does one of these: the empty key, a key
/// that bounds one of them, or the next key after such a one.
fn meet(a: &Bounds, b: &Bounds) -> bool {
    let mut candidates = vec![Vec::new()];
    for bound in [&a.0, &a.1, &b.0, &b.1] {
        if let Bound::Included(key) | Bound::Excluded(key) = bound {
            candidates.push(key.clone());
            candidates.push([key.as_slice(), &[0]].concat());
        }
    }
    candidates.iter().any(|key| holds(a, key) && holds(b, key))
}

struct Txn {
    mark: ReadMark,
    /// Begun at a version of its own choice, whose successors may be forgotten already.
    chosen: bool,
    reads: ReadSet,
    points: BTreeSet<Vec<u8>>,
    ranges: Vec<Bounds>,
    puts: Vec<Put>,
}

impl Txn {
    fn new(mark: ReadMark, chosen: bool) -> Self {
        Txn {
            mark,
            chosen,
            reads: ReadSet::new(),
            points: BTreeSet::new(),
            ranges: Vec::new(),
            puts: Vec::new(),
        }
    }

    fn has_read(&self, put: &Put) -> bool {
        match put {
            Put::Key(key) => self.points.contains(key) || self.ranges.iter().any(|r| holds(r, key)),
            Put::Range(range) => {
                self.points.iter().any(|key| holds(range, key))
                    || self.ranges.iter().any(|r| meet(r, range))
            }
        }
    }
}

struct Model {
    oracle: Oracle,
    open: Vec<Option<Txn>>,
    /// All commits: the version of each is its place, from 1.
    commits: Vec<Vec<Put>>,
    published: u64,
    /// Whether "too old" may be answered to any transaction.
    capped: bool,
    conflicts: usize,
    too_old: usize,
}

impl Model {
    fn new(options: Options) -> Self {
        Model {
            oracle: Oracle::new(options, 0, 0),
            open: (0..6).map(|_| None).collect(),
            commits: Vec::new(),
            published: 0,
            capped: options.max_tracked_bytes < 1 << 20,
            conflicts: 0,
            too_old: 0,
        }
    }

    fn open(&mut self, mark: ReadMark, chosen: bool) {
        if let Some(free) = self.open.iter_mut().find(|txn| txn.is_none()) {
            *free = Some(Txn::new(mark, chosen));
        }
    }

    fn conflict_expected(&self, txn: &Txn) -> bool {
        let missed = &self.commits[txn.mark.version() as usize..];
        missed.iter().flatten().any(|put| txn.has_read(put))
    }

    fn run(&mut self, step: Step) {
        match step {
            Step::Begin => {
                let mark = self.oracle.begin(Mode::ReadWrite);
                assert_eq!(mark.version(), self.published, "sees all that is published");
                self.open(mark, false);
            }
            Step::BeginAt(version) => match self.oracle.begin_at(version, Mode::ReadWrite) {
                Ok(mark) => {
                    assert!(mark.version() == version && version <= self.published);
                    self.open(mark, true);
                }
                Err(_) => assert!(version > self.published, "nothing is ever discarded here"),
            },
            Step::ReadPoint(t, key) => {
                if let Some(txn) = &mut self.open[t] {
                    txn.reads.add_point(&key);
                    txn.points.insert(key);
                }
            }
            Step::ReadRange(t, range) => {
                if let Some(txn) = &mut self.open[t] {
                    let (lower, upper) = as_ref(&range);
                    txn.reads.add_range(lower, upper);
                    txn.ranges.push(range);
                }
            }
            Step::Write(t, put) => {
                if let Some(txn) = &mut self.open[t] {
                    txn.puts.push(put);
                }
            }
            Step::Bulk(t, prefix, n) => {
                if let Some(txn) = &mut self.open[t] {
                    let key = |i: u16| [&[prefix], i.to_be_bytes().as_slice()].concat();
                    txn.puts.extend((0..n).map(|i| Put::Key(key(i))));
                }
            }
            Step::Commit(t) => self.commit(t),
            Step::Blind(key) => {
                let version = self.oracle.commit_blind([&key], |version| version);
                self.commits.push(vec![Put::Key(key)]);
                assert_eq!(version, Ok(Some(self.commits.len() as u64)));
            }
            Step::Drop(t) => self.open[t] = None,
            Step::Publish(more) => {
                self.published = (self.published + more).min(self.commits.len() as u64);
                self.oracle.published(self.published);
                assert_eq!(self.oracle.read_version(), self.published);
            }
        }
        let marks = self.open.iter().flatten().map(|txn| txn.mark.version());
        let low = marks.min().unwrap_or(self.published);
        assert_eq!(self.oracle.low_water(), low);
        if self.capped {
            assert!(self.oracle.tracked_bytes() <= self.oracle.options().max_tracked_bytes);
        }
        if self.published == self.commits.len() as u64 && self.open.iter().all(Option::is_none) {
            assert_eq!(self.oracle.tracked_bytes(), 0);
        }
    }

    fn commit(&mut self, t: usize) {
        let Some(txn) = self.open[t].take() else { return };
        let expected = self.conflict_expected(&txn);
        let next = self.commits.len() as u64 + 1;
        let verdict = self.oracle.commit(&txn.mark, &txn.reads, writes(&txn.puts), |v| v);
        match verdict {
            Ok(None) => assert!(txn.puts.is_empty()),
            Ok(Some(version)) => {
                assert_eq!(version, next);
                assert!(!expected, "a conflict was missed");
                self.commits.push(txn.puts);
            }
            Err(CommitError::Conflict) => {
                assert!(expected, "a conflict was made up");
                self.conflicts += 1;
            }
            Err(CommitError::TooOld { .. }) => {
                assert!((self.capped || txn.chosen) && !txn.reads.is_empty());
                self.too_old += 1;
            }
            Err(other) => panic!("{other}"),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 600, ..ProptestConfig::default() })]

    /// SEMANTICS 18, 19, 20, 21: no conflict is missed and none is made up, over points, ranges,
    /// range writes and large commits; versions are handed out one by one.
    #[test]
    fn the_verdict_is_that_of_the_model(steps in prop::collection::vec(step(), 1..200)) {
        let mut model = Model::new(Options::default());
        steps.into_iter().for_each(|step| model.run(step));
    }

    /// SEMANTICS 23: with little memory, "too old" takes the place of some verdicts, and never of
    /// a conflict that would then be missed.
    #[test]
    fn a_cap_on_memory_is_kept_and_misses_nothing(
        steps in prop::collection::vec(step(), 1..200),
        cap in 0..8000usize,
    ) {
        let options = Options { max_tracked_bytes: cap, ..Options::default() };
        let mut model = Model::new(options);
        steps.into_iter().for_each(|step| model.run(step));
    }

    /// The set answers for exactly the keys and ranges that were added, however they overlap.
    #[test]
    fn a_read_set_merges_ranges_without_changing_them(
        ranges in prop::collection::vec((bound(), bound()), 0..12),
        probes in prop::collection::vec(key(), 1..40),
    ) {
        let oracle = Oracle::new(Options::default(), 0, 0);
        let mut reads = ReadSet::new();
        for range in &ranges {
            let (lower, upper) = as_ref(range);
            reads.add_range(lower, upper);
        }
        assert!(reads.ranges() <= ranges.len());
        for probe in &probes {
            let mark = oracle.begin(Mode::ReadWrite);
            let version = oracle.commit_blind([probe], |version| version);
            let verdict = oracle.commit(&mark, &reads, [b"other"], |version| version);
            if let Ok(Some(version)) = verdict.or(version) {
                oracle.published(version);
            }
            let expected = ranges.iter().any(|range| holds(range, probe));
            assert_eq!(verdict == Err(CommitError::Conflict), expected);
        }
    }
}

/// The property tests would pass if they never met a conflict; this shows that they do.
#[test]
fn the_random_histories_are_not_trivial() {
    use proptest::strategy::ValueTree;
    use proptest::test_runner::TestRunner;

    let mut runner = TestRunner::deterministic();
    let histories = prop::collection::vec(step(), 200);
    let (mut commits, mut conflicts, mut too_old) = (0, 0, 0);
    for i in 0..40 {
        let cap = if i % 2 == 0 { 64 << 20 } else { 2000 };
        let options = Options { max_tracked_bytes: cap, ..Options::default() };
        let mut model = Model::new(options);
        let steps = histories.new_tree(&mut runner).unwrap().current();
        steps.into_iter().for_each(|step| model.run(step));
        commits += model.commits.len();
        conflicts += model.conflicts;
        too_old += model.too_old;
    }
    assert!(commits > 500 && conflicts > 50 && too_old > 5, "{commits} {conflicts} {too_old}");
}
