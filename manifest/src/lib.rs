//! A crash-safe log of change sets, and the state they add up to.
//!
//! A manifest answers one question after any crash: what is the store made of? It is a single
//! file, `MANIFEST`, to which *change sets* are appended. Each is atomic, durable before anybody
//! sees its effect, and the sum of all of them is the *state*. The crate is generic over both
//! ([`State`]); [`store`] has the ones that kvdb uses.
//!
//! LevelDB's `MANIFEST` and Badger's are the ancestors. What is different here: the state in
//! memory changes only after the record is durable, a damaged record is told from a torn one, and
//! replacing the file by a snapshot is a rename, with no second file that names the current one.
//!
//! # File format, version 1
//!
//! All numbers are little-endian. The file starts with a header of 64 bytes:
//!
//! | offset | bytes | |
//! |---:|---:|---|
//! | 0 | 8 | magic, `kvdbMANI` |
//! | 8 | 4 | format version |
//! | 12 | 4 | reserved, 0 |
//! | 16 | 16 | database id |
//! | 32 | 8 | nonce: random, new with every file |
//! | 40 | 8 | base: length of the file when it got its name |
//! | 48 | 12 | reserved, 0 |
//! | 60 | 4 | CRC-32 of bytes 0..60, sealed for offset 0 |
//!
//! The layout of these 64 bytes is the same in every format version. Then follow records, without
//! gaps or padding, each with a header of 16 bytes:
//!
//! | offset | bytes | |
//! |---:|---:|---|
//! | 0 | 4 | length of the payload, at most 2³⁰ |
//! | 4 | 4 | kind: 1 change set, 2 mark |
//! | 8 | 4 | CRC-32 of the payload |
//! | 12 | 4 | CRC-32 of bytes 0..12, sealed for the offset of the record |
//! | 16 | | payload: the change set as a protocol-buffer message; nothing for a mark |
//!
//! *Sealed* means combined with a mask that is made from the database id, the nonce and the offset
//! ([`kvdb_vfs::Salt`]), so a record verifies in one place of one file only: records of an earlier
//! manifest, of another database's, or at a wrong offset do not, and neither do zeros. The header
//! of a record has a checksum of its own, so a damaged length is known to be damaged before it
//! is followed, and a record can be recognised without its payload.
//!
//! # Torn or damaged
//!
//! A crash may leave a part of the last append: any subset of its sectors, or a file that has
//! grown but holds zeros. Nobody was told that this change is durable, so opening cuts it off,
//! and says so ([`OpenReport::cut`]). Damage to anything else is an error that names the offset,
//! and nothing is touched. What tells the two apart:
//!
//! - *Base.* A new file is complete and synced before it gets its name. So nothing below `base`
//!   can be torn.
//! - *Witnesses.* Each append is synced before anything is written behind it. So a valid record
//!   header anywhere behind an invalid record proves that the latter was durable once. When the
//!   replay stops at an invalid record, the rest of the file is searched for one, byte by byte,
//!   since the length of a damaged record is not to be trusted.
//! - *Marks.* The last record has no witness. So when an append has been synced, an empty record
//!   is written behind it, without a sync of its own. The next append overwrites it. It costs a
//!   write into the system's cache; it is there after the death of the process, and after a power
//!   loss if the system had some seconds of time. [`Manifest::settle`] makes it durable.
//!
//! What is left looks like a torn append, or like nothing at all, and is cut: damage to the very last
//! record, before its mark has reached the disk; and, settled or not, damage that takes all witnesses
//! along, as zeros do (or a truncation) from anywhere behind `base` to the end of the file.
//!
//! An intact record that is no message, does not fit the state, or needs an unknown feature is an
//! error of its own kind in every position.
//!
//! # Failures
//!
//! A write that fails is taken back: the mark it went over is written again, the file is truncated
//! behind it and synced, and the append has certainly not happened. If that fails too, or if a
//! *sync* fails, the manifest is poisoned: no later record may land behind what may or may not be
//! garbage, and a sync that succeeds after one that failed proves nothing. Reading goes on; opening
//! again finds out what the disk holds, and writes the last record once more unless a mark vouches
//! for it, because after a failed sync the system's cache may show what the disk does not have.
//!
//! # Rewriting
//!
//! When the file is long and mostly dead ([`Options`]), it is replaced by one that holds a
//! snapshot of the state as its only record: written to `MANIFEST.tmp`, synced, renamed, and the
//! directory synced before anything else is appended. A failure before the rename leaves the old
//! file in use, and the next attempt waits until the log has grown some more. A failure behind it
//! poisons, since an append might go to a file whose name does not survive.

mod error;
mod format;
#[doc(hidden)]
#[cfg(any(test, fuzzing))]
pub mod fuzz;
mod manifest;
mod open;
mod replay;
mod rewrite;
mod state;
pub mod store;

pub use error::{Error, Result};
pub use format::{FILE_NAME, FORMAT_VERSION, MAX_CHANGE_LEN, TEMP_NAME};
pub use manifest::{Manifest, Options, VerifyReport};
pub use open::{OpenReport, exists};
pub use replay::Cut;
pub use state::{Inconsistent, State};

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
