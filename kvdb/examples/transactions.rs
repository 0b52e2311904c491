//! Reads and writes that take effect together: `cargo run -p kvdb --example transactions`.

#![allow(clippy::print_stdout)]

use kvdb::{Db, Error, Result, Transaction};

fn balance(t: &Transaction, account: &str) -> Result<u64> {
    let value = t.get(account)?;
    Ok(value.map_or(0, |v| v.as_ref().try_into().map_or(0, u64::from_le_bytes)))
}

/// Run again, from the start, whenever another commit got in the way.
fn transfer(db: &Db, from: &str, to: &str, amount: u64) -> Result<bool> {
    db.update(|t| {
        let there = balance(t, from)?;
        if there < amount {
            return Ok(false);
        }
        let target = balance(t, to)?;
        t.put(from, (there - amount).to_le_bytes())?;
        t.put(to, (target + amount).to_le_bytes())?;
        Ok(true)
    })
}

fn main() -> Result<()> {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let db = Db::open(dir.path().join("bank"))?;
    db.put("alice", 100u64.to_le_bytes())?;
    db.put("bob", 100u64.to_le_bytes())?;

    let threads: Vec<_> = (0..4)
        .map(|i| {
            let db = db.clone();
            let (from, to) = if i % 2 == 0 { ("alice", "bob") } else { ("bob", "alice") };
            std::thread::spawn(move || {
                (0..25).try_for_each(|_| transfer(&db, from, to, 3).map(drop))
            })
        })
        .collect();
    for thread in threads {
        thread.join().expect("no panic")?;
    }
    let sum = db.view(|snapshot| {
        let mut sum = 0;
        for item in snapshot.iter() {
            sum += item?.value()?.as_ref().try_into().map_or(0, u64::from_le_bytes);
        }
        Ok(sum)
    })?;
    println!("together they have {sum}");
    assert_eq!(sum, 200);

    // By hand: whoever reads what another commit changed meanwhile conflicts, also where what was
    // read was nothing.
    let mut t = db.begin()?;
    assert!(t.get("carol")?.is_none());
    t.put("notes", "there is no carol")?;
    db.put("carol", 1u64.to_le_bytes())?;
    assert!(matches!(t.commit(), Err(Error::Conflict)));

    // A snapshot does not change.
    let before = db.snapshot()?;
    db.drop_all()?;
    assert_eq!(before.iter().count(), 3);
    assert_eq!(db.iter()?.count(), 0);
    db.close()
}
