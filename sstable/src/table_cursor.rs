//! [`TableCursor`]: walks the entries of a table.

use std::ops::Range;
use std::sync::Arc;

use kvdb_vfs::Region;

use crate::block::{Layout, Slot};
use crate::cursor::State;
use crate::hit::BlockRef;
use crate::index::Index;
use crate::key_buffer::KeyBuffer;
use crate::load::Ahead;
use crate::prefetch::prefetch_next;
use crate::{Cursor, Error, Result, Source, Table};

/// How a cursor holds its table: `&Table<S>` or `Arc<Table<S>>`. Sealed.
#[expect(private_interfaces, reason = "sealed")]
pub trait TableRef {
    #[doc(hidden)]
    fn bytes(&self) -> Option<&[u8]>;
    #[doc(hidden)]
    fn region(&self) -> Option<&Region>;
    #[doc(hidden)]
    fn index(&self) -> Result<Index<'_>>;
    #[doc(hidden)]
    fn block(
        &self,
        index: &Index<'_>,
        block: usize,
        ahead: &mut Ahead,
    ) -> Result<(u64, BlockRef<'_>)>;
    #[doc(hidden)]
    fn prefetch_block(&self, index: &Index<'_>, block: usize);
    #[doc(hidden)]
    fn locate(&self, e: Error, offset: u64) -> Error;
    #[doc(hidden)]
    fn locate_in_index(&self, e: Error) -> Error;
}

macro_rules! table_ref {
    ($($t:ty),*) => {$(
        #[expect(private_interfaces, reason = "sealed")]
        impl<S: Source> TableRef for $t {
            #[inline]
            fn bytes(&self) -> Option<&[u8]> {
                self.source().bytes()
            }
            fn region(&self) -> Option<&Region> {
                self.source().region()
            }
            #[inline]
            fn index(&self) -> Result<Index<'_>> {
                (**self).index()
            }
            #[inline]
            fn block(
                &self,
                index: &Index<'_>,
                block: usize,
                ahead: &mut Ahead,
            ) -> Result<(u64, BlockRef<'_>)> {
                (**self).block_ahead(index, block, ahead)
            }
            fn prefetch_block(&self, index: &Index<'_>, block: usize) {
                (**self).prefetch_block(index, block);
            }
            fn locate(&self, e: Error, offset: u64) -> Error {
                (**self).locate(e, offset)
            }
            fn locate_in_index(&self, e: Error) -> Error {
                (**self).locate_in_index(e)
            }
        }
    )*};
}
table_ref!(&Table<S>, Arc<Table<S>>);

/// How far ahead of a walk backward values are asked for, in bytes: two common blocks.
const BEHIND: usize = 8192;

/// A cursor over a table that it borrows (`TableCursor<&Table<S>>`) or keeps alive
/// (`TableCursor<Arc<Table<S>>>`). See [`Cursor`] for what its moves mean.
///
/// It holds one block, so a value stays where it is until the cursor moves.
#[derive(Debug)]
pub struct TableCursor<T> {
    table: T,
    state: State,
    /// The current block: its number, where it is, and its parts. Whether there is one, is said by
    /// `count > 0` in its layout.
    block: usize,
    place: Place,
    ahead: Ahead,
    layout: Layout,
    entry: usize,
    key: KeyBuffer,
    /// What `key` has in common with the restart of `entry`, behind the prefix of the block. `None`:
    /// the key is not of this block.
    known: Option<usize>,
    version: u64,
    value: Range<usize>,
}

#[derive(Debug)]
enum Place {
    InPlace(Range<usize>),
    Pinned(Region),
}

impl Place {
    #[inline]
    fn bytes<'a>(&'a self, table: &'a impl TableRef) -> &'a [u8] {
        match self {
            Place::InPlace(range) => {
                table.bytes().and_then(|bytes| bytes.get(range.clone())).unwrap_or_default()
            }
            Place::Pinned(region) => region,
        }
    }
}

impl<T: TableRef> TableCursor<T> {
    /// A cursor over `table`, not yet positioned.
    pub fn new(table: T) -> Self {
        TableCursor {
            table,
            state: State::Unpositioned,
            block: 0,
            place: Place::InPlace(0..0),
            ahead: Ahead::default(),
            layout: Layout::default(),
            entry: 0,
            key: KeyBuffer::default(),
            known: None,
            version: 0,
            value: 0..0,
        }
    }

    /// For long walks: where blocks have to be read from a file, `bytes` are read at once (in the
    /// direction of the walk), and the block cache is neither asked nor filled. 0 turns it off again.
    /// Memory: `bytes`, as long as the cursor or a value of it lives.
    #[must_use]
    pub fn read_ahead(mut self, bytes: usize) -> Self {
        self.ahead = Ahead::new(bytes);
        self
    }

    /// The table.
    pub fn table(&self) -> &T {
        &self.table
    }

    /// The value as an owned handle that outlives cursor and table: see
    /// [`Hit::to_region`](crate::Hit::to_region). After a move that failed it is empty, as
    /// [`value`](Cursor::value) is.
    pub fn value_region(&self) -> Region {
        match &self.place {
            Place::InPlace(range) => {
                BlockRef::in_place(self.bytes(), range.start as u64, self.table.region())
                    .region(self.value.clone())
            }
            Place::Pinned(region) => BlockRef::Pinned(region.clone()).region(self.value.clone()),
        }
    }

    #[inline]
    fn bytes(&self) -> &[u8] {
        self.place.bytes(&self.table)
    }

    /// Makes `block` the current one. On failure there is none.
    fn load(&mut self, block: usize) -> Result<()> {
        if self.layout.count > 0 && self.block == block {
            return Ok(());
        }
        let (from, had) = (self.block, self.layout.count > 0);
        // Let go of before the next is read: what a walk holds of a file is one piece, not two.
        self.layout.count = 0;
        self.place = Place::InPlace(0..0);
        self.known = None;
        let table = &self.table;
        let index = table.index()?;
        let (offset, loaded) = table.block(&index, block, &mut self.ahead)?;
        // A walk that came from next door most likely goes on. The processor's own read-ahead stops
        // at the end of a page.
        match block {
            _ if !had => {}
            _ if block == from + 1 => table.prefetch_block(&index, block + 1),
            _ if block + 1 == from && block > 0 => table.prefetch_block(&index, block - 1),
            _ => {}
        }
        let layout = Layout::parse(loaded.bytes()).map_err(|e| table.locate(e, offset))?;
        self.place = match loaded {
            BlockRef::InPlace { bytes, offset, .. } => Place::InPlace(offset..offset + bytes.len()),
            BlockRef::Pinned(region) => Place::Pinned(region),
        };
        self.layout = layout;
        self.block = block;
        Ok(())
    }

    /// Stands on an entry of the current block.
    #[inline]
    fn stand_on(&mut self, entry: usize) -> Result<bool> {
        let known = match self.known {
            Some(_) if !self.layout.same_group(entry, self.entry) => Some(0),
            known => known,
        };
        self.known = None;
        match self.read(entry, known) {
            Ok(known) => {
                self.known = Some(known);
                self.entry = entry;
                self.state = State::At;
                Ok(true)
            }
            Err(e) => Err(self.locate(e)),
        }
    }

    /// Stands on the entry ahead of this one, which is of the same block.
    #[inline]
    fn step_back(&mut self) -> Result<bool> {
        let entry = self.entry - 1;
        let Place::InPlace(range) = &self.place else { return self.stand_on(entry) };
        if self.known.is_none() {
            return self.stand_on(entry);
        }
        self.known = None;
        let source = self.table.bytes().unwrap_or_default();
        let bytes = source.get(range.clone()).unwrap_or_default();
        let read = self.layout.slot(bytes, entry).and_then(|slot| {
            self.value = self.layout.value_range(&slot)?;
            self.version = slot.version;
            // Forward, the processor sees a sequence and reads ahead by itself; backward it does not.
            let ahead = (range.start + self.value.start).saturating_sub(BEHIND);
            prefetch_next(source.get(ahead..).unwrap_or_default(), self.value.len());
            self.layout.read_key_backward(bytes, entry, &slot, &mut self.key)
        });
        match read {
            Ok(known) => {
                self.known = Some(known);
                self.entry = entry;
                Ok(true)
            }
            Err(e) => Err(self.locate(e)),
        }
    }

    #[inline(always)]
    fn read(&mut self, entry: usize, known: Option<usize>) -> Result<usize> {
        let bytes = self.place.bytes(&self.table);
        let slot = self.layout.slot(bytes, entry)?;
        self.value = self.layout.value_range(&slot)?;
        self.version = slot.version;
        self.layout.read_key(bytes, entry, &slot, known, &mut self.key)
    }

    #[cold]
    fn locate(&self, e: Error) -> Error {
        let range = self.table.index().and_then(|index| index.block_range(self.block));
        match range {
            Ok(range) => self.table.locate(e, range.start),
            Err(_) => e,
        }
    }

    fn ended(&mut self, state: State) -> Result<bool> {
        self.state = state;
        Ok(false)
    }

    fn go_to_first_of(&mut self, block: usize) -> Result<bool> {
        if block >= self.table.index()?.blocks() {
            return self.ended(State::Behind);
        }
        self.load(block)?;
        self.stand_on(0)
    }

    fn go_to_last_of(&mut self, block: Option<usize>) -> Result<bool> {
        let Some(block) = block else {
            return self.ended(State::Before);
        };
        self.load(block)?;
        self.stand_on(self.layout.count - 1)
    }

    fn last_block(&self) -> Result<Option<usize>> {
        Ok(self.table.index()?.blocks().checked_sub(1))
    }

    /// Loads the block where `(key, version)` belongs and finds the first entry of that block at or
    /// behind the pair. `None`: the table has no blocks.
    fn find(&mut self, key: &[u8], version: u64) -> Result<Option<(usize, Option<Slot>)>> {
        let index = self.table.index()?;
        if index.blocks() == 0 {
            return Ok(None);
        }
        let block = index.find(key, version).map_err(|e| self.table.locate_in_index(e))?;
        self.load(block)?;
        self.layout.lower_bound(self.bytes(), key, version).map(Some).map_err(|e| self.locate(e))
    }

    fn try_seek(&mut self, key: &[u8], version: u64) -> Result<bool> {
        match self.find(key, version)? {
            None => self.ended(State::Behind),
            Some((entry, _)) if entry < self.layout.count => self.stand_on(entry),
            Some(_) => self.go_to_first_of(self.block + 1),
        }
    }

    fn try_seek_for_prev(&mut self, key: &[u8], version: u64) -> Result<bool> {
        match self.find(key, version)? {
            None => self.ended(State::Before),
            Some((entry, Some(slot))) if slot.version == version => self.stand_on(entry),
            Some((0, _)) => self.go_to_last_of(self.block.checked_sub(1)),
            Some((entry, _)) => self.stand_on(entry - 1),
        }
    }

    #[inline]
    fn try_next(&mut self) -> Result<bool> {
        match self.state {
            State::At if self.entry + 1 < self.layout.count => self.stand_on(self.entry + 1),
            State::At => self.go_to_first_of(self.block + 1),
            State::Before => self.go_to_first_of(0),
            State::Behind => Ok(false),
            State::Unpositioned => Err(Error::unpositioned()),
        }
    }

    #[inline]
    fn try_prev(&mut self) -> Result<bool> {
        match self.state {
            State::At if self.entry > 0 => self.step_back(),
            State::At => self.go_to_last_of(self.block.checked_sub(1)),
            State::Behind => {
                let last = self.last_block()?;
                self.go_to_last_of(last)
            }
            State::Before => Ok(false),
            State::Unpositioned => Err(Error::unpositioned()),
        }
    }

    #[inline]
    fn settle(&mut self, moved: Result<bool>) -> Result<bool> {
        if moved.is_err() {
            self.state = State::Unpositioned;
            // Of a block that is let go of.
            self.value = 0..0;
        }
        moved
    }
}

impl<T: TableRef> Cursor for TableCursor<T> {
    fn seek(&mut self, key: &[u8], version: u64) -> Result<bool> {
        let moved = self.try_seek(key, version);
        self.settle(moved)
    }

    fn seek_for_prev(&mut self, key: &[u8], version: u64) -> Result<bool> {
        let moved = self.try_seek_for_prev(key, version);
        self.settle(moved)
    }

    fn first(&mut self) -> Result<bool> {
        let moved = self.go_to_first_of(0);
        self.settle(moved)
    }

    fn last(&mut self) -> Result<bool> {
        let moved = self.last_block().and_then(|last| self.go_to_last_of(last));
        self.settle(moved)
    }

    #[inline]
    fn next(&mut self) -> Result<bool> {
        let moved = self.try_next();
        self.settle(moved)
    }

    #[inline]
    fn prev(&mut self) -> Result<bool> {
        let moved = self.try_prev();
        self.settle(moved)
    }

    #[inline]
    fn valid(&self) -> bool {
        self.state == State::At
    }

    #[inline]
    fn key(&self) -> &[u8] {
        &self.key
    }

    #[inline]
    fn version(&self) -> u64 {
        self.version
    }

    #[inline]
    fn value(&self) -> &[u8] {
        let Range { start, end } = self.value;
        let value = match &self.place {
            Place::InPlace(block) => self
                .table
                .bytes()
                .and_then(|bytes| bytes.get(block.start + start..block.start + end)),
            Place::Pinned(region) => region.get(start..end),
        };
        value.unwrap_or_default()
    }
}
