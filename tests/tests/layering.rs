//! Tests that the modules of each crate import only what `tests/layers.toml` allows, and that no files import each
//! other.

use std::collections::BTreeMap;
use std::fs;

use tests::layers::{Table, breaches, circles_of_files};
use tests::places::repository;

/// For each crate, by its directory, the table of its modules.
fn layers() -> anyhow::Result<BTreeMap<String, Table>> {
    Ok(toml::from_str(&fs::read_to_string(repository().join("tests/layers.toml"))?)?)
}

#[test]
fn every_module_imports_only_what_the_table_lets_it() {
    let mut all = Vec::new();
    for (name, table) in &layers().expect("tests/layers.toml can be read") {
        let found = breaches(&repository().join(name).join("src"), table).expect("the sources can be read");
        all.extend(found.into_iter().map(|breach| format!("{name}: {breach}")));
    }
    assert!(all.is_empty(), "\n{}\n", all.join("\n"));
}

#[test]
fn no_files_import_each_other() {
    let mut all = Vec::new();
    for name in layers().expect("tests/layers.toml can be read").keys() {
        let found = circles_of_files(&repository().join(name).join("src")).expect("the sources can be read");
        all.extend(found.iter().map(|files| {
            let files = files.join(", ");
            format!(
                "{name}: These files import each other: {files}. Move what they share to a file below them."
            )
        }));
    }
    assert!(all.is_empty(), "\n{}\n", all.join("\n"));
}
