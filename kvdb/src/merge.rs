//! [`MergeOperator`], and the folding of operands onto what is older.

use std::fmt;
use std::sync::Arc;

use kvdb_lsm::Superversion;
use kvdb_lsm::entry::{Entry, Kind};
use kvdb_sstable::Cursor as _;
use kvdb_vlog::LogView;

use crate::error::{Error, Result};
use crate::item::read_pointer;

type Function = dyn Fn(&[u8], &[u8], &[u8]) -> Vec<u8> + Send + Sync;

/// How operands are folded: an associative function of key, older value and newer value.
///
/// [`Db::merge`](crate::Db::merge) writes an operand without reading anything, so merges never
/// conflict with each other. A read folds the operands of a key, oldest first, onto the value below
/// them; a delete is a barrier, and an expired value is as a delete. A key of operands only has
/// their fold as its value. What no reader needs apart is folded in the background.
///
/// The function must be associative, `f(k, f(k, a, b), c) == f(k, a, f(k, b, c))`, must not depend
/// on anything but its arguments, and must be the same whenever the store is opened. It runs on
/// readers' threads and on the threads that flush and compact. If it panics in a call of yours, the
/// call is broken off and has changed nothing: an iterator gives the same entry again. If it does
/// in the background, background work stops, and writers are told with its message. It must not use
/// the database. It need not be commutative: older comes first.
///
/// ```
/// use kvdb::{MergeOperator, Options};
/// # fn main() -> kvdb::Result<()> {
/// # let fs = std::sync::Arc::new(kvdb::vfs::MemFs::new());
/// let append = MergeOperator::new(|_key, older, newer| [older, b",", newer].concat());
/// let db = Options::default().merge_operator(append).open_in(fs, "/db")?;
/// db.put("tags", "red")?;
/// db.merge("tags", "blue")?;
/// db.merge("tags", "green")?;
/// assert_eq!(db.get("tags")?.expect("merged"), "red,blue,green");
/// # db.close()
/// # }
/// ```
#[derive(Clone)]
pub struct MergeOperator(Arc<Function>);

impl MergeOperator {
    /// An operator that folds with `f(key, older, newer)`.
    pub fn new(f: impl Fn(&[u8], &[u8], &[u8]) -> Vec<u8> + Send + Sync + 'static) -> Self {
        MergeOperator(Arc::new(f))
    }

    /// One fold.
    pub(crate) fn fold(&self, key: &[u8], older: &[u8], newer: &[u8]) -> Vec<u8> {
        (self.0)(key, older, newer)
    }
}

/// Equal if they are clones of one.
impl PartialEq for MergeOperator {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl fmt::Debug for MergeOperator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("MergeOperator")
    }
}

/// What operands come to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Folded {
    pub(crate) value: Vec<u8>,
    /// That of the value below the operands.
    pub(crate) user_meta: u8,
}

/// The reader that a fold is for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Folder<'a> {
    pub(crate) superversion: &'a Superversion<LogView>,
    pub(crate) operator: Option<&'a MergeOperator>,
    pub(crate) at_most: u64,
    pub(crate) clock: u64,
}

/// After so many operands found one by one, walk them.
const LOOKUPS_BEFORE_WALK: usize = 4;

impl Folder<'_> {
    /// Folds the operand that a reader has met at `version` onto all that lies below it.
    pub(crate) fn fold(&self, key: &[u8], version: u64, operand: &Entry<'_>) -> Result<Folded> {
        let operator = self.operator.ok_or_else(|| Error::NoMergeOperator { key: key.to_vec() })?;
        let mut operands = vec![self.bytes(key, version, operand)?];
        let base = self.collect(key, version, &mut operands)?;
        let (mut value, user_meta) = match base {
            Some(base) => base,
            None => (operands.pop().unwrap_or_default(), 0),
        };
        for operand in operands.iter().rev() {
            value = operator.fold(key, &value, operand);
        }
        Ok(Folded { value, user_meta })
    }

    /// Collects the operands older than `than`, newest first, and returns the value below them.
    fn collect(
        &self,
        key: &[u8],
        mut than: u64,
        operands: &mut Vec<Vec<u8>>,
    ) -> Result<Option<(Vec<u8>, u8)>> {
        let hash = kvdb_sstable::key_hash(key);
        for _ in 0..LOOKUPS_BEFORE_WALK {
            let Some(found) = self.superversion.get_older(key, than, self.at_most, hash)? else {
                return Ok(None);
            };
            than = found.version();
            match self.take(key, than, &found.entry(), operands)? {
                Taken::Operand => {}
                Taken::Barrier => return Ok(None),
                Taken::Base(value, meta) => return Ok(Some((value, meta))),
            }
        }
        let Some(below) = than.checked_sub(1) else { return Ok(None) };
        let only = std::ops::Bound::Included(key.to_vec());
        let mut cursor = self.superversion.cursor_with(&kvdb_lsm::CursorOptions {
            lower: only.clone(),
            upper: only,
            ..Default::default()
        });
        let mut on = cursor.seek(key, below.min(self.at_most))?;
        while on && cursor.key() == key {
            let version = cursor.version();
            if self.superversion.range_deletes().hides(key, version, self.at_most) {
                break;
            }
            let entry = Entry::decode(cursor.value()).map_err(kvdb_lsm::Error::from)?;
            match self.take(key, version, &entry, operands)? {
                Taken::Operand => {}
                Taken::Barrier => break,
                Taken::Base(value, meta) => return Ok(Some((value, meta))),
            }
            on = cursor.next()?;
        }
        Ok(None)
    }

    fn take(
        &self,
        key: &[u8],
        version: u64,
        entry: &Entry<'_>,
        operands: &mut Vec<Vec<u8>>,
    ) -> Result<Taken> {
        if entry.is_absent(self.clock) {
            return Ok(Taken::Barrier);
        }
        let bytes = self.bytes(key, version, entry)?;
        if entry.kind.is_merge() {
            operands.push(bytes);
            return Ok(Taken::Operand);
        }
        Ok(Taken::Base(bytes, entry.user_meta))
    }

    /// The bytes of a value or operand, wherever they are.
    fn bytes(&self, key: &[u8], version: u64, entry: &Entry<'_>) -> Result<Vec<u8>> {
        match entry.kind {
            Kind::Value | Kind::Merge => Ok(entry.payload.to_vec()),
            Kind::Pointer | Kind::MergePointer => {
                let view = self.superversion.view();
                Ok(read_pointer(view, entry.payload, key, version)?.into_vec())
            }
            kind => Err(crate::item::unknown_kind(key, kind)),
        }
    }
}

/// What an entry below an operand is to it.
enum Taken {
    Operand,
    Base(Vec<u8>, u8),
    Barrier,
}
