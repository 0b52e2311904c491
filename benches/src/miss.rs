//! The yardstick *D*: one dependent cache miss.

use std::hint::black_box;
use std::time::Instant;

use fastrand::Rng;

/// A random cycle through cache lines, walked one after the other: each load's address is what the
/// load before it returned, so nothing overlaps.
#[derive(Debug)]
pub struct Chase {
    /// The successor of each line, in the first word of the line.
    words: Vec<u64>,
    at: u64,
}

const WORDS_PER_LINE: usize = 8;

impl Chase {
    /// A cycle through all lines of `bytes` bytes, of ordinary memory with ordinary pages.
    #[must_use]
    pub fn new(bytes: usize, seed: u64) -> Chase {
        let lines = bytes / (8 * WORDS_PER_LINE);
        let mut order: Vec<usize> = (0..lines).collect();
        Rng::with_seed(seed).shuffle(&mut order);
        let mut words = vec![0; lines * WORDS_PER_LINE];
        for (i, &line) in order.iter().enumerate() {
            words[line * WORDS_PER_LINE] = order[(i + 1) % lines] as u64;
        }
        Chase { words, at: 0 }
    }

    /// The mean time of a step over the next `steps` steps, in nanoseconds.
    pub fn nanos(&mut self, steps: u32) -> f64 {
        let start = Instant::now();
        let mut at = self.at;
        for _ in 0..steps {
            at = self.words[at as usize * WORDS_PER_LINE];
        }
        self.at = black_box(at);
        start.elapsed().as_secs_f64() * 1e9 / f64::from(steps)
    }
}
