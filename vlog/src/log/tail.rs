//! How far the log is written, and how far it is durable.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use kvdb_vfs::SyncSite;

use super::Shared;
use crate::segment::Segment;
use crate::{Error, Position, Result};

/// Both ends of what is not durable yet.
#[derive(Debug)]
pub(crate) struct Tail {
    /// Behind the last byte written.
    pub(crate) end: Position,
    /// Every byte before this, in every segment, is durable.
    pub(crate) durable: Position,
    /// The segment that `end` is in.
    pub(crate) active: Arc<Segment>,
    /// Earlier segments with bytes that are not durable. They stay open until they are.
    pub(crate) dirty: Vec<Arc<Segment>>,
    /// Bytes written since the last sync began.
    pub(crate) unsynced: u64,
    /// Bytes written since the log was opened.
    pub(crate) written: u64,
}

impl Tail {
    /// Accounts for `bytes` written behind the end.
    pub(crate) fn advance(&mut self, active: &Arc<Segment>, offset: u32, bytes: u64) {
        if active.id() != self.active.id() {
            if self.durable < self.end {
                self.dirty.push(self.active.clone());
            }
            self.active = active.clone();
        }
        self.end = Position::new(active.id(), offset);
        self.unsynced += bytes;
        self.written += bytes;
    }

    /// Whether a write that is durable by itself makes everything durable.
    pub(crate) fn is_clean(&self) -> bool {
        self.durable == self.end && self.dirty.is_empty()
    }
}

impl Shared {
    /// Makes everything before `want` durable; returns how far the log is durable then. One
    /// sync serves everyone who waits for bytes that were written before it began.
    pub(crate) fn sync_to(&self, want: Position, site: SyncSite) -> Result<Position> {
        let durable = self.tail.lock().durable;
        if durable >= want {
            return Ok(durable);
        }
        let _gate = self.sync_gate.lock();
        // A sync that failed is never tried again: what it was to write may be gone from the
        // cache, and the next one would succeed without it.
        self.check_poison()?;
        let (end, active, dirty, unsynced) = {
            let tail = self.tail.lock();
            if tail.durable >= want {
                return Ok(tail.durable);
            }
            (tail.end, tail.active.clone(), tail.dirty.clone(), tail.unsynced)
        };
        let synced = dirty
            .iter()
            .try_for_each(|s| s.sync(SyncSite::LogOlder))
            .and_then(|()| active.sync(site));
        if let Err(e) = synced {
            return Err(Error::Poisoned { cause: self.set_poison(e) });
        }
        let mut tail = self.tail.lock();
        self.set_durable(&mut tail, end);
        tail.dirty.retain(|s| !dirty.iter().any(|d| d.id() == s.id()));
        tail.unsynced -= unsynced.min(tail.unsynced);
        Ok(tail.durable)
    }

    /// Everything before `end` is durable.
    pub(crate) fn set_durable(&self, tail: &mut Tail, end: Position) {
        tail.durable = tail.durable.max(end);
        // Release: whoever reads it may rely on the sync.
        self.durable.store(tail.durable.packed(), Ordering::Release);
    }

    /// As `durable` in the tail, without its lock: every sync that has returned is in it.
    pub(crate) fn known_durable(&self) -> Position {
        Position::unpacked(self.durable.load(Ordering::Acquire))
    }

    pub(crate) fn check_poison(&self) -> Result<()> {
        match self.poison.get() {
            Some(cause) => Err(Error::Poisoned { cause: cause.clone() }),
            None => Ok(()),
        }
    }

    /// Poisons the log, if it is not poisoned yet, and ends all waiting. Returns the first
    /// cause. Must not be called with the admission lock held.
    pub(crate) fn set_poison(&self, error: Error) -> Arc<Error> {
        let cause = self.poison.get_or_init(|| {
            tracing::error!(%error, "the log is poisoned");
            match error {
                Error::Poisoned { cause } => cause,
                error => Arc::new(error),
            }
        });
        let a = self.admission.lock();
        self.room.notify_all();
        drop(a);
        cause.clone()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use kvdb_vfs::MemFs;

    use crate::{Directory, Durability, FrameBuilder, Options, Position};

    #[test]
    fn what_is_durable_stays_durable_when_an_earlier_sync_ends_later() {
        let dir = Directory::new(Arc::new(MemFs::new()), "/log".as_ref(), 1).unwrap();
        let options = Options { prefill: false, ..Options::default() };
        let (log, _) = dir.open(options, |_| Ok::<_, ()>(())).unwrap();
        let earlier = log.end();
        let mut frame = FrameBuilder::new();
        frame.push(b"key", b"", b"value", None).unwrap();
        log.append(frame.finish(), Durability::Sync).unwrap();
        let end = log.end();
        assert!(earlier < end && log.durable_to() == end);
        log.shared.set_durable(&mut log.shared.tail.lock(), earlier);
        assert_eq!((log.durable_to(), log.shared.known_durable()), (end, end));
        assert_ne!(end, Position::ZERO);
    }
}
