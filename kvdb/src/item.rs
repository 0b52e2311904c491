//! What a read finds: an entry with its version, and its value when asked for.

use std::fmt;
use std::sync::Arc;

use kvdb_lsm::entry::{Entry, Kind};
use kvdb_vlog::{LogView, Pointer};

use crate::core::{At, Core};
use crate::error::{Error, Result};
use crate::merge::{Folded, Folder};
use crate::value::Value;

/// A visible entry that a point read came upon, still in place.
#[derive(Debug)]
pub(crate) struct Found<'a> {
    pub(crate) hit: &'a kvdb_lsm::Found<'a>,
    pub(crate) key: &'a [u8],
    pub(crate) place: Looked<'a>,
}

/// Where an entry was found and for whom, in case it has to be folded.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Looked<'a> {
    pub(crate) core: &'a Core,
    pub(crate) superversion: &'a kvdb_lsm::Superversion<LogView>,
    pub(crate) at: At,
    pub(crate) version: u64,
}

impl Looked<'_> {
    pub(crate) fn fold(&self, key: &[u8], version: u64, operand: &Entry<'_>) -> Result<Folded> {
        let folder = Folder {
            superversion: self.superversion,
            operator: self.core.options.merge_operator.as_ref(),
            at_most: self.version,
            clock: self.at.clock(self.core),
        };
        folder.fold(key, version, operand)
    }
}

/// The entry, unless it is a tombstone or has expired.
pub(crate) fn resolve<'a>(
    hit: &'a kvdb_lsm::Found<'a>,
    key: &'a [u8],
    place: Looked<'a>,
) -> Result<Option<Found<'a>>> {
    let entry = hit.entry();
    if entry.kind == Kind::Tombstone {
        return Ok(None);
    }
    if entry.expires_at != 0 && entry.expires_at <= place.at.clock(place.core) {
        return Ok(None);
    }
    Ok(Some(Found { hit, key, place }))
}

impl Found<'_> {
    /// The value as an owned handle.
    pub(crate) fn value(&self, view: &LogView) -> Result<Value> {
        let entry = self.hit.entry();
        match entry.kind {
            Kind::Pointer => read_pointer(view, entry.payload, self.key, self.hit.version()),
            Kind::Value => Ok(Value::new(self.hit.to_region())),
            kind if kind.is_merge() => Ok(Value::from_vec(self.fold()?.value)),
            kind => Err(unknown_kind(self.key, kind)),
        }
    }

    #[cold]
    fn fold(&self) -> Result<Folded> {
        self.place.fold(self.key, self.hit.version(), &self.hit.entry())
    }

    /// Calls `f` with the value where it lies.
    pub(crate) fn with<R>(&self, view: &LogView, f: impl FnOnce(&[u8]) -> R) -> Result<R> {
        let (entry, version) = (self.hit.entry(), self.hit.version());
        match entry.kind {
            Kind::Pointer => {
                let pointer = decode_pointer(entry.payload, self.key)?;
                match view.read_ref(pointer, self.key, version)? {
                    Some(bytes) => Ok(f(bytes)),
                    None => Ok(f(&view.read(pointer, self.key, version)?)),
                }
            }
            Kind::Value => Ok(f(entry.payload)),
            kind if kind.is_merge() => Ok(f(&self.fold()?.value)),
            kind => Err(unknown_kind(self.key, kind)),
        }
    }

    pub(crate) fn item(&self, view: &Arc<LogView>) -> Result<Item> {
        let entry = self.hit.entry();
        if entry.kind.is_merge() {
            return Ok(Item::folded(self.key, self.hit.version(), self.fold()?));
        }
        let payload = match entry.kind {
            Kind::Value => Payload::Inline(Value::new(self.hit.to_region())),
            _ => Payload::of(self.key, &entry, view)?,
        };
        Ok(Item::new(self.key, self.hit.version(), &entry, payload))
    }
}

pub(crate) fn unknown_kind(key: &[u8], kind: Kind) -> Error {
    Error::DamagedEntry { key: key.to_vec(), what: format!("entry of kind {kind:?}") }
}

pub(crate) fn decode_pointer(payload: &[u8], key: &[u8]) -> Result<Pointer> {
    Pointer::from_stored(payload).ok_or_else(|| Error::DamagedEntry {
        key: key.to_vec(),
        what: format!("pointer of {} bytes", payload.len()),
    })
}

pub(crate) fn read_pointer(
    view: &LogView,
    payload: &[u8],
    key: &[u8],
    version: u64,
) -> Result<Value> {
    let pointer = decode_pointer(payload, key)?;
    Ok(Value::new(view.read(pointer, key, version)?.into_region()))
}

/// Bytes of the value that a pointer stands for, known without reading it.
pub(crate) fn pointed_len(key: &[u8], entry: &Entry<'_>) -> Result<usize> {
    let pointer = decode_pointer(entry.payload, key)?;
    pointer.value_len(key.len(), entry.head_len()).ok_or_else(|| Error::DamagedEntry {
        key: key.to_vec(),
        what: "pointer to a record shorter than its key".into(),
    })
}

/// One entry: key, version, what came with it, and its value, which is read from the log only
/// when asked for. Owned; stays valid whatever the database does.
///
/// ```
/// # fn main() -> kvdb::Result<()> {
/// # let db = kvdb::Options::default().open_in(std::sync::Arc::new(kvdb::vfs::MemFs::new()), "/db")?;
/// let version = db.put("k", "value")?;
/// for item in db.iter()? {
///     let item = item?; // a step can fail
///     assert_eq!((item.key(), item.version(), item.value_len()), (&b"k"[..], version, 5));
///     assert_eq!(item.value()?, "value"); // and so can a read
/// }
/// # db.close()
/// # }
/// ```
#[derive(Clone)]
pub struct Item {
    key: Box<[u8]>,
    version: u64,
    user_meta: u8,
    expires_at: u64,
    expired: bool,
    payload: Payload,
}

/// Where the value is.
#[derive(Clone)]
pub(crate) enum Payload {
    Inline(Value),
    Log {
        view: Arc<LogView>,
        pointer: Pointer,
        len: usize,
        /// Whether values are read in the order they lie in.
        along: bool,
    },
    /// A deleted entry has none.
    Deleted,
}

impl Payload {
    /// The payload of an entry; an inline value is copied.
    pub(crate) fn of(key: &[u8], entry: &Entry<'_>, view: &Arc<LogView>) -> Result<Payload> {
        match entry.kind {
            Kind::Value => Ok(Payload::Inline(Value::copied(entry.payload))),
            Kind::Tombstone => Ok(Payload::Deleted),
            Kind::Pointer => Ok(Payload::Log {
                view: view.clone(),
                pointer: decode_pointer(entry.payload, key)?,
                len: pointed_len(key, entry)?,
                along: false,
            }),
            kind => Err(unknown_kind(key, kind)),
        }
    }
}

impl Item {
    pub(crate) fn new(key: &[u8], version: u64, entry: &Entry<'_>, payload: Payload) -> Self {
        let (user_meta, expires_at) = (entry.user_meta, entry.expires_at);
        Item { key: key.into(), version, user_meta, expires_at, expired: false, payload }
    }

    /// What the operands of a key come to, at the version of the newest.
    pub(crate) fn folded(key: &[u8], version: u64, folded: Folded) -> Self {
        Item {
            key: key.into(),
            version,
            user_meta: folded.user_meta,
            expires_at: 0,
            expired: false,
            payload: Payload::Inline(Value::from_vec(folded.value)),
        }
    }

    /// Marks it as one of many whose values are read in the order they lie in.
    pub(crate) fn along(mut self, in_order: bool) -> Self {
        if let Payload::Log { along, .. } = &mut self.payload {
            *along = in_order;
        }
        self
    }

    /// Marks it as expired for its reader.
    pub(crate) fn with_expired(mut self, expired: bool) -> Self {
        self.expired = expired;
        self
    }

    /// The key.
    pub fn key(&self) -> &[u8] {
        &self.key
    }

    /// The key, by value.
    pub fn into_key(self) -> Vec<u8> {
        self.key.into_vec()
    }

    /// The value. Reads the log if it lives there, and verifies what it reads.
    ///
    /// # Errors
    /// Damage or an I/O error of the log, with file and offset.
    pub fn value(&self) -> Result<Value> {
        match &self.payload {
            Payload::Inline(value) => Ok(value.clone()),
            Payload::Log { view, pointer, along, .. } => {
                let (pointer, key, version) = (*pointer, &self.key, self.version);
                let value = match along {
                    true => view.read_along(pointer, key, version),
                    false => view.read(pointer, key, version),
                };
                Ok(Value::new(value?.into_region()))
            }
            Payload::Deleted => Ok(Value::copied(&[])),
        }
    }

    /// Bytes of the value, known without reading it.
    pub fn value_len(&self) -> usize {
        match &self.payload {
            Payload::Inline(value) => value.len(),
            Payload::Log { len, .. } => *len,
            Payload::Deleted => 0,
        }
    }

    /// Whether the value lives in the log rather than in the tree.
    pub fn is_separated(&self) -> bool {
        matches!(self.payload, Payload::Log { .. })
    }

    /// Whether this is the mark of a delete. Only iteration over all versions shows them.
    pub fn is_deleted(&self) -> bool {
        matches!(self.payload, Payload::Deleted)
    }

    /// Whether its expiry time was reached by the clock of its reader. Only iteration over all
    /// versions shows such entries.
    pub fn is_expired(&self) -> bool {
        self.expired
    }

    /// The commit timestamp. A transaction's own uncommitted write has [`u64::MAX`].
    pub fn version(&self) -> u64 {
        self.version
    }

    /// The user's byte; 0 if none was given.
    pub fn user_meta(&self) -> u8 {
        self.user_meta
    }

    /// Seconds since 1970 from which on the entry is absent; `None`: never.
    pub fn expires_at(&self) -> Option<u64> {
        (self.expires_at != 0).then_some(self.expires_at)
    }
}

impl fmt::Debug for Item {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Item")
            .field("key", &format_args!("\"{}\"", self.key.escape_ascii()))
            .field("version", &self.version)
            .field("value_len", &self.value_len())
            .field("separated", &self.is_separated())
            .finish_non_exhaustive()
    }
}
