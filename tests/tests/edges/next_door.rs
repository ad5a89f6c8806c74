//! Measures the response times of a user at each proxy while strangers flood that proxy, and while they flood
//! another proxy of the same kind on the same machine. The other proxy has its own auth-service and wrapper.

use std::sync::Arc;
use std::time::{Duration, Instant};

use reqwest::header::HeaderMap;
use serde_json::json;
use tests::browser::Person;
use tests::control_group::ControlGroup;
use tests::edge::{IN_A_ROW, REQUESTS_PER_SECOND};
use tests::flood::{Flood, Kind, Times};
use tests::mcp::Session;
use tests::next_door::{Comparison, PAUSE, Priority, Seen, is_for_a_table, measured};
use tests::oauth::REDIRECT_URI;
use tests::places::{repository, tool};
use tests::setup::ACCOUNT;
use tests::{Edge, Registration, Setup, Stack, Tier, Tokens, say};
use tokio::time::sleep;

use crate::floods::ONE_AT_A_TIME;

each_edge!(a100_others_are_served_while_strangers_flood_the_edge,);

/// The number of calls and of refreshes of the user during each flood.
const CALLS: usize = 100;
const REFRESHES: usize = 30;

/// The time limit for one call or refresh. The machine has few processors, which the flood also uses.
const PATIENCE: Duration = Duration::from_secs(60);

/// How long a flood runs before the user is served.
const WARM_UP: Duration = Duration::from_secs(2);

/// The number of requests that one address sends at the same time. After each response, the next request is sent
/// immediately.
const AT_ONCE: usize = 200;

/// The number of addresses that only keep connections open.
const ADDRESSES: u8 = 100;

const BOB: &str = "another battery that is a staple";

pub(crate) async fn a100_others_are_served_while_strangers_flood_the_edge(edge: Edge) {
    let name = "a100_others_are_served_while_strangers_flood_the_edge";
    if !ControlGroup::is_possible(edge.container().bounds(), name) {
        return;
    }
    let _turn = ONE_AT_A_TIME.lock().await;
    let mut here = started(edge).await;
    here.add_account("bob", Some(BOB));
    let (client, tokens) = here.log_in_as(&Person::new("bob", BOB), &here.mcp_url).await.unwrap();
    let gate = here.gate.clone();
    let session = gate.open_session(&tokens.access_token, HeaderMap::new()).await.unwrap();
    let mut bob = Bob { session, http: gate.http.clone(), client, tokens, refused: 0 };
    let flooded = Target::of(&here).await;
    let _priority = Priority::take();
    if is_for_a_table() {
        let next_door = started(edge).await;
        let neighbour = Target::of(&next_door).await;
        let quiet = bob.is_served(&here).await;
        for (name, flood) in STALLED.iter().chain(&REQUESTS) {
            let next_door = || vec![flood(&neighbour)];
            let served = async |_| bob.is_served(&here).await;
            let comparison = Comparison::of(WARM_UP, Some(next_door), || vec![flood(&flooded)], served).await;
            say(&format!("FIGURE {edge}, {name}: quiet: {quiet}; {comparison}"));
        }
    }
    for (name, flood) in REQUESTS {
        let begin = Instant::now();
        let flood = flood(&flooded);
        sleep(WARM_UP).await;
        let seen = bob.is_served(&here).await;
        assert_eq!(here.ready().await.status, 200, "{name}");
        let answers = flood.answers();
        drop(flood);
        let most = f64::from(REQUESTS_PER_SECOND) * (f64::from(IN_A_ROW) + begin.elapsed().as_secs_f64());
        let passed: u32 = answers
            .iter()
            .filter(|(status, _)| **status != 429)
            .map(|(_, count)| u32::try_from(*count).unwrap())
            .sum();
        let figures = format!("{edge}, {name}: {seen}; strangers got {answers:?}");
        say(&figures);
        // The proxy measures time with its own clock.
        assert!(
            f64::from(passed) <= most * 1.1,
            "more than {most:.0} requests of one address passed: {figures}"
        );
        assert_eq!(seen.refused, 0, "{figures}");
        for tier in [Tier::Edge, Tier::AuthService, Tier::Wrapper] {
            assert!(here.runs(tier), "{name}\n{}", here.logs());
        }
        assert_eq!(here.group(Tier::Edge).killed().unwrap(), 0, "{name}\n{}", here.logs());
    }
}

/// A stack with a small server behind this proxy. The proxy runs with the limits of its container.
async fn started(edge: Edge) -> Stack {
    let server = repository().join("tests/children/plain.py");
    Setup::as_shipped()
        .through(edge)
        .within(Tier::Edge, edge.container().bounds())
        .wrapping(vec![tool("venv/bin/python").display().to_string(), server.display().to_string()])
        .auth_setting("TRUSTED_PROXIES", "127.0.0.1/32")
        .start()
        .await
}

/// A user whose requests are sent through the proxy. Additional checks are sent directly to auth-service, to
/// measure how much of the time is spent there.
struct Bob<'a> {
    session: Session<'a>,
    http: reqwest::Client,
    client: Registration,
    tokens: Tokens,
    refused: usize,
}

impl Bob<'_> {
    async fn is_served(&mut self, stack: &Stack) -> Seen {
        self.refused = 0;
        let call = Times::with_pauses(PAUSE, measured(CALLS), async || {
            let deadline = Instant::now() + PATIENCE;
            while let Err(error) = self.session.call("echo", json!({ "message": "hello" })).await {
                self.refused(deadline, &error, stack);
            }
        })
        .await;
        let refresh = Times::with_pauses(PAUSE, measured(REFRESHES), async || {
            let deadline = Instant::now() + PATIENCE;
            loop {
                match stack.refresh(&self.client, &self.tokens.refresh_token).await {
                    Ok(tokens) => return self.tokens = tokens,
                    Err(error) => self.refused(deadline, &error, stack),
                }
            }
        })
        .await;
        let check = Times::with_pauses(PAUSE, measured(CALLS), async || {
            let answer = stack.check(&self.http, &self.tokens.access_token).send().await.unwrap();
            assert_eq!(answer.status(), 200);
        })
        .await;
        let times = vec![("call", call), ("refresh", refresh), ("check at auth-service", check)];
        Seen { times, refused: self.refused }
    }

    #[track_caller]
    fn refused(&mut self, deadline: Instant, error: &anyhow::Error, stack: &Stack) {
        assert!(Instant::now() < deadline, "{error:#}\n{}", stack.logs());
        self.refused += 1;
    }
}

/// The data that floods need about a stack.
struct Target {
    port: u16,
    host: String,
    /// Ana's token and session.
    token: String,
    session: String,
}

impl Target {
    async fn of(stack: &Stack) -> Self {
        let tokens = stack.log_in_as(&Person::new(ACCOUNT.0, ACCOUNT.1), &stack.mcp_url).await.unwrap().1;
        let session = stack.open_session(&tokens.access_token, HeaderMap::new()).await.unwrap();
        Self {
            port: stack.port,
            host: format!("localhost:{}", stack.port),
            token: tokens.access_token,
            session: session.id().unwrap().to_owned(),
        }
    }

    /// A flood of POST requests to this path with these headers.
    fn posts(
        &self,
        path: &str,
        headers: impl Fn(usize) -> String + Send + Sync + 'static,
        body: impl Fn(usize) -> String + Send + Sync + 'static,
    ) -> Flood {
        let start = format!("POST {path} HTTP/1.1\r\nHost: {}\r\n", self.host);
        Flood::requests(self.port, AT_ONCE, 1, move |number| {
            let (headers, body) = (headers(number), body(number));
            let length = body.len();
            format!(
                "{start}{headers}Content-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}"
            )
            .into_bytes()
        })
    }
}

type Start = fn(&Target) -> Flood;

/// Floods that are also part of other tests. They are compared only to produce the table.
const STALLED: [(&str, Start); 2] = [
    ("unterminated heads", |to| Flood::stalled(to.port, &to.host, &Kind::Head(16_000), 4500, ADDRESSES)),
    ("stalled bodies", |to| {
        Flood::stalled(to.port, &to.host, &Kind::Body("/token".into(), 15_000), 4500, ADDRESSES)
    }),
];

const REQUESTS: [(&str, Start); 4] = [
    ("requests without a token", |to| to.posts("/mcp", |_| String::new(), |_| "{}".to_owned())),
    ("wrong tokens", |to| {
        let (start, signature) = to.token.rsplit_once('.').unwrap();
        let (start, length) = (start.to_owned(), signature.len());
        to.posts(
            "/mcp",
            move |number| format!("Authorization: Bearer {start}.{number:A>length$}\r\n"),
            |_| "{}".to_owned(),
        )
    }),
    ("registrations", |to| {
        to.posts(
            "/register",
            |_| String::new(),
            |number| json!({ "client_name": format!("stranger {number}"), "redirect_uris": [REDIRECT_URI], "token_endpoint_auth_method": "none" }).to_string(),
        )
    }),
    ("calls from one account", |to| {
        let headers: Arc<str> = format!(
            "Authorization: Bearer {}\r\nMcp-Session-Id: {}\r\nMcp-Protocol-Version: 2025-06-18\r\nAccept: application/json, text/event-stream\r\n",
            to.token, to.session
        )
        .into();
        to.posts(
            "/mcp",
            move |_| headers.to_string(),
            |number| {
                let params = json!({ "name": "echo", "arguments": {} });
                json!({ "jsonrpc": "2.0", "id": number, "method": "tools/call", "params": params })
                    .to_string()
            },
        )
    }),
];
