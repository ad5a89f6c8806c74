//! Runs the SDKs in languages other than Rust. Each is a program that reports events as lines of JSON.

use std::process::Stdio;
use std::time::Duration;

use serde_json::Value;
use tests::Stack;
use tests::places::{repository, tool, tools_dir};
use tests::process::{self, Process};
use tests::setup::ACCOUNT;

/// The time limit for a client's whole run.
const MAX_DURATION: Duration = Duration::from_secs(90);

#[derive(Debug, Clone, Copy)]
pub(crate) enum Sdk {
    TypeScript1,
    TypeScript2,
    Python2,
}

impl Sdk {
    pub(crate) const ALL: [Self; 3] = [Self::TypeScript1, Self::TypeScript2, Self::Python2];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::TypeScript1 => "TypeScript SDK 1",
            Self::TypeScript2 => "TypeScript SDK 2",
            Self::Python2 => "Python SDK 2",
        }
    }

    /// The program for a login with a user.
    fn script(self) -> &'static str {
        match self {
            Self::TypeScript1 => "ts-v1.mjs",
            Self::TypeScript2 => "ts-v2.mjs",
            Self::Python2 => "py.py",
        }
    }
}

/// Runs a client with a stack and these environment variables. Returns the events that it reported.
pub(crate) async fn events(stack: &Stack, sdk: Sdk, settings: &[(&str, &str)]) -> Vec<Value> {
    events_of(stack, sdk.script(), settings).await
}

/// Like [`events`], for any program in `tests/clients`.
pub(crate) async fn events_of(stack: &Stack, script: &str, settings: &[(&str, &str)]) -> Vec<Value> {
    let is_python = script.rsplit_once('.').is_some_and(|(_, kind)| kind == "py");
    let mut command = process::command(tool(if is_python { "venv/bin/python" } else { "node/bin/node" }));
    command.arg(repository().join("tests/clients").join(script)).stderr(Stdio::inherit());
    command
        .env("MCP_URL", &stack.mcp_url)
        .env("ACCOUNT", ACCOUNT.0)
        .env("PASSWORD", ACCOUNT.1)
        .env("MCP_GATE_TOOLS", tools_dir())
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .envs(settings.iter().copied());
    // Each run has its own directory, because output is appended to the log, which would otherwise mix the events
    // of several clients.
    let directory = tempfile::tempdir_in(stack.dir()).unwrap();
    let mut client = Process::start("client", &mut command, directory.path());
    let (client, ended) = tokio::task::spawn_blocking(move || {
        let ended = client.wait_for(MAX_DURATION);
        (client, ended)
    })
    .await
    .unwrap();
    assert!(
        ended.is_some_and(|status| status.success()),
        "the client ended with {ended:?}\n{}",
        client.log_tail()
    );
    client.output().lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
}

pub(crate) fn lines(events: &[Value]) -> String {
    events.iter().map(Value::to_string).collect::<Vec<_>>().join("\n")
}
