//! Tests of `auth-service policy`, as an operator runs it: without a store, and often without the settings of the
//! service.

use std::fs;
use std::process::{Command, Output};

const RULES: &str = r#"
[[service]]
name = "files"
host = ["mcp.example.com", "*.example.com"]
path = "/filesystem"
groups = ["staff"]

[[service.tool]]
match = "write_*"
groups = ["writers"]

[[service]]
name = "notes"
host = "mcp.example.com"
path = "/notes"

[[service]]
name = "anything else"
host = "*.example.com"
users = ["bo"]
"#;

/// A policy file in a directory of its own.
struct File {
    directory: tempfile::TempDir,
}

impl File {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("policy.toml"), RULES).unwrap();
        Self { directory }
    }

    fn run(&self, words: &str, settings: &[(&str, &str)]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_auth-service"));
        command.args(words.split_whitespace()).current_dir(self.directory.path());
        command.env_clear().env("POLICY_FILE", "policy.toml").envs(settings.iter().copied()).output().unwrap()
    }

    /// The exit code and the output of `policy explain`.
    fn explained(&self, words: &str, settings: &[(&str, &str)]) -> (Option<i32>, String) {
        let output = self.run(&format!("policy explain --user ana {words}"), settings);
        let text = [output.stdout, output.stderr].concat();
        (output.status.code(), String::from_utf8(text).unwrap())
    }
}

#[test]
fn explain_accepts_the_url_that_a_client_uses() {
    let file = File::new();
    let url = "https://mcp.example.com/filesystem/mcp";
    let (code, said) = file.explained(&format!("{url} --group staff --tool write_file"), &[]);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains(&format!("token: scope \"mcp\" for {url}\n")), "{said}");
    assert!(said.contains("service: files (line 2)\n"), "{said}");
    assert!(said.contains("tool write_* (line 8): allows groups writers: NO\n"), "{said}");
    let with_query = format!("{url}?team=7 --group staff --tool read_file");
    assert_eq!(file.explained(&with_query, &[]).0, Some(0));
    let same = "--host mcp.example.com --path /filesystem/mcp --group staff --tool write_file";
    assert_eq!(file.explained(same, &[]), (code, said));
}

#[test]
fn without_a_path_each_service_of_the_host_is_explained_and_the_common_lines_are_there_once() {
    let file = File::new();
    for target in ["https://mcp.example.com", "https://mcp.example.com/", "--host mcp.example.com"] {
        let (code, said) = file.explained(&format!("{target} --group staff"), &[]);
        assert_eq!(code, Some(1), "one of the services refuses the request: {said}");
        let starts = |start: &str| said.lines().filter(|line| line.starts_with(start)).collect::<Vec<_>>();
        let services =
            ["service: files (line 2)", "service: notes (line 12)", "service: anything else (line 17)"];
        let found = starts("service: ");
        assert_eq!(found, services, "{said}");
        assert_eq!(starts("=> "), ["=> ALLOWED", "=> ALLOWED", "=> REFUSED by the check"], "{said}");
        for once in ["rules: ", "who: ", "settings ALLOWED_"] {
            assert_eq!(starts(once).len(), 1, "{once}: {said}");
        }
        let tokens = starts("token: ");
        assert!(tokens.last().is_some_and(|line| line.ends_with(" for https://mcp.example.com")), "{said}");
    }
    let (code, said) = file.explained("https://www.example.com --group staff", &[]);
    assert_eq!(code, Some(1), "{said}");
    assert!(!said.contains("notes") && said.matches("service: ").count() == 2, "{said}");
    let (code, said) = file.explained("https://other.example.org --group staff", &[]);
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("no rule applies to this resource") && said.matches("=> ").count() == 1, "{said}");
}

#[test]
fn what_is_not_the_url_of_a_service_is_refused_with_the_reason() {
    let file = File::new();
    let hosts = ("PROTECTED_HOSTS", "mcp.example.com");
    for (words, settings, expected) in [
        ("mcp.example.com/notes", &[][..], "is not the URL of a service; write https://"),
        ("ftp://mcp.example.com/notes", &[], "is not the URL of a service"),
        ("https:///notes", &[], "is not a host"),
        ("https://mcp.example.com/a/../b", &[], "the check refuses the path"),
        ("https://other.example.com", &[hosts], "not one of PROTECTED_HOSTS"),
        ("http://mcp.example.com/notes", &[hosts], "the protected services use https"),
        ("", &[], "<URL>"),
        ("https://mcp.example.com --host mcp.example.com", &[], "cannot be used with"),
    ] {
        let (code, said) = file.explained(&format!("{words} --group staff"), settings);
        assert!(code == Some(2) && said.contains(expected), "{words}: {said}");
    }
}

#[test]
fn check_knows_the_protected_hosts_without_the_issuer() {
    let file = File::new();
    let check = |settings: &[(&str, &str)]| {
        let output = file.run("policy check", settings);
        (output.status.code(), String::from_utf8([output.stderr, output.stdout].concat()).unwrap())
    };
    let warning = "line 12: no host of PROTECTED_HOSTS is mcp.example.com, so this rule applies to nothing";
    for settings in [
        &[("PROTECTED_HOSTS", "www.example.com")][..],
        &[("PROTECTED_HOSTS", "www.example.com"), ("ISSUER", "https://www.example.com")],
    ] {
        let (code, said) = check(settings);
        assert_eq!((code, said.matches(warning).count()), (Some(0), 1), "{said}");
    }
    assert_eq!(check(&[]), (Some(0), "policy.toml: good, 0 warnings\n".to_owned()));
    let (code, said) = check(&[("PROTECTED_HOSTS", "https://www.example.com")]);
    assert!(code == Some(2) && said.contains("PROTECTED_HOSTS") && said.contains("is not a host"), "{said}");
}
