//! Tests that `docs/attacks.md` lists every test whose name contains the number of an attack, and no test that
//! does not exist. With `ATTACKS=write`, the test writes its list into the page.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use tests::places::repository;

/// The number of attacks that the page must list.
const ATTACKS: u32 = 158;
/// The start of every line that this test writes. Other lines below an attack are written by hand.
const WRITTEN: &str = "    - `";
const BY_HAND: &str = "    - ";

/// The names of tests by the attack numbers in the names (`a026_a027_…`), each with its file.
type Tests = BTreeMap<u32, Vec<(String, Vec<String>)>>;

fn is_source(file: &str) -> bool {
    Path::new(file).extension().is_some_and(|extension| extension == "rs")
}

/// Collects the tests of a directory, in the order of their files.
fn collect(directory: &str, tests: &mut Tests) {
    let mut entries: Vec<_> =
        fs::read_dir(repository().join(directory)).unwrap().map(Result::unwrap).collect();
    entries.sort_by_key(fs::DirEntry::file_name);
    for entry in entries {
        let name = entry.file_name().into_string().unwrap();
        let path = format!("{directory}/{name}");
        if entry.path().is_dir() {
            if !matches!(name.as_str(), "target" | "fuzz" | "node_modules") {
                collect(&path, tests);
            }
        } else if is_source(&name) {
            for test in functions(&fs::read_to_string(entry.path()).unwrap()) {
                for number in numbers(test) {
                    let files = tests.entry(number).or_default();
                    match files.last_mut().filter(|(file, _)| *file == path) {
                        Some((_, names)) => names.push(test.to_owned()),
                        None => files.push((path.clone(), vec![test.to_owned()])),
                    }
                }
            }
        }
    }
}

/// The names of all functions in a source file.
fn functions(source: &str) -> impl Iterator<Item = &str> {
    source.split("fn ").skip(1).filter_map(|rest| {
        let (name, after) = rest.split_at(rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '_')?);
        after.starts_with('(').then_some(name)
    })
}

/// The numbers at the beginning of a name.
fn numbers(name: &str) -> impl Iterator<Item = u32> {
    name.split('_').map_while(|part| {
        part.strip_prefix('a').filter(|digits| digits.len() == 3).and_then(|digits| digits.parse().ok())
    })
}

/// The number of the attack at the start of a line of the page.
fn number_of(line: &str) -> Option<u32> {
    line.split_once(". ").and_then(|(number, _)| number.parse().ok())
}

/// The page with the existing tests instead of those that it lists now.
fn rewritten(page: &str, tests: &Tests) -> String {
    let mut text = String::new();
    for line in page.lines().filter(|line| !line.starts_with(WRITTEN)) {
        writeln!(text, "{line}").unwrap();
        for (file, names) in number_of(line).and_then(|number| tests.get(&number)).into_iter().flatten() {
            writeln!(text, "{WRITTEN}{file}`: `{}`", names.join("`, `")).unwrap();
        }
    }
    text
}

fn page() -> String {
    fs::read_to_string(repository().join("docs/attacks.md")).unwrap()
}

#[test]
fn the_page_of_attacks_names_every_numbered_test_and_no_other() {
    let mut tests = Tests::new();
    for part in ["auth-service", "contract", "stdio-wrapper", "tests"] {
        collect(part, &mut tests);
    }
    assert!(tests.len() > 100, "only {} attacks have a test: does the search still work?", tests.len());
    let (page, rewritten) = (page(), rewritten(&page(), &tests));
    if std::env::var_os("ATTACKS").is_some_and(|what| what == "write") {
        return fs::write(repository().join("docs/attacks.md"), rewritten).unwrap();
    }
    let differ: Vec<_> = rewritten.lines().filter(|line| !page.lines().any(|other| other == *line)).collect();
    assert!(
        page == rewritten,
        "docs/attacks.md does not name the existing tests; `ATTACKS=write cargo test --workspace --test attacks` writes \
         it. Lines that it lacks: {differ:#?}"
    );
    let listed: Vec<u32> = page.lines().filter_map(number_of).collect();
    assert_eq!(listed, (1..=ATTACKS).collect::<Vec<_>>(), "docs/attacks.md lists each attack once, in order");
    let unknown: Vec<_> = tests.keys().filter(|number| !listed.contains(number)).collect();
    assert!(unknown.is_empty(), "tests contain numbers that docs/attacks.md does not list: {unknown:?}");
}

#[test]
fn every_attack_has_a_test_or_a_reason_and_the_tests_without_a_number_exist() {
    let page = page();
    let mut last = None;
    let mut named = 0;
    for line in page.lines().chain(["0. the end"]) {
        if let Some(number) = number_of(line) {
            assert_eq!(last, None, "docs/attacks.md lists neither a test nor a reason below this attack");
            last = Some(number).filter(|number| *number != 0);
        } else if let Some(below) = line.strip_prefix(BY_HAND) {
            last = None;
            if line.starts_with(WRITTEN) {
                continue;
            }
            let mut source = None;
            for word in below.split('`').skip(1).step_by(2) {
                if is_source(word) {
                    source = Some(fs::read_to_string(repository().join(word)).unwrap());
                } else if let Some(source) = &source
                    && word.contains('_')
                {
                    named += 1;
                    let exists = functions(source).any(|function| function == word);
                    assert!(exists, "docs/attacks.md names {word}, which is not in the file before it");
                }
            }
        }
    }
    assert!(named >= 5, "only {named} tests without a number were found on the page");
}
