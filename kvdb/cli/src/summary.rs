//! What an import has done, in numbers and in words.

use std::fmt;
use std::time::Duration;

use crate::walk::Skipped;

/// Values and their bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    pub(crate) files: u64,
    pub(crate) bytes: u64,
}

impl Tally {
    pub(crate) fn add(&mut self, bytes: u64) {
        self.files += 1;
        self.bytes += bytes;
    }

    pub(crate) fn merge(&mut self, other: Self) {
        self.files += other.files;
        self.bytes += other.bytes;
    }
}

/// Where values went: short ones into the tree, the others into the log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Placed {
    pub(crate) tree: Tally,
    pub(crate) log: Tally,
}

impl Placed {
    pub(crate) fn add(&mut self, bytes: u64, threshold: u64) {
        if bytes < threshold {
            self.tree.add(bytes);
        } else {
            self.log.add(bytes);
        }
    }

    pub(crate) fn merge(&mut self, other: Self) {
        self.tree.merge(other.tree);
        self.log.merge(other.log);
    }

    pub(crate) fn total(&self) -> Tally {
        let mut total = self.tree;
        total.merge(self.log);
        total
    }
}

/// The last words of an import.
#[derive(Debug)]
pub(crate) struct Summary {
    pub(crate) placed: Placed,
    pub(crate) skipped: Skipped,
    pub(crate) failed: u64,
    pub(crate) elapsed: Duration,
    pub(crate) threshold: u64,
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let total = self.placed.total();
        let seconds = self.elapsed.as_secs_f64();
        write!(
            f,
            "imported  {}, {} in {seconds:.2} s",
            count(total.files, "file"),
            count(total.bytes, "byte")
        )?;
        if seconds > 0.0 {
            write!(f, " ({:.1} MiB/s)", total.bytes as f64 / (1 << 20) as f64 / seconds)?;
        }
        let Placed { tree, log } = self.placed;
        writeln!(f)?;
        writeln!(
            f,
            "tree      {}, {} (values below {})",
            count(tree.files, "file"),
            count(tree.bytes, "byte"),
            count(self.threshold, "byte")
        )?;
        writeln!(f, "log       {}, {}", count(log.files, "file"), count(log.bytes, "byte"))?;
        let Skipped { symlinks, excluded, special } = self.skipped;
        write!(
            f,
            "skipped   {}, {excluded} left out by name or as the database",
            count(symlinks, "symbolic link")
        )?;
        if special > 0 {
            write!(f, ", {}", count(special, "special file"))?;
        }
        writeln!(f)?;
        writeln!(f, "failed    {}", self.failed)
    }
}

/// `1 file`, `2 files`.
pub(crate) fn count(number: u64, what: &str) -> String {
    format!("{number} {what}{}", if number == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{Placed, Summary};
    use crate::walk::Skipped;

    #[test]
    fn a_value_at_the_threshold_belongs_to_the_log() {
        let mut placed = Placed::default();
        for bytes in [0, 9, 10, 11] {
            placed.add(bytes, 10);
        }
        assert_eq!((placed.tree.files, placed.tree.bytes), (2, 9));
        assert_eq!((placed.log.files, placed.log.bytes), (2, 21));
    }

    #[test]
    fn the_summary_says_what_went_where() {
        let mut placed = Placed::default();
        placed.add(1, 1024);
        placed.add(2 << 20, 1024);
        let skipped = Skipped { symlinks: 1, excluded: 2, special: 0 };
        let text = Summary {
            placed,
            skipped,
            failed: 3,
            elapsed: Duration::from_secs(2),
            threshold: 1024,
        }
        .to_string();
        let expected = "\
imported  2 files, 2097153 bytes in 2.00 s (1.0 MiB/s)
tree      1 file, 1 byte (values below 1024 bytes)
log       1 file, 2097152 bytes
skipped   1 symbolic link, 2 left out by name or as the database
failed    3
";
        assert_eq!(text, expected);
    }
}
