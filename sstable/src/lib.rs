//! kvdb: under construction.
