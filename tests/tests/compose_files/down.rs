//! Tests that `scripts/down` deletes data only if somebody has confirmed it. A program that only records its
//! arguments stands in for Docker.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use tempfile::TempDir;

use crate::{checkout, text};

const DOCKER: &str = "#!/bin/sh\necho \"$*\" >>\"$0.calls\"\n";

struct Stack {
    checkout: TempDir,
    docker: PathBuf,
}

impl Stack {
    fn new() -> Self {
        let checkout = checkout();
        fs::write(checkout.path().join(".env"), text(".env.example")).unwrap();
        let docker = checkout.path().join("programs/docker");
        fs::create_dir(docker.parent().unwrap()).unwrap();
        fs::write(&docker, DOCKER).unwrap();
        fs::set_permissions(&docker, fs::Permissions::from_mode(0o755)).unwrap();
        Self { checkout, docker }
    }

    fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let path = std::env::var("PATH").unwrap();
        let mut command = Command::new(program);
        command
            .env("PATH", format!("{}:{path}", self.docker.parent().unwrap().display()))
            .env("MCP_GATE_TOOLS", self.checkout.path().join("tools"));
        command
    }

    fn script(&self) -> PathBuf {
        self.checkout.path().join("scripts/down")
    }

    /// Runs `scripts/down` without a terminal.
    fn down(&self, words: &[&str]) -> Output {
        self.command(self.script()).args(words).stdin(Stdio::null()).output().unwrap()
    }

    /// Runs `scripts/down --delete-everything` in a terminal in which somebody types `answer`.
    fn answered(&self, answer: &str) -> Output {
        let line = format!("{} --delete-everything", self.script().display());
        let mut command = self.command("script");
        command.args(["-qec", &line, "/dev/null"]).stdin(Stdio::piped());
        let mut running = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        running.stdin.take().unwrap().write_all(format!("{answer}\n").as_bytes()).unwrap();
        running.wait_with_output().unwrap()
    }

    /// How Compose was told to remove containers.
    fn removals(&self) -> Vec<String> {
        let calls = PathBuf::from(format!("{}.calls", self.docker.display()));
        let all = fs::read_to_string(Path::new(&calls)).unwrap_or_default();
        all.lines().filter(|line| line.starts_with("compose down")).map(str::to_owned).collect()
    }
}

const ALL: &str = "compose down --remove-orphans --volumes";

#[test]
fn everything_is_deleted_only_after_a_question() {
    let stack = Stack::new();
    let output = stack.down(&["--delete-everything"]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && said.contains("Add --yes"), "{said}");
    let output = stack.answered("yes");
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(!output.status.success() && said.contains("Nothing was deleted"), "{said}");
    assert_eq!(stack.removals(), [""; 0]);
    let output = stack.answered("mcp-gate");
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success() && said.contains("all accounts, clients"), "{said}");
    assert_eq!(stack.removals(), [ALL]);
}

#[test]
fn the_question_can_be_answered_in_advance_and_without_deletion_there_is_none() {
    let stack = Stack::new();
    assert!(stack.down(&["--delete-everything", "--yes"]).status.success());
    assert!(stack.down(&[]).status.success());
    assert_eq!(stack.removals(), [ALL, "compose down --remove-orphans"]);
    let output = stack.down(&["--yes"]);
    assert!(!output.status.success());
    assert_eq!(stack.removals().len(), 2);
}
