//! Folding the merge operands of a key while its versions go by, newest first.
//!
//! Operands at or below the discard floor are seen by every reader together or, where something
//! newer stops the reader, not at all. So of those that follow each other one remains, with the
//! version of the newest; and it becomes a value where it lies on a value without expiry, on a
//! tombstone, or at the bottom of the tree. Only with one version to keep, and only what lies in
//! the tree: an operand or value in the log ends the fold and stays as it is.

use crate::companion::Companion;
use crate::entry::{Entry, Kind};

use super::dropping::Verdict;

/// The operands of the current key that came by last, folded into one and held back.
#[derive(Debug)]
pub(crate) struct Chain {
    pub(crate) version: u64,
    payload: Vec<u8>,
    user_meta: u8,
    kind: Kind,
}

/// What has become of an entry that came by below a chain.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Next {
    /// It is part of the chain now.
    Folded,
    /// The chain is at its end, with this entry in it: to be written.
    Ended,
    /// The chain ends above this entry: to be written first, then the entry as its verdict says.
    Apart,
}

impl Chain {
    /// Begins with an entry that stays, if it is an operand that can be folded.
    pub(crate) fn begin(version: u64, entry: &Entry<'_>) -> Option<Chain> {
        (entry.kind == Kind::Merge && entry.expires_at == 0).then(|| Chain {
            version,
            payload: entry.payload.to_vec(),
            user_meta: entry.user_meta,
            kind: Kind::Merge,
        })
    }

    /// Goes on to the next older entry of the key.
    pub(crate) fn go_on<C: Companion>(
        &mut self,
        companion: &C,
        key: &[u8],
        entry: &Entry<'_>,
        verdict: Verdict,
    ) -> Next {
        // Deleted, expired, or hidden by a range delete: nothing below this counts any more.
        if verdict != Verdict::Keep || entry.kind == Kind::Tombstone {
            self.kind = Kind::Value;
            return Next::Ended;
        }
        if !matches!(entry.kind, Kind::Merge | Kind::Value) || entry.expires_at != 0 {
            return Next::Apart;
        }
        let Some(folded) = companion.fold(key, entry.payload, &self.payload) else {
            return Next::Apart;
        };
        self.payload = folded;
        self.kind = entry.kind;
        if entry.kind == Kind::Merge {
            return Next::Folded;
        }
        self.user_meta = entry.user_meta;
        Next::Ended
    }

    /// There is nothing older of the key anywhere.
    pub(crate) fn reached_bottom(&mut self) {
        self.kind = Kind::Value;
    }

    pub(crate) fn entry(&self) -> Entry<'_> {
        Entry::new(self.kind, &self.payload).with_meta(self.user_meta)
    }
}
