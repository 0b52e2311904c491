//! `verify` notices what reads have no cause to look at: each of its checks by a table whose checksums
//! are right, and which is wrong in that alone.
#![allow(clippy::unwrap_used)]

#[path = "common/sign.rs"]
#[allow(unreachable_pub)]
mod sign;

use kvdb_sstable::{
    Builder, BuilderOptions, Codec, Cursor, ErrorKind, Part, ReaderOptions, Result, Table,
};
use sign::{FOOTER, HANDLES, sign, u64_at};

/// Six entries in the first block, two in the second.
fn table(codec: Codec) -> Vec<u8> {
    let mut options = BuilderOptions::default();
    (options.block_size, options.codec) = (256, codec);
    let mut builder = Builder::new(Vec::new(), options).unwrap();
    for i in 0..8u8 {
        builder.add(&[b'a', b'0' + i], 5, &[i / 2; 26]).unwrap();
    }
    builder.finish().unwrap().0
}

/// What is wrong with a table that was changed and has right checksums.
fn wrong(codec: Codec, change: impl FnOnce(&mut Vec<u8>)) -> ErrorKind {
    let mut bytes = table(codec);
    change(&mut bytes);
    sign(&mut bytes);
    let mut options = ReaderOptions::default();
    options.path = Some("wrong.sst".into());
    let table = Table::open(bytes, options).unwrap();
    let e = table.verify().unwrap_err();
    assert!(e.offset().is_some() && e.path().is_some(), "{e}");
    e.kind()
}

/// Where a section begins: 0 filter, 1 index, 2 properties.
fn section(bytes: &[u8], i: usize) -> usize {
    u64_at(bytes, bytes.len() - FOOTER + HANDLES[i]) as usize
}

const HEADS: usize = 32;
const SLOTS: usize = HEADS + 2 * 8;
/// Two ends of two bytes, *shared*.
const STRIDE: usize = 5;
const KEYS: usize = SLOTS + 6 * STRIDE + 1;
const END: usize = KEYS + 6 + 6 * 26;

#[test]
fn each_part_of_a_table_that_contradicts_another_is_noticed() {
    let intact = Table::open(table(Codec::None), ReaderOptions::default()).unwrap();
    intact.verify().unwrap();
    let blocks: Vec<_> = intact.blocks().unwrap().map(Result::unwrap).collect();
    assert_eq!([blocks[0].entries, blocks[1].entries], [6, 2]);
    assert_eq!(blocks[0].decoded_len, END as u64);

    let corrupt = |part, what| ErrorKind::Corrupt { part, what };
    let plain = |change: &dyn Fn(&mut Vec<u8>)| wrong(Codec::None, change);
    let block = |at: usize, byte: u8| plain(&|b| b[at] = byte);
    let head = corrupt(Part::Block, "a head is not that of its key");
    assert_eq!(block(HEADS + 15, b'5'), head);
    assert_eq!(block(SLOTS + 4 * STRIDE + 4, 1), corrupt(Part::Block, "a restart is not whole"));
    let end = corrupt(Part::Block, "the last slot does not end its regions");
    assert_eq!(block(SLOTS + 5 * STRIDE + 2, 6 * 26 - 1), end);
    assert_eq!(block(KEYS + 1, b'0'), corrupt(Part::Block, "entries do not ascend"));
    let leads = corrupt(Part::Index, "an entry is not where it leads");
    assert_eq!(block(KEYS + 5, b'6'), leads);
    let missing = corrupt(Part::Filter, "a key is missing");
    assert_eq!(
        plain(&|b| {
            let words = section(b, 0) + 64;
            b[words..words + 8].fill(0);
        }),
        missing
    );
    let describe = corrupt(Part::Properties, "they do not describe the entries");
    for field in 0..8 {
        assert_eq!(
            plain(&|b| {
                let properties = section(b, 2);
                b[properties + 8 * field] ^= 1;
            }),
            describe,
            "{field}"
        );
    }
}

#[test]
fn padding_that_is_not_zero_is_noticed_wherever_it_is() {
    let padding = ErrorKind::Corrupt { part: Part::Padding, what: "not zero" };
    assert_eq!(wrong(Codec::None, |b| b[END] = 1), padding);
    assert_eq!(wrong(Codec::None, |b| b[255] = 1), padding);
    // Passed off as payload it is behind the end of the decoded block.
    let payload = |b: &mut Vec<u8>| {
        b[12..16].copy_from_slice(&224u32.to_le_bytes());
        b[255] = 1;
    };
    assert_eq!(wrong(Codec::None, payload), padding);
    // The last compressed block is padded to the filter.
    let filter = section(&table(Codec::Lz4), 0);
    assert_eq!(table(Codec::Lz4)[filter - 1], 0);
    assert_eq!(wrong(Codec::Lz4, |b| b[filter - 1] = 1), padding);
    // As are the filter to the index, and the index to the properties.
    let intact = table(Codec::None);
    for next in [1, 2] {
        let last = section(&intact, next) - 1;
        assert_eq!((intact[last], wrong(Codec::None, |b| b[last] = 1)), (0, padding));
    }
}

#[test]
fn verify_compares_the_checksums_of_sections_though_reads_do_not() {
    for i in 0..3 {
        let mut bytes = table(Codec::None);
        let at = section(&bytes, i);
        // Their checksum in the footer, and that of the footer anew.
        let handle = bytes.len() - FOOTER + HANDLES[i];
        bytes[handle + 16] ^= 1;
        let sealed = bytes.clone();
        sign(&mut bytes);
        let (from, to) = (handle + 16, handle + 20);
        bytes[from..to].copy_from_slice(&sealed[from..to]);
        sign::sign_footer(&mut bytes);
        let mut options = ReaderOptions::default();
        options.verify_checksums = false;
        let table = Table::open(bytes, options).unwrap();
        assert!(table.cursor().first().unwrap());
        let e = table.verify().unwrap_err();
        let part = [Part::Filter, Part::Index, Part::Properties][i];
        assert_eq!((e.kind(), e.offset()), (ErrorKind::ChecksumMismatch(part), Some(at as u64)));
    }
}

#[test]
fn what_is_wrong_is_said_to_be_where_it_is() {
    // The fifth block's separator ends beyond its region; a word of the filter has lost its bits.
    let keys = (0..100u8).map(|i| [b'a', i]);
    let mut options = BuilderOptions::default();
    options.block_size = 256;
    let mut builder = Builder::new(Vec::new(), options).unwrap();
    for key in keys {
        builder.add(&key, 5, &[7; 40]).unwrap();
    }
    let intact = builder.finish().unwrap().0;
    let [filter, index] = [0, 1].map(|i| section(&intact, i));
    let blocks = u32::from_le_bytes(intact[index..index + 4].try_into().unwrap()) as usize;
    let end = index + 16 + (blocks - 1) * 8 + (blocks + 1) * 8 + 4 * 4;
    for (part, place, from, byte) in [
        (Part::Index, index, end..end + 1, 200),
        (Part::Filter, filter, filter + 64..filter + 72, 0),
    ] {
        let mut bytes = intact.clone();
        bytes[from].fill(byte);
        sign(&mut bytes);
        let table = Table::open(bytes, ReaderOptions::default()).unwrap();
        let e = table.verify().unwrap_err();
        assert!(matches!(e.kind(), ErrorKind::Corrupt { part: p, .. } if p == part), "{e}");
        assert_eq!(e.offset(), Some(place as u64), "{e}");
    }
}
