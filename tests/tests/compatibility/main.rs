//! Tests of stock clients with stock servers, through Traefik. Each client signs in without stored data, uses
//! every feature of the server, and steps up for a tool that needs more scopes than its first login allowed. The
//! clients and servers follow the documentation of their SDKs, and are in `tests/compatibility`.
//!
//! `docs/compatibility.md` contains the results. Each test compares its part of the document with its own results,
//! or writes that part with `COMPATIBILITY=write`, which `scripts/compatibility` sets.
#![expect(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "a test fails by panicking")]

mod document;
mod known;
mod peers;
mod programs;
mod run;

use std::io::Write as _;

use tests::{Edge, Setup};

use crate::programs::{Client, Server};

/// The policy from `docs/policy.md`, for the host and the account of a stack. The wrapper applies the rules for
/// tools, so a client with a session can use the other tools without stepping up.
fn policy() -> String {
    let text = std::fs::read_to_string(tests::places::repository().join("docs/policy.md")).unwrap();
    let block = text.split("```toml\n").nth(1).and_then(|rest| rest.split("```").next()).unwrap();
    let changes = [("mcp.example.com", "localhost"), ("groups = [\"staff\"]", "legacy_tools = \"wrapper\"")];
    changes.into_iter().fold(block.to_owned(), |policy, (from, to)| {
        assert!(policy.contains(from), "{from} is not in the first policy of docs/policy.md:\n{policy}");
        policy.replace(from, to)
    })
}

/// Runs every client with this server.
async fn every_client_with(server: Server) {
    if let Err(why) = Edge::Traefik.program() {
        let line = format!("SKIPPED every_client_with {}: {why}\n", server.name());
        std::io::stderr().write_all(line.as_bytes()).unwrap();
        return;
    }
    let work = programs::work_directory();
    let file = work.path().join("policy.toml");
    std::fs::write(&file, policy()).unwrap();
    let stack = Setup::as_shipped()
        .through(Edge::Traefik)
        .auth_setting("POLICY_FILE", file.to_str().unwrap())
        .wrapping(server.command(work.path()))
        .start()
        .await;
    let mut rows = Vec::new();
    for client in Client::ALL {
        let mut seen = run::whole_story(&stack, client, work.path()).await;
        // A known failure is recorded even if the feature worked in this run. For example, a client might fall back
        // to the older protocol if the server starts slowly.
        for known in known::of(server, client) {
            seen.features.insert(known.feature.to_owned(), "failed".to_owned());
        }
        rows.push((client, seen));
    }
    let complaints: Vec<_> =
        rows.iter().filter_map(|(client, seen)| known::complaint(server, *client, seen)).collect();
    assert!(complaints.is_empty(), "{}", complaints.join("\n"));
    document::section(server, &rows);
}

macro_rules! servers {
    ($($test:ident $server:ident),+ $(,)?) => { $(
        #[tokio::test]
        async fn $test() {
            every_client_with(Server::$server).await;
        }
    )+ };
}

servers! {
    every_client_with_a_typescript_2_server TypeScript2,
    every_client_with_a_python_2_server Python2,
    every_client_with_a_go_server Go,
    every_client_with_an_rmcp_server Rmcp,
    every_client_with_a_fastmcp_server FastMcp,
    every_client_with_a_typescript_1_server TypeScript1,
    every_client_with_a_go_server_of_sessions GoSessions,
}
