//! Registration requests of real clients, taken from public sources.

use reqwest::StatusCode;
use serde_json::{Value, json};

use super::app::TestApp;

/// The name of each client, and the metadata that it registers.
fn registrations() -> Vec<(&'static str, Value)> {
    vec![
        (
            "claude.ai",
            json!({
                "client_name": "Claude", "grant_types": ["authorization_code", "refresh_token"], "response_types": ["code"],
                "token_endpoint_auth_method": "none", "scope": "claudeai", "redirect_uris": ["https://claude.ai/api/mcp/auth_callback"],
            }),
        ),
        (
            "Claude Code",
            json!({
                "client_name": "Claude Code (everything)", "redirect_uris": ["http://localhost:54212/callback"],
                "grant_types": ["authorization_code", "refresh_token"], "response_types": ["code"], "token_endpoint_auth_method": "none",
            }),
        ),
        (
            "ChatGPT",
            json!({
                "client_name": "ChatGPT", "redirect_uris": ["https://chatgpt.com/connector_platform_oauth_redirect"],
                "grant_types": ["authorization_code", "refresh_token"], "response_types": ["code"], "token_endpoint_auth_method": "none",
            }),
        ),
        (
            "VS Code",
            json!({
                "client_name": "Visual Studio Code", "client_uri": "https://code.visualstudio.com", "application_type": "native",
                "grant_types": ["authorization_code", "refresh_token", "urn:ietf:params:oauth:grant-type:device_code"], "response_types": ["code"],
                "redirect_uris": ["https://insiders.vscode.dev/redirect", "https://vscode.dev/redirect", "http://127.0.0.1/", "http://127.0.0.1:33418/"],
                "token_endpoint_auth_method": "none",
            }),
        ),
        (
            "Cursor",
            json!({
                "client_name": "Cursor", "redirect_uris": ["cursor://anysphere.cursor-mcp/oauth/callback"],
                "grant_types": ["authorization_code", "refresh_token"], "response_types": ["code"], "token_endpoint_auth_method": "none",
            }),
        ),
        (
            "MCP Inspector",
            json!({
                "client_name": "MCP Inspector", "client_uri": "https://github.com/modelcontextprotocol/inspector",
                "redirect_uris": ["http://localhost:6274/oauth/callback"], "grant_types": ["authorization_code", "refresh_token"],
                "response_types": ["code"], "token_endpoint_auth_method": "none", "scope": "",
            }),
        ),
        (
            "mcp-remote",
            json!({
                "client_name": "MCP CLI Proxy", "client_uri": "https://github.com/modelcontextprotocol/mcp-cli", "software_version": "0.15.1",
                "software_id": "2e6dc280-f3c3-4e01-99a7-8181dbd1d23d", "redirect_uris": ["http://127.0.0.1:3334/oauth/callback"],
                "grant_types": ["authorization_code", "refresh_token"], "response_types": ["code"], "token_endpoint_auth_method": "none",
            }),
        ),
        (
            "Python SDK without a method",
            json!({
                "client_name": "Python client", "redirect_uris": ["http://localhost:3030/callback"],
                "grant_types": ["authorization_code", "refresh_token"], "response_types": ["code"], "scope": "mcp",
            }),
        ),
    ]
}

#[actix_web::test]
async fn real_clients_register_and_get_what_they_need() {
    let app = TestApp::start().await;
    for (name, metadata) in registrations() {
        let response = app.register(&metadata).await;
        assert_eq!(response.status(), StatusCode::CREATED, "{name}");
        let body: Value = response.json().await.unwrap();
        assert_eq!(body["redirect_uris"], metadata["redirect_uris"], "{name}");
        assert_eq!(body["grant_types"], json!(["authorization_code", "refresh_token"]), "{name}");
        let method =
            metadata.get("token_endpoint_auth_method").cloned().unwrap_or(json!("client_secret_basic"));
        assert_eq!(body["token_endpoint_auth_method"], method, "{name}");
        assert_eq!(body.get("client_secret").is_some(), method != "none", "{name}");
    }
}

#[actix_web::test]
async fn a_local_client_on_another_port_each_time_stays_one_client_and_is_told_its_own_port() {
    let app = TestApp::start().await;
    let mut ids = std::collections::HashSet::new();
    for port in 50_000..50_050 {
        let uri = format!("http://localhost:{port}/callback");
        let metadata = json!({ "client_name": "Claude Code", "redirect_uris": [uri], "token_endpoint_auth_method": "none" });
        let body: Value = app.register(&metadata).await.json().await.unwrap();
        assert_eq!(body["redirect_uris"], json!([uri]));
        ids.insert(body["client_id"].to_string());
    }
    assert_eq!(ids.len(), 1);
}
