//! What an oracle and the marks it handed out share.

use std::num::NonZeroU64;
use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;

use crossbeam_utils::CachePadded;

use crate::error::BeginError;
use crate::mark::{Mode, ReadMark};
use crate::marks::{Marks, TOO_LARGE};
use crate::oracle::Options;
use crate::sync::{AtomicU64, Mutex};
use crate::window::Window;

/// Slots for marks; beyond them there is a map under a lock.
#[cfg(not(loom))]
const SLOTS: usize = 128;
#[cfg(loom)]
const SLOTS: usize = 2;

/// A reference to the core whose count lies on a cache line that few others write to.
pub(crate) type Handle = Arc<CachePadded<Arc<Core>>>;

/// What is under the lock that orders commits. What each commit writes comes first: see [`Hot`].
#[repr(C)]
pub(crate) struct State {
    /// The largest version handed out.
    pub(crate) last: u64,
    /// The smallest version that failed: there are no more commits.
    pub(crate) failed: Option<NonZeroU64>,
    /// The writes that later commits are checked against.
    pub(crate) window: Window,
}

/// What every transaction that commits touches: as it begins, orders, and is published. All of it
/// but the last keys committed lies on one cache line, which moves from one committing thread to the
/// next; two lines would move twice.
#[repr(C)]
pub(crate) struct Hot {
    /// Every version up to this one is readable.
    pub(crate) published: AtomicU64,
    pub(crate) state: Mutex<State>,
}

pub(crate) struct Core {
    pub(crate) options: Options,
    hot: CachePadded<Hot>,
    /// The highest version that a scan of the marks was after; see [`crate::marks`].
    pub(crate) floor: CachePadded<AtomicU64>,
    /// `Window::front` of the window: whoever takes away what kept it from being forgotten,
    /// forgets it.
    pub(crate) front: CachePadded<AtomicU64>,
    /// `Window::forgotten` of the window: marks below it keep nothing in memory.
    forgotten: AtomicU64,
    /// No version from here on is ever published.
    unpublishable: AtomicU64,
    /// Managed mode: the highest floor that the user allows.
    pub(crate) watermark: AtomicU64,
    /// The discard floor. The lock is held during every scan of the marks that something is
    /// dropped by. It is taken under `state`, never the other way round.
    pub(crate) discarded: Mutex<u64>,
    readers: Marks,
    writers: Marks,
}

impl Deref for Core {
    type Target = Hot;

    fn deref(&self) -> &Hot {
        &self.hot
    }
}

impl Core {
    pub(crate) fn new(options: Options, last: u64, discarded: u64) -> Self {
        let last = last.max(discarded).min(TOO_LARGE - 1);
        let discarded = discarded.min(last);
        Core {
            options,
            hot: CachePadded::new(Hot {
                published: AtomicU64::new(last),
                state: Mutex::new(State::new(last)),
            }),
            floor: CachePadded::new(AtomicU64::new(discarded)),
            front: CachePadded::new(AtomicU64::new(0)),
            forgotten: AtomicU64::new(last),
            unpublishable: AtomicU64::new(u64::MAX),
            watermark: AtomicU64::new(discarded),
            discarded: Mutex::new(discarded),
            readers: Marks::new(SLOTS),
            writers: Marks::new(SLOTS),
        }
    }

    pub(crate) fn slots(&self) -> usize {
        SLOTS
    }

    #[inline]
    pub(crate) fn marks(&self, mode: Mode) -> &Marks {
        match mode {
            Mode::ReadOnly => &self.readers,
            Mode::ReadWrite => &self.writers,
        }
    }

    /// Lets a mark that was stored for a chosen version be used, or says why it may not be.
    pub(crate) fn admit(&self, mark: &mut ReadMark) -> Result<(), BeginError> {
        let version = mark.version();
        let mut floor = self.watermark.load(SeqCst);
        if !self.options.managed || version >= floor {
            if self.floor.load(SeqCst) <= mark.base() {
                return Ok(());
            }
            // No scan is under way now, and every later one finds the mark.
            let discarded = self.discarded.lock();
            floor = *discarded;
            if version >= floor {
                if mark.base() < floor {
                    mark.rebase(version.min(self.published.load(SeqCst)));
                }
                return Ok(());
            }
        }
        Err(BeginError::BelowFloor { version, floor })
    }

    pub(crate) fn low_water(&self, at_most: u64) -> u64 {
        let marks = [self.readers.lowest(0), self.writers.lowest(0)];
        marks.into_iter().flatten().fold(at_most, u64::min)
    }

    pub(crate) fn raise_floor(&self) -> u64 {
        let mut discarded = self.discarded.lock();
        let wanted = self.wanted();
        self.floor.fetch_max(wanted, SeqCst);
        // A mark below what was discarded before will be moved up, or refused.
        *discarded = self.low_water(wanted).max(*discarded);
        *discarded
    }

    pub(crate) fn publish(&self, version: u64) {
        let version = version.min(self.unpublishable.load(SeqCst) - 1);
        let before = self.published.fetch_max(version, SeqCst);
        crate::sync::order_write_before_read();
        let front = self.front.load(SeqCst);
        if before < front && front <= version {
            self.forget();
        }
    }

    pub(crate) fn fail(&self, version: u64) {
        self.unpublishable.fetch_min(version.max(1), SeqCst);
        let mut state = self.state.lock();
        let version = NonZeroU64::new(version).unwrap_or(NonZeroU64::MIN);
        state.failed = Some(state.failed.map_or(version, |earlier| earlier.min(version)));
        // There are no more commits, so none to be checked.
        let window = Window::new(state.last);
        let window = std::mem::replace(&mut state.window, window);
        self.update_front(&state);
        drop(state);
        drop(window);
    }

    /// The highest version whose writes no read-write transaction has to be checked against.
    ///
    /// A transaction that begins during the scan reads at or above the version published here, or
    /// moves up to it. One that begins at an older version, by choice, finds out at its commit;
    /// in managed mode, where that is the rule, it can rely on everything from the watermark on.
    pub(crate) fn unneeded(&self) -> u64 {
        // As in `raise_floor`, so that who clones a mark can wait for the scan.
        let _scan = self.discarded.lock();
        let wanted = self.wanted();
        self.floor.fetch_max(wanted, SeqCst);
        // A transaction below what was forgotten is too old already, and keeps nothing.
        let lowest = self.writers.lowest(self.forgotten.load(SeqCst));
        lowest.map_or(wanted, |lowest| lowest.min(wanted))
    }

    /// The newest version of which the window has forgotten the writes.
    pub(crate) fn remembered_after(&self) -> u64 {
        self.forgotten.load(SeqCst)
    }

    /// How far a scan would like to go.
    fn wanted(&self) -> u64 {
        let published = self.published.load(SeqCst);
        if self.options.managed { published.min(self.watermark.load(SeqCst)) } else { published }
    }

    /// Forgets the writes that no transaction can be in conflict with.
    ///
    /// Called by whoever removed what kept the oldest sealed block: a mark below its last version,
    /// or that version not being published. Whoever moves `front` looks at the marks again after
    /// that, and the others look at `front` after they have removed their part, so that of two who
    /// meet at least one sees the other, and nothing stays that no one needs.
    pub(crate) fn forget(&self) {
        loop {
            let unneeded = self.unneeded();
            let mut dropped = Vec::new();
            let mut state = self.state.lock();
            state.window.forget(unneeded, &mut dropped);
            self.update_front(&state);
            drop(state);
            if dropped.is_empty() {
                return;
            }
        }
    }

    /// To be called before the lock is given back whenever the oldest sealed block may have changed.
    pub(crate) fn update_front(&self, state: &State) {
        self.forgotten.store(state.window.forgotten(), SeqCst);
        self.front.store(state.window.front(), SeqCst);
        crate::sync::order_write_before_read();
    }
}
