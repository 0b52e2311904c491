//! The commit path: admit, order, log, apply, publish.
//!
//! 1. **Admit.** Everything that can refuse or wait happens before there is a timestamp: limits,
//!    room in the memtables ([`Tree::admit`]), room in the log ([`Log::reserve`]).
//! 2. **Order.** The oracle checks conflicts, hands out the commit timestamp and puts the frame
//!    into the log's queue under one lock: queue order is timestamp order is frame order.
//! 3. **Log.** Whoever finds the queue without a leader leads: one write, one sync if anyone asked.
//! 4. **Apply.** The leader binds each frame to a memtable in order and inserts its records.
//! 5. **Publish.** The oracle is told, in order, that these timestamps are readable.
//!
//! After step 1 there is success or poison, nothing else.

use kvdb_lsm::entry::{Entry, Kind};
use kvdb_lsm::{Reservation, Tree};
use kvdb_vlog::{FrameView, Log, Pointer, RecordView, Routed, Sink};
use zerocopy::IntoBytes;

use crate::commit::Request;
use crate::companion::ValueLog;
use crate::core::Core;
use crate::drop_range;
use crate::error::{Error, Result};
use crate::options::Durability;

/// What travels with a frame through the log: the memtable room it was promised.
#[derive(Debug)]
pub(crate) struct Route {
    /// Until the frame is applied.
    reservation: Option<Reservation>,
}

/// A commit whose room is secured.
pub(crate) struct Admitted<'l> {
    frame: kvdb_vlog::Frame,
    room: kvdb_vlog::Room<'l>,
    route: Route,
}

impl Core {
    /// Step 1. `memtable_bytes` is the sum of [`memtable_bound`] over the records. What only
    /// `deletes` may use the room that is kept for a full disk.
    pub(crate) fn admit(
        &self,
        frame: kvdb_vlog::Frame,
        memtable_bytes: usize,
        deletes: bool,
    ) -> Result<Admitted<'_>> {
        let log = self.log()?;
        // Memtable room first: it is the longer wait, and whoever holds log room holds up others.
        let reservation = self.tree.admit(memtable_bytes)?;
        let room = match deletes {
            true => log.reserve_kept(frame.len())?,
            false => log.reserve(frame.len())?,
        };
        Ok(Admitted { frame, room, route: Route { reservation: Some(reservation) } })
    }

    /// Step 1 for the writes of a transaction or batch.
    pub(crate) fn admit_request(&self, request: &Request<'_>) -> Result<Admitted<'_>> {
        let threshold = self.options.value_threshold;
        let writes = request.writes;
        let memtable_bytes = writes
            .iter()
            .map(|(key, pending)| memtable_bound(threshold, key.len(), &pending.entry()))
            .sum();
        self.admit(writes.to_frame()?, memtable_bytes, writes.only_deletes())
    }

    /// Step 2: `enqueue` is called with the version, under the oracle's lock. Not called if there
    /// is nothing to write.
    pub(crate) fn order<T>(
        &self,
        request: &Request<'_>,
        enqueue: impl FnOnce(u64) -> T,
    ) -> Result<Option<T>> {
        let keys = request.writes.keys();
        Ok(match (request.at, request.reads) {
            (Some(version), reads) => self.oracle.commit_at(version, reads, keys, enqueue)?,
            (None, Some((mark, reads))) => self.oracle.commit(mark, reads, keys, enqueue)?,
            (None, None) => self.oracle.commit_blind(keys, enqueue)?,
        })
    }

    /// Steps 3 to 5 for a frame that step 2 has given a version and put into the queue. Without a
    /// frame there is nothing to do: what was committed is what is there.
    pub(crate) fn finish(&self, queued: Option<(u64, kvdb_vlog::Ticket<Route>)>) -> Result<u64> {
        let Some((version, ticket)) = queued else { return Ok(self.oracle.read_version()) };
        self.log()?.drive(ticket, self)?;
        Ok(version)
    }
}

impl Admitted<'_> {
    /// Puts the frame into the log's queue. Called under the oracle's lock.
    pub(crate) fn enqueue(
        self,
        log: &Log<Route>,
        version: u64,
        durability: Durability,
    ) -> kvdb_vlog::Ticket<Route> {
        log.enqueue(self.frame, version, durability.into(), self.room, self.route)
    }
}

impl From<Durability> for kvdb_vlog::Durability {
    fn from(durability: Durability) -> Self {
        match durability {
            Durability::Sync => kvdb_vlog::Durability::Sync,
            Durability::Buffered => kvdb_vlog::Durability::Buffered,
        }
    }
}

/// Arena bytes that one record may take in a memtable.
pub(crate) fn memtable_bound(value_threshold: usize, key_len: usize, entry: &Entry<'_>) -> usize {
    match is_separated(value_threshold, entry) {
        true => {
            let pointer = Entry { kind: Kind::Pointer, payload: &[0; Pointer::LEN], ..*entry };
            Tree::<ValueLog>::entry_bound(key_len, &pointer)
        }
        false => Tree::<ValueLog>::entry_bound(key_len, entry),
    }
}

/// Whether the tree holds a pointer instead of the value.
fn is_separated(value_threshold: usize, entry: &Entry<'_>) -> bool {
    entry.kind == Kind::Value && entry.payload.len() >= value_threshold
}

/// The log hands frames to memtables and oracle.
impl Sink<Route> for Core {
    fn route(&self, frames: &mut [Routed<Route>]) {
        for frame in frames {
            let start = frame.position().packed();
            let end = start + u64::from(frame.frame_len());
            if let Some(reservation) = frame.context().and_then(|route| route.reservation.as_mut())
            {
                self.tree.route(reservation, start, end);
            }
        }
    }

    fn concurrent(&self) -> bool {
        true // each frame is bound to its memtable already, and inserts need no order
    }

    fn apply(&self, frame: FrameView<'_>, route: &mut Route) {
        // Taken, and so given back at the end: the frame is applied.
        if let Some(reservation) = route.reservation.take() {
            for record in frame.records() {
                #[cfg(test)]
                planted::panic_if_due();
                if let Some(drop) = drop_range::of_record(&record) {
                    let installed = drop.and_then(|drop| drop_range::install(&self.tree, drop));
                    if let Err(error) = installed {
                        // The log has it, the manifest may not: only recovery can tell.
                        panic!("a range was dropped in the log only: {error}");
                    }
                    continue;
                }
                if let Err(error) =
                    insert(&self.tree, &reservation, self.options.value_threshold, &record)
                {
                    // Cannot be: the room is reserved and the tag is our own. A panic here is
                    // what poisons the log before anything of this frame becomes visible.
                    panic!("a frame that was admitted does not fit: {error}");
                }
            }
        }
    }

    fn publish(&self, up_to: u64) {
        self.oracle.published(up_to);
    }

    fn fail(&self, version: u64, _route: Route, _cause: &kvdb_vlog::Error) {
        self.oracle.failed(version);
    }
}

/// Inserts a record of the log into the memtable its frame was bound to: small values as they
/// are, large ones as a pointer.
pub(crate) fn insert(
    tree: &Tree<ValueLog>,
    reservation: &Reservation,
    value_threshold: usize,
    record: &RecordView<'_>,
) -> Result<()> {
    let entry = entry_of(record)?;
    let entry = match is_separated(value_threshold, &entry) {
        true => Entry { kind: Kind::Pointer, payload: record.pointer.as_bytes(), ..entry },
        false => entry,
    };
    Ok(tree.insert(reservation, record.key, record.version, entry)?)
}

/// The entry that a record of the log holds: the tag is the entry's head.
pub(crate) fn entry_of<'a>(record: &RecordView<'a>) -> Result<Entry<'a>> {
    let head = Entry::decode(record.tag).map_err(|error| Error::DamagedEntry {
        key: record.key.to_vec(),
        what: error.to_string(),
    })?;
    Ok(Entry { payload: record.value, ..head })
}

/// A panic in the middle of applying a frame, for tests.
#[cfg(test)]
mod planted {
    use std::cell::Cell;

    thread_local! {
        /// After so many records that this thread applies.
        pub(super) static AFTER: Cell<Option<usize>> = const { Cell::new(None) };
    }

    pub(super) fn panic_if_due() {
        match AFTER.get() {
            Some(0) => {
                AFTER.set(None);
                panic!("planted");
            }
            left => AFTER.set(left.map(|n| n - 1)),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use kvdb_vfs::{Keep, MemFs};

    use super::*;
    use crate::{Db, ErrorKind, Health, Options};

    fn batch(db: &Db, name: &str) -> crate::Batch {
        let mut batch = db.batch();
        for i in 0..10 {
            batch.put(format!("{name}/{i}"), vec![b'v'; 300 * i]).unwrap();
        }
        batch
    }

    fn count(db: &Db, name: &str) -> usize {
        db.prefix(format!("{name}/")).unwrap().keys().collect::<Result<Vec<_>>>().unwrap().len()
    }

    /// What is in the log and was not applied whole is seen by nobody before the next opening, and then
    /// whole.
    fn check(db: &Db, fs: &MemFs, failed: &[&str]) {
        for name in failed {
            assert_eq!(count(db, name), 0, "{name} is seen in part");
            assert!(db.get(format!("{name}/0")).unwrap().is_none());
        }
        assert_eq!(count(db, "before"), 10, "reading goes on");
        assert!(matches!(db.health(), Health::Poisoned(why) if why.contains("planted")));
        let refused = db.put("later", "v").unwrap_err();
        assert!(matches!(&refused, Error::Poisoned(why) if why.contains("planted")), "{refused}");
        assert_eq!(refused.kind(), ErrorKind::Reopen);
        // The memtable holds part of a commit: it must not become a table.
        db.flush().unwrap_err();
        db.close().unwrap_err();
        for image in [fs.crash_image(&mut Keep::None), fs.process_image()] {
            let db = Options::default().open_in(Arc::new(image), "/db").unwrap();
            for name in failed {
                // The log had it before it was applied.
                assert_eq!(count(&db, name), 10, "{name} is there in part, or lost");
            }
            assert_eq!(count(&db, "before"), 10);
            assert!(db.get("later").unwrap().is_none(), "what was refused is there");
            db.verify().unwrap();
        }
    }

    fn open() -> (Db, Arc<MemFs>) {
        let fs = Arc::new(MemFs::new());
        let db = Options::default().value_threshold(1000).open_in(fs.clone(), "/db").unwrap();
        batch(&db, "before").commit().unwrap();
        (db, fs)
    }

    #[test]
    fn rule_12_a_panic_while_a_commit_is_applied_shows_it_to_nobody_and_loses_nothing() {
        for after in [0, 5, 9] {
            let (db, fs) = open();
            let version = db.version();
            planted::AFTER.set(Some(after));
            let error = batch(&db, "half").commit().unwrap_err();
            assert!(matches!(&error, Error::OutcomeUnknown(why) if why.contains("planted")));
            assert_eq!(error.kind(), ErrorKind::Reopen);
            assert_eq!(db.version(), version);
            check(&db, &fs, &["half"]);
        }
    }

    #[test]
    fn rule_12_a_panic_in_a_transaction_s_commit_is_the_same() {
        let (db, fs) = open();
        planted::AFTER.set(Some(3));
        let mut t = db.begin().unwrap();
        assert!(t.get("half/1").unwrap().is_none());
        for i in 0..10 {
            t.put(format!("half/{i}"), "v").unwrap();
        }
        assert!(matches!(t.commit(), Err(Error::OutcomeUnknown(_))));
        check(&db, &fs, &["half"]);
    }

    #[test]
    fn rule_17_a_panic_in_a_group_is_told_to_all_of_it_once_and_hangs_nobody() {
        let (db, fs) = open();
        let (sender, told) = std::sync::mpsc::channel();
        // The callbacks' thread commits, and meets the panic: whoever queues behind it learns of it.
        let of = db.clone();
        let to = sender.clone();
        batch(&db, "one")
            .commit_then(Durability::Sync, move |outcome| {
                outcome.unwrap();
                planted::AFTER.set(Some(4));
                to.send(batch(&of, "half").commit()).unwrap();
                batch(&of, "other").commit_then(Durability::Sync, |_| ()).unwrap_err();
            })
            .unwrap();
        let error = told.recv().unwrap().unwrap_err();
        assert!(matches!(error, Error::OutcomeUnknown(_)), "{error}");
        let late =
            batch(&db, "late").commit_then(Durability::Sync, move |o| sender.send(o).unwrap());
        assert!(matches!(late, Err(Error::Poisoned(_))), "{late:?}");
        assert!(told.recv().is_err(), "a callback of a commit that was refused was called");
        assert_eq!(count(&db, "one"), 10);
        check(&db, &fs, &["half"]);
    }
}
