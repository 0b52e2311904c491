//! The program, run as a shell would run it.
#![allow(clippy::unwrap_used)]

mod commands;
mod import;
#[cfg(unix)]
mod import_kill;
mod sst;
mod support;
mod tree;
