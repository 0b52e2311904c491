//! SEMANTICS rule 4. Alone in its process, since it looks at all of the process's threads.
#![allow(clippy::unwrap_used)] // a test may panic

mod common;

use common::tiny;

#[test]
fn rule_4_no_thread_outlives_close() {
    fn ours() -> Vec<String> {
        let Ok(tasks) = std::fs::read_dir("/proc/self/task") else { return Vec::new() };
        tasks
            .filter_map(|t| std::fs::read_to_string(t.ok()?.path().join("comm")).ok())
            .filter(|name| name.starts_with("kvdb"))
            .collect()
    }
    for close in [true, false] {
        let dir = tempfile::tempdir().unwrap();
        let db = tiny().open(dir.path()).unwrap();
        for i in 0..200u32 {
            db.put(i.to_be_bytes(), common::value(1, 1000)).unwrap();
        }
        if cfg!(target_os = "linux") {
            assert!(!ours().is_empty(), "the test does not see the threads it is about");
        }
        if close {
            db.close().unwrap();
        } else {
            drop(db);
        }
        assert_eq!(ours(), Vec::<String>::new());
    }
}
