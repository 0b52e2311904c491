//! Immutable sorted tables of `(key, version) → value`, and the cursors that walk them.

mod cursor;
mod error;

pub use cursor::{Cursor, compare, key_head};
pub use error::{Error, ErrorKind, Part, Result};

/// The longest key that a table holds, in bytes.
pub const MAX_KEY_LEN: usize = 65_535;
