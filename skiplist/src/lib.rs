//! A concurrent, ordered, versioned map in one fixed-capacity arena.

mod arena;
mod code;
mod cursor;
mod entry;
mod error;
mod height;
mod index;
mod inserter;
mod list;
mod options;
mod range;
mod search;
mod sync;

pub use cursor::{Cursor, OwnedCursor};
pub use entry::{EntryRef, OwnedEntry};
pub use error::{InsertError, OptionsError};
pub use inserter::Inserter;
pub use list::{MAX_CAPACITY, MAX_KEY_LEN, SkipList};
pub use options::Options;
pub use range::Iter;
