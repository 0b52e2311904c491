//! What a user of the library meets beyond plain reads, writes and transactions.
#![allow(clippy::unwrap_used)] // a test may panic

#[path = "../common/mod.rs"]
mod common;

mod after_close;
mod all_versions;
mod bad_input;
mod bulk_writer;
mod conflict_memory;
mod drop_range;
mod handles;
mod many_keys;
mod merge_operator;
mod prefetch;
mod rules;
mod sequence;
