//! Compression of blocks.

use std::fmt;

use crate::{Error, ErrorKind, Part, Result};

/// How blocks are compressed. Recorded per table and per block: a block that does not shrink by an
/// eighth is stored as it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum Codec {
    /// Stored as it is, and read in place where the source allows it.
    #[default]
    None,
    /// LZ4 block format.
    Lz4,
    /// Zstandard at this level (1..=22; 3 is usual).
    #[cfg(feature = "zstd")]
    Zstd(i32),
}

/// The name, without the level.
impl fmt::Display for Codec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Codec::None => "none",
            Codec::Lz4 => "lz4",
            #[cfg(feature = "zstd")]
            Codec::Zstd(_) => "zstd",
        })
    }
}

const NONE: u8 = 0;
const LZ4: u8 = 1;
const ZSTD: u8 = 2;

/// No codec's output may claim to be more than this many times its input (plus a page). It is LZ4's
/// own limit, and it bounds what a forged block can make a reader allocate.
const MAX_RATIO: u64 = 255;

pub(crate) fn plausible(raw: u64, payload: u64) -> bool {
    raw <= payload.saturating_mul(MAX_RATIO) + 4096
}

impl Codec {
    pub(crate) fn id(self) -> u8 {
        match self {
            Codec::None => NONE,
            Codec::Lz4 => LZ4,
            #[cfg(feature = "zstd")]
            Codec::Zstd(_) => ZSTD,
        }
    }

    /// The codec of an id in a file. The level is not recorded.
    pub(crate) fn from_id(id: u8) -> Result<Codec> {
        match id {
            NONE => Ok(Codec::None),
            LZ4 => Ok(Codec::Lz4),
            #[cfg(feature = "zstd")]
            ZSTD => Ok(Codec::Zstd(0)),
            #[cfg(not(feature = "zstd"))]
            ZSTD => Err(Error::new(ErrorKind::UnknownCodec(ZSTD))),
            other => Err(Error::new(ErrorKind::UnknownCodec(other))),
        }
    }

    /// Appends the compressed form of `raw` to `out` and returns the id of the codec that was used;
    /// or appends nothing, if compression is not worth it.
    pub(crate) fn compress(self, raw: &[u8], out: &mut Vec<u8>) -> Result<Option<u8>> {
        let start = out.len();
        let worth = |len: usize| {
            len <= raw.len() - raw.len() / 8 && plausible(raw.len() as u64, len as u64)
        };
        match self {
            Codec::None => return Ok(None),
            Codec::Lz4 => compress_lz4(raw, out)?,
            #[cfg(feature = "zstd")]
            Codec::Zstd(level) => {
                out.resize(start + zstd::zstd_safe::compress_bound(raw.len()), 0);
                let len = zstd_context::compress(raw, &mut out[start..], level)?;
                out.truncate(start + len);
                if !plausible(raw.len() as u64, len as u64) {
                    // Zstandard knows no limit; LZ4 does.
                    out.truncate(start);
                    compress_lz4(raw, out)?;
                    return Ok(Some(LZ4));
                }
            }
        }
        if worth(out.len() - start) {
            return Ok(Some(self.id()));
        }
        out.truncate(start);
        Ok(None)
    }

    /// Decompresses `payload` behind what is in `out`, to exactly `len` bytes. The caller has checked
    /// that `len` is [`plausible`].
    pub(crate) fn decompress(self, payload: &[u8], out: &mut Vec<u8>, len: usize) -> Result<()> {
        let start = out.len();
        out.resize(start + len, 0);
        let got = match self {
            Codec::None => return Err(Error::corrupt(Part::Block, "not compressed")),
            Codec::Lz4 => lz4_flex::block::decompress_into(payload, &mut out[start..])
                .map_err(|_| Error::corrupt(Part::Block, "LZ4 data do not decompress"))?,
            #[cfg(feature = "zstd")]
            Codec::Zstd(_) => zstd_context::decompress(payload, &mut out[start..])
                .map_err(|_| Error::corrupt(Part::Block, "Zstandard data do not decompress"))?,
        };
        if got != len {
            return Err(Error::corrupt(Part::Block, "decompressed length differs"));
        }
        Ok(())
    }
}

fn compress_lz4(raw: &[u8], out: &mut Vec<u8>) -> Result<()> {
    let start = out.len();
    out.resize(start + lz4_flex::block::get_maximum_output_size(raw.len()), 0);
    let len = lz4_flex::block::compress_into(raw, &mut out[start..])
        .map_err(|_| Error::new(ErrorKind::TooLarge(raw.len() as u64)))?;
    out.truncate(start + len);
    Ok(())
}

/// Zstandard's contexts are large; each thread keeps one of each.
#[cfg(feature = "zstd")]
mod zstd_context {
    use std::cell::RefCell;
    use std::io::Result;

    use zstd::bulk::{Compressor, Decompressor};

    thread_local! {
        static COMPRESSOR: RefCell<Option<Compressor<'static>>> = const { RefCell::new(None) };
        static DECOMPRESSOR: RefCell<Option<Decompressor<'static>>> = const { RefCell::new(None) };
    }

    pub(super) fn compress(raw: &[u8], out: &mut [u8], level: i32) -> Result<usize> {
        COMPRESSOR.with_borrow_mut(|slot| {
            let compressor = match slot {
                Some(compressor) => compressor,
                None => slot.insert(Compressor::new(level)?),
            };
            compressor.set_compression_level(level)?;
            compressor.compress_to_buffer(raw, out)
        })
    }

    pub(super) fn decompress(payload: &[u8], out: &mut [u8]) -> Result<usize> {
        DECOMPRESSOR.with_borrow_mut(|slot| {
            let decompressor = match slot {
                Some(decompressor) => decompressor,
                None => slot.insert(Decompressor::new()?),
            };
            decompressor.decompress_to_buffer(payload, out)
        })
    }
}
