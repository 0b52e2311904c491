//! Asynchronous commits: SEMANTICS rules 17 and 4, and what the handles and callbacks promise.
#![allow(clippy::unwrap_used)] // a test may panic

mod common;

use std::future::Future;
use std::pin::pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use common::{PATH, memory, open, scale, tiny};
use kvdb::vfs::{Fault, FaultFs, FaultPlan, Keep, MemFs, Op};
use kvdb::{Db, Durability, Error, ErrorKind, PendingCommit, Result};

fn put(db: &Db, key: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> Result<PendingCommit> {
    let mut batch = db.batch();
    batch.put(key, value)?;
    batch.commit_async()
}

#[test]
fn rule_17_the_order_of_commits_is_the_order_of_versions_and_of_callbacks() {
    let (db, _fs) = memory();
    let (sender, outcomes) = mpsc::channel();
    let threads: Vec<_> = (0..4u32)
        .map(|thread| {
            let (db, sender) = (db.clone(), sender.clone());
            std::thread::spawn(move || {
                let mut versions = Vec::new();
                for i in 0..500u32 {
                    let mut batch = db.batch();
                    batch.put("last", (thread << 16 | i).to_be_bytes()).unwrap();
                    if i % 3 == 0 {
                        versions.push(batch.commit().unwrap());
                    } else if i % 3 == 1 {
                        let sender = sender.clone();
                        let told = move |version| sender.send(version).unwrap();
                        batch.commit_then(Durability::Buffered, told).unwrap();
                    } else {
                        let pending = batch.commit_async().unwrap();
                        versions.push(pending.version());
                        if i % 5 == 0 {
                            let version = pending.version();
                            assert_eq!(pending.wait().unwrap(), version);
                        }
                    }
                }
                assert!(versions.is_sorted(), "a thread's commits are in its order");
            })
        })
        .collect();
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    db.close().unwrap();
    drop(sender);
    let told: Vec<u64> = outcomes.iter().map(Result::unwrap).collect();
    assert_eq!(told.len(), 4 * 167, "every callback was called, once");
    assert!(told.windows(2).all(|w| w[0] < w[1]), "callbacks run in the order of versions");
}

#[test]
fn rule_17_success_is_reported_only_when_the_chosen_durability_holds() {
    for durability in [Durability::Sync, Durability::Buffered] {
        let fs = Arc::new(MemFs::new());
        let db = tiny().open_in(fs.clone(), PATH).unwrap();
        for i in 0..50u32 {
            let mut batch = db.batch();
            batch.put(i.to_be_bytes(), "v").unwrap();
            let (sender, outcome) = mpsc::channel();
            let image_of = fs.clone();
            let callback = move |result: Result<u64>| {
                // What the callback can rely on is what the disk has at this moment.
                let image = match durability {
                    Durability::Sync => image_of.crash_image(&mut Keep::None),
                    _ => image_of.process_image(),
                };
                sender.send((result, image)).unwrap();
            };
            batch.commit_then(durability, callback).unwrap();
            let (result, image) = outcome.recv().unwrap();
            let version = result.unwrap();
            assert!(db.version() >= version, "visible");
            let reopened = open(&tiny(), &Arc::new(image)).unwrap();
            assert!(reopened.contains(i.to_be_bytes()).unwrap(), "{i} {durability:?}");
        }
    }
}

#[test]
fn a_buffered_commit_can_be_waited_for_until_it_is_durable() {
    let fs = Arc::new(MemFs::new());
    let db = tiny().durability(Durability::Buffered).open_in(fs.clone(), PATH).unwrap();
    let handles: Vec<_> = (0..20u32).map(|i| put(&db, i.to_be_bytes(), "v").unwrap()).collect();
    for (i, handle) in handles.into_iter().enumerate() {
        handle.wait_durable().unwrap();
        let image = Arc::new(fs.crash_image(&mut Keep::None));
        assert!(open(&tiny(), &image).unwrap().iter().unwrap().count() > i);
    }
}

#[test]
fn rule_4_close_waits_for_asynchronous_commits_and_their_callbacks() {
    for dropped in [false, true] {
        let (db, fs) = memory();
        let told = Arc::new(AtomicUsize::new(0));
        let mut handles = Vec::new();
        for i in 0..1000u32 {
            let mut batch = db.batch();
            batch.put(i.to_be_bytes(), "v").unwrap();
            if i % 2 == 0 {
                handles.push(batch.commit_async_with(Durability::Sync).unwrap());
            } else {
                let told = told.clone();
                let callback = move |outcome: Result<u64>| {
                    outcome.unwrap();
                    std::thread::yield_now();
                    told.fetch_add(1, Ordering::SeqCst);
                };
                batch.commit_then(Durability::Sync, callback).unwrap();
            }
        }
        if dropped {
            drop(db);
        } else {
            db.close().unwrap();
            assert!(matches!(put(&db, "late", ""), Err(Error::Closed)));
        }
        assert_eq!(told.load(Ordering::SeqCst), 500, "all callbacks have run");
        assert!(handles.iter().all(PendingCommit::is_done));
        for handle in handles {
            handle.wait_durable().unwrap();
        }
        assert_eq!(open(&tiny(), &fs).unwrap().iter().unwrap().count(), 1000);
    }
}

#[test]
fn a_callback_may_use_the_database_commit_and_close_it() {
    let (db, fs) = memory();
    let (sender, receiver) = mpsc::channel();
    fn again(db: &Db, left: u32, sender: mpsc::Sender<u64>) -> Result<()> {
        let mut batch = db.batch();
        batch.put(left.to_be_bytes(), vec![b'v'; 5000])?;
        let of = db.clone();
        batch.commit_then(Durability::Buffered, move |outcome| {
            let version = outcome.unwrap();
            assert!(of.snapshot().unwrap().version() >= version);
            of.put("from a callback", left.to_be_bytes()).unwrap();
            if left == 0 {
                of.close().unwrap();
                sender.send(version).unwrap();
            } else {
                again(&of, left - 1, sender).unwrap();
            }
        })
    }
    again(&db, 300, sender).unwrap();
    receiver.recv().unwrap();
    assert!(matches!(db.put("k", "v"), Err(Error::Closed)));
    let db = open(&tiny(), &fs).unwrap();
    assert_eq!(db.iter().unwrap().count(), 302);
}

#[test]
fn a_callback_may_hold_the_last_handle() {
    let (db, fs) = memory();
    let (sender, receiver) = mpsc::channel();
    let (go, wait) = mpsc::channel::<()>();
    let mut batch = db.batch();
    batch.put("k", "v").unwrap();
    let of = db.clone();
    let callback = move |outcome: Result<u64>| {
        wait.recv().unwrap();
        drop(of);
        sender.send(outcome.unwrap()).unwrap();
    };
    batch.commit_then(Durability::Sync, callback).unwrap();
    drop(db);
    go.send(()).unwrap();
    receiver.recv().unwrap();
    assert_eq!(open(&tiny(), &fs).unwrap().get("k").unwrap().unwrap(), "v");
}

#[test]
fn a_callback_that_panics_concerns_nobody_else() {
    let (db, _fs) = memory();
    let mut batch = db.batch();
    batch.put("a", "").unwrap();
    batch.commit_then(Durability::Sync, |_| panic!("a panic that the test wants")).unwrap();
    put(&db, "b", "").unwrap().wait().unwrap();
    db.put("c", "").unwrap();
    db.close().unwrap();
}

/// Runs a future on this thread.
fn block_on<F: Future>(future: F) -> F::Output {
    struct Unpark(std::thread::Thread);
    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
    let mut future = pin!(future);
    loop {
        match future.as_mut().poll(&mut Context::from_waker(&waker)) {
            Poll::Ready(output) => return output,
            Poll::Pending => std::thread::park(),
        }
    }
}

#[test]
fn a_handle_is_a_future_of_any_runtime() {
    let (db, _fs) = memory();
    block_on(async {
        for i in 0..200u32 {
            let pending = put(&db, i.to_be_bytes(), "v").unwrap();
            let version = pending.version();
            assert_eq!(pending.await.unwrap(), version);
            assert!(db.contains(i.to_be_bytes()).unwrap());
        }
    });
}

/// The task that is woken is the last one to hold a handle.
#[test]
fn a_waker_may_hold_the_last_handle() {
    struct Task(#[allow(dead_code, reason = "held, not read")] Db);
    impl Wake for Task {
        fn wake(self: Arc<Self>) {}
    }
    let (db, fs) = memory();
    // Another writer keeps the leader busy, so that the poll comes first now and then.
    for _ in 0..20 {
        let pending = put(&db, "k", vec![0; 100_000]).unwrap();
        let waker = Waker::from(Arc::new(Task(db.clone())));
        let mut pending = Box::pin(pending);
        drop(pending.as_mut().poll(&mut Context::from_waker(&waker)));
    }
    let pending = put(&db, "k", vec![0; 100_000]).unwrap();
    let waker = Waker::from(Arc::new(Task(db)));
    let mut pending = Box::pin(pending);
    drop(pending.as_mut().poll(&mut Context::from_waker(&waker)));
    drop(waker);
    while open(&tiny(), &fs).is_err() {
        std::thread::yield_now();
    }
}

#[test]
fn handles_are_looked_at_and_waited_for_with_a_limit() {
    let (db, _fs) = memory();
    let mut pending = put(&db, "k", "v").unwrap();
    let version = pending.version();
    let outcome = loop {
        pending = match pending.try_wait() {
            Ok(outcome) => break outcome,
            Err(pending) => pending,
        };
    };
    assert_eq!(outcome.unwrap(), version);
    let pending = put(&db, "k", "v").unwrap();
    let outcome = pending.wait_timeout(Duration::from_secs(3600)).unwrap();
    assert!(outcome.unwrap() > version);
    assert_eq!(
        put(&db, "k", "v").unwrap().wait_timeout(Duration::MAX).unwrap().unwrap(),
        version + 2
    );
}

#[test]
fn what_refuses_a_commit_refuses_it_before_there_is_a_handle() {
    let (db, _fs) = memory();
    let mut t = db.begin().unwrap();
    t.get("k").unwrap();
    t.put("l", "v").unwrap();
    db.put("k", "v").unwrap();
    assert!(matches!(t.commit_async(), Err(Error::Conflict)));
    let mut t = db.begin().unwrap();
    t.get("k").unwrap();
    t.put("l", "v").unwrap();
    db.put("k", "w").unwrap();
    let callback = |_| panic!("dropped, not called");
    assert!(matches!(t.commit_then(Durability::Sync, callback), Err(Error::Conflict)));
    // Nothing to write: done at once, with the version that was read.
    let version = db.version();
    assert_eq!(db.begin().unwrap().commit_async().unwrap().wait().unwrap(), version);
    let (sender, outcome) = mpsc::channel();
    let told = move |outcome| sender.send(outcome).unwrap();
    db.batch().commit_then(Durability::Sync, told).unwrap();
    assert_eq!(outcome.recv().unwrap().unwrap(), version);
}

#[test]
fn a_log_that_fails_is_told_to_every_commit_on_its_way() {
    for fault in [Fault::Io, Fault::IoAfter] {
        let inner = Arc::new(MemFs::new());
        let fs = FaultFs::new(inner.clone());
        let db = tiny().open_in(Arc::new(fs.clone()), PATH).unwrap();
        put(&db, "before", "").unwrap().wait().unwrap();
        // For ever: the first to meet it may be a segment that is made ahead, which fails alone.
        fs.arm(FaultPlan::new(fault).on(&[Op::Write]).path(".vlog").after(3).forever());
        let (sender, outcomes) = mpsc::channel();
        let (mut handles, mut called) = (Vec::new(), 0);
        for i in 0..u32::MAX {
            let mut batch = db.batch();
            batch.put(i.to_be_bytes(), "v").unwrap();
            let started = if i % 2 == 0 {
                batch.commit_async().map(|pending| handles.push(pending))
            } else {
                let sender = sender.clone();
                let told = move |outcome| sender.send(outcome).unwrap();
                batch.commit_then(Durability::Sync, told).map(|()| called += 1)
            };
            if let Err(error) = started {
                assert_eq!(error.kind(), ErrorKind::Reopen, "{error}");
                break;
            }
        }
        drop(sender);
        let outcomes: Vec<_> = handles
            .into_iter()
            .map(PendingCommit::wait)
            .chain(outcomes.iter().take(called))
            .collect();
        let succeeded = outcomes.iter().filter(|outcome| outcome.is_ok()).count();
        let failed = outcomes.iter().filter_map(|outcome| outcome.as_ref().err());
        for error in failed {
            assert!(matches!(error, Error::OutcomeUnknown(_) | Error::Poisoned(_)), "{error}");
        }
        assert!(succeeded < outcomes.len(), "the fault was met");
        assert!(db.close().is_err());
        let db = open(&tiny(), &inner).unwrap();
        assert!(db.iter().unwrap().count() > succeeded, "what was told stays");
    }
}

/// Producers that never wait for an outcome are held back before memory runs out: with commits of
/// 1 MiB no more than 32 are under way, and segments of 1 MiB pass none by.
#[test]
fn what_is_under_way_is_bounded() {
    let fs = Arc::new(MemFs::new());
    let options = tiny().segment_size(4 << 20).durability(Durability::Buffered);
    let db = options.open_in(fs.clone(), PATH).unwrap();
    let under_way = Arc::new(AtomicUsize::new(0));
    let most = Arc::new(AtomicUsize::new(0));
    for i in 0..60 * scale() {
        let mut batch = db.batch();
        batch.put(i.to_be_bytes(), vec![1; 1 << 20]).unwrap();
        let counter = under_way.clone();
        // Counted before the callback can run: one less than was claimed, at worst.
        counter.fetch_add(1, Ordering::SeqCst);
        let told = move |outcome: Result<u64>| {
            outcome.unwrap();
            std::thread::sleep(Duration::from_millis(2));
            counter.fetch_sub(1, Ordering::SeqCst);
        };
        batch.commit_then(Durability::Buffered, told).unwrap();
        most.fetch_max(under_way.load(Ordering::SeqCst), Ordering::SeqCst);
    }
    let most = most.load(Ordering::SeqCst);
    assert!((2..=33).contains(&most), "{most} at once");
    db.close().unwrap();
}

/// Commits of both kinds race with closing: each has an outcome, and what was told is there.
#[test]
fn rule_4_commits_of_all_kinds_race_with_close() {
    for round in 0..30 * scale() {
        let (db, fs) = memory();
        let (sender, told) = mpsc::channel();
        let threads: Vec<_> = (0..3u64)
            .map(|thread| {
                let (db, sender) = (db.clone(), sender.clone());
                std::thread::spawn(move || {
                    let mut there = Vec::new();
                    for i in 0.. {
                        let key = (thread << 32 | i).to_be_bytes();
                        let mut batch = db.batch();
                        match batch.put(key, "v") {
                            Err(Error::Closed) => break,
                            put => put.unwrap(),
                        }
                        let done = match thread {
                            0 => batch.commit().map(|_| there.push(key)),
                            1 => batch.commit_async().map(|p| {
                                p.wait().unwrap();
                                there.push(key);
                            }),
                            _ => {
                                let sender = sender.clone();
                                let callback = move |outcome: Result<u64>| {
                                    outcome.unwrap();
                                    sender.send(key).unwrap();
                                };
                                batch.commit_then(Durability::Sync, callback)
                            }
                        };
                        match done {
                            Ok(()) => {}
                            Err(Error::Closed) => break,
                            Err(error) => panic!("{error}"),
                        }
                    }
                    there
                })
            })
            .collect();
        while db.version() < 20 + round * 7 % 100 {
            std::thread::yield_now();
        }
        db.close().unwrap();
        drop(sender);
        let mut there: Vec<_> = threads.into_iter().flat_map(|t| t.join().unwrap()).collect();
        there.extend(told.iter());
        let db = open(&tiny(), &fs).unwrap();
        assert!(there.iter().all(|key| db.contains(key).unwrap()));
        assert_eq!(db.iter().unwrap().count(), there.len(), "nothing but what was told");
    }
}

/// Ends the test program if what should end does not: a deadlock is a failure, not a hang.
fn in_time<T: Send + 'static>(what: &str, run: impl FnOnce() -> T + Send + 'static) -> T {
    let (sender, done) = mpsc::channel();
    std::thread::spawn(move || drop(sender.send(run())));
    done.recv_timeout(Duration::from_secs(30)).unwrap_or_else(|e| panic!("{what}: {e}"))
}

/// A callback closes the database while another thread waits for callbacks to make room.
#[test]
fn a_callback_may_close_the_database_while_others_wait_for_room() {
    in_time("close in a callback", || {
        let (db, fs) = memory();
        let (go, gone) = mpsc::channel::<()>();
        let closing = db.clone();
        let (sender, closed) = mpsc::channel();
        let mut first = db.batch();
        first.put("first", "v").unwrap();
        first
            .commit_then(Durability::Buffered, move |outcome| {
                outcome.unwrap();
                gone.recv().unwrap();
                sender.send(closing.close()).unwrap();
            })
            .unwrap();
        let told = Arc::new(AtomicUsize::new(0));
        let writer = {
            let (db, told) = (db.clone(), told.clone());
            std::thread::spawn(move || {
                for i in 0..10_000u32 {
                    let mut batch = db.batch();
                    batch.put(i.to_be_bytes(), "v").unwrap();
                    let told = told.clone();
                    let callback = move |outcome: Result<u64>| {
                        outcome.unwrap();
                        told.fetch_add(1, Ordering::SeqCst);
                    };
                    match batch.commit_then(Durability::Buffered, callback) {
                        Ok(()) => {}
                        Err(Error::Closed) => return i,
                        Err(error) => panic!("{error}"),
                    }
                }
                unreachable!("so many are never under way")
            })
        };
        // The first callback and 4095 behind it: the writer waits for room.
        while db.version() < 4096 {
            std::thread::yield_now();
        }
        go.send(()).unwrap();
        closed.recv().unwrap().unwrap();
        let accepted = writer.join().unwrap();
        let db = open(&tiny(), &fs).unwrap();
        assert_eq!(db.iter().unwrap().count() as u32, accepted + 1);
        // Those behind the one that closed run when it has returned.
        while told.load(Ordering::SeqCst) < accepted as usize {
            std::thread::yield_now();
        }
    });
}

/// A waker drops the last handle while other commits wait to be driven by the thread it runs on.
#[test]
fn a_waker_may_close_the_database_while_commits_are_under_way() {
    struct Closes {
        db: Db,
        go: std::sync::Mutex<mpsc::Receiver<()>>,
    }
    impl Wake for Closes {
        fn wake(self: Arc<Self>) {
            self.go.lock().unwrap().recv().unwrap();
            self.db.close().unwrap();
        }
    }
    in_time("close in a waker", || {
        let (db, fs) = memory();
        let (go, receiver) = mpsc::channel();
        let waker = Waker::from(Arc::new(Closes { db: db.clone(), go: receiver.into() }));
        // Whether the handle is done before it is polled is chance.
        let mut first = loop {
            let mut first = Box::pin(put(&db, "first", "v").unwrap());
            if first.as_mut().poll(&mut Context::from_waker(&waker)).is_pending() {
                break first;
            }
        };
        while !first.is_done() {
            std::thread::yield_now();
        }
        let others: Vec<_> = (0..10u32).map(|i| put(&db, i.to_be_bytes(), "v").unwrap()).collect();
        go.send(()).unwrap();
        for other in others {
            other.wait().unwrap();
        }
        assert!(matches!(
            first.as_mut().poll(&mut Context::from_waker(Waker::noop())),
            Poll::Ready(Ok(_))
        ));
        let db = loop {
            match open(&tiny(), &fs) {
                Err(Error::InUse { .. }) => std::thread::yield_now(),
                opened => break opened.unwrap(),
            }
        };
        assert_eq!(db.iter().unwrap().count(), 11);
    });
}

/// A commit that is refused drops its callback, and with it perhaps the last handle.
#[test]
fn a_refused_callback_may_hold_the_last_handle() {
    in_time("refused", || {
        let (db, fs) = memory();
        let mut t = db.begin().unwrap();
        assert!(t.get("k").unwrap().is_none());
        t.put("k", "mine").unwrap();
        db.put("k", "theirs").unwrap();
        let refused = t.commit_then(Durability::Buffered, move |_| drop(db));
        assert!(matches!(refused, Err(Error::Conflict)));
        let db = open(&tiny(), &fs).unwrap();
        assert_eq!(db.get("k").unwrap().unwrap(), "theirs");
    });
}
