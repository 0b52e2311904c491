//! How a read-write transaction reads: its own writes first, noting what it has read, or not.

use std::fmt;
use std::sync::Arc;

use kvdb_lsm::entry::Entry;

use crate::bounds::{KeyRange, prefix_bounds};
use crate::core::At;
use crate::cursor::{Cursor, Picture};
use crate::error::Result;
use crate::item::{Item, Looked, Payload};
use crate::iter::Iter;
use crate::merge::Folded;
use crate::transaction::Transaction;
use crate::value::Value;
use crate::write_set::Pending;

/// The reads of a transaction, tracked for conflicts or not.
#[derive(Clone, Copy)]
pub(crate) struct Reader<'t> {
    transaction: &'t Transaction,
    tracked: bool,
}

/// What a transaction itself has written to a key.
enum Own<'t> {
    Nothing,
    /// A delete, or a value that has expired.
    Absent,
    Value(Entry<'t>, &'t Pending),
    /// An operand, to be folded onto what the snapshot holds.
    Operand(Entry<'t>),
}

impl<'t> Reader<'t> {
    pub(crate) fn new(transaction: &'t Transaction, tracked: bool) -> Self {
        Reader { transaction, tracked }
    }

    pub(crate) fn get(self, key: &[u8]) -> Result<Option<Value>> {
        let core = &self.transaction.core;
        core.check_open()?;
        match self.own(key) {
            Own::Nothing => core.get(self.read(key), self.at()),
            Own::Absent => Ok(None),
            Own::Value(_, pending) => Ok(Some(Value::copied(pending.value()))),
            Own::Operand(operand) => Ok(Some(Value::from_vec(self.fold(key, &operand)?.value))),
        }
    }

    pub(crate) fn get_entry(self, key: &[u8]) -> Result<Option<Item>> {
        let core = &self.transaction.core;
        core.check_open()?;
        match self.own(key) {
            Own::Nothing => core.get_entry(self.read(key), self.at()),
            Own::Absent => Ok(None),
            Own::Value(entry, pending) => {
                let payload = Payload::Inline(Value::copied(pending.value()));
                Ok(Some(Item::new(key, kvdb_lsm::PENDING, &entry, payload)))
            }
            Own::Operand(operand) => {
                let folded = self.fold(key, &operand)?;
                Ok(Some(Item::folded(key, kvdb_lsm::PENDING, folded)))
            }
        }
    }

    pub(crate) fn get_with<R>(self, key: &[u8], f: impl FnOnce(&[u8]) -> R) -> Result<Option<R>> {
        let core = &self.transaction.core;
        core.check_open()?;
        match self.own(key) {
            Own::Nothing => core.get_with(self.read(key), self.at(), f),
            Own::Absent => Ok(None),
            Own::Value(_, pending) => Ok(Some(f(pending.value()))),
            Own::Operand(operand) => Ok(Some(f(&self.fold(key, &operand)?.value))),
        }
    }

    pub(crate) fn contains(self, key: &[u8]) -> Result<bool> {
        let core = &self.transaction.core;
        core.check_open()?;
        match self.own(key) {
            Own::Nothing => core.contains(self.read(key), self.at()),
            Own::Absent => Ok(false),
            Own::Value(..) | Own::Operand(_) => Ok(true),
        }
    }

    pub(crate) fn multi_get<K: AsRef<[u8]>>(self, keys: &[K]) -> Result<Vec<Option<Value>>> {
        let stored = |key: &&K| matches!(self.own(key.as_ref()), Own::Nothing);
        let others: Vec<&[u8]> =
            keys.iter().filter(stored).map(|key| self.read(key.as_ref())).collect();
        let mut others = self.transaction.core.multi_get(&others, self.at())?.into_iter();
        let get = |key: &K| match self.own(key.as_ref()) {
            Own::Nothing => Ok(others.next().flatten()),
            _ => self.get(key.as_ref()),
        };
        keys.iter().map(get).collect()
    }

    pub(crate) fn picture(self) -> Picture<'t> {
        let transaction = self.transaction;
        let Transaction { core, writes, .. } = transaction;
        Picture {
            core: Arc::downgrade(core),
            superversion: core.superversion(),
            pending: (!writes.is_empty()).then(|| writes.snapshot()),
            added: writes.added(),
            version: transaction.mark.version(),
            clock: transaction.clock.now(),
            since: 0,
            closed: core.check_open().is_err(),
            operator: core.options.merge_operator.clone(),
            tracks: self.tracked.then_some(&transaction.tracks),
        }
    }

    fn at(self) -> At {
        let Transaction { mark, clock, .. } = self.transaction;
        At::Version { version: mark.version(), clock: clock.now() }
    }

    /// Notes that the key was read, whether it is there or not.
    fn read(self, key: &[u8]) -> &[u8] {
        if self.tracked {
            self.transaction.reads.lock().add_point(key);
        }
        key
    }

    /// The transaction's own write of a key. An answer from here is not a read.
    fn own(self, key: &[u8]) -> Own<'t> {
        let Some(pending) = self.transaction.writes.get(key) else { return Own::Nothing };
        let entry = pending.entry();
        match entry.kind {
            _ if entry.is_absent(self.transaction.clock.now()) => Own::Absent,
            kind if kind.is_merge() => Own::Operand(entry),
            _ => Own::Value(entry, pending),
        }
    }

    /// An operand of its own, folded onto what the snapshot holds.
    fn fold(self, key: &[u8], operand: &Entry<'_>) -> Result<Folded> {
        self.read(key);
        let Transaction { core, mark, .. } = self.transaction;
        let version = mark.version();
        core.read(|| {
            let superversion = core.superversion();
            let place = Looked { core, superversion: &superversion, at: self.at(), version };
            place.fold(key, kvdb_lsm::PENDING, operand)
        })
    }
}

/// A transaction's reads that conflict with nothing: the same snapshot and the same own writes, but
/// what is read here may be changed by another commit without [`Transaction::commit`] noticing.
///
/// For what does not decide what is written: counts for a log, hints, a look at a key that changes all
/// the time. Whatever the writes depend on has to be read by the transaction itself: else two
/// transactions may each undo what the other one relies on (a lost update, a write skew). A transaction
/// that reads everything here reads one snapshot, but lost updates are possible: that is weaker than
/// snapshot isolation.
///
/// ```
/// # fn main() -> kvdb::Result<()> {
/// # let db = kvdb::Options::default().open_in(std::sync::Arc::new(kvdb::vfs::MemFs::new()), "/db")?;
/// db.put("stock", "7")?;
/// let mut t = db.begin()?;
/// let hint = t.untracked().get("stock")?.expect("just put");
/// t.put("order", &hint)?;
/// db.put("stock", "6")?; // would be a conflict if `t` had read it
/// t.commit()?;
/// # db.close()
/// # }
/// ```
#[derive(Clone, Copy)]
pub struct Untracked<'t> {
    reader: Reader<'t>,
}

impl<'t> Untracked<'t> {
    pub(crate) fn new(reader: Reader<'t>) -> Self {
        Untracked { reader }
    }

    /// As [`Transaction::get`].
    ///
    /// # Errors
    /// As [`Transaction::get`]; so for all of these.
    pub fn get(&self, key: impl AsRef<[u8]>) -> Result<Option<Value>> {
        self.reader.get(key.as_ref())
    }

    /// As [`Transaction::get_entry`].
    pub fn get_entry(&self, key: impl AsRef<[u8]>) -> Result<Option<Item>> {
        self.reader.get_entry(key.as_ref())
    }

    /// As [`Transaction::get_with`].
    pub fn get_with<R>(
        &self,
        key: impl AsRef<[u8]>,
        f: impl FnOnce(&[u8]) -> R,
    ) -> Result<Option<R>> {
        self.reader.get_with(key.as_ref(), f)
    }

    /// As [`Transaction::contains`].
    pub fn contains(&self, key: impl AsRef<[u8]>) -> Result<bool> {
        self.reader.contains(key.as_ref())
    }

    /// As [`Transaction::multi_get`].
    pub fn multi_get<K: AsRef<[u8]>>(
        &self,
        keys: impl IntoIterator<Item = K>,
    ) -> Result<Vec<Option<Value>>> {
        let keys: Vec<K> = keys.into_iter().collect();
        self.reader.multi_get(&keys)
    }

    /// As [`Transaction::iter`].
    pub fn iter(&self) -> Iter<'t> {
        self.range(..)
    }

    /// As [`Transaction::range`].
    pub fn range(&self, range: impl KeyRange) -> Iter<'t> {
        Iter::new(self.reader.picture(), range.into_bounds())
    }

    /// As [`Transaction::prefix`].
    pub fn prefix(&self, prefix: impl AsRef<[u8]>) -> Iter<'t> {
        Iter::new(self.reader.picture(), prefix_bounds(prefix.as_ref()))
    }

    /// As [`Transaction::cursor`].
    pub fn cursor(&self, range: impl KeyRange) -> Cursor<'t> {
        Cursor::alone(self.reader.picture(), range.into_bounds())
    }
}

impl fmt::Debug for Untracked<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Untracked").field(&self.reader.transaction).finish()
    }
}

#[cfg(test)]
mod tests {
    use kvdb_vfs::MemFs;

    use super::*;
    use crate::Options;

    #[test]
    fn what_a_walk_has_read_keeps_no_copy_of_the_writes_of_its_transaction() {
        let db = Options::default().open_in(Arc::new(MemFs::new()), "/db").unwrap();
        let mut t = db.begin().unwrap();
        t.put("own", "value").unwrap();
        let picture = Reader::new(&t, true).picture();
        let copy = Arc::downgrade(picture.pending.as_ref().unwrap());
        let mut iter = Iter::new(picture, prefix_bounds(b"o"));
        assert_eq!(iter.next().unwrap().unwrap().key(), b"own");
        assert!(copy.upgrade().is_some());
        drop(iter);
        assert!(copy.upgrade().is_none());
        t.commit().unwrap();
    }
}
