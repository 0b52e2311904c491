//! What one reader sees of all versions.

use super::*;
use crate::cursor::Input;
use crate::memtable::Memtable;

fn over(entries: &[(&str, u64, Entry<'_>)], options: VisibleOptions) -> Visible<Input> {
    let memtable = Memtable::new(1 << 20, 1, Default::default()).unwrap();
    for (key, version, entry) in entries {
        memtable.insert(key.as_bytes(), *version, *entry).unwrap();
    }
    Visible::new(Input::memtable(&memtable), options)
}

fn both_ways(mut cursor: Visible<Input>) -> Vec<(String, u64)> {
    let mut forward = Vec::new();
    let mut valid = cursor.first().unwrap();
    while valid {
        let key = String::from_utf8(cursor.key().to_vec()).unwrap();
        forward.push((key, cursor.version()));
        valid = cursor.next().unwrap();
    }
    let mut backward = Vec::new();
    let mut valid = cursor.last().unwrap();
    while valid {
        let key = String::from_utf8(cursor.key().to_vec()).unwrap();
        backward.push((key, cursor.version()));
        valid = cursor.prev().unwrap();
    }
    backward.reverse();
    assert_eq!(forward, backward);
    forward
}

const V: Entry<'static> = Entry::value(b"v");

#[test]
fn uncommitted_writes_are_seen_at_any_version_and_hide_what_is_older() {
    let entries = [
        ("a", 5, V),
        ("b", PENDING, V),
        ("b", 5, V),
        ("c", PENDING, Entry::tombstone()),
        ("c", 1, V),
        ("d", PENDING, V),
        ("d", 9, V),
        ("d", 1, V),
        ("e", 9, V),
        ("f", PENDING, V.with_expiry(10)),
        ("f", 1, V),
    ];
    let options = VisibleOptions { at_most: 5, clock: 10, ..VisibleOptions::default() };
    let expected = [("a", 5), ("b", PENDING), ("d", PENDING)].map(|(k, v)| (k.to_owned(), v));
    assert_eq!(both_ways(over(&entries, options)), expected);
}

#[test]
fn many_versions_of_a_key_are_passed_both_ways() {
    let mut entries = Vec::new();
    for key in ["a", "b", "c"] {
        entries.extend((1..=100).map(|v| (key, v, V)));
    }
    entries.push(("b", PENDING, V));
    for at_most in [1, 2, 7, 8, 9, 50, 99, 100, PENDING] {
        let options = VisibleOptions { at_most, ..VisibleOptions::default() };
        let seen = both_ways(over(&entries, options));
        let newest = at_most.min(100);
        let expected = [("a", newest), ("b", PENDING), ("c", newest)];
        assert_eq!(seen, expected.map(|(k, v)| (k.to_owned(), v)), "{at_most}");
    }
}

#[test]
fn since_leaves_out_what_is_not_newer() {
    let entries = [("a", 5, V), ("b", 6, V), ("b", 3, V), ("c", 3, V)];
    let options = VisibleOptions { since: 5, ..VisibleOptions::default() };
    assert_eq!(both_ways(over(&entries, options)), [("b".to_owned(), 6)]);
}

#[test]
fn a_new_cursor_stands_before_the_first_entry_and_damage_is_no_end() {
    let mut cursor = over(&[("a", 1, V)], VisibleOptions::default());
    assert!(!cursor.valid() && !cursor.prev().unwrap());
    assert!(cursor.next().unwrap() && cursor.key() == b"a");
    let memtable = Memtable::new(1 << 20, 1, Default::default()).unwrap();
    memtable.insert(b"a", 1, V).unwrap();
    memtable.list().insert(b"b", 1, &[0]).unwrap();
    let mut cursor = Visible::new(Input::memtable(&memtable), VisibleOptions::default());
    assert!(cursor.first().unwrap());
    assert!(cursor.next().is_err());
    assert!(cursor.next().is_err(), "not an end, whoever asks");
    assert!(cursor.last().is_err());
    assert!(cursor.seek(b"a").unwrap());
}

/// Fails at one of its moves, and stands nowhere then.
struct Failing {
    inner: Input,
    moves_before: Option<u32>,
}

impl Failing {
    fn step(&mut self, go: impl FnOnce(&mut Input) -> SstResult<bool>) -> SstResult<bool> {
        match &mut self.moves_before {
            Some(0) => {
                self.moves_before = None;
                Err(kvdb_sstable::Error::unpositioned())
            }
            left => {
                *left = left.map(|n| n - 1);
                go(&mut self.inner)
            }
        }
    }
}

type SstResult<T> = kvdb_sstable::Result<T>;

impl Cursor for Failing {
    fn seek(&mut self, key: &[u8], version: u64) -> SstResult<bool> {
        self.step(|c| c.seek(key, version))
    }
    fn seek_for_prev(&mut self, key: &[u8], version: u64) -> SstResult<bool> {
        self.step(|c| c.seek_for_prev(key, version))
    }
    fn first(&mut self) -> SstResult<bool> {
        self.step(|c| c.first())
    }
    fn last(&mut self) -> SstResult<bool> {
        self.step(|c| c.last())
    }
    fn next(&mut self) -> SstResult<bool> {
        self.step(|c| c.next())
    }
    fn prev(&mut self) -> SstResult<bool> {
        self.step(|c| c.prev())
    }
    fn valid(&self) -> bool {
        self.inner.valid()
    }
    fn key(&self) -> &[u8] {
        self.inner.key()
    }
    fn version(&self) -> u64 {
        self.inner.version()
    }
    fn value(&self) -> &[u8] {
        self.inner.value()
    }
}

/// Versions from one to fifteen, some of them deleted or not visible, and pending ones.
fn mixed_entries(rng: &mut fastrand::Rng) -> Arc<Memtable> {
    let memtable = Memtable::new(1 << 20, 1, Default::default()).unwrap();
    for key in 0..12u8 {
        let entry = |rng: &mut fastrand::Rng| match rng.u8(..4) {
            0 => Entry::tombstone(),
            _ => V,
        };
        for version in 1..=rng.u64(1..15) {
            memtable.insert(&[key], version, entry(rng)).unwrap();
        }
        if rng.u8(..5) == 0 {
            memtable.insert(&[key], PENDING, entry(rng)).unwrap();
        }
    }
    memtable
}

#[test]
fn a_move_that_failed_is_taken_up_with_another_cursor_and_nothing_is_passed_over_or_shown_twice() {
    for seed in 0..20 {
        let mut rng = fastrand::Rng::with_seed(seed);
        let memtable = mixed_entries(&mut rng);
        let moves: Vec<(u8, u8)> = (0..40).map(|_| (rng.u8(..10), rng.u8(..13))).collect();
        let at_most = rng.u64(3..15);
        let over = |moves_before| Failing { inner: Input::memtable(&memtable), moves_before };
        // All places that it comes to; whether the failure came; whether it exchanges in between.
        let walk = |moves_before, often: bool| {
            let options = VisibleOptions { at_most, ..VisibleOptions::default() };
            let mut cursor = Visible::new(over(moves_before), options);
            let (mut places, mut failed) = (Vec::new(), false);
            for &(kind, key) in &moves {
                let moved = match kind {
                    0 => cursor.first(),
                    1 => cursor.last(),
                    2 => cursor.seek(&[key]),
                    3 => cursor.seek_for_prev(&[key]),
                    4..=6 => cursor.prev(),
                    _ => cursor.next(),
                };
                failed |= moved.is_err();
                let on = match moved {
                    Ok(on) if !often => on,
                    _ => {
                        cursor.exchange(over(None), Arc::default());
                        cursor.resume().unwrap()
                    }
                };
                assert_eq!(on, cursor.valid());
                places.push(on.then(|| (cursor.key().to_vec(), cursor.version())));
            }
            (places, failed)
        };
        let (expected, _) = walk(None, false);
        assert_eq!(walk(None, true).0, expected, "seed {seed}");
        let mut failures = 0;
        for n in 0.. {
            let (places, failed) = walk(Some(n), false);
            assert_eq!(places, expected, "seed {seed}, move {n}");
            if !failed {
                break;
            }
            failures += 1;
        }
        assert!(failures > 50, "{failures}");
    }
}
