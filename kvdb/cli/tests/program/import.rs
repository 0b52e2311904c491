//! `kvdb import`: what goes in, what stays out, what is said.

use std::fs;
use std::path::Path;

use crate::support::{Place, assert_imported};
use crate::tree::{Recipe, below};

const RECIPE: Recipe = Recipe { files: 300, bytes: 6 << 20, seed: 1 };

#[test]
fn every_file_comes_back_byte_for_byte_and_keys_are_in_order() {
    let place = Place::new();
    let folder = place.path("folder");
    let made = RECIPE.make(&folder).unwrap();
    let out = String::from_utf8(place.ok("import", [&folder])).unwrap();
    let bytes: u64 = made.values().map(|file| file.size).sum();
    assert!(out.starts_with(&format!("imported  300 files, {bytes} bytes in ")), "{out}");
    assert!(out.ends_with("failed    0\n"), "{out}");
    assert_imported(&place.db(), &made);
    for (key, file) in made.iter().step_by(37) {
        assert!(place.ok("get", [key]) == file.contents(), "{key}");
    }
}

#[test]
fn the_summary_tells_the_tree_from_the_log() {
    let place = Place::new();
    place.write("folder/empty", "");
    place.write("folder/below", [b'x'; 1023]);
    place.write("folder/at", [b'x'; 1024]);
    let out = String::from_utf8(place.ok("import", [place.path("folder")])).unwrap();
    assert!(out.contains("tree      2 files, 1023 bytes (values below 1024 bytes)\n"), "{out}");
    assert!(out.contains("log       1 file, 1024 bytes\n"), "{out}");
}

#[test]
fn an_empty_file_is_an_empty_value_and_not_absence() {
    let place = Place::new();
    place.write("folder/empty", "");
    place.ok("import", [place.path("folder")]);
    assert_eq!(place.ok("get", ["empty"]), b"");
    assert_eq!(place.run("get", ["other"]).code, Some(1));
}

#[test]
fn importing_again_overwrites_and_keeps_what_is_gone() {
    let place = Place::new();
    place.write("folder/changed", "old");
    place.write("folder/gone", "stays");
    place.ok("import", [place.path("folder")]);
    place.write("folder/changed", vec![b'n'; 5000]);
    fs::remove_file(place.path("folder/gone")).unwrap();
    place.ok("import", [place.path("folder")]);
    assert_eq!(place.ok("get", ["changed"]), vec![b'n'; 5000]);
    assert_eq!(place.ok("get", ["gone"]), b"stays");
}

#[test]
fn build_output_and_repository_are_left_out_unless_all_is_asked_for() {
    let place = Place::new();
    for file in ["a", "target/b", "sub/target/c", ".git/d", "sub/.git/e", "f/target"] {
        place.write(&format!("folder/{file}"), file);
    }
    let folder = place.path("folder");
    let out = String::from_utf8(place.ok("import", [&folder])).unwrap();
    assert!(out.contains("4 left out"), "{out}");
    assert_eq!(place.ok("scan", ["--keys-only"]), b"a\nf/target\n");

    let arguments: [&Path; 4] = ["--all".as_ref(), "--exclude".as_ref(), "e".as_ref(), &folder];
    place.ok("import", arguments);
    assert_eq!(place.ok("scan", ["--keys-only"]), b".git/d\na\nf/target\nsub/target/c\ntarget/b\n");
}

#[test]
fn the_database_within_the_folder_does_not_import_itself() {
    let place = Place::new();
    place.write("file", "contents");
    place.ok("import", [place.dir.path()]);
    place.ok("import", ["--all".as_ref(), place.dir.path()]);
    assert_eq!(place.ok("scan", ["--keys-only"]), b"file\n");
    let ran = place.run("import", [place.db()]);
    assert_eq!(ran.code, Some(2));
    assert!(ran.err.contains("within the database itself"), "{ran:?}");
}

#[test]
fn the_current_directory_can_be_imported_by_its_dot() {
    let place = Place::new();
    place.write("sub/file", "contents");
    let status = place.command("import").arg(".").current_dir(place.dir.path()).output().unwrap();
    assert!(status.status.success(), "{status:?}");
    assert_eq!(place.ok("get", ["sub/file"]), b"contents");
}

#[test]
fn a_folder_that_is_none_creates_no_database() {
    let place = Place::new();
    let file = place.write("file", "");
    for (folder, words) in [(place.path("nowhere"), "nowhere"), (file, "not a directory")] {
        let ran = place.run("import", [folder]);
        assert_eq!(ran.code, Some(2));
        assert!(ran.err.contains(words), "{ran:?}");
        assert!(!place.db().exists());
    }
}

#[test]
fn a_file_that_is_too_large_is_named_and_the_rest_goes_in() {
    let place = Place::new();
    place.write("folder/a", "before");
    place.write("folder/z", "after");
    let large = place.write("folder/large", "");
    // Longer than any frame, and it takes no room on the disk.
    fs::File::options().write(true).open(&large).unwrap().set_len(1 << 32).unwrap();
    let ran = place.run("import", [place.path("folder")]);
    assert_eq!(ran.code, Some(1), "{ran:?}");
    assert!(ran.err.contains("large: too large: 4294967296 bytes"), "{ran:?}");
    assert!(ran.text().ends_with("failed    1\n"), "{ran:?}");
    assert_eq!(place.ok("scan", [""; 0]), b"a\tbefore\nz\tafter\n");
}

#[test]
fn sync_for_each_group_gives_the_same_entries() {
    let place = Place::new();
    let folder = place.path("folder");
    let made = RECIPE.make(&folder).unwrap();
    place.ok("import", ["--sync".as_ref(), folder.as_path()]);
    assert_imported(&place.db(), &made);
}

#[cfg(unix)]
mod unix {
    use std::ffi::OsStr;
    use std::fs;
    use std::os::unix::ffi::OsStrExt;
    use std::os::unix::fs::{PermissionsExt, symlink};
    use std::process::Command;

    use super::Place;

    #[test]
    fn symbolic_links_are_skipped_and_counted() {
        let place = Place::new();
        place.write("folder/real", "contents");
        symlink("real", place.path("folder/link")).unwrap();
        symlink("..", place.path("folder/up")).unwrap();
        let out = String::from_utf8(place.ok("import", [place.path("folder")])).unwrap();
        assert!(out.contains("skipped   2 symbolic links, 0 left out"), "{out}");
        assert_eq!(place.ok("scan", ["--keys-only"]), b"real\n");
    }

    #[test]
    fn a_file_that_cannot_be_read_is_named_and_the_rest_goes_in() {
        let place = Place::new();
        place.write("folder/a", "before");
        place.write("folder/z", "after");
        let secret = place.write("folder/secret", "contents");
        fs::set_permissions(&secret, fs::Permissions::from_mode(0o000)).unwrap();
        if fs::read(&secret).is_ok() {
            return; // Nobody keeps secrets from root; the next test is for root as well.
        }
        let ran = place.run("import", [place.path("folder")]);
        assert_eq!(ran.code, Some(1), "{ran:?}");
        assert!(ran.err.contains("secret"), "{ran:?}");
        assert_eq!(place.ok("scan", ["--keys-only"]), b"a\nz\n");
    }

    #[test]
    fn a_folder_that_cannot_be_listed_is_named_and_the_rest_goes_in() {
        let place = Place::new();
        place.write("folder/a", "before");
        place.write("folder/z", "after");
        // Deeper than a path can say: step by step one gets there, by its full name nobody does.
        let script = "name=n$(printf %0200d 0); cd -P \"$1\"; \
                      for i in $(seq 30); do mkdir $name && cd -P $name || exit 1; done; echo contents > file";
        let status = Command::new("sh")
            .args(["-c", script, "sh"])
            .arg(place.path("folder"))
            .status()
            .unwrap();
        assert!(status.success());
        let ran = place.run("import", [place.path("folder")]);
        assert_eq!(ran.code, Some(1), "{ran:?}");
        assert!(ran.err.contains("not imported: "), "{ran:?}");
        assert_eq!(place.ok("scan", ["--keys-only"]), b"a\nz\n");
    }

    #[test]
    fn names_that_are_no_text_are_keys_all_the_same() {
        let place = Place::new();
        let name = OsStr::from_bytes(b"na\xffme\n");
        fs::create_dir(place.path("folder")).unwrap();
        fs::write(place.path("folder").join(name), "contents").unwrap();
        place.ok("import", [place.path("folder")]);
        assert_eq!(place.ok("get", [name]), b"contents");
        assert_eq!(place.ok("scan", ["--keys-only"]), b"na\\xffme\\n\n");
        assert_eq!(place.ok("get", ["-e", "na\\xffme\\n"]), b"contents");
        assert_eq!(place.ok("get", ["--hex", "6e61ff6d650a"]), b"contents");
    }
}

#[test]
fn files_of_a_folder_are_found_by_its_prefix_forwards_and_backwards() {
    let place = Place::new();
    let folder = place.path("folder");
    let made = RECIPE.make(&folder).unwrap();
    place.ok("import", [&folder]);
    let mut keys: Vec<&String> = made.keys().filter(|key| key.starts_with("src/")).collect();
    assert!(keys.len() > 3);
    assert!(keys.iter().all(|key| below(&folder, key).is_file()));
    let list = |keys: &[&String]| keys.iter().map(|key| format!("{key}\n")).collect::<String>();
    let arguments = ["--keys-only", "--raw", "--prefix", "src/"];
    assert_eq!(String::from_utf8(place.ok("scan", arguments)).unwrap(), list(&keys));
    keys.reverse();
    let reverse = arguments.iter().chain(&["--reverse"]);
    assert_eq!(String::from_utf8(place.ok("scan", reverse)).unwrap(), list(&keys));
}
