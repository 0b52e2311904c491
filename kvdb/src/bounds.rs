//! [`KeyRange`]: ranges of keys, as the language writes them.

use std::ops::{
    Bound, Range, RangeBounds, RangeFrom, RangeFull, RangeInclusive, RangeTo, RangeToInclusive,
};

/// Lower and upper bound, owned.
pub(crate) type Bounds = (Bound<Vec<u8>>, Bound<Vec<u8>>);

/// A range of keys: `..`, `a..b`, `a..=b`, `a..`, `..b`, `..=b`, or a pair of [`Bound`]s, of
/// anything that is bytes.
///
/// Unlike [`RangeBounds`] it leaves nothing to infer for `..`, and a range that starts above its
/// end is simply empty.
///
/// ```
/// # fn main() -> kvdb::Result<()> {
/// # let db = kvdb::Options::default().open_in(std::sync::Arc::new(kvdb::vfs::MemFs::new()), "/db")?;
/// for key in [b"a", b"b", b"c"] {
///     db.put(key, "")?;
/// }
/// use std::ops::Bound;
/// let from: Vec<u8> = b"b".to_vec();
/// assert_eq!(db.range(..)?.count(), 3);
/// assert_eq!(db.range(from..)?.count(), 2);
/// assert_eq!(db.range((Bound::Excluded("a"), Bound::Included("b")))?.count(), 1);
/// assert_eq!(db.range("c".."a")?.count(), 0);
/// # db.close()
/// # }
/// ```
pub trait KeyRange {
    /// The bounds as owned keys.
    fn into_bounds(self) -> (Bound<Vec<u8>>, Bound<Vec<u8>>);
}

impl KeyRange for RangeFull {
    fn into_bounds(self) -> Bounds {
        (Bound::Unbounded, Bound::Unbounded)
    }
}

macro_rules! key_range {
    ($($range:ty),* $(,)?) => {$(
        impl<K: AsRef<[u8]>> KeyRange for $range {
            fn into_bounds(self) -> Bounds {
                let own = |bound: Bound<&K>| bound.map(|key| key.as_ref().to_vec());
                (own(self.start_bound()), own(self.end_bound()))
            }
        }
    )*};
}

key_range!(
    Range<K>,
    RangeInclusive<K>,
    RangeFrom<K>,
    RangeTo<K>,
    RangeToInclusive<K>,
    (Bound<K>, Bound<K>),
);

/// Exactly the keys with a prefix: from the prefix itself up to, and without, the first key that
/// is greater than all of them. A prefix of nothing but 0xFF has no such key.
pub(crate) fn prefix_bounds(prefix: &[u8]) -> Bounds {
    let upper = match prefix.iter().rposition(|&byte| byte != 0xFF) {
        Some(last) => {
            let mut end = prefix[..=last].to_vec();
            end[last] += 1;
            Bound::Excluded(end)
        }
        None => Bound::Unbounded,
    };
    (Bound::Included(prefix.to_vec()), upper)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_prefix_is_the_first_key_above_all_of_its_keys() {
        let end = |prefix: &[u8]| prefix_bounds(prefix).1;
        assert_eq!(end(b"ab"), Bound::Excluded(b"ac".to_vec()));
        assert_eq!(end(b"a\xFF\xFF"), Bound::Excluded(b"b".to_vec()));
        assert_eq!(end(b"\xFF\xFF"), Bound::Unbounded);
        assert_eq!(end(b""), Bound::Unbounded);
    }
}
