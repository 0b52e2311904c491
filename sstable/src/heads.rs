//! Searching sorted arrays of key heads.

use std::hint::select_unpredictable;

use zerocopy::little_endian::U64;

/// The number of leading elements that satisfy `before`. What a comparison decides is an address, not a
/// jump, so nothing is mispredicted. (Left to itself the compiler does make a jump of it: then, counted by
/// `callgrind --branch-sim`, three more are mispredicted in a get, which takes a tenth longer.) For arrays
/// that fit a few cache lines.
#[inline]
pub(crate) fn partition_point(heads: &[U64], before: impl Fn(u64) -> bool) -> usize {
    let (mut base, mut len) = (0, heads.len());
    while len > 1 {
        let half = len / 2;
        base += select_unpredictable(before(heads[base + half - 1].get()), half, 0);
        len -= half;
    }
    base + usize::from(len == 1 && before(heads[base].get()))
}

/// How many heads a node of [`Samples`] stands for: two cache lines, read together.
pub(crate) const FANOUT: usize = 16;

/// A small tree over a long array of heads: every sixteenth of them, every sixteenth of those, and so
/// on. A search reads two adjacent cache lines per level, and all levels but the array itself (a
/// fifteenth of its size) stay in the cache; bisection would read one cold line per step.
///
/// It lives in memory only and is made when the array is first used.
#[derive(Debug)]
pub(crate) struct Samples {
    /// From the top down. `levels[k][j]` is the last head of node `j` of the level below.
    levels: Vec<Box<[u64]>>,
}

impl Samples {
    pub(crate) fn new(heads: &[U64]) -> Self {
        let mut levels = Vec::new();
        let last = |node: &[U64]| node.last().map_or(0, |h| h.get());
        let mut level: Box<[u64]> = heads.chunks(FANOUT).map(last).collect();
        while level.len() > 1 {
            let above =
                level.chunks(FANOUT).map(|node| node.last().copied().unwrap_or(0)).collect();
            levels.push(std::mem::replace(&mut level, above));
        }
        levels.reverse();
        Samples { levels }
    }

    /// The number of heads less than `head`, if `heads` is the array this was made of, and ascends.
    ///
    /// `near` is told where in the array the answer will be, give or take sixteen, before the array
    /// itself is read.
    #[inline]
    pub(crate) fn lower_bound(&self, heads: &[U64], head: u64, near: impl FnOnce(usize)) -> usize {
        let mut node = 0;
        for level in &self.levels {
            let start = node * FANOUT;
            let Some(rest) = level.get(start..) else { return heads.len() };
            let within = rest.iter().take(FANOUT).map(|&h| usize::from(h < head)).sum::<usize>();
            node = start + within;
        }
        let start = (node * FANOUT).min(heads.len());
        near(start);
        start
            + heads[start..].iter().take(FANOUT).map(|h| usize::from(h.get() < head)).sum::<usize>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_searches_agree_with_the_plain_one() {
        let mut rng = fastrand::Rng::with_seed(1);
        for n in (0..40).chain([255, 256, 257, 272, 4095, 4096, 4097, 5000]) {
            let spread = [3, 100, u64::MAX][rng.usize(0..3)];
            let mut plain: Vec<u64> = (0..n).map(|_| rng.u64(0..spread)).collect();
            plain.sort_unstable();
            let heads: Vec<U64> = plain.iter().map(|&h| U64::new(h)).collect();
            let samples = Samples::new(&heads);
            let mut targets = vec![0, 1, u64::MAX];
            targets
                .extend(plain.iter().flat_map(|&h| [h.saturating_sub(1), h, h.saturating_add(1)]));
            for target in targets {
                let expected = plain.partition_point(|&h| h < target);
                assert_eq!(samples.lower_bound(&heads, target, |_| ()), expected, "{n} {target}");
                assert_eq!(partition_point(&heads, |h| h < target), expected);
            }
        }
    }

    #[test]
    fn heads_in_no_order_give_some_index_within_bounds() {
        let mut rng = fastrand::Rng::with_seed(2);
        for n in [1, 17, 300, 5000] {
            let heads: Vec<U64> = (0..n).map(|_| U64::new(rng.u64(..))).collect();
            let samples = Samples::new(&heads);
            for _ in 0..1000 {
                assert!(samples.lower_bound(&heads, rng.u64(..), |_| ()) <= n);
            }
        }
    }
}
