//! Immutable sorted tables of `(key, version) → value`, and the cursors that walk them.

mod block;
mod block_builder;
mod builder;
mod cache;
mod codec;
mod concat;
mod cursor;
mod error;
mod filter;
mod format;
mod heads;
mod hit;
mod index;
mod merge;
mod prefetch;
mod properties;
mod source;
mod table;
mod table_cursor;
mod verify;

pub use builder::{Builder, BuilderOptions};
pub use cache::BlockCache;
pub use codec::Codec;
pub use concat::{Concat, Runs};
pub use cursor::{Cursor, compare, key_head};
pub use error::{Error, ErrorKind, Part, Result};
pub use filter::key_hash;
pub use format::FORMAT_VERSION;
pub use hit::Hit;
pub use merge::Merge;
pub use properties::Properties;
pub use source::{AnySource, Source};
pub use table::{ReaderOptions, Table};
pub use table_cursor::{TableCursor, TableRef};

/// The longest key that a table holds, in bytes.
pub const MAX_KEY_LEN: usize = 65_535;

/// The longest value that a table holds, in bytes: a block with one such entry and its key, padded,
/// has a length of 32 bits.
pub const MAX_VALUE_LEN: usize = u32::MAX as usize - (1 << 20);

/// Which table of which database a file is. It is stored in the table, and a reader may insist on it:
/// files that were swapped, or that belong to another database, do not open.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Identity {
    /// The id of the database.
    pub database: u128,
    /// The id of the table in its database.
    pub table: u64,
}
