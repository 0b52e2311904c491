//! Writes the golden tables that are not there yet: `cargo run --all-features --example golden`.
//!
//! A golden file is never replaced. Its CRC-32 has to be entered in `tests/golden.rs`.

#[path = "../tests/golden/cases.rs"]
#[allow(unreachable_pub)]
mod cases;

use std::fs::OpenOptions;
use std::io::{ErrorKind, Write};
use std::path::Path;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    for case in cases::cases() {
        let path = dir.join(case.name).with_extension("sst");
        match OpenOptions::new().write(true).create_new(true).open(path) {
            Ok(mut file) => file.write_all(&cases::build(&case)?)?,
            Err(e) if e.kind() == ErrorKind::AlreadyExists => {}
            Err(e) => return Err(e.into()),
        }
    }
    Ok(())
}
