//! `kvdb`: a folder goes into a database, and out of it again, from the shell.
//!
//! Each command is a module; what they share is how a store is opened ([`store`]), how keys
//! are read from the command line and bytes are written to the terminal ([`bytes`]), and
//! how a failure ends the process ([`failure`]).
//!
//! Exit codes: 0 done, 1 not found or done in part, 2 usage or any other error. What a
//! program reads goes to stdout, everything else to stderr.

mod args;
mod bytes;
mod failure;
mod import;
mod info;
mod kv;
mod output;
mod scan;
mod sst;
mod store;
mod summary;
mod walk;

use std::process::ExitCode;

use args::{Cli, Command};
use clap::Parser;
use failure::Outcome;

fn main() -> ExitCode {
    let outcome = match Cli::parse().command {
        Command::Import(args) => import::run(&args),
        Command::Get(args) => kv::get(&args),
        Command::Put(args) => kv::put(&args),
        Command::Del(args) => kv::del(&args),
        Command::Scan(args) => scan::run(&args),
        Command::Info(args) => info::run(&args),
        Command::Sst(args) => sst::run(&args),
    };
    match outcome {
        Ok(Outcome::Done) => ExitCode::SUCCESS,
        Ok(Outcome::Partial) => ExitCode::from(1),
        Err(failure) => failure.report(),
    }
}
