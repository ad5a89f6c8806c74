//! The official SDK clients, unmodified and headless, from the first 401 to a call with a refreshed token, through Envoy.
#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::{Value, json};
use tests::places::{repository, tool, tools_dir};
use tests::process::{self, Process};
use tests::setup::ACCOUNT;
use tests::{Setup, Stack};

/// How long a client may take for its whole story.
const MOST: Duration = Duration::from_secs(90);

#[derive(Clone, Copy)]
enum Sdk {
    TypeScript1,
    TypeScript2,
    Python2,
}

impl Sdk {
    fn command(self) -> Command {
        let (program, script): (PathBuf, &str) = match self {
            Self::TypeScript1 => (tool("node/bin/node"), "ts-v1.mjs"),
            Self::TypeScript2 => (tool("node/bin/node"), "ts-v2.mjs"),
            Self::Python2 => (tool("venv/bin/python"), "py.py"),
        };
        let mut command = process::command(program);
        command.arg(repository().join("tests/clients").join(script)).stderr(Stdio::inherit());
        command
    }
}

/// Runs a client against a stack; answers the events that it reported.
async fn events(stack: &Stack, sdk: Sdk) -> Vec<Value> {
    let mut command = sdk.command();
    command
        .env("MCP_URL", &stack.mcp_url)
        .env("ACCOUNT", ACCOUNT.0)
        .env("PASSWORD", ACCOUNT.1)
        .env("MCP_GATE_TOOLS", tools_dir())
        .env("PYTHONDONTWRITEBYTECODE", "1");
    let mut client = Process::start("client", &mut command, stack.dir());
    let (client, ended) = tokio::task::spawn_blocking(move || {
        let ended = client.wait_for(MOST);
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

/// What every client must have gone through, in this order.
fn assert_whole_story(stack: &Stack, issuer_path: &str, events: &[Value]) {
    let mut rest = events.iter();
    let mut next = |what: &str, is: &dyn Fn(&Value) -> bool| {
        assert!(rest.any(is), "no {what} at its place in:\n{}", lines(events));
    };
    let http = |method: &'static str, path: String, status: u16| {
        move |event: &Value| event["http"] == method && event["path"] == path && event["status"] == status
    };
    let metadata = format!("http://localhost:{}/.well-known/oauth-protected-resource/mcp", stack.port);

    next("401 with a challenge", &|event| {
        event["path"] == "/mcp"
            && event["status"] == 401
            && event["challenge"].as_str().is_some_and(|challenge| {
                challenge.contains(&format!("resource_metadata=\"{metadata}\""))
                    && !challenge.contains("error=")
            })
    });
    next("resource metadata", &http("GET", "/.well-known/oauth-protected-resource/mcp".into(), 200));
    next(
        "server metadata",
        &http("GET", format!("/.well-known/oauth-authorization-server{issuer_path}"), 200),
    );
    next("registration", &http("POST", format!("{issuer_path}/register"), 201));
    next("authorization with PKCE and resource", &|event| {
        event["authorize"] == "S256" && event["resource"] == stack.mcp_url.as_str()
    });
    next("issuer in the authorization response", &|event| event["iss"] == stack.issuer.as_str());
    let token = http("POST", format!("{issuer_path}/token"), 200);
    next("token request with resource", &|event| {
        token(event)
            && event["grant_type"] == "authorization_code"
            && event["resource"] == stack.mcp_url.as_str()
    });
    next("tokens", &|event| {
        event["token_type"] == "Bearer"
            && event["refreshable"] == true
            && event["expires_in"].as_u64() > Some(0)
    });
    next("tools", &|event| event["tools"].as_array().is_some_and(|tools| tools.contains(&json!("echo"))));
    next("call", &|event| event["called"][0]["text"] == "Echo: hello");
    next("refresh", &|event| token(event) && event["grant_type"] == "refresh_token");
    next("call after the refresh", &|event| event["called_again"][0]["text"] == "Echo: hello");
    next("rotation", &|event| event["refreshed"] == true && event["rotated"] == true);
    next("end", &|event| event["done"] == true);
}

fn lines(events: &[Value]) -> String {
    events.iter().map(Value::to_string).collect::<Vec<_>>().join("\n")
}

async fn whole_story(sdk: Sdk, issuer_path: &str) {
    let stack = Setup::as_shipped().issuer_path(issuer_path).start().await;
    let events = events(&stack, sdk).await;
    assert_whole_story(&stack, issuer_path, &events);
}

#[tokio::test]
async fn typescript_sdk_1() {
    whole_story(Sdk::TypeScript1, "").await;
}

#[tokio::test]
async fn typescript_sdk_1_with_an_issuer_below_a_path() {
    whole_story(Sdk::TypeScript1, "/tenant1").await;
}

#[tokio::test]
async fn typescript_sdk_2() {
    whole_story(Sdk::TypeScript2, "").await;
}

#[tokio::test]
async fn typescript_sdk_2_with_an_issuer_below_a_path() {
    whole_story(Sdk::TypeScript2, "/tenant1").await;
}

#[tokio::test]
async fn python_sdk_2() {
    whole_story(Sdk::Python2, "").await;
}

#[tokio::test]
async fn python_sdk_2_with_an_issuer_below_a_path() {
    whole_story(Sdk::Python2, "/tenant1").await;
}
