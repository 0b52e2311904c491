//! What must be in the store, and the comparison.

use std::collections::{BTreeMap, HashSet};
use std::path::Path;
use std::sync::Arc;

use kvdb::{Db, Durability};

use crate::plan::{COUNT, Coordinates, MARK, Shape, WRITERS, prefix};
use crate::report::{Reports, Said};
use crate::writer::{self, Orders};

/// Values by key, with their versions where these are known.
type Entries = BTreeMap<Vec<u8>, (Arc<[u8]>, Option<u64>)>;

/// One writer's part of the store.
#[derive(Clone, Debug, Default)]
struct Part {
    entries: Entries,
    /// The commit that comes next.
    next: u32,
    /// How many of its commits counted.
    counted: u64,
}

/// What the store must hold after the lives it has had.
#[derive(Debug)]
pub(crate) struct Expected {
    seed: u64,
    life: u32,
    parts: [Part; WRITERS as usize],
    /// The mark and its version.
    mark: Option<(String, u64)>,
    /// The largest version that was ever acknowledged or seen.
    newest: u64,
    acknowledged: u64,
}

impl Part {
    /// Does what the commit did.
    fn apply(&mut self, commit: &Coordinates, version: Option<u64>) {
        let plan = commit.plan();
        for (key, value) in plan.writes {
            match value {
                Some(value) => drop(self.entries.insert(key, (value, version))),
                None => drop(self.entries.remove(&key)),
            }
        }
        self.counted += u64::from(plan.shape == Shape::Counting);
        self.next = commit.number + 1;
    }

    /// `None` if the store holds exactly this, else the first difference. Versions that were
    /// not known are taken from the store.
    fn difference(&mut self, found: &Entries, prefix: &[u8]) -> Option<String> {
        let mut found =
            found.range(prefix.to_vec()..).take_while(|(key, _)| key.starts_with(prefix));
        let mut expected = self.entries.iter_mut();
        loop {
            match (expected.next(), found.next()) {
                (None, None) => return None,
                (Some((a, (value, version))), Some((b, (is, seen)))) if a == b => {
                    if value != is {
                        return Some(format!("{} is {}, not {}", show(a), show(is), show(value)));
                    }
                    if version.is_some() && version != seen {
                        return Some(format!("{} has version {seen:?}, not {version:?}", show(a)));
                    }
                    *version = *seen;
                }
                (Some((a, _)), b) if b.is_none_or(|(b, _)| a < b) => {
                    return Some(format!("{} is missing", show(a)));
                }
                (_, Some((b, (is, _)))) => {
                    return Some(format!("{} is there: {}", show(b), show(is)));
                }
                (Some((a, _)), None) => return Some(format!("{} is missing", show(a))),
            }
        }
    }
}

fn show(bytes: &[u8]) -> String {
    format!("\"{}\" ({} bytes)", bytes[..bytes.len().min(30)].escape_ascii(), bytes.len())
}

impl Expected {
    /// An empty store.
    pub(crate) fn new(seed: u64) -> Self {
        Self { seed, life: 0, parts: Default::default(), mark: None, newest: 0, acknowledged: 0 }
    }

    /// How many commits were acknowledged in all lives.
    pub(crate) fn acknowledged(&self) -> u64 {
        self.acknowledged
    }

    /// The orders for the next child.
    pub(crate) fn next_life(&mut self, store: &Path, durability: Durability) -> Orders {
        self.life += 1;
        let first = self.parts.each_ref().map(|part| part.next);
        Orders::new(store, self.seed, self.life, durability, first)
    }

    /// Holds the store against what was reported, and remembers what it holds.
    pub(crate) fn check(&mut self, db: &Db, reports: &Reports) -> Result<(), String> {
        let found = read_all(db)?;
        self.check_versions(reports)?;
        for (writer, said) in (0..WRITERS).zip(&reports.writers) {
            self.resolve(writer, said, &found)
                .map_err(|what| format!("writer {writer}: {what}"))?;
        }
        // Commits of different writers built on one another: none of those below is missing.
        let counted: u64 = self.parts.iter().map(|part| part.counted).sum();
        let count = found.get(COUNT).map_or(0, |(value, _)| writer::parse(value));
        if count != counted {
            return Err(format!(
                "the count is {count}, and {counted} commits that counted are there"
            ));
        }
        self.check_mark(reports, &found)?;
        let known = usize::from(count > 0) + usize::from(self.mark.is_some());
        let all = self.parts.iter().map(|part| part.entries.len()).sum::<usize>() + known;
        if found.len() != all {
            return Err(format!("{} entries where {all} are expected", found.len()));
        }
        self.newest =
            found.values().filter_map(|(_, version)| *version).fold(self.newest, u64::max);
        Ok(())
    }

    /// A version is handed out once (49b), and those of a writer grow.
    fn check_versions(&mut self, reports: &Reports) -> Result<(), String> {
        let mut seen = HashSet::new();
        for said in &reports.writers {
            let mut last = self.newest;
            for &(number, version) in &said.acknowledged {
                if version <= last || !seen.insert(version) {
                    return Err(format!(
                        "commit {number} was given version {version} again, after {last}"
                    ));
                }
                last = version;
            }
        }
        self.acknowledged += seen.len() as u64;
        self.newest = seen.into_iter().fold(self.newest, u64::max);
        Ok(())
    }

    /// Brings one writer's part up to the store: everything acknowledged, and the commit that
    /// was under way whole or not at all.
    fn resolve(&mut self, writer: u8, said: &Said, found: &Entries) -> Result<(), String> {
        let (seed, life) = (self.seed, self.life);
        let part = &mut self.parts[usize::from(writer)];
        for &(number, version) in &said.acknowledged {
            if number != part.next {
                return Err(format!("commit {number} was reported where {} is next", part.next));
            }
            part.apply(&Coordinates { seed, life, writer, number }, Some(version));
        }
        let prefix = prefix(writer);
        let Some(without) = part.difference(found, &prefix) else { return Ok(()) };
        let Some(number) = said.intended.filter(|&number| number == part.next) else {
            return Err(without);
        };
        part.apply(&Coordinates { seed, life, writer, number }, None);
        match part.difference(found, &prefix) {
            None => Ok(()),
            Some(with) => Err(format!("without commit {number}: {without}; with it: {with}")),
        }
    }

    /// The mark is that of the last commit that left one: blind writes take effect in the
    /// order of their versions.
    fn check_mark(&mut self, reports: &Reports, found: &Entries) -> Result<(), String> {
        let (seed, life) = (self.seed, self.life);
        let mut unacknowledged = Vec::new();
        for (writer, said) in (0..WRITERS).zip(&reports.writers) {
            let marks = |number| {
                let commit = Coordinates { seed, life, writer, number };
                (commit.plan().shape == Shape::Marking).then(|| commit.mark())
            };
            for &(number, version) in &said.acknowledged {
                if let Some(mark) = marks(number)
                    && self.mark.as_ref().is_none_or(|(_, last)| *last < version)
                {
                    self.mark = Some((mark, version));
                }
            }
            let done = said.acknowledged.last().map(|&(number, _)| number);
            if let Some(number) = said.intended.filter(|&number| Some(number) != done) {
                let there = self.parts[usize::from(writer)].next > number;
                unacknowledged.extend(marks(number).map(|mark| (mark, there)));
            }
        }
        let is = found.get(MARK).map(|(value, version)| {
            (String::from_utf8_lossy(value).into_owned(), version.unwrap_or_default())
        });
        if is == self.mark {
            return Ok(());
        }
        let newer = self.mark.as_ref().map_or(0, |(_, version)| *version);
        match is {
            Some((mark, version))
                if version > newer && unacknowledged.contains(&(mark.clone(), true)) =>
            {
                self.mark = Some((mark, version));
                Ok(())
            }
            is => Err(format!("the mark is {is:?}, not {:?}", self.mark)),
        }
    }
}

/// Everything in the store; read forwards, backwards and by key, with the same result.
fn read_all(db: &Db) -> Result<Entries, String> {
    let error = |error: kvdb::Error| format!("reading: {error}");
    let mut entries = Entries::new();
    let mut keys = Vec::new();
    for item in db.iter().map_err(error)? {
        let item = item.map_err(error)?;
        keys.push(item.key().to_vec());
        let value = item.value().map_err(error)?;
        entries.insert(item.key().to_vec(), (value.to_vec().into(), Some(item.version())));
    }
    if !keys.is_sorted_by(|a, b| a < b) {
        return Err("the keys do not ascend".to_owned());
    }
    for item in db.iter().map_err(error)?.rev() {
        let item = item.map_err(error)?;
        if keys.pop().as_deref() != Some(item.key()) {
            return Err(format!("backwards, {} is out of place", show(item.key())));
        }
    }
    if let Some(key) = keys.pop() {
        return Err(format!("backwards, {} is missing", show(&key)));
    }
    for (key, (value, _)) in &entries {
        if db.get(key).map_err(error)?.as_deref() != Some(&value[..]) {
            return Err(format!("{} is not what the iterator gave", show(key)));
        }
    }
    Ok(entries)
}
