//! Maps.

use kvdb_vfs::ErrorKind;

use crate::each;

#[test]
fn a_map_shows_the_bytes_of_its_range_wherever_it_starts() {
    each(|p| {
        let f = p.create("f");
        let bytes: Vec<u8> = (0..20_000u32).map(|i| (i % 251) as u8).collect();
        f.write_all_at(&bytes, 0).unwrap();
        for range in [0..20_000, 0..1, 5..4097, 4096..8192, 19_999..20_000] {
            let map = f.map(range.start as u64..range.end as u64).unwrap().unwrap();
            assert_eq!(&map[..], &bytes[range]);
        }
    });
}

#[test]
fn an_empty_range_is_an_empty_map() {
    each(|p| {
        let f = p.create("f");
        assert!(f.map(0..0).unwrap().unwrap().is_empty());
        f.write_all_at(b"abc", 0).unwrap();
        assert!(f.map(2..2).unwrap().unwrap().is_empty());
    });
}

#[test]
fn a_range_beyond_the_file_is_refused() {
    each(|p| {
        let f = p.create("f");
        f.write_all_at(&[1; 100], 0).unwrap();
        for range in [0..101, 100..4096, 200..300, 200..200, 0..u64::MAX] {
            let e = f.map(range.clone()).unwrap_err();
            assert_eq!(e.kind(), ErrorKind::UnexpectedEof, "{range:?}");
        }
        #[allow(clippy::reversed_empty_ranges)]
        let reversed = f.map(50..40);
        assert_eq!(reversed.unwrap_err().kind(), ErrorKind::Io);
    });
}

#[test]
fn a_map_shows_what_is_written_later_in_place() {
    each(|p| {
        let f = p.create("f");
        f.allocate(1 << 20).unwrap();
        f.write_all_at(b"first", 4096).unwrap();
        let map = f.map(0..1 << 20).unwrap().unwrap();
        assert_eq!(map.slice(4096..4101).unwrap(), b"first");
        // Nobody holds a slice of these bytes now.
        f.write_all_at(b"later", 4096).unwrap();
        assert_eq!(map.slice(4096..4101).unwrap(), b"later");
    });
}

#[test]
fn a_map_outlives_handle_and_name() {
    each(|p| {
        let f = p.create("f");
        f.write_all_at(b"abc", 0).unwrap();
        let map = f.map(0..3).unwrap().unwrap();
        drop(f);
        p.fs.remove(&p.path("f")).unwrap();
        assert_eq!(&map[..], b"abc");
    });
}

#[test]
fn holders_counts_the_regions_of_one_map() {
    each(|p| {
        let f = p.create("f");
        f.write_all_at(b"abc", 0).unwrap();
        let map = f.map(0..3).unwrap().unwrap();
        assert_eq!(map.holders(), 1);
        let part = map.subregion(1..2).unwrap();
        assert_eq!(map.holders(), 2);
        drop(map);
        assert_eq!((part.holders(), &part[..]), (1, &b"b"[..]));
    });
}
