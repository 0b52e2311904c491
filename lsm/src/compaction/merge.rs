//! The inner loop of flush and compaction: from a cursor, through the dropping rules, into tables.

use std::sync::Arc;

use kvdb_sstable::Cursor;

use super::dropping::{Dropping, Verdict};
use super::fold::{Chain, Next};
use super::split::Part;
use crate::companion::Companion;
use crate::cursor::Sourced;
use crate::entry::Entry;
use crate::error::Result;
use crate::range_delete::RangeDeletes;
use crate::table_writer::{Finished, TableWriter, WriterContext};
use crate::version::{Level, check_order};

/// Whether to go on is looked at every so many bytes,
const CANCEL_CHECK: usize = 1 << 20;
/// of which the smallest entry counts for so many: every so many entries, too.
const LEAST_COUNTED: usize = CANCEL_CHECK / 256;

/// When a table is finished and the next one begun.
pub(crate) struct Cuts {
    /// Bytes of a table; `u64::MAX`: never cut.
    pub(crate) table_size: u64,
    /// The level below the outputs.
    pub(crate) next: Option<Arc<Level>>,
    /// Bytes of that level which one table may overlap.
    pub(crate) overlap_limit: u64,
    /// Tables end where a range delete begins or ends, so that they lie inside or outside.
    pub(crate) range_deletes: Arc<RangeDeletes>,
    /// Index of the first table of `next` that the current output has not passed.
    at: usize,
    overlap: u64,
}

impl Cuts {
    pub(crate) fn new(
        table_size: u64,
        next: Option<Arc<Level>>,
        overlap_limit: u64,
        range_deletes: Arc<RangeDeletes>,
    ) -> Cuts {
        Cuts { table_size, next, overlap_limit, range_deletes, at: 0, overlap: 0 }
    }

    /// One table, whatever its size.
    pub(crate) fn none() -> Cuts {
        Cuts::new(u64::MAX, None, u64::MAX, Arc::default())
    }

    /// Whether the output, which holds entries up to `last` and has `size` bytes, ends before `key`.
    pub(super) fn before(&mut self, last: &[u8], key: &[u8], size: u64) -> bool {
        if self.table_size == u64::MAX {
            return false;
        }
        let mut passed = false;
        if let Some(next) = &self.next {
            let tables = next.tables();
            while let Some(table) = tables.get(self.at)
                && table.largest() < key
            {
                self.overlap = self.overlap.saturating_add(table.size());
                self.at += 1;
                passed = true;
            }
        }
        // Rather at a boundary of the level below, if the table is not too small then: the table
        // will drag one table less along when it is compacted itself.
        size >= self.table_size
            || (passed && size >= self.table_size / 2)
            || self.overlap > self.overlap_limit
            || (!self.range_deletes.is_empty() && self.range_deletes.boundary_between(last, key))
    }

    /// An output begins with `key`.
    pub(super) fn begin(&mut self, key: &[u8]) {
        self.overlap = 0;
        if let Some(next) = &self.next {
            let tables = next.tables();
            while tables.get(self.at).is_some_and(|t| t.largest() < key) {
                self.at += 1;
            }
        }
    }
}

/// Copies what `dropping` leaves from `cursor` into tables of `level`. The cursor is positioned
/// here; on an error, or when `go_on` has one, the tables written so far are removed. It is told how many
/// bytes were read since it was last asked.
///
/// A table is synced when the one after it is finished: by then the system has written most of it
/// back, and nothing waits long. The last one is left to the caller.
pub(crate) fn merge_into_tables<C: Companion>(
    cursor: &mut (impl Cursor + Sourced),
    part: &Part,
    dropping: &mut Dropping,
    cuts: &mut Cuts,
    context: &WriterContext<'_, C>,
    level: usize,
    go_on: &dyn Fn(usize) -> Result<()>,
) -> Result<Vec<Finished>> {
    let mut out = Outputs { context, level, cuts, finished: Vec::new(), writer: None };
    let mut key: Vec<u8> = Vec::new();
    let mut started = false;
    let mut last = (0, 0);
    let (mut since_check, mut passed) = (0, 0);
    let folds = context.companion.folds();
    let mut chain: Option<Chain> = None;
    let mut valid = match &part.start {
        Some(start) => cursor.seek(start, u64::MAX)?,
        None => cursor.first()?,
    };
    while valid {
        if since_check >= CANCEL_CHECK {
            since_check = 0;
            go_on(std::mem::take(&mut passed))?;
        }
        let version = cursor.version();
        if !started || cursor.key() != key {
            if let Some(mut ended) = chain.take() {
                if dropping.is_bottom(&key) {
                    ended.reached_bottom();
                }
                out.add_new(&key, ended.version, &ended.entry())?;
            }
            if part.end.as_deref().is_some_and(|end| cursor.key() >= end) {
                break;
            }
            out.cut_before(cursor.key())?;
            key.clear();
            key.extend_from_slice(cursor.key());
            started = true;
            dropping.next_key();
        } else if context.options.paranoid {
            check_order(&key, last, (version, cursor.source()))?;
        }
        last = (version, cursor.source());
        let bytes = cursor.value();
        passed += key.len() + bytes.len();
        since_check += (key.len() + bytes.len()).max(LEAST_COUNTED);
        let entry = Entry::decode(bytes)?;
        let mut verdict = dropping.judge(&key, version, &entry);
        if let Some(above) = &mut chain {
            let next = above.go_on(context.companion, &key, &entry, verdict);
            if next != Next::Folded
                && let Some(ended) = chain.take()
            {
                out.add_new(&key, ended.version, &ended.entry())?;
            }
            if next != Next::Apart {
                dropping.note_folded(verdict);
                verdict = Verdict::Drop;
            }
        }
        if folds && chain.is_none() && verdict == Verdict::Keep && dropping.may_fold(version) {
            chain = Chain::begin(version, &entry);
            if chain.is_some() {
                verdict = Verdict::Drop; // held back
            }
        }
        match verdict {
            Verdict::Keep => out.add(&key, version, &entry, bytes)?,
            Verdict::Bury => out.add_new(&key, version, &Entry::tombstone())?,
            Verdict::Drop => {}
        }
        valid = cursor.next()?;
    }
    if let Some(mut ended) = chain.take() {
        if dropping.is_bottom(&key) {
            ended.reached_bottom();
        }
        out.add_new(&key, ended.version, &ended.entry())?;
    }
    out.finish()
}

/// The tables that a merge has written, and the one it is writing.
struct Outputs<'a, 'c, C> {
    context: &'a WriterContext<'c, C>,
    level: usize,
    cuts: &'a mut Cuts,
    finished: Vec<Finished>,
    writer: Option<TableWriter<'c, C>>,
}

impl<'c, C: Companion> Outputs<'_, 'c, C> {
    /// Ends the table if it should end before `key`.
    fn cut_before(&mut self, key: &[u8]) -> Result<()> {
        let cuts = &mut *self.cuts;
        let cut = self
            .writer
            .as_ref()
            .is_some_and(|w| cuts.before(w.last_key(), key, w.estimated_size()));
        if cut && let Some(writer) = self.writer.take() {
            finish_table(writer, &mut self.finished)?;
        }
        Ok(())
    }

    /// Adds an entry; `bytes` is its encoding.
    fn add(&mut self, key: &[u8], version: u64, entry: &Entry<'_>, bytes: &[u8]) -> Result<()> {
        let writer = match &mut self.writer {
            Some(writer) => writer,
            None => {
                self.cuts.begin(key);
                self.writer.insert(TableWriter::create(self.context, self.level)?)
            }
        };
        writer.add(key, version, entry, bytes)
    }

    /// Adds an entry that no input holds.
    fn add_new(&mut self, key: &[u8], version: u64, entry: &Entry<'_>) -> Result<()> {
        let mut bytes = Vec::with_capacity(entry.encoded_len());
        entry.encode(&mut bytes);
        self.add(key, version, entry, &bytes)
    }

    fn finish(mut self) -> Result<Vec<Finished>> {
        if let Some(writer) = self.writer.take() {
            finish_table(writer, &mut self.finished)?;
        }
        Ok(self.finished)
    }
}

fn finish_table<C: Companion>(
    writer: TableWriter<'_, C>,
    finished: &mut Vec<Finished>,
) -> Result<()> {
    if let Some(before) = finished.last_mut() {
        before.output.sync()?;
    }
    finished.push(writer.finish()?);
    Ok(())
}
