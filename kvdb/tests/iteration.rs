//! SEMANTICS: versions and iteration (rules 25 to 33), and expiry (rule 35).
#![allow(clippy::unwrap_used)] // a test may panic

mod common;

use std::ops::Bound;
use std::path::Path;
use std::sync::Arc;

use common::{Contents, PATH, contents, memory, open, tiny, value};
use kvdb::vfs::{Fs, ManualClock, MemFs, OpenMode};
use kvdb::{Cursor, Db, Error, ErrorKind, Iter, MergeOperator, WriteOptions};

/// A store whose entries are spread over memtables, level 0 and deeper levels, with deletes and
/// older versions in between.
fn spread() -> (Db, Contents) {
    let (db, _fs) = memory();
    let mut model = Contents::new();
    let mut rng = fastrand::Rng::with_seed(25);
    for step in 0..3000u64 {
        let key = format!("{:03}", rng.u32(..400)).into_bytes();
        if rng.u8(..4) == 0 {
            db.delete(&key).unwrap();
            model.remove(&key);
        } else {
            let v = value(step, rng.usize(..400));
            db.put(&key, &v).unwrap();
            model.insert(key, v);
        }
        if step % 500 == 499 {
            db.flush().unwrap();
        }
    }
    (db, model)
}

fn keys(iter: Iter<'_>) -> Vec<Vec<u8>> {
    iter.keys().map(|k| k.unwrap()).collect()
}

#[test]
fn rule_25_reading_at_a_version_gives_the_newest_version_not_above_it() {
    let fs = Arc::new(MemFs::new());
    let db = open(&tiny().versions_to_keep(usize::MAX), &fs).unwrap();
    let mut rng = fastrand::Rng::with_seed(1);
    let mut model = Contents::new();
    let mut history = vec![(db.version(), model.clone())];
    for step in 0..400u64 {
        let mut batch = db.batch();
        for _ in 0..rng.usize(1..4) {
            let key = vec![rng.u8(..40)];
            if rng.u8(..5) == 0 {
                batch.delete(&key).unwrap();
                model.remove(&key);
            } else {
                let v = value(step, rng.usize(..500));
                batch.put(&key, &v).unwrap();
                model.insert(key, v);
            }
        }
        history.push((batch.commit().unwrap(), model.clone()));
        if step % 60 == 59 {
            db.flush().unwrap();
        }
    }
    let check = |db: &Db| {
        for (version, expected) in &history {
            let snapshot = db.snapshot_at(*version).unwrap();
            assert_eq!(contents(&snapshot), *expected, "at version {version}");
            for key in 0..40u8 {
                let got = snapshot.get([key]).unwrap();
                assert_eq!(got.as_deref(), expected.get(&vec![key]).map(|v| &v[..]));
            }
        }
    };
    check(&db);
    assert!(matches!(db.snapshot_at(db.version() + 1), Err(Error::FutureVersion { .. })));
}

#[test]
fn rule_25_reading_below_the_discard_watermark_is_an_error_also_after_reopening() {
    let (db, fs) = memory();
    let first = db.put("k", "1").unwrap();
    for i in 0..10u64 {
        db.put("k", value(i, 20)).unwrap();
        db.flush().unwrap();
    }
    db.compact().unwrap();
    let refused = |db: &Db| match db.snapshot_at(first) {
        Err(Error::BelowWatermark { version, watermark }) => assert!(version < watermark),
        other => panic!("{other:?}"),
    };
    refused(&db);
    db.close().unwrap();
    refused(&open(&tiny(), &fs).unwrap());
}

#[test]
fn rule_25_versions_to_keep_survive_compaction() {
    for (keep, left) in [(1, 1), (5, 5), (usize::MAX, 20)] {
        let fs = Arc::new(MemFs::new());
        let db = open(&tiny().versions_to_keep(keep), &fs).unwrap();
        let versions: Vec<u64> = (0..20u64).map(|i| db.put("k", value(i, 9)).unwrap()).collect();
        db.compact().unwrap();
        assert_eq!(db.stats().levels.iter().map(|l| l.entries).sum::<u64>(), left, "keep {keep}");
        assert_eq!(db.iter().unwrap().versions().count() as u64, left, "what is kept is shown");
        for (i, version) in versions.iter().enumerate() {
            match db.snapshot_at(*version) {
                Ok(snapshot) => {
                    let entry = snapshot.get_entry("k").unwrap().unwrap();
                    assert_eq!(entry.version(), *version, "keep {keep}");
                    assert_eq!(entry.value().unwrap(), value(i as u64, 9));
                }
                // Below the watermark nothing is promised: refused, never answered wrongly.
                Err(error) => {
                    assert!(matches!(error, Error::BelowWatermark { .. }), "{error}");
                    assert_ne!(keep, usize::MAX, "every version was to stay readable");
                }
            }
        }
    }
}

#[test]
fn rule_25_every_version_from_that_of_a_held_snapshot_on_can_be_read() {
    for keep in [1, 10] {
        let db = open(&tiny().versions_to_keep(keep), &Arc::new(MemFs::new())).unwrap();
        let put = |i: u64| db.put("k", value(i, 9)).unwrap();
        let (before, first) = (put(0), put(1));
        let held = db.snapshot().unwrap();
        let versions: Vec<u64> = [first].into_iter().chain((2..5).map(put)).collect();
        db.compact().unwrap();
        for (i, version) in versions.iter().enumerate() {
            let got = db.snapshot_at(*version).unwrap().get("k").unwrap().unwrap();
            assert_eq!(got, value(i as u64 + 1, 9));
        }
        assert!(matches!(db.snapshot_at(before), Err(Error::BelowWatermark { .. })));
        drop(held);
        put(6);
        db.compact().unwrap();
        // However many are kept of the key.
        assert!(matches!(db.snapshot_at(first), Err(Error::BelowWatermark { .. })));
    }
}

#[test]
fn rule_27_ranges_with_every_kind_of_bound_in_both_directions() {
    let (db, model) = spread();
    let snapshot = db.snapshot().unwrap();
    let mut rng = fastrand::Rng::with_seed(27);
    let bound = |rng: &mut fastrand::Rng| {
        let key = match rng.u8(..3) {
            0 => format!("{:03}", rng.u32(..400)),
            1 => format!("{:03}x", rng.u32(..400)),
            _ => format!("{:02}", rng.u32(..42)),
        };
        match rng.u8(..5) {
            0 => Bound::Unbounded,
            1 | 2 => Bound::Included(key.into_bytes()),
            _ => Bound::Excluded(key.into_bytes()),
        }
    };
    for _ in 0..400 {
        let range = (bound(&mut rng), bound(&mut rng));
        let inside = |k: &Vec<u8>| {
            (match &range.0 {
                Bound::Included(a) => k >= a,
                Bound::Excluded(a) => k > a,
                Bound::Unbounded => true,
            }) && (match &range.1 {
                Bound::Included(b) => k <= b,
                Bound::Excluded(b) => k < b,
                Bound::Unbounded => true,
            })
        };
        let expected: Vec<Vec<u8>> = model.keys().filter(|k| inside(k)).cloned().collect();
        assert_eq!(keys(snapshot.range(range.clone())), expected, "{range:?}");
        let mut mirrored: Vec<_> =
            snapshot.range(range.clone()).keys().rev().map(|k| k.unwrap()).collect();
        mirrored.reverse();
        assert_eq!(mirrored, expected, "{range:?} backward");
    }
}

#[test]
fn rule_27_a_prefix_gives_exactly_its_keys_and_its_mirror() {
    let (db, _fs) = memory();
    let all: Vec<&[u8]> = vec![
        b"a",
        b"a\x00",
        b"a\xFF",
        b"a\xFF\xFF",
        b"b",
        b"\xFE\xFF",
        b"\xFF",
        b"\xFF\x00",
        b"\xFF\xFF",
        b"\xFF\xFF\xFF",
    ];
    for key in &all {
        db.put(key, key).unwrap();
    }
    for round in 0..2 {
        for prefix in
            [&b""[..], b"a", b"a\xFF", b"a\xFF\xFF", b"b", b"c", b"\xFF", b"\xFF\xFF", b"\xFE"]
        {
            let expected: Vec<Vec<u8>> =
                all.iter().filter(|k| k.starts_with(prefix)).map(|k| k.to_vec()).collect();
            assert_eq!(keys(db.prefix(prefix).unwrap()), expected, "{prefix:?}, round {round}");
            let mut mirrored: Vec<_> =
                db.prefix(prefix).unwrap().rev().map(|i| i.unwrap().into_key()).collect();
            mirrored.reverse();
            assert_eq!(mirrored, expected, "{prefix:?} backward, round {round}");
        }
        db.flush().unwrap();
    }
}

#[test]
fn rule_27_a_range_that_starts_above_its_end_is_empty() {
    let (db, _fs) = memory();
    db.put("b", "").unwrap();
    assert_eq!(db.range("c".."a").unwrap().count(), 0);
    assert_eq!(db.range("b".."b").unwrap().count(), 0);
    assert_eq!(db.range("b"..="b").unwrap().count(), 1);
    let excluded = (Bound::Excluded("b"), Bound::Excluded("b"));
    assert_eq!(db.range(excluded).unwrap().rev().count(), 0);
}

#[test]
fn rule_28_seek_from_any_position_any_number_of_times_also_past_the_ends() {
    let (db, model) = spread();
    let snapshot = db.snapshot().unwrap();
    let mut cursor = snapshot.cursor(..);
    let mut iter = snapshot.iter();
    let mut rng = fastrand::Rng::with_seed(28);
    for step in 0..4000 {
        let target = match rng.u8(..6) {
            0 => b"zzz".to_vec(),
            1 => b"\x00".to_vec(),
            2 => format!("{:02}", rng.u32(..42)).into_bytes(),
            _ => format!("{:03}", rng.u32(..400)).into_bytes(),
        };
        let at_or_after = model.range(target.clone()..).next().map(|(k, _)| k);
        let at_or_before = model.range(..=target.clone()).next_back().map(|(k, _)| k);
        let at = |cursor: &kvdb::Cursor<'_>, on: bool| on.then(|| cursor.key().to_vec());
        if rng.bool() {
            let on = cursor.seek(&target).unwrap();
            assert_eq!(at(&cursor, on).as_ref(), at_or_after, "seek {target:?} in step {step}");
            // From there on, in either direction, and back again.
            let mut here = at_or_after.cloned();
            for _ in 0..rng.usize(..4) {
                let forward = rng.bool();
                let on = if forward { cursor.next() } else { cursor.prev() }.unwrap();
                here = match (&here, forward) {
                    (Some(k), true) => model
                        .range((Bound::Excluded(k.clone()), Bound::Unbounded))
                        .next()
                        .map(|(k, _)| k.clone()),
                    (Some(k), false) => {
                        model.range(..k.clone()).next_back().map(|(k, _)| k.clone())
                    }
                    // Past the end: only the way back leads somewhere, and we ran past it forward.
                    (None, true) => None,
                    (None, false) => model.keys().next_back().cloned(),
                };
                assert_eq!(at(&cursor, on), here, "step {step}");
                if here.is_none() {
                    break;
                }
            }
        } else {
            let on = cursor.seek_for_prev(&target).unwrap();
            assert_eq!(at(&cursor, on).as_ref(), at_or_before, "seek_for_prev {target:?}");
        }
        if step % 4 == 0 {
            iter.seek(&target);
            let got = iter.next().map(|i| i.unwrap().into_key());
            assert_eq!(got.as_ref(), at_or_after, "iter.seek {target:?}");
            let mut back = snapshot.iter();
            back.seek_back(&target);
            let got = back.next_back().map(|i| i.unwrap().into_key());
            assert_eq!(got.as_ref(), at_or_before, "iter.seek_back {target:?}");
        }
    }
}

#[test]
fn rule_28_keys_seek_as_their_iterator_does() {
    let (db, model) = spread();
    let mut rng = fastrand::Rng::with_seed(28);
    let all: Vec<&Vec<u8>> = model.keys().collect();
    let bounds = all[3].clone()..all[all.len() - 3].clone();
    let mut iter = db.range(bounds.clone()).unwrap();
    let mut keys = db.range(bounds).unwrap().keys();
    for step in 0..2000 {
        let mut to = all[rng.usize(..all.len())].clone();
        if rng.bool() {
            to.push(0);
        }
        match rng.u8(..6) {
            0 => {
                iter.seek(&to);
                keys.seek(&to);
            }
            1 => {
                iter.seek_back(&to);
                keys.seek_back(&to);
            }
            2 | 3 => {
                let expected = iter.next().map(|item| item.unwrap().into_key());
                assert_eq!(keys.next().map(|key| key.unwrap()), expected, "step {step}");
            }
            _ => {
                let expected = iter.next_back().map(|item| item.unwrap().into_key());
                assert_eq!(keys.next_back().map(|key| key.unwrap()), expected, "step {step}");
            }
        }
    }
}

#[test]
fn rule_28_seeks_respect_the_bounds() {
    let (db, _fs) = memory();
    for key in ["a", "c", "e", "g"] {
        db.put(key, "").unwrap();
    }
    let mut cursor = db.snapshot().unwrap().cursor("c".."g");
    assert!(cursor.seek("a").unwrap());
    assert_eq!(cursor.key(), b"c");
    assert!(!cursor.prev().unwrap());
    assert!(cursor.next().unwrap());
    assert_eq!(cursor.key(), b"c", "from before the first, next is the first");
    assert!(!cursor.seek("f").unwrap());
    assert!(cursor.seek_for_prev("z").unwrap());
    assert_eq!(cursor.key(), b"e");
    assert!(!cursor.seek_for_prev("b").unwrap());
}

#[test]
fn rule_28_a_new_cursor_stands_before_the_first_entry() {
    let (db, _fs) = memory();
    for key in ["a", "c", "e", "g"] {
        db.put(key, "").unwrap();
    }
    let mut cursor = db.snapshot().unwrap().cursor("b".."g");
    assert!(!cursor.valid());
    assert!(!cursor.prev().unwrap(), "nothing is before the first");
    assert!(cursor.next().unwrap());
    assert_eq!(cursor.key(), b"c");
    assert!(cursor.next().unwrap());
    assert_eq!(cursor.key(), b"e");
    assert!(!cursor.next().unwrap());
    assert!(!db.snapshot().unwrap().cursor("h"..).next().unwrap());
}

/// A cursor's values as they lie, and each again by itself, in both directions.
fn shown(cursor: &mut Cursor<'_>) -> Contents {
    let mut found = Contents::new();
    while cursor.next().unwrap() {
        let value = cursor.value_with(<[u8]>::to_vec).unwrap();
        assert_eq!(*cursor.value().unwrap(), *value);
        found.insert(cursor.key().to_vec(), value);
    }
    let mut left = found.clone();
    while cursor.prev().unwrap() {
        assert_eq!(
            left.pop_last(),
            Some((cursor.key().to_vec(), cursor.value_with(<[u8]>::to_vec).unwrap()))
        );
    }
    assert!(left.is_empty(), "{left:?}");
    found
}

/// So much that the log goes on in another segment.
fn fill_segment(db: &Db, model: &mut Contents) {
    for i in 0..300 {
        let (key, value) = (format!("rest {i}").into_bytes(), value(i, 4000));
        db.put(&key, &value).unwrap();
        model.insert(key, value);
    }
}

#[test]
fn rule_29_a_cursor_shows_values_in_place_wherever_they_lie() {
    for mapped in [true, false] {
        let fs = Arc::new(MemFs::new());
        let append = MergeOperator::new(|_, older, newer| [older, newer].concat());
        let options = tiny().memory_map(mapped).merge_operator(append);
        let db = open(&options, &fs).unwrap();
        let [short, long, own] = [value(1, 20), value(2, 2000), value(3, 3000)];
        let mut model = Contents::new();
        for (key, value) in [("short", &short), ("long", &long), ("empty", &vec![])] {
            db.put(key, value).unwrap();
            model.insert(key.into(), value.clone());
        }
        for (key, base) in [("merged, short", &short), ("merged, long", &long)] {
            db.put(key, base).unwrap();
            db.merge(key, "more").unwrap();
            model.insert(key.into(), [base, &b"more"[..]].concat());
        }
        fill_segment(&db, &mut model);
        assert_eq!(shown(&mut db.snapshot().unwrap().cursor(..)), model, "in memtables");
        db.close().unwrap();
        // What is written to no more is mapped.
        let db = open(&options, &fs).unwrap();
        assert_eq!(shown(&mut db.snapshot().unwrap().cursor(..)), model, "in tables");
        let mut t = db.begin().unwrap();
        t.put("long", &own).unwrap();
        t.put("own", &short).unwrap();
        model.insert("long".into(), own);
        model.insert("own".into(), short);
        assert_eq!(shown(&mut t.cursor(..)), model);
    }
}

#[test]
fn rule_32_a_value_that_is_shown_in_place_is_verified() {
    let fs = Arc::new(MemFs::new());
    let db = open(&tiny(), &fs).unwrap();
    let long = value(2, 2000);
    db.put("long", &long).unwrap();
    fill_segment(&db, &mut Contents::new());
    db.flush().unwrap();
    db.close().unwrap();
    let names = fs.list(PATH.as_ref()).unwrap().into_iter().map(|entry| entry.name);
    let logs = names.filter(|name| name.extension().is_some_and(|x| x == "vlog"));
    let damaged = logs.filter(|name| {
        let file = fs.open(&Path::new(PATH).join(name), OpenMode::ReadWrite).unwrap();
        let mut bytes = vec![0; file.len().unwrap() as usize];
        file.read_exact_at(&mut bytes, 0).unwrap();
        let at = bytes.windows(long.len()).position(|w| w == long);
        at.inspect(|&at| file.write_all_at(&[!long[9]], at as u64 + 9).unwrap()).is_some()
    });
    assert_eq!(damaged.count(), 1);
    let db = open(&tiny(), &fs).unwrap();
    let mut cursor = db.snapshot().unwrap().cursor(..);
    assert!(cursor.next().unwrap());
    let shown = cursor.value_with(<[u8]>::len);
    assert_eq!(shown.unwrap_err().kind(), ErrorKind::Corruption);
}

#[test]
fn rule_29_an_iterator_sees_the_writes_made_before_its_creation() {
    let (db, _fs) = memory();
    for key in ["b", "d", "f"] {
        db.put(key, "stored").unwrap();
    }
    db.flush().unwrap();
    db.put("h", "stored").unwrap();
    let mut t = db.begin().unwrap();
    for key in ["a", "d", "e", "z"] {
        t.put(key, "own").unwrap();
    }
    t.delete("f").unwrap();
    let shown = |iter: Iter<'_>| -> Vec<String> {
        iter.map(|item| {
            let item = item.unwrap();
            let value = item.value().unwrap();
            format!("{}={}", item.key().escape_ascii(), value.escape_ascii())
        })
        .collect()
    };
    let expected = ["a=own", "b=stored", "d=own", "e=own", "h=stored", "z=own"];
    assert_eq!(shown(t.iter()), expected);
    let mut mirrored: Vec<_> = t.iter().rev().map(|i| i.unwrap().into_key()).collect();
    mirrored.reverse();
    assert_eq!(mirrored, [b"a", b"b", b"d", b"e", b"h", b"z"]);
    assert_eq!(shown(t.range("c".."f")), ["d=own", "e=own"]);
    let mut cursor = t.cursor(..);
    assert!(cursor.seek("e").unwrap() && cursor.prev().unwrap() && cursor.key() == b"d");
    assert!(cursor.next().unwrap() && cursor.next().unwrap() && cursor.key() == b"h");
    assert!(cursor.prev().unwrap() && cursor.key() == b"e");
}

#[test]
fn rule_30_front_and_back_meet_exactly_once() {
    let (db, model) = spread();
    let snapshot = db.snapshot().unwrap();
    let mut rng = fastrand::Rng::with_seed(30);
    for _ in 0..30 {
        let mut iter = snapshot.iter();
        let (mut front, mut back) = (Vec::new(), Vec::new());
        loop {
            let (item, side) = match rng.bool() {
                true => (iter.next(), &mut front),
                false => (iter.next_back(), &mut back),
            };
            match item {
                Some(item) => side.push(item.unwrap().into_key()),
                None => break,
            }
        }
        assert!(iter.next().is_none() && iter.next_back().is_none());
        front.extend(back.into_iter().rev());
        assert!(front.iter().eq(model.keys()), "something twice, or lost");
    }
}

/// What an iterator is to give: its keys in order, and which of them lie between the ends.
struct Ends<'a> {
    keys: &'a [Vec<u8>],
    front: usize,
    back: usize,
}

impl Ends<'_> {
    fn next(&mut self) -> Option<Vec<u8>> {
        let on = self.front < self.back;
        on.then(|| {
            self.front += 1;
            self.keys[self.front - 1].clone()
        })
    }

    fn next_back(&mut self) -> Option<Vec<u8>> {
        let on = self.front < self.back;
        on.then(|| {
            self.back -= 1;
            self.keys[self.back].clone()
        })
    }
}

/// Steps and seeks of both ends at random, and what is left at the end, in one of four ways.
fn seek_and_step(mut iter: Iter<'_>, keys: &[Vec<u8>], rng: &mut fastrand::Rng, what: &str) {
    let mut model = Ends { keys, front: 0, back: keys.len() };
    let mut done = String::new();
    for _ in 0..rng.usize(..12) {
        let key = match rng.u8(..8) {
            0 => "zzz".into(),
            1 => "\0".into(),
            2 => format!("{:02}", rng.u32(..42)),
            _ => format!("{:03}", rng.u32(..400)),
        }
        .into_bytes();
        let what = format!("{what}: {done}");
        match rng.u8(..4) {
            0 => {
                done += &format!("seek {}, ", key.escape_ascii());
                iter.seek(&key);
                model.front = keys.partition_point(|k| *k < key);
            }
            1 => {
                done += &format!("seek_back {}, ", key.escape_ascii());
                iter.seek_back(&key);
                model.back = keys.partition_point(|k| *k <= key);
            }
            2 => {
                done += "next, ";
                assert_eq!(iter.next().map(|i| i.unwrap().into_key()), model.next(), "{what} next");
            }
            _ => {
                done += "back, ";
                let got = iter.next_back().map(|i| i.unwrap().into_key());
                assert_eq!(got, model.next_back(), "{what} next_back");
            }
        }
    }
    let left: Vec<_> = std::iter::from_fn(|| model.next()).collect();
    let ended = rng.u8(..4);
    let mut got: Vec<_> = match ended {
        0 => iter.map(|i| i.unwrap().into_key()).collect(),
        1 => iter.rev().map(|i| i.unwrap().into_key()).collect(),
        2 => iter.keys().map(|k| k.unwrap()).collect(),
        _ => iter.keys().rev().map(|k| k.unwrap()).collect(),
    };
    if ended % 2 == 1 {
        got.reverse();
    }
    assert_eq!(got, left, "{what}: {done} left, way {ended}");
}

#[test]
fn rules_27_and_30_an_end_that_was_sent_somewhere_is_there_before_it_is_taken() {
    let (db, _fs) = memory();
    for key in ["a", "b", "c", "d"] {
        db.put(key, "").unwrap();
    }
    let mut iter = db.iter().unwrap();
    iter.seek("c");
    assert!(iter.rev().map(|i| i.unwrap().into_key()).eq([b"d", b"c"]));
    let mut iter = db.iter().unwrap();
    iter.seek_back("b");
    assert!(iter.map(|i| i.unwrap().into_key()).eq([b"a", b"b"]));
    // Beyond each other there is nothing, until one of them is moved again.
    let mut iter = db.iter().unwrap();
    iter.seek("c");
    iter.seek_back("b");
    assert!(iter.next().is_none() && iter.next_back().is_none() && iter.next().is_none());
    iter.seek("b");
    assert!(iter.map(|i| i.unwrap().into_key()).eq([b"b"]));
}

#[test]
fn rules_28_29_30_any_seeks_and_steps_of_both_ends_agree_with_a_model() {
    let (db, mut model) = spread();
    let mut t = db.begin().unwrap();
    let mut rng = fastrand::Rng::with_seed(2830);
    let stored: Vec<_> = model.keys().cloned().collect();
    for _ in 0..60 {
        let key = format!("{:03}", rng.u32(..400)).into_bytes();
        if rng.bool() {
            t.put(&key, "own").unwrap();
            model.insert(key, Vec::new());
        } else {
            t.delete(&key).unwrap();
            model.remove(&key);
        }
    }
    let own: Vec<_> = model.keys().cloned().collect();
    let snapshot = db.snapshot().unwrap();
    for round in 0..1500 {
        let (a, b) = (format!("{:03}", rng.u32(..400)), format!("{:03}", rng.u32(..400)));
        let prefix = format!("{}", rng.u32(..4));
        let within = |keys: &[Vec<u8>], inside: &dyn Fn(&[u8]) -> bool| -> Vec<Vec<u8>> {
            keys.iter().filter(|k| inside(k)).cloned().collect()
        };
        let in_range = |k: &[u8]| k >= a.as_bytes() && k < b.as_bytes();
        let in_prefix = |k: &[u8]| k.starts_with(prefix.as_bytes());
        let (range, what) = (a.as_str()..b.as_str(), format!("round {round}"));
        match round % 6 {
            0 => seek_and_step(snapshot.iter(), &stored, &mut rng, &what),
            1 => {
                let keys = within(&stored, &in_range);
                seek_and_step(snapshot.range(range), &keys, &mut rng, &what);
            }
            2 => {
                let keys = within(&stored, &in_prefix);
                seek_and_step(snapshot.prefix(&prefix), &keys, &mut rng, &what);
            }
            3 => seek_and_step(t.iter(), &own, &mut rng, &what),
            4 => seek_and_step(t.range(range), &within(&own, &in_range), &mut rng, &what),
            _ => seek_and_step(t.prefix(&prefix), &within(&own, &in_prefix), &mut rng, &what),
        }
    }
}

#[test]
fn rule_31_keys_do_not_touch_the_value_log() {
    let (db, fs) = memory();
    for i in 0..50u64 {
        db.put(i.to_be_bytes(), value(i, 5000)).unwrap();
    }
    db.flush().unwrap();
    db.close().unwrap();
    let db = open(&tiny(), &fs).unwrap();
    // Spoil every value.
    for entry in fs.list(common::PATH.as_ref()).unwrap() {
        if entry.name.extension().is_some_and(|x| x == "vlog") {
            let path = std::path::Path::new(common::PATH).join(&entry.name);
            let file = fs.open(&path, kvdb::vfs::OpenMode::ReadWrite).unwrap();
            let len = file.len().unwrap() as usize;
            file.write_all_at(&vec![0xEE; len - 4096], 4096).unwrap();
        }
    }
    assert_eq!(db.iter().unwrap().keys().filter(|k| k.is_ok()).count(), 50);
    for item in db.iter().unwrap() {
        let item = item.unwrap();
        assert_eq!(item.value_len(), 5000);
        // Rule 32: an unreadable value is an error, and iteration goes on.
        let error = item.value().unwrap_err();
        assert_eq!(error.kind(), kvdb::ErrorKind::Corruption, "{error}");
    }
    assert!(db.contains(0u64.to_be_bytes()).unwrap());
    assert!(db.get(0u64.to_be_bytes()).is_err());
}

#[test]
fn rule_33_iterators_and_values_stay_valid_after_the_handle_is_dropped() {
    let (db, model) = spread();
    let mut iter = db.iter().unwrap();
    let first = iter.next().unwrap().unwrap();
    let held = db.get(first.key()).unwrap().unwrap();
    for key in model.keys() {
        db.delete(key).unwrap();
    }
    db.compact().unwrap();
    drop(db);
    assert_eq!(held, model[first.key()]);
    let mut seen = 1;
    for item in iter {
        let item = item.unwrap();
        assert_eq!(item.value().unwrap(), model[item.key()]);
        seen += 1;
    }
    assert_eq!(seen, model.len());
}

/// What an iterator has not come to yet may be gone when the store has another owner: it says so.
#[test]
fn rule_33_an_iterator_outlives_its_store_also_when_the_next_opener_compacts() {
    let dir = tempfile::tempdir().unwrap();
    // Tables are opened when an iterator comes to them, and not all of them may be.
    let options = tiny().max_open_tables(16).durability(kvdb::Durability::Buffered);
    let fill = |db: &Db, byte: u8| {
        for i in 0..6000u32 {
            db.put(i.to_be_bytes(), [byte; 200]).unwrap();
        }
        db.compact().unwrap();
    };
    let db = options.open(dir.path()).unwrap();
    fill(&db, 1);
    let mut iter = db.iter().unwrap();
    let first = iter.next().unwrap().unwrap();
    drop(db);
    let next = options.open(dir.path()).unwrap();
    fill(&next, 2);
    next.close().unwrap();
    assert_eq!(first.value().unwrap()[0], 1);
    let mut failed = false;
    for item in iter {
        match item {
            Ok(item) => assert_eq!(item.value().unwrap()[0], 1),
            Err(error) => {
                assert_eq!(error.kind(), kvdb::ErrorKind::Closed, "{error}");
                failed = true;
            }
        }
    }
    assert!(failed, "everything was open already");
}

#[test]
fn rule_35_an_expired_entry_is_absent_hides_older_versions_and_never_exposes_them() {
    let fs = Arc::new(MemFs::new());
    let clock = Arc::new(ManualClock::new(1000));
    let db = tiny().open_with(fs.clone(), clock.clone(), common::PATH).unwrap();
    db.put("k", "older").unwrap();
    db.flush().unwrap();
    db.put_with("k", "newer", WriteOptions::default().expires_at(1010).user_meta(7)).unwrap();
    db.put("other", "stays").unwrap();
    let entry = db.get_entry("k").unwrap().unwrap();
    assert_eq!((entry.expires_at(), entry.user_meta()), (Some(1010), 7));
    let before = db.snapshot().unwrap();
    clock.set(1009);
    assert_eq!(db.get("k").unwrap().unwrap(), "newer");
    clock.set(1010);
    let absent = |db: &Db| {
        assert!(db.get("k").unwrap().is_none());
        assert!(!db.contains("k").unwrap());
        assert_eq!(keys(db.iter().unwrap()), [b"other"]);
        let backward: Vec<_> = db.iter().unwrap().rev().map(|i| i.unwrap().into_key()).collect();
        assert_eq!(backward, [b"other"]);
    };
    absent(&db);
    // A transaction keeps the clock it began with, whatever compaction does.
    db.compact().unwrap();
    assert_eq!(before.get("k").unwrap().unwrap(), "newer");
    drop(before);
    db.compact().unwrap();
    absent(&db);
    // A clock going backwards never revives.
    clock.set(900);
    db.flush().unwrap();
    absent(&db);
    db.close().unwrap();
    absent(&tiny().open_with(fs, clock, common::PATH).unwrap());
}

/// Whether or not it was dropped meanwhile; for as long as the store is open, and by no more than an hour.
#[test]
fn rule_35_what_was_seen_to_be_absent_stays_so_when_the_clock_is_set_back() {
    let clock = Arc::new(ManualClock::new(10_000));
    let fs: Arc<dyn Fs> = Arc::new(MemFs::new());
    let db = common::manual().open_with(fs, clock.clone(), common::PATH).unwrap();
    db.put_with("session", "v", WriteOptions::default().expires_at(10_010)).unwrap();
    db.put_with("later", "v", WriteOptions::default().expires_at(10_011)).unwrap();
    clock.set(10_010);
    assert!(db.get("session").unwrap().is_none());
    for second in [10_009, 9_000, 10_010 - 3600] {
        clock.set(second);
        assert!(db.get("session").unwrap().is_none() && !db.contains("session").unwrap());
        assert_eq!(
            db.iter().unwrap().map(|i| i.unwrap().key().to_vec()).collect::<Vec<_>>(),
            [b"later"]
        );
        assert!(db.begin().unwrap().get("session").unwrap().is_none(), "{second}");
        assert!(db.snapshot().unwrap().get("session").unwrap().is_none(), "{second}");
        assert!(db.get("later").unwrap().is_some(), "it stands still");
    }
}

/// A flush or compaction takes the clock for what it drops, and for nothing more.
#[test]
fn rule_35_a_clock_that_was_wrong_for_a_moment_does_not_end_what_expires() {
    let clock = Arc::new(ManualClock::new(1_000));
    let fs: Arc<dyn Fs> = Arc::new(MemFs::new());
    let db = common::manual().open_with(fs.clone(), clock.clone(), common::PATH).unwrap();
    let until = |second| WriteOptions::default().expires_at(second);
    db.put("k", "v").unwrap();
    db.put_with("gone", "v", until(1_010)).unwrap();
    clock.set(10_000_000_000);
    db.flush().unwrap();
    db.compact().unwrap();
    clock.set(1_005);
    db.put_with("session", "v", until(1_061)).unwrap();
    assert!(db.get("session").unwrap().is_some(), "as soon as the clock is right again");
    assert!(db.get("gone").unwrap().is_none(), "and nothing is revived");
    db.close().unwrap();
    let db = common::manual().open_with(fs, clock.clone(), common::PATH).unwrap();
    assert!(db.get("session").unwrap().is_some() && db.get("gone").unwrap().is_none());
    clock.set(1_061);
    assert!(db.get("session").unwrap().is_none());
}
