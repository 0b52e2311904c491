//! Cutting a compaction into key ranges that run side by side.

use std::borrow::Cow;
use std::sync::Arc;

use super::job::Job;
use crate::table::TableFile;

/// Keys from `start` (inclusive) to `end` (exclusive); `None`: no bound.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Part {
    pub(crate) start: Option<Vec<u8>>,
    pub(crate) end: Option<Vec<u8>>,
}

/// Bytes of so many tables in a part are told apart, so that parts come out about equal.
const PIECES: usize = 16;

/// Cuts a job into at most `width` parts of about equal input bytes, none much smaller than
/// `least` bytes. Cuts are user keys, so the versions of a key are never in two parts.
pub(crate) fn split(job: &Job, width: usize, least: u64) -> Vec<Part> {
    let total = job.input_bytes();
    let parts = width.min((total / least.max(1)) as usize);
    if parts <= 1 {
        return vec![Part::default()];
    }
    // Where tables begin is known without reading; each brings its bytes with it. A table that is much
    // of the whole is asked for cuts within, as those of level 0 are, which may span everything. Of
    // however many tables, few more keys than parts are copied.
    let piece = total / (PIECES * parts) as u64;
    let mut weights: Vec<(Cow<'_, [u8]>, u64)> = Vec::new();
    for table in job.inputs() {
        match cuts_within(table, table.size() / piece.max(1)) {
            Some(cuts) => weights.extend(cuts.into_iter().map(|(key, bytes)| (key.into(), bytes))),
            None => weights.push((table.smallest().into(), table.size())),
        }
    }
    weights.sort();
    let share = total / parts as u64;
    // Nothing lies before the first key.
    let first = weights.first().map(|(key, _)| key.clone()).unwrap_or_default();
    let mut cuts: Vec<Vec<u8>> = Vec::new();
    let mut passed = 0;
    for (key, bytes) in weights {
        let due = share * (cuts.len() as u64 + 1);
        if passed >= due
            && cuts.len() + 1 < parts
            && cuts.last().map_or(&first[..], |last| last) != &key[..]
        {
            cuts.push(key.into_owned());
        }
        passed += bytes;
    }
    let starts = std::iter::once(None).chain(cuts.iter().cloned().map(Some));
    let ends = cuts.iter().cloned().map(Some).chain([None]);
    starts.zip(ends).map(|(start, end)| Part { start, end }).collect()
}

/// About so many block boundaries of a table, each with the bytes that follow it. `None` if no two are
/// wanted, if the table cannot be read or is too small to tell; whoever reads it next reports why.
fn cuts_within(table: &Arc<TableFile>, wanted: u64) -> Option<Vec<(Vec<u8>, u64)>> {
    if wanted < 2 {
        return None;
    }
    let reader = table.reader_for_walk(true).ok()?;
    let blocks = reader.properties().blocks;
    if blocks < 2 * wanted {
        return None;
    }
    let step = (blocks / wanted) as usize;
    let mut cuts = vec![(table.smallest().to_vec(), 0)];
    let mut last_offset = 0;
    for boundary in reader.boundaries().ok()?.step_by(step) {
        let (key, offset) = boundary.ok()?;
        if let Some(last) = cuts.last_mut() {
            last.1 = offset.saturating_sub(last_offset);
        }
        last_offset = offset;
        cuts.push((key, 0));
    }
    if let Some(last) = cuts.last_mut() {
        last.1 = table.size().saturating_sub(last_offset);
    }
    Some(cuts)
}
