//! An MVCC oracle: versions, read marks and conflict detection over keys and ranges.

mod core;
mod error;
mod mark;
mod marks;
mod oracle;
mod range;
mod read_set;
mod sync;
mod window;

pub use error::{BeginError, CommitError, NotManaged};
pub use mark::{Mode, ReadMark};
pub use oracle::{Options, Oracle};
pub use read_set::ReadSet;
pub use window::Write;

#[doc = include_str!("../README.md")]
#[cfg(doctest)]
struct Readme;
