//! Tests the stack on a real Docker engine, from a clean clone: one command, one login and a tool call. After
//! that, it adds a service while the stack runs, kills containers, and lets a wrapped server try to reach
//! others. It also tests every edge, three replicas of auth-service, and backup and restore.
//!
//! All of this is one test, because each part continues with the stack of the part before.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

mod failures;
mod reach;
mod ready_made;
mod services;
mod stack;

use std::fs;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tests::browser::Person;
use tests::engine::Engine;
use tests::places::{binary_dir, free_port, repository, tool, tools_dir};
use tests::process::Process;
use tests::{Gate, Registration, Tokens, engine, process};

use crate::failures::every_container_is_killed_once;
use crate::reach::{
    a_wrapped_server_reaches_nothing, an_edge_finds_nobody_outside, figures,
    nobody_is_root_and_nobody_writes, the_filter_answers_what_traefik_asks_and_nothing_else,
};
use crate::ready_made::{every_ready_made_service_does_its_work, what_was_remembered_is_still_known};
use crate::services::{
    a_container_of_somebody_else_is_not_served, a_service_appears_and_nobody_else_notices,
};
use crate::stack::{Containers, call, echo, tell, told, until_it_works};

const NAME: &str = "the_stack_on_a_real_engine";

const PASSWORD: &str = "a password of my own, and a long one";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_stack_on_a_real_engine() {
    let engine = match Engine::find() {
        Ok(engine) => engine,
        Err(reason) => {
            tell(&format!("SKIPPED {NAME}: {reason}"));
            return;
        }
    };
    let dir = tempfile::tempdir().unwrap();
    let checkout = engine::clean_clone(repository(), dir.path()).unwrap();
    let project = if engine.is_ours() {
        "mcp-gate".to_owned()
    } else {
        format!("mcp-gate-test-{}", std::process::id())
    };
    let stack = Containers { engine, checkout, project, port: free_port(), _dir: dir };

    // Local base images replace those of a registry. The time to build them is not measured, because it replaces a
    // download.
    let programs = binary_dir().display().to_string();
    stack.script(&["base-images", "--programs", &programs]);
    if !stack.engine.is_ours() {
        stack.set("COMPOSE_PROJECT_NAME", &stack.project);
    }
    stack.set("SUBNET", &engine::free_subnet().unwrap());
    let first = "traefik";

    let (client, tokens) = from_clean_clone_to_a_tool_call(&stack, first).await;
    let gate = stack.gate("everything");
    an_sdk_client_goes_the_whole_way(&gate, "ts-v2.mjs");
    nobody_is_root_and_nobody_writes(&stack);
    a_service_appears_and_nobody_else_notices(&stack, &tokens).await;
    a_container_of_somebody_else_is_not_served(&stack).await;
    let remembered = every_ready_made_service_does_its_work(&stack).await;
    a_wrapped_server_reaches_nothing(&stack);
    the_filter_answers_what_traefik_asks_and_nothing_else(&stack);
    every_container_is_killed_once(&stack, &gate, &tokens, first).await;
    let tokens = logins_survive_down_and_up(&stack, &gate, &client, &tokens).await;
    what_was_remembered_is_still_known(&stack, remembered).await;
    every_other_edge_does_the_same(&stack, &gate, &tokens, first).await;
    three_auth_services_share_the_work(&stack, &gate, &tokens).await;
    a_backup_brings_everything_back(&stack, &gate, &tokens).await;
}

async fn from_clean_clone_to_a_tool_call(stack: &Containers, edge: &str) -> (Registration, Tokens) {
    let started = Instant::now();
    let output = stack.script(&["up", "--port", &stack.port.to_string(), "--edge", edge]);
    let gate = stack.gate("everything");
    assert_eq!(told(&output, "everything"), Some(gate.mcp_url.clone()), "{output}");
    let once = told(&output, "Password").unwrap_or_else(|| panic!("no password in {output}"));
    let person = Person::new(&told(&output, "Account").unwrap(), &once).choosing(PASSWORD);
    let (client, tokens) = gate.log_in_as(&person, &gate.mcp_url).await.unwrap();
    assert_eq!(echo(&gate, &tokens.access_token).await.unwrap(), "Echo: hello");
    tell(&format!(
        "FIGURE from clean clone to first tool call: 1 command, 1 login, {:.0} s with base images there",
        started.elapsed().as_secs_f32()
    ));
    (client, tokens)
}

/// Runs the whole flow with an official SDK, unmodified: discovery, registration, login, consent, tool call,
/// refresh, tool call.
fn an_sdk_client_goes_the_whole_way(gate: &Gate, script: &str) {
    let python = Path::new(script).extension().is_some_and(|end| end == "py");
    let mut command = process::command(tool(if python { "venv/bin/python" } else { "node/bin/node" }));
    command.arg(repository().join("tests/clients").join(script)).stderr(Stdio::inherit());
    command.env("MCP_URL", &gate.mcp_url).env("ACCOUNT", "admin").env("PASSWORD", PASSWORD);
    command.env("MCP_GATE_TOOLS", tools_dir()).env("PYTHONDONTWRITEBYTECODE", "1");
    let directory = tempfile::tempdir().unwrap();
    let mut client = Process::start("client", &mut command, directory.path());
    let ended = client.wait_for(Duration::from_secs(90));
    assert!(ended.is_some_and(|status| status.success()), "{ended:?}\n{}", client.log_tail());
    let events: Vec<Value> =
        client.output().lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    for (field, of) in [("called", "a tool call"), ("called_again", "a tool call after the refresh")] {
        assert!(events.iter().any(|event| event[field][0]["text"] == "Echo: hello"), "no {of}: {events:?}");
    }
    tell(&format!("  {script}: login, tool call, refresh, tool call"));
}

async fn logins_survive_down_and_up(
    stack: &Containers,
    gate: &Gate,
    client: &Registration,
    tokens: &Tokens,
) -> Tokens {
    stack.script(&["down"]);
    assert!(stack.containers(true).is_empty());
    let output = stack.script(&["up"]);
    assert_eq!(told(&output, "Password"), None, "{output}");
    figures(stack);
    assert_eq!(echo(gate, &tokens.access_token).await.unwrap(), "Echo: hello");
    let refreshed = gate.refresh(client, &tokens.refresh_token).await.unwrap();
    assert_eq!(echo(gate, &refreshed.access_token).await.unwrap(), "Echo: hello");
    tell("  down and up: same account, same tokens");
    refreshed
}

async fn three_auth_services_share_the_work(stack: &Containers, gate: &Gate, tokens: &Tokens) {
    let files = stack.setting("COMPOSE_FILE");
    stack.set("COMPOSE_FILE", &format!("{files}:compose/scale.yaml"));
    stack.script(&["up", "--edge", "envoy"]);
    let replicas = stack.containers(false)["auth-service"].clone();
    assert_eq!(replicas.len(), 3);
    // A token that one replica has issued is valid at all replicas.
    for _ in 0..6 {
        until_it_works(stack, gate, &tokens.access_token).await;
    }
    stack.docker(&["kill", &replicas[0]]);
    let gap = until_it_works(stack, gate, &tokens.access_token).await;
    for _ in 0..6 {
        until_it_works(stack, gate, &tokens.access_token).await;
    }
    tell(&format!(
        "FIGURE one of three auth-services killed: {:.1} s to the next tool call",
        gap.as_secs_f32()
    ));
    stack.set("COMPOSE_FILE", &files);
    stack.script(&["up", "--edge", "envoy"]);
    assert_eq!(stack.containers(true)["auth-service"].len(), 1);
}

async fn every_other_edge_does_the_same(stack: &Containers, gate: &Gate, tokens: &Tokens, first: &str) {
    for edge in ["envoy", "nginx", "caddy"] {
        if edge == first {
            continue;
        }
        stack.script(&["up", "--edge", edge]);
        let asked = gate.get(&gate.mcp_url).await.unwrap();
        assert!(asked.status == 401 && asked.challenge().contains("/everything/mcp"), "{edge}: {asked:?}");
        until_it_works(stack, gate, &tokens.access_token).await;
        let clock = stack.gate("clock");
        let answer = clock.get(&clock.mcp_url).await.unwrap();
        assert!(answer.challenge().contains("/clock/mcp"), "{edge}: {answer:?}");
        an_edge_finds_nobody_outside(stack);
        let nobody = stack.gate("nobody");
        let answer = call(&nobody, &tokens.access_token, "echo", json!({})).await;
        assert!(answer.is_err_and(|error| format!("{error:#}").contains("401")), "{edge}");
        if edge == "envoy" {
            a_wrapped_server_reaches_nothing(stack);
            an_sdk_client_goes_the_whole_way(gate, "py.py");
        }
    }
}

async fn a_backup_brings_everything_back(stack: &Containers, gate: &Gate, tokens: &Tokens) {
    let dumps = stack.checkout.join("dumps");
    fs::create_dir(&dumps).unwrap();
    let dumps = dumps.display().to_string();
    let key = format!("{dumps}/store.key");
    stack.script(&["backup", "--stack", "--with-key", &key, &dumps]);
    let dump = fs::read_dir(&dumps)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .find(|path| path.extension().is_some_and(|end| end == "dump"));
    let dump = dump.expect("a dump").display().to_string();
    stack.script(&["down", "--delete-everything", "--yes"]);
    let output = stack.script(&["up"]);
    assert!(told(&output, "Password").is_some(), "a new stack must have a new account");
    assert!(echo(gate, &tokens.access_token).await.is_err(), "a new stack must not accept old tokens");
    stack.script(&["restore", "--stack", "--replace", "--key-file", &key, &dump]);
    until_it_works(stack, gate, &tokens.access_token).await;
    tell("  a backup was restored into an empty stack: old tokens work");
}
