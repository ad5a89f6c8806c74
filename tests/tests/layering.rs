//! Tests that the modules of each crate import only what `tests/layers.toml` allows.

use std::collections::BTreeMap;
use std::fs;

use tests::layers::{Table, breaches};
use tests::places::repository;

#[test]
fn every_module_imports_only_what_the_table_lets_it() {
    let text =
        fs::read_to_string(repository().join("tests/layers.toml")).expect("tests/layers.toml can be read");
    let crates: BTreeMap<String, Table> =
        toml::from_str(&text).expect("tests/layers.toml is a table of tables");
    let mut all = Vec::new();
    for (name, table) in &crates {
        let found = breaches(&repository().join(name).join("src"), table).expect("the sources can be read");
        all.extend(found.into_iter().map(|breach| format!("{name}: {breach}")));
    }
    assert!(all.is_empty(), "\n{}\n", all.join("\n"));
}
