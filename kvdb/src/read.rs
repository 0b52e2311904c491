//! Point reads and single writes, as handles, snapshots and transactions share them.

use kvdb_lsm::entry::{self, Entry, Kind};
use kvdb_vlog::FrameBuilder;

use crate::core::{At, Core};
use crate::error::{Error, Result};
use crate::item::{Item, Looked, resolve};
use crate::limits::check_key;
use crate::merge::MergeOperator;
use crate::pipeline::memtable_bound;
use crate::value::Value;
use crate::write_set::WriteOptions;

impl Core {
    pub(crate) fn get(&self, key: &[u8], at: At) -> Result<Option<Value>> {
        self.check_read(key)?;
        self.read(|| self.lookup(key, at, |found, view| found.value(view)))
    }

    pub(crate) fn get_entry(&self, key: &[u8], at: At) -> Result<Option<Item>> {
        self.check_read(key)?;
        self.read(|| self.lookup(key, at, |found, view| found.item(view)))
    }

    pub(crate) fn get_with<R>(
        &self,
        key: &[u8],
        at: At,
        f: impl FnOnce(&[u8]) -> R,
    ) -> Result<Option<R>> {
        self.check_read(key)?;
        let mut f = Some(f);
        // A read that has called it does not fail any more.
        let read = || {
            self.lookup(key, at, |found, view| found.with(view, |bytes| f.take().map(|f| f(bytes))))
        };
        Ok(self.read(read)?.flatten())
    }

    /// Many keys of one moment, in key order, so that keys of one table follow each other.
    pub(crate) fn multi_get<K: AsRef<[u8]>>(
        &self,
        keys: &[K],
        at: At,
    ) -> Result<Vec<Option<Value>>> {
        self.check_open()?;
        let mut wanted: Vec<(&[u8], u64, usize)> = Vec::with_capacity(keys.len());
        for (place, key) in keys.iter().enumerate() {
            let key = key.as_ref();
            check_key(key)?;
            wanted.push((key, kvdb_sstable::key_hash(key), place));
        }
        wanted.sort_unstable();
        self.read(|| self.look_all_up(&wanted, at))
    }

    /// The values of keys in key order, each with its hash and its place in what is returned.
    fn look_all_up(&self, wanted: &[(&[u8], u64, usize)], at: At) -> Result<Vec<Option<Value>>> {
        /// So many filters are asked for before the first is looked at.
        const AHEAD: usize = 16;
        let mut values = vec![None; wanted.len()];
        let (version, superversion) = loop {
            let version = at.version(self);
            // Owned: there may be many keys, and a pin should be short.
            let superversion = self.superversion();
            let watermark = superversion.watermark();
            match at {
                _ if watermark <= version => break (version, superversion),
                At::Now => {}
                At::Version { .. } => return Err(Error::BelowWatermark { version, watermark }),
            }
        };
        // One look at the clock too, and not before the tables: what they may lack has expired by it.
        let at = At::Version { version, clock: at.clock(self) };
        let place = Looked { core: self, superversion: &superversion, at, version };
        for chunk in wanted.chunks(AHEAD) {
            for (key, hash, _) in chunk {
                superversion.prefetch(key, *hash);
            }
            for &(key, hash, index) in chunk {
                let Some(hit) = superversion.get(key, version, hash)? else { continue };
                if let Some(found) = resolve(&hit, key, place)? {
                    values[index] = Some(found.value(superversion.view())?);
                }
            }
        }
        Ok(values)
    }

    pub(crate) fn contains(&self, key: &[u8], at: At) -> Result<bool> {
        self.check_read(key)?;
        Ok(self.read(|| self.lookup(key, at, |_, _| Ok(())))?.is_some())
    }

    fn check_read(&self, key: &[u8]) -> Result<()> {
        self.check_open()?;
        check_key(key)
    }

    /// A commit of one write that has read nothing: straight into a frame.
    pub(crate) fn put(&self, key: &[u8], value: &[u8], options: WriteOptions) -> Result<u64> {
        check_key(key)?;
        self.limits.check_value(key.len(), value.len())?;
        self.write_one(
            key,
            Entry {
                kind: Kind::Value,
                user_meta: options.user_meta,
                expires_at: options.expiry(&self.clock, 0),
                payload: value,
            },
        )
    }

    pub(crate) fn merge(&self, key: &[u8], operand: &[u8]) -> Result<u64> {
        check_key(key)?;
        self.merge_operator(key)?;
        self.limits.check_value(key.len(), operand.len())?;
        self.write_one(key, Entry::merge(operand))
    }

    /// The operator, for a write to a key.
    pub(crate) fn merge_operator(&self, key: &[u8]) -> Result<&MergeOperator> {
        let operator = self.options.merge_operator.as_ref();
        operator.ok_or_else(|| Error::NoMergeOperator { key: key.to_vec() })
    }

    pub(crate) fn delete(&self, key: &[u8]) -> Result<u64> {
        check_key(key)?;
        let tombstone = Entry { kind: Kind::Tombstone, user_meta: 0, expires_at: 0, payload: &[] };
        self.write_one(key, tombstone)
    }

    fn write_one(&self, key: &[u8], entry: Entry<'_>) -> Result<u64> {
        let _inside = self.commits.enter()?;
        let log = self.log()?;
        self.check_unmanaged()?;
        let mut head = [0; entry::MAX_HEAD];
        let head_len = entry.encode_head(&mut head);
        let value = entry.payload;
        let record = kvdb_vlog::record_len(key.len(), head_len, value.len());
        let size = kvdb_vlog::frame_len(record);
        // A long key alone can be too much.
        self.limits.check_transaction(size)?;
        let mut frame = FrameBuilder::with_capacity(size);
        frame.push(key, &head[..head_len], value, None)?;
        let bound = memtable_bound(self.options.value_threshold, key.len(), &entry);
        let deletes = entry.kind == Kind::Tombstone;
        let admitted = self.admit(frame.finish(), bound, deletes)?;
        let durability = self.options.durability;
        let queued =
            self.oracle.commit_blind([key], |v| (v, admitted.enqueue(log, v, durability)))?;
        self.finish(queued)
    }
}
