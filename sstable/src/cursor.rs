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

    /// Key, version and value of the entry it stands on. Worth overriding where each of them would have to
    /// find the entry anew, as in a cursor over cursors.
    #[inline]
    fn parts(&self) -> (&[u8], u64, &[u8]) {
        (self.key(), self.version(), self.value())
    }

    /// [`key_head`] of the key. Worth overriding where it is at hand.
    #[inline]
    fn head(&self) -> u64 {
        key_head(self.key())
    }
}

/// Where a cursor stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum State {
    /// New, or the last move failed.
    Unpositioned,
    /// Before the first entry.
    Before,
    /// On an entry.
    At,
    /// Behind the last entry.
    Behind,
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
    // The first four bytes and the last four, which may overlap: no loop, no call.
    if let (Some(first), Some(last)) = (key.first_chunk::<4>(), key.last_chunk::<4>()) {
        let (high, low) = (u32::from_be_bytes(*first), u32::from_be_bytes(*last));
        return u64::from(high) << 32 | u64::from(low) << (8 * (8 - key.len()));
    }
    short_head(key)
}

#[inline]
fn short_head(key: &[u8]) -> u64 {
    key.iter().take(8).enumerate().fold(0, |head, (i, &b)| head | u64::from(b) << (56 - 8 * i))
}

/// As `a.cmp(b)`, quicker where the first eight bytes decide.
#[inline]
pub(crate) fn compare_keys(a: &[u8], b: &[u8]) -> std::cmp::Ordering {
    let (x, y) = (key_head(a), key_head(b));
    if x != y {
        return x.cmp(&y);
    }
    match (a.get(8..), b.get(8..)) {
        (Some(a), Some(b)) => a.cmp(b),
        // Equal but for zeros at the end of the longer one.
        _ => a.len().cmp(&b.len()),
    }
}

/// Compares two internal keys: by key, then the higher version first.
#[inline]
pub fn compare(a: (&[u8], u64), b: (&[u8], u64)) -> std::cmp::Ordering {
    compare_keys(a.0, b.0).then_with(|| b.1.cmp(&a.1))
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
            fn parts(&self) -> (&[u8], u64, &[u8]) { (**self).parts() }
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
        let mut keys: Vec<Vec<u8>> = [b"abcdefgh".as_slice(), b"abcdefgi", b"a\0b", &[0xFF; 9]]
            .iter()
            .map(|key| key.to_vec())
            .collect();
        for len in 0..20 {
            keys.extend([vec![0; len], vec![b'a'; len], vec![0xFF; len]]);
            keys.extend((1..len).map(|i| [vec![b'a'; i], vec![i as u8; len - i]].concat()));
        }
        for a in &keys {
            let mut padded = a.clone();
            padded.resize(a.len().max(8), 0);
            assert_eq!(key_head(a), u64::from_be_bytes(padded[..8].try_into().unwrap()), "{a:?}");
            for b in &keys {
                let (x, y) = (key_head(a), key_head(b));
                assert!(x == y || x.cmp(&y) == a.cmp(b), "{a:?} {b:?}");
                assert_eq!(compare_keys(a, b), a.cmp(b), "{a:?} {b:?}");
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
