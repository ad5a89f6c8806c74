//! Tests the whole flow of each SDK, from the first 401 to a call with a refreshed token.

use serde_json::{Value, json};
use tests::{Setup, Stack};

use crate::sdk::{Sdk, events, lines};

/// Asserts that a client's events contain all steps in this order.
fn assert_whole_story(stack: &Stack, issuer_path: &str, events: &[Value]) {
    let mut rest = events.iter();
    let mut next = |what: &str, is: &dyn Fn(&Value) -> bool| {
        assert!(rest.any(is), "no {what} in the expected order in:\n{}", lines(events));
    };
    let http = |method: &'static str, path: String, status: u16| {
        move |event: &Value| event["http"] == method && event["path"] == path && event["status"] == status
    };
    let metadata = format!("http://localhost:{}/.well-known/oauth-protected-resource/mcp", stack.port);

    next("401 with a challenge", &|event| {
        event["path"] == "/mcp"
            && event["status"] == 401
            && event["challenge"].as_str().is_some_and(|challenge| {
                challenge.contains(&format!("resource_metadata=\"{metadata}\""))
                    && !challenge.contains("error=")
            })
    });
    next("resource metadata", &http("GET", "/.well-known/oauth-protected-resource/mcp".into(), 200));
    next(
        "server metadata",
        &http("GET", format!("/.well-known/oauth-authorization-server{issuer_path}"), 200),
    );
    next("registration", &http("POST", format!("{issuer_path}/register"), 201));
    next("authorization with PKCE and resource", &|event| {
        event["authorize"] == "S256" && event["resource"] == stack.mcp_url.as_str()
    });
    next("issuer in the authorization response", &|event| event["iss"] == stack.issuer.as_str());
    let token = http("POST", format!("{issuer_path}/token"), 200);
    next("token request with resource", &|event| {
        token(event)
            && event["grant_type"] == "authorization_code"
            && event["resource"] == stack.mcp_url.as_str()
    });
    next("tokens", &|event| {
        event["token_type"] == "Bearer"
            && event["refreshable"] == true
            && event["expires_in"].as_u64() > Some(0)
    });
    next("tools", &|event| event["tools"].as_array().is_some_and(|tools| tools.contains(&json!("echo"))));
    next("call", &|event| event["called"][0]["text"] == "Echo: hello");
    next("refresh", &|event| token(event) && event["grant_type"] == "refresh_token");
    next("call after the refresh", &|event| event["called_again"][0]["text"] == "Echo: hello");
    next("rotation", &|event| event["refreshed"] == true && event["rotated"] == true);
    next("end", &|event| event["done"] == true);
}

async fn whole_story(sdk: Sdk, issuer_path: &str) {
    let stack = Setup::as_shipped().issuer_path(issuer_path).start().await;
    let events = events(&stack, sdk, &[]).await;
    assert_whole_story(&stack, issuer_path, &events);
}

#[tokio::test]
async fn typescript_sdk_1() {
    whole_story(Sdk::TypeScript1, "").await;
}

#[tokio::test]
async fn typescript_sdk_1_with_an_issuer_below_a_path() {
    whole_story(Sdk::TypeScript1, "/tenant1").await;
}

#[tokio::test]
async fn typescript_sdk_2() {
    whole_story(Sdk::TypeScript2, "").await;
}

#[tokio::test]
async fn typescript_sdk_2_with_an_issuer_below_a_path() {
    whole_story(Sdk::TypeScript2, "/tenant1").await;
}

#[tokio::test]
async fn python_sdk_2() {
    whole_story(Sdk::Python2, "").await;
}

#[tokio::test]
async fn python_sdk_2_with_an_issuer_below_a_path() {
    whole_story(Sdk::Python2, "/tenant1").await;
}
