//! Transactions on several threads over a small multi-version store.

#![cfg(not(loom))]
#![allow(clippy::unwrap_used, reason = "all of this is a test")]

mod bank;
mod serializability;
mod store;
