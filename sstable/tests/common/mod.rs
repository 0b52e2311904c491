//! A model to hold tables and cursors against: a sorted vector.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used)]

use kvdb_sstable::{Builder, BuilderOptions, Cursor, Result, compare};

pub type Entry = (Vec<u8>, u64, Vec<u8>);

/// How much more than by default is to be done.
pub fn scale() -> usize {
    std::env::var("KVDB_TEST_SCALE").ok().and_then(|s| s.parse().ok()).unwrap_or(1)
}

pub fn build(entries: &[Entry], options: BuilderOptions) -> Vec<u8> {
    let mut builder = Builder::new(Vec::new(), options).unwrap();
    for (key, version, value) in entries {
        builder.add(key, *version, value).unwrap();
    }
    builder.finish().unwrap().0
}

pub fn sort(mut entries: Vec<Entry>) -> Vec<Entry> {
    entries.sort_by(|a, b| compare((&a.0, a.1), (&b.0, b.1)));
    entries.dedup_by(|a, b| a.0 == b.0 && a.1 == b.1);
    entries
}

/// Random entries of a key shape: 0 random, 1 long shared prefixes, 2 few distinct bytes,
/// 3 numbers, 4 runs of 0xFF, 5 many versions of few keys.
pub fn random_entries(rng: &mut fastrand::Rng, n: usize, shape: u32, value: usize) -> Vec<Entry> {
    let mut out = Vec::new();
    for i in 0..n {
        let key = match shape {
            0 => (0..rng.usize(0..24)).map(|_| rng.u8(..)).collect(),
            1 => {
                let mut key = vec![b'p'; [3, 40, 300, 700][rng.usize(0..4)]];
                key.extend((0..rng.usize(0..12)).map(|_| rng.u8(b'a'..b'd')));
                key
            }
            2 => (0..rng.usize(0..10)).map(|_| rng.u8(0..2)).collect(),
            3 => format!("user{:012}", i * 3).into_bytes(),
            4 => vec![0xFF; rng.usize(0..30)],
            _ => vec![b'a' + rng.u8(0..3); rng.usize(1..12)],
        };
        let version = match rng.u32(0..4) {
            0 => 0,
            1 => rng.u64(..),
            2 => u64::MAX - rng.u64(0..3),
            _ => rng.u64(0..1000),
        };
        let value = (0..rng.usize(0..=value)).map(|_| rng.u8(..)).collect();
        out.push((key, version, value));
    }
    sort(out)
}

/// A cursor over a sorted vector, as plain as can be.
pub struct Model {
    pub entries: Vec<Entry>,
    /// `None`: unpositioned. 0: before the first entry. `i + 1`: on entry `i`.
    at: Option<usize>,
}

impl Model {
    pub fn new(entries: Vec<Entry>) -> Self {
        Model { entries, at: None }
    }
    fn go(&mut self, at: usize) -> Result<bool> {
        self.at = Some(at);
        Ok(self.valid())
    }
    fn entry(&self) -> &Entry {
        &self.entries[self.at.unwrap() - 1]
    }
}

impl Cursor for Model {
    fn seek(&mut self, key: &[u8], version: u64) -> Result<bool> {
        let i = self.entries.partition_point(|e| compare((&e.0, e.1), (key, version)).is_lt());
        self.go(i + 1)
    }
    fn seek_for_prev(&mut self, key: &[u8], version: u64) -> Result<bool> {
        let i = self.entries.partition_point(|e| compare((&e.0, e.1), (key, version)).is_le());
        self.go(i)
    }
    fn first(&mut self) -> Result<bool> {
        self.go(1)
    }
    fn last(&mut self) -> Result<bool> {
        self.go(self.entries.len())
    }
    fn next(&mut self) -> Result<bool> {
        match self.at {
            None => Err(kvdb_sstable::Error::unpositioned()),
            Some(at) => self.go((at + 1).min(self.entries.len() + 1)),
        }
    }
    fn prev(&mut self) -> Result<bool> {
        match self.at {
            None => Err(kvdb_sstable::Error::unpositioned()),
            Some(at) => self.go(at.saturating_sub(1)),
        }
    }
    fn valid(&self) -> bool {
        self.at.is_some_and(|at| at >= 1 && at <= self.entries.len())
    }
    fn key(&self) -> &[u8] {
        &self.entry().0
    }
    fn version(&self) -> u64 {
        self.entry().1
    }
    fn value(&self) -> &[u8] {
        &self.entry().2
    }
}

/// Moves both cursors alike, at random, and compares all they show.
pub fn compare_walks(
    rng: &mut fastrand::Rng,
    ours: &mut impl Cursor,
    model: &mut Model,
    steps: usize,
) {
    let n = model.entries.len();
    let mut drift = 0;
    for step in 0..steps {
        if step % 16 == 0 {
            drift = rng.u32(0..3);
        }
        let (a, b) = match rng.u32(0..20) {
            0 => (ours.first(), model.first()),
            1 => (ours.last(), model.last()),
            op @ 2..=5 => {
                let (mut key, mut version) = match n {
                    0 => (b"any".to_vec(), 7),
                    _ => {
                        let e = &model.entries[rng.usize(0..n)];
                        (e.0.clone(), e.1)
                    }
                };
                match rng.u32(0..7) {
                    0 => version = u64::MAX,
                    1 => version = 0,
                    2 => key.push(rng.u8(..)),
                    3 => drop(key.pop()),
                    4 => version = version.wrapping_add(1),
                    5 => {
                        if let Some(b) = key.last_mut() {
                            *b = b.wrapping_add(1);
                        }
                    }
                    _ => {}
                }
                if op < 4 {
                    (ours.seek(&key, version), model.seek(&key, version))
                } else {
                    (ours.seek_for_prev(&key, version), model.seek_for_prev(&key, version))
                }
            }
            k => {
                let forward = match drift {
                    0 => k % 5 != 0,
                    1 => k % 5 == 0,
                    _ => k % 2 == 0,
                };
                if forward { (ours.next(), model.next()) } else { (ours.prev(), model.prev()) }
            }
        };
        match (&a, &b) {
            (Ok(a), Ok(b)) => assert_eq!(a, b, "step {step}"),
            (Err(a), Err(b)) => assert_eq!(a.kind(), b.kind()),
            other => panic!("step {step}: {other:?}"),
        }
        assert_eq!(ours.valid(), model.valid());
        if model.valid() {
            assert_eq!(ours.key(), model.key());
            assert_eq!(ours.version(), model.version());
            assert_eq!(ours.value(), model.value());
            assert_eq!(ours.parts(), (model.key(), model.version(), model.value()));
            assert_eq!(ours.head(), kvdb_sstable::key_head(model.key()));
        }
    }
}
