//! Taking time, and making sure that what was timed was done.

use std::time::Instant;

/// The mean time of one of `n` operations that `work` does, in nanoseconds.
pub fn nanos(n: usize, work: impl FnOnce()) -> f64 {
    let start = Instant::now();
    work();
    start.elapsed().as_secs_f64() * 1e9 / n as f64
}

/// Folds every byte into a number: whoever measures a read reads to the last byte. Costs about
/// what loading the bytes costs.
#[must_use]
#[inline]
pub fn fold(bytes: &[u8]) -> u64 {
    let (words, rest) = bytes.as_chunks::<8>();
    let sum = words.iter().fold(0u64, |sum, word| sum.wrapping_add(u64::from_le_bytes(*word)));
    rest.iter().fold(sum, |sum, &byte| sum.wrapping_add(u64::from(byte)))
}

#[cfg(test)]
mod tests {
    use super::fold;

    #[test]
    fn every_byte_counts() {
        let bytes = vec![1; 77];
        for i in 0..bytes.len() {
            let mut other = bytes.clone();
            other[i] = 2;
            assert_ne!(fold(&bytes), fold(&other), "{i}");
        }
    }
}
