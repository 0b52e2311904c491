//! What a user of the library meets beyond plain reads, writes and transactions.
#![allow(clippy::unwrap_used)] // a test may panic

#[path = "../common/mod.rs"]
mod common;

mod all_versions;
mod bulk_writer;
mod drop_range;
mod many_keys;
mod merge_operator;
mod sequence;
