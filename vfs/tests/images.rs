//! What a power loss takes and what it leaves.

#![allow(clippy::unwrap_used)] // helpers of tests, outside of #[test] functions

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::{Arc, Mutex};

use kvdb_vfs::{
    DirtyPage, ErrorKind, File, Fs, ImagePolicy, Keep, LockMode, MemFs, NameChange, Op, OpenMode,
    SyncSite, WriteMode,
};

const SITE: SyncSite = SyncSite::Other(0);

fn create(fs: &MemFs, path: &str) -> Arc<dyn File> {
    fs.open(Path::new(path), OpenMode::CreateNew).unwrap()
}

/// A file whose name and contents are durable.
fn durable(fs: &MemFs, path: &str, bytes: &[u8]) -> Arc<dyn File> {
    let file = create(fs, path);
    file.write_all_at(bytes, 0).unwrap();
    file.sync_data(SITE).unwrap();
    sync(fs, Path::new(path).parent().unwrap().to_str().unwrap());
    file
}

fn sync(fs: &MemFs, dir: &str) {
    fs.sync_dir(Path::new(dir), SITE).unwrap();
}

fn rename(fs: &MemFs, from: &str, to: &str) {
    fs.rename(Path::new(from), Path::new(to)).unwrap();
}

fn contents(fs: &MemFs, path: &str) -> Option<Vec<u8>> {
    let file = match fs.open(Path::new(path), OpenMode::Read) {
        Ok(file) => file,
        Err(e) => {
            assert_eq!(e.kind(), ErrorKind::NotFound);
            return None;
        }
    };
    let mut bytes = vec![0; file.len().unwrap() as usize];
    file.read_exact_at(&mut bytes, 0).unwrap();
    Some(bytes)
}

/// The names in a directory, as one string.
fn names(fs: &MemFs, dir: &str) -> String {
    let entries = fs.list(Path::new(dir)).unwrap();
    let names: Vec<_> = entries.iter().map(|e| e.name.to_str().unwrap()).collect();
    names.join(" ")
}

fn kept_none(fs: &MemFs) -> MemFs {
    fs.crash_image(&mut Keep::None)
}

/// The directory listings that chance brings about.
fn outcomes(fs: &MemFs, dir: &str) -> BTreeSet<String> {
    (0..400).map(|seed| names(&fs.crash_image(&mut Keep::Random(seed)), dir)).collect()
}

fn set(outcomes: &[&str]) -> BTreeSet<String> {
    outcomes.iter().map(|&s| s.to_owned()).collect()
}

/// Answers with fixed values and remembers what it was asked.
#[derive(Default)]
struct Fixed {
    length: u64,
    sectors: u8,
    names: Vec<bool>,
    asked: Vec<String>,
}

impl ImagePolicy for Fixed {
    fn length(&mut self, path: &Path, durable: u64, current: u64) -> u64 {
        self.asked.push(format!("length {} {durable} {current}", path.display()));
        self.length
    }
    fn page(&mut self, page: &DirtyPage<'_>) -> u8 {
        let DirtyPage { path, page, index, count, .. } = *page;
        self.asked.push(format!("page {} {page} {index}/{count}", path.display()));
        self.sectors
    }
    fn name(&mut self, change: &NameChange<'_>) -> bool {
        self.names.get(change.index).copied().unwrap_or(true)
    }
}

#[test]
fn what_was_synced_is_always_kept() {
    let fs = MemFs::new();
    let bytes: Vec<u8> = (0..10_000u32).map(|i| i as u8).collect();
    let file = durable(&fs, "/a", &bytes);
    file.write_all_at(&[0xEE; 100], 5000).unwrap();
    for seed in 0..100 {
        let image = contents(&fs.crash_image(&mut Keep::Random(seed)), "a").unwrap();
        assert_eq!(image.len(), bytes.len());
        assert_eq!(image[..5000], bytes[..5000]);
        assert_eq!(image[5100..], bytes[5100..]);
    }
    assert_eq!(contents(&kept_none(&fs), "a").unwrap(), bytes);
}

#[test]
fn what_was_not_synced_is_lost_with_none_and_there_with_all() {
    let fs = MemFs::new();
    let file = durable(&fs, "/a", b"old");
    file.write_all_at(b"NEW and longer", 0).unwrap();
    create(&fs, "/b");
    let all = fs.crash_image(&mut Keep::All);
    assert_eq!(contents(&all, "a").unwrap(), b"NEW and longer");
    assert_eq!(names(&all, "/"), "a b");
    let none = kept_none(&fs);
    assert_eq!(contents(&none, "a").unwrap(), b"old");
    assert_eq!(names(&none, "/"), "a");
}

#[test]
fn a_synced_file_in_a_directory_that_was_not_is_lost() {
    let fs = MemFs::new();
    let file = create(&fs, "/a");
    file.write_all_at(b"abc", 0).unwrap();
    file.sync_data(SITE).unwrap();
    assert_eq!(contents(&kept_none(&fs), "a"), None);
    sync(&fs, "/");
    assert_eq!(contents(&kept_none(&fs), "a").unwrap(), b"abc");
}

#[test]
fn a_directory_counts_only_if_its_parents_were_synced() {
    let fs = MemFs::new();
    fs.create_dir_all(Path::new("/a/b")).unwrap();
    durable(&fs, "/a/b/f", b"abc");
    sync(&fs, "/a");
    assert_eq!(names(&kept_none(&fs), "/"), "");
    sync(&fs, "/");
    assert_eq!(contents(&kept_none(&fs), "/a/b/f").unwrap(), b"abc");
}

#[test]
fn in_the_image_everything_is_durable_and_unlocked_and_apart_from_the_original() {
    let fs = MemFs::new();
    let file = create(&fs, "/a");
    file.write_all_at(b"abc", 0).unwrap();
    let _guard = fs.lock(Path::new("/"), LockMode::Exclusive).unwrap();
    let image = fs.crash_image(&mut Keep::All);
    assert_eq!((fs.unsynced_pages(), fs.unsynced_names()), (1, 1));
    assert_eq!((image.unsynced_pages(), image.unsynced_names()), (0, 0));
    assert_eq!(contents(&kept_none(&image), "a").unwrap(), b"abc");
    image.lock(Path::new("/"), LockMode::Exclusive).unwrap();
    file.write_all_at(b"xyz", 0).unwrap();
    assert_eq!(contents(&image, "a").unwrap(), b"abc");
    image.remove(Path::new("a")).unwrap();
    assert_eq!(contents(&fs, "a").unwrap(), b"xyz");
}

#[test]
fn open_files_are_counted_until_their_last_handle_goes() {
    let fs = MemFs::new();
    let (a, b) = (create(&fs, "a"), create(&fs, "b"));
    let again = (a.clone(), fs.open(Path::new("a"), OpenMode::Read).unwrap());
    assert_eq!((fs.open_files(), fs.most_open_files()), (3, 3));
    drop((a, b));
    assert_eq!((fs.open_files(), fs.most_open_files()), (2, 3));
    assert_eq!(fs.process_image().most_open_files(), 0);
    drop(again);
    fs.open(Path::new("c"), OpenMode::Read).unwrap_err();
    assert_eq!((fs.open_files(), fs.most_open_files()), (0, 3));
}

#[test]
fn a_torn_page_mixes_old_and_new_at_sector_boundaries() {
    let fs = MemFs::new();
    let file = durable(&fs, "/a", &[1; 8192]);
    file.write_all_at(&[2; 4096], 4096).unwrap();
    let mut policy = Fixed { sectors: 0b1000_0101, ..Fixed::default() };
    let image = contents(&fs.crash_image(&mut policy), "a").unwrap();
    assert_eq!(policy.asked, ["page /a 1 0/1"]);
    assert_eq!(image[..4096], [1; 4096]);
    let sectors: Vec<u8> = image[4096..].chunks(512).map(|s| s[0]).collect();
    assert_eq!(sectors, [2, 1, 2, 1, 1, 1, 1, 2]);
    assert!(image[4096..].chunks(512).all(|s| s.iter().all(|b| *b == s[0])));
}

#[test]
fn length_and_contents_are_lost_independently() {
    let fs = MemFs::new();
    let file = durable(&fs, "/a", b"abc");
    file.write_all_at(&[2; 5000], 3).unwrap();
    let image = |length, sectors| {
        let mut policy = Fixed { length, sectors, ..Fixed::default() };
        let image = contents(&fs.crash_image(&mut policy), "a").unwrap();
        assert_eq!(policy.asked, ["length /a 3 5003", "page /a 0 0/2", "page /a 1 1/2"]);
        image
    };
    let mut zeros = b"abc".to_vec();
    zeros.resize(5003, 0);
    assert_eq!(image(5003, 0), zeros, "grown, contents not written: zeros");
    assert_eq!(image(0, 0xFF), b"abc", "the length stays at least what it durably was");
    assert_eq!(image(5, 0xFF), b"abc\x02\x02", "a length in between");
    assert_eq!(image(u64::MAX, 0xFF).len(), 5003);
}

#[test]
fn what_lies_behind_a_lost_length_does_not_come_back() {
    let fs = MemFs::new();
    let file = durable(&fs, "/a", b"abc");
    file.write_all_at(&[2; 5000], 3).unwrap();
    let mut policy = Fixed { length: 3, sectors: 0xFF, ..Fixed::default() };
    let image = fs.crash_image(&mut policy);
    image.open(Path::new("a"), OpenMode::ReadWrite).unwrap().set_len(6000).unwrap();
    let mut expected = b"abc".to_vec();
    expected.resize(6000, 0);
    assert_eq!(contents(&image, "a").unwrap(), expected);
}

#[test]
fn a_lost_truncation_brings_the_old_bytes_back() {
    let fs = MemFs::new();
    let file = durable(&fs, "/a", &[1; 10_000]);
    file.set_len(100).unwrap();
    assert_eq!(contents(&kept_none(&fs), "a").unwrap(), [1; 10_000]);
    assert_eq!(contents(&fs.crash_image(&mut Keep::All), "a").unwrap(), [1; 100]);
    file.sync_data(SITE).unwrap();
    assert_eq!(contents(&kept_none(&fs), "a").unwrap(), [1; 100]);
    fs.open(Path::new("a"), OpenMode::CreateTruncate).unwrap();
    assert_eq!(contents(&kept_none(&fs), "a").unwrap(), [1; 100], "nor is this one synced");
}

#[test]
fn pages_behind_a_lost_truncation_were_not_freed_either() {
    let fs = MemFs::new();
    let file = durable(&fs, "/a", &[1; 10_000]);
    file.set_len(100).unwrap();
    let mut policy = Fixed { length: 10_000, sectors: 0xFF, ..Fixed::default() };
    let image = contents(&fs.crash_image(&mut policy), "a").unwrap();
    assert_eq!(policy.asked, ["length /a 10000 100", "page /a 0 0/3"]);
    assert_eq!(image[4096..], [1; 10_000 - 4096]);
}

#[test]
fn a_durable_write_vouches_for_its_bytes_only() {
    let fs = MemFs::new();
    let file = durable(&fs, "/a", &[1; 8192]);
    file.write_all_at(&[2; 8192], 0).unwrap();
    file.write_all_at_with(&[3; 10], 4090, WriteMode::Durable(SITE)).unwrap();
    let mut expected = vec![1; 8192];
    expected[4090..4100].fill(3);
    assert_eq!(contents(&kept_none(&fs), "a").unwrap(), expected);
    file.write_all_at_with(&[4; 4096], 4096, WriteMode::Durable(SITE)).unwrap();
    expected[4096..].fill(4);
    assert_eq!(contents(&kept_none(&fs), "a").unwrap(), expected);
    file.write_all_at_with(b"end", 8192, WriteMode::Durable(SITE)).unwrap();
    expected.extend_from_slice(b"end");
    assert_eq!(contents(&kept_none(&fs), "a").unwrap(), expected, "and for the length they need");
}

#[test]
fn a_rename_over_another_file_leaves_the_old_or_the_new() {
    let fs = MemFs::new();
    durable(&fs, "/cur", b"old");
    durable(&fs, "/tmp", b"new");
    rename(&fs, "/tmp", "/cur");
    let mut seen = BTreeSet::new();
    for seed in 0..100 {
        let image = fs.crash_image(&mut Keep::Random(seed));
        seen.insert((contents(&image, "cur").unwrap(), contents(&image, "tmp")));
    }
    let old = (b"old".to_vec(), Some(b"new".to_vec()));
    let new = (b"new".to_vec(), None);
    assert_eq!(seen, BTreeSet::from([old, new]));
    sync(&fs, "/");
    assert_eq!(names(&kept_none(&fs), "/"), "cur");
}

#[test]
fn renames_in_a_row_leave_exactly_one_name() {
    let fs = MemFs::new();
    durable(&fs, "/a", b"x");
    rename(&fs, "/a", "/b");
    rename(&fs, "/b", "/c");
    assert_eq!(outcomes(&fs, "/"), set(&["a", "b", "c"]));
}

#[test]
fn a_rename_kept_without_the_creation_before_it_is_a_creation() {
    let fs = MemFs::new();
    create(&fs, "/a");
    rename(&fs, "/a", "/b");
    let mut policy = Fixed { names: vec![false, true], ..Fixed::default() };
    assert_eq!(names(&fs.crash_image(&mut policy), "/"), "b");
    assert_eq!(outcomes(&fs, "/"), set(&["", "a", "b"]));
}

#[test]
fn changes_of_different_names_are_lost_independently() {
    let fs = MemFs::new();
    durable(&fs, "/a", b"");
    create(&fs, "/b");
    fs.remove(Path::new("/a")).unwrap();
    assert_eq!(outcomes(&fs, "/"), set(&["", "a", "b", "a b"]));
}

#[test]
fn a_name_used_again_never_loses_the_file_that_moved_away() {
    let fs = MemFs::new();
    durable(&fs, "/log", b"1");
    rename(&fs, "/log", "/old");
    durable_contents_only(&fs, "/log", b"2");
    for seed in 0..100 {
        let image = fs.crash_image(&mut Keep::Random(seed));
        let found = [contents(&image, "log"), contents(&image, "old")];
        assert!(found.contains(&Some(b"1".to_vec())), "{found:?}");
    }
    assert_eq!(outcomes(&fs, "/"), set(&["log", "old", "log old"]));
}

fn durable_contents_only(fs: &MemFs, path: &str, bytes: &[u8]) {
    let file = create(fs, path);
    file.write_all_at(bytes, 0).unwrap();
    file.sync_data(SITE).unwrap();
}

#[test]
fn a_rename_to_another_directory_needs_the_target_synced_and_then_the_source() {
    let fs = MemFs::new();
    for dir in ["/from", "/to"] {
        fs.create_dir_all(Path::new(dir)).unwrap();
    }
    sync(&fs, "/");
    durable(&fs, "/from/f", b"abc");
    rename(&fs, "/from/f", "/to/f");
    let where_it_is = |fs: &MemFs| {
        let image = kept_none(fs);
        (names(&image, "/from"), names(&image, "/to"))
    };
    sync(&fs, "/from");
    assert_eq!(where_it_is(&fs), ("f".into(), "".into()));
    sync(&fs, "/to");
    assert_eq!(where_it_is(&fs), ("f".into(), "f".into()));
    assert_eq!(kept_none(&fs).metadata(Path::new("/to/f")).unwrap().links, 2);
    sync(&fs, "/from");
    assert_eq!(where_it_is(&fs), ("".into(), "f".into()));
}

#[test]
fn a_name_used_again_takes_the_rename_away_from_it_along() {
    let fs = MemFs::new();
    for dir in ["/from", "/to"] {
        fs.create_dir_all(Path::new(dir)).unwrap();
    }
    sync(&fs, "/");
    durable(&fs, "/from/f", b"first");
    rename(&fs, "/from/f", "/to/f");
    durable(&fs, "/from/f", b"second");
    let image = kept_none(&fs);
    assert_eq!(contents(&image, "/from/f").unwrap(), b"second");
    assert_eq!(contents(&image, "/to/f").unwrap(), b"first");
}

#[test]
fn a_moved_directory_is_in_one_place() {
    let fs = MemFs::new();
    for dir in ["/a/d", "/b"] {
        fs.create_dir_all(Path::new(dir)).unwrap();
    }
    sync(&fs, "/");
    sync(&fs, "/a");
    durable(&fs, "/a/d/f", b"abc");
    rename(&fs, "/a/d", "/b/d");
    for seed in 0..20 {
        let image = fs.crash_image(&mut Keep::Random(seed));
        let found = [contents(&image, "/a/d/f"), contents(&image, "/b/d/f")];
        assert_eq!(found.iter().flatten().count(), 1);
    }
    sync(&fs, "/b");
    let image = kept_none(&fs);
    assert_eq!((names(&image, "/a"), names(&image, "/b")), ("".into(), "d".into()));
}

#[test]
fn hard_links_in_an_image_are_one_file_with_the_names_that_were_kept() {
    let fs = MemFs::new();
    durable(&fs, "/a", b"abc");
    fs.hard_link(Path::new("/a"), Path::new("/b")).unwrap();
    let all = fs.crash_image(&mut Keep::All);
    assert_eq!(all.metadata(Path::new("/b")).unwrap().links, 2);
    all.open(Path::new("/a"), OpenMode::ReadWrite).unwrap().write_all_at(b"X", 0).unwrap();
    assert_eq!(contents(&all, "/b").unwrap(), b"Xbc");
    let none = kept_none(&fs);
    assert_eq!(none.metadata(Path::new("/a")).unwrap().links, 1);
    fs.remove(Path::new("/a")).unwrap();
    assert_eq!(outcomes(&fs, "/"), set(&["", "a", "b", "a b"]));
    assert_eq!(fs.metadata(Path::new("/b")).unwrap().links, 1);
}

#[test]
fn a_removed_file_returns_if_the_removal_was_not_synced() {
    let fs = MemFs::new();
    durable(&fs, "/a", b"abc");
    fs.remove(Path::new("/a")).unwrap();
    assert_eq!(contents(&kept_none(&fs), "/a").unwrap(), b"abc");
    sync(&fs, "/");
    assert_eq!(contents(&kept_none(&fs), "/a"), None);
}

#[test]
fn the_same_seed_gives_the_same_image_and_seeds_differ() {
    let fs = MemFs::new();
    let file = durable(&fs, "/a", &[1; 40_000]);
    file.write_all_at(&[2; 50_000], 0).unwrap();
    let image = |seed| contents(&fs.crash_image(&mut Keep::Random(seed)), "/a");
    let images: BTreeSet<_> = (0..50).map(image).collect();
    assert!(images.len() > 10, "only {} different images", images.len());
    assert!((0..50).all(|seed| image(seed) == image(seed)));
}

#[test]
fn a_killed_process_leaves_what_was_written_but_does_not_make_it_durable() {
    let fs = MemFs::new();
    let file = durable(&fs, "/a", b"old");
    file.write_all_at(b"new", 0).unwrap();
    create(&fs, "/b");
    let _guard = fs.lock(Path::new("/"), LockMode::Exclusive).unwrap();
    let killed = fs.process_image();
    assert_eq!(
        (contents(&killed, "a").unwrap(), names(&killed, "/")),
        (b"new".into(), "a b".into())
    );
    killed.lock(Path::new("/"), LockMode::Exclusive).unwrap();
    let cut = kept_none(&killed);
    assert_eq!((contents(&cut, "a").unwrap(), names(&cut, "/")), (b"old".into(), "a".into()));
    killed.open(Path::new("a"), OpenMode::Read).unwrap().sync_data(SITE).unwrap();
    sync(&killed, "/");
    assert_eq!(contents(&kept_none(&killed), "a").unwrap(), b"new");
    assert_eq!(contents(&kept_none(&fs), "a").unwrap(), b"old", "they share nothing");
}

#[test]
fn the_hook_sees_every_change_before_it_happens_and_may_take_images() {
    let fs = MemFs::new();
    let seen = Arc::new(Mutex::new(Vec::new()));
    let log = seen.clone();
    fs.on_operation(move |fs, op, path| {
        let image = fs.crash_image(&mut Keep::All);
        log.lock().unwrap().push((op, path.to_owned(), contents(&image, "/f")));
    });
    let f = create(&fs, "/f");
    f.write_all_at(b"a", 0).unwrap();
    f.write_all_at_with(b"b", 1, WriteMode::Durable(SITE)).unwrap();
    f.sync_data(SITE).unwrap();
    f.allocate(3).unwrap();
    f.set_len(1).unwrap();
    f.read_at(&mut [0], 0).unwrap();
    fs.hard_link(Path::new("/f"), Path::new("/h")).unwrap();
    fs.rename(Path::new("/f"), Path::new("/g")).unwrap();
    fs.remove(Path::new("/g")).unwrap();
    fs.create_dir_all(Path::new("/d")).unwrap();
    sync(&fs, "/");
    fs.remove_dir(Path::new("/d")).unwrap();
    fs.clear_hook();
    sync(&fs, "/");
    let some = |bytes: &[u8]| Some(bytes.to_vec());
    let expected = [
        (Op::Open, "/f", None),
        (Op::Write, "/f", some(b"")),
        (Op::Write, "/f", some(b"a")),
        (Op::SyncData, "/f", some(b"ab")),
        (Op::SyncData, "/f", some(b"ab")),
        (Op::Allocate, "/f", some(b"ab")),
        (Op::SetLen, "/f", some(b"ab\0")),
        (Op::HardLink, "/f", some(b"a")),
        (Op::Rename, "/f", some(b"a")),
        (Op::Remove, "/g", None),
        (Op::CreateDir, "/d", None),
        (Op::SyncDir, "/", None),
        (Op::RemoveDir, "/d", None),
    ];
    let seen = seen.lock().unwrap();
    let seen: Vec<_> =
        seen.iter().map(|(op, p, c)| (*op, p.to_str().unwrap(), c.clone())).collect();
    assert_eq!(seen, expected);
    assert_eq!(fs.operations(), expected.len() as u64 + 1);
}

#[test]
fn an_image_is_a_cut_through_all_files_at_one_moment() {
    // The writer syncs n to `first` before it writes n to `second`.
    let fs = MemFs::new();
    let first = durable(&fs, "/first", &0u64.to_le_bytes());
    let second = durable(&fs, "/second", &0u64.to_le_bytes());
    let number =
        |fs: &MemFs, path| u64::from_le_bytes(contents(fs, path).unwrap().try_into().unwrap());
    std::thread::scope(|s| {
        let writer = s.spawn(|| {
            for n in 1..=2000u64 {
                first.write_all_at(&n.to_le_bytes(), 0).unwrap();
                first.sync_data(SITE).unwrap();
                second.write_all_at(&n.to_le_bytes(), 0).unwrap();
            }
        });
        let mut seed = 0;
        while !writer.is_finished() {
            let image = fs.crash_image(&mut Keep::Random(seed));
            assert!(number(&image, "/first") >= number(&image, "/second"));
            seed += 1;
        }
    });
}

#[test]
fn lengths_beyond_the_capacity_are_refused_and_large_sparse_files_cost_nothing() {
    let fs = MemFs::new();
    let f = create(&fs, "/a");
    for result in [f.set_len(1 << 40), f.allocate(1 << 40), f.write_all_at(b"x", 1 << 40)] {
        assert_eq!(result.unwrap_err().kind(), ErrorKind::NoSpace);
    }
    assert_eq!(f.write_all_at(b"xy", u64::MAX).unwrap_err().kind(), ErrorKind::NoSpace);
    assert_eq!(f.len().unwrap(), 0);
    f.allocate(3 << 30).unwrap();
    f.write_all_at(b"end", (3 << 30) - 3).unwrap();
    let image = fs.crash_image(&mut Keep::All);
    let f = image.open(Path::new("/a"), OpenMode::Read).unwrap();
    let mut end = [0; 3];
    f.read_exact_at(&mut end, (3 << 30) - 3).unwrap();
    assert_eq!(&end, b"end");

    let small = MemFs::with_file_capacity(10_000);
    let f = create(&small, "/a");
    f.write_all_at(&[1; 6000], 0).unwrap();
    f.write_all_at(&[1; 4000], 6000).unwrap();
    assert_eq!(f.write_all_at(b"x", 10_000).unwrap_err().kind(), ErrorKind::NoSpace);
}
