//! A client that calls the wrapper directly, with an assertion that auth-service has issued for its account.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tests::flood::Times;
use tests::next_door::{PAUSE, Seen, measured};
use tests::{Answer, Stack};

const PATIENCE: Duration = Duration::from_secs(60);
const CALLS: usize = 200;
const SESSIONS: usize = 5;

/// A client of an account.
#[derive(Clone)]
pub(crate) struct Caller {
    http: reqwest::Client,
    token: String,
    url: String,
    assertion: String,
}

impl Caller {
    pub(crate) async fn new(stack: &Stack, token: String) -> Self {
        let http = reqwest::Client::builder().no_proxy().timeout(PATIENCE).build().unwrap();
        let mut caller = Self { http, token, url: stack.upstream_url(), assertion: String::new() };
        caller.renew(stack).await;
        caller
    }

    /// Gets a new assertion, because an assertion is valid for only a minute.
    pub(crate) async fn renew(&mut self, stack: &Stack) {
        let request = stack.check(&self.http, &self.token);
        let answer = Answer::read(request.send().await.unwrap()).await.unwrap();
        assert_eq!(answer.status, 200, "{answer:?}");
        answer.header("x-auth-assertion").clone_into(&mut self.assertion);
    }

    /// The head of a POST request whose body has this many bytes.
    pub(crate) fn head(&self, session: &str, more: &str, length: usize) -> String {
        let session =
            if session.is_empty() { String::new() } else { format!("Mcp-Session-Id: {session}\r\n") };
        format!(
            "POST /mcp HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nAccept: application/json, text/event-stream\r\nX-Auth-Assertion: {}\r\n{session}{more}Content-Length: {length}\r\n\r\n",
            self.assertion
        )
    }

    /// A complete POST request with this message.
    pub(crate) fn post(&self, session: &str, more: &str, message: &Value) -> Vec<u8> {
        let body = message.to_string();
        (self.head(session, more, body.len()) + &body).into_bytes()
    }

    pub(crate) fn request(&self, method: reqwest::Method, session: &str) -> reqwest::RequestBuilder {
        let request = self.http.request(method, &self.url).header("x-auth-assertion", &self.assertion);
        let request = request.header("accept", "application/json, text/event-stream");
        if session.is_empty() { request } else { request.header("mcp-session-id", session) }
    }

    async fn send(&self, session: &str, message: &Value) -> anyhow::Result<Answer> {
        Answer::read(self.request(reqwest::Method::POST, session).json(message).send().await?).await
    }

    /// Opens a session. Returns its identifier, or the status of a refusal.
    pub(crate) async fn open(&self, version: &str) -> anyhow::Result<Result<String, u16>> {
        let client = json!({ "name": "a test", "version": "1" });
        let params = json!({ "protocolVersion": version, "capabilities": {}, "clientInfo": client });
        let message = json!({ "jsonrpc": "2.0", "id": 1, "method": "initialize", "params": params });
        let answer = self.send("", &message).await?;
        if answer.status != 200 || answer.header("mcp-session-id").is_empty() {
            return Ok(Err(answer.status));
        }
        let session = answer.header("mcp-session-id").to_owned();
        self.send(&session, &json!({ "jsonrpc": "2.0", "method": "notifications/initialized" })).await?;
        Ok(Ok(session))
    }

    pub(crate) async fn close(&self, session: &str) {
        // The session might have ended already.
        self.request(reqwest::Method::DELETE, session).send().await.ok();
    }

    pub(crate) async fn call(&self, session: &str, tool: &str) -> anyhow::Result<u16> {
        Ok(self.send(session, &call(tool, &json!({ "message": "hello" }))).await?.status)
    }

    /// Measures calls in an existing session and the opening of new sessions.
    pub(crate) async fn is_served(&self, stack: &Stack, session: &str) -> Seen {
        let mut refused = 0;
        let calls = Times::with_pauses(PAUSE, measured(CALLS), async || {
            until(stack, &mut refused, async || match self.call(session, "echo").await {
                Ok(200) => Ok(()),
                other => Err(format!("{other:?}")),
            })
            .await;
        })
        .await;
        let sessions = Times::of(measured(SESSIONS), async || {
            let mut opened = String::new();
            until(stack, &mut refused, async || match self.open("2025-06-18").await {
                Ok(Ok(session)) => {
                    opened = session;
                    Ok(())
                }
                other => Err(format!("{other:?}")),
            })
            .await;
            self.close(&opened).await;
        })
        .await;
        Seen { times: vec![("call", calls), ("new session", sessions)], refused }
    }
}

/// A message that calls a tool.
pub(crate) fn call(tool: &str, arguments: &Value) -> Value {
    let params = json!({ "name": tool, "arguments": arguments });
    json!({ "jsonrpc": "2.0", "id": 7, "method": "tools/call", "params": params })
}

async fn until(stack: &Stack, refused: &mut usize, mut attempt: impl AsyncFnMut() -> Result<(), String>) {
    let deadline = Instant::now() + PATIENCE;
    while let Err(why) = attempt().await {
        assert!(Instant::now() < deadline, "{why}\n{}", stack.logs());
        *refused += 1;
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
