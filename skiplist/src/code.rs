//! Key order, and offset-value codes that decide most comparisons without touching a key.
//!
//! An offset-value code (Conner, IBM 1977; Do and Graefe, 2022) describes a key *relative to a
//! smaller one*: where the two first differ, and what the larger one has there. Ours is 32 bits:
//!
//! ```text
//!   31        24 23                      0
//!  +------------+-------------------------+
//!  | 255 - at   | 3 bytes of the key at at|      at = length of the common prefix
//!  +------------+-------------------------+
//! ```
//!
//! with every key thought of as followed by zero bytes without end. Take `B < S` and `B < T`.
//! Comparing `code(S | B)` with `code(T | B)` as integers orders `S` and `T`, unless the codes are
//! equal, because
//!
//! - the one that leaves `B` *earlier* is the larger key (it exceeds `B` at a place where the
//!   other still equals `B`) and has the larger upper byte;
//! - if both leave `B` at the same place, the bytes found there decide.
//!
//! Equal codes mean a common prefix of `at + 3` bytes, and the keys themselves are compared from
//! there. `at >= 255`, and keys that differ by trailing zeros only, have the code 0: it is less
//! than all others and equal to itself, which sends exactly the undecided cases to the keys.

use std::cmp::Ordering;

/// Common prefixes of this length or more are not told apart by a code.
const FAR: usize = 255;

/// The common prefix of two keys that differ by trailing zero bytes at most.
pub(crate) const ENDLESS: usize = usize::MAX;

/// The code of `key` relative to a smaller key with which it shares `common` bytes.
#[inline]
pub(crate) fn code(key: &[u8], common: usize) -> u32 {
    if common >= FAR {
        return 0;
    }
    let upper = ((FAR - common) as u32) << 24;
    if let Some(&[a, b, c]) = key.get(common..).and_then(|rest| rest.first_chunk::<3>()) {
        return upper | u32::from(a) << 16 | u32::from(b) << 8 | u32::from(c);
    }
    let byte = |i: usize| u32::from(key.get(common + i).copied().unwrap_or(0));
    upper | byte(0) << 16 | byte(1) << 8 | byte(2)
}

/// Bytes that two keys with one code relative to one base agree in, where the first of them shares
/// `common` bytes with the base. What lies beyond the reach of a code it does not tell.
#[inline]
pub(crate) fn agreed(common: usize) -> usize {
    common.min(FAR)
}

/// Bytes that two different codes relative to one base have in common beyond the base's prefix:
/// 0, 1 or 2, and 0 whenever they leave the base at different places.
#[inline]
pub(crate) fn shared(a: u32, b: u32) -> usize {
    debug_assert_ne!(a, b);
    ((a ^ b).leading_zeros() as usize / 8).saturating_sub(1)
}

/// Orders `a` and `b`, which are known to agree in the first `from` bytes (zeros beyond their
/// ends included), and tells how long a prefix they share: [`ENDLESS`] if only trailing zeros
/// tell them apart or nothing does.
#[inline]
pub(crate) fn compare(a: &[u8], b: &[u8], from: usize) -> (Ordering, usize) {
    let least = a.len().min(b.len());
    let mut at = from.min(least);
    while let (Some(x), Some(y)) = (word(a, at), word(b, at)) {
        if x != y {
            return (x.cmp(&y), at + (x ^ y).leading_zeros() as usize / 8);
        }
        at += 8;
    }
    // What is left as one word, with some bytes before it that are known to be equal.
    let last = least.saturating_sub(8);
    if let (true, Some(x), Some(y)) = (at < least, word(a, last), word(b, last)) {
        if x != y {
            return (x.cmp(&y), last + (x ^ y).leading_zeros() as usize / 8);
        }
        at = least;
    }
    while at < least {
        if a[at] != b[at] {
            return (a[at].cmp(&b[at]), at);
        }
        at += 1;
    }
    let order = a.len().cmp(&b.len());
    let longer = if a.len() > b.len() { a } else { b };
    let zeros = longer[least..].iter().position(|&byte| byte != 0);
    (order, zeros.map_or(ENDLESS, |zeros| least + zeros))
}

#[inline]
fn word(bytes: &[u8], at: usize) -> Option<u64> {
    bytes.get(at..)?.first_chunk::<8>().map(|chunk| u64::from_be_bytes(*chunk))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Keys that share prefixes, end in zeros and differ in few bytes.
    fn key() -> impl Strategy<Value = Vec<u8>> {
        let tail = prop::collection::vec(prop::sample::select(vec![0u8, 0, 1, 2, 255]), 0..6);
        (prop::sample::select(vec![0usize, 0, 3, 8, 253, 254, 255, 300]), tail).prop_map(
            |(prefix, tail)| {
                let mut key = vec![7u8; prefix];
                key.extend(tail);
                key
            },
        )
    }

    fn common(a: &[u8], b: &[u8]) -> usize {
        let byte = |k: &[u8], i| k.get(i).copied().unwrap_or(0);
        (0..a.len().max(b.len())).find(|&i| byte(a, i) != byte(b, i)).unwrap_or(ENDLESS)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4096))]

        #[test]
        fn compare_is_bytewise_order_and_counts_the_common_prefix(a in key(), b in key()) {
            let (order, shared) = compare(&a, &b, 0);
            prop_assert_eq!(order, a.cmp(&b));
            prop_assert_eq!(shared, common(&a, &b));
            let from = shared.min(400) / 2;
            prop_assert_eq!(compare(&a, &b, from), (order, shared));
        }

        #[test]
        fn codes_relative_to_one_base_order_keys_or_tie(mut keys in prop::array::uniform3(key())) {
            keys.sort();
            let [base, s, t] = keys;
            let of_s = code(&s, common(&base, &s));
            let of_t = code(&t, common(&base, &t));
            prop_assert!(of_s <= of_t, "{of_s:x} {of_t:x}");
            if of_s != of_t {
                prop_assert!(s < t);
                // What a search relies on when it moves from `base` to `s`.
                if of_s >> 24 == of_t >> 24 {
                    prop_assert_eq!(common(&s, &t), common(&base, &t) + shared(of_s, of_t));
                } else {
                    prop_assert_eq!(shared(of_s, of_t), 0);
                    prop_assert_eq!(common(&s, &t), common(&base, &t));
                }
            } else {
                prop_assert!(common(&s, &t) >= agreed(common(&base, &t)));
                prop_assert!(of_s == 0 || common(&s, &t) >= common(&base, &t) + 3);
            }
        }
    }
}
