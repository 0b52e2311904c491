//! Running the program, as a shell would.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

/// A temporary place with a database in it.
pub(crate) struct Place {
    /// Removed with everything in it at the end.
    pub(crate) dir: tempfile::TempDir,
}

/// What came of a command.
#[derive(Debug)]
pub(crate) struct Ran {
    /// The exit code; `None` if it was killed.
    pub(crate) code: Option<i32>,
    /// Its stdout.
    pub(crate) out: Vec<u8>,
    /// Its stderr.
    pub(crate) err: String,
}

impl Place {
    /// A new place; the database is not there yet.
    pub(crate) fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap() }
    }

    /// The path of the database.
    pub(crate) fn db(&self) -> PathBuf {
        self.path("test.kvdb")
    }

    /// A path in this place.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// The command `kvdb NAME --db …`, not started yet.
    pub(crate) fn command(&self, name: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_kvdb"));
        command.arg(name).arg("--db").arg(self.db()).stdin(Stdio::null());
        command
    }

    /// Runs `kvdb NAME --db … ARGUMENTS` to its end.
    pub(crate) fn run<A: AsRef<OsStr>>(
        &self,
        name: &str,
        arguments: impl IntoIterator<Item = A>,
    ) -> Ran {
        self.command(name).args(arguments).output().unwrap().into()
    }

    /// Runs it, and it must end well. Gives its stdout.
    #[track_caller]
    pub(crate) fn ok<A: AsRef<OsStr>>(
        &self,
        name: &str,
        arguments: impl IntoIterator<Item = A>,
    ) -> Vec<u8> {
        let ran = self.run(name, arguments);
        assert!(ran.code == Some(0), "{name}: {ran:?}");
        ran.out
    }

    /// Writes a file in this place.
    pub(crate) fn write(&self, name: &str, contents: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, contents).unwrap();
        path
    }
}

impl From<Output> for Ran {
    fn from(output: Output) -> Self {
        let err = String::from_utf8_lossy(&output.stderr).into_owned();
        Self { code: output.status.code(), out: output.stdout, err }
    }
}

impl Ran {
    /// Stdout as text.
    pub(crate) fn text(&self) -> &str {
        std::str::from_utf8(&self.out).unwrap()
    }
}

/// Holds every file of a folder that was made from a recipe against the database: the keys
/// in order and, one by one, the values.
#[track_caller]
pub(crate) fn assert_imported(
    db: &Path,
    made: &std::collections::BTreeMap<String, crate::tree::Plan>,
) {
    let mut options = kvdb::Options::default();
    options.read_only = true;
    let db = options.open(db).unwrap();
    let mut entries = db.iter().unwrap();
    for (key, file) in made {
        let item = entries.next().unwrap().unwrap();
        assert_eq!(item.key(), key.as_bytes());
        assert!(item.value().unwrap()[..] == file.contents(), "{key} is not what the file holds");
    }
    assert!(entries.next().is_none());
}
