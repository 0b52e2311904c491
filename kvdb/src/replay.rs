//! From the log back into memtables.

use std::sync::Arc;

use kvdb_lsm::Tree;
use kvdb_manifest::store::RangeDelete;
use kvdb_vlog::{FrameView, Recovery, ReplayEnd, ReplayError};

use crate::companion::ValueLog;
use crate::drop_range;
use crate::error::Result;
use crate::pipeline::{entry_of, insert, memtable_bound};

/// Replays the log from the head, whole frames only, in order. Large values are not copied, only
/// pointed to. Returns the drops of ranges that were found, too.
pub(crate) fn replay(
    tree: &Arc<Tree<ValueLog>>,
    recovery: &mut Recovery,
    value_threshold: usize,
) -> Result<(ReplayEnd, Vec<RangeDelete>)> {
    let mut drops = Vec::new();
    let end = recovery.replay(|frame| apply(tree, &frame, value_threshold, &mut drops)).map_err(
        |error| match error {
            ReplayError::Log(error) => error.into(),
            ReplayError::Caller(error) => error,
        },
    )?;
    Ok((end, drops))
}

fn apply(
    tree: &Tree<ValueLog>,
    frame: &FrameView<'_>,
    value_threshold: usize,
    drops: &mut Vec<RangeDelete>,
) -> Result<()> {
    let mut bytes = 0;
    for record in frame.records() {
        if let Some(drop) = drop_range::of_record(&record) {
            drops.push(drop?);
            continue;
        }
        bytes += memtable_bound(value_threshold, record.key.len(), &entry_of(&record)?);
    }
    let start = frame.position().packed();
    let mut reservation = tree.admit_replay(bytes)?;
    tree.route(&mut reservation, start, start + frame.frame_len() as u64);
    for record in frame.records().filter(|record| record.tag != drop_range::TAG) {
        insert(tree, &reservation, value_threshold, &record)?;
    }
    drop(reservation);
    Ok(())
}
