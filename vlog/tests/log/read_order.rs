//! Reading records in the order they lie in.
use std::path::Path;
use std::sync::Arc;

use kvdb_vfs::{Fs, MemFs, OsFs};
use kvdb_vlog::*;

use crate::common::*;

const VALUE: usize = 10_000;

/// A log of 400 records in segments of a mebibyte, and where they are.
fn filled(fs: &Arc<dyn Fs>, path: &Path, maps: bool) -> (Log, Vec<Pointer>) {
    let options = Options {
        segment_size: 1 << 20,
        initial_segment_size: 1 << 20,
        sync_method: SyncMethod::Fdatasync,
        prefill: false,
        maps,
        ..Options::default()
    };
    let dir = Directory::new(fs.clone(), path, 7).unwrap();
    let (log, _) = dir.open(options, |_| Ok::<_, ()>(())).unwrap();
    let append = |i: u32| {
        let mut builder = FrameBuilder::new();
        builder.push(&i.to_be_bytes(), b"", &[i as u8; VALUE], None).unwrap();
        while log.prepare().unwrap() {}
        log.append(builder.finish(), Durability::Buffered).unwrap().pointers[0]
    };
    let pointers = (0..400).map(append).collect();
    (log, pointers)
}

/// At which of these pointers a reader is said to read in order.
fn in_order(view: &LogView, pointers: impl Iterator<Item = Pointer>) -> Vec<bool> {
    let mut order = ReadOrder::default();
    pointers.map(|pointer| order.note(view, pointer)).collect()
}

#[test]
fn who_reads_records_in_the_order_they_lie_in_is_told_so_after_a_mebibyte() {
    let fs: Arc<dyn Fs> = Arc::new(MemFs::new());
    let (log, pointers) = filled(&fs, DIR.as_ref(), true);
    let view = log.view();
    let all = in_order(&view, pointers.iter().copied());
    let first = all.iter().position(|o| *o).unwrap();
    assert!((100..130).contains(&first), "{first}");
    assert!(all[first..].iter().all(|o| *o), "also from one file to the next");
    // Every second record is enough, every fourth is not.
    let every = |n| in_order(&view, pointers.iter().copied().step_by(n));
    assert!(every(2).iter().skip(130).all(|o| *o));
    assert!(!every(4).contains(&true));
    assert!(!in_order(&view, pointers.iter().rev().copied()).contains(&true));
    let mut mixed = pointers.clone();
    mixed.sort_by_key(|p| mix(u64::from(p.segment()) << 32 | u64::from(p.offset())));
    assert!(!in_order(&view, mixed.iter().copied()).contains(&true));
    // Who leaves the order has to find it again.
    let there_and_back = pointers[..200].iter().chain(&mixed[..20]).chain(&pointers[200..]);
    let noted = in_order(&view, there_and_back.copied());
    assert!(noted[199] && !noted[219] && !noted[300] && noted[419]);
}

#[test]
fn reading_along_gives_what_reading_gives_and_is_not_written_over() {
    let place = tempfile::tempdir().unwrap();
    let memory: Arc<dyn Fs> = Arc::new(MemFs::new());
    for (fs, path) in [(memory, Path::new(DIR)), (Arc::new(OsFs::new()), place.path())] {
        for maps in [true, false] {
            let path = path.join(maps.to_string());
            fs.create_dir_all(&path).unwrap();
            let (log, pointers) = filled(&fs, &path, maps);
            let view = log.view();
            view.begin_along(pointers[3]);
            let key = |i: u32| i.to_be_bytes();
            for (i, &pointer) in pointers.iter().enumerate() {
                let version = i as u64 + 1;
                let value = view.read_along(pointer, &key(i as u32), version).unwrap();
                assert_eq!(&*value, &[i as u8; VALUE]);
                assert!(view.read_along(pointer, &key(i as u32 + 1), version).is_err());
                assert!(view.read_along(pointer, &key(i as u32), version + 1).is_err());
            }
            // A value holds the file, whichever map it is from.
            let (first, last) = (pointers[0].segment(), *pointers.last().unwrap());
            let value = view.read_along(pointers[5], &key(5), 6).unwrap();
            let old = segment_path(&path, view.meta(first).unwrap().file);
            drop(view);
            assert!(log.recycle(&[first]).unwrap().is_empty());
            let rotate = || {
                let last = log.end().segment;
                while log.end().segment == last {
                    let mut builder = FrameBuilder::new();
                    builder.push(b"other", b"", &[77; VALUE], None).unwrap();
                    log.append(builder.finish(), Durability::Buffered).unwrap();
                }
                while log.prepare().unwrap() {}
            };
            rotate();
            rotate();
            assert_eq!(&*value, &[5; VALUE]);
            assert_eq!(fs.metadata(&old).is_ok(), maps, "only a value that is a copy lets it go");
            drop(value);
            rotate();
            assert!(fs.metadata(&old).is_err(), "not used again");
            assert!(log.view().read(last, &key(399), 400).is_ok());
            log.close().unwrap();
        }
    }
}
