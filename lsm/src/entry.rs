//! What the tree stores under a `(key, version)`: [`Entry`], and its encoding.
//!
//! ```text
//! byte 0        bits 0-3  kind: 1 value, 2 pointer, 3 tombstone, 4 merge operand,
//!                         5 merge operand in the log; 0 is never valid, the rest is reserved
//!                         (15 for records of a log that are no entries)
//!               bit 4     a user-meta byte follows
//!               bit 5     an expiry time follows
//!               bits 6-7  reserved, 0
//! [1 byte]      user meta, if bit 4
//! [1-10 bytes]  expiry in seconds since 1970, LEB128, shortest form, if bit 5
//! rest          payload
//! ```
//!
//! So an entry without expiry and user meta pays one byte. The encoding is canonical: an entry has
//! one encoding, and a byte string that is not the encoding of an entry is refused.

/// The longest head of an encoded entry (everything but the payload), in bytes.
pub const MAX_HEAD: usize = 12;

const KIND_MASK: u8 = 0x0F;
const HAS_META: u8 = 0x10;
const HAS_EXPIRY: u8 = 0x20;
const RESERVED: u8 = 0xC0;

/// What an entry says about its key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
#[non_exhaustive]
pub enum Kind {
    /// The payload is the value.
    Value = 1,
    /// The payload says where the value is; only the [`Companion`](crate::Companion) knows how.
    Pointer = 2,
    /// The key is deleted. The payload is empty by convention, and kept if it is not.
    Tombstone = 3,
    /// The payload is an operand to be folded onto what is older.
    Merge = 4,
    /// As [`Kind::Merge`], but the payload says where the operand is.
    MergePointer = 5,
}

impl Kind {
    fn from_bits(bits: u8) -> Option<Kind> {
        Some(match bits {
            1 => Kind::Value,
            2 => Kind::Pointer,
            3 => Kind::Tombstone,
            4 => Kind::Merge,
            5 => Kind::MergePointer,
            _ => return None,
        })
    }

    /// Whether the payload is a pointer into the companion's log.
    #[inline]
    pub const fn is_pointer(self) -> bool {
        matches!(self, Kind::Pointer | Kind::MergePointer)
    }

    /// Whether a reader has to go on to older versions to know the value.
    #[inline]
    pub const fn is_merge(self) -> bool {
        matches!(self, Kind::Merge | Kind::MergePointer)
    }
}

/// One version of one key, without the key and the version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry<'a> {
    /// What it is.
    pub kind: Kind,
    /// A byte of the user's.
    pub user_meta: u8,
    /// Seconds since 1970 from which on the entry counts as deleted; 0: never.
    pub expires_at: u64,
    /// Value, pointer or operand.
    pub payload: &'a [u8],
}

/// Bytes that are not an encoded entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DecodeError {
    /// The entry ends within its head.
    #[error("the entry is truncated")]
    Truncated,
    /// A kind or a flag that this build does not know.
    #[error("unknown entry kind or flag (first byte {0:#04x})")]
    Unknown(u8),
    /// A head that is not in its shortest form.
    #[error("the head of the entry is not canonical")]
    NotCanonical,
}

impl<'a> Entry<'a> {
    /// An entry without user meta and expiry.
    #[inline]
    pub const fn new(kind: Kind, payload: &'a [u8]) -> Self {
        Entry { kind, user_meta: 0, expires_at: 0, payload }
    }

    /// A value.
    #[inline]
    pub const fn value(payload: &'a [u8]) -> Self {
        Entry::new(Kind::Value, payload)
    }

    /// A pointer into the companion's log.
    #[inline]
    pub const fn pointer(payload: &'a [u8]) -> Self {
        Entry::new(Kind::Pointer, payload)
    }

    /// A tombstone.
    #[inline]
    pub const fn tombstone() -> Self {
        Entry::new(Kind::Tombstone, &[])
    }

    /// A merge operand.
    #[inline]
    pub const fn merge(payload: &'a [u8]) -> Self {
        Entry::new(Kind::Merge, payload)
    }

    /// The same with a user-meta byte.
    #[inline]
    #[must_use]
    pub const fn with_meta(mut self, user_meta: u8) -> Self {
        self.user_meta = user_meta;
        self
    }

    /// The same with an expiry time in seconds since 1970 (0: none).
    #[inline]
    #[must_use]
    pub const fn with_expiry(mut self, expires_at: u64) -> Self {
        self.expires_at = expires_at;
        self
    }

    /// Whether the entry has expired for a reader with this clock.
    #[inline]
    pub const fn is_expired(&self, clock: u64) -> bool {
        self.expires_at != 0 && self.expires_at <= clock
    }

    /// Whether a reader with this clock takes the key for absent on seeing this entry.
    #[inline]
    pub const fn is_absent(&self, clock: u64) -> bool {
        matches!(self.kind, Kind::Tombstone) || self.is_expired(clock)
    }

    /// Length of the head in bytes, at most [`MAX_HEAD`].
    #[inline]
    pub const fn head_len(&self) -> usize {
        1 + (self.user_meta != 0) as usize + varint_len(self.expires_at)
    }

    /// Length of the whole encoding in bytes.
    #[inline]
    pub const fn encoded_len(&self) -> usize {
        self.head_len() + self.payload.len()
    }

    /// Writes the head, returns its length. The encoding is the head followed by the payload.
    #[inline]
    pub fn encode_head(&self, out: &mut [u8; MAX_HEAD]) -> usize {
        let mut first = self.kind as u8;
        let mut at = 1;
        if self.user_meta != 0 {
            first |= HAS_META;
            out[at] = self.user_meta;
            at += 1;
        }
        if self.expires_at != 0 {
            first |= HAS_EXPIRY;
            let mut rest = self.expires_at;
            while rest >= 0x80 {
                out[at] = rest as u8 | 0x80;
                rest >>= 7;
                at += 1;
            }
            out[at] = rest as u8;
            at += 1;
        }
        out[0] = first;
        at
    }

    /// Fills `out`, which must be [`encoded_len`](Self::encoded_len) bytes long, with the encoding.
    ///
    /// # Panics
    /// If `out` has another length.
    #[inline]
    pub fn encode_into(&self, out: &mut [u8]) {
        let mut head = [0; MAX_HEAD];
        let n = self.encode_head(&mut head);
        out[..n].copy_from_slice(&head[..n]);
        out[n..].copy_from_slice(self.payload);
    }

    /// Appends the encoding to `out`.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let mut head = [0; MAX_HEAD];
        let n = self.encode_head(&mut head);
        out.extend_from_slice(&head[..n]);
        out.extend_from_slice(self.payload);
    }

    /// Reads an encoded entry.
    ///
    /// # Errors
    /// [`DecodeError`], if the bytes are not what [`encode`](Self::encode) writes.
    #[inline]
    pub fn decode(bytes: &'a [u8]) -> Result<Entry<'a>, DecodeError> {
        let (&first, mut rest) = bytes.split_first().ok_or(DecodeError::Truncated)?;
        let kind = match Kind::from_bits(first & KIND_MASK) {
            Some(kind) if first & RESERVED == 0 => kind,
            _ => return Err(DecodeError::Unknown(first)),
        };
        let mut user_meta = 0;
        if first & HAS_META != 0 {
            (user_meta, rest) = match rest.split_first() {
                None => return Err(DecodeError::Truncated),
                Some((0, _)) => return Err(DecodeError::NotCanonical),
                Some((&meta, rest)) => (meta, rest),
            };
        }
        let mut expires_at = 0;
        if first & HAS_EXPIRY != 0 {
            (expires_at, rest) = read_varint(rest)?;
            if expires_at == 0 {
                return Err(DecodeError::NotCanonical);
            }
        }
        Ok(Entry { kind, user_meta, expires_at, payload: rest })
    }
}

/// Length of the LEB128 form; 0 for 0, which is not written.
const fn varint_len(value: u64) -> usize {
    (64 - value.leading_zeros() as usize).div_ceil(7)
}

fn read_varint(bytes: &[u8]) -> Result<(u64, &[u8]), DecodeError> {
    let mut value = 0u64;
    for (i, &byte) in bytes.iter().enumerate().take(10) {
        let bits = u64::from(byte & 0x7F);
        if i == 9 && bits > 1 {
            return Err(DecodeError::NotCanonical);
        }
        value |= bits << (7 * i);
        if byte & 0x80 == 0 {
            if bits == 0 && i > 0 {
                return Err(DecodeError::NotCanonical);
            }
            return Ok((value, &bytes[i + 1..]));
        }
    }
    Err(if bytes.len() >= 10 { DecodeError::NotCanonical } else { DecodeError::Truncated })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_plain_entry_pays_one_byte() {
        assert_eq!(Entry::value(b"abc").encoded_len(), 4);
        assert_eq!(Entry::tombstone().encoded_len(), 1);
        let full = Entry::value(b"").with_meta(255).with_expiry(u64::MAX);
        assert_eq!(full.head_len(), MAX_HEAD);
    }

    #[test]
    fn zeros_are_not_an_entry() {
        assert_eq!(Entry::decode(&[0, 0, 0]), Err(DecodeError::Unknown(0)));
        assert_eq!(Entry::decode(&[]), Err(DecodeError::Truncated));
        assert_eq!(Entry::decode(&[0x41]), Err(DecodeError::Unknown(0x41)));
        assert_eq!(Entry::decode(&[0x11, 0]), Err(DecodeError::NotCanonical));
        assert_eq!(Entry::decode(&[0x21, 0x80, 0x00]), Err(DecodeError::NotCanonical));
        assert_eq!(Entry::decode(&[0x21, 0x80]), Err(DecodeError::Truncated));
        let mut overlong = vec![0x21];
        overlong.extend([0xFF; 9]);
        overlong.push(2);
        assert_eq!(Entry::decode(&overlong), Err(DecodeError::NotCanonical));
    }

    #[test]
    fn an_entry_expires_when_the_clock_reaches_its_second() {
        let e = Entry::value(b"").with_expiry(100);
        assert!(!e.is_expired(99) && e.is_expired(100));
        assert!(!Entry::value(b"").is_expired(u64::MAX));
    }

    proptest! {
        #[test]
        fn entries_round_trip(
            bits in 1u8..=5, meta: u8, expiry in prop_oneof![Just(0u64), any::<u64>(), 0u64..300],
            payload in proptest::collection::vec(any::<u8>(), 0..40),
        ) {
            let kind = Kind::from_bits(bits).unwrap();
            let entry = Entry { kind, user_meta: meta, expires_at: expiry, payload: &payload };
            let mut bytes = Vec::new();
            entry.encode(&mut bytes);
            prop_assert_eq!(bytes.len(), entry.encoded_len());
            prop_assert_eq!(Entry::decode(&bytes), Ok(entry));
            let mut placed = vec![0; entry.encoded_len()];
            entry.encode_into(&mut placed);
            prop_assert_eq!(placed, bytes);
        }

        #[test]
        fn what_decodes_is_canonical(bytes in proptest::collection::vec(any::<u8>(), 0..24)) {
            if let Ok(entry) = Entry::decode(&bytes) {
                let mut again = Vec::new();
                entry.encode(&mut again);
                prop_assert_eq!(again, bytes);
            }
        }
    }
}
