//! Garbage collection of the value log: SEMANTICS rules 39 to 43.
#![allow(clippy::unwrap_used)] // a test may panic

#[path = "../common/mod.rs"]
mod common;
mod support;

mod crashes;
mod damage;
mod ending;
mod full_disk;
mod readers;
mod small_units;
mod victims;
