//! A small MCP client, for tests that send messages that no SDK would send.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use reqwest::header::HeaderMap;
use reqwest::{RequestBuilder, Response};
use serde_json::{Value, json};

use crate::gate::{Answer, Gate};

/// A session over Streamable HTTP (protocol revision 2025-06-18).
#[derive(Debug)]
pub struct Session<'a> {
    gate: &'a Gate,
    token: String,
    extra: HeaderMap,
    id: Option<String>,
    next: u64,
}

impl Gate {
    /// POSTs a JSON-RPC message to the MCP endpoint with these headers, and with those that every request needs.
    pub async fn post_mcp(&self, message: &Value, headers: HeaderMap) -> Result<Answer> {
        Answer::read(self.mcp_request(message, headers).send().await?).await
    }

    fn mcp_request(&self, message: &Value, headers: HeaderMap) -> RequestBuilder {
        let request = self.http.post(&self.mcp_url).header("accept", "application/json, text/event-stream");
        request.headers(headers).json(message)
    }

    /// Opens a session. Each of its requests also has the headers in `extra`.
    pub async fn open_session(&self, token: &str, extra: HeaderMap) -> Result<Session<'_>> {
        let mut session = Session { gate: self, token: token.to_owned(), extra, id: None, next: 1 };
        let params = json!({
            "protocolVersion": "2025-06-18",
            "capabilities": {},
            "clientInfo": { "name": "a test", "version": "1" },
        });
        session.request("initialize", params).await?;
        let note = json!({ "jsonrpc": "2.0", "method": "notifications/initialized" });
        let answer = session.post(&note).await?;
        ensure!(answer.status == 202, "the response to notifications/initialized is {answer:?}");
        Ok(session)
    }
}

impl Session<'_> {
    /// Sends a request. Returns the `result` of the response.
    pub async fn request(&mut self, method: &str, params: Value) -> Result<Value> {
        let id = self.next;
        self.next += 1;
        let message = json!({ "jsonrpc": "2.0", "id": id, "method": method, "params": params });
        let answer = self.post(&message).await?;
        ensure!(answer.status == 200, "the response to {method} is {answer:?}");
        if let Some(session) = answer.headers.get("mcp-session-id") {
            self.id = Some(session.to_str()?.to_owned());
        }
        let response = messages(&answer)?
            .into_iter()
            .find(|message| message["id"] == id)
            .with_context(|| format!("no response to {method} in {}", answer.body))?;
        ensure!(response["error"].is_null(), "{method} failed: {response}");
        Ok(response["result"].clone())
    }

    /// Calls a tool. Returns the text of the first content block.
    pub async fn call(&mut self, tool: &str, arguments: Value) -> Result<String> {
        let result = self.request("tools/call", json!({ "name": tool, "arguments": arguments })).await?;
        result["content"][0]["text"]
            .as_str()
            .map(str::to_owned)
            .with_context(|| format!("no text in {result}"))
    }

    /// The identifier of the session, or `None` if the server has no sessions.
    pub fn id(&self) -> Option<&str> {
        self.id.as_deref()
    }

    /// Ends the session. A server without sessions gets no request.
    pub async fn end(self) -> Result<()> {
        if self.id.is_some() {
            self.gate.http.delete(&self.gate.mcp_url).headers(self.headers()?).send().await?;
        }
        Ok(())
    }

    /// POSTs a message. Returns the response before its body is read.
    pub async fn send(&self, message: &Value) -> Result<Response> {
        Ok(self.gate.mcp_request(message, self.headers()?).send().await?)
    }

    /// Opens the stream for messages that the server initiates.
    pub async fn listen(&self) -> Result<Response> {
        let request = self.gate.http.get(&self.gate.mcp_url).timeout(Duration::from_secs(120));
        Ok(request.header("accept", "text/event-stream").headers(self.headers()?).send().await?)
    }

    async fn post(&self, message: &Value) -> Result<Answer> {
        Answer::read(self.send(message).await?).await
    }

    fn headers(&self) -> Result<HeaderMap> {
        let mut headers = self.extra.clone();
        headers.insert("authorization", format!("Bearer {}", self.token).parse()?);
        if let Some(id) = &self.id {
            headers.insert("mcp-session-id", id.parse()?);
            headers.insert("mcp-protocol-version", "2025-06-18".parse()?);
        }
        Ok(headers)
    }
}

/// The JSON-RPC messages in a response, whose body is JSON or an event stream.
fn messages(answer: &Answer) -> Result<Vec<Value>> {
    if !answer.header("content-type").starts_with("text/event-stream") {
        return Ok(vec![answer.json()?]);
    }
    answer
        .body
        .lines()
        .filter_map(|line| line.strip_prefix("data:"))
        .map(str::trim)
        .filter(|data| !data.is_empty())
        .map(|data| serde_json::from_str(data).with_context(|| format!("an event is not JSON: {data}")))
        .collect()
}
