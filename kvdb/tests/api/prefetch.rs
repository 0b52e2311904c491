//! Values ahead of an iterator are asked for (DESIGN: reading), and that is not a read.

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::common::{PATH, memory, tiny, value};
use kvdb::vfs::{
    Advice, Entry, File, Fs, LockGuard, LockMode, MemFs, Metadata, OpenMode, Region, Result,
    SyncSite, WriteMode,
};
use kvdb::{Durability, Error, GcOptions};
use parking_lot::Mutex;

/// Notes which ranges of the log are said to be needed soon.
#[derive(Debug)]
struct Noting {
    inner: MemFs,
    asked: Arc<Mutex<Vec<Range<u64>>>>,
    /// Maps made for reading along.
    along: Arc<AtomicUsize>,
}

#[derive(Debug)]
struct NotingFile {
    inner: Arc<dyn File>,
    asked: Arc<Mutex<Vec<Range<u64>>>>,
    along: Arc<AtomicUsize>,
}

impl File for NotingFile {
    fn path(&self) -> &Path {
        self.inner.path()
    }
    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<usize> {
        self.inner.read_at(buf, offset)
    }
    fn write_all_at(&self, buf: &[u8], offset: u64) -> Result<()> {
        self.inner.write_all_at(buf, offset)
    }
    fn write_all_at_with(&self, buf: &[u8], offset: u64, mode: WriteMode) -> Result<()> {
        self.inner.write_all_at_with(buf, offset, mode)
    }
    fn sync_data(&self, site: SyncSite) -> Result<()> {
        self.inner.sync_data(site)
    }
    fn allocate(&self, len: u64) -> Result<()> {
        self.inner.allocate(len)
    }
    fn set_len(&self, len: u64) -> Result<()> {
        self.inner.set_len(len)
    }
    fn len(&self) -> Result<u64> {
        self.inner.len()
    }
    fn links(&self) -> Result<u64> {
        self.inner.links()
    }
    fn is_held(&self) -> Result<bool> {
        self.inner.is_held()
    }
    fn map(&self, range: Range<u64>) -> Result<Option<Region>> {
        self.inner.map(range)
    }
    fn map_for(&self, range: Range<u64>, pattern: Advice) -> Result<Option<Region>> {
        self.along.fetch_add(usize::from(pattern == Advice::Sequential), Ordering::Relaxed);
        self.inner.map_for(range, pattern)
    }
    fn advise(&self, range: Range<u64>, advice: Advice) {
        let log = self.path().extension().is_some_and(|e| e == "vlog" || e == "vrec");
        if advice == Advice::WillNeed && log {
            self.asked.lock().push(range.clone());
        }
        self.inner.advise(range, advice);
    }
}

impl Fs for Noting {
    fn open(&self, path: &Path, mode: OpenMode) -> Result<Arc<dyn File>> {
        let inner = self.inner.open(path, mode)?;
        let (asked, along) = (self.asked.clone(), self.along.clone());
        Ok(Arc::new(NotingFile { inner, asked, along }))
    }
    fn rename(&self, from: &Path, to: &Path) -> Result<()> {
        self.inner.rename(from, to)
    }
    fn remove(&self, path: &Path) -> Result<()> {
        self.inner.remove(path)
    }
    fn hard_link(&self, from: &Path, to: &Path) -> Result<()> {
        self.inner.hard_link(from, to)
    }
    fn list(&self, dir: &Path) -> Result<Vec<Entry>> {
        self.inner.list(dir)
    }
    fn metadata(&self, path: &Path) -> Result<Metadata> {
        self.inner.metadata(path)
    }
    fn create_dir_all(&self, dir: &Path) -> Result<()> {
        self.inner.create_dir_all(dir)
    }
    fn remove_dir(&self, dir: &Path) -> Result<()> {
        self.inner.remove_dir(dir)
    }
    fn sync_dir(&self, dir: &Path, site: SyncSite) -> Result<()> {
        self.inner.sync_dir(dir, site)
    }
    fn lock(&self, dir: &Path, mode: LockMode) -> Result<LockGuard> {
        self.inner.lock(dir, mode)
    }
}

#[test]
fn values_of_the_log_ahead_of_an_iterator_are_asked_for_each_way_and_none_for_keys() {
    let asked = Arc::default();
    let fs = Noting { inner: MemFs::new(), asked: Arc::clone(&asked), along: Arc::default() };
    let db =
        tiny().durability(Durability::Buffered).open_in(Arc::new(fs), PathBuf::from(PATH)).unwrap();
    for i in 0..200u64 {
        db.put(i.to_be_bytes(), value(i, 2000)).unwrap();
    }
    let bytes = || asked.lock().drain(..).map(|r: Range<u64>| r.end - r.start).sum::<u64>();
    bytes();
    assert_eq!(db.iter().unwrap().keys().count(), 200);
    assert_eq!(db.iter().unwrap().prefetch(0).count(), 200);
    assert_eq!(bytes(), 0, "nobody wants the values");
    let snapshot = db.snapshot().unwrap();
    for backward in [false, true] {
        let mut iter = snapshot.iter();
        let mut next = || if backward { iter.next_back() } else { iter.next() };
        next().unwrap().unwrap();
        let first = bytes();
        assert!((32 * 2000..40 * 2000).contains(&first), "32 values ahead, not {first} bytes");
        for _ in 1..200 {
            next().unwrap().unwrap();
        }
        assert!(next().is_none());
        let all = first + bytes();
        assert!((199 * 2000..199 * 2300).contains(&all), "each value once, not {all} bytes");
    }
    // Values in the tree need none of it.
    for i in 0..200u64 {
        db.put(i.to_be_bytes(), value(i, 20)).unwrap();
    }
    assert_eq!(db.iter().unwrap().count(), 200);
    assert_eq!(bytes(), 0);
}

#[test]
fn values_that_lie_in_the_order_they_are_read_in_are_left_to_the_system() {
    const MIB: u64 = 1 << 20;
    let (asked, along) = (Arc::default(), Arc::<AtomicUsize>::default());
    let fs = Noting { inner: MemFs::new(), asked: Arc::clone(&asked), along: along.clone() };
    let options = tiny().segment_size(2 << 20).durability(Durability::Buffered);
    let db = options.collect_garbage(false).open_in(Arc::new(fs), PathBuf::from(PATH)).unwrap();
    let mut order: Vec<u64> = (0..400).collect();
    fastrand::Rng::with_seed(3).shuffle(&mut order);
    for i in order {
        db.put(i.to_be_bytes(), value(i, 20_000)).unwrap();
    }
    let bytes = || asked.lock().drain(..).map(|r: Range<u64>| r.end - r.start).sum::<u64>();
    let scan = |backward: bool| {
        bytes();
        let mut iter = db.iter().unwrap();
        for i in 0..400u64 {
            let item = if backward { iter.next_back() } else { iter.next() }.unwrap().unwrap();
            let i = if backward { 399 - i } else { i };
            assert_eq!(item.key(), i.to_be_bytes());
            assert_eq!(item.value().unwrap(), value(i, 20_000));
        }
        bytes()
    };
    let maps = || along.load(Ordering::Relaxed);
    assert!(scan(false) > 7 * MIB);
    assert_eq!(maps(), 0, "they lie as they were written");
    db.gc(&GcOptions::full()).unwrap();
    // A mebibyte until it is sure, and what was asked for ahead of that.
    let first = scan(false);
    assert!((MIB..4 * MIB).contains(&first), "{first}");
    assert!(maps() >= 3, "of each file but perhaps the first: {}", maps());
    assert!(scan(true) > 7 * MIB, "nobody reads ahead backward");
    // An order that was seen says nothing about where a seek leads.
    let mut iter = db.iter().unwrap();
    assert_eq!(iter.by_ref().take(200).count(), 200);
    bytes();
    iter.seek(0u64.to_be_bytes());
    iter.next().unwrap().unwrap();
    assert!(bytes() > 20_000, "asked for ahead, as at the start");
    // Keys, and those who want few of the values, need no map.
    let before = maps();
    assert_eq!(db.iter().unwrap().keys().count(), 400);
    assert_eq!(db.iter().unwrap().prefetch(0).count(), 400);
    assert_eq!((bytes(), maps()), (0, before));
}

#[test]
fn rule_19_what_was_only_fetched_ahead_was_not_read() {
    let (db, _fs) = memory();
    for i in 0..100u8 {
        db.put([i], value(i.into(), 2000)).unwrap();
    }
    for (key, conflicts) in [(1u8, true), (20, false)] {
        let mut t = db.begin().unwrap();
        assert_eq!(t.iter().take(3).count(), 3);
        t.put("other", "v").unwrap();
        db.put([key], value(0, 2000)).unwrap();
        assert_eq!(matches!(t.commit(), Err(Error::Conflict)), conflicts, "{key}");
    }
}

#[test]
fn rule_28_seeks_and_turns_of_an_iterator_that_fetches_ahead_give_what_is_there() {
    let (db, _fs) = memory();
    for i in 0..100u8 {
        db.put([i], value(i.into(), 300)).unwrap();
    }
    let mut rng = fastrand::Rng::with_seed(9);
    for ahead in [1, 2, 7, 1000] {
        let mut iter = db.iter().unwrap().prefetch(ahead);
        for _ in 0..50 {
            let key = rng.u8(..90);
            iter.seek([key]);
            for i in 0..rng.u8(1..10) {
                let item = iter.next().unwrap().unwrap();
                assert_eq!(item.key(), [key + i]);
                assert_eq!(item.value().unwrap(), value((key + i).into(), 300));
            }
        }
    }
}
