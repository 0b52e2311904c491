//! SEMANTICS: open, close, lock (rules 1 to 6).
#![allow(clippy::unwrap_used)] // a test may panic

mod common;

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::Arc;

use common::{PATH, manual, memory, open, tiny};
use kvdb::vfs::{Fault, FaultFs, FaultPlan, Fs, MemFs, Op, OpenMode};
use kvdb::{Codec, Db, Durability, Error, ErrorKind, Options};

#[test]
fn rule_1_open_creates_the_path_and_its_parents() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a/b/c");
    let db = Db::open(&path).unwrap();
    db.put("k", "v").unwrap();
    db.close().unwrap();
    let db = Db::open(&path).unwrap();
    assert_eq!(db.get("k").unwrap().unwrap(), "v");
}

#[test]
fn rule_1_a_path_that_is_a_file_is_an_error_naming_it() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("file");
    std::fs::write(&path, "not a database").unwrap();
    let error = Db::open(&path).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Usage);
    assert!(error.to_string().contains(&*path.to_string_lossy()), "{error}");
    assert_eq!(std::fs::read(&path).unwrap(), b"not a database", "nothing was touched");
}

#[test]
fn rule_1_an_empty_path_is_an_error_that_says_so() {
    let fs = Arc::new(MemFs::new());
    let opened = [
        ("path", Db::open("")),
        ("path", tiny().open_in(fs.clone(), "")),
        ("path", tiny().read_only(true).open_in(fs.clone(), "")),
        ("value_dir", tiny().value_dir("").open_in(fs.clone(), PATH)),
    ];
    for (what, outcome) in opened {
        let error = outcome.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Usage);
        let text = error.to_string();
        assert!(text.contains(what) && text.contains("the path is empty"), "{text}");
    }
    assert!(fs.metadata(PATH.as_ref()).is_err(), "something was created");
}

#[test]
fn rule_1_nothing_is_created_unless_asked() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("absent");
    for options in [Options::default().create_if_missing(false), Options::default().read_only(true)]
    {
        let error = options.open(&path).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
        assert!(error.to_string().contains(&*path.to_string_lossy()), "{error}");
        assert!(!path.exists());
    }
}

#[test]
fn rule_1_files_of_a_store_without_its_manifest_are_not_taken_for_an_empty_directory() {
    let (db, fs) = memory();
    db.put("k", "v").unwrap();
    db.close().unwrap();
    fs.remove("/db/MANIFEST".as_ref()).unwrap();
    let before = fs.list(PATH.as_ref()).unwrap();
    let error = open(&tiny(), &fs).unwrap_err();
    assert!(matches!(error, Error::NotADatabase { .. }), "{error}");
    assert_eq!(fs.list(PATH.as_ref()).unwrap(), before, "nothing was deleted");
}

#[test]
fn rule_2_a_second_opener_in_the_same_process_gets_in_use() {
    let dir = tempfile::tempdir().unwrap();
    let db = Db::open(dir.path()).unwrap();
    for options in [Options::default(), Options::default().read_only(true)] {
        let error = options.open(dir.path()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InUse, "{error}");
        assert!(error.to_string().contains(&*dir.path().to_string_lossy()), "{error}");
    }
    db.close().unwrap();
    Db::open(dir.path()).unwrap();
}

/// What a process of its own is told: how to open which path. It says how that went, and keeps it open
/// until its input ends.
const TOLD: &str = "KVDB_TEST_OPENS";

#[test]
fn another_process_that_opens() {
    let Ok(told) = std::env::var(TOLD) else { return };
    let (mode, path) = told.split_once(' ').unwrap();
    let opened = Options::default().read_only(mode == "reads").open(path);
    match &opened {
        Ok(_) => println!("\nopened"),
        Err(error) => println!("\n{:?}: {error}", error.kind()),
    }
    std::io::stdin().read_to_end(&mut Vec::new()).unwrap();
}

/// Another process, what is left of its output, and what it says of its opening.
fn opens_elsewhere(mode: &str, path: &std::path::Path) -> (Child, BufReader<ChildStdout>, String) {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "another_process_that_opens", "--nocapture"])
        .env(TOLD, format!("{mode} {}", path.display()))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut output = BufReader::new(child.stdout.take().unwrap());
    let said = |line: &String| line.starts_with("opened") || line.contains(": ");
    let said = output.by_ref().lines().map(|line| line.unwrap()).find(said).unwrap();
    (child, output, said)
}

#[test]
fn rule_2_an_opener_in_another_process_gets_in_use_until_the_first_one_closes_or_dies() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path();
    let in_use = |mode: &str| {
        let (mut child, _output, said) = opens_elsewhere(mode, path);
        drop(child.stdin.take());
        assert!(child.wait().unwrap().success());
        let named = said.contains(&*path.to_string_lossy());
        assert!(said.starts_with("InUse: ") && named, "{mode}: {said}");
    };
    let db = Db::open(path).unwrap();
    db.put("k", "v").unwrap();
    in_use("writes");
    in_use("reads");
    db.close().unwrap();
    for mode in ["writes", "reads"] {
        let (mut child, _output, said) = opens_elsewhere(mode, path);
        assert_eq!(said, "opened", "{mode}");
        let error = Db::open(path).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InUse, "{error}");
        let reads = Options::default().read_only(true).open(path);
        assert_eq!(reads.is_ok(), mode == "reads", "{mode}: {reads:?}");
        drop(reads);
        // Whoever is killed holds nothing.
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(Db::open(path).unwrap().get("k").unwrap().unwrap(), "v");
    }
}

#[test]
fn rule_2_read_only_openers_share_with_each_other_but_not_with_a_writer() {
    let (db, fs) = memory();
    db.put("k", "v").unwrap();
    db.close().unwrap();
    let read_only = tiny().read_only(true);
    let first = open(&read_only, &fs).unwrap();
    let second = open(&read_only, &fs).unwrap();
    assert_eq!(open(&tiny(), &fs).unwrap_err().kind(), ErrorKind::InUse);
    for db in [&first, &second] {
        assert_eq!(db.get("k").unwrap().unwrap(), "v");
    }
    drop((first, second));
    open(&tiny(), &fs).unwrap();
}

/// Key number `i` of those that `with_tables` writes.
fn key(i: u64) -> String {
    format!("{i:08}")
}

/// A closed database of 8000 keys in more than 20 tables, on a file system that fails when it is
/// told to.
fn with_tables() -> FaultFs {
    let fs = Arc::new(MemFs::new());
    let db = tiny().durability(Durability::Buffered).open_in(fs.clone(), PATH).unwrap();
    for i in 0..8000u64 {
        db.put(key(i * 7919 % 8000), common::value(i, 100)).unwrap();
    }
    db.compact().unwrap();
    let tables: u64 = db.stats().levels.iter().map(|l| l.tables).sum();
    assert!(tables > 20, "{tables} tables");
    db.close().unwrap();
    FaultFs::new(fs)
}

/// Also where nobody but readers could close any.
#[test]
fn a_get_that_finds_no_descriptor_is_tried_once_more() {
    let faults = with_tables();
    let db = tiny().read_only(true).open_in(Arc::new(faults.clone()), PATH).unwrap();
    let snapshot = db.snapshot().unwrap();
    let refusing = FaultPlan::new(Fault::TooManyFiles).on(&[Op::Open]).path(".sst");
    let refused = faults.arm(refusing.clone());
    assert!(db.get(key(7)).unwrap().is_some());
    assert_eq!(refused.fired(), 1);
    let refused = faults.arm(refusing.clone());
    assert!(snapshot.get(key(3000)).unwrap().is_some());
    assert_eq!(refused.fired(), 1);
    let refused = faults.arm(refusing.forever());
    assert!(db.get(key(7990)).is_err());
    assert_eq!(refused.fired(), 2, "and not again");
    refused.disarm();
    assert!(db.get(key(7990)).unwrap().is_some());
}

#[test]
fn a_database_opened_for_reading_only_closes_tables_too() {
    let faults = with_tables();
    let options = tiny().max_open_tables(16).read_only(true);
    let db = options.open_in(Arc::new(faults.clone()), PATH).unwrap();
    let opened = faults.arm(FaultPlan::count().on(&[Op::Open]).path(".sst"));
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(30);
    // Whatever was read before, a table that is read again and again comes to stay open.
    for last in [7, 3000, 7990] {
        for i in (0..8000).step_by(20) {
            db.get(key(i)).unwrap().unwrap();
        }
        loop {
            let before = opened.seen();
            db.get(key(last)).unwrap().unwrap();
            db.get(key(last)).unwrap().unwrap();
            if opened.seen() == before {
                break;
            }
            assert!(std::time::Instant::now() < deadline, "{} openings", opened.seen());
        }
    }
}

#[test]
fn rule_2b_the_value_log_may_have_a_directory_of_its_own() {
    let fs = Arc::new(MemFs::new());
    let options = tiny().value_dir("/log");
    let db = open(&options, &fs).unwrap();
    db.put("large", common::value(1, 10_000)).unwrap();
    assert_eq!(open(&options, &fs).unwrap_err().kind(), ErrorKind::InUse);
    db.close().unwrap();
    let tables_beside = fs.list(PATH.as_ref()).unwrap();
    assert!(tables_beside.iter().all(|e| e.name.extension().is_none_or(|x| x != "vlog")));
    let db = open(&options, &fs).unwrap();
    assert_eq!(db.get("large").unwrap().unwrap(), common::value(1, 10_000));
}

#[test]
fn rule_2b_the_log_directory_is_locked_as_well() {
    let fs = Arc::new(MemFs::new());
    let _one = tiny().value_dir("/log").open_in(fs.clone(), "/one").unwrap();
    let error = tiny().value_dir("/log").open_in(fs.clone(), "/two").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InUse, "{error}");
}

#[test]
fn rule_2b_halves_of_different_stores_do_not_open() {
    let fs = Arc::new(MemFs::new());
    for name in ["one", "two"] {
        let options = tiny().value_dir(format!("/{name}/log"));
        let db = options.open_in(fs.clone(), format!("/{name}/db")).unwrap();
        db.put(name, common::value(1, 5000)).unwrap();
        db.close().unwrap();
    }
    let error = tiny().value_dir("/two/log").open_in(fs.clone(), "/one/db").unwrap_err();
    assert!(matches!(error, Error::WrongValueDir { .. }), "{error}");
    // And each still opens with its own.
    for name in ["one", "two"] {
        let options = tiny().value_dir(format!("/{name}/log"));
        let db = options.open_in(fs.clone(), format!("/{name}/db")).unwrap();
        assert!(db.contains(name).unwrap());
    }
}

#[cfg(unix)]
#[test]
fn rule_3_a_read_only_open_works_in_a_read_only_directory_and_refuses_every_write() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap();
    let db = Options::default().segment_size(1 << 20).open(dir.path()).unwrap();
    db.put("small", "v").unwrap();
    db.put("large", common::value(7, 5000)).unwrap();
    db.close().unwrap();
    let set = |file_mode: u32, dir_mode: u32| {
        for entry in std::fs::read_dir(dir.path()).unwrap() {
            let permissions = std::fs::Permissions::from_mode(file_mode);
            std::fs::set_permissions(entry.unwrap().path(), permissions).unwrap();
        }
        std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(dir_mode)).unwrap();
    };
    let picture = || {
        let mut files: Vec<_> = std::fs::read_dir(dir.path())
            .unwrap()
            .map(|e| e.unwrap())
            .map(|e| (e.file_name(), std::fs::read(e.path()).unwrap()))
            .collect();
        files.sort();
        files
    };
    let before = picture();
    set(0o400, 0o500);
    let db = Options::default().read_only(true).open(dir.path()).unwrap();
    assert_eq!(db.get("small").unwrap().unwrap(), "v");
    assert_eq!(db.get("large").unwrap().unwrap(), common::value(7, 5000));
    assert_eq!(db.iter().unwrap().count(), 2);
    assert!(matches!(db.put("k", "v"), Err(Error::ReadOnly)));
    assert!(matches!(db.delete("k"), Err(Error::ReadOnly)));
    assert!(matches!(db.flush(), Err(Error::ReadOnly)));
    assert!(matches!(db.sync(), Err(Error::ReadOnly)));
    assert!(matches!(db.compact(), Err(Error::ReadOnly)));
    assert!(matches!(db.begin().unwrap().put("k", "v"), Err(Error::ReadOnly)));
    db.close().unwrap();
    set(0o600, 0o700);
    assert!(picture() == before, "a read-only open wrote something");
}

#[test]
fn rule_3_a_read_only_open_after_a_crash_shows_everything_and_writes_nothing() {
    let (db, fs) = memory();
    for i in 0..500u32 {
        db.put(i.to_be_bytes(), common::value(i.into(), 300)).unwrap();
    }
    let crashed = Arc::new(fs.process_image());
    drop(db);
    let names = crashed.list(PATH.as_ref()).unwrap();
    let operations = crashed.operations();
    let db = open(&tiny().read_only(true), &crashed).unwrap();
    assert_eq!(db.iter().unwrap().count(), 500);
    db.close().unwrap();
    assert_eq!(crashed.operations(), operations, "a read-only open changed something");
    assert_eq!(crashed.list(PATH.as_ref()).unwrap(), names);
}

#[test]
fn rule_4_dropping_the_last_handle_closes() {
    let (db, fs) = memory();
    let clone = db.clone();
    db.put("k", "v").unwrap();
    drop(db);
    assert_eq!(open(&tiny(), &fs).unwrap_err().kind(), ErrorKind::InUse);
    drop(clone);
    let db = open(&tiny(), &fs).unwrap();
    assert_eq!(db.get("k").unwrap().unwrap(), "v");
}

#[test]
fn rule_4_close_waits_for_commits_in_flight_and_loses_none() {
    let dir = tempfile::tempdir().unwrap();
    let db = tiny().open(dir.path()).unwrap();
    let writers: Vec<_> = (0..4u32)
        .map(|w| {
            let db = db.clone();
            std::thread::spawn(move || {
                let mut done = 0u32;
                loop {
                    match db.put((w << 24 | done).to_be_bytes(), common::value(1, 400)) {
                        Ok(_) => done += 1,
                        Err(Error::Closed) => return done,
                        Err(e) => panic!("{e}"),
                    }
                }
            })
        })
        .collect();
    std::thread::sleep(std::time::Duration::from_millis(100));
    db.close().unwrap();
    let acknowledged: Vec<u32> = writers.into_iter().map(|w| w.join().unwrap()).collect();
    let db = tiny().open(dir.path()).unwrap();
    for (w, &done) in acknowledged.iter().enumerate() {
        for i in 0..done {
            assert!(db.contains(((w as u32) << 24 | i).to_be_bytes()).unwrap(), "{w} {i}");
        }
    }
}

#[test]
fn rule_5_a_store_reopens_with_other_options() {
    let fs = Arc::new(MemFs::new());
    let variants = [
        tiny().value_threshold(0),
        tiny().value_threshold(1 << 20).codec(Codec::Lz4),
        tiny().segment_size(4 << 20).durability(Durability::Buffered).memory_map(false),
        tiny().value_threshold(64).block_size(1 << 10).filter_bits_per_key(0),
    ];
    for (round, options) in variants.iter().chain(&variants).enumerate() {
        let db = open(options, &fs).unwrap();
        for earlier in 0..round {
            for i in 0..200u64 {
                let key = format!("{earlier}/{i}");
                let expected = common::value(i, 10 * i as usize);
                assert_eq!(db.get(&key).unwrap().unwrap(), expected, "{key} in round {round}");
            }
        }
        for i in 0..200u64 {
            db.put(format!("{round}/{i}"), common::value(i, 10 * i as usize)).unwrap();
        }
        if round % 2 == 0 {
            db.flush().unwrap();
        }
        db.close().unwrap();
    }
}

#[test]
fn rule_6_opening_again_and_again_leaks_neither_descriptors_nor_files() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().canonicalize().unwrap();
    let handles = || {
        let Ok(fds) = std::fs::read_dir("/proc/self/fd") else { return 0 };
        fds.filter_map(|fd| std::fs::read_link(fd.ok()?.path()).ok())
            .filter(|target| target.starts_with(&path))
            .count()
    };
    let maps = || {
        let maps = std::fs::read_to_string("/proc/self/maps").unwrap_or_default();
        maps.lines().filter(|line| line.contains(&*path.to_string_lossy())).count()
    };
    let mut files = Vec::new();
    for round in 0..12 {
        let db = tiny().open(&path).unwrap();
        db.put("k", format!("{round}")).unwrap();
        db.close().unwrap();
        drop(db);
        assert_eq!((handles(), maps()), (0, 0), "open files or maps after close");
        files.push(std::fs::read_dir(&path).unwrap().count());
    }
    assert_eq!(files[2], files[11], "files pile up: {files:?}");
}

#[test]
fn rule_7_unknown_extra_files_are_left_alone_and_orphans_of_ours_are_removed() {
    let (db, fs) = memory();
    db.put("k", "v").unwrap();
    db.flush().unwrap();
    db.close().unwrap();
    let create = |name: &str| {
        let path = std::path::Path::new(PATH).join(name);
        let file = fs.open(&path, kvdb::vfs::OpenMode::CreateNew).unwrap();
        file.write_all_at(b"something", 0).unwrap();
    };
    for name in ["notes.txt", "999990.sst", "999991.vlog", "MANIFEST.bak"] {
        create(name);
    }
    let db = open(&tiny(), &fs).unwrap();
    assert_eq!(db.get("k").unwrap().unwrap(), "v");
    let exists = |name: &str| fs.metadata(&std::path::Path::new(PATH).join(name)).is_ok();
    assert!(exists("notes.txt") && exists("MANIFEST.bak"));
    assert!(!exists("999990.sst") && !exists("999991.vlog"));
    // Ids go on above those that were found.
    db.put("l", "w").unwrap();
    db.flush().unwrap();
    assert!(fs.list(PATH.as_ref()).unwrap().iter().any(|e| {
        e.name
            .to_str()
            .and_then(|n| n.strip_suffix(".sst")?.parse::<u64>().ok())
            .is_some_and(|id| id > 999_991)
    }));
}

#[test]
fn rule_7_what_a_torn_manifest_does_not_name_is_moved_aside_and_stays_there() {
    let path = |name: &str| std::path::Path::new(PATH).join(name);
    let read = |fs: &MemFs, name: &str| {
        let file = fs.open(&path(name), OpenMode::Read).unwrap();
        let mut bytes = vec![0; file.len().unwrap() as usize];
        file.read_exact_at(&mut bytes, 0).unwrap();
        bytes
    };
    let tear = |fs: &MemFs| {
        let manifest = fs.open(&path("MANIFEST"), OpenMode::ReadWrite).unwrap();
        // The mark behind the last record, which has 16 bytes, and a byte of that record.
        manifest.set_len(manifest.len().unwrap() - 17).unwrap();
    };
    let tables = |fs: &MemFs| -> Vec<String> {
        let names = fs.list(PATH.as_ref()).unwrap().into_iter();
        let names = names.map(|e| e.name.display().to_string());
        names.filter(|n| n.ends_with(".sst")).collect()
    };
    let aside = |fs: &MemFs| -> Vec<String> {
        let names = fs.list(&path("orphans")).unwrap().into_iter();
        names.map(|e| e.name.display().to_string()).collect()
    };
    let fs = Arc::new(MemFs::new());
    let db = open(&manual(), &fs).unwrap();
    db.put("k", "v").unwrap();
    db.flush().unwrap();
    let named = tables(&fs);
    db.put("l", "w").unwrap();
    db.flush().unwrap();
    let table = tables(&fs).into_iter().find(|t| !named.contains(t)).unwrap();
    let bytes = read(&fs, &table);

    // The change set that named the second table is torn; the log still has what is in it.
    let fs = Arc::new(fs.process_image());
    tear(&fs);
    let db = open(&manual(), &fs).unwrap();
    assert_eq!(db.get("k").unwrap().unwrap(), "v");
    assert_eq!(db.get("l").unwrap().unwrap(), "w");
    assert_eq!(aside(&fs).join(" "), table);
    assert!(read(&fs, &format!("orphans/{table}")) == bytes, "as it was");
    assert!(!tables(&fs).contains(&table));
    db.close().unwrap();

    // No later opening takes it for a leftover, also not a read-only one.
    for options in [manual().read_only(true), manual(), tiny()] {
        open(&options, &fs).unwrap().close().unwrap();
        assert_eq!(aside(&fs).join(" "), table);
    }

    // Another file of the same name, aside in its turn, does not replace it.
    let db = open(&manual(), &fs).unwrap();
    db.put("m", "x").unwrap();
    db.flush().unwrap();
    let fs = Arc::new(fs.process_image());
    fs.open(&path(&table), OpenMode::CreateNew).unwrap();
    tear(&fs);
    let db = open(&manual(), &fs).unwrap();
    assert_eq!(db.get("m").unwrap().unwrap(), "x");
    assert!(read(&fs, &format!("orphans/{table}")) == bytes, "as it was");
    assert!(read(&fs, &format!("orphans/{table}.1")).is_empty());
    db.verify().unwrap();
}

#[test]
fn an_option_out_of_its_range_is_an_error_that_names_it() {
    let cases: [(Options, &str); 6] = [
        (Options::default().memtable_size(1), "memtable_size"),
        (Options::default().segment_size(1), "segment_size"),
        (Options::default().max_levels(1), "max_levels"),
        (Options::default().versions_to_keep(0), "versions_to_keep"),
        (Options::default().filter_bits_per_key(99), "filter_bits_per_key"),
        (Options::default().level0_stall_trigger(1), "level0_stall_trigger"),
    ];
    for (options, name) in cases {
        let error = options.open_in(Arc::new(MemFs::new()), PATH).unwrap_err();
        assert!(matches!(&error, Error::InvalidOption { name: n, .. } if *n == name), "{error}");
    }
}

#[test]
fn sizes_are_the_same_for_a_writer_and_for_a_read_only_opener() {
    let (db, fs) = memory();
    for i in 0..40u32 {
        db.put(i.to_be_bytes(), common::value(i.into(), 100_000)).unwrap();
    }
    db.flush().unwrap();
    let log_bytes = db.stats().log_bytes;
    assert!((4_000_000..9_000_000).contains(&log_bytes), "{log_bytes}");
    let live: u64 = db.stats().segments.iter().map(|s| s.live_bytes).sum();
    assert!((4_000_000..4_100_000).contains(&live), "{live}");
    db.close().unwrap();
    let read_only = open(&tiny().read_only(true), &fs).unwrap().stats();
    // Segments that were left but not sealed yet count whole; less than a value is free in each.
    let difference = read_only.log_bytes.abs_diff(log_bytes);
    let most = 110_000 * read_only.segments.len() as u64;
    assert!(difference < most, "{} {log_bytes}", read_only.log_bytes);
}

#[test]
fn rule_4_close_cuts_a_compaction_short_that_a_caller_waits_for() {
    let fs = Arc::new(MemFs::new());
    let options = tiny().durability(Durability::Buffered).value_threshold(1 << 20);
    let db = open(&options, &fs).unwrap();
    for i in 0..30_000u64 {
        db.put(i.wrapping_mul(0x9E37_79B9_7F4A_7C15).to_be_bytes(), common::value(i, 400)).unwrap();
    }
    let compacting = {
        let db = db.clone();
        std::thread::spawn(move || (db.compact(), std::time::Instant::now()))
    };
    std::thread::sleep(std::time::Duration::from_millis(20));
    db.close().unwrap();
    let closed = std::time::Instant::now();
    let (outcome, ended) = compacting.join().unwrap();
    assert!(matches!(outcome, Ok(()) | Err(Error::Closed)), "{outcome:?}");
    assert!(ended < closed, "a caller still worked on the directory after close");
    let db = open(&options, &fs).unwrap();
    assert_eq!(db.iter().unwrap().count(), 30_000);
}
