//! How tall a tower is: a function of seed, key and version.
//!
//! Deriving the height instead of drawing it makes the shape of a list independent of the order
//! and the interleaving of inserts, and spares the writers a shared generator.

/// Levels of the tallest tower. Each level holds a quarter of the one below, so twelve serve
/// 4^12 = 16 million entries before the top one grows beyond a handful, and degrade gently.
#[cfg(not(loom))]
pub(crate) const MAX_HEIGHT: usize = 14;
#[cfg(loom)]
pub(crate) const MAX_HEIGHT: usize = 2;

/// The model checker wants few states and a say in them: odd keys are tall.
#[cfg(loom)]
pub(crate) fn height(_: u64, key: &[u8], _: u64) -> usize {
    1 + usize::from(key.last().is_some_and(|byte| byte % 2 == 1))
}

#[cfg(not(loom))]
const K0: u64 = 0x9e37_79b9_7f4a_7c15;
#[cfg(not(loom))]
const K1: u64 = 0xe703_7ed1_a0b4_28db;

#[cfg(not(loom))]
fn fold(a: u64, b: u64) -> u64 {
    let product = u128::from(a) * u128::from(b);
    (product as u64) ^ (product >> 64) as u64
}

#[cfg(not(loom))]
/// A keyed hash in the manner of wyhash: not cryptographic, but not predictable either without
/// the seed.
fn hash(seed: u64, key: &[u8], version: u64) -> u64 {
    let mut state = fold(seed ^ K0, version ^ K1);
    let (chunks, rest) = key.as_chunks::<8>();
    for chunk in chunks {
        state = fold(state ^ u64::from_le_bytes(*chunk), K1);
    }
    let mut last = [0; 8];
    last[..rest.len()].copy_from_slice(rest);
    fold(state ^ u64::from_le_bytes(last), K0 ^ key.len() as u64)
}

#[cfg(not(loom))]
/// Levels of the tower of `(key, version)`: 1 with probability 3/4, 2 with 3/16, and so on.
pub(crate) fn height(seed: u64, key: &[u8], version: u64) -> usize {
    let doubles = hash(seed, key, version).trailing_zeros() as usize / 2;
    (1 + doubles).min(MAX_HEIGHT)
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn a_quarter_of_each_level_reaches_the_next() {
        for (name, key) in [
            ("numbers", (|i| u64::to_be_bytes(i).to_vec()) as fn(u64) -> Vec<u8>),
            ("versions", |_| b"one key".to_vec()),
            ("long", |i| [vec![b'x'; 100], i.to_string().into_bytes()].concat()),
        ] {
            let mut taller = [0u32; MAX_HEIGHT];
            let n = 1 << 16;
            for i in 0..n {
                for reached in taller.iter_mut().take(height(9, &key(i), i)) {
                    *reached += 1;
                }
            }
            for level in 1..5 {
                let expected = f64::from(1u32 << 16) / 4f64.powi(level);
                let got = f64::from(taller[level as usize]);
                assert!((got - expected).abs() < 6.0 * expected.sqrt(), "{name} {level} {got}");
            }
        }
    }

    #[test]
    fn the_seed_decides() {
        let shape = |seed| (0..64u64).map(|v| height(seed, b"k", v)).collect::<Vec<_>>();
        assert_eq!(shape(1), shape(1));
        assert_ne!(shape(1), shape(2));
    }
}
