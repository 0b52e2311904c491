//! The builder streams: what it holds at once does not grow with the bytes of the table.
//!
//! `KVDB_TEST_SCALE=N` makes the table N times as large; at 64 it has 4 GiB.
#![allow(clippy::unwrap_used)]

use std::io::{self, Write};

use kvdb_sstable::{Builder, BuilderOptions, Codec};

mod common;
#[path = "common/counting.rs"]
mod counting;

/// Takes a file and keeps its length.
struct Sink(u64);

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0 += bytes.len() as u64;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Builds a table of so many values; returns its length and the most that was held meanwhile.
fn build(values: u64, len: usize, codec: Codec) -> (u64, u64) {
    let value: Vec<u8> = (0..len).map(|i| (i * i / 7) as u8).collect();
    let held = counting::Watermark::start();
    let mut options = BuilderOptions::default();
    options.codec = codec;
    let mut builder = Builder::new(Sink(0), options).unwrap();
    for i in 0..values {
        builder.add(&i.to_be_bytes(), 1, &value).unwrap();
    }
    let (sink, properties) = builder.finish().unwrap();
    assert_eq!((sink.0, properties.entries), (properties.file_len, values));
    (sink.0, held.most() as u64)
}

/// One test alone, since the allocator counts for the whole process.
#[test]
fn the_builder_holds_little_beside_eight_bytes_a_key() {
    let scale = common::scale() as u64;
    for codec in [Codec::None, Codec::Lz4] {
        // Few keys: a buffer, a block, and an item of the index for each 16 KiB.
        let values = 4096 * scale;
        let (len, held) = build(values, 16 << 10, codec);
        let bound = (1 << 20) + values * 100;
        println!("{codec:?}: {len} bytes, {held} held, at most {bound}");
        assert!(held <= bound, "{held} of {bound} bytes for {values} values");
        assert!(codec != Codec::None || len >= (64 * scale) << 20, "{len}");
        assert!(codec != Codec::None || len > 40 * held, "{held} bytes for a table of {len}");
    }
    // Many keys: their hashes, and the filter that is made of them, twice.
    let values = (1 << 20) + 1;
    let (len, held) = build(values, 40, Codec::None);
    println!("small values: {len} bytes, {held} held");
    assert!(held <= (2 << 20) + values * 12, "{held} bytes for {values} keys");
}
