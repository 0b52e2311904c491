//! A crash-safe log of change sets: which tables and segments make up a store.

pub mod store;
