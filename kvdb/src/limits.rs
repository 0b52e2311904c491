//! How large keys, values and transactions may be.

use crate::error::{Error, Result};

/// Most bytes of a key.
pub const MAX_KEY_LEN: usize = 65_000;

/// The limits that follow from a store's options.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    /// Most bytes of a transaction's frame.
    pub(crate) transaction: usize,
}

impl Limits {
    pub(crate) fn new(options: &crate::Options) -> Self {
        let frame = kvdb_vlog::max_frame_len(options.log_options().segment_size);
        Limits { transaction: options.max_transaction_size.map_or(frame, |size| size.min(frame)) }
    }

    /// Most bytes of a value under a key of this length: what is left of a frame that holds
    /// nothing else.
    pub(crate) fn max_value_len(&self, key_len: usize) -> usize {
        let bare =
            kvdb_vlog::frame_len(kvdb_vlog::record_len(key_len, kvdb_lsm::entry::MAX_HEAD, 0));
        self.transaction.saturating_sub(bare) & !7
    }

    pub(crate) fn check_value(&self, key_len: usize, len: usize) -> Result<()> {
        let limit = self.max_value_len(key_len);
        if len > limit { Err(Error::ValueTooLarge { len, limit }) } else { Ok(()) }
    }

    /// `size`: bytes of the frame with the write that asks.
    #[inline]
    pub(crate) fn check_transaction(&self, size: usize) -> Result<()> {
        let limit = self.transaction;
        if size > limit { Err(Error::TransactionTooBig { size, limit }) } else { Ok(()) }
    }
}

pub(crate) fn check_key(key: &[u8]) -> Result<()> {
    match key.len() {
        0 => Err(Error::EmptyKey),
        len if len > MAX_KEY_LEN => Err(Error::KeyTooLong { len, limit: MAX_KEY_LEN }),
        _ => Ok(()),
    }
}
