//! Files, directories, sync and locks behind one trait.
//!
//! Every crate of kvdb that touches a file does so through [`Fs`] and [`File`]. That is what
//! makes an in-memory database, a simulated power cut and an injected I/O error possible without
//! a second code path:
//!
//! - [`OsFs`] is the operating system.
//! - [`MemFs`] lives in memory, knows what was synced, and builds the image a power loss would
//!   leave behind.
//! - [`FaultFs`] wraps another file system and makes the Nth operation fail.
//!
//! # Durability
//!
//! The contents of a file and its name are made durable separately, by [`File::sync_data`] and by
//! [`Fs::sync_dir`] of its directory, and nothing else orders anything. The order that creates a
//! file so that a name never leads to half of it is: write, sync the file, rename it into place,
//! sync the directory. Every call that syncs carries a [`SyncSite`], so that a test can switch off
//! each of them and see whether anything notices ([`FaultPlan::skip_sync`]).
//!
//! [`OpenMode::Direct`] opens a file for writing past the cache, in whole blocks; together with
//! [`WriteMode::Durable`] that is the fastest way to make a small write durable. All three file
//! systems have it and hold its callers to the same alignment.
//!
//! # Reading
//!
//! [`File::read_at`] copies, [`File::map`] does not. A [`Region`] shows what is written to the file
//! after it was mapped, so only bytes that are not going to change may be looked at through it.
//! Who wants to write over a file asks [`File::is_held`] first: a map that somebody still has, in
//! this process or in another, holds a shared lock of its file.
//!
//! The traits are used as `dyn`: a virtual call is nothing beside a system call.
//!
//! Also here, because every layer above needs the same one: [`Salt`], which ties a stored
//! checksum to the place where it was meant to be stored, and the [`Clock`].

mod aligned;
mod clock;
mod error;
mod fault;
mod fs;
mod mem;
mod os;
mod region;
mod salt;
mod site;

pub use aligned::AlignedBuffer;
pub use clock::{Clock, ManualClock, SystemClock};
pub use error::{Error, ErrorKind, Op, Result};
pub use fault::{ArmedPlan, Fault, FaultFs, FaultPlan};
pub use fs::{
    Advice, BLOCK, Entry, EntryKind, File, Fs, LockGuard, LockMode, Metadata, OpenMode,
    ReadRequest, WriteMode,
};
pub use mem::{DirtyPage, ImagePolicy, Keep, MemFs, NameChange};
pub use os::OsFs;
pub use region::Region;
pub use salt::Salt;
pub use site::SyncSite;

#[doc = include_str!("../README.md")]
#[cfg(doctest)]
struct Readme;
