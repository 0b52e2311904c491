//! The command line.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

const EXIT_CODES: &str =
    "Exit codes: 0 done; 1 not found, or done in part; 2 usage or any other error.";

/// An embedded, transactional, ordered key-value database, from the shell.
#[derive(Parser)]
#[command(name = "kvdb", version, after_help = EXIT_CODES, propagate_version = true)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Subcommand)]
pub(crate) enum Command {
    /// Put every file below a folder into the database
    Import(ImportArgs),
    /// Write one value to stdout, byte for byte
    Get(GetArgs),
    /// Store one value
    Put(PutArgs),
    /// Delete one key
    Del(DelArgs),
    /// List entries in key order
    Scan(ScanArgs),
    /// Show what the database consists of
    Info(InfoArgs),
    /// Show what a table file holds, without its database
    Sst(SstArgs),
}

/// Which database a command works on.
#[derive(Args)]
pub(crate) struct Store {
    /// The database: a directory
    #[arg(long, value_name = "PATH")]
    pub(crate) db: PathBuf,

    /// The directory of its value log, where it was created with one of its own
    #[arg(long, value_name = "PATH")]
    pub(crate) value_dir: Option<PathBuf>,
}

/// How keys on the command line are to be read. By default their bytes are the key.
#[derive(Args, Clone, Copy, Default)]
pub(crate) struct KeyForm {
    /// Keys on the command line are hexadecimal: 6b00ff
    #[arg(long, conflicts_with = "escaped")]
    pub(crate) hex: bool,

    /// Keys on the command line are written as scan prints them: k\x00\xff
    #[arg(long, short = 'e')]
    pub(crate) escaped: bool,
}

/// Put every file below a folder into the database.
///
/// The key of a file is its path below DIR with `/` between the parts; the value is its
/// contents. Directories named `target` or `.git` and the database itself are left out;
/// symbolic links are skipped and counted. A file that cannot be read, or that is larger
/// than a value may be, is named on stderr; the others go in, and the exit code is 1.
/// Importing again overwrites; a key whose file is gone stays.
///
/// Files are committed in groups, in key order, and synced to disk once, before the
/// summary is printed. An import that is killed leaves whole files only, and can be
/// started again.
#[derive(Args)]
#[command(after_help = EXIT_CODES)]
pub(crate) struct ImportArgs {
    #[command(flatten)]
    pub(crate) store: Store,

    /// The folder
    pub(crate) dir: PathBuf,

    /// Take the directories named `target` and `.git` as well
    #[arg(long)]
    pub(crate) all: bool,

    /// Leave out files and directories of this name, wherever they are (repeatable)
    #[arg(long, value_name = "NAME")]
    pub(crate) exclude: Vec<OsString>,

    /// Sync every group of files to disk when it is committed, not once at the end
    #[arg(long)]
    pub(crate) sync: bool,
}

/// Write one value to stdout, byte for byte.
#[derive(Args)]
#[command(after_help = EXIT_CODES)]
pub(crate) struct GetArgs {
    #[command(flatten)]
    pub(crate) store: Store,

    #[command(flatten)]
    pub(crate) form: KeyForm,

    /// The key
    pub(crate) key: OsString,
}

/// Store one value; it is on disk when the command returns.
///
/// The value is VALUE, or the contents of a file, or else what comes in on stdin. The
/// database is created if there is none.
#[derive(Args)]
#[command(after_help = EXIT_CODES)]
pub(crate) struct PutArgs {
    #[command(flatten)]
    pub(crate) store: Store,

    #[command(flatten)]
    pub(crate) form: KeyForm,

    /// The key
    pub(crate) key: OsString,

    /// The value, as it stands (put -- before one that begins with a dash)
    #[arg(conflicts_with = "file")]
    pub(crate) value: Option<OsString>,

    /// Take the value from this file
    #[arg(long, value_name = "FILE")]
    pub(crate) file: Option<PathBuf>,
}

/// Delete one key; the exit code is 1 if it is not there.
#[derive(Args)]
#[command(after_help = EXIT_CODES)]
pub(crate) struct DelArgs {
    #[command(flatten)]
    pub(crate) store: Store,

    #[command(flatten)]
    pub(crate) form: KeyForm,

    /// The key
    pub(crate) key: OsString,
}

/// List entries in key order.
///
/// One line for each entry: key, tab, value. Bytes other than printable ASCII, and the
/// backslash, are written as \t \n \r \\ or \xNN, so that a line is a line and the output
/// can be read back without doubt; `get --escaped` takes such a key. --raw writes the
/// bytes as they are; --null does so too, and ends every key and every value with a NUL.
#[derive(Args)]
#[command(after_help = EXIT_CODES)]
pub(crate) struct ScanArgs {
    #[command(flatten)]
    pub(crate) store: Store,

    #[command(flatten)]
    pub(crate) form: KeyForm,

    /// Only keys that begin with this
    #[arg(long, value_name = "KEY")]
    pub(crate) prefix: Option<OsString>,

    /// Only keys from this one on (inclusive)
    #[arg(long, value_name = "KEY")]
    pub(crate) from: Option<OsString>,

    /// Only keys before this one (exclusive)
    #[arg(long, value_name = "KEY")]
    pub(crate) to: Option<OsString>,

    /// Last key first
    #[arg(long)]
    pub(crate) reverse: bool,

    /// Keys without their values; the value log is not read
    #[arg(long)]
    pub(crate) keys_only: bool,

    /// Stop after this many entries
    #[arg(long, value_name = "N")]
    pub(crate) limit: Option<u64>,

    /// Do not escape anything
    #[arg(long, conflicts_with = "null")]
    pub(crate) raw: bool,

    /// Do not escape anything, and end keys and values with a NUL byte
    #[arg(long, short = '0')]
    pub(crate) null: bool,
}

/// Show what the database consists of: levels, segments, sizes.
#[derive(Args)]
#[command(after_help = EXIT_CODES)]
pub(crate) struct InfoArgs {
    #[command(flatten)]
    pub(crate) store: Store,

    /// Print everything the database knows about itself as one JSON object
    #[arg(long)]
    pub(crate) json: bool,
}

/// Show what a table file holds, without its database.
///
/// First what the table says about itself; with --blocks, then, its blocks, and with
/// --entries its entries, one to a line, with tabs between the columns. Bytes are escaped
/// as scan does it. Every byte that is shown has been checked; a damaged block is named
/// with its offset, and the exit code is 2. --blocks goes on behind it, --entries stops.
#[derive(Args)]
#[command(after_help = EXIT_CODES)]
pub(crate) struct SstArgs {
    /// The table: a file NNNNNN.sst of a database, or any other table
    #[arg(value_name = "FILE")]
    pub(crate) file: PathBuf,

    /// List the blocks: number, offset, stored and decoded length, entries, codec, first entry
    #[arg(long)]
    pub(crate) blocks: bool,

    /// List the entries: key, version, kind, user meta, expiry, value or pointer into the log
    #[arg(long)]
    pub(crate) entries: bool,

    /// Show values as they are stored, for tables that are not a database's
    #[arg(long, requires = "entries")]
    pub(crate) raw: bool,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::Cli;

    #[test]
    fn the_definition_of_the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }
}
