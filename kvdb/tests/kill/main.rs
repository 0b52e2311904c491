//! SEMANTICS 44, 49b, 49c: a process that is killed leaves every acknowledged commit whole,
//! no other in part, and nothing that was cut comes back.
//!
//! The test runs itself as a child (`a_writer_that_is_going_to_be_killed`), which opens the
//! store, writes from several threads and reports on its stdout, in one atomic write each,
//! what it is about to commit and what has been committed. At a random moment the parent
//! sends SIGKILL, opens the store, and holds what it finds against the reports. Then the
//! next child goes on with the same store, so that recoveries of recoveries are tested too;
//! some children are killed while they are still opening.
//!
//! What a commit does follows from its coordinates (see [`plan`]), so a report needs to name
//! those only, and the parent can compute what must be in the store to the last byte.
//!
//! `KVDB_TEST_SCALE=N` multiplies the number of kills, `KVDB_TEST_SEED` changes what is
//! written and the moments; the operating system's scheduling cannot be repeated.
#![cfg(unix)]
#![allow(clippy::unwrap_used, clippy::print_stdout, clippy::print_stderr)]

mod check;
mod plan;
mod report;
mod writer;

use std::env;
use std::io::{BufReader, Read};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::Duration;

use check::Expected;
use kvdb::{Durability, Options};
use report::Reports;

/// Kills in one run of the suite, for each durability.
const KILLS: usize = 100;
/// Kills one store has to endure before a fresh one takes its place.
const KILLS_PER_STORE: usize = 20;
/// How long a child may take to commit something before it counts as hung.
const PATIENCE: Duration = Duration::from_secs(60);

#[test]
fn a_killed_process_leaves_every_acknowledged_sync_commit_whole() {
    kill_and_check(Durability::Sync);
}

#[test]
fn a_killed_process_leaves_every_acknowledged_buffered_commit_whole() {
    kill_and_check(Durability::Buffered);
}

/// The child of the tests above. Run as one of the suite it has nothing to do.
#[test]
fn a_writer_that_is_going_to_be_killed() {
    if let Some(orders) = writer::Orders::from_env() {
        writer::run(&orders);
    }
}

/// Small everything, so that a life of some milliseconds sees rotations, flushes and
/// compactions.
fn options(durability: Durability) -> Options {
    let mut options = Options::default();
    options.durability = durability;
    options.memtable_size = 64 << 10;
    options.segment_size = 1 << 20;
    options.table_size = 64 << 10;
    options.level_base_size = 256 << 10;
    options
}

fn number_from_env(name: &str, default: u64) -> u64 {
    match env::var(name) {
        Ok(text) => text.parse().unwrap_or_else(|_| panic!("{name} is not a number: {text}")),
        Err(_) => default,
    }
}

fn kill_and_check(durability: Durability) {
    let kills = KILLS * number_from_env("KVDB_TEST_SCALE", 1) as usize;
    let seed = number_from_env("KVDB_TEST_SEED", 0x6b76_6462) ^ durability as u64;
    println!("{kills} kills, {durability:?}, KVDB_TEST_SEED={seed}");
    let mut rng = fastrand::Rng::with_seed(seed);
    let mut commits = 0;
    for first in (0..kills).step_by(KILLS_PER_STORE) {
        let dir = tempfile::tempdir().unwrap();
        let store = dir.path().join("store");
        let mut expected = Expected::new(rng.u64(..));
        for kill in first..kills.min(first + KILLS_PER_STORE) {
            let result = one_life(&store, durability, &mut expected, &mut rng);
            if let Err(what) = result {
                panic!("kill {kill}: {what}; the store is kept in {}", dir.keep().display());
            }
        }
        commits += expected.acknowledged();
    }
    println!("{commits} acknowledged commits");
    assert!(
        commits > kills as u64,
        "the children hardly wrote anything: {commits} commits in {kills} lives"
    );
}

/// One child from its start to its death, and the look at what it left.
fn one_life(
    store: &Path,
    durability: Durability,
    expected: &mut Expected,
    rng: &mut fastrand::Rng,
) -> Result<(), String> {
    let orders = expected.next_life(store, durability);
    let mut child = orders.start();
    let stdout = child.0.stdout.take().expect("the child's stdout is a pipe");
    let (tell, told) = mpsc::channel();
    let reader = thread::spawn(move || {
        Reports::read(BufReader::new(stdout), || tell.send(()).unwrap_or_default())
    });

    // Most are killed at work, some while they open what the last one left behind.
    if rng.u8(..5) == 0 {
        thread::sleep(Duration::from_micros(rng.u64(..15_000)));
    } else {
        match told.recv_timeout(PATIENCE) {
            Ok(()) => thread::sleep(Duration::from_micros(rng.u64(1_000..30_000))),
            Err(RecvTimeoutError::Timeout) => return Err(format!("no commit within {PATIENCE:?}")),
            // It has ended by itself; its exit code is looked at below.
            Err(RecvTimeoutError::Disconnected) => {}
        }
    }
    let mut died_by_itself = child.0.try_wait().map_err(|error| error.to_string())?;
    if died_by_itself.is_none() {
        child.0.kill().map_err(|error| error.to_string())?;
        let status = child.0.wait().map_err(|error| error.to_string())?;
        died_by_itself = status.code().is_some().then_some(status);
    }
    let reports = reader.join().expect("the reader of reports panicked")?;
    if let Some(status) = died_by_itself {
        let mut words = String::new();
        let _ = child.0.stderr.take().map(|mut stderr| stderr.read_to_string(&mut words));
        return Err(format!("the writer ended by itself with {status}: {words}"));
    }

    let db =
        options(durability).open(store).map_err(|error| format!("it does not open: {error}"))?;
    expected.check(&db, &reports)?;
    db.verify().map_err(|error| format!("verify: {error}"))?;
    db.close().map_err(|error| format!("close: {error}"))
}

/// A child that does not outlive the test, however that ends.
struct Guard(Child);

impl Drop for Guard {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl writer::Orders {
    fn start(&self) -> Guard {
        let mut command = Command::new(env::current_exe().unwrap());
        command
            .args([
                "--exact",
                "a_writer_that_is_going_to_be_killed",
                "--nocapture",
                "--test-threads=1",
            ])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        self.to_env(&mut command);
        Guard(command.spawn().unwrap())
    }
}
