//! A leveled LSM tree of versioned keys, without a log of its own.
//!
//! The tree maps `(key, version)` to an [`Entry`]. Keys are ordered bytewise, versions newest first;
//! the pair stays a pair through every layer. **Versions only grow**: whatever is written later has
//! a higher version than what was written earlier, which is why a point read may stop at its first
//! hit, and why tables of level 0 can be ordered by their versions.
//!
//! # Where an entry lives
//!
//! - In the *active memtable*, a skiplist in one arena of fixed size, to begin with. Full (or older
//!   than so many bytes of log), it is *sealed*, and a spare takes its place.
//! - A *flush* writes a sealed memtable into one table of *level 0*. Tables of level 0 overlap;
//!   newer ones hold newer versions.
//! - *Compactions* merge tables downwards. On each level below 0 the tables are disjoint, all versions
//!   of a key are in one of them, and nothing newer lies below something older.
//!
//! A point read asks first what costs least: each memtable has a filter of its own, and the filters of
//! all tables that may have the key are asked for before any is tested. The key is hashed once.
//!
//! Which tables there are, and on which level, is in the manifest. The memory of it is the
//! [`Superversion`]: memtables, levels, the companion's view, range deletes and the discard watermark,
//! immutable, and replaced as a whole. A reader pins it with an epoch guard ([`Tree::pin`]: no lock,
//! no shared counter) or keeps it by reference count ([`Tree::superversion`]).
//!
//! # Writing
//!
//! Three steps, so that a log can be written between them:
//!
//! 1. [`Tree::admit`] reserves memtable room for a frame. This is where writers wait: for a memtable,
//!    for level 0, or for the backlog of compactions; slowed in proportion first (in the last memtable to
//!    about what flushes free), then on a condition variable. From here on nothing can refuse the frame.
//! 2. [`Tree::route`], called in the order of the log, binds the reservation to a memtable and rotates
//!    to the spare if it does not fit. It cannot fail: outstanding reservations always fit into what is
//!    left of the active memtable, or into a spare that is there.
//! 3. [`Tree::insert`], from any thread. Dropping the [`Reservation`] says that the frame is applied;
//!    a memtable is flushed only when all of its frames are.
//!
//! [`Tree::write`] does all three for a tree without a log.
//!
//! # Order of a flush
//!
//! Log synced through the last frame that the table holds ([`Companion::before_install`]) → table
//! synced → directory synced → change set appended to the manifest → superversion replaced → old files
//! removed when their last holder goes. The change set carries the table with its pointer sums per log
//! segment, and the new replay head: the least start of any memtable that is not flushed yet.
//!
//! # Compaction
//!
//! Leveled, with targets derived from the last level (dynamic level bytes, after RocksDB): the last
//! level is as large as it is, each one above it should be smaller by `level_size_multiplier`, and
//! the first whose target is at most `base_level_size` is the *base*, which level 0 is compacted
//! into. **The base never lies below a level that has tables.** A level's score is its size over
//! its target, of level 0 the number of tables over the trigger; what is being compacted already
//! does not count, and a score is divided by that of the level below, since an overfull level can
//! wait while the next one is more so (Badger's rule).
//!
//! What is picked: all of level 0; of a deeper level the table that overlaps the next one least,
//! where tombstones, superseded and expiring entries and pointers into the log make it cheaper.
//! Tables without anything below move without being read, unless they would come to lie over too
//! much of the level after the next. While the base level is busy and writers are slowed down for level 0,
//! tables of it that are neighbours in age are merged into one, as far as memory permits: with entries of
//! fewer than some fifty bytes full memtables make too many hashes for that. An idle tree looks for
//! tombstones, superseded and expired entries that can go, for range deletes to be applied, and for
//! pointers that may supersede others below.
//!
//! Kept from Badger: a running job reserves its key range on both of its levels (the *compaction
//! status*), so that disjoint jobs run at once and overlapping ones wait; jobs are taken by their
//! level's score; what overlaps nothing below is moved; inputs are deleted only after the manifest
//! has the outputs; writers stall by the number of level-0 tables. One job is cut into key ranges
//! that run in parallel on the tree's own thread pool; cuts are user keys. Outputs end at
//! `table_size`, a little earlier at a boundary of the level below, and where a range delete begins
//! or ends. Memory is bounded by the number of inputs and the length of their keys, not by their size.
//!
//! # Memory
//!
//! [`Options::memory_budget`] is one bound on all of it: memtables with their indexes and filters, the
//! block cache, indexes and filters of open tables, and what jobs build with. Options that may take more are
//! refused, [`Options::within_memory`] finds some that do not. Files that are mapped cost no memory of
//! the tree's. Where tables are read by position, those that were not read lately are closed when their
//! indexes and filters exceed their share.
//!
//! What may be left out is told in one place, `compaction::dropping`: versions that no reader at or
//! above the discard floor can see (but [`Options::versions_to_keep`]); a tombstone or expired
//! entry only together with everything older of its key, and only if no older table outside of the
//! job overlaps the key. The floor comes from [`Companion::floor`] at the start of a job, and the
//! superversion that has its outputs carries it as [`Superversion::watermark`].
//!
//! Background threads: one for flushes, [`Options::compaction_threads`] for compactions and as many
//! for their parts, at a lower priority, one at normal priority for level 0 when writers are being
//! slowed down, a janitor that frees what nobody reads, and one that installs change sets for the
//! threads of low priority, which must not hold a lock that a write takes. With
//! [`Background::Manual`] there is none, and [`Tree::step`] does one unit of work at a time.

mod admission;
mod at_work;
mod compaction;
mod companion;
mod cursor;
pub mod entry;
mod error;
mod file_ids;
mod flush;
mod found;
mod graveyard;
mod install;
mod installer;
mod maintenance;
mod memtable;
mod memtable_filter;
mod open_tables;
mod options;
mod pacer;
mod pool;
mod priority;
mod range_delete;
mod shared;
mod stall;
mod stats;
mod superversion;
mod table;
mod table_writer;
#[cfg(test)]
mod testing;
mod tree;
mod version;
mod visible;
mod workers;

pub use admission::Reservation;
pub use companion::{Companion, Floor, NoCompanion};
pub use cursor::TreeCursor;
pub use entry::{Entry, Kind};
pub use error::{BoxError, Error, Result};
pub use file_ids::{FileIds, leading_file_id, parse_table_file_name, table_file_name};
pub use found::Found;
pub use kvdb_sstable::{Bounded, Cursor, key_hash};
pub use maintenance::Job;
pub use options::{Background, Compression, Options, Reads};
pub use priority::lower as lower_priority;
pub use range_delete::RangeDeletes;
pub use stall::{StallReason, StallStats};
pub use stats::{LevelStats, Stats};
pub use superversion::{CursorOptions, Pinned, Superversion};
pub use tree::Tree;
pub use visible::{PENDING, Visible, VisibleOptions};

#[doc = include_str!("../README.md")]
#[cfg(doctest)]
struct Readme;
