//! Which ranges an iterator of a read-write transaction has really read.

use std::ops::Bound;
use std::sync::Arc;

use kvdb_txn::ReadSet;
use parking_lot::Mutex;

use crate::write_set::WriteSet;

/// The ranges of one cursor. A seek is a read of everything from where it was asked to go to where
/// it came to stand; moving on extends the range. Ranges, not keys: an insert by another commit
/// into a gap that was passed over is a conflict (a phantom).
///
/// The transaction keeps its own hold on this, so that nothing is forgotten when an iterator is.
///
/// A key that the transaction has written itself is answered from that write, whatever is stored, and
/// was not read (SEMANTICS 20); but an operand is folded onto what is stored.
#[derive(Debug, Default)]
pub(crate) struct Track {
    current: Reach,
    finished: Vec<Reach>,
    /// The cursor shows so many of the transaction's writes, the first ones, in the place of what is
    /// stored under their keys.
    own: u64,
}

/// A range under way. An end that is `None` has not been reached by any move yet.
#[derive(Debug, Default)]
struct Reach {
    lower: Option<Bound<Vec<u8>>>,
    upper: Option<Bound<Vec<u8>>>,
}

/// A track shared by its cursor and its transaction.
pub(crate) type SharedTrack = Arc<Mutex<Track>>;

impl Track {
    /// Of a cursor that shows so many writes of its transaction in the place of what is stored.
    pub(crate) fn besides(own: u64) -> Self {
        Track { own, ..Track::default() }
    }

    /// The cursor is about to jump and then to look for an entry forward from `lower`.
    pub(crate) fn jump_forward(&mut self, lower: Bound<Vec<u8>>) {
        self.start(Reach { lower: Some(lower), upper: None });
    }

    /// The cursor is about to jump and then to look for an entry backward from `upper`.
    pub(crate) fn jump_backward(&mut self, upper: Bound<Vec<u8>>) {
        self.start(Reach { lower: None, upper: Some(upper) });
    }

    fn start(&mut self, reach: Reach) {
        let old = std::mem::replace(&mut self.current, reach);
        if old.lower.is_some() && old.upper.is_some() {
            self.finished.push(old);
        }
    }

    /// The cursor moved forward onto `key`.
    pub(crate) fn forward(&mut self, key: &[u8]) {
        let beyond = match &self.current.upper {
            Some(Bound::Included(old)) => key > &old[..],
            Some(Bound::Excluded(old)) => key >= &old[..],
            Some(Bound::Unbounded) => false,
            None => true,
        };
        if beyond {
            set(&mut self.current.upper, key);
        }
    }

    /// The cursor moved backward onto `key`.
    pub(crate) fn backward(&mut self, key: &[u8]) {
        let beyond = match &self.current.lower {
            Some(Bound::Included(old)) => key < &old[..],
            Some(Bound::Excluded(old)) => key <= &old[..],
            Some(Bound::Unbounded) => false,
            None => true,
        };
        if beyond {
            set(&mut self.current.lower, key);
        }
    }

    /// The cursor ran past the end of its bounds.
    pub(crate) fn forward_to_end(&mut self, end: &Bound<Vec<u8>>) {
        self.current.upper = Some(end.clone());
    }

    /// The cursor ran past the start of its bounds.
    pub(crate) fn backward_to_start(&mut self, start: &Bound<Vec<u8>>) {
        self.current.lower = Some(start.clone());
    }

    /// Adds all that was read to a read set: of a transaction that has written this in the end.
    pub(crate) fn collect(&self, writes: &WriteSet, reads: &mut ReadSet) {
        for reach in self.finished.iter().chain([&self.current]) {
            let (Some(lower), Some(upper)) = (&reach.lower, &reach.upper) else { continue };
            let (mut lower, upper) = (as_ref(lower), as_ref(upper));
            // Without the keys that the transaction has answered itself.
            for key in writes.answered(lower, upper, self.own) {
                reads.add_range(lower, Bound::Excluded(key));
                lower = Bound::Excluded(key);
            }
            reads.add_range(lower, upper);
        }
    }
}

/// Sets an end to "up to and including this key", reusing its buffer.
fn set(bound: &mut Option<Bound<Vec<u8>>>, key: &[u8]) {
    match bound {
        Some(Bound::Included(buffer)) => {
            buffer.clear();
            buffer.extend_from_slice(key);
        }
        _ => *bound = Some(Bound::Included(key.to_vec())),
    }
}

fn as_ref(bound: &Bound<Vec<u8>>) -> Bound<&[u8]> {
    bound.as_ref().map(|key| &key[..])
}
