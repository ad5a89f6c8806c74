//! A running stack behind one proxy. The service behind the proxy responds to every request with 200, so that only
//! the proxy or auth-service can refuse a request.

use std::io::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use reqwest::Method;
use serde_json::Value;
use tests::raw::{self, RawAnswer};
use tests::upstream::Upstream;
use tests::{Answer, Edge, Setup, Stack};

/// Changes to the shipped configuration for a test, and whether the changed stack has started.
#[derive(Clone, Default)]
pub(crate) struct Broken {
    pub(crate) changes: Vec<(String, String)>,
    pub(crate) started: Arc<AtomicBool>,
}

tokio::task_local! {
    /// The changes for the current test, if it does not use the shipped configuration.
    pub(crate) static BROKEN: Broken;
}

pub(crate) struct World {
    pub(crate) stack: Stack,
    pub(crate) upstream: Upstream,
    /// A valid access token of the account in every stack.
    pub(crate) token: String,
    /// The protected host, `localhost:PORT`.
    pub(crate) host: String,
}

/// Whether the proxy is installed. If it is not, prints on standard error that the test is skipped.
pub(crate) fn is_here(edge: Edge, test: &str) -> bool {
    let Err(why) = edge.program() else { return true };
    // `eprintln!` is not sufficient, because the test runner shows its output only if the test fails.
    std::io::stderr().write_all(format!("SKIPPED {test}: {why}\n").as_bytes()).unwrap();
    false
}

impl World {
    pub(crate) async fn start(edge: Edge) -> Self {
        Self::of(Setup::as_shipped().through(edge)).await
    }

    pub(crate) async fn of(setup: Setup) -> Self {
        let upstream = Upstream::start().await;
        let broken = BROKEN.try_with(Clone::clone).ok();
        let changes = broken.iter().flat_map(|broken| &broken.changes);
        let setup = changes.fold(setup, |setup, (from, to)| setup.edge_changed(from, to));
        let setup = if broken.is_some() { setup.with_any_answer() } else { setup };
        let stack = setup.in_front_of(upstream.port).also_protecting("other.localhost").start().await;
        broken.inspect(|broken| broken.started.store(true, Ordering::Relaxed));
        let token = stack.log_in().await.access_token;
        let host = format!("localhost:{}", stack.port);
        Self { stack, upstream, token, host }
    }

    pub(crate) fn bearer(&self) -> String {
        format!("Bearer {}", self.token)
    }

    /// Sends a request to the MCP endpoint with an HTTP library.
    pub(crate) async fn ask(&self, method: Method, headers: &[(&str, &str)]) -> Answer {
        let url = &self.stack.mcp_url;
        let request = headers.iter().fold(self.stack.http.request(method, url), |request, (name, value)| {
            request.header(*name, *value)
        });
        Answer::read(request.send().await.unwrap()).await.unwrap()
    }

    /// Sends a request as bytes, with the right host, the valid token and then these headers.
    pub(crate) async fn raw_with_token(
        &self,
        method: &str,
        target: &str,
        more: &[(&str, &str)],
    ) -> Option<RawAnswer> {
        let bearer = self.bearer();
        let mut headers =
            vec![("Host", self.host.as_str()), ("Authorization", &bearer), ("Connection", "close")];
        headers.extend_from_slice(more);
        raw::ask(self.stack.port, method, target, &headers).await
    }

    /// Like [`raw_with_token`](Self::raw_with_token), without a token.
    pub(crate) async fn raw_without_token(
        &self,
        method: &str,
        target: &str,
        more: &[(&str, &str)],
    ) -> Option<RawAnswer> {
        let mut headers = vec![("Host", self.host.as_str()), ("Connection", "close")];
        headers.extend_from_slice(more);
        raw::ask(self.stack.port, method, target, &headers).await
    }

    /// Panics if a request has reached the service behind the edge since the last call.
    #[track_caller]
    pub(crate) fn assert_nothing_passed(&self, what: &str) {
        let heads = self.upstream.take_heads();
        assert!(
            heads.is_empty(),
            "{what} reached the service behind the edge: {heads:?}\n{}",
            self.stack.logs()
        );
    }

    /// The exact challenge for a request without a token.
    pub(crate) fn challenge(&self) -> String {
        format!(
            "Bearer resource_metadata=\"http://{}/.well-known/oauth-protected-resource/mcp\", scope=\"mcp\"",
            self.host
        )
    }
}

/// The values of a header that the service received, according to its response.
pub(crate) fn arrived(answer: &str, name: &str) -> Vec<String> {
    let seen: Value = serde_json::from_str(answer).unwrap_or_else(|error| panic!("{error}: {answer}"));
    let headers = seen["headers"].as_array().unwrap();
    let matching = headers.iter().filter(|pair| pair[0].as_str().unwrap().eq_ignore_ascii_case(name));
    matching.map(|pair| pair[1].as_str().unwrap().to_owned()).collect()
}
