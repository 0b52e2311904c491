//! [`KeyBuffer`]: where a key is put together.

use std::ops::Deref;

/// The key that a walk stands on, written over the one before it.
///
/// Behind the key there is room, with anything in it: a short piece, and most are, is copied at a
/// fixed length, which takes two moves instead of a call, and nothing has to grow or be cut.
#[derive(Debug, Clone, Default)]
pub(crate) struct KeyBuffer {
    /// The key, and room.
    bytes: Vec<u8>,
    len: usize,
}

impl KeyBuffer {
    const SHORT: usize = 32;

    /// Keeps the first `at` bytes, of which there are as many, and appends `block[start..start + len]`,
    /// which is in bounds.
    #[inline(always)]
    pub(crate) fn put(&mut self, at: usize, block: &[u8], start: usize, len: usize) {
        let piece = block.get(start..).unwrap_or_default();
        let room = self.bytes.get_mut(at..).unwrap_or_default();
        match (piece.first_chunk::<{ Self::SHORT }>(), room.first_chunk_mut()) {
            (Some(piece), Some(room)) if len <= Self::SHORT => *room = *piece,
            _ => self.put_at_length(at, piece.get(..len).unwrap_or_default()),
        }
        self.len = at + len;
    }

    #[inline(never)]
    fn put_at_length(&mut self, at: usize, piece: &[u8]) {
        let end = at + piece.len();
        if self.bytes.len() < end + Self::SHORT {
            self.bytes.resize(end + Self::SHORT, 0);
        }
        self.bytes[at..end].copy_from_slice(piece);
    }
}

impl Deref for KeyBuffer {
    type Target = [u8];

    #[inline]
    fn deref(&self) -> &[u8] {
        self.bytes.get(..self.len).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_what_was_put_together() {
        let block: Vec<u8> = (0..200).collect();
        for lens in [[0, 0, 0], [1, 8, 3], [31, 32, 33], [32, 0, 32], [100, 5, 0], [0, 64, 90]] {
            let (mut buffer, mut key) = (KeyBuffer::default(), Vec::new());
            for _ in 0..2 {
                for (i, len) in lens.into_iter().enumerate() {
                    // Once from the very end, where less than a fixed length is left.
                    let start = if i == 1 { block.len() - len } else { i };
                    // Half of the key before it stays.
                    let at = key.len() / 2;
                    key.truncate(at);
                    key.extend_from_slice(&block[start..start + len]);
                    buffer.put(at, &block, start, len);
                    assert_eq!(*buffer, *key, "{lens:?}");
                }
            }
        }
    }
}
