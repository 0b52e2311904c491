//! Two threads append 1,000 change sets each while a third rewrites and a fourth reads.

#![allow(clippy::unwrap_used)] // helpers of tests

mod common;

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use common::*;
use kvdb_manifest::Options;
use kvdb_vfs::{Keep, MemFs};

#[test]
fn two_appenders_a_rewriter_and_readers_lose_nothing_at_any_crash() {
    const EACH: u64 = 1000;
    let fs = file_system();
    drop(create(&fs));
    // Automatic rewrites, too.
    let options = Options { rewrite_bytes: 16 << 10, ..Options::default() };
    let (manifest, _) = open_with(&fs, options).unwrap();
    let done = AtomicBool::new(false);
    let acknowledged = [AtomicU64::new(0), AtomicU64::new(0)];
    let images: Mutex<Vec<(MemFs, [u64; 2])>> = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        let appenders: Vec<_> = (0..2u64)
            .map(|thread| {
                let (manifest, acknowledged) = (&manifest, &acknowledged[thread as usize]);
                scope.spawn(move || {
                    for n in 0..EACH {
                        let number = thread * 1_000_000 + n;
                        manifest.append(&heavy(number, n as usize % 60)).unwrap();
                        // Seen by its writer at once.
                        assert!(manifest.read(|s| s.0.contains(&number)));
                        acknowledged.store(n + 1, Ordering::SeqCst);
                    }
                })
            })
            .collect();
        scope.spawn(|| {
            while !done.load(Ordering::SeqCst) {
                manifest.rewrite().unwrap();
                std::thread::yield_now();
            }
        });
        scope.spawn(|| {
            let mut seed = 0;
            while !done.load(Ordering::SeqCst) {
                seed += 1;
                manifest.read(check_prefixes);
                manifest.verify().unwrap();
                let before = [0, 1].map(|t| acknowledged[t].load(Ordering::SeqCst));
                let image = fs.crash_image(&mut Keep::Random(seed));
                let mut images = images.lock().unwrap();
                if images.len() < 200 {
                    images.push((image, before));
                }
            }
        });
        for appender in appenders {
            appender.join().unwrap();
        }
        done.store(true, Ordering::SeqCst);
    });
    assert_eq!(manifest.read(|s| s.0.len()) as u64, 2 * EACH);
    manifest.verify().unwrap();
    let expected = numbers(&manifest);
    assert_eq!(numbers(&open(&fs).unwrap().0), expected);
    for (image, acknowledged) in images.into_inner().unwrap() {
        let (survivor, _) = open(&image).unwrap();
        let found = survivor.read(check_prefixes);
        assert!(found[0] >= acknowledged[0] && found[1] >= acknowledged[1]);
    }
}

/// The changes of each thread are there in its order, without a gap.
fn check_prefixes(state: &Numbers) -> [u64; 2] {
    [0, 1u64].map(|thread| {
        let base = thread * 1_000_000;
        let mine: Vec<u64> = state.0.range(base..base + 1_000_000).copied().collect();
        assert!(mine.iter().copied().eq(base..base + mine.len() as u64));
        mine.len() as u64
    })
}
