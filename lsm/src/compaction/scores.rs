//! How large each level should be, and how urgent it is to compact it.

use crate::options::Options;
use crate::version::Version;

/// Targets and scores of one version.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Scores {
    /// The level that level 0 is compacted into. Never below a level that has tables.
    pub(crate) base: usize,
    /// Bytes a level should have at most; 0 for level 0 and the levels above the base.
    pub(crate) targets: Vec<u64>,
    /// From 1 on a level is worth compacting.
    pub(crate) scores: Vec<f64>,
    /// The score divided by that of the level below: a level whose next one is overfull can wait,
    /// since what it hands down would have to be moved on at once.
    pub(crate) adjusted: Vec<f64>,
    /// Bytes above the targets.
    pub(crate) debt: u64,
}

impl Scores {
    /// Computes them. `busy(level)` says how many tables and bytes of a level are being compacted
    /// into the next one already.
    ///
    /// The targets are derived from the last level (dynamic level bytes, as in RocksDB): the one
    /// above should be smaller by the multiplier, and so on upwards; the first level whose target
    /// is at most `base_level_size` is the base. So the last level holds most of the data whatever
    /// its size, which bounds the space that overwritten entries take.
    pub(crate) fn new(
        version: &Version,
        options: &Options,
        busy: impl Fn(usize) -> (usize, u64),
    ) -> Scores {
        let levels = version.levels();
        let last = levels.len() - 1;
        let mut targets = vec![0; levels.len()];
        let largest = levels[1..].iter().map(|l| l.bytes()).max().unwrap_or(0);
        let mut target = largest.max(levels[last].bytes());
        let mut base = last;
        for depth in (1..=last).rev() {
            base = depth;
            targets[depth] = target.max(options.base_level_size);
            if target <= options.base_level_size {
                break;
            }
            target /= options.level_size_multiplier;
        }
        let first_used = (1..=last).find(|&d| !levels[d].is_empty());
        if let Some(first) = first_used.filter(|&first| first < base) {
            // Data must never arrive below older data: go on filling the level that has some, and
            // let its score drain it.
            targets[first..base].fill(options.base_level_size);
            base = first;
        }
        let mut scores = vec![0.0; levels.len()];
        let l0 = levels[0].tables().len().saturating_sub(busy(0).0);
        scores[0] = l0 as f64 / options.l0_compaction_trigger as f64;
        let mut debt = 0;
        for depth in base..=last {
            let bytes = levels[depth].bytes().saturating_sub(busy(depth).1);
            // Nothing lies below the last level; it cannot be too large.
            if depth < last {
                scores[depth] = bytes as f64 / targets[depth] as f64;
                debt += bytes.saturating_sub(targets[depth]);
            }
        }
        let adjusted = adjust(&scores, base);
        Scores { base, targets, scores, adjusted, debt }
    }

    /// Levels worth compacting, the most urgent first.
    pub(crate) fn candidates(&self) -> Vec<usize> {
        let mut levels: Vec<usize> =
            (0..self.scores.len()).filter(|&d| self.scores[d] >= 1.0).collect();
        levels.sort_by(|&a, &b| self.adjusted[b].total_cmp(&self.adjusted[a]));
        levels
    }
}

/// Badger's adjustment, which is CockroachDB's: divide by the score of the level below.
fn adjust(scores: &[f64], base: usize) -> Vec<f64> {
    const LEAST: f64 = 0.01;
    let mut adjusted = scores.to_vec();
    let mut above = 0;
    for (depth, score) in scores.iter().enumerate().skip(base) {
        if adjusted[above] >= 1.0 {
            adjusted[above] /= score.max(LEAST);
        }
        above = depth;
    }
    adjusted
}
