//! A value directory that is someone else's: nothing in it is ever taken for a leftover.
#![allow(clippy::unwrap_used)] // a test may panic

mod common;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use common::{tiny, value};
use kvdb::vfs::{Fault, FaultFs, FaultPlan, Fs, MemFs, OpenMode};
use kvdb::{Error, ErrorKind, Options};

#[test]
fn rule_2b_a_new_store_refuses_the_value_directory_of_another_and_leaves_it_whole() {
    let fs = Arc::new(MemFs::new());
    let one = tiny().value_dir("/log");
    let db = one.open_in(fs.clone(), "/one").unwrap();
    db.put("k", value(1, 5000)).unwrap();
    db.close().unwrap();
    let error = one.open_in(fs.clone(), "/two").unwrap_err();
    assert!(
        matches!(&error, Error::NotADatabase { path, .. } if path == Path::new("/log")),
        "{error}"
    );
    let db = one.open_in(fs.clone(), "/one").unwrap();
    assert_eq!(db.get("k").unwrap().unwrap(), value(1, 5000));
    db.verify().unwrap();
    // With a directory of its own the refused path becomes a store.
    db.close().unwrap();
    tiny().value_dir("/log2").open_in(fs, "/two").unwrap().put("k", "v").unwrap();
}

#[test]
fn rule_2b_a_new_store_refuses_a_store_as_its_value_directory_and_leaves_it_whole() {
    let fs = Arc::new(MemFs::new());
    let db = tiny().open_in(fs.clone(), "/plain").unwrap();
    db.put("k", value(1, 5000)).unwrap();
    db.flush().unwrap();
    db.close().unwrap();
    let error = tiny().value_dir("/plain").open_in(fs.clone(), "/new").unwrap_err();
    assert!(matches!(error, Error::NotADatabase { .. }), "{error}");
    let db = tiny().open_in(fs, "/plain").unwrap();
    assert_eq!(db.get("k").unwrap().unwrap(), value(1, 5000));
    db.verify().unwrap();
}

#[test]
fn rule_2b_a_store_that_is_opened_without_its_value_directory_says_which_option_is_wrong() {
    let fs = Arc::new(MemFs::new());
    let open = |options: &Options, path| options.open_in(fs.clone(), path);
    let (apart, together) = (tiny().value_dir("/log"), tiny());
    for (options, path) in [(&apart, "/apart"), (&together, "/together")] {
        let db = open(options, path).unwrap();
        db.put("k", value(1, 5000)).unwrap();
        db.close().unwrap();
    }
    fs.create_dir_all("/empty".as_ref()).unwrap();
    for (path, options, log) in [
        ("/apart", tiny(), "/apart"),
        ("/apart", tiny().value_dir("/empty"), "/empty"),
        ("/apart", tiny().value_dir("/none"), "/none"),
        ("/together", tiny().value_dir("/empty"), "/empty"),
        ("/together", tiny().value_dir("/none"), "/none"),
    ] {
        for options in [options.clone().read_only(true), options] {
            let error = open(&options, path).unwrap_err();
            let text = error.to_string();
            assert!(
                matches!(&error, Error::WrongValueDir { path: of, value_dir }
                    if of == Path::new(path) && value_dir == Path::new(log)),
                "{path}, {log}: {error:?}"
            );
            assert!(text.contains("value_dir") && text.contains(log), "{text}");
            assert_eq!(error.kind(), ErrorKind::Usage);
        }
    }
    assert!(fs.metadata("/none".as_ref()).is_err(), "a wrong directory was created");
    assert!(fs.list("/empty".as_ref()).unwrap().is_empty());
    for (options, path) in [(&apart, "/apart"), (&together, "/together")] {
        assert_eq!(open(options, path).unwrap().get("k").unwrap().unwrap(), value(1, 5000));
    }
}

#[test]
fn rule_49_a_file_of_the_log_that_is_missing_is_damage_that_names_it() {
    let fs = Arc::new(MemFs::new());
    let options = tiny().value_dir("/log");
    let db = options.open_in(fs.clone(), "/db").unwrap();
    for i in 0..400u64 {
        db.put(i.to_be_bytes(), value(i, 5000)).unwrap();
    }
    db.close().unwrap();
    let first = fs.list("/log".as_ref()).unwrap().into_iter().map(|e| e.name).min().unwrap();
    let first = Path::new("/log").join(first);
    fs.remove(&first).unwrap();
    let left = fs.list("/log".as_ref()).unwrap().len();
    assert!(left > 1, "the log has several files");
    let error = options.open_in(fs.clone(), "/db").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corruption, "{error}");
    let text = error.to_string();
    assert!(text.contains(first.to_str().unwrap()) && text.contains("value_dir"), "{text}");
    assert_eq!(fs.list("/log".as_ref()).unwrap().len(), left, "nothing is deleted");
}

/// The log's files in a directory, removed.
fn lose_log(fs: &MemFs, dir: &str) {
    for entry in fs.list(dir.as_ref()).unwrap() {
        if entry.name.extension().is_some_and(|x| x == "vlog") {
            fs.remove(&Path::new(dir).join(entry.name)).unwrap();
        }
    }
}

#[test]
fn rule_49_a_store_whose_whole_log_is_gone_from_its_own_directory_is_to_be_restored() {
    let fs = Arc::new(MemFs::new());
    let open = |options: &Options, path| options.clone().open_in(fs.clone(), path);
    for path in ["/lost", "/other"] {
        let db = open(&tiny(), path).unwrap();
        for i in 0..400u64 {
            db.put(i.to_be_bytes(), value(i, 5000)).unwrap();
        }
        db.close().unwrap();
    }
    lose_log(&fs, "/lost");
    let left = fs.list("/lost".as_ref()).unwrap();
    let is_lost = |what: &str| {
        for options in [tiny().read_only(true), tiny()] {
            let error = open(&options, "/lost").unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Corruption, "{what}: {error}");
            let text = error.to_string();
            assert!(text.contains("missing from /lost") && text.contains(".vlog"), "{text}");
        }
    };
    is_lost("no file of a log is left");
    assert_eq!(fs.list("/lost".as_ref()).unwrap(), left, "nothing is deleted");
    // Those of another store do not stand for it.
    for entry in fs.list("/other".as_ref()).unwrap() {
        if entry.name.extension().is_some_and(|x| x == "vlog") {
            plant(&fs, &Path::new("/other").join(&entry.name), Path::new("/lost/777777.vlog"));
            break;
        }
    }
    is_lost("files of another store");
    // Asked for elsewhere, it is the option that is wrong.
    fs.create_dir_all("/empty".as_ref()).unwrap();
    let error = open(&tiny().value_dir("/empty"), "/lost").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Usage, "{error}");
}

#[test]
fn rule_2b_the_value_directory_of_another_store_is_a_wrong_one_whatever_its_files_are_called() {
    let fs = Arc::new(MemFs::new());
    let open = |options: &Options, path| options.clone().open_in(fs.clone(), path);
    let (one, two) = (tiny().value_dir("/one-log"), tiny().value_dir("/two-log"));
    for (options, path, count) in [(&one, "/one", 10u64), (&two, "/two", 2000)] {
        let db = open(options, path).unwrap();
        for i in 0..count {
            db.put(i.to_be_bytes(), value(i, 5000)).unwrap();
        }
        if count > 10 {
            // The first files are gone, and with them the names that both had.
            for i in 0..count {
                db.delete(i.to_be_bytes()).unwrap();
            }
            db.compact().unwrap();
            db.gc(&Default::default()).unwrap();
        }
        db.close().unwrap();
    }
    for (options, path) in [(&two, "/one"), (&one, "/two")] {
        let error = open(options, path).unwrap_err();
        assert!(matches!(&error, Error::WrongValueDir { .. }), "{path}: {error}");
    }
    for (options, path) in [(&one, "/one"), (&two, "/two")] {
        open(options, path).unwrap().verify().unwrap();
    }
}

#[test]
fn rule_2b_a_log_that_was_moved_is_found_where_the_option_says_and_missed_there_later() {
    let fs = Arc::new(MemFs::new());
    let open = |options: &Options| options.clone().open_in(fs.clone(), "/db");
    let db = open(&tiny()).unwrap();
    db.put("k", value(1, 5000)).unwrap();
    db.close().unwrap();
    fs.create_dir_all("/log".as_ref()).unwrap();
    for entry in fs.list("/db".as_ref()).unwrap() {
        if entry.name.extension().is_some_and(|x| x == "vlog") {
            let from = Path::new("/db").join(&entry.name);
            fs.rename(&from, &Path::new("/log").join(&entry.name)).unwrap();
        }
    }
    let apart = tiny().value_dir("/log");
    let db = open(&apart).unwrap();
    assert_eq!(db.get("k").unwrap().unwrap(), value(1, 5000));
    db.close().unwrap();
    // From now on it is the option that is missing, not the log.
    assert!(matches!(open(&tiny()), Err(Error::WrongValueDir { .. })));
    assert_eq!(open(&apart).unwrap().get("k").unwrap().unwrap(), value(1, 5000));
}

#[test]
fn rule_2b_a_value_directory_that_a_first_opening_did_not_come_to_is_created_by_the_next() {
    let fs = Arc::new(MemFs::new());
    let faulty = FaultFs::new(fs.clone() as Arc<dyn Fs>);
    faulty.arm(FaultPlan::new(Fault::Io).path(".vlog").forever());
    let options = tiny().value_dir("/log");
    options.open_in(Arc::new(faulty), "/db").unwrap_err();
    // As after a power cut: the manifest was durable, and the name of the other directory was not.
    assert!(fs.metadata("/db/MANIFEST".as_ref()).is_ok());
    fs.remove_dir("/log".as_ref()).unwrap();
    let read_only = options.clone().read_only(true).open_in(fs.clone(), "/db").unwrap_err();
    assert_eq!(read_only.kind(), ErrorKind::NotFound, "{read_only}");
    let db = options.open_in(fs, "/db").unwrap();
    db.put("k", "v").unwrap();
    db.close().unwrap();
}

#[test]
fn rule_7_a_segment_of_another_database_is_no_orphan_of_ours() {
    let fs = Arc::new(MemFs::new());
    for path in ["/one", "/two"] {
        let db = tiny().open_in(fs.clone(), path).unwrap();
        db.put("k", value(1, 5000)).unwrap();
        db.close().unwrap();
    }
    let theirs = fs.list("/two".as_ref()).unwrap().into_iter().map(|e| e.name);
    let theirs = theirs.into_iter().find(|n| n.extension().is_some_and(|x| x == "vlog")).unwrap();
    let copied = Path::new("/one/999999.vlog");
    {
        let from = fs.open(&Path::new("/two").join(theirs), OpenMode::Read).unwrap();
        let mut bytes = vec![0; from.len().unwrap() as usize];
        from.read_exact_at(&mut bytes, 0).unwrap();
        fs.open(copied, OpenMode::CreateNew).unwrap().write_all_at(&bytes, 0).unwrap();
    }
    // A table where only the log lives is not ours either.
    let log_dir = tiny().value_dir("/log");
    drop(log_dir.open_in(fs.clone(), "/three").unwrap());
    fs.open("/log/000777.sst".as_ref(), OpenMode::CreateNew).unwrap();

    tiny().open_in(fs.clone(), "/one").unwrap().put("l", "v").unwrap();
    assert!(fs.metadata(copied).is_ok(), "a file of another database was deleted");
    drop(log_dir.open_in(fs.clone(), "/three").unwrap());
    assert!(fs.metadata("/log/000777.sst".as_ref()).is_ok(), "it was none of ours");
}

/// Copies a file of `from` into `to`, under a number that `to` has not given out.
fn plant(fs: &MemFs, from: &Path, to: &Path) {
    let from = fs.open(from, OpenMode::Read).unwrap();
    let mut bytes = vec![0; from.len().unwrap() as usize];
    from.read_exact_at(&mut bytes, 0).unwrap();
    fs.open(to, OpenMode::CreateNew).unwrap().write_all_at(&bytes, 0).unwrap();
}

/// The relocation tables and record files in a directory.
fn relocated(fs: &MemFs, dir: &str) -> Vec<PathBuf> {
    let entries = fs.list(dir.as_ref()).unwrap().into_iter();
    let is_one = |n: &PathBuf| n.extension().is_some_and(|x| x == "vrec" || x == "vrel");
    entries.map(|e| e.name).filter(is_one).collect()
}

#[test]
fn rule_7_relocated_records_of_another_database_are_no_orphans_of_ours() {
    let fs = Arc::new(MemFs::new());
    for path in ["/one", "/two"] {
        let db = tiny().value_dir(format!("{path}/log")).open_in(fs.clone(), path).unwrap();
        for i in 0..400u64 {
            db.put(i.to_be_bytes(), value(i, 5000)).unwrap();
        }
        for i in (0..400u64).filter(|i| i % 4 != 0) {
            db.delete(i.to_be_bytes()).unwrap();
        }
        db.flush().unwrap();
        db.compact().unwrap();
        db.gc(&Default::default()).unwrap();
        db.close().unwrap();
    }
    let (ours, theirs) = (relocated(&fs, "/one/log"), relocated(&fs, "/two/log"));
    for kind in ["vrec", "vrel"] {
        let of = |all: &[PathBuf]| all.iter().find(|n| n.extension().unwrap() == kind).cloned();
        let (ours, theirs) = (of(&ours).unwrap(), of(&theirs).unwrap());
        let to = |number| PathBuf::from(format!("/one/log/{number}.{kind}"));
        plant(&fs, &Path::new("/two/log").join(theirs), &to(999_990));
        plant(&fs, &Path::new("/one/log").join(&ours), &to(999_991));
        // A crash while it was being made.
        fs.open(&to(999_992), OpenMode::CreateNew).unwrap();
        // A byte of its format version has turned: whose it is cannot be told.
        plant(&fs, &Path::new("/one/log").join(&ours), &to(999_993));
        let turned = fs.open(&to(999_993), OpenMode::ReadWrite).unwrap();
        turned.write_all_at(&[7], 9).unwrap();
        drop(tiny().value_dir("/one/log").open_in(fs.clone(), "/one").unwrap());
        assert!(fs.metadata(&to(999_990)).is_ok(), "a {kind} of another database was deleted");
        assert!(fs.metadata(&to(999_991)).is_err(), "a leftover {kind} of ours stayed");
        assert!(fs.metadata(&to(999_992)).is_err(), "an unfinished {kind} stayed");
        assert!(fs.metadata(&to(999_993)).is_ok(), "a {kind} that may be of a newer format");
    }
}
