//! A value directory that is someone else's: nothing in it is ever taken for a leftover.
#![allow(clippy::unwrap_used)] // a test may panic

mod common;

use std::path::Path;
use std::sync::Arc;

use common::{tiny, value};
use kvdb::Error;
use kvdb::vfs::{Fs, MemFs, OpenMode};

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
