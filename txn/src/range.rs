//! Key ranges in one normal form.
//!
//! In the bytewise order of all keys, `k ++ [0]` is the immediate successor of `k`. So every
//! pair of bounds is a half-open range: a lower bound that excludes `k` starts at the successor
//! of `k`, an upper bound that includes `k` ends before it. Only "no upper end" remains special.

use std::ops::Bound;

/// The keys `start..end`; no `end` means all keys from `start` on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct KeyRange {
    pub(crate) start: Vec<u8>,
    pub(crate) end: Option<Vec<u8>>,
}

fn successor(key: &[u8]) -> Vec<u8> {
    let mut next = Vec::with_capacity(key.len() + 1);
    next.extend_from_slice(key);
    next.push(0);
    next
}

impl KeyRange {
    /// `None` if no key lies between the bounds.
    pub(crate) fn new(lower: Bound<&[u8]>, upper: Bound<&[u8]>) -> Option<Self> {
        let start = match lower {
            Bound::Included(key) => key.to_vec(),
            Bound::Excluded(key) => successor(key),
            Bound::Unbounded => Vec::new(),
        };
        let end = match upper {
            Bound::Included(key) => Some(successor(key)),
            Bound::Excluded(key) => Some(key.to_vec()),
            Bound::Unbounded => None,
        };
        let range = KeyRange { start, end };
        (!range.ends_by(&range.start)).then_some(range)
    }

    /// Just this key.
    pub(crate) fn point(key: &[u8]) -> Self {
        KeyRange { start: key.to_vec(), end: Some(successor(key)) }
    }

    /// Whether every key of the range is below `key`.
    pub(crate) fn ends_by(&self, key: &[u8]) -> bool {
        ends_by(self.end.as_deref(), key)
    }

    pub(crate) fn contains(&self, key: &[u8]) -> bool {
        self.start.as_slice() <= key && !self.ends_by(key)
    }

    /// Bytes of key data held.
    pub(crate) fn len(&self) -> usize {
        self.start.len() + self.end.as_ref().map_or(0, Vec::len)
    }
}

/// Whether a range that ends before `end` holds nothing at or above `key`.
pub(crate) fn ends_by(end: Option<&[u8]>, key: &[u8]) -> bool {
    end.is_some_and(|end| end <= key)
}
