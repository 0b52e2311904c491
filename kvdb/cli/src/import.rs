//! `import`: every file below a folder becomes an entry.
//!
//! Files are committed in groups of up to [`GROUP_BYTES`] or [`GROUP_FILES`]: large enough
//! that the cost of a commit is spread, small enough that memory stays bounded by one group
//! and one file. A group is one batch and a file lies in one group, so that whatever
//! ends the import, the store holds whole files, and (the walk being in key order) exactly
//! the first ones.

use std::fs::{self, File};
use std::io::{self, IsTerminal, Read};
use std::path::{Path, PathBuf};
use std::time::Instant;

use indicatif::{ProgressBar, ProgressStyle};
use kvdb::{Batch, Db, Durability, Error};

use crate::args::{ImportArgs, Store};
use crate::failure::{Failure, Outcome, chain, complain};
use crate::output::Output;
use crate::store::{self, Access};
use crate::summary::{Placed, Summary, count};
use crate::walk::{Entry, Rules, Walk};

/// The most bytes of keys and values that are collected before they are committed. A file
/// of this size or more is committed by itself.
const GROUP_BYTES: u64 = 4 << 20;
/// The most files that are collected before they are committed.
const GROUP_FILES: u64 = 1024;

pub(crate) fn run(args: &ImportArgs) -> Result<Outcome, Failure> {
    let started = Instant::now();
    // Before the store is opened: a wrong folder must not leave an empty database behind.
    let folder = canonical(&args.dir)?;
    if !folder.is_dir() {
        return Err(Failure::usage(format!("{} is not a directory", args.dir.display()))
            .with_advice("`kvdb put --file` stores a single file"));
    }
    let within = |store: &Path| store.canonicalize().is_ok_and(|store| folder.starts_with(store));
    if within(&args.store.db) || args.store.value_dir.as_deref().is_some_and(within) {
        return Err(Failure::usage(format!(
            "{} lies within the database itself",
            args.dir.display()
        )));
    }
    let durability = if args.sync { Durability::Sync } else { Durability::Buffered };
    let db = store::open(&args.store, Access::Create, durability)?;
    let rules = rules(args)?;
    let bar = progress(&folder, &rules);
    let mut walk =
        Walk::new(&folder, rules).map_err(|error| Failure::io(args.dir.display(), &error))?;

    let mut import = Import::new(&args.store, &db, bar);
    for found in &mut walk {
        match found {
            Ok(entry) => import.add(&entry)?,
            Err(unreadable) => import.fail(&unreadable.path, &unreadable.error),
        }
    }
    import.commit()?;
    db.sync().map_err(|error| Failure::store(&args.store.db, "sync what was imported", &error))?;
    import.bar.finish_and_clear();
    let summary = Summary {
        placed: import.committed,
        skipped: walk.skipped(),
        failed: import.failed,
        elapsed: started.elapsed(),
        threshold: import.threshold,
    };
    drop(import);
    store::close(&args.store, db)?;

    let mut output = Output::new();
    output.raw(summary.to_string().as_bytes())?;
    output.finish()?;
    Ok(if summary.failed == 0 { Outcome::Done } else { Outcome::Partial })
}

fn canonical(path: &Path) -> Result<PathBuf, Failure> {
    path.canonicalize().map_err(|error| Failure::io(path.display(), &error))
}

/// What this import leaves out. The store has been opened, so its directories are there.
fn rules(args: &ImportArgs) -> Result<Rules, Failure> {
    let mut stores = vec![canonical(&args.store.db)?];
    if let Some(value_dir) = &args.store.value_dir {
        stores.push(canonical(value_dir)?);
    }
    let names = args.exclude.iter().cloned().collect();
    let directories = if args.all { &[][..] } else { &["target", ".git"] };
    Ok(Rules { names, directories: directories.iter().map(Into::into).collect(), stores })
}

/// A bar on a terminal, nothing elsewhere. To know where the end is costs a walk of its
/// own, which is not made where nobody would see it.
fn progress(folder: &Path, rules: &Rules) -> ProgressBar {
    if !io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let bytes = Walk::new(folder, rules.clone())
        .into_iter()
        .flatten()
        .filter_map(|found| fs::metadata(found.ok()?.path).ok())
        .map(|metadata| metadata.len())
        .sum();
    let template = "{bar:30} {bytes}/{total_bytes} {bytes_per_sec} {eta} {wide_msg}";
    let style =
        ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
    ProgressBar::new(bytes).with_style(style)
}

struct Import<'a> {
    store: &'a Store,
    db: &'a Db,
    bar: ProgressBar,
    threshold: u64,
    group: Option<Batch>,
    /// What the group holds; it counts when it is committed.
    pending: Placed,
    pending_bytes: u64,
    committed: Placed,
    failed: u64,
    contents: Vec<u8>,
}

impl<'a> Import<'a> {
    fn new(store: &'a Store, db: &'a Db, bar: ProgressBar) -> Self {
        Self {
            store,
            db,
            bar,
            threshold: db.options().value_threshold as u64,
            group: None,
            pending: Placed::default(),
            pending_bytes: 0,
            committed: Placed::default(),
            failed: 0,
            contents: Vec::new(),
        }
    }

    /// Takes one file. An `Err` is an error of the store and ends the import; what is wrong
    /// with the file alone is said and counted.
    fn add(&mut self, entry: &Entry) -> Result<(), Failure> {
        self.bar.set_message(entry.path.display().to_string());
        let limit = self.db.max_value_len(entry.key.len()) as u64;
        let (mut file, expected) = match open(&entry.path) {
            Ok(opened) => opened,
            Err(error) => {
                self.fail(&entry.path, &error);
                return Ok(());
            }
        };
        if expected > limit {
            self.fail(&entry.path, &too_large(expected, limit));
            return Ok(());
        }
        if self.pending_bytes + expected > GROUP_BYTES {
            self.commit()?;
        }
        // The file may be growing; one byte beyond the limit is enough to know that it
        // has become too large.
        self.contents.clear();
        if let Err(error) =
            file.by_ref().take(limit.saturating_add(1)).read_to_end(&mut self.contents)
        {
            self.fail(&entry.path, &error);
            return Ok(());
        }
        let size = self.contents.len() as u64;
        if size > limit {
            self.fail(&entry.path, &too_large(size, limit));
            return Ok(());
        }
        let mut result = self.put(&entry.key);
        if matches!(result, Err(Error::TransactionTooBig { .. })) && self.pending.total().files > 0
        {
            // It was too much for this group only.
            self.commit()?;
            result = self.put(&entry.key);
        }
        match result {
            Ok(()) => {
                self.pending.add(size, self.threshold);
                self.pending_bytes += size + entry.key.len() as u64;
            }
            Err(
                error @ (Error::KeyTooLong { .. }
                | Error::ValueTooLarge { .. }
                | Error::TransactionTooBig { .. }),
            ) => self.fail(&entry.path, &chain(&error)),
            Err(error) => return Err(self.fatal("store a file", &error)),
        }
        self.bar.inc(size);
        if self.pending_bytes >= GROUP_BYTES || self.pending.total().files >= GROUP_FILES {
            self.commit()?;
        }
        // The room for a large file is not kept for the small ones that follow.
        self.contents.shrink_to(GROUP_BYTES as usize);
        Ok(())
    }

    fn put(&mut self, key: &[u8]) -> kvdb::Result<()> {
        self.group.get_or_insert_with(|| self.db.batch()).put(key, &self.contents)
    }

    /// Commits what has been collected.
    fn commit(&mut self) -> Result<(), Failure> {
        let Some(group) = self.group.take() else { return Ok(()) };
        group.commit().map_err(|error| self.fatal("commit", &error))?;
        self.committed.merge(std::mem::take(&mut self.pending));
        self.pending_bytes = 0;
        Ok(())
    }

    /// Says that a file, or a folder, could not be imported.
    fn fail(&mut self, path: &Path, why: &impl std::fmt::Display) {
        self.failed += 1;
        self.bar.suspend(|| complain(format_args!("not imported: {}: {why}", path.display())));
    }

    fn fatal(&self, what: &str, error: &Error) -> Failure {
        self.bar.abandon();
        let files = count(self.committed.total().files, "file");
        self.bar.suspend(|| {
            complain(format_args!("{files} went in before this; the import can be started again"))
        });
        Failure::store(&self.store.db, what, error)
    }
}

/// The file and the size it says it has.
fn open(path: &Path) -> io::Result<(File, u64)> {
    let file = File::open(path)?;
    let size = file.metadata()?.len();
    Ok((file, size))
}

fn too_large(size: u64, limit: u64) -> String {
    format!(
        "too large: {size} bytes, and a value has at most {limit} (the limit follows from the segment size)"
    )
}
