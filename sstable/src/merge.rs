//! [`Merge`]: many overlapping cursors as one.

use std::cmp::Ordering;
use std::hint::select_unpredictable;

use crate::cursor::compare;
use crate::{Cursor, Error, Result};

/// Merges cursors whose ranges may overlap.
///
/// Where several cursors have the same pair `(key, version)`, that of the lowest index is shown and
/// the others are passed over: put the newest source first.
///
/// # How it works
///
/// The cursors that stand on an entry are kept in an array sorted by the entry's first eight key
/// bytes ([`Cursor::head`]), so that a comparison seldom touches a key. A step moves the cursor at
/// the front and, if its new entry is no longer the least, moves it back to its place. As long as
/// one source goes on to be the least, that is one comparison per entry, and two or three for a
/// handful of sources that interleave at random; with many sources the place is found by binary
/// search. For the numbers of runs that a log-structured store merges this beats a loser tree,
/// which compares once per level of the tree whoever wins, and the entry next in line, needed to
/// tell duplicates, comes for free.
///
/// Going forward, every cursor stands on its first entry at or behind the current pair; going
/// backward, on its last entry at or before it. Hence turning round is one step of each cursor, and
/// no seek.
#[derive(Debug)]
pub struct Merge<C> {
    cursors: Vec<C>,
    /// Those that stand on an entry, in order of the direction.
    order: Vec<Place>,
    direction: Direction,
    state: State,
}

#[derive(Debug, Clone, Copy)]
struct Place {
    /// The head of the entry; going backward, its complement, so that the least comes first either way.
    rank: u64,
    index: usize,
}

impl Place {
    #[inline]
    fn new<const FORWARD: bool>(head: u64, index: usize) -> Self {
        Place { rank: if FORWARD { head } else { !head }, index }
    }

    #[inline]
    fn head(self, direction: Direction) -> u64 {
        match direction {
            Direction::Forward => self.rank,
            Direction::Backward => !self.rank,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Direction {
    Forward,
    Backward,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Unpositioned,
    /// On an entry, or past the end that the direction leads to.
    Positioned,
}

/// With more sources than this, a place is looked for by bisection.
const BISECT: usize = 12;

impl<C: Cursor> Merge<C> {
    /// Merges `cursors`, whatever their positions. Not yet positioned.
    pub fn new(cursors: Vec<C>) -> Self {
        Merge {
            order: Vec::with_capacity(cursors.len()),
            cursors,
            direction: Direction::Forward,
            state: State::Unpositioned,
        }
    }

    /// The cursors, in the order they were given.
    pub fn cursors(&self) -> &[C] {
        &self.cursors
    }

    /// The cursors back.
    pub fn into_cursors(self) -> Vec<C> {
        self.cursors
    }

    /// The index of the cursor whose entry is shown, while there is one.
    #[inline]
    pub fn source(&self) -> Option<usize> {
        self.order.first().map(|place| place.index)
    }

    #[inline]
    fn top(&self) -> &C {
        &self.cursors[self.order[0].index]
    }

    /// Moves every cursor and puts them in order.
    fn rebuild(
        &mut self,
        direction: Direction,
        mut step: impl FnMut(&mut C) -> Result<bool>,
    ) -> Result<bool> {
        self.order.clear();
        self.state = State::Unpositioned;
        for (index, cursor) in self.cursors.iter_mut().enumerate() {
            match step(cursor) {
                Ok(true) => self.order.push(match direction {
                    Direction::Forward => Place::new::<true>(cursor.head(), index),
                    Direction::Backward => Place::new::<false>(cursor.head(), index),
                }),
                Ok(false) => {}
                Err(e) => {
                    self.order.clear();
                    return Err(e);
                }
            }
        }
        let cursors = &self.cursors;
        match direction {
            Direction::Forward => self.order.sort_by(|a, b| order::<C, true>(cursors, a, b)),
            Direction::Backward => self.order.sort_by(|a, b| order::<C, false>(cursors, a, b)),
        }
        self.direction = direction;
        self.state = State::Positioned;
        Ok(!self.order.is_empty())
    }

    /// Moves the cursor at place `at` on, and to its new place.
    #[inline]
    fn advance<const FORWARD: bool>(&mut self, at: usize) -> Result<()> {
        let index = self.order[at].index;
        let cursor = &mut self.cursors[index];
        let moved = if FORWARD { cursor.next() } else { cursor.prev() };
        match moved {
            Ok(true) => {
                let place = Place::new::<FORWARD>(cursor.head(), index);
                self.order[at] = place;
                match self.order.get(at + 1) {
                    Some(next) if place.rank >= next.rank => self.put_back::<FORWARD>(at),
                    _ => {}
                }
                Ok(())
            }
            Ok(false) => {
                self.order.remove(at);
                Ok(())
            }
            Err(e) => {
                self.order.clear();
                self.state = State::Unpositioned;
                Err(e)
            }
        }
    }

    /// Moves the cursor at place `at` back to where it belongs.
    #[inline]
    fn put_back<const FORWARD: bool>(&mut self, at: usize) {
        let rest = &mut self.order[at..];
        let place = rest[0];
        let mut settled = 0;
        if rest.len() <= BISECT {
            // Where runs interleave at random, no branch on which rank is less could be predicted: so
            // there is none. Of the one that is carried and the next, the lesser is put down.
            let mut carried = place;
            for i in 1..rest.len() {
                let next = rest[i];
                if next.rank == place.rank {
                    break;
                }
                settled = i;
                let stays = next.rank < place.rank;
                rest[i - 1] = select_unpredictable(stays, next, carried);
                carried = select_unpredictable(stays, carried, next);
            }
            rest[settled] = carried;
            if settled + 1 == rest.len() {
                return;
            }
        }
        // From the first of the same rank on (those behind are not less), keys have to be compared.
        let (cursors, rest) = (&self.cursors, &mut rest[settled..]);
        let end = rest[1..].partition_point(|p| order::<C, FORWARD>(cursors, p, &place).is_lt());
        rest.copy_within(1..=end, 0);
        rest[end] = place;
    }

    #[inline]
    fn step<const FORWARD: bool>(&mut self) -> Result<bool> {
        if self.order.is_empty() {
            return Ok(false);
        }
        // Entries of the same pair in other cursors come right behind the one that is shown.
        while let [first, second, ..] = self.order[..] {
            if first.rank != second.rank || !self.same_pair(first.index, second.index) {
                break;
            }
            self.advance::<FORWARD>(1)?;
        }
        self.advance::<FORWARD>(0)?;
        Ok(!self.order.is_empty())
    }

    fn same_pair(&self, a: usize, b: usize) -> bool {
        let (a, b) = (&self.cursors[a], &self.cursors[b]);
        a.version() == b.version() && a.key() == b.key()
    }
}

/// The order in which entries are shown; of equal pairs, that of the lower index comes first in
/// either direction.
#[inline]
fn order<C: Cursor, const FORWARD: bool>(cursors: &[C], a: &Place, b: &Place) -> Ordering {
    a.rank
        .cmp(&b.rank)
        .then_with(|| {
            let (a, b) = (&cursors[a.index], &cursors[b.index]);
            let pairs = compare((a.key(), a.version()), (b.key(), b.version()));
            if FORWARD { pairs } else { pairs.reverse() }
        })
        .then(a.index.cmp(&b.index))
}

impl<C: Cursor> Cursor for Merge<C> {
    fn seek(&mut self, key: &[u8], version: u64) -> Result<bool> {
        self.rebuild(Direction::Forward, |c| c.seek(key, version))
    }

    fn seek_for_prev(&mut self, key: &[u8], version: u64) -> Result<bool> {
        self.rebuild(Direction::Backward, |c| c.seek_for_prev(key, version))
    }

    fn first(&mut self) -> Result<bool> {
        self.rebuild(Direction::Forward, C::first)
    }

    fn last(&mut self) -> Result<bool> {
        self.rebuild(Direction::Backward, C::last)
    }

    #[inline]
    fn next(&mut self) -> Result<bool> {
        match (self.state, self.direction) {
            (State::Unpositioned, _) => Err(Error::unpositioned()),
            (State::Positioned, Direction::Forward) => self.step::<true>(),
            (State::Positioned, Direction::Backward) => self.rebuild(Direction::Forward, C::next),
        }
    }

    #[inline]
    fn prev(&mut self) -> Result<bool> {
        match (self.state, self.direction) {
            (State::Unpositioned, _) => Err(Error::unpositioned()),
            (State::Positioned, Direction::Backward) => self.step::<false>(),
            (State::Positioned, Direction::Forward) => self.rebuild(Direction::Backward, C::prev),
        }
    }

    #[inline]
    fn valid(&self) -> bool {
        !self.order.is_empty()
    }

    #[inline]
    fn key(&self) -> &[u8] {
        self.top().key()
    }

    #[inline]
    fn version(&self) -> u64 {
        self.top().version()
    }

    #[inline]
    fn value(&self) -> &[u8] {
        self.top().value()
    }

    #[inline]
    fn parts(&self) -> (&[u8], u64, &[u8]) {
        self.top().parts()
    }

    #[inline]
    fn head(&self) -> u64 {
        self.order[0].head(self.direction)
    }
}
