//! A segmented, append-only log of framed records: write-ahead log and value store in one.
//!
//! A *record* is a key, a small tag and a value. A *frame* is one transaction: any number of
//! records that are valid together or not at all. Frames follow each other in *segments*,
//! preallocated files of which one is active, one is kept ready, and the rest are sealed. A
//! [`Pointer`] names a record, so that an index over the log holds keys and pointers while the
//! values stay where they were first written (WiscKey: Lu et al., FAST'16).
//!
//! | to | see |
//! |---|---|
//! | append | [`FrameBuilder`], [`Log::append`]; with an order of your own [`Log::reserve`], [`Log::enqueue`], [`Log::drive`] |
//! | read by pointer | [`LogView`] |
//! | open and replay | [`Directory`]; with a manifest of your own [`Recovery`] |
//!
//! # What is promised
//!
//! - [`Durability::Sync`]: when the commit returns, its frame *and every byte before it, in every
//!   segment*, are on stable storage. [`Durability::Buffered`]: they are with the operating
//!   system; what a power loss leaves is a prefix.
//! - After any crash the replay gives whole frames, in order, without a hole.
//! - Damage to what was known to be durable is an error that names file and offset. Only what was
//!   written after the last *mark* (below) may be taken for a torn tail and cut.
//! - A failed write or sync poisons the log: nothing is appended any more, reads go on, opening
//!   again recovers. A commit whose bytes may have been written says so.
//!
//! # Group commit
//!
//! There is no writer thread. Whoever finds the queue without a leader leads: takes what waits as
//! one group, gives each frame its place, masks the checksums that the members computed, writes
//! the bytes of all with one write per segment, syncs once if anyone asked for it, lets the next
//! leader go ahead, applies the frames in order through the [`Sink`], and wakes the members. The
//! pipeline is that of Pebble (`commit.go`), with the leader of LevelDB's write queue.
//!
//! Everything that can refuse a commit is decided by [`Log::reserve`], before it has a version.
//! The invariant that makes this possible is described in the source of that module: what is
//! admitted always fits into the active segment or into a spare that is already named.
//!
//! The protocols (the queue, rotation, marks, the last reader of a file, close) are modelled under
//! loom in `tests/loom_models.rs`.
//!
//! # Files that are used again
//!
//! A segment freed by the caller can give its file to a new one ([`Log::recycle`]). That happens
//! only when nothing shows the old bytes any more: no view leads to the segment and no value holds
//! its map (both counted, by `Arc`), no map made through another handle of the file lives, as that
//! of a value or a view which outlived an earlier opening does, in this process or in another
//! ([`kvdb_vfs::File::is_held`], a lock of the file), and it has one name only, so that no
//! checkpoint shares it. Otherwise it waits. No more than two wait, and [`Log::close`] removes them.
//!
//! # Format, version 1
//!
//! All numbers are little-endian. A *seal* is a CRC-32 (IEEE) xored with 32 bits of a mix of a
//! salt, an offset and a version ([`kvdb_vfs::Salt`]); the salt is made of database, file and a
//! random nonce. So checksums can be computed before the place is known, and bytes of an earlier
//! life of a file, of another file, or of another place never verify; zeros never do.
//!
//! **Segment file** `{file:06}.vlog`: header, then frames from offset 4096, each at a multiple
//! of 8. The header has a page of its own, which is never written again.
//!
//! | at | bytes | header field |
//! |---|---|---|
//! | 0 | 8 | magic `KVDBVLOG` |
//! | 8 | 4 | format version |
//! | 12 | 4 | sync method (0 `fdatasync`, 1 durable writes, 2 direct durable writes) |
//! | 16 | 16 | database id |
//! | 32 | 8 | file id |
//! | 40 | 8 | nonce |
//! | 48 | 4 | segment number |
//! | 52 | 4 | capacity: size of the file |
//! | 56 | 4 | reserved, 0 |
//! | 60 | 4 | seal of bytes 0..60 at offset 0 |
//!
//! **Frame**: header, body, zeros up to a multiple of 8.
//!
//! | at | bytes | frame header field |
//! |---|---|---|
//! | 0 | 4 | seal of bytes 4..32 at the frame's offset |
//! | 4 | 4 | length of the frame, header and padding included; the low three bits are the kind |
//! | 8 | 4 | CRC of the body: for a transaction, of its records' CRCs (four bytes each, unsealed); else of the bytes |
//! | 12 | 4 | number of records |
//! | 16 | 8 | version of the frame; in a link the largest of all frames before it (0: not known) |
//! | 24 | 4 | segment of the durable-to mark |
//! | 28 | 4 | offset of the durable-to mark |
//!
//! | kind | frame | body |
//! |---|---|---|
//! | 1 | transaction | records |
//! | 2 | marker: carries the mark, nothing else | none |
//! | 3 | footer of a clean close | frames u32 and running checksum u32 of the segment before the footer |
//! | 4 | link: first frame of every segment | number, length, frames, running checksum of the segment before (u32 each; number 2³²−1: none) |
//!
//! **Record**, without padding between two:
//!
//! | at | bytes | record field |
//! |---|---|---|
//! | 0 | 4 | seal of the bytes from 4 to the end of the value, at the record's offset, with its version |
//! | 4 | 4 | length of the value, *v* |
//! | 8 | 2 | length of the key, *k* |
//! | 10 | 1 | length of the tag, *t* |
//! | 11 | 1 | flags; bit 0: the record has a version of its own |
//! | 12 | *k*, *t*, *v* | key, tag, value |
//! | | 8 | with bit 0: the version. Without it the version is the frame's |
//!
//! A record's version is an argument of its seal, not part of the bytes: it need not be known
//! when the record is encoded, and a record can be verified alone by whoever knows its offset
//! and version. A pointer is `{segment u32, offset u32, len u32}` with `len` = 12 + *k* + *t* +
//! *v*.
//!
//! The *durable-to mark* of a frame says: when this was written, every byte before that position,
//! in all segments, was durable. It is what tells damage from a torn tail, since later frames
//! alone prove nothing: unsynced writes reach the disk in any order. Replay ends at the first
//! frame that does not verify; the rest of the log is searched for headers that do, and if the
//! mark in one of them lies beyond the end (or a segment there was sealed), the end is damage.
//! A link proves nothing by itself either, only its mark does. A marker after an idle sync and
//! the footer of a clean close carry the mark past the last transaction.
//!
//! The *running checksum* of a segment is the CRC-32 over its frames' header CRCs (unsealed, four
//! bytes each). Links and the caller's manifest carry it.
//!
//! Behind a footer the log goes on with the footer written once more and a marker, synced before
//! any other frame. So a footer followed by lost frames is never taken for a clean end. After an
//! unclean end the old segment is never appended to again.
//!
//! **Relocation tables** `{file:06}.vrel`: the table of one collected segment, or those of several,
//! one right behind the other, if each has at most 2,048 entries and all take at most 1 MiB. Each has a header,
//! record files, a directory of buckets, entries; its header is sealed for its place in the file, and
//! places below count from there. A bucket is a span of 2^*shift* bytes of old offsets, *shift* ≤ 16, chosen
//! so that it has eight entries on average.
//! Where a header is damaged the next one is found by its magic and its seal.
//!
//! | at | bytes | field |
//! |---|---|---|
//! | 0 | 8 | magic `KVDBVREL` |
//! | 8 | 4 | format version |
//! | 12 | 4 | segment number |
//! | 16 | 16 | database id |
//! | 32 | 8 | file id |
//! | 40 | 8 | nonce |
//! | 48 | 4 | number of record files, *f* |
//! | 52 | 4 | number of entries, *n* |
//! | 56 | 4 | number of buckets, *b* |
//! | 60 | 4 | *shift* |
//! | 64 | 4 | CRC of the bytes from 72 on |
//! | 68 | 4 | seal of bytes 0..68 at the offset of the table in the file |
//! | 72 | 24 *f* | per record file: number, nonce, length (u64 each) |
//! | | 4 (*b* + 1) | per bucket: index of its first entry; at last *n* |
//! | | 8 *n* | per entry, by old offset: its low *shift* bits u16, ordinal of the file u16, new offset u32 |
//!
//! **Record file** `{file:06}.vrec`: a header page as that of a segment with magic `KVDBVREC`
//! (method, segment and capacity 0), then records that all carry their versions.

#[doc = include_str!("../README.md")]
#[cfg(doctest)]
struct Readme;

mod error;
mod file;
mod format;
mod frame;
#[doc(hidden)]
#[cfg(any(test, fuzzing))]
pub mod fuzz;
mod log;
mod options;
mod position;
mod read_order;
mod reader;
mod recent;
mod recovery;
mod relocate;
mod replay;
mod scan;
mod segment;
mod sync;
mod verify;
mod view;
mod walk;

pub use error::{BoxError, Error, ReplayError, Result};
pub use format::{
    FIRST_FRAME, FORMAT_VERSION, MAX_KEY_LEN, MAX_SEGMENT_SIZE, MAX_TAG_LEN, MIN_SEGMENT_SIZE,
    frame_len, max_frame_len, record_len,
};
pub use frame::{Frame, FrameBuilder, FrameView, RecordView, Records};
pub use log::{
    Appended, Committed, Directory, Discard, Log, Room, Routed, SegmentNamer, Sink, Ticket,
};
pub use options::{Durability, Options, SyncMethod};
pub use position::{
    Pointer, Position, Relocated, SealedSegment, SegmentMeta, SegmentName, SegmentRecord,
    parse_segment_path, segment_path,
};
pub use read_order::ReadOrder;
pub use recovery::{Recovery, Start};
pub use relocate::{
    LiveRecord, Output, RecordFiles, RecordWriter, RelocatedSegment, TableWriter,
    parse_relocation_path, record_file_path, relocation_database, relocation_table_path,
};
pub use replay::{Damage, ReplayEnd};
pub use segment::segment_database;
pub use verify::Verified;
pub use view::{LogView, Value};
