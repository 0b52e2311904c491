//! What can go wrong, each with the limit that was hit.

use thiserror::Error;

/// Why a list could not be made.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum OptionsError {
    /// The capacity is zero, or does not leave room for one empty entry beside the list's own
    /// bookkeeping.
    #[error("a capacity of {capacity} bytes is below the least possible one, {least} bytes")]
    CapacityTooSmall {
        /// The capacity asked for, in bytes.
        capacity: usize,
        /// The least capacity that holds one entry, in bytes.
        least: usize,
    },
    /// Offsets within the arena are 32 bits wide.
    #[error("a capacity of {capacity} bytes is above the greatest possible one, {greatest} bytes")]
    CapacityTooLarge {
        /// The capacity asked for, in bytes.
        capacity: usize,
        /// The greatest capacity, in bytes.
        greatest: usize,
    },
    /// The operating system did not give the memory.
    #[error("no memory for an arena of {capacity} bytes")]
    NoMemory {
        /// The capacity asked for, in bytes.
        capacity: usize,
        /// What the operating system said.
        #[source]
        source: std::io::Error,
    },
}

/// Why an entry was not inserted. The list's content is unchanged in every case.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum InsertError {
    /// The pair of key and version is there already.
    #[error("the pair of key and version is already in the list")]
    Exists,
    /// The arena has not enough bytes left. Nothing was taken from it, so a smaller entry may
    /// still fit.
    #[error("the arena is full: {needed} bytes needed, {remaining} left")]
    Full {
        /// Arena bytes the entry needs.
        needed: usize,
        /// Arena bytes that were left.
        remaining: usize,
    },
    /// Keys are at most [`MAX_KEY_LEN`](crate::MAX_KEY_LEN) bytes long, and fit into the list if it is
    /// empty.
    #[error("a key of {len} bytes is longer than the limit of {limit} bytes")]
    KeyTooLong {
        /// Length of the key, in bytes.
        len: usize,
        /// The limit for this list, in bytes.
        limit: usize,
    },
    /// The value would not fit into this list even if the list were empty.
    #[error("a value of {len} bytes is longer than the {limit} bytes this list can ever hold")]
    ValueTooLong {
        /// Length of the value, in bytes.
        len: usize,
        /// The limit for this list and key, in bytes.
        limit: usize,
    },
}
