//! `scan`: entries in key order.

use std::ffi::OsString;
use std::ops::Bound;

use kvdb::{Durability, Item};

use crate::args::ScanArgs;
use crate::bytes;
use crate::failure::{Failure, Outcome};
use crate::output::Output;
use crate::store::{self, Access};

pub(crate) fn run(args: &ScanArgs) -> Result<Outcome, Failure> {
    let parse = |argument: &Option<OsString>| {
        argument.as_ref().map(|text| bytes::key(text, args.form)).transpose()
    };
    let range = Range::new(parse(&args.prefix)?, parse(&args.from)?, parse(&args.to)?);
    let db = store::open(&args.store, Access::Read, Durability::Sync)?;
    let mut printer = Printer { output: Output::new(), args };
    if let Some(bounds) = range.bounds() {
        let limit = args.limit.unwrap_or(u64::MAX);
        let mut entries = db
            .range(bounds)
            .map_err(|error| Failure::store(&args.store.db, "start the scan", &error))?;
        for _ in 0..limit {
            let Some(entry) = (if args.reverse { entries.next_back() } else { entries.next() })
            else {
                break;
            };
            printer.print(entry)?;
        }
    }
    printer.output.finish()?;
    Ok(Outcome::Done)
}

struct Printer<'a> {
    output: Output,
    args: &'a ScanArgs,
}

impl Printer<'_> {
    fn print(&mut self, entry: kvdb::Result<Item>) -> Result<(), Failure> {
        let failed = |error| Failure::store(&self.args.store.db, "go on with the scan", &error);
        let entry = entry.map_err(failed)?;
        let value = if self.args.keys_only { None } else { Some(entry.value().map_err(failed)?) };
        let (between, behind): (&[u8], &[u8]) =
            if self.args.null { (b"\0", b"\0") } else { (b"\t", b"\n") };
        self.field(entry.key())?;
        if let Some(value) = value {
            self.output.raw(between)?;
            self.field(&value)?;
        }
        self.output.raw(behind)
    }

    fn field(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        if self.args.raw || self.args.null {
            self.output.raw(bytes)
        } else {
            self.output.escaped(bytes)
        }
    }
}

/// A range in the store's terms.
type Bounds = (Bound<Vec<u8>>, Bound<Vec<u8>>);

/// The keys `from <= key < to`; without a `to`, all from there on.
#[derive(Debug, PartialEq, Eq)]
struct Range {
    from: Vec<u8>,
    to: Option<Vec<u8>>,
}

impl Range {
    /// The keys that satisfy all three conditions.
    fn new(prefix: Option<Vec<u8>>, from: Option<Vec<u8>>, to: Option<Vec<u8>>) -> Self {
        let prefix = prefix.unwrap_or_default();
        let behind = successor(&prefix);
        let to = match (behind, to) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        };
        Self { from: prefix.max(from.unwrap_or_default()), to }
    }

    /// The range in the store's terms; `None` if no key can be in it.
    fn bounds(self) -> Option<Bounds> {
        if self.to.as_ref().is_some_and(|to| *to <= self.from) {
            return None;
        }
        let from = if self.from.is_empty() { Bound::Unbounded } else { Bound::Included(self.from) };
        Some((from, self.to.map_or(Bound::Unbounded, Bound::Excluded)))
    }
}

/// The least byte string above all that begin with `prefix`; `None` if there is none.
fn successor(prefix: &[u8]) -> Option<Vec<u8>> {
    let kept = prefix.iter().rposition(|&byte| byte != 0xff)?;
    let mut next = prefix[..=kept].to_vec();
    next[kept] += 1;
    Some(next)
}

#[cfg(test)]
mod tests {
    use std::ops::RangeBounds;

    use super::{Range, successor};

    #[test]
    fn the_successor_of_a_prefix_is_above_everything_that_begins_with_it() {
        assert_eq!(successor(b"ab").unwrap(), b"ac");
        assert_eq!(successor(b"a\xff\xff").unwrap(), b"b");
        assert_eq!(successor(b"\xff"), None);
        assert_eq!(successor(b""), None);
    }

    #[test]
    fn a_range_holds_the_keys_that_satisfy_every_condition() {
        let keys: Vec<Vec<u8>> = ["a", "aa", "ab", "ab\0", "ab\u{7f}", "abc", "ac", "b", "c"]
            .iter()
            .map(|k| k.as_bytes().to_vec())
            .collect();
        let mut choices: Vec<Option<Vec<u8>>> = vec![None, Some(Vec::new())];
        choices.extend(keys.iter().cloned().map(Some));
        for prefix in &choices {
            for from in &choices {
                for to in &choices {
                    let bounds = Range::new(prefix.clone(), from.clone(), to.clone()).bounds();
                    for key in &keys {
                        let wanted = prefix.as_ref().is_none_or(|p| key.starts_with(p))
                            && from.as_ref().is_none_or(|f| key >= f)
                            && to.as_ref().is_none_or(|t| key < t);
                        let found = bounds.as_ref().is_some_and(|bounds| bounds.contains(key));
                        assert_eq!(found, wanted, "{key:?} in {bounds:?}");
                    }
                }
            }
        }
    }
}
