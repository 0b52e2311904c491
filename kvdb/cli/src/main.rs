//! The kvdb program.
fn main() {}
