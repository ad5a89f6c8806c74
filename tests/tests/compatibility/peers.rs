//! Runs wrappers of other projects with the same clients and servers, without an edge and without a login.
//!
//! They run only when the document is written. Otherwise, the test checks that the document describes the pinned
//! versions. A feature that another wrapper lacks is not our failure, and testing it takes minutes of waiting.

use std::fmt::Write as _;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use tests::places::{binary, free_port, tool};
use tests::process::{self, Process};

use crate::document::{self, CALLS, QUESTIONS, REST};
use crate::programs::{self, Client, Server, npm};
use crate::run::{self, Seen};

#[derive(Debug, Clone, Copy)]
enum Wrapper {
    Ours,
    Supergateway,
    McpProxy,
}

/// One server that supports only sessions, and two that also support revision 2026-07-28.
const SERVERS: [Server; 3] = [Server::FastMcp, Server::TypeScript2, Server::Go];

/// The time limit for one feature in seconds. It is longer than any working feature needs.
const CHECK_SECONDS: &str = "20";

/// Clients that connect directly, unlike `mcp-remote`.
const CLIENTS: [Client; 5] =
    [Client::TypeScript1, Client::TypeScript2, Client::Python2, Client::Go, Client::Rmcp];

impl Wrapper {
    fn name(self) -> String {
        match self {
            Self::Ours => "stdio-wrapper".to_owned(),
            Self::Supergateway => format!("supergateway {}", npm("peers", "supergateway")),
            Self::McpProxy => format!("mcp-proxy (npm) {}", npm("peers", "mcp-proxy")),
        }
    }

    /// The command that wraps a server on this port, as in the wrapper's documentation. If the wrapper has several
    /// modes, the command selects the mode with sessions.
    fn command(self, port: u16, wrapped: &[String]) -> Command {
        let peer = |script: &str| {
            let mut command = process::clean_command(tool("node/bin/node"));
            command.arg(tool("peers/node_modules").join(script));
            command
        };
        let mut command;
        match self {
            Self::Ours => {
                command = process::clean_command(binary("stdio-wrapper"));
                command.env("LISTEN", format!("127.0.0.1:{port}"));
                command.env("OPS_LISTEN", format!("127.0.0.1:{}", free_port()));
                command.arg("--").args(wrapped);
            }
            Self::Supergateway => {
                command = peer("supergateway/dist/index.js");
                command.args(["--stdio", &wrapped.join(" "), "--outputTransport", "streamableHttp"]);
                command.args(["--stateful", "--port", &port.to_string(), "--streamableHttpPath", "/mcp"]);
            }
            Self::McpProxy => {
                command = peer("mcp-proxy/dist/bin/mcp-proxy.mjs");
                command.args(["--host", "127.0.0.1", "--port", &port.to_string(), "--"]).args(wrapped);
            }
        }
        command
    }
}

const HEAD: &str = "| wrapper | server | calls | questions | the rest |\n|---|---|---|---|---|\n";

async fn row(wrapper: Wrapper, server: Server, work: &Path) -> String {
    let port = free_port();
    let directory = tempfile::tempdir_in(work).unwrap();
    let mut command = wrapper.command(port, &server.command(work));
    let process = Process::start("wrapper", &mut command, directory.path());
    let deadline = Instant::now() + Duration::from_secs(40);
    while tokio::net::TcpStream::connect(("127.0.0.1", port)).await.is_err() && Instant::now() < deadline {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let mut all = Vec::new();
    for client in CLIENTS {
        let mut command = client.command(work);
        command.env("MCP_URL", format!("http://127.0.0.1:{port}/mcp")).env("CHECK_SECONDS", CHECK_SECONDS);
        all.push(run::reported_by(&mut command, work).await);
    }
    drop(process);
    let of = |features: &[&str], all: &[Seen]| {
        // If a client could not connect at all, the number of features is taken from the other clients.
        let worked: usize = all.iter().map(|seen| seen.count(features).0).sum();
        let had = all.iter().map(|seen| seen.count(features).1).max().unwrap_or_default() * all.len();
        format!("{worked} of {had}")
    };
    let (calls, questions, rest) = (of(&CALLS, &all), of(&QUESTIONS, &all), of(&REST, &all));
    format!("| {} | {} | {calls} | {questions} | {rest} |", wrapper.name(), server.name())
}

/// Writes or checks the lines of one wrapper.
async fn lines_of(wrapper: Wrapper) {
    let part = format!("{wrapper:?}");
    if document::writes() {
        let work = programs::work_directory();
        let mut table = HEAD.to_owned();
        for server in SERVERS {
            writeln!(table, "{}", row(wrapper, server, work.path()).await).unwrap();
        }
        document::check(&part, &table);
    }
    let table = document::committed(&part);
    for server in SERVERS {
        let beginning = format!("| {} | {} |", wrapper.name(), server.name());
        assert!(
            table.lines().any(|line| line.starts_with(&beginning)),
            "no line {beginning} in docs/compatibility.md; scripts/compatibility writes it"
        );
    }
}

#[tokio::test]
async fn the_lines_of_our_wrapper_alone_are_about_what_is_pinned() {
    lines_of(Wrapper::Ours).await;
}

#[tokio::test]
async fn the_lines_of_supergateway_are_about_what_is_pinned() {
    lines_of(Wrapper::Supergateway).await;
}

#[tokio::test]
async fn the_lines_of_mcp_proxy_are_about_what_is_pinned() {
    lines_of(Wrapper::McpProxy).await;
}
