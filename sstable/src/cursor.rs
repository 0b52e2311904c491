//! [`Cursor`]: the one trait for everything that can be walked in key order.

use crate::Result;

/// A position in a sorted sequence of `(key, version) → value`, that can be moved both ways.
///
/// # Order
///
/// Keys ascend bytewise; of one key the versions descend, so that the newest comes first. "Less"
/// and "first" below mean this order, in which `(k, u64::MAX)` is at or before every entry of `k`
/// and `(k, 0)` at or behind every one.
///
/// # States
///
/// | state | `valid()` | `next()` | `prev()` |
/// |---|---|---|---|
/// | on an entry | true | the following entry, or *behind* | the preceding entry, or *before* |
/// | *before* the first entry | false | the first entry | `Ok(false)`, stays |
/// | *behind* the last entry | false | `Ok(false)`, stays | the last entry |
/// | *unpositioned* | false | error `Unpositioned` | error `Unpositioned` |
///
/// A new cursor is unpositioned. So is one whose last move failed: it can be positioned again by
/// `seek`, `seek_for_prev`, `first` or `last`, but it never goes on as if the damaged place were an
/// end. `first` and `seek` that find nothing leave the cursor behind the last entry, `last` and
/// `seek_for_prev` before the first one. In an empty sequence that is all there is.
///
/// Every move returns `Ok(true)` when the cursor stands on an entry afterwards and `Ok(false)` when
/// it ran past an end.
///
/// # Calling the accessors
///
/// `key`, `version` and `value` may be called only while `valid()`. Otherwise they return anything
/// (no undefined behaviour) or panic; which one, is up to the implementation.
pub trait Cursor {
    /// Moves to the first entry at or after `(key, version)`: the first one whose key is greater,
    /// or equal with a version ≤ `version`. `seek(k, u64::MAX)` is the first entry of `k` or
    /// whatever comes behind.
    fn seek(&mut self, key: &[u8], version: u64) -> Result<bool>;

    /// Moves to the last entry at or before `(key, version)`: the last one whose key is less, or
    /// equal with a version ≥ `version`. `seek_for_prev(k, 0)` is the last entry of `k` or whatever
    /// comes before; `seek_for_prev(k, u64::MAX)` is in effect the last entry of a lesser key.
    fn seek_for_prev(&mut self, key: &[u8], version: u64) -> Result<bool>;

    /// Moves to the first entry.
    fn first(&mut self) -> Result<bool>;

    /// Moves to the last entry.
    fn last(&mut self) -> Result<bool>;

    /// Moves one entry onwards.
    fn next(&mut self) -> Result<bool>;

    /// Moves one entry back.
    fn prev(&mut self) -> Result<bool>;

    /// Whether the cursor stands on an entry.
    fn valid(&self) -> bool;

    /// The user key of the entry it stands on.
    fn key(&self) -> &[u8];

    /// The version of the entry it stands on.
    fn version(&self) -> u64;

    /// The value of the entry it stands on.
    fn value(&self) -> &[u8];

    /// [`key_head`] of the key. Worth overriding where it is at hand.
    #[inline]
    fn head(&self) -> u64 {
        key_head(self.key())
    }
}

/// The first eight bytes of a key as a big-endian number, padded with zeros.
///
/// If two heads differ, the keys compare as the heads do; if they are equal, the keys have to be
/// looked at. Most comparisons end here, without touching the key.
#[inline]
pub fn key_head(key: &[u8]) -> u64 {
    if let Some(first) = key.first_chunk::<8>() {
        return u64::from_be_bytes(*first);
    }
    let mut head = [0; 8];
    head[..key.len()].copy_from_slice(key);
    u64::from_be_bytes(head)
}

/// Compares two internal keys: by key, then the higher version first.
#[inline]
pub fn compare(a: (&[u8], u64), b: (&[u8], u64)) -> std::cmp::Ordering {
    a.0.cmp(b.0).then_with(|| b.1.cmp(&a.1))
}

macro_rules! forward {
    ($($t:ty),*) => {$(
        impl<C: Cursor + ?Sized> Cursor for $t {
            #[inline]
            fn seek(&mut self, key: &[u8], version: u64) -> Result<bool> { (**self).seek(key, version) }
            #[inline]
            fn seek_for_prev(&mut self, key: &[u8], version: u64) -> Result<bool> { (**self).seek_for_prev(key, version) }
            #[inline]
            fn first(&mut self) -> Result<bool> { (**self).first() }
            #[inline]
            fn last(&mut self) -> Result<bool> { (**self).last() }
            #[inline]
            fn next(&mut self) -> Result<bool> { (**self).next() }
            #[inline]
            fn prev(&mut self) -> Result<bool> { (**self).prev() }
            #[inline]
            fn valid(&self) -> bool { (**self).valid() }
            #[inline]
            fn key(&self) -> &[u8] { (**self).key() }
            #[inline]
            fn version(&self) -> u64 { (**self).version() }
            #[inline]
            fn value(&self) -> &[u8] { (**self).value() }
            #[inline]
            fn head(&self) -> u64 { (**self).head() }
        }
    )*};
}
forward!(&mut C, Box<C>);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn differing_heads_order_as_the_keys_do() {
        let keys: [&[u8]; 9] =
            [b"", b"\0", b"\0\0", b"a", b"a\0b", b"ab", b"abcdefgh", b"abcdefgi", &[0xFF; 9]];
        for a in keys {
            for b in keys {
                let (x, y) = (key_head(a), key_head(b));
                assert!(x == y || x.cmp(&y) == a.cmp(b), "{a:?} {b:?}");
            }
        }
    }

    #[test]
    fn higher_versions_come_first() {
        use std::cmp::Ordering::*;
        assert_eq!(compare((b"a", 2), (b"a", 1)), Less);
        assert_eq!(compare((b"a", 1), (b"b", 9)), Less);
        assert_eq!(compare((b"b", 9), (b"a", 1)), Greater);
        assert_eq!(compare((b"a", 1), (b"a", 1)), Equal);
    }
}
