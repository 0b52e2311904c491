//! `get`, `put`, `del`, `scan`, `info`: what they print and how they end.

use std::io::{Read, Write};
use std::process::Stdio;

use crate::support::Place;

/// A database with the entries a, b, c, d and some that are no text.
fn filled() -> Place {
    let place = Place::new();
    for (key, value) in [
        ("61", "one"),
        ("62", "two"),
        ("63", ""),
        ("64", "four"),
        ("00ff", "\\x\t"),
        ("ff", "last"),
    ] {
        place.ok("put", ["--hex", key, value]);
    }
    place
}

#[test]
fn put_takes_the_value_from_its_argument_a_file_or_stdin() {
    let place = Place::new();
    let bytes: Vec<u8> = (0..=255).cycle().take(100_000).collect();
    let file = place.write("value", &bytes);
    place.ok("put", ["argument", "value"]);
    place.ok("put", ["file".as_ref(), "--file".as_ref(), file.as_os_str()]);
    let mut child = place.command("put").arg("stdin").stdin(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(&bytes).unwrap();
    assert!(child.wait().unwrap().success());
    assert_eq!(place.ok("get", ["argument"]), b"value");
    assert_eq!(place.ok("get", ["file"]), bytes);
    assert_eq!(place.ok("get", ["stdin"]), bytes);
}

#[test]
fn put_of_a_file_that_is_not_there_creates_no_database() {
    let place = Place::new();
    let ran = place.run("put", ["key", "--file", "/nowhere/at/all"]);
    assert_eq!(ran.code, Some(2));
    assert!(ran.err.contains("/nowhere/at/all"), "{ran:?}");
    assert!(!place.db().exists());
}

#[test]
fn an_absent_key_is_exit_code_1_and_nothing_on_stdout() {
    let place = filled();
    for command in ["get", "del"] {
        let ran = place.run(command, ["absent"]);
        assert_eq!((ran.code, ran.text()), (Some(1), ""));
        assert!(ran.err.contains("not found: absent"), "{ran:?}");
    }
}

#[test]
fn a_deleted_key_is_gone() {
    let place = filled();
    place.ok("del", ["b"]);
    assert_eq!(place.run("get", ["b"]).code, Some(1));
    assert_eq!(place.run("del", ["b"]).code, Some(1));
    assert_eq!(place.ok("scan", ["--from", "a", "--keys-only"]), b"a\nc\nd\n\\xff\n");
}

#[test]
fn scan_escapes_what_is_not_printable_and_separates_by_a_tab() {
    let place = filled();
    let all = "\\x00\\xff\t\\\\x\\t\na\tone\nb\ttwo\nc\t\nd\tfour\n\\xff\tlast\n";
    assert_eq!(String::from_utf8(place.ok("scan", [""; 0])).unwrap(), all);
    let reversed: Vec<&str> = all.lines().rev().collect();
    assert_eq!(
        String::from_utf8(place.ok("scan", ["--reverse"])).unwrap(),
        reversed.join("\n") + "\n"
    );
}

#[test]
fn scan_raw_and_null_leave_bytes_as_they_are() {
    let place = filled();
    assert_eq!(place.ok("scan", ["--raw", "--to", "b"]), b"\0\xff\t\\x\t\na\tone\n");
    assert_eq!(place.ok("scan", ["-0", "--to", "b", "--from", "a"]), b"a\0one\0");
    assert_eq!(place.ok("scan", ["-0", "--keys-only", "--from", "c"]), b"c\0d\0\xff\0");
}

#[test]
fn scan_bounds_are_inclusive_below_and_exclusive_above() {
    let place = filled();
    let keys = |arguments: &[&str]| {
        let arguments = arguments.iter().copied().chain(["--keys-only"]);
        String::from_utf8(place.ok("scan", arguments)).unwrap().replace('\n', " ")
    };
    assert_eq!(keys(&["--from", "b", "--to", "d"]), "b c ");
    assert_eq!(keys(&["--from", "b", "--to", "d", "--reverse"]), "c b ");
    assert_eq!(keys(&["--from", "bb", "--reverse"]), "\\xff d c ");
    assert_eq!(keys(&["--from", "d", "--to", "b"]), "");
    assert_eq!(keys(&["--from", "d", "--to", "d"]), "");
    assert_eq!(keys(&["--prefix", "c", "--from", "a"]), "c ");
    assert_eq!(keys(&["--prefix", "c", "--from", "d"]), "");
    assert_eq!(keys(&["--prefix", "ff", "--hex"]), "\\xff ");
    assert_eq!(keys(&["--prefix", "\\xff", "-e", "--reverse"]), "\\xff ");
    assert_eq!(keys(&["--prefix", ""]), "\\x00\\xff a b c d \\xff ");
    assert_eq!(keys(&["--limit", "2"]), "\\x00\\xff a ");
    assert_eq!(keys(&["--limit", "2", "--reverse"]), "\\xff d ");
    assert_eq!(keys(&["--limit", "0"]), "");
}

#[test]
fn commands_that_read_create_no_database() {
    let place = Place::new();
    let commands: [(&str, &[&str]); 4] =
        [("get", &["k"]), ("del", &["k"]), ("scan", &[]), ("info", &[])];
    for (command, arguments) in commands {
        let ran = place.run(command, arguments);
        assert_eq!(ran.code, Some(2));
        assert!(ran.err.contains("there is no database at"), "{ran:?}");
        assert!(ran.err.contains("kvdb import"), "says what to do: {ran:?}");
        assert!(!place.db().exists());
    }
}

#[test]
fn a_path_that_is_no_database_is_an_error_that_names_it() {
    let place = Place::new();
    place.write("test.kvdb", "a file of another kind");
    for command in ["get", "put"] {
        let ran = place.run(command, ["k", "v"].iter().take(if command == "get" { 1 } else { 2 }));
        assert_eq!(ran.code, Some(2), "{ran:?}");
        assert!(ran.err.contains("test.kvdb"), "{ran:?}");
    }
}

#[test]
fn an_empty_directory_is_no_database_and_stays_empty() {
    let place = Place::new();
    std::fs::create_dir(place.db()).unwrap();
    let ran = place.run("scan", [""; 0]);
    assert_eq!(ran.code, Some(2), "{ran:?}");
    assert_eq!(std::fs::read_dir(place.db()).unwrap().count(), 0);
}

#[test]
fn a_database_that_is_in_use_is_an_error_that_says_so() {
    let place = filled();
    let db = kvdb::Db::open(place.db()).unwrap();
    for (command, arguments) in [("get", &["a"][..]), ("put", &["a", "b"]), ("scan", &[])] {
        let ran = place.run(command, arguments);
        assert_eq!(ran.code, Some(2), "{ran:?}");
        assert!(ran.err.contains("in use") && ran.err.contains("another process"), "{ran:?}");
    }
    db.close().unwrap();
    place.ok("get", ["a"]);
}

#[test]
fn readers_share_a_database() {
    let place = filled();
    let mut options = kvdb::Options::default();
    options.read_only = true;
    let _reader = options.open(place.db()).unwrap();
    assert_eq!(place.ok("get", ["a"]), b"one");
    place.ok("info", [""; 0]);
}

#[test]
fn wrong_usage_is_exit_code_2_and_help_is_0() {
    let place = filled();
    let uses: [(&str, &[&str]); 9] = [
        ("get", &[]),
        ("get", &["a", "b"]),
        ("get", &["--hex", "xyz"]),
        ("get", &["-e", "\\q"]),
        ("get", &[""]),
        ("put", &["k", "v", "--file", "f"]),
        ("scan", &["--limit", "many"]),
        ("scan", &["--raw", "-0"]),
        ("scan", &["--hex", "-e"]),
    ];
    for (command, arguments) in uses {
        let ran = place.run(command, arguments);
        assert_eq!(ran.code, Some(2), "{command} {arguments:?}: {ran:?}");
        assert!(!ran.err.is_empty() && ran.out.is_empty());
    }
    let help = place.run("scan", ["--help"]);
    assert_eq!(help.code, Some(0));
    assert!(help.text().contains("Exit codes"), "{help:?}");
}

#[test]
fn keys_at_the_limit_work_and_one_byte_more_is_an_error_that_names_it() {
    let place = Place::new();
    let longest = "k".repeat(65_000);
    place.ok("put", [&longest, "value"]);
    assert_eq!(place.ok("get", [&longest]), b"value");
    let ran = place.run("put", [longest + "k", "value".to_owned()]);
    assert_eq!(ran.code, Some(2));
    assert!(ran.err.contains("65001") && ran.err.contains("65000"), "{ran:?}");
}

#[test]
fn info_shows_levels_and_segments_and_the_same_as_json() {
    let place = Place::new();
    place.ok("put", ["small", "value"]);
    place.ok("put", ["large", &"x".repeat(5000)]);
    let text = String::from_utf8(place.ok("info", [""; 0])).unwrap();
    for words in ["database", "level", "segment", "garbage"] {
        assert!(text.contains(words), "{text}");
    }
    let json: serde_json::Value = serde_json::from_slice(&place.ok("info", ["--json"])).unwrap();
    assert!(json["path"].as_str().unwrap().ends_with("test.kvdb"));
    assert!(json["stats"]["levels"].is_array());
    assert!(!json["stats"]["segments"].as_array().unwrap().is_empty(), "{json}");
}

#[test]
fn a_reader_that_goes_away_ends_a_scan_quietly() {
    let place = Place::new();
    place.ok("put", ["large".to_owned(), "x".repeat(100_000)]);
    for key in ["b", "c", "d", "e", "f"] {
        place.ok("put", [key.to_owned(), "x".repeat(100_000)]);
    }
    let mut child =
        place.command("scan").stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut start = [0; 10];
    child.stdout.take().unwrap().read_exact(&mut start).unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(&start, b"b\txxxxxxxx");
    assert!(output.status.success(), "{output:?}");
    assert!(output.stderr.is_empty(), "{output:?}");
}
