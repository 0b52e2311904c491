//! Reproducible keys and orders.

use fastrand::Rng;

/// `n` keys of `len` random bytes.
#[must_use]
pub fn random_keys(n: usize, len: usize, seed: u64) -> Vec<Vec<u8>> {
    let mut rng = Rng::with_seed(seed);
    let key = |_| {
        let mut key = vec![0; len];
        rng.fill(&mut key);
        key
    };
    (0..n).map(key).collect()
}

/// Keys laid end to end: reading them in order costs no cache miss worth mentioning, so that a
/// measurement is of what is done with them.
#[derive(Debug, Clone)]
pub struct Flat {
    bytes: Vec<u8>,
    len: usize,
}

impl Flat {
    /// Lays keys of one length end to end.
    #[must_use]
    pub fn new(keys: &[Vec<u8>]) -> Flat {
        let len = keys.first().map_or(1, Vec::len);
        Flat { bytes: keys.concat(), len }
    }

    /// The same keys in another order.
    #[must_use]
    pub fn shuffled(&self, seed: u64) -> Flat {
        let mut keys: Vec<_> = self.iter().map(<[u8]>::to_vec).collect();
        Rng::with_seed(seed).shuffle(&mut keys);
        Flat::new(&keys)
    }

    /// The same keys in ascending order.
    #[must_use]
    pub fn sorted(&self) -> Flat {
        let mut keys: Vec<_> = self.iter().map(<[u8]>::to_vec).collect();
        keys.sort_unstable();
        Flat::new(&keys)
    }

    /// The keys.
    pub fn iter(&self) -> impl Iterator<Item = &[u8]> + Clone {
        self.bytes.chunks_exact(self.len)
    }

    /// The first and the second half of the keys.
    #[must_use]
    pub fn halves(&self) -> [Flat; 2] {
        let middle = self.bytes.len() / self.len / 2 * self.len;
        let (a, b) = self.bytes.split_at(middle);
        [a, b].map(|half| Flat { bytes: half.to_vec(), len: self.len })
    }
}
