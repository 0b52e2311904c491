//! Files to measure with, and the barest ways to make a write durable.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use kvdb_vfs::{Fs, OpenMode, OsFs, SyncSite, WriteMode};
use rustix::fs::OFlags;
use tempfile::TempDir;

/// The page, and the length of a write, of all that is durable here.
pub const PAGE: usize = 4096;

/// A directory that is removed at the end, on the disk that is to be measured: below
/// `KVDB_BENCH_DIR`, or else below the directory for temporary files.
#[derive(Debug)]
pub struct Place(TempDir);

impl Place {
    /// A new empty directory.
    ///
    /// # Panics
    /// If there cannot be one.
    #[must_use]
    #[allow(clippy::new_without_default, reason = "it does I/O")]
    pub fn new() -> Place {
        let base =
            std::env::var_os("KVDB_BENCH_DIR").map_or_else(std::env::temp_dir, PathBuf::from);
        Place(tempfile::tempdir_in(base).expect("a directory to measure in"))
    }

    /// A path in it.
    #[must_use]
    pub fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }
}

/// A way to make a write of a page durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Method {
    /// A buffered write, then `fdatasync`.
    Fdatasync,
    /// One buffered write that is durable when it returns (`RWF_DSYNC`).
    DurableWrite,
    /// One write past the page cache, into a file opened with `O_DIRECT | O_DSYNC`.
    Direct,
}

/// Durable page writes, one after the other, and nothing else.
#[derive(Debug)]
pub struct Raw {
    file: Writer,
    /// Holds one page at an address that is a multiple of a page.
    buffer: Vec<u8>,
    aligned: usize,
    at: u64,
    len: u64,
}

#[derive(Debug)]
enum Writer {
    Vfs(Arc<dyn kvdb_vfs::File>, Method),
    Direct(File),
}

impl Raw {
    /// A file of `pages` pages that were written before, so that a durable write touches no
    /// metadata. Behind the last one the writes begin again with the first.
    ///
    /// # Panics
    /// If the disk does not want to.
    #[must_use]
    pub fn new(path: &Path, pages: usize, method: Method) -> Raw {
        let mut file = File::create(path).expect("a file to write to");
        for _ in 0..pages {
            file.write_all(&[0; PAGE]).expect("room for a file");
        }
        file.sync_all().expect("a sync");
        let file = match method {
            Method::Direct => {
                let flags = (OFlags::DIRECT | OFlags::DSYNC).bits().cast_signed();
                let mut options = OpenOptions::new();
                Writer::Direct(
                    options.write(true).custom_flags(flags).open(path).expect("O_DIRECT"),
                )
            }
            method => {
                let file = OsFs::new().open(path, OpenMode::ReadWrite).expect("the same file");
                Writer::Vfs(file, method)
            }
        };
        let buffer = vec![1; 2 * PAGE];
        let aligned = buffer.as_ptr().align_offset(PAGE);
        Raw { file, buffer, aligned, at: 0, len: (pages * PAGE) as u64 }
    }

    /// Writes a page durably.
    ///
    /// # Panics
    /// If the disk does not want to.
    pub fn write(&mut self) {
        let page = &mut self.buffer[self.aligned..self.aligned + PAGE];
        page[0] = page[0].wrapping_add(1);
        match &self.file {
            Writer::Vfs(file, Method::DurableWrite) => file
                .write_all_at_with(page, self.at, WriteMode::Durable(SyncSite::Other(0)))
                .expect("a durable write"),
            Writer::Vfs(file, _) => {
                file.write_all_at(page, self.at).expect("a write");
                file.sync_data(SyncSite::Other(0)).expect("a sync");
            }
            Writer::Direct(file) => file.write_all_at(page, self.at).expect("a direct write"),
        }
        self.at = (self.at + PAGE as u64) % self.len;
    }
}
