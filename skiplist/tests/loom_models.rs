//! The protocols of the list under loom, every interleaving up to the preemption bound:
//!
//! ```text
//! RUSTFLAGS="--cfg loom" LOOM_MAX_PREEMPTIONS=5 cargo test --release --test loom_models
//! ```
//!
//! Under loom index records have two slots and at most two levels, and the arena is one of typed
//! units; all else is the list's own code.
//!
//! In each model the first thread writes and the spawned one reads: loom 0.7 runs the first thread
//! first, and goes back for a load that could have come before a store, but not for a store that
//! could have come before a load when the storing thread has loaded the same word since.
#![cfg(loom)]

use kvdb_skiplist::{InsertError, Options, SkipList};
use loom::sync::Arc;
use loom::thread;

fn list(entries: usize) -> Arc<SkipList> {
    let options = Options { capacity: 64 * (2 + entries), ..Options::default() };
    Arc::new(SkipList::new(options).unwrap())
}

fn keys(list: &SkipList) -> Vec<u8> {
    list.iter().map(|entry| entry.key()[0]).collect()
}

fn keys_backward(list: &SkipList) -> Vec<u8> {
    list.iter().rev().map(|entry| entry.key()[0]).collect()
}

fn insert(list: &SkipList, key: u8) {
    list.insert(&[key], 1, &[key, key]).unwrap();
    // Once inserted, an entry is found, whatever the others are at.
    let entry = list.get(&[key], 1).expect("what was inserted");
    assert_eq!((entry.key(), entry.value()), (&[key][..], &[key, key][..]));
}

/// Before, between and behind what is there; records split where there are more than two.
fn two_writers(there: &[u8], a: u8, b: u8) {
    let there = there.to_vec();
    loom::model(move || {
        let list = list(there.len() + 2);
        for &key in &there {
            insert(&list, key);
        }
        let other = {
            let list = Arc::clone(&list);
            thread::spawn(move || insert(&list, a))
        };
        insert(&list, b);
        other.join().unwrap();
        let mut expected = [&there[..], &[a, b]].concat();
        expected.sort_unstable();
        assert_eq!(keys(&list), expected);
        expected.reverse();
        assert_eq!(keys_backward(&list), expected);
        assert_eq!(list.len(), expected.len());
        assert!(list.prevs_are_exact());
    });
}

#[test]
fn two_writers_into_an_empty_list() {
    two_writers(&[], 1, 3);
    two_writers(&[], 4, 3);
}

#[test]
fn two_writers_between_the_same_nodes() {
    two_writers(&[1, 9], 3, 5);
    two_writers(&[2, 9], 5, 4);
}

#[test]
fn two_writers_that_split_one_record() {
    two_writers(&[1, 5, 9], 3, 7);
    two_writers(&[1, 2, 3], 4, 5);
    two_writers(&[7, 8, 9], 5, 6);
}

#[test]
fn one_of_two_equal_inserts_wins_and_the_other_is_told() {
    for key in [1, 2] {
        loom::model(move || {
            let list = list(2);
            let other = {
                let list = Arc::clone(&list);
                thread::spawn(move || list.insert(&[key], 1, b"a"))
            };
            let mine = list.insert(&[key], 1, b"b");
            let theirs = other.join().unwrap();
            let expected = match (mine, theirs) {
                (Ok(()), Err(InsertError::Exists)) => &b"b"[..],
                (Err(InsertError::Exists), Ok(())) => &b"a"[..],
                other => panic!("{other:?}"),
            };
            assert_eq!(list.get(&[key], 1).unwrap().value(), expected);
            assert_eq!((list.len(), keys(&list)), (1, vec![key]));
        });
    }
}

#[test]
fn a_reader_sees_entries_whole_in_order_and_for_good() {
    loom::model(|| {
        let list = list(3);
        insert(&list, 5);
        let reader = {
            let list = Arc::clone(&list);
            thread::spawn(move || {
                let first = keys(&list);
                let second = keys(&list);
                for seen in [&first, &second] {
                    // 4 never without 3, which was inserted before it.
                    assert!([&[5][..], &[3, 5], &[3, 4, 5]].contains(&&seen[..]), "{seen:?}");
                }
                assert!(first.len() <= second.len());
            })
        };
        insert(&list, 3);
        insert(&list, 4);
        reader.join().unwrap();
    });
}

#[test]
fn a_lookup_finds_what_it_found_before() {
    loom::model(|| {
        let list = list(4);
        insert(&list, 3);
        insert(&list, 9);
        let reader = {
            let list = Arc::clone(&list);
            thread::spawn(move || {
                let found = |key| list.get(&[key], 1).map(|entry| entry.value().to_vec());
                let (seven, five) = (found(7), found(5));
                assert!(five.is_some() || seven.is_none());
                assert!(five.as_ref().is_none_or(|value| value == &[5, 5]));
                assert!(five.is_none() || found(5) == five);
                assert!(found(3).is_some() && found(9).is_some());
            })
        };
        insert(&list, 5);
        insert(&list, 7);
        reader.join().unwrap();
    });
}

#[test]
fn a_backward_reader_misses_nothing_that_was_there() {
    loom::model(|| {
        let list = list(4);
        insert(&list, 2);
        insert(&list, 7);
        let reader = {
            let list = Arc::clone(&list);
            thread::spawn(move || {
                let seen = keys_backward(&list);
                let possible = [&[7, 2][..], &[7, 5, 2], &[7, 4, 2], &[7, 5, 4, 2]];
                assert!(possible.contains(&&seen[..]), "{seen:?}");
            })
        };
        insert(&list, 5);
        insert(&list, 4);
        reader.join().unwrap();
        assert_eq!(keys_backward(&list), [7, 5, 4, 2]);
    });
}

#[test]
fn a_backward_reader_comes_to_a_record_just_split_off() {
    loom::model(|| {
        let list = list(5);
        // Records at the head, with 2 and 4, and at 5; another insert splits the first.
        for key in [2, 7, 5, 4] {
            insert(&list, key);
        }
        let reader = {
            let list = Arc::clone(&list);
            thread::spawn(move || {
                let mut cursor = list.cursor();
                assert!(cursor.seek(&[7], 1));
                let mut seen = vec![];
                while cursor.prev() {
                    seen.push(cursor.key()[0]);
                }
                assert!([&[5, 4, 2][..], &[5, 4, 3, 2]].contains(&&seen[..]), "{seen:?}");
            })
        };
        insert(&list, 3);
        reader.join().unwrap();
        assert_eq!(keys_backward(&list), [7, 5, 4, 3, 2]);
    });
}

#[test]
fn a_backward_reader_between_two_writers() {
    loom::model(|| {
        let list = list(4);
        insert(&list, 2);
        insert(&list, 8);
        let other = {
            let list = Arc::clone(&list);
            thread::spawn(move || insert(&list, 6))
        };
        insert(&list, 4);
        let seen = keys_backward(&list);
        assert!([&[8, 4, 2][..], &[8, 6, 4, 2]].contains(&&seen[..]), "{seen:?}");
        other.join().unwrap();
        assert_eq!(keys_backward(&list), [8, 6, 4, 2]);
        // All prev words are exact once the writers are done.
        assert!(list.prevs_are_exact());
    });
}

#[test]
fn a_replaced_value_is_the_old_one_or_the_new_one() {
    loom::model(|| {
        let list = list(4);
        list.insert(b"k", 1, b"old").unwrap();
        let reader = {
            let list = Arc::clone(&list);
            thread::spawn(move || {
                let value = list.get(b"k", 1).unwrap().value();
                assert!(value == b"old" || value == b"newer");
            })
        };
        assert_eq!(list.upsert(b"k", 1, b"newer"), Ok(true));
        reader.join().unwrap();
        assert_eq!(list.get(b"k", 1).unwrap().value(), b"newer");
    });
}

#[test]
fn the_last_bytes_go_to_one_of_two() {
    loom::model(|| {
        let list = list(1);
        let other = {
            let list = Arc::clone(&list);
            thread::spawn(move || list.insert(&[2], 1, b"").is_ok())
        };
        let mine = list.insert(&[4], 1, b"").is_ok();
        assert!(mine != other.join().unwrap());
        assert_eq!(keys(&list).len(), 1);
        assert_eq!(list.remaining(), 0);
    });
}

#[test]
fn two_upserts_of_a_new_pair_take_two_bounds() {
    loom::model(|| {
        let list = list(2);
        let before = list.allocated();
        let other = {
            let list = Arc::clone(&list);
            thread::spawn(move || list.upsert(b"k", 1, b"a").expect("room"))
        };
        let mine = list.upsert(b"k", 1, b"b").expect("room");
        let theirs = other.join().unwrap();
        assert_ne!(mine, theirs, "one inserted, one replaced");
        assert_eq!(list.len(), 1);
        let value = list.get(b"k", 1).expect("the pair").value();
        assert!(value == if mine { b"b" } else { b"a" });
        assert!(list.allocated() - before <= 2 * SkipList::node_bound(1, 1));
    });
}

#[test]
fn two_inserters() {
    loom::model(|| {
        let list = list(3);
        let other = {
            let list = Arc::clone(&list);
            thread::spawn(move || list.inserter().insert(&[3], 1, b"").unwrap())
        };
        let mut inserter = list.inserter();
        inserter.insert(&[2], 1, b"").unwrap();
        inserter.insert(&[4], 1, b"").unwrap();
        other.join().unwrap();
        assert_eq!(keys(&list), [2, 3, 4]);
        assert!(list.prevs_are_exact());
    });
}

#[test]
fn an_owned_entry_holds_the_old_value_or_the_new_one() {
    loom::model(|| {
        let list = std::sync::Arc::new(
            SkipList::new(Options { capacity: 64 * 5, ..Options::default() }).unwrap(),
        );
        list.insert(b"k", 1, b"old").unwrap();
        let reader = {
            let list = std::sync::Arc::clone(&list);
            thread::spawn(move || {
                let entry = list.get_owned(b"k", 1).expect("the pair");
                assert!(entry.value() == b"old" || entry.value() == b"new");
            })
        };
        assert_eq!(list.upsert(b"k", 1, b"new"), Ok(true));
        reader.join().unwrap();
    });
}
