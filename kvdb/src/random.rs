//! Random numbers for ids, from the standard library's own source of hash keys.

use std::hash::{BuildHasher, RandomState};

/// 128 random bits: the identity of a new database. Never zero.
pub(crate) fn id() -> u128 {
    let half = || u128::from(RandomState::new().hash_one(std::time::SystemTime::now()));
    ((half() << 64) | half()).max(1)
}
