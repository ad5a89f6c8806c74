//! An honest user during a flood.

use std::time::{Duration, Instant};

use tests::browser::{Person, authorize_in, browser};
use tests::flood::Times;
use tests::next_door::{Priority, Seen};
use tests::oauth::REDIRECT_URI;
use tests::{Registration, Stack, Tokens};

/// The time limit for one request, including refused attempts. The test machine has few processors.
const PATIENCE: Duration = Duration::from_secs(60);

/// The number of requests of each kind during a flood.
const CHECKS: usize = 500;
const REFRESHES: usize = 300;

pub(crate) struct Honest {
    http: reqwest::Client,
    browser: reqwest::Client,
    person: Person,
    client: Registration,
    tokens: Tokens,
    refused: usize,
    _priority: Priority,
}

impl Honest {
    pub(crate) async fn new(stack: &Stack, person: Person) -> Self {
        let client = stack.register_as("an honest client").await.unwrap();
        let browser = browser().unwrap();
        let url = stack.authorization_url(&client, &stack.mcp_url);
        let back = authorize_in(&browser, url, REDIRECT_URI, &person).await.unwrap();
        let code = back.query_pairs().find(|(name, _)| name == "code").unwrap().1.into_owned();
        let tokens = stack.redeem(&client, &code, &stack.mcp_url).await.unwrap();
        let http = reqwest::Client::builder().no_proxy().timeout(PATIENCE).build().unwrap();
        Self { http, browser, person, client, tokens, refused: 0, _priority: Priority::take() }
    }

    pub(crate) fn token(&self) -> &str {
        &self.tokens.access_token
    }

    pub(crate) async fn is_served(&mut self, stack: &Stack) -> Seen {
        self.refused = 0;
        let check = Times::of(CHECKS, async || self.check(stack).await).await;
        let refresh = Times::of(REFRESHES, async || self.refresh(stack).await).await;
        let login = Times::of(2, async || self.log_in(stack).await).await;
        Seen { times: vec![("check", check), ("refresh", refresh), ("login", login)], refused: self.refused }
    }

    /// Sends a check like an edge, over a kept-alive connection.
    async fn check(&mut self, stack: &Stack) {
        let request = stack.check(&self.http, &self.tokens.access_token);
        self.until_served(stack, request).await;
    }

    /// Sends a refresh request like an edge that forwards it.
    async fn refresh(&mut self, stack: &Stack) {
        let form = [
            ("grant_type", "refresh_token"),
            ("refresh_token", &self.tokens.refresh_token),
            ("client_id", &self.client.client_id),
        ];
        let request = self
            .http
            .post(format!("http://127.0.0.1:{}/token", stack.auth_public_port))
            .header("host", format!("localhost:{}", stack.port))
            .header("x-forwarded-for", "203.0.113.7")
            .form(&form);
        let body = self.until_served(stack, request).await;
        let answer: serde_json::Value = serde_json::from_str(&body).unwrap();
        let field = |name: &str| answer.get(name).unwrap().as_str().unwrap().to_owned();
        self.tokens = Tokens { access_token: field("access_token"), refresh_token: field("refresh_token") };
    }

    async fn until_served(&mut self, stack: &Stack, request: reqwest::RequestBuilder) -> String {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let answer = request.try_clone().unwrap().send().await;
            match answer.as_ref().map(|answer| answer.status().as_u16()) {
                Ok(200) => return answer.unwrap().text().await.unwrap(),
                Ok(429 | 503) if Instant::now() < deadline => self.refused += 1,
                _ => panic!("{answer:?}\n{}", stack.logs()),
            }
        }
    }

    /// Logs in with the password and allows the request, through the edge, in a browser that has already been
    /// used to log in.
    async fn log_in(&mut self, stack: &Stack) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let mut url = stack.authorization_url(&self.client, &stack.mcp_url);
            url.query_pairs_mut().append_pair("prompt", "login");
            match authorize_in(&self.browser, url, REDIRECT_URI, &self.person).await {
                Ok(_) => return,
                Err(_) if Instant::now() < deadline => self.refused += 1,
                Err(error) => panic!("{error:#}\n{}", stack.logs()),
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
}
