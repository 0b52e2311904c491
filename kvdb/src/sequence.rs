//! [`Sequence`]: numbers that never come twice.

use std::collections::HashMap;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use kvdb_txn::Mode;
use parking_lot::Mutex;

use crate::core::Core;
use crate::error::{Error, Result};
use crate::options::Durability;
use crate::transaction::Transaction;

/// Ascending numbers from 0, each handed out once: across threads, handles and crashes.
///
/// The store holds under the sequence's key the first number that nobody has leased (8 bytes,
/// little-endian). An owner leases some at once, durably, before it hands the first one out,
/// whatever the database's durability is; so a call costs a commit once per lease. Numbers leased
/// and not used when the process dies are never used: a gap of at most one lease per owner. Those
/// given back, by [`release`](Sequence::release) or by dropping it, go to the next who asks.
///
/// If the key is deleted, dropped with its range or set back, the sequence goes on above what was
/// leased as long as anybody owns it; begun again when nobody does, or when the store is opened
/// again, it starts where the key says, at 0 if there is none. Whoever writes a larger number to it
/// sets it forward: from then on numbers are leased from there, and those from before that are
/// given back are not used any more. What an owner had leased by then it still hands out. With
/// [`Options::detect_conflicts`](crate::Options#structfield.detect_conflicts) switched off, a lease
/// of the same moment may write over the larger number.
///
/// ```
/// # fn main() -> kvdb::Result<()> {
/// # let db = kvdb::Options::default().open_in(std::sync::Arc::new(kvdb::vfs::MemFs::new()), "/db")?;
/// let ids = db.sequence("ids", 100)?;
/// assert_eq!((ids.next()?, ids.next()?), (0, 1));
/// ids.release()?;
/// assert_eq!(db.sequence("ids", 100)?.next()?, 2);
/// # db.close()
/// # }
/// ```
pub struct Sequence {
    core: Arc<Core>,
    key: Box<[u8]>,
    lease: u64,
    /// Leased and not handed out.
    left: Mutex<Range<u64>>,
}

/// The sequences that were used while the store is open, by key. The lock is also what makes a lease
/// exclusive among owners: conflict detection may be switched off.
pub(crate) type Sequences = Mutex<HashMap<Box<[u8]>, Known>>;

/// What is known of a sequence besides its key, which anybody may write to.
#[derive(Debug, Default)]
pub(crate) struct Known {
    owners: usize,
    /// Above every number leased since the sequence began or began anew.
    top: u64,
    /// What somebody has set it forward to.
    base: u64,
    /// Numbers given back, all between the two.
    returned: Vec<Range<u64>>,
}

impl Known {
    /// The key says so: if somebody has set it forward, what is below is not used any more.
    fn see(&mut self, stored: u64) {
        if stored > self.top {
            (self.top, self.base) = (stored, stored);
            self.returned.clear();
        }
    }

    /// For the next who asks, unless it has been set forward since they were leased.
    fn give_back(&mut self, numbers: Range<u64>) {
        if numbers.start >= self.base && !numbers.is_empty() {
            self.returned.push(numbers);
        }
    }
}

impl Sequence {
    pub(crate) fn new(core: Arc<Core>, key: &[u8], lease: u64) -> Result<Self> {
        crate::limits::check_key(key)?;
        core.check_open()?;
        core.log()?;
        core.check_unmanaged()?;
        let mut known = core.sequences.lock();
        let stored = stored(&begin(&core), key)?;
        let sequence = known.entry(key.into()).or_default();
        if sequence.owners == 0 && stored < sequence.top {
            // The key was removed or set back, and nobody has numbers of before: it begins anew.
            *sequence = Known::default();
        }
        sequence.see(stored);
        sequence.owners += 1;
        drop(known);
        Ok(Sequence { core, key: key.into(), lease: lease.max(1), left: Mutex::new(0..0) })
    }

    /// The next number.
    ///
    /// # Errors
    /// Those of the commit of a new lease; [`Error::NotASequence`] if the key holds something else,
    /// or all numbers are used up; [`Error::Closed`], also if some are left of the lease.
    #[allow(clippy::should_implement_trait)] // fallible, by shared reference, and without an end
    pub fn next(&self) -> Result<u64> {
        self.core.check_open()?;
        let mut left = self.left.lock();
        if left.is_empty() {
            *left = self.lease()?;
        }
        let number = left.start;
        left.start += 1;
        Ok(number)
    }

    /// The key.
    pub fn key(&self) -> &[u8] {
        &self.key
    }

    /// Gives back what is left of the lease. The sequence goes on to work, with a new lease.
    ///
    /// # Errors
    /// Those of the commit, if these are the last numbers leased so far and so can be given back to
    /// the store; they are kept for the next who asks then, or are a gap if the outcome is unknown.
    pub fn release(&self) -> Result<()> {
        self.core.check_open()?;
        let mut left = self.left.lock();
        let range = std::mem::replace(&mut *left, 0..0);
        if range.is_empty() {
            return Ok(());
        }
        let mut known = self.core.sequences.lock();
        let known = known.entry(self.key.clone()).or_default();
        let transaction = begin(&self.core);
        let last = stored(&transaction, &self.key).map(|stored| stored == range.end);
        let given_back = match last {
            Ok(true) if known.top == range.end => {
                self.store(transaction, range.start, Durability::Buffered)
            }
            _ => {
                known.give_back(range);
                return last.map(drop);
            }
        };
        match given_back {
            Ok(()) => known.top = range.start,
            // Perhaps the next opening finds them given back: then they must not be handed out here.
            Err(Error::OutcomeUnknown(_)) => {}
            // The key was written to meanwhile: these are not its last ones any more, or they are below
            // what it was set forward to, which the next lease sees.
            Err(Error::Conflict | Error::TooOld) => {
                known.give_back(range);
                return Ok(());
            }
            Err(_) => known.give_back(range),
        }
        given_back
    }

    fn lease(&self) -> Result<Range<u64>> {
        let mut known = self.core.sequences.lock();
        let known = known.entry(self.key.clone()).or_default();
        loop {
            let transaction = begin(&self.core);
            known.see(stored(&transaction, &self.key)?);
            if let Some(range) = known.returned.pop() {
                return Ok(range);
            }
            let start = known.top;
            let end = start.saturating_add(self.lease);
            if start == end {
                return Err(refuse(&self.key, "all of its numbers are used up"));
            }
            match self.store(transaction, end, Durability::Sync) {
                Ok(()) => {
                    known.top = end;
                    return Ok(start..end);
                }
                // Somebody else has written to the key: perhaps set it forward.
                Err(Error::Conflict | Error::TooOld) => {}
                Err(error) => return Err(error),
            }
        }
    }

    fn store(
        &self,
        mut transaction: Transaction,
        first: u64,
        durability: Durability,
    ) -> Result<()> {
        transaction.put(&self.key, first.to_le_bytes())?;
        transaction.commit_with(durability).map(drop)
    }
}

/// What reads and writes a sequence's key: if others write to it in between, it is a conflict.
fn begin(core: &Arc<Core>) -> Transaction {
    let clock = core.clock.begin();
    Transaction::new(core.clone(), core.oracle.begin(Mode::ReadWrite), clock)
}

/// The first number that nobody has leased, as the key has it.
fn stored(transaction: &Transaction, key: &[u8]) -> Result<u64> {
    let Some(value) = transaction.get(key)? else { return Ok(0) };
    let bytes = <[u8; 8]>::try_from(&value[..]);
    bytes.map(u64::from_le_bytes).map_err(|_| refuse(key, "its value has not 8 bytes"))
}

fn refuse(key: &[u8], what: &'static str) -> Error {
    Error::NotASequence { key: key.to_vec(), what }
}

impl Drop for Sequence {
    fn drop(&mut self) {
        let range = self.left.get_mut().clone();
        let mut known = self.core.sequences.lock();
        let Some(sequence) = known.get_mut(&self.key) else { return };
        sequence.give_back(range);
        sequence.owners -= 1;
        if sequence.owners == 0 && sequence.returned.is_empty() {
            known.remove(&self.key);
        }
    }
}

impl fmt::Debug for Sequence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sequence")
            .field("key", &format_args!("\"{}\"", self.key.escape_ascii()))
            .field("left", &*self.left.lock())
            .finish_non_exhaustive()
    }
}
