//! How a command ends when it does not end well.

use std::error::Error as _;
use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;

use kvdb::{Error, ErrorKind};

/// What to do when there is no database.
pub(crate) const CREATED_BY: &str = "`kvdb import` and `kvdb put` create one";

/// What a command that ran to its end has to say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// Everything that was asked for was done.
    Done,
    /// Something was not there, or not all of it could be done; it has been named.
    Partial,
}

/// Why a command stopped, and what can be done about it.
#[derive(Debug)]
pub(crate) struct Failure {
    message: String,
    advice: Option<String>,
    quiet: bool,
}

impl Failure {
    /// A wrong use of the program.
    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Self { message: message.into(), advice: None, quiet: false }
    }

    pub(crate) fn with_advice(mut self, advice: impl Into<String>) -> Self {
        self.advice = Some(advice.into());
        self
    }

    /// An error of the store at `path`, met while doing `what`.
    pub(crate) fn store(path: &Path, what: &str, error: &Error) -> Self {
        let advice = match error.kind() {
            ErrorKind::InUse => Some("another process has it open; close that one, or wait for it"),
            ErrorKind::NotFound => Some(CREATED_BY),
            ErrorKind::NoSpace => {
                Some("what was committed is safe; free some space and run the command again")
            }
            ErrorKind::Corruption => {
                Some("files are damaged; copy the directory before you try anything with it")
            }
            ErrorKind::Reopen | ErrorKind::Retry => Some("run the command again"),
            _ => None,
        };
        let advice = advice.map(str::to_owned);
        Self {
            message: format!("{}: cannot {what}: {}", path.display(), chain(error)),
            advice,
            quiet: false,
        }
    }

    /// An error of reading or writing something that is not a store.
    pub(crate) fn io(what: impl std::fmt::Display, error: &io::Error) -> Self {
        Self::usage(format!("{what}: {error}"))
    }

    /// An error of writing to stdout. A reader that has seen enough is none.
    pub(crate) fn stdout(error: &io::Error) -> Self {
        Self { quiet: error.kind() == io::ErrorKind::BrokenPipe, ..Self::io("stdout", error) }
    }

    /// Says on stderr what happened and gives the exit code.
    pub(crate) fn report(&self) -> ExitCode {
        if self.quiet {
            return ExitCode::SUCCESS;
        }
        complain(&self.message);
        if let Some(advice) = &self.advice {
            complain(advice);
        }
        ExitCode::from(2)
    }
}

/// One line on stderr. That it cannot be written is nobody's business any more.
pub(crate) fn complain(message: impl std::fmt::Display) {
    let _ = writeln!(io::stderr(), "kvdb: {message}");
}

/// An error with its causes, each said once.
pub(crate) fn chain(error: &Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(next) = cause {
        let said = next.to_string();
        if !text.contains(&said) {
            text.push_str(": ");
            text.push_str(&said);
        }
        cause = next.source();
    }
    text
}
