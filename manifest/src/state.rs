//! What a user of the crate brings: a change-set type and the state it adds up to.

/// What the change sets of a manifest add up to.
///
/// A manifest is a list of changes; the state is their sum, starting from `Default`. The manifest
/// calls [`check`](State::check) before a change is written and, when it is durable,
/// [`apply`](State::apply) on the very state that was checked. Replay does the same.
pub trait State: Default + Send + Sync {
    /// One atomic change. Lengths are checked before decoding; unknown fields are skipped, as
    /// protocol buffers do, so a change of meaning needs a feature name or a new format.
    type Change: prost::Message + Default;

    /// Whether `change` may be applied to this state.
    ///
    /// # Errors
    /// What does not fit. The change is then neither written nor applied. During replay it makes
    /// opening fail.
    fn check(&self, change: &Self::Change) -> Result<(), Inconsistent> {
        let _ = change;
        Ok(())
    }

    /// Applies a change that [`check`](State::check) has accepted for this state. Must not panic:
    /// the change is on disk already, and a panic poisons the manifest.
    fn apply(&mut self, change: &Self::Change);

    /// One change that leads from the default state to this one. Equal states must give equal
    /// encodings (no iteration over hash maps), because verification compares them.
    fn snapshot(&self) -> Self::Change;
}

/// A change that does not fit the state.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Inconsistent {
    /// The change needs a feature of a newer version.
    #[error("unknown feature {0:?}")]
    UnknownFeature(String),
    /// Anything else, in words, with the ids that matter.
    #[error("{0}")]
    Change(String),
}

impl Inconsistent {
    /// An inconsistency in words.
    pub fn new(what: impl Into<String>) -> Self {
        Inconsistent::Change(what.into())
    }
}
