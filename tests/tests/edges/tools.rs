//! Tests of rules for single tools. The edge applies them to the headers of a modern client, and the wrapper
//! applies them to the body of a legacy client.

use std::fs;

use reqwest::header::HeaderMap;
use serde_json::json;
use tempfile::TempDir;
use tests::places::recorder;
use tests::{Edge, Setup, Stack};

use crate::world::World;

each_edge!(
    a092_a_modern_request_is_judged_by_the_tool_that_its_headers_name,
    a092_what_does_not_say_its_tool_is_held_to_the_strictest_rule,
    a092_a_legacy_client_is_held_to_the_rules_by_the_wrapper,
    a092_headers_that_lie_about_the_body_open_nothing,
);

const POLICY: &str = r#"
default_scope = "notes:read"

[scopes]
"notes:read" = "Read notes"
"notes:write" = "Change notes"

# The wrapper sees the body, and applies the rules to legacy clients.
[[service]]
host = "localhost"
legacy_tools = "wrapper"
[[service.tool]]
match = "delete_*"
scopes = "notes:write"

# Nobody behind this one looks at bodies.
[[service]]
host = "other.localhost"
[[service.tool]]
match = "delete_*"
scopes = "notes:write"
"#;

pub(crate) const MODERN: (&str, &str) = ("MCP-Protocol-Version", "2026-07-28");
pub(crate) const CALL: (&str, &str) = ("Mcp-Method", "tools/call");

pub(crate) fn under_policy(edge: Edge) -> (Setup, TempDir) {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("policy.toml");
    fs::write(&file, POLICY).unwrap();
    (Setup::as_shipped().through(edge).auth_setting("POLICY_FILE", file.to_str().unwrap()), directory)
}

/// A token for the MCP endpoint of this host, without the scope `notes:write`.
async fn reader(stack: &Stack, host: &str) -> String {
    stack.log_in_with_scope(&format!("http://{host}/mcp"), "notes:read").await.unwrap().access_token
}

pub(crate) async fn a092_a_modern_request_is_judged_by_the_tool_that_its_headers_name(edge: Edge) {
    let (setup, _policy) = under_policy(edge);
    let mut world = World::of(setup).await;
    world.token = reader(&world.stack, &world.host).await;
    for name in ["read_all", "undelete_one", "=?base64?cmVhZF9hbGw=?="] {
        let answer = world.raw_with_token("POST", "/mcp", &[MODERN, CALL, ("Mcp-Name", name)]).await.unwrap();
        assert_eq!(answer.status, 200, "{name}: {answer:?}\n{}", world.stack.logs());
    }
    let listed = world.raw_with_token("POST", "/mcp", &[MODERN, ("Mcp-Method", "tools/list")]).await.unwrap();
    assert_eq!(listed.status, 200, "{listed:?}");
    assert_eq!(world.upstream.take_heads().len(), 4);

    for name in ["delete_all", "=?base64?ZGVsZXRlX2FsbA==?="] {
        let answer = world.raw_with_token("POST", "/mcp", &[MODERN, CALL, ("Mcp-Name", name)]).await.unwrap();
        assert_eq!(answer.status, 403, "{name}: {answer:?}");
        let challenges = answer.values("www-authenticate");
        assert_eq!(challenges.len(), 1, "{name}: {answer:?}");
        assert!(challenges[0].contains("error=\"insufficient_scope\""), "{name}: {challenges:?}");
        assert!(challenges[0].contains("notes:write"), "{name}: {challenges:?}");
        assert!(challenges[0].contains("resource_metadata="), "{name}: {challenges:?}");
        assert_eq!(answer.values("cache-control"), ["no-store"], "{name}");
    }
    // Two names, and names with an invalid encoding, are refused.
    for names in [&["read_all", "delete_all"][..], &["=?base64?!!?="], &["=?BASE64?ZGVsZXRlX2FsbA==?="]] {
        let mut headers = vec![MODERN, CALL];
        headers.extend(names.iter().map(|name| ("Mcp-Name", *name)));
        let answer = world.raw_with_token("POST", "/mcp", &headers).await.unwrap();
        assert!([400, 403].contains(&answer.status), "{names:?}: {answer:?}");
    }
    world.assert_nothing_passed("a tool that the caller may not use");
}

pub(crate) async fn a092_what_does_not_say_its_tool_is_held_to_the_strictest_rule(edge: Edge) {
    let (setup, _policy) = under_policy(edge);
    let world = World::of(setup).await;
    let host = format!("other.{}", world.host);
    let token = reader(&world.stack, &host).await;
    let bearer = format!("Bearer {token}");
    let ask = async |more: &[(&str, &str)]| {
        let mut headers = vec![("Host", host.as_str()), ("Authorization", &bearer), ("Connection", "close")];
        headers.extend_from_slice(more);
        tests::raw::ask(world.stack.port, "POST", "/mcp", &headers).await.unwrap()
    };
    let said = ask(&[MODERN, CALL, ("Mcp-Name", "read_all")]).await;
    assert_eq!(said.status, 200, "{said:?}");
    world.upstream.take_heads();
    let unsaid: [&[(&str, &str)]; 6] = [
        &[],
        &[("MCP-Protocol-Version", "2025-06-18")],
        &[("MCP-Protocol-Version", "2025-11-25"), CALL, ("Mcp-Name", "read_all")],
        &[MODERN],
        &[MODERN, CALL],
        &[CALL, ("Mcp-Name", "read_all")],
    ];
    for headers in unsaid {
        let answer = ask(headers).await;
        assert_eq!(answer.status, 403, "{headers:?}: {answer:?}");
        assert!(answer.values("www-authenticate")[0].contains("notes:write"), "{headers:?}: {answer:?}");
    }
    world.assert_nothing_passed("a request that may call anything");
}

async fn recorded(edge: Edge) -> (Stack, TempDir) {
    let (setup, policy) = under_policy(edge);
    (setup.also_protecting("other.localhost").wrapping(recorder()).start().await, policy)
}

/// Everything that the wrapped server has received, as text.
async fn seen_by_child(stack: &Stack, token: &str) -> String {
    let mut session = stack.open_session(token, HeaderMap::new()).await.unwrap();
    session.call("what_reached_you", json!({})).await.unwrap()
}

pub(crate) async fn a092_a_legacy_client_is_held_to_the_rules_by_the_wrapper(edge: Edge) {
    let (stack, _policy) = recorded(edge).await;
    let token = reader(&stack, &format!("localhost:{}", stack.port)).await;
    let mut session = stack.open_session(&token, HeaderMap::new()).await.unwrap();
    let refused = session.call("delete_everything", json!({})).await.unwrap_err().to_string();
    assert!(refused.contains("403") && refused.contains("insufficient_scope"), "{refused}");
    assert!(refused.contains("notes:write"), "{refused}");
    // The permitted tool works, and the wrapped server did not receive the call to the other tool.
    let seen = session.call("what_reached_you", json!({})).await.unwrap();
    assert!(seen.contains("what_reached_you") && !seen.contains("delete_everything"), "{seen}");
}

pub(crate) async fn a092_headers_that_lie_about_the_body_open_nothing(edge: Edge) {
    let (stack, _policy) = recorded(edge).await;
    let token = reader(&stack, &format!("localhost:{}", stack.port)).await;
    let call = json!({
        "jsonrpc": "2.0", "id": 1, "method": "tools/call",
        "params": {
            "name": "delete_everything", "arguments": {},
            "_meta": {
                "io.modelcontextprotocol/protocolVersion": "2026-07-28",
                "io.modelcontextprotocol/clientInfo": { "name": "a test", "version": "1" },
                "io.modelcontextprotocol/clientCapabilities": {},
            },
        },
    });
    for claim in
        [&[CALL, ("Mcp-Name", "what_reached_you")], &[("Mcp-Method", "tools/list"), ("Mcp-Name", "x")]]
    {
        let headers: HeaderMap = [&claim[..], &[MODERN]]
            .concat()
            .into_iter()
            .chain([("authorization", format!("Bearer {token}").as_str())])
            .map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap()))
            .collect();
        let answer = stack.post_mcp(&call, headers).await.unwrap();
        assert!((400..500).contains(&answer.status), "{claim:?}: {answer:?}");
    }
    let seen = seen_by_child(&stack, &token).await;
    assert!(!seen.contains("delete_everything"), "{seen}");
}
