//! Values that own what they point into.

use std::fmt;
use std::ops::Deref;

use kvdb_vfs::Region;

/// The bytes of a value: an owned handle into a memtable, a table or the log, without a copy.
///
/// It stays valid whatever the database does meanwhile, also after the database is closed; what it
/// points into is kept until the last handle goes. Keeping a small value for long keeps a whole
/// memtable or segment: [`Value::into_vec`] makes a copy that keeps nothing.
///
/// ```
/// # fn main() -> kvdb::Result<()> {
/// # let db = kvdb::Options::default().open_in(std::sync::Arc::new(kvdb::vfs::MemFs::new()), "/db")?;
/// db.put("k", "value")?;
/// let value = db.get("k")?.expect("just put");
/// db.close()?;
/// assert_eq!(&value[..], b"value");
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Value {
    region: Region,
}

impl Value {
    pub(crate) fn new(region: Region) -> Self {
        Value { region }
    }

    pub(crate) fn copied(bytes: &[u8]) -> Self {
        Value { region: Region::from_vec(bytes.to_vec()) }
    }

    /// Bytes of its own.
    pub(crate) fn from_vec(bytes: Vec<u8>) -> Self {
        Value { region: Region::from_vec(bytes) }
    }

    /// A copy that keeps nothing of the database alive.
    pub fn into_vec(self) -> Vec<u8> {
        self.region.to_vec()
    }
}

impl Deref for Value {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        &self.region
    }
}

impl AsRef<[u8]> for Value {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl From<Value> for Vec<u8> {
    fn from(value: Value) -> Vec<u8> {
        value.into_vec()
    }
}

/// Without a copy: the handle becomes the owner.
#[cfg(feature = "bytes")]
impl From<Value> for bytes::Bytes {
    fn from(value: Value) -> bytes::Bytes {
        bytes::Bytes::from_owner(value)
    }
}

impl fmt::Debug for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const SHOWN: usize = 32;
        let shown = &self[..self.len().min(SHOWN)];
        let more = if self.len() > SHOWN { "…" } else { "" };
        write!(f, "Value({} bytes: \"{}{more}\")", self.len(), shown.escape_ascii())
    }
}

impl<T: AsRef<[u8]> + ?Sized> PartialEq<T> for Value {
    fn eq(&self, other: &T) -> bool {
        **self == *other.as_ref()
    }
}

impl Eq for Value {}
