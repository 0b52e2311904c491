//! How much of the log is garbage, and whether something should be done about it now.

use kvdb_manifest::store::StoreState;
use kvdb_vlog::Position;

use super::units::{Choice, collectable};

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;

/// At rest, a file with this part of garbage is collected.
const IDLE_GARBAGE: f64 = 0.15;
/// While the database is written to, only files with this part of garbage are.
const BUSY_GARBAGE: f64 = 0.25;
/// Segments are made about this part of what is in use, so that the active one and its spare do not
/// weigh much, and that what is collected differs in what it holds.
const SEGMENT_PART: u64 = 64;
/// Where much is written, they are made for this part of a second, but no larger than that part of
/// what is in use: each costs a few syncs.
const SEGMENTS_A_SECOND: f64 = 24.0;
const LARGEST_PART: u64 = 16;
const LEAST_SEGMENT: u64 = MIB;
/// A store at rest begins a segment of this part of what is in use.
const REST_SEGMENT_PART: u64 = 256;
const LEAST_REST_SEGMENT: u64 = 256 * KIB;
/// While the database is written to, the memtable is flushed for this part of what is in use.
const BUSY_FLUSH_PART: u64 = 32;
/// The tree is compacted for the log's sake for so many times its size.
const TREE_PART: u64 = 4;
/// At rest, the memtable is flushed, or the active segment is left, for no less than this part of
/// what is in use, and for no less than so many bytes.
const REST_PART: u64 = 32;
const REST_LEAST: u64 = 256 * KIB;

/// The state of the log at one moment.
#[derive(Debug, Clone)]
pub(super) struct Survey {
    /// Bytes that tables refer to in the whole log.
    pub(super) live: u64,
    /// Bytes on disk of what may be collected.
    pub(super) size: u64,
    /// Where replay would start, and bytes that were logged since.
    pub(super) head: (u32, u32),
    pub(super) unflushed: u64,
    /// Bytes of the segments from the replay head's on, as far as they are written, and what
    /// tables refer to in them.
    pub(super) young: u64,
    pub(super) young_live: u64,
    /// Bytes of tables.
    pub(super) tree: u64,
    /// What tables above the last level refer to in the log: it may supersede as much below.
    upper: u64,
    /// Bytes of segments that nothing was written to yet; the same, with the rest of the active one.
    spares: u64,
    ahead: u64,
}

impl Survey {
    pub(super) fn new(state: &StoreState, end: Position) -> Self {
        let units = collectable(state);
        let head = state.replay_head();
        let head = head.map_or((0, 0), |h| (h.segment, h.offset));
        let (head_segment, head_offset) = head;
        let sums = state.live_bytes();
        let (mut young, mut spares, mut ahead) = (0, 0, 0);
        for (&id, segment) in state.segments().range(head_segment..) {
            young += match segment.sealed {
                Some(sealed) => u64::from(sealed.length),
                None if id < end.segment => segment.named.capacity.into(),
                None if id == end.segment => {
                    ahead += u64::from(segment.named.capacity.saturating_sub(end.offset));
                    end.offset.into()
                }
                None => {
                    spares += u64::from(segment.named.capacity);
                    0
                }
            };
        }
        Survey {
            head,
            live: sums.values().map(|sum| sum.bytes).sum(),
            size: units.iter().map(|unit| unit.size).sum(),
            unflushed: young.saturating_sub(head_offset.into()),
            young,
            young_live: sums.range(head_segment..).map(|(_, sum)| sum.bytes).sum(),
            upper: upper_bytes(state),
            spares,
            ahead: ahead + spares,
            tree: state.tables().values().map(|t| t.size).sum(),
        }
    }

    /// How large a segment should be at most, where so many bytes a second are written.
    pub(super) fn segment_limit(&self, rate: f64) -> u64 {
        let in_use = self.live.max(self.young);
        let busy = ((rate / SEGMENTS_A_SECOND) as u64).min(in_use / LARGEST_PART);
        (in_use / SEGMENT_PART).max(busy).next_multiple_of(LEAST_SEGMENT / 4).max(LEAST_SEGMENT)
    }

    /// How large the segment should be that a store at rest begins.
    pub(super) fn rest_segment(&self) -> u64 {
        (self.live / REST_SEGMENT_PART).max(LEAST_REST_SEGMENT)
    }

    /// Bytes of the log per byte in use.
    pub(super) fn amplification(&self) -> f64 {
        // Of a small store what is allocated ahead is the most, and collecting changes nothing in that.
        let size = self.size + self.young + self.ahead.min(self.live / LARGEST_PART);
        size as f64 / (self.live + self.unflushed).max(1) as f64
    }

    /// Whether so much was logged since the replay head that garbage should be brought to light:
    /// small values fill a memtable long before.
    pub(super) fn wants_flush(&self, memtable_size: u64) -> bool {
        self.unflushed > ((self.live + self.tree) / BUSY_FLUSH_PART).max(2 * memtable_size)
    }

    /// Whether the tree should be compacted for the log's sake: garbage is known only where what was
    /// overwritten meets what overwrote it, and where the tree is small beside its values that costs
    /// little. Levels are left alone while what it costs is more than a quarter of what was written.
    pub(super) fn wants_compaction(&self, part: u64) -> bool {
        self.upper > (self.live - self.upper.min(self.live)) / part
            && self.upper / TREE_PART > self.tree
    }

    /// Whether a store at rest should be flushed at once; one with less to be flushed only now and
    /// then, since something small may be written every few seconds for ever.
    pub(super) fn wants_flush_at_rest(&self) -> bool {
        self.unflushed > ((self.live + self.tree) / REST_PART).max(REST_LEAST)
    }

    /// Whether a store at rest, and flushed, should leave its active segment.
    pub(super) fn wants_rotation_at_rest(&self) -> bool {
        let garbage = self.young.saturating_sub(self.young_live);
        garbage > (self.live / REST_PART).max(REST_LEAST)
    }

    /// Whether segments that are kept ready take more space than a store at rest should.
    pub(super) fn spares_weigh(&self) -> bool {
        self.spares > (self.live + self.tree) / REST_PART
    }

    /// Whether the active segment, or others that lie behind the replay head, hold anything.
    pub(super) fn has_young(&self) -> bool {
        self.young > 8 * KIB
    }

    /// What to collect while the database is written to.
    pub(super) fn busy_choice(&self, most: f64, rate: f64) -> Option<Choice> {
        // While it is under way, what it has written takes space beside the victims.
        let max_live = self.segment_limit(rate);
        (self.amplification() > most).then_some(Choice {
            min_garbage: BUSY_GARBAGE,
            sort: false,
            max_live,
        })
    }

    /// What to collect when it is not.
    pub(super) fn idle_choice(&self) -> Choice {
        Choice { min_garbage: IDLE_GARBAGE, sort: false, max_live: 256 * MIB }
    }
}

fn upper_bytes(state: &StoreState) -> u64 {
    let last = state.tables().values().map(|t| t.level).max().unwrap_or(0);
    let upper = state.tables().values().filter(|t| t.level < last || last == 0);
    upper.flat_map(|t| &t.pointers).map(|p| p.bytes).sum()
}
