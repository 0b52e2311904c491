//! Files, directories, sync and locks behind one trait.
//!
//! Every crate of kvdb that touches a file does so through [`Fs`] and [`File`]. That is what
//! makes an in-memory database, a simulated power cut and an injected I/O error possible without
//! a second code path:
//!
//! - [`OsFs`] is the operating system.
//! - [`MemFs`] lives in memory, knows what was synced, and builds the image a power loss would
//!   leave behind.
//!
//! The traits are used as `dyn`: a virtual call is nothing beside a system call.
//!
//! Also here, because every layer above needs the same one: [`Salt`], which ties a stored
//! checksum to the place where it was meant to be stored, and the [`Clock`].

mod clock;
mod error;
mod fs;
mod mem;
mod os;
mod region;
mod salt;
mod site;

pub use clock::{Clock, ManualClock, SystemClock};
pub use error::{Error, ErrorKind, Op, Result};
pub use fs::{
    Advice, Entry, EntryKind, File, Fs, LockGuard, LockMode, Metadata, OpenMode, ReadRequest,
    WriteMode,
};
pub use mem::{DirtyPage, ImagePolicy, Keep, MemFs, NameChange};
pub use os::OsFs;
pub use region::Region;
pub use salt::Salt;
pub use site::SyncSite;
