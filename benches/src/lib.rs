//! Measurements of kvdb's parts beside their yardsticks.
//!
//! - `cargo run --release -p kvdb-benches --bin ratios -- NAME` measures a part against its targets
//!   ([`targets`]): every row interleaved with its yardstick, in under a minute. Machines differ
//!   and neighbours are noisy, so a target is a ratio within one run wherever it can be.
//! - `cargo bench -p kvdb-benches --bench NAME` shows a part side by side with others, by
//!   criterion.
//!
//! A new part gets rows in [`targets::TARGETS`], a module in [`ratios`] that measures them, and a
//! line in [`ratios::GROUPS`].

pub mod disk;
pub mod input;
pub mod miss;
pub mod ratios;
pub mod targets;
pub mod timing;
