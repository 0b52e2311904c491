//! An import that is killed leaves whole files, and exactly the first ones.

use std::process::Stdio;
use std::thread;
use std::time::Instant;

use crate::support::{Place, assert_imported};
use crate::tree::{Plan, Recipe};

/// How often the import is killed.
const KILLS: u32 = 12;

#[test]
fn a_killed_import_leaves_whole_files_only_and_can_be_started_again() {
    let place = Place::new();
    let folder = place.path("folder");
    let made = Recipe { files: 600, bytes: 24 << 20, seed: 2 }.make(&folder).unwrap();

    let started = Instant::now();
    place.ok("import", ["--sync".as_ref(), folder.as_path()]);
    let whole = started.elapsed();
    assert_imported(&place.db(), &made);
    std::fs::remove_dir_all(place.db()).unwrap();

    let mut rng = fastrand::Rng::with_seed(3);
    let mut cut_short = 0;
    for kill in 0..KILLS {
        // Every other time the store is that of the import that was killed before.
        if kill % 2 == 0 && place.db().exists() {
            std::fs::remove_dir_all(place.db()).unwrap();
        }
        let before = count(&place, &made);
        let mut child = place
            .command("import")
            .arg("--sync")
            .arg(&folder)
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        thread::sleep(whole.mul_f64(rng.f64()));
        child.kill().unwrap();
        let finished = child.wait().unwrap().success();
        let after = count(&place, &made);
        assert!(after >= before && (!finished || after == made.len()), "{before}, then {after}");
        cut_short += u32::from(after < made.len());
    }
    assert!(cut_short > 0, "no kill came in time: {whole:?}");
    place.ok("import", [&folder]);
    assert_imported(&place.db(), &made);
}

/// How many files are in; they must be the first ones, and whole.
fn count(place: &Place, made: &std::collections::BTreeMap<String, Plan>) -> usize {
    if !place.db().exists() {
        return 0;
    }
    let db = kvdb::Db::open(place.db()).unwrap();
    let mut expected = made.iter();
    let mut count = 0;
    for item in db.iter().unwrap() {
        let item = item.unwrap();
        let (key, file) = expected.next().unwrap();
        assert_eq!(item.key(), key.as_bytes(), "not the next file");
        assert!(item.value().unwrap()[..] == file.contents(), "{key} is not whole");
        count += 1;
    }
    db.close().unwrap();
    count
}
