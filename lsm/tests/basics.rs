//! The tree from outside: writing, flushing, compacting, reading, reopening.

#![allow(clippy::unwrap_used)]

mod common;

use common::*;
use kvdb_lsm::{Entry, Error, Floor, Job};

#[test]
fn what_is_flushed_is_there_after_reopening() {
    let store = Store::new();
    let tree = store.open(small());
    for v in 1..=1000u64 {
        let key = format!("key{:04}", v % 300);
        tree.write(v, &[(key.as_bytes(), Entry::value(&v.to_be_bytes()))]).unwrap();
    }
    tree.flush().unwrap();
    drop(tree);
    let tree = store.open(small());
    for k in 0..300u64 {
        let key = format!("key{k:04}");
        let newest = (1..=1000).rev().find(|v| v % 300 == k).unwrap();
        let got = tree.get(key.as_bytes(), u64::MAX, 0).unwrap().unwrap();
        assert_eq!(got, newest.to_be_bytes());
        assert_eq!(
            tree.get(key.as_bytes(), newest - 1, 0).unwrap().unwrap(),
            (newest - 300).to_be_bytes()
        );
    }
    tree.verify().unwrap();
}

#[test]
fn compaction_keeps_what_readers_see_and_drops_the_rest() {
    let store = Store::new();
    let tree = store.open(small());
    let mut version = 0;
    for round in 0..20u64 {
        for k in 0..500u64 {
            version += 1;
            let key = format!("{k:05}");
            tree.write(version, &[(key.as_bytes(), Entry::value(&[round as u8; 50]))]).unwrap();
        }
        tree.flush().unwrap();
        while tree.step(Job::Compact).unwrap() {}
    }
    tree.companion().raise_floor(Floor { discard: version, clock: 0 });
    tree.major_compact().unwrap();
    while tree.step(Job::Compact).unwrap() {}
    tree.verify().unwrap();

    let entries = count(&tree);
    assert_eq!(entries, 500);
    for k in 0..500u64 {
        let key = format!("{k:05}");
        assert_eq!(tree.get(key.as_bytes(), version, 0).unwrap().unwrap(), [19; 50]);
    }
}

#[test]
fn rule_25_reading_below_the_discard_watermark_is_an_error_also_after_reopening() {
    let store = Store::new();
    let mut tree = store.open(small());
    for version in 1..=6 {
        tree.write(version, &[(b"k", Entry::value(&[version as u8]))]).unwrap();
        tree.flush().unwrap();
    }
    assert_eq!(tree.get(b"k", 3, 0).unwrap().unwrap(), [3]);
    tree.companion().raise_floor(Floor { discard: 5, clock: 0 });
    tree.major_compact().unwrap();
    for _ in 0..2 {
        for version in 5..=6 {
            assert_eq!(tree.get(b"k", version, 0).unwrap().unwrap(), [version as u8]);
        }
        for key in [b"k", b"x"] {
            let refused = tree.get(key, 4, 0);
            let expected = Error::BelowWatermark { version: 4, watermark: 5 };
            assert_eq!(refused.unwrap_err().to_string(), expected.to_string());
        }
        drop(tree);
        tree = store.open(small());
    }
}
