//! After a close everything is either as usable as before or refused, by one rule (SEMANTICS, rule 4).

use std::ops::ControlFlow;
use std::sync::Arc;

use crate::common::{PATH, memory, tiny};
use kvdb::vfs::MemFs;
use kvdb::{
    BulkWriter, Cursor, Db, Durability, Error, GcOptions, Health, Item, Options, PendingCommit,
    Result, Sequence, Snapshot, Step, Transaction, Value, Versions, WriteOptions,
};

/// An operation on what was there before the close.
type Call<'a> = (&'static str, Box<dyn FnMut() -> Result<()> + 'a>);

/// Which of these calls are not refused with [`Error::Closed`].
fn not_refused(calls: Vec<Call<'_>>) -> Vec<String> {
    let mut wrong = Vec::new();
    for (name, mut call) in calls {
        match call() {
            Err(Error::Closed) => {}
            outcome => wrong.push(format!("{name}: {outcome:?}")),
        }
    }
    wrong
}

macro_rules! calls {
    ($($call:expr),* $(,)?) => {
        vec![$((stringify!($call), Box::new(|| $call.map(drop)) as Box<dyn FnMut() -> Result<()> + '_>)),*]
    };
}

/// One of each, from before.
struct Before {
    snapshot: Snapshot,
    transaction: Transaction,
    writers: Vec<BulkWriter>,
    ids: Sequence,
    cursor: Cursor<'static>,
    versions: Versions<'static>,
    items: Vec<Item>,
    values: Vec<Value>,
    pending: PendingCommit,
}

/// "k" has a value in the tree, "l" one in the log.
fn fill(db: &Db) -> Before {
    db.put("k", "v").unwrap();
    db.put("l", [7; 1000]).unwrap();
    db.flush().unwrap();
    let mut transaction = db.begin().unwrap();
    transaction.put("own", "write").unwrap();
    let ids = db.sequence("ids", 10).unwrap();
    assert_eq!(ids.next().unwrap(), 0);
    let mut batch = db.batch();
    batch.put("m", "later").unwrap();
    let pending = batch.commit_async_with(Durability::Buffered).unwrap();
    let items: Vec<Item> = db.range("k"..="l").unwrap().collect::<Result<_>>().unwrap();
    let mut cursor = db.snapshot().unwrap().cursor("k"..="l");
    assert!(cursor.first().unwrap());
    Before {
        snapshot: db.snapshot().unwrap(),
        transaction,
        writers: (0..2).map(|_| db.bulk_writer()).collect(),
        ids,
        cursor,
        versions: db.range("k"..="l").unwrap().versions(),
        items,
        values: vec![db.get("k").unwrap().unwrap(), db.get("l").unwrap().unwrap()],
        pending,
    }
}

/// What was asked of the handles behind a closed database.
fn refused_by_handles(before: &mut Before) -> Vec<String> {
    let Before { snapshot, transaction, writers, ids, .. } = before;
    let mut wrong = not_refused(calls![
        snapshot.get("k"),
        snapshot.get("none"),
        snapshot.get_entry("l"),
        snapshot.get_with("k", |_| ()),
        snapshot.contains("k"),
        snapshot.multi_get(["k"]),
        snapshot.multi_get::<&str>([]),
        snapshot.clone().get("k"),
        snapshot.iter().next().unwrap(),
        snapshot.iter().next_back().unwrap(),
        snapshot.iter().keys().next().unwrap(),
        snapshot.iter().since(1).next().unwrap(),
        snapshot.iter().versions().next_back().unwrap(),
        snapshot.range("k".."l").next().unwrap(),
        snapshot.prefix("k").next_back().unwrap(),
        snapshot.versions().next().unwrap(),
        snapshot.cursor(..).first(),
        snapshot.cursor(..).last(),
        snapshot.cursor(..).next(),
        snapshot.cursor(..).seek("k"),
        snapshot.cursor(..).seek_for_prev("k"),
        ids.next(),
        ids.release(),
    ]);
    wrong.extend(not_refused(calls![
        transaction.get("k"),
        transaction.get("own"),
        transaction.get_entry("own"),
        transaction.get_with("own", |_| ()),
        transaction.untracked().get("own"),
        transaction.untracked().iter().next().unwrap(),
        transaction.contains("own"),
        transaction.multi_get(["own"]),
        transaction.iter().next().unwrap(),
        transaction.range("own"..).next_back().unwrap(),
        transaction.prefix("own").next().unwrap(),
        transaction.iter().versions().next().unwrap(),
        transaction.cursor(..).first(),
    ]));
    wrong.extend(not_refused(vec![("transaction.put", Box::new(|| transaction.put("x", "")))]));
    wrong.extend(not_refused(vec![("transaction.delete", Box::new(|| transaction.delete("x")))]));
    for writer in writers {
        wrong.extend(not_refused(vec![("writer.put", Box::new(|| writer.put("x", "")))]));
        wrong.extend(not_refused(vec![("writer.delete", Box::new(|| writer.delete("x")))]));
        wrong.extend(not_refused(vec![("writer.flush", Box::new(|| writer.flush()))]));
        wrong.extend(not_refused(vec![("writer.finish", Box::new(|| writer.finish()))]));
        if !matches!(writer.put("x", ""), Err(Error::Finished)) {
            wrong.push("a writer is finished all the same".to_owned());
        }
    }
    wrong
}

/// What was given out before stays whole.
fn stays_usable(before: Before) {
    let Before { mut cursor, versions, items, values, pending, transaction, snapshot, .. } = before;
    assert_eq!((&values[0][..], &values[1][..]), (&b"v"[..], &[7; 1000][..]));
    let entries: Vec<_> =
        items.iter().map(|item| (item.key(), item.value().unwrap().into_vec())).collect();
    assert_eq!(entries, [(&b"k"[..], b"v".to_vec()), (b"l", vec![7; 1000])]);
    assert_eq!(cursor.value().unwrap(), "v");
    assert!(cursor.next().unwrap());
    assert_eq!((cursor.key(), cursor.value().unwrap().len()), (&b"l"[..], 1000));
    assert!(cursor.seek("k").unwrap() && !cursor.prev().unwrap());
    let versions: Vec<Item> = versions.collect::<Result<_>>().unwrap();
    assert_eq!(versions.len(), 2);
    assert_eq!(versions[1].value().unwrap(), [7; 1000]);
    let version = pending.version();
    assert!(pending.is_done());
    assert_eq!(pending.wait_durable().unwrap(), version);
    assert!(snapshot.version() >= version - 1);
    assert_eq!((transaction.len(), transaction.is_empty()), (1, false));
}

#[test]
fn rule_4_after_close_whatever_is_asked_is_refused_and_what_was_given_out_stays() {
    let (db, _fs) = memory();
    let mut before = fill(&db);
    let mut iter = db.range("k"..="l").unwrap();
    let (mut batch, empty) = (db.batch(), db.batch());
    batch.put("x", "").unwrap();
    let commits = [db.begin().unwrap(), db.begin().unwrap(), db.begin().unwrap()];
    let waiting: Vec<_> = (0..2).map(|_| db.begin().unwrap()).collect();
    let walks = db.begin().unwrap();
    let mut walk = walks.range("k"..="l");
    db.close().unwrap();
    db.close().unwrap();

    let options = WriteOptions::default();
    let mut wrong = not_refused(calls![
        db.put("k", "w"),
        db.put_with("k", "w", options),
        db.delete("k"),
        db.get("k"),
        db.get("none"),
        db.get_entry("k"),
        db.get_with("k", |_| ()),
        db.contains("k"),
        db.multi_get(["k"]),
        db.multi_get::<&str>([]),
        db.begin(),
        db.begin_read(),
        db.begin_at(1),
        db.snapshot(),
        db.snapshot_at(1),
        db.update(|_| Ok(())),
        db.view(|_| Ok(())),
        db.try_update(|_| Ok::<(), Error>(())),
        db.try_view(|_| Ok::<(), Error>(())),
        db.iter(),
        db.range("a".."b"),
        db.prefix("k"),
        db.sequence("ids", 1),
        db.drop_all(),
        db.drop_prefix("k"),
        db.drop_range("b".."a"),
        db.sync(),
        db.flush(),
        db.compact(),
        db.wait_idle(),
        db.verify(),
        db.gc(&GcOptions::full()),
        db.gc_with(&GcOptions::full(), |_, _| ControlFlow::Continue(())),
        db.set_discard_watermark(1),
        db.step(Step::Flush),
        db.step(Step::Collect),
        db.batch().put("k", "w"),
        db.batch().delete("k"),
        db.batch().commit(),
        db.bulk_writer().put("k", "w"),
        db.bulk_writer().flush(),
        db.bulk_writer().finish(),
        db.clone().get("k"),
    ]);
    wrong.extend(not_refused(vec![("batch.put", Box::new(|| batch.put("y", "")))]));
    let [now, later, then] = commits;
    let outcomes: [(&str, Result<()>); 8] = [
        ("a batch", batch.commit().map(drop)),
        ("an empty batch", empty.commit_with(Durability::Sync).map(drop)),
        ("an empty transaction", now.commit().map(drop)),
        ("commit_async", later.commit_async().map(drop)),
        ("commit_then", then.commit_then(Durability::Sync, |_| panic!("refused")).map(drop)),
        ("a batch, later", db.batch().commit_async().map(drop)),
        ("commit_at", db.batch().commit_at(1_000_000).map(drop)),
        ("a bulk writer", db.bulk_writer().finish()),
    ];
    for (name, outcome) in outcomes {
        if !matches!(outcome, Err(Error::Closed)) {
            wrong.push(format!("{name}: {outcome:?}"));
        }
    }
    wrong.extend(refused_by_handles(&mut before));
    assert!(wrong.is_empty(), "not refused:\n{}", wrong.join("\n"));

    // Iterators from before go on, a transaction's too, from wherever they are sent.
    for iter in [&mut iter, &mut walk] {
        assert_eq!(iter.next().unwrap().unwrap().key(), b"k");
        assert_eq!(iter.next_back().unwrap().unwrap().value().unwrap(), [7; 1000]);
        assert!(iter.next().is_none());
        iter.seek("k");
        assert_eq!(iter.next().unwrap().unwrap().key(), b"k");
    }
    stays_usable(before);
    waiting.into_iter().for_each(Transaction::rollback);
    // What only says how things are goes on as well.
    assert_eq!(db.health(), Health::Closed);
    assert!(db.version() > 0 && db.max_value_len(1) > 0 && db.max_transaction_size() > 0);
    assert_eq!((db.path(), db.options().value_threshold), (PATH.as_ref(), 256));
    assert!(db.stats().version > 0);
}

#[test]
fn rule_4_what_outlives_the_last_handle_is_refused_in_the_same_way() {
    let (db, fs) = memory();
    let mut before = fill(&db);
    drop(db);
    let wrong = refused_by_handles(&mut before);
    assert!(wrong.is_empty(), "not refused:\n{}", wrong.join("\n"));
    // Numbers that an owner still had are a gap, not given out by two.
    let db = tiny().open_in(fs, PATH).unwrap();
    assert_eq!(db.sequence("ids", 10).unwrap().next().unwrap(), 10);
    assert!(matches!(before.ids.next(), Err(Error::Closed)));
    stays_usable(before);
}

#[test]
fn rule_4_a_closed_database_says_so_also_where_it_would_refuse_for_another_reason() {
    let fs = Arc::new(MemFs::new());
    let create = |options: Options| options.open_in(fs.clone(), PATH).unwrap();
    create(tiny()).close().unwrap();
    let read_only = create(tiny().read_only(true));
    let mut t = read_only.begin().unwrap();
    let mut writer = read_only.bulk_writer();
    read_only.close().unwrap();
    let mut wrong = not_refused(calls![
        read_only.put("k", "v"),
        read_only.delete("k"),
        read_only.sequence("ids", 1),
        read_only.drop_all(),
        read_only.sync(),
        read_only.flush(),
        read_only.compact(),
        read_only.gc(&GcOptions::full()),
        read_only.batch().commit(),
        writer.put("k", "v"),
        t.put("k", "v"),
    ]);
    let managed = tiny().managed(true).open_in(Arc::new(MemFs::new()), PATH).unwrap();
    let (t, at) = (managed.begin_at(0).unwrap(), managed.begin_at(0).unwrap());
    managed.close().unwrap();
    let mut commits = (Some(t), Some(at));
    wrong.extend(not_refused(calls![
        managed.put("k", "v"),
        managed.begin(),
        managed.begin_at(0),
        managed.sequence("ids", 1),
        managed.drop_all(),
        managed.batch().commit(),
        managed.batch().commit_at(10),
        managed.bulk_writer().finish(),
        commits.0.take().unwrap().commit(),
        commits.1.take().unwrap().commit_at(10),
    ]));
    assert!(wrong.is_empty(), "not refused:\n{}", wrong.join("\n"));
}
