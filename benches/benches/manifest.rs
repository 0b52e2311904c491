//! The manifest beside a write and a sync of as many bytes.
//!
//! `cargo bench -p kvdb-benches --bench manifest`. What is promised about these figures is
//! measured, in turns with its yardsticks, by `ratios -- manifest`.
#![allow(missing_docs, reason = "what criterion's macro makes")]

use std::fs::File;
use std::io::Write;
use std::sync::Arc;

use criterion::{Criterion, criterion_group, criterion_main};
use kvdb_benches::disk::Place;
use kvdb_manifest::store::{StoreChange, StoreState, TableRecord};
use kvdb_manifest::{Manifest, Options};
use kvdb_vfs::OsFs;
use prost::Message;

fn change(id: u64) -> StoreChange {
    let table = TableRecord {
        id,
        level: 1,
        size: 64 << 20,
        smallest_key: format!("user{id:020}").into_bytes(),
        largest_key: format!("user{id:020}zzzz").into_bytes(),
        largest_version: id,
        entries: 500_000,
        ..TableRecord::default()
    };
    let tables_removed = if id > 1000 { vec![id - 1000] } else { vec![] };
    StoreChange { tables_added: vec![table], tables_removed, ..StoreChange::default() }
}

fn append(c: &mut Criterion) {
    let place = Place::new();
    std::fs::create_dir_all(place.path("store")).expect("a directory");
    let options = Options { rewrite_bytes: u64::MAX, ..Options::default() };
    let manifest =
        Manifest::<StoreState>::create(Arc::new(OsFs::new()), &place.path("store"), 1, options)
            .expect("a manifest");
    let mut group = c.benchmark_group("durable append of a change set");
    group.sample_size(20);
    let mut id = 0;
    group.bench_function("kvdb-manifest", |b| {
        b.iter(|| {
            id += 1;
            manifest.append(&change(id)).expect("an append");
        });
    });
    let bytes = vec![1; change(2000).encoded_len() + 16];
    let mut file = File::create(place.path("plain")).expect("a file");
    group.bench_function("File and sync_data", |b| {
        b.iter(|| {
            file.write_all(&bytes).expect("a write");
            file.sync_data().expect("a sync");
        });
    });
    group.bench_function("rewrite with 1,000 tables", |b| {
        b.iter(|| manifest.rewrite().expect("a rewrite"));
    });
    group.finish();
}

criterion_group!(benches, append);
criterion_main!(benches);
