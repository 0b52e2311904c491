//! [`Db::verify`]: every byte of every file, and that the parts agree.

use kvdb_lsm::entry::Entry;
use kvdb_sstable::Cursor as _;

use crate::core::Core;
use crate::db::Db;
use crate::error::{Error, Result};
use crate::item::decode_pointer;

/// What [`Db::verify`] has looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct VerifyReport {
    /// Tables, every byte of each.
    pub tables: u64,
    /// Bytes of these tables.
    pub table_bytes: u64,
    /// Entries in tables and memtables, all versions and tombstones counted.
    pub entries: u64,
    /// Values in the log that were read and checked.
    pub log_values: u64,
    /// Bytes of these values.
    pub log_value_bytes: u64,
    /// Change sets in the manifest.
    pub change_sets: u64,
}

impl Db {
    /// Reads and checks everything: the manifest against the state in memory; every byte of every
    /// table; the order of entries, of levels and of versions across levels; every value in the
    /// log that an entry points to; and the sums of pointers per segment that tables are recorded
    /// with, by a recount.
    ///
    /// Takes as long as reading the whole store. Commits and reads go on meanwhile.
    ///
    /// ```
    /// # fn main() -> kvdb::Result<()> {
    /// # let db = kvdb::Options::default().open_in(std::sync::Arc::new(kvdb::vfs::MemFs::new()), "/db")?;
    /// db.put("k", "v")?;
    /// let report = db.verify()?;
    /// assert_eq!((report.entries, report.tables), (1, 0));
    /// # db.close()
    /// # }
    /// ```
    ///
    /// # Errors
    /// The first damage found, with file and offset where there is one.
    pub fn verify(&self) -> Result<VerifyReport> {
        let core = self.core();
        core.check_open()?;
        core.verify()
    }
}

impl Core {
    fn verify(&self) -> Result<VerifyReport> {
        let mut report = VerifyReport {
            change_sets: self.manifest.verify()?.records,
            ..VerifyReport::default()
        };
        self.tree.verify()?;
        self.manifest.read(|state| {
            report.tables = state.tables().len() as u64;
            report.table_bytes = state.tables().values().map(|t| t.size).sum();
        });
        let superversion = self.superversion();
        let view = superversion.view();
        let mut cursor = superversion.cursor();
        let mut on = cursor.first()?;
        while on {
            let (key, version) = (cursor.key(), cursor.version());
            let entry = decode(key, cursor.value())?;
            if entry.kind.is_pointer() {
                let pointer = decode_pointer(entry.payload, key)?;
                let value = view.read(pointer, key, version)?;
                report.log_values += 1;
                report.log_value_bytes += value.len() as u64;
            }
            report.entries += 1;
            on = cursor.next()?;
        }
        Ok(report)
    }
}

fn decode<'a>(key: &[u8], bytes: &'a [u8]) -> Result<Entry<'a>> {
    Entry::decode(bytes)
        .map_err(|error| Error::DamagedEntry { key: key.to_vec(), what: error.to_string() })
}
