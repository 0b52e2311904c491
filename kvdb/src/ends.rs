//! The two ends of an iterator: where each is, and which entries are whose to give out.

use std::cmp::Ordering;

use crate::error::Result;

/// What moves from an end towards the other. `A`: a position that it can stand on or be sent to.
pub(crate) trait Walk<A> {
    /// Where it stands.
    fn at(&self) -> A;

    /// Where it stands, beside a position.
    fn cmp_at(&self, at: &A) -> Ordering;

    /// Where it stands, beside where another one does.
    fn cmp(&self, other: &Self) -> Ordering;
}

/// One of the two ends. Each has a walk of its own, which only ever goes one way, or jumps.
#[derive(Debug)]
pub(crate) struct End<W, A> {
    /// Boxed, since every step takes it out and puts it back.
    pub(crate) walk: Option<Box<W>>,
    pub(crate) place: Place<A>,
}

/// Where an end is.
#[derive(Debug)]
pub(crate) enum Place<A> {
    /// At its bound; nothing was given out yet.
    Start,
    /// About to start from a position: where it was sent, or where it met the other end.
    From(A),
    /// On an entry that it has not given out yet. Stays so if that panics.
    Reached,
    /// On the entry it gave out last.
    Given,
    /// Past the last entry of its direction: nothing is left for the other end.
    Past,
    /// It or the other end failed.
    Failed,
}

impl<A> Place<A> {
    /// Whether where its walk stands does not matter any more.
    pub(crate) fn is_over(&self) -> bool {
        matches!(self, Place::Past | Place::Failed)
    }
}

impl<W, A> Default for End<W, A> {
    fn default() -> Self {
        End { walk: None, place: Place::Start }
    }
}

impl<W: Walk<A>, A> End<W, A> {
    /// Whether the entry that the other end's walk stands on is still that one's to give: on its
    /// `side` of where this one is, and not given out.
    fn leaves(&self, walk: &W, side: Ordering) -> bool {
        match (&self.place, &self.walk) {
            (Place::From(at), _) => walk.cmp_at(at) != side.reverse(),
            (Place::Reached, Some(own)) => walk.cmp(own) != side.reverse(),
            (Place::Given, Some(own)) => walk.cmp(own) == side,
            (Place::Past, _) => false,
            _ => true,
        }
    }

    /// Takes its walk, to move it. One that is not there although it stood on an entry was lost
    /// when a move panicked, and with it which entries are still whose: then both ends have failed,
    /// as after an error.
    pub(crate) fn take_walk(&mut self, other: &mut End<W, A>) -> Option<Box<W>> {
        if self.is_lost() || other.is_lost() {
            (self.place, other.place) = (Place::Failed, Place::Failed);
        }
        self.walk.take()
    }

    fn is_lost(&self) -> bool {
        self.walk.is_none() && matches!(self.place, Place::Given | Place::Reached)
    }

    /// Gives out the entry that it has reached. `take` may run a merge operator: if that panics,
    /// nothing was given out, and the next step gives the same entry.
    pub(crate) fn give<R>(&mut self, take: impl FnOnce(&W) -> R) -> Option<R> {
        let given = take(self.walk.as_ref()?);
        self.place = Place::Given;
        Some(given)
    }

    /// Notes where this end's walk came to stand, and says whether that is an entry for it to give
    /// out: one on its `side` of the other end.
    pub(crate) fn settle(
        &mut self,
        other: &mut End<W, A>,
        walk: Box<W>,
        moved: Result<bool>,
        side: Ordering,
    ) -> Result<bool> {
        let on = match moved {
            Ok(true) if other.leaves(&walk, side) => {
                self.place = Place::Reached;
                Ok(true)
            }
            Ok(true) => {
                self.place = Place::From(walk.at());
                Ok(false)
            }
            Ok(false) => {
                if !matches!(self.place, Place::Failed) {
                    self.place = Place::Past;
                }
                Ok(false)
            }
            Err(error) => {
                (self.place, other.place) = (Place::Failed, Place::Failed);
                Err(error)
            }
        };
        self.walk = Some(walk);
        on
    }
}
