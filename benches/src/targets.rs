//! Every target there is, with its sizes and its yardstick, in one table.

/// What a figure is held against.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Goal {
    /// Ours divided by the yardstick must not exceed this (times; smaller is better).
    AtMost(f64),
    /// The yardstick divided by ours must reach this (times; larger is better).
    AtLeast(f64),
    /// Ours, by itself, must not exceed this. There is no yardstick.
    AtMostNanos(f64),
    /// For information: there is no target.
    Shown,
}

/// One row of the table.
#[derive(Debug, Clone, Copy)]
pub struct Target {
    /// The part; the name `ratios` is called with.
    pub group: &'static str,
    /// What is measured, within the group.
    pub name: &'static str,
    /// Number of entries, and the lengths of keys and values in bytes.
    pub sizes: (usize, usize, usize),
    /// What ours is divided by, or what is divided by ours.
    pub yardstick: &'static str,
    /// What the figure must reach.
    pub goal: Goal,
}

/// Entries, key length, value length of the skiplist's rows.
pub const SKIPLIST: (usize, usize, usize) = (1_000_000, 24, 16);

/// Bytes through which the yardstick *D* is chased.
pub const CHASE_BYTES: usize = 64 << 20;

const fn skiplist(name: &'static str, yardstick: &'static str, goal: Goal) -> Target {
    Target { group: "skiplist", name, sizes: SKIPLIST, yardstick, goal }
}

/// All rows.
pub const TARGETS: &[Target] = &[
    skiplist("random insert", "D", Goal::AtMost(4.0)),
    skiplist("get", "D", Goal::AtMost(3.0)),
    skiplist("next after random insertion", "D", Goal::AtMost(1.2)),
    skiplist("prev after random insertion", "next", Goal::AtMost(1.5)),
    skiplist("next after sorted insertion", "", Goal::AtMostNanos(8.0)),
    skiplist("sorted insert with a hint", "", Goal::AtMostNanos(100.0)),
    skiplist("two writers", "one writer", Goal::AtLeast(1.6)),
    skiplist("insert vs crossbeam", "crossbeam-skiplist", Goal::AtLeast(3.0)),
    skiplist("get vs crossbeam", "crossbeam-skiplist", Goal::AtLeast(3.0)),
    skiplist("iteration vs crossbeam", "crossbeam-skiplist", Goal::AtLeast(2.0)),
    skiplist("get of a missing key", "D", Goal::Shown),
    skiplist("insert, 16-digit decimal keys", "D", Goal::Shown),
    skiplist("get, 16-digit decimal keys", "D", Goal::Shown),
    skiplist("overhead, bytes per entry", "", Goal::Shown),
];
