//! How tall the tower of an index record is: a function of the list's seed and the record.

/// Levels of the tallest tower. Each level holds half of the one below.
#[cfg(not(loom))]
pub(crate) const MAX_HEIGHT: usize = 12;
#[cfg(loom)]
pub(crate) const MAX_HEIGHT: usize = 2;

/// Levels of the `number`th record: 1 with probability 1/2, 2 with 1/4, and so on.
pub(crate) fn height(seed: u64, number: u32) -> usize {
    // SplitMix64, whose outputs pass for independent even for consecutive inputs.
    let mut z = seed ^ u64::from(number).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^= z >> 31;
    (1 + z.trailing_zeros() as usize).min(MAX_HEIGHT)
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn half_of_each_level_reaches_the_next() {
        let mut taller = [0u32; MAX_HEIGHT];
        for number in 0..1 << 16 {
            for reached in taller.iter_mut().take(height(9, number)) {
                *reached += 1;
            }
        }
        for (level, &got) in taller.iter().enumerate().take(8).skip(1) {
            let expected = f64::from(1u32 << (16 - level));
            let got = f64::from(got);
            assert!((got - expected).abs() < 6.0 * expected.sqrt(), "{level} {got}");
        }
    }

    #[test]
    fn the_seed_decides() {
        let shape = |seed| (0..64).map(|number| height(seed, number)).collect::<Vec<_>>();
        assert_eq!(shape(1), shape(1));
        assert_ne!(shape(1), shape(2));
    }
}
