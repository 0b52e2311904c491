//! The database in an async program: `cargo run -p kvdb --example async`.
//!
//! Reads and transactions may wait for the disk, so they go to the threads that a runtime keeps for
//! that (`spawn_blocking`). A commit need not be waited for by any thread: `commit_async` returns a
//! future that needs no runtime in particular.

#![allow(clippy::print_stdout)]

use kvdb::{Db, Durability, Result};

/// Reads and writes in a transaction, on a thread that may wait.
async fn visit(db: Db, page: String) -> Result<u64> {
    let run = move || {
        db.update(|t| {
            let visits = t.get(&page)?.map_or(0, |v| v.len() as u64);
            t.put(&page, vec![b'x'; visits as usize + 1])?;
            Ok(visits + 1)
        })
    };
    // The closure cannot be cancelled once it runs; what it panics with is ours.
    match tokio::task::spawn_blocking(run).await {
        Ok(outcome) => outcome,
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}

/// Writes without a thread that waits: many are on their way at once, and share a sync.
async fn record(db: &Db, events: u32) -> Result<()> {
    let mut pending = Vec::new();
    for event in 0..events {
        let mut batch = db.batch();
        batch.put(format!("event/{event:06}"), "something happened")?;
        // This puts it in order. It waits only if thousands are on their way.
        pending.push(batch.commit_async_with(Durability::Sync)?);
    }
    for commit in pending {
        commit.await?; // durable from here on
    }
    Ok(())
}

async fn run(db: Db) -> Result<()> {
    for _ in 0..3 {
        let visits = visit(db.clone(), "front page".into()).await?;
        println!("visit {visits}");
    }
    record(&db, 10_000).await?;
    println!("{} events", db.prefix("event/")?.count());
    Ok(())
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let dir = tempfile::tempdir()?;
    let db = Db::open(dir.path())?;
    let runtime = tokio::runtime::Builder::new_current_thread().build()?;
    runtime.block_on(run(db.clone()))?;
    // Waits for what is on its way, so not on a thread of the runtime either.
    db.close()?;
    Ok(())
}
