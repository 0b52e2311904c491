//! Which small units are merged, so that there are never many.
//!
//! What a collection made stays where it is as long as nothing of it is garbage, however little it
//! is: a file with records, one with tables, two entries of the manifest and a descriptor. A store
//! that is overwritten for months would have a unit for each collection of which a record is left.
//! So units much smaller than a segment are merged like the runs of a size-tiered compaction: eight
//! of like size at once. What comes of them is of another tier, so that a record is moved once for
//! each tier that it grows through, whatever is added to the store.
//!
//! Of each tier there are at most seven units then, and of those that are not small as many as fit
//! into the store: about 128 in one of up to 32 segments of full size, then four per segment of full
//! size. With tables that share a file ([`connected`](super::units::connected)) that bounds the
//! files. The numbers of the segments stay, each with its table of some hundred bytes.

use std::collections::BTreeMap;

use super::survey::segment_part;
use super::units::Unit;

/// So many units of a tier are merged.
const FAN_IN: usize = 8;
/// A tier ends at four times the bytes of the one before, the first one at four times these.
const LEAST: u64 = 1 << 10;

/// The small units that are to be merged now, if there are too many. What is in use of all of them says
/// what is small.
pub(crate) fn to_merge<'u>(
    units: impl Iterator<Item = &'u Unit> + Clone,
    segment_size: u64,
) -> Vec<Unit> {
    let in_use = units.clone().map(|unit| unit.live.bytes).sum();
    choose_small(units, small_below(in_use, segment_size))
}

/// Units of fewer bytes are small, where so many bytes are in use. Those that a collection of fresh
/// segments leaves behind are about twice as large, so that merging does not add to what is written.
fn small_below(in_use: u64, segment_size: u64) -> u64 {
    (segment_part(in_use) / 2).min(segment_size / 4)
}

/// Bytes in use: what adds up when units are merged. Tables are not counted: of large segments they are
/// long though little is in them.
fn weight(unit: &Unit) -> u64 {
    unit.live.bytes
}

fn tier(weight: u64) -> u32 {
    (weight / LEAST).max(1).ilog2() / 2
}

/// The units of the smallest tier that has too many, if one has. Merged, they are fewer.
fn choose_small<'u>(units: impl IntoIterator<Item = &'u Unit>, below: u64) -> Vec<Unit> {
    let mut tiers: BTreeMap<u32, Vec<&Unit>> = BTreeMap::new();
    for unit in units {
        let weight = weight(unit);
        if unit.relocated && unit.live.count > 0 && weight < below {
            tiers.entry(tier(weight)).or_default().push(unit);
        }
    }
    let Some(many) = tiers.into_values().find(|units| units.len() >= FAN_IN) else {
        return Vec::new();
    };
    let mut bytes = 0;
    let mut room = |(i, unit): &(usize, &Unit)| {
        bytes += weight(unit);
        *i < FAN_IN || bytes <= below * FAN_IN as u64
    };
    many.into_iter().enumerate().take_while(|next| room(next)).map(|(_, u)| u.clone()).collect()
}

#[cfg(test)]
mod tests {
    use kvdb_manifest::store::PointerSum;

    use super::*;

    const KIB: u64 = 1 << 10;
    /// A header page.
    const HEADER: u64 = kvdb_vlog::FIRST_FRAME as u64;

    /// A collected segment of this weight, none of it garbage.
    fn unit(segment: u32, weight: u64) -> Unit {
        Unit {
            segments: vec![segment],
            files: vec![segment.into()],
            tables: vec![u64::from(segment) << 32],
            size: weight + HEADER,
            span: 1 << 20,
            live: PointerSum { segment, count: 1, bytes: weight },
            relocated: true,
            garbage: true,
        }
    }

    fn segments(units: &[Unit]) -> Vec<u32> {
        units.iter().flat_map(|unit| unit.segments.clone()).collect()
    }

    #[test]
    fn eight_of_a_tier_are_merged_the_smallest_first() {
        let of = |sizes: &[u64]| {
            let units = (0..).zip(sizes).map(|(i, size)| unit(i, size * KIB));
            segments(&choose_small(&units.collect::<Vec<_>>(), 512 * KIB))
        };
        let seven_of_each = [[2; 7], [10; 7], [40; 7], [100; 7], [500; 7]].concat();
        assert_eq!(of(&seven_of_each), []);
        assert_eq!(of(&[&seven_of_each[..], &[15]].concat()), [7, 8, 9, 10, 11, 12, 13, 35]);
        assert_eq!(of(&[&[100; 8][..], &[40; 9]].concat()), (8..17).collect::<Vec<_>>());
        assert_eq!(of(&[512; 20]), [], "these are not small");
        assert_eq!(of(&[511; 20]).len(), 8, "no more than that at once");
        assert_eq!(of(&[1; 5000]).len(), 4096);
    }

    #[test]
    fn long_tables_of_large_segments_make_no_unit_large() {
        // 128 KiB of directory for each segment of 2 GiB.
        let long = |i| Unit { size: 128 * KIB + HEADER + 1, ..unit(i, 1) };
        assert_eq!(choose_small(&(0..8).map(long).collect::<Vec<_>>(), 512 * KIB).len(), 8);
        let of_many = |i| Unit { size: 8 * 128 * KIB + HEADER + 8, ..unit(i, 8) };
        assert_eq!(choose_small(&(0..8).map(of_many).collect::<Vec<_>>(), 512 * KIB).len(), 8);
    }

    #[test]
    fn only_what_was_collected_before_and_is_in_use_is_merged() {
        let mut units: Vec<_> = (0..8).map(|i| unit(i, 2 * KIB)).collect();
        assert_eq!(choose_small(&units, 512 * KIB).len(), 8);
        units[3].relocated = false;
        assert_eq!(choose_small(&units, 512 * KIB), []);
        units[3] = Unit { live: PointerSum::default(), ..unit(3, 2 * KIB) };
        assert_eq!(choose_small(&units, 512 * KIB), []);
    }

    #[test]
    fn small_is_half_of_a_segment_of_the_store_and_no_more_than_a_quarter_of_the_largest() {
        assert_eq!(small_below(0, 128 << 20), 512 * KIB);
        assert_eq!(small_below(0, 1 << 20), 256 * KIB);
        assert_eq!(small_below(1 << 30, 128 << 20), 8 << 20);
        assert_eq!(small_below(1 << 40, 128 << 20), 32 << 20);
    }

    /// Years of collections, each of which leaves little.
    #[test]
    fn however_many_collections_leave_little_units_stay_few_and_records_are_moved_a_few_times() {
        let below = 512 * KIB;
        let (mut units, mut moved, mut added) = (Vec::new(), 0, 0);
        for i in 0..20_000u32 {
            let weight = [300, 900, 2500, 20_000][i as usize % 4];
            units.push(unit(i, weight));
            added += weight;
            let mut merges = 0;
            loop {
                let victims = choose_small(&units, below);
                if victims.is_empty() {
                    break;
                }
                merges += 1;
                assert!(merges < 10, "it ends");
                let sum = victims.iter().map(|unit| unit.live.bytes).sum();
                moved += sum;
                units.retain(|unit| !victims.contains(unit));
                units.push(unit(victims[0].segments[0], sum));
            }
            let small = units.iter().filter(|unit| super::weight(unit) < below).count();
            assert!(small <= 7 * 5, "{small} after {i}");
        }
        let large = units.len() as u64 - 7 * 5;
        assert!(large <= added / below, "{large} of {added} bytes");
        assert!(moved < 5 * added, "{moved} of {added}");
    }
}
