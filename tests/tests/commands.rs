//! Tests that scripts and documents refer only to existing files, and to examples, tests and programs that cargo
//! can run.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::Value;
use tests::places::repository;

/// The kinds and names of all targets that cargo can run here.
fn targets() -> BTreeSet<(String, String)> {
    let mut command = Command::new("cargo");
    command.args(["metadata", "--locked", "--no-deps", "--format-version", "1"]).current_dir(repository());
    let metadata: Value = serde_json::from_slice(&command.output().unwrap().stdout).unwrap();
    let packages = metadata.get("packages").and_then(Value::as_array).unwrap().iter();
    let targets = packages.flat_map(|package| package.get("targets").and_then(Value::as_array).unwrap());
    let pair = |target: &Value| {
        let kind = target.pointer("/kind/0").and_then(Value::as_str).unwrap();
        (kind.to_owned(), target.get("name").and_then(Value::as_str).unwrap().to_owned())
    };
    targets.map(pair).collect()
}

/// All tracked scripts and documents.
fn files() -> Vec<String> {
    let mut command = Command::new("git");
    command.args(["ls-files", "*.md", "scripts", ".ci", "stdio-wrapper/tests"]).current_dir(repository());
    let printed = String::from_utf8(command.output().unwrap().stdout).unwrap();
    printed.lines().map(str::to_owned).collect()
}

#[test]
fn what_scripts_and_documents_tell_cargo_to_run_is_there() {
    let targets = targets();
    let (mut seen, mut missing) = (0, Vec::new());
    for file in files() {
        // A file that is not text contains no commands.
        let Ok(text) = fs::read_to_string(repository().join(&file)) else { continue };
        let words: Vec<&str> = text.split(|c: char| c.is_whitespace() || "`'\"()".contains(c)).collect();
        for pair in words.windows(2) {
            let [option, name] = pair else { continue };
            let Some(kind @ ("example" | "test" | "bin")) = option.strip_prefix("--") else { continue };
            seen += 1;
            if !targets.contains(&(kind.to_owned(), (*name).to_owned())) {
                missing.push(format!("{file}: --{kind} {name}"));
            }
        }
    }
    assert!(missing.is_empty(), "cargo has none of these:\n{}", missing.join("\n"));
    assert!(seen > 20, "only {seen} commands were found");
}

/// The directories to which paths in backticks are relative in the documents.
const BEGINNINGS: [&str; 8] = [
    "",
    "auth-service",
    "auth-service/src",
    "contract",
    "contract/src",
    "stdio-wrapper",
    "stdio-wrapper/src",
    "tests",
];

/// Whether a word in backticks is the name of a source file or a script of this repository. A name with capital
/// letters, such as `src/NAME.rs`, is a pattern for other names.
fn is_a_file(word: &str) -> bool {
    let is_path = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "_-./".contains(c);
    word.chars().all(is_path) && (word.starts_with("scripts/") || ends_in(word, "rs"))
}

fn ends_in(file: &str, extension: &str) -> bool {
    Path::new(file).extension().is_some_and(|end| end == extension)
}

#[test]
fn the_files_that_documents_name_or_link_to_are_there() {
    let (mut seen, mut missing) = (0, Vec::new());
    // The changelog can mention files that existed only at the time of a change.
    for file in files().into_iter().filter(|file| ends_in(file, "md") && file != "CHANGELOG.md") {
        let text = fs::read_to_string(repository().join(&file)).unwrap();
        let directory = repository().join(&file).parent().unwrap().to_path_buf();
        let links = text.split("](").skip(1).filter_map(|rest| rest.split([')', '#']).next());
        for link in links.filter(|link| !link.is_empty() && !link.contains(':')) {
            seen += 1;
            if !directory.join(link).exists() {
                missing.push(format!("{file}: a link to {link}"));
            }
        }
        for word in text.split('`').filter(|word| is_a_file(word)) {
            seen += 1;
            if !BEGINNINGS.iter().any(|beginning| repository().join(beginning).join(word).exists()) {
                missing.push(format!("{file}: {word}"));
            }
        }
    }
    assert!(missing.is_empty(), "these are not in the repository:\n{}", missing.join("\n"));
    assert!(seen > 300, "only {seen} files and links were found");
}

#[test]
fn the_workflows_run_every_step_of_scripts_test_and_pin_the_actions_of_others() {
    let script = fs::read_to_string(repository().join("scripts/test")).unwrap();
    let (_, steps) = script.split_once("STEPS=(").unwrap();
    let steps: BTreeSet<&str> = steps.split_once(')').unwrap().0.split_whitespace().collect();
    for step in &steps {
        assert!(script.contains(&format!("\n  {step}  ")), "scripts/test --help does not explain {step}");
    }
    let checks = fs::read_to_string(repository().join(".github/workflows/checks.yml")).unwrap();
    let lines = checks.lines().filter_map(|line| line.trim().strip_prefix("- run: "));
    let run = lines.filter_map(|line| line.strip_prefix("scripts/test ").or(line.strip_prefix(".ci/run ")));
    let run: BTreeSet<&str> = run.flat_map(str::split_whitespace).collect();
    assert_eq!(run, steps, "the steps in checks.yml, and the existing steps");

    let mut pinned = 0;
    for file in fs::read_dir(repository().join(".github/workflows")).unwrap() {
        for line in fs::read_to_string(file.unwrap().path()).unwrap().lines() {
            let Some((_, action)) = line.split_once("uses: ") else { continue };
            let commit =
                action.split_once('@').and_then(|(_, rest)| rest.split(' ').next()).unwrap_or_default();
            let is_hash = commit.len() == 40 && commit.bytes().all(|byte| byte.is_ascii_hexdigit());
            assert!(is_hash, "{action} is not pinned by the hash of a commit");
            pinned += 1;
        }
    }
    assert!(pinned > 5, "only {pinned} actions were found");
}
