//! [`Concat`]: many cursors one behind the other as one.

use crate::cursor::State;
use crate::{Cursor, Error, Result};

/// A sequence of runs (tables, most often) that do not overlap, in ascending order: what a
/// [`Concat`] walks. A run is opened when the walk gets there.
pub trait Runs {
    /// The cursor over one run.
    type Cursor: Cursor;

    /// How many runs there are.
    fn len(&self) -> usize;

    /// Whether there are none.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// A cursor over run `i < len()`.
    fn open(&self, i: usize) -> Result<Self::Cursor>;

    /// The index of the first run whose last entry is at or behind `(key, version)`; `len()` if there
    /// is none. Where no key is in two runs, the first run whose last key is not less than `key` will
    /// do.
    fn find(&self, key: &[u8], version: u64) -> usize;
}

/// Walks disjoint runs in order, holding one of them open at a time.
#[derive(Debug)]
pub struct Concat<R: Runs> {
    runs: R,
    /// The run the cursor is in, and its cursor.
    current: Option<(usize, R::Cursor)>,
    state: State,
}

impl<R: Runs> Concat<R> {
    /// A cursor over these runs, not yet positioned; none is opened yet.
    pub fn new(runs: R) -> Self {
        Concat { runs, current: None, state: State::Unpositioned }
    }

    /// The runs.
    pub fn runs(&self) -> &R {
        &self.runs
    }

    /// The index of the run that is open, and its cursor.
    pub fn current(&self) -> Option<(usize, &R::Cursor)> {
        self.current.as_ref().map(|(i, cursor)| (*i, cursor))
    }

    fn open(&mut self, i: usize) -> Result<&mut R::Cursor> {
        let kept = self.current.take().filter(|(at, _)| *at == i);
        let current = match kept {
            Some(current) => current,
            None => (i, self.runs.open(i)?),
        };
        Ok(&mut self.current.insert(current).1)
    }

    /// Stands on the first entry of the first run from `i` on that has one.
    fn first_from(&mut self, i: usize) -> Result<bool> {
        for i in i..self.runs.len() {
            if self.open(i)?.first()? {
                return self.stand(State::At);
            }
        }
        self.stand(State::Behind)
    }

    /// Stands on the last entry of the last run ahead of `end` that has one.
    fn last_before(&mut self, end: usize) -> Result<bool> {
        for i in (0..end).rev() {
            if self.open(i)?.last()? {
                return self.stand(State::At);
            }
        }
        self.stand(State::Before)
    }

    #[inline]
    fn stand(&mut self, state: State) -> Result<bool> {
        self.state = state;
        Ok(state == State::At)
    }

    fn try_seek(&mut self, key: &[u8], version: u64) -> Result<bool> {
        let i = self.runs.find(key, version);
        if i < self.runs.len() && self.open(i)?.seek(key, version)? {
            return self.stand(State::At);
        }
        // Found by key alone, the run may end with a higher version of the key.
        self.first_from(i.saturating_add(1))
    }

    fn try_seek_for_prev(&mut self, key: &[u8], version: u64) -> Result<bool> {
        let Some(last) = self.runs.len().checked_sub(1) else {
            return self.stand(State::Before);
        };
        let i = self.runs.find(key, version).min(last);
        if self.open(i)?.seek_for_prev(key, version)? {
            return self.stand(State::At);
        }
        self.last_before(i)
    }

    #[inline]
    fn try_next(&mut self) -> Result<bool> {
        match (self.state, &mut self.current) {
            (State::At, Some((i, cursor))) => {
                if cursor.next()? {
                    return Ok(true);
                }
                let i = *i;
                self.first_from(i + 1)
            }
            (State::Before, _) => self.first_from(0),
            (State::Behind, _) => Ok(false),
            (State::Unpositioned | State::At, _) => Err(Error::unpositioned()),
        }
    }

    #[inline]
    fn try_prev(&mut self) -> Result<bool> {
        match (self.state, &mut self.current) {
            (State::At, Some((i, cursor))) => {
                if cursor.prev()? {
                    return Ok(true);
                }
                let i = *i;
                self.last_before(i)
            }
            (State::Behind, _) => self.last_before(self.runs.len()),
            (State::Before, _) => Ok(false),
            (State::Unpositioned | State::At, _) => Err(Error::unpositioned()),
        }
    }

    #[inline]
    fn settle(&mut self, moved: Result<bool>) -> Result<bool> {
        if moved.is_err() {
            self.state = State::Unpositioned;
            self.current = None;
        }
        moved
    }

    #[inline]
    fn cursor(&self) -> &R::Cursor {
        match &self.current {
            Some((_, cursor)) => cursor,
            None => panic!("the cursor does not stand on an entry"),
        }
    }
}

impl<R: Runs> Cursor for Concat<R> {
    fn seek(&mut self, key: &[u8], version: u64) -> Result<bool> {
        let moved = self.try_seek(key, version);
        self.settle(moved)
    }

    fn seek_for_prev(&mut self, key: &[u8], version: u64) -> Result<bool> {
        let moved = self.try_seek_for_prev(key, version);
        self.settle(moved)
    }

    fn first(&mut self) -> Result<bool> {
        let moved = self.first_from(0);
        self.settle(moved)
    }

    fn last(&mut self) -> Result<bool> {
        let moved = self.last_before(self.runs.len());
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
        self.cursor().key()
    }

    #[inline]
    fn version(&self) -> u64 {
        self.cursor().version()
    }

    #[inline]
    fn value(&self) -> &[u8] {
        self.cursor().value()
    }

    #[inline]
    fn parts(&self) -> (&[u8], u64, &[u8]) {
        self.cursor().parts()
    }

    #[inline]
    fn head(&self) -> u64 {
        self.cursor().head()
    }
}
