//! `sst`: what it shows of a table file, and how it ends on files that are none or damaged.

use std::path::PathBuf;
use std::process::Command;

use kvdb_lsm::Entry;
use kvdb_sstable::{Builder, BuilderOptions, Identity};

use crate::support::{Place, Ran};

fn sst(file: &std::path::Path, arguments: &[&str]) -> Ran {
    let mut command = Command::new(env!("CARGO_BIN_EXE_kvdb"));
    command.arg("sst").arg(file).args(arguments).output().unwrap().into()
}

/// A table in a file, of entries in order.
fn table(place: &Place, entries: &[(&[u8], u64, Vec<u8>)]) -> PathBuf {
    let mut options = BuilderOptions::default();
    options.block_size = 256;
    options.identity = Identity { database: 0xabc, table: 7 };
    let mut builder = Builder::new(Vec::new(), options).unwrap();
    for (key, version, value) in entries {
        builder.add(key, *version, value).unwrap();
    }
    builder.add_property("hint\n", b"\0\x01").unwrap();
    place.write("table.sst", builder.finish().unwrap().0)
}

fn encoded(entry: Entry<'_>) -> Vec<u8> {
    let mut bytes = Vec::new();
    entry.encode(&mut bytes);
    bytes
}

/// What follows the heading of a section.
fn section<'a>(ran: &'a Ran, heading: &str) -> Vec<&'a str> {
    let mut lines = ran.text().lines().skip_while(|line| !line.starts_with(heading));
    lines.next().unwrap_or_else(|| panic!("no section {heading}: {ran:?}"));
    lines.take_while(|line| !line.is_empty()).collect()
}

#[test]
fn properties_are_shown_with_bytes_escaped() {
    let place = Place::new();
    let file = table(&place, &[(b"a\xff", 9, encoded(Entry::value(b"x"))), (b"b", 3, vec![1; 20])]);
    let ran = sst(&file, &[]);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    let text = ran.text();
    let value = |name: &str| {
        let line = text.lines().find(|line| line.starts_with(name)).unwrap();
        line[name.len()..].trim().to_owned()
    };
    assert_eq!(value("database"), format!("{:032x}", 0xabc));
    assert_eq!(value("table"), "7");
    assert_eq!(value("codec"), "none");
    assert_eq!(value("entries"), "2");
    assert_eq!(value("versions"), "3..=9");
    assert_eq!(value("smallest key"), "a\\xff");
    assert_eq!(value("largest key"), "b");
    assert_eq!(value("property hint\\n"), "\\x00\\x01");
    assert!(!text.contains("first key") && !text.contains("meta"), "{text}");
}

#[test]
fn entries_are_decoded_where_they_decode_and_raw_elsewhere() {
    let place = Place::new();
    let pointer = [1u32, 4096, 77].map(u32::to_le_bytes).concat();
    let full = Entry::value(b"v\t1").with_meta(5).with_expiry(1234);
    let file = table(
        &place,
        &[
            (b"\0", 4, encoded(full)),
            (b"k", 3, encoded(Entry::tombstone())),
            (b"k", 2, encoded(Entry::pointer(&pointer))),
            (b"k", 1, encoded(Entry::merge(b"+1"))),
            (b"l", 1, encoded(Entry::pointer(b"short"))),
            (b"z", 0, b"\x00\xffno entry".to_vec()),
        ],
    );
    let ran = sst(&file, &["--entries"]);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    let expected = [
        "\\x00\t4\tvalue\t5\t1234\tv\\t1",
        "k\t3\ttombstone\t0\t-\t",
        "k\t2\tpointer\t0\t-\t1:4096+77",
        "k\t1\tmerge\t0\t-\t+1",
        "l\t1\tpointer\t0\t-\tshort",
        "z\t0\traw\t-\t-\t\\x00\\xffno entry",
    ];
    assert_eq!(section(&ran, "key\t"), expected);
    let ran = sst(&file, &["--entries", "--raw"]);
    assert_eq!(section(&ran, "key\t")[1], "k\t3\traw\t-\t-\t\\x03");
}

#[test]
fn the_tables_of_a_database_are_shown_without_it() {
    let place = Place::new();
    let db = kvdb::Db::open(place.db()).unwrap();
    db.put("inline", "small").unwrap();
    db.put("separated", vec![7; 100_000]).unwrap();
    db.delete("gone").unwrap();
    db.flush().unwrap();
    db.close().unwrap();
    let is_table = |path: &PathBuf| path.extension().is_some_and(|e| e == "sst");
    let files = std::fs::read_dir(place.db()).unwrap().map(|entry| entry.unwrap().path());
    let files: Vec<_> = files.filter(is_table).collect();
    let lines: Vec<String> = files
        .iter()
        .flat_map(|file| {
            let ran = sst(file, &["--entries"]);
            assert_eq!(ran.code, Some(0), "{ran:?}");
            section(&ran, "key\t").into_iter().map(str::to_owned).collect::<Vec<_>>()
        })
        .collect();
    let starts = |text: &str| lines.iter().any(|line| line.starts_with(text));
    assert!(lines.contains(&"inline\t1\tvalue\t0\t-\tsmall".to_owned()), "{lines:?}");
    assert!(starts("separated\t2\tpointer\t0\t-\t"), "{lines:?}");
    assert!(starts("gone\t3\ttombstone"), "{lines:?}");
}

#[test]
fn blocks_are_listed_and_one_that_is_damaged_is_named_with_its_offset() {
    let place = Place::new();
    let keys: Vec<String> = (0..40).map(|i| format!("key{i:02}")).collect();
    let entries: Vec<_> =
        keys.iter().map(|key| (key.as_bytes(), 1, encoded(Entry::value(&[b'v'; 40])))).collect();
    let file = table(&place, &entries);
    let ran = sst(&file, &["--blocks"]);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    let rows: Vec<Vec<String>> = section(&ran, "block\t")
        .iter()
        .map(|line| line.split('\t').map(str::to_owned).collect())
        .collect();
    assert!(rows.len() == 5, "{rows:?}");
    assert!(rows.iter().all(|row| row.len() == 8 && row[5] == "none" && row[7] == "1"));
    assert_eq!(rows.iter().map(|row| row[4].parse::<usize>().unwrap()).sum::<usize>(), 40);
    assert_eq!(rows[0][6], "key00");

    let offset: usize = rows[3][1].parse().unwrap();
    let mut bytes = std::fs::read(&file).unwrap();
    bytes[offset + 50] ^= 1;
    std::fs::write(&file, bytes).unwrap();
    let ran = sst(&file, &["--blocks"]);
    assert_eq!(ran.code, Some(2), "{ran:?}");
    let damaged = section(&ran, "block\t");
    assert_eq!(damaged.len(), rows.len());
    assert!(damaged[3].starts_with(&format!("3\t{offset}\tchecksum mismatch")), "{damaged:?}");
    assert_eq!(damaged[4], rows[4].join("\t"));
    assert!(ran.err.contains("damage in 1 block"), "{ran:?}");

    let ran = sst(&file, &["--entries"]);
    assert_eq!(ran.code, Some(2), "{ran:?}");
    assert!(ran.err.contains("table.sst") && ran.err.contains(&format!("offset {offset}")));
    let ahead: usize = rows[..3].iter().map(|row| row[4].parse::<usize>().unwrap()).sum();
    assert_eq!(section(&ran, "key\t").len(), ahead, "what is ahead of the damage is shown");
}

#[test]
fn files_that_are_no_tables_are_errors_that_say_so() {
    let place = Place::new();
    let whole = std::fs::read(table(&place, &[(b"a", 1, vec![2; 9])])).unwrap();
    let mut damaged = whole.clone();
    let footer = whole.len() - 192;
    damaged[footer + 3] ^= 1;
    let files = [
        (place.write("empty", b""), "truncated"),
        (place.write("short", b"kvdbSST\n"), "not a table"),
        (place.write("text", [b'x'; 5000]), "not a table"),
        (place.write("cut", &whole[..whole.len() - 1]), "truncated"),
        (place.write("damaged", damaged), &format!("footer at offset {footer}")),
        (place.path("absent"), "absent"),
        (place.dir.path().to_owned(), ""),
    ];
    for (file, says) in files {
        let ran = sst(&file, &["--entries", "--blocks"]);
        assert_eq!((ran.code, ran.text()), (Some(2), ""), "{}: {ran:?}", file.display());
        assert!(ran.err.contains(says), "{}: {ran:?}", file.display());
        assert!(ran.err.contains(&*file.display().to_string()), "{ran:?}");
    }
    let ran: Ran = Command::new(env!("CARGO_BIN_EXE_kvdb")).arg("sst").output().unwrap().into();
    assert_eq!(ran.code, Some(2));
}
