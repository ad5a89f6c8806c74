//! Tests that `scripts/sbom` lists every crate that is linked into the two programs.
#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

use std::collections::BTreeSet;
use std::fs;
use std::io::Write as _;
use std::process::Command;

use serde_json::Value;
use tests::engine::text;
use tests::places::{repository, tools_dir};

/// Names and versions of the packages in `Cargo.lock`.
fn locked() -> BTreeSet<(String, String)> {
    let lock: toml::Value =
        toml::from_str(&fs::read_to_string(repository().join("Cargo.lock")).unwrap()).unwrap();
    let pair = |package: &toml::Value| {
        let field = |name: &str| package[name].as_str().unwrap().to_owned();
        (field("name"), field("version"))
    };
    lock["package"].as_array().unwrap().iter().map(pair).collect()
}

/// Names and versions of the crates that `cargo tree` lists for a program, without the program's own crate.
fn linked(program: &str) -> BTreeSet<(String, String)> {
    let mut command = Command::new("cargo");
    command.args(["tree", "--locked", "--package", program, "--edges", "normal", "--prefix", "none"]);
    let printed = text(&command.current_dir(repository()).output().unwrap()).unwrap();
    let crates = printed.lines().filter_map(|line| {
        let mut words = line.split_whitespace();
        Some((words.next()?.to_owned(), words.next()?.trim_start_matches('v').to_owned()))
    });
    crates.filter(|(name, _)| name != program).collect()
}

#[test]
fn the_bill_of_materials_names_every_crate_that_is_linked() {
    if !tools_dir().join("cargo/bin/cargo-cyclonedx").exists() {
        let message = "SKIPPED the_bill_of_materials_names_every_crate_that_is_linked: run scripts/tools cargo-cyclonedx\n";
        std::io::stderr().write_all(message.as_bytes()).unwrap();
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let mut command = Command::new(repository().join("scripts/sbom"));
    text(&command.arg(dir.path()).env("MCP_GATE_TOOLS", tools_dir()).output().unwrap()).unwrap();
    let locked = locked();
    for program in ["auth-service", "stdio-wrapper"] {
        let version = env!("CARGO_PKG_VERSION");
        let written = fs::read_to_string(dir.path().join(format!("{program}-{version}.cdx.json"))).unwrap();
        let bill: Value = serde_json::from_str(&written).unwrap();
        assert_eq!(
            (bill["bomFormat"].as_str(), bill["specVersion"].as_str()),
            (Some("CycloneDX"), Some("1.5"))
        );
        let about = &bill["metadata"]["component"];
        assert_eq!((about["name"].as_str(), about["version"].as_str()), (Some(program), Some(version)));

        let components = bill["components"].as_array().unwrap();
        let field = |component: &Value, name: &str| component[name].as_str().unwrap().to_owned();
        let listed: BTreeSet<_> = components
            .iter()
            .map(|component| (field(component, "name"), field(component, "version")))
            .collect();
        let linked = linked(program);
        assert!(linked.len() > 100, "{linked:?}");
        let missing: Vec<_> = linked.difference(&listed).collect();
        assert!(missing.is_empty(), "linked into {program}, and not listed: {missing:?}");
        let unknown: Vec<_> = listed.difference(&locked).collect();
        assert!(unknown.is_empty(), "listed for {program}, and not in Cargo.lock: {unknown:?}");
        for component in components {
            let licence = &component["licenses"][0];
            assert!(licence["expression"].is_string() || licence["license"].is_object(), "{component}");
            // A crate of this workspace has no checksum in the lock file.
            let is_ours = component["name"] == "contract";
            assert!(is_ours || component["hashes"][0]["alg"] == "SHA-256", "{component}");
        }
        // A published list must not contain paths of the machine on which it was created.
        assert!(!written.contains("file:///tmp") && !written.contains(&repository().display().to_string()));
    }
}
