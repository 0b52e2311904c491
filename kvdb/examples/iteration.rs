//! Ranges, prefixes, both directions, seeks, keys alone: `cargo run -p kvdb --example iteration`.

#![allow(clippy::print_stdout)]

use kvdb::{Db, Result};

fn main() -> Result<()> {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let db = Db::open(dir.path().join("log"))?;
    for day in 1..=28u32 {
        for hour in [6, 12, 18] {
            db.put(format!("2024-02-{day:02}T{hour:02}"), format!("reading {}", day * hour))?;
        }
    }

    // One picture for all that follows.
    let snapshot = db.snapshot()?;
    let day = snapshot.prefix("2024-02-29").chain(snapshot.prefix("2024-02-14"));
    assert_eq!(day.count(), 3);

    // Any range of the language, forwards or backwards.
    let week = snapshot.range("2024-02-05".."2024-02-12");
    assert_eq!(week.count(), 21);
    let last = snapshot.range(.."2024-02-20").next_back().expect("there are some")?;
    println!("the last before the 20th: {}", last.key().escape_ascii());

    // From both ends at once: they meet in the middle.
    let mut ends = snapshot.iter();
    while let (Some(first), Some(last)) = (ends.next(), ends.next_back()) {
        assert!(first?.key() < last?.key());
    }

    // Jump about.
    let mut iter = snapshot.iter();
    for day in ["2024-02-20", "2024-02-03", "2024-02-28T17"] {
        iter.seek(day);
        let item = iter.next().expect("there is one")?;
        println!("from {day}: {} ({} bytes)", item.key().escape_ascii(), item.value_len());
    }

    // Keys alone never touch the values.
    let noons = snapshot.iter().keys().filter(|k| k.as_ref().is_ok_and(|k| k.ends_with(b"T12")));
    assert_eq!(noons.count(), 28);

    // A cursor lends instead of owning: no allocation per entry.
    let mut cursor = snapshot.cursor("2024-02-10".."2024-02-11");
    let (mut on, mut bytes) = (cursor.first()?, 0);
    while on {
        bytes += cursor.value_with(<[u8]>::len)?;
        on = cursor.next()?;
    }
    println!("readings of the 10th have {bytes} bytes");
    db.close()
}
