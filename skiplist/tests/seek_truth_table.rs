//! Where seeks land: before, on, between and behind entries, by key and by version.

use kvdb_skiplist::{EntryRef, Options, SkipList};

fn list(pairs: &[(&str, u64)]) -> SkipList {
    let list = SkipList::new(Options { capacity: 1 << 16, ..Options::default() }).expect("a list");
    for &(key, version) in pairs {
        list.insert(key.as_bytes(), version, b"").expect("room");
    }
    list
}

fn pair<'a>(entry: Option<EntryRef<'a>>) -> Option<(&'a str, u64)> {
    entry.map(|entry| (std::str::from_utf8(entry.key()).expect("a test's key"), entry.version()))
}

#[test]
fn seeks_around_absent_present_first_and_last() {
    let list = list(&[("b", 5), ("b", 3), ("d", 7), ("d\0", 1), ("f", 2)]);
    let max = u64::MAX;
    type Pair = Option<(&'static str, u64)>;
    #[rustfmt::skip]
    let table: &[(&str, u64, Pair, Pair)] = &[
        // looked for     at or after       at or before
        ("", max,         Some(("b", 5)),   None),
        ("a", 0,          Some(("b", 5)),   None),
        ("b", max,        Some(("b", 5)),   None),
        ("b", 6,          Some(("b", 5)),   None),
        ("b", 5,          Some(("b", 5)),   Some(("b", 5))),
        ("b", 4,          Some(("b", 3)),   Some(("b", 5))),
        ("b", 3,          Some(("b", 3)),   Some(("b", 3))),
        ("b", 2,          Some(("d", 7)),   Some(("b", 3))),
        ("b", 0,          Some(("d", 7)),   Some(("b", 3))),
        ("b\0", max,      Some(("d", 7)),   Some(("b", 3))),
        ("c", 5,          Some(("d", 7)),   Some(("b", 3))),
        ("d", 8,          Some(("d", 7)),   Some(("b", 3))),
        ("d", 7,          Some(("d", 7)),   Some(("d", 7))),
        ("d", 0,          Some(("d\0", 1)), Some(("d", 7))),
        ("d\0", 2,        Some(("d\0", 1)), Some(("d", 7))),
        ("d\0", 1,        Some(("d\0", 1)), Some(("d\0", 1))),
        ("d\0", 0,        Some(("f", 2)),   Some(("d\0", 1))),
        ("d\0\0", max,    Some(("f", 2)),   Some(("d\0", 1))),
        ("e", 0,          Some(("f", 2)),   Some(("d\0", 1))),
        ("f", 3,          Some(("f", 2)),   Some(("d\0", 1))),
        ("f", 2,          Some(("f", 2)),   Some(("f", 2))),
        ("f", 1,          None,             Some(("f", 2))),
        ("f\0", max,      None,             Some(("f", 2))),
        ("g", 0,          None,             Some(("f", 2))),
    ];
    let mut cursor = list.cursor();
    for &(key, version, at_or_after, at_or_before) in table {
        assert_eq!(cursor.seek(key.as_bytes(), version), at_or_after.is_some());
        assert_eq!(pair(cursor.entry()), at_or_after, "seek {key:?} {version}");
        assert_eq!(cursor.seek_for_prev(key.as_bytes(), version), at_or_before.is_some());
        assert_eq!(pair(cursor.entry()), at_or_before, "seek_for_prev {key:?} {version}");
        let visible = at_or_after.filter(|&(found, _)| found == key);
        assert_eq!(pair(list.get(key.as_bytes(), version)), visible, "get {key:?} {version}");
    }
}

#[test]
fn an_empty_list_has_no_place_to_stand_on() {
    let list = list(&[]);
    let mut cursor = list.cursor();
    assert!(!cursor.valid() && !cursor.next() && !cursor.prev());
    assert!(!cursor.first() && !cursor.last());
    assert!(!cursor.seek(b"", u64::MAX) && !cursor.seek_for_prev(b"x", 0));
    assert_eq!((cursor.key(), cursor.version(), cursor.value()), (&b""[..], 0, &b""[..]));
    assert!(list.get(b"", u64::MAX).is_none());
    assert!(list.iter().next().is_none() && list.range("a".."b").next_back().is_none());
}

#[test]
fn a_cursor_beyond_an_end_stays_there_until_it_is_placed() {
    let list = list(&[("a", 1), ("b", 1)]);
    let mut cursor = list.cursor();
    assert!(cursor.last() && !cursor.next() && !cursor.next() && !cursor.prev());
    assert!(cursor.first() && !cursor.prev() && !cursor.next());
    assert!(cursor.first() && cursor.next() && cursor.prev() && cursor.key() == b"a");
}

#[test]
fn the_empty_key_is_the_first_and_a_key_of_0xff_is_no_end() {
    let list = list(&[("", 9), ("", 0), ("a", 1)]);
    let long = [0xff; 600];
    for len in [1, 2, 3, 4, 300, 600] {
        list.insert(&long[..len], 1, &[len as u8]).expect("room");
    }
    assert_eq!(pair(list.get(b"", 8)), Some(("", 0)));
    assert_eq!(pair(list.iter().next()), Some(("", 9)));
    let lens: Vec<_> = list.iter().rev().map(|entry| entry.key().len()).take(6).collect();
    assert_eq!(lens, [600, 300, 4, 3, 2, 1]);
    let mut cursor = list.cursor();
    assert!(cursor.seek(&long[..5], 0) && cursor.key().len() == 300);
    assert!(!cursor.seek(&long, 0));
}

#[test]
fn ranges_are_over_keys_and_hold_all_versions() {
    let list = list(&[("a", 1), ("b", 5), ("b", 0), ("b", u64::MAX), ("c", 1), ("d", 0)]);
    let of = |range: kvdb_skiplist::Iter<'_>| {
        let forward: Vec<_> = range.clone().map(|e| (e.key()[0] as char, e.version())).collect();
        let mut backward: Vec<_> = range.rev().map(|e| (e.key()[0] as char, e.version())).collect();
        backward.reverse();
        assert_eq!(forward, backward);
        forward
    };
    let b = [('b', u64::MAX), ('b', 5), ('b', 0)];
    assert_eq!(of(list.range("b"..="b")), b);
    assert_eq!(of(list.range("b".."c")), b);
    assert_eq!(of(list.range("aa"..="bb")), b);
    assert_eq!(of(list.range("b".."b")), []);
    assert_eq!(of(list.range("c".."b")), []);
    assert_eq!(of(list.range("x"..)), []);
    assert_eq!(of(list.range(.."a")), []);
    assert_eq!(of(list.range("c"..)), [('c', 1), ('d', 0)]);
    use std::ops::Bound::{Excluded, Included};
    assert_eq!(of(list.range::<&str>((Excluded("b"), Included("c")))), [('c', 1)]);
    assert_eq!(of(list.range::<&str>((Excluded("bx"), Excluded("d")))), [('c', 1)]);
}
