//! What the files of the log hold: [`LogFileStats`].

use kvdb_manifest::store::StoreState;
use serde::{Deserialize, Serialize};

use super::units::{Unit, all};

/// One file of the value log, relocation tables counted to the record files they lead to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct LogFileStats {
    /// Its number.
    pub file: u64,
    /// The segments that have records in it, or in files it is collected together with.
    pub segments: Vec<u32>,
    /// Whether garbage collection made it.
    pub relocated: bool,
    /// Its bytes on disk.
    pub bytes: u64,
    /// Bytes of records that tables refer to. Exact for a file by itself; where several files hold
    /// the same segments' records, exact for these together and divided by the files' sizes.
    pub live_bytes: u64,
    /// The rest. Of a segment that is being written, or that is not flushed to tables yet, this
    /// says nothing: what memtables refer to is not counted as live.
    pub garbage_bytes: u64,
    /// Bytes that collecting it now would set free: 0 for a file that cannot be collected yet.
    pub reclaimable_bytes: u64,
}

/// A line for each file.
pub(crate) fn file_stats(state: &StoreState) -> Vec<LogFileStats> {
    let mut files = Vec::new();
    for (unit, collectable) in all(state) {
        let sizes = sizes(state, &unit);
        let total: u64 = sizes.iter().sum();
        // Divided so that the parts add up.
        let part = |of: u64, before: u64, size: u64| {
            let up_to =
                |at: u64| (u128::from(of) * u128::from(at) / u128::from(total.max(1))) as u64;
            up_to(before + size) - up_to(before)
        };
        let reclaimable = if collectable { unit.gain() } else { 0 };
        let mut before = 0;
        for (&file, &size) in unit.files.iter().zip(&sizes) {
            let live = part(unit.live.bytes, before, size);
            files.push(LogFileStats {
                file,
                segments: unit.segments.clone(),
                relocated: unit.relocated,
                bytes: size,
                live_bytes: live,
                garbage_bytes: size.saturating_sub(live),
                reclaimable_bytes: part(reclaimable, before, size),
            });
            before += size;
        }
    }
    files
}

/// The size of each file of a unit, the tables' bytes added to those of the first.
fn sizes(state: &StoreState, unit: &Unit) -> Vec<u64> {
    if !unit.relocated {
        return vec![unit.size];
    }
    let length = |file: &u64| state.log_files().get(file).map_or(0, |f| f.length);
    let mut sizes: Vec<u64> = unit.files.iter().map(length).collect();
    if let Some(first) = sizes.first_mut() {
        *first += unit.tables.iter().map(length).sum::<u64>();
    }
    sizes
}
