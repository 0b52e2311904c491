//! Closing by many at once (SEMANTICS, rule 4): everyone learns what came of it, and nobody waits for
//! itself.
#![allow(clippy::unwrap_used)] // a test may panic

mod common;

use std::ops::ControlFlow;
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;
use std::time::Duration;

use common::{PATH, memory, open, tiny, value};
use kvdb::vfs::{Fault, FaultFs, FaultPlan, Fs, MemFs, Op};
use kvdb::{Db, Durability, Error, ErrorKind, GcOptions, Step};

/// A test of what must not wait for itself fails after a while.
fn in_time<T: Send + 'static>(run: impl FnOnce() -> T + Send + 'static) -> T {
    let (sender, done) = mpsc::channel();
    std::thread::spawn(move || drop(sender.send(run())));
    done.recv_timeout(Duration::from_secs(30)).unwrap()
}

/// A commit whose callback waits until it may go on; it says when it runs.
fn held(db: &Db, then: impl FnOnce() + Send + 'static) -> (mpsc::Receiver<()>, mpsc::Sender<()>) {
    let (go, gone) = mpsc::channel();
    let (runs, running) = mpsc::channel();
    let mut batch = db.batch();
    batch.put("k", "v").unwrap();
    batch
        .commit_then(Durability::Buffered, move |outcome| {
            outcome.unwrap();
            runs.send(()).unwrap();
            gone.recv().unwrap();
            then();
        })
        .unwrap();
    (running, go)
}

/// A close under way on a thread of its own.
fn begin_to_close(db: &Db) -> JoinHandle<kvdb::Result<()>> {
    let close = std::thread::spawn({
        let db = db.clone();
        move || db.close()
    });
    closed(db);
    close
}

fn closed(db: &Db) {
    while !matches!(db.get("k"), Err(Error::Closed)) {
        std::thread::yield_now();
    }
}

#[test]
fn rule_4_a_second_close_waits_for_the_first_and_the_directory_is_free_when_it_returns() {
    let (db, fs) = memory();
    let (running, go) = held(&db, || {});
    running.recv().unwrap();
    let first = begin_to_close(&db);
    let (sender, second) = mpsc::channel();
    for _ in 0..2 {
        let (db, fs, sender) = (db.clone(), fs.clone(), sender.clone());
        std::thread::spawn(move || {
            let outcome = db.close();
            let again = open(&tiny().read_only(true), &fs).map(drop);
            sender.send((outcome, again)).unwrap();
        });
    }
    let early = second.recv_timeout(Duration::from_millis(200));
    assert!(early.is_err(), "the first close is not done, yet a second said {early:?}");
    go.send(()).unwrap();
    for _ in 0..2 {
        let (outcome, again) = second.recv_timeout(Duration::from_secs(30)).unwrap();
        outcome.unwrap();
        again.unwrap();
    }
    first.join().unwrap().unwrap();
}

#[test]
fn rule_4_a_close_that_waits_for_one_that_fails_says_so_too() {
    let fs = Arc::new(FaultFs::new(Arc::new(MemFs::new()) as Arc<dyn Fs>));
    let db = tiny().durability(Durability::Buffered).open_in(fs.clone(), PATH).unwrap();
    let (running, go) = held(&db, || {});
    running.recv().unwrap();
    fs.arm(FaultPlan::new(Fault::Io).on(&[Op::SyncData, Op::Write]).forever());
    let closers: Vec<_> = (0..3)
        .map(|_| {
            let db = db.clone();
            std::thread::spawn(move || db.close().unwrap_err())
        })
        .collect();
    closed(&db);
    go.send(()).unwrap();
    let errors: Vec<Error> = closers.into_iter().map(|c| c.join().unwrap()).collect();
    let (repeated, first): (Vec<&Error>, Vec<&Error>) =
        errors.iter().partition(|error| matches!(error, Error::CloseFailed(_)));
    assert_eq!((first.len(), repeated.len()), (1, 2), "{errors:?}");
    for error in repeated {
        assert!(matches!(error, Error::CloseFailed(what) if *what == first[0].to_string()));
        assert_eq!(error.kind(), ErrorKind::Reopen);
    }
}

#[test]
fn rule_4_a_callback_that_closes_does_not_wait_for_the_close_that_waits_for_it() {
    in_time(|| {
        let (db, fs) = memory();
        let (sender, said) = mpsc::channel();
        let closing = db.clone();
        let (running, go) = held(&db, move || {
            closed(&closing);
            // Also when the first close has got as far as to wait for this very thread.
            std::thread::sleep(Duration::from_millis(50));
            sender.send(closing.close()).unwrap();
        });
        running.recv().unwrap();
        go.send(()).unwrap();
        db.close().unwrap();
        said.recv().unwrap().unwrap();
        open(&tiny(), &fs).unwrap();
    });
}

#[test]
fn rule_4_a_callback_of_one_database_waits_for_the_close_of_another() {
    in_time(|| {
        let (one, _fs) = memory();
        let (other, fs) = memory();
        let (running, go) = held(&other, || {});
        running.recv().unwrap();
        let first = begin_to_close(&other);
        let (sender, said) = mpsc::channel();
        let (_running, go_on) = held(&one, move || {
            other.close().unwrap();
            sender.send(open(&tiny(), &fs).map(drop)).unwrap();
        });
        go_on.send(()).unwrap();
        let early = said.recv_timeout(Duration::from_millis(100));
        assert!(early.is_err(), "did not wait: {early:?}");
        go.send(()).unwrap();
        said.recv().unwrap().unwrap();
        first.join().unwrap().unwrap();
    });
}

#[test]
fn rule_4_who_watches_a_collection_can_neither_close_nor_collect_but_is_told_so() {
    in_time(|| {
        let (db, _fs) = memory();
        for round in 0..2 {
            for i in 0..200u64 {
                db.put(i.to_be_bytes(), value(round << 32 | i, 2000)).unwrap();
            }
        }
        let mut asked = 0;
        let watch = |_, _| {
            asked += 1;
            let refused = [
                db.close().unwrap_err(),
                db.gc(&GcOptions::full()).unwrap_err(),
                db.step(Step::Collect).unwrap_err(),
                db.step(Step::Rest).unwrap_err(),
            ];
            for error in refused {
                assert!(matches!(error, Error::Reentrant), "{error}");
                assert_eq!(error.kind(), ErrorKind::Usage);
            }
            db.put("meanwhile", "v").unwrap();
            ControlFlow::Continue(())
        };
        db.gc_with(&GcOptions::full(), watch).unwrap();
        assert!(asked > 0);
        assert_eq!(db.get("meanwhile").unwrap().unwrap(), "v", "it is not closed");
        db.close().unwrap();
    });
}

#[test]
fn rule_4_a_closure_that_reads_in_place_may_close() {
    in_time(|| {
        let (db, _fs) = memory();
        db.put("k", "v").unwrap();
        let outcome = db.get_with("k", |value| {
            let closed = db.close();
            assert_eq!(value, b"v");
            closed
        });
        outcome.unwrap().unwrap().unwrap();
    });
}
