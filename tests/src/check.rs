//! Checks that are sent directly to auth-service, in the format of an edge.

use reqwest::RequestBuilder;

use crate::stack::Stack;

impl Stack {
    /// A check of a POST request to the MCP endpoint with this token, in the format of Caddy.
    pub fn check(&self, http: &reqwest::Client, token: &str) -> RequestBuilder {
        http.post(format!("http://127.0.0.1:{}/verify/caddy", self.auth_edge_port))
            .header("x-edge-secret", &self.edge_secret)
            .header("x-forwarded-method", "POST")
            .header("x-forwarded-proto", "http")
            .header("x-forwarded-host", format!("localhost:{}", self.port))
            .header("x-forwarded-uri", "/mcp")
            .bearer_auth(token)
    }
}
