//! Tests that docs/threat-model.md and the tests agree on which attacks are handled.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::collections::BTreeSet;
use std::path::Path;

use tests::places;

/// The attack numbers in the first column of the document's table.
fn claimed(page: &str) -> BTreeSet<u32> {
    let rows = page
        .lines()
        .filter(|line| line.starts_with("| ") && line.as_bytes().get(2).is_some_and(u8::is_ascii_digit));
    let ranges = rows.flat_map(|row| row.split('|').nth(1).unwrap().split(','));
    let bounds = ranges.map(|range| range.trim().split_once('–').unwrap_or((range.trim(), range.trim())));
    bounds.flat_map(|(first, last)| first.parse::<u32>().unwrap()..=last.parse().unwrap()).collect()
}

/// Collects the attack numbers in the names of tests, such as `fn a026_a027_…`.
fn tested(directory: &Path, numbers: &mut BTreeSet<u32>) {
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap();
        if path.is_dir() && !matches!(name, "target" | "fuzz" | "node_modules") {
            tested(&path, numbers);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = std::fs::read_to_string(&path).unwrap();
            let names =
                text.split("fn a").skip(1).map(|rest| format!("a{}", rest.split('(').next().unwrap()));
            numbers.extend(names.flat_map(|name| {
                let parts = name
                    .split('_')
                    .map(|part| part.strip_prefix('a').filter(|digits| digits.len() == 3)?.parse().ok());
                parts.map_while(|number| number).collect::<Vec<u32>>()
            }));
        }
    }
}

#[test]
fn every_attack_that_the_threat_model_claims_has_a_test_and_the_other_way_round() {
    let root = places::repository();
    let claimed = claimed(&std::fs::read_to_string(root.join("docs/threat-model.md")).unwrap());
    let mut numbers = BTreeSet::new();
    for part in ["auth-service", "stdio-wrapper", "tests"] {
        tested(&root.join(part), &mut numbers);
    }
    let untested: Vec<_> = claimed.difference(&numbers).collect();
    assert!(untested.is_empty(), "docs/threat-model.md claims attacks without a test: {untested:?}");
    let unclaimed: Vec<_> = numbers.difference(&claimed).collect();
    assert!(
        unclaimed.is_empty(),
        "tests carry numbers that docs/threat-model.md does not list: {unclaimed:?}"
    );
}
