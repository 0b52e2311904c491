//! Random histories of one file in memory, compared with a plain model of it: two byte vectors,
//! the live and the durable one.

#![allow(clippy::unwrap_used)] // helpers of tests, outside of #[test] functions

use std::path::Path;

use kvdb_vfs::{Fs, Keep, MemFs, OpenMode, SyncSite, WriteMode};
use proptest::prelude::*;

const SITE: SyncSite = SyncSite::Other(0);

#[derive(Debug, Clone)]
enum Step {
    Write { offset: u64, len: usize, byte: u8 },
    WriteDurably { offset: u64, len: usize, byte: u8 },
    SetLen(u64),
    Allocate(u64),
    Sync,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let offset = prop_oneof![0u64..20_000, (0u64..5).prop_map(|page| page * 4096)];
    let len = prop_oneof![0usize..600, 0usize..9000, (0usize..3).prop_map(|pages| pages * 4096)];
    let step = prop_oneof![
        4 => (offset.clone(), len.clone(), 1u8..).prop_map(|(offset, len, byte)| Step::Write { offset, len, byte }),
        2 => (offset.clone(), len, 1u8..).prop_map(|(offset, len, byte)| Step::WriteDurably { offset, len, byte }),
        1 => offset.clone().prop_map(Step::SetLen),
        1 => offset.prop_map(Step::Allocate),
        1 => Just(Step::Sync),
    ];
    prop::collection::vec(step, 1..24)
}

fn put(bytes: &mut Vec<u8>, offset: u64, len: usize, byte: u8) {
    if len == 0 {
        return;
    }
    let offset = offset as usize;
    bytes.resize(bytes.len().max(offset + len), 0);
    bytes[offset..offset + len].fill(byte);
}

fn contents(fs: &MemFs) -> Vec<u8> {
    let file = fs.open(Path::new("f"), OpenMode::Read).unwrap();
    let mut bytes = vec![0; file.len().unwrap() as usize];
    file.read_exact_at(&mut bytes, 0).unwrap();
    let map = file.map(0..bytes.len() as u64).unwrap().unwrap();
    assert_eq!(&map[..], bytes, "the map and the read agree");
    bytes
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn live_and_durable_contents_follow_the_model(steps in steps(), seed: u64) {
        let fs = MemFs::new();
        let file = fs.open(Path::new("f"), OpenMode::CreateNew).unwrap();
        fs.sync_dir(Path::new("/"), SITE).unwrap();
        let (mut live, mut durable) = (Vec::new(), Vec::new());
        for step in steps {
            match step {
                Step::Write { offset, len, byte } => {
                    file.write_all_at(&vec![byte; len], offset).unwrap();
                    put(&mut live, offset, len, byte);
                }
                Step::WriteDurably { offset, len, byte } => {
                    let mode = WriteMode::Durable(SITE);
                    file.write_all_at_with(&vec![byte; len], offset, mode).unwrap();
                    put(&mut live, offset, len, byte);
                    put(&mut durable, offset, len, byte);
                }
                Step::SetLen(len) => {
                    file.set_len(len).unwrap();
                    live.resize(len as usize, 0);
                }
                Step::Allocate(len) => {
                    file.allocate(len).unwrap();
                    live.resize(live.len().max(len as usize), 0);
                }
                Step::Sync => {
                    file.sync_data(SITE).unwrap();
                    durable.clone_from(&live);
                }
            }
            prop_assert_eq!(&contents(&fs), &live);
            prop_assert_eq!(&contents(&fs.crash_image(&mut Keep::All)), &live);
            prop_assert_eq!(&contents(&fs.crash_image(&mut Keep::None)), &durable);
            prop_assert_eq!(&contents(&fs.process_image()), &live);

            let image = contents(&fs.crash_image(&mut Keep::Random(seed)));
            let (low, high) = (live.len().min(durable.len()), live.len().max(durable.len()));
            prop_assert!((low..=high).contains(&image.len()));
            for (i, sector) in image.chunks(512).enumerate() {
                let from = |bytes: &[u8]| {
                    let at = |j: usize| bytes.get(j).copied().unwrap_or(0);
                    sector.iter().enumerate().all(|(j, b)| *b == at(i * 512 + j))
                };
                prop_assert!(from(&live) || from(&durable), "sector {} is neither", i);
            }
        }
    }
}
