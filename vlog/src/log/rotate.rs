//! Leaving the active segment on demand, and how large the next ones are.

use std::sync::atomic::Ordering;

use std::sync::Arc;

use super::Log;
use super::admission::{InDoubt, Making};
use crate::format::PAGE;
use crate::{Error, Position, Result, SegmentMeta};

/// Whole pages, and enough of them.
fn segment_limit(bytes: u64) -> u32 {
    let limit = u32::try_from(bytes).unwrap_or(u32::MAX) / PAGE * PAGE;
    limit.max(64 << 10)
}

impl<C> Log<C> {
    /// Segments are made no larger than this from now on (but as large as a frame needs), however
    /// far they have grown: a caller whose data has shrunk does not want the next gigabyte
    /// preallocated. Rounded to pages, at least 64 KiB; [`Options::segment_size`] stays the limit.
    ///
    /// [`Options::segment_size`]: crate::Options::segment_size
    pub fn limit_segments(&self, bytes: u64) {
        self.shared.segment_limit.store(segment_limit(bytes), Ordering::Relaxed);
    }

    /// Bytes appended since the log was opened, headers and markers included.
    pub fn appended(&self) -> u64 {
        self.shared.tail.lock().written
    }

    /// Gives up the segments that are kept ready: for a log at rest. `free` frees them in the caller's
    /// manifest, and then [forgets](Log::forget) them; it says whether they may be freed. If they
    /// certainly are not, they are kept: the log must go on in the next segment that is named.
    /// Meanwhile no other is made. Returns those that are gone; the caller removes their files, unless
    /// it is not known what became of its change. The next one is made when something is
    /// written and the active segment is nearly full. Gives up none while a commit is under way. If
    /// `free` panics the log is poisoned.
    pub fn give_up_spares(&self, free: impl FnOnce(&[SegmentMeta]) -> bool) -> Vec<SegmentMeta> {
        let shared = &self.shared;
        let Some(spares) = shared.admission.lock().take_spares() else { return Vec::new() };
        let _making = Making::new(shared);
        let metas: Vec<SegmentMeta> = spares.iter().map(|s: &Arc<_>| s.meta).collect();
        let in_doubt = InDoubt(shared);
        let freed = free(&metas);
        std::mem::forget(in_doubt);
        if freed {
            return metas;
        }
        shared.admission.lock().put_back(spares);
        Vec::new()
    }

    /// Leaves the active segment for a fresh one, which is begun durably, so that all before it
    /// can be collected. Existing spares are passed by, and no further one is made before one is
    /// needed: for a time when nothing is written. The fresh one has at most so many bytes (rounded
    /// as in [`limit_segments`](Log::limit_segments)). Returns where the log goes on, or `None` if a
    /// commit is under way, and nothing was done.
    ///
    /// # Errors
    /// Of making the segment, which change nothing; [`Error::Poisoned`] if writing its first bytes
    /// failed; [`Error::Closed`].
    pub fn rotate(&self, most: u64) -> Result<Option<Position>> {
        let shared = &self.shared;
        {
            let a = shared.admission.lock();
            shared.check_usable(&a)?;
            if a.reserved > 0 || a.is_making() {
                return Ok(None);
            }
            let limit = segment_limit(most).min(shared.segment_limit.load(Ordering::Relaxed));
            drop(shared.make_spare_within(a, 0, limit)?);
        }
        let Some(mut writer) = self.writer.try_lock() else { return Ok(None) };
        // Nothing follows the footer of a close that came first.
        shared.check_usable(&shared.admission.lock())?;
        match writer.rotate(shared) {
            Ok(end) => Ok(end),
            Err(e) => Err(Error::Poisoned { cause: shared.set_poison(e) }),
        }
    }
}
