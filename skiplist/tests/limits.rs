//! Bad input, the arena's end, and how long things live.

use std::sync::Arc;

use kvdb_skiplist::{InsertError, MAX_CAPACITY, MAX_KEY_LEN, Options, OptionsError, SkipList};

fn try_list(capacity: usize) -> Result<SkipList, OptionsError> {
    SkipList::new(Options { capacity, huge_pages: false, ..Options::default() })
}

fn list(capacity: usize) -> SkipList {
    try_list(capacity).expect("a list")
}

#[test]
fn a_capacity_without_room_for_one_entry_is_refused_with_the_least() {
    let least = SkipList::OVERHEAD + SkipList::node_bound(0, 0);
    for capacity in [0, 1, 8, SkipList::OVERHEAD, least - 1] {
        match try_list(capacity) {
            Err(error @ OptionsError::CapacityTooSmall { .. }) => {
                assert!(error.to_string().contains(&least.to_string()), "{error}");
            }
            other => panic!("{other:?}"),
        }
    }
    list(least).insert(b"", 0, b"").expect("the least capacity holds one entry");
}

#[test]
fn a_capacity_beyond_the_offsets_is_refused_with_the_greatest() {
    for capacity in [MAX_CAPACITY + 1, usize::MAX] {
        match try_list(capacity) {
            Err(error @ OptionsError::CapacityTooLarge { .. }) => {
                assert!(error.to_string().contains(&MAX_CAPACITY.to_string()), "{error}");
            }
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn keys_have_a_greatest_length() {
    let list = list(1 << 20);
    let key = vec![b'k'; MAX_KEY_LEN + 1];
    list.insert(&key[..MAX_KEY_LEN], 1, b"v").expect("the longest key");
    let error = InsertError::KeyTooLong { len: MAX_KEY_LEN + 1, limit: MAX_KEY_LEN };
    assert_eq!(list.insert(&key, 1, b"v"), Err(error));
    assert_eq!(list.upsert(&key, 1, b"v"), Err(error));
    assert_eq!(list.inserter().insert(&key, 1, b"v"), Err(error));
    assert!(error.to_string().contains("65535"));
    assert_eq!(list.len(), 1);
    assert_eq!(list.get(&key[..MAX_KEY_LEN], 1).map(|entry| entry.value()), Some(&b"v"[..]));
    assert!(list.get(&key, 1).is_none());
}

#[test]
fn a_value_that_never_fits_is_told_the_limit() {
    let list = list(1 << 16);
    let Err(InsertError::ValueTooLong { len, limit }) = list.insert(b"key", 1, &[0; 1 << 16])
    else {
        panic!("a value as long as the arena");
    };
    assert_eq!(len, 1 << 16);
    assert_eq!(
        list.insert_with(b"key", 1, limit + 1, |_| panic!("not called")),
        Err(InsertError::ValueTooLong { len: limit + 1, limit })
    );
    // Of length `usize::MAX`, without anything wrapping around.
    assert!(matches!(
        list.insert_with(b"key", 1, usize::MAX, |_| panic!("not called")),
        Err(InsertError::ValueTooLong { .. })
    ));
    list.insert(b"key", 1, &vec![7; limit]).expect("the longest value");
    assert_eq!(list.remaining(), 0);
}

#[test]
fn a_key_that_never_fits_is_told_the_limit() {
    let list = list(128);
    let limit = 128 - SkipList::OVERHEAD - 30;
    let refused = list.insert(&[7; 1000], 1, b"");
    assert_eq!(refused, Err(InsertError::KeyTooLong { len: 1000, limit }));
    assert_eq!(
        list.insert(&vec![7; limit], 1, b"v"),
        Err(InsertError::ValueTooLong { len: 1, limit: 0 })
    );
    list.insert(&vec![7; limit], 1, b"").expect("the longest key");
}

/// Address space of 4 GiB, of which a few pages are touched.
#[test]
#[cfg(all(target_os = "linux", target_pointer_width = "64", not(any(miri, kvdb_heap_arena))))]
fn the_largest_arena_works_to_its_last_byte() {
    let filled_but_for = |bytes: usize| {
        let list = list(MAX_CAPACITY);
        list.insert(b"first", 1, b"x").expect("room");
        let value_len = list.remaining() - bytes - SkipList::node_bound(1, 1) + 1;
        list.insert_with(b"m", 1, value_len, |_| ()).expect("room for all but that");
        assert_eq!(list.remaining(), bytes);
        list
    };
    // An empty value that lies behind the last byte.
    let list = filled_but_for(0);
    assert_eq!(list.upsert(b"first", 1, b""), Ok(true));
    assert_eq!(list.get(b"first", 1).map(|entry| entry.value()), Some(&b""[..]));
    let list = filled_but_for(32);
    list.insert(b"kk", 1, b"").expect("the last node");
    assert_eq!(list.get(b"kk", 1).map(|entry| entry.value()), Some(&b""[..]));
    let list = filled_but_for(64 * 1000);
    let key = |i: u32| format!("{i:06}").into_bytes();
    for i in 0..1000 {
        list.insert(&key(i * 7919 % 1000), 1, &[1; 28]).expect("room");
    }
    assert_eq!(list.remaining(), 0);
    assert!((0..1000).all(|i| list.get(&key(i), 1).is_some_and(|e| e.value() == [1; 28])));
    assert_eq!((list.iter().count(), list.iter().rev().count()), (1002, 1002));
}

#[test]
fn values_above_64_kib_work() {
    let list = list(16 << 20);
    for len in [65_535, 65_536, 65_537, 1 << 20, 5 << 20] {
        list.insert(&len.to_string().into_bytes(), 1, &vec![len as u8; len]).expect("room");
    }
    for entry in &list {
        let len: usize = std::str::from_utf8(entry.key()).unwrap().parse().unwrap();
        assert_eq!(entry.value().len(), len);
        assert!(entry.value().iter().all(|&byte| byte == len as u8));
    }
}

/// Fills arenas of every size with entries of one size and of many, so that the end comes at
/// every possible distance from an entry's beginning.
#[test]
fn the_arena_ends_cleanly_at_every_allocation() {
    let least = SkipList::OVERHEAD + SkipList::node_bound(0, 0);
    let sizes = if cfg!(miri) { 24 } else { 600 };
    for capacity in (least..least + sizes * 8).step_by(8) {
        for value_len in [0, 1, 9, 100] {
            let list = list(capacity);
            let mut inserted = 0u64;
            let refused = loop {
                let before = list.allocated();
                match list.insert(&inserted.to_be_bytes(), 1, &vec![1; value_len]) {
                    Ok(()) => inserted += 1,
                    Err(error) => {
                        assert_eq!(list.allocated(), before, "a failure took bytes");
                        break error;
                    }
                }
                let taken = list.allocated() - before;
                assert!(taken <= SkipList::node_bound(8, value_len));
            };
            match refused {
                InsertError::Full { needed, remaining } => {
                    assert!(needed > remaining && remaining == list.remaining());
                    assert!(needed <= SkipList::node_bound(8, value_len));
                }
                InsertError::KeyTooLong { .. } | InsertError::ValueTooLong { .. } => {
                    assert_eq!(inserted, 0);
                }
                other => panic!("{other}"),
            }
            assert_eq!(list.len() as u64, inserted);
            assert!(list.get(&inserted.to_be_bytes(), 1).is_none());
            let keys = list.iter().map(|entry| entry.key().to_vec());
            assert!(keys.eq((0..inserted).map(|i| i.to_be_bytes().to_vec())));
            assert_eq!(list.iter().rev().count() as u64, inserted);
            // What is left is not lost: something smaller may still fit, and upserts obey too.
            let room = list.remaining();
            if inserted > 0 {
                let key = 0u64.to_be_bytes();
                assert!(list.upsert(&key, 1, &vec![2; room + 1]).is_err());
                assert_eq!(list.upsert(&key, 1, &vec![2; room]), Ok(true));
                assert_eq!(list.remaining(), 0);
                assert_eq!(list.get(&key, 1).map(|entry| entry.value().len()), Some(room));
            }
        }
    }
}

#[test]
fn inserts_within_a_budget_of_bounds_never_fail() {
    for seed in 0..if cfg!(miri) { 2 } else { 40 } {
        let sizes: Vec<_> = (0..50usize).map(|i| (i * 7 % 40, i * 31 % 200)).collect();
        let budget: usize = sizes.iter().map(|&(k, v)| SkipList::node_bound(k, v)).sum();
        let capacity = SkipList::OVERHEAD + budget;
        let list = SkipList::new(Options { capacity, seed, ..Options::default() }).unwrap();
        assert_eq!(list.remaining(), budget);
        for (version, &(key_len, value_len)) in sizes.iter().enumerate() {
            let (key, value) = (vec![b'k'; key_len], vec![b'v'; value_len]);
            list.insert(&key, version as u64, &value).expect("within the budget");
        }
    }
    assert_eq!(SkipList::node_bound(usize::MAX, 1), usize::MAX);
    assert_eq!(SkipList::value_bound(usize::MAX), usize::MAX);
}

#[test]
fn an_existing_pair_costs_nothing_and_stays() {
    let list = list(1 << 14);
    list.insert(b"k", 1, b"first").unwrap();
    let before = list.allocated();
    let refused = list.insert_with(b"k", 1, 6, |_| panic!("not called"));
    assert_eq!(refused, Err(InsertError::Exists));
    assert_eq!(list.inserter().insert(b"k", 1, b"second"), Err(InsertError::Exists));
    assert_eq!((list.allocated(), list.len()), (before, 1));
    assert_eq!(list.get(b"k", 9).unwrap().value(), b"first");
}

#[test]
fn a_panic_while_a_value_is_written_leaves_the_list_as_it_was() {
    let list = list(1 << 14);
    list.insert(b"a", 1, b"").unwrap();
    let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        list.insert_with(b"b", 1, 4, |_| panic!("in the middle"))
    }));
    assert!(panicked.is_err());
    assert!(list.get(b"b", 1).is_none());
    assert_eq!((list.iter().count(), list.len()), (1, 1));
    list.insert(b"b", 1, b"again").unwrap();
    assert_eq!(list.get(b"b", 1).unwrap().value(), b"again");
}

#[test]
fn owned_handles_keep_the_list_alive() {
    let list = Arc::new(list(1 << 14));
    list.insert(b"a", 1, b"one").unwrap();
    list.insert(b"b", 2, b"two").unwrap();
    let entry = list.get_owned(b"b", 5).unwrap();
    let mut cursor = list.owned_cursor();
    assert!(cursor.first());
    list.upsert(b"b", 2, b"three").unwrap();
    let weak = Arc::downgrade(&list);
    drop(list);
    assert_eq!((entry.key(), entry.version(), entry.value()), (&b"b"[..], 2, &b"two"[..]));
    assert_eq!((cursor.key(), cursor.version(), cursor.value()), (&b"a"[..], 1, &b"one"[..]));
    assert!(cursor.next() && cursor.value() == b"three");
    let last = cursor.entry().unwrap();
    drop((cursor, entry));
    assert_eq!(last.value(), b"three");
    drop(last);
    assert!(weak.upgrade().is_none());
}

#[test]
fn owned_handles_may_go_to_another_thread() {
    fn is_send_and_sync<T: Send + Sync>(value: T) -> T {
        value
    }
    let list = Arc::new(is_send_and_sync(list(1 << 14)));
    list.insert(b"a", 1, b"one").unwrap();
    let entry = is_send_and_sync(list.get_owned(b"a", 9).unwrap());
    let mut cursor = is_send_and_sync(list.owned_cursor());
    drop(list);
    let there = std::thread::spawn(move || {
        assert!(cursor.first() && cursor.value() == entry.value());
        cursor.entry().unwrap()
    });
    assert_eq!(there.join().unwrap().value(), b"one");
}

#[test]
fn an_iterator_knows_its_last_and_promises_no_more_than_it_has() {
    let list = list(1 << 14);
    assert!(list.iter().last().is_none());
    for key in ["a", "b", "c"] {
        list.insert(key.as_bytes(), 1, b"").unwrap();
        let mut iter = list.iter();
        assert_eq!(iter.clone().last().unwrap().key(), key.as_bytes());
        while let (least, most) = iter.size_hint()
            && least > 0
        {
            assert!(least <= iter.clone().count() && most.is_none());
            iter.next().unwrap();
        }
        assert!(iter.next().is_none());
    }
}

#[test]
fn borrowed_entries_outlive_the_cursor() {
    let list = list(1 << 14);
    list.insert(b"a", 1, b"one").unwrap();
    let (key, entry) = {
        let mut cursor = list.cursor();
        cursor.first();
        (cursor.key(), cursor.entry().unwrap())
    };
    assert_eq!((key, entry.value()), (&b"a"[..], &b"one"[..]));
}

#[test]
fn one_seed_gives_one_shape() {
    // Enough for a few records with towers: keys that fall leave records half full.
    const N: u32 = if cfg!(miri) { 300 } else { 300_000 };
    let taken = |seed: u64| {
        let capacity = 16 << 20;
        let list = SkipList::new(Options { capacity, seed, ..Options::default() }).unwrap();
        let mut inserter = list.inserter();
        for i in (0..N).rev() {
            inserter.insert(&i.to_be_bytes(), 1, b"").unwrap();
        }
        (list.allocated(), list.index_bytes())
    };
    let first = taken(1);
    assert_eq!(first, taken(1));
    assert!(cfg!(miri) || (2..8).any(|seed| first.1 != taken(seed).1));
    // A reset list is as a new one of that seed, and has the room of one, for nodes and for hints.
    let mut list = list(16 << 20);
    let empty = (list.allocated(), list.index_bytes());
    for seed in (1..8).rev() {
        list.reset(seed);
        assert_eq!((list.allocated(), list.index_bytes()), empty);
        let mut inserter = list.inserter();
        (0..N).rev().for_each(|i| inserter.insert(&i.to_be_bytes(), 1, b"").unwrap());
        assert_eq!((list.allocated(), list.index_bytes()), taken(seed), "seed {seed}");
    }
}

#[test]
fn no_order_of_inserts_swells_the_index() {
    const N: u32 = if cfg!(miri) { 300 } else { 20_000 };
    type Order = (&'static str, fn(u32) -> u32);
    let orders: [Order; 4] = [
        ("rising", |i| i),
        ("falling", |i| N - i),
        ("rising, then falling in front of what is there", |i| if i < 32 { i } else { 2 * N - i }),
        ("from both ends", |i| if i % 2 == 0 { i } else { 2 * N - i }),
    ];
    for (name, key) in orders {
        let list = list(4 << 20);
        for i in 0..N {
            list.insert(&key(i).to_be_bytes(), 1, b"").unwrap();
        }
        let per_entry = (list.index_bytes() as f64 - 2048.0) / f64::from(N);
        // What arrives in order leaves full records behind, the rest may leave half-full ones.
        let most = if name == "rising" { 10.0 } else { 20.0 };
        assert!(per_entry < most, "{name}: {per_entry}");
    }
}

#[test]
fn a_list_full_of_the_smallest_entries_works() {
    let capacity = if cfg!(miri) { 1 << 13 } else { 1 << 20 };
    let list = list(capacity);
    let mut n = 0u64;
    let key = |i: u64| i.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes();
    while list.insert(&key(n)[..6], 1, b"").is_ok() {
        n += 1;
    }
    assert!((0..n).all(|i| list.get(&key(i)[..6], 1).is_some()));
    assert!(list.iter().map(|entry| entry.key()).is_sorted());
    assert_eq!(list.iter().rev().count() as u64, n);
}

#[test]
fn prefault_and_huge_pages_are_wishes() {
    for (huge_pages, prefault) in [(false, false), (false, true), (true, false), (true, true)] {
        let options = Options { capacity: (4 << 20) + 8, seed: 1, huge_pages, prefault };
        let list = SkipList::new(options).unwrap();
        assert_eq!(list.capacity(), (4 << 20) + 8);
        list.prefault();
        list.insert(b"k", 1, &vec![1; 4 << 19]).unwrap();
        assert_eq!(list.len(), 1);
    }
}
