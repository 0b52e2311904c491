//! Immutable sorted tables of `(key, version) → value`, and the cursors that walk them.
//!
//! - [`Builder`] writes a table, front to back, to any [`std::io::Write`].
//! - [`Table`] reads one: point lookups, cursors, verification. Its bytes are a [`Source`]: a vector, a
//!   slice, a memory map ([`kvdb_vfs::Region`]), or a file that is read by position through a shared
//!   [`BlockCache`].
//! - [`Cursor`] is the trait of everything that can be walked in key order; [`Merge`] makes one cursor
//!   of many that overlap, [`Concat`] of many that do not, and [`Bounded`] shows a range of keys.
//!
//! Keys are any bytes up to [`MAX_KEY_LEN`], ordered bytewise; each entry has a version, and of one
//! key the higher version comes first. The pair stays a pair: no version is ever appended to a key.
//! Values are opaque.
//!
//! # What is fast, and why
//!
//! Blocks are made for use in place. A block begins with a header, the first eight bytes of each
//! restart key as a number (its *head*; the idea is that of the poor man's normalised keys of Graefe
//! and Larson, 2001), and slots of fixed width; then keys, then values. So a search is a branch-free
//! bisection over numbers and looks at one or two keys, an entry is reached without parsing those
//! before it, and walking backward costs what walking forward does. All a search reads lies in the
//! first few cache lines of the block and is fetched at once. The index is an array of the same
//! kind; a small tree of samples over it is made in memory at its first use.
//!
//! What the present form is without each of these, or with another size: a million entries of 16-byte
//! keys and 100-byte values in memory. Times as multiples of those of the present form beside it, medians
//! of interleaved rounds in one process (15 of lookups, 11 of walks); *hot*: of a thousand keys, or ten
//! thousand entries. Neighbours were loud: the present form beside itself was 0.97 and 1.03 in the columns
//! of lookups, 0.98 and 1.02 in those of walks.
//!
//! | changed: lookups | | hot |
//! |---|---:|---:|
//! | 64 bytes at the front of a block are asked for at once, not 896 | 1.34 | 1.05 |
//! | 192, 384, 640 | 1.36, 1.20, 1.04 | 1.04, 0.93, 0.97 |
//! | 1,152, 1,536, 2,048, 4,096 | 0.96, 0.95, 0.98, 1.06 | 1.11, 1.15, 1.21, 1.59 |
//! | all of them past the second-level cache, or all but the first 256 bytes | 1.40, 1.08 | 1.79, 1.41 |
//! | all but the first 256 bytes no nearer than the second-level cache | 1.04 | 1.08 |
//! | the values of a group are asked for before its keys are compared | 0.93 | 1.09 |
//! | the index is bisected, without the tree over it | 1.15 | 1.23 |
//! | a node of that tree is compared as an array of fixed length | 0.99 | 1.07 |
//! | the heads of a block are searched by the standard library's `partition_point` | 0.98 | 0.99 |
//! | each key is whole; each sixteenth is, not each fourth | 0.98, 0.98 | 1.05, 1.07 |
//!
//! | changed: a step backward | | hot |
//! |---|---:|---:|
//! | values ahead are not asked for | 1.70 | 0.98 |
//! | they are 2,048, 4,096, 6,144, 12,288, 24,576 bytes ahead, not 8,192 | 1.12, 1.10, 0.95, 1.05, 1.09 | 1.03, 0.97, 0.99, 1.02, 1.02 |
//! | the restart that was needed last is kept | 0.99 | 0.96 |
//! | a key of up to 16 bytes is put together in a register, so that one store writes it | 0.99 | 1.00 |
//!
//! Values asked for early gain in memory what they lose in the cache, and neither is beyond the noise; the
//! rest that gains nothing here gained nothing in quieter runs either.
//!
//! ## What is left
//!
//! Three rows of `ratios -- sstable` are short of their targets, or at them by chance.
//!
//! **A get takes 3.6 to 4.1 misses, not 3.** Ever larger parts of one, medians (and least) of nine
//! interleaved rounds with a miss D of 155 ns; hot: of a thousand keys.
//!
//! | as far as | D | hot, ns |
//! |---|---:|---:|
//! | the filter | 0.28 (0.15) | 30 (22) |
//! | the index | 0.80 (0.47) | 92 (68) |
//! | the block, in which the value is found | 3.30 (2.38) | 325 (257) |
//! | the value, to its last byte | 4.03 (3.01) | 350 (269) |
//! | the same without the filter | 3.48 (2.73) | 265 (203) |
//! | the same, of a copy of the table in huge pages | 3.59 (2.87) | 348 (257) |
//!
//! Front and value are misses that wait for each other: alone, without the rest of a get, they take 2.3 D
//! (1.8; a run of five rounds with D at 163 ns). Filter and index come from the third-level cache, 0.8 D,
//! and the search itself takes 0.6 D (below: 160 ns less 68 of filter and index). That is 3.7 D, or 2.9
//! where all rounds are quiet: the bound of this form. Of it 0.4 D is the translation of the front's
//! address, which huge pages save. Files in the page cache have none; who loads tables into memory may hand
//! over a [`kvdb_vfs::Region`] that does.
//! Searching the index in the shadow of the filter took a get from 600 to 545 ns, and one of a key that is
//! missing from 31 to 210.
//!
//! **A hot get takes 256 ns and more, not 250**, which is the second-level cache and not the search: of 100,
//! 250, 500, 1,000 and 2,000 keys it takes 160, 187, 229, 256 and 336 ns (least of twelve interleaved
//! rounds). Since blocks begin at pages, their fronts share 14 of the 64 places that lines of a page can
//! have, so of 2 MiB there are 448 KiB for them: 500 fronts.
//!
//! **A step of a hot scan takes 18 to 21 ns, not 20 for sure, and a step backward 1.02 to 1.18 of one
//! forward, not 1.15 for sure.** Within the cache the latter is 1.25 (22.6 and 18.1 ns, least of eleven
//! rounds), since backward each key is made anew of its restart and its own piece, and forward of the key
//! before; memory hides the difference, or most of it. To fold the same bytes alone takes 3.4 to 7 ns.
//!
//! [`Bounded`], with a bound on both sides, makes a hot walk 1.04 to 1.17 times as long (two runs of four
//! rounds; 1.14 to 1.33 while it compared keys and not their heads).
//!
//! # The format
//!
//! All numbers are little-endian, and nothing needs to be aligned in memory. *Checksum* means
//! `crc ^ mask` where `crc` is the CRC-32 (IEEE) of the bytes named and `mask` the upper 32 bits of
//! `mix(salt ^ offset · 0x9e3779b97f4a7c15)`: `offset` is where in the file those parts begin that the
//! table of each names, and `salt` is in the footer; for the footer itself it is 0. With all arithmetic modulo
//! 2⁶⁴, `mix(x)` adds 0x9e3779b97f4a7c15 to `x`; then `x ^= x >> 30`, times 0xbf58476d1ce4e5b9;
//! `x ^= x >> 27`, times 0x94d049bb133111eb; `x ^= x >> 31`. (SplitMix64's; in code, [`kvdb_vfs::Salt`] with
//! version 0.) A block that was written to the wrong place, or belongs to another file, does not verify,
//! whole as it may be.
//!
//! The file is a sequence without gaps; every byte of it is under some checksum:
//!
//! | part | begins |
//! |---|---|
//! | blocks, ascending | at 0 |
//! | filter (may be missing) | where the blocks end: `data_len` of the footer |
//! | index | where the filter ends |
//! | properties | where the index ends |
//! | footer, 192 bytes | where the properties end; it ends with the file |
//!
//! Filter, index and properties begin at multiples of 64: each is padded with zeros, which belong to it.
//! The padding of a block belongs to the block, and the last block is padded to the filter.
//!
//! **Footer**
//!
//! | offset | bytes | |
//! |---:|---:|---|
//! | 0 | 16 | id of the database |
//! | 16 | 8 | id of the table |
//! | 24 | 8 | salt of the checksums |
//! | 32 | 8 | `data_len`: length of all blocks |
//! | 40 | 24 | handle of the filter; zeros if there is none |
//! | 64 | 24 | handle of the index |
//! | 88 | 24 | handle of the properties |
//! | 112 | 24 | reserved for range tombstones; must be zeros |
//! | 136 | 24 | reserved for the encryption header; must be zeros |
//! | 160 | 1 | codec: 0 none, 1 LZ4, 2 Zstandard |
//! | 161 | 15 | reserved; must be zeros |
//! | 176 | 4 | checksum of the footer's other 188 bytes, **with salt 0**, at the footer's offset |
//! | 180 | 4 | format version: 1 |
//! | 184 | 8 | magic `kvdbSST\n` |
//!
//! A *handle* is offset (8), length (8), checksum of the section (4) and four zeros. The last twelve
//! bytes will keep their place in every version. A reader looks at magic, version, checksum in this
//! order, then at the rest; a field that must be zero and is not means a feature it does not have.
//! The footer's checksum uses no salt because the salt stands in the footer, so that a table can be
//! read without its database: salted, the checksum would be vouched for by what it protects. That it
//! is this table and no other, is known by comparing the identity ([`ReaderOptions::identity`]).
//!
//! Version 1 is the first that is read for ever: files of it are kept with the crate's tests, which
//! hold reader and builder against them byte for byte. (Version 0 came before the first release and
//! is refused.) What a later version may need has its place: a handle each for range tombstones and
//! for encryption, the filter's algorithm and kind of prefix, four flags of a block (for a hash index,
//! say), the columns of the index. Who makes use of one of these sets a field that was zero, so that
//! a reader that does not know it says so and reads nothing wrong.
//!
//! **Block**, as stored: 32 bytes of header, payload, zeros. The payload is what follows the header in
//! the decoded block, compressed with the header's codec (LZ4: one raw block; Zstandard: one frame)
//! or as it is. A decoded block is at most 255 times the payload and 4096 bytes.
//!
//! | offset | bytes | |
//! |---:|---:|---|
//! | 0 | 4 | checksum of all that follows in the stored block, padding included |
//! | 4 | 1 | `0xB7` |
//! | 5 | 1 | codec of this block: 0, or that of the footer (or LZ4 where that is Zstandard) |
//! | 6 | 1 | bit 0: *wide*; bits 1–3: logarithm to base 2 of the restart interval; others reserved, zero |
//! | 7 | 1 | version width: 0, 1, 2, 4 or 8 |
//! | 8 | 4 | length of the decoded block, with this header, without padding |
//! | 12 | 4 | length of the payload |
//! | 16 | 4 | length of the keys region |
//! | 20 | 2 | number of entries, 1..=65535 |
//! | 22 | 2 | length of the prefix |
//! | 24 | 8 | least version in the block |
//!
//! Entry 0 and every entry whose number is a multiple of the restart interval is a *restart*. The
//! decoded block goes on behind the header with
//!
//! | | bytes |
//! |---|---|
//! | heads: for each restart, the first 8 bytes of its key behind the prefix, padded with zeros, as a big-endian number (stored little-endian, as all are) | 8 each |
//! | slots: for each entry, the end of its key and of its value in their regions (2 bytes each, 4 if *wide*); if the interval is not 1, *shared* (1 byte); version minus the least version (version width) | fixed |
//! | prefix: what all keys of the block begin with | |
//! | keys region | |
//! | values region, to the end of the block | |
//!
//! A piece of a region begins where the piece of the entry before it ends (the first at 0), and the
//! last ends with its region. The key of an entry is the prefix, then *shared* bytes of what its
//! restart has in the keys region (0 for a restart itself), then its own piece of the keys region.
//!
//! In a table whose codec is none, blocks begin and end at multiples of 4096 (of the block size
//! rounded up to a power of two, if that is less), so that a block of a page is one page to read. A
//! block may be longer, if an entry is, or if padding would waste too much.
//!
//! **Index**
//!
//! | | bytes |
//! |---|---|
//! | number of blocks *n* | 4 |
//! | length of the prefix; length of the separators region; flags (bit 0: there are versions) | 4, 4, 4 |
//! | heads of the *n* − 1 separators (none if there is no block), behind the prefix | 8 each |
//! | offsets of the *n* blocks, and `data_len` | 8 each |
//! | if flagged: versions of the separators; else each is 2⁶⁴ − 1 | 8 each |
//! | ends of the separators in their region | 4 each |
//! | prefix, separators region, padding | |
//!
//! Separator *i* is a pair that is greater than every entry of block *i* and not greater than any of
//! block *i* + 1 (greater in the order of pairs). So the pair `(key, version)`, if it is in the table,
//! is in the block behind the last separator that is not greater than it. Where a block ends between
//! two keys, the separator is the shortest prefix of the second that is greater than the first, with
//! version 2⁶⁴ − 1; where it ends between two versions of a key, it is the key with the version that
//! comes next below the first.
//!
//! **Filter**: algorithm (4; 1 is the only one), hashes per key (4), number *w* of 64-bit words (8),
//! distinct keys (8), kind of prefix (4; 0: whole keys), 36 zeros; then the words. Algorithm 1 is that
//! of fastbloom 0.17: with *h* the XXH3 (64 bits, seed 0) of the key and *s* = *h* ·
//! `0x517cc1b727220a95`, the bits are ⌊*h* · 64*w* / 2⁶⁴⌋, with *h* replaced by (*h* rotated left by 5)
//! + *s* from one to the next, modulo 2⁶⁴; bit *b* is bit *b* mod 64 of word ⌊*b* / 64⌋.
//!
//! **Properties**: entries, distinct keys, bytes of keys, bytes of values, bytes of decoded blocks,
//! number of blocks, least and greatest version (8 each); lengths of the least and the greatest key,
//! number of the caller's own properties, zeros (4 each); the two keys; then for each property the
//! lengths of name and value (4 each), the name (UTF-8) and the value.
//!
//! # What is checked when
//!
//! Opening checks the footer and the properties. Index and filter are checksummed at their first use,
//! each block at its first use by this [`Table`] (blocks that are not used in place, whenever they
//! are read); every length and offset whenever it is used. So damage is an error at its place, and a
//! forged table, with right checksums, can give wrong entries, but no panic, no endless walk and no
//! allocation that its size does not justify. [`Table::verify`] checks all checksums and what
//! parts say of each other, order included.

#[doc = include_str!("../README.md")]
#[cfg(doctest)]
struct Readme;

mod block;
mod block_builder;
mod block_info;
mod bounded;
mod builder;
mod cache;
mod codec;
mod concat;
mod cursor;
mod error;
mod filter;
mod footer;
mod format;
#[doc(hidden)]
#[cfg(any(test, fuzzing))]
pub mod fuzz;
mod heads;
mod hit;
mod index;
mod key_buffer;
mod load;
mod merge;
mod prefetch;
mod properties;
mod source;
mod table;
mod table_cursor;
mod verify;

pub use block_info::BlockInfo;
pub use bounded::{Bounded, seek_before, seek_behind};
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
