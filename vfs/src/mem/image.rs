//! What a power loss leaves behind.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::RwLock;

use super::names::{Child, Dir, DirId, Inode, Map, Names, ROOT, apply, close};
use crate::salt::mix;

/// Decides about each piece of data that was not durable when the power failed.
///
/// [`MemFs::crash_image`](crate::MemFs::crash_image) asks in a fixed order (changes of names
/// first, then file by file in the order of their paths, pages ascending), so a policy that draws
/// from a seeded generator gives the same image for the same history.
pub trait ImagePolicy {
    /// The length of a file whose last change of length was not synced. An answer outside of
    /// `durable..=current` (or `current..=durable`) is moved to the nearer end.
    fn length(&mut self, path: &Path, durable: u64, current: u64) -> u64;

    /// Which sectors of an unsynced page made it: bit `i` stands for bytes `512 i .. 512 (i + 1)`.
    /// `0xFF` is the whole page, 0 nothing of it, anything else a torn page.
    fn page(&mut self, page: &DirtyPage<'_>) -> u8;

    /// Whether a change of names made it. Kept changes take with them all earlier ones that touch
    /// the same names, whatever was said about those.
    fn name(&mut self, change: &NameChange<'_>) -> bool;
}

/// A page that was written since the file was last synced.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct DirtyPage<'a> {
    /// A name of the file in the image.
    pub path: &'a Path,
    /// Number of the page in the file; pages have 4,096 bytes.
    pub page: u64,
    /// Number of the page among the dirty pages of the file.
    pub index: usize,
    /// How many dirty pages the file has.
    pub count: usize,
}

/// A creation (`to` only), removal (`from` only) or rename (both) whose directory was not synced
/// since. A hard link is a creation.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct NameChange<'a> {
    /// The name that goes.
    pub from: Option<&'a Path>,
    /// The name that comes.
    pub to: Option<&'a Path>,
    /// Number of the change among the pending ones, oldest first.
    pub index: usize,
    /// How many changes are pending.
    pub count: usize,
}

/// Ready-made policies.
///
/// ```
/// use kvdb_vfs::{Fs, Keep, MemFs, OpenMode, SyncSite};
/// # fn main() -> kvdb_vfs::Result<()> {
/// let fs = MemFs::new();
/// let file = fs.open("log".as_ref(), OpenMode::CreateNew)?;
/// file.write_all_at(b"never synced", 0)?;
/// assert!(fs.crash_image(&mut Keep::None).metadata("log".as_ref()).is_err());
/// assert_eq!(fs.crash_image(&mut Keep::All).metadata("log".as_ref())?.len, 12);
///
/// fs.sync_dir("/".as_ref(), SyncSite::Other(0))?; // the name, but not the contents
/// assert_eq!(fs.crash_image(&mut Keep::None).metadata("log".as_ref())?.len, 0);
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Keep {
    /// Everything made it, as if the power had failed after an undisturbed second.
    All,
    /// Nothing made it that was not synced.
    None,
    /// Chance decides, by this seed. Each file gets one of several fates: kept, dropped, pages at
    /// random, a prefix with a torn end, torn everywhere, or a single hole. The decision about an
    /// item depends on the seed and the item alone, not on what else there is.
    Random(u64),
}

/// The fate of the unsynced pages of one file.
enum Fate {
    Kept,
    Dropped,
    /// Each page with a chance of so many in eight.
    Pages(u64),
    Prefix,
    Torn,
    Hole,
}

impl Keep {
    fn fate(seed: u64, path: &Path) -> Fate {
        let roll = roll(seed, 1, path);
        match roll % 10 {
            0..=2 => Fate::Kept,
            3 => Fate::Dropped,
            4 | 5 => Fate::Pages([4, 1, 7][(roll >> 32) as usize % 3]),
            6 | 7 => Fate::Prefix,
            8 => Fate::Torn,
            _ => Fate::Hole,
        }
    }
}

impl ImagePolicy for Keep {
    fn length(&mut self, path: &Path, durable: u64, current: u64) -> u64 {
        match *self {
            Keep::All => current,
            Keep::None => durable,
            Keep::Random(seed) => match Keep::fate(seed, path) {
                Fate::Kept => current,
                Fate::Dropped => durable,
                _ => {
                    let roll = roll(seed, 2, path);
                    match roll % 4 {
                        0 => durable,
                        1 => {
                            let between = durable.abs_diff(current).saturating_add(1);
                            durable.min(current) + mix(roll) % between
                        }
                        _ => current,
                    }
                }
            },
        }
    }

    fn page(&mut self, page: &DirtyPage<'_>) -> u8 {
        let seed = match *self {
            Keep::All => return 0xFF,
            Keep::None => return 0,
            Keep::Random(seed) => seed,
        };
        let of_file = roll(seed, 3, page.path);
        let of_page = mix(of_file ^ page.page);
        let torn = (of_page >> 40) as u8;
        match Keep::fate(seed, page.path) {
            Fate::Kept => 0xFF,
            Fate::Dropped => 0,
            Fate::Pages(chance) => {
                if of_page % 8 < chance {
                    0xFF
                } else {
                    0
                }
            }
            Fate::Torn => torn,
            // The sectors of the last page of a prefix are a prefix in one half of the cases.
            Fate::Prefix => match page.index.cmp(&(of_file as usize % page.count.max(1))) {
                std::cmp::Ordering::Less => 0xFF,
                std::cmp::Ordering::Equal if of_page.is_multiple_of(2) => (1u8 << (torn % 8)) - 1,
                std::cmp::Ordering::Equal => torn,
                std::cmp::Ordering::Greater => 0,
            },
            Fate::Hole => {
                if page.index != of_file as usize % page.count.max(1) {
                    0xFF
                } else if of_page.is_multiple_of(2) {
                    0
                } else {
                    torn
                }
            }
        }
    }

    fn name(&mut self, change: &NameChange<'_>) -> bool {
        let seed = match *self {
            Keep::All => return true,
            Keep::None => return false,
            Keep::Random(seed) => seed,
        };
        let of_all = roll(seed, 4, Path::new(""));
        match of_all % 8 {
            0 | 1 => true,
            2 => false,
            3 | 4 => change.index < (of_all >> 8) as usize % (change.count + 1),
            _ => {
                let path = change.to.or(change.from).unwrap_or(Path::new(""));
                roll(mix(of_all ^ change.index as u64), 5, path).is_multiple_of(2)
            }
        }
    }
}

/// A number made of a seed, a purpose and a path.
fn roll(seed: u64, purpose: u64, path: &Path) -> u64 {
    let bytes = path.as_os_str().as_encoded_bytes();
    bytes.chunks(8).fold(mix(seed ^ mix(purpose)), |acc, chunk| {
        let mut word = [0; 8];
        word[..chunk.len()].copy_from_slice(chunk);
        mix(acc ^ u64::from_le_bytes(word))
    })
}

const OUT_OF_MEMORY: &str = "out of memory for a copy of the file system";

/// The names and files that a power loss would leave.
pub(super) fn after_power_loss(names: &Names, policy: &mut dyn ImagePolicy) -> Names {
    let count = names.pending.len();
    let mut kept: Vec<bool> = names
        .pending
        .iter()
        .enumerate()
        .map(|(index, p)| {
            let from = p.from.as_ref().map(|place| place.path.as_path());
            let to = p.to.as_ref().map(|place| place.path.as_path());
            policy.name(&NameChange { from, to, index, count })
        })
        .collect();
    close(&names.pending, &mut kept);
    let mut dirs: HashMap<DirId, Dir> = names
        .dirs
        .iter()
        .map(|(id, d)| (*id, Dir { live: Map::new(), durable: d.durable.clone() }))
        .collect();
    for (change, _) in names.pending.iter().zip(kept).filter(|(_, kept)| *kept) {
        apply(&mut dirs, |d| &mut d.durable, change);
    }
    let mut image = Image { names: Names::new(), files: HashMap::new(), policy };
    image.add_dir(&dirs, ROOT, ROOT, Path::new("/"));
    image.names
}

/// An image being built.
struct Image<'a> {
    names: Names,
    /// Files that already are in it, for those with several names.
    files: HashMap<*const Inode, Arc<Inode>>,
    policy: &'a mut dyn ImagePolicy,
}

impl Image<'_> {
    fn add_dir(&mut self, dirs: &HashMap<DirId, Dir>, from: DirId, to: DirId, path: &Path) {
        let Some(source) = dirs.get(&from) else { return };
        let mut map = Map::new();
        for (name, child) in &source.durable {
            let path = path.join(name);
            let child = match child {
                Child::File(inode) => Child::File(self.add_file(inode, &path)),
                Child::Dir(id) => {
                    let new = self.names.next_dir;
                    self.names.next_dir += 1;
                    self.add_dir(dirs, *id, new, &path);
                    Child::Dir(new)
                }
            };
            map.insert(name.clone(), child);
        }
        self.names.dirs.insert(to, Dir { live: map.clone(), durable: map });
    }

    fn add_file(&mut self, inode: &Arc<Inode>, path: &Path) -> Arc<Inode> {
        let policy = &mut *self.policy;
        let copy = self.files.entry(Arc::as_ptr(inode)).or_insert_with(|| {
            Inode::new(inode.content.read().image(path, policy).expect(OUT_OF_MEMORY))
        });
        copy.links.fetch_add(1, Ordering::SeqCst);
        copy.clone()
    }
}

/// A copy of everything, with the same parts of it not yet durable.
pub(super) fn duplicate(names: &Names) -> Names {
    let mut files: HashMap<*const Inode, Arc<Inode>> = HashMap::new();
    let mut renew = |child: &mut Child| {
        let Child::File(inode) = child else { return };
        let copy = files.entry(Arc::as_ptr(inode)).or_insert_with(|| {
            Arc::new(Inode {
                content: RwLock::new(inode.content.read().duplicate().expect(OUT_OF_MEMORY)),
                links: AtomicU64::new(inode.links.load(Ordering::SeqCst)),
                maps: Arc::default(),
            })
        });
        *inode = copy.clone();
    };
    let mut copy = names.clone();
    for dir in copy.dirs.values_mut() {
        dir.live.values_mut().for_each(&mut renew);
        dir.durable.values_mut().for_each(&mut renew);
    }
    copy.pending.iter_mut().for_each(|p| renew(&mut p.child));
    copy
}
