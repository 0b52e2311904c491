//! The list against `BTreeMap`: sequences of operations, one thread.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::ops::Bound;
use std::sync::Arc;

use kvdb_skiplist::{InsertError, Inserter, Options, SkipList};
use proptest::prelude::*;

type Pair = (Vec<u8>, Reverse<u64>);
type Model = BTreeMap<Pair, Vec<u8>>;

#[derive(Debug, Clone)]
enum Op {
    Insert(Vec<u8>, u64, Vec<u8>),
    InsertNear(Vec<u8>, u64, Vec<u8>),
    Upsert(Vec<u8>, u64, Vec<u8>),
    Get(Vec<u8>, u64),
    Seek(Vec<u8>, u64),
    SeekForPrev(Vec<u8>, u64),
    Range(Bound<Vec<u8>>, Bound<Vec<u8>>),
    /// From a place on: `true` is a step forward.
    Walk(Vec<u8>, u64, Vec<bool>),
    /// A range, eaten from the front where `true`.
    Eat(Bound<Vec<u8>>, Bound<Vec<u8>>, Vec<bool>),
}

/// Few distinct keys, with shared prefixes on both sides of what a code can tell, zero bytes at
/// the end, and the empty key.
fn key() -> impl Strategy<Value = Vec<u8>> {
    let prefix = prop::sample::select(vec![0usize, 0, 0, 2, 3, 9, 251, 252, 254, 255, 256, 300]);
    let tail = prop::collection::vec(prop::sample::select(vec![0u8, 0, 1, 2, 0x7f, 0xff]), 0..5);
    (prefix, prop::sample::select(vec![0u8, 5, 0xff]), tail)
        .prop_map(|(len, byte, tail)| [vec![byte; len], tail].concat())
}

fn version() -> impl Strategy<Value = u64> {
    prop_oneof![0..4u64, Just(u64::MAX), Just(u64::MAX - 1)]
}

fn value() -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(any::<u8>(), 0..20)
}

fn bound() -> impl Strategy<Value = Bound<Vec<u8>>> {
    prop_oneof![
        Just(Bound::Unbounded),
        key().prop_map(Bound::Included),
        key().prop_map(Bound::Excluded)
    ]
}

fn turns() -> impl Strategy<Value = Vec<bool>> {
    prop::collection::vec(any::<bool>(), 1..12)
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        6 => (key(), version(), value()).prop_map(|(k, v, x)| Op::Insert(k, v, x)),
        6 => (key(), version(), value()).prop_map(|(k, v, x)| Op::InsertNear(k, v, x)),
        2 => (key(), version(), value()).prop_map(|(k, v, x)| Op::Upsert(k, v, x)),
        3 => (key(), version()).prop_map(|(k, v)| Op::Get(k, v)),
        3 => (key(), version()).prop_map(|(k, v)| Op::Seek(k, v)),
        3 => (key(), version()).prop_map(|(k, v)| Op::SeekForPrev(k, v)),
        1 => (bound(), bound()).prop_map(|(a, b)| Op::Range(a, b)),
        2 => (key(), version(), turns()).prop_map(|(k, v, t)| Op::Walk(k, v, t)),
        2 => (bound(), bound(), turns()).prop_map(|(a, b, t)| Op::Eat(a, b, t)),
    ]
}

fn list(seed: u64) -> Arc<SkipList> {
    let options = Options { capacity: 1 << 20, seed, ..Options::default() };
    Arc::new(SkipList::new(options).expect("a list"))
}

fn insert(
    model: &mut Model,
    result: Result<(), InsertError>,
    key: &[u8],
    version: u64,
    value: &[u8],
) {
    match model.entry((key.to_vec(), Reverse(version))) {
        Entry::Occupied(_) => assert_eq!(result, Err(InsertError::Exists)),
        Entry::Vacant(vacant) => {
            assert_eq!(result, Ok(()));
            vacant.insert(value.to_vec());
        }
    }
}

type Found<'a> = Option<(&'a [u8], u64, &'a [u8])>;

fn of_model<'a>(entry: Option<(&'a Pair, &'a Vec<u8>)>) -> Found<'a> {
    entry.map(|((key, Reverse(version)), value)| (&key[..], *version, &value[..]))
}

fn of_list(entry: Option<kvdb_skiplist::EntryRef<'_>>) -> Found<'_> {
    entry.map(|entry| (entry.key(), entry.version(), entry.value()))
}

fn inside(key: &[u8], from: &Bound<Vec<u8>>, to: &Bound<Vec<u8>>) -> bool {
    let after = match from {
        Bound::Unbounded => true,
        Bound::Included(from) => key >= &from[..],
        Bound::Excluded(from) => key > &from[..],
    };
    let before = match to {
        Bound::Unbounded => true,
        Bound::Included(to) => key <= &to[..],
        Bound::Excluded(to) => key < &to[..],
    };
    after && before
}

fn apply(list: &Arc<SkipList>, inserter: &mut Inserter<'_>, model: &mut Model, op: &Op) {
    match op {
        Op::Insert(key, version, value) => {
            insert(model, list.insert(key, *version, value), key, *version, value);
        }
        Op::InsertNear(key, version, value) => {
            insert(model, inserter.insert(key, *version, value), key, *version, value);
        }
        Op::Upsert(key, version, value) => {
            let replaced = model.insert((key.clone(), Reverse(*version)), value.clone());
            assert_eq!(list.upsert(key, *version, value), Ok(replaced.is_some()));
        }
        Op::Get(key, at_most) => {
            let expected = model.range((key.clone(), Reverse(*at_most))..).next();
            let expected = of_model(expected).filter(|(found, ..)| found == key);
            assert_eq!(of_list(list.get(key, *at_most)), expected);
            let owned = list.get_owned(key, *at_most);
            assert_eq!(owned.as_ref().map(|e| (e.key(), e.version(), e.value())), expected);
        }
        Op::Seek(key, version) => {
            let mut cursor = list.cursor();
            let expected = of_model(model.range((key.clone(), Reverse(*version))..).next());
            assert_eq!(cursor.seek(key, *version), expected.is_some());
            assert_eq!(of_list(cursor.entry()), expected);
        }
        Op::SeekForPrev(key, version) => {
            let mut cursor = list.cursor();
            let expected = of_model(model.range(..=(key.clone(), Reverse(*version))).next_back());
            assert_eq!(cursor.seek_for_prev(key, *version), expected.is_some());
            assert_eq!(of_list(cursor.entry()), expected);
        }
        Op::Range(from, to) => {
            let expected: Vec<_> = model
                .iter()
                .filter(|((key, _), _)| inside(key, from, to))
                .map(|entry| of_model(Some(entry)))
                .collect();
            let bounds = || (from.clone(), to.clone());
            let forward: Vec<_> = list.range(bounds()).map(|e| of_list(Some(e))).collect();
            assert_eq!(forward, expected);
            let mut backward: Vec<_> =
                list.range(bounds()).rev().map(|e| of_list(Some(e))).collect();
            backward.reverse();
            assert_eq!(backward, expected);
        }
        Op::Walk(key, version, turns) => {
            let pair = (key.clone(), Reverse(*version));
            let (mut cursor, mut owned) = (list.cursor(), list.owned_cursor());
            let mut at = model.range(&pair..).next();
            assert_eq!(cursor.seek(key, *version), at.is_some());
            assert_eq!(owned.seek(key, *version), at.is_some());
            for &forward in turns {
                at = at.and_then(|(pair, _)| match forward {
                    true => model.range((Bound::Excluded(pair), Bound::Unbounded)).next(),
                    false => model.range(..pair).next_back(),
                });
                let moved = match forward {
                    true => (cursor.next(), owned.next()),
                    false => (cursor.prev(), owned.prev()),
                };
                assert_eq!(moved, (at.is_some(), at.is_some()));
                assert_eq!(of_list(cursor.entry()), of_model(at));
                let entry = owned.entry();
                assert_eq!(entry.as_ref().map(|e| (e.key(), e.version(), e.value())), of_model(at));
            }
        }
        Op::Eat(from, to, turns) => {
            let within = |entry: &(&Pair, &Vec<u8>)| inside(&entry.0.0, from, to);
            let mut expected = model.iter().filter(within);
            let mut range = list.range((from.clone(), to.clone()));
            for &front in turns {
                let (ours, model) = match front {
                    true => (range.next(), expected.next()),
                    false => (range.next_back(), expected.next_back()),
                };
                assert_eq!(of_list(ours), of_model(model));
            }
        }
    }
}

fn check_whole(list: &SkipList, model: &Model) {
    assert_eq!(list.len(), model.len());
    assert_eq!(list.is_empty(), model.is_empty());
    let expected: Vec<_> = model.iter().map(|entry| of_model(Some(entry))).collect();
    let all: Vec<_> = list.iter().map(|entry| of_list(Some(entry))).collect();
    assert_eq!(all, expected);
    let mut cursor = list.cursor();
    let mut forward = Vec::new();
    let mut valid = cursor.first();
    while valid {
        forward.push(of_list(cursor.entry()));
        valid = cursor.next();
    }
    assert_eq!(forward, expected);
    let mut backward = Vec::new();
    let mut valid = cursor.last();
    while valid {
        backward.push(of_list(cursor.entry()));
        valid = cursor.prev();
    }
    backward.reverse();
    assert_eq!(backward, expected);
    // From both ends at once, meeting in the middle.
    let mut iter = list.iter();
    let mut met = Vec::new();
    let mut rest = Vec::new();
    while let Some(front) = iter.next() {
        met.push(of_list(Some(front)));
        rest.extend(iter.next_back().map(|back| of_list(Some(back))));
    }
    met.extend(rest.into_iter().rev());
    assert_eq!(met, expected);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(if cfg!(miri) { 4 } else { 512 }))]

    #[test]
    fn any_sequence_of_operations_matches_a_btreemap(
        seed in any::<u64>(),
        ops in prop::collection::vec(op(), 1..if cfg!(miri) { 40 } else { 300 }),
    ) {
        let list = list(seed);
        let mut model = Model::new();
        let mut inserter = list.inserter();
        for op in &ops {
            apply(&list, &mut inserter, &mut model, op);
        }
        check_whole(&list, &model);
    }

    #[test]
    fn a_reset_list_is_as_good_as_new(
        first in prop::collection::vec(op(), 1..60),
        second in prop::collection::vec(op(), 1..60),
    ) {
        let mut list = Arc::into_inner(list(1)).expect("the only one");
        for (seed, ops) in [(1, &first), (2, &second)] {
            list.reset(seed);
            prop_assert_eq!(list.allocated(), SkipList::OVERHEAD);
            let shared = Arc::new(list);
            let mut model = Model::new();
            let mut inserter = shared.inserter();
            for op in ops {
                apply(&shared, &mut inserter, &mut model, op);
            }
            check_whole(&shared, &model);
            list = Arc::into_inner(shared).expect("nobody reads it any more");
        }
    }
}
