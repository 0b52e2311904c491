//! Iteration over all versions, and over what is newer than a version (SEMANTICS, 26 and 34).

use std::sync::Arc;

use crate::common::{PATH, manual, memory, scale, tiny};
use kvdb::vfs::{Fs, ManualClock, MemFs, OpenMode};
use kvdb::{Db, Durability, Item, Options, Result, Versions, WriteOptions};

fn options() -> Options {
    tiny().durability(Durability::Buffered).versions_to_keep(usize::MAX)
}

/// One entry as it was written.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Written {
    key: Vec<u8>,
    version: u64,
    /// `None`: deleted.
    value: Option<Vec<u8>>,
    expired: bool,
    meta: u8,
}

fn seen(item: Item) -> Written {
    Written {
        key: item.key().to_vec(),
        version: item.version(),
        value: (!item.is_deleted()).then(|| item.value().unwrap().into_vec()),
        expired: item.is_expired(),
        meta: item.user_meta(),
    }
}

fn all(versions: Versions<'_>) -> Vec<Written> {
    versions.map(|item| seen(item.unwrap())).collect()
}

/// A store with a history, and the history in the order that it should be shown in.
fn history(seed: u64) -> (Db, Vec<Written>) {
    let mut rng = fastrand::Rng::with_seed(seed);
    let clock = Arc::new(ManualClock::new(1000));
    let fs: Arc<dyn Fs> = Arc::new(MemFs::new());
    let db = options().open_with(fs, clock, PATH).unwrap();
    let mut history = Vec::new();
    for step in 0..300u32 {
        let key = vec![b'a' + rng.u8(..8)];
        let mut written =
            Written { key: key.clone(), version: 0, value: None, expired: false, meta: 0 };
        match rng.u32(..10) {
            0..2 => written.version = db.delete(&key).unwrap(),
            n => {
                let value = crate::common::value(step.into(), if rng.bool() { 10 } else { 400 });
                let mut with = WriteOptions::default().user_meta(n as u8);
                if n < 4 {
                    written.expired = rng.bool();
                    with = with.expires_at(if written.expired { 900 } else { 2000 });
                }
                written.version = db.put_with(&key, &value, with).unwrap();
                (written.value, written.meta) = (Some(value), n as u8);
            }
        }
        history.push(written);
        if step % 60 == 59 {
            db.flush().unwrap();
        }
    }
    history.sort_by(|a, b| a.key.cmp(&b.key).then(b.version.cmp(&a.version)));
    (db, history)
}

#[test]
fn rule_26_all_versions_newest_first_with_tombstones_and_expired_ones_marked_and_mirrored() {
    for seed in 0..4 * scale() {
        let (db, history) = history(seed);
        let snapshot = db.snapshot().unwrap();
        assert_eq!(all(snapshot.versions()), history);
        let mut backward: Vec<_> =
            snapshot.versions().rev().map(|item| seen(item.unwrap())).collect();
        backward.reverse();
        assert_eq!(backward, history);
        // Older readers, bounds, a prefix.
        let middle = history[history.len() / 2].version;
        let older = db.snapshot_at(middle).unwrap();
        let then: Vec<_> = history.iter().filter(|w| w.version <= middle).cloned().collect();
        assert_eq!(all(older.versions()), then);
        let range = |w: &&Written| (&b"b"[..]..b"e").contains(&&w.key[..]);
        let part: Vec<_> = history.iter().filter(range).cloned().collect();
        assert_eq!(all(snapshot.range("b".."e").versions()), part);
        let mut back: Vec<_> =
            snapshot.range("b".."e").versions().rev().collect::<Result<_>>().unwrap();
        back.reverse();
        assert_eq!(back.into_iter().map(seen).collect::<Vec<_>>(), part);
        // Both ends of a range inside, and both outside.
        use std::ops::Bound::{Excluded, Included};
        for bounds in [(Included("b"), Included("e")), (Excluded("b"), Excluded("e"))] {
            let within = |w: &&Written| match bounds.0 {
                Included(_) => (b'b'..=b'e').contains(&w.key[0]),
                _ => (b'c'..=b'd').contains(&w.key[0]),
            };
            let part: Vec<_> = history.iter().filter(within).cloned().collect();
            assert_eq!(all(snapshot.range(bounds).versions()), part);
            let back: Vec<_> =
                snapshot.range(bounds).versions().rev().collect::<Result<_>>().unwrap();
            assert_eq!(back.into_iter().rev().map(seen).collect::<Vec<_>>(), part);
        }
        let d: Vec<_> = history.iter().filter(|w| w.key == b"d").cloned().collect();
        assert_eq!(all(snapshot.prefix("d").versions()), d);
    }
}

#[test]
fn rule_30_front_and_back_of_all_versions_meet_exactly_once() {
    let (db, history) = history(77);
    for seed in 0..50 {
        let mut rng = fastrand::Rng::with_seed(seed);
        let mut versions = db.snapshot().unwrap().versions();
        let (mut front, mut back) = (Vec::new(), Vec::new());
        loop {
            let from_front = rng.bool();
            let item = if from_front { versions.next() } else { versions.next_back() };
            let Some(item) = item else { break };
            if from_front { &mut front } else { &mut back }.push(seen(item.unwrap()));
        }
        assert!(versions.next().is_none() && versions.next_back().is_none());
        back.reverse();
        front.extend(back);
        assert_eq!(front, history);
    }
}

#[test]
fn rule_28_all_versions_seek_from_any_position_also_past_the_ends() {
    let (db, history) = history(3);
    let mut rng = fastrand::Rng::with_seed(3);
    let mut versions = db.snapshot().unwrap().versions();
    for _ in 0..300 {
        let key = vec![b'a' - 1 + rng.u8(..11)];
        versions.seek(&key);
        let expected: Vec<_> = history.iter().filter(|w| w.key >= key).collect();
        for wanted in expected.iter().take(rng.usize(1..40)) {
            assert_eq!(seen(versions.next().unwrap().unwrap()), **wanted);
        }
        if expected.is_empty() {
            assert!(versions.next().is_none());
        }
    }
    let mut versions = db.snapshot().unwrap().versions();
    for _ in 0..300 {
        let key = vec![b'a' - 1 + rng.u8(..11)];
        versions.seek_back(&key);
        let expected: Vec<_> = history.iter().rev().filter(|w| w.key <= key).collect();
        for wanted in expected.iter().take(rng.usize(1..40)) {
            assert_eq!(seen(versions.next_back().unwrap().unwrap()), **wanted);
        }
        if expected.is_empty() {
            assert!(versions.next_back().is_none());
        }
    }
}

/// Steps and seeks of both ends at random, and what is left in between.
fn seek_and_step(mut versions: Versions<'_>, history: &[Written], seed: u64) {
    let mut rng = fastrand::Rng::with_seed(seed);
    let (mut front, mut back) = (0, history.len());
    for _ in 0..rng.usize(..40) {
        let key = vec![b'a' - 1 + rng.u8(..11)];
        match rng.u8(..8) {
            0 => {
                versions.seek(&key);
                front = history.partition_point(|w| w.key < key);
            }
            1 => {
                versions.seek_back(&key);
                back = history.partition_point(|w| w.key <= key);
            }
            side => {
                let item = if side < 5 { versions.next() } else { versions.next_back() };
                let got = item.map(|item| seen(item.unwrap()));
                let expected = (front < back).then(|| match side < 5 {
                    true => &history[front],
                    false => &history[back - 1],
                });
                assert_eq!(got.as_ref(), expected, "seed {seed}");
                match (expected.is_some(), side < 5) {
                    (true, true) => front += 1,
                    (true, false) => back -= 1,
                    (false, _) => {}
                }
            }
        }
    }
    let left = history.get(front..back).unwrap_or_default();
    let got: Vec<_> = match rng.bool() {
        true => all(versions),
        false => {
            let mut got: Vec<_> = versions.rev().map(|item| seen(item.unwrap())).collect();
            got.reverse();
            got
        }
    };
    assert_eq!(got, left, "seed {seed}");
}

#[test]
fn rules_28_and_30_all_versions_any_seeks_and_steps_of_both_ends_agree_with_a_model() {
    let (db, history) = history(5);
    for seed in 0..400 {
        seek_and_step(db.snapshot().unwrap().versions(), &history, seed);
    }
}

#[test]
fn rules_28_29_and_30_all_versions_with_own_writes_agree_with_a_model_from_both_ends() {
    let (db, mut history) = history(6);
    let mut t = db.begin().unwrap();
    let mut own = Vec::new();
    // One ahead of all keys, one behind them, some among them.
    for key in [&b"`"[..], b"b", b"c", b"cc", b"f", b"z"] {
        let value = (key != b"c").then(|| b"own".to_vec());
        match &value {
            Some(value) => t.put(key, value).unwrap(),
            None => t.delete(key).unwrap(),
        }
        own.push(Written { key: key.to_vec(), version: u64::MAX, value, expired: false, meta: 0 });
    }
    history.extend(own);
    history.sort_by(|a, b| a.key.cmp(&b.key).then(b.version.cmp(&a.version)));
    for seed in 0..400 {
        seek_and_step(t.iter().versions(), &history, seed);
    }
}

#[test]
fn rule_29_all_versions_show_the_transactions_own_writes_first() {
    let (db, _fs) = memory();
    db.put("k", "old").unwrap();
    db.put("z", "old").unwrap();
    let mut t = db.begin().unwrap();
    t.put("k", "own").unwrap();
    t.delete("z").unwrap();
    let versions: Vec<_> = t.iter().versions().map(|item| seen(item.unwrap())).collect();
    let shown: Vec<_> =
        versions.iter().map(|w| (&w.key[..], w.version == u64::MAX, w.value.as_deref())).collect();
    assert_eq!(
        shown,
        [
            (&b"k"[..], true, Some(&b"own"[..])),
            (b"k", false, Some(b"old")),
            (b"z", true, None),
            (b"z", false, Some(b"old")),
        ]
    );
}

#[test]
fn rule_19_iteration_over_all_versions_is_a_read_of_its_range() {
    let (db, _fs) = memory();
    for (key, conflicts) in [("b", true), ("x", false)] {
        let mut t = db.begin().unwrap();
        assert_eq!(t.range("a".."c").versions().filter(|i| i.is_err()).count(), 0);
        t.put("unrelated", "v").unwrap();
        db.put(key, "v").unwrap();
        assert_eq!(t.commit().is_err(), conflicts);
    }
}

#[test]
fn rule_34_since_gives_only_what_is_newer_with_deletes_where_all_versions_are_asked_for() {
    let (db, history) = history(11);
    let snapshot = db.snapshot().unwrap();
    for at in (0..history.len()).step_by(17) {
        let since = history[at].version;
        let newer: Vec<_> = history.iter().filter(|w| w.version > since).cloned().collect();
        assert_eq!(all(snapshot.versions().since(since)), newer);
        assert_eq!(all(snapshot.iter().since(since).versions()), newer);
        // The newest of each key, if it is newer and visible.
        let mut expected = history.clone();
        expected.dedup_by(|later, first| later.key == first.key);
        expected.retain(|w| w.version > since && w.value.is_some() && !w.expired);
        let visible = |item: Result<Item>| seen(item.unwrap());
        let forward: Vec<_> = snapshot.iter().since(since).map(visible).collect();
        assert_eq!(forward, expected);
        let mut backward: Vec<_> = snapshot.iter().since(since).rev().map(visible).collect();
        backward.reverse();
        assert_eq!(backward, expected);
    }
}

#[test]
fn rule_34_since_skips_tables_that_have_nothing_newer() {
    let fs = Arc::new(MemFs::new());
    let options = manual().durability(Durability::Buffered).flush_on_close(true);
    let db = options.open_in(fs.clone(), PATH).unwrap();
    db.put("a", "old").unwrap();
    let since = db.put("b", "old").unwrap();
    db.flush().unwrap();
    let names = |fs: &MemFs| -> Vec<_> {
        let names = fs.list(PATH.as_ref()).unwrap().into_iter().map(|e| e.name);
        names.filter(|n| n.extension().is_some_and(|e| e == "sst")).collect()
    };
    let old = names(&fs);
    assert_eq!(old.len(), 1);
    db.put("b", "new").unwrap();
    db.put("c", "new").unwrap();
    db.close().unwrap();

    // The old table cannot be read any more.
    let path = std::path::Path::new(PATH).join(&old[0]);
    let file = fs.open(&path, OpenMode::ReadWrite).unwrap();
    let len = file.len().unwrap();
    file.write_all_at(&vec![0xAA; len as usize], 0).unwrap();
    let db = options.open_in(fs, PATH).unwrap();
    assert!(db.iter().unwrap().any(|item| item.is_err()), "the test damages nothing");
    let newer: Vec<_> = db.iter().unwrap().since(since).keys().collect::<Result<_>>().unwrap();
    assert_eq!(newer, [b"b", b"c"]);
    let newer: Vec<_> = db.iter().unwrap().versions().since(since).collect::<Result<_>>().unwrap();
    assert_eq!(newer.len(), 2);
}

/// A drop hides what is older than itself, whether that is newer than the version asked for or not, is
/// not shown, and leaves what was written after it; before it is applied to tables and afterwards.
#[test]
fn rule_34_and_55_since_shows_neither_a_drop_nor_what_it_dropped() {
    for flushed in [false, true] {
        let (db, _fs) = memory();
        for key in ["a1", "a2", "b1"] {
            db.put(key, "old").unwrap();
        }
        let since = db.put("b2", "old").unwrap();
        db.put("a1", "newer").unwrap();
        db.put("b1", "newer").unwrap();
        let before = db.snapshot().unwrap();
        let dropped = db.drop_prefix("a").unwrap();
        assert!(dropped > since);
        let again = db.put("a2", "again").unwrap();
        if flushed {
            db.flush().unwrap();
        }
        let keys = |at: u64| -> Vec<Vec<u8>> {
            db.iter().unwrap().since(at).keys().collect::<Result<_>>().unwrap()
        };
        let backward = |at: u64| -> Vec<Vec<u8>> {
            db.iter().unwrap().since(at).rev().map(|i| i.unwrap().key().to_vec()).collect()
        };
        let versions = |at: u64| -> Vec<(Vec<u8>, bool)> {
            let items = db.iter().unwrap().versions().since(at).map(Result::unwrap);
            items.map(|i| (i.key().to_vec(), i.is_deleted())).collect()
        };
        let check = || {
            assert_eq!(keys(since), [b"a2", b"b1"], "nothing of what was dropped");
            assert_eq!(backward(since), [b"b1", b"a2"]);
            let shown = versions(since);
            assert_eq!(shown, [(b"a2".to_vec(), false), (b"b1".to_vec(), false)], "and no drop");
            assert_eq!(keys(dropped), [b"a2"]);
            assert!(keys(again).is_empty());
        };
        check();
        // Who began before the drop goes on to see what was newer then.
        let old: Vec<_> = before.iter().since(since).keys().collect::<Result<_>>().unwrap();
        assert_eq!(old, [b"a1", b"b1"]);
        drop(before);
        db.compact().unwrap();
        check();
    }
}
