//! What a file holds now, and what of it would survive a power loss.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;

use super::buffer::{Memory, PAGE, Page};
use super::image::{DirtyPage, ImagePolicy};

/// Bytes that reach the disk together.
pub(super) const SECTOR: usize = 512;

/// A page that was written since it was last made durable.
#[derive(Clone)]
struct Dirty {
    /// What the disk holds; `None` for zeros. Taken at the first write after a sync.
    shadow: Option<Box<Page>>,
    /// Write-back failed: the system believes the page clean, the disk never got it. Only writing
    /// to it once more makes it dirty again.
    lost: bool,
}

/// The contents of a file. All bytes of `memory` at and beyond `len` are zero.
pub(super) struct Content {
    memory: Memory,
    len: u64,
    durable_len: u64,
    dirty: BTreeMap<u64, Dirty>,
}

impl Content {
    pub(super) fn empty() -> Content {
        Content { memory: Memory::empty(), len: 0, durable_len: 0, dirty: BTreeMap::new() }
    }

    pub(super) fn len(&self) -> u64 {
        self.len
    }

    pub(super) fn memory(&self) -> &Memory {
        &self.memory
    }

    pub(super) fn read_at(&self, buf: &mut [u8], offset: u64) -> usize {
        let n = self.len.saturating_sub(offset).min(buf.len() as u64) as usize;
        if n > 0 {
            self.memory.read(offset as usize, &mut buf[..n]);
        }
        n
    }

    pub(super) fn write(&mut self, bytes: &[u8], offset: u64, limit: u64) -> io::Result<()> {
        if bytes.is_empty() {
            return Ok(());
        }
        let end = offset.checked_add(bytes.len() as u64).filter(|end| *end <= limit);
        let end = end.ok_or_else(too_large)?;
        if end > self.memory.capacity() as u64 {
            // Doubling, so that appending is linear in the end.
            let roomy = (self.memory.capacity() as u64 * 2).min(limit);
            self.grow(end, roomy)?;
        }
        for page in offset / PAGE as u64..=(end - 1) / PAGE as u64 {
            self.mark_dirty(page);
        }
        self.memory.write(offset as usize, bytes);
        self.len = self.len.max(end);
        Ok(())
    }

    pub(super) fn set_len(&mut self, len: u64, limit: u64) -> io::Result<()> {
        if len > self.len {
            if len > limit {
                return Err(too_large());
            }
            self.grow(len, len)?;
        } else if len < self.len {
            let mut page = len as usize / PAGE;
            while let Some(next) = self.memory.next_touched(page) {
                self.mark_dirty(next as u64);
                page = next + 1;
            }
            self.memory.clear(len as usize..self.len as usize);
        }
        self.len = len;
        Ok(())
    }

    /// Everything written so far survives.
    pub(super) fn sync(&mut self) {
        self.dirty.retain(|_, d| d.lost);
        self.durable_len = self.len;
    }

    /// These bytes survive, and the file is long enough to hold them; nothing else changes.
    pub(super) fn harden(&mut self, offset: u64, len: u64) {
        let end = (offset + len).min(self.len);
        if offset >= end {
            return;
        }
        for page in offset / PAGE as u64..=(end - 1) / PAGE as u64 {
            let start = page * PAGE as u64;
            let from = offset.max(start);
            let to = end.min(start + PAGE as u64);
            if (to - from) as usize == PAGE {
                self.dirty.remove(&page);
            } else if let Some(d) = self.dirty.get_mut(&page) {
                let shadow = d.shadow.get_or_insert_with(|| Box::new([0; PAGE]));
                let inside = (from - start) as usize..(to - start) as usize;
                self.memory.read(from as usize, &mut shadow[inside]);
            }
        }
        self.durable_len = self.durable_len.max(end);
    }

    /// A write-back failed: what is dirty now will never reach the disk, and nobody will be told
    /// again.
    pub(super) fn lose_unsynced(&mut self) {
        for d in self.dirty.values_mut() {
            d.lost = true;
        }
    }

    /// What a power loss would leave. `None` when there is no memory for it.
    pub(super) fn image(&self, path: &Path, policy: &mut dyn ImagePolicy) -> Option<Content> {
        let len = if self.durable_len == self.len {
            self.len
        } else {
            let (low, high) = (self.durable_len.min(self.len), self.durable_len.max(self.len));
            policy.length(path, self.durable_len, self.len).clamp(low, high)
        };
        let mut memory = self.memory.copy(0)?;
        let count = self.dirty.len();
        for (index, (&page, d)) in self.dirty.iter().enumerate() {
            // A truncation that did not reach the disk has not freed the pages behind it either.
            let untruncated = len > self.len && page * PAGE as u64 >= self.len;
            let kept = if d.lost || untruncated {
                0
            } else {
                policy.page(&DirtyPage { path, page, index, count })
            };
            revert_sectors(&mut memory, page as usize, d.shadow.as_deref(), !kept);
        }
        memory.clear(len as usize..memory.capacity());
        Some(Content { memory, len, durable_len: len, dirty: BTreeMap::new() })
    }

    /// The same contents with the same doubts about them.
    pub(super) fn duplicate(&self) -> Option<Content> {
        Some(Content {
            memory: self.memory.copy(0)?,
            len: self.len,
            durable_len: self.durable_len,
            dirty: self.dirty.clone(),
        })
    }

    /// Pages that a power loss might take back.
    pub(super) fn dirty_pages(&self) -> usize {
        self.dirty.len()
    }

    fn mark_dirty(&mut self, page: u64) {
        let memory = &self.memory;
        self.dirty
            .entry(page)
            .and_modify(|d| d.lost = false)
            .or_insert_with(|| Dirty { shadow: memory.page(page as usize), lost: false });
    }

    /// Makes room for at least `least` bytes and, if that can be had, for `roomy`.
    fn grow(&mut self, least: u64, roomy: u64) -> io::Result<()> {
        for capacity in [roomy.max(least), least] {
            let Ok(capacity) = usize::try_from(capacity) else { continue };
            if self.memory.grow(capacity).is_some() {
                return Ok(());
            }
        }
        Err(too_large())
    }
}

/// Puts the durable contents back into the sectors whose bit is set.
fn revert_sectors(memory: &mut Memory, page: usize, shadow: Option<&Page>, sectors: u8) {
    for sector in 0..PAGE / SECTOR {
        if sectors & (1 << sector) == 0 {
            continue;
        }
        let inside = sector * SECTOR..(sector + 1) * SECTOR;
        let at = page * PAGE + inside.start;
        match shadow {
            Some(shadow) => memory.write(at, &shadow[inside]),
            None => memory.clear(at..at + SECTOR),
        }
    }
}

fn too_large() -> io::Error {
    io::Error::new(io::ErrorKind::StorageFull, "beyond what one file in memory may hold")
}
