//! Tests of the file format together with the decision: they parse a policy and decide on requests.

mod file;
mod properties;

use crate::domain::account::{Group, Subject, Username};
use crate::domain::client::ClientId;
use crate::domain::clock::UnixTime;
use crate::domain::grant_id::GrantId;
use crate::domain::resource::{ProtectedHosts, ResourceUri, Scheme};
use crate::principal::Principal;

use super::*;

const TOOLS: &str = r#"
default_scope = "mcp:use"

[scopes]
"notes:read" = "Read your notes"

[[service]]
name = "notes"
host = "a.example"
path = "/mcp"
scopes = ["notes:read"]

[[service.tool]]
match = ["delete_*", "drop"]
scopes = ["notes:write"]

[[service.tool]]
match = "*_all"
scopes = ["notes:admin"]
groups = ["ops"]

[[service.method]]
match = "resources/*"
scopes = ["notes:files"]
"#;

fn hosts() -> ProtectedHosts {
    let patterns = ["a.example", "b.example", "*.wild.example"];
    ProtectedHosts::new(Scheme::Https, patterns.iter().map(|text| text.parse().unwrap()).collect())
}

fn resource(text: &str) -> ResourceUri {
    hosts().parse(text).unwrap()
}

fn policy(text: &str) -> Policy {
    parse(text, Who::default(), Some(&hosts())).unwrap().0
}

/// The user `ana` in these groups, with this scope, and with a token for all resources of these tests.
fn ana(scope: &str, groups: &[&str]) -> Principal {
    Principal {
        subject: Subject::new([1; 32]),
        username: Username::try_from("ana".to_owned()).unwrap(),
        email: Some("ana@example.com".to_owned()),
        groups: groups.iter().map(|text| Group::try_from((*text).to_owned()).unwrap()).collect(),
        client_id: ClientId::try_from("c".to_owned()).unwrap(),
        grant_id: GrantId::new([2; 32]),
        scope: scope.parse().unwrap(),
        resources: ["https://a.example", "https://b.example", "https://x.wild.example"]
            .map(resource)
            .to_vec(),
        bound_to: None,
        expires_at: UnixTime(10),
    }
}

fn asked<'a>(resource: &'a ResourceUri, operation: Operation<'a>) -> PolicyTarget<'a> {
    PolicyTarget { resource, http_method: "POST", operation }
}

fn decided(policy: &Policy, principal: &Principal, url: &str, operation: Operation<'_>) -> Decision {
    decide(Credentials::Token(principal), policy, &asked(&resource(url), operation))
}

const NOTES: &str = "https://a.example/mcp";

fn needs(scope: &str) -> Decision {
    Decision::Deny(Denial::InsufficientScope { scope: scope.parse().unwrap() })
}

fn is_forbidden(decision: &Decision) -> bool {
    matches!(decision, Decision::Deny(Denial::Forbidden { .. }))
}

#[test]
fn without_a_file_any_person_passes_with_the_scope_mcp_at_the_resource_of_the_token() {
    let mut principal = ana("mcp", &[]);
    principal.resources = vec![resource("https://a.example/mcp")];
    let policy = Policy::default();
    for url in ["https://a.example/mcp", "https://a.example/mcp/x"] {
        assert_eq!(decided(&policy, &principal, url, Operation::Unknown), Decision::Allow);
    }
    for scope in ["", "mcp:read", "other"] {
        principal.scope = scope.parse().unwrap();
        assert_eq!(decided(&policy, &principal, "https://a.example/mcp", Operation::Unknown), needs("mcp"));
    }
}

#[test]
fn a060_a061_a_token_is_refused_at_any_other_resource() {
    let mut principal = ana("mcp", &[]);
    principal.resources = vec![resource("https://a.example/mcp")];
    for url in ["https://b.example/mcp", "https://a.example/mcp-other", "https://a.example"] {
        let decision = decided(&Policy::default(), &principal, url, Operation::Unknown);
        assert!(matches!(decision, Decision::Deny(Denial::InvalidToken { .. })), "{url}");
    }
}

#[test]
fn no_token_and_a_bad_token_are_told_apart_and_told_what_is_needed() {
    let (policy, resource) = (policy(TOOLS), resource(NOTES));
    let of = |presented, operation| decide(presented, &policy, &asked(&resource, operation));
    let scope = "notes:read notes:write".parse().unwrap();
    assert_eq!(
        of(Credentials::Nothing, Operation::Tool("drop")),
        Decision::Deny(Denial::Unauthenticated { scope })
    );
    let scope = "notes:read".parse().unwrap();
    assert_eq!(
        of(Credentials::InvalidToken("x"), Operation::Tool("list")),
        Decision::Deny(Denial::InvalidToken { reason: "x", scope })
    );
}

#[test]
fn a_modern_call_is_under_the_rules_of_its_tool() {
    let policy = policy(TOOLS);
    let reader = ana("notes:read", &[]);
    let tool = |principal: &Principal, name| decided(&policy, principal, NOTES, Operation::Tool(name));
    assert_eq!(tool(&reader, "list"), Decision::Allow);
    assert_eq!(tool(&reader, "drop"), needs("notes:read notes:write"));
    assert!(is_forbidden(&tool(&reader, "delete_all")), "no scope is enough");
    let operator = ana("notes:read", &["ops"]);
    // A single challenge lists all required scopes, together with the granted ones.
    assert_eq!(tool(&operator, "delete_all"), needs("notes:admin notes:read notes:write"));
    assert_eq!(
        tool(&ana("notes", &["ops"]), "delete_all"),
        Decision::Allow,
        "a scope includes the scopes below it"
    );
    let method = |principal: &Principal, name| decided(&policy, principal, NOTES, Operation::Method(name));
    assert_eq!(method(&reader, "tools/list"), Decision::Allow);
    assert_eq!(method(&reader, "resources/read"), needs("notes:files notes:read"));
}

#[test]
fn a092_what_the_headers_do_not_say_is_under_every_rule() {
    let policy = policy(TOOLS);
    let unknown = |principal: &Principal| decided(&policy, principal, NOTES, Operation::Unknown);
    assert!(is_forbidden(&unknown(&ana("notes", &[]))));
    assert_eq!(
        unknown(&ana("notes:read", &["ops"])),
        needs("notes:admin notes:files notes:read notes:write")
    );
    assert_eq!(unknown(&ana("notes", &["ops"])), Decision::Allow);
}

#[test]
fn a092_with_a_wrapper_the_rules_that_are_not_met_travel_in_its_assertion() {
    let policy = policy(&TOOLS.replace("path = \"/mcp\"", "path = \"/mcp\"\nlegacy_tools = \"wrapper\""));
    let principal = ana("notes:read notes:files", &[]);
    assert_eq!(decided(&policy, &principal, NOTES, Operation::Unknown), Decision::Allow);
    assert_eq!(
        decided(&policy, &principal, NOTES, Operation::Tool("drop")),
        needs("notes:files notes:read notes:write")
    );
    let told = serde_json::to_value(policy.unmet_rules(&principal, &resource(NOTES))).unwrap();
    let expected = serde_json::json!([
        { "tools": ["delete_*", "drop"], "scopes": ["notes:read", "notes:write"] },
        { "tools": ["*_all"], "denied": true },
    ]);
    assert_eq!(told, expected);
    assert!(policy.unmet_rules(&ana("notes", &["ops"]), &resource(NOTES)).is_empty());
    assert!(policy.unmet_rules(&principal, &resource("https://b.example")).is_empty());
}

#[test]
fn the_most_specific_rule_is_the_one_that_counts() {
    let policy = policy(
        r#"
        [[service]]
        host = "*"
        scopes = "any"
        [[service]]
        host = "*.wild.example"
        scopes = "wild"
        [[service]]
        host = "*.wild.example"
        path = "/deep/er"
        scopes = "deep"
        [[service]]
        host = "x.wild.example"
        scopes = "exact"
        [[service]]
        host = ["A.example.", "b.example"]
        path = "/mcp/"
        scopes = "mcp"
        "#,
    );
    for (url, scope) in [
        ("https://a.example", "any"),
        ("https://a.example/mcp-other", "any"),
        ("https://a.example/mcp", "mcp"),
        ("https://b.example/mcp/x", "mcp"),
        ("https://y.wild.example/deep", "wild"),
        ("https://y.wild.example/deep/er", "deep"),
        ("https://y.wild.example/deep/er/x", "deep"),
        ("https://y.wild.example/deep/erx", "wild"),
        ("https://x.wild.example/deep/er", "exact"),
    ] {
        assert_eq!(policy.required_scope(&resource(url)).to_string(), scope, "{url}");
    }
}

#[test]
fn a072_a_path_that_could_be_taken_for_a_ruled_one_is_nobody_s() {
    let policy = policy(
        "[[service]]\nhost = \"a.example\"\npath = \"/mcp/Admin\"\nusers = [\"ana\"]\n\
         [[service]]\nhost = \"a.example\"\npath = \"/mcp\"\n[[service]]\nhost = \"*\"\npath = \"/x\"\n",
    );
    let principal = ana("mcp", &[]);
    for (url, allowed) in [
        ("https://a.example/mcp/Admin", true),
        ("https://a.example/mcp/Admin/x", true),
        ("https://a.example/mcp/other", true),
        ("https://a.example/MCPx", true),
        ("https://a.example/mcp/admin", false),
        ("https://a.example/mcp/ADMIN/x", false),
        ("https://a.example/mcp/Admin.", false),
        ("https://a.example/Mcp", false),
        ("https://a.example/X/y", false),
        ("https://a.example/mcp/Admin:x", false),
        ("https://b.example/X", false),
        // A name that servers might read differently is refused where a more specific rule could apply. Elsewhere,
        // it is treated as an ordinary name.
        ("https://a.example/mcp/%C3%A9", false),
        ("https://a.example/mcp/adm%C4%B0n/x", false),
        ("https://a.example/mcp/ad%E2%80%8Cmin", false),
        ("https://a.example/mcp/ADMI~1", false),
        ("https://a.example/%C3%A9", false),
        ("https://b.example/%C3%A9", false),
        // A server might treat a segment that is empty after folding as the parent directory. The path could then
        // match the rule.
        ("https://a.example/mcp/%20", false),
        ("https://a.example/mcp/...", false),
        ("https://a.example/mcp/:", false),
        ("https://a.example/mcp/%3A", false),
        ("https://a.example/mcp/other/...", false),
        ("https://a.example/mcp/other/%C3%A9", true),
        ("https://a.example/mcp/Admin/%C3%A9", true),
        ("https://a.example/other/%C3%A9", true),
        ("https://b.example/MCP", true),
    ] {
        let decision = decided(&policy, &principal, url, Operation::Unknown);
        assert_eq!((decision == Decision::Allow, is_forbidden(&decision)), (allowed, !allowed), "{url}");
        assert_eq!(policy.admits(Person::from(&principal), &resource(url)), allowed, "{url}");
        assert_eq!(policy.is_lookalike(&resource(url)), !allowed, "{url}");
    }
}

#[test]
fn a072_a_name_without_a_sure_reading_passes_where_the_operator_has_named_it() {
    let policy = policy(
        "[[service]]\nhost = \"a.example\"\npath = \"/mcp/a-long-name-of-the-administrator\"\nusers = [\"eve\"]\n\
         [[service]]\nhost = \"a.example\"\npath = \"/mcp/v~1\"\n\
         [[service]]\nhost = \"*\"\npath = \"/v~1\"\n\
         [[service]]\nhost = \"a.example\"\npath = \"/v~1/admin\"\nusers = [\"eve\"]\n",
    );
    let principal = ana("mcp", &[]);
    for (url, allowed) in [
        ("https://a.example/mcp/v~1", true),
        ("https://a.example/mcp/v~1/%C3%A9", true),
        ("https://a.example/mcp/V~1", false),
        ("https://a.example/mcp/v~2", false),
        ("https://a.example/mcp/v", true),
        ("https://a.example/v~1/x", true),
        ("https://a.example/v~1/%C3%A0dmin", false),
        ("https://b.example/v~1/%C3%A0dmin", true),
    ] {
        let decision = decided(&policy, &principal, url, Operation::Unknown);
        assert_eq!((decision == Decision::Allow, is_forbidden(&decision)), (allowed, !allowed), "{url}");
    }
}

#[test]
fn people_are_let_in_by_settings_and_service_both() {
    let allowed = Who {
        email_domains: vec![crate::domain::email::EmailDomain::parse("example.com").unwrap()],
        ..Who::default()
    };
    let text = "[[service]]\nhost = \"a.example\"\ngroups = [\"staff\"]\nusers = [\"eve\"]\n";
    let policy = parse(text, allowed, None).unwrap().0;
    let passes = |principal: &Principal, url| decided(&policy, principal, url, Operation::Unknown);
    assert_eq!(passes(&ana("mcp", &["staff"]), NOTES), Decision::Allow);
    assert!(is_forbidden(&passes(&ana("mcp", &[]), NOTES)));
    assert_eq!(passes(&ana("mcp", &[]), "https://b.example"), Decision::Allow);
    let mut stranger = ana("mcp", &["staff"]);
    for email in [None, Some("ana@example.org"), Some(""), Some("ana@evil.test@example.com")] {
        stranger.email = email.map(str::to_owned);
        for url in [NOTES, "https://b.example"] {
            assert!(is_forbidden(&passes(&stranger, url)), "{email:?} {url}");
            assert!(!policy.admits(Person::from(&stranger), &resource(url)));
        }
    }
}

#[test]
fn a_service_may_take_some_http_methods_only() {
    let policy = policy("[[service]]\nhost = \"a.example\"\nhttp_methods = [\"POST\"]\n");
    let (resource, principal) = (resource(NOTES), ana("mcp", &[]));
    for (http_method, allowed) in [("POST", true), ("GET", false), ("post", false)] {
        let asked = PolicyTarget { resource: &resource, http_method, operation: Operation::Unknown };
        let decision = decide(Credentials::Token(&principal), &policy, &asked);
        assert_eq!(decision == Decision::Allow, allowed, "{http_method}");
    }
}
