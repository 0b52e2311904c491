//! Leveled compaction: what to compact, what may be left out, and doing it.

pub(crate) mod dropping;
pub(crate) mod fold;
pub(crate) mod job;
pub(crate) mod merge;
pub(crate) mod pick;
pub(crate) mod run;
pub(crate) mod scores;
pub(crate) mod split;

#[cfg(test)]
mod tests;
