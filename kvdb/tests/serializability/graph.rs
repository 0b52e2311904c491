//! The dependencies between the transactions of a history, and whether they have an order.
//!
//! For each key the versions order its writers: each depends on the one before (*ww*). Who read a
//! version depends on its writer (*wr*), and the next writer of the key depends on who read it
//! (*rw*). How versions of different keys compare is not looked at.

use std::collections::HashMap;

use crate::history::{History, KEYS, Record, Seen};

pub(crate) struct Verdict {
    pub(crate) transactions: usize,
    pub(crate) edges: usize,
    pub(crate) refused: u64,
    /// A read that was not of the newest version at the reader's.
    pub(crate) broken_snapshot: Option<String>,
    /// Transactions that each depend on the next, and the last on the first.
    pub(crate) cycle: Option<Vec<Record>>,
}

/// One writer of a key.
#[derive(Debug, Clone, Copy)]
struct Writer {
    version: u64,
    transaction: usize,
    /// False: it deleted it.
    there: bool,
}

pub(crate) fn verdict(history: &History) -> Verdict {
    let records = &history.records;
    let writers = writers(records);
    let mut broken_snapshot = None;
    let mut edges = vec![Vec::new(); records.len()];
    for writers in &writers {
        for pair in writers.windows(2) {
            edges[pair[0].transaction].push(pair[1].transaction);
        }
    }
    for (reader, record) in records.iter().enumerate() {
        for seen in &record.seen {
            let writers = &writers[usize::from(seen.key)];
            let next = writers.partition_point(|w| w.version <= record.read_version);
            let newest = next.checked_sub(1).map(|i| writers[i]);
            if version_of(newest) != seen.version {
                broken_snapshot.get_or_insert(format!("{seen:?} for {newest:?} in {record:?}"));
            }
            // An absence does not say whose deletion it is: that of the newest, as was checked.
            let at = match seen {
                Seen { version: Some(version), .. } => {
                    writers.partition_point(|w| w.version <= *version)
                }
                _ => next,
            };
            if let Some(writer) = at.checked_sub(1).map(|i| writers[i]) {
                edges[writer.transaction].push(reader);
            }
            if let Some(later) = writers.get(at).filter(|w| w.transaction != reader) {
                edges[reader].push(later.transaction);
            }
        }
    }
    let cycle =
        find_cycle(&edges).map(|cycle| cycle.into_iter().map(|i| records[i].clone()).collect());
    Verdict {
        transactions: records.len(),
        edges: edges.iter().map(Vec::len).sum(),
        refused: history.refused,
        broken_snapshot,
        cycle,
    }
}

fn version_of(writer: Option<Writer>) -> Option<u64> {
    writer.filter(|w| w.there).map(|w| w.version)
}

/// The writers of each key, in version order.
fn writers(records: &[Record]) -> Vec<Vec<Writer>> {
    let mut writers = vec![Vec::new(); usize::from(KEYS)];
    let mut versions = HashMap::new();
    for (transaction, record) in records.iter().enumerate() {
        let Some(version) = record.version else { continue };
        assert!(version > record.read_version);
        assert_eq!(versions.insert(version, transaction), None, "versions are given out once");
        for &(key, there) in &record.wrote {
            writers[usize::from(key)].push(Writer { version, transaction, there });
        }
    }
    writers.iter_mut().for_each(|w| w.sort_unstable_by_key(|w| w.version));
    writers
}

/// Depth first, without recursion.
fn find_cycle(edges: &[Vec<usize>]) -> Option<Vec<usize>> {
    #[derive(Clone, Copy, PartialEq)]
    enum State {
        New,
        OnPath,
        Done,
    }
    let mut state = vec![State::New; edges.len()];
    for root in 0..edges.len() {
        if state[root] != State::New {
            continue;
        }
        let mut path = vec![(root, 0)];
        state[root] = State::OnPath;
        while let Some((node, next)) = path.last_mut() {
            let (node, edge) = (*node, edges[*node].get(*next));
            *next += 1;
            match edge {
                None => {
                    state[node] = State::Done;
                    path.pop();
                }
                Some(&to) if state[to] == State::OnPath => {
                    let path = path.iter().map(|(node, _)| *node);
                    return Some(path.skip_while(|node| *node != to).collect());
                }
                Some(&to) if state[to] == State::New => {
                    state[to] = State::OnPath;
                    path.push((to, 0));
                }
                Some(_) => {}
            }
        }
    }
    None
}

#[test]
fn a_cycle_is_found_and_only_if_there_is_one() {
    assert_eq!(find_cycle(&[vec![1, 2], vec![2], vec![]]), None);
    assert_eq!(find_cycle(&[vec![1], vec![2], vec![1]]), Some(vec![1, 2]));
    assert_eq!(find_cycle(&[vec![], vec![2], vec![0, 1]]), Some(vec![1, 2]));
}
