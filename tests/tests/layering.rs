//! Tests that the modules of each crate import only what `tests/layers.toml` allows, and that no files import each
//! other.

use std::collections::BTreeMap;
use std::fs;

use serde::Deserialize;
use tests::layers::{KnownCircle, Table, breaches, circles_of_files, unknown_circles};
use tests::places::repository;

#[derive(Deserialize)]
struct Layers {
    /// The known import cycles of files.
    #[serde(default)]
    circle: Vec<KnownCircle>,
    #[serde(flatten)]
    crates: BTreeMap<String, Table>,
}

fn layers() -> anyhow::Result<Layers> {
    Ok(toml::from_str(&fs::read_to_string(repository().join("tests/layers.toml"))?)?)
}

#[test]
fn every_module_imports_only_what_the_table_lets_it() {
    let mut all = Vec::new();
    for (name, table) in &layers().expect("tests/layers.toml can be read").crates {
        let found = breaches(&repository().join(name).join("src"), table).expect("the sources can be read");
        all.extend(found.into_iter().map(|breach| format!("{name}: {breach}")));
    }
    assert!(all.is_empty(), "\n{}\n", all.join("\n"));
}

#[test]
fn no_files_import_each_other() {
    let layers = layers().expect("tests/layers.toml can be read");
    let mut all = Vec::new();
    for name in layers.crates.keys() {
        let found = circles_of_files(&repository().join(name).join("src")).expect("the sources can be read");
        let unknown = unknown_circles(name, &found, &layers.circle);
        all.extend(unknown.into_iter().map(|sentence| format!("{name}: {sentence}")));
    }
    assert!(all.is_empty(), "\n{}\n", all.join("\n"));
}
