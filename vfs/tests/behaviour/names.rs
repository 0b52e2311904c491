//! Names, directories, links.

use std::path::Path;

use kvdb_vfs::{EntryKind, ErrorKind, Op, OpenMode, SyncSite};

use crate::{contents_of, each};

#[test]
fn open_modes_want_or_refuse_an_existing_file() {
    each(|p| {
        for mode in [OpenMode::Read, OpenMode::ReadWrite] {
            let e = p.fs.open(&p.path("f"), mode).unwrap_err();
            assert_eq!(
                (e.kind(), e.op(), e.path()),
                (ErrorKind::NotFound, Op::Open, &*p.path("f"))
            );
        }
        p.write("f", b"abc");
        let e = p.fs.open(&p.path("f"), OpenMode::CreateNew).unwrap_err();
        assert_eq!(e.kind(), ErrorKind::AlreadyExists);
        assert_eq!(p.read("f"), b"abc");
        p.fs.open(&p.path("f"), OpenMode::ReadWrite).unwrap().write_all_at(b"d", 3).unwrap();
        assert_eq!(p.read("f"), b"abcd");
        p.fs.open(&p.path("f"), OpenMode::CreateTruncate).unwrap();
        assert_eq!(p.read("f"), b"");
        p.fs.open(&p.path("g"), OpenMode::CreateTruncate).unwrap();
        assert_eq!(p.names(), ["f", "g"]);
    });
}

#[test]
fn a_directory_is_no_file_and_a_file_no_directory() {
    each(|p| {
        p.fs.create_dir_all(&p.path("d")).unwrap();
        p.write("f", b"");
        let (d, f, inside) = (p.path("d"), p.path("f"), p.path("f").join("x"));
        for mode in [OpenMode::Read, OpenMode::ReadWrite, OpenMode::CreateTruncate] {
            assert_eq!(
                p.fs.open(&d, mode).unwrap_err().kind(),
                ErrorKind::IsADirectory,
                "{mode:?}"
            );
        }
        let kind = |e: kvdb_vfs::Error| e.kind();
        assert_eq!(
            p.fs.open(&d, OpenMode::CreateNew).map_err(kind).unwrap_err(),
            ErrorKind::AlreadyExists
        );
        assert_eq!(p.fs.remove(&d).map_err(kind), Err(ErrorKind::IsADirectory));
        let wants_dir = [
            p.fs.open(&inside, OpenMode::CreateNew).map(drop),
            p.fs.list(&f).map(drop),
            p.fs.remove_dir(&f),
            p.fs.sync_dir(&f, SyncSite::Other(0)),
            p.fs.lock(&f, kvdb_vfs::LockMode::Shared).map(drop),
            p.fs.create_dir_all(&f),
            p.fs.create_dir_all(&inside),
            p.fs.metadata(&inside).map(drop),
            p.fs.remove(&inside),
        ];
        for (i, r) in wants_dir.into_iter().enumerate() {
            assert_eq!(r.unwrap_err().kind(), ErrorKind::NotADirectory, "operation {i}");
        }
    });
}

#[test]
fn what_is_not_there_is_not_found() {
    each(|p| {
        let (x, y) = (p.path("x"), p.path("y"));
        let missing = [
            p.fs.remove(&x),
            p.fs.remove_dir(&x),
            p.fs.rename(&x, &y),
            p.fs.hard_link(&x, &y),
            p.fs.list(&x).map(drop),
            p.fs.metadata(&x).map(drop),
            p.fs.sync_dir(&x, SyncSite::Other(0)),
            p.fs.lock(&x, kvdb_vfs::LockMode::Exclusive).map(drop),
            p.fs.open(&x.join("f"), OpenMode::CreateNew).map(drop),
        ];
        for (i, r) in missing.into_iter().enumerate() {
            let e = r.unwrap_err();
            assert_eq!(e.kind(), ErrorKind::NotFound, "operation {i}");
            assert!(e.path().starts_with(&x), "operation {i}");
        }
    });
}

#[test]
fn listing_is_sorted_and_tells_files_from_directories() {
    each(|p| {
        for name in ["b", "a10", "a9", "C"] {
            p.write(name, b"");
        }
        p.fs.create_dir_all(&p.path("aa/nested")).unwrap();
        assert_eq!(p.names(), ["C", "a10", "a9", "aa", "b"]);
        let entries = p.fs.list(&p.dir).unwrap();
        assert_eq!(entries[3].kind, EntryKind::Dir);
        assert_eq!(entries[4].kind, EntryKind::File);
        assert_eq!(p.fs.list(&p.path("aa")).unwrap()[0].name, Path::new("nested"));
    });
}

#[test]
fn metadata_tells_kind_length_and_links() {
    each(|p| {
        p.write("f", b"abc");
        let m = p.fs.metadata(&p.path("f")).unwrap();
        assert_eq!((m.kind, m.len, m.links), (EntryKind::File, 3, 1));
        let m = p.fs.metadata(&p.dir).unwrap();
        assert_eq!((m.kind, m.len, m.links), (EntryKind::Dir, 0, 1));
    });
}

#[test]
fn rename_replaces_and_the_replaced_file_lives_on_in_its_handles() {
    each(|p| {
        p.write("old", b"old");
        p.write("new", b"new");
        let old = p.fs.open(&p.path("old"), OpenMode::Read).unwrap();
        let new = p.fs.open(&p.path("new"), OpenMode::Read).unwrap();
        p.fs.rename(&p.path("new"), &p.path("old")).unwrap();
        assert_eq!(p.names(), ["old"]);
        assert_eq!(p.read("old"), b"new");
        assert_eq!(contents_of(&*old), b"old");
        assert_eq!(old.links().unwrap(), 0);
        assert_eq!(new.links().unwrap(), 1);
        assert_eq!(contents_of(&*new), b"new");
    });
}

#[test]
fn rename_to_itself_or_to_another_name_of_the_same_file_does_nothing() {
    each(|p| {
        p.write("a", b"abc");
        p.fs.rename(&p.path("a"), &p.path("a")).unwrap();
        p.fs.hard_link(&p.path("a"), &p.path("b")).unwrap();
        p.fs.rename(&p.path("a"), &p.path("b")).unwrap();
        assert_eq!(p.names(), ["a", "b"]);
        assert_eq!(p.fs.metadata(&p.path("a")).unwrap().links, 2);
    });
}

#[test]
fn directories_move_with_what_is_in_them() {
    each(|p| {
        p.fs.create_dir_all(&p.path("a/b")).unwrap();
        p.write("a/b/f", b"abc");
        p.fs.create_dir_all(&p.path("empty")).unwrap();
        p.fs.create_dir_all(&p.path("full/x")).unwrap();
        p.write("file", b"");
        p.fs.rename(&p.path("a"), &p.path("empty")).unwrap();
        assert_eq!(p.read("empty/b/f"), b"abc");
        let (from, into) = (p.path("empty"), p.path("empty/b/c"));
        assert_eq!(p.fs.rename(&from, &into).unwrap_err().kind(), ErrorKind::Io);
        assert_eq!(p.fs.rename(&from, &p.path("full")).unwrap_err().kind(), ErrorKind::Io);
        let onto_file = p.fs.rename(&from, &p.path("file")).unwrap_err();
        assert_eq!(onto_file.kind(), ErrorKind::NotADirectory);
        let onto_dir = p.fs.rename(&p.path("file"), &p.path("full")).unwrap_err();
        assert_eq!(onto_dir.kind(), ErrorKind::IsADirectory);
        assert_eq!(p.names(), ["empty", "file", "full"]);
    });
}

#[test]
fn only_an_empty_directory_can_be_removed() {
    each(|p| {
        p.fs.create_dir_all(&p.path("d")).unwrap();
        p.fs.create_dir_all(&p.path("d")).unwrap();
        p.write("d/f", b"");
        assert_eq!(p.fs.remove_dir(&p.path("d")).unwrap_err().kind(), ErrorKind::Io);
        p.fs.remove(&p.path("d/f")).unwrap();
        p.fs.remove_dir(&p.path("d")).unwrap();
        assert_eq!(p.names(), [""; 0]);
    });
}

#[test]
fn an_open_file_outlives_its_name() {
    each(|p| {
        let f = p.create("f");
        f.write_all_at(b"abc", 0).unwrap();
        p.fs.remove(&p.path("f")).unwrap();
        assert_eq!(f.links().unwrap(), 0);
        f.write_all_at(b"def", 3).unwrap();
        f.sync_data(SyncSite::Other(0)).unwrap();
        assert_eq!(contents_of(&*f), b"abcdef");
        p.write("f", b"another");
        assert_eq!(contents_of(&*f), b"abcdef");
    });
}

#[test]
fn hard_links_share_the_contents_and_are_counted() {
    each(|p| {
        let f = p.create("a");
        p.fs.hard_link(&p.path("a"), &p.path("b")).unwrap();
        f.write_all_at(b"abc", 0).unwrap();
        assert_eq!(p.read("b"), b"abc");
        assert_eq!(f.links().unwrap(), 2);
        assert_eq!(p.fs.metadata(&p.path("b")).unwrap().links, 2);
        let e = p.fs.hard_link(&p.path("a"), &p.path("b")).unwrap_err();
        assert_eq!((e.kind(), e.path()), (ErrorKind::AlreadyExists, &*p.path("b")));
        p.fs.remove(&p.path("a")).unwrap();
        assert_eq!(f.links().unwrap(), 1);
        assert_eq!(p.read("b"), b"abc");
        p.fs.create_dir_all(&p.path("d")).unwrap();
        let e = p.fs.hard_link(&p.path("d"), &p.path("e")).unwrap_err();
        assert_eq!(e.kind(), ErrorKind::PermissionDenied);
    });
}

#[test]
fn directories_are_synced_after_every_kind_of_change() {
    each(|p| {
        p.write("a", b"abc");
        p.fs.sync_dir(&p.dir, SyncSite::TableDir).unwrap();
        p.fs.rename(&p.path("a"), &p.path("b")).unwrap();
        p.fs.sync_dir(&p.dir, SyncSite::TableDir).unwrap();
        p.fs.remove(&p.path("b")).unwrap();
        p.fs.sync_dir(&p.dir, SyncSite::TableDir).unwrap();
        assert_eq!(p.names(), [""; 0]);
    });
}

#[test]
#[cfg(unix)]
fn symbolic_links_are_listed_as_other() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("f"), b"abc").unwrap();
    std::os::unix::fs::symlink(dir.path().join("f"), dir.path().join("l")).unwrap();
    let fs = kvdb_vfs::OsFs::new();
    let entries = kvdb_vfs::Fs::list(&fs, dir.path()).unwrap();
    assert_eq!(entries[1].kind, EntryKind::Other);
    let followed = kvdb_vfs::Fs::metadata(&fs, &dir.path().join("l")).unwrap();
    assert_eq!(followed.kind, EntryKind::File);
}
