//! Files of segments that are not part of the log any more, kept to make new segments of.
//!
//! They are unnamed files from the moment their segments were freed durably, until a new segment is
//! named that was made of one: after a crash, whoever opens the log removes them, whichever name
//! they have. A file is renamed and gets the new segment's header while no view, no value and no
//! other opening of the log shows its bytes (`Segment::is_unused`); both are durable before the
//! segment is named.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::{Log, Shared};
use crate::segment::Segment;
use crate::{Result, SegmentMeta};

/// How many files are kept: each is space that nobody uses.
const MOST: usize = 2;

impl<C> Log<C> {
    /// As [`Log::forget`], but keeps up to two of the files, to make new segments of: that saves
    /// preallocation and writing zeros ahead, and on some devices the cost of unlinking. A file is
    /// used again only when no view and no value leads to it and it has no other name; readers of
    /// old views are never disturbed. Kept are files as large as a new segment may be now, or at
    /// least half as large. Pays where segments are all of one size and die about as fast as they
    /// are made, one by one: a write-ahead log.
    ///
    /// The segments must be freed durably in the caller's manifest *before* this call, so it is
    /// nothing for a [`Directory`](crate::Directory), which would find them again. Returns
    /// those whose files the caller has to remove, earlier ones among them that give way. After a
    /// crash the kept ones are files that no manifest names, under the name of the old segment or
    /// of a new one. [`Log::close`] removes those not used by then, and none is kept after it.
    ///
    /// # Errors
    /// [`Error::Misuse`](crate::Error::Misuse) as [`Log::forget`].
    pub fn recycle(&self, segments: &[u32]) -> Result<Vec<SegmentMeta>> {
        // Not the view itself: who holds it reads what is kept.
        let dead = self.view().raw(segments);
        self.forget(segments)?;
        Ok(self.shared.keep(dead))
    }
}

/// The files that are kept.
#[derive(Debug)]
pub(crate) struct Pool {
    /// How many may be: none once the log is closed.
    most: usize,
    /// From the one that died first on.
    dead: Vec<Arc<Segment>>,
}

impl Default for Pool {
    fn default() -> Self {
        Pool { most: MOST, dead: Vec::new() }
    }
}

impl Shared {
    /// Keeps some files of segments that are not in the view any more. Returns the others.
    fn keep(&self, segments: Vec<Arc<Segment>>) -> Vec<SegmentMeta> {
        let largest = self.segment_limit.load(Ordering::Relaxed).min(self.options.segment_size);
        let mut rest = Vec::new();
        let mut pool = self.pool.lock();
        let Pool { most, dead } = &mut *pool;
        for segment in segments {
            if !dead.iter().any(|kept| Arc::ptr_eq(kept, &segment)) {
                dead.push(segment);
            }
        }
        // The limit may be lower than when the first of them died.
        dead.retain(|s| {
            let keep = is_like(s.capacity(), largest);
            if !keep {
                rest.push(s.meta);
            }
            keep
        });
        while dead.len() > *most {
            // Who reads it may read for long.
            let first = dead.iter().position(|s| !s.is_unused()).unwrap_or(0);
            rest.push(dead.remove(first).meta);
        }
        rest
    }

    /// A dead segment that nobody reads any more, about as large as a new one would be and no
    /// larger, that takes `least` bytes.
    pub(super) fn take_unused(&self, wanted: u32, least: u32) -> Option<Arc<Segment>> {
        let dead = &mut self.pool.lock().dead;
        let at = dead.iter().position(|s| {
            s.capacity() >= least && is_like(s.capacity(), wanted) && s.is_unused()
        })?;
        Some(dead.remove(at))
    }

    /// Removes what is kept, for good.
    pub(super) fn remove_dead(&self) {
        let mut pool = self.pool.lock();
        pool.most = 0;
        for dead in pool.dead.drain(..) {
            if let Err(error) = self.fs.remove(&dead.data.path) {
                tracing::warn!(%error, "file of a dead segment not removed");
            }
        }
    }
}

/// Whether a file of so many bytes does for a segment of `wanted` bytes.
fn is_like(capacity: u32, wanted: u32) -> bool {
    (wanted / 2..=wanted).contains(&capacity)
}
