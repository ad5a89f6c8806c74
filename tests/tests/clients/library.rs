//! Tests with an OAuth library that has no support for MCP and checks responses more strictly than the SDKs. They
//! cover discovery, registration, code with PKCE, refresh, introspection, revocation, pushed requests, DPoP and
//! the device flow.

use serde_json::Value;
use tests::Setup;

use crate::sdk::{events_of, lines};

#[tokio::test]
async fn a_general_oauth_client_goes_all_the_ways() {
    let stack = Setup::as_shipped().auth_setting("ADDITIONAL_GRANTS", "device_code").start().await;
    let events = events_of(&stack, "openid-client.mjs", &[("ISSUER", &stack.issuer)]).await;
    let story = lines(&events);
    let mut rest = events.iter();
    let mut next = |what: &str, is: &dyn Fn(&Value) -> bool| {
        assert!(rest.any(is), "no {what} in the expected order in:\n{story}");
    };
    next("registration", &|event| event["issuer"] == stack.issuer.as_str() && event["registered"] == true);
    next("plain flow", &|event| event["flow"] == "plain" && event["token_type"] == "bearer");
    next("request that passes", &|event| event["passed"] == 200);
    next("introspection", &|event| event["active"] == true && event["client_id_is_ours"] == true);
    next("rotation", &|event| event["refreshed"] == true && event["rotated"] == true);
    next("introspection of the refresh token", &|event| event["introspected"] == "refresh token");
    next("revocation", &|event| event["introspected"] == "revoked refresh token" && event["active"] == false);
    next("end of the grant", &|event| {
        event["introspected"] == "access token of a revoked grant" && event["active"] == false
    });
    let page = format!("{}/errors#invalid_grant", stack.issuer);
    next("refusal that leads to its page", &|event| {
        event["refused"] == "invalid_grant" && event["status"] == 400 && event["uri"] == page.as_str()
    });
    next("pushed flow with a bound token", &|event| {
        event["flow"] == "pushed" && event["token_type"] == "dpop" && event["bound"] == true
    });
    next("bound request that passes", &|event| event["passed_bound"] == 200);
    next("refresh with the same key", &|event| event["thumbprint"] == true);
    next("device", &|event| event["device_token"] == "bearer");
    next("end", &|event| event["done"] == true);
    // The page that explains errors is available through the edge.
    let answer = stack.get(&stack.endpoint("errors")).await.unwrap();
    assert_eq!(answer.status, 200);
    assert!(answer.body.contains("<h2 id=\"invalid_grant\">"), "{}", answer.body);
}
