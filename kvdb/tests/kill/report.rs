//! What a child says before it dies.

use std::io::{self, BufRead, Write};

use crate::plan::WRITERS;

/// Where the reports begin: the test harness of the child says things of its own first.
const READY: &str = "READY";

/// Announces that reports follow.
pub(crate) fn ready() {
    send(&format!("\n{READY}\n"));
}

/// The writer is about to make this commit.
pub(crate) fn intend(writer: u8, number: u32) {
    send(&format!("I {writer} {number}\n"));
}

/// The commit has returned.
pub(crate) fn acknowledge(writer: u8, number: u32, version: u64) {
    send(&format!("A {writer} {number} {version}\n"));
}

/// One line, in one `write` that a pipe takes whole or not at all (POSIX: up to `PIPE_BUF`,
/// at least 512 bytes), and not held back by any buffer. Whoever cannot report has lost its
/// parent and ends.
fn send(line: &str) {
    assert!(line.len() <= 512);
    let mut stdout = io::stdout().lock();
    if stdout.write_all(line.as_bytes()).and_then(|()| stdout.flush()).is_err() {
        std::process::exit(4);
    }
}

/// What one writer has said in its life.
#[derive(Clone, Debug, Default)]
pub(crate) struct Said {
    /// The commit it was about to make last.
    pub(crate) intended: Option<u32>,
    /// The commits that returned, in order, with their versions.
    pub(crate) acknowledged: Vec<(u32, u64)>,
}

/// What the writers of one life have said.
#[derive(Clone, Debug, Default)]
pub(crate) struct Reports {
    pub(crate) writers: [Said; WRITERS as usize],
}

impl Reports {
    /// Reads to the end, that is until the child is dead, and calls `on_first` at the first
    /// acknowledgement.
    pub(crate) fn read(mut from: impl BufRead, on_first: impl FnOnce()) -> Result<Self, String> {
        let mut reports = Self::default();
        let mut on_first = Some(on_first);
        let mut ready = false;
        let mut line = String::new();
        loop {
            line.clear();
            if from.read_line(&mut line).map_err(|error| format!("the pipe: {error}"))? == 0 {
                return Ok(reports);
            }
            if !ready {
                ready = line.trim_end() == READY;
                continue;
            }
            let words: Vec<&str> = line.strip_suffix('\n').unwrap_or("torn").split(' ').collect();
            reports.take(&words).ok_or_else(|| format!("not a report: {line:?}"))?;
            if words[0] == "A" {
                on_first.take().into_iter().for_each(|call| call());
            }
        }
    }

    fn take(&mut self, words: &[&str]) -> Option<()> {
        let writer = self.writers.get_mut(words.get(1)?.parse::<usize>().ok()?)?;
        let number = words.get(2)?.parse().ok()?;
        match words {
            ["I", _, _] => writer.intended = Some(number),
            ["A", _, _, version] if writer.intended == Some(number) => {
                writer.acknowledged.push((number, version.parse().ok()?));
            }
            _ => return None,
        }
        Some(())
    }
}
