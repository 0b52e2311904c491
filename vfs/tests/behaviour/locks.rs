//! Directory locks.

use kvdb_vfs::{ErrorKind, LockMode, Op};

use crate::{all, each};

#[test]
fn an_exclusive_lock_keeps_others_of_the_same_process_out() {
    each(|p| {
        let guard = p.fs.lock(&p.dir, LockMode::Exclusive).unwrap();
        for mode in [LockMode::Exclusive, LockMode::Shared] {
            let e = p.fs.lock(&p.dir, mode).unwrap_err();
            assert_eq!((e.kind(), e.op(), e.path()), (ErrorKind::Locked, Op::Lock, &*p.dir));
        }
        drop(guard);
        p.fs.lock(&p.dir, LockMode::Exclusive).unwrap();
    });
}

#[test]
fn shared_locks_go_together_until_the_last_is_dropped() {
    each(|p| {
        let a = p.fs.lock(&p.dir, LockMode::Shared).unwrap();
        let b = p.fs.lock(&p.dir, LockMode::Shared).unwrap();
        drop(a);
        assert_eq!(p.fs.lock(&p.dir, LockMode::Exclusive).unwrap_err().kind(), ErrorKind::Locked);
        drop(b);
        p.fs.lock(&p.dir, LockMode::Exclusive).unwrap();
    });
}

#[test]
fn directories_are_locked_one_by_one_whatever_they_are_called() {
    each(|p| {
        p.fs.create_dir_all(&p.path("a")).unwrap();
        p.fs.create_dir_all(&p.path("b")).unwrap();
        let _a = p.fs.lock(&p.path("a"), LockMode::Exclusive).unwrap();
        let _b = p.fs.lock(&p.path("b"), LockMode::Exclusive).unwrap();
        p.fs.rename(&p.path("a"), &p.path("c")).unwrap();
        let e = p.fs.lock(&p.path("c"), LockMode::Shared).unwrap_err();
        assert_eq!(e.kind(), ErrorKind::Locked);
    });
}

#[test]
fn a_guard_can_be_dropped_on_another_thread() {
    for (_, p) in all() {
        let guard = p.fs.lock(&p.dir, LockMode::Exclusive).unwrap();
        std::thread::spawn(move || drop(guard)).join().unwrap();
        p.fs.lock(&p.dir, LockMode::Exclusive).unwrap();
    }
}
