//! Stores with garbage, and what is to be on their disks.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::{Arc, OnceLock};

use kvdb::vfs::{Fault, FaultFs, FaultPlan, Fs, Keep, MemFs, Op, OpenMode};
use kvdb::{Db, GcOptions, Options, Step};

use kvdb_manifest::Manifest;
use kvdb_manifest::store::StoreState;

use crate::common;
use crate::common::{Contents, PATH, contents, manual, open, scale, value};

pub(crate) const SIZE: usize = 20_000;

/// Keys of a store on which many things are tried.
pub(crate) const FEW: u64 = 100;

pub(crate) fn key(i: u64) -> Vec<u8> {
    format!("key{i:05}").into_bytes()
}

pub(crate) fn put(db: &Db, model: &mut Contents, i: u64, round: u64) {
    let v = value(i << 16 | round, SIZE);
    db.put(key(i), &v).unwrap();
    model.insert(key(i), v);
}

pub(crate) fn delete(db: &Db, model: &mut Contents, i: u64) {
    db.delete(key(i)).unwrap();
    model.remove(&key(i));
}

/// 300 values in some six segments; of those under two of three keys nothing is left. Made once,
/// every test has its own copy.
pub(crate) fn with_garbage() -> (Arc<MemFs>, Db, Contents) {
    static MADE: OnceLock<(MemFs, Contents)> = OnceLock::new();
    garbage_under(300, &MADE)
}

/// The same in three segments, for what is tried at every operation of a collection.
pub(crate) fn with_little_garbage() -> (Arc<MemFs>, Db, Contents) {
    static MADE: OnceLock<(MemFs, Contents)> = OnceLock::new();
    garbage_under(FEW, &MADE)
}

pub(crate) fn garbage_under(
    keys: u64,
    made: &OnceLock<(MemFs, Contents)>,
) -> (Arc<MemFs>, Db, Contents) {
    let (image, model) = made.get_or_init(|| {
        let mutant = common::SKIPPED.replace(None);
        let fs = Arc::new(MemFs::new());
        let db = open(&manual(), &fs).unwrap();
        let mut model = Contents::new();
        for i in 0..keys {
            put(&db, &mut model, i, 0);
        }
        for i in 0..keys {
            match i % 3 {
                0 => put(&db, &mut model, i, 1),
                1 => delete(&db, &mut model, i),
                _ => {}
            }
        }
        db.compact().unwrap();
        while db.step(Step::PrepareLog).unwrap() {}
        db.close().unwrap();
        common::SKIPPED.set(mutant);
        (fs.process_image(), model)
    });
    let fs = Arc::new(image.process_image());
    let db = open(&manual(), &fs).unwrap();
    (fs, db, model.clone())
}

/// A store of [`with_garbage`] whose file system can be made to fail, and what is below that.
pub(crate) fn with_faults(options: &Options) -> (Arc<MemFs>, FaultFs, Db, Contents) {
    let (inner, db, model) = with_garbage();
    db.close().unwrap();
    let fs = FaultFs::new(inner.clone() as Arc<dyn Fs>);
    let db = options.open_in(Arc::new(fs.clone()), PATH).unwrap();
    (inner, fs, db, model)
}

pub(crate) fn now(db: &Db) -> Contents {
    contents(&db.snapshot().unwrap())
}

/// Names in the store's directory.
pub(crate) fn names(fs: &MemFs) -> Vec<String> {
    let list = fs.list(Path::new(PATH)).unwrap();
    list.into_iter().map(|e| e.name.display().to_string()).collect()
}

pub(crate) fn with_extension(fs: &MemFs, extensions: &[&str]) -> Vec<String> {
    let is = |n: &String| extensions.iter().any(|e| n.ends_with(e));
    names(fs).into_iter().filter(is).collect()
}

/// The kinds of files of the log.
pub(crate) const LOG: &[&str] = &[".vlog", ".vrec", ".vrel"];

/// Bytes on disk of all files of the log.
pub(crate) fn log_files(fs: &MemFs) -> u64 {
    let names = with_extension(fs, LOG);
    names.iter().map(|n| fs.metadata(&Path::new(PATH).join(n)).unwrap().len).sum()
}

/// The files of relocation tables that the manifest names.
fn relocation_tables(fs: &MemFs) -> Vec<u64> {
    let image = Arc::new(fs.process_image());
    let (manifest, _) =
        Manifest::<StoreState>::open(image, Path::new(PATH), Default::default()).unwrap();
    manifest.read(|state| {
        let moved = state.segments().values().filter_map(|s| s.relocated.as_ref());
        let tables: BTreeSet<u64> = moved.map(|moved| moved.table).collect();
        tables.into_iter().collect()
    })
}

pub(crate) fn check_image(image: MemFs, model: &Contents, what: &str) {
    let image = Arc::new(image);
    let db = open(&manual(), &image).unwrap_or_else(|e| panic!("{what}: {e}"));
    assert!(now(&db) == *model, "{what}");
    db.verify().unwrap_or_else(|e| panic!("{what}: {e}"));
    // Every file there is one that the store knows.
    let known = db.stats().log_files;
    for name in with_extension(&image, &[".vrec", ".vlog"]) {
        let number: u64 = name[..6].parse().unwrap();
        assert!(known.iter().any(|f| f.file == number), "{what}: {name} is a leftover");
    }
    let tables = relocation_tables(&image);
    let there: Vec<u64> =
        with_extension(&image, &[".vrel"]).iter().map(|name| name[..6].parse().unwrap()).collect();
    assert_eq!(there, tables, "{what}: relocation tables");
    db.gc(&GcOptions::full()).unwrap_or_else(|e| panic!("{what}: {e}"));
    assert!(now(&db) == *model, "{what}: collected");
}

/// What a file of the store holds.
pub(crate) fn bytes_of(fs: &MemFs, name: &str) -> Vec<u8> {
    let file = fs.open(&Path::new(PATH).join(name), OpenMode::Read).unwrap();
    let mut bytes = vec![0; file.len().unwrap() as usize];
    file.read_exact_at(&mut bytes, 0).unwrap();
    bytes
}

/// The first file with this extension that has these bytes, and where.
pub(crate) fn place_of(fs: &MemFs, extension: &str, bytes: &[u8]) -> (String, u64) {
    let found = with_extension(fs, &[extension]).into_iter().find_map(|name| {
        let at = bytes_of(fs, &name).windows(bytes.len()).position(|w| w == bytes)?;
        Some((name, at as u64))
    });
    found.unwrap()
}

/// Makes another byte of the one there.
pub(crate) fn damage(fs: &MemFs, name: &str, at: u64) {
    let file = fs.open(&Path::new(PATH).join(name), OpenMode::ReadWrite).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[!byte[0]], at).unwrap();
}

/// In turn every operation of a collection fails, each on a copy of `base`: nothing is lost by it, nor by a
/// power cut or an end of the process after it.
pub(crate) fn check_any_failure(base: &MemFs, model: &Contents, faults: &[Fault]) {
    let mut cases = 0;
    for &fault in faults {
        for n in 0.. {
            let what = format!("{fault:?} at operation {n}");
            let inner = Arc::new(base.process_image());
            let fs = FaultFs::new(inner.clone() as Arc<dyn Fs>);
            let db = manual().open_in(Arc::new(fs.clone()), PATH).unwrap();
            let armed = fs.arm(FaultPlan::new(fault).after(n));
            let result = db.gc(&GcOptions::default());
            if armed.fired() == 0 {
                break;
            }
            cases += 1;
            armed.disarm();
            assert!(now(&db) == *model, "{what}: {result:?}");
            let image = inner.crash_image(&mut Keep::Random(n));
            check_image(image, model, &format!("{what}, power cut"));
            let _ = db.close();
            check_image(inner.process_image(), model, &what);
        }
    }
    assert!(cases > 60, "{cases}");
}

/// What of that which was not synced is there after a power cut before an operation.
pub(crate) type Policy = Box<dyn Fn(u64) -> Keep + Send + Sync>;

/// Nothing is lost by a power cut before any operation of what is done. `images` does it and makes the images
/// of one round, and says what is in the store.
pub(crate) fn check_any_power_cut(images: impl Fn(Policy) -> (Vec<MemFs>, Contents)) {
    for round in 0..2 * scale() {
        let (images, model) = images(Box::new(move |n| match (n + round) % 4 {
            0 => Keep::All,
            1 => Keep::None,
            _ => Keep::Random(round << 32 | n),
        }));
        assert!(images.len() > 20, "{}", images.len());
        for (n, image) in images.into_iter().enumerate() {
            check_image(image, &model, &format!("round {round}, operation {n}"));
        }
    }
}

/// Images of power cuts before every operation of what is done.
pub(crate) fn power_cuts(
    fs: &MemFs,
    policy: impl Fn(u64) -> Keep + Send + Sync + 'static,
    act: impl FnOnce(),
) -> Vec<MemFs> {
    let cuts: Arc<parking_lot::Mutex<Vec<MemFs>>> = Arc::default();
    let taken = cuts.clone();
    fs.on_operation(move |fs: &MemFs, _: Op, _: &Path| {
        let n = taken.lock().len() as u64;
        let image = fs.crash_image(&mut policy(n));
        taken.lock().push(image);
    });
    act();
    fs.clear_hook();
    std::mem::take(&mut *cuts.lock())
}

/// The files of a store that was in memory, on a disk.
pub(crate) fn on_disk(fs: &MemFs) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for name in names(fs) {
        std::fs::write(dir.path().join(&name), bytes_of(fs, &name)).unwrap();
    }
    dir
}

/// How many descriptors of files in this directory the process has, where that can be told.
pub(crate) fn descriptors(dir: &Path) -> Option<usize> {
    let links = std::fs::read_dir("/proc/self/fd").ok()?;
    let held = links.filter_map(|e| std::fs::read_link(e.ok()?.path()).ok());
    Some(held.filter(|path| path.starts_with(dir)).count())
}
