//! Options and directories that are refused, and what errors advise.

use std::path::Path;
use std::sync::Arc;

use crate::common::{PATH, memory, open, tiny, value};
use kvdb::vfs::{Fault, FaultFs, FaultPlan, Fs, ManualClock, MemFs, Op, OpenMode};
use kvdb::{
    Background, Codec, Durability, Error, ErrorKind, GcOptions, Health, Options, Result,
    WriteOptions,
};

#[test]
fn every_option_out_of_its_range_is_an_error_that_names_it() {
    let bad: [(&str, Options); 28] = [
        ("memtable_size", Options::default().memtable_size(1)),
        ("max_memtables", Options::default().max_memtables(1)),
        ("table_size", Options::default().table_size(1)),
        ("level0_compaction_trigger", Options::default().level0_compaction_trigger(0)),
        ("level0_slowdown_trigger", Options::default().level0_slowdown_trigger(1)),
        ("level0_stall_trigger", Options::default().level0_stall_trigger(12)),
        ("level_base_size", Options::default().level_base_size(0)),
        ("level_size_multiplier", Options::default().level_size_multiplier(1)),
        ("max_levels", Options::default().max_levels(1)),
        ("compaction_threads", Options::default().compaction_threads(0)),
        ("compaction_rate", Options::default().compaction_rate(1000)),
        ("segment_size", Options::default().segment_size(4096)),
        ("max_transaction_size", Options::default().max_transaction_size(Some(1))),
        ("max_transaction_size", Options::default().max_transaction_size(Some(1 << 30))),
        ("versions_to_keep", Options::default().versions_to_keep(0)),
        ("max_conflict_memory", Options::default().max_conflict_memory(0)),
        ("block_size", Options::default().block_size(1)),
        ("block_size", Options::default().block_size(2 << 20)),
        ("filter_bits_per_key", Options::default().filter_bits_per_key(100)),
        ("space_amplification", Options::default().space_amplification(1.0)),
        ("space_amplification", Options::default().space_amplification(f64::NAN)),
        ("space_amplification", Options::default().space_amplification(f64::INFINITY)),
        ("space_amplification", Options::default().space_amplification(-f64::NAN)),
        ("max_replay_bytes", Options::default().max_replay_bytes(1)),
        ("max_open_tables", Options::default().max_open_tables(15)),
        ("max_open_tables", Options::default().max_open_tables((1 << 20) + 1)),
        ("memory_budget", Options::default().memory_budget(64 << 20)),
        ("memory_budget", Options::small_memory().memtable_size(64 << 20)),
    ];
    for (name, options) in bad {
        let fs = Arc::new(MemFs::new());
        let error = options.open_in(fs.clone(), PATH).unwrap_err();
        assert!(error.to_string().contains(name), "{name}: {error}");
        assert!(matches!(&error, Error::InvalidOption { name: n, .. } if *n == name), "{error}");
        assert_eq!(error.kind(), ErrorKind::Usage);
        assert!(fs.metadata(PATH.as_ref()).is_err(), "{name}: something was created");
    }
}

#[test]
fn a_collection_of_files_with_an_impossible_share_of_garbage_is_an_error() {
    let (db, _fs) = memory();
    for share in [-0.1, 1.1, f64::NAN, f64::INFINITY] {
        let error = db.gc(&GcOptions::default().min_garbage(share)).unwrap_err();
        assert!(matches!(error, Error::InvalidOption { name: "min_garbage", .. }), "{error}");
        assert_eq!(error.kind(), ErrorKind::Usage);
    }
    for share in [0.0, 1.0] {
        db.gc(&GcOptions::default().min_garbage(share)).unwrap();
    }
}

#[test]
fn presets_are_valid_and_options_survive_serialization() {
    for options in [Options::default(), Options::small_memory(), Options::bulk_load()] {
        options.validate().unwrap();
        let text = serde_json::to_string(&options).unwrap();
        assert_eq!(serde_json::from_str::<Options>(&text).unwrap(), options);
    }
    let read: Options = serde_json::from_str(
        r#"{"durability": "Buffered", "codec": "Lz4", "background": "Manual", "value_threshold": 7}"#,
    )
    .unwrap();
    let built = Options::default()
        .durability(Durability::Buffered)
        .codec(Codec::Lz4)
        .background(Background::Manual)
        .value_threshold(7);
    assert_eq!(read, built, "what is not said is the default");
    let typo = serde_json::from_str::<Options>(r#"{"memtable_siez": 1}"#).unwrap_err();
    assert!(typo.to_string().contains("memtable_siez"), "{typo}");
}

#[test]
fn presets_work() -> Result<()> {
    for options in [Options::small_memory(), Options::bulk_load().memtable_size(8 << 20)] {
        let db = options.open_in(Arc::new(MemFs::new()), PATH)?;
        for i in 0..2000u64 {
            db.put(i.to_be_bytes(), value(i, 1500))?;
        }
        db.compact()?;
        assert_eq!(db.iter()?.count(), 2000);
        db.close()?;
    }
    Ok(())
}

#[test]
fn rule_2b_the_store_s_own_directory_by_another_name_is_no_value_dir() {
    let dir = tempfile::tempdir().unwrap();
    let store = dir.path().join("store");
    std::fs::create_dir(&store).unwrap();
    std::os::unix::fs::symlink(&store, dir.path().join("link")).unwrap();
    // Equal by components: that is no other directory.
    tiny().value_dir(dir.path().join("./store/")).open(&store).unwrap().close().unwrap();
    let before = std::fs::read_dir(&store).unwrap().count();
    for other in [dir.path().join("store/../store"), dir.path().join("link")] {
        let error = tiny().value_dir(&other).open(&store).unwrap_err();
        match &error {
            Error::InvalidOption { name: "value_dir", reason } => {
                assert!(reason.contains("another name"), "{reason}");
            }
            _ => panic!("{}: {error}", other.display()),
        }
        assert_eq!(std::fs::read_dir(&store).unwrap().count(), before, "nothing was created");
    }
    // Somebody else's lock is still somebody else's.
    let db = tiny().open(dir.path().join("else")).unwrap();
    let error = tiny().value_dir(dir.path().join("else")).open(&store).unwrap_err();
    assert!(matches!(error, Error::InUse { .. }), "{error}");
    db.close().unwrap();
}

#[test]
fn a_directory_of_another_program_is_refused_and_left_whole() {
    let file = |fs: &MemFs, name: &str, bytes: &[u8]| {
        fs.create_dir_all(PATH.as_ref()).unwrap();
        let file = fs.open(&Path::new(PATH).join(name), OpenMode::CreateNew).unwrap();
        file.write_all_at(bytes, 0).unwrap();
    };
    let names = |fs: &MemFs| -> Vec<_> {
        fs.list(PATH.as_ref()).unwrap().into_iter().map(|e| e.name).collect()
    };
    for (name, bytes) in [
        ("CURRENT", &b"MANIFEST-000001\n"[..]),
        ("MANIFEST", b"Bdgr\0\0\0\x04 and what follows, and more, and more, and more, and more"),
        ("MANIFEST", b"Bdgr\0\0\0\x04"),
        ("MANIFEST", b"B"),
        ("data.mdb", b"\0\0"),
        ("__db.001", b""),
        ("log.0000000001", b""),
        (".fjall", b""),
        ("store.redb", b"redb"),
        ("000005.sst", b"a table of somebody's"),
        ("000001.vlog", b"a log of somebody's"),
    ] {
        let fs = Arc::new(MemFs::new());
        file(&fs, name, bytes);
        for options in [tiny(), tiny().read_only(true)] {
            let error = open(&options, &fs).unwrap_err();
            let refused = matches!(&error, Error::NotADatabase { .. })
                || (options.read_only && matches!(&error, Error::NotFound { .. }));
            assert!(refused, "{name}: {error}");
            assert!(error.to_string().contains(PATH), "{name}: {error}");
        }
        assert_eq!(names(&fs), [Path::new(name)], "{name}");
    }
    // Two common names that only together are somebody's.
    for [one, other] in [
        ["conf", "db"],
        ["journals", "partitions"],
        ["version", "partitions"],
        ["version", "keyspaces"],
    ] {
        let fs = Arc::new(MemFs::new());
        file(&fs, one, b"");
        file(&fs, other, b"");
        let error = open(&tiny(), &fs).unwrap_err();
        assert!(matches!(error, Error::NotADatabase { .. }), "{one}, {other}: {error}");
        assert!(error.to_string().contains(one) && error.to_string().contains(other), "{error}");
        assert_eq!(names(&fs).len(), 2, "something was created");
    }
    // What says nothing is no hindrance.
    let fs = Arc::new(MemFs::new());
    fs.create_dir_all(&Path::new(PATH).join("conf")).unwrap();
    for name in ["README", "db", "version", "redb"] {
        file(&fs, name, b"notes");
    }
    open(&tiny(), &fs).unwrap().close().unwrap();
}

#[test]
fn a_manifest_that_was_cut_is_damage_and_not_another_program_s() {
    let (db, fs) = memory();
    db.close().unwrap();
    let path = Path::new(PATH).join("MANIFEST");
    let mut whole = [0; 63];
    fs.open(&path, OpenMode::Read).unwrap().read_exact_at(&mut whole, 0).unwrap();
    for len in [63, 8, 4, 1, 0] {
        fs.remove(&path).unwrap();
        let cut = fs.open(&path, OpenMode::CreateNew).unwrap();
        cut.write_all_at(&whole[..len], 0).unwrap();
        let error = open(&tiny(), &fs).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corruption, "{len}: {error}");
    }
}

#[test]
fn rule_7_a_store_of_a_newer_format_is_a_clear_error() {
    let (db, fs) = memory();
    db.put("k", "v").unwrap();
    db.close().unwrap();
    let manifest = fs.open(&Path::new(PATH).join("MANIFEST"), OpenMode::ReadWrite).unwrap();
    // Behind the magic stands the format version; the header's checksum is right.
    let mut header = [0; 64];
    manifest.read_exact_at(&mut header, 0).unwrap();
    let number = |at: usize| u64::from_le_bytes(header[at..at + 8].try_into().unwrap());
    let database = u128::from(number(24)) << 64 | u128::from(number(16));
    let salt = kvdb::vfs::Salt::derive(database, 0, number(32));
    header[8] += 7;
    let sealed = salt.seal(crc32fast::hash(&header[..60]), 0, 0);
    header[60..].copy_from_slice(&sealed.to_le_bytes());
    manifest.write_all_at(&header, 0).unwrap();
    let error = open(&tiny(), &fs).unwrap_err();
    assert!(error.to_string().contains("version"), "{error}");
    assert!(error.to_string().contains("/db/MANIFEST"), "{error}");
    assert_eq!(error.kind(), ErrorKind::Usage, "{error}");
}

#[test]
fn rule_4_a_second_close_repeats_that_the_first_one_failed() {
    let fs = Arc::new(FaultFs::new(Arc::new(MemFs::new()) as Arc<dyn Fs>));
    let db = tiny().durability(Durability::Buffered).open_in(fs.clone(), PATH).unwrap();
    db.put("k", "v").unwrap();
    fs.arm(FaultPlan::new(Fault::Io).on(&[Op::SyncData, Op::Write]).forever());
    let first = db.close().unwrap_err();
    let other = db.clone();
    for db in [&db, &other] {
        let again = db.close().unwrap_err();
        assert!(
            matches!(&again, Error::CloseFailed(what) if *what == first.to_string()),
            "{again}"
        );
        assert_eq!(again.kind(), ErrorKind::Reopen);
    }
    assert!(matches!(db.get("k"), Err(Error::Closed)));
    // One that did not fail has nothing to repeat.
    let (db, _fs) = memory();
    db.close().unwrap();
    db.close().unwrap();
}

#[test]
fn every_kind_of_advice_is_given_where_it_belongs() {
    let (db, fs) = memory();
    // Retry.
    let mut t = db.begin().unwrap();
    t.get("k").unwrap();
    t.put("l", "v").unwrap();
    db.put("k", "v").unwrap();
    assert_eq!(t.commit().unwrap_err().kind(), ErrorKind::Retry);
    // Fix the call.
    assert_eq!(db.put("", "v").unwrap_err().kind(), ErrorKind::Usage);
    assert_eq!(db.snapshot_at(1 << 60).unwrap_err().kind(), ErrorKind::Usage);
    // Someone else has it; it is closed; there is nothing.
    assert_eq!(open(&tiny(), &fs).unwrap_err().kind(), ErrorKind::InUse);
    db.close().unwrap();
    assert_eq!(db.get("k").unwrap_err().kind(), ErrorKind::Closed);
    let nothing = tiny().create_if_missing(false).open_in(fs.clone(), "/nothing").unwrap_err();
    assert_eq!(nothing.kind(), ErrorKind::NotFound);
    // Restore.
    let path = Path::new(PATH).join("MANIFEST");
    let manifest = fs.open(&path, OpenMode::ReadWrite).unwrap();
    let len = manifest.len().unwrap();
    let mut byte = [0];
    manifest.read_exact_at(&mut byte, len / 2).unwrap();
    manifest.write_all_at(&[byte[0] ^ 1], len / 2).unwrap();
    assert_eq!(open(&tiny(), &fs).unwrap_err().kind(), ErrorKind::Corruption);
    // Open again, and what stands behind it.
    let fs = Arc::new(FaultFs::new(Arc::new(MemFs::new()) as Arc<dyn Fs>));
    let db = tiny().open_in(fs.clone(), PATH).unwrap();
    fs.arm(FaultPlan::new(Fault::Io).on(&[Op::Write, Op::SyncData]).path(".vlog").forever());
    assert_eq!(db.health(), Health::Good);
    assert_eq!(db.put("k", "v").unwrap_err().kind(), ErrorKind::Reopen);
    assert_eq!(db.put("k", "v").unwrap_err().kind(), ErrorKind::Reopen);
    assert!(matches!(db.health(), Health::Poisoned(why) if why.contains(".vlog")));
    assert!(db.get("k").unwrap().is_none(), "reading goes on");
    db.close().unwrap_err();
    assert_eq!(db.health(), Health::Closed);
}

#[test]
fn rule_32_an_unreadable_block_is_an_error_item_and_an_unreadable_value_an_error_of_its_own() {
    let fs = Arc::new(MemFs::new());
    let options = tiny().durability(Durability::Buffered).flush_on_close(true);
    let db = open(&options, &fs).unwrap();
    for i in 0..300u64 {
        db.put(format!("{i:03}"), value(i, 100)).unwrap();
    }
    let large: Vec<String> = (0..20).map(|i| format!("large{i:02}")).collect();
    for (i, key) in large.iter().enumerate() {
        db.put(key, value(i as u64, 3000)).unwrap();
    }
    db.close().unwrap();
    let damage = |suffix: &str, at: u64| {
        let names = fs.list(PATH.as_ref()).unwrap().into_iter().map(|e| e.name);
        let name = names.filter(|n| n.to_str().unwrap().ends_with(suffix)).min().unwrap();
        let file = fs.open(&Path::new(PATH).join(name), OpenMode::ReadWrite).unwrap();
        file.write_all_at(&[0xFF; 16], at).unwrap();
    };
    // A block in the middle of the table, and one value in the log.
    damage(".sst", 12_000);
    damage(".vlog", 80_000);
    let db = open(&options, &fs).unwrap();
    for backward in [false, true] {
        let mut iter = db.iter().unwrap();
        let mut seen = 0;
        let error = loop {
            match if backward { iter.next_back() } else { iter.next() } {
                Some(Ok(_)) => seen += 1,
                Some(Err(error)) => break error,
                None => panic!("iteration pretends to have ended after {seen}"),
            }
        };
        assert_eq!(error.kind(), ErrorKind::Corruption, "{error}");
        assert!(error.to_string().contains(".sst"), "{error}");
        assert!(seen > 0 && seen < 320);
        // Positioned anew it goes on behind the damage.
        if !backward {
            iter.seek("large");
            assert_eq!(iter.next().unwrap().unwrap().key(), b"large00");
        }
    }
    // A cursor stands nowhere then: to move it on is a mistake in the call, not further damage.
    let mut cursor = db.snapshot().unwrap().cursor(..);
    let error = loop {
        match cursor.next() {
            Ok(on) => assert!(on, "the cursor pretends to have come to the end"),
            Err(error) => break error,
        }
    };
    assert_eq!(error.kind(), ErrorKind::Corruption, "{error}");
    for moved in [cursor.next(), cursor.prev()] {
        assert_eq!(moved.unwrap_err().kind(), ErrorKind::Usage);
    }
    assert!(cursor.seek("large").unwrap() && cursor.key() == b"large00");
    let mut bad = 0;
    for item in db.prefix("large").unwrap() {
        let item = item.unwrap();
        assert_eq!(item.value_len(), 3000);
        match item.value() {
            Ok(v) => assert_eq!(v.len(), 3000),
            Err(error) => {
                bad += 1;
                assert_eq!(error.kind(), ErrorKind::Corruption);
                assert!(error.to_string().contains(".vlog"), "{error}");
            }
        }
    }
    assert!((1..=2).contains(&bad), "{bad} values are damaged");
}

#[test]
fn rule_35_space_of_expired_entries_is_reclaimed_without_anyone_writing_to_the_keys() {
    let clock = Arc::new(ManualClock::new(1000));
    let fs = Arc::new(MemFs::new());
    let options = tiny().durability(Durability::Buffered);
    let db = options.open_with(fs, clock.clone(), PATH).unwrap();
    for i in 0..1000u64 {
        let with = WriteOptions::default().expires_at(2000);
        db.put_with(i.to_be_bytes(), value(i, if i % 4 == 0 { 600 } else { 60 }), with).unwrap();
    }
    db.put("stays", "v").unwrap();
    db.compact().unwrap();
    let entries = || db.stats().levels.iter().map(|l| l.entries).sum::<u64>();
    assert_eq!(entries(), 1001);
    clock.set(2000);
    for _ in 0..600 {
        db.wait_idle().unwrap();
        if entries() == 1 {
            break;
        }
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    assert_eq!(entries(), 1);
    // A clock that goes back revives nothing.
    clock.set(1000);
    assert_eq!(db.iter().unwrap().count(), 1);
    assert!(db.get(1u64.to_be_bytes()).unwrap().is_none());
}
