//! Names of tables, and the ids and nonces that all files of a store draw from.

use std::hash::{BuildHasher, Hasher};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

/// The name of a table's file within the database directory.
///
/// ```
/// assert_eq!(kvdb_lsm::table_file_name(42), "000042.sst");
/// ```
pub fn table_file_name(id: u64) -> String {
    format!("{id:06}.sst")
}

pub(crate) fn table_path(dir: &Path, id: u64) -> PathBuf {
    dir.join(table_file_name(id))
}

/// The id in a table's file name; `None` for every other name.
pub fn parse_table_file_name(name: &Path) -> Option<u64> {
    let name = name.to_str()?;
    let id: u64 = name.strip_suffix(".sst")?.parse().ok()?;
    (table_file_name(id) == name).then_some(id)
}

/// No store has come to this number by counting: a file that bears it is a stranger's, and ids that lay
/// above it would soon be more than the manifest takes.
const OUT_OF_REACH: u64 = 1 << 63;

/// The number that any file of a store starts with (`000042.sst`, `000043.log`, `000044.sst.tmp`),
/// for seeding [`FileIds`] above everything in the directory. `None` for other names, and from 2⁶³ on.
pub fn leading_file_id(name: &Path) -> Option<u64> {
    let name = name.to_str()?;
    let (digits, _) = name.split_once('.')?;
    if digits.len() < 6 || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    digits.parse().ok().filter(|&id| id < OUT_OF_REACH)
}

/// Hands out file ids, each once, and nonces for the salts of files.
///
/// One allocator serves tables and log segments alike. It lies above everything the manifest and
/// the directory know, so that a file left over by a crash never meets a namesake.
#[derive(Debug)]
pub struct FileIds {
    next: AtomicU64,
    nonce: AtomicU64,
}

impl FileIds {
    /// An allocator whose first id is `next` (at least 1), with nonces from the system's random
    /// source.
    pub fn new(next: u64) -> Self {
        let seed = std::collections::hash_map::RandomState::new().build_hasher().finish();
        FileIds::with_seed(next, seed)
    }

    /// The same with reproducible nonces.
    pub fn with_seed(next: u64, seed: u64) -> Self {
        FileIds { next: AtomicU64::new(next.max(1)), nonce: AtomicU64::new(seed) }
    }

    /// A new id.
    #[allow(clippy::should_implement_trait)]
    pub fn next(&self) -> u64 {
        self.next.fetch_add(1, Ordering::Relaxed)
    }

    /// No id below this one is free: what a change set records as `next_file`.
    pub fn bound(&self) -> u64 {
        self.next.load(Ordering::Relaxed)
    }

    /// Makes sure that `id` is never handed out.
    pub fn skip(&self, id: u64) {
        self.next.fetch_max(id.saturating_add(1), Ordering::Relaxed);
    }

    /// A new nonce (SplitMix64; not a secret).
    pub fn nonce(&self) -> u64 {
        const STEP: u64 = 0x9e37_79b9_7f4a_7c15;
        let mut x = self.nonce.fetch_add(STEP, Ordering::Relaxed).wrapping_add(STEP);
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^ (x >> 31)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_round_trip_and_others_are_not_ours() {
        for id in [1, 999_999, 1_000_000, u64::MAX] {
            assert_eq!(parse_table_file_name(Path::new(&table_file_name(id))), Some(id));
        }
        for name in ["1.sst", "0000042.sst", "000042.sst.tmp", "000042.log", "x.sst", "+00042.sst"]
        {
            assert_eq!(parse_table_file_name(Path::new(name)), None, "{name}");
        }
        assert_eq!(leading_file_id(Path::new("000042.sst.tmp")), Some(42));
        assert_eq!(leading_file_id(Path::new("MANIFEST")), None);
        assert_eq!(leading_file_id(Path::new("2024.txt")), None);
        for id in [OUT_OF_REACH, u64::MAX] {
            assert_eq!(leading_file_id(Path::new(&table_file_name(id))), None);
        }
        let most = OUT_OF_REACH - 1;
        assert_eq!(leading_file_id(Path::new(&table_file_name(most))), Some(most));
    }

    #[test]
    fn ids_never_repeat_and_lie_above_what_was_skipped() {
        let ids = FileIds::with_seed(0, 7);
        assert_eq!(ids.next(), 1);
        ids.skip(10);
        ids.skip(3);
        assert_eq!((ids.next(), ids.bound()), (11, 12));
        assert_ne!(ids.nonce(), ids.nonce());
    }
}
