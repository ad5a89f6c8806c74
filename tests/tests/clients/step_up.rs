//! Tests that a token with too few scopes causes a login that asks only for the new scopes (MCP authorization,
//! "Scope Challenge Handling").

use serde_json::Value;
use tests::{Setup, Stack};

use crate::sdk::{Sdk, events, lines};

/// The scopes on the consent page below the heading that starts with this text.
fn scopes_under(page: &str, heading: &str) -> Vec<String> {
    let Some((_, rest)) = page.split_once(&format!("<dt>{heading}")) else { return Vec::new() };
    let list = rest.split("</div>").next().unwrap();
    let items = list.split("<dd").skip(1).map(|item| item.split(['>', '<']).nth(1).unwrap());
    // If a scope has a description, its name follows in brackets.
    items.map(|item| item.trim_end_matches(')').rsplit('(').next().unwrap().to_owned()).collect()
}

fn assert_steps_up(events: &[Value]) {
    let story = lines(events);
    let asked: Vec<_> = events.iter().filter_map(|event| event["scope"].as_str()).collect();
    let [less, more] = asked.as_slice() else { panic!("not two logins in:\n{story}") };
    assert_eq!(*less, "mcp:read");
    assert!(more.split(' ').any(|scope| scope == "mcp"), "the second login asks for {more:?}\n{story}");
    let mut rest = events.iter();
    let refused = |event: &Value| {
        let challenge = event["challenge"].as_str().unwrap_or_default();
        event["status"] == 403
            && challenge.contains("insufficient_scope")
            && challenge.contains("scope=\"mcp\"")
    };
    assert!(rest.any(refused), "no 403 with the scope in:\n{story}");
    let pages: Vec<_> = events.iter().filter_map(|event| event["consent"].as_str()).collect();
    let [first, second] = pages.as_slice() else { panic!("not two pages in:\n{story}") };
    assert_eq!(scopes_under(first, "It will be allowed"), ["mcp:read"]);
    // Some SDKs request the scopes that they already have. The page lists those separately, and does not ask for
    // them again.
    if more.split(' ').any(|scope| scope == "mcp:read") {
        assert_eq!(scopes_under(second, "New: it will be allowed"), ["mcp"]);
        assert_eq!(scopes_under(second, "You allowed it before"), ["mcp:read"]);
    } else {
        assert_eq!(scopes_under(second, "It will be allowed"), ["mcp"]);
    }
    assert!(rest.any(|event| event["called"][0]["text"] == "Echo: hello"), "no call in:\n{story}");
}

#[tokio::test]
async fn a_403_leads_to_a_login_that_asks_only_for_what_is_new() {
    for sdk in Sdk::ALL {
        let stack = Stack::start().await;
        println!("{}", sdk.name());
        let mut settings = vec![("STEP_UP_FROM", "mcp:read")];
        if matches!(sdk, Sdk::TypeScript1) {
            // With a refresh token, this SDK responds to the 403 with a refresh. A refresh does not extend the
            // scope, so the SDK gives up.
            settings.push(("GRANTS", "authorization_code"));
        }
        assert_steps_up(&events(&stack, sdk, &settings).await);
    }
}

/// The policy from docs/policy.md, for the host of the stack and for the tool that the clients call.
const NOTES: &str = r#"
[scopes]
"notes:read" = "Read your notes"
"notes:write" = "Change and delete your notes"

[[service]]
host = "localhost"
scopes = "notes:read"
legacy_tools = "wrapper"

[[service.tool]]
match = "echo"
scopes = "notes:write"
"#;

fn assert_steps_up_in_a_call(events: &[Value]) {
    let story = lines(events);
    let registered: Vec<_> = events.iter().filter_map(|event| event["registered_scope"].as_str()).collect();
    assert_eq!(
        registered,
        ["notes:read"],
        "the SDK registers with the scope of the first challenge\n{story}"
    );
    let asked: Vec<_> = events.iter().filter_map(|event| event["scope"].as_str()).collect();
    assert_eq!(asked, ["notes:read", "notes:read notes:write"], "{story}");
    let pages: Vec<_> = events.iter().filter_map(|event| event["consent"].as_str()).collect();
    let [first, second] = pages.as_slice() else { panic!("not two pages in:\n{story}") };
    assert_eq!(scopes_under(first, "It will be allowed"), ["notes:read"]);
    assert_eq!(scopes_under(second, "New: it will be allowed"), ["notes:write"]);
    assert_eq!(scopes_under(second, "You allowed it before"), ["notes:read"]);
    assert!(events.iter().any(|event| event["called"][0]["text"] == "Echo: hello"), "no call in:\n{story}");
}

async fn registers_with_the_scope_of_the_first_challenge_and_steps_up_in_a_call(sdk: Sdk) {
    let directory = tempfile::tempdir().unwrap();
    let policy = directory.path().join("policy.toml");
    std::fs::write(&policy, NOTES).unwrap();
    let setup = Setup::as_shipped().auth_setting("POLICY_FILE", policy.to_str().unwrap());
    let stack = setup.start().await;
    let mut settings = vec![("STEP_UP_IN_CALL", "1")];
    if matches!(sdk, Sdk::TypeScript1) {
        // With a refresh token, this SDK would refresh instead of stepping up.
        settings.push(("GRANTS", "authorization_code"));
    }
    assert_steps_up_in_a_call(&events(&stack, sdk, &settings).await);
}

#[tokio::test]
async fn typescript_1_registers_with_the_first_challenge_s_scope_and_steps_up_in_a_call() {
    registers_with_the_scope_of_the_first_challenge_and_steps_up_in_a_call(Sdk::TypeScript1).await;
}

#[tokio::test]
async fn typescript_2_registers_with_the_first_challenge_s_scope_and_steps_up_in_a_call() {
    registers_with_the_scope_of_the_first_challenge_and_steps_up_in_a_call(Sdk::TypeScript2).await;
}

#[tokio::test]
async fn python_2_registers_with_the_first_challenge_s_scope_and_steps_up_in_a_call() {
    registers_with_the_scope_of_the_first_challenge_and_steps_up_in_a_call(Sdk::Python2).await;
}
