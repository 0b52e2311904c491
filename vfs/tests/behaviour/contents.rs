//! Reading, writing, lengths.

use kvdb_vfs::{Advice, ErrorKind, Op, OpenMode, ReadRequest, SyncSite, WriteMode};

use crate::{contents_of, each};

#[test]
fn reads_return_what_was_written_and_stop_at_the_end() {
    each(|p| {
        let f = p.create("f");
        assert!(f.is_empty().unwrap());
        f.write_all_at(b"hello", 0).unwrap();
        f.write_all_at(b"LO w", 3).unwrap();
        assert_eq!(contents_of(&*f), b"helLO w");
        let mut buf = [9; 10];
        assert_eq!(f.read_at(&mut buf, 4).unwrap(), 3);
        assert_eq!(&buf, b"O w\x09\x09\x09\x09\x09\x09\x09");
        assert_eq!(f.read_at(&mut buf, 7).unwrap(), 0);
        assert_eq!(f.read_at(&mut buf, 1 << 40).unwrap(), 0);
    });
}

#[test]
fn a_read_beyond_the_end_that_must_be_whole_names_file_and_offset() {
    each(|p| {
        p.write("f", b"abc");
        let f = p.fs.open(&p.path("f"), OpenMode::Read).unwrap();
        let e = f.read_exact_at(&mut [0; 3], 1).unwrap_err();
        assert_eq!((e.kind(), e.op(), e.offset()), (ErrorKind::UnexpectedEof, Op::Read, Some(1)));
        assert_eq!(e.path(), p.path("f"));
        assert!(e.to_string().contains("at offset 1"), "{e}");
    });
}

#[test]
fn a_gap_reads_as_zeros() {
    each(|p| {
        let f = p.create("f");
        f.write_all_at(b"x", 10_000).unwrap();
        let mut expected = vec![0; 10_000];
        expected.push(b'x');
        assert_eq!(contents_of(&*f), expected);
    });
}

#[test]
fn an_empty_write_changes_nothing() {
    each(|p| {
        let f = p.create("f");
        f.write_all_at(b"", 100).unwrap();
        f.write_all_at_with(b"", 100, WriteMode::Durable(SyncSite::Other(0))).unwrap();
        assert_eq!(f.len().unwrap(), 0);
    });
}

#[test]
fn durable_writes_write() {
    each(|p| {
        let f = p.create("f");
        let big = vec![7; 20_000];
        f.write_all_at_with(&big, 3, WriteMode::Durable(SyncSite::LogGroup)).unwrap();
        f.write_all_at_with(b"ab", 1, WriteMode::Buffered).unwrap();
        let mut expected = vec![0, b'a', b'b'];
        expected.extend(&big);
        assert_eq!(contents_of(&*f), expected);
        f.sync_data(SyncSite::LogGroup).unwrap();
    });
}

#[test]
fn truncation_forgets_the_bytes_behind_it() {
    each(|p| {
        let f = p.create("f");
        f.write_all_at(&[1; 9000], 0).unwrap();
        f.set_len(4100).unwrap();
        f.set_len(9000).unwrap();
        let mut expected = vec![1; 4100];
        expected.resize(9000, 0);
        assert_eq!(contents_of(&*f), expected);
    });
}

#[test]
fn allocate_extends_with_zeros_and_never_shrinks() {
    each(|p| {
        let f = p.create("f");
        f.write_all_at(b"abc", 0).unwrap();
        f.allocate(0).unwrap();
        f.allocate(2).unwrap();
        assert_eq!(f.len().unwrap(), 3);
        f.allocate(1 << 20).unwrap();
        assert_eq!(f.len().unwrap(), 1 << 20);
        let contents = contents_of(&*f);
        assert_eq!(&contents[..4], b"abc\0");
        assert!(contents[3..].iter().all(|b| *b == 0));
    });
}

#[test]
fn a_batch_serves_each_request() {
    each(|p| {
        let f = p.create("f");
        f.write_all_at(b"0123456789", 0).unwrap();
        let (mut a, mut b) = ([0; 4], [0; 4]);
        let mut requests = [
            ReadRequest { offset: 8, buf: &mut a, read: 0 },
            ReadRequest { offset: 2, buf: &mut b, read: 0 },
        ];
        f.read_batch(&mut requests).unwrap();
        assert_eq!((requests[0].read, requests[1].read), (2, 4));
        assert_eq!((&a[..2], &b), (&b"89"[..], b"2345"));
    });
}

#[test]
fn a_handle_opened_for_reading_refuses_to_write() {
    each(|p| {
        p.write("f", b"abc");
        let f = p.fs.open(&p.path("f"), OpenMode::Read).unwrap();
        let refused = [
            f.write_all_at(b"x", 0),
            f.write_all_at_with(b"x", 0, WriteMode::Durable(SyncSite::Other(0))),
            f.set_len(0),
            f.allocate(10),
        ];
        for r in refused {
            assert_eq!(r.unwrap_err().kind(), ErrorKind::PermissionDenied);
        }
        assert_eq!(p.read("f"), b"abc");
    });
}

#[test]
fn two_handles_see_the_same_bytes() {
    each(|p| {
        let a = p.create("f");
        let b = p.fs.open(&p.path("f"), OpenMode::ReadWrite).unwrap();
        a.write_all_at(b"from a", 0).unwrap();
        b.write_all_at(b"b", 5).unwrap();
        assert_eq!(contents_of(&*a), b"from b");
    });
}

#[test]
fn every_advice_is_accepted() {
    each(|p| {
        let f = p.create("f");
        f.write_all_at(&[1; 8192], 0).unwrap();
        let map = f.map(0..8192).unwrap();
        for advice in [
            Advice::Normal,
            Advice::Random,
            Advice::Sequential,
            Advice::WillNeed,
            Advice::DontNeed,
            Advice::WriteBack,
        ] {
            f.advise(0..8192, advice);
            f.advise(4096..4096, advice);
            f.advise(100..u64::MAX, advice);
        }
        drop(map);
        assert_eq!(contents_of(&*f), [1; 8192]);
    });
}

#[test]
fn threads_write_to_one_handle_at_their_own_places() {
    each(|p| {
        let f = p.create("f");
        std::thread::scope(|s| {
            for t in 0..4u8 {
                let f = &f;
                s.spawn(move || {
                    for i in 0..64u64 {
                        f.write_all_at(&[t + 1; 100], (i * 4 + u64::from(t)) * 100).unwrap();
                    }
                });
            }
        });
        for (i, chunk) in contents_of(&*f).chunks(100).enumerate() {
            assert_eq!(chunk, [(i % 4) as u8 + 1; 100]);
        }
    });
}
