//! What can be set.

use crate::format::{MAX_SEGMENT_SIZE, MIN_SEGMENT_SIZE, PAGE};
use crate::{Error, Result};

/// Settings of a log. They may differ from one opening to the next: what is on disk describes
/// itself.
#[derive(Debug, Clone)]
pub struct Options {
    /// Size of a full-grown segment file in bytes: 1 MiB to 2 GiB, a multiple of 4096. Bounds the
    /// largest frame, see [`max_frame_len`](crate::max_frame_len). Default 128 MiB.
    pub segment_size: u32,
    /// Size of the first segment; each later one is twice as large as its predecessor until
    /// `segment_size` is reached, so that a small store stays small. 64 KiB to `segment_size`, a
    /// multiple of 4096. Default 4 MiB. A frame that needs more gets a larger segment at once.
    pub initial_segment_size: u32,
    /// A segment is also left when it holds this many records. Default: no limit.
    pub max_segment_records: u64,
    /// Write zeros over a new segment ahead of time. A sync after a write into blocks that were
    /// written before touches no file system metadata and is two to three times as fast; for
    /// [`Durability::Buffered`] alone it only costs. Default true.
    pub prefill: bool,
    /// How bytes become durable. Default [`SyncMethod::Direct`].
    pub sync_method: SyncMethod,
    /// A leader takes at most this many bytes of frames into one group (one frame at least).
    /// Default 4 MiB.
    pub max_group_bytes: usize,
    /// Verify a record's checksum whenever it is read. Default true.
    pub verify_reads: bool,
    /// Read through memory maps; `false`: by positioned reads, where an I/O error is an error
    /// and not a signal. Default true.
    pub maps: bool,
    /// With buffered commits, [`Log::prepare`](crate::Log::prepare) syncs when this many bytes
    /// were written since the last sync; a leader does it itself at twice as many. Bounds what a
    /// power loss can take, and what recovery must write again. Default 32 MiB.
    pub sync_interval_bytes: u64,
    /// When damage to durable data is found during replay, go on as if the log had ended there
    /// and say so in [`ReplayEnd::damage`](crate::ReplayEnd::damage), instead of failing.
    /// Acknowledged data is lost by that: off unless a person asked for it. Default false.
    pub salvage: bool,
    /// Lifts the lower bound on segment sizes to three pages. For tests.
    #[doc(hidden)]
    pub tiny_segments: bool,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            segment_size: 128 << 20,
            initial_segment_size: 4 << 20,
            max_segment_records: u64::MAX,
            prefill: true,
            sync_method: SyncMethod::Direct,
            max_group_bytes: 4 << 20,
            verify_reads: true,
            maps: true,
            sync_interval_bytes: 32 << 20,
            salvage: false,
            tiny_segments: false,
        }
    }
}

impl Options {
    /// Checks every setting.
    ///
    /// # Errors
    /// [`Error::BadOption`], naming the first one that is out of range.
    pub fn validate(&self) -> Result<()> {
        let (low, low_initial) =
            if self.tiny_segments { (3 * PAGE, 3 * PAGE) } else { (MIN_SEGMENT_SIZE, 64 << 10) };
        let check = |ok: bool, option, value, range| match ok {
            true => Ok(()),
            false => Err(Error::BadOption { option, value, range }),
        };
        let (size, initial) = (self.segment_size, self.initial_segment_size);
        check(
            (low..=MAX_SEGMENT_SIZE).contains(&size) && size.is_multiple_of(PAGE),
            "segment_size",
            size.into(),
            "1 MiB..=2 GiB, in multiples of 4096",
        )?;
        check(
            (low_initial..=size).contains(&initial) && initial.is_multiple_of(PAGE),
            "initial_segment_size",
            initial.into(),
            "64 KiB..=segment_size, in multiples of 4096",
        )?;
        check(self.max_segment_records > 0, "max_segment_records", 0, "1..")?;
        check(self.max_group_bytes > 0, "max_group_bytes", 0, "1..")?;
        check(self.sync_interval_bytes > 0, "sync_interval_bytes", 0, "1..")
    }
}

/// What an acknowledgement promises.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Durability {
    /// On stable storage, together with every earlier byte of the log.
    #[default]
    Sync,
    /// Handed to the operating system: survives the death of the process. After a power loss the
    /// log is a prefix of what was appended.
    Buffered,
}

/// How the bytes of a durable group reach the disk. A segment keeps the method it was made with.
///
/// The default is what measured best (`ratios -- vlog` in the workspace's `benches`; ext4 on a
/// virtual SSD, raw writes of the same kind in turns): one 4 KiB frame per durable append takes
/// 1.00 of a raw write with `Direct`, 1.10 with `DurableWrite`, 1.11 with `Fdatasync`, which have to
/// write two pages where a frame begins in the middle of one and go through the cache (in another
/// run, medians: `fdatasync` of one page 53 µs, of a page's length across two 56, with a log around
/// it 65). With each value read once afterwards `Direct` is still ahead, 0.94 of the time of `Fdatasync`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum SyncMethod {
    /// A buffered write, then `fdatasync` (or what the platform has for it).
    Fdatasync,
    /// One write that is durable when it returns (`RWF_DSYNC`), where every earlier byte is
    /// durable already; otherwise as [`SyncMethod::Fdatasync`], since such a write vouches for
    /// its own bytes only.
    DurableWrite,
    /// As [`SyncMethod::DurableWrite`], past the page cache (`O_DIRECT` and `O_DSYNC`): the
    /// fastest there is for durable commits, and the slowest for [`Durability::Buffered`] ones,
    /// each of which then waits for the device (though not for its cache to be flushed). So a new
    /// segment is made with [`SyncMethod::Fdatasync`] when most of the last groups were buffered.
    ///
    /// Writes come in blocks of 4 KiB. Groups are not padded to them: the block that the last
    /// group ended in is written once more by the next one, with the same bytes in front. That
    /// asks of the device what a buffered write asks, too: that a sector is old or new.
    ///
    /// The segment being written is read from the last 1 MiB kept in memory, else by positioned
    /// reads, and mapped when it is left. Where the system or the file system has no such writes,
    /// new segments are made with [`SyncMethod::Fdatasync`].
    #[default]
    Direct,
}

impl SyncMethod {
    pub(crate) fn to_raw(self) -> u32 {
        match self {
            SyncMethod::Fdatasync => 0,
            SyncMethod::DurableWrite => 1,
            SyncMethod::Direct => 2,
        }
    }

    pub(crate) fn from_raw(raw: u32) -> Option<Self> {
        match raw {
            0 => Some(SyncMethod::Fdatasync),
            1 => Some(SyncMethod::DurableWrite),
            2 => Some(SyncMethod::Direct),
            _ => None,
        }
    }
}
