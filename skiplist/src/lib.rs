//! A concurrent, ordered, versioned map in one fixed-capacity arena.
//!
//! [`SkipList`] maps pairs of a key (bytes, ascending) and a version (`u64`, descending: the newest
//! of a key comes first) to values. Any number of threads insert and read at once without locks;
//! nothing is removed; memory goes with the list, or is [reused](SkipList::reset) by the next one.
//! It is made to be the memtable of a log-structured store, and knows nothing of one.
//!
//! # How it works
//!
//! ```text
//!   layer 1    [head |slots]------------------------------------>[ k |slots]------> …
//!                 |   : :                                          |   : :
//!                 v   : v                                          v   : v
//!   layer 0    [head |slots]-----> [ d |slots]----> [ g |slots]->[ k |slots]------> …
//!                 :   : :             :  : :           :  :         :  : :
//!                 v   v v             v  v v           v  v         v  v v
//!   the list    head->a->b--> c ----> d->e->f -------> g->h-------> k->m->n->p----> …
//! ```
//!
//! **The list is the truth.** Every entry is a node of one linked list in order. Being inserted
//! means being linked in there, by one compare-and-swap; what a reader finds depends on nothing
//! else.
//!
//! **The index is made of hints.** It has four layers, each a list of *records*. A record belongs to
//! some node, its base, and has slots for some dozens of links, in no order: to nodes behind the base in
//! the lowest layer, to records of the layer below in the others. A search takes the slot that
//! leads farthest without overshooting, goes along the list it gets to while that does not
//! overshoot either, and so down, until it walks the list of nodes, usually a step. That is two
//! cache misses, for a record and for a node, besides the upper layers, which are small. Records of
//! the top layer have towers of random height and are found as in any skiplist, however many they
//! are. A full record is split at its median by whoever finds it full, and the new one is entered
//! into the layer above. Since nodes and records are never removed, any slot leads to what is in
//! the list, or in the layer, for good; a missing or stale hint costs steps and cannot cost
//! correctness. So nobody has to wait for anybody. A writer that finds a record being split does wait,
//! commonly some microseconds, and takes the split over from whoever does not finish it.
//!
//! **A walk looks ahead.** The slots of the next record name all entries that come after those of
//! the present one. A cursor that steps along asks for a few of them with every step, so that cache
//! misses overlap, which they cannot along the links.
//!
//! **Links decide most comparisons.** Beside the id of the node it leads to, a link carries that
//! node's *offset-value code* relative to the node it is at: where the two keys first differ and
//! three bytes from there on. While it walks, a search knows the same code for its own key,
//! and comparing two integers says whether to go on. Unlike a fixed head of the key, the
//! code works whatever prefix the keys share, up to 254 bytes. All slots of a record are relative
//! to its base, which makes them comparable with one another.
//!
//! # Why insert is right
//!
//! A node is filled in before it is published and never changes afterwards, but for three atomic
//! words: its link, its prev word and its value word. An insert of `T` finds `P`, the last node
//! before `T`, with a link to `S` at or after `T` (or the end); that it is the last is known from
//! having read this link. It stores the link to `S` in the new node and swaps `P`'s link from `S`
//! to the new node. The swap succeeds only if the link is what it was, code and id, and as links
//! never return to an earlier value (the successor of a node only ever gets nearer), nothing came
//! between: order holds, and no pair enters twice. If it fails, somebody linked in a node behind
//! `P`; the walk goes on from `P`, which is still before `T`. Some insert succeeds whenever one
//! fails, so inserting is lock-free; a lookup never retries, so it is wait-free but for the
//! steps that entries inserted meanwhile add.
//!
//! An entry is in the list before its insert returns, and a lookup ends by reading, in the list,
//! the link over the place where the entry would be. So a lookup that begins after the insert
//! returned finds the entry; and one that found it once always will.
//!
//! **Backward.** A prev word leads to *some* node before its own: to the one that was directly
//! before when either was inserted. A cursor that moves back walks forward from there to the last
//! node before where it stood. A writer that has linked a node in stores its id in the successor's
//! prev word, unless the node has another successor by then; the order (read the prev word, check
//! the link, swap) makes prev words move forward only, and exact once nobody inserts.
//!
//! # Memory ordering
//!
//! | access | ordering | because |
//! |---|---|---|
//! | swap of a link, store or swap of a slot or prev word | release | publishes what the id stands for |
//! | load of a link, slot or prev word | acquire | pairs with it: the node behind the id can be read |
//! | store of a value word over an old one | release | publishes the new value's bytes |
//! | load of a value word | acquire | pairs with it |
//! | load of a slot or prev word to prefetch by | relaxed | only its address is used |
//! | words of a node or record not yet published; a lock, to see whether it is held | relaxed | the publication, or the swap, orders them |
//! | load of a slot or link to see whether it is empty, swap of a slot that empties it | relaxed | nothing is read through it |
//! | a record's lock | acquire, release | the splits of one record follow each other, but for one that was taken over |
//! | bytes taken, height of the index | relaxed | ranges are disjoint whatever the order; the height is a hint |
//!
//! There is no stand-alone fence. The model tests run this code under loom with every ordering as
//! written, and fail when that of a swap, store or load of links, slots, prev words or value words
//! is relaxed. Two loads they do not catch, both where a writer sets a successor's prev word: that
//! of its own node's link, which would do with relaxed, as only the id is compared; and the first
//! one of the prev word. The schedule that needs it has another's swap of the word between, and
//! loom does not try that one; the same load as part of a failed swap is caught.
//!
//! # Limits and arithmetic
//!
//! Keys have at most [`MAX_KEY_LEN`] bytes, values what the arena holds, an arena at most
//! [`MAX_CAPACITY`]. An insert takes exactly [`SkipList::node_bound`] bytes: 30, the key and the
//! value, rounded up to 8. Inserts whose bounds add up to no more than [`SkipList::remaining`]
//! succeed, as long as nobody takes bytes beyond that sum. The index lies beside the capacity, in
//! address space of five eighths of it, which do for any entries in any order. It takes some 10 to 14
//! bytes per entry, and 19 where records are left half full, as by keys that fall.
//!
//! Steps beyond the logarithmic expectation occur where codes cannot tell keys apart: among versions
//! of one key, among keys with a common prefix of 255 bytes and more, and among those that differ in the
//! number of zero bytes at their end. A search there walks
//! through the group behind one base, some dozens of nodes, and through as many records in each layer.
//!
//! # What the techniques gave
//!
//! 1 M entries of 24 random bytes and 16, one thread, in dependent cache misses *D* of the same run.
//! How the present form came about, each line on top of the one before; two or three rounds of a
//! run of its own on a shared machine, so differences below a tenth mean nothing:
//!
//! | technique | insert | get | next | bytes per entry beside the data |
//! |---|---|---|---|---|
//! | skiplist with truncated towers, branching 4, codes in the links, huge pages, prefetch of the successor | 7.9 D | 11.0 D | | 35 |
//! | branching 2 instead of 4 (no miss for a link not followed, so more links pay) | 5.4–6.6 D | 7.4–8.9 D | | 40 |
//! | a plain store instead of a swap for the prev word (not kept: no gain once it is prefetched) | 6.6 D | 8.9 D | | 40 |
//! | index of records of 64 slots instead of towers | 4.2 D | 5.6 D | | 45 |
//! | records of 32 slots | 3.6 D | 4.9 D | | 46 |
//! | prefetch of the slots of every record walked to on level 0 | 3.6 D | 4.5 D | 0.9 D | 46 |
//! | three layers of records of 29 slots under the towers, not one of 32 | 3.4 D | 3.2 D | 0.8 D | 45 |
//! | four layers, the slots of a record folded in one chain, meant to be without a branch | 2.7 D | 2.7 D | | 45 |
//! | a cursor asks for the entries of the next record | 2.7 D | 2.7 D | 0.2 D | 45 |
//!
//! What the present form is without each, or with another size: the least and the greatest of three
//! interleaved rounds on a machine with nothing else to do, *D* being 170–240 ns. It is itself
//! 2.2, 2.4–2.7 and 0.14–0.18 D. What lies within that is no difference:
//!
//! | changed | insert | get | next |
//! |---|---|---|---|
//! | no prefetch of both nodes that a record's slots lead to | 2.6–2.7 D | 2.9–3.5 D | |
//! | no prefetch of records | 2.1–2.5 D | 2.3–2.7 D | |
//! | a node met before is compared again | 2.1–2.3 D | 2.4–2.6 D | |
//! | a cursor does not look ahead | | | 0.75–0.84 D |
//! | two layers | 2.4–2.5 D | 2.7–2.9 D | |
//! | three layers | 2.1–2.5 D | 2.3–2.8 D | |
//! | records of 13 slots (two cache lines; 46 bytes per entry) | 2.4–2.7 D | 2.6–2.7 D | |
//! | records of 61 slots (eight cache lines; 44 bytes per entry) | 2.1–2.6 D | 2.3–2.6 D | |
//! | small pages, all touched before | 2.6–3.3 D | 3.2–3.3 D | |
//! | a new list instead of a [reset](SkipList::reset) one (two rounds) | 2.2–2.3 D | | |
//! | a new list, its pages touched first, which takes 160–180 ms for 86 MiB (two rounds) | 2.0–2.2 D | | |
//!
//! Measured apart, beside other load:
//!
//! | changed | insert | get | next |
//! |---|---|---|---|
//! | sorted insert, through an [`Inserter`] | 0.3 D | | |
//! | a side hash for gets, filled by inserts: a sketch beside the list, 16 bytes per entry | + 0.05 D | 0.3–0.4 D | |
//!
//! What came later, and what other forms would be, each in turns with the present one: times of the present
//! form, median of five to nine rounds beside other load, *D* being 145–170 ns. A tenth means little here too.
//!
//! | changed | insert | get | next |
//! |---|---|---|---|
//! | slots folded in one chain instead of four: the compiler makes branches of it, and of each operation five are mispredicted (counted by `callgrind --branch-sim`) | 1.05–1.13 | 1.07–1.18; 1.23 among 10,000 | |
//! | a branch around the code that stays the same, and the last bytes of a key compared one by one | 1.05 | 1.08 | |
//! | fixed heads of four bytes instead of codes: random keys | 0.93–1.05 | 0.87–0.93 | |
//! | the same: decimal keys of 16 digits | 4.4 | 6.3–6.9 | |
//! | pointers instead of offsets: links of 16 bytes, records of 512 | 1.2 | 1.26 | 1.6 |
//! | key and value not in one piece with their node | 1.26 | 1.29 | 2.5 |
//! | six layers of 13 slots | 1.03 | 1.12 | 1.26 |
//! | five layers of 21 slots | 1.02 | 1.07 | 1.2 |
//! | three layers of 29 slots | 0.98 | 1.13 | |
//!
//! **The bound of get.** Whatever is not in the second-level cache costs a *D* here, in 16 MiB of huge
//! pages (140 ns) as in 96 (152 ns). Of 573 ns for a get among a million entries, 246 remain where the same
//! thousand entries are sought again and again, through the same layers; the rest is the two dependent misses
//! for a record and a node. So 3 *D* leave one for all computing: 1,260 instructions, of which 760 fold the
//! slots of four records. `ratios skiplist` shows both figures.
//!
//! After sorted insertion a step is bound by how far ahead of it the walk asks for memory, *D* being
//! 152 ns: 512 bytes 9.2 ns, 1,536 bytes 7.2, 2,048 bytes 6.6, 3,072 bytes (as it is) 6.3, 4,096 bytes
//! 6.2.
//!
//! An inserter asks for the memory of nodes to come, 256 bytes ahead. In ten runs of each in turns, beside
//! much noise, the least round of a run took 87–125 ns per sorted insert (median 98), and 100–140 ns
//! (median 106) without it and with two more stores per node. Asking 512 bytes ahead gives less.
//! Inserts in random order gain nothing by it.
//!
//! Writers that come to a record while another splits it used to leave their hints out. With keys from a
//! counter that threads share, and a writer put to sleep in a split, those were so many that lookups took 5 to
//! 120 µs for good; now, 0.4 to 0.5 (200,000 keys, two to eight threads, two processors).
//!
//! Two threads that insert half of the entries each take 1/1.43 of one thread's time where what inserts
//! change (bytes taken, bytes of the index taken) shares cache lines with what they read (capacity,
//! address), and 1/1.5 to 1/1.7 where it does not, as here. With the counter of bytes given out to threads in
//! pieces of 4 KiB it was 1/1.9: not kept, since room could then not be reckoned to the byte. The bound is
//! near: in nine rounds, two threads that fill a list each, of half the size, were 1.33 to 2.5 times one of
//! them (median 1.69), and two on one list .96 to 1.89 times one (median 1.47).
//!
//! The side hash was not kept. It brings a sorted insert from 59–64 to 110–120 ns, as each has a miss
//! then, and every version of a key has to go through it. Its gets were in a loop that lets
//! the processor overlap them.
//!
//! # Reuse
//!
//! [`SkipList::reset`] empties a list and keeps its pages, which are the expensive part of a new
//! one. With the list in an `Arc`, [`Arc::into_inner`](std::sync::Arc::into_inner) gets it
//! back when the last reader is gone.

mod ahead;
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

#[doc = include_str!("../README.md")]
#[cfg(doctest)]
struct Readme;
