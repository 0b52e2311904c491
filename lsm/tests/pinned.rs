//! What a pin holds up, apart from the other tests: the epoch is that of the process.

#![allow(clippy::unwrap_used)]

mod common;

use std::time::Duration;

use common::*;
use kvdb_lsm::*;

#[test]
fn waiting_until_idle_ends_although_a_reader_holds_a_pin_and_waits_for_all_else() {
    let store = Store::new();
    let tree = store.open(Options { background: Background::Threads, ..small() });
    for version in 1..=2 {
        for k in 0..100u64 {
            tree.write(version, &[(&k.to_be_bytes(), Entry::value(b"v"))]).unwrap();
        }
        tree.flush().unwrap();
    }
    // Of whatever tree: the epoch is that of the process.
    let other = Store::new().open(small());
    let pinned = other.pin();
    tree.companion().raise_floor(Floor { discard: 2, clock: 0 });
    let (done, ended) = std::sync::mpsc::channel();
    let waiter = tree.clone();
    std::thread::spawn(move || {
        waiter.wait_idle().unwrap();
        let _ = done.send(count(&waiter));
    });
    assert_eq!(ended.recv_timeout(Duration::from_secs(30)), Ok(100));
    drop(pinned);
}
