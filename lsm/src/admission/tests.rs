//! That routing never fails, that nobody is flushed too early, and that waits end.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use super::*;
use crate::entry::Entry;
use crate::memtable::entry_bound;

fn options(background: Background) -> Options {
    Options { memtable_size: 64 << 10, max_memtables: 3, background, ..Options::default() }
}

fn admission(background: Background) -> Arc<Admission> {
    Admission::new(&options(background), 1).unwrap()
}

/// What a flusher does: takes off the oldest sealed memtable, if it is quiet.
fn flush(admission: &Admission) -> Option<Arc<Memtable>> {
    let mut state = admission.lock();
    let memtable = state.flushable()?;
    state.remove_sealed(std::slice::from_ref(&memtable));
    drop(state);
    admission.wake_all();
    Some(memtable)
}

/// Fills a reservation with entries that take all of it.
fn fill(r: &Reservation, version: u64) {
    let memtable = r.routed().unwrap();
    let mut left = r.bytes();
    let mut n = 0u32;
    while left >= entry_bound(4, 101) {
        memtable.insert(&n.to_be_bytes(), version, Entry::value(&[0; 100])).unwrap();
        left -= entry_bound(4, 101);
        n += 1;
    }
}

#[test]
fn any_order_of_reserving_and_routing_finds_room() {
    for seed in 0..200 {
        let mut rng = fastrand::Rng::with_seed(seed);
        let admission = admission(Background::Threads);
        let mut waiting: Vec<Reservation> = Vec::new();
        let mut applying: Vec<Reservation> = Vec::new();
        let mut position = 0;
        let mut published = 0;
        for step in 0..300 {
            match rng.u32(..10) {
                0..=4 => {
                    let bytes = match rng.u32(..12) {
                        0 => rng.usize(60_000..200_000),
                        1..=3 => rng.usize(10_000..60_000),
                        _ => rng.usize(200..4000),
                    };
                    // Would wait: what `try_reserve` answers decides, without blocking the test.
                    let mut state = admission.lock();
                    let tried = admission.try_reserve(&mut state, bytes, true).unwrap();
                    assert!(state.invariant_holds(), "seed {seed} step {step}");
                    if let Some(own) = tried {
                        waiting.push(state.reservation(bytes, own));
                    }
                }
                5..=7 if !waiting.is_empty() => {
                    let mut r = waiting.swap_remove(rng.usize(..waiting.len()));
                    admission.route(&mut r, position, position + 100, |_| published += 1);
                    position += 100;
                    fill(&r, step);
                    applying.push(r);
                }
                8 if !applying.is_empty() => {
                    drop(applying.swap_remove(rng.usize(..applying.len())));
                }
                9 if !waiting.is_empty() && rng.bool() => {
                    drop(waiting.swap_remove(rng.usize(..waiting.len())));
                }
                _ => {
                    flush(&admission);
                }
            }
            assert!(admission.lock().invariant_holds(), "seed {seed} step {step}");
        }
        assert!(published > 0);
        // Everything that was admitted can still be routed.
        for mut r in waiting {
            admission.route(&mut r, position, position + 100, |_| {});
            fill(&r, 1000);
        }
        drop(applying);
        while flush(&admission).is_some() {}
        assert!(admission.lock().sealed.is_empty());
    }
}

#[test]
fn a_memtable_is_flushed_only_when_its_frames_are_applied() {
    let admission = admission(Background::Manual);
    let mut first = admission.admit(1000, true).unwrap();
    let mut second = admission.admit(1000, true).unwrap();
    admission.route(&mut first, 10, 20, |_| {});
    admission.rotate(false, |_| {}).unwrap();
    admission.route(&mut second, 20, 30, |_| {});
    admission.rotate(false, |_| {}).unwrap();
    drop(second);
    assert!(flush(&admission).is_none(), "the older memtable goes first");
    drop(first);
    let flushed = flush(&admission).unwrap();
    assert_eq!(flushed.start(), Some(10));
    assert!(flush(&admission).is_some());
}

#[test]
fn replay_starts_right_behind_what_is_flushed() {
    let admission = admission(Background::Manual);
    for i in 0..3u64 {
        let mut r = admission.admit(1000, true).unwrap();
        admission.route(&mut r, i * 10, i * 10 + 8, |_| {});
        drop(r);
        if i < 2 {
            admission.rotate(false, |_| {}).unwrap();
        }
    }
    let state = admission.lock();
    let sealed = state.sealed.clone();
    assert_eq!(state.replay_head_without(&sealed[..1]), Some(8));
    assert_eq!(state.replay_head_without(&sealed), Some(18));
    drop(state);
    admission.rotate(false, |_| {}).unwrap();
    let state = admission.lock();
    let all = state.sealed.clone();
    assert_eq!(state.replay_head_without(&all), Some(28), "the end of the last frame");
}

#[test]
fn a_large_frame_gets_a_memtable_that_leaves_room_for_the_others() {
    let admission = admission(Background::Threads);
    let mut small: Vec<_> = (0..10).map(|_| admission.admit(6000, true).unwrap()).collect();
    let mut large = admission.admit(1 << 20, true).unwrap();
    admission.route(&mut large, 0, 1, |_| {});
    fill(&large, 1);
    for r in &mut small {
        admission.route(r, 1, 2, |_| {});
        fill(r, 2);
    }
}

#[test]
fn a_long_log_seals_the_memtable() {
    let o = Options { max_replay_bytes: 1000, ..options(Background::Manual) };
    let admission = Admission::new(&o, 1).unwrap();
    let mut rotations = 0;
    for i in 0..10u64 {
        let mut r = admission.admit(100, true).unwrap();
        admission.route(&mut r, i * 400, (i + 1) * 400, |_| rotations += 1);
    }
    assert_eq!(rotations, 3, "after 1200 logged bytes each");
}

#[test]
fn waiting_ends_when_room_comes_and_on_failure_and_on_close() {
    type End = fn(&Admission);
    let room: End = |a| drop(flush(a));
    let fail: End = |a| a.fail(Error::Panic("x".into()));
    let close: End = |a| a.close();
    for (end, succeeds) in [(room, true), (fail, false), (close, false)] {
        let admission = admission(Background::Threads);
        // Three memtables' worth: the active one and two sealed ones are full.
        for i in 0..3 {
            let mut r = admission.admit(40_000, true).unwrap();
            admission.route(&mut r, i, i + 1, |_| {});
        }
        let done = AtomicBool::new(false);
        std::thread::scope(|s| {
            let waiter = s.spawn(|| {
                let result = admission.admit(40_000, true);
                done.store(true, Ordering::SeqCst);
                result
            });
            while !admission.stalls.any_waiting() {
                std::thread::yield_now();
            }
            assert!(!done.load(Ordering::SeqCst));
            end(&admission);
            assert_eq!(waiter.join().unwrap().is_ok(), succeeds);
        });
        assert_eq!(admission.stalls.stops()[0].count, 1);
    }
}

/// A job that failed for want of space, and will be tried again.
fn without_space(job: &'static str) -> Error {
    let full = std::io::Error::from(std::io::ErrorKind::StorageFull);
    let source = kvdb_vfs::Error::new(kvdb_vfs::Op::Write, "000001.sst".as_ref(), None, full);
    Error::Background { job, source: Arc::new(source.into()) }
}

#[test]
fn a_writer_is_told_of_the_failure_of_what_it_waits_for_and_of_no_other() {
    let o = options(Background::Threads);
    for (failed, for_memtables, told) in [
        ("flush", true, true),
        ("compaction", true, false),
        ("compaction", false, true),
        ("flush", false, false),
    ] {
        let admission = admission(Background::Threads);
        for i in 0..3 {
            let mut r = admission.admit(40_000, true).unwrap();
            admission.route(&mut r, i, i + 1, |_| {});
        }
        if !for_memtables {
            while flush(&admission).is_some() {}
            let full = Pressure::new(&o, o.l0_stop_trigger, 0);
            admission.set_pressure(&mut admission.lock(), full);
        }
        let outcome = std::thread::scope(|s| {
            let waiter = s.spawn(|| admission.admit(40_000, true).map(drop));
            while !admission.stalls.any_waiting() {
                std::thread::yield_now();
            }
            admission.fail(without_space(failed));
            // Who is not told waits on, however long that may be.
            let time = Duration::from_millis(if told { 20_000 } else { 20 });
            let until = Instant::now() + time;
            while !waiter.is_finished() && Instant::now() < until {
                std::thread::yield_now();
            }
            admission.set_pressure(&mut admission.lock(), Pressure::default());
            drop(flush(&admission));
            waiter.join().unwrap()
        });
        assert_eq!(outcome.is_err(), told, "{failed}, {outcome:?}");
    }
}

#[test]
fn level_0_stops_writers_until_it_has_shrunk() {
    let admission = admission(Background::Threads);
    let o = options(Background::Threads);
    let full = Pressure::new(&o, o.l0_stop_trigger, 0);
    admission.set_pressure(&mut admission.lock(), full);
    std::thread::scope(|s| {
        let waiter = s.spawn(|| admission.admit(100, true).map(drop));
        while !admission.stalls.any_waiting() {
            std::thread::yield_now();
        }
        admission.set_pressure(&mut admission.lock(), Pressure::new(&o, 0, 0));
        waiter.join().unwrap().unwrap();
    });
    assert_eq!(admission.stalls.stops()[1].reason, StallReason::Level0);
    let stop = admission.stalls.stops()[1];
    assert!(stop.count == 1 && stop.nanos > 0 && !admission.stalls.any_waiting());
}

#[test]
fn writers_are_slowed_down_in_proportion_to_the_backlog_and_that_is_counted() {
    let (rate, bytes) = (1 << 20, 10_000);
    let o = Options { delayed_write_rate: rate, ..options(Background::Threads) };
    for l0_tables in [o.l0_slowdown_trigger, o.l0_stop_trigger - 1] {
        let admission = Admission::new(&o, 1).unwrap();
        let pressure = Pressure::new(&o, l0_tables, 0);
        admission.set_pressure(&mut admission.lock(), pressure);
        let before = Instant::now();
        drop(admission.admit(bytes, true).unwrap());
        let left = 1.0 - pressure.slows().unwrap();
        let cost = Duration::from_secs_f64(bytes as f64 / (rate as f64 * left));
        let next = admission.lock().pace;
        assert!(next + CREDIT >= before + cost && next <= Instant::now() + cost);
        assert_eq!(admission.stalls.slowdowns(), (0, 0), "the first one goes at once");
        drop(admission.admit(1, true).unwrap());
        let (count, nanos) = admission.stalls.slowdowns();
        assert!(count == 1 && nanos > 0, "{count}, {nanos}");
    }
}

#[test]
fn a_writer_who_is_slowed_down_goes_on_when_the_backlog_is_gone_and_on_failure_and_on_close() {
    type End = fn(&Admission);
    let eased: End = |a| a.set_pressure(&mut a.lock(), Pressure::default());
    let fail: End = |a| a.fail(Error::Panic("x".into()));
    let close: End = |a| a.close();
    let o = options(Background::Threads);
    for (why, end) in [("backlog", eased), ("failure", fail), ("close", close)] {
        let admission = admission(Background::Threads);
        let slow = Pressure::new(&o, o.l0_slowdown_trigger, 0);
        admission.set_pressure(&mut admission.lock(), slow);
        let holds = AtomicBool::new(false);
        std::thread::scope(|s| {
            let waiter = s.spawn(|| {
                let mut state = admission.lock();
                holds.store(true, Ordering::SeqCst);
                admission.hold_back(&mut state, Instant::now() + Duration::from_secs(3600))
            });
            while !holds.load(Ordering::SeqCst) {
                std::thread::yield_now();
            }
            // Takes the lock, which the writer holds until it waits.
            end(&admission);
            let until = Instant::now() + Duration::from_secs(20);
            while !waiter.is_finished() && Instant::now() < until {
                std::thread::yield_now();
            }
            let ended = waiter.is_finished();
            eased(&admission);
            close(&admission);
            assert!(waiter.join().unwrap(), "it has waited");
            assert!(ended, "{why}");
        });
    }
}

#[test]
fn many_threads_reserve_route_and_flush() {
    let admission = admission(Background::Threads);
    let position = Mutex::new(0u64);
    let written = AtomicU64::new(0);
    let flushed = AtomicU64::new(0);
    let done = AtomicBool::new(false);
    std::thread::scope(|s| {
        let flusher = s.spawn(|| {
            loop {
                let last = done.load(Ordering::SeqCst);
                while let Some(m) = flush(&admission) {
                    flushed.fetch_add(m.list().len() as u64, Ordering::SeqCst);
                }
                if last {
                    return;
                }
                let mut state = admission.lock();
                let soon = Instant::now() + Duration::from_millis(20);
                admission.wait_work(&mut state, Some(soon));
            }
        });
        let writers: Vec<_> = (0..4u64)
            .map(|t| {
                let (admission, position, written) = (&admission, &position, &written);
                s.spawn(move || {
                    let mut rng = fastrand::Rng::with_seed(t);
                    for i in 0..300u64 {
                        let n = rng.usize(1..60);
                        let bytes = n * entry_bound(8, 101);
                        let mut r = admission.admit(bytes, true).unwrap();
                        {
                            let mut at = position.lock();
                            admission.route(&mut r, *at, *at + 8, |_| {});
                            *at += 8;
                        }
                        for k in 0..n as u64 {
                            let key = (t << 48 | i << 16 | k).to_be_bytes();
                            let memtable = r.routed().unwrap();
                            memtable.insert(&key, 1, Entry::value(&[0; 100])).unwrap();
                        }
                        written.fetch_add(n as u64, Ordering::SeqCst);
                    }
                })
            })
            .collect();
        for w in writers {
            w.join().unwrap();
        }
        admission.rotate(false, |_| {}).unwrap();
        done.store(true, Ordering::SeqCst);
        admission.wake_all();
        flusher.join().unwrap();
    });
    assert_eq!(written.load(Ordering::SeqCst), flushed.load(Ordering::SeqCst));
}

/// Fills a memtable but for `left` bytes.
fn fill_but(admission: &Arc<Admission>, left: usize, frame: u64) {
    let bytes = admission.standard - left;
    let mut r = admission.admit(bytes, true).unwrap();
    admission.route(&mut r, frame * 8, frame * 8 + 8, |_| {});
}

#[test]
fn writers_of_the_last_memtable_are_slowed_down_the_more_the_fuller_it_is() {
    let admission = admission(Background::Threads);
    let rate = |a: &Admission| a.rate(&a.lock());
    let standard = admission.standard;
    fill_but(&admission, 100, 0);
    fill_but(&admission, 100, 1);
    assert_eq!(rate(&admission), None, "there may be one more");
    fill_but(&admission, standard / 2, 2);
    assert_eq!(admission.lock().count(), 3);
    assert_eq!(rate(&admission), None, "how fast flushes are is not known");
    admission.note_flushed(1 << 20, Duration::from_secs(1));
    let half = rate(&admission).unwrap();
    assert!((half / (1 << 20) as f64 - 1.0).abs() < 0.01, "half full, as fast as a flush: {half}");
    drop(admission.admit(standard / 4, true).unwrap());
    let (slowdowns, _) = admission.stalls.slowdowns();
    drop(admission.admit(1, true).unwrap());
    assert_eq!(admission.stalls.slowdowns().0, slowdowns + 1);
    let mut r = admission.admit(standard / 4, true).unwrap();
    admission.route(&mut r, 24, 32, |_| {});
    let quarter = rate(&admission).unwrap();
    assert!((quarter / half - 0.5).abs() < 0.01, "{quarter} of {half}");
    drop(r);
    drop(flush(&admission).unwrap());
    assert_eq!(rate(&admission), None, "there is room for another one");
}

#[test]
fn a_writer_with_two_reasons_to_be_slow_is_as_slow_as_the_one_that_says_less() {
    for (delayed_write_rate, flush_rate) in [(1 << 10, 1 << 30), (1 << 30, 1 << 10)] {
        let o = Options { delayed_write_rate, ..options(Background::Threads) };
        let admission = Admission::new(&o, 1).unwrap();
        let rate = || admission.rate(&admission.lock());
        fill_but(&admission, 100, 0);
        fill_but(&admission, 100, 1);
        fill_but(&admission, admission.standard / 2, 2);
        admission.note_flushed(flush_rate, Duration::from_secs(1));
        let flushing = rate().unwrap();
        let pressure = Pressure::new(&o, o.l0_slowdown_trigger, 0);
        admission.set_pressure(&mut admission.lock(), pressure);
        let backlog = delayed_write_rate as f64 * (1.0 - pressure.slows().unwrap());
        assert_eq!(rate(), Some(flushing.min(backlog)), "{flushing}, {backlog}");
    }
}

#[test]
fn the_rate_of_flushes_follows_the_last_ones() {
    let admission = admission(Background::Threads);
    let rate = |a: &Admission| a.flush_rate.load(Ordering::Relaxed);
    admission.note_flushed(1000, Duration::from_secs(1));
    assert_eq!(rate(&admission), 1000);
    admission.note_flushed(3000, Duration::from_secs(1));
    assert_eq!(rate(&admission), 2000);
    admission.note_flushed(0, Duration::ZERO);
    admission.note_flushed(1, Duration::from_secs(1 << 20));
    assert!((1..=1000).contains(&rate(&admission)), "never unknown again");
}

#[test]
fn slowed_writers_keep_the_pace_on_average_and_never_sleep_for_less_than_a_sleep_takes() {
    let start = Instant::now();
    let cost = Duration::from_micros(5);
    let (mut now, mut next) = (start, start);
    let mut sleeps = 0;
    let writes = 10_000;
    for _ in 0..writes {
        let (due, behind) = pace(next, now, cost);
        next = behind;
        if let Some(due) = due {
            assert!(due >= now + SHORTEST_DELAY);
            sleeps += 1;
            // Every sleep takes a little longer.
            now = due + Duration::from_micros(60);
        }
        now += Duration::from_micros(1);
    }
    let took = now - start;
    let allowed = cost * writes;
    assert!(took + CREDIT >= allowed, "{took:?} for {allowed:?}: too fast");
    assert!(took <= allowed + CREDIT, "{took:?} for {allowed:?}: slept-over time is lost");
    assert!(sleeps < writes / 10, "{sleeps} sleeps");
}

#[test]
fn a_writer_that_comes_late_is_given_back_little_and_a_huge_frame_holds_nobody_up_for_ever() {
    let start = Instant::now();
    let later = start + Duration::from_secs(10);
    let (due, next) = pace(start, later, Duration::from_micros(5));
    assert_eq!(due, None);
    assert_eq!(next, later - CREDIT + Duration::from_micros(5));
    let (_, next) = pace(start, start, Duration::from_secs(1000));
    assert_eq!(pace(next, start, Duration::ZERO).0, Some(start + LONGEST_DELAY));
}

#[test]
fn a_spare_is_prepared_when_a_memtable_was_filled_and_not_otherwise() {
    let admission = admission(Background::Threads);
    admission.prepare_spare();
    assert!(admission.lock().spare.is_none());
    let mut r = admission.admit(100, true).unwrap();
    admission.route(&mut r, 0, 8, |_| {});
    drop(r);
    admission.rotate(false, |_| {}).unwrap();
    admission.prepare_spare();
    assert!(admission.lock().spare.is_none(), "it was not full");
    let bytes = admission.standard - 1000;
    for i in 0..2 {
        let mut r = admission.admit(bytes, true).unwrap();
        admission.route(&mut r, i * 8, i * 8 + 8, |_| {});
        drop(flush(&admission));
    }
    assert!(admission.lock().spare.is_none());
    admission.prepare_spare();
    assert!(admission.lock().spare.is_some());
    assert!(admission.lock().invariant_holds());
}

#[test]
fn what_was_reserved_is_given_back_once_however_it_ends() {
    let admission = admission(Background::Manual);
    let counts = || {
        let state = admission.lock();
        (state.reserved, state.carried)
    };
    let (small, large) = (1000, 1 << 20);
    drop(admission.admit(small, true).unwrap());
    assert_eq!(counts(), (0, 0));
    drop(admission.admit(large, true).unwrap());
    assert_eq!(counts(), (0, 0));
    for (at, bytes) in [(0, small), (8, large)] {
        let mut r = admission.admit(bytes, true).unwrap();
        assert_ne!(counts(), (0, 0));
        admission.route(&mut r, at, at + 8, |_| {});
        assert_eq!(counts(), (0, 0));
        drop(r);
        assert_eq!(counts(), (0, 0));
    }
}

#[test]
fn giving_back_wakes_who_waits_for_room_and_who_waits_for_quiet() {
    let admission = admission(Background::Threads);
    let held = admission.admit(20_000, true).unwrap();
    let until = Instant::now() + Duration::from_secs(5);
    std::thread::scope(|s| {
        let waiter = s.spawn(|| admission.admit(50_000, true).map(drop));
        while !admission.stalls.any_waiting() {
            std::thread::yield_now();
        }
        drop(held);
        while !waiter.is_finished() && Instant::now() < until {
            std::thread::yield_now();
        }
        let woken = waiter.is_finished();
        admission.close();
        assert!(woken, "nobody told the one who waits for room");
        drop(waiter.join());
    });
}

#[test]
fn the_last_frame_of_a_sealed_memtable_wakes_the_flusher() {
    let admission = admission(Background::Manual);
    let mut r = admission.admit(1000, true).unwrap();
    admission.route(&mut r, 0, 8, |_| {});
    admission.rotate(false, |_| {}).unwrap();
    let waits = AtomicBool::new(false);
    std::thread::scope(|s| {
        let flusher = s.spawn(|| {
            let mut state = admission.lock();
            waits.store(true, Ordering::SeqCst);
            let late = Instant::now() + Duration::from_secs(10);
            admission.wait_work(&mut state, Some(late));
            Instant::now() < late && state.flushable().is_some()
        });
        while !waits.load(Ordering::SeqCst) {
            std::thread::yield_now();
        }
        drop(r);
        assert!(flusher.join().unwrap(), "nobody told the flusher");
    });
}

#[test]
fn what_was_admitted_before_the_tree_is_closed_finds_its_room_afterwards() {
    for gives_back in [false, true] {
        let admission = admission(Background::Threads);
        let mut before = admission.admit(30_000, true).unwrap();
        admission.route(&mut before, 0, 1, |_| {});
        // These count on a spare.
        let mut waiting: Vec<_> =
            [40_000, 15_000].map(|bytes| admission.admit(bytes, true).unwrap()).into();
        assert!(admission.lock().spare.is_some());
        if gives_back {
            waiting.clear();
        }
        admission.close();
        assert!(matches!(admission.admit(1, true), Err(Error::Closed)));
        assert_eq!(admission.lock().spare.is_none(), gives_back);
        for r in &mut waiting {
            admission.route(r, 1, 2, |_| {});
            fill(r, 2);
        }
    }
}
