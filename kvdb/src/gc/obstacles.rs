//! What is in the way of collections for now: a full disk, tables that cannot be read.

use std::collections::BTreeSet;

use super::units::Unit;
use crate::error::Error;

/// What one who collects until nothing is left has met. Nothing of it bars anything for good.
#[derive(Debug, Default)]
pub(crate) struct Obstacles {
    /// How much a collection may write, since one found no room. What failed has written something:
    /// about as much fits, and nothing larger is tried.
    full: Option<(u64, Error)>,
    /// Segments that a table refers to which could not be read, and why not.
    unread: Option<(BTreeSet<u32>, Error)>,
}

impl Obstacles {
    /// There was none for units that would have taken `size`, which is no more than the
    /// [`room`](Self::room) there was thought to be; `written` bytes of it were.
    pub(super) fn none_for(&mut self, size: u64, written: u64, error: Error) {
        // Not only what is larger: a few tries must do, also where it is the last step that fails.
        self.full = Some((written.min(size / 4 * 3), error));
    }

    /// So many bytes were set free.
    pub(super) fn made(&mut self, bytes: u64) {
        if let Some((fits, _)) = &mut self.full {
            *fits = fits.saturating_add(bytes);
        }
    }

    /// How much a collection may write.
    pub(super) fn room(&self) -> u64 {
        self.full.as_ref().map_or(u64::MAX, |(bytes, _)| *bytes)
    }

    /// These segments could not be read, or a table that refers to them.
    pub(super) fn unread(&mut self, segments: &[u32], error: Error) {
        let (all, _) = self.unread.get_or_insert((BTreeSet::new(), error));
        all.extend(segments);
    }

    /// Whether it is known which of the unit's records are in use, as far as was tried.
    pub(super) fn is_unread(&self, unit: &Unit) -> bool {
        let unread = self.unread.as_ref();
        unread.is_some_and(|(all, _)| unit.segments.iter().any(|s| all.contains(s)))
    }

    /// After what could be collected was: why something could not. The next collection tries anew.
    pub(super) fn take_unread(&mut self) -> Option<Error> {
        self.unread.take().map(|(_, error)| error)
    }

    /// Nothing is left that fits: why. The next collection tries anew.
    pub(super) fn take_error(&mut self) -> Option<Error> {
        self.full.take().map(|(_, error)| error)
    }
}

#[cfg(test)]
mod tests {
    use kvdb_manifest::store::PointerSum;

    use super::*;

    fn unit(bytes: u64) -> Unit {
        let live = PointerSum { segment: 1, count: 1, bytes };
        let (segments, files) = (vec![1], vec![1]);
        let (size, span) = (2 * bytes, 2 * bytes);
        Unit {
            segments,
            files,
            tables: Vec::new(),
            size,
            span,
            live,
            relocated: false,
            garbage: true,
        }
    }

    #[test]
    fn tries_of_many_small_units_come_to_an_end_too() {
        const LIVE: u64 = 1000;
        let size = unit(LIVE).moved_size();
        let mut obstacles = Obstacles::default();
        let mut tries = 0;
        while size <= obstacles.room() {
            tries += 1;
            assert!(tries <= 60, "it tries for ever");
            // As many of a hundred as there is room for, and the last step fails.
            let chosen = (obstacles.room() / size).min(100);
            obstacles.none_for(chosen * size, chosen * LIVE, Error::Closed);
        }
    }

    #[test]
    fn what_is_larger_than_what_was_written_in_vain_is_not_tried_and_tries_come_to_an_end() {
        const MIB: u64 = 1 << 20;
        let fits = |obstacles: &Obstacles, bytes| unit(bytes).moved_size() <= obstacles.room();
        let mut obstacles = Obstacles::default();
        assert!(fits(&obstacles, 1 << 40));
        obstacles.none_for(64 * MIB, 10 * MIB, Error::Closed);
        assert_eq!(obstacles.room(), 10 * MIB);
        assert!(fits(&obstacles, 9 * MIB) && !fits(&obstacles, 10 * MIB));
        // The last step fails, whatever comes before it.
        let mut tries = 0;
        while fits(&obstacles, MIB) {
            tries += 1;
            let largest = (1..).take_while(|n| fits(&obstacles, n * MIB)).last().unwrap();
            let size = unit(largest * MIB).moved_size();
            obstacles.none_for(size, size, Error::Closed);
        }
        assert!(tries <= 8, "{tries}");
        obstacles.made(20 * MIB);
        assert!(fits(&obstacles, 20 * MIB) && !fits(&obstacles, 40 * MIB));
        assert!(obstacles.take_error().is_some() && obstacles.take_error().is_none());
    }
}
