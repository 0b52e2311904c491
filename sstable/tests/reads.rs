//! What is read of a file, and when: exactly so much.
#![allow(clippy::unwrap_used)]

mod common;

use std::ops::Range;
use std::sync::Mutex;

use common::{Entry, build};
use kvdb_sstable::{
    BlockCache, Builder, BuilderOptions, Codec, Cursor, ReaderOptions, Result, Source, Table,
    key_hash,
};

/// A file that is read by position and notes what of it.
struct Noting(Vec<u8>, Mutex<Vec<Range<u64>>>);

impl Noting {
    fn new(bytes: Vec<u8>) -> Self {
        Noting(bytes, Mutex::default())
    }

    /// What was read since the last call.
    fn taken(&self) -> Vec<Range<u64>> {
        std::mem::take(&mut *self.1.lock().unwrap())
    }
}

impl Source for Noting {
    fn len(&self) -> Result<u64> {
        Ok(self.0.len() as u64)
    }
    fn bytes(&self) -> Option<&[u8]> {
        None
    }
    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        self.1.lock().unwrap().push(offset..offset + buf.len() as u64);
        Source::read_exact_at(&self.0, buf, offset)
    }
}

fn entries() -> Vec<Entry> {
    let mut rng = fastrand::Rng::with_seed(41);
    (0..5000u32)
        .map(|i| (i.to_be_bytes().repeat(4), 1, (0..100).map(|_| rng.u8(..)).collect()))
        .collect()
}

fn open(bytes: Vec<u8>, cache: Option<BlockCache>) -> Table<Noting> {
    let mut options = ReaderOptions::default();
    options.cache = cache;
    Table::open(Noting::new(bytes), options).unwrap()
}

#[test]
fn opening_reads_the_end_and_index_and_filter_are_read_when_first_used() {
    let entries = entries();
    let bytes = build(&entries, BuilderOptions::default());
    let (len, data) = (bytes.len() as u64, open(bytes.clone(), None).properties().stored_bytes);
    let table = open(bytes, None);
    let opening = table.source().taken();
    assert!(opening.len() == 1 && opening[0] == (len - 4096..len), "{opening:?}");
    let missing = (0..1000u32)
        .map(|i| format!("missing {i}"))
        .find(|key| !table.may_contain(key_hash(key.as_bytes())).unwrap())
        .unwrap();
    let filter = table.source().taken();
    assert!(filter.len() == 1 && filter[0].start == data, "{filter:?}");
    assert!(table.get(missing.as_bytes(), 9, key_hash(missing.as_bytes())).unwrap().is_none());
    assert!(table.source().taken().is_empty(), "what the filter denies is looked for nowhere");
    let (key, _, value) = &entries[77];
    assert_eq!(table.get(key, 9, key_hash(key)).unwrap().unwrap().value(), value);
    let taken = table.source().taken();
    assert!(taken.len() == 2 && taken[0].start == filter[0].end, "the index, a block: {taken:?}");
}

#[test]
fn properties_that_are_long_cost_opening_one_more_read() {
    let mut builder = Builder::new(Vec::new(), BuilderOptions::default()).unwrap();
    builder.add(b"key", 1, b"value").unwrap();
    builder.add_property("long", &[7; 10_000]).unwrap();
    let table = open(builder.finish().unwrap().0, None);
    assert_eq!(table.source().taken().len(), 2);
    assert_eq!(table.properties().user("long"), Some(&[7; 10_000][..]));
    table.verify().unwrap();
}

#[test]
fn an_uncached_get_of_an_aligned_block_is_one_read_of_one_page() {
    let entries = entries();
    let table = open(build(&entries, BuilderOptions::default()), None);
    table.get(b"", 1, key_hash(b"")).unwrap();
    table.get_unfiltered(b"", 1).unwrap();
    table.source().taken();
    for (key, _, value) in &entries {
        let hit = table.get(key, u64::MAX, key_hash(key)).unwrap().unwrap();
        assert_eq!(hit.value(), value);
        let taken = table.source().taken();
        assert_eq!(taken.len(), 1, "{taken:?}");
        let page = taken[0].clone();
        assert!(page.start.is_multiple_of(4096) && page.end - page.start <= 4096, "{page:?}");
    }
}

#[test]
fn what_is_in_the_cache_is_not_read_again_and_each_table_has_its_own_blocks() {
    let entries = entries();
    let mut others = entries.clone();
    for (_, _, value) in &mut others {
        value.reverse();
    }
    for codec in [Codec::None, Codec::Lz4] {
        let mut options = BuilderOptions::default();
        options.codec = codec;
        let cache = BlockCache::new(4 << 20);
        let tables = [&entries, &others]
            .map(|entries| (open(build(entries, options.clone()), Some(cache.clone())), entries));
        for warm in [false, true] {
            for (table, entries) in &tables {
                for (key, _, value) in entries.iter() {
                    let hit = table.get(key, u64::MAX, key_hash(key)).unwrap().unwrap();
                    assert_eq!(hit.value(), value);
                }
                let (reads, blocks) = (table.source().taken().len(), table.properties().blocks);
                // The end, filter, index; and each block once.
                assert_eq!(reads as u64, if warm { 0 } else { 3 + blocks });
            }
        }
        let blocks: u64 = tables.iter().map(|(table, _)| table.properties().blocks).sum();
        assert_eq!(cache.len() as u64, blocks);
        let decoded: u64 = tables.iter().map(|(table, _)| table.properties().block_bytes).sum();
        assert!(cache.weight() >= decoded, "{} of {decoded}", cache.weight());
    }
}

#[test]
fn a_walk_that_reads_ahead_reads_large_pieces_once_and_leaves_the_cache_alone() {
    let entries = entries();
    let cache = BlockCache::new(4 << 20);
    let table = open(build(&entries, BuilderOptions::default()), Some(cache.clone()));
    let data = table.properties().stored_bytes;
    assert!(!table.cursor().seek(&[0xFF; 20], 0).unwrap());
    table.source().taken();
    let held = cache.len();
    for forward in [true, false] {
        let mut cursor = table.cursor().read_ahead(64 << 10);
        let mut on = if forward { cursor.first() } else { cursor.last() }.unwrap();
        let mut seen = 0;
        while on {
            seen += 1;
            on = if forward { cursor.next() } else { cursor.prev() }.unwrap();
        }
        assert_eq!(seen, entries.len());
        let taken = table.source().taken();
        let bytes: u64 = taken.iter().map(|piece| piece.end - piece.start).sum();
        // Which way a walk goes is known when it leaves its first block: going back, that is read alone.
        let pieces = data.div_ceil(64 << 10) + u64::from(!forward);
        assert_eq!(taken.len() as u64, pieces, "{taken:?}");
        // A piece that ends within a block is followed by one that begins with that block.
        assert!((data..data + taken.len() as u64 * 4096).contains(&bytes), "{bytes} of {data}");
        assert_eq!(cache.len(), held);
    }
}
