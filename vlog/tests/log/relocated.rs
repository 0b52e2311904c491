//! Pointers into segments whose records were moved.
use std::sync::Arc;

use kvdb_vfs::{Fs, MemFs, OpenMode};
use kvdb_vlog::*;

use crate::common::*;

type Named = Vec<(Pointer, Rec)>;

/// A store with two collected segments; what was kept of their records, and what was dropped.
fn relocated(maps: bool) -> (Arc<dyn Fs>, State, Options, Named, Named) {
    let fs: Arc<dyn Fs> = Arc::new(MemFs::new());
    let options = Options { maps, ..options() };
    let manifest = Manifest::new(State::default());
    let (log, ..) = open(&fs, &manifest, &options).unwrap();
    for version in 1..40 {
        append(&log, Entry { version, seed: version, size: 900 }, Durability::Buffered).unwrap();
        log.prepare().unwrap();
    }
    log.close().unwrap();
    drop(log);
    let mut state = manifest.state();
    let mut recovery = recovery(&fs, &state, &options).unwrap();
    let mut seen = Seen::default();
    recovery
        .replay(|f| {
            seen.add(f);
            Ok::<_, ()>(())
        })
        .unwrap();
    let view = recovery.view();
    // The first two segments are collected into one record file, every second record is kept.
    let victims = [state.segments[0].meta, state.segments[1].meta];
    let mut writer = RelocationWriter::new(DATABASE, 900, 5);
    let (mut kept, mut dropped) = (Vec::new(), Vec::new());
    for (i, (pointer, record)) in seen.pointers.iter().enumerate() {
        if !victims.iter().any(|v| v.segment == pointer.segment()) {
            kept.push((*pointer, record.clone()));
        } else if i % 2 == 0 {
            view.read_record(*pointer, record.3, |k, t, v| {
                writer.push(*pointer, k, t, v, record.3).unwrap();
            })
            .unwrap();
            kept.push((*pointer, record.clone()));
        } else {
            dropped.push((*pointer, record.clone()));
        }
    }
    let tables: Vec<_> =
        victims.iter().map(|v| (v.segment, 901 + u64::from(v.segment), 6)).collect();
    writer.finish(&*fs, DIR.as_ref(), &tables).unwrap();
    for (segment, table, table_nonce) in tables {
        let known = state.segments.iter_mut().find(|s| s.meta.segment == segment).unwrap();
        known.relocated = Some(Relocated { table, table_nonce });
        fs.remove(&segment_path(DIR.as_ref(), known.meta.file)).unwrap();
    }
    state.head = Position::new(state.segments[2].meta.segment, 0);
    (fs, state, options, kept, dropped)
}

#[test]
fn a_pointer_leads_to_the_record_wherever_it_was_moved() {
    for maps in [true, false] {
        let (fs, state, options, kept, dropped) = relocated(maps);
        let mut recovery = recovery(&fs, &state, &options).unwrap();
        recovery.replay(|_| Ok::<_, ()>(())).unwrap();
        let view = recovery.view();
        let both = [1, 2].map(|s| view.verify(s, None).unwrap().records);
        assert_eq!(
            both.iter().sum::<u64>(),
            kept.iter().filter(|(p, _)| p.segment() < 3).count() as u64
        );
        assert!(view.meta(1).is_none() && view.holders(1).is_some());
        for (pointer, (key, tag, value, version)) in &kept {
            assert_eq!(&*view.read(*pointer, key, *version).unwrap(), &value[..]);
            if let Some(borrowed) = view.read_ref(*pointer, key, *version).unwrap() {
                assert_eq!(borrowed, &value[..]);
            }
            let same = |k: &[u8], t: &[u8], v: &[u8]| k == key && t == tag && v == value;
            assert!(view.read_record(*pointer, *version, same).unwrap());
        }
        assert!(!dropped.is_empty());
        for (pointer, (key, _, _, version)) in &dropped {
            let e = view.read(*pointer, key, *version).unwrap_err();
            assert!(matches!(e, Error::BadPointer { .. }), "{e}");
        }
    }
}

#[test]
fn every_flipped_byte_of_a_relocation_is_noticed() {
    let (fs, state, options, kept, _) = relocated(true);
    let files: Vec<_> = fs
        .list(DIR.as_ref())
        .unwrap()
        .into_iter()
        .filter(|e| parse_relocation_path(&e.name).is_some())
        .map(|e| std::path::Path::new(DIR).join(e.name))
        .collect();
    assert_eq!(files.len(), 3);
    for path in files {
        let file = fs.open(&path, OpenMode::ReadWrite).unwrap();
        let records = path.extension().unwrap() == "vrec";
        // The header page beyond the header holds nothing.
        let len = file.len().unwrap();
        let places = (0..len).filter(|at| !records || !(64..4096).contains(at));
        for at in places.filter(|at| !records || *at < 64 || at % 13 == 0) {
            let mut byte = [0];
            file.read_exact_at(&mut byte, at).unwrap();
            file.write_all_at(&[byte[0] ^ 0x20], at).unwrap();
            let opened = recovery(&fs, &state, &options);
            let noticed = match opened {
                Err(_) => true,
                Ok(recovery) => {
                    let view = recovery.view();
                    let verified = [1, 2].iter().all(|s| view.verify(*s, None).is_ok());
                    assert!(!verified || at < 64, "{} at {at}", path.display());
                    let moved = kept.iter().filter(|(p, _)| p.segment() <= 2);
                    let failed = moved.filter(|(pointer, (key, _, value, version))| {
                        match view.read(*pointer, key, *version) {
                            Ok(read) => {
                                assert_eq!(&*read, &value[..]);
                                false
                            }
                            Err(_) => true,
                        }
                    });
                    failed.count() > 0
                }
            };
            // A version trailer is not read by pointer (who reads knows the version), so only
            // verification notices it.
            assert!(noticed || records && at >= 4096, "{} at {at}", path.display());
            file.write_all_at(&byte, at).unwrap();
        }
    }
}
