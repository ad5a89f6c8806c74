//! A running stack from the point of view of a client: two URLs, and the responses behind them.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use reqwest::header::{HeaderMap, WWW_AUTHENTICATE};
use serde_json::Value;

/// The two URLs of a stack, and an HTTP client.
#[derive(Debug, Clone)]
pub struct Gate {
    /// The issuer identifier, which is also the prefix of the endpoints' URLs.
    pub issuer: String,
    /// The URL to which MCP clients connect.
    pub mcp_url: String,
    /// An HTTP client that follows no redirects and keeps no cookies.
    pub http: reqwest::Client,
}

impl Gate {
    /// Wraps a stack that is already running.
    pub fn at(issuer: &str, mcp_url: &str) -> Self {
        let http = reqwest::Client::builder()
            .redirect(reqwest::redirect::Policy::none())
            .timeout(Duration::from_secs(30))
            .build()
            .expect("an HTTP client can be created");
        Self { issuer: issuer.to_owned(), mcp_url: mcp_url.to_owned(), http }
    }

    /// The URL of an endpoint of the authorization server.
    pub fn endpoint(&self, name: &str) -> String {
        format!("{}/{name}", self.issuer)
    }

    /// Sends a GET request.
    pub async fn get(&self, url: &str) -> Result<Answer> {
        Answer::read(self.http.get(url).send().await?).await
    }

    /// Sends a GET request and reads the JSON body. A status other than 200 is an error.
    pub async fn get_json(&self, url: &str) -> Result<Value> {
        let answer = self.get(url).await?;
        ensure!(answer.status == 200, "GET {url} returned {answer:?}");
        answer.json()
    }
}

/// A complete HTTP response.
#[derive(Debug, Clone)]
pub struct Answer {
    /// The HTTP status code, such as 401.
    pub status: u16,
    /// All headers of the response.
    pub headers: HeaderMap,
    /// The body as text.
    pub body: String,
}

impl Answer {
    /// Reads a response with its whole body.
    pub async fn read(response: reqwest::Response) -> Result<Self> {
        let status = response.status().as_u16();
        let headers = response.headers().clone();
        let body = response.text().await.context("the body was cut off")?;
        Ok(Self { status, headers, body })
    }

    /// The `WWW-Authenticate` header, or an empty string.
    pub fn challenge(&self) -> &str {
        self.header(WWW_AUTHENTICATE.as_str())
    }

    /// The value of a header, or an empty string.
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap_or("(not ASCII)"))
    }

    /// Reads the body as JSON.
    pub fn json(&self) -> Result<Value> {
        serde_json::from_str(&self.body).with_context(|| format!("not JSON: {self:?}"))
    }
}
