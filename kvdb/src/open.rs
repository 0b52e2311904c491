//! Opening a store: lock, manifest, log, tree, replay, oracle.
//!
//! Nothing is destroyed that cannot be read. Files are removed only after everything the manifest
//! names has been found with its size.
//!
//! After an unclean end, in this order:
//! 1. the log is replayed from the head, whole frames only, into memtables, and what the manifest
//!    does not name is removed;
//! 2. the frames that were not known durable are written again, same bytes, same place, and
//!    synced: after a failed sync the page cache can show data that the disk does not have;
//! 3. a fresh segment is made; the old active one is never appended to again;
//! 4. the memtables become level-0 tables, and **one** change set installs them, seals the old
//!    segments where they end, frees those behind the cut, names the fresh one and moves the head.
//!
//! A crash before step 4 is durable leaves the store as it was, so recovery starts over.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use kvdb_lsm::Tree;
use kvdb_manifest::Manifest;
use kvdb_manifest::store::{RangeDelete, StoreChange, StoreState};
use kvdb_txn::Oracle;
use kvdb_vfs::{Clock, Entry, EntryKind, Fs, LockGuard, LockMode, SyncSite};
use kvdb_vlog::{Log, Position, Recovery, ReplayEnd, Start};
use parking_lot::Mutex;

use crate::clock::EngineClock;
use crate::closing::Closing;
use crate::committer::Committer;
use crate::companion::{Namer, SegmentIds, ValueLog, named, seal_record, segment_name};
use crate::core::Core;
use crate::error::{Error, ErrorKind, Result};
use crate::gate::Work;
use crate::gc::{Collector, Worker};
use crate::housekeeper::Housekeeper;
use crate::limits::Limits;
use crate::options::Options;
use crate::pipeline::Route;
use crate::replay::replay;

/// After an unclean end, versions go on this far above the largest one seen: what was handed out
/// before a power cut and lost with it is never handed out again. In managed mode that is the
/// caller's affair.
const VERSION_GAP: u64 = 1 << 32;

pub(crate) fn open(
    options: Options,
    fs: Arc<dyn Fs>,
    clock: Arc<dyn Clock>,
    path: &Path,
) -> Result<Core> {
    let _span = tracing::info_span!("open", path = %path.display()).entered();
    let place = Place::claim(&options, &fs, path)?;
    let (manifest, manifest_was_cut) = open_manifest(&options, &fs, &place)?;
    let manifest = Arc::new(manifest);

    let limits = Limits::new(&options);
    let records = manifest.read(segment_records)?;
    let fresh = records.is_empty();
    if fresh && !options.read_only {
        for dir in place.dirs() {
            sync_names(&*fs, dir)?;
        }
    }
    let head = manifest
        .read(|s| s.replay_head())
        .map_or(Position::ZERO, |head| Position { segment: head.segment, offset: head.offset });
    let mut recovery = Recovery::open(
        fs.clone(),
        &place.log_dir,
        manifest.database(),
        records,
        head,
        options.log_options(),
        options.read_only,
    )
    .map_err(|error| place.explain(&*fs, &manifest, error))?;

    let clock = Arc::new(EngineClock::new(clock, manifest.read(StoreState::clock)));
    let companion = Arc::new(ValueLog::new(
        place.log_dir.clone(),
        clock.clone(),
        recovery.view(),
        manifest.read(StoreState::watermark),
        options.versions_to_keep == usize::MAX,
        options.merge_operator.clone(),
    ));
    let tree = Tree::open(
        fs.clone(),
        path,
        manifest.clone(),
        options.tree_options(),
        companion.clone(),
        options.read_only,
    )?;

    // The tree has looked at its own directory only.
    for entry in fs.list(&place.log_dir)? {
        if let Some(id) = kvdb_lsm::leading_file_id(&entry.name) {
            tree.file_ids().skip(id);
        }
    }
    let (end, drops) = replay(&tree, &mut recovery, options.value_threshold)?;
    let drops = crate::drop_range::unknown(drops, &manifest);
    let (seen, watermark) = manifest.read(|s| (s.largest_version(), s.watermark()));
    let seen = seen.max(end.largest_version);
    let chosen = options.read_only || options.managed;
    let resume_at =
        if end.clean || fresh || chosen { seen } else { seen.saturating_add(VERSION_GAP) };
    tracing::info!(
        path = %path.display(),
        clean = end.clean,
        frames = end.frames,
        records = end.records,
        cut_bytes = end.cut_bytes,
        version = resume_at,
        "opened"
    );
    let oracle = Arc::new(Oracle::new(options.oracle_options(), resume_at, watermark));

    let housekeeper = Arc::new(Housekeeper::default());
    let clean =
        || crate::orphans::clean(&*fs, &place.dir, &place.log_dir, &manifest, manifest_was_cut);
    let log = match options.read_only {
        true => {
            tree.hide(drops);
            None
        }
        false => {
            // Before recovery, which may need the room.
            clean()?;
            let ids = SegmentIds::new(manifest.read(StoreState::next_segment).max(1));
            let known = Known { end: &end, drops, resume_at, log_apart: Some(place.is_apart()) };
            let log = start_log(recovery, known, &tree, &manifest, ids, &housekeeper)?;
            companion.run(log.clone(), oracle.clone());
            // Recovery has freed the segments behind a cut.
            clean()?;
            Some(log)
        }
    };
    Ok(Core {
        path: path.to_owned(),
        fs,
        limits,
        clock,
        tree,
        oracle,
        log,
        manifest,
        recovered_end: end.end,
        housekeeper,
        sequences: Default::default(),
        commits: Arc::default(),
        committer: Committer::default(),
        collector: Collector::default(),
        gc: Worker::default(),
        work: Work::default(),
        closing: Closing::default(),
        locks: Mutex::new(place.locks),
        options,
    })
}

/// The directories of a store, locked.
struct Place {
    dir: PathBuf,
    log_dir: PathBuf,
    locks: Vec<LockGuard>,
}

impl Place {
    fn claim(options: &Options, fs: &Arc<dyn Fs>, path: &Path) -> Result<Place> {
        let create = options.create_if_missing && !options.read_only;
        let log_dir = options.value_dir.clone().unwrap_or_else(|| path.to_owned());
        let mut locks = Vec::new();
        for dir in [path, &log_dir] {
            match fs.metadata(dir) {
                Ok(found) if found.kind == EntryKind::Dir => {}
                Ok(_) => {
                    let reason = "a file is there, a directory is wanted".into();
                    return Err(Error::NotADatabase { path: dir.to_owned(), reason });
                }
                Err(e) if e.kind() == kvdb_vfs::ErrorKind::NotFound => {
                    if dir != path && has_log(fs, path)? {
                        return Err(wrong_value_dir(path, dir));
                    }
                    if !create {
                        return Err(Error::NotFound { path: dir.to_owned() });
                    }
                    fs.create_dir_all(dir)?;
                }
                Err(e) => return Err(e.into()),
            }
            if dir == path && !locks.is_empty() {
                break; // the log lives in the same directory
            }
            let mode = if options.read_only { LockMode::Shared } else { LockMode::Exclusive };
            let held = !locks.is_empty();
            match fs.lock(dir, mode) {
                Ok(lock) => locks.push(lock),
                Err(e) if e.kind() == kvdb_vfs::ErrorKind::Locked => {
                    // By us? Then the two are one directory.
                    locks.clear();
                    if held && fs.lock(dir, mode).is_ok() {
                        let reason = format!(
                            "{} is the store's own directory by another name",
                            dir.display()
                        );
                        return Err(Error::InvalidOption { name: "value_dir", reason });
                    }
                    return Err(Error::InUse { path: dir.to_owned() });
                }
                Err(e) => return Err(e.into()),
            }
        }
        Ok(Place { dir: path.to_owned(), log_dir, locks })
    }

    /// Whether the log lies in a directory of its own.
    fn is_apart(&self) -> bool {
        self.log_dir != self.dir
    }

    fn dirs(&self) -> Vec<&Path> {
        let mut dirs = vec![&*self.dir];
        if self.is_apart() {
            dirs.push(&self.log_dir);
        }
        dirs
    }

    /// What it means that the log does not open: a segment of another database in the value
    /// directory, or none of this one, is two halves that do not match; unless the log is known to have
    /// been here.
    fn explain(
        &self,
        fs: &dyn Fs,
        manifest: &Manifest<StoreState>,
        error: kvdb_vlog::Error,
    ) -> Error {
        let (apart, log_dir) = (self.is_apart(), self.log_dir.display());
        match error {
            kvdb_vlog::Error::WrongDatabase { .. } if apart => {
                wrong_value_dir(&self.dir, &self.log_dir)
            }
            kvdb_vlog::Error::Io(error) if error.kind() == kvdb_vfs::ErrorKind::NotFound => {
                let missing = error.path().display();
                if matches!(holds_log_of(fs, &self.log_dir, manifest.database()), Ok(false)) {
                    if apart || manifest.read(StoreState::log_apart) != Some(false) {
                        return wrong_value_dir(&self.dir, &self.log_dir);
                    }
                    return Error::Inconsistent(format!(
                        "all files of the value log are missing from {log_dir}, such as {missing}"
                    ));
                }
                Error::Inconsistent(format!(
                    "{missing} is missing, a file of the value log (value_dir: {log_dir})"
                ))
            }
            error => error.into(),
        }
    }
}

/// Whether a directory holds a file of the log of this database, or one that does not say whose it is.
fn holds_log_of(fs: &dyn Fs, dir: &Path, database: u128) -> Result<bool> {
    for entry in fs.list(dir)? {
        let path = dir.join(&entry.name);
        let of = match crate::orphans::database_of(&entry.name) {
            Some(of) if entry.kind == EntryKind::File => of(fs, &path),
            _ => continue,
        };
        if !matches!(of, Ok(Some(other)) if other != database) {
            return Ok(true);
        }
    }
    Ok(false)
}

fn wrong_value_dir(path: &Path, value_dir: &Path) -> Error {
    Error::WrongValueDir { path: path.to_owned(), value_dir: value_dir.to_owned() }
}

/// Whether the store in `dir` has a value log, so that a directory for it cannot be a new one.
fn has_log(fs: &Arc<dyn Fs>, dir: &Path) -> Result<bool> {
    if !kvdb_manifest::exists(&**fs, dir)? {
        return Ok(false);
    }
    let settings = kvdb_manifest::Options { read_only: true, ..Default::default() };
    let (manifest, _) = Manifest::<StoreState>::open(fs.clone(), dir, settings)?;
    Ok(manifest.read(|state| !state.segments().is_empty()))
}

/// Whether a file of this name is one of a value log.
fn is_of_a_log(name: &Path) -> bool {
    crate::orphans::database_of(name).is_some()
}

/// Makes the names on the way to a directory durable. For a store that holds nothing yet: whoever
/// created the directories, perhaps an opening that failed, may not have come to this.
fn sync_names(fs: &dyn Fs, dir: &Path) -> Result<()> {
    for name in dir.ancestors().filter(|d| !d.as_os_str().is_empty()) {
        let Some(parent) = name.parent() else { break };
        let parent = if parent.as_os_str().is_empty() { Path::new(".") } else { parent };
        match fs.sync_dir(parent, SyncSite::StoreDir) {
            // Not ours to look into, and so it was not made by us.
            Err(e) if e.kind() == kvdb_vfs::ErrorKind::PermissionDenied => break,
            synced => synced?,
        }
    }
    Ok(())
}

fn open_manifest(
    options: &Options,
    fs: &Arc<dyn Fs>,
    place: &Place,
) -> Result<(Manifest<StoreState>, bool)> {
    let path = &*place.dir;
    let settings = kvdb_manifest::Options { read_only: options.read_only, ..Default::default() };
    if kvdb_manifest::exists(&**fs, path)? {
        let (manifest, report) = Manifest::open(fs.clone(), path, settings)?;
        if let Some(cut) = &report.cut {
            tracing::warn!(path = %path.display(), ?cut, "cut a torn record from the manifest");
        }
        return Ok((manifest, report.cut.is_some()));
    }
    if options.read_only || !options.create_if_missing {
        return Err(Error::NotFound { path: path.to_owned() });
    }
    check_unclaimed(&**fs, place)?;
    let manifest = Manifest::create(fs.clone(), path, crate::random::id(), settings)?;
    Ok((manifest, false))
}

/// Names by which other databases know their directories. Of a pair either one alone says nothing.
const FOREIGN: [&[&str]; 14] = [
    &["CURRENT"],
    &["IDENTITY"],
    &["KEYREGISTRY"],
    &["DISCARD"],
    &["PG_VERSION"],
    &["data.mdb"],
    &["WiredTiger"],
    &["__db.001"],
    &["log.0000000001"],
    &[".fjall"],
    &["journals", "partitions"],
    &["version", "partitions"],
    &["version", "keyspaces"],
    &["conf", "db"],
];
/// And endings of names.
const FOREIGN_EXTENSION: &str = "redb";

/// A new store takes no directory that holds files of another one, or of a store that has lost its
/// manifest: they would pass for leftovers of the new one.
fn check_unclaimed(fs: &dyn Fs, place: &Place) -> Result<()> {
    for dir in place.dirs() {
        let refuse = |what: String| {
            Err(Error::NotADatabase {
                path: dir.to_owned(),
                reason: format!("it holds {what}; a new store here would lose it"),
            })
        };
        if dir != place.dir && kvdb_manifest::exists(fs, dir)? {
            return refuse("a store of its own".into());
        }
        // Many an application has a directory `conf` beside its `db`.
        let is_folder_conf =
            |entry: &Entry| entry.kind == EntryKind::Dir && entry.name == Path::new("conf");
        let entries = fs.list(dir)?.into_iter().filter(|entry| !is_folder_conf(entry));
        let names: Vec<PathBuf> = entries.map(|entry| entry.name).collect();
        for name in &names {
            if kvdb_lsm::parse_table_file_name(name).is_some() || is_of_a_log(name) {
                return refuse(format!("{} but no manifest", name.display()));
            }
        }
        let there = |name: &&str| names.iter().any(|there| there == Path::new(name));
        let known = FOREIGN.iter().find(|of_one| of_one.iter().all(there));
        let foreign = known.map(|names| names.join(" and ")).or_else(|| {
            let name =
                names.iter().find(|name| name.extension() == Some(FOREIGN_EXTENSION.as_ref()));
            name.map(|name| name.display().to_string())
        });
        if let Some(what) = foreign {
            let reason = format!("it holds {what}, of another program");
            return Err(Error::NotADatabase { path: dir.to_owned(), reason });
        }
    }
    Ok(())
}

/// The log's segments as the manifest knows them.
fn segment_records(state: &StoreState) -> Result<Vec<kvdb_vlog::SegmentRecord>> {
    state
        .segments()
        .values()
        .map(|s| {
            let relocated = match &s.relocated {
                None => None,
                Some(r) => {
                    let file = state.log_files().get(&r.table).ok_or_else(|| {
                        Error::Inconsistent(format!(
                            "segment {} was relocated by file {}, which the manifest does not name",
                            r.segment, r.table
                        ))
                    })?;
                    Some(kvdb_vlog::Relocated { table: r.table, table_nonce: file.nonce })
                }
            };
            Ok(kvdb_vlog::SegmentRecord {
                meta: kvdb_vlog::SegmentMeta {
                    segment: s.named.segment,
                    file: s.named.file,
                    nonce: s.named.nonce,
                    capacity: s.named.capacity,
                    method: s.named.method,
                },
                sealed: s.sealed.map(|s| kvdb_vlog::SealedSegment {
                    segment: s.segment,
                    length: s.length,
                    frames: s.frames as u32,
                    checksum: s.checksum,
                }),
                relocated,
            })
        })
        .collect()
}

/// What opening has found out by the end of replay.
struct Known<'a> {
    end: &'a ReplayEnd,
    drops: Vec<RangeDelete>,
    resume_at: u64,
    /// For the manifest: what it means if the log is not found there some day.
    log_apart: Option<bool>,
}

/// Ends recovery: after a clean end the log goes on where it stopped; otherwise everything
/// replayed goes to tables and the log goes on in a fresh segment.
fn start_log(
    mut recovery: Recovery,
    known: Known<'_>,
    tree: &Arc<Tree<ValueLog>>,
    manifest: &Manifest<StoreState>,
    segments: SegmentIds,
    housekeeper: &Arc<Housekeeper>,
) -> Result<Arc<Log<Route>>> {
    let Known { end, drops, resume_at, log_apart } = known;
    // A log without segments is a new one: it needs its first.
    let start = if end.clean && recovery.end_segment().is_some() {
        for drop in drops {
            crate::drop_range::install(tree, drop)?;
        }
        if manifest.read(StoreState::log_apart) != log_apart {
            match tree.install(StoreChange { log_apart, ..StoreChange::default() }) {
                // No reason not to open: the next opening may have room.
                Err(error) if Error::from(error.clone()).kind() == ErrorKind::NoSpace => {
                    tracing::warn!(%error, "the manifest could not be told where the log lies");
                }
                installed => installed?,
            }
        }
        Start::Clean
    } else {
        recovery.rewrite_tail()?;
        let fresh = recovery.create_segment(segment_name(tree.file_ids(), &segments))?;
        tree.companion().set_recovered(recovery.view());
        let head = Position { segment: fresh.segment, offset: kvdb_vlog::FIRST_FRAME };
        let change = StoreChange {
            segments_named: vec![named(&fresh)],
            segments_sealed: end.sealed.iter().map(seal_record).collect(),
            segments_freed: end.unreached.clone(),
            replay_head: Some(kvdb_manifest::store::LogPosition {
                segment: head.segment,
                offset: head.offset,
            }),
            largest_version: Some(resume_at),
            range_deletes_added: drops,
            log_apart,
            ..StoreChange::default()
        };
        if let Err(error) = tree.flush_recovered(change) {
            if !error.may_be_installed() {
                recovery.abandon_segment();
            }
            return Err(error.into());
        }
        tracing::info!(
            frames = end.frames,
            cut_bytes = end.cut_bytes,
            head = head.packed(),
            "recovered after an unclean end"
        );
        Start::At(fresh.segment)
    };
    let (tree, housekeeper) = (Arc::downgrade(tree), housekeeper.clone());
    let namer = Namer { tree, segments, housekeeper, in_doubt: AtomicBool::new(false) };
    Ok(Arc::new(recovery.into_log(Arc::new(namer), start)?))
}
