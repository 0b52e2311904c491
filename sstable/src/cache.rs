//! [`BlockCache`]: decoded blocks, shared by any number of tables.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use kvdb_vfs::Region;
use quick_cache::Weighter;
use quick_cache::sync::Cache;

/// A cache of decoded blocks with a capacity in bytes, for tables that are compressed or read by
/// position. Cloning shares it.
///
/// Blocks that are read in place never enter it. A value that was handed out keeps its block alive
/// whether or not the cache still holds it.
#[derive(Clone)]
pub struct BlockCache(Arc<Cache<(u64, u64), Region, Weight>>);

/// What an entry costs beside its bytes: two allocations and the cache's own node.
const OVERHEAD: u64 = 128;

#[derive(Clone)]
struct Weight;

impl Weighter<(u64, u64), Region> for Weight {
    fn weight(&self, _key: &(u64, u64), block: &Region) -> u64 {
        block.len() as u64 + OVERHEAD
    }
}

impl BlockCache {
    /// A cache of up to `capacity` bytes.
    pub fn new(capacity: u64) -> Self {
        let estimated_blocks =
            usize::try_from(capacity / 4096).unwrap_or(usize::MAX).clamp(16, 1 << 24);
        BlockCache(Arc::new(Cache::with_weighter(estimated_blocks, capacity, Weight)))
    }

    /// Bytes in the cache.
    pub fn weight(&self) -> u64 {
        self.0.weight()
    }

    /// Blocks in the cache.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether nothing is in the cache.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    #[inline]
    pub(crate) fn get(&self, table: u64, offset: u64) -> Option<Region> {
        self.0.get(&(table, offset))
    }

    pub(crate) fn insert(&self, table: u64, offset: u64, block: Region) {
        self.0.insert((table, offset), block);
    }
}

impl fmt::Debug for BlockCache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "BlockCache({} blocks, {} bytes)", self.len(), self.weight())
    }
}

/// A number for each open table of this process. Not the table's id: two databases may share a
/// cache, and a file may be replaced and opened again.
pub(crate) fn next_handle() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    NEXT.fetch_add(1, Ordering::Relaxed)
}
