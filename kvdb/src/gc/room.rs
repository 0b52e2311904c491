//! What is known of the room on a disk that was full.

use crate::error::Error;

use super::units::{Choice, Unit};

/// How much a collection may write, from the first that found no room until nothing is left that
/// fits. What failed has written something: about as much fits, and nothing larger is tried.
#[derive(Debug, Default)]
pub(crate) struct Room {
    full: Option<(u64, Error)>,
}

impl Room {
    /// There was none for units that would have taken `size`, of which `written` bytes were.
    pub(super) fn none_for(&mut self, size: u64, written: u64, error: Error) {
        // Not only what is larger: a few tries must do, also where it is the last step that fails.
        let fits = written.min(size / 4 * 3).min(self.bytes());
        self.full = Some((fits, error));
    }

    /// So many bytes were set free.
    pub(super) fn made(&mut self, bytes: u64) {
        if let Some((fits, _)) = &mut self.full {
            *fits = fits.saturating_add(bytes);
        }
    }

    fn bytes(&self) -> u64 {
        self.full.as_ref().map_or(u64::MAX, |(bytes, _)| *bytes)
    }

    pub(super) fn is_known(&self) -> bool {
        self.full.is_some()
    }

    pub(super) fn fits(&self, unit: &Unit) -> bool {
        unit.moved_size() <= self.bytes()
    }

    pub(super) fn limit(&self, choice: Choice) -> Choice {
        Choice { max_live: choice.max_live.min(self.bytes()), ..choice }
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
        Unit { segments, files, tables: Vec::new(), size, span, live, relocated: false }
    }

    #[test]
    fn what_is_larger_than_what_was_written_in_vain_is_not_tried_and_tries_come_to_an_end() {
        const MIB: u64 = 1 << 20;
        let choice = Choice { min_garbage: 0.2, sort: false, max_live: 64 * MIB };
        let mut room = Room::default();
        assert!(room.fits(&unit(1 << 40)) && !room.is_known());
        assert_eq!(room.limit(choice).max_live, 64 * MIB);
        room.none_for(64 * MIB, 10 * MIB, Error::Closed);
        assert_eq!(room.limit(choice).max_live, 10 * MIB);
        assert!(room.fits(&unit(9 * MIB)) && !room.fits(&unit(10 * MIB)));
        // The last step fails, whatever comes before it.
        let mut tries = 0;
        while room.fits(&unit(MIB)) {
            tries += 1;
            let largest = (1..).take_while(|n| room.fits(&unit(n * MIB))).last().unwrap();
            let size = unit(largest * MIB).moved_size();
            room.none_for(size, size, Error::Closed);
        }
        assert!(tries <= 8, "{tries}");
        room.made(20 * MIB);
        assert!(room.fits(&unit(20 * MIB)) && !room.fits(&unit(40 * MIB)));
        assert!(room.take_error().is_some() && !room.is_known());
    }
}
