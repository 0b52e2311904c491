//! An MVCC oracle: versions, read marks, and conflict detection over keys and ranges.
//!
//! A store that keeps several versions of each key needs someone to say which version a reader
//! sees, in which order commits happen, which transactions may not both commit, and which versions
//! no one will read again. [`Oracle`] answers these four questions. It knows keys, not values,
//! does no I/O, and has no thread of its own; the store around it keeps the data.
//!
//! # Versions
//!
//! Every commit gets a number, its *version*, larger than all before. It is handed out
//! under one lock together with the commit's place in the caller's queue
//! ([`Oracle::commit`] calls back with the version under that lock), so the order of versions is
//! the order of the queue, and of whatever log the queue is written to. When the writes can be
//! read, the caller says so, in that order ([`Oracle::published`]); from then on transactions
//! begin at that version or above. So a transaction sees exactly the commits up to one version,
//! whole, and every commit that was acknowledged before it began.
//!
//! A version whose writing failed ([`Oracle::failed`]) is never published, and none is after it:
//! the queue behind it was built on it. The store goes on reading; to write again it is reopened.
//!
//! # Conflicts
//!
//! Isolation is serializable, by checking at commit (optimistic, as in Kung and Robinson's paper
//! of 1981): a transaction that read at version `r` may commit at version `c` if none of what it
//! read was written by a commit in `(r, c)`. Then all it saw is still as it was at `c`, so it is as
//! if it had run at that instant, and the order of versions is a serial order of all transactions.
//! Read-only transactions are in that order at their read version, and are never checked.
//!
//! What was read is a [`ReadSet`]: keys, found or not, and *ranges as they were asked for*. An
//! insertion into a range that was scanned is a conflict although the scan cannot have seen the
//! key; engines that track the keys found let such phantoms through. Writes are keys, or ranges
//! for a range delete ([`Write`]).
//!
//! Detection is exact: a 64-bit fingerprint (xxh3) of each key preselects, and where two are equal
//! the keys are compared. So the rate of false conflicts is zero, collisions or not, and nothing
//! is ever missed. A transaction that did not read does not conflict, one that does not write does
//! not commit: it uses no version.
//!
//! The writes of recent commits are kept in a window, a log of blocks in version order. To commit,
//! a transaction walks the part of the window above its read version and looks each write up
//! in its read set. What has long been there is walked without the lock, in rounds,
//! each of which leaves less to the next; only the last few writes are checked under the lock,
//! where nothing can be added to them. Large commits are hashed and copied into blocks before
//! the lock is taken, and are queued by moving a pointer.
//!
//! # Memory
//!
//! A write has to be remembered until it is published and no open read-write transaction reads
//! below it. Blocks are forgotten when that is so for their last version, by whoever removed the
//! last obstacle: the end of a transaction, a publication, or the commit that sealed the
//! block. What remains when nothing is open is one block buffer of some 20 KiB, kept for reuse.
//! [`Options::max_tracked_bytes`] caps the whole: beyond it the oldest blocks are forgotten, and a
//! transaction that still had to be checked against them fails with [`CommitError::TooOld`], as
//! the oracle never guesses. Read-only transactions keep nothing in the window.
//!
//! # Read marks and the discard floor
//!
//! A transaction holds a [`ReadMark`] at the version it reads. Compaction asks
//! [`Oracle::raise_floor`] for a version below which nothing is read, now or later. The danger is
//! the transaction that has taken its version but not yet stored its mark while the marks are
//! scanned. No lock guards against it, but an order of accesses:
//!
//! | compaction | a transaction that begins |
//! |---|---|
//! | 1. publish the floor wanted: `floor := published` | 1. store the mark: `slot := published` |
//! | 2. scan the slots; go no further than the lowest mark | 2. load `floor`; if it is above the mark, move the mark up to `published` and do 2. again |
//!
//! All are sequentially consistent, so there is one order of them. Either the scan finds the mark,
//! and respects it; or it has passed the slot before the mark was stored, and then the floor,
//! published before the scan, is what the transaction loads after storing. In that case its mark
//! is at the floor or above, or it moves up. Hence **every mark ever handed out is at or above every
//! floor ever returned** while the mark lives. To begin takes a compare-and-swap on a cache line of
//! the thread's own and two loads; it waits for no one.
//!
//! To begin at a chosen older version ([`Oracle::begin_at`]) there is no moving up. If the version
//! is below the floor *wanted*, the mark is stored, a scan that may be under way is waited for, and
//! the version is compared with the floor *returned*: the one thing that counts.
//!
//! The same order of accesses protects writes from being forgotten under a transaction that
//! begins. It is needed only so that such a transaction is not told to be too old: that a
//! conflict cannot be missed rests on a comparison under the lock alone.
//!
//! The protocols are modelled under loom (`tests/loom_models.rs`), conflict verdicts are compared
//! with a naive model (`tests/model.rs`), and real concurrent histories are checked for
//! serializability (`tests/concurrent`).
//!
//! # Managed mode
//!
//! With [`Options::managed`] the caller chooses commit versions ([`Oracle::commit_at`], above every
//! earlier one) and read versions ([`Oracle::begin_at`]), and says up to where versions may be
//! discarded ([`Oracle::set_discard_watermark`]). Calls that choose a version by themselves are
//! refused, with the exception of [`Oracle::begin`].

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
