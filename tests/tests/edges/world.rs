//! A running stack behind one proxy, with an upstream that answers 200 to everything: whatever is refused, the proxy and
//! auth-service refused it.

use std::io::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use reqwest::Method;
use serde_json::Value;
use tests::raw::{self, RawAnswer};
use tests::upstream::Upstream;
use tests::{Answer, Edge, Setup, Stack};

/// A change of the shipped configuration under which a test runs, and whether its stack came up.
#[derive(Clone, Default)]
pub(crate) struct Broken {
    pub(crate) changes: Vec<(String, String)>,
    pub(crate) started: Arc<AtomicBool>,
}

tokio::task_local! {
    /// Set where a test is about a configuration other than the shipped one.
    pub(crate) static BROKEN: Broken;
}

pub(crate) struct World {
    pub(crate) stack: Stack,
    pub(crate) upstream: Upstream,
    /// A good access token of the account that every stack has.
    pub(crate) token: String,
    /// `localhost:PORT`, the protected host.
    pub(crate) host: String,
}

/// Whether the proxy can run here. If not, says on standard error that the test is skipped.
pub(crate) fn is_here(edge: Edge, test: &str) -> bool {
    let Err(why) = edge.program() else { return true };
    // Past the test runner, which shows what a test prints only when it fails.
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

    /// A request to the MCP endpoint with a client library.
    pub(crate) async fn ask(&self, method: Method, headers: &[(&str, &str)]) -> Answer {
        let url = &self.stack.mcp_url;
        let request = headers.iter().fold(self.stack.http.request(method, url), |request, (name, value)| {
            request.header(*name, *value)
        });
        Answer::read(request.send().await.unwrap()).await.unwrap()
    }

    /// A request as bytes, with the right host and the good token before the given headers.
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

    /// The same without a token.
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

    /// Fails if anything has reached the upstream since the last look.
    #[track_caller]
    pub(crate) fn assert_nothing_passed(&self, what: &str) {
        let heads = self.upstream.take_heads();
        assert!(
            heads.is_empty(),
            "{what} reached the service behind the edge: {heads:?}\n{}",
            self.stack.logs()
        );
    }

    /// The challenge to a request without a token, byte for byte.
    pub(crate) fn challenge(&self) -> String {
        format!(
            "Bearer resource_metadata=\"http://{}/.well-known/oauth-protected-resource/mcp\", scope=\"mcp\"",
            self.host
        )
    }
}

/// The values under which a header arrived at the upstream, by its answer.
pub(crate) fn arrived(answer: &str, name: &str) -> Vec<String> {
    let seen: Value = serde_json::from_str(answer).unwrap_or_else(|error| panic!("{error}: {answer}"));
    let headers = seen["headers"].as_array().unwrap();
    let matching = headers.iter().filter(|pair| pair[0].as_str().unwrap().eq_ignore_ascii_case(name));
    matching.map(|pair| pair[1].as_str().unwrap().to_owned()).collect()
}
