//! What a client sees of a running stack: two URLs, and the answers behind them.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use reqwest::header::{HeaderMap, WWW_AUTHENTICATE};
use serde_json::Value;

/// The two URLs, and an HTTP client to ask them with.
#[derive(Debug, Clone)]
pub struct Gate {
    /// `iss`, and what the endpoints stand below.
    pub issuer: String,
    /// Where MCP clients connect.
    pub mcp_url: String,
    /// Answers redirects to the caller, keeps no cookies.
    pub http: reqwest::Client,
}

impl Gate {
    /// A stack that runs already.
    pub fn at(issuer: &str, mcp_url: &str) -> Self {
        let http = reqwest::Client::builder()
            .redirect(reqwest::redirect::Policy::none())
            .timeout(Duration::from_secs(30))
            .build()
            .expect("an HTTP client can be made");
        Self { issuer: issuer.to_owned(), mcp_url: mcp_url.to_owned(), http }
    }

    /// The URL of an endpoint of the authorization server.
    pub fn endpoint(&self, name: &str) -> String {
        format!("{}/{name}", self.issuer)
    }

    /// GET.
    pub async fn get(&self, url: &str) -> Result<Answer> {
        Answer::read(self.http.get(url).send().await?).await
    }

    /// GET, which must succeed, as JSON.
    pub async fn get_json(&self, url: &str) -> Result<Value> {
        let answer = self.get(url).await?;
        ensure!(answer.status == 200, "GET {url} answered {answer:?}");
        answer.json()
    }
}

/// An HTTP answer, read to its end.
#[derive(Debug, Clone)]
pub struct Answer {
    /// Status code.
    pub status: u16,
    /// All headers.
    pub headers: HeaderMap,
    /// Body as text.
    pub body: String,
}

impl Answer {
    /// Reads the response to its end.
    pub async fn read(response: reqwest::Response) -> Result<Self> {
        let status = response.status().as_u16();
        let headers = response.headers().clone();
        let body = response.text().await.context("the body broke off")?;
        Ok(Self { status, headers, body })
    }

    /// The `WWW-Authenticate` header, empty if there is none.
    pub fn challenge(&self) -> &str {
        self.header(WWW_AUTHENTICATE.as_str())
    }

    /// A header, empty if there is none.
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap_or("(not ASCII)"))
    }

    /// The body as JSON.
    pub fn json(&self) -> Result<Value> {
        serde_json::from_str(&self.body).with_context(|| format!("no JSON: {self:?}"))
    }
}
