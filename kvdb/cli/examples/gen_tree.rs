//! Makes a folder of files of mixed sizes, to have something to import.
//!
//! ```text
//! cargo run --release -p kvdb-cli --example gen_tree -- DIR [FILES [MIB [SEED]]]
//! ```
//!
//! The defaults are 10,000 files, 200 MiB and seed 1; the same arguments give the same
//! folder. DIR must not be there yet.

#[path = "../tests/program/tree.rs"]
#[allow(dead_code, reason = "the tests use more of it")]
mod tree;

use std::env;
use std::error::Error;
use std::fs;
use std::io::{self, Write};

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = env::args_os().skip(1);
    let folder = arguments.next().ok_or("usage: gen_tree DIR [FILES [MIB [SEED]]]")?;
    let mut number = |default: u64| -> Result<u64, Box<dyn Error>> {
        let Some(argument) = arguments.next() else { return Ok(default) };
        let text = argument.to_str().ok_or("a number is expected")?;
        Ok(text.parse().map_err(|error| format!("{text}: {error}"))?)
    };
    let files = number(10_000)? as usize;
    let bytes = number(200)? << 20;
    let recipe = tree::Recipe { files, bytes, seed: number(1)? };
    fs::create_dir(&folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    let made = recipe.make(folder.as_ref())?;
    let bytes: u64 = made.values().map(|file| file.size).sum();
    writeln!(io::stdout(), "{} files, {bytes} bytes", made.len())?;
    Ok(())
}
