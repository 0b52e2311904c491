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
///
/// ```
/// # fn main() -> kvdb::Result<()> {
/// # let db = kvdb::Options::default().open_in(std::sync::Arc::new(kvdb::vfs::MemFs::new()), "/db")?;
/// db.put("k", "value")?;
/// let bytes: bytes::Bytes = db.get("k")?.expect("just put").into();
/// assert_eq!(bytes.slice(1..3), "al");
/// # db.close()
/// # }
/// ```
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

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use kvdb_vfs::MemFs;

    use crate::options::{Background, Durability, Options};

    #[test]
    fn a_read_in_place_shares_what_it_points_into_with_nobody() {
        let options = Options::default()
            .background(Background::Manual)
            .durability(Durability::Buffered)
            .value_threshold(256);
        let db = options.open_in(Arc::new(MemFs::new()), "/db").unwrap();
        db.put("small", [1; 100]).unwrap();
        db.put("large", [2; 1000]).unwrap();
        for place in ["a memtable", "a table"] {
            for key in ["small", "large"] {
                let held = db.get(key).unwrap().expect("it was put");
                let superversion = db.core().superversion();
                let counts = || {
                    let log = superversion.view();
                    let segments: Vec<_> = log.segments().map(|id| log.holders(id)).collect();
                    let superversions = Arc::strong_count(&superversion);
                    (held.region.holders(), superversions, Arc::strong_count(log), segments)
                };
                let before = counts();
                let in_place = |bytes: &[u8]| {
                    assert_eq!(bytes.as_ptr(), held.as_ptr(), "a copy of {key} in {place}");
                    assert_eq!(counts(), before, "{key} in {place} is shared");
                };
                db.get_with(key, in_place).unwrap().expect("it was put");
                // A handle is a share: what was counted does count.
                let another = db.get(key).unwrap();
                assert_eq!(counts().0, before.0 + 1, "{key} in {place}");
                drop(another);
            }
            db.flush().unwrap();
        }
        db.close().unwrap();
    }
}
