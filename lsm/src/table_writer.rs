//! Writing a table of the tree: the file, and the record that goes into the manifest.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use kvdb_manifest::store::{PointerSum, TableRecord};
use kvdb_sstable::{Builder, BuilderOptions, Codec, Identity};
use kvdb_vfs::{Advice, File, Fs, OpenMode, Salt, SyncSite};

use crate::companion::Companion;
use crate::entry::{Entry, Kind};
use crate::error::{Error, Result};
use crate::file_ids::{FileIds, table_path};
use crate::options::{Compression, Options};

/// Write-back is started every so many bytes, so that a commit's sync never finds all of a table
/// in its way.
const WRITE_BACK: u64 = 1 << 20;

/// Everything it takes to begin a table.
pub(crate) struct WriterContext<'a, C> {
    pub(crate) fs: &'a Arc<dyn Fs>,
    pub(crate) dir: &'a Path,
    pub(crate) database: u128,
    pub(crate) ids: &'a FileIds,
    pub(crate) options: &'a Options,
    pub(crate) companion: &'a C,
}

/// A table being written. Dropped before it is finished and kept, it takes its file along.
pub(crate) struct TableWriter<'a, C> {
    companion: &'a C,
    builder: Option<Builder<FileWriter>>,
    output: Output,
    record: TableRecord,
    pointers: BTreeMap<u32, PointerSum>,
    last_key: Vec<u8>,
    entries: u64,
}

/// The file of a finished table, not yet part of the tree: removed on drop unless it was kept.
pub(crate) struct Output {
    fs: Arc<dyn Fs>,
    path: PathBuf,
    /// Until it is synced: a job may write thousands of tables before they are part of the tree.
    file: Option<Arc<dyn File>>,
    keep: bool,
}

impl Output {
    /// Makes the table's bytes durable (not its name) and closes the file.
    pub(crate) fn sync(&mut self) -> Result<()> {
        if let Some(file) = self.file.take() {
            file.sync_data(SyncSite::Table)?;
        }
        Ok(())
    }

    /// The manifest names it (or may do so): leave the file alone.
    pub(crate) fn keep(mut self) {
        self.keep = true;
    }
}

impl Drop for Output {
    fn drop(&mut self) {
        if self.keep {
            return;
        }
        if let Err(error) = self.fs.remove(&self.path) {
            tracing::warn!(path = %self.path.display(), %error, "cannot remove an unfinished table");
        }
    }
}

/// A finished table and its file.
pub(crate) struct Finished {
    pub(crate) record: TableRecord,
    /// Bytes of its index and filter.
    pub(crate) sections: u64,
    pub(crate) output: Output,
}

impl<'a, C: Companion> TableWriter<'a, C> {
    /// Creates the file.
    pub(crate) fn create(context: &WriterContext<'a, C>, level: usize) -> Result<Self> {
        let id = context.ids.next();
        let nonce = context.ids.nonce();
        let path = table_path(context.dir, id);
        let file = context.fs.open(&path, OpenMode::CreateNew)?;
        let output = Output { fs: context.fs.clone(), path, file: Some(file.clone()), keep: false };
        let o = context.options;
        let mut options = BuilderOptions::default();
        options.block_size = o.block_size;
        options.restart_interval = o.restart_interval;
        options.bits_per_key = f64::from(o.bits_per_key);
        options.codec = codec(o.compression)?;
        options.salt = Salt::derive(context.database, id, nonce);
        options.identity = Identity { database: context.database, table: id };
        let writer = FileWriter { file, at: 0, written_back: 0 };
        Ok(TableWriter {
            companion: context.companion,
            builder: Some(Builder::new(writer, options)?),
            output,
            record: TableRecord { id, level: level as u32, nonce, ..TableRecord::default() },
            pointers: BTreeMap::new(),
            last_key: Vec::new(),
            entries: 0,
        })
    }

    /// Adds an entry; `bytes` is its encoding.
    pub(crate) fn add(
        &mut self,
        key: &[u8],
        version: u64,
        entry: &Entry<'_>,
        bytes: &[u8],
    ) -> Result<()> {
        let Some(builder) = &mut self.builder else { return Err(Error::Closed) };
        builder.add(key, version, bytes)?;
        let record = &mut self.record;
        if self.entries > 0 && self.last_key == key {
            record.stale += 1;
        } else {
            self.last_key.clear();
            self.last_key.extend_from_slice(key);
        }
        self.entries += 1;
        if entry.kind == Kind::Tombstone {
            record.tombstones += 1;
        }
        if entry.expires_at != 0 {
            record.expiring += 1;
            let earliest = record.earliest_expiry;
            record.earliest_expiry = match earliest {
                0 => entry.expires_at,
                _ => earliest.min(entry.expires_at),
            };
        }
        if entry.kind.is_pointer()
            && let Some((segment, bytes)) = self.companion.pointer(entry.payload)
        {
            let zero = PointerSum { segment, count: 0, bytes: 0 };
            let sum = self.pointers.entry(segment).or_insert(zero);
            sum.count += 1;
            sum.bytes += u64::from(bytes);
        }
        Ok(())
    }

    /// The key added last.
    pub(crate) fn last_key(&self) -> &[u8] {
        &self.last_key
    }

    /// How large the file would be if it were finished now.
    pub(crate) fn estimated_size(&self) -> u64 {
        self.builder.as_ref().map_or(0, Builder::estimated_size)
    }

    /// Writes what is left. The file is not synced yet.
    pub(crate) fn finish(mut self) -> Result<Finished> {
        let Some(builder) = self.builder.take() else { return Err(Error::Closed) };
        let (_, properties) = builder.finish()?;
        let mut record = self.record;
        let sections = properties.file_len.saturating_sub(properties.stored_bytes);
        record.size = properties.file_len;
        record.smallest_key = properties.smallest_key;
        record.largest_key = properties.largest_key;
        record.smallest_version = properties.smallest_version;
        record.largest_version = properties.largest_version;
        record.entries = properties.entries;
        record.raw_bytes = properties.key_bytes + properties.value_bytes;
        record.pointers = self.pointers.into_values().collect();
        Ok(Finished { record, sections, output: self.output })
    }
}

fn codec(compression: Compression) -> Result<Codec> {
    match compression {
        Compression::None => Ok(Codec::None),
        Compression::Lz4 => Ok(Codec::Lz4),
        #[cfg(feature = "zstd")]
        Compression::Zstd(level) => Ok(Codec::Zstd(level)),
        #[cfg(not(feature = "zstd"))]
        Compression::Zstd(_) => {
            Err(Error::option("compression", "zstd was not compiled in (feature `zstd`)"))
        }
    }
}

/// Checks that the codec is there.
pub(crate) fn check_compression(compression: Compression) -> Result<()> {
    codec(compression).map(drop)
}

/// Appends to a file, and has the system write back behind it.
#[derive(Debug)]
struct FileWriter {
    file: Arc<dyn File>,
    at: u64,
    written_back: u64,
}

impl Write for FileWriter {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.file.write_all_at(buf, self.at).map_err(io::Error::other)?;
        self.at += buf.len() as u64;
        if self.at - self.written_back >= WRITE_BACK {
            self.file.advise(self.written_back..self.at, Advice::WriteBack);
            self.written_back = self.at;
        }
        Ok(buf.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
