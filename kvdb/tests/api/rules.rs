//! The table of rules and tests (`tests/README.md`) tells the truth.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

#[test]
fn every_rule_has_a_test_and_every_test_in_the_table_exists() {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests");
    let mut sources: BTreeMap<String, String> = BTreeMap::new();
    let mut rules = BTreeSet::new();
    let table = include_str!("../README.md");
    let rows = table.lines().filter(|line| line.starts_with("| ") && line.contains('`'));
    for row in rows {
        let cells: Vec<&str> = row.trim_matches('|').split('|').map(str::trim).collect();
        let [rule, test, file] = cells[..] else { panic!("not a row: {row}") };
        let (test, file) = (test.trim_matches('`'), file.trim_matches('`'));
        let source = sources.entry(file.to_owned()).or_insert_with(|| {
            std::fs::read_to_string(tests.join(file)).unwrap_or_else(|e| panic!("{file}: {e}"))
        });
        assert!(source.contains(&format!("fn {test}(")), "there is no {test} in {file}");
        rules.insert(rule.to_owned());
    }
    for rule in (1..=38).map(|rule| rule.to_string()).chain(["2b".into(), "55".into()]) {
        assert!(rules.contains(&rule), "no test for rule {rule}; run kvdb/tests/rules");
    }
}
