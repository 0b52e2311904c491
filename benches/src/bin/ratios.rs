//! Measures a part of kvdb against its targets; see the library's documentation.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a program that prints a table")]

use std::process::ExitCode;

use kvdb_benches::ratios::{GROUPS, HEADING, measure};

fn main() -> ExitCode {
    let mut names = std::env::args().skip(1).peekable();
    if names.peek().is_none() {
        println!("usage: ratios NAME..., of:");
        for (name, _) in GROUPS {
            println!("  {name}");
        }
        return ExitCode::SUCCESS;
    }
    if cfg!(debug_assertions) {
        eprintln!("built without --release: the figures mean nothing");
    }
    let mut all_reached = true;
    for name in names {
        let Some(outcomes) = measure(&name) else {
            eprintln!("no part of the name {name:?}");
            return ExitCode::from(2);
        };
        println!("{name}\n{HEADING}");
        for outcome in outcomes {
            println!("{outcome}");
            all_reached &= outcome.reached;
        }
    }
    if all_reached { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
