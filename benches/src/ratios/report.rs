//! From measurements to lines.

use std::collections::BTreeMap;
use std::fmt;

use crate::targets::{Goal, Target};

/// What was measured: per row, per round, ours and the yardstick's.
#[derive(Debug, Default)]
pub struct Recorder {
    rounds: BTreeMap<&'static str, Vec<(f64, f64)>>,
}

impl Recorder {
    /// Records one round of a row: ours and the yardstick's, in nanoseconds per operation (or
    /// whatever the row is in). The yardstick of a row without one is ignored.
    pub fn record(&mut self, name: &'static str, ours: f64, yardstick: f64) {
        self.rounds.entry(name).or_default().push((ours, yardstick));
    }

    /// The line of a row.
    #[must_use]
    pub fn outcome(&self, target: &Target) -> Outcome {
        let empty = Vec::new();
        let rounds = self.rounds.get(target.name).unwrap_or(&empty);
        let figure = |&(ours, yardstick): &(f64, f64)| match target.goal {
            _ if target.yardstick.is_empty() => ours,
            Goal::AtLeast(_) => yardstick / ours,
            _ => ours / yardstick,
        };
        let figures = sorted(rounds.iter().map(figure));
        let median = median(&figures);
        let reached = match target.goal {
            Goal::AtMost(limit) | Goal::AtMostNanos(limit) | Goal::AtMostOf(limit, _) => {
                median <= limit
            }
            Goal::AtLeast(limit) => median >= limit,
            Goal::Shown => !median.is_nan(),
        };
        Outcome {
            target: *target,
            ours: self::median(&sorted(rounds.iter().map(|round| round.0))),
            yardstick: self::median(&sorted(rounds.iter().map(|round| round.1))),
            figure: median,
            least: figures.first().copied().unwrap_or(f64::NAN),
            greatest: figures.last().copied().unwrap_or(f64::NAN),
            reached,
        }
    }
}

fn sorted(values: impl Iterator<Item = f64>) -> Vec<f64> {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values
}

/// Not a number if nothing was measured, which no goal is reached by.
fn median(sorted: &[f64]) -> f64 {
    match sorted.len() {
        0 => f64::NAN,
        n if n % 2 == 1 => sorted[n / 2],
        n => (sorted[n / 2 - 1] + sorted[n / 2]) / 2.0,
    }
}

/// One row with what came out.
#[derive(Debug, Clone, Copy)]
pub struct Outcome {
    /// The row.
    pub target: Target,
    /// The median of ours.
    pub ours: f64,
    /// The median of the yardstick's.
    pub yardstick: f64,
    /// The median of the figure that is held against the target.
    pub figure: f64,
    /// The least figure of a round.
    pub least: f64,
    /// The greatest figure of a round.
    pub greatest: f64,
    /// Whether the target is reached.
    pub reached: bool,
}

/// The heading over outcomes.
pub const HEADING: &str = "name                                   ours yardstick                         \
figure  (rounds)            target";

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Target { name, yardstick, goal, .. } = self.target;
        let other = match yardstick {
            "" => String::new(),
            _ => format!("{yardstick} {:.1}", self.yardstick),
        };
        let unit = if yardstick.is_empty() { ' ' } else { 'x' };
        let spread = format!("({:.2}..{:.2})", self.least, self.greatest);
        let target = match goal {
            Goal::AtMost(limit) => format!("<= {limit}x"),
            Goal::AtLeast(limit) => format!(">= {limit}x"),
            Goal::AtMostNanos(limit) => format!("<= {limit} ns"),
            Goal::AtMostOf(limit, unit) => format!("<= {limit} {unit}"),
            Goal::Shown => "shown".into(),
        };
        let verdict = if self.reached { "ok" } else { "short" };
        write!(
            f,
            "{name:<34} {:>8.1} {other:<28} {:>8.2}{unit} {spread:<18} {target:<10} {verdict}",
            self.ours, self.figure
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(yardstick: &'static str, goal: Goal) -> Target {
        Target { group: "g", name: "row", sizes: (1, 1, 1), yardstick, goal }
    }

    #[test]
    fn figures_are_medians_of_ratios_within_rounds() {
        let mut recorder = Recorder::default();
        for (ours, yardstick) in [(10.0, 10.0), (30.0, 10.0), (40.0, 20.0)] {
            recorder.record("row", ours, yardstick);
        }
        let outcome = recorder.outcome(&target("D", Goal::AtMost(2.0)));
        assert_eq!((outcome.figure, outcome.least, outcome.greatest), (2.0, 1.0, 3.0));
        assert!(outcome.reached);
        assert!(!recorder.outcome(&target("D", Goal::AtMost(1.9))).reached);
        assert!(recorder.outcome(&target("D", Goal::AtLeast(0.5))).reached);
        assert!(!recorder.outcome(&target("D", Goal::AtLeast(0.6))).reached);
        assert!(recorder.outcome(&target("", Goal::AtMostNanos(30.0))).reached);
        assert!(!recorder.outcome(&target("", Goal::AtMostNanos(29.0))).reached);
        assert!(recorder.outcome(&target("", Goal::AtMostOf(30.0, "%"))).reached);
        assert!(!recorder.outcome(&target("", Goal::AtMostOf(29.0, "%"))).reached);
    }

    #[test]
    fn a_row_that_was_not_measured_is_short() {
        for goal in [Goal::AtMost(1.0), Goal::AtLeast(1.0), Goal::AtMostNanos(1.0), Goal::Shown] {
            assert!(!Recorder::default().outcome(&target("D", goal)).reached);
        }
    }
}
