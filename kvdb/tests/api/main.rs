//! What a user of the library meets beyond plain reads, writes and transactions.

#[path = "../common/mod.rs"]
mod common;

mod all_versions;
mod many_keys;
mod merge_operator;
