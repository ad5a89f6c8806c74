//! Other people's wrappers with the same clients and servers, without an edge and without a login.
//!
//! They run when the document is written. Otherwise the test only sees to it that the document is about the versions that
//! are pinned: what a peer does not do is no failure of ours, and takes minutes of waiting.

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

/// Sessions only, and both kinds.
const SERVERS: [Server; 3] = [Server::FastMcp, Server::TypeScript2, Server::Go];

/// How long one feature may take. Longer than any that works.
const CHECK_SECONDS: &str = "20";

/// Those that connect by themselves.
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

    /// Wraps a server on this port, as its documents show; in the mode with sessions, where there is a choice.
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
        // What the server has is known from the others, where a client could not connect at all.
        let worked: usize = all.iter().map(|seen| seen.count(features).0).sum();
        let had = all.iter().map(|seen| seen.count(features).1).max().unwrap_or_default() * all.len();
        format!("{worked} of {had}")
    };
    let (calls, questions, rest) = (of(&CALLS, &all), of(&QUESTIONS, &all), of(&REST, &all));
    format!("| {} | {} | {calls} | {questions} | {rest} |", wrapper.name(), server.name())
}

/// The lines of one wrapper: written, or looked at.
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
