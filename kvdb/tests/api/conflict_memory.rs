//! What conflict detection remembers (SEMANTICS, rule 23).

use std::sync::Arc;

use crate::common::{PATH, tiny, value};
use kvdb::vfs::MemFs;
use kvdb::{Durability, Error};

#[test]
fn rule_23_the_memory_of_conflict_detection_is_capped_and_nothing_without_open_transactions() {
    const CAP: usize = 128 << 10;
    let options = tiny().durability(Durability::Buffered).max_conflict_memory(CAP);
    let db = options.open_in(Arc::new(MemFs::new()), PATH).unwrap();
    let write = |n: u64| {
        for i in 0..n {
            db.put(i.to_be_bytes(), value(i, 20)).unwrap();
        }
    };
    write(5000);
    assert_eq!(db.stats().conflict_memory, 0, "no transaction is open");
    let reader = db.snapshot().unwrap();
    write(5000);
    assert_eq!(db.stats().conflict_memory, 0, "read-only ones hold nothing here");

    let mut old = db.begin().unwrap();
    old.get("absent").unwrap();
    old.put("other", "v").unwrap();
    let mut blind = db.begin().unwrap();
    blind.put("blind", "v").unwrap();
    write(100);
    assert!(db.stats().conflict_memory > 0);
    for _ in 0..20 {
        write(2000);
        let bytes = db.stats().conflict_memory;
        assert!(bytes <= CAP as u64, "{bytes}");
    }
    assert!(matches!(old.commit(), Err(Error::TooOld)));
    blind.commit().unwrap();
    assert_eq!(db.stats().conflict_memory, 0);
    assert_eq!(reader.get(7u64.to_be_bytes()).unwrap().unwrap(), value(7, 20));
}
