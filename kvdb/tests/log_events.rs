//! What the database tells `tracing`. By themselves: whether anyone listens to a place in the code is
//! decided when it is first reached, and if that is while a listener is being made in another thread it
//! may be missed.
#![allow(clippy::unwrap_used)] // a test may panic

mod common;

use std::fmt::Write as _;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Once};
use std::time::Duration;

use common::{PATH, manual, open, tiny, value};
use kvdb::vfs::{Fs, Keep, MemFs, OpenMode};
use kvdb::{Durability, Error, MergeOperator};
use parking_lot::Mutex;
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Metadata, Subscriber};

/// Keeps what it is told as lines: `name: fields`.
#[derive(Default)]
struct Lines {
    lines: Arc<Mutex<Vec<String>>>,
    next: AtomicU64,
}

struct Line<'a>(&'a mut String);

impl Visit for Line<'_> {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        write!(self.0, " {}={value:?}", field.name()).unwrap();
    }
}

impl Subscriber for Lines {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.target().starts_with("kvdb")
    }
    fn new_span(&self, span: &Attributes<'_>) -> Id {
        let mut line = format!("span {}:", span.metadata().name());
        span.record(&mut Line(&mut line));
        self.lines.lock().push(line);
        Id::from_u64(self.next.fetch_add(1, Ordering::Relaxed) + 1)
    }
    fn record(&self, _: &Id, _: &Record<'_>) {}
    fn record_follows_from(&self, _: &Id, _: &Id) {}
    fn event(&self, event: &Event<'_>) {
        let mut line = format!("{}:", event.metadata().level());
        event.record(&mut Line(&mut line));
        self.lines.lock().push(line);
    }
    fn enter(&self, _: &Id) {}
    fn exit(&self, _: &Id) {}
}

/// Somebody listens to every place before it is reached: called before anything else.
fn listen() {
    static LISTENING: Once = Once::new();
    LISTENING.call_once(|| tracing::subscriber::set_global_default(Lines::default()).unwrap());
}

/// What is told while `f` runs, on this thread.
fn told(f: impl FnOnce()) -> Vec<String> {
    let subscriber = Lines::default();
    let lines = subscriber.lines.clone();
    tracing::subscriber::with_default(subscriber, f);
    std::mem::take(&mut *lines.lock())
}

fn has(lines: &[String], parts: &[&str]) -> bool {
    lines.iter().any(|line| parts.iter().all(|part| line.contains(part)))
}

#[test]
fn open_flush_compaction_and_close_are_told() {
    listen();
    let fs = Arc::new(MemFs::new());
    let options = manual().durability(Durability::Buffered);
    let lines = told(|| {
        let db = open(&options, &fs).unwrap();
        for round in 0..4u64 {
            for i in 0..50u64 {
                db.put(i.to_be_bytes(), value(i + round, 100)).unwrap();
            }
            db.flush().unwrap();
        }
        db.compact().unwrap();
        db.close().unwrap();
    });
    assert!(has(&lines, &["span open", PATH]), "{lines:#?}");
    assert!(has(&lines, &["INFO", "opened", "clean=true"]), "{lines:#?}");
    assert!(has(&lines, &["span flush"]) && has(&lines, &["flushed"]), "{lines:#?}");
    assert!(has(&lines, &["span compaction", "from=0"]) && has(&lines, &["compacted"]));
    assert!(has(&lines, &["INFO", "closed", PATH]));
}

#[test]
fn recovery_is_told_with_what_was_replayed() {
    listen();
    let fs = Arc::new(MemFs::new());
    let db = open(&tiny(), &fs).unwrap();
    db.put("k", "v").unwrap();
    let image = Arc::new(fs.crash_image(&mut Keep::All));
    let lines = told(|| drop(open(&tiny(), &image).unwrap()));
    assert!(has(&lines, &["INFO", "recovered after an unclean end", "frames=1"]), "{lines:#?}");
    assert!(has(&lines, &["opened", "clean=false"]));
}

#[test]
fn a_stall_is_told() {
    listen();
    // A flush folds operands, and here that ends only when the writer has come to a halt.
    let written = Arc::new(AtomicU64::new(0));
    let progress = written.clone();
    let operator = MergeOperator::new(move |_, older, newer| {
        let mut before = u64::MAX;
        while before != progress.load(Ordering::Relaxed) {
            before = progress.load(Ordering::Relaxed);
            std::thread::sleep(Duration::from_millis(20));
        }
        [older, newer].concat()
    });
    let options = tiny().durability(Durability::Buffered).max_memtables(2).merge_operator(operator);
    let db = open(&options, &Arc::new(MemFs::new())).unwrap();
    let waited = || db.stats().tree.stalls.iter().any(|s| s.count > 0);
    let lines = told(|| {
        // Once, unless the machine is so busy that the writer halts for another reason.
        while !waited() {
            db.merge("operands", "one").unwrap();
            db.merge("operands", "two").unwrap();
            for i in 0..2000u64 {
                db.put(i.to_be_bytes(), value(i, 200)).unwrap();
                written.fetch_add(1, Ordering::Relaxed);
            }
        }
    });
    // For memtables, and perhaps for level 0: compactions fold as well.
    for stall in db.stats().tree.stalls.iter().filter(|s| s.count > 0) {
        let reason = format!("reason={:?}", stall.reason);
        assert!(has(&lines, &["DEBUG", "a writer waited", &reason]), "{reason}: {lines:#?}");
    }
    db.close().unwrap();
}

#[test]
fn rule_7_unknown_files_are_named_and_left_alone_and_leftovers_of_ours_are_named() {
    listen();
    let fs = Arc::new(MemFs::new());
    drop(open(&tiny(), &fs).unwrap());
    for name in ["notes.txt", "999990.sst"] {
        fs.open(&Path::new(PATH).join(name), OpenMode::CreateNew).unwrap();
    }
    let lines = told(|| drop(open(&tiny(), &fs).unwrap()));
    assert!(has(&lines, &["left alone", "/db/notes.txt"]), "{lines:#?}");
    assert!(has(&lines, &["removing a leftover", "999990.sst"]), "{lines:#?}");
    assert!(!lines.iter().any(|line| line.contains("left alone") && !line.contains("notes.txt")));
}

#[test]
fn a_bulk_writer_dropped_without_a_flush_is_told() {
    listen();
    let fs = Arc::new(MemFs::new());
    let db = open(&tiny(), &fs).unwrap();
    let lines = told(|| {
        let mut writer = db.bulk_writer();
        writer.put("k", "v").unwrap();
    });
    assert!(has(&lines, &["WARN", "dropped without a flush"]));
    let quiet = told(|| {
        let mut writer = db.bulk_writer();
        writer.put("k", "v").unwrap();
        writer.finish().unwrap();
        assert!(matches!(writer.flush(), Err(Error::Finished)));
    });
    assert!(!has(&quiet, &["WARN"]), "{quiet:#?}");
}
