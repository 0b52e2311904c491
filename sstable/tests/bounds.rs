//! `Bounded` against the model: a walk within bounds is a walk over what lies within them.
#![allow(clippy::unwrap_used)]

mod common;

use std::ops::{Bound, RangeBounds};

use common::{Entry, Model, build, compare_walks, random_entries, scale};
use kvdb_sstable::{
    Bounded, BuilderOptions, Cursor, ReaderOptions, Table, seek_before, seek_behind,
};

/// A bound at a key of the entries, next to one, or none.
fn random_bound(rng: &mut fastrand::Rng, entries: &[Entry]) -> Bound<Vec<u8>> {
    let mut key = match entries.len() {
        0 => b"some".to_vec(),
        n => entries[rng.usize(0..n)].0.clone(),
    };
    match rng.u32(0..4) {
        0 => key.push(0),
        1 => drop(key.pop()),
        _ => {}
    }
    match rng.u32(0..5) {
        0 => Bound::Unbounded,
        1 | 2 => Bound::Included(key),
        _ => Bound::Excluded(key),
    }
}

#[test]
fn a_cursor_within_bounds_walks_as_if_there_were_no_other_entries() {
    let mut rng = fastrand::Rng::with_seed(31);
    for round in 0..400 * scale() {
        let n = rng.usize(0..60);
        let entries = random_entries(&mut rng, n, round as u32 % 6, 10);
        let mut options = BuilderOptions::default();
        options.block_size = 256;
        let table = Table::open(build(&entries, options), ReaderOptions::default()).unwrap();
        let bounds = (random_bound(&mut rng, &entries), random_bound(&mut rng, &entries));
        let within: Vec<Entry> =
            entries.iter().filter(|entry| bounds.contains(&entry.0)).cloned().collect();
        let mut bounded = Bounded::new(table.cursor(), bounds.0, bounds.1);
        let mut model = Model::new(within);
        compare_walks(&mut rng, &mut bounded, &mut model, 200);
        // From outside of the bounds, too.
        for (key, version, _) in &entries {
            for forward in [true, false] {
                let (a, b) = if forward {
                    (bounded.seek(key, *version), model.seek(key, *version))
                } else {
                    (bounded.seek_for_prev(key, *version), model.seek_for_prev(key, *version))
                };
                assert_eq!(a.unwrap(), b.unwrap());
                for step in 0..3 {
                    assert_eq!(bounded.valid(), model.valid());
                    if model.valid() {
                        assert_eq!(
                            (bounded.key(), bounded.version(), bounded.value()),
                            (model.key(), model.version(), model.value())
                        );
                    }
                    let (a, b) = if (step == 0) == forward {
                        (bounded.next(), model.next())
                    } else {
                        (bounded.prev(), model.prev())
                    };
                    assert_eq!(a.unwrap(), b.unwrap());
                }
            }
        }
    }
}

#[test]
fn the_keys_next_to_a_key_are_found_past_all_of_its_versions() {
    let mut rng = fastrand::Rng::with_seed(32);
    for shape in 0..6 {
        let entries = random_entries(&mut rng, 80, shape, 5);
        let mut cursor = Model::new(entries.clone());
        for (key, ..) in &entries {
            let behind = entries.iter().find(|entry| entry.0 > *key);
            assert_eq!(seek_behind(&mut cursor, key).unwrap(), behind.is_some());
            if let Some((key, version, _)) = behind {
                assert_eq!((cursor.key(), cursor.version()), (key.as_slice(), *version));
            }
            let before = entries.iter().rev().find(|entry| entry.0 < *key);
            assert_eq!(seek_before(&mut cursor, key).unwrap(), before.is_some());
            if let Some((key, version, _)) = before {
                assert_eq!((cursor.key(), cursor.version()), (key.as_slice(), *version));
            }
        }
    }
}

#[test]
fn damage_within_bounds_is_an_error_and_no_end() {
    let entries = random_entries(&mut fastrand::Rng::with_seed(33), 200, 3, 20);
    let mut options = BuilderOptions::default();
    options.block_size = 256;
    let mut bytes = build(&entries, options);
    let intact = Table::open(bytes.clone(), ReaderOptions::default()).unwrap();
    let blocks: Vec<_> = intact.blocks().unwrap().map(Result::unwrap).collect();
    bytes[blocks[blocks.len() / 2].range.start as usize + 40] ^= 1;
    let table = Table::open(bytes, ReaderOptions::default()).unwrap();
    let within = |entry: usize| Bound::Included(entries[entry].0.clone());
    let mut cursor = Bounded::new(table.cursor(), within(5), within(190));
    for forward in [true, false] {
        let mut moved = if forward { cursor.first() } else { cursor.last() };
        while let Ok(true) = moved {
            moved = if forward { cursor.next() } else { cursor.prev() };
        }
        assert!(moved.unwrap_err().is_corruption());
        assert!(!cursor.valid() && cursor.next().is_err() && cursor.prev().is_err());
    }
    assert!(cursor.first().unwrap() && cursor.key() == entries[5].0);
    // What lies outside of the bounds may be damaged.
    let mut cursor = Bounded::new(table.cursor(), within(5), within(20));
    assert!(cursor.last().unwrap());
    assert!(!cursor.next().unwrap() && cursor.prev().unwrap());
}
