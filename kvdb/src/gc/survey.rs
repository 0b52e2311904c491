//! How much of the log is garbage, and whether something should be done about it now.

use kvdb_manifest::store::StoreState;
use kvdb_vlog::Position;

use super::overview::Overview;
use super::small::to_merge;
use super::units::{Choice, Unit};

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;

/// At rest, a file with this part of garbage is collected.
const IDLE_GARBAGE: f64 = 0.15;
/// While the database is written to, only files with this part of garbage are; with less if the limit of
/// space leaves room for less in all files together.
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

/// How large segments are made where so much is in use, and little is written at a time.
pub(super) fn segment_part(in_use: u64) -> u64 {
    (in_use / SEGMENT_PART).next_multiple_of(LEAST_SEGMENT / 4).max(LEAST_SEGMENT)
}

/// The state of the log at one moment.
#[derive(Debug, Clone)]
pub(super) struct Survey {
    /// Bytes that tables refer to in the whole log.
    pub(super) live: u64,
    /// How many values these are.
    values: u64,
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
    /// Whether there are more small units than there should be.
    many_small: bool,
}

impl Survey {
    /// Of the state that the overview is of; `damaged` are units that cannot be collected.
    pub(super) fn new(
        state: &StoreState,
        overview: &Overview,
        end: Position,
        segment_size: u64,
        damaged: impl Fn(&Unit) -> bool,
    ) -> Self {
        let (units, sums) = (&overview.units, &overview.live);
        let head = state.replay_head();
        let head = head.map_or((0, 0), |h| (h.segment, h.offset));
        let (head_segment, head_offset) = head;
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
        let whole: Vec<&Unit> = units.iter().filter(|unit| !damaged(unit)).collect();
        Survey {
            many_small: !to_merge(whole.iter().copied(), segment_size).is_empty(),
            head,
            live: sums.values().map(|sum| sum.bytes).sum(),
            values: sums.values().map(|sum| sum.count).sum(),
            size: units.iter().map(|unit| unit.size).sum(),
            unflushed: young.saturating_sub(head_offset.into()),
            young,
            young_live: sums.range(head_segment..).map(|(_, sum)| sum.bytes).sum(),
            upper: overview.upper,
            spares,
            ahead: ahead + spares,
            tree: overview.tree,
        }
    }

    /// How large a segment should be at most, where so many bytes a second are written.
    pub(super) fn segment_limit(&self, rate: f64) -> u64 {
        let in_use = self.live.max(self.young);
        let busy = ((rate / SEGMENTS_A_SECOND) as u64).min(in_use / LARGEST_PART);
        segment_part(in_use).max(busy.next_multiple_of(LEAST_SEGMENT / 4))
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

    /// Whether what is in memtables may be the end of so many values that it should be known now and
    /// then, though a store that is written to a little all the time never comes to rest.
    pub(super) fn wants_flush_of(&self, entries: u64) -> bool {
        let value = self.live / self.values.max(1);
        entries.min(self.values) * value > ((self.live + self.tree) / REST_PART).max(REST_LEAST)
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

    /// The same while the database is written to: what is not flushed yet is no garbage. It takes a flush
    /// and what comes of that in the tree, which is much where values are in the tree.
    pub(super) fn wants_rotation(&self) -> bool {
        let garbage = self.young.saturating_sub(self.young_live + self.unflushed);
        garbage > ((self.live + self.tree) / REST_PART).max(REST_LEAST)
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
            // Of what is somewhat below the average some file has more.
            min_garbage: BUSY_GARBAGE.min((1.0 - 1.0 / most) * 0.85),
            sort: false,
            max_live,
            below: u32::MAX,
        })
    }

    /// What to do while the database is written to when there is no need to gain space: merge small units.
    pub(super) fn merge_choice(&self) -> Option<Choice> {
        let merge = Choice { min_garbage: f64::INFINITY, max_live: 0, ..self.idle_choice() };
        self.many_small.then_some(merge)
    }

    /// What to collect when it is not.
    pub(super) fn idle_choice(&self) -> Choice {
        Choice { min_garbage: IDLE_GARBAGE, sort: false, max_live: 256 * MIB, below: u32::MAX }
    }
}

#[cfg(test)]
mod tests {
    use super::super::stores::Store;
    use super::*;

    const LEN: u32 = 1 << 20;

    /// Two segments before the replay head, the one it is in, one that was left, the active one and
    /// two spares.
    fn store() -> Store {
        Store::default()
            .segment(1, LEN, Some(LEN))
            .segment(2, LEN, Some(LEN - 1))
            .segment(3, LEN, Some(LEN - 10))
            .segment(4, LEN, None)
            .segment(5, LEN, None)
            .segment(6, LEN, None)
            .segment(7, 2 * LEN, None)
            .head(3, 1000)
    }

    fn survey(store: Store) -> Survey {
        let state = store.state();
        let overview = Overview::new(&state);
        Survey::new(&state, &overview, Position::new(5, 5000), 16 * MIB, |_| false)
    }

    #[test]
    fn what_was_written_what_waits_and_what_is_ready_are_told_apart() {
        let tables = [(1, 2, 300), (3, 1, 40), (4, 1, 5)];
        let survey = survey(store().table(1, 0, &tables[..1]).table(2, 0, &tables[1..]));
        assert_eq!((survey.live, survey.size, survey.tree), (345, 2 * u64::from(LEN), 2000));
        assert_eq!(survey.head, (3, 1000));
        let young = u64::from(LEN - 10) + u64::from(LEN) + 5000;
        assert_eq!((survey.young, survey.young_live), (young, 45));
        assert_eq!(survey.unflushed, young - 1000);
        assert_eq!(survey.spares, 3 * u64::from(LEN));
        assert_eq!(survey.ahead, survey.spares + u64::from(LEN - 5000));
        assert!(survey.has_young());
        let empty = Survey { young: 8 * KIB, ..survey };
        assert!(!empty.has_young(), "a header, and what a close leaves");
    }

    #[test]
    fn what_tables_above_the_last_level_refer_to_may_supersede_as_much() {
        let upper = |levels: [u32; 3]| {
            let [a, b, c] = levels;
            let tables = store().table(1, a, &[(1, 1, 1)]).table(2, b, &[(1, 1, 20), (3, 1, 300)]);
            survey(tables.table(3, c, &[(2, 1, 4000)])).upper
        };
        assert_eq!(upper([0, 1, 2]), 321);
        assert_eq!(upper([0, 2, 2]), 1);
        assert_eq!(upper([2, 2, 2]), 0);
        assert_eq!(upper([0, 0, 0]), 4321, "of tables that overlap each may");
        assert_eq!(survey(store()).upper, 0);
    }

    #[test]
    fn small_units_are_many_when_so_many_can_be_merged() {
        let small = |n: u32| {
            let add = |store: Store, i: u32| {
                let (file, table) = (u64::from(i), 1000 + u64::from(i));
                store.file(file, 6000).file(table, 200).moved(i, LEN, table, &[file])
            };
            let pointers: Vec<_> = (11..11 + n).map(|i| (i, 1, 1000)).collect();
            let store = (11..11 + n).fold(Store::default(), add).table(1, 0, &pointers);
            store.segment(11 + n, LEN, None).head(11 + n, 0).state()
        };
        let many = |state: &StoreState, damaged: u32| {
            let damaged = |unit: &Unit| unit.segments == [damaged];
            let (overview, end) = (Overview::new(state), Position::new(99, 0));
            Survey::new(state, &overview, end, 16 * MIB, damaged).merge_choice().is_some()
        };
        assert!(!many(&small(7), 0) && many(&small(8), 0));
        assert!(!many(&small(8), 13), "what is damaged stays where it is");
        assert!(many(&small(9), 13));
    }

    /// A store of many values.
    fn large() -> Survey {
        let survey = survey(store());
        Survey { live: 64 * MIB, size: 64 * MIB, young: 0, unflushed: 0, ahead: 0, ..survey }
    }

    #[test]
    fn the_log_is_measured_by_what_is_in_use_or_waits() {
        let close = |survey: Survey, to: f64| {
            let got = survey.amplification();
            assert!((got - to).abs() < 1e-9, "{got}, not {to}");
        };
        close(large(), 1.0);
        close(Survey { size: 96 * MIB, ..large() }, 1.5);
        // What is not flushed is in use as far as anyone knows; what is flushed and young counts.
        close(Survey { young: 32 * MIB, unflushed: 32 * MIB, ..large() }, 1.0);
        close(Survey { young: 32 * MIB, ..large() }, 1.5);
        // What is allocated ahead counts up to a sixteenth.
        close(Survey { ahead: 2 * MIB, ..large() }, 66.0 / 64.0);
        close(Survey { ahead: 64 * MIB, ..large() }, 68.0 / 64.0);
        assert!(large().busy_choice(1.0, 0.0).is_none());
        let choice = Survey { size: 96 * MIB, ..large() }.busy_choice(1.4, 0.0);
        assert_eq!(choice.map(|choice| choice.max_live), Some(MIB));
    }

    #[test]
    fn segments_are_made_to_the_measure_of_what_is_in_use_and_written() {
        let small = Survey { live: 0, ..large() };
        assert_eq!(small.segment_limit(0.0), MIB);
        assert_eq!(large().segment_limit(0.0), MIB);
        let huge = Survey { live: 1 << 30, ..large() };
        assert_eq!(huge.segment_limit(0.0), 16 * MIB, "a sixty-fourth");
        assert_eq!(huge.segment_limit(24.0 * (32 << 20) as f64), 32 * MIB, "a part of a second");
        assert_eq!(huge.segment_limit(1e12), 64 * MIB, "no more than a sixteenth");
        let logged = Survey { young: 1 << 30, ..small.clone() };
        assert_eq!(logged.segment_limit(0.0), 16 * MIB, "all of it may be in use");
        assert_eq!((small.rest_segment(), huge.rest_segment()), (256 * KIB, 4 * MIB));
    }

    #[test]
    fn as_many_values_may_be_overwritten_as_there_are_entries_and_no_more_than_there_are() {
        let of = |values, entries| Survey { values, tree: 0, ..large() }.wants_flush_of(entries);
        assert!(!of(1 << 16, 2048) && of(1 << 16, 2049), "a thirty-second");
        assert!(!of(0, u64::MAX >> 20) && !of(64, 2) && of(64, 3));
        let small = Survey { live: 255 << 10, values: 255, tree: 0, ..large() };
        assert!(!small.wants_flush_of(1 << 40));
    }

    #[test]
    fn what_is_done_for_the_logs_sake_is_in_proportion_to_it() {
        let unflushed = |bytes| Survey { unflushed: bytes, tree: 0, ..large() };
        assert!(!unflushed(2 * MIB).wants_flush(MIB) && unflushed(2 * MIB + 1).wants_flush(MIB));
        assert!(!unflushed(8 * MIB).wants_flush(4 * MIB), "two memtables at least");
        assert!(!unflushed(2 * MIB).wants_flush_at_rest());
        assert!(unflushed(2 * MIB + 1).wants_flush_at_rest());
        let small = |bytes| Survey { live: 0, ..unflushed(bytes) };
        assert!(!small(256 * KIB).wants_flush_at_rest());
        assert!(small(256 * KIB + 1).wants_flush_at_rest());

        let upper = |bytes| Survey { upper: bytes, live: 64 * MIB, tree: 0, ..large() };
        assert!(!upper(4 * MIB).wants_compaction(15), "a fifteenth of the 60 below");
        assert!(upper(4 * MIB + 1).wants_compaction(15));
        let dear = Survey { tree: MIB, ..upper(4 * MIB + 1) };
        assert!(!dear.wants_compaction(15), "for a quarter of the values the tree is too large");
        assert!(Survey { tree: MIB - 1, ..dear.clone() }.wants_compaction(15));

        let young = |bytes, live| Survey { young: bytes, young_live: live, ..large() };
        assert!(!young(10 * MIB, 8 * MIB).wants_rotation_at_rest());
        assert!(young(10 * MIB + 1, 8 * MIB).wants_rotation_at_rest());
        let busy = |bytes, tree| Survey {
            young: bytes,
            young_live: 8 * MIB,
            unflushed: MIB,
            tree,
            ..large()
        };
        assert!(!busy(11 * MIB, 0).wants_rotation() && busy(11 * MIB + 1, 0).wants_rotation());
        assert!(!busy(12 * MIB, 32 * MIB).wants_rotation(), "a flush costs more in a large tree");
        let spares = |bytes| Survey { spares: bytes, tree: 32 * MIB, ..large() };
        assert!(!spares(3 * MIB).spares_weigh() && spares(3 * MIB + 1).spares_weigh());
    }
}
