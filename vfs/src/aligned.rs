//! Bytes at an address that a direct write accepts.

use std::io;
use std::ops::{Deref, DerefMut};

use crate::BLOCK;

/// A growable buffer whose bytes begin at a multiple of [`BLOCK`] in memory, as files opened with
/// [`OpenMode::Direct`](crate::OpenMode::Direct) want them.
///
/// ```
/// let mut buffer = kvdb_vfs::AlignedBuffer::new();
/// buffer.extend_from_slice(b"abc");
/// buffer.pad_to_block();
/// assert_eq!((buffer.len(), buffer.as_ptr() as usize % kvdb_vfs::BLOCK), (4096, 0));
/// ```
#[derive(Default)]
pub struct AlignedBuffer {
    /// The bytes begin at `start`; what lies before it is there to move them to a good address.
    memory: Vec<u8>,
    start: usize,
}

impl AlignedBuffer {
    /// An empty buffer, which takes no memory yet.
    pub const fn new() -> Self {
        AlignedBuffer { memory: Vec::new(), start: 0 }
    }

    /// How many bytes fit before the buffer has to move.
    pub fn capacity(&self) -> usize {
        self.memory.capacity() - self.start
    }

    /// Makes room for `additional` more bytes; at once, if there is none. Amortised O(1) a byte.
    pub fn reserve(&mut self, additional: usize) {
        let wanted = self.len() + additional;
        if self.memory.capacity() != 0 && wanted <= self.capacity() {
            return;
        }
        let mut memory: Vec<u8> = Vec::with_capacity(wanted.max(2 * self.len()) + BLOCK);
        // Within a vector of bytes every address can be reached, so this is below `BLOCK`.
        let start = memory.as_ptr().align_offset(BLOCK).min(BLOCK);
        memory.resize(start, 0);
        memory.extend_from_slice(self);
        *self = AlignedBuffer { memory, start };
    }

    /// Adds bytes at the end.
    pub fn extend_from_slice(&mut self, bytes: &[u8]) {
        self.reserve(bytes.len());
        self.memory.extend_from_slice(bytes);
    }

    /// Adds zeros up to the next multiple of [`BLOCK`].
    pub fn pad_to_block(&mut self) {
        self.resize(self.len().next_multiple_of(BLOCK));
    }

    /// Cuts, or extends with zeros.
    pub fn resize(&mut self, len: usize) {
        self.reserve(len.saturating_sub(self.len()));
        self.memory.resize(self.start + len, 0);
    }

    /// Keeps the memory and forgets the bytes.
    pub fn clear(&mut self) {
        self.memory.truncate(self.start);
    }

    /// Keeps the bytes from `at` on, which become the first ones. O(bytes kept).
    pub fn keep_from(&mut self, at: usize) {
        let at = at.min(self.len());
        let kept = self.start + at..self.memory.len();
        let len = kept.len();
        self.memory.copy_within(kept, self.start);
        self.memory.truncate(self.start + len);
    }
}

impl Deref for AlignedBuffer {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        &self.memory[self.start..]
    }
}

impl DerefMut for AlignedBuffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.memory[self.start..]
    }
}

impl std::fmt::Debug for AlignedBuffer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "AlignedBuffer({} bytes)", self.len())
    }
}

/// Whether a direct write takes these bytes there.
pub(crate) fn is_aligned(buf: &[u8], offset: u64) -> bool {
    let block = BLOCK as u64;
    offset.is_multiple_of(block)
        && buf.len().is_multiple_of(BLOCK)
        && (buf.as_ptr() as usize).is_multiple_of(BLOCK)
}

pub(crate) fn misaligned() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, "a direct write not in whole, aligned blocks")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bytes_stay_aligned_however_they_grow() {
        let mut buffer = AlignedBuffer::new();
        let mut expected = Vec::new();
        for n in 0..200u32 {
            let bytes = vec![n as u8; (n * 37 % 500) as usize];
            buffer.extend_from_slice(&bytes);
            expected.extend_from_slice(&bytes);
            assert_eq!(buffer.as_ptr() as usize % BLOCK, 0);
            assert_eq!(*buffer, *expected);
        }
        buffer.keep_from(1000);
        assert_eq!(*buffer, expected[1000..]);
        buffer.pad_to_block();
        assert!(
            buffer.len().is_multiple_of(BLOCK)
                && buffer[expected.len() - 1000..] == vec![0; buffer.len() + 1000 - expected.len()]
        );
        buffer.keep_from(buffer.len() + 1);
        assert!(buffer.is_empty());
        buffer.clear();
        buffer.resize(3);
        assert_eq!((&buffer[..], buffer.as_ptr() as usize % BLOCK), (&[0, 0, 0][..], 0));
    }
}
