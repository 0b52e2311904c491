//! However the bytes come in, the answers are the same: in memory, mapped, by position, through a
//! shared cache.

#![allow(clippy::unwrap_used)]

mod common;

use std::sync::Arc;

use common::{Entry, Model, build, compare_walks, random_entries, scale};
use kvdb_sstable::{
    AnySource, BlockCache, BuilderOptions, Codec, Properties, ReaderOptions, Source, Table,
    key_hash,
};
use kvdb_vfs::{File, Fs, MemFs, OpenMode, OsFs, Region};

fn check(source: impl Source, cache: Option<&BlockCache>, entries: &[Entry]) -> Properties {
    let mut options = ReaderOptions::default();
    options.cache = cache.cloned();
    let table = Table::open(source, options).unwrap();
    // The same walks and lookups for every source.
    let mut rng = fastrand::Rng::with_seed(21);
    compare_walks(&mut rng, &mut table.cursor(), &mut Model::new(entries.to_vec()), 300);
    let mut ahead = table.cursor().read_ahead(10_000);
    compare_walks(&mut rng, &mut ahead, &mut Model::new(entries.to_vec()), 300);
    for (key, version, value) in entries.iter().step_by(5) {
        let hit = table.get(key, *version, key_hash(key)).unwrap().unwrap();
        assert_eq!((hit.version(), hit.value()), (*version, &**value));
        let missing = [key, &b"\0?"[..]].concat();
        assert!(table.get(&missing, u64::MAX, key_hash(&missing)).unwrap().is_none());
    }
    table.verify().unwrap();
    table.properties().clone()
}

/// `file` holds `bytes`.
fn check_all(bytes: &[u8], file: &Arc<dyn File>, cache: &BlockCache, entries: &[Entry]) {
    let whole = || file.map(0..bytes.len() as u64).unwrap().unwrap();
    let mapped = || AnySource::open(file.clone(), true).unwrap();
    assert!(matches!(mapped(), AnySource::Mapped(..)));
    let mut seen = vec![
        check(bytes, None, entries),
        check(bytes.to_vec(), None, entries),
        check(bytes.to_vec().into_boxed_slice(), None, entries),
        check(Arc::<[u8]>::from(bytes), Some(cache), entries),
        check(Region::from_vec(bytes.to_vec()), None, entries),
        check(whole(), Some(cache), entries),
        check(mapped(), None, entries),
        check(mapped(), Some(cache), entries),
        check(AnySource::open(file.clone(), false).unwrap(), None, entries),
        check(AnySource::open(file.clone(), false).unwrap(), Some(cache), entries),
        check(file.clone(), None, entries),
        check(file.clone(), Some(cache), entries),
    ];
    seen.dedup();
    assert_eq!(seen.len(), 1, "all sources say the same of the table");
}

#[test]
fn every_source_and_every_loading_mode_gives_the_same_answers() {
    let mut rng = fastrand::Rng::with_seed(20);
    let dir = tempfile::tempdir().unwrap();
    let (os, memory) = (OsFs::new(), MemFs::new());
    // One cache for all tables, too small for them.
    let cache = BlockCache::new(50_000);
    for round in 0..8 * scale() {
        let n = rng.usize(1..400);
        let shape = rng.u32(0..6);
        let entries = random_entries(&mut rng, n, shape, 80);
        let mut options = BuilderOptions::default();
        options.block_size = [256, 4096, 16_384][round % 3];
        options.codec = [
            Codec::None,
            Codec::Lz4,
            #[cfg(feature = "zstd")]
            Codec::Zstd(1),
        ][round % if cfg!(feature = "zstd") { 3 } else { 2 }];
        let bytes = build(&entries, options);
        let name = format!("{round}.sst");
        for (fs, path) in [(&os as &dyn Fs, dir.path().join(&name)), (&memory, "/".into())] {
            let path = if path.ends_with(&name) { path } else { path.join(&name) };
            let file = fs.open(&path, OpenMode::CreateNew).unwrap();
            file.write_all_at(&bytes, 0).unwrap();
            check_all(&bytes, &file, &cache, &entries);
        }
    }
    assert!(!cache.is_empty() && cache.weight() <= 50_000);
}
